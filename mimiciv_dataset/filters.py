"""Filters that decide which rows of a task index can be drawn into a sampled set; `data_index_gen.py` lists them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.draws import row_hashes
from mimiciv_dataset.index_files import index_files
from mimiciv_dataset.index_frames import read_frames, scan, target_labels, task_of_file
from mimiciv_dataset.row_numbers import COLUMNS, RowHashes, RowNumbers
from mimiciv_dataset.tasks import TASKS, Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

FILTERS = ("subjects", "window", "distinct", "admitted", "answers", "unseen", "labels", "audit")
ROW_FILTERS = ("admitted", "answers", "unseen", "labels")  # those of `FILTERS` that come after repeated rows are left out
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

    seen: RowHashes | None  # rows to exclude
    allowed: pl.DataFrame | None  # labels to keep: task and label

    def allowed_labels(self, task: Task) -> pl.Series | None:
        """The labels to keep of a task."""
        import polars as pl

        return None if self.allowed is None else self.allowed.filter(pl.col("task") == task.name)["label"]


def read_exclusions(filters: Filters, tasks: Collection[str], subjects: Collection[str], folder: Path) -> Exclusions:
    """Read what concerns the tasks and patients in the other indexes that the filters name; what is large goes to `folder`."""
    import polars as pl

    seen = allowed = None
    if filters.out_data_index_dir:
        seen = read_window_ends(filters.out_data_index_dir, tasks, subjects, folder)
    if filters.in_label_data_index_dir:
        labelled = [name for name in tasks if TASKS[name].kind != "generation"]
        labels = pl.col("task"), target_labels().alias("label")
        allowed = _read_distinct(filters.in_label_data_index_dir, labelled, *labels, explode="label")
    return Exclusions(seen, allowed)


def read_window_ends(path: Path, tasks: Collection[str], subjects: Collection[str], folder: Path) -> RowHashes:
    """The ends of the windows of an index that concern the tasks and patients, read in batches."""
    import polars as pl

    ends, of_subjects = RowHashes(folder), pl.Series(list(subjects), dtype=pl.String)
    for file in _files_of_tasks(path, tasks):
        for frame in read_frames(file, ("task", "subject_id", "context_end")):
            of_frame = frame.filter(pl.col("task").is_in(list(tasks)) & pl.col("subject_id").is_in(of_subjects.implode()))
            for (task,), rows in of_frame.partition_by("task", as_dict=True).items():
                ends.add(window_end_hashes(task, rows))
    return ends


def window_end_hashes(task: str, rows: pl.DataFrame) -> np.ndarray:
    """A hash of task, patient and end of the window of each row."""
    return row_hashes(task, rows, 0, ("subject_id", "context_end"))


def _files_of_tasks(path: Path, tasks: Collection[str]) -> list[Path]:
    """The files of an index that can have rows of the tasks."""
    files = [file for file in index_files(path) if task_of_file(file) in (None, *tasks)]
    if not files:
        raise UserError(f"{path}: expected an index of {', '.join(list(tasks)[:3])}, ..., got other tasks only.")
    return files


def _read_distinct(path: Path, tasks: Collection[str], *columns: pl.Expr, explode: str) -> pl.DataFrame:
    """The distinct values of the columns for these tasks, of which `explode` has lists."""
    import polars as pl

    frames = []
    for file in _files_of_tasks(path, tasks):
        frame = scan(file).filter(pl.col("task").is_in(list(tasks))).select(*columns).explode(explode)
        frames.append(frame.unique().collect(engine="streaming"))
    return pl.concat(frames).unique()


class Kept(NamedTuple):
    """The rows of a task that pass all filters but `audit`.

    Attributes:
        rows: their numbers.
        targets: the target of each label number; empty unless they were asked for.
        counts: the number of rows read (`rows`) and left by each filter.
    """

    rows: RowNumbers
    targets: list[str]
    counts: dict[str, int]


def filter_rows(
    task: Task,
    files: Sequence[Path],
    subjects: Collection[str],
    filters: Filters,
    exclusions: Exclusions,
    folder: Path,
    seed: int = 0,
    with_targets: bool = False,
) -> Kept:
    """Find the rows of a task that pass all filters but `audit`.

    The files are read in batches. Of the rows that pass the subjects and window filters, numbers are kept in `folder`, with
    hashes by `seed` (see `draws.row_hashes`).
    """
    import polars as pl

    length = pl.col("context_end") - pl.col("context_begin")
    in_window = (length > filters.min_window) & (length < filters.max_window)
    allowed = pl.Series(list(subjects), dtype=pl.String)
    allowed_labels = exclusions.allowed_labels(task)
    counts = dict.fromkeys(("rows", *FILTERS), 0)
    rows, targets = RowNumbers(folder), {}
    for number, path in enumerate(files):
        offset = 0
        for frame in read_frames(path):
            of_task = frame.with_row_index("row", offset).filter(pl.col("task") == task.name)
            selected = of_task.filter(pl.col("subject_id").is_in(allowed.implode()))
            passing = selected.filter(in_window)
            for name, step in (("rows", of_task), ("subjects", selected), ("window", passing)):
                counts[name] += step.height
            offset += frame.height
            if passing.height:
                rows.add(row_numbers(task, passing, number, allowed_labels, seed, targets if with_targets else None))
    left = rows.keep_distinct(task, len(ROW_FILTERS), exclusions.seen, ROW_FILTERS.index("unseen"))
    counts |= dict(zip(("distinct", *ROW_FILTERS), left, strict=True))
    return Kept(rows, list(targets), counts)


def row_numbers(
    task: Task, frame: pl.DataFrame, file: int, allowed: pl.Series | None, seed: int, targets: dict[str, int] | None
) -> np.ndarray:
    """The numbers of rows, as `RowNumbers` has them; new `targets` are numbered."""
    import numpy as np
    import polars as pl

    passes = {
        "admitted": is_admitted() if task.inside else pl.lit(True),
        "answers": target_labels().list.len() < MAX_CHART_NAMES if task.name == "chartevents" else pl.lit(True),
        "unseen": pl.lit(True),  # `RowNumbers.keep_distinct` decides
        "labels": has_labels(task, frame, allowed) if allowed is not None else pl.lit(True),
    }

    def bits(conditions: Iterable[pl.Expr | pl.Series]) -> np.ndarray:
        columns = [pl.lit(each) if isinstance(each, pl.Series) else each for each in conditions]
        values = frame.select(column.fill_null(False).alias(str(bit)) for bit, column in enumerate(columns))
        return sum(values[str(bit)].to_numpy().astype(np.uint8) << bit for bit in range(len(columns)))

    rows = np.zeros(frame.height, COLUMNS)
    rows["hash"] = row_hashes(task.name, frame, seed)
    rows["window_end"] = window_end_hashes(task.name, frame)
    rows["content"] = frame.drop("row").hash_rows(seed=0).to_numpy()
    rows["weight"] = frame["target_weight"].to_numpy()
    rows["file"], rows["row"] = file, frame["row"].to_numpy()
    rows["passes"] = bits(passes[name] for name in ROW_FILTERS)
    rows["flags"] = bits(has_flag([flag]) for flag in FLAGS)
    if targets is not None:
        for target in frame["target"].unique(maintain_order=True):
            targets.setdefault(target, len(targets))
        rows["label"] = frame["target"].replace_strict(targets, return_dtype=pl.UInt32).to_numpy()
    return rows


def is_admitted() -> pl.Expr:
    """Whether the admission lies inside the window, or the row has none.

    >>> import polars as pl
    >>> pl.DataFrame({"context_begin": [5, 5, 5], "admissions_id": [None, 5, 6]}).select(is_admitted())[:, 0].to_list()
    [True, False, True]
    """
    import polars as pl

    return pl.col("admissions_id").is_null() | (pl.col("admissions_id") > pl.col("context_begin"))


def has_labels(task: Task, rows: pl.DataFrame, allowed: pl.Series) -> pl.Series:
    """Whether all labels of each row are among the `allowed` ones; True for a generation task.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"target": ['["a"]', '["a", "b"]', '["b"]']})
    >>> has_labels(TASKS["omr"], rows, pl.Series(["a"])).to_list()
    [True, False, False]
    """
    import polars as pl

    if task.kind == "generation":
        return pl.repeat(True, rows.height, eager=True)
    labels = rows.select(target_labels().alias("label")).with_row_index("position").explode("label")
    excluded = labels.filter(~pl.col("label").is_in(allowed.implode()))["position"]
    return ~pl.int_range(rows.height, eager=True).is_in(excluded.implode())


def has_flag(flags: Sequence[str]) -> pl.Expr:
    """Whether the column `audit` has one of the flags.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"audit": ["outcome_in_window;stay_ended_in_window", "stay_ended_in_window", None]})
    >>> frame.select(has_flag(["outcome_in_window", "target_in_context"]))[:, 0].to_list()
    [True, False, False]
    """
    import polars as pl

    return pl.col("audit").cast(pl.String).fill_null("").str.split(";").list.eval(pl.element().is_in(list(flags))).list.any()
