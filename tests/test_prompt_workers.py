"""Prompts made by worker processes: the same as in one process, in the same order, and no process stays behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from scripted_server import ScriptedServer
from test_evaluation_cli import flags

from inference.backends import load_builder
from inference.generation import DatasetRow, read_samples
from inference.prompt_workers import sample_prompts
from inference.settings import InferenceSettings, ModelSettings, PromptSettings
from pipeline.errors import UserError

Workers = Callable[[], list[BaseProcess]]


@pytest.fixture
def samples(small_root: Path) -> list[DatasetRow]:
    """Samples of two datasets."""
    index = small_root / "task_index/all"
    return read_samples(small_root, f"{index / 'emar.csv'},{index / 'LengthOfStay_3day.csv'}", PromptSettings())[:60]


@pytest.fixture
def workers() -> Workers:
    """The child processes that were not there before the test: a server of other tests can be one that was."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: [process for process in multiprocessing.active_children() if process.pid not in before]


def prompts(samples: Sequence[DatasetRow], model: Path, num_workers: int, **prompt: Any) -> Any:
    settings = InferenceSettings(ModelSettings(str(model)), prompt=PromptSettings(max_seq_len=2250, **prompt))
    return sample_prompts(samples, load_builder(settings), settings, num_workers)


def test_the_same_prompts_in_the_same_order(samples: list[DatasetRow], tiny_model: Path, workers: Workers) -> None:
    ours, theirs = (list(prompts(samples, tiny_model, number)) for number in (2, 0))
    assert len(ours) == len(samples) and ours == theirs
    assert any(prompt.truncation for prompt in ours), "some do not fit"
    builder = load_builder(InferenceSettings(ModelSettings(str(tiny_model))))
    assert all(prompt.ids == builder.ids(prompt.text) and prompt.task is not None for prompt in ours)
    assert not workers()


def test_an_error_arrives_as_itself(samples: list[DatasetRow], tiny_model: Path, workers: Workers) -> None:
    with pytest.raises(UserError, match="expected a column reasoning in the index"):
        list(prompts(samples, tiny_model, 1, oracle_reasoning=True))
    assert not workers()


def test_closing_ends_the_processes(samples: list[DatasetRow], tiny_model: Path, workers: Workers) -> None:
    stream = prompts(samples, tiny_model, 1)
    next(stream)
    assert len(workers()) == 1
    stream.close()
    assert not workers()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(samples: list[DatasetRow], tiny_model: Path, workers: Workers) -> None:
    stream = prompts(samples, tiny_model, 1)
    next(stream)
    workers()[0].kill()
    with pytest.raises(UserError, match="got one killed"):
        list(stream)


def test_ctrl_c_leaves_no_processes(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal; here, to the process group."""
    with ScriptedServer(lambda body, number: {"text": "yes", "delay": 60 if number else 0}) as server:
        words = flags(small_root, "m", tmp_path / "out", "--url", server.url, "--tokenizer", tiny_model, "--num_worker", 2)
        script = [sys.executable, str(REPO / "test.py"), *map(str, [*words, "--num_workers", 1])]
        run = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        start = time.monotonic()
        while len(server.asked) < 3 and time.monotonic() - start < 120:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        assert any("a second Ctrl-C ends at once" in line for line in run.stderr)
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted. Add --resume to the same command to continue."
    start = time.monotonic()
    while (left := running(run.pid)) and time.monotonic() - start < 20:
        time.sleep(0.1)
    assert not left


def running(group: int) -> list[str]:
    """The processes of a process group that have not ended, by number."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
            processes += [path.parent.name] if its_group == str(group) and state != "Z" else []
    return processes
