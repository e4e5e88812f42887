"""Recalibration of p(yes), fitted on other patients: Platt scaling and isotonic regression for each risk task.

The fit uses the outputs of a finished run of the same model and settings on training or held-out patients
(`python -m evaluation.score DIR --calibration_results CALIBRATION_DIR`), and is judged on the run: calibration and Brier score
before and after, with intervals over its patients. Without a readable answer, p(yes) stays the worst case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.finished_runs import made_from_record
from evaluation.metrics import Resampling, as_number, auroc, brier, calibration, interval, mean, too_few
from evaluation.predictions import Prediction, read_predictions
from evaluation.risk_predictions import risk_predictions
from evaluation.several_replies import rounds_of, vote
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from pipeline.files import require

BINS = 10  # of the ECE
_LEAST = 1e-6  # p(yes) is kept this far from 0 and 1, where its logit is infinite

Recalibrator = Callable[[np.ndarray], np.ndarray]  # p(yes) → recalibrated p(yes)


class Risks(NamedTuple):
    """A risk task of a run: whether labels are yes, p(yes), and whether there is a readable answer, shape (n,) each."""

    labels: np.ndarray
    p: np.ndarray
    readable: np.ndarray
    patients: list[str]


def logit(p: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)), of p between `_LEAST` and 1 − `_LEAST`."""
    p = np.clip(p, _LEAST, 1 - _LEAST)
    return np.log(p / (1 - p))


def fit_platt(labels: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of Platt scaling: logit(p') = intercept + slope · logit(p), by maximum likelihood.

    The targets are (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) instead of 1 and 0 (Platt 1999), so that the fit is finite where p
    separates the labels.
    """
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(labels, dtype=bool)
    yes, no = labels.sum(), (~labels).sum()
    target = np.where(labels, (yes + 1) / (yes + 2), 1 / (no + 2))
    x = logit(p)[:, None]
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    # a sample of target t is one of label yes with weight t, and one of label no with weight 1 − t
    model.fit(np.concatenate([x, x]), np.repeat([True, False], len(x)), np.concatenate([target, 1 - target]))
    return float(model.intercept_[0]), float(model.coef_[0, 0])


def apply_platt(p: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    """Recalibrated p(yes) by the parameters of `fit_platt`."""
    return 1 / (1 + np.exp(-(intercept + slope * logit(p))))


def fit_isotonic(labels: np.ndarray, p: np.ndarray) -> Recalibrator:
    """The non-decreasing function of p(yes) with the least Brier score (Zadrozny & Elkan 2002), linear between its steps."""
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, labels).predict


def ece(labels: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error in `BINS` bins of equal width, as `metrics.calibration`; shape (R,)."""
    inside = np.minimum((p * BINS).astype(int), BINS - 1)[:, None] == np.arange(BINS)
    return np.abs(weights @ (inside * (labels - p)[:, None])).sum(1) / weights.sum(1)


def calibration_scores(risks: Risks, p: np.ndarray, resampling: Resampling | None) -> dict[str, Any]:
    """Calibration, Brier score and AUROC of probabilities, with intervals if there is a `resampling`."""
    labels = risks.labels.astype(float)
    statistics = {
        "brier": partial(brier, labels, p),
        "ece": partial(ece, labels, p),
        "calibration_in_the_large": partial(mean, p - labels),
        "auroc": partial(auroc, labels, p),
    }
    values: dict[str, Any] = {}
    for name, statistic in statistics.items():
        values[name] = as_number(statistic(np.ones((1, len(p))))[0])
        values[f"{name}_ci"] = interval(resampling.apply(risks.patients, statistic)) if resampling else None
    return values | {"calibration": calibration(labels, p, BINS)[0]}


def recalibrate(fitted_on: Risks, risks: Risks, resampling: Resampling) -> dict[str, Any]:
    """Fit on one run and judge on another one.

    Returns:
        `n` and `positives` of the fit, `too_few` (why there is none, or None), and the `calibration_scores` of `before`,
        `platt` and `isotonic`; `platt` also has `intercept` and `slope`.
    """
    labels, p = fitted_on.labels[fitted_on.readable], fitted_on.p[fitted_on.readable]
    patients = [patient for patient, readable in zip(fitted_on.patients, fitted_on.readable, strict=True) if readable]
    result: dict[str, Any] = {"n": len(p), "positives": int(labels.sum()), "too_few": too_few(patients, labels)}
    if result["too_few"]:
        return result
    intercept, slope = fit_platt(labels, p)
    methods: dict[str, Recalibrator] = {
        "before": lambda p: p,
        "platt": lambda p: apply_platt(p, intercept, slope),
        "isotonic": fit_isotonic(labels, p),
    }
    enough = None if too_few(risks.patients, risks.labels) else resampling
    for name, method in methods.items():
        after = np.where(risks.readable, method(risks.p), risks.p)
        result[name] = calibration_scores(risks, after, enough)
    result["platt"] |= {"intercept": intercept, "slope": slope}
    return result


def risks_by_task(predictions: Iterable[Prediction]) -> dict[str, Risks]:
    """The risk tasks with p(yes); of several replies it is their mean."""
    by_task: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if ALL_TASKS[prediction.task].kind == "risk":
            by_task[prediction.task].append(prediction)
    result = {}
    for task, of_task in by_task.items():
        rounds = list(map(risk_predictions, rounds_of(task, of_task)))
        if all(of_round.has_p_yes for of_round in rounds):
            readable = np.any([of_round.readable for of_round in rounds], axis=0)
            patients = [prediction.subject_id for prediction in of_task]
            result[task] = Risks(rounds[0].labels, vote(rounds)[1], readable, patients)
    return result


def recalibrated_results(
    folder: Path, predictions: Collection[Prediction], calibration_folder: Path, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Key `recalibration` of result.json: `recalibrate` of each risk task that both runs have.

    Raises:
        UserError: the runs are not of the same model and settings, or have patients in common.
    """
    require(calibration_folder / "result.json", "the result of a finished run", "run test.py to its end first")
    others = read_predictions(calibration_folder).values()
    made_from = made_from_record(calibration_folder)
    where = f"--calibration_results {calibration_folder}"
    if made_from is None or made_from != made_from_record(folder):
        got = "one without provenance.json" if made_from is None else "another one"
        raise UserError(f"{where}: expected a run of the model and settings of {folder}, got {got}. Run test.py with them.")
    common = {each.subject_id for each in predictions} & {each.subject_id for each in others}
    if common:
        fix = "Evaluate training patients there"
        raise UserError(f"{where}: expected other patients than in {folder}, got {len(common):,} in common. {fix}.")
    fitted_on, of_run = risks_by_task(others), risks_by_task(predictions)
    return {task: recalibrate(fitted_on[task], risks, resampling) for task, risks in of_run.items() if task in fitted_on}
