"""What the importers of MEDS and OMOP share: their flags, their report, the record of the import, and the steps after it."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.task_sample_info_gen import missing_dictionaries
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, at_least
from pipeline.digests import stamp_of
from pipeline.files import atomic_path, read_json
from pipeline.progress import counted, print_table
from pipeline.provenance import Provenance, Source
from preprocess import combination, rank, split_patients
from preprocess.raw_tables import ROW
from preprocess.site_records import IGNORED, UNMAPPED, Codes, Counts
from preprocess.site_tasks import left_out_tasks
from preprocess.sites import Site

BUCKET_ROWS = 400_000  # rows per bucket, about as much text as merge_patient.py puts in one
CODES_FILE = "site_codes.csv"


def add_import_flags(cli: Parser, example: str) -> None:
    """Add the flags that importers share; `example` is a site file."""
    cli.add_argument("--site", type=Path, required=True, help=f"site file, such as {example}")
    cli.add_path("--index_mapping", default="index_mapping", help=f"dictionaries; {CODES_FILE} is written there")
    cli.add_argument("--buckets", type=at_least(1), metavar="N", help=f"number of buckets (one per {BUCKET_ROWS:,} rows)")
    cli.add_num_workers()
    cli.add_rerun_flags()


def add_up(reports: Sequence[Mapping[str, Any]]) -> Counts:
    """The counts of all reports of an import."""
    total = Counts()
    for report in reports:
        total.rows += report["rows"]
        total.without_code += report["without_code"]
        total.codes.update(report["codes"])
        total.unpaired.update(report["unpaired"])
        for name, values in report["values"].items():
            total.values.setdefault(name, Counter()).update(values)
    return total


def complete(
    provenance: Provenance,
    site: Site,
    codes: Codes,
    total: Counts,
    raw: Sequence[Source],
    index_mapping: Path,
    release: str,
) -> None:
    """Write the table of the codes, print the report, and record that the bucketed tables are complete.

    Args:
        total: what was counted in all rows.
        raw: the files of the data set.
        release: its name and version.
    """
    write_codes(index_mapping / CODES_FILE, codes, total)
    print_report(site, codes, total)
    left_out = left_out_tasks(site, total.values)
    provenance.complete(
        sources={source.name: located(source, provenance.output) for source in raw},
        mimic_release=release,
        rows={name: total.values.get(name, {}).get(ROW, 0) for name in site.tables},
        columns={name: list(site.columns(name)) for name in site.tables},
        site={"name": site.name, "left_out": left_out, "data_use": site.data_use},
    )


def located(source: Source, folder: Path) -> dict[str, Any]:
    """A raw file for the records of this and the next steps, as merge_patient.py writes them."""
    path = os.path.relpath(source.path.resolve(), folder.resolve())
    return {"path": path, "digest": source.digest, "by": source.by, "stamp": stamp_of(source.path)}


def run_later_steps(
    root_dir: Path, index_mapping: Path, *, workers: Sequence[str], rerun: Sequence[str], split: Sequence[str]
) -> tuple[int, int]:
    """Run rank.py, combination.py and split_patients.py, and print which tasks the data support.

    Args:
        workers: arguments about the processes that share the work, for the first two steps.
        rerun: `--overwrite` and `--verify`, where they are given, for all steps.
        split: further arguments of split_patients.py.

    Returns:
        The numbers of patients and events.
    """
    later = ["--root_dir", str(root_dir), *rerun]
    for step in (rank, combination):
        step.main([*later, *workers])
    split_patients.main([*later, *split])
    record = read_json(root_dir / "patients_ehr/provenance.json")
    print_tasks(record["site"]["left_out"], Lookups(index_mapping), Trajectories(root_dir / "patients_ehr"))
    return record["patients"], record["events"]


def write_codes(path: Path, codes: Codes, total: Counts) -> None:
    """Write what became of each code: its rule, or that it is ignored or unmapped; its rows, and its name."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("code", "rule", "rows", "name"))
        writer.writerows((code, codes.role(code), rows, codes.names.get(code)) for code, rows in sorted(total.codes.items()))


def print_report(site: Site, codes: Codes, total: Counts) -> None:
    """Print what the rows became, and what is missing."""
    events = {rule.where: rule.event.name for rule in site.events}
    of_table: dict[str, Counter[str]] = {name: Counter() for name in site.tables}
    shares: Counter[str] = Counter()
    for code, rows in total.codes.items():
        role = codes.role(code)
        shares[role] += rows
        if role in events:
            of_table[events[role]].update(codes=1, nameless=int(code not in codes.names))
    lines = [(name, total.values.get(name, {}).get(ROW, 0), c["codes"], c["nameless"]) for name, c in of_table.items()]
    print_table(("event", "records", "codes", "codes without\na description"), lines)
    for role, about in ((UNMAPPED, "have a code without a rule"), (IGNORED, "are ignored, as the site says")):
        number = sum(codes.role(code) == role for code in total.codes)
        share = f"{shares[role] / max(1, total.rows):.1%}; {counted(number, 'code')}"
        print(f"{shares[role]:,} of {total.rows:,} rows ({share}) {about}")
    if total.without_code:
        print(f"warning: {counted(total.without_code, 'row')} without a code; left out.")
    for where, number in total.unpaired.items():
        if number:
            print(f"warning: {where}: {counted(number, 'row')} without the row that ends or begins the same stay.")


def print_tasks(left_out: Mapping[str, str], lookups: Lookups, trajectories: Trajectories) -> None:
    """Print which tasks the data support, why not the others, and which dictionaries are missing."""
    needed = missing_dictionaries(TASKS.values(), lookups, trajectories)
    lines = []
    for name in TASKS:
        remark = left_out.get(name) or (f"needs {lookups.folder}/{needed[name]}" if name in needed else "")
        lines.append((name, "no" if name in left_out else "yes", remark))
    print_table(("task", "supported", "why not"), lines)
