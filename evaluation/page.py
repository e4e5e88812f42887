"""HTML pages: single self-contained files that load nothing from a network, with sortable tables and inline SVG charts.

Text is escaped unless it is `Html`. Pages are laid out for laptops and phones: wide tables scroll, so that the page itself
never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup


class Html(Markup):
    """Markup, which is put on a page unchanged; any other text is escaped."""


Content = str | int | float | None


def html(content: Content) -> Html:
    """Content as markup: text is escaped, fractions have three decimals, None is a dash.

    >>> html("a < b"), html(tag("b", "a < b")), html(0.5), html(1200), html(None)
    ('a &lt; b', '<b>a &lt; b</b>', '0.500', '1,200', '–')
    """
    if isinstance(content, Markup):
        return Html(content)
    if isinstance(content, str):
        return Html(escape(content))
    return Html("–" if content is None else f"{content:.3f}" if isinstance(content, float) else f"{content:,}")


def tag(name: str, *children: Content, **attributes: Content) -> Html:
    """An element. Attributes are spelled as in Python (`class_`, `aria_sort`); those that are None are left out.

    >>> print(tag("p", "1 & 2", class_="note", id=None))
    <p class="note">1 &amp; 2</p>
    """
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    opening = "".join(f' {key}="{escape(str(value))}"' for key, value in pairs)
    return Html(f"<{name}{opening}>{join(*children)}</{name}>")


def join(*contents: Content) -> Html:
    """The concatenation of contents."""
    return Html("".join(map(html, contents)))


# --- the page


STYLE = """
.pair { display: flex; flex-wrap: wrap; gap: 4px 8px }
table.bars { width: 100%; table-layout: fixed }
table.bars th { width: 37%; text-align: left; font-weight: 500; padding: 0 8px 0 0; line-height: 1.25;
  overflow-wrap: anywhere }
table.bars td { padding: 0; height: 30px }
table.bars td:last-child { width: 140px; padding-left: 8px; line-height: 1.2 }
table.bars svg { display: block; width: 100%; height: 30px }
svg { max-width: 100% }
svg text { font-size: 12px; fill: var(--soft) }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 16px; padding: 0; font-size: 13px }
ul.legend svg { vertical-align: middle; margin-right: 6px }
"""


def notices(texts: Sequence[Content]) -> Html:
    """Warnings above the content of a section; empty if there are none."""
    return tag("ul", *(tag("li", text) for text in texts), class_="notices") if texts else Html("")


def grid(parts: Sequence[Content], min_width: int) -> Html:
    """Parts side by side, as many in a row as fit with a width of `min_width` pixels each."""
    return tag("div", *parts, class_="grid", style=f"--least: {min_width}px")


def details(summary: Content, *content: Content) -> Html:
    """Content that is collapsed until its summary is clicked."""
    return tag("details", tag("summary", summary), *content)


# --- charts


class Style(NamedTuple):
    """How the values of a model are drawn in all charts of a page."""

    colour: str  # of lines and bars
    dash: str | None = None  # SVG dash pattern of lines; None draws solid lines
    hollow: bool = False  # whether bars are outlines, for values that were not measured here


# Colours of models, distinguishable with colour vision deficiency (after Okabe and Ito 2008), and styles of baselines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b3fa0")
GREYS = (Style("#6b7785", "5 3"), Style("#9aa4b0", "2 3"), Style("#434c58", "7 2 2 2"))
OUTLINE = Style("#8b95a3", hollow=True)  # of published values


class Bar(NamedTuple):
    """A bar of a chart: label, length from 0 to 1, interval [low, high] or None, and notes below the value."""

    name: str
    value: float
    interval: Sequence[float] | None
    style: Style
    notes: Sequence[str] = ()


def bar_chart(title: str, bars: Sequence[Bar], chance: float | None = None, note: Content = "") -> Html:
    """Horizontal bars with intervals and values; `chance` is the expected value of random answers, drawn as a dashed line."""

    def line(x: float, **attributes: Content) -> Html:
        return tag("line", x1=f"{x * 100:.2f}", x2=f"{x * 100:.2f}", vector_effect="non-scaling-stroke", **attributes)

    def drawn(bar: Bar) -> Html:
        parts = [line(x, y1=0, y2=30, stroke="#dde2e9") for x in (0, 0.25, 0.5, 0.75, 1)]
        if chance is not None:
            parts.append(line(chance, y1=0, y2=30, stroke="#566273", stroke_dasharray="3 3"))
        thin = {"vector_effect": "non-scaling-stroke"}
        paint = {"fill": "none" if bar.style.hollow else bar.style.colour, "stroke": bar.style.colour}
        parts.append(tag("rect", x=0, y=7, width=f"{bar.value * 100:.2f}", height=16, **paint, **thin))
        if bar.interval:
            parts += [line(end, y1=10, y2=20, stroke="#1b2430", stroke_width="1.5") for end in bar.interval]
            ends = {name: f"{end * 100:.2f}" for name, end in zip(("x1", "x2"), bar.interval, strict=True)}
            parts.append(tag("line", **ends, y1=15, y2=15, stroke="#1b2430", stroke_width="1.5", **thin))
        return tag("svg", *parts, viewBox="0 0 100 30", preserveAspectRatio="none", aria_hidden="true")

    rows = []
    for bar in bars:
        small = [tag("small", text) for text in (interval_text(bar.interval), *bar.notes) if text]
        value = tag("td", tag("b", bar.value), *small)
        rows.append(tag("tr", tag("th", bar.name, scope="row"), tag("td", drawn(bar)), value))
    shown = tag("table", tag("tbody", *rows), class_="bars", aria_label=title) if rows else ""
    caption = note if rows else "No model has a value."
    return tag("figure", tag("h3", title), shown, tag("figcaption", caption) if caption else "")


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as text; empty for None.

    >>> interval_text([0.25, 0.75]), interval_text(None)
    ('[0.250, 0.750]', '')
    """
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""


class Curve(NamedTuple):
    """A line through points (x, y) in units of the axes; `dots` marks the points."""

    points: Sequence[tuple[float, float]]
    style: Style
    dots: bool = False


class Axis(NamedTuple):
    """An axis: its label, its range, and its ticks (position, text)."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


FRACTION_TICKS = ((0, "0"), (0.5, "0.5"), (1, "1"))


def log_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis that covers [low, high], with ticks at powers of ten; its units are log10.

    >>> log_axis("tokens", 30, 1200).ticks
    ((1, '10'), (2, '100'), (3, '1k'), (4, '10k'))
    """
    first = math.floor(math.log10(low))
    last = max(math.ceil(math.log10(high)), first + 1)
    names = ("1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M")
    return Axis(label, first, last, tuple((power, names[power]) for power in range(first, last + 1)))


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Curve], size: tuple[int, int], diagonal: bool = False) -> Html:
    """A chart of curves with a fixed size (width, height) in pixels; `diagonal` adds a dashed line from corner to corner."""
    width, height = size
    left, right, top, bottom = 40, width - 10, 8, height - 38

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across, up = ((v - a.low) / (a.high - a.low) for v, a in zip(point, (x, y), strict=True))
        return left + across * (right - left), bottom - up * (bottom - top)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in map(at, points))

    frame = tag("rect", x=left, y=top, width=right - left, height=bottom - top, fill="none", stroke="#dde2e9")
    parts = [tag("title", title), frame]
    for value, text in x.ticks:
        across, _ = at((value, y.low))
        parts.append(tag("line", x1=f"{across:.1f}", x2=f"{across:.1f}", y1=top, y2=bottom, stroke="#eef1f5"))
        parts.append(tag("text", text, x=f"{across:.1f}", y=bottom + 15, text_anchor="middle"))
    for value, text in y.ticks:
        _, down = at((x.low, value))
        parts.append(tag("line", x1=left, x2=right, y1=f"{down:.1f}", y2=f"{down:.1f}", stroke="#eef1f5"))
        parts.append(tag("text", text, x=left - 5, y=f"{down + 4:.1f}", text_anchor="end"))
    parts.append(tag("text", x.label, x=(left + right) / 2, y=height - 5, text_anchor="middle"))
    parts.append(tag("text", y.label, transform=f"translate(11 {(top + bottom) / 2}) rotate(-90)", text_anchor="middle"))
    if diagonal:
        ends = path([(x.low, y.low), (x.high, y.high)])
        parts.append(tag("polyline", points=ends, fill="none", stroke="#8b95a3", stroke_dasharray="3 3"))
    for line in lines:
        stroke = {"stroke": line.style.colour, "stroke_width": "1.8", "stroke_dasharray": line.style.dash}
        parts.append(tag("polyline", points=path(line.points), fill="none", **stroke, stroke_linejoin="round"))
        if line.dots:
            dots = [(f"{a:.1f}", f"{b:.1f}") for a, b in map(at, line.points)]
            parts += [tag("circle", cx=cx, cy=cy, r="2.5", fill=line.style.colour) for cx, cy in dots]
    return tag("svg", *parts, width=width, height=height, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)


def legend(entries: Sequence[tuple[str, Style]]) -> Html:
    """The names of models with their line styles."""

    def swatch(style: Style) -> Html:
        line = tag("line", x1=0, x2=26, y1=6, y2=6, stroke=style.colour, stroke_width=3, stroke_dasharray=style.dash)
        return tag("svg", line, width=26, height=12, aria_hidden="true")

    return tag("ul", *(tag("li", swatch(style), name) for name, style in entries), class_="legend")
