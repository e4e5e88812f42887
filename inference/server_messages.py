"""What servers say in the body of an error, in the shapes of many: message, codes and pauses, without patient text."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

KEY_VARIABLE = "OPENAI_API_KEY"
MESSAGE_LENGTH = 300  # characters of a server's message in an error
QUOTE_LENGTH = 5  # words of the prompt in a row that make a quotation

# Fields that hold messages, in lower case; others may echo the request.
_MESSAGES = (
    "error", "message", "msg", "detail", "error_msg", "error_message", "errormessage", "errors", "title", "description",
    "error_description", "fault", "faultstring", "base_resp", "status_msg",
)  # fmt: skip
_LABELS = ("code", "type", "__type", "param", "status", "reason", "errorcode")
_PAUSES = ("retrydelay", "retry_after", "retryafter", "retry_after_seconds")
_MARKUP = re.compile(r"\s*<[!?a-z]", re.IGNORECASE)
_TITLE = re.compile(r"<(title|h1|message)\b[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|d|days?|h|hours?|m|minutes?|mins?|s|seconds?|secs?)(?![a-z])")
_PAUSE = re.compile(rf"(?:retry|try again|wait)\w*\W+(?:\w+\W+){{0,3}}?((?:{_DURATION.pattern}\W*)+)", re.IGNORECASE)
_UNITS = (("ms", 0.001), ("milli", 0.001), ("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0))  # begin of a unit → seconds

# Terms of error messages that are logged although the request may have them too.
COMMON_TERMS = frozenset(
    re.findall(
        r"\w+",
        "a an and any are as at be by can cannot could does exceed exceeded exceeds expected failed following for "
        "found from got has have in input invalid is it length limit logprobs long longer longest maximum model "
        "must no not of on only or output please prompt request requested requests s server should support "
        "supported t than that the this to token tokens too unsupported use value was with you your "
        "access account again api available bad be been blocked body check chosen client code content context credit "
        "credits current currently day default details detected different due error errors exist extra field fields "
        "filter filtered flagged forbidden gateway hour in inputs insufficient instead internal key large management max "
        "message messages minute moderation more name one our out overloaded parameter parameters per permitted plan policy "
        "provider quota rate reached refused requires response retry returned route service size such support temporarily "
        "time timeout try triggering type unavailable unexpected unknown unrecognized up upstream usage values wait we "
        "were will low read i m sorry help assist comply answer",
    )
)
# Keys, keys that a server has masked, and texts in another code.
_SECRET = re.compile(r"\b(?:sk|pk|gsk|hf|xai|nvapi)[-_]\S+|\S*\*{3,}\S*|[A-Za-z0-9+/=]{60,}|\w{40,}")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|\\+u([0-9A-Fa-f]{4})")  # of a character, in URLs and JSON


def labels_of(body: Any) -> Iterator[str]:
    """The codes, types and fields that an error names, also those of the errors inside it.

    >>> list(labels_of([{"error": {"param": "n", "innererror": {"code": "content_filter"}}}]))
    ['n', 'content_filter']
    """
    if isinstance(body, dict):
        yield from (value for name, value in body.items() if name.lower() in _LABELS and isinstance(value, str))
    parts = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    for part in parts:
        yield from labels_of(part)


def server_message(body: Any) -> str:
    """What a server says in the body of an error: its messages and its code, without fields that echo the request.

    >>> server_message({"error": {"message": "Too many", "code": "rate_limit"}, "input": "a record"})
    'Too many (rate_limit)'
    >>> server_message("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
    '502 Bad Gateway'
    """
    if isinstance(body, str):
        if not _MARKUP.match(body) and not re.search(r"<(?:html|body|head|title|h1)\b", body, re.IGNORECASE):
            return " ".join(body.split())
        title = _TITLE.search(body)
        return " ".join(re.sub(r"<[^>]*>", " ", title[2] if title else body).split())
    if isinstance(body, list):
        return "; ".join(filter(None, map(server_message, body)))
    if not isinstance(body, dict):
        return ""
    fields = {str(name).lower(): value for name, value in body.items()}
    parts = [server_message(fields.get(name)) for name in _MESSAGES]
    if isinstance(fields.get("metadata"), dict):  # a gateway's report of what the provider behind it said
        parts.append(server_message(parsed(str(fields["metadata"].get("raw") or ""))))
    text = "; ".join(dict.fromkeys(filter(None, parts)))
    if isinstance(fields.get("loc"), list):
        text = f"{'.'.join(map(str, fields['loc']))}: {text}"
    code = fields.get("code")
    return f"{text} ({code})".strip() if isinstance(code, str) and not code.isdigit() and code not in text else text


def without_prompt(message: str, prompt: str, known: Collection[str] = ()) -> str:
    """A message, shortened for the log, without keys and without the terms that the prompt has too: it is patient text.

    Terms of `COMMON_TERMS` and `known` ones are kept. Escapes of URLs and JSON are undone first, and what may be text in
    another code, such as base64, is left out.

    >>> without_prompt("too many tokens: the prompt has 40000", "An old man with chest pain, 9000 units of heparin")
    'too many tokens: the prompt has 40000'
    >>> without_prompt("cannot parse 'Heparin' at 9000", "An old man with chest pain, 9000 units of heparin")
    "cannot parse '…' at …"
    """
    prompt, kept = prompt.casefold(), {*COMMON_TERMS, *(term for name in known for term in re.findall(r"\w+", name))}

    def shown(term: re.Match[str]) -> str:
        text = term[0].casefold()
        return term[0] if text in kept or text not in prompt else "…"

    if key := os.environ.get(KEY_VARIABLE):
        message = message.replace(key, "…")
    message = _ESCAPE.sub(lambda code: chr(int(code[1] or code[2], 16)), message)
    message = re.sub(r"\w+", shown, _SECRET.sub("…", message))
    message = re.sub(r"…(?:[^\w…]*…)+", "…", " ".join(message.split()))
    return message if len(message) <= MESSAGE_LENGTH else message[:MESSAGE_LENGTH] + "…"


def without_quotes(message: str, prompt: str) -> str:
    """A message with blanks for what it quotes from the prompt, `QUOTE_LENGTH` words in a row or more.

    The words of a patient's record do not tell what kind of error it is.

    >>> without_quotes("Invalid: 'a history of being sensitive to it'", "She has a history of being sensitive to it.").split()
    ['Invalid:', "'", "'"]
    """

    def terms(text: str) -> list[re.Match[str]]:
        return list(re.finditer(r"\w+", text.replace(r"\n", "  ")))

    def runs(found: list[re.Match[str]]) -> list[tuple[str, ...]]:
        words = [term[0].casefold() for term in found]
        return list(zip(*(words[first:] for first in range(QUOTE_LENGTH)), strict=False))

    in_message, of_prompt = terms(message), set(runs(terms(prompt)))
    shown = list(message)
    for first, run in enumerate(runs(in_message)):
        if run in of_prompt:
            begin, end = in_message[first].start(), in_message[first + QUOTE_LENGTH - 1].end()
            shown[begin:end] = " " * (end - begin)
    return "".join(shown)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the Retry-After header of a response, a number or a date (RFC 9110, 10.2.3); None without one.

    `retry-after-ms`, milliseconds, is what some servers send too, and `x-ratelimit-reset` the time when a limit ends, in
    seconds or milliseconds since 1970, or the seconds until then.

    >>> retry_after({"retry-after": "1.5"}), retry_after({"retry-after": "soon"}), retry_after({})
    (1.5, None, None)
    """
    from email.utils import parsedate_to_datetime

    for name, read in (
        ("retry-after-ms", lambda number: float(number) / 1000),
        ("retry-after", float),
        ("retry-after", lambda date: parsedate_to_datetime(date).timestamp() - time.time()),
        ("retry-after", _seconds),
        ("x-ratelimit-reset", lambda number: _until(float(number))),
    ):
        with contextlib.suppress(ValueError, OverflowError):
            return max(0.0, read(headers.get(name, "")))
    return None


def pause_of(body: Any) -> float | None:
    """Seconds to wait by the body of an error; None if it does not say.

    >>> pause_of({"error": {"message": "Rate limit reached. Please try again in 1m2.5s."}})
    62.5
    >>> pause_of({"error": {"message": "Quota exceeded", "details": [{"retryDelay": "22s"}]}})
    22.0
    """
    for name, value in _fields(body):
        if name in _PAUSES and (found := _number_or_duration(value)) is not None:
            return found
        if name == "headers" and isinstance(value, dict):  # of the provider behind a gateway
            lower = {str(header).lower(): str(text) for header, text in value.items()}
            if (found := retry_after(lower)) is not None:
                return found
    found = _PAUSE.search(server_message(body))
    return _seconds(found[1]) if found else None


def _fields(body: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a body and of all that is inside it, names in lower case."""
    if isinstance(body, dict):
        for name, value in body.items():
            yield str(name).lower(), value
    for part in body.values() if isinstance(body, dict) else body if isinstance(body, list) else ():
        yield from _fields(part)


def _number_or_duration(value: Any) -> float | None:
    with contextlib.suppress(ValueError, TypeError):
        return float(value)
    with contextlib.suppress(ValueError):
        return _seconds(str(value))
    return None


def _seconds(text: str) -> float:
    """A duration such as 1h2m3.5s in seconds; a `ValueError` if it is none."""
    if not (parts := _DURATION.findall(text.lower())):
        raise ValueError(text)
    return sum(float(number) * next(size for begin, size in _UNITS if unit.startswith(begin)) for number, unit in parts)


def _until(moment: float) -> float:
    """Seconds until a moment, in milliseconds or seconds since 1970; a small number is the seconds themselves."""
    moment = moment / 1000 if moment > 1e11 else moment
    return moment - time.time() if moment > 1e9 else moment


def parsed(text: str) -> Any:
    """A text as JSON if it is JSON, also with a byte order mark, control characters, or something after it."""
    text = text.lstrip("\ufeff").strip()
    with contextlib.suppress(ValueError):
        return json.JSONDecoder(strict=False).raw_decode(text)[0] if text.startswith(("{", "[")) else json.loads(text)
    return text
