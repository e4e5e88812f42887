"""Arguments of sft.py and grpo.py beside those of TRL. No library is imported here, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _argument(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataArguments:
    """The samples to train on; the help of each field is its reference."""

    dataset_name: str | None = _argument(None, "index CSV or JSONL files to train on, comma-separated")
    root_dir: str = _argument("./datas", "directory that holds patients_ehr/ and index_mapping/")
    instructions: str | None = _argument(None, "JSON file, task → instruction, to use instead of the built-in wording")
    stage: str | None = _argument(None, "domain or reasoning; by default reasoning if the data has chains, and in grpo.py")
    load_dataset_mode: str = _argument("lazzy", "lazzy: tokenize samples when needed; direct: all first, into a cache on disk")
    show_sample: bool = _argument(False, "also print the text of the first sample, which is patient text")


@dataclass(frozen=True)
class SFTArguments(DataArguments):
    """Arguments of supervised fine-tuning."""

    curriculum: bool = _argument(False, "mix two files, the larger first: the share of the second rises during training")
    loss_on_prompt: bool = _argument(False, "compute the loss on prompts as well as answers, as the published scripts did")
    length_grouping: bool = _argument(True, "batch samples of similar length (ignored with --curriculum and --packing)")


@dataclass(frozen=True)
class GRPOArguments(DataArguments):
    """Arguments of reinforcement learning."""

    rewards: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": "rewards of training/rewards.py: accuracy, format, length; --reward_weights weighs them"},
    )
    max_prompt_length: int = _argument(10000, "maximum tokens of a prompt; longer inputs lose their oldest events")
    log_completions_to_tracker: bool = _argument(False, "send completions, which are text about patients, to the tracker")
