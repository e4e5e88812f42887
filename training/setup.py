"""What both trainers do before they train: files, tokenizer, model, settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from inference.backends import load_tokenizer as load
from mimiciv_dataset.index_files import HOW_TO_GET_INDEX
from pipeline.errors import UserError
from pipeline.files import require
from training.arguments import DataArguments
from training.samples import DOMAIN, REASONING, Source, end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments
    from trl import GRPOConfig, ModelConfig


def split_files(data: DataArguments) -> list[str]:
    """The files of `--dataset_name`.

    Raises:
        UserError: none is given, one is missing, or `--stage` is none of the stages.
    """
    if data.stage not in (None, DOMAIN, REASONING):
        raise UserError(f"--stage {data.stage}: wanted {DOMAIN} or {REASONING}")
    if not data.dataset_name:
        raise UserError("wanted --dataset_name, an index CSV or JSONL to train on, found none")
    return [str(require(name, "an index CSV or JSONL", HOW_TO_GET_INDEX)) for name in data.dataset_name.split(",")]


def load_tokenizer(model_args: ModelConfig, eos_token: str | None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a token to pad with and an end token that ends a turn.

    Raises:
        UserError: no model is named, it has no tokenizer or chat template, or its template does not end turns.
    """
    if not model_args.model_name_or_path:
        raise UserError("wanted --model_name_or_path, a Hub id or local folder, found none")
    tokenizer = load(model_args.model_name_or_path, revision=model_args.model_revision)
    if not tokenizer.chat_template:
        raise UserError(f"{model_args.model_name_or_path}: wanted a model with a chat template, found none; take the "
                        "instruction-tuned version, or put a chat_template.jinja beside its tokenizer")  # fmt: skip
    if eos_token:
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    end_of_turn(tokenizer)
    return tokenizer


def model_options(model_args: ModelConfig, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """How TRL is to load the model: `--dtype`, `--attn_implementation`, `--model_revision`, and what `given` says."""
    named = {"revision": model_args.model_revision, "dtype": model_args.dtype}
    named["attn_implementation"] = model_args.attn_implementation
    return named | (given or {})


def keeps_samples_apart(model_args: ModelConfig, on_gpu: bool) -> bool:
    """Whether attention keeps samples apart that lie one after another without padding.

    Flash attention does, from their lengths. So does PyTorch's from their positions (a test shows it), but with a mask of
    tokens × tokens, which is for short texts on a CPU only.
    """
    return "flash" in (model_args.attn_implementation or "") or not on_gpu


def prepare_vllm(args: GRPOConfig, max_prompt_length: int, on_gpu: bool) -> None:
    """What must be so before TRL starts vLLM to sample completions (`--use_vllm`).

    Raises:
        UserError: vLLM is not installed, or its `--vllm_max_model_length` is below prompt and completion.
    """
    if find_spec("vllm") is None:
        raise UserError("--use_vllm: wanted the package vllm, found none; install requirements.txt, or leave --use_vllm out")
    needed = max_prompt_length + args.max_completion_length
    args.vllm_max_model_length = args.vllm_max_model_length or needed
    if args.vllm_max_model_length < needed:
        raise UserError(f"--vllm_max_model_length {args.vllm_max_model_length}: wanted at least {needed}, --max_prompt_length "
                        "and --max_completion_length together")  # fmt: skip
    if not on_gpu and args.vllm_mode == "colocate":
        _leave_weights_unpacked()


def _leave_weights_unpacked() -> None:
    """vLLM's CPU build (0.31) packs the weights it begins with and forgets them: it could not take the trained ones."""
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


def settings_of(
    method: str, model_args: ModelConfig, source: Source, args: TrainingArguments, global_batch: int
) -> dict[str, Any]:
    """What makes a run the run it is: others in the same folder are refused."""
    return {
        "method": method,
        "model": model_args.model_name_or_path,
        "data": source.about(),
        "seed": args.seed,
        "global_batch": global_batch,
        "epochs": args.num_train_epochs,
        "learning_rate": args.learning_rate,
        "lora": model_args.lora_r if model_args.use_peft else None,
    }
