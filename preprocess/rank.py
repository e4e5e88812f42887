"""Bucketed tables → the order of each patient's records. Step 2 of 3, after merge_patient.py.

Records are sorted within their bucket: by patient, then by time with fixed tie-breaks. Consecutive records of one table become
one event. The output says of which records each event consists; their values stay where merge_patient.py wrote them.
Records without a time follow the last timed record of their admission (docs/data.md has the whole rule).
The buckets are shared by --num_workers processes, and by further runs of the same command on other machines.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary
from pipeline.provenance import Provenance, output_of
from pipeline.records import folder_record, require_complete
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess.order import TABLE, TABLE_NUMBERS, form_events, order_records, read_bucket
from preprocess.parts import CONTENT
from preprocess.raw_tables import TIME

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

STEP, RULES = "preprocess/rank.py", 3


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--input_path", default="patients", help="output of merge_patient.py")
    cli.add_path("--output_path", default="patients_sorted", help="directory for the sorted buckets")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("rank")
    merged = require_complete(folder_record(args.input_path), "preprocess/merge_patient.py")
    source = output_of("merged", args.input_path, "preprocess/merge_patient.py", is_ancestor=False, verify=args.verify)
    settings = {"buckets": merged["settings"]["buckets"], "tables": list(TABLE_NUMBERS)}
    provenance = Provenance(args.output_path, STEP, [source], settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return

    paths = [args.output_path / f"bucket-{bucket:05d}.arrow" for bucket in range(settings["buckets"])]
    write = partial(write_bucket, args.input_path, tuple(merged["rows"]))
    units = [Unit(path.stem, path.exists, partial(write, bucket, path)) for bucket, path in enumerate(paths)]
    run_units(units, args.output_path / ".locks", workers=workers, desc="rank", unit="bucket")
    counts = [read_counts(path) for path in paths]
    total = check_counts(merged["rows"], counts, "rank")
    provenance.complete(columns=merged["columns"], **inherited(merged, args.input_path, args.output_path))
    without_time, no_patient = (sum(count[key] for count in counts) for key in ("_untimed", "_no_patient"))
    identical = {name: sum(count["_identical"].get(name, 0) for count in counts) for name in merged["rows"]}
    print_identical(identical, merged["rows"])
    if no_patient:
        print(f"warning: {no_patient:,} subjects have records but no row in patients; kept, without demographics")
    untimed = f"{without_time:,} records of timed tables have no time and are placed after their admission"
    summary.print(f"{total:,} records in order → {args.output_path}; {untimed}", total)


def print_identical(identical: Mapping[str, int], rows: Mapping[str, int]) -> None:
    """Print how many rows of each table repeat an earlier one, and warn of tables in which MIMIC-IV has fewer."""
    for name, count in identical.items():
        if count:
            share = f"{name}: {count:,} of {rows[name]:,} rows are identical to an earlier row; kept"
            implausible = count > EVENTS[name].identical * rows[name]
            print(f"warning: {share}. Check that no file was written twice." if implausible else share)


def inherited(record: Mapping[str, Any], source: Path, output: Path) -> dict[str, Any]:
    """The fields copied from the previous record: raw tables, with paths relative to `output`, counts, and site."""

    def relative(path: str) -> str:
        return os.path.relpath((source.resolve() / path).resolve(), output.resolve())

    tables = {name: table | {"path": relative(table["path"])} for name, table in record["sources"].items()}
    of_site = {"site": record["site"]} if "site" in record else {}
    return {"sources": tables, "mimic_release": record["mimic_release"], "rows": record["rows"], **of_site}


def check_counts(expected: Mapping[str, int], counts: Sequence[Mapping[str, Any]], command: str) -> int:
    """Compare the records of each table with the rows of its raw file; return their total."""
    written = {name: sum(count.get(name, 0) for count in counts) for name in expected}
    wrong = [f"{name}: {rows:,} read, {written[name]:,} written" for name, rows in expected.items() if rows != written[name]]
    if wrong:
        raise UserError(f"{command}: expected each record exactly once, got {'; '.join(wrong)}. Remove the output and rerun.")
    return sum(written.values())


def write_bucket(folder: Path, tables: Sequence[str], bucket: int, path: Path, tick: Tick) -> None:
    """Write the events of a bucket. The metadata of the file has the numbers of records, so that they need not be counted."""
    import pyarrow as pa

    keys = read_bucket(folder, bucket, tables)
    events = form_events(keys, order_records(keys))
    events = events.replace_schema_metadata({"counts": json.dumps(count_records(keys, events), sort_keys=True)})
    with (
        atomic_path(path) as temporary,
        pa.ipc.new_file(temporary, events.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(events)


def count_records(keys: pl.DataFrame, events: pa.Table) -> dict[str, Any]:
    """The records of each table of a bucket, and what `main` reports."""
    import numpy as np
    import polars as pl

    timed = [number for name, number in TABLE_NUMBERS.items() if EVENTS[name].timed]
    contents = {}  # of the records of each table, in ascending order
    for (number,), of_table in keys.select(TABLE, CONTENT).partition_by(TABLE, as_dict=True, include_key=False).items():
        contents[list(TABLE_NUMBERS)[number]] = np.sort(of_table[CONTENT].to_numpy())
    firsts = pl.from_arrow(events.select(["subject_id", "file_name"])).group_by("subject_id").agg(pl.col("file_name").first())
    return {
        **{name: len(values) for name, values in contents.items()},
        "_identical": {name: int((values[1:] == values[:-1]).sum()) for name, values in contents.items()},
        "_untimed": keys.select((pl.col(TIME).is_null() & pl.col(TABLE).is_in(timed)).sum()).item(),
        "_no_patient": int((firsts["file_name"] != "patients").sum()),
    }


def read_counts(path: Path) -> dict[str, Any]:
    """Records per table of a sorted bucket, and further counts, from its metadata."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return json.loads(pa.ipc.open_file(source).schema.metadata[b"counts"])


if __name__ == "__main__":
    run(main)
