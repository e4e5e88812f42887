"""Option 1: a release as it is downloaded (archives, index CSVs with float ids, JSONL) through to a score."""

from __future__ import annotations

import csv
import json
import subprocess
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import REPO
from forked import command

from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.trajectory import Trajectories
from pipeline.files import read_json

TASKS = ("emar", "ED_Hospitalization", "Inpatient_Mortality", "LengthOfStay_3day")


@pytest.fixture(scope="module")
def release(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release: pandas-written trajectories in a tar, caches, dictionaries, sampled CSVs and a JSONL with `input`."""
    work = tmp_path_factory.mktemp("release")
    command("preprocess/combination.py", "--root_dir", small_root, "--layout", "patient", "--output_path", work / "built")
    files = work / "build" / "patients_ehr"
    files.mkdir(parents=True)
    for path in (work / "built").glob("*.parquet"):
        pq.read_table(path).to_pandas().to_parquet(files / path.name)
    for kind in ("item_set", "similar_item"):
        folder = work / "build" / "cache" / kind
        folder.mkdir(parents=True)
        (folder / "emar.csv").write_text(("item\n" if kind == "item_set" else "") + "0.9% Sodium Chloride\n")
    (work / "build/index_mapping/hosp").mkdir(parents=True)
    (work / "build/index_mapping/hosp/d_labitems.csv").write_text("itemid,label\n50912,Creatinine\n50971,Potassium\n")
    download = work / "download" / "EHR-Release"
    (download / "ehr_bench").mkdir(parents=True)
    for part in ("patients_ehr", "cache", "index_mapping"):
        with tarfile.open(download / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(work / "build" / part, part)
    rows = []
    for task in TASKS:
        frame = pd.read_csv(small_root / f"task_index/all/{task}.csv", dtype={"target": str})
        frame = frame.rename(columns={"context_begin": "period_begin", "context_end": "period_end"})
        rows.append(frame[["subject_id", "hadm_id", "task", "event", "period_begin", "period_end", "admissions_id",
                           "last_discharge_id", "target"]])  # fmt: skip
    table = pd.concat(rows)
    table["hadm_id"] = table["hadm_id"].astype(float)  # as pandas writes ids beside missing ones: 20.0
    table["admissions_id"] = table["admissions_id"].astype(float)
    table.to_csv(download / "ehr_bench" / "bench.csv", index=False)
    return work / "download"


@pytest.fixture(scope="module")
def unpacked(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unpacked") / "datas"
    script = ["bash", REPO / "scripts/unpack_release.sh", release, "--root_dir", root]
    done = subprocess.run([str(word) for word in script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_index_and_build_fit(unpacked: Path) -> None:
    bench = unpacked / "ehr_bench/bench.csv"
    with bench.open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first["hadm_id"].endswith(".0"), "the fixture spells ids as a release does"
    done = command("mimiciv_dataset/validate_index.py", bench, "--root_dir", unpacked)
    assert ", 0 do not" in done.stdout


def test_samples_equal_those_of_a_build(unpacked: Path, small_root: Path) -> None:
    released = MIMICIV(unpacked, unpacked / "ehr_bench/bench.csv", lazzy_mode=True, shuffle=False)
    built = MIMICIV(unpacked, unpacked / "ehr_bench/bench.csv", lazzy_mode=True, shuffle=False,
                   ehr_dir=small_root / "patients_ehr")  # fmt: skip
    assert len(released) > 40
    for i in range(len(released)):
        assert released[i] == built[i]
    assert released[0]["candidates"] == ["0.9% Sodium Chloride"]
    assert Trajectories(unpacked / "patients_ehr").digest is None


def test_an_index_from_released_trajectories(unpacked: Path, small_root: Path) -> None:
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", unpacked, "--task", "emar", "next_event")
    for task in ("emar", "next_event"):
        assert (unpacked / f"task_index/all/{task}.csv").read_bytes() == (
            small_root / f"task_index/all/{task}.csv"
        ).read_bytes()


def test_csv_and_jsonl_are_evaluated_alike(unpacked: Path, tiny_model: Path, tmp_path: Path) -> None:
    bench = unpacked / "ehr_bench/bench.csv"
    ds = MIMICIV(unpacked, bench, lazzy_mode=True, shuffle=False)
    jsonl = tmp_path / "bench.jsonl"
    with jsonl.open("w", encoding="utf-8") as file:
        for i in range(0, len(ds), 8):
            sample = ds[i]
            info = {key: sample["task_info"][key] for key in ("task", "event", "metric", "target", "label", "subject_id")}
            file.write(json.dumps({**sample, "task_info": {**info, "target_key": "x", "events": []}}) + "\n")
    common = ["--model_name_or_path", tiny_model, "--max_new_tokens", 4, "--max_seq_len", 2000, "--batch", 4]
    command("test.py", "--dataset_name", jsonl, "--output_path", tmp_path / "jsonl", "--root_dir", tmp_path, *common)
    command("test.py", "--dataset_name", bench, "--output_path", tmp_path / "csv", "--root_dir", unpacked, *common)

    def answers(folder: Path) -> dict[str, str]:
        lines = [json.loads(line) for line in (folder / "outputs.jsonl").open(encoding="utf-8")]
        return {line["prompt_sha256"]: line["outputs"][0]["response"] for line in lines}

    from_jsonl = answers(tmp_path / "jsonl")
    assert from_jsonl.items() <= answers(tmp_path / "csv").items() and len(from_jsonl) >= 3
    assert set(read_json(tmp_path / "csv/result.json")["tasks"]) == set(TASKS)
