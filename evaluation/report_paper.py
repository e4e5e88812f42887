"""Tables and the main figure of a report for papers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.finished_runs import FinishedRun
from evaluation.report_data import HEADLINES, KINDS, Report, macro_sizes, sizes_text, value_text
from evaluation.report_tables import macro_dots, macro_figure, shown_published
from evaluation.score import main_metric
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError

if TYPE_CHECKING:
    import altair

PANEL = 105  # points; two panels, names and numbers of samples are 7 inches wide, a page without its margins


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


def main_figure(report: Report) -> altair.HConcatChart:
    """Macro F1 and AUROC of all models with intervals, and published values (`macro_dots`), as wide as a page of text."""
    import altair as alt

    kinds = [kind for kind in HEADLINES if macro_dots(report.runs, kind)]
    if not kinds:
        raise UserError(
            f"{report.runs[0].folder}: expected a value of F1 or AUROC for the figure, got none. Leave out --figure and --png."
        )
    panels = [
        macro_figure(report, kind).properties(
            width=PANEL, title=f"{letter}  {KINDS[kind]}{' (dashed: chance)' if HEADLINES[kind][2] else ''}"
        )
        for letter, kind in zip("AB", kinds, strict=False)
    ]
    both = alt.hconcat(*panels, spacing=14).resolve_scale(color="independent", shape="independent")
    axes = {"labelFontSize": 9.5, "titleFontSize": 9.5}
    return both.configure_title(fontSize=11).configure_axis(**axes).configure_text(fontSize=9.5)
