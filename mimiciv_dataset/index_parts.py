"""The rows of an index in the making, without their weights: these are known when the rows of all patients are counted.

A part holds the rows of some patients, in one Arrow file per task: the text of each column of the index, and the labels of
each row. The parts are then joined by columns, without a second parse of the rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from pathlib import Path

from mimiciv_dataset.index_files import INDEX_COLUMNS
from mimiciv_dataset.samples import Sample, Target, label_list
from mimiciv_dataset.tasks import TASKS

HEADER = ",".join(INDEX_COLUMNS) + "\r\n"
_is_plain = re.compile(r'[^",\r\n]*').fullmatch


class TaskRows:
    """The rows of a task in a part."""

    def __init__(self, task: str) -> None:
        self._has_labels = TASKS[task].kind != "generation"  # whose target is a text, not a label
        self._subject_ids: list[str] = []
        self._samples: list[Sample] = []

    def add(self, subject_id: str, sample: Sample) -> None:
        """Add a sample of a patient."""
        self._subject_ids.append(subject_id)
        self._samples.append(sample)

    @cached_property
    def _labels(self) -> list[list[str]]:
        """The labels of each row; read when all rows are there."""
        return [label_list(sample.target) if self._has_labels else [] for sample in self._samples]

    def counts(self) -> dict[str, Counter[str]]:
        """The number of `rows` (`all`, and with each audit flag), and the number of rows with each of the `labels`."""
        flags = Counter(chain.from_iterable(sample.audit for sample in self._samples))
        return {"rows": Counter(all=len(self._samples)) + flags, "labels": Counter(chain.from_iterable(self._labels))}

    def write(self, path: Path) -> None:
        """Write the rows; no file if there are none."""
        import pyarrow as pa

        if not self._samples:
            return
        columns = dict(zip(Sample._fields, zip(*self._samples, strict=True), strict=True))
        columns |= {
            "subject_id": [_field(subject_id) for subject_id in self._subject_ids],
            "hadm_id": [_field(hadm_id or "") for hadm_id in columns["hadm_id"]],
            "target": list(map(_target if self._has_labels else _text, columns["target"])),
            "audit": list(map(";".join, columns["audit"])),
        }
        fields = {name: pa.array(columns[name]) for name in INDEX_COLUMNS if name != "target_weight"}
        fields = {name: field.cast(pa.large_string()).fill_null("") for name, field in fields.items()}
        labels = pa.array(list(chain.from_iterable(self._labels)), pa.string()).dictionary_encode()
        ends = pa.array(list(accumulate(map(len, self._labels), initial=0)), pa.int32())
        fields["labels"] = pa.ListArray.from_arrays(ends, labels)
        batch = pa.record_batch(fields)
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        with pa.ipc.new_file(path, batch.schema, options=options) as writer:
            writer.write_batch(batch)


def read_rows(path: Path, counts: Mapping[str, int] | None) -> tuple[list[str], list[str]]:
    """Read the rows of a task in a part, with their weights: 1 / the mean frequency of the labels of a row.

    Args:
        counts: rows of the task with each label; None: the weight is 1.

    Returns:
        The patient of each row, and the rows as lines of a CSV.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    with pa.ipc.open_file(path) as file:
        batch = file.get_batch(0)
    weights = pa.scalar("1", pa.large_string())
    if counts is not None:
        ends, labels = batch["labels"].offsets.to_numpy(), batch["labels"].values
        frequencies = np.array([counts[label] for label in labels.dictionary.to_pylist()])
        sums = np.add.reduceat(frequencies[labels.indices.to_numpy()], ends[:-1])
        distinct, of_row = np.unique(np.diff(ends) / sums, return_inverse=True)
        weights = pa.array(list(map(repr, distinct.tolist())), pa.large_string()).take(pa.array(of_row))
    columns = [weights if name == "target_weight" else batch[name] for name in INDEX_COLUMNS]
    lines = pc.binary_join_element_wise(*columns, pa.scalar(",", pa.large_string()))
    return batch["subject_id"].to_pylist(), lines.to_pylist()


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
