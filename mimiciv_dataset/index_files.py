"""Index files: their columns and paths, and the identity and target of a row.

A task index (`task_sample_info_gen.py`) and a sampled set (`data_index_gen.py`, the released `ehr_ins/` and `ehr_bench/`) are
CSVs that differ in the names of two columns. Three modules read and check them, whatever a spreadsheet did to them:

- `index_tables.py`: Arrow tables of a CSV, for the other two.
- `index_rows.py` for datasets and evaluation: a CSV or JSONL, one row at a time from an Arrow table. It needs pyarrow only,
  and forked dataloader workers share the table, whereas a list of dicts would be copied to each of them.
- `index_frames.py` for samplers: polars frames. Do not fork after using it.

Targets are JSON and are parsed by `json`, never by `eval`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mimiciv_dataset.cells import MAX_ID, MAX_POSITION, clean_id, whole_number
from pipeline.errors import UserError
from pipeline.files import require, sha256

IDS = ("subject_id", "hadm_id")
EARLIER = ("admissions_id", "last_discharge_id")  # positions of earlier events
BEGINS, ENDS = ("context_begin", "period_begin"), ("context_end", "period_end")  # in a task index, in other files
# Columns of a task index, and of a sampled set.
INDEX_COLUMNS = (*IDS, "task", "event", "context_begin", "context_end", "target", "target_weight", *EARLIER, "audit")
SAMPLE_COLUMNS = (*IDS, "task", "event", "period_begin", "period_end", *EARLIER, "target", "audit")
REQUIRED = ("subject_id", "task", "event", "target")
HOW_TO_GET_INDEX = "Make it with mimiciv_dataset/task_sample_info_gen.py, or use a released index"
AUDIT_SUFFIX = ".audit.csv"  # of the tables that data_index_gen.py writes beside sampled sets
TARGET_TYPE = "a JSON string or list of strings"


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
    begin, end = (next((row[name] for name in names if row.get(name) is not None), None) for names in (BEGINS, ENDS))
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
    raise UserError(f"target: expected {TARGET_TYPE}, got something else.")


def limits(name: str) -> tuple[int, int]:
    """The smallest and largest value in a column of ids or positions; event 0 is the patient, and in no window."""
    return (0, MAX_ID) if name in IDS else (1, MAX_POSITION)


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
