"""test.py as its user runs it: end to end on a tiny model, in chunks, and with wrong input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from forked import command

from pipeline.files import read_json


def flags(root: Path, model: Path, output: Path, *more: object) -> list[object]:
    index = root / "task_index/all"
    files = ",".join(str(index / f"{name}.csv") for name in ("emar", "next_event", "LengthOfStay_3day", "ED_Hospitalization"))
    return ["--root_dir", root, "--dataset_name", files, "--model_name_or_path", model, "--output_path", output,
            "--max_new_tokens", 8, "--max_seq_len", 2000, "--batch", 4, "--limit", 70, *more]  # fmt: skip


def lines(folder: Path) -> dict[str, dict]:
    found = [json.loads(line) for path in sorted(folder.glob("outputs*.jsonl")) for line in path.open(encoding="utf-8")]
    assert len({line["key"] for line in found}) == len(found), "no row twice"
    return {line["key"]: line for line in found}


def same(one: dict[str, dict], other: dict[str, dict]) -> None:
    assert set(one) == set(other)
    for key, line in one.items():
        a, b = line["outputs"][0], other[key]["outputs"][0]
        assert a["response"] == b["response"]
        assert a["p_yes"] == pytest.approx(b["p_yes"], abs=1e-5)


@pytest.fixture(scope="module")
def whole(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    done = command("test.py", *flags(small_root, tiny_model, output))
    assert "70 samples answered" in done.stdout and "macro" in done.stdout
    return output


def test_outputs_hold_what_is_promised(whole: Path, small_root: Path) -> None:
    found = list(lines(whole).values())
    assert len(found) == 70
    for line in found:
        assert {"key", "sample_id", "task_info", "candidates", "mode", "prompt_sha256", "template_sha256"} <= set(line)
        assert {"input_sha256", "prompt_chars", "thinking_open", "truncated", "outputs", "score"} <= set(line)
        assert {"prompt_tokens", "seconds"} <= set(line)
        of_reply = {"response", "reasoning", "items", "p_yes", "finish_reason", "yes_no_mass", "completion_tokens"}
        assert of_reply == set(line["outputs"][0])
        risk = line["task_info"]["task_type"] == "risk"
        assert (line["outputs"][0]["p_yes"] is not None) == risk
    result = read_json(whole / "result.json")
    assert [result["tasks"][task]["n"] for task in result["tasks"]] == [18, 18, 17, 17], "each task in turn"
    assert set(result["macro"]) == {"paper", "released"}
    provenance = read_json(small_root / "patients_ehr/provenance.json")
    assert provenance["digest"] in json.dumps(result)
    with (whole / "attributes.csv").open(encoding="utf-8", newline="") as file:
        assert {row["sample_id"] for row in csv.DictReader(file)} == {line["sample_id"] for line in found}
    assert {"decision_curve", "operating_points", "subgroups"} <= result["clinical"]["LengthOfStay_3day"].keys()


def test_scoring_again_gives_the_same(whole: Path) -> None:
    before = read_json(whole / "result.json")["tasks"]
    command("evaluation/score.py", whole)
    assert read_json(whole / "result.json")["tasks"] == before


def test_chunks_together_are_one_run(whole: Path, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for idx in range(3):
        done = command("test.py", *flags(small_root, tiny_model, output, "--chunk_num", 3, "--chunk_idx", idx))
    assert "macro" in done.stdout, "the last chunk scores"
    same(lines(output), lines(whole))


@pytest.mark.parametrize("mode", [["--think_prompt"], ["--think_prompt", "--direct_answer"], ["--prompt"],
                                  ["--think_prompt", "--think_risk"]])  # fmt: skip
def test_modes(mode: list[str], small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    command("test.py", *flags(small_root, tiny_model, tmp_path / "out", *mode, "--limit", 21))
    found = {(line["task_info"]["task_type"], line["mode"]) for line in lines(tmp_path / "out").values()}
    expected = {"--prompt": "plain", "--direct_answer": "no_think"}.get(mode[-1], "think")
    assert ("decision", expected) in found


def test_long_records_are_recorded_as_truncated(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    command("test.py", *flags(small_root, tiny_model, tmp_path / "out", "--limit", 5, "--max_seq_len", 200))
    truncated = [line["truncated"] for line in lines(tmp_path / "out").values()]
    assert any(t and t["events"] > 0 for t in truncated)
    command("test.py", *flags(small_root, tiny_model, tmp_path / "short", "--limit", 5, "--max_seq_len", 40))
    for line in lines(tmp_path / "short").values():
        assert line["error"] == "does not fit" and line["score"] == 0


def test_wrong_use_is_reported_at_once(whole: Path, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    used = command("test.py", *flags(small_root, tiny_model, whole), check=False)
    assert used.returncode == 2 and "Add --resume" in used.stderr
    missing = command("test.py", *flags(small_root, tmp_path / "no_model", tmp_path / "a"), check=False)
    assert missing.returncode == 2 and "expected a model folder or Hub id" in missing.stderr
    nothing = command("test.py", "--dataset_name", tmp_path / "no.csv", "--output_path", tmp_path / "b",
                      "--model_name_or_path", tiny_model, check=False)  # fmt: skip
    assert nothing.returncode == 2 and "no.csv: expected an index CSV or JSONL" in nothing.stderr
    bad = tmp_path / "bad.csv"
    bad.write_text("subject_id,task\n1,emar\n")
    done = command("test.py", "--root_dir", small_root, "--dataset_name", bad, "--output_path", tmp_path / "c",
                   "--model_name_or_path", tiny_model, check=False)  # fmt: skip
    assert done.returncode == 2 and "bad.csv: expected columns" in done.stderr


def test_other_settings_do_not_mix_in_one_folder(whole: Path, small_root: Path, tiny_model: Path) -> None:
    before = (whole / "outputs.jsonl").read_bytes()
    done = command("test.py", *flags(small_root, tiny_model, whole, "--resume", "--think_prompt"), check=False)
    assert done.returncode == 2 and "the same think_prompt" in done.stderr
    assert (whole / "outputs.jsonl").read_bytes() == before


def test_a_row_that_stands_twice_is_one_sample(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    index = small_root / "task_index/all/emar.csv"
    given = flags(small_root, tiny_model, tmp_path / "out")
    given[given.index("--dataset_name") + 1] = f"{index},{index}"
    done = command("test.py", *given)
    assert len(lines(tmp_path / "out")) == read_json(tmp_path / "out/result.json")["tasks"]["emar"]["n"]
    assert "missing" not in done.stdout


def test_no_patient_text_is_printed(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = command("test.py", *flags(small_root, tiny_model, tmp_path / "out", "--limit", 6))
    with (small_root / "task_index/all/emar.csv").open(newline="", encoding="utf-8") as file:
        answer = json.loads(next(csv.DictReader(file))["target"])[0]
    for text in (answer, "Patient Demographics", "Line one"):
        assert text not in done.stdout + done.stderr


def test_numbers_out_of_range_are_refused(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("subject_id,task,event,context_begin,context_end,target\n", encoding="utf-8")
    for more, message in (
        (("--batch", 0), "--batch: expected"),
        (("--limit", -1), "--limit: expected"),
        (("--chunk_num", 0), "--chunk_num: expected"),
        (("--resamples", 0), "--resamples: expected"),
        (("--tensor_parallel_size", 0), "--tensor_parallel_size: expected"),
        (("--max_new_tokens", 2000), "--max_new_tokens 2000: expected fewer tokens"),
        (("--dataset_name", empty), "expected samples, got none"),
    ):
        done = command("test.py", *flags(small_root, tiny_model, tmp_path / "out", *more), check=False)
        assert done.returncode == 2 and message in done.stderr and "Loading weights" not in done.stderr
