"""Lines of the log of a run through the chat endpoint: the synthesis of reasoning chains, and their verifier."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inference.backends import TOO_LONG, Generation
from inference.dialects import finish_reason_of, is_cut_by_length, is_whole, refusal_of, text_of, usage_of
from inference.server_messages import without_prompt

if TYPE_CHECKING:
    from inference.generation import Prompt, Tally
    from pipeline.files import Line

MAX_REASONS = 10  # kinds of errors that are listed
MAX_USELESS = 30  # replies of the chat endpoint without a whole text, before a run ends that had none with one


def is_useful(line: Line) -> bool:
    """Whether a line of `chat_line` has a choice that is whole."""
    return not line.get("error") and any(map(is_whole, line.get("finish_reasons") or ()))


def useless_replies(number: int, line: Line) -> str:
    """The error of a run whose first `number` replies, which are paid for, are all like that of this line."""
    reasons = ", ".join(sorted(set(map(str, line["finish_reasons"]))))
    got = line["error"] or f"{'replies that were cut off' if any(line['choices']) else 'no text'} ({reasons})"
    fix = "What came is recorded. Raise --max_new_tokens, or check how the server takes its limit and reports reasoning"
    return f"the first {number} replies: expected texts that are whole, got only {got.rstrip('.')}. {fix}."


def chat_line(prompt: Prompt, replies: Sequence[Generation]) -> Line | None:
    """The line of a prompt to the chat endpoint: `choices` (texts), `finish_reasons`, `usage` and `error`; None if too long.

    A reply without any text is an error too, unless its length is the reason: the same request would get the same. Several
    choices are one reply of the server. `refused` is there, and true, if the error would come again.
    """
    (reply,) = replies
    if reply.error == TOO_LONG:
        return None
    if reply.response is None:
        line = prompt.line | {"choices": [], "finish_reasons": [], "usage": None, "error": reply.error}
        return line | ({"refused": True} if reply.refused else {})
    choices = reply.response.choices
    texts, reasons = list(map(text_of, choices)), list(map(finish_reason_of, choices))
    line = prompt.line | {"choices": texts, "finish_reasons": reasons, "usage": usage_of(reply.response), "error": None}
    if any(texts) or all(map(is_cut_by_length, reasons)):
        return line
    refusal = next(filter(None, map(refusal_of, choices)), None)
    error = f"no text ({', '.join(sorted(set(map(str, reasons))))})"
    if refusal is None:
        return line | {"choices": [], "error": error}
    reason = "" if refusal in reasons else f": {without_prompt(refusal, prompt.text)}"
    return line | {"choices": [], "error": f"{error}{reason}", "refused": True}


def report_errors(tally: Tally, things: str) -> None:
    """Print why prompts about these `things` have no reply, and what to do. Errors that differ in numbers are of one kind."""
    for intro, errors, fix in (
        ("no reply to", tally.errors, "the same command sends them again"),
        ("refused", tally.refused, "--retry_refused sends them again"),
    ):
        kinds, examples = Counter[str](), dict[str, str]()
        for reason, number in errors.items():
            kind = re.sub(r"\d+", "0", reason)
            kinds[kind] += number
            examples.setdefault(kind, reason)
        for kind, number in kinds.most_common(MAX_REASONS):
            print(f"{intro} {number:,} {things}: {examples[kind].rstrip('.')}; {fix}", file=sys.stderr)
        if others := kinds.total() - sum(number for _, number in kinds.most_common(MAX_REASONS)):
            print(f"{intro} {others:,} more {things}, for {len(kinds) - MAX_REASONS:,} other reasons; {fix}", file=sys.stderr)
    if any(re.match("HTTP 4(?:00|22):", reason) for reason in tally.errors):
        example = """--extra_body '{"temperature": null}'"""
        print(f"If one is about a field of the request, leave it out or replace it: {example}", file=sys.stderr)
