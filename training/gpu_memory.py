"""GPU memory of a training run, estimated before it; `scripts/make_docs.py` makes the table of docs/training.md with it.

Model states (weights, gradients, optimizer) are those of DeepSpeed's own estimator. Activations are those of gradient
checkpointing with flash attention and a loss that computes logits in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPUS_PER_NODE, MAX_NODES = 8, 16
GPU_BYTES = 80e9  # an A100 or H100 with 80 GB
RESERVED = 0.15  # share of a GPU for CUDA, NCCL, buckets, chunks of logits, and fragmentation
GIB = 2**30


@dataclass(frozen=True)
class ModelShape:
    """The shape of a decoder with grouped-query attention and a gated MLP, as its config.json has it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # whether input and output embeddings are the same weights
    qk_norm: bool  # as in Qwen3
    qkv_bias: bool  # as in Qwen2.5

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, the largest layer."""
        return self.vocab * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys) + self.qkv_bias * (queries + 2 * keys)
        norms = 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        return attention + norms + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return self.layers * self.layer + (1 if self.tied else 2) * self.embedding + self.hidden

    def activations(self, tokens: int) -> int:
        """Bytes of bf16 activations on a GPU that trains on a number of tokens at once.

        Gradient checkpointing keeps the input of each layer, 2 bytes × hidden × tokens (Korthikanti et al. 2022, "Reducing
        Activation Recomputation in Large Transformer Models", section 5: 2sbhL), and the tensors of one layer while it is
        recomputed. Those are counted as in its section 4.1, for a gated MLP and without attention scores, which flash
        attention does not keep: eight of the hidden size (inputs and outputs of norms, attention and MLP, fp32 copies in the
        norms), queries, keys, values and the attention's output, and four of the intermediate size.
        """
        layer = 8 * self.hidden + 2 * (self.heads + self.kv_heads) * self.head_dim + 4 * self.intermediate
        return 2 * tokens * (self.layers * self.hidden + layer)


SHAPES = {
    "Qwen3-1.7B": ModelShape(28, 2048, 6144, 16, 8, 128, 151_936, tied=True, qk_norm=True, qkv_bias=False),
    "Qwen3-8B": ModelShape(36, 4096, 12_288, 32, 8, 128, 151_936, tied=False, qk_norm=True, qkv_bias=False),
    "Qwen2.5-72B": ModelShape(80, 8192, 29_568, 64, 8, 128, 152_064, tied=False, qk_norm=False, qkv_bias=True),
}


@dataclass(frozen=True)
class States:
    """Bytes of model states: of a GPU, and of a node's main memory."""

    gpu: float
    main: float = 0


def zero2(shape: ModelShape, nodes: int) -> States:
    """DeepSpeed ZeRO-2: gradients and optimizer are sharded."""
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as estimate

    _, gpu = estimate(shape.parameters, GPUS_PER_NODE, nodes, cpu_offload=False)
    return States(gpu)


def zero3(shape: ModelShape, nodes: int) -> States:
    """DeepSpeed ZeRO-3: weights are sharded, too."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    _, gpu, _ = estimate(shape.parameters, shape.embedding, GPUS_PER_NODE, nodes, cpu_offload=False)
    return States(gpu)


def zero3_offload(shape: ModelShape, nodes: int) -> States:
    """DeepSpeed ZeRO-3 with the optimizer in main memory."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as estimate

    main, gpu, _ = estimate(shape.parameters, shape.embedding, GPUS_PER_NODE, nodes, cpu_offload_params=False)
    return States(gpu, main)


def fsdp2(shape: ModelShape, nodes: int) -> States:
    """FSDP2, which DeepSpeed does not estimate.

    Weights, gradients and optimizer are sharded in fp32, 16 bytes per parameter; weights and gradients of one layer and of all
    that is outside the layers are gathered in bf16.
    """
    outside = shape.parameters - shape.layers * shape.layer
    return States(16 * shape.parameters / (GPUS_PER_NODE * nodes) + 4 * (shape.layer + outside))


CONFIGS = {"deepspeed_zero2": zero2, "deepspeed_zero3": zero3, "deepspeed_zero3_offload": zero3_offload, "fsdp2": fsdp2}
"""Names in scripts/accelerate_configs/."""


def tokens_per_gpu(recipe: Mapping[str, Any]) -> int:
    """Tokens that a GPU trains on at once, at most."""
    length = recipe.get("max_length") or recipe["max_prompt_length"] + recipe["max_completion_length"]
    return recipe["per_device_train_batch_size"] * length


def fitting_nodes(shape: ModelShape, config: str, recipe: Mapping[str, Any]) -> tuple[int, States] | None:
    """The smallest number of nodes on which a recipe fits, a power of two, and the states there; None beyond `MAX_NODES`."""
    sampler = recipe["vllm_gpu_memory_utilization"] if recipe.get("use_vllm") else 0
    available = GPU_BYTES * (1 - RESERVED - sampler) - shape.activations(tokens_per_gpu(recipe))
    nodes = 1
    while nodes <= MAX_NODES:
        states = CONFIGS[config](shape, nodes)
        if states.gpu <= available:
            return nodes, states
        nodes *= 2
    return None


def memory_rows(recipes: Path) -> Iterator[tuple[str, ...]]:
    """The rows of the table, the header first: one for each recipe below the directory `recipes`."""
    import yaml

    yield "model", "recipe", "tokens", "activations", *(f"`{config}`" for config in CONFIGS)
    for model, shape in SHAPES.items():
        for stage in ("sft", "sft_reasoning", "grpo"):
            recipe = yaml.safe_load((recipes / model / f"{stage}.yaml").read_text(encoding="utf-8"))
            tokens = tokens_per_gpu(recipe)
            cells = [_cell(fitting_nodes(shape, config, recipe)) for config in CONFIGS]
            yield model, stage, f"{tokens:,}", f"{shape.activations(tokens) / GIB:.1f}", *cells


def _cell(fitting: tuple[int, States] | None) -> str:
    if fitting is None:
        return "–"
    nodes, states = fitting
    main = f", main memory {states.main / GIB:,.0f}" if states.main else ""
    return f"**{nodes}**: {states.gpu / GIB:.1f}{main}"
