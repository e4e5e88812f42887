"""Specifications of the charts of the viewer, whose data the script of the page sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiciv_dataset.events import MODULES

if TYPE_CHECKING:
    import altair

# ISO 8601 and 24 hours, whatever the locale of the reader; days begin with their date.
DATES = dict.fromkeys(("quarter", "month", "week", "date", "day"), "%Y-%m-%d")
TIME_FORMATS = {"year": "%Y", **DATES, "hours": "%H:%M", "minutes": "%H:%M", "seconds": "%H:%M:%S", "milliseconds": "%H:%M:%S"}


def timeline() -> altair.LayerChart:
    """Events by table (rows) and time; data `marks`, `window`, `moment` and `selected`, parameters `domain` and `rows`.

    Events of a table that are closer than a few pixels are one mark; its `events` is their number, `event` the first one, and
    `time` when that happened.
    """
    import altair as alt

    domain, rows = alt.param(name="domain", value=[0, 1]), alt.param(name="rows", value=["labevents"])
    labels = {"labelOverlap": True, "labelSeparation": 12, "labelBound": True, "format": TIME_FORMATS}
    axis = alt.Axis(title=None, tickCount=6, **labels)
    x = alt.X("a:T", scale=alt.Scale(type="utc", domain=alt.ExprRef("domain"), nice=False), axis=axis)
    y_axis = alt.Axis(title=None, grid=True, gridOpacity=0.5, ticks=False, domain=False, labelLimit=130)
    y = alt.Y("row:N", scale=alt.Scale(domain=alt.ExprRef("rows")), axis=y_axis)
    color = alt.Color("module:N", scale=alt.Scale(domain=list(MODULES)), legend=alt.Legend(title=None, orient="top"))
    tooltip = [
        alt.Tooltip("row:N", title="table"),
        alt.Tooltip("time:N"),
        alt.Tooltip("events:Q"),
    ]
    window = alt.Chart(alt.NamedData("window")).mark_rect(clip=True, opacity=0.14).encode(x=x, x2="b:T")
    marks = alt.Chart(alt.NamedData("marks")).mark_rect(clip=True, cursor="pointer", height={"band": 0.7})
    point = {"size": 160, "filled": False, "strokeWidth": 2.5, "opacity": 1, "stroke": "var(--ink)"}
    selected = alt.Chart(alt.NamedData("selected")).mark_point(clip=True, **point)
    moment = alt.Chart(alt.NamedData("moment")).mark_rule(clip=True, strokeWidth=2, strokeDash=[5, 3], opacity=1)
    layers = alt.layer(
        window,
        marks.encode(x=x, x2="b:T", y=y, color=color, tooltip=tooltip),
        moment.encode(x=x),
        selected.encode(x=x, y=y),
    )
    return layers.add_params(domain, rows).properties(width="container", height=300)


def thinking_graph() -> altair.LayerChart:
    """Concepts as points and relations as lines; data `nodes` and `edges` (see `graph.py`), parameters `columns` and `count`.

    `count` is the number of rows.
    """
    import altair as alt

    columns, rows = alt.param(name="columns", value=2), alt.param(name="count", value=1)
    nodes, edges = alt.NamedData("nodes"), alt.NamedData("edges")
    x = alt.X("column:Q", axis=None, scale=alt.Scale(domain=[-0.02, alt.ExprRef("columns - 0.98")], nice=False))
    y = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[alt.ExprRef("count"), 0], nice=False))
    line = alt.Chart(edges).mark_rule(opacity=0.7).encode(x=x, y=y, x2="to_column:Q", y2="to_row:Q")
    middle = alt.Chart(edges).transform_calculate(
        column="0.55 * datum.column + 0.45 * datum.to_column",
        row="0.55 * datum.row + 0.45 * datum.to_row",
        label="datum.relation + ' \u2192'",
    )
    label = middle.mark_text(dy=-7, fontStyle="italic", limit=170).encode(x=x, y=y, text="label:N")
    point = alt.Chart(nodes).mark_circle(size=90, opacity=1).encode(x=x, y=y, tooltip="term:N")
    side = alt.ExprRef("datum.column == 0 ? 'left' : datum.column == columns - 1 ? 'right' : 'center'")
    text = alt.Chart(nodes).mark_text(align=side, baseline="top", dy=8, fontWeight="bold", lineBreak="\n")
    chart = alt.layer(line, label, point, text.encode(x=x, y=y, text="lines:N")).add_params(columns, rows)
    return chart.properties(width="container", height=60, view=alt.ViewBackground(stroke=None))
