"""TRL's trainers with our order of samples and our prompts' token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import trl.trainer.utils
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import GRPOTrainer, SFTTrainer

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
    """`GRPOTrainer` for prompts that are already rendered: their text holds all special tokens, so none are added."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}


def keep_vllm_weights_replaceable() -> None:
    """Let vLLM's CPU build use the weights that GRPO updates.

    That build (0.31) packs the initial weights into its own format and discards them, so that the trained weights could not
    be loaded; plain linear layers read the current weights.
    """
    from vllm.model_executor.layers import utils

    def use_plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = use_plain_linear
