"""Estimates of GPU memory: parameters are those of the models, and the number of nodes is the smallest that fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import REPO

from training.gpu_memory import CONFIGS, GIB, SHAPES, ModelShape, fitting_nodes, memory_rows

RECIPE = {"per_device_train_batch_size": 1, "max_length": 8192}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_parameters_are_those_of_the_model(family: str, tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = ModelShape(3, 64, 112, 4, 2, 16, 500, tied, qk_norm=family == "qwen3", qkv_bias=family == "qwen2")
    config = AutoConfig.for_model(
        family, num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, vocab_size=shape.vocab,
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.layer == sum(parameter.numel() for parameter in model.model.layers[0].parameters())


def test_published_sizes() -> None:
    assert {name: round(shape.parameters / 1e9, 1) for name, shape in SHAPES.items()} == {
        "Qwen3-1.7B": 1.7,
        "Qwen3-8B": 8.2,
        "Qwen2.5-72B": 72.7,
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_the_smallest_number_of_nodes(config: str) -> None:
    """More nodes never need more memory each; a recipe with more tokens or a sampler never fits on fewer nodes."""
    for shape in SHAPES.values():
        states = [CONFIGS[config](shape, nodes).gpu for nodes in (1, 2, 4, 8)]
        assert states == sorted(states, reverse=True)
        nodes = [
            (fitting_nodes(shape, config, RECIPE | changes) or (32, None))[0]
            for changes in ({}, {"per_device_train_batch_size": 2}, {"per_device_train_batch_size": 2} | SAMPLER)
        ]
        assert nodes == sorted(nodes)


SAMPLER = {"use_vllm": True, "vllm_gpu_memory_utilization": 0.3}


def test_a_model_that_fits_nowhere_has_a_dash() -> None:
    assert fitting_nodes(SHAPES["Qwen2.5-72B"], "deepspeed_zero2", RECIPE) is None
    assert fitting_nodes(replace(SHAPES["Qwen3-8B"], layers=1000), "deepspeed_zero3_offload", RECIPE) is None


def test_the_table_covers_recipes_and_configurations() -> None:
    header, *rows = memory_rows(REPO / "scripts/recipes")
    recipes = {(path.parent.name, path.stem) for path in (REPO / "scripts/recipes").glob("*/*.yaml")}
    assert {row[:2] for row in rows} == recipes and all(len(row) == len(header) for row in rows)
    assert {cell.strip("`") for cell in header[4:]} <= {
        path.stem for path in (REPO / "scripts/accelerate_configs").glob("*.yaml")
    }
    assert all(any("**" in cell for cell in row[4:]) for row in rows), "every recipe fits somewhere"


def test_optimizer_states_move_to_main_memory() -> None:
    """16 of the 18 bytes per parameter, with DeepSpeed's factor of 1.5 for buffers."""
    shape = SHAPES["Qwen2.5-72B"]
    states = CONFIGS["deepspeed_zero3_offload"](shape, 2)
    assert states.main / GIB == pytest.approx(1.5 * 16 * shape.parameters / 2 / GIB, rel=1e-6)
    assert CONFIGS["deepspeed_zero3"](shape, 2).gpu - states.gpu == pytest.approx(shape.parameters, rel=1e-6)
