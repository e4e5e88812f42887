"""OMOP → trajectories: what becomes of rows, visits and patients; forms of the tables; errors; restarts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import REPO
from imported import RISK, all_records, index, labels, records
from tiny_omop import CONCEPTS, Rows, tables, write_omop

from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from preprocess import from_omop, omop_tables
from scripts import status

SITE = REPO / "scripts/sites/omop.yaml"
MIMIC = REPO / "scripts/sites/mimiciv_omop.yaml"


def import_omop(omop: Path, root: Path, *more: object, site: Path = SITE) -> Path:
    from_omop.main(["--omop_dir", str(omop), "--site", str(site), "--root_dir", str(root), *map(str, more)])
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the small CDM as CSV."""
    folder = tmp_path_factory.mktemp("small_omop")
    return import_omop(write_omop(folder / "omop"), folder / "root")


def digest(root: Path) -> str:
    return Trajectories(root / "patients_ehr").digest


def test_rows_become_records(small: Path) -> None:
    names = [event.file_name for event in Trajectories(small / "patients_ehr").trajectory("1")]
    assert names == ["patients", "admissions", "omr", "labevents", "prescriptions", "procedures_icd", "procedureevents", "omr",
                     "prescriptions", "labevents", "icustays", "diagnoses_icd"]  # fmt: skip
    potassium, sodium, unknown, unmapped = records(small, "1", "labevents")
    shown = ("hadm_id", "charttime", "item_name", "valuenum", "valueuom", "ref_range_lower", "comments")
    assert [potassium[key] for key in shown] == [
        "10", "2150-01-01 10:00:00", CONCEPTS[3][1], "3.5", "mmol/L", "3.0", "nan"
    ]  # fmt: skip
    assert (sodium["valuenum"], sodium["comments"]) == ("nan", "Absent")
    assert unknown["item_name"] == unmapped["item_name"] == "nan"
    assert records(small, "1", "procedureevents")[0]["item_name"] == CONCEPTS[-1][1]
    assert [record["result_value"] for record in records(small, "1", "omr")] == ["80", "90.25"]
    assert records(small, "1", "prescriptions")[0]["dose_val_rx"] == "2.5"


def test_visits_become_stays(small: Path) -> None:
    (admission,) = records(small, "1", "admissions")
    assert admission == {
        "subject_id": "1", "hadm_id": "10", "admittime": "2150-01-01 08:00:00", "admission_type": "Inpatient Visit",
        "admission_location": "HOME", "discharge_location": "nan", "dischtime": "2150-01-05 12:00:00",
    }  # fmt: skip
    stays = [(stay["intime"], stay["outtime"]) for stay in records(small, "1", "icustays")]
    assert stays == [("2150-01-02 08:00:00", "2150-01-03 08:00:00"), ("2150-01-04 08:00:00", "2150-01-04 09:00:00")], (
        "rows that follow each other are one stay"
    )


def test_records_of_patients(small: Path) -> None:
    patients = [records(small, subject, "patients")[0] for subject in "12"]
    assert patients[0] == {"subject_id": "1", "gender": "F", "anchor_age": "60", "dod": "2150-01-12"}, "before the birthday"
    assert patients[1] == {"subject_id": "2", "gender": "X", "anchor_age": "61", "dod": "nan"}, "born in the year, by January"


def test_what_is_missing_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tables(2)
    content["measurement"][0] |= {"person_id": 99}
    content["measurement"][1] |= {"measurement_datetime": None, "visit_occurrence_id": 55}
    content["visit_occurrence"].append(content["visit_occurrence"][0])
    content["person"][1] |= {"month_of_birth": 2, "day_of_birth": 30}
    import_omop(write_omop(tmp_path / "omop", content), tmp_path / "root")
    printed = capsys.readouterr().out
    (line,) = [line.split() for line in printed.splitlines() if line.startswith("measurement ")]
    assert line == ["measurement", "12", "1", "1", "2", "2", "1", "1"], (
        "rows, persons, visits, no concept, concepts, dates, midnight"
    )
    assert "warning: 1 row of persons that the table person does not have; left out." in printed
    assert records(tmp_path / "root", "2", "patients")[0]["anchor_age"] == "nan", "there is no such day"
    assert "which events[11] (discharge) reads, got no such table." in printed
    assert "hardly any times of day" not in printed
    codes = {row["code"]: row for row in pl.read_csv(tmp_path / "root/index_mapping/site_codes.csv").iter_rows(named=True)}
    potassium = codes["measurement//3023103//Lab Test"]
    assert (potassium["rows"], potassium["name"]) == (2, CONCEPTS[3][1])
    assert potassium["rule"] == "events[9] (labevents)"
    assert codes["visit_occurrence//9202"]["rule"] == "ignored"


def test_persons_with_a_year_of_birth_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tables(3)
    columns = ("person_id", "gender_concept_id", "year_of_birth")
    content["person"] = [{column: row[column] for column in columns} for row in content["person"]]
    root = import_omop(write_omop(tmp_path / "omop", content), tmp_path / "root")
    assert "3 persons without month or day of birth: January, or the first day, counts." in capsys.readouterr().out
    assert [records(root, subject, "patients")[0]["gender"] for subject in "123"] == ["F", "nan", "F"]


def test_dates_without_a_time_of_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {name: [{key: value for key, value in row.items() if not key.endswith("_datetime")} for row in rows]
               for name, rows in tables(1).items()}  # fmt: skip
    root = import_omop(write_omop(tmp_path / "omop", content), tmp_path / "root")
    assert "the data have dates, and hardly any times of day" in capsys.readouterr().out
    assert records(root, "1", "admissions")[0]["dischtime"] == "2150-01-05 00:00:00"


@pytest.mark.parametrize(("form", "version"), [("CSV.GZ", "5.3"), ("athena", "5.4"), ("parquet", "5.3"), ("parquet", "5.4")])
def test_forms_and_versions_do_not_matter(small: Path, form: str, version: str, tmp_path: Path) -> None:
    root = import_omop(write_omop(tmp_path / "omop", None, form, version), tmp_path / "root")
    assert digest(root) == digest(small)


@pytest.mark.parametrize("buckets", [1, 3])
def test_groups_and_buckets_do_not_matter(small: Path, buckets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omop_tables, "BATCH_ROWS", 2)
    monkeypatch.setattr("preprocess.merge_patient.PART_BYTES", 1)
    root = import_omop(
        write_omop(tmp_path / "omop", form="parquet"), tmp_path / "root", "--buckets", buckets, "--num_workers", 2
    )
    assert digest(root) == digest(small)
    assert not (tmp_path / "root/patients/.omop").exists()


def test_directories_of_parts(small: Path, tmp_path: Path) -> None:
    root = import_omop(write_omop(tmp_path / "omop", form="parts"), tmp_path / "root")
    assert sorted(records(root, "2", "labevents"), key=str) == sorted(records(small, "2", "labevents"), key=str)


def test_an_interrupted_import_resumes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    omop, root = write_omop(tmp_path / "omop"), tmp_path / "root"
    done: list[object] = []

    def interrupt_after(number: int, name: str) -> None:
        method = getattr(from_omop.Import, name)

        def interrupted(importer: from_omop.Import, *args: Any) -> None:
            if len(done) == number:
                raise KeyboardInterrupt
            done.append(args[0])
            method(importer, *args)

        monkeypatch.setattr(from_omop.Import, name, interrupted)

    interrupt_after(3, "read")
    with pytest.raises(KeyboardInterrupt):
        import_omop(omop, root, "--buckets", 2)
    monkeypatch.undo()
    interrupt_after(4, "map_bucket")
    with pytest.raises(KeyboardInterrupt):
        import_omop(omop, root, "--buckets", 2)
    assert done == ["person-00000", "death-00000", "visit_occurrence-00000", 0]
    monkeypatch.undo()
    import_omop(omop, root, "--buckets", 2)
    assert digest(root) == digest(small)
    capsys.readouterr()
    import_omop(omop, root, "--buckets", 2)
    assert f"from_omop: {root / 'patients'} is up to date" in capsys.readouterr().out
    write_omop(omop, tables(2))
    with pytest.raises(UserError, match=r"expected the same .*person.csv.* add --overwrite"):
        import_omop(omop, root, "--buckets", 2)


def test_status(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.main(["--root_dir", str(small)])
    printed = capsys.readouterr().out
    assert "OMOP tables in buckets" in printed and "raw tables in buckets" not in printed
    assert not any(word in printed for word in ("stale", "unknown origin", "merge_patient"))


def change(name: str, **values: Any) -> dict[str, Rows]:
    """The small CDM with other values in the first row of a table; without columns whose value is `...`."""
    content = tables(2)
    content[name][0] |= values
    dropped = [key for key, value in values.items() if value is ...]
    content[name] = [{key: value for key, value in row.items() if key not in dropped} for row in content[name]]
    return content


ERRORS = [
    ({"person": []}, "person.csv: expected"),
    (change("measurement", person_id="1x"), "measurement.csv, column person_id: expected whole numbers, got another text in"),
    (change("measurement", measurement_concept_id="K"), "column measurement_concept_id: expected whole numbers"),
    (change("measurement", value_as_number="high"), "column value_as_number: expected numbers, got another text in 1 row"),
    (change("measurement", measurement_datetime="noon"), "column measurement_datetime: expected a time such as"),
    (change("measurement", measurement_concept_id=...), "expected the column measurement_concept_id of measurement"),
    (change("person", year_of_birth="about 1960"), "column year_of_birth: expected whole numbers"),
    (change("person", person_id=-1), "person.csv: expected distinct whole numbers from 0"),
    (change("person", person_id=2), "in column person_id, got some twice"),
    (change("visit_occurrence", visit_occurrence_id=-5), "expected whole numbers from 0, of at most 18 digits, in column"),
    (change("concept", concept_name=...), "expected the column concept_name of concept"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), ERRORS)
def test_errors_of_tables(content: dict[str, Rows], message: str, tmp_path: Path) -> None:
    omop = write_omop(tmp_path / "omop", tables(2) | content)
    with pytest.raises(UserError) as error:
        import_omop(omop, tmp_path / "root")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_errors_of_files(tmp_path: Path) -> None:
    omop = write_omop(tmp_path / "omop")
    separators = {"measurement": (";", "semicolons"), "concept": (";", "semicolons"), "person": ("\t", "tabs")}
    for table, (separator, name) in separators.items():
        text = (omop / f"{table}.csv").read_text(encoding="utf-8")
        (omop / f"{table}.csv").write_text(text.replace(",", separator), encoding="utf-8")
        with pytest.raises(UserError, match=rf"{table}.csv: expected columns separated by commas, got {name}\. Save it with"):
            import_omop(omop, tmp_path / "root")
        (omop / f"{table}.csv").write_text(text, encoding="utf-8")
    shutil.copy(omop / "death.csv", omop / "DEATH.CSV.GZ")
    with pytest.raises(UserError, match=r"expected one file or directory of the table death"):
        import_omop(omop, tmp_path / "root")
    (omop / "DEATH.CSV.GZ").rename(omop / "note.parquet")
    with pytest.raises(UserError, match=r"note.parquet: expected a Parquet file, got a truncated or damaged file"):
        import_omop(omop, tmp_path / "root")
    (omop / "note.parquet").unlink()
    (omop / "visit_occurrence.csv").unlink()
    with pytest.raises(UserError, match="expected the table visit_occurrence as CSV or parquet, got concept.csv"):
        import_omop(omop, tmp_path / "root")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("valuenum: value_as_number", "valuenum: value_as_numbr", "valuenum: expected a column of measurement, got value_"),
        ("route_concept_name", "rout_concept_name", "route: expected a column of drug_exposure, got rout_concept_name"),
        ("encounter: visit_", "encounter: vist_", "encounter: expected the visit of OMOP, got vist_occurrence_id. Write"),
        ("    note:", "    notes:", "omop.codes: expected a table, got notes. Write note."),
        ("  codes:", "  subject: person_source\n  codes:", "omop.subject: expected a column of person, got person_source"),
        ("  codes:", "  visit_pattern: x\n  codes:", "omop.visit_pattern: expected a pattern with a group"),
        ("joined: [outtime", "joined: [outime", "joined: expected a column of the record, got outime. Write outtime."),
    ],
)  # fmt: skip
def test_errors_of_the_site(old: str, new: str, message: str, tmp_path: Path) -> None:
    site, text = tmp_path / "site.yaml", SITE.read_text(encoding="utf-8")
    assert old in text
    site.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        import_omop(write_omop(tmp_path / "omop"), tmp_path / "root", site=site)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- MIMIC-IV from CSV and from OMOP


@pytest.fixture(scope="module")
def mimic_omop(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the 68 demo patients from OMOP, and the index of the tasks of stays that they support."""
    root = tmp_path_factory.mktemp("mimic_omop")
    import_omop(test_data / "data/omop-demo-5.3", root, "--buckets", 2, site=MIMIC)
    return index(root, [task for task in RISK if task not in Trajectories(root / "patients_ehr").left_out])


@pytest.mark.slow
def test_mimic_iv_from_omop_equals_mimic_iv_from_csv(demo: Path, mimic_omop: Path) -> None:
    """docs/own_data.md has these figures, and the reasons for the differences."""
    index(demo)

    def both(table: str, *columns: str) -> tuple[set[Any], set[Any]]:
        return all_records(demo, table, columns), all_records(mimic_omop, table, columns)

    of_csv, of_omop = both("admissions", "hadm_id", "dischtime")
    assert of_csv == of_omop and len(of_csv) == 167
    of_csv, of_omop = both("admissions", "hadm_id", "admittime")
    registered = {row[1:3] for row in all_records(demo, "admissions", ("hadm_id", "edregtime"))}
    assert len(of_csv & of_omop) == 56 and {row[1:3] for row in of_omop - of_csv} <= registered
    of_csv, of_omop = both("icustays", "hadm_id", "intime", "outtime")
    assert len(of_csv) == 92 and of_csv < of_omop and len(of_omop) == 93
    of_csv, of_omop = both("patients", "gender")
    assert of_csv == of_omop
    of_csv, of_omop = both("patients", "dod")
    assert [sum(dod != "nan" for _, dod in rows) for rows in (of_csv, of_omop)] == [22, 11]
    assert {row for row in of_omop if row[1] != "nan"} < of_csv
    of_csv, of_omop = both("transfers", "hadm_id", "intime", "careunit")
    assert (len(of_omop), len(of_omop & of_csv)) == (422, 395)
    differ = {"LengthOfStay_3day": (152, 6, 10), "LengthOfStay_7day": (152, 4, 10), "Inpatient_Mortality": (166, 0, 0)}
    for task in [path.stem for path in (mimic_omop / "task_index/all_lengths").glob("*.csv")]:
        labels_csv, labels_omop = ({key[:2] if task in differ else key: label for key, label in labels(root, task).items()}
                                   for root in (demo, mimic_omop))  # fmt: skip
        rows, other, new = differ.get(task, (92, 0, 1))
        assert len(labels_csv) == rows and labels_csv.keys() <= labels_omop.keys(), task
        assert sum(labels_csv[key] != labels_omop[key] for key in labels_csv) == other, task
        assert len(labels_omop) - len(labels_csv) == new, task


def test_synthea(test_data: Path, tmp_path: Path) -> None:
    root = import_omop(test_data / "data/omop-synthea-5.4", tmp_path / "root")
    record = json.loads((root / "patients_ehr/provenance.json").read_text(encoding="utf-8"))
    assert (record["patients"], record["events"]) == (28, 2149)
    assert {name: rows for name, rows in record["rows"].items() if rows} == {
        "patients": 28, "admissions": 13, "edstays": 56, "diagnoses_icd": 470, "labevents": 4517, "omr": 4638,
        "prescriptions": 883, "procedures_icd": 2534, "procedureevents": 1,
    }  # fmt: skip
