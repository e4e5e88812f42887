"""The backend of OpenAI-compatible servers: vLLM serve, SGLang and others by rendered prompts, hosted models by chat messages.

With the tokenizer of the model (the default), prompts are rendered here and sent as token ids to the completions endpoint, so
that a server reads exactly what the other backends read. With `--chat`, messages go to the chat endpoint, for models whose
tokenizer or completions endpoint is unavailable.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from inference.backends import Generation, Query, load_tokenizer
from inference.client import Client, Request
from inference.p_yes import p_yes_from_top_tokens, yes_no_tokens
from inference.prompts import ChatPromptBuilder, PromptBuilder
from inference.settings import InferenceSettings
from mimiciv_dataset.tasks import NO, YES

if TYPE_CHECKING:
    from openai.types import CompletionChoice
    from openai.types.chat.chat_completion import Choice
    from transformers import PreTrainedTokenizerBase

TOP_LOGPROBS = 20  # most likely tokens of a position that servers are asked for: the maximum that APIs allow
MAX_REFUSALS = 3  # of requests for log-probabilities before a server is taken for one that gives none
TOKEN_ID = "token_id:"


class OpenAIBackend:
    """A model behind `--url`."""

    def __init__(self, settings: InferenceSettings) -> None:
        model, server = settings.model, settings.server
        self.client = Client(server)
        self.decoding = settings.decoding
        self.continues = not server.chat
        self._model = model.model_name_or_path
        self._num_scored, self._refusals = 0, 0  # requests for log-probabilities that were answered, or refused
        if server.chat:
            tokenizer = load_tokenizer(server.tokenizer) if server.tokenizer else None
            self.builder: PromptBuilder = ChatPromptBuilder(tokenizer)
            self._form: ChatForm | CompletionForm = ChatForm()
        else:
            tokenizer = load_tokenizer(server.tokenizer or model.model_name_or_path)
            self.builder = PromptBuilder(tokenizer, settings.prompt.empty_think_block)
            self._form = CompletionForm(tokenizer)

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """See `Backend.answer`.

        p(yes) comes from the log-probabilities of the first token. vLLM gives those of exactly the tokens that spell yes and
        no; other servers the 20 most likely, and a word that is not among them is assigned the least likely of them. Where
        neither word is among them, or a server gives no log-probabilities, the whole reply is generated, and its text
        decides: `p_yes` is None then.
        """
        numbered = enumerate(queries)
        unscored: deque[tuple[int, str]] = deque()  # prompts to generate a reply to, as they could not be scored
        sent: dict[int, tuple[int, str, bool]] = {}

        def requests() -> Iterator[Request]:
            for position in range(1 << 62):
                if unscored:
                    number, prompt = unscored.popleft()
                    sent[position] = number, prompt, False
                    yield self._request(prompt, self.decoding.max_new_tokens, 0.0, score=False)
                    continue
                number, query = next(numbered, (None, None))
                if query is None:
                    return
                # A server that has never given any, and refused them several times, is not asked for them again.
                score = query.score and (self._num_scored > 0 or self._refusals < MAX_REFUSALS)
                sent[position] = number, query.prompt, score
                temperature = 0.0 if query.score else self.decoding.temperature
                yield self._request(query.prompt, 1 if score else self.decoding.max_new_tokens, temperature, score)

        while True:
            for position, reply in self.client.send(requests()):
                number, prompt, score = sent.pop(position)
                if reply.response is None and score and "logprobs" in reply.error:  # as hosted reasoning models answer
                    self._refusals += 1
                    unscored.append((number, prompt))
                elif reply.response is None:
                    yield number, Generation("", "error", error=reply.error)
                elif score:
                    self._num_scored += 1
                    scored = p_yes_from_top_tokens(self._form.first_position(reply.response.choices[0]))
                    if scored is None:
                        unscored.append((number, prompt))
                    else:
                        yield number, Generation.scored(*scored)
                else:
                    text, reason = self._form.read(reply.response.choices[0])
                    yield number, Generation(text, reason, response=reply.response)
            if not unscored:
                return

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _request(self, prompt: str, max_new_tokens: int, temperature: float, score: bool) -> Request:
        body = self._form.body(prompt, max_new_tokens, score) | {"model": self._model, "temperature": temperature}
        if temperature > 0 and self.decoding.seed is not None:
            body["seed"] = self.decoding.seed
        if self.decoding.n is not None:
            body["n"] = self.decoding.n
        tokens = self.builder.tokens(prompt) + max_new_tokens * (self.decoding.n or 1) if self.client.settings.max_tpm else 0
        return Request(self._form.endpoint, body, tokens, prompt, refusable=score)


class CompletionForm:
    """Prompts as token ids, to the completions endpoint."""

    endpoint = "completions"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        yes, no = yes_no_tokens(tokenizer)
        self._words = dict.fromkeys(yes, YES) | dict.fromkeys(no, NO)

    def body(self, prompt: str, max_new_tokens: int, score: bool) -> dict[str, Any]:
        """The arguments of a request; `extra_body` has those of vLLM and SGLang, which other servers ignore."""
        extra: dict[str, Any] = {"skip_special_tokens": False}  # keeps marks such as the channels of gpt-oss
        if self.tokenizer.eos_token_id is not None:
            extra["stop_token_ids"] = [self.tokenizer.eos_token_id]
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        body: dict[str, Any] = {"prompt": ids, "max_tokens": max_new_tokens, "extra_body": extra}
        if score:
            body["logprobs"] = TOP_LOGPROBS
            extra |= {"logprob_token_ids": list(self._words), "return_tokens_as_token_ids": True}
        return body

    def read(self, choice: CompletionChoice) -> tuple[str, str]:
        """(text, finish reason) of a choice."""
        return choice.text, choice.finish_reason or "stop"

    def first_position(self, choice: CompletionChoice) -> Iterator[tuple[str, float]]:
        """Yield (token text, log-probability) of the first position."""
        positions = choice.logprobs.top_logprobs if choice.logprobs else None
        for token, logprob in (positions[0] or {}).items() if positions else ():
            by_id = token.startswith(TOKEN_ID)
            yield self._words.get(int(token.removeprefix(TOKEN_ID)), "") if by_id else token, logprob


class ChatForm:
    """Messages, to the chat endpoint; a prompt is their JSON."""

    endpoint = "chat"

    def body(self, prompt: str, max_new_tokens: int, score: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": json.loads(prompt), "max_completion_tokens": max_new_tokens}
        return body | {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if score else body

    def read(self, choice: Choice) -> tuple[str, str]:
        """(text, finish reason) of a choice.

        Reasoning that the server separates from the answer becomes a think block again, open if it was cut off there.
        """
        message, finish_reason = getattr(choice, "message", None), getattr(choice, "finish_reason", None)
        text = message_text(choice)
        reasoning = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
        if reasoning:
            cut_off = finish_reason == "length" and not text
            text = f"<think>\n{reasoning}" + ("" if cut_off else f"\n</think>\n\n{text}")
        return text, finish_reason or "stop"

    def first_position(self, choice: Choice) -> Iterator[tuple[str, float]]:
        positions = choice.logprobs.content if choice.logprobs else None
        for entry in positions[0].top_logprobs if positions else ():
            yield entry.token, entry.logprob


def message_text(choice: Any) -> str:
    """The text of a choice of the chat endpoint; "" if the choice does not have the form of the API."""
    text = getattr(getattr(choice, "message", None), "content", None)
    return text if isinstance(text, str) else ""
