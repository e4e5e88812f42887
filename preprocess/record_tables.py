"""Tables of records → trajectories, for converters of own data (docs/new_site.md has an example).

A table has the records of an event of `mimiciv_dataset/events.py`, one per row: subject_id, the time, and further columns.
This module checks the values and brings them to the text of trajectories; rank.py and combination.py then order the records
and combine them into events, and split_patients.py splits the patients, as after an import of MEDS.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.events import COLUMN_KINDS, EVENTS, MISSING_TEXTS
from pipeline.cli import Parser
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.progress import Summary, counted, print_table
from pipeline.provenance import Provenance, Source
from pipeline.work import Tick, Unit, Workers, run_units
from preprocess import split_patients
from preprocess.merge_patient import BUCKET_BYTES, GZIP_RATIO
from preprocess.parts import write_records
from preprocess.raw_tables import ROW, TIME, TIME_FORMAT, parse_times, python_float
from preprocess.site_import import located, run_later_steps
from preprocess.site_records import DATE_FORMAT, clean_times, with_stay_time
from preprocess.site_tasks import left_out_tasks
from preprocess.sites import Site

if TYPE_CHECKING:
    import polars as pl


def add_converter_flags(cli: Parser) -> None:
    """Add the flags that converters share."""
    cli.add_num_workers()
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps, if there are any")
    cli.add_rerun_flags()


@dataclass(frozen=True)
class Converter:
    """How the tables of records of a data set are made.

    Attributes:
        step: the script, such as `scripts/sites/eicu.py`; also its name in records.
        rules: version of its rules, incremented when a change of the script alters the result.
        site: name and terms of use of the data, and the tasks that make no sense for them (`Site.left_out`).
        raw: the files that are read, by name.
        tables: the tables of records, by event. A process holds one of them in memory.
        test: the patients of the test set; None: `split_patients.py` decides.
    """

    step: str
    rules: int
    site: Site
    raw: Mapping[str, Path]
    tables: Mapping[str, pl.LazyFrame]
    test: Collection[str] | None = None

    @cached_property
    def buckets(self) -> int:
        """The number of buckets: one per `BUCKET_BYTES` of raw text."""
        text = sum(path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1) for path in self.raw.values())
        return max(1, round(text / BUCKET_BYTES))


def write_trajectories(
    converter: Converter,
    root_dir: Path,
    index_mapping: Path,
    *,
    arguments: Sequence[str],
    workers: Workers,
    overwrite: bool,
    verify: bool,
) -> None:
    """Write trajectories and the train/test split below `root_dir`. An interrupted run resumes.

    Args:
        index_mapping: directory of dictionaries and code maps, if there are any.
        arguments: the command line of the converter, for the record.
        workers: the processes that share the tables, and then the buckets.
        overwrite, verify: as for `Provenance.begin`.

    Raises:
        UserError: a table lacks a column that orders its records, or has values that are no times or ids.
    """
    summary = Summary(Path(converter.step).stem)
    output = root_dir / "patients"
    digests = FileDigests(output / DIGESTS_CACHE, verify)
    raw = [Source(name, path, digests.of(path), is_ancestor=False, by="raw table") for name, path in converter.raw.items()]
    settings = {"buckets": converter.buckets}
    provenance = Provenance(output, converter.step, raw, settings, converter.rules, arguments, flag="--root_dir")
    if provenance.begin(overwrite, verify):
        reports = {name: output / ".tables" / f"{name}.json" for name in EVENTS if name in converter.tables}
        write = partial(write_table, converter, output)
        units = [Unit(name, report.exists, partial(write, name, report)) for name, report in reports.items()]
        run_units(units, output / ".locks", workers=workers, desc="tables", unit="table")
        values = {name: read_json(report) for name, report in reports.items()}
        rows = {name: of_table[ROW] for name, of_table in values.items()}
        print_table(("event", "records"), list(rows.items()))
        provenance.complete(
            sources={source.name: located(source, output) for source in raw},
            mimic_release=converter.site.name,
            rows=rows,
            columns={name: [column for column in of_table if column != ROW] for name, of_table in values.items()},
            site={
                "name": converter.site.name,
                "left_out": left_out_tasks(converter.site, values),
                "data_use": converter.site.data_use,
            },
        )
    split = []
    if converter.test is not None:
        split = ["--test_ratio", "0"]
        if converter.test:
            held_out = root_dir / "patient_data/held_out.csv"
            split_patients.write_ids(held_out, sorted(converter.test, key=int))
            split += ["--test_from", str(held_out)]
    rerun = [flag for flag, given in (("--overwrite", overwrite), ("--verify", verify)) if given]
    patients, events = run_later_steps(root_dir, index_mapping, workers=workers.flags, rerun=rerun, split=split)
    summary.print(f"{counted(events, 'event')} of {counted(patients, 'patient')} in {root_dir}", events, "events")


def write_table(converter: Converter, output: Path, name: str, report: Path, tick: Tick) -> None:
    """Write a table into buckets, and then the report: the numbers of records, and of the values of each column."""
    frame, event = prepare(name, collect(name, converter.tables[name])), EVENTS[name]
    if len(frame):
        stays = event.stay_time and converter.tables.get("edstays")
        edstays = None if stays is None else prepare("edstays", collect("edstays", stays))
        with atomic_path(output / event.module / name / "part-00000.arrow") as temporary:
            write_records(temporary, event, with_stay_time(event, frame, edstays), converter.buckets)
    write_json(report, {column: frame[column].count() for column in frame.columns if column != TIME})


def collect(table: str, frame: pl.LazyFrame) -> pl.DataFrame:
    """A table of records, or of a file.

    Raises:
        UserError: a file lacks a column, has a value of another kind, or cannot be read. Polars would print such values.
    """
    import polars as pl

    try:
        return frame.collect()
    except pl.exceptions.ColumnNotFoundError as error:
        name = re.search(r'"(.+?)"|$', str(error))[1] or "such column"
        raise UserError(f"{table}: expected the columns that the converter reads, got no {name}. Check the files.") from None
    except pl.exceptions.InvalidOperationError as error:
        column = re.search(r"failed in column '(\w+)'", str(error))
        got = f"others in column {column[1]}" if column else "others"
        raise UserError(f"{table}: expected values of the types that the converter reads, got {got}. Fix the files.") from None
    except (pl.exceptions.ComputeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        got = "a truncated file, one that is not UTF-8, or a value of another type"
        raise UserError(f"{table}: expected files that the converter can read, got {got}. Check the files.") from None


def prepare(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The records of an event as text, with `ROW` and `TIME`; those of a patient keep their order where times are equal.

    Times and dates become text as in MIMIC-IV, columns of floats what Python writes, and texts that mean a missing value null.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"subject_id": [7], "charttime": ["2100-01-01T08:00"], "item_name": ["K"], "valuenum": [4]})
    >>> prepare("labevents", frame).drop(ROW, TIME).row(0)
    ('7', '2100-01-01 08:00:00', 'K', '4.0')
    """
    import polars as pl

    event = EVENTS[table]
    needed = {"subject_id", *event.tie} | ({event.time} if event.time else set()) | ({"stay_id"} if event.stay_time else set())
    if missing := sorted(needed.difference(frame.columns)):
        got = ", ".join(frame.columns)
        raise UserError(f"{table}: expected a column {missing[0]}, by which records are placed, got {got}. Add it.")
    columns = [as_text(column) for column in frame.get_columns()]
    for number, column in enumerate(columns):
        if column.name in event.floats:
            formatted = {text: python_float(text) for text in column.drop_nulls().unique()}
            columns[number] = column.replace(formatted) if formatted else column
        elif column.name in COLUMN_KINDS and COLUMN_KINDS[column.name] in ("time", "storetime"):
            columns[number] = clean_times(table, column)
    frame = pl.DataFrame(columns)
    if not frame["subject_id"].str.contains(r"^\d{1,18}$").fill_null(False).all():
        raise UserError(f"{table}.subject_id: expected whole numbers from 0, got other values. Number the patients.")
    times = [parse_times(frame[name]) for name in (event.time, event.time_fallback) if name in frame.columns]
    time = pl.coalesce(times) if times else pl.lit(None, pl.Datetime("ms"))
    return frame.with_columns(time.alias(TIME)).with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64))


def as_text(column: pl.Series) -> pl.Series:
    """A column as text, in which texts that mean a missing value are null."""
    import polars as pl

    if column.dtype.is_temporal():
        column = column.dt.to_string(DATE_FORMAT if column.dtype == pl.Date else TIME_FORMAT)
    column = column.cast(pl.String)
    return column.set(column.is_in(list(MISSING_TEXTS)).fill_null(False), None)
