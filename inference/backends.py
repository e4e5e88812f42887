"""Backends, which turn prompts into replies, behind one interface.

A new backend is one class with `answer` (see `Backend`) and one entry in `BACKENDS`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from inference.prompts import PromptBuilder
from inference.settings import DecodingSettings, InferenceSettings
from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Query:
    """A rendered prompt to reply to, or (`score`) to compute p(yes) after. For the chat endpoint it is messages as JSON."""

    prompt: str
    score: bool = False


@dataclass(frozen=True)
class Generation:
    """A reply.

    Attributes:
        text: the raw text; "" if there is none.
        finish_reason: why it ended: `stop`, `length` if it was cut off, `scored` if only p(yes) was computed.
        p_yes: P(yes) / (P(yes) + P(no)), or None.
        error: why there is no reply, or None.
        response: the response of the server as it came (all choices, usage); None from a model in this process.
    """

    text: str
    finish_reason: str
    p_yes: float | None = None
    error: str | None = None
    response: Any = None

    @classmethod
    def scored(cls, p_yes: float) -> Generation:
        """The reply to a query that asks for p(yes) only."""
        return cls("yes" if p_yes >= 0.5 else "no", "scored", p_yes)

    @classmethod
    def failed(cls, error: str) -> Generation:
        """A reply that did not come."""
        return cls("", "error", error=error)


class Backend(Protocol):
    """Answers queries."""

    builder: PromptBuilder
    """Renders the prompts that this backend reads."""
    continues: bool
    """Whether a prompt may end in the middle of a reply; the chat endpoint's may not."""

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """Yield (position of the query, reply) as replies finish, in any order.

        Queries are drawn as they are needed. A query that failed has a reply with `error`.
        """


class LocalBackend:
    """A model in this process, which answers a window of queries at once.

    Attributes:
        window: queries that are answered at once: enough to batch, few enough that replies reach the disk often.
        decoding: how replies are decoded.
    """

    continues = True
    window: int
    decoding: DecodingSettings

    def generate(self, prompts: Sequence[str], decoding: DecodingSettings) -> Iterator[tuple[int, Generation]]:
        """Yield (position of the prompt, reply)."""
        raise NotImplementedError

    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """Yield (position of the prompt, p(yes) right after it), each from one forward pass."""
        raise NotImplementedError

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """See `Backend.answer`."""
        numbered = enumerate(queries)
        while window := list(islice(numbered, self.window)):
            scored = [(number, query.prompt) for number, query in window if query.score]
            for position, reply in self.score_yes_no([prompt for _, prompt in scored]):
                yield scored[position][0], reply
            generated = [(number, query.prompt) for number, query in window if not query.score]
            for position, reply in self.generate([prompt for _, prompt in generated], self.decoding):
                yield generated[position][0], reply


BACKENDS = {
    "transformers": "inference.transformers_backend:TransformersBackend",
    "vllm": "inference.vllm_backend:VLLMBackend",
    "openai": "inference.openai_backend:OpenAIBackend",
}
"""Module and class of each backend, imported when it is chosen; the constructor takes `InferenceSettings`."""


def load_backend(settings: InferenceSettings) -> Any:
    """Make the backend that the settings choose.

    Raises:
        UserError: it is not installed, or the model cannot be loaded.
    """
    module, _, name = BACKENDS[settings.backend].partition(":")
    return getattr(importlib.import_module(module), name)(settings)


def load_tokenizer(model: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise _unusable(model, "a model folder or Hub id with a tokenizer", error) from None


@contextlib.contextmanager
def reading_model(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a missing, broken or unsupported model into one line.

    Args:
        name: folder or Hub id of the model.
        errors: further exceptions that can only come from the model here.

    Raises:
        UserError: the model cannot be loaded.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ImportError, SafetensorError, *errors) as error:
        raise _unusable(name, "a model that can be loaded here", error) from None


def _unusable(name: str, expected: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:200].rstrip(".")
    return UserError(f"{name}: expected {expected}, got: {reason}. Check --model_name_or_path.")


def yes_no_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids that spell yes, and those that spell no, whatever their case and white space.

    If the vocabulary has no such token, the first token of the word counts.

    Raises:
        UserError: yes and no begin with the same token.
    """
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    ids = {word: [i for i, text in enumerate(texts) if text.strip().lower() == word] for word in ("yes", "no")}
    for word in ids:
        if not ids[word]:
            ids[word] = [tokenizer(word, add_special_tokens=False)["input_ids"][0]]
    if set(ids["yes"]) & set(ids["no"]):
        raise UserError(f"{tokenizer.name_or_path}: expected different tokens for yes and no, got the same first token.")
    return ids["yes"], ids["no"]


def end_token_ids(tokenizer: PreTrainedTokenizerBase, of_model: int | list[int] | None) -> list[int]:
    """Token ids that end a reply: those of the model's generation settings, and the tokenizer's end-of-sequence token."""
    ids = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int]) -> Generation:
    """The reply of generated token ids: the text before the first end token, special tokens included."""
    end = next((i for i, token in enumerate(ids) if token in end_ids), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=False)
    return Generation(text, "length" if end is None else "stop")


def p_yes(logprobs_yes: Sequence[float], logprobs_no: Sequence[float]) -> float:
    """P(yes) / (P(yes) + P(no)) from the log-probabilities of the tokens that spell each.

    >>> from math import log
    >>> round(p_yes([log(0.2), log(0.1)], [log(0.1)]), 6)
    0.75
    """
    from math import exp, fsum

    top = max([*logprobs_yes, *logprobs_no])
    yes, no = (fsum(exp(value - top) for value in values) for values in (logprobs_yes, logprobs_no))
    return yes / (yes + no)
