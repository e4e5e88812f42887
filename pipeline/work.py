"""Units of work, and the processes that share them.

A step divides its work into units, each with a name, a check whether it is done, and a function that does it. Any number of
processes can share the units (`--num_workers`, on a Ray cluster with `--engine ray`, and further runs of the same command on
machines that share the disk); each unit is done once.

A run that is killed in the middle loses the units that it was working on, nothing else (a command on `map_lines` starts
again). The output of a unit appears whole or not at all (`atomic_path`, `atomic_dir`), so that no half-written file is taken
for a finished one. The locks belong to the operating system, which releases them with their process: other runs take over the
units at once, and the same command run again does only the units that are not done. Worker processes end with the command
that started them.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.files import Line, atomic_path, scratch_dir
from pipeline.progress import progress

T = TypeVar("T")

Tick = Callable[[int], Any]  # advances the progress bar by a number of its units
POLL_SECONDS = 0.5  # how often progress is polled and a busy lock is tried again


@dataclass(frozen=True)
class Unit:
    """A part of a step that one process does at a time.

    With several workers units are pickled: use bound methods and `functools.partial`, not closures.

    Attributes:
        name: names its lock file; unique in the step.
        done: whether the output exists, as `path.exists`.
        do: writes the output atomically; gets a `Tick` to report progress with.
    """

    name: str
    done: Callable[[], bool]
    do: Callable[[Tick], None]


@dataclass(frozen=True)
class Workers:
    """The processes that share the units of a step.

    Attributes:
        number: how many; None: 1, with Ray as many as the cluster has CPUs.
        engine: "processes" of this machine or "ray", see `pipeline.ray_engine`.
    """

    number: int | None = None
    engine: str = "processes"

    def __post_init__(self) -> None:
        if self.engine == "ray" and find_spec("ray") is None:
            raise UserError("--engine ray: expected Ray, got none installed. Run pip install -r requirements-ray.txt.")

    @property
    def are_several(self) -> bool:
        return self.number != 1 if self.engine == "ray" else (self.number or 1) > 1

    @property
    def flags(self) -> list[str]:
        """The flags of a command that has the same workers."""
        return ["--engine", self.engine, *(["--num_workers", str(self.number)] if self.number else [])]


ONE_PROCESS = Workers()


def run_units(
    units: Sequence[Unit], locks: Path, *, workers: Workers = ONE_PROCESS, total: int | None = None, desc: str, unit: str
) -> None:
    """Do every unit that is not done; return when all are, whichever process did them.

    If a unit fails, all workers are stopped and its error is raised.

    Args:
        locks: directory for the lock files.
        workers: processes to use; a single one works in this process.
        total: length of the progress bar, counted as the units report it with `Tick`; None: the number of units.
        desc, unit: name of the bar, and what it counts.
    """
    units = [each for each in units if not each.done()]
    if not units:
        return
    if total is None:
        units, total = [replace(each, do=partial(_do_and_count, each.do)) for each in units], len(units)
    locks.mkdir(parents=True, exist_ok=True)
    with progress(total=total, desc=desc, unit=unit) as bar:
        if workers.engine == "ray" and len(units) > 1:
            from pipeline.ray_engine import run_on_ray

            run_on_ray(units, locks, workers.number, bar)
        elif workers.are_several and len(units) > 1:
            _run_processes(units, locks, min(workers.number, len(units)), bar)
        else:
            _share(units, locks, bar.update)


def map_lines(
    parts: Sequence[T],
    compute: Callable[[T], Iterable[Line]],
    scratch: Path,
    name: str,
    *,
    workers: Workers = ONE_PROCESS,
    desc: str,
    unit: str,
) -> Iterator[Line]:
    """Yield the JSON objects that `compute` yields for each part, in the order of the parts.

    For commands whose processes compute pieces of a single output. Results pass through a temporary directory, so that memory
    holds none of them and their order does not depend on the number of processes. What a killed run left there is removed.

    Args:
        parts: what is computed by one process at a time.
        compute: function of a part; a bound method or `functools.partial`, not a closure.
        scratch: directory in which the temporary directory is made; further arguments are those of `run_units`.
        name: names the temporary directory: that of the output, so that commands with other outputs have another.
    """
    with scratch_dir(scratch / f".parts-{name}") as temporary:
        paths = [temporary / f"{number}.jsonl" for number in range(len(parts))]
        write = partial(_write_lines, compute)
        units = [Unit(path.stem, path.exists, partial(write, part, path)) for part, path in zip(parts, paths, strict=True)]
        run_units(units, temporary, workers=workers, desc=desc, unit=unit)
        for path in paths:
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)


def _write_lines(compute: Callable[[T], Iterable[Line]], part: T, path: Path, _: Tick) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in compute(part))


def _do_and_count(do: Callable[[Tick], None], tick: Tick) -> None:
    do(lambda number: None)
    tick(1)


def _share(units: Sequence[Unit], locks: Path, tick: Tick) -> None:
    """Do units until all are done, in this process or in another one."""
    waiting, timeout = list(units), 0.0
    while waiting:
        waiting = [unit for i, unit in enumerate(waiting) if not do_unit(unit, locks, tick, 0 if i else timeout)]
        timeout = POLL_SECONDS


def do_unit(unit: Unit, locks: Path, tick: Tick, timeout: float) -> bool:
    """Do a unit that is not done; returns whether it is done, or else (False) another process held its lock for `timeout`."""
    from filelock import FileLock, Timeout

    if unit.done():
        return True
    try:
        lock = FileLock(locks / f"{unit.name}.lock").acquire(timeout=timeout)
    except Timeout:
        return False
    with lock:
        if not unit.done():
            unit.do(tick)
    return True


def _run_processes(units: Sequence[Unit], locks: Path, number: int, bar: Any) -> None:
    context = multiprocessing.get_context("spawn")  # a fork after polars or pyarrow have started threads can deadlock
    # Shared memory without locks: a worker that is killed while it holds one would block the others.
    counts, errors = context.RawArray("q", number), context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(units, locks, counts, errors, i), daemon=True) for i in range(number)]
    try:
        with environment_of_workers(number):
            for worker in workers:
                worker.start()
        running = workers
        while running and errors.empty() and not any(worker.exitcode for worker in workers):
            wait([worker.sentinel for worker in running], POLL_SECONDS)
            running = [worker for worker in workers if worker.is_alive()]
            bar.update(sum(counts) - bar.n)
        if not errors.empty():
            error, trace = errors.get()
            raise error or RuntimeError("a worker process failed") from RuntimeError(trace)
        if any(worker.exitcode for worker in workers):
            fix = "Run the same command again with fewer processes"
            raise UserError(f"--num_workers: expected all processes to finish, got one killed (out of memory?). {fix}.")
    finally:
        for worker in workers:
            if worker.pid is not None:  # it was started
                worker.terminate()  # outputs are atomic: an unfinished unit is done again
                worker.join()


def usable_cpus() -> int:
    """The number of CPUs that this process may use: those of its SLURM job or container, not of the whole machine."""
    from joblib import cpu_count

    return cpu_count()


@contextlib.contextmanager
def environment_of_workers(number: int) -> Iterator[None]:
    """Processes started in this block share the processors, and leave Ctrl-C to this process, which stops them."""
    name = "POLARS_MAX_THREADS"  # by default one for each processor, in every process
    before = os.environ.get(name)
    os.environ.setdefault(name, str(max(1, usable_cpus() // number)))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, so that it holds while a worker starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ[name]


def _worker(units: Sequence[Unit], locks: Path, counts: Any, errors: Any, index: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()

    def tick(number: int) -> None:
        counts[index] += number

    code = 0
    try:
        _share(units, locks, tick)
    except BaseException as error:  # noqa: BLE001  raised again by the parent
        known = isinstance(error, UserError | OSError | ImportError)  # those that `pipeline.cli.run` may explain
        errors.put((error if known else None, traceback.format_exc()))
        code = 1
    sys.stdout.flush()
    os._exit(code)  # a thread of pyarrow that waits for the interpreter while that is finalized aborts the process


def end_with_parent() -> None:
    """End this process when the command that started it is killed."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
