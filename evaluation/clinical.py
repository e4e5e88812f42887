"""What reviewers ask of clinical models: subgroups, decision curves and operating points, from stored predictions.

- Subgroups: the main metric of a task in groups of samples, and for risk tasks also calibration-in-the-large (mean p(yes) less
  the share of yes) and net benefit; each group is compared with the largest one of its attribute. Calibration-in-the-large,
  unlike the ECE, is not larger in small groups by chance, and unlike a slope needs no fit, which few samples cannot support.
- Decision curves: net benefit by threshold (Vickers & Elkin 2006).
- Operating points: what a fixed specificity, or a fixed number of alerts, costs and finds.

Everything but sensitivity, specificity and AUROC depends on the share of yes among the samples: in an index that was drawn
with --balance_force it is not that of the hospital.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.attributes import ATTRIBUTES, Groups, read_attributes
from evaluation.comparisons import Scores, holm
from evaluation.metrics import Resampling, as_number, interval, resample_patients, too_few, weights_by_score
from evaluation.predictions import Prediction
from evaluation.score import main_metric, main_scores
from mimiciv_dataset.tasks import ALL_TASKS

THRESHOLDS = (*(k / 100 for k in range(1, 10)), *(k / 20 for k in range(2, 20)))  # of decision curves
SPECIFICITIES = (0.80, 0.90, 0.95)
ALERTS_PER_100 = (5, 10, 20)
_TOLERANCE = 1e-9  # sums of weights in another order differ in the last digits


# --- decision curves


def net_benefit(
    labels: np.ndarray, p: np.ndarray, thresholds: Sequence[float], weights: np.ndarray | None = None
) -> np.ndarray:
    """Net benefit of alerting where p ≥ threshold, TP/n − FP/n · t/(1 − t) (Vickers & Elkin 2006); shape (R, T).

    >>> net_benefit(np.array([1, 1, 0, 0]), np.array([0.9, 0.3, 0.6, 0.1]), [0.2, 0.5])
    array([[0.4375, 0.    ]])
    """
    return _mean_columns(_benefits(labels, p, thresholds), weights)


def treat_all(labels: np.ndarray, thresholds: Sequence[float], weights: np.ndarray | None = None) -> np.ndarray:
    """Net benefit of alerting always; shape (R, T). That of alerting never is 0."""
    return net_benefit(labels, np.ones(len(labels)), thresholds, weights)


def _benefits(labels: np.ndarray, p: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """What each sample adds to n times the net benefit at each threshold; shape (n, T)."""
    t = np.asarray(thresholds, dtype=float)
    return (np.asarray(p)[:, None] >= t) * np.where(np.asarray(labels, dtype=bool)[:, None], 1.0, -t / (1 - t))


def _mean_columns(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    rows = np.ones((1, len(values))) if weights is None else np.atleast_2d(weights)
    return rows @ values / rows.sum(1, keepdims=True)


def decision_curve(risk: Scores, patients: Sequence[Any], resampling: Resampling | None) -> dict[str, Any]:
    """Net benefit of the model and of alerting always at `THRESHOLDS`, and the range where the model is useful.

    There the 95 % interval of its net benefit minus that of the better one of always and never is above 0; of several ranges
    it is the longest. Without `resampling` (too few samples) there are no intervals and no range.
    """
    curve: dict[str, Any] = {"thresholds": list(THRESHOLDS)}
    curve["net_benefit"] = net_benefit(risk.labels, risk.values, THRESHOLDS)[0].tolist()
    curve["treat_all"] = treat_all(risk.labels, THRESHOLDS)[0].tolist()
    curve |= {"net_benefit_ci": None, "useful": None}
    if resampling:
        model = resampling.apply(patients, partial(net_benefit, risk.labels, risk.values, THRESHOLDS))
        best = np.maximum(0, resampling.apply(patients, partial(treat_all, risk.labels, THRESHOLDS)))
        curve["net_benefit_ci"] = [interval(column) for column in model.T]
        curve["useful"] = longest_range(THRESHOLDS, [interval(column)[0] > 0 for column in (model - best).T])
    return curve


def longest_range(values: Sequence[float], holds: Sequence[bool]) -> list[float] | None:
    """The first and last value of the longest run of values where a condition holds; None if it never does.

    >>> longest_range([0.1, 0.2, 0.3, 0.4], [True, False, True, True])
    [0.3, 0.4]
    """
    best: list[float] = []
    current: list[float] = []
    for value, is_inside in zip(values, holds, strict=True):
        current = [*current, value] if is_inside else []
        best = max(best, current, key=len)
    return [best[0], best[-1]] if best else None


# --- operating points


def operating_point(
    labels: np.ndarray, p: np.ndarray, level: float, by: str, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Sensitivity, specificity, PPV and alerts per 100 samples at the lowest threshold that keeps to `level`, shape (R,) each.

    Args:
        level: the lowest specificity, or the largest number of alerts per 100 samples.
        by: `specificity` or `alerts_per_100`.

    The threshold is chosen anew for each row of weights, as it would be in another sample. It is inf if even the highest
    score alerts too often. An alert is p ≥ threshold; PPV is NaN without any.
    """
    positives, negatives = weights_by_score(labels, p, weights)
    # alerts from each distinct score on, and none
    true, false = (np.pad(part[:, ::-1].cumsum(1)[:, ::-1], ((0, 0), (0, 1))) for part in (positives, negatives))
    total, yes, no = positives.sum(1) + negatives.sum(1), true[:, 0], false[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        keeps = {
            "specificity": false <= no[:, None] * (1 - level) + _TOLERANCE,
            "alerts_per_100": 100 * (true + false) <= level * total[:, None] + _TOLERANCE,
        }[by]
        row, first = np.arange(len(true)), keeps.argmax(1)
        found, wrong = true[row, first], false[row, first]
        thresholds = np.append(np.unique(p), np.inf)[first]
        return {
            "threshold": thresholds,
            "sensitivity": found / yes,
            "specificity": 1 - wrong / no,
            "ppv": found / (found + wrong),
            "alerts_per_100": 100 * (found + wrong) / total,
        }


def operating_points(risk: Scores, patients: Sequence[Any], resampling: Resampling | None) -> list[dict[str, Any]]:
    """The operating points at `SPECIFICITIES` and `ALERTS_PER_100`, with 95 % intervals where samples suffice.

    `by` and `level` of each are the arguments of `operating_point`; `threshold` is None where nothing keeps to the level.
    """
    points = []
    levels = [("specificity", level) for level in SPECIFICITIES] + [("alerts_per_100", level) for level in ALERTS_PER_100]
    for by, level in levels:
        values = operating_point(risk.labels, risk.values, level, by)
        names = [name for name in values if name != "threshold"]
        threshold = float(values["threshold"][0])
        point: dict[str, Any] = {"by": by, "level": level, "threshold": threshold if math.isfinite(threshold) else None}
        draws = np.full((1, len(names)), np.nan)
        if resampling:
            draws = resampling.apply(patients, partial(_operating_values, risk, level, by, names))
        for name, of_name in zip(names, draws.T, strict=True):
            point |= {name: as_number(values[name][0]), f"{name}_ci": interval(of_name)}
        points.append(point)
    return points


def _operating_values(risk: Scores, level: float, by: str, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    values = operating_point(risk.labels, risk.values, level, by, weights)
    return np.stack([values[name] for name in names], axis=1)


# --- subgroups


class Group(NamedTuple):
    """The figures of a group, as in result.json, and the bootstrap replicates of its metrics; none if samples are too few."""

    values: dict[str, Any]
    replicates: dict[str, np.ndarray]


def subgroup_metrics(task: str, scores: Scores, threshold: float | None) -> dict[str, Scores]:
    """The metrics that are compared between groups, by name: all but the AUROC are means over samples."""
    if scores.labels is None:
        return {main_metric(task): scores}
    metrics = {"auroc": scores, "calibration_in_the_large": Scores(scores.values - scores.labels)}
    if threshold < 1:  # of samples with label yes only, nothing is left to decide
        metrics["net_benefit"] = Scores(_benefits(scores.labels, scores.values, [threshold])[:, 0])
    return metrics


def subgroups(
    metrics: Mapping[str, Scores],
    labels: np.ndarray | None,
    patients: Sequence[Any],
    groups: Sequence[Groups],
    resampling: Resampling,
) -> dict[str, Any]:
    """The metrics of a task by group of each attribute, and their differences to the largest group, with Holm's correction.

    Args:
        metrics: name → what it is computed from, over all samples of the task.
        labels: of a risk task.
        patients, groups: of each sample.
        resampling: of the patients.

    Returns:
        attribute → `reference` (the largest group) and `groups`, from large to small: n, patients, positives, `too_few`, the
        metrics with `<metric>_ci`, and `<metric>_difference` with `_ci`, `_p` and `_p_holm`, corrected over all comparisons
        of the task. An attribute with a single group is left out. p is that of a Wald test with the bootstrap's standard
        error: that of counting replicates cannot be small enough for as many comparisons.
    """
    result: dict[str, Any] = {}
    compared: list[tuple[dict[str, Any], str]] = []  # figures of a group, and the metric that is tested
    for attribute in ATTRIBUTES:
        of_sample = np.array([of_groups[attribute] for of_groups in groups])
        sizes = Counter(of_sample.tolist())
        if len(sizes) < 2:
            continue
        names = sorted(sizes, key=lambda name: (-sizes[name], name))
        by_name = {name: _group(metrics, labels, patients, of_sample == name, resampling) for name in names}
        reference, *others = by_name.values()
        for metric in metrics:
            for group in others:
                group.values.update(_difference(metric, group, reference))
                compared.append((group.values, metric))
        result[attribute] = {"reference": names[0], "groups": {name: group.values for name, group in by_name.items()}}
    adjusted = holm([values[f"{metric}_p"] for values, metric in compared])
    for (values, metric), p in zip(compared, adjusted, strict=True):
        values[f"{metric}_p_holm"] = p
    return result


def _group(
    metrics: Mapping[str, Scores],
    labels: np.ndarray | None,
    patients: Sequence[Any],
    inside: np.ndarray,
    resampling: Resampling,
) -> Group:
    """The figures of the samples that are `inside` a group."""
    of_group = [patient for patient, is_inside in zip(patients, inside, strict=True) if is_inside]
    positives = {} if labels is None else {"positives": int(labels[inside].sum())}
    reason = too_few(of_group, None if labels is None else labels[inside])
    group = Group({"n": len(of_group), "patients": len(set(of_group))} | positives | {"too_few": reason}, {})
    for metric, scores in metrics.items():
        part = Scores(scores.values[inside], None if scores.labels is None else scores.labels[inside])
        group.values.update({metric: as_number(part.metric()[0]), f"{metric}_ci": None})
        if reason is None:
            group.replicates[metric] = resampling.apply(of_group, part.metric)
            group.values[f"{metric}_ci"] = interval(group.replicates[metric])
    return group


def _difference(metric: str, group: Group, reference: Group) -> dict[str, Any]:
    """A metric of a group minus that of the reference group, with interval and p."""
    values = group.values[metric], reference.values[metric]
    difference = None if None in values else values[0] - values[1]
    result = {f"{metric}_difference": difference, f"{metric}_difference_ci": None, f"{metric}_p": None}
    if metric in group.replicates and metric in reference.replicates:
        draws = group.replicates[metric] - reference.replicates[metric]
        result |= {f"{metric}_difference_ci": interval(draws), f"{metric}_p": wald_p(difference, draws)}
    return result


def wald_p(difference: float, replicates: np.ndarray) -> float:
    """Two-sided p of "no difference", by the standard deviation of its bootstrap replicates and the normal distribution.

    >>> round(wald_p(1.96, np.array([1.0, 1.0, -1.0, -1.0]) * 0.75**0.5), 3)
    0.05
    """
    deviation = float(np.nanstd(replicates, ddof=1))
    if deviation < _TOLERANCE:  # constant in both groups
        return float(abs(difference) < _TOLERANCE)
    return math.erfc(abs(difference) / deviation / math.sqrt(2))


# --- a run


def clinical_results(
    predictions: Iterable[Prediction], groups: Mapping[str, Groups], resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Key `clinical` of result.json: what is known of each task, from its predictions.

    Args:
        predictions: of a run.
        groups: by `sample_id` (`attributes.read_attributes`); a task has subgroups if all its samples are there.
        resampling: of the run's patients.

    Returns:
        task → `threshold` (the share of yes, at which the net benefit of groups is computed), `decision_curve` and
        `operating_points` of risk tasks with p(yes), and `subgroups`.
    """
    by_task: dict[str, list[Prediction]] = {name: [] for name in ALL_TASKS}
    for prediction in predictions:
        by_task[prediction.task].append(prediction)
    results: dict[str, dict[str, Any]] = {}
    for task, of_task in by_task.items():
        scores = main_scores(task, of_task) if of_task else None
        if scores is None:
            continue
        patients, result = [prediction.subject_id for prediction in of_task], {}
        threshold = None
        if scores.labels is not None:
            enough = None if too_few(patients, scores.labels) else resampling
            threshold = float(scores.labels.mean())
            result |= {"threshold": threshold, "decision_curve": decision_curve(scores, patients, enough)}
            result["operating_points"] = operating_points(scores, patients, enough)
        if all(prediction.sample_id in groups for prediction in of_task):
            of_samples = [groups[prediction.sample_id] for prediction in of_task]
            metrics = subgroup_metrics(task, scores, threshold)
            result["subgroups"] = subgroups(metrics, scores.labels, patients, of_samples, resampling)
        if result:
            results[task] = result
    return results


def further_results(
    folder: Path, predictions: Collection[Prediction], resamples: int, seed: int, calibration_results: str | None
) -> dict[str, Any]:
    """Keys `clinical` and, with the directory of a run to fit it on, `recalibration` of a result.json."""
    resampling = resample_patients({prediction.subject_id for prediction in predictions}, resamples, seed)
    results = {"clinical": clinical_results(predictions, read_attributes(folder), resampling)}
    if calibration_results and not Path(calibration_results).exists():
        got = "no such directory, so there is no recalibration"
        print(f"warning: {calibration_results}: expected the run that recalibration is fitted on, got {got}.", file=sys.stderr)
    elif calibration_results:
        from evaluation.recalibration import recalibrated_results

        results["recalibration"] = recalibrated_results(folder, predictions, Path(calibration_results), resampling)
    return results
