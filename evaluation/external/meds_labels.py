"""Export a task index as MEDS label files, one parquet per task, so that other models can be run on our samples.

The columns are those of the MEDS label schema: subject_id, prediction_time, and boolean_value (risk tasks) or
categorical_value (decision tasks: the answer, or the answers as a JSON list). A model may use all data up to and including
prediction_time: the latest time of a record in the sample's window, and always before the event that is asked for
(docs/external.md). Rows are in the order of the index; samples whose answer is in their window are left out and counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.tasks import NO, TASKS, YES, Task
from mimiciv_dataset.timeline import Timeline, example  # noqa: F401  (example: for the doctests)
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import Line, atomic_path
from pipeline.progress import Summary
from pipeline.work import Workers, map_lines

if TYPE_CHECKING:
    from mimiciv_dataset.trajectory import Trajectories

MICROSECONDS = 1_000_000
PATIENTS_PER_PART = 50
# Columns of predictions, and their Arrow types, as `meds_evaluation.schema.PredictionSchema` has them.
PREDICTION_TYPES = {"predicted_boolean_value": "bool", "predicted_boolean_probability": "float32"}


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--data_index", type=Path, nargs="+", required=True, help="index CSVs: a task index or a sampled set")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--output_path", type=Path, required=True, help="directory for TASK.parquet")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("meds_labels")

    from mimiciv_dataset.index_files import index_paths
    from mimiciv_dataset.index_rows import read_rows

    rows: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    number = 0
    for path in index_paths(args.data_index):
        for row in read_rows(path):
            number += 1
            if task_of_row(row, path).kind == "generation":
                left_out["ask for a note"] += 1
            else:
                rows[row["subject_id"]].append((number, row))
    labels: dict[str, list[tuple[int, int, int, str | bool]]] = defaultdict(list)
    patients, job = list(rows), MedsJob(args.ehr_dir, dict(rows))
    parts = [patients[start : start + PATIENTS_PER_PART] for start in range(0, len(patients), PATIENTS_PER_PART)]
    scratch = args.output_path.parent, args.output_path.name
    for line in map_lines(parts, job.labels, *scratch, workers=workers, desc="meds_labels", unit="part"):
        if line["label"] is None:
            left_out["have their answer in the window"] += 1
        else:
            labels[line["task"]].append(tuple(line["label"]))
    for name, of_task in labels.items():
        ordered = sorted(of_task, key=lambda label: label[0])
        write_labels(args.output_path / f"{name}.parquet", TASKS[name], [label[1:] for label in ordered])
    count = sum(map(len, labels.values()))
    notes = "".join(f", {number:,} left out that {why}" for why, number in left_out.items())
    summary.print(f"{count:,} labels of {len(labels)} tasks{notes} → {args.output_path}", count, "labels")


def task_of_row(row: dict[str, Any], path: Path) -> Task:
    """The task of an index row; an error for rows of other benchmarks and rendered rows."""
    if "input" in row or row["task"] not in TASKS:
        fix = "Make one with mimiciv_dataset/data_index_gen.py"
        raise UserError(f"{path}: expected an index CSV of our tasks, got other rows. {fix}.")
    return TASKS[row["task"]]


@dataclass(frozen=True)
class MedsJob:
    """The trajectories, and the index rows of each patient with their positions in the index."""

    ehr_dir: Path
    rows: dict[str, list[tuple[int, dict[str, Any]]]]

    @cached_property
    def trajectories(self) -> Trajectories:
        from mimiciv_dataset.trajectory import Trajectories

        return Trajectories(self.ehr_dir)

    def labels(self, patients: Sequence[str]) -> Iterator[Line]:
        """Yield {"task": name, "label": (position, subject_id, time, value)} for each row; None for answers in the window."""
        for subject_id in patients:
            timeline = self.trajectories.timeline(subject_id)
            for number, row in self.rows[subject_id]:
                task = TASKS[row["task"]]
                check_sample(task, timeline, row, f"{task.name}, row {number:,} of --data_index")
                time = label_time(task, timeline, row["period_begin"], row["period_end"])
                label = None if time is None else (number, int(subject_id), time, label_value(task, row["target"]))
                yield {"task": task.name, "label": label}


def check_sample(task: Task, t: Timeline, row: dict[str, Any], where: str) -> None:
    """Check that a row is a sample of this trajectory: event and, for risk tasks, outcome are those of the row.

    `where` names the row in the error.
    """
    begin, end = row["period_begin"], row["period_end"]
    position = own_event(task, begin, end)
    fits = 0 < begin < end <= len(t) and position < len(t) and t.file_names[position] == (row.get("event") or task.event)
    fits = fits and t.prediction_time(begin, end) is not None
    if fits and task.kind == "risk":
        outcome = task.rule(t, position, end)
        fits = outcome is not None and (YES if outcome.yes else NO) == row["target"]
    if not fits:
        fix = "Index and trajectories belong to different builds: check them with mimiciv_dataset/validate_index.py"
        raise UserError(f"{where}: expected a sample of these trajectories, got another event or answer. {fix}.")


def own_event(task: Task, begin: int, end: int) -> int:
    """Position of the event that a sample is about: the one asked for, or the anchor of a risk task."""
    if task.kind != "risk":
        return end
    return end - 1 if task.window == "note" else begin


def label_time(task: Task, t: Timeline, begin: int, end: int) -> int | None:
    """The prediction time of a sample in microseconds since 1970; None if the answer is known by then.

    It is `Timeline.prediction_time`, the latest time of a record in the window, which is all that a model sees in our
    evaluation. If the event asked for starts at the same time, it is a microsecond earlier. diagnoses_icd has no times;
    MIMIC-IV records it at discharge, so that its samples are before dischtime. A "yes" of a risk task must be decided later.

    >>> t = example(("patients",), ("admissions", 0, "a", {"dischtime": 3}), ("emar", 1, "a"), ("emar", 2, "a"),
    ...             ("labevents", 2, "a"), ("emar", 5, "a"), ("diagnoses_icd", None, "a"))
    >>> def minutes(task, begin, end):
    ...     return (label_time(TASKS[task], t, begin, end) - t.starts[1] * MICROSECONDS) / 60e6
    >>> minutes("emar", 1, 3), minutes("labevents", 1, 4) < 120 < minutes("labevents", 1, 4) + 1e-6
    (60.0, True)
    >>> minutes("diagnoses_icd", 1, 6) < 180
    True
    >>> t = example(("patients",), ("edstays", 0, "a", {"outtime": 4}), ("admissions", 1, "a"), ("emar", (2, 3), "a"))
    >>> [label_time(TASKS["ED_Hospitalization"], t, 1, end) is None for end in (2, 3)]
    [False, True]
    >>> (label_time(TASKS["ED_Reattendance_3day"], t, 1, 4) // MICROSECONDS - t.starts[1]) // 3600
    3
    """
    last = t.prediction_time(begin, end) * MICROSECONDS
    position = own_event(task, begin, end)
    if task.kind == "risk":
        outcome = task.rule(t, position, end)
        outcome_time = outcome.time if outcome.position is None else t.starts[outcome.position]
        return last if not outcome.yes or outcome_time is None or outcome_time * MICROSECONDS > last else None
    event_time = t.starts[position]
    if event_time is None:
        admission = t.next_of_stay("admissions", 0, t.hadm_ids[position])
        event_time = None if admission is None else t.time(admission, "dischtime")
    return last if event_time is None else min(last, event_time * MICROSECONDS - 1)


def label_value(task: Task, target: list[str] | str) -> str | bool:
    """The label of a sample in MEDS: true or false, a name, or names as a JSON list.

    >>> label_value(TASKS["ICU_Readmission"], "no"), label_value(TASKS["emar"], ["Aspirin"])
    (False, '["Aspirin"]')
    """
    if task.kind == "risk":
        return target == YES
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)


def write_labels(path: Path, task: Task, labels: Sequence[tuple[int, int, str | bool]]) -> None:
    """Write a MEDS label file of (subject_id, prediction_time, value)."""
    subjects, times, values = zip(*labels, strict=True)
    value = "boolean_value" if task.kind == "risk" else "categorical_value"
    write_table(path, {"subject_id": subjects, "prediction_time": times, value: values})


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of labels, and of predictions if there are any, after validation of the labels by the meds package."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from meds import LabelSchema

    types = {field.name: field.type for field in LabelSchema.schema()} | PREDICTION_TYPES
    table = pa.table({name: pa.array(column, types[name]) for name, column in columns.items()})
    LabelSchema.validate(table.drop_columns([name for name in columns if name in PREDICTION_TYPES]))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


if __name__ == "__main__":
    run(main)
