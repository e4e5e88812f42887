"""TRL's GRPO trainer with our prompts' token ids and rewards. Apart from training/trainer.py, as TRL imports vLLM for it."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property
from typing import Any

import torch
from trl import GRPOTrainer

from inference.backends import decoded
from inference.p_yes import not_a_number, p_yes_from_logits, yes_no_tokens
from training.rewards import BRIER, scored_prompt
from training.trainer import ResumableTrainer


class RenderedGRPOTrainer(ResumableTrainer, GRPOTrainer):
    """`GRPOTrainer` for prompts that are already rendered: their text holds all special tokens, so none are added.

    Rewards read completions as the evaluation does, with special tokens, which can be marks of reasoning. The reward `brier`
    gets the policy's p(yes).
    """

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[str], completions: list[str], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        replies = [decoded(self.processing_class, ids, self.eos_token_ids, prompt_tokens=0) for ids in completion_ids_list]
        completions = [reply.text for reply in replies]
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
        """The policy's p(yes) right after each text, as the Transformers backend computes it.

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
        if any(map(math.isnan, values.values())):
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
