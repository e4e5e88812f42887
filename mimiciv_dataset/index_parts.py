"""The rows of an index in the making, without their weights: these are known when the rows of all patients are counted.

A part holds the rows of some patients, in one Arrow file per task: the text of each row before and after its weight, its
patient and its labels. The parts are then joined without a second parse of the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mimiciv_dataset.index_files import INDEX_COLUMNS
from mimiciv_dataset.samples import Sample, Target, label_list
from mimiciv_dataset.tasks import TASKS

if TYPE_CHECKING:
    import pyarrow as pa

HEADER = (",".join(INDEX_COLUMNS) + "\r\n").encode()
_is_plain = re.compile(r'[^",\r\n]*').fullmatch


class TaskRows:
    """The rows of a task in a part."""

    def __init__(self, task: str) -> None:
        self._has_labels = TASKS[task].kind != "generation"  # whose target is a text, not a label
        self._subjects: list[str] = []
        self._before: list[str] = []
        self._after: list[str] = []
        self._labels: list[list[str]] = []
        self._flags: Counter[tuple[str, ...]] = Counter()

    def add(self, subject_id: str, sample: Sample) -> None:
        """Add a sample of a patient."""
        task, event, _, hadm_id, begin, end, admission, discharge, target, flags = sample
        text = (_target if self._has_labels else _text)(target)
        self._subjects.append(subject_id)
        self._before.append(f"{_field(subject_id)},{_field(hadm_id or '')},{task},{event},{begin},{end},{text},")
        earlier = f",{'' if admission is None else admission},{'' if discharge is None else discharge}"
        self._after.append(f"{earlier},{';'.join(flags)}\r\n")
        self._labels.append(label_list(target) if self._has_labels else [])
        self._flags[flags] += 1

    def write(self, path: Path) -> dict[str, dict[str, int]]:
        """Write the rows; no file if there are none.

        Returns:
            The number of `rows` (`all`, and with each audit flag), and the number of rows with each of the `labels`.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = Counter(all=len(self._before))
        for flags, count in self._flags.items():
            rows.update(dict.fromkeys(flags, count))
        labels = pa.array(list(chain.from_iterable(self._labels)), pa.string()).dictionary_encode()
        ends = pa.array(list(accumulate(map(len, self._labels), initial=0)), pa.int32())
        columns = {"subject_id": pa.array(self._subjects, pa.string()).dictionary_encode()}
        columns |= {"before": pa.array(self._before, pa.large_string()), "after": pa.array(self._after, pa.large_string())}
        batch = pa.record_batch(columns | {"labels": pa.ListArray.from_arrays(ends, labels)})
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        if self._before:
            with pa.ipc.new_file(path, batch.schema, options=options) as writer:
                writer.write_batch(batch)
        values, counts = pc.value_counts(labels).flatten()
        return {"rows": rows, "labels": dict(zip(values.to_pylist(), counts.to_pylist(), strict=True))}


class Rows(NamedTuple):
    """Rows of an index."""

    subjects: pa.Array  # the patient of each row, whose rows are contiguous
    lines: pa.Array  # the rows as lines of a CSV, with line ends

    def data(self) -> memoryview:
        """The lines as bytes."""
        _, offsets, data = self.lines.buffers()
        return memoryview(data)[: memoryview(offsets).cast("q")[len(self.lines)]]

    def of_patients(self) -> Iterator[tuple[str, bytes]]:
        """The lines of each patient as bytes."""
        for subject_id, lines in groupby(zip(self.subjects.to_pylist(), self.lines.to_pylist(), strict=True), itemgetter(0)):
            yield subject_id, "".join(line for _, line in lines).encode()


def read_rows(path: Path, counts: Mapping[str, int] | None) -> Rows:
    """Read the rows of a task in a part, with their weights: 1 / the mean frequency of the labels of a row.

    Args:
        path: of a part; if there is no file, there are no rows.
        counts: rows of the task with each label; None: the weight is 1.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not path.exists():
        return Rows(pa.array([], pa.string()), pa.array([], pa.large_string()))
    with pa.ipc.open_file(path) as file:
        batch = file.get_batch(0)
    weights = pa.scalar("1", pa.large_string())
    if counts is not None:
        ends, labels = batch["labels"].offsets.to_numpy(), batch["labels"].values
        frequencies = np.array([counts[label] for label in labels.dictionary.to_pylist()])
        sums = np.add.reduceat(frequencies[labels.indices.to_numpy()], ends[:-1])
        distinct, of_row = np.unique(np.diff(ends) / sums, return_inverse=True)
        weights = pa.array(list(map(repr, distinct.tolist())), pa.large_string()).take(pa.array(of_row))
    nothing = pa.scalar("", pa.large_string())
    return Rows(batch["subject_id"], pc.binary_join_element_wise(batch["before"], weights, batch["after"], nothing))


def _target(target: Target) -> str:
    """A target of labels as JSON in a quoted field of a CSV."""
    return f'"{_label(target)}"' if isinstance(target, str) else f'"[{", ".join(map(_label, target))}]"'


@lru_cache(maxsize=1 << 16)
def _label(label: str) -> str:
    return json.dumps(label, ensure_ascii=False).replace('"', '""')


def _text(text: str) -> str:
    """A text as JSON in a quoted field of a CSV."""
    return f'"{json.dumps(text, ensure_ascii=False).replace(chr(34), chr(34) * 2)}"'


@lru_cache(maxsize=1 << 16)
def _field(text: str) -> str:
    """A field of a CSV, quoted if need be."""
    return text if _is_plain(text) else '"' + text.replace('"', '""') + '"'
