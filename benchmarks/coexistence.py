"""Co-occurrence over a million index rows: minutes and memory of the command, on made-up patients.

Patients with the tables of a hospital stay, names as unequal as real ones (Zipf's law), a part of them correlated, and notes
with many concepts each: more distinct pairs than real data has. The real command runs in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from pipeline.cli import Parser, run

REPO = Path(__file__).resolve().parent.parent
TASKS = ("labevents", "emar", "prescriptions", "radiology")
"""The task of every event, in turn; radiology events have concepts of their text besides."""

FILE_PATIENTS = 500
"""Patients of a file of concepts."""

EVENTS = 100
"""Events of a patient; a window has 10 to 99 of them."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--rows", type=int, default=1_000_000, help="index rows (1,000,000)")
    cli.add_argument("--names", type=int, default=20_000, help="names of concepts (20,000)")
    cli.add_argument("--concepts", type=int, default=8, help="concepts of an event; a note has four times as many (8)")
    args = cli.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        context = multiprocessing.get_context("spawn")  # a child's peak memory is never less than its parent's
        with ProcessPoolExecutor(1, context) as pool:
            made = pool.submit(write_data, root, args.rows // (EVENTS - 10), args.names, args.concepts).result()
        command = [sys.executable, str(REPO / "thinking_graph_preprocess/coexistence_concept.py"), "--root_dir", str(root)]
        start = time.perf_counter()
        done = subprocess.run([*command, "--task", *TASKS], check=True, capture_output=True, text=True)
        took = time.perf_counter() - start
        said = done.stdout.splitlines()[-1]
        pairs, peak = re.search(r": ([\d,]+) pairs .* peak memory ([\d,]+) MiB", said).groups()
        size = sum(path.stat().st_size for path in (root / "evidence_datas/coexistence").glob("*.parquet")) >> 20
        print(done.stdout)
    print("| index rows | rows of concepts | distinct pairs | s | rows/s | peak MiB | result MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows, concepts = made
    print(f"| {rows:,} | {concepts:,} | {pairs} | {took:.0f} | {rows / took:,.0f} | {peak} | {size:,} |")


def write_data(root: Path, patients: int, names: int, concepts: int) -> tuple[int, int]:
    """Write trajectories (tables only), concepts and index of so many patients; how many index rows and concepts."""
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from mimiciv_dataset.trajectory import COLUMNS, write_shard, write_subjects

    rng = np.random.default_rng(0)
    tables = np.array(TASKS)[np.arange(EVENTS) % len(TASKS)]
    every = np.tile(tables, patients).tolist()
    missing = [None] * len(every)
    (root / "patients_ehr").mkdir(parents=True)
    events = pa.table(dict(zip(COLUMNS, (every, *[missing] * 3, ["[]"] * len(every)), strict=True)))
    write_shard(events.cast(pa.schema({name: pa.string() for name in COLUMNS})), root / "patients_ehr/shard-00000.arrow", {})
    write_subjects(
        root / "patients_ehr", [(i + 1, 0, i * EVENTS, EVENTS) for i in range(patients)], {name: [] for name in TASKS}
    )

    # half of what a patient's events name is drawn from a hundred names of their own, the rest from all
    weight = 1 / (np.arange(names) + 10.0)
    weight /= weight.sum()
    own = rng.choice(names, (patients, 100), p=weight)
    text = tables == "radiology"
    number = np.where(text, concepts * 5, concepts)
    event = np.repeat(np.arange(EVENTS), number)
    key = np.where(np.concatenate([np.arange(n) >= concepts for n in number]), "text", tables[event])
    drawn = rng.choice(names, (patients, len(event)), p=weight)
    mine = np.take_along_axis(own, rng.integers(0, 100, drawn.shape), axis=1)
    drawn = np.where(rng.random(drawn.shape) < 0.5, mine, drawn)
    label = np.array([f"concept {i}" for i in range(names)])
    frame = pl.DataFrame({
        "subject_id": np.repeat(np.arange(patients) + 1, len(event)).astype(str),
        "event_id": np.tile(event, patients).astype(np.int32),
        "key": np.tile(key, patients),
        "concept": label[drawn.ravel()],
        "negated": rng.random(drawn.size) < 0.1,
    })  # fmt: skip
    negated = pl.col("negated") & (pl.col("key") == "text")
    frame = frame.select("subject_id", "event_id", "key", "concept", cui=pl.lit(None, pl.String), negated=negated)
    (root / "evidence_datas/concepts").mkdir(parents=True)
    per_file = FILE_PATIENTS * len(event)
    for i, start in enumerate(range(0, len(frame), per_file)):
        frame[start : start + per_file].write_parquet(root / f"evidence_datas/concepts/shard-{i:05d}.parquet")

    index = root / "task_index/all"
    index.mkdir(parents=True)
    (root / "patient_data").mkdir()
    pl.DataFrame({"subject_id": np.arange(patients) + 1}).write_csv(root / "patient_data/train.csv")
    answers = (
        frame.filter(pl.col("key") != "text")
        .group_by("subject_id", "event_id", maintain_order=True)
        .agg("concept", pl.col("key").first())
    )
    answers = answers.filter(pl.col("event_id") >= 10)
    begin = (answers["event_id"].to_numpy() * rng.random(len(answers)) * 0.9).astype(int)
    for task in TASKS:
        chosen = (answers["key"] == task).to_numpy()
        rows: dict[str, Any] = {
            "subject_id": answers["subject_id"].filter(chosen), "hadm_id": "", "task": task, "event": task,
            "context_begin": begin[chosen], "context_end": answers["event_id"].filter(chosen),
            "target": [json.dumps(names) for names in answers["concept"].filter(chosen).to_list()],
            "target_weight": 1, "admissions_id": "", "last_discharge_id": "0", "audit": "",
        }  # fmt: skip
        pl.DataFrame(rows).write_csv(index / f"{task}.csv")
    return len(answers), len(frame)


if __name__ == "__main__":
    run(main)
