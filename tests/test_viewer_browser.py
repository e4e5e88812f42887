"""The viewer in a real browser: moving, filtering and sorting by mouse and keyboard; nothing is loaded, no record is run."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import Browser

from benchmarks.viewer import write_root
from scripts.view import main

SIZES = ((1280, 800), (390, 844))
HOSTILE = '</script><script>document.title = "stolen"</script><img src=x onerror="document.title = \'stolen\'">'
SHOWN = "[...document.querySelectorAll('#list tbody tr')].filter(row => !row.hidden).map(row => row.dataset.id)"
NAME = "document.getElementById('name').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with answers, chains and a graph, whose data have markup in all of them."""
    root = tmp_path_factory.mktemp("viewer")
    write_root(root, 450, 30)
    with (root / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    graph = {
        "umls_graph": [[f"pain {HOSTILE}", "treated by", "Aspirin"], ["fever", "sign of", "flu", "treated by", "Aspirin"]]
    }
    chain = f"## Extraction\n- **Chart Events [2150-01-01 00:00:00]**: {HOSTILE}\n## Reasoning\nSo.\n## Final Results\nAspirin"
    with (root / "with_graph.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "graph", "reasoning"])
        writer.writeheader()
        writer.writerows(row | {"graph": json.dumps(graph), "reasoning": chain} for row in rows)
    lines = [json.loads(line) for line in (root / "results/outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["outputs"][0]["response"] += HOSTILE
        line["outputs"][0]["items"].append(HOSTILE)
    (root / "results/outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ("--root_dir", root, "--dataset_name", root / "with_graph.csv", "--results", root / "results")
    main([*map(str, (*words, "--output_path", root / "view.html"))])
    return root / "view.html"


def opened(browser: Browser, page: Path, width: int = 1280, height: int = 800) -> None:
    browser.open(page, width, height)
    browser.js("ready.then(() => 0)")


def choose(browser: Browser, **values: Any) -> None:
    for name, value in values.items():
        assign = f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input')) }})"
        browser.js(f"{assign}(document.getElementById('{name}'))")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_is_readable_and_loads_nothing(browser: Browser, page: Path, width: int, height: int) -> None:
    opened(browser, page, width, height)
    for _ in range(12):
        browser.press("j")
        browser.js("drawing.then(() => 0)")
    assert browser.js("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.js("document.querySelector('#timeline canvas').getBoundingClientRect().width") > 200
    assert browser.js("document.title").startswith("Samples of") and browser.js("document.querySelectorAll('img').length") == 0
    assert HOSTILE in browser.js("document.getElementById('chains').textContent")
    assert HOSTILE in browser.js("document.getElementById('graph').textContent")
    assert HOSTILE in browser.js("document.getElementById('answers').textContent")
    assert "records of patients" in browser.js("document.querySelector('.banner').textContent")
    assert browser.errors == [] and browser.requests == [page.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_is_accessible(browser: Browser, page: Path, scheme: str, width: int, height: int) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened(browser, page, width, height)
    browser.js("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert browser.accessibility_faults() == []


def test_keys_move_through_the_visible_samples(browser: Browser, page: Path) -> None:
    opened(browser, page)
    ids = browser.js(SHOWN)
    assert len(ids) == 30 and browser.js(NAME) == ids[0]
    for key, place in (("j", 1), ("j", 2), ("k", 1), ("k", 0), ("k", 0)):
        browser.press(key)
        browser.js("drawing.then(() => 0)")
        assert browser.js(NAME) == ids[place]
        assert browser.js("document.querySelector('#list [aria-current]').closest('tr').dataset.id") == ids[place]
    task = ids[0].partition("/")[0]
    choose(browser, task=task)
    shown = browser.js(SHOWN)
    assert shown == [identity for identity in ids if identity.startswith(f"{task}/")] and 1 < len(shown) < 30
    browser.press("j")
    browser.js("drawing.then(() => 0)")
    assert browser.js(NAME) == shown[1]
    browser.js("document.getElementById('least').focus()")
    browser.press("k")
    assert browser.js(NAME) == shown[1], "keys typed into a field are its own"


def test_filters_by_answer_and_score(browser: Browser, page: Path) -> None:
    opened(browser, page)
    scores = "HEAD.samples.filter(entry => SHOWN.includes(entry.id)).map(entry => entry.scores[0])".replace("SHOWN", SHOWN)
    for outcome, scored in (("right", {1.0}), ("wrong", {0.0})):
        choose(browser, outcome=outcome)
        assert set(browser.js(scores)) == scored
    choose(browser, outcome="", least="0.5")
    assert browser.js(scores) and min(browser.js(scores)) >= 0.5
    choose(browser, least="", most="0.4")
    assert browser.js(scores) and max(browser.js(scores)) <= 0.4
    choose(browser, most="")
    assert len(browser.js(SHOWN)) == 30
    choose(browser, outcome="none")
    count = "document.getElementById('count').textContent"
    assert browser.js(SHOWN) == [] and browser.js(count) == "0 shown, 30 on this page: no sample matches the filters"
    choose(browser, least="0.5", task=browser.js("HEAD.samples[0].task"))
    browser.click("document.getElementById('clear')")
    assert len(browser.js(SHOWN)) == 30 and browser.js("document.getElementById('clear').hidden")
    assert browser.js("['task', 'outcome', 'least', 'most'].map(id => document.getElementById(id).value)") == [""] * 4


def test_the_list_sorts_and_keys_follow_its_order(browser: Browser, page: Path) -> None:
    opened(browser, page)
    browser.click("document.querySelectorAll('#list thead button')[2]")
    cells = "[...document.querySelectorAll('#list tbody tr')].map(row => Number(row.cells[2].textContent))"
    assert browser.js(cells) == sorted(browser.js(cells), reverse=True)
    ids = browser.js(SHOWN)
    place = ids.index(browser.js(NAME))
    browser.press("j")
    browser.js("drawing.then(() => 0)")
    assert browser.js(NAME) == ids[min(place + 1, 29)]


def test_the_timeline_zooms_and_its_marks_choose_events(browser: Browser, page: Path) -> None:
    opened(browser, page)
    width = "timeline.domain[1] - timeline.domain[0]"
    before = browser.js(width)
    browser.js("document.querySelector('.stage').focus()")
    browser.press("+")
    assert browser.js(f"drawing.then(() => {width})") == pytest.approx(before / 2)
    browser.press("-")
    browser.click("document.querySelector('[data-zoom=all]')")
    assert browser.js(f"drawing.then(() => {width})") > 10 * before
    assert sum(browser.js("marks().map(mark => mark.events)")) == 449, "every event with a time is in a mark"
    browser.click("document.querySelector('[data-zoom=window]')")
    browser.js("drawing.then(() => 0)")
    place = (
        "(mark => { const canvas = document.querySelector('#timeline canvas'); canvas.scrollIntoView({block: 'center'});"
        "const box = canvas.getBoundingClientRect(), [left, top] = timeline.view.origin(), [from, to] = timeline.domain;"
        "const x = timeline.view.width() * (mark.a / 1000 - from) / (to - from);"
        "const row = timeline.rows.findIndex(number => HEAD.tables[number].name === mark.row) + 0.5;"
        "const y = timeline.view.height() * row / timeline.rows.length;"
        "return [box.x + left + 5 + x + 1, box.y + top + 5 + y, mark.event] })(marks()[0])"  # 5 pixels of padding
    )
    x, y, event = browser.js(place)
    assert browser.js("state.event") != event
    for kind in ("mousePressed", "mouseReleased"):
        browser.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert browser.js("drawing.then(() => state.event)") == event


def test_the_timeline_stays_at_the_record(browser: Browser, page: Path) -> None:
    opened(browser, page)
    browser.js("document.querySelector('.stage').focus()")
    inside = "timeline.domain[1] > timeline.all[0] - 2 * 3600 && timeline.domain[0] < timeline.all[1]"
    for key, presses in (("-", 80), ("ArrowRight", 20), ("+", 80), ("ArrowLeft", 20), ("-", 80), ("ArrowLeft", 20)):
        for _ in range(presses):
            browser.press(key)
        width = browser.js("drawing.then(() => timeline.domain[1] - timeline.domain[0])")
        record = browser.js("timeline.all[1] - timeline.all[0]")
        assert browser.js(inside) and 59.9 < width < 3.1 * record + 2 * 3600
    assert browser.errors == []


def test_times_are_iso_and_of_24_hours(browser: Browser, page: Path) -> None:
    """Whatever the locale; labels of the axis are drawn on a canvas, so they are read from the scene graph."""
    opened(browser, page)
    labels = (
        "drawing.then(() => { const texts = []; const walk = item => { if (item.text) texts.push(String(item.text));"
        "(item.items ?? []).forEach(walk) }; walk(timeline.view.scenegraph().root); return texts })"
    )
    seen: set[str] = set()
    for how in ("window", "in", "in", "in", "all", "out"):
        browser.js(f"zoom('{how}')")
        seen |= set(browser.js(labels))
    seen = {text for text in seen if re.search(r"\d", text)}
    assert seen and all(re.fullmatch(r"\d{4}|\d{4}-\d\d-\d\d|\d\d:\d\d(:\d\d)?", text) for text in seen), seen
    assert any(":" in text for text in seen) and any(text.count("-") == 2 for text in seen)
    browser.js("zoom('window')")
    mark = browser.js("drawing.then(() => marks()[0])")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", mark["time"])


def test_a_patient_without_times_has_no_timeline(browser: Browser, tmp_path: Path) -> None:
    row = {"idx": 0, "instruction": "Which drugs?", "input": "## Patient Demographics [None]\n- Gender: F"}
    row |= {"output": "Aspirin", "task_info": {"task": "emar", "label": ["Aspirin"], "target": ["Aspirin"]}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ("--root_dir", tmp_path, "--dataset_name", tmp_path / "rows.jsonl", "--output_path", tmp_path / "view.html")
    main([*map(str, words)])
    opened(browser, tmp_path / "view.html")
    assert browser.js("document.querySelector('.stage').checkVisibility()") is False
    assert (
        browser.js("document.getElementById('timeline-text').textContent")
        == "1 event, 1 without a time. There is nothing to draw."
    )
    assert browser.errors == []


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_headers_of_the_list_and_answers_are_not_cut(browser: Browser, page: Path, width: int, height: int) -> None:
    opened(browser, page, width, height)
    header = "document.querySelectorAll('#list thead button')"
    overflow = "(b => b.getBoundingClientRect().right - b.closest('#list').getBoundingClientRect().right)"
    assert browser.js(f"Math.max(...[...{header}].map({overflow}))") <= 0
    answers = "document.querySelector('#answers .scroll').getBoundingClientRect().right"
    assert browser.js(f"document.querySelectorAll('#answers thead th')[3].getBoundingClientRect().right <= {answers} + 1")
    starts = "[...document.querySelectorAll('#filters select, #least')].map(field => field.getBoundingClientRect().left)"
    assert len(set(browser.js(starts)[:3])) == 1, "fields of filters are aligned"


def test_an_event_of_the_prompt_and_of_a_chain_is_shown(browser: Browser, page: Path) -> None:
    opened(browser, page)
    part = "document.querySelectorAll('#prompt button.source')[1]"
    frames = "requestAnimationFrame(() => requestAnimationFrame(done))"  # parts have their height when they come into view
    browser.js(f"new Promise(done => {{ {part}.scrollIntoView({{block: 'center'}}); {frames} }})")
    browser.click(part)
    text = browser.js("document.getElementById('event-text').textContent")
    assert text and text == browser.js("document.querySelectorAll('#prompt button.source')[1].nextElementSibling.textContent")
    assert "happened" in browser.js("document.getElementById('event-about').textContent")
    while not browser.js("document.querySelectorAll('button.cite.right').length"):
        browser.press("j")
        browser.js("drawing.then(() => 0)")
    browser.js("document.querySelectorAll('#chains details').forEach(element => element.open = true)")
    browser.click("document.querySelector('button.cite.right')")
    heading = browser.js("document.querySelector('button.cite.right').textContent").removeprefix("✓ ")
    assert browser.js("document.getElementById('event-text').textContent").startswith(f"## {heading}")
    assert browser.js("document.querySelectorAll('#prompt li.chosen').length") == 1
    assert browser.js("document.querySelector('.cite.wrong').title") == "cites an event of the record with another time"


def test_the_timeline_follows_the_colours(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    opened(browser, page)
    colour = "coloured(CHART_THEME).axis.labelColor"
    light, drawn = browser.js(colour), browser.js("document.querySelector('#timeline canvas').toDataURL()")
    browser.click("document.getElementById('theme')")
    browser.click("document.getElementById('theme')")
    browser.js("new Promise(done => setTimeout(done, 300))")
    assert browser.js(colour) != light and browser.js("document.querySelector('#timeline canvas').toDataURL()") != drawn
    assert browser.errors == []
