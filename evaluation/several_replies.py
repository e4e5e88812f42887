"""Scores of tasks whose prompts were answered several times (`--num_samples`): mean, majority vote and pass@k.

The j-th reply of every sample is round j. A metric of a task is its mean over the n rounds (mean@n). Votes, the best reply and
pass@k combine the n replies of a sample; docs/evaluation.md has the definitions. Functions of many samples return statistics,
as `metrics.Statistic`, so that they have the intervals of all other metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics import accuracy, auprc, auroc, brier, calibration, mean, sample_score, set_scores
from evaluation.predictions import Prediction
from inference.answers import fold_name
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError

if TYPE_CHECKING:
    from evaluation.metrics import Statistic
    from evaluation.risk_predictions import RiskPredictions

    TaskScore = tuple[dict[str, Any], dict[str, Statistic]]  # values without and statistics with an interval


def rounds_of(task: str, predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """The j-th reply of every sample, for each j; a sample whose prompt did not fit has the same non-reply in each.

    Raises:
        UserError: samples have different numbers of replies.
    """
    number = max(1 + len(prediction.further) for prediction in predictions)
    rounds: list[list[Prediction]] = [[] for _ in range(number)]
    for prediction in predictions:
        replies = (prediction, *prediction.further) if prediction.error is None else (prediction,) * number
        if len(replies) != number:
            fix = "Evaluate each --num_samples in a directory of its own"
            raise UserError(f"{task}: expected {number} replies to every sample, got fewer to some. {fix}.")
        for of_round, reply in zip(rounds, replies, strict=True):
            of_round.append(reply)
    return rounds


def mean_over_rounds(scores: Sequence[TaskScore]) -> TaskScore:
    """The mean of the values and statistics of the rounds that have them; what has no mean, such as a note, is the first one.

    What is undefined (None) in a round is undefined.
    """
    results, statistics = zip(*scores, strict=True)
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for of_round in results for name in of_round):
        values = [of_round[name] for of_round in results if name in of_round]
        result[name] = None if None in values else float(np.mean(values)) if isinstance(values[0], float) else values[0]
    if result.get("ece", 0.0) is None:
        result.pop("calibration", None)
    metrics = [name for name in statistics[0] if all(name in of_round for of_round in statistics)]
    return result, {name: partial(_mean_statistic, [of_round[name] for of_round in statistics]) for name in metrics}


def _mean_statistic(statistics: Sequence[Statistic], weights: np.ndarray) -> np.ndarray:
    return np.mean([statistic(weights) for statistic in statistics], axis=0)


def combine_answers(task: str, rounds: Sequence[Sequence[Prediction]]) -> TaskScore:
    """`majority_<metric>`, `best_<metric>` and pass@k of a decision or generation task, where they are defined."""
    metric, samples = ALL_TASKS[task].metric, list(zip(*rounds, strict=True))
    scores = np.array([[sample_score(task, each.labels, each.answer, None, each.candidates) for each in replies]
                       for replies in samples])  # fmt: skip
    statistics: dict[str, Statistic] = {}
    items = [[reply.items for reply in replies] for replies in samples]
    labels = [prediction.labels for prediction in rounds[0]]
    if metric == "f1":
        votes = [set_scores(items_of_most(of_sample), answers)[2] for of_sample, answers in zip(items, labels, strict=True)]
        statistics["majority_f1"] = partial(mean, votes)
    elif metric == "accuracy":
        votes = [most_frequent(of_sample) for of_sample in items]
        is_right = [vote == set(map(fold_name, answers)) for vote, answers in zip(votes, labels, strict=True)]
        statistics["majority_accuracy"] = partial(mean, is_right)
    if metric != "accuracy":  # where the best reply is a correct one: pass@n
        statistics[f"best_{metric}"] = partial(mean, scores.max(1))
    if metric != "rouge1":  # no reply repeats a whole note
        statistics |= pass_at(scores == 1)
    return {}, statistics


def combine_risks(rounds: Sequence[RiskPredictions]) -> TaskScore:
    """`majority_<metric>` and pass@k of a risk task, and calibration over the replies of all rounds.

    `majority_accuracy` is that of the `vote`; `majority_auroc`, `majority_auprc` and `majority_brier` are metrics of the mean
    of p(yes).
    """
    labels = rounds[0].labels
    majority, p_yes = vote(rounds)
    statistics: dict[str, Statistic] = {"majority_accuracy": partial(accuracy, labels, majority)}
    result: dict[str, Any] = {}
    if all(of_round.has_p_yes for of_round in rounds):
        for name, metric in {"auroc": auroc, "auprc": auprc, "brier": brier}.items():
            statistics[f"majority_{name}"] = partial(metric, labels, p_yes)
        pooled = np.concatenate([of_round.probabilities for of_round in rounds])
        result["calibration"], result["ece"] = calibration(np.tile(labels, len(rounds)), pooled)
    return result, statistics | pass_at(np.stack([of_round.predicted == labels for of_round in rounds], axis=1))


def vote(rounds: Sequence[RiskPredictions]) -> tuple[np.ndarray, np.ndarray]:
    """Whether most of the readable replies to each sample say yes, and the mean of p(yes); both of shape (n,).

    A tie is decided by the mean of p(yes); without it, and without a readable reply, the answer is the wrong one.
    """
    labels = rounds[0].labels
    readable = np.sum([of_round.readable for of_round in rounds], axis=0)
    says_yes = np.sum([of_round.readable & of_round.predicted for of_round in rounds], axis=0)
    p_yes = np.mean([of_round.probabilities for of_round in rounds], axis=0).round(12)  # equal means are equal numbers
    on_tie = p_yes >= 0.5 if all(of_round.has_p_yes for of_round in rounds) else ~labels
    on_tie = np.where(readable > 0, on_tie, ~labels)
    return np.where(2 * says_yes == readable, on_tie, 2 * says_yes > readable), p_yes


def items_of_most(answers: Sequence[Sequence[str]]) -> list[str]:
    """The items that more than half of the answers name, compared and returned as `answers.fold_name` spells them.

    >>> items_of_most([["Aspirin", "Zinc"], ["aspirin"], ["Heparin"]])
    ['aspirin']
    """
    counts = Counter(item for items in answers for item in set(map(fold_name, items)))
    return [item for item, count in counts.items() if 2 * count > len(answers)]


def most_frequent(answers: Sequence[Sequence[str]]) -> set[str]:
    """The items, as `answers.fold_name` spells them, of the answer given most often; of several such answers, of the first.

    Answers without items do not count.

    >>> most_frequent([["poe"], ["Emar"], [], ["emar"]])
    {'emar'}
    """
    votes = Counter(frozenset(map(fold_name, items)) for items in answers if items)
    return set(votes.most_common(1)[0][0]) if votes else set()


def pass_at(correct: np.ndarray) -> dict[str, Statistic]:
    """pass@k for k = 1, 2, 4, … and n: the probability that one of k replies is correct.

    With c correct replies of n, 1 − C(n − c, k) / C(n, k) is its unbiased estimate (Chen et al. 2021).

    Args:
        correct: shape (samples, n).
    """
    n = correct.shape[1]
    counts = correct.sum(1).tolist()
    ks = [*(2**power for power in range(n.bit_length()) if 2**power < n), n]
    return {f"pass@{k}": partial(mean, [1 - comb(n - count, k) / comb(n, k) for count in counts]) for k in ks}
