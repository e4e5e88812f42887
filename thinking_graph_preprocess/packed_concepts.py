"""The concepts of all patients as flat, memory-mapped arrays: what co-occurrence is counted from.

The concept files are read once; after that any range of a patient's events is a slice, whatever the order the index asks
in, and all tasks and processes share the arrays. Negated concepts are left out here, so that nothing later can count them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import atomic_dir
from pipeline.progress import progress
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, TEXT

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

TABLES = {name: number for number, name in enumerate(EVENTS)}
"""Tables by number, as the packed rows have them."""

_TO_LOOK_UP = 255
_COLUMNS = {"event": "<i4", "concept": "<i4", "table": "u1"}


class PackedConcepts:
    """Opens what `pack` wrote.

    Attributes:
        event, concept, table: (n,) a row is a concept of an event: position in its trajectory, number of the concept,
            number of the event's table; by patient, then by event, without repeats.
        names: the concepts' names, ascending; a concept's number is its place here.
        subjects: (p,) the patients' ids as numbers, ascending; `begins`, `ends`: (p,) their rows.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._folder = folder
        self.event, self.concept, self.table = (
            np.fromfile(path, kind) if not (path := folder / name).stat().st_size else np.asarray(np.memmap(path, kind, "r"))
            for name, kind in _COLUMNS.items()
        )
        self.subjects, self.begins, self.ends = np.load(folder / "subjects.npy")

    @cached_property
    def names(self) -> list[str]:
        return (self._folder / "names.txt").read_text(encoding="utf-8").split("\n")

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each name."""
        return {name: number for number, name in enumerate(self.names)}

    def rows_of(self, subject_id: str) -> tuple[int, int]:
        """The rows of a patient, (begin, end).

        Raises:
            UserError: the concept files do not have the patient.
        """
        import numpy as np

        at = int(np.searchsorted(self.subjects, int(subject_id)))
        if at == len(self.subjects) or self.subjects[at] != int(subject_id):
            raise UserError(
                f"concepts: wanted patient {subject_id}, who is in the index, found no concepts of theirs; run "
                "concept_extraction.py with this index"
            )
        return int(self.begins[at]), int(self.ends[at])


def pack(files: Sequence[Path], trajectories: Trajectories, folder: Path) -> None:
    """Write the concepts of some parquet files as arrays, in a folder that appears whole."""
    import numpy as np
    import pyarrow.compute as pc

    names: set[str] = set()
    for path in progress(files, desc="names of concepts", unit="file"):
        names.update(pc.unique(_asserted(path, ["concept"])["concept"]).to_pylist())
    number = {name: i for i, name in enumerate(sorted(names))}
    subjects: list[tuple[int, int, int]] = []
    size = 0
    with atomic_dir(folder) as temporary, contextlib.ExitStack() as stack:
        out = {name: stack.enter_context((temporary / name).open("wb")) for name in _COLUMNS}
        for path in progress(files, desc="packing concepts", unit="file"):
            rows = _asserted(path, ["subject_id", "event_id", "key", "concept"])
            subject, event = decoded(rows["subject_id"], int, np.int64), rows["event_id"].to_numpy()
            concept = decoded(rows["concept"], lambda name: number.get(name, -1), np.int32)
            table = decoded(rows["key"], lambda key: TABLES[GRAPH_TASKS[key].event] if key != TEXT else _TO_LOOK_UP, np.uint8)
            order = np.lexsort((concept, event, subject))
            keys = np.stack([subject, event, concept])[:, order]
            order = order[np.diff(keys, axis=1, prepend=-1).any(axis=0)]  # a name may be the answer of two tasks
            subject, event, concept, table = subject[order], event[order], concept[order], table[order]
            look_up_tables(table, subject, event, trajectories)
            for name, values in (("event", event), ("concept", concept), ("table", table)):
                values.tofile(out[name])
            ids, first, count = np.unique(subject, return_index=True, return_counts=True)
            subjects += zip(ids.tolist(), (size + first).tolist(), (size + first + count).tolist(), strict=True)
            size += len(subject)
        np.save(temporary / "subjects.npy", np.array(sorted(subjects), np.int64).reshape(-1, 3).T)
        (temporary / "names.txt").write_text("\n".join(number), encoding="utf-8")


def _asserted(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a concept file without the negated rows; texts dictionary-encoded, in one chunk."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    texts = [column for column in columns if column != "event_id"]
    rows = pq.read_table(path, columns=[*columns, "negated"], read_dictionary=texts)
    return rows.filter(pc.invert(rows["negated"])).drop_columns("negated").unify_dictionaries().combine_chunks()


def decoded(column: pa.ChunkedArray, value: Callable[[str], int], kind: type) -> np.ndarray:
    """A dictionary-encoded column as numbers."""
    import numpy as np

    if not column.num_chunks:
        return np.empty(0, kind)
    encoded = column.chunk(0)
    values = np.array([value(text) for text in encoded.dictionary.to_pylist()], kind)
    return values[encoded.indices.to_numpy()]


def look_up_tables(table: np.ndarray, subject: np.ndarray, event: np.ndarray, trajectories: Trajectories) -> None:
    """Fill in the table of rows of free text, which their key does not say, from the trajectories. Rows are in order."""
    import numpy as np

    rows = np.flatnonzero(table == _TO_LOOK_UP)
    places = np.stack([subject[rows], event[rows]])
    first = np.diff(places, axis=1, prepend=-1).any(axis=0)
    positions: dict[int, list[int]] = {}
    for patient, position in places[:, first].T.tolist():
        positions.setdefault(patient, []).append(position)
    found = [
        TABLES[event.file_name] for patient, wanted in positions.items() for event in trajectories.events(str(patient), wanted)
    ]
    table[rows] = np.array(found, np.uint8)[np.cumsum(first) - 1]
