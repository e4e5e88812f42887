"""Which mentions are asserted of the patient: sentences by kind of cue, notes with marks, the shared sentences."""

from __future__ import annotations

import runpy
from bisect import bisect_left
from collections import Counter

import pytest
from conftest import REPO, TEST_DATA

from thinking_graph_preprocess.assertions import unasserted
from thinking_graph_preprocess.term_search import hashes, tokens

benchmark = runpy.run_path(str(REPO / "benchmarks/assertions.py"))
read_marks = benchmark["read_marks"]


def cues_of(text: str, mentions: list[tuple[int, int, bool]]) -> list[str | None]:
    words, starts = tokens(text)
    spans = [(bisect_left(starts, begin), bisect_left(starts, end)) for begin, end, _ in mentions]
    return unasserted(text, words, starts, hashes(words), spans)


def test_notes_of_four_kinds() -> None:
    """At least 95 % of the mentions of each kind of note. The notes were marked before the program saw them."""
    notes = benchmark["read_notes"](benchmark["NOTES"])
    mentions = Counter(note.kind for note in notes for _ in note.mentions)
    right = benchmark["count_right"](notes, benchmark["assertions"](notes)[0])
    assert len(mentions) == 4 and mentions.total() >= 150
    assert all(right[kind] >= 0.95 * number for kind, number in mentions.items())


def test_shared_sentences() -> None:
    path = TEST_DATA / "cases/graph/negation_sentences.py"
    if not path.exists():
        pytest.skip(f"no sentences in {path.parent}: set EHR_TEST_DATA")
    right = total = 0
    for *_, text, gold in runpy.run_path(str(path))["S"]:
        found = sorted((text.lower().rindex(term.lower()), term, value) for term, value in gold.items())
        cues = cues_of(text, [(begin, begin + len(term), not value) for begin, term, value in found])
        right += sum((cue is not None) == bool(value) for cue, (*_, value) in zip(cues, found, strict=True))
        total += len(found)
    assert total == 152 and right >= 0.95 * total
