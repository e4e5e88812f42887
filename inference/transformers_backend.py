"""The Transformers backend: left-padded batches sorted by length, on CPU or GPU."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM

from inference.backends import Generation, load_tokenizer, reading_model, yes_no_tokens
from inference.prompts import PromptBuilder
from inference.settings import empty_think


class TransformersBackend:
    """A causal language model of Transformers.

    Args:
        args: `model_name_or_path`, `lora_path`, `batch`, `dtype`, `device`, `device_map`, `seed`, `empty_think`.
    """

    continues = True

    def __init__(self, args: argparse.Namespace) -> None:
        self.batch = args.batch
        self.window = max(64, 8 * args.batch)
        self.tokenizer = load_tokenizer(args.model_name_or_path, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.builder = PromptBuilder(self.tokenizer, empty_think(args))
        self.failures: Counter[str] = Counter()
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = args.dtype if args.dtype != "auto" else ("float32" if device == "cpu" else "auto")
        with reading_model(args.model_name_or_path, ValueError):
            model = AutoModelForCausalLM.from_pretrained(
                args.model_name_or_path, dtype=dtype, device_map=args.device_map or {"": device}
            )
        if args.lora_path:
            from peft import PeftModel

            with reading_model(args.lora_path, ValueError):
                model = PeftModel.from_pretrained(model, args.lora_path)
        self.model = model.eval()
        torch.manual_seed(args.seed)
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = sorted({end for end in [*ends, self.tokenizer.eos_token_id] if end is not None})
        self._yes, self._no = yes_no_tokens(self.tokenizer)

    def _batches(self, prompts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Batches of similar length, longest first, so that one too large for memory fails at once."""
        ids = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
        order = sorted(range(len(prompts)), key=lambda i: (-len(ids[i]), i))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            padded = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            yield rows, {name: tensor.to(self.model.device) for name, tensor in padded.items()}

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to rendered prompts; temperature 0 is greedy."""
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature > 0 else {
            "do_sample": False, "temperature": None, "top_p": None, "top_k": None}  # fmt: skip
        sampling["repetition_penalty"] = 1.0  # a model's own generation settings (Qwen2.5: 1.05) would change answers
        for rows, batch in self._batches(prompts):
            output = self.model.generate(
                **batch, max_new_tokens=max_new_tokens, eos_token_id=self._ends,
                pad_token_id=self.tokenizer.pad_token_id, **sampling,
            )  # fmt: skip
            for row, ids in zip(rows, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((i for i, token in enumerate(ids) if token in self._ends), None)
                text = self.tokenizer.decode(ids[:end], skip_special_tokens=False)
                yield row, Generation(text, "length" if end is None else "stop")

    @torch.inference_mode()
    def score_yes_no(self, prompts: Sequence[str]) -> Iterator[tuple[int, Generation]]:
        """p(yes) after each prompt, from log-probabilities in fp32."""
        for rows, batch in self._batches(prompts):
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            logits = self.model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1].float()
            yes = logits[:, self._yes].logsumexp(-1)
            no = logits[:, self._no].logsumexp(-1)
            for row, p_yes in zip(rows, torch.sigmoid(yes - no).tolist(), strict=True):
                yield row, Generation.scored(p_yes)
