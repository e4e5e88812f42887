"""How much the candidates of a prompt reveal: answers picked from the candidates alone, without the patient.

Candidates are made from the answers (`mimiciv_dataset/candidates.py`): from a vocabulary of more than 100 names, they are the
answers and their neighbours. The pick is the candidate with the most neighbours (of `cache/similar_item`) among them.
The table has the share of rows in which the pick is an answer, and the expected share of a random pick.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections.abc import Sequence

from mimiciv_dataset.candidates import MAX_CANDIDATES, Candidates
from mimiciv_dataset.index_files import index_files
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, run
from pipeline.progress import print_table


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--index", default="task_index/all", help="directory of index CSVs, or a CSV")
    cli.add_path("--cache", default="cache", help="item sets and similar items")
    cli.add_argument("--rows", type=int, default=500, help="rows of each task at most, evenly spread (500)")
    args = cli.parse_args(argv)
    candidates, table = Candidates(args.cache), []
    for path in index_files(args.index):
        rows = [row for row in read_rows(path) if TASKS[row["task"]].kind == "decision"]
        names = {row["task"] for row in rows}
        for task in (TASKS[name] for name in TASKS if name in names):
            vocabulary = candidates.vocabulary(task.name)
            if vocabulary is None or len(vocabulary.items) <= MAX_CANDIDATES:
                continue
            of_task = [row for row in rows if row["task"] == task.name]
            of_task = of_task[:: max(1, len(of_task) // args.rows)][: args.rows]
            picked = chance = 0.0
            for row in of_task:
                answers = label_list(row["target"])
                key = f"{task.name} {row['subject_id']} {row['period_begin']} {row['period_end']}"
                offered = candidates.of(task, answers, key)
                others = set(offered)
                pick = max(offered, key=lambda name: len(others.intersection(vocabulary.neighbours(name))))
                picked += pick in answers
                chance += len(others.intersection(answers)) / len(offered)
            number = len(of_task)
            table.append((task.name, len(vocabulary.items), number, f"{picked / number:.0%}", f"{chance / number:.0%}"))
    print_table(("task", "vocabulary", "rows", "picked", "by chance"), table)


if __name__ == "__main__":
    run(main)
