"""Cells of CSV files that a spreadsheet or another tool may have rewritten: whole numbers, headers, row numbers.

Rows are numbered as a spreadsheet shows them: the header is row 1, and empty rows count. Errors name file, row and column, and
what kind of thing is there, never a value.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mimiciv_dataset.csv_checks import other_separator
from mimiciv_dataset.events import MISSING_TEXTS
from mimiciv_dataset.values import clean_number
from pipeline.errors import UserError

MISSING_CELLS = MISSING_TEXTS  # spellings of a missing value in the columns of ids and positions
MAX_ID, MAX_POSITION = 2**63 - 1, 2**31 - 1
HOW_TO_EXPORT = "Format the column as whole numbers without exponent and save the file as CSV again"

_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[,'’ \u00a0\u202f]\d{3})+(?:\.0*)?|[1-9]\d{0,2}(?:\.\d{3}){2,}")
_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_KINDS = {
    "a negative number": r"-\d[\d,.]*",
    "a number with decimals": r"\d+[.,]\d*|\.\d+",
    "a rounded number with an exponent": r"-?\d[\d.]*[eE][+-]?\d+",
    "a date or time": rf"\d{{1,4}}[-/.]\d{{1,2}}\b.*|\d{{1,2}}:\d{{2}}.*|\d{{0,4}}[-. /]?{_MONTH}.*",
}


def whole_number(value: Any, minimum: int = 0, maximum: int = MAX_ID) -> int | None:
    """The whole number in a cell, however it is written; None if the cell is missing.

    Beside what `clean_number` reads, numbers may be padded and have thousands separators.

    Raises:
        ValueError: with the kind of thing that the cell holds instead.

    >>> [whole_number(cell) for cell in (7, "7.0", " 007 ", "9.1000001e7", "90,000,001", "90 000 001", "nan", "", None)]
    [7, 7, 7, 91000001, 90000001, 90000001, None, None, None]
    >>> whole_number("9.1e+07")
    Traceback (most recent call last):
    ValueError: a rounded number with an exponent
    >>> whole_number("2/1/2150")
    Traceback (most recent call last):
    ValueError: a date or time
    """
    text = "" if value is None else str(value).strip()
    if text in MISSING_CELLS:
        return None
    if _GROUPED.fullmatch(text):
        digits = re.sub(r"\D", "", text if text.count(".") > 1 else text.partition(".")[0])
    else:
        try:
            digits = clean_number(text)
        except ValueError:
            kind = next((kind for kind, pattern in _KINDS.items() if re.fullmatch(pattern, text)), "another text")
            raise ValueError(kind) from None
    number = int(digits)
    if not minimum <= number <= maximum:
        raise ValueError(f"a number below {minimum}" if number < minimum else f"a number above {maximum}")
    return number


def clean_id(value: Any) -> str | None:
    """An id as text; None if it is missing. What is no whole number keeps its text.

    >>> clean_id("28710730.0"), clean_id(28710730), clean_id("nan"), clean_id(""), clean_id(None), clean_id("x1")
    ('28710730', '28710730', None, None, None, 'x1')
    """
    try:
        number = whole_number(value)
    except ValueError:
        return str(value).strip()
    return None if number is None else str(number)


# --- headers and rows


def open_csv(path: Path) -> Any:
    """Open a CSV or CSV.gz in UTF-8, with or without a byte-order mark, for the module `csv`."""
    csv.field_size_limit(1 << 30)  # notes, and evidence as JSON
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8-sig")


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number, cells) for the header and each row of a CSV that is not empty."""
    if path.is_dir():
        raise UserError(f"{path}: expected a CSV file, got a directory. Choose a file in it.")
    number = 0
    try:
        with open_csv(path) as file:
            for number, cells in enumerate(csv.reader(file), 1):
                if not is_empty(cells):
                    yield number, cells
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a CSV in UTF-8, got other bytes. Decompress it, or save it as CSV UTF-8.") from None
    except (csv.Error, gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{path}, row {number + 1}: expected a CSV, got a malformed row. Save or download it again.") from None


def is_empty(cells: Iterable[str]) -> bool:
    """Whether no cell of a row has a value."""
    return all(cell.strip() in ("", "nan") for cell in cells)


def shown_columns(columns: Sequence[str], known: Collection[str]) -> str:
    """The columns of a file for an error; a first row without any `known` name may be a row of data, so it is not quoted.

    >>> shown_columns(["subject_id", "note"], ["subject_id", "text"]), shown_columns(["10000032", "Mr Smith"], ["subject_id"])
    ('subject_id, note', 'a first row of 2 cells without them (is the header missing?)')
    """
    if not {column.strip() for column in columns} & set(known):
        return f"a first row of {len(columns)} cells without them (is the header missing?)"
    return ", ".join(column.strip() for column in columns)[:300]


def read_known_header(path: Path, known: Collection[str], fix: str) -> list[str]:
    """The column names of a CSV; those of `known` columns in their usual spelling, and "" for unnamed columns.

    Raises:
        UserError: none of the `known` columns is there, or a name occurs twice; `fix` says where such a file comes from.
    """
    number, cells = next(read_cells(path), (1, []))
    header = [known_name(cell, known) for cell in cells]
    if not header:
        raise UserError(f"{path}: expected a CSV with a header, got an empty file. {fix}.")
    if not set(header) & set(known):  # perhaps a row of data, so it is not quoted
        separator = other_separator(cells[0])
        columns = f"column{'s' * (len(known) > 1)} {', '.join(list(known)[:3])}{', …' * (len(known) > 3)}"
        got = f"columns separated by {separator}. Save it with commas" if separator else f"a first row without them. {fix}"
        raise UserError(f"{path}: expected {columns}, got {got}.")
    if number > 1:
        raise UserError(f"{path}: expected the header in row 1, got empty rows above it. Remove them.")
    repeated = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: expected every column once, got {', '.join(repeated)} repeatedly. Rename or remove them.")
    return header


def known_name(cell: str, known: Collection[str]) -> str:
    """A column name without padding; in the usual spelling if it is `known` in other spelling.

    >>> known_name(" Subject ID ", ["subject_id"]), known_name("Graph", ["subject_id"])
    ('subject_id', 'Graph')
    """
    name = cell.strip()
    usual = re.sub(r"[\s-]+", "_", name.lower())
    return usual if usual in known else name


def row_number(path: Path, index: int) -> int:
    """The number of the `index`-th row (from 0) of a CSV that is neither its header nor empty."""
    return next(islice(read_cells(path), index + 1, None))[0]


def cell_error(path: Path | str, row: int, column: str, expected: str, got: str, fix: str = HOW_TO_EXPORT) -> UserError:
    """An error about a cell."""
    return UserError(f"{path}, row {row}, column {column}: expected {expected}, got {got}. {fix}.")
