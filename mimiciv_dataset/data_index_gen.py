"""Draw a training or benchmark set from a task index.

A config (JSON, {"task": count}, -1 for all rows) gives the number of rows of each task. Rows are filtered first; the printed
table shows how many rows each filter leaves:

  subjects   rows of the patients of --subject_id_path
  window     --min_window < events in the window < --max_window
  distinct   repeated rows count once
  admitted   procedures_* and diagnoses_*: the admission lies inside the window
  answers    chartevents: fewer than 10 names
  unseen     rows that are not in --out_data_index_dir (same task, subject and end of window)
  labels     rows all of whose labels are in --in_label_data_index_dir
  audit      rows without any of the flags of --exclude_audit

Rows are then drawn without replacement: uniformly; weighted by target_weight for risk tasks, chartevents, emar and
next_event, and for all tasks with --balance_sample; equally many of each label for risk tasks with --balance_force. The draw
depends on the seed and the rows alone, not on the order of rows, files or directories.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import contextlib
import csv
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mimiciv_dataset.audit import FLAG_HEADERS, FLAGS
from mimiciv_dataset.draws import ALL, KEY, Draw
from mimiciv_dataset.filters import Exclusions, Filters, filter_rows, read_exclusions
from mimiciv_dataset.index_files import SAMPLE_COLUMNS, index_files
from mimiciv_dataset.index_frames import read_frames, task_of_file
from mimiciv_dataset.patients import DATA_USE, read_subject_ids
from mimiciv_dataset.row_numbers import RowNumbers
from mimiciv_dataset.sources import index_sources, patients_source
from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, scratch_dir
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance
from pipeline.work import Workers, map_lines

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

TaskFiles = dict[str, list[Path]]  # the index files with the rows of each task
STEP, RULES = "mimiciv_dataset/data_index_gen.py", 1
FRAME_BYTES = 64 << 20  # of index rows that are held at a time
PIECE_ROWS = 1 << 18  # of drawn rows that are sorted at a time


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: directory or CSV")
    cli.add_path("--subject_id_path", default="patient_data/test.csv", help="CSV of the patients to draw from")
    cli.add_argument("--data_config", type=Path, required=True, help='JSON {"task": count}, see scripts/data_configs/')
    cli.add_argument("--output_path", type=Path, required=True, help="CSV to write")
    cli.add_argument("--kind", choices=("decision", "risk"), help="only the config's tasks of this kind")
    counts = "N ≥ 1 or -1 (all) replaces every count, N < 1 scales it"
    cli.add_argument("--force_task_num", type=float, metavar="N", help=counts)
    cli.add_argument("--balance_sample", action="store_true", help="weight the rows of all tasks by target_weight")
    cli.add_argument("--balance_force", action="store_true", help="equally many rows of each label for risk tasks")
    cli.add_argument("--min_window", type=int, default=10, help="windows have more events than this (10)")
    cli.add_argument("--max_window", type=int, default=100, help="windows have fewer events than this (100)")
    flags = f"exclude rows with {', '.join(FLAGS)}"
    cli.add_argument("--exclude_audit", default=(), type=audit_flags, metavar="FLAG,...", help=flags)
    cli.add_argument("--out_data_index_dir", type=Path, help="index (directory or CSV) whose rows are excluded")
    cli.add_argument("--in_label_data_index_dir", type=Path, help="index (directory or CSV) whose labels alone are allowed")
    cli.add_argument("--seed", type=int, default=42, help="seed of the draw (42)")
    cli.add_num_workers()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("data_index_gen")
    if args.output_path.suffix != ".csv":
        raise UserError(f"{args.output_path}: expected an --output_path that ends with .csv, got another name. Choose one.")
    numbers = read_config(args.data_config, args.force_task_num, args.kind)
    others = args.out_data_index_dir, args.in_label_data_index_dir
    filters = Filters(args.min_window, args.max_window, args.exclude_audit, *others)
    draw = Draw(args.balance_sample, args.balance_force, args.seed)
    subjects = frozenset(read_subject_ids(args.subject_id_path))
    index = index_files(args.data_index_dir)
    sources = [*index_sources(args.data_index_dir, verify=args.verify), patients_source(args.subject_id_path, subjects)]
    for name, path in zip(("out_data_index", "in_label_data_index"), others, strict=True):
        sources += index_sources(path, name, args.verify) if path else []
    settings = {"counts": numbers, "filters": filters.recorded, "draw": asdict(draw)}
    provenance = Provenance(args.output_path, STEP, sources, settings, RULES, cli.arguments, is_file=True)
    if not provenance.begin(args.overwrite, args.verify, keep=True):
        return
    audit_path = args.output_path.with_suffix(".audit.csv")
    reports: dict[str, dict[str, Any]] = {}
    args.output_path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_dir(args.output_path.with_name(f".{args.output_path.name}.tasks"))
    with scratch as folder, atomic_path(args.output_path) as temporary, atomic_path(audit_path) as audit_file:
        exclusions = read_exclusions(filters, numbers, subjects, folder / "window_ends")
        files = split_by_task(index, numbers, subjects, folder)
        sampler = Sampler(folder, files, numbers, subjects, filters, exclusions, draw)
        lines = map_lines(list(numbers), sampler.sample, folder, "draws", workers=workers, desc="data_index_gen", unit="task")
        with temporary.open("w", newline="", encoding="utf-8") as output:
            output.write(",".join(SAMPLE_COLUMNS) + "\n")
            for line in lines:
                if "rows" in line:
                    output.write(line["rows"])
                else:
                    reports[line["audit"]["task"]] = line
        print_reports(reports, filters.active)
        total = sum(report["counts"]["drawn"] for report in reports.values())
        if not total:
            expected = f"rows of the patients of {args.subject_id_path}, got none that pass the filters"
            raise UserError(f"{args.data_index_dir}: expected {expected}. The table shows which filter excludes them.")
        with audit_file.open("w", encoding="utf-8") as file:
            audit = [report["audit"] for report in reports.values()]
            csv.writer(file, lineterminator="\n").writerows([audit[0].keys(), *(row.values() for row in audit)])
        provenance.claim()  # at the end of the block both files are replaced
    counts = {task: report["counts"] for task, report in reports.items()}
    provenance.complete(files=[args.output_path, audit_path], tasks=counts, data_use=DATA_USE)
    tasks = sum(count["drawn"] > 0 for count in counts.values())
    read = sum(count["rows"] for count in counts.values())
    summary.print(f"{total:,} rows of {tasks} tasks → {args.output_path}", read, "index rows")


def read_config(path: Path, force: float | None, kind: str | None = None) -> dict[str, float]:
    """The number of rows to draw of each task, as `Draw.rows` takes it: a config after --force_task_num and --kind."""
    require(path, 'a config, {"task": count}', "see scripts/data_configs/")
    config = read_json(path)
    if not isinstance(config, dict) or not all(type(count) is int and count >= ALL for count in config.values()):
        raise UserError(f'{path}: expected {{"task": count}} with whole numbers ≥ 0, or -1 for all, got other JSON.')
    unknown = [name for name in config if name not in TASKS]
    if unknown:
        raise UserError(f"{path}: expected tasks of task_sample_info_gen.py --list_tasks, got {', '.join(unknown)}.")
    if force is not None and not (force == ALL or 0 < force < 1 or (force >= 1 and force == int(force))):
        raise UserError(f"--force_task_num {force:g}: expected a whole number ≥ 1, -1 for all, or a fraction below 1.")
    tasks = {name: count for name, count in config.items() if kind is None or TASKS[name].kind == kind}
    if not tasks:
        raise UserError(f"{path}: expected tasks{f' of kind {kind}' if kind else ''}, got none.")
    return {name: task_count(count, force) for name, count in tasks.items()}


def task_count(count: int, force: float | None) -> float:
    """A config's count after --force_task_num: -1 means all rows, a number below 1 a fraction of them.

    >>> task_count(500, None), task_count(500, 20), task_count(500, 0.2), task_count(-1, 0.2), task_count(500, -1)
    (500, 20, 100, 0.2, -1)

    >>> task_count(500, 0.0001)  # at least one row
    1
    """
    if force is None or count == 0:
        return count
    if force == ALL or force >= 1:
        return int(force)
    return force if count == ALL else max(1, round(count * force))


def audit_flags(text: str) -> tuple[str, ...]:
    """An argparse type: audit flags, comma-separated.

    >>> audit_flags("outcome_in_window, target_in_context")
    ('outcome_in_window', 'target_in_context')
    >>> audit_flags("leak")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: expected flags among outcome_in_window, stay_ended_in_window, label_vs_hospital_expire_flag,
    target_in_context, not_yet_stored, got leak
    """
    flags = tuple(flag.strip() for flag in text.split(",") if flag.strip())
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected flags among {', '.join(FLAGS)}, got {', '.join(unknown)}")
    return flags


def split_by_task(files: Sequence[Path], tasks: dict[str, float], subjects: frozenset[str], folder: Path) -> TaskFiles:
    """The files with the rows of each task of `tasks`.

    A file named after its task is used as it is. Other files (one per patient) are read once, in batches, and their rows
    sorted into files of one task each in `folder`; files named after a patient who is not in `subjects` are skipped.
    """
    import polars as pl

    of_task, mixed = defaultdict(list), []
    for path in files:
        if (task := task_of_file(path)) is not None:
            of_task[task].append(path)
        elif not path.stem.isdecimal() or path.stem in subjects:
            mixed.append(path)
    has_task = pl.col("task").is_in(list(tasks))
    frames = (frame.filter(has_task) for path in mixed for frame in read_frames(path))
    for number, rows in enumerate(join_frames(frames)):
        for (task,), of_part in rows.partition_by("task", as_dict=True).items():
            part = folder / f"{task}-{number:08d}.csv"
            of_part.write_csv(part)
            of_task[task].append(part)
    return of_task


def join_frames(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join small frames into frames of about `FRAME_BYTES`."""
    import polars as pl

    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(each.estimated_size() for each in held) > FRAME_BYTES:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)


@dataclass(frozen=True)
class Sampler:
    """Draws the rows of each task."""

    folder: Path  # for temporary files
    files: TaskFiles
    numbers: dict[str, float]  # rows to draw of each task, as `Draw.rows` takes them
    subjects: frozenset[str]  # patients to draw from
    filters: Filters
    exclusions: Exclusions
    draw: Draw

    def sample(self, task: str) -> Iterator[dict[str, Any]]:
        """Filter and draw the rows of a task.

        Yields:
            A report (`counts` of rows, a `note`, and `audit`, a row of the audit table), then the `rows` in pieces of CSV.
        """
        files, folder = self.files.get(task, []), self.folder / f"rows-{task}"
        targets = self.draw.balances(TASKS[task])
        kept = filter_rows(TASKS[task], files, self.subjects, self.filters, self.exclusions, folder, self.draw.seed, targets)
        before = count_flags(kept.rows)
        excluded = sum(1 << FLAGS.index(flag) for flag in self.filters.exclude_audit)
        height = kept.rows.height
        kept.rows.keep(lambda rows: rows["flags"] & excluded == 0)
        counts = kept.counts | {"audit": kept.rows.height}
        note = self.draw.choose(TASKS[task], kept.rows, kept.targets, self.numbers[task])
        drawn = {"drawn": kept.rows.height}
        after = {f"drawn_{flag}": count for flag, count in count_flags(kept.rows).items()}
        yield {"counts": counts | drawn, "note": note, "audit": {"task": task, "rows": height, **before, **drawn, **after}}
        for rows in self.sorted_rows(read_drawn(files, kept.rows), kept.rows.height, folder):
            for piece in to_samples(rows).iter_slices():
                yield {"rows": piece.write_csv(include_header=False)}
        shutil.rmtree(folder)

    def sorted_rows(self, frames: Iterable[pl.DataFrame], height: int, folder: Path) -> Iterator[pl.DataFrame]:
        """Yield rows, `height` in all, in pieces with ascending ranges of patients; several pieces go through `folder`."""
        import polars as pl
        import pyarrow as pa

        patients = sorted(map(int, self.subjects))
        number = -(-height // PIECE_ROWS)
        firsts = [patients[len(patients) * i // number] for i in range(1, number)]  # of each piece but the first
        paths = [folder / f"piece-{i}.arrow" for i in range(number)]
        with contextlib.ExitStack() as stack:
            writers: dict[Path, pa.RecordBatchStreamWriter] = {}
            for frame in frames:
                piece = pl.Series("piece", firsts, pl.Int64).search_sorted(frame["subject_id"].cast(pl.Int64), side="right")
                for (i,), rows in (
                    frame.with_columns(piece=piece).partition_by("piece", as_dict=True, include_key=False).items()
                ):
                    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
                    if paths[i] not in writers:
                        writers[paths[i]] = stack.enter_context(pa.ipc.new_stream(paths[i], table.schema))
                    writers[paths[i]].write_table(table)
        for path in filter(Path.exists, paths):
            with pa.OSFile(str(path)) as file:
                yield pl.from_arrow(pa.ipc.open_stream(file).read_all())


def count_flags(rows: Iterable[np.ndarray]) -> dict[str, int]:
    """The number of rows with each audit flag."""
    counts = dict.fromkeys(FLAGS, 0)
    for part in rows:
        for bit, flag in enumerate(FLAGS):
            counts[flag] += int((part["flags"] >> bit & 1).sum())
    return counts


def read_drawn(files: Sequence[Path], drawn: RowNumbers) -> Iterator[pl.DataFrame]:
    """Yield the rows drawn from index files, in the order of the files, in frames."""
    import numpy as np
    import polars as pl

    is_drawn = [np.zeros(0, bool) for _ in files]  # of each file, by the number of the row
    for part in drawn:
        for number in np.unique(part["file"]):
            rows = part["row"][part["file"] == number]
            if (missing := int(rows.max()) + 1 - len(is_drawn[number])) > 0:
                is_drawn[number] = np.append(is_drawn[number], np.zeros(missing, bool))
            is_drawn[number][rows] = True
    for path, of_file in zip(files, is_drawn, strict=True):
        offset = 0
        for frame in read_frames(path) if len(of_file) else ():
            # texts are copied: those of a polars frame would keep all of the file in memory
            rows = frame[np.flatnonzero(of_file[offset : offset + frame.height])]
            yield pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
            offset += frame.height
            if offset >= len(of_file):
                break


def to_samples(rows: pl.DataFrame) -> pl.DataFrame:
    """Index rows as rows of a sampled set, sorted by patient and position."""
    import polars as pl

    order = [pl.col("subject_id").cast(pl.Int64, strict=False), *KEY]
    rows = rows.sort(order).rename({"context_begin": "period_begin", "context_end": "period_end"})
    return rows.select(SAMPLE_COLUMNS)


def print_reports(reports: dict[str, dict[str, Any]], filters: Sequence[str]) -> None:
    """Print how many rows of each task the filters leave, and how many have each audit flag."""
    columns = ("rows", *filters, "drawn")
    rows = [(task, *(report["counts"][name] for name in columns), report["note"]) for task, report in reports.items()]
    print_table(("task", *columns, ""), rows)
    audit = [report["audit"] for report in reports.values() if any(report["audit"][flag] for flag in FLAGS)]
    if audit:
        print("\nRows with an audit flag: before the draw / drawn")
        pairs = [[row["task"], *(f"{row[flag]:,} / {row[f'drawn_{flag}']:,}" for flag in FLAGS)] for row in audit]
        print_table(("task", *FLAG_HEADERS), pairs)


if __name__ == "__main__":
    run(main, resume="Run the same command again; it starts from the beginning.")
