"""A task index → MEDS label files, one parquet a task, so that models of other groups can be run on our samples.

Columns of the MEDS label schema: subject_id, prediction_time, and boolean_value (risk tasks) or categorical_value (decision
tasks: the answer, or the answers as a JSON list). A model may use all data up to and including prediction_time: the last
event of the sample's window, and always before what is asked (docs/external.md). Rows stand in the order of the index;
samples whose answer stands in their window are left out and counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the packages of this checkout

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from mimiciv_dataset.tasks import NO, TASKS, YES, Task
from mimiciv_dataset.timeline import Timeline, example  # noqa: F401  (example: for the doctests)
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, progress

Label = tuple[int, int, str | bool]
"""subject_id, prediction_time in microseconds since 1970, value."""

MICROSECONDS = 1_000_000
_BUILDS = "the index and the trajectories belong to different builds; check them with mimiciv_dataset/validate_index.py"


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--data_index", type=Path, nargs="+", required=True, help="index CSVs: a task index or a sampled set")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--output_path", type=Path, required=True, help="folder for TASK.parquet")
    args = cli.parse_args(argv)
    summary = Summary("meds_labels")

    from mimiciv_dataset.index_files import read_rows
    from mimiciv_dataset.trajectory import Trajectories

    trajectories = Trajectories(args.ehr_dir)
    of_patient: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    number = 0  # samples are found patient by patient, and written in the order of the index
    for path in args.data_index:
        for row in read_rows(path):
            task = task_of(row, path)
            if task.kind == "generation":
                left_out["ask for a note"] += 1
            else:
                of_patient[row["subject_id"]].append((number := number + 1, row))
    labels: dict[str, list[tuple[int, Label]]] = defaultdict(list)
    for subject_id, rows in progress(of_patient.items(), total=len(of_patient), desc="meds_labels", unit="patient"):
        timeline = trajectories.timeline(subject_id)
        for number, row in rows:
            task, window = TASKS[row["task"]], (row["period_begin"], row["period_end"])
            check(task, timeline, row)
            time = prediction_time(task, timeline, *window)
            if time is None:
                left_out["have their answer in the window"] += 1
            else:
                labels[task.name].append((number, (int(subject_id), time, value_of(task, row["target"]))))
    for name in TASKS:
        if name in labels:
            write_labels(args.output_path / f"{name}.parquet", TASKS[name], [label for _, label in sorted(labels[name])])
    count = sum(map(len, labels.values()))
    notes = "".join(f", {number:,} left out that {why}" for why, number in left_out.items())
    summary.print(f"{count:,} labels of {len(labels)} tasks{notes} → {args.output_path}", count, "labels")


def task_of(row: dict[str, Any], path: Path) -> Task:
    """The task of an index row.

    Raises:
        UserError: it is no row of our index.
    """
    if "input" in row or row["task"] not in TASKS:
        raise UserError(f"{path}: wanted an index CSV of our tasks, found rows of something else; "
                        "make one with mimiciv_dataset/data_index_gen.py")  # fmt: skip
    return TASKS[row["task"]]


def check(task: Task, t: Timeline, row: dict[str, Any]) -> None:
    """That a row is a sample of this trajectory: its own event is where the row says, and of the table it says.

    Raises:
        UserError: it is not.
    """
    begin, end = row["period_begin"], row["period_end"]
    position = own_event(task, begin, end)
    fits = 0 < begin < end <= len(t) and position < len(t) and t.file_names[position] == (row.get("event") or task.event)
    fits = fits and any(start is not None for start in t.starts[begin:end])
    if fits and task.kind == "risk":
        outcome = task.rule(t, position, end)
        fits = outcome is not None and (YES if outcome.yes else NO) == row["target"]
    if not fits:
        raise UserError(f"{task.name}, patient {row['subject_id']}, events {begin} to {end}: wanted a sample of these "
                        f"trajectories, found another event or answer there; {_BUILDS}")  # fmt: skip


def own_event(task: Task, begin: int, end: int) -> int:
    """Position of a sample's own event: what is asked for, or a risk task's anchor."""
    if task.kind != "risk":
        return end
    return end - 1 if task.window == "note" else begin


def prediction_time(task: Task, t: Timeline, begin: int, end: int) -> int | None:
    """When a sample is made, in microseconds since 1970; None where the answer is known by then.

    The time of the window's last event, for that is all a model of ours sees. A decision sample whose last event has the
    time of the event asked for is made a microsecond before it. diagnoses_icd has no time of its own; MIMIC-IV writes it
    down at discharge, so its samples are made before dischtime. A "yes" of a risk task must be decided later.

    >>> t = example(("patients",), ("admissions", 0, "a", {"dischtime": 3}), ("emar", 1, "a"), ("emar", 2, "a"),
    ...             ("labevents", 2, "a"), ("emar", 5, "a"), ("diagnoses_icd", None, "a"))
    >>> def minutes(task, begin, end):
    ...     return (prediction_time(TASKS[task], t, begin, end) - t.starts[1] * MICROSECONDS) / 60e6
    >>> minutes("emar", 1, 3), minutes("labevents", 1, 4) < 120 < minutes("labevents", 1, 4) + 1e-6
    (60.0, True)
    >>> minutes("diagnoses_icd", 1, 6) < 180
    True
    >>> t = example(("patients",), ("edstays", 0, "a", {"outtime": 4}), ("admissions", 1, "a"), ("emar", 2, "a"))
    >>> [prediction_time(TASKS["ED_Hospitalization"], t, 1, end) is None for end in (2, 3)]
    [False, True]
    """
    last = max(start for start in t.starts[begin:end] if start is not None) * MICROSECONDS
    position = own_event(task, begin, end)
    if task.kind == "risk":
        outcome = task.rule(t, position, end)
        if not outcome.yes:
            return last
        known = outcome.time if outcome.position is None else t.starts[outcome.position]
        return last if known is None or known * MICROSECONDS > last else None
    asked = t.starts[position]
    if asked is None:
        admission = t.next_of_stay("admissions", 0, t.hadm_ids[position])
        asked = None if admission is None else t.time(admission, "dischtime")
    return last if asked is None else min(last, asked * MICROSECONDS - 1)


def value_of(task: Task, target: list[str] | str) -> str | bool:
    """The label of a sample: true or false, a name, or names as a JSON list.

    >>> value_of(TASKS["ICU_Readmission"], "no"), value_of(TASKS["next_event"], "emar"), value_of(TASKS["emar"], ["Aspirin"])
    (False, 'emar', '["Aspirin"]')
    """
    if task.kind == "risk":
        return target == YES
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)


def write_labels(path: Path, task: Task, labels: Sequence[Label]) -> None:
    """Write a MEDS label file, which the meds package checks first."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from meds import LabelSchema

    subjects, moments, values = zip(*labels, strict=True)
    value = "boolean_value" if task.kind == "risk" else "categorical_value"
    columns = {"subject_id": subjects, "prediction_time": moments, value: values}
    table = pa.table({name: pa.array(column, LabelSchema.schema().field(name).type) for name, column in columns.items()})
    LabelSchema.validate(table)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


if __name__ == "__main__":
    run(main)
