"""Columns of text as the kernels read them: one block of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # starts, data and valid of some texts (kernels.py)


@dataclass(frozen=True)
class Texts:
    """A table whose columns are all text.

    In `block`, the text of a row in a column is number `column * rows + row`, and after all texts are spare bytes for kernels.
    """

    table: pa.Table

    @property
    def columns(self) -> list[str]:
        return self.table.column_names

    @property
    def rows(self) -> int:
        return self.table.num_rows

    @cached_property
    def block(self) -> Block:
        """All columns, one after the other."""
        import pyarrow as pa

        from preprocess.kernels import SPARE

        chunks = [chunk for column in self.table.columns for chunk in column.chunks]
        starts, data, valid = block_of(pa.concat_arrays([*chunks, pa.array([" " * SPARE])]))
        return starts[:-1], data, valid[:-1]

    def column(self, name: str) -> Block:
        """One column."""
        first = self.columns.index(name) * self.rows
        starts, data, valid = self.block
        return starts[first : first + self.rows + 1], data, valid[first : first + self.rows]

    def with_columns(self, changed: Mapping[str, pl.Series]) -> Texts:
        """The table with other columns in place of those of the same name, and new ones at its end."""
        import pyarrow as pa

        table = self.table
        for name, series in changed.items():
            column = series.to_arrow().cast(pa.string())
            position = table.schema.get_field_index(name)
            table = table.append_column(name, column) if position < 0 else table.set_column(position, name, column)
        return Texts(table)


def block_of(array: pa.StringArray | pa.LargeStringArray) -> Block:
    """The texts of an array, not copied."""
    import numpy as np
    import pyarrow as pa

    _, starts, data = array.buffers()
    starts = np.frombuffer(starts, np.int32 if pa.types.is_string(array.type) else np.int64)[
        array.offset : array.offset + len(array) + 1
    ]
    data = np.frombuffer(data or b"", np.uint8)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    for each in (starts, data, valid):
        each.flags.writeable = False  # always: numba compiles a kernel for each kind of its arguments
    return starts, data, valid
