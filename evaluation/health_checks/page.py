"""The page of the health of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
from markupsafe import Markup

from evaluation.health_checks.cues import notable_cues
from evaluation.health_checks.facts import FINDINGS, REPEATED, TRAIN_PATIENT
from evaluation.health_checks.verdict import percent
from evaluation.pages import charts
from evaluation.pages.document import Cell, Content, details, document, notices, table, verdict
from evaluation.score import TOO_FEW
from pipeline.progress import counted

ROW_HEIGHT = 22  # pixels of a task in a chart
Benchmark = Mapping[str, Any]  # its entry in health.json
NUMBERS = {"metric": "metric", "n": "samples", "n_kept": "leak-free", "before": "on all", "after": "on leak-free"}
COPIED_FROM = {"text": "the window of the input", "trajectories": "the whole trajectory before the sample"}
CUES = {"position": "place in the list", "similarity": "similar to the other candidates"}
GUESSES = {"copy_last": "copy of the last answer", "majority": "most frequent answers"}


def build(health: Mapping[str, Any]) -> str:
    """The page as HTML, from the content of health.json."""
    benchmarks = list(health["benchmarks"].values())
    lead = (
        "What can be known of a benchmark without a model. Figures are shares of rows, or scores from 0 to 1; intervals are "
        "95 % bootstrap intervals over patients. The page holds counts and scores, and no text of inputs or answers."
    )
    sections: list[tuple[str, Content]] = []
    for benchmark in benchmarks:
        prefix = f"{benchmark['name']}: " if len(benchmarks) > 1 else ""
        parts = {
            "Findings": findings(benchmark),
            "Answers": answers(benchmark),
            "Candidates": candidates(benchmark),
            "Repeated rows": repeated(benchmark),
            "Leak-free rows": leak_free(benchmark, health["settings"]["exclude"]),
        }
        sections += [(prefix + heading, part) for heading, part in parts.items()]
    verdicts = Markup("").join(verdict(benchmark["verdict"], benchmark["points"]) for benchmark in benchmarks)
    return document("Health of " + ", ".join(health["benchmarks"]), lead, sections, verdict=verdicts)


def estimate_cell(estimate: Mapping[str, Any] | None, sign: bool = False) -> Cell:
    """A value with its interval below."""
    if estimate is None or estimate["value"] is None:
        return Cell(None, None)
    form = "+.3f" if sign else ".3f"
    ci = f"[{estimate['ci'][0]:{form}}, {estimate['ci'][1]:{form}}]" if estimate["ci"] else TOO_FEW
    return Cell(Markup("{}<small>{}</small>").format(f"{estimate['value']:{form}}", ci), estimate["value"])


def share_cell(number: int, total: int) -> Cell:
    """A number of rows and its share, which it is sorted by."""
    return Cell(f"{number:,} ({percent(number, total)})", number / total)


def rounded(value: float | None, digits: int) -> Cell:
    """A value with that many decimals."""
    return Cell(None if value is None else f"{value:.{digits}f}", value)


# --- sections


def findings(benchmark: Benchmark) -> Content:
    """How many rows of each task have each finding."""
    tasks = benchmark["tasks"]
    shown = [name for name in FINDINGS if any(task["findings"][name] for task in tasks.values())]
    values, rows = [], []
    for name, task in tasks.items():
        cells: list[Content | Cell] = [name, task["rows"], task["patients"]]
        for finding in shown:
            entry = task["findings"][finding]
            cells.append(share_cell(entry["rows"], entry["checked"]) if entry else Cell(None, None))
            if entry:
                share = entry["rows"] / entry["checked"]
                text = percent(entry["rows"], entry["checked"])
                values.append({"task": name, "finding": finding, "share": share, "text": text, "checked": entry["checked"]})
        rows.append([*cells, share_cell(task["kept"], task["rows"])])
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("finding:N", sort=shown, title=None, axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=220)),
        y=alt.Y("task:N", sort=list(tasks), title=None),
        tooltip=["task:N", "finding:N", "text:N", alt.Tooltip("checked:Q", title="rows checked")],
    )
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 0.6]), legend=None)
    spec = (base.mark_rect().encode(opacity=opacity) + base.mark_text().encode(text="text:N")).properties(
        height=ROW_HEIGHT * len(tasks)
    )
    columns = ["task", "rows", "patients", *shown, "leak-free"]
    description = (
        "Share of the rows checked with each finding, by task; a stronger field is a larger share. An empty field: the "
        "finding cannot occur in the task, or was not checked."
    )
    meanings = table("What a finding is", ["finding", "meaning"], [[name, FINDINGS[name]] for name in shown], sort=False)
    caption = "Rows with each finding, and their share of the rows checked. A row can have several."
    return Markup("").join([
        notices([f"Not checked: {text}." for text in benchmark["not_checked"]]),
        charts.chart(spec, "Findings by task", description),
        table(caption, columns, rows),
        details("What the findings mean", meanings),
    ])  # fmt: skip


def answers(benchmark: Benchmark) -> Content:
    """Balance of the answers, and what two guesses score that need no model."""
    tasks, points, rows = benchmark["tasks"], [], []
    guesses = {guess: text for guess, text in GUESSES.items() if any(task[guess] for task in tasks.values())}
    for name, task in tasks.items():
        labels = task["labels"]
        yes = share_cell(labels["yes"], task["rows"]) if "yes" in labels else Cell(None, None)
        described = [labels.get("distinct"), *(rounded(labels.get(key), 1) for key in ("effective", "per_row"))]
        described.insert(2, rounded(labels.get("most_frequent"), 2))
        rows.append([name, task["rows"], yes, *described, *(estimate_cell(task[guess]) for guess in guesses)])
        points += [point(name, text, task[guess]) for guess, text in guesses.items() if task[guess]]
    caption = (
        f"Balance of the answers{', and F1 of guesses on a sample of the rows (next_event: accuracy)' if guesses else ''}. "
        "Effective: the number of equally frequent answers with the same entropy."
    )
    columns = ["task", "rows", "yes", "answers", "effective", "share of the most frequent", "per row", *guesses.values()]
    parts = [table(caption, columns, rows)]
    if points:
        sources = sorted({task["copied_from"] for task in tasks.values() if task["copied_from"]})
        description = (
            "F1 of two guesses that need no model, by decision task, with 95 % intervals: the most frequent answers of the "
            "other rows, and the answer of the patient's latest earlier event of the same table"
        )
        description += f", looked for in {' or '.join(COPIED_FROM[source] for source in sources)}." if sources else "."
        parts.insert(0, charts.chart(interval_chart(points, "F1", (0, 1)), "Guesses without a model", description))
    return Markup("").join(parts)


def candidates(benchmark: Benchmark) -> Content:
    """The cues in the candidates."""
    with_cues = {name: task["cues"] for name, task in benchmark["tasks"].items() if task["cues"]}
    if not with_cues:
        return paragraph("No row has candidates, and there are no answer vocabularies in cache/ to make them from.")
    points, rows = [], []
    for name, cues in with_cues.items():
        points += [point(name, text, cues[cue]) for cue, text in CUES.items() if cues[cue]]
        sizes = [cues["rows"], rounded(cues["candidates"], 0), cues["answers"]]
        guesses = [estimate_cell(cues["majority"]), estimate_cell(cues["majority_of_candidates"])]
        guesses.append(estimate_cell(cues["gain"], sign=True))
        notable = ", ".join(notable_cues(cues)) or "none"
        rows.append([name, *sizes, *(estimate_cell(cues[cue]) for cue in CUES), *guesses, notable])
    description = (
        "How well each cue ranks the answers of a row above its other candidates, by task: AUROC with 95 % interval. At 0.5, "
        "the line, the cue says nothing. Similarity is measured where rows have different candidates."
    )
    caption = (
        "Position and similarity: AUROC. Guess: F1 of the most frequent answers of other rows, chosen from all answers, and "
        "from the candidates of the row; the gain is what the candidates give away."
    )
    columns = ["task", "rows", "candidates", "answers", *CUES, "guess of all", "of candidates", "gain", "notable"]
    spec = interval_chart(points, "AUROC", (0, 1), rule=0.5)
    figure = charts.chart(spec, "Answers recognised from the candidates alone", description)
    return Markup("").join([figure, table(caption, columns, rows)])


def repeated(benchmark: Benchmark) -> Content:
    """Rows that are not independent of others."""

    def total(finding: str) -> int:
        return sum(task["findings"][finding]["rows"] for task in tasks if task["findings"][finding])

    tasks = benchmark["tasks"].values()
    rows: list[list[Content | Cell]] = [
        ["rows that repeat an earlier one", total(REPEATED)],
        ["of these, with other answers than the first", benchmark["contradicting"]],
        ["rows whose patient and window, or text, another row of any task has", benchmark["sharing_window"]],
        ["rows without a patient", benchmark["without_patient"]],
    ]
    if any(task["findings"][TRAIN_PATIENT] for task in tasks):
        rows.append(["rows of patients, or with texts, of the training set", total(TRAIN_PATIENT)])
    return table(f"Of {counted(benchmark['rows'], 'row')}", ["", "rows"], rows, sort=False)


def leak_free(benchmark: Benchmark, exclude: Sequence[str]) -> Content:
    """The rows that are left, and what runs score on them."""
    kept, files = benchmark["kept"], benchmark["leak_free"]
    text = f"{counted(kept, 'row')} of {benchmark['rows']:,} have none of {', '.join(exclude)}."
    text += f" They are in {', '.join(files)}." if files else ""
    parts = [paragraph(text)]
    if not benchmark["runs"]:
        return Markup("").join([*parts, paragraph("No run of --results has scores on samples of this benchmark.")])
    points, rows, by_task = [], [], []
    for name, run in benchmark["runs"].items():
        for macro in run["macro"].values():
            tasks = Cell(f"{macro['tasks']} of {macro['of']}", macro["tasks"])
            rows.append([name, macro["metric"], tasks, *(macro[key] for key in list(NUMBERS)[1:]), change_cell(macro)])
            points.append(point(name, macro["metric"], macro | {"value": macro["change"]}))
        columns = ["task", *NUMBERS.values(), "change"]
        of_run = [[task, *map(entry.get, NUMBERS), change_cell(entry)] for task, entry in run["tasks"].items()]
        by_task.append(details(f"{name}: by task", table(f"{name}, by task", columns, of_run)))
    description = (
        "Change of the macro score from all samples to the leak-free ones, with 95 % interval. Leak-free rows can "
        "also be easier or harder for other reasons: compare the change of a model with that of the baselines."
    )
    columns = ["run", "metric", "tasks", *list(NUMBERS.values())[1:], "change"]
    spec = interval_chart(points, "change of the macro score", None, rule=0)
    parts.append(charts.chart(spec, "Scores on leak-free rows", description))
    caption = (
        "Macro scores on all samples and on the leak-free ones, over the tasks with enough leak-free samples for an interval."
    )
    parts.append(table(caption, columns, rows))
    return Markup("").join([*parts, *by_task])


def change_cell(entry: Mapping[str, Any]) -> Cell:
    """The change of a score, with its interval below."""
    return estimate_cell({"value": entry["change"], "ci": entry["ci"]}, sign=True)


def paragraph(text: str) -> Markup:
    """A paragraph of plain text."""
    return Markup("<p>{}</p>").format(text)


# --- charts


def point(name: str, series: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """A value of a chart, with its interval; `n` as text."""
    low, high = estimate["ci"] or (None, None)
    n = f"{estimate['n']:,}" if "n" in estimate else None
    return {"name": name, "series": series, "value": estimate["value"], "low": low, "high": high, "n": n}


def interval_chart(
    points: Sequence[Mapping[str, Any]], title: str, domain: tuple[float, float] | None, rule: float | None = None
) -> alt.LayerChart:
    """Values with intervals, one line per name, one colour and shape per series."""
    names, series = ([*dict.fromkeys(point[key] for point in points)] for key in ("name", "series"))
    scale = alt.Scale(domain=domain) if domain else alt.Scale(zero=True, padding=12)
    offset = alt.YOffset("series:N", sort=series)
    y = alt.Y("name:N", sort=names, title=None)
    base = alt.Chart(alt.Data(values=list(points))).encode(y=y, yOffset=offset)
    with_interval = [point for point in points if point["low"] is not None]
    legend = alt.Legend(labelLimit=320, columns=1) if len(series) > 1 else None
    domain_of_series = alt.Scale(domain=series)  # the same for both, so that they share a legend
    kinds = (alt.Color, alt.Shape)
    colour, shape = (kind("series:N", scale=domain_of_series, title=None, legend=legend) for kind in kinds)
    values = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(tickCount=10)),
        color=colour,
        shape=shape,
        tooltip=["name:N", "series:N", alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("low:Q", format=".3f"),
                 alt.Tooltip("high:Q", format=".3f"), "n:N"],
    )  # fmt: skip
    layers = [values]
    if with_interval:
        bars = base.properties(data=alt.Data(values=with_interval)).mark_rule(strokeWidth=2)
        layers.insert(0, bars.encode(x="low:Q", x2="high:Q", color=colour))
    if rule is not None:
        layers.insert(0, alt.Chart(alt.Data(values=[{"at": rule}])).mark_rule(strokeDash=[4, 4]).encode(x="at:Q"))
    return alt.layer(*layers).properties(height=max(60, ROW_HEIGHT * len(names) * max(1, 0.8 * len(series))))
