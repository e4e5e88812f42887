"""The Transformers backend: left-padded batches sorted by length, on CPU or GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from inference import backends
from inference.backends import Generation, LocalBackend, load_tokenizer, reading_model
from inference.p_yes import p_yes_from_logits, yes_no_tokens
from inference.prompts import PromptBuilder
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings
from pipeline.files import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SeededSampling(LogitsProcessor):
    """Makes greedy decoding sample: each prompt of a batch draws from a generator of its own, seeded by its text.

    The largest of logits / temperature + Gumbel noise is distributed as the softmax (Gumbel 1954; the "Gumbel-max trick"). So
    a reply depends on prompt and seed only, not on its batch or on the prompts before.
    """

    def __init__(self, prompts: Sequence[str], decoding: DecodingSettings, device: torch.device) -> None:
        self.temperature, self.device = decoding.temperature, device
        seeds = [int(sha256(f"{decoding.seed or 0} {prompt}")[:15], 16) for prompt in prompts]
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of shape (batch, vocabulary) with noise."""
        options = {"device": self.device, "dtype": torch.float32}
        uniform = [torch.rand(scores.shape[1], generator=generator, **options) for generator in self.generators]
        exponential = -torch.log(torch.stack(uniform).clamp_min(torch.finfo(torch.float32).tiny))
        return scores.float() / self.temperature - torch.log(exponential)


def _load_model(settings: ModelSettings) -> PreTrainedModel:
    """The model of the settings, with its adapter, if any."""
    name, adapter = settings.model_name_or_path, settings.lora_path
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float32" if (settings.dtype, device) == ("auto", "cpu") else settings.dtype
    with reading_model(name, ValueError):
        options = {"dtype": dtype, "device_map": settings.device_map or {"": device}}
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    if adapter:
        from peft import PeftModel

        with reading_model(adapter, ValueError):
            model = PeftModel.from_pretrained(model, adapter)
    return model


def _left_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that pads on the left, for prompts of several lengths in a batch."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class TransformersBackend(LocalBackend):
    """A causal language model of Transformers.

    Args:
        settings: how it is run.
        model, tokenizer: a model that is already loaded, such as that of a trainer, and its tokenizer; by default the model of
            the settings is loaded. Modes of the model, such as that of training, are the caller's.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.decoding = settings.decoding
        self.batch = settings.model.batch
        self.window = max(64, 8 * self.batch)
        self.tokenizer = _left_padding(tokenizer or load_tokenizer(settings.model.model_name_or_path))
        self.builder = PromptBuilder(self.tokenizer, settings.prompt.empty_think_block)
        self.model = model or _load_model(settings.model).eval()
        self._end_ids = backends.end_token_ids(self.tokenizer, self.model.generation_config.eos_token_id)
        self._yes, self._no = yes_no_tokens(self.tokenizer)

    def _batches(self, prompts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield positions of prompts, and their `input_ids` and `attention_mask` of shape (batch, longest prompt).

        Prompts of a batch have similar lengths; the longest come first, so that one too large for the memory fails at once.
        """
        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
        order = sorted(range(len(prompts)), key=lambda i: (-len(ids[i]), i))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            yield rows, {name: tensor.to(self.model.device) for name, tensor in padded.items()}

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], decoding: DecodingSettings) -> Iterator[tuple[int, Generation]]:
        for rows, batch in self._batches(prompts):
            noise = SeededSampling([prompts[row] for row in rows], decoding, self.model.device)
            output = self.model.generate(
                **batch,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                logits_processor=LogitsProcessorList([noise] if decoding.temperature > 0 else []),
                max_new_tokens=decoding.max_new_tokens,
                eos_token_id=self._end_ids,
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,  # a model in training has it off
                repetition_penalty=1.0,  # the penalty in a model's own generation settings (Qwen2.5: 1.05) changes answers
            )
            for row, ids in zip(rows, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                yield row, backends.decoded(self.tokenizer, ids, self._end_ids)

    @torch.inference_mode()
    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from log-probabilities in fp32."""
        for rows, batch in self._batches(prompts):
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            logits = self.model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1]
            for row, (p_yes, mass) in zip(rows, p_yes_from_logits(logits, self._yes, self._no), strict=True):
                yield row, Generation.scored(p_yes, mass)
