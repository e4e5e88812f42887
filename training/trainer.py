"""TRL's trainers with our order of samples and our prompts' token ids."""

from __future__ import annotations

from typing import Any

import trl.trainer.utils
from transformers import TrainerCallback
from trl import GRPOTrainer, SFTTrainer

from training.order import EpochSampler

# TRL computes logits of labelled tokens only, but of all tokens on devices without Triton (trl 1.16, add_fused_lm_head), for
# accelerators that compile each shape. A CPU does not compile: logits of the masked prompt, 99 % of a sample, would make a
# tiny model three times slower. So we let TRL treat the CPU as a device with Triton; a test checks what is computed.
trl.trainer.utils._use_triton = lambda device: device.type in ("cuda", "xpu", "cpu")


class OrderedSFTTrainer(SFTTrainer):
    """`SFTTrainer` that reads its samples in the order of an `EpochSampler`."""

    def __init__(self, *args: Any, sampler: EpochSampler, **options: Any) -> None:
        self.sampler = sampler
        super().__init__(*args, **options)
        self.add_callback(_EpochCallback(sampler))

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler


class _EpochCallback(TrainerCallback):
    """Sets the sampler's epoch when an epoch begins, which is not the first one in a resumed run."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.epoch = int((state.epoch or 0) + 1e-6)


class RenderedGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for prompts that are already rendered: their text holds all special tokens, so none are added."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}


def keep_vllm_weights_replaceable() -> None:
    """Let vLLM's CPU build use the weights that GRPO updates.

    That build (0.31) packs the initial weights into its own format and discards them, so that the trained weights could not
    be loaded; plain linear layers read the current weights.
    """
    import torch
    from vllm.model_executor.layers import utils

    def use_plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = use_plain_linear
