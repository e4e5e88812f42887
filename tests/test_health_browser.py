"""The page of the health of benchmarks in a real browser: readable, quiet, usable without a mouse or sight."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from browser import Browser
from written_runs import write_run

from evaluation.health import main


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks of made-up rows with an audit, and a run; there are no trajectories."""
    folder = tmp_path_factory.mktemp("health")
    run = write_run(folder / "run", "a-model-with-quite-a-long-name-70B", tasks=["emar", "ICU_Stay_7day"])
    for name, tasks in (("decisions", ["emar", "omr"]), ("risks", ["ICU_Stay_7day", "Inpatient_Mortality"])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            columns = ["subject_id", "task", "event", "period_begin", "period_end", "target", "audit"]
            rows = csv.DictWriter(file, columns)
            rows.writeheader()
            for task in tasks:
                for number in range(60):
                    target = '["Zinc"]' if name == "decisions" else '"yes"' if number % 3 == 0 else '"no"'
                    flag = "not_yet_stored" if number % 4 == 0 else ""
                    values = [number // 2, task, "emar", number + 1, number + 13, target, flag]
                    rows.writerow(dict(zip(columns, values, strict=True)))
    for column in ("item_set", "similar_item"):
        (folder / "cache" / column).mkdir(parents=True)
    (folder / "cache/item_set/emar.csv").write_text("item\nZinc\nAspirin\nHeparin\n")
    main([str(folder / "decisions.csv"), str(folder / "risks.csv"), "--results", str(run), "--root_dir", str(folder),
          "--output_path", str(folder / "out"), "--resamples", "20"])  # fmt: skip
    return folder / "out/health.html"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page(browser: Browser, page: Path, width: int, height: int, scheme: str) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page, width, height)
    drawn = "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg, canvas'))"
    wait = f"new Promise(done => {{ const look = () => {drawn} ? done(true) : setTimeout(look, 50); look() }})"
    assert browser.js(wait) and browser.js("document.querySelectorAll('.plot').length") >= 5
    browser.js("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert browser.js("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.errors == [] and browser.requests == [page.as_uri()]
    assert browser.accessibility_faults() == []


def test_tables_are_sorted(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, 800)
    table = "document.querySelector('main table.sortable')"
    browser.click(f"{table}.tHead.rows[0].cells[0].firstChild")
    names = browser.js(f"[...{table}.tBodies[0].rows].map(row => row.cells[0].textContent)")
    assert names == ["emar", "omr"] and browser.errors == []
