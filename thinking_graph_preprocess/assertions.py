"""Find the words of a note that are negated, about the family, or hypothetical.

Follows ConText (Harkema et al., J Biomed Inform 2009; NegEx: Chapman et al. 2001): the scope of a cue is the words after (or
before) it, up to the end of the sentence or a termination term such as "but". The table of cues is small; a new cue is one
line. Phrases that only look like a cue ("gram negative") are in the table as pseudo-cues; the longest phrase counts. A cue
that is part of the name of a concept ("diabetes without complications") has no scope.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from thinking_graph_preprocess.term_search import COLON, PARAGRAPH, SENTENCE, PhraseTable, words_of

if TYPE_CHECKING:
    import numpy as np

# Kinds of cues: the scope is what follows; what precedes; what follows, or the whole paragraph if the cue is a heading;
# a termination term, which ends the scope of other cues; a pseudo-cue, which only looks like one.
AFTER, BEFORE, FAMILY, TURN, NOTHING = range(5)

CUES: dict[int, str] = {
    AFTER: """
        no | not | without | w/o | denies | denied | denying | deny | never had | never | nor | neither | absence of |
        absent | lack of | lacks | lacking | free of | negative for | neg for | ruled out for | rules out | ruled out |
        no evidence of | no evidence for | no sign of | no signs of | no history of | no hx of | not have | cannot see |
        fails to reveal | failed to reveal | resolution of | rather than | instead of | non | none | declined | refused |
        if | should he | should she | should you | should there | should the patient | return for | return to the ED for |
        come back for | call for | watch for | monitor for | as needed for | prn | in case of | risk of | at risk for |
        rule out | r/o | evaluate for | eval for | assess for | concern for | question of | screening for |
        prevention of
    """,
    BEFORE: """
        is negative | was negative | are negative | were negative | negative | neg | not seen | not identified |
        not present | not detected | not visualized | not appreciated | not noted | is absent | are absent | was absent |
        was ruled out | is ruled out | were ruled out | been ruled out | has been excluded | is excluded | unlikely |
        is unlikely | was denied | were denied | prophylaxis
    """,
    FAMILY: """
        family history | family hx | fam hx | fhx | fh | mother | father | mothers | fathers | brother | brothers |
        sister | sisters | sibling | siblings | parents | grandmother | grandfather | grandparents | aunt | uncle |
        cousin | son | daughter | niece | nephew | mom | dad | maternal | paternal | relatives
    """,
    TURN: """
        but | however | although | though | except | except for | apart from | aside from | other than | yet |
        nevertheless | which | who | secondary to | due to | because | because of | caused by | as a cause of |
        presents with | presented with | presenting with | complains of | and the | and there is | and there are |
        and is | and has | and had | and was | now with | consistent with
    """,
    NOTHING: """
        gram negative | not only | no increase | no change | no changes | no significant change | no interval change |
        not certain if | not certain whether | not necessarily | without difficulty | no further | not drain |
        rh negative | non insulin dependent | non st | non contrast | if possible | if applicable | if tolerated | not all
    """,
}  # fmt: skip


@cache
def _cues() -> PhraseTable:
    return PhraseTable.build((words_of(cue), effect) for effect, cues in CUES.items() for cue in cues.split("|"))


def not_asserted(words: Sequence[str], hashed: np.ndarray, mentions: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    r"""For each word of a text, whether it is negated, about the family, or hypothetical.

    >>> from thinking_graph_preprocess.term_search import hashes, tokens
    >>> def plain(text, *mentions):
    ...     words, _ = tokens(text)
    ...     flags = not_asserted(words, hashes(words), mentions)
    ...     return " ".join(word for word, flag in zip(words, flags) if not flag and word.isalpha())
    >>> plain("No fever or cough, but chest pain.")
    'No but chest pain'
    >>> plain("Pneumonia was ruled out. Gram negative sepsis")
    'was ruled out Gram negative sepsis'
    >>> plain("Family History:\nFather had gout.\nAnd asthma.\n\nHypertension")
    'Family History Hypertension'
    >>> plain("diabetes without complications"), plain("diabetes without complications", (0, 3))
    ('diabetes without', 'diabetes without complications')

    Args:
        words, hashed: the n tokens of the text, breaks included, and their hashes; the result has shape (n,).
        mentions: (start, end) in tokens of the concepts in the text, from left to right, without overlap.
    """
    import numpy as np

    flags = np.zeros(len(words), bool)
    cues = _cues().find(hashed)
    if not cues:
        return flags
    paragraphs = [i for i, word in enumerate(words) if word == PARAGRAPH] + [len(words)]
    sentences = [i for i, word in enumerate(words) if word in (SENTENCE, PARAGRAPH)]
    turns = [start for start, _, effect in cues if effect == TURN]
    stops = np.array(sorted([*sentences, *turns, len(words)]))
    for start, end, effect in cues:
        turn = int(np.searchsorted(stops, end))
        if effect == FAMILY:
            heading = words[end : end + 1] == [COLON]
            flags[end : next(i for i in paragraphs if i >= end) if heading else stops[turn]] = True
        elif effect in (AFTER, BEFORE) and not _inside(start, end, mentions):
            begin, until = (end, stops[turn]) if effect == AFTER else (stops[turn - 1] if turn else 0, start)
            flags[begin:until] = True
    return flags


def _inside(start: int, end: int, mentions: Sequence[tuple[int, int]]) -> bool:
    """Whether a cue is a proper part of a mention."""
    i = bisect_right(mentions, (start, sys.maxsize)) - 1
    return i >= 0 and end <= mentions[i][1] and mentions[i] != (start, end)
