"""Prompts of samples, rendered and tokenised ahead in worker processes, so that a GPU does not wait for them.

Tokenising a prompt of 32,000 tokens takes about as long as reading it takes a small model on a GPU, and shortening one that is
too long takes several times as long.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from inference.generation import DatasetRow, Prompter, SamplePrompt
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from pipeline.work import end_with_parent, environment_of_workers

if TYPE_CHECKING:
    from inference.prompts import PromptBuilder
    from inference.settings import InferenceSettings
    from mimiciv_dataset.mimiciv import MIMICIV

AHEAD = 16  # prompts of each worker that are made, or waiting to be made, before they are needed

_prompters: list[Prompter] = []  # of a worker process, one for each dataset


def sample_prompts(
    samples: Sequence[DatasetRow], builder: PromptBuilder, settings: InferenceSettings, num_workers: int
) -> Iterator[SamplePrompt]:
    """Yield the prompts of samples, in their order, made by `num_workers` processes; 0: by this one, as they are needed."""
    datasets = list({id(sample.dataset): sample.dataset for sample in samples}.values())
    position = {id(dataset): number for number, dataset in enumerate(datasets)}
    if not num_workers:
        prompters = [Prompter(dataset, builder, settings) for dataset in datasets]
        yield from (prompters[position[id(sample.dataset)]](sample.index, sample.sample_id) for sample in samples)
        return
    context = multiprocessing.get_context("spawn")  # a fork after polars or pyarrow have started threads can deadlock
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(datasets, settings))
    jobs = iter(samples)
    futures: deque[Future[SamplePrompt]] = deque()

    def submit(number: int) -> None:
        for sample in islice(jobs, number):
            futures.append(pool.submit(_prompt, position[id(sample.dataset)], sample.index, sample.sample_id))

    try:
        with environment_of_workers(num_workers):  # all of them start here
            submit(AHEAD * num_workers)
        while futures:
            prompt = futures.popleft().result()
            submit(1)
            yield replace(prompt, task=ALL_TASKS[prompt.line["task_info"]["task"]])
    except BrokenProcessPool:
        fix = "Run again with --resume and fewer of them"
        raise UserError(f"--num_workers: expected all processes to finish, got one killed (out of memory?). {fix}.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(datasets: Sequence[MIMICIV], settings: InferenceSettings) -> None:
    """Prepare a worker process."""
    from inference.backends import load_builder

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that started this one, which ends it
    threading.Thread(target=end_with_parent, daemon=True).start()
    builder = load_builder(settings)
    _prompters.extend(Prompter(dataset, builder, settings) for dataset in datasets)


def _prompt(dataset: int, index: int, identity: str) -> SamplePrompt:
    """The prompt of a sample, without its task, which holds functions that cannot be sent to another process."""
    return replace(_prompters[dataset](index, identity), task=None)
