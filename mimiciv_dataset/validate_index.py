"""Does an index belong to these trajectories? Checks every row: positions in range, the event as stated, target reproduced.

Works on our index files and on released ones. Prints, per task, the share of rows that agree, and the first that do not.
Exit code 1 if any row disagrees.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from mimiciv_dataset.index_files import read_rows
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.samples import target_of_row
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.progress import Summary, progress


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("index", nargs="+", type=Path, help="index CSV or JSONL files, or folders of CSVs")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_argument("--show", type=int, default=5, help="disagreements to show of each file (5)")
    args = cli.parse_args(argv)
    summary = Summary("validate_index")
    trajectories, lookups = Trajectories(args.ehr_dir), Lookups(args.index_mapping)
    files = [path for given in args.index for path in (sorted(given.glob("*.csv")) if given.is_dir() else [given])]
    files = [path for path in files if not path.name.endswith(".audit.csv")]
    if not files:
        raise UserError(f"{args.index[0]}: wanted index files, found none")
    agree: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for path in files:
        shown = 0
        for row, reason in check(read_rows(path), trajectories, lookups):
            task = row.get("task", "?")
            if reason is None:
                agree[task] += 1
                continue
            reasons[task][reason.partition(":")[0]] += 1
            if shown < args.show:
                print(f"{path.name}: {task}, patient {row.get('subject_id')}, "
                      f"events {row.get('period_begin')}-{row.get('period_end')}: {reason}")  # fmt: skip
                shown += 1
    print(f"{'task':<24}{'rows':>10}{'agree':>9}  disagreements")
    for task in sorted(set(agree) | set(reasons), key=lambda name: (list(TASKS).index(name) if name in TASKS else 99, name)):
        bad = sum(reasons[task].values())
        total = agree[task] + bad
        why = ", ".join(f"{count} {reason}" for reason, count in reasons[task].most_common())
        print(f"{task:<24}{total:>10,}{agree[task] / total:>9.1%}  {why}")
    good, bad = sum(agree.values()), sum(sum(counts.values()) for counts in reasons.values())
    summary.print(f"{good + bad:,} rows of {len(files)} files, {good:,} agree, {bad:,} do not", good + bad, "rows")
    return int(bad > 0)


def check(rows: Sequence[dict[str, Any]], trajectories: Trajectories, lookups: Lookups):
    """Yield every row with None, or why it disagrees with the trajectories; a patient's rows are checked together."""
    by_patient: dict[str, list[int]] = defaultdict(list)
    for number in range(len(rows)):
        row = rows[number]
        by_patient[str(row.get("subject_id") or row.get("task_info", {}).get("subject_id"))].append(number)
    with progress(total=len(rows), desc="validate_index", unit="row") as bar:
        for subject_id, numbers in by_patient.items():
            timeline = trajectories.timeline(subject_id) if trajectories.has(subject_id) else None
            for number in numbers:
                row = rows[number]
                row = {**row.get("task_info", {}), **row}
                bar.update()
                yield row, disagreement(row, timeline, lookups)


def disagreement(row: dict[str, Any], timeline: Timeline | None, lookups: Lookups) -> str | None:
    """Why a row disagrees with its patient's trajectory, or None."""
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
        return f"position out of range: {begin}-{end} of {len(timeline)} events"
    at = last if task.kind != "risk" or task.window == "note" else begin
    if row.get("event") not in (None, timeline.file_names[at]):
        return f"another event: wanted {row['event']}, found {timeline.file_names[at]} at {at}"
    stated = row.get("target", row.get("label"))
    found = target_of_row({"task": task.name, "context_begin": begin, "context_end": end}, timeline, lookups)
    if stated is None:
        return None
    same = set(stated) == set(found or ()) if isinstance(stated, list) else stated == found
    return None if same else "another target"


if __name__ == "__main__":
    run(main)
