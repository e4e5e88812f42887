"""Charts: one Vega-Lite specification is a chart of a page, drawn without a network, and an image (PNG, SVG or PDF).

Specifications are made with Altair, and leave fonts and colours to the theme here or name them by `colour`, so that charts
of a page follow its light and dark scheme and print on white.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evaluation.pages.document import Cell, Content, _part, html, inline_json, table
from pipeline.errors import UserError
from pipeline.files import atomic_path

if TYPE_CHECKING:
    import altair

MARK = 'class="plot"'  # in the markup of every chart
FORMATS = (".png", ".svg", ".pdf")
PIXELS_PER_POINT = 2  # of a PNG
# Colours on paper by the name that assets/page.css gives them, where they have others on a dark page. Those of series can be
# told apart with a colour vision deficiency (after Okabe and Ito 2008).
ON_PAPER = {
    "ink": "#1b2430", "soft": "#566273", "line": "#dde2e9", "paper": "#ffffff",
    "series-1": "#0072b2", "series-2": "#d55e00", "series-3": "#009e73", "series-4": "#cc79a7", "series-5": "#8a6d00",
    "series-6": "#56b4e9", "series-7": "#5b3fa0", "grey-1": "#5d6977", "grey-2": "#8e99a6", "grey-3": "#3d4651",
}  # fmt: skip
NUM_SERIES = 7
LEGEND = {"bounds": "full", "anchor": "start"}  # as wide as the figure with its axes


def colour(name: str) -> str:
    """A colour of the page by its name in `ON_PAPER`: it follows the scheme of the page, and is that of paper in images."""
    return f"var(--{name})"


def theme(font: str) -> dict[str, Any]:
    """The Vega-Lite configuration of all charts."""
    ink, soft, line = map(colour, ("ink", "soft", "line"))
    text = {"labelColor": soft, "titleColor": soft, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": line},
        "axis": text | {"gridColor": line, "domainColor": soft, "tickColor": line},
        "legend": text | {"orient": "bottom", "symbolStrokeWidth": 2, "layout": {"bottom": LEGEND, "top": LEGEND}},
        "header": text,
        "title": {"color": ink, "fontSize": 14, "fontWeight": 600, "anchor": "start"},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": soft},
        "mark": {"color": colour("series-1"), "aria": False},  # a figure has a description
        "range": {"category": [colour(f"series-{number}") for number in range(1, NUM_SERIES + 1)]},
    }


PAGE_THEME = theme("system-ui, sans-serif")
IMAGE_THEME = theme("sans-serif") | {"background": colour("paper")}


def chart(
    spec: altair.TopLevelMixin | dict[str, Any],
    title: Content,
    description: str,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[Content | Cell]] = (),
) -> Markup:
    """A chart of a page, as wide as its place unless the specification has a width.

    Args:
        spec: Vega-Lite specification; with a discrete y axis it needs a height in pixels.
        title: heading of the figure.
        description: what the chart shows, in words; for readers who do not see it, and below the chart.
        columns, rows: the charted values as a table, collapsed below the chart.
    """
    spec = as_dict(spec) | {"description": description}
    if "width" not in spec and ("mark" in spec or "layer" in spec):
        spec |= {"width": "container"}
    values = table("The values of this figure", columns, rows) if rows else ""
    return _part("chart", title=html(title), description=description, spec=inline_json(spec), values=values)


def save(spec: altair.TopLevelMixin | dict[str, Any], path: Path) -> None:
    """Write a chart as an image on white; the suffix of `path` is the format (`FORMATS`)."""
    import vl_convert

    check_suffix(path)
    spec = as_dict(spec)
    spec["config"] = IMAGE_THEME | spec.get("config", {})
    spec = json.loads(re.sub(r"var\(--([\w-]+)\)", lambda name: ON_PAPER[name[1]], json.dumps(spec)))
    if path.suffix == ".png":
        data = vl_convert.vegalite_to_png(spec, scale=PIXELS_PER_POINT)
    elif path.suffix == ".svg":
        data = vl_convert.vegalite_to_svg(spec).encode()
    else:
        data = vl_convert.vegalite_to_pdf(spec)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def check_suffix(path: Path) -> None:
    """An error if the suffix of an image is not one of `FORMATS`."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: expected a name that ends with {', '.join(FORMATS)}, got another one. Rename the output.")


def as_dict(spec: altair.TopLevelMixin | dict[str, Any]) -> dict[str, Any]:
    """A specification as JSON values, without the default configuration of Altair."""
    return dict(spec) if isinstance(spec, dict) else {key: value for key, value in spec.to_dict().items() if key != "config"}


@cache
def vega_scripts() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as a script (about 0.9 MB), and the theme of the charts of a page."""
    import vl_convert

    bundle = vl_convert.javascript_bundle().replace("</script", "<\\/script")
    bundle = f"(() => {{{bundle}\n}})();"  # its own names stay its own
    return Markup(f"{bundle}\nconst CHART_THEME = {inline_json(PAGE_THEME)};")
