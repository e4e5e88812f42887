"""The hidden truth of synthetic patients (docs/synthetic.md) beside the rows of a task index, and the best answers to it.

The sidecars of preprocess/synthetic_mimic.py hold what no model can read from a record: the probability that each outcome was
drawn with, and the condition of each visit. They give the performance of a perfect model.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pipeline.files import require

Row = dict[str, str]  # of a CSV file
MADE_BY = "make the patients with preprocess/synthetic_mimic.py"


class DrawnOutcome(NamedTuple):
    """An outcome of a visit: the probability of yes given the latent state, and what was drawn."""

    hadm_id: str  # empty for an ED stay that does not lead to an admission
    stay_id: str
    probability: float
    outcome: bool


Outcomes = dict[str, dict[str, list[DrawnOutcome]]]  # task → subject_id → outcomes in the order of the patient's visits


def read_outcomes(mimic_dir: Path) -> Outcomes:
    """The outcomes in synthetic_truth.csv."""
    path = require(mimic_dir / "synthetic_truth.csv", "the hidden truth of synthetic patients", MADE_BY)
    outcomes: Outcomes = defaultdict(lambda: defaultdict(list))
    for row in rows_of(path):
        drawn = DrawnOutcome(row["hadm_id"], row["stay_id"], float(row["probability"]), row["outcome"] == "1")
        outcomes[row["task"]][row["subject_id"]].append(drawn)
    return {task: dict(of_patients) for task, of_patients in outcomes.items()}


def with_outcomes(
    rows: Iterable[Row], outcomes: Mapping[str, list[DrawnOutcome]]
) -> Iterator[tuple[Row, DrawnOutcome | None]]:
    """Each row of an unfiltered task index with the outcome that its label is read from; None where there is none.

    Rows of tasks at the end of an ED stay are in the order of the stays. A row of another task has the hadm_id of its
    admission, whose first row counts: the later ICU stays of an admission have no outcome.

    Args:
        rows: of one task, those of a patient in the order of the record.
        outcomes: subject_id → outcomes, of the task; for a decision task, those of any ED task.
    """
    visits: Counter[str] = Counter()
    admissions: set[str] = set()
    for row in rows:
        of_patient = outcomes.get(row["subject_id"], [])
        if row["event"] in ("edstays", "diagnosis"):
            number = visits[row["subject_id"]]
            visits[row["subject_id"]] += 1
            yield row, of_patient[number] if number < len(of_patient) else None
        else:
            is_first = row["hadm_id"] not in admissions
            admissions.add(row["hadm_id"])
            yield row, next((drawn for drawn in of_patient if is_first and drawn.hadm_id == row["hadm_id"]), None)


def read_conditions(mimic_dir: Path) -> dict[str, str]:
    """stay_id of each ED stay → the condition that drives its records, from synthetic_causes.csv.gz."""
    path = require(mimic_dir / "synthetic_causes.csv.gz", "the causes of synthetic outcomes", MADE_BY)
    return {row["stay_id"]: row["condition"] for row in rows_of(path) if row["task"] == "ED_Hospitalization"}


def best_answer(sets: Mapping[frozenset[str], float]) -> tuple[str, ...]:
    """The answer with the largest expected F1, of several the first by name.

    Args:
        sets: each set of items that can be the target, and its probability. All subsets of the items are tried, so that
            there must be few.

    An item that is probable enough is part of the answer:

    >>> best_answer({frozenset("a"): 0.3, frozenset("ab"): 0.7}), best_answer({frozenset("a"): 0.6, frozenset("ab"): 0.4})
    (('a', 'b'), ('a',))
    """
    items = sorted(frozenset().union(*sets))
    answers = [answer for size in range(1, len(items) + 1) for answer in combinations(items, size)]
    return max(answers, key=lambda answer: round(expected_f1(answer, sets), 12))


def expected_f1(answer: Iterable[str], sets: Mapping[frozenset[str], float]) -> float:
    """The mean of the F1 of an answer over targets with these probabilities; see `metrics.set_scores`."""
    answer = frozenset(answer)
    return sum(p * 2 * len(answer & target) / (len(answer) + len(target)) for target, p in sets.items())


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a CSV file, which can be gzipped."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
