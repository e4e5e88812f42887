"""Checks of all rows of a dataset, before a trajectory is read or a model is loaded.

A row that cannot be asked or scored is an error of one line, which names the row and never quotes it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from mimiciv_dataset.index_rows import Rows, has_text
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import ALL_TASKS, NO, TASKS, YES, Task
from pipeline.errors import UserError

FIX = "Fix or remove the row"
# Spellings of `Task.kind` in `task_type`: ours, and those of the released JSONL. Only the task itself decides its kind.
TASK_TYPES = {kind: kind for kind in ("decision", "risk", "generation")}
TASK_TYPES |= {"decision_making": "decision", "risk_prediction": "risk"}
_TEXTS = ("instruction", "input", "output")  # of a row that has its text
_SCALARS = ("subject_id", "hadm_id", "period_begin", "period_end", "context_begin", "context_end")  # of its task_info
_LINE_BREAK = re.compile(r"[\r\n]")  # ends an item of a reply, so that no reply can name a label with one
# Targets that need no further check: names without escapes, and a text that does not begin with white space or an escape.
_NAME = r'"[^"\\]*[^"\\\s][^"\\]*"'
_PLAIN_NAMES = rf"^\[{_NAME}(?:, ?{_NAME})*\]$"
_PLAIN_TEXT = r'^"[^"\\\s]'


def task_of_row(row: Mapping[str, Any]) -> Task:
    """The task of a row; a row that has its text may be of another benchmark."""
    name, tasks = row.get("task"), TASKS
    if has_text(row):
        info, tasks = row.get("task_info"), ALL_TASKS
        if not isinstance(info, dict):
            got = _kind_of_field(row, "task_info")
            raise UserError(f"task_info: expected an object with task and label, got {got}. {FIX}.")
        name = name or info.get("task")
    if not isinstance(name, str) or name not in tasks:
        raise UserError(f"expected a task of `task_sample_info_gen.py --list_tasks`, got another. {FIX}.")
    return ALL_TASKS[name]


def clean_label(task: Task, label: Any, field: str = "label") -> list[str] | str:
    """The label of a row: a list of names (metric `f1`), "yes" or "no" (risk tasks), or a text (other tasks).

    A list of one text is that text, and yes and no are read in any case. `field` names the label in errors.

    >>> clean_label(TASKS["emar"], ["Aspirin"]), clean_label(TASKS["ICU_Readmission"], "Yes")
    (['Aspirin'], 'yes')
    >>> clean_label(TASKS["emar"], "Aspirin")
    Traceback (most recent call last):
    pipeline.errors.UserError: label: expected a list of names for emar, got a text. Fix or remove the row.
    """
    if task.metric == "f1":
        if not _is_list_of_names(label):
            raise UserError(
                f"{field}: expected a list of names for {task.name}, got {_kind(label, ' of something else')}. {FIX}."
            )
        return label
    text = label[0] if isinstance(label, list) and len(label) == 1 else label
    if not _is_text(text):
        raise UserError(f"{field}: expected a text for {task.name}, got {_kind(label)}. {FIX}.")
    if task.kind != "risk":
        return text
    if text.strip().lower() not in (YES, NO):
        raise UserError(f"{field}: expected yes or no for {task.name}, got another text. {FIX}.")
    return text.strip().lower()


def check_row(row: Mapping[str, Any]) -> None:
    """Check a row, as `index_rows.normalise_row` returns it."""
    task = task_of_row(row)
    if not has_text(row):
        if row.get("target") is not None:  # otherwise it is made from the trajectory
            clean_label(task, row["target"], "target")
        return
    for name in _TEXTS:
        if not _is_text(row.get(name)):
            raise UserError(f"{name}: expected a text, got {_kind_of_field(row, name)}. {FIX}.")
    info = row["task_info"]
    for name in ("task", *_SCALARS):
        if name not in row or name not in info:
            continue
        values = row[name], info[name]
        if all(value not in (None, "") for value in values) and len(set(map(str, values))) > 1:
            raise UserError(f"task_info.{name}: expected the same as the row's own field {name}, got another value. {FIX}.")
    if "label" not in info:
        raise UserError(f"task_info.label: expected the correct answer, got no such field. {FIX}.")
    label = clean_label(task, info["label"], "task_info.label")
    if task.kind == "decision" and any(_LINE_BREAK.search(name.strip()) for name in label_list(label)):
        raise UserError(f"task_info.label: expected names of one line for {task.name}, got one with a line break. {FIX}.")
    if (candidates := row.get("candidates")) not in (None, []) and not _is_list_of_names(candidates):
        raise UserError(f"candidates: expected a list of names or null, got {_kind(candidates, ' of something else')}. {FIX}.")
    _check_task_type(task, info.get("task_type"))
    for name in _SCALARS:
        if isinstance(info.get(name), (bool, list, dict)):
            raise UserError(f"task_info.{name}: expected a number or a text, got {_kind(info[name])}. {FIX}.")


def _check_task_type(task: Task, task_type: Any) -> None:
    if task_type in (None, ""):
        return
    if not isinstance(task_type, str) or task_type not in TASK_TYPES:
        raise UserError(f"task_info.task_type: expected one of {', '.join(TASK_TYPES)}, or none, got another value. {FIX}.")
    if TASK_TYPES[task_type] != task.kind:
        raise UserError(f"task_info.task_type: expected {task.kind} for {task.name}, got another kind. {FIX}.")


def check_rows(rows: Rows) -> None:
    """Check all rows of a file; either all of them have their text (`input`), or none."""
    if rows.columns:
        _check_table(rows)
    else:
        deque(checked_rows(rows), maxlen=0)


def checked_rows(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL, each after it was checked as `check_rows` does."""
    expected = bool(rows) and has_text(rows[0])
    for index, row in enumerate(rows):
        try:
            check_row(row)
            if has_text(row) != expected:
                raise UserError("expected rows that all have input, or rows without, got both. Use a file for each.")
        except UserError as error:
            raise UserError(f"{rows.where(index)}: {error}") from None
        yield row


def _check_table(rows: Rows) -> None:
    """`check_rows` of a CSV: by columns, and one by one only where a target is not plain."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "input" in rows.columns:
        fix = "Save rows that have their text as JSONL, or remove the column"
        raise UserError(f"{rows.path}: expected an index CSV, got one with a column input. {fix}.")
    tasks = rows.table["task"]

    def is_of(metric: str) -> pa.ChunkedArray:
        return pc.is_in(tasks, pa.array([task.name for task in TASKS.values() if task.metric == metric]))

    plain = pc.is_in(tasks, pa.array(list(TASKS)))
    if "target" in rows.columns:
        targets = rows.table["target"]
        is_name_list, is_text = (pc.match_substring_regex(targets, pattern) for pattern in (_PLAIN_NAMES, _PLAIN_TEXT))
        is_yes_no = pc.is_in(targets, pa.array([f'"{YES}"', f'"{NO}"']))
        fits = pc.if_else(is_of("f1"), is_name_list, pc.if_else(is_of("auroc"), is_yes_no, is_text))
        plain = pc.and_(plain, pc.or_(pc.is_null(targets), pc.fill_null(fits, False)))
    for index in pc.indices_nonzero(pc.invert(plain)).to_pylist():
        try:
            check_row(rows[index])
        except UserError as error:
            raise UserError(f"{rows.where(index)}: {error}") from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.isspace()


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _kind(value: Any, of: str = "") -> str:
    """What a JSON value is, in words; `of` says what a list holds."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a text" if _is_text(value) else "an empty text"
        case list():
            return f"a list{of}" if value else "an empty list"
        case dict():
            return "an object"
        case _:
            return "a number"


def _kind_of_field(row: Mapping[str, Any], name: str) -> str:
    return _kind(row[name]) if name in row else "no such field"
