"""scripts/reproduce/: each table and figure of the paper from models to numbers, on tiny models and data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPO, command
from test_external_cdm import write_pickles
from test_external_ehrshot import write_ehrshot
from test_launchers import bash
from test_training_samples import CHAIN, index_of
from written_runs import write_run

from evaluation.published import EXPERIMENTS, NOT_AVAILABLE
from evaluation.published import main as published
from pipeline.files import read_json

SCRIPTS = sorted(path for path in (REPO / "scripts/reproduce").glob("*.sh") if path.name != "common.sh")
MAIN_TABLE = "scripts/reproduce_table.sh"  # forwards to scripts/reproduce/main_table.sh
QUICK = ("--max_seq_len", 2000, "--max_new_tokens", 4, "--batch", 8)


@pytest.fixture(scope="module")
def root(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datas/ directory with a benchmark of two tasks."""
    root = tmp_path_factory.mktemp("reproduce") / "datas"
    shutil.copytree(small_root, root, symlinks=True)
    (root / "ehr_bench").mkdir()
    shutil.copy(root / "task_index/all/emar.csv", root / "ehr_bench/ehr_bench_decision_making.csv")
    shutil.copy(root / "task_index/all/LengthOfStay_3day.csv", root / "ehr_bench/ehr_bench_risk_prediction.csv")
    return root


@pytest.fixture(scope="module")
def ehr_r1(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the name of a published one."""
    return shutil.copytree(tiny_model, tmp_path_factory.mktemp("named") / "EHR-R1-8B")


def reproduce(script: str, *words: object, runs: int, **env: str) -> list[str]:
    """Run a script twice; the second run answers nothing. Returns the lines of the table, without its header."""
    done = bash(script, *words, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    again = bash(script, *words, **env)
    assert again.returncode == 0 and again.stdout.count("0 samples answered, ") == runs, again.stdout + again.stderr
    table = done.stdout[done.stdout.index("\nrun  ") + 1 :]
    assert table == again.stdout[again.stdout.index("\nrun  ") + 1 :]
    return table.splitlines()[2:]


def settings_of(run: Path) -> tuple[bool, ...]:
    """Whether a run has the flags --think_prompt, --prompt, --direct_answer, --think_risk."""
    arguments = read_json(run / "result.json")["arguments"]
    return tuple(arguments[name] for name in ("think_prompt", "prompt", "direct_answer", "think_risk"))


def test_the_main_table_of_two_models(root: Path, ehr_r1: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ("--root_dir", root, f"--output_path={tmp_path}", ehr_r1, tiny_model, "--", *QUICK, "--limit", 24)
    table = reproduce(MAIN_TABLE, *words, runs=2)
    assert settings_of(tmp_path / "EHR-R1-8B") == (True, False, False, False)
    assert settings_of(tmp_path / "tiny") == (False, True, False, False)
    assert "EHR-R1-8B (EHR-R1-8B)" in table[0] and " 0.6006 " in table[0] and " 0.9188 " in table[1]
    assert "tiny (not in the paper)" in table[2] and len(table) == 5 and table[4].startswith("no difference: ")


def test_ehrshot_zero_shot(ehr_r1: Path, tmp_path: Path) -> None:
    assets = write_ehrshot(tmp_path / "EHRSHOT_ASSETS")
    words = ("--ehrshot_dir", assets, "--samples", 3, "--output_path", tmp_path / "out", ehr_r1, "--", *QUICK)
    table = reproduce("scripts/reproduce/ehrshot_zero_shot.sh", *words, runs=1)
    assert "EHR-R1-8B-0-shot" in table[0] and "ehrshot_auroc" in table[0] and table[0].split()[-3:-1] == ["14", "42"]
    assert NOT_AVAILABLE in table[0] and table[1].startswith(NOT_AVAILABLE) and "arxiv.org/abs/2510.25628" in table[1]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["ehrshot-0-shot-3-samples.jsonl"]


@pytest.mark.slow
def test_ehrshot_few_shot(ehr_r1: Path, tmp_path: Path) -> None:
    assets = write_ehrshot(tmp_path / "EHRSHOT_ASSETS")
    sizes = ("--samples", "", "--shots", "1,2")
    words = ("--ehrshot_dir", assets, *sizes, "--output_path", tmp_path / "out", ehr_r1, "--", *QUICK)
    table = reproduce("scripts/reproduce/ehrshot_few_shot.sh", *words, runs=2)
    assert "EHR-R1-8B-1-shot" in table[0] and "EHR-R1-8B-2-shot" in table[1] and table[1].split()[-3:] == ["14", "56", "28"]
    assert "Answer: " in (tmp_path / "out/ehrshot-2-shot.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
def test_mimic_cdm(tiny_model: Path, tmp_path: Path) -> None:
    words = ("--cdm_dir", write_pickles(tmp_path / "cdm"), "--output_path", tmp_path / "out", tiny_model, "--", *QUICK)
    table = reproduce("scripts/reproduce/mimic_cdm.sh", *words, runs=1)
    assert "cdm_pathology accuracy" in table[0] and "cdm_diagnoses f1" in table[1] and table[1].split()[-2] == "8"
    assert NOT_AVAILABLE in table[0] and table[2].startswith(NOT_AVAILABLE)
    assert settings_of(tmp_path / "out/tiny") == (False, True, False, False)


@pytest.mark.slow
def test_reasoning_against_none(root: Path, ehr_r1: Path, tmp_path: Path) -> None:
    words = ("--root_dir", root, "--output_path", tmp_path, ehr_r1, "--", *QUICK, "--limit", 8)
    direct_f1, direct_auroc, f1, auroc, _, look_up = reproduce("scripts/reproduce/reasoning_ablation.sh", *words, runs=2)
    assert settings_of(tmp_path / "EHR-R1-8B-direct") == (True, False, True, False)
    assert settings_of(tmp_path / "EHR-R1-8B-reasoning") == (True, False, False, True)
    assert NOT_AVAILABLE in direct_f1 and " 0.9188 " in direct_auroc and " 0.6006 " in f1 and NOT_AVAILABLE in auroc
    assert look_up.startswith(NOT_AVAILABLE)


@pytest.mark.slow
def test_the_main_figure(root: Path, ehr_r1: Path, tmp_path: Path) -> None:
    words = ("--root_dir", root, "--output_path", tmp_path, ehr_r1, "--", *QUICK, "--limit", 24)
    table = reproduce("scripts/reproduce/main_figure.sh", *words, runs=1)
    assert " 0.6006 " in table[0] and (tmp_path / "EHR-R1-8B/report.html").exists()
    assert (tmp_path / "EHR-R1-8B/report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_stages_of_training(root: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe, models = tmp_path / "Qwen3-1.7B", tmp_path / "models"
    for folder in (recipe, tmp_path / "risk"):
        folder.mkdir()
    chains = index_of(root, tmp_path, "emar", rows=8, reasoning=CHAIN)
    risk = index_of(root, tmp_path / "risk", "LengthOfStay_3day", rows=8)
    shutil.copy(risk, root / "risk.csv")  # a path below ./datas in the recipe is taken below --root_dir
    grpo = {"max_prompt_length": 400, "max_completion_length": 8, "num_generations": 2, "use_vllm": False}
    stages = {  # recipe → data, model of the stage before, flags
        "sft": ("./datas/risk.csv", tiny_model, {"max_length": 500, "stage": "domain"}),
        "sft_reasoning": (chains, models / "stage1", {"max_length": 500, "stage": "reasoning"}),
        "grpo": (risk, models / "stage2", grpo),
    }
    common = {"max_steps": 1, "per_device_train_batch_size": 2, "bf16": False, "gradient_checkpointing": False}
    for number, (name, (data, before, flags)) in enumerate(stages.items(), 1):
        paths = {"model_name_or_path": str(before), "dataset_name": data, "output_dir": f"{models}/stage{number}"}
        settings = paths | flags | common | {"save_strategy": "no", "report_to": "none"}
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    words = ("--recipe", recipe, "--root_dir", root, "--output_path", tmp_path / "out", "--", *QUICK, "--limit", 8)
    env = {"NUM_PROCESSES": "1", "ACCELERATE_CONFIG": str(REPO / "scripts/accelerate_configs/cpu.yaml"), "HF_HUB_OFFLINE": "1"}
    table = reproduce("scripts/reproduce/stages_ablation.sh", *words, runs=3, **env)
    assert [line.split()[0] for line in table[:6:2]] == [f"Qwen3-1.7B-stage{number}" for number in (1, 2, 3)]
    assert all(NOT_AVAILABLE in line for line in table[:4]) and " 0.5528 " in table[4] and " 0.8860 " in table[5]
    assert settings_of(tmp_path / "out/Qwen3-1.7B-stage1") == (False, False, False, False)
    assert settings_of(tmp_path / "out/Qwen3-1.7B-stage3") == (True, False, False, False)
    existing = [word for number in (1, 2, 3) for word in (f"--stage{number}", models / f"stage{number}")]
    done = bash("scripts/reproduce/stages_ablation.sh", *existing, *words)
    assert done.returncode == 0 and ": training " not in done.stdout and done.stdout.count("0 samples answered, ") == 3


def test_a_model_that_fails_does_not_hide_the_others(root: Path, tmp_path: Path) -> None:
    done = bash(MAIN_TABLE, "--root_dir", root, "--output_path", tmp_path, "no-model", "no-other-model")
    assert done.returncode == 2
    *errors, last = done.stderr.splitlines()
    assert len([line for line in errors if line.startswith("error: ")]) == 2
    assert last.startswith("error: failed: no-model no-other-model.")


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("main_table", (), "expected a model, got none"),
        ("main_table", ("a/tiny", "b/tiny"), "tiny: expected models whose last names differ, got several of this one"),
        ("main_table", ("model", "--nonsense"), "unknown flag --nonsense"),
        ("main_table", ("model", "-n"), "unknown flag -n"),
        ("main_table", ("model", "--root_dir"), "--root_dir: expected a value, got none"),
        ("main_table", ("model", "--root_dir", "no-data"), "ehr_bench_decision_making.csv: expected a file, got none"),
        ("main_figure", ("model", "--dataset_name", "none.jsonl"), "none.jsonl: expected a file, got none"),
        ("reasoning_ablation", ("model", "--root_dir", "no-data"), "Make EHR-Bench with"),
        ("stages_ablation", ("model",), "expected flags, got model"),
        ("stages_ablation", ("--recipe", "none"), "--recipe none: expected a directory of recipes"),
        ("ehrshot_zero_shot", ("model", "--ehrshot_dir", "none"), "--ehrshot_dir: expected EHRSHOT_ASSETS"),
        ("ehrshot_few_shot", ("model", "--shots", "few"), "--shots: expected comma-separated numbers, got few"),
        ("mimic_cdm", ("model",), "--cdm_dir: expected the dataset"),
    ],
)
def test_errors_are_one_line(script: str, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    output = () if words[-1:] == ("--root_dir",) else ("--output_path", tmp_path / "out")
    done = bash(f"scripts/reproduce/{script}.sh", *output, *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and not done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_what_a_script_needs_and_prints(script: Path) -> None:
    done = bash(script, "--help")
    assert done.returncode == 0 and f"bash scripts/reproduce/{script.name} " in done.stdout
    for subject in ("Data", "eights", "GPUs", "ime", "Prints:"):
        assert subject in done.stdout, subject
    assert "options" not in done.stdout, "comments in the code are not help"


def test_a_dry_run_of_training_names_missing_files(tmp_path: Path) -> None:
    done = bash("scripts/reproduce/stages_ablation.sh", "--root_dir", tmp_path, "--stage1", "mine", "--dry_run")
    assert done.returncode == 0 and "stage1" not in done.stdout.splitlines()[1]
    assert "--model_name_or_path mine" in done.stdout
    assert f"missing: {tmp_path}/evidence_datas/kept/reasoning.csv" in done.stdout


def test_only_runs_in_the_setting_of_the_main_table_have_its_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["emar", "LengthOfStay_3day"]
    folders = [str(write_run(tmp_path / f"Qwen2.5-72B-stage{n}", f"models/stage{n}", tasks=tasks)) for n in (1, 3)]
    published([*folders, "--experiment", "stages"])
    first, _, last, _, note, look_up = capsys.readouterr().out.splitlines()[2:]
    assert NOT_AVAILABLE in first and " 0.6744 " in last and "(EHR-R1-72B)" in last, "not those of Qwen2.5-72B itself"
    assert note.startswith("no difference: ") and "ablation of the training stages" in look_up
    published([*folders, "--experiment", "ehrshot"])
    assert "–" in capsys.readouterr().out.splitlines()[2], "these runs have no samples of EHRSHOT"
    assert set(EXPERIMENTS) == {"main", "stages", "reasoning", "ehrshot", "cdm"}


def test_a_run_without_a_result(tmp_path: Path) -> None:
    done = command("evaluation/published.py", tmp_path, check=False)
    assert done.returncode == 2 and "expected a result" in done.stderr
