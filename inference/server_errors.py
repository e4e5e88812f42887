"""What errors of OpenAI-compatible servers mean: whether the prompt, the account or the moment is their cause."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from inference.server_messages import (
    KEY_VARIABLE,
    labels_of,
    pause_of,
    retry_after,
    server_message,
    without_prompt,
    without_quotes,
)

# Kinds of errors.
REFUSED = "refused"  # this prompt: content filters and moderation, which would refuse it again
TOO_LONG = "too long"  # this prompt, or the reply that is asked for, is longer than the server allows
ACCOUNT = "account"  # every request: key, credit or quota
MODEL = "model"  # every request: the model or the URL
RETRY = "retry"  # another try may succeed
OTHER = "other"  # this request, as far as one can tell
EVERY_REQUEST = {ACCOUNT, MODEL}

RETRIED = {408, 409, 424, 425, 429, 498}  # statuses that another try may not get; and all from 500 on
_CLIENT, _SERVER = {*range(400, 500)}, {*range(500, 600)}
_BUSY = (
    r"throttl|too many (?:concurrent )?requests|too many tokens, please|rate[\s_-]*limit|overload|temporar|queue is full|"
    r"(?:server|system|model)\w* (?:is |are )?(?:currently |still |too )*(?:busy|loading|starting|warming)|at capacity"
)
_AGAIN = r"try(?:ing)? again"  # said of what is busy, but also "… with another prompt", so that others come first
_PASSING = rf"{_BUSY}|unavailable|timed?[\s_-]?out"
_ACCOUNT = (
    r"insufficient[\s_-]*(?:\w+[\s_-])?(?:quota|balance|credit|fund)|current[\s_-]quota|quota[\s_-]exhausted|billing|"
    r"credit balance|balance (?:is )?(?:too low|insufficient|not enough|exhausted)|余额不足|欠费|"
    r"(?:more|enough|out of|no|add|available) credits?\b|arrear|spend(?:ing)? (?:limit|cap)|payment (?:required|method)|"
    r"(?:budget|key|monthly|weekly) (?:limit |has been |was )?exceeded|budget_exceeded|(?:subscription|trial) (?:has |is )?"
    r"(?:expired|ended)|(?:account|organi[sz]ation|project|team|user|key) (?:\w+ ){0,3}(?:deactivated|suspended|disabled|"
    r"overdue|revoked|expired|restricted)|usage limits|must be verified|(?:location|country|region)\b.{0,20}not supported"
)
_KEY = r"(?:api|access|secret)[\s_-]?key|(?:invalid|expired|incorrect|missing) (?:\w+ )?token|unauthori[sz]ed|authenticat"
_FILTER = (
    r"content[\s_-]*(?:filter|polic|management|violation|safety)|responsible[\s_]?ai|block_?reason|prohibited[\s_]content|"
    r"moderation|safety (?:system|filter|setting|reason|polic)|guard-?rail|data_inspection|content exists risk|high risk|"
    r"\bpii(?![a-z])|\bphi[\s_]detected|敏感|不安全|违规"
)
_REFUSED = (
    rf"{_FILTER}|moderat|flagged|usage polic|inappropriate|harmful|prohibited|unsafe|sensitive|invalid_prompt|"
    r"violat\w* (?:our|the|of our|usage)|blocked by"
)
_TOKENS = r"max(?:imum)?[_ ]?(?:completion_|new_|output_|output )?tokens"
_TOO_LONG = (
    r"context[\s_-]*(?:length|window|size|limit)|max_model_len|string_above_max_length|input length|length of input|"
    r"reduce (?:the |your )?(?:length|prompt|input|message)|"
    r"(?:prompt|input|request|message|sequence|content|payload|body|entity|text)s?`?\b.{0,40}\btoo (?:long|large)|"
    r"too (?:long|large|many tokens)\b.{0,40}\b(?:prompt|input|context|model)|must have less than \d+ tokens|"
    r"(?:prompt|input|sequence|request)\w*\b.{0,60}\b(?:exceed|longer than|greater than|larger than|over the limit|>)|"
    r"exceed\w*\b.{0,60}\b(?:tokens|token count|token limit|length|input|context)|tokens?\b.{0,80}exceed|"
    rf"{_TOKENS}\W.{{0,60}}(?:too (?:large|big|high|long)|exceed|at (?:most|least)|maximum|range|greater|larger|<=|>)|"
    r"maximum tokens\b.{0,30}\bexceed|"
    rf"(?:range|limit|maximum)\b.{{0,30}}\b{_TOKENS}"
)
_MODEL = (
    r"(?:model|deployment)\b.{0,60}\b(?:not (?:found|exist|available|valid|supported|served|recogni[sz]ed)|"
    r"does(?: not|n't) exist|(?:is|are)n.t supported|unknown|invalid|deprecated|retired|decommissioned)|"
    r"(?:invalid|unknown|unsupported|no such|not a valid|undefined|unable to access) (?:[\w-]+ )?(?:model|deployment)|"
    r"no models? (?:is |are )?loaded|model[\s_](?:not[\s_](?:found|available|exist)|decommissioned)"
)
# Kind, statuses and pattern: an error is of the kind of the first row that has its status, and whose pattern is in its text.
_KINDS = (
    (RETRY, _CLIENT - {401, 402, 413, 422, 429, 451}, _BUSY),  # some gateways send what is busy as 400, 403 or 404
    (RETRY, _SERVER, _PASSING),
    (ACCOUNT, {400, 402, 403, 412, 429, *_SERVER}, _ACCOUNT),
    (ACCOUNT, {400, 403}, _KEY),
    (TOO_LONG, {400, 413, 422, *_SERVER}, _TOO_LONG),
    (TOO_LONG, {429}, "request too large"),
    (RETRY, _SERVER, _AGAIN),
    (REFUSED, {400, 403, 422, 451}, _REFUSED),
    (REFUSED, {446, *_SERVER}, _FILTER),
    (MODEL, {400, 404, 422}, _MODEL),
    (RETRY, _CLIENT - {401, 402, 413, 422, 429, 451}, _AGAIN),
    (ACCOUNT, {401, 402, 403}, ""),
    (MODEL, {404, 405, 410}, ""),
    (TOO_LONG, {413}, ""),
    (REFUSED, {451}, ""),
    (RETRY, {*RETRIED, *_SERVER}, ""),
)
# How servers refuse a field that they do not know, or a value that they do not take.
_UNSUPPORTED = re.compile(
    r"un(?:support|know|recogni[sz]|expect|avail)|not (?:\w+ )?(?:support|permit|allow|accept|recogni[sz]|valid|enabled)|"
    r"no such|no longer|extra|forbid|invalid|deprecated|only|instead|must be|cannot|equal to 1\b",
    re.IGNORECASE,
)
# How they name a field of ours otherwise, or mean it without a name.
_MEANT = {
    "temperature": r"default \(?1(?:\.0)?\)?|sampling param|\b1(?:\.0)? is (?:the only|supported|allowed)",
    "n": r"(?:multiple|several) (?:choices|completions|candidates|generations)|candidate_?count|"
    r"(?:one|single) (?:choice|completion|candidate|generation)|num(?:ber)?_?(?:of_| of )?(?:choices|completions|generations)",
    "seed": r"determinis|random_?seed",
}
# What to do about an error, by status or kind.
FIXES = {
    401: f"Set a key that the server accepts in ${KEY_VARIABLE}",
    403: f"Check that the key in ${KEY_VARIABLE} may use this model, and that no gateway blocks the requests",
    MODEL: "Check the URL (…/v1) and the name of the model",
    ACCOUNT: f"Add credit or quota to the account, or use another key in ${KEY_VARIABLE}",
    TOO_LONG: "Lower --max_seq_len, or --max_new_tokens",
}


@dataclass(frozen=True)
class ServerError:
    """An error that a server reported.

    Attributes:
        status: of HTTP.
        kind: one of those above.
        message: for the log.
        refused: fields of the request that the server refuses.
        pause: seconds that it asks to wait; None: it does not.
    """

    status: int
    kind: str
    message: str
    refused: tuple[str, ...] = ()
    pause: float | None = None

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.message}"

    @property
    def fix(self) -> str | None:
        """What to do about the error; None: nothing is known."""
        return FIXES.get(self.status if self.kind == ACCOUNT and self.status in FIXES else self.kind)


def read_error(
    status: int, body: Any, prompt: str = "", fields: Collection[str] = (), headers: Mapping[str, str] | None = None
) -> ServerError:
    """The error in a response.

    Args:
        status: of the response, or of the error inside a response with HTTP 200.
        body: of the response, parsed if it is JSON.
        prompt: terms of it are left out of the message.
        fields: of the request that the server may not know.
        headers: of the response.

    >>> read_error(400, {"message": "No.", "code": "content_filter"}).kind
    'refused'
    >>> read_error(422, {"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]}, "n", ["n"]).refused
    ('n',)
    """
    message = server_message(body)
    text = " ".join([without_quotes(message[:4000], prompt), *labels_of(body)])
    kind = next((kind for kind, of, pattern in _KINDS if status in of and re.search(pattern, text, re.IGNORECASE)), OTHER)
    pause = retry_after(headers or {})
    if pause is None and (pause := pause_of(body)) and status == 429 and not re.search("insufficient", text, re.IGNORECASE):
        kind = RETRY  # a limit that ends by itself, although the message speaks of quota and billing
    refused: tuple[str, ...] = ()
    is_passing = kind != RETRY or re.search(f"{_PASSING}|{_AGAIN}", text, re.IGNORECASE)
    may_name_field = kind in (OTHER, MODEL) if status in (400, 422) else status in (500, 501) and not is_passing
    if may_name_field and _UNSUPPORTED.search(text):
        refused = fields_in(text, fields)
        kind = OTHER if refused else kind
    return ServerError(status, kind, without_prompt(message, prompt, refused) or "no message", refused, pause)


def fields_in(text: str, fields: Collection[str]) -> tuple[str, ...]:
    """The fields that a text names, or, if it names none, those that it means.

    >>> fields_in("Only the default (1) value is supported.", ["temperature", "n"])
    ('temperature',)
    """
    named = [name for name in fields if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, _case(name))]
    return tuple(named or [name for name in fields if name in _MEANT and re.search(_MEANT[name], text, re.IGNORECASE)])


def _case(name: str) -> int:
    return re.IGNORECASE if len(name) > 1 else 0


def error_in_body(body: Any) -> tuple[int, Any] | None:
    """Status and body of an error that a server reports in a response with HTTP 200; None without one.

    >>> error_in_body({"choices": [], "promptFeedback": {"blockReason": "SAFETY"}})
    (400, {'message': 'the prompt was blocked: SAFETY', 'code': 'content_filter'})
    """
    text = json.dumps(body)
    if blocked := re.search(r'"block_?reason(?:_?message)?"\s*:\s*"([^"]+)"|"filtered"\s*:\s*(true)', text, re.IGNORECASE):
        return 400, {"message": f"the prompt was blocked: {blocked[1] or 'content filter'}", "code": "content_filter"}
    error = body.get("error") or body if isinstance(body, dict) else body
    if isinstance(body, dict) and isinstance(body.get("choices"), list):  # errors in place of all choices
        error = next(
            (choice["error"] for choice in body["choices"] if isinstance(choice, dict) and choice.get("error")), error
        )
    if not server_message(error):
        return None
    for name in ("code", "status", "status_code", "statusCode", "http_status"):
        for part in (error, body):
            if isinstance(part, dict) and re.fullmatch(r"[45]\d\d", str(part.get(name))):
                return int(part[name]), error
    # without a status: 400 if the text tells that another try would get the same
    text = " ".join([server_message(error), *labels_of(error)])
    lasting = rf"{_ACCOUNT}|{_KEY}|{_REFUSED}|{_TOO_LONG}|{_MODEL}"
    is_busy = re.search(_BUSY, text, re.IGNORECASE)
    return 400 if re.search(lasting, text, re.IGNORECASE) and not is_busy else 500, error
