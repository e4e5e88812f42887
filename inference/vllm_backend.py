"""The vLLM backend: a window of prompts handed over at once, on GPUs or with a CPU build."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from inference.backends import Generation, load_tokenizer, p_yes, yes_no_tokens
from inference.prompts import PromptBuilder
from inference.settings import empty_think
from pipeline.errors import UserError

WINDOW = 512
"""Prompts handed over at once: plenty for the scheduler to choose from, few enough that results reach the disk often."""

# A CPU build pins threads and takes a share of the memory by itself, which fails on small or shared machines.
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VLLMBackend:
    """A causal language model in vLLM, in this process.

    p(yes) is read from the log-probabilities of the model itself, before any temperature or bias (`raw_logprobs`).

    Args:
        args: `model_name_or_path`, `lora_path`, `dtype`, `max_seq_len`, `gpu_memory_utilization`,
            `tensor_parallel_size` (None: all visible GPUs, but for pipeline), `pipeline_parallel_size`, `seed`,
            `empty_think`.

    Raises:
        UserError: vLLM is not installed, or cannot load the model.
    """

    window, continues = WINDOW, True

    def __init__(self, args: argparse.Namespace) -> None:
        if find_spec("vllm") is None:
            raise UserError("--use_vllm: wanted the package vllm, found none; install requirements.txt (GPU) or "
                            "requirements-cpu.txt, or leave --use_vllm out")  # fmt: skip
        import torch

        self.tokenizer = load_tokenizer(args.model_name_or_path)
        self.builder = PromptBuilder(self.tokenizer, empty_think(args))
        self.failures: Counter[str] = Counter()
        self._yes, self._no = yes_no_tokens(self.tokenizer)
        options = _device_options(torch.cuda.device_count(), args)
        from vllm import LLM

        try:
            self.engine = LLM(
                args.model_name_or_path,
                max_model_len=args.max_seq_len,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                generation_config="vllm",  # our sampling parameters only, none from the model's folder
                enable_lora=bool(args.lora_path),
                max_lora_rank=_lora_rank(args.lora_path),
                seed=args.seed,
                disable_log_stats=False,  # for prefix_cache_hit_rate
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{args.model_name_or_path}: wanted a model that vLLM can run here, found: {reason}") from None
        self._lora = None
        if args.lora_path:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("adapter", 1, args.lora_path)
        self._seed = args.seed
        ends = self.engine.model_config.try_get_generation_config().get("eos_token_id") or []
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = sorted({end for end in [*ends, self.tokenizer.eos_token_id] if end is not None})

    def _run(self, prompts: Sequence[str], **sampling: Any) -> list[Any]:
        """vLLM's outputs, in the order of the prompts; a prompt holds its special tokens already."""
        if not prompts:
            return []
        from vllm import SamplingParams

        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        done = self.engine.generate(
            [{"prompt_token_ids": one} for one in ids],
            SamplingParams(seed=self._seed if sampling["temperature"] > 0 else None, **sampling),
            use_tqdm=False,
            lora_request=self._lora,
        )
        return [one.outputs[0] for one in done]

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to rendered prompts; temperature 0 is greedy."""
        # The text is decoded by us, as the Transformers backend does it: same tokens, same text.
        done = self._run(
            prompts, temperature=temperature, max_tokens=max_new_tokens, stop_token_ids=self._ends, detokenize=False
        )
        for row, one in enumerate(done):
            ids = list(one.token_ids)
            end = next((i for i, token in enumerate(ids) if token in self._ends), None)
            text = self.tokenizer.decode(ids[:end], skip_special_tokens=False)
            yield row, Generation(text, "length" if end is None else "stop")

    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from the log-probabilities of exactly the tokens that spell yes and no."""
        wanted = [*self._yes, *self._no]
        done = self._run(prompts, temperature=0.0, max_tokens=1, logprob_token_ids=wanted, detokenize=False)
        for row, one in enumerate(done):
            found = {token: entry.logprob for token, entry in one.logprobs[0].items()}
            yield row, Generation.scored(p_yes([found[token] for token in self._yes], [found[token] for token in self._no]))

    def prefix_cache_hit_rate(self) -> float | None:
        """Share of prompt tokens so far that were found in the prefix cache; None before any prompt."""
        counts = {metric.name: metric.value for metric in self.engine.get_metrics() if "prefix_cache" in metric.name}
        asked = counts.get("vllm:prefix_cache_queries", 0)
        return counts.get("vllm:prefix_cache_hits", 0) / asked if asked else None


def _device_options(gpus: int, args: argparse.Namespace) -> dict[str, Any]:
    """vLLM's settings for this machine: all visible GPUs, or the CPU build's.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    pipeline = args.pipeline_parallel_size
    tensor = args.tensor_parallel_size or max(1, gpus // max(1, pipeline))
    if min(pipeline, tensor) < 1 or pipeline * tensor > max(gpus, 1):
        raise UserError(f"--tensor_parallel_size {tensor} × --pipeline_parallel_size {pipeline}: wanted at most "
                        f"{max(gpus, 1)} in all (visible GPUs: {gpus}), each at least 1")  # fmt: skip
    if gpus:
        return {
            "dtype": args.dtype,
            "gpu_memory_utilization": args.gpu_memory_utilization,
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
        }
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return {"dtype": "float32" if args.dtype == "auto" else args.dtype, "enforce_eager": True, "max_num_seqs": 64}


def _lora_rank(adapter: str | None) -> int:
    """The smallest rank vLLM can be told that holds the adapter's (8 to 512, powers of two)."""
    if not adapter:
        return 16
    from peft import PeftConfig

    rank = PeftConfig.from_pretrained(adapter).r
    return next((size for size in (8, 16, 32, 64, 128, 256, 512) if size >= rank), 512)
