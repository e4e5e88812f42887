"""The concepts of all patients as flat, memory-mapped arrays, from which co-occurrence is counted.

The concept files are read once. After that, the concepts of any range of events are a slice, in whatever order the rows of an
index come, and all tasks and processes share the arrays. Negated concepts are left out, so that no later step counts them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import atomic_dir, sha256
from pipeline.provenance import Source
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, TEXT
from thinking_graph_preprocess.term_search import position_of

TABLES = {name: number for number, name in enumerate(EVENTS)}  # table → its number in the packed rows
_UNKNOWN = 255
_COLUMNS = {"event": "<i4", "concept": "<i4", "table": "u1"}


class PackedConcepts:
    """The packed concepts in a directory of `find_or_pack`, memory-mapped.

    Attributes:
        event, concept, table: (n,) one row for each concept of each event, ordered by patient and event, without
            duplicates: position of the event in the trajectory, number of the concept, number of the event's table.
        subjects: (p,) patients as integers, ascending.
        begins, ends: (p,) first row of each patient, and the row after the last.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.event, self.concept, self.table = (
            np.fromfile(path, kind) if not (path := folder / name).stat().st_size else np.asarray(np.memmap(path, kind, "r"))
            for name, kind in _COLUMNS.items()
        )
        self.subjects, self.begins, self.ends = np.load(folder / "subjects.npy")

    @cached_property
    def names(self) -> list[str]:
        """The names of the concepts, ascending; the number of a concept is its index here."""
        return (self._folder / "names.txt").read_text(encoding="utf-8").split("\n")

    @cached_property
    def number(self) -> dict[str, int]:
        """Name → number of the concept."""
        return {name: number for number, name in enumerate(self.names)}

    def spans(self, task: Task, samples: Sequence[tuple]) -> np.ndarray:
        """(n, 3, 2): the rows (begin, end) of window, last discharge note and admission, which the input of a task shows.

        Args:
            samples: n tuples that begin with `SHOWN_EVENTS`.
        """
        events = np.zeros((len(samples), 3, 2), np.int64)  # positions of events (begin, end)
        samples_of_patient: dict[str, list[int]] = {}
        for i, (subject, begin, end, admission, discharge, *_) in enumerate(samples):
            samples_of_patient.setdefault(subject, []).append(i)
            events[i, 0] = begin, end
            if discharge is not None:
                events[i, 1] = discharge, discharge + 1
            if admission is not None and task.name != "admissions":
                events[i, 2] = admission, admission + 1
        spans = np.empty_like(events)
        for subject, chosen in samples_of_patient.items():
            at = position_of(int(subject), self.subjects)
            if at is None:
                expected = "expected concepts of every patient of the index, got none of one of them"
                raise UserError(f"concepts: {expected}. Run thinking_graph_preprocess/concept_extraction.py with this index.")
            begin, end = self.begins[at], self.ends[at]
            spans[chosen] = begin + np.searchsorted(self.event[begin:end], events[chosen])
        return spans

    def is_shown(self, task: Task, rows: np.ndarray | slice) -> np.ndarray:
        """(n,) bool: whether the window of a task's input shows the concepts in some rows (`mimiciv_dataset/text.py`)."""
        hidden = np.zeros(256, bool)
        hidden[[TABLES[table] for table in ("admissions", *task.hidden)]] = True
        return ~hidden[self.table[rows]]


def packed_dir(coexistence_dir: Path, concepts: Source, trajectories: Source) -> Path:
    """The directory of the packed concepts, below that of co-occurrence: other concepts or trajectories have another."""
    return coexistence_dir / f".packed-{sha256(f'{concepts.digest} {trajectories.digest}')[:12]}"


def find_or_pack(files: Sequence[Path], trajectories: Trajectories, folder: Path) -> None:
    """Write packed concepts to a directory (`packed_dir`) if it does not exist; one process does."""
    unit = Unit("pack", folder.exists, partial(_pack, files, trajectories, folder))
    run_units([unit], folder.parent / ".locks", total=2 * len(files), desc="packing concepts", unit="file")


def _pack(files: Sequence[Path], trajectories: Trajectories, folder: Path, tick: Tick) -> None:
    """Write the concepts of some concept files as arrays."""
    names: set[str] = set()
    for path in files:
        names.update(pc.unique(_asserted(path, ["concept"])["concept"]).to_pylist())
        tick(1)
    number = {name: i for i, name in enumerate(sorted(names))}
    subjects, size = [], 0
    with atomic_dir(folder) as temporary, contextlib.ExitStack() as stack:
        out = [stack.enter_context((temporary / name).open("wb")) for name in _COLUMNS]
        for path in files:
            rows = _asserted(path, ["subject_id", "event_id", "key", "concept"])
            subject, event = decode(rows["subject_id"], int, np.int64), rows["event_id"].to_numpy()
            # the dictionary of the column also has the names of rows that are left out
            concept = decode(rows["concept"], lambda name: number.get(name, -1), np.int32)
            table = decode(rows["key"], lambda key: TABLES[GRAPH_TASKS[key].event] if key != TEXT else _UNKNOWN, np.uint8)
            order = np.lexsort((concept, event, subject))
            keys = np.stack([subject, event, concept])[:, order]
            order = order[np.diff(keys, axis=1, prepend=-1).any(axis=0)]  # a name may be an answer of two tasks
            subject, event, concept, table = subject[order], event[order], concept[order], table[order]
            _fill_in_tables(table, subject, event, trajectories)
            for values, file in zip((event, concept, table), out, strict=True):
                values.tofile(file)
            ids, first, count = np.unique(subject, return_index=True, return_counts=True)
            subjects += zip(ids.tolist(), (size + first).tolist(), (size + first + count).tolist(), strict=True)
            size += len(subject)
            tick(1)
        np.save(temporary / "subjects.npy", np.array(sorted(subjects), np.int64).reshape(-1, 3).T)
        (temporary / "names.txt").write_text("\n".join(number), encoding="utf-8")


def _asserted(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a concept file without negated rows, in one chunk; text columns are dictionary-encoded."""
    texts = [column for column in columns if column != "event_id"]
    rows = pq.read_table(path, columns=[*columns, "negated"], read_dictionary=texts)
    return rows.filter(pc.invert(rows["negated"])).drop_columns("negated").unify_dictionaries().combine_chunks()


def decode(column: pa.ChunkedArray, value: Callable[[str], int], dtype: type) -> np.ndarray:
    """Map a dictionary-encoded column of one chunk to numbers, calling `value` once for each distinct text."""
    if not column.num_chunks:
        return np.empty(0, dtype)
    encoded = column.chunk(0)
    return np.array([value(text) for text in encoded.dictionary.to_pylist()], dtype)[encoded.indices.to_numpy()]


def _fill_in_tables(table: np.ndarray, subject: np.ndarray, event: np.ndarray, trajectories: Trajectories) -> None:
    """Fill in the tables of concepts in free text, whose key does not tell, from the trajectories. Rows are in order."""
    rows = np.flatnonzero(table == _UNKNOWN)
    events = np.stack([subject[rows], event[rows]])
    first = np.diff(events, axis=1, prepend=-1).any(axis=0)
    positions: dict[int, list[int]] = {}
    for patient, position in events[:, first].T.tolist():
        positions.setdefault(patient, []).append(position)
    numbers = [TABLES[each.file_name] for patient, at in positions.items() for each in trajectories.events(str(patient), at)]
    table[rows] = np.array(numbers, np.uint8)[np.cumsum(first) - 1]
