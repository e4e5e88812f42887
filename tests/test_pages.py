"""Pages and charts: text is escaped, one specification is drawn everywhere, and a page works for everyone, offline."""

from __future__ import annotations

import json
from pathlib import Path

import altair
import pytest
from browser import Browser
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from evaluation.pages.charts import FORMATS, chart, save
from evaluation.pages.document import Cell, details, document, grid, inline_json, notices, table, verdict
from pipeline.errors import UserError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ROWS = [("a2", 0.25, 3), ("a10", 0.75, 1), ("b", None, 2)]


def bars() -> altair.Chart:
    values = [{"model": name, "value": value} for name, value, _ in ROWS]
    encoding = {"x": altair.X("value:Q").title("AUROC"), "y": altair.Y("model:N"), "color": altair.Color("model:N")}
    return altair.Chart(altair.Data(values=values)).mark_bar(tooltip=True).encode(**encoding).properties(height=72)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part."""
    values = table("Models", ("model", "AUROC", "n"), ROWS)
    figure = chart(bars(), "AUROC by model", "The AUROC of three models.", ("model", "AUROC"), [row[:2] for row in ROWS])
    hostile = [Cell(HOSTILE, HOSTILE), 0.5]
    text = document(
        "Three models",
        "A page of tests.",
        [
            ("Values", notices(["Few samples."]) + values),
            ("Figures", grid([figure, figure], 300)),
            (HOSTILE, table(HOSTILE, (HOSTILE, "n"), [hostile]) + details(HOSTILE, HOSTILE)),
        ],
        banner="Made from patient data.",
        verdict=verdict("The second model is better.", ["0.750 against 0.250"]),
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


@given(st.recursive(st.none() | st.text() | st.sampled_from(["</script>", "<!--", "\u2028"]), st.lists))
def test_inlined_json_ends_no_script_and_keeps_its_value(value: object) -> None:
    text = inline_json(value)
    assert "<" not in text and "\u2028" not in text and json.loads(text) == value


def test_text_is_escaped_and_markup_is_not() -> None:
    text = table("<i>", ("<i>",), [["<i>"], [Markup("<b>bold</b>")]])
    assert "<i>" not in text and "<b>bold</b>" in text and text.count("&lt;i&gt;") >= 3


def test_scripts_of_charts_are_there_once_and_only_with_charts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("window.vegaEmbed=") == 1 and len(text) < 1.2e6
    assert "vegaEmbed=" not in document("Title", "Lead", [("Values", "none")])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_chart_is_an_image_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"chart{suffix}"
    save(bars(), path)
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix]


def test_other_formats_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a name that ends with .png, .svg, .pdf"):
        save(bars(), tmp_path / "chart.gif")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_page_is_readable_and_loads_nothing(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    browser.js("chartsDrawn.then(() => 0)")
    assert browser.js("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    widths = browser.js("[...document.querySelectorAll('.plot svg')].map(svg => svg.getBoundingClientRect().width)")
    assert len(widths) == 2 and min(widths) > 250
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.errors == [] and browser.requests == [page.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_accessible_in_both_schemes(browser: Browser, page: Path, scheme: str) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page, 1280, 800)
    browser.js("chartsDrawn.then(() => 0)")
    browser.js("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert browser.accessibility_faults() == []


def test_the_scheme_follows_the_system_until_it_is_chosen(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open(page, 1280, 800)
    browser.js("chartsDrawn.then(() => 0)")
    label = "getComputedStyle(document.querySelector('.plot text')).fill"
    background, ink = "getComputedStyle(document.body).backgroundColor", label
    dark = browser.js(f"[{background}, {ink}]")
    browser.click("document.getElementById('theme')")
    light = browser.js(f"[{background}, {ink}]")
    assert browser.js("document.getElementById('theme').textContent") == "Colours: light"
    assert light[0] == "rgb(255, 255, 255)" and all(a != b for a, b in zip(dark, light, strict=True))
    browser.click("document.getElementById('theme')")
    assert browser.js(f"[{background}, {ink}]") == dark
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.js(f"[{background}, {ink}]") == light, "paper is white"
    browser.ask("Emulation.setEmulatedMedia", media="")


def test_tables_sort_by_mouse_and_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, 800)
    names = "[...document.querySelector('table').tBodies[0].rows].map(row => row.cells[0].textContent)"
    head = "document.querySelector('table').tHead.rows[0].cells"
    browser.click(f"{head}[1].firstChild")
    assert browser.js(names) == ["a10", "a2", "b"] and browser.js(f"{head}[1].ariaSort") == "descending"
    browser.press("Enter")
    assert browser.js(names) == ["a2", "a10", "b"], "rows without a value stay last"
    browser.click(f"{head}[0].firstChild")
    assert browser.js(names) == ["a2", "a10", "b"] and browser.js(f"{head}[1].ariaSort") == "none"
