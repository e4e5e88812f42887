"""Raw tables → trajectories: records per second and peak memory of the three commands, at 1×, 4× and 16× patients.

Makes synthetic sets with MIMIC-IV's columns, table mix and row sizes, runs the commands as a user would, and prints a Markdown
table. The largest set should have 20 million records. To compare with MEDS-Extract, install it in an environment of its own:

  python -m venv meds-extract && meds-extract/bin/pip install MEDS-extract==0.7.1
  python benchmarks/preprocess.py --scales 1 --meds_extract meds-extract
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
from dataclasses import dataclass
from typing import Any

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.work import Workers, usable_cpus
from preprocess.raw_tables import RawTable, find_tables

REPO = Path(__file__).resolve().parent.parent
STEPS = ("merge_patient", "rank", "combination")
# What MEDS-Extract extracts: of every table, the columns that its configuration for MIMIC-IV (MIMIC_IV_MEDS 0.2.0) has of the
# tables that it covers, and as there a second event for the end of what takes time. With all columns, as our trajectories have
# them, it runs out of memory on the largest set, and so it does with shards of its default size.
PATIENTS_PER_SHARD = 500
CODES = ("itemid", "icd_code", "drg_code", "drug", "medication", "order_type", "test_name", "eventtype", "name", "result_name",
         "short_description")  # fmt: skip
VALUES = {"text": "text_value", "value": "text_value", "result_value": "text_value", "valuenum": "numeric_value"}
COLUMNS = (
    "hadm_id", "stay_id", "admission_type", "admission_location", "discharge_location", "insurance", "language",
    "marital_status", "race", "gender", "icd_version", "drg_type", "description", "drg_severity", "drg_mortality", "event_txt",
    "emar_id", "emar_seq", "priority", "valueuom", "route", "frequency", "doses_per_24_hrs", "poe_id", "careunit",
    "first_careunit", "last_careunit", "orderid", "linkorderid", "rate", "rateuom", "amount", "amountuom",
    "ordercategorydescription", "statusdescription", "patientweight",
)  # fmt: skip
ENDS = {
    "admissions": "dischtime",
    "labevents": "storetime",
    "pharmacy": "stoptime",
    "icustays": "outtime",
    "procedureevents": "endtime",
    "inputevents": "endtime",
}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--patients", type=at_least(1), default=9216, help="patients of the largest set (9216: 20 M records)")
    cli.add_argument("--scales", type=at_least(1), nargs="+", default=[16, 4, 1], help="divisors of --patients (16 4 1)")
    cli.add_num_workers("--processes")
    cli.add_argument("--work_dir", type=Path, help="directory to keep the sets in (a temporary one)")
    cli.add_argument("--mimic_dir", type=Path, help="measure on this directory instead, such as the MIMIC-IV demo")
    cli.add_argument("--meds_extract", type=Path, metavar="ENV", help="also run MEDS-Extract, in this virtual environment")
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    work = args.work_dir or Path(tempfile.mkdtemp(prefix="benchmark-"))
    print(f"{usable_cpus()} cores, {' '.join(workers.flags)}")
    headers = ["patients", "records", "raw MB", *(f"{step} s" for step in STEPS), "CPU s", "records/s in total", "peak MiB"]
    headers += ["intermediates MB", "trajectories MB"]
    if args.meds_extract:
        headers += ["MEDS-Extract s", "its CPU s", "its peak MiB", "time ratio", "CPU ratio"]
    print(f"| {' | '.join(headers)} |\n|{' ---: |' * len(headers)}")
    for scale in [1] if args.mimic_dir else args.scales:
        root = work / f"scale-{scale}"
        shutil.rmtree(root, ignore_errors=True)
        mimic = args.mimic_dir or make_set(args.patients // scale, work)
        print(f"| {' | '.join(measure(mimic, root, workers, args.meds_extract))} |", flush=True)
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


@dataclass(frozen=True)
class Run:
    """What commands took: elapsed and processor seconds, and the peak memory of the largest process."""

    seconds: float
    cpu_seconds: float
    peak_mib: float

    @classmethod
    def of(cls, *line: object, **environment: str) -> Run:
        """Run a command; an error if it fails."""
        with tempfile.TemporaryFile("w+") as log:
            start = time.monotonic()
            process = subprocess.Popen(list(map(str, line)), stdout=log, stderr=log, env=os.environ | environment)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            if process.returncode:
                last = log.read().strip().splitlines()[-1:]
                raise UserError(f"{line[0]}: expected exit code 0, got {process.returncode}: {''.join(last)}")
        return cls(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(mimic: Path, root: Path, workers: Workers, meds_extract: Path | None) -> list[str]:
    """One row of the table."""
    runs = []
    for step in STEPS:
        line = [sys.executable, REPO / f"preprocess/{step}.py", "--root_dir", root, *workers.flags]
        runs.append(Run.of(*line, *(["--mimic_dir", mimic] if step == "merge_patient" else [])))
    record = read_json(root / "patients_ehr/provenance.json")
    records = sum(record["rows"].values())
    intermediates = size(root / "patients") + size(root / "patients_sorted")
    seconds, cpu_seconds = sum(each.seconds for each in runs), sum(each.cpu_seconds for each in runs)
    cells = [f"{record['patients']:,}", f"{records:,}", f"{size(mimic):,.0f}", *(f"{each.seconds:.1f}" for each in runs)]
    cells += [f"{cpu_seconds:.1f}", f"{records / seconds:,.0f}", f"{max(each.peak_mib for each in runs):,.0f}"]
    cells += [f"{intermediates:,.0f}", f"{size(root / 'patients_ehr'):,.0f}"]
    if meds_extract:
        other = run_meds_extract(meds_extract, mimic, root)
        cells += [f"{other.seconds:.1f}", f"{other.cpu_seconds:.1f}", f"{other.peak_mib:,.0f}"]
        cells += [f"{seconds / other.seconds:.2f}", f"{cpu_seconds / other.cpu_seconds:.2f}"]
    return cells


def run_meds_extract(environment: Path, mimic: Path, root: Path) -> Run:
    """Convert the same files with MEDS-Extract, in its default settings but for the size of shards."""
    import yaml

    tables, _ = find_tables(mimic)
    spec, output = root.resolve() / "meds_extract.yaml", root.resolve() / "meds_extract"
    spec.write_text(yaml.safe_dump(meds_extract_spec(tables), sort_keys=False), encoding="utf-8")
    binaries = environment.resolve() / "bin"
    flags = (f"spec={spec}", f"output_dir={output}", "do_download=false", f"input_dir={mimic.resolve()}")
    return Run.of(binaries / "meds-extract-run", *flags, PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}", PYTHONPATH="")


def meds_extract_spec(tables: Sequence[RawTable]) -> dict[str, Any]:
    """What MEDS-Extract makes of the tables: events with their code, time, values and further columns."""
    spec: dict[str, Any] = {
        "sources": {"dataset_version": "1"},
        "etl": {"dataset_name": "MIMIC-IV", "n_subjects_per_shard": PATIENTS_PER_SHARD},
        "_defaults": {"subject_id": "$subject_id"},
    }
    for table in tables:
        event, form = table.event, "%Y-%m-%d" if (table.event.time or "").endswith("date") else "%Y-%m-%d %H:%M:%S"
        code = next((column for column in CODES if column in table.columns), None)
        names = {column: VALUES.get(column, column) for column in (*VALUES, *COLUMNS) if column in table.columns}
        times = {"record": event.time, "end": ENDS.get(event.name)}
        spec[f"{event.module}/{event.name}"] = {
            name: {
                "code": f"f\"{event.name}//{name}//{{${code} ?? 'UNK'}}\"" if code else f'"{event.name}//{name}"',
                "time": f'${time} as "{form}"' if time else None,
                **{name: f"${column}" for column, name in names.items()},
            }
            for name, time in times.items()
            if time or name == "record"
        }
    return spec


def size(folder: Path) -> float:
    """Size of the files of a directory in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    run(main)
