"""Raw tables → trajectories: records a second and peak memory of the three commands, at 1×, 4× and 16× patients.

Makes synthetic sets with MIMIC's columns, table mix and row sizes, runs the commands as a user would (one process each, or
--processes several that share the folder), and prints a table. The largest set should hold 20 million records.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence

from pipeline.cli import Parser, run

REPO = Path(__file__).resolve().parent.parent
STEPS = ("merge_patient", "rank", "combination")


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--patients", type=int, default=9216, help="patients of the largest set (9216: about 20 M records)")
    cli.add_argument("--scales", type=int, nargs="+", default=[16, 4, 1], help="fractions of it (16 4 1)")
    cli.add_argument("--processes", type=int, default=1, help="processes that share each step (1)")
    cli.add_argument("--work_dir", type=Path, help="where to put the sets (a temporary folder)")
    cli.add_argument("--mimic_dir", type=Path, help="measure on this folder instead, such as the MIMIC-IV demo")
    args = cli.parse_args(argv)
    work = Path(args.work_dir or tempfile.mkdtemp(prefix="benchmark-"))
    print(f"{os.cpu_count()} cores, {args.processes} process(es) a step")
    print("| patients | records | raw MB | " + " | ".join(f"{step} s" for step in STEPS)
          + " | records/s together | peak MiB | intermediates MB | trajectories MB |")  # fmt: skip
    print("|" + " ---: |" * (len(STEPS) + 7))
    for scale in [1] if args.mimic_dir else args.scales:
        root = work / f"scale-{scale}"
        shutil.rmtree(root, ignore_errors=True)
        mimic = args.mimic_dir or make_set(root / "mimiciv", args.patients // scale, work)
        print(measure(mimic, root, args.processes), flush=True)
        if not args.work_dir:
            shutil.rmtree(root)


def make_set(folder: Path, patients: int, work: Path) -> Path:
    """A synthetic MIMIC-IV; kept in `work` from one run to the next."""
    kept = work / f"mimiciv-{patients}"
    if not kept.exists():
        script = [sys.executable, REPO / "preprocess/synthetic_mimic.py", "--patients", patients, "--output_path", kept,
                  "--index_mapping", work / f"maps-{patients}"]  # fmt: skip
        subprocess.run([str(word) for word in script], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return kept


def measure(mimic: Path, root: Path, processes: int) -> str:
    """One row of the table."""
    seconds, peaks = [], []
    for step in STEPS:
        script = [sys.executable, str(REPO / f"preprocess/{step}.py"), "--root_dir", str(root)]
        script += ["--mimic_dir", str(mimic)] if step == "merge_patient" else []
        start = time.monotonic()
        running = [subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                   for _ in range(processes)]  # fmt: skip
        logs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit(f"{step} failed:\n{logs}")
        seconds.append(time.monotonic() - start)
        peaks.append(sum(int(log.rsplit("peak memory ", 1)[1].split(" MiB")[0].replace(",", "")) for log in logs))
    provenance = json.loads((root / "patients_ehr/provenance.json").read_text())
    records = sum(provenance["rows"].values())
    between = size(root / "patients") + size(root / "patients_sorted")
    cells = [
        f"{provenance['patients']:,}", f"{records:,}", f"{size(mimic):,.0f}", *(f"{s:.1f}" for s in seconds),
        f"{records / sum(seconds):,.0f}", f"{max(peaks):,}", f"{between:,.0f}",
        f"{size(root / 'patients_ehr'):,.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def size(folder: Path) -> float:
    """Size of a folder's files in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    run(main)
