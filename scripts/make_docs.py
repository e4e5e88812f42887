"""Update the tables of docs/tasks.md from the task registry, and those of docs/synthetic.md from the generator.

Only the text between a table's marks is replaced. The row counts come from docs/demo_counts.json (an index of the MIMIC-IV
demo), so that the page can be made without the data; --index takes them from another index.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.tasks import TASKS, task_table
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.progress import Summary

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("--index", type=Path, help="folder of a task index to take the counts from")
    cli.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    args = cli.parse_args(argv)
    summary = Summary("make_docs")
    kept = DOCS / "demo_counts.json"
    if args.index:
        found = read_json(args.index / "provenance.json")
        write_json(kept, {"patients": found["patients"], "tasks": found["tasks"]})
    tables = {
        DOCS / "tasks.md": {"tasks": task_table(), "counts": demo_counts(read_json(kept))},
        DOCS / "synthetic.md": {name: table(rows) for name, rows in synthetic_tables().items()},
    }
    pages = {path: with_tables(path.read_text(encoding="utf-8"), of_page) for path, of_page in tables.items()}
    for path, page in pages.items():
        if not args.check:
            path.write_text(page, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != page:
            raise UserError(f"{path}: wanted the page of today's code, found another; run scripts/make_docs.py")
    summary.print(f"{', '.join(map(str, pages))} {'are up to date' if args.check else 'written'}")
    return 0


def table(rows: Sequence[Sequence[str]], separator: str = "---|") -> str:
    """Rows, the header first, as a markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + separator * (len(rows[0]) - 1), *lines[1:]])


def with_tables(page: str, tables: dict[str, str]) -> str:
    """The page with the text between each table's marks replaced.

    >>> print(with_tables("<!-- made: x -->\\nold\\n<!-- end: x -->", {"x": table([("a", "b"), ("1", "2")])}))
    <!-- made: x -->
    | a | b |
    |---|---|
    | 1 | 2 |
    <!-- end: x -->
    """
    for name, text in tables.items():
        begin, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        page = page[: page.index(begin) + len(begin)] + text + page[page.index(end) :]
    return page


def synthetic_tables(batches: int = 12) -> dict[str, list[tuple[str, ...]]]:
    """The signs of the indicators, the outcomes drawn from them, and the AUROC of the probabilities themselves."""
    from collections import defaultdict

    from sklearn.metrics import roc_auc_score

    from preprocess.synthetic.patients import BATCH
    from preprocess.synthetic.visits import INDICATORS, simulate
    from preprocess.synthetic.vocab import OUTCOMES, SIGNS

    windows = {
        "ed": "ED stay", "adm": "first day of the admission", "icu": "first day in intensive care",
        "end": "day before discharge",
    }  # fmt: skip
    cells: dict[tuple[str, str], str] = {}
    for sign in SIGNS:
        value = f" = `{sign.value}`" if sign.value else ""
        cells[sign.indicator, sign.window] = f"{sign.table} `{sign.item}`{value}"
    signs = [(name, *(cells.get((name, window), "") for window in windows)) for name in INDICATORS]
    outcomes = [
        (
            outcome.name, ", ".join(outcome.indicators), f"{outcome.weight:g}",
            ", ".join(f"{task} {value:g}" for task, value in zip(outcome.tasks, outcome.thresholds, strict=True)),
        )
        for outcome in OUTCOMES.values()
    ]  # fmt: skip
    chances: dict[str, list[float]] = defaultdict(list)
    drawn: dict[str, list[bool]] = defaultdict(list)
    for index in range(batches):
        for task, _, _, chance, outcome in simulate(0, index, BATCH).truth:
            chances[task] += chance.tolist()
            drawn[task] += outcome.tolist()
    optimum = [(task, f"{sum(yes) / len(yes):.0%}", f"{roc_auc_score(yes, chances[task]):.3f}") for task, yes in drawn.items()]
    return {
        "signs": [("indicator", *windows.values()), *signs],
        "outcomes": [("outcome", "indicators", "weight", "tasks and thresholds"), *outcomes],
        "optimum": [("task", "yes", "optimum"), *optimum],
    }


def demo_counts(counts: dict) -> str:
    """The table of the rows, labels and audit flags of each task of an index."""
    rows = [("task", "rows", "labels", "yes", *FLAGS)]
    for name in TASKS:
        entry = counts["tasks"][name]
        flags = [f"{entry['flags'][flag]:,}" for flag in FLAGS]
        rows.append((name, f"{entry['rows']:,}", f"{entry['labels']:,}", str(entry.get("yes", "")), *flags))
    total = sum(entry["rows"] for entry in counts["tasks"].values())
    return f"{total:,} rows of {counts['patients']} patients.\n\n{table(rows, ' ---: |')}"


if __name__ == "__main__":
    run(main)
