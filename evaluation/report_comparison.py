"""The section that compares runs: differences with intervals and tests, as forest plots and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from evaluation.finished_runs import RunComparison
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import Cell, details, grid, table
from evaluation.report_data import HEADLINES, KINDS, METRICS, Report, note, sizes_text, value_cell
from evaluation.report_figures import legend_columns, row_axis, ticks
from evaluation.score import TOO_FEW, main_metric
from evaluation.verdict import LEVEL, mean_comparisons
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.progress import counted

if TYPE_CHECKING:
    import altair

    from evaluation.comparisons import Comparison

# Outcome of a test → colour and shape.
OUTCOMES = {
    "better": (colour("series-1"), "triangle-right"),
    "worse": (colour("series-2"), "triangle-left"),
    "no significant difference": (colour("grey-1"), "circle"),
    TOO_FEW: (colour("grey-2"), "cross"),
}


def comparison(report: Report) -> Markup:
    """Each run against the other runs and the baselines, on the samples both have."""
    if not report.comparisons:
        return note("There are no other runs or baselines on the same samples, so nothing to compare.")
    num_tasks = max(len(run.tasks) for run in report.runs)
    text = note(
        "Differences on the samples that both have; macro: the mean over all tasks that both have. p is the larger one of a "
        "permutation test, which swaps the outputs of the two for whole patients, and of a paired bootstrap over patients "
        f"({counted(report.resamples, 'resample')}). Better, worse: tasks with p < {LEVEL} after Holm's correction over the "
        f"tasks; with {num_tasks} tasks that takes at least {40 * num_tasks:,} resamples. Too few: tasks whose common samples "
        "are too few for a test."
    )
    figures = [_macro_figure(report.comparisons, kind) for kind in HEADLINES]
    pairs = [_pair(each, is_open=number == 0) for number, each in enumerate(report.comparisons)]
    return text + grid([figure for figure in figures if figure], 420) + _table(report.comparisons) + Markup("").join(pairs)


def name_of(pair: RunComparison) -> str:
    """The name of a pair, as a difference."""
    return f"{pair.a.name} − {pair.b.name}"


def _table(comparisons: Sequence[RunComparison]) -> Markup:
    """A row for each pair: macro differences, and the number of tasks by outcome."""
    rows = []
    for pair in comparisons:
        outcomes = [outcome(each, each.p_holm) for each in pair.tasks.values()]
        sizes = [pair.sizes(task) for task in pair.tasks]
        totals = [sum(number or 0 for number in column) for column in zip(*sizes, strict=True)] or [0, 0]
        macros = [cell for kind in HEADLINES for cell in _difference_cells(pair.macros.get(kind))]
        rows.append([name_of(pair), *macros, *totals, *(outcomes.count(name) for name in OUTCOMES)])
    columns = ["pair", "macro F1", "p", "macro AUROC", "p", "samples", "yes", "better", "worse", "neither", "too few"]
    caption = (
        "The first of a pair minus the second, 95 % interval below; on the right, the number of tasks in which it is "
        "significantly better, worse, neither of them, or has too few samples."
    )
    return table(caption, columns, rows)


def _pair(pair: RunComparison, is_open: bool) -> Markup:
    """The tasks of a pair as a figure and a table."""
    name = name_of(pair)
    columns = ["task", "common samples", "yes", "metric", "difference", "p", "p, Holm"]
    rows = []
    for task, each in pair.tasks.items():
        rows.append([task, *pair.sizes(task), main_metric(task), *_difference_cells(each), _p_cell(each, each.p_holm)])
    parts = [table(f"{name}: above 0, {pair.a.name} is better.", columns, rows)]
    for kind in reversed(KINDS):
        tasks = {task: each for task, each in pair.tasks.items() if ALL_TASKS[task].kind == kind}
        if tasks:
            metric = METRICS[main_metric(next(iter(tasks)))]
            words = (
                f"Differences of {metric} with 95 % intervals; to the right of 0, {pair.a.name} is better. Significant: "
                f"p < {LEVEL} after Holm's correction over the tasks."
            )
            rows = {f"{task}\n{sizes_text(*pair.sizes(task))}": (each, each.p_holm) for task, each in tasks.items()}
            parts.insert(0, chart(forest(rows), f"{KINDS[kind]}: {name}", words))
    return details(f"{name}: by task", *parts, is_open=is_open)


def _macro_figure(comparisons: Sequence[RunComparison], kind: str) -> Markup | None:
    """The macro differences of all pairs."""
    metric = HEADLINES[kind][1]
    corrected = {}  # as in the verdict: over all macro differences of a model
    for a in dict.fromkeys(pair.a.name for pair in comparisons):
        for mean in mean_comparisons([pair for pair in comparisons if pair.a.name == a]):
            corrected[a, mean.other.name, mean.kind] = mean.p
    rows = {}
    for pair in comparisons:
        if (result := pair.macros.get(kind)) and result.difference is not None:
            tasks = [task for task in pair.tasks if ALL_TASKS[task].kind == kind]
            sizes = [pair.sizes(task) for task in tasks]
            n, positives = (sum(number or 0 for number in column) for column in zip(*sizes, strict=True))
            rows[f"{pair.a.name}\n− {pair.b.name}\n{sizes_text(n, positives if kind == 'risk' else None)}"] = (
                result,
                corrected[pair.a.name, pair.b.name, kind],
            )
    if not rows:
        return None
    words = (
        f"The first of a pair minus the second, with 95 % interval. Significant: p < {LEVEL} after Holm's correction over all "
        "macro differences of the first."
    )
    return chart(forest(rows), f"{KINDS[kind]}: difference of macro {metric}", words)


def outcome(result: Comparison, p: float | None) -> str:
    """The outcome of a test (`OUTCOMES`)."""
    if p is None or result.difference is None:
        return TOO_FEW
    return "no significant difference" if p >= LEVEL else "better" if result.difference > 0 else "worse"


def forest(rows: dict[str, tuple[Comparison, float | None]]) -> altair.LayerChart:
    """Differences with intervals, a row each: name of the row → the comparison and the p that counts."""
    import altair as alt

    ends = [abs(end) for result, _ in rows.values() for end in [result.difference or 0, *(result.ci or [])]]
    width = max(0.02, *ends) * 1.05
    values = []
    for name, (result, p) in rows.items():
        low, high = result.ci or (None, None)
        text = outcome(result, p)
        values.append({"row": name, "value": result.difference, "low": low, "high": high, "outcome": text, "p": p, "note": ""})
        if text == TOO_FEW:
            values[-1] |= {"value": 0, "note": TOO_FEW}
    y = alt.Y("row:N", sort=None, scale=alt.Scale(domain=list(rows), padding=0), axis=row_axis(list(rows)))
    base = alt.Chart(alt.Data(values=values)).encode(y=y)
    names = [name for name in OUTCOMES if any(each["outcome"] == name for each in values)]
    colours, shapes = zip(*(OUTCOMES[name] for name in names), strict=True)
    legend = alt.Legend(title=None, orient="top", columns=legend_columns(names, 200), labelLimit=200)
    color = alt.Color("outcome:N", scale=alt.Scale(domain=names, range=list(colours)), legend=legend)
    shape = alt.Shape("outcome:N", scale=alt.Scale(domain=names, range=list(shapes)), legend=legend)
    domain = (-width, width)
    x_axis = alt.Axis(title="difference", values=ticks(domain), format=".2~f", domain=False)
    x = alt.X("value:Q", scale=alt.Scale(domain=list(domain), nice=False), axis=x_axis)
    zero = alt.Chart(alt.Data(values=[{}])).mark_rule(color=colour("ink")).encode(x=alt.datum(0))
    interval = base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", color=color)
    tooltip = [alt.Tooltip("row:N", title=" "), alt.Tooltip("value:Q", title="difference", format="+.3f")]
    tooltip += [alt.Tooltip("p:Q", title="p, Holm", format=".3f"), alt.Tooltip("outcome:N")]
    point = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, color=color, shape=shape, tooltip=tooltip)
    few = base.mark_text(align="left", dx=8, fontSize=11, color=colour("soft")).encode(x=x, text="note:N")
    return alt.layer(zero, interval, point, few).properties(
        height=(18 + 14 * max(row.count("\n") for row in rows)) * len(rows)
    )


def _difference_cells(result: Comparison | None) -> tuple[Cell | None, Cell | None]:
    """A difference with its interval, and its p-value."""
    if result is None:
        return None, None
    return value_cell({"d": result.difference, "d_ci": result.ci}, "d"), _p_cell(result, result.p)


def _p_cell(result: Comparison, p: float | None) -> Cell:
    """A p-value; small ones are displayed as a bound, since they are never 0."""
    return Cell(TOO_FEW if result.too_few else "< 0.001" if p is not None and p < 0.001 else p, p)
