"""Start of test.py: µs a row to read and check an index file, and to know task, identity, patient and length of each row.

`one by one` reads the row of a sample from the file's table for its identity, its patient and its length; `one pass` is
`mimiciv_dataset.row_keys`. Both check the rows, and must give the same keys. Rounds alternate; the table has medians.

    python benchmarks/index_reading.py datas/ehr_ins/ehr_ins_decision_making.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import Rows, read_rows
from mimiciv_dataset.row_checks import check_rows, task_of_row
from mimiciv_dataset.row_keys import row_keys
from pipeline.cli import Parser, at_least, run
from pipeline.progress import print_table


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("index", nargs="+", type=Path, help="index CSV or JSONL files")
    cli.add_argument("--repeats", type=at_least(1), default=3, help="rounds (3)")
    args = cli.parse_args(argv)
    table = []
    for path in args.index:
        times: dict[str, list[float]] = {"read": [], "one by one": [], "one pass": []}
        for _ in range(args.repeats):
            rows = timed(times["read"], read_rows, path)
            expected = timed(times["one by one"], keys_one_by_one, rows)
            keys = timed(times["one pass"], lambda rows: [key[:4] for key in row_keys(rows)], rows)
            assert keys == expected
        table.append([path.name, f"{len(rows):,}", *(f"{1e6 * median(each) / len(rows):.1f}" for each in times.values())])
    print_table(["file", "rows", *(f"{name}, µs a row" for name in times)], table)


def timed(seconds: list[float], function: Callable[[Any], Any], argument: Any) -> Any:
    """The result of a call, whose seconds of CPU are added."""
    start = time.process_time()
    result = function(argument)
    seconds.append(time.process_time() - start)
    return result


def keys_one_by_one(rows: Rows) -> list[tuple[str, str, str | None, int]]:
    """Check all rows, then read each row to find its identity, again for its patient, and again for its length."""

    def info(index: int) -> dict[str, Any]:
        row = rows[index]
        return row.get("task_info", {}) | row | {"task": task_of_row(row).name}

    def length(index: int) -> int:
        row = rows[index]
        return len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"]

    check_rows(rows)
    identities = [(each["task"], sample_id(each)) for each in map(info, range(len(rows)))]
    patients = [each.get("subject_id") for each in map(info, range(len(rows)))]
    lengths = [length(index) for index in range(len(rows))]
    triples = zip(identities, patients, lengths, strict=True)
    return [(*identity, None if patient is None else str(patient), length) for identity, patient, length in triples]


if __name__ == "__main__":
    run(main)
