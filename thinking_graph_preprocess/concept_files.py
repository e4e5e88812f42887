"""Concept files: the tasks they serve, their columns, and how concept names are written.

There is one Parquet file for each file of trajectories, with the rows of a patient contiguous. Columns: subject_id; event_id
(position in the trajectory); key (the decision task that has this name among its possible answers, or `text` for a mention
in free text); concept (normalised name); cui (or null); negated (negated, family history, or hypothetical).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.tasks import TASKS, Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

# Tasks whose answers are concepts: all decision tasks except next_event, whose answer is a table.
GRAPH_TASKS: dict[str, Task] = {name: task for name, task in TASKS.items() if task.kind == "decision" and task.event}
TEXT = "text"  # key of concepts found in free text
SHOWN_EVENTS = ("subject_id", "context_begin", "context_end", "admissions_id", "last_discharge_id")  # columns of an index
FREE_TEXT = {"radiology": "text", "discharge": "text", "admissions": "admission_info"}  # table → its free-text column


def normalise(name: str) -> str:
    """The name of a concept as the files have it: stripped, case-folded, single spaces.

    >>> normalise("  Sodium   Chloride 0.9% ")
    'sodium chloride 0.9%'
    """
    return " ".join(name.casefold().split())


def concept_schema() -> pa.Schema:
    """The columns of a concept file."""
    import pyarrow as pa

    text = pa.string()
    columns = {"subject_id": text, "event_id": pa.int32(), "key": text, "concept": text, "cui": text, "negated": pa.bool_()}
    return pa.schema(columns)


def concept_files(folder: Path) -> list[Path]:
    """The Parquet files of a directory of concepts; `sources.concepts_source` checks that they are complete."""
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not files:
        fix = "Make them with thinking_graph_preprocess/concept_extraction.py"
        raise UserError(f"{folder}: expected the concepts of trajectories, got no Parquet files. {fix}.")
    return files
