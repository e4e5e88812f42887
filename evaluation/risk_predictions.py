"""The predictions of yes/no tasks as arrays, with the rules for missing answers and p_yes, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.predictions import Prediction
from mimiciv_dataset.tasks import YES

if TYPE_CHECKING:
    import numpy as np

    from evaluation.metrics import Statistic

LOW_MASS = 0.1  # median of P(yes) + P(no) in a task, below which it says so


def risk_labels(predictions: Sequence[Prediction]) -> np.ndarray:
    """Whether the label of each prediction of a yes/no task is yes, shape (n,)."""
    import numpy as np

    return np.array([prediction.labels[0] == YES for prediction in predictions])


class RiskPredictions(NamedTuple):
    """The predictions of a yes/no task as arrays of shape (n,).

    Attributes:
        labels: whether the label is yes.
        readable: whether there is a readable answer; there is none if the prompt was too long, the reply was cut off, or says
            neither yes nor no.
        predicted: whether the answer is yes; without a readable one, the wrong answer.
        probabilities: p_yes. 0.5 for a readable answer without p_yes, as a text answer is never turned into a probability.
            Without a readable answer the worst case, 1 where the label is no and 0 where it is yes: 0.5 would rank above the
            answers of a model that rarely says yes.
        without_p_yes: number of readable answers without p_yes.
        has_p_yes: whether any complete reply has p_yes; if not, the metrics of probabilities are undefined.
    """

    labels: np.ndarray
    readable: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    without_p_yes: int
    has_p_yes: bool


def risk_predictions(predictions: Sequence[Prediction]) -> RiskPredictions:
    """The predictions of a yes/no task as arrays: the only place that decides how missing answers count."""
    import numpy as np

    from evaluation.metrics import predicts_yes

    labels = risk_labels(predictions)
    answers: list[bool | None] = []
    known: list[float | None] = []  # p_yes of the complete replies
    num_complete = 0
    for prediction in predictions:
        answer = prediction.answer
        is_empty = not prediction.response.strip()  # only p_yes was computed
        is_complete = prediction.error is None and (answer is not None or is_empty)
        num_complete += is_complete
        answers.append(predicts_yes(answer, prediction.p_yes) if is_complete else None)
        known.append(prediction.p_yes if is_complete else None)
    readable = np.array([answer is not None for answer in answers])
    predicted = np.where(readable, [bool(answer) for answer in answers], ~labels)
    probabilities = np.where(readable, [0.5 if p_yes is None else p_yes for p_yes in known], ~labels)
    without = sum(p_yes is None and answer is not None for p_yes, answer in zip(known, answers, strict=True))
    has_p_yes = not num_complete or any(p_yes is not None for p_yes in known)
    return RiskPredictions(labels, readable, predicted, probabilities, without, has_p_yes)


def score_risk(predictions: Sequence[Prediction]) -> tuple[dict[str, Any], dict[str, Statistic]]:
    """The values of a yes/no task that have no interval, and the statistics that have one.

    The metrics of probabilities are None if no complete reply has p_yes.
    """
    import numpy as np

    from evaluation.metrics import accuracy, auprc, auroc, brier, calibration, f1_binary

    labels, readable, predicted, probabilities, without, has_p_yes = risk_predictions(predictions)
    result: dict[str, Any] = {"positives": int(labels.sum()), "invalid": float(np.mean(~readable))}
    statistics = {"accuracy": partial(accuracy, labels, predicted), "f1": partial(f1_binary, labels, predicted)}
    if not has_p_yes:
        note = "no p_yes in these outputs: AUROC and the other metrics of probabilities are not defined"
        undefined = ("auroc", "auroc_ci", "auprc", "auprc_ci", "brier", "brier_ci", "ece")
        return result | dict.fromkeys(undefined) | {"note": note}, statistics
    notes = [f"{without} of {len(predictions)} rows without p_yes count as 0.5"] if without else []
    mass = [prediction.yes_no_mass for prediction in predictions if prediction.yes_no_mass is not None]
    if mass:
        result["yes_no_mass"] = float(np.median(mass))
        if has_low_mass(result):
            notes.append(f"p(yes) rests on almost no probability: the median of P(yes) + P(no) is {result['yes_no_mass']:.2g}")
    if notes:
        result["note"] = "; ".join(notes)
    bins, ece = calibration(labels, probabilities)
    ranking = {"auroc": auroc, "auprc": auprc}
    ranking = {metric: partial(function, labels, probabilities) for metric, function in ranking.items()}
    return result | {"ece": ece, "calibration": bins}, ranking | statistics | {"brier": partial(brier, labels, probabilities)}


def has_low_mass(values: Mapping[str, Any]) -> bool:
    """Whether yes and no together have so little probability in a task that p(yes) means little: `LOW_MASS`."""
    mass = values.get("yes_no_mass")
    return mass is not None and mass < LOW_MASS
