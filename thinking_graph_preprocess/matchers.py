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
from typing import NamedTuple, Protocol

from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess.assertions import not_asserted
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.concept_lexicon import Lexicon
from thinking_graph_preprocess.term_search import hashes, tokens


class Mention(NamedTuple):
    """A mention of a concept in a text.

    Attributes:
        concept: normalised name.
        cui: UMLS concept, if there is one.
        negated: whether the mention is negated, about the family, or hypothetical.
    """

    concept: str
    cui: str | None
    negated: bool


class Matcher(Protocol):
    """Finds concepts in free text."""

    def mentions(self, text: str) -> Iterator[Mention]:
        """Yield the mentions in a text, from left to right."""

    def cui_of(self, name: str) -> str | None:
        """The CUI of a complete name, or None."""


class DictionaryMatcher:
    """Matches the terms of a lexicon.

    Args:
        lexicon: directory of the lexicon.
    """

    def __init__(self, lexicon: Path) -> None:
        self.lexicon = Lexicon(lexicon)

    def mentions(self, text: str) -> Iterator[Mention]:
        words, _ = tokens(text)
        hashed = hashes(words)
        terms = self.lexicon.table.find(hashed)
        flags = not_asserted(words, hashed, [(start, end) for start, end, _ in terms])
        for start, end, concept in terms:
            yield Mention(self.lexicon.name(concept), self.lexicon.cui(concept), bool(flags[start:end].any()))

    def cui_of(self, name: str) -> str | None:
        concept = self.lexicon.of_term(name)
        return None if concept is None else self.lexicon.cui(concept)


class QuickUMLSMatcher:
    """Matches with QuickUMLS: the best candidate of each span.

    Args:
        folder: the QuickUMLS installation.
        lexicon: directory of a UMLS lexicon, for preferred names; without one the matched term is the name.

    Raises:
        UserError: the installation, spaCy's model or NLTK's stop words are missing.
    """

    def __init__(self, folder: Path, lexicon: Path | None = None) -> None:
        check_quickumls(folder)
        from quickumls import QuickUMLS

        self._quickumls = QuickUMLS(str(folder))
        self._lexicon = Lexicon(lexicon) if lexicon else None
        self._cui_of = lru_cache(maxsize=1 << 18)(self._find_cui)

    def mentions(self, text: str) -> Iterator[Mention]:
        words, starts = tokens(text)
        best = sorted((candidates[0] for candidates in self._quickumls.match(text)), key=lambda match: match["start"])
        spans = [(max(bisect_right(starts, m["start"]) - 1, 0), bisect_left(starts, m["end"])) for m in best]
        flags = not_asserted(words, hashes(words), spans)
        for match, (start, end) in zip(best, spans, strict=True):
            yield Mention(self._name(match), match["cui"], bool(flags[start:end].any()))

    def _name(self, match: dict) -> str:
        concept = self._lexicon.of_cui(match["cui"]) if self._lexicon else None
        return normalise(match["term"]) if concept is None else self._lexicon.name(concept)

    def cui_of(self, name: str) -> str | None:
        return self._cui_of(name)

    def _find_cui(self, name: str) -> str | None:
        for candidates in self._quickumls.match(name):
            if candidates[0]["similarity"] == 1 and len(candidates[0]["ngram"]) == len(name):
                return candidates[0]["cui"]
        return None


def make_matcher(quickumls: Path | None, lexicon: Path | None) -> Matcher:
    """A `QuickUMLSMatcher` if there is an installation, else a `DictionaryMatcher`."""
    return QuickUMLSMatcher(quickumls, lexicon) if quickumls else DictionaryMatcher(lexicon)


def check_quickumls(folder: Path, num_workers: int = 1) -> None:
    """Check what QuickUMLS needs, since it would try to download what is missing.

    Raises:
        UserError: the installation, spaCy's model or NLTK's stop words are missing, or only one process can use them.
    """
    install = "make it with python -m quickumls.install UMLS_DIR FOLDER -d unqlite and set $QUICKUMLS or --quickumls to it"
    require(folder, "a QuickUMLS installation", install)
    for part in ("umls-simstring.db", "cui-semtypes.db"):
        require(folder / part, "this part of a QuickUMLS installation", install)
    import nltk
    import spacy
    from quickumls.constants import SPACY_LANGUAGE_MAP

    try:
        nltk.data.find("corpora/stopwords")
    except LookupError:
        raise UserError(
            "NLTK's stop words: expected corpora/stopwords below $NLTK_DATA, got none. Run "
            "python -m nltk.downloader stopwords -d $NLTK_DATA."
        ) from None
    model = SPACY_LANGUAGE_MAP["ENG"]
    if not (spacy.util.is_package(model) or Path(model).exists()):
        raise UserError(f"spaCy: expected its model {model}, got none. Run python -m spacy download {model}.")
    backend = folder / "database_backend.flag"
    if num_workers > 1 and (not backend.exists() or backend.read_text().strip() == "leveldb"):
        raise UserError(
            f"{folder}: expected a QuickUMLS installation that several processes can read, got a leveldb one, which is locked "
            "to one process. Install it again with -d unqlite, or use --num_workers 1."
        )
