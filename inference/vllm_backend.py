"""The vLLM backend: a window of prompts handed over at once, on GPUs or with a CPU build."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from inference.backends import Generation, LocalBackend, decoded, end_token_ids, load_tokenizer
from inference.checks import check_vllm
from inference.p_yes import p_yes_from_logprobs, yes_no_tokens
from inference.prompts import PromptBuilder
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings
from pipeline.errors import UserError

# A CPU build pins threads and takes a share of the memory by itself, which fails on small or shared machines.
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VLLMBackend(LocalBackend):
    """A causal language model in vLLM, in this process.

    p(yes) comes from the log-probabilities of the model itself, before any temperature or bias (`raw_logprobs`).
    """

    window = 512

    def __init__(self, settings: InferenceSettings) -> None:
        check_vllm()
        import torch

        model, self.decoding = settings.model, settings.decoding
        self.tokenizer = load_tokenizer(model.model_name_or_path)
        self.builder = PromptBuilder(self.tokenizer, settings.prompt.empty_think_block)
        self._yes, self._no = yes_no_tokens(self.tokenizer)
        options = device_options(torch.cuda.device_count(), model)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing leaves the machine, not even what it is
        from vllm import LLM

        try:
            self.engine = LLM(
                model.model_name_or_path,
                max_model_len=settings.prompt.max_seq_len,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                generation_config="vllm",  # no sampling parameters from the folder of the model
                enable_lora=bool(model.lora_path),
                max_lora_rank=_lora_rank(model.lora_path),
                seed=self.decoding.seed or 0,
                disable_log_stats=False,  # so that the hit rate of the prefix cache can be read
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            message = f"{model.model_name_or_path}: expected a model that vLLM can run here, got: {reason}."
            raise UserError(f"{message} Check the flags of the model, or omit --use_vllm.") from None
        self._lora = None
        if model.lora_path:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("adapter", 1, model.lora_path)
        self._end_ids = end_token_ids(self.tokenizer, self.engine.model_config.try_get_generation_config().get("eos_token_id"))

    def _run(self, prompts: Sequence[str], temperature: float, **sampling: Any) -> list[Any]:
        """The first completion of each prompt; prompts hold their special tokens already."""
        if not prompts:
            return []
        from vllm import SamplingParams

        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        parameters = SamplingParams(temperature=temperature, seed=self.decoding.seed if temperature > 0 else None, **sampling)
        tokens = [{"prompt_token_ids": prompt} for prompt in ids]
        outputs = self.engine.generate(tokens, parameters, use_tqdm=False, lora_request=self._lora)
        return [output.outputs[0] for output in outputs]

    def generate(self, prompts: Sequence[str], decoding: DecodingSettings) -> Iterator[tuple[int, Generation]]:
        # Decoded here, as in the Transformers backend: the same tokens give the same text.
        limits = {"max_tokens": decoding.max_new_tokens, "stop_token_ids": self._end_ids}
        for row, completion in enumerate(self._run(prompts, decoding.temperature, detokenize=False, **limits)):
            yield row, decoded(self.tokenizer, list(completion.token_ids), self._end_ids)

    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from the log-probabilities of exactly the tokens that spell yes and no."""
        completions = self._run(prompts, 0.0, max_tokens=1, logprob_token_ids=[*self._yes, *self._no], detokenize=False)
        for row, completion in enumerate(completions):
            logprobs = {token: entry.logprob for token, entry in completion.logprobs[0].items()}
            yes, no = ([logprobs[token] for token in tokens] for tokens in (self._yes, self._no))
            yield row, Generation.scored(*p_yes_from_logprobs(yes, no))


def device_options(gpus: int, model: ModelSettings) -> dict[str, Any]:
    """Options of vLLM for a machine with this number of visible GPUs; without any, those of the CPU build."""
    pipeline = model.pipeline_parallel_size
    tensor = model.tensor_parallel_size or max(1, gpus // pipeline)
    if pipeline * tensor > max(gpus, 1):
        flags = f"--tensor_parallel_size {tensor}, --pipeline_parallel_size {pipeline}"
        product = f"expected a product of at most {max(gpus, 1)}, got {pipeline * tensor}"
        raise UserError(f"{flags}: {product} (visible GPUs: {gpus}).")
    if gpus:
        parallel = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
        return {"dtype": model.dtype, "gpu_memory_utilization": model.gpu_memory_utilization} | parallel
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return {"dtype": "float32" if model.dtype == "auto" else model.dtype, "enforce_eager": True, "max_num_seqs": 64}


def _lora_rank(adapter: str | None) -> int:
    """The smallest `max_lora_rank` of vLLM that holds the adapter."""
    if not adapter:
        return 16
    from peft import PeftConfig

    rank = PeftConfig.from_pretrained(adapter).r
    return next((size for size in (8, 16, 32, 64, 128, 256, 512) if size >= rank), 512)
