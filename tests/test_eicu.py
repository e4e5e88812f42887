"""The example of own data: eICU → trajectories, and the tables of records that any converter makes."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import REPO, command
from tiny_eicu import write_eicu

from mimiciv_dataset import task_sample_info_gen, validate_index
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from preprocess import record_tables
from preprocess.record_tables import prepare
from scripts import status
from scripts.sites import eicu

UNSUPPORTED = {"admissions", "diagnoses_ccs", "prescriptions_atc", "ICU_Readmission"}  # of the events that eICU has
RISK = ("LengthOfStay_3day", "Inpatient_Mortality", "ICU_Stay_7day")


def convert(folder: Path, root: Path, *more: object) -> Path:
    eicu.main(["--eicu_dir", str(folder), "--root_dir", str(root), "--test_ratio", "0.4", *map(str, more)])
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the small eICU with a task index; it is not changed."""
    folder = tmp_path_factory.mktemp("eicu")
    convert(write_eicu(folder / "eicu"), folder / "root")
    task_sample_info_gen.main(["--root_dir", str(folder / "root")])
    return folder / "root"


def records(root: Path, subject: str, table: str) -> list[dict[str, Any]]:
    events = Trajectories(root / "patients_ehr").trajectory(subject)
    return [record for event in events if event.file_name == table for record in event.records().dicts()]


def rows(root: Path, task: str) -> list[dict[str, str]]:
    with (root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_offsets_become_times_of_the_hospital_stay(root: Path) -> None:
    (admission,) = records(root, "103", "admissions")
    assert (admission["admittime"], admission["dischtime"]) == ("2100-01-01 23:30:00", "2100-01-07 01:10:00")
    (stay,) = records(root, "103", "icustays")  # the step-down stay is none
    assert (stay["stay_id"], stay["intime"], stay["outtime"]) == ("1003", "2100-01-02 01:10:00", "2100-01-02 22:50:00")
    moves = [(record["intime"], record["eventtype"]) for record in records(root, "103", "transfers")]
    assert moves == [("2100-01-02 01:10:00", "admit"), ("2100-01-02 22:50:00", "stepdown/other")]
    lab = records(root, "103", "labevents")[1]
    assert (lab["charttime"], lab["storetime"]) == ("2100-01-02 02:10:00", "2100-01-02 02:40:00")
    assert (lab["item_name"], lab["valuenum"], lab["valueuom"], lab["comments"]) == ("lactate", "7.0", "mmol/L", "nan")
    assert [record["starttime"][11:] for record in records(root, "103", "prescriptions")][:2] == ["01:30:00", "02:30:00"]
    findings = [(record["item_name"], record["valuenum"]) for record in records(root, "103", "chartevents")]
    assert findings == [("Neurologic/GCS/Eyes Score", "4.0"), ("HR/HR Current", "88.0")]
    assert [record["diagnoses"] for record in records(root, "103", "diagnoses_icd")] == ["renal / acute renal failure"]
    assert Trajectories(root / "patients_ehr").trajectory("103")[-1].file_name == "diagnoses_icd"


def test_deaths_ages_and_unknown_outcomes(root: Path) -> None:
    (patient,) = records(root, "100", "patients")
    assert patient == {"subject_id": "100", "gender": "M", "anchor_age": "50", "dod": "2100-01-07 01:10:00"}
    (patient,) = records(root, "101", "patients")
    assert (patient["anchor_age"], patient["dod"]) == ("90", "nan")
    assert "9" not in Trajectories(root / "patients_ehr").subject_ids()


def test_labels_of_risk_tasks(root: Path) -> None:
    subjects = [str(100 + number) for number in range(40)]
    expected = {
        "LengthOfStay_3day": [number % 3 == 0 for number in range(40)],
        "Inpatient_Mortality": [number % 5 == 0 for number in range(40)],
        "ICU_Mortality_3day": [number % 5 == 0 and number % 3 != 0 for number in range(40)],
    }
    for task, labels in expected.items():
        found = {row["subject_id"]: json.loads(row["target"]) == "yes" for row in rows(root, task)}
        assert found == dict(zip(subjects, labels, strict=True)), task


def test_tasks_that_eicu_does_not_support_are_left_out(root: Path) -> None:
    left_out = Trajectories(root / "patients_ehr").left_out
    assert set(left_out) >= UNSUPPORTED and not set(RISK) & set(left_out)
    assert not (root / "task_index/all/ICU_Readmission.csv").exists()
    validate_index.main(["--root_dir", str(root), str(root / "task_index/all")])


def test_a_person_is_on_one_side_of_the_split(root: Path) -> None:
    train, test = (read_subject_ids(root / f"patient_data/{name}.csv") for name in ("train", "test"))
    assert len(train) + len(test) == 40 and 4 < len(test) < 36
    persons = [{int(subject) // 2 for subject in side} for side in (train, test)]
    assert not persons[0] & persons[1]


def test_an_interrupted_conversion_resumes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, write, written = root.parent / "eicu", record_tables.write_table, []

    def interrupted(*args: Any) -> None:
        written.append(args[2])
        if len(written) == 3:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(record_tables, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "root")
    convert(folder, tmp_path / "root")
    assert len(written) == len(set(written)) + 1, "finished tables are written once"
    assert Trajectories(tmp_path / "root/patients_ehr").digest == Trajectories(root / "patients_ehr").digest


def test_it_is_a_step_like_others(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(root.parent, tmp_path / "copy")
    convert(folder / "eicu", folder / "root")
    assert f"eicu: {folder / 'root/patients'} is up to date" in capsys.readouterr().out
    status.main(["--root_dir", str(folder / "root")])
    printed = capsys.readouterr().out
    assert "own data in buckets" in printed and "raw tables in buckets" not in printed and "stale" not in printed
    with gzip.open(folder / "eicu/lab.csv.gz", "at", encoding="utf-8") as file:
        file.write("999,1003,0,,K,3.5,3.5,,,0\n")
    assert status.main(["--root_dir", str(folder / "root")]) == 1
    assert "python scripts/sites/eicu.py" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected the same lab .* add --overwrite"):
        convert(folder / "eicu", folder / "root")


def test_errors_of_files_are_one_line(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root.parent / "eicu", tmp_path / "eicu")
    with gzip.open(folder / "treatment.csv.gz", "wt", encoding="utf-8") as file:
        file.write("treatmentid,patientunitstayid,treatmentoffset\n1,1000,5\n")
    done = command("scripts/sites/eicu.py", "--eicu_dir", folder, "--root_dir", tmp_path / "root", check=False)
    assert done.returncode == 2
    assert "error: procedureevents: expected the columns that the converter reads, got no treatmentstring. " in done.stderr
    columns = "labresultoffset,patientunitstayid,labname,labresultrevisedoffset"
    columns += ",labresult,labmeasurenamesystem,labresulttext"
    for text, message in (
        (
            f"{columns}\nJohn,1000,K,5,4,,\n",
            "labevents: expected values of the types .*, got others in column labresultoffset",
        ),
        (f"{columns}\n5,1000,K,5,,,\xb5\n", "labevents: expected files that the converter can read, got a truncated file"),
    ):
        with gzip.open(folder / "lab.csv.gz", "wb") as file:
            file.write(text.encode("latin-1"))
        with pytest.raises(UserError, match=message) as error:
            convert(folder, tmp_path / "root", "--overwrite")
        assert "John" not in str(error.value)
    with gzip.open(folder / "patient.csv.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    with gzip.open(folder / "patient.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text.replace("23:30:00", "11:30 PM"))
    with pytest.raises(UserError, match="patient.csv.gz: expected values .*, got others in column hospitaladmittime24"):
        convert(folder, tmp_path / "root", "--overwrite")
    with gzip.open(folder / "patient.csv.gz", "wt", encoding="utf-8") as file:
        file.write("PATIENTUNITSTAYID\n1\n")
    with pytest.raises(UserError, match="patient.csv.gz: expected the columns that the converter reads, got no hospital"):
        convert(folder, tmp_path / "root", "--overwrite")
    (folder / "lab.csv.gz").unlink()
    with pytest.raises(UserError, match=r"lab.csv: expected .*eICU.*, got no such file or directory. Set --eicu_dir"):
        convert(folder, tmp_path / "other")


def test_a_test_set_without_patients(root: Path, tmp_path: Path) -> None:
    eicu.main(["--eicu_dir", str(root.parent / "eicu"), "--root_dir", str(tmp_path), "--test_ratio", "0"])
    assert read_subject_ids(tmp_path / "patient_data/train.csv") == read_subject_ids(root / "patient_data/patients.csv")


TIMES = {"subject_id": [1], "charttime": ["2100-01-01 08:00:00"]}


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("labevents", {"subject_id": [1]}, "labevents: expected a column charttime, by which records are placed"),
        ("chartevents", TIMES, "chartevents: expected a column hadm_id"),
        ("labevents", TIMES | {"charttime": ["01/02/2100"]}, "labevents.charttime: expected a time such as"),
        (
            "labevents",
            TIMES | {"subject_id": ["P-1"]},
            "labevents.subject_id: expected whole numbers from 0, got other values",
        ),
        ("labevents", TIMES | {"subject_id": [None]}, "labevents.subject_id: expected whole numbers"),
    ],
)
def test_records_that_cannot_be_placed_are_refused(table: str, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare(table, pl.DataFrame(columns))
    assert message in str(error.value) and "P-1" not in str(error.value) and "01/02" not in str(error.value)


@pytest.mark.slow
def test_the_page_has_the_rows_of_the_eicu_demo(test_data: Path, tmp_path: Path) -> None:
    root = convert(test_data / "data/eicu-demo-subset", tmp_path / "root")
    task_sample_info_gen.main(["--root_dir", str(root)])
    page = (REPO / "docs/new_site.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\w+) \| ([\d,]+) \| (\d+) \| (\d*) ?\|.*\|.*\|.*\|$", page, re.MULTILINE)
    expected = {task: tuple(int(number.replace(",", "") or 0) for number in numbers) for task, *numbers in table}
    found = {}
    for path in (root / "task_index/all").glob("*.csv"):
        targets = [json.loads(row["target"]) for row in rows(root, path.stem)]
        labels = {label for target in targets for label in ([target] if isinstance(target, str) else target)}
        found[path.stem] = len(targets), len(labels), targets.count("yes")
    assert found == expected
