"""Assertions: share of mentions in marked notes that are rightly called asserted of the patient or not, by kind of note.

Reads notes in the form of benchmarks/assertion_notes.txt. To compare with medspaCy's ConText (default rules, PyRuSH's
sentences), install it in an environment of its own, because it needs an older spaCy:

  python -m venv medspacy && medspacy/bin/pip install "spacy<3.8" click jsonschema PyRuSH pysbd unidecode nltk six unqlite \
    pysimstring
  medspacy/bin/pip install --no-deps medspacy==1.3.1 medspacy-quickumls
  python benchmarks/assertions.py --medspacy medspacy
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import os
import re
import subprocess
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import require

NOTES = Path(__file__).with_name("assertion_notes.txt")
_MARK = re.compile(r"\{([+-])([^}]*)\}")

# Run by medspaCy's interpreter: (text, spans) as JSON on standard input → for each note, whether each span is asserted.
MEDSPACY = """
import json, sys, time
import medspacy, spacy
nlp = medspacy.load(medspacy_enable=["medspacy_tokenizer", "medspacy_pyrush", "medspacy_context"])
context = nlp.get_pipe("medspacy_context")
notes, results, seconds = json.load(sys.stdin), [], 0.0
for text, spans in notes:
    doc = nlp.make_doc(text)
    start = time.perf_counter()
    nlp.get_pipe("medspacy_pyrush")(doc)
    doc.ents = spacy.util.filter_spans([doc.char_span(*span, label="MENTION", alignment_mode="expand") for span in spans])
    context(doc)
    seconds += time.perf_counter() - start
    flags = []
    for span in spans:
        entity = next(e for e in doc.ents if e.start_char < span[1] and e.end_char > span[0])
        flags.append(not (entity._.is_negated or entity._.is_family or entity._.is_hypothetical))
    results.append(flags)
json.dump([results, seconds], sys.stdout)
"""


class Marked(NamedTuple):
    """A marked note: its kind, its text, and (begin, end, asserted) of its mentions."""

    kind: str
    text: str
    mentions: list[tuple[int, int, bool]]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--notes", type=Path, default=NOTES, help="marked notes (benchmarks/assertion_notes.txt)")
    cli.add_argument("--sentences", action="store_true", help="each line of --notes is a note of its own")
    cli.add_argument("--errors", action="store_true", help="print the mentions that are wrong")
    cli.add_argument("--medspacy", type=Path, metavar="ENV", help="also run medspaCy, in this virtual environment")
    args = cli.parse_args(argv)
    notes = read_notes(args.notes, args.sentences)
    columns = {"here": assertions(notes)}
    if args.medspacy:
        columns["medspaCy"] = medspacy_assertions(notes, args.medspacy)
    right = {name: count_right(notes, asserted) for name, (asserted, _) in columns.items()}
    mentions = Counter(note.kind for note in notes for _ in note.mentions)
    print(f"| kind of note | mentions | not asserted | {' | '.join(f'{name}: right' for name in columns)} |")
    print(f"| --- | ---: | ---: |{' ---: |' * len(columns)}")
    for kind in [*mentions, "all"]:
        chosen = [note for note in notes if kind in (note.kind, "all")]
        total = sum(len(note.mentions) for note in chosen)
        negated = sum(not asserted for note in chosen for *_, asserted in note.mentions)
        cells = (f"{number} ({number / total:.1%})" for number in (right[name][kind] for name in columns))
        print(f"| {kind} | {total} | {negated} | {' | '.join(cells)} |")
    print(f"\n{', '.join(f'{name}: {len(notes) / seconds:,.0f} notes/s' for name, (_, seconds) in columns.items())}")
    if args.errors:
        for note, asserted in zip(notes, columns["here"][0], strict=True):
            for (begin, end, gold), value in zip(note.mentions, asserted, strict=True):
                if value != gold:
                    print(
                        f"{note.kind}, expected {'' if gold else 'not '}asserted: {note.text[max(begin - 60, 0) : end + 30]!r}"
                    )


def read_notes(path: Path, sentences: bool = False) -> list[Marked]:
    r"""The notes of a file of marked notes. A line "=== kind" begins a note; {+x} is an asserted mention, {-x} is not.

    With `sentences`, every line is a note of its own, in which \\n stands for the end of a line.
    """
    require(path, "marked notes", "use benchmarks/assertion_notes.txt")
    _, *parts = re.split(r"^=== (.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not parts:
        raise UserError(f"{path}: expected notes that begin with a line '=== kind', got none. Add such lines.")
    notes = list(zip(parts[::2], parts[1::2], strict=True))
    if sentences:
        notes = [(kind, line.replace("\\n", "\n")) for kind, lines in notes for line in lines.splitlines()]
    return [Marked(kind, *read_marks(marked)) for kind, marked in notes]


def read_marks(marked: str) -> tuple[str, list[tuple[int, int, bool]]]:
    """The text of a marked note, and (begin, end, asserted) of its mentions.

    >>> read_marks("No {-fever}, {+cough}.")
    ('No fever, cough.', [(3, 8, False), (10, 15, True)])
    """
    text, mentions, at = "", [], 0
    for mark in _MARK.finditer(marked):
        text += marked[at : mark.start()]
        mentions.append((len(text), len(text) + len(mark[2]), mark[1] == "+"))
        text += mark[2]
        at = mark.end()
    return text + marked[at:], mentions


def assertions(notes: Sequence[Marked]) -> tuple[list[list[bool]], float]:
    """Whether the mentions of each note are asserted, and the seconds it took."""
    from thinking_graph_preprocess.assertions import unasserted
    from thinking_graph_preprocess.term_search import hashes, tokens

    def asserted(note: Marked) -> list[bool]:
        words, starts = tokens(note.text)
        spans = [(bisect_left(starts, begin), bisect_left(starts, end)) for begin, end, _ in note.mentions]
        return [cue is None for cue in unasserted(note.text, words, starts, hashes(words), spans)]

    asserted(notes[0])  # reads the cues
    start = time.perf_counter()
    return [asserted(note) for note in notes], time.perf_counter() - start


def medspacy_assertions(notes: Sequence[Marked], environment: Path) -> tuple[list[list[bool]], float]:
    """The same by medspaCy's ConText: not negated, of the family, or hypothetical."""
    python = require(environment / "bin/python", "a virtual environment", "make it as --help says")
    content = json.dumps([(note.text, [span[:2] for span in note.mentions]) for note in notes])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([python, "-c", MEDSPACY], input=content, capture_output=True, text=True, cwd=folder,
                              env={**os.environ, "PYTHONPATH": "", "LOGURU_LEVEL": "ERROR"})  # fmt: skip
    if done.returncode:
        raise UserError(
            f"{environment}: expected medspaCy, got an error of it: {done.stderr.strip().splitlines()[-1]}. Install it."
        )
    results, seconds = json.loads(done.stdout.splitlines()[-1])
    return results, seconds


def count_right(notes: Sequence[Marked], asserted: Sequence[Sequence[bool]]) -> Counter[str]:
    """The number of mentions that are right, by kind of note and of all."""
    right: Counter[str] = Counter()
    for note, values in zip(notes, asserted, strict=True):
        number = sum(value == gold for value, (*_, gold) in zip(values, note.mentions, strict=True))
        right += Counter({note.kind: number, "all": number})
    return right


if __name__ == "__main__":
    run(main)
