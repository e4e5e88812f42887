"""Raw MIMIC-IV tables → all-text files with the patients hashed into buckets. Step 1 of 3, before rank.py.

Each table is streamed once: its rows are checked, missing values, FLOAT columns, ids, codes and times are normalised
(docs/data.md), and each row goes to the bucket of its subject_id. The next steps hold one bucket in memory at a time, never a
whole table. The printed table has, for each raw table, the rows whose ids the tables that they refer to do not have.
The tables are shared by --num_workers processes, and by further runs of the same command on other machines. A raw table that
changed after it was read is refused; --overwrite reads all tables again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.cli import Parser, at_least, run
from pipeline.digests import DIGESTS_CACHE, FileDigests, stamp_of
from pipeline.errors import UserError
from pipeline.files import atomic_dir, read_json, write_json
from pipeline.progress import Summary, print_table, progress
from pipeline.provenance import Provenance, Source
from pipeline.records import folder_record, read_record
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess.parts import write_part
from preprocess.raw_tables import RawTable, find_tables, read_batches
from preprocess.raw_values import REFERENCES, Counts, Prepared, prepare, read_references, read_stays

if TYPE_CHECKING:
    import pyarrow as pa

STEP, RULES = "preprocess/merge_patient.py", 4
SOURCE_FILE = ".source.json"  # beside the parts of a table: digest of the raw file, and its size and times when it was read
BUCKET_BYTES = 128 << 20  # raw text per bucket; rank.py and combination.py need about twelve times that in memory
PART_BYTES = 24 << 20  # rows are collected up to about this size before they are distributed over the buckets and written
GZIP_RATIO = 10  # rough compression ratio of the files of MIMIC-IV; affects the number of buckets only
RELEASES = {299_712: "2.2", 364_627: "3.0 or 3.1", 100: "demo 2.2"}  # by number of patients, from PhysioNet's release notes
# Ids of MIMIC-IV are in the tables that they refer to, without exception in the demo; some may be missing where modules are of
# different releases. A larger share means that ids were changed, or that a table is not complete.
MAX_UNKNOWN = 0.01


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--mimic_dir", default="mimiciv", help="raw MIMIC-IV with hosp/, icu/, ed/, note/")
    cli.add_path("--output_path", default="patients", help="directory for the bucketed tables")
    cli.add_argument("--buckets", type=at_least(1), metavar="N", help="number of buckets (one per 128 MiB of raw text)")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("merge_patient")

    tables, warnings = find_tables(args.mimic_dir)
    for warning in warnings:
        print(f"warning: {warning}")
    outputs = {table.name: args.output_path / table.event.module / table.name for table in tables}
    started = {} if args.overwrite else (read_record(folder_record(args.output_path)) or {}).get("settings", {})
    buckets = args.buckets or started.get("buckets") or count_buckets(tables)
    sources = raw_sources(tables, {} if args.overwrite else outputs, args.output_path / DIGESTS_CACHE, args.verify)
    settings = {"buckets": buckets}
    provenance = Provenance(args.output_path, STEP, sources, settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify, unread=[source.name for source in sources]):
        return

    units = [
        Unit(table.name, outputs[table.name].is_dir, partial(merge_table, table, outputs[table.name], buckets))
        for table in sorted(tables, key=lambda table: -table.size)  # the largest first, so that workers end together
    ]
    total = sum(table.size for table in tables)
    run_units(units, args.output_path / ".locks", workers=workers, total=total, desc="merge_patient", unit="B")
    reports = {name: read_json(output / "table.json") for name, output in outputs.items()}
    rows = {name: report["rows"] for name, report in reports.items()}
    columns = {name: report["columns"] for name, report in reports.items()}
    sources = raw_sources(tables, outputs, args.output_path / DIGESTS_CACHE)
    results = {"mimic_release": RELEASES.get(rows["patients"], "unknown"), "rows": rows, "columns": columns}
    replace(provenance, sources=sources).complete(sources=raw_files(sources, outputs, args.output_path), **results)
    print_reports(tables, reports)
    records = sum(rows.values())
    summary.print(f"{records:,} records of {len(tables)} tables → {args.output_path}, {buckets} buckets", records)


def raw_sources(tables: Sequence[RawTable], outputs: Mapping[str, Path], cache: Path, verify: bool = False) -> list[Source]:
    """The raw tables with the digests that they had when they were read; None for those that were not read yet.

    Raises:
        UserError: the content of a table has changed since it was read.
    """
    digests, sources = FileDigests(cache, verify), []
    for table in progress(tables, desc="check raw tables", unit="table"):
        output, digest = outputs.get(table.name), None
        if output and (output / SOURCE_FILE).exists():  # version 0.1 wrote none: its output is refused by its record
            read = read_json(output / SOURCE_FILE)
            digest = read["sha256"]
            if (verify or read["stamp"] != stamp_of(table.path)) and digests.of(table.path) != digest:
                fix = "Add --overwrite to read all tables again, or choose another --output_path"
                raise UserError(f"{table.path}: expected the content that {output} was made from, got another. {fix}.")
        sources.append(Source(table.file_name, table.path, digest, is_ancestor=False, by="raw table"))
    return sources


def raw_files(sources: Sequence[Source], outputs: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """The raw tables for the records of this and the next steps: path relative to `folder`, digest, and stamp."""
    stamps = [read_json(output / SOURCE_FILE)["stamp"] for output in outputs.values()]
    paths = [os.path.relpath(source.path.resolve(), folder.resolve()) for source in sources]
    return {
        source.name: {"path": path, "digest": source.digest, "by": source.by, "stamp": stamp}
        for source, path, stamp in zip(sources, paths, stamps, strict=True)
    }


def count_buckets(tables: Sequence[RawTable]) -> int:
    """One bucket per `BUCKET_BYTES` of raw text; the size of a gzipped file is multiplied by `GZIP_RATIO`."""
    text = sum(table.size * (GZIP_RATIO if table.path.suffix == ".gz" else 1) for table in tables)
    return max(1, round(text / BUCKET_BYTES))


def merge_table(table: RawTable, output: Path, buckets: int, tick: Tick) -> None:
    """Stream a raw table into the directory `output`.

    It gets part files with one record batch per bucket, and `table.json` with the counts, and `SOURCE_FILE`.
    `tick` is called with the bytes of the raw file that were read.
    """
    stamp, digest = stamp_of(table.path), hashlib.sha256()
    references, stays = read_references(table), read_stays(table)
    counts = Counts(unknown=Counter(dict.fromkeys(references, 0)))
    rows, written, parts = 0, 0, 0

    def write(prepared: Prepared, part: int) -> int:
        path = folder / f"part-{part:05d}.arrow"
        return write_part(path, prepared.texts, prepared.keys(table.event), buckets, prepared.whole)

    # a part is written in a thread while the next one is parsed and checked
    with atomic_dir(output) as folder, ThreadPoolExecutor(1) as thread:
        pending = thread.submit(int)
        try:
            for batches in group_batches(read_batches(table.path, table.header, tick, digest)):
                prepared = prepare(table, batches, rows, counts, references, stays)
                rows, parts = rows + sum(batch.num_rows for batch in batches), parts + 1
                del batches  # free the memory before the next part is read
                written += pending.result()
                pending = thread.submit(write, prepared, parts - 1)
                del prepared
        finally:
            written += pending.result()
        if rows != written:
            raise RuntimeError(f"{table.path}: {rows} rows read, {written} rows written")
        if stamp != stamp_of(table.path):
            raise UserError(f"{table.path}: expected a file that does not change while it is read, got another. Run it again.")
        write_json(folder / SOURCE_FILE, {"stamp": stamp, "sha256": digest.hexdigest()})
        report = {"rows": rows, "written": written, "parts": parts, "columns": list(table.columns)}
        write_json(folder / "table.json", report | vars(counts))


def group_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield lists of consecutive batches of about `PART_BYTES`."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(each.nbytes for each in group) >= PART_BYTES:
            yield group
            group = []
    if group:
        yield group


def print_reports(tables: Sequence[RawTable], reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the counts of each table, and warnings about what was changed or looks wrong."""
    lines, warnings = [], []
    for table in tables:
        report = reports[table.name]
        unknown = {column: report["unknown"].get(column) for column in REFERENCES}
        lines.append((table.name, report["rows"], report["written"], *unknown.values()))
        for column, rows in unknown.items():
            if rows and rows > MAX_UNKNOWN * report["ids"][column]:
                other = "/".join(REFERENCES[column][table.event.module])
                got = f"got {rows:,} of {report['ids'][column]:,} that {other} does not have"
                fix = "Check that both tables are complete and of the same release"
                warnings.append(f"{table.path}: expected known values of {column}, {got}. {fix}.")
        if report["rewritten"]:
            columns = ", ".join(f"{column} ({rows:,})" for column, rows in report["rewritten"].items())
            warnings.append(f"{table.path}: rewrote values that another tool has changed (docs/data.md): {columns}.")
        if numbers := [column.split()[-1] for column, rows in report["unnamed"].items() if rows]:
            warnings.append(f"{table.path}: dropped row numbers in column {', '.join(numbers)}, which has no name.")
    print_table(["table", "rows read", "rows written", *(f"unknown\n{column}" for column in REFERENCES)], lines)
    for warning in warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    run(main)
