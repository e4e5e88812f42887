"""From raw tables to sets at growing size: time, memory and disk of each command, and the time with a kill in the middle.

Makes synthetic sets and runs each command twice on each of them: to its end, and again from nothing, killed (SIGKILL, all its
processes) after half of that time and started once more; both outputs must have the same digest. Then it extrapolates the
time of the largest set to MIMIC-IV 3.1, and to ten times that, in proportion to the records. The table shows whether that is
fair: time ∝ records^exponent between the two largest sets, and an exponent of 1 is proportional.

  python benchmarks/scale.py --work_dir DIR --figure docs/figures/scale.svg     96 M records: 20 GB of disk, an hour
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.preprocess import REPO, Run, make_set, size
from pipeline.cli import Parser, at_least, run
from pipeline.files import read_json
from pipeline.records import record_path, require_complete
from pipeline.work import Workers, usable_cpus

if TYPE_CHECKING:
    import altair

# Step: command, its flags, and its output in the root directory. The commands of `INPUTS` make what a step needs besides.
CONFIGS = REPO / "scripts/data_configs"
DRAW = "mimiciv_dataset/data_index_gen.py"
TRAIN = "{root}/patient_data/train.csv"
STEPS = {
    "merge_patient": ("preprocess/merge_patient.py", [], "patients"),
    "rank": ("preprocess/rank.py", [], "patients_sorted"),
    "combination": ("preprocess/combination.py", [], "patients_ehr"),
    "index": ("mimiciv_dataset/task_sample_info_gen.py", [], "task_index/all"),
    "EHR-Bench": (DRAW, ["--data_config", f"{CONFIGS}/ehr_bench_decision_making.json"], "ehr_bench.csv"),
    "EHR-Ins": (DRAW, ["--data_config", f"{CONFIGS}/ehr_ins.json", "--subject_id_path", TRAIN], "ehr_ins.csv"),
}
INPUTS = {
    "index": [("preprocess/split_patients.py", []), ("preprocess/build_index_mapping.py", ["--maps_from", "{maps}"])],
}
# Rows of the tables we read in MIMIC-IV 3.1 with MIMIC-IV-ED 2.2 and MIMIC-IV-Note 2.2, from the counts that mimic-code checks
# a database against: 433 M of chartevents, 158 M of labevents, 209 M of the others.
MIMIC_RECORDS = 800_000_000


@dataclass(frozen=True)
class Row:
    """What a step took on a set."""

    patients: int
    records: int  # of the raw tables
    step: str
    seconds: float
    cpu_seconds: float
    peak_mib: float  # of the largest process
    output_mb: float
    killed_seconds: float  # until the kill, and from the second start to the end
    same: bool  # both outputs have the same digest

    def cells(self) -> list[str]:
        numbers = [f"{self.seconds:,.1f}", f"{self.cpu_seconds:,.1f}", f"{self.records / self.seconds:,.0f}"]
        numbers += [f"{self.peak_mib:,.0f}", f"{self.output_mb:,.0f}", f"{self.killed_seconds:,.1f}"]
        return [f"{self.patients:,}", f"{self.records:,}", self.step, *numbers, "yes" if self.same else "no"]


HEADERS = ["patients", "records", "step", "s", "CPU s", "records/s", "peak MiB", "output MB", "with a kill s", "same output"]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--patients", type=at_least(1), default=36_864, help="patients of the largest set (36864: 96 M records)")
    cli.add_argument("--scales", type=at_least(1), nargs="+", default=[16, 4, 1], help="divisors of --patients (16 4 1)")
    cli.add_argument("--work_dir", type=Path, help="directory to keep the raw sets in (a temporary one)")
    cli.add_argument("--figure", type=Path, help="write the curves as an image (.png, .svg, .pdf)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    from evaluation.pages import charts

    if args.figure:
        charts.check_suffix(args.figure)
    workers = Workers(args.num_workers, args.engine)
    rows: list[Row] = []
    print(f"{usable_cpus()} cores, {' '.join(workers.flags) or 'one process'}\n")
    print(f"| {' | '.join(HEADERS)} |\n|{' ---: |' * len(HEADERS)}")
    with contextlib.ExitStack() as stack:
        work = args.work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        for scale in sorted(args.scales, reverse=True):
            rows += measure(args.patients // scale, work, workers)
    print(f"\n{extrapolation(rows)}")
    if args.figure:
        charts.save(curves(rows), args.figure)
        print(f"\ncurves: {args.figure}")


def measure(patients: int, work: Path, workers: Workers) -> list[Row]:
    """Run all steps on a set, and print a row of each."""
    mimic = make_set(patients, work)
    root = work / f"root-{patients}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "mimiciv").symlink_to(mimic.resolve())
    rows = []
    for step, (script, flags, name) in STEPS.items():
        for other, its_flags in INPUTS.get(step, ()):
            Run.of(*command(other, its_flags, root, work / f"maps-{patients}"))
        output = root / name
        line = [*command(script, flags, root), "--output_path", output, *workers.flags]
        unbroken = Run.of(*line)
        digest = require_complete(record_path(output), script)["digest"]
        output_mb = size(output) if output.is_dir() else output.stat().st_size / 1e6
        remove(output)
        seconds_to_kill = run_and_kill(line, unbroken.seconds / 2)
        resumed = Run.of(*line)
        same = require_complete(record_path(output), script)["digest"] == digest
        records = sum(read_json(root / "patients/provenance.json")["rows"].values())
        killed_seconds = seconds_to_kill + resumed.seconds
        usage = unbroken.seconds, unbroken.cpu_seconds, max(unbroken.peak_mib, resumed.peak_mib)
        rows.append(Row(patients, records, step, *usage, output_mb, killed_seconds, same))
        print(f"| {' | '.join(rows[-1].cells())} |", flush=True)
    shutil.rmtree(root)
    return rows


def command(script: str, flags: Sequence[str], root: Path, maps: Path | None = None) -> list[str | Path]:
    """The command line of a step, with the directories in place of {root} and {maps}."""
    places = {"root": root, "maps": maps}
    return [sys.executable, REPO / script, "--root_dir", root, *(flag.format_map(places) for flag in flags)]


def run_and_kill(line: Sequence[str | Path], seconds: float) -> float:
    """Start a command and kill it with all its processes after `seconds`; return the seconds it ran."""
    start = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was faster this time
            os.killpg(process.pid, signal.SIGKILL)
    return time.monotonic() - start


def remove(output: Path) -> None:
    """Remove an output with its record."""
    if output.is_dir():
        shutil.rmtree(output)
    else:
        record_path(output).unlink()
        output.unlink()


def extrapolation(rows: Sequence[Row]) -> str:
    """Exponents of time between the two largest sets, and hours of MIMIC-IV 3.1 and of ten times that, as a table."""
    *smaller, largest = sorted({row.records for row in rows})
    lines = ["| step | exponent of time | of memory | MIMIC-IV 3.1, extrapolated: h | GB | ten times that: h | GB |"]
    lines.append("| --- |" + " ---: |" * 6)
    steps = {(row.step, row.records): row for row in rows}
    for step in STEPS:
        row = steps[step, largest]
        before = steps[step, smaller[-1]] if smaller else None
        exponents = ["", ""]
        if before:
            growth = math.log(row.records / before.records)
            ratios = row.seconds / before.seconds, row.peak_mib / before.peak_mib
            exponents = [f"{math.log(ratio) / growth:.2f}" for ratio in ratios]
        cells = [step, *exponents]
        for records in (MIMIC_RECORDS, 10 * MIMIC_RECORDS):
            factor = records / row.records
            cells += [f"{row.seconds * factor / 3600:.2f}", f"{row.output_mb * factor / 1000:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(rows: Sequence[Row]) -> altair.LayerChart:
    """Minutes by records for each step, both logarithmic: measured, and dashed the extrapolation."""
    import altair as alt

    from evaluation.pages.charts import colour

    largest = max(row.records for row in rows)
    points = [{"step": row.step, "records": row.records, "minutes": row.seconds / 60, "kind": "measured"} for row in rows]
    for row in rows:
        if row.records == largest:
            for records in (largest, MIMIC_RECORDS, 10 * MIMIC_RECORDS):
                minutes = row.seconds / 60 * records / largest
                points.append({"step": row.step, "records": records, "minutes": minutes, "kind": "extrapolated"})
    x = alt.X("records:Q").scale(type="log").title("records of the raw tables").axis(format="~s", tickCount=5)
    y = alt.Y("minutes:Q").scale(type="log").title("minutes").axis(format="~g", tickCount=6)
    step = alt.Color("step:N").sort(list(STEPS)).title(None)
    kind = alt.StrokeDash("kind:N").sort(["measured", "extrapolated"]).title(None)
    lines = alt.Chart(alt.Data(values=points)).mark_line().encode(x=x, y=y, color=step, strokeDash=kind)
    ends = [{"records": MIMIC_RECORDS, "name": "MIMIC-IV 3.1"}, {"records": 10 * MIMIC_RECORDS, "name": "ten times that"}]
    marks = alt.Chart(alt.Data(values=ends)).encode(x="records:Q")
    rules = marks.mark_rule(strokeDash=[1, 3], color=colour("soft"))
    names = marks.mark_text(align="right", dx=-4, y=330).encode(text="name:N")
    dots = alt.Chart(alt.Data(values=[point for point in points if point["kind"] == "measured"])).mark_point(
        filled=True, size=40
    )
    return alt.layer(rules, lines, dots.encode(x=x, y=y, color=step), names).properties(width=560, height=340)


if __name__ == "__main__":
    run(main)
