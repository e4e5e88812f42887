"""Comparisons of models: the permutation test against brute force, its laws, and the rate of false positives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.small_studies import KINDS, coverage, false_positives
from evaluation.comparisons import Comparison, Pair, Scores, compare, contributions, holm, permutation_p_values, two_sided_p

RNG = np.random.default_rng
QUARTERS = st.integers(0, 4).map(lambda k: k / 4)


@st.composite
def pairs(draw: st.DrawFn, max_size: int = 9) -> Pair:
    """Two models with many ties on samples of a few patients; half of the pairs are of risk tasks."""
    rows = draw(st.lists(st.tuples(st.integers(0, 4), QUARTERS, QUARTERS, st.booleans()), min_size=2, max_size=max_size))
    patients, a, b, labels = map(list, zip(*rows, strict=True))
    labels[:2] = True, False
    yes = np.array(labels) if draw(st.booleans()) else None
    return Pair(patients, Scores(np.array(a), yes), Scores(np.array(b), yes))


def parts_of(pair: Pair) -> np.ndarray:
    """What each patient adds to the difference."""
    return np.bincount(pair.patients, contributions(pair.a, pair.b))


def ranked(scores: Scores) -> np.ndarray:
    """Average ranks of p(yes); the values themselves for decision tasks."""
    if scores.labels is None:
        return scores.values
    return np.array([(scores.values < value).sum() + (scores.values == value).sum() / 2 for value in scores.values])


def swapped_differences(pair: Pair) -> np.ndarray:
    """The difference of the metrics after every swap of patients, computed from the swapped outputs."""
    a, b, patients = ranked(pair.a), ranked(pair.b), np.array(pair.patients)
    differences = []
    for chosen in itertools.product((False, True), repeat=5):
        swap = np.array(chosen)[patients]
        mixed = [Scores(np.where(swap, *sides), pair.a.labels).metric()[0] for sides in ((b, a), (a, b))]
        differences.append(mixed[0] - mixed[1])
    return np.array(differences)


@given(pairs())
def test_contributions_add_up_to_the_difference(pair: Pair) -> None:
    assert contributions(pair.a, pair.b).sum() == pytest.approx((pair.a.metric() - pair.b.metric())[0], abs=1e-12)


@given(pairs())
@settings(deadline=None)
def test_the_p_value_is_the_share_of_swaps_with_as_large_a_difference(pair: Pair) -> None:
    differences = np.abs(swapped_differences(pair))
    expected = (differences >= differences[0] - 1e-9).mean()  # the first swap is none
    assert permutation_p_values([parts_of(pair)]) == [pytest.approx(expected)]


@given(pairs())
@settings(deadline=None)
def test_p_values_are_not_too_small_if_the_outputs_are_interchangeable(pair: Pair) -> None:
    """Over all swaps, which are equally likely then, p ≤ α in at most a share α."""
    parts = parts_of(pair)
    signs = itertools.product((1, -1), repeat=len(parts))
    p_values = np.array([permutation_p_values([parts * sign])[0] for sign in signs])
    for alpha in np.unique(p_values):
        assert (p_values <= alpha).mean() <= alpha + 1e-12


@given(pairs(max_size=30), st.randoms())
def test_models_and_samples_in_another_order_have_the_same_p(pair: Pair, random) -> None:
    order = np.array(random.sample(range(len(pair.patients)), len(pair.patients)))
    labels = None if pair.a.labels is None else pair.a.labels[order]
    shuffled = [Scores(scores.values[order], labels) for scores in (pair.a, pair.b)]
    turned = Pair([pair.patients[index] for index in order], shuffled[1], shuffled[0])
    for max_swaps in (5000, 3):  # all swaps, and swaps at random
        (p,), (p_turned,) = (permutation_p_values([parts_of(each)], max_swaps) for each in (pair, turned))
        assert p == p_turned and 0 < p <= 1


def test_another_scale_of_p_yes_is_no_difference() -> None:
    rng = RNG(0)
    labels, scores = rng.random(50) < 0.5, rng.random(50)
    assert contributions(Scores(scores, labels), Scores(scores**3 / 10, labels)) == pytest.approx(np.zeros(50))


def test_random_swaps_agree_with_all_swaps() -> None:
    parts = RNG(0).normal(0.3, 1, 12)
    (exact,), (drawn,) = permutation_p_values([parts]), permutation_p_values([parts], max_swaps=2000)
    assert drawn == pytest.approx(exact, abs=0.04) and drawn != exact
    assert permutation_p_values([parts], 2000, seed=1) != [drawn] == permutation_p_values([parts], 2000)


def pair(a: np.ndarray, b: np.ndarray, labels: np.ndarray | None = None, per_patient: int = 1) -> Pair:
    return Pair((np.arange(len(a)) // per_patient).tolist(), Scores(a, labels), Scores(b, labels))


def test_comparison_of_models() -> None:
    rng = RNG(0)
    base = rng.random(200)
    worse, same = base - 0.1 + rng.normal(0, 0.1, 200), rng.permutation(base)
    tasks = {"clear": pair(base, worse), "alike": pair(base, base), "noise": pair(base, same)}
    found, groups = compare(tasks, {"all": list(tasks)}, 500)
    assert found["clear"].difference == pytest.approx((base - worse).mean()) and found["clear"].ci[0] > 0
    assert found["clear"].p == pytest.approx(2 / 501) and found["clear"].p_holm == pytest.approx(6 / 501)
    assert found["alike"] == (0, [0, 0], 1, 1, None)
    assert found["noise"].p > 0.05 and found["noise"].ci[0] < 0 < found["noise"].ci[1]
    assert groups["all"].difference == pytest.approx(np.mean([row.difference for row in found.values()]))
    turned, _ = compare({name: Pair(rows, b, a) for name, (rows, a, b) in tasks.items()}, {}, 500)
    assert turned["clear"].difference == pytest.approx(-found["clear"].difference)
    assert turned["clear"].p == found["clear"].p


@pytest.mark.parametrize("n", [2, 6, 29])
def test_few_samples_are_not_tested(n: int) -> None:
    better, worse = np.full(n, 0.9), np.full(n, 0.1)
    found, groups = compare(
        {"few": pair(better, worse), "many": pair(np.ones(90), np.zeros(90), None, 3)}, {"all": ["few", "many"]}
    )
    assert found["few"] == (pytest.approx(0.8), None, None, None, f"{n} patients of at least 30")
    assert found["many"].p < 0.001 and found["many"].p_holm == found["many"].p, "what is not tested is not corrected for"
    assert groups["all"] == (pytest.approx(0.9), None, None, None, f"{n} patients of at least 30")


def test_few_positives_are_not_tested() -> None:
    labels = np.arange(300) < 19
    found, _ = compare({"few": pair(labels + 0.0, 1.0 - labels, labels)}, {})
    assert found["few"] == (1, None, None, None, "19 patients with yes of at least 20")


def test_a_task_without_a_metric_is_no_test_and_no_part_of_a_group() -> None:
    one_label = np.ones(40, dtype=bool)
    tasks = {"none": pair(np.arange(40.0), np.arange(40.0), one_label), "some": pair(np.ones(40), np.ones(40))}
    found, groups = compare(tasks, {"all": ["none", "some"], "undefined": ["none"]}, 20)
    assert found["none"] == groups["undefined"] == Comparison(None, None, None, None, "0 patients with no of at least 20")
    assert groups["all"] == (0, [0, 0], 1, 1, None)


def test_a_clear_difference_on_every_task_survives_the_correction() -> None:
    """As many tasks as the paper has, each with as small a p as the resamples allow."""
    values = RNG(0).random(60)
    found, _ = compare({str(task): pair(values + 1, values) for task in range(42)}, {})
    assert all(row.p_holm < 0.05 for row in found.values())


def test_p_values_without_a_difference() -> None:
    assert permutation_p_values([]) == [] and permutation_p_values([np.zeros(0), np.zeros(3)]) == [1, 1]
    assert two_sided_p(np.array([np.nan])) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_false_positives_are_few_at_any_number_of_samples(kind: str) -> None:
    """At most 5 % of the comparisons of equally good models; at 5 %, 1 % of simulations have more than 10 in 100."""
    for n in (2, 6, 30, 50, 120):
        assert false_positives(kind, n, studies=100, resamples=200, seed=n).rule <= 0.1


@pytest.mark.parametrize(("kind", "size"), [("mean of 0.5", 30), ("mean of 0.1", 30), ("AUROC of 0.8, 50% yes", 20)])
def test_intervals_of_the_fewest_samples_hold(kind: str, size: int) -> None:
    assert coverage(kind, size, studies=300, resamples=300) >= 0.9


@given(st.lists(st.none() | st.floats(0, 1), max_size=20))
def test_laws_of_holm(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    assert [p is None for p in adjusted] == [p is None for p in p_values]
    known = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None)
    corrected = [q for _, q in known]
    assert corrected == sorted(corrected)
    assert all(p <= q <= 1 for p, q in known)
    if known:
        assert corrected[0] == pytest.approx(min(1, known[0][0] * len(known)))
