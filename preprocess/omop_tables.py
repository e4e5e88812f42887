"""Find and read the tables of an OMOP CDM (5.3 or 5.4), as CSV or parquet, in batches."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.csv_checks import other_separator, read_raw_header
from mimiciv_dataset.values import KINDS, canonical
from pipeline.errors import UserError
from pipeline.files import reading_parquet, require
from preprocess.merge_patient import GZIP_RATIO, group_batches
from preprocess.raw_tables import parse_times, read_batches
from preprocess.sites import VISIT

if TYPE_CHECKING:
    import polars as pl

BATCH_ROWS = 64_000
TEXT_PER_ROW = 100  # rough number of bytes of a row of CSV; affects the number of buckets only
CONCEPT_COLUMNS = {"name": "concept_name", "code": "concept_code", "vocabulary": "vocabulary_id", "class": "concept_class_id"}
OF_CONCEPT = re.compile(rf"(\w+_concept)_({'|'.join(CONCEPT_COLUMNS)})")  # columns that the concepts of a row give
END, VALUE = "end", "value"  # columns that are made of several others
VALUES = ("value_as_number", "value_as_concept_id", "value_as_string", "value_source_value")  # the first that is not empty
NUMBERS = ("value_as_number", "range_low", "range_high", "quantity")
# Names of CDM 5.3 → names of 5.4.
RENAMED = {
    "admitting_source_concept_id": "admitted_from_concept_id",
    "admitting_source_value": "admitted_from_source_value",
    "discharge_to_concept_id": "discharged_to_concept_id",
    "discharge_to_source_value": "discharged_to_source_value",
    "visit_detail_parent_id": "parent_visit_detail_id",
}
PHYSIONET = {"2b_concept": "concept"}  # PhysioNet ships the concepts of MIMIC-IV itself under this name


@dataclass(frozen=True)
class TableType:
    """A clinical table: how the names of the columns of its concept, of the time of a row, and of its end begin."""

    concept: str
    start: str
    end: str | None = None

    @property
    def concepts(self) -> tuple[str, str]:
        """The columns of the concept and of the concept in the source's own vocabulary."""
        return f"{self.concept}_concept_id", f"{self.concept}_source_concept_id"

    @property
    def times(self) -> tuple[str, str, str, str]:
        """The columns of the time of a row, its date, the time of its end, and the date of its end; not all need to exist."""
        start, end = self.start, self.end or "no"
        return f"{start}_datetime", f"{start}_date", f"{end}_datetime", f"{end}_date"


PERSON = "person"
TABLES = {  # in the order of records of the same event and time
    "death": TableType("cause", "death"),
    "visit_occurrence": TableType("visit", "visit_start", "visit_end"),
    "visit_detail": TableType("visit_detail", "visit_detail_start", "visit_detail_end"),
    "condition_occurrence": TableType("condition", "condition_start", "condition_end"),
    "drug_exposure": TableType("drug", "drug_exposure_start", "drug_exposure_end"),
    "procedure_occurrence": TableType("procedure", "procedure", "procedure_end"),
    "measurement": TableType("measurement", "measurement"),
    "observation": TableType("observation", "observation"),
    "device_exposure": TableType("device", "device_exposure_start", "device_exposure_end"),
    "note": TableType("note_type", "note"),
}
REQUIRED = (PERSON, "visit_occurrence", "concept")


@dataclass(frozen=True)
class OmopTable:
    """A table of a data set: its files, and the name that each column has in them by its name in CDM 5.4, in lower case."""

    name: str
    files: tuple[Path, ...]
    columns: Mapping[str, str]

    def require(self, *columns: str) -> None:
        """Check that the table has these columns."""
        if missing := [column for column in columns if column not in self.columns]:
            got = ", ".join(list(self.columns)[:8])
            raise UserError(f"{self.files[0]}: expected the column {missing[0]} of {self.name}, got {got}. Add it.")

    @property
    def rows(self) -> int:
        """The number of its rows, estimated where they are text."""
        import pyarrow.parquet as pq

        def rows_of(path: Path) -> int:
            if path.suffix == ".parquet":
                with reading_parquet(path):
                    return pq.read_metadata(path).num_rows
            return path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1) // TEXT_PER_ROW

        return sum(map(rows_of, self.files))


# --- the files


def find_omop_tables(omop_dir: Path) -> dict[str, OmopTable]:
    """The tables of a directory, by name: `NAME.csv`, `.csv.gz` or `.parquet`, or a directory `NAME` of such parts.

    Names of files and columns can be in any case.

    Raises:
        UserError: a needed table is missing, or a table is there twice.
    """
    fix = "set --omop_dir to the directory of the tables"
    require(omop_dir, "a directory with the tables of an OMOP CDM", fix)
    names = [PERSON, *TABLES, "concept", "cdm_source"]
    sources: dict[str, list[Path]] = {}
    for path in sorted(omop_dir.iterdir()):
        stem = re.sub(r"(\.csv|\.parquet)?(\.gz)?$", "", path.name.lower())
        name = PHYSIONET.get(stem, stem)
        if name in names and (path.is_dir() or is_data(path)):
            sources.setdefault(name, []).append(path)
    files: dict[str, list[Path]] = {}
    for name, paths in sources.items():
        if len(paths) > 1 and name != "concept":
            got = " and ".join(path.name for path in paths)
            raise UserError(f"{omop_dir}: expected one file or directory of the table {name}, got {got}. Remove one of them.")
        files[name] = [
            each for path in paths for each in (sorted(filter(is_data, path.iterdir())) if path.is_dir() else [path])
        ]
    for name in REQUIRED:
        if not files.get(name):
            got = ", ".join(sorted(path.name for path in omop_dir.iterdir())[:6]) or "an empty directory"
            raise UserError(f"{omop_dir}: expected the table {name} as CSV or parquet, got {got}. {fix[:1].upper()}{fix[1:]}.")
    return {
        name: OmopTable(name, tuple(files[name]), column_names(files[name][0], can_have_tabs=name == "concept"))
        for name in names
        if files.get(name)
    }


def is_data(path: Path) -> bool:
    """Whether a file is CSV or parquet, by its name."""
    return path.name.lower().endswith((".csv", ".csv.gz", ".parquet")) and not path.name.startswith((".", "_"))


def kind(path: Path) -> str:
    """The ending of a file, without that of its compression."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def column_names(path: Path, can_have_tabs: bool = False) -> dict[str, str]:
    """The name of each column in a file, by its name in CDM 5.4, in lower case.

    `can_have_tabs`: whether tabs can separate the columns, as in the vocabularies of Athena.
    """
    import pyarrow.parquet as pq

    if kind(path) == "parquet":
        with reading_parquet(path):
            names = pq.read_schema(path).names
    else:
        names = read_raw_header(path)
        separator = other_separator(names[0])
        if separator == "tabs" and can_have_tabs:
            names = names[0].split("\t")
        elif separator:
            raise UserError(f"{path}: expected columns separated by commas, got {separator}. Save it with commas.")
    return {RENAMED.get(name.lower(), name.lower()): name for name in names}


# --- their rows


def read_groups(path: Path, names: Collection[str], on_bytes: Callable[[int], None]) -> Iterator[pl.DataFrame]:
    """Columns of a file, with their names in CDM 5.4, in groups of rows of about `merge_patient.PART_BYTES`.

    Values are typed (`typed`); a column that the file lacks is left out.
    """
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: column for name, column in column_names(path).items() if name in names}
    if kind(path) == "parquet":
        with reading_parquet(path), pq.ParquetFile(path) as file:
            for batches in group_batches(file.iter_batches(BATCH_ROWS, columns=list(columns.values()))):
                yield typed(path, renamed(pl.from_arrow(pa.Table.from_batches(batches)), columns))
        on_bytes(path.stat().st_size)
    else:
        for batches in group_batches(read_batches(path, list(columns.values()), on_bytes)):
            yield typed(path, renamed(pl.from_arrow(pa.Table.from_batches(batches)), columns))


def renamed(frame: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    return frame.select(columns.values()).rename({column: name for name, column in columns.items()})


def typed(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Values of a table: ids and numbers of dates of birth as Int64, times as Datetime, and all others as text.

    Raises:
        UserError: an id is no whole number, a number is none, or a time is none or has a time zone.
    """
    return frame.with_columns(_typed(path, frame[name]) for name in frame.columns)


def _typed(path: Path, values: pl.Series) -> pl.Series:
    import polars as pl

    name = values.name
    if name in ("person_id", VISIT) or name.endswith(("_concept_id", "_of_birth")):
        return whole_numbers(path, values)
    if name.endswith(("_date", "_datetime")):
        return times_of(path, values)
    if name in NUMBERS:
        numbers = values.cast(pl.Float64, strict=False).fill_nan(None)
        check_all(path, numbers, values, "numbers")
        return numbers.cast(pl.String).str.strip_suffix(".0")
    texts = values.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def whole_numbers(path: Path, values: pl.Series) -> pl.Series:
    """A column of ids as Int64; those of a tool that cannot have missing integers end in `.0`."""
    import polars as pl

    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    texts = values.cast(pl.String).str.strip_chars().str.strip_suffix(".0").replace({"NaN": None, "": None})
    numbers = texts.cast(pl.Int64, strict=False)
    check_all(path, numbers, texts, "whole numbers")
    return numbers


def times_of(path: Path, values: pl.Series) -> pl.Series:
    """A column of times or dates as Datetime; a date counts as 00:00:00."""
    import polars as pl

    if values.dtype.is_temporal():
        if getattr(values.dtype, "time_zone", None):
            where = f"{path}, column {values.name}"
            raise UserError(f"{where}: expected times without a time zone, got {values.dtype.time_zone}. Convert them.")
        return values.cast(pl.Datetime("ms"))
    texts, cleaned = values.cast(pl.String), {}
    for text in texts.filter(~texts.str.contains(KINDS["time"].pattern)).unique():
        with contextlib.suppress(ValueError):  # other text becomes missing, which is noticed below
            cleaned[text] = canonical("time", text)
    texts = texts.replace(cleaned) if cleaned else texts
    times = parse_times(texts)
    check_all(path, times, texts, KINDS["time"].expected)
    return times


def check_all(path: Path, parsed: pl.Series, values: pl.Series, expected: str) -> None:
    """Check that no value was lost when a column was parsed."""
    if lost := parsed.null_count() - values.null_count():
        where = f"{path}, column {values.name}"
        raise UserError(f"{where}: expected {expected}, got another text in {lost:,} rows. Fix the file.")


# --- concepts


def read_concepts(table: OmopTable, ids: Sequence[int]) -> pl.DataFrame:
    """The concepts with these ids: concept_id (Int64), and the columns of `CONCEPT_COLUMNS`.

    Of a vocabulary of millions of concepts, the rest is never held in memory.
    """
    import polars as pl

    frames = []
    for path in table.files:
        names = column_names(path, can_have_tabs=True)
        wanted = {"concept_id": "concept_id", **{column: key for key, column in CONCEPT_COLUMNS.items()}}
        OmopTable(table.name, (path,), names).require(*wanted)
        columns = {names[column]: key for column, key in wanted.items()}
        if kind(path) == "parquet":
            source = pl.scan_parquet(path)
        else:
            is_tabbed = len(read_raw_header(path)) == 1
            quotes = {"separator": "\t", "quote_char": None} if is_tabbed else {}
            source = pl.scan_csv(path, infer_schema=False, **quotes)
        source = source.select(pl.col(name).alias(key) for name, key in columns.items())
        concept_id = pl.col("concept_id").cast(pl.Int64)
        rows = source.with_columns(concept_id).filter(pl.col("concept_id").is_in(list(ids)))
        try:
            frames.append(rows.collect(engine="streaming").cast(dict.fromkeys(CONCEPT_COLUMNS, pl.String)))
        except pl.exceptions.PolarsError:
            expected = "concepts, with whole numbers in concept_id"
            raise UserError(f"{path}: expected {expected}, got another text. Fix the file.") from None
    return pl.concat(frames).unique("concept_id", keep="first", maintain_order=True)
