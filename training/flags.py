"""The published command lines on current libraries: old flags are mapped, and a note says what happens.

What a flag meant in the published scripts and what today's libraries make of it, in one table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError

RENAMED = {
    "--max_seq_length": ("--max_length", "tokens of prompt and answer together"),
    "--warmup_ratio": ("--warmup_steps", "a number below 1 is a share of all steps"),
    "--evaluation_strategy": ("--eval_strategy", "renamed"),
    "--torch_dtype": ("--dtype", "renamed"),
    "--tokenizer_name": (None, "the model's own tokenizer is used"),
    "--overwrite_output_dir": (None, "a used output folder is gone on with, or refused if it holds another run"),
}
"""Old flag → (new flag or None, what to say)."""


def translate(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line in today's flags, and notes on what was mapped.

    >>> translate(["--max_seq_length", "8192", "--warmup_ratio=0.03"])[0]
    ['--max_length', '8192', '--warmup_steps=0.03']
    >>> translate(["--overwrite_output_dir", "True", "--seed", "1"])[0]
    ['--seed', '1']
    """
    translated: list[str] = []
    notes: list[str] = []
    words = list(argv)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag not in RENAMED:
            translated.append(flag + equals + value)
            continue
        new, why = RENAMED[flag]
        notes.append(f"{flag} → {new}: {why}" if new else f"{flag} is left out: {why}")
        if new:
            translated.append(new + equals + value)
        elif not equals and words and not words[0].startswith("--"):
            words.pop(0)
    return translated, notes


def for_this_machine(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line with `--use_cpu True` where there is no GPU: it must be known before the arguments are made."""
    import torch

    if torch.cuda.is_available() or any(word.startswith("--use_cpu") for word in argv):
        return list(argv), []
    return [*argv, "--use_cpu", "True"], ["no GPU: --use_cpu True"]


def parse(tables: Sequence[type], words: Sequence[str]) -> tuple[Any, ...]:
    """An instance of each table of flags, from the command line and the YAML of `--config`; `--help_all` prints them all.

    Raises:
        UserError: a flag is unknown, or has a value that it cannot have.
    """
    from trl import TrlParser

    try:
        return TrlParser(tables).parse_args_and_config(["--help"] if "--help_all" in words else list(words))
    except (ValueError, OSError) as error:  # what the libraries raise on wrong flags and on an unreadable --config
        raise UserError(f"command line: {error}; --help_all lists all flags") from None


def settle(args: Any, processes: int, on_gpu: bool) -> list[str]:
    """Set what must be otherwise now in parsed training arguments; notes say what.

    Args:
        args: a `transformers.TrainingArguments`, which is changed.
        processes: how many run together.
        on_gpu: whether this one has a GPU.

    Raises:
        UserError: the batch cannot be split over the processes.
    """
    notes = []
    if args.ignore_data_skip:
        args.ignore_data_skip = False
        notes.append(
            "--ignore_data_skip is set false: a resumed run goes on at the next unseen sample, not at the first again"
        )
    accelerator = args.accelerator_config
    if accelerator.dispatch_batches:
        accelerator.dispatch_batches = False
        notes.append("dispatch_batches is set false: every process renders its own samples, none waits for the first")
    if accelerator.split_batches and hasattr(args, "num_generations"):
        accelerator.split_batches = False
        notes.append("split_batches is set false: in GRPO --per_device_train_batch_size is each process's own")
    if accelerator.split_batches:
        if args.per_device_train_batch_size % processes:
            raise UserError(f"--per_device_train_batch_size {args.per_device_train_batch_size} with split_batches: wanted a "
                            f"multiple of the {processes} processes")  # fmt: skip
        notes.append(f"split_batches: --per_device_train_batch_size {args.per_device_train_batch_size} is the batch of all "
                     f"{processes} processes together, {args.per_device_train_batch_size // processes} each")  # fmt: skip
        accelerator.split_batches = False
        args.per_device_train_batch_size //= processes
    if getattr(args, "use_liger_kernel", False) and not on_gpu:
        args.use_liger_kernel = False
        notes.append("--use_liger_kernel is set false: its kernels need a GPU")
    if args.dataloader_pin_memory and not on_gpu:
        args.dataloader_pin_memory = False
    return notes


def help_text(title: str, *tables: type) -> str:
    """A short help made from the dataclasses' own metadata, without the libraries that take seconds to import.

    The other flags are TRL's: `--help_all` lists them.
    """
    lines = [title.strip(), "", "flags of this repository:"]
    for table in tables:
        for field in dataclasses.fields(table):
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            lines.append(f"  --{field.name:<28} {field.metadata['help']} ({default})")
    lines += [
        "",
        "and all of TRL's (SFTConfig or GRPOConfig, ModelConfig): --help_all lists them. --config FILE.yaml sets any.",
    ]
    return "\n".join(lines)
