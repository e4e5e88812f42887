"""What both trainers need before they train: files, tokenizer, and the settings that identify a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.backends import load_tokenizer
from inference.prompts import PromptBuilder
from mimiciv_dataset.index_files import HOW_TO_GET_INDEX
from pipeline.errors import UserError
from pipeline.files import require
from training.arguments import DataArguments
from training.samples import DOMAIN, REASONING, TrainingData, end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments
    from trl import ModelConfig


def load_training_data(
    script_args: DataArguments, model_args: ModelConfig, max_tokens: int, eos_token: str | None = None, for_rl: bool = False
) -> TrainingData:
    """The samples of `--dataset_name`, with the tokenizer of the model; see `TrainingData`.

    Raises:
        UserError: no file is given, one is missing or broken, `--stage` is unknown, or the model cannot be trained.
    """
    if script_args.stage not in (None, DOMAIN, REASONING):
        raise UserError(f"--stage: expected {DOMAIN} or {REASONING}, got {script_args.stage}.")
    if not script_args.dataset_name:
        raise UserError("--dataset_name: expected an index CSV or JSONL to train on, got none.")
    files = [require(name, "an index CSV or JSONL", HOW_TO_GET_INDEX) for name in script_args.dataset_name.split(",")]
    tokenizer = load_training_tokenizer(model_args, eos_token)
    stage, instructions = script_args.stage, script_args.instructions
    return TrainingData(script_args.root_dir, files, tokenizer, max_tokens, stage, instructions, for_rl)


def load_training_tokenizer(model_args: ModelConfig, eos_token: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model, and make sure that it has a padding token and an end-of-turn token.

    Raises:
        UserError: no model is given, it has no tokenizer or chat template, or its template has no end-of-turn token.
    """
    if not model_args.model_name_or_path:
        raise UserError("--model_name_or_path: expected a Hub id or local directory, got none.")
    tokenizer = load_tokenizer(model_args.model_name_or_path, revision=model_args.model_revision)
    PromptBuilder(tokenizer)  # raises an error if the tokenizer has no chat template
    if eos_token:
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    end_of_turn(tokenizer)
    return tokenizer


def run_settings(
    method: str, model_args: ModelConfig, data: TrainingData, args: TrainingArguments, global_batch: int
) -> dict[str, Any]:
    """The settings that identify a run: an output directory with checkpoints of other settings is refused."""
    return {
        "method": method,
        "model": model_args.model_name_or_path,
        "data": data.fingerprint(),
        "seed": args.seed,
        "global_batch": global_batch,
        "epochs": args.num_train_epochs,
        "learning_rate": args.learning_rate,
        "lora": model_args.lora_r if model_args.use_peft else None,
    }
