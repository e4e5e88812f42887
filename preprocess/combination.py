"""Sorted records → trajectories of events. Step 3 of 3, after rank.py.

Consecutive records of one table become one event. `--layout shards` (default) writes few files for fast random access,
`--layout patient` one parquet file per patient, as in the released dataset. `provenance.json` says what they were made from.
The buckets are shared by --num_workers processes, and by further runs of the same command on other machines.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EVENTS, EventType
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.trajectory import COLUMNS, write_patient, write_shard, write_subjects
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.provenance import Provenance, output_of
from pipeline.records import folder_record, require_complete
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess.rank import TABLE_NUMBERS, check_counts, inherited

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


STEP, RULES = "preprocess/combination.py", 1
Columns = Mapping[str, Sequence[str]]  # table → the columns of its records


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--input_path", default="patients_sorted", help="output of rank.py")
    cli.add_path("--output_path", default="patients_ehr", help="directory for the trajectories")
    cli.add_argument("--layout", choices=tuple(LAYOUTS), default="shards", help="few files, or one per patient (shards)")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("combination")
    ranked = require_complete(folder_record(args.input_path), "preprocess/rank.py")
    if ranked["settings"]["tables"] != list(TABLE_NUMBERS):
        fix = "Run preprocess/rank.py --overwrite"
        raise UserError(f"{args.input_path}: expected the event types of this version, got others. {fix}.")
    source = output_of("ranked", args.input_path, "preprocess/rank.py", is_ancestor=False, verify=args.verify)
    settings = {"layout": args.layout, "buckets": ranked["settings"]["buckets"]}
    provenance = Provenance(args.output_path, STEP, [source], settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return

    columns = {name: record_columns(EVENTS[name], names) for name, names in ranked["columns"].items()}
    paths = [args.output_path / ".buckets" / f"{bucket:05d}.json" for bucket in range(settings["buckets"])]
    write = partial(write_bucket, args.input_path, columns, args.layout)
    units = [Unit(path.stem, path.exists, partial(write, bucket, path)) for bucket, path in enumerate(paths)]
    run_units(units, args.output_path / ".locks", workers=workers, desc="combination", unit="bucket")
    reports = [read_json(path) for path in paths]
    total = check_counts(ranked["rows"], [report["counts"] for report in reports], "combination")
    subjects = [(subject, bucket, *rest) for bucket, report in enumerate(reports) for subject, *rest in report["subjects"]]
    if args.layout == "shards":
        write_subjects(args.output_path, subjects, columns)
    events = sum(number for *_, number in subjects)
    content = sum(int(report["digest"], 16) for report in reports) % 2**128
    results = {
        "patients": len(subjects),
        "events": events,
        **inherited(ranked, args.input_path, args.output_path),
        "data_use": ranked.get("site", {}).get("data_use", DATA_USE),
    }
    provenance.complete(f"{content:032x}", **results)
    summary.print(f"{total:,} records → {events:,} events of {len(subjects):,} patients in {args.output_path}", total)


def write_bucket(folder: Path, columns: Columns, layout: str, bucket: int, report: Path, tick: Tick) -> None:
    """Write the trajectories of a sorted bucket beside the directory of `report`, and then the report."""
    path = folder / f"bucket-{bucket:05d}.arrow"
    counts, events, subjects, content = combine_bucket(path, columns if layout == "shards" else {})
    LAYOUTS[layout](events, subjects, report.parent.parent, bucket)
    write_json(report, {"counts": counts, "subjects": subjects, "digest": f"{content:x}"})


def record_columns(event: EventType, columns: Sequence[str]) -> list[str]:
    """The columns of the records of a table: those of the raw file, and `charttime` for tables that get it from rank.py.

    >>> record_columns(EVENTS["triage"], ["subject_id", "stay_id"])
    ['subject_id', 'stay_id', 'charttime']
    """
    return list(dict.fromkeys([*columns, *(["charttime"] if event.stay_time else [])]))


def combine_bucket(path: Path, columns: Columns) -> tuple[dict[str, int], pa.Table, list[tuple[int, int, int]], int]:
    """Group the records of a sorted bucket into events.

    Args:
        path: bucket that rank.py wrote.
        columns: with these, records become lists of values; if empty, they remain JSON objects.

    Returns:
        records per table; the events, with `COLUMNS`; (subject_id, first event, number of events) of each patient; and a
        digest of the content, which does not depend on the layout.
    """
    import polars as pl
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        records = pl.from_arrow(pa.ipc.open_file(source).read_all())
    records = records.with_columns(pl.struct("subject_id", "file_name").rle_id().alias("event"))
    names = pl.Series(sorted(TABLE_NUMBERS, key=TABLE_NUMBERS.get))
    events = records.group_by("event", maintain_order=True).agg(
        pl.col("subject_id", "file_name", "hadm_id").first(),
        pl.col("time").min().dt.to_string("%Y-%m-%d %H:%M:%S").alias("starttime"),
        pl.col("time").max().dt.to_string("%Y-%m-%d %H:%M:%S").alias("endtime"),
        pl.len().alias("records"),
    )
    events = events.with_columns(file_name=names.gather(events["file_name"]))
    patients = events.with_row_index("row").group_by("subject_id", maintain_order=True)
    patients = patients.agg(pl.col("row").first(), pl.len().alias("events"), pl.col("records").sum())
    subjects = list(patients.select("subject_id", "row", "events").iter_rows())
    texts = join_runs(records["item"], patients["records"].to_list())
    content = digest_trajectories(events.select(*COLUMNS[:-1], "records").rows(), subjects, texts)
    del texts
    first, last = pl.col("event") != pl.col("event").shift(1), pl.col("event") != pl.col("event").shift(-1)
    if columns:
        records = records.with_columns(in_parallel(records["item"], pl.col("item").str.replace_many(without_names(columns))))
    items = records.select(
        pl.concat_str(
            pl.when(first.fill_null(True)).then(pl.lit("[")).otherwise(pl.lit(",")),
            "item",
            pl.when(last.fill_null(True)).then(pl.lit("]")).otherwise(pl.lit("")),
        ).alias("items")
    )["items"]
    del records
    counts = dict(events.group_by("file_name").agg(pl.col("records").sum()).sort("file_name").iter_rows())
    table = events.select(COLUMNS[:-1]).to_arrow()
    table = table.append_column("items", join_runs(items, events["records"].to_list()))
    return counts, table, subjects, content


def in_parallel(values: pl.Series, expression: pl.Expr) -> pl.Series:
    """Evaluate an element-wise expression over slices of a series, because polars runs one expression in one thread."""
    import polars as pl

    size = max(1, -(-len(values) // pl.thread_pool_size()))
    slices = [values.slice(start, size).to_frame().lazy().select(expression) for start in range(0, len(values), size)]
    return pl.concat(pl.collect_all(slices)).to_series() if slices else values


def without_names(columns: Columns) -> dict[str, str]:
    """Replacements that turn the JSON object of a record into a list of its values, without `file_name`.

    Quotation marks inside a value are escaped, so that these patterns match between values only.

    >>> text = '{"a":"1","b":"{\\\\"a\\\\":2","file_name":"omr"}'
    >>> pl = __import__("polars")
    >>> pl.Series([text]).str.replace_many(without_names({"omr": ["a", "b"]})).item()
    '["1","{\\\\"a\\\\":2"]'
    """
    patterns = {}
    for table, names in columns.items():
        first, *others = (json.dumps(name, ensure_ascii=False) for name in names)
        patterns[f"{{{first}:"] = "["
        patterns |= {f",{name}:": "," for name in others}
        patterns[f',"file_name":"{table}"}}'] = "]"
    return patterns


def join_runs(texts: pl.Series, lengths: Sequence[int]) -> pa.Array:
    """Join runs of consecutive texts, given the number in each run, without copying: the same bytes with fewer offsets.

    >>> import polars as pl
    >>> join_runs(pl.Series(["[a", ",b]", "[c]"]), [2, 1]).to_pylist()
    ['[a,b]', '[c]']
    """
    import numpy as np
    import pyarrow as pa

    array = texts.rechunk().to_arrow().cast(pa.large_string())
    if not len(array):
        return pa.array([], pa.large_string())
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    kept = starts[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(kept.tobytes()), data)


def digest_trajectories(events: Sequence[tuple], subjects: Sequence[tuple[int, int, int]], records: pa.Array) -> int:
    """A digest of every value of trajectories: the events, and the records of each patient as JSON objects.

    The digests of patients are added up, so that neither the layout nor the number of buckets matters.
    """
    total = 0
    for (subject_id, start, count), text in zip(subjects, records, strict=True):
        content = hashlib.sha256(f"{subject_id}{events[start : start + count]}".encode())
        content.update(text.as_buffer())
        total += int(content.hexdigest()[:32], 16)
    return total % 2**128


def write_shards(events: pa.Table, subjects: Sequence[tuple[int, int, int]], folder: Path, bucket: int) -> None:
    """Write a bucket as one shard."""
    with atomic_path(folder / f"shard-{bucket:05d}.arrow") as temporary:
        write_shard(events, temporary, {"subjects": json.dumps([subject_id for subject_id, _, _ in subjects])})


def write_patients(events: pa.Table, subjects: Sequence[tuple[int, int, int]], folder: Path, bucket: int) -> None:
    """Write a bucket as one parquet file per patient."""
    for subject_id, start, count in subjects:
        with atomic_path(folder / f"{subject_id}.parquet") as temporary:
            write_patient(events.slice(start, count), temporary)


LAYOUTS = {"shards": write_shards, "patient": write_patients}

if __name__ == "__main__":
    run(main)
