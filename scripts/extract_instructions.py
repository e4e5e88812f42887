"""Write the instruction sentences of a released JSONL as a file for --instructions.

A published checkpoint was trained on the wording of its own release, and should be evaluated with that wording.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

from mimiciv_dataset.tasks import TASKS
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import require, write_json
from pipeline.progress import Summary


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("released", nargs="+", type=Path, help="JSONL files whose rows hold instruction and task_info")
    cli.add_argument("--output_path", required=True, type=Path, help="JSON to write: task → sentence")
    args = cli.parse_args(argv)
    summary = Summary("extract_instructions")
    instructions: dict[str, Counter[str]] = defaultdict(Counter)
    rows = 0
    for path in args.released:
        with require(path, "a released JSONL", "check the path").open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                task, sentence = read_row(path, number, line)
                instructions[task][sentence] += 1
                rows += 1
    if not rows:
        raise UserError(f"{args.released[0]}: expected rows with an instruction, got none. Check the file.")
    for task, sentences in instructions.items():
        if len(sentences) > 1:
            print(f"warning: {task}: {len(sentences)} wordings, using the most frequent")
    sentences = {task: instructions[task].most_common(1)[0][0] for task in TASKS if task in instructions}
    write_json(args.output_path, sentences)
    missing = [task.name for task in TASKS.values() if task.released and task.name not in instructions]
    unchanged = f"; default instructions remain for {', '.join(missing)}" if missing else ""
    summary.print(f"{rows:,} rows, {len(instructions)} tasks → {args.output_path}{unchanged}")


def read_row(path: Path, number: int, line: str) -> tuple[str, str]:
    """The task and the instruction of a row.

    Raises:
        UserError: the row has none, or the task is unknown.
    """
    try:
        row = json.loads(line)
        task, sentence = row["task_info"]["task"], row["instruction"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(
            f"{path}, line {number}: expected task_info.task and instruction, got a row without. Check the file."
        ) from None
    if task not in TASKS:
        raise UserError(
            f"{path}, line {number}: expected a task of `task_sample_info_gen.py --list_tasks`, got another. Check the file."
        )
    return task, sentence


if __name__ == "__main__":
    run(main)
