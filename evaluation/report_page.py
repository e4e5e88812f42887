"""The page of a report: its sections, in order, and what is above them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation import page
from evaluation.finished_runs import SETTINGS, FinishedRun, common_samples
from evaluation.pages.document import Cell, document, table
from evaluation.pages.document import verdict as verdict_part
from evaluation.predictions import Prediction
from evaluation.published import PUBLISHED, PUBLISHED_TASKS
from evaluation.report_charts import Styles, lengths, macro_bars, run_bar, run_styles
from evaluation.report_data import HEADLINES, KINDS, Report, Section, interval_text, macro_sizes, sizes_text
from evaluation.score import TOO_FEW, main_metric, main_scores, mass_notes, mean_over_tasks, sample_notes
from evaluation.verdict import verdict
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import ALL_TASKS, TASKS
from pipeline.progress import counted

if TYPE_CHECKING:
    from evaluation.comparisons import Comparison

GROUPS = {"hosp": "hospital", "ed": "ED", "icu": "ICU", "note": "notes"}  # of tasks: by the module of their event


# --- the page


def build(report: Report) -> str:
    """The page as HTML."""
    title = "Evaluation: " + ", ".join(run.name for run in report.models)
    patients = {output.prediction.subject_id for run in report.models for output in run.outputs.values()}
    lead = (
        f"{counted(len(report.models), 'run')} and {counted(len(report.runs) - len(report.models), 'baseline')}, "
        f"{counted(len(report.tasks), 'task')}, {counted(len(patients), 'patient')}. All figures are fractions; intervals are "
        f"95 % bootstrap intervals over patients. A click on a table's head sorts it."
    )
    sections = [(section.heading, section.content(report)) for section in SECTIONS]
    sections = [(heading, content) for heading, content in sections if content]
    judged = report.models[0]
    conclusion = verdict(judged, [comparison for comparison in report.comparisons if comparison.a is judged])
    return document(title, lead, sections, verdict=verdict_part(*conclusion), styles=page.STYLE)


def warnings(runs: Sequence[FinishedRun]) -> list[page.Content]:
    """Reasons why scores on the page are not comparable or not final."""
    models = [run for run in runs if not run.baseline]
    texts: list[page.Content] = [page.tag("b", f"{run.name}: {note}.") for run in models for note in sample_notes(run.tasks)]
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
        texts.append(page.join("No baselines are here to judge the figures by. To make them: ", page.tag("code", command)))
    return texts


def overview(runs: Sequence[FinishedRun], styles: Styles) -> page.Html:
    """Macro averages by model as charts and as a table, with the published ones for reference."""
    charts = []
    for kind, (_, metric, chance) in HEADLINES.items():
        note = "Outlined: as published." + (" Dashed: by chance." if chance else "")
        charts.append(page.bar_chart(f"{KINDS[kind]}: macro {metric}", macro_bars(runs, kind, styles), chance, note))
    note = (
        "Averages over the paper's 24 decision-making and 18 risk prediction tasks, each task counting once; fewer where a "
        "run has no value for some. Published figures are those of the whole EHR-Bench, so only a run on all of it can "
        "be held against them."
    )
    columns = ["model", "decision F1", "tasks", "risk AUROC", "tasks", "decision F1 of 27", "risk AUROC of 18", "samples"]
    rows: list[list[page.Content | Cell]] = []
    for run in runs:
        paper, released = (run.result["macro"][suite] for suite in ("paper", "released"))
        cells = [cell for kind in HEADLINES for cell in (_macro_cell(paper, kind), paper[f"{kind}_tasks"])]
        cells += [_macro_cell(released, kind) for kind in HEADLINES]
        rows.append([run.name, *cells, len(run.outputs)])
    for name, (f1, auroc) in PUBLISHED.items():
        decision, risk = PUBLISHED_TASKS
        rows.append([f"{name}, published", f1, decision, auroc, None if auroc is None else risk, None, None, None])
    caption = "Macro averages: the paper's 42 tasks, and the released benchmark's 45."
    return page.join(page.grid(charts, 340), page.tag("p", note, class_="note"), table(caption, columns, rows))


def _value_cell(result: Mapping[str, Any], metric: str, bold: bool = False, extra: str = "") -> Cell:
    """A value with its interval and an extra text below."""
    value = result.get(metric)
    small = [page.tag("small", text) for text in (interval_text(result, metric), extra) if text]
    return Cell(page.join(page.tag("b", value) if bold else value, *small), value)


def _macro_cell(macro: Mapping[str, Any], kind: str) -> Cell:
    """A macro average with its interval and the number of its samples."""
    return _value_cell(macro, HEADLINES[kind][0], extra=macro_sizes(macro, kind))


def task_tables(runs: Sequence[FinishedRun], tasks: Sequence[str]) -> Iterator[page.Html]:
    """A table for each kind of task: one row per task, one column per run, the best value in bold."""
    for kind, title in KINDS.items():
        names = [task for task in tasks if ALL_TASKS[task].kind == kind]
        if names:
            shown = [run for run in runs if any(task in run.tasks for task in names)]
            sizes = ["n", "positives"] if kind == "risk" else ["n"]
            rows = [
                [task, *(_sizes(shown, task, size) for size in sizes), main_metric(task), *_cells(shown, task)]
                for task in names
            ]
            columns = [
                "task",
                *({"positives": "yes"}.get(size, size) for size in sizes),
                "metric",
                *(run.name for run in shown),
            ]
            caption = f"{title}: best in bold where samples suffice, 95 % interval below."
            yield table(caption, columns, rows)


def _sizes(runs: Sequence[FinishedRun], task: str, size: str = "n") -> Cell:
    """The number of samples ("n") or of those with label yes ("positives"), as a range if runs differ."""
    sizes = sorted({run.tasks[task][size] for run in runs if task in run.tasks})
    return Cell("–".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))), sizes[-1])


def _cells(runs: Sequence[FinishedRun], task: str) -> Iterator[Cell]:
    """The main metric of each run. Bold is the best value that is above 0 and of enough samples."""
    metric = main_metric(task)
    results = [run.tasks.get(task, {}) for run in runs]
    best = max((result.get(metric) or 0 for result in results if not result.get("too_few")), default=0)
    sizes_differ = len({(result["n"], result.get("positives")) for result in results if result}) > 1
    for result in results:
        extra = [f"{name} {result[name]:.3f}" for name in ("invalid", "unanswerable") if result.get(name)]
        extra += [sizes_text(result["n"], result.get("positives"))] if sizes_differ and result else []
        is_best = best > 0 and not result.get("too_few") and result.get(metric) == best
        yield _value_cell(result, metric, is_best, ", ".join(extra))


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
                    mean, interval = mean_over_tasks(list(values.values()), [run.replicates.get(name) for name in values])
                    n, positives = (sum(run.tasks[name].get(size, 0) for name in values) for size in ("n", "positives"))
                    sizes = sizes_text(n, positives if kind == "risk" else None)
                    bars.append(run_bar(run, mean, interval, sizes, styles))
                num_tasks = max(num_tasks, len(values))
            if bars:
                charts.append(
                    page.bar_chart(f"{KINDS[kind]}, {title}: {metric} of {counted(num_tasks, 'task')}", bars, chance)
                )
    return page.grid(charts, 340)


def comparison(report: Report) -> page.Html:
    """Each run against the other runs and the baselines, on the samples both have."""
    if not report.comparisons:
        return page.tag("p", "There are no other runs or baselines on the same samples, so nothing to compare.")
    parts, rows = [], []
    for pair in report.comparisons:
        name, tasks, macros = f"{pair.a.name} − {pair.b.name}", pair.tasks, pair.macros
        significant = [each.difference for each in tasks.values() if each.p_holm is not None and each.p_holm < 0.05]
        better, worse = sum(difference > 0 for difference in significant), sum(difference < 0 for difference in significant)
        untested = sum(each.p is None for each in tasks.values())
        sizes = {task: pair.sizes(task) for task in tasks}
        totals = [sum(number or 0 for number in column) for column in zip(*sizes.values(), strict=True)] or [0, 0]
        counts = [*totals, better, worse, len(tasks) - untested - len(significant), untested]
        rows.append([name, *(cell for kind in HEADLINES for cell in _difference_cells(macros.get(kind))), *counts])
        cells = {task: (*_difference_cells(each), _p_cell(each, each.p_holm)) for task, each in tasks.items()}
        if task_rows := [[task, *sizes[task], main_metric(task), *cells[task]] for task in tasks]:
            columns = ["task", "common samples", "yes", "metric", "difference", "p", "p, Holm"]
            by_task = table(f"{name}: above 0, {pair.a.name} is better.", columns, task_rows)
            parts.append(page.details(f"{name}: by task", by_task))
    columns = ["pair", "macro F1", "p", "macro AUROC", "p", "common samples", "yes", "better in", "worse in"]
    columns += ["no significant difference in", "too few in"]
    num_tasks = max(len(run.tasks) for run in report.runs)
    note = (
        "Differences on the samples that both have; macro: the mean over all tasks that both have. p is the larger one of a "
        "permutation test, which swaps the outputs of the two for whole patients, and of a paired bootstrap over patients "
        f"({counted(report.resamples, 'resample')}). Better, worse: tasks with p < 0.05 after Holm's correction over "
        f"the tasks; with {num_tasks} tasks that takes at least {40 * num_tasks:,} resamples. Too few: number of tasks whose "
        "common samples are too few for a test."
    )
    caption = "The first of a pair minus the second, 95 % interval below."
    return page.join(page.tag("p", note, class_="note"), table(caption, columns, rows), *parts)


def _difference_cells(result: Comparison | None) -> tuple[Cell | None, Cell | None]:
    """A difference with its interval, and its p-value."""
    return (
        (_value_cell({"d": result.difference, "d_ci": result.ci}, "d"), _p_cell(result, result.p)) if result else (None, None)
    )


def _p_cell(result: Comparison, p: float | None) -> Cell:
    """A p-value; small ones are displayed as a bound, since they are never 0."""
    return Cell(TOO_FEW if result.too_few else "< 0.001" if p is not None and p < 0.001 else p, p)


def roc_and_calibration(runs: Sequence[FinishedRun], tasks: Sequence[str], styles: Styles) -> page.Html:
    """ROC curve and reliability diagram of every risk task, from the stored p(yes)."""
    cards, without = [], []
    for task in tasks:
        results = [(run, run.tasks[task]) for run in runs if run.tasks.get(task, {}).get("calibration")]
        without += [f"{run.name}, {task} ({result['too_few']})" for run, result in results if result["too_few"]]
        shown = [(run, result) for run, result in results if not result["too_few"]]
        if shown:
            roc = [page.Curve(roc_points(task, run.predictions[task]), styles[run.name]) for run, _ in shown]
            bins = [[(each["p"], each["share"]) for each in result["calibration"]] for _, result in shown]
            reliability = [
                page.Curve(points, styles[run.name], dots=True) for points, (run, _) in zip(bins, shown, strict=True)
            ]
            charts = []
            kinds = ("ROC", "1 − specificity", "sensitivity", roc), ("calibration", "p(yes)", "share of yes", reliability)
            for title, x, y, curves in kinds:
                axes = [page.Axis(label, 0, 1, page.FRACTION_TICKS) for label in (x, y)]
                charts.append(page.line_chart(f"{task}: {title}", *axes, curves, (174, 180), diagonal=True))
            sizes = "; ".join(dict.fromkeys(sizes_text(result["n"], result["positives"]) for _, result in shown))
            heading, caption = page.tag("h3", task), page.tag("figcaption", sizes)
            cards.append(page.tag("figure", heading, page.tag("div", *charts, class_="pair"), caption))
    if not cards and not without:
        return page.tag("p", "No run has p(yes) of a risk task.")
    note = "Left: ROC. Right: calibration in ten bins of p(yes). Dashed: by chance, and perfectly calibrated."
    if any("replies" in values for run in runs for values in run.tasks.values()):
        note += " Of several replies: ROC of the mean p(yes) (majority_auroc), calibration over all replies."
    lacking = page.details(f"Too few samples for curves: {counted(len(without), 'curve')} left out", "; ".join(without))
    calibrated = [run.name for run in runs if any(values.get("calibration") for values in run.tasks.values())]
    legend = page.legend([(name, styles[name]) for name in calibrated])
    parts = [page.tag("p", note, class_="note"), legend, page.grid(cards, 356)] if cards else []
    return page.join(*parts, lacking if without else "")


def roc_points(task: str, predictions: Sequence[Prediction], max_points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as points (1 − specificity, sensitivity), from the highest threshold to the lowest.

    The area below the points is the AUROC of the result, or of several replies its `majority_auroc`, as both come from the
    same scores. More than `max_points` points are thinned out. Empty if there is only one label.

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
    return points[:: len(points) // max_points + 1][:-1] + points[-1:] if len(points) > max_points else points


def all_metrics(run: FinishedRun) -> page.Html:
    """Every metric of a run by task."""
    metrics = ("f1", "precision", "recall", "accuracy", "rouge1", "auroc", "auprc", "brier", "ece", "invalid", "unanswerable")
    shown = [metric for metric in metrics if any(metric in values for values in run.tasks.values())]
    rows = []
    for task, values in run.tasks.items():
        rows.append([task, *map(values.get, ("n", "patients", "positives")), *(_value_cell(values, each) for each in shown)])
    columns = ["task", "n", "patients", "yes", *shown]
    return page.details(run.name, table(f"{run.name}: all metrics, 95 % intervals below.", columns, rows))


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
    values_of["folder"] = [", ".join(map(str, run.folders)) for run in runs]
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
    return table(caption, ["setting", *(run.name for run in runs)], rows, sort=False)


SECTIONS: tuple[Section, ...] = (
    Section("Overview", lambda report: page.join(
        page.notices(warnings(report.runs)), page.legend(list(run_styles(report.runs).items())),
        overview(report.runs, run_styles(report.runs)))),
    Section("Tasks", lambda report: page.join(*task_tables(report.runs, report.tasks))),
    Section("Groups of tasks", lambda report: groups(report.runs, run_styles(report.runs))),
    Section("Comparison", comparison),
    Section("ROC and calibration", lambda report: roc_and_calibration(report.runs, report.tasks, run_styles(report.runs))),
    Section("Lengths and truncation", lambda report: lengths(report.runs, run_styles(report.runs))),
    Section("All metrics", lambda report: page.join(*map(all_metrics, report.runs))),
    Section("Settings", lambda report: settings(report.runs)),
)  # fmt: skip
