"""What a run was made from: it is resumed with the same data, model and settings only, and extended by a larger --limit."""

from __future__ import annotations

import json
import runpy
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO, command
from scripted_server import ScriptedServer
from test_evaluation_cli import lines

from pipeline.errors import UserError
from pipeline.files import read_json, write_json

TASKS = ("ED_Hospitalization", "emar", "next_event")
MAIN = runpy.run_path(str(REPO / "test.py"))["main"]


def evaluate(root: Path, model: Path | str, output: Path, *more: object) -> int:
    """Run test.py in this process."""
    files = ",".join(str(root / f"task_index/all/{task}.csv") for task in TASKS)
    return MAIN([str(word) for word in (
        "--root_dir", root, "--dataset_name", files, "--model_name_or_path", model, "--output_path", output,
        "--max_new_tokens", 4, "--max_seq_len", 2000, "--batch", 4, "--resamples", 20, *more)])  # fmt: skip


def tasks_of(folder: Path) -> Counter[str]:
    return Counter(line["task_info"]["task"] for line in lines(folder).values())


def sample_ids(folder: Path) -> set[str]:
    return {line["sample_id"] for line in lines(folder).values()}


@pytest.fixture(scope="module")
def place(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `root`, `model`, and `run`, a run of 7 samples."""
    folder = tmp_path_factory.mktemp("provenance")
    shutil.copytree(small_root, folder / "root", ignore=shutil.ignore_patterns("patients*sorted", "mimiciv", "patients"))
    shutil.copytree(tiny_model, folder / "model")
    assert evaluate(folder / "root", folder / "model", folder / "run", "--limit", 7) == 0
    return folder


def test_a_limit_takes_every_task_in_turn_and_a_larger_one_extends_it(place: Path, tmp_path: Path) -> None:
    root, model = place / "root", place / "model"
    result = read_json(place / "run/result.json")
    assert tasks_of(place / "run") == {"ED_Hospitalization": 2, "emar": 3, "next_event": 2}
    total = sum(len((root / f"task_index/all/{task}.csv").read_text().splitlines()) - 1 for task in TASKS)
    assert (result["expected"], result["available"], result["missing"]) == (7, total, 0)
    shutil.copytree(place / "run", tmp_path / "run")
    assert evaluate(root, model, tmp_path / "run", "--limit", 12, "--resume") == 0
    assert sample_ids(place / "run") < sample_ids(tmp_path / "run") and len(lines(tmp_path / "run")) == 12
    first = (place / "run/outputs.jsonl").read_bytes()
    assert (tmp_path / "run/outputs.jsonl").read_bytes().startswith(first), "what was there is not done again"
    for index in (0, 1):
        assert evaluate(root, model, tmp_path / "chunks", "--limit", 12, "--chunk_num", 2, "--chunk_idx", index) == 0
    assert sample_ids(tmp_path / "chunks") == sample_ids(tmp_path / "run")
    assert evaluate(root, model, tmp_path / "run", "--limit", 7, "--resume") == 0
    assert read_json(tmp_path / "run/result.json")["expected"] == 12, "a smaller one takes nothing away"
    assert evaluate(root, model, tmp_path / "run", "--resume") == 0
    assert len(lines(tmp_path / "run")) == total == read_json(tmp_path / "run/result.json")["expected"]


def test_a_finished_run_is_up_to_date_without_a_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inference.backends.BACKENDS", {})
    before = (place / "run/outputs.jsonl").stat()
    (place / "run/result.json").unlink()
    assert evaluate(place / "root", place / "model", place / "run", "--limit", 7, "--resume") == 0
    assert (place / "run/outputs.jsonl").stat() == before and (place / "run/result.json").exists()
    assert "up to date" in capsys.readouterr().out


def append(path: Path, text: str = "\n") -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def change_weights(place: Path) -> None:
    path = place / "model/model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def change_trajectories(place: Path) -> None:
    path = place / "root/patients_ehr/provenance.json"
    write_json(path, read_json(path) | {"digest": "another"})


def drop_rows(place: Path) -> None:
    source, target = place / "root/task_index/all/emar.csv", place / "short.csv"
    target.write_text("".join(source.read_text(encoding="utf-8").splitlines(True)[:9]), encoding="utf-8")


CHANGES: dict[str, tuple[Callable[[Path], object], list[object], str]] = {
    "weights": (change_weights, [], "model"),
    "tokenizer": (lambda place: append(place / "model/tokenizer_config.json"), [], "model"),
    "template": (lambda place: append(place / "model/chat_template.jinja", "{# #}"), [], "model"),
    "trajectories": (change_trajectories, [], "trajectories"),
    "maps": (lambda place: write_json(place / "root/index_mapping/hosp/d_labitems.csv", "x"), [], "index_mapping"),
    "candidates": (lambda place: write_json(place / "root/cache/item_set/emar.csv", "x"), [], "candidates"),
    "other rows": (drop_rows, ["--dataset_name", "short.csv"], "dataset"),
    "instructions": (lambda place: write_json(place / "w.json", {"emar": "What?"}), ["--instructions", "w.json"], "sha256"),
    "seed": (lambda place: None, ["--seed", 1], "seed"),
    "dtype": (lambda place: None, ["--dtype", "bfloat16"], "dtype"),
    "temperature": (lambda place: None, ["--temperature", 0.5], "temperature"),
    "length": (lambda place: None, ["--max_seq_len", 1999], "max_seq_len"),
    "mode": (lambda place: None, ["--think_prompt"], "think_prompt"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_another_input_or_setting_is_refused(
    place: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place, tmp_path / "place")
    place = tmp_path / "place"
    make, more, name = CHANGES[change]
    make(place)
    monkeypatch.chdir(place)
    before = (place / "run/outputs.jsonl").read_bytes()
    with pytest.raises(UserError, match=name) as error:
        evaluate(place / "root", place / "model", place / "run", "--limit", 8, "--resume", *more)
    assert "--overwrite" in str(error.value) and "\n" not in str(error.value)
    assert (place / "run/outputs.jsonl").read_bytes() == before


def test_what_only_decides_how_fast_is_no_difference(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.copytree(place / "model", tmp_path / "moved")
    more = ("--limit", 7, "--resume", "--batch", 1, "--gpu_memory_utilization", 0.5, "--device", "cpu")
    assert evaluate(place / "root", tmp_path / "moved", tmp_path / "run", *more) == 0


def test_overwrite_starts_afresh_and_nothing_else_does(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    own = ("notes.txt", "outputs_before.jsonl", "report.tex", "baselines/notes.txt", "baselines/mine/outputs.jsonl")
    made = ("outputs-0-of-2.jsonl", "report.html", "baselines/majority/outputs.jsonl", "baselines/majority/provenance.json")
    for name in (*own, *made):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    assert evaluate(place / "root", place / "model", run, "--limit", 4, "--overwrite", "--think_prompt") == 0
    assert all((run / name).exists() for name in own) and not (run / "baselines/majority").exists()
    (run / "outputs_before.jsonl").unlink()
    assert len(lines(run)) == 4 and read_json(run / "result.json")["expected"] == 4
    assert not any((run / name).exists() for name in made)
    (run / "provenance.json").unlink()
    with pytest.raises(UserError, match="older version.*--overwrite"):
        evaluate(place / "root", place / "model", run, "--limit", 4, "--resume", "--think_prompt")
    with pytest.raises(UserError, match="got --chunk_num"):
        evaluate(place / "root", place / "model", run, "--overwrite", "--chunk_num", 2)
    with pytest.raises(UserError, match="output of test.py, got an input. Choose another"):
        evaluate(place / "root", place / "model", place / "root/patients_ehr", "--overwrite")


def test_lines_of_others_are_an_error_in_scoring(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outputs = run / "outputs.jsonl"
    shutil.copytree(place / "run", run)
    text = outputs.read_text(encoding="utf-8")
    line = json.loads(text.splitlines()[0])
    scorer = ("evaluation/score.py", run, "--resamples", 10)
    append(outputs, json.dumps(line | {"key": "other"}) + "\n")
    assert f"{run}: expected outputs of one setting" in command(*scorer, check=False).stderr
    foreign = line | {"key": "other", "sample_id": "emar/9/1-2"}
    outputs.write_text("".join(text.splitlines(True)[1:]) + json.dumps(foreign) + "\n", encoding="utf-8")
    assert f"{run}: expected outputs of the run's samples only" in command(*scorer, check=False).stderr
    with pytest.raises(UserError, match="run's samples only"):
        evaluate(place / "root", place / "model", run, "--limit", 7, "--resume")
    outputs.write_text(text, encoding="utf-8")
    (run / "result.json").unlink()
    done = command(*scorer, check=False)
    assert done.returncode == 1 and "missing samples" in done.stdout, "the record says how many there are"


def test_a_server_is_what_it_says_of_its_model(place: Path, tmp_path: Path) -> None:
    def through(server: ScriptedServer, *more: object) -> int:
        return evaluate(place / "root", "m", tmp_path / "run", "--resume", "--url", server.url, "--tokenizer", place / "model",
                        *more)  # fmt: skip

    with ScriptedServer(lambda body, number: {"text": "yes", "top": {"yes": -0.5}}) as server:
        server.models = [{"id": "m", "object": "model", "created": 1, "owned_by": "x", "root": "/models/a"}]
        assert through(server, "--limit", 3) == 0 and len(server.asked) == 3
    with ScriptedServer(lambda body, number: {"text": "yes", "top": {"yes": -0.5}}) as other:
        other.models = [{"id": "m", "object": "model", "created": 2, "owned_by": "x", "root": "/models/b"}]
        with pytest.raises(UserError, match="the same server"):
            through(other, "--limit", 4)
        other.models[0] |= {"root": "/models/a"}
        assert through(other, "--limit", 4) == 0 and len(other.asked) == 1
    assert through(other, "--limit", 4) == 0, "a finished run needs no server"


def test_a_cache_of_digests_in_a_model_folder_does_not_count(tmp_path: Path) -> None:
    from evaluation.sources import model_source

    (tmp_path / "config.json").write_text("{}")
    before = model_source("model", str(tmp_path), tmp_path / "out").digest
    (tmp_path / ".digests.json").write_text("{}")
    assert model_source("model", str(tmp_path), tmp_path / "out").digest == before
    (tmp_path / "config.json").write_text("{ }")
    assert model_source("model", str(tmp_path), tmp_path / "out").digest != before
