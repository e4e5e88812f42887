"""Our versions of the trainers of TRL, and the arguments they are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.files import read_json
from training.arguments import SFTArguments
from training.overrides import apply_overrides, trainer_options, vllm_model_length
from training.runs import claim


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


def test_overrides_copy_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmful and impossible values are replaced in a copy and noted; the trainer gets prepared samples untouched."""
    from trl import ModelConfig, SFTConfig

    given = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, packing=True, ignore_data_skip=True, use_liger_kernel=True,
        per_device_train_batch_size=8, accelerator_config={"split_batches": True, "dispatch_batches": True},
    )  # fmt: skip
    before = given.to_dict() | {"accelerator_config": given.accelerator_config.to_dict()}
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    args, _, notes = apply_overrides(given, SFTArguments(), ModelConfig(), ["first"])
    assert before == given.to_dict() | {"accelerator_config": given.accelerator_config.to_dict()}
    assert args.per_device_train_batch_size == 4 and args.packing and args.max_length == given.max_length
    assert not (args.ignore_data_skip or args.use_liger_kernel or args.accelerator_config.split_batches)
    assert notes[0] == "first" and len(notes) == 5
    options = trainer_options(args, ModelConfig(model_name_or_path="m", dtype="float32"), tokenizer=None)
    assert options["model"] == "m" and options["args"].model_init_kwargs["dtype"] == "float32"
    assert options["args"].padding_free and not options["args"].packing and options["args"].max_length is None
    assert args.packing, "packing is recorded as given"
    monkeypatch.setattr(SFTConfig, "world_size", 3)
    with pytest.raises(UserError, match="--per_device_train_batch_size.*multiple of the 3 processes"):
        apply_overrides(given, SFTArguments(), ModelConfig(), [])


@pytest.mark.parametrize("attention", ["flex_attention", "sdpa", None])
def test_packing_on_a_gpu_needs_an_attention_that_separates_samples(
    attention: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import ModelConfig, SFTConfig

    given = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, packing=True)
    monkeypatch.setattr(SFTConfig, "device", torch.device("cuda"))
    args, _, notes = apply_overrides(given, SFTArguments(), ModelConfig(attn_implementation=attention), [])
    separates = attention == "flex_attention"
    assert args.packing == separates and len(notes) == (not separates)


def test_a_directory_belongs_to_a_run_once_it_has_checkpoints(tmp_path: Path) -> None:
    data = {"files": [["a.csv", 3, "ab"]], "stage": "domain", "max_tokens": 9, "instructions_sha256": "i"}
    settings = {"method": "SFT", "model": "m", "data": data, "learning_rate": 1.0}
    rows = SimpleNamespace(root_dir=tmp_path, patients=lambda: {"1", "2"})
    claim(tmp_path, settings, rows, checkpoint=None)
    claim(tmp_path, settings | {"learning_rate": 2.0}, rows, checkpoint=None)
    provenance = claim(tmp_path, settings | {"learning_rate": 2.0}, rows, checkpoint=tmp_path)
    with pytest.raises(UserError, match="learning_rate.*--output_dir"):
        claim(tmp_path, settings, rows, checkpoint=tmp_path)
    with pytest.raises(UserError, match="the same data"):
        claim(tmp_path, settings | {"learning_rate": 2.0, "data": data | {"stage": "reasoning"}}, rows, checkpoint=tmp_path)
    info = read_json(tmp_path / "ehr_training.json")
    assert info["learning_rate"] == 2.0 and info["data"] == data and "data use agreement" in info["data_use"]
    assert info["training_patients"][0]["count"] == 2
    provenance.complete(steps=3)
    assert provenance.is_complete
    provenance.path.unlink()
    with pytest.raises(UserError, match="record"):
        claim(tmp_path, settings, rows, checkpoint=tmp_path)
