"""Flags that every command with a model shares, and what follows from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from inference.client import add_server_flags
from inference.prompts import EMPTY_THINK
from pipeline.errors import UserError
from pipeline.files import require

MODELS_FILE = Path(__file__).resolve().parent.parent / "models.yaml"


def add_model_flags(cli: argparse.ArgumentParser) -> None:
    """Which model runs, and how."""
    model = cli.add_argument_group("model")
    model.add_argument("--model_name_or_path", required=True, help="Hub id, local folder, short name of --models, or with "
                       "--url the server's name for it")  # fmt: skip
    model.add_argument("--models", type=Path, default=MODELS_FILE, help="YAML of short names (the repository's models.yaml)")
    model.add_argument("--lora_path", help="a LoRA adapter on top of it")
    model.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (float32 on CPU)")
    model.add_argument("--device", help="cpu, cuda, cuda:1 (the GPU if there is one)")
    model.add_argument("--device_map", help="Transformers' device_map, such as auto, for models larger than a GPU")
    model.add_argument("--batch", type=int, default=1, help="prompts in a Transformers batch (1)")
    model.add_argument("--use_vllm", action="store_true", help="run with vLLM")
    model.add_argument("--gpu_memory_utilization", type=float, default=0.85, help="vLLM: share of GPU memory (0.85)")
    model.add_argument("--tensor_parallel_size", type=int, help="vLLM: GPUs a layer is spread over (all visible / pipeline)")
    model.add_argument("--pipeline_parallel_size", type=int, default=1, help="vLLM: groups of GPUs that share the layers (1)")
    model.add_argument("--data_parallel_size", type=int, default=1, help="processes that share the samples, each with a "
                       "model and GPUs of its own (1)")  # fmt: skip
    model.add_argument("--seed", type=int, default=0, help="seed of sampling, and of the bootstrap where scores are made (0)")
    server = cli.add_argument_group("server", "an OpenAI-compatible API in place of a model in this process")
    add_server_flags(server)
    server.add_argument("--tokenizer", help="its Hub id or folder, if --model_name_or_path is only the server's name")
    server.add_argument("--chat", action="store_true", help="the chat endpoint, for hosted models whose prompts cannot be "
                        "rendered here")  # fmt: skip


def parse_model(cli: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; a short name of `--models` stands for the flags it lists, which flags on the command line override.

    Raises:
        UserError: the file of short names cannot be read, or names a flag that there is not.
    """
    args = cli.parse_args(argv)
    entry = short_names(args.models).get(args.model_name_or_path)
    if entry is None:
        return args
    name = args.model_name_or_path
    unknown = [flag for flag in entry if not hasattr(args, flag)]
    if unknown or "model_name_or_path" not in entry:
        found = f"{', '.join(unknown)}, which are none" if unknown else "none"
        raise UserError(f"{args.models}, {name}: wanted names of flags with model_name_or_path among them, found {found}")
    cli.set_defaults(**entry)
    args = cli.parse_args(argv)
    args.model_name_or_path = entry["model_name_or_path"]
    return args


def short_names(path: Path) -> dict[str, dict[str, object]]:
    """Short name → flags, of a models.yaml.

    Raises:
        UserError: there is no such file, or it is not a mapping of mappings.
    """
    import yaml

    try:
        found = yaml.safe_load(require(path, "a YAML file of short names", "check --models").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: wanted YAML, found something else: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"{path}: wanted short names, each with flags below it, found something else")
    return found


def add_prompt_flags(cli: argparse.ArgumentParser) -> None:
    """How prompts are made and replies decoded."""
    prompt = cli.add_argument_group("prompt and decoding")
    prompt.add_argument("--instructions", type=Path, help="JSON, task → sentence, in place of ours")
    prompt.add_argument("--think_prompt", action="store_true", help="let decision tasks reason before they answer")
    prompt.add_argument("--direct_answer", action="store_true", help="with --think_prompt: answer at once (/no_think)")
    prompt.add_argument("--think_risk", action="store_true", help="let risk tasks reason too; p(yes) comes after the chain")
    prompt.add_argument("--empty_think", help="the empty think block of models without an enable_thinking switch")
    prompt.add_argument("--max_seq_len", type=int, default=32000, help="tokens of prompt and reply together (32000)")
    prompt.add_argument("--max_new_tokens", type=int, help="tokens of a reply (2048; 4096 with reasoning)")
    prompt.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (0)")


def backend_name(args: argparse.Namespace) -> str:
    """The entry of `inference.backends.BACKENDS` that the flags choose.

    Raises:
        UserError: they contradict each other.
    """
    if args.url is None:
        if args.chat or args.tokenizer:
            raise UserError("--chat, --tokenizer: wanted --url with them, found none")
        return "vllm" if args.use_vllm else "transformers"
    if args.use_vllm:
        raise UserError("--url, --use_vllm: wanted one of them, found both; with --url the server runs the model")
    return "openai"


def empty_think(args: argparse.Namespace) -> str:
    r"""The empty think block of `--empty_think`, in which `\n` is a line end; ours without the flag."""
    return EMPTY_THINK if args.empty_think is None else args.empty_think.replace("\\n", "\n")


AT_LEAST_ONE = ("batch", "max_seq_len", "max_new_tokens", "data_parallel_size", "chunk_num", "limit", "resamples")


def check_lengths(args: argparse.Namespace) -> None:
    """Fill in `--max_new_tokens`, and look at the numbers.

    Raises:
        UserError: a number is below 1, or no room is left for a prompt.
    """
    for name in AT_LEAST_ONE:
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: wanted 1 or more")
    if args.max_new_tokens is None:
        args.max_new_tokens = 4096 if args.think_prompt else 2048
    if args.max_new_tokens >= args.max_seq_len:
        raise UserError(f"--max_new_tokens {args.max_new_tokens}: wanted fewer than --max_seq_len {args.max_seq_len}")
