"""A training run: its data, the settings that identify it, and its output directory."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.sources import model_source
from evaluation.training_info import TRAINING_FILE, patient_lists_of, write_patient_list
from inference import checks
from inference.backends import load_tokenizer, reading_model
from mimiciv_dataset.index_files import index_paths
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from pipeline.digests import DIGESTS_CACHE
from pipeline.errors import UserError
from pipeline.files import atomic_path, write_json
from pipeline.provenance import Provenance, Source, git_revision, output_of
from pipeline.records import read_record, record_path
from training.arguments import DataArguments
from training.samples import DOMAIN, REASONING, TrainingData
from training.uploads import MODEL_FILES, model_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer, TrainingArguments
    from trl import ModelConfig

CARD_FILE = "README.md"  # users may edit it
LAST_FILE = "trainer_state.json"  # written last: a checkpoint that has it is complete
RANDOM_STATE = "rng_state*.pth"  # saved with the optimizer, whose own files have other names under DeepSpeed and FSDP
OLDER_WEIGHTS = "pytorch_model*.bin"

# What training writes, as glob patterns. --overwrite removes this and nothing else.
MODEL = (
    *(*MODEL_FILES, OLDER_WEIGHTS, "pytorch_model.bin.index.json", "additional_chat_templates/*.jinja"),
    *(LAST_FILE, "training_args.bin"),
)
WRITTEN_TO_OUTPUT = (
    *(*MODEL, TRAINING_FILE, "arguments.json", DIGESTS_CACHE),
    *("completions/rank-*.jsonl", "completions/.rank-*.jsonl.lock", "completions/completions_*.parquet"),  # the last are TRL's
    *("runs/**/events.out.tfevents.*", "emissions.csv"),  # of TensorBoard, of CodeCarbon
)
WRITTEN_TO_CHECKPOINTS = (
    *(*MODEL, RANDOM_STATE, "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "entropy_ctrl_state.json"),
    *("global_step*", "latest", "zero_to_fp32.py"),  # DeepSpeed
    *("pytorch_model_fsdp_*", "optimizer_*"),  # FSDP
)

RULES = 1  # version of what a run does with the same arguments, data and model

# Arguments, by the beginning of their names, that do not decide the weights of the trained model up to rounding.
NOT_DECISIVE = (
    # where results and logs go, and when
    *("output_dir", "logging_", "log_", "report_to", "run_name", "project", "trackio_", "hub_", "push_to_hub", "save_"),
    *("eval_", "do_", "include_", "debug", "disable_tqdm", "skip_memory_metrics", "num_completions_to_print", "show_sample"),
    # how the work is divided among processes and devices
    *("per_device_", "gradient_accumulation_steps", "steps_per_generation", "use_cpu", "local_rank", "accelerator_config"),
    *("parallelism_config", "fsdp", "deepspeed", "ddp_", "dataloader_", "dataset_num_proc", "gradient_checkpointing"),
    *("activation_offloading", "attn_implementation", "torch_compile", "vllm_gpu", "vllm_server", "vllm_mode", "vllm_group"),
    *("vllm_tensor", "vllm_max_model_length", "vllm_enable_sleep", "load_dataset_mode", "remove_unused_columns"),
    # identified by content instead, or about this command only
    *("model_name_or_path", "model_revision", "dataset_name", "root_dir", "instructions", "stage"),
    *("allow_upload", "overwrite", "ignore_data_skip", "resume_from_checkpoint"),
)
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
    files = index_paths(script_args.dataset_name.split(","))
    if not model_args.model_name_or_path:
        raise UserError("--model_name_or_path: expected a Hub id or local directory, got none.")
    check_model(model_args.model_name_or_path)
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
    """A summary of a run, for `ehr_training.json` and the model card."""
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


def run_provenance(
    script: str, script_args: DataArguments, args: TrainingArguments, model_args: ModelConfig, data: TrainingData, batch: int
) -> Provenance:
    """What a run is made from: the model, the data, and all arguments that decide the result.

    Args:
        script: `sft.py` or `grpo.py`.
        args, model_args: arguments in effect.
        batch: global batch, in samples or prompts.
    """
    name = model_args.model_name_or_path
    sources = [base_model_source(name, model_args.model_revision)]
    for number, file in enumerate(data.files, 1):
        sources += index_sources(Path(file), f"data/{number}")
    if not data.rendered:
        root = Path(data.root_dir)
        sources += [trajectories_source(root / "patients_ehr"), index_mapping_source(root / "index_mapping")]
    settings = {"global_batch": batch, **data.settings()}
    for arguments in (script_args, args, model_args):
        settings |= _decisive(arguments)
    words = sys.argv[1:]
    pairs = zip(["", *words], words, strict=False)
    arguments = [word for before, word in pairs if "--hub_token" not in (before, word.partition("=")[0])]
    options = {"flag": "--output_dir", "written": written_files}
    return Provenance(Path(args.output_dir), script, sources, settings, RULES, arguments, **options)


def written_files(folder: Path) -> list[Path]:
    """The files and directories in an output directory that training wrote, by their names."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    written = {folder: WRITTEN_TO_OUTPUT} | dict.fromkeys(numbered, WRITTEN_TO_CHECKPOINTS)
    return sorted(path for place, patterns in written.items() for pattern in patterns for path in place.glob(pattern))


def _decisive(arguments: Any) -> dict[str, Any]:
    """The arguments of a dataclass that decide a result and differ from their defaults."""
    decisive = {}
    for argument in fields(arguments):
        default = argument.default_factory() if argument.default is MISSING else argument.default
        value = getattr(arguments, argument.name)
        if not argument.name.startswith(NOT_DECISIVE) and value != default:
            decisive[argument.name] = value
    return decisive


def check_model(name: str) -> None:
    """Report a directory without a model, or one with an adapter only, before anything is read."""
    folder = Path(name)
    if (folder / "adapter_config.json").exists():
        fix = "Merge it into its base model first, with merge_and_unload of PEFT"
        raise UserError(f"{folder}: expected a whole model, got an adapter. {fix}.")
    if folder.exists():
        checks.check_model(name)
    elif not checks.HUB_ID.fullmatch(name):
        raise UserError(f"{name}: expected a directory with a model, or a Hub id, got neither. Check --model_name_or_path.")


def base_model_source(name: str, revision: str | None = None) -> Source:
    """The model to train: by its files if it is a directory, by its revision if it is on the Hub.

    Raises:
        UserError: there is no such model, or files of it are missing or were changed since its training.
    """
    check_model(name)
    folder = Path(name)
    if not folder.is_dir():
        from transformers import AutoConfig

        with reading_model(name, ValueError):
            config = AutoConfig.from_pretrained(name, revision=revision)
        return Source("model", None, config._commit_hash, is_ancestor=False, by="revision")
    if record_path(folder).exists():
        # Its lineage is left out: a model may be trained on with data of another build.
        return replace(output_of("model", folder, "its training", is_ancestor=False), lineage={})
    return model_source("model", name, folder)


def claim(
    script: str, script_args: DataArguments, args: TrainingArguments, model_args: ModelConfig, data: TrainingData, batch: int
) -> Provenance | None:
    """Claim the output directory of a run; None if it holds the finished model of the same run. All processes must call it.

    A directory that holds neither weights nor checkpoints can be claimed by any run, because there is nothing to resume. For
    the arguments see `run_provenance`.

    Raises:
        UserError: the directory holds a model or checkpoints of another run; or model, index, trajectories and code maps do
            not fit each other.
    """
    from accelerate.utils import broadcast_object_list

    provenance, folder = None, Path(args.output_dir)
    if args.process_index == 0:
        provenance = run_provenance(script, script_args, args, model_args, data, batch)
        used = has_weights(folder) or last_checkpoint(folder) is not None
        provenance.check_output()
        unfinished_removal = (read_record(provenance.path) or {}).get("removing")
        if not (used or script_args.overwrite or unfinished_removal):
            provenance.path.unlink(missing_ok=True)
        if not provenance.begin(script_args.overwrite, used=used):
            provenance = None
    return broadcast_object_list([provenance])[0]


def has_weights(folder: Path) -> bool:
    """Whether a directory holds the weights of a model or adapter."""
    return any(file for pattern in ("*.safetensors", OLDER_WEIGHTS) for file in folder.glob(pattern))


def describe_training(folder: Path, settings: Mapping[str, Any], data: TrainingData) -> None:
    """Write `ehr_training.json`, which belongs to the model, and the list of training patients beside the data."""
    patients = [write_patient_list(Path(data.root_dir), folder.resolve().name, data.patients())]
    patients += [earlier for earlier in patient_lists_of(settings["model"]) if earlier not in patients]
    about = {"training_patients": patients, "git": git_revision(), "data_use": DATA_USE}
    write_json(folder / TRAINING_FILE, {**settings, **about})


def complete(provenance: Provenance, steps: int) -> None:
    """Record that a run is finished, with the digests of the files of its model."""
    folder = provenance.output
    files = [path for path in model_files(folder) if path.name != CARD_FILE]
    provenance.complete(files=[*files, folder / TRAINING_FILE], steps=steps)


def print_arguments(folder: Path, arguments: Mapping[str, Any], notes: Iterable[str]) -> None:
    """Print all arguments, group → dataclass, and the notes; write the arguments to arguments.json."""
    groups = {name: group.to_dict() if hasattr(group, "to_dict") else vars(group) for name, group in arguments.items()}
    text = json.dumps(groups, indent=2, sort_keys=True, default=str)
    with atomic_path(folder / "arguments.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text, *(f"note: {note}" for note in notes), sep="\n")


@contextlib.contextmanager
def constructing_trainer(model: str) -> Iterator[None]:
    """Turn errors of a trainer's constructor, which also loads the model, into a `UserError`."""
    try:
        with reading_model(model), needing_packages():
            yield
    except ValueError as error:  # flags that do not fit each other
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"command line: {reason}. --help_all lists all flags.") from None


@contextlib.contextmanager
def needing_packages() -> Iterator[None]:
    """Turn the error of a missing package, such as bitsandbytes for `--optim adamw_8bit`, into a `UserError`."""
    try:
        yield
    except ImportError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{sys.executable}: expected the packages that model and flags need, got: {reason}.") from None


def train(trainer: Trainer, checkpoint: Path | None) -> dict[str, float]:
    """Train to the end, from `checkpoint` if it is not None, and return the final metrics.

    Raises:
        UserError: the disk refused a checkpoint (earlier ones are kept), or `checkpoint` is damaged.
    """
    from safetensors import SafetensorError

    try:
        with needing_packages():
            return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics
    except (OSError, RuntimeError, SafetensorError, EOFError, pickle.UnpicklingError, json.JSONDecodeError) as error:
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
        (Path(trainer.args.output_dir) / CARD_FILE).write_text(card, encoding="utf-8")
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
