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
import gzip
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, atomic_path, read_json, write_json
from pipeline.progress import Summary
from pipeline.work import ONE_PROCESS, Tick, Unit, Workers, run_units

if TYPE_CHECKING:
    import polars as pl


MAX_PATIENTS = 400_000  # more would need ids of more than eight digits
TRUTH = "synthetic_truth"


@dataclass(frozen=True)
class Settings:
    """What to generate."""

    patients: int
    seed: int = 0
    compress: bool = True
    batch_size: int = 256  # patients that are drawn together, from random generators of their own

    @property
    def suffix(self) -> str:
        """End of the file names of tables."""
        return ".csv.gz" if self.compress else ".csv"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--output_path", default="mimiciv", help="directory for the tables; must be new or empty")
    cli.add_path("--index_mapping", default="index_mapping", help="directory for the code maps")
    cli.add_argument("--patients", type=at_least(1), default=200, help="number of patients, about 2,200 records each (200)")
    cli.add_argument("--seed", type=at_least(0), default=0, help="seed (0)")
    cli.add_argument("--gzip", action=argparse.BooleanOptionalAction, default=True, help="compress the tables (yes)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    settings = Settings(args.patients, args.seed, args.gzip)
    summary = Summary("synthetic_mimic")
    check_outputs(settings, args.output_path, args.index_mapping)

    from preprocess.synthetic.dictionaries import code_maps, dictionaries

    with atomic_dir(args.output_path) as folder:
        records = write_tables(folder, settings, workers)
        for name, dictionary in dictionaries().items():
            with open_table(folder / f"{name}{settings.suffix}") as file:
                file.write(dictionary.write_csv().encode())
    for name, code_map in code_maps().items():
        with atomic_path(args.index_mapping / f"{name}.csv") as path:
            code_map.write_csv(path)
    print("records per table: " + ", ".join(f"{name} {count:,}" for name, count in records.items()))
    total = sum(records.values())
    summary.print(f"{settings.patients:,} patients, {total:,} records in {args.output_path}", total)


def check_outputs(settings: Settings, output_path: Path, index_mapping: Path) -> None:
    """Refuse too many patients, and outputs that would overwrite something."""
    from preprocess.synthetic.dictionaries import code_maps

    if settings.patients > MAX_PATIENTS:
        raise UserError(f"--patients: expected at most {MAX_PATIENTS:,}, as ids have eight digits, got {settings.patients:,}.")
    if output_path.exists() and (not output_path.is_dir() or any(output_path.iterdir())):
        raise UserError(f"{output_path}: expected a new or empty directory, got one with files. Choose another --output_path.")
    for name, code_map in code_maps().items():
        path = index_mapping / f"{name}.csv"
        if path.exists() and path.read_text(encoding="utf-8") != code_map.write_csv():
            raise UserError(f"{path}: expected the synthetic code map or none, got another. Choose another --index_mapping.")


# --- tables


def batch_tables(settings: Settings, index: int, keep: int) -> dict[str, pl.DataFrame]:
    """The tables of the first `keep` patients of a batch, with their truth and causes."""
    from preprocess.synthetic import emergency, hospital, icu, laboratory, notes, orders, outcomes
    from preprocess.synthetic.batch import Batch

    batch = Batch(settings.seed, index, settings.batch_size, keep)
    tables: dict[str, pl.DataFrame] = {}
    for module in (hospital, orders, laboratory, notes, emergency, icu, outcomes):  # in this order: they share a generator
        tables |= module.make_tables(batch)
    return {name: batch.columns(name, table) for name, table in tables.items()}


def write_tables(folder: Path, settings: Settings, workers: Workers = ONE_PROCESS) -> dict[str, int]:
    """Write all tables below `folder`, batch by batch, so that memory does not grow with the patients.

    Returns:
        The number of records of each table.
    """
    from preprocess.synthetic.vocab import ALL_TABLES, TABLES

    parts = folder / ".parts"
    batches = [parts / f"{index:06d}" for index in range(-(-settings.patients // settings.batch_size))]
    units = [
        Unit(batch.name, batch.exists, partial(_write_batch, settings, index, batch)) for index, batch in enumerate(batches)
    ]
    run_units(units, parts / ".locks", workers=workers, total=settings.patients, desc="patients", unit="patient")
    suffixes = {TRUTH: ".csv"}  # others by `settings`
    paths = [folder / table.module / f"{name}{suffixes.get(name, settings.suffix)}" for name, table in ALL_TABLES.items()]
    units = [Unit(path.name, path.exists, partial(_merge_parts, batches, path)) for path in paths]
    run_units(units, parts / ".locks", workers=workers, desc="tables", unit="table")
    records = Counter()
    for batch in batches:
        records.update(read_json(batch / "records.json"))
    shutil.rmtree(parts)
    return {name: records[name] for name in TABLES}


def _write_batch(settings: Settings, index: int, path: Path, tick: Tick) -> None:
    """Write the tables of a batch as plain CSV files, in the first batch with headers, and their numbers of records."""
    keep = min(settings.batch_size, settings.patients - index * settings.batch_size)
    tables = batch_tables(settings, index, keep)
    with atomic_dir(path) as folder:
        write_json(folder / "records.json", {name: table.height for name, table in tables.items()})
        for name, table in tables.items():
            form = {"float_precision": 6, "line_terminator": "\r\n"} if name == TRUTH else {}
            out = folder / f"{name}.csv"
            table.write_csv(out, include_header=index == 0, datetime_format="%Y-%m-%d %H:%M:%S", **form)
    tick(keep)


def _merge_parts(batches: Sequence[Path], path: Path, tick: Tick) -> None:
    """Concatenate the parts of a table, one at a time."""
    with open_table(path) as file:
        for batch in batches:
            file.write((batch / path.name.removesuffix(".gz")).read_bytes())


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[IO[bytes]]:
    """A table to write to, gzipped if the name ends with `.gz`; the bytes depend on the content only."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as compressed:
                yield compressed
        else:
            yield file


if __name__ == "__main__":
    run(main)
