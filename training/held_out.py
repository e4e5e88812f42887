"""Evaluation during training: the loss on held-out samples, and the evaluation's own metrics on a fixed part of them.

The metrics are computed on replies of the model that is being trained: F1 of decision tasks, and AUROC of risk tasks from
p(yes), each as the mean over tasks. Names in the log begin with `eval_`, as those of Transformers do.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.predictions import Prediction
from evaluation.score import main_scores
from inference.families import TRAINED
from inference.generation import Prompt, replies
from inference.prompts import THINK
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, PromptSettings
from mimiciv_dataset.index_files import index_paths
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.sources import index_sources
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from training.samples import TrainingData

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, TrainingArguments

    from pipeline.provenance import Source
    from training.arguments import DataArguments

METRICS = {"decision": "f1", "risk": "auroc"}  # kind of task → name of the mean of its metric over tasks
LOGGED = ("loss", "mean_token_accuracy", "entropy")  # metrics that every evaluation has
SELECTING_SCHEDULES = ("reduce_lr_on_plateau", "greedy")  # learning rates that depend on a metric
MINIMUM = {"eval_metric_samples": 0, "eval_max_new_tokens": 1, "early_stopping_patience": 1, "early_stopping_threshold": 0}
SEED = 0  # of the choice of samples, which must not depend on the seed of training


def selects_model(script_args: DataArguments, args: TrainingArguments) -> bool:
    """Whether held-out samples decide which weights are saved, or when training stops."""
    stops = getattr(script_args, "early_stopping_patience", None) is not None
    return args.load_best_model_at_end or stops or args.lr_scheduler_type in SELECTING_SCHEDULES


def held_out_data(names: str, data: TrainingData) -> TrainingData:
    """The rows of `--eval_dataset_name`, rendered as the training data are."""
    return replace(data, files=index_paths(names.split(",")))


def check_overlap(held_out: TrainingData, data: TrainingData) -> None:
    """Warn if patients are in training and held-out data, or if that is unknown because rows name no patient."""
    patients, trained = held_out.patients(), data.patients()
    if both := len(patients & trained):
        text = f"{both:,} of the {len(patients):,} patients of the evaluation set are in the training data"
        print(f"warning: --eval_dataset_name: {text}, so its metrics are too optimistic for new ones.", file=sys.stderr)
    elif not (patients and trained):
        text = "rows do not name their patients, so whether patients are in both data sets is not checked"
        print(f"warning: --eval_dataset_name: {text}.", file=sys.stderr)


def held_out_sources(held_out: TrainingData) -> list[Source]:
    """The index files of held-out data, as inputs of a run."""
    return [source for i, file in enumerate(held_out.files, 1) for source in index_sources(file, f"eval_data/{i}")]


def choose_rows(held_out: TrainingData, count: int) -> list[int]:
    """A fixed pseudorandom choice of rows, the same number of each task as far as there are any."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng(SEED).permutation(len(held_out)).tolist():
        rows[held_out.task(index).name].append(index)
    turns = zip_longest(*(rows[name] for name in ALL_TASKS if name in rows))
    return [index for index in chain.from_iterable(turns) if index is not None][:count]


class SampleMetrics:
    """The evaluation's metrics on fixed rows of held-out data, for a model in training.

    Args:
        data: the held-out rows.
        count: how many of them are answered.
        max_new_tokens: limit on the tokens of a reply.
        batch: prompts that are answered together.
    """

    def __init__(self, data: TrainingData, count: int, max_new_tokens: int, batch: int) -> None:
        self.data, self.rows = data, choose_rows(data, count)
        decoding, unlimited = DecodingSettings(max_new_tokens=max_new_tokens), PromptSettings(max_seq_len=sys.maxsize)
        model = ModelSettings("model in training", family=TRAINED, batch=batch)
        self.settings = InferenceSettings(model, prompt=unlimited, decoding=decoding)
        self.prompts: dict[int, Prompt] = {}
        self.backend: Any = None

    def prompt(self, index: int) -> Prompt:
        """The prompt of a row, as in training; rendered once."""
        if index not in self.prompts:
            rendered = self.data.render(index)
            is_risk, reasons = ALL_TASKS[rendered.task].kind == "risk", rendered.mode == THINK
            about = {"task": rendered.task, "labels": tuple(label_list(rendered.label)), "candidates": rendered.candidates}
            scored = {"scored": is_risk and not reasons, "scored_after_reasoning": is_risk and reasons}
            self.prompts[index] = Prompt(str(index), rendered.prompt, about, **scored)
        return self.prompts[index]

    @property
    def names(self) -> list[str]:
        """The metrics that the rows define: AUROC needs both labels of a task among them."""
        labels: dict[str, set[str]] = defaultdict(set)
        for prompt in map(self.prompt, self.rows):
            labels[prompt.line["task"]].update(prompt.line["labels"])
        kinds = {name: ALL_TASKS[name].kind for name in labels}
        defined = {kind for name, kind in kinds.items() if kind != "risk" or len(labels[name]) == 2}
        return [name for kind, name in METRICS.items() if kind in defined]

    def __call__(self, model: PreTrainedModel, accelerator: Accelerator) -> dict[str, float]:
        """Metrics by name, the same in all processes, each of which answers its share of the rows."""
        from accelerate.utils import gather_object

        rows = self.rows[accelerator.process_index :: accelerator.num_processes]
        return mean_metrics(gather_object(list(self._predictions(model, rows))))

    def _predictions(self, model: PreTrainedModel, rows: Sequence[int]) -> Iterator[Prediction]:
        if self.backend is None:
            from inference.transformers_backend import TransformersBackend

            self.backend = TransformersBackend(self.settings, model, self.data.tokenizer)
        for prompt, reply in replies(map(self.prompt, rows), self.backend):
            answer = {"response": reply.text, "p_yes": reply.p_yes, "thinking_open": prompt.thinking_open}
            yield Prediction(**prompt.line, subject_id=prompt.key, **answer)


def mean_metrics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """F1 of the decision tasks and AUROC of the risk tasks, as means over the tasks for which they are defined."""
    by_task: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_task[prediction.task].append(prediction)
    values: dict[str, list[float]] = defaultdict(list)
    for name, of_task in by_task.items():
        scores = main_scores(name, of_task)
        value = np.nan if scores is None else float(scores.metric()[0])
        if ALL_TASKS[name].kind in METRICS and not np.isnan(value):
            values[METRICS[ALL_TASKS[name].kind]].append(value)
    return {name: float(np.mean(of_tasks)) for name, of_tasks in values.items()}


def evaluations_without_improvement(values: Sequence[float], greater_is_better: bool, threshold: float = 0.0) -> int:
    """How many evaluations in a row, up to the last one, did not improve on the best before by more than `threshold`.

    >>> evaluations_without_improvement([3.0, 2.0, 2.5, 2.1], greater_is_better=False)
    2
    >>> evaluations_without_improvement([0.5, 0.6], True), evaluations_without_improvement([0.5, 0.6], True, threshold=0.2)
    (0, 1)
    """
    best, count = None, 0
    for value in values:
        gain = None if best is None else value - best if greater_is_better else best - value
        count = 0 if gain is None or gain > threshold else count + 1
        best = value if gain is None or gain > 0 else best
    return count


def check_evaluation(script_args: DataArguments, args: TrainingArguments) -> None:
    """Report flags about evaluation during training that do not fit each other, before any data are read."""
    for name, least in MINIMUM.items():
        if (value := getattr(script_args, name, None)) is not None and value < least:
            raise UserError(f"--{name}: expected at least {least}, got {value}.")
    has_flag, scheduler = hasattr(script_args, "eval_dataset_name"), args.lr_scheduler_type
    if has_flag and script_args.eval_dataset_name:
        if args.eval_strategy == "no":
            fix = "Add --eval_strategy steps --eval_steps N, or --eval_strategy epoch"
            raise UserError(f"--eval_dataset_name: expected an --eval_strategy, got no. {fix}.")
        if script_args.eval_metric_samples and (args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
            fix = "Omit it, and evaluate checkpoints with test.py"
            raise UserError(f"--eval_metric_samples: expected data parallelism or DeepSpeed, got FSDP. {fix}.")
        return
    needing = {
        f"--eval_strategy {args.eval_strategy.value}": args.eval_strategy != "no",
        "--eval_on_start": args.eval_on_start,
        "--load_best_model_at_end": args.load_best_model_at_end,
        "--save_strategy best": args.save_strategy == "best",
        f"--lr_scheduler_type {scheduler.value}": scheduler in SELECTING_SCHEDULES,
        "--early_stopping_patience": getattr(script_args, "early_stopping_patience", None) is not None,
        "--eval_metric_samples": getattr(script_args, "eval_metric_samples", 0),
    }
    if flags := [flag for flag, given in needing.items() if given]:
        fix = "Add --eval_dataset_name FILE, or omit it" if has_flag else "Omit it, and evaluate checkpoints with test.py"
        raise UserError(f"{flags[0]}: expected an evaluation set, got none. {fix}.")


def check_metric(args: TrainingArguments, metrics: SampleMetrics | None) -> None:
    """Report a `--metric_for_best_model` that no evaluation will compute."""
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    if name in LOGGED:
        return
    known = [*LOGGED, *(metrics.names if metrics else ())]
    if name not in known:
        fix = "f1 and auroc need --eval_metric_samples and rows of decision tasks, or of both labels of a risk task"
        raise UserError(f"--metric_for_best_model: expected one of {', '.join(known)}, got {name}. {fix[0].upper()}{fix[1:]}.")
