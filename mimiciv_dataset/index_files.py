"""Index files: their columns, two readers, and the identity and target of a row.

A task index (`task_sample_info_gen.py`) and a sampled set (`data_index_gen.py`, the released `ehr_ins/` and `ehr_bench/`) are
CSVs that differ in the names of two columns. The readers:

- `read_rows` for datasets and evaluation: CSV or JSONL, one row at a time from an Arrow table. It needs pyarrow only, and
  forked dataloader workers share the table, whereas a list of dicts would be copied to each of them.
- `scan` for samplers: a lazy polars frame. Do not fork after using it.

Targets are JSON and are parsed by `json`, never by `eval`.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.lookups import read_text_csv
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import require, sha256

if TYPE_CHECKING:
    import polars as pl

IDS = ("subject_id", "hadm_id")
_EARLIER = ("admissions_id", "last_discharge_id")  # positions of earlier events
_BEGINS, _ENDS = ("context_begin", "period_begin"), ("context_end", "period_end")  # in a task index, in other files
# Columns of a task index, and of a sampled set.
INDEX_COLUMNS = (*IDS, "task", "event", "context_begin", "context_end", "target", "target_weight", *_EARLIER, "audit")
SAMPLE_COLUMNS = (*IDS, "task", "event", "period_begin", "period_end", *_EARLIER, "target", "audit")
REQUIRED = ("subject_id", "task", "event", "target")
MISSING_CELLS = ("", "nan", "NaN", "None", "null")  # spellings of a missing value in the columns of ids and positions
HOW_TO_GET_INDEX = "Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index"


def clean_id(value: Any) -> str | None:
    """An id as text, without the `.0` of a float column; None if it is missing.

    >>> clean_id("28710730.0"), clean_id(28710730), clean_id("nan"), clean_id(""), clean_id(None)
    ('28710730', '28710730', None, None, None)
    """
    text = "" if value is None else str(value).strip()
    return None if text in MISSING_CELLS else text.removesuffix(".0")


def clean_position(value: Any) -> int | None:
    """A position in the trajectory; None if it is missing.

    >>> clean_position("12"), clean_position("12.0"), clean_position("None")
    (12, 12, None)
    """
    text = clean_id(value)
    return None if text is None else int(text)


def sample_id(row: Mapping[str, Any]) -> str:
    """The identity of a sample: which row of which patient, the same in index, outputs, scores and reports.

    `row` is an index row or a sample's `task_info`. If it lacks patient or window, its text identifies it.

    >>> sample_id({"task": "emar", "subject_id": 7.0, "period_begin": 3, "period_end": "9"})
    'emar/7/3-9'
    >>> sample_id({"task": "emar", "input": "text"})
    'emar/982d9e3eb996f559'
    """
    begin, end = (next((row[name] for name in names if row.get(name) is not None), None) for names in (_BEGINS, _ENDS))
    subject, begin, end = map(clean_id, (row.get("subject_id"), begin, end))
    if None not in (subject, begin, end):
        return f"{row['task']}/{subject}/{begin}-{end}"
    return f"{row['task']}/{(row.get('input_sha256') or sha256(row['input']))[:16]}"


def parse_target(text: str) -> Any:
    """Parse the target of a row: a name, or a list of names.

    >>> parse_target('["Glucose", "Sodium"]'), parse_target('"yes"')
    (['Glucose', 'Sodium'], 'yes')
    >>> parse_target("['Glucose']")
    Traceback (most recent call last):
    pipeline.errors.UserError: target: expected a JSON string or list of strings, got something else.
    """
    try:
        target = json.loads(text)
    except json.JSONDecodeError:
        target = None
    if isinstance(target, str) or (isinstance(target, list) and all(isinstance(name, str) for name in target)):
        return target
    raise UserError("target: expected a JSON string or list of strings, got something else.")


# --- headers


def read_header(path: Path) -> list[str]:
    """The column names of an index CSV; an error if one occurs twice."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a CSV in UTF-8, got other bytes. Decompress or convert it.") from None
    if not header:
        raise UserError(f"{path}: expected an index CSV, got an empty file. {HOW_TO_GET_INDEX}.")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: expected every column once, got {', '.join(repeated)} repeatedly. Rename or remove them.")
    return header


def window_columns(path: Path | str, columns: Sequence[str], required: Sequence[str] = REQUIRED) -> tuple[str, str]:
    """The names of the two window columns of an index, which must have the columns `required`, too.

    >>> window_columns("x.csv", ["subject_id", "task", "event", "period_begin", "period_end", "target"])
    ('period_begin', 'period_end')
    >>> window_columns("x.csv", ["subject_id", "task", "period_end"])
    Traceback (most recent call last):
    pipeline.errors.UserError: x.csv: expected columns event, target, context_begin/period_begin, got
    subject_id, task, period_end. Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index.
    """
    begin, end = (next((name for name in names if name in columns), None) for names in (_BEGINS, _ENDS))
    missing = [name for name in required if name not in columns]
    missing += ["/".join(names) for name, names in ((begin, _BEGINS), (end, _ENDS)) if name is None]
    if missing:
        raise UserError(f"{path}: expected columns {', '.join(missing)}, got {', '.join(columns)}. {HOW_TO_GET_INDEX}.")
    return begin, end


# --- rows, for datasets and evaluation


def normalise_row(row: dict[str, Any], where: str = "row") -> dict[str, Any]:
    """A copy of a row with clean ids, integer positions, the window as period_begin/period_end, and a parsed target.

    A row that has `input` (the text) is copied as it is.

    >>> normalise_row({"subject_id": "7.0", "hadm_id": "", "context_begin": "3", "context_end": "9", "target": '"no"'})
    {'subject_id': '7', 'hadm_id': None, 'target': 'no', 'period_begin': 3, 'period_end': 9}
    """
    clean = dict(row)
    if row.get("input") is not None:
        return clean
    try:
        for name in clean:
            if name in (*IDS, *_EARLIER):
                clean[name] = (clean_id if name in IDS else clean_position)(clean[name])
        for context, period in (_BEGINS, _ENDS):
            value = clean.pop(context, None)
            clean[period] = clean_position(clean.get(period, value))
        if isinstance(clean.get("target"), str):
            clean["target"] = parse_target(clean["target"])
    except (UserError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    return clean


class Rows(Sequence[dict[str, Any]]):
    """The rows of an index CSV or JSONL, as `normalise_row` returns them; an empty cell or `nan` is None.

    `rows[i]` is a new dict each time, so that no two samples share one.
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
            except json.JSONDecodeError:
                values = None
            if not isinstance(values, dict):
                raise UserError(f"{where}: expected a JSON object, got something else. Fix the file.")
            if "input" not in values:
                window_columns(where, list(values), required=("subject_id", "task"))
        return normalise_row(values, where)

    @property
    def columns(self) -> list[str]:
        """The columns of a CSV; empty for a JSONL, whose rows can differ."""
        return [] if self._lines else self._table.column_names

    def column(self, name: str) -> list[Any]:
        """The values of a column of a CSV as they are in the file; empty cells are None."""
        return self._table[name].to_pylist()

    def having(self, name: str) -> list[int]:
        """Positions of the rows that have a value in this column; in a JSONL, of those whose line contains the name."""
        import pyarrow.compute as pc

        if not self._lines and name not in self.columns:
            return []
        has = pc.match_substring(self._table["line"], json.dumps(name)) if self._lines else pc.is_valid(self._table[name])
        return pc.indices_nonzero(has).to_pylist()


def read_rows(path: Path | str) -> Rows:
    """Read the rows of an index CSV (`.csv`) or JSONL (`.jsonl`, `.json`)."""
    import pyarrow as pa

    path = require(path, "an index CSV or JSONL", HOW_TO_GET_INDEX)
    if path.is_dir():
        raise UserError(f"{path}: expected an index file, got a directory. Choose a file in it.")
    if path.suffix in (".jsonl", ".json"):
        with path.open(encoding="utf-8") as file:
            lines = pa.array((line for line in file if line.strip()), pa.large_string())
        return Rows(path, pa.table({"line": lines}), lines=True)
    columns = read_header(path)
    window_columns(path, columns, required=("subject_id", "task"))
    return Rows(path, read_text_csv(path, columns, missing=("", "nan")), lines=False)


# --- frames, for samplers


def index_files(path: Path | str) -> list[Path]:
    """The CSVs of an index: the file itself, or all CSVs of a directory, sorted by name."""
    path = require(path, "a task index (a directory of CSVs, or a CSV)", HOW_TO_GET_INDEX)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.csv") if not file.name.startswith("."))
    files = [file for file in files if not file.name.endswith(".audit.csv")]
    if not files:
        raise UserError(f"{path}: expected a task index, got no CSV files. {HOW_TO_GET_INDEX}.")
    return files


def scan(path: Path) -> pl.LazyFrame:
    """An index CSV as a lazy frame with the columns `INDEX_COLUMNS`: clean ids as text, positions as integers.

    Malformed lines raise when the frame is collected; see `reading`.
    """
    import polars as pl

    columns = read_header(path)
    begin, end = window_columns(path, columns)
    frame = pl.scan_csv(path, infer_schema=False).rename({begin: "context_begin", end: "context_end"})
    optional = [name for name in INDEX_COLUMNS if name not in (*columns, "context_begin", "context_end")]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in optional)
    positions = ("context_begin", "context_end", *_EARLIER)
    numbers = pl.col(*IDS, *positions)
    frame = frame.with_columns(pl.when(~numbers.is_in(MISSING_CELLS)).then(numbers.str.strip_suffix(".0")))
    return frame.cast(dict.fromkeys(positions, pl.Int32) | {"target_weight": pl.Float64}).select(INDEX_COLUMNS)


def target_labels() -> pl.Expr:
    """The labels in the column `target`, as a list column; a single name becomes a list of one."""
    import polars as pl

    target = pl.col("target")
    as_list = pl.when(target.str.starts_with("[")).then(target).otherwise(pl.format("[{}]", target))
    return as_list.str.json_decode(pl.List(pl.String)).list.unique(maintain_order=True)


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn errors of polars about a malformed index file into a `UserError` that quotes no values.

    >>> import polars as pl
    >>> with reading("x.csv"):
    ...     pl.select(pl.lit("a").cast(pl.Int64))
    Traceback (most recent call last):
    pipeline.errors.UserError: x.csv: expected an index CSV, got an error: conversion from `str` to `i64` failed
    in column 'scalar'. Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index.
    """
    import polars as pl

    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0].partition(" for ")[0][:120]
        raise UserError(f"{path}: expected an index CSV, got an error: {reason}. {HOW_TO_GET_INDEX}.") from None


def task_of_file(path: Path) -> str | None:
    """The task a file is named after, as --group task names them; None for any other file.

    >>> task_of_file(Path("all/labevents.csv")), task_of_file(Path("patient/10001217.csv"))
    ('labevents', None)
    """
    return path.stem if path.stem in TASKS else None
