"""Scoring stored outputs: seconds to read them, and to compute every metric with its intervals.

Outputs of the released benchmark's size are made up: 45 tasks, rows spread evenly, some dozen names and 100 candidates in a
decision row, a chain before a part of the replies. Medians of several rounds; one process, one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mimiciv_dataset.tasks import NO, TASKS, YES, Task
from pipeline.cli import Parser, run
from pipeline.progress import peak_memory_mib

ROWS, PATIENTS = 21_221, 4_000
NAMES = [f"Item {number}, {number % 9}.5% (oral)" for number in range(2_000)]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--rows", type=int, default=ROWS, help=f"rows of all tasks together ({ROWS})")
    cli.add_argument("--patients", type=int, default=PATIENTS, help=f"patients they are of ({PATIENTS})")
    cli.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (1000)")
    cli.add_argument("--rounds", type=int, default=3)
    args = cli.parse_args(argv)

    from evaluation.predictions import read_predictions
    from evaluation.score import score_predictions

    read, scored = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outputs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in make_lines(args.rows, args.patients))
        size = path.stat().st_size / 2**20
        for _ in range(args.rounds):
            start = time.perf_counter()
            predictions = read_predictions(folder)
            read.append(time.perf_counter() - start)
            score_predictions(predictions.values(), args.resamples)
            scored.append(time.perf_counter() - start - read[-1])
    print("| rows | MiB | resamples | read s | score s | peak MiB |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| {len(predictions):,} | {size:,.0f} | {args.resamples:,} | {statistics.median(read):.1f} | "
          f"{statistics.median(scored):.1f} | {peak_memory_mib():,.0f} |")  # fmt: skip


def make_lines(rows: int, patients: int) -> Iterator[dict[str, Any]]:
    """Output lines of the released tasks in turn."""
    draw = random.Random(0)
    tasks = [task for task in TASKS.values() if task.released]
    for number in range(rows):
        task = tasks[number % len(tasks)]
        info = {"task": task.name, "subject_id": str(draw.randrange(patients))}
        yield {"key": str(number), **answered(task, info, draw)}


def answered(task: Task, info: dict[str, str], draw: random.Random) -> dict[str, Any]:
    """Label, candidates and reply of a row: half of the names right, p(yes) a little higher where the answer is yes."""
    if task.kind == "risk":
        label, candidates, p = draw.choice([YES, NO]), [YES, NO], draw.random()
        reply, p_yes = YES if p >= 0.5 else NO, p**0.5 if label == YES else p
    elif task.metric == "accuracy":
        label, candidates, p_yes = draw.choice([*TASKS][:20]), [*TASKS][:20], None
        reply = draw.choice(candidates)
    else:
        candidates, p_yes = draw.sample(NAMES, 100), None
        label, said = (draw.sample(candidates[:20], draw.randint(1, 15)) for _ in range(2))
        reply = "\n".join(said)
    if draw.random() < 0.5 and p_yes is None:
        reply = f"<think>\n{'The patient had a fever, so a culture is taken. ' * 40}\n</think>\n\n{reply}"
    return {"task_info": info | {"label": label}, "candidates": candidates, "outputs": [{"response": reply, "p_yes": p_yes}]}


if __name__ == "__main__":
    run(main)
