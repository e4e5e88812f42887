"""Bucketed tables → every record of a patient in its place. Step 2 of 3, after merge_patient.py.

Inside one bucket at a time, records become JSON, take their time, and are put in order: the patient first, then by time
with fixed tie-breaks, records without a time right after the last timed record of their admission (docs/data.md has the
whole rule). Run it several times at once and the processes share the buckets.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EVENTS, MISSING, MODULES, EventType
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary, progress
from pipeline.work import share_work
from preprocess.merge_patient import claim_folder
from preprocess.raw_tables import ROW, TIME

if TYPE_CHECKING:
    import polars as pl

TABLE_NUMBERS = {name: number for number, name in enumerate(sorted(EVENTS))}
"""Tables in alphabetical order, the last but one tie-break."""

FIRST, LAST = -1, 1 << 62
"""Places before and after every timed record."""

ORDER = ("_subject", "_at", "_untimed", "_module", "_table", ROW)
"""The final order: patient, place among the timed records, and for records without a time their rank."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--input_path", default="patients", help="folder that merge_patient.py wrote")
    cli.add_path("--output_path", default="patients_sorted", help="folder for the ordered buckets")
    args = cli.parse_args(argv)
    summary = Summary("rank")
    manifest = read_manifest(args.input_path, "merge_patient.py")
    buckets = manifest["options"]["buckets"]
    claim_folder(args.output_path, {"input": manifest["digest"]}, "--output_path")

    def path(bucket: int) -> Path:
        return args.output_path / f"bucket-{bucket:05d}.arrow"

    with progress(total=buckets, desc="rank", unit="bucket") as bar:

        def rank(bucket: int) -> None:
            write_bucket(rank_bucket(args.input_path, bucket, list(manifest["rows"])), path(bucket))
            bar.update()

        share_work(range(buckets), lambda bucket: path(bucket).exists(), rank, args.output_path / ".locks")

    counts = [read_counts(path(bucket)) for bucket in range(buckets)]
    total = check_counts(manifest["rows"], counts, "rank")
    without_time = sum(c.get("_untimed", 0) for c in counts)
    no_patient = sum(c.get("_no_patient", 0) for c in counts)
    write_json(args.output_path / "manifest.json", manifest)
    if no_patient:
        print(f"warning: {no_patient:,} subjects have records but no row in patients; kept, without demographics")
    summary.print(
        f"{total:,} records in order → {args.output_path}; {without_time:,} of timed tables have no time and "
        "follow their admission",
        total,
    )


def read_manifest(folder: Path, made_by: str) -> dict:
    """The manifest of a finished step.

    Raises:
        UserError: the step has not finished.
    """
    path = require(folder / "manifest.json", "the finished output of " + made_by, f"run preprocess/{made_by} to its end")
    return read_json(path)


def check_counts(wanted: dict[str, int], counts: Sequence[dict[str, int]], command: str) -> int:
    """Compare records per table with what the raw files held; the total.

    Raises:
        UserError: a record was lost or doubled.
    """
    found = {name: sum(count.get(name, 0) for count in counts) for name in wanted}
    wrong = [f"{name}: {wanted[name]:,} read, {found[name]:,} written" for name in wanted if wanted[name] != found[name]]
    if wrong:
        raise UserError(f"{command}: wanted every record once, found {'; '.join(wrong)}; remove the folder and begin again")
    return sum(found.values())


def read_table(folder: Path, event: EventType, bucket: int) -> pl.DataFrame | None:
    """One bucket of one table, or None if it has no rows there."""
    import polars as pl
    import pyarrow as pa

    batches = []
    for part in sorted((folder / event.module / event.name).glob("part-*.arrow")):
        with pa.memory_map(str(part)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(bucket))
    table = pa.Table.from_batches(batches) if batches else None
    return pl.from_arrow(table) if table is not None and table.num_rows else None


def rank_bucket(folder: Path, bucket: int, tables: Sequence[str]) -> pl.DataFrame:
    """All records of a bucket in their final order.

    Returns:
        subject_id (Int64), file_name (Categorical-like UInt8 code in TABLE_NUMBERS), time (Datetime, null if none),
        hadm_id (text, null if none), item (the record as JSON).
    """
    import polars as pl

    frames = {name: read_table(folder, EVENTS[name], bucket) for name in tables}
    keys, items = [], []
    for name, frame in frames.items():
        if frame is None:
            continue
        event = EVENTS[name]
        if event.stay_time:
            frame = with_stay_time(frame, event, frames.get("edstays"))
        keys.append(frame.select(sort_keys(event, frame.columns)))
        items.append(frame.select(json_record(event, frame.columns)))
        frames[name] = frame if name == "edstays" else None  # free the text as soon as it is JSON
    if not keys:
        return pl.DataFrame(schema={"subject_id": pl.Int64, "file_name": pl.UInt8, "time": pl.Datetime("ms"),
                                    "hadm_id": pl.String, "item": pl.String})  # fmt: skip
    records = place(pl.concat(keys).with_row_index("_index"))
    item = pl.concat(items, rechunk=False)["item"]
    return records.select(
        subject_id="_subject", file_name="_table", time=TIME, hadm_id="hadm_id", item=item.gather(records["_index"])
    )


def with_stay_time(frame: pl.DataFrame, event: EventType, edstays: pl.DataFrame | None) -> pl.DataFrame:
    """Give records of an ED table the time of their ED stay, also as their `charttime`; none where there is no stay."""
    import polars as pl

    if edstays is None:
        return frame.with_columns(charttime=pl.lit(None, pl.String))
    moment = pl.coalesce(
        pl.col(event.stay_time).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False),
        pl.col(event.stay_time).str.to_datetime("%Y-%m-%d", time_unit="ms", strict=False),
    )
    stays = edstays.unique(["subject_id", "stay_id"], keep="first", maintain_order=True).select(
        "subject_id", "stay_id", (moment + pl.duration(seconds=event.stay_offset_s)).alias("_stay_time")
    )
    return (
        frame.join(stays, on=["subject_id", "stay_id"], how="left", maintain_order="left")
        .with_columns(
            pl.col("_stay_time").alias(TIME), pl.col("_stay_time").dt.to_string("%Y-%m-%d %H:%M:%S").alias("charttime")
        )
        .drop("_stay_time")
    )


def sort_keys(event: EventType, columns: Sequence[str]) -> list[pl.Expr]:
    """What decides a record's place: see `ORDER` and `place`."""
    import polars as pl

    ties = [pl.col(column).cast(pl.Float64, strict=False) for column in event.tie] + [pl.lit(None, pl.Float64)] * 2
    timeless = not event.timed
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
        pl.lit(event.untimed_rank if timeless else 0, pl.UInt8).alias("_untimed"),
    ]


def json_record(event: EventType, columns: Sequence[str]) -> pl.Expr:
    """A record as a JSON object of text values: its columns as they stand in the file, and `file_name`."""
    import polars as pl

    values = [pl.col(c).fill_null(MISSING) for c in columns if c not in (ROW, TIME)]
    return pl.struct(*values, pl.lit(event.name).alias("file_name")).struct.json_encode().alias("item")


def place(keys: pl.DataFrame) -> pl.DataFrame:
    """Put records in the order of a trajectory.

    Timed records are numbered in their order (`_at`). The patient comes before them; a record without a time comes right
    after the last timed record of its admission, or at the end if there is none.
    """
    import polars as pl

    patients = pl.col("_table") == TABLE_NUMBERS["patients"]
    timed = keys.filter(pl.col(TIME).is_not_null()).sort(
        "_subject", TIME, "_module", "_tie0", "_tie1", "_rank", "_table", ROW, nulls_last=False
    )
    timed = (
        timed.drop("_untimed")
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


def write_bucket(records: pl.DataFrame, path: Path) -> None:
    """Write an ordered bucket, records per table in the file's metadata, so that counting needs no reading."""
    import json

    import polars as pl
    import pyarrow as pa

    names = {number: name for name, number in TABLE_NUMBERS.items()}
    counts = {names[number]: count for number, count in records["file_name"].value_counts().iter_rows()}
    timeless = [TABLE_NUMBERS[event.name] for event in EVENTS.values() if not event.timed]
    counts["_untimed"] = len(records.filter(pl.col("time").is_null() & ~pl.col("file_name").is_in(timeless)))
    firsts = records.group_by("subject_id").agg(pl.col("file_name").first())
    counts["_no_patient"] = int((firsts["file_name"] != TABLE_NUMBERS["patients"]).sum())
    arrow = records.to_arrow(compat_level=pl.CompatLevel.newest())
    arrow = arrow.replace_schema_metadata({"counts": json.dumps(counts, sort_keys=True)})
    with (
        atomic_path(path) as temporary,
        pa.ipc.new_file(temporary, arrow.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
    ):
        writer.write_table(arrow)


def read_counts(path: Path) -> dict[str, int]:
    """Records per table of an Arrow file, from its metadata."""
    import json

    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return json.loads(pa.ipc.open_file(source).schema.metadata[b"counts"])


if __name__ == "__main__":
    run(main)
