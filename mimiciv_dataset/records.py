"""Events, and their records: a small table of text values."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple


class Records(NamedTuple):
    """Records of a table: column names, and a list of values for each record, None if it lacks the column."""

    columns: tuple[str, ...]
    rows: list[list[Any]]

    @classmethod
    def of(cls, items: list[dict[str, Any]]) -> Records:
        """Make records from dicts.

        >>> Records.of([{"a": "1"}, {"a": "2", "b": "3"}])
        Records(columns=('a', 'b'), rows=[['1', None], ['2', '3']])
        """
        columns = tuple(items[0]) if items else ()
        if all(map(columns.__eq__, map(tuple, items))):
            return cls(columns, [[*item.values()] for item in items])
        columns = tuple(dict.fromkeys(column for item in items for column in item))
        return cls(columns, [[item.get(column) for column in columns] for item in items])

    def dicts(self) -> list[dict[str, Any]]:
        """The records as dicts, as released files have them."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def first(self, column: str) -> Any:
        """A value of the first record; None if there is no such record or column."""
        return self.rows[0][self.columns.index(column)] if self.rows and column in self.columns else None


class Event(NamedTuple):
    """An event of a trajectory, as stored.

    Attributes:
        file_name: the table of its records.
        starttime, endtime: `YYYY-MM-DD HH:MM:SS`, or None.
        hadm_id: the hospital admission, or None.
        items: the records as JSON: lists of values if there are `columns`, else objects (the released layout).
        columns: the columns of the values.
    """

    file_name: str
    starttime: str | None
    endtime: str | None
    hadm_id: str | None
    items: str
    columns: tuple[str, ...] | None = None

    def records(self) -> Records:
        """The parsed records.

        >>> Event("omr", None, None, None, '[["1"]]', ("result_value",)).records().dicts()
        [{'result_value': '1'}]
        >>> Event("omr", None, None, None, '[{"result_value": "1"}]').records().first("result_value")
        '1'
        """
        if self.columns is None:  # released records can have NaN, which only `json` reads
            return Records.of(json.loads(self.items))
        return Records(self.columns, _loads()(self.items))


@cache
def _loads() -> Callable[[str], Any]:
    import orjson  # an import statement in each call of `records` would take a tenth of its time

    return orjson.loads
