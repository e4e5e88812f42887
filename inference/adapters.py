"""LoRA adapters: what a folder holds, whether a backend can use it, and room for the tokens that it adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MERGE = "Merge it into its model (merge_and_unload of peft), or omit --use_vllm"


def check_adapter(name: str, use_vllm: bool = False) -> None:
    """Check that a folder has a LoRA adapter, and that vLLM can use it."""
    path = Path(name)
    if not (path / "adapter_config.json").exists():
        got = "a model" if (path / "config.json").exists() else "a folder without it" if path.is_dir() else "no such folder"
        raise UserError(f"{name}: expected a LoRA adapter with adapter_config.json, got {got}. Check --lora_path.")
    if not any(path.glob("adapter_model.*")):
        raise UserError(f"{name}: expected weights (adapter_model.safetensors), got none. Save the adapter again.")
    config = read_json(path / "adapter_config.json")
    if use_vllm and config.get("use_dora"):
        raise UserError(f"{name}: expected an adapter that vLLM can apply, got one with DoRA. {MERGE}.")
    if use_vllm and any(".lora_" not in key for key in saved_shapes(path)):
        got = "one with weights of whole layers, as for added tokens"
        raise UserError(f"{name}: expected an adapter that vLLM can apply, got {got}. {MERGE}.")


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Names of an adapter's weights, and their shapes; none if they are in an old format."""
    from safetensors import safe_open

    path = folder / "adapter_model.safetensors"
    if not path.exists():
        return {}
    with safe_open(path, framework="np") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  not a mapping


def resize_embeddings(model: PreTrainedModel, adapter: str, num_tokens: int) -> None:
    """Give a model as many embeddings as its adapter was saved with, or as its tokenizer has tokens (`num_tokens`).

    Raises:
        UserError: the tokenizer has tokens that neither the model nor the adapter has embeddings of.
    """
    shapes = saved_shapes(Path(adapter))
    layers = [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]
    names = [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is layer for layer in layers)]
    of_layers = {key: shape for key, shape in shapes.items() if set(names) & set(key.split("."))}
    # (vocabulary, width) of a layer saved as it is; (rank, vocabulary) and (vocabulary, rank) of a low-rank change
    sizes = [shape[1] if "lora_embedding_A" in key else shape[0] for key, shape in of_layers.items() if _has_vocabulary(key)]
    before = model.get_input_embeddings().num_embeddings
    size = max(sizes, default=0)
    if not sizes and num_tokens > before:
        if not any("trainable_tokens" in key for key in of_layers):
            got = f"those of {before:,}"
            raise UserError(f"{adapter}: expected embeddings of its {num_tokens:,} tokens, got {got}. Save them with it.")
        size = num_tokens
    if size not in (0, before):
        model.resize_token_embeddings(size, mean_resizing=False)


def _has_vocabulary(key: str) -> bool:
    """Whether a saved weight of an embedding or output layer has a row or column of each token."""
    return key.endswith(".weight") and ".lora_A." not in key or "lora_embedding_A" in key
