"""Keys of rows in one pass: the same as those of each row, the same errors, and no row of a run is read again for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import command
from rendered_rows import rendered_row, rendered_rows, write_rows

from inference.generation import read_samples
from inference.settings import PromptSettings
from mimiciv_dataset.index_rows import Rows, read_rows
from mimiciv_dataset.json_lines import parse_line
from mimiciv_dataset.row_keys import row_keys
from pipeline.errors import UserError


def test_keys_of_a_csv_and_a_jsonl_are_those_of_their_rows(small_root: Path, tmp_path: Path) -> None:
    """The benchmark compares them with those that each row gives."""
    index = small_root / "task_index/all"
    windows = [json.loads(json.dumps(row)) for row in read_rows(index / "emar.csv")[:5]]
    files = [index / "emar.csv", index / "LengthOfStay_3day.csv", write_rows(tmp_path / "rows.jsonl", rendered_rows(4))]
    files.append(write_rows(tmp_path / "windows.jsonl", windows))
    files.append(write_rows(tmp_path / "unknown.jsonl", [rendered_row(1), rendered_row(2)]))
    done = command("benchmarks/index_reading.py", *files, "--repeats", 1)
    assert all(path.name in done.stdout for path in files)
    keys = list(row_keys(read_rows(files[-1])))
    assert [(key.subject_id, key.is_complete, key.idx) for key in keys] == [(None, False, 1), (None, False, 2)]
    assert keys[0].length == len(rendered_row(1)["input"])


def test_a_bad_row_is_named_as_by_the_checks(tmp_path: Path) -> None:
    bad = [*rendered_rows(2), rendered_row(9, label="")]
    with pytest.raises(UserError, match=r"bad\.jsonl, line 5: output"):
        list(row_keys(read_rows(write_rows(tmp_path / "bad.jsonl", bad))))
    index = tmp_path / "bad.csv"
    index.write_text('subject_id,hadm_id,task,event,period_begin,period_end,target\n1,,emar,emar,1,3,"""Aspirin"""\n')
    with pytest.raises(UserError, match=r"bad\.csv, row 2: target: expected a list of names"):
        read_samples(tmp_path, str(index), PromptSettings())


def test_samples_know_patient_and_length_without_their_rows(small_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = f"{small_root / 'task_index/all/emar.csv'},{small_root / 'task_index/all/LengthOfStay_3day.csv'}"
    rows = read_samples(small_root, names, PromptSettings())
    assert all(sample.subject_id == sample.row["subject_id"] for sample in rows)
    monkeypatch.setattr(Rows, "__getitem__", lambda *_: pytest.fail("a row was read"))
    again = read_samples(small_root, names, PromptSettings())
    assert [sample[2:] for sample in again] == [sample[2:] for sample in rows]


def test_numbers_that_a_fast_parser_would_round_and_nan() -> None:
    number = 123456789012345678901234567890
    assert parse_line(f'{{"idx": {number}, "task_info": {{"hadm_id": -{number}}}}}') == {
        "idx": number,
        "task_info": {"hadm_id": -number},
    }
    assert parse_line(f'{{"task_info": {{"ids": [[{number}]]}}}}') == {"task_info": {"ids": [[number]]}}
    assert parse_line('{"task": ' + "[" * 1000 + "]" * 1000 + "}")["task"], "as deep as the parser reads"
    assert str(parse_line('{"hadm_id": NaN}')) == "{'hadm_id': nan}"
