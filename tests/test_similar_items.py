"""Answer vocabularies, nearest answers, and the candidates drawn from them."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiciv_dataset.candidates import MAX_CANDIDATES, Candidates, Vocabulary, choose
from mimiciv_dataset.index_files import INDEX_COLUMNS
from mimiciv_dataset.similar_item_gen import main, nearest, tfidf
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import read_json

DRUGS = ["Aspirin", "Aspirin EC", "Heparin", "Heparin Sodium", "Insulin", "Insulin Glargine"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of two training patients and one test patient, by task and, for next_event, in another file."""
    rows = [("emar", 1, [drug]) for drug in DRUGS]
    rows += [
        ("emar", 2, DRUGS[:2]),
        ("emar", 3, ["Warfarin"]),
        ("discharge", 1, "a note"),
        ("ED_Hospitalization", 1, "no"),
    ]
    rows += [("omr", 1, [f"result, {i}"]) for i in range(150)] + [("next_event", 1, "poe"), ("next_event", 2, "emar")]
    folder = tmp_path / "index"
    folder.mkdir()
    for task in dict.fromkeys(row[0] for row in rows):
        name = "mixed" if task == "next_event" else task
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, INDEX_COLUMNS)
            writer.writeheader()
            for number, (_, subject, target) in enumerate(row for row in rows if row[0] == task):
                writer.writerow({
                    "subject_id": subject, "task": task, "event": task, "context_begin": 1, "context_end": 20 + number,
                    "target": json.dumps(target), "target_weight": 1,
                })  # fmt: skip
    (tmp_path / "train.csv").write_text("subject_id\n1\n2\n")
    return folder


def build(index: Path, cache: Path, *flags: str) -> Path:
    ids = str(index.parent / "train.csv")
    main(["--data_index_dir", str(index), "--subject_id_path", ids, "--output_path", str(cache), *flags])
    return cache


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_files(index: Path, tmp_path: Path) -> None:
    cache = build(index, tmp_path / "cache")
    assert lines(cache / "item_set/emar.csv") == [["item"], *([drug] for drug in DRUGS)]  # Warfarin is a test answer
    near = lines(cache / "similar_item/emar.csv")
    assert [row[0] for row in near] == DRUGS and all(sorted(row) == DRUGS for row in near)
    assert {row[0]: row[1] for row in near} == {
        "Aspirin": "Aspirin EC", "Aspirin EC": "Aspirin", "Heparin": "Heparin Sodium", "Heparin Sodium": "Heparin",
        "Insulin": "Insulin Glargine", "Insulin Glargine": "Insulin",
    }  # fmt: skip
    assert lines(cache / "item_set/next_event.csv") == [["item"], ["emar"], ["poe"]]
    assert {path.stem for path in cache.glob("*/*")} == {"emar", "omr", "next_event"}
    again = build(index, tmp_path / "again", "--num_workers", "2")
    assert all(path.read_bytes() == (again / path.relative_to(cache)).read_bytes() for path in cache.glob("*/*"))


def test_the_record_counts_the_answers_of_the_last_run(index: Path, tmp_path: Path) -> None:
    for top_k in ("2", "3"):
        cache = build(index, tmp_path / "cache", "--task", "emar", "omr", "--top_k", top_k, "--overwrite")
    record = read_json(cache / "provenance.json")
    assert record["complete"] and record["settings"]["top_k"] == 3 and record["tasks"] == {"emar": 6, "omr": 150}
    assert len(lines(cache / "similar_item/emar.csv")[0]) == 4
    assert sorted(path.name for path in cache.iterdir()) == ["item_set", "provenance.json", "similar_item"]


def test_the_cache_of_training_lies_beside(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache/tokenised").mkdir(parents=True)
    (tmp_path / "cache/tokenised/a.arrow").touch()
    build(index, tmp_path / "cache", "--task", "emar")
    (tmp_path / "cache/tokenised/b.arrow").touch()
    build(index, tmp_path / "cache", "--task", "emar", "--overwrite")


def test_options(index: Path, tmp_path: Path) -> None:
    cache = build(index, tmp_path / "cache", "--task", "emar", "--top_k", "2")
    assert [len(row) for row in lines(cache / "similar_item/emar.csv")] == [3] * 6
    assert not (cache / "item_set/omr.csv").exists()
    with pytest.raises(SystemExit):
        build(index, tmp_path / "cache", "--top_k", "0")
    (index.parent / "train.csv").write_text("subject_id\n99\n")
    with pytest.raises(UserError, match="the same patients"):
        build(index, tmp_path / "cache", "--task", "emar", "--top_k", "2")
    with pytest.raises(UserError, match="expected rows of decision tasks"):
        build(index, tmp_path / "other")


def test_one_answer_has_no_neighbours() -> None:
    assert list(nearest(tfidf(["Aspirin"]), 100)) == [[]]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30), st.integers(1, 10), st.integers(1, 200))
def test_nearest_is_the_sorted_list(rows: list[tuple[int, ...]], top_k: int, cells: int) -> None:
    """Blocks of any size give what sorting all similarities gives, ties by position."""
    from mimiciv_dataset import similar_item_gen

    vectors = np.array(rows, dtype=np.float32) + np.float32(0.25)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = np.round(vectors @ vectors.T, 5)
    expected = [
        sorted((j for j in range(len(rows)) if j != i), key=lambda j: (-similar[i, j], j))[:top_k] for i in range(len(rows))
    ]
    usual, similar_item_gen._BLOCK_CELLS = similar_item_gen._BLOCK_CELLS, cells
    try:
        neighbours = list(nearest(vectors, top_k))
    finally:
        similar_item_gen._BLOCK_CELLS = usual
    # A product of another shape may sum in another order: equal up to similarities that rounding tells apart.
    for i, (a, b) in enumerate(zip(neighbours, expected, strict=True)):
        assert np.allclose(similar[i, a], similar[i, b], atol=2e-5)
        assert len(set(a)) == len(a) == len(b) and i not in a


def test_candidates(index: Path, tmp_path: Path) -> None:
    candidates = Candidates(build(index, tmp_path / "cache"))
    assert set(candidates.of(TASKS["emar"], ["Warfarin"], "k")) == {*DRUGS, "Warfarin"}
    assert set(candidates.of(TASKS["next_event"], ["poe"], "k")) == {"poe", "emar"}
    many = candidates.of(TASKS["omr"], ["result, 7", "unknown"], "k")
    assert len(many) == len(set(many)) == MAX_CANDIDATES and {"result, 7", "unknown"} <= set(many)
    assert candidates.of(TASKS["labevents"], ["x"], "k") is None
    assert candidates.of(TASKS["discharge"], ["text"], "k") is None
    assert sorted(candidates.of(TASKS["ED_Hospitalization"], ["no"], "k")) == ["no", "yes"]
    copy = pickle.loads(pickle.dumps(candidates))  # noqa: S301
    assert copy.of(TASKS["omr"], ["result, 7", "unknown"], "k") == many


def test_released_files_have_no_header(tmp_path: Path) -> None:
    """The first line of similar_item is an answer; item_set may be missing or without header."""
    (tmp_path / "similar_item").mkdir()
    names = [f"answer {i}" for i in range(120)]
    text = "\n".join(",".join([name, *names[:100]]) for name in names)
    (tmp_path / "similar_item/emar.csv").write_text(text)
    assert "answer 0" in Candidates(tmp_path).vocabulary("emar").items
    assert Candidates(tmp_path).vocabulary("emar").neighbours("answer 0")[:2] == ["answer 1", "answer 2"]
    (tmp_path / "item_set").mkdir()
    (tmp_path / "item_set/emar.csv").write_text("\n".join(names[::-1]))
    assert sorted(Candidates(tmp_path).vocabulary("emar").items) == sorted(names)
    (tmp_path / "item_set/emar.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"emar\.csv: expected a CSV in UTF-8"):
        Candidates(tmp_path).vocabulary("emar")


names = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=12)


@given(names, names.filter(bool), st.integers(1, 8), st.text(max_size=5))
def test_laws(items: list[str], answers: list[str], size: int, key: str) -> None:
    similar = [[item, *items[i + 1 :], *items[:i]] for i, item in enumerate(items)]
    vocabulary = Vocabulary(items, similar)
    chosen = choose(vocabulary, answers, key, size)
    assert set(answers) <= set(chosen) and len(set(chosen)) == len(chosen)
    assert chosen == choose(vocabulary, answers, key, size)
    if len(items) <= size:
        assert set(chosen) == {*items, *answers}
    else:
        assert len(chosen) == max(size, len(answers))


def test_every_answer_is_represented() -> None:
    items = [f"{group}{i}" for group in "ab" for i in range(200)]
    similar = [[name, *(other for other in items if other[0] == name[0] and other != name)] for name in items]
    chosen = choose(Vocabulary(items, similar), ["a0", "b0"], "k")
    assert abs(sum(name[0] == "a" for name in chosen) - 50) <= 1


def test_keys_give_different_orders() -> None:
    vocabulary = Vocabulary([str(i) for i in range(50)])
    orders = {tuple(choose(vocabulary, ["1"], str(key))) for key in range(20)}
    assert len(orders) == 20
    first = [choose(vocabulary, ["1"], str(key)).index("1") for key in range(2000)]
    assert abs(np.mean(first) - 24.5) < 1.5  # every position is equally likely
