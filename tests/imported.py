"""What imported trajectories hold, and the index of the tasks by which they are compared with those from CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mimiciv_dataset import task_sample_info_gen
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.trajectory import Trajectories

Records = list[dict[str, Any]]
RISK = [name for name, task in TASKS.items() if task.kind == "risk" and task.event in ("admissions", "icustays")]
DECISION = ("labevents", "chartevents", "inputevents", "outputevents")
STAYS = {"admissions": ("hadm_id", "admittime", "dischtime"), "icustays": ("hadm_id", "stay_id", "intime", "outtime"),
         "patients": ("gender", "dod"), "transfers": ("hadm_id", "intime", "eventtype", "careunit")}  # fmt: skip


def records(root: Path, subject: str, table: str) -> Records:
    events = Trajectories(root / "patients_ehr").trajectory(subject)
    return [record for event in events if event.file_name == table for record in event.records().dicts()]


def index(root: Path, tasks: Sequence[str] = (*RISK, *DECISION), output: str = "task_index/all_lengths") -> Path:
    """Write the index of these tasks, without a limit of length; return `root`."""
    flags = ["--root_dir", str(root), "--traj_len_max", "1000000", "--output_path", str(root / output), "--no-audit"]
    task_sample_info_gen.main([*flags, "--task", *tasks])
    return root


def all_records(root: Path, table: str, columns: tuple[str, ...]) -> set[tuple[str | None, ...]]:
    trajectories = Trajectories(root / "patients_ehr")
    return {
        (subject, *(record.get(column) for column in columns))
        for subject in trajectories.subject_ids()
        for record in records(root, subject, table)
    }


def labels(root: Path, task: str) -> dict[tuple[str, str | None, int | None], str]:
    """The label of each sample of a risk task, by patient, admission and beginning of the stay."""
    trajectories, timelines = Trajectories(root / "patients_ehr"), {}
    rows = pl.read_csv(root / "task_index/all_lengths" / f"{task}.csv", infer_schema=False)
    result = {}
    for subject, begin, target in rows.select("subject_id", "context_begin", "target").iter_rows():
        if subject not in timelines:
            timelines[subject] = trajectories.timeline(subject)
        t = timelines[subject]
        result[subject, t.hadm_ids[int(begin)], t.starts[int(begin)]] = json.loads(target)
    assert len(result) == len(rows)
    return result


def answers(root: Path, task: str) -> set[tuple[str, str | None, str]]:
    """The distinct answers of a decision task, by patient and admission."""
    rows = pl.read_csv(root / "task_index/all_lengths" / f"{task}.csv", infer_schema=False)
    triples = rows.select("subject_id", "hadm_id", "target").iter_rows()
    return {(subject, hadm_id, name) for subject, hadm_id, target in triples for name in json.loads(target)}
