"""Compare runs: one self-contained HTML page with figures, tables and intervals, to read and to pass on.

Reads the outputs and result.json of each DIR (test.py's --output_path) and of the baselines below it
(`python -m evaluation.baselines DIR`), and writes DIR/report.html of the first. The page holds names of tasks and models,
settings and figures: no text of a record or reply.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.finished_runs import MAIN, OUTLINE, Row, Run, compare_runs, read_runs
from evaluation.page import (
    FRACTION_TICKS,
    Axis,
    Bar,
    Cell,
    Content,
    Curve,
    Html,
    bars,
    curves,
    details,
    grid,
    interval_text,
    join,
    legend,
    log_axis,
    notices,
    page,
    table,
    tag,
)
from evaluation.published import PUBLISHED
from evaluation.score import Sample, main_metric, mean_over_tasks
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import ALL_TASKS, TASKS, YES
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, progress

if TYPE_CHECKING:
    from evaluation.metrics import Comparison

KINDS = {"decision": "Decision-making", "risk": "Risk prediction", "generation": "Note generation"}

GROUPS = {"hosp": "hospital", "ed": "ED", "icu": "ICU", "note": "notes"}
"""Groups of tasks: by the module of the event that a sample is about."""

SETTINGS = (
    "model_name_or_path", "lora_path", "dataset_name", "limit", "prompt", "think_prompt", "direct_answer", "think_risk",
    "oracle_reasoning", "empty_think", "instructions", "max_seq_len", "max_new_tokens", "temperature", "seed", "dtype",
    "use_vllm", "train_index", "max_train",
)  # fmt: skip


# --- the page


def build(runs: Sequence[Run], resamples: int) -> str:
    """The page as HTML."""
    models = [one for one in runs if not one.baseline]
    title = "Evaluation: " + ", ".join(one.name for one in models)
    tasks = [task for task in ALL_TASKS if any(task in one.tasks for one in runs)]
    patients = {row.sample.subject_id for one in models for row in one.rows.values()}
    lead = (
        f"{_count(len(models), 'run')} and {_count(len(runs) - len(models), 'baseline')}, {_count(len(tasks), 'task')}, "
        f"{_count(len(patients), 'patient')}. All figures are fractions; intervals are 95 % bootstrap intervals over "
        f"patients. A click on a table's head sorts it."
    )
    sections: list[tuple[str, Content]] = [
        ("Overview", join(notices(warnings(runs)), legend([(one.name, one.style) for one in runs]), overview(runs))),
        ("Tasks", join(*task_tables(runs, tasks))),
        ("Groups of tasks", groups(runs)),
        ("Comparison", comparison(runs, resamples)),
        ("ROC and calibration", roc_and_calibration(runs, tasks)),
        ("Lengths and truncation", lengths(runs)),
        ("All metrics", join(*map(all_metrics, runs))),
        ("Settings", settings(runs)),
    ]
    return page(title, lead, sections)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def warnings(runs: Sequence[Run]) -> list[Content]:
    """What makes figures of this page not comparable, or not final."""
    models = [one for one in runs if not one.baseline]
    found: list[Content] = []
    for one in models:
        missing = one.result.get("missing")
        if missing:
            found.append(f"{one.name}: {_count(missing, 'sample')} not answered yet; its figures are not final.")
        noted = [task for task, result in one.tasks.items() if result.get("note")]
        if noted:
            found.append(f"{one.name}: p(yes) is missing, in part or whole, in {', '.join(noted)}; without any there is no "
                         "AUROC, and a single one that is missing counts as 0.5.")  # fmt: skip
        if "ehr-r1" in one.name.casefold() and not one.arguments.get("instructions"):
            found.append(f"{one.name}: published EHR-R1 checkpoints were trained on their own instruction wording, this run "
                         "has ours; docs/differences.md says how to run them on theirs.")  # fmt: skip
    common = set.intersection(*(set(one.rows) for one in models))
    if any(len(one.rows) != len(common) for one in models):
        sizes = ", ".join(f"{one.name} {len(one.rows):,}" for one in models)
        found.append(f"The runs have different samples: {sizes}; {len(common):,} in common. Each run's figures are over its "
                     "own samples; the comparison is over those in common.")  # fmt: skip
    other = sum(len({one.rows[name].input_sha256 for one in models if one.rows[name].input_sha256}) > 1 for name in common)
    if other:
        found.append(f"The runs have {_count(other, 'sample')} in common whose records read differently.")
    wordings = {one.result.get("instructions_sha256") for one in models} - {None}
    if len(wordings) > 1:
        found.append("The runs have different instruction wording (see Settings): their figures differ for that too.")
    if len(runs) == len(models):
        command = f"python -m evaluation.baselines {models[0].folder}"
        found.append(join("No baselines are here to judge the figures by. To make them: ", tag("code", command)))
    return found


def overview(runs: Sequence[Run]) -> Html:
    """The paper's first figure and its numbers: macro averages by model, with the published ones for reference."""
    figures = []
    for kind, (key, metric, chance) in MAIN.items():
        note = "Outlined: as published." + (" Dashed: by chance." if chance else "")
        figures.append(bars(f"{KINDS[kind]}: macro {metric}", macro_bars(runs, key), chance, note))
    note = (
        "Averages over the paper's 24 decision-making and 18 risk prediction tasks, each task counting once; fewer where a "
        "run has no value for some. Published figures are those of the whole EHR-Bench, so only a run on all of it can "
        "be held against them."
    )
    columns = ["model", "decision F1", "tasks", "risk AUROC", "tasks", "decision F1 of 27", "risk AUROC of 18", "samples"]
    rows: list[list[Content | Cell]] = []
    for one in runs:
        paper, released = (one.result["macro"][suite] for suite in ("paper", "released"))
        rows.append([
            one.name, *(part for kind, (key, _, _) in MAIN.items() for part in (_figure(paper, key), paper[f"{kind}_tasks"])),
            *(_figure(released, key) for key, _, _ in MAIN.values()), len(one.rows),
        ])  # fmt: skip
    rows += [
        [f"{name}, published", one.decision_f1, 24, one.risk_auroc, None if one.risk_auroc is None else 18, None, None, None]
        for name, one in PUBLISHED.items()
    ]
    caption = "Macro averages: the paper's 42 tasks, and the released benchmark's 45."
    return join(grid(figures, 340), tag("p", note, class_="note"), table(caption, columns, rows))


def macro_bars(runs: Sequence[Run], key: str) -> list[Bar]:
    """A macro average of the runs, then the published ones, best first; models without it are left out."""
    found = [(one, one.result["macro"]["paper"]) for one in runs]
    ours = [Bar(one.name, macro[key], macro[f"{key}_ci"], one.style) for one, macro in found if macro[key] is not None]
    theirs = [Bar(name, value, None, OUTLINE) for name, one in PUBLISHED.items() if (value := getattr(one, key)) is not None]
    return ours + sorted(theirs, key=lambda bar: -bar.value)


def _figure(result: Mapping[str, Any], metric: str, bold: bool = False, extra: str = "") -> Cell:
    """A value with its interval below."""
    value = result.get(metric)
    small = [tag("small", text) for text in (interval_text(result.get(f"{metric}_ci")), extra) if text]
    return Cell(join(tag("b", value) if bold else value, *small), value)


def task_tables(runs: Sequence[Run], tasks: Sequence[str]) -> Iterator[Html]:
    """A table for each kind of task: a row a task, models side by side, the best in bold."""
    for kind, title in KINDS.items():
        names = [task for task in tasks if ALL_TASKS[task].kind == kind]
        if names:
            shown = [one for one in runs if any(task in one.tasks for task in names)]
            rows = [[task, _sizes(shown, task), main_metric(task), *_cells(shown, task)] for task in names]
            columns = ["task", "n", "metric", *(one.name for one in shown)]
            yield table(f"{title}: best in bold, 95 % interval below.", columns, rows)


def _sizes(runs: Sequence[Run], task: str) -> Cell:
    sizes = sorted({one.tasks[task]["n"] for one in runs if task in one.tasks})
    return Cell("–".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))), sizes[-1])


def _cells(runs: Sequence[Run], task: str) -> Iterator[Cell]:
    metric = main_metric(task)
    values = [one.tasks[task].get(metric) for one in runs if task in one.tasks]
    best = max((value for value in values if value is not None), default=None)
    for one in runs:
        result = one.tasks.get(task)
        if result is None:
            yield Cell("–", None)
            continue
        shares = [f"{name} {result[name]:.3f}" for name in ("invalid", "unanswerable") if result.get(name)]
        value = result.get(metric)
        yield _figure(result, metric, value is not None and value == best, ", ".join(shares))


def groups(runs: Sequence[Run]) -> Html:
    """Means by group of tasks."""
    figures = []
    for kind, (_, metric, chance) in MAIN.items():
        for module, title in GROUPS.items():
            names = [
                name for name, task in TASKS.items()
                if task.kind == kind and task.released and task.event and EVENTS[task.event].module == module
            ]  # fmt: skip
            rows, most = [], 0
            for one in runs:
                have = [name for name in names if one.tasks.get(name, {}).get(main_metric(name)) is not None]
                value, interval = mean_over_tasks(
                    [one.tasks[name][main_metric(name)] for name in have], [one.replicates[name] for name in have]
                )
                if value is not None:
                    rows.append(Bar(one.name, value, interval, one.style))
                most = max(most, len(have))
            if rows:
                figures.append(bars(f"{KINDS[kind]}, {title}: {metric} of {_count(most, 'task')}", rows, chance))
    return grid(figures, 340)


def comparison(runs: Sequence[Run], resamples: int) -> Html:
    """Each run against the others and against the baselines, on the samples both have."""
    pairs = [(a, b) for a, b in itertools.combinations(runs, 2) if not a.baseline]
    if not pairs:
        return tag("p", "There is one run and no baseline, so nothing to compare.")
    parts, rows = [], []
    for a, b in progress(pairs, desc="comparing", unit="pair"):
        name, (tasks, macros, sizes) = f"{a.name} − {b.name}", compare_runs(a, b, resamples)
        sure = [one.difference for one in tasks.values() if one.p_holm is not None and one.p_holm < 0.05]
        better, worse = sum(one > 0 for one in sure), sum(one < 0 for one in sure)
        rows.append([
            name, *(part for kind in MAIN for part in _difference(macros.get(kind))), sum(sizes.values()),
            better, worse, len(tasks) - len(sure),
        ])  # fmt: skip
        lines = [[task, sizes[task], main_metric(task), *_difference(one), _p(one.p_holm)] for task, one in tasks.items()]
        if lines:
            columns = ["task", "common samples", "metric", "difference", "p", "p, Holm"]
            parts.append(details(f"{name}: by task", table(f"{name}: above 0, {a.name} is better.", columns, lines)))
    columns = ["pair", "macro F1", "p", "macro AUROC", "p", "common samples", "better in", "worse in", "not told apart in"]
    most = max(len(one.tasks) for one in runs)
    note = (
        f"Differences on the samples that both have, by a paired bootstrap over patients ({_count(resamples, 'resample')}); "
        "macro: the mean over all tasks that both have. Better, worse, not told apart: number of tasks, where p < 0.05 after "
        f"Holm's correction over the tasks; it takes {40 * most:,} resamples to get there with {most} tasks."
    )
    caption = "The first of a pair minus the second, 95 % interval below."
    return join(tag("p", note, class_="note"), table(caption, columns, rows), *parts)


def _difference(found: Comparison | None) -> tuple[Cell | None, Cell | None]:
    """A difference with its interval, and its p."""
    if found is None:
        return None, None
    return _figure({"d": found.difference, "d_ci": found.ci}, "d"), _p(found.p)


def _p(p: float | None) -> Cell:
    """A p-value, which is never 0."""
    return Cell("< 0.001" if p is not None and p < 0.001 else p, p)


def roc_and_calibration(runs: Sequence[Run], tasks: Sequence[str]) -> Html:
    """Both curves of every risk task, from the stored p(yes)."""
    cards = []
    for task in tasks:
        shown = [one for one in runs if one.tasks.get(task, {}).get("calibration")]
        if ALL_TASKS[task].kind != "risk" or not shown:
            continue
        roc = [Curve(points, one.style) for one in shown if (points := roc_points(one.by_task[task]))]
        reliability = [
            Curve([(found["p"], found["share"]) for found in one.tasks[task]["calibration"]], one.style, dots=True)
            for one in shown
        ]
        charts = [
            curves(f"{task}: {title}", Axis(x, 0, 1, FRACTION_TICKS), Axis(y, 0, 1, FRACTION_TICKS), lines, (174, 180), True)
            for title, x, y, lines in (
                ("ROC", "1 − specificity", "sensitivity", roc), ("calibration", "p(yes)", "share of yes", reliability),
            )
        ]  # fmt: skip
        cards.append(tag("figure", tag("h3", task), tag("div", *charts, class_="pair")))
    if not cards:
        return tag("p", "No run has p(yes) of a risk task.")
    note = "Left: ROC. Right: calibration in ten bins of p(yes). Dashed: by chance, and perfectly calibrated."
    drawn = [(one.name, one.style) for one in runs if any(found.get("calibration") for found in one.tasks.values())]
    return join(tag("p", note, class_="note"), legend(drawn), grid(cards, 356))


def roc_points(samples: Sequence[Sample], most: int = 200) -> list[tuple[float, float]]:
    """The ROC curve: (1 − specificity, sensitivity) as the threshold falls, thinned to `most` points; a p(yes) that is
    missing counts as 0.5, as in scoring. Nothing where there is one label only.

    >>> told = [Sample("ICU_Stay_7day", ("yes",), "1", p_yes=0.9), Sample("ICU_Stay_7day", ("no",), "2", p_yes=0.1)]
    >>> roc_points(told)
    [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    ranked: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for sample in samples:
        ranked[0.5 if sample.p_yes is None else sample.p_yes][sample.labels[0] == YES] += 1
    no, yes = (sum(counts) for counts in zip(*ranked.values(), strict=True))
    if not no or not yes:
        return []
    steps = itertools.accumulate((ranked[p] for p in sorted(ranked, reverse=True)), lambda a, b: [a[0] + b[0], a[1] + b[1]])
    points = [(0.0, 0.0), *((false / no, true / yes) for false, true in steps)]
    return points[:: len(points) // most + 1][:-1] + points[-1:] if len(points) > most else points


def lengths(runs: Sequence[Run]) -> Html:
    """How long prompts and answers are, and how often something was cut."""
    models = [one for one in runs if not one.baseline]
    charts: list[Content] = []
    for title, chars in (("prompt", lambda row: row.prompt_chars), ("answer", lambda row: row.answer_chars)):
        found = {one.name: [n for row in one.rows.values() if (n := chars(row))] for one in models}
        found = {name: numbers for name, numbers in found.items() if numbers}
        if found:
            every = list(itertools.chain(*found.values()))
            x = log_axis(f"characters of the {title}", min(every), max(every))
            lines = [Curve(distribution(found[one.name]), one.style) for one in models if one.name in found]
            chart = curves(f"Length of the {title}", x, Axis("share at most so long", 0, 1, FRACTION_TICKS), lines, (340, 220))
            charts.append(tag("figure", tag("h3", f"Length of the {title}"), chart))
    shares: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        ("Record truncated: oldest events left out", lambda row: row.truncated),
        ("Prompt too long: not answered", lambda row: row.sample.error is not None),
        ("Reply cut off at the longest length", lambda row: row.finish_reason == "length"),
    )
    for title, holds in shares:
        rows = [
            Bar(one.name, sum(map(holds, one.rows.values())) / len(one.rows), None, one.style) for one in models if one.rows
        ]
        charts.append(bars(title, rows))
    return join(legend([(one.name, one.style) for one in models]), grid(charts, 340))


def distribution(lengths: Sequence[int], steps: int = 100) -> list[tuple[float, float]]:
    """Share of the lengths that are at most so long, at so many of them; lengths as log10.

    >>> distribution([10, 100, 1000], steps=2)
    [(1.0, 0.3333333333333333), (2.0, 0.6666666666666666), (3.0, 1.0)]
    """
    from math import log10

    ranked = sorted(lengths)
    last = len(ranked) - 1
    wanted = dict.fromkeys(round(last * step / steps) for step in range(steps + 1))
    return [(log10(ranked[rank]), (rank + 1) / len(ranked)) for rank in wanted]


def all_metrics(one: Run) -> Html:
    """Every metric of a run, by task."""
    metrics = ("f1", "precision", "recall", "accuracy", "rouge1", "auroc", "auprc", "brier", "ece", "invalid", "unanswerable")
    shown = [metric for metric in metrics if any(metric in found for found in one.tasks.values())]
    rows = [
        [task, found["n"], found["patients"], found.get("positives"), *(_figure(found, metric) for metric in shown)]
        for task, found in one.tasks.items()
    ]
    columns = ["task", "n", "patients", "yes", *shown]
    return details(one.name, table(f"{one.name}: all metrics, 95 % intervals below.", columns, rows))


def settings(runs: Sequence[Run]) -> Html:
    """What each run was made with; lines in which runs differ are marked."""
    lines: dict[str, list[Any]] = {name: [one.arguments.get(name) for one in runs] for name in SETTINGS}
    lines |= {
        "instructions_sha256": [one.result.get("instructions_sha256") for one in runs],
        "template_sha256": [one.arguments.get("template_sha256") for one in runs],
        "prompts_sha256": [one.hash(lambda _, row: row.prompt_sha256) if not one.baseline else None for one in runs],
        "samples_sha256": [one.hash(lambda name, _: name) for one in runs],
        "trajectories": [one.result.get("trajectories") for one in runs],
        "git": [one.result.get("git") for one in runs],
        "score_version": [one.result.get("score_version") for one in runs],
        "resamples": [one.result.get("resamples") for one in runs],
        "folder": [str(one.folder) for one in runs],
    }
    rows = []
    for name, values in lines.items():
        known = [value for value in values if value not in (None, "")]
        if known:
            short = [None if value in (None, "") else str(value)[:12] if _is_hash(name) else str(value) for value in values]
            differ = len({str(v) for v, one in zip(values, runs, strict=True) if not one.baseline}) > 1 and name != "folder"
            rows.append([tag("b", name) if differ else name, *short])
    caption = "Settings and hashes; bold where runs differ."
    return table(caption, ["setting", *(one.name for one in runs)], rows, sort=False)


def _is_hash(name: str) -> bool:
    return name.endswith("_sha256") or name in ("trajectories", "git")


# --- tables and a figure for papers


def markdown(runs: Sequence[Run]) -> str:
    """The macro averages and the tasks as markdown tables."""

    def figure(result: Mapping[str, Any], metric: str) -> str:
        value = result.get(metric)
        return "–" if value is None else f"{value:.3f} {interval_text(result.get(f'{metric}_ci'))}".strip()

    def lines(rows: Sequence[Sequence[str]]) -> list[str]:
        text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return [text[0], "|" + " --- |" * len(rows[0]), *text[1:], ""]

    macro = [("model", "decision F1", "risk AUROC")]
    macro += [(one.name, *(figure(one.result["macro"]["paper"], key) for key, _, _ in MAIN.values())) for one in runs]
    macro += [
        (f"{name}, published", *("–" if value is None else f"{value:.3f}" for value in one)) for name, one in PUBLISHED.items()
    ]
    tasks = [("task", "n", "metric", *(one.name for one in runs))]
    for task in ALL_TASKS:
        if any(task in one.tasks for one in runs):
            cells = (figure(one.tasks.get(task, {}), main_metric(task)) for one in runs)
            tasks.append((task, str(_sizes(runs, task).content), main_metric(task), *cells))
    return "\n".join([*lines(macro), *lines(tasks)])


def write_png(path: Path, runs: Sequence[Run]) -> None:
    """The overview's bars as an image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.4 + 0.28 * (len(runs) + len(PUBLISHED))), layout="constrained")
    figure.get_layout_engine().set(wspace=0.1)
    for axis, (kind, (key, metric, chance)) in zip(axes, MAIN.items(), strict=True):
        rows = macro_bars(runs, key)[::-1]
        for place, bar in enumerate(rows):
            fill = "none" if bar.style.hollow else bar.style.colour
            axis.barh(place, bar.value, height=0.7, color=fill, edgecolor=bar.style.colour)
            if bar.interval:
                axis.plot(bar.interval, [place, place], color="#1b2430", marker="|", linewidth=1.2)
            axis.text(1.02, place, f"{bar.value:.3f}", va="center", fontsize=9)
        if chance:
            axis.axvline(chance, color="#566273", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(rows)), [bar.name for bar in rows])
        axis.set(xlim=(0, 1), title=f"{KINDS[kind]}: macro {metric}")
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    pyplot.close(figure)


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("dirs", nargs="+", type=Path, metavar="DIR", help="folders of finished runs of test.py")
    cli.add_argument("--output_path", type=Path, help="the page (report.html in the first DIR)")
    cli.add_argument("--png", action="store_true", help="the first figure as an image beside it")
    cli.add_argument("--markdown", action="store_true", help="tables for a paper beside it")
    cli.add_argument("--resamples", type=int, default=5000, help="bootstrap resamples of the comparison (5000)")
    args = cli.parse_args(argv)
    summary = Summary("report")
    if args.resamples < 1:
        raise UserError(f"--resamples {args.resamples}: wanted 1 or more")
    runs = read_runs(args.dirs)
    target = args.output_path or args.dirs[0] / "report.html"
    text = build(runs, args.resamples)
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    written = [target]
    if args.markdown:
        written.append(target.with_suffix(".md"))
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(markdown(runs), encoding="utf-8")
    if args.png:
        written.append(target.with_suffix(".png"))
        write_png(written[-1], runs)
    summary.print(f"{_count(len(runs), 'model')} → {', '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    run(main)
