"""The two bash scripts: a downloaded release is unpacked, and the released layout built from an index."""

from __future__ import annotations

import csv
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from mimiciv_dataset.index_files import INDEX_COLUMNS
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.tasks import TASKS
from pipeline.provenance import Provenance
from pipeline.records import digest_of

SCRIPTS = Path(__file__).parents[1] / "scripts"


def bash(script: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPTS / script, *map(str, args)], capture_output=True, text=True, cwd=cwd)


def pack(archive: Path, files: dict[str, str], scratch: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tar:
        for name, text in files.items():
            (scratch / "file").write_text(text)
            tar.add(scratch / "file", arcname=name)


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and ".unpacked" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


PARTS = {
    "patients_ehr/7.parquet": "trajectory", "cache/item_set/omr.csv": "item",
    "cache/similar_item/omr.csv": "BMI,Weight", "ehr_bench/b.csv": "bench", "ehr_ins/i.csv": "ins",
}  # fmt: skip


@pytest.mark.parametrize("parent", ["", "EHR-data/"])
@pytest.mark.parametrize("inside", ["", "datas/", "a/datas/", None])
def test_unpack(tmp_path: Path, parent: str, inside: str | None) -> None:
    """Parts directly in the release or in a folder of it; archives with the folder, deeper, or with the files alone."""
    release = tmp_path / "release"

    def inner(name: str) -> str:
        return name.partition("/")[2] if inside is None else inside + name

    trajectory = {inner("patients_ehr/7.parquet"): "trajectory"}
    pack(release / f"{parent}patients_ehr.tar.gz", trajectory, tmp_path)
    pack(release / f"{parent}item_set.tgz", {inner("item_set/omr.csv"): "item"}, tmp_path)
    pack(release / f"{parent}similar_item.tar", {inner("similar_item/omr.csv"): "BMI,Weight"}, tmp_path)
    for folder, name, text in (("ehr_bench", "b.csv", "bench"), ("ehr_ins", "i.csv", "ins")):
        (release / f"{parent}{folder}").mkdir(parents=True)
        (release / f"{parent}{folder}/{name}").write_text(text)
    done = bash("unpack_release.sh", release, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "datas") == PARTS
    assert "not in this release: index_mapping" in done.stdout
    # Again: nothing to do, nothing changed.
    done = bash("unpack_release.sh", release, cwd=tmp_path)
    assert done.returncode == 0 and "0 parts unpacked, 5 already there" in done.stdout
    assert contents(tmp_path / "datas") == PARTS
    assert not list((tmp_path / "datas").glob(".unpacking*"))


def test_unpack_one_cache_archive(tmp_path: Path) -> None:
    files = {"cache/item_set/omr.csv": "item", "cache/similar_item/omr.csv": "x"}
    pack(tmp_path / "release/cache.tar.gz", files, tmp_path)
    assert bash("unpack_release.sh", tmp_path / "release", "--root_dir", tmp_path / "d", cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "d") == files


def test_unpack_refuses(tmp_path: Path) -> None:
    release, root = tmp_path / "release", tmp_path / "d"
    pack(release / "patients_ehr.tar.gz", {"patients_ehr/7.parquet": "new"}, tmp_path)
    (root / "patients_ehr").mkdir(parents=True)
    (root / "patients_ehr/7.parquet").write_text("mine")
    done = bash("unpack_release.sh", release, "--root_dir", root, cwd=tmp_path)
    assert done.returncode == 1 and "exists and was not unpacked from" in done.stderr
    assert contents(root) == {"patients_ehr/7.parquet": "mine"}


def test_unpack_broken_archive_leaves_nothing(tmp_path: Path) -> None:
    release, root = tmp_path / "release", tmp_path / "d"
    pack(release / "patients_ehr.tar.gz", {"patients_ehr/7.parquet": "x" * 100_000}, tmp_path)
    whole = (release / "patients_ehr.tar.gz").read_bytes()
    (release / "patients_ehr.tar.gz").write_bytes(whole[: len(whole) // 2])
    done = bash("unpack_release.sh", release, "--root_dir", root, cwd=tmp_path)
    assert done.returncode == 1 and "expected a complete tar archive" in done.stderr
    assert contents(root) == {} and not (root / "patients_ehr").exists()
    (release / "patients_ehr.tar.gz").write_bytes(whole)
    assert bash("unpack_release.sh", release, "--root_dir", root, cwd=tmp_path).returncode == 0
    assert list(contents(root)) == ["patients_ehr/7.parquet"]


def test_unpack_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for args, message in (
        ([tmp_path / "no"], "expected the directory of a downloaded release"),
        ([tmp_path / "empty"], "got none"),
        ([tmp_path / "empty", "--root_dir"], "--root_dir: expected"),
        ([tmp_path / "empty", "--root_dir", tmp_path / "empty"], "same directory"),
        (["--what"], "unknown flag --what"),
        ([], "usage"),
    ):
        done = bash("unpack_release.sh", *args, cwd=tmp_path)
        assert done.returncode and message in done.stderr, args


@pytest.fixture
def datas(tmp_path: Path) -> Path:
    """A small index of four tasks; patients 1 to 30 train, 31 to 40 test."""
    root = tmp_path / "my datas"
    (root / "task_index/all").mkdir(parents=True)
    (root / "patient_data").mkdir()
    for name, ids in (("train", range(1, 31)), ("test", range(31, 41))):
        (root / f"patient_data/{name}.csv").write_text("subject_id\n" + "".join(f"{i}\n" for i in ids))
    for task in ("omr", "emar", "next_event", "ED_Hospitalization"):
        with (root / f"task_index/all/{task}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, INDEX_COLUMNS)
            writer.writeheader()
            for number in range(2000):
                risk = TASKS[task].kind == "risk"
                target = ("yes" if number % 4 == 0 else "no") if risk else [f"answer {number % 9}"]
                writer.writerow({
                    "subject_id": number % 40 + 1, "task": task, "event": TASKS[task].event or "poe",
                    "context_begin": number + 1, "context_end": number + 31, "target": json.dumps(target),
                    "target_weight": 0.5,
                })  # fmt: skip
    Provenance(root / "task_index/all", "mimiciv_dataset/task_sample_info_gen.py").complete()
    return root


def test_build_datasets(datas: Path, tmp_path: Path) -> None:
    done = bash("build_datasets.sh", "--root_dir", datas, "--scale", "0.005", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sets = {path.stem: list(read_rows(path)) for path in datas.glob("ehr_*/*.csv") if ".audit" not in path.name}
    counts = {name: dict(Counter(row["task"] for row in rows)) for name, rows in sets.items()}
    assert counts == {
        "ehr_bench_decision_making": {"omr": 2, "emar": 2, "next_event": 2},
        "ehr_bench_risk_prediction": {"ED_Hospitalization": 2},
        "ehr_ins": {"omr": 100, "emar": 500, "next_event": 500, "ED_Hospitalization": 200},
        "ehr_ins_reasoning": {"omr": 20, "emar": 100, "next_event": 100},
        "ehr_ins_rl": {"omr": 5, "emar": 25, "next_event": 25, "ED_Hospitalization": 10},
    }
    keys = {name: {(r["task"], r["subject_id"], r["period_end"]) for r in rows} for name, rows in sets.items()}
    assert not keys["ehr_ins_reasoning"] & keys["ehr_ins_rl"]
    assert all((int(key[1]) > 30) == name.startswith("ehr_bench") for name in keys for key in keys[name])
    risk = [row["target"] for row in sets["ehr_ins_rl"] if row["task"] == "ED_Hospitalization"]
    assert Counter(risk) == {"yes": 5, "no": 5}
    provenance = json.loads((datas / "ehr_ins/ehr_ins_rl.provenance.json").read_text())
    assert provenance["inputs"]["index"]["digest"] == digest_of(datas / "task_index/all/provenance.json")
    before = {path: path.read_bytes() for path in datas.glob("ehr_*/*.csv")}
    assert bash("build_datasets.sh", "--root_dir", datas, "--scale", "0.005", cwd=tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in datas.glob("ehr_*/*.csv")} == before


def test_build_datasets_flags(datas: Path, tmp_path: Path) -> None:
    done = bash("build_datasets.sh", f"--root_dir={datas}", "--seed=7", "--", "--max_window", "25", cwd=tmp_path)
    assert done.returncode == 2 and "filters" in done.stderr  # all windows have 30 events
    for args, message in (
        (["--scale", "2"], "0 < F ≤ 1"), (["--scale", "x"], "0 < F ≤ 1"), (["--scale"], "expected a value"),
        (["--root_dir", tmp_path / "no"], "no such file"), (["what"], "unknown argument"),
    ):  # fmt: skip
        done = bash("build_datasets.sh", *args, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, args
