"""Rows written by the converters of other benchmarks, in the format of the released JSONL that test.py reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimiciv_dataset.tasks import ALL_TASKS
from pipeline.errors import UserError
from pipeline.files import atomic_path

BenchmarkRow = dict[str, Any]  # a rendered sample: instruction, input, output, candidates and task_info


def make_row(
    task: str, question: str, text: str, answer: str | list[str], candidates: list[str] | None, **info: Any
) -> BenchmarkRow:
    """A rendered sample of a task of `EXTERNAL_TASKS`, whose `task_info` has the fields that scoring needs and `info`.

    >>> make_row("guo_icu", "Intensive care?", "## …", "no", ["yes", "no"], subject_id="7")["task_info"]
    {'task': 'guo_icu', 'metric': 'auroc', 'task_type': 'risk', 'label': 'no', 'target': 'no', 'subject_id': '7'}
    """
    task_info = {"task": task, "metric": ALL_TASKS[task].metric, "task_type": ALL_TASKS[task].kind}
    task_info |= {"label": answer, "target": answer} | info
    output = answer if isinstance(answer, str) else "\n".join(answer)
    return {"instruction": question, "input": text, "output": output, "candidates": candidates, "task_info": task_info}


def check_output(path: Path) -> None:
    """Check that the name of an output file ends in .jsonl, by which test.py recognises the format."""
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a file name ending in .jsonl, got another one. Choose another --output_path.")


def write_rows(path: Path, rows: Iterable[BenchmarkRow]) -> int:
    """Write rows as JSONL, numbered by `idx`, atomically; returns their number."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):
            file.write(json.dumps({"idx": count - 1, **row}, ensure_ascii=False) + "\n")
    return count
