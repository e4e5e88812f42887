"""All benchmarks that need a GPU, in less than ten minutes; benchmarks/gpu.sh runs it. Prints tables for docs/benchmarks.md.

    bash benchmarks/gpu.sh --root_dir datas/gpu --output gpu.md     the numbers
    bash benchmarks/gpu.sh --root_dir datas/gpu --quick             every section with a tiny model, also without a GPU

Sections: losses (all logits, in chunks, Liger), batches (padded, grouped, packed with flex or flash attention), sharding
(FSDP2 and ZeRO-3 on one device), evaluation (Transformers batches by prompts, by tokens), learning (stage 1 of learning.py).
A random Qwen3-0.6B is measured, on synthetic patients. The data is made in ROOT_DIR first, without a GPU (--sections data
makes only that). Every row is a process of its own: one that fails or exceeds its time is reported as such, the end of its
output is appended to OUTPUT with the suffix .log, and the others are measured all the same. Rows are written as they finish.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.progress import Summary

REPO = Path(__file__).resolve().parent.parent
TASKS = ("emar", "diagnoses_icd", "ICU_Stay_7day", "Inpatient_Mortality")
"""Tasks of the speed benchmarks: short and long inputs, short and long answers."""
CONFIGS = "scripts/accelerate_configs"
SAVING_SECONDS = 40
"""Time for a launcher to start and for sft.py to save the model, during which no step is trained."""
LEARNING_SECONDS = 190
"""Time that the sections before `learning` leave for it."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        patients: synthetic patients of the speed benchmarks.
        learning: flags of `learning.py data`.
        max_length: tokens of a sample at most.
        batch: samples per training step.
        steps: training steps; the first `warm_up` are not timed.
        batches: prompts per batch of the Transformers backend.
        rows: prompts of each task for the evaluation.
        max_new_tokens: tokens of a reply.
        learning_steps: training steps of learning.py; None: its own number.
    """

    patients: int
    learning: Sequence[object]
    max_length: int
    batch: int
    steps: int
    warm_up: int
    batches: Sequence[int]
    rows: int
    max_new_tokens: int
    learning_steps: int | None


FULL = Scale(60, (), 8192, 8, 12, 4, (1, 8, 32), 16, 32, 800)
QUICK = Scale(60, ("--patients", 60, "--rows", 12, "--test_rows", 8), 1024, 2, 3, 1, (1, 4), 4, 4, 2)


class Failure(Exception):
    """A row that could not be measured, and why."""


class Bench:
    """Runs commands until a deadline, and writes tables to standard output and to a file."""

    def __init__(self, root: Path, output: Path, scale: Scale, seconds: float, work: Path) -> None:
        self.root, self.output, self.scale, self.work = root.resolve(), output.resolve(), scale, work
        self.deadline = time.monotonic() + seconds
        self.speed, self.learning = self.root / "speed", self.root / "learning"
        self.gpu, self.model = False, self.speed / "models/tiny"

    def write(self, text: str) -> None:
        print(text, flush=True)
        with self.output.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def table(self, title: str, note: str, headers: Sequence[str]) -> None:
        """Begin a table."""
        self.write(f"\n## {title}\n\n{note}\n\n| {' | '.join(headers)} |\n| --- |{' ---: |' * (len(headers) - 1)}")

    def row(self, name: str, cells: Callable[[], Sequence[str]]) -> None:
        """Write a row: what `cells` returns, or why it failed."""
        try:
            self.write(f"| {name} | {' | '.join(cells())} |")
        except Failure as failure:
            self.write(f"| {name} | failed: {failure} |")

    def seconds_left(self, maximum: float) -> float:
        """Seconds until the deadline, but no more than a maximum."""
        return min(maximum, max(0.0, self.deadline - time.monotonic()))

    def call(self, *command: object, seconds: float = 120, env: dict[str, str] | None = None) -> str:
        """Run a Python command in the repository, and return what it prints.

        Raises:
            Failure: the command failed, or ran longer than `seconds` or the deadline.
        """
        seconds = self.seconds_left(seconds)
        if not seconds:
            raise Failure("no time left")
        arguments = [sys.executable, *map(str, command)]
        environment = {**os.environ, "PYTHONPATH": f"{REPO}:{os.environ.get('PYTHONPATH', '')}", **(env or {})}
        with (self.work / "printed.txt").open("w+", encoding="utf-8") as printed:
            streams: dict[str, Any] = {"stdout": printed, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(arguments, cwd=REPO, env=environment, start_new_session=True, **streams)
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=seconds)
            finally:
                late = process.poll() is None
                if late:
                    stop(process)
            printed.seek(0)
            text = printed.read()
        if late or process.returncode:
            with self.output.with_suffix(".log").open("a", encoding="utf-8") as file:
                file.write(f"\n$ {' '.join(arguments)}\n{text[-8000:]}\n")
            raise Failure(f"not finished after {seconds:.0f} s" if late else reason_of(text, process.returncode))
        return text

    def measure(self, what: str, *flags: object, launcher: Sequence[object] = (), **options: Any) -> dict[str, Any]:
        """Run a benchmark of gpu_run.py, and return its result."""
        result = self.work / f"{time.monotonic_ns()}.json"
        self.call(*launcher, "benchmarks/gpu_run.py", what, result, *flags, **options)
        return read_json(result)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its workers."""
    process.terminate()  # a launcher of several processes ends them, which have process groups of their own
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def reason_of(printed: str, returncode: int) -> str:
    """The last line that names an error, as text for a table's cell."""
    lines = [line.strip() for line in printed.splitlines()]
    errors = [line for line in lines if "rror: " in line and not line.startswith("torch.distributed")]
    return (errors[-1] if errors else f"exit code {returncode}").replace("|", "/")[:160]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--output", default="gpu.md", help="Markdown file for the tables, to which this run is appended")
    cli.add_argument("--quick", action="store_true", help="tiny sizes, to try every section")
    cli.add_argument("--sections", nargs="+", choices=["data", *SECTIONS], default=list(SECTIONS), help="only these (all)")
    cli.add_argument("--seconds", type=at_least(1), default=540, help="time for everything but the data (540)")
    args = cli.parse_args(argv)
    scale = QUICK if args.quick else FULL
    summary = Summary("gpu")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(args.root_dir, args.output, scale, float("inf"), Path(work))
        try:
            make_data(bench)
            end = bench.deadline = time.monotonic() + args.seconds
            device = bench.measure("device")
            bench.gpu = device["gpu"]
            if bench.gpu and not args.quick:
                bench.model = Path(work) / "model"
                bench.measure("model", bench.model, bench.speed / "models/tiny")
        except Failure as failure:
            raise UserError(f"{args.output.with_suffix('.log')}: expected the data and a model, got {failure}.") from None
        bench.write(f"{device['text']}; {'tiny' if args.quick else 'a random Qwen3-0.6B, bfloat16'}")
        for section in args.sections:
            kept_free = LEARNING_SECONDS if "learning" in args.sections and section != "learning" else 0
            bench.deadline = end - kept_free
            SECTIONS.get(section, lambda _: None)(bench)
    summary.print(f"{', '.join(args.sections)} → {args.output}")


# --- data


def make_data(bench: Bench) -> None:
    """Make the patients, index files and tokenizers of all sections, unless they are there."""
    at, indexes = ("--root_dir", bench.speed), [bench.speed / f"task_index/all/{task}.csv" for task in TASKS]
    call = partial(bench.call, seconds=60 * 60)
    if not (bench.speed / "task_index").is_dir():
        call("preprocess/synthetic_mimic.py", *at, "--patients", bench.scale.patients)
        for step in ("merge_patient", "rank", "combination", "build_index_mapping"):
            call(f"preprocess/{step}.py", *at)
        call("mimiciv_dataset/task_sample_info_gen.py", *at)
    if not bench.model.is_dir():
        call("scripts/make_tiny_model.py", *at, "--output_path", bench.model, "--samples", 100, "--dataset_name", *indexes)
    if not (bench.learning / "models/gpu/stage0").is_dir():
        call("benchmarks/learning.py", "data", "--root_dir", bench.learning, *bench.scale.learning)


# --- training


def losses(bench: Bench) -> None:
    """The loss of one sample: all logits, in chunks, Liger."""
    note = f"Forward and backward pass of one sample of {bench.scale.max_length:,} tokens. Labelled: tokens with a loss."
    headers = ["loss", "ms, 32 labelled", "peak MiB", "ms, all labelled", "peak MiB"]
    bench.table("Loss: `benchmarks/train_speed.py --loss`", note, headers)
    model = ("--model_name_or_path", bench.model) if bench.model.name == "model" else ()

    def cells(name: str) -> list[str]:
        flags = ("--dataset_name", "-", "--loss", name, "--max_length", bench.scale.max_length, *model)
        printed = bench.call("benchmarks/train_speed.py", *flags).split()[-4:]
        return [f"{float(number):,.0f}" for number in printed]

    for name in ("all logits", "in chunks", "Liger"):
        bench.row(name, partial(cells, name))


@cache
def training_run(bench: Bench, attention: str, flags: tuple[str, ...], launcher: tuple[str, ...] = ()) -> list[str]:
    """Steps, tokens per second, seconds per step, peak memory and mean loss of a run of sft.py.

    A run whose time is up ends with the steps it has done.
    """
    scale = bench.scale
    indexes = ",".join(str(bench.speed / f"task_index/all/{task}.csv") for task in TASKS)
    data = ("--root_dir", bench.speed, "--dataset_name", indexes, "--max_length", scale.max_length)
    paths = ("--model_name_or_path", bench.model, "--output_dir", tempfile.mkdtemp(dir=bench.work))
    steps = ("--max_steps", scale.steps, "--per_device_train_batch_size", scale.batch, "--logging_steps", 1)
    memory = ("--dtype", "bfloat16", "--bf16", True, "--gradient_checkpointing", True, "--attn_implementation", attention)
    others = ("--save_strategy", "no", "--report_to", "none", "--dataloader_num_workers", 8 if bench.gpu else 0)
    # DeepSpeed compiles an extension for the CPU; a compilation that exceeds its time must leave no lock in the user's cache
    env = {} if bench.gpu else {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(bench.work / "extensions")}
    limit = bench.seconds_left(150 if bench.gpu else 300)
    seconds = max(0.0, limit - SAVING_SECONDS)
    options: dict[str, Any] = {"launcher": launcher, "env": env, "seconds": limit}
    result = bench.measure("train", seconds, *data, *paths, *steps, *memory, *others, *flags, **options)
    shutil.rmtree(paths[-1])
    used, first = result["attention"], scale.warm_up - 1
    if used != attention and not ("flash" in used and "flash" in attention):
        raise Failure(f"ran with {used} instead")
    if len(result["steps"]) < first + 2:
        raise Failure(f"too slow: steps done in {seconds:.0f} s: {len(result['steps'])}")
    times, tokens, loss = zip(*result["steps"], strict=True)
    rate = (tokens[-1] - tokens[first]) / (times[-1] - times[first])
    per_step = statistics.median(after - before for before, after in pairwise(times[first:]))
    number = f"{len(times)}"
    return [number, f"{rate:,.0f}", f"{per_step:.2f}", f"{result['peak_mib']:,.0f}", f"{statistics.mean(loss):.3f}"]


TRAINING_HEADERS = ["steps", "tokens/s", "s per step (median)", "peak MiB", "mean loss"]


def batches(bench: Bench) -> None:
    """Padded, grouped and packed batches."""
    scale, flex = bench.scale, "flex_attention" if bench.gpu else "sdpa"
    timed = f"{scale.batch} samples of up to {scale.max_length:,} tokens; steps from {scale.warm_up + 1} on are timed"
    note = f"sft.py with gradient checkpointing, {timed}. Tokens are those of samples, without padding."
    bench.table("Batches", note, ["batches", "attention", *TRAINING_HEADERS])
    flash = "flash_attention_2" if find_spec("flash_attn") else "kernels-community/flash-attn2"
    variants = [
        ("padded", "sdpa", ("--length_grouping", "False")),
        ("grouped by length", "sdpa", ("--length_grouping", "True")),
        ("packed", flex, ("--packing", "True")),
        ("packed", flash, ("--packing", "True")),
    ]
    for name, attention, flags in variants:
        missing = attention == flash and not (bench.gpu and (find_spec("flash_attn") or find_spec("kernels")))
        measure = partial(training_run, bench, attention, flags)
        bench.row(f"{name} | {attention}", (lambda: ["not installed"]) if missing else measure)


def sharding(bench: Bench) -> None:
    """FSDP2 and ZeRO-3 on one device, with the configurations of this repository."""
    note = "Grouped batches as above. On one device there is nothing to shard: the rows show that it runs, and its overhead."
    bench.table("FSDP2 and ZeRO-3 on one device", note, ["configuration", *TRAINING_HEADERS])
    grouped = ("sdpa", ("--length_grouping", "True"))
    launch = ("-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1", "--config_file")
    launchers = {"one process": ()} | {name: (*launch, f"{CONFIGS}/{name}.yaml") for name in ("fsdp2", "deepspeed_zero3")}
    for name, launcher in launchers.items():
        bench.row(name, partial(training_run, bench, *grouped, launcher))


# --- evaluation


def evaluation(bench: Bench) -> None:
    """Batches of the Transformers backend: by a number of prompts, and by tokens."""
    scale = bench.scale
    tasks = {"Inpatient_Mortality": "p(yes)", "emar": f"{scale.max_new_tokens} new tokens"}
    note = f"The prompts of test.py, {scale.rows} of each task; samples/s without loading the model."
    bench.table("Transformers backend", note, ["flags", *(f"{kind}, samples/s" for kind in tasks.values()), "peak MiB"])
    indexes = ",".join(str(bench.speed / f"task_index/all/{task}.csv") for task in tasks)
    data = ("--root_dir", bench.speed, "--dataset_name", indexes, "--output_path", bench.work)
    limits = ("--max_seq_len", scale.max_length, "--max_new_tokens", scale.max_new_tokens)

    def cells(flags: Sequence[object]) -> list[str]:
        result = bench.measure("evaluate", scale.rows, *data, *limits, "--model_name_or_path", bench.model, *flags)
        rates = [f"{result['samples_per_second'][task]:.1f}" for task in tasks]
        return [*rates, f"{result['peak_mib']:,.0f}"]

    batch_sizes = [("--batch", size, "--max_batch_tokens", 1_000_000) for size in scale.batches]
    for flags in [*batch_sizes, ("--batch", 256, "--max_batch_tokens", 4 * scale.max_length)]:
        bench.row(" ".join(map(str, flags)), partial(cells, flags))


# --- learning


def learning(bench: Bench) -> None:
    """Stage 1 of learning.py, trained anew, and its scores."""
    size, steps = "gpu" if bench.gpu else "cpu", bench.scale.learning_steps
    flags = ("--root_dir", bench.learning, "--size", size)
    for folder in ("models", "results"):
        shutil.rmtree(bench.learning / f"{folder}/{size}/stage1", ignore_errors=True)
    bench.write(f"\n## Does it learn: `benchmarks/learning.py --size {size}`\n\nStage 1, {steps:,} steps.\n")
    try:
        printed = bench.call("benchmarks/learning.py", "stage1", *flags, "--max_steps", steps, seconds=300)
        bench.write(bench.call("benchmarks/learning.py", "table", *flags).strip())
        bench.write("\n" + printed.strip().splitlines()[-1])
    except Failure as failure:
        bench.write(f"failed: {failure}")


SECTIONS = {"losses": losses, "batches": batches, "sharding": sharding, "evaluation": evaluation, "learning": learning}


if __name__ == "__main__":
    run(main)
