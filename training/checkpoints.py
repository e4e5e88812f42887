"""Which checkpoint a run starts from, and whether it may: a whole base model, or one of the same run, which may be shorter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.backends import reading_model
from inference.checks import check_weights
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.provenance import Provenance
from pipeline.records import differences, folder_record, read_record

if TYPE_CHECKING:
    from transformers import TrainingArguments

LAST_FILE = "trainer_state.json"  # written last: a checkpoint that has it is complete
RANDOM_STATE = "rng_state*.pth"  # saved with the optimizer, whose own files have other names under DeepSpeed and FSDP
LENGTH = ("max_steps", "num_train_epochs")  # settings that decide how long a run is
DEFAULT_LENGTH = {"max_steps": -1, "num_train_epochs": 3.0}  # their values where a record does not have them
SCHEDULES = "earlier_schedules"  # setting of a run that was extended: what its schedule was until which step

# Schedules of the learning rate that are the same however long a run is.
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class Start:
    """Where a run starts: its record, and the checkpoint that it continues from, if any."""

    provenance: Provenance
    checkpoint: Path | None = None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None; one without optimizer state, which cannot be resumed, is an error."""
    steps = {path.parent.name.removeprefix("checkpoint-"): path.parent for path in folder.glob(f"checkpoint-*/{LAST_FILE}")}
    checkpoint = steps[max(numbers, key=int)] if (numbers := [step for step in steps if step.isdecimal()]) else None
    if checkpoint is not None and not any(checkpoint.glob(RANDOM_STATE)):
        fix = "Choose another --output_dir, or remove the checkpoints to start afresh"
        raise UserError(f"{checkpoint}: expected optimizer state, got a checkpoint of --save_only_model. {fix}.")
    return checkpoint


def requested_checkpoint(folder: Path, requested: str | None) -> Path | None:
    """The checkpoint that a run in `folder` continues from.

    Args:
        requested: `--resume_from_checkpoint`. None: the last checkpoint in `folder`, if any; `true`: the same, which must
            exist; `false`: none, and none may exist; else a directory.

    Raises:
        UserError: there is no such checkpoint, or it is incomplete.
    """
    flag = "--resume_from_checkpoint"
    word = "" if requested is None else requested.lower()
    if word not in ("", "true", "false"):
        checkpoint = Path(requested)
        if not (checkpoint / LAST_FILE).is_file():
            got = "a directory without it" if checkpoint.is_dir() else "no such directory"
            raise UserError(f"{flag} {checkpoint}: expected a checkpoint with {LAST_FILE}, got {got}. Check the path.")
        if not any(checkpoint.glob(RANDOM_STATE)):
            got = "a checkpoint of --save_only_model" if checkpoint.name.startswith("checkpoint-") else "a finished model"
            fix = f"Pass one with its optimizer, or train it as a new model with --model_name_or_path {checkpoint}"
            raise UserError(f"{flag} {checkpoint}: expected optimizer state, got {got}. {fix}.")
        return checkpoint
    checkpoint = last_checkpoint(folder)
    if word == "true" and checkpoint is None:
        raise UserError(f"{flag} {requested}: expected a checkpoint in {folder}, got none. Omit it to start a run.")
    if word == "false" and checkpoint is not None:
        fix = "Add --overwrite to train from the beginning, or omit it to resume"
        raise UserError(f"{flag} {requested}: expected no checkpoint in {folder}, got {checkpoint.name}. {fix}.")
    return checkpoint


def check_base_weights(name: str, revision: str | None, args: TrainingArguments) -> None:
    """Check that the model to train has all its weights, by loading it on the device "meta", which reads no values.

    Checkpoints that are quantised already are not checked: their weights have names of their own.

    Raises:
        UserError: weights are missing, or the model cannot be loaded.
    """
    from transformers import AutoConfig
    from transformers.integrations import deepspeed
    from trl.trainer.utils import create_model_from_path

    options = {"revision": revision, "trust_remote_code": bool(getattr(args, "trust_remote_code", False))}
    config = getattr(args, "hf_deepspeed_config", None) or getattr(args.deepspeed_plugin, "dschf", None)
    deepspeed.unset_hf_deepspeed_config()  # ZeRO-3 would divide the model among processes
    try:
        with reading_model(name, ValueError, RuntimeError):
            if getattr(AutoConfig.from_pretrained(name, **options), "quantization_config", None):
                return
            _, loading = create_model_from_path(name, device_map="meta", output_loading_info=True, **options)
    finally:
        if config:
            deepspeed.set_hf_deepspeed_config(config)
    check_weights(name, loading["missing_keys"])


def check_optimizer_state(checkpoint: Path, deepspeed: bool) -> None:
    """Check that a checkpoint was saved with or without DeepSpeed, as this run is; else the optimizer would start anew."""
    saved = any(checkpoint.glob("global_step*"))
    if saved != deepspeed:
        with_it, without = "optimizer state of DeepSpeed", "optimizer state without DeepSpeed"
        expected, got = (with_it, without) if deepspeed else (without, with_it)
        raise UserError(f"{checkpoint}: expected {expected}, got {got}. Use the launcher and configuration that saved it.")


def continued(provenance: Provenance, checkpoint: Path | None, scheduler: str) -> Provenance:
    """The record of a run that continues from `checkpoint`, which may be one of a shorter run.

    If a run is longer than the one that it continues, all steps up to the checkpoint followed the schedule of that one. The
    record names it, so that the result is not taken for that of an uninterrupted run; with a constant learning rate it is the
    same. A run that was extended earlier keeps what its record says.

    Raises:
        UserError: the checkpoint is of another run.
    """
    own = read_record(provenance.path)
    elsewhere = checkpoint is not None and checkpoint.parent.resolve() != provenance.output.resolve()
    record = read_record(folder_record(checkpoint.parent)) if elsewhere else own
    if elsewhere and record is None:
        got = "got one without. Resume a run of this script"
        raise UserError(f"{checkpoint}: expected a checkpoint beside the record of its run, {got}.")
    if record is None:
        return provenance
    settings = record.get("settings") or {}
    if SCHEDULES in settings:
        provenance = replace(provenance, settings={**provenance.settings, SCHEDULES: settings[SCHEDULES]})
    different = differences(record, provenance.made_from)
    if checkpoint is not None and different and set(different) <= set(LENGTH) and _is_longer(provenance.settings, settings):
        if scheduler not in ENDLESS or 0 < provenance.settings.get("warmup_steps", 0) < 1:
            step = read_json(checkpoint / LAST_FILE)["global_step"]
            length = ", ".join(f"--{name} {_length(settings, name):g}" for name in different)
            text = f"the first {step:,} steps followed the {scheduler} schedule of {length}"
            print(f"warning: {checkpoint}: {text}, the others follow that of this run.", file=sys.stderr)
            earlier = [*settings.get(SCHEDULES, []), {"until_step": step} | {name: _length(settings, name) for name in LENGTH}]
            provenance = replace(provenance, settings={**provenance.settings, SCHEDULES: earlier})
        different = []
    if elsewhere and different:
        names = ", ".join(different)
        fix = "Pass a checkpoint of the same run, or train from it as a new model with --model_name_or_path"
        raise UserError(f"{checkpoint}: expected the same {names} as this run, got a checkpoint of another run. {fix}.")
    return provenance


def extends(provenance: Provenance) -> bool:
    """Whether a run is a longer version of the one that is recorded in its output directory, and otherwise the same."""
    record = read_record(provenance.path)
    if record is None:
        return False
    different = differences(record, provenance.made_from)
    longer = _is_longer(provenance.settings, record.get("settings") or {})
    return bool(different) and set(different) <= {*LENGTH, SCHEDULES} and longer


def _length(settings: Mapping[str, Any], name: str) -> float:
    return settings.get(name, DEFAULT_LENGTH[name])


def _is_longer(settings: Mapping[str, Any], than: Mapping[str, Any]) -> bool:
    """Whether settings ask for more steps, or more epochs where no number of steps is given.

    >>> _is_longer({"max_steps": 8}, {"max_steps": 4}), _is_longer({"num_train_epochs": 5}, {})
    (True, True)
    >>> _is_longer({"max_steps": 8}, {}), _is_longer({"max_steps": 8}, {"max_steps": 9})
    (False, False)
    """
    (steps, epochs), (steps_before, epochs_before) = ([_length(each, name) for name in LENGTH] for each in (settings, than))
    if steps > 0 or steps_before > 0:
        return steps > steps_before > 0
    return epochs > epochs_before
