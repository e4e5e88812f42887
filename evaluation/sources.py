"""What the outputs of an evaluation are made from, as `pipeline.provenance` records it: data, model and settings.

Settings that only decide how fast a run is (batches, GPUs, chunks, requests in flight, --limit) are not part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.checks import hub_commit, served_model
from inference.generation import reply_settings
from inference.settings import InferenceSettings, as_json
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.files import sha256
from pipeline.progress import progress
from pipeline.provenance import Source, content_of, output_of
from pipeline.records import folder_record, read_record

if TYPE_CHECKING:
    from mimiciv_dataset.mimiciv import MIMICIV

# Files of a model folder that decide replies, by suffix, and files with these suffixes that do not.
MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken"}
WEIGHTS = {".safetensors", ".bin"}
TRAINING_FILES = {"training_args.bin", "optimizer.bin", "trainer_state.json", "ehr_training.json", "provenance.json"}
SHOWN_BYTES = 2 << 30  # from this size on, hashing shows its progress


def dataset_sources(datasets: Iterable[MIMICIV]) -> list[Source]:
    """Index files, and, unless their rows have their text already, trajectories, dictionaries and candidates."""
    unique = {dataset.rows.path.resolve(): dataset for dataset in dict.fromkeys(datasets)}  # samples share few of them
    names = [path.name for path in unique]
    sources: list[Source] = []
    for dataset in unique.values():
        path = dataset.rows.path
        name = "dataset" if len(names) == 1 else f"dataset/{path.name if names.count(path.name) == 1 else path}"
        sources += [content_of(name, path)] if dataset.rendered else index_sources(path, name)
    if root_dir := next((dataset.root_dir for dataset in unique.values() if not dataset.rendered), None):
        cache = root_dir / "cache"
        sources += [trajectories_source(root_dir / "patients_ehr"), index_mapping_source(root_dir / "index_mapping")]
        if folder_record(cache).exists():
            sources.append(output_of("candidates", cache, "mimiciv_dataset/similar_item_gen.py", is_ancestor=False))
        else:  # sft.py caches training samples there, too
            parts = ("item_set", "similar_item")
            sources += [content_of(f"candidates/{part}", cache / part) for part in parts]
    return sources


def model_sources(settings: InferenceSettings, folder: Path, finished: bool) -> list[Source]:
    """Model, adapter and tokenizer; `folder` is the output directory, in which digests of their files are cached.

    A folder is identified by its files, a Hub id by its commit, and a model on a server by what the server says of it. If all
    samples are finished, no server is needed: what the record has of it is taken as it is.
    """
    model, server = settings.model, settings.server
    if server.url is None:
        sources = [model_source("model", model.model_name_or_path, folder)]
        return sources + ([model_source("adapter", model.lora_path, folder)] if model.lora_path else [])
    sources = [model_source("tokenizer", settings.tokenizer, folder, weights=False)] if settings.tokenizer else []
    record = read_record(folder_record(folder)) or {}
    if finished and record:
        digest = record["inputs"].get("server", {}).get("digest")
    else:
        digest = sha256(json.dumps(served_model(settings), sort_keys=True))
    return [*sources, Source("server", None, digest, is_ancestor=False, by="server")]


def model_source(name: str, model: str, cache: Path, weights: bool = True) -> Source:
    """A model folder or Hub id; without `weights`, its tokenizer and configuration only."""
    path = Path(model)
    if not path.is_dir():
        return Source(name, None, hub_commit(model), is_ancestor=False, by="commit")
    visible = [file for file in path.iterdir() if not file.name.startswith(".")]  # training caches digests in a hidden file
    files = sorted(file for file in visible if file.suffix in MODEL_SUFFIXES and file.name not in TRAINING_FILES)
    files = [file for file in files if weights or file.suffix not in WEIGHTS]
    digests = FileDigests(cache / DIGESTS_CACHE)
    if sum(file.stat().st_size for file in files) > SHOWN_BYTES:
        files = progress(files, desc=f"hashing {name}", unit="file")
    return Source(name, path, digests.of_all(files, path), is_ancestor=False, by="model files")


def evaluation_settings(settings: InferenceSettings, wording: str, family: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide replies and scores.

    Args:
        wording: hash of the instructions.
        family: `PromptBuilder.facts` about the model.
    """
    by_content = {"model": settings.model.model_name_or_path if settings.server.url else None, "lora": None}
    settings_of_replies = reply_settings(settings) | by_content | as_json(replace(settings.prompt, instructions=None))
    backend = {"backend": settings.backend, "dtype": settings.model.dtype, "seed": settings.decoding.seed}
    return settings_of_replies | backend | family | {"instructions_sha256": wording}
