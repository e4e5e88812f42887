"""Filters that decide which rows of a task index can be drawn into a sampled set; `data_index_gen.py` lists them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.draws import KEY, row_hashes
from mimiciv_dataset.index_files import INDEX_COLUMNS, index_files, scan, target_labels, task_of_file
from mimiciv_dataset.tasks import TASKS, Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

FILTERS = ("subjects", "window", "distinct", "admitted", "answers", "unseen", "labels", "audit")
MAX_CHART_NAMES = 10


@dataclass(frozen=True)
class Filters:
    """Settings of the filters: the flags of `data_index_gen.py` of the same names."""

    min_window: int = 10
    max_window: int = 100
    exclude_audit: tuple[str, ...] = ()
    out_data_index_dir: Path | None = None
    in_label_data_index_dir: Path | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings, without the paths of other indexes, which provenance identifies by their content."""
        return {"min_window": self.min_window, "max_window": self.max_window, "exclude_audit": self.exclude_audit}

    @property
    def active(self) -> list[str]:
        """The names of the filters that can exclude rows with these settings."""
        optional = {"unseen": self.out_data_index_dir, "labels": self.in_label_data_index_dir, "audit": self.exclude_audit}
        return [name for name in FILTERS if optional.get(name, True)]


class Exclusions(NamedTuple):
    """What the filters take from other indexes, each None if there is no such index."""

    seen: pl.DataFrame | None  # rows to exclude: task, subject_id and context_end
    allowed: pl.DataFrame | None  # labels to keep: task and label


def read_exclusions(filters: Filters, tasks: Collection[str]) -> Exclusions:
    """Read the other indexes that the filters name."""
    import polars as pl

    seen = allowed = None
    if filters.out_data_index_dir:
        seen = _read_distinct(filters.out_data_index_dir, tasks, pl.col("task", "subject_id", "context_end"))
    if filters.in_label_data_index_dir:
        labelled = [name for name in tasks if TASKS[name].kind != "generation"]
        labels = pl.col("task"), target_labels().alias("label")
        allowed = _read_distinct(filters.in_label_data_index_dir, labelled, *labels, explode="label")
    return Exclusions(seen, allowed)


def _read_distinct(path: Path, tasks: Collection[str], *columns: pl.Expr, explode: str | None = None) -> pl.DataFrame:
    import polars as pl

    frames = []
    for file in index_files(path):
        if task_of_file(file) in (None, *tasks):
            frame = scan(file).filter(pl.col("task").is_in(list(tasks))).select(*columns)
            frame = frame.explode(explode) if explode else frame
            frames.append(frame.unique().collect(engine="streaming"))
    if not frames:
        raise UserError(f"{path}: expected an index of {', '.join(list(tasks)[:3])}, ..., got other tasks only.")
    return pl.concat(frames).unique()


def filter_rows(
    task: Task, files: Sequence[Path], subjects: Collection[str], filters: Filters, exclusions: Exclusions
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Read the rows of a task that pass all filters but `audit`.

    The subjects and window filters are applied while a file is read, so that only rows that pass both are held in memory.

    Returns:
        The rows, and the number of rows read (`rows`) and left by each filter.
    """
    import polars as pl

    length = pl.col("context_end") - pl.col("context_begin")
    selected = (pl.col("task") == task.name) & pl.col("subject_id").is_in(list(subjects))
    in_window = selected & (length > filters.min_window) & (length < filters.max_window)
    counts = dict.fromkeys(("rows", *FILTERS), 0)
    frames = []
    for path in files:
        frame = scan(path)
        flags = {"rows": pl.col("task") == task.name, "subjects": selected, "window": in_window}
        of_file = frame.select(**{name: flag.sum() for name, flag in flags.items()}).collect(engine="streaming")
        # tens of millions of rows of next_event have few distinct values in these columns
        compact = pl.col("task", "event", "audit").cast(pl.Categorical)
        frames.append(frame.filter(in_window).with_columns(compact).collect(engine="streaming"))
        for name in ("rows", "subjects", "window"):
            counts[name] += of_file[name][0]
    rows = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(INDEX_COLUMNS, pl.String))
    steps = {
        "distinct": lambda: distinct(task, rows),
        "admitted": lambda: rows.filter(is_admitted()) if task.inside else rows,
        "answers": lambda: rows.filter(target_labels().list.len() < MAX_CHART_NAMES) if task.name == "chartevents" else rows,
        "unseen": lambda: unseen(rows, exclusions.seen) if exclusions.seen is not None else rows,
        "labels": lambda: with_labels(task, rows, exclusions.allowed) if exclusions.allowed is not None else rows,
    }
    for name, step in steps.items():
        if rows.height:
            rows = step()
        counts[name] = rows.height
    return rows, counts


def distinct(task: Task, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without repetitions; an error if two rows of the same sample differ, as those of different builds do."""
    import numpy as np

    if len(np.unique(row_hashes(task.name, rows, seed=0))) == rows.height:
        return rows
    rows = rows.unique()
    contradicting = rows.filter(rows.select(KEY).is_duplicated())
    if contradicting.height:
        got = f"{contradicting.height:,} rows that contradict another of the same patient and window"
        raise UserError(f"{task.name}: expected one row per sample, got {got}. Do not mix indexes of two builds.")
    return rows


def is_admitted() -> pl.Expr:
    """Whether the admission lies inside the window, or the row has none.

    >>> import polars as pl
    >>> pl.DataFrame({"context_begin": [5, 5, 5], "admissions_id": [None, 5, 6]}).select(is_admitted())[:, 0].to_list()
    [True, False, True]
    """
    import polars as pl

    return pl.col("admissions_id").is_null() | (pl.col("admissions_id") > pl.col("context_begin"))


def unseen(rows: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """The rows whose task, subject_id and context_end are not in `seen`.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"task": "omr", "subject_id": ["1", "1", "2"], "context_end": [20, 30, 20]})
    >>> unseen(rows, rows[:1]).rows()
    [('omr', '1', 30), ('omr', '2', 20)]
    """
    import polars as pl

    key = ["task", "subject_id", "context_end"]
    return rows.with_columns(pl.col("task").cast(pl.String)).join(seen, on=key, how="anti", maintain_order="left")


def with_labels(task: Task, rows: pl.DataFrame, allowed: pl.DataFrame) -> pl.DataFrame:
    """The rows all of whose labels are in `allowed` for this task; all rows of a generation task.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"target": ['["a"]', '["a", "b"]', '["b"]']})
    >>> with_labels(TASKS["omr"], rows, pl.DataFrame({"task": ["omr", "emar"], "label": ["a", "b"]})).rows()
    [('["a"]',)]
    """
    import polars as pl

    if task.kind == "generation":
        return rows
    labels = allowed.filter(pl.col("task") == task.name)["label"]
    exploded = rows.select(target_labels().alias("label")).with_row_index("row").explode("label")
    excluded = exploded.filter(~pl.col("label").is_in(labels.implode()))["row"]
    return rows.with_row_index("row").filter(~pl.col("row").is_in(excluded.implode())).drop("row")


def has_flag(flags: Sequence[str]) -> pl.Expr:
    """Whether the column `audit` has one of the flags.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"audit": ["outcome_in_window;stay_ended_in_window", "stay_ended_in_window", None]})
    >>> frame.select(has_flag(["outcome_in_window", "target_in_context"]))[:, 0].to_list()
    [True, False, False]
    """
    import polars as pl

    return pl.col("audit").cast(pl.String).fill_null("").str.split(";").list.eval(pl.element().is_in(list(flags))).list.any()
