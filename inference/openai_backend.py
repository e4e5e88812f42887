"""The backend of OpenAI-compatible servers: vLLM serve, SGLang and others by rendered prompts, hosted models by chat messages.

With the model's tokenizer at hand (the default), prompts are rendered here and sent as token ids to the completions endpoint,
so that a server reads exactly what the other backends read. With `--chat`, messages go to the chat endpoint, for models
whose tokenizer or completions endpoint is not to be had.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import exp
from typing import TYPE_CHECKING, Any

from inference.backends import Generation, load_tokenizer, yes_no_tokens
from inference.client import Reply, Request, make_client
from inference.prompts import PromptBuilder, messages
from inference.settings import empty_think
from mimiciv_dataset.tasks import NO, YES
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    from openai.types import CompletionChoice
    from openai.types.chat.chat_completion import Choice
    from transformers import PreTrainedTokenizerBase

TOP = 20
"""Log-probabilities a position, where a server gives only the likeliest: the most that APIs allow."""

TOKEN_ID = "token_id:"
BYTES_A_TOKEN = 3.0
"""For length limits where no tokenizer is at hand: below what tokenizers need on records with many numbers."""


class OpenAIBackend:
    """A model behind `--url`.

    Args:
        args: `url`, `model_name_or_path` (as the server calls it), `tokenizer` (None: the model's), `chat`, `max_new_tokens`,
            `num_worker`, `max_rpm`, `max_tpm`, `timeout`, `allow_remote`, `seed`, `empty_think`.

    Raises:
        UserError: the host is remote and not allowed, or the tokenizer cannot be loaded.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.client = make_client(args.url, args)
        self.window = 16 * args.num_worker  # the server runs dry only at a window's end
        self.failures: Counter[str] = Counter()
        self._model, self._seed, self._max_new_tokens = args.model_name_or_path, args.seed, args.max_new_tokens
        self.continues = not args.chat
        self._gives_log_probs = True
        if args.lora_path:
            raise UserError("--lora_path: wanted no adapter with --url, found one; load it into the server, and give its name "
                            "as --model_name_or_path")  # fmt: skip
        if args.chat:
            self.builder: PromptBuilder = ChatBuilder(args.tokenizer)
            self._form: ChatForm | CompletionForm = ChatForm()
        else:
            tokenizer = load_tokenizer(args.tokenizer or args.model_name_or_path)
            self.builder = PromptBuilder(tokenizer, empty_think(args))
            self._form = CompletionForm(tokenizer)

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to rendered prompts; temperature 0 is greedy."""
        for index, reply in self._send(prompts, max_new_tokens, temperature, scored=False):
            if reply.response is None:
                self.failures[reply.error] += 1
            else:
                yield index, self._form.read(reply.response.choices[0])

    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from the log-probabilities of the first token.

        vLLM gives those of exactly the tokens that spell yes and no; other servers the 20 likeliest, and a word that is not
        among them counts as the least likely of them. Where neither word is, or a server gives no log-probabilities, the
        whole reply is asked for and its words decide: p(yes) is None then.
        """
        silent: list[int] = []
        for index, reply in self._send(prompts, 1, 0.0, scored=True) if self._gives_log_probs else ():
            if reply.response is not None:
                p_yes = p_yes_of_top(self._form.first_position(reply.response.choices[0]))
                if p_yes is None:
                    silent.append(index)
                else:
                    yield index, Generation.scored(p_yes)
            elif "logprobs" in reply.error:  # as hosted reasoning models answer
                self._gives_log_probs = False
                silent.append(index)
            else:
                self.failures[reply.error] += 1
        rest = silent if self._gives_log_probs or silent else list(range(len(prompts)))
        for position, generation in self.generate([prompts[index] for index in rest], self._max_new_tokens):
            yield rest[position], generation

    def _send(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float, scored: bool
    ) -> Iterator[tuple[int, Reply]]:
        def requests() -> Iterator[Request]:
            for prompt in prompts:
                body = self._form.body(prompt, max_new_tokens, scored) | {"model": self._model, "temperature": temperature}
                if temperature > 0:
                    body["seed"] = self._seed
                tokens = self.builder.tokens(prompt) + max_new_tokens if self.client.max_tpm else 0
                yield Request(self._form.endpoint, body, tokens)

        return self.client.send(requests())


class CompletionForm:
    """Prompts as token ids, to the completions endpoint."""

    endpoint = "completions"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        yes, no = yes_no_tokens(tokenizer)
        self._words = dict.fromkeys(yes, YES) | dict.fromkeys(no, NO)

    def body(self, prompt: str, max_new_tokens: int, scored: bool) -> dict[str, Any]:
        """The request's arguments; `extra_body` is what vLLM and SGLang know beyond the API, and others ignore."""
        extra: dict[str, Any] = {"skip_special_tokens": False}  # keeps marks such as gpt-oss' channels
        if self.tokenizer.eos_token_id is not None:
            extra["stop_token_ids"] = [self.tokenizer.eos_token_id]
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        body: dict[str, Any] = {"prompt": ids, "max_tokens": max_new_tokens, "extra_body": extra}
        if scored:
            body["logprobs"] = TOP
            extra |= {"logprob_token_ids": list(self._words), "return_tokens_as_token_ids": True}
        return body

    def read(self, choice: CompletionChoice) -> Generation:
        return Generation(choice.text, choice.finish_reason or "stop")

    def first_position(self, choice: CompletionChoice) -> Iterator[tuple[str, float]]:
        """(token text, log-probability) of the first position."""
        tables = choice.logprobs.top_logprobs if choice.logprobs else None
        for token, log_prob in (tables[0] or {}).items() if tables else ():
            by_id = token.startswith(TOKEN_ID)
            yield self._words.get(int(token.removeprefix(TOKEN_ID)), "") if by_id else token, log_prob


class ChatForm:
    """Messages, to the chat endpoint; a prompt is their JSON (`ChatBuilder`)."""

    endpoint = "chat"

    def body(self, prompt: str, max_new_tokens: int, scored: bool) -> dict[str, Any]:
        """The request's arguments."""
        body: dict[str, Any] = {"messages": json.loads(prompt), "max_completion_tokens": max_new_tokens}
        return body | {"logprobs": True, "top_logprobs": TOP} if scored else body

    def read(self, choice: Choice) -> Generation:
        """The reply; reasoning that the server parts from it comes back as a think block, open if it was cut off there."""
        text = choice.message.content or ""
        reasoning = getattr(choice.message, "reasoning", None) or getattr(choice.message, "reasoning_content", None)
        if reasoning:
            cut_off = choice.finish_reason == "length" and not text
            text = f"<think>\n{reasoning}" + ("" if cut_off else f"\n</think>\n\n{text}")
        return Generation(text, choice.finish_reason or "stop")

    def first_position(self, choice: Choice) -> Iterator[tuple[str, float]]:
        """(token text, log-probability) of the first position."""
        positions = choice.logprobs.content if choice.logprobs else None
        for one in positions[0].top_logprobs if positions else ():
            yield one.token, one.logprob


class ChatBuilder(PromptBuilder):
    """Prompts for the chat endpoint: the messages as JSON, which is what is sent and what the prompt's hash is of.

    The server's own template follows; it is not known here. Lengths are counted with `tokenizer` if one is given, else
    estimated from bytes.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self.tokenizer = load_tokenizer(tokenizer) if tokenizer else None
        self._recent = {}

    @property
    def template_sha256(self) -> str:
        return sha256("chat endpoint")

    def prompt(self, record: str, instruction: str, mode: str) -> str:
        return json.dumps(messages(record, instruction, mode), ensure_ascii=False)

    def tokens(self, text: str) -> int:
        if self.tokenizer is not None:
            return super().tokens(text)
        return int(len(text.encode("utf-8")) / BYTES_A_TOKEN)

    def _costs(self, text: str, pieces: list[str]) -> list[float]:
        return [self.tokens(piece) for piece in pieces]


def p_yes_of_top(table: Iterable[tuple[str, float]]) -> float | None:
    """p(yes) from (token text, log-probability) of a position; None if neither word is in the table.

    A word that is missing has at most the probability of the least likely entry, and counts as having it.

    >>> from math import log
    >>> round(p_yes_of_top([("Yes", log(0.3)), (" yes", log(0.3)), ("no", log(0.2)), ("The", log(0.1))]), 6)
    0.75
    >>> round(p_yes_of_top([("no", log(0.9)), ("The", log(0.1))]), 6), p_yes_of_top([("The", 0.0)])
    (0.1, None)
    """
    sums, least = {YES: 0.0, NO: 0.0}, 1.0
    for text, log_prob in table:
        least = min(least, exp(log_prob))
        word = text.strip().lower()
        if word in sums:
            sums[word] += exp(log_prob)
    if not any(sums.values()):
        return None
    yes, no = (value or least for value in sums.values())
    return yes / (yes + no)
