"""Every command: help is instant, nothing heavy is loaded for it, and bad flags are refused."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, command

from pipeline.cli import Chunk
from pipeline.errors import UserError
from pipeline.files import atomic_dir, atomic_path

HEAVY = {"torch", "polars", "pandas", "transformers", "vllm", "sklearn", "pyarrow", "openai", "datasets", "numpy", "scipy"}
TRAINERS = {"sft.py", "grpo.py"}  # their flags are those of TRL, which must be loaded to know them


def commands() -> list[str]:
    """Every file that is meant to be run."""
    files = [*REPO.glob("*.py"), *(p for d in ("preprocess", "mimiciv_dataset", "evaluation", "thinking_graph_preprocess",
                                               "scripts", "benchmarks") for p in (REPO / d).glob("*.py"))]  # fmt: skip
    found = [str(p.relative_to(REPO)) for p in files if '__name__ == "__main__"' in p.read_text(encoding="utf-8")]
    return sorted(set(found) - TRAINERS)


@pytest.mark.parametrize("script", commands())
def test_help_loads_nothing_heavy(script: str) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", REPO / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not loaded & HEAVY
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("script", commands())
def test_unknown_flags_are_refused(script: str) -> None:
    done = command(script, "--no_such_flag", "x", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_no_module_of_ours_hides_a_library() -> None:
    """`python dir/script.py` puts dir on the import path, so a file there must not be named like a package we use."""
    installed = {"datasets", "statistics", "vllm", "trackio", "types", "json", "csv", "random", "tokenizers", "evaluate"}
    ours = {path.stem for d in ("preprocess", "mimiciv_dataset", "evaluation", "training", "thinking_graph_preprocess")
            for path in (REPO / d).glob("*.py")}  # fmt: skip
    assert not ours & (installed | set(sys.stdlib_module_names))


def test_the_library_knows_no_step_downstream() -> None:
    """Arrows of the design never point back."""
    allowed = {
        "mimiciv_dataset": set(),
        "preprocess": {"mimiciv_dataset"},
        "evaluation": {"mimiciv_dataset"},
        "thinking_graph_preprocess": {"mimiciv_dataset", "evaluation"},
        "training": {"mimiciv_dataset", "evaluation"},
    }
    for package, may in allowed.items():
        for path in (REPO / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    top = name.split(".")[0]
                    # split_patients.py may list the patients of trajectories; nothing else of ours is named here
                    assert top not in allowed or top == package or top in may, f"{path} imports {name}"


def test_atomic_outputs_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    for make in (atomic_path, atomic_dir):
        target = tmp_path / make.__name__
        with pytest.raises(RuntimeError), make(target) as temporary:
            (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []


def test_chunks_are_checked() -> None:
    with pytest.raises(UserError, match="expected a number from 0 to 2"):
        Chunk(3, 3)
