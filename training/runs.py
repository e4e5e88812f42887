"""A training run: its data, the settings that identify it, and its output directory."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.sources import model_source
from evaluation.training_info import patient_lists_of, write_patient_list
from inference import checks, templates
from inference.backends import load_tokenizer, reading_model
from inference.families import TRAINING_FILE
from mimiciv_dataset.index_files import index_paths
from mimiciv_dataset.patients import DATA_USE
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from pipeline.digests import DIGESTS_CACHE
from pipeline.errors import UserError
from pipeline.files import atomic_path, write_json
from pipeline.provenance import Provenance, Source, git_revision, output_of
from pipeline.records import read_record, record_path
from training.arguments import DataArguments
from training.checkpoints import (
    LAST_FILE,
    RANDOM_STATE,
    Start,
    check_base_weights,
    check_optimizer_state,
    continued,
    extends,
    last_checkpoint,
    requested_checkpoint,
)
from training.held_out import held_out_sources, selects_model
from training.samples import DOMAIN, REASONING, TrainingData
from training.uploads import MODEL_FILES, model_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
    from trl import ModelConfig

CARD_FILE = "README.md"  # users may edit it
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

RULES = 2  # version of what a run does with the same arguments, data and model; 2: rewards read special tokens

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
    *("model_name_or_path", "model_revision", "dataset_name", "root_dir", "instructions", "stage", "chat_template_path"),
    *("allow_upload", "overwrite", "ignore_data_skip", "resume_from_checkpoint"),
)
# Arguments that are decisive only if the saved model is the best of several (`held_out.selects_model`).
SELECTION = (
    *("eval_strategy", "eval_steps", "eval_delay", "eval_metric_samples", "eval_max_new_tokens"),
    *("save_strategy", "save_steps"),
)
# What the record of a model says about its optimizer.
OPTIMIZER = (
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
)
EVALUATED = ("eval_loss", "eval_mean_token_accuracy", "eval_f1", "eval_auroc")  # what the model card says of an evaluation
DISK_ERRORS = ("No space left", "quota exceeded", "File too large", "PytorchStreamWriter", "unexpected pos")


def load_training_data(
    script_args: DataArguments, args: TrainingArguments, model_args: ModelConfig, max_tokens: int, for_rl: bool = False
) -> TrainingData:
    """The rows of `--dataset_name`, with the tokenizer of the model, whose end token and template can be replaced."""
    stage = script_args.stage
    if stage not in (None, DOMAIN, REASONING):
        raise UserError(f"--stage: expected {DOMAIN} or {REASONING}, got {stage}.")
    if not script_args.dataset_name:
        raise UserError("--dataset_name: expected an index CSV or JSONL to train on, got none.")
    files = index_paths(script_args.dataset_name.split(","))
    if not model_args.model_name_or_path:
        raise UserError("--model_name_or_path: expected a Hub id or local directory, got none.")
    check_model(model_args.model_name_or_path)
    eos_token = getattr(script_args, "eos_token", None) or getattr(args, "eos_token", None)
    tokenizer = training_tokenizer(args, model_args, eos_token)
    options = {"stage": stage, "instructions": script_args.instructions, "as_known": script_args.as_known}
    data = TrainingData(script_args.root_dir, files, tokenizer, max_tokens, for_rl=for_rl, **options)
    if stage == REASONING and not (data.has_chains or for_rl):
        wrong = "expected chains in the column reasoning, because of --stage reasoning, got none"
        fix = "Make them with scripts/reasoning_synthesis/synthesis.sh, or train on answers with --stage domain"
        raise UserError(f"{script_args.dataset_name}: {wrong}. {fix}.")
    return data


def training_tokenizer(
    args: TrainingArguments, model_args: ModelConfig, eos_token: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model, with the chat template of the flags and the end token of turns: it is saved as it is."""
    trusted = {"trust_remote_code": True} if getattr(args, "trust_remote_code", False) else {}
    tokenizer = load_tokenizer(model_args.model_name_or_path, revision=model_args.model_revision, **trusted)
    if template := getattr(args, "chat_template_path", None):
        if not Path(template).is_file():
            fix = "Save the template of another model as a file, and pass that"
            raise UserError(f"--chat_template_path {template}: expected a file with a Jinja template, got none. {fix}.")
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    set_end_token(tokenizer, eos_token)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def set_end_token(tokenizer: PreTrainedTokenizerBase, token: str | None = None) -> None:
    """Make the token that ends a turn the end token of a tokenizer, so that training, sampling and the saved model agree.

    It is `token` (`--eos_token`), else the one that the chat template writes after an answer, else that of the tokenizer.
    """
    name = tokenizer.name_or_path
    if token is not None and not templates.has_token(tokenizer, token):
        raise UserError("--eos_token: expected a token of the model's vocabulary, got another. Check its spelling.")
    tokenizer.eos_token = token or templates.end_of_turn(tokenizer)[1] or tokenizer.eos_token
    if tokenizer.eos_token is None:
        wrong = "expected an end-of-turn token, got none, neither in the tokenizer nor in the chat template"
        raise UserError(f"{name}: {wrong}. Set --eos_token to the token that ends a turn.")


def run_settings(
    method: str, model_args: ModelConfig, data: TrainingData, args: TrainingArguments, global_batch: int, **others: Any
) -> dict[str, Any]:
    """A summary of a run, for `ehr_training.json` and the model card."""
    return {
        "method": method,
        "model": model_args.model_name_or_path,
        "family": data.builder.family.name,
        "template_date": data.builder.facts()["template_date"],
        "data": data.fingerprint(),
        "seed": args.seed,
        "global_batch": global_batch,
        "epochs": args.num_train_epochs,
        "learning_rate": args.learning_rate,
        "optimizer": {name: getattr(args, name) for name in OPTIMIZER if getattr(args, name) is not None},
        "lora": model_args.lora_r if model_args.use_peft else None,
    } | others


def run_provenance(
    script: str,
    script_args: DataArguments,
    args: TrainingArguments,
    model_args: ModelConfig,
    data: TrainingData,
    batch: int,
    held_out: TrainingData | None = None,
) -> Provenance:
    """What a run is made from: the model, the data, and all arguments that decide the result.

    Args:
        script: `sft.py` or `grpo.py`.
        args, model_args: arguments in effect.
        batch: global batch, in samples or prompts.
        held_out: rows that the model is evaluated on; they decide the result if it selects the best checkpoint.
    """
    selecting = selects_model(script_args, args)
    name = model_args.model_name_or_path
    sources = [base_model_source(name, model_args.model_revision)]
    for number, file in enumerate(data.files, 1):
        sources += index_sources(Path(file), f"data/{number}")
    if selecting and held_out:
        sources += held_out_sources(held_out)
    if not data.rendered:
        root = Path(data.root_dir)
        sources += [trajectories_source(root / "patients_ehr"), index_mapping_source(root / "index_mapping")]
    settings = {"global_batch": batch, **data.settings(), **_deepspeed_optimizer(args)}
    for arguments in (script_args, args, model_args):
        settings |= _decisive(arguments, SELECTION if selecting else ())
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


def _deepspeed_optimizer(args: TrainingArguments) -> dict[str, Any]:
    """What a configuration of DeepSpeed sets instead of the training arguments; AdamW is the same with and without it."""
    config = args.deepspeed_plugin.deepspeed_config if args.deepspeed_plugin else {}
    kinds = {name: (config.get(name) or {}).get("type") for name in ("optimizer", "scheduler")}
    return {f"deepspeed_{name}": kind for name, kind in kinds.items() if kind and kind.lower() not in ("adam", "adamw")}


def _decisive(arguments: Any, also: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of a dataclass that decide a result and differ from their defaults; `also` names further decisive ones."""
    decisive = {}
    for argument in fields(arguments):
        default = argument.default_factory() if argument.default is MISSING else argument.default
        value = getattr(arguments, argument.name)
        if (argument.name in also or not argument.name.startswith(NOT_DECISIVE)) and value != default:
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
    script: str,
    script_args: DataArguments,
    args: TrainingArguments,
    model_args: ModelConfig,
    data: TrainingData,
    batch: int,
    held_out: TrainingData | None = None,
) -> Start | None:
    """Claim the output directory of a run; None if it holds the finished model of the same run. All processes must call it.

    A directory that holds neither weights nor checkpoints can be claimed by any run, because there is nothing to resume. For
    the arguments see `run_provenance`.

    Raises:
        UserError: the directory holds a model or checkpoints of another run; there is no checkpoint as requested; the model
            lacks weights; or model, index, trajectories and code maps do not fit each other.
    """
    from accelerate.utils import broadcast_object_list

    start = None
    if args.process_index == 0:
        start = _start(run_provenance(script, script_args, args, model_args, data, batch, held_out), script_args, args)
        if start and start.checkpoint:
            check_optimizer_state(start.checkpoint, deepspeed=args.deepspeed_plugin is not None)
        if start:
            check_base_weights(model_args.model_name_or_path, model_args.model_revision, args)
    return broadcast_object_list([start])[0]


def _start(provenance: Provenance, script_args: DataArguments, args: TrainingArguments) -> Start | None:
    """Claim the output of a run, and find where it starts; None if it is finished."""
    folder, requested = provenance.output, args.resume_from_checkpoint
    requested = None if requested is None else str(requested)  # a YAML file has true and false
    provenance.check_output()
    afresh = script_args.overwrite or bool((read_record(provenance.path) or {}).get("removing"))
    is_path = (requested or "true").lower() not in ("true", "false")
    if afresh and is_path and Path(requested).resolve().is_relative_to(folder.resolve()):
        wrong = "expected a checkpoint outside of --output_dir, because of --overwrite, got one inside"
        raise UserError(f"--resume_from_checkpoint {requested}: {wrong}. Omit one of the flags.")
    checkpoint = requested_checkpoint(folder, requested) if is_path or not afresh else None
    used = has_weights(folder) or last_checkpoint(folder) is not None
    if not (used or afresh):
        provenance.path.unlink(missing_ok=True)
    if checkpoint or not afresh:
        provenance = continued(provenance, checkpoint, args.lr_scheduler_type.value)
    if checkpoint and not afresh and extends(provenance):
        provenance.claim()
    return Start(provenance, checkpoint) if provenance.begin(script_args.overwrite, used=used) else None


def has_weights(folder: Path) -> bool:
    """Whether a directory holds the weights of a model or adapter."""
    return any(file for pattern in ("*.safetensors", OLDER_WEIGHTS) for file in folder.glob(pattern))


def describe_training(folder: Path, settings: Mapping[str, Any], data: TrainingData) -> None:
    """Write `ehr_training.json`, which belongs to the model, and the list of training patients beside the data."""
    patients = [write_patient_list(Path(data.root_dir), folder.resolve().name, data.patients())]
    patients += [earlier for earlier in patient_lists_of(settings["model"]) if earlier not in patients]
    about = {"training_patients": patients, "git": git_revision(), "data_use": DATA_USE}
    write_json(folder / TRAINING_FILE, {**settings, **about})


def complete(provenance: Provenance, trainer: Trainer) -> None:
    """Record that a run is finished, with the digests of the files of its model, and of which step the model is."""
    folder, state = provenance.output, trainer.state
    files = [path for path in model_files(folder) if path.name != CARD_FILE]
    results = {"steps": state.global_step, "saved_step": saved_step(trainer)}
    if results["saved_step"] != state.global_step:
        results[trainer.args.metric_for_best_model] = state.best_metric
    provenance.complete(files=[*files, folder / TRAINING_FILE], **results)


def saved_step(trainer: Trainer) -> int:
    """The step whose weights are saved: the best one with `--load_best_model_at_end`, else the last."""
    best = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    return int(best.rpartition("-")[2]) if best else trainer.state.global_step


def best_checkpoint(trainer: Trainer) -> str:
    """The part of a summary that names the best checkpoint, if the model is chosen by a metric."""
    if not (trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint):
        return ""
    metric = "eval_" + trainer.args.metric_for_best_model.removeprefix("eval_")
    return f", best at step {saved_step(trainer):,} ({metric} {trainer.state.best_metric:.4f})"


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
    except (ValueError, TypeError) as error:  # flags that do not fit each other, or the model
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

    if checkpoint:
        trainer.args.eval_on_start = False
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
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if held_out := next((entry for entry in evaluated if entry["step"] == saved_step(trainer)), None):
        results += [f"\nEvaluation set at step {held_out['step']:,}, whose weights these are:\n"]
        results += [f"- {name}: {value:.4g}" for name, value in held_out.items() if name in EVALUATED]
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
