"""What the quickstart shows: scores before and after training on held-out synthetic patients, for several seeds of them.

    python benchmarks/quickstart.py --seeds 1 2 3

Runs scripts/quickstart.sh once per seed, in ROOT_DIR/seed-N, and prints a table of all scores and the minutes of each run.
Minutes are those of this machine with the environment installed; a run that was finished before takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.cli import Parser, at_least, run
from pipeline.files import read_json

REPO = Path(__file__).resolve().parent.parent
# Directory below results/ → its name in the table. The last three columns are one model in the course of its training.
COLUMNS = {
    "stage3/baselines/majority": "majority",
    "untrained": "untrained",
    "start": "start",
    "stage1": "stage 1",
    "stage3": "stages 1 to 3",
}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--seeds", type=at_least(1), nargs="+", default=[1, 2, 3], help="seeds of the patients (1 2 3)")
    cli.add_argument("--patients", type=at_least(1), default=400, help="number of synthetic patients (400)")
    args = cli.parse_args(argv)
    minutes, rows = [], []
    for seed in args.seeds:
        root, start = args.root_dir / f"seed-{seed}", time.perf_counter()
        command = ["bash", REPO / "scripts/quickstart.sh", "--root_dir", root, "--seed", seed, "--patients", args.patients]
        subprocess.run(list(map(str, command)), check=True)
        minutes.append(f"seed {seed}: {(time.perf_counter() - start) / 60:.1f}")
        rows += table_rows(root / "results", seed)
    print("\n| task | seed | samples | yes | |", " | ".join(COLUMNS.values()), "|")
    print("| --- | ---: | ---: | ---: | --- |", " | ".join(["---:"] * len(COLUMNS)), "|")
    for row in sorted(rows):
        print("|", " | ".join(row), "|")
    print(f"\nMinutes: {', '.join(minutes)}")


def table_rows(results: Path, seed: int) -> Iterator[list[str]]:
    """A row of the table for each task of a run."""
    tasks = {folder: read_json(results / folder / "result.json")["tasks"] for folder in COLUMNS}
    for task, values in tasks["stage3"].items():
        metric = "auroc" if "auroc" in values else "f1"
        cells = [with_interval(of_run.get(task, {}), metric) for of_run in tasks.values()]
        yes = str(values["positives"]) if "positives" in values else ""
        yield [task, str(seed), str(values["n"]), yes, {"auroc": "AUROC", "f1": "F1"}[metric], *cells]


def with_interval(scores: dict[str, Any], metric: str) -> str:
    """A score with its interval."""
    value, interval = scores.get(metric), scores.get(f"{metric}_ci")
    if value is None:
        return ""
    return f"{value:.3f} ({interval[0]:.2f}–{interval[1]:.2f})" if interval else f"{value:.3f} (too few)"


if __name__ == "__main__":
    run(main)
