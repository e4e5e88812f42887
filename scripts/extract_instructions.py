"""Write the instruction sentences of a released JSONL as a file for --instructions.

A published checkpoint was trained on the wording of its own release, and should be evaluated with that wording.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from collections import Counter, defaultdict
from collections.abc import Sequence

from mimiciv_dataset.json_lines import parse_line, read_lines
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
    for path in args.released:
        for number, line in read_lines(require(path, "a released JSONL", "check the path")):
            try:
                task, sentence = task_and_instruction(line)
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            instructions[task][sentence] += 1
    rows = sum(sentences.total() for sentences in instructions.values())
    if not rows:
        raise UserError(f"{args.released[0]}: expected rows with an instruction, got none. Check the file.")
    for task, sentences in instructions.items():
        if len(sentences) > 1:
            print(f"warning: {task}: {len(sentences)} wordings, using the most frequent")
    write_json(args.output_path, {task: instructions[task].most_common(1)[0][0] for task in TASKS if task in instructions})
    missing = [task.name for task in TASKS.values() if task.released and task.name not in instructions]
    unchanged = f"; default instructions remain for {', '.join(missing)}" if missing else ""
    summary.print(f"{rows:,} rows, {len(instructions)} tasks → {args.output_path}{unchanged}")


def task_and_instruction(line: str | bytes) -> tuple[str, str]:
    """The task of a line of a released JSONL, and its instruction."""
    row = parse_line(line)
    info, sentence = row.get("task_info"), row.get("instruction")
    task = TASKS.get(str(info.get("task"))) if isinstance(info, dict) else None
    if task is None or not isinstance(sentence, str) or not sentence.strip():
        expected = "an instruction, and in task_info.task a task of `task_sample_info_gen.py --list_tasks`"
        raise UserError(f"expected {expected}, got a row without. Check the file.")
    return task.name, sentence


if __name__ == "__main__":
    run(main)
