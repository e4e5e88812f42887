"""Trajectories → the task index: one row for every sample of every task.

Each patient is read once; a row says which events are the sample's context and what its answer is. Patients outside
--traj_len_min/--traj_len_max are left out, as in the published benchmark. Run it several times at once and the processes
share the patients. `--list_tasks` prints the tasks and their rules.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.index_files import INDEX_COLUMNS
from mimiciv_dataset.lookups import HOW_TO_GET_DICTIONARIES, Lookups
from mimiciv_dataset.patients import DATA_USE, read_subject_ids
from mimiciv_dataset.samples import Sample, find_samples, label_list, target_weight
from mimiciv_dataset.tasks import TASKS, Task, task_table
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, atomic_path, read_json, write_json
from pipeline.progress import Summary, progress
from pipeline.provenance import git_revision
from pipeline.work import share_work

UNIT_PATIENTS = 200
"""Patients indexed between two points at which an interrupted run goes on."""


def main(argv: Sequence[str] | None = None) -> None:
    import argparse

    cli = Parser(__doc__)
    cli.add_path("--patient_id", "--patient_ids_path", default="patient_data/patients.csv", help="CSV of subject_id")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_path("--output_path", default="task_index/all", help="folder for the index")
    cli.add_argument("--group", choices=("task", "patient"), default="task", help="one CSV a task, or one a patient")
    cli.add_argument("--task", nargs="+", choices=tuple(TASKS), metavar="TASK", help="only these tasks (all)")
    cli.add_argument("--traj_len_min", type=int, default=1, help="fewest events of a patient (1)")
    cli.add_argument("--traj_len_max", type=int, default=1200, help="most events of a patient (1200)")
    cli.add_argument(
        "--audit", action=argparse.BooleanOptionalAction, default=True, help="flag rows whose answer leaks (docs/tasks.md)"
    )
    cli.add_argument("--list_tasks", action="store_true", help="print the table of tasks and stop")
    args = cli.parse_args(argv)
    if args.list_tasks:
        print(task_table())
        return
    summary = Summary("task_sample_info_gen")
    tasks = [TASKS[name] for name in TASKS if not args.task or name in args.task]
    trajectories = Trajectories(args.ehr_dir)
    lookups = Lookups(args.index_mapping)
    warn_of_empty_tasks(tasks, lookups)
    subjects, dropped = select_patients(args, trajectories)
    units = [subjects[i : i + UNIT_PATIENTS] for i in range(0, len(subjects), UNIT_PATIENTS)]
    options = {
        "digest": trajectories.digest, "tasks": [task.name for task in tasks], "audit": args.audit, "patients": len(subjects),
        "traj_len": [args.traj_len_min, args.traj_len_max],
    }  # fmt: skip
    work = args.output_path / ".work"
    resume_or_begin(args.output_path, work, options)

    finished = args.output_path / "provenance.json"

    def part(number: int) -> Path:
        return work / f"part-{number:05d}"

    with progress(total=len(subjects), desc="task_sample_info_gen", unit="patient") as bar:

        def index(number: int) -> None:
            index_patients(units[number], trajectories, lookups, tasks, args.audit, part(number), bar)

        share_work(
            range(len(units)),
            lambda number: part(number).is_dir() or finished.exists(),
            index,
            args.output_path / ".locks",
        )
        # Whoever comes first puts the parts together, under a lock, so that two processes do not.
        share_work(
            ["finish"],
            lambda _: finished.exists(),
            lambda _: finish(args, [part(n) for n in range(len(units))], tasks, options),
            args.output_path / ".locks",
        )
    shutil.rmtree(work, ignore_errors=True)
    report = read_json(finished)
    rows = sum(entry["rows"] for entry in report["tasks"].values())
    print_table(report["tasks"])
    summary.print(
        f"{rows:,} rows of {len(subjects):,} patients → {args.output_path}; left out: {dropped[0]:,} patients with fewer "
        f"than {args.traj_len_min} and {dropped[1]:,} with more than {args.traj_len_max} events",
        len(subjects),
        "patients",
    )


def select_patients(args: Any, trajectories: Trajectories) -> tuple[list[str], tuple[int, int]]:
    """Patients to index, ascending, and how many are too short and too long.

    Raises:
        UserError: a patient of the list has no trajectory.
    """
    if args.patient_id.exists():
        subjects = sorted(set(read_subject_ids(args.patient_id)), key=int)
    elif args.patient_id == Path(args.root_dir) / "patient_data/patients.csv":
        subjects = trajectories.subject_ids()
        print(f"no {args.patient_id}: taking all {len(subjects):,} patients of {args.ehr_dir}")
    else:
        raise UserError(f"{args.patient_id}: wanted a CSV with a column subject_id, found no such file")
    known = set(trajectories.subject_ids())
    missing = [subject for subject in subjects if subject not in known]
    if missing:
        raise UserError(
            f"{args.patient_id}: wanted patients of {args.ehr_dir}, found {len(missing):,} that are not there, e.g. "
            f"{missing[0]}; list the patients again with preprocess/split_patients.py"
        )
    lengths = {subject: trajectories.length(subject) for subject in subjects}
    short = sum(length < args.traj_len_min for length in lengths.values())
    long = sum(length > args.traj_len_max for length in lengths.values())
    return [s for s in subjects if args.traj_len_min <= lengths[s] <= args.traj_len_max], (short, long)


def warn_of_empty_tasks(tasks: Sequence[Task], lookups: Lookups) -> None:
    """Say which tasks cannot have rows because a dictionary of their answers is missing."""
    for name in lookups.missing_files():
        empty = [
            task.name
            for task in tasks
            if task.event
            and task.target
            and all((look := EVENTS[task.event].lookup(key)) and look.source == name for key in task.target)
        ]
        if empty:
            print(f"warning: no {name}.csv in {lookups.folder}: no rows for {', '.join(empty)}; {HOW_TO_GET_DICTIONARIES}")


def resume_or_begin(output: Path, work: Path, options: dict[str, Any]) -> None:
    """Go on with an index begun with the same options; begin a new one in an empty folder.

    Raises:
        UserError: the folder holds an index, or one begun with other options.
    """
    if (output / "provenance.json").exists():
        found = read_json(output / "provenance.json")["options"]
        if found != options:
            raise UserError(f"{output}: wanted an empty folder, found an index made with other options; choose another "
                            "--output_path, or remove it")  # fmt: skip
        return
    begun = work / "options.json"
    if begun.exists():
        if read_json(begun) != options:
            raise UserError(f"{output}: wanted the options it was begun with, found others; remove the folder to begin again")
        return
    if output.exists() and any(not path.name.startswith(".") for path in output.iterdir()):
        raise UserError(f"{output}: wanted an empty folder, found other files; choose another --output_path")
    write_json(begun, options)


def index_patients(
    subjects: Sequence[str], trajectories: Trajectories, lookups: Lookups, tasks: Sequence[Task], audit: bool, part: Path,
    bar: Any,
) -> None:  # fmt: skip
    """Write the samples of some patients, one CSV a task, and the counts of their labels."""
    with atomic_dir(part) as folder:
        labels: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
        flags: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
        rows: dict[str, list[list[Any]]] = {task.name: [] for task in tasks}
        for subject_id in subjects:
            for sample in find_samples(trajectories.timeline(subject_id), lookups, tasks, audit):
                if TASKS[sample.task].kind != "generation":  # a note is nobody's label
                    labels[sample.task].update(label_list(sample.target))
                flags[sample.task].update(sample.audit)
                rows[sample.task].append(to_row(subject_id, sample))
            bar.update()
        for name, lines in rows.items():
            if lines:
                with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(lines)
        counted = {n: {"rows": len(rows[n]), "labels": labels[n], "flags": flags[n]} for n in rows if rows[n]}
        write_json(folder / "counts.json", counted)


def to_row(subject_id: str, sample: Sample) -> list[Any]:
    """The columns of `INDEX_COLUMNS`; the weight is filled in when the whole task is known."""
    return [
        subject_id, sample.hadm_id, sample.task, sample.event, sample.context_begin, sample.context_end,
        json.dumps(sample.target, ensure_ascii=False), None, sample.admissions_id, sample.last_discharge_id,
        ";".join(sample.audit),
    ]  # fmt: skip


def finish(args: Any, parts: Sequence[Path], tasks: Sequence[Task], options: dict[str, Any]) -> None:
    """Join the parts into the index, with weights, and write `provenance.json`, which says that it is whole."""
    rows: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
    flags: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
    for part in parts:
        for name, count in read_json(part / "counts.json").items():
            rows[name] += count["rows"]
            labels[name].update(count["labels"])
            flags[name].update(count["flags"])
    report = {
        task.name: {
            "rows": rows[task.name],
            "labels": len(labels[task.name]),
            **({"yes": labels[task.name]["yes"]} if task.kind == "risk" else {}),
            "flags": {flag: flags[task.name][flag] for flag in FLAGS},
        }
        for task in tasks
    }
    join = {"task": join_by_task, "patient": join_by_patient}[args.group]
    join(args.output_path, parts, tasks, labels)
    write_json(
        args.output_path / "provenance.json",
        {
            "digest": options["digest"],
            "options": options,
            "tasks": report,
            "code": git_revision(),
            "data_use": DATA_USE,
        },
    )


def _rows_of(part: Path, task: Task, counts: Counter[str]) -> list[list[str]]:
    path = part / f"{task.name}.csv"
    if not path.exists():
        return []
    weight_at, target_at = INDEX_COLUMNS.index("target_weight"), INDEX_COLUMNS.index("target")
    csv.field_size_limit(1 << 30)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    unweighted = task.name == "radiology" or task.kind == "generation"
    for row in rows:
        row[weight_at] = "1" if unweighted else repr(target_weight(json.loads(row[target_at]), counts))
    return rows


def join_by_task(output: Path, parts: Sequence[Path], tasks: Sequence[Task], labels: dict[str, Counter[str]]) -> None:
    for task in progress(tasks, desc="writing the index", unit="task"):
        with atomic_path(output / f"{task.name}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(INDEX_COLUMNS)
            for part in parts:
                writer.writerows(_rows_of(part, task, labels[task.name]))


def join_by_patient(output: Path, parts: Sequence[Path], tasks: Sequence[Task], labels: dict[str, Counter[str]]) -> None:
    for part in progress(parts, desc="writing the index", unit="part"):
        of_patient: dict[str, list[list[str]]] = {}
        for task in tasks:
            for row in _rows_of(part, task, labels[task.name]):
                of_patient.setdefault(row[0], []).append(row)
        for subject_id, rows in of_patient.items():
            with (
                atomic_path(output / f"{subject_id}.csv") as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                csv.writer(file).writerows([INDEX_COLUMNS, *rows])


def print_table(report: dict[str, dict[str, Any]]) -> None:
    print(f"{'task':<24}{'rows':>10}{'labels':>9}{'yes':>9}  " + "  ".join(FLAGS))
    for name, entry in report.items():
        flags = "  ".join(f"{entry['flags'][flag]:>{len(flag)},}" for flag in FLAGS)
        print(f"{name:<24}{entry['rows']:>10,}{entry['labels']:>9,}{entry.get('yes', ''):>9}  {flags}")


if __name__ == "__main__":
    run(main)
