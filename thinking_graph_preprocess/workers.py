"""Several processes for one command (`--num_worker`), with one progress bar."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mimiciv_dataset.commands import UserError, progress

Job = TypeVar("Job")
Tick = Callable[[int], Any]

_done: Any = None


def in_processes(number: int, work: Callable[[Job, Tick], None], job: Job, total: int, desc: str, unit: str) -> None:
    """Run `work(job, tick)` in so many processes at once; they must share the work themselves (`share_work`).

    Args:
        number: processes; 1 works in this one.
        work: a function of a module; it calls `tick(n)` for every n units done.
        job: what to do; is pickled.
        total, desc, unit: of the progress bar.

    Raises:
        UserError: `number` is not positive; what `work` raises; a process was killed.
    """
    if number < 1:
        raise UserError(f"--num_worker {number}: wanted a number ≥ 1")
    with progress(total=total, desc=desc, unit=unit) as bar:
        if number == 1:
            work(job, bar.update)
            return
        context = multiprocessing.get_context("spawn")  # never fork after polars or pyarrow threads
        done = context.Value("q", 0)
        with ProcessPoolExecutor(number, context, initializer=_begin, initargs=(done,)) as pool:
            running = {pool.submit(_work, work, job) for _ in range(number)}
            while running:
                finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(done.value - bar.n)
                for future in finished:
                    try:
                        future.result()
                    except BrokenProcessPool:
                        raise UserError(
                            "--num_worker: wanted every process to finish, found one killed (out of memory?); run the same "
                            "command again, with fewer processes"
                        ) from None


def _begin(done: Any) -> None:
    global _done
    _done = done


def _work(work: Callable[[Job, Tick], None], job: Job) -> None:
    def tick(number: int = 1) -> None:
        with _done.get_lock():
            _done.value += number

    work(job, tick)
