"""The MEDS export: labels of our samples, at a time before their answer is known."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import command
from meds import LabelSchema

from evaluation.external.meds_labels import main, own_event
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.timeline import seconds
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError

Labels = dict[str, list[dict[str, Any]]]


def index_of(root: Path) -> Labels:
    """The rows of the index that can be exported, by task, in file order: no notes, no answers in the window."""
    rows = {name: list(read_rows(root / f"task_index/all/{name}.csv")) for name in TASKS if TASKS[name].kind != "generation"}
    return {name: [row for row in of if "outcome_in_window" not in (row["audit"] or "")] for name, of in rows.items()}


def export(root: Path, output: Path, *files: Path, flags: tuple[str, ...] = ()) -> Labels:
    main(["--root_dir", str(root), "--data_index", *map(str, files), "--output_path", str(output), *flags])
    return {path.stem: pq.read_table(path).to_pylist() for path in output.glob("*.parquet")}


def export_all(root: Path, output: Path) -> Labels:
    return export(root, output, *sorted((root / "task_index/all").glob("*.csv")))


def test_files_follow_the_meds_schema(small_root: Path, tmp_path: Path) -> None:
    labels = export_all(small_root, tmp_path)
    assert len(labels) > 10 and "discharge" not in labels
    for task, rows in labels.items():
        table = pq.read_table(tmp_path / f"{task}.parquet")
        LabelSchema.validate(table)
        value = "boolean_value" if TASKS[task].kind == "risk" else "categorical_value"
        assert table.column_names == ["subject_id", "prediction_time", value] and rows


def check_labels(root: Path, output: Path) -> tuple[int, int]:
    """That the export of all tasks is the index without what its audit calls known.

    Returns the decision samples tied in time with their event, and the samples whose window ends after its last start.
    """
    labels, trajectory, tied, later = export_all(root, output), cache(Trajectories(root / "patients_ehr").trajectory), 0, 0
    for task, rows in index_of(root).items():
        risk = TASKS[task].kind == "risk"
        for row, label in zip(rows, labels.get(task, []), strict=True):
            assert label["subject_id"] == int(row["subject_id"])
            if risk:
                assert label["boolean_value"] == (row["target"] == "yes")
            else:
                text = label["categorical_value"]
                assert row["target"] == (text if task == "next_event" else json.loads(text))
            events, begin, end = trajectory(row["subject_id"]), row["period_begin"], row["period_end"]
            made = label["prediction_time"].replace(tzinfo=UTC).timestamp()
            last = max(seconds(event.endtime) for event in events[begin:end] if event.endtime)
            later += last > max(seconds(event.starttime) for event in events[begin:end] if event.starttime)
            event_time = seconds(events[own_event(TASKS[task], begin, end)].starttime)
            if risk:
                assert made == last
            elif event_time is not None:
                assert made < event_time and made == (last if last < event_time else event_time - 1e-6)
                tied += last == event_time
            else:
                assert made <= last
    return tied, later


def test_labels_are_those_of_the_index_before_their_answer_is_known(small_root: Path, tmp_path: Path) -> None:
    check_labels(small_root, tmp_path)


def test_the_same_on_the_demo_where_events_share_a_time(demo: Path, tmp_path: Path) -> None:
    tied, later = check_labels(demo, tmp_path)
    assert tied > 1000 and later > 7000


def test_the_command(small_root: Path, tmp_path: Path) -> None:
    index = small_root / "task_index/all"
    done = command("evaluation/external/meds_labels.py", "--root_dir", small_root, "--data_index", index / "emar.csv",
                   index / "Inpatient_Mortality.csv", index / "ED_Hospitalization.csv", "--output_path", tmp_path)  # fmt: skip
    assert "40 labels of 2 tasks, 20 left out that have their answer in the window" in done.stdout
    row = pq.read_table(tmp_path / "emar.parquet").to_pylist()[0]
    assert row["prediction_time"] < datetime(2200, 1, 1) and isinstance(json.loads(row["categorical_value"]), list)


def test_several_workers_write_the_same_bytes(small_root: Path, tmp_path: Path) -> None:
    index = small_root / "task_index/all"
    files = [index / f"{name}.csv" for name in ("emar", "Inpatient_Mortality", "next_event")]
    labels = export(small_root, tmp_path / "one", *files)
    flags = ("--data_index", *map(str, files), "--output_path", tmp_path / "two", "--num_workers", 2)
    command("evaluation/external/meds_labels.py", "--root_dir", small_root, *flags)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(f"{name}.parquet" for name in labels)
    for path in (tmp_path / "two").iterdir():
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_errors_of_wrong_use(small_root: Path, tmp_path: Path) -> None:
    index = small_root / "task_index/all/Inpatient_Mortality.csv"
    with index.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    for column, text in (("target", '"no"' if "yes" in rows[0][header.index("target")] else '"yes"'), ("context_begin", "2"),
                         ("context_end", "9999")):  # fmt: skip
        changed = list(rows[0])
        changed[header.index(column)] = text
        other = tmp_path / "other.csv"
        with other.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, changed])
        with pytest.raises(UserError, match="belong to different builds"):
            export(small_root, tmp_path / "out", other)
    rendered = tmp_path / "rows.jsonl"
    rendered.write_text(json.dumps({"input": "x", "output": "no", "task_info": {"task": "guo_icu"}}) + "\n")
    with pytest.raises(UserError, match="rows.jsonl: expected an index CSV of our tasks"):
        export(small_root, tmp_path / "out", rendered)
    with pytest.raises(UserError, match=r"no.csv: expected an index CSV"):
        export(small_root, tmp_path / "out", tmp_path / "no.csv")
    assert not (tmp_path / "out").exists()
