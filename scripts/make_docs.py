"""Write docs/tasks.md from the task registry, and the tables of docs/synthetic.md from the generator.

The tasks' counts are those of an index (the MIMIC-IV demo's in this repository); they stand in docs/demo_counts.json, so that
the page can be made again without the data; --index takes them anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.tasks import TASKS, task_table
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.progress import Summary

DOCS = Path(__file__).resolve().parent.parent / "docs"

PAGE = """\
# Tasks

Made by `scripts/make_docs.py` from `mimiciv_dataset/tasks.py`; `task_sample_info_gen.py --list_tasks` prints the table.
"The 42 tasks" of the paper are marked y; the released benchmark has 45 (all but `discharge`).

{table}

## Decision-making tasks

The answer is the list of distinct, stripped, non-missing values of the event's records, in the order in which they first
appear; an event without any gives no sample. The **window** reaches from the earliest earlier event with the same hadm_id
(missing equals missing) that starts less than 24 h before the event, up to the event itself; event 0, the patient, never
counts, and without such an event there is no sample. diagnoses_icd has no time and takes that of the event before it.
`discharge` notes are hidden from the context of the four diagnosis tasks. transfers: careunit, or eventtype where it is
missing. radiology: a note can have several exam names. ATC: by NDC, padded to 11 digits.

## Risk tasks

| tasks | anchor | window |
|---|---|---|
| ED_* | edstays | from the anchor to the last later event of the trajectory that starts before ED outtime |
| LengthOfStay_*, Inpatient_Mortality | admissions | from the anchor to the last later event of the same hadm_id that starts less than 24 h after it |
| ICU_* | icustays | the same |
| Readmission_* | discharge | the decision window before the note, and the note |

Without a later event in the window there is no sample; nor where the record does not say (a stay whose end is missing).
An ED stay without hadm_id matches no event. Gaps are in hours; an event without a time is infinitely far. Every rule has
examples on both sides of every boundary in `mimiciv_dataset/labels.py`, which run as tests.

## Leak audit

These are the published benchmark's rules. Some are clinically weak, and we say so per row (column `audit`) instead of
changing them; `data_index_gen.py --exclude_audit FLAG,…` drops such rows.

| flag | the row's |
|---|---|
| `outcome_in_window` | "yes" is decided by an event, or at a time, before the window ends |
| `stay_ended_in_window` | stay (ED, hospital or ICU) ends before the window's last event starts |
| `label_vs_hospital_expire_flag` | dod rule and admissions.hospital_expire_flag disagree on death in hospital (ED_Inpatient_Mortality, ED_Critical_Outcomes, Inpatient_Mortality) |
| `target_in_context` | every answer stands, as a whole value, in a related table of the window: pharmacy or emar for prescriptions, prescriptions or pharmacy for emar, medrecon and pyxis, diagnosis and diagnoses_icd |

`outcome_in_window` covers all "yes" rows of ED_Hospitalization on the demo: an admission is written down while the patient
is still in the ED, so that the window holds the answer.

## Rows on the MIMIC-IV demo

{about}

{counts}
"""


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("--index", type=Path, help="folder of a task index to take the counts from")
    cli.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    args = cli.parse_args(argv)
    summary = Summary("make_docs")
    kept = DOCS / "demo_counts.json"
    if args.index:
        found = read_json(args.index / "provenance.json")
        write_json(kept, {"patients": found["options"]["patients"], "tasks": found["tasks"]})
    tasks, synthetic = DOCS / "tasks.md", DOCS / "synthetic.md"
    pages = {
        tasks: make_page(read_json(kept)),
        synthetic: with_tables(synthetic.read_text(encoding="utf-8"), synthetic_tables()),
    }
    for path, page in pages.items():
        if not args.check:
            path.write_text(page, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != page:
            raise UserError(f"{path}: wanted the page of today's code, found another; run scripts/make_docs.py")
    summary.print(f"{', '.join(map(str, pages))} {'are up to date' if args.check else 'written'}")
    return 0


def with_tables(page: str, tables: dict[str, list[tuple[str, ...]]]) -> str:
    """The page with each table between its marks made anew.

    >>> print(with_tables("<!-- made: x -->\\nold\\n<!-- end: x -->", {"x": [("a", "b"), ("1", "2")]}))
    <!-- made: x -->
    | a | b |
    |---|---|
    | 1 | 2 |
    <!-- end: x -->
    """
    for name, rows in tables.items():
        begin, end = f"<!-- made: {name} -->\n", f"\n<!-- end: {name} -->"
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        page = page[: page.index(begin) + len(begin)] + "\n".join(lines) + page[page.index(end) :]
    return page


def synthetic_tables(batches: int = 12) -> dict[str, list[tuple[str, ...]]]:
    """The signs of the indicators, the outcomes drawn from them, and the AUROC of the probabilities themselves."""
    from collections import defaultdict

    from sklearn.metrics import roc_auc_score

    from preprocess.synthetic.patients import BATCH
    from preprocess.synthetic.visits import INDICATORS, simulate
    from preprocess.synthetic.vocab import OUTCOMES, SIGNS

    windows = {
        "ed": "ED stay", "adm": "first day of the admission", "icu": "first day in intensive care",
        "end": "day before discharge",
    }  # fmt: skip
    cells: dict[tuple[str, str], str] = {}
    for sign in SIGNS:
        value = f" = `{sign.value}`" if sign.value else ""
        cells[sign.indicator, sign.window] = f"{sign.table} `{sign.item}`{value}"
    signs = [(name, *(cells.get((name, window), "") for window in windows)) for name in INDICATORS]
    outcomes = [
        (
            outcome.name, ", ".join(outcome.indicators), f"{outcome.weight:g}",
            ", ".join(f"{task} {value:g}" for task, value in zip(outcome.tasks, outcome.thresholds, strict=True)),
        )
        for outcome in OUTCOMES.values()
    ]  # fmt: skip
    chances: dict[str, list[float]] = defaultdict(list)
    drawn: dict[str, list[bool]] = defaultdict(list)
    for index in range(batches):
        for task, _, _, chance, outcome in simulate(0, index, BATCH).truth:
            chances[task] += chance.tolist()
            drawn[task] += outcome.tolist()
    optimum = [(task, f"{sum(yes) / len(yes):.0%}", f"{roc_auc_score(yes, chances[task]):.3f}") for task, yes in drawn.items()]
    return {
        "signs": [("indicator", *windows.values()), *signs],
        "outcomes": [("outcome", "indicators", "weight", "tasks and thresholds"), *outcomes],
        "optimum": [("task", "yes", "optimum"), *optimum],
    }


def make_page(counts: dict) -> str:
    """The page, from the registry and the counts of an index."""
    rows = [("task", "rows", "labels", "yes", *FLAGS)]
    for name in TASKS:
        entry = counts["tasks"][name]
        flags = [f"{entry['flags'][flag]:,}" for flag in FLAGS]
        rows.append((name, f"{entry['rows']:,}", f"{entry['labels']:,}", str(entry.get("yes", "")), *flags))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" + " ---: |" * (len(rows[0]) - 1))
    total = sum(entry["rows"] for entry in counts["tasks"].values())
    about = (
        f"{total:,} rows of {counts['patients']} patients with at most 1,200 events, of the 68 demo patients that the tests "
        "use, with made-up notes. `labels`: distinct answers."
    )
    return PAGE.format(table=task_table(), about=about, counts="\n".join(lines))


if __name__ == "__main__":
    run(main)
