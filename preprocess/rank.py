"""Bucketed tables → the records of each patient in order. Step 2 of 3, after merge_patient.py.

Records become JSON, get their time, and are sorted within their bucket: by patient, then by time with fixed tie-breaks.
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
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS, MISSING, MODULES, EventType
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary
from pipeline.provenance import Provenance, output_of
from pipeline.records import folder_record, require_complete
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess.raw_tables import ROW, TIME, parse_times

if TYPE_CHECKING:
    import polars as pl

STEP, RULES = "preprocess/rank.py", 2
TABLE_NUMBERS = {name: number for number, name in enumerate(sorted(EVENTS))}  # the last tie-break before the row number
FIRST, LAST = -1, 1 << 62  # positions before and after all timed records
# The final order: patient, position among the timed records, and for records without a time their rank.
ORDER = ("_subject", "_at", "_untimed", "_module", "_table", ROW)


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


def read_table(folder: Path, event: EventType, bucket: int) -> pl.DataFrame | None:
    """One bucket of a table, or None if it has no rows."""
    import polars as pl
    import pyarrow as pa

    batches = []
    for part in sorted((folder / event.module / event.name).glob("part-*.arrow")):
        with pa.memory_map(str(part)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(bucket))
    table = pa.Table.from_batches(batches) if batches else None
    return pl.from_arrow(table) if table is not None and table.num_rows else None


def rank_bucket(folder: Path, bucket: int, tables: Sequence[str]) -> tuple[pl.DataFrame, dict[str, int]]:
    """All records of a bucket in their final order, and the number of records of each table that repeat an earlier one.

    Returns:
        subject_id (Int64), file_name (UInt8, the number of the table in TABLE_NUMBERS), time (Datetime, null if none),
        hadm_id (String, null if none), item (the record as JSON); the numbers by table.
    """
    import polars as pl

    frames = {name: read_table(folder, EVENTS[name], bucket) for name in tables}
    keys, items, identical = [], [], {}
    for name, frame in frames.items():
        if frame is None:
            continue
        event = EVENTS[name]
        identical[name] = len(frame) - frame.drop(ROW, TIME).hash_rows().n_unique()
        if event.stay_time:
            frame = with_stay_time(frame, event, frames.get("edstays"))
        keys.append(frame.select(sort_keys(event, frame.columns)))
        items.append(frame.select(json_record(event, frame.columns)))
        frames[name] = frame if name == "edstays" else None  # free the text as soon as it is JSON
    if not keys:
        types = (pl.Int64, pl.UInt8, pl.Datetime("ms"), pl.String, pl.String)
        columns = ("subject_id", "file_name", "time", "hadm_id", "item")
        return pl.DataFrame(schema=dict(zip(columns, types, strict=True))), identical
    records = sort_records(pl.concat(keys).with_row_index("_index"))
    item = pl.concat(items, rechunk=False)["item"]
    item = item.gather(records["_index"])
    return records.select(subject_id="_subject", file_name="_table", time=TIME, hadm_id="hadm_id", item=item), identical


def with_stay_time(frame: pl.DataFrame, event: EventType, edstays: pl.DataFrame | None) -> pl.DataFrame:
    """Give the records of an ED table the time of their ED stay, also as `charttime`; null if there is no such stay."""
    import polars as pl

    if edstays is None:
        return frame.with_columns(charttime=pl.lit(None, pl.String))
    time = parse_times(edstays[event.stay_time]) + timedelta(seconds=event.stay_offset_s)
    key = ["subject_id", "stay_id"]
    stays = edstays.with_columns(time.alias(TIME)).unique(key, keep="first", maintain_order=True).select(*key, TIME)
    frame = frame.drop(TIME).join(stays, on=key, how="left", maintain_order="left")
    return frame.with_columns(charttime=pl.col(TIME).dt.to_string("%Y-%m-%d %H:%M:%S"))


def sort_keys(event: EventType, columns: Sequence[str]) -> list[pl.Expr]:
    """The columns that decide the position of a record; see `sort_records`."""
    import polars as pl

    ties = [pl.col(column).cast(pl.Float64, strict=False) for column in event.tie] + [pl.lit(None, pl.Float64)] * 2
    return [
        pl.col("subject_id").cast(pl.Int64).alias("_subject"),
        pl.col(TIME),
        (pl.col("hadm_id") if "hadm_id" in columns else pl.lit(None, pl.String)).alias("hadm_id"),
        pl.lit(MODULES.index(event.module), pl.UInt8).alias("_module"),
        ties[0].alias("_tie0"),
        ties[1].alias("_tie1"),
        pl.lit(event.tie_rank, pl.UInt8).alias("_rank"),
        pl.lit(TABLE_NUMBERS[event.name], pl.UInt8).alias("_table"),
        pl.col(ROW),
        pl.lit(0 if event.timed else event.untimed_rank, pl.UInt8).alias("_untimed"),
    ]


def json_record(event: EventType, columns: Sequence[str]) -> pl.Expr:
    """A record as a JSON object of texts: its columns in the order of the file, and `file_name`."""
    import polars as pl

    values = [pl.col(c).fill_null(MISSING) for c in columns if c not in (ROW, TIME)]
    return pl.struct(*values, pl.lit(event.name).alias("file_name")).struct.json_encode().alias("item")


def sort_records(keys: pl.DataFrame) -> pl.DataFrame:
    """Sort records into the order of a trajectory.

    Timed records are numbered in their order (`_at`). The patients record comes first. A record without a time comes right
    after the last timed record of its admission, or at the end if there is none.
    """
    import polars as pl

    patients = pl.col("_table") == TABLE_NUMBERS["patients"]
    ties = ("_module", "_tie0", "_tie1", "_rank", "_table", ROW)
    timed = (
        keys.filter(pl.col(TIME).is_not_null())
        .drop("_untimed")
        .sort("_subject", TIME, *ties, nulls_last=False)
        .with_row_index("_at")
        .with_columns(pl.col("_at").cast(pl.Int64), pl.lit(0, pl.UInt8).alias("_untimed"))
    )
    last = timed.filter(pl.col("hadm_id").is_not_null()).group_by("_subject", "hadm_id").agg(pl.col("_at").max())
    rest = (
        keys.filter(pl.col(TIME).is_null())
        .join(last, on=["_subject", "hadm_id"], how="left")
        .with_columns(
            pl.when(patients).then(FIRST).otherwise(pl.col("_at").fill_null(LAST)).alias("_at"),
            (pl.col("_untimed") + 1).cast(pl.UInt8).alias("_untimed"),
        )
    )
    return pl.concat([timed, rest.select(timed.columns)]).sort(ORDER)


def write_bucket(folder: Path, tables: Sequence[str], bucket: int, path: Path, tick: Tick) -> None:
    """Write a sorted bucket, with the records per table in the metadata of the file, so that they need not be counted."""
    import polars as pl
    import pyarrow as pa

    records, identical = rank_bucket(folder, bucket, tables)
    names = {number: name for name, number in TABLE_NUMBERS.items()}
    counts = {names[number]: count for number, count in records["file_name"].value_counts().iter_rows()}
    without_times = [TABLE_NUMBERS[event.name] for event in EVENTS.values() if not event.timed]
    counts["_untimed"] = len(records.filter(pl.col("time").is_null() & ~pl.col("file_name").is_in(without_times)))
    firsts = records.group_by("subject_id").agg(pl.col("file_name").first())
    counts["_identical"] = identical
    counts["_no_patient"] = int((firsts["file_name"] != TABLE_NUMBERS["patients"]).sum())
    arrow = records.to_arrow(compat_level=pl.CompatLevel.newest())
    arrow = arrow.replace_schema_metadata({"counts": json.dumps(counts, sort_keys=True)})
    with (
        atomic_path(path) as temporary,
        pa.ipc.new_file(temporary, arrow.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(arrow)


def read_counts(path: Path) -> dict[str, Any]:
    """Records per table of a sorted bucket, and further counts, from its metadata."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return json.loads(pa.ipc.open_file(source).schema.metadata[b"counts"])


if __name__ == "__main__":
    run(main)
