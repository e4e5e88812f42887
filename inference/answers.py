"""Reading the reply of a model: its reasoning, its answer, the items it names, yes or no. The number p(yes) is in `p_yes.py`.

A reply is read the same whichever model wrote it, with the marks of reasoning of all families (families.yaml), so that stored
outputs can be scored without the model. Evaluation and RL rewards read replies with the same functions, so that the reward is
the score; a change of the rules raises `READER_VERSION`, and `SCORE_VERSION` in evaluation/score.py. All functions accept any
text, take time linear in its length, and never raise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any, NamedTuple

from inference.answer_lists import QUOTES, read_lines, read_table
from inference.answer_literals import find_literals, read_literals
from mimiciv_dataset.tasks import NO, YES

READER_VERSION = 2  # of the rules by which replies are read

# gpt-oss writes messages in channels; decoding that skips special tokens leaves only the text between them.
_FINAL_CHANNEL = re.compile(r"<\|channel\|>[ \n]*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL = re.compile(r"<\|(?:start|channel|message|end|return|call|constrain)\|>")
_STRIPPED_FINAL = "assistantfinal"
_STRIPPED_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z\"'*<])")  # without a space: "analysis of …" can be a lab item

# What encloses an answer, besides marks of reasoning; special tokens, before which an answer ends.
_ANSWER_TAGS = "answer|response|solution|final_answer|final answer|output"
_ANSWER_OPEN = re.compile(
    rf"<(?:{_ANSWER_TAGS})>|<\|begin_of_(?:solution|box)\|>|<\|START_(?:RESPONSE|TEXT)\|>", re.IGNORECASE
)
_ANSWER_STARTS = re.compile(rf"\s*(?:{_ANSWER_OPEN.pattern})\s*", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(
    rf"</(?:{_ANSWER_TAGS})>|<\|end_of_(?:solution|box)\|>|<\|END_(?:RESPONSE|TEXT)\|>|\[END FINAL RESPONSE\]", re.IGNORECASE
)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}\\]|[{}]")
_TEX_STYLE = re.compile(r"\\(?:text|textbf|textit|mathbf|mathrm)\s*\{([^{}]*)\}")
_TEX_ESCAPE = re.compile(r"\\([%&_#$ ])")
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn|unused\d+)>|\[/?INST\]"
)
_SPECIAL_TOKENS = re.compile(rf"(?:(?:{_SPECIAL_TOKEN.pattern})\s*)+")
_ITEM_TAG = re.compile(r"</?(?:items?|li|ul|ol|list|name|medication|event)>", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n|\\n|<br ?/?>")
_FENCE = "```"
_LANGUAGE = re.compile(r"[\w+-]*[ \t]*\n")

_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹘﹣－"), "-")
_SAME = _DASHES | dict.fromkeys(map(ord, "‘’ʼ`´"), "'") | dict.fromkeys(map(ord, "“”"), '"')
_SAME |= dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), None)

# A "no" before another word on its line is a determiner ("no evidence of …") unless that word starts a clause.
_CLAUSE = r"(?:and|as|based|because|but|given|he|it|or|she|since|the|there|this)\b"
_YES_NO = re.compile(rf"(?<![^\W_])(?:yes(?![^\W_]|-\w)|no(?![^\W_]|-\w|[ \t]+(?!{_CLAUSE})\w))")
_FINAL_ANSWER = re.compile(r"\bfinal answer\b[\s:*_\"'(]*(?:is\b[\s:*_\"'(]*)?(?=(?:yes|no)\b)")
_BOTH = re.compile(r"[(\[]\s*yes\s*(?:[/|,]|or\b)\s*no\s*[)\]]|\byes\s?/\s?no(?=\s?:)")  # the question repeated
_ONLY_YES_NO = re.compile(r"[\W_]*(?:(?:the\s)?(?:final\s)?answer\b(?:\s+is\b)?[\W_]*)?(yes|no)[\W_]*")
_NO_NAME = ("none", "n/a", "null", "nil", "nothing", "not applicable")  # alone, these say that there is no item
_ANSWER_KEYS = ("answer", "final_answer", "final answer", "prediction", "result", "response", "output", "label")


# --- reasoning and answer

_TAG = re.compile(r"<[^<>]+>|\[[^\[\]]+\]|◁[^◁▷]+▷")


class _Marks(NamedTuple):
    """Patterns of the marks of reasoning, and the white space that is written after the closing one."""

    name: str  # the opening mark as it is written
    opening: re.Pattern[str] | None
    closing: re.Pattern[str]
    after: str
    is_tag: bool  # whether the closing mark is a tag, rather than a heading or a phrase


@cache
def _marks() -> tuple[_Marks, ...]:
    """The marks of all families but the channels of gpt-oss, and the marks that only stand before a final answer."""
    from inference.families import declarations, final_marks

    written = [family["reasoning"] for family in declarations()["families"].values() if family.get("reasoning")]
    written += declarations()["other_reasoning"]
    after = {(opening.strip(), closing.strip()): closing[len(closing.rstrip()) :] for opening, closing in reversed(written)}
    pairs = [*after.items(), *((("", mark), "") for mark in final_marks())]
    marks = [
        _Marks(opening, _pattern(opening) if opening else None, _pattern(closing), space, bool(_TAG.match(closing)))
        for (opening, closing), space in pairs
    ]
    return tuple(each for each in marks if not _CHANNEL.search(each.closing.pattern.replace("\\", "")))


def _pattern(mark: str) -> re.Pattern[str]:
    """A mark in a text: a heading on its own line, words at the start of a line, a tag with the word after it."""
    if mark.startswith("#"):
        return re.compile(rf"^[ \t]*#{{1,6}}[ \t]*{re.escape(mark.lstrip('# '))}[ \t]*(?::[ \t]*)?$", re.MULTILINE)
    tag = _TAG.match(mark)
    if tag is None:
        return re.compile(rf"^[ \t]*{re.escape(mark)}", re.MULTILINE)
    return re.compile(f"{re.escape(tag[0])}(?:{re.escape(mark[tag.end() :])})?", re.IGNORECASE)


class _Split(NamedTuple):
    """A reply in parts."""

    reasoning: str | None
    start: int | None  # of the answer; None: the reply was cut off inside its reasoning
    closed: str | None = None  # the reply up to its answer, closed as its family closes it; None without reasoning


def split_reasoning(text: str, thinking_open: bool | str = False) -> tuple[str | None, str | None]:
    """Split a reply into its reasoning (None without one) and its answer (None if it was cut off inside its reasoning).

    The answer follows the last closing mark of the family whose marks the reply uses, or is in the last final channel.
    Special tokens, tags and boxes around it are removed. A mark in quotes, or an opening mark amid a line, is text.

    Args:
        text: the reply.
        thinking_open: the mark of reasoning that the end of the prompt opened, so that the reply starts inside it. Only the
            mark that belongs to it closes it. True: an unknown tag, which any closing tag closes, but no heading or phrase.

    >>> split_reasoning("<think>Fever, so culture.</think>Blood Culture"), split_reasoning("[THINK]Old.[/THINK]yes")
    (('Fever, so culture.', 'Blood Culture'), ('Old.', 'yes'))
    >>> split_reasoning("<think>Fever, so"), split_reasoning("Fever, so", thinking_open=True), split_reasoning("yes")
    (('Fever, so', None), ('Fever, so', None), (None, 'yes'))
    >>> split_reasoning("<|channel|>analysis<|message|>Old.<|end|><|start|>assistant<|channel|>final<|message|>yes")
    ('Old.', 'yes')
    >>> split_reasoning("analysisThe patient is old.assistantfinalyes")
    ('The patient is old.', 'yes')
    """
    reasoning, start, _ = _split(text, thinking_open)
    return reasoning, None if start is None else _without_envelope(text[start:])


def close_reasoning(text: str, thinking_open: bool | str = False, after: str | None = None) -> str | None:
    r"""A reply up to its answer, with its reasoning closed as its family closes it; None without closed reasoning.

    Args:
        text: the reply.
        thinking_open: see `split_reasoning`.
        after: the white space that the family of the model writes after its closing mark; None: the usual one after that mark.

    >>> close_reasoning("<think>old</think> yes"), close_reasoning("[THINK]old[/THINK]yes"), close_reasoning("<think>old")
    ('<think>old</think>\n\n', '[THINK]old[/THINK]', None)
    """
    return _split(text, thinking_open, after).closed


def _split(text: str, thinking_open: bool | str, after: str | None = None) -> _Split:
    parts, start, closed = [], 0, None
    while (block := _next_block(text[start:], not start and thinking_open, not start, after)) is not None:
        parts += [block.reasoning] if block.reasoning else []
        if block.start is None:
            return _Split(parts[-1] if parts else None, None)
        closed = text[:start] + block.closed
        start += block.start
    return _Split("\n".join(parts) or None, start, closed)


def _next_block(text: str, thinking_open: bool | str, is_first: bool, after: str | None) -> _Split | None:
    """The reasoning at the start of a text; anywhere in a whole reply, whose opening mark can be in the prompt."""
    body = text.lstrip()
    opened = [marks for marks in _marks() if marks.opening and marks.opening.match(body)]
    mark = thinking_open.strip() if isinstance(thinking_open, str) else ""
    has_channels = is_first and not opened and (not mark or _CHANNEL.search(mark))
    if has_channels and (channels := _split_channels(text)):
        return channels
    if not opened and not is_first:
        return None
    choices = opened or _marks()
    if thinking_open and not opened:
        choices = [marks for marks in choices if (marks.name == mark if mark else marks.is_tag)]
    closings = [(match, marks) for marks in choices if (match := _last(marks.closing, text))]
    if not closings:
        if opened:
            return _Split(_or_none(opened[0].opening.sub("", body, count=1)), None)
        if thinking_open:
            return _Split(_or_none(text), None)
        openings = [match for marks in choices if marks.opening and (match := _last(marks.opening, text, amid_line=False))]
        return _Split(_or_none(text[max(match.end() for match in openings) :]), None) if openings else None
    closing, marks = max(closings, key=lambda pair: pair[0].end())
    reopened = marks.opening and _last(marks.opening, text[closing.end() :], amid_line=False)
    if reopened:
        return _Split(_or_none(text[closing.end() + reopened.end() :]), None)
    before = text[: closing.start()].strip()
    opening = marks.opening and marks.opening.match(before)
    tag = _ANSWER_STARTS.match(text, closing.end())
    closed = text[: tag.end()] if tag else text[: closing.end()] + (marks.after if after is None else after)
    return _Split(_or_none(before[opening.end() :] if opening else before), closing.end(), closed)


def _last(pattern: re.Pattern[str], text: str, amid_line: bool = True) -> re.Match[str] | None:
    """The last occurrence of a mark that is not in quotes; without `amid_line`, nor between words of a line."""
    last = None
    for match in pattern.finditer(text):
        before, after = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
        is_quoted = before and QUOTES.get(before) == after and _opens_quote(text, match.start() - 1)
        is_amid = before in (" ", "\t") and after in (" ", "\t")
        if not is_quoted and (amid_line or not is_amid):
            last = match
    return last


def _opens_quote(text: str, position: int) -> bool:
    """Whether the quotation mark at a position opens a quotation of its line, rather than closing one."""
    mark = text[position]
    line_start = max(text.rfind("\n", 0, position), position - 1000)  # bounded, which keeps the time linear
    return QUOTES[mark] != mark or text.count(mark, max(line_start, 0), position) % 2 == 0


def _split_channels(text: str) -> _Split | None:
    """A reply with the channels of gpt-oss, also if its special tokens were dropped; None without channels."""
    if "<|channel|>" in text:
        final = _last(_FINAL_CHANNEL, text)
        before = text if final is None else text[: final.start()]
        reasoning = _CHANNEL.sub("\n", before).strip().removeprefix("assistant").lstrip().removeprefix("analysis")
        reasoning = _or_none(reasoning.strip().removesuffix("assistant"))
        return _Split(reasoning, final.end(), text[: final.end()]) if final else _Split(reasoning, None)
    stripped = _STRIPPED_ANALYSIS.match(text)
    if stripped or text.lstrip().startswith((_STRIPPED_FINAL, "analysis")):
        before, final, answer = text.rpartition(_STRIPPED_FINAL)
        if final:
            reasoning = before.lstrip().removeprefix("analysis")
            closed = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final<|message|>"
            return _Split(_or_none(reasoning), len(text) - len(answer), closed)
        if stripped:
            return _Split(_or_none(text[stripped.end() :]), None)
    return None


def _or_none(text: str) -> str | None:
    return text.strip() or None


def _without_envelope(answer: str) -> str:
    r"""An answer without the tags or box around it, and without what special tokens end or begin.

    >>> [_without_envelope(text) for text in ("So: <answer>yes</answer>", r"It is $\boxed{\text{yes}}$.", "yes</s>")]
    ['yes', 'yes', 'yes']
    """
    if opening := _ANSWER_OPEN.search(answer):
        parts = _ANSWER_OPEN.split(answer[opening.end() :])
        answer = "\n".join(_ANSWER_CLOSE.split(part, maxsplit=1)[0] for part in parts)
    elif closing := _ANSWER_CLOSE.search(answer):  # the prompt held the opening tag
        answer = answer[: closing.start()]
    answer = answer.strip()
    if leading := _SPECIAL_TOKENS.match(answer):
        answer = answer[leading.end() :]
    return _without_box(_SPECIAL_TOKEN.split(answer, maxsplit=1)[0]).strip()


def _without_box(answer: str) -> str:
    """The contents of the boxes of TeX, one on a line, where there are any."""
    if "\\boxed" not in answer and "\\fbox" not in answer:
        return answer
    boxes, depth, start = [], 0, 0
    for match in _BRACE.finditer(answer):
        if depth == 0 and len(match[0]) > 2:
            depth, start = 1, match.end()
        elif depth and match[0].endswith("{"):
            depth += 1
        elif depth and match[0] == "}":
            depth -= 1
            boxes += [answer[start : match.start()]] if depth == 0 else []
    boxes += [answer[start:]] if depth else []
    text = _TEX_STYLE.sub(r"\1", "\n".join(boxes))
    return _TEX_ESCAPE.sub(r"\1", text.replace("\\\\", "\n"))


# --- items


def read_items(answer: str | None, known: Collection[str] = ()) -> list[str]:
    r"""The items that an answer names, in order, each once (compared with `fold_name`, returned as written).

    Trained models write one item per line. Other shapes are read too: bullets, numbers, bold, tables, JSON or Python lists and
    objects, boxes, tags; headings, lead-ins and sentences are no items. A literal backslash-n ends a line. Commas do not
    separate items, since names contain them. An answer without items (None, a refusal, an object without names) is unreadable.

    Args:
        answer: the reply without its reasoning; None: there is none.
        known: names of items. They only decide what is part of a name: a known name stays as it is, and a list mark is
            removed where the name without it is known. Otherwise it is removed where all lines have one.

    >>> read_items("1. **Aspirin**\n2) 0.9% Sodium Chloride\n- *NF* Bosentan\n\n* aspirin")
    ['Aspirin', '0.9% Sodium Chloride', '*NF* Bosentan']
    >>> read_items('["Culture, blood", "Urea Nitrogen"]'), read_items(r"Glucose\nSodium")
    (['Culture, blood', 'Urea Nitrogen'], ['Glucose', 'Sodium'])
    >>> read_items("24. Hour Urine"), read_items("24. Aspirin", known=["Aspirin"]), read_items("I cannot tell.")
    (['24. Hour Urine'], ['Aspirin'], [])
    """
    if not answer:
        return []
    names = {fold_name(name) for name in known}
    text = _ITEM_TAG.sub("\n", _without_fences(_without_envelope(answer)))
    found = read_literals(text)
    if found is None:
        found = read_table(text.splitlines())
    lines = [line for name in ([text] if found is None else found) for line in _LINE_END.split(name)]
    items: dict[str, str] = {}
    for item in read_lines(lines, lambda name: fold_name(name) in names):
        if item:
            items.setdefault(fold_name(item), item)
    is_none = len(items) == 1 and names.isdisjoint(items) and next(iter(items)).rstrip(".") in _NO_NAME
    return [] if is_none else list(items.values())


def _without_fences(answer: str) -> str:
    """The contents of the fenced code blocks of an answer, where there are any."""
    blocks = answer.split(_FENCE)[1::2]
    blocks = [block[language.end() :] if (language := _LANGUAGE.match(block)) else block for block in blocks]
    return text if (text := "\n".join(blocks)).strip() else answer.replace(_FENCE, "")


@lru_cache(maxsize=1 << 16)
def fold_name(name: str) -> str:
    """A name as it is compared: any case, Unicode compatibility form, dash, quotation mark and amount of white space.

    >>> fold_name("Cafe\u0301  X\u2011RAY ") == fold_name("café x-ray")
    True
    """
    if not name.isascii():
        folded = unicodedata.normalize("NFKC", name).casefold()
        name = unicodedata.normalize("NFKC", folded).translate(_SAME)
    return " ".join(name.casefold().split())


# --- yes or no


def read_yes_no(answer: str | None) -> str | None:
    """`yes` or `no`; None if the answer says neither, or both. A first line that is only a yes or a no decides.

    >>> read_yes_no("**Yes**"), read_yes_no("Answer: no."), read_yes_no("Yes, there is no doubt.")
    ('yes', 'no', 'yes')
    >>> read_yes_no("not sure"), read_yes_no("nothing"), read_yes_no("yes or no"), read_yes_no(None)
    (None, None, None, None)
    >>> read_yes_no('{"answer": "no", "reason": "yes, but …"}'), read_yes_no("It may be, yes.\\nFinal answer: **No**")
    ('no', 'no')
    """
    text = _without_envelope(answer or "")
    if values := find_literals(text):
        text = " / ".join(word for value in values for word in _yes_no_values(value))
    text = _BOTH.sub("", unicodedata.normalize("NFKC", text).casefold())
    if final := list(_FINAL_ANSWER.finditer(text)):
        text = text[final[-1].end() :].split("\n", 1)[0]
    lines = [_ONLY_YES_NO.fullmatch(line) for line in text.split("\n") if line.strip()]
    if lines and lines[0]:  # and an explanation below
        text = " / ".join(line[1] for line in lines if line)
    answers = set(_YES_NO.findall(text))
    return answers.pop() if len(answers) == 1 else None


def _yes_no_values(value: Any) -> list[str]:
    """The values of a JSON object or list that answer a yes/no question: those of its answer keys, or else all."""
    if isinstance(value, dict):
        named = [content for key, content in value.items() if str(key).strip().casefold() in _ANSWER_KEYS]
        return [word for content in named or value.values() for word in _yes_no_values(content)]
    if isinstance(value, list):
        return [word for content in value for word in _yes_no_values(content)]
    if isinstance(value, bool):
        return [YES if value else NO]
    return [value] if isinstance(value, str) else []
