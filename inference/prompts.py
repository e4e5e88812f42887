"""Prompts: what a model reads, the same for training, RL and evaluation.

`mimiciv_dataset/text.py` decides which events the input of a sample has and how they are written. Here input, instruction and
mode become the prompt, and an input that is too long for the model loses whole events, oldest first (`shorten`).

There are three modes (docs/data.md): `plain` (thinking off), `think` (thinking on), `no_think` (thinking off, and the prompt
asks for no thinking).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from inference import templates
from inference.families import TRAINED, Family, Switch, empty_block, family_of, reasoning_marks
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

SYSTEM = "You are a helpful assistant."
THINK_MARKS = ("<think>\n", "\n</think>\n\n")  # around the reasoning of models trained here
EMPTY_THINK = "".join(THINK_MARKS)
RECENT = 4  # texts whose tokens a counter keeps: shortening an input counts some texts again
BYTES_PER_TOKEN = 3.0  # an estimate without a tokenizer, on the safe side for inputs with many numbers
SECTIONS = ("## Extraction", "## Reasoning", "## Final Results")  # headings of a reasoning chain, in order

PLAIN, THINK, NO_THINK = "plain", "think", "no_think"
SUFFIXES = {PLAIN: "", THINK: "\n/think", NO_THINK: "\n/no_think"}  # what each mode appends to the user turn


def training_mode(stage: str, reasoning: str | None) -> str:
    """The mode of a training row: stage 1 (`domain`) is plain; in later stages rows with a chain think, others do not.

    >>> training_mode("domain", None), training_mode("reasoning", "…"), training_mode("reasoning", None)
    ('plain', 'think', 'no_think')
    """
    if stage == "domain":
        return PLAIN
    return THINK if reasoning else NO_THINK


def evaluation_mode(kind: str, think_prompt: bool = False, direct_answer: bool = False, think_risk: bool = False) -> str:
    """The mode of an evaluated row, from the kind of its task and the flags of test.py.

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


def messages(input_text: str, instruction: str, mode: str, merge_system: bool = False) -> list[dict[str, str]]:
    """The chat up to the answer; with `merge_system`, the system text is part of the user turn.

    >>> messages("INPUT", "What next?", "no_think")[1]["content"]
    'INPUT\\nWhat next?\\n/no_think'
    """
    return templates.with_system(SYSTEM, f"{input_text}\n{instruction}{SUFFIXES[mode]}", merge_system)


def assistant_turn(answer: str, reasoning: str | None = None) -> str:
    """The assistant turn: a think block, empty without reasoning, and the answer.

    >>> assistant_turn("Aspirin", "It hurts.")
    '<think>\\nIt hurts.\\n</think>\\n\\nAspirin'
    >>> assistant_turn("Aspirin")
    '<think>\\n\\n</think>\\n\\nAspirin'
    """
    return (reasoning or "").join(THINK_MARKS) + answer


def completion(mode: str, answer: str, reasoning: str | None = None) -> str:
    """The text a model is trained to write after a prompt of `mode`; prompts without thinking end in the empty think block.

    >>> completion("no_think", "Aspirin"), completion("think", "Aspirin", "It hurts.")
    ('Aspirin', '<think>\\nIt hurts.\\n</think>\\n\\nAspirin')
    """
    return assistant_turn(answer, reasoning) if mode == THINK else answer


def open_think_prefix(prompt: str) -> str:
    """The mark of reasoning, of any family, that a chat template opened at the end of a prompt, with the white space after it.

    It is "" if there is none.

    >>> open_think_prefix("<assistant><think>\\n"), open_think_prefix("<assistant>\\n")
    ('<think>\\n', '')
    """
    text = prompt.rstrip()
    mark = next((opening for opening, _ in reasoning_marks() if text.endswith(opening)), None)
    return prompt[len(text) - len(mark) :] if mark else ""


def completion_after(prompt: str, completion: str) -> str:
    """The rest of a completion after a prompt that has opened the think block.

    >>> completion_after("<assistant><think>\\n", "<think>\\nIt hurts.\\n</think>\\n\\nAspirin")
    'It hurts.\\n</think>\\n\\nAspirin'
    """
    prefix = open_think_prefix(prompt)
    mark = prefix.rstrip()
    return completion.removeprefix(mark).removeprefix(prefix.removeprefix(mark)) if mark else completion


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
    """The hash of an instruction set. Results record it, since a checkpoint must be run on the wording it was trained on."""
    return sha256(json.dumps(instructions, sort_keys=True, ensure_ascii=False))


@dataclass(frozen=True)
class Truncation:
    """What was dropped from an input that was too long: the oldest events, and the last lines of the last discharge note.

    `tokens_before` and `tokens_after` are lengths of the prompt. A prompt that does not fit even so must not be run.
    """

    events: int
    lines: int
    tokens_before: int
    tokens_after: int
    fits: bool = True


class TokenCounter:
    """Counts the tokens of texts that hold their special tokens; without a tokenizer it estimates them from bytes.

    >>> TokenCounter()("Glucose 109")
    3
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.tokenizer = tokenizer
        self._recent: dict[str, BatchEncoding] = {}

    def __call__(self, text: str) -> int:
        return int(len(text.encode("utf-8")) / BYTES_PER_TOKEN) if self.tokenizer is None else len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """Token ids of a text. The last results are cached: do not modify them."""
        return self._encoded(text)["input_ids"]

    def _encoded(self, text: str) -> BatchEncoding:
        if text not in self._recent:
            if len(self._recent) == RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[text] = self.tokenizer(text, add_special_tokens=False)
        return self._recent[text]

    def costs(self, text: str, pieces: list[str]) -> list[float]:
        """About how many tokens of `text` each of its pieces takes, in their order, read off the tokens of the text."""
        if self.tokenizer is None:
            return [self(piece) for piece in pieces]
        encoded, total = self._encoded(text), self(text)

        def token(position: int) -> float:
            number = encoded.char_to_token(position) if encoded.is_fast and position < len(text) else None
            return position * total / len(text) if number is None else number

        costs, end = [], 0
        for piece in pieces:
            start = max(end, text.find(piece.rstrip(), end))
            end = start + len(piece)
            costs.append(token(end) - token(start))
        return costs


def shorten(
    text: SampleText, render: Callable[[str], str], count: TokenCounter, max_tokens: int
) -> tuple[str, Truncation | None]:
    """Render a prompt that holds the input of a sample, shortened to `max_tokens` if need be.

    Whole events are dropped first, from the oldest end of the window, but never the anchor of a risk task; then whole lines
    from the end of the last discharge note. Demographics and admission stay. `render` makes the prompt from the text of the
    input. Returns the prompt, and what was dropped: None if nothing was.
    """
    whole = render(str(text))
    before = count(whole)
    if before <= max_tokens:
        return whole, None
    droppable = _droppable(text)
    lines = text.last_discharge.split("\n") if text.last_discharge else []

    def without(num_events: int, num_lines: int) -> str:
        return render(str(drop_oldest(text, num_events, num_lines)[0]))

    num_lines = 0
    costs = count.costs(whole, [text.window[i] + "\n\n" for i in droppable])
    num_events = _least(lambda n: count(without(n, 0)) <= max_tokens, costs, before - max_tokens)
    if num_events is None:
        num_events = len(droppable)
        costs = count.costs(whole, [line + "\n" for line in lines])[::-1]
        excess = count(without(num_events, 0)) - max_tokens
        num_lines = _least(lambda n: count(without(num_events, n)) <= max_tokens, costs, excess)
    fits = num_lines is not None
    num_lines = len(lines) if num_lines is None else num_lines
    prompt = without(num_events, num_lines)
    return prompt, Truncation(num_events, num_lines, before, count(prompt), fits)


def _droppable(text: SampleText) -> list[int]:
    """Positions in the window of the events that can be dropped, oldest first.

    An event without text is only a blank line, which is dropped with the event before it. So the same text remains whether the
    events of an input are known or were parsed from its text.
    """
    return [i for i, event in enumerate(text.window) if i != text.anchor and (event or i == 0)]


def drop_oldest(text: SampleText, num_events: int, num_lines: int) -> tuple[SampleText, list[int]]:
    """An input without the oldest `num_events` of its window and the last `num_lines` of its note; see `shorten`.

    Returns it with the positions in the window of the events that remain.
    """
    dropped, kept, keep = set(_droppable(text)[:num_events]), [], True
    for i, event in enumerate(text.window):
        keep = i not in dropped if event or i == 0 else keep
        kept += [i] if keep else []
    note = text.last_discharge
    if note:
        lines = note.split("\n")
        note = "\n".join(lines[: len(lines) - num_lines])
    return replace(text, window=tuple(text.window[i] for i in kept), last_discharge=note, anchor=None), kept


def _least(is_enough: Callable[[int], bool], costs: Sequence[float], excess: int) -> int | None:
    """The smallest number of pieces to drop, from the first on; None if dropping all of them is not enough.

    `is_enough` counts tokens exactly, which is slow. So the search starts where the `costs` of the pieces (about how many
    tokens each has) add up to the `excess`, and moves in steps that double, then halve.

    >>> _least(lambda n: 4 * n >= 9, [5, 5, 5, 5], excess=9)
    3
    >>> [_least(lambda n: n >= minimum, [1] * 9, excess=5) for minimum in (0, 4, 9, 10)]
    [0, 4, 9, None]
    """
    is_enough = cache(is_enough)
    guess, saved = 0, 0
    while guess < len(costs) and saved < excess:
        saved += costs[guess]
        guess += 1
    low, high, step = guess - 1, guess, 1  # to become neighbours: `high` is enough, `low` is not
    while not is_enough(high):
        if high == len(costs):
            return None
        low, high, step = high, min(high + step, len(costs)), 2 * step
    step = 1
    while low >= 0 and is_enough(low):
        low, high, step = max(low - step, -1), low, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


class PromptBuilder:
    """Renders the prompts of samples with the chat template of a model.

    Args:
        family: of the model; by default that of the models trained here, as training needs it.
        empty_think: replaces what the family appends to prompts that are answered at once.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, family: Family | None = None, empty_think: str | None = None
    ) -> None:
        self.tokenizer, self.empty_think = tokenizer, empty_think
        self.template = templates.template_of(tokenizer)
        self.family = family or family_of(tokenizer, declared=TRAINED)
        self.tokens = TokenCounter(tokenizer)

    @property
    def template_sha256(self) -> str:
        return sha256(self.template)

    def facts(self) -> dict[str, Any]:
        """What of the family results record, as JSON values."""
        facts = self.family.facts()
        return facts if self.empty_think is None else facts | {"direct_answer": self.empty_think}

    def prompt(self, input_text: str, instruction: str, mode: str) -> str:
        """The text a model reads before it answers."""
        turns = messages(input_text, instruction, mode, self.family.merges_system)
        try:
            text = templates.render(self.tokenizer, turns, **self.family.variables(mode == THINK))
        except templates.TemplateRefusal:  # its message may quote the text
            wrong = "expected a chat template that renders every sample, got an error of the template"
            raise UserError(f"{self.tokenizer.name_or_path}: {wrong}. Correct it, or choose another model.") from None
        return self._thinking(text) if mode == THINK else self._answering(text)

    def _thinking(self, text: str) -> str:
        """A prompt with thinking on, without a mark that opens reasoning of another family."""
        opened, own = open_think_prefix(text), self.family.reasoning
        return text.removesuffix(opened) if opened and own and own[0].strip() != opened.strip() else text

    def _answering(self, text: str) -> str:
        """A prompt with thinking off: reasoning is closed by the template, or by what is appended here."""
        opened, switch = open_think_prefix(text), self.family.switch
        is_closed = text.rstrip().endswith(tuple(closing for _, closing in reasoning_marks()))
        if not opened and (is_closed or (switch and switch.turns_off)):
            return text
        block = self.family.direct_answer if self.empty_think is None else self.empty_think
        if opened and self.empty_think is None:
            block = block or empty_block(opened)
        return text.removesuffix(opened) + block

    def with_reasoning(self, reasoning: str) -> str:
        """Given reasoning as the model would have written it, up to the answer."""
        opening, closing = self.family.reasoning or THINK_MARKS
        return opening + reasoning + closing

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered prompt. The last results are cached: do not modify them."""
        return self.tokens.ids(text)

    def fit(
        self, text: SampleText, instruction: str, mode: str, max_tokens: int, prefix: str = ""
    ) -> tuple[str, Truncation | None]:
        """The prompt of a sample with `prefix` (given reasoning) after it, shortened to `max_tokens`; see `shorten`."""

        def render(input_text: str) -> str:
            prompt = self.prompt(input_text, instruction, mode)
            return prompt.removesuffix(open_think_prefix(prompt)) + prefix if prefix else prompt

        return shorten(text, render, self.tokens, max_tokens)


class ChatPromptBuilder(PromptBuilder):
    """Renders prompts for the chat endpoint of a server: the messages as JSON, which is sent and hashed.

    The server applies its own chat template, which is not known here. The tokenizer, if any, counts tokens. `switches` turn
    thinking on and off: with them a prompt is the JSON of an object, the messages and the fields of the request.
    """

    template_sha256 = sha256("chat endpoint")

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, family: Family, switches: Sequence[Switch] = ()) -> None:
        self.family, self.switches = family, switches
        self.tokens = TokenCounter(tokenizer)

    def facts(self) -> dict[str, Any]:
        """What of the family and of the requests results record; end of turn and date are the server's own."""
        switches = {switch.name: [switch.on, switch.off] for switch in self.switches}
        of_server = {"direct_answer": None, "end_of_turn": None, "template_date": "the server's own"}
        return self.family.facts() | of_server | {"thinking_switch": switches}

    def prompt(self, input_text: str, instruction: str, mode: str) -> str:
        turns = messages(input_text, instruction, mode, self.family.merges_system)
        fields: dict[str, Any] = {}
        for switch in self.switches:
            for name, value in switch.request(mode == THINK).items():
                fields[name] = fields.get(name, {}) | value if isinstance(value, dict) else value
        return json.dumps({"messages": turns} | fields if fields else turns, ensure_ascii=False)

    def ids(self, text: str) -> None:
        """None: the server makes the token ids."""
