"""Backends turn prompts into replies, behind one interface: Transformers, vLLM, and servers with the OpenAI API.

A new backend, for a library or for another kind of server, is a module in `inference/` with one class as `Backend` says,
and one entry in `BACKENDS`; `InferenceSettings.backend` chooses the entry from the flags.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol

from inference.families import UNKNOWN, Family, Switch, family_of
from inference.p_yes import not_a_number
from inference.prompts import ChatPromptBuilder, PromptBuilder
from inference.settings import InferenceSettings
from pipeline.errors import UserError
from pipeline.files import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOO_LONG = "does not fit"  # the error of a prompt that is too long for the model even after truncation


@dataclass(frozen=True)
class Query:
    """A rendered prompt to reply to, or (`score`) to compute p(yes) after. For the chat endpoint it is messages as JSON."""

    prompt: str
    score: bool = False
    sample: int = 0  # which of several replies to the prompt, numbered from 0; sampling is seeded by it
    ids: Sequence[int] | None = None  # token ids of the prompt, if the sender knows them
    choices: int | None = None  # choices of a server's reply; None: not asked for, which gives one


@dataclass(frozen=True)
class Generation:
    """A reply."""

    text: str  # as generated; "yes" or "no" if only p(yes) was computed
    finish_reason: str  # `stop`, `length` (cut off), `scored` (only p(yes) was computed), `error`, or the server's own
    p_yes: float | None = None
    yes_no_mass: float | None = None  # P(yes) + P(no) where p_yes was computed
    error: str | None = None  # why there is no reply
    refused: bool = False  # the error is about this prompt, and would come again: a content filter, or moderation
    response: Any = None  # of the server as it came (all choices, usage); None from a model in this process
    prompt_tokens: int | None = None  # None: unknown, as a server does not report it
    completion_tokens: int | None = None  # reasoning included

    @classmethod
    def scored(cls, p_yes: float, yes_no_mass: float, prompt_tokens: int | None = None) -> Generation:
        """The reply to a query that asks for p(yes) only.

        Raises:
            UserError: the model computed no numbers.
        """
        if isnan(p_yes) or isnan(yes_no_mass):
            raise not_a_number()
        text = "yes" if p_yes >= 0.5 else "no"
        return cls(text, "scored", p_yes, yes_no_mass, prompt_tokens=prompt_tokens, completion_tokens=0)


class Backend(Protocol):
    """Answers queries."""

    builder: PromptBuilder  # renders the prompts that this backend reads
    continues: bool  # whether a prompt may end in the middle of a reply; the chat endpoint's may not

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """Yield (position of the query, reply) as replies finish, in any order.

        Queries are drawn as they are needed. A query that failed has a reply with `error`.
        """


# What sampling settings beside the temperature are, whatever a model's own are. With --model_sampling the model's own hold.
NEUTRAL_SAMPLING = {"repetition_penalty": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0}

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


def load_builder(settings: InferenceSettings, tokenizer: PreTrainedTokenizerBase | None = None) -> PromptBuilder:
    """Make the builder of the prompts that the backend of these settings reads; `tokenizer` is one that is loaded already."""
    model = settings.model
    if tokenizer is None and settings.tokenizer is not None:
        tokenizer = load_tokenizer(settings.tokenizer, trust_remote_code=model.trust_remote_code)
    if model.lora_path and settings.tokenizer == model.lora_path and not tokenizer.chat_template:
        base = load_tokenizer(model.model_name_or_path, trust_remote_code=model.trust_remote_code)
        tokenizer.chat_template = base.chat_template
    models = [name for name in (model.lora_path, settings.tokenizer, model.model_name_or_path) if name]
    family = family_of(tokenizer, models, model.family)
    if settings.server.chat:
        return ChatPromptBuilder(tokenizer, family, chat_switches(settings, family))
    return PromptBuilder(tokenizer, family, settings.prompt.empty_think_block)


def chat_switches(settings: InferenceSettings, family: Family) -> list[Switch]:
    """What turns thinking on and off in requests to a chat endpoint; servers ignore variables of other templates.

    Public hosts may refuse fields that are not in their API, so they get the switch of `--family` only.
    """
    from inference.servers import check_host

    server = settings.server
    is_local = all(check_host(url, server.allow_remote) for url in server.urls)
    if not is_local and settings.model.family is None:
        return []
    if family.name == UNKNOWN and family.switch is None:
        return [Switch("enable_thinking", True, False), Switch("thinking", True, False)]
    return [family.switch] if family.switch else []


def prompt_warnings(settings: InferenceSettings, builder: PromptBuilder) -> list[str]:
    """What a user should know of how thinking is switched, and of a model whose family is not known."""
    family, server, model = builder.family, settings.server, settings.model.model_name_or_path
    if isinstance(builder, ChatPromptBuilder):
        if any(switch.turns_off for switch in builder.switches):
            return []
        if family.always_reasons:
            return [
                f"{model}: its family ({family.name}) always reasons, and requests to the chat endpoint cannot change this."
            ]
        if not builder.switches and settings.model.family is None and (family.switch or family.name == UNKNOWN):
            why = "a public host may refuse the field that turns it on and off"
            return [f"{', '.join(server.urls)}: thinking is not switched, because {why}. Pass --family to send it."]
    elif family.name == UNKNOWN and not (family.switch or family.reasoning or settings.prompt.empty_think is not None):
        taken = "its family is unknown, and its template has neither a thinking switch nor marks of reasoning"
        return [f"{model}: {taken}, so nothing is appended to prompts. Pass --family if it reasons in another way."]
    return []


def load_tokenizer(model: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id; code that comes with it runs only with `trust_remote_code=True`."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, **{"trust_remote_code": False} | options)
    except (OSError, ValueError, ImportError) as error:
        raise unusable_model(model, "a model folder or Hub id with a tokenizer", error) from None


@contextlib.contextmanager
def reading_model(name: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a missing, broken or unsupported model into a `UserError`; `errors` are further types of them."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ImportError, SafetensorError, *errors) as error:
        raise unusable_model(name, "a model that can be loaded here", error) from None


def unusable_model(name: str, expected: str, error: Exception) -> UserError:
    """The error of a model that a library refused."""
    if "trust_remote_code" in str(error):
        got = "one that comes with code of its own. Read the code, then add --trust_remote_code"
        return UserError(f"{name}: expected a model that needs no code but that of the installed packages, got {got}.")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return UserError(f"{name}: expected {expected}, got: {reason}. Check --model_name_or_path.")


def sampling_seed(seed: int | None, prompt: str, sample: int = 0) -> int:
    """The seed with which reply number `sample` to a prompt is sampled: from 0 to 2^60 - 1, the same on every machine."""
    return int(sha256(" ".join(map(str, (seed or 0, *([sample] if sample else []), prompt))))[:15], 16)


def end_token_ids(tokenizer: PreTrainedTokenizerBase, of_model: int | list[int] | None, family: Family) -> list[int]:
    """Token ids that end a reply: those of the model's generation settings, of the tokenizer, and of the family."""
    ids = of_model if isinstance(of_model, list) else [of_model]
    ids = [*ids, tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(token) for token in family.end_tokens)]
    return sorted({token for token in ids if token is not None})


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int], prompt_tokens: int) -> Generation:
    """The reply of generated token ids: the text before the first end token, special tokens included."""
    end = next((i for i, token in enumerate(ids) if token in end_ids), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=False)
    number = len(ids) if end is None else end + 1
    return Generation(text, "length" if end is None else "stop", prompt_tokens=prompt_tokens, completion_tokens=number)
