"""scripts/infer.py and the README's snippets: the prompt of evaluation, the same answer, and clear errors for wrong input."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from forked import command
from test_evaluation_cli import flags, lines

from inference.prompts import PLAIN, PromptBuilder
from mimiciv_dataset.mimiciv import MIMICIV
from pipeline.errors import UserError
from pipeline.files import sha256
from scripts import infer


@pytest.fixture(scope="module")
def evaluated(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """An output line of test.py for one sample of each kind, with the sample's input."""
    output = tmp_path_factory.mktemp("infer") / "out"
    index = small_root / "task_index/all"
    files = f"{index / 'emar.csv'},{index / 'LengthOfStay_3day.csv'}"
    command("test.py", *flags(small_root, tiny_model, output, "--dataset_name", files))
    found: dict[str, dict] = {}
    for line in lines(output).values():
        info = line["task_info"]
        if info["task"] in found or line["truncated"]:
            continue
        row = {name: info[name] for name in ("subject_id", "period_begin", "period_end", "admissions_id", "last_discharge_id")}
        row |= {"task": info["task"], "event": info["event"], "target": json.dumps(info["target"])}
        sample = MIMICIV(small_root, sample_info=[row], lazzy_mode=True, shuffle=False)[0]
        found[info["task"]] = {**line, "input": sample["input"], "instruction": sample["instruction"]}
    return found


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = infer.main(list(map(str, words)))
    return code, capsys.readouterr().out


def model_flags(model: Path) -> list[object]:
    return ["--model_name_or_path", model, "--max_new_tokens", 8, "--max_seq_len", 2000]


@pytest.mark.parametrize("task", ["emar", "LengthOfStay_3day"])
def test_the_same_prompt_and_answer_as_in_evaluation(
    task: str, evaluated: dict[str, dict], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = evaluated[task]
    (tmp_path / "record.md").write_text(line["input"] + "\n", encoding="utf-8")
    code, printed = ask(capsys, tmp_path / "record.md", "--task", task, "--json", *model_flags(tiny_model))
    answer, output = json.loads(printed), line["outputs"][0]
    assert code == 0 and answer["prompt_sha256"] == line["prompt_sha256"] and answer["mode"] == PLAIN
    assert answer["items"] == output["items"] and answer["finish_reason"] == output["finish_reason"]
    assert answer["p_yes"] == pytest.approx(output["p_yes"], abs=1e-5)


def test_from_standard_input_by_the_command(evaluated: dict[str, dict], tiny_model: Path) -> None:
    script = [sys.executable, REPO / "scripts/infer.py", "-", "--task", "LengthOfStay_3day", *model_flags(tiny_model)]
    done = subprocess.run(list(map(str, script)), input=evaluated["LengthOfStay_3day"]["input"] + "\n", capture_output=True,
                          text=True, cwd="/")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(yes|no)\n\np\(yes\) = 0\.\d{4}\n", done.stdout)


def test_reasoning_that_never_ends_is_no_answer(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("## Patient Demographics [None]\n- Gender: F\n"))
    code, printed = ask(capsys, "-", "--instruction", "Why?", "--think_prompt", "--json", *model_flags(tiny_model))
    found = json.loads(printed)
    assert found["mode"] == "think" and found["p_yes"] is None
    assert code == int(found["answer"] is None)


def test_a_long_record_loses_its_oldest_events(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [f"## Pyxis [2100-01-02 00:{i // 60:02d}:{i % 60:02d}]\n- Name: drug {i}" for i in range(300)]
    record = "\n\n".join(["## Patient Demographics [None]\n- Gender: F", "", "", *events])
    (tmp_path / "record.md").write_text(record, encoding="utf-8")
    assert infer.main(list(map(str, [tmp_path / "record.md", "--task", "pyxis", "--json", *model_flags(tiny_model)]))) == 0
    printed = capsys.readouterr()
    assert 0 < json.loads(printed.out)["truncated"]["events"] < 300 and "oldest events" in printed.err


def test_wrong_input_is_reported(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("\n")
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    for words, message in (
        ([tmp_path / "none.md", "--task", "emar"], "got no such file"),
        ([tmp_path / "empty.md", "--task", "emar"], "got an empty file"),
        ([tmp_path / "bytes.md", "--task", "emar"], "expected text in UTF-8"),
        ([tmp_path / "empty.md"], "expected a question"),
    ):
        with pytest.raises(UserError, match=message):
            infer.main(list(map(str, [*words, *model_flags(tiny_model)])))


@pytest.mark.parametrize("switch", [True, False])
def test_the_readme_snippet_builds_the_same_prompt(
    switch: bool, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a model whose chat template knows no enable_thinking."""
    from transformers import AutoTokenizer

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if not switch:
        template = model / "chat_template.jinja"
        text = template.read_text(encoding="utf-8")
        template.write_text(re.sub(r"\{%- if enable_thinking.*?\{%- endif %\}\n", "", text, flags=re.DOTALL), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record.md").write_text("## Patient Demographics [None]\n- Gender: F", encoding="utf-8")
    (snippet,) = (
        block for block in re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        if "apply_chat_template" in block
    )  # fmt: skip
    names: dict = {}
    exec(snippet.replace('"MODEL"', f'"{model}"').replace("max_new_tokens=2048", "max_new_tokens=4"), names)
    builder = PromptBuilder(AutoTokenizer.from_pretrained(model))
    assert (builder.family.switch is not None) == switch
    expected = builder.prompt(names["record"], names["instruction"], PLAIN)
    assert sha256(names["prompt"]) == sha256(expected)
    assert capsys.readouterr().out == names["answer"] + "\n"
