"""Raw tables → trajectories: order, grouping and values against a naive implementation, through the real commands."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_mimic import TWO_PATIENTS, naive_trajectories, read_trajectories, write_mimic

from mimiciv_dataset.events import CHECKED_COLUMNS, EVENTS
from mimiciv_dataset.trajectory import Trajectories
from preprocess import combination, merge_patient, rank


def build(mimic: Path, root: Path, buckets: int = 2, layouts: tuple[str, ...] = ("patient", "shards")) -> None:
    """The three commands, in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        merge_patient.main(["--mimic_dir", str(mimic), "--root_dir", str(root), "--buckets", str(buckets)])
        rank.main(["--root_dir", str(root)])
        for layout in layouts:
            combination.main(["--root_dir", str(root), "--layout", layout, "--output_path", str(root / layout)])


def test_two_patients(tmp_path: Path) -> None:
    build(write_mimic(tmp_path / "mimic", TWO_PATIENTS), tmp_path)
    trajectories = read_trajectories(tmp_path / "patient")
    assert trajectories == naive_trajectories(TWO_PATIENTS)
    names = [event["file_name"] for event in trajectories["2"]]
    assert names == ["patients", "edstays", "triage", "admissions", "diagnosis", "labevents", "emar", "labevents",
                     "discharge", "emar", "diagnoses_icd", "drgcodes", "diagnosis"]  # fmt: skip
    labs = trajectories["2"][5]["items"]
    assert [lab["valuenum"] for lab in labs] == ["7.0", "3.5"]
    assert trajectories["2"][7]["items"][0]["valuenum"] == "1e-07"
    assert trajectories["2"][10]["items"][0]["icd_code"] == "0010", "leading zeros survive"
    assert trajectories["2"][2]["starttime"] == "2150-01-01 08:00:01" == trajectories["2"][2]["items"][0]["charttime"]
    assert trajectories["2"][8]["items"][0]["text"] == 'Line one\n\nLine "two", three\n'
    assert trajectories["2"][9]["items"][0]["event_txt"] == "nan"
    assert [event["file_name"] for event in trajectories["11"]] == ["patients", "admissions", "labevents", "diagnoses_icd"]


def test_both_layouts_hold_the_same(tmp_path: Path) -> None:
    build(write_mimic(tmp_path / "mimic", TWO_PATIENTS), tmp_path)
    shards, files = Trajectories(tmp_path / "shards"), Trajectories(tmp_path / "patient")
    assert shards.subject_ids() == files.subject_ids() == ["2", "11"]
    assert shards.digest == files.digest
    for subject in shards.subject_ids():
        from_shards, from_files = shards.trajectory(subject), files.trajectory(subject)
        assert [event[:4] for event in from_shards] == [event[:4] for event in from_files]
        for a, b in zip(from_shards, from_files, strict=True):
            assert a.records().dicts() == [{k: v for k, v in r.items() if k != "file_name"} for r in b.records().dicts()]


VALUES = {
    "subject_id": ("1", "2", "10"),
    "hadm_id": ("", "100", "200"),
    "stay_id": ("5", "6"),
    "note_seq": ("", "1", "2", "10"),
    "icd_version": ("9", "10"),
    "itemid": ("", "50912"),
    "icd_code": ("", "0010", "I10"),
    "ndc": ("", "0", "00002143361"),
    "note_id": ("", "10000032-DS-21"),
    "hospital_expire_flag": ("0", "1"),
}
TIMES = ("2150-01-01 00:00:00", "2150-01-01", "2150-01-01 00:00:01", "2149-12-31 23:59:59", "")
TIME_COLUMNS = CHECKED_COLUMNS["time"]
TEXTS = ("", "7", "7.0", "1e-7", "nan", "NA", "x,y", 'a "b"', "é\n", "\\", "0010", "___")


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[dict[str, str]]]:
    result = {}
    for name in draw(st.lists(st.sampled_from(sorted(EVENTS)), max_size=7, unique=True)):
        event = EVENTS[name]
        columns = [c for c in event.required_columns if c != "admission_info"]
        rows = []
        for _ in range(draw(st.integers(1, 5))):
            choose = {c: VALUES.get(c, TIMES if c in TIME_COLUMNS else TEXTS) for c in columns}
            rows.append({c: draw(st.sampled_from(values)) for c, values in choose.items()})
        if name == "edstays":  # a stay belongs to one patient and has one row
            rows = list({row["stay_id"]: row for row in rows}.values())
        result[name] = rows
    return result


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=tables(), buckets=st.integers(1, 4))
def test_any_tables_are_ordered_as_the_rules_say(tables, buckets: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    build(write_mimic(tmp_path / "mimic", tables), tmp_path, buckets, layouts=("patient",))
    assert read_trajectories(tmp_path / "patient") == naive_trajectories(tables)


def test_digest_depends_on_content_only(tmp_path: Path) -> None:
    digests = []
    for buckets in (1, 3):
        for compress in (False, True):
            root = tmp_path / f"{buckets}{compress}"
            build(write_mimic(root / "mimic", TWO_PATIENTS, compress=compress), root, buckets)
            digests.append(json.loads((root / "shards" / "provenance.json").read_text())["digest"])
    assert len(set(digests)) == 1
    other = {**TWO_PATIENTS, "emar": TWO_PATIENTS["emar"][:1]}
    build(write_mimic(tmp_path / "other" / "mimic", other), tmp_path / "other")
    assert json.loads((tmp_path / "other/shards/provenance.json").read_text())["digest"] != digests[0]


def test_provenance_counts_rows(tmp_path: Path) -> None:
    build(write_mimic(tmp_path / "mimic", TWO_PATIENTS), tmp_path)
    provenance = json.loads((tmp_path / "shards" / "provenance.json").read_text())
    assert provenance["rows"] == {name: len(TWO_PATIENTS.get(name, [])) for name in EVENTS} | {}
    assert provenance["patients"] == 2
    assert "data use" in provenance["data_use"]


def test_subjects_without_a_patients_row_or_admissions_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"omr": [{"subject_id": "5", "chartdate": "2150-01-01", "result_name": "Weight"}],
              "patients": [{"subject_id": "6", "anchor_age": "40"}]}  # fmt: skip
    build(write_mimic(tmp_path / "mimic", tables), tmp_path)
    trajectories = read_trajectories(tmp_path / "patient")
    assert [e["file_name"] for e in trajectories["5"]] == ["omr"] and [e["file_name"] for e in trajectories["6"]] == [
        "patients"
    ]
    rank.main(["--root_dir", str(tmp_path), "--overwrite"])
    assert "1 subjects have records but no row in patients" in capsys.readouterr().out


def test_all_tables_empty(tmp_path: Path) -> None:
    build(write_mimic(tmp_path / "mimic", {}), tmp_path)
    assert Trajectories(tmp_path / "shards").subject_ids() == []
