"""What the sections of a report share: the runs, their comparisons, and how figures are written.

A section is a heading and a function of a `Report`; `report.SECTIONS` is their order. Modules of sections import this one,
and `report` imports them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from evaluation.finished_runs import FinishedRun, RunComparison, compare_pairs
from evaluation.pages.document import Content
from evaluation.score import TOO_FEW
from mimiciv_dataset.tasks import ALL_TASKS

KINDS = {"decision": "Decision-making", "risk": "Risk prediction", "generation": "Note generation"}

# Kind of task → key of its macro average in result.json, name of the metric, and its expected value for random answers.
HEADLINES = {"decision": ("decision_f1", "F1", None), "risk": ("risk_auroc", "AUROC", 0.5)}


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        runs: models in the order given, then baselines.
        resamples: of the comparisons.
    """

    runs: Sequence[FinishedRun]
    resamples: int

    @cached_property
    def models(self) -> list[FinishedRun]:
        """The runs that are not baselines; the first one is the model that is judged."""
        return [run for run in self.runs if not run.baseline]

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks of any run, in the order of the benchmark."""
        return [task for task in ALL_TASKS if any(task in run.tasks for run in self.runs)]

    @cached_property
    def comparisons(self) -> list[RunComparison]:
        """Each model against the models after it and all baselines, where they have samples in common."""
        return compare_pairs(itertools.combinations(self.runs, 2), self.resamples)


class Section(NamedTuple):
    """A section of a report: its heading, and its content. A section without content (None) is left out."""

    heading: str
    content: Callable[[Report], Content]


# --- figures in words


def sizes_text(n: int | None, positives: int | None = None) -> str:
    """The number of samples and positives beside a figure.

    >>> sizes_text(1200), sizes_text(1200, 80), sizes_text(None)
    ('n = 1,200', 'n = 1,200, 80 yes', '')
    """
    return "" if n is None else f"n = {n:,}" + ("" if positives is None else f", {positives:,} yes")


def macro_sizes(macro: Mapping[str, Any], kind: str) -> str:
    """The number of samples and positives of a macro average."""
    return sizes_text(macro.get(f"{kind}_n") or None, macro.get("risk_positives") if kind == "risk" else None)


def bounds_text(interval: Sequence[float] | None) -> str:
    """An interval as text; empty for None.

    >>> bounds_text([0.25, 0.75]), bounds_text(None)
    ('[0.250, 0.750]', '')
    """
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""


def interval_text(result: Mapping[str, Any], metric: str) -> str:
    """The interval of a metric; "too few" if it has none for lack of samples, and empty if the metric never has one.

    >>> interval_text({"f1": 0.5, "f1_ci": [0.25, 0.75]}, "f1"), interval_text({"f1": 0.5, "f1_ci": None}, "f1")
    ('[0.250, 0.750]', 'too few')
    """
    key = f"{metric}_ci"
    if result.get(metric) is not None and key in result and result[key] is None:
        return TOO_FEW
    return bounds_text(result.get(key))
