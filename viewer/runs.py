"""Results of models as the viewer shows them: the output lines by sample, and how the prompts of a run are rendered again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.predictions import read_outputs
from inference.settings import InferenceSettings
from pipeline.errors import UserError
from pipeline.files import Line, read_json

if TYPE_CHECKING:
    from inference.prompts import PromptBuilder


@dataclass
class ModelRun:
    """The outputs of a run by `sample_id`, and its settings; None for baselines, and for runs without result.json."""

    folder: Path
    name: str
    settings: InferenceSettings | None
    lines: dict[str, Line]
    wording: str | None  # digest of the instructions

    @cached_property
    def builder(self) -> PromptBuilder | None:
        """What renders the prompts of the run; None without settings, or if the model's tokenizer is not on this machine."""
        from inference.backends import load_builder, load_tokenizer

        if self.settings is None:
            return None
        try:
            name = None if self.settings.server.chat else self.settings.tokenizer
            return load_builder(self.settings, load_tokenizer(name, local_files_only=True) if name else None)
        except UserError:
            return None

    @property
    def note(self) -> str:
        """Why prompts of the run are not shown as the model read them; "" if they are."""
        if self.settings is None:
            return "no settings in result.json: its prompts are not shown"
        if self.builder is None:
            return "the tokenizer of the model is not on this machine: its prompts are shown without chat template"
        return ""


def read_runs(folders: Sequence[Path], samples: Collection[str], dataset: str) -> list[ModelRun]:
    """Read the runs in `folders`; names are unique.

    Raises:
        UserError: a directory has no outputs, or none of a sample in `samples` (those of `dataset`).
    """
    runs = [read_run(folder) for folder in dict.fromkeys(folders)]
    for run in runs:
        if run.lines.keys().isdisjoint(samples):
            got = f"outputs of {len(run.lines):,} other samples. Give the dataset that the run was evaluated on"
            raise UserError(f"{run.folder}: expected outputs of samples of {dataset}, got {got}.")
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name += f" ({run.folder})"
    return runs


def read_run(folder: Path) -> ModelRun:
    """Read a run; of several lines of a sample the last one counts."""
    lines = {prediction.sample_id: line for _, prediction, line in read_outputs(folder)}
    path = folder / "result.json"
    result: dict[str, Any] = read_json(path) if path.exists() else {}
    arguments = result.get("arguments") or {}
    settings = InferenceSettings.from_flags(arguments) if arguments.get("max_new_tokens") else None
    parts = [arguments.get("model_name_or_path") or folder.name, arguments.get("lora_path")]
    name = " + ".join(Path(str(part)).name for part in parts if part)
    return ModelRun(folder, name, settings, lines, result.get("instructions_sha256"))
