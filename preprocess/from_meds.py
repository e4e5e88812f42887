"""MEDS (0.3 or 0.4) → trajectories, train/test split and a table of the codes, for all later commands.

--site says what MEDS does not (docs/own_data.md): which codes begin and end stays, which event each code becomes, which tasks
make no sense. Shards are streamed, some patients at a time; rank.py and combination.py then order and combine the records, and
split_patients.py splits the patients, as metadata/subject_splits.parquet says if it exists (its tuning patients train). An
interrupted run resumes; processes started on the same output, here (--num_workers) or elsewhere, share the shards.

Prints the events, the shares of rows without a rule, and which tasks the data support; the others are left out of the index.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS
from pipeline.cli import Parser, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, reading_parquet, require, write_json
from pipeline.progress import Summary, counted
from pipeline.provenance import Provenance, Source, content_of
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess import split_patients
from preprocess.parts import write_records
from preprocess.raw_tables import ROW
from preprocess.site_import import BUCKET_ROWS, add_import_flags, add_up, complete, run_later_steps
from preprocess.site_records import Codes, Counts, map_rows
from preprocess.sites import Site, read_site

if TYPE_CHECKING:
    import polars as pl

STEP, RULES = "preprocess/from_meds.py", 2
GROUP_CELLS = 4 << 20  # rows are mapped once they have so many values, and the patient is complete
BATCH_CELLS = 1 << 20
HELD_OUT = "held_out"  # the split of MEDS that is our test set


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--meds_dir", type=Path, required=True, help="MEDS data set, with data/ and metadata/")
    add_import_flags(cli, "scripts/sites/mimiciv_meds.yaml")
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("from_meds")
    site, shards = read_site(args.site), find_shards(args.meds_dir)
    check_columns(args.site, site, shards)
    output = args.root_dir / "patients"
    metadata = args.meds_dir / "metadata"
    digests = FileDigests(output / DIGESTS_CACHE, args.verify)
    raw = [Source(name, path, digests.of(path), is_ancestor=False, by="raw table") for name, path in shards.items()]
    files = {"site": args.site, "codes": metadata / "codes.parquet", "splits": metadata / "subject_splits.parquet"}
    described = [content_of(name, path) for name, path in files.items() if path.exists()]
    settings = {"buckets": args.buckets or max(1, round(count_rows(shards) / BUCKET_ROWS))}
    provenance = Provenance(output, STEP, [*described, *raw], settings, RULES, cli.arguments, flag="--root_dir")
    if provenance.begin(args.overwrite, args.verify):
        importer = Import(output, site, files["codes"], settings["buckets"])
        units = [
            Unit(f"shard-{number:05d}", importer.report(number).exists, partial(importer.read, number, path))
            for number, path in enumerate(shards.values())
        ]
        run_units(units, output / ".locks", workers=workers, total=count_rows(shards), desc="from_meds", unit="row")
        reports = [read_json(importer.report(number)) for number in range(len(shards))]
        check_subjects(args.meds_dir, reports)
        write_held_out(output / f"{HELD_OUT}.csv", files["splits"], reports)
        release = release_of(metadata / "dataset.json")
        complete(provenance, site, importer.codes, add_up(reports), raw, args.index_mapping, release)
    held_out = output / f"{HELD_OUT}.csv"
    patients, events = run_later_steps(
        args.root_dir,
        args.index_mapping,
        workers=workers.flags,
        rerun=[flag for flag, given in (("--overwrite", args.overwrite), ("--verify", args.verify)) if given],
        split=["--test_from", str(held_out), "--test_ratio", "0"] if held_out.exists() else [],
    )
    rows = count_rows(shards)
    summary.print(
        f"{rows:,} rows → {counted(events, 'event')} of {counted(patients, 'patient')} in {args.root_dir}", rows, "rows"
    )


# --- the data set


def find_shards(meds_dir: Path) -> dict[str, Path]:
    """The files of a MEDS data set, by their path below `data/`."""
    fix = "set --meds_dir to the directory that contains data/ and metadata/"
    data = require(meds_dir / "data", "the shards of a MEDS data set", fix)
    shards = {path.relative_to(data).as_posix(): path for path in sorted(data.rglob("*.parquet"))}
    if not shards:
        raise UserError(f"{data}: expected parquet files, got none. {fix[:1].upper()}{fix[1:]}.")
    return shards


def check_columns(path: Path, site: Site, shards: Mapping[str, Path]) -> None:
    """Check that all shards have the columns of MEDS, and those that the site reads, with values that can be text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scalar = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal,
              pa.types.is_boolean, pa.types.is_dictionary)  # fmt: skip
    for shard in shards.values():
        with reading_parquet(shard):
            schema = pq.read_schema(shard)
        missing = [name for name in ("subject_id", "time", "code") if name not in schema.names]
        if missing:
            got = ", ".join(schema.names[:6])
            raise UserError(f"{shard}: expected the columns of MEDS 0.3 or later ({missing[0]}), got {got}. Convert the data.")
        if not pa.types.is_timestamp(schema.field("time").type) or schema.field("time").type.tz:
            raise UserError(
                f"{shard}: expected times without a time zone in column time, got {schema.field('time').type}. Convert them."
            )
        for name, where in site.sources.items():
            if name not in schema.names:
                got = ", ".join(name for name in schema.names if name not in ("subject_id", "time", "code"))
                raise UserError(f"{path}: {where}: expected a column of {shard}, got {name}. Choose one of {got}.")
            type_of_values = schema.field(name).type
            if not any(is_type(type_of_values) for is_type in scalar):
                expected = "a column of texts, numbers or times"
                raise UserError(f"{path}: {where}: expected {expected}, got {type_of_values}. Choose another.")


def count_rows(shards: Mapping[str, Path]) -> int:
    """The rows of all shards, from their metadata."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in shards.values())


def read_metadata(path: Path, *columns: str) -> list[list[Any]]:
    """The values of some columns of a file of `metadata/`.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    import pyarrow.parquet as pq

    with reading_parquet(path):
        names = pq.read_schema(path).names
        if missing := [name for name in columns if name not in names]:
            raise UserError(f"{path}: expected the column {missing[0]}, got {', '.join(names)}. Add it, or remove the file.")
        table = pq.read_table(path, columns=list(columns))
    return [table[name].to_pylist() for name in columns]


def release_of(path: Path) -> str:
    """Name and version of a MEDS data set."""
    about = read_json(path) if path.exists() else {}
    if not isinstance(about, dict):
        raise UserError(f"{path}: expected a JSON object, got another value. Fix or remove the file.")
    return " ".join(str(about[key]) for key in ("dataset_name", "dataset_version") if about.get(key)) or "unknown"


# --- its rows


@dataclass(frozen=True)
class Import:
    """An import: the directory of the bucketed tables, the site, the file of the codes' names, and the number of buckets."""

    output: Path
    site: Site
    codes_file: Path
    buckets: int

    @cached_property
    def codes(self) -> Codes:
        names: dict[str, str] = {}
        if self.codes_file.exists():
            codes, descriptions = read_metadata(self.codes_file, "code", "description")
            names = {code: name for code, name in zip(codes, descriptions, strict=True) if name}
        return Codes(self.site, names)

    def report(self, number: int) -> Path:
        """The file that says that a shard was read, and what was counted."""
        return self.output / ".shards" / f"{number:05d}.json"

    def read(self, number: int, path: Path, tick: Tick) -> None:
        """Map the rows of a shard, and write the parts of the tables; then the report."""
        counts, subjects = Counts(), set()
        for part, rows in enumerate(patient_groups(path, ("subject_id", "time", "code", *self.site.sources))):
            new = rows["subject_id"].unique().to_list()
            if min(new) < 0 or not subjects.isdisjoint(new):
                expected = "the rows of each patient together, with ids from 0"
                raise UserError(
                    f"{path}: expected {expected}, got them apart, or a negative id. Sort the rows by subject_id and time."
                )
            subjects.update(new)
            for name, frame in map_rows(self.site, rows, self.codes, counts).items():
                folder = self.output / EVENTS[name].module / name
                with atomic_path(folder / f"part-{number:05d}-{part:05d}.arrow") as temporary:
                    write_records(temporary, EVENTS[name], frame, self.buckets)
            tick(len(rows))
        write_json(self.report(number), vars(counts) | {"subjects": sorted(subjects)})


def patient_groups(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of a shard, those of a patient together, in groups of about `GROUP_CELLS`. `ROW` numbers them.

    Raises:
        UserError: the shard cannot be read, or the id of a patient is no whole number.
    """
    import polars as pl
    import pyarrow.parquet as pq

    columns, rest, start = list(dict.fromkeys(columns)), [], 0
    with reading_parquet(path), pq.ParquetFile(path) as shard:
        for batch in shard.iter_batches(max(1, BATCH_CELLS // len(columns)), columns=columns):
            frame = pl.from_arrow(batch).with_row_index(ROW, start)
            frame = frame.with_columns(pl.col(ROW).cast(pl.Int64), pl.col("subject_id").cast(pl.Int64, strict=False))
            if wrong := frame["subject_id"].null_count():
                got = f"others in {wrong:,} of rows {start + 1:,} to {start + len(frame):,}"
                raise UserError(f"{path}: expected whole numbers in column subject_id, got {got}. Number the patients.")
            start += len(frame)
            rest.append(frame.with_columns(pl.col("code").cast(pl.String)))
            if sum(map(len, rest)) * len(columns) >= GROUP_CELLS:
                rows = pl.concat(rest)
                last = rows["subject_id"] == rows["subject_id"][-1]
                if not last.all():
                    yield rows.filter(~last)
                rest = [rows.filter(last)]
    rows = pl.concat(rest) if rest else None
    if rows is not None and len(rows):
        yield rows


# --- the results


def check_subjects(meds_dir: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Check that each patient is in one shard only."""
    subjects = [subject for report in reports for subject in report["subjects"]]
    if repeated := len(subjects) - len(set(subjects)):
        raise UserError(
            f"{meds_dir}: expected each patient in one shard, got {repeated:,} in several. Shard the data by patient."
        )


def write_held_out(path: Path, splits: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write the patients of the test set, if the data say which they are and they have rows."""
    if splits.exists():
        known = {subject for report in reports for subject in report["subjects"]}
        pairs = zip(*read_metadata(splits, "subject_id", "split"), strict=True)
        if held_out := sorted(subject for subject, split in pairs if split == HELD_OUT and subject in known):
            split_patients.write_ids(path, [str(subject) for subject in held_out])


if __name__ == "__main__":
    run(main)
