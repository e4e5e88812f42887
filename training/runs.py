"""What a training run keeps beside the model: its settings, its data, a card; and how it is gone on with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.training_info import PATIENTS_FILE, TRAINING_FILE, patient_hash
from mimiciv_dataset.patients import DATA_USE
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, write_json
from pipeline.provenance import git_revision

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer, TrainingArguments

STATE = "trainer_state.json"  # written last: a checkpoint that has it is whole
RANDOM = "rng_state*.pth"  # beside optimizer and schedule, which have other names under DeepSpeed and FSDP


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; one that a crash cut short does not count.

    Raises:
        UserError: it is a model alone, which training cannot go on from.
    """
    found = [path.parent for path in folder.glob(f"checkpoint-*/{STATE}")]
    last = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if last is not None and not any(last.glob(RANDOM)):
        raise UserError(f"{last}: wanted a checkpoint to go on from, found one of --save_only_model, without the optimizer's "
                        "state. Choose another --output_dir, or remove its checkpoints to begin anew")  # fmt: skip
    return last


def begin(folder: Path, settings: Mapping[str, Any], patients: Iterable[str]) -> Path | None:
    """Keep a run's settings in its folder; the checkpoint to go on from, if it was begun before.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    path = folder / TRAINING_FILE
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        before = read_json(path) if path.exists() else {}
        differ = [name for name in settings if before.get(name) != settings[name]]
        if differ:
            said = "; ".join(f"{name}: {before.get(name)!r}, now {settings[name]!r}" for name in differ)
            raise UserError(f"{folder}: wanted checkpoints of this run, found those of another: {said}. Choose another "
                            "--output_dir, or remove its checkpoints to begin anew")  # fmt: skip
    write_json(path, {**settings, "git": git_revision(), "data_use": DATA_USE})
    with atomic_path(folder / PATIENTS_FILE) as temporary:
        temporary.write_text("".join(f"{one}\n" for one in sorted(map(patient_hash, patients))), encoding="utf-8")
    return checkpoint


def save_arguments(folder: Path, tables: Mapping[str, Any]) -> str:
    """Write every resolved argument to arguments.json; the text, to print."""
    text = json.dumps({name: _plain(table) for name, table in tables.items()}, indent=2, sort_keys=True, default=str)
    with atomic_path(folder / "arguments.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text


def _plain(table: Any) -> dict[str, Any]:
    return table.to_dict() if hasattr(table, "to_dict") else dict(vars(table))


def train(trainer: Trainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the end, from a checkpoint if there is one; the run's last figures.

    Raises:
        UserError: the disk refused while saving, and checkpoints written before stand; or the checkpoint is damaged.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    except (OSError, RuntimeError, SafetensorError, EOFError, UnpicklingError) as error:
        refused = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "unexpected pos")
        if not any(words in str(error) for words in refused):
            damaged = not isinstance(error, OSError | RuntimeError) or "PytorchStreamReader" in str(error)
            if checkpoint and damaged:
                why = str(error)[:80] or "a file ends early"
                raise UserError(f"{checkpoint}: wanted a whole checkpoint, found a damaged one ({why}); remove it and run the "
                                "same command again: it goes on from the one before") from None  # fmt: skip
            raise
        folder = trainer.args.output_dir
        last = last_checkpoint(Path(folder)) or "the beginning"
        raise UserError(f"{folder}: the disk refused while saving ({str(error).splitlines()[0][:120]}); free some space and "
                        f"run the same command again: it goes on from {last}") from None  # fmt: skip


def left_out(trainer: Trainer, rows: Tensor) -> int:
    """How many rows any process left out, each once; to be asked by all processes.

    Args:
        rows: 1 for each row that this process left out, (rows,).
    """
    import torch

    return int((trainer.accelerator.reduce(rows.to(trainer.args.device, dtype=torch.int32), "sum") > 0).sum())


def finish(trainer: Trainer, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Save the model with its tokenizer, a generation config that ends where a turn ends, and a card."""
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
    """What the model is, made of what, how: as markdown."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    data = settings["data"]
    lines = [
        "---", f"base_model: {settings['model']}", "library_name: transformers", "---", "",
        f"# {Path(args.output_dir).name}", "",
        f"{settings['model']}, trained on electronic health records: {settings['method']}, stage `{data['stage']}`.",
        "", DATA_USE, "", "## Data", "", "| file | rows | sha256 |", "|---|---|---|",
        *(f"| {name} | {rows:,} | {digest[:16]} |" for name, rows, digest in data["files"]),
        "", f"Instructions {data['instructions_sha256'][:16]}, chat template {data['template_sha256'][:16]}; evaluate with "
        "the same instructions.", "", "## Training", "",
        f"Learning rate {args.learning_rate}, {args.lr_scheduler_type}, {args.num_train_epochs:g} epochs, "
        f"{settings['global_batch']} samples a step, seed {args.seed}; all arguments in `arguments.json`.", "",
        *([f"Loss {losses[0]:.4f} at the first log, {losses[-1]:.4f} at the last."] if losses else []),
        *(f"- {name}: {value:.4g}" for name, value in metrics.items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


class CompletionLog:
    """Completions with their tasks, a line each, in a file on this machine: text about patients."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, reward: Callable[..., list[float | None]]) -> Callable[..., list[float | None]]:
        """The reward, which now also writes what it scores."""

        @functools.wraps(reward)
        def kept(completions: list[str], task: list[str], mode: list[str], **more: Any) -> list[float | None]:
            values = reward(completions=completions, task=task, mode=mode, **more)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                for row in zip(task, mode, completions, values, strict=True):
                    line = dict(zip(("task", "mode", "completion", reward.__name__), row, strict=True))
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            return values

        return kept


def end_processes() -> None:
    """Leave the process group, so that no process is left waiting."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
