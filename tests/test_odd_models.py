"""Models that need more than their weights: longer positions, packages, code or tokens of their own, or a slow tokenizer."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from test_evaluation_cli import flags

from inference.checks import max_positions
from pipeline.errors import UserError

MAIN = runpy.run_path(str(REPO / "test.py"))["main"]
ADDED = ("<lab>", "</lab>")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def evaluate(small_root: Path, tmp_path: Path):
    """Runs test.py on 8 samples; its output lines."""

    def run(model: Path | str, *more: object) -> list[dict]:
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        arguments = [*flags(small_root, model, output), "--limit", 8, "--resamples", 10, *more]
        assert MAIN(list(map(str, arguments))) == 0
        return [json.loads(line) for line in (output / "outputs.jsonl").read_text(encoding="utf-8").splitlines()]

    return run


def refused(model: Path | str, *more: object) -> str:
    """The error of test.py, before data are read."""
    with pytest.raises(UserError) as error:
        MAIN([*map(str, ("--dataset_name", "no.csv", "--output_path", "no", "--model_name_or_path", model, *more))])
    assert "\n" not in str(error.value) and "no.csv" not in str(error.value)
    return str(error.value)


def variant(model: Path, folder: Path, **config: Any) -> Path:
    """A copy of a model with other fields in its configuration."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder


# --- positions


@pytest.mark.parametrize("backend", [[], ["--use_vllm"]], ids=["transformers", "vllm"])
def test_sequences_longer_than_the_model_are_refused(tiny_model: Path, tmp_path: Path, backend: list[str]) -> None:
    rotary = variant(tiny_model, tmp_path / "rotary", max_position_embeddings=64)
    learned = {"model_type": "gpt2", "n_positions": 64, "max_position_embeddings": 64}
    for model in (rotary, variant(tiny_model, tmp_path / "learned", **learned)):
        expected = "expected sequences of at most 64 tokens, got --max_seq_len 32000. Pass --max_seq_len 64."
        assert refused(model, *backend) == f"{model}: {expected}"
    assert "got --max_seq_len 32769. Pass --max_seq_len 32768." in refused(tiny_model, "--max_seq_len", 32769, *backend)


def rope(kind: str, **more: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 4096),
        (rope("linear", factor=2.0), 8192),
        (rope("dynamic", factor=2.0), 8192),
        (rope("yarn", factor=4.0), 16384),
        (rope("yarn", factor=4.0, original_max_position_embeddings=4096), 16384),
        (rope("yarn", factor=4.0, original_max_position_embeddings=1024), 4096),  # the field has the scaled length already
        (rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=512), 4096),
    ],
)
def test_scaled_positions(fields: dict[str, Any], limit: int) -> None:
    from transformers import LlamaConfig

    assert max_positions(LlamaConfig(max_position_embeddings=4096, **fields)) == limit


def test_models_without_a_longest_sequence_and_with_several_parts() -> None:
    from transformers import BloomConfig, Gemma3Config, MambaConfig

    assert max_positions(MambaConfig()) is None and max_positions(BloomConfig()) is None
    assert max_positions(Gemma3Config(text_config={"max_position_embeddings": 2048})) == 2048


# --- packages and code


@pytest.mark.parametrize(
    ("method", "package"),
    [({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
     ({"quant_method": "gptq", "bits": 4}, "optimum"), ({"quant_method": "awq", "bits": 4}, "gptqmodel")],
)  # fmt: skip
def test_a_quantised_model_without_its_package(tiny_model: Path, tmp_path: Path, method: dict, package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package):
        pytest.skip(f"{package} is installed")
    error = refused(variant(tiny_model, tmp_path / "quantised", quantization_config=method))
    assert "expected what its quantisation needs, got: " in error and package in error
    unknown = variant(tiny_model, tmp_path / "unknown", quantization_config={"quant_method": "none-such"})
    assert "none-such" in refused(unknown)


@pytest.fixture
def with_code(tiny_model: Path, tmp_path: Path) -> Iterator[Path]:
    """The tiny model as a class of its own, whose code is in its folder."""
    classes = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"}
    model = variant(tiny_model, tmp_path / "own", model_type="own", architectures=["OwnForCausalLM"], auto_map=classes)
    code = "from transformers import Qwen3Config, Qwen3ForCausalLM\n\n"
    code += 'class OwnConfig(Qwen3Config):\n    model_type = "own"\n\n'
    code += "class OwnForCausalLM(Qwen3ForCausalLM):\n    config_class = OwnConfig\n"
    (model / "own_model.py").write_text(code, encoding="utf-8")
    return model


def test_code_of_a_model_runs_on_request_only(evaluate, with_code: Path, tiny_model: Path) -> None:
    assert "Read the code, then add --trust_remote_code." in refused(with_code, "--max_seq_len", 3000)
    ours, theirs = evaluate(with_code, "--trust_remote_code"), evaluate(tiny_model)
    assert [line["outputs"][0]["response"] for line in ours] == [line["outputs"][0]["response"] for line in theirs]


def test_code_of_a_tokenizer_runs_on_request_only(tiny_model: Path, tmp_path: Path) -> None:
    from inference.backends import load_tokenizer

    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").unlink()  # its kind of model has a tokenizer in Transformers, which would be used
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | own), encoding="utf-8")
    code = "from transformers import PreTrainedTokenizerFast\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "own_tokenizer.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match="add --trust_remote_code"):
        load_tokenizer(str(folder))
    assert type(load_tokenizer(str(folder), trust_remote_code=True)).__name__ == "OwnTokenizer"


# --- adapters with added tokens


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters for a vocabulary with two more tokens, by what they save of their embeddings."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED)})
    new = [len(tokenizer) - 2, len(tokenizer) - 1]
    options = {
        "whole layers": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "resized": {},
        "nothing": {"save_embedding_layers": False},
        "new rows": {"trainable_token_indices": {"embed_tokens": new}, "save_embedding_layers": False},
        "low rank": {"target_modules": ["q_proj", "embed_tokens"], "save_embedding_layers": False},
    }
    folders = {}
    for name, config in options.items():
        save = {"save_embedding_layers": config.pop("save_embedding_layers", "auto")}
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=4, **{"target_modules": ["q_proj"]} | config))
        folders[name] = tmp_path_factory.mktemp("adapters") / name.replace(" ", "_")
        adapted.save_pretrained(folders[name], **save)
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("saved", ["whole layers", "resized", "new rows", "low rank"])
def test_an_adapter_with_added_tokens(evaluate, tiny_model: Path, adapters: dict[str, Path], saved: str) -> None:
    from inference.settings import InferenceSettings, ModelSettings
    from inference.transformers_backend import TransformersBackend

    assert len(evaluate(tiny_model, "--lora_path", adapters[saved])) == 8
    backend = TransformersBackend(InferenceSettings(ModelSettings(str(tiny_model), str(adapters[saved]))))
    assert len(backend.tokenizer("".join(ADDED))["input_ids"]) == 2
    assert backend.model.get_input_embeddings().weight.shape[0] == len(backend.tokenizer)


def test_an_adapter_without_its_embeddings_or_for_vllm(evaluate, tiny_model: Path, adapters: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"expected embeddings of its \d+ tokens, got those of \d+\."):
        evaluate(tiny_model, "--lora_path", adapters["nothing"])
    for saved in ("whole layers", "resized", "new rows"):
        error = refused(tiny_model, "--use_vllm", "--max_seq_len", 3000, "--lora_path", adapters[saved])
        assert "Merge it into its model (merge_and_unload of peft), or omit --use_vllm." in error


# --- tokenizers in Python


def test_a_tokenizer_in_python(evaluate, slow_model: Path) -> None:
    found = evaluate(slow_model, "--max_seq_len", 900)
    assert any(line["truncated"] for line in found) and any(line["outputs"][0]["p_yes"] is not None for line in found)


def test_a_checkpoint_without_some_weights(evaluate, tiny_model: Path, tmp_path: Path) -> None:
    """Transformers would initialise them with random numbers."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"expected all weights of the model, got .* without 1 of them, such as model\.layers"):
        evaluate(model)
