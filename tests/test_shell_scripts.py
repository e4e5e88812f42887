"""Shell scripts end in one line: after Ctrl-C, without an environment, and where nothing can be written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

INTERRUPTED = "interrupted. Run the same command again to resume.\n"
SERVER = ("--model", "m", "--base_url", "http://127.0.0.1:1/v1")
# A stand-in for every program that takes long: says that it has started, and ends after Ctrl-C as the real one does.
PROGRAM = """#!{python} -S
import sys, time
from pathlib import Path
if "-c" in sys.argv:  # setup_env.sh asks for the version
    sys.exit(0)
try:
    Path({started!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    print({said!r}, end="", file=sys.stderr)
    sys.exit(130)
"""
LONG = {  # script and arguments → the program that is running, and what it says after Ctrl-C
    ("build_datasets.sh",): ("python", INTERRUPTED),
    ("reproduce_table.sh", "first", "second"): ("python", INTERRUPTED),
    ("reproduce/stages_ablation.sh", "--stage1", "first"): ("python", INTERRUPTED),
    ("reproduce/mimic_cdm.sh", "--cdm_dir", "release", "first"): ("python", INTERRUPTED),
    ("quickstart.sh", "--root_dir", "out"): ("python", INTERRUPTED),
    ("reasoning_synthesis/synthesis.sh", "--index", "index.csv", *SERVER): ("python", INTERRUPTED),
    ("reasoning_synthesis/synthesis.sh", "--index", "index.csv", *SERVER, "--from", "evidence", "--chunks", "3"): (
        "python",
        "",
    ),
    ("test/test_dp.sh", "--gpus", "1"): ("python", INTERRUPTED),
    ("train/sft.sh", "--learning_rate", "1e-5"): ("python", INTERRUPTED),
    ("setup_env.sh",): ("python3.11", "ERROR: Operation cancelled by user\n"),
    ("unpack_release.sh", "release"): ("tar", ""),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A directory with a copy of the scripts in repo/, an empty bin/ for programs, and some data."""
    shutil.copytree(REPO / "scripts", tmp_path / "repo/scripts")
    requirements = [path.name for path in REPO.glob("requirements*.txt")]
    for name in (*requirements, "pyproject.toml", "test.py", "sft.py"):
        shutil.copy(REPO / name, tmp_path / "repo" / name)
    data = ("task_index/all", "patient_data", "evidence_datas/graph", "ehr_bench")
    for folder in ("bin", *(f"datas/{name}" for name in data), "release"):
        (tmp_path / folder).mkdir(parents=True)
    write_program(tmp_path / "repo/.venv/bin/accelerate", tmp_path / "unused", "")
    bench = ("datas/ehr_bench/ehr_bench_decision_making.csv", "datas/ehr_bench/ehr_bench_risk_prediction.csv")
    split = ("datas/patient_data/train.csv", "datas/patient_data/test.csv")
    for file in (*bench, *split, "index.csv", "release/patients_ehr.tar.gz"):
        (tmp_path / file).touch()
    return tmp_path


def write_program(path: Path, started: Path, said: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(python=sys.executable, started=str(started), said=said))
    path.chmod(0o755)


def start(copy: Path, script: str, *arguments: str, path: str) -> subprocess.Popen[str]:
    line = ["bash", str(copy / "repo/scripts" / script), *arguments]
    return subprocess.Popen(line, cwd=copy, env={**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "0"}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip


def running(session: int) -> list[str]:
    """The processes of a session, other than zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            name, _, rest = path.read_text().rpartition(")")
            state, _, _, of_session, *_ = rest.split()
            found += [name] if int(of_session) == session and state != "Z" else []
    return found


@pytest.mark.parametrize("words", LONG, ids=lambda words: " ".join(words)[:60])
def test_an_interrupt_is_one_line(copy: Path, words: tuple[str, ...]) -> None:
    program, said = LONG[words]
    if words[0] != "setup_env.sh":
        (copy / "repo/scripts/setup_env.sh").write_text("")
    write_program(copy / ("repo/.venv/bin/python" if program == "python" else f"bin/{program}"), copy / "started", said)
    process = start(copy, *words, path=f"{copy / 'bin'}:{os.environ['PATH']}")
    try:
        while not (copy / "started").exists():
            assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the script and the programs it started
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and errors == INTERRUPTED
    assert not running(process.pid), "no process is left"


@pytest.mark.parametrize("words", [words for words in LONG if "setup" not in words[0] and LONG[words][0] == "python"], ids=str)
def test_without_an_environment(copy: Path, words: tuple[str, ...]) -> None:
    (copy / "repo/scripts/setup_env.sh").write_text("")
    for name in ("bash", "dirname", "basename", "cat", "sed", "awk", "tr", "wc", "mkdir", "grep"):
        (copy / "bin" / name).symlink_to(shutil.which(name))
    process = start(copy, *words, path=str(copy / "bin"))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and len(errors.splitlines()) == 1, errors
    assert errors.startswith("error: expected a Python environment, got none. Create it: bash ") and "setup_env.sh" in errors


@pytest.mark.parametrize(
    "words",
    [
        ("quickstart.sh", "--root_dir", "index.csv/out"),
        ("unpack_release.sh", "release", "--root_dir", "index.csv/out"),
        ("reproduce_table.sh", "model", "--output_path", "index.csv/out"),
    ],
)
def test_where_nothing_can_be_written(copy: Path, words: tuple[str, ...]) -> None:
    (copy / "repo/scripts/setup_env.sh").write_text("")
    process = start(copy, *words, path=os.environ["PATH"])
    _, errors = process.communicate(timeout=20)
    assert process.returncode and errors.startswith("error: index.csv/out: expected a writable directory, got none."), errors
    assert len(errors.splitlines()) == 1


def test_a_dry_run_prints_the_command_and_what_is_missing(copy: Path) -> None:
    (copy / "recipe").mkdir()
    (copy / "recipe/sft.yaml").write_text("model_name_or_path: Qwen/Qwen3-1.7B\ndataset_name: ./index.csv,./none.csv  # two\n")
    for script, words in (
        ("train/sft.sh", ("recipe", "--instructions", "./ours.json")),
        ("slurm/train.slurm", ("sft.py", "--config", str(copy / "recipe/sft.yaml"), "--instructions=./ours.json")),
        ("test/test_tp.sh", ("--dataset_name", "./index.csv,./none.csv", "--instructions", "./ours.json")),
    ):
        line = ["bash", str(REPO / "scripts" / script), *words, "--dry_run"]
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "EHR_REPO": str(REPO)}
        done = subprocess.run(line, cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        first, *missing = done.stdout.splitlines()
        assert (".py" in first) and "--dry_run" not in first and "8" in first or "32" in first
        expected = {"missing: ./none.csv", "missing: ./ours.json"}
        assert set(missing) - {"missing: ./index.csv"} == expected, "paths are relative to where it is run"
