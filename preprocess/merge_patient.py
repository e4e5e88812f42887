"""Raw MIMIC-IV tables → all-text files, patients hashed into buckets. Step 1 of 3; then rank.py, combination.py.

Each table is streamed once. Its rows are checked, missing values and FLOAT columns are normalised, and every patient's
rows go to the bucket of its subject_id, so that the next steps need one bucket in memory, never a table.
Run it several times at once, on one machine or many that share the folder, and the processes share the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import json
import re
from collections.abc import Sequence

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, read_json, write_json
from pipeline.progress import Summary, progress
from pipeline.work import share_work
from preprocess.raw_tables import RawTable, find_tables, prepare, read_batches

BUCKET_BYTES = 128 << 20
"""Raw text a bucket should hold; rank.py and combination.py need about twelve times that in memory."""

PART_BYTES = 48 << 20
"""Rows are collected to about this size before they are distributed over the buckets and written."""

GZIP_RATIO = 10
"""How much smaller MIMIC-IV's files are compressed, roughly; decides only the number of buckets."""

RELEASES = {299_712: "2.2", 364_627: "3.0 or 3.1", 100: "demo 2.2"}
"""MIMIC-IV release by number of patients, from PhysioNet's release notes."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV with hosp/, icu/, ed/, note/")
    cli.add_path("--output_path", default="patients", help="folder for the bucketed tables")
    cli.add_argument("--buckets", type=int, help="number of buckets (by default one for every 128 MiB of raw text)")
    args = cli.parse_args(argv)
    summary = Summary("merge_patient")

    tables, warnings = find_tables(args.mimic_dir)
    for warning in warnings:
        print(f"warning: {warning}")
    sizes = {table.name: table.path.stat().st_size for table in tables}
    buckets = args.buckets or count_buckets(tables)
    if buckets < 1:
        raise UserError(f"--buckets {buckets}: wanted at least 1")
    options = {
        "buckets": buckets,
        "sources": {f"{t.event.module}/{t.path.name}": sizes[t.name] for t in tables},
    }
    claim_folder(args.output_path, options, "--output_path")

    with progress(total=sum(sizes.values()), desc="merge_patient", unit="B") as bar:
        share_work(
            tables,
            done=lambda table: table_dir(args.output_path, table).is_dir(),
            do=lambda table: merge_table(table, table_dir(args.output_path, table), buckets, bar),
            locks=args.output_path / ".locks",
            name=lambda table: table.name,
        )
    done = {t.name: read_json(table_dir(args.output_path, t) / "table.json") for t in tables}
    rows = {name: entry["rows"] for name, entry in done.items()}
    manifest = {
        "release": guess_release(args.mimic_dir, rows["patients"]),
        "options": options,
        "rows": rows,
        "columns": {name: entry["columns"] for name, entry in done.items()},
    }
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    write_json(args.output_path / "manifest.json", manifest)
    print(f"{'table':<20}{'rows read':>14}{'rows written':>14}")
    for name, entry in done.items():
        print(f"{name:<20}{entry['rows']:>14,}{entry['written']:>14,}")
    total = sum(rows.values())
    summary.print(f"{total:,} records of {len(tables)} tables → {args.output_path}, {buckets} buckets", total)


def count_buckets(tables: Sequence[RawTable]) -> int:
    """One bucket for every `BUCKET_BYTES` of raw text; compressed files count `GZIP_RATIO` times."""
    text = sum(t.path.stat().st_size * (GZIP_RATIO if t.path.suffix == ".gz" else 1) for t in tables)
    return max(1, round(text / BUCKET_BYTES))


def bucket_of(subject_id: int, buckets: int) -> int:
    """The bucket of a patient: Knuth's multiplicative hash, so that runs of ids spread evenly.

    >>> [bucket_of(10000000 + i, 4) for i in range(8)]
    [3, 1, 0, 2, 1, 3, 2, 0]
    """
    return (subject_id * 2654435761 % 2**32) * buckets >> 32


def table_dir(folder: Path, table: RawTable) -> Path:
    return folder / table.event.module / table.name


def claim_folder(folder: Path, options: dict, flag: str) -> None:
    """Write the options a folder is made with; a later run with others is an error, not a mixture."""
    path = folder / "options.json"
    if path.exists():
        if (found := read_json(path)) != options:
            differing = ", ".join(sorted(key for key in options if found.get(key) != options[key]))
            raise UserError(
                f"{folder}: wanted the same {differing} as when it was begun, found others; "
                f"remove the folder to begin again, or choose another {flag}"
            )
    elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(f"{folder}: wanted an empty folder or one this command began, found other files; choose another")
    write_json(path, options)


def merge_table(table: RawTable, output: Path, buckets: int, bar) -> None:
    """Stream one raw table into `output`: part files of one record batch a bucket, and `table.json` with the counts."""
    import polars as pl
    import pyarrow as pa

    with atomic_dir(output) as folder:
        rows = written = parts = 0
        pending: list[pa.RecordBatch] = []
        size = 0

        def flush() -> None:
            nonlocal rows, written, parts, size
            frame = pl.from_arrow(pa.Table.from_batches(pending))
            pending.clear()
            frame = prepare(table, frame, rows)
            rows += len(frame)
            written += write_part(frame, folder / f"part-{parts:05d}.arrow", buckets)
            parts, size = parts + 1, 0

        for batch in read_batches(table, bar.update):
            pending.append(batch)
            size += batch.nbytes
            if size >= PART_BYTES:
                flush()
        if pending:
            flush()
        if rows != written:
            raise RuntimeError(f"{table.path}: {rows} rows read, {written} written")
        write_json(folder / "table.json", {"rows": rows, "written": written, "parts": parts, "columns": list(table.columns)})


def write_part(frame, path: Path, buckets: int) -> int:
    """Write rows as an Arrow file of one record batch a bucket; returns how many were written."""
    import polars as pl
    import pyarrow as pa

    two32 = pl.lit(2**32, pl.UInt64)
    bucket = pl.col("subject_id").cast(pl.UInt64) * 2654435761 % two32 * buckets // two32  # as bucket_of
    frame = frame.with_columns(bucket.cast(pl.UInt32).alias("_bucket")).sort("_bucket", maintain_order=True)
    counts = frame["_bucket"].value_counts().sort("_bucket")
    sizes = dict(zip(counts["_bucket"].to_list(), counts["count"].to_list(), strict=True))
    arrow = frame.drop("_bucket").to_arrow().combine_chunks()
    start = 0
    with pa.ipc.new_file(path, arrow.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for bucket in range(buckets):
            piece = arrow.slice(start, sizes.get(bucket, 0)).combine_chunks()
            start += piece.num_rows
            batches = piece.to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=arrow.schema))
    return start


def guess_release(mimic_dir: Path, patients: int) -> str:
    """The MIMIC-IV release, from the folder's name or the number of patients; `unknown` otherwise."""
    named = re.search(r"mimic-?iv-?(demo-?)?(\d\.\d)", mimic_dir.resolve().as_posix(), re.IGNORECASE)
    if named:
        return f"{'demo ' if named.group(1) else ''}{named.group(2)}"
    return RELEASES.get(patients, "unknown")


if __name__ == "__main__":
    run(main)
