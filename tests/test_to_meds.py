"""MEDS out: valid MEDS, and MEDS out → MEDS in makes the same trajectories."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from test_preprocess import build, tables
from tiny_mimic import TWO_PATIENTS, Tables, write_mimic

from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from preprocess import from_meds, split_patients, to_meds

PATIENTS = [{"subject_id": "2", "gender": "F", "anchor_age": "70", "anchor_year": "2150", "dod": ""},
            {"subject_id": "11", "gender": "M", "anchor_age": "50", "anchor_year": "2150", "dod": "2150-01-09"}]  # fmt: skip


def export(root: Path, content: Tables, buckets: int = 2) -> Path:
    """Build trajectories of the tables below `root`, and export them to `root/meds`."""
    build(write_mimic(root / "mimic", content), root, buckets, layouts=("shards",))
    to_meds.main(["--root_dir", str(root), "--ehr_dir", str(root / "shards")])
    return root / "meds"


def digest_again(folder: Path, root: Path) -> str | None:
    """The digest of the trajectories that from_meds.py makes from an export."""
    site = folder / "metadata/site.yaml"
    from_meds.main(["--meds_dir", str(folder), "--site", str(site), "--root_dir", str(root)])
    return Trajectories(root / "patients_ehr").digest


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    build(write_mimic(root / "mimic", TWO_PATIENTS | {"patients": PATIENTS}), root, layouts=("shards",))
    split_patients.write_ids(root / "patient_data/train.csv", ["2"])
    split_patients.write_ids(root / "patient_data/test.csv", ["11"])
    to_meds.main(["--root_dir", str(root), "--ehr_dir", str(root / "shards")])
    return root


def test_the_export_is_valid_meds(exported: Path) -> None:
    folder = exported / "meds"
    shards = sorted(folder.glob("data/*/*.parquet"))
    assert {path.parent.name for path in shards} == {"train", "held_out"}
    for path in shards:
        meds.DataSchema.validate(pq.read_table(path))
        rows = pl.read_parquet(path)
        order = rows.select("subject_id", pl.col("time").fill_null(pl.datetime(1, 1, 1)))
        assert order.equals(order.sort("subject_id", "time"))
    meds.CodeMetadataSchema.validate(pq.read_table(folder / "metadata/codes.parquet"))
    meds.SubjectSplitSchema.validate(pq.read_table(folder / "metadata/subject_splits.parquet"))
    meds.DatasetMetadataSchema.validate(json.loads((folder / "metadata/dataset.json").read_text(encoding="utf-8")))
    splits = pl.read_parquet(folder / "metadata/subject_splits.parquet").sort("subject_id").rows()
    assert splits == [(2, "train"), (11, "held_out")]
    used = {code for path in shards for code in pl.read_parquet(path)["code"]}
    assert used <= set(pl.read_parquet(folder / "metadata/codes.parquet")["code"])


def test_times_codes_and_values(exported: Path) -> None:
    rows = pl.concat([pl.read_parquet(path) for path in sorted(exported.glob("meds/data/*/*.parquet"))])
    labs = rows.filter(pl.col("code").str.starts_with("labevents//50971"))
    assert labs.select(pl.col("time").cast(pl.String), "numeric_value", "hadm_id").rows() == [
        ("2150-01-01 12:00:00.000000", 3.5, "20")
    ]
    diagnosis = rows.filter(pl.col("code") == "diagnoses_icd//9//0010")
    assert str(diagnosis["time"].item()) == "2150-01-05 12:00:00", "known at discharge, never static"
    assert rows.filter(pl.col("time").is_null())["code"].str.starts_with("patients").all()
    dates = rows.filter(pl.col("code").is_in(["MEDS_BIRTH", "MEDS_DEATH"])).sort("time")
    assert dates.select("subject_id", "code", pl.col("time").dt.date().cast(pl.String)).rows() == [
        (2, "MEDS_BIRTH", "2080-01-01"),
        (11, "MEDS_BIRTH", "2100-01-01"),
        (11, "MEDS_DEATH", "2150-01-09"),
    ]
    note = rows.filter(pl.col("code") == "discharge//DS")
    assert note["text_value"].item() == 'Line one\n\nLine "two", three\n'


def test_a_record_is_a_json_object_and_columns_are_few(exported: Path) -> None:
    rows = pl.concat([pl.read_parquet(path) for path in sorted(exported.glob("meds/data/*/*.parquet"))])
    assert rows.columns == [*to_meds.MEDS_COLUMNS, "hadm_id", "stay_id", "record"], "meds-reader reads 64 columns at most"
    (record,) = rows.filter(pl.col("code").str.starts_with("labevents//50971"))["record"]
    assert json.loads(record)["valuenum"] == "3.5"


def test_meds_reader_reads_the_export(exported: Path, tmp_path: Path) -> None:
    bin = Path(sys.executable).parent
    subprocess.run([bin / "meds_reader_convert", exported / "meds", tmp_path / "reader"], check=True, timeout=120)
    subprocess.run([bin / "meds_reader_verify", exported / "meds", tmp_path / "reader"], check=True, timeout=120)


def test_a_column_without_json_objects(exported: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    content = (exported / "meds/metadata/site.yaml").read_text(encoding="utf-8")
    site.write_text(content.replace("record.", "code."), encoding="utf-8")
    with pytest.raises(UserError, match=r"expected JSON objects in the column code of the data, got other texts"):
        from_meds.main(["--meds_dir", str(exported / "meds"), "--site", str(site), "--root_dir", str(tmp_path / "again")])


def test_out_and_in_again(exported: Path, tmp_path: Path) -> None:
    assert digest_again(exported / "meds", tmp_path) == Trajectories(exported / "shards").digest
    assert (tmp_path / "patient_data/test.csv").read_text() == "subject_id\n11\n"


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=tables())
def test_any_trajectories_come_back(content: Tables, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not any(content.values()):
        return
    root = tmp_path_factory.mktemp("any_meds")
    folder = export(root, content)
    assert digest_again(folder, root / "again") == Trajectories(root / "shards").digest


def test_the_size_of_parts_does_not_matter(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_meds, "PART_EVENTS", 1)
    arguments = ["--root_dir", str(exported), "--ehr_dir", str(exported / "shards"), "--output_path", str(tmp_path / "out")]
    to_meds.main(arguments)
    for path in exported.glob("meds/data/*/*.parquet"):
        assert pl.read_parquet(tmp_path / "out" / path.relative_to(exported / "meds")).equals(pl.read_parquet(path))


def test_a_second_export_is_up_to_date(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_meds.main(["--root_dir", str(exported), "--ehr_dir", str(exported / "shards")])
    assert "to_meds: " in (printed := capsys.readouterr().out) and "is up to date" in printed


def test_one_file_per_patient_is_refused(tmp_path: Path) -> None:
    build(write_mimic(tmp_path / "mimic", TWO_PATIENTS), tmp_path, layouts=("patient",))
    with pytest.raises(UserError, match="expected trajectories in shards"):
        to_meds.main(["--root_dir", str(tmp_path), "--ehr_dir", str(tmp_path / "patient")])
