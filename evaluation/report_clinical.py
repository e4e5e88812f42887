"""Sections for clinical readers: decision curves and operating points, subgroups, recalibration.

Each begins with an overview of all tasks; the figures of a task are collapsed below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evaluation.attributes import ATTRIBUTES
from evaluation.finished_runs import FinishedRun
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import Cell, Content, details, grid, table
from evaluation.report_data import KINDS, Report, Section, Style, note, sizes_text, value_cell
from evaluation.report_figures import Dot, described, dot_plot, dot_rows, series_encodings
from evaluation.score import TOO_FEW, main_metric
from mimiciv_dataset.tasks import ALL_TASKS

if TYPE_CHECKING:
    import altair

METRICS = {
    "auroc": "AUROC", "calibration_in_the_large": "mean p(yes) − share of yes", "net_benefit": "net benefit", "f1": "F1",
    "accuracy": "accuracy", "rouge1": "ROUGE-1",
}  # fmt: skip
METHODS = {"before": "before", "platt": "Platt", "isotonic": "isotonic"}
TREAT_ALL = Style(colour("soft"), [2, 3], "stroke")
MIN_OF_BIN = 10  # samples of a bin that is drawn in a reliability diagram
SHOWN_POINT = ("specificity", 0.90)  # operating point of the overview
PREVALENCE = (
    "Net benefit, PPV and alerts depend on the share of yes among the samples. In an index that was drawn with "
    "--balance_force it is not the share in the hospital, and they hold for such samples only."
)


def join(*parts: Content) -> Markup:
    return Markup("").join(parts)


def risk_tasks(run: FinishedRun) -> dict[str, Mapping[str, Any]]:
    """The figures for clinical readers of the risk tasks of a run."""
    return {task: values for task, values in run.result.get("clinical", {}).items() if "decision_curve" in values}


# --- decision curves and operating points


def decision_curves(report: Report) -> Content:
    """Where the models are more useful than alerting always or never, and what a fixed specificity costs."""
    runs = [run for run in report.models if risk_tasks(run)]
    if not runs:
        return None
    text = (
        "Net benefit: true alerts per sample, minus false ones weighted by t / (1 − t) at threshold t. A model is useful at "
        "the thresholds where the interval of its net benefit minus that of the better one of alerting always and never is "
        "above 0. An alert is p(yes) ≥ threshold. The operating point is chosen in each resample; intervals are pointwise. "
    )
    tables = [curve_table(run) for run in runs]
    parts = [tables[0], *(details(f"{run.name}: all tasks", part) for run, part in zip(runs[1:], tables[1:], strict=True))]
    tasks = [task for task in report.tasks if any(task in risk_tasks(run) for run in runs)]
    by_task = [details(f"{task}: curves and operating points", *curve_of_task(report, task)) for task in tasks]
    return join(note(text + PREVALENCE), *parts, *by_task)


def curve_table(run: FinishedRun) -> Markup:
    """Useful thresholds and an operating point of each risk task of a run."""
    rows = []
    for task, values in risk_tasks(run).items():
        useful = values["decision_curve"]["useful"]
        point = next(point for point in values["operating_points"] if (point["by"], point["level"]) == SHOWN_POINT)
        text = TOO_FEW if run.tasks[task]["too_few"] else f"{useful[0]:.2f}–{useful[1]:.2f}" if useful else "none"
        useful = Cell(text, round(useful[1] - useful[0], 2) if useful else None)
        cells = [value_cell(point, name) for name in ("sensitivity", "ppv")]
        share = Cell(f"{values['threshold']:.3f}", values["threshold"])
        rows.append([task, run.tasks[task]["n"], share, useful, *cells, alerts_cell(point)])
    columns = ["task", "n", "share of yes", "useful thresholds", "sensitivity", "PPV", "alerts per 100 samples"]
    caption = (
        f"{run.name}: useful thresholds, and the operating point at specificity {SHOWN_POINT[1]:.2f}, 95 % interval below."
    )
    return table(caption, columns, rows)


def alerts_cell(point: Mapping[str, Any]) -> Cell:
    """Alerts per 100 samples, with interval."""
    low, high = point["alerts_per_100_ci"] or (None, None)
    below = TOO_FEW if low is None else f"[{low:.1f}, {high:.1f}]"
    return Cell(Markup("{:.1f}<small>{}</small>").format(point["alerts_per_100"], below), point["alerts_per_100"])


def curve_of_task(report: Report, task: str) -> Iterator[Markup]:
    """The decision curves of all runs, and a table of operating points of each model."""
    runs = [run for run in report.runs if task in risk_tasks(run)]
    yield chart(
        curve_chart(report, task, runs),
        f"{task}: decision curve",
        f"Net benefit by threshold, with 95 % intervals of {runs[0].name}. Alerting never has 0. {size_of(runs[0], task)}.",
        ["threshold", *(run.name for run in runs), "always"],
        list(curve_rows(task, runs)),
    )
    for run in [run for run in runs if not run.baseline]:
        rows = []
        for point in risk_tasks(run)[task]["operating_points"]:
            by = {"specificity": "specificity ≥ {:.2f}", "alerts_per_100": "≤ {:.0f} alerts per 100"}[point["by"]]
            cells = [value_cell(point, name) for name in ("sensitivity", "specificity", "ppv")]
            rows.append([by.format(point["level"]), point["threshold"], *cells, alerts_cell(point)])
        columns = ["", "threshold", "sensitivity", "specificity", "PPV", "alerts per 100 samples"]
        yield table(f"{run.name}: operating points, 95 % interval below.", columns, rows, sort=False)


def size_of(run: FinishedRun, task: str) -> str:
    return sizes_text(run.tasks[task]["n"], run.tasks[task].get("positives"))


def curve_rows(task: str, runs: list[FinishedRun]) -> Iterator[list[Content]]:
    """The rows of the table below a decision curve."""
    curves = [risk_tasks(run)[task]["decision_curve"] for run in runs]
    for k, threshold in enumerate(curves[0]["thresholds"]):
        yield [f"{threshold:.2f}", *(curve["net_benefit"][k] for curve in curves), curves[0]["treat_all"][k]]


def curve_chart(report: Report, task: str, runs: list[FinishedRun]) -> altair.LayerChart:
    """Net benefit by threshold, from the share of yes down to as far below 0 as is of interest."""
    import altair as alt

    always = "alert always"
    values = []
    for run in runs:
        curve = risk_tasks(run)[task]["decision_curve"]
        intervals = (
            curve["net_benefit_ci"]
            if run is runs[0] and curve["net_benefit_ci"]
            else [[None, None]] * len(curve["thresholds"])
        )
        points = zip(curve["thresholds"], curve["net_benefit"], intervals, strict=True)
        values += [{"series": run.name, "t": t, "b": b, "low": ci[0], "high": ci[1]} for t, b, ci in points]
    first = risk_tasks(runs[0])[task]["decision_curve"]
    top = max(risk_tasks(run)[task]["threshold"] for run in runs) or 0.01
    values += [{"series": always, "t": t, "b": b} for t, b in zip(first["thresholds"], first["treat_all"], strict=True)]
    x = alt.X("t:Q", title="threshold", scale=alt.Scale(domain=[0, 1]))
    scale = alt.Scale(domain=[-0.25 * top, 1.05 * top], nice=False)
    y = alt.Y("b:Q", title="net benefit", scale=scale)
    look = series_encodings({run.name: report.styles[run.name] for run in runs} | {always: TREAT_ALL})
    look.pop("shape")
    tooltip = [alt.Tooltip("series:N", title="run"), alt.Tooltip("t:Q", title="threshold"), alt.Tooltip("b:Q", format=".3f")]
    base = alt.Chart(alt.Data(values=values))
    band = base.mark_area(opacity=0.15, clip=True, color=report.styles[runs[0].name].colour)
    band = band.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q").transform_filter("isValid(datum.low)")
    lines = base.mark_line(clip=True, strokeWidth=2).encode(x=x, y=y, **look, tooltip=tooltip)
    never = alt.Chart(alt.Data(values=[{}])).mark_rule(color=colour("soft"), aria=False).encode(y=alt.datum(0))
    return alt.layer(never, band, lines).properties(height=260)


# --- subgroups


def subgroups(report: Report) -> Content:
    """The metrics of each task by group of patients."""
    results = {run.name: run.result.get("clinical", {}) for run in report.models}
    results = {name: {task: values["subgroups"] for task, values in tasks.items() if values.get("subgroups")}
               for name, tasks in results.items()}  # fmt: skip
    missing = [
        Markup("{}: no sex, age, race, admission type, insurance or period of its samples is stored here, so there are no "
               "subgroups. Where the trajectories are: <code>python -m evaluation.score {} --subgroups</code>")
        .format(run.name, folder)
        for run in report.models for folder in run.folders if not (folder / "attributes.csv").exists()
    ]  # fmt: skip
    results = {name: tasks for name, tasks in results.items() if tasks}
    if not results:
        return join(*map(note, missing))
    text = (
        "Each group against the largest one of its attribute: p by a Wald test with the standard error of the bootstrap over "
        "patients, after Holm's correction over all comparisons of a task. The age is that at prediction; race is in broad "
        "groups; admission type and insurance are those of the admission that the input shows; period is "
        "anchor_year_group. The net benefit of a group is "
        "at the share of yes of the whole task, and cannot exceed the group's own share of yes. A difference can come from "
        "what patients of a group have as well as from the model."
    )
    parts: list[Content] = [*map(note, missing), note(text)]
    for position, (name, tasks) in enumerate(results.items()):
        content = [*overview_tables(name, tasks)]
        content += [
            details(f"{task}: by group", *groups_of_task(name, task, of_task, report)) for task, of_task in tasks.items()
        ]
        parts += content if position == 0 else [details(f"{name}: subgroups", *content)]
    return join(*parts)


def compared(of_task: Mapping[str, Any], metrics: Iterator[str] | tuple[str, ...] = tuple(METRICS)) -> Iterator[tuple]:
    """(attribute, group, metric, its values) of every comparison of a task."""
    for attribute, of_attribute in of_task.items():
        for group, values in of_attribute["groups"].items():
            yield from ((attribute, group, metric, values) for metric in metrics if f"{metric}_difference" in values)


def overview_tables(name: str, tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[Markup]:
    """What differs significantly, and the range of the main metric over the groups of each attribute."""
    rows, tested = [], 0
    for task, of_task in tasks.items():
        for attribute, group, metric, values in compared(of_task):
            p = values[f"{metric}_p_holm"]
            tested += p is not None
            if p is not None and p < 0.05:
                reference = of_task[attribute]["reference"]
                difference = {"d": values[f"{metric}_difference"], "d_ci": values[f"{metric}_difference_ci"]}
                cell = value_cell(difference, "d", extra=sizes_text(values["n"], values.get("positives")))
                rows.append([task, f"{label(attribute)}: {group}", reference, METRICS[metric], cell, p_cell(p)])
    columns = ["task", "group", "against", "metric", "difference", "p, Holm"]
    if rows:
        yield table(f"{name}: {len(rows):,} of {tested:,} comparisons differ significantly.", columns, rows)
    else:
        yield Markup("<p>{}: none of {:,} comparisons differs significantly.</p>").format(name, tested)
    for kind, title in KINDS.items():
        rows = [[task, *(range_cell(of_task.get(attribute), main_metric(task)) for attribute in ATTRIBUTES)]
                for task, of_task in tasks.items() if ALL_TASKS[task].kind == kind]  # fmt: skip
        if rows:
            metrics = " or ".join(dict.fromkeys(METRICS[main_metric(row[0])] for row in rows))
            yield table(f"{name}, {title}: lowest and highest {metrics} of groups with enough samples.",
                        ["task", *map(label, ATTRIBUTES)], rows)  # fmt: skip


def label(attribute: str) -> str:
    return {"admission_type": "admission", "anchor_year_group": "period"}.get(attribute, attribute)


def range_cell(of_attribute: Mapping[str, Any] | None, metric: str) -> Cell:
    """The lowest and the highest value of a metric over groups with enough samples, sorted by the range."""
    groups = of_attribute["groups"].values() if of_attribute else ()
    values = [values[metric] for values in groups if not values["too_few"]]
    if len(values) < 2:
        return Cell(TOO_FEW if of_attribute else None, None)
    return Cell(f"{min(values):.3f}–{max(values):.3f}", max(values) - min(values))


def p_cell(p: float | None) -> Cell:
    return Cell("< 0.001" if p is not None and p < 0.001 else p, p)


def groups_of_task(name: str, task: str, of_task: Mapping[str, Any], report: Report) -> Iterator[Markup]:
    """The main metric by group as a forest plot, and a table of all metrics."""
    metric = main_metric(task)
    overall = next(run.tasks[task] for run in report.models if run.name == name)
    of_rows = [(f"{label(attribute)}: {group}", values) for attribute, _, group, values in all_groups(of_task)]
    dots = [
        Dot(row, name, values[metric], values[f"{metric}_ci"], sizes_text(values["n"], values.get("positives")))
        for row, values in [("all samples", overall), *of_rows]
        if values[metric] is not None
    ]
    if dots:
        words = described(f"{METRICS[metric]} of {name} by group, with 95 % intervals over patients.", dots)
        columns = ("group", "run", METRICS[metric], "95 % interval", "samples")
        spec = dot_plot(dots, {name: report.styles[name]}, METRICS[metric], row_height=20, legend=False)
        yield chart(spec, f"{task}: {METRICS[metric]} by group", words, columns, dot_rows(dots))
    metrics = [metric for metric in METRICS if any(metric in values for *_, values in all_groups(of_task))]
    rows = []
    for attribute, reference, group, values in all_groups(of_task):
        cells = []
        for metric in metrics:
            is_reference = group == reference
            cells += [value_cell(values, metric), "largest" if is_reference else p_cell(values[f"{metric}_p_holm"])]
        sizes = [values["n"], values["patients"], *([values["positives"]] if "positives" in values else [])]
        rows.append([f"{label(attribute)}: {group}", *sizes, *cells])
    sizes = ["n", "patients", *(["yes"] if ALL_TASKS[task].kind == "risk" else [])]
    columns = ["group", *sizes, *(column for metric in metrics for column in (METRICS[metric], "p, Holm"))]
    yield table(f"{task}: {name} by group; p against the largest group of the attribute.", columns, rows)


def all_groups(of_task: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """(attribute, its largest group, group, values) of every group."""
    return [(attribute, of_attribute["reference"], group, values) for attribute, of_attribute in of_task.items()
            for group, values in of_attribute["groups"].items()]  # fmt: skip


# --- recalibration


def recalibration(report: Report) -> Content:
    """Calibration before and after recalibration on other patients."""
    parts: list[Content] = []
    for run in report.models:
        tasks = run.result.get("recalibration", {})
        fitted = {task: values for task, values in tasks.items() if not values["too_few"]}
        if not tasks:
            continue
        rows = []
        for task, values in fitted.items():
            cells = [value_cell(values[method], metric) for metric in ("brier", "ece") for method in METHODS]
            rows.append([task, values["n"], values["positives"], *cells])
        figures = [f"{metric}, {name}" for metric in ("Brier", "ECE") for name in METHODS.values()]
        caption = f"{run.name}: before and after, on the samples of the run, 95 % interval below; lower is better."
        parts.append(table(caption, ["task", "fitted on", "yes", *figures], rows) if rows else "")
        if few := [f"{task} ({values['too_few']})" for task, values in tasks.items() if values["too_few"]]:
            parts.append(note(f"Too few samples to fit on: {'; '.join(few)}."))
        words, columns = (
            f"Share of yes by p(yes) in bins of at least {MIN_OF_BIN} samples.",
            ("method", "mean p(yes)", "yes", "n"),
        )
        charts = [
            chart(reliability_chart(values), task, f"{words} {size_of(run, task)}.", columns, reliability_rows(values))
            for task, values in fitted.items()
        ]
        parts.append(details(f"{run.name}: reliability diagrams", grid(charts, 300)) if charts else "")
    if not parts:
        return None
    text = (
        "p(yes) as it is, and recalibrated by Platt scaling (logistic regression on its logit) and by isotonic regression, "
        "fitted for each task on a run of the same model on other patients. Platt scaling with a positive slope leaves the "
        "AUROC as it is. Recalibrated probabilities hold for samples with about the same share of yes as those of the fit."
    )
    return join(note(text), *parts)


def reliability_rows(values: Mapping[str, Any]) -> list[list[Content]]:
    """The points of a reliability diagram: method, mean p(yes), share of yes, number of samples of a bin."""
    return [
        [name, each["p"], each["share"], each["n"]]
        for method, name in METHODS.items()
        for each in values[method]["calibration"]
    ]


def reliability_chart(values: Mapping[str, Any]) -> altair.LayerChart:
    """Reliability diagrams before and after."""
    import altair as alt

    styles = {name: Style(colour(f"series-{k}"), dash, shape) for k, (name, dash, shape) in enumerate(
        zip(METHODS.values(), ([1, 0], [7, 3], [2, 2]), ("circle", "square", "diamond"), strict=True), 1)}  # fmt: skip
    points = [dict(zip(("series", "p", "share", "n"), row, strict=True)) for row in reliability_rows(values)]
    points = [point for point in points if point["n"] >= MIN_OF_BIN]
    x, y = (
        kind(f"{name}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1]))
        for kind, name, title in ((alt.X, "p", "mean p(yes)"), (alt.Y, "share", "share of yes"))
    )
    diagonal = alt.Chart(alt.Data(values=[{"p": 0, "share": 0}, {"p": 1, "share": 1}]))
    diagonal = diagonal.mark_line(strokeDash=[4, 3], color=colour("soft"), strokeWidth=1, aria=False).encode(x=x, y=y)
    look = series_encodings(styles)
    base = alt.Chart(alt.Data(values=points))
    tooltip = [alt.Tooltip("series:N", title="method"), alt.Tooltip("n:Q", title="samples")]
    marks = base.mark_point(size=40, opacity=1).encode(x=x, y=y, color=look["color"], shape=look["shape"], tooltip=tooltip)
    return alt.layer(diagonal, marks).properties(height=220)


CLINICAL_SECTIONS = (
    Section("Decision curves and operating points", decision_curves),
    Section("Subgroups", subgroups),
    Section("Recalibration", recalibration),
)
