"""The backend of OpenAI-compatible servers: vLLM serve, SGLang and others by rendered prompts, hosted models by chat messages.

With the tokenizer of the model (the default), prompts are rendered here and sent as token ids to the completions endpoint, so
that a server reads exactly what the other backends read. With `--chat`, messages go to the chat endpoint, for models whose
tokenizer or completions endpoint is unavailable.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from inference.backends import NEUTRAL_SAMPLING, Generation, Query, end_token_ids, load_builder, sampling_seed
from inference.client import Client, Reply, Request
from inference.dialects import content_of, finish_reason_of, is_cut_by_length, is_whole, reasoning_of
from inference.p_yes import p_yes_from_top_tokens, yes_no_tokens
from inference.server_errors import REFUSED
from inference.settings import InferenceSettings
from mimiciv_dataset.tasks import NO, YES

if TYPE_CHECKING:
    from openai.types import CompletionChoice
    from openai.types.chat.chat_completion import Choice

    from inference.prompts import PromptBuilder

TOP_LOGPROBS = 20  # most likely tokens of a position that servers are asked for: the maximum that APIs allow
MAX_REFUSALS = 3  # of requests for log-probabilities before a server is taken for one that gives none
MAX_SEED = 1 << 31  # some servers take seeds of 32 bits
NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
SWITCH_FIELDS = ("chat_template_kwargs", "reasoning_effort")
TOKEN_ID = "token_id:"
# The limit of a reply's length: hosted models that reason take its newer name only; other servers refuse that, or ignore it.
MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
LIMITS = {MAX_TOKENS, MAX_COMPLETION_TOKENS}
# Fields of the API that a server may refuse, and what happens then.
STANDARD_FIELDS = {
    "temperature": "the model's own temperature applies",
    "seed": "sampling is not seeded",
    "n": "choices are asked for one by one, and the prompt is paid for each time",
    MAX_TOKENS: f"{MAX_COMPLETION_TOKENS} is sent",
}


class OpenAIBackend:
    """A model behind `--url`."""

    def __init__(self, settings: InferenceSettings, extra_body: Mapping[str, Any] | None = None) -> None:
        """`extra_body`: fields of every request, which replace ours; one that is None is not sent."""
        model, server = settings.model, settings.server
        self.client = Client(server, model.model_name_or_path)
        self.decoding = settings.decoding
        self.continues = not server.chat
        self._model = model.model_name_or_path
        self._num_scored, self._refusals = 0, 0  # requests for log-probabilities that were answered, or refused
        self.builder = load_builder(settings)
        self._form: ChatForm | CompletionForm = ChatForm() if server.chat else CompletionForm(self.builder)
        # Servers apply the model's own sampling settings unless a request says otherwise; hosted models refuse unknown fields.
        is_neutral = not model.model_sampling and (not server.chat or self.client.is_local)
        self._neutral: dict[str, Any] = NEUTRAL_SAMPLING | NO_PENALTIES if is_neutral else {}
        self._refused: set[str] = set()  # optional fields that the server does not know
        self._extra_body = dict(extra_body or {})
        self._sends_all_choices, self._keeps_limit = True, True

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """See `Backend.answer`.

        p(yes) comes from the log-probabilities of the first token. vLLM gives those of exactly the tokens that spell yes and
        no; other servers the 20 most likely, and a word that is not among them is assigned the least likely of them. Where
        neither word is among them, or a server gives no log-probabilities, the whole reply is generated, and its text
        decides: `p_yes` is None then.
        """
        numbered = enumerate(queries)
        again: deque[tuple[int, Query, bool]] = deque()  # queries to send again: without a field, or not to be scored
        sent: dict[int, tuple[int, Query, bool, Request]] = {}

        def requests() -> Iterator[Request]:
            for position in range(1 << 62):
                if again:
                    number, query, score = again.popleft()
                else:
                    number, query = next(numbered, (None, None))
                    if query is None:
                        return
                    # A server that has never given any, and refused them several times, is not asked for them again.
                    score = query.score and (self._num_scored > 0 or self._refusals < MAX_REFUSALS)
                request = self._request(query, score)
                sent[position] = number, query, score, request
                yield request

        while True:
            for position, reply in self.client.send(requests()):
                number, query, score, request = sent.pop(position)
                if reply.response is None and (fields := self._refused_fields(request, reply)):
                    self._omit(fields, reply.error)
                    again.append((number, query, score))
                elif reply.response is None and score and "logprobs" in reply.error:  # as hosted reasoning models answer
                    self._refusals += 1
                    again.append((number, query, False))
                elif reply.response is None:
                    is_refused = reply.cause is not None and reply.cause.kind == REFUSED
                    yield number, Generation("", "error", error=reply.error, refused=is_refused)
                elif score:
                    self._num_scored += 1
                    scored = p_yes_from_top_tokens(self._form.first_position(reply.response.choices[0]))
                    if scored is None:
                        again.append((number, query, False))
                    else:
                        yield number, replace(Generation.scored(*scored), **tokens_of(reply.response))
                else:
                    self._check_choices(query, len(reply.response.choices))
                    self._check_length(reply.response)
                    text, reason = self._form.read(reply.response.choices[0])
                    yield number, Generation(text, reason, response=reply.response, **tokens_of(reply.response))
            if not again:
                return

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _request(self, query: Query, score: bool) -> Request:
        max_new_tokens = 1 if score else self.decoding.max_new_tokens
        temperature = 0.0 if query.score else self.decoding.temperature
        body = self._form.body(query, max_new_tokens, score) | {"model": self._model, "temperature": temperature}
        fields = {name: value for name, value in self._neutral.items() if name not in self._refused}
        extra = body.pop("extra_body", {}) | fields
        if extra := {name: value for name, value in extra.items() if name not in self._refused}:
            body["extra_body"] = extra
        if temperature > 0 and self.decoding.seed is not None:
            body["seed"] = sampling_seed(self.decoding.seed, query.prompt, query.sample) % MAX_SEED
        if query.choices is not None:
            body["n"] = query.choices
        body = {name: value for name, value in body.items() if name not in self._refused}
        if self._form.endpoint == "chat" and MAX_TOKENS in self._refused:
            body[MAX_COMPLETION_TOKENS] = max_new_tokens
        standard = [name for name in STANDARD_FIELDS if name in body and (self._form.endpoint == "chat" or name != MAX_TOKENS)]
        refusable = [*names_in(extra), *standard, *(["logprobs"] if score else [])]
        if self._extra_body:
            replaced = {*self._extra_body, *(LIMITS if LIMITS & self._extra_body.keys() else ())}
            own = {name: value for name, value in self._extra_body.items() if value is not None}
            body = {name: value for name, value in body.items() if name not in replaced}
            body["extra_body"] = {name: value for name, value in extra.items() if name not in replaced} | own
            refusable = [name for name in refusable if name not in replaced]
        tokens = 0
        if self.client.settings.max_tpm:
            tokens = self.builder.tokens(query.prompt) + max_new_tokens * (query.choices or 1)
        text = "" if "messages" in body else query.prompt
        return Request(self._form.endpoint, body, tokens, text, tuple(refusable))

    def _refused_fields(self, request: Request, reply: Reply) -> list[str]:
        """The optional fields of a request that the server refused: by their name, or that of a key of one."""
        names = reply.cause.refused if reply.cause else ()
        extra = {name: value for name, value in request.body.get("extra_body", {}).items() if name not in self._extra_body}
        fields = [field for field in extra if any(name in names for name in names_in({field: extra[field]}))]
        return fields + [name for name in STANDARD_FIELDS if name in names]

    def _omit(self, fields: Sequence[str], error: str) -> None:
        """Send the following requests without these fields, which the server refused."""
        for name in sorted(set(fields) - self._refused):
            effect = "the model's own setting may apply" if name in self._neutral else "it is not sent"
            effect = "thinking is not switched" if name in SWITCH_FIELDS else STANDARD_FIELDS.get(name, effect)
            print(f"warning: {self.client.url} refuses the field {name}: {effect} ({error.rstrip('.')}).", file=sys.stderr)
        self._refused.update(fields)
        self._sends_all_choices &= "n" not in fields

    def _check_choices(self, query: Query, number: int) -> None:
        """Report a server that sends fewer choices than it was asked for."""
        if self._sends_all_choices and number < (query.choices or 1):
            effect = "the others are asked for, and the prompt is paid for again each time"
            print(f"warning: {self.client.url} sends {number} of {query.choices} choices: {effect}.", file=sys.stderr)
            self._sends_all_choices = False

    def _check_length(self, response: Any) -> None:
        """Report a server that takes another limit of tokens than it was sent."""
        used, number, limit = tokens_of(response)["completion_tokens"], len(response.choices), self.decoding.max_new_tokens
        if not self._keeps_limit or not isinstance(used, int):
            return
        is_short = all(is_cut_by_length(finish_reason_of(choice)) for choice in response.choices)
        if used > 2 * limit * number or (is_short and 0 < used < limit * number / 2):
            got = f"replies of {used / number:,.0f} tokens" + (" that were cut off" if is_short else "")
            fix = f"It may know another field ({MAX_COMPLETION_TOKENS}), or its context is full"
            print(f"warning: {self.client.url}: expected at most {limit:,} tokens, got {got}. {fix}.", file=sys.stderr)
            self._keeps_limit = False


def names_in(fields: Mapping[str, Any]) -> list[str]:
    """The names of fields, and the keys of those that are objects.

    >>> names_in({"top_k": 0, "chat_template_kwargs": {"thinking": True}})
    ['top_k', 'chat_template_kwargs', 'thinking']
    """
    return [name for field, value in fields.items() for name in (field, *(value if isinstance(value, dict) else ()))]


def tokens_of(response: Any) -> dict[str, int | None]:
    """The numbers of tokens of prompt and reply, as the server counted them."""
    usage = getattr(response, "usage", None)
    return {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")}


class CompletionForm:
    """Prompts as token ids, to the completions endpoint."""

    endpoint = "completions"

    def __init__(self, builder: PromptBuilder) -> None:
        self.tokenizer = tokenizer = builder.tokenizer
        self._end_ids = end_token_ids(tokenizer, None, builder.family)

    @cached_property
    def _words(self) -> dict[int, str]:
        """Token id → yes or no: only risk tasks need a vocabulary that tells them apart."""
        yes, no = yes_no_tokens(self.tokenizer)
        return dict.fromkeys(yes, YES) | dict.fromkeys(no, NO)

    def body(self, query: Query, max_new_tokens: int, score: bool) -> dict[str, Any]:
        """The arguments of a request; `extra_body` has those of vLLM and SGLang, which other servers ignore."""
        extra: dict[str, Any] = {"skip_special_tokens": False}  # keeps marks such as the channels of gpt-oss
        if self._end_ids:
            extra["stop_token_ids"] = self._end_ids
        ids = query.ids or self.tokenizer(query.prompt, add_special_tokens=False)["input_ids"]
        body: dict[str, Any] = {"prompt": list(ids), MAX_TOKENS: max_new_tokens, "extra_body": extra}
        if score:
            body["logprobs"] = TOP_LOGPROBS
            extra |= {"logprob_token_ids": list(self._words), "return_tokens_as_token_ids": True}
        return body

    def read(self, choice: CompletionChoice) -> tuple[str, str]:
        """(text, finish reason) of a choice."""
        return choice.text, finish_reason_of(choice) or "stop"

    def first_position(self, choice: CompletionChoice) -> Iterator[tuple[str, float]]:
        """Yield (token text, log-probability) of the first position."""
        positions = choice.logprobs.top_logprobs if choice.logprobs else None
        for token, logprob in (positions[0] or {}).items() if positions else ():
            by_id = token.startswith(TOKEN_ID)
            yield self._words.get(int(token.removeprefix(TOKEN_ID)), "") if by_id else token, logprob


class ChatForm:
    """Messages, to the chat endpoint; a prompt is their JSON, or that of an object with fields that switch thinking, too."""

    endpoint = "chat"

    def body(self, query: Query, max_new_tokens: int, score: bool) -> dict[str, Any]:
        content = json.loads(query.prompt)
        switches = content if isinstance(content, dict) else {"messages": content}
        body: dict[str, Any] = {"messages": switches.pop("messages"), MAX_TOKENS: max_new_tokens}
        body |= {"extra_body": switches} if switches else {}
        return body | {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if score else body

    def read(self, choice: Choice) -> tuple[str, str]:
        """(text, finish reason) of a choice.

        Reasoning that the server separates from the answer becomes a think block again, open if it was cut off there.
        """
        finish_reason = finish_reason_of(choice)
        text, reasoning = content_of(choice), reasoning_of(choice)
        if reasoning:
            cut_off = not is_whole(finish_reason) and not text
            text = f"<think>\n{reasoning}" + ("" if cut_off else f"\n</think>\n\n{text}")
        return text, finish_reason or "stop"

    def first_position(self, choice: Choice) -> Iterator[tuple[str, float]]:
        positions = choice.logprobs.content if choice.logprobs else None
        for entry in positions[0].top_logprobs if positions else ():
            yield entry.token, entry.logprob
