"""The making of an index: parts of some patients each are indexed, their labels counted, and the parts joined into CSVs.

Each step has units that processes share (`pipeline.work`). The directory `.work/` of the index holds what they have made
until the index is complete.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.index_parts import HEADER, Rows, TaskRows, read_rows
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.samples import find_samples
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.trajectory import Trajectories
from pipeline.files import atomic_dir, atomic_path, read_json, write_json
from pipeline.provenance import Provenance
from pipeline.work import Tick, Unit, Workers, run_units

UNIT_PATIENTS, UNIT_EVENTS = 200, 100_000  # of a part at most: what an interrupted process has to index again
PIECE_BYTES = 16 << 20  # of the rows of a task, compressed, that a process joins at a time


def divide(events: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Divide patients, given their numbers of events, into parts of at most `UNIT_PATIENTS` and `UNIT_EVENTS`, or one patient.

    >>> divide({"7": 60_000, "8": 30_000, "9": 20_000, "10": 200_000})
    (('7', '8'), ('9',), ('10',))
    """
    parts: list[list[str]] = []
    total = 0
    for subject_id, length in events.items():
        total += length
        if not parts or len(parts[-1]) == UNIT_PATIENTS or total > UNIT_EVENTS:
            parts.append([])
            total = length
        parts[-1].append(subject_id)
    return tuple(map(tuple, parts))


@dataclass(frozen=True)
class Piece:
    """Consecutive parts whose rows of a task are joined by one process.

    Attributes:
        first, end: number of the first part, and one past that of the last.
    """

    task: str
    first: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.first:05d}"


@dataclass(frozen=True)
class Index:
    """An index that is being made."""

    output: Path  # its directory
    provenance: Provenance  # its record, with the settings
    trajectories: Trajectories
    lookups: Lookups
    parts: tuple[tuple[str, ...], ...]  # the patients of each part

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.provenance.settings["tasks"]

    @property
    def work(self) -> Path:
        return self.output / ".work"

    def make(self, workers: Workers) -> None:
        """Do what is missing, together with other processes that make the same index."""
        share = partial(run_units, locks=self.output / ".locks", workers=workers)
        numbers = range(len(self.parts))
        todo = [part for part in numbers if not self.is_indexed(part)]
        units = [Unit(f"index-{part}", partial(self.is_indexed, part), partial(self.index, part)) for part in todo]
        share(units, total=sum(len(self.parts[part]) for part in todo), desc="task_sample_info_gen", unit="patient")
        share([Unit("count", self.is_counted, self.count)], desc="count the rows", unit="index")
        if self.provenance.settings["group"] == "task":
            pieces = {task: self.pieces(task) for task in self.tasks}
            # the largest tasks first, so that the processes finish together
            pieces = dict(sorted(pieces.items(), key=lambda item: len(item[1]), reverse=True))
            todo = [piece for of_task in pieces.values() for piece in of_task]
            units = [Unit(piece.name, partial(self.is_joined, piece), partial(self.join, piece)) for piece in todo]
            share(units, desc="join the parts", unit="piece")
            units = [Unit(name, partial(self.is_written, name), partial(self.write, name, pieces[name])) for name in pieces]
            share(units, desc="write the index", unit="task")
        else:
            done, write = self.is_written, self.write_patients
            units = [Unit(f"write-{part}", partial(done, part), partial(write, part)) for part in numbers]
            share(units, desc="write the index", unit="part")
        share([Unit("complete", lambda: self.provenance.is_complete, self.complete)], desc="complete", unit="index")
        shutil.rmtree(self.work, ignore_errors=True)

    # --- parts

    def folder(self, part: int) -> Path:
        """Where a part is: the rows of each task (`index_parts.py`), and `counts.json`."""
        return self.work / f"part-{part:05d}"

    def is_indexed(self, part: int) -> bool:
        return self.folder(part).is_dir() or self.provenance.is_complete

    def index(self, part: int, tick: Tick) -> None:
        """Write a part: the samples of its patients."""
        with atomic_dir(self.folder(part)) as folder, no_garbage_collection():
            write_json(folder / "counts.json", self._index(part, folder, tick))

    def _index(self, part: int, folder: Path, tick: Tick) -> dict[str, Any]:
        tasks, rows = [TASKS[name] for name in self.tasks], {name: TaskRows(name) for name in self.tasks}
        for subject_id in self.parts[part]:
            timeline = self.trajectories.timeline(subject_id)
            for sample in find_samples(timeline, self.lookups, tasks, self.provenance.settings["audit"]):
                rows[sample.task].add(subject_id, sample)
            tick(1)
        return {name: of_task.write(folder / f"{name}.arrow") for name, of_task in rows.items()}

    # --- counts

    def is_counted(self) -> bool:
        return (self.work / "counts.json").exists() or self.provenance.is_complete

    def count(self, tick: Tick) -> None:
        """Write the counts of each task over all parts; see `TaskRows.write`."""
        counts = {name: {"rows": Counter(), "labels": Counter()} for name in self.tasks}
        for part in range(len(self.parts)):
            for name, of_part in read_json(self.folder(part) / "counts.json").items():
                for key, values in of_part.items():
                    counts[name][key].update(values)
        write_json(self.work / "counts.json", counts)

    @cached_property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        return read_json(self.work / "counts.json")

    # --- CSVs

    def rows(self, part: int, task: str) -> Rows:
        """The rows of a task in a part, with their weights."""
        weighted = task != "radiology" and TASKS[task].kind != "generation"
        return read_rows(self.folder(part) / f"{task}.arrow", self.counts[task]["labels"] if weighted else None)

    def pieces(self, task: str) -> list[Piece]:
        """The parts with rows of a task, in pieces of about `PIECE_BYTES`."""
        pieces, total = [], 0
        for part in range(len(self.parts)):
            path = self.folder(part) / f"{task}.arrow"
            size = path.stat().st_size if path.exists() else 0
            total += size
            if not pieces or total > PIECE_BYTES:
                pieces.append(Piece(task, part, part + 1))
                total = size
            pieces[-1] = replace(pieces[-1], end=part + 1)
        return pieces

    def is_joined(self, piece: Piece) -> bool:
        return (self.work / f"{piece.name}.csv").exists() or self.is_written(piece.task)

    def join(self, piece: Piece, tick: Tick) -> None:
        """Write the rows of a piece."""
        with atomic_path(self.work / f"{piece.name}.csv") as temporary, temporary.open("wb") as file:
            for part in range(piece.first, piece.end):
                file.write(self.rows(part, piece.task).data())

    def is_written(self, name: str | int) -> bool:
        return self._marker(name).exists() or self.provenance.is_complete

    def _marker(self, name: str | int) -> Path:
        return self.work / f"written-{name}"

    def write(self, task: str, pieces: Sequence[Piece], tick: Tick) -> None:
        """Write the CSV of a task from its pieces, and remove these."""
        paths = [self.work / f"{piece.name}.csv" for piece in pieces]
        with atomic_path(self.output / f"{task}.csv") as temporary, temporary.open("wb") as file:
            file.write(HEADER)
            for path in paths:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, file)
        self._marker(task).touch()
        for path in paths:
            path.unlink()

    def write_patients(self, part: int, tick: Tick) -> None:
        """Write the CSVs of the patients of a part."""
        of_patient: dict[str, list[bytes]] = defaultdict(list)
        for task in self.tasks:
            for subject_id, data in self.rows(part, task).of_patients():
                of_patient[subject_id].append(data)
        for subject_id, blocks in of_patient.items():
            with atomic_path(self.output / f"{subject_id}.csv") as temporary, temporary.open("wb") as file:
                file.writelines([HEADER, *blocks])
        self._marker(part).touch()

    def complete(self, tick: Tick) -> None:
        """Write the record of the complete index, with the counts of each task."""
        report = {}
        for name, counts in self.counts.items():
            rows, labels = Counter(counts["rows"]), counts["labels"]
            yes = {"yes": labels.get("yes", 0)} if TASKS[name].kind == "risk" else {}
            report[name] = {"rows": rows["all"], "labels": len(labels), **yes, "flags": {flag: rows[flag] for flag in FLAGS}}
        self.provenance.complete(patients=sum(map(len, self.parts)), tasks=report, data_use=DATA_USE)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Reference counts alone free memory in this block: parsed records have no cycles, and are many to search for some."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
