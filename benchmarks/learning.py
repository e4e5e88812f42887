"""Does a model learn? From synthetic patients through three stages of training, each scored on held-out patients.

    python benchmarks/learning.py data --root_dir datas/learning      patients, samples, untrained models; no GPU needed
    python benchmarks/learning.py stage1 --root_dir datas/learning    train and score; then stage2, stage3
    python benchmarks/learning.py curve --root_dir datas/learning     stage 1's checkpoints, and the baselines
    python benchmarks/learning.py table --root_dir datas/learning     all of it beside chance, LR and the optimum

All through the real command lines. --size cpu is for two cores and two hours; --size gpu is a model of 20-50 million
parameters, from scratch as well, and each stage under ten minutes of one GPU. Samples are of emergency visits of patients
without an earlier discharge: short records, so that a small model can learn from nothing. What is done is not done again.

Risk labels of the synthetic patients depend each on at least three events of different tables (docs/synthetic.md). Chance is
the majority baseline; LR is logistic regression on counts of events and items, from the same training rows; the goal is
0.5 + (LR - 0.5) / 2; the optimum is the AUROC of the probabilities that the labels were drawn with.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import csv
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cli import Parser, run
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary

REPO = Path(__file__).resolve().parent.parent
RISK = ("ED_Hospitalization", "ED_ICU_Tranfer_12hour", "ED_Reattendance_3day")
DECISION = ("diagnosis", "diagnosis_ccs")
LONGEST = 1200
"""Tokens of a sample; longer ones lose their oldest events."""


LONGEST_ANSWER = 128
CHECKPOINTS = 10
NAMES = {"auroc": "AUROC", "f1": "F1"}


@dataclass(frozen=True)
class Size:
    """A model and how long it is trained.

    Attributes:
        model: flags of make_tiny_model.py.
        common: flags of sft.py and grpo.py.
        stages: more of them for stage 1, 2, 3.
        score: flags of test.py.
    """

    model: Sequence[object]
    common: Sequence[object]
    stages: Sequence[Sequence[object]]
    score: Sequence[object]


SIZES = {
    "cpu": Size(
        model=["--hidden_size", 64, "--layers", 2, "--heads", 2],
        common=["--bf16", False],
        stages=[
            ["--per_device_train_batch_size", 16, "--num_train_epochs", 6, "--learning_rate", 3e-3, "--weight_decay", 0.1],
            ["--per_device_train_batch_size", 16, "--num_train_epochs", 1.5, "--learning_rate", 1e-3, "--weight_decay", 0.1],
            ["--per_device_train_batch_size", 32, "--num_generations", 8, "--max_steps", 60, "--learning_rate", 1e-4],
        ],
        score=["--batch", 1],
    ),
    "gpu": Size(
        model=["--hidden_size", 512, "--layers", 8, "--heads", 8, "--kv_heads", 4, "--head_dim", 64],
        common=["--bf16", True, "--dtype", "float32", "--dataloader_num_workers", 4],
        stages=[
            ["--per_device_train_batch_size", 32, "--num_train_epochs", 4, "--learning_rate", 6e-4],
            ["--per_device_train_batch_size", 32, "--num_train_epochs", 2, "--learning_rate", 3e-4],
            ["--per_device_train_batch_size", 128, "--num_generations", 8, "--max_steps", 100, "--learning_rate", 3e-5],
        ],
        score=["--batch", 64, "--dtype", "bfloat16"],
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.formatter_class = argparse.RawDescriptionHelpFormatter
    cli.add_argument("step", choices=["data", "stage1", "stage2", "stage3", "curve", "table"])
    cli.add_argument("--size", choices=SIZES, default="cpu")
    cli.add_argument("--patients", type=int, default=5000, help="data: synthetic patients (5000)")
    cli.add_argument("--rows", type=int, default=4500, help="data: training rows of a task at most (4500)")
    cli.add_argument("--test_rows", type=int, default=1000, help="data: held-out rows of a risk task at most (1000); of a "
                     "decision task a quarter of that")  # fmt: skip
    cli.add_argument("--max_steps", type=int, help="stages: only so many steps, to see that all runs")
    args = cli.parse_args(argv)
    root = Path(args.root_dir).resolve()
    if args.step == "data":
        data(root, args)
    elif args.step == "curve":
        curve(root, args.size)
    elif args.step == "table":
        table(root, args.size)
    else:
        stage(root, args.size, int(args.step[-1]), args.max_steps)


def call(*words: object) -> None:
    """Run one of our commands."""
    subprocess.run([sys.executable, *map(str, words)], cwd=REPO, check=True)


# --- data


def data(root: Path, args: argparse.Namespace) -> None:
    """Patients, trajectories, the task index, the rows used of it, chains by a template, and the untrained models."""
    at = ("--root_dir", root)
    if not (root / "task_index/all").is_dir():
        call("preprocess/synthetic_mimic.py", *at, "--patients", args.patients)
        for command in ("merge_patient", "rank", "combination"):
            call(f"preprocess/{command}.py", *at)
        call("preprocess/split_patients.py", *at, "--ehr_dir", root / "patients_ehr", "--test_ratio", 0.3)
        call("preprocess/build_index_mapping.py", *at, "--mimic_dir", root / "mimiciv")
        call("mimiciv_dataset/task_sample_info_gen.py", *at)
    choose_rows(root, args.rows, args.test_rows)
    chains = root / "train_chains.csv"
    if not chains.exists():
        call("scripts/make_template_reasoning.py", root / "train.csv", *at, "--output_path", chains, "--events", 1, "--first")
    for size, flags in SIZES.items():
        model = root / f"models/{size}/stage0"
        if not model.is_dir():
            call("scripts/make_tiny_model.py", *at, "--output_path", model, "--dataset_name", chains, "--samples", 1500,
                 "--vocab_size", 8192, "--long_tokens", *flags.model)  # fmt: skip


def choose_rows(root: Path, rows: int, test_rows: int) -> None:
    """Write train.csv and test.csv, of training and held-out patients, and the optimum on the latter."""
    import numpy as np

    from evaluation.baselines import is_positive
    from evaluation.metrics import auroc

    summary = Summary("learning data")
    chances = probabilities(root / "mimiciv/synthetic_truth.csv")
    held_out = {row["subject_id"] for row in rows_of(root / "patient_data/test.csv")}
    train, test, optimum = [], [], {}
    for task in (*RISK, *DECISION):
        known, asked = [], []
        for row, chance in with_chances(rows_of(root / f"task_index/all/{task}.csv"), chances[task]):
            if not row["last_discharge_id"] and (task in RISK or not row["admissions_id"]):
                (asked if row["subject_id"] in held_out else known).append((row, chance))
        train += [row for row, _ in thinned(known, rows)]
        asked = thinned(asked, test_rows if task in RISK else test_rows // 4)
        test += [row for row, _ in asked]
        if task in RISK:
            labels, at_best = zip(*((is_positive(row), chance) for row, chance in asked), strict=True)
            optimum[task] = auroc(np.array(labels), np.array(at_best))
    write_json(root / "optimum.json", optimum)
    write_rows(root / "train.csv", train)
    write_rows(root / "test.csv", test)
    write_rows(root / "test_risk.csv", [row for row in test if row["task"] in RISK])
    summary.print(f"{len(train):,} rows to train on, {len(test):,} held out, of {len(RISK) + len(DECISION)} tasks → {root}")


def probabilities(path: Path) -> dict[str, dict[str, list[float]]]:
    """Of the truth: task → subject_id → the probabilities of yes at the patient's emergency visits, in their order."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(path):
        found[row["task"]][row["subject_id"]].append(float(row["probability"]))
    return found


def with_chances(
    rows: Iterable[dict[str, str]], chances: Mapping[str, Sequence[float]]
) -> Iterator[tuple[dict[str, str], float]]:
    """Each row with the probability its label was drawn with: both stand in the order of the patient's visits."""
    seen: Counter[str] = Counter()
    for row in rows:
        patient = row["subject_id"]
        yield row, chances[patient][seen[patient]] if chances else 0.0
        seen[patient] += 1


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the rows, evenly spread."""
    step = max(1.0, len(rows) / most)
    return [rows[int(number * step)] for number in range(min(most, len(rows)))]


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- training and scoring


def stage(root: Path, size: str, number: int, max_steps: int | None) -> None:
    """Train one stage from the one before it, and score it, and stage 1's checkpoints too, on the held-out rows."""
    flags, models = SIZES[size], root / f"models/{size}"
    before, output = models / f"stage{number - 1}", models / f"stage{number}"
    require(before / "config.json", f"the model of stage {number - 1}", "run the step before this one")
    common = ["--root_dir", root, "--model_name_or_path", before, "--output_dir", output, "--report_to", "none",
              "--logging_steps", 10, "--gradient_checkpointing", False, "--warmup_steps", 0.03, "--seed", 0,
              *flags.common, *flags.stages[number - 1], *(["--max_steps", max_steps] if max_steps else [])]  # fmt: skip
    sft = ["sft.py", *common, "--max_length", LONGEST, "--load_dataset_mode", "direct", "--dataset_num_proc", 2]
    keep = ["--save_strategy", "steps", "--save_steps", 1 / CHECKPOINTS]
    start = time.perf_counter()
    if (output / "config.json").exists():
        print(f"{output} is trained already")
    elif number == 1:
        call(*sft, "--dataset_name", root / "train.csv", *keep)
    elif number == 2:
        call(*sft, "--dataset_name", root / "train_chains.csv", "--save_strategy", "no")
    else:
        call("grpo.py", *common, "--dataset_name", root / "train.csv", "--save_strategy", "no",
             "--max_prompt_length", LONGEST, "--max_completion_length", LONGEST_ANSWER)  # fmt: skip
    trained = time.perf_counter()
    score(root, size, output, f"stage{number}", "test.csv", *(["--think_prompt"] if number > 1 else []))
    print(f"stage {number}: trained in {trained - start:.0f} s, scored in {time.perf_counter() - trained:.0f} s")


def curve(root: Path, size: str) -> None:
    """Score the untrained model and the checkpoints of stage 1, and run the baselines."""
    score(root, size, root / f"models/{size}/stage0", "stage0", "test.csv")
    for checkpoint in sorted((root / f"models/{size}/stage1").glob("checkpoint-*")):
        score(root, size, checkpoint, f"curve/{checkpoint.name}", "test_risk.csv")
    call("-m", "evaluation.baselines", root / f"results/{size}/stage1", "--train_index", root / "train.csv",
         "--max_train", 100_000, "--baselines", "majority", "logistic_regression")  # fmt: skip


def score(root: Path, size: str, model: Path, name: str, file: str, *more: object) -> None:
    call("test.py", "--root_dir", root, "--model_name_or_path", model, "--output_path", root / f"results/{size}/{name}",
         "--resume", "--dataset_name", root / file, "--max_seq_len", LONGEST + LONGEST_ANSWER,
         "--max_new_tokens", LONGEST_ANSWER, *SIZES[size].score, *more)  # fmt: skip


# --- the table and the curves


def table(root: Path, size: str) -> None:
    """Print the table of stages, and draw the curves of stage 1."""
    results = root / f"results/{size}"
    optimum = read_json(root / "optimum.json")
    names = ["baselines/majority", "baselines/logistic_regression", "stage0", "stage1", "stage2", "stage3"]
    folders = [results / (f"stage1/{name}" if "/" in name else name) for name in names]
    found = [read_json(folder / "result.json")["tasks"] if folder.is_dir() else {} for folder in folders]
    print("| task | held-out rows | | chance | LR | goal | untrained | stage 1 | stage 2 | stage 3 | optimum |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for task in (*RISK, *DECISION):
        metric = "auroc" if task in RISK else "f1"
        chance, linear, *stages = [shown(tasks.get(task, {}), metric) for tasks in found]
        at_best, goal = "", ""
        if task in RISK and optimum[task] is not None:
            at_best, goal = f"{optimum[task]:.3f}", f"{goal_of(found[1][task]['auroc']):.3f}"
        rows = found[3][task]["n"]
        print("|", " | ".join([task, f"{rows:,}", NAMES[metric], chance, linear if goal else "", goal, *stages, at_best]), "|")
    draw(root, size, {task: found[1][task]["auroc"] for task in RISK}, optimum)


def shown(measured: Mapping[str, Any], metric: str) -> str:
    """A figure with its interval."""
    if measured.get(metric) is None:
        return ""
    low, high = measured[f"{metric}_ci"] or (measured[metric],) * 2
    return f"{measured[metric]:.3f} ({low:.2f}–{high:.2f})"


def goal_of(linear: float) -> float:
    """Half of what logistic regression knows beyond chance."""
    return 0.5 + (linear - 0.5) / 2


def draw(root: Path, size: str, linear: Mapping[str, float], optimum: Mapping[str, float | None]) -> None:
    """ROOT/learning_SIZE.svg: training loss and held-out AUROC by step of stage 1."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    stage1, results = root / f"models/{size}/stage1", root / f"results/{size}"
    history = [entry for entry in read_json(stage1 / "trainer_state.json")["log_history"] if "loss" in entry]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot([entry["step"] for entry in history], [float(entry["loss"]) for entry in history], color="0.3", linewidth=0.8)
    left.set(xlabel="step of stage 1", ylabel="training loss, nats an answer token", yscale="log")
    points = {0: results / "stage0"} | {int(path.name.split("-")[1]): path for path in (results / "curve").iterdir()}
    for task, colour in zip(RISK, ("#0072b2", "#d55e00", "#009e73"), strict=True):
        aurocs = {step: read_json(points[step] / "result.json")["tasks"][task]["auroc"] for step in sorted(points)}
        right.plot(aurocs.keys(), aurocs.values(), marker="o", markersize=3, color=colour, label=task)
        if optimum[task] is None:
            continue
        for value, style in ((goal_of(linear[task]), ":"), (linear[task], "--"), (optimum[task], "-.")):
            right.axhline(value, color=colour, linestyle=style, linewidth=0.7)
    right.set(xlabel="step of stage 1", ylabel="held-out AUROC", ylim=(0.4, 1))
    right.legend(fontsize=8, loc="lower right", title="dotted: goal, dashed: LR, dash-dot: optimum", title_fontsize=7)
    with atomic_path(root / f"learning_{size}.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    print(f"curves: {root / f'learning_{size}.svg'}")


if __name__ == "__main__":
    run(main)
