"""Our versions of the trainers of TRL, and the arguments they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from training.overrides import vllm_model_length


def test_only_labelled_tokens_are_projected(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked prompt costs nothing in the head, on a CPU too; the loss is that of the plain model."""
    import trl.trainer.utils as utils
    from transformers import AutoModelForCausalLM

    import training.trainer  # noqa: F401, what is tested

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.randint(0, 500, (2, 40))
    labels = ids.clone()
    labels[0, :37], labels[1, :38] = -100, -100
    plain = model(input_ids=ids, labels=labels).loss
    utils.add_fused_lm_head(model)
    projected = []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction, "apply", lambda hidden, *rest: projected.append(len(hidden)) or apply(hidden, *rest)
    )
    loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    assert projected == [3 + 2]
    torch.testing.assert_close(loss, plain)


def test_missing_vllm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOConfig

    monkeypatch.setattr("training.overrides.find_spec", lambda name: None)
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, use_vllm=True)
    with pytest.raises(UserError, match="the package vllm.*requirements.txt"):
        vllm_model_length(args, 400)
