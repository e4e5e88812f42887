"""The sections with curves of p(yes): ROC and calibration of every risk task."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evaluation.finished_runs import FinishedRun
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import details, grid
from evaluation.predictions import Prediction
from evaluation.report_data import GROUPS, Report, Style, bounds_text, note, sizes_text
from evaluation.report_figures import SMALL, series_encodings
from evaluation.risk_predictions import risk_predictions
from evaluation.score import TOO_FEW, main_scores
from evaluation.several_replies import rounds_of
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.progress import counted

if TYPE_CHECKING:
    import altair

MIN_OF_BIN = 10  # patients of a bin that is drawn in a reliability diagram
MAX_DRAWN = 4  # models in a reliability diagram, which is illegible with more
MANY = 6  # tasks of a section, above which they are in a collapsed part for each group of tasks
TICKS = [0, 0.5, 1]
Drawn = list[tuple[FinishedRun, Mapping[str, Any]]]  # runs with their result of a task


def roc(report: Report) -> Markup | None:
    """ROC curve of every risk task, from the stored p(yes)."""
    words = "ROC curves: sensitivity against 1 − specificity, with AUROC and its 95 % interval. Dashed diagonal: chance."
    if any("replies" in values for run in report.runs for values in run.tasks.values()):
        words += " Of several replies, they are those of the mean p(yes) (majority_auroc)."
    return _section(report, report.runs, words, _roc)


def calibration(report: Report) -> Markup | None:
    """Reliability diagram of the models in every risk task: bins with few patients are noise, and not drawn."""
    words = (
        f"Above: share of yes in those of ten bins of p(yes) that have at least {MIN_OF_BIN} patients, with 95 % intervals "
        "(Wilson; n is the number of patients in the bin); on the dashed diagonal, p(yes) is calibrated. Below: number of "
        "samples in each bin. ECE: expected calibration error. Values has all bins, and All metrics the ECE of baselines."
    )
    if len(report.models) > MAX_DRAWN:
        words += f" The first {MAX_DRAWN} models of a task are drawn; Values has all of them."
    if any("replies" in values for run in report.runs for values in run.tasks.values()):
        words += " Of several replies, all count."
    return _section(report, report.models, words, _reliability)


def _section(
    report: Report, runs: Sequence[FinishedRun], words: str, figure_of: Callable[[Report, str, Drawn], Markup]
) -> Markup | None:
    """Figures of the risk tasks, by group if they are many; tasks that no run has enough samples of are listed below."""
    figures: dict[str, list[Markup]] = defaultdict(list)
    few = []
    for task in report.tasks:
        drawn = [(run, run.tasks[task]) for run in runs if run.tasks.get(task, {}).get("calibration")]
        if drawn and all(result["too_few"] for _, result in drawn):
            reasons = dict.fromkeys(result["too_few"] for _, result in drawn)
            few.append([task, "; ".join(reasons)])
        elif drawn:
            event = EVENTS.get(ALL_TASKS[task].event or "")
            figures[GROUPS[event.module] if event else "Other"].append(figure_of(report, task, drawn))
    if not figures and not few:
        return None
    total = sum(map(len, figures.values()))
    if total > MANY:
        parts = [
            details(f"{group}: {counted(len(members), 'task')}", grid(members, 320), is_open=number == 0)
            for number, (group, members) in enumerate(figures.items())
        ]
    else:
        parts = [grid([member for members in figures.values() for member in members], 320)] if figures else []
    lacking = [note(f"Too few samples for curves: {'; '.join(f'{task} ({reason})' for task, reason in few)}.")] if few else []
    return Markup("").join([note(words), *parts, *lacking])


def _labelled(report: Report, drawn: Drawn, label: Callable[[Mapping[str, Any]], str]) -> dict[str, tuple[str, Style]]:
    """The legend: name of a run → its text, which has its figures or says that its samples are too few, and its style."""
    return {
        run.name: (f"{TOO_FEW if result['too_few'] else label(result)} {run.name}", report.styles[run.name])
        for run, result in drawn
    }


def _sizes(drawn: Drawn) -> str:
    return "; ".join(dict.fromkeys(sizes_text(result["n"], result["positives"]) for _, result in drawn))


def _roc(report: Report, task: str, drawn: Drawn) -> Markup:
    import altair as alt

    name = "majority_auroc" if any("majority_auroc" in result for _, result in drawn) else "auroc"
    legend = _labelled(report, drawn, lambda result: f"{result[name]:.3f} {bounds_text(result.get(f'{name}_ci'))}")
    values = []
    for run, result in drawn:
        if not result["too_few"] and (points := roc_points(task, run.predictions[task])):
            x, y = zip(*points, strict=True)
            values.append({"series": legend[run.name][0], "x": [round(v, 4) for v in x], "y": [round(v, 4) for v in y]})
    look = series_encodings(dict(legend.values()))
    x, y = (_axis(channel, title) for channel, title in ((alt.X, "1 − specificity"), (alt.Y, "sensitivity")))
    lines = alt.Chart(alt.Data(values=values)).transform_flatten(["x", "y"])
    lines = lines.transform_window(order="row_number()").mark_line(strokeWidth=2, interpolate="linear")
    lines = lines.encode(x=x, y=y, color=look["color"], strokeDash=look["strokeDash"], order="order:Q")
    figure = alt.layer(_diagonal(), lines).properties(width=SMALL, height=SMALL)
    rows = [[run.name, result.get(name), bounds_text(result.get(f"{name}_ci")) or TOO_FEW] for run, result in drawn]
    return chart(figure, task, f"ROC curves of {task}: {_sizes(drawn)}", ("run", "AUROC", "95 % interval"), rows)


def _reliability(report: Report, task: str, drawn: Drawn) -> Markup:
    import altair as alt

    legend = _labelled(report, drawn[:MAX_DRAWN], lambda result: f"ECE {result['ece']:.3f}")
    shown = [run.name for run, result in drawn[:MAX_DRAWN] if not result["too_few"]]
    values, rows = [], []
    for run, result in [(run, result) for run, result in drawn if not result["too_few"]]:
        patients = patients_of_bins(task, run.predictions[task])
        for each in result["calibration"]:
            number = patients[round(each["low"] * 10)]
            ends = wilson(each["share"], number)
            name = f"{each['low']:.1f} to {each['high']:.1f}"
            rows.append([name, run.name, each["n"], number, each["p"], each["share"], bounds_text(ends)])
            if run.name not in shown:
                continue
            # Bars of the runs are side by side.
            left, right = (each["low"] + 0.1 * (shown.index(run.name) + end) / len(shown) for end in (0.1, 0.9))
            of_bin = {"p": each["p"], "share": each["share"], "low": ends[0], "high": ends[1], "left": left, "right": right}
            values.append({"series": legend[run.name][0], "run": run.name, "bin": name, "n": each["n"], "patients": number})
            values[-1] |= {key: round(value, 4) for key, value in of_bin.items()}
    look = series_encodings(dict(legend.values()))
    base = alt.Chart(alt.Data(values=values))
    x, y = _axis(alt.X, "mean p(yes)", "p"), _axis(alt.Y, "share of yes", "share")
    tooltip = [alt.Tooltip("run:N"), alt.Tooltip("bin:N", title="p(yes)"), alt.Tooltip("n:Q"), alt.Tooltip("patients:Q")]
    tooltip.append(alt.Tooltip("share:Q", title="share of yes", format=".3f"))
    large = alt.Chart(alt.Data(values=[each for each in values if each["patients"] >= MIN_OF_BIN]))
    interval = large.mark_rule(opacity=0.5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=look["color"])
    point = large.mark_point(filled=True, size=40, opacity=1).encode(
        x=x, y=y, color=look["color"], shape=look["shape"], tooltip=tooltip
    )
    above = alt.layer(_diagonal(), interval, point).properties(width=SMALL, height=SMALL)
    x_bins = alt.X("left:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title="p(yes)", values=TICKS))
    y_bins = alt.Y("n:Q", axis=alt.Axis(title="n", tickCount=2, grid=False))
    below = base.mark_rect().encode(x=x_bins, x2="right:Q", y=y_bins, y2=alt.Y2Datum(0), color=look["color"], tooltip=tooltip)
    figure = alt.vconcat(above, below.properties(width=SMALL, height=46), spacing=6)
    columns = ("bin of p(yes)", "run", "n", "patients", "mean p(yes)", "share of yes", "95 % interval")
    return chart(figure, task, f"Calibration of {task}: {_sizes(drawn)}", columns, rows)


def _axis(channel: Any, title: str, field: str | None = None) -> Any:
    """An axis of fractions; `field` is named after the channel by default."""
    import altair as alt

    field = field or channel.__name__.lower()
    return channel(f"{field}:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title=title, values=TICKS, domain=False))


def _diagonal() -> altair.Chart:
    import altair as alt

    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    return alt.Chart(ends).mark_line(strokeDash=[4, 3], strokeWidth=1, color=colour("soft")).encode(x="x:Q", y="y:Q")


def patients_of_bins(task: str, predictions: Sequence[Prediction], bins: int = 10) -> dict[int, int]:
    """The number of patients in each bin of p(yes) of `metrics.calibration`, over all replies."""
    patients: dict[int, set[str]] = defaultdict(set)
    for of_round in rounds_of(task, predictions):
        for p, prediction in zip(risk_predictions(of_round).probabilities.tolist(), of_round, strict=True):
            patients[min(int(p * bins), bins - 1)].add(prediction.subject_id)
    return {number: len(members) for number, members in patients.items()}


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent observations (Wilson 1927).

    >>> [round(end, 3) for end in wilson(0.0, 10)]
    [0.0, 0.278]
    """
    z = 1.959964
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def roc_points(task: str, predictions: Sequence[Prediction], max_points: int = 400) -> list[tuple[float, float]]:
    """The ROC curve as points (1 − specificity, sensitivity), from the highest threshold to the lowest.

    The area below the points is the AUROC of the result, or of several replies its `majority_auroc`, as both come from the
    same scores. Between them it is a line: upwards or to the right, or across where scores are tied. More than `max_points`
    corners are thinned out. Empty if there is only one label.

    >>> answers = {"yes": 0.9, "no": 0.1}
    >>> task = "ICU_Stay_7day"
    >>> roc_points(task, [Prediction(task, (label,), label, p_yes=p) for label, p in answers.items()])
    [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    scores = main_scores(task, predictions)
    counts: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for label, p in zip(scores.labels.tolist(), scores.values.tolist(), strict=True):
        counts[p][label] += 1
    no, yes = map(sum, zip(*counts.values(), strict=True))
    if not no or not yes:
        return []
    steps = itertools.accumulate((counts[p] for p in sorted(counts, reverse=True)), lambda a, b: [a[0] + b[0], a[1] + b[1]])
    points = [(0.0, 0.0), *((false / no, true / yes) for false, true in steps)]
    corners = [
        points[0],
        *(b for a, b, c in zip(points, points[1:], points[2:], strict=False) if not _in_line(a, b, c)),
        points[-1],
    ]
    return corners[:: len(corners) // max_points + 1][:-1] + corners[-1:] if len(corners) > max_points else corners


def _in_line(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b is on the line from a to c."""
    return math.isclose((b[0] - a[0]) * (c[1] - b[1]), (b[1] - a[1]) * (c[0] - b[0]), abs_tol=1e-12)
