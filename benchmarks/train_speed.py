"""Training speed: useful tokens per step, tokens per second and peak memory, by how batches are made.

Compares padded, length-grouped and packed batches, samples rendered in advance and by a dataloader worker, and the loss with
all logits and in chunks, and measures how fast a worker renders long samples. Runs sft.py itself, the variants alternately,
on rows of --dataset_name. Without --model_name_or_path it makes a small random model; its times do not transfer to a real
model. On a GPU add --attn_implementation kernels-community/flash-attn2 and --bf16 True, or run benchmarks/gpu.sh. On a CPU
packed batches need an attention mask of tokens × tokens: use a short --max_length, and --steps 0 to measure only useful tokens
and the worker at the full length. Unknown flags are passed to sft.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import peak_memory_mib

if TYPE_CHECKING:
    from training.samples import TokenSamples

REPO = Path(__file__).resolve().parent.parent
IN_ADVANCE = ("--load_dataset_mode", "direct")
VARIANTS = {
    "padded": (*IN_ADVANCE, "--length_grouping", "False"),
    "grouped by length": (*IN_ADVANCE, "--length_grouping", "True"),
    "packed": (*IN_ADVANCE, "--packing", "True"),
    "grouped, samples made by 1 worker": ("--load_dataset_mode", "lazzy", "--dataloader_num_workers", "1"),
}
"""Name and flags of sft.py."""
VOCABULARY, ANSWER = 151_936, 32
"""For the comparison of losses: Qwen3's vocabulary, and the number of labelled tokens of a sample."""


@dataclass(frozen=True)
class Settings:
    """What to measure; see the flags.

    Attributes:
        indexes: paths of index files.
        flags: further flags of sft.py.
    """

    root_dir: Path
    indexes: tuple[str, ...]
    max_length: int
    batch: int
    steps: int
    rounds: int
    flags: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--dataset_name", required=True, help="comma-separated index files")
    cli.add_argument("--model_name_or_path", help="Hub id or local directory (a small random model)")
    cli.add_argument("--max_length", type=at_least(ANSWER), default=8192, help="tokens of a sample at most (8192)")
    cli.add_argument("--batch", type=at_least(1), default=8, help="samples per batch (8)")
    cli.add_argument("--steps", type=at_least(0), default=8, help="steps per variant (8); 0: do not train")
    cli.add_argument("--rounds", type=at_least(1), default=3, help="rounds (3); the tables have medians")
    cli.add_argument("--loss", choices=LOSSES, help=argparse.SUPPRESS)  # in a process of its own, for its peak memory
    args, flags = cli.parse_known_args(argv)
    if args.loss:
        print(*measure_loss(args.loss, args.max_length, args.model_name_or_path))
        return
    indexes = tuple(args.dataset_name.split(","))
    settings = Settings(args.root_dir, indexes, args.max_length, args.batch, args.steps, args.rounds, tuple(flags))
    for path in indexes:
        require(path, "an index CSV", "make one with mimiciv_dataset/data_index_gen.py")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model_name_or_path or make_small_model(Path(folder) / "model", settings)
        measure(settings, model, folder)


def measure(settings: Settings, model: str, folder: str) -> None:
    """Measure and print the tables."""
    shares, length = useful_shares(settings, model)
    print(
        f"batch {settings.batch}, --max_length {settings.max_length:,}, {length:,.0f} tokens per sample, {settings.steps} "
        f"steps, medians of {settings.rounds}\n\n"
        "| batches | useful tokens of a step | tokens/s | peak MiB |\n| --- | ---: | ---: | ---: |"
    )
    rounds = range(settings.rounds if settings.steps else 0)
    speeds = [{name: train(settings, model, flags, folder) for name, flags in VARIANTS.items()} for _ in rounds]
    for name, share in shares.items():
        rate, peak = medians([by_variant[name] for by_variant in speeds])
        print(f"| {name} | {share:.1%} | {rate} | {peak} |")
    rate, tokens = worker_rate(load_samples(settings, model))
    print(f"\none dataloader worker: {rate:.1f} samples/s of {tokens:,.0f} tokens")
    if settings.steps:
        print(f"\n| loss, {settings.max_length:,} tokens, vocabulary of {VOCABULARY:,} | ms per step | peak MiB |")
        print("| --- | ---: | ---: |")
        names = ("all logits", "in chunks")
        losses = [{name: measure_loss_in_process(settings, name) for name in names} for _ in rounds]
        for name in names:
            print(f"| {name} | {' | '.join(medians([by_loss[name] for by_loss in losses]))} |")


def medians(rows: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """The medians of both columns; empty texts if there are no rows."""
    return tuple(f"{statistics.median(column):,.0f}" for column in zip(*rows, strict=True)) or ("", "")


def run_script(script: str, *flags: object) -> str:
    """Run one of our commands, and return its standard output."""
    command = [sys.executable, str(REPO / script), *map(str, flags)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_small_model(folder: Path, settings: Settings) -> str:
    """Make a small random model in `folder`."""
    flags = ("--samples", 200, "--dataset_name", *settings.indexes)
    run_script("scripts/make_tiny_model.py", "--root_dir", settings.root_dir, "--output_path", folder, *flags)
    return str(folder)


def load_samples(settings: Settings, model: str) -> TokenSamples:
    """The samples of the index files, for the tokenizer of a model."""
    from inference.backends import load_tokenizer
    from training.samples import TokenSamples, TrainingData

    data = TrainingData(settings.root_dir, list(settings.indexes), load_tokenizer(model), settings.max_length)
    return TokenSamples(data)


def useful_shares(settings: Settings, model: str) -> tuple[dict[str, float], float]:
    """By variant: tokens of samples / tokens of the batches that TRL's collator makes, in the first 50 batches of an epoch.

    Returns:
        The shares, and the mean length of a sample.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from training.order import grouped_by_length, shuffled

    samples, size = load_samples(settings, model), settings.batch
    random_order = shuffled(len(samples.data), 42, 0)
    grouped = grouped_by_length(random_order, samples.data.approximate_lengths(), size, 42, 0)
    shares, lengths = {}, []
    for name in VARIANTS:
        order = grouped if name.startswith("grouped") else random_order
        collate = DataCollatorForLanguageModeling(samples.data.tokenizer.pad_token_id, padding_free=name == "packed")
        useful = total = 0
        for start in range(0, min(len(order), 50 * size) - size + 1, size):
            batch = [samples.sample(int(index)) for index in order[start : start + size]]
            lengths += [len(sample["input_ids"]) for sample in batch]
            useful, total = useful + sum(lengths[-len(batch) :]), total + collate(batch)["input_ids"].numel()
        shares[name] = useful / total
    return shares, statistics.mean(lengths)


def train(settings: Settings, model: str, flags: Sequence[str], folder: str) -> tuple[float, float]:
    """Run sft.py, and return tokens per second of the training loop and the peak memory of the process in MiB."""
    output = Path(tempfile.mkdtemp(dir=folder))
    data = ("--root_dir", settings.root_dir, "--dataset_name", ",".join(settings.indexes), "--max_length", settings.max_length)
    steps = ("--max_steps", settings.steps, "--per_device_train_batch_size", settings.batch, "--logging_steps", 1)
    common = ("--save_strategy", "no", "--report_to", "none", "--gradient_checkpointing", "False", "--bf16", "False")
    paths = ("--model_name_or_path", model, "--output_dir", output)
    stdout = run_script("sft.py", *data, *paths, *steps, *common, *flags, *settings.flags)
    history = read_json(output / "trainer_state.json")["log_history"]
    tokens = max(entry.get("num_tokens", 0) for entry in history)
    seconds = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    return tokens / seconds, float(re.search(r"peak memory ([\d,]+) MiB", stdout)[1].replace(",", ""))


def worker_rate(samples: TokenSamples) -> tuple[float, float]:
    """Samples per second that one worker renders and tokenizes, for the longest samples, and their mean tokens."""
    lengths = samples.data.approximate_lengths()
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:60]
    samples.sample(longest[0])
    start = time.perf_counter()
    tokens = [len(samples.sample(index)["input_ids"]) for index in longest]
    return len(longest) / (time.perf_counter() - start), statistics.mean(tokens)


# --- the loss, of a batch of one sample with an answer at its end


def loss_of_all_logits(model: Any, ids: Any, labels: Any) -> Any:
    """The loss that Transformers computes, with logits of every token in float32, or Liger's kernel in its place."""
    return model(input_ids=ids, labels=labels).loss


def loss_in_chunks(model: Any, ids: Any, labels: Any) -> Any:
    """The loss that we train with: logits of labelled tokens only, in chunks."""
    return model(input_ids=ids, labels=labels, fused_lm_head=True).loss


LOSSES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "all logits": loss_of_all_logits,
    "in chunks": loss_in_chunks,
    "Liger": loss_of_all_logits,
}


def measure_loss(name: str, length: int, model_name_or_path: str | None) -> list[float]:
    """Milliseconds of a forward and backward pass, and peak MiB, with a loss on an answer of 32 tokens, then on all tokens.

    Without `model_name_or_path` the model is small and random, with a large vocabulary.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    import training.trainer  # noqa: F401  computes logits of labelled tokens only

    on_gpu = torch.cuda.is_available()
    if name == "Liger":
        if not on_gpu:
            raise UserError("--loss Liger: expected a GPU, got none. Choose another loss.")
        from liger_kernel.transformers import apply_liger_kernel_to_qwen3

        others = dict.fromkeys(("rope", "cross_entropy", "rms_norm", "swiglu"), False)
        apply_liger_kernel_to_qwen3(fused_linear_cross_entropy=True, **others)
    torch.manual_seed(0)
    if model_name_or_path:
        model = AutoModelForCausalLM.from_pretrained(model_name_or_path, dtype="auto")
    else:
        config = Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            tie_word_embeddings=True,
        )
        model = Qwen3ForCausalLM(config)
    model.to("cuda" if on_gpu else "cpu").train()
    add_fused_lm_head(model)
    ids = torch.randint(0, model.config.vocab_size, (1, length), device=model.device)
    results: list[float] = []
    for labelled in (ANSWER, length):  # on a CPU the peak is of the process so far, so the smaller one comes first
        labels = ids.clone()
        labels[:, :-labelled] = -100
        times = []
        for _ in range(5 if on_gpu else 3):
            start = time.perf_counter()
            LOSSES[name](model, ids, labels).backward()
            model.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        results += [
            1000 * statistics.median(times),
            torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib(),
        ]
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
    return results


def measure_loss_in_process(settings: Settings, name: str) -> tuple[float, float]:
    """Time and memory of the loss of an answer, in a process of its own, so that its peak memory is that of this loss."""
    script = "benchmarks/train_speed.py"
    stdout = run_script(script, "--dataset_name", "-", "--max_length", settings.max_length, "--loss", name)
    milliseconds, peak = stdout.split()[-4:-2]
    return float(milliseconds), float(peak)


if __name__ == "__main__":
    run(main)
