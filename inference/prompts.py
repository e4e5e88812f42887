"""Prompts: the one place that builds them, for training, RL and evaluation alike.

Three modes (docs/data.md): `plain` (thinking off), `think` (thinking on), `no_think` (thinking off, said in the prompt).
A record that is too long for the model loses whole events, oldest first; nothing is ever cut by token ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from mimiciv_dataset.tasks import Task
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

SYSTEM = "You are a helpful assistant."
THINK_MARK = "<think>"
EMPTY_THINK = "<think>\n\n</think>\n\n"
RECENT = 4
"""Texts whose tokens a builder keeps: shortening a record asks again for the ones it has just counted."""

SECTIONS = ("## Extraction", "## Reasoning", "## Final Results")
"""Headings of a reasoning chain, in order, each on a line of its own."""

PLAIN, THINK, NO_THINK = "plain", "think", "no_think"
SUFFIXES = {PLAIN: "", THINK: "\n/think", NO_THINK: "\n/no_think"}
"""The modes, and what each adds to the user turn."""


def training_mode(stage: str, reasoning: str | None) -> str:
    """The mode of a training row: stage 1 (`domain`) is plain; later, rows with a chain think and others do not.

    >>> training_mode("domain", None), training_mode("reasoning", "…"), training_mode("reasoning", None)
    ('plain', 'think', 'no_think')
    """
    if stage == "domain":
        return PLAIN
    return THINK if reasoning else NO_THINK


def evaluation_mode(kind: str, think_prompt: bool = False, direct_answer: bool = False, think_risk: bool = False) -> str:
    """The mode of an evaluated row, by its task's kind and the flags of test.py.

    >>> evaluation_mode("decision"), evaluation_mode("decision", think_prompt=True), evaluation_mode("risk", think_prompt=True)
    ('plain', 'think', 'no_think')
    >>> evaluation_mode("risk", think_prompt=True, think_risk=True), evaluation_mode("decision", True, direct_answer=True)
    ('think', 'no_think')
    """
    if not think_prompt:
        return PLAIN
    if direct_answer or (kind == "risk" and not think_risk):
        return NO_THINK
    return THINK


def user_turn(record: str, instruction: str, mode: str) -> str:
    """The user turn of a sample.

    >>> user_turn("RECORD", "What next?", "no_think")
    'RECORD\\nWhat next?\\n/no_think'
    """
    return f"{record}\n{instruction}{SUFFIXES[mode]}"


def messages(record: str, instruction: str, mode: str) -> list[dict[str, str]]:
    """The chat up to the answer."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user_turn(record, instruction, mode)}]


def assistant_turn(answer: str, reasoning: str | None = None) -> str:
    """The assistant turn: a think block, empty without reasoning, and the answer.

    >>> assistant_turn("Aspirin", "It hurts.")
    '<think>\\nIt hurts.\\n</think>\\n\\nAspirin'
    >>> assistant_turn("Aspirin")
    '<think>\\n\\n</think>\\n\\nAspirin'
    """
    return f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else EMPTY_THINK + answer


def completion(mode: str, answer: str, reasoning: str | None = None) -> str:
    """What a model must write after the prompt of `mode`; the prompts of modes that do not think end in the empty block.

    >>> completion("no_think", "Aspirin"), completion("think", "Aspirin", "It hurts.")
    ('Aspirin', '<think>\\nIt hurts.\\n</think>\\n\\nAspirin')
    """
    return assistant_turn(answer, reasoning) if mode == THINK else answer


def open_think_prefix(prompt: str) -> str:
    """The think mark that a prompt ends in, with the white space after it: some chat templates open the block themselves.

    >>> open_think_prefix("<assistant><think>\\n"), open_think_prefix("<assistant>\\n")
    ('<think>\\n', '')
    """
    text = prompt.rstrip()
    return prompt[len(text) - len(THINK_MARK) :] if text.endswith(THINK_MARK) else ""


def completion_after(prompt: str, completion: str) -> str:
    """What of a completion is left to write where the prompt has opened the think block.

    >>> completion_after("<assistant><think>\\n", "<think>\\nIt hurts.\\n</think>\\n\\nAspirin")
    'It hurts.\\n</think>\\n\\nAspirin'
    >>> completion_after("<assistant>\\n", "Aspirin")
    'Aspirin'
    """
    mark = open_think_prefix(prompt)
    return completion.removeprefix(THINK_MARK).removeprefix(mark.removeprefix(THINK_MARK)) if mark else completion


def with_candidates(instruction: str, task: Task, candidates: Sequence[str] | None) -> str:
    """The instruction with candidates and answer rules, for models that were not trained on EHR-Ins (`--prompt`).

    >>> from mimiciv_dataset.tasks import TASKS
    >>> print(with_candidates("Which drugs?", TASKS["emar"], ["Aspirin", "Heparin"]))
    Which drugs?
    Choose from these candidates:
    - Aspirin
    - Heparin
    Write only the items you choose, one per line, by their names and without codes, numbering or comments.
    """
    lines = [instruction]
    if task.kind == "risk":
        lines.append("Write one word only: yes or no.")
    elif task.kind == "decision":
        if candidates:
            lines += ["Choose from these candidates:", *(f"- {name}" for name in candidates)]
        lines.append("Write only the items you choose, one per line, by their names and without codes, numbering or comments.")
    return "\n".join(lines)


def instructions_sha256(instructions: dict[str, str]) -> str:
    """Names an instruction set; results carry it, since a checkpoint must be run on the wording it was trained on."""
    return sha256(json.dumps(instructions, sort_keys=True, ensure_ascii=False))


@dataclass(frozen=True)
class Truncation:
    """What truncation took from a record.

    `events` of the window, oldest first, and `lines` from the end of the last discharge note; prompt tokens before and
    after; `fits`: whether the rest is short enough.
    """

    events: int
    lines: int
    tokens_before: int
    tokens_after: int
    fits: bool = True

    def to_dict(self) -> dict[str, int | bool]:
        return asdict(self)


class PromptBuilder:
    """Renders prompts with a model's chat template.

    Args:
        tokenizer: the model's tokenizer.
        empty_think: what to append where thinking is off and the template has no `enable_thinking` of its own.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, empty_think: str = EMPTY_THINK) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: wanted a model with a chat template, found none; take the instruction-tuned "
                "version of the model, or put a chat_template.jinja beside its tokenizer"
            )
        self.tokenizer = tokenizer
        self.empty_think = empty_think
        self.template: str = tokenizer.get_chat_template()
        self._switch = "enable_thinking" in self.template
        self._recent: dict[str, BatchEncoding] = {}

    @property
    def template_sha256(self) -> str:
        return sha256(self.template)

    def prompt(self, record: str, instruction: str, mode: str) -> str:
        """The text a model reads before it answers."""
        thinking = {"enable_thinking": mode == THINK} if self._switch else {}
        text = self.tokenizer.apply_chat_template(
            messages(record, instruction, mode), tokenize=False, add_generation_prompt=True, **thinking
        )
        return text if mode == THINK or self._switch else text.removesuffix(open_think_prefix(text)) + self.empty_think

    def ids(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens; not to be changed: the last texts' are kept."""
        return self._encoded(text)["input_ids"]

    def _encoded(self, text: str) -> BatchEncoding:
        if text not in self._recent:
            if len(self._recent) == RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[text] = self.tokenizer(text, add_special_tokens=False)
        return self._recent[text]

    def tokens(self, text: str) -> int:
        """Number of tokens of a text that already holds its special tokens."""
        return len(self.ids(text))

    def fit(
        self, text: SampleText, instruction: str, mode: str, max_tokens: int, prefix: str = ""
    ) -> tuple[str, Truncation | None]:
        """The prompt of a sample, shortened to `max_tokens` if need be.

        First whole events go, from the oldest end of the window but never a risk task's anchor; then whole lines from
        the end of the last discharge note. The system turn, demographics, admission, instruction and answer stay.

        Args:
            prefix: text put after the prompt (given reasoning), which counts.

        Returns:
            the prompt with the prefix, and what was dropped: None if nothing was; `Truncation.fits` False if it is still
            too long, which the caller must not run.
        """

        def render(shortened: SampleText) -> str:
            prompt = self.prompt(str(shortened), instruction, mode)
            return prompt.removesuffix(open_think_prefix(prompt)) + prefix if prefix else prompt

        whole = render(text)
        before = self.tokens(whole)
        if before <= max_tokens:
            return whole, None
        # An event that is not rendered is only a blank line, which goes with the event before it: the same text is left of a
        # record whether its events are known or read back from the text.
        droppable = [i for i, event in enumerate(text.window) if i != text.anchor and (event or i == 0)]
        lines = text.last_discharge.split("\n") if text.last_discharge else []

        def without(events: int, last_lines: int) -> SampleText:
            gone, kept, keeps = set(droppable[:events]), [], True
            for i, event in enumerate(text.window):
                keeps = i not in gone if event or i == 0 else keeps
                kept += [event] if keeps else []
            note = "\n".join(lines[: len(lines) - last_lines]) if lines else text.last_discharge
            return replace(text, window=tuple(kept), last_discharge=note, anchor=None)

        def length(events: int, last_lines: int) -> int:
            return self.tokens(render(without(events, last_lines)))

        costs = self._costs(whole, [text.window[i] + "\n\n" for i in droppable])
        events = _least(lambda n: length(n, 0) <= max_tokens, costs, before - max_tokens)
        cut = 0
        if events is None:
            events = len(droppable)
            costs = self._costs(whole, [line + "\n" for line in lines])[::-1]
            over = length(events, 0) - max_tokens
            cut = _least(lambda n: length(events, n) <= max_tokens, costs, over)
        fits = cut is not None
        cut = len(lines) if cut is None else cut
        prompt = render(without(events, cut))
        return prompt, Truncation(events, cut, before, self.tokens(prompt), fits)

    def _costs(self, text: str, pieces: list[str]) -> list[float]:
        """About how many tokens of a text each of its pieces is, which follow each other in it: where to begin to look.

        Read off the text's own tokens, so nothing is tokenised again; by characters where a piece or a token is not found.
        """
        encoded, total = self._encoded(text), self.tokens(text)

        def token(position: int) -> float:
            found = encoded.char_to_token(position) if encoded.is_fast and position < len(text) else None
            return position * total / len(text) if found is None else found

        costs, end = [], 0
        for piece in pieces:
            found = text.find(piece.rstrip(), end)
            start = end if found == -1 else found
            end = start + len(piece)
            costs.append(token(end) - token(start))
        return costs


def _least(enough: Callable[[int], bool], costs: Sequence[float], over: int) -> int | None:
    """The least number of pieces to drop, oldest first, so that `enough`; None if all of them are not.

    The pieces' own token counts say where to begin; `enough`, which counts exactly, decides near there, in steps that
    double and then halve. So a record of any length is tokenised a few times, not once a piece.

    >>> _least(lambda n: 4 * n >= 9, [5, 5, 5, 5], over=9)
    3
    >>> [_least(lambda n: n >= wanted, [1] * 9, over=5) for wanted in (0, 4, 9, 10)]
    [0, 4, 9, None]
    """
    enough = cache(enough)
    guess, saved = 0, 0
    while guess < len(costs) and saved < over:
        saved += costs[guess]
        guess += 1
    low, high, step = guess - 1, guess, 1  # to become neighbours: `low` is not enough, `high` is
    while not enough(high):
        if high == len(costs):
            return None
        low, high, step = high, min(high + step, len(costs)), 2 * step
    step = 1
    while low >= 0 and enough(low):
        low, high, step = max(low - step, -1), low, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
