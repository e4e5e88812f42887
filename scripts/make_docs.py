"""Update the tables of docs/tasks.md from the registries, of docs/synthetic.md from the generator, of docs/training.md from recipes.

Those of docs/leaderboard.md are made from its entries, docs/leaderboard/*.json. Only the text between a table's marks is
replaced. The row counts come from docs/demo_counts.json (a task index of the MIMIC-IV demo), so that the page can be made
without the data; --index updates them from another index.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.leaderboard import LOSSES, loss_rows, read_entries, summary_rows, task_rows
from evaluation.synthetic_benchmark import DIGESTS, LATEST
from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import TASKS, task_table
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.progress import Summary
from training.gpu_memory import memory_rows

DOCS = Path(__file__).resolve().parent.parent / "docs"
# windows of signs, as in `vocab.Sign`
WINDOWS = ("ed", "adm", "icu", "end")
WINDOW_NAMES = ("ED stay", "first day of the admission", "first day in intensive care", "day before discharge")


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--index", type=Path, help="directory of a task index to take the counts from")
    cli.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    args = cli.parse_args(argv)
    summary = Summary("make_docs")
    counts = DOCS / "demo_counts.json"
    if args.index:
        record = read_json(args.index / "provenance.json")
        write_json(counts, {"patients": record["patients"], "tasks": record["tasks"]})
    tables = {
        DOCS / "tasks.md": {"tasks": task_table(), "stored": stored_table(), "counts": demo_counts(read_json(counts))},
        DOCS / "training.md": {"memory": markdown_table(list(memory_rows(DOCS.parent / "scripts/recipes")))},
        DOCS / "leaderboard.md": leaderboard_tables(),
        DOCS / "synthetic.md": {name: markdown_table(rows) for name, rows in synthetic_tables().items()},
    }
    for path, tables_of_page in tables.items():
        current = path.read_text(encoding="utf-8")
        page = with_tables(current, tables_of_page)
        if not args.check:
            path.write_text(page, encoding="utf-8")
        elif page != current:
            raise UserError(f"{path}: expected the tables that the code makes, got others. Run scripts/make_docs.py.")
    summary.print(f"{', '.join(map(str, tables))} {'are up to date' if args.check else 'written'}")


def markdown_table(rows: Sequence[Sequence[str]], separator: str = "---|") -> str:
    """Rows, the header first, as a Markdown table; `separator` is that of every column but the first."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + separator * (len(rows[0]) - 1), *lines[1:]])


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with the text between each table's marks replaced.

    >>> print(with_tables("<!-- made: x -->\\nold\\n<!-- end: x -->", {"x": markdown_table([("a", "b"), ("1", "2")])}))
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
    """The signs of the indicators, the outcomes, and the AUROC of the true probabilities in `batches` batches of patients."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from preprocess.synthetic.outcomes import drawn_outcomes
    from preprocess.synthetic.visits import simulate
    from preprocess.synthetic.vocab import INDICATORS, OUTCOMES, SIGNS
    from preprocess.synthetic_mimic import Settings

    cells = {(s.indicator, s.window): f"{s.table} `{s.item}`" + (f" = `{s.value}`" if s.value else "") for s in SIGNS}
    signs = [(name, *(cells.get((name, window), "") for window in WINDOWS)) for name in INDICATORS]
    outcomes = []
    for outcome in OUTCOMES.values():
        tasks = [f"{task} {threshold:g}" for task, threshold in zip(outcome.tasks, outcome.thresholds, strict=True)]
        outcomes.append((outcome.name, ", ".join(outcome.indicators), f"{outcome.weight:g}", ", ".join(tasks)))
    drawn = [drawn for index in range(batches) for drawn in drawn_outcomes(simulate(0, index, Settings.batch_size).visits)]
    optimum = []
    for task in dict.fromkeys(entry.task for entry in drawn):
        answers = np.concatenate([entry.outcome for entry in drawn if entry.task == task])
        probabilities = np.concatenate([entry.probability for entry in drawn if entry.task == task])
        optimum.append((task, f"{answers.mean():.0%}", f"{roc_auc_score(answers, probabilities):.3f}"))
    return {
        "signs": [("indicator", *WINDOW_NAMES), *signs],
        "outcomes": [("outcome", "indicators", "weight", "tasks and thresholds"), *outcomes],
        "optimum": [("task", "yes", "optimum"), *optimum],
    }


def leaderboard_tables() -> dict[str, str]:
    """The entries of the leaderboard: mean regrets, the regret of each task, and of each loss of probabilities."""
    entries = read_entries(DOCS / "leaderboard", LATEST, DIGESTS[LATEST])
    tables = {"entries": summary_rows(entries), "regret": task_rows(entries)}
    tables |= {loss: loss_rows(entries, loss) for loss in LOSSES}
    return {name: markdown_table(rows) for name, rows in tables.items()}


def stored_table() -> str:
    """The table of the columns that hold store times, and the values that they date."""
    rows = [("table", "store time", "values that it dates")]
    for event in EVENTS.values():
        if event.stored:
            times = filter(None, (event.stored.time, event.stored.time_fallback))
            rows.append((event.name, ", else ".join(times), ", ".join(event.stored.keys)))
    return markdown_table(rows)


def demo_counts(counts: Mapping[str, Any]) -> str:
    """The table of the rows, labels and audit flags of each task of an index, with the share of `not_yet_stored`."""
    rows = [("task", "rows", "labels", "yes", *FLAGS, "share of it")]
    for name in [task for task in TASKS if task in counts["tasks"]]:
        entry = counts["tasks"][name]
        flags = [f"{entry['flags'][flag]:,}" for flag in FLAGS]
        share = f"{entry['flags'][FLAGS[-1]] / entry['rows']:.0%}"
        rows.append((name, f"{entry['rows']:,}", f"{entry['labels']:,}", str(entry.get("yes", "")), *flags, share))
    total = sum(entry["rows"] for entry in counts["tasks"].values())
    return f"{total:,} rows of {counts['patients']} patients.\n\n{markdown_table(rows, ' ---: |')}"


if __name__ == "__main__":
    run(main)
