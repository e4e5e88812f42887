"""Flags of sft.py and grpo.py beside TRL's own; no library is imported here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field


def _flag(default, help: str, **more):
    return field(default=default, metadata={"help": help, **more})


@dataclass
class DataArguments:
    """What to train on."""

    dataset_name: str | None = _flag(None, "index CSV or JSONL to train on; several with commas between")
    root_dir: str = _flag("./datas", "folder with patients_ehr/ and index_mapping/")
    instructions: str | None = _flag(None, "JSON, task → sentence, in place of ours")
    stage: str | None = _flag(None, "domain or reasoning; by default reasoning where the data have chains, and in grpo.py")
    load_dataset_mode: str = _flag("lazzy", "lazzy: samples are made when needed; direct: tokenised ahead, into a cache")
    show_sample: bool = _flag(False, "print the first sample's text, not only its lengths: patient text on the screen")


@dataclass
class SFTArguments(DataArguments):
    """What of it, and how, in supervised training."""

    curriculum: bool = _flag(False, "mix two files: the second's share rises towards the end of training")
    loss_on_prompt: bool = _flag(False, "loss on the whole text, as the published scripts had it")
    length_grouping: bool = _flag(True, "batches of similar length, for less padding (not with --curriculum, --packing)")


@dataclass
class GRPOArguments(DataArguments):
    """What to reward."""

    rewards: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": "rewards of training/rewards.py; their weights: --reward_weights"},
    )
    max_prompt_length: int = _flag(10000, "tokens of a prompt; a longer record loses its oldest events")
    log_completions_to_tracker: bool = _flag(False, "send completions, which are text about patients, to the tracker")
