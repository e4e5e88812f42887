"""Check that an index belongs to these trajectories: positions in range, the stated event, the stated target.

Works on index files of this repository and on released ones. Prints, for each task, how many rows agree, and the first rows
that do not. The exit code is 1 if a row disagrees.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from mimiciv_dataset.index_files import Rows, read_rows, sample_id
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.samples import target_of_row
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.progress import Summary, print_table
from pipeline.work import Tick, Unit, run_units

UNIT_PATIENTS = 200

open_rows = lru_cache(maxsize=1)(read_rows)


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("index", nargs="+", type=Path, help="index CSV or JSONL files, or directories of CSVs")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_argument("--show", type=int, default=5, help="disagreeing rows to print of each file (5)")
    cli.add_num_workers()
    args = cli.parse_args(argv)
    summary = Summary("validate_index")
    files = [path for given in args.index for path in (sorted(given.glob("*.csv")) if given.is_dir() else [given])]
    files = [path for path in files if not path.name.endswith(".audit.csv")]
    if not files:
        raise UserError(f"{args.index[0]}: expected index files, got none. Give CSV or JSONL files, or a directory of CSVs.")
    agree: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="validate_index-") as scratch:
        check = Check(Path(scratch), Trajectories(args.ehr_dir), Lookups(args.index_mapping), args.show)
        units = [unit for number, path in enumerate(files) for unit in check.units(number, path)]
        run_units(units, check.folder, num_workers=args.num_workers, desc="validate_index", unit="block")
        shown: Counter[str] = Counter()
        for unit in units:
            result = read_json(check.path(unit.name))
            agree.update(result["agree"])
            for task, counts in result["reasons"].items():
                reasons[task].update(counts)
            for line in result["lines"][: max(0, args.show - shown[result["file"]])]:
                print(line)
                shown[result["file"]] += 1
    rows = []
    for task in sorted(agree.keys() | reasons, key=lambda name: (list(TASKS).index(name) if name in TASKS else 99, name)):
        total = agree[task] + reasons[task].total()
        why = ", ".join(f"{count} {reason}" for reason, count in reasons[task].most_common())
        rows.append((task, total, f"{agree[task] / total:.1%}", why))
    print_table(("task", "rows", "agree", "disagreements"), rows)
    good, bad = agree.total(), sum(counts.total() for counts in reasons.values())
    summary.print(f"{good + bad:,} rows of {len(files)} files, {good:,} agree, {bad:,} do not", good + bad, "rows")
    return int(bad > 0)


@dataclass(frozen=True)
class Check:
    """Checks index rows against trajectories.

    Attributes:
        folder: where the results of the units are written.
        show: disagreements that a result describes at most.
    """

    folder: Path
    trajectories: Trajectories
    lookups: Lookups
    show: int

    def path(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def units(self, number: int, path: Path) -> list[Unit]:
        """The work of file `number`: the rows of `UNIT_PATIENTS` patients each, so that a trajectory is read once."""
        of_patient: dict[str, list[int]] = defaultdict(list)
        for position, row in enumerate(map(flat, open_rows(path))):
            of_patient[str(row.get("subject_id"))].append(position)
        patients = list(of_patient.items())
        starts = range(0, len(patients), UNIT_PATIENTS)
        names = [f"{number:05d}-{start:07d}" for start in starts]
        blocks = [dict(patients[start : start + UNIT_PATIENTS]) for start in starts]
        return [Unit(n, self.path(n).exists, partial(self.check, n, path, b)) for n, b in zip(names, blocks, strict=True)]

    def check(self, unit: str, path: Path, of_patient: dict[str, list[int]], tick: Tick) -> None:
        """Check some rows of a file, given by patient and position."""
        rows: Rows = open_rows(path)
        agree: Counter[str] = Counter()
        reasons: dict[str, Counter[str]] = defaultdict(Counter)
        lines = []
        for subject_id, positions in of_patient.items():
            timeline = self.trajectories.timeline(subject_id) if self.trajectories.has(subject_id) else None
            for position in positions:
                row = flat(rows[position])
                reason = disagreement(row, timeline, self.lookups)
                task = row.get("task", "?")
                if reason is None:
                    agree[task] += 1
                    continue
                reasons[task][reason.partition(":")[0]] += 1
                if len(lines) < self.show:
                    lines.append(f"{path.name}, row {position + 1}: {reason}")
        write_json(self.path(unit), {"file": str(path), "agree": agree, "reasons": reasons, "lines": lines})


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the columns of its `task_info`, as released JSONL rows have them."""
    return {**row.get("task_info", {}), **row}


def disagreement(row: dict[str, Any], timeline: Timeline | None, lookups: Lookups) -> str | None:
    """Why a row disagrees with its patient's trajectory, or None: what kind of reason, then perhaps a colon and details."""
    if row.get("task") not in TASKS:
        return "unknown task"
    if timeline is None:
        return "no such patient"
    task = TASKS[row["task"]]
    begin, end = row.get("period_begin"), row.get("period_end")
    if begin is None or end is None:
        return "no window"
    last = end if task.kind != "risk" else end - 1
    if not (0 < begin <= last < len(timeline)):
        return f"position out of range: {sample_id(row)}, a trajectory of {len(timeline)} events"
    at = last if task.kind != "risk" or task.window == "note" else begin
    if row.get("event") not in (None, timeline.file_names[at]):
        return f"different event: {sample_id(row)}, expected {row['event']}, got {timeline.file_names[at]} at {at}"
    stated = row.get("target", row.get("label"))
    target = target_of_row({"task": task.name, "context_begin": begin, "context_end": end}, timeline, lookups)
    if stated is None:
        return None
    same = set(stated) == set(target or ()) if isinstance(stated, list) else stated == target
    return None if same else f"different target: {sample_id(row)}"


if __name__ == "__main__":
    run(main)
