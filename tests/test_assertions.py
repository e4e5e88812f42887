"""Which mentions are asserted of the patient: marked sentences and notes, the shared sentences, --text and its errors."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPO, TEST_DATA

from pipeline.errors import UserError
from thinking_graph_preprocess.assertion_cues import CUES_FILE, expand
from thinking_graph_preprocess.assertions import unasserted
from thinking_graph_preprocess.concept_extraction import main
from thinking_graph_preprocess.term_search import hashes, tokens, words_of

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


@pytest.mark.parametrize(
    ("number", "mentions", "right"),
    [
        (1, 334, 331), (2, 115, 114), (3, 97, 97), (4, 95, 95), (5, 55, 54), (6, 60, 60),
        (7, 151, 150), (8, 168, 165), (9, 199, 199), (10, 151, 151), (11, 157, 151),
    ],
)  # fmt: skip
def test_blind_sentences(number: int, mentions: int, right: int) -> None:
    """Sentences marked by authors who had not read the cues (1, 7, 8), or before a change of them was measured."""
    notes = benchmark["read_notes"](REPO / f"tests/blind/{number}.txt", sentences=True)
    assert sum(len(note.mentions) for note in notes) == mentions
    assert benchmark["count_right"](notes, benchmark["assertions"](notes)[0])["all"] >= right


def test_table_of_cues() -> None:
    """Every field is read, and a phrase of two rows means the same in both."""
    rows: dict[tuple[str, ...], tuple[str, ...]] = {}
    with CUES_FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert list(row) == ["category", "direction", "scope", "ends", "cues"] and '"' not in row["cues"]
            rule = (row["category"], row["direction"], row["scope"], row["ends"])
            for phrase in (phrase for cue in row["cues"].split("|") for phrase in expand(cue)):
                assert rows.setdefault(tuple(words_of(phrase)), rule) == rule, phrase


@pytest.mark.parametrize("line", (REPO / "tests/assertion_sentences.txt").read_text(encoding="utf-8").splitlines())
def test_sentences(line: str) -> None:
    text, mentions = read_marks(line.replace("\\n", "\n"))
    cues = cues_of(text, mentions)
    wrong = [(text[begin:end], cue) for (begin, end, gold), cue in zip(mentions, cues, strict=True) if (cue is None) != gold]
    assert not wrong
    assert all(cue is None or cue in text for cue in cues)


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


def test_the_benchmark_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("=== consult\nNo {-fever}. {+Cough}.\n=== other\nNo {+edema}\n", encoding="utf-8")
    benchmark["main"](["--notes", str(notes), "--errors"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:5] == ["| consult | 2 | 1 | 2 (100.0%) |", "| other | 1 | 0 | 0 (0.0%) |", "| all | 3 | 1 | 2 (66.7%) |"]
    assert lines[-1].startswith("other, expected asserted: ")
    with pytest.raises(UserError, match="expected a virtual environment"):
        benchmark["main"](["--medspacy", str(tmp_path)])


# --- --text


def mentions_in(capsys: pytest.CaptureFixture[str], text: str, *flags: object) -> list[dict]:
    main(["--text", text, *map(str, flags)])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("fever\n\nAIDS\nfracture\ndisplaced fracture\nsmoker\n", encoding="utf-8")
    rows = mentions_in(capsys, "No fever.\nA non-displaced fracture. Hearing aids. AIDS; non-smoker", "--terms", terms)
    keys = ("begin", "end", "concept", "name", "asserted", "cue")
    expected = [
        (3, 8, "fever", "fever", False, "No"), (26, 34, "fracture", "fracture", True, None),
        (50, 54, "aids", "AIDS", True, None), (60, 66, "smoker", "smoker", False, "non"),
    ]  # fmt: skip
    assert rows == [dict(zip(keys, row, strict=True)) for row in expected]
    assert mentions_in(capsys, "", "--terms", terms) == []


def test_names_with_punctuation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list as Windows saves it; names are found however a text spells their punctuation."""
    terms = tmp_path / "terms.txt"
    names = ("St. John's wort", "beta-blocker", "C. difficile", "HIV-1", "", "hiv-1", "1,25-dihydroxyvitamin D")
    terms.write_bytes("\r\n".join(names).encode("utf-8-sig"))
    text = "Takes St. John’s wort, no beta blocker.\nC. Difficile; HIV 1. Normal 1,25-dihydroxyvitamin D"
    rows = mentions_in(capsys, text, "--terms", terms)
    assert [(row["name"], row["asserted"]) for row in rows] == [
        ("St. John's wort", True), ("beta-blocker", False), ("C. difficile", True), ("HIV-1", True),
        ("1,25-dihydroxyvitamin D", True),
    ]  # fmt: skip


def test_a_long_text_from_standard_input(tmp_path: Path) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("fever\n")
    text = b"No fever.\n" * 30_000 + b"Fever \xe9"
    command = [sys.executable, REPO / "thinking_graph_preprocess/concept_extraction.py", "--terms", terms, "--text", "-"]
    lines = subprocess.run(command, input=text, capture_output=True, check=True).stdout.splitlines()
    assert len(lines) == 30_001 and json.loads(lines[-1])["asserted"]


def test_text_with_the_free_lexicon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index_mapping/hosp").mkdir(parents=True)
    titles = 'icd_code,icd_version,long_title\nI26,10,Pulmonary embolism\nJ189,10,"Pneumonia, unspecified organism"\n'
    (tmp_path / "index_mapping/hosp/d_icd_diagnoses.csv").write_text(titles, encoding="utf-8")
    rows = mentions_in(capsys, "r/o PE. PNA, not pe teacher", "--root_dir", tmp_path)
    assert [(row["name"], row["asserted"]) for row in rows] == [
        ("pulmonary embolism", False), ("pneumonia, unspecified organism", True)
    ]  # fmt: skip


def test_text_without_terms_or_lexicon(tmp_path: Path) -> None:
    def refused(*flags: object) -> str:
        with pytest.raises(UserError) as error:
            main([*map(str, flags), "--root_dir", str(tmp_path)])
        return str(error.value)

    (tmp_path / "empty.txt").write_text("\n--\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "table.csv").write_text("name,cui\nfever,C0015967\n")
    assert "expected a list of names, one a line, got no such file" in refused("--text", "x", "--terms", tmp_path / "none")
    assert "expected names, one a line, got none" in refused("--text", "x", "--terms", tmp_path / "empty.txt")
    assert "expected names, one a line, got a table" in refused("--text", "x", "--terms", tmp_path / "table.csv")
    assert "expected a list of names, one a line, got a directory" in refused("--text", "x", "--terms", tmp_path)
    assert "expected a text file in UTF-8" in refused("--text", "x", "--terms", tmp_path / "latin.txt")
    assert "or use UMLS with --umls_dir (--text can also use --terms)" in refused("--text", "x")
    assert "--terms: expected --text with it" in refused("--terms", tmp_path / "empty.txt")
