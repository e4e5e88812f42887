"""Killed, rerun, or shared between processes: always the same bytes, and no work done twice."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, command
from tiny_mimic import many_patients, write_mimic

STEPS = {
    "preprocess/merge_patient.py": ("patients", ["--buckets", "6"]),
    "preprocess/rank.py": ("patients_sorted", []),
    "preprocess/combination.py": ("patients_ehr", []),
    "mimiciv_dataset/task_sample_info_gen.py": ("task_index/all", []),
}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every output file below a folder; locks and temporary files do not count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def start(script: str, root: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPO / script), "--root_dir", str(root), *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps run once, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    write_mimic(root / "mimiciv", many_patients(60))
    for script, (_, more) in STEPS.items():
        command(script, "--root_dir", root, *more)
    return root


def test_kill_at_any_moment_then_rerun(whole: Path, tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", many_patients(60))
    moments = random.Random(os.environ.get("KILL_SEED", "0"))
    for script, (output, more) in STEPS.items():
        began = time.monotonic()
        command(script, "--root_dir", whole, *more)  # all is done there: the least time a run takes
        least = time.monotonic() - began
        killed = tries = 0
        while killed < 4:
            tries += 1
            assert tries < 60, "the test must interrupt something"
            process = start(script, tmp_path, *more)
            time.sleep(moments.uniform(0.5, 1.5) * least)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                killed += 1
            else:  # it was finished before: begin again
                assert process.returncode == 0
                shutil.rmtree(tmp_path / output)
        command(script, "--root_dir", tmp_path, *more)
        assert digests(tmp_path / output) == digests(whole / output)


def test_two_processes_share_the_work(whole: Path, tmp_path: Path) -> None:
    write_mimic(tmp_path / "mimiciv", many_patients(60))
    for script, (output, more) in STEPS.items():
        pair = [start(script, tmp_path, *more) for _ in range(2)]
        logs = [process.communicate()[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], logs
        assert digests(tmp_path / output) == digests(whole / output)


def test_no_unit_is_done_twice(tmp_path: Path) -> None:
    """Four processes note every unit they do; each unit is noted once, and a dead process's unit is taken over."""
    script = tmp_path / "work.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom pipeline.work import share_work\n"
        "folder = Path(sys.argv[1])\n"
        "def do(unit):\n"
        "    with (folder / 'log').open('a') as log: log.write(f'{unit}\\n')\n"
        "    if unit == 3 and not (folder / 'died').exists():\n"
        "        (folder / 'died').touch(); os.kill(os.getpid(), 9)\n"
        "    time.sleep(0.02); (folder / f'unit-{unit}').touch()\n"
        "share_work(range(12), lambda unit: (folder / f'unit-{unit}').exists(), do, folder / 'locks')\n"
    )
    processes = [subprocess.Popen([sys.executable, script, tmp_path]) for _ in range(4)]
    assert sorted(process.wait() for process in processes) == [-9, 0, 0, 0]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == sorted([*range(12), 3])


def test_same_bytes_whatever_the_file_order_and_hash_seed(whole: Path, tmp_path: Path) -> None:
    mimic = tmp_path / "mimiciv"
    write_mimic(tmp_path / "source", many_patients(60))
    for path in sorted((tmp_path / "source").rglob("*.csv"), reverse=True):
        target = mimic / path.relative_to(tmp_path / "source")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for script, (output, more) in STEPS.items():
        command(script, "--root_dir", tmp_path, *more, PYTHONHASHSEED="7", POLARS_MAX_THREADS="1")
        assert digests(tmp_path / output) == digests(whole / output)
