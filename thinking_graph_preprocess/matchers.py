"""Free text → the concepts it mentions, by one of two matchers behind one interface.

`DictionaryMatcher`: the longest phrases of a lexicon, exact but for case, accents and punctuation. `QuickUMLSMatcher`:
approximate matching by an installed QuickUMLS index (Soldaini & Goharian, MedIR 2016). Both give every mention, and say of
each whether it is negated, about the family or hypothetical.
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
    """One mention: the concept's normalised name, its CUI if it has one, and whether the text says it is not so."""

    concept: str
    cui: str | None
    negated: bool


class Matcher(Protocol):
    def mentions(self, text: str) -> Iterator[Mention]:
        """Every mention in a text, in its order."""

    def cui_of(self, name: str) -> str | None:
        """The CUI of a whole name, or None."""


class DictionaryMatcher:
    """Matches a lexicon's terms.

    Args:
        lexicon: folder of the lexicon.
    """

    def __init__(self, lexicon: Path) -> None:
        self.lexicon = Lexicon(lexicon)

    def mentions(self, text: str) -> Iterator[Mention]:
        words, _ = tokens(text)
        hashed = hashes(words)
        found = self.lexicon.table.find(hashed)
        flags = not_asserted(words, hashed, [(start, end) for start, end, _ in found])
        for start, end, concept in found:
            yield Mention(self.lexicon.name(concept), self.lexicon.cui(concept), bool(flags[start:end].any()))

    def cui_of(self, name: str) -> str | None:
        concept = self.lexicon.of_term(name)
        return None if concept is None else self.lexicon.cui(concept)


class QuickUMLSMatcher:
    """Matches by QuickUMLS: of each span its best candidate.

    Args:
        folder: the QuickUMLS installation.
        lexicon: folder of a UMLS lexicon, for the preferred names of CUIs; without one the matched term is the name.

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


def check_quickumls(folder: Path) -> None:
    """Raise a `UserError` that says what QuickUMLS lacks, before it tries to download something."""
    install = "make it with python -m quickumls.install UMLS_DIR FOLDER -d unqlite, and name it in $QUICKUMLS or --quickumls"
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
            "NLTK's stop words: wanted corpora/stopwords below $NLTK_DATA, found none; get them with "
            "python -m nltk.downloader stopwords -d $NLTK_DATA"
        ) from None
    model = SPACY_LANGUAGE_MAP["ENG"]
    if not (spacy.util.is_package(model) or Path(model).exists()):
        raise UserError(f"spaCy: wanted its model {model}, found none; get it with python -m spacy download {model}")


def locks_to_one_process(folder: Path) -> bool:
    """Whether a QuickUMLS installation is of a kind (leveldb) that only one process can open at a time."""
    flag = folder / "database_backend.flag"
    return not flag.exists() or flag.read_text().strip() == "leveldb"
