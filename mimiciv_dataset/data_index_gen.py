"""Task index → a sampled training or benchmark set.

A config (JSON, {"task": count}; -1: all rows) says how many rows of each task to draw. Rows are filtered first, and a
line per task says how many each filter left:

  subjects   rows of --subject_id_path's patients
  window     --min_window < events of the window < --max_window
  distinct   a row found twice counts once
  admitted   procedures_* and diagnoses_*: the admission lies inside the window
  answers    chartevents: fewer than 10 names
  unseen     rows that are not in --out_data_index_dir (same task, subject and end of window)
  labels     rows all of whose labels are in --in_label_data_index_dir
  audit      rows without any of the flags of --exclude_audit

Then rows are drawn without replacement: uniformly; weighted by target_weight for risk tasks, chartevents, emar and
next_event, and for all with --balance_sample; equally many of each label for risk tasks with --balance_force. What is
drawn depends on the seed and the rows alone, not on the order of rows, files or folders.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import csv
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.draws import KEY, draw_balanced, draw_uniform, draw_weighted, row_hashes
from mimiciv_dataset.index_files import (
    INDEX_COLUMNS,
    SAMPLE_COLUMNS,
    index_files,
    reading,
    scan,
    target_labels,
    task_of_file,
)
from mimiciv_dataset.patients import DATA_USE, read_subject_ids
from mimiciv_dataset.tasks import TASKS, Task
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary
from pipeline.provenance import git_revision

if TYPE_CHECKING:
    import polars as pl

FILTERS = ("subjects", "window", "distinct", "admitted", "answers", "unseen", "labels", "audit")
MAX_CHART_NAMES = 10
ALL = -1

# Rows of patient-grouped indexes that are sorted into tasks at a time.
_BATCH_FILES = 200


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: folder or CSV")
    cli.add_path("--subject_id_path", default="patient_data/test.csv", help="CSV of the patients to draw from")
    cli.add_argument("--data_config", type=Path, required=True, help='JSON {"task": count}, see scripts/data_configs/')
    cli.add_argument("--output_path", type=Path, required=True, help="CSV to write")
    cli.add_argument("--kind", choices=("decision", "risk"), help="only the config's tasks of this kind")
    cli.add_argument(
        "--force_task_num",
        type=float,
        metavar="N",
        help="N ≥ 1 or -1 (all) replaces every count, a fraction multiplies it",
    )
    cli.add_argument("--balance_sample", action="store_true", help="weight all tasks by target_weight")
    cli.add_argument("--balance_force", action="store_true", help="equally many of each label for risk tasks")
    cli.add_argument("--min_window", type=int, default=10, help="windows have more events than this (10)")
    cli.add_argument("--max_window", type=int, default=100, help="windows have fewer events than this (100)")
    cli.add_argument("--exclude_audit", default="", metavar="FLAG,...", help=f"drop rows with these: {', '.join(FLAGS)}")
    cli.add_argument("--out_data_index_dir", type=Path, help="folder or CSV of rows to leave out")
    cli.add_argument("--in_label_data_index_dir", type=Path, help="folder or CSV whose labels alone are allowed")
    cli.add_argument("--seed", type=int, default=42, help="seed of the draw (42)")
    args = cli.parse_args(argv)
    summary = Summary("data_index_gen")

    excluded = read_flags(args.exclude_audit)
    counts = read_config(args.data_config, args.force_task_num, args.kind)
    subjects = set(read_subject_ids(args.subject_id_path))
    files = index_files(args.data_index_dir)
    others = Others(args, set(counts))
    report: dict[str, dict[str, Any]] = {}
    audit: list[dict[str, Any]] = []
    print(f"{'task':<24}" + "".join(f"{name:>11}" for name in ("rows", *FILTERS, "drawn")))
    with (
        atomic_path(args.output_path) as temporary,
        temporary.open("wb") as output,
        by_task(files, counts, subjects) as of,
    ):
        output.write((",".join(SAMPLE_COLUMNS) + "\n").encode())
        for name, wanted in counts.items():
            pool, left = filter_rows(TASKS[name], of.get(name, []), subjects, args, others)
            rows = pool.filter(~has_any(excluded)) if excluded else pool
            left["audit"] = rows.height
            rows, note = draw(TASKS[name], rows, wanted, args)
            print(f"{name:<24}" + "".join(f"{n:>11,}" for n in (*left.values(), rows.height)), note, flush=True)
            report[name] = {**left, "drawn": rows.height}
            audit.append(audit_row(name, pool, rows))
            to_samples(rows).write_csv(output, include_header=False)
        total = sum(task["drawn"] for task in report.values())
        if not total:
            raise UserError(
                f"{args.data_index_dir}: wanted rows for the patients of {args.subject_id_path}, found none that "
                "pass the filters; the lines above say which filter took them"
            )
    save_audit(args.output_path.with_suffix(".audit.csv"), audit)
    save_provenance(args, report)
    read = sum(task["rows"] for task in report.values())
    tasks = sum(task["drawn"] > 0 for task in report.values())
    summary.print(f"{total:,} rows of {tasks} tasks → {args.output_path}", read, "index rows")


# --- configs


def data_configs() -> dict[str, dict[str, int]]:
    """The configs in scripts/data_configs/, by name, as the task registry has them.

    ehr_ins: the caps of the training set. ehr_bench_*: 500 rows of each task of the released benchmark; decision_making
    and risk_prediction are short names of the same.

    >>> configs = data_configs()
    >>> configs["ehr_ins"]["omr"], len(configs["decision_making"]), len(configs["risk_prediction"])
    (20000, 27, 18)
    """
    released = {kind: {t.name: 500 for t in TASKS.values() if t.kind == kind and t.released} for kind in ("decision", "risk")}
    return {
        "ehr_ins": {task.name: task.cap for task in TASKS.values() if task.cap},
        "ehr_bench_decision_making": released["decision"],
        "ehr_bench_risk_prediction": released["risk"],
        "decision_making": released["decision"],
        "risk_prediction": released["risk"],
    }


def read_config(path: Path, force: float | None, kind: str | None = None) -> dict[str, float]:
    """Rows to draw of each task; a count below 1 is a share of the rows there are.

    Raises:
        UserError: the config is not {"task": count} with known tasks, or `force` is no number of rows.
    """
    require(path, 'a config, {"task": count}', "see scripts/data_configs/")
    config = read_json(path)
    if not isinstance(config, dict) or not all(type(count) is int and count >= ALL for count in config.values()):
        raise UserError(f'{path}: wanted {{"task": count}} with whole numbers ≥ 0, or -1 for all')
    unknown = [name for name in config if name not in TASKS]
    if unknown:
        raise UserError(f"{path}: wanted tasks of --list_tasks, found {', '.join(unknown)}")
    if force is not None and not (force == ALL or 0 < force < 1 or (force >= 1 and force == int(force))):
        raise UserError(f"--force_task_num {force:g}: wanted a whole number ≥ 1, -1 for all, or a fraction below 1")
    tasks = {name: count for name, count in config.items() if kind is None or TASKS[name].kind == kind}
    if not tasks:
        raise UserError(f"{path}: wanted tasks{f' of kind {kind}' if kind else ''}, found none")
    return {name: task_count(count, force) for name, count in tasks.items()}


def task_count(count: int, force: float | None) -> float:
    """A config's count after --force_task_num: -1 means all rows, a number below 1 a share of them.

    >>> task_count(500, None), task_count(500, 20), task_count(500, 0.2), task_count(-1, 0.2), task_count(500, -1)
    (500, 20, 100, 0.2, -1)

    A fraction never rounds a task away:

    >>> task_count(500, 0.0001)
    1
    """
    if force is None or count == 0:
        return count
    if force == ALL or force >= 1:
        return int(force)
    return force if count == ALL else max(1, round(count * force))


def read_flags(text: str) -> list[str]:
    """The audit flags named in a comma-separated list.

    >>> read_flags("outcome_in_window, target_in_context")
    ['outcome_in_window', 'target_in_context']
    >>> read_flags("leak")
    Traceback (most recent call last):
    pipeline.errors.UserError: --exclude_audit leak: wanted some of outcome_in_window, stay_ended_in_window,
    label_vs_hospital_expire_flag, target_in_context
    """
    flags = [flag.strip() for flag in text.split(",") if flag.strip()]
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise UserError(f"--exclude_audit {', '.join(unknown)}: wanted some of {', '.join(FLAGS)}")
    return flags


# --- rows of one task


@contextlib.contextmanager
def by_task(files: Sequence[Path], tasks: Collection[str], subjects: Collection[str]) -> Iterator[dict[str, list[Path]]]:
    """The files that hold each task's rows.

    A file named for its task is taken as it is. Others (one file a patient) are read once, a batch at a time, and their
    rows sorted into temporary files by task; a file named for a patient who is not wanted is not opened.
    """
    import polars as pl

    parts: dict[str, list[Path]] = {}
    mixed = []
    for path in files:
        if (task := task_of_file(path)) is not None:
            parts.setdefault(task, []).append(path)
        elif not path.stem.isdecimal() or path.stem in subjects:
            mixed.append(path)
    with tempfile.TemporaryDirectory(prefix="data_index_gen-") as scratch:
        for start in range(0, len(mixed), _BATCH_FILES):
            frames = []
            for path in mixed[start : start + _BATCH_FILES]:
                with reading(path):
                    frames.append(scan(path).filter(pl.col("task").is_in(list(tasks))).collect())
            for (task,), rows in pl.concat(frames).partition_by("task", as_dict=True).items():
                part = Path(scratch) / f"{task}-{start:08d}.csv"
                rows.write_csv(part)
                parts.setdefault(task, []).append(part)
        yield parts


class Others:
    """What other indexes say of the rows to draw: those to leave out, and the labels to keep to."""

    def __init__(self, args: Any, tasks: Collection[str]) -> None:
        import polars as pl

        self.rows = self.labels = None
        if args.out_data_index_dir:
            self.rows = self._read(args.out_data_index_dir, tasks, pl.col("task", "subject_id", "context_end"))
        if args.in_label_data_index_dir:
            self.labels = self._read(args.in_label_data_index_dir, tasks, pl.col("task"), target_labels().alias("label"))

    def _read(self, path: Path, tasks: Collection[str], *columns: pl.Expr) -> pl.DataFrame:
        import polars as pl

        named = [name for name in tasks if TASKS[name].kind != "generation"] if len(columns) > 1 else list(tasks)
        frames = []
        for file in index_files(path):
            if task_of_file(file) not in (None, *named):
                continue
            with reading(file):
                frame = scan(file).filter(pl.col("task").is_in(named)).select(*columns)
                frame = frame.explode("label") if len(columns) > 1 else frame
                frames.append(frame.unique().collect(engine="streaming"))
        if not frames:
            raise UserError(f"{path}: wanted an index of {', '.join(list(tasks)[:3])}, ..., found other tasks only")
        return pl.concat(frames).unique()


def filter_rows(
    task: Task, files: Sequence[Path], subjects: Collection[str], args: Any, others: Others
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The task's rows that pass all filters but the audit's, and how many each filter left.

    The first two work while the file is read: only what they leave is held in memory.
    """
    import polars as pl

    length = pl.col("context_end") - pl.col("context_begin")
    mine = (pl.col("task") == task.name) & pl.col("subject_id").is_in(list(subjects))
    fits = mine & (length > args.min_window) & (length < args.max_window)
    left = dict.fromkeys(("rows", *FILTERS), 0)
    frames = []
    for path in files:
        with reading(path):
            frame = scan(path)
            count = frame.select(
                rows=(pl.col("task") == task.name).sum(),
                subjects=mine.sum(),
                window=fits.sum(),
                holes=pl.any_horizontal(pl.col("subject_id", "context_begin", "context_end", "target").is_null()).sum(),
            ).collect(engine="streaming")
            # Few distinct values in tens of millions of rows (next_event): kept as numbers.
            compact = pl.col("task", "event", "audit").cast(pl.Categorical)
            frames.append(frame.filter(fits).with_columns(compact).collect(engine="streaming"))
        if count["holes"][0]:
            raise UserError(f"{path}: wanted subject_id, window and target in all rows, {count['holes'][0]:,} lack one")
        for name in ("rows", "subjects", "window"):
            left[name] += count[name][0]
    rows = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(INDEX_COLUMNS, pl.String))
    steps = {
        "distinct": lambda: distinct(task, rows),
        "admitted": lambda: rows.filter(admitted()) if task.inside else rows,
        "answers": lambda: rows.filter(target_labels().list.len() < MAX_CHART_NAMES) if task.name == "chartevents" else rows,
        "unseen": lambda: unseen(rows, others.rows) if others.rows is not None else rows,
        "labels": lambda: known_labels(task, rows, others.labels) if others.labels is not None else rows,
    }
    for name, step in steps.items():
        if rows.height:
            with reading(args.data_index_dir):
                rows = step()
        left[name] = rows.height
    return rows, left


def distinct(task: Task, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without repetitions.

    Raises:
        UserError: two rows of the same sample say different things, so they are of different builds.
    """
    import numpy as np

    if len(np.unique(row_hashes(task.name, rows, seed=0))) == rows.height:
        return rows
    rows = rows.unique()
    again = rows.filter(rows.select(KEY).is_duplicated())
    if again.height:
        first = again.sort(KEY).row(0, named=True)
        raise UserError(
            f"{task.name}: wanted one row for each sample, found {again.height:,} that contradict another, e.g. "
            f"subject_id {first['subject_id']}, window {first['context_begin']}-{first['context_end']}; "
            "do not mix indexes of two builds"
        )
    return rows


def admitted() -> pl.Expr:
    """Whether the admission lies inside the window, or the row has none.

    >>> import polars as pl
    >>> pl.DataFrame({"context_begin": [5, 5, 5], "admissions_id": [None, 5, 6]}).select(admitted())[:, 0].to_list()
    [True, False, True]
    """
    import polars as pl

    return pl.col("admissions_id").is_null() | (pl.col("admissions_id") > pl.col("context_begin"))


def unseen(rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The rows that are not in another index: no row there has the same task, subject and end of window.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"task": "omr", "subject_id": ["1", "1", "2"], "context_end": [20, 30, 20]})
    >>> unseen(rows, rows[:1]).rows()
    [('omr', '1', 30), ('omr', '2', 20)]
    """
    import polars as pl

    return rows.with_columns(pl.col("task").cast(pl.String)).join(
        other, on=["task", "subject_id", "context_end"], how="anti", maintain_order="left"
    )


def known_labels(task: Task, rows: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The rows all of whose labels another index has for this task.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"target": ['["a"]', '["a", "b"]', '["b"]']})
    >>> known_labels(TASKS["omr"], rows, pl.DataFrame({"task": ["omr", "emar"], "label": ["a", "b"]})).rows()
    [('["a"]',)]
    """
    import polars as pl

    if task.kind == "generation":
        return rows
    allowed = other.filter(pl.col("task") == task.name)["label"]
    exploded = rows.select(target_labels().alias("label")).with_row_index("row").explode("label")
    other_labels = exploded.filter(~pl.col("label").is_in(allowed.implode()))["row"]
    return rows.with_row_index("row").filter(~pl.col("row").is_in(other_labels.implode())).drop("row")


def has_any(flags: Sequence[str]) -> pl.Expr:
    """Whether `audit` holds one of the flags.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"audit": ["outcome_in_window;stay_ended_in_window", "stay_ended_in_window", None]})
    >>> frame.select(has_any(["outcome_in_window", "target_in_context"]))[:, 0].to_list()
    [True, False, False]
    """
    import polars as pl

    return pl.col("audit").cast(pl.String).fill_null("").str.split(";").list.eval(pl.element().is_in(list(flags))).list.any()


# --- the draw


def draw(task: Task, rows: pl.DataFrame, wanted: float, args: Any) -> tuple[pl.DataFrame, str]:
    """`wanted` rows, drawn as the options say, and a remark where there are fewer."""
    if wanted == 0 or not rows.height:
        return rows.clear(), "" if wanted == 0 else "no rows"
    number = rows.height if wanted == ALL else wanted if wanted >= 1 else max(1, round(wanted * rows.height))
    hashes = row_hashes(task.name, rows, args.seed)
    if args.balance_force and task.kind == "risk":
        chosen = draw_balanced(hashes, rows["target"].to_numpy(), number)
        if chosen is None:
            return rows.clear(), f"left out: every row says {rows['target'][0]}, AUROC is undefined"
    elif args.balance_sample or task.weighted:
        weights = rows["target_weight"]
        if weights.null_count() or not (weights > 0).all() or not weights.is_finite().all():
            raise UserError(
                f"{args.data_index_dir}: wanted target_weight > 0 in every row of {task.name}, drawn by weight, "
                "found rows without; make the index with task_sample_info_gen.py"
            )
        chosen = draw_weighted(hashes, weights.to_numpy(), number)
    else:
        chosen = draw_uniform(hashes, number)
    return rows[chosen], "" if len(chosen) >= number else f"fewer than the {number:,} wanted"


# --- outputs


def to_samples(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of a sampled set, ordered by patient and position."""
    import polars as pl

    order = [pl.col("subject_id").cast(pl.Int64, strict=False), *KEY]
    rows = rows.with_columns(pl.col("task", "event", "audit").cast(pl.String))
    rows = rows.sort(order).rename({"context_begin": "period_begin", "context_end": "period_end"})
    return rows.select(SAMPLE_COLUMNS)


def audit_row(task: str, pool: pl.DataFrame, rows: pl.DataFrame) -> dict[str, Any]:
    """How many rows each audit flag touches: before the draw and --exclude_audit, and in the drawn set."""

    def count(frame: pl.DataFrame, flag: str) -> int:
        return frame.select(has_any([flag]).sum()).item() if frame.height else 0

    before = {flag: count(pool, flag) for flag in FLAGS}
    return {"task": task, "rows": pool.height, **before, "drawn": rows.height} | {
        f"drawn_{flag}": count(rows, flag) for flag in FLAGS
    }


def save_audit(path: Path, table: Sequence[dict[str, Any]]) -> None:
    """Print and save the audit table. Printed: rows with the flag before the draw / in the drawn set."""
    print(f"\n{'audit: before / drawn':<24}" + "".join(f"{flag:>31}" for flag in FLAGS))
    for row in table:
        if any(row[flag] for flag in FLAGS):
            pairs = (f"{row[flag]:,} / {row[f'drawn_{flag}']:,}" for flag in FLAGS)
            print(f"{row['task']:<24}" + "".join(f"{pair:>31}" for pair in pairs))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def save_provenance(args: Any, report: dict[str, dict[str, Any]]) -> None:
    """What the set was made from: the index's provenance with its digest, and how it was drawn."""
    index = args.data_index_dir
    path = index / "provenance.json" if index.is_dir() else index.with_suffix(".provenance.json")
    options = {name: str(value) if isinstance(value, Path) else value for name, value in sorted(vars(args).items())}
    sample = {"options": options, "tasks": report, "code": git_revision()}
    write_json(
        args.output_path.with_suffix(".provenance.json"),
        (read_json(path) if path.exists() else {}) | {"sample": sample, "data_use": DATA_USE},
    )


if __name__ == "__main__":
    run(main)
