"""TRL's trainers with our order of samples and our prompts' tokens; all else is theirs."""

from __future__ import annotations

from typing import Any

import trl.trainer.utils
from transformers import TrainerCallback
from trl import GRPOTrainer, SFTTrainer

from training.order import EpochSampler

# TRL's fused head projects to the vocabulary only the tokens that have a label, but all of them on devices without Triton
# (trl 1.16, add_fused_lm_head: for accelerators that compile each shape). A CPU does not compile: there the masked prompt,
# 99 % of a sample, made a tiny model three times slower. A test holds that the labelled tokens alone are projected.
trl.trainer.utils._use_triton = lambda device: device.type in ("cuda", "xpu", "cpu")


class OrderedSFTTrainer(SFTTrainer):
    """`SFTTrainer` that reads its samples in the order of an `EpochSampler`."""

    def __init__(self, *args: Any, sampler: EpochSampler, **more: Any) -> None:
        self.sampler = sampler
        super().__init__(*args, **more)
        self.add_callback(_EpochCallback(sampler))

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler


class _EpochCallback(TrainerCallback):
    """Tells the sampler which epoch begins; after a resume that is not the first."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.epoch = int((state.epoch or 0) + 1e-6)


class RenderedGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose prompts are rendered already: their special tokens are in the text, none is added."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}
