"""Find and read the raw tables of MIMIC-IV: strictly, as a stream, and as text only."""

from __future__ import annotations

import gzip
import io
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.cells import shown_columns
from mimiciv_dataset.csv_checks import BOM, QuoteCheck, other_separator, read_raw_header, stray_quotes_error
from mimiciv_dataset.events import DICTIONARY_TABLES, EVENTS, MODULES, EventType
from mimiciv_dataset.lookups import find_table, text_columns
from mimiciv_dataset.tasks import TASKS, needs_modules
from pipeline.errors import UserError
from pipeline.files import require

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

BLOCK_BYTES = 8 << 20  # text that is parsed at once; the longest row allowed
# Columns added to every table: number of the row in its file, from 0, and its time. No column of a file has such a name, as
# names are stripped.
ROW, TIME = " row", " time"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
UNNAMED = " column "  # and its number: name of a column without one, while it is checked


@dataclass(frozen=True)
class RawTable:
    """One raw file and the names of its columns, in which unnamed columns are numbered (`UNNAMED`)."""

    event: EventType
    path: Path
    header: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its records: all but the unnamed ones."""
        return tuple(name for name in self.header if not name.startswith(UNNAMED))

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


# --- the files


# What the releases that are too old lack, and the first release that has it.
OLDEST = {"hosp": "MIMIC-IV 2.2", "icu": "MIMIC-IV 2.2", "ed": "MIMIC-IV-ED 2.0", "note": "MIMIC-IV-Note 2.2"}
MARKERS = {"hosp": "admissions", "icu": "icustays", "ed": "edstays", "note": "discharge"}  # a table of each module


def find_module(folder: Path, module: str) -> Path | None:
    """The directory of a module at most four levels below `folder`, where PhysioNet's downloads have it, or None."""
    for depth in range(1, 5):
        for path in sorted(folder.glob("*/" * depth + f"{MARKERS[module]}.csv*")):
            if path.name in (f"{MARKERS[module]}.csv", f"{MARKERS[module]}.csv.gz"):
                return path.parent
    return None


def find_tables(mimic_dir: Path) -> tuple[list[RawTable], list[str]]:
    """All tables of the registry below `mimic_dir`, with their headers checked, and a warning for each missing module.

    Raises:
        UserError: hosp is missing, or a table or column of an existing module.
    """
    fix = "set --mimic_dir, or make synthetic data with preprocess/synthetic_mimic.py"
    require(mimic_dir, "the MIMIC-IV directory with hosp/, icu/, ed/ and note/", fix)
    if (mimic_dir / "core").is_dir():
        raise UserError(f"{mimic_dir}: expected {OLDEST['hosp']} or later, got 1.0 (it has core/). Download a later release.")
    if not (mimic_dir / "hosp").is_dir():
        nested = find_module(mimic_dir, "hosp")
        names = ", ".join(sorted(path.name for path in mimic_dir.iterdir())[:8]) or "an empty directory"
        got = f"it in {nested}" if nested else names
        fix = f"Set --mimic_dir to {nested.parent}" if nested else "Set --mimic_dir to its parent"
        raise UserError(f"{mimic_dir}: expected a directory that contains hosp/, got {got}. {fix}.")
    tables, warnings = [], []
    for module in MODULES:
        folder = mimic_dir / module
        if not folder.is_dir():
            empty = [task.name for task in TASKS.values() if module in needs_modules(task)]
            nested = find_module(mimic_dir, module)
            fix = f" Its tables are in {nested}: ln -s {nested.resolve()} {folder}" if nested else ""
            warnings.append(f"{folder} does not exist: these tasks will have no rows: {', '.join(empty)}.{fix}")
            continue
        for event in [event for event in EVENTS.values() if event.module == module]:
            path = find_table(folder, event.name)
            if path is None and event.optional:
                continue
            if path is None:
                expected, fix = f"{folder / event.name}.csv: expected this table (or .csv.gz)", how_to_get(folder, module)
                raise UserError(f"{expected}, got no such file. {fix}.")
            table = RawTable(event, path, column_names(path))
            check_columns(table)
            tables.append(table)
        for name in DICTIONARY_TABLES.get(module, ()):
            find_table(folder, name)  # an error if there are two
    return tables, warnings


def how_to_get(folder: Path, module: str) -> str:
    """What to do if a table of an existing module is missing."""
    if nested := find_module(folder, module):
        download = folder.resolve().with_name(f"{module}-download")
        return f"Its tables are in {nested}: mv {folder} {download} && ln -s {download / nested.relative_to(folder)} {folder}"
    if module == "hosp":
        return f"Download it; {OLDEST[module]} and later have it (1.0 has some tables in core/)"
    return f"Download it, or remove the whole directory {module}/ to work without the module"


def column_names(path: Path) -> tuple[str, ...]:
    """The names of all columns of a file, in which unnamed columns are numbered (`UNNAMED`)."""
    return tuple(name or f"{UNNAMED}{number}" for number, name in enumerate(read_raw_header(path), 1))


def check_columns(table: RawTable) -> None:
    """Raise an error if a file lacks a column that its table must have, or has one of a name that rank.py adds."""
    path, event, columns = table.path, table.event, table.columns
    # The key admission_info is only in some trajectories, never in a raw file.
    missing = [column for column in event.required_columns if column not in (*columns, "admission_info")]
    if missing:
        got = shown_columns(columns, event.required_columns)
        fix = f"Use {OLDEST[event.module]} or later"
        if separator := other_separator(columns[0]):
            got, fix = f"columns separated by {separator}", "Save it with commas"
        raise UserError(f"{path}: expected the column{'s' * (len(missing) > 1)} {', '.join(missing)}, got {got}. {fix}.")
    if reserved := [column for column in event.added_columns if column in columns]:
        expected = f"no column {', '.join(reserved)}, which rank.py adds to the records of {event.name}"
        raise UserError(f"{path}: expected {expected}, got one. Rename or remove it.")


# --- their text


class _HashedFile(io.FileIO):
    """A file that is hashed while it is read from beginning to end."""

    def __init__(self, path: Path, digest: Any) -> None:
        super().__init__(path)
        self._digest = digest

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._digest.update(data)
        return data


def _is_padded(path: Path) -> bool:
    """Whether zeros follow the data of a gzipped file, as some archives write them; Arrow refuses them."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return not any(file.read())  # otherwise the number of bytes of text


class _Stream(io.RawIOBase):
    """The decompressed bytes of a raw file. Checks quotation marks, and reports the bytes of the file that were read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None], digest: Any) -> None:
        import pyarrow as pa

        self._file = path.open("rb") if digest is None else _HashedFile(path, digest)
        if path.suffix != ".gz":
            self._data = self._file
        elif _is_padded(path):
            self._data = gzip.GzipFile(fileobj=self._file)
        else:  # much faster
            self._data = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), "gzip")
        self._on_bytes, self._seen = on_bytes, 0
        self.quotes, self.last, self.truncated = QuoteCheck(), b"\n", False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._data.read(size)
        while len(data) < size and (rest := self._data.read(size - len(data))):
            data += rest
        if len(data) < size and (data[-1:] or self.last) not in (b"\n", b"\r"):
            self.truncated = True
            data += b"\n"  # at the end of the file; without it, pyarrow cannot read a file that is a header only
        self.quotes.feed(data.removeprefix(BOM))
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
    path: Path,
    columns: Sequence[str],
    on_bytes: Callable[[int], None] = lambda number: None,
    digest: Any = None,
    warn: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Columns of a raw file as all-text record batches, missing values null.

    Whatever would lose or shift a value is an error. Messages contain row numbers and counts, never the text of a row.

    Args:
        path, columns: the raw file, and the columns to return.
        on_bytes: is called with the number of bytes of the file that were read.
        digest: an object of hashlib, which is updated with the bytes of the file.
        warn: print a warning if the last line has no line end.

    Raises:
        UserError: a column is missing, a row has too many or too few fields, a quotation mark is never closed, the text is not
            UTF-8, or the gzip data are corrupt.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    names = column_names(path)
    if any(column not in names for column in columns):
        got = shown_columns(names, columns)
        raise UserError(f"{path}: expected the columns {', '.join(columns)}, got {got}. Download the file again, or fix it.")
    named = {"column_names": names, "skip_rows_after_names": 1}  # instead of those of the header
    rows, last, finished = 0, None, False
    stream = _Stream(path, on_bytes, digest)
    try:
        reader = pc.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pc.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, **named),
            parse_options=pc.ParseOptions(newlines_in_values=True),
            convert_options=text_columns(columns),
        )
        for batch in reader:
            if batch.num_rows:
                rows, last = rows + batch.num_rows, batch
                yield batch
        finished = True
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        if stream.quotes.finds_stray:
            raise stray_quotes_error(path) from None
        text = str(error)
        if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            row, number, actual = map(int, match.groups())
            expected, got = f"{number} fields in every row", f"{actual} in row {row - 1:,}"
        elif "UTF8" in text:
            column = re.search(r"CSV column #(\d+)", text)
            name = f" in column {names[int(column.group(1))].strip()}" if column else ""
            expected, got = "UTF-8", f"other bytes{name}"
        elif "straddl" in text:
            expected = f"rows of at most {BLOCK_BYTES >> 20} MiB"
            got = "a longer one, probably because a quotation mark is never closed"
        else:
            expected = "a readable CSV file"
            got = "a malformed row" if isinstance(error, pa.ArrowInvalid) else text.splitlines()[0][:120]
        where = f"{path}, after row {rows:,}"
        raise UserError(f"{where}: expected {expected}, got {got}. Download the file again, or fix it.") from None
    finally:
        stream.close()
        if not finished:  # let a thread of pyarrow that reads ahead end, which would abort the process at its exit
            time.sleep(0.1)
    if stream.quotes.feed(b"\n").finds_stray:
        raise stray_quotes_error(path)
    # pyarrow takes a field whose closing quote is missing to reach to the end of the file: rows would vanish in it.
    if last is not None and stream.quotes.count % 2 and "\n" in (last.column(last.num_columns - 1)[-1].as_py() or ""):
        raise UserError(f"{path}: expected closed quotation marks, got an open one at the end. Download the file again.")
    if warn and stream.truncated:
        print(f"warning: {path} does not end with a line end and may be truncated; its last row was read.")


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def python_float(text: str) -> str:
    """A FLOAT value as Python formats a float; other text stays as it is.

    >>> [python_float(text) for text in ("7", "7.50", "1e-7", "___", "40.000001192092896", "inf")]
    ['7.0', '7.5', '1e-07', '___', '40.000001192092896', 'inf']
    """
    return repr(float(text)) if _NUMBER.fullmatch(text) else text


def parse_times(texts: pl.Series) -> pl.Series:
    """The times, to the millisecond, of texts in MIMIC-IV's form; a date counts as 00:00:00, and other text as missing."""
    times = texts.str.to_datetime(TIME_FORMAT, time_unit="ms", strict=False)
    for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f"):
        if times.null_count() > texts.null_count():  # trying a form takes long if no text has it
            times = times.zip_with(times.is_not_null(), texts.str.to_datetime(form, time_unit="ms", strict=False))
    return times
