"""Families of models: what decides how a model is prompted and how its replies are read.

What can be detected is, by rendering the chat template (`inference.templates`); the rest is declared in families.yaml.
`python -m inference.describe MODEL` shows both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import templates
from pipeline.errors import UserError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAMILIES_FILE = Path(__file__).with_suffix(".yaml")
TRAINING_FILE = "ehr_training.json"  # in a model's directory, written by sft.py and grpo.py: data, stage and settings
TRAINED = "ehr-r1"  # the family of models trained here: every turn has a think block
UNKNOWN = "unknown"
TEMPLATE_KWARGS = "chat_template_kwargs"


@cache
def declarations() -> dict[str, dict[str, Any]]:
    """families.yaml: `switches` and `families`."""
    import yaml

    return yaml.safe_load(FAMILIES_FILE.read_text(encoding="utf-8"))


@cache
def _marks_as_written() -> tuple[tuple[str, str], ...]:
    of_families = (family["reasoning"] for family in declarations()["families"].values() if family.get("reasoning"))
    return tuple(map(tuple, [*of_families, *declarations()["other_reasoning"]]))


@cache
def reasoning_marks() -> tuple[tuple[str, str], ...]:
    """(opening, closing) marks of reasoning, of families and others, without white space around them, each pair once."""
    return tuple(dict.fromkeys((opening.strip(), closing.strip()) for opening, closing in _marks_as_written()))


@cache
def final_marks() -> tuple[str, ...]:
    """Marks and headings of all families in front of the final answer, besides closing marks of reasoning."""
    return tuple(dict.fromkeys(mark for family in declarations()["families"].values() for mark in family.get("final", ())))


def empty_block(opening: str) -> str:
    """The empty block of the reasoning that a mark opens, as its family writes it.

    >>> empty_block("<think>"), empty_block("[THINK]")
    ('<think>\\n\\n</think>\\n\\n', '[THINK][/THINK]')
    """
    return next("".join(marks) for marks in _marks_as_written() if marks[0].strip() == opening.strip())


@dataclass(frozen=True)
class Switch:
    """A template variable that turns reasoning on and off, and the field in which a chat request has it."""

    name: str
    on: Any
    off: Any
    field: str = TEMPLATE_KWARGS

    @property
    def turns_off(self) -> bool:
        """Whether reasoning is off with the value `off`, and not only short."""
        return self.off != "low"

    def request(self, thinking: bool) -> dict[str, Any]:
        """The fields of a chat request.

        >>> Switch("thinking", True, False).request(False)
        {'chat_template_kwargs': {'thinking': False}}
        """
        value = self.on if thinking else self.off
        return {self.field: {self.name: value}} if self.field == TEMPLATE_KWARGS else {self.field: value}


@dataclass(frozen=True)
class Family:
    """What decides the prompts of a model and how its replies are read."""

    name: str
    chosen_by: str  # --family, training, name, template, or default
    reasoning: tuple[str, str] | None  # marks around reasoning, with white space; None: the model knows none
    direct_answer: str  # appended to prompts that are answered at once, where the template does not do it
    always_reasons: bool  # unless `direct_answer` is appended
    switch: Switch | None
    end_tokens: tuple[str, ...]  # that end a reply, besides the tokenizer's end token
    merges_system: bool  # the system text is part of the user turn
    has_clock: bool  # the template writes a date: `templates.PROMPT_DATE`

    def variables(self, thinking: bool) -> dict[str, Any]:
        """Variables of the chat template for a prompt with thinking on or off."""
        return {self.switch.name: self.switch.on if thinking else self.switch.off} if self.switch else {}

    @property
    def space_after_reasoning(self) -> str | None:
        """The white space after the closing mark of reasoning; None if the model knows none."""
        closing = self.reasoning[1] if self.reasoning else ""
        return closing[len(closing.rstrip()) :] if closing else None

    def facts(self) -> dict[str, Any]:
        """What results record, as JSON values."""
        return {
            "family": self.name,
            "thinking_switch": {self.switch.name: [self.switch.on, self.switch.off]} if self.switch else {},
            "direct_answer": self.direct_answer,
            "end_of_turn": list(self.end_tokens),
            "system_turn": "merged into the user turn" if self.merges_system else "own turn",
            "template_date": f"{templates.PROMPT_DATE:%Y-%m-%d}" if self.has_clock else None,
        }


def family_of(tokenizer: PreTrainedTokenizerBase | None, models: Sequence[str] = (), declared: str | None = None) -> Family:
    """The family of a model.

    Args:
        tokenizer: of the model; None: it is not at hand, as for models behind a chat endpoint, and nothing is detected.
        models: folders, Hub ids or names on a server that may say which family it is; the first that does counts.
        declared: name of a family, which overrides what models and template say.
    """
    template = templates.template_of(tokenizer) if tokenizer is not None and tokenizer.chat_template else ""
    name, chosen_by = _choose(template, models, declared)
    entry = declarations()["families"].get(name, {})
    reasoning = entry["reasoning"] if "reasoning" in entry else _marks_in(template)
    switch, end_tokens, merge = None, [entry["end_of_turn"]] if "end_of_turn" in entry else [], False
    if template:
        merge = templates.merges_system(tokenizer)
        detected = templates.find_switch(tokenizer, declarations()["switches"], merge)
        end_tokens = end_tokens or [templates.end_of_reply(tokenizer)]
        end_tokens = [token for token in end_tokens if token and templates.has_token(tokenizer, token)]
    elif "switch" in entry:
        detected = (entry["switch"], *declarations()["switches"][entry["switch"]][0])
    else:
        detected = None
    if detected:
        switch = Switch(*detected, entry.get("switch_field", TEMPLATE_KWARGS))
    return Family(
        name=name,
        chosen_by=chosen_by,
        reasoning=tuple(reasoning) if reasoning else None,
        direct_answer=entry.get("direct_answer", "".join(reasoning or ())),
        always_reasons=entry.get("always_reasons", False),
        switch=switch,
        end_tokens=tuple(end_tokens),
        merges_system=merge,
        has_clock=bool(templates.clock_of(template)),
    )


def _choose(template: str, models: Sequence[str], declared: str | None) -> tuple[str, str]:
    """(name, how it was chosen)."""
    families = declarations()["families"]
    if declared is not None:
        if declared not in families:
            names = ", ".join(families)
            raise UserError(f"--family: expected one of {names}, got {declared}. See inference/families.yaml.")
        return declared, "--family"
    for model in models:
        if trained := trained_family(model):
            return trained, "training"
        name = model_name(model)
        for family, entry in families.items():
            if any(fnmatchcase(name, pattern) for pattern in entry["names"]):
                return family, "name"
    for family, entry in families.items():
        if "template" in entry and all(text in template for text in entry["template"]):
            return family, "template"
    return UNKNOWN, "default"


def model_name(model: str) -> str:
    """The lower-case name in a Hub id, the path of a folder, also of the Hub's cache, or a name on a server.

    >>> model_name("Qwen/Qwen3-8B"), model_name("/hub/models--google--gemma-3-4b-it/snapshots/0123/")
    ('qwen3-8b', 'gemma-3-4b-it')
    """
    parts = Path(os.path.abspath(model) if Path(model).is_dir() else model).parts
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return [*parts, *cached][-1].lower() if parts else ""


def trained_family(model: str) -> str | None:
    """The family of a model, adapter or checkpoint that sft.py or grpo.py trained; None for other models."""
    folder = Path(model)
    folders = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
    file = next((place / TRAINING_FILE for place in folders if (place / TRAINING_FILE).exists()), None)
    return read_json(file).get("family", TRAINED) if file else None  # older records do not say


def _marks_in(template: str) -> tuple[str, str] | None:
    return next((marks for marks in _marks_as_written() if marks[1].strip() in template), None)
