"""The benchmarks run, on little."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import command
from test_evaluation_resume import write_index

from mimiciv_dataset.index_rows import read_rows


def cells(output: str) -> list[list[str]]:
    """The rows of the Markdown tables of an output, without the lines under their headings."""
    lines = [line for line in output.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_scoring() -> None:
    done = command("benchmarks/score.py", "--rows", 90, "--patients", 20, "--resamples", 20, "--rounds", 1)
    assert done.stdout.splitlines()[-1].startswith("| 90 | ")


def test_false_positives() -> None:
    done = command("benchmarks/false_positives.py", "--studies", 2, "--resamples", 5)
    rows = cells(done.stdout)
    assert ["F1, same outputs", *["0.0 / 0.0 / 0.0"] * 8] in rows and rows[-1][0] == "AUROC of 0.9, 10% yes"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_prompts_at_once(synthetic_root: Path, tiny_model: Path) -> None:
    index = synthetic_root / "task_index/all"
    done = command("benchmarks/prompts_at_once.py", "--root_dir", synthetic_root, "--dataset_name", index / "emar.csv",
                   index / "ICU_Stay_7day.csv", "--model_name_or_path", tiny_model, "--rows", 4, "--rounds", 1,
                   "--max_new_tokens", 20, "--max_seq_len", 1500, "--window", 2, "--alone", 2)  # fmt: skip
    rows = cells(done.stdout)[1:]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        (index, number, variant)
        for index in ("emar", "ICU_Stay_7day")
        for number, variant in (("4", "windows of 2"), ("4", "whole run"), ("2", "one at a time"), ("2", "whole run"))
    ]
    assert all(row[-1] == "100%" for row in rows[4:]), "p(yes) says the same either way"
    assert rows[0][7] != "0%" and rows[1][7] == "0%", "idle steps"


@pytest.mark.slow
def test_eval_memory(tiny_model: Path) -> None:
    done = command("benchmarks/eval_memory.py", "--model_name_or_path", tiny_model, "--prompts", 3, "--tokens", 4000)
    peaks = {row[0]: int(row[4].replace(",", "")) for row in cells(done.stdout)[1:]}
    assert peaks.keys() == {"unbounded", "bounded", "one at a time"} and peaks["bounded"] < peaks["unbounded"]


def test_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.sampling import main

    main(["--rows", "2000"])
    header, row = cells(capsys.readouterr().out)
    assert header == ["rows", "MB", "CPU s", "µs per row", "peak MiB"] and row[0] == "2,000"
    assert int(row[4].replace(",", "")) > 100


def test_index_reading(small_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.index_reading import main

    main([str(small_root / "task_index/all/emar.csv"), "--repeats", "1"])  # fails if the two ways differ
    assert "emar.csv" in capsys.readouterr().out


def test_viewer(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.viewer import INTERACTIONS, main

    main(["--events", "420", "--samples", "3", "--rounds", "1"])
    assert [row[0] for row in cells(capsys.readouterr().out)] == ["interaction", *INTERACTIONS, "all"]


def test_graph() -> None:
    done = command("benchmarks/graph.py", "--nodes", 2000, "--relations", 10000, "--pairs", 50)
    assert done.stdout.startswith("2,000 concepts, 10,000 relations: built in")
    limits = [tuple(row[:2]) for row in cells(done.stdout)[1:]]
    assert limits == [("10, 2,000", "any"), ("10, 2,000", "2,000"), ("10, 2,000", "200"), ("no limit", "2,000")]


@pytest.mark.slow
def test_evidence_of_the_demo(test_data: Path) -> None:
    """The free vocabularies say little without passing through lists of items; a knowledge graph links most diagnoses."""
    done = command("benchmarks/evidence.py", "--mimic_dir", test_data / "data/mimic-iv-demo", "--maps_from",
                   test_data / "data/index_mapping/hosp")  # fmt: skip
    rows = cells(done.stdout)[1:]
    shares = {task: (float(free.rstrip("%")), float(linked.rstrip("%"))) for task, _, free, _, _, linked, *_ in rows}
    assert all(free <= linked for free, linked in shares.values())
    assert 0 < shares["diagnoses_icd"][0] < 20 and shares["diagnoses_icd"][1] > 50
    assert sum(linked > 0 for _, linked in shares.values()) >= 10
    through_lists = re.findall(r": ([\d,]+) of ([\d,]+) paths through a list of items", done.stdout)
    assert len(through_lists) == 4 and all(through == "0" and paths != "0" for through, paths in through_lists)


@pytest.mark.slow
def test_train_speed(synthetic_root: Path, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.csv", synthetic_root, ("emar", "ICU_Stay_7day"), 12)
    done = command("benchmarks/train_speed.py", "--root_dir", synthetic_root, "--dataset_name", index, "--max_length", 256,
                   "--batch", 2, "--steps", 2, "--rounds", 1)  # fmt: skip
    useful = {row[0]: float(row[1].rstrip("%")) for row in cells(done.stdout) if row[1].endswith("%")}
    assert useful["packed"] == 100 > useful["padded"] and len(useful) == 4
    assert {row[0] for row in cells(done.stdout)} >= {"all logits", "in chunks"} and "one dataloader worker: " in done.stdout


def test_gpu_row_that_fails_is_reported(tmp_path: Path) -> None:
    """A failed or late row has its reason; its output is kept, and the rows after it are measured."""
    from benchmarks.gpu import QUICK, Bench

    bench = Bench(tmp_path, tmp_path / "gpu.md", QUICK, 60, tmp_path)
    fails = "print('step 1'); raise SystemExit('error: no such | file.')"
    late = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    bench.table("Title", "Note.", ["name", "printed"])
    bench.row("fails", lambda: [bench.call("-c", fails)])
    bench.row("late", lambda: [bench.call("-c", late.replace("pid", str(tmp_path / "pid"), 1), seconds=2)])
    bench.row("works", lambda: [bench.call("-c", "print(7, end='')")])
    assert cells(bench.output.read_text(encoding="utf-8")) == [
        ["name", "printed"],
        ["fails", "failed: error: no such / file."],
        ["late", "failed: not finished after 2 s"],
        ["works", "7"],
    ]
    assert "step 1" in (tmp_path / "gpu.log").read_text(encoding="utf-8")
    assert not Path("/proc", (tmp_path / "pid").read_text(encoding="utf-8")).exists(), "the late process has ended"
    bench.deadline = 0
    bench.row("too late", lambda: [bench.call("-c", "print(7)")])
    assert cells(bench.output.read_text(encoding="utf-8"))[-1] == ["too late", "failed: no time left"]


@pytest.mark.slow
def test_gpu(synthetic_root: Path, tmp_path: Path) -> None:
    """Two sections with tiny sizes on the CPU, without flash attention; the tests above and below run the others' parts."""
    (tmp_path / "speed").mkdir()
    for name in ("patients_ehr", "index_mapping", "task_index"):
        (tmp_path / "speed" / name).symlink_to(synthetic_root / name)
    command("benchmarks/gpu.py", "--root_dir", tmp_path, "--quick", "--sections", "batches", "evaluation")
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in cells(text)}
    assert {"padded", "grouped by length", "--batch 4 --max_batch_tokens 1000000"} <= rows.keys()
    assert not any("failed" in cell for row in rows.values() for cell in row)
    assert ["packed", "kernels-community/flash-attn2", "not installed"] in cells(text)
    trained = {row[0]: row for row in cells(text) if row[0] in ("padded", "packed") and len(row) == 7}
    assert all(row[2] == "3" for row in trained.values()), "steps"
    losses = {name: row[-1] for name, row in trained.items()}
    assert float(losses["padded"]) == pytest.approx(float(losses["packed"]), abs=0.01), "the same samples in each step"


@pytest.mark.slow
def test_learning(tmp_path: Path) -> None:
    """All steps, on too few patients to learn anything."""
    words = ("--root_dir", tmp_path, "--size", "cpu")
    command("benchmarks/learning.py", "data", *words, "--patients", 60, "--rows", 12, "--test_rows", 8)
    for step in ("stage1", "stage2", "stage3", "curve"):
        command("benchmarks/learning.py", step, *words, "--max_steps", 2)
    done = command("benchmarks/learning.py", "table", *words)
    rows = cells(done.stdout)
    assert len(rows) == 1 + 5 and all(len(row) == 11 for row in rows)
    risk = rows[1]
    assert risk[:3] == ["ED_Hospitalization", "8", "AUROC"] and risk[3].startswith("0.500") and all(risk)
    assert (tmp_path / "learning_cpu.svg").read_text(encoding="utf-8").count("<path") > 10
    again = command("benchmarks/learning.py", "stage1", *words)
    assert "is already trained" in again.stdout, "finished parts are not repeated"


def test_candidates(synthetic_root: Path, tmp_path: Path) -> None:
    """Only answers have neighbours here, so that every pick is an answer."""
    index, others = synthetic_root / "task_index/all/poe.csv", [f"drug {i}" for i in range(150)]
    answers = {name for row in read_rows(index) for name in row["target"]}
    texts = {
        "item_set": ["item", *others],
        "similar_item": [f'"{answer}",{",".join(others[:99])}' for answer in answers],
    }
    for folder, lines in texts.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "poe.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = command("benchmarks/candidates.py", "--index", index, "--cache", tmp_path, "--rows", 20)
    header, _, row = done.stdout.splitlines()
    assert header.split() == ["task", "vocabulary", "rows", "picked", "by", "chance"]
    assert row.split()[:4] == ["poe", str(150 + len(answers)), "20", "100%"]


@pytest.mark.slow
def test_the_engines_are_compared(small_root: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    done = command("benchmarks/ray_engine.py", "--root_dir", small_root, "--workers", 2)
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("yes")]
    assert [row[:2] for row in rows] == [["processes", "2"], ["ray", "2"]], "both have the same bytes"


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    done = command("benchmarks/scale.py", "--patients", 40, "--scales", 2, 1, "--figure", tmp_path / "scale.svg")
    rows = cells(done.stdout)
    steps = ["merge_patient", "rank", "combination", "index", "EHR-Bench", "EHR-Ins"]
    assert [(row[0], row[2], row[-1]) for row in rows[1:13]] == [
        (patients, step, "yes") for patients in ("20", "40") for step in steps
    ]
    assert [row[0] for row in rows[14:]] == steps, "the extrapolation"
    assert "MIMIC-IV 3.1" in (tmp_path / "scale.svg").read_text()
