"""Command lines of sft.py and grpo.py: their own arguments, those of TRL, and older names of flags.

No library is imported at the top, so that `--help` is fast.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from pipeline.cli import Parser, check_flags
from pipeline.errors import UserError
from training.uploads import ENVIRONMENT

# Flag of the published command lines → (flag of today's libraries, or None if it is ignored; note for the user).
RENAMED = {
    "--max_seq_length": ("--max_length", "tokens of prompt and answer together"),
    "--warmup_ratio": ("--warmup_steps", "a number below 1 is a fraction of all steps"),
    "--evaluation_strategy": ("--eval_strategy", "renamed"),
    "--torch_dtype": ("--dtype", "renamed"),
    "--tokenizer_name": (None, "the tokenizer of the model is used"),
    "--overwrite_output_dir": (None, "a run in --output_dir is resumed, or refused if it is another run"),
}


def _argument(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataArguments:
    """The samples to train on; the help of each field is its reference."""

    dataset_name: str | None = _argument(None, "index CSV or JSONL files to train on, comma-separated")
    root_dir: str = _argument("./datas", "directory that holds patients_ehr/ and index_mapping/")
    instructions: str | None = _argument(None, "JSON file, task → instruction, to use instead of the built-in wording")
    as_known: bool = _argument(False, "hide values that were stored after the prediction time (docs/tasks.md)")
    stage: str | None = _argument(None, "domain or reasoning; by default reasoning if the data has chains, and in grpo.py")
    load_dataset_mode: str = _argument("lazzy", "lazzy: tokenize samples when needed; direct: all first, into a cache on disk")
    show_sample: bool = _argument(False, "also print the text of the first sample, which is patient text")
    overwrite: bool = _argument(False, "remove what training wrote to --output_dir, and train from the beginning")
    allow_upload: bool = _argument(False, "let --push_to_hub upload the model's files, to a private repository")


@dataclass(frozen=True)
class SFTArguments(DataArguments):
    """Arguments of supervised fine-tuning."""

    curriculum: bool = _argument(False, "mix two files, the larger first: the share of the second rises during training")
    loss_on_prompt: bool = _argument(False, "compute the loss on prompts as well as answers, as the published scripts did")
    length_grouping: bool = _argument(True, "batch samples of similar length (ignored with --curriculum and --packing)")
    dataset_weights: str | None = _argument(None, "how often an epoch draws the rows of each file, comma-separated: 1,0.5")
    eval_dataset_name: str | None = _argument(None, "index CSV or JSONL files for --eval_strategy, comma-separated")
    eval_metric_samples: int = _argument(0, "samples of the evaluation set that are answered, for eval_f1 and eval_auroc")
    eval_max_new_tokens: int = _argument(1024, "maximum tokens of these answers")
    early_stopping_patience: int | None = _argument(None, "stop after N evaluations without a better --metric_for_best_model")
    early_stopping_threshold: float = _argument(0.0, "by how much an evaluation must be better")


@dataclass(frozen=True)
class GRPOArguments(DataArguments):
    """Arguments of reinforcement learning."""

    rewards: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={
            "help": "rewards of training/rewards.py: accuracy, format, length, brier, decision; --reward_weights weighs them"
        },
    )
    max_prompt_length: int = _argument(10000, "maximum tokens of a prompt; longer inputs lose their oldest events")
    eos_token: str | None = _argument(None, "end-of-turn token, if the chat template does not say it")
    log_completions_to_tracker: bool = _argument(False, "send completions, which are text about patients, to the tracker")


def parse(description: str, script_arguments: type, config: str) -> tuple[Any, ...]:
    """Parse the command line, and the YAML file of `--config`. `--help_all` prints all flags, those of TRL included.

    Args:
        description: docstring of the script, for `--help`.
        script_arguments: `SFTArguments` or `GRPOArguments`.
        config: `SFTConfig` or `GRPOConfig`, by name because TRL takes seconds to import.

    Returns:
        script arguments, training arguments, model arguments, and notes about flags that were renamed or added.
    """
    argv, notes = translate(sys.argv[1:])
    if {"-h", "--help"} & set(argv):
        _print_help(description, script_arguments, config)
        sys.exit()

    os.environ.update(ENVIRONMENT)
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" or any(word.startswith("--deepspeed") for word in argv)
    if deepspeed and find_spec("deepspeed") is None:
        raise UserError("DeepSpeed: expected the package deepspeed, got none. Install requirements.txt, or launch without it.")
    import torch
    import trl

    class TrainingParser(trl.TrlParser):
        """TRL's parser, which reports an error in one line and suggests the closest flag for an unknown one."""

        error = Parser.error

        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            check_flags(self, args)
            return super().parse_known_args(args, namespace)

    if not torch.cuda.is_available() and not any(word.startswith("--use_cpu") for word in argv):
        argv += ["--use_cpu", "True"]  # TrainingArguments select the device when they are created
        notes.append("no GPU: --use_cpu True")
    parser = TrainingParser((script_arguments, getattr(trl, config), trl.ModelConfig), allow_abbrev=False)
    try:
        return *parser.parse_args_and_config(["--help"] if "--help_all" in argv else argv), notes
    except (ValueError, OSError) as error:  # what the libraries raise for a wrong value and for an unreadable --config
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"command line: {reason}. --help_all lists all flags.") from None


def translate(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace flags of the published command lines by those of today's libraries; also return a note for each.

    >>> translate(["--max_seq_length", "8192", "--warmup_ratio=0.03"])[0]
    ['--max_length', '8192', '--warmup_steps=0.03']
    >>> translate(["--overwrite_output_dir", "True", "--seed", "1"])[0]
    ['--seed', '1']
    """
    translated, notes, argv = [], [], list(argv)
    while argv:
        flag, equals, value = argv.pop(0).partition("=")
        new_flag, reason = RENAMED.get(flag, (flag, None))
        if reason:
            notes.append(f"{flag} → {new_flag}: {reason}" if new_flag else f"{flag} is ignored: {reason}")
        if new_flag is not None:
            translated.append(new_flag + equals + value)
        elif not equals and argv and not argv[0].startswith("--"):
            argv.pop(0)
    return translated, notes


def _print_help(description: str, script_arguments: type, config: str) -> None:
    """Print the help of the flags in `script_arguments`, without importing TRL."""
    usage = "%(prog)s [--config FILE.yaml] [--FLAG VALUE ...]"
    epilog = f"All flags of TRL's {config} and ModelConfig work too: --help_all lists them."
    parser = ArgumentParser(usage=usage, description=description, epilog=epilog, formatter_class=RawDescriptionHelpFormatter)
    for argument in fields(script_arguments):
        default = " ".join(argument.default_factory()) if argument.default is MISSING else argument.default
        parser.add_argument(f"--{argument.name}", metavar="", help=f"{argument.metadata['help']} (default: {default})")
    parser.print_help()
