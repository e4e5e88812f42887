"""How servers write a reply: content as a text or parts, reasoning apart, streams, envelopes, several names of one thing."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from inference.server_messages import parsed

# Finish reasons of a reply that the model did not end itself: its length, a filter, an error, a call of a tool. Others (stop,
# eos, stop_sequence, end_turn, …) say that it is whole; so does none at all, which servers send that do not know.
_CUT_OFF = re.compile(
    r"length|max|limit|exceed|budget|filter|safety|moderat|polic|prohibit|recit|block|refus|sensitive|spii|"
    r"err|abort|cancel|timeout|interrupt|insufficient|truncat|repetition|overload|unavailable|disconnect|guard|armor|"
    r"tool|function|incomplete|partial|pause|malformed|other|unspecified|unknown",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"length|max|limit|exceed|budget", re.IGNORECASE)
_FILTERED = re.compile(r"filter|safety|moderat|polic|prohibit|recit|block|refus|sensitive|spii", re.IGNORECASE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character that a server cut in two
_TEXT_PARTS = {"text", "output_text", None}  # types of parts that are the answer; the others are reasoning, images, tools
_REASONING = ("reasoning", "reasoning_content", "reasoning_details", "thinking", "thinking_blocks")  # fields of a message
_PART_TEXTS = ("text", "thinking", "reasoning", "summary", "content")  # fields of a part
_ENVELOPES = ("data", "result", "response", "body")  # fields that hold the whole reply behind some gateways


def finish_reason_of(choice: Any) -> str | None:
    """The finish reason of a choice, a text or the type of an object; None if it has none."""
    reason = getattr(choice, "finish_reason", None)
    reason = reason.get("type") if isinstance(reason, dict) else reason
    return reason if isinstance(reason, str) else None


def is_whole(finish_reason: Any) -> bool:
    """Whether a reply with this finish reason is whole.

    >>> [is_whole(reason) for reason in ("stop", "eos", "STOP", None, "", "length", "max_tokens", "content_filter")]
    [True, True, True, True, True, False, False, False]
    """
    return not (isinstance(finish_reason, str) and _CUT_OFF.search(finish_reason))


def is_cut_by_length(finish_reason: Any) -> bool:
    """Whether a reply with this finish reason was cut off because it was too long."""
    return isinstance(finish_reason, str) and bool(_LENGTH.search(finish_reason))


def content_of(choice: Any) -> str:
    """The answer of a choice: its content, a text or the text parts of a list; "" if it has not the form of the API."""
    message = getattr(choice, "message", None)
    if message is None:  # as of the completions endpoint
        return _joined(getattr(choice, "text", None), reasoning=False)
    return _joined(message if isinstance(message, str) else getattr(message, "content", None), reasoning=False)


def reasoning_of(choice: Any) -> str:
    """The reasoning that a server separates from the answer: a field of its own, or parts of the content."""
    message = getattr(choice, "message", None)
    for name in _REASONING:
        value = getattr(message, name, None)
        parts = value if isinstance(value, list) else [value]
        text = "".join(part if isinstance(part, str) else _text_of_part(part) for part in parts)
        if text.strip():
            return _LONE_SURROGATE.sub("", text)
    return _joined(getattr(message, "content", None), reasoning=True)


def text_of(choice: Any) -> str:
    """The text of a choice of which the answer alone is used.

    Where all of it is reasoning and the reply is whole, the server took the answer for reasoning, as some do if the mark that
    closes the reasoning is missing. Otherwise the reply was cut off while it reasoned, and its think block stays open.
    """
    text = content_of(choice).strip()
    reasoning = "" if text else reasoning_of(choice).strip()
    return f"<think>\n{reasoning}" if reasoning and not is_whole(finish_reason_of(choice)) else text or reasoning


def refusal_of(choice: Any) -> str | None:
    """Why a choice without a text has none, if the model or a filter refused to answer; None otherwise."""
    refusal = getattr(getattr(choice, "message", None), "refusal", None)
    if isinstance(refusal, str) and refusal.strip():
        return refusal.strip()
    reason = finish_reason_of(choice)
    return reason if reason and _FILTERED.search(reason) else None


def usage_of(response: Any) -> dict[str, int] | None:
    """The tokens that the server counted; None if it does not say."""
    usage = getattr(response, "usage", None)
    counts = {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")}
    if not any(isinstance(count, int) for count in counts.values()):
        return None
    return {name: count if isinstance(count, int) else 0 for name, count in counts.items()}


def _joined(content: Any, reasoning: bool) -> str:
    """The text of a content, or of its parts that are reasoning."""
    if isinstance(content, str):
        return "" if reasoning else _LONE_SURROGATE.sub("", content)
    parts = content if isinstance(content, list) else [content]
    return "".join(_part(part, reasoning) for part in parts if isinstance(part, (dict, str)))


def _part(part: Any, reasoning: bool) -> str:
    if isinstance(part, str):
        return "" if reasoning else part
    return _text_of_part(part) if (part.get("type") in _TEXT_PARTS) != reasoning else ""


def _text_of_part(part: Any) -> str:
    values = [part.get(name) for name in _PART_TEXTS] if isinstance(part, dict) else []
    return "".join(value if isinstance(value, str) else _joined(value, reasoning=False) for value in values if value)


# --- replies in another form than that of the API


def unwrapped(text: str) -> Any:
    """The body of a response whose form is not that of the API: of a stream, in an envelope, or with something around it.

    >>> unwrapped('{"code": 0, "data": {"choices": [{"text": "a"}]}}')
    {'choices': [{'text': 'a'}]}
    """
    body = parsed(text)
    if isinstance(body, str):
        body = of_stream(body) or body
    for name in _ENVELOPES:
        inner = body.get(name) if isinstance(body, dict) and not body.get("choices") else None
        inner = parsed(inner) if isinstance(inner, str) else inner
        if isinstance(inner, dict) and inner.get("choices"):
            return inner
    return body


def of_stream(text: str) -> dict[str, Any] | None:
    r"""The reply that a stream of server-sent events makes up, which some servers send unasked; None if the text is none.

    >>> event = 'data: {"choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": %s}]}\n\n'
    >>> of_stream(event % ("a", "null") + event % ("b", '"stop"') + "data: [DONE]")["choices"]
    [{'index': 0, 'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': 'ab'}}]
    """
    events = [parsed(line.partition(":")[2]) for line in text.splitlines() if line.startswith("data:")]
    events = [event for event in events if isinstance(event, dict)]
    if not events:
        return None
    texts: dict[int, dict[str, str]] = defaultdict(lambda: defaultdict(str))
    reasons: dict[int, Any] = {}
    body: dict[str, Any] = {}
    for event in events:
        body |= {name: value for name, value in event.items() if value is not None}
        for choice in event.get("choices") or ():
            index, delta = choice.get("index") or 0, choice.get("delta") or choice.get("message") or {}
            for name, value in delta.items():
                texts[index][name] += value if isinstance(value, str) and name != "role" else ""
            texts[index]["text"] += choice.get("text") or ""
            reasons[index] = choice.get("finish_reason") or reasons.get(index)
    is_whole_stream = "[DONE]" in text or any(reasons.values())
    choices = []
    for index in sorted(texts):
        written = {name: value for name, value in texts[index].items() if value}
        choice = {"index": index, "finish_reason": reasons[index] if is_whole_stream else "incomplete"}
        if "text" in written:
            choices.append(choice | {"text": written["text"]})
        else:
            choices.append(choice | {"message": {"role": "assistant", "content": ""} | written})
    return body | {"choices": choices, "object": "chat.completion"}
