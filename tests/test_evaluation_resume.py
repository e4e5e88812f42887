"""Whole runs of test.py on real labels: their scores, and that a killed, resumed or split run has the same."""

from __future__ import annotations

import csv
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from forked import command
from sklearn import metrics
from test_evaluation_cli import lines, same

from pipeline.files import read_json

TASKS = ("emar", "next_event", "ED_Hospitalization", "LengthOfStay_3day", "Readmission_60day")


def write_index(path: Path, root: Path, tasks: Sequence[str], each: int) -> Path:
    """An index file with some rows of each task, from all over the tasks' own files."""
    with path.open("w", newline="", encoding="utf-8") as file:
        for task in tasks:
            with (root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as source:
                rows = list(csv.DictReader(source))
            writer = csv.DictWriter(file, rows[0])
            if task == tasks[0]:
                writer.writeheader()
            writer.writerows(rows[:: len(rows) // each][:each])
    return path


@pytest.fixture(scope="module")
def given(synthetic_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Flags of a run over 10 rows of each task, no two of which read the same; some are truncated, some too long."""
    path = write_index(tmp_path_factory.mktemp("index") / "index.csv", synthetic_root, TASKS, 10)
    return ["--root_dir", synthetic_root, "--dataset_name", path, "--model_name_or_path", tiny_model,
            "--max_new_tokens", 8, "--max_seq_len", 1200, "--batch", 3, "--resamples", 100]  # fmt: skip


@pytest.fixture(scope="module")
def whole(given: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    command("test.py", *given, "--output_path", output)
    found = lines(output).values()
    assert len(found) == 50 and any(line["truncated"] for line in found) and any("error" in line for line in found)
    return output


@pytest.mark.parametrize("task", ["ED_Hospitalization", "LengthOfStay_3day"])
def test_figures_are_scikit_learns_on_the_stored_p_yes(whole: Path, task: str) -> None:
    rows = [line for line in lines(whole).values() if line["task_info"]["task"] == task]
    labels = [line["task_info"]["label"] == "yes" for line in rows]
    p_yes = [line["outputs"][0]["p_yes"] for line in rows]
    assert len(rows) == 10 and 0 < sum(labels) < 10 and len(set(p_yes)) == 10
    found = read_json(whole / "result.json")["tasks"][task]
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, p_yes))
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(labels, p_yes))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(labels, p_yes))


def leaves(value: Any, *path: object) -> Iterator[tuple[tuple[object, ...], Any]]:
    """Every value inside a JSON value, with where it stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, inner in items:
            yield from leaves(inner, *path, key)


def same_run(one: Path, other: Path) -> None:
    """The same outputs, and the same result.json but for the flags that say how the run was made."""
    same(lines(one), lines(other))
    results = []
    for folder in (one, other):
        result = read_json(folder / "result.json")
        for flag in ("output_path", "resume", "chunk_num", "chunk_idx"):
            del result["arguments"][flag]
        del result["usage"]["seconds"]
        results.append(dict(leaves(result)))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_killed_at_several_points_and_resumed(whole: Path, given: list[object], tmp_path: Path) -> None:
    output = tmp_path / "out"
    outputs, size = output / "outputs.jsonl", (whole / "outputs.jsonl").stat().st_size
    script = [sys.executable, str(REPO / "test.py"), *map(str, given), "--output_path", str(output), "--resume"]

    def written() -> int:
        return outputs.stat().st_size if outputs.exists() else 0

    for share in (0, 0.3, 0.9):  # killed as soon as more than this is written, and something in this turn
        wanted = max(share * size, written())
        process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        while process.poll() is None and written() <= wanted:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL or share, "the first is killed with most of its work to do"
    command("test.py", *given, "--output_path", output, "--resume")
    same_run(output, whole)


@pytest.mark.parametrize(
    ("share", "where"),  # after how much of the lines; a byte before the line's end, after it, or in the next
    [(0, 0), (0, 1), (0.4, 1), (0.7, -1), (0.9, 0), (1, -1)],
)
def test_cut_anywhere_and_resumed(whole: Path, given: list[object], tmp_path: Path, share: float, where: int) -> None:
    """What a kill at any byte leaves: the settings, and the beginning of the outputs."""
    output = tmp_path / "out"
    output.mkdir()
    shutil.copy(whole / "provenance.json", output)
    data = (whole / "outputs.jsonl").read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(data) if byte == ord("\n"))]
    (output / "outputs.jsonl").write_bytes(data[: ends[round(share * (len(ends) - 1))] + where])
    main = runpy.run_path(str(REPO / "test.py"))["main"]
    assert main([*map(str, given), "--output_path", str(output), "--resume"]) == 0
    same_run(output, whole)


@pytest.mark.slow
def test_eight_chunks_together_are_one_run(whole: Path, given: list[object], tmp_path: Path) -> None:
    """Each a process of its own, two at a time; whichever finishes last scores."""
    output = tmp_path / "out"
    run = ["test.py", *given, "--output_path", output, "--chunk_num", 8]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda idx: command(*run, "--chunk_idx", idx), range(8)))
    assert any("macro" in one.stdout for one in done)
    assert len(list(output.glob("outputs-*-of-8.jsonl"))) == 8
    same_run(output, whole)
