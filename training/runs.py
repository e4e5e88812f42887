"""A training run: its data, the settings that identify it, and its output directory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.training_info import TRAINING_FILE, patient_lists_of, write_patient_list
from inference.backends import load_tokenizer
from mimiciv_dataset.index_files import HOW_TO_GET_INDEX
from mimiciv_dataset.patients import DATA_USE
from pipeline.errors import UserError
from pipeline.files import atomic_path, require, write_json
from pipeline.provenance import Provenance, git_revision
from training.arguments import DataArguments
from training.samples import DOMAIN, REASONING, TrainingData

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer, TrainingArguments
    from trl import ModelConfig

LAST_FILE = "trainer_state.json"  # written last: a checkpoint that has it is complete
RANDOM_STATE = "rng_state*.pth"  # saved with the optimizer, whose own files have other names under DeepSpeed and FSDP
DISK_ERRORS = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "unexpected pos")


def load_training_data(
    script_args: DataArguments, model_args: ModelConfig, max_tokens: int, eos_token: str | None = None, for_rl: bool = False
) -> TrainingData:
    """The rows of `--dataset_name`, with the tokenizer of the model (its end token is `eos_token`, if given)."""
    stage = script_args.stage
    if stage not in (None, DOMAIN, REASONING):
        raise UserError(f"--stage: expected {DOMAIN} or {REASONING}, got {stage}.")
    if not script_args.dataset_name:
        raise UserError("--dataset_name: expected an index CSV or JSONL to train on, got none.")
    files = [require(name, "an index CSV or JSONL", HOW_TO_GET_INDEX) for name in script_args.dataset_name.split(",")]
    if not model_args.model_name_or_path:
        raise UserError("--model_name_or_path: expected a Hub id or local directory, got none.")
    tokenizer = load_tokenizer(model_args.model_name_or_path, revision=model_args.model_revision)
    if eos_token:
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    options = {"stage": stage, "instructions": script_args.instructions, "as_known": script_args.as_known}
    data = TrainingData(script_args.root_dir, files, tokenizer, max_tokens, for_rl=for_rl, **options)
    if stage == REASONING and not (data.has_chains or for_rl):
        wrong = "expected chains in the column reasoning, because of --stage reasoning, got none"
        fix = "Make them with scripts/reasoning_synthesis/synthesis.sh, or train on answers with --stage domain"
        raise UserError(f"{script_args.dataset_name}: {wrong}. {fix}.")
    return data


def run_settings(
    method: str, model_args: ModelConfig, data: TrainingData, args: TrainingArguments, global_batch: int, **others: Any
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
    } | others


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None; one without optimizer state, which cannot be resumed, is an error."""
    steps = {path.parent.name.removeprefix("checkpoint-"): path.parent for path in folder.glob(f"checkpoint-*/{LAST_FILE}")}
    checkpoint = steps[max(numbers, key=int)] if (numbers := [step for step in steps if step.isdecimal()]) else None
    if checkpoint is not None and not any(checkpoint.glob(RANDOM_STATE)):
        fix = "Choose another --output_dir, or remove the checkpoints to start afresh"
        raise UserError(f"{checkpoint}: expected optimizer state, got a checkpoint of --save_only_model. {fix}.")
    return checkpoint


def claim(folder: Path, settings: Mapping[str, Any], data: TrainingData, checkpoint: Path | None) -> Provenance:
    """Claim an output directory for a run, and describe the training for `evaluation.training_info`.

    A directory without a checkpoint can be claimed by any run, because there is nothing to resume; one with checkpoints only
    by a run with the same settings, which its provenance records. `ehr_training.json` holds them as part of the model; the
    patients are listed beside the data.
    """
    provenance = Provenance(folder, f"{settings['method'].lower()}.py", settings=settings, flag="--output_dir")
    if checkpoint is None:
        provenance.path.unlink(missing_ok=True)
    provenance.begin(used=checkpoint is not None)
    patients = [write_patient_list(Path(data.root_dir), folder.resolve().name, data.patients())]
    patients += [earlier for earlier in patient_lists_of(settings["model"]) if earlier not in patients]
    write_json(
        folder / TRAINING_FILE, {**settings, "training_patients": patients, "git": git_revision(), "data_use": DATA_USE}
    )
    return provenance


def print_arguments(folder: Path, arguments: Mapping[str, Any], notes: Iterable[str]) -> None:
    """Print all arguments, group → dataclass, and the notes; write the arguments to arguments.json."""
    groups = {name: group.to_dict() if hasattr(group, "to_dict") else vars(group) for name, group in arguments.items()}
    text = json.dumps(groups, indent=2, sort_keys=True, default=str)
    with atomic_path(folder / "arguments.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text, *(f"note: {note}" for note in notes), sep="\n")


def train(trainer: Trainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the end, from `checkpoint` if it is not None, and return the final metrics.

    Raises:
        UserError: the disk refused a checkpoint (earlier ones are kept), or `checkpoint` is damaged.
    """
    from safetensors import SafetensorError

    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    except (OSError, RuntimeError, SafetensorError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:120]
        if any(text in str(error) for text in DISK_ERRORS):
            folder = Path(trainer.args.output_dir)
            fix = (
                f"Free some space and run the same command again to resume from {last_checkpoint(folder) or 'the first step'}"
            )
            raise UserError(f"{folder}: expected to save a checkpoint, got a disk error ({reason}). {fix}.") from None
        if checkpoint and (not isinstance(error, OSError | RuntimeError) or "PytorchStreamReader" in str(error)):
            wrong = f"expected a complete checkpoint, got a damaged one ({reason or 'a file ends early'})"
            fix = "Remove it and run the same command again: it resumes from the checkpoint before"
            raise UserError(f"{checkpoint}: {wrong}. {fix}.") from None
        raise


def count_skipped(trainer: Trainer, skipped: Tensor) -> int:
    """The number of rows that at least one process skipped, from `SampleTransform.skipped`. All processes must call it."""
    return int((trainer.accelerator.reduce(skipped.to(trainer.args.device).int(), "sum") > 0).sum())


def save_model(trainer: Trainer, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Save model, tokenizer, a generation config that stops at the end of a turn, and a model card."""
    tokenizer, config = trainer.processing_class, trainer.accelerator.unwrap_model(trainer.model).generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *(end for end in ends if end is not None)]))
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.save_state()
        card = _model_card(trainer, settings, metrics)
        (Path(trainer.args.output_dir) / "README.md").write_text(card, encoding="utf-8")
    trainer.accelerator.wait_for_everyone()


def _model_card(trainer: Trainer, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    args, data = trainer.args, settings["data"]
    rows = sum(rows for _, rows, _ in data["files"])
    folder = Path(settings["model"])
    base, base_model = (folder.resolve().name, "") if folder.exists() else (settings["model"], f"base_model: {folder}\n")
    instructions, template = (data[f"{name}_sha256"][:16] for name in ("instructions", "template"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    results = [f"Loss {losses[0]:.4f} at the first log, {losses[-1]:.4f} at the last."] if losses else []
    results += [f"- {name}: {value:.4g}" for name, value in metrics.items()]
    return f"""---
{base_model}library_name: transformers
---

# {Path(args.output_dir).resolve().name}

{base}, trained on electronic health records: {settings["method"]}, stage `{data["stage"]}`.

{DATA_USE}

## Training

{rows:,} samples. Instructions {instructions}, chat template {template}; evaluate with the same instructions.

Learning rate {args.learning_rate}, {args.lr_scheduler_type.value}, {args.num_train_epochs:g} epochs, \
{settings["global_batch"]} samples a step, seed {args.seed}.

{chr(10).join(results)}
"""
