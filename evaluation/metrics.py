"""Metrics of the benchmark and their uncertainty: pure functions of arrays, without files or models.

Metrics over samples take `weights`: None (every sample counts once), one weight per sample, shape (n,), or one row of
weights per resample, shape (R, n); they return one value per row, shape (R,). The bootstrap resamples patients rather than
samples, because the samples of a patient are not independent. Drawing patients with replacement is the same as weighting
each of their samples by how often the patient was drawn, so that every replicate is a weighted metric.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from inference.answers import fold_name, read_items, read_yes_no
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import ALL_TASKS, NO, YES, Task

# From weights, shape (R, n), to the metric under each row of weights, shape (R,) or, for several metrics, (R, k); NaN where it
# is not defined.
Statistic = Callable[[np.ndarray], np.ndarray]
_LEVEL = 0.95  # of intervals
_BLOCK_SIZE = 4_000_000  # weights in memory at once while resampling: 32 MB


# The fewest samples that have intervals and tests. With these, 95 % intervals contain the true value in about 90 % of studies;
# with fewer, in as few as 40 % (`benchmarks/false_positives.py`, docs/evaluation.md). The bootstrap of few patients cannot
# draw what the sample does not contain, and that of an AUROC depends on the rarer label.
MIN_PATIENTS = 30
MIN_PER_LABEL = 20  # patients with a positive sample, and with a negative one


# --- one sample


def set_scores(predicted: Iterable[str], target: Iterable[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of a set of items against the target set; items are compared with `answers.fold_name`.

    F1 = 2·|predicted ∩ target| / (|predicted| + |target|) (Dice 1945). All three are 0 if no item is correct, also for an
    empty prediction.

    >>> set_scores(["Aspirin", "ZINC"], ["zinc "])
    (0.5, 1.0, 0.6666666666666666)
    """
    predicted_items, target_items = _folded(predicted), _folded(target)
    correct = len(predicted_items & target_items)
    if not correct:
        return 0.0, 0.0, 0.0
    precision, recall = correct / len(predicted_items), correct / len(target_items)
    return precision, recall, 2 * correct / (len(predicted_items) + len(target_items))


def _folded(items: Iterable[str]) -> set[str]:
    return {folded for item in items if (folded := fold_name(item))}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=False)


def rouge1(predicted: str, target: str) -> float:
    """ROUGE-1 F-measure (Lin 2004): overlap of unigrams, counted with multiplicity, without stemming.

    >>> round(rouge1("the old man", "The man."), 3)
    0.8
    """
    return float(_rouge().score(target, predicted)["rouge1"].fmeasure)


def predicts_yes(answer: str | None, p_yes: float | None = None) -> bool | None:
    """Whether a reply to a risk task predicts yes: p_yes ≥ 0.5 if p_yes is given, else as the answer's text says.

    None if there is no p_yes and the text says neither yes nor no.
    """
    if p_yes is not None:
        return p_yes >= 0.5
    text = read_yes_no(answer)
    return None if text is None else text == YES


def sample_score(
    task: str | Task, label: Any, answer: str | None, p_yes: float | None = None, candidates: Collection[str] = ()
) -> float:
    """The score of a single sample in evaluation, and its reward in RL: from 0 to 1, higher is better.

    Decision tasks: F1 of the set of items; next_event: 1 if the reply names one item and it is the label; risk tasks: 1 if
    the predicted answer is the label; discharge: ROUGE-1. A reply without an answer scores 0.

    Args:
        task: the task or its name.
        label: the correct answer, or several.
        answer: the reply without its reasoning; None if it was cut off inside its reasoning.
        p_yes: for risk tasks, P(yes) / (P(yes) + P(no)); takes precedence over the text.
        candidates: the answers offered in the prompt. They and the label only decide what is part of an item's name
            (`read_items`).

    >>> sample_score("prescriptions", ["Aspirin", "Heparin"], "aspirin")
    0.6666666666666666
    >>> sample_score("ICU_Stay_7day", "no", "No."), sample_score("ICU_Stay_7day", "no", "No.", p_yes=0.7)
    (1.0, 0.0)
    """
    labels = label_list(label)
    match (ALL_TASKS[task] if isinstance(task, str) else task).metric:
        case "auroc":
            yes = predicts_yes(answer, p_yes)
            return float(yes is not None and (YES if yes else NO) == labels[0].strip().casefold())
        case "rouge1":
            return rouge1(answer or "", "\n".join(labels))
        case "accuracy":
            items = read_items(answer, {*candidates, *labels})
            return float(len(items) == 1 and _folded(items) == _folded(labels))
        case _:
            return set_scores(read_items(answer, {*candidates, *labels}), labels)[2]


# --- many samples


def _weight_rows(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights as a matrix of shape (R, n); None counts every sample once."""
    return np.ones((1, n)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The elementwise quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


def mean(values: Sequence[float] | np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of one value per sample, shape (n,); returns shape (R,)."""
    values = np.asarray(values, dtype=float)
    rows = _weight_rows(weights, len(values))
    return _divide(rows @ values, rows.sum(1))


def weights_by_score(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Total weight of the positives and of the negatives at each of G distinct scores, ascending; two arrays (R, G)."""
    labels, scores = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    rows = _weight_rows(weights, len(labels))
    if not len(labels):
        return rows, rows
    order = np.argsort(scores, kind="stable")
    labels, scores, rows = labels[order], scores[order], rows[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return np.add.reduceat(rows * labels, starts, axis=1), np.add.reduceat(rows * ~labels, starts, axis=1)


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    Computed as the Mann–Whitney statistic (Hanley & McNeil 1982); shape (R,). NaN where only one label has weight.
    """
    positives, negatives = weights_by_score(labels, scores, weights)
    below = negatives.cumsum(1) - negatives
    concordant = (positives * (below + negatives / 2)).sum(1)
    return _divide(concordant, positives.sum(1) * negatives.sum(1))


def auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, Σ (R_k − R_{k−1})·P_k over the distinct thresholds, without interpolation; shape (R,).

    Defined as scikit-learn's `average_precision_score`; NaN where only one label has weight. A constant score gets the share
    of positives.
    """
    positives, negatives = weights_by_score(labels, scores, weights)
    true, predicted = (part[:, ::-1].cumsum(1)[:, ::-1] for part in (positives, positives + negatives))
    precision = np.divide(true, predicted, out=np.zeros_like(true), where=predicted > 0)
    value = _divide((positives * precision).sum(1), positives.sum(1))
    return np.where(negatives.sum(1) > 0, value, np.nan)


def brier(labels: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Brier score (Brier 1950): mean squared difference of probability and outcome, lower is better; shape (R,)."""
    return mean((np.asarray(p, dtype=float) - np.asarray(labels, dtype=float)) ** 2, weights)


def accuracy(labels: Sequence[Any] | np.ndarray, predicted: Sequence[Any] | np.ndarray, weights: Any = None) -> np.ndarray:
    """Share of samples whose prediction is the label; shape (R,)."""
    return mean(np.asarray(labels) == np.asarray(predicted), weights)


def f1_binary(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the positive label, 2TP / (2TP + FP + FN) (van Rijsbergen 1979); shape (R,).

    0 if no sample is positive or predicted positive; NaN if no sample has weight.
    """
    labels, predicted = np.asarray(labels, dtype=bool), np.asarray(predicted, dtype=bool)
    rows = _weight_rows(weights, len(labels))
    value = np.nan_to_num(_divide(2 * (rows @ (labels & predicted)), rows @ labels + rows @ predicted))
    return np.where(rows.sum(1) > 0, value, np.nan)


def calibration(labels: np.ndarray, p: np.ndarray, bins: int = 10) -> tuple[list[dict[str, float]], float | None]:
    """Reliability diagram of probabilities in bins of equal width, and the expected calibration error (ECE).

    ECE = Σ_b n_b/n · |share of positives in b − mean p in b| (Naeini et al. 2015).

    Returns the bins that hold samples, each {"low", "high", "n", "p" (mean), "share" (of positives)}, and the ECE or None.
    """
    labels, p = np.asarray(labels, dtype=float), np.asarray(p, dtype=float)
    bin_of_sample = np.minimum((p * bins).astype(int), bins - 1)
    filled: list[dict[str, float]] = []
    for number in np.unique(bin_of_sample).tolist():
        inside = bin_of_sample == number
        filled.append({"low": number / bins, "high": (number + 1) / bins, "n": int(inside.sum())})
        filled[-1] |= {"p": float(p[inside].mean()), "share": float(labels[inside].mean())}
    ece = sum(each["n"] * abs(each["share"] - each["p"]) for each in filled) / len(p) if len(p) else None
    return filled, ece


def as_number(value: float | np.ndarray) -> float | None:
    """A Python float; None for NaN."""
    return None if np.isnan(value) else float(value)


# --- uncertainty


@dataclass(frozen=True)
class Resampling:
    """How often each patient is drawn in each resample, shared by all metrics, tasks and models that are compared."""

    position: Mapping[Any, int]  # patient → column of `counts`
    counts: np.ndarray  # shape (resamples, patients); every row sums to the number of patients

    def apply(self, patients: Sequence[Any], statistic: Statistic) -> np.ndarray:
        """The statistic of the samples of these patients, in the same order, in every resample; shape (resamples, …)."""
        columns = np.array([self.position[patient] for patient in patients], dtype=int)
        block = max(1, _BLOCK_SIZE // max(1, len(columns)))
        blocks = [self.counts[start : start + block, columns] for start in range(0, len(self.counts), block)]
        return np.concatenate([statistic(counts.astype(float)) for counts in blocks] or [np.empty(0)])


def resample_patients(patients: Iterable[Any], resamples: int = 1000, seed: int = 0) -> Resampling:
    """Draw as many patients as there are with replacement, `resamples` times (cluster bootstrap, Field & Welsh 2007).

    Depends on the set of patients and the seed only, not on order or repeats.
    """
    unique = sorted(set(patients), key=str)
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, len(unique)), dtype=np.uint16)  # no patient is drawn 65,536 times
    for row in counts:
        row[:] = np.bincount(rng.integers(0, max(1, len(unique)), len(unique)), minlength=len(unique))
    return Resampling({patient: index for index, patient in enumerate(unique)}, counts)


def interval(replicates: np.ndarray) -> list[float] | None:
    """95 % percentile interval [low, high] of bootstrap replicates (Efron 1979), ignoring NaN; None if all are NaN."""
    values = replicates[~np.isnan(replicates)]
    return np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist() if len(values) else None


def mean_replicates(of_tasks: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over tasks in every resample, from the replicates of each task, shape (resamples,).

    A task may be undefined (NaN) in a resample; the mean is then over the other tasks.
    """
    draws = np.stack(of_tasks)
    return _divide(np.nansum(draws, axis=0), (~np.isnan(draws)).sum(axis=0))


def too_few(patients: Sequence[Any], labels: np.ndarray | None = None) -> str | None:
    """Why samples are too few for intervals and tests, as text; None if they are enough.

    Args:
        patients: the patient of each sample.
        labels: for risk tasks, whether the label of each sample is yes.

    >>> too_few([7, 7, 8]), too_few(range(30)), too_few(range(40), np.arange(40) < 15)
    ('2 patients of at least 30', None, '15 patients with yes of at least 20')
    """
    groups: list[tuple[str, set[Any], int]] = [("", set(patients), MIN_PATIENTS)]
    for label, name in ((True, YES), (False, NO)) if labels is not None else ():
        of_label = {patient for patient, yes in zip(patients, labels, strict=True) if yes == label}
        groups.append((f" with {name}", of_label, MIN_PER_LABEL))
    for what, group, least in groups:
        if len(group) < least:
            return f"{len(group)} patient{'' if len(group) == 1 else 's'}{what} of at least {least}"
    return None
