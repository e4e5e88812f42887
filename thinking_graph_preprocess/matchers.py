"""Two matchers that find the concepts mentioned in free text.

`DictionaryMatcher` finds the longest terms of a lexicon exactly, ignoring case, accents and punctuation. `QuickUMLSMatcher`
finds approximate matches with an installed QuickUMLS index (Soldaini & Goharian, MedIR 2016). Both mark mentions that are
negated, about the family, or hypothetical.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.files import require
from pipeline.work import ONE_PROCESS, Workers
from thinking_graph_preprocess.assertions import unasserted
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.concept_lexicon import Lexicon
from thinking_graph_preprocess.term_search import hashes, tokens


class Mention(NamedTuple):
    """A mention of a concept in a text."""

    begin: int  # position in the text
    end: int
    name: str  # preferred name
    cui: str | None
    cue: str | None  # by which it is negated, of the family, or hypothetical; None if it is asserted

    @property
    def negated(self) -> bool:
        """Whether the mention is negated, of the family, or hypothetical."""
        return self.cue is not None


class DictionaryMatcher:
    """Matches the terms of a lexicon."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    def mentions(self, text: str) -> Iterator[Mention]:
        """Yield the mentions in a text, from left to right."""
        words, starts = tokens(text)
        hashed = hashes(words)
        terms = self.lexicon.find(words, hashed)
        cues = unasserted(text, words, starts, hashed, [(start, end) for start, end, _ in terms])
        for (start, end, concept), cue in zip(terms, cues, strict=True):
            span = starts[start], starts[end - 1] + len(words[end - 1])
            yield Mention(*span, self.lexicon.name(concept), self.lexicon.cui(concept), cue)

    def cui_of(self, name: str) -> str | None:
        """The CUI of a complete name, or None."""
        concept = self.lexicon.of_term(name)
        return None if concept is None else self.lexicon.cui(concept)


class QuickUMLSMatcher:
    """Matches with the QuickUMLS installation in a directory: the best candidate of each span.

    Names are those of a UMLS lexicon, or the matched terms without one.
    """

    def __init__(self, folder: Path, lexicon: Path | None = None) -> None:
        check_quickumls(folder)
        from quickumls import QuickUMLS

        self._quickumls = QuickUMLS(str(folder))
        self._lexicon = Lexicon.read(lexicon) if lexicon else None
        self.cui_of = lru_cache(maxsize=1 << 18)(self._find_cui)

    def mentions(self, text: str) -> Iterator[Mention]:
        """Yield the mentions in a text, from left to right."""
        words, starts = tokens(text)
        best = sorted((candidates[0] for candidates in self._quickumls.match(text)), key=lambda match: match["start"])
        spans = [(max(bisect_right(starts, m["start"]) - 1, 0), bisect_left(starts, m["end"])) for m in best]
        cues = unasserted(text, words, starts, hashes(words), spans)
        for match, cue in zip(best, cues, strict=True):
            yield Mention(match["start"], match["end"], self._name(match), match["cui"], cue)

    def _name(self, match: dict) -> str:
        concept = self._lexicon.of_cui(match["cui"]) if self._lexicon else None
        return normalise(match["term"]) if concept is None else self._lexicon.name(concept)

    def _find_cui(self, name: str) -> str | None:
        """The CUI of a complete name, or None."""
        for candidates in self._quickumls.match(name):
            if candidates[0]["similarity"] == 1 and len(candidates[0]["ngram"]) == len(name):
                return candidates[0]["cui"]
        return None


Matcher = DictionaryMatcher | QuickUMLSMatcher


def make_matcher(quickumls: Path | None, lexicon: Path | None) -> Matcher:
    """A `QuickUMLSMatcher` if there is an installation, else a `DictionaryMatcher`."""
    return QuickUMLSMatcher(quickumls, lexicon) if quickumls else DictionaryMatcher(Lexicon.read(lexicon))


def check_quickumls(folder: Path, workers: Workers = ONE_PROCESS) -> None:
    """Check what QuickUMLS needs, since it would try to download what is missing, and that `workers` can share it."""
    install = "make it with python -m quickumls.install -L -d unqlite UMLS_DIR FOLDER and set $QUICKUMLS or --quickumls to it"
    require(folder, "a QuickUMLS installation", install)
    for part in ("umls-simstring.db", "cui-semtypes.db"):
        require(folder / part, "this part of a QuickUMLS installation", install)
    if not (folder / "lowercase.flag").exists():  # text is compared as it is written: "pneumonia" is not "Pneumonia"
        expected = "expected a lower-cased QuickUMLS installation, got one that misses most terms in other cases"
        raise UserError(f"{folder}: {expected}. Install it again with python -m quickumls.install -L.")
    import nltk
    import spacy
    from quickumls.constants import SPACY_LANGUAGE_MAP

    try:
        nltk.data.find("corpora/stopwords")
    except LookupError:
        download = "Run python -m nltk.downloader stopwords -d $NLTK_DATA"
        raise UserError(f"$NLTK_DATA: expected corpora/stopwords below it, got none. {download}.") from None
    model = SPACY_LANGUAGE_MAP["ENG"]
    if not (spacy.util.is_package(model) or Path(model).exists()):
        raise UserError(f"spaCy: expected its model {model}, got none. Run python -m spacy download {model}.")
    backend = folder / "database_backend.flag"
    if workers.are_several and (not backend.exists() or backend.read_text().strip() == "leveldb"):
        fix = "Install it again with -d unqlite, or use --num_workers 1"
        raise UserError(f"{folder}: expected QuickUMLS for several processes, got leveldb, which is locked to one. {fix}.")
