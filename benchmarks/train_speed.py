"""Training: useful tokens of a step, tokens a second and peak memory of padded, grouped and packed batches, of samples made
ahead and on the way, and of the loss with all logits and in chunks; and how fast one dataloader worker makes long samples.

Runs sft.py itself, the ways in turn, on rows of --dataset_name (records of real length distribution); without
--model_name_or_path a small random model is made on the spot, whose seconds say nothing of a real one. On a GPU add
--attn_implementation kernels-community/flash-attn2 and --bf16 True. On a CPU packed batches need a mask of tokens × tokens:
take a short --max_length there, and --steps 0 to see useful tokens and the worker alone at the full one. Unknown flags go to
sft.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence

from pipeline.cli import Parser, run
from pipeline.files import read_json, require

REPO = Path(__file__).resolve().parent.parent
AHEAD = ["--load_dataset_mode", "direct"]
WAYS = {
    "padded": [*AHEAD, "--length_grouping", "False"],
    "grouped by length": [*AHEAD, "--length_grouping", "True"],
    "packed": [*AHEAD, "--packing", "True"],
    "grouped, samples made by 1 worker": ["--load_dataset_mode", "lazzy", "--dataloader_num_workers", "1"],
}
VOCABULARY, ANSWER = 151_936, 32
"""Of the loss's comparison: Qwen3's vocabulary, and the tokens of a sample that have a label."""


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, help="index files with commas between")
    cli.add_argument("--model_name_or_path", help="Hub id or local folder (a small random model)")
    cli.add_argument("--max_length", type=int, default=8192)
    cli.add_argument("--batch", type=int, default=8)
    cli.add_argument("--steps", type=int, default=8, help="of each way (8); 0: only what needs no training")
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--loss", choices=LOSSES, help=argparse.SUPPRESS)  # a process of its own, for its peak memory
    ours, flags = cli.parse_known_args(argv)
    if ours.loss:
        return print(*loss_of(ours))
    for file in ours.dataset_name.split(","):
        require(file, "an index CSV", "make one with mimiciv_dataset/data_index_gen.py")
    with tempfile.TemporaryDirectory() as folder:
        model = ours.model_name_or_path or small_model(Path(folder) / "model", ours.root_dir, ours.dataset_name.split(","))
        shares, length = useful_shares(ours, model)
        print(f"batch {ours.batch}, --max_length {ours.max_length:,}, {length:,.0f} tokens a sample, {ours.steps} steps, "
              f"medians of {ours.rounds}\n")  # fmt: skip
        print("| batches | useful tokens of a step | tokens/s | peak MiB |\n| --- | ---: | ---: | ---: |")
        rounds = range(ours.rounds if ours.steps else 0)
        runs = [{way: train(ours, model, WAYS[way], flags, folder) for way in WAYS} for _ in rounds]
        for way, share in shares.items():
            rate, peak = medians([one[way] for one in runs])
            print(f"| {way} | {share:.1%} | {rate} | {peak} |")
        rate, tokens = worker_rate(ours, model)
        print(f"\none dataloader worker: {rate:.1f} samples/s of {tokens:,.0f} tokens")
        if ours.steps:
            print(f"\n| loss, {ours.max_length:,} tokens, vocabulary of {VOCABULARY:,} | ms a step | peak MiB |")
            print("| --- | ---: | ---: |")
            losses = [{loss: in_own_process(ours, loss) for loss in LOSSES} for _ in rounds]
            for loss in LOSSES:
                print(f"| {loss} | {' | '.join(medians([one[loss] for one in losses]))} |")


def medians(rows: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    return tuple(f"{statistics.median(column):,.0f}" for column in zip(*rows, strict=True)) or ("", "")


def small_model(folder: Path, root_dir: str, files: Sequence[str]) -> str:
    words = [sys.executable, REPO / "scripts/make_tiny_model.py", "--root_dir", root_dir, "--output_path", folder,
             "--samples", 200, "--dataset_name", *files]  # fmt: skip
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(folder)


def samples_of(ours, model: str):
    from inference.backends import load_tokenizer
    from training.samples import TokenSamples, TrainingData

    return TokenSamples(TrainingData(ours.root_dir, ours.dataset_name.split(","), load_tokenizer(model), ours.max_length))


def useful_shares(ours, model: str) -> tuple[dict[str, float], float]:
    """Tokens of samples by tokens of the batches that TRL's collator makes of them, over the first 50 batches of an epoch;
    and the mean length of a sample."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from training.order import grouped_by_length, shuffled

    samples = samples_of(ours, model)
    mixed = shuffled(len(samples.data), 42, 0)
    grouped = grouped_by_length(mixed, samples.data.approximate_lengths(), ours.batch, 42, 0)
    orders = {"padded": mixed, "grouped by length": grouped, "packed": mixed, "grouped, samples made by 1 worker": grouped}
    shares, lengths = {}, []
    for way, order in orders.items():
        collate = DataCollatorForLanguageModeling(samples.data.tokenizer.pad_token_id, padding_free=way == "packed")
        useful = total = 0
        for start in range(0, min(len(order), 50 * ours.batch) - ours.batch + 1, ours.batch):
            batch = [samples.sample(int(index)) for index in order[start : start + ours.batch]]
            lengths += [len(sample["input_ids"]) for sample in batch]
            useful, total = useful + sum(lengths[-len(batch) :]), total + collate(batch)["input_ids"].numel()
        shares[way] = useful / total
    return shares, statistics.mean(lengths)


def train(ours, model: str, way: Sequence[str], flags: Sequence[str], folder: str) -> tuple[float, float]:
    """Tokens a second of the training loop, and the process's peak memory in MiB, of one run of sft.py."""
    output = Path(tempfile.mkdtemp(dir=folder))
    words = [sys.executable, REPO / "sft.py", "--root_dir", ours.root_dir, "--dataset_name", ours.dataset_name,
             "--model_name_or_path", model, "--output_dir", output, "--max_length", ours.max_length, "--max_steps", ours.steps,
             "--per_device_train_batch_size", ours.batch, "--save_strategy", "no", "--report_to", "none", "--logging_steps", 1,
             "--gradient_checkpointing", "False", "--bf16", "False", *way, *flags]  # fmt: skip
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    history = read_json(output / "trainer_state.json")["log_history"]
    tokens = max(entry.get("num_tokens", 0) for entry in history)
    seconds = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    return tokens / seconds, float(re.search(r"peak memory ([\d,]+) MiB", done.stdout)[1].replace(",", ""))


def worker_rate(ours, model: str) -> tuple[float, float]:
    """Samples a second that one worker renders and tokenises, of the longest rows; their mean tokens."""
    samples = samples_of(ours, model)
    guess = samples.data.approximate_lengths()
    longest = sorted(range(len(guess)), key=lambda index: -guess[index])[:60]
    samples.sample(longest[0])
    start = time.perf_counter()
    tokens = [len(samples.sample(index)["input_ids"]) for index in longest]
    return len(longest) / (time.perf_counter() - start), statistics.mean(tokens)


# --- the loss: on a batch of one sample, with an answer at its end


def whole_logits(model, ids, labels):
    """The loss that Transformers computes: logits of every token, in float32."""
    return model(input_ids=ids, labels=labels).loss


def in_chunks(model, ids, labels):
    """The loss that we train with: labelled tokens alone, a tile of logits at a time."""
    return model(input_ids=ids, labels=labels, fused_lm_head=True).loss


LOSSES = {"all logits": whole_logits, "in chunks": in_chunks}


def loss_of(ours) -> tuple[float, float]:
    """Milliseconds of a forward and backward pass of a small model with a large vocabulary, and the process's peak MiB."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    import training.trainer  # noqa: F401, labelled tokens alone

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(device)
    add_fused_lm_head(model)
    ids = torch.randint(0, VOCABULARY, (1, ours.max_length), device=device)
    labels = ids.clone()
    labels[:, :-ANSWER] = -100
    times = []
    for _ in range(3):
        start = time.perf_counter()
        LOSSES[ours.loss](model, ids, labels).backward()
        model.zero_grad()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 1000 * statistics.median(times), peak / 2**20


def in_own_process(ours, loss: str) -> tuple[float, float]:
    words = [
        sys.executable,
        __file__,
        "--dataset_name",
        ours.dataset_name,
        "--max_length",
        str(ours.max_length),
        "--loss",
        loss,
    ]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(found[-2]), float(found[-1])


if __name__ == "__main__":
    run(main)
