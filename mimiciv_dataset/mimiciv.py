"""The dataset: index rows as samples with text, answer and candidates."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mimiciv_dataset.candidates import Candidates
from mimiciv_dataset.index_rows import Rows, normalise_row, read_rows
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.row_checks import check_row, check_rows, clean_label, task_of_row
from mimiciv_dataset.samples import label_list, target_of_row
from mimiciv_dataset.tasks import Task, load_instructions
from mimiciv_dataset.text import Renderer, SampleText
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import ROOT_DIR
from pipeline.errors import UserError
from pipeline.progress import progress

Row = dict[str, Any]
SHUFFLE_SEED = 42


class MIMICIV(Dataset):
    """A map-style dataset of the samples of an index.

    `len(ds)` is the number of rows, and `ds[i]` a new dict with:

    - `idx` (int): position of the row in the index.
    - `instruction` (str): the question.
    - `input` (str): the text of the patient.
    - `output` (str): the answers, joined by newlines.
    - `candidates` (list[str] | None): the answers that the prompt offers; None if `cache/` has no files for the task.
    - `task_info` (dict): `task`, `event`, `metric`, `task_type` (decision, risk or generation), `label` and `target` (the list
      of answers; "yes" or "no" for a risk task; the note for a generation task), and the other columns of the row.

    Rows that already have `input` (the released JSONL) are returned with their own text, instruction and task_info, where
    `task_type` may be spelled `decision_making` or `risk_prediction`. All rows are checked first (`row_checks`).

    Trajectories and dictionaries are opened on first use, in each dataloader worker separately, so that the dataset can be
    pickled and forked.

    Args:
        root_dir: directory with `patients_ehr/`, `index_mapping/` and `cache/`.
        sample_info_path: index CSV or JSONL; the window columns can be called `context_*` or `period_*`.
        sample_info: index rows, instead of a file.
        lazzy_mode: make each sample when it is accessed; by default, all are made at once and kept in memory.
        log: show a progress bar while all samples are made.
        shuffle: shuffle the rows, always in the same order.
        instructions: JSON file, task → instruction, that replaces the default instructions.
        ehr_dir: trajectories; `root_dir/patients_ehr` by default.
        as_known: show values as missing that were stored after the prediction time (docs/tasks.md).
        check: check all rows; False if the caller does so while it iterates over them (`row_keys.row_keys`).

    Examples:
        ds = MIMICIV("./datas", "./datas/task_index/risk_prediction/test.csv", lazzy_mode=True)
        sample = ds[0]
    """

    def __init__(
        self,
        root_dir: str | Path = ROOT_DIR,
        sample_info_path: str | Path | None = None,
        sample_info: Sequence[Row] | None = None,
        lazzy_mode: bool = False,
        log: bool = True,
        shuffle: bool = True,
        instructions: str | Path | None = None,
        ehr_dir: str | Path | None = None,
        as_known: bool = False,
        check: bool = True,
    ) -> None:
        if (sample_info_path is None) == (sample_info is None):
            raise UserError("MIMICIV: expected either sample_info_path or sample_info, got both or neither.")
        self.root_dir = Path(root_dir)
        self.ehr_dir = Path(ehr_dir) if ehr_dir else self.root_dir / "patients_ehr"
        self.rows = read_rows(sample_info_path) if sample_info_path is not None else list(sample_info)
        self.instructions = load_instructions(instructions)
        self.lookups = Lookups(self.root_dir / "index_mapping")
        self.renderer = Renderer(self.lookups, as_known)
        self.candidates = Candidates(self.root_dir / "cache")
        self._order = list(range(len(self.rows)))
        if as_known and self.rendered:
            where = self.rows.path if isinstance(self.rows, Rows) else "sample_info"
            fix = "Use an index CSV, or leave it out"
            raise UserError(f"{where}: expected rows without text for as_known, got rows that have their text. {fix}.")
        if check and isinstance(self.rows, Rows):
            check_rows(self.rows)
        elif check:
            for index in range(len(self)):
                row = self.row(index)
                with self.located(index):
                    check_row(row)
        if shuffle:
            random.Random(SHUFFLE_SEED).shuffle(self._order)
        self._samples: list[Row] | None = None
        if not lazzy_mode:
            indices = range(len(self))
            self._samples = [self._make(i) for i in (progress(indices, desc="samples", unit="sample") if log else indices)]

    @cached_property
    def trajectories(self) -> Trajectories:
        """The trajectories of the rows."""
        return Trajectories(self.ehr_dir)

    def __len__(self) -> int:
        return len(self._order)

    def row(self, index: int) -> Row:
        """The index row of a sample, as `normalise_row` returns it."""
        row = self.rows[self._order[index]]
        if isinstance(self.rows, Rows):
            return row
        with self.located(index):
            return normalise_row(row)

    def where(self, index: int) -> str:
        """The row of a sample in its file, or in `sample_info`, for errors."""
        row = self._order[index]
        return self.rows.where(row) if isinstance(self.rows, Rows) else f"sample_info[{row}]"

    @contextlib.contextmanager
    def located(self, index: int) -> Iterator[None]:
        """Let errors in the block begin with the row of a sample."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.where(index)}: {error}") from None

    @cached_property
    def rendered(self) -> bool:
        """Whether the rows already have their text, so that no trajectories are needed."""
        return len(self) > 0 and "input" in self.row(0)

    def task(self, row: Row) -> Task:
        """The task of a row."""
        return task_of_row(row)

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if self._samples is None:
            return self._make(index % len(self))
        sample = self._samples[index]
        return {**sample, "task_info": dict(sample["task_info"])}

    def text(self, index: int) -> SampleText:
        """The input of a sample in parts, for truncation by events; `str` of it is the input."""
        row = self.row(index)
        with self.located(index):
            return SampleText.parse(row["input"], self.task(row)) if "input" in row else self._text(row)

    def with_text(self, index: int) -> tuple[Row, SampleText]:
        """A sample and its input in parts, rendered once."""
        text = self.text(index)
        return self._make(index, text), text

    def _text(self, row: Row) -> SampleText:
        return self.renderer.row(self.task(row), row, partial(self.trajectories.events, row["subject_id"]))

    def _make(self, index: int, text: SampleText | None = None) -> Row:
        row = self.row(index)
        with self.located(index):
            return self._sample(self._order[index], row, text)

    def _sample(self, position: int, row: Row, text: SampleText | None) -> Row:
        task = self.task(row)
        if "input" in row:
            info = {"metric": task.metric, "task_type": task.kind} | row["task_info"] | {"task": task.name}
            info["label"] = clean_label(task, info["label"])
            text = {"input": row["input"], "output": row["output"], "candidates": row.get("candidates")}
            idx, instruction = row.get("idx", position), row.get("instruction", "")
            return {"idx": idx, "instruction": instruction, **text, "task_info": info}
        begin, end, target = row["period_begin"], row["period_end"], row.get("target")
        if target is None:
            target = target_of_row(task, begin, end, self.trajectories.timeline(row["subject_id"]), self.lookups)
        if target is None:
            fix = "Use an index and trajectories of the same build"
            raise UserError(f"expected a target in the row or the trajectory, got neither. {fix}.")
        target = clean_label(task, target, "target")
        answers = label_list(target)
        key = f"{task.name} {row['subject_id']} {begin} {end}"
        info = {"task": task.name, "event": row.get("event") or task.event, "metric": task.metric, "task_type": task.kind}
        columns = {name: value for name, value in row.items() if name not in ("task", "event", "target")}
        return {
            "idx": position,
            "instruction": self.instructions[task.name],
            "input": str(text or self._text(row)),
            "output": "\n".join(answers),
            "candidates": self.candidates.of(task, answers, key),
            "task_info": {**info, "label": target, "target": target, **columns},
        }
