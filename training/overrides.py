"""Changes to the arguments of TRL's trainers. Arguments are copied, never modified, and only here."""

from __future__ import annotations

import copy
from dataclasses import MISSING, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import UserError
from training.arguments import DataArguments, GRPOArguments
from training.held_out import check_evaluation
from training.rewards import BRIER
from training.uploads import check_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments
    from trl import GRPOConfig, ModelConfig

    Arguments = TypeVar("Arguments", bound=TrainingArguments)

T = TypeVar("T")


def apply_overrides(
    args: Arguments, script_args: DataArguments, model_args: ModelConfig, notes: list[str]
) -> tuple[Arguments, ModelConfig, list[str]]:
    """Replace values that would harm a run or that this machine cannot do.

    Returns the arguments to use and to record, and `notes` with one for each change that the user should know.
    """
    check_trackers(args.report_to)
    check_numbers(args)
    check_replaced(args)
    check_evaluation(script_args, args)
    on_gpu, notes = args.device.type != "cpu", list(notes)
    attention, reason = usable_attention(model_args.attn_implementation, on_gpu, getattr(args, "packing", False))
    if reason:
        notes.append(f"--attn_implementation {model_args.attn_implementation} → {attention}: {reason}")
        model_args = _replace(model_args, {"attn_implementation": attention})
    changes: dict[str, Any] = {"dataloader_pin_memory": args.dataloader_pin_memory and on_gpu}
    if args.push_to_hub:
        changes |= {"push_to_hub": False, "hub_token": None}
        notes.append("the trainer's --push_to_hub is set to False: only the files of the finished model are uploaded")
    if args.hub_private_repo is None:
        changes["hub_private_repo"] = True  # for the Space of Trackio
    if args.ignore_data_skip:
        changes["ignore_data_skip"] = False
        notes.append("--ignore_data_skip is set to False: a resumed run continues with the next unseen sample")
    accelerator = changes["accelerator_config"] = copy.copy(args.accelerator_config)
    if accelerator.dispatch_batches:
        accelerator.dispatch_batches = False
        notes.append("dispatch_batches is set to False: every process prepares its own samples and waits for no other")
    if accelerator.split_batches and isinstance(script_args, GRPOArguments):
        notes.append("split_batches is set to False: in GRPO --per_device_train_batch_size is the batch of one process")
    elif accelerator.split_batches:
        batch, processes = args.per_device_train_batch_size, args.world_size
        if batch % processes:
            wrong = f"expected a multiple of the {processes} processes, got {batch}"
            raise UserError(f"--per_device_train_batch_size with split_batches: {wrong}. Change one of them.")
        changes["per_device_train_batch_size"] = batch // processes
        share = f"is the batch of all {processes} processes together, {batch // processes} each"
        notes.append(f"split_batches: --per_device_train_batch_size {batch} {share}")
    accelerator.split_batches = False
    for name in ("use_liger_kernel", "activation_offloading"):
        if getattr(args, name, False) and not on_gpu:
            changes[name] = False
            notes.append(f"--{name} is set to False: it needs a GPU")
    if getattr(script_args, "early_stopping_patience", None) is not None and args.metric_for_best_model is None:
        changes |= {"metric_for_best_model": "loss", "greater_is_better": False}
    if isinstance(script_args, GRPOArguments):
        changes["log_completions"] = script_args.log_completions_to_tracker
        if args.log_completions and not script_args.log_completions_to_tracker:
            notes.append("--log_completions is set to False: only --log_completions_to_tracker sends text about patients")
        if BRIER in script_args.rewards and args.scale_rewards == "group":
            changes["scale_rewards"] = "batch"
            notes.append(f"--scale_rewards group → batch: in units of a prompt's own spread, {BRIER} would equal accuracy")
        if args.use_vllm:
            changes["vllm_max_model_length"] = vllm_model_length(args, script_args.max_prompt_length)
    elif args.packing and on_gpu and not any(name in (attention or "") for name in ("flash", "flex")):
        # Flash attention separates packed samples by their lengths, flex attention with a sparse mask. PyTorch's does so with
        # a mask of tokens × tokens: good for tests on a CPU only.
        changes["packing"] = False
        implementations = "kernels-community/flash-attn2, flex_attention"
        notes.append(f"--packing is set to False: it needs --attn_implementation {implementations}, or similar")
    return _replace(args, changes), model_args, notes


# Flags of Transformers and TRL that our samples and their order replace → what to do instead.
REPLACED = {
    "assistant_only_loss": "Omit it: the loss is computed on the answer only",
    "completion_only_loss": "Omit it: --loss_on_prompt computes the loss on prompts too",
    "dataset_text_field": "Omit it: --dataset_name reads index files",
    "dataset_kwargs": "Omit it: --dataset_name reads index files",
    "shuffle_dataset": "Omit it: every epoch is shuffled",
    "truncation_mode": "Omit it: an input that is too long loses its oldest events",
    "packing_strategy": "Omit it: --packing concatenates the samples of a batch",
    "eval_packing": "Omit it: --packing is for training and evaluation",
    "train_sampling_strategy": "Omit it: --length_grouping batches samples of similar length",
    "length_column_name": "Omit it: --length_grouping batches samples of similar length",
    "label_names": "Omit it: the labels are the tokens of the answer",
    "auto_find_batch_size": "Set --per_device_train_batch_size, on which the order of samples depends",
    "batch_eval_metrics": "Omit it: --eval_metric_samples computes metrics",
    "include_for_metrics": "Omit it: --eval_metric_samples computes metrics",
    "fp16_full_eval": "Omit it: evaluation uses the precision of training",
    "bf16_full_eval": "Omit it: evaluation uses the precision of training",
    "restore_callback_states_from_checkpoint": "Omit it: a resumed run continues with all state",
}


POSITIVE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")


def check_numbers(args: TrainingArguments) -> None:
    """Report numbers that leave nothing to train."""
    for name in POSITIVE:
        if (value := getattr(args, name)) < 1:
            raise UserError(f"--{name}: expected at least 1, got {value}.")
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        name = "max_steps" if args.max_steps == 0 else "num_train_epochs"
        raise UserError(f"--{name}: expected a positive number, got {getattr(args, name):g}.")


def check_replaced(args: TrainingArguments) -> None:
    """Report flags that cannot work, because our samples and their order replace what they change."""
    for argument in fields(args):
        default = argument.default_factory() if argument.default is MISSING else argument.default
        if argument.name in REPLACED and getattr(args, argument.name) not in (default, None):
            wrong = "expected the default, because this script replaces what the flag changes, got another value"
            raise UserError(f"--{argument.name}: {wrong}. {REPLACED[argument.name]}.")


def usable_attention(requested: str | None, on_gpu: bool, packing: bool = False) -> tuple[str | None, str | None]:
    """The attention implementation to use, and why it is not the requested one.

    Flash attention needs a GPU, and a package: `kernels`, which downloads from the Hub (`kernels-community/flash-attn2`), or
    `flash_attn` (`flash_attention_2`). If neither can be loaded, PyTorch's own is used: `sdpa`, or `flex_attention` on a GPU
    if it must keep packed samples apart.
    """
    if "flash" not in (requested or "") and "/" not in (requested or ""):
        return requested, None
    if not on_gpu:
        return "sdpa", "flash attention needs a GPU"

    from transformers.modeling_flash_attention_utils import lazy_import_flash_attention

    reason = None
    for name in dict.fromkeys((requested, "flash_attention_2")):
        try:
            lazy_import_flash_attention(name)
            return name, reason
        except (ImportError, ValueError, OSError, RuntimeError) as error:  # no package, no connection, no build for this GPU
            reason = reason or str(error).strip().splitlines()[0]
    return "flex_attention" if packing else "sdpa", reason


def trainer_options(args: Arguments, model_args: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Options of both trainers for samples that `training.samples` has already rendered and shortened.

    TRL must neither tokenize nor truncate them. Packing then is to concatenate the samples of a batch without padding.
    """
    from trl import get_peft_config, get_quantization_config

    model_options = {name: getattr(model_args, name) for name in ("dtype", "attn_implementation")}
    model_options |= {"revision": model_args.model_revision} | (args.model_init_kwargs or {})
    changes: dict[str, Any] = {"model_init_kwargs": model_options, "remove_unused_columns": False}
    if hasattr(args, "packing"):  # an SFTConfig
        changes |= {"packing": False, "padding_free": args.packing or args.padding_free, "max_length": None}
        changes |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "chat_template_path": None}  # it is in the tokenizer
    options = {"model": model_args.model_name_or_path, "args": _replace(args, changes), "processing_class": tokenizer}
    adapters = {"peft_config": get_peft_config(model_args), "quantization_config": get_quantization_config(model_args)}
    return options | adapters


def vllm_model_length(args: GRPOConfig, max_prompt_length: int) -> int:
    """The context length, in tokens, of the vLLM engine that samples completions (`--use_vllm`)."""
    if find_spec("vllm") is None:
        raise UserError("--use_vllm: expected the package vllm, got none. Install requirements.txt, or omit --use_vllm.")
    minimum = max_prompt_length + args.max_completion_length
    length = args.vllm_max_model_length or minimum
    if length < minimum:
        lengths = "--max_prompt_length + --max_completion_length"
        raise UserError(f"--vllm_max_model_length: expected at least {minimum} ({lengths}), got {length}. Increase it.")
    return length


def _replace(args: T, changes: dict[str, Any]) -> T:
    """A copy with other values; `dataclasses.replace` would initialize devices and DeepSpeed a second time."""
    replaced = copy.copy(args)
    vars(replaced).update(changes)
    return replaced
