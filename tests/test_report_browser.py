"""The report in a real browser: it is readable on a laptop and a phone, tables sort, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser
from written_runs import write_ablation, write_run

from evaluation.report import main

SIZES = ((1280, 800), (390, 844))
MAX_BYTES = 5_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part: three models with long names, baselines, all tasks, a graph ablation."""
    root = tmp_path_factory.mktemp("runs")
    names = ("organisation/a-model-with-quite-a-long-name-70B-Instruct", "Qwen3-8B", "EHR-R1-8B")
    folders = [write_run(root / f"run{number}", name, 0.3 + 0.2 * number) for number, name in enumerate(names)]
    for name in ("majority", "copy_last", "logistic_regression"):
        write_run(folders[0] / "baselines" / name, name, 0.1)
    ablation = write_ablation(root / "result.json")
    main([*map(str, folders), "--resamples", "50", "--graph_ablation", str(ablation)])
    return folders[0] / "report.html"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_is_readable(browser: Browser, report: Path, width: int, height: int) -> None:
    browser.open(report, width, height)
    browser.js("document.querySelectorAll('details').forEach(element => element.open = true)")
    browser.js("chartsDrawn.then(() => new Promise(done => setTimeout(done, 3000)))")  # those in details are drawn again
    assert browser.js("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    visible = "[...document.querySelectorAll('body *')].filter(e => e.getClientRects().length)"
    too_wide = f"{visible}.filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.js(f"{too_wide}.map(e => e.tagName + ' ' + e.textContent.slice(0, 40))") == []
    tables = "[...document.querySelectorAll('#from-graph-to-score > .scroll')]"
    assert width < 1280 or browser.js(f"{tables}.filter(e => e.scrollWidth > e.clientWidth).length") == 0, "no need to scroll"
    # Letters as they are seen: the size of the font times the scale of the chart it stands in.
    scale = "(e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.width.baseVal.value : 1)"
    sizes = f"{visible}.filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))"
    smallest = (
        f"Math.min(...{sizes}.filter(e => e.tagName !== 'title').map(e => parseFloat(getComputedStyle(e).fontSize) * {scale}))"
    )
    assert browser.js(smallest) >= 11.9
    assert browser.js("document.querySelectorAll('.plot svg').length === document.querySelectorAll('figure.chart').length")
    assert browser.errors == [] and browser.requests == [report.as_uri()]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_click_on_a_head_sorts_by_number(browser: Browser, report: Path, width: int, height: int) -> None:
    browser.open(report, width, height)
    browser.js("document.querySelectorAll('#tasks details').forEach(element => element.open = true)")
    table = "document.querySelectorAll('#tasks table')[1]"
    head, body = f"{table}.tHead.rows[0].cells[5]", f"[...{table}.tBodies[0].rows]"
    values = f"{body}.map(row => parseFloat(row.cells[5].textContent))"
    before = browser.js(values)
    assert browser.js(f"{head}.getAttribute('aria-sort')") == "none"
    browser.click(f"{head}.firstChild")
    assert browser.js(values) == sorted(before, reverse=True) != before
    assert browser.js(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.click(f"{head}.firstChild")
    assert browser.js(values) == sorted(before) and browser.js(f"{head}.getAttribute('aria-sort')") == "ascending"
    browser.click(f"{table}.tHead.rows[0].cells[0].firstChild")
    tasks = browser.js(f"{body}.map(row => row.cells[0].textContent)")
    assert tasks.index("ICU_Mortality_2day") < tasks.index("ICU_Mortality_14day")
    assert browser.js(f"{head}.getAttribute('aria-sort')") == "none"
    assert browser.errors == []


def test_cells_without_a_value_stay_last(browser: Browser, report: Path) -> None:
    browser.open(report, *SIZES[0])
    table = "document.querySelector('#overview > .scroll table')"
    head, last = f"{table}.tHead.rows[0].cells[5]", f"{table}.tBodies[0].rows.item({table}.tBodies[0].rows.length - 1)"
    for _ in range(2):
        browser.click(f"{head}.firstChild")
        assert browser.js(f"{last}.cells[5].textContent") == "–"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(browser: Browser, report: Path, scheme: str) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(report, *SIZES[0])
    browser.js("chartsDrawn.then(() => 0)")
    assert browser.accessibility_faults() == [] and browser.errors == []


def test_printed_tables_and_figures_fit_on_the_paper(browser: Browser, report: Path) -> None:
    browser.open(report, 718, 1000)  # A4 without its margins
    browser.js("chartsDrawn.then(() => 0)")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.js("dispatchEvent(new Event('beforeprint'))")
    browser.js("new Promise(done => setTimeout(done, 3000))")
    assert browser.js("[...document.querySelectorAll('details')].every(element => element.open)")
    cut = "[...document.querySelectorAll('.plot svg, td, th')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.js(f"{cut}.map(e => e.tagName + ' ' + e.textContent.slice(0, 40))") == []
    browser.ask("Emulation.setEmulatedMedia", media="")


def test_the_page_is_small(report: Path) -> None:
    """Most of a page is Vega and, for each task, the values of its figures; n has little influence."""
    assert report.stat().st_size < MAX_BYTES


def test_the_page_can_be_used_without_a_mouse_or_sight(browser: Browser, report: Path) -> None:
    browser.open(report, *SIZES[0])
    assert browser.js("document.documentElement.lang") == "en"
    levels = browser.js("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert browser.js("[...document.querySelectorAll('th')].every(th => th.scope)")
    assert browser.js("[...document.querySelectorAll('.plot')].every(plot => plot.ariaLabel)")
    links = browser.js("[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.getAttribute('href')))")
    assert len(links) == 14 and all(links)
    browser.js("document.querySelector('#tasks details').open = true")
    browser.js("document.querySelector('#tasks th button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    assert browser.js("document.querySelector('#tasks th').ariaSort") == "ascending"
