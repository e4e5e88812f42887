"""Drop the prompts of an RL index whose sampled replies all earn the same reward: GRPO learns nothing from them.

    python test.py --dataset_name datas/ehr_ins/ehr_ins_rl.csv --output_path results/pass_rates --model_name_or_path MODEL \\
        --think_prompt --family ehr-r1 --num_samples 8 --temperature 0.7
    python scripts/filter_prompts.py results/pass_rates --dataset_name datas/ehr_ins/ehr_ins_rl.csv \\
        --output_path datas/ehr_ins/ehr_ins_rl_kept.csv

Reads a finished run of test.py with several replies per sample, of the model to train and with the prompts of grpo.py
(--think_prompt --family ehr-r1, whatever the model). The pass rate of a row is the mean reward of its replies, computed by the
same function as in grpo.py. Rows whose replies all earn the same are dropped, and so are those below --min_rate or above
--max_rate, and those without a reply that the reward scores. Risk tasks without reasoning have no sampled replies:
round(N · p(yes)) of N replies (--num_generations) count as yes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from inference.families import TRAINED, reasoning_marks
from mimiciv_dataset.cells import read_cells
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.index_tables import read_header
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.sources import index_sources
from pipeline.cli import Parser, at_least, between, chunk_paths, run
from pipeline.errors import UserError
from pipeline.files import Line, atomic_path, read_json
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, content_of, output_of

STEP, RULES = "scripts/filter_prompts.py", 1
# Why a row is dropped; the last is that of rows that are kept.
UNSCORED, EQUAL, BELOW, ABOVE, KEPT = FATES = ("unscored", "equal", "below", "above", "kept")


@dataclass(frozen=True)
class Limits:
    """Which rows are kept.

    Attributes:
        reward: name of the reward, in training/rewards.py.
        min_rate, max_rate: limits of the mean reward, which are allowed themselves.
        num_generations: number of replies that a p(yes) stands for.
    """

    reward: str
    min_rate: float
    max_rate: float
    num_generations: int

    def fate(self, rewards: Sequence[float]) -> str:
        """What becomes of a row with these rewards.

        >>> limits = Limits("accuracy", 0.2, 1.0, 8)
        >>> [limits.fate(rewards) for rewards in ([], [1.0, 1.0], [0.0, 0.1], [0.0, 1.0])]
        ['unscored', 'equal', 'below', 'kept']
        """
        if not rewards:
            return UNSCORED
        if min(rewards) == max(rewards):
            return EQUAL
        rate = fmean(rewards)
        return BELOW if rate < self.min_rate else ABOVE if rate > self.max_rate else KEPT


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("run_dir", metavar="DIR", type=Path, help="finished run of test.py with --num_samples")
    cli.add_argument("--dataset_name", required=True, type=Path, help="index CSV whose rows are filtered")
    cli.add_argument("--output_path", required=True, type=Path, help="CSV for the rows that are kept")
    cli.add_argument("--reward", default="accuracy", help="reward of grpo.py that replies earn (accuracy)")
    cli.add_argument("--min_rate", type=between(0, 2), default=0.0, help="smallest mean reward that is kept (0)")
    cli.add_argument("--max_rate", type=between(0, 2), default=2.0, help="largest mean reward that is kept (no limit)")
    cli.add_argument("--num_generations", type=at_least(2), default=16, help="replies that a p(yes) stands for (16)")
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    summary = Summary("filter_prompts")
    limits = Limits(args.reward, args.min_rate, args.max_rate, args.num_generations)

    from evaluation.predictions import read_outputs
    from training.rewards import REWARDS

    if limits.reward not in REWARDS:
        raise UserError(f"--reward: expected one out of {', '.join(REWARDS)}, got {limits.reward}.")
    replies = [content_of(f"replies/{path.name}", path) for path in chunk_paths(args.run_dir / "outputs.jsonl")]
    sources = [*index_sources(args.dataset_name, verify=args.verify), *replies]
    sources.append(output_of("run", args.run_dir, "test.py", is_ancestor=False, verify=args.verify))
    provenance = Provenance(args.output_path, STEP, sources, vars(limits), RULES, cli.arguments, is_file=True)
    if not provenance.begin(args.overwrite, args.verify, keep=True):
        return

    if warning := family_warning(args.run_dir):
        print(f"warning: {warning}", file=sys.stderr)
    rewards = {output.sample_id: rewards_of(line, limits) for _, output, line in read_outputs(args.run_dir)}
    rows = read_rows(args.dataset_name)
    if not rows.columns:
        raise UserError(f"{args.dataset_name}: expected an index CSV, got JSONL. Give the CSV.")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    header, cells = read_header(args.dataset_name), read_cells(args.dataset_name)
    next(cells)  # the header
    with atomic_path(args.output_path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for row, (_, values) in zip(rows, cells, strict=True):
            fate = limits.fate(rewards.get(sample_id(row), ()))
            counts[row["task"]][fate] += 1
            if fate == KEPT:
                writer.writerow(values)
        print_counts(counts)
        kept = sum(of_task[KEPT] for of_task in counts.values())
        if not kept:
            raise UserError(f"{args.run_dir}: expected rows with different rewards, got none. See the table above.")
        provenance.claim()  # at the end of the block the file is replaced
    provenance.complete(rows=len(rows), kept=kept, tasks=counts, data_use=DATA_USE)
    summary.print(f"{kept:,} of {len(rows):,} rows kept → {args.output_path}", len(rows), "rows")


def family_warning(run_dir: Path) -> str | None:
    """What is wrong with the prompts of a run: grpo.py makes all prompts as those of the models trained here."""
    result = run_dir / "result.json"
    family = (read_json(result).get("family") or {}).get("family", TRAINED) if result.exists() else TRAINED
    if family == TRAINED:
        return None
    return f"{run_dir}: expected prompts as in grpo.py, got those of family {family}. Run test.py with --family {TRAINED}."


def rewards_of(line: Line, limits: Limits) -> list[float]:
    """The rewards of the replies to a sample; none if it has no reply, or the reward does not score it.

    Raises:
        UserError: the sample has one reply only.
    """
    from training.rewards import REWARDS

    if line.get("error"):  # the prompt did not fit
        return []
    outputs = line.get("outputs") or []
    if any(output.get("finish_reason") == "scored" for output in outputs):
        outputs = replies_of(outputs[0]["p_yes"], limits.num_generations)
    if len(outputs) == 1:
        fix = "Run test.py with --num_samples 8, say"
        raise UserError(f"{line['sample_id'].partition('/')[0]}: expected several replies to each sample, got one. {fix}.")
    task, label = line["task_info"]["task"], line["task_info"]["label"]
    is_open, reward = line.get("thinking_open"), REWARDS[limits.reward]
    turns = ((opened_mark(output["response"]) if is_open else "") + output["response"] for output in outputs)
    rows = zip(turns, outputs, strict=True)
    values = (reward(turn, task, label, line["mode"], output.get("p_yes")) for turn, output in rows)
    return [value for value in values if value is not None]


def opened_mark(reply: str) -> str:
    """The mark of reasoning with which the prompt of a reply ended, on a line of its own: the reply closes it last.

    >>> opened_mark("Old.[/THINK]yes"), opened_mark("Old.</think>yes"), opened_mark("Old.")
    ('[THINK]\\n', '<think>\\n', '<think>\\n')
    """
    (opening, _), *_ = sorted(reasoning_marks(), key=lambda marks: -reply.rfind(marks[1]))
    return opening + "\n"


def replies_of(p_yes: float, number: int) -> list[dict[str, Any]]:
    """The expected answers among a number of replies, from p(yes).

    >>> [output["response"] for output in replies_of(0.7, 4)]
    ['yes', 'yes', 'yes', 'no']
    """
    yes = round(number * p_yes)
    return [{"response": "yes" if i < yes else "no", "p_yes": p_yes} for i in range(number)]


def print_counts(counts: Mapping[str, Counter[str]]) -> None:
    """Print a table of what became of the rows of each task."""
    total = sum(counts.values(), Counter())
    lines = [[task, sum(of_task.values()), *(of_task[fate] for fate in FATES)] for task, of_task in counts.items()]
    print_table(["task", "rows", *FATES], [*lines, ["all", sum(total.values()), *(total[fate] for fate in FATES)]])


if __name__ == "__main__":
    run(main)
