"""Recipes, launch configurations and launchers of training: every flag and file exists, and one recipe is run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import REPO
from test_training_cli import QUIET, data, losses, model  # noqa: F401  fixtures

RECIPES = sorted((REPO / "scripts/recipes").rglob("*.yaml"))
LAUNCHERS = sorted(path for path in (REPO / "scripts/train").glob("*.sh") if path.name != "launch.sh")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_flag_of_a_recipe_exists(recipe: Path) -> None:
    from trl import GRPOConfig, ModelConfig, SFTConfig

    from training.arguments import GRPOArguments, SFTArguments
    from training.rewards import REWARDS

    tables = (GRPOArguments, GRPOConfig, ModelConfig) if recipe.stem == "grpo" else (SFTArguments, SFTConfig, ModelConfig)
    known = {name for table in tables for name in table.__dataclass_fields__}
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert set(settings) <= known
    assert isinstance(settings["learning_rate"], float) and set(settings.get("rewards", [])) <= set(REWARDS)


def test_global_batches() -> None:
    """8 GPUs: 8 samples a step in stage 1, 64 in stage 2, 8 prompts × 16 completions in stage 3."""
    for recipe in RECIPES:
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        step = 8 * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
        assert step == {"sft": 8, "sft_reasoning": 64, "grpo": 128}[recipe.stem], recipe


def test_launch_configurations() -> None:
    for path in (REPO / "scripts/accelerate_configs").glob("*.yaml"):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"distributed_type", "num_processes"} <= set(settings)
        named = settings.get("deepspeed_config", {}).get("deepspeed_config_file")
        if named:
            assert json.loads((REPO / named).read_text(encoding="utf-8"))["zero_optimization"]["stage"] == int(path.stem[-1])


def launch(script: Path, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *map(str, words)], capture_output=True, text=True, cwd="/",
                          env={**os.environ, **QUIET, **env})  # fmt: skip


@pytest.mark.parametrize("script", LAUNCHERS, ids=lambda path: path.stem)
def test_launchers_have_help_and_report_errors(script: Path, tmp_path: Path) -> None:
    assert f"bash scripts/train/{script.name}" in launch(script, "--help").stdout
    done = launch(script, "no-such-recipe", NUM_PROCESSES="1")
    assert done.returncode == 2 and "expected a directory with a recipe" in done.stderr
    done = launch(script, "Qwen3-1.7B", NUM_PROCESSES="1", ACCELERATE_CONFIG=str(tmp_path / "none"))
    assert done.returncode == 2 and "ACCELERATE_CONFIG" in done.stderr


@pytest.mark.slow
def test_a_launcher_trains_with_a_recipe(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    """The recipe of stage 1 on the CPU, from another folder, with flags that override it."""
    done = launch(
        REPO / "scripts/train/sft.sh", "Qwen3-1.7B", "--model_name_or_path", model, "--dataset_name", data, "--root_dir",
        synthetic_root, "--output_dir", tmp_path / "out", "--max_length", 300, "--max_steps", 2, "--bf16", "False", "--dtype",
        "float32", "--attn_implementation", "sdpa", "--dataloader_num_workers", 0, "--save_strategy", "no",
        NUM_PROCESSES="1", ACCELERATE_CONFIG=str(REPO / "scripts/accelerate_configs/cpu.yaml"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert len(losses(tmp_path / "out")) == 2
