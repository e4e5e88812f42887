"""The sections about samples: what became of them, and how scores depend on the length of a record."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from evaluation.finished_runs import FinishedRun, Output
from evaluation.pages.charts import chart, colour
from evaluation.pages.document import details, grid
from evaluation.report_curves import wilson
from evaluation.report_data import HEADLINES, KINDS, Report, note
from evaluation.report_figures import Dot, described, dot_plot, dot_rows, series_encodings
from evaluation.risk_predictions import risk_labels
from evaluation.score import TOO_FEW, main_scores, mean_over_tasks
from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.progress import counted

if TYPE_CHECKING:
    import altair

RIGHT, PARTLY, WRONG, INVALID, CUT_OFF, TOO_LONG = "right", "partly right", "wrong", "invalid", "cut off", "too long"
OUTCOMES = {
    RIGHT: "series-1", PARTLY: "series-6", WRONG: "series-2", INVALID: "series-5", CUT_OFF: "series-4", TOO_LONG: "grey-1",
}  # fmt: skip
PARTS = 5  # of the samples of a task by the length of their records
ORDINALS = ("shortest fifth", "second", "middle", "fourth", "longest fifth")


# --- outcomes


def outcomes(report: Report) -> Markup | None:
    """What became of the samples of each task, as shares, for each model."""
    figures = []
    for run in [run for run in report.models if run.outputs]:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for output in run.outputs.values():
            if ALL_TASKS[output.prediction.task].kind != "generation":
                counts[output.prediction.task][outcome(output)] += 1
        counts = {task: counts[task] for task in ALL_TASKS if task in counts}
        if counts:
            rows = [[task, of_task.total(), *(of_task[name] for name in OUTCOMES)] for task, of_task in counts.items()]
            words = f"Shares of the samples of {run.name} by task, with n."
            figures.append(chart(_stacked(counts), run.name, words, ("task", "n", *OUTCOMES), rows))
    if not figures:
        return None
    text = note(
        "Right: all items of the answer, or its yes or no, are those of the label. Partly right: some items are. Invalid: the "
        "reply names no item, or says neither yes nor no. Cut off: so does a reply that reached its longest length. Too long: "
        "the prompt does not fit, so it was not answered. Of several replies, the first one counts."
    )
    if len(figures) <= 2:
        return text + grid(figures, 420)
    return text + figures[0] + details(f"{counted(len(figures) - 1, 'more model')}", grid(figures[1:], 420))


def outcome(output: Output) -> str:
    """What became of a sample (`OUTCOMES`)."""
    from evaluation.metrics import predicts_yes, sample_score

    prediction = output.prediction
    if prediction.error is not None:
        return TOO_LONG
    answer, is_risk = prediction.answer, ALL_TASKS[prediction.task].kind == "risk"
    is_complete = answer is not None or not prediction.response.strip()  # an empty one: only p_yes was computed
    p_yes = prediction.p_yes if is_complete else None
    readable = predicts_yes(answer, p_yes) is not None if is_risk else bool(prediction.items)
    if not readable:
        return CUT_OFF if output.finish_reason == "length" else INVALID
    score = sample_score(prediction.task, prediction.labels, answer, p_yes, prediction.candidates)
    return RIGHT if score == 1 else PARTLY if score else WRONG


def _stacked(counts: dict[str, Counter[str]]) -> altair.Chart:
    import altair as alt

    values = []
    for task, of_task in counts.items():
        end, row = 0, f"{task} ({of_task.total():,})"
        for name in OUTCOMES:
            start, end = end, end + of_task[name] / of_task.total()
            if of_task[name]:
                values.append(
                    {"row": row, "outcome": name, "start": round(start, 4), "end": round(end, 4), "n": of_task[name]}
                )
    names = [name for name in OUTCOMES if any(each["outcome"] == name for each in values)]
    legend = alt.Legend(title=None, orient="top", columns=3, symbolType="square")
    color = alt.Color(
        "outcome:N", scale=alt.Scale(domain=names, range=[colour(OUTCOMES[name]) for name in names]), legend=legend
    )
    axis = alt.Axis(title=None, labelLimit=210, ticks=False, domain=False)
    figure = alt.Chart(alt.Data(values=values)).mark_bar(stroke=colour("paper"), strokeWidth=1)
    x = alt.X(
        "start:Q", axis=alt.Axis(title="share of samples", format="%", tickCount=4, grid=False), scale=alt.Scale(domain=[0, 1])
    )
    tooltip = [alt.Tooltip("row:N", title="task"), alt.Tooltip("outcome:N"), alt.Tooltip("n:Q")]
    y = alt.Y("row:N", sort=None, axis=axis)
    return figure.encode(x=x, x2="end:Q", y=y, color=color, tooltip=tooltip).properties(height=20 * len(counts))


# --- lengths


def lengths(report: Report) -> Markup | None:
    """Distributions of the lengths of prompts and answers, and shares of truncated prompts and replies."""
    import altair as alt

    figures = []
    chars: dict[str, Callable[[Output], int | None]] = {
        "prompt": lambda output: output.prompt_chars,
        "answer": lambda output: output.answer_chars,
    }
    for what, number in chars.items():
        values, styles = [], {}
        for run in report.models:
            if of_run := sorted(filter(None, map(number, run.outputs.values()))):
                name = f"{run.name}: median {np.median(of_run):,.0f}, n = {len(of_run):,}"
                styles[name] = report.styles[run.name]
                x, y = zip(*distribution(of_run), strict=True)
                values.append({"series": name, "x": x, "y": [round(share, 4) for share in y]})
        if values:
            look = series_encodings(styles)
            x = alt.X(
                "x:Q",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(title=f"characters of the {what}", tickCount=4, format="~s"),
            )
            y = alt.Y(
                "y:Q",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(title="share of samples up to it", format="%", tickCount=4),
            )
            line = (
                alt.Chart(alt.Data(values=values))
                .transform_flatten(["x", "y"])
                .mark_line(interpolate="step-after", strokeWidth=2)
            )
            figure = line.encode(x=x, y=y, color=look["color"], strokeDash=look["strokeDash"]).properties(height=220)
            words = f"Cumulative share of samples by the length of the {what} in characters."
            figures.append(chart(figure, f"Length of the {what}", words))
    if dots := list(_truncation_dots(report.models)):
        words = "Shares of samples with 95 % intervals (Wilson, with patients as the number of samples)."
        figure = dot_plot(dots, report.styles, "share of samples")
        figures.append(chart(figure, "Truncation", words, ("", "run", "share", "95 % interval", "samples"), dot_rows(dots)))
    return grid(figures, 380) if figures else None


def distribution(lengths: Sequence[int], steps: int = 100) -> list[tuple[int, float]]:
    """The empirical distribution function: points (length, share of lengths up to it) at `steps` + 1 ranks.

    >>> distribution([10, 100, 1000], steps=2)
    [(10, 0.3333333333333333), (100, 0.6666666666666666), (1000, 1.0)]
    """
    ranked = sorted(lengths)
    ranks = dict.fromkeys(round((len(ranked) - 1) * step / steps) for step in range(steps + 1))
    return [(ranked[rank], (rank + 1) / len(ranked)) for rank in ranks]


def _truncation_dots(models: Sequence[FinishedRun]) -> Iterator[Dot]:
    conditions: dict[str, Callable[[Output], bool]] = {
        "truncated\noldest events left out": lambda output: bool(output.truncated),
        "too long\nprompt not answered": lambda output: output.prediction.error is not None,
        "cut off\nreply at its longest length": lambda output: output.finish_reason == "length",
    }
    for title, holds in conditions.items():
        for run in [run for run in models if run.outputs]:
            share = sum(map(holds, run.outputs.values())) / len(run.outputs)
            patients = len({output.prediction.subject_id for output in run.outputs.values()})
            yield Dot(title, run.name, share, wilson(share, patients), f"n = {len(run.outputs):,}")


# --- score by length of the record


def score_by_length(report: Report) -> Markup | None:
    """The mean score of the samples with the shortest to the longest records of each task."""
    figures, few = [], []
    for kind, (_, metric, chance) in HEADLINES.items():
        dots = [dot for run in report.models for dot in length_dots(run, kind)]
        if dots:
            dots.sort(key=lambda dot: ORDINALS.index(dot.row.partition("\n")[0]))
            words = f"Mean {metric} over tasks and its 95 % interval, of the samples with the shortest to the longest records."
            words = described(words, dots, chance)
            figure = dot_plot(dots, report.styles, f"mean {metric}", reference=chance)
            columns = ("records", "run", metric, "95 % interval", "samples")
            figures.append(chart(figure, f"{KINDS[kind]}: {metric} by length of the record", words, columns, dot_rows(dots)))
        elif any(ALL_TASKS[task].kind == kind for task in report.tasks):
            few.append(f"{KINDS[kind]}: {TOO_FEW} samples. Each fifth of a task needs as many as a task for its interval.")
    if not figures and not few:
        return None
    text = note(
        f"The samples of each task are divided into {PARTS} parts of equal number by the length of their prompt before "
        "truncation. A value is the mean over the tasks all of whose parts have enough samples for an interval."
    )
    return text + grid(figures, 420) + Markup("").join(map(note, few))


def record_length(output: Output) -> float | None:
    """The length of a prompt before truncation in characters; estimated from tokens where the prompt was truncated."""
    truncated = output.truncated or {}
    if output.prompt_chars is None or not truncated.get("tokens_after"):
        return output.prompt_chars
    return output.prompt_chars * truncated["tokens_before"] / truncated["tokens_after"]


def length_dots(run: FinishedRun, kind: str) -> Iterator[Dot]:
    """The mean score of each fifth of the samples of tasks of a kind by length; none if no task has enough samples."""
    from evaluation.metrics import resample_patients, too_few

    by_task: dict[str, list[Output]] = defaultdict(list)
    for output in run.outputs.values():
        if ALL_TASKS[output.prediction.task].kind == kind and output.prompt_chars is not None:
            by_task[output.prediction.task].append(output)
    divided = []  # of each task: its fifths
    for task, outputs in by_task.items():
        ranked = sorted(outputs, key=record_length)
        ends = [round(len(ranked) * part / PARTS) for part in range(PARTS + 1)]
        fifths = [ranked[start:end] for start, end in itertools.pairwise(ends)]
        predictions = [[output.prediction for output in fifth] for fifth in fifths]
        labels = [risk_labels(fifth) if kind == "risk" else None for fifth in predictions]
        patients = [[prediction.subject_id for prediction in fifth] for fifth in predictions]
        scores = [main_scores(task, fifth) if fifth else None for fifth in predictions]
        enough = not any(map(too_few, patients, labels))
        if enough and None not in scores:
            divided.append((fifths, patients, scores))
    if not divided:
        return
    everyone = {patient for _, patients, _ in divided for fifth in patients for patient in fifth}
    resampling = resample_patients(everyone, run.result["resamples"], run.result["seed"])
    for number, title in enumerate(ORDINALS):
        values = [float(scores[number].metric()[0]) for _, _, scores in divided]
        replicates = [resampling.apply(patients[number], scores[number].metric) for _, patients, scores in divided]
        mean, interval = mean_over_tasks(values, replicates)
        n = sum(len(fifths[number]) for fifths, _, _ in divided)
        yield Dot(title, run.name, mean, interval, f"n = {n:,}, of {counted(len(divided), 'task')}")
