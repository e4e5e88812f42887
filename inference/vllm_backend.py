"""The vLLM backend: an engine whose queue is kept full over a whole run, on GPUs or with a CPU build."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from inference.backends import NEUTRAL_SAMPLING, Generation, Query, decoded, end_token_ids, load_builder, sampling_seed
from inference.checks import check_vllm
from inference.p_yes import not_a_number, p_yes_from_logprobs, yes_no_tokens
from inference.settings import InferenceSettings, ModelSettings
from pipeline.errors import UserError

# Queries that wait in the engine while as many as fit run (`max_num_seqs`): all that run may end in the same step.
MAX_WAITING = 256

# A CPU build pins threads and takes a share of the memory by itself, which fails on small or shared machines.
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VLLMBackend:
    """A causal language model in vLLM, in this process.

    p(yes) comes from the log-probabilities of the model itself, before any temperature or bias (`raw_logprobs`).
    """

    continues = True

    def __init__(self, settings: InferenceSettings) -> None:
        check_vllm()
        import torch

        model, self.decoding = settings.model, settings.decoding
        self.builder = load_builder(settings)
        self.tokenizer = self.builder.tokenizer
        options = device_options(torch.cuda.device_count(), model)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing leaves the machine, not even what it is
        os.environ.setdefault("VLLM_COMPUTE_NANS_IN_LOGITS", "1")  # counted on the device, read in `_reply`
        from vllm import LLM

        try:
            self.engine = LLM(
                model.model_name_or_path,
                max_model_len=settings.prompt.max_seq_len,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                # prompts come as token ids, and replies are decoded here, whatever the kind of tokenizer
                skip_tokenizer_init=True,
                trust_remote_code=model.trust_remote_code,
                generation_config="auto" if model.model_sampling else "vllm",  # "vllm": no sampling settings of the model
                enable_lora=bool(model.lora_path),
                max_lora_rank=_lora_rank(model.lora_path),
                seed=self.decoding.seed or 0,
                disable_log_stats=False,  # the hit rate of the prefix cache, and whether logits were NaN
                **options,
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            message = f"{model.model_name_or_path}: expected a model that vLLM can run here, got: {reason}."
            raise UserError(f"{message} Check the flags of the model, or omit --use_vllm.") from None
        self._own_sampling = self.engine.get_default_sampling_params()
        self._lora = None
        if model.lora_path:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("adapter", 1, model.lora_path)
        of_model = self.engine.model_config.try_get_generation_config().get("eos_token_id")
        self._end_ids = end_token_ids(self.tokenizer, of_model, self.builder.family)
        running = self.engine.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self._max_in_flight = running + min(running, MAX_WAITING)

    @cached_property
    def _yes_no(self) -> tuple[list[int], list[int]]:
        """Token ids of yes and of no: only risk tasks need a vocabulary that tells them apart."""
        return yes_no_tokens(self.tokenizer)

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        """See `Backend.answer`. Whenever a reply is finished, another query is handed to the engine."""
        engine, numbered = self.engine.llm_engine, enumerate(queries)
        in_flight: dict[str, tuple[int, Query]] = {}
        try:
            while True:
                for number, query in islice(numbered, self._max_in_flight - len(in_flight)):
                    prompt = {"prompt_token_ids": list(query.ids or self.builder.ids(query.prompt))}
                    engine.add_request(str(number), prompt, self._parameters(query), lora_request=self._lora)
                    in_flight[str(number)] = number, query
                if not in_flight:
                    return
                for output in engine.step():
                    number, query = in_flight.pop(output.request_id)
                    yield number, self._reply(query, output)
        finally:
            engine.abort_request(list(in_flight))

    def _parameters(self, query: Query) -> Any:
        """How vLLM replies to a query; p(yes) needs the log-probabilities of exactly the tokens that spell yes and no."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # Decoded here, as in the Transformers backend: the same tokens give the same text.
        options = {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
        if query.score:
            return SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=list(chain(*self._yes_no)), **options)
        temperature, seed = self.decoding.temperature, None
        if temperature > 0:
            seed = sampling_seed(self.decoding.seed, query.prompt, query.sample)
        own = {name: getattr(self._own_sampling, name) for name in NEUTRAL_SAMPLING}
        options |= {"max_tokens": self.decoding.max_new_tokens, "stop_token_ids": self._end_ids}
        return SamplingParams(temperature=temperature, seed=seed, **own, **options)

    def _reply(self, query: Query, output: Any) -> Generation:
        completion, prompt_tokens = output.outputs[0], len(output.prompt_token_ids)
        if output.metrics.is_corrupted:
            raise not_a_number()
        if not query.score:
            return decoded(self.tokenizer, list(completion.token_ids), self._end_ids, prompt_tokens)
        logprobs = {token: entry.logprob for token, entry in completion.logprobs[0].items()}
        yes, no = ([logprobs[token] for token in tokens] for tokens in self._yes_no)
        return Generation.scored(*p_yes_from_logprobs(yes, no), prompt_tokens)


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
