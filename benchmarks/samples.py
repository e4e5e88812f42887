"""Samples a second from random rows of an index: shards, per-patient files, and the bare reading of those files.

Rows of a benchmark's window length (10 < events < 100). Medians of several rounds that take turns, so that a noisy machine
disturbs all alike. One process, one core.
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

from pipeline.cli import Parser, run
from pipeline.files import require


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--index", default="task_index/all", help="folder of index CSVs")
    cli.add_path("--shards", default="patients_ehr", help="trajectories, --layout shards")
    cli.add_argument("--files", type=Path, help="the same trajectories, --layout patient")
    cli.add_argument("--rows", type=int, default=300, help="rows a round (300)")
    cli.add_argument("--rounds", type=int, default=7)
    args = cli.parse_args(argv)

    import pyarrow as pa
    import pyarrow.parquet as pq

    from mimiciv_dataset.mimiciv import MIMICIV

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rows = draw_rows(require(args.index, "a task index", "make it with mimiciv_dataset/task_sample_info_gen.py"), args.rows)
    root = Path(args.root_dir)
    datasets = {"shards": MIMICIV(root, sample_info=rows, lazzy_mode=True, shuffle=False, ehr_dir=args.shards)}
    jobs: dict[str, Callable[[int], object]] = {"ds[i], shards": datasets["shards"].__getitem__}
    if args.files:
        datasets["files"] = MIMICIV(root, sample_info=rows, lazzy_mode=True, shuffle=False, ehr_dir=args.files)
        jobs["ds[i], per-patient files"] = datasets["files"].__getitem__
        jobs["bare read of the file"] = lambda i: pq.read_table(args.files / f"{rows[i]['subject_id']}.parquet")
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job(0)  # dictionaries are read once
    for _ in range(args.rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            for i in range(len(rows)):
                job(i)
            rates[name].append(len(rows) / (time.perf_counter() - start))
    events = statistics.mean(int(row["context_end"]) - int(row["context_begin"]) for row in rows)
    characters = statistics.mean(len(datasets["shards"][i]["input"]) for i in range(len(rows)))
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
