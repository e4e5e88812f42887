"""Does a model learn? Train a small model in three stages on synthetic patients, and score each stage on held-out patients.

    python benchmarks/learning.py data --root_dir datas/learning      patients, samples, untrained models; no GPU needed
    python benchmarks/learning.py stage1 --root_dir datas/learning    train and score; then stage2, stage3
    python benchmarks/learning.py curve --root_dir datas/learning     score the checkpoints of stage 1, run the baselines
    python benchmarks/learning.py table --root_dir datas/learning     the scores so far, next to chance, LR and the optimum

All steps run the published commands; finished parts are not repeated. --size cpu takes two hours on two cores; --size gpu
is a model of 20-50 million parameters, also trained from random weights, and each stage takes less than ten minutes on one
GPU. Samples are of emergency visits of patients without an earlier discharge: their inputs are short enough for a small model
to learn from.

Each risk label of the synthetic patients depends on at least three events of different tables (docs/synthetic.md). Chance is
the majority baseline; LR is logistic regression on counts of events and items, from the same training rows; the goal is
0.5 + (LR - 0.5) / 2; the optimum is the AUROC of the probabilities that the labels were drawn with.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cli import Parser, at_least, run
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary
from pipeline.work import usable_cpus

REPO = Path(__file__).resolve().parent.parent
RISK = ("ED_Hospitalization", "ED_ICU_Tranfer_12hour", "ED_Reattendance_3day")
DECISION = ("diagnosis", "diagnosis_ccs")
MAX_LENGTH, MAX_NEW_TOKENS = 1200, 128
"""Tokens of a sample, and of a reply. Longer inputs lose their oldest events."""
CHECKPOINTS = 10
SCORED = ["stage0/baselines/majority", "stage0/baselines/logistic_regression", "stage0", "stage1", "stage2", "stage3"]
"""Directories of scores below results/SIZE, in the order of the table's columns."""
METRIC_NAMES = {"auroc": "AUROC", "f1": "F1"}


@dataclass(frozen=True)
class Size:
    """Flags that decide the size of the model and how it is trained.

    Attributes:
        model: flags of make_tiny_model.py.
        common: flags of sft.py and grpo.py.
        stages: further flags of sft.py (stages 1 and 2) and grpo.py (stage 3).
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
}


@dataclass(frozen=True)
class DataSettings:
    """Number of synthetic patients, and of rows per task at most; see the flags."""

    patients: int
    rows: int
    test_rows: int


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument(
        "step", choices=["data", "stage1", "stage2", "stage3", "curve", "table"], help="what to do, in this order"
    )
    cli.add_argument("--size", choices=SIZES, default="cpu", help="size of the model (cpu)")
    cli.add_argument("--patients", type=at_least(1), default=5000, help="data: synthetic patients (5000)")
    cli.add_argument("--rows", type=at_least(1), default=4500, help="data: maximal training rows per task (4500)")
    help_text = "data: maximal held-out rows per risk task (1000); a quarter of that per decision task"
    cli.add_argument("--test_rows", type=at_least(4), default=1000, help=help_text)
    cli.add_argument("--max_steps", type=at_least(1), help="stages: number of training steps, to try the benchmark")
    args = cli.parse_args(argv)
    root = args.root_dir.resolve()
    if args.step == "data":
        make_data(root, DataSettings(args.patients, args.rows, args.test_rows))
    elif args.step == "curve":
        score_checkpoints(root, args.size)
    elif args.step == "table":
        print_results(root, args.size)
    else:
        train_stage(root, args.size, int(args.step[-1]), args.max_steps)


def call(*command: object) -> None:
    """Run one of our commands."""
    subprocess.run([sys.executable, *map(str, command)], cwd=REPO, check=True)


# --- data


def make_data(root: Path, settings: DataSettings) -> None:
    """Make patients, trajectories, the task index, the training and test rows, template chains, and the untrained models."""
    at = ("--root_dir", root)
    if not (root / "task_index/all").is_dir():
        call("preprocess/synthetic_mimic.py", *at, "--patients", settings.patients)
        for step in ("merge_patient", "rank", "combination"):
            call(f"preprocess/{step}.py", *at)
        call("preprocess/split_patients.py", *at, "--ehr_dir", root / "patients_ehr", "--test_ratio", 0.3)
        call("preprocess/build_index_mapping.py", *at, "--mimic_dir", root / "mimiciv")
        call("mimiciv_dataset/task_sample_info_gen.py", *at)
    choose_rows(root, settings.rows, settings.test_rows)
    chains = root / "train_chains.csv"
    if not chains.exists():
        call("scripts/make_template_reasoning.py", root / "train.csv", *at, "--output_path", chains, "--events", 1, "--first")
    for size, flags in SIZES.items():
        model = root / f"models/{size}/stage0"
        if not model.is_dir():
            tokenizer = ("--dataset_name", chains, "--samples", 1500, "--vocab_size", 8192, "--long_tokens")
            call("scripts/make_tiny_model.py", *at, "--output_path", model, *tokenizer, *flags.model)


def choose_rows(root: Path, rows: int, test_rows: int) -> None:
    """Write train.csv and test.csv, of training and held-out patients, and the optimum of the latter."""
    import numpy as np

    from evaluation.baselines import is_positive
    from evaluation.metrics import as_number, auroc
    from evaluation.synthetic_truth import read_outcomes, rows_of, with_outcomes

    summary = Summary("learning data")
    outcomes = read_outcomes(root / "mimiciv")
    held_out = {row["subject_id"] for row in rows_of(root / "patient_data/test.csv")}
    train, test, optimum = [], [], {}
    for task in (*RISK, *DECISION):
        train_rows, held_out_rows = [], []
        for row, drawn in with_outcomes(rows_of(root / f"task_index/all/{task}.csv"), outcomes.get(task, {})):
            if not row["last_discharge_id"] and (task in RISK or not row["admissions_id"]):
                (held_out_rows if row["subject_id"] in held_out else train_rows).append((row, drawn))
        train += [row for row, _ in evenly_spaced(train_rows, rows)]
        held_out_rows = evenly_spaced(held_out_rows, test_rows if task in RISK else test_rows // 4)
        test += [row for row, _ in held_out_rows]
        if task in RISK:
            labels, probabilities = zip(*((is_positive(row), drawn.probability) for row, drawn in held_out_rows), strict=True)
            optimum[task] = as_number(auroc(np.array(labels), np.array(probabilities))[0])
    write_json(root / "optimum.json", optimum)
    write_rows(root / "train.csv", train)
    write_rows(root / "test.csv", test)
    write_rows(root / "test_risk.csv", [row for row in test if row["task"] in RISK])
    summary.print(f"{len(train):,} training rows, {len(test):,} held-out rows, of {len(RISK) + len(DECISION)} tasks → {root}")


def evenly_spaced(rows: Sequence[Any], maximum: int) -> list[Any]:
    """At most `maximum` of the rows, evenly spaced."""
    step = max(1.0, len(rows) / maximum)
    return [rows[int(number * step)] for number in range(min(maximum, len(rows)))]


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as a CSV file."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- training and scoring


def train_stage(root: Path, size: str, number: int, max_steps: int | None) -> None:
    """Train stage `number` from the model of the stage before it, and score it on the held-out rows."""
    flags, models = SIZES[size], root / f"models/{size}"
    previous, output = models / f"stage{number - 1}", models / f"stage{number}"
    require(previous / "config.json", f"the model of stage {number - 1}", "run the previous step")
    common = ["--root_dir", root, "--model_name_or_path", previous, "--output_dir", output, "--report_to", "none"]
    common += ["--logging_steps", 10, "--gradient_checkpointing", False, "--warmup_steps", 0.03, "--seed", 0]
    common += [*flags.common, *flags.stages[number - 1], *(["--max_steps", max_steps] if max_steps else [])]
    sft = [
        "sft.py",
        *common,
        "--max_length",
        MAX_LENGTH,
        "--load_dataset_mode",
        "direct",
        "--dataset_num_proc",
        usable_cpus(),
    ]
    checkpoints = ["--save_strategy", "steps", "--save_steps", 1 / CHECKPOINTS]
    start = time.perf_counter()
    if (output / "config.json").exists():
        print(f"{output} is already trained")
    elif number == 1:
        call(*sft, "--dataset_name", root / "train.csv", *checkpoints)
    elif number == 2:
        call(*sft, "--dataset_name", root / "train_chains.csv", "--save_strategy", "no")
    else:
        lengths = ["--max_prompt_length", MAX_LENGTH, "--max_completion_length", MAX_NEW_TOKENS]
        call("grpo.py", *common, "--dataset_name", root / "train.csv", "--save_strategy", "no", *lengths)
    trained = time.perf_counter()
    score(root, size, output, f"stage{number}", "test.csv", *(["--think_prompt"] if number > 1 else []))
    print(f"stage {number}: trained in {trained - start:.0f} s, scored in {time.perf_counter() - trained:.0f} s")


def score_checkpoints(root: Path, size: str) -> None:
    """Score the untrained model, the baselines and the checkpoints of stage 1."""
    score(root, size, root / f"models/{size}/stage0", "stage0", "test.csv")
    training = ["--train_index", root / "train.csv", "--max_train", 100_000]
    baselines = ["--baselines", "majority", "logistic_regression"]
    call("-m", "evaluation.baselines", root / f"results/{size}/stage0", "--root_dir", root, *training, *baselines)
    for checkpoint in sorted((root / f"models/{size}/stage1").glob("checkpoint-*")):
        score(root, size, checkpoint, f"curve/{checkpoint.name}", "test_risk.csv")


def score(root: Path, size: str, model: Path, name: str, index: str, *flags: object) -> None:
    """Evaluate a model on an index in ROOT, with results in ROOT/results/SIZE/NAME."""
    paths = ["--model_name_or_path", model, "--output_path", root / f"results/{size}/{name}", "--dataset_name", root / index]
    lengths = ["--max_seq_len", MAX_LENGTH + MAX_NEW_TOKENS, "--max_new_tokens", MAX_NEW_TOKENS]
    call("test.py", "--root_dir", root, *paths, "--resume", *lengths, *SIZES[size].score, *flags)


# --- the table and the curves


def print_results(root: Path, size: str) -> None:
    """Print the table of stages, with empty cells for steps that have not run, and plot the curves of stage 1."""
    files = [root / f"results/{size}/{name}/result.json" for name in SCORED]
    require(files[SCORED.index("stage1")], "the scores of stage 1", "run stage1")
    optimum = read_json(root / "optimum.json")
    majority, regression, *stages = [read_json(file)["tasks"] if file.exists() else {} for file in files]
    print("| task | held-out rows | | chance | LR | goal | untrained | stage 1 | stage 2 | stage 3 | optimum |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for task in (*RISK, *DECISION):
        metric = "auroc" if task in RISK else "f1"
        linear, best = (regression if task in RISK else {}).get(task, {}), optimum.get(task)
        goal = "" if linear.get("auroc") is None else f"{goal_of(linear['auroc']):.3f}"
        cells = [task, f"{stages[1][task]['n']:,}", METRIC_NAMES[metric], with_interval(majority.get(task, {}), metric)]
        cells += [with_interval(linear, metric), goal, *(with_interval(tasks.get(task, {}), metric) for tasks in stages)]
        print("|", " | ".join([*cells, "" if best is None else f"{best:.3f}"]), "|")
    if regression and (root / f"results/{size}/curve").is_dir():
        plot(root, size, {task: regression[task]["auroc"] for task in RISK}, optimum)


def with_interval(scores: Mapping[str, Any], metric: str) -> str:
    """A score with its interval, which too few samples do not have."""
    if scores.get(metric) is None:
        return ""
    if scores[f"{metric}_ci"] is None:
        return f"{scores[metric]:.3f} (too few)"
    low, high = scores[f"{metric}_ci"]
    return f"{scores[metric]:.3f} ({low:.2f}–{high:.2f})"


def goal_of(linear: float) -> float:
    """Half of the AUROC of logistic regression beyond chance."""
    return 0.5 + (linear - 0.5) / 2


def plot(root: Path, size: str, linear: Mapping[str, float], optimum: Mapping[str, float | None]) -> None:
    """Write ROOT/learning_SIZE.svg: training loss and held-out AUROC by step of stage 1."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    stage1, results = root / f"models/{size}/stage1", root / f"results/{size}"
    history = [entry for entry in read_json(stage1 / "trainer_state.json")["log_history"] if "loss" in entry]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot([entry["step"] for entry in history], [float(entry["loss"]) for entry in history], color="0.3", linewidth=0.8)
    left.set(xlabel="step of stage 1", ylabel="training loss, nats per answer token", yscale="log")
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
