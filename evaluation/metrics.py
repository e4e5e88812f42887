"""Metrics of the benchmark and their uncertainty: pure functions of arrays, no files, no model.

A metric over samples takes `weights`: None, one weight a sample (shape (n,)), or one row of weights a resample (shape
(R, n)); with the last it returns R values at once. The bootstrap resamples patients, not samples, because samples of
one patient are not independent; drawing patients with replacement is the same as weighting each of their samples by
how often the patient was drawn, so every replicate is a weighted metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from inference.answers import read_items, read_yes_no
from mimiciv_dataset.tasks import ALL_TASKS, NO, YES, Task

Statistic = Callable[[np.ndarray], np.ndarray]
"""From weights, shape (R, n), to the metric under each row of weights, shape (R,); NaN where it is not defined."""

_BLOCK = 4_000_000  # weights held at once while resampling: 32 MB


# --- one sample


def set_scores(predicted: Iterable[str], target: Iterable[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of a set of items against the target set, compared stripped and case-folded.

    F1 = 2·|hit| / (|predicted| + |target|) (Dice 1945). An empty prediction scores 0, as nothing right was named.

    >>> set_scores(["Aspirin", "ZINC"], ["zinc "])
    (0.5, 1.0, 0.6666666666666666)
    """
    said, true = _folded(predicted), _folded(target)
    hits = len(said & true)
    if not hits:
        return 0.0, 0.0, 0.0
    return hits / len(said), hits / len(true), 2 * hits / (len(said) + len(true))


def _folded(items: Iterable[str]) -> set[str]:
    return {folded for item in items if (folded := item.strip().casefold())}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=False)


def rouge1(predicted: str, target: str) -> float:
    """ROUGE-1 F-measure: overlap of the texts' words, each as often as it stands in both (Lin 2004), unstemmed.

    >>> round(rouge1("the old man", "The man."), 3)
    0.8
    """
    return float(_rouge().score(target, predicted)["rouge1"].fmeasure)


def said_yes(answer: str | None, p_yes: float | None = None) -> bool | None:
    """What a risk sample is taken to say: p_yes ≥ 0.5 where there is a p_yes, else its words; None where unreadable."""
    if p_yes is not None:
        return p_yes >= 0.5
    said = read_yes_no(answer)
    return None if said is None else said == YES


def sample_score(task: str | Task, label: Any, answer: str | None, p_yes: float | None = None) -> float:
    """The one score of a sample, 0 to 1, higher is better, in evaluation and as RL reward.

    Decision tasks: set F1 of the items; next_event: 1 if the one item named is the label; risk tasks: 1 if the said
    answer is the label; discharge: ROUGE-1. A reply without an answer scores 0.

    Args:
        task: the task or its name.
        label: the label(s) of the sample: a string or a list of strings.
        answer: the reply without its reasoning; None if it was cut off there.
        p_yes: for risk tasks, p(yes); it decides before the words.

    >>> sample_score("prescriptions", ["Aspirin", "Heparin"], "aspirin")
    0.6666666666666666
    >>> sample_score("ICU_Stay_7day", "no", "No."), sample_score("ICU_Stay_7day", "no", "No.", p_yes=0.7)
    (1.0, 0.0)
    """
    labels = label_list(label)
    match (ALL_TASKS[task] if isinstance(task, str) else task).metric:
        case "auroc":
            said = said_yes(answer, p_yes)
            return float(said is not None and (YES if said else NO) == labels[0].strip().casefold())
        case "rouge1":
            return rouge1(answer or "", "\n".join(labels))
        case "accuracy":
            items = read_items(answer)
            return float(len(items) == 1 and _folded(items) == _folded(labels))
        case _:
            return set_scores(read_items(answer), labels)[2]


def label_list(label: str | Iterable[str]) -> list[str]:
    """The labels of a sample as a list, whether it has one or several."""
    return [label] if isinstance(label, str) else list(label)


# --- many samples


def _rows(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights as a matrix of shape (R, n); None counts every sample once."""
    return np.ones((1, n)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)


def mean(values: Sequence[float] | np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted mean of the samples' values; shape (R,)."""
    values = np.asarray(values, dtype=float)
    rows = _rows(weights, len(values))
    return _divide(rows @ values, rows.sum(1))


def _ranked(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives and of the negatives at each distinct score, ascending; two arrays of shape (R, G)."""
    labels, scores = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=float)
    rows = _rows(weights, len(labels))
    if not len(labels):
        return rows, rows
    order = np.argsort(scores, kind="stable")
    labels, scores, rows = labels[order], scores[order], rows[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    return np.add.reduceat(rows * labels, starts, axis=1), np.add.reduceat(rows * ~labels, starts, axis=1)


def auroc_rows(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`auroc` under each row of weights, shape (R,); NaN where only one label has weight."""
    positives, negatives = _ranked(labels, scores, weights)
    below = negatives.cumsum(1) - negatives
    won = (positives * (below + negatives / 2)).sum(1)
    return _divide(won, positives.sum(1) * negatives.sum(1))


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    The Mann–Whitney form (Hanley & McNeil 1982). None if there is one label only.

    Args:
        labels: true where positive, shape (n,).
        scores: higher is more positive, shape (n,).
        weights: shape (n,), or None.
    """
    return as_number(auroc_rows(labels, scores, weights)[0])


def auprc_rows(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`auprc` under each row of weights, shape (R,); NaN where only one label has weight."""
    positives, negatives = _ranked(labels, scores, weights)
    hits, taken = (part[:, ::-1].cumsum(1)[:, ::-1] for part in (positives, positives + negatives))
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    value = _divide((positives * precision).sum(1), positives.sum(1))
    return np.where(negatives.sum(1) > 0, value, np.nan)


def auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Average precision, Σ (R_k − R_{k−1})·P_k over the distinct thresholds, without interpolation; None for one label.

    As in scikit-learn's `average_precision_score`. A constant score gets the share of positives.
    """
    return as_number(auprc_rows(labels, scores, weights)[0])


def brier(labels: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared distance of p from the outcome (Brier 1950), lower is better; shape (R,)."""
    return mean((np.asarray(p, dtype=float) - np.asarray(labels, dtype=float)) ** 2, weights)


def accuracy(labels: Sequence[Any] | np.ndarray, said: Sequence[Any] | np.ndarray, weights: Any = None) -> np.ndarray:
    """Share of samples whose said value is the label; shape (R,)."""
    return mean(np.asarray(labels) == np.asarray(said), weights)


def f1_binary(labels: np.ndarray, said: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the positive label, 2TP / (2TP + FP + FN) (van Rijsbergen 1979); 0 if none is true or said; shape (R,)."""
    labels, said = np.asarray(labels, dtype=bool), np.asarray(said, dtype=bool)
    rows = _rows(weights, len(labels))
    hits = rows @ (labels & said)
    value = np.nan_to_num(_divide(2 * hits, rows @ labels + rows @ said))
    return np.where(rows.sum(1) > 0, value, np.nan)


def calibration(labels: np.ndarray, p: np.ndarray, bins: int = 10) -> tuple[list[dict[str, float]], float | None]:
    """Reliability of probabilities in `bins` bins of equal width, and the expected calibration error.

    ECE = Σ n_b/n · |share of positives in b − mean p in b| (Naeini et al. 2015).

    Returns:
        The bins that hold samples, each {"low", "high", "n", "p" (mean), "share" (of positives)}; the ECE or None.
    """
    labels, p = np.asarray(labels, dtype=float), np.asarray(p, dtype=float)
    which = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for index in np.unique(which).tolist():
        inside = which == index
        found.append({
            "low": index / bins, "high": (index + 1) / bins, "n": int(inside.sum()),
            "p": float(p[inside].mean()), "share": float(labels[inside].mean()),
        })  # fmt: skip
    error = sum(one["n"] * abs(one["share"] - one["p"]) for one in found) / len(p) if len(p) else None
    return found, error


def as_number(value: float | np.ndarray) -> float | None:
    """A plain float; None for NaN."""
    return None if np.isnan(value) else float(value)


# --- uncertainty


@dataclass(frozen=True)
class Resampling:
    """How often each patient was drawn in each resample; shared by all metrics, tasks and models that are to be joined.

    Attributes:
        position: patient → column of `counts`.
        counts: shape (resamples, patients); every row sums to the number of patients.
    """

    position: Mapping[Any, int]
    counts: np.ndarray

    def apply(self, patients: Sequence[Any], statistic: Statistic) -> np.ndarray:
        """The statistic in every resample, shape (resamples,), for samples of these patients, in their order."""
        columns = np.array([self.position[patient] for patient in patients], dtype=int)
        block = max(1, _BLOCK // max(1, len(columns)))
        parts = [
            statistic(self.counts[start : start + block, columns].astype(float)) for start in range(0, len(self.counts), block)
        ]
        return np.concatenate(parts) if parts else np.empty(0)


def resample_patients(patients: Iterable[Any], resamples: int = 1000, seed: int = 0) -> Resampling:
    """Draw patients with replacement, as many as there are, `resamples` times (cluster bootstrap, Field & Welsh 2007).

    The patients' order and repeats do not matter: the same set and seed give the same draws.
    """
    unique = sorted(set(patients), key=str)
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, len(unique)), dtype=np.uint16)  # a patient is drawn a few times at most
    for row in counts:
        row[:] = np.bincount(rng.integers(0, max(1, len(unique)), len(unique)), minlength=len(unique))
    return Resampling({patient: index for index, patient in enumerate(unique)}, counts)


def interval(replicates: np.ndarray, level: float = 0.95) -> list[float] | None:
    """The percentile interval [low, high] of bootstrap replicates (Efron 1979); undefined replicates are left out."""
    values = replicates[~np.isnan(replicates)]
    if not len(values):
        return None
    return [float(value) for value in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def bootstrap(
    patients: Sequence[Any], statistic: Statistic, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Patient-clustered percentile interval of one statistic; several that share patients: `Resampling.apply`."""
    return interval(resample_patients(patients, resamples, seed).apply(patients, statistic), level)


class Comparison(NamedTuple):
    """Two models on one task: a − b, its interval, its two-sided p, and p after Holm's correction over the tasks."""

    difference: float | None
    ci: list[float] | None
    p: float | None
    p_holm: float | None


def compare(
    tasks: Mapping[str, tuple[Sequence[Any], Statistic, Statistic]], resamples: int = 5000, seed: int = 0
) -> dict[str, Comparison]:
    """Paired bootstrap of two models per task, on the same samples and the same resampled patients.

    Args:
        tasks: task → (patient of each sample, statistic of model a, statistic of model b), samples in the same order.
        resamples, seed: of the bootstrap.

    Returns:
        task → `Comparison`. p = 2·min(#(d ≤ 0) + 1, #(d ≥ 0) + 1) / (R + 1), at most 1 (Davison & Hinkley 1997, § 4.4):
        it cannot be below 2 / (R + 1), nor below 2m / (R + 1) after Holm's correction over m tasks: of the paper's 42 tasks
        none could be significant with 1,000 resamples, hence more by default.
    """
    shared = resample_patients({patient for patients, _, _ in tasks.values() for patient in patients}, resamples, seed)
    found: dict[str, tuple[float | None, list[float] | None, float | None]] = {}
    for task, (patients, a, b) in tasks.items():
        once = np.ones((1, len(patients)))
        replicates = shared.apply(patients, lambda weights, a=a, b=b: a(weights) - b(weights))
        found[task] = (as_number((a(once) - b(once))[0]), interval(replicates), two_sided_p(replicates))
    corrected = holm([p for _, _, p in found.values()])
    return {task: Comparison(*row, p) for (task, row), p in zip(found.items(), corrected, strict=True)}


def two_sided_p(replicates: np.ndarray) -> float | None:
    """Two-sided p that replicates of a difference give for "no difference"; None if none is defined."""
    values = replicates[~np.isnan(replicates)]
    if not len(values):
        return None
    tail = min(int((values <= 0).sum()), int((values >= 0).sum())) + 1
    return min(1.0, 2 * tail / (len(values) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Step-down adjusted p-values (Holm 1979), in the order given; None (no test was made) stays None.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tests):
        largest = max(largest, min(1.0, p * (len(tests) - rank)))
        adjusted[index] = largest
    return adjusted
