"""The rows of index CSVs and JSONL files, for datasets and evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.cells import HOW_TO_EXPORT, clean_id, row_number, whole_number
from mimiciv_dataset.index_files import BEGINS, EARLIER, ENDS, HOW_TO_GET_INDEX, IDS, limits, parse_target
from mimiciv_dataset.index_tables import read_tables, window_columns
from mimiciv_dataset.json_lines import clean_numbers, line_table, parse_line
from pipeline.errors import UserError
from pipeline.files import require

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024  # made from a table at a time while iterating over its rows


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
    names = (*IDS, *BEGINS, *ENDS)
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
    for context, period in (BEGINS, ENDS):
        value = clean.pop(context, None)
        clean[period] = clean.get(period, value)
    for name in clean:
        if name in (*IDS, *EARLIER, "period_begin", "period_end"):
            try:
                number = whole_number(clean[name], *limits(name))
            except ValueError as error:
                raise UserError(f"{name}: expected a whole number, got {error}. {HOW_TO_EXPORT}.") from None
            clean[name] = str(number) if name in IDS and number is not None else number
    begin, end = clean["period_begin"], clean["period_end"]
    if clean.get("subject_id") is None or begin is None or end is None or begin >= end:
        raise UserError("expected a subject_id, and a window that ends after it begins, got another row. Fix the row.")
    return clean


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
