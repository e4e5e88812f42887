"""A prompt in parts: which of its text comes from which event of the patient, and what truncation dropped.

The parts of a prompt join to the prompt, byte for byte; so a reader sees what the model read, whatever its chat template does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from inference.generation import sample_prompt
from inference.prompts import ChatPromptBuilder, PromptBuilder, drop_oldest, evaluation_mode, messages, with_candidates
from inference.settings import InferenceSettings, PromptSettings
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.text import SampleText
from pipeline.files import Line, sha256

TEMPLATE, EVENT, QUESTION, REASONING, DROPPED = "template", "event", "question", "reasoning", "dropped"
NO_LIMIT = 1 << 40  # tokens: the input was shortened before


class Part(NamedTuple):
    """A piece of a prompt.

    Attributes:
        kind: text of the chat template, of an event, the question (with candidates), given reasoning, or an event or lines of
            a note that truncation dropped (`DROPPED`), which are not in the prompt.
        text: as it is in the prompt.
        number: which part of the input an event is: 0 patient, 1 last discharge note, 2 admission, then the window.
        gap: what follows in the prompt before the next part.
    """

    kind: str
    text: str
    number: int | None = None
    gap: str = ""


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt in parts; `identical`: whether it has the hash that was recorded when it was run, None if that is not known."""

    parts: tuple[Part, ...]
    truncated: Line | None = None
    identical: bool | None = None
    escaped: bool = False  # whether texts are as in a JSON string

    @property
    def text(self) -> str:
        """The prompt, which the parts join to."""
        return "".join(part.text + part.gap for part in self.parts if part.kind != DROPPED)


@dataclass(frozen=True)
class Asked:
    """What a prompt is made from."""

    text: SampleText
    instruction: str
    task: Task
    candidates: Sequence[str] | None
    reasoning: str | None = None  # of the index row, which some runs are given


def shown_prompt(asked: Asked, line: Line, settings: InferenceSettings, builder: PromptBuilder | None) -> ShownPrompt:
    """The prompt of an output line, rendered again.

    What truncation dropped is in the line, so that tokens need not be counted. Without a builder the prompt is that of
    `plain_prompt`, in the mode of the line.
    """
    flags, truncated = settings.prompt, line.get("truncated")
    text, kept = drop_oldest(asked.text, *((truncated["events"], truncated["lines"]) if truncated else (0, 0)))
    instruction = _instruction(asked, flags)
    reasoning = asked.reasoning if flags.oracle_reasoning and asked.reasoning else ""
    if builder is None:
        prompt = _user_turn(text, instruction, line["mode"])
    else:
        unlimited = replace(settings, prompt=replace(flags, max_seq_len=NO_LIMIT))
        prompt = sample_prompt(text, instruction, asked.task, builder, unlimited, reasoning).text
    escaped = isinstance(builder, ChatPromptBuilder)
    parts = split_prompt(prompt, text, instruction, reasoning, escaped)
    parts = _with_dropped(parts, asked.text, text, kept)
    identical = None if builder is None else sha256(prompt) == line.get("prompt_sha256")
    return ShownPrompt(tuple(parts), truncated, identical, escaped)


def plain_prompt(asked: Asked) -> ShownPrompt:
    """The user turn of a sample as any model reads it, without a chat template and whole."""
    prompt = _user_turn(asked.text, asked.instruction, evaluation_mode(asked.task.kind))
    return ShownPrompt(tuple(split_prompt(prompt, asked.text, asked.instruction)))


def _user_turn(text: SampleText, instruction: str, mode: str) -> str:
    return messages(str(text), instruction, mode)[-1]["content"]


def _instruction(asked: Asked, flags: PromptSettings) -> str:
    return with_candidates(asked.instruction, asked.task, asked.candidates) if flags.prompt else asked.instruction


def split_prompt(prompt: str, text: SampleText, instruction: str, reasoning: str = "", escaped: bool = False) -> list[Part]:
    """Find the parts of an input, the question and given reasoning in a prompt; the rest is the template's.

    With `escaped` the prompt is JSON, which has them as in its strings.

    >>> text = SampleText("## Patient", "", "", ("## Triage",))
    >>> for part in split_prompt("<user>## Patient\\n\\n\\n\\n\\n\\n## Triage\\nWhat next?<assistant>", text, "What next?"):
    ...     print(part.kind, part.number, repr(part.text), repr(part.gap))
    template None '<user>' ''
    event 0 '## Patient' '\\n\\n\\n\\n\\n\\n'
    event 3 '## Triage' '\\n'
    question None 'What next?' ''
    template None '<assistant>' ''
    """
    inputs = (text.patient, text.last_discharge, text.admission, *text.window)
    wanted = [(EVENT, number, part) for number, part in enumerate(inputs) if part]
    wanted += [(QUESTION, None, instruction)] + ([(REASONING, None, reasoning)] if reasoning else [])
    parts, end = [], 0
    for kind, number, piece in wanted:
        piece = json.dumps(piece, ensure_ascii=False)[1:-1] if escaped else piece
        start = prompt.find(piece, end)
        if start < 0:  # a template that strips white space changes the first or last part
            piece = piece.strip()
            start = prompt.find(piece, end)
        if start < 0:
            continue
        if parts and parts[-1].kind == EVENT:
            parts[-1] = parts[-1]._replace(gap=prompt[end:start])
        elif start > end:
            parts.append(Part(TEMPLATE, prompt[end:start]))
        end = start + len(piece)
        parts.append(Part(kind, piece, number))
    return [*parts, Part(TEMPLATE, prompt[end:])] if end < len(prompt) else parts


def _with_dropped(parts: list[Part], whole: SampleText, shown: SampleText, kept: Sequence[int]) -> list[Part]:
    """Insert what was dropped from `whole` where it would have been: events of the window, and lines of the note."""
    numbers = [3 + position for position in kept]  # of the events that are shown
    parts = [part if (part.number or 0) < 3 else part._replace(number=numbers[part.number - 3]) for part in parts]
    remain = set(kept)
    dropped = [Part(DROPPED, event, 3 + i) for i, event in enumerate(whole.window) if event and i not in remain]
    if whole.last_discharge and whole.last_discharge != shown.last_discharge:
        rest = whole.last_discharge.removeprefix(shown.last_discharge or "").removeprefix("\n")
        dropped.insert(0, Part(DROPPED, rest, 1))
    if not dropped:
        return parts
    events = [part for part in parts if part.number is not None]
    before = parts[: parts.index(events[0])] if events else []
    after = parts[len(before) + len(events) :]
    return [*before, *sorted([*events, *dropped], key=lambda part: (part.number, part.kind == DROPPED)), *after]
