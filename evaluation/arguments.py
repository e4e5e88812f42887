"""Flags that every command with a model shares, and what follows from them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mimiciv_dataset.chat import EMPTY_THINK
from mimiciv_dataset.commands import UserError


def add_model_flags(cli: argparse.ArgumentParser) -> None:
    """Which model runs, and how."""
    model = cli.add_argument_group("model")
    model.add_argument("--model_name_or_path", required=True, help="Hub id or local folder")
    model.add_argument("--lora_path", help="a LoRA adapter on top of it")
    model.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto (float32 on CPU)")
    model.add_argument("--device", help="cpu, cuda, cuda:1 (the GPU if there is one)")
    model.add_argument("--device_map", help="Transformers' device_map, such as auto, for models larger than a GPU")
    model.add_argument("--batch", type=int, default=1, help="prompts in a Transformers batch (1)")
    model.add_argument("--use_vllm", action="store_true", help="run with vLLM")
    model.add_argument("--gpu_memory_utilization", type=float, default=0.85, help="vLLM: share of GPU memory (0.85)")
    model.add_argument("--tensor_parallel_size", type=int, help="vLLM: GPUs a layer is spread over (all visible / pipeline)")
    model.add_argument("--pipeline_parallel_size", type=int, default=1, help="vLLM: groups of GPUs that share the layers (1)")
    model.add_argument("--seed", type=int, default=0, help="seed of sampling, and of the bootstrap where scores are made (0)")


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
    """The entry of `evaluation.backends.BACKENDS` that the flags choose."""
    return "vllm" if args.use_vllm else "transformers"


def empty_think(args: argparse.Namespace) -> str:
    r"""The empty think block of `--empty_think`, in which `\n` is a line end; ours without the flag."""
    return EMPTY_THINK if args.empty_think is None else args.empty_think.replace("\\n", "\n")


def check_lengths(args: argparse.Namespace) -> None:
    """Fill in `--max_new_tokens`.

    Raises:
        UserError: no room is left for a prompt.
    """
    if args.max_new_tokens is None:
        args.max_new_tokens = 4096 if args.think_prompt else 2048
    if args.max_new_tokens >= args.max_seq_len:
        raise UserError(f"--max_new_tokens {args.max_new_tokens}: wanted fewer than --max_seq_len {args.max_seq_len}")
