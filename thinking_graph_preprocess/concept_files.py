"""The files of concepts: which tasks they serve, their columns, and how a name is written in them.

One parquet file for each file of trajectories, patients contiguous: subject_id, event_id (position in the trajectory), key
(the decision task whose answer the name would be, or `text` for a mention in free text), concept (normalised name), cui (or
null), negated (negated, of the family, or hypothetical).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.tasks import TASKS, Task
from pipeline.errors import UserError
from pipeline.files import read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa

GRAPH_TASKS: dict[str, Task] = {name: task for name, task in TASKS.items() if task.kind == "decision" and task.event}
"""Tasks with answers that are concepts: decision tasks, but not next_event, whose answer is a table."""

TEXT = "text"
"""Key of a concept that was found in free text."""

FREE_TEXT = {"radiology": "text", "discharge": "text", "admissions": "admission_info"}
"""Tables with free text, and its column."""


def normalise(name: str) -> str:
    """A name as concepts are written: stripped, case-folded, single spaces.

    >>> normalise("  Sodium   Chloride 0.9% ")
    'sodium chloride 0.9%'
    """
    return " ".join(name.casefold().split())


def schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    return pa.schema({
        "subject_id": text, "event_id": pa.int32(), "key": text, "concept": text, "cui": text, "negated": pa.bool_(),
    })  # fmt: skip


def concept_files(folder: Path) -> list[Path]:
    """The parquet files of a concepts folder.

    Raises:
        UserError: there is none, or the extraction has not finished.
    """
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    whole = read_json(folder / "options.json")["files"] if (folder / "options.json").exists() else 1
    if len(files) < whole:
        raise UserError(
            f"{folder}: wanted {whole:,} files of concepts, found {len(files):,}; make them, or let them be finished, with "
            "thinking_graph_preprocess/concept_extraction.py"
        )
    return files


def claim(folder: Path, options: dict, flags: str) -> None:
    """Write the options a folder is made with; a later run with others is an error, not a mixture.

    Raises:
        UserError: the folder was begun with other options.
    """
    path = folder / "options.json"
    if path.exists() and (found := read_json(path)) != options:
        differing = ", ".join(sorted(key for key in options if found.get(key) != options[key]))
        raise UserError(
            f"{folder}: wanted the same {differing} as when it was begun, found others; remove the folder to begin again, "
            f"or choose another {flags}"
        )
    write_json(path, options)


def index_identity(path: Path) -> Any:
    """What an index was made from, for telling another one; None for a released file."""
    provenance = path / "provenance.json"
    return read_json(provenance)["options"] if provenance.exists() else None
