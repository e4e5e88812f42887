"""Index files: their columns, two readers, and the identity and target of a row.

A task index (`task_sample_info_gen.py`) and a sampled set (`data_index_gen.py`, the released `ehr_ins/` and `ehr_bench/`) are
CSVs that differ in the names of two columns. `read_tables` reads and checks them, whatever a spreadsheet did to them, for:

- `read_rows` for datasets and evaluation: CSV or JSONL, one row at a time from an Arrow table. It needs pyarrow only, and
  forked dataloader workers share the table, whereas a list of dicts would be copied to each of them.
- `index_frames.scan` for samplers: a lazy polars frame. Do not fork after using it.

Targets are JSON and are parsed by `json`, never by `eval`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset import cells
from mimiciv_dataset.cells import HOW_TO_EXPORT, MAX_ID, MAX_POSITION, cell_error, clean_id, row_number, whole_number
from mimiciv_dataset.json_lines import clean_numbers, line_table, parse_line
from mimiciv_dataset.lookups import csv_fault, text_columns
from pipeline.errors import UserError
from pipeline.files import require, sha256

if TYPE_CHECKING:
    import pyarrow as pa

IDS = ("subject_id", "hadm_id")
EARLIER = ("admissions_id", "last_discharge_id")  # positions of earlier events
_BEGINS, _ENDS = ("context_begin", "period_begin"), ("context_end", "period_end")  # in a task index, in other files
# Columns of a task index, and of a sampled set.
INDEX_COLUMNS = (*IDS, "task", "event", "context_begin", "context_end", "target", "target_weight", *EARLIER, "audit")
SAMPLE_COLUMNS = (*IDS, "task", "event", "period_begin", "period_end", *EARLIER, "target", "audit")
REQUIRED = ("subject_id", "task", "event", "target")
HOW_TO_GET_INDEX = "Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index"
AUDIT_SUFFIX = ".audit.csv"  # of the tables that data_index_gen.py writes beside sampled sets
BLOCK_BYTES = 16 << 20  # of a CSV that is read at a time
BATCH_ROWS = 1024  # made from a table at a time while iterating over its rows
# A target: a JSON string, or a list of them.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_SPACE = r"[ \t\n\r]*"
_LIST = rf"\[{_SPACE}(?:{_STRING}{_SPACE}(?:,{_SPACE}{_STRING}{_SPACE})*)?\]"
_TARGET = f"^{_SPACE}(?:{_STRING}|{_LIST}){_SPACE}$"
_ANY_TEXT = r"[^\s\p{Z}]"
_WEIGHT = r"^\d*\.?\d+(?:[eE][+-]?\d+)?$"
_TARGET_TYPE = "a JSON string or list of strings"


def clean_position(value: Any) -> int | None:
    """A position in the trajectory; None if it is missing.

    >>> clean_position("12"), clean_position("12.0"), clean_position("None")
    (12, 12, None)
    """
    try:
        return whole_number(value, 1, MAX_POSITION)
    except ValueError as error:
        raise UserError(f"expected a position, got {error}.") from None


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
    if row.get("input_sha256") is None and row.get("input") is None:
        raise UserError("expected a row with subject_id and window, or with input, got neither. Fix the row.")
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
    raise UserError(f"target: expected {_TARGET_TYPE}, got something else.")


# --- headers


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
    begin, end = (next((name for name in names if name in columns), None) for names in (_BEGINS, _ENDS))
    missing = [name for name in required if name not in columns]
    missing += ["/".join(names) for name, names in ((begin, _BEGINS), (end, _ENDS)) if name is None]
    if missing:
        raise UserError(f"{path}: expected columns {', '.join(missing)}, got {', '.join(columns)}. {HOW_TO_GET_INDEX}.")
    return begin, end


# --- tables, for both readers


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
                columns[name] = _whole_numbers(column, *_limits(name)).cast(pa.string() if name in IDS else pa.int32())
            except ValueError as error:
                got, index = error.args
                raise fault(index, name, "a whole number", got, HOW_TO_EXPORT) from None
        elif name in ("task", "event", "target_weight"):
            columns[name] = pc.utf8_trim_whitespace(column)
        if name in (*required, *window):
            check(columns[name].is_null(), name, "a value", "an empty cell")
    for name, pattern, expected in (("target", _TARGET, _TARGET_TYPE), ("target_weight", _WEIGHT, "a number")):
        if name in columns:
            is_valid = pc.match_substring_regex(columns[name], pattern)
            check(pc.invert(is_valid), name, expected, "something else", "Restore what a spreadsheet may have changed")
    begin, end = window
    check(pc.less_equal(columns[end], columns[begin]), end, f"a position after {begin}", "another")
    names = dict(zip(window, ("period_begin", "period_end"), strict=True))
    if window == (_BEGINS[0], _ENDS[0]):  # the window last, as in `normalise_row`
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


# --- rows, for datasets and evaluation


def normalise_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a row with clean ids, integer positions, the window as period_begin/period_end, and a parsed target.

    Of a row that has its text (`has_text`), ids and window are as `clean_numbers` returns them, also in its task_info.

    Raises:
        UserError: `read_tables` would refuse the row.

    >>> normalise_row({"subject_id": "7.0", "hadm_id": "", "context_begin": "3", "context_end": "9", "target": '"no"'})
    {'subject_id': '7', 'hadm_id': None, 'target': 'no', 'period_begin': 3, 'period_end': 9}
    """
    if has_text(row):
        return _clean_text_row(row)
    clean = clean_window(row)
    if isinstance(clean.get("target"), str):
        clean["target"] = parse_target(clean["target"])
    return clean


def _clean_text_row(row: Mapping[str, Any]) -> dict[str, Any]:
    names = (*IDS, *_BEGINS, *_ENDS)
    clean = {name: value for name, value in clean_numbers(row, names).items() if value is not None or name not in names}
    if isinstance(info := row.get("task_info"), dict):
        try:
            clean["task_info"] = clean_numbers(info, names)
        except UserError as error:
            raise UserError(f"task_info.{error}") from None
    return clean


def has_text(row: Mapping[str, Any]) -> bool:
    """Whether a row has its text, as those of the released JSONL do, instead of a window of a trajectory."""
    return "input" in row or "task_info" in row


def clean_window(row: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a row with clean ids, integer positions, and the window as period_begin/period_end."""
    clean = dict(row)
    for context, period in (_BEGINS, _ENDS):
        value = clean.pop(context, None)
        clean[period] = clean.get(period, value)
    for name in clean:
        if name in (*IDS, *EARLIER, "period_begin", "period_end"):
            try:
                number = whole_number(clean[name], *_limits(name))
            except ValueError as error:
                raise UserError(f"{name}: expected a whole number, got {error}. {HOW_TO_EXPORT}.") from None
            clean[name] = str(number) if name in IDS and number is not None else number
    begin, end = clean["period_begin"], clean["period_end"]
    if clean.get("subject_id") is None or begin is None or end is None or begin >= end:
        raise UserError("expected a subject_id, and a window that ends after it begins, got another row. Fix the row.")
    return clean


def _limits(name: str) -> tuple[int, int]:
    """The smallest and largest value in a column of ids or positions; event 0 is the patient, and in no window."""
    return (0, MAX_ID) if name in IDS else (1, MAX_POSITION)


class Rows(Sequence[dict[str, Any]]):
    """The rows of an index CSV or JSONL, as `normalise_row` returns them; an empty cell or `nan` is None.

    `rows[i]` is a new dict each time, so that no two samples share one. `table` has the columns of a CSV, or number and text
    of the lines of a JSONL.
    """

    def __init__(self, path: Path, table: pa.Table, lines: bool) -> None:
        self.path = path
        self.table = table
        self._lines = lines
        self._values = _as_bytes(table) if lines else table  # lines are parsed as bytes, which a text would be copied to

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int | slice) -> Any:  # type: ignore[override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._row(index, self._values.slice(index, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        index = 0
        for batch in self._values.to_batches(max_chunksize=BATCH_ROWS):
            for values in batch.to_pylist():
                yield self._row(index, values)
                index += 1

    def _row(self, index: int, values: dict[str, Any]) -> dict[str, Any]:
        """The row at `index` from the values of the table."""
        if not self._lines:
            if isinstance(values.get("target"), str):
                values["target"] = parse_target(values["target"])
            return values
        try:
            row = parse_line(values["line"])
        except UserError as error:
            raise UserError(f"{self.where(index)}: {error}") from None
        if not has_text(row):
            window_columns(self.where(index), list(row), required=("subject_id", "task"))
        try:
            return normalise_row(row)
        except UserError as error:
            raise UserError(f"{self.where(index)}: {error}") from None

    def where(self, index: int) -> str:
        """File and row of a CSV, numbered as a spreadsheet shows it (the header is row 1), or file and line of a JSONL."""
        if self._lines:
            return f"{self.path}, line {self.table['number'][index].as_py()}"
        return f"{self.path}, row {row_number(self.path, index)}"

    @property
    def columns(self) -> list[str]:
        """The columns of a CSV; empty for a JSONL, whose rows can differ."""
        return [] if self._lines else self.table.column_names

    def column(self, name: str) -> list[Any]:
        """The values of a column of a CSV: ids, positions, or the text in the file."""
        return self.table[name].to_pylist()

    def subject_ids(self) -> list[str | None]:
        """The patient of each row; rows of a JSONL with `input` may have it in their task_info, or lack it."""
        if not self._lines:
            return self.column("subject_id")
        infos = (row | {"subject_id": row.get("subject_id") or _task_info(row).get("subject_id")} for row in self)
        return [clean_id(info["subject_id"]) for info in infos]

    def having(self, name: str) -> list[int]:
        """Positions of the rows that have a value in this column; in a JSONL, of those whose line contains the name."""
        import pyarrow.compute as pc

        if not self._lines and name not in self.columns:
            return []
        has = pc.match_substring(self.table["line"], json.dumps(name)) if self._lines else pc.is_valid(self.table[name])
        return pc.indices_nonzero(has).to_pylist()


def _as_bytes(lines: pa.Table) -> pa.Table:
    """The table of `line_table` with bytes instead of text, which are not copied."""
    import pyarrow as pa

    return lines.set_column(lines.column_names.index("line"), "line", lines["line"].cast(pa.large_binary()))


def _task_info(row: Mapping[str, Any]) -> dict[str, Any]:
    info = row.get("task_info")
    return info if isinstance(info, dict) else {}


def read_rows(path: Path | str) -> Rows:
    """Read the rows of an index CSV (`.csv`) or JSONL (`.jsonl`, `.json`)."""
    import pyarrow as pa

    path = require(path, "an index CSV or JSONL", HOW_TO_GET_INDEX)
    if path.is_dir():
        raise UserError(f"{path}: expected an index file, got a directory. Choose a file in it.")
    if path.suffix in (".jsonl", ".json"):
        return Rows(path, line_table(path), lines=True)
    return Rows(path, pa.concat_tables(read_tables(path, required=("subject_id", "task"))), lines=False)


# --- paths


def index_files(path: Path | str) -> list[Path]:
    """The CSVs of an index: the file itself, or all CSVs of a directory, sorted by name."""
    path = require(path, "a task index (a directory of CSVs, or a CSV)", HOW_TO_GET_INDEX)
    files = [path] if path.is_file() else sorted(file for file in path.glob("*.csv") if not file.name.startswith("."))
    files = [file for file in files if not file.name.endswith(AUDIT_SUFFIX)]
    if not files:
        raise UserError(f"{path}: expected a task index, got no CSV files. {HOW_TO_GET_INDEX}.")
    return files


def index_paths(paths: Iterable[Path | str], fix: str = HOW_TO_GET_INDEX) -> list[Path]:
    """The index files among `paths`, such as those of `ehr_bench/*.csv`: audit tables are skipped with a note.

    `fix` says what to do if one of them does not exist.
    """
    files = [require(path, "an index CSV or JSONL", fix) for path in paths]
    indexes = [path for path in files if not path.name.endswith(AUDIT_SUFFIX)]
    for path in files:
        if path not in indexes:
            print(f"note: {path} is the audit table of a sampled set, not an index; skipped")
    if not indexes:
        raise UserError(f"{', '.join(map(str, files))}: expected index files, got audit tables. {HOW_TO_GET_INDEX}.")
    return indexes
