"""Comparison of two models on the same samples: differences, intervals, tests and Holm's correction.

A difference is tested in two ways, and the larger p counts. The permutation test swaps the outputs of the two models, for
whole patients because the samples of a patient are not independent, and counts the swaps after which the difference is at
least as large. It is exact at any number of patients if the outputs are interchangeable, but not for models that are equally
good in unlike ways (one constant, the other rarely right). The paired bootstrap holds for those, but finds differences in the
noise of few patients or rare labels. `benchmarks/false_positives.py` measures both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from evaluation.metrics import as_number, auroc, interval, mean, mean_replicates, resample_patients, too_few

_TOLERANCE = 1e-12  # differences that are closer are equal: sums in another order differ in the last digits
_BLOCK_SIZE = 4_000_000  # signs in memory at once: 32 MB


@dataclass(frozen=True)
class Scores:
    """What the main metric of a model on a task is computed from.

    Attributes:
        values: the score of each sample, or its p(yes); shape (n,).
        labels: whether the label of each sample is yes, shape (n,): the metric is the AUROC. None: the mean of `values`.
    """

    values: np.ndarray
    labels: np.ndarray | None = None

    def metric(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The metric under each row of weights, shape (R,); see `evaluation.metrics`."""
        return mean(self.values, weights) if self.labels is None else auroc(self.labels, self.values, weights)


class Pair(NamedTuple):
    """Two models on the same samples of a task, in the same order."""

    patients: Sequence[Any]
    a: Scores
    b: Scores


class Comparison(NamedTuple):
    """Difference a − b of two models on a task: value, interval, two-sided p, and p after Holm's correction over tasks.

    `too_few` says why there are no interval and p; None if there are.
    """

    difference: float | None
    ci: list[float] | None
    p: float | None
    p_holm: float | None
    too_few: str | None = None


def compare(
    tasks: Mapping[str, Pair], groups: Mapping[str, Sequence[str]], resamples: int = 5000, seed: int = 0
) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
    """Compare two models on each task, and on groups of tasks by the mean of their metrics.

    Args:
        tasks: task → the two models on its samples.
        groups: name of a group → its tasks. Holm's correction is over the groups, as that of tasks is over the tasks.
        resamples: of the bootstrap, and largest number of swaps (see `permutation_p_values`).
        seed: of both.

    Returns:
        Comparisons of the tasks and of the groups. A task with too few samples has neither interval nor p, and neither has
        a group with such a task. Tasks without a difference are left out of the mean of a group.
    """
    resampling = resample_patients({patient for pair in tasks.values() for patient in pair.patients}, resamples, seed)
    differences: dict[str, float | None] = {}
    parts: dict[str, np.ndarray] = {}  # what each patient adds to the difference of a task
    replicates: dict[str, np.ndarray] = {}
    reasons: dict[str, str | None] = {}  # why a task has neither interval nor p
    for task, (patients, a, b) in tasks.items():
        differences[task] = as_number((a.metric() - b.metric())[0])
        reasons[task] = too_few(patients, a.labels)
        columns = [resampling.position[patient] for patient in patients]
        parts[task] = np.bincount(columns, contributions(a, b), minlength=len(resampling.position))
        if reasons[task] is None:
            replicates[task] = resampling.apply(patients, lambda weights, a=a, b=b: a.metric(weights) - b.metric(weights))

    def compared(families: Mapping[str, Sequence[str]]) -> dict[str, Comparison]:
        results, draws, family_parts = {}, {}, []
        for name, members in families.items():
            members = [task for task in members if differences[task] is not None] or members
            values = [differences[task] for task in members if differences[task] is not None]
            reason = next((reasons[task] for task in members if reasons[task]), None)
            results[name] = Comparison(float(np.mean(values)) if values else None, None, None, None, reason)
            if reason is None:
                draws[name] = mean_replicates([replicates[task] for task in members])
                family_parts.append(np.mean([parts[task] for task in members], axis=0))
        swapped = permutation_p_values(family_parts, resamples, seed)
        p_values = [max(p, two_sided_p(of_family)) for p, of_family in zip(swapped, draws.values(), strict=True)]
        for (name, of_family), p, p_holm in zip(draws.items(), p_values, holm(p_values), strict=True):
            results[name] = results[name]._replace(ci=interval(of_family), p=p, p_holm=p_holm)
        return results

    return compared({task: [task] for task in tasks}), compared(groups)


def contributions(a: Scores, b: Scores) -> np.ndarray:
    """What each sample adds to the difference of the metrics, shape (n,): their sum is the difference, a − b.

    Swapping the outputs of the two models for a sample changes the sign of its part. This holds for the AUROC too: the
    products of two samples' signs cancel in the difference of the AUROCs after a swap and after the opposite one. Ranks are
    swapped, as the AUROC depends on nothing else (Bandos, Rockette & Gur 2005): p(yes) on another scale is no difference.
    """
    if a.labels is None:
        return (a.values - b.values) / max(1, len(a.values))
    rank_a, rank_b = (share_below(scores.values, scores.values) for scores in (a, b))
    positive = a.labels.astype(bool)
    parts = np.zeros(len(positive))
    for of_label, sign in ((positive, 1), (~positive, -1)):
        others = np.concatenate([rank_a[~of_label], rank_b[~of_label]])
        if len(others):
            gain = share_below(rank_a[of_label], others) - share_below(rank_b[of_label], others)
            parts[of_label] = sign * gain / max(1, of_label.sum())
    return parts


def share_below(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The share of `reference` that is below each value, ties counting half."""
    ordered = np.sort(reference)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def permutation_p_values(parts: Sequence[np.ndarray], max_swaps: int = 5000, seed: int = 0) -> list[float]:
    """Two-sided p-values of "no difference" for several differences of the same two models.

    Args:
        parts: for each difference, what each patient adds to it; shape (patients,).
        max_swaps: if the patients with a part other than 0 can be swapped in at most this number of ways, all are counted,
            and p is exact. Otherwise this number is drawn at random, and the one that was observed counts too:
            p = (#(|d'| ≥ |d|) + 1) / (max_swaps + 1) (Phipson & Smyth 2010).
        seed: of the random swaps, which are the same for all differences.
    """
    observed = [abs(part.sum()) - _TOLERANCE for part in parts]
    p_values = {
        k: (np.abs(all_swaps(part)) >= observed[k]).mean()
        for k, part in enumerate(parts)
        if number_of_swaps(part) <= max_swaps
    }
    if drawn := [k for k in range(len(parts)) if k not in p_values]:
        matrix, threshold = np.array([parts[k] for k in drawn]).T, np.array([observed[k] for k in drawn])
        rng, as_large, block = np.random.default_rng(seed), np.ones(len(drawn)), max(1, _BLOCK_SIZE // len(matrix))
        for start in range(0, max_swaps, block):
            signs = 2.0 * rng.integers(0, 2, (min(block, max_swaps - start), len(matrix)), dtype=np.int8) - 1
            as_large += (np.abs(signs @ matrix) >= threshold).sum(0)
        p_values |= dict(zip(drawn, as_large / (max_swaps + 1), strict=True))
    return [float(p_values[k]) for k in range(len(parts))]


def number_of_swaps(parts: np.ndarray) -> int:
    """The number of swaps that can give different absolute differences; the first patient with a part stays as it is."""
    return 2 ** max(0, int(np.count_nonzero(parts)) - 1)


def all_swaps(parts: np.ndarray) -> np.ndarray:
    """The differences after these swaps, shape (swaps,)."""
    differences = np.zeros(1)
    for index, part in enumerate(parts[parts != 0]):
        differences = np.concatenate([differences + part, differences - part]) if index else differences + part
    return differences


def two_sided_p(replicates: np.ndarray) -> float:
    """Two-sided p-value of "no difference" from bootstrap replicates of a difference, ignoring NaN; 1 if all are NaN.

    p = 2·min(#(d ≤ 0) + 1, #(d ≥ 0) + 1) / (R + 1), at most 1 (Davison & Hinkley 1997, § 4.4). It is at least 2 / (R + 1), and
    at least 2m / (R + 1) after Holm's correction over m tasks: with 1,000 resamples none of the paper's 42 tasks could be
    significant.
    """
    values = replicates[~np.isnan(replicates)]
    tail = min(int((values <= 0).sum()), int((values >= 0).sum())) + 1
    return min(1.0, 2 * tail / (len(values) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Step-down adjusted p-values (Holm 1979), in the order given; None (no test) stays None and does not count.

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
