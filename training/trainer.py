"""TRL's trainers with an exact end of resumed runs; for SFT, our order of samples and our evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl.trainer.utils
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, get_scheduler
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from trl import SFTTrainer
from trl.models import unwrap_model_for_generation

from pipeline.errors import UserError
from training.held_out import SampleMetrics, evaluations_without_improvement
from training.samples import IGNORE_INDEX

# TRL computes logits of labelled tokens only, but of all tokens on devices without Triton (trl 1.16, add_fused_lm_head), for
# accelerators that compile each shape. A CPU does not compile: logits of the masked prompt, 99 % of a sample, would make a
# tiny model three times slower. So we let TRL treat the CPU as a device with Triton; a test checks what is computed.
trl.trainer.utils._use_triton = lambda device: device.type in ("cuda", "xpu", "cpu")


LOSS_TOTAL = "LossTotal"  # where the state of a trainer keeps the loss of all steps


class EpochSampler(Sampler[int], TrainerCallback):
    """Yields the samples in the order of the current epoch, which is not the first one when a resumed run begins."""

    def __init__(self, order: Callable[[int], np.ndarray]) -> None:
        self.order, self.size, self.epoch = order, len(order(0)), 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epoch = int((state.epoch or 0) + 1e-6)


class EarlyStopping(TrainerCallback):
    """Stops after this many `evaluations` in a row that do not improve `--metric_for_best_model` by more than `threshold`.

    As Transformers' `EarlyStoppingCallback`, but the evaluations are counted in the log, which checkpoints hold, so that a
    resumed run stops where an uninterrupted one does.
    """

    def __init__(self, evaluations: int, threshold: float) -> None:
        self.evaluations, self.threshold = evaluations, threshold

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        name = "eval_" + args.metric_for_best_model.removeprefix("eval_")
        values = [entry[name] for entry in state.log_history if name in entry]
        if evaluations_without_improvement(values, args.greater_is_better, self.threshold) >= self.evaluations:
            control.should_training_stop = True

    on_evaluate = on_train_begin


class ResumableTrainer(Trainer):
    """A trainer whose resumed runs end as uninterrupted ones do: at the same step, and with the mean loss of all steps.

    Transformers 5.17 makes one more step if the checkpoint is that of the last step; divides the loss of the steps since a
    resume by the number of all steps; counts steps without labelled tokens, whose loss is 0; and cannot resume several
    processes on a CPU.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._check_optimizer_flags()
        # Of this process: sum of the losses of the steps with labelled tokens, and their number.
        self._loss, self._steps = 0.0, 0.0
        self._steps_to_log, self._empty_steps_to_log = 0.0, 0.0  # since the last log

    def _check_optimizer_flags(self) -> None:
        """Raise the errors of flags of optimizer and schedule now, which Transformers raises when training begins."""
        Trainer.get_optimizer_cls_and_kwargs(self.args, self.model)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        kwargs = {"scheduler_specific_kwargs": self.args.lr_scheduler_kwargs or {}}
        get_scheduler(self.args.lr_scheduler_type, optimizer, num_warmup_steps=0, num_training_steps=1, **kwargs)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        share = 1 / self.current_gradient_accumulation_steps
        self._steps_to_log += share
        if num_items_in_batch is not None and not torch.as_tensor(num_items_in_batch).any():
            self._empty_steps_to_log += share
        elif math.isfinite(value := loss.item()):
            self._loss, self._steps = self._loss + value, self._steps + share
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            steps, empty = self._steps_to_log, self._empty_steps_to_log
            if empty > steps - 0.5 / self.args.gradient_accumulation_steps:
                del logs["loss"]
            elif empty:
                logs["loss"] *= steps / (steps - empty)
            self._steps_to_log = self._empty_steps_to_log = 0.0
        super().log(logs, start_time)

    def _loss_total(self) -> list[float]:
        """Sum of the losses of all steps with labelled tokens, and their number; means over processes."""
        totals = torch.tensor([[self._loss, self._steps]], dtype=torch.float32, device=self.args.device)
        return self.accelerator.gather(totals).mean(0).tolist()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.state.stateful_callbacks[LOSS_TOTAL] = dict(zip(("loss", "steps"), self._loss_total(), strict=True))
        super()._save_checkpoint(model, trial)

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        position, checkpoint = super()._init_training_state(*args), args[3]
        total = self.state.stateful_callbacks.get(LOSS_TOTAL) or {"loss": 0.0, "steps": 0.0}
        self._loss, self._steps = total["loss"], total["steps"]
        if checkpoint and self.args.load_best_model_at_end and self.state.best_global_step:
            # Its recorded path is that of the command which saved it.
            best = Path(checkpoint).parent / f"checkpoint-{self.state.best_global_step}"
            if not best.is_dir():
                fix = "Copy it back, or train from the beginning with --overwrite"
                raise UserError(f"{best}: expected the best checkpoint so far, got no such directory. {fix}.")
            self.state.best_model_checkpoint = str(best)
        return position

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        device = self.args.device
        if device.type == "cpu":
            vars(self.args)["_setup_devices"] = torch.device("cpu")  # torch.load does not know cpu:0
        super()._load_optimizer_and_scheduler(checkpoint)
        vars(self.args)["_setup_devices"] = device

    def _run_epoch(self, **options: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(**options)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        loss, steps = self._loss_total()
        if not steps:
            wrong = f"expected a finite loss, got none in {self.state.global_step:,} steps"
            raise UserError(f"{self.args.output_dir}: {wrong}. Increase --max_length if rows are skipped, or check the model.")
        self._tr_loss.zero_()
        self._total_loss_scalar = loss / steps * self.state.global_step  # which Transformers divides by the steps
        return super()._finalize_training(*args)


class OrderedSFTTrainer(ResumableTrainer, SFTTrainer):
    """`SFTTrainer` that reads its samples in an order of our own, and evaluates held-out samples independently of batches.

    Args:
        order: function of the epoch that returns sample numbers, (samples,).
        sample_metrics: further metrics of the evaluation set.
    """

    def __init__(
        self, order: Callable[[int], np.ndarray], sample_metrics: SampleMetrics | None = None, **options: Any
    ) -> None:
        self.sampler, self.sample_metrics = EpochSampler(order), sample_metrics
        super().__init__(**options)
        self.add_callback(self.sampler)
        self._held_out = torch.zeros(2)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> tuple[Any, Any, Any]:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **options)
        tokens = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum().cpu()
        self._held_out += torch.stack([loss.float().cpu() * tokens, tokens])
        return loss, logits, labels

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """The loss is the mean over all labelled tokens, not that of means over batches."""
        self._held_out.zero_()
        output = super().evaluation_loop(*args, **options)
        loss, tokens = self.accelerator.reduce(self._held_out.to(self.args.device), "sum").tolist()
        if not tokens:
            raise UserError("--eval_dataset_name: expected samples that fit in --max_length, got none. Increase it.")
        output.metrics["eval_loss"] = loss / tokens
        if self.sample_metrics:
            unwrapping = {"gradient_checkpointing_kwargs": self.args.gradient_checkpointing_kwargs}
            with (
                unwrap_model_for_generation(self.model_wrapped, self.accelerator, **unwrapping) as model,
                self.compute_loss_context_manager(),
            ):
                metrics = self.sample_metrics(model, self.accelerator)
            output.metrics.update({f"eval_{name}": value for name, value in metrics.items()})
        return output
