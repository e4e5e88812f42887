"""The real demo patients against the golden files, with the comparison tools that hold every build to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.tasks import TASKS
from pipeline.files import read_json


@pytest.mark.parametrize(
    ("tool", "folder", "golden"),
    [
        ("compare_events.py", "patients_ehr_files", "events.csv.gz"),
        ("compare_task_index.py", "task_index/all", "task_index.csv.gz"),
        ("compare_rendered.py", ".", "rendered.jsonl.gz"),
    ],
)
def test_equal_to_golden(demo: Path, test_data: Path, tool: str, folder: str, golden: str) -> None:
    tool_path, golden_path = test_data / "tools" / tool, test_data / "golden" / golden
    done = subprocess.run([sys.executable, tool_path, demo / folder, golden_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_task_has_rows(demo: Path) -> None:
    report = read_json(demo / "task_index/all/provenance.json")["tasks"]
    assert set(report) == set(TASKS)
    assert all(entry["rows"] > 0 for entry in report.values())
    assert all(set(entry["flags"]) == set(FLAGS) for entry in report.values())


def test_the_index_belongs_to_both_layouts(demo: Path, run_command) -> None:
    for folder in ("patients_ehr", "patients_ehr_files"):
        tasks = [demo / "task_index/all" / f"{name}.csv" for name in TASKS if name not in ("next_event", "chartevents")]
        done = run_command("mimiciv_dataset/validate_index.py", *tasks, "--root_dir", demo, "--ehr_dir", demo / folder)
        assert ", 0 do not" in done.stdout
