"""HTML pages: single self-contained files that load nothing from a network, with sortable tables and inline SVG charts.

Text is escaped unless it is `Html`. Pages are laid out for laptops and phones: wide tables scroll, so that the page itself
never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Html(str):
    """Markup, which is put on a page unchanged; any other text is escaped."""


Content = str | int | float | None


def html(content: Content) -> Html:
    """Content as markup: text is escaped, fractions have three decimals, None is a dash.

    >>> html("a < b"), html(tag("b", "a < b")), html(0.5), html(1200), html(None)
    ('a &lt; b', '<b>a &lt; b</b>', '0.500', '1,200', '–')
    """
    if isinstance(content, Html):
        return content
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


def document(title: str, lead: Content, sections: Sequence[tuple[str, Content]]) -> str:
    """A complete page: title, lead paragraph, links to the sections, and the sections (heading, content)."""
    links = [tag("a", heading, href=f"#{_anchor(heading)}") for heading, _ in sections]
    header = tag("header", tag("h1", title), tag("p", lead, class_="lead"), tag("nav", *links, aria_label="Sections"))
    parts = [tag("section", tag("h2", heading), content, id=_anchor(heading)) for heading, content in sections]
    head = join(Html(_META), tag("title", title), tag("style", Html(_STYLE)))
    body = join(header, tag("main", *parts), tag("script", Html(_SCRIPT)))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _anchor(heading: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in heading.casefold())


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_META = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">'
)

_STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #566273; --line: #dde2e9; --paper: #fff; --tint: #f5f7fa;
  --accent: #0a5ca8 }
* { box-sizing: border-box }
body { margin: 0; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
header, main { max-width: 1320px; margin: 0 auto; padding: 0 24px }
header { padding-top: 32px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere }
h2 { font-size: 20px; margin: 0 0 8px; padding-top: 20px; border-top: 2px solid var(--ink) }
h3 { font-size: 15px; margin: 0 0 6px; overflow-wrap: anywhere }
p { margin: 0 0 12px; max-width: 80ch }
.lead, .note, figcaption, small { color: var(--soft) }
.note, figcaption { font-size: 13px }
small { font-size: 12px; white-space: nowrap }
section { margin: 36px 0 }
a { color: var(--accent) }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--tint); padding: 1px 4px;
  border-radius: 3px; overflow-wrap: anywhere }
ul.notices { list-style: none; margin: 0 0 16px; padding: 0 }
ul.notices li { border-left: 4px solid #c77700; background: #fff8ec; padding: 8px 12px; margin: 0 0 8px; max-width: 100ch;
  overflow-wrap: anywhere }
.grid { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)) }
.grid > * { min-width: 0 }
figure { margin: 0 }
.pair { display: flex; flex-wrap: wrap; gap: 4px 8px }
.scroll { overflow-x: auto; margin: 0 0 12px; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
.scroll table { width: 100% }
caption { text-align: left; color: var(--soft); padding: 8px 10px }
.scroll th, .scroll td { padding: 5px 10px; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
.scroll th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); z-index: 1 }
.scroll thead th { background: var(--tint); vertical-align: bottom; border-bottom: 2px solid var(--line) }
.scroll thead th:first-child { background: var(--tint) }
.scroll tbody th { font-weight: 500 }
.scroll tbody tr:last-child > * { border-bottom: 0 }
.scroll tbody tr:hover > * { background: var(--tint) }
.scroll .text { text-align: left }
.scroll td.long { white-space: normal; overflow-wrap: anywhere; min-width: 20ch }
td small { display: block }
th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
th button::after { content: "\\2195"; color: #8b95a3; margin-left: 4px }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--accent) }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--accent) }
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
details { margin: 0 }
summary { cursor: pointer; padding: 3px 0; overflow-wrap: anywhere }
@media (max-width: 600px) {
  header, main { padding: 0 16px }
  header { padding-top: 20px }
  h1 { font-size: 23px }
  .scroll th, .scroll td { padding: 5px 8px }
  .scroll th:first-child { min-width: 38vw; max-width: 47vw; white-space: normal; overflow-wrap: anywhere }
  caption { position: sticky; left: 0; max-width: 86vw }
}
"""

# A click sorts the rows by the data-value of their cells, a second click reverses the order; empty cells stay last.
_SCRIPT = """
"use strict";
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const down = head.ariaSort === "none" ? head.dataset.first === "descending" : head.ariaSort === "ascending";
  for (const other of head.parentElement.children) if (other.ariaSort) other.ariaSort = "none";
  head.ariaSort = down ? "descending" : "ascending";
  const value = row => row.cells[head.cellIndex].dataset.value;
  const compare = (a, b) => head.dataset.first === "descending" ? a - b : a.localeCompare(b, "en", { numeric: true });
  const order = (a, b) => (a === "") - (b === "") || (down ? compare(b, a) : compare(a, b));
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
});
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


# --- tables


LONG = 30  # text of a cell that is longer than this number of characters may wrap


class Cell(NamedTuple):
    """The content of a table cell, and the value it is sorted by."""

    content: Content
    value: Content


def html_table(caption: Content, columns: Sequence[str], rows: Sequence[Sequence[Content | Cell]], sort: bool = True) -> Html:
    """A table whose first column is the header of its rows; a column is numeric if all its values are numbers or None.

    With `sort`, a click on the header of a column sorts the rows (numbers: highest first).
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell, cell) for cell in row] for row in rows]
    numeric = [index > 0 and not any(isinstance(row[index].value, str) for row in cells) for index in range(len(columns))]

    def head(name: str, number: bool) -> Html:
        content = tag("button", name, type="button") if sort else name
        order = {"aria_sort": "none", "data_first": "descending" if number else "ascending"} if sort else {}
        return tag("th", content, scope="col", class_=None if number else "text", **order)

    def body(cell: Cell, first: bool, number: bool) -> Html:
        value = ("" if cell.value is None else cell.value) if sort else None
        if first:
            return tag("th", cell.content, scope="row", data_value=value)
        text = None if number else "text long" if len(str(cell.value or "")) > LONG else "text"
        return tag("td", cell.content, class_=text, data_value=value)

    lines = [tag("tr", *(body(cell, index == 0, numeric[index]) for index, cell in enumerate(row))) for row in cells]
    heads = tag("thead", tag("tr", *(head(name, number) for name, number in zip(columns, numeric, strict=True))))
    return tag("div", tag("table", tag("caption", caption), heads, tag("tbody", *lines)), class_="scroll", tabindex=0)


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
