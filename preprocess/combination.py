"""Ordered records → trajectories of events. Step 3 of 3, after rank.py.

Consecutive records of one table become one event. `--layout shards` (default) writes few files for fast random access,
`--layout patient` one parquet file a patient, as the released dataset has it. Run it several times at once and the
processes share the buckets. `provenance.json` beside the trajectories says what they were made from.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EVENTS, EventType
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.trajectory import COLUMNS, PROVENANCE, write_patient, write_shard, write_subjects
from pipeline.cli import Parser, run
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary, progress
from pipeline.provenance import git_revision
from pipeline.work import share_work
from preprocess.merge_patient import claim_folder
from preprocess.rank import TABLE_NUMBERS, check_counts, read_manifest

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--input_path", default="patients_sorted", help="folder that rank.py wrote")
    cli.add_path("--output_path", default="patients_ehr", help="folder for the trajectories")
    cli.add_argument("--layout", choices=tuple(LAYOUTS), default="shards", help="shards: few files; patient: one each")
    args = cli.parse_args(argv)
    summary = Summary("combination")
    manifest = read_manifest(args.input_path, "rank.py")
    buckets = manifest["options"]["buckets"]
    claim_folder(args.output_path, {"input": manifest["digest"], "layout": args.layout}, "--output_path")
    write = LAYOUTS[args.layout]
    columns = {name: record_columns(EVENTS[name], names) for name, names in manifest["columns"].items()}

    def report(bucket: int) -> Path:
        return args.output_path / ".buckets" / f"{bucket:05d}.json"

    with progress(total=buckets, desc="combination", unit="bucket") as bar:

        def combine(bucket: int) -> None:
            path = args.input_path / f"bucket-{bucket:05d}.arrow"
            counts, events, subjects, content = combine_bucket(path, columns if args.layout == "shards" else {})
            write(events, subjects, args.output_path, bucket)
            write_json(report(bucket), {"counts": counts, "subjects": subjects, "digest": f"{content:x}"})
            bar.update()

        share_work(range(buckets), lambda bucket: report(bucket).exists(), combine, args.output_path / ".locks")

    reports = [read_json(report(bucket)) for bucket in range(buckets)]
    total = check_counts(manifest["rows"], [entry["counts"] for entry in reports], "combination")
    subjects = [(*subject, bucket) for bucket, entry in enumerate(reports) for subject in entry["subjects"]]
    if args.layout == "shards":
        places = [(subject, shard, first, events) for subject, first, events, shard in subjects]
        write_subjects(args.output_path, places, columns)
    events = sum(events for _, _, events, _ in subjects)
    content = sum(int(entry["digest"], 16) for entry in reports) % 2**128
    write_json(
        args.output_path / PROVENANCE,
        {
            "digest": f"{content:032x}",
            "mimic_release": manifest["release"],
            "patients": len(subjects),
            "events": events,
            "rows": manifest["rows"],
            "sources": manifest["options"]["sources"],
            "options": {"layout": args.layout, "buckets": buckets},
            "code": git_revision(),
            "data_use": DATA_USE,
        },
    )
    summary.print(f"{total:,} records → {events:,} events of {len(subjects):,} patients in {args.output_path}", total)


def record_columns(event: EventType, columns: Sequence[str]) -> list[str]:
    """The columns of a table's records: the file's own, and the `charttime` that rank.py gives some.

    >>> record_columns(EVENTS["triage"], ["subject_id", "stay_id"])
    ['subject_id', 'stay_id', 'charttime']
    """
    return list(dict.fromkeys([*columns, *(["charttime"] if event.stay_time else [])]))


def combine_bucket(
    path: Path, columns: dict[str, list[str]]
) -> tuple[dict[str, int], pa.Table, list[tuple[int, int, int]], int]:
    """Group an ordered bucket into events.

    Args:
        columns: columns of each table's records; their names are taken out of the records, whose objects become lists
            of values. Empty: the records stay objects.

    Returns:
        records per table; the events, `COLUMNS`; for each patient (subject_id, first event, number of events); and a
        number that names the content, whatever the layout.
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
        pl.col("item").str.len_bytes().sum().alias("bytes"),
    )
    events = events.with_columns(file_name=names.gather(events["file_name"]))
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
    counts = dict(events.group_by("file_name").agg(pl.col("records").sum()).iter_rows())
    patients = events.with_row_index("row").group_by("subject_id", maintain_order=True)
    subjects = list(patients.agg(pl.col("row").first(), pl.len().alias("events")).iter_rows())
    table = events.select(COLUMNS[:-1]).to_arrow()
    table = table.append_column("items", join_runs(items, events["records"].to_list()))
    content = digest(events.select(*COLUMNS[:-1], "records", "bytes").rows(), subjects)
    return counts, table, subjects, content


def in_parallel(values: pl.Series, expression: pl.Expr) -> pl.Series:
    """An element-wise expression over a series, a slice a thread: polars runs one expression in one thread."""
    import polars as pl

    size = max(1, -(-len(values) // pl.thread_pool_size()))
    slices = [values.slice(start, size).to_frame().lazy().select(expression) for start in range(0, len(values), size)]
    return pl.concat(pl.collect_all(slices)).to_series() if slices else values


def without_names(columns: dict[str, list[str]]) -> dict[str, str]:
    """Replacements that turn a record's JSON object into a list of its values, without its `file_name`.

    Inside a value a quotation mark is escaped, so these patterns match between values only.

    >>> text = '{"a":"1","b":"{\\\\"a\\\\":2","file_name":"omr"}'
    >>> pl = __import__("polars")
    >>> pl.Series([text]).str.replace_many(without_names({"omr": ["a", "b"]})).item()
    '["1","{\\\\"a\\\\":2"]'
    """
    patterns = {}
    for table, names in columns.items():
        patterns[f'{{"{names[0]}":'] = "["
        patterns |= {f',"{name}":': "," for name in names[1:]}
        patterns[f',"file_name":"{table}"}}'] = "]"
    return patterns


def join_runs(texts: pl.Series, lengths: Sequence[int]) -> pa.Array:
    """Join consecutive texts, `lengths` at a time, without copying: the same bytes under fewer offsets.

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
    every = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    kept = every[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(kept.tobytes()), data)


def digest(events: Sequence[tuple], subjects: Sequence[tuple[int, int, int]]) -> int:
    """A number that names the trajectories' content: which events, when, of which admission, how many and long records.

    Patients' hashes are added, so that it depends neither on the layout nor on the number of buckets.
    """
    total = 0
    for subject_id, start, count in subjects:
        text = f"{subject_id}{events[start : start + count]}"
        total += int(hashlib.sha256(text.encode()).hexdigest()[:32], 16)
    return total % 2**128


def write_shards(events: pa.Table, subjects: Sequence[tuple[int, int, int]], folder: Path, bucket: int) -> None:
    """A bucket as one shard."""
    with atomic_path(folder / f"shard-{bucket:05d}.arrow") as temporary:
        write_shard(events, temporary, {"subjects": json.dumps([subject_id for subject_id, _, _ in subjects])})


def write_patients(events: pa.Table, subjects: Sequence[tuple[int, int, int]], folder: Path, bucket: int) -> None:
    """A bucket as one parquet file a patient."""
    for subject_id, start, count in subjects:
        with atomic_path(folder / f"{subject_id}.parquet") as temporary:
            write_patient(events.slice(start, count), temporary)


LAYOUTS = {"shards": write_shards, "patient": write_patients}

if __name__ == "__main__":
    run(main)
