"""Check that an index belongs to these trajectories: positions in range, the stated event, the stated target.

Works on index files of this repository and on released ones. Prints, for each task, how many rows agree, the first rows that
do not (numbered as in a spreadsheet: the header is row 1), and how many repeat a sample of their file. The exit code is 1 if a
row disagrees. With --prove, a row also disagrees if its input depends on a record after its prediction time (`no_future.py`).
An index that was made from other trajectories or code maps, by its record (docs/provenance.md), is an error; released ones
have no record.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, NamedTuple

from mimiciv_dataset.cells import clean_id, row_number
from mimiciv_dataset.draws import text_hash
from mimiciv_dataset.index_files import index_files, index_paths
from mimiciv_dataset.index_rows import Rows, clean_window, read_rows
from mimiciv_dataset.index_tables import byte_ranges, read_header, read_range, window_columns
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.no_future import NoFuture
from mimiciv_dataset.row_numbers import RowHashes
from mimiciv_dataset.samples import target_of_row
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.text import Renderer
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import scratch_dir
from pipeline.progress import Summary, print_table
from pipeline.provenance import check_sources
from pipeline.work import Workers, map_lines

PART_BYTES, PART_LINES = 2 << 20, 1000  # of a CSV and of a JSONL that a process checks at a time
AGREE = "agree"
open_lines = lru_cache(maxsize=1)(read_rows)


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("index", nargs="+", type=Path, help="index CSV or JSONL files, or directories of CSVs")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_argument("--prove", action="store_true", help="also prove that no input depends on the future (docs/tasks.md)")
    cli.add_argument("--show", type=int, default=5, help="disagreeing rows to print of each file (5)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    import numpy as np

    workers = Workers(args.num_workers, args.engine)
    summary = Summary("validate_index")
    open_lines.cache_clear()
    indexes = index_paths(args.index)
    files = [path for given in indexes for path in index_files(given)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    trajectories, lookups = Trajectories(args.ehr_dir), Lookups(args.index_mapping)
    sources = [trajectories_source(args.ehr_dir), index_mapping_source(args.index_mapping)]
    sources += [source for given in indexes for source in index_sources(given)]
    check_sources(sources)
    check = partial(check_part, trajectories, lookups, args.show, args.prove)
    parts = [part for number, path in enumerate(files) for part in parts_of(number, path)]
    with scratch_dir(Path(tempfile.gettempdir()) / f"validate_index-{os.getpid()}") as scratch:
        results = map_lines(parts, check, scratch, "parts", workers=workers, desc="validate_index", unit="part")
        for number, of_file in groupby(zip(parts, results, strict=True), lambda item: item[0].file):
            path, first, shown, hashes = files[number], 0, 0, RowHashes(scratch / f"samples-{number}")
            for _, result in of_file:
                for task, of_task in result["counts"].items():
                    counts[task].update(of_task)
                for position, reason in result["bad"][: args.show - shown]:
                    print(f"{where(path, first + position)}: {reason}")
                    shown += 1
                first += result["rows"]
                hashes.add(np.array(result["samples"], np.uint64))
            if repeated := hashes.repeated():
                print(f"warning: {path}: {repeated:,} rows repeat the task, patient and window of another row.")
    agree = {task: of_task.pop(AGREE, 0) for task, of_task in counts.items()}
    rows = []
    for task in sorted(counts, key=lambda name: (list(TASKS).index(name) if name in TASKS else 99, name)):
        total = agree[task] + counts[task].total()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts[task].most_common())
        rows.append((task, total, f"{agree[task] / total:.1%}", reasons))
    print_table(("task", "rows", "agree", "disagreements"), rows)
    good, bad = sum(agree.values()), sum(of_task.total() for of_task in counts.values())
    summary.print(f"{good + bad:,} rows of {len(files)} files, {good:,} agree, {bad:,} do not", good + bad, "rows")
    return int(bad > 0)


class Part(NamedTuple):
    """Rows of a file: a range of bytes of a CSV, or of lines that are not blank of a JSONL."""

    file: int  # its number
    path: Path
    start: int
    end: int

    def rows(self) -> Rows:
        """The rows of the part, numbered from 0."""
        if self.path.suffix == ".csv":
            return Rows(self.path, read_range(self.path, self.start, self.end, ("subject_id", "task")), lines=False)
        rows = open_lines(self.path)
        return Rows(self.path, rows.table.slice(self.start, self.end - self.start), lines=True)


def parts_of(number: int, path: Path) -> list[Part]:
    """The parts of file `number`."""
    if path.suffix == ".csv":
        window_columns(path, read_header(path), ("subject_id", "task"))
        return [Part(number, path, start, end) for start, end in byte_ranges(path, PART_BYTES)]
    lines = len(open_lines(path))
    return [Part(number, path, start, min(start + PART_LINES, lines)) for start in range(0, lines, PART_LINES)]


def where(path: Path, position: int) -> str:
    """The row of a file for a message."""
    return f"{path}, row {row_number(path, position)}" if path.suffix == ".csv" else open_lines(path).where(position)


def check_part(trajectories: Trajectories, lookups: Lookups, show: int, prove: bool, part: Part) -> Iterator[dict[str, Any]]:
    """Check rows of a file.

    Yields:
        The number of `rows`; `counts` of reasons by task; `bad`, the positions of at most `show` rows with their reasons; and
        `samples`, a hash of task, patient and window of each row that has them.
    """
    rows = part.rows()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[tuple[int, str]] = []
    samples: list[int] = []
    of_patient: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for position, row in enumerate(rows):
        row = flat(rows, position, row)
        of_patient[str(clean_id(row.get("subject_id")))].append((position, row))
    for subject_id, of_subject in of_patient.items():
        events = trajectories.trajectory(subject_id) if trajectories.has(subject_id) else None
        timeline = Timeline(events) if events else None
        proof = NoFuture(events, Renderer(lookups)) if prove and events else None
        for position, row in of_subject:
            task, begin, end = str(row.get("task")), row.get("period_begin"), row.get("period_end")
            if None not in (begin, end):
                samples.append(text_hash(f"{task}/{subject_id}/{begin}-{end}"))
            reason = disagreement(row, timeline, lookups)
            if proof and not reason and (part_of_text := proof.difference(TASKS[task], row)):
                reason = f"input depends on the future: {part_of_text}"
            counts[task if task in TASKS else "?"][(reason or AGREE).partition(":")[0]] += 1
            if reason:
                bad.append((position, reason))
    yield {"rows": len(rows), "counts": counts, "bad": sorted(bad)[:show], "samples": samples}


def flat(rows: Rows, position: int, row: dict[str, Any]) -> dict[str, Any]:
    """The row at `position` with the columns of its `task_info`, as released JSONL has them; clean, if it has a window."""
    if "input" not in row:
        return row
    info = row.get("task_info")
    row = (info if isinstance(info, dict) else {}) | row
    if row.get("period_begin", row.get("context_begin")) is None:
        return row
    try:
        return clean_window(row)
    except UserError as error:
        raise UserError(f"{rows.where(position)}: {error}") from None


def disagreement(row: dict[str, Any], timeline: Timeline | None, lookups: Lookups) -> str | None:
    """Why a row disagrees with its patient's trajectory, or None: what kind of reason, then perhaps a colon and details."""
    task = TASKS.get(str(row.get("task")))
    if task is None:
        return "unknown task: see task_sample_info_gen.py --list_tasks"
    if timeline is None:
        return "no such patient"
    begin, end = row.get("period_begin"), row.get("period_end")
    if begin is None or end is None:
        return "no window"
    last = end if task.kind != "risk" else end - 1
    if not (0 < begin <= last < len(timeline)):
        return f"position out of range: a trajectory of {len(timeline):,} events"
    at = last if task.kind != "risk" or task.window == "note" else begin
    if row.get("event") not in (None, timeline.file_names[at]):
        return f"different event: got {timeline.file_names[at]} at {at}"
    stated = row.get("target", row.get("label"))
    if stated is None:
        return None
    target = target_of_row(task, begin, end, timeline, lookups)
    same = set(map(str, stated)) == set(target or ()) if isinstance(stated, list) else stated == target
    return None if same else "different target"


if __name__ == "__main__":
    run(main)
