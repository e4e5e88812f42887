"""Output directory of a training run: provenance, checkpoints, arguments, model card, completions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.training_info import PATIENTS_FILE, TRAINING_FILE, patient_hash
from mimiciv_dataset.patients import DATA_USE
from pipeline.errors import UserError
from pipeline.files import Line, atomic_path, write_json
from pipeline.provenance import Provenance, folder_record, git_revision

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer, TrainingArguments

LAST_FILE = "trainer_state.json"  # written last: a checkpoint that has it is complete
RANDOM_STATE = "rng_state*.pth"  # saved with the optimizer, whose own files have other names under DeepSpeed and FSDP


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None; a checkpoint that a crash truncated does not count.

    Raises:
        UserError: the checkpoint is a model without optimizer state, from which training cannot resume.
    """
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{LAST_FILE}")]
    checkpoint = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if checkpoint is not None and not any(checkpoint.glob(RANDOM_STATE)):
        raise UserError(
            f"{checkpoint}: expected a checkpoint with optimizer state, got one of --save_only_model. Choose another "
            "--output_dir, or remove the checkpoints to start afresh."
        )
    return checkpoint


def claim(folder: Path, settings: Mapping[str, Any], patients: Iterable[str], checkpoint: Path | None) -> Provenance:
    """Claim an output directory for a run, and describe the training for `evaluation.training_info`.

    A directory without a checkpoint can be claimed by any run, because there is nothing to resume. The provenance decides
    whether a run may resume; `ehr_training.json` holds the same settings as part of the model, for its evaluation.

    Raises:
        UserError: the directory holds checkpoints of a run with other settings.
    """
    data = dict(settings["data"])
    others = {name: value for name, value in settings.items() if name not in ("data", "model")}
    others |= {name: data.pop(name) for name in ("stage", "max_tokens")}
    inputs = {"model": settings["model"]} | data
    provenance = Provenance(folder_record(folder), settings["method"].lower(), inputs, others)
    if checkpoint is None:
        provenance.path.unlink(missing_ok=True)
    provenance.claim(change="--output_dir", used=checkpoint is not None)
    write_json(folder / TRAINING_FILE, {**settings, "git": git_revision(), "data_use": DATA_USE})
    with atomic_path(folder / PATIENTS_FILE) as temporary:
        temporary.write_text("".join(f"{digest}\n" for digest in sorted(map(patient_hash, patients))), encoding="utf-8")
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
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    except (OSError, RuntimeError, SafetensorError, EOFError, UnpicklingError) as error:
        disk_errors = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "unexpected pos")
        if any(text in str(error) for text in disk_errors):
            folder = Path(trainer.args.output_dir)
            raise UserError(
                f"{folder}: expected to save a checkpoint, got a disk error ({str(error).splitlines()[0][:120]}). Free some "
                f"space and run the same command again to resume from {last_checkpoint(folder) or 'the first step'}."
            ) from None
        if checkpoint and (not isinstance(error, OSError | RuntimeError) or "PytorchStreamReader" in str(error)):
            raise UserError(
                f"{checkpoint}: expected a complete checkpoint, got a damaged one ({str(error)[:80] or 'a file ends early'}). "
                "Remove it and run the same command again: it resumes from the checkpoint before."
            ) from None
        raise


def count_skipped(trainer: Trainer, skipped: Tensor) -> int:
    """The number of rows that at least one process skipped. All processes must call it.

    Args:
        skipped: 1 for each row that this process skipped, (rows,).
    """
    import torch

    return int((trainer.accelerator.reduce(skipped.to(trainer.args.device, dtype=torch.int32), "sum") > 0).sum())


def save_model(trainer: Trainer, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Save model, tokenizer, a generation config that stops at the end of a turn, and a model card."""
    tokenizer, config = trainer.processing_class, trainer.accelerator.unwrap_model(trainer.model).generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *(end for end in ends if end is not None)]))
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.save_state()
        card = model_card(trainer.args, settings, metrics, trainer.state.log_history)
        (Path(trainer.args.output_dir) / "README.md").write_text(card, encoding="utf-8")
    trainer.accelerator.wait_for_everyone()


def model_card(
    args: TrainingArguments, settings: Mapping[str, Any], metrics: Mapping[str, float], history: list[dict[str, float]]
) -> str:
    """A model card in Markdown: base model, data, training, and final metrics."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    data, global_batch = settings["data"], settings["global_batch"]
    instructions, template = data["instructions_sha256"][:16], data["template_sha256"][:16]
    files = "\n".join(f"| {name} | {rows:,} | {digest[:16]} |" for name, rows, digest in data["files"])
    results = [f"Loss {losses[0]:.4f} at the first log, {losses[-1]:.4f} at the last."] if losses else []
    results += [f"- {name}: {value:.4g}" for name, value in metrics.items()]
    return f"""---
base_model: {settings["model"]}
library_name: transformers
---

# {Path(args.output_dir).name}

{settings["model"]}, trained on electronic health records: {settings["method"]}, stage `{data["stage"]}`.

{DATA_USE}

## Data

| file | rows | sha256 |
|---|---|---|
{files}

Instructions {instructions}, chat template {template}; evaluate with the same instructions.

## Training

Learning rate {args.learning_rate}, {args.lr_scheduler_type}, {args.num_train_epochs:g} epochs, {global_batch} \
samples a step, seed {args.seed}; all arguments in `arguments.json`.

{chr(10).join(results)}
"""


def log_completions(
    reward: Callable[..., list[float | None]], append: Callable[[Line], None]
) -> Callable[..., list[float | None]]:
    """The same reward, which also appends each completion with its task, mode and value to a log.

    Args:
        reward: a reward as TRL calls it (`training.rewards.for_trl`).
        append: writes a line to the log (`pipeline.files.append_jsonl`).
    """

    @functools.wraps(reward)
    def logged_reward(completions: list[str], task: list[str], mode: list[str], **columns: Any) -> list[float | None]:
        values = reward(completions=completions, task=task, mode=mode, **columns)
        for row in zip(task, mode, completions, values, strict=True):
            append(dict(zip(("task", "mode", "completion", reward.__name__), row, strict=True)))
        return values

    return logged_reward


def end_processes() -> None:
    """Leave the process group, so that no process waits for this one."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
