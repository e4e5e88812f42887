"""Simulated studies with few samples: pairs of equally good models, and models whose true metric is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from evaluation.comparisons import Pair, Scores, compare, contributions, permutation_p_values, two_sided_p
from evaluation.metrics import MIN_PATIENTS, MIN_PER_LABEL, interval, resample_patients


class Rates(NamedTuple):
    """Shares of the studies with p < 0.05."""

    bootstrap: float
    permutation: float
    rule: float


# --- equally good models


def mean_pair(a: np.ndarray, b: np.ndarray, per_patient: int = 1) -> Pair:
    return Pair((np.arange(len(a)) // per_patient).tolist(), Scores(a), Scores(b))


def f1_pair(rng: np.random.Generator, n: int) -> Pair:
    """F1 in quarters, with samples that are difficult for both."""
    difficulty = rng.beta(2, 3, n)
    return mean_pair(*(rng.binomial(4, difficulty) / 4 for _ in range(2)))


def clustered_pair(rng: np.random.Generator, n: int) -> Pair:
    """Three samples per patient; each model has patients that it understands."""
    of_patient = (rng.beta(1, 2, n)[np.arange(n) // 3] for _ in range(2))
    return mean_pair(*(rng.binomial(4, skill) / 4 for skill in of_patient), per_patient=3)


def rare_pair(rng: np.random.Generator, n: int) -> Pair:
    """Accuracy of 0.1."""
    return mean_pair(*((rng.random(n) < 0.1) + 0.0 for _ in range(2)))


def constant_pair(rng: np.random.Generator, n: int) -> Pair:
    """An F1 of 0.18 on every sample, and one of 0.9 on one sample of five."""
    return mean_pair(np.full(n, 0.18), 0.9 * (rng.random(n) < 0.2))


def same_pair(rng: np.random.Generator, n: int) -> Pair:
    """The same outputs twice."""
    scores = rng.random(n)
    return mean_pair(scores, scores)


def risk_pair(rng: np.random.Generator, n: int, share: float = 0.5, per_patient: int = 1, digits: int = 9) -> Pair:
    """p(yes) of models with an AUROC of about 0.8; `share` of the labels is yes, `digits` rounds the scores to make ties."""
    patients = np.arange(n) // per_patient
    labels, level = rng.random(n) < share, rng.normal(0, 0.5, n)[patients]
    noise = [rng.normal(0, 0.5, n)[patients] + rng.normal(0, 0.5, n) for _ in range(2)]
    return Pair(patients.tolist(), *(Scores(np.round(level + labels + each, digits), labels) for each in noise))


def scale_pair(rng: np.random.Generator, n: int) -> Pair:
    """One of the models is never sure."""
    patients, a, b = risk_pair(rng, n)
    return Pair(patients, a, Scores(b.values**3 / 100, b.labels))


def random_pair(rng: np.random.Generator, n: int) -> Pair:
    """The same p(yes) for every sample, and one at random."""
    labels = rng.random(n) < 0.3
    return Pair(list(range(n)), Scores(np.full(n, 0.3), labels), Scores(rng.random(n), labels))


KINDS: dict[str, Callable[[np.random.Generator, int], Pair]] = {
    "F1": f1_pair,
    "F1, 3 samples per patient": clustered_pair,
    "accuracy of 0.1": rare_pair,
    "F1, one constant": constant_pair,
    "F1, same outputs": same_pair,
    "AUROC": risk_pair,
    "AUROC, 3 samples per patient": partial(risk_pair, per_patient=3),
    "AUROC, 5 % yes": partial(risk_pair, share=0.05),
    "AUROC, ties": partial(risk_pair, digits=0),
    "AUROC, another scale": scale_pair,
    "AUROC, constant and random": random_pair,
}


def false_positives(kind: str, n: int, studies: int, resamples: int = 1000, seed: int = 0) -> Rates:
    """The shares of significant differences in simulated studies with n samples."""
    rng = np.random.default_rng(seed)
    pairs = {str(study): KINDS[kind](rng, n) for study in range(studies)}
    by_rule, _ = compare(pairs, {}, resamples, seed)
    rule = [row.p is not None and row.p < 0.05 for row in by_rule.values()]
    resampling = resample_patients(next(iter(pairs.values())).patients, resamples, seed)  # all studies have the same patients
    bootstrap, parts = [], []
    for patients, a, b in pairs.values():
        bootstrap.append(
            two_sided_p(resampling.apply(patients, lambda weights, a=a, b=b: a.metric(weights) - b.metric(weights)))
        )
        parts.append(np.bincount(patients, contributions(a, b)))
    permutation = permutation_p_values(parts, resamples, seed)
    return Rates(*(float(np.mean(flags)) for flags in (np.less(bootstrap, 0.05), np.less(permutation, 0.05), rule)))


# --- intervals


def known_mean(rng: np.random.Generator, n: int, rate: float) -> tuple[Scores, float]:
    """Right or wrong answers of n patients, and the true share of right ones."""
    return Scores((rng.random(n) < rate) + 0.0), rate


def known_auroc(rng: np.random.Generator, positives: int, auroc: float, share: float) -> tuple[Scores, float]:
    """Normal scores of that many patients with label yes, and the true AUROC."""
    labels = np.arange(round(positives / share)) < positives
    return Scores(rng.normal(0, 1, len(labels)) + 2**0.5 * NormalDist().inv_cdf(auroc) * labels, labels), auroc


PATIENTS, POSITIVES = (5, 10, 20, MIN_PATIENTS, 50, 100), (3, 5, 10, MIN_PER_LABEL, 30, 60)
COVERAGE: dict[str, Callable[[np.random.Generator, int], tuple[Scores, float]]] = {
    **{f"mean of {rate}": partial(known_mean, rate=rate) for rate in (0.5, 0.2, 0.1)},
    **{
        f"AUROC of {auroc}, {share:.0%} yes": partial(known_auroc, auroc=auroc, share=share)
        for auroc, share in ((0.7, 0.5), (0.8, 0.5), (0.9, 0.5), (0.8, 0.1), (0.9, 0.1))
    },
}


def coverage(kind: str, size: int, studies: int, resamples: int = 1000, seed: int = 0) -> float:
    """The share of simulated studies whose interval contains the true value."""
    rng, covered, resampling = np.random.default_rng(seed), 0, None
    for _ in range(studies):
        scores, truth = COVERAGE[kind](rng, size)
        patients = list(range(len(scores.values)))
        resampling = resampling or resample_patients(patients, resamples, seed)
        ends = interval(resampling.apply(patients, scores.metric))
        covered += ends is not None and ends[0] <= truth <= ends[1]
    return covered / studies
