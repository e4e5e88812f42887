"""Sections with the scores: macro averages, groups of tasks, tasks, all metrics, and the settings they were made with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evaluation.finished_runs import SETTINGS, FinishedRun, common_samples
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import Cell, Content, details, grid, notices, table
from evaluation.published import PUBLISHED, PUBLISHED_TASKS
from evaluation.report_data import GROUPS, HEADLINES, KINDS, METRICS, Report, Style, macro_sizes, note, sizes_text, value_cell
from evaluation.report_figures import PUBLISHED_SIZE, Dot, described, dot_plot, dot_rows
from evaluation.score import main_metric, mass_notes, mean_over_tasks, sample_notes
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.progress import counted

if TYPE_CHECKING:
    import altair

PUBLISHED_STYLE = Style(colour("grey-2"), [1, 0], "circle")
DOT_COLUMNS = ("", "run", "value", "95 % interval", "samples")
# Settings of which the names of files and directories are shown, and the full paths below.
PATHS = ("model_name_or_path", "lora_path", "dataset_name", "instructions", "train_index", "folder")
MANY = 12  # tasks of a table, above which it is collapsed below its figure


def warnings(runs: Sequence[FinishedRun]) -> list[Content]:
    """Reasons why scores on the page are not comparable or not final."""
    models = [run for run in runs if not run.baseline]
    texts: list[Content] = [
        Markup("<b>{}</b>").format(f"{run.name}: {note}.") for run in models for note in sample_notes(run.tasks)
    ]
    for run in models:
        if missing := run.result.get("missing"):
            texts.append(f"{run.name}: {counted(missing, 'sample')} not answered yet; its figures are not final.")
        if run.result.get("available", 0) > len(run.outputs):
            number = f"{len(run.outputs):,} of the {run.result['available']:,} samples of its dataset"
            texts.append(f"{run.name}: a run on {number} (--limit).")
        texts += [f"{run.name}: {text}." for text in mass_notes(run.tasks)]
        if noted := [task for task, result in run.tasks.items() if "p_yes" in result.get("note", "")]:
            texts.append(
                f"{run.name}: p(yes) is missing, in part or whole, in {', '.join(noted)}; without any there is no "
                "AUROC, and a single one that is missing counts as 0.5."
            )
        if "ehr-r1" in run.name.casefold() and not run.arguments.get("instructions"):
            texts.append(
                f"{run.name}: published EHR-R1 checkpoints were trained on their own instruction wording, this run "
                "has ours; docs/differences.md says how to run them on theirs."
            )
    for a, b in [(a, b) for a, b in itertools.combinations(models, 2) if a.identity == b.identity]:
        number, different = common_samples(a, b)
        replies = f"{different:,} of the {counted(number, 'sample')} in common have other replies"
        texts.append(f"{a.name} and {b.name} are one model with the same settings; {replies}.")
    common = set.intersection(*(set(run.outputs) for run in models))
    if any(len(run.outputs) != len(common) for run in models):
        sizes = ", ".join(f"{run.name} {len(run.outputs):,}" for run in models)
        texts.append(
            f"The runs have different samples: {sizes}; {len(common):,} in common. Each run's figures are over its "
            "own samples; the comparison is over those in common."
        )
    hashes = ({run.outputs[sample_id].input_sha256 for run in models} - {None, ""} for sample_id in common)
    if different := sum(len(of_sample) > 1 for of_sample in hashes):
        texts.append(f"The runs have {counted(different, 'sample')} in common whose records read differently.")
    if len({run.result.get("instructions_sha256") for run in models} - {None}) > 1:
        texts.append("The runs have different instruction wording (see Settings): their figures differ for that too.")
    if len(runs) == len(models):
        command = f"python -m evaluation.baselines {models[0].folder}"
        text = Markup("No baselines are here to judge the figures by. To make them: <code>{}</code>")
        texts.append(text.format(command))
    return texts


def overview(report: Report) -> Markup:
    """Warnings, and macro averages as figures and as a table, with the published ones for reference."""
    figures = []
    for kind, (_, metric, chance) in HEADLINES.items():
        if dots := macro_dots(report.runs, kind):
            words = f"Macro {metric} and its 95 % interval by model."
            if has_all_tasks(report.runs, kind):
                words += " Open circles: published values of the whole EHR-Bench."
            figures.append(
                chart(
                    macro_figure(report, kind),
                    f"{KINDS[kind]}: macro {metric}",
                    described(words, dots, chance),
                    DOT_COLUMNS,
                    dot_rows(dots),
                )
            )
    text = note(
        "Averages over the paper's 24 decision-making and 18 risk prediction tasks, each task counting once; fewer where a "
        f"run has no value for some. {published_text(report.runs)}"
    )
    columns = ["model", "decision F1", "tasks", "risk AUROC", "tasks", "decision F1 of 27", "risk AUROC of 18", "samples"]
    rows: list[list[Content | Cell]] = []
    for run in report.runs:
        paper, released = (run.result["macro"][suite] for suite in ("paper", "released"))
        cells = [cell for kind in HEADLINES for cell in (_macro_cell(paper, kind), paper[f"{kind}_tasks"])]
        cells += [_macro_cell(released, kind) for kind in HEADLINES]
        rows.append([run.name, *cells, len(run.outputs)])
    for name, values in shown_published(report.runs).items():
        cells = [cell for each in values for cell in each]
        rows.append([f"{name}, published", *cells, None, None, None])
    caption = "Macro averages: the paper's 42 tasks, and the released benchmark's 45."
    return notices(warnings(report.runs)) + grid(figures, 420) + text + table(caption, columns, rows)


def has_all_tasks(runs: Sequence[FinishedRun], kind: str) -> bool:
    """Whether a model has a value for all tasks of this kind that published values are averages of."""
    number = PUBLISHED_TASKS[list(HEADLINES).index(kind)]
    return any(run.result["macro"]["paper"][f"{kind}_tasks"] == number for run in runs if not run.baseline)


def published_text(runs: Sequence[FinishedRun]) -> str:
    """What published values are averages of, and why those of a kind of task are not shown."""
    text = ""
    if any(has_all_tasks(runs, kind) for kind in HEADLINES):
        text = "Published values are those of the whole EHR-Bench: compare only runs on all of its samples with them. "
    numbers = dict(zip(HEADLINES, PUBLISHED_TASKS, strict=True))
    hidden = [f"{numbers[kind]} {KINDS[kind].lower()} tasks" for kind in HEADLINES if not has_all_tasks(runs, kind)]
    return text + (f"Published values are not shown where no model has all tasks: {' and '.join(hidden)}." if hidden else "")


def shown_published(runs: Sequence[FinishedRun]) -> dict[str, list[tuple[float | None, int | None]]]:
    """By model: the published macro average and its number of tasks for each kind; None for kinds without `has_all_tasks`."""
    shown = {}
    for name, published in PUBLISHED.items():
        cells = zip(HEADLINES, published, PUBLISHED_TASKS, strict=True)
        values = [(value, n) if has_all_tasks(runs, kind) and value is not None else (None, None) for kind, value, n in cells]
        if any(value is not None for value, _ in values):
            shown[name] = values
    return shown


def _macro_cell(macro: Mapping[str, Any], kind: str) -> Cell:
    """A macro average with its interval and the number of its samples."""
    return value_cell(macro, HEADLINES[kind][0], extra=macro_sizes(macro, kind))


def macro_dots(runs: Sequence[FinishedRun], kind: str) -> list[Dot]:
    """A macro average of the runs, then the published ones from high to low if a model `has_all_tasks`."""
    key, *_ = HEADLINES[kind]
    dots = []
    for run in runs:
        macro = run.result["macro"]["paper"]
        if macro[key] is not None:
            few = "" if macro[f"{key}_ci"] else ", too few"
            sizes = macro_sizes(macro, kind)
            dots.append(Dot(f"{run.name}\n{sizes}", run.name, macro[key], macro[f"{key}_ci"], sizes, f"{macro[key]:.3f}{few}"))
    published = {name: getattr(values, key) for name, values in PUBLISHED.items() if getattr(values, key) is not None}
    if not has_all_tasks(runs, kind):
        return dots
    for name in sorted(published, key=published.__getitem__, reverse=True):
        dots.append(Dot(f"{name}\npublished", "published", published[name], None, PUBLISHED_SIZE, f"{published[name]:.3f}"))
    return dots


def macro_figure(report: Report, kind: str) -> altair.LayerChart:
    """The macro averages of a kind of task by model, without a title; see `macro_dots`."""
    _, metric, chance = HEADLINES[kind]
    styles = report.styles | {"published": PUBLISHED_STYLE}
    dots = macro_dots(report.runs, kind)
    return dot_plot(dots, styles, f"macro {metric}", reference=chance, row_height=34, legend=False)


def groups(report: Report) -> Markup | None:
    """Means of the main metric by group of tasks."""
    figures = []
    for kind, (_, metric, chance) in HEADLINES.items():
        dots = list(_group_dots(report, kind))
        if dots:
            words = f"Mean {metric} over the tasks of a group and its 95 % interval."
            figure = dot_plot(dots, report.styles, f"mean {metric}", reference=chance)
            figures.append(
                chart(
                    figure,
                    f"{KINDS[kind]}: {metric} by group of tasks",
                    described(words, dots, chance),
                    DOT_COLUMNS,
                    dot_rows(dots),
                )
            )
    return grid(figures, 420) if figures else None


def _group_dots(report: Report, kind: str) -> Iterator[Dot]:
    for module, title in GROUPS.items():
        of_kind = [task for task in TASKS.values() if task.kind == kind and task.released and task.event]
        names = [task.name for task in of_kind if EVENTS[task.event].module == module]
        num_tasks = sum(any(name in run.tasks for run in report.runs) for name in names)
        for run in report.runs:
            values = {name: run.tasks.get(name, {}).get(main_metric(name)) for name in names}
            values = {name: value for name, value in values.items() if value is not None}
            if values:
                mean, interval = mean_over_tasks(list(values.values()), [run.replicates.get(name) for name in values])
                n, positives = (sum(run.tasks[name].get(size, 0) for name in values) for size in ("n", "positives"))
                sizes = sizes_text(n, positives if kind == "risk" else None)
                yield Dot(f"{title}\n{counted(num_tasks, 'task')}", run.name, mean, interval, sizes)


def scores(report: Report) -> Markup:
    """A figure and a table for each kind of task: one row per task, the best value in bold."""
    parts = []
    for kind, title in KINDS.items():
        names = [task for task in report.tasks if ALL_TASKS[task].kind == kind]
        if names:
            metric = METRICS[main_metric(names[0])]
            chance = HEADLINES[kind][2] if kind in HEADLINES else None
            dots = list(_task_dots(report.runs, names))
            if dots:
                words = f"{title}: {metric} of each task and its 95 % interval."
                figure = dot_plot(dots, report.styles, metric, reference=chance)
                parts.append(chart(figure, f"{title}: {metric} by task", described(words, dots, chance)))
            of_kind = _task_table(report.runs, names, kind)
            parts.append(
                details(f"{title}: table of {counted(len(names), 'task')}", of_kind) if len(names) > MANY else of_kind
            )
    return Markup("").join(parts)


def _task_dots(runs: Sequence[FinishedRun], names: Sequence[str]) -> Iterator[Dot]:
    for name in names:
        row = f"{name}\nn = {_sizes(runs, name).content}"
        if ALL_TASKS[name].kind == "risk":
            row += f", {_sizes(runs, name, 'positives').content} yes"
        for run in runs:
            result, metric = run.tasks.get(name, {}), main_metric(name)
            if result.get(metric) is not None:
                yield Dot(
                    row, run.name, result[metric], result[f"{metric}_ci"], sizes_text(result["n"], result.get("positives"))
                )


def _task_table(runs: Sequence[FinishedRun], names: Sequence[str], kind: str) -> Markup:
    shown = [run for run in runs if any(name in run.tasks for name in names)]
    sizes = {"n": "n", "positives": "yes"} if kind == "risk" else {"n": "n"}
    rows = [[name, *(_sizes(shown, name, size) for size in sizes), main_metric(name), *_cells(shown, name)] for name in names]
    bold = "the best value is bold if its interval lies above 0.5" if kind == "risk" else "the best value above 0 is bold"
    caption = f"{KINDS[kind]}: values with their 95 % interval below; {bold}."
    return table(caption, ["task", *sizes.values(), "metric", *(run.name for run in shown)], rows)


def _sizes(runs: Sequence[FinishedRun], task: str, size: str = "n") -> Cell:
    """The number of samples ("n") or of those with label yes ("positives"), as a range if runs differ."""
    sizes = sorted({run.tasks[task][size] for run in runs if task in run.tasks})
    return Cell("–".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))), sizes[-1])


def _cells(runs: Sequence[FinishedRun], task: str) -> Iterator[Cell]:
    """The main metric of each run. Bold is the best value, if its samples suffice and it is better than chance."""
    metric = main_metric(task)
    results = [run.tasks.get(task, {}) for run in runs]
    best = max((result[metric] for result in results if is_above_chance(result, metric)), default=None)
    sizes_differ = len({(result["n"], result.get("positives")) for result in results if result}) > 1
    for result in results:
        extra = [f"{name} {result[name]:.3f}" for name in ("invalid", "unanswerable") if result.get(name)]
        extra += [sizes_text(result["n"], result.get("positives"))] if sizes_differ and result else []
        is_best = is_above_chance(result, metric) and result[metric] == best
        yield value_cell(result, metric, is_best, ", ".join(extra))


def is_above_chance(result: Mapping[str, Any], metric: str) -> bool:
    """Whether a result has enough samples and is better than nothing: an AUROC with its interval, other metrics above 0.

    >>> is_above_chance({"auroc": 0.7, "auroc_ci": [0.45, 0.9]}, "auroc")
    False
    """
    interval = result.get(f"{metric}_ci")
    return interval is not None and (interval[0] > 0.5 if metric == "auroc" else result[metric] > 0)


def all_metrics(report: Report) -> Markup:
    """Every metric of the runs by task."""
    metrics = ("f1", "precision", "recall", "accuracy", "rouge1", "auroc", "auprc", "brier", "ece", "invalid", "unanswerable")
    parts = []
    for run in report.runs:
        shown = [metric for metric in metrics if any(metric in values for values in run.tasks.values())]
        rows = [
            [task, *map(values.get, ("n", "patients", "positives")), *(value_cell(values, metric) for metric in shown)]
            for task, values in run.tasks.items()
        ]
        caption = f"{run.name}: all metrics, 95 % intervals below."
        parts.append(details(run.name, table(caption, ["task", "n", "patients", "yes", *shown], rows)))
    return Markup("").join(parts)


def settings(report: Report) -> Markup:
    """The settings of each run; the names of settings in which runs differ are bold."""
    runs = report.runs
    values_of: dict[str, list[Any]] = {name: [run.arguments.get(name) for run in runs] for name in SETTINGS}
    values_of |= {
        "instructions_sha256": [run.result.get("instructions_sha256") for run in runs],
        "template_sha256": [next((output.template_sha256 for output in run.outputs.values()), None) for run in runs],
        "prompts_sha256": [None if run.baseline else run.hash(lambda _, output: output.prompt_sha256) for run in runs],
        "samples_sha256": [run.hash(lambda sample_id, _: sample_id) for run in runs],
    }
    for name in ("trajectories", "git", "score_version", "resamples"):
        values_of[name] = [run.result.get(name) for run in runs]
    values_of["folder"] = [", ".join(map(str, run.folders)) for run in runs]
    rows, paths = [], []
    for name, values in values_of.items():
        if all(value in (None, "") for value in values):
            continue
        width = 12 if name.endswith("_sha256") or name in ("trajectories", "git") else None
        cells = [None if value in (None, "") else str(value)[:width] for value in values]
        if name in PATHS:
            paths += [[name, run.name, cell] for run, cell in zip(runs, cells, strict=True) if cell and "/" in cell]
            cells = [cell and ", ".join(Path(path).name for path in cell.split(",")) for cell in cells]
        of_models = {str(value) for value, run in zip(values, runs, strict=True) if not run.baseline}
        differ = len(of_models) > 1 and name != "folder"
        rows.append([Markup("<b>{}</b>").format(name) if differ else name, *cells])
    caption = "Settings and hashes; bold where models differ."
    text = table(caption, ["setting", *(run.name for run in runs)], rows, sort=False)
    return text + (details("Full paths", table("Full paths", ["setting", "run", "path"], paths)) if paths else "")
