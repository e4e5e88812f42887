"""Co-occurrence over a million index rows: time and memory of the command, on synthetic patients.

The patients have the tables of a hospital stay. Concept names follow Zipf's law, some of them are correlated, and notes have
many concepts each, so that there are more distinct pairs than in real data. The command runs in a process of its own.
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

from pipeline.cli import Parser, at_least, run

REPO = Path(__file__).resolve().parent.parent
TASKS = ("labevents", "emar", "prescriptions", "radiology")
"""The task of every event, alternating; radiology events also have the concepts of their text."""

FILE_PATIENTS = 500
"""Patients per file of concepts."""

EVENTS = 100
"""Events per patient; a window has 10 to 99 of them."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--rows", type=at_least(1), default=1_000_000, help="index rows (1,000,000)")
    cli.add_argument("--names", type=at_least(100), default=20_000, help="distinct concept names (20,000)")
    cli.add_argument("--concepts", type=at_least(1), default=8, help="concepts per event (8); a note has four times as many")
    args = cli.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        context = multiprocessing.get_context("spawn")  # a child's peak memory is never less than its parent's
        with ProcessPoolExecutor(1, context) as pool:
            rows, concepts = pool.submit(write_data, root, args.rows // (EVENTS - 10), args.names, args.concepts).result()
        command = [sys.executable, str(REPO / "thinking_graph_preprocess/coexistence_concept.py"), "--root_dir", str(root)]
        start = time.perf_counter()
        done = subprocess.run([*command, "--task", *TASKS], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        summary = done.stdout.splitlines()[-1]
        pairs, peak = re.search(r": ([\d,]+) pairs .* peak memory ([\d,]+) MiB", summary).groups()
        size = sum(path.stat().st_size for path in (root / "evidence_datas/coexistence").glob("*.parquet")) >> 20
        print(done.stdout)
    print("| index rows | rows of concepts | distinct pairs | s | rows/s | peak MiB | result MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| {rows:,} | {concepts:,} | {pairs} | {seconds:.0f} | {rows / seconds:,.0f} | {peak} | {size:,} |")


def write_data(root: Path, patients: int, names: int, concepts: int) -> tuple[int, int]:
    """Write trajectories (tables only), concepts and an index.

    Returns:
        The number of index rows and of rows of concepts.
    """
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from mimiciv_dataset.trajectory import COLUMNS, write_shard, write_subjects

    rng = np.random.default_rng(0)
    tables = np.array(TASKS)[np.arange(EVENTS) % len(TASKS)]
    all_tables = np.tile(tables, patients).tolist()
    missing = [None] * len(all_tables)
    (root / "patients_ehr").mkdir(parents=True)
    events = pa.table(dict(zip(COLUMNS, (all_tables, *[missing] * 3, ["[]"] * len(all_tables)), strict=True)))
    write_shard(events.cast(pa.schema({name: pa.string() for name in COLUMNS})), root / "patients_ehr/shard-00000.arrow", {})
    subjects = [(i + 1, 0, i * EVENTS, EVENTS) for i in range(patients)]
    write_subjects(root / "patients_ehr", subjects, {name: [] for name in TASKS})

    # half of the concepts of a patient are drawn from a hundred names of their own, the rest from all names
    weight = 1 / (np.arange(names) + 10.0)
    weight /= weight.sum()
    own_names = rng.choice(names, (patients, 100), p=weight)
    text = tables == "radiology"
    number = np.where(text, concepts * 5, concepts)
    event = np.repeat(np.arange(EVENTS), number)
    key = np.where(np.concatenate([np.arange(n) >= concepts for n in number]), "text", tables[event])
    drawn = rng.choice(names, (patients, len(event)), p=weight)
    own = np.take_along_axis(own_names, rng.integers(0, 100, drawn.shape), axis=1)
    drawn = np.where(rng.random(drawn.shape) < 0.5, own, drawn)
    label = np.array([f"concept {i}" for i in range(names)])
    frame = pl.DataFrame(
        {
            "subject_id": np.repeat(np.arange(patients) + 1, len(event)).astype(str),
            "event_id": np.tile(event, patients).astype(np.int32),
            "key": np.tile(key, patients),
            "concept": label[drawn.ravel()],
            "negated": rng.random(drawn.size) < 0.1,
        }
    )
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
            "subject_id": answers["subject_id"].filter(chosen),
            "hadm_id": "",
            "task": task,
            "event": task,
            "context_begin": begin[chosen],
            "context_end": answers["event_id"].filter(chosen),
            "target": [json.dumps(concepts_of_row) for concepts_of_row in answers["concept"].filter(chosen).to_list()],
            "target_weight": 1,
            "admissions_id": "",
            "last_discharge_id": "0",
            "audit": "",
        }
        pl.DataFrame(rows).write_csv(index / f"{task}.csv")
    return len(answers), len(frame)


if __name__ == "__main__":
    run(main)
