"""Instructions: the defaults, replaced by a file, and extracted from a released JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import command

from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import TASKS, load_instructions
from pipeline.errors import UserError
from pipeline.files import read_json


def test_every_task_has_a_sentence_of_its_own() -> None:
    default = load_instructions()
    assert set(default) == set(TASKS) and len(set(default.values())) == len(default)


def test_a_released_file_gives_its_wording_back(small_root: Path, tmp_path: Path) -> None:
    row = {"input": "## Patient Demographics [None]\n- Gender: F", "output": "x", "instruction": "Their wording?",
           "task_info": {"task": "emar", "label": ["x"]}}  # fmt: skip
    released = tmp_path / "released.jsonl"
    released.write_text("".join(json.dumps({**row, "idx": i}) + "\n" for i in range(3)))
    done = command("scripts/extract_instructions.py", released, "--output_path", tmp_path / "their.json")
    assert "3 rows, 1 tasks" in done.stdout and read_json(tmp_path / "their.json") == {"emar": "Their wording?"}
    index = small_root / "task_index/all/emar.csv"
    sample = MIMICIV(small_root, index, lazzy_mode=True, instructions=tmp_path / "their.json")[0]
    assert sample["instruction"] == "Their wording?"
    released.write_text('{"idx": 1}\n')
    bad = command("scripts/extract_instructions.py", released, "--output_path", tmp_path / "x.json", check=False)
    assert bad.returncode == 2 and "line 1" in bad.stderr and "task_info.task" in bad.stderr


def test_a_malformed_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match=r"list\.json: expected a JSON object"):
        load_instructions(tmp_path / "list.json")
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(UserError, match=r"no\.json: expected JSON"):
        load_instructions(tmp_path / "no.json")
