"""Do the reward `brier` and the filter by pass rate help GRPO? Held-out scores of a small model, several seeds each.

    python benchmarks/learning.py data --root_dir datas/rewards --patients 1500 --rows 1200 --test_rows 400
    python benchmarks/learning.py stage1 --root_dir datas/rewards --max_steps 1000
    python benchmarks/rewards.py brier --root_dir datas/rewards
    python benchmarks/rewards.py filter --root_dir datas/rewards

All variants of an experiment train the same model (stage 1 of learning.py) for the same number of steps, prompts and
completions, and are scored by test.py on held-out patients. `brier`: risk tasks, with the reward accuracy or brier. `filter`:
decision tasks, with all prompts or those that scripts/filter_prompts.py keeps. Finished parts are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.learning import DECISION, MAX_LENGTH, RISK, call, write_rows
from evaluation.synthetic_truth import rows_of
from pipeline.cli import Parser, at_least, run
from pipeline.files import read_json, require
from pipeline.progress import Summary

MAX_NEW_TOKENS = 64
SAMPLES = 8  # replies to a prompt for its pass rate
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Experiment:
    """Variants of GRPO that are compared.

    Attributes:
        tasks: tasks of the training and held-out rows.
        variants: name → index to train on, and reward.
        metrics: values of result.json that are shown.
        prompts, completions: prompts per step, and completions of each.
        flags: further flags of grpo.py.
    """

    tasks: Sequence[str]
    variants: Mapping[str, tuple[str, str]]
    metrics: Sequence[str]
    prompts: int
    completions: int
    flags: Sequence[object]


EXPERIMENTS = {
    "brier": Experiment(
        RISK,
        {"accuracy": ("rewards_risk.csv", "accuracy"), "brier": ("rewards_risk.csv", "brier")},
        ("auroc", "brier", "ece"),
        8,
        4,
        ("--learning_rate", 3e-4, "--scale_rewards", "batch", "--max_completion_length", 4, "--temperature", 1.0),
    ),
    "filter": Experiment(
        DECISION,
        {"all prompts": ("rewards_decision.csv", "accuracy"), "filtered": ("rewards_decision_kept.csv", "accuracy")},
        ("f1",),
        4,
        SAMPLES,
        ("--learning_rate", 1e-4, "--max_completion_length", MAX_NEW_TOKENS, "--temperature", TEMPERATURE),
    ),
}


@dataclass(frozen=True)
class Effort:
    """How much is trained; see the flags."""

    steps: int
    seeds: int
    rows: int


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("experiment", choices=EXPERIMENTS, help="what is compared")
    cli.add_argument("--steps", type=at_least(1), default=40, help="training steps of each run (40)")
    cli.add_argument("--seeds", type=at_least(1), default=3, help="runs of each variant (3)")
    cli.add_argument("--rows", type=at_least(2), default=400, help="filter: rows whose pass rate is computed (400)")
    args = cli.parse_args(argv)
    root, effort = args.root_dir.resolve(), Effort(args.steps, args.seeds, args.rows)
    summary = Summary("rewards")
    model = require(root / "models/cpu/stage1", "the model of stage 1", "run benchmarks/learning.py data and stage1")
    bench = Bench(root, args.experiment, model, effort)
    bench.make_data()
    before = bench.score(model, "before")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.experiment.variants}
    for seed, name in itertools.product(range(effort.seeds), results):
        results[name].append(bench.train_and_score(name, seed))
    bench.print_results(before, results)
    summary.print(f"{len(results)} variants, {effort.seeds} seeds, {effort.steps} steps each → {bench.folder}")


class Bench:
    """One experiment in a directory of learning.py."""

    def __init__(self, root: Path, name: str, model: Path, effort: Effort) -> None:
        self.root, self.model, self.effort = root, model, effort
        self.experiment, self.folder = EXPERIMENTS[name], root / "rewards" / name
        self.test = root / f"rewards_{name}_test.csv"

    def make_data(self) -> None:
        """Write the rows of the experiment's tasks, and those that the filter keeps."""
        kind, tasks = ("risk" if self.experiment.tasks == RISK else "decision"), self.experiment.tasks
        train = self.root / f"rewards_{kind}.csv"
        for source, target, maximum in (("test.csv", self.test, None), ("train.csv", train, self.effort.rows)):
            rows = [row for row in rows_of(self.root / source) if row["task"] in tasks]
            if kind == "decision" and maximum:
                rows = rows[:: max(1, len(rows) // maximum)][:maximum]
            write_rows(target, rows)
        if kind == "decision":
            self.filter(train)

    def filter(self, train: Path) -> None:
        """Sample replies to the training prompts, and keep the prompts whose rewards differ."""
        replies = self.folder / "pass_rates"
        sampling = ["--num_samples", SAMPLES, "--temperature", TEMPERATURE]
        self.evaluate(self.model, train, replies, *sampling)
        kept = ["--dataset_name", train, "--output_path", train.with_name(f"{train.stem}_kept.csv")]
        call("scripts/filter_prompts.py", replies, *kept)

    def train_and_score(self, name: str, seed: int) -> dict[str, Any]:
        """Train a variant with a seed, and return its scores by task."""
        index, reward = self.experiment.variants[name]
        output = self.folder / f"{name.replace(' ', '_')}-{seed}"
        flags = ["--root_dir", self.root, "--model_name_or_path", self.model, "--output_dir", output / "model", "--seed", seed]
        flags += [
            "--dataset_name",
            self.root / index,
            "--stage",
            "domain",
            "--rewards",
            reward,
            "--max_steps",
            self.effort.steps,
        ]
        prompts, completions = self.experiment.prompts, self.experiment.completions
        flags += ["--per_device_train_batch_size", prompts * completions, "--num_generations", completions]
        flags += ["--max_prompt_length", MAX_LENGTH, "--bf16", False, "--gradient_checkpointing", False, "--report_to", "none"]
        call("grpo.py", *flags, "--save_strategy", "no", "--logging_steps", 10, *self.experiment.flags)
        return self.score(output / "model", output.name)

    def score(self, model: Path, name: str) -> dict[str, Any]:
        """The scores of a model by task."""
        self.evaluate(model, self.test, self.folder / f"results/{name}")
        return read_json(self.folder / f"results/{name}/result.json")["tasks"]

    def evaluate(self, model: Path, index: Path, output: Path, *flags: object) -> None:
        """Run test.py, in the prompts that are trained."""
        paths = ["--model_name_or_path", model, "--dataset_name", index, "--output_path", output, "--resume"]
        lengths = ["--max_seq_len", MAX_LENGTH + MAX_NEW_TOKENS, "--max_new_tokens", MAX_NEW_TOKENS, "--batch", 16]
        call("test.py", "--root_dir", self.root, *paths, *lengths, *flags)

    def print_results(self, before: Mapping[str, Any], results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Print each metric of each task before and after training, as mean and standard deviation over seeds."""
        print("\n| task | held-out rows | | before |", " | ".join(results), "|")
        print("| --- | ---: | --- | ---: |", "---: | " * len(results))
        for metric in self.experiment.metrics:
            for task in self.experiment.tasks:
                cells = [spread([scores[task][metric] for scores in of_seeds]) for of_seeds in results.values()]
                first = [task, f"{before[task]['n']:,}", metric, f"{before[task][metric]:.3f}"]
                print("|", " | ".join([*first, *cells]), "|")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation.

    >>> spread([0.5, 0.6]), spread([0.5])
    ('0.550 ± 0.071', '0.500')
    """
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    run(main)
