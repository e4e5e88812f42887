"""The regret of a model on a benchmark with a known optimum: the score of a perfect model minus that of the model.

A perfect model knows the latent state that the labels were drawn from: it answers a risk task with the probability of yes, and
a decision task with the set of items whose expected F1 is largest. No model is expected to score higher. On a finite sample a
model can, by chance, so that a regret can be slightly negative.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.predictions import Prediction, read_predictions
from evaluation.score import TOO_FEW, main_metric, main_scores
from mimiciv_dataset.tasks import ALL_TASKS, NO, YES
from pipeline.errors import UserError
from pipeline.files import read_json, require, sha256, write_json
from pipeline.progress import format_table

if TYPE_CHECKING:
    import numpy as np

    from evaluation.comparisons import Comparison, Scores

MIN_PROBABILITY = 1e-6
"""Probabilities are kept this far from 0 and 1 in the log loss, which would be infinite for a model that is sure and wrong."""
COLUMNS = ("task", "subject_id", "p_yes", "answer")  # of a file of predictions


# --- the truth


@dataclass(frozen=True)
class TrueSample:
    """A test sample, its label, and the answer of a perfect model.

    Attributes:
        labels: the correct answers; of a risk task `yes` or `no`.
        p_yes: of a risk task, the probability that the label was drawn with.
        answer: of a decision task, the items of the best answer.
    """

    sample_id: str
    task: str
    subject_id: str
    labels: list[str]
    p_yes: float | None = None
    answer: list[str] | None = None

    @property
    def optimum(self) -> Prediction:
        """What a perfect model answers."""
        return self.prediction(self.p_yes, "\n".join(self.answer or []))

    def prediction(self, p_yes: float | None, answer: str) -> Prediction:
        """A prediction of this sample; that of a risk task without an answer says what p_yes does."""
        if p_yes is not None:
            answer = answer or (YES if p_yes >= 0.5 else NO)
        return Prediction(self.task, tuple(self.labels), self.subject_id, self.sample_id, answer, p_yes)


@dataclass(frozen=True)
class Truth:
    """The test samples of a benchmark, in the order of its index files; each patient has at most one of a task."""

    benchmark: str  # name
    digest: str  # of the samples
    samples: list[TrueSample]

    @property
    def by_task(self) -> dict[str, list[TrueSample]]:
        """The samples by task."""
        by_task = defaultdict(list)
        for sample in self.samples:
            by_task[sample.task].append(sample)
        return dict(by_task)


def digest_of(samples: Iterable[TrueSample]) -> str:
    """Identifies samples, labels and optimum."""
    return sha256(json.dumps([asdict(sample) for sample in samples]))


def write_truth(path: Path, truth: Truth) -> None:
    """Write a truth as JSON, without the fields that a sample does not have."""
    samples = [{name: value for name, value in asdict(sample).items() if value is not None} for sample in truth.samples]
    write_json(path, {"benchmark": truth.benchmark, "digest": truth.digest, "samples": samples})


def read_truth(path: Path) -> Truth:
    """Read the file of `write_truth`; an error if its samples are not those of its digest."""
    content = read_json(require(path, "the truth of a benchmark", "run evaluation.synthetic_benchmark make"))
    truth = Truth(content["benchmark"], content["digest"], [TrueSample(**sample) for sample in content["samples"]])
    if digest_of(truth.samples) != truth.digest:
        fix = "Make the benchmark again in another --root_dir"
        raise UserError(f"{path}: expected the samples of the benchmark {truth.benchmark}, got changed ones. {fix}.")
    return truth


# --- predictions


def read_answers(path: Path, truth: Truth) -> list[Prediction]:
    """The predictions of a finished run (a directory with outputs*.jsonl), or of a CSV with the columns `COLUMNS`."""
    if path.is_dir():
        return list(read_predictions(path).values())
    samples = {(sample.task, sample.subject_id): sample for sample in truth.samples}
    predictions = []
    with require(path, "a finished run or a CSV of predictions", "run test.py first").open(
        newline="",
        encoding="utf-8-sig",  # spreadsheets write a byte order mark
    ) as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS[:2]) <= set(reader.fieldnames or ()):
            raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}, got others. Write them in the first line.")
        for number, row in enumerate(reader, 2):
            sample = samples.get((row["task"], row["subject_id"]))
            if sample is None:
                raise UserError(f"{path}, row {number}: expected a sample of the benchmark, got another one. Remove the row.")
            try:
                p_yes = float(row["p_yes"]) if row.get("p_yes") else None
            except ValueError:
                p_yes = -1.0
            if p_yes is not None and not 0 <= p_yes <= 1:
                raise UserError(f"{path}, row {number}: p_yes: expected a number from 0 to 1, got another value. Fix the row.")
            predictions.append(sample.prediction(p_yes, row.get("answer") or ""))
    return predictions


def check_samples(path: Path, truth: Truth, predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """The predictions of each task that is answered, in the order of the truth.

    Raises:
        UserError: there are no predictions, some of other samples, several of a sample, or only some of a task.
    """
    by_id: dict[str, Prediction] = {}
    expected = {sample.sample_id: sample for sample in truth.samples}
    for prediction in predictions:
        sample = expected.get(prediction.sample_id)
        if sample is None or set(prediction.labels) != set(sample.labels) or prediction.sample_id in by_id:
            got = "other ones" if sample is None else "other labels" if prediction.sample_id not in by_id else "one twice"
            fix = "Evaluate the index files of the benchmark only"
            raise UserError(f"{path}: expected samples of the benchmark {truth.benchmark}, got {got}. {fix}.")
        by_id[prediction.sample_id] = prediction
    if not by_id:
        raise UserError(f"{path}: expected predictions, got none. Answer the samples of a task.")
    answered = {}
    for task, samples in truth.by_task.items():
        of_task = [by_id[sample.sample_id] for sample in samples if sample.sample_id in by_id]
        if len(of_task) not in (0, len(samples)):
            got = f"{len(of_task):,} of {len(samples):,}"
            raise UserError(f"{path}: expected all samples of {task} or none, got {got}. Answer the others, too.")
        if of_task:
            answered[task] = of_task
    return answered


# --- scores


def log_losses(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """−log of the probability given to the label, shape (n,), in nats; see `MIN_PROBABILITY`.

    >>> import numpy as np
    >>> log_losses(np.array([True, False, True]), np.array([0.5, 0.0, 0.0])).round(3).tolist()
    [0.693, 0.0, 13.816]
    """
    import numpy as np

    p = np.clip(p, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return -np.log(np.where(labels, p, 1 - p))


def squared_errors(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The terms of the Brier score, shape (n,)."""
    return (p - labels) ** 2


LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"brier": squared_errors, "log_loss": log_losses}
"""The terms of each loss of a probability; a loss is their mean."""


def regrets(
    truth: Truth, answered: Mapping[str, Sequence[Prediction]], resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The regret of a model on every task that it answers, and its means.

    Args:
        answered: the predictions of each task, as `check_samples` returns them.
        resamples, seed: of the bootstrap over patients, which resamples those of optimum and model together.

    Returns:
        `tasks.<task>`: n, patients, metric, `optimum` and `score` (of the metric), `regret`, `regret_ci` (95 % interval),
        `too_few` (why there is none); of a risk task also `brier` and `log_loss`, each {optimum, score, regret, regret_ci},
        where a regret is the loss of the model minus that of the optimum. A regret is None without p(yes), and if all samples
        have the same label; `note` says so. `mean.<kind>`: the mean regret over the benchmark's tasks of a kind, None unless
        all of them have one; `answered` and `tasks` are their numbers.
    """
    from evaluation.comparisons import Pair, compare

    samples = truth.by_task
    patients = {task: [sample.subject_id for sample in of_task] for task, of_task in samples.items()}
    optimum = {task: main_scores(task, [sample.optimum for sample in samples[task]]) for task in answered}
    scores = {task: main_scores(task, predictions) for task, predictions in answered.items()}
    pairs = {task: Pair(patients[task], optimum[task], model) for task, model in scores.items() if model is not None}
    kinds = {kind: [task for task in samples if ALL_TASKS[task].kind == kind] for kind in ("risk", "decision")}
    groups = {kind: shared for kind, members in kinds.items() if (shared := [task for task in members if task in pairs])}
    compared, means = compare(pairs, groups, resamples, seed)
    tasks: dict[str, dict[str, Any]] = {}
    for task in answered:
        tasks[task] = {"n": len(patients[task]), "patients": len(set(patients[task])), "metric": main_metric(task)}
        tasks[task] |= _values(optimum[task], scores[task], compared.get(task))
        tasks[task]["too_few"] = compared[task].too_few if task in compared else None
        if tasks[task]["regret"] is None:
            tasks[task]["note"] = "one label" if tasks[task]["optimum"] is None else "no p(yes)"
    for name, terms in LOSSES.items():
        losses = {task: (_loss(of.a, terms), _loss(of.b, terms)) for task, of in pairs.items() if of.a.labels is not None}
        # the lower a loss, the better: the regret is that of the model minus that of the optimum
        worse, _ = compare({task: Pair(patients[task], b, a) for task, (a, b) in losses.items()}, {}, resamples, seed)
        for task, (of_optimum, of_model) in losses.items():
            tasks[task][name] = _values(of_optimum, of_model, worse[task])
    mean = {}
    for kind, members in kinds.items():
        number = sum(tasks.get(task, {}).get("regret") is not None for task in members)
        regret = means[kind] if 0 < number == len(members) else None
        values = {"regret": regret and regret.difference, "regret_ci": regret and regret.ci}
        mean[kind] = values | {"answered": number, "tasks": len(members)}
    return {"tasks": tasks, "mean": mean}


def _values(optimum: Scores, model: Scores | None, regret: Comparison | None) -> dict[str, Any]:
    """A metric of the optimum and of the model, and the regret with its interval."""
    from evaluation.metrics import as_number

    best, score = (None if scores is None else as_number(scores.metric()[0]) for scores in (optimum, model))
    return {"optimum": best, "score": score, "regret": regret and regret.difference, "regret_ci": regret and regret.ci}


def _loss(scores: Scores, terms: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Scores:
    """The loss of each sample, from the probabilities of a risk task."""
    from evaluation.comparisons import Scores

    return Scores(terms(scores.labels, scores.values))


def format_regrets(result: Mapping[str, Any], truth: Truth) -> str:
    """The result of `regrets` as text: a row for each task of the benchmark, then the means."""
    rows = []
    for task, samples in truth.by_task.items():
        if (values := result["tasks"].get(task)) is None:
            rows.append([task, len(samples), main_metric(task), None, None, "not answered", "", None, None])
            continue
        numbers = [decimal(values["optimum"]), decimal(values["score"])]
        losses = [decimal(values.get(loss, {}).get("regret")) for loss in LOSSES]
        rows.append([task, len(samples), values["metric"], *numbers, *with_interval(values), *losses])
    headers = ("task", "n", "metric", "optimum", "score", "regret", "95 % interval", "Brier +", "log loss +")
    lines = [format_table(headers, rows), ""]
    for kind, mean in result["mean"].items():
        if mean["regret"] is None:
            value = f"none, as {mean['answered']} of {mean['tasks']} tasks have one"
        else:
            value = f"{' '.join(with_interval(mean))} over {mean['tasks']} tasks"
        lines.append(f"mean regret, {kind} tasks: {value}")
    for kind, mean in result["mean"].items():
        if mean["regret_ci"] and mean["regret_ci"][1] < 0:
            text = (
                "the mean regret of {} tasks is below 0 by more than chance: the model may know the answers of these samples"
            )
            lines.append(f"warning: {text.format(kind)}. Check its training data.")
    if few := [task for task, values in result["tasks"].items() if values["too_few"]]:
        lines.append(f"too few patients for intervals in {len(few)} of {len(result['tasks'])} tasks")
    return "\n".join(lines)


def with_interval(values: Mapping[str, Any]) -> tuple[str, str]:
    """A regret and its interval as text."""
    if values["regret"] is None:
        return values.get("note", ""), ""
    ci = values["regret_ci"]
    return decimal(values["regret"]), f"[{decimal(ci[0])}, {decimal(ci[1])}]" if ci else f"[{TOO_FEW}]"


def decimal(value: float | None) -> str | None:
    """Three decimals, without a minus before zero."""
    return None if value is None else f"{round(value, 3) + 0:.3f}"
