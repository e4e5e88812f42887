"""Index files: the columns they have, how they are read, and what their targets say.

A task index (`task_sample_info_gen.py`) and a sampled set (`data_index_gen.py`, the released `ehr_ins/`, `ehr_bench/`)
are CSVs that differ in two column names. Two readers:

- `read_rows` for datasets and evaluation: CSV or JSONL, a row at a time from an Arrow table. It needs pyarrow only, and
  forked dataloader workers share a table of millions of rows, where a list of dicts would be copied to each.
- `scan` for samplers: a lazy polars frame. Never fork after it.

Targets are JSON and are parsed by `json`, never `eval`.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.lookups import describe
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import require, sha256
from pipeline.provenance import digest_of, file_record, folder_record

if TYPE_CHECKING:
    import polars as pl

INDEX_COLUMNS = (
    "subject_id", "hadm_id", "task", "event", "context_begin", "context_end", "target", "target_weight",
    "admissions_id", "last_discharge_id", "audit",
)  # fmt: skip
"""Columns of a task index."""

SAMPLE_COLUMNS = (
    "subject_id", "hadm_id", "task", "event", "period_begin", "period_end", "admissions_id", "last_discharge_id",
    "target", "audit",
)  # fmt: skip
"""Columns of a sampled set."""

REQUIRED = ("subject_id", "task", "event", "target")
IDS = ("subject_id", "hadm_id")
POSITIONS = ("context_begin", "context_end", "admissions_id", "last_discharge_id")

MISSING_CELLS = ("", "nan", "NaN", "None", "null")
"""How a missing value is spelt in the id and position columns of index files."""

# The two spellings of a window: `context_*` in a task index, `period_*` in a sampled set and in the released files.
_WINDOWS = (("context_begin", "context_end"), ("period_begin", "period_end"))

HOW_TO_GET_INDEX = "make it with mimiciv_dataset/task_sample_info_gen.py, or give a released index"


# --- single values


def clean_id(value: Any) -> str | None:
    """An id as text, without what a float column added to it; None for a missing one.

    >>> clean_id("28710730.0"), clean_id(28710730), clean_id("nan"), clean_id(""), clean_id(None)
    ('28710730', '28710730', None, None, None)
    """
    text = "" if value is None else str(value).strip()
    return None if text in MISSING_CELLS else text.removesuffix(".0")


def clean_position(value: Any) -> int | None:
    """A position in the trajectory; None for a missing one.

    >>> clean_position("12"), clean_position("12.0"), clean_position("None")
    (12, 12, None)
    """
    text = clean_id(value)
    return None if text is None else int(text)


def sample_id(row: Mapping[str, Any]) -> str:
    """The identity of a sample: which row of which patient, the same in index, outputs, scores and reports.

    Args:
        row: an index row or a sample's `task_info`: `task`, `subject_id` and the window under either spelling; where one of
            these is missing, `input_sha256` or `input`, the text that stands in for patient and window.

    >>> sample_id({"task": "emar", "subject_id": 7.0, "period_begin": 3, "period_end": "9"})
    'emar/7/3-9'
    >>> sample_id({"task": "emar", "input": "text"})
    'emar/982d9e3eb996f559'
    """
    begin, end = (
        next((row[name] for name in pair if row.get(name) is not None), None) for pair in zip(*_WINDOWS, strict=True)
    )
    subject, begin, end = clean_id(row.get("subject_id")), clean_id(begin), clean_id(end)
    if None not in (subject, begin, end):
        return f"{row['task']}/{subject}/{begin}-{end}"
    return f"{row['task']}/{(row.get('input_sha256') or sha256(row['input']))[:16]}"


def parse_target(text: str) -> Any:
    """The target of a row: a name, or a list of names.

    >>> parse_target('["Glucose", "Sodium"]'), parse_target('"yes"')
    (['Glucose', 'Sodium'], 'yes')
    >>> parse_target("['Glucose']")
    Traceback (most recent call last):
    pipeline.errors.UserError: target: wanted a JSON string or list of strings, found something else
    """
    try:
        target = json.loads(text)
    except json.JSONDecodeError:
        target = None
    if isinstance(target, str) or (isinstance(target, list) and all(isinstance(name, str) for name in target)):
        return target
    raise UserError("target: wanted a JSON string or list of strings, found something else")


# --- headers


def read_header(path: Path) -> list[str]:
    """The column names of a CSV.

    Raises:
        UserError: the file is empty, not text, or names a column twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except UnicodeDecodeError:
        raise UserError(f"{path}: wanted a CSV in UTF-8, found other bytes; unpack or convert it first") from None
    if not header:
        raise UserError(f"{path}: wanted an index CSV, found an empty file; {HOW_TO_GET_INDEX}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path}: wanted every column once, found {', '.join(twice)} more than once")
    return header


def window_columns(path: Path | str, columns: Sequence[str], required: Sequence[str] = REQUIRED) -> tuple[str, str]:
    """The names of the two window columns of an index, after checking that all columns it needs are there.

    >>> window_columns("x.csv", ["subject_id", "task", "event", "period_begin", "period_end", "target"])
    ('period_begin', 'period_end')
    >>> window_columns("x.csv", ["subject_id", "task", "period_end"])
    Traceback (most recent call last):
    pipeline.errors.UserError: x.csv: wanted columns event, target, context_begin/period_begin, found
    subject_id, task, period_end; make it with mimiciv_dataset/task_sample_info_gen.py, or give a released index
    """
    missing = [name for name in required if name not in columns]
    names = [next((name for name in pair if name in columns), None) for pair in zip(*_WINDOWS, strict=True)]
    missing += ["/".join(pair) for pair, name in zip(zip(*_WINDOWS, strict=True), names, strict=True) if name is None]
    if missing:
        raise UserError(f"{path}: wanted columns {', '.join(missing)}, found {', '.join(columns)}; {HOW_TO_GET_INDEX}")
    begin, end = names
    return begin, end


# --- rows, for datasets and evaluation


def normalise_row(row: dict[str, Any], where: str = "row") -> dict[str, Any]:
    """A row with clean ids, integer positions, its window as period_begin/period_end, and a parsed target.

    A row that has `input` is finished already and stays as it is. The row given is never changed.

    >>> normalise_row({"subject_id": "7.0", "hadm_id": "", "context_begin": "3", "context_end": "9", "target": '"no"'})
    {'subject_id': '7', 'hadm_id': None, 'target': 'no', 'period_begin': 3, 'period_end': 9}
    """
    clean = dict(row)
    if row.get("input") is not None:
        return clean
    try:
        for name in IDS:
            if name in clean:
                clean[name] = clean_id(clean[name])
        for name in ("admissions_id", "last_discharge_id"):
            if name in clean:
                clean[name] = clean_position(clean[name])
        for context, period in zip(*_WINDOWS, strict=True):
            value = clean.pop(context, None)
            clean[period] = clean_position(clean.get(period, value))
        if isinstance(clean.get("target"), str):
            clean["target"] = parse_target(clean["target"])
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    return clean


class Rows(Sequence[dict[str, Any]]):
    """The rows of an index CSV or JSONL; `rows[i]` is a new dict each time, so that no two samples share one.

    Ids are clean text, positions are integers, the window is period_begin and period_end, `target` is parsed, an empty
    cell or `nan` is None. JSONL rows with `input` pass through as they are.
    """

    def __init__(self, path: Path, table: Any, lines: bool) -> None:
        self.path = path
        self._table = table
        self._lines = lines

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int | slice) -> Any:  # type: ignore[override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        where = f"{self.path}, row {index + 1}"
        values = {name: self._table[name][index].as_py() for name in self._table.column_names}
        if self._lines:
            try:
                values = json.loads(values["line"])
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: wanted a JSON object, found something else: {error.msg}") from None
            if not isinstance(values, dict):
                raise UserError(f"{where}: wanted a JSON object, found {type(values).__name__}")
            if "input" not in values:
                window_columns(where, list(values), required=("subject_id", "task"))
        return normalise_row(values, where)

    @property
    def columns(self) -> list[str]:
        """The columns of a CSV; of a JSONL none, since every row says for itself."""
        return [] if self._lines else self._table.column_names

    def column(self, name: str) -> list[Any]:
        """One column of a CSV as it is in the file; empty cells are None."""
        return self._table[name].to_pylist()

    def having(self, name: str) -> list[int]:
        """Positions of the rows that have a value under this name; of a JSONL's, of those in whose line the name stands."""
        import pyarrow.compute as pc

        if not self._lines and name not in self.columns:
            return []
        has = pc.match_substring(self._table["line"], json.dumps(name)) if self._lines else pc.is_valid(self._table[name])
        return pc.indices_nonzero(has).to_pylist()


def read_rows(path: Path | str) -> Rows:
    """The rows of an index CSV (`.csv`) or JSONL (`.jsonl`, `.json`).

    Raises:
        UserError: no such file, a column is missing, or the file is neither.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    path = require(path, "an index CSV or JSONL", HOW_TO_GET_INDEX)
    if path.is_dir():
        raise UserError(f"{path}: wanted one index file, found a folder; name a file in it")
    if path.suffix in (".jsonl", ".json"):
        with path.open(encoding="utf-8") as file:
            lines = pa.array((line for line in file if line.strip()), pa.large_string())
        return Rows(path, pa.table({"line": lines}), lines=True)
    columns = read_header(path)
    window_columns(path, columns, required=("subject_id", "task"))
    try:
        table = pc.read_csv(
            path,
            parse_options=pc.ParseOptions(newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                column_types={column: pa.string() for column in columns},
                null_values=["", "nan"],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: wanted a CSV with columns {', '.join(columns)}, found {describe(error)}; {HOW_TO_GET_INDEX}"
        ) from None
    return Rows(path, table, lines=False)


# --- frames, for samplers


def index_files(path: Path | str) -> list[Path]:
    """The CSVs of an index: the file itself, or all CSVs of a folder by name.

    Raises:
        UserError: there is none.
    """
    path = require(path, "a task index: a folder of CSVs, or one CSV", HOW_TO_GET_INDEX)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.csv") if not file.name.startswith("."))
    files = [file for file in files if not file.name.endswith(".audit.csv")]
    if not files:
        raise UserError(f"{path}: wanted a task index (CSV files), found none; {HOW_TO_GET_INDEX}")
    return files


def index_digest(path: Path | None) -> str | None:
    """The digest of an index (directory or CSV) from its record; None if there is no index or no record."""
    return None if path is None else digest_of(folder_record(path) if path.is_dir() else file_record(path))


def scan(path: Path) -> pl.LazyFrame:
    """One index CSV as a lazy frame: columns of `INDEX_COLUMNS`, clean ids as text, positions as integers.

    Raises:
        UserError: a column is missing. (A broken line shows when the frame is collected: see `reading`.)
    """
    import polars as pl

    columns = read_header(path)
    begin, end = window_columns(path, columns)
    frame = pl.scan_csv(path, infer_schema=False)
    frame = frame.rename({begin: "context_begin", end: "context_end"})
    optional = [name for name in INDEX_COLUMNS if name not in (*columns, "context_begin", "context_end")]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in optional)
    present = [pl.when(~pl.col(name).is_in(MISSING_CELLS)).then(pl.col(name).str.strip_suffix(".0")) for name in IDS]
    positions = [
        pl.when(~pl.col(name).is_in(MISSING_CELLS)).then(pl.col(name).str.strip_suffix(".0")).cast(pl.Int32)
        for name in POSITIONS
    ]
    weight = pl.col("target_weight").cast(pl.Float64)
    return frame.with_columns(*present, *positions, weight).select(INDEX_COLUMNS)


def target_labels() -> pl.Expr:
    """The labels of a row's `target` as a list column: a single name is a list of one."""
    import polars as pl

    target = pl.col("target")
    as_list = pl.when(target.str.starts_with("[")).then(target).otherwise(pl.format("[{}]", target))
    return as_list.str.json_decode(pl.List(pl.String)).list.unique(maintain_order=True)


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn what polars says of a broken index file into a clear error, without the values it would quote.

    >>> import polars as pl
    >>> with reading("x.csv"):
    ...     pl.select(pl.lit("a").cast(pl.Int64))
    Traceback (most recent call last):
    pipeline.errors.UserError: x.csv: wanted an index CSV, found: conversion from `str` to `i64` failed
    in column 'scalar'
    """
    import polars as pl

    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0].partition(" for ")[0][:120]
        raise UserError(f"{path}: wanted an index CSV, found: {reason}") from None


def task_of_file(path: Path) -> str | None:
    """The task a file is named for, as `--group task` writes them; None for any other file.

    >>> task_of_file(Path("all/labevents.csv")), task_of_file(Path("patient/10001217.csv"))
    ('labevents', None)
    """
    return path.stem if path.stem in TASKS else None
