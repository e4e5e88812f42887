"""The Transformers backend: left-padded batches sorted by length and bounded in tokens, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from inference import backends
from inference.adapters import resize_embeddings
from inference.backends import Generation, Query, load_builder, reading_model
from inference.checks import check_weights
from inference.p_yes import not_a_number, p_yes_from_logits, yes_no_tokens
from inference.settings import InferenceSettings, ModelSettings

# Attention with padding needs a mask of queries × keys for each prompt: 4 GiB and more for a few prompts of 32k tokens. So
# padded prompts are read in pieces of so many tokens, counted over all prompts of a batch.
PREFILL_TOKENS = 2048

MAX_WINDOW = 1024  # prompts that are drawn, and sorted by length, before the first of them is answered

# The processors that apply sampling settings, in their order; all but the first matter with a temperature only.
PROCESSORS = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = tuple[int, Query, Sequence[int]]  # position of a query, the query, and its token ids


class TemperatureAndNaN(LogitsProcessor):
    """Divides logits by the temperature, if that is above 0, and stops a run whose model computes no numbers."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature or 1.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape (batch, vocabulary), in fp32."""
        if scores.isnan().any():
            raise not_a_number()
        return scores.float() / self.temperature


class SeededNoise(LogitsProcessor):
    """Makes greedy decoding sample: each prompt of a batch draws from a generator of its own, with a seed of its own.

    The largest of logits + Gumbel noise is distributed as the softmax (Gumbel 1954; the "Gumbel-max trick"). So a reply
    depends on prompt and seed only, not on its batch or on the prompts before.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape (batch, vocabulary) with noise."""
        options = {"device": self.device, "dtype": torch.float32}
        uniform = [torch.rand(scores.shape[1], generator=generator, **options) for generator in self.generators]
        exponential = -torch.log(torch.stack(uniform).clamp_min(torch.finfo(torch.float32).tiny))
        return scores - torch.log(exponential)


class TransformersBackend:
    """A causal language model of Transformers, in this process.

    Args:
        settings: how it is run.
        model, tokenizer: a model that is already loaded, such as that of a trainer, and its tokenizer; by default the model of
            the settings is loaded. Modes of the model, such as that of training, are the caller's.
    """

    continues = True

    def __init__(
        self,
        settings: InferenceSettings,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.decoding = settings.decoding
        self.batch, self.max_batch_tokens = settings.model.batch, settings.model.max_batch_tokens
        self.builder = load_builder(settings, tokenizer)
        self.tokenizer = self.builder.tokenizer
        self.model = model or load_model(settings.model, len(self.tokenizer))
        own = self.model.generation_config
        self._own_sampling = own_sampling(own) if settings.model.model_sampling else {}
        self._end_ids = backends.end_token_ids(self.tokenizer, own.eos_token_id, self.builder.family)
        # Beams, penalties, forced and suppressed tokens of a model's own settings would change answers: none of them is used.
        pad = self.tokenizer.pad_token_id
        pad = self._end_ids[0] if pad is None and self._end_ids else pad
        self._plain = GenerationConfig(eos_token_id=self._end_ids or None, pad_token_id=pad, do_sample=False)

    @cached_property
    def _yes_no(self) -> tuple[list[int], list[int]]:
        """Token ids of yes and of no: only risk tasks need a vocabulary that tells them apart."""
        return yes_no_tokens(self.tokenizer)

    @torch.inference_mode()
    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """See `Backend.answer`. Queries are drawn in windows of several batches, which are sorted by length."""
        numbered = enumerate(queries)
        while window := list(islice(numbered, max(64, min(8 * self.batch, MAX_WINDOW)))):
            rows = [(number, query, query.ids or self.builder.ids(query.prompt)) for number, query in window]
            for score in (True, False):
                for batch in self._batches([row for row in rows if row[1].score == score], score):
                    yield from self._score(batch) if score else self._generate(batch)

    def _batches(self, rows: Sequence[Row], score: bool) -> Iterator[list[Row]]:
        """Batches of at most `--batch` prompts and, if there are several, `--max_batch_tokens` tokens.

        Prompts of a batch have similar lengths; the longest come first, so that one too large for the memory fails at once.
        """
        reply_tokens = 1 if score else self.decoding.max_new_tokens
        rows = sorted(rows, key=lambda row: (-len(row[2]), row[0]))
        start = 0
        while start < len(rows):
            number = self.max_batch_tokens // (len(rows[start][2]) + reply_tokens)
            end = start + max(1, min(self.batch, number))
            yield rows[start:end]
            start = end

    def _score(self, rows: list[Row]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from log-probabilities in fp32."""
        logits = self._run(rows, max_new_tokens=1, return_dict_in_generate=True, output_logits=True).logits[0]
        scores = p_yes_from_logits(logits, *self._yes_no)
        for (number, _, ids), (p_yes, mass) in zip(rows, scores, strict=True):
            yield number, Generation.scored(p_yes, mass, len(ids))

    def _generate(self, rows: list[Row]) -> Iterator[tuple[int, Generation]]:
        """A reply to each prompt."""
        temperature = self.decoding.temperature
        used = [name for name in self._own_sampling if temperature > 0 or name == "repetition_penalty"]
        processors = [TemperatureAndNaN(temperature), *(PROCESSORS[name](self._own_sampling[name]) for name in used)]
        if temperature > 0:
            seeds = [backends.sampling_seed(self.decoding.seed, query.prompt, query.sample) for _, query, _ in rows]
            processors.append(SeededNoise(seeds, self.model.device))
        options = {"max_new_tokens": self.decoding.max_new_tokens, "logits_processor": LogitsProcessorList(processors)}
        replies = self._run(rows, **options)[:, max(len(ids) for _, _, ids in rows) :].tolist()
        for (number, _, prompt), ids in zip(rows, replies, strict=True):
            yield number, backends.decoded(self.tokenizer, ids, self._end_ids, len(prompt))

    def _run(self, rows: list[Row], **options: Any) -> Any:
        """What `generate` of the model returns for a batch, without the model's own generation settings.

        A prompt is padded on the left with its own first token, which changes no penalty on repetition.
        """
        longest = max(len(ids) for _, _, ids in rows)
        padded = torch.tensor([[ids[0]] * (longest - len(ids)) + list(ids) for _, _, ids in rows])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for _, _, ids in rows])
        if not mask.all() and not self.model._is_stateful:
            options["prefill_chunk_size"] = max(1, PREFILL_TOKENS // len(rows))
        device = self.model.device
        own, self.model.generation_config = self.model.generation_config, self._plain
        try:
            return self.model.generate(input_ids=padded.to(device), attention_mask=mask.to(device), use_cache=True, **options)
        finally:
            self.model.generation_config = own


def own_sampling(config: GenerationConfig) -> dict[str, int | float]:
    """The sampling settings of a model that are not neutral, as far as servers have them too."""
    values = {name: getattr(config, name, None) for name in PROCESSORS}
    neutral = {name: (None, 0, value) for name, value in backends.NEUTRAL_SAMPLING.items()}
    used = {name: value for name, value in values.items() if value not in neutral[name]}
    return {name: int(value) if name == "top_k" else float(value) for name, value in used.items()}


def load_model(settings: ModelSettings, num_tokens: int) -> PreTrainedModel:
    """The model of the settings, with its adapter; `num_tokens` is the size of the tokenizer."""
    name, code = settings.model_name_or_path, {"trust_remote_code": settings.trust_remote_code}
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float32" if (settings.dtype, device) == ("auto", "cpu") else settings.dtype
    with reading_model(name, ValueError, RuntimeError):
        options = {"dtype": dtype, "device_map": settings.device_map or {"": device}}
        model, loading = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options | code)
    check_weights(name, loading["missing_keys"])
    if settings.lora_path:
        from peft import PeftModel

        with reading_model(settings.lora_path, ValueError, RuntimeError):
            resize_embeddings(model, settings.lora_path, num_tokens)
            model = PeftModel.from_pretrained(model, settings.lora_path)
    return model.eval()
