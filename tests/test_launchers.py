"""The launchers: every chunk is done, failures are reported, and chunks together are one run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPO
from forked import command
from test_evaluation_cli import flags, lines, same

from inference.replicas import gpu_groups, visible_gpus
from inference.settings import ModelSettings
from inference.vllm_backend import device_options
from pipeline.errors import UserError
from pipeline.files import read_json

LAUNCHERS = sorted((REPO / "scripts/test").glob("test_*.sh"))


def bash(script: str | Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(REPO / script), *map(str, words)], capture_output=True, text=True, cwd="/",
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("launchers") / "out"
    command("test.py", *flags(small_root, tiny_model, output, "--limit", 20))
    return output


def test_data_parallel_is_one_run(whole: Path, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["--gpus", 2, *flags(small_root, tiny_model, output, "--limit", 20)]
    done = bash("scripts/test/test_dp.sh", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    same(lines(output), lines(whole))
    assert {path.name for path in output.glob("outputs*")} == {"outputs-0-of-2.jsonl", "outputs-1-of-2.jsonl"}
    one, other = read_json(output / "result.json"), read_json(whole / "result.json")
    assert one["tasks"]["emar"]["f1"] == other["tasks"]["emar"]["f1"] and one["missing"] == 0
    again = bash("scripts/test/test_dp.sh", *words)
    assert again.returncode == 2 and "Add --resume" in again.stderr, "a used folder is refused"
    assert bash("scripts/test/test_dp.sh", *words, "--resume").returncode == 0


def test_a_failed_chunk_fails_the_launcher(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "broken")
    os.truncate(tmp_path / "broken/model.safetensors", 100)
    done = bash("scripts/test/test_dp.sh", "--gpus", 2, *flags(small_root, tmp_path / "broken", tmp_path / "out"))
    assert done.returncode == 2 and "2 of 2 that failed" in done.stderr and "a model that can be loaded here" in done.stderr


def test_wrong_use_is_said() -> None:
    dp = "scripts/test/test_dp.sh"
    for words, message in (
        (["--gpus"], "--gpus: expected a number"),
        (["--gpus", "two"], "--gpus: expected a number"),
        (
            ["--gpus", 2, *flags(Path("x"), Path("m"), Path("x")), "--chunk_num", 2],
            "--data_parallel_size: expected neither --chunk_num",
        ),
    ):
        done = bash(dp, *words)
        assert done.returncode == 2 and message in done.stderr


def test_each_replica_has_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpu_groups(visible_gpus(), replicas=2, each=2) == [["4", "5"], ["6", "7"]]
    with pytest.raises(UserError, match="expected 6 visible GPUs, got 4"):
        gpu_groups(visible_gpus(), replicas=3, each=2)


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.name)
def test_help(script: Path) -> None:
    done = bash(script, "--help")
    assert done.returncode == 0 and f"bash scripts/test/{script.name}" in done.stdout


@pytest.mark.parametrize("name", ["test_dp.sh", "test_tp.sh", "test_pp.sh"])
def test_no_gpu_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # a machine without a GPU, wherever the test runs
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash(f"scripts/test/{name}", "--output_path", tmp_path, PATH=path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and f"{name}: expected a visible GPU" in done.stderr


def sizes(tensor: int | None, pipeline: int) -> ModelSettings:
    return ModelSettings("model", tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "expected"), [(None, 1, (8, 1)), (None, 8, (1, 8)), (None, 2, (4, 2)), (2, 2, (2, 2))]
)
def test_parallel_sizes(tensor: int | None, pipeline: int, expected: tuple[int, int]) -> None:
    options = device_options(8, sizes(tensor, pipeline))
    assert (options["tensor_parallel_size"], options["pipeline_parallel_size"]) == expected


@pytest.mark.parametrize(("gpus", "tensor", "pipeline"), [(8, 8, 2), (0, None, 2), (0, 2, 1)])
def test_more_than_there_are_is_said(gpus: int, tensor: int | None, pipeline: int) -> None:
    with pytest.raises(UserError, match="expected a product of at most"):
        device_options(gpus, sizes(tensor, pipeline))


def test_the_slurm_array_covers_every_chunk(whole: Path, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The batch script's own body, with the variables that SLURM sets; array numbers need not begin at 0."""
    output = tmp_path / "out"
    for number in (3, 4):
        done = bash("scripts/slurm/test_array.slurm", *flags(small_root, tiny_model, output, "--limit", 20),
                    SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_MIN="3", SLURM_ARRAY_TASK_ID=str(number),
                    SLURM_SUBMIT_DIR=str(REPO))  # fmt: skip
        assert done.returncode == 0, done.stderr
    same(lines(output), lines(whole))
    alone = bash("scripts/slurm/test_array.slurm", SLURM_SUBMIT_DIR=str(REPO))
    assert alone.returncode != 0 and "job array" in alone.stderr
