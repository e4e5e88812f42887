"""Data parallel evaluation: processes of test.py, each with a model and GPUs of its own, share the samples as chunks."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.progress import progress

TEST = Path(__file__).resolve().parent.parent / "test.py"


def gpu_groups(gpus: Sequence[str], replicas: int, each: int) -> list[list[str]]:
    """The GPUs of each replica; on a machine without GPUs, none for each.

    Raises:
        UserError: there are not enough.

    >>> gpu_groups(["0", "1", "2", "3"], replicas=2, each=2), gpu_groups([], replicas=2, each=1)
    ([['0', '1'], ['2', '3']], [[], []])
    """
    if not gpus:
        return [[] for _ in range(replicas)]
    if replicas * each > len(gpus):
        raise UserError(f"--data_parallel_size {replicas}: wanted {each} GPUs for each, found {len(gpus)} in all")
    return [list(gpus[start : start + each]) for start in range(0, replicas * each, each)]


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def run_replicas(argv: Sequence[str], args: argparse.Namespace, samples: int, finished: int) -> None:
    """Run test.py `--data_parallel_size` times at once, a chunk each, and wait; logs go to OUTPUT/logs/.

    Args:
        argv: this process's command line, which they get with a chunk of their own.
        args: the same, parsed.
        samples, finished: how many there are to do, and are done: for the progress bar.

    Raises:
        UserError: a process failed; the others have done their share.
    """
    replicas = args.data_parallel_size
    each = (args.tensor_parallel_size or 1) * args.pipeline_parallel_size
    groups = gpu_groups(visible_gpus(), replicas, each)
    logs = args.output_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[subprocess.Popen[bytes], Path] = {}
    try:
        for index, gpus in enumerate(groups):
            log = logs / f"chunk-{index}-of-{replicas}.log"
            chunk = ["--data_parallel_size", "1", "--chunk_num", str(replicas), "--chunk_idx", str(index), "--resume"]
            parallel = [] if args.tensor_parallel_size else ["--tensor_parallel_size", "1"]
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, str(TEST), *argv, *chunk, *parallel], stdout=file, stderr=subprocess.STDOUT,
                    env=os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
                )  # fmt: skip
            running[process] = log
        with progress(total=samples, initial=finished, desc=f"{replicas} processes", unit="sample") as bar:
            sizes: dict[Path, int] = {path: path.stat().st_size for path in args.output_path.glob("outputs*.jsonl")}
            while any(process.poll() is None for process in running):
                time.sleep(0.2)
                bar.update(_new_lines(args.output_path, sizes))
            bar.update(_new_lines(args.output_path, sizes))
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
    failed = [log for process, log in running.items() if process.returncode]
    if failed:
        last = failed[0].read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        what = f"{len(failed)} of {replicas} processes failed; mend the cause and run again with --resume"
        raise UserError("\n".join([f"{what}. The end of {failed[0]}:", *last]))


def _new_lines(folder: Path, sizes: dict[Path, int]) -> int:
    """Lines added to the folder's outputs since the last call, which `sizes` remembers."""
    count = 0
    for path in folder.glob("outputs*.jsonl"):
        with path.open("rb") as file:
            file.seek(sizes.get(path, 0))
            added = file.read()
        sizes[path] = sizes.get(path, 0) + len(added)
        count += added.count(b"\n")
    return count
