"""scripts/reproduce_table.sh: the paper's setting for each model, its table, and no repeated work on a second run."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import command
from test_launchers import bash

from pipeline.files import read_json


def test_the_table_of_two_models(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "datas"
    shutil.copytree(small_root, root, symlinks=True)
    (root / "ehr_bench").mkdir()
    shutil.copy(root / "task_index/all/emar.csv", root / "ehr_bench/ehr_bench_decision_making.csv")
    shutil.copy(root / "task_index/all/LengthOfStay_3day.csv", root / "ehr_bench/ehr_bench_risk_prediction.csv")
    shutil.copytree(tiny_model, tmp_path / "EHR-R1-8B")
    arguments = ("--root_dir", root, "--output_path", tmp_path / "table", tmp_path / "EHR-R1-8B", tiny_model)
    flags = ("--", "--limit", 24, "--max_seq_len", 2000, "--max_new_tokens", 4, "--batch", 8)
    done = bash("scripts/reproduce_table.sh", *arguments, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    released, tiny = (read_json(tmp_path / "table" / name / "result.json")["arguments"] for name in ("EHR-R1-8B", "tiny"))
    assert (released["think_prompt"], released["prompt"], tiny["think_prompt"], tiny["prompt"]) == (True, False, False, True)
    table = done.stdout[done.stdout.index("run  ") :].splitlines()
    assert "EHR-R1-8B (EHR-R1-8B)" in table[2] and ".6006" in table[2] and "-0." in table[2]
    assert "tiny (not in the paper)" in table[4]
    again = bash("scripts/reproduce_table.sh", *arguments, *flags)
    assert again.returncode == 0 and again.stdout.count("0 samples answered, 24 already finished") == 2


def test_a_model_that_fails_does_not_hide_the_others(small_root: Path, tmp_path: Path) -> None:
    done = bash("scripts/reproduce_table.sh", "--root_dir", small_root, "--output_path", tmp_path, "no-model")
    assert done.returncode == 2 and "failed: no-model" in done.stderr
    assert bash("scripts/reproduce_table.sh").returncode == 2
    assert "expected a result" in command_fails(tmp_path)


def command_fails(folder: Path) -> str:
    done = command("evaluation/published.py", folder, check=False)
    assert done.returncode == 2
    return done.stderr
