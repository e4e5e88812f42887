"""The dataset class: index rows → samples with text, answer and candidates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mimiciv_dataset.candidates import Candidates
from mimiciv_dataset.index_files import Rows, normalise_row, read_rows
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.samples import target_of_row
from mimiciv_dataset.tasks import ALL_TASKS, TASKS, Task, load_instructions
from mimiciv_dataset.text import Renderer, SampleText
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import ROOT_DIR
from pipeline.errors import UserError
from pipeline.progress import progress

Row = dict[str, Any]

SHUFFLE_SEED = 42


class MIMICIV(Dataset):
    """Samples of an index CSV or JSONL, map-style.

    `ds[i]` is a new dict each time: `idx`, `instruction`, `input`, `output` (answers joined by newlines), `candidates`
    (a list, or None where there is no `cache/` for the task), and `task_info` with `task`, `event`, `metric`,
    `task_type`, `label` (list of answers; "yes"/"no" for a risk task; the note for discharge), `target`, and the other
    columns of the row. Rows that have `input` already (the released JSONL) pass through with their own instruction.

    Trajectories and dictionaries are opened when they are first needed, in each dataloader worker for itself.

    Args:
        root_dir: folder with `patients_ehr/`, `index_mapping/` and `cache/`.
        sample_info_path: index CSV or JSONL; window columns may be called context_* or period_*.
        sample_info: rows, instead of a file.
        lazzy_mode: make a sample when it is asked for; otherwise all are made at once and kept.
        log: show progress while making all samples.
        shuffle: put the rows in a random order, the same every time.
        instructions: JSON file, task → sentence, in place of ours.
        ehr_dir: trajectories, if not in `root_dir/patients_ehr`.

    Raises:
        UserError: a file is missing or not as it should be, a row does not fit the trajectories.
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
    ) -> None:
        if (sample_info_path is None) == (sample_info is None):
            raise UserError("MIMICIV: wanted one of sample_info_path and sample_info, found both or neither")
        self.root_dir = Path(root_dir)
        self.ehr_dir = Path(ehr_dir) if ehr_dir else self.root_dir / "patients_ehr"
        self.rows = read_rows(sample_info_path) if sample_info_path is not None else list(sample_info)
        self.instructions = load_instructions(instructions)
        self.lookups = Lookups(self.root_dir / "index_mapping")
        self.renderer = Renderer(self.lookups)
        self.candidates = Candidates(self.root_dir / "cache")
        self._trajectories: Trajectories | None = None
        self._order = list(range(len(self.rows)))
        if shuffle:
            random.Random(SHUFFLE_SEED).shuffle(self._order)
        self._samples: list[Row] | None = None
        if not lazzy_mode:
            every = range(len(self))
            self._samples = [self._make(i) for i in (progress(every, desc="samples", unit="sample") if log else every)]

    @property
    def trajectories(self) -> Trajectories:
        if self._trajectories is None:
            self._trajectories = Trajectories(self.ehr_dir)
        return self._trajectories

    def __len__(self) -> int:
        return len(self._order)

    def row(self, index: int) -> Row:
        """The index row of sample `index`: clean ids, integer positions, parsed target; rows with `input` as they are."""
        row = self.rows[self._order[index]]
        return row if isinstance(self.rows, Rows) else normalise_row(row)

    @property
    def rendered(self) -> bool:
        """Whether the rows hold their text already, so that no trajectories are needed."""
        return len(self) > 0 and "input" in self.row(0)

    def task(self, row: Row) -> Task:
        """The task of a row.

        Raises:
            UserError: no such task.
        """
        name = row.get("task") or row.get("task_info", {}).get("task")
        if name not in (ALL_TASKS if "input" in row else TASKS):
            where = self.rows.path if isinstance(self.rows, Rows) else "sample_info"
            raise UserError(f"{where}: task {name!r}: wanted one of {', '.join(TASKS)}")
        return ALL_TASKS[name]

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if self._samples is None:
            return self._make(index % len(self))
        sample = self._samples[index]
        return {**sample, "task_info": dict(sample["task_info"])}

    def text(self, index: int) -> SampleText:
        """The parts of sample `index`'s input, for truncation by events; `str` of it is the input."""
        row = self.row(index)
        return SampleText.parse(row["input"], self.task(row)) if "input" in row else self._text(row)

    def with_text(self, index: int) -> tuple[Row, SampleText]:
        """Sample `index` and the parts of its input, rendered once."""
        text = self.text(index)
        return self._make(index, text), text

    def _text(self, row: Row) -> SampleText:
        task, begin, end = self.task(row), row["period_begin"], row["period_end"]
        note, admission = row.get("last_discharge_id"), row.get("admissions_id")
        window = range(begin, end)
        wanted = [0, *window, *(p for p in (note, admission) if p is not None)]
        events = dict(zip(wanted, self.trajectories.events(row["subject_id"], wanted), strict=True))
        return self.renderer.sample(
            task,
            patient=events[0],
            last_discharge=None if note is None else events[note],
            admission=None if admission is None else events[admission],
            window=[events[position] for position in window],
        )

    def _make(self, index: int, text: SampleText | None = None) -> Row:
        row = self.row(index)
        task = self.task(row)
        if "input" in row:
            info = {"metric": task.metric, "task_type": task.kind} | dict(row.get("task_info", {})) | {"task": task.name}
            return {"idx": row.get("idx", self._order[index]), "instruction": row.get("instruction", ""),
                    "input": row["input"], "output": row["output"], "candidates": row.get("candidates"),
                    "task_info": info}  # fmt: skip
        target = row.get("target")
        if target is None:
            target = self._target(task, row)
        answers = target if isinstance(target, list) else [target]
        key = f"{task.name} {row['subject_id']} {row['period_begin']} {row['period_end']}"
        columns = {name: value for name, value in row.items() if name not in ("task", "event", "target")}
        return {
            "idx": self._order[index],
            "instruction": self.instructions[task.name],
            "input": str(text or self._text(row)),
            "output": "\n".join(answers),
            "candidates": self.candidates.of(task, answers, key),
            "task_info": {
                "task": task.name,
                "event": row.get("event") or task.event,
                "metric": task.metric,
                "task_type": task.kind,
                "label": target,
                "target": target,
                **columns,
            },
        }

    def _target(self, task: Task, row: Row) -> list[str] | str:
        window = {"task": task.name, "context_begin": row["period_begin"], "context_end": row["period_end"]}
        target = target_of_row(window, self.trajectories.timeline(row["subject_id"]), self.lookups)
        if target is None:
            raise UserError(
                f"{task.name}, patient {row['subject_id']}, event {row['period_end']}: wanted a target, found none in the "
                "row and none in the trajectory; the index and the trajectories belong to different builds"
            )
        return target
