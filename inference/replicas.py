"""Data parallel evaluation: processes of test.py, each with its own model and GPUs, share the samples as chunks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from inference.settings import ModelSettings
from pipeline.cli import chunk_paths
from pipeline.errors import UserError
from pipeline.progress import progress

TEST = Path(__file__).resolve().parent.parent / "test.py"


def gpu_groups(gpus: Sequence[str], replicas: int, each: int) -> list[list[str]]:
    """The GPUs of each replica; none on a machine without GPUs.

    >>> gpu_groups(["0", "1", "2", "3"], replicas=2, each=2), gpu_groups([], replicas=2, each=1)
    ([['0', '1'], ['2', '3']], [[], []])
    """
    if not gpus:
        return [[] for _ in range(replicas)]
    if replicas * each > len(gpus):
        raise UserError(f"--data_parallel_size {replicas}: expected {replicas * each} visible GPUs, got {len(gpus)}.")
    return [list(gpus[start : start + each]) for start in range(0, replicas * each, each)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name for name in names.split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def run_replicas(argv: Sequence[str], model: ModelSettings, output: Path, num_samples: int) -> None:
    """Run test.py `data_parallel_size` times in parallel with `argv` and one chunk each, and wait; logs go to OUTPUT/logs/."""
    replicas = model.data_parallel_size
    groups = gpu_groups(visible_gpus(), replicas, (model.tensor_parallel_size or 1) * model.pipeline_parallel_size)
    logs = output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes: dict[subprocess.Popen[bytes], Path] = {}
    try:
        for index, gpus in enumerate(groups):
            log = logs / f"chunk-{index}-of-{replicas}.log"
            flags = ["--data_parallel_size", "1", "--chunk_num", str(replicas), "--chunk_idx", str(index), "--resume"]
            flags += [] if model.tensor_parallel_size else ["--tensor_parallel_size", "1"]
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})
            with log.open("wb") as file:
                command = [sys.executable, str(TEST), *(word for word in argv if word != "--overwrite"), *flags]
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
            processes[process] = log
        sizes: dict[Path, int] = {}
        finished = _new_lines(output, sizes)
        with progress(total=num_samples, initial=finished, desc=f"{replicas} processes", unit="sample") as bar:
            while any(process.poll() is None for process in processes):
                time.sleep(0.2)
                bar.update(_new_lines(output, sizes))
            bar.update(_new_lines(output, sizes))
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    failed = [log for process, log in processes.items() if process.returncode]
    if failed:
        last = failed[0].read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        what = f"--data_parallel_size: expected every process to finish, got {len(failed)} of {replicas} that failed. Fix the "
        raise UserError("\n".join([f"{what}cause and run again with --resume. The end of {failed[0]}:", *last]))


def _new_lines(folder: Path, sizes: dict[Path, int]) -> int:
    """Lines added to the outputs since the last call; `sizes`, which is updated, has how far each file was read."""
    count = 0
    for path in chunk_paths(folder / "outputs.jsonl"):
        with path.open("rb") as file:
            file.seek(sizes.get(path, 0))
            added = file.read()
        sizes[path] = sizes.get(path, 0) + len(added)
        count += added.count(b"\n")
    return count
