"""EHRSHOT's files → samples → test.py → scores, on a few made-up patients in the benchmark's own formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from forked import command

from evaluation.external.ehrshot import QUESTIONS, main
from mimiciv_dataset.tasks import ALL_TASKS
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError
from pipeline.files import read_json

PATIENTS = range(100, 112)
SPLITS = ("train", "val", "test")
CONCEPTS = [
    ("LOINC", "718-7", 'Hemoglobin "total" in Blood'), ("LOINC", "2951-2", "Sodium"), ("RxNorm", "161", "Acetaminophen"),
    ("SNOMED", "38341003", "Hypertensive disorder"), ("Visit", "IP", "Inpatient Visit"), ("Race", "5", "White"),
]  # fmt: skip


def write_csv(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def events(patient_id: int) -> list[tuple[Any, ...]]:
    """start, end, code, value, unit, omop_table, visit_id; a visit of ten days from 2020-03-01 08:00."""
    day = datetime(2020, 3, 1, 8)
    return [
        (f"{1960 + patient_id - 108}-07-01 00:00:00", "", "SNOMED/3950001", "", "", "person", ""),
        ("1960-07-01 00:00:00", "", "Gender/F", "", "", "person", ""),
        ("1960-07-01 00:00:00", "", "Race/5", "", "", "person", ""),
        (day, day + timedelta(days=10), "Visit/IP", "", "", "visit_occurrence", 1),
        (day + timedelta(hours=1), "", "LOINC/718-7", "13.5", "g/dL", "measurement", 1),
        (day + timedelta(hours=1), "", "LOINC/2951-2", "139.0", "mmol/L", "measurement", 1),
        (day + timedelta(hours=1), "", "STANFORD_OBS/x", "No, never", "", "observation", 1),
        (day + timedelta(hours=2), day + timedelta(days=9), "RxNorm/161", "", "", "drug_exposure", 1),
        (day + timedelta(hours=3), "", "LOINC/11506-3", "", "", "note", 1),
        (day + timedelta(days=9), "", "SNOMED/38341003", "", "", "condition_occurrence", 1),
    ]


@pytest.fixture
def ehrshot(tmp_path: Path) -> Path:
    return write_ehrshot(tmp_path / "EHRSHOT_ASSETS")


def write_ehrshot(root: Path) -> Path:
    """EHRSHOT_ASSETS of twelve patients: four a split, yes and no in turn."""
    write_csv(root / "splits/person_id_map.csv", [("", "split", "omop_person_id"),
              *((i, SPLITS[i // 4], patient) for i, patient in enumerate(PATIENTS))])  # fmt: skip
    header = ("", "patient_id", "start", "end", "code", "value", "unit", "visit_id", "omop_table")
    rows = [(i, patient, *row[:5], row[6], row[5]) for patient in PATIENTS for i, row in enumerate(events(patient))]
    write_csv(root / "data/ehrshot.csv", [header, *rows])
    for task in QUESTIONS:
        lab = task.startswith("lab_")
        values = [(0, 1, 0, 3)[i % 4] if lab else i % 2 == 1 for i in range(len(PATIENTS))]
        write_csv(root / f"benchmark/{task}/labeled_patients.csv", [("patient_id", "prediction_time", "label_type", "value"),
                  *((patient, "2020-03-01T23:59:00", "categorical" if lab else "boolean", value)
                    for patient, value in zip(PATIENTS, values, strict=True))])  # fmt: skip
    write_csv(root / "athena_download/CONCEPT.csv", [("concept_id", "concept_name", "vocabulary_id", "concept_code"),
              *((i, name, vocabulary, code) for i, (vocabulary, code, name) in enumerate(CONCEPTS))])  # fmt: skip
    return root


def convert(root: Path, *flags: object, task: str = "guo_los") -> list[dict[str, Any]]:
    output = root / "rows.jsonl"
    main(["--ehrshot_dir", str(root), "--task", task, "--output_path", str(output), *map(str, flags)])
    return [json.loads(line) for line in output.open(encoding="utf-8")]


def test_a_sample_is_what_is_known_before_its_prediction_time(ehrshot: Path) -> None:
    rows = convert(ehrshot)
    assert [row["task_info"]["subject_id"] for row in rows] == ["108", "109", "110", "111"]
    assert [row["output"] for row in rows] == ["no", "yes", "no", "yes"]
    assert rows[0]["input"] == (
        "## Patient Demographics [2020-03-01 23:59:00]\n- Anchor_Age: 59\n- Gender: F\n- Race: White\n\n\n\n\n\n"
        "## Admissions [2020-03-01 08:00:00]\n- Admission_Type: Inpatient Visit\n\n"
        "## Labotary Test Events [2020-03-01 09:00:00]\n"
        "| Item_Name | Valuenum | Valueuom |\n| ------ | ------ | ------ |\n"
        '| Hemoglobin "total" in Blood | 13.5 | g/dL |\n| Sodium | 139.0 | mmol/L |\n\n'
        "## Online Medical Record [2020-03-01 09:00:00]\n- Result_Name: STANFORD_OBS/x\n- Result_Value: No, never\n\n"
        "## Prescriptions [2020-03-01 10:00:00]\n- Drug: Acetaminophen"
    )
    parts = SampleText.parse(rows[0]["input"], ALL_TASKS["guo_los"])
    assert len(parts.window) == 4 and parts.anchor is None and str(parts) == rows[0]["input"]


def test_all_tasks_and_splits(ehrshot: Path) -> None:
    rows = convert(ehrshot, "--split", "val", task="all")
    assert {row["task_info"]["task"] for row in rows} == set(QUESTIONS)
    assert set(QUESTIONS) == {name for name, task in ALL_TASKS.items() if task.suite == "ehrshot"}
    assert {row["task_info"]["subject_id"] for row in rows} == {"104", "105", "106", "107"}
    assert [row["output"] for row in rows if row["task_info"]["task"] == "lab_anemia"] == ["no", "yes", "no", "yes"]
    assert len(convert(ehrshot, "--samples", 2, task="all")) == 28
    assert [len({row["instruction"] for row in rows})] == [14]


def test_the_newest_events_are_shown(ehrshot: Path) -> None:
    assert convert(ehrshot, "--max_events", 1)[0]["input"].count("## ") == 2
    path = ehrshot / "benchmark/guo_los/labeled_patients.csv"
    path.write_text(path.read_text().replace("2020-03-01T23:59:00", "2020-03-12 00:00"))
    assert convert(ehrshot, "--days", 4)[0]["input"].endswith("- Diagnoses: Hypertensive disorder")
    assert "Admissions" not in convert(ehrshot, "--days", 4)[0]["input"]


def test_a_meds_export_gives_the_same_text(ehrshot: Path) -> None:
    expected = convert(ehrshot)
    (ehrshot / "data/ehrshot.csv").unlink()
    rows = []
    for patient in PATIENTS:
        for start, _, code, value, unit, table, _ in events(patient):
            number = value.replace(".", "").isdigit()
            rows.append({
                "subject_id": patient, "time": datetime.fromisoformat(str(start)), "unit": unit or None, "table": table,
                "code": "MEDS_BIRTH" if code == "SNOMED/3950001" else code, "numeric_value": float(value) if number else None,
                "text_value": value or None,
            })  # fmt: skip
    (ehrshot / "data/train").mkdir()
    frame = pl.DataFrame(
        rows, schema_overrides={"numeric_value": pl.Float32, "time": pl.Datetime("us")}, infer_schema_length=None
    )
    frame.write_parquet(ehrshot / "data/train/0.parquet")
    assert convert(ehrshot) == expected
    frame.drop("table", "text_value").write_parquet(ehrshot / "data/train/0.parquet")
    (ehrshot / "athena_download/CONCEPT.csv").unlink()
    (ehrshot / "metadata").mkdir()
    pl.DataFrame([{"code": f"{v}/{c}", "description": n} for v, c, n in CONCEPTS]).write_parquet(
        ehrshot / "metadata/codes.parquet"
    )
    text = convert(ehrshot)[0]["input"]
    assert "- Drug: Acetaminophen" in text and "| Sodium | 139.0 | mmol/L |" in text and "- Race: White" in text


def test_athena_writes_tabs_and_bare_quotes(ehrshot: Path) -> None:
    expected = convert(ehrshot)
    lines = ["concept_id\tconcept_name\tvocabulary_id\tconcept_code"]
    lines += [f"{i}\t{name}\t{vocabulary}\t{code}" for i, (vocabulary, code, name) in enumerate(CONCEPTS)]
    (ehrshot / "athena_download/CONCEPT.csv").unlink()
    (ehrshot / "CONCEPT.csv").write_text("\n".join(lines) + "\n")
    assert convert(ehrshot, "--concept", ehrshot / "CONCEPT.csv") == expected


def test_solved_examples_come_first_and_are_never_the_asked_patient(ehrshot: Path) -> None:
    rows = convert(ehrshot, "--shots", 3)
    shown = rows[0]["input"]
    assert shown.index("# Example 1\n") < shown.index("# Example 3\n") < shown.index("# Patient\n## Patient Demographics")
    assert [shown.count(f"{QUESTIONS['guo_los']}\nAnswer: {answer}\n\n") for answer in ("yes", "no")] == [2, 1]
    assert rows == convert(ehrshot, "--shots", 3)
    assert len({convert(ehrshot, "--shots", 3, "--seed", seed)[0]["input"] for seed in range(4)}) > 1
    examples = {row["input"].partition("# Patient\n")[0] for row in rows}
    assert len(examples) == 1, "the same for all samples of a task, so that they can be cached"
    parts = SampleText.parse(shown, ALL_TASKS["guo_los"])
    assert parts.patient.startswith("# Example 1\n") and len(parts.window) == 4 and str(parts) == shown
    short = convert(ehrshot, "--shots", 2, "--shot_chars", 200)[0]["input"].partition("# Patient\n")[0]
    assert "- Drug: Acetaminophen" in short and "Hemoglobin" not in short
    assert len(convert(ehrshot, "--shots", 3, "--split", "train")) == 1


def test_from_the_files_to_the_scores(ehrshot: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    done = command("evaluation/external/ehrshot.py", "--ehrshot_dir", ehrshot, "--task", "guo_los", "lab_anemia",
                   "--shots", 2, "--output_path", rows)  # fmt: skip
    assert "8 samples of 2 tasks" in done.stdout and "Sodium" not in done.stdout + done.stderr
    done = command("test.py", "--dataset_name", rows, "--output_path", tmp_path / "out", "--model_name_or_path", tiny_model,
                   "--max_seq_len", 1500, "--max_new_tokens", 8, "--prompt")  # fmt: skip
    assert "macro, ehrshot: risk_auroc" in done.stdout and "macro, paper" not in done.stdout
    result = read_json(tmp_path / "out/result.json")
    assert {name: found["n"] for name, found in result["tasks"].items()} == {"guo_los": 4, "lab_anemia": 4}
    assert result["tasks"]["guo_los"]["auroc"] is not None and result["tasks"]["guo_los"]["patients"] == 4
    command("evaluation/score.py", tmp_path / "out")


def test_long_records_lose_their_oldest_events_and_keep_the_examples(ehrshot: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    main(
        ["--ehrshot_dir", str(ehrshot), "--task", "guo_los", "--shots", "1", "--shot_chars", "200", "--output_path", str(rows)]
    )
    command("test.py", "--dataset_name", rows, "--output_path", tmp_path / "out", "--model_name_or_path", tiny_model,
            "--max_seq_len", 520, "--max_new_tokens", 8)  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out/outputs.jsonl").open(encoding="utf-8")]
    assert all(0 < line["truncated"]["events"] <= 4 and line["truncated"]["fits"] for line in lines)


def test_several_workers_write_the_same_bytes(ehrshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.external.ehrshot.PATIENTS_PER_PART", 3)
    rows = convert(ehrshot, "--shots", 1, task="all")
    assert convert(ehrshot, "--shots", 1, "--num_workers", 2, task="all") == rows


def test_labels_that_cannot_be_asked_are_counted(ehrshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ehrshot / "benchmark/guo_los/labeled_patients.csv"
    with path.open("a") as file:
        file.write("108,2020-03-02T23:59:00,boolean,\n999,2020-03-02T23:59:00,boolean,True\n")
        file.write("108,2010-03-02T23:59:00,boolean,True\n777,2020-03-02T23:59:00,boolean,True\n")
    with (ehrshot / "splits/person_id_map.csv").open("a") as file:
        file.write("12,test,777\n")
    rows = convert(ehrshot)
    printed = capsys.readouterr().out
    for text in ("1 labels without a value", "1 labels of patients in no split", "1 labels of patients without events",
                  "1 labels kept although nothing happened before them"):  # fmt: skip
        assert text in printed
    early = [row for row in rows if row["task_info"]["prediction_time"].startswith("2010")]
    assert len(rows) == 5 and SampleText.parse(early[0]["input"]).window == () and "- Anchor_Age: 49" in early[0]["input"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("splits/person_id_map.csv", None, "expected EHRSHOT's split of the patients"),
        ("splits/person_id_map.csv", "a,b\n1,2\n", "expected columns omop_person_id, split, got a first row of 2 cells"),
        ("splits/person_id_map.csv", "", "got an empty or damaged file"),
        ("splits/person_id_map.csv", "split,omop_person_id\ntrain,1\n", "expected labels of test patients, got none"),
        ("benchmark/guo_los/labeled_patients.csv", None, "expected EHRSHOT's labels"),
        ("benchmark/guo_los/labeled_patients.csv", "patient_id,prediction_time,label_type,value\n108,then,boolean,True\n",
         "line 2: expected a prediction_time"),
        ("benchmark/guo_los/labeled_patients.csv", "patient_id,prediction_time,label_type,value\n108,2020-03-01,boolean,x\n",
         "line 2: expected True, False or a number"),
        ("data/ehrshot.csv", None, "or a MEDS export"),
        ("data/ehrshot.csv", "patient_id,start\n108,2020\n", "expected columns patient_id, start, code"),
        ("data/ehrshot.csv", "patient_id,start,code,value,unit,omop_table\n108,soon,LOINC/1,,,measurement\n",
         "expected start times like"),
        ("data/ehrshot.csv", "patient_id,start,code,value,unit,omop_table\n1,2020-01-01,LOINC/1,,,measurement\n",
         "expected events of the labels' patients, got none"),
        ("athena_download/CONCEPT.csv", None, "expected the OMOP concept table"),
        ("athena_download/CONCEPT.csv", "concept_id\n1\n", "expected columns concept_code, vocabulary_id, concept_name"),
    ],
)  # fmt: skip
def test_errors_of_wrong_files(ehrshot: Path, file: str, text: str | None, message: str) -> None:
    (ehrshot / file).unlink()
    if text is not None:
        (ehrshot / file).write_text(text)
    with pytest.raises(UserError, match=message):
        convert(ehrshot)
    assert not (ehrshot / "rows.jsonl").exists()


def test_errors_of_wrong_use(ehrshot: Path, tmp_path: Path) -> None:
    given = ["--ehrshot_dir", ehrshot, "--output_path", tmp_path / "rows.jsonl"]
    unknown = command("evaluation/external/ehrshot.py", *given, "--task", "chexpert", check=False)
    assert unknown.returncode == 2 and "chexpert" in unknown.stderr
    with pytest.raises(UserError, match="ending in .jsonl"):
        convert(ehrshot, "--output_path", tmp_path / "rows.csv")
    few = command("evaluation/external/ehrshot.py", *given, "--max_events", 0, check=False)
    assert few.returncode == 2 and "--max_events" in few.stderr and "at least 1" in few.stderr
    with pytest.raises(UserError, match="training patient with the answer yes to guo_los"):
        convert(ehrshot, "--shots", 5)
