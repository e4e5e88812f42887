"""TRL's trainers with our order of samples and our prompts' token ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
import torch
import trl.trainer.utils
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import GRPOTrainer, SFTTrainer

from inference.backends import decoded
from inference.p_yes import not_a_number, p_yes_from_logits, yes_no_tokens
from training.rewards import BRIER, scored_prompt

# TRL computes logits of labelled tokens only, but of all tokens on devices without Triton (trl 1.16, add_fused_lm_head), for
# accelerators that compile each shape. A CPU does not compile: logits of the masked prompt, 99 % of a sample, would make a
# tiny model three times slower. So we let TRL treat the CPU as a device with Triton; a test checks what is computed.
trl.trainer.utils._use_triton = lambda device: device.type in ("cuda", "xpu", "cpu")


class EpochSampler(Sampler[int], TrainerCallback):
    """Yields the samples in the order of the current epoch, which is not the first one when a resumed run begins."""

    def __init__(self, order: Callable[[int], np.ndarray], size: int) -> None:
        self.order, self.size, self.epoch = order, size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epoch = int((state.epoch or 0) + 1e-6)


class OrderedSFTTrainer(SFTTrainer):
    """`SFTTrainer` that reads its samples in an `order`: a function of the epoch that returns sample numbers, (samples,)."""

    def __init__(self, order: Callable[[int], np.ndarray], **options: Any) -> None:
        self.sampler = EpochSampler(order, len(options["train_dataset"]))
        super().__init__(**options)
        self.add_callback(self.sampler)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler


class RenderedGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for prompts that are already rendered: their text holds all special tokens, so none are added.

    Rewards read completions as the evaluation does, with special tokens, which can be marks of reasoning. The reward `brier`
    gets the policy's p(yes).
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[str], completions: list[str], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        completions = [decoded(self.processing_class, ids, self.eos_token_ids).text for ids in completion_ids_list]
        if BRIER in self.reward_func_names:
            rows = zip(prompts, completions, inputs, strict=True)
            texts = [scored_prompt(prompt, text, row["task"], row["mode"]) for prompt, text, row in rows]
            p_yes = self.p_yes({text for text in texts if text is not None})
            inputs = [row | {"p_yes": p_yes.get(text)} for row, text in zip(inputs, texts, strict=True)]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @cached_property
    def _yes_no(self) -> tuple[list[int], list[int]]:
        return yes_no_tokens(self.processing_class)

    @torch.no_grad()
    def p_yes(self, texts: Collection[str]) -> dict[str, float]:
        """The policy's p(yes) right after each text, as in `TransformersBackend.score_yes_no`.

        Where the weights are sharded, each forward pass needs all processes: a process with fewer texts than another one
        repeats a short one.
        """
        tokenizer, size = self.processing_class, self.args.per_device_train_batch_size
        unique = sorted(texts, key=len)
        batches = [unique[start : start + size] for start in range(0, len(unique), size)]
        number = torch.tensor([len(batches)], device=self.accelerator.device)
        batches += [["?"]] * (self.accelerator.gather(number).max().item() - len(batches))
        yes, no = self._yes_no
        values: dict[str, float] = {}
        was_training = self.model.training
        self.model.eval()  # without dropout
        for batch in batches:
            ids = tokenizer(batch, add_special_tokens=False)["input_ids"]
            inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(self.accelerator.device)
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with self.accelerator.autocast():
                logits = self.model(**inputs, position_ids=positions, logits_to_keep=1, use_cache=False).logits[:, -1]
            values |= {text: score.p_yes for text, score in zip(batch, p_yes_from_logits(logits, yes, no), strict=True)}
        self.model.train(was_training)
        if any(map(isnan, values.values())):
            raise not_a_number()
        return values


def keep_vllm_weights_replaceable() -> None:
    """Let vLLM's CPU build use the weights that GRPO updates.

    That build (0.31) packs the initial weights into its own format and discards them, so that the trained weights could not
    be loaded; plain linear layers read the current weights.
    """
    from vllm.model_executor.layers import utils

    def use_plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = use_plain_linear
