"""Backends: what turns prompts into replies, behind one interface.

A new backend is one class with `generate` and `score_yes_no`, and one entry in `BACKENDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from inference.prompts import PromptBuilder
from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """A reply: its raw text; why it ended (`stop`, `length` when cut off, `scored` when only p(yes) was asked); p(yes)."""

    text: str
    finish_reason: str
    p_yes: float | None = None

    @classmethod
    def scored(cls, p_yes: float) -> Generation:
        """What p(yes) alone says."""
        return cls("yes" if p_yes >= 0.5 else "no", "scored", p_yes)


class Backend(Protocol):
    """Generates many, and scores yes or no many.

    Both yield (position of the prompt, reply) as replies finish, in any order, so that what is done can be kept. A prompt
    that a server would not answer is left out; `failures` says why.

    Attributes:
        builder: renders the prompts this backend reads.
        window: how many prompts to hand over at once.
        continues: whether a prompt may end in the middle of the reply; a chat endpoint's cannot.
        failures: reason → how many prompts got no reply.
    """

    builder: PromptBuilder
    window: int
    continues: bool
    failures: Counter[str]

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to rendered prompts."""

    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) = P(yes) / (P(yes) + P(no)) at the first position after each prompt, in one forward pass."""


BACKENDS = {
    "transformers": "inference.transformers_backend:TransformersBackend",
    "vllm": "inference.vllm_backend:VLLMBackend",
    "openai": "inference.openai_backend:OpenAIBackend",
}
"""Where each backend is; imported when it is chosen."""


def load_backend(name: str, args: argparse.Namespace) -> Any:
    """Make the backend `name` from test.py's arguments.

    Raises:
        UserError: it is not installed, or the model cannot be loaded.
    """
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(args)


def load_tokenizer(model: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{model}: wanted a model folder or Hub id with a tokenizer, found: {reason}") from None


@contextlib.contextmanager
def reading_model(name: str, *more: type[Exception]) -> Iterator[None]:
    """What the libraries raise where a model is missing, broken or needs another package, said in one line.

    Args:
        name: the model's folder or Hub id.
        more: other errors that can only mean the model here.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ImportError, SafetensorError, *more) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{name}: wanted a model that can be loaded here, found: {reason}") from None


def yes_no_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids that spell yes, and no: every token that is the word but for case and white space around it.

    A vocabulary without such a token falls back on the first token of the word, provided the two differ.

    Raises:
        UserError: yes and no begin with the same token.
    """
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    found = {word: [i for i, text in enumerate(texts) if text.strip().lower() == word] for word in ("yes", "no")}
    for word, ids in found.items():
        if not ids:
            found[word] = [tokenizer(word, add_special_tokens=False)["input_ids"][0]]
    if set(found["yes"]) & set(found["no"]):
        raise UserError(f"{tokenizer.name_or_path}: wanted different tokens for yes and no, found the same first token")
    return found["yes"], found["no"]


def p_yes(log_probs_yes: Sequence[float], log_probs_no: Sequence[float]) -> float:
    """P(yes) / (P(yes) + P(no)) from log-probabilities of the tokens that spell each.

    >>> from math import log
    >>> round(p_yes([log(0.2), log(0.1)], [log(0.1)]), 6)
    0.75
    """
    from math import exp, fsum

    top = max([*log_probs_yes, *log_probs_no])
    yes, no = (fsum(exp(value - top) for value in values) for values in (log_probs_yes, log_probs_no))
    return yes / (yes + no)
