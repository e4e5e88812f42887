"""Command lines of sft.py and grpo.py: the flags of TRL and of `training.arguments`, and older names of flags."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.cli import Parser, check_flags
from pipeline.errors import UserError

RENAMED = {
    "--max_seq_length": ("--max_length", "tokens of prompt and answer together"),
    "--warmup_ratio": ("--warmup_steps", "a number below 1 is a fraction of all steps"),
    "--evaluation_strategy": ("--eval_strategy", "renamed"),
    "--torch_dtype": ("--dtype", "renamed"),
    "--tokenizer_name": (None, "the tokenizer of the model is used"),
    "--overwrite_output_dir": (None, "a run in --output_dir is resumed, or refused if it is another run"),
}
"""Flag of the published command lines → (flag of today's libraries, or None if it is ignored; note for the user)."""


def parse(description: str, script_arguments: type, config: str, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse the command line, and the YAML file of `--config`.

    Args:
        description: docstring of the script, for `--help`. `--help_all` prints all flags, those of TRL included.
        script_arguments: `SFTArguments` or `GRPOArguments`.
        config: `SFTConfig` or `GRPOConfig`, by name because TRL takes seconds to import.
        argv: arguments, by default those of the process.

    Returns:
        script arguments, training arguments, model arguments, and notes about flags that were renamed or added.

    Raises:
        UserError: the libraries refuse a value, or `--config` cannot be read.
    """
    words, notes = translate(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(help_text(description, script_arguments, config))
        sys.exit()

    import torch
    import trl

    class TrainingParser(trl.TrlParser):
        """TRL's parser, which reports an error in one line and suggests the closest flag for an unknown one."""

        error = Parser.error

        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            check_flags(self, args)
            return super().parse_known_args(args, namespace)

    if not torch.cuda.is_available() and not any(word.startswith("--use_cpu") for word in words):
        words += ["--use_cpu", "True"]  # TrainingArguments select the device when they are created
        notes.append("no GPU: --use_cpu True")
    parser = TrainingParser((script_arguments, getattr(trl, config), trl.ModelConfig), allow_abbrev=False)
    try:
        return *parser.parse_args_and_config(["--help"] if "--help_all" in words else words), notes
    except (ValueError, OSError) as error:  # what the libraries raise for a wrong value and for an unreadable --config
        raise UserError(f"command line: {str(error).rstrip('.')}. --help_all lists all flags.") from None


def translate(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace flags of the published command lines by those of today's libraries; also return a note for each.

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
        new_flag, reason = RENAMED[flag]
        notes.append(f"{flag} → {new_flag}: {reason}" if new_flag else f"{flag} is ignored: {reason}")
        if new_flag:
            translated.append(new_flag + equals + value)
        elif not equals and words and not words[0].startswith("--"):
            words.pop(0)
    return translated, notes


def help_text(description: str, script_arguments: type, config: str) -> str:
    """The help of the flags in `script_arguments`, made without importing TRL."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE.yaml] [--FLAG VALUE ...]",
        epilog=f"All flags of TRL's {config} and ModelConfig work too: --help_all lists them.",
    )
    for field in dataclasses.fields(script_arguments):
        default = field.default if field.default is not dataclasses.MISSING else " ".join(field.default_factory())
        parser.add_argument(f"--{field.name}", metavar="", help=f"{field.metadata['help']} (default: {default})")
    return parser.format_help()
