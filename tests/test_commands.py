"""Every command: instant help, strict flags, and one line when it is started without the environment."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, command
from tiny_mimic import TWO_PATIENTS, write_mimic

from pipeline.cli import Chunk, Parser
from pipeline.errors import UserError

HEAVY = {"torch", "polars", "pandas", "transformers", "vllm", "sklearn", "pyarrow", "openai", "datasets", "numpy", "scipy"}
TRAINERS = {"sft.py", "grpo.py"}  # most of their flags are those of TRL, which must be loaded to know them


def scripts() -> list[Path]:
    """Every file that is meant to be run, relative to the repository."""
    files = [*REPO.glob("*.py"), *(path for folder in REPO.glob("[a-z]*/") for path in folder.rglob("*.py"))]
    commands = [path.relative_to(REPO) for path in files if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")]
    return sorted(path for path in commands if path.parts[0] != "tests")


SCRIPTS = [path.as_posix() for path in scripts()]


def test_scripts_of_subpackages_are_found() -> None:
    assert {"sft.py", "preprocess/rank.py", "evaluation/external/cdm.py", "scripts/infer.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_instant(script: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-X", "importtime", REPO / script, "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "seconds of a processor"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not loaded & HEAVY
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_the_standard_library_only(script: str) -> None:
    done = subprocess.run([sys.executable, "-S", REPO / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 5, done.stderr[-2000:]


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script not in TRAINERS])
def test_flags_are_not_guessed(script: str) -> None:
    done = command(script, "--no_such_flag", "x", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    if not script.startswith("benchmarks/"):  # some of these pass unknown flags on to another command
        assert "--no_such_flag" in done.stderr
        done = command(script, "--root_di=x", check=False)  # misspelled, and a prefix of a flag
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "unknown flag --root_di. Did you mean --root_dir?" in done.stderr


@pytest.mark.slow  # loads TRL
@pytest.mark.parametrize("script", sorted(TRAINERS))
def test_a_mistyped_flag_of_a_trainer_is_refused(script: str, tmp_path: Path) -> None:
    flags = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", tmp_path, "--lerning_rate", 1]
    done = command(script, *flags, check=False)
    assert done.returncode == 2 and "--lerning_rate" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("preprocess/merge_patient.py", ["--root_dir", "{root}"]),
        ("preprocess/build_index_mapping.py", ["--root_dir", "{root}", "--mimic_dir", "{root}"]),
        ("preprocess/synthetic_mimic.py", ["--root_dir", "{root}/synthetic", "--patients", "2"]),
        ("sft.py", ["--model_name_or_path", "m", "--dataset_name", "{root}", "--output_dir", "{root}/sft"]),
        ("grpo.py", ["--model_name_or_path", "m", "--dataset_name", "{root}", "--output_dir", "{root}/grpo"]),
    ],
)
def test_without_the_environment(script: str, flags: list[str], tmp_path: Path) -> None:
    """One line that says how to activate or make the environment."""
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp/d_labitems.csv").write_text("itemid,label\n")
    (tmp_path / "hosp/diagnoses_icd.csv").write_text("icd_code,icd_version\n")
    (tmp_path / "index_mapping/hosp").mkdir(parents=True)
    (tmp_path / "index_mapping/hosp/d_icd_diagnoses.csv").write_text("icd_code,icd_version,long_title\n")
    words = [flag.format(root=tmp_path) for flag in flags]
    done = subprocess.run([sys.executable, "-S", REPO / script, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and " is not installed" in line
    assert f"source {REPO}/.venv/bin/activate" in line or "setup_env.sh" in line


NEEDS_DATA = [script for script in SCRIPTS if not script.startswith(("benchmarks/", "scripts/download_code_maps"))]


@pytest.mark.parametrize("script", NEEDS_DATA)
def test_without_data_and_environment(script: str, tmp_path: Path) -> None:
    """One line about whatever is missing first."""
    line = [sys.executable, "-S", REPO / script, "--root_dir", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert [text for text in done.stderr.splitlines() if text.startswith("error: ")] == done.stderr.splitlines()[-1:]


IMPORT_FROM_SCRIPT = """
import os, runpy, sys
sys.path[0] = os.path.dirname(sys.argv[1])
runpy.run_path(sys.argv[1], run_name="imported")
for name, module in sorted(sys.modules.items()):
    if getattr(module, "__file__", None) and name.partition(".")[0] in sys.argv[2:]:
        print(module.__file__)
"""


def test_every_script_uses_the_packages_of_its_own_checkout(tmp_path: Path) -> None:
    """Even if another checkout is installed in the environment."""
    packages = [path.parent.name for path in REPO.glob("[a-z]*/__init__.py")]
    checkout = tmp_path / "checkout"
    for path in [*map(Path, SCRIPTS), *(path.relative_to(REPO) for name in packages for path in (REPO / name).rglob("*.py"))]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, checkout / path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for script in SCRIPTS:
        line = [sys.executable, "-c", IMPORT_FROM_SCRIPT, checkout / script, *packages]
        done = subprocess.run(line, capture_output=True, text=True, cwd="/", env=environment)
        files = done.stdout.splitlines()
        assert done.returncode == 0 and (files or script.startswith("benchmarks/")), (script, done.stderr)
        assert all(Path(file).is_relative_to(checkout) for file in files), (script, files)


def test_no_module_of_ours_hides_a_library() -> None:
    """`python dir/script.py` puts dir on the import path, so a file there must not be named like a package we use."""
    installed = {"datasets", "statistics", "vllm", "trackio", "types", "json", "csv", "random", "tokenizers", "evaluate"}
    for folder in {(REPO / script).parent for script in SCRIPTS} - {REPO}:
        names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not names & (installed | set(sys.stdlib_module_names)), folder


def test_errors_of_flags_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli = Parser("Example.")
    cli.add_num_workers()
    for words, text in ((["--num_workers", "0"], "at least 1"), (["--num_worker", "1"], "Did you mean --num_workers?")):
        with pytest.raises(SystemExit) as ended:
            cli.parse_args(words)
        assert ended.value.code == 2 and text in capsys.readouterr().err
    with pytest.raises(UserError, match="from 0 to 2"):
        Chunk(3, 3)
