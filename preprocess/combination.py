"""Records and their order → trajectories of events. Step 3 of 3, after rank.py.

Records are copied from the output of merge_patient.py to their places, in the order that rank.py wrote. `--layout shards`
(default) writes few files for fast random access, `--layout patient` one parquet file per patient, as in the released dataset.
`provenance.json` says what they were made from.
The buckets are shared by --num_workers processes, and by further runs of the same command on other machines.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS, EventType
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.trajectory import COLUMNS, write_patient, write_shard, write_subjects
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.provenance import Provenance, output_of
from pipeline.records import folder_record, origins, require_complete
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess import rank
from preprocess.event_texts import EventTexts, ObjectKeys
from preprocess.order import TABLE_NUMBERS, reading_order
from preprocess.parts import parts_of, read_lists
from preprocess.texts import block_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa


STEP, RULES = "preprocess/combination.py", 1
PATIENTS_AT_ONCE = 32  # that a thread digests
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
    if ranked["rules"] != rank.RULES or ranked["settings"]["tables"] != list(TABLE_NUMBERS):
        expected = "an output of this version of preprocess/rank.py, with its event types"
        raise UserError(f"{args.input_path}: expected {expected}, got another. Run preprocess/rank.py --overwrite.")
    source = output_of("ranked", args.input_path, "preprocess/rank.py", is_ancestor=False, verify=args.verify)
    settings = {"layout": args.layout, "buckets": ranked["settings"]["buckets"]}
    provenance = Provenance(args.output_path, STEP, [source], settings, RULES, cli.arguments)
    if args.overwrite or not provenance.is_complete:
        merged = require_merged(ranked, args.input_path, args.verify)
    if not provenance.begin(args.overwrite, args.verify):
        return

    columns = {name: record_columns(EVENTS[name], names) for name, names in ranked["columns"].items()}
    paths = [args.output_path / ".buckets" / f"{bucket:05d}.json" for bucket in range(settings["buckets"])]
    write = partial(write_bucket, merged, args.input_path, columns, args.layout)
    units = [Unit(path.stem, path.exists, partial(write, bucket, path)) for bucket, path in enumerate(paths)]
    run_units(units, args.output_path / ".locks", workers=workers, desc="combination", unit="bucket")
    reports = [read_json(path) for path in paths]
    total = rank.check_counts(ranked["rows"], [report["counts"] for report in reports], "combination")
    subjects = [(subject, bucket, *rest) for bucket, report in enumerate(reports) for subject, *rest in report["subjects"]]
    if args.layout == "shards":
        write_subjects(args.output_path, subjects, columns)
    events = sum(number for *_, number in subjects)
    content = sum(int(report["digest"], 16) for report in reports) % 2**128
    results = {
        "patients": len(subjects),
        "events": events,
        **rank.inherited(ranked, args.input_path, args.output_path),
        "data_use": ranked.get("site", {}).get("data_use", DATA_USE),
    }
    provenance.complete(f"{content:032x}", **results)
    summary.print(f"{total:,} records → {events:,} events of {len(subjects):,} patients in {args.output_path}", total)


def require_merged(ranked: Mapping[str, Any], folder: Path, verify: bool) -> Path:
    """The directory of the tables that rank.py read, according to its record in `folder`; an error if they changed since."""
    origin, made_by = origins(ranked, "inputs", folder)["merged"], "preprocess/merge_patient.py"
    require_complete(folder_record(origin.path), made_by)
    if output_of("merged", origin.path, made_by, is_ancestor=False, verify=verify).digest != origin.digest:
        expected = f"the tables that {folder} was made from"
        raise UserError(f"{origin.path}: expected {expected}, got others. Run preprocess/rank.py --overwrite.")
    return origin.path


def write_bucket(merged: Path, ranked: Path, columns: Columns, layout: str, bucket: int, report: Path, tick: Tick) -> None:
    """Write the trajectories of a bucket beside the directory of `report`, and then the report."""
    import polars as pl

    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        events, subjects, lists = combine_bucket(merged, ranked, bucket, columns, threads)
        tables = events["file_name"].replace_strict(TABLE_NUMBERS, return_dtype=pl.UInt8).to_numpy()
        objects = ObjectKeys(columns, tables, events["records"].to_numpy())
        items = objects.write(lists, as_lists=True) if layout == "patient" else lists
        table = events.select(COLUMNS[:-1]).to_arrow().append_column("items", items.to_arrow())
        written = threads.submit(LAYOUTS[layout], table, subjects, report.parent.parent, bucket)
        content = digest_trajectories(events, subjects, lists, objects, threads)
        written.result()
    of_table = events.group_by("file_name").agg(pl.col("records").sum()).sort("file_name")
    write_json(report, {"counts": dict(of_table.iter_rows()), "subjects": subjects, "digest": f"{content:x}"})


def record_columns(event: EventType, columns: Sequence[str]) -> list[str]:
    """The columns of the records of a table: those of the raw file, and `charttime` for tables that get it from rank.py.

    >>> record_columns(EVENTS["triage"], ["subject_id", "stay_id"])
    ['subject_id', 'stay_id', 'charttime']
    """
    return list(dict.fromkeys([*columns, *(["charttime"] if event.stay_time else [])]))


def combine_bucket(
    merged: Path, ranked: Path, bucket: int, columns: Columns, threads: Executor
) -> tuple[pl.DataFrame, list[tuple[int, int, int]], EventTexts]:
    """The events of a bucket, with the number of their `records`; the patients; and the texts of the events.

    Args:
        merged, ranked: outputs of merge_patient.py (or an importer) and rank.py.
        columns: those of the records, by table.
        threads: read and copy the records.

    Returns:
        the columns of `COLUMNS` but items, and `records`; (subject_id, first event, number of events) of each patient; texts.
    """
    import polars as pl
    import pyarrow as pa

    with pa.memory_map(str(ranked / f"bucket-{bucket:05d}.arrow")) as source:
        table = pa.ipc.open_file(source).read_all().combine_chunks()
    order = table["records"].combine_chunks().flatten().to_numpy()
    events = pl.from_arrow(table.drop_columns("records"))
    events = events.with_columns(pl.from_arrow(table["records"]).list.len().alias("records"))
    parts = [part for event in reading_order(columns) for part in parts_of(merged, event)]
    lists = list(threads.map(partial(read_lists, bucket=bucket), parts))
    texts = EventTexts.join(lists, order, events["records"].to_numpy(), threads)
    patients = events.with_row_index("row").group_by("subject_id", maintain_order=True)
    subjects = list(patients.agg(pl.col("row").first(), pl.len().alias("events")).iter_rows())
    return events, subjects, texts


def digest_trajectories(
    events: pl.DataFrame,
    subjects: Sequence[tuple[int, int, int]],
    lists: EventTexts,
    objects: ObjectKeys,
    threads: Executor,
) -> int:
    """A digest of every value of trajectories: the events, and the records of each patient as JSON objects.

    The digests of patients are added up, so that neither the layout nor the number of buckets matters.
    """
    about, starts = event_tuples(events)

    def add_up(part: Sequence[tuple[int, int, int]]) -> int:
        total = 0
        for subject_id, first, number in part:
            end = first + number
            content = hashlib.sha256(f"{subject_id}[".encode())
            content.update(about[starts[first] : starts[end] - len(", ")])
            content.update(b"]")
            content.update(objects.write(lists, slice(first, end)).text)
            total += int(content.hexdigest()[:32], 16)
        return total

    parts = [subjects[start : start + PATIENTS_AT_ONCE] for start in range(0, len(subjects), PATIENTS_AT_ONCE)]
    return sum(threads.map(add_up, parts)) % 2**128


def event_tuples(events: pl.DataFrame) -> tuple[memoryview, np.ndarray]:
    """The values of each event as Python writes a tuple, and ", ": all of them, and where each begins.

    >>> import polars as pl
    >>> event = {"file_name": "omr", "starttime": "2150-01-01 00:00:00", "endtime": None, "hadm_id": "7", "records": 2}
    >>> bytes(event_tuples(pl.DataFrame([event], schema_overrides={"endtime": pl.String}))[0])
    b"('omr', '2150-01-01 00:00:00', None, '7', 2), "
    """
    import polars as pl

    def quoted(column: str) -> pl.Expr:
        return pl.concat_str(pl.lit("'"), column, pl.lit("'")).fill_null("None")

    hadm_ids = events["hadm_id"].drop_nulls().unique().to_list()
    hadm_id = pl.col("hadm_id").replace(dict(zip(hadm_ids, map(repr, hadm_ids), strict=True))).fill_null("None")
    values = (quoted("file_name"), quoted("starttime"), quoted("endtime"), hadm_id, pl.col("records").cast(pl.String))
    tuples = events.select(pl.concat_str(pl.lit("("), pl.concat_str(values, separator=", "), pl.lit("), "))).to_series()
    starts, data, _ = block_of(tuples.rechunk().to_arrow())
    return memoryview(data), starts


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
