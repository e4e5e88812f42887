"""What a command needs of every row before it makes prompts: task, identity, patient and length, in one pass over the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import Rows
from mimiciv_dataset.row_checks import check_rows, checked_rows, task_of_row
from pipeline.errors import UserError

WINDOW = ("subject_id", "period_begin", "period_end")


class RowKey(NamedTuple):
    """A row that has been checked.

    Attributes:
        task: name of its task.
        sample_id: its identity (`index_files.sample_id`).
        subject_id: its patient; None if it does not say.
        length: events of its window; characters of its text if it has it.
        is_complete: whether patient and window are known, so that `sample_id` does not depend on the text.
        idx: the field of this name in a JSONL.
    """

    task: str
    sample_id: str
    subject_id: str | None
    length: int
    is_complete: bool = True
    idx: Any = None


def row_keys(rows: Rows) -> Iterator[RowKey]:
    """Check the rows of a file (`check_rows`) and yield their keys.

    A CSV is read by columns. Each line of a JSONL is parsed once.
    """
    if rows.columns:
        check_rows(rows)
        tasks, *windows = (rows.column(name) for name in ("task", *WINDOW))
        for task, subject_id, begin, end in zip(tasks, *windows, strict=True):
            yield RowKey(task, f"{task}/{subject_id}/{begin}-{end}", sys.intern(subject_id), end - begin)
        return
    for index, row in enumerate(checked_rows(rows)):
        info, task = row.get("task_info", {}) | row, task_of_row(row).name
        try:
            identity = sample_id(info | {"task": task})
        except UserError as error:
            raise UserError(f"{rows.where(index)}: {error}") from None
        subject_id, *_ = window = [info.get(name) for name in WINDOW]
        length = len(row["input"]) if "input" in row else row["period_end"] - row["period_begin"]
        subject_id = None if subject_id is None else sys.intern(str(subject_id))
        yield RowKey(task, identity, subject_id, length, None not in window, row.get("idx"))
