"""Charts of the report that need no table: macro averages, lengths of prompts and answers, and the image for a paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from evaluation import page
from evaluation.finished_runs import FinishedRun, Output
from evaluation.published import PUBLISHED
from evaluation.report_data import HEADLINES, macro_sizes, sizes_text
from evaluation.score import TOO_FEW

Styles = Mapping[str, page.Style]  # name of a run → style of its lines and bars


def run_styles(runs: Sequence[FinishedRun]) -> dict[str, page.Style]:
    """A colour for every model, and a grey line for every baseline, by the name of the run."""
    colours, greys = itertools.cycle(map(page.Style, page.COLOURS)), itertools.cycle(page.GREYS)
    return {run.name: next(greys if run.baseline else colours) for run in runs}


def macro_bars(runs: Sequence[FinishedRun], kind: str, styles: Styles) -> list[page.Bar]:
    """A macro average of the runs, then the published ones from high to low; models without a value are left out."""
    key, *_ = HEADLINES[kind]
    bars = []
    for run in runs:
        macro = run.result["macro"]["paper"]
        bars.append(run_bar(run, macro[key], macro[f"{key}_ci"], macro_sizes(macro, kind), styles))
    published = [page.Bar(name, getattr(values, key), None, page.OUTLINE) for name, values in PUBLISHED.items()]
    bars, published = ([bar for bar in group if bar.value is not None] for group in (bars, published))
    return bars + sorted(published, key=lambda bar: bar.value, reverse=True)


def run_bar(run: FinishedRun, value: float | None, interval: Sequence[float] | None, sizes: str, styles: Styles) -> page.Bar:
    """The bar of a run's mean over tasks, with the number of its samples."""
    return page.Bar(run.name, value, interval, styles[run.name], (*([] if interval else [TOO_FEW]), sizes))


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
        bars = []
        for run in [run for run in models if run.outputs]:
            share = sum(map(holds, run.outputs.values())) / len(run.outputs)
            bars.append(page.Bar(run.name, share, None, styles[run.name], (sizes_text(len(run.outputs)),)))
        charts.append(page.bar_chart(title, bars))
    return page.join(page.legend([(run.name, styles[run.name]) for run in models]), page.grid(charts, 340))


def distribution(lengths: Sequence[int], steps: int = 100) -> list[tuple[float, float]]:
    """The empirical distribution function: points (log10 of a length, share of lengths up to it) at `steps` + 1 ranks.

    >>> distribution([10, 100, 1000], steps=2)
    [(1.0, 0.3333333333333333), (2.0, 0.6666666666666666), (3.0, 1.0)]
    """
    ranked = sorted(lengths)
    ranks = dict.fromkeys(round((len(ranked) - 1) * step / steps) for step in range(steps + 1))
    return [(math.log10(ranked[rank]), (rank + 1) / len(ranked)) for rank in ranks]
