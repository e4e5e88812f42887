"""Compare runs on a self-contained HTML page with charts, tables and confidence intervals.

Reads the outputs and result.json of each DIR (the --output_path of test.py) and of the baselines below it
(`python -m evaluation.baselines DIR`), and writes report.html in the first DIR. The page holds names of tasks and models,
settings and scores, and no text of inputs or replies.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation import page
from evaluation.finished_runs import FinishedRun, Output, compare_runs, read_runs
from evaluation.predictions import Prediction
from evaluation.published import PUBLISHED
from evaluation.score import main_metric, mean_over_tasks, risk_predictions
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.cli import Parser, at_least
from pipeline.cli import run as run_command
from pipeline.files import atomic_path
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from evaluation.metrics import Comparison

KINDS = {"decision": "Decision-making", "risk": "Risk prediction", "generation": "Note generation"}

# Kind of task → key of its macro average in result.json, name of the metric, and its expected value for random answers.
HEADLINES = {"decision": ("decision_f1", "F1", None), "risk": ("risk_auroc", "AUROC", 0.5)}

GROUPS = {"hosp": "hospital", "ed": "ED", "icu": "ICU", "note": "notes"}  # of tasks: by the module of their event

# Arguments of a run that the page shows.
SETTINGS = (
    "model_name_or_path", "lora_path", "dataset_name", "limit", "prompt", "think_prompt", "direct_answer", "think_risk",
    "oracle_reasoning", "as_known", "empty_think", "instructions", "max_seq_len", "max_new_tokens", "temperature", "seed",
    "dtype", "use_vllm", "train_index", "max_train",
)  # fmt: skip

Styles = Mapping[str, page.Style]  # name of a run → style of its lines and bars


# --- the page


def build(runs: Sequence[FinishedRun], resamples: int) -> str:
    """The page as HTML."""
    models, styles = [run for run in runs if not run.baseline], run_styles(runs)
    title = "Evaluation: " + ", ".join(run.name for run in models)
    tasks = [task for task in ALL_TASKS if any(task in run.tasks for run in runs)]
    patients = {output.prediction.subject_id for run in models for output in run.outputs.values()}
    lead = (
        f"{_count(len(models), 'run')} and {_count(len(runs) - len(models), 'baseline')}, {_count(len(tasks), 'task')}, "
        f"{_count(len(patients), 'patient')}. All figures are fractions; intervals are 95 % bootstrap intervals over "
        f"patients. A click on a table's head sorts it."
    )
    sections: list[tuple[str, page.Content]] = [
        ("Overview", page.join(page.notices(warnings(runs)), page.legend(list(styles.items())), overview(runs, styles))),
        ("Tasks", page.join(*task_tables(runs, tasks))),
        ("Groups of tasks", groups(runs, styles)),
        ("Comparison", comparison(runs, resamples)),
        ("ROC and calibration", roc_and_calibration(runs, tasks, styles)),
        ("Lengths and truncation", lengths(runs, styles)),
        ("All metrics", page.join(*map(all_metrics, runs))),
        ("Settings", settings(runs)),
    ]
    return page.document(title, lead, sections)


def run_styles(runs: Sequence[FinishedRun]) -> dict[str, page.Style]:
    """A colour for every model, and a grey line for every baseline, by the name of the run."""
    colours, greys = itertools.cycle(map(page.Style, page.COLOURS)), itertools.cycle(page.GREYS)
    return {run.name: next(greys if run.baseline else colours) for run in runs}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def warnings(runs: Sequence[FinishedRun]) -> list[page.Content]:
    """Reasons why scores on the page are not comparable or not final."""
    models = [run for run in runs if not run.baseline]
    texts: list[page.Content] = []
    for run in models:
        if missing := run.result.get("missing"):
            texts.append(f"{run.name}: {_count(missing, 'sample')} not answered yet; its figures are not final.")
        if run.result.get("available", 0) > len(run.outputs):
            number = f"{len(run.outputs):,} of the {run.result['available']:,} samples of its dataset"
            texts.append(f"{run.name}: a run on {number} (--limit).")
        if noted := [task for task, result in run.tasks.items() if result.get("note")]:
            texts.append(
                f"{run.name}: p(yes) is missing, in part or whole, in {', '.join(noted)}; without any there is no "
                "AUROC, and a single one that is missing counts as 0.5."
            )
        if "ehr-r1" in run.name.casefold() and not run.arguments.get("instructions"):
            texts.append(
                f"{run.name}: published EHR-R1 checkpoints were trained on their own instruction wording, this run "
                "has ours; docs/differences.md says how to run them on theirs."
            )
    common = set.intersection(*(set(run.outputs) for run in models))
    if any(len(run.outputs) != len(common) for run in models):
        sizes = ", ".join(f"{run.name} {len(run.outputs):,}" for run in models)
        texts.append(
            f"The runs have different samples: {sizes}; {len(common):,} in common. Each run's figures are over its "
            "own samples; the comparison is over those in common."
        )
    hashes = ({run.outputs[sample_id].input_sha256 for run in models} - {None, ""} for sample_id in common)
    if different := sum(len(of_sample) > 1 for of_sample in hashes):
        texts.append(f"The runs have {_count(different, 'sample')} in common whose records read differently.")
    if len({run.result.get("instructions_sha256") for run in models} - {None}) > 1:
        texts.append("The runs have different instruction wording (see Settings): their figures differ for that too.")
    if len(runs) == len(models):
        command = f"python -m evaluation.baselines {models[0].folder}"
        texts.append(page.join("No baselines are here to judge the figures by. To make them: ", page.tag("code", command)))
    return texts


def overview(runs: Sequence[FinishedRun], styles: Styles) -> page.Html:
    """Macro averages by model as charts and as a table, with the published ones for reference."""
    charts = []
    for kind, (key, metric, chance) in HEADLINES.items():
        note = "Outlined: as published." + (" Dashed: by chance." if chance else "")
        charts.append(page.bar_chart(f"{KINDS[kind]}: macro {metric}", macro_bars(runs, key, styles), chance, note))
    note = (
        "Averages over the paper's 24 decision-making and 18 risk prediction tasks, each task counting once; fewer where a "
        "run has no value for some. Published figures are those of the whole EHR-Bench, so only a run on all of it can "
        "be held against them."
    )
    columns = ["model", "decision F1", "tasks", "risk AUROC", "tasks", "decision F1 of 27", "risk AUROC of 18", "samples"]
    rows: list[list[page.Content | page.Cell]] = []
    for run in runs:
        paper, released = (run.result["macro"][suite] for suite in ("paper", "released"))
        cells = [cell for kind, (key, *_) in HEADLINES.items() for cell in (_value_cell(paper, key), paper[f"{kind}_tasks"])]
        cells += [_value_cell(released, key) for key, *_ in HEADLINES.values()]
        rows.append([run.name, *cells, len(run.outputs)])
    for name, (f1, auroc) in PUBLISHED.items():
        rows.append([f"{name}, published", f1, 24, auroc, None if auroc is None else 18, None, None, None])
    caption = "Macro averages: the paper's 42 tasks, and the released benchmark's 45."
    return page.join(page.grid(charts, 340), page.tag("p", note, class_="note"), page.html_table(caption, columns, rows))


def macro_bars(runs: Sequence[FinishedRun], key: str, styles: Styles) -> list[page.Bar]:
    """A macro average of the runs, then the published ones from high to low; models without a value are left out."""
    macros = [(run.name, run.result["macro"]["paper"]) for run in runs]
    bars = [page.Bar(name, macro[key], macro[f"{key}_ci"], styles[name]) for name, macro in macros]
    published = [page.Bar(name, getattr(values, key), None, page.OUTLINE) for name, values in PUBLISHED.items()]
    bars, published = ([bar for bar in group if bar.value is not None] for group in (bars, published))
    return bars + sorted(published, key=lambda bar: bar.value, reverse=True)


def _value_cell(result: Mapping[str, Any], metric: str, bold: bool = False, extra: str = "") -> page.Cell:
    """A value with its interval and an extra text below."""
    value = result.get(metric)
    small = [page.tag("small", text) for text in (page.interval_text(result.get(f"{metric}_ci")), extra) if text]
    return page.Cell(page.join(page.tag("b", value) if bold else value, *small), value)


def task_tables(runs: Sequence[FinishedRun], tasks: Sequence[str]) -> Iterator[page.Html]:
    """A table for each kind of task: one row per task, one column per run, the best value in bold."""
    for kind, title in KINDS.items():
        names = [task for task in tasks if ALL_TASKS[task].kind == kind]
        if names:
            shown = [run for run in runs if any(task in run.tasks for task in names)]
            rows = [[task, _sizes(shown, task), main_metric(task), *_cells(shown, task)] for task in names]
            columns = ["task", "n", "metric", *(run.name for run in shown)]
            yield page.html_table(f"{title}: best in bold, 95 % interval below.", columns, rows)


def _sizes(runs: Sequence[FinishedRun], task: str) -> page.Cell:
    sizes = sorted({run.tasks[task]["n"] for run in runs if task in run.tasks})
    return page.Cell("–".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))), sizes[-1])


def _cells(runs: Sequence[FinishedRun], task: str) -> Iterator[page.Cell]:
    metric = main_metric(task)
    values = [run.tasks[task].get(metric) for run in runs if task in run.tasks]
    best = max((value for value in values if value is not None), default=None)
    for run in runs:
        result = run.tasks.get(task, {})
        shares = [f"{name} {result[name]:.3f}" for name in ("invalid", "unanswerable") if result.get(name)]
        yield _value_cell(result, metric, best is not None and result.get(metric) == best, ", ".join(shares))


def groups(runs: Sequence[FinishedRun], styles: Styles) -> page.Html:
    """Means of the main metric by group of tasks."""
    charts = []
    for kind, (_, metric, chance) in HEADLINES.items():
        for module, title in GROUPS.items():
            of_kind = [task for task in TASKS.values() if task.kind == kind and task.released and task.event]
            names = [task.name for task in of_kind if EVENTS[task.event].module == module]
            bars, num_tasks = [], 0
            for run in runs:
                values = {name: run.tasks.get(name, {}).get(main_metric(name)) for name in names}
                values = {name: value for name, value in values.items() if value is not None}
                if values:
                    mean_and_interval = mean_over_tasks(list(values.values()), [run.replicates[name] for name in values])
                    bars.append(page.Bar(run.name, *mean_and_interval, styles[run.name]))
                num_tasks = max(num_tasks, len(values))
            if bars:
                charts.append(page.bar_chart(f"{KINDS[kind]}, {title}: {metric} of {_count(num_tasks, 'task')}", bars, chance))
    return page.grid(charts, 340)


def comparison(runs: Sequence[FinishedRun], resamples: int) -> page.Html:
    """Each run against the other runs and the baselines, on the samples both have."""
    pairs = [(a, b) for a, b in itertools.combinations(runs, 2) if not a.baseline]
    if not pairs:
        return page.tag("p", "There is one run and no baseline, so nothing to compare.")
    parts, rows = [], []
    for a, b in progress(pairs, desc="comparing", unit="pair"):
        name, (tasks, macros, sizes) = f"{a.name} − {b.name}", compare_runs(a, b, resamples)
        significant = [each.difference for each in tasks.values() if each.p_holm is not None and each.p_holm < 0.05]
        better, worse = sum(difference > 0 for difference in significant), sum(difference < 0 for difference in significant)
        counts = [sum(sizes.values()), better, worse, len(tasks) - len(significant)]
        rows.append([name, *(cell for kind in HEADLINES for cell in _difference_cells(macros.get(kind))), *counts])
        cells = {task: (*_difference_cells(each), _p_cell(each.p_holm)) for task, each in tasks.items()}
        if task_rows := [[task, sizes[task], main_metric(task), *cells[task]] for task in tasks]:
            columns = ["task", "common samples", "metric", "difference", "p", "p, Holm"]
            by_task = page.html_table(f"{name}: above 0, {a.name} is better.", columns, task_rows)
            parts.append(page.details(f"{name}: by task", by_task))
    columns = ["pair", "macro F1", "p", "macro AUROC", "p", "common samples", "better in", "worse in"]
    columns.append("no significant difference in")
    num_tasks = max(len(run.tasks) for run in runs)
    note = (
        f"Differences on the samples that both have, by a paired bootstrap over patients ({_count(resamples, 'resample')}); "
        "macro: the mean over all tasks that both have. Better, worse: number of tasks with p < 0.05 after Holm's correction "
        f"over the tasks; with {num_tasks} tasks that takes at least {40 * num_tasks:,} resamples."
    )
    caption = "The first of a pair minus the second, 95 % interval below."
    return page.join(page.tag("p", note, class_="note"), page.html_table(caption, columns, rows), *parts)


def _difference_cells(result: Comparison | None) -> tuple[page.Cell | None, page.Cell | None]:
    """A difference with its interval, and its p-value."""
    return (_value_cell({"d": result.difference, "d_ci": result.ci}, "d"), _p_cell(result.p)) if result else (None, None)


def _p_cell(p: float | None) -> page.Cell:
    """A p-value; small ones are displayed as a bound, since they are never 0."""
    return page.Cell("< 0.001" if p is not None and p < 0.001 else p, p)


def roc_and_calibration(runs: Sequence[FinishedRun], tasks: Sequence[str], styles: Styles) -> page.Html:
    """ROC curve and reliability diagram of every risk task, from the stored p(yes)."""
    cards = []
    for task in tasks:
        roc, reliability = [], []
        for run in [run for run in runs if run.tasks.get(task, {}).get("calibration")]:
            bins = [(each["p"], each["share"]) for each in run.tasks[task]["calibration"]]
            reliability.append(page.Curve(bins, styles[run.name], dots=True))
            if points := roc_points(run.predictions[task]):
                roc.append(page.Curve(points, styles[run.name]))
        if reliability:
            charts = []
            kinds = ("ROC", "1 − specificity", "sensitivity", roc), ("calibration", "p(yes)", "share of yes", reliability)
            for title, x, y, curves in kinds:
                axes = [page.Axis(label, 0, 1, page.FRACTION_TICKS) for label in (x, y)]
                charts.append(page.line_chart(f"{task}: {title}", *axes, curves, (174, 180), diagonal=True))
            cards.append(page.tag("figure", page.tag("h3", task), page.tag("div", *charts, class_="pair")))
    if not cards:
        return page.tag("p", "No run has p(yes) of a risk task.")
    note = "Left: ROC. Right: calibration in ten bins of p(yes). Dashed: by chance, and perfectly calibrated."
    calibrated = [run.name for run in runs if any(values.get("calibration") for values in run.tasks.values())]
    legend = page.legend([(name, styles[name]) for name in calibrated])
    return page.join(page.tag("p", note, class_="note"), legend, page.grid(cards, 356))


def roc_points(predictions: Sequence[Prediction], max_points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as points (1 − specificity, sensitivity), from the highest threshold to the lowest.

    The area below the points is the AUROC of the result, as both come from `score.risk_predictions`; more than `max_points`
    points are thinned out. Empty if there is only one label.

    >>> answers = {"yes": 0.9, "no": 0.1}
    >>> roc_points([Prediction("ICU_Stay_7day", (label,), label, p_yes=p) for label, p in answers.items()])
    [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    risk = risk_predictions(predictions)
    counts: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for label, p in zip(risk.labels.tolist(), risk.probabilities.tolist(), strict=True):
        counts[p][label] += 1
    no, yes = map(sum, zip(*counts.values(), strict=True))
    if not no or not yes:
        return []
    steps = itertools.accumulate((counts[p] for p in sorted(counts, reverse=True)), lambda a, b: [a[0] + b[0], a[1] + b[1]])
    points = [(0.0, 0.0), *((false / no, true / yes) for false, true in steps)]
    return points[:: len(points) // max_points + 1][:-1] + points[-1:] if len(points) > max_points else points


def lengths(runs: Sequence[FinishedRun], styles: Styles) -> page.Html:
    """Distributions of the lengths of prompts and answers, and shares of truncated prompts and replies."""
    models = [run for run in runs if not run.baseline]
    charts: list[page.Content] = []
    for title, chars in (("prompt", lambda output: output.prompt_chars), ("answer", lambda output: output.answer_chars)):
        numbers = {run.name: list(filter(None, map(chars, run.outputs.values()))) for run in models}
        numbers = {name: of_run for name, of_run in numbers.items() if of_run}
        if numbers:
            x = page.log_axis(f"characters of the {title}", min(map(min, numbers.values())), max(map(max, numbers.values())))
            y = page.Axis("cumulative share", 0, 1, page.FRACTION_TICKS)
            lines = [page.Curve(distribution(of_run), styles[name]) for name, of_run in numbers.items()]
            chart = page.line_chart(f"Length of the {title}", x, y, lines, (340, 220))
            charts.append(page.tag("figure", page.tag("h3", f"Length of the {title}"), chart))
    conditions: dict[str, Callable[[Output], bool]] = {
        "Record truncated: oldest events left out": lambda output: bool(output.truncated),
        "Prompt too long: not answered": lambda output: output.prediction.error is not None,
        "Reply cut off at the longest length": lambda output: output.finish_reason == "length",
    }
    for title, holds in conditions.items():
        shares = {run.name: sum(map(holds, run.outputs.values())) / len(run.outputs) for run in models if run.outputs}
        charts.append(page.bar_chart(title, [page.Bar(name, share, None, styles[name]) for name, share in shares.items()]))
    return page.join(page.legend([(run.name, styles[run.name]) for run in models]), page.grid(charts, 340))


def distribution(lengths: Sequence[int], steps: int = 100) -> list[tuple[float, float]]:
    """The empirical distribution function: points (log10 of a length, share of lengths up to it) at `steps` + 1 ranks.

    >>> distribution([10, 100, 1000], steps=2)
    [(1.0, 0.3333333333333333), (2.0, 0.6666666666666666), (3.0, 1.0)]
    """
    ranked = sorted(lengths)
    ranks = dict.fromkeys(round((len(ranked) - 1) * step / steps) for step in range(steps + 1))
    return [(math.log10(ranked[rank]), (rank + 1) / len(ranked)) for rank in ranks]


def all_metrics(run: FinishedRun) -> page.Html:
    """Every metric of a run by task."""
    metrics = ("f1", "precision", "recall", "accuracy", "rouge1", "auroc", "auprc", "brier", "ece", "invalid", "unanswerable")
    shown = [metric for metric in metrics if any(metric in values for values in run.tasks.values())]
    rows = []
    for task, values in run.tasks.items():
        rows.append([task, *map(values.get, ("n", "patients", "positives")), *(_value_cell(values, each) for each in shown)])
    columns = ["task", "n", "patients", "yes", *shown]
    return page.details(run.name, page.html_table(f"{run.name}: all metrics, 95 % intervals below.", columns, rows))


def settings(runs: Sequence[FinishedRun]) -> page.Html:
    """The settings of each run; the names of settings in which runs differ are bold."""
    values_of: dict[str, list[Any]] = {name: [run.arguments.get(name) for run in runs] for name in SETTINGS}
    values_of |= {
        "instructions_sha256": [run.result.get("instructions_sha256") for run in runs],
        "template_sha256": [next((output.template_sha256 for output in run.outputs.values()), None) for run in runs],
        "prompts_sha256": [None if run.baseline else run.hash(lambda _, output: output.prompt_sha256) for run in runs],
        "samples_sha256": [run.hash(lambda sample_id, _: sample_id) for run in runs],
    }
    for name in ("trajectories", "git", "score_version", "resamples"):
        values_of[name] = [run.result.get(name) for run in runs]
    values_of["folder"] = [str(run.folder) for run in runs]
    rows = []
    for name, values in values_of.items():
        if all(value in (None, "") for value in values):
            continue
        width = 12 if name.endswith("_sha256") or name in ("trajectories", "git") else None
        cells = [None if value in (None, "") else str(value)[:width] for value in values]
        of_models = {str(value) for value, run in zip(values, runs, strict=True) if not run.baseline}
        differ = len(of_models) > 1 and name != "folder"
        rows.append([page.tag("b", name) if differ else name, *cells])
    caption = "Settings and hashes; bold where runs differ."
    return page.html_table(caption, ["setting", *(run.name for run in runs)], rows, sort=False)


# --- tables and a figure for papers


def markdown(runs: Sequence[FinishedRun]) -> str:
    """The macro averages and the tasks as markdown tables."""

    def value_text(result: Mapping[str, Any], metric: str) -> str:
        value = result.get(metric)
        return "–" if value is None else f"{value:.3f} {page.interval_text(result.get(f'{metric}_ci'))}".strip()

    def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:], ""]

    macro = [["model", "decision F1", "risk AUROC"]]
    for run in runs:
        macro.append([run.name, *(value_text(run.result["macro"]["paper"], key) for key, *_ in HEADLINES.values())])
    for name, published in PUBLISHED.items():
        macro.append([f"{name}, published", *("–" if value is None else f"{value:.3f}" for value in published)])
    tasks = [["task", "n", "metric", *(run.name for run in runs)]]
    for task in [task for task in ALL_TASKS if any(task in run.tasks for run in runs)]:
        values = [value_text(run.tasks.get(task, {}), main_metric(task)) for run in runs]
        tasks.append([task, str(_sizes(runs, task).content), main_metric(task), *values])
    return "\n".join([*markdown_table(macro), *markdown_table(tasks)])


def write_png(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Write the bar charts of the overview as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.4 + 0.28 * (len(runs) + len(PUBLISHED))), layout="constrained")
    figure.get_layout_engine().set(wspace=0.1)
    for axis, (kind, (key, metric, chance)) in zip(axes, HEADLINES.items(), strict=True):
        bars = macro_bars(runs, key, run_styles(runs))[::-1]
        for position, bar in enumerate(bars):
            fill = "none" if bar.style.hollow else bar.style.colour
            axis.barh(position, bar.value, height=0.7, color=fill, edgecolor=bar.style.colour)
            if bar.interval:
                axis.plot(bar.interval, [position, position], color="#1b2430", marker="|", linewidth=1.2)
            axis.text(1.02, position, f"{bar.value:.3f}", va="center", fontsize=9)
        if chance:
            axis.axvline(chance, color="#566273", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axis.set(xlim=(0, 1), title=f"{KINDS[kind]}: macro {metric}")
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    pyplot.close(figure)


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="directories of finished runs of test.py")
    cli.add_argument("--output_path", type=Path, help="the page (report.html in the first DIR)")
    cli.add_argument("--png", action="store_true", help="also write the charts of the overview as an image, beside the page")
    cli.add_argument("--markdown", action="store_true", help="also write tables for a paper, beside the page")
    cli.add_argument("--resamples", type=at_least(1), default=5000, help="bootstrap resamples of the comparison (5000)")
    args = cli.parse_args(argv)
    summary = Summary("report")
    runs = read_runs(args.dirs)
    target = args.output_path or args.dirs[0] / "report.html"
    texts = {target: build(runs, args.resamples)}
    if args.markdown:
        texts[target.with_suffix(".md")] = markdown(runs)
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    written = list(texts)
    if args.png:
        written.append(target.with_suffix(".png"))
        write_png(written[-1], runs)
    summary.print(f"{_count(len(runs), 'model')} → {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    run_command(main)
