"""Building blocks of the figures of a report: Vega-Lite specifications in which runs have a colour, a dash and a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.pages.charts import colour
from evaluation.report_data import Style, bounds_text
from evaluation.score import TOO_FEW

if TYPE_CHECKING:
    import altair

PUBLISHED_SIZE = "whole EHR-Bench"  # in place of the number of samples of published values
SMALL = 230  # width in pixels of figures of a single task


def described(words: str, dots: Sequence[Dot], reference: float | None = None) -> str:
    """The description of a dot plot, which explains its dashed line and its open symbols if it has any."""
    if reference is not None:
        words += f" Dashed line: chance ({reference})."
    few = any(dot.interval is None and dot.number != PUBLISHED_SIZE for dot in dots)
    return f"{words} Open symbols: too few samples for an interval." if few else words


class Dot(NamedTuple):
    """A value of a series in a row of a dot plot; without an interval it is an open symbol.

    `number` is the number of samples in words, and `label` is shown beside the value.
    """

    row: str
    series: str
    value: float
    interval: Sequence[float] | None
    number: str
    label: str = ""


def series_encodings(styles: Mapping[str, Style], orient: str = "bottom", name_width: int = 260) -> dict[str, Any]:
    """Colour, dash and shape of the field `series`, with one legend in the order of `styles` (style by name of a series).

    Names are cut at `name_width` pixels, so that a figure fits on a phone.
    """
    import altair as alt

    names = list(styles)
    columns = legend_columns(names, name_width) if orient == "top" else 1
    legend = alt.Legend(title=None, orient=orient, columns=columns, labelLimit=name_width, symbolOpacity=1)

    def channel(kind: Any, values: Sequence[Any]) -> Any:
        return kind("series:N", scale=alt.Scale(domain=names, range=list(values)), legend=legend)

    colours, dashes, shapes = zip(*styles.values(), strict=True)
    return {
        "color": channel(alt.Color, colours),
        "strokeDash": channel(alt.StrokeDash, dashes),
        "shape": channel(alt.Shape, shapes),
    }


def legend_columns(names: Sequence[str], name_width: int) -> int:
    """The number of columns of a legend that fit on a phone, with names cut at `name_width` pixels.

    >>> legend_columns(["stage1", "stage3", "untrained"], 145), legend_columns(["logistic_regression"], 145)
    (2, 1)
    """
    widest = 30 + min(name_width, 7 * max(map(len, names)))  # with its symbol and the space behind it
    return max(1, 200 // widest)  # the legend begins where the names of rows end


def dot_plot(
    dots: Sequence[Dot],
    styles: Mapping[str, Style],
    x_title: str,
    *,
    reference: float | None = None,
    row_height: int | None = None,
    legend: bool = True,
    rows: Sequence[str] = (),
    row_names: bool = True,
) -> altair.LayerChart:
    """Fractions with intervals: a row for each name of a row, in which series are drawn below each other.

    Args:
        dots: the values, in the order of rows and series; names of rows have one line each, or two.
        styles: by name of a series.
        x_title: of the axis of values.
        reference: the value of random answers, which is marked by a dashed line.
        row_height: in pixels; as high as its series need by default.
        legend: whether there is a legend of series, and series are drawn below each other.
        rows: all rows in their order, if some have no value.
        row_names: whether rows have names; they need none beside another plot of the same rows.
    """
    import altair as alt

    names = [name for name in styles if any(dot.series == name for dot in dots)]
    rows = list(rows or dict.fromkeys(dot.row for dot in dots))
    step = row_height or max(34, 9 * len(names) + 9)
    values = [
        {
            "row": dot.row,
            "series": dot.series,
            "value": dot.value,
            "low": dot.interval[0] if dot.interval else dot.value,
            "high": dot.interval[1] if dot.interval else dot.value,
            "label": dot.label,
            "text": f"{dot.value:.3f} {bounds_text(dot.interval) or TOO_FEW}",
            "n": dot.number,
        }
        for dot in dots
    ]
    measured, without = (
        [each for each, dot in zip(values, dots, strict=True) if bool(dot.interval) == has] for has in (True, False)
    )
    y: dict[str, Any] = {
        "y": alt.Y("row:N", sort=None, scale=alt.Scale(domain=rows, padding=0), axis=row_axis(rows, row_names))
    }
    if legend:
        y["yOffset"] = alt.YOffset("series:N", sort=None, scale=alt.Scale(domain=names, paddingOuter=0.6))
    x_axis = alt.Axis(title=x_title, values=ticks((0, 1)), format=".2~f", domain=False)
    x = alt.X("value:Q", scale=alt.Scale(domain=[0, 1]), axis=x_axis)
    look = series_encodings({name: styles[name] for name in names}, orient="top", name_width=145)
    if not legend:
        look = {channel: encoding.legend(None) for channel, encoding in look.items()}
    tooltip = [alt.Tooltip("series:N", title="run"), alt.Tooltip("text:N", title=x_title), alt.Tooltip("n:N", title="samples")]
    layers = [] if reference is None else [reference_line(reference)]
    for of_kind, paint in ((measured, {"filled": True}), (without, {"fill": colour("paper"), "strokeWidth": 1.7})):
        if of_kind:
            base = alt.Chart(alt.Data(values=of_kind)).encode(**y)
            layers.append(base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q", color=look["color"]))
            point = base.mark_point(size=65, opacity=1, **paint)
            layers.append(point.encode(x=x, color=look["color"], shape=look["shape"], tooltip=tooltip))
    for end, side, dx, place in (("high", "left", 8, "<="), ("low", "right", -8, ">")):
        of_side = [each for each in values if each["label"] and (each["value"] > 0.7) == (place == ">")]
        if of_side:
            base = alt.Chart(alt.Data(values=of_side)).encode(**y)
            layers.append(base.mark_text(align=side, dx=dx).encode(x=alt.X(f"{end}:Q"), text="label:N"))
    return alt.layer(*layers).properties(height=step * len(rows))


def row_axis(rows: Sequence[str], names: bool = True) -> altair.Axis:
    """The axis of rows, whose names have the same number of lines and may be hidden, with lines between rows."""
    import altair as alt

    offset = -7 * max(row.count("\n") for row in rows)  # the first line is in the middle otherwise
    look = {"labelExpr": "split(datum.label, '\\n')", "labelLineHeight": 14, "labelOffset": offset, "labels": names}
    return alt.Axis(title=None, labelLimit=180, labelPadding=6, ticks=False, domain=False, grid=True, bandPosition=0, **look)


def reference_line(value: float) -> altair.Chart:
    """A dashed vertical line at a value."""
    import altair as alt

    base = alt.Chart(alt.Data(values=[{"value": value}])).encode(x=alt.X("value:Q"))
    return base.mark_rule(strokeDash=[4, 3], color=colour("soft"))


def ticks(domain: tuple[float, float]) -> list[float]:
    """Ticks of an axis of fractions or of their differences.

    >>> ticks((0, 1.1)), ticks((-0.3, 0.3))
    ([0.0, 0.25, 0.5, 0.75, 1.0], [-0.2, 0.0, 0.2])
    """
    size = max(abs(end) for end in domain)
    step = 0.25 if size > 0.6 else 0.2 if size > 0.25 else 0.1 if size > 0.12 else 0.05 if size > 0.06 else 0.02
    low, high = (round(end / step - 0.499 * sign) for end, sign in zip(domain, (-1, 1), strict=True))
    return [round(step * number, 2) for number in range(low, high + 1)]


def dot_rows(dots: Sequence[Dot]) -> list[list[str | float | None]]:
    """The values of a dot plot for the table below it: first line of the row, series, value, interval, samples."""
    return [
        [dot.row.partition("\n")[0], dot.series, dot.value, bounds_text(dot.interval) or TOO_FEW, dot.number] for dot in dots
    ]
