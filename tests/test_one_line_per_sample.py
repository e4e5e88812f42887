"""One sample, one line, one score: whatever is split, resumed, extended, copied together or asked for twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from forked import command
from rendered_rows import SECRET, rendered_row, rendered_rows, write_rows
from scripted_server import ScriptedServer
from test_row_checks import evaluate

from evaluation.score import main as score
from pipeline.errors import UserError
from pipeline.files import read_json

Line = dict[str, Any]
ROWS = rendered_rows(6)


def lines_of(folder: Path) -> list[Line]:
    return [json.loads(line) for path in sorted(folder.glob("outputs*.jsonl")) for line in path.open(encoding="utf-8")]


def is_whole(folder: Path, number: int = 12) -> None:
    """That a directory has one line for each sample, and a result of all of them."""
    lines, result = lines_of(folder), read_json(folder / "result.json")
    assert len({line["sample_id"] for line in lines}) == len(lines) == number
    assert sum(task["n"] for task in result["tasks"].values()) == number
    assert (result["available"], result["expected"], result["missing"]) == (12, number, 0)
    assert result["usage"]["seconds"]["n"] == number
    assert result["usage"]["seconds"]["total"] == pytest.approx(sum(line["seconds"] for line in lines))


@pytest.fixture
def server():
    with ScriptedServer(lambda body, number: {"text": "Aspirin", "top": {"yes": -0.1, "no": -2.0}}) as scripted:
        yield scripted


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def test_limits_and_other_numbers_of_chunks_share_a_directory(data, server, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    for flags in (
        ("--limit", 3),
        ("--limit", 2, "--resume"),
        ("--limit", 7, "--resume"),
        ("--resume", "--chunk_num", 3, "--chunk_idx", 1),
        ("--resume", "--chunk_num", 2, "--chunk_idx", 0),
        ("--resume", "--chunk_num", 2, "--chunk_idx", 1),
        ("--resume", "--chunk_num", 3, "--chunk_idx", 0),
        ("--resume",),
    ):
        assert evaluate(data, out, server, tiny_model, *flags) == 0
        number = min(12, len(lines_of(out)))
        if "--chunk_num" not in flags:
            is_whole(out, number)
    is_whole(out)
    assert len(server.asked) == 12, "nothing was asked twice"
    result = read_json(out / "result.json")
    kept = ("arguments", "instructions_sha256", "available", "expected", "missing", "usage")
    assert not [name for name in kept if name not in result]
    assert score([str(out), "--resamples", "20"]) == 0
    again = read_json(out / "result.json")
    assert {name: again[name] for name in kept} == {name: result[name] for name in kept}


@pytest.mark.parametrize(
    "flags",
    [("--think_prompt",), ("--prompt",), ("--max_seq_len", 1900), ("--max_new_tokens", 7), ("--temperature", 0.5),
     ("--seed", 1), ("--model_name_or_path", "other"), ("--num_samples", 2, "--temperature", 0.5), ("--empty_think", "")],
)  # fmt: skip
def test_another_setting_in_the_same_directory_is_refused(flags, data, server, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    assert evaluate(data, out, server, tiny_model, "--limit", 4) == 0
    before, asked = (out / "outputs.jsonl").read_bytes(), len(server.asked)
    for more in ((), ("--limit", 4), ("--chunk_num", 2, "--chunk_idx", 1)):
        with pytest.raises(UserError, match="expected the same .* as when it was "):
            evaluate(data, out, server, tiny_model, "--resume", *flags, *more)
    assert (out / "outputs.jsonl").read_bytes() == before and len(server.asked) == asked


def test_another_dataset_in_the_same_directory_is_refused(data, server, tiny_model, tmp_path) -> None:
    assert evaluate(data, tmp_path / "out", server, tiny_model) == 0
    other = write_rows(tmp_path / "other/rows.jsonl", ROWS[:-1])
    with pytest.raises(UserError, match="expected the same dataset"):
        evaluate(other, tmp_path / "out", server, tiny_model, "--resume")


def test_outputs_of_two_runs_in_one_directory_are_refused(data, server, tiny_model, tmp_path) -> None:
    """Whether the samples of the runs overlap or not, and whether they are in one file or in two."""
    first, second = ("--limit", 6), ("--prompt",)
    assert evaluate(data, tmp_path / "a", server, tiny_model, *first) == 0
    assert evaluate(data, tmp_path / "b", server, tiny_model, *second) == 0
    has = {line["sample_id"] for line in lines_of(tmp_path / "a")}
    for overlapping in (True, False):
        for name in ("outputs.jsonl", "outputs-1-of-2.jsonl"):
            both = tmp_path / f"{overlapping} {name}"
            shutil.copytree(tmp_path / "a", both)
            added = [line for line in lines_of(tmp_path / "b") if overlapping or line["sample_id"] not in has]
            with (both / name).open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in added)
            for run in (
                lambda both=both: score([str(both)]),
                lambda both=both: evaluate(data, both, server, tiny_model, "--resume"),
            ):
                with pytest.raises(UserError, match="expected outputs of one setting"):
                    run()


def test_a_foreign_line_is_noticed_without_the_result(data, server, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    assert evaluate(data, out, server, tiny_model) == 0
    before = read_json(out / "result.json")
    (out / "result.json").unlink()
    assert score([str(out), "--resamples", "20"]) == 0
    assert read_json(out / "result.json")["samples_digest"] == before["samples_digest"]
    (out / "result.json").unlink()
    *lines, last = lines_of(out)
    write_rows(out / "outputs.jsonl", [*lines, last | {"key": "other", "sample_id": "emar/99/1-2"}])
    with pytest.raises(UserError, match="expected outputs of the run's samples only"):
        score([str(out)])
    assert not (out / "result.json").exists()


def test_samples_without_patient_are_not_one_patient(server, tiny_model, tmp_path) -> None:
    rows = rendered_rows(2)
    for row, missing in zip(rows, ("", "NaN", float("nan"), None), strict=True):
        row["task_info"]["subject_id"] = missing
    assert evaluate(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out", server, tiny_model) == 0
    tasks = read_json(tmp_path / "out/result.json")["tasks"]
    assert {(task["n"], task["patients"], task["clustered"]) for task in tasks.values()} == {(2, 2, False)}


def test_the_same_lines_twice_are_one_run(data, server, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    assert evaluate(data, out, server, tiny_model) == 0
    before = read_json(out / "result.json")
    (out / "outputs.jsonl").write_bytes((out / "outputs.jsonl").read_bytes() * 2)
    assert score([str(out), "--resamples", "20"]) == 0
    after = read_json(out / "result.json")
    assert {name: after[name] for name in ("tasks", "usage")} == {name: before[name] for name in ("tasks", "usage")}


def test_two_rows_of_one_sample(data, server, tiny_model, tmp_path) -> None:
    """Equal rows are one sample; rows with another answer or text are an error, unless nothing but their number differs."""
    assert evaluate(write_rows(tmp_path / "twice.jsonl", ROWS * 2), tmp_path / "out", server, tiny_model) == 0
    is_whole(tmp_path / "out")
    other = {**ROWS[0], "task_info": {**ROWS[0]["task_info"], "label": ["Zinc"]}}
    nameless = rendered_row(0, label=["Zinc"])
    offering = {**ROWS[0], "candidates": ["Aspirin", "Heparin"]}
    for rows in ([*ROWS, other], [*ROWS, offering], [*ROWS, {**ROWS[0], "candidates": None}], [rendered_row(0), nameless]):
        with pytest.raises(UserError, match=r"line \d+: expected a sample of its own, got the patient and window of") as error:
            evaluate(write_rows(tmp_path / "bad.jsonl", rows), tmp_path / "bad", server, tiny_model)
        assert SECRET not in str(error.value)
    numbered = [rendered_row(0), {**nameless, "idx": 1}]
    assert evaluate(write_rows(tmp_path / "numbered.jsonl", numbered), tmp_path / "numbered", server, tiny_model) == 0
    assert len({line["sample_id"] for line in lines_of(tmp_path / "numbered")}) == 2


def test_data_parallel_with_a_limit_loses_nothing(data, tiny_model, tmp_path) -> None:
    flags = ["--dataset_name", data, "--model_name_or_path", tiny_model, "--max_new_tokens", 4, "--max_seq_len", 600,
             "--limit", 5, "--price_in", 2, "--price_out", 8]  # fmt: skip
    command("test.py", *flags, "--output_path", tmp_path / "one")
    command("test.py", *flags, "--output_path", tmp_path / "two", "--data_parallel_size", 2)
    one, two = (read_json(tmp_path / name / "result.json") for name in ("one", "two"))
    for name in ("one", "two"):
        is_whole(tmp_path / name, 5)
    assert len(list((tmp_path / "two").glob("outputs-*-of-2.jsonl"))) == 2
    assert set(one) == set(two) and set(one["arguments"]) == set(two["arguments"])
    assert {name for name in one["arguments"] if one["arguments"][name] != two["arguments"][name]} == {
        "output_path",
        "data_parallel_size",
    }
    kept = ("tasks", "macro", "available", "expected", "missing", "instructions_sha256", "trajectories", "samples_digest")
    assert {name: one[name] for name in kept} == {name: two[name] for name in kept}
    for name in ("prompt_tokens", "completion_tokens", "cost"):
        assert one["usage"][name] == two["usage"][name], name
