"""Raw tables → trajectories: records per second and peak memory of the three commands, at 1×, 4× and 16× patients.

Makes synthetic sets with MIMIC-IV's columns, table mix and row sizes, runs the commands as a user would, and prints a Markdown
table. The largest set should have 20 million records.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.work import Workers

REPO = Path(__file__).resolve().parent.parent
STEPS = ("merge_patient", "rank", "combination")


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--patients", type=at_least(1), default=9216, help="patients of the largest set (9216: 20 M records)")
    cli.add_argument("--scales", type=at_least(1), nargs="+", default=[16, 4, 1], help="divisors of --patients (16 4 1)")
    cli.add_num_workers("--processes")
    cli.add_argument("--work_dir", type=Path, help="directory to keep the sets in (a temporary one)")
    cli.add_argument("--mimic_dir", type=Path, help="measure on this directory instead, such as the MIMIC-IV demo")
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    work = args.work_dir or Path(tempfile.mkdtemp(prefix="benchmark-"))
    print(f"{os.cpu_count()} cores, {' '.join(workers.flags)}")
    headers = ["patients", "records", "raw MB", *(f"{step} s" for step in STEPS), "records/s in total", "peak MiB"]
    headers += ["intermediates MB", "trajectories MB"]
    print(f"| {' | '.join(headers)} |\n|{' ---: |' * len(headers)}")
    for scale in [1] if args.mimic_dir else args.scales:
        root = work / f"scale-{scale}"
        shutil.rmtree(root, ignore_errors=True)
        mimic = args.mimic_dir or make_set(args.patients // scale, work)
        print(f"| {' | '.join(measure(mimic, root, workers))} |", flush=True)
        if not args.work_dir:
            shutil.rmtree(root)


def make_set(patients: int, work: Path) -> Path:
    """A synthetic MIMIC-IV, kept in `work` between runs."""
    mimic = work / f"mimiciv-{patients}"
    if not mimic.exists():
        flags = ["--patients", str(patients), "--output_path", mimic, "--index_mapping", work / f"maps-{patients}"]
        line = [sys.executable, REPO / "preprocess/synthetic_mimic.py", *flags]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return mimic


def measure(mimic: Path, root: Path, workers: Workers) -> list[str]:
    """One row of the table. The peak memory is that of the largest process of the three commands."""
    seconds, peaks = [], []
    for step in STEPS:
        line = [sys.executable, REPO / f"preprocess/{step}.py", "--root_dir", root, *workers.flags]
        line += ["--mimic_dir", mimic] if step == "merge_patient" else []
        start = time.monotonic()
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{step}: expected exit code 0, got {done.returncode}: {done.stderr.splitlines()[-1]}")
        seconds.append(time.monotonic() - start)
        peaks.append(int(done.stdout.rsplit("peak memory ", 1)[1].split(" MiB")[0].replace(",", "")))
    record = read_json(root / "patients_ehr/provenance.json")
    records = sum(record["rows"].values())
    intermediates = size(root / "patients") + size(root / "patients_sorted")
    cells = [f"{record['patients']:,}", f"{records:,}", f"{size(mimic):,.0f}", *(f"{s:.1f}" for s in seconds)]
    cells += [f"{records / sum(seconds):,.0f}", f"{max(peaks):,}", f"{intermediates:,.0f}"]
    return [*cells, f"{size(root / 'patients_ehr'):,.0f}"]


def size(folder: Path) -> float:
    """Size of the files of a directory in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    run(main)
