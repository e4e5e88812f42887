"""Rewards of reinforcement learning: functions of a completion, its task, its label and the mode of its prompt.

`accuracy` is the score that the evaluation gives the completion. A reward is None for a sample without a label; TRL then
ignores the completion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from evaluation.metrics import sample_score
from inference.answers import read_items, split_reasoning
from inference.prompts import SECTIONS, THINK, open_think_prefix
from pipeline.files import Line

MAX_FULL_REWARD_CHARACTERS = 2048  # length of a reasoning chain up to which `short` is 1; from four times this it is 0


def accuracy(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """The evaluation's score: set F1 in decision tasks, 1.0 or 0.0 in risk tasks.

    >>> accuracy("<think>\\nPain.\\n</think>\\n\\nAspirin", "emar", ["Aspirin", "Heparin"], "think")
    0.6666666666666666
    >>> accuracy("<think>Pain", "emar", ["Aspirin"], "think"), accuracy("yes", "ICU_Stay_7day", "yes", "no_think")
    (0.0, 1.0)
    """
    return sample_score(task, label, split_reasoning(completion)[1])


def well_formed(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """1.0 for a well-formed completion, else 0.0.

    With reasoning: one closed think block at the start with the three sections in order, then an answer without repeated
    lines. Without reasoning (the prompt ends with an empty think block): an answer without think tags or repeated lines.

    >>> chain = "<think>\\n## Extraction\\n- a\\n## Reasoning\\nb\\n## Final Results\\nc\\n</think>\\n\\n"
    >>> [well_formed(text, "emar", ["c"], "think") for text in (chain + "c", chain + "c\\nC", "c")]
    [1.0, 0.0, 0.0]
    >>> [well_formed(text, "emar", ["c"], "no_think") for text in ("c", "<think>\\n\\n</think>\\n\\nc")]
    [1.0, 0.0]
    """
    text = completion.strip()
    if mode != THINK:
        return float("<think>" not in text and "</think>" not in text and _no_repeats(text))
    if not text.startswith("<think>") or text.count("<think>") != 1 or text.count("</think>") != 1:
        return 0.0
    chain, _, answer = text.removeprefix("<think>").partition("</think>")
    lines = [line.strip() for line in chain.splitlines()]
    positions = [lines.index(heading) if lines.count(heading) == 1 else -1 for heading in SECTIONS]
    return float(min(positions) >= 0 and positions == sorted(positions) and _no_repeats(answer))


def short(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """1.0 for a chain of up to `MAX_FULL_REWARD_CHARACTERS`, falling linearly to 0.0 at four times that; 1.0 without a chain.

    >>> short("yes", "emar", ["a"], "no_think"), short("<think>" + "x" * 10_000 + "</think>a", "emar", ["a"], "think")
    (1.0, 0.0)
    """
    chain = split_reasoning(completion)[0] or ""
    full = MAX_FULL_REWARD_CHARACTERS
    return min(1.0, max(0.0, (4 * full - len(chain)) / (3 * full)))


def _no_repeats(answer: str) -> bool:
    lines = [line.strip().casefold() for line in answer.split("\n") if line.strip()]
    return bool(read_items(answer)) and len(lines) == len(set(lines))


Reward = Callable[[str, str, "str | list[str]", str], float]
Texts = Sequence[str]
Values = list[float | None]

# Name in `--rewards` → function of (completion, task, label, mode).
REWARDS: dict[str, Reward] = {"accuracy": accuracy, "format": well_formed, "length": short}


def for_trl(name: str, log: Callable[[Line], None] | None = None) -> Callable[..., Values]:
    """The reward `name` as TRL calls it: for the completions of a batch, with the columns of `PromptSamples`.

    If the prompt ends with an open think tag, the completion is scored as if it began with the tag. Completions with task,
    mode and value go to `log` (`pipeline.files.append_jsonl`), if it is given.

    >>> for_trl("accuracy")(["P"] * 2, ["yes"] * 2, task=["ICU_Stay_7day"] * 2, label=['"no"', "[]"], mode=["no_think"] * 2)
    [0.0, None]
    """
    reward = REWARDS[name]

    def batch_reward(prompts: Texts, completions: Texts, task: Texts, label: Texts, mode: Texts, **_: Any) -> Values:
        turns = (open_think_prefix(prompt) + text for prompt, text in zip(prompts, completions, strict=True))
        rows = zip(turns, task, map(json.loads, label), mode, strict=True)
        values = [reward(*row) if row[2] else None for row in rows]
        for row in zip(task, mode, completions, values, strict=True) if log else ():
            log(dict(zip(("task", "mode", "completion", name), row, strict=True)))
        return values

    batch_reward.__name__ = name  # its name in the trainer's logs
    return batch_reward
