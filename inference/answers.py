"""Reading the reply of a model: its reasoning, its answer, the items it names, yes or no. The number p(yes) is in `p_yes.py`.

Evaluation and RL rewards read replies with the same functions, so that the reward is the score; a change of the rules raises
`SCORE_VERSION` in evaluation/score.py. All functions accept any text, take time linear in its length, and never raise.
"""

from __future__ import annotations

import json
import re

# (opening, closing) marks of a reasoning block: most models; MedGemma with thinking on.
_THINK_MARKS = (("<think>", "</think>"), ("<unused94>", "<unused95>"))
# gpt-oss writes messages in channels; decoding that skips special tokens leaves only the text between them.
_FINAL_CHANNEL = re.compile(r"<\|channel\|>[ \n]*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL = re.compile(r"<\|(?:start|channel|message|end|return|call|constrain)\|>")
_STRIPPED_FINAL = "assistantfinal"
_STRIPPED_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z\"'*<])")  # without a space: "analysis of …" can be a lab item

_MARKER = re.compile(r"(?:\d+[.)]|[-*])(?:\s+|$)")
_LINE_END = re.compile(r"\r\n|\r|\n|\\n")
_FENCE = "```"
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’"}

_QUOTED = re.compile(r"\s*(?:\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)')\s*(,|$)", re.DOTALL)
_ESCAPED = re.compile(r"\\([^n])", re.DOTALL)  # an escaped line end is kept, and ends a line later

# A "no" before another word on its line is a determiner ("no evidence of …") unless that word starts a clause.
_CLAUSE = r"(?:and|as|based|because|but|given|he|it|or|she|since|the|there|this)\b"
_YES_NO = re.compile(rf"(?<![^\W_])(?:yes(?![^\W_]|-\w)|no(?![^\W_]|-\w|[ \t]+(?!{_CLAUSE})\w))")


def split_reasoning(text: str, thinking_open: bool = False) -> tuple[str | None, str | None]:
    """Split a reply into its reasoning (None without one) and its answer (None if it was cut off inside its reasoning).

    The answer follows the last closing mark, or is in the last final channel. With `thinking_open` the prompt ended inside an
    open reasoning block, so the reply starts in it.

    >>> split_reasoning("<think>Fever, so culture.</think>Blood Culture")
    ('Fever, so culture.', 'Blood Culture')
    >>> split_reasoning("<think>Fever, so"), split_reasoning("Fever, so", thinking_open=True), split_reasoning("yes")
    (('Fever, so', None), ('Fever, so', None), (None, 'yes'))
    >>> split_reasoning("<|channel|>analysis<|message|>Old.<|end|><|start|>assistant<|channel|>final<|message|>yes")
    ('Old.', 'yes')
    >>> split_reasoning("analysisThe patient is old.assistantfinalyes")
    ('The patient is old.', 'yes')
    """
    if "<|channel|>" in text:
        return _split_channels(text)
    stripped = _STRIPPED_ANALYSIS.match(text)
    if stripped or text.lstrip().startswith((_STRIPPED_FINAL, "analysis")):
        before, final, answer = text.rpartition(_STRIPPED_FINAL)
        if final:
            return _or_none(before.lstrip().removeprefix("analysis")), answer.strip()
        if stripped:
            return _or_none(text[stripped.end() :]), None
    for opening, closing in _THINK_MARKS:
        start, end = text.rfind(opening), text.rfind(closing)
        if start > end:  # opened (again) and never closed
            return _or_none(text[start + len(opening) :]), None
        if end >= 0:
            before = text[:end].strip().removeprefix(opening)
            return _or_none(before), text[end + len(closing) :].strip()
    if thinking_open:
        return _or_none(text), None
    return None, text.strip()


def _split_channels(text: str) -> tuple[str | None, str | None]:
    """`split_reasoning` of a reply with the channel marks of gpt-oss; without a final channel it was cut off."""
    final = None
    for final in _FINAL_CHANNEL.finditer(text):  # noqa: B007  the last one counts
        pass
    before = text if final is None else text[: final.start()]
    reasoning = _CHANNEL.sub("\n", before).strip().removeprefix("assistant").lstrip().removeprefix("analysis")
    reasoning = reasoning.strip().removesuffix("assistant")
    return _or_none(reasoning), None if final is None else _CHANNEL.split(text[final.end() :], maxsplit=1)[0].strip()


def _or_none(text: str) -> str | None:
    return text.strip() or None


def read_items(answer: str | None) -> list[str]:
    r"""The items that an answer names, in order, each once (compared case-folded, returned as written).

    One item per line; a literal backslash-n ends a line too. List markers, bold marks and enclosing quotes are stripped; a
    JSON or Python list of strings is read as a list. Commas do not separate items, since names contain them. None (no
    answer) has no items.

    >>> read_items("1. **Aspirin**\n2) 0.9% Sodium Chloride\n- *NF* Bosentan\n\n* aspirin")
    ['Aspirin', '0.9% Sodium Chloride', '*NF* Bosentan']
    >>> read_items('["Culture, blood", "Urea Nitrogen"]')
    ['Culture, blood', 'Urea Nitrogen']
    >>> read_items(r"Glucose\nSodium")
    ['Glucose', 'Sodium']
    """
    if not answer:
        return []
    lines = _read_list(_without_fence(answer))
    if lines is None:
        lines = []
        for line in _LINE_END.split(answer):
            listed = _read_list(line)  # "Answer:" and then a list on its own line
            lines += [line] if listed is None else listed
    items: dict[str, str] = {}
    for line in lines:
        for part in _LINE_END.split(line):
            item = _clean(part)
            if item and not item.startswith(_FENCE):
                items.setdefault(item.casefold(), item)
    return list(items.values())


def _without_fence(answer: str) -> str:
    """The content of an answer that is one fenced code block; any other answer as it is."""
    text = answer.strip()
    if not (text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE)):
        return text
    language, _, inside = text[len(_FENCE) : -len(_FENCE)].partition("\n")
    return inside if language.strip().isalnum() or not language.strip() else language + "\n" + inside


def _read_list(text: str) -> list[str] | None:
    """The strings of a flat JSON or Python list, or None if the text is something else."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _read_python_list(text[1:-1])
    return value if all(isinstance(item, str) for item in value) else None


def _read_python_list(inside: str) -> list[str] | None:
    """The strings between the brackets of a list as Python prints it; None if they are something else."""
    items, position, end = [], 0, len(inside.rstrip())
    while position < end:
        match = _QUOTED.match(inside, position)
        if match is None:
            return None
        items.append(_ESCAPED.sub(r"\1", match[1] if match[1] is not None else match[2]))
        position = match.end()
    return items


def _clean(line: str) -> str:
    """A line without list marker, enclosing bold marks and enclosing quotes.

    >>> _clean('3. "**Heparin**"'), _clean("**1. Heparin**"), _clean("**A** and **B**")
    ('Heparin', 'Heparin', '**A** and **B**')
    """
    item = _unwrap(line)
    marker = _MARKER.match(item)
    return _unwrap(item[marker.end() :]) if marker else item


def _unwrap(item: str) -> str:
    """An item without enclosing bold marks and quotes, in any order; a mark that occurs inside too encloses nothing."""
    for _ in range(4):  # deeper nesting is not an answer, and the bound keeps this linear
        item = item.strip()
        inner = item[2:-2] if len(item) > 4 and item.startswith("**") and item.endswith("**") else "**"
        if "**" not in inner:
            item = inner
        elif len(item) > 1 and _QUOTES.get(item[0]) == item[-1] and not {item[0], item[-1]} & set(item[1:-1]):
            item = item[1:-1]
        else:
            break
    return item.strip()


def read_yes_no(answer: str | None) -> str | None:
    """`yes` or `no`; None if the answer says neither, or both.

    >>> read_yes_no("**Yes**"), read_yes_no("Answer: no."), read_yes_no("Yes, there is no doubt.")
    ('yes', 'no', 'yes')
    >>> read_yes_no("not sure"), read_yes_no("nothing"), read_yes_no("yes or no"), read_yes_no(None)
    (None, None, None, None)
    """
    answers = set(_YES_NO.findall((answer or "").casefold()))
    return answers.pop() if len(answers) == 1 else None
