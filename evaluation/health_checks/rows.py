"""The rows of a benchmark, one at a time: memory does not grow with the texts of a JSONL."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mimiciv_dataset.cells import clean_id, row_number
from mimiciv_dataset.draws import text_hash
from mimiciv_dataset.index_files import clean_position, sample_id
from mimiciv_dataset.index_rows import Rows, has_text, normalise_row
from mimiciv_dataset.index_tables import read_tables
from mimiciv_dataset.json_lines import parse_line, read_lines
from mimiciv_dataset.row_checks import check_row, clean_label, task_of_row
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError

REQUIRED = ("subject_id", "task", "target")


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """A row of a benchmark.

    Attributes:
        number: position in the benchmark, over all its files.
        sample_id: identity of the sample, as in the outputs of a run.
        subject_id, window: the patient, and the positions of the context in the trajectory; None if the row does not say.
        last_discharge_id: position of the last discharge note that the input shows, or None.
        labels: the correct answers.
        audit: flags of the leak audit; None if the row has not been audited.
        text: the input, if the row has it.
        candidates: the answers offered, if the row has them.
    """

    number: int
    task: Task
    sample_id: str
    subject_id: str | None
    window: tuple[int, int] | None
    last_discharge_id: int | None
    labels: tuple[str, ...]
    audit: tuple[str, ...] | None
    text: str | None = None
    candidates: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        """The patient, for clustered intervals; the sample itself if it is not known."""
        return self.subject_id or self.sample_id

    @property
    def key(self) -> str:
        """What decides the choice and the order of candidates; as in `MIMICIV`."""
        begin, end = self.window or (None, None)
        return f"{self.task.name} {self.subject_id} {begin} {end}"


def read_benchmark(files: Sequence[Path]) -> Iterator[BenchmarkRow]:
    """Yield the rows of the files of a benchmark; errors name the row."""
    number = 0
    for path in files:
        for where, raw in (_json_rows if path.suffix in (".jsonl", ".json") else _csv_rows)(path):
            try:
                row = benchmark_row(number, raw)
            except UserError as error:
                raise UserError(f"{where()}: {error}") from None
            yield row
            number += 1


def _csv_rows(path: Path) -> Iterator[tuple[Callable[[], str], Mapping[str, Any]]]:
    first = 0
    for table in read_tables(path, REQUIRED):
        for index, row in enumerate(Rows(path, table, lines=False), first):
            yield partial(_csv_row, path, index), row
        first += table.num_rows


def _csv_row(path: Path, index: int) -> str:
    return f"{path}, row {row_number(path, index)}"


def _json_rows(path: Path) -> Iterator[tuple[Callable[[], str], Mapping[str, Any]]]:
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            row = normalise_row(parse_line(line))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        yield partial(str, where), row


def benchmark_row(number: int, row: Mapping[str, Any]) -> BenchmarkRow:
    """A row of an index, as `normalise_row` returns it.

    >>> row = {"subject_id": "7", "task": "emar", "period_begin": 3, "period_end": 9, "target": ["Aspirin"], "audit": None}
    >>> row = benchmark_row(0, row)
    >>> row.sample_id, row.window, row.labels, row.audit
    ('emar/7/3-9', (3, 9), ('Aspirin',), ())
    """
    task = task_of_row(row)
    check_row(row)
    rendered = has_text(row)
    values = (row["task_info"] | row if rendered else dict(row)) | {"task": task.name}
    label = clean_label(task, values["label"] if rendered else row.get("target"), "label" if rendered else "target")
    subject_id = clean_id(values.get("subject_id"))
    ends = [clean_position(values.get(f"period_{end}", values.get(f"context_{end}"))) for end in ("begin", "end")]
    window = None if None in ends or subject_id is None else (ends[0], ends[1])
    audit = tuple(filter(None, (values["audit"] or "").split(";"))) if "audit" in values else None
    last_discharge = clean_position(values.get("last_discharge_id"))
    text, candidates = (row["input"], tuple(row.get("candidates") or ())) if rendered else (None, ())
    identity = sample_id(values)
    return BenchmarkRow(
        number, task, identity, subject_id, window, last_discharge, tuple(label_list(label)), audit, text, candidates
    )


@dataclass
class RowSample:
    """A random sample of rows, at most `size`, that depends on the rows alone, not on their order; texts are emptied."""

    size: int
    _heap: list[tuple[int, int, BenchmarkRow]] = field(default_factory=list)

    def add(self, row: BenchmarkRow) -> None:
        """Take a row, perhaps in place of another."""
        entry = (-text_hash(row.sample_id), -row.number, replace(row, text=None if row.text is None else ""))
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    @property
    def rows(self) -> list[BenchmarkRow]:
        """The rows of the sample, in the order of the benchmark."""
        return sorted((row for *_, row in self._heap), key=lambda row: row.number)
