"""The quickstart, from synthetic data to its verdict, and the model that it starts from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, command

MODEL = REPO / "scripts/quickstart_model"
FILES = (
    "chat_template.jinja",
    "config.json",
    "ehr_training.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def bash(script: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where there is no .venv
    done = subprocess.run(["bash", script, *map(str, words)], capture_output=True, text=True, cwd="/", env=env)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository whose environment is the one that runs the tests."""
    copy = tmp_path_factory.mktemp("checkout") / "repo"
    shutil.copytree(REPO, copy, ignore=shutil.ignore_patterns(".*", "datas", "node_modules", "results", "__pycache__"))
    (copy / "scripts/setup_env.sh").write_text("")
    return copy


def test_the_model_is_the_one_that_its_readme_describes() -> None:
    digests = dict(re.findall(r"`(\S+)` \| `([0-9a-f]{64})`", (MODEL / "README.md").read_text(encoding="utf-8")))
    assert sorted(digests) == sorted(FILES)
    for name, digest in digests.items():
        assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest, name
    assert sum((MODEL / name).stat().st_size for name in FILES) <= 2e6


def test_the_model_was_trained_with_the_instructions_of_today() -> None:
    """Otherwise it has to be trained again: scripts/quickstart_model/make.sh."""
    from inference.prompts import instructions_sha256
    from mimiciv_dataset.tasks import load_instructions

    about = json.loads((MODEL / "ehr_training.json").read_text(encoding="utf-8"))
    assert about["data"]["instructions_sha256"] == instructions_sha256(load_instructions())


@pytest.mark.slow
def test_the_recipe_of_the_model_runs(tmp_path: Path) -> None:
    done = bash(MODEL / "make.sh", "--root_dir", tmp_path, "--patients", 60, "--max_steps", 2)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(FILES)
    assert [line.split()[1] for line in done.stdout.splitlines()[-len(FILES) :]] == sorted(FILES)
    again = bash(MODEL / "make.sh", "--root_dir", tmp_path, check=False)
    assert again.returncode == 2 and "expected a new directory" in again.stderr and len(again.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_quickstart_ends_with_a_verdict_and_resumes(checkout: Path, tmp_path: Path) -> None:
    words = (checkout / "scripts/quickstart.sh", "--root_dir", tmp_path, "--patients", 80)
    done = bash(*words)
    models = ("untrained", "stage1", "stage3")
    tasks = {name: json.loads((tmp_path / f"results/{name}/result.json").read_text())["tasks"] for name in models}
    auroc = {name: of_model["ED_Hospitalization"]["auroc"] for name, of_model in tasks.items()}
    assert auroc["stage3"] > 0.65 and auroc["stage3"] > auroc["untrained"] + 0.1
    assert tasks["stage1"]["diagnosis"]["f1"] > 0.4
    assert (tmp_path / "results/view.html").exists() and (tmp_path / "results/stage3/report.html").exists()
    verdict = done.stdout.rpartition("The verdict on this run:")[2].strip()
    assert verdict == command("evaluation/verdict.py", *map(Path, verdict_folders(tmp_path))).stdout.strip()
    again = bash(*words)
    assert all(f"models/{stage} is up to date" in again.stdout for stage in ("stage1", "stage2", "stage3"))
    assert again.stdout.rpartition("The verdict on this run:")[2].strip() == verdict
    other = bash(*words[:3], "--patients", 81, check=False)
    assert other.returncode == 2 and "expected 81 patients of seed 1, got 80 patients of seed 1" in other.stderr


def verdict_folders(root: Path) -> list[Path]:
    return [root / "results" / name for name in ("stage3", "untrained")]


@pytest.mark.slow
def test_the_quickstart_on_a_small_cohort_says_what_cannot_be_concluded(
    checkout: Path, tmp_path: Path, test_data: Path
) -> None:
    mimic, maps = test_data / "data/mimic-iv-demo", test_data / "data/index_mapping/hosp"
    size = ("--samples", 2, "--max_steps", 2)  # for time: no training makes the cohort larger
    done = bash(checkout / "scripts/quickstart.sh", "--root_dir", tmp_path, "--mimic_dir", mimic, "--maps_from", maps, *size)
    assert "too few" in done.stdout.rpartition("The verdict on this run:")[2]


def test_the_patients_of_the_models_training_are_refused(checkout: Path, tmp_path: Path) -> None:
    for seed in ("0", "00", "one"):
        done = bash(checkout / "scripts/quickstart.sh", "--root_dir", tmp_path, "--seed", seed, check=False)
        assert done.returncode == 2 and done.stderr.startswith(f"error: --seed {seed}: expected a whole number from 1")
        assert len(done.stderr.splitlines()) == 1
