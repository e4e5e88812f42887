"""Rewards of reinforcement learning: functions of a completion, its task, its label, the mode of its prompt, and its p(yes).

`accuracy` is the score that the evaluation gives the completion. A reward is None for a sample that it does not score, such
as one without a label; TRL then ignores it. p(yes) is computed by the trainer for `brier` only (`scored_prompt` says where).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from evaluation.metrics import sample_score
from inference.answers import read_items, read_yes_no, split_reasoning
from inference.generation import after_reasoning
from inference.prompts import SECTIONS, THINK, open_think_prefix
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import ALL_TASKS, YES
from pipeline.files import Line

Label = str | list[str]
Reward = Callable[[str, str, Label, str, float | None], float | None]
Texts = Sequence[str]
Values = list[float | None]

BRIER, DECISION = "brier", "decision"
MAX_FULL_REWARD_CHARACTERS = 2048  # length of a reasoning chain up to which `short` is 1; from four times this it is 0


def accuracy(completion: str, task: str, label: Label, mode: str, p_yes: float | None = None) -> float:
    """The evaluation's score: set F1 in decision tasks, 1.0 or 0.0 in risk tasks.

    >>> accuracy("<think>\\nPain.\\n</think>\\n\\nAspirin", "emar", ["Aspirin", "Heparin"], "think")
    0.6666666666666666
    >>> accuracy("<think>Pain", "emar", ["Aspirin"], "think"), accuracy("yes", "ICU_Stay_7day", "yes", "no_think")
    (0.0, 1.0)
    """
    return sample_score(task, label, split_reasoning(completion)[1])


def decision(completion: str, task: str, label: Label, mode: str, p_yes: float | None = None) -> float | None:
    """`accuracy` in all tasks but risk tasks, whose p(yes) it would push to 0 or 1; for use with `brier`.

    >>> decision("Aspirin", "emar", ["Aspirin"], "no_think"), decision("yes", "ICU_Stay_7day", "yes", "no_think")
    (1.0, None)
    """
    return accuracy(completion, task, label, mode) if scores(DECISION, ALL_TASKS[task].kind) else None


def well_formed(completion: str, task: str, label: Label, mode: str, p_yes: float | None = None) -> float:
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


def short(completion: str, task: str, label: Label, mode: str, p_yes: float | None = None) -> float:
    """1.0 for a chain of up to `MAX_FULL_REWARD_CHARACTERS`, falling linearly to 0.0 at four times that; 1.0 without a chain.

    >>> short("yes", "emar", ["a"], "no_think"), short("<think>" + "x" * 10_000 + "</think>a", "emar", ["a"], "think")
    (1.0, 0.0)
    """
    chain = split_reasoning(completion)[0] or ""
    full = MAX_FULL_REWARD_CHARACTERS
    return min(1.0, max(0.0, (4 * full - len(chain)) / (3 * full)))


def brier(completion: str, task: str, label: Label, mode: str, p_yes: float | None = None) -> float | None:
    """A proper score of p(yes) in risk tasks, from 0 to 2; None in other tasks.

    With p the model's probability of the right answer, a completion that says it earns 1 + (1 − p)², one that says the other
    p², and one that says neither 1 − (1 − p)². The mean over completions is the Brier score 1 − (1 − p)², which is highest for
    the true probability, and so is the policy gradient. (The Brier score itself as the reward would be the same for all
    completions of a prompt without reasoning, and train nothing.) Without p(yes), because the reasoning was never closed, the
    reward is that of the worst-case probability, 0.

    >>> [brier(reply, "ICU_Stay_7day", "yes", "no_think", 0.75) for reply in ("yes", "no", "?")]
    [1.0625, 0.5625, 0.9375]
    >>> brier("<think>Old", "ICU_Stay_7day", "yes", "think"), brier("Aspirin", "emar", ["Aspirin"], "think")
    (0.0, None)
    """
    if not scores(BRIER, ALL_TASKS[task].kind):
        return None
    if p_yes is None:
        return 0.0
    expected = label_list(label)[0].strip().casefold()
    right = p_yes if expected == YES else 1 - p_yes
    answer = read_yes_no(split_reasoning(completion)[1])
    if answer is None:
        return 1 - (1 - right) ** 2
    return 1 + (1 - right) ** 2 if answer == expected else right**2


def scored_prompt(prompt: str, completion: str, task: str, mode: str) -> str | None:
    """The text after which the evaluation computes p(yes): the prompt, with the reasoning of the completion if it has any.

    None in tasks other than risk tasks, and if the reasoning was never closed.

    >>> scored_prompt("P", "no", "ICU_Stay_7day", "no_think"), scored_prompt("P", "<think>Old", "ICU_Stay_7day", "think")
    ('P', None)
    >>> scored_prompt("P", "<think>Old.</think> no", "ICU_Stay_7day", "think")
    'P<think>Old.</think>\\n\\n'
    """
    if ALL_TASKS[task].kind != "risk":
        return None
    return after_reasoning(prompt, completion, open_think_prefix(prompt)) if mode == THINK else prompt


def _no_repeats(answer: str) -> bool:
    lines = [line.strip().casefold() for line in answer.split("\n") if line.strip()]
    return bool(read_items(answer)) and len(lines) == len(set(lines))


# Name in `--rewards` → function of (completion, task, label, mode, p(yes)).
REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "format": well_formed,
    "length": short,
    BRIER: brier,
    DECISION: decision,
}


def scores(name: str, kind: str) -> bool:
    """Whether a reward scores tasks of a kind."""
    return {BRIER: kind == "risk", DECISION: kind != "risk"}.get(name, True)


def for_trl(name: str, log: Callable[[Line], None] | None = None) -> Callable[..., Values]:
    """The reward `name` as TRL calls it: for the completions of a batch, with the columns of `PromptSamples`.

    If the prompt ends with an open think tag, the completion is scored as if it began with the tag. Completions with task,
    mode, value and, if it is known, p(yes) go to `log` (`pipeline.files.append_jsonl`), if it is given.

    >>> for_trl("accuracy")(["P"] * 2, ["yes"] * 2, task=["ICU_Stay_7day"] * 2, label=['"no"', "[]"], mode=["no_think"] * 2)
    [0.0, None]
    """
    reward = REWARDS[name]

    def batch_reward(
        prompts: Texts, completions: Texts, task: Texts, label: Texts, mode: Texts, p_yes: Values | None = None, **_: Any
    ) -> Values:
        turns = (open_think_prefix(prompt) + text for prompt, text in zip(prompts, completions, strict=True))
        rows = zip(turns, task, map(json.loads, label), mode, p_yes or [None] * len(prompts), strict=True)
        values = [reward(*row) if row[2] else None for row in rows]
        if log:
            columns = {"task": task, "mode": mode, "completion": completions, name: values} | (
                {"p_yes": p_yes} if p_yes else {}
            )
            for row in zip(*columns.values(), strict=True):
                log(dict(zip(columns, row, strict=True)))
        return values

    batch_reward.__name__ = name  # its name in the trainer's logs
    return batch_reward
