"""Training: how much of a step is useful tokens, tokens a second and peak memory of padded, grouped and packed batches, and
how fast one dataloader worker makes long samples.

Runs sft.py itself, the ways in turn, on rows of --dataset_name (records of real length distribution); without
--model_name_or_path a small random model is made on the spot, whose seconds say nothing of a real one. On a GPU add
--attn_implementation kernels-community/flash-attn2 and --bf16 True. Unknown flags go to sft.py.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mimiciv_dataset.commands import parser, read_json, require, run

REPO = Path(__file__).resolve().parent.parent
WAYS = {
    "padded": ["--length_grouping", "False"],
    "grouped by length": ["--length_grouping", "True"],
    "packed": ["--packing", "True"],
}


def main(argv: Sequence[str] | None = None) -> None:
    cli = parser(__doc__)
    cli.add_argument("--dataset_name", required=True, help="index files with commas between")
    cli.add_argument("--model_name_or_path", help="Hub id or local folder (a small random model)")
    cli.add_argument("--max_length", type=int, default=8192)
    cli.add_argument("--batch", type=int, default=8)
    cli.add_argument("--steps", type=int, default=8)
    cli.add_argument("--rounds", type=int, default=3)
    ours, flags = cli.parse_known_args(argv)
    for file in ours.dataset_name.split(","):
        require(file, "an index CSV", "make one with mimiciv_dataset/data_index_gen.py")
    with tempfile.TemporaryDirectory() as folder:
        model = ours.model_name_or_path or small_model(Path(folder) / "model", ours.root_dir, ours.dataset_name.split(","))
        shares = useful_shares(ours, model)
        found = {way: [train(ours, model, WAYS[way], flags, Path(folder)) for _ in range(ours.rounds)] for way in WAYS}
        print(f"batch {ours.batch}, --max_length {ours.max_length:,}, {ours.steps} steps, medians of {ours.rounds}\n")
        print("| batches | useful tokens of a step | tokens/s | peak MiB |\n| --- | ---: | ---: | ---: |")
        for way, runs in found.items():
            rate, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| {way} | {shares[way]:.1%} | {rate:,.0f} | {peak:,.0f} |")
        rate, tokens = worker_rate(ours, model)
        print(f"\none dataloader worker: {rate:.1f} samples/s of {tokens:,.0f} tokens")


def small_model(folder: Path, root_dir: str, files: Sequence[str]) -> str:
    words = [sys.executable, REPO / "scripts/make_tiny_model.py", "--root_dir", root_dir, "--output_path", folder,
             "--samples", 200, "--dataset_name", *files]  # fmt: skip
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(folder)


def samples_of(ours, model: str):
    from evaluation.backends import load_tokenizer
    from training.samples import Source, TokenSamples

    return TokenSamples(Source(ours.root_dir, ours.dataset_name.split(","), load_tokenizer(model), ours.max_length))


def useful_shares(ours, model: str) -> dict[str, float]:
    """Tokens of samples by tokens of the batches they become, over the first 50 batches of an epoch."""
    from training.order import grouped_by_length, shuffled

    samples = samples_of(ours, model)
    guess = samples.source.lengths()
    mixed = shuffled(len(samples.source), 42, 0)
    orders = {"padded": mixed, "grouped by length": grouped_by_length(mixed, guess, ours.batch, 42, 0)}
    shares = {"packed": 1.0}  # one sequence after another: no padding token at all
    for way, order in orders.items():
        useful = total = 0
        for start in range(0, min(len(order), 50 * ours.batch) - ours.batch + 1, ours.batch):
            lengths = [len(samples.sample(int(index))["input_ids"]) for index in order[start : start + ours.batch]]
            useful, total = useful + sum(lengths), total + ours.batch * max(lengths)
        shares[way] = useful / total
    return shares


def train(ours, model: str, way: Sequence[str], flags: Sequence[str], folder: Path) -> tuple[float, float]:
    """Tokens a second of the training loop, and the process's peak memory in MiB, of one run of sft.py."""
    output = folder / "out"
    words = [sys.executable, REPO / "sft.py", "--root_dir", ours.root_dir, "--dataset_name", ours.dataset_name,
             "--model_name_or_path", model, "--output_dir", output, "--max_length", ours.max_length, "--max_steps", ours.steps,
             "--per_device_train_batch_size", ours.batch, "--save_strategy", "no", "--report_to", "none", "--logging_steps", 1,
             "--load_dataset_mode", "direct", "--bf16", "False", *way, *flags]  # fmt: skip
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    history = read_json(output / "trainer_state.json")["log_history"]
    tokens = max(entry.get("num_tokens", 0) for entry in history)
    seconds = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    return tokens / seconds, float(re.search(r"peak memory ([\d,]+) MiB", done.stdout)[1].replace(",", ""))


def worker_rate(ours, model: str) -> tuple[float, float]:
    """Samples a second that one worker renders and tokenises, of the longest rows; their mean tokens."""
    samples = samples_of(ours, model)
    guess = samples.source.lengths()
    longest = sorted(range(len(guess)), key=lambda index: -guess[index])[:60]
    samples.sample(longest[0])
    start = time.perf_counter()
    tokens = [len(samples.sample(index)["input_ids"]) for index in longest]
    return len(longest) / (time.perf_counter() - start), statistics.mean(tokens)


if __name__ == "__main__":
    run(main)
