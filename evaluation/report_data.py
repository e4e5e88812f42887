"""What the sections of a report share: the runs, their comparisons and styles, and figures in words.

A section is a heading and a function of a `Report`; `report_page.SECTIONS` is their order. Modules of sections import this one
and `report_figures`, and `report_page` imports them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from markupsafe import Markup

from evaluation.finished_runs import FinishedRun, RunComparison, compare_pairs
from evaluation.pages.charts import NUM_SERIES, colour
from evaluation.pages.document import Cell, Content
from evaluation.score import TOO_FEW
from mimiciv_dataset.tasks import ALL_TASKS

GROUPS = {"hosp": "Hospital", "ed": "ED", "icu": "ICU", "note": "Notes"}  # of tasks: by the module of their event
KINDS = {"decision": "Decision-making", "risk": "Risk prediction", "generation": "Note generation"}

METRICS = {"f1": "F1", "auroc": "AUROC", "rouge1": "ROUGE-1", "accuracy": "accuracy"}  # in words

# Kind of task → key of its macro average in result.json, name of the metric, and its expected value for random answers.
HEADLINES = {"decision": ("decision_f1", "F1", None), "risk": ("risk_auroc", "AUROC", 0.5)}


class Style(NamedTuple):
    """How a run is drawn in all figures: besides its colour, lines have a dash pattern and points a shape."""

    colour: str
    dash: Sequence[int]
    shape: str


MODEL_STYLES = tuple(
    Style(colour(f"series-{number}"), dash, shape)
    for number, dash, shape in zip(
        range(1, NUM_SERIES + 1),
        ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [5, 2], [12, 4], [2, 4]),
        ("circle", "square", "diamond", "triangle-up", "cross", "triangle-up", "square"),
        strict=True,
    )
)
BASELINE_STYLES = (
    Style(colour("grey-1"), [4, 2], "triangle-down"),
    Style(colour("grey-2"), [1, 2], "triangle-right"),
    Style(colour("grey-3"), [6, 2, 1, 2], "triangle-left"),
)


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        runs: models in the order given, then baselines.
        resamples: of the comparisons.
        ablation: the result of scripts/reproduce/graph_ablation.sh, if the page shows it.
    """

    runs: Sequence[FinishedRun]
    resamples: int
    ablation: Mapping[str, Any] | None = None

    @cached_property
    def models(self) -> list[FinishedRun]:
        """The runs that are not baselines; the first one is the model that is judged."""
        return [run for run in self.runs if not run.baseline]

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks of any run, in the order of the benchmark."""
        return [task for task in ALL_TASKS if any(task in run.tasks for run in self.runs)]

    @cached_property
    def styles(self) -> dict[str, Style]:
        """The style of each run by its name."""
        models, baselines = itertools.cycle(MODEL_STYLES), itertools.cycle(BASELINE_STYLES)
        return {run.name: next(baselines if run.baseline else models) for run in self.runs}

    @cached_property
    def comparisons(self) -> list[RunComparison]:
        """Each model against the models after it and all baselines, where they have samples in common."""
        return compare_pairs(itertools.combinations(self.runs, 2), self.resamples)


class Section(NamedTuple):
    """A section of a report: its heading, and its content. A section without content (None) is left out."""

    heading: str
    content: Callable[[Report], Content]


# --- parts of a page


def note(text: Content) -> Markup:
    """A paragraph in small print."""
    return Markup('<p class="note">{}</p>').format(text)


def value_cell(result: Mapping[str, Any], metric: str, bold: bool = False, extra: str = "") -> Cell:
    """A cell with a value, its interval, and an extra text below."""
    value = result.get(metric)
    shown = Markup("<b>{:.3f}</b>").format(value) if bold else "–" if value is None else f"{value:.3f}"
    small = [Markup("<small>{}</small>").format(text) for text in (interval_text(result, metric), extra) if text]
    return Cell(Markup("").join([shown, *small]), value)


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


def value_text(result: Mapping[str, Any], metric: str) -> str:
    """A value with its interval as text; a dash if there is none."""
    value = result.get(metric)
    return "–" if value is None else f"{value:.3f} {interval_text(result, metric)}".strip()
