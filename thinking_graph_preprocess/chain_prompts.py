"""The prompts of reasoning chains: prompt files, what fills them, and the keys of their replies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.generation import ID_COLUMNS, Prompt
from inference.prompts import TokenCounter, shorten
from inference.settings import InferenceSettings, Settings, flag
from mimiciv_dataset.samples import label_list
from pipeline.errors import UserError
from pipeline.files import require, sha256
from thinking_graph_preprocess.evidence_rows import EvidenceFiles, EvidenceRow, Paths, read_graph

if TYPE_CHECKING:
    from mimiciv_dataset.text import SampleText

PROMPTS = Path(__file__).parent / "prompts"
WITH_KNOWLEDGE, WITHOUT_KNOWLEDGE, WITHOUT_FORMAT = "with_knowledge", "without_knowledge", "without_format"
VERIFIER = "verifier"
# The prompt files, and the slots of each, written {record}.
SLOTS = {
    WITH_KNOWLEDGE: {"record", "question", "answer", "knowledge"},
    WITHOUT_KNOWLEDGE: {"record", "question", "answer"},
    WITHOUT_FORMAT: {"record", "question", "answer", "knowledge"},
    VERIFIER: {"record", "question", "reasoning"},
}


@dataclass(frozen=True)
class ChainSettings(Settings):
    """Which prompt a row gets."""

    without_knowledge: bool = flag(False, help="do not show the graph (without_knowledge.txt)")
    without_format: bool = flag(False, help="ask for no sections (without_format.txt)")
    prompts: Path = PROMPTS


def read_prompt(folder: Path, name: str) -> str:
    """Read a prompt file."""
    path = require(folder / f"{name}.txt", "a prompt", f"copy and change those in {PROMPTS}")
    text = path.read_text(encoding="utf-8").strip()
    slots = set(re.findall(r"\{(\w+)\}", text))
    if slots != SLOTS[name]:
        raise UserError(f"{path}: expected the slots {_braced(SLOTS[name])}, got {_braced(slots) or 'none'}.")
    return text


def _braced(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def fill(template: str, **values: str) -> str:
    """A prompt with its slots filled, all at once: braces in a value are text.

    >>> fill("{a} and {b}", a="{b}", b="x")
    '{b} and x'
    """
    return re.sub(r"\{(\w+)\}", lambda slot: values[slot[1]], template)


def chat_prompt(
    template: str, text: SampleText, count: TokenCounter, max_tokens: int, key: str, line: dict[str, Any], **values: str
) -> Prompt:
    """A prompt to the chat endpoint: a template filled with `values` and the input of a row, which is shortened to fit."""
    prompt, truncation = shorten(text, lambda record: fill(template, record=record, **values), count, max_tokens)
    messages = json.dumps([{"role": "user", "content": prompt}], ensure_ascii=False)
    return Prompt(key, messages, {"key": key} | line, truncation, tokens=count(prompt))


def knowledge(paths: Paths) -> str:
    """Paths as the prompt shows them, one per line, each once.

    >>> knowledge((("Pain", "may be treated by", "Aspirin"), ("Pain", "is a", "Finding")))
    '- Pain → may be treated by → Aspirin\\n- Pain → is a → Finding'
    """
    return "\n".join(dict.fromkeys("- " + " → ".join(path) for path in paths)) or "(none)"


@dataclass(frozen=True)
class ReplySettings:
    """What decides a reply besides the row; the record of a directory of replies has it, so that filter_reasoning.py knows."""

    model: str
    temperature: float
    n: int
    max_new_tokens: int
    max_seq_len: int
    tokenizer: str | None
    without_knowledge: bool
    without_format: bool
    prompts: Mapping[str, str]  # name of the prompt file → SHA-256 of its text
    extra_body: Mapping[str, Any] | None = None  # further fields of a request

    def variant(self, paths: Paths) -> str:
        """The prompt file for a row with these paths."""
        if self.without_format:
            return WITHOUT_FORMAT
        return WITH_KNOWLEDGE if paths and not self.without_knowledge else WITHOUT_KNOWLEDGE

    def key(self, columns: Mapping[str, Any], text: SampleText, question: str) -> str:
        """Hash of all that decides the reply: patient's record, question, answer, paths if shown, prompt file, settings."""
        paths = read_graph(columns.get("graph"))
        variant = self.variant(paths)
        sample = [*(columns[name] for name in ID_COLUMNS), str(text), question, label_list(columns["target"])]
        shown = paths if "knowledge" in SLOTS[variant] else ()
        settings: list[Any] = [self.model, self.temperature, self.n, self.max_new_tokens, self.max_seq_len, self.tokenizer]
        settings += [self.extra_body] if self.extra_body else []
        return sha256(json.dumps([sample, shown, self.prompts[variant], settings]))

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as the record of an output has them."""
        return {name: value for name, value in asdict(self).items() if name != "extra_body" or value}


class ChainPrompter:
    """Makes the prompts of evidence rows."""

    def __init__(
        self,
        evidence: EvidenceFiles,
        chains: ChainSettings,
        settings: InferenceSettings,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.evidence, self.settings = evidence, settings
        self.templates = {name: read_prompt(chains.prompts, name) for name in SLOTS if name != VERIFIER}
        self.count = token_counter(settings.server.tokenizer)
        model, decoding = settings.model.model_name_or_path, settings.decoding
        self.replies = ReplySettings(
            model,
            decoding.temperature,
            decoding.n,
            decoding.max_new_tokens,
            settings.prompt.max_seq_len,
            settings.server.tokenizer,
            chains.without_knowledge,
            chains.without_format,
            {name: sha256(text) for name, text in self.templates.items()},
            extra_body,
        )

    def key(self, row: EvidenceRow) -> str:
        """The key of a row (`ReplySettings.key`)."""
        evidence = self.evidence
        return self.replies.key(evidence.columns(row), evidence.text(row), evidence.question(row))

    def __call__(self, row: EvidenceRow, choices: int) -> Prompt:
        """The prompt of a row, for this number of chains."""
        columns, text, question = self.evidence.columns(row), self.evidence.text(row), self.evidence.question(row)
        paths = read_graph(columns.get("graph"))
        variant, key = self.replies.variant(paths), self.replies.key(columns, text, question)
        max_tokens = self.settings.prompt.max_seq_len - self.settings.decoding.max_new_tokens
        line = {name: columns[name] for name in ID_COLUMNS}
        line |= {"model": self.settings.model.model_name_or_path, "prompt": variant}
        answer = "\n".join(f"- {name}" for name in label_list(columns["target"]))
        values = {"question": question, "knowledge": knowledge(paths), "answer": answer}
        prompt = chat_prompt(self.templates[variant], text, self.count, max_tokens, key, line, **values)
        return replace(prompt, choices=choices)


def token_counter(tokenizer: str | None) -> TokenCounter:
    """Counts tokens with a tokenizer (Hub id or folder); None: an estimate."""
    from inference.backends import load_tokenizer

    return TokenCounter(load_tokenizer(tokenizer) if tokenizer else None)
