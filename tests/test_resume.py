"""Killed, rerun, interrupted or shared between processes: always the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, command
from tiny_mimic import TWO_PATIENTS, many_patients, write_mimic

from pipeline.files import read_json

STEPS = {
    "preprocess/merge_patient.py": ("patients", ["--buckets", "6"]),
    "preprocess/rank.py": ("patients_sorted", []),
    "preprocess/combination.py": ("patients_ehr", []),
    "mimiciv_dataset/task_sample_info_gen.py": ("task_index/all", []),
}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every output file below a directory, without locks and temporary files; of a record, the `digest`."""

    def digest(path: Path) -> str:
        return read_json(path)["digest"] if path.name == "provenance.json" else hashlib.sha256(path.read_bytes()).hexdigest()

    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): digest(path) for name, path in names.items() if not any(part.startswith(".") for part in name.parts)}


def start(script: str, root: Path, *flags: str, **options: Any) -> subprocess.Popen[str]:
    line = [sys.executable, str(REPO / script), "--root_dir", str(root), *flags]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps run once, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    write_mimic(root / "mimiciv", many_patients(60))
    for script, (_, flags) in STEPS.items():
        command(script, "--root_dir", root, *flags)
    return root


def test_kill_at_any_moment_then_rerun(whole: Path, tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", many_patients(60))
    moments = random.Random(os.environ.get("KILL_SEED", "0"))
    for script, (output, flags) in STEPS.items():
        start_time = time.monotonic()
        command(script, "--root_dir", whole, *flags)  # nothing is left to do: the shortest time of a run
        least = time.monotonic() - start_time
        killed = tries = 0
        while killed < 4:
            tries += 1
            assert tries < 60, "the test never killed the command in time"
            process = start(script, tmp_path, *flags)
            time.sleep(moments.uniform(0.5, 1.5) * least)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                killed += 1
            else:  # it had already finished: start again
                assert process.returncode == 0
                shutil.rmtree(tmp_path / output)
        command(script, "--root_dir", tmp_path, *flags)
        assert digests(tmp_path / output) == digests(whole / output)


def test_two_processes_share_the_work(whole: Path, tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", many_patients(60))
    for script, (output, flags) in STEPS.items():
        pair = [start(script, tmp_path, *flags) for _ in range(2)]
        logs = [process.communicate()[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], logs
        assert digests(tmp_path / output) == digests(whole / output)


@pytest.mark.parametrize("script", STEPS)
def test_worker_processes_write_the_same_bytes(script: str, whole: Path, tmp_path: Path) -> None:
    output, flags = STEPS[script]
    for name, (folder, _) in STEPS.items():  # the steps before
        if name == script:
            break
        (tmp_path / folder).symlink_to(whole / folder)
    (tmp_path / "mimiciv").symlink_to(whole / "mimiciv")
    command(script, "--root_dir", tmp_path, *flags, "--num_workers", 2)
    assert digests(tmp_path / output) == digests(whole / output)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_is_one_line_and_the_next_run_resumes(workers: str, tmp_path: Path) -> None:
    root, whole = tmp_path / "interrupted", tmp_path / "whole"
    rows = [{**TWO_PATIENTS["labevents"][0], "comments": f"comment {i}"} for i in range(300_000)]
    mimic = write_mimic(tmp_path / "mimiciv", {**TWO_PATIENTS, "labevents": rows})
    flags = ["--mimic_dir", str(mimic), "--buckets", "3", "--num_workers", workers]
    process = start("preprocess/merge_patient.py", root, *flags, start_new_session=True)
    while not list(root.glob("patients/hosp/.labevents.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C, to the workers too
    log = process.communicate()[0]
    last_line = re.split("[\r\n]", log.strip())[-1]
    assert process.returncode == 130 and last_line == "interrupted. Run the same command again to resume.", log
    assert "Traceback" not in log and not (root / "patients/hosp/labevents").exists()
    command("preprocess/merge_patient.py", "--root_dir", root, *flags)
    command("preprocess/merge_patient.py", "--root_dir", whole, *flags)
    assert digests(root / "patients") == digests(whole / "patients")


def test_same_bytes_whatever_the_file_order_and_hash_seed(whole: Path, tmp_path: Path) -> None:
    mimic = tmp_path / "mimiciv"
    write_mimic(tmp_path / "source", many_patients(60))
    for path in sorted((tmp_path / "source").rglob("*.csv"), reverse=True):
        target = mimic / path.relative_to(tmp_path / "source")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for script, (output, flags) in STEPS.items():
        command(script, "--root_dir", tmp_path, *flags, PYTHONHASHSEED="7", POLARS_MAX_THREADS="1")
        assert digests(tmp_path / output) == digests(whole / output)
