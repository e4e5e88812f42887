"""How servers of the chat endpoint write a reply: content as a text or parts, reasoning apart, several names of one thing."""

from __future__ import annotations

import re
from typing import Any

# Finish reasons of a reply that the model did not end itself: its length, a filter, an error, a call of a tool. Others (stop,
# eos, stop_sequence, end_turn, …) say that it is whole; so does none at all, which servers send that do not know.
_CUT_OFF = re.compile(
    r"length|max|limit|exceed|budget|filter|safety|moderat|polic|prohibit|recit|block|refus|sensitive|spii|"
    r"err|abort|cancel|timeout|interrupt|tool|function|incomplete|pause|malformed|other|unspecified",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"filter|safety|moderat|polic|prohibit|recit|block|refus|sensitive|spii", re.IGNORECASE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character that a server cut in two
_TEXT_PARTS = {"text", "output_text", None}  # types of parts that are the answer; the others are reasoning, images, tools


def is_whole(finish_reason: Any) -> bool:
    """Whether a reply with this finish reason is whole.

    >>> [is_whole(reason) for reason in ("stop", "eos", "STOP", None, "", "length", "max_tokens", "content_filter")]
    [True, True, True, True, True, False, False, False]
    """
    return not (isinstance(finish_reason, str) and _CUT_OFF.search(finish_reason))


def content_of(choice: Any) -> str:
    """The answer of a choice: its content, a text or the text parts of a list; "" if it has not the form of the API."""
    return _joined(getattr(getattr(choice, "message", None), "content", None), reasoning=False)


def reasoning_of(choice: Any) -> str:
    """The reasoning that a server separates from the answer: a field of its own, or parts of the content."""
    message = getattr(choice, "message", None)
    for name in ("reasoning", "reasoning_content"):
        if isinstance(text := getattr(message, name, None), str) and text.strip():
            return _LONE_SURROGATE.sub("", text)
    return _joined(getattr(message, "content", None), reasoning=True)


def text_of(choice: Any) -> str:
    """The text of a choice of which the answer alone is used.

    Where all of it is reasoning and the reply is whole, the server took the answer for reasoning, as some do if the mark that
    closes the reasoning is missing. Otherwise the reply was cut off while it reasoned, and its think block stays open.
    """
    text = content_of(choice).strip()
    reasoning = "" if text else reasoning_of(choice).strip()
    return f"<think>\n{reasoning}" if reasoning and not is_whole(getattr(choice, "finish_reason", None)) else text or reasoning


def refusal_of(choice: Any) -> str | None:
    """Why a choice without a text has none, if the model or a filter refused to answer; None otherwise."""
    refusal = getattr(getattr(choice, "message", None), "refusal", None)
    if isinstance(refusal, str) and refusal.strip():
        return refusal.strip()
    reason = getattr(choice, "finish_reason", None)
    return reason if isinstance(reason, str) and _FILTERED.search(reason) else None


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
    if (part.get("type") in _TEXT_PARTS) == reasoning:
        return ""
    values = [part.get(name) for name in ("text", "thinking", "reasoning")]
    return "".join(value if isinstance(value, str) else _joined(value, reasoning=False) for value in values if value)
