"""docs/new_site.md: its diffs apply to a copy of the repository, whose commands then know the new event, task and site."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from doc_blocks import Block, apply_diff, blocks, commands, copy_repository
from tiny_meds import ROWS, write_meds
from tiny_mimic import TWO_PATIENTS, write_mimic, write_mimic_with_ecg

from mimiciv_dataset.events import COLUMN_KINDS, EVENTS
from mimiciv_dataset.trajectory import Trajectories

PAGE = "docs/new_site.md"
DIFFS = [block for block in blocks(PAGE) if block.language == "diff"]


def run(line: str, cwd: Path) -> str:
    """Run a line of bash in a copy, with its own packages; its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    line_of_bash = ["bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(line_of_bash, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}"
    return done.stdout


def commands_after(diff: Block, **words: Path) -> list[str]:
    """The commands of the block that follows a diff, with these paths for its placeholders."""
    page = blocks(PAGE)
    lines = [command.text for command in commands(page[page.index(diff) + 1])]
    for word, path in words.items():
        lines = [line.replace(word, str(path)) for line in lines]
    return lines


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all diffs of the page, and the data of the new event in datas_ecg/."""
    folder = tmp_path_factory.mktemp("new_site")
    copy_repository(folder / "EHR-R1")
    for diff in DIFFS:
        apply_diff(diff, folder / "EHR-R1")
    for line in commands_after(DIFFS[0], MIMIC_WITH_ECG=write_mimic_with_ecg(folder / "mimic")):
        run(line, folder / "EHR-R1")
    return folder / "EHR-R1"


@pytest.mark.parametrize("diff", DIFFS, ids=["event", "task", "site"])
def test_each_diff_applies_alone(diff: Block) -> None:
    done = subprocess.run(["git", "apply", "--check", "-"], input=diff.text + "\n", cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_new_event_is_in_trajectories_and_text(patched: Path) -> None:
    events = [
        e for e in Trajectories(patched / "datas_ecg/patients_ehr").trajectory("2") if e.file_name == "machine_measurements"
    ]
    (record,) = events[0].records().dicts()
    assert (record["ecg_time"], record["report_1"], record["rr_interval"]) == ("2150-01-01 11:30:00", "Normal ECG", "845.0")
    load = "from mimiciv_dataset.mimiciv import MIMICIV"
    index = "datas_ecg/task_index/all/LengthOfStay_3day.csv"
    show = f"print(*(row['input'] for row in MIMICIV('datas_ecg', '{index}', lazzy_mode=True, shuffle=False)))"
    text = run(f'python -c "{load}; {show}"', patched)
    assert (
        "## ECG Machine Reports [2150-01-01 11:30:00]\n- Report_0: Sinus rhythm\n- Report_1: Normal ECG\n- Rr_Interval: 845.0"
        in text
    )


def test_a_new_event_is_asked_for_by_next_event(patched: Path) -> None:
    with (patched / "datas_ecg/task_index/all/next_event.csv").open(encoding="utf-8") as file:
        assert "machine_measurements" in {json.loads(row["target"]) for row in csv.DictReader(file)}


def test_an_optional_table_may_be_missing(patched: Path, tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "mimic", TWO_PATIENTS)
    assert not (mimic / "hosp/machine_measurements.csv").exists()
    printed = run(f"python preprocess/merge_patient.py --mimic_dir {mimic} --root_dir {tmp_path / 'root'}", patched)
    assert "labevents" in printed and "machine_measurements" not in printed


def test_the_time_of_every_event_is_checked() -> None:
    assert {COLUMN_KINDS[event.time] for event in EVENTS.values() if event.time} == {"time"}


def test_a_new_task_has_rows_with_its_labels(patched: Path) -> None:
    printed = [run(line, patched) for line in commands_after(DIFFS[1]) if "make_docs" not in line]  # see the last test
    assert "| ICU_Return_48hour | risk | icustays | 24 h into the stay |" in printed[0]
    trajectories, labels = Trajectories(patched / "datas_ecg/patients_ehr"), {}
    with (patched / "datas_ecg/icu_return.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            (stay,) = trajectories.events(row["subject_id"], [int(row["period_begin"])])
            labels[stay.records().first("stay_id")] = json.loads(row["target"])
    # 47 h, none, 48 h, 1 h; the end of the last stay is unknown
    assert labels == {"1": "yes", "2": "no", "3": "no", "4": "yes"}


def test_a_new_site_is_imported(patched: Path, tmp_path: Path) -> None:
    printed = [run(line, patched) for line in commands_after(DIFFS[2], GENERAL_MEDS=write_meds(tmp_path / "meds", [ROWS]))]
    trajectories = Trajectories(patched / "datas_general/patients_ehr")
    assert [event.file_name for event in trajectories.trajectory("7")] == ["patients", "admissions", "labevents", "icustays"]
    assert "transfers between wards look like readmissions" in printed[0]
    assert "stale" not in printed[2]


@pytest.mark.slow
def test_the_tests_that_the_page_names_pass_after_the_changes(patched: Path) -> None:
    run("python scripts/make_docs.py", patched)
    assert "ICU_Return_48hour" in (patched / "docs/tasks.md").read_text(encoding="utf-8")
    text = (REPO / PAGE).read_text(encoding="utf-8")
    names = [word for word in text.partition("scripts/run_tests.sh")[2].partition("`")[0].split() if word.startswith("tests/")]
    assert len(names) > 2
    doctests = "--doctest-modules mimiciv_dataset/labels.py mimiciv_dataset/tasks.py"
    run(f"python -m pytest -q -x -p no:cacheprovider {' '.join(names)} {doctests}", patched)
