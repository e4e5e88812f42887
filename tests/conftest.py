"""Fixtures: where the real demo data is, and builds that several tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser import Browser

REPO = Path(__file__).resolve().parent.parent
TEST_DATA = Path(os.environ.get("EHR_TEST_DATA", REPO.parent / "shared"))

sys.path.insert(0, str(Path(__file__).parent))  # helpers shared by tests are plain modules in this folder


def command(script: str, *args: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this repository as its user would, in another folder; its output is text."""
    done = subprocess.run(
        [sys.executable, str(REPO / script), *map(str, args)],
        capture_output=True, text=True, cwd="/", env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"{script} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="session")
def run_command():
    return command


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with the MIMIC-IV demo and golden files; tests that need it are skipped where it is not."""
    if not (TEST_DATA / "data" / "mimic-iv-demo").is_dir():
        pytest.skip(f"no demo data in {TEST_DATA}: set EHR_TEST_DATA")
    return TEST_DATA


@pytest.fixture(scope="session")
def demo(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datas/ folder built from the demo by the real commands: trajectories in both layouts, dictionaries, index."""
    root = tmp_path_factory.mktemp("demo")
    mimic = test_data / "data" / "mimic-iv-demo"
    command("preprocess/merge_patient.py", "--root_dir", root, "--mimic_dir", mimic, "--buckets", 3)
    command("preprocess/rank.py", "--root_dir", root)
    command("preprocess/combination.py", "--root_dir", root)
    command("preprocess/combination.py", "--root_dir", root, "--layout", "patient",
            "--output_path", root / "patients_ehr_files")  # fmt: skip
    command("preprocess/build_index_mapping.py", "--root_dir", root, "--mimic_dir", mimic,
            "--maps_from", test_data / "data" / "index_mapping" / "hosp")  # fmt: skip
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root)
    return root


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datas/ folder of 40 hand-made patients, built by the real commands, with an index of all tasks."""
    from tiny_mimic import many_patients, write_mimic

    root = tmp_path_factory.mktemp("small")
    write_mimic(root / "mimiciv", many_patients(20))
    for script in ("preprocess/merge_patient.py", "preprocess/rank.py", "preprocess/combination.py",
                   "mimiciv_dataset/task_sample_info_gen.py"):  # fmt: skip
        command(script, "--root_dir", root)
    return root


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datas/ folder of 40 synthetic patients, built by the real commands: every task has rows."""
    root = tmp_path_factory.mktemp("synthetic_root")
    command("preprocess/synthetic_mimic.py", "--root_dir", root, "--patients", 40)
    for script in ("preprocess/merge_patient.py", "preprocess/rank.py", "preprocess/combination.py",
                   "preprocess/build_index_mapping.py", "mimiciv_dataset/task_sample_info_gen.py"):  # fmt: skip
        command(script, "--root_dir", root)
    return root


@pytest.fixture(scope="session")
def tiny_model(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of Qwen3's shape, small enough for a test."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    index = small_root / "task_index/all"
    command("scripts/make_tiny_model.py", "--root_dir", small_root, "--output_path", folder, "--vocab_size", 1024,
            "--dataset_name", index / "emar.csv", index / "Inpatient_Mortality.csv")  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer is written in Python: a token is a byte."""
    import torch
    from transformers import ByT5Tokenizer, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "slow"
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant] "
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 32}
    end = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, dtype="float32", **size, **end)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser; the test is skipped where there is none."""
    from browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="session")
def vllm_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a vLLM server on the CPU that serves the tiny model under the name `tiny`.

    The model's own generation settings have a penalty, which the server applies unless a request says otherwise.
    """
    model = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_model, model)
    own = json.loads((model / "generation_config.json").read_text(encoding="utf-8")) | {"repetition_penalty": 5.0}
    (model / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    from served_model import serve

    with serve(model, "tiny") as url:
        yield url
