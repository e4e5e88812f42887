"""Units of work, and the processes that share them.

A step divides its work into units, each with a name, a check whether it is done, and a function that does it and writes its
output atomically. Any number of processes, started here (`--num_workers`) or by running the same command several times, on
one machine or on several that share a file system, do each unit once. A killed process loses the unit it was working on.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.files import Line, atomic_path
from pipeline.progress import progress

T = TypeVar("T")

Tick = Callable[[int], Any]
"""Advances the progress bar by a number of its units."""

POLL_SECONDS = 0.5
"""Between two looks at the progress of other processes."""


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


def run_units(
    units: Sequence[Unit], locks: Path, *, num_workers: int = 1, total: int | None = None, desc: str, unit: str
) -> None:
    """Do every unit that is not done, sharing the units with other processes of the same step.

    Returns when all units are done, whichever process did them. A unit is done under a lock of the operating system, which
    disappears with its process; the unit of a killed process is taken over.

    Args:
        units: what to do.
        locks: directory for the lock files.
        num_workers: processes to use; 1 works in this process.
        total: length of the progress bar, in what units report with `Tick`; None: one for each unit.
        desc, unit: name of the bar, and what it counts.

    Raises:
        UserError: a unit raised it, or a worker process was killed.
    """
    units = [each for each in units if not each.done()]
    if not units:
        return
    if total is None:
        units, total = [Unit(each.name, each.done, _Counted(each.do)) for each in units], len(units)
    locks.mkdir(parents=True, exist_ok=True)
    with progress(total=total, desc=desc, unit=unit) as bar:
        if num_workers == 1 or len(units) == 1:
            _share(units, locks, bar.update)
        else:
            _run_processes(units, locks, min(num_workers, len(units)), bar)


def map_lines(
    parts: Sequence[T], compute: Callable[[T], Iterable[Line]], scratch: Path, *, num_workers: int = 1, desc: str, unit: str
) -> Iterator[Line]:
    """Yield the JSON objects that `compute` yields for each part, in the order of the parts.

    For commands whose processes compute pieces of a single output. Results pass through a temporary directory, so that memory
    holds none of them and their order does not depend on the number of processes.

    Args:
        parts: what is computed by one process at a time.
        compute: function of a part; a bound method or `functools.partial`, not a closure.
        scratch: directory in which the temporary directory is made, usually that of the output.
        num_workers: processes to use; 1 works in this process.
        desc, unit: name of the progress bar, and what a part is.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=scratch) as temporary:
        paths = [Path(temporary) / f"{number}.jsonl" for number in range(len(parts))]
        units = [
            Unit(path.stem, path.exists, partial(_write_lines, compute, part, path))
            for part, path in zip(parts, paths, strict=True)
        ]
        run_units(units, Path(temporary), num_workers=num_workers, desc=desc, unit=unit)
        for path in paths:
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)


def _write_lines(compute: Callable[[T], Iterable[Line]], part: T, path: Path, _: Tick) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in compute(part))


@dataclass(frozen=True)
class _Counted:
    """A unit's function, which reports one unit when it ends."""

    do: Callable[[Tick], None]

    def __call__(self, tick: Tick) -> None:
        self.do(lambda number: None)
        tick(1)


def _share(units: Sequence[Unit], locks: Path, tick: Tick, stopped: Callable[[], bool] = lambda: False) -> None:
    """Do units until all are done, in this process or in another one."""
    from filelock import FileLock, Timeout

    waiting, timeout = list(units), 0.0
    while waiting and not stopped():
        busy = []
        for position, each in enumerate(waiting):
            if each.done() or stopped():
                continue
            try:
                lock = FileLock(locks / f"{each.name}.lock").acquire(timeout=0 if position else timeout)
            except Timeout:
                busy.append(each)
                continue
            with lock:
                if not each.done():
                    each.do(tick)
        waiting, timeout = busy, POLL_SECONDS


def _run_processes(units: Sequence[Unit], locks: Path, number: int, bar: Any) -> None:
    context = multiprocessing.get_context("spawn")  # a fork after polars or pyarrow have started threads can deadlock
    # Shared memory without locks: a worker that is killed while it holds one would block the others.
    counts, stop, errors = context.RawArray("q", number), context.RawValue("b", 0), context.SimpleQueue()
    workers = [
        context.Process(target=_worker, args=(units, locks, counts, index, stop, errors), daemon=True)
        for index in range(number)
    ]
    try:
        with _environment_of_workers(number):
            for worker in workers:
                worker.start()
        while running := [worker.sentinel for worker in workers if worker.is_alive()]:
            wait(running, POLL_SECONDS)
            bar.update(sum(counts) - bar.n)
            if any(worker.exitcode for worker in workers):
                stop.value = 1
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()  # outputs are atomic: an unfinished unit is done again
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    bar.update(sum(counts) - bar.n)
    if not errors.empty():
        error, trace = errors.get()
        if isinstance(error, UserError):
            raise error
        raise RuntimeError(f"a worker process failed:\n{trace}") from error
    if any(worker.exitcode for worker in workers):
        raise UserError(
            "--num_workers: expected every process to finish, got one that was killed (out of memory?). Run the same command "
            "again with fewer processes."
        )


@contextlib.contextmanager
def _environment_of_workers(number: int) -> Iterator[None]:
    """Processes started in this block share the processors, and leave Ctrl-C to this process, which stops them.

    Otherwise polars would start a thread for each processor in every process.
    """
    name = "POLARS_MAX_THREADS"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // number)))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, so that it holds while a worker starts
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is None:
            del os.environ[name]


def _worker(units: Sequence[Unit], locks: Path, counts: Any, index: int, stop: Any, errors: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tick(number: int) -> None:
        counts[index] += number

    try:
        _share(units, locks, tick, lambda: bool(stop.value))
    except BaseException as error:  # noqa: BLE001  reported by the parent
        stop.value = 1
        errors.put((error if isinstance(error, UserError) else None, traceback.format_exc()))
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    """End this process when the command that started it is killed."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
