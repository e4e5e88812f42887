"""Running a model over samples: prompts, replies, and one line of `outputs.jsonl` for each as it finishes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.answers import read_items, split_reasoning
from inference.backends import Backend, Generation
from inference.prompts import (
    THINK,
    PromptBuilder,
    Truncation,
    evaluation_mode,
    open_think_prefix,
    sha256,
    with_candidates,
)  # fmt: skip
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import ALL_TASKS, Task
from pipeline.errors import UserError
from pipeline.files import read_json, write_json

Line = dict[str, Any]

Scorer = Callable[[Task, Any, "str | None", "float | None"], float]
"""The score of an answer: of (task, label, answer, p(yes)); `evaluation.metrics.sample_score`."""

TOO_LONG = "does not fit"
CHAIN_END = 8
"""Tokens kept free where a chain is scored: its closing mark is written anew, and one token is asked for."""

PROMPT_FLAGS = ("prompt", "think_prompt", "direct_answer", "think_risk", "oracle_reasoning", "empty_think")


@dataclass
class Prompt:
    """One sample's prompt and what its output line says of it."""

    index: int
    key: str
    task: Task
    text: str
    mode: str
    prefix: str
    dropped: Truncation | None
    sample: dict[str, Any]

    @property
    def fits(self) -> bool:
        return self.dropped is None or self.dropped.fits

    @property
    def thinking_open(self) -> bool:
        """Whether the prompt itself opens the reasoning, as some chat templates do: a reply then starts inside it."""
        return not self.scored and bool(open_think_prefix(self.text))

    @property
    def scored(self) -> bool:
        """Whether the answer is p(yes) right after the prompt, with nothing to generate."""
        return self.task.kind == "risk" and not (self.mode == THINK and not self.prefix)


def decoding(args: argparse.Namespace) -> Line:
    """What besides its prompt decides a reply."""
    return {
        "max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "max_seq_len": args.max_seq_len,
        "model": str(args.model_name_or_path), "lora": str(args.lora_path or ""), "chat": args.chat,
    }  # fmt: skip


def check_settings(folder: Path, args: argparse.Namespace, **hashes: str) -> None:
    """Keep the settings of a run in its folder, and refuse to go on there with others: the scores would mix both.

    Raises:
        UserError: outputs in the folder were made with other settings.
    """
    path = folder / "run.json"
    ours = {**decoding(args), **{name: getattr(args, name) for name in PROMPT_FLAGS}, **hashes}
    if path.exists() and any(folder.glob("outputs*.jsonl")):
        theirs = read_json(path)
        differ = [name for name in ours if theirs.get(name) != ours[name]]
        if differ:
            said = ", ".join(f"{name} {theirs.get(name)!r} (now {ours[name]!r})" for name in differ)
            raise UserError(f"{folder}: wanted the settings it was begun with, found others: {said}; "
                            "choose another --output_path")  # fmt: skip
    write_json(path, ours)


def identity(row: Line) -> tuple[Any, ...]:
    """What makes an index row a sample of its own; rows that share it would get the same key."""
    info = row.get("task_info", {}) | row
    where = tuple(info.get(name) for name in ("task", "subject_id", "period_begin", "period_end"))
    return (*where, sha256(row["input"]) if "input" in row else None, row.get("idx") if where[1] is None else None)


def length(row: Line) -> int:
    """A measure of how long a sample's record is, for an even share of the work: events of its window, or characters."""
    return len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"]


class Prompter:
    """Makes the prompts of a dataset as test.py's arguments say."""

    def __init__(self, dataset: MIMICIV, builder: PromptBuilder, args: argparse.Namespace) -> None:
        self.dataset, self.builder, self.args = dataset, builder, args
        self.decoding = decoding(args)

    def __call__(self, index: int) -> Prompt:
        (sample, record), args = self.dataset.with_text(index), self.args
        info = sample["task_info"]
        task = ALL_TASKS[info["task"]]
        mode = evaluation_mode(task.kind, args.think_prompt, args.direct_answer, args.think_risk)
        instruction = sample["instruction"]
        if args.prompt:
            instruction = with_candidates(instruction, task, sample["candidates"])
        prefix = ""
        if args.oracle_reasoning:
            reasoning = info.get("reasoning")
            if not reasoning:
                raise UserError("--oracle_reasoning: wanted a column reasoning in the index, found a row without one")
            mode, prefix = THINK, f"<think>\n{reasoning}\n</think>\n\n"
        room = args.max_seq_len - (1 if task.kind == "risk" and mode != THINK else args.max_new_tokens)
        room -= CHAIN_END if task.kind == "risk" and mode == THINK else 0
        text, dropped = self.builder.fit(record, instruction, mode, room, prefix)
        where = [info.get(name) for name in ("task", "subject_id", "period_begin", "period_end")]
        key = sha256(json.dumps([*where, sample["idx"] if where[1] is None else None, sha256(text), self.decoding]))
        return Prompt(index, key, task, text, mode, prefix, dropped, sample)


def run_window(prompts: Sequence[Prompt], backend: Backend, args: argparse.Namespace, scorer: Scorer) -> Iterator[Line]:
    """Answer a window of prompts; yields their output lines as replies come. What a server would not answer is left out."""
    for prompt in prompts:
        if not prompt.fits:
            yield {**output_line(prompt, args, Generation("", TOO_LONG), scorer), "error": TOO_LONG}
    fitting = [prompt for prompt in prompts if prompt.fits]
    for prompt, reply in replies(fitting, backend, args):
        yield output_line(prompt, args, reply, scorer)


def replies(prompts: Sequence[Prompt], backend: Backend, args: argparse.Namespace) -> Iterator[tuple[Prompt, Generation]]:
    """Each prompt with its reply, as replies come; risk tasks have p(yes) in theirs: after the chain, if they reason."""
    scored = [prompt for prompt in prompts if prompt.scored]
    generated = [prompt for prompt in prompts if not prompt.scored]
    for index, reply in backend.score_yes_no([prompt.text for prompt in scored]):
        yield scored[index], reply
    chains: list[tuple[Prompt, Generation, str]] = []
    for index, reply in backend.generate([prompt.text for prompt in generated], args.max_new_tokens, args.temperature):
        prompt = generated[index]
        chain = after_chain(prompt.text, reply.text) if prompt.task.kind == "risk" and backend.continues else None
        if chain:
            chains.append((prompt, reply, chain))
        else:
            yield prompt, reply
    for index, scored_reply in backend.score_yes_no([chain for _, _, chain in chains]):
        prompt, reply, _ = chains[index]
        yield prompt, replace(reply, p_yes=scored_reply.p_yes)


def after_chain(prompt: str, reply: str) -> str | None:
    """The prompt and the reply's reasoning, closed: what p(yes) of a model that reasons is asked after; None if never closed.

    >>> after_chain("P", "<think>old</think> yes")
    'P<think>old</think>\\n\\n'
    """
    before, closed, _ = reply.rpartition("</think>")
    return f"{prompt}{before}</think>\n\n" if closed else None


def output_line(prompt: Prompt, args: argparse.Namespace, reply: Generation, scorer: Scorer) -> Line:
    """The line of `outputs.jsonl` of one sample (docs/evaluation.md)."""
    info = prompt.sample["task_info"]
    thinking = prompt.mode == THINK and not prompt.prefix
    reasoning, answer = split_reasoning(reply.text, prompt.thinking_open)
    items = read_items(answer) if answer is not None else []
    score = scorer(prompt.task, info["label"], answer, reply.p_yes)
    return {
        "key": prompt.key,
        "task_info": {name: value for name, value in info.items() if name != "reasoning"},
        "candidates": prompt.sample["candidates"],
        "mode": prompt.mode,
        "input_sha256": sha256(prompt.sample["input"]),
        "prompt_chars": len(prompt.text),
        "prompt_sha256": sha256(prompt.text),
        "template_sha256": args.template_sha256,
        "thinking_open": prompt.thinking_open,
        "truncated": prompt.dropped.to_dict() if prompt.dropped else None,
        "outputs": [
            {"response": reply.text, "reasoning": reasoning if thinking else None, "items": items, "p_yes": reply.p_yes,
             "finish_reason": reply.finish_reason}
        ],
        "score": score,
    }  # fmt: skip


def read_keys(folder: Path, repair: Path | None = None) -> set[str]:
    """Keys of the samples that are finished, in any chunk's file.

    A torn last line, as a kill leaves it, does not count; from the file `repair`, which this process goes on writing, it
    is taken off. The other files may be being written right now.

    Raises:
        UserError: another line is not JSON.
    """
    keys: set[str] = set()
    for path in sorted(folder.glob("outputs*.jsonl")):
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if path == repair and len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                keys.add(json.loads(line)["key"])
            except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
                raise UserError(
                    f"{path}, line {number}: wanted an output line, found something else; remove that line and use --resume"
                ) from None
    return keys
