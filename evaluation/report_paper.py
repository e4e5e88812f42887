"""Tables and figures of a report for papers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.finished_runs import FinishedRun
from evaluation.published import PUBLISHED, PUBLISHED_TASKS
from evaluation.report_charts import macro_bars, run_styles
from evaluation.report_data import HEADLINES, KINDS, interval_text, macro_sizes, sizes_text
from evaluation.score import main_metric
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.files import atomic_path


def markdown(runs: Sequence[FinishedRun]) -> str:
    """The macro averages and the tasks as markdown tables."""

    def value_text(result: Mapping[str, Any], metric: str) -> str:
        value = result.get(metric)
        return "–" if value is None else f"{value:.3f} {interval_text(result, metric)}".strip()

    def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:], ""]

    macro = [["model", "decision F1", "tasks", "risk AUROC", "tasks", "samples of decision F1", "of risk AUROC"]]
    for run in runs:
        of_run = run.result["macro"]["paper"]
        values = [(value_text(of_run, key), str(of_run[f"{kind}_tasks"])) for kind, (key, *_) in HEADLINES.items()]
        macro.append([run.name, *itertools.chain(*values), *(macro_sizes(of_run, kind) for kind in HEADLINES)])
    for name, published in PUBLISHED.items():
        sizes = zip(published, PUBLISHED_TASKS, strict=True)
        values = [("–", "–") if value is None else (f"{value:.3f}", str(number)) for value, number in sizes]
        macro.append([f"{name}, published", *itertools.chain(*values), "", ""])
    tasks = [["task", "n", "metric", *(run.name for run in runs)]]
    for task in [task for task in ALL_TASKS if any(task in run.tasks for run in runs)]:
        results = [run.tasks.get(task, {}) for run in runs]
        sizes = [sizes_text(result.get("n"), result.get("positives")).removeprefix("n = ") for result in results]
        values = [value_text(result, main_metric(task)) for result in results]
        size = " / ".join(dict.fromkeys(filter(None, sizes)))
        tasks.append([task, size, main_metric(task), *values])
    return "\n".join([*markdown_table(macro), *markdown_table(tasks)])


def write_png(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Write the bar charts of the overview as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.4 + 0.28 * (len(runs) + len(PUBLISHED))), layout="constrained")
    figure.get_layout_engine().set(wspace=0.1)
    for axis, (kind, (_, metric, chance)) in zip(axes, HEADLINES.items(), strict=True):
        bars = macro_bars(runs, kind, run_styles(runs))[::-1]
        for position, bar in enumerate(bars):
            fill = "none" if bar.style.hollow else bar.style.colour
            axis.barh(position, bar.value, height=0.7, color=fill, edgecolor=bar.style.colour)
            if bar.interval:
                axis.plot(bar.interval, [position, position], color="#1b2430", marker="|", linewidth=1.2)
            axis.text(1.02, position, ", ".join([f"{bar.value:.3f}", *bar.notes]), va="center", fontsize=9)
        if chance:
            axis.axvline(chance, color="#566273", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axis.set(xlim=(0, 1), title=f"{KINDS[kind]}: macro {metric}")
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    pyplot.close(figure)
