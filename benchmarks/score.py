"""Scoring stored outputs: time to read them, and to compute all metrics with their intervals.

The outputs are synthetic and have the size of the released benchmark: 45 tasks with equal numbers of rows, about a dozen
names and 100 candidates in a decision row, reasoning in half of the replies. Medians of several rounds; one process, one core.
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
from pipeline.cli import Parser, at_least, run
from pipeline.progress import peak_memory_mib

ROWS, PATIENTS = 21_221, 4_000
NAMES = [f"Item {number}, {number % 9}.5% (oral)" for number in range(2_000)]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--rows", type=at_least(1), default=ROWS, help=f"rows of all tasks ({ROWS})")
    cli.add_argument("--patients", type=at_least(1), default=PATIENTS, help=f"patients ({PATIENTS})")
    cli.add_argument("--resamples", type=at_least(0), default=1000, help="bootstrap resamples (1000)")
    cli.add_argument("--rounds", type=at_least(1), default=3, help="rounds (3)")
    args = cli.parse_args(argv)

    from evaluation.predictions import read_predictions
    from evaluation.score import score_predictions

    read_seconds, score_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outputs.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in make_lines(args.rows, args.patients))
        size = path.stat().st_size / 2**20
        for _ in range(args.rounds):
            start = time.perf_counter()
            predictions = read_predictions(folder)
            read_seconds.append(time.perf_counter() - start)
            score_predictions(predictions.values(), args.resamples)
            score_seconds.append(time.perf_counter() - start - read_seconds[-1])
    print("| rows | MiB | resamples | read s | score s | peak MiB |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
    seconds = f"{statistics.median(read_seconds):.1f} | {statistics.median(score_seconds):.1f}"
    print(f"| {len(predictions):,} | {size:,.0f} | {args.resamples:,} | {seconds} | {peak_memory_mib():,.0f} |")


def make_lines(rows: int, patients: int) -> Iterator[dict[str, Any]]:
    """Output lines of the released tasks, alternating."""
    draw = random.Random(0)
    tasks = [task for task in TASKS.values() if task.released]
    for number in range(rows):
        task = tasks[number % len(tasks)]
        info = {"task": task.name, "subject_id": str(draw.randrange(patients))}
        yield {"key": str(number), **make_answer(task, info, draw)}


def make_answer(task: Task, info: dict[str, str], draw: random.Random) -> dict[str, Any]:
    """Label, candidates and reply of a row: about half of the names are right, p(yes) is a little higher if the label is."""
    if task.kind == "risk":
        label, candidates, p = draw.choice([YES, NO]), [YES, NO], draw.random()
        reply, p_yes = YES if p >= 0.5 else NO, p**0.5 if label == YES else p
    elif task.metric == "accuracy":
        label, candidates, p_yes = draw.choice([*TASKS][:20]), [*TASKS][:20], None
        reply = draw.choice(candidates)
    else:
        candidates, p_yes = draw.sample(NAMES, 100), None
        label, answer = (draw.sample(candidates[:20], draw.randint(1, 15)) for _ in range(2))
        reply = "\n".join(answer)
    if draw.random() < 0.5 and p_yes is None:
        reply = f"<think>\n{'The patient had a fever, so a culture is taken. ' * 40}\n</think>\n\n{reply}"
    return {"task_info": info | {"label": label}, "candidates": candidates, "outputs": [{"response": reply, "p_yes": p_yes}]}


if __name__ == "__main__":
    run(main)
