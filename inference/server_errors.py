"""What errors of OpenAI-compatible servers mean, and their messages, without patient text."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEY_VARIABLE = "OPENAI_API_KEY"
MESSAGE_LENGTH = 300  # characters of a server's message in an error

# Kinds of errors.
REFUSED = "refused"  # this prompt: content filters and moderation, which would refuse it again
ACCOUNT = "account"  # every request: key, credit, quota, model or URL
RETRY = "retry"  # another try may succeed
OTHER = "other"  # this request, as far as one can tell

RETRIED = {408, 409, 425, 429}  # statuses that another try may not get; and all from 500 on
_ACCOUNT = (
    r"insufficient[\s_-]*(?:quota|balance|credit|fund)|current[\s_-]quota|quota[\s_-]exhausted|billing|credit balance|"
    r"(?:more|enough|out of|no|add) credits?\b|arrear|account (?:is )?(?:deactivated|suspended|disabled|overdue)"
)
_REFUSED = (
    r"moderat|flagged|content[\s_-]*(?:filter|polic|management|violation|safety)|responsible[\s_]?ai|usage polic|"
    r"safety (?:system|filter|setting|reason|polic)|guard-?rail|data_inspection|inappropriate|harmful|prohibited|"
    r"unsafe|sensitive|invalid_prompt|violat\w* (?:our|the|of our|usage)"
)
_KEY = r"api[\s_-]?key"  # 400 and 403 only: limits of rate name the key, too
# Kind, statuses and pattern: an error is of the kind of the first row that has its status, and whose pattern is in its text.
_KINDS = (
    (ACCOUNT, {400, 402, 403, 429}, _ACCOUNT),
    (ACCOUNT, {400, 403}, _KEY),
    (REFUSED, {400, 403, 422, 451}, _REFUSED),
    (ACCOUNT, {401, 402, 403, 404}, ""),
    (REFUSED, {451}, ""),
    (RETRY, {*RETRIED, *range(500, 600)}, ""),
)
# How servers refuse a field that they do not know, or a value that they do not take.
_UNSUPPORTED = re.compile(
    r"un(?:support|know|recogni[sz]|expect|avail)|not (?:\w+ )?(?:support|permit|allow|accept|recogni[sz]|valid)|no such|"
    r"no longer|extra|forbid|invalid|deprecated|only|instead|must be|cannot|equal to 1\b",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"context|too (?:large|long|many)|max_model_len", re.IGNORECASE)  # this request only
# What to do about errors of the account.
FIXES = {
    401: f"Set a key that the server accepts in ${KEY_VARIABLE}",
    403: f"Check that the key in ${KEY_VARIABLE} may use this model",
    404: "Check the URL (…/v1) and the name of the model",
}
NO_CREDIT = f"Add credit or quota to the account, or use another key in ${KEY_VARIABLE}"

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
_SECRET = re.compile(r"\b(?:sk|pk|gsk|hf|xai|nvapi)[-_]\S+|\S*\*{3,}\S*")  # keys, and keys that a server has masked


@dataclass(frozen=True)
class ServerError:
    """An error that a server reported: its kind, its message for the log, and fields of the request that it refuses."""

    status: int
    kind: str
    message: str
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.message}"

    @property
    def fix(self) -> str:
        """What to do about an error of the account."""
        return FIXES.get(self.status, NO_CREDIT)


def read_error(status: int, body: Any, prompt: str = "", fields: Collection[str] = ()) -> ServerError:
    """The error in a response.

    Args:
        status: of the response, or of the error inside a response with HTTP 200.
        body: of the response, parsed if it is JSON.
        prompt: terms of it are left out of the message.
        fields: of the request that the server may not know.

    >>> read_error(400, {"message": "No.", "code": "content_filter"})
    ServerError(status=400, kind='refused', message='No. (content_filter)', refused=())
    >>> read_error(422, {"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]}, "n", ["n"])
    ServerError(status=422, kind='other', message='body.n: Extra inputs are not permitted', refused=('n',))
    """
    message = server_message(body)
    text = " ".join([message[:1000], *labels_of(body)])
    kind = next((kind for kind, of, pattern in _KINDS if status in of and re.search(pattern, text, re.IGNORECASE)), OTHER)
    named = [name for name in fields if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]
    is_about_fields = 400 <= status < 500 and kind == OTHER and _UNSUPPORTED.search(text) and not _TOO_LONG.search(text)
    refused = tuple(named) if is_about_fields else ()
    return ServerError(status, kind, without_prompt(message, prompt, named) or "no message", refused)


def labels_of(body: Any) -> Iterator[str]:
    """The codes, types and fields that an error names, also those of the errors inside it.

    >>> list(labels_of([{"error": {"param": "n", "innererror": {"code": "content_filter"}}}]))
    ['n', 'content_filter']
    """
    if isinstance(body, dict):
        yield from (body[name] for name in ("code", "type", "param") if isinstance(body.get(name), str))
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
        if not re.search(r"<(?:html|body|head|title|h1)\b", body, re.IGNORECASE):
            return " ".join(body.split())
        title = re.search(r"<(title|h1)\b[^>]*>(.*?)</\1>", body, re.IGNORECASE | re.DOTALL)
        return " ".join(re.sub(r"<[^>]*>", " ", title[2] if title else body).split())
    if isinstance(body, list):
        return "; ".join(filter(None, map(server_message, body)))
    if not isinstance(body, dict):
        return ""
    parts = [server_message(body.get(name)) for name in ("error", "message", "msg", "detail", "error_msg", "errors")]
    if isinstance(body.get("metadata"), dict):  # a gateway's report of what the provider behind it said
        parts.append(server_message(body["metadata"].get("raw")))
    text = "; ".join(dict.fromkeys(filter(None, parts)))
    if isinstance(body.get("loc"), list):
        text = f"{'.'.join(map(str, body['loc']))}: {text}"
    code = body.get("code")
    return f"{text} ({code})".strip() if isinstance(code, str) and not code.isdigit() and code not in text else text


def without_prompt(message: str, prompt: str, known: Collection[str] = ()) -> str:
    """A message, shortened for the log, without keys and without the terms that the prompt has too: it is patient text.

    Terms of `COMMON_TERMS` and `known` ones are kept.

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
    message = re.sub(r"\w+", shown, _SECRET.sub("…", message))
    message = re.sub(r"…(?:[^\w…]*…)+", "…", " ".join(message.split()))
    return message if len(message) <= MESSAGE_LENGTH else message[:MESSAGE_LENGTH] + "…"


def error_in_reply(response: Any) -> tuple[int, Any] | None:
    """Status and body of an error that a server reports in a response with HTTP 200; None without one."""
    if isinstance(choices := getattr(response, "choices", None), list) and choices:
        errors = [(getattr(choice, "model_extra", None) or {}).get("error") for choice in choices]
        error = errors[0] if all(errors) else None  # otherwise there are choices, which are paid for
    else:
        body = getattr(response, "model_extra", None) or {}
        error = body.get("error") or (body if getattr(response, "object", None) == "error" else None)
    if not error:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, (int, str)) and re.fullmatch(r"[45]\d\d", str(code)):
        return int(code), error
    # without a status: 400 if the text tells that another try would get the same, as `_KINDS` reads it
    text = " ".join([server_message(error), *labels_of(error)])
    return 400 if re.search(rf"{_ACCOUNT}|{_REFUSED}|{_KEY}", text, re.IGNORECASE) else 500, error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the Retry-After header of a response, a number or a date (RFC 9110, 10.2.3); None without one.

    `retry-after-ms`, milliseconds, is what some servers send too.

    >>> retry_after({"retry-after": "1.5"}), retry_after({"retry-after": "soon"}), retry_after({})
    (1.5, None, None)
    """
    from email.utils import parsedate_to_datetime

    for name, read in (
        ("retry-after-ms", lambda number: float(number) / 1000),
        ("retry-after", float),
        ("retry-after", lambda date: parsedate_to_datetime(date).timestamp() - time.time()),
    ):
        with contextlib.suppress(ValueError, OverflowError):
            return max(0.0, read(headers.get(name, "")))
    return None


def parsed(text: str) -> Any:
    """A text as JSON if it is JSON."""
    try:
        return json.loads(text.lstrip("\ufeff"))
    except ValueError:
        return text
