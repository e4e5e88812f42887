"""Lists and objects of JSON or Python in replies, and the names in them. All functions take time linear in the text."""

from __future__ import annotations

import json
import re
from typing import Any

NAMES = (
    r"items?|names?|events?|medications?|medicines?|drugs?|diagnos[ei]s|conditions?|procedures?|tests?|labs?|"
    r"services?|predictions?|answers?|labels?|descriptions?"
)
_NAME_COLUMN = re.compile(rf"\b(?:{NAMES})\b", re.IGNORECASE)
_NUMBER_COLUMN = re.compile(r"\b(?:id|ids|codes?|no|number|rank|index)\b|#", re.IGNORECASE)

_MAX_DEPTH = 8  # of brackets in an answer
_MAX_INCOMPLETE = 8  # tokens at the end of a literal that is cut off
_MAX_FAILURES = 8  # starts of a literal that are tried in vain; keeps the time linear
_START = re.compile(r"\[\s*[\"'{\[]|\{\s*[\"']")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|[\[\]{},]|[^"\'\[\]{},]+', re.DOTALL)
_WORD = re.compile(r"\b(?:None|True|False)\b")
_WORDS = {"None": "null", "True": "true", "False": "false"}
_ESCAPED = re.compile(r"\\([^n])", re.DOTALL)  # an escaped line end is kept, and ends a line later
_NOT_JSON_ESCAPE = re.compile(r"\\(?![\"\\/bfnrtu])")

_LIST_KEYS = ("items", "answer", "answers", "final_answer", "final answer", "predictions", "results", "list", "output")
_NAME_KEYS = ("name", "item", "item_name", "item name", "label", "title", "description", "answer", "event", "value")
_REASONING_KEYS = ("reasoning", "reason", "reasons", "rationale", "explanation", "thinking", "thought", "thoughts", "analysis")
_MEASURE = re.compile(  # keys of numbers that are no names, unlike those of {"Aspirin": 0.9, "Heparin": true}
    r"(?:\w+[_ ])?(?:certain|certainty|confidence|probability|likelihood|urgency|p|n)|"
    r"(?:[a-z]+_)?(?:score|risk|count|total|number|rank|index|id|code|age|answer|label|value|result|prediction)",
    re.IGNORECASE,
)
_NUMBERED_KEY = re.compile(r"(?:item|answer|name)?[ _]?\d+")


def read_literals(text: str) -> list[str] | None:
    """The names in the JSON or Python lists and objects of a text, wherever they stand; None if there are none.

    An object that names nothing has no names, so that a reply of only such objects counts as unreadable.

    >>> read_literals('Here: ["a, b", "c"]'), read_literals("{'items': [{'name': 'a', 'code': '1'}]}")
    (['a, b', 'c'], ['a'])
    >>> read_literals("[Redacted]"), read_literals('{"certainty": 0.5}')
    (None, [])
    """
    values = find_literals(text)
    return [name for value in values for name in _names_in(value)] if values else None


def find_literals(text: str) -> list[Any]:
    """The JSON or Python lists and objects in a text, as Python values."""
    values, position, failures = [], 0, 0
    while failures < _MAX_FAILURES and (start := _START.search(text, position)):
        literal = _literal_at(text, start.start())
        if literal is None:
            position, failures = start.start() + 1, failures + 1
        else:
            value, position = literal
            values.append(value)
    return values


def _literal_at(text: str, start: int) -> tuple[Any, int] | None:
    """(value, end) of the list or object that starts at a position; None if it is not one.

    If the text ends inside it, the value has what is complete.
    """
    parts: list[str] = []
    depth, position = 0, start
    while match := _TOKEN.match(text, position):
        token, position = match[0], match.end()
        if token[0] == "'":
            token = json.dumps(_ESCAPED.sub(r"\1", token[1:-1]))
        elif token[0] == '"':
            token = _NOT_JSON_ESCAPE.sub(r"\\\\", token)
        elif token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
            if parts[-1].strip() == "" and len(parts) > 1:
                parts.pop()
            if parts[-1] == ",":
                parts.pop()
        else:
            token = _WORD.sub(lambda word: _WORDS[word[0]], token)
        parts.append(token)
        if depth == 0:
            try:
                return json.loads("".join(parts), strict=False), position
            except ValueError:
                return None
        if depth > _MAX_DEPTH:
            return None
    value = _complete(parts)
    return (value, len(text)) if value else None


def _complete(parts: list[str]) -> Any:
    """The value of the tokens of a literal that is cut off, without incomplete ones at its end; None if there is none."""
    for end in range(len(parts), max(len(parts) - _MAX_INCOMPLETE, 0), -1):
        closing: list[str] = []
        for token in parts[:end]:
            if token in "[{":
                closing.append("]" if token == "[" else "}")
            elif token in "]}" and closing:
                closing.pop()
        try:
            return json.loads("".join(parts[:end] + closing[::-1]), strict=False)
        except ValueError:
            continue
    return None


def _names_in(value: Any) -> list[str]:
    """The names in a JSON value: strings of its lists; of an object its list, its name, or its keys of positive numbers."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [name for element in value for name in _names_in(element)]
    if not isinstance(value, dict):
        return []
    fields = {str(key).strip().casefold(): content for key, content in value.items()}
    fields = {key: content for key, content in fields.items() if key not in _REASONING_KEYS}
    lists = {key: content for key, content in fields.items() if isinstance(content, (list, dict))}
    texts = {key: content for key, content in fields.items() if isinstance(content, str)}
    for key in _LIST_KEYS:
        if key in lists:
            return _names_in(lists[key])
    for key in _NAME_KEYS:
        if key in texts:
            return [texts[key]]
    for key, content in texts.items():
        if is_name_heading(key.replace("_", " ")):
            return [content]
    if lists:
        return _names_in(list(lists.values()))
    if texts and (len(texts) == 1 or all(map(_NUMBERED_KEY.fullmatch, texts))):
        return list(texts.values())
    if texts:
        return []
    numbers = {str(key).strip(): content for key, content in value.items() if isinstance(content, (int, float))}
    return [key for key, content in numbers.items() if content > 0 and not _MEASURE.fullmatch(key)]


def is_name_heading(heading: str) -> bool:
    """Whether the key of an object or the heading of a column says that names are below it, such as "Drug"."""
    return bool(_NAME_COLUMN.search(heading) and not _NUMBER_COLUMN.search(heading))
