"""The items of events: JSON lists of records, which are lists of values (in shards) or objects (in the released layout)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.order import TABLE_NUMBERS
from preprocess.texts import block_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from preprocess.texts import Block


@dataclass(frozen=True)
class EventTexts:
    """The items of consecutive events: where each begins and the last one ends, and their bytes, followed by spare ones."""

    starts: np.ndarray
    data: np.ndarray

    @property
    def text(self) -> memoryview:
        """All their bytes."""
        return memoryview(self.data[: self.starts[-1]])

    @classmethod
    def join(cls, lists: Sequence[pa.StringArray], order: np.ndarray, counts: np.ndarray, threads: Executor) -> EventTexts:
        """Join the JSON lists of records to those of events.

        Args:
            lists: the records, in several arrays.
            order: the records, numbered through, in the order in which they are joined.
            counts: the number of records of each event.
            threads: copy the records.

        >>> import numpy as np, pyarrow as pa
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> lists = [pa.array(['["a"]', '["b"]']), pa.array(['["c"]'])]
        >>> bytes(EventTexts.join(lists, np.array([2, 0, 1]), np.array([2, 1]), ThreadPoolExecutor()).text)
        b'[["c"],["a"]][["b"]]'
        """
        import numpy as np

        from preprocess import kernels

        blocks = [block_of(each) for each in lists]
        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(starts) for starts, _, _ in blocks)])
        if len(sizes) != len(order):
            raise RuntimeError(f"{len(order)} records in order, {len(sizes)} read")
        # before each record is a bracket or comma, after each event a bracket
        in_order, event = sizes[order], np.repeat(np.arange(len(counts)), counts)
        targets = np.empty(len(order), np.int64)
        targets[order] = np.cumsum(in_order + 1) - in_order + event
        starts = np.append(targets[order[np.cumsum(counts) - counts]] - 1, in_order.sum() + len(order) + len(counts))
        data = np.empty(starts[-1] + kernels.SPARE, np.uint8)
        words = kernels.words_of(data)

        def place(block: Block, end: int) -> None:
            record_starts, record_data, valid = block
            record_words, of_block = kernels.words_of(record_data), targets[end - len(valid) : end]
            kernels.place(record_starts, record_data, record_words, of_block, data, words)

        list(threads.map(place, blocks, np.cumsum([len(each) for each in lists]).tolist()))
        data[starts[:-1]], data[starts[1:] - 1] = ord("["), ord("]")
        return cls(starts, data)

    def to_arrow(self) -> pa.LargeStringArray:
        """The texts, not copied."""
        import pyarrow as pa

        return pa.LargeStringArray.from_buffers(len(self.starts) - 1, pa.py_buffer(self.starts), pa.py_buffer(self.text))


class ObjectKeys:
    """Writes the records of events as JSON objects with the names of their columns, and `file_name`.

    Args:
        columns: those of the records, by table.
        tables, counts: number of the table and number of records of each event.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], tables: np.ndarray, counts: np.ndarray) -> None:
        import numpy as np

        from preprocess import kernels

        keys: list[bytes] = []
        self._first_keys = np.zeros(len(TABLE_NUMBERS), np.int64)
        sizes = np.zeros(len(TABLE_NUMBERS), np.int64)
        for table, names in columns.items():
            first, *others = (json.dumps(name, ensure_ascii=False) for name in names)
            of_table = [f'{{{first}:"', *(f'",{name}:"' for name in others), f'","file_name":"{table}"}}']
            of_table = [key.encode() for key in of_table]
            self._first_keys[TABLE_NUMBERS[table]] = len(keys)
            sizes[TABLE_NUMBERS[table]] = sum(map(len, of_table))
            keys += of_table
        self._keys = np.frombuffer(b"".join(keys) + bytes(kernels.SPARE), np.uint8)
        self._starts = np.cumsum([0, *map(len, keys)])
        self._tables = tables
        self._sizes = counts * sizes[tables]  # of the keys of each event

    def write(self, lists: EventTexts, events: slice = slice(None), *, as_lists: bool = False) -> EventTexts:
        """Some of the events: their objects one after the other, or as a JSON list.

        Args:
            lists: all events, whose records are JSON lists.

        >>> import numpy as np
        >>> lists = EventTexts(np.array([0, 21]), np.frombuffer(b'[["1","a"],["2","b"]]' + bytes(8), np.uint8))
        >>> keys = ObjectKeys({"omr": ["x", "y"]}, np.array([TABLE_NUMBERS["omr"]]), np.array([2]))
        >>> bytes(keys.write(lists).text).decode()
        '{"x":"1","y":"a","file_name":"omr"}{"x":"2","y":"b","file_name":"omr"}'
        """
        import numpy as np

        from preprocess import kernels

        starts, tables = lists.starts[events.start : events.stop and events.stop + 1], self._tables[events]
        out = np.empty(starts[-1] - starts[0] + self._sizes[events].sum() + kernels.SPARE, np.uint8)
        out_starts = np.empty(len(starts), np.int64)
        words, key_words, out_words = map(kernels.words_of, (lists.data, self._keys, out))
        keys = (self._keys, key_words, self._starts, self._first_keys)
        kernels.write_objects(lists.data, words, starts, tables, *keys, as_lists, out, out_words, out_starts)
        return EventTexts(out_starts, out)
