"""Find and read the raw tables of MIMIC-IV: strictly, as a stream, and as text only."""

from __future__ import annotations

import csv
import gzip
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.events import EVENTS, MODULES, EventType
from mimiciv_dataset.lookups import text_columns
from mimiciv_dataset.tasks import TASKS, needs_modules
from pipeline.errors import UserError
from pipeline.files import require

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

BLOCK_BYTES = 16 << 20  # text that is parsed at once; the longest row allowed
ROW, TIME = "_row", "_time"  # columns added to every table: number of the row in its file, from 0, and its time


@dataclass(frozen=True)
class RawTable:
    """One raw file and its header."""

    event: EventType
    path: Path
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.event.name

    @property
    def file_name(self) -> str:
        """The file below the directory of MIMIC-IV."""
        return f"{self.event.module}/{self.path.name}"

    @property
    def size(self) -> int:
        """Size of the file in bytes, gzipped or not."""
        return self.path.stat().st_size


def find_table(folder: Path, name: str) -> Path | None:
    """`name`.csv or `name`.csv.gz in `folder`, or None; an error if both exist."""
    paths = [path for suffix in (".csv", ".csv.gz") if (path := folder / f"{name}{suffix}").exists()]
    if len(paths) == 2:
        raise UserError(f"{paths[0]}: expected this file or {paths[1].name}, got both. Remove the one not to be read.")
    return paths[0] if paths else None


def find_tables(mimic_dir: Path) -> tuple[list[RawTable], list[str]]:
    """All tables of the registry below `mimic_dir`, with their headers checked, and a warning for each missing module.

    Raises:
        UserError: hosp is missing, or a table or column of an existing module.
    """
    fix = "set --mimic_dir, or make synthetic data with preprocess/synthetic_mimic.py"
    require(mimic_dir, "the MIMIC-IV directory with hosp/, icu/, ed/ and note/", fix)
    if not (mimic_dir / "hosp").is_dir():
        names = ", ".join(sorted(path.name for path in mimic_dir.iterdir())[:8]) or "an empty directory"
        raise UserError(f"{mimic_dir}: expected a directory that contains hosp/, got {names}. Set --mimic_dir to its parent.")
    tables, warnings = [], []
    for module in MODULES:
        folder = mimic_dir / module
        if not folder.is_dir():
            empty = [task.name for task in TASKS.values() if module in needs_modules(task)]
            warnings.append(f"{folder} does not exist: these tasks will have no rows: {', '.join(empty)}")
            continue
        for event in [event for event in EVENTS.values() if event.module == module]:
            path = find_table(folder, event.name)
            if path is None:
                fix = f"Download it, or remove the whole directory {module}/ to work without the module"
                raise UserError(f"{folder / event.name}.csv: expected this table (or .csv.gz), got no such file. {fix}.")
            tables.append(RawTable(event, path, checked_columns(path, event)))
    return tables, warnings


def read_columns(path: Path) -> tuple[str, ...]:
    """The column names of a file, which must be distinct."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            line = stream.readline().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a header line in UTF-8, got other bytes. Download the file again.") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: expected a readable CSV file, got {error}. Download the file again.") from None
    columns = next(csv.reader([line]), [])
    if not columns:
        raise UserError(f"{path}: expected a header line, got an empty file. Download the file again.")
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise UserError(f"{path}: expected distinct columns, got {', '.join(repeated)} twice in the header. Fix the file.")
    return tuple(columns)


def checked_columns(path: Path, event: EventType) -> tuple[str, ...]:
    """The column names of a file of this table, which must have all required columns."""
    columns = read_columns(path)
    # The key admission_info is only in some trajectories, never in a raw file.
    missing = [column for column in event.required_columns if column not in (*columns, "admission_info")]
    if missing:
        got = ", ".join(columns)[:300]
        if len(columns) == 1 and (delimiter := re.search(r"[;\t|]", got)):
            got += f" (the delimiter seems to be {delimiter.group()!r} instead of a comma)"
        expected = f"the column{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise UserError(f"{path}: expected {expected}, got {got}. Use MIMIC-IV 2.2 or later.")
    return columns


class _HashedFile(io.FileIO):
    """A file that is hashed while it is read from beginning to end."""

    def __init__(self, path: Path, digest: Any) -> None:
        super().__init__(path)
        self._digest = digest

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._digest.update(data)
        return data


class _Stream(io.RawIOBase):
    """The decompressed bytes of a raw file. Counts quotation marks, and reports the bytes of the file that were read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None], digest: Any) -> None:
        self._file = path.open("rb") if digest is None else _HashedFile(path, digest)
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


def read_batches(
    path: Path, columns: Sequence[str], on_bytes: Callable[[int], None] = lambda number: None, digest: Any = None
) -> Iterator[pa.RecordBatch]:
    """Columns of a raw file as all-text record batches, missing values null.

    Whatever would lose or shift a value is an error. Messages contain row numbers and counts, never the text of a row.

    Args:
        path, columns: the raw file, and the columns to return.
        on_bytes: is called with the number of bytes of the file that were read.
        digest: an object of hashlib, which is updated with the bytes of the file.

    Raises:
        UserError: a column is missing, a row has too many or too few fields, a quotation mark is never closed, the text is not
            UTF-8, or the gzip data are corrupt.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    rows, last, finished = 0, None, False
    stream = _Stream(path, on_bytes, digest)
    try:
        reader = pc.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pc.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pc.ParseOptions(newlines_in_values=True),
            convert_options=text_columns(columns),
        )
        for batch in reader:
            if batch.num_rows:
                rows, last = rows + batch.num_rows, batch
                yield batch
        finished = True
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        text = str(error)
        if "Empty CSV" in text:
            return
        if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            row, number, actual = match.groups()
            expected, got = f"{number} fields in every row", f"{actual} in row {row}"
        elif "UTF8" in text:
            column = re.search(r"CSV column #(\d+)", text)
            name = f" in column {read_columns(path)[int(column.group(1))]}" if column else ""
            expected, got = "UTF-8", f"other bytes{name}"
        elif "straddl" in text:
            expected = f"rows of at most {BLOCK_BYTES >> 20} MiB"
            got = "a longer one, probably because a quotation mark is never closed"
        elif isinstance(error, pa.ArrowKeyError):
            expected, got = f"the columns {', '.join(columns)}", ", ".join(read_columns(path))[:300]
        else:
            expected = "a readable CSV file"
            got = text.splitlines()[0][:120] if isinstance(error, OSError | EOFError) else "a malformed row"
        where = f"{path}, after row {rows:,}"
        raise UserError(f"{where}: expected {expected}, got {got}. Download the file again, or fix it.") from None
    finally:
        stream.close()
        if not finished:  # let a thread of pyarrow that reads ahead end, which would abort the process at its exit
            time.sleep(0.1)
    # pyarrow takes a field whose closing quote is missing to reach to the end of the file: rows would vanish in it.
    if last is not None and stream.quotes % 2 and "\n" in (last.column(last.num_columns - 1)[-1].as_py() or ""):
        raise UserError(f"{path}: expected closed quotation marks, got an open one at the end. Download the file again.")
    if stream.last != b"\n":
        print(f"warning: {path} does not end with a line end and may be truncated; its last row was read.")


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def python_float(text: str) -> str:
    """A FLOAT value as Python formats a float; other text stays as it is.

    >>> [python_float(text) for text in ("7", "7.50", "1e-7", "___", "40.000001192092896", "inf")]
    ['7.0', '7.5', '1e-07', '___', '40.000001192092896', 'inf']
    """
    return repr(float(text)) if _NUMBER.fullmatch(text) else text


def parse_time(column: str) -> pl.Expr:
    """The times of a text column; a date counts as 00:00:00, and other text as missing."""
    import polars as pl

    formats = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")
    return pl.coalesce(pl.col(column).str.to_datetime(text, time_unit="ms", strict=False) for text in formats)


def prepare(table: RawTable, frame: pl.DataFrame, first_row: int) -> pl.DataFrame:
    """Add the columns `ROW` and `TIME` to rows of a raw table, and format its FLOAT columns as Python does.

    Every subject_id must be a number, and every time a time or null. `first_row` is the number of the first row in the file.
    """
    import polars as pl

    event = table.event
    is_number = pl.col("subject_id").str.contains(r"^\d{1,18}$").fill_null(False)
    _check(table, frame, "subject_id", is_number, "a number", first_row)
    floats = []
    for column in event.floats:
        if column in table.columns:
            values = frame[column].drop_nulls().unique()
            if len(values):
                formatted = pl.Series([python_float(text) for text in values.to_list()], dtype=pl.String)
                floats.append(pl.col(column).replace_strict(values, formatted, default=None))
    time = pl.lit(None, pl.Datetime("ms"))
    for column in (event.time, event.time_fallback):
        if column is not None:
            parsed = parse_time(column)
            is_time = pl.col(column).is_null() | parsed.is_not_null()
            _check(table, frame, column, is_time, "a time such as 2150-01-31 12:00:00, or a date", first_row)
            time = pl.coalesce(time, parsed)
    return frame.with_columns(*floats, time.alias(TIME)).with_row_index(ROW, first_row).cast({ROW: pl.Int64})


def _check(table: RawTable, frame: pl.DataFrame, column: str, valid: pl.Expr, expected: str, first_row: int) -> None:
    invalid = frame.select(invalid=~valid)["invalid"]
    if invalid.any():
        where = f"{table.path}, row {first_row + invalid.arg_max() + 1:,}, column {column}"
        raise UserError(f"{where}: expected {expected}, got another text. Fix the row (a second header line?).")
