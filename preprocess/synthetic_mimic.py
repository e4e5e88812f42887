"""Generate a synthetic MIMIC-IV: all tables of hosp, icu, ed and note for N made-up patients, to try everything without data.

The patients have structure to learn from: a condition drives each visit's records, and every risk outcome is drawn from
indicators that the records show. docs/synthetic.md describes them. The same seed gives the same bytes, and patient k is
the same for any number of patients. Writes

  OUTPUT_PATH/{hosp,icu,ed,note}/*.csv[.gz]   the tables and dictionaries, in MIMIC-IV 2.2's columns
  OUTPUT_PATH/synthetic_truth.csv             the probability each outcome was drawn with: the predictions of a perfect model
  OUTPUT_PATH/synthetic_causes.csv[.gz]       what each probability is made of, and where the records show it
  INDEX_MAPPING/hosp/d_{ccs,atc}_*.csv        code maps, which MIMIC-IV itself does not have
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import contextlib
import csv
import gzip
import io
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.work import Tick, Unit, run_units

if TYPE_CHECKING:
    import polars as pl

    from preprocess.synthetic.dictionaries import Dictionary

MAX_PATIENTS = 400_000
"""Beyond this number, ids would have more than eight digits."""
TRUTH, CAUSES = "synthetic_truth", "synthetic_causes"


@dataclass(frozen=True)
class Settings:
    """What to generate.

    Attributes:
        patients: number of patients.
        seed: of the random generators.
        compress: whether tables are gzipped.
        batch_size: patients that are drawn together, from random generators of their own.
    """

    patients: int
    seed: int = 0
    compress: bool = True
    batch_size: int = 256


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--output_path", default="mimiciv", help="directory for the tables; must be new or empty")
    cli.add_path("--index_mapping", default="index_mapping", help="directory for the code maps")
    cli.add_argument("--patients", type=at_least(1), default=200, help="number of patients, about 2,200 records each (200)")
    cli.add_argument("--seed", type=at_least(0), default=0, help="seed (0)")
    cli.add_argument("--gzip", action=argparse.BooleanOptionalAction, default=True, help="compress the tables (yes)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    settings = Settings(args.patients, args.seed, args.gzip)
    summary = Summary("synthetic_mimic")
    check_outputs(settings, args.output_path, args.index_mapping)

    from preprocess.synthetic.dictionaries import code_maps, dictionaries

    with atomic_dir(args.output_path) as folder:
        records = write_tables(folder, settings, args.num_workers)
        for dictionary in dictionaries():
            with open_table(folder / f"{dictionary.path}.csv", settings.compress) as file:
                file.write(csv_text(dictionary).encode())
    for code_map in code_maps():
        with atomic_path(args.index_mapping / f"{code_map.path}.csv") as path:
            path.write_text(csv_text(code_map), encoding="utf-8", newline="")
    print("records per table: " + ", ".join(f"{name} {count:,}" for name, count in records.items()))
    total = sum(records.values())
    summary.print(f"{settings.patients:,} patients, {total:,} records in {args.output_path}", total)


def check_outputs(settings: Settings, output_path: Path, index_mapping: Path) -> None:
    """Refuse what cannot be made, and outputs that would overwrite something.

    Raises:
        UserError: too many patients, a directory that is not empty, or code maps from elsewhere.
    """
    from preprocess.synthetic.dictionaries import code_maps

    if settings.patients > MAX_PATIENTS:
        raise UserError(f"--patients: expected at most {MAX_PATIENTS:,}, as ids have eight digits, got {settings.patients:,}.")
    if output_path.exists() and (not output_path.is_dir() or any(output_path.iterdir())):
        raise UserError(f"{output_path}: expected a new or empty directory, got one with files. Choose another --output_path.")
    for code_map in code_maps():
        path = index_mapping / f"{code_map.path}.csv"
        if path.exists() and path.read_text(encoding="utf-8") != csv_text(code_map).replace("\r\n", "\n"):
            raise UserError(f"{path}: expected the synthetic code map or none, got another. Choose another --index_mapping.")


# --- tables


@dataclass(frozen=True)
class BatchJob:
    """Writes the tables of one batch as plain CSV files, the parts of the final tables.

    Attributes:
        parts: directory for the parts of all batches.
        index: number of the batch; the first has the headers.
    """

    settings: Settings
    parts: Path
    index: int

    @property
    def folder(self) -> Path:
        return self.parts / f"{self.index:06d}"

    def write(self, tick: Tick) -> None:
        """Write one CSV for each table, and the numbers of records."""
        keep = min(self.settings.batch_size, self.settings.patients - self.index * self.settings.batch_size)
        tables = batch_tables(self.settings, self.index, keep)
        with atomic_dir(self.folder) as folder:
            write_json(folder / "records.json", {name: table.height for name, table in tables.items()})
            for name, table in tables.items():
                table.write_csv(
                    folder / f"{name}.csv",
                    include_header=self.index == 0,
                    datetime_format="%Y-%m-%d %H:%M:%S",
                    float_precision=6 if name == TRUTH else None,
                    line_terminator="\r\n" if name == TRUTH else "\n",
                )
        tick(keep)


@dataclass(frozen=True)
class TableJob:
    """Concatenates the parts of one table.

    Attributes:
        path: of the table, without `.gz`.
    """

    path: Path
    parts: tuple[Path, ...]
    compress: bool

    def done(self) -> bool:
        return _table_path(self.path, self.compress).exists()

    def write(self, tick: Tick) -> None:
        """Write the table, one part at a time."""
        with open_table(self.path, self.compress) as file:
            for part in self.parts:
                file.write((part / self.path.name).read_bytes())


def batch_tables(settings: Settings, index: int, keep: int) -> dict[str, pl.DataFrame]:
    """The tables of the first `keep` patients of a batch, with their truth and causes."""
    from preprocess.synthetic.batch import Batch
    from preprocess.synthetic.emergency import emergency_tables
    from preprocess.synthetic.hospital import hospital_tables
    from preprocess.synthetic.icu import icu_tables
    from preprocess.synthetic.laboratory import laboratory_tables
    from preprocess.synthetic.notes import note_tables
    from preprocess.synthetic.orders import order_tables
    from preprocess.synthetic.outcomes import truth_tables

    batch = Batch(settings.seed, index, settings.batch_size, keep)
    tables: dict[str, pl.DataFrame] = {}
    for make in (hospital_tables, order_tables, laboratory_tables, note_tables, emergency_tables, icu_tables):
        tables |= make(batch)  # in this order, as all draw from one generator
    tables = {name: batch.columns(name, table) for name, table in tables.items()}
    tables[TRUTH], tables[CAUSES] = truth_tables(batch)
    return tables


def write_tables(folder: Path, settings: Settings, num_workers: int = 1) -> dict[str, int]:
    """Write all tables below `folder`, batch by batch, so that memory does not grow with the patients.

    Returns:
        The number of records of each table.
    """
    from preprocess.synthetic.vocab import ALL_TABLES, TABLES

    parts = folder / ".parts"
    locks = parts / ".locks"
    jobs = [BatchJob(settings, parts, index) for index in range(-(-settings.patients // settings.batch_size))]
    units = [Unit(job.folder.name, job.folder.exists, job.write) for job in jobs]
    run_units(units, locks, num_workers=num_workers, total=settings.patients, desc="patients", unit="patient")
    paths = [folder / table.module / f"{table.name}.csv" for table in ALL_TABLES.values()]
    folders = tuple(job.folder for job in jobs)
    tables = [TableJob(path, folders, settings.compress) for path in (*paths, folder / f"{CAUSES}.csv")]
    tables.append(TableJob(folder / f"{TRUTH}.csv", folders, False))
    units = [Unit(job.path.stem, job.done, job.write) for job in tables]
    run_units(units, locks, num_workers=num_workers, desc="tables", unit="table")
    records = Counter()
    for job in jobs:
        records.update(read_json(job.folder / "records.json"))
    shutil.rmtree(parts)
    return {name: records[name] for name in TABLES}


def _table_path(path: Path, compress: bool) -> Path:
    return path.with_name(f"{path.name}.gz") if compress else path


@contextlib.contextmanager
def open_table(path: Path, compress: bool) -> Iterator[IO[bytes]]:
    """A table to write to; gzipped, with `.gz` added to `path`, if `compress`. The bytes depend on the content only."""
    with atomic_path(_table_path(path, compress)) as temporary, temporary.open("wb") as file:
        if compress:
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as compressed:
                yield compressed
        else:
            yield file


def csv_text(dictionary: Dictionary) -> str:
    """A small table as CSV, rows without repeats."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(dictionary.columns)
    writer.writerows(dict.fromkeys(tuple(row) for row in dictionary.rows))
    return file.getvalue()


if __name__ == "__main__":
    run(main)
