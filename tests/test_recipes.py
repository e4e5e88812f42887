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
from test_training_samples import CHAIN, index_of

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
            zero = json.loads((REPO / named).read_text(encoding="utf-8"))["zero_optimization"]
            assert f"zero{zero['stage']}" in path.stem and ("offload_optimizer" in zero) == path.stem.endswith("_offload")


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


def test_recipes_read_what_the_documented_steps_write() -> None:
    """Index files of build_datasets.sh, chains of filter_reasoning.py, and the model of the stage before."""
    written = (REPO / "scripts/build_datasets.sh").read_text(encoding="utf-8")
    filtering = (REPO / "thinking_graph_preprocess/filter_reasoning.py").read_text(encoding="utf-8")
    for folder in {path.parent for path in RECIPES}:
        stages = [
            yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("sft", "sft_reasoning", "grpo")
        ]
        files = [stage["dataset_name"].removeprefix("./datas/") for stage in stages]
        assert f"DIR/{files[0]} " in written and f"DIR/{files[2]} " in written
        assert f'default="{files[1]}"' in filtering and stages[1]["stage"] == "reasoning"
        assert [stage["model_name_or_path"] for stage in stages[1:]] == [stage["output_dir"] for stage in stages[:2]]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "sft_reasoning", "grpo"])
def test_a_recipe_runs_without_gpu_kernels_and_hub(
    stage: str, synthetic_root: Path, model: Path, data: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """On the CPU, from another folder, with a tiny model and short prompts; PyTorch's attention is used, and reported."""
    rows = index_of(synthetic_root, tmp_path, "prescriptions", rows=12, reasoning=CHAIN) if stage == "sft_reasoning" else data
    lengths = ["--max_prompt_length", 300, "--max_completion_length", 8, "--use_vllm", "False"] if stage == "grpo" else []
    done = launch(
        REPO / f"scripts/train/{stage}.sh", "Qwen3-1.7B", "--model_name_or_path", model, "--dataset_name", rows, "--root_dir",
        synthetic_root, "--output_dir", tmp_path / "out", "--max_steps", 1, *(lengths or ["--max_length", 400]),
        "--dataloader_num_workers", 0, NUM_PROCESSES="1", HF_HUB_OFFLINE="1",
        ACCELERATE_CONFIG=str(REPO / "scripts/accelerate_configs/cpu.yaml"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "--attn_implementation kernels-community/flash-attn2 → sdpa: flash attention needs a GPU" in done.stdout
    assert len(losses(tmp_path / "out")) == 1
