"""Samples per second from random rows of an index: from shards, from per-patient files, and reading these files alone.

Rows have a benchmark's window length (10 < events < 100). The variants alternate, in several rounds, so that a noisy machine
disturbs all alike; the table has medians. One process, one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import random
import statistics
import time
from collections.abc import Callable, Sequence

from pipeline.cli import Parser, at_least, run
from pipeline.files import require


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--index", default="task_index/all", help="directory of index CSVs")
    cli.add_path("--shards", default="patients_ehr", help="trajectories with --layout shards")
    cli.add_argument("--files", type=Path, help="the same trajectories with --layout patient")
    cli.add_argument("--rows", type=at_least(1), default=300, help="rows per round (300)")
    cli.add_argument("--rounds", type=at_least(1), default=7, help="rounds (7)")
    args = cli.parse_args(argv)

    import pyarrow as pa
    import pyarrow.parquet as pq

    from mimiciv_dataset.mimiciv import MIMICIV

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rows = draw_rows(require(args.index, "a task index", "make it with mimiciv_dataset/task_sample_info_gen.py"), args.rows)

    def dataset(ehr_dir: Path) -> MIMICIV:
        return MIMICIV(args.root_dir, sample_info=rows, lazzy_mode=True, shuffle=False, ehr_dir=ehr_dir)

    shards = dataset(args.shards)
    variants: dict[str, Callable[[int], object]] = {"ds[i], shards": shards.__getitem__}
    if args.files:
        variants["ds[i], per-patient files"] = dataset(args.files).__getitem__
        variants["bare read of the file"] = lambda i: pq.read_table(args.files / f"{rows[i]['subject_id']}.parquet")
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for read in variants.values():
        read(0)  # dictionaries are read once
    for _ in range(args.rounds):
        for name, read in variants.items():
            start = time.perf_counter()
            for i in range(len(rows)):
                read(i)
            rates[name].append(len(rows) / (time.perf_counter() - start))
    events = statistics.mean(int(row["context_end"]) - int(row["context_begin"]) for row in rows)
    characters = statistics.mean(len(shards[i]["input"]) for i in range(len(rows)))
    print(f"{len(rows)} random rows, mean window {events:.0f} events, mean input {characters:,.0f} characters")
    print("| | per second | of the bare read |\n| --- | ---: | ---: |")
    bare = statistics.median(rates.get("bare read of the file", [float("nan")]))
    for name, values in rates.items():
        print(f"| {name} | {statistics.median(values):,.0f} | {statistics.median(values) / bare:.2f} |")


def draw_rows(index: Path, number: int) -> list[dict[str, str]]:
    """Random rows of all tasks with a benchmark's window length."""
    csv.field_size_limit(1 << 30)
    rows = []
    for path in sorted(index.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += [r for r in csv.DictReader(file) if 10 < int(r["context_end"]) - int(r["context_begin"]) < 100]
    return random.Random(0).sample(rows, min(number, len(rows)))


if __name__ == "__main__":
    run(main)
