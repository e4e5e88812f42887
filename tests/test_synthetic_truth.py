"""The optimum of synthetic patients: what it takes from the sidecars, and that no answer is expected to be better."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import set_scores
from evaluation.synthetic_benchmark import RISK
from evaluation.synthetic_truth import best_answer, expected_f1, read_conditions, read_outcomes, rows_of, with_outcomes
from preprocess.synthetic.batch import Batch
from preprocess.synthetic.emergency import diagnosis, diagnosis_sets
from preprocess.synthetic.outcomes import drawn_outcomes
from preprocess.synthetic.visits import simulate
from preprocess.synthetic.vocab import CONDITIONS
from preprocess.synthetic_mimic import Settings

ITEMS = st.sets(st.sampled_from("abcd"), min_size=1).map(frozenset)


def test_diagnoses_are_drawn_as_their_distribution_says() -> None:
    """Pearson's χ² of the titles of more than 5,000 ED stays; standardised, it exceeds 4 in one of 30,000 such tests."""
    drawn: dict[int, Counter[frozenset[str]]] = defaultdict(Counter)
    for index in range(12):
        batch = Batch(5, index, Settings.batch_size, Settings.batch_size)
        for visit, titles in diagnosis(batch).group_by("visit").agg("icd_title").iter_rows():
            drawn[batch.visits.condition[visit]][frozenset(titles)] += 1
    chi_square, degrees = 0.0, 0
    for position, counts in drawn.items():
        sets = diagnosis_sets(CONDITIONS[position], "diagnosis")
        assert sum(sets.values()) == pytest.approx(1) and counts.keys() <= sets.keys()
        expected = {target: p * counts.total() for target, p in sets.items()}
        chi_square += sum((counts[target] - number) ** 2 / number for target, number in expected.items())
        degrees += len(sets) - 1
    assert len(drawn) == len(CONDITIONS)
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def test_probabilities_of_the_benchmark_are_calibrated() -> None:
    """Among the first samples of 26,000 patients, the share of yes is each probability (χ² as above)."""
    cells: dict[str, Counter[float]] = defaultdict(Counter)
    yes: dict[str, Counter[float]] = defaultdict(Counter)
    for index in range(100):
        visits = simulate(7, index, Settings.batch_size).visits
        for drawn in [drawn for drawn in drawn_outcomes(visits) if drawn.task in RISK]:
            first = np.unique(visits.patient[drawn.visits], return_index=True)[1]
            cells[drawn.task].update(drawn.probability[first].round(9).tolist())
            yes[drawn.task].update(drawn.probability[first][drawn.outcome[first]].round(9).tolist())
    assert cells.keys() == set(RISK)
    for task, counts in cells.items():
        variances = {p: n * p * (1 - p) for p, n in counts.items() if n * p * (1 - p) > 5}
        chi_square = sum((yes[task][p] - counts[p] * p) ** 2 / variance for p, variance in variances.items())
        assert len(variances) > 3 and chi_square - len(variances) < 4 * np.sqrt(2 * len(variances)), task
        assert yes[task][1.0] == counts[1.0], "certain outcomes happen"


@given(st.dictionaries(ITEMS, st.integers(1, 9), min_size=1, max_size=6), ITEMS)
def test_no_answer_has_a_larger_expected_f1(weights: dict[frozenset[str], int], other: frozenset[str]) -> None:
    sets = {target: weight / sum(weights.values()) for target, weight in weights.items()}
    answer = best_answer(sets)
    assert expected_f1(answer, sets) >= expected_f1(other, sets) - 1e-9
    assert expected_f1(other, sets) == pytest.approx(sum(p * set_scores(other, target)[2] for target, p in sets.items()))


@pytest.mark.parametrize(
    "task", ["ED_Hospitalization", "ED_Reattendance_3day", "Inpatient_Mortality", "ICU_Mortality_3day", "Readmission_60day"]
)
def test_rows_have_the_outcome_of_their_label(synthetic_root: Path, task: str) -> None:
    outcomes = read_outcomes(synthetic_root / "mimiciv")
    pairs = list(with_outcomes(rows_of(synthetic_root / f"task_index/all/{task}.csv"), outcomes[task]))
    drawn = [(json.loads(row["target"]), drawn) for row, drawn in pairs if drawn]
    assert len(drawn) > 15 and all((label == "yes") == outcome.outcome for label, outcome in drawn)
    assert all(row["hadm_id"] == outcome.hadm_id for row, outcome in pairs if outcome)


def test_rows_have_the_condition_of_their_stay(synthetic_root: Path) -> None:
    outcomes, conditions = read_outcomes(synthetic_root / "mimiciv"), read_conditions(synthetic_root / "mimiciv")
    by_name = {condition.name: condition for condition in CONDITIONS}
    for task in ("diagnosis", "diagnosis_ccs"):
        rows = list(with_outcomes(rows_of(synthetic_root / f"task_index/all/{task}.csv"), outcomes["ED_Hospitalization"]))
        assert len(rows) > 30
        for row, drawn in rows:
            sets = diagnosis_sets(by_name[conditions[drawn.stay_id]], task)
            assert frozenset(json.loads(row["target"])) in sets
