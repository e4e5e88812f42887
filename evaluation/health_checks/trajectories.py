"""What the trajectory of a patient says about rows: flags of the leak audit, and the answer of the last such event."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mimiciv_dataset.audit import ShownValues, audit_risk
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import TASKS, Task
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.work import Workers, map_lines

PATIENTS_PER_PART = 50


class Question(NamedTuple):
    """What is asked about a row: the flags of the leak audit, and (`copy`) the score of copying the last answer."""

    number: int
    task: str
    subject_id: str
    window: tuple[int, int]
    last_discharge_id: int | None
    labels: tuple[str, ...]
    audit: bool
    copy: bool


def answer_questions(
    questions: Iterable[Question], ehr_dir: Path, index_mapping: Path, workers: Workers
) -> Iterator[dict[str, Any]]:
    """Yield `number`, `flags` and `copied` (the score, or None if it was not asked for) of each question, by patient."""
    patients: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        patients[question.subject_id].append(question)
    of_patients = list(patients.values())
    parts = [of_patients[start : start + PATIENTS_PER_PART] for start in range(0, len(of_patients), PATIENTS_PER_PART)]
    work = partial(answer_part, Trajectories(ehr_dir), Lookups(index_mapping)) if parts else answer_part
    scratch = Path(tempfile.gettempdir()), f"health-{os.getpid()}"
    return map_lines(parts, work, *scratch, workers=workers, desc="trajectories", unit="part")


def answer_part(trajectories: Trajectories, lookups: Lookups, part: Sequence[Sequence[Question]]) -> Iterator[dict[str, Any]]:
    """The answers about the rows of some patients."""
    from evaluation.baselines import last_answer
    from evaluation.metrics import set_scores

    for questions in part:
        t = trajectories.timeline(questions[0].subject_id)
        shown = None
        for question in questions:
            task, (_, end) = TASKS[question.task], question.window
            if end > len(t) - (task.kind != "risk"):
                expected = "expected rows of these trajectories, got a window that ends after its trajectory"
                raise UserError(f"{trajectories.folder}: {expected}. Compare them: mimiciv_dataset/validate_index.py.")
            flags: list[str] = []
            if question.audit:
                shown = shown or ShownValues(t, lookups).read_all()
                flags = audit_flags(task, question, t, shown)
            copied = None
            if question.copy:
                copied = set_scores(label_list(last_answer(task, t, end, lookups) or ()), question.labels)[2]
            yield {"number": question.number, "flags": flags, "copied": copied}


def audit_flags(task: Task, question: Question, t: Timeline, shown: ShownValues) -> list[str]:
    """The flags that `task_sample_info_gen.py` gives to the row."""
    begin, end = question.window
    flags: list[str] = []
    if task.kind == "risk":
        anchor = end - 1 if task.window == "note" else begin
        outcome = task.rule(t, anchor, end)
        flags = audit_risk(task, t, anchor, question.window, outcome) if outcome is not None else []
    elif shown.target_in_context(task, begin, end, question.labels):
        flags = ["target_in_context"]
    if shown.not_yet_stored(task, question.window, question.last_discharge_id):
        flags.append("not_yet_stored")
    return flags
