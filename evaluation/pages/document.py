"""HTML pages: single self-contained files that load nothing and send nothing, in light and dark, for screens and paper.

A page is made of parts (tables, notices, a verdict, charts of `charts.py`), which are `Markup`. Any other text is escaped.
Everything that a page needs is in two directories: `templates/` (Jinja2) and `assets/` (one stylesheet, one script).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

HERE = Path(__file__).parent
Content = str | int | float | None  # of a part; text that is not `Markup` is escaped

# Nothing is loaded from anywhere, and no connection is made, not even by a script that got into the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)


def html(content: Content) -> Markup:
    """Content as markup: text is escaped, fractions have three decimals, None is a dash.

    >>> html("a < b"), html(Markup("<b>a</b>")), html(0.5), html(1200), html(None)
    (Markup('a &lt; b'), Markup('<b>a</b>'), Markup('0.500'), Markup('1,200'), Markup('–'))
    """
    if isinstance(content, str):
        return escape(content)
    return Markup("–" if content is None else f"{content:.3f}" if isinstance(content, float) else f"{content:,}")


@cache
def environment(*folders: Path) -> Environment:
    """The Jinja2 environment of the templates here and in `folders`; what is not `Markup` is escaped."""
    loader = FileSystemLoader([*folders, HERE / "templates"])
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"html": html, "anchor": anchor}
    return jinja


def asset(name: str, folder: Path = HERE) -> Markup:
    """A stylesheet or script of `folder/assets`, to be put between the tags of its element."""
    return Markup((folder / "assets" / name).read_text(encoding="utf-8"))


def inline_json(value: object) -> Markup:
    """A value as JSON that can be put in a script element: no text in it ends the element.

    >>> print(inline_json({"text": "</script>"}))
    {"text": "\\u003c/script>"}
    """
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def anchor(heading: str) -> str:
    """The id of the section with this heading.

    >>> anchor("Calibration of p(yes)")
    'calibration-of-p-yes-'
    """
    return "".join(letter if letter.isalnum() else "-" for letter in heading.casefold())


def _part(name: str, **values: object) -> Markup:
    """A part, from the macro of that name in `templates/parts.html.j2`."""
    macro = getattr(environment().get_template("parts.html.j2").module, name)
    return Markup(macro(**values))


def document(
    title: str,
    lead: Content,
    sections: Sequence[tuple[str, Content]],
    *,
    banner: Content = "",
    verdict: Content = "",
    styles: str = "",
    scripts: str = "",
) -> str:
    """A complete page.

    Args:
        title: of the page, and its first heading.
        lead: the paragraph below the title.
        sections: (heading, content); the page begins with links to them if there are several.
        banner: a warning above everything else, such as that the page shows patient data.
        verdict: see `verdict`.
        styles: CSS after the stylesheet of all pages.
        scripts: JavaScript after the script of all pages.
    """
    from evaluation.pages.charts import MARK, vega_scripts

    content = [(heading, html(part)) for heading, part in sections]
    vega = vega_scripts() if any(MARK in part for _, part in content) else ""
    template = environment().get_template("page.html.j2")
    styles, scripts = asset("page.css") + Markup(styles), asset("page.js") + Markup(scripts)
    values = {"title": title, "lead": html(lead), "banner": html(banner), "verdict": html(verdict), "sections": content}
    return template.render(**values, policy=POLICY, vega=vega, styles=styles, scripts=scripts)


# --- parts

LONG = 30  # characters of a cell from which on its text may wrap


class Cell(NamedTuple):
    """The content of a table cell, and the value it is sorted by."""

    content: Content
    value: Content


class Column(NamedTuple):
    """A column of a table: its header, and whether it holds numbers, which are aligned right and sorted highest first."""

    name: str
    numeric: bool


def table(caption: Content, columns: Sequence[str], rows: Sequence[Sequence[Content | Cell]], sort: bool = True) -> Markup:
    """A table whose first column is the header of its rows; a column is numeric if all its values are numbers or None.

    With `sort`, a click on the header of a column sorts the rows; rows without a value stay last.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell, cell) for cell in row] for row in rows]
    heads = [
        Column(name, index > 0 and not any(isinstance(row[index].value, str) for row in cells))
        for index, name in enumerate(columns)
    ]
    return _part("table", caption=html(caption), columns=heads, rows=cells, sort=sort, long=LONG)


def verdict(sentence: Content, points: Sequence[Content] = ()) -> Markup:
    """The conclusion of a page in a sentence, with the figures it rests on as `points`."""
    return _part("verdict", sentence=html(sentence), points=[html(point) for point in points])


def notices(texts: Sequence[Content]) -> Markup:
    """Warnings above the content of a section; empty if there are none."""
    return _part("notices", texts=[html(text) for text in texts]) if texts else Markup("")


def grid(parts: Sequence[Content], min_width: int) -> Markup:
    """Parts side by side, as many in a row as fit with a width of `min_width` pixels each."""
    return _part("grid", parts=[html(part) for part in parts], min_width=min_width)


def details(summary: Content, *content: Content, is_open: bool = False) -> Markup:
    """Content that is collapsed until its summary is clicked, unless `is_open`; it is printed."""
    return _part("details", summary=html(summary), content=[html(part) for part in content], is_open=is_open)
