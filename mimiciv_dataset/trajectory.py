"""Trajectories on disk: two layouts, and a reader for both.

- `shards` (the default): `shard-00000.arrow`, … hold the events of many patients. Those of a patient are contiguous, in
  compressed record batches of `BATCH_EVENTS` events, so that reading a slice of a trajectory costs in proportion to the slice.
  Records are lists of values; `subjects.arrow` has the location of each patient and the columns of each table.
- `patient` (the released dataset): one file `{subject_id}.parquet` per patient.

The reader needs pyarrow and numpy only, opens files on first use, and works in forked and spawned dataloader workers.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.records import Event
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.values import canonical_or_same
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.records import digest_of, folder_record, read_record

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMNS = ("file_name", "starttime", "endtime", "hadm_id", "items")
BATCH_EVENTS = 32  # in a record batch of a shard, which is decompressed as a whole
ROW_GROUP_EVENTS = 128  # in a row group of a patient's parquet file
SUBJECTS = "subjects.arrow"
GROUP_FILES = 500  # patients in a group of `Trajectories.groups`, in the layout `patient`
OPEN_FILES = 32  # shards that a reader keeps open
_MISSING_VALUES = (None, "", "nan", "NaN", "None", "NaT", "<NA>")


def write_shard(events: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Write the events of a shard: the columns `COLUMNS`, with those of a patient contiguous; `metadata` is of the schema."""
    import pyarrow as pa

    events = events.replace_schema_metadata(metadata)
    # files are 1.5 times as large with lz4 as with zstd, but reading a slice is eight times as fast
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    # without a buffer of its own, the file is written in pieces of a few bytes
    with pa.output_stream(path, buffer_size=1 << 20) as file, pa.ipc.new_file(file, events.schema, options=options) as writer:
        writer.write_table(events.combine_chunks(), max_chunksize=BATCH_EVENTS)


def write_subjects(folder: Path, subjects: Sequence[tuple[int, int, int, int]], columns: dict[str, Sequence[str]]) -> None:
    """Write `subjects.arrow`, without which a directory of shards is not read.

    Args:
        subjects: (subject_id, shard, position of the first event in the shard, number of events) of each patient.
        columns: columns of the records, by table.
    """
    import pyarrow as pa

    parts = list(zip(*sorted(subjects), strict=True)) or [(), (), (), ()]
    names = ("subject_id", "shard", "first", "events")
    table = pa.table({name: pa.array(column, pa.int64()) for name, column in zip(names, parts, strict=True)})
    table = table.replace_schema_metadata({"columns": json.dumps(columns)})
    with atomic_path(folder / SUBJECTS) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table)


def write_patient(events: pa.Table, path: Path) -> None:
    """Write the events of a patient in the layout of the released dataset."""
    import pyarrow.parquet as pq

    # `items` rarely repeat, so that a dictionary of them only costs time
    pq.write_table(events, path, compression="zstd", use_dictionary=["file_name"], row_group_size=ROW_GROUP_EVENTS)


class Trajectories:
    """Reads the trajectories of a directory, in either layout, by patient and position."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.sharded = (self.folder / SUBJECTS).exists()
        self._open: OrderedDict[int, pa.ipc.RecordBatchFileReader] = OrderedDict()
        if not self.sharded and next(self.folder.glob("*.parquet"), None) is None:
            got = "a directory without them" if self.folder.is_dir() else "no such directory"
            fix = "Make them with preprocess/combination.py, or unpack a release with scripts/unpack_release.sh"
            layouts = f"{SUBJECTS} and shards, or one parquet file per patient"
            raise UserError(f"{self.folder}: expected trajectories ({layouts}), got {got}. {fix}.")

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

    def columns(self, table: str) -> tuple[str, ...]:
        """The columns of the records of a table; empty in the layout `patient`, whose records have them each."""
        return self._columns.get(table, ()) if self.sharded else ()

    def subject_ids(self) -> list[str]:
        """All patients, in ascending numerical order."""
        if self.sharded:
            return [str(subject_id) for subject_id in self._subjects["subject_id"]]
        return sorted((path.stem for path in self.folder.glob("*.parquet")), key=lambda text: (len(text), text))

    def groups(self) -> dict[str, list[str]]:
        """All patients in groups that are efficient to read together, by name: those of a shard, or `GROUP_FILES` patients."""
        subjects = self.subject_ids()
        if not self.sharded:
            starts = range(0, len(subjects), GROUP_FILES)
            return {f"patients-{i:05d}": subjects[start : start + GROUP_FILES] for i, start in enumerate(starts)}
        groups: dict[str, list[str]] = {}
        for subject_id, shard in zip(subjects, self._subjects["shard"].tolist(), strict=True):
            groups.setdefault(f"shard-{shard:05d}", []).append(subject_id)
        return dict(sorted(groups.items()))

    @cached_property
    def digest(self) -> str | None:
        """The digest of the trajectories from their record; None if there is none, as in a release."""
        return digest_of(folder_record(self.folder))

    @cached_property
    def left_out(self) -> dict[str, str]:
        """The tasks that the data do not support, and why, as the import of another site recorded it (docs/own_data.md)."""
        return (read_record(folder_record(self.folder)) or {}).get("site", {}).get("left_out", {})

    def _find(self, subject_id: str) -> tuple[int, int, int]:
        """(shard, first event, number of events) of a patient."""
        import numpy as np

        ids = self._subjects["subject_id"]
        row = int(np.searchsorted(ids, int(subject_id)))
        if row == len(ids) or ids[row] != int(subject_id):
            raise self._no_patient()
        return tuple(int(self._subjects[name][row]) for name in ("shard", "first", "events"))

    def _no_patient(self) -> UserError:
        fix = "Use an index and trajectories of the same build; mimiciv_dataset/validate_index.py compares them"
        return UserError(f"{self.folder}: expected a trajectory of the patient, got none. {fix}.")

    def has(self, subject_id: str) -> bool:
        """Whether the patient has a trajectory."""
        if not self.sharded:
            return (self.folder / f"{subject_id}.parquet").exists()
        try:
            self._find(subject_id)
        except (UserError, ValueError):  # ValueError: not a number
            return False
        return True

    def length(self, subject_id: str) -> int:
        """Number of events of a patient."""
        if self.sharded:
            return self._find(subject_id)[2]
        return self._parquet(subject_id).metadata.num_rows

    def _shard(self, shard: int) -> pa.ipc.RecordBatchFileReader:
        import pyarrow as pa

        if shard not in self._open:
            options = pa.ipc.IpcReadOptions(use_threads=False)  # batches are too small for threads to pay
            path = self.folder / f"shard-{shard:05d}.arrow"
            self._open[shard] = pa.ipc.open_file(pa.memory_map(str(path)), options=options)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _parquet(self, subject_id: str) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        path = self.folder / f"{subject_id}.parquet"
        if not path.exists():
            raise self._no_patient()
        return pq.ParquetFile(path)

    def events(self, subject_id: str, positions: Iterable[int]) -> list[Event]:
        """The events at `positions` of a patient's trajectory, in the order of `positions`."""
        positions = list(positions)
        source = self._find(subject_id) if self.sharded else self._parquet(subject_id)
        length = source[2] if self.sharded else source.metadata.num_rows
        for position in positions:
            if not 0 <= position < length:
                got = f"a trajectory of {length} events. Use an index and trajectories of the same build"
                raise UserError(f"{self.folder}: expected event {position} of the patient, got {got}.")
        events = (self._from_shard if self.sharded else self._from_parquet)(source, list(dict.fromkeys(positions)))
        return [events[position] for position in positions]

    def _from_parquet(self, parquet: pq.ParquetFile, positions: list[int]) -> dict[int, Event]:
        """Read the row groups that hold the positions; released files can have a single one."""
        metadata, start, events = parquet.metadata, 0, {}
        for number in range(metadata.num_row_groups):
            end = start + metadata.row_group(number).num_rows
            in_group = [position for position in positions if start <= position < end]
            if in_group:
                table = parquet.read_row_group(number, columns=list(COLUMNS), use_threads=False)
                low = min(in_group)
                table = table.slice(low - start, max(in_group) - low + 1)
                values = list(zip(*(table[column].to_pylist() for column in COLUMNS), strict=True))
                events |= {position: _event(*values[position - low]) for position in in_group}
            start = end
        return events

    def _from_shard(self, location: tuple[int, int, int], positions: list[int]) -> dict[int, Event]:
        shard, first, _ = location
        reader = self._shard(shard)
        events: dict[int, Event] = {}
        by_batch: dict[int, list[int]] = defaultdict(list)
        for row in (first + position for position in positions):
            by_batch[row // BATCH_EVENTS].append(row)
        for number, rows in by_batch.items():
            low = min(rows)
            piece = reader.get_batch(number).slice(low % BATCH_EVENTS, max(rows) - low + 1)
            values = list(zip(*(column.to_pylist() for column in piece.columns), strict=True))
            for row in rows:
                event = values[row - low]
                events[row - first] = Event(*event, self._columns[event[0]])
        return events

    def trajectory(self, subject_id: str) -> list[Event]:
        """The events of a patient."""
        if not self.sharded:
            return self.events(subject_id, range(self.length(subject_id)))
        import pyarrow as pa

        shard, first, length = self._find(subject_id)
        batches = map(self._shard(shard).get_batch, range(first // BATCH_EVENTS, -(-(first + length) // BATCH_EVENTS)))
        rows = pa.Table.from_batches(batches).slice(first % BATCH_EVENTS, length)
        tables, *others = (column.to_pylist() for column in rows.columns)
        return [*map(Event._make, zip(tables, *others, map(self._columns.__getitem__, tables), strict=True))]

    def timeline(self, subject_id: str) -> Timeline:
        """The events of a patient, for label rules and windows."""
        return Timeline(self.trajectory(subject_id))


def _event(file_name: str, starttime: Any, endtime: Any, hadm_id: Any, items: Any) -> Event:
    """An event of a released file, whose columns can hold timestamps, floats or spelled-out missing values."""

    def text(value: Any) -> str | None:
        return None if value in _MISSING_VALUES or value != value else str(value)

    def time(value: Any) -> str | None:
        """Without a fraction of a second; a time zone is left, so that `Timeline` refuses it."""
        return (written := text(value)) and re.sub(r"\.\d+", "", written)

    hadm = text(hadm_id)
    items = items if isinstance(items, str) else json.dumps(items)
    return Event(file_name, time(starttime), time(endtime), hadm and canonical_or_same("hadm_id", hadm), items)
