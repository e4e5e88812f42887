"""The launchers of the reasoning synthesis: the steps in order, their chunks, and wrong use."""

from __future__ import annotations

import csv
from pathlib import Path

from conftest import REPO
from scripted_server import ScriptedServer
from test_launchers import bash
from tiny_evidence import chain, read_chains, write_evidence

SYNTHESIS, ARRAY = "scripts/reasoning_synthesis/synthesis.sh", "scripts/reasoning_synthesis/array.slurm"


def data(small_root: Path, root: Path) -> Path:
    """A data folder with the evidence of five rows; trajectories are those of `small_root`."""
    root.mkdir()
    (root / "patients_ehr").symlink_to(small_root / "patients_ehr")
    write_evidence(small_root, root / "evidence_datas/evidence/emar.csv", rows=5)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_evidence_to_chains(small_root: Path, tmp_path: Path) -> None:
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"text": chain()}) as server:
        words = ("--root_dir", root, "--from", "reasoning", "--model", "m", "--base_url", server.url, "--", "--n", 1)
        done = bash(SYNTHESIS, *words)
        assert done.returncode == 0, done.stderr
        assert bash(SYNTHESIS, *words).returncode == 0 and len(server.asked) == 5, "a second time there is nothing to ask"
    assert len(rows(root / "evidence_datas/kept/reasoning.csv")) == 5


def test_a_failed_step_stops_the_road(small_root: Path, tmp_path: Path) -> None:
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"status": 400}) as server:
        done = bash(SYNTHESIS, "--root_dir", root, "--from", "reasoning", "--model", "m", "--base_url", server.url)
    assert done.returncode == 1 and "== filter_reasoning.py" not in done.stdout


def test_a_job_array_covers_every_row(small_root: Path, tmp_path: Path) -> None:
    """The batch script's own body, with the variables that SLURM sets; array numbers need not begin at 0."""
    root = data(small_root, tmp_path / "datas")
    with ScriptedServer(lambda body, number: {"text": chain()}) as server:
        for number in (3, 4):
            done = bash(ARRAY, "reasoning_generation", "--root_dir", root, "--model", "m", "--base_url", server.url,
                        SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_MIN="3", SLURM_ARRAY_TASK_ID=str(number),
                        SLURM_SUBMIT_DIR=str(REPO))  # fmt: skip
            assert done.returncode == 0, done.stderr
    assert len(read_chains(root / "evidence_datas/reasoning")) == len(server.asked) == 5
    one = {
        "SLURM_ARRAY_TASK_COUNT": "1",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_SUBMIT_DIR": str(REPO),
    }
    done = bash(ARRAY, "filter_reasoning", "--root_dir", root, **one)
    assert done.returncode == 0 and len(rows(root / "evidence_datas/kept/reasoning.csv")) == 5
    done = bash(ARRAY, "no_such_step", **one)
    assert done.returncode == 2 and "name a step" in done.stderr
    alone = bash(ARRAY, "filter_reasoning", SLURM_SUBMIT_DIR=str(REPO))
    assert alone.returncode != 0 and "wanted to run as a job array" in alone.stderr


def test_help_and_wrong_use() -> None:
    assert "usage: synthesis.sh" in bash(SYNTHESIS, "--help").stdout
    model = ("--model", "m", "--base_url", "http://127.0.0.1:1/v1")
    for words, message in (
        ((), "wanted --model NAME"),
        (("--model", "m"), "wanted --base_url URL"),
        (model, "--index FILE: wanted an index CSV"),
        ((*model, "--from", "nowhere"), "--from nowhere: wanted one of concepts"),
        ((*model, "--chunks", "0"), "--chunks 0: wanted a number"),
        (("--model",), "--model: wanted a value after it"),
        (("--modle", "m"), "unknown argument --modle"),
    ):
        done = bash(SYNTHESIS, *words)
        assert done.returncode == 2 and message in done.stderr, done.stderr
