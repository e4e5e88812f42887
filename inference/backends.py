"""Backends turn prompts into replies, behind one interface: Transformers, vLLM, and servers with the OpenAI API.

A new backend, for a library or for another kind of server, is a module in `inference/` with one class as `Backend` says,
and one entry in `BACKENDS`; `InferenceSettings.backend` chooses the entry from the flags.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol

from inference.p_yes import not_a_number
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
    sample: int = 0  # which of several replies to the prompt, numbered from 0; sampling is seeded by it


@dataclass(frozen=True)
class Generation:
    """A reply."""

    text: str  # as generated; "yes" or "no" if only p(yes) was computed
    finish_reason: str  # `stop`, `length` (cut off), `scored` (only p(yes) was computed), `error`, or the server's own
    p_yes: float | None = None
    yes_no_mass: float | None = None  # P(yes) + P(no) where p_yes was computed
    error: str | None = None  # why there is no reply
    response: Any = None  # of the server as it came (all choices, usage); None from a model in this process
    prompt_tokens: int | None = None  # None: unknown, as a server does not report it
    completion_tokens: int | None = None  # reasoning included

    @classmethod
    def scored(cls, p_yes: float, yes_no_mass: float) -> Generation:
        """The reply to a query that asks for p(yes) only.

        Raises:
            UserError: the model computed no numbers.
        """
        if isnan(p_yes) or isnan(yes_no_mass):
            raise not_a_number()
        return cls("yes" if p_yes >= 0.5 else "no", "scored", p_yes, yes_no_mass)


class Backend(Protocol):
    """Answers queries."""

    builder: PromptBuilder  # renders the prompts that this backend reads
    continues: bool  # whether a prompt may end in the middle of a reply; the chat endpoint's may not

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """Yield (position of the query, reply) as replies finish, in any order.

        Queries are drawn as they are needed. A query that failed has a reply with `error`.
        """


class LocalBackend:
    """A model in this process, which answers a window of queries at once."""

    continues = True
    window: int  # queries answered at once: enough to batch, few enough that replies reach the disk often
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
            for score in (True, False):
                numbers = [number for number, query in window if query.score == score]
                prompts = [query.prompt for _, query in window if query.score == score]
                answers = self.score_yes_no(prompts) if score else self.generate(prompts, self.decoding)
                yield from ((numbers[position], reply) for position, reply in answers)


# Module and class of each backend, imported when it is chosen; the constructor takes `InferenceSettings`.
BACKENDS = {
    "transformers": "inference.transformers_backend:TransformersBackend",
    "vllm": "inference.vllm_backend:VLLMBackend",
    "openai": "inference.openai_backend:OpenAIBackend",
}


def load_backend(settings: InferenceSettings) -> Backend:
    """Make the backend that the settings choose."""
    module, _, name = BACKENDS[settings.backend].partition(":")
    return getattr(importlib.import_module(module), name)(settings)


def load_tokenizer(model: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise _unusable(model, "a model folder or Hub id with a tokenizer", error) from None


@contextlib.contextmanager
def reading_model(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a missing, broken or unsupported model into a `UserError`; `errors` are further types of them."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ImportError, SafetensorError, *errors) as error:
        raise _unusable(name, "a model that can be loaded here", error) from None


def _unusable(name: str, expected: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return UserError(f"{name}: expected {expected}, got: {reason}. Check --model_name_or_path.")


def end_token_ids(tokenizer: PreTrainedTokenizerBase, of_model: int | list[int] | None) -> list[int]:
    """Token ids that end a reply: those of the model's generation settings, and the tokenizer's end-of-sequence token."""
    ids = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int]) -> Generation:
    """The reply of generated token ids: the text before the first end token, special tokens included."""
    end = next((i for i, token in enumerate(ids) if token in end_ids), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=False)
    return Generation(text, "length" if end is None else "stop")
