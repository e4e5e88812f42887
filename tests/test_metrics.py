"""Every metric against an independent implementation, and the laws that metrics and intervals obey."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics as sklearn

from evaluation import metrics

RNG = np.random.default_rng


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with ties, both labels present."""
    grid = st.integers(0, 8).map(lambda k: k / 8)
    pairs = draw(st.lists(st.tuples(st.booleans(), grid), min_size=2, max_size=40))
    labels = np.array([label for label, _ in pairs])
    labels[:2] = [True, False]
    return labels, np.array([score for _, score in pairs])


def sample(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = RNG(seed)
    labels = rng.random(n) < 0.3
    scores = np.clip(np.round(rng.normal(0.4 + 0.2 * labels, 0.2), 2), 0, 1)  # rounded: ties
    return labels, scores, rng.integers(0, 4, n)


def bootstrap_interval(patients: Sequence[Any], statistic: metrics.Statistic, resamples: int = 1000) -> list[float] | None:
    return metrics.interval(metrics.resample_patients(patients, resamples).apply(patients, statistic))


# --- one sample


@given(*[st.lists(st.sampled_from("abcdef"), unique=True)] * 2)
def test_set_scores_agree_with_scikit_learn(predicted: list[str], target: list[str]) -> None:
    true, predicted_flags = ([int(item in items) for item in "abcdef"] for items in (target, predicted))
    expected = sklearn.precision_recall_fscore_support(true, predicted_flags, average="binary", zero_division=0)[:3]
    assert metrics.set_scores([f" {item.upper()} " for item in predicted], target) == pytest.approx(expected)


def test_sets_ignore_case_repeats_and_blanks() -> None:
    assert metrics.set_scores(["A", "a ", ""], ["a"]) == (1, 1, 1)
    assert metrics.set_scores([], ["a"]) == metrics.set_scores([], []) == (0, 0, 0)


@given(st.text(), st.text())
@settings(deadline=None)
def test_rouge1_agrees_with_rouge_score(predicted: str, target: str) -> None:
    assert metrics.rouge1(predicted, target) == RougeScorer(["rouge1"]).score(target, predicted)["rouge1"].fmeasure


@pytest.mark.parametrize(
    ("task", "label", "answer", "p_yes", "score"),
    [
        ("labevents", ["Glucose", "Sodium"], "1. glucose\n2. SODIUM", None, 1),
        ("labevents", ["Glucose", "Sodium"], "Glucose", None, 2 / 3),
        ("labevents", ["Glucose"], "", None, 0),
        ("labevents", ["Glucose"], None, None, 0),
        ("services", "MED", "med", None, 1),
        ("next_event", "labevents", "- **labevents**", None, 1),
        ("next_event", ["labevents"], "LabEvents", None, 1),
        ("next_event", "labevents", "labevents\nemar", None, 0),  # naming all tables must not pay
        ("next_event", "labevents", None, None, 0),
        ("ICU_Stay_7day", "yes", "Yes", None, 1),
        ("ICU_Stay_7day", "yes", "no", None, 0),
        ("ICU_Stay_7day", "no", "not sure", None, 0),
        ("ICU_Stay_7day", "no", None, None, 0),
        ("ICU_Stay_7day", "yes", "no", 0.5, 1),
        ("ICU_Stay_7day", "no", "", 0.49, 1),
        ("discharge", "The man is old.", "the man is old", None, 1),
        ("discharge", "The man is old.", None, None, 0),
    ],
)
def test_the_one_score_of_a_sample(task: str, label: object, answer: str | None, p_yes: float, score: float) -> None:
    assert metrics.sample_score(task, label, answer, p_yes) == pytest.approx(score)


# --- many samples


@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_agree_with_scikit_learn(seed: int) -> None:
    labels, scores, weights = sample(seed)
    for given_weights in (None, weights):
        auroc = sklearn.roc_auc_score(labels, scores, sample_weight=given_weights)
        auprc = sklearn.average_precision_score(labels, scores, sample_weight=given_weights)
        assert metrics.auroc(labels, scores, given_weights) == pytest.approx(auroc)
        assert metrics.auprc(labels, scores, given_weights) == pytest.approx(auprc)


@pytest.mark.parametrize("seed", range(5))
def test_the_other_metrics_agree_with_scikit_learn(seed: int) -> None:
    labels, p, weights = sample(seed)
    predicted = p >= 0.5
    for given_weights in (None, weights):
        expected = (
            sklearn.brier_score_loss(labels, p, sample_weight=given_weights),
            sklearn.accuracy_score(labels, predicted, sample_weight=given_weights),
            sklearn.f1_score(labels, predicted, sample_weight=given_weights),
        )
        found = [f(labels, x, given_weights)[0] for f, x in
                 ((metrics.brier, p), (metrics.accuracy, predicted), (metrics.f1_binary, predicted))]  # fmt: skip
        assert found == pytest.approx(expected)


def test_rows_of_weights_give_a_value_each() -> None:
    labels, scores, _ = sample(0)
    rows = RNG(1).integers(0, 3, (7, len(labels)))
    predicted = scores >= 0.5
    for statistic, values in (
        (metrics.auroc, scores), (metrics.auprc, scores), (metrics.brier, scores),
        (metrics.f1_binary, predicted), (metrics.accuracy, predicted),
    ):  # fmt: skip
        one_by_one = [statistic(labels, values, row)[0] for row in rows]
        assert statistic(labels, values, rows) == pytest.approx(one_by_one)


@pytest.mark.parametrize("labels", [[], [True], [False, False]])
def test_one_label_has_no_ranking(labels: list[bool]) -> None:
    assert np.isnan(metrics.auroc(np.array(labels), np.full(len(labels), 0.3)))
    assert np.isnan(metrics.auprc(np.array(labels), np.full(len(labels), 0.3)))


@given(scored())
def test_laws_of_auroc(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    value = metrics.auroc(labels, scores)
    assert 0 <= value <= 1
    assert metrics.auroc(labels, 3 + np.exp(5 * scores)) == pytest.approx(value)  # only the order counts
    assert metrics.auroc(labels, -scores) == pytest.approx(1 - value)
    assert metrics.auroc(~labels, scores) == pytest.approx(1 - value)
    assert metrics.auroc(labels, np.zeros(len(labels))) == 0.5
    assert metrics.auroc(labels, labels) == 1 and metrics.auroc(labels, ~labels) == 0
    assert metrics.auroc(np.tile(labels, 2), np.tile(scores, 2)) == pytest.approx(value)


@given(scored())
def test_laws_of_average_precision(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = data
    assert 0 < metrics.auprc(labels, scores) <= 1 + 1e-12
    assert metrics.auprc(labels, np.zeros(len(labels))) == pytest.approx(labels.mean())
    assert metrics.auprc(labels, labels) == pytest.approx(1)


def test_calibration_of_perfect_and_of_wrong_probabilities() -> None:
    bins, error = metrics.calibration([1, 0, 0, 0, 1, 1, 1, 0], [0.25] * 4 + [0.75] * 4)
    assert error == 0 and [each["n"] for each in bins] == [4, 4]
    assert bins[0] == {"low": 0.2, "high": 0.3, "n": 4, "p": 0.25, "share": 0.25}
    assert metrics.calibration([0, 0], [1.0, 1.0])[1] == 1
    assert metrics.calibration([], []) == ([], None)


@given(scored())
def test_calibration_error_is_a_distance(data: tuple[np.ndarray, np.ndarray]) -> None:
    bins, error = metrics.calibration(*data)
    assert 0 <= error <= 1 and sum(each["n"] for each in bins) == len(data[0])


# --- uncertainty


def test_resampling_is_seeded_and_keeps_the_number_of_patients() -> None:
    patients = ["b", "a", "c", "a"]
    first, second = (metrics.resample_patients(order, 50, seed=3) for order in (patients, sorted(patients)))
    assert (first.counts == second.counts).all() and (first.counts.sum(1) == 3).all()
    assert (first.counts != metrics.resample_patients(patients, 50, seed=4).counts).any()


def test_samples_of_a_patient_are_drawn_together() -> None:
    """With all of a patient's samples alike, repeating them must not narrow the interval."""
    values = RNG(0).random(40)
    once = bootstrap_interval(range(40), partial(metrics.mean, values))
    often = bootstrap_interval(np.repeat(range(40), 25).tolist(), partial(metrics.mean, np.repeat(values, 25)))
    assert often == pytest.approx(once)


def test_resampling_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, _ = sample(2)
    statistic = partial(metrics.auroc, labels, scores)
    whole = bootstrap_interval(range(300), statistic, 40)
    monkeypatch.setattr(metrics, "_BLOCK_SIZE", 1000)
    assert bootstrap_interval(range(300), statistic, 40) == pytest.approx(whole)


COHORT = np.repeat(np.arange(120), RNG(0).integers(1, 8, 120))
"""Patients of a study's samples: 120 of them with 1 to 7 samples each."""


def f1_like(rng: np.random.Generator) -> np.ndarray:
    """Scores of samples in quarters, by patients of their own difficulty; true mean 0.4."""
    return rng.binomial(4, rng.beta(2, 3, 120)[COHORT]) / 4


def risk_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores of samples that share a patient's level; true AUROC Φ(1 / √(2·(0.7² + 0.8²)))."""
    labels, level = rng.random(len(COHORT)) < 0.3, rng.normal(0, 0.7, 120)[COHORT]
    return labels, level + labels + rng.normal(0, 0.8, len(COHORT))


@pytest.mark.parametrize(("metric", "studies"), [("f1", 800), ("auroc", 400)])
def test_intervals_cover_the_truth_as_often_as_they_say(metric: str, studies: int) -> None:
    """Studies whose samples are correlated within patients: near 95 % of the intervals hold the true value."""
    rng, covered = RNG(0), 0
    drawn = metrics.resample_patients(COHORT.tolist(), 1000)
    truth = 0.4 if metric == "f1" else NormalDist().cdf(1 / (2 * (0.7**2 + 0.8**2)) ** 0.5)
    for _ in range(studies):
        statistic = partial(metrics.mean, f1_like(rng)) if metric == "f1" else partial(metrics.auroc, *risk_like(rng))
        low, high = metrics.interval(drawn.apply(COHORT.tolist(), statistic))
        covered += low <= truth <= high
    assert 0.92 <= covered / studies <= 0.97


def test_nothing_to_resample() -> None:
    assert bootstrap_interval([], partial(metrics.mean, [])) is None
    one_label = partial(metrics.auroc, np.ones(3, dtype=bool), np.arange(3))
    assert bootstrap_interval("abc", one_label) is None


@pytest.mark.parametrize(
    ("patients", "positives", "reason"),
    [
        (range(30), None, None),
        (range(29), None, "29 patients of at least 30"),
        ([*range(29)] * 9, None, "29 patients of at least 30"),
        ([], None, "0 patients of at least 30"),
        ([5], None, "1 patient of at least 30"),
        (range(40), range(20), None),
        (range(40), range(19), "19 patients with yes of at least 20"),
        (range(40), range(21), "19 patients with no of at least 20"),
        (range(40), [], "0 patients with yes of at least 20"),
        ([*range(20), *range(40)], range(20), None),  # 20 patients with both labels, 20 with one
        ([*range(10)] * 2 + [*range(40)], range(20), "10 patients with yes of at least 20"),
    ],
)
def test_samples_for_intervals_and_tests(patients: Sequence[int], positives: Sequence[int] | None, reason: str | None) -> None:
    labels = None if positives is None else np.isin(np.arange(len(patients)), positives)
    assert metrics.too_few(list(patients), labels) == reason


def test_mean_of_replicates_leaves_undefined_tasks_out() -> None:
    nan = float("nan")
    mean = metrics.mean_replicates([np.array([1.0, nan, nan]), np.array([3.0, 2.0, nan])])
    assert mean[:2].tolist() == [2, 2] and np.isnan(mean[2])
