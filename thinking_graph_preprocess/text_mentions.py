"""Print the mentions in one text, to try a lexicon and the cues of assertions on a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.concept_lexicon import Lexicon
from thinking_graph_preprocess.matchers import Matcher
from thinking_graph_preprocess.term_search import words_of

_COLUMNS = re.compile(r"\t|,(?=\S)")  # in every line of a table; a comma in a name is followed by a space


def read_terms(path: Path) -> Lexicon:
    """The lexicon of a plain list of names, one a line; blank lines are skipped, and repeated names count once."""
    require(path, "a list of names, one a line", "write one, or leave --terms out to use a lexicon")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except IsADirectoryError:
        raise UserError(f"{path}: expected a list of names, one a line, got a directory. Name a file in it.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a text file in UTF-8, got another. Save the list as UTF-8.") from None
    terms = [" ".join(line.split()) for line in lines if words_of(line)]
    if len(terms) > 1 and all(_COLUMNS.search(line) for line in lines if words_of(line)):
        raise UserError(f"{path}: expected names, one a line, got a table. Keep its column of names only.")
    if not terms:
        raise UserError(f"{path}: expected names, one a line, got none. Write at least one.")
    return Lexicon.of_terms(terms)


def mention_lines(matcher: Matcher, text: str) -> Iterator[str]:
    """Yield the mentions in a text as JSON lines, from left to right.

    The keys are begin and end (characters), concept (the CUI, or the normalised name if it has none), name, asserted, and cue
    (the text by which it is not asserted, else null).
    """
    for mention in matcher.mentions(text):
        concept = mention.cui or normalise(mention.name)
        row = {"begin": mention.begin, "end": mention.end, "concept": concept, "name": mention.name}
        yield json.dumps(row | {"asserted": not mention.negated, "cue": mention.cue}, ensure_ascii=False)
