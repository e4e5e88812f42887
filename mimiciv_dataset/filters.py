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
from mimiciv_dataset.row_numbers import COLUMNS, RowNumbers
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

    seen: pl.DataFrame | None  # rows to exclude: task, subject_id and context_end
    allowed: pl.DataFrame | None  # labels to keep: task and label

    def of_task(self, task: Task) -> TaskExclusions:
        """Those of a task."""
        import polars as pl

        seen, allowed = (None if table is None else table.filter(pl.col("task") == task.name) for table in self)
        return TaskExclusions(
            None if seen is None else seen.select("subject_id", "context_end"), None if allowed is None else allowed["label"]
        )


class TaskExclusions(NamedTuple):
    """The exclusions of a task."""

    seen: pl.DataFrame | None  # rows to exclude: subject_id and context_end
    allowed: pl.Series | None  # labels to keep


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


class Kept(NamedTuple):
    """The rows of a task that pass all filters but `audit`.

    Attributes:
        rows: their numbers.
        targets: the target of each label number; empty unless they were asked for.
        counts: the number of rows read (`rows`) and left by each filter.
        sorted: whether the patients of the rows ascend over the files.
    """

    rows: RowNumbers
    targets: list[str]
    counts: dict[str, int]
    sorted: bool


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
    of_others = exclusions.of_task(task)
    counts = dict.fromkeys(("rows", *FILTERS), 0)
    rows, targets, is_sorted, last = RowNumbers(folder), {}, True, -1
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
                rows.add(row_numbers(task, passing, number, of_others, seed, targets if with_targets else None))
                ids = passing["subject_id"].cast(pl.Int64, strict=False)
                is_sorted = is_sorted and not ids.null_count() and ids[0] >= last and ids.is_sorted()
                last = ids[-1] if is_sorted else last
    counts |= dict(zip(("distinct", *ROW_FILTERS), rows.keep_distinct(task, len(ROW_FILTERS)), strict=True))
    return Kept(rows, list(targets), counts, is_sorted)


def row_numbers(
    task: Task, frame: pl.DataFrame, file: int, exclusions: TaskExclusions, seed: int, targets: dict[str, int] | None
) -> np.ndarray:
    """The numbers of rows, as `RowNumbers` has them; new `targets` are numbered."""
    import numpy as np
    import polars as pl

    passes = {
        "admitted": is_admitted() if task.inside else pl.lit(True),
        "answers": target_labels().list.len() < MAX_CHART_NAMES if task.name == "chartevents" else pl.lit(True),
        "unseen": is_unseen(frame, exclusions.seen) if exclusions.seen is not None else pl.lit(True),
        "labels": has_labels(task, frame, exclusions.allowed) if exclusions.allowed is not None else pl.lit(True),
    }

    def bits(conditions: Iterable[pl.Expr | pl.Series]) -> np.ndarray:
        columns = [pl.lit(each) if isinstance(each, pl.Series) else each for each in conditions]
        values = frame.select(column.fill_null(False).alias(str(bit)) for bit, column in enumerate(columns))
        return sum(values[str(bit)].to_numpy().astype(np.uint8) << bit for bit in range(len(columns)))

    rows = np.zeros(frame.height, COLUMNS)
    rows["hash"] = row_hashes(task.name, frame, seed)
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


def is_unseen(rows: pl.DataFrame, seen: pl.DataFrame) -> pl.Series:
    """Whether the subject_id and context_end of each row are not in `seen`.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"subject_id": ["1", "1", "2"], "context_end": [20, 30, 20]})
    >>> is_unseen(rows, rows[:1]).to_list()
    [False, True, True]
    """
    import polars as pl

    matched = rows.select("subject_id", "context_end").join(
        seen.with_columns(pl.lit(True).alias("seen")), on=["subject_id", "context_end"], how="left", maintain_order="left"
    )
    return matched["seen"].is_null()


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
