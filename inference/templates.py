"""Chat templates: rendered the same on any day, and what can be detected by rendering them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date of all prompts, in training too: a template that writes today's would make other prompts on the next day. It is the
# default of Llama-3's template.
PROMPT_DATE = datetime(2024, 7, 26)
# How templates read the clock: a function of a format, or a variable of the date as text.
CLOCK: Mapping[str, Any] = {
    "strftime_now": PROMPT_DATE.strftime,
    "date_string": PROMPT_DATE.strftime("%d %b %Y"),
    "current_date": PROMPT_DATE.strftime("%Y-%m-%d"),
}
SYSTEM_TEXT, USER_TEXT, ANSWER_TEXT = "THE-SYSTEM-TEXT", "THE-USER-TEXT", "THE-ANSWER"  # to be found in rendered probes
SWITCH_NAME = re.compile(r"\b\w*(?:think|reason)\w*\b", re.IGNORECASE)
NEGATIVE_NAME = re.compile(
    r"(?:no|not|disable|skip|without|hide|suppress|omit|exclude|bypass)(?:_|(?=think|reason))", re.IGNORECASE
)

Messages = Sequence[Mapping[str, str]]


class TemplateRefusal(Exception):
    """A chat template could not render a conversation; the message says why, and may quote the conversation."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template of a tokenizer; a `UserError` without one."""
    if not tokenizer.chat_template:
        fix = "Use the instruction-tuned version of the model, or put a chat_template.jinja beside its tokenizer"
        raise UserError(f"{tokenizer.name_or_path}: expected a model with a chat template, got none. {fix}.")
    try:
        return tokenizer.get_chat_template()
    except ValueError:  # several templates by name, none of them the default
        raise UserError(f"{tokenizer.name_or_path}: expected a default chat template, got others only. Add one.") from None


def clock_of(template: str) -> dict[str, Any]:
    """The variables that fix the date of a template that reads the clock; empty if it does not."""
    return {name: value for name, value in CLOCK.items() if re.search(rf"\b{name}\b", template)}


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: bool = True, **variables: Any) -> str:
    """The text of a conversation, with the start of a `reply` after it, on the fixed date.

    Raises:
        TemplateRefusal: the template does not take such a conversation.
    """
    from jinja2 import TemplateError

    variables = clock_of(template_of(tokenizer)) | variables
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply, **variables)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise TemplateRefusal(" ".join(str(error).split()) or type(error).__name__) from None


def with_system(system: str, user: str, merge: bool) -> list[dict[str, str]]:
    """A conversation of a system and a user turn; with `merge`, of a user turn that begins with the system text.

    >>> with_system("Be brief.", "Hello", merge=True)
    [{'role': 'user', 'content': 'Be brief.\\n\\nHello'}]
    """
    if merge:
        return [{"role": "user", "content": f"{system}\n\n{user}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def merges_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the system text must be part of the user turn, as the template refuses, drops or replaces a system turn.

    Raises:
        UserError: the template renders neither form.
    """
    reason = "a prompt without them"
    for merge in (False, True):
        try:
            text = render(tokenizer, with_system(SYSTEM_TEXT, USER_TEXT, merge))
        except TemplateRefusal as refusal:
            reason = str(refusal)[:200].rstrip(".")
        else:
            if SYSTEM_TEXT in text and USER_TEXT in text:
                return merge
    wrong = f"expected a chat template that renders a system and a user text, got: {reason}"
    raise UserError(f"{tokenizer.name_or_path}: {wrong}. Correct the template, or choose another model.")


def find_switch(
    tokenizer: PreTrainedTokenizerBase, known: Mapping[str, Sequence[Sequence[Any]]], merge: bool
) -> tuple[str, Any, Any] | None:
    """(name, on, off) of the template variable that switches reasoning; None if there is none.

    Args:
        known: names → pairs of values (on, off) to try; `other` is for other names with "think" or "reason" in them.
        merge: see `merges_system`.
    """
    messages = with_system(SYSTEM_TEXT, USER_TEXT, merge)
    names = dict.fromkeys(SWITCH_NAME.findall(template_of(tokenizer)))
    for name in sorted(names, key=[*known, *(name for name in names if name not in known)].index):
        for on, off in known.get(name, known["other"]):
            if NEGATIVE_NAME.match(name):
                on, off = off, on
            try:
                if render(tokenizer, messages, **{name: on}) != render(tokenizer, messages, **{name: off}):
                    return name, on, off
            except TemplateRefusal:
                continue
    return None


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """What the template writes after an answer: the text up to the end-of-turn token, and this token.

    It is the tokenizer's end token, if the template writes it, else the first special token after the answer. Where the
    template ends no turn, text and token are "" and None.
    """
    text, tokens = _after_answer(tokenizer, [])
    token = tokenizer.eos_token if tokenizer.eos_token in tokens else next(iter(tokens), None)
    return (text.partition(token)[0], token) if token else ("", None)


def end_of_reply(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token after an answer, or with which the next turn begins if there is none; None without both."""
    tokens = _after_answer(tokenizer, [])[1] or _after_answer(tokenizer, [{"role": "user", "content": USER_TEXT}])[1]
    return next(iter(tokens), None)


def _after_answer(tokenizer: PreTrainedTokenizerBase, later: Messages) -> tuple[str, list[str]]:
    """The text after an answer, with the turns that come later, and the special tokens in it, in order."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER_TEXT}, *later]
    try:
        text = render(tokenizer, turns, reply=False).rpartition(ANSWER_TEXT)[2]
    except TemplateRefusal:
        return "", []
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = [token for token in special | set(tokenizer.all_special_tokens) if token and token in text]
    return text, sorted(tokens, key=lambda token: (text.index(token), -len(token)))


def has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether a text is a token of the vocabulary."""
    number = tokenizer.convert_tokens_to_ids(token)
    return number is not None and tokenizer.convert_ids_to_tokens(number) == token
