"""Time and memory to draw a set from a task index of growing size.

The index has two tasks of synthetic rows: next_event, drawn by weight, and chartevents with lists of names. A row in three
passes the filters of the subjects and the window.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence

from pipeline.cli import Parser, at_least, run

CONFIG = {"next_event": 100_000, "chartevents": 100_000}
ROWS_PER_PATIENT = 500
BLOCK_ROWS = 500_000


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    rows = [1_000_000, 5_000_000, 20_000_000]
    cli.add_argument("--rows", type=at_least(1), nargs="+", default=rows, help="rows of the index (1, 5 and 20 million)")
    cli.add_argument(
        "--code", type=Path, default=Path(__file__).resolve().parent.parent, help="checkout to measure (this one)"
    )
    args = cli.parse_args(argv)
    print("| rows | MB | CPU s | µs per row | peak MiB |\n| ---: | ---: | ---: | ---: | ---: |")
    for number in args.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "config.json").write_text(json.dumps(CONFIG))
            size = write_index(folder, number)
            seconds, peak_mib = draw(args.code, folder)
        print(
            f"| {number:,} | {size / 1e6:,.0f} | {seconds:,.1f} | {seconds / number * 1e6:.1f} | {peak_mib:,.0f} |", flush=True
        )


def write_index(folder: Path, number: int) -> int:
    """Write an index of `number` rows, and the list of a half of its patients; return the bytes of the index."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(0)
    (folder / "index").mkdir()
    for task, target in (("next_event", '"emar"'), ("chartevents", json.dumps([f"Heart Rate {i}" for i in range(8)]))):
        with (folder / "index" / f"{task}.csv").open("wb") as file:
            for start in range(0, number // 2, BLOCK_ROWS):
                row = pl.int_range(start, min(start + BLOCK_ROWS, number // 2), eager=True)
                begin = 1 + row % ROWS_PER_PATIENT
                frame = pl.DataFrame({"subject_id": 10_000_000 + row // ROWS_PER_PATIENT, "hadm_id": 20_000_000 + row // 90})
                frame = frame.with_columns(
                    task=pl.lit(task), event=pl.lit(task if task == "chartevents" else "emar"), context_begin=begin,
                    context_end=begin + pl.Series(random.integers(1, 140, len(row))), target=pl.lit(target),
                    target_weight=pl.Series(random.random(len(row)) + 1e-6), admissions_id=pl.lit(1),
                    last_discharge_id=pl.lit(None), audit=pl.lit("not_yet_stored"),
                )  # fmt: skip
                frame.write_csv(file, include_header=start == 0)
    patients = pl.DataFrame({"subject_id": range(10_000_000, 10_000_000 + number // 2 // ROWS_PER_PATIENT + 1, 2)})
    patients.write_csv(folder / "patients.csv")
    return sum(path.stat().st_size for path in (folder / "index").iterdir())


def draw(code: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak memory, in MiB, of data_index_gen.py in a process of its own."""
    command = [sys.executable, code / "mimiciv_dataset/data_index_gen.py", "--data_index_dir", folder / "index"]
    command += ["--subject_id_path", folder / "patients.csv", "--data_config", folder / "config.json"]
    process = subprocess.Popen(
        [*command, "--output_path", folder / "set.csv"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError("data_index_gen.py failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
