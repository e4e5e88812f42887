"""MEDS → trajectories: what becomes of rows, stays and patients; errors; restarts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import REPO, command
from imported import RISK, STAYS, all_records, answers, index, labels, records
from tiny_meds import ROWS, SITE, write_meds

from mimiciv_dataset import task_sample_info_gen
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.text import Renderer
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from preprocess import from_meds
from scripts import status


def import_meds(meds: Path, root: Path, *more: object, site: Path | None = None) -> Path:
    from_meds.main(
        ["--meds_dir", str(meds), "--site", str(site or meds / "site.yaml"), "--root_dir", str(root), *map(str, more)]
    )
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the small hospital in one shard."""
    folder = tmp_path_factory.mktemp("small_meds")
    return import_meds(write_meds(folder / "meds", [ROWS]), folder / "root")


def test_rows_become_records(small: Path) -> None:
    names = [event.file_name for event in Trajectories(small / "patients_ehr").trajectory("7")]
    assert names == ["patients", "admissions", "labevents", "icustays", "inputevents", "diagnoses_icd"]
    assert records(small, "7", "labevents") == [
        {"subject_id": "7", "hadm_id": "A", "charttime": "2150-01-01 09:00:00", "item_name": "Potassium", "valuenum": "3.5",
         "valueuom": "mEq/L", "comments": "nan", "storetime": "2150-01-01 11:00:00"},
        {"subject_id": "7", "hadm_id": "A", "charttime": "2150-01-01 09:00:00", "item_name": "Sodium", "valuenum": "nan",
         "valueuom": "nan", "comments": "nan", "storetime": "2150-01-01 11:00:00"},
    ]  # fmt: skip


def test_stays_end_where_the_site_says(small: Path) -> None:
    (admission,) = records(small, "7", "admissions")
    assert (admission["hadm_id"], admission["dischtime"]) == ("A", "2150-01-05 12:00:00")
    (unfinished,) = records(small, "8", "admissions")
    assert unfinished["dischtime"] == "nan"
    (stay,) = records(small, "7", "icustays")  # paired without a key
    assert (stay["stay_id"], stay["intime"], stay["outtime"]) == ("5", "2150-01-01 10:00:00", "2150-01-02 12:00:00")
    infusions = [(r["drug"], r["rate"], r["amount"]) for r in records(small, "7", "inputevents")]
    assert infusions == [("N", "0.1", "10.0"), ("N", "0.2", "20.0")]


def test_records_of_patients(small: Path) -> None:
    patients = [records(small, subject, "patients")[0] for subject in ("7", "8", "9")]
    assert patients[0] == {"subject_id": "7", "gender": "F", "anchor_age": "60", "dod": "2150-01-09"}, "before the birthday"
    assert patients[1] == {"subject_id": "8", "gender": "M", "anchor_age": "nan", "dod": "nan"}
    assert patients[2]["gender"] == "nan"


def test_names_in_records_are_shown_and_answered(small: Path) -> None:
    trajectories = Trajectories(small / "patients_ehr")
    text = Renderer(Lookups(small / "index_mapping")).event(trajectories.trajectory("7")[2])
    assert "| Potassium | 3.5 | mEq/L |" in text.replace("  ", " ")
    task_sample_info_gen.main(["--root_dir", str(small), "--no-audit", "--overwrite"])
    with (small / "task_index/all/labevents.csv").open(encoding="utf-8") as file:
        targets = [json.loads(row["target"]) for row in csv.DictReader(file)]
    assert targets == [["Potassium", "Sodium"], ["Potassium"], ["Sodium"]]


def test_split_and_dictionary_of_codes(small: Path) -> None:
    assert read_subject_ids(small / "patient_data/train.csv") == ["7", "8"]
    assert read_subject_ids(small / "patient_data/test.csv") == ["9"]
    codes = pl.read_csv(small / "index_mapping/site_codes.csv")
    assert dict(codes.select("code", "rows").iter_rows())["LAB/K"] == 2
    rules = dict(codes.select("code", "rule").iter_rows())
    assert (rules["LAB/K"], rules["UNKNOWN"], rules["NOISE/x"]) == ("events[2] (labevents)", "unmapped", "ignored")
    assert dict(codes.select("code", "name").iter_rows())["LAB/NA"] == "Sodium"


def test_what_is_missing_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_meds(write_meds(tmp_path / "meds", [ROWS]), tmp_path / "root")
    printed = capsys.readouterr().out
    assert f"1 of {len(ROWS)} rows (4.3%; 1 code) have a code without a rule" in printed
    assert f"1 of {len(ROWS)} rows (4.3%; 1 code) are ignored, as the site says" in printed
    assert "warning: 1 row without a code; left out." in printed
    assert "warning: events[0] (admissions): 1 row without the row that ends or begins the same stay." in printed


def test_tasks_that_the_data_do_not_support_are_left_out(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_out = Trajectories(small / "patients_ehr").left_out
    assert left_out["ICU_Readmission"] == "transfers between wards look like readmissions"
    assert left_out["emar"] == "no code becomes emar"
    assert "labevents" not in left_out and "Inpatient_Mortality" not in left_out and "ICU_Stay_7day" not in left_out
    task_sample_info_gen.main(["--root_dir", str(small), "--no-audit", "--overwrite"])
    made = {path.stem for path in (small / "task_index/all").glob("*.csv")}
    assert made == set(TASKS) - set(left_out)
    assert "ICU_Readmission" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--task: expected tasks that .* support, got emar \(no code becomes emar\)"):
        task_sample_info_gen.main(["--root_dir", str(small), "--task", "emar", "--output_path", str(small / "other")])
    record = json.loads((small / "patients_ehr/provenance.json").read_text(encoding="utf-8"))
    assert record["data_use"] == "Made by hand." and record["site"]["name"] == "Small hospital"


def test_without_death_no_task_about_it(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row[2] != "MEDS_DEATH"]
    root = import_meds(write_meds(tmp_path / "meds", [rows]), tmp_path / "root")
    assert Trajectories(root / "patients_ehr").left_out["Inpatient_Mortality"] == "patients have no dod"


@pytest.mark.parametrize("buckets", [1, 3])
def test_shards_groups_and_buckets_do_not_matter(
    small: Path, buckets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_meds, "GROUP_CELLS", 20)
    monkeypatch.setattr(from_meds, "BATCH_CELLS", 30)
    shards = [[row for row in ROWS if (row[0] == 8) == first] for first in (True, False)]
    root = import_meds(write_meds(tmp_path / "meds", [*shards, []]), tmp_path / "root", "--buckets", buckets)
    assert Trajectories(root / "patients_ehr").digest == Trajectories(small / "patients_ehr").digest


def test_an_interrupted_import_resumes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meds = write_meds(tmp_path / "meds", [[row for row in ROWS if row[0] == 7], [row for row in ROWS if row[0] != 7]])
    read, numbers = from_meds.Import.read, []

    def interrupted(importer: from_meds.Import, number: int, *rest: Any) -> None:
        numbers.append(number)
        if len(numbers) == 2:
            raise KeyboardInterrupt
        read(importer, number, *rest)

    monkeypatch.setattr(from_meds.Import, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_meds(meds, tmp_path / "root")
    import_meds(meds, tmp_path / "root")
    assert numbers == [0, 1, 1], "the first shard is read once"
    assert Trajectories(tmp_path / "root/patients_ehr").digest == Trajectories(small / "patients_ehr").digest
    capsys.readouterr()
    import_meds(meds, tmp_path / "root")
    printed = capsys.readouterr().out
    assert all(f"{step}: {tmp_path}" in printed for step in ("from_meds", "rank", "combination", "split_patients"))
    shutil.copy(meds / "data/all/1.parquet", meds / "data/all/2.parquet")
    with pytest.raises(UserError, match="expected the same all/2.parquet .* add --overwrite"):
        import_meds(meds, tmp_path / "root")


def test_status(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.main(["--root_dir", str(small)])
    printed = capsys.readouterr().out
    assert "MEDS data in buckets" in printed and "raw tables in buckets" not in printed
    assert not any(word in printed for word in ("stale", "unknown origin", "merge_patient"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encounter": "vist"},
            "site.yaml: encounter: expected a column of .*0.parquet, got vist. Choose one of seen, .*visit",
        ),
        ({"data": []}, "data: expected parquet files, got none. Set --meds_dir"),
        ({"data": [ROWS[:3], ROWS[2:4]]}, "meds: expected each patient in one shard, got 1 in several"),
        ({"rows": [*ROWS, ROWS[3]]}, "0.parquet: expected the rows of each patient together"),
        ({"rename": "patient_id"}, "0.parquet: expected the columns of MEDS 0.3 or later"),
        ({"columns": {"subject_id": pl.lit("P-17")}}, "0.parquet: expected whole numbers in column subject_id, got others"),
        ({"columns": {"subject_id": pl.col("subject_id").shift()}}, "column subject_id, got others in 1 of rows 1 to"),
        ({"truncated": "data/all/0.parquet"}, "0.parquet: expected a Parquet file, got a truncated or damaged file"),
        ({"truncated": "metadata/codes.parquet"}, "codes.parquet: expected a Parquet file, got a truncated"),
        ({"metadata": "codes"}, "codes.parquet: expected the column code, got label. Add it, or remove the file."),
        ({"metadata": "subject_splits"}, "subject_splits.parquet: expected the column subject_id, got label"),
        ({"seen": "noon"}, "labevents.storetime: expected a time such as .*, got another text"),
    ],
)
def test_errors(change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_meds, "GROUP_CELLS", 20)
    monkeypatch.setattr(from_meds, "BATCH_CELLS", 30)
    meds = write_meds(tmp_path / "meds", change.get("data", [change.get("rows", ROWS)]))
    shard = meds / "data/all/0.parquet"
    if "encounter" in change:
        (meds / "site.yaml").write_text(SITE.replace("encounter: visit", "encounter: vist"), encoding="utf-8")
    if "rename" in change:
        pl.read_parquet(shard).rename({"subject_id": "patient_id"}).write_parquet(shard)
    if "seen" in change:
        pl.read_parquet(shard).with_columns(seen=pl.lit("noon")).write_parquet(shard)
    if "columns" in change:
        pl.read_parquet(shard).with_columns(**change["columns"]).write_parquet(shard)
    if "metadata" in change:
        (meds / "metadata").mkdir(exist_ok=True)
        pl.DataFrame({"label": ["x"]}).write_parquet(meds / "metadata" / f"{change['metadata']}.parquet")
    if "truncated" in change:
        path = meds / change["truncated"]
        path.write_bytes(path.read_bytes()[:-20])
    (meds / "data").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message) as error:
        import_meds(meds, tmp_path / "root")
    assert "\n" not in str(error.value) and "P-17" not in str(error.value)


# --- MIMIC-IV from CSV and from MEDS

MIMIC = REPO / "scripts/sites/mimiciv_meds.yaml"


@pytest.fixture(scope="module", params=["0.4", "0.3"])
def mimic_meds(request: pytest.FixtureRequest, test_data: Path, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the 68 demo patients from MEDS, with the dictionaries of MIMIC-IV, and the index of all its tasks."""
    root = tmp_path_factory.mktemp("mimic_meds")
    shutil.copytree(demo / "index_mapping", root / "index_mapping")
    meds = test_data / "data" / f"meds-demo-{request.param}"
    command("preprocess/from_meds.py", "--meds_dir", meds, "--site", MIMIC, "--root_dir", root, "--buckets", 2)
    return index(root)


@pytest.fixture(scope="module")
def mimic_csv(demo: Path) -> Path:
    return index(demo)


@pytest.mark.slow
def test_mimic_iv_from_meds_equals_mimic_iv_from_csv(mimic_csv: Path, mimic_meds: Path) -> None:
    """docs/own_data.md has these figures, and the reasons for the differences."""
    for table, columns in STAYS.items():
        assert all_records(mimic_meds, table, columns) == all_records(mimic_csv, table, columns), table
    for task in RISK:
        assert labels(mimic_meds, task) == labels(mimic_csv, task), task
    expected = {"chartevents": (12, 0), "inputevents": (0, 0), "outputevents": (0, 0), "labevents": (664, 215)}
    if records(mimic_meds, "10003400", "labevents")[0]["storetime"] == "nan":
        expected |= {"chartevents": (0, 0), "labevents": (209, 79)}
    for task, (only_csv, only_meds) in expected.items():
        of_csv, of_meds = answers(mimic_csv, task), answers(mimic_meds, task)
        assert (len(of_csv - of_meds), len(of_meds - of_csv)) == (only_csv, only_meds), task
