"""The benchmarks of evaluation run, on little."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import command


def test_scoring() -> None:
    done = command("benchmarks/score.py", "--rows", 90, "--patients", 20, "--resamples", 20, "--rounds", 1)
    assert done.stdout.splitlines()[-1].startswith("| 90 | ")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_prompts_at_once(synthetic_root: Path, tiny_model: Path) -> None:
    index = synthetic_root / "task_index/all"
    done = command("benchmarks/prompts_at_once.py", "--root_dir", synthetic_root, "--dataset_name", index / "emar.csv",
                   index / "ICU_Stay_7day.csv", "--model_name_or_path", tiny_model, "--rows", 4, "--rounds", 1,
                   "--max_new_tokens", 8, "--max_seq_len", 1500)  # fmt: skip
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| index", "| ---", "| emar", "| ICU_Stay_7day"]
    assert rows[2][1] == rows[3][1] == "4" and rows[3][8] == "100% |", "p(yes) says the same either way"


def test_graph() -> None:
    done = command("benchmarks/graph.py", "--nodes", 2000, "--relations", 10000, "--pairs", 50)
    first, *_, limited, free = done.stdout.splitlines()
    assert first.startswith("2,000 concepts, 10,000 relations: built in")
    assert limited.startswith("| 10 hops, 2,000 concepts | ") and free.startswith("| none | ")


@pytest.mark.slow
def test_evidence_of_the_demo(test_data: Path) -> None:
    """Samples get graphs from the free vocabularies, and more where every name is known and linked."""
    done = command("benchmarks/evidence.py", "--mimic_dir", test_data / "data/mimic-iv-demo", "--maps_from",
                   test_data / "data/index_mapping/hosp")  # fmt: skip
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    shares = {task: (float(free.rstrip("%")), float(linked.rstrip("%"))) for task, _, free, _, _, linked, *_ in rows}
    assert all(free <= linked for free, linked in shares.values())
    assert shares["diagnoses_icd"][0] > 50 and sum(free > 0 for free, _ in shares.values()) > 15
