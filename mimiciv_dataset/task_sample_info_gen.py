"""Make the task index: one row for every sample of every task, from the trajectories.

A row says which events are the sample's context and what its answer is. Patients with fewer events than --traj_len_min or more
than --traj_len_max are omitted, as in the published benchmark. Without a list of patients, neither given nor at the default
path, all are indexed. An interrupted run resumes; processes started on the same
output, here (--num_workers) or elsewhere, share the patients. --list_tasks prints the tasks and their rules.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
from collections.abc import Iterable, Sequence

from mimiciv_dataset.audit import FLAG_HEADERS, FLAGS
from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.index_build import Index, divide
from mimiciv_dataset.lookups import HOW_TO_GET_DICTIONARIES, Lookups
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import index_mapping_source, patients_source, trajectories_source
from mimiciv_dataset.tasks import TASKS, Task, task_table
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance
from pipeline.records import require_complete
from pipeline.work import Workers

STEP, RULES = "mimiciv_dataset/task_sample_info_gen.py", 2


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--patient_id", "--patient_ids_path", default="patient_data/patients.csv", help="CSV of subject_id")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_path("--output_path", default="task_index/all", help="directory of the index")
    cli.add_argument("--group", choices=("task", "patient"), default="task", help="one CSV per task or per patient (task)")
    cli.add_argument("--task", nargs="+", choices=tuple(TASKS), metavar="TASK", help="index these tasks only (all)")
    cli.add_argument("--traj_len_min", type=int, default=1, metavar="N", help="minimum events of a patient (1)")
    cli.add_argument("--traj_len_max", type=int, default=1200, metavar="N", help="maximum events of a patient (1200)")
    flag = argparse.BooleanOptionalAction
    cli.add_argument("--audit", action=flag, default=True, help="flag rows whose answer leaks (docs/tasks.md)")
    cli.add_argument("--list_tasks", action="store_true", help="print the table of tasks and exit")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    if args.list_tasks:
        print(task_table())
        return
    summary = Summary("task_sample_info_gen")
    trajectories, lookups = Trajectories(args.ehr_dir), Lookups(args.index_mapping)
    tasks = supported_tasks(args.task, trajectories)
    warn_of_empty_tasks([TASKS[name] for name in tasks], lookups, trajectories)
    listed = args.patient_id if args.patient_id.exists() or "patient_id" not in cli.defaults_used else None
    traj_len = (args.traj_len_min, args.traj_len_max)
    candidates = read_patients(listed, trajectories)
    sources = [
        trajectories_source(args.ehr_dir, args.verify),
        index_mapping_source(args.index_mapping, args.verify),
        patients_source(listed, candidates),
    ]
    settings = {"tasks": tasks, "audit": args.audit, "traj_len": traj_len, "group": args.group}
    provenance = Provenance(args.output_path, STEP, sources, settings, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    for warning in lookups.warnings():
        print(f"warning: {warning}")
    events, short, long = select_patients(candidates, trajectories, *traj_len)
    Index(args.output_path, provenance, trajectories, lookups, divide(events)).make(workers)
    record = require_complete(provenance.path, STEP)
    counts = record["tasks"].items()
    table = [(name, c["rows"], c["labels"], c.get("yes"), *(c["flags"][flag] for flag in FLAGS)) for name, c in counts]
    print_table(("task", "rows", "labels", "yes", *FLAG_HEADERS), table)
    made = f"{sum(c['rows'] for _, c in counts):,} rows of {len(events):,} patients → {args.output_path}"
    omitted = f"{short:,} patients with fewer than {args.traj_len_min} events and {long:,} with more than {args.traj_len_max}"
    summary.print(f"{made}; omitted {omitted}", len(events), "patients")


def supported_tasks(chosen: Sequence[str] | None, trajectories: Trajectories) -> tuple[str, ...]:
    """The chosen tasks, or all, without those that the import of another site left out; an error if one of these is chosen."""
    for name in chosen or ():
        if reason := trajectories.left_out.get(name):
            raise UserError(f"--task: expected tasks that {trajectories.folder} support, got {name} ({reason}). Leave it out.")
    if trajectories.left_out and not chosen:
        print(f"left out as {trajectories.folder} do not support them: {', '.join(trajectories.left_out)}")
    return tuple(name for name in TASKS if (not chosen or name in chosen) and name not in trajectories.left_out)


def read_patients(path: Path | None, trajectories: Trajectories) -> list[str]:
    """The patients of a CSV, ascending, who must have a trajectory; all that have one if `path` is None."""
    known = trajectories.subject_ids()
    subjects = known if path is None else sorted(set(read_subject_ids(path)), key=int)
    missing = set(subjects) - set(known)
    if missing:
        got = f"{len(missing):,} without a trajectory. Make the list again with preprocess/split_patients.py"
        raise UserError(f"{path}: expected patients of {trajectories.folder}, got {got}.")
    return subjects


def select_patients(
    subjects: Sequence[str], trajectories: Trajectories, traj_len_min: int, traj_len_max: int
) -> tuple[dict[str, int], int, int]:
    """The patients with a number of events in the range, with that number, and how many have too few and too many."""
    lengths = {subject_id: trajectories.length(subject_id) for subject_id in subjects}
    short = sum(length < traj_len_min for length in lengths.values())
    long = sum(length > traj_len_max for length in lengths.values())
    return {subject: length for subject, length in lengths.items() if traj_len_min <= length <= traj_len_max}, short, long


def missing_dictionaries(tasks: Iterable[Task], lookups: Lookups, trajectories: Trajectories) -> dict[str, str]:
    """The tasks that cannot have rows because the dictionary of their answers is missing, and its file.

    Answers that records have themselves, as those of other sites can, need no dictionary.
    """
    missing, needed = lookups.missing_files(), {}
    for task in tasks:
        keys = [EVENTS[task.event].lookup(key) for key in task.target] if task.event else []
        sources = {lookup and lookup.source for lookup in keys}
        if len(sources) == 1 and sources & {*missing} and not {*task.target} & {*trajectories.columns(task.event)}:
            needed[task.name] = f"{sources.pop()}.csv"
    return needed


def warn_of_empty_tasks(tasks: Sequence[Task], lookups: Lookups, trajectories: Trajectories) -> None:
    """Warn of tasks that cannot have rows because the dictionary of their answers is missing."""
    needed = missing_dictionaries(tasks, lookups, trajectories)
    unless = "" if trajectories.sharded else " (unless their records have the names themselves)"
    for file in dict.fromkeys(needed.values()):
        empty = [task for task, name in needed.items() if name == file]
        print(f"warning: {lookups.folder}: no {file}, so no rows for {', '.join(empty)}{unless}. {HOW_TO_GET_DICTIONARIES}.")


if __name__ == "__main__":
    run(main)
