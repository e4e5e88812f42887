"""Whether the answer can be recognised from the candidates alone, without the patient.

Each cue ranks the candidates of a row. Its AUROC is the probability that an answer ranks above another candidate of the same
row, averaged over rows: 0.5 if the cue says nothing.

- `position`: the place in the list, first is highest.
- `similarity`: how many character trigrams a name shares with the other candidates, on average. Lists that are made of the
  neighbours of the answer have the answer in their middle.
- `majority`: what the candidates add to a guess of the answers that are most frequent in the rows of other patients. One guess
  is made from all names, and one from the row's candidates only; the gain is the difference of the two F1. Patients are
  divided into folds, and the rows of the other folds are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from evaluation.health_checks.rows import BenchmarkRow
from evaluation.metrics import auroc, interval, mean, resample_patients, set_scores, too_few
from inference.answers import fold_name
from mimiciv_dataset.draws import text_hash

Estimate = dict[str, Any]  # n, value, ci (None: too few), too_few
NOTABLE_POSITION = 0.05  # distance of the AUROC from 0.5, and the limits of the others, from which on a cue is reported
NOTABLE_SIMILARITY = 0.6
NOTABLE_GAIN = 0.1
FOLDS = 5
GUESSES = ("majority", "majority_of_candidates", "gain")


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the intervals."""

    resamples: int = 1000
    seed: int = 0

    def estimate(self, patients: Sequence[str], values: Sequence[float]) -> Estimate:
        """The mean of one value per row, with a 95 % interval over patients.

        >>> Bootstrap().estimate(["7", "8"], [0.5, 1.0])
        {'n': 2, 'value': 0.75, 'ci': None, 'too_few': '2 patients of at least 30'}
        """
        reason = too_few(patients)
        value = float(np.mean(values)) if len(values) else None
        result = {"n": len(values), "value": value, "ci": None, "too_few": reason}
        if reason is None:
            resampling = resample_patients(patients, self.resamples, self.seed)
            result["ci"] = interval(resampling.apply(patients, lambda weights: mean(np.asarray(values), weights)))
        return result


def cue_auroc(scores: Sequence[float], is_answer: Sequence[bool]) -> float | None:
    """The AUROC of a cue in one row; None if all candidates, or none, are answers.

    >>> cue_auroc([3, 2, 1], [True, False, False]), cue_auroc([1, 1], [True, False]), cue_auroc([1, 2], [True, True])
    (1.0, 0.5, None)
    """
    if len(set(is_answer)) < 2:
        return None
    return float(auroc(np.array(is_answer), np.array(scores, dtype=float))[0])


def similarities(names: Sequence[str]) -> np.ndarray:
    """The mean cosine similarity of each name to the others, by character trigrams, shape (n,).

    >>> similarities(["tablet", "aspirin tablet", "aspirin"]).argmax().item()
    1
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), n_features=2**18, alternate_sign=False)
    matrix = vectors.transform(names)
    return (np.asarray(matrix @ matrix.sum(0).T).ravel() - 1) / max(1, len(names) - 1)


def fold_of(patient: str) -> int:
    """The fold of a patient, from 0 to `FOLDS` - 1."""
    return text_hash(patient) % FOLDS


def without_each(counts: Sequence[Counter[str]]) -> list[Counter[str]]:
    """What is counted in all folds but each one, from the counts in each.

    >>> without_each([Counter("aab"), Counter("b"), Counter("c")])[0] == Counter("bc")
    True
    """
    total = sum(counts, Counter())
    return [total - of_fold for of_fold in counts]


def most_frequent(counts: Mapping[str, int], names: Iterable[str], number: int) -> list[str]:
    """The `number` names with the highest counts, ties by name; names that do not occur are not guessed.

    >>> most_frequent({"a": 3, "b": 3, "c": 1}, ["c", "b", "a"], 2), most_frequent({"c": 1}, ["a", "c"], 2)
    (['a', 'b'], ['c'])
    """
    return sorted((name for name in names if counts.get(name)), key=lambda name: (-counts[name], name))[:number]


def majority_scores(rows: Sequence[BenchmarkRow], others: Sequence[Counter[str]], number: int) -> list[float]:
    """F1 of the `number` answers that are most frequent in the other folds, for each row; `others` as of `without_each`."""
    guesses = [most_frequent(counts, counts, number) for counts in others]
    return [set_scores(guesses[fold_of(row.patient)], row.labels)[2] for row in rows]


def measure_cues(
    rows: Sequence[BenchmarkRow], candidates: Sequence[Sequence[str]], others: Sequence[Counter[str]], bootstrap: Bootstrap
) -> dict[str, Any]:
    """The cues of a task.

    Args:
        rows: rows of the task that have candidates.
        candidates: those of each row.
        others: of how many rows each name is an answer, as of `without_each`.

    Returns:
        `rows`, `candidates` and `answers` per row (medians), `same_list` (all rows offer the same names, so that similarity
        says nothing), and the `Estimate` of each cue, or None. Risk tasks have no guesses.
    """
    number = max(1, round(median(len(row.labels) for row in rows)))
    same_list = len({frozenset(offered) for offered in candidates}) == 1
    values: dict[str, list[tuple[str, float]]] = {"position": [], "similarity": []}
    guessed = []
    for row, offered in zip(rows, candidates, strict=True):
        answers = set(map(fold_name, row.labels))
        is_answer = [fold_name(name) in answers for name in offered]
        cues = {"position": -np.arange(len(offered))} | ({} if same_list else {"similarity": similarities(offered)})
        for cue, scores in cues.items():
            if (value := cue_auroc(scores, is_answer)) is not None:
                values[cue].append((row.patient, value))
        guessed.append(set_scores(most_frequent(others[fold_of(row.patient)], offered, number), row.labels)[2])
    majority = majority_scores(rows, others, number)
    patients = [row.patient for row in rows]
    guesses = dict(zip(GUESSES, (majority, guessed, np.subtract(guessed, majority)), strict=True))
    sizes = {"rows": len(rows), "candidates": median(map(len, candidates)), "answers": number, "same_list": same_list}
    cues = {cue: bootstrap.estimate(*zip(*pairs, strict=True)) if pairs else None for cue, pairs in values.items()}
    is_risk = rows[0].task.kind == "risk"
    return sizes | cues | {name: None if is_risk else bootstrap.estimate(patients, guesses[name]) for name in GUESSES}


def notable_cues(cues: Mapping[str, Any]) -> list[str]:
    """The cues that give an answer away: those whose whole interval is beyond the limits above."""
    notable = []
    low, high = (cues["position"] or {}).get("ci") or (0.5, 0.5)
    if low > 0.5 + NOTABLE_POSITION or high < 0.5 - NOTABLE_POSITION:
        notable.append("position")
    if ((cues["similarity"] or {}).get("ci") or [0])[0] > NOTABLE_SIMILARITY:
        notable.append("similarity")
    if ((cues["gain"] or {}).get("ci") or [0])[0] > NOTABLE_GAIN:
        notable.append("majority")
    return notable
