"""Index CSVs as Arrow tables, with clean ids and positions, and checked windows and targets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset import cells
from mimiciv_dataset.cells import HOW_TO_EXPORT, cell_error, row_number, whole_number
from mimiciv_dataset.index_files import (
    BEGINS,
    EARLIER,
    ENDS,
    HOW_TO_GET_INDEX,
    IDS,
    INDEX_COLUMNS,
    REQUIRED,
    SAMPLE_COLUMNS,
    TARGET_TYPE,
    limits,
)
from mimiciv_dataset.lookups import csv_fault, text_columns
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 16 << 20  # of a CSV that is read at a time
# A target: a JSON string, or a list of them.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_SPACE = r"[ \t\n\r]*"
_LIST = rf"\[{_SPACE}(?:{_STRING}{_SPACE}(?:,{_SPACE}{_STRING}{_SPACE})*)?\]"
_TARGET = f"^{_SPACE}(?:{_STRING}|{_LIST}){_SPACE}$"
_ANY_TEXT = r"[^\s\p{Z}]"
_WEIGHT = r"^\d*\.?\d+(?:[eE][+-]?\d+)?$"


def read_header(path: Path) -> list[str]:
    """The column names of an index CSV, "" for unnamed columns; an error if one occurs twice."""
    return cells.read_known_header(path, tuple(dict.fromkeys((*INDEX_COLUMNS, *SAMPLE_COLUMNS))), HOW_TO_GET_INDEX)


def window_columns(path: Path | str, columns: Sequence[str], required: Sequence[str] = REQUIRED) -> tuple[str, str]:
    """The names of the two window columns of an index, which must have the columns `required`, too.

    >>> window_columns("x.csv", ["subject_id", "task", "event", "period_begin", "period_end", "target"])
    ('period_begin', 'period_end')
    >>> window_columns("x.csv", ["subject_id", "task", "period_end"])
    Traceback (most recent call last):
    pipeline.errors.UserError: x.csv: expected columns event, target, context_begin/period_begin, got
    subject_id, task, period_end. Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index.
    """
    begin, end = (next((name for name in names if name in columns), None) for names in (BEGINS, ENDS))
    missing = [name for name in required if name not in columns]
    missing += ["/".join(names) for name, names in ((begin, BEGINS), (end, ENDS)) if name is None]
    if missing:
        raise UserError(f"{path}: expected columns {', '.join(missing)}, got {', '.join(columns)}. {HOW_TO_GET_INDEX}.")
    return begin, end


def read_tables(path: Path, required: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of an index CSV in tables of about `BLOCK_BYTES`, without empty rows and unnamed columns.

    Ids are text and positions int32; the window is period_begin and period_end. Other columns are text; "" and "nan" are null.

    Raises:
        UserError: a column is missing; a row has another number of fields, no value in a column of `required` or no window; an
            id or position is no whole number; a window is empty; or a target is not JSON.
    """
    header, first = read_header(path), 0
    window_columns(path, header, required)
    for number, block in enumerate(_blocks(path, BLOCK_BYTES)):
        table = _parse(path, header, block, not number, first, required)
        first += table.num_rows
        yield table


def byte_ranges(path: Path, size: int) -> list[tuple[int, int]]:
    """Ranges of bytes of a CSV, of about `size` each, that end at the end of a row; the first one begins with the header."""
    return list(pairwise(accumulate(map(len, _blocks(path, size)), initial=0)))


def read_range(path: Path, start: int, end: int, required: Sequence[str]) -> pa.Table:
    """The rows in a range of `byte_ranges` of an index CSV, as `read_tables` yields them."""
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(end - start)
    try:
        return _parse(path, read_header(path), block if block.endswith(b"\n") else block + b"\n", not start, 0, required)
    except UserError:
        deque(read_tables(path, required), maxlen=0)  # raises the error with the number of the row in the file
        raise


def _parse(path: Path, header: Sequence[str], block: bytes, has_header: bool, first: int, required: Sequence[str]) -> pa.Table:
    """The rows in bytes of an index CSV; `first` rows of the file come before them."""
    import pyarrow as pa
    import pyarrow.csv as pc

    window = window_columns(path, header, required)
    names = [name or f"unnamed {number}" for number, name in enumerate(header)]  # pyarrow needs distinct names
    options = {"parse_options": pc.ParseOptions(newlines_in_values=True), "convert_options": text_columns(names, ("", "nan"))}
    # two threads parse the halves of a block; each half must hold a whole row
    read_options = pc.ReadOptions(column_names=names, skip_rows_after_names=int(has_header), block_size=BLOCK_BYTES // 2)
    try:
        table = pc.read_csv(pa.BufferReader(block), read_options=read_options, **options)
    except pa.ArrowInvalid as error:
        raise _table_error(path, len(header), error) from None
    return _clean(path, _without_empty_rows(table).select(list(filter(None, header))), first, window, required)


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a CSV in pieces of about `size` that end at the end of a row; at least one."""
    rest = b""
    with path.open("rb") as file:
        while data := file.read(size):
            rest += data
            end = len(rest)
            quotes = rest.count(b'"')
            while True:  # the last line end outside quotation marks
                line_end = rest.rfind(b"\n", 0, end)
                quotes -= rest.count(b'"', line_end + 1, end)
                if line_end < 0 or quotes % 2 == 0:
                    break
                end = line_end
            if line_end >= 0:
                yield rest[: line_end + 1]
                rest = rest[line_end + 1 :]
    if rest.count(b'"') % 2:
        raise UserError(f"{path}: expected closed quotation marks, got an open one at the end. Save or copy the file again.")
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"


def _table_error(path: Path, width: int, error: Exception) -> UserError:
    """The error for a CSV that pyarrow does not read."""
    row = next((number for number, row in cells.read_cells(path) if len(row) != width), None)
    if row is None:
        return UserError(f"{path}: expected an index CSV, got {csv_fault(error)}. {HOW_TO_GET_INDEX}.")
    expected = f"{width} fields, as in the header, got another number"
    return UserError(f"{path}, row {row}: expected {expected}. Save or copy the file again.")


def _clean(path: Path, table: pa.Table, first: int, window: tuple[str, str], required: Sequence[str]) -> pa.Table:
    """Rows with clean values; `first` rows of the file come before them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def fault(index: int, column: str, expected: str, got: str, fix: str) -> UserError:
        return cell_error(path, row_number(path, first + index), column, expected, got, fix)

    def check(faults: pa.Array, column: str, expected: str, got: str, fix: str = HOW_TO_GET_INDEX) -> None:
        if len(rows := pc.indices_nonzero(faults)):
            raise fault(rows[0].as_py(), column, expected, got, fix)

    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name, column in columns.items():
        if name in (*IDS, *window, *EARLIER):
            try:
                columns[name] = _whole_numbers(column, *limits(name)).cast(pa.string() if name in IDS else pa.int32())
            except ValueError as error:
                got, index = error.args
                raise fault(index, name, "a whole number", got, HOW_TO_EXPORT) from None
        elif name in ("task", "event", "target_weight"):
            columns[name] = pc.utf8_trim_whitespace(column)
        if name in (*required, *window):
            check(columns[name].is_null(), name, "a value", "an empty cell")
    for name, pattern, expected in (("target", _TARGET, TARGET_TYPE), ("target_weight", _WEIGHT, "a number")):
        if name in columns:
            is_valid = pc.match_substring_regex(columns[name], pattern)
            check(pc.invert(is_valid), name, expected, "something else", "Restore what a spreadsheet may have changed")
    begin, end = window
    check(pc.less_equal(columns[end], columns[begin]), end, f"a position after {begin}", "another")
    names = dict(zip(window, ("period_begin", "period_end"), strict=True))
    if window == (BEGINS[0], ENDS[0]):  # the window last, as in `normalise_row`
        columns |= {name: columns.pop(name) for name in window}
    return pa.table({names.get(name, name): column for name, column in columns.items()})


def _without_empty_rows(table: pa.Table) -> pa.Table:
    """The rows that have a value in some column."""
    import pyarrow.compute as pc

    has_value = pc.match_substring_regex(table["subject_id"], _ANY_TEXT)
    if pc.all(has_value, skip_nulls=False).as_py():
        return table
    for column in table.columns:
        has_value = pc.or_kleene(has_value, pc.match_substring_regex(column, _ANY_TEXT))
    return table.filter(has_value)


def _whole_numbers(column: pa.Array, minimum: int, maximum: int) -> pa.Array:
    """A text column as int64.

    Raises:
        ValueError: as `whole_number` does, with the index of the first cell that it refuses as second argument.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:  # most columns hold plain numbers
        numbers = column.cast(pa.int64())
        limits = pc.min_max(numbers).as_py()
        in_range = limits["min"] is None or minimum <= limits["min"] <= limits["max"] <= maximum
        if in_range and numbers.cast(pa.string()).equals(column):
            return numbers
    except pa.ArrowInvalid:
        pass
    distinct, values = column.dictionary_encode(), []
    for text in distinct.dictionary.to_pylist():
        try:
            values.append(whole_number(text, minimum, maximum))
        except ValueError as error:
            raise ValueError(str(error), pc.index(column, text).as_py()) from None
    return pa.array(values, pa.int64()).take(distinct.indices)
