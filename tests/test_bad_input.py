"""Errors in the raw data are reported in one line: which file, what was expected, what was found, what to do."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import command
from tiny_mimic import TWO_PATIENTS, read_trajectories, write_mimic

from pipeline.errors import UserError
from pipeline.records import folder_record, read_record
from preprocess import combination, merge_patient, parts, rank


def edit(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(mimic: Path) -> None:
        path = mimic / file
        path.write_bytes(change(path.read_bytes()))

    return apply


def remove_table(mimic: Path) -> None:
    (mimic / "icu" / "chartevents.csv").unlink()


def truncate_gzip(mimic: Path) -> None:
    path = mimic / "hosp" / "labevents.csv"
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes() * 50)[:-40])
    path.unlink()


def both_spellings(mimic: Path) -> None:
    path = mimic / "hosp" / "labevents.csv"
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))


LABS = "hosp/labevents.csv"
SECRET = "PATIENT-SECRET"
BROKEN = {
    "missing table": (remove_table, r"chartevents\.csv: .*no such file"),
    "missing column": (edit(LABS, lambda b: b.replace(b"itemid", b"item", 1)), r"labevents\.csv: expected the column itemid"),
    "wrong delimiter": (
        edit(LABS, lambda b: b.replace(b",", b";")),
        r"labevents.* separated by semicolons\. Save it with commas\.",
    ),
    "column twice": (edit(LABS, lambda b: b.replace(b"valueuom", b"itemid", 1)), r"labevents.*itemid twice in the header"),
    "header repeated": (edit(LABS, lambda b: b + b.split(b"\n")[0] + b"\n"), r"row 5, column subject_id: .* second header"),
    "too few fields": (edit(LABS, lambda b: b + b"2,SECRET\n"), r"expected \d+ fields in every row, got 2 in row \d"),
    "too many fields": (edit(LABS, lambda b: b.rstrip(b"\n") + b",1,2,3,4,5,6,7,8,9\n"), r"fields in every row, got"),
    "not UTF-8": (edit(LABS, lambda b: b.replace(b"50971", b"\xff\xfe")), r"labevents.*UTF-8.*itemid"),
    "header not UTF-8": (edit(LABS, lambda b: b"\xff" + b), r"labevents.*header.*UTF-8"),
    "truncated gzip": (truncate_gzip, r"labevents\.csv\.gz, after row [\d,]+: .*Download the file again"),
    "open quote": (edit("note/discharge.csv", lambda b: b[:-2] + b"\n"), r"discharge\.csv: .*quotation mark"),
    "no such time": (edit(LABS, lambda b: b.replace(b"2150-01-03", b"2150-13-41")), r"row 3, column charttime: .* a time"),
    "empty file": (edit(LABS, lambda b: b""), r"labevents\.csv: .*header line.*empty file"),
    "both spellings": (both_spellings, r"labevents\.csv: .*labevents\.csv\.gz, got both"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_table_is_one_clear_error(name: str, tmp_path: Path) -> None:
    damage, message = BROKEN[name]
    tables = {**TWO_PATIENTS, "labevents": [{**row, "valueuom": SECRET} for row in TWO_PATIENTS["labevents"]]}
    tables["discharge"] = [{**row, "zz_last": "two\nlines"} for row in TWO_PATIENTS["discharge"]]
    mimic = write_mimic(tmp_path / "mimiciv", tables)
    damage(mimic)
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(message, errors[0]), done.stderr
    assert "Traceback" not in done.stderr and SECRET not in done.stderr, "no patient text in messages"
    assert not is_complete(tmp_path / "patients")
    next_step = command("preprocess/rank.py", "--root_dir", tmp_path, check=False)
    assert next_step.returncode == 2 and "preprocess/merge_patient.py" in next_step.stderr


def is_complete(folder: Path) -> bool:
    record = read_record(folder_record(folder))
    return record is not None and record["complete"]


def test_a_repaired_table_resumes(tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    good = (mimic / LABS).read_bytes()
    (mimic / LABS).write_bytes(good.replace(b"2150-01-03", b"2150-99-03"))
    assert command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False).returncode == 2
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "patients").glob("*/*/table.json")}
    (mimic / LABS).write_bytes(good)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    assert is_complete(tmp_path / "patients")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items()), "finished tables are kept"


def test_a_table_that_was_edited_to_the_same_length_is_refused(tmp_path: Path) -> None:
    mimic = write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    text = (mimic / LABS).read_bytes()
    (mimic / LABS).write_bytes(text.replace(b"3.50", b"3.60"))
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False)
    assert done.returncode == 2 and LABS in done.stderr and "--overwrite" in done.stderr
    (mimic / LABS).write_bytes(text)  # the same content with another modification time
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False)
    assert done.returncode == 2 and "mimiciv: " in done.stderr and "--mimic_dir" in done.stderr
    (tmp_path / "mimiciv" / "physionet.org").mkdir(parents=True)
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False)
    assert "hosp/, got physionet.org" in done.stderr


def test_without_note_and_ed_the_rest_works(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS, modules=("hosp", "icu"))
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    assert "no rows: diagnosis, diagnosis_ccs, medrecon, medrecon_atc, pyxis, ED_Hospitalization" in done.stdout
    assert "radiology, discharge, Readmission_30day" in done.stdout
    command("preprocess/rank.py", "--root_dir", tmp_path)
    command("preprocess/combination.py", "--root_dir", tmp_path, "--layout", "patient")
    assert "edstays" not in {e["file_name"] for e in read_trajectories(tmp_path / "patients_ehr")["2"]}


def test_other_input_or_options_do_not_mix(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--buckets", 9, check=False)
    assert done.returncode == 2 and "buckets" in done.stderr and "--output_path" in done.stderr
    command("preprocess/rank.py", "--root_dir", tmp_path)
    command("preprocess/combination.py", "--root_dir", tmp_path)
    done = command("preprocess/combination.py", "--root_dir", tmp_path, "--layout", "patient", check=False)
    assert done.returncode == 2 and "the same layout" in done.stderr
    done = command("preprocess/combination.py", "--root_dir", tmp_path, "--output_path", tmp_path, check=False)
    assert done.returncode == 2 and "files without a record" in done.stderr


def test_intermediate_tables_of_earlier_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    flags = ["--root_dir", str(tmp_path)]
    with monkeypatch.context() as earlier:
        earlier.setattr(parts, "KEYS", (*parts.KEYS[:-1], "other"))
        merge_patient.main(flags)
    with pytest.raises(UserError, match=r"part-00000.arrow: expected records as this version writes them"):
        rank.main(flags)
    merge_patient.main([*flags, "--overwrite"])
    with monkeypatch.context() as earlier:
        earlier.setattr(rank, "RULES", 2)
        rank.main([*flags, "--overwrite"])
    with pytest.raises(UserError, match=r"patients_sorted: expected an output of this version of preprocess/rank.py"):
        combination.main(flags)


def test_trajectories_need_the_tables_that_rank_read(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    command("preprocess/rank.py", "--root_dir", tmp_path)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--overwrite", "--buckets", 2)
    done = command("preprocess/combination.py", "--root_dir", tmp_path, check=False)
    assert (
        done.returncode == 2 and "patients: expected the tables that" in done.stderr and "rank.py --overwrite" in done.stderr
    )
    command("preprocess/rank.py", "--root_dir", tmp_path, "--overwrite")
    shutil.rmtree(tmp_path / "patients")
    done = command("preprocess/combination.py", "--root_dir", tmp_path, check=False)
    assert done.returncode == 2 and "merge_patient.py, got nothing there" in done.stderr
    command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--buckets", 2)
    command("preprocess/combination.py", "--root_dir", tmp_path)
    shutil.rmtree(tmp_path / "patients")
    assert "is up to date" in command("preprocess/combination.py", "--root_dir", tmp_path).stdout


def test_dates_out_of_order_are_no_error(tmp_path: Path) -> None:
    tables = {**TWO_PATIENTS, "admissions": [{**TWO_PATIENTS["admissions"][0], "dischtime": "2149-01-01 00:00:00"}]}
    write_mimic(tmp_path / "mimiciv", tables)
    for step in ("merge_patient", "rank", "combination"):
        command(f"preprocess/{step}.py", "--root_dir", tmp_path)
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", tmp_path)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_read_only_output(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--output_path", disk / "p", check=False)
    assert done.returncode == 1 and "the directory is read-only" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_full_disk(tmp_path: Path) -> None:
    rows = [{**TWO_PATIENTS["labevents"][0], "comments": os.urandom(30).hex()} for _ in range(20_000)]
    exams = [{"subject_id": "2", "hadm_id": "20", "charttime": "2150-01-02", "text": "A" * 10_000_000}]
    write_mimic(tmp_path / "mimiciv", {**TWO_PATIENTS, "labevents": rows, "radiology": exams})
    with small_disk(tmp_path / "disk", "300k") as disk:
        done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--output_path", disk / "p", check=False)
        assert done.returncode == 1 and "the disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert (disk / "p" / "note" / "radiology").is_dir(), "the largest table comes first"
        assert not (disk / "p" / "hosp" / "labevents").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--output_path", disk / "p")


def test_an_output_of_version_0_1_is_refused(tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    command("preprocess/merge_patient.py", "--root_dir", tmp_path)
    for path in (tmp_path / "patients").rglob(".source.json"):
        path.unlink()
    old = {"step": "merge_patient", "rules": 1, "inputs": {"hosp/omr.csv": "ab"}, "settings": {"buckets": 1}, "complete": True}
    (tmp_path / "patients/provenance.json").write_text(json.dumps(old))
    done = command("preprocess/merge_patient.py", "--root_dir", tmp_path, check=False)
    assert done.returncode == 2 and "the same step" in done.stderr and "Traceback" not in done.stderr
    command("preprocess/merge_patient.py", "--root_dir", tmp_path, "--overwrite")
