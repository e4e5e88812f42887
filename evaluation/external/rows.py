"""What the converters of other benchmarks share: rows that test.py runs and scores as it does the released JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from pipeline.files import atomic_path

Row = dict[str, Any]


def make_row(task: str, question: str, text: str, answer: str | list[str], candidates: list[str] | None, **info: Any) -> Row:
    """A row of a finished sample: its text, question and answer, and in `task_info` what scoring looks at.

    Args:
        task: a task of `EXTERNAL_TASKS`.
        question: the instruction sentence.
        text: the record.
        answer: the label, or the list of labels.
        candidates: the answers to choose from, or None.
        info: more for `task_info`: subject_id, …

    >>> make_row("guo_icu", "Intensive care?", "## …", "no", ["yes", "no"], subject_id="7")["task_info"]
    {'task': 'guo_icu', 'metric': 'auroc', 'task_type': 'risk', 'label': 'no', 'target': 'no', 'subject_id': '7'}
    """
    about = {"task": task, "metric": ALL_TASKS[task].metric, "task_type": ALL_TASKS[task].kind}
    output = answer if isinstance(answer, str) else "\n".join(answer)
    return {"instruction": question, "input": text, "output": output, "candidates": candidates,
            "task_info": about | {"label": answer, "target": answer} | info}  # fmt: skip


def check_output(path: Path) -> Path:
    """`path` if test.py would read it as JSONL.

    Raises:
        UserError: it would not.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: wanted a name that ends in .jsonl, by which test.py knows the format")
    return path


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSONL, numbered by `idx`; the file appears whole. Returns how many."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):
            file.write(json.dumps({"idx": count - 1, **row}, ensure_ascii=False) + "\n")
    return count
