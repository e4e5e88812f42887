"""The graph of a sample: the pairs that the rules choose, by a naive count, and paths that hold in the graph."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import command
from tiny_umls import write_umls

from mimiciv_dataset.chat import sha256
from mimiciv_dataset.tasks import TASKS
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, normalise
from thinking_graph_preprocess.umls_graph import Graph

PLACE = "thinking_graph_preprocess"
CHOSEN = ("prescriptions", "diagnoses_icd", "labevents", "pyxis")


@pytest.fixture(scope="module")
def built(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Concepts, co-occurrence and a UMLS-shaped graph in which all concepts hang together, and evidence of one index."""
    import pyarrow.parquet as pq

    from mimiciv_dataset.trajectory import Trajectories

    place = tmp_path_factory.mktemp("evidence")
    patients = place / "patients.csv"
    patients.write_text("\n".join(["subject_id", *Trajectories(synthetic_root / "patients_ehr").subject_ids()]) + "\n")
    by_patient = place / "by_patient"
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", synthetic_root, "--output_path", by_patient,
            "--group", "patient")  # fmt: skip
    command(f"{PLACE}/concept_extraction.py", "--root_dir", synthetic_root, "--output_path", place / "concepts",
            "--data_index_dir", by_patient)  # fmt: skip
    command(f"{PLACE}/coexistence_concept.py", "--root_dir", synthetic_root, "--output_path", place,
            "--subject_id_path", patients)  # fmt: skip
    names = sorted({name for path in (place / "concepts").glob("*.parquet")
                    for name in pq.read_table(path, columns=["concept"])["concept"].to_pylist()})  # fmt: skip
    cuis = {name: f"C{number:07}" for number, name in enumerate(names, 1)}
    relations = [(cuis[name], "isa", cuis[names[int(sha256(name)[:4], 16) % len(names)]]) for name in names]
    relations += [(cuis[name], "has_finding", cuis[other]) for name, other in zip(names, names[7:], strict=False)]
    write_umls(place / "META", [(cui, name.title()) for name, cui in cuis.items()],
               [row for row in relations if row[0] != row[2]])  # fmt: skip
    command(f"{PLACE}/build_umls_graph.py", "--umls_dir", place / "META", "--output_path", place / "graph")
    rows = []
    for task in (*CHOSEN, "next_event", "LengthOfStay_3day"):
        with (synthetic_root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))[-6:]
    with (place / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return place


def flags(root: Path, built: Path, output: Path, *more: object) -> list[object]:
    return ["--root_dir", root, "--data_index_path", built / "index.csv", "--output_path", output, "--concept_dir",
            built / "concepts", "--coexistence_dir", built / "coexistence", "--graph", built / "graph", "--threshold", 1.2,
            "--min_support", 2, "--topk", 3, "--total_pair", 7, *more]  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def naive_pairs(root: Path, built: Path, row: dict[str, str]) -> list[tuple[str, str]]:
    """(history, target) by the rules, one thing after the other, from the files alone."""
    import pyarrow.parquet as pq

    from mimiciv_dataset.trajectory import Trajectories

    task = TASKS[row["task"]]
    tables = [event.file_name for event in Trajectories(root / "patients_ehr").trajectory(row["subject_id"])]
    number = {name: int(float(row[name])) if row[name] else None
              for name in ("context_begin", "context_end", "admissions_id", "last_discharge_id")}  # fmt: skip
    window = range(number["context_begin"], number["context_end"])
    seen = {at for at in window if tables[at] not in ("admissions", *task.hidden)} | {number["last_discharge_id"]}
    seen |= {number["admissions_id"]} if task.name != "admissions" else set()
    history = set()
    for path in (built / "concepts").glob("*.parquet"):
        for one in pq.read_table(path, filters=[("subject_id", "=", row["subject_id"])]).to_pylist():
            if one["event_id"] in seen and not one["negated"]:
                history.add(one["concept"])
    counts = pq.read_table(built / f"coexistence/{task.name}.parquet").to_pylist()
    chosen = []
    for target in {normalise(name) for name in json.loads(row["target"])}:
        mine = [
            (-one["lift"], -one["n_history"], one["history"], target) for one in counts
            if one["target"] == target and one["history"] in history and one["lift"] > 1.2 and one["n_history"] >= 2
        ]  # fmt: skip
        chosen += sorted(mine)[:3]
    return [(history, target) for _, _, history, target in sorted(chosen)[:7]]


def test_pairs_and_paths(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    done = command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv"))
    rows, graph = read(tmp_path / "out.csv"), Graph(built / "graph")
    assert len(rows) == 36 and [row["task"] for row in rows] == [row["task"] for row in read(built / "index.csv")]
    found = Counter()
    for row in rows:
        if row["task"] not in GRAPH_TASKS:
            assert row["graph"] == ""
            continue
        paths = json.loads(row["graph"])["umls_graph"] if row["graph"] else []
        pairs = naive_pairs(synthetic_root, built, row)
        wanted = [graph.path(history, target) for history, target in pairs]
        assert paths == [path for path in wanted if path is not None]
        for path, (history, target) in zip(paths, [p for p, w in zip(pairs, wanted, strict=True) if w], strict=True):
            assert history != target and normalise(path[0]) == history and normalise(path[-1]) == target
            assert len(path) % 2 == 1 and len(path) <= 21
        found[row["task"]] += bool(paths)
    assert sum(found.values()) > 6, "the test would show nothing without graphs"
    assert "with graph" in done.stdout and "rows," in done.stdout


def test_chunks_are_the_whole(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv"))
    for number in range(3):
        command(f"{PLACE}/evidence_generation.py",
                *flags(synthetic_root, built, tmp_path / "out.csv", "--chunk_num", 3, "--chunk_idx", number))  # fmt: skip
    parts = [row for number in range(3) for row in read(tmp_path / f"out-{number}-of-3.csv")]
    assert sorted(map(str, parts)) == sorted(map(str, read(tmp_path / "out.csv")))


def test_bad_input_is_said(synthetic_root: Path, built: Path, tmp_path: Path) -> None:
    def refused(*more: object) -> str:
        done = command(
            f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv", *more), check=False
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "out.csv").exists(), "nothing half-written"
        return done.stderr

    assert "wanted a graph folder" in refused("--graph", tmp_path / "none")
    assert "wanted co-occurrence of this task" in refused("--coexistence_dir", tmp_path)
    assert "wanted an index CSV" in refused("--data_index_path", tmp_path / "none.csv")
    (tmp_path / "out.csv").write_text("", encoding="utf-8")
    done = command(f"{PLACE}/evidence_generation.py", *flags(synthetic_root, built, tmp_path / "out.csv"), check=False)
    assert done.returncode == 2 and "this step is done" in done.stderr
