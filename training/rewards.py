"""Rewards of reinforcement learning: pure functions of a reply's text, one entry each in `REWARDS`.

`accuracy` is the evaluation's own score of the reply, so that what is rewarded is what is scored. A reward is None where it
cannot be given (no label); TRL leaves such a reply out of that reward.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from evaluation.metrics import sample_score
from inference.answers import read_items, split_reasoning
from inference.prompts import SECTIONS, THINK, open_think_prefix

LONG = 2048
"""Characters of a chain up to which `short` gives its full reward; from four times as many it gives none."""


def accuracy(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """The evaluation's score of the reply: set F1 of a decision task, right or wrong of a risk task.

    >>> accuracy("<think>\\nPain.\\n</think>\\n\\nAspirin", "emar", ["Aspirin", "Heparin"], "think")
    0.6666666666666666
    >>> accuracy("<think>Pain", "emar", ["Aspirin"], "think"), accuracy("yes", "ICU_Stay_7day", "yes", "no_think")
    (0.0, 1.0)
    """
    return sample_score(task, label, split_reasoning(completion)[1])


def well_formed(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """1.0 for a reply of the right form, else 0.0.

    A reply that reasons: one closed think block that begins it, the three sections in it in order, then an answer without
    a repeated line. A reply to a prompt that switches thinking off, whose empty think block the prompt holds: no think mark
    and no repeated line.

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
    places = [lines.index(heading) if lines.count(heading) == 1 else -1 for heading in SECTIONS]
    return float(min(places) >= 0 and places == sorted(places) and _no_repeats(answer))


def short(completion: str, task: str, label: str | list[str], mode: str) -> float:
    """1.0 for a chain of at most `LONG` characters, falling linearly to 0.0 at four times as many; 1.0 without a chain.

    >>> short("yes", "emar", ["a"], "no_think"), short("<think>" + "x" * 5 * LONG + "</think>a", "emar", ["a"], "think")
    (1.0, 0.0)
    """
    chain = split_reasoning(completion)[0] or ""
    return min(1.0, max(0.0, (4 * LONG - len(chain)) / (3 * LONG)))


def _no_repeats(answer: str) -> bool:
    lines = [line.strip().casefold() for line in re.split(r"\n", answer) if line.strip()]
    return bool(read_items(answer)) and len(lines) == len(set(lines))


Reward = Callable[[str, str, "str | list[str]", str], float]

REWARDS: dict[str, Reward] = {"accuracy": accuracy, "format": well_formed, "length": short}
"""Name in a recipe → the function of (completion, task, label, mode)."""


def for_trl(name: str) -> Callable[..., list[float | None]]:
    """The reward `name` as TRL calls it: over the completions of a batch, with the columns of `PromptSamples`.

    Where the prompt has opened the think block, the reply is scored with it.

    >>> for_trl("accuracy")(["P"] * 2, ["yes"] * 2, task=["ICU_Stay_7day"] * 2, label=['"no"', "[]"], mode=["no_think"] * 2)
    [0.0, None]
    """
    reward = REWARDS[name]

    def batch(
        prompts: Sequence[str], completions: Sequence[str], task: Sequence[str], label: Sequence[str], mode: Sequence[str],
        **_: Any,
    ) -> list[float | None]:  # fmt: skip
        turns = (open_think_prefix(prompt) + reply for prompt, reply in zip(prompts, completions, strict=True))
        rows = zip(turns, task, map(json.loads, label), mode, strict=True)
        return [reward(*row) if row[2] else None for row in rows]

    batch.__name__ = name  # what the trainer's logs call it
    return batch
