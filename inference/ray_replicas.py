"""Evaluation on a Ray cluster (`test.py --engine ray`): an actor for each replica of the model, on any machine.

Sample ids go to the actors and lines come back, which this process writes. An actor that dies is replaced, where there is room
for another, which gets the samples that have no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from inference.backends import Generation, load_backend
from inference.generation import SamplePrompt, Tally, answered, outcome, read_samples
from inference.prompt_workers import sample_prompts
from inference.settings import InferenceSettings
from pipeline.errors import UserError
from pipeline.files import Line
from pipeline.progress import counted
from pipeline.ray_engine import (
    POLL_SECONDS,
    RETRIES,
    RayError,
    RayTaskError,
    connect,
    enter,
    explained,
    ray,
    surroundings,
)

FIX = "See the logs of Ray (session_latest/logs in its temporary directory), and run again with --resume"


class Answer(NamedTuple):
    """What an actor says of a sample: its line (None: no reply), and the arguments of `Tally.add`."""

    sample_id: str
    line: Line | None
    is_truncated: bool
    error: str | None


@dataclass(frozen=True)
class Replica:
    """A model, and the index files whose samples it answers.

    Attributes:
        settings: of the model with its GPUs.
        root_dir, dataset_name: flags of test.py, for `read_samples`.
        num_workers: processes that make prompts.
        line_of: makes the line of a prompt and its replies; None: none is written.
    """

    settings: InferenceSettings
    root_dir: Path
    dataset_name: str
    num_workers: int
    line_of: Callable[[SamplePrompt, Sequence[Generation]], Line | None]

    def answer(self, sample_ids: Sequence[str]) -> Iterator[Answer]:
        """Answer samples, each as soon as its replies are there."""
        samples = {each.sample_id: each for each in read_samples(self.root_dir, self.dataset_name, self.settings.prompt)}
        backend = load_backend(self.settings)
        prompts = sample_prompts([samples[each] for each in sample_ids], backend.builder, self.settings, self.num_workers)
        for prompt, replies in answered(prompts, backend):
            line = self.line_of(prompt, replies)
            yield Answer(prompt.line["sample_id"], line, *outcome(prompt, replies, line))


class _Actor:
    def __init__(self, home: dict[str, Any], replica: Replica) -> None:
        self.home, self.replica = home, replica

    def answer(self, sample_ids: Sequence[str]) -> Iterator[Answer]:
        enter(self.home)
        yield from self.replica.answer(sample_ids)


@dataclass
class _Share:
    """The samples of a replica that have no answer yet, its actor, and how often one died since the last answer."""

    new_actor: Callable[[], Any]
    sample_ids: dict[str, None]
    actor: Any = None
    deaths: int = 0

    def ask(self) -> Any:
        """Start an actor, when there is room for it, and return the stream of its answers."""
        self.end()
        self.actor = self.new_actor()
        return self.actor.answer.options(num_returns="streaming").remote(list(self.sample_ids))

    def end(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)


def gpus_of_cluster() -> list[int]:
    """The number of GPUs of each machine of the cluster that has some."""
    connect()
    gpus = (int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    return [number for number in gpus if number]


def answer_on_ray(shares: Sequence[Sequence[str]], replica: Replica, write: Callable[[Line], None], bar: Any) -> Tally:
    """Answer the samples of each share by a replica of its own, and record the answers as `generate_and_record` does."""
    model, gpus = replica.settings.model, gpus_of_cluster()
    size = (model.tensor_parallel_size or 1) * model.pipeline_parallel_size
    if gpus and (room := sum(number // size for number in gpus)) < len(shares):
        expected = f"{len(shares)} times {size} GPUs, each on one machine of the Ray cluster"
        raise UserError(f"--data_parallel_size {len(shares)}: expected {expected}, got room for {room}.")
    model = replace(model, tensor_parallel_size=model.tensor_parallel_size or 1, data_parallel_size=1)
    replica = replace(replica, settings=replace(replica.settings, model=model))
    options = {"num_cpus": 1, "num_gpus": size if gpus else 0, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
    new_actor = partial(ray.remote(_Actor).options(**options).remote, surroundings(), replica)
    tally, open_shares = Tally(), [_Share(new_actor, dict.fromkeys(share)) for share in shares if share]
    streams = {share.ask(): share for share in open_shares}
    try:
        while streams:
            for stream in ray.wait(list(streams), timeout=POLL_SECONDS)[0]:
                share = streams[stream]
                try:
                    answer: Answer = ray.get(next(stream))
                except StopIteration:
                    del streams[stream]
                    share.end()  # which makes room for one that was on a machine that died
                except RayTaskError as error:
                    raise explained(error) from RuntimeError(str(error))
                except RayError as error:  # the actor died, or the machine that held its answer
                    share.deaths += 1
                    if share.deaths > RETRIES:
                        got = f"one that died {share.deaths} times in a row ({type(error).__name__}; out of memory?)"
                        raise UserError(f"--engine ray: expected replicas that answer, got {got}. {FIX}.") from None
                    lost = counted(len(share.sample_ids), "sample")
                    print(f"warning: a replica has died ({type(error).__name__}). Another one answers its {lost}.", flush=True)
                    del streams[stream]
                    streams[share.ask()] = share
                else:
                    if answer.line is not None:
                        write(answer.line)
                    tally.add(answer.is_truncated, answer.error)
                    del share.sample_ids[answer.sample_id]
                    share.deaths = 0
                    bar.update()
    finally:
        for share in open_shares:
            share.end()
    return tally
