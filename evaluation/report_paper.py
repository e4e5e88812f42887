"""Tables and the main figure of a report for papers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.finished_runs import FinishedRun
from evaluation.report_data import HEADLINES, KINDS, Report, macro_sizes, sizes_text, value_text
from evaluation.report_figures import Dot, dot_plot
from evaluation.report_tables import PUBLISHED_STYLE, macro_dots, shown_published
from evaluation.score import main_metric
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError

if TYPE_CHECKING:
    import altair

PANEL = 145  # points; two panels and the longest names are 7 inches wide, a page without its margins


def markdown(runs: Sequence[FinishedRun]) -> str:
    """The macro averages and the tasks as markdown tables."""

    def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:], ""]

    macro = [["model", "decision F1", "tasks", "risk AUROC", "tasks", "samples of decision F1", "of risk AUROC"]]
    for run in runs:
        of_run = run.result["macro"]["paper"]
        values = [(value_text(of_run, key), str(of_run[f"{kind}_tasks"])) for kind, (key, *_) in HEADLINES.items()]
        macro.append([run.name, *itertools.chain(*values), *(macro_sizes(of_run, kind) for kind in HEADLINES)])
    for name, published in shown_published(runs).items():
        values = [("–", "–") if value is None else (f"{value:.3f}", str(number)) for value, number in published]
        macro.append([f"{name}, published", *itertools.chain(*values), "", ""])
    tasks = [["task", "n", "metric", *(run.name for run in runs)]]
    for task in [task for task in ALL_TASKS if any(task in run.tasks for run in runs)]:
        results = [run.tasks.get(task, {}) for run in runs]
        sizes = [sizes_text(result.get("n"), result.get("positives")).removeprefix("n = ") for result in results]
        values = [value_text(result, main_metric(task)) for result in results]
        size = " / ".join(dict.fromkeys(filter(None, sizes)))
        tasks.append([task, size, main_metric(task), *values])
    return "\n".join([*markdown_table(macro), *markdown_table(tasks)])


def model_of(dot: Dot) -> str:
    """The model of a row of `macro_dots`."""
    return dot.row.partition("\n")[0]


def shared_rows(panels: Sequence[Sequence[Dot]], models: Sequence[str]) -> dict[str, str]:
    """Model → its row in all panels of `macro_dots`: the name, and below it the number of samples in each panel.

    The order is that of `models`; published ones follow.
    """
    numbers: dict[str, list[str]] = {model: [] for model in models}
    for dot in itertools.chain(*panels):
        numbers.setdefault(model_of(dot), []).append(dot.row.partition("\n")[2].partition(", ")[0])
    of_models = {model: " / ".join(dict.fromkeys(of_model)).replace("/ n = ", "/ ") for model, of_model in numbers.items()}
    return {model: f"{model}\n{text}" for model, text in of_models.items() if text}


def main_figure(report: Report) -> altair.HConcatChart:
    """Macro F1 and AUROC of all models with intervals, and published values (`macro_dots`), as wide as a page of text."""
    import altair as alt

    dots = {kind: of_kind for kind in HEADLINES if (of_kind := macro_dots(report.runs, kind))}
    if not dots:
        raise UserError(
            f"{report.runs[0].folder}: expected a value of F1 or AUROC for the figure, got none. Leave out --figure and --png."
        )
    rows = shared_rows(list(dots.values()), [run.name for run in report.runs])
    styles = report.styles | {"published": PUBLISHED_STYLE}
    panels = []
    for letter, (kind, of_kind) in zip("AB", dots.items(), strict=False):
        _, metric, chance = HEADLINES[kind]
        of_kind = [dot._replace(row=rows[model_of(dot)]) for dot in of_kind]
        names = {"rows": list(rows.values()), "row_names": not panels}
        x_title = f"macro {metric}{' (dashed: chance)' if chance else ''}"
        panel = dot_plot(of_kind, styles, x_title, reference=chance, row_height=34, legend=False, **names)
        panels.append(panel.properties(width=PANEL, title=f"{letter}  {KINDS[kind]}"))
    both = alt.hconcat(*panels, spacing=14).resolve_scale(color="independent", shape="independent")
    axes = {"labelFontSize": 9.5, "titleFontSize": 9.5}
    return both.configure_title(fontSize=11).configure_axis(**axes).configure_text(fontSize=9.5)
