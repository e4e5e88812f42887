"""Trajectories on disk: the two layouts, and one reader for both.

`shards` (our default): `shard-00000.arrow`, … hold the events of many patients, a patient contiguous in one of them, in
compressed record batches of `BATCH_EVENTS` events, so that a slice of a trajectory costs a slice's work, and records as
lists of values; `subjects.arrow` says where each patient is and which columns a table's values belong to.
`patient` (the released dataset): `{subject_id}.parquet`, one file each.
Needs pyarrow and numpy only, opens files when they are first used, and is safe in forked or spawned dataloader workers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.records import Event
from mimiciv_dataset.timeline import Timeline
from pipeline.errors import UserError
from pipeline.files import read_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMNS = ("file_name", "starttime", "endtime", "hadm_id", "items")
BATCH_EVENTS = 32
"""Events in a record batch of a shard: what is decompressed to read one of them."""

ROW_GROUP_EVENTS = 128
"""Events in a row group of a patient's parquet file."""

SUBJECTS = "subjects.arrow"
PROVENANCE = "provenance.json"
GROUP_FILES = 500
"""Patients' files that make a group of patients."""

OPEN_FILES = 32
"""Shards a reader keeps open."""

_MISSING_VALUES = (None, "", "nan", "NaN", "None", "NaT", "<NA>")


def write_shard(events: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Write the events of a shard: `COLUMNS`, patients contiguous; `metadata` goes into the file's schema."""
    import pyarrow as pa

    events = events.replace_schema_metadata(metadata)
    # lz4: half as large again as zstd, but a slice is read eight times as fast
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(path, events.schema, options=options) as writer:
        for batch in events.combine_chunks().to_batches():
            for start in range(0, batch.num_rows, BATCH_EVENTS):
                writer.write_batch(batch.slice(start, BATCH_EVENTS))


def write_subjects(folder: Path, subjects: Sequence[tuple[int, int, int, int]], columns: dict[str, Sequence[str]]) -> None:
    """Write where each patient is, and the columns of each table's records.

    `subjects` are (subject_id, shard, first event, number of events).
    """
    import pyarrow as pa

    from pipeline.files import atomic_path

    parts = list(zip(*sorted(subjects), strict=True)) or [(), (), (), ()]
    names = ("subject_id", "shard", "first", "events")
    table = pa.table({name: pa.array(column, pa.int64()) for name, column in zip(names, parts, strict=True)})
    table = table.replace_schema_metadata({"columns": json.dumps(columns)})
    with atomic_path(folder / SUBJECTS) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)


def write_patient(events: pa.Table, path: Path) -> None:
    """Write one patient's events as the released dataset has them."""
    import pyarrow.parquet as pq

    # `items` seldom repeat: a dictionary of them only costs time
    pq.write_table(events, path, compression="zstd", use_dictionary=["file_name"], row_group_size=ROW_GROUP_EVENTS)


class Trajectories:
    """Reads trajectories of either layout by patient and position.

    Args:
        folder: `patients_ehr/`.

    Raises:
        UserError: the folder holds neither layout.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.sharded = (self.folder / SUBJECTS).exists()
        self._open: OrderedDict[Any, Any] = OrderedDict()
        if not self.sharded and next(self.folder.glob("*.parquet"), None) is None:
            found = "a folder without them" if self.folder.is_dir() else "nothing there"
            raise UserError(
                f"{self.folder}: wanted trajectories ({SUBJECTS} and shards, or one parquet file a patient), found "
                f"{found}; make them with preprocess/combination.py or unpack a release with scripts/unpack_release.sh"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "sharded": self.sharded, "_open": OrderedDict()}

    @cached_property
    def _index(self) -> pa.Table:
        import pyarrow as pa

        with pa.memory_map(str(self.folder / SUBJECTS)) as source:
            return pa.ipc.open_file(source).read_all()

    @cached_property
    def _subjects(self) -> dict[str, np.ndarray]:
        return {name: self._index[name].to_numpy() for name in self._index.column_names}

    @cached_property
    def _columns(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(columns) for name, columns in json.loads(self._index.schema.metadata[b"columns"]).items()}

    def subject_ids(self) -> list[str]:
        """All patients, ascending as numbers."""
        if self.sharded:
            return [str(subject_id) for subject_id in self._subjects["subject_id"]]
        return sorted((path.stem for path in self.folder.glob("*.parquet")), key=lambda text: (len(text), text))

    def groups(self) -> dict[str, list[str]]:
        """All patients in groups that are good to read together, by name: a shard, or `GROUP_FILES` files of one patient."""
        subjects = self.subject_ids()
        if not self.sharded:
            starts = range(0, len(subjects), GROUP_FILES)
            return {f"patients-{i:05d}": subjects[start : start + GROUP_FILES] for i, start in enumerate(starts)}
        found: dict[str, list[str]] = {}
        for subject_id, shard in zip(subjects, self._subjects["shard"].tolist(), strict=True):
            found.setdefault(f"shard-{shard:05d}", []).append(subject_id)
        return dict(sorted(found.items()))

    @cached_property
    def digest(self) -> str | None:
        """Digest of this build, from provenance.json; None for a folder without one, such as a release."""
        path = self.folder / PROVENANCE
        return read_json(path)["digest"] if path.exists() else None

    def _find(self, subject_id: str) -> tuple[int, int, int]:
        """(shard, first event, number of events) of a patient."""
        import numpy as np

        ids = self._subjects["subject_id"]
        row = int(np.searchsorted(ids, int(subject_id)))
        if row == len(ids) or ids[row] != int(subject_id):
            raise self._no_patient(subject_id)
        return tuple(int(self._subjects[name][row]) for name in ("shard", "first", "events"))

    def _no_patient(self, subject_id: str) -> UserError:
        return UserError(
            f"{self.folder}: wanted patient {subject_id}, found no such trajectory; the index and the trajectories "
            "belong to different builds (mimiciv_dataset/validate_index.py compares them)"
        )

    def has(self, subject_id: str) -> bool:
        """Whether there is a trajectory of this patient."""
        if not self.sharded:
            return (self.folder / f"{subject_id}.parquet").exists()
        try:
            self._find(subject_id)
        except UserError:
            return False
        return True

    def length(self, subject_id: str) -> int:
        """Number of events of a patient."""
        if self.sharded:
            return self._find(subject_id)[2]
        return self._parquet(subject_id).metadata.num_rows

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._open:
            self._open[key] = make()
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def _shard(self, shard: int) -> pa.ipc.RecordBatchFileReader:
        import pyarrow as pa

        path = self.folder / f"shard-{shard:05d}.arrow"
        options = pa.ipc.IpcReadOptions(use_threads=False)  # batches are too small for threads to pay
        return self._cached(shard, lambda: pa.ipc.open_file(pa.memory_map(str(path)), options=options))

    def _parquet(self, subject_id: str) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        path = self.folder / f"{subject_id}.parquet"
        if not path.exists():
            raise self._no_patient(subject_id)
        return pq.ParquetFile(path)

    def events(self, subject_id: str, positions: Iterable[int]) -> list[Event]:
        """The events at `positions` of a patient's trajectory, in the order asked for.

        Raises:
            UserError: there is no such patient or position.
        """
        positions = list(positions)
        place = self._find(subject_id) if self.sharded else self._parquet(subject_id)
        length = place[2] if self.sharded else place.metadata.num_rows
        for position in positions:
            if not 0 <= position < length:
                raise UserError(
                    f"{self.folder}: wanted event {position} of patient {subject_id}, found a trajectory of {length} "
                    "events; the index and the trajectories belong to different builds"
                )
        found = (self._from_shard if self.sharded else self._from_parquet)(place, list(dict.fromkeys(positions)))
        return [found[position] for position in positions]

    def _from_parquet(self, parquet: pq.ParquetFile, positions: list[int]) -> dict[int, Event]:
        """Reads only the row groups that hold the positions; files of ours have many, released ones may have one."""
        metadata, start, found = parquet.metadata, 0, {}
        for number in range(metadata.num_row_groups):
            end = start + metadata.row_group(number).num_rows
            wanted = [position for position in positions if start <= position < end]
            if wanted:
                table = parquet.read_row_group(number, columns=list(COLUMNS), use_threads=False)
                low = min(wanted)
                table = table.slice(low - start, max(wanted) - low + 1)
                values = list(zip(*(table[column].to_pylist() for column in COLUMNS), strict=True))
                found |= {position: _event(*values[position - low]) for position in wanted}
            start = end
        return found

    def _from_shard(self, place: tuple[int, int, int], positions: list[int]) -> dict[int, Event]:
        shard, first, _ = place
        reader = self._shard(shard)
        found: dict[int, Event] = {}
        by_batch: dict[int, list[int]] = {}
        for position in positions:
            by_batch.setdefault((first + position) // BATCH_EVENTS, []).append(first + position)
        for number, rows in by_batch.items():
            low = min(rows)
            piece = reader.get_batch(number).slice(low % BATCH_EVENTS, max(rows) - low + 1)
            values = list(zip(*(column.to_pylist() for column in piece.columns), strict=True))
            for row in rows:
                event = values[row - low]
                found[row - first] = Event(*event, self._columns[event[0]])
        return found

    def trajectory(self, subject_id: str) -> list[Event]:
        """All events of a patient."""
        return self.events(subject_id, range(self.length(subject_id)))

    def timeline(self, subject_id: str) -> Timeline:
        """A patient's trajectory as index generation sees it."""
        return Timeline(self.trajectory(subject_id))


def _event(file_name: str, starttime: Any, endtime: Any, hadm_id: Any, items: Any) -> Event:
    """An event of a released file, whose columns may hold timestamps, floats or spelt-out missing values."""

    def text(value: Any) -> str | None:
        return None if value in _MISSING_VALUES or value != value else str(value)[:19]

    hadm = text(hadm_id)
    return Event(
        file_name,
        text(starttime),
        text(endtime),
        hadm.removesuffix(".0") if hadm else None,
        items if isinstance(items, str) else json.dumps(items),
    )
