"""Finding and reading the raw tables of MIMIC-IV: strict, streaming, all text."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mimiciv_dataset.events import EVENTS, MISSING_TEXTS, MODULES, EventType
from mimiciv_dataset.tasks import TASKS, needs_modules
from pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

BLOCK_BYTES = 16 << 20
"""How much text is parsed at once; a single note is far smaller."""

ROW, TIME = "_row", "_time"
"""Columns added to every table: number of the row in its file (from 0), and its time."""


@dataclass(frozen=True)
class RawTable:
    """One raw file and its header."""

    event: EventType
    path: Path
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.event.name


def find_table(folder: Path, name: str) -> Path | None:
    """`name`.csv or `name`.csv.gz in `folder`, or None.

    Raises:
        UserError: both are there.
    """
    found = [path for suffix in (".csv", ".csv.gz") if (path := folder / f"{name}{suffix}").exists()]
    if len(found) == 2:
        raise UserError(f"{found[0]} and {found[1].name}: wanted one of them, found both; remove the one not to be read")
    return found[0] if found else None


def find_tables(mimic_dir: Path) -> tuple[list[RawTable], list[str]]:
    """All tables of the registry below `mimic_dir`, headers checked, and a warning for each module that is missing.

    Raises:
        UserError: hosp is missing, or a table or column of a module that is there.
    """
    if not mimic_dir.is_dir():
        raise UserError(
            f"{mimic_dir}: wanted the MIMIC-IV folder with hosp/, icu/, ed/ and note/, found no such folder; "
            "give --mimic_dir, or make synthetic data with preprocess/synthetic_mimic.py"
        )
    if not (mimic_dir / "hosp").is_dir():
        found = ", ".join(sorted(p.name for p in mimic_dir.iterdir())[:8]) or "an empty folder"
        raise UserError(f"{mimic_dir}: wanted a folder hosp/ in it, found {found}; point --mimic_dir at its parent")
    tables, warnings = [], []
    for module in MODULES:
        folder = mimic_dir / module
        if not folder.is_dir():
            empty = [task.name for task in TASKS.values() if module in needs_modules(task)]
            warnings.append(f"no {folder}: these tasks will have no rows: {', '.join(empty)}")
            continue
        for event in EVENTS.values():
            if event.module == module:
                path = find_table(folder, event.name)
                if path is None:
                    raise UserError(
                        f"{folder / event.name}.csv: wanted this table (or .csv.gz), found none; download it, or remove "
                        f"the whole folder {module}/ to go without the module"
                    )
                tables.append(RawTable(event, path, read_header(path, event)))
    return tables, warnings


def read_header(path: Path, event: EventType) -> tuple[str, ...]:
    """The column names of a file.

    Raises:
        UserError: the file is empty, a required column is missing, or a name stands there twice.
    """
    try:
        with _open(path) as stream:
            line = stream.readline().decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: wanted a CSV file, found: {error}; download it again") from None
    columns = next(csv.reader([line]), [])
    if not columns:
        raise UserError(f"{path}: wanted a header line, found an empty file; download it again")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise UserError(f"{path}: wanted each column once, found {', '.join(twice)} twice in the header; repair the file")
    missing = [column for column in event.required_columns if column not in columns]
    missing = [column for column in missing if column not in OPTIONAL]
    if missing:
        hint = ""
        if len(columns) == 1 and (other := re.search(r"[;\t|]", columns[0])):
            hint = f" (the delimiter seems to be {other.group()!r}; wanted a comma)"
        raise UserError(
            f"{path}: wanted the column{'s' * (len(missing) > 1)} {', '.join(missing)}, found {', '.join(columns)[:300]}"
            f"{hint}; is this MIMIC-IV 2.2 or later?"
        )
    return tuple(columns)


OPTIONAL = ("admission_info",)
"""Shown keys that only some trajectories have; no raw file does."""


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


class _Stream(io.RawIOBase):
    """A raw file, decompressed; counts quotation marks, and reports how many bytes of the file have been read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._file = path.open("rb")
        self._data = gzip.GzipFile(fileobj=self._file) if path.suffix == ".gz" else self._file
        self._on_bytes, self._seen = on_bytes, 0
        self.quotes, self.last = 0, b"\n"

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._data.read(size)
        self.quotes += data.count(b'"')
        self.last = data[-1:] or self.last
        position = self._file.tell()
        self._on_bytes(position - self._seen)
        self._seen = position
        return data

    def close(self) -> None:
        self._data.close()
        self._file.close()
        super().close()


def read_batches(table: RawTable, on_bytes: Callable[[int], None] = lambda n: None) -> Iterator[pa.RecordBatch]:
    """The rows of a raw file as all-text record batches, missing values null.

    Strict: what would lose or shift a value is an error. Messages carry row numbers and counts, never a row's text.

    Raises:
        UserError: a row has too many or too few fields, a quote is never closed, text is not UTF-8, gzip is damaged.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    path, rows, ragged, last = table.path, 0, [], None

    def note(row: pc.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    stream = _Stream(path, on_bytes)
    try:
        reader = pc.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pc.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pc.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pc.ConvertOptions(
                column_types={column: pa.string() for column in table.columns},
                null_values=list(MISSING_TEXTS),
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            if batch.num_rows:
                rows, last = rows + batch.num_rows, batch
                yield batch
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        where = f"{path}, after row {rows:,}"
        if ragged:
            want, got = ragged[0].expected_columns, ragged[0].actual_columns
            raise UserError(f"{where}: wanted {want} fields in every row, found {got} in row {ragged[0].number}; "
                            "repair or download the file again") from None  # fmt: skip
        if "UTF8" in str(error):
            column = re.search(r"CSV column #(\d+)", str(error))
            name = f" in column {table.columns[int(column.group(1))]}" if column else ""
            raise UserError(f"{where}: wanted UTF-8 text, found other bytes{name}; convert the file to UTF-8") from None
        if "straddl" in str(error):
            raise UserError(f"{where}: wanted rows of at most {BLOCK_BYTES >> 20} MiB, found a longer one; "
                            "a quotation mark is probably never closed") from None  # fmt: skip
        if isinstance(error, pa.ArrowInvalid) and "Empty CSV" in str(error):
            return
        reason = str(error).splitlines()[0][:120] if isinstance(error, OSError | EOFError) else "a malformed row"
        raise UserError(f"{where}: could not read on: {reason}; the file is damaged, download it again") from None
    finally:
        stream.close()
    # pyarrow takes a field whose closing quote is missing to reach to the end of the file: rows would vanish in it.
    if last is not None and stream.quotes % 2 and "\n" in (last.column(last.num_columns - 1)[-1].as_py() or ""):
        raise UserError(f"{path}: wanted every quotation mark closed, found one open at the end; download it again")
    if stream.last != b"\n":
        print(f"warning: {path} does not end with a newline: was it cut off? Its last row was read as it stands.")


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def python_float(text: str) -> str:
    """A FLOAT value as Python writes a float; what is not a number stays as it is.

    >>> [python_float(text) for text in ("7", "7.50", "1e-7", "___", "40.000001192092896", "inf")]
    ['7.0', '7.5', '1e-07', '___', '40.000001192092896', 'inf']
    """
    return repr(float(text)) if _NUMBER.fullmatch(text) else text


def prepare(table: RawTable, frame: pl.DataFrame, first_row: int) -> pl.DataFrame:
    """Add `_row` and `_time` to rows of a raw table, and write its FLOAT columns as Python does.

    Args:
        frame: all-text rows, missing values null.
        first_row: number of the first one in its file.

    Raises:
        UserError: a subject_id is not a number, or a time is none.
    """
    import polars as pl

    event = table.event
    _check(table, frame, "subject_id", pl.col("subject_id").str.contains(r"^\d{1,18}$").fill_null(False), "a number",
           first_row)  # fmt: skip
    floats = []
    for column in event.floats:
        if column in table.columns:
            values = frame[column].drop_nulls().unique()
            if len(values):
                written = pl.Series([python_float(text) for text in values.to_list()], dtype=pl.String)
                floats.append(pl.col(column).replace_strict(values, written, default=None))
    time = pl.lit(None, pl.Datetime("ms"))
    for column in (event.time, event.time_fallback):
        if column is not None:
            parsed = pl.coalesce(
                pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False),
                pl.col(column).str.to_datetime("%Y-%m-%d", time_unit="ms", strict=False),
            )
            _check(table, frame, column, pl.col(column).is_null() | parsed.is_not_null(),
                   "a time such as 2150-01-31 12:00:00, or a date", first_row)  # fmt: skip
            time = pl.coalesce(time, parsed)
    return frame.with_columns(*floats, time.alias(TIME)).with_row_index(ROW, first_row).cast({ROW: pl.Int64})


def _check(table: RawTable, frame: pl.DataFrame, column: str, good: pl.Expr, wanted: str, first_row: int) -> None:
    bad = frame.select(bad=~good)["bad"]
    if bad.any():
        row = first_row + bad.arg_max() + 1
        raise UserError(
            f"{table.path}, row {row:,}, column {column}: wanted {wanted}, found something else; repair that row "
            "(a second header line inside the file looks like this too)"
        )
