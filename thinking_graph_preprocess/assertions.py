"""Find the mentions of a note that are not asserted of the patient: negated, of the family, or hypothetical.

Follows ConText (Harkema et al., J Biomed Inform 2009; NegEx: Chapman et al. 2001). The cues are those of `assertion_cues`.

Where cues overlap, the longest counts. A cue that is part of the name of a concept ("diabetes without complications") has no
scope. Possible, likely and historical mentions are asserted.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from thinking_graph_preprocess.assertion_cues import CLASSES, Rule, cue_table
from thinking_graph_preprocess.term_search import COLON, PARAGRAPH, SENTENCE, words_of

if TYPE_CHECKING:
    import numpy as np

# A test whose result is negative has been done: the last words of such mentions.
TESTS = frozenset(
    words_of("""
        culture cultures test tests testing screen smear smears stain biopsy serology serologies panel assay pcr antigen titer
        titers workup up ua urinalysis cxr ct cta mri mra ekg ecg echo tte tee xray ray film films scan ultrasound us doppler
        dopplers troponin troponins enzymes exam examination imaging study studies eeg lp colonoscopy endoscopy egd angiogram
        angiography radiograph radiographs dimer guaiac cytology
    """)
)

_BREAKS = (SENTENCE, PARAGRAPH)
_LIST = ("or", "nor")
_STATED = {
    "present",
    "persists",
    "persistent",
    "persisting",
    "continues",
    "remains",
    "worsening",
    "improving",
    "unchanged",
    "likely",
    "is",
    "are",
    "was",
    "were",
}
_LABEL_SCOPE = 25  # words that a label such as "Precautions:" reaches
_HISTORY = {"pmh", "pmhx", "hx", "history"}  # words before a list of diagnoses

# Marks before or after a finding: (+), (-), [x], [ ], and + or - written next to it; a grade ("no murmur, 1+ edema").
_MARK = re.compile(
    r"""\(\s?(?P<sign>[-+−–])\s?\) | (?<!\w)(?P<sign_ve>[-+−–])ve\b(?:\s+for\b)? | \[(?P<box>[ xX+-]?)\]
    | (?<![\w+/)-])(?P<before>[-+−]|(?<=[,;:.]\s)\+\s)(?=[^\W\d_]) | (?<=\w)\s?(?P<after>[-+−])(?=[,;.)]|$)
    | (?<=[,;:.]\s)[1-4](?P<grade>\+)(?=\s)""",
    re.MULTILINE | re.VERBOSE,
)
_QUERY = re.compile(r"(?:(?<=^)|(?<=[\s(/,:]))\?+ ?(?=\w)|(?<=\w)\?+", re.MULTILINE)
_CLAUSE_BEFORE = re.compile(r"(?:^|[,;:.(/])\s*\Z", re.MULTILINE)
_CLAUSE_AFTER = re.compile(r"\s*(?:[,;.)]|$)", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Cue(NamedTuple):
    """A cue in a text: (start, end) in tokens, and its rule."""

    start: int
    end: int
    rule: Rule


@dataclass(frozen=True)
class _Note:
    """A text, its tokens (`term_search.tokens`), the mentions in it, and where scopes end."""

    text: str
    words: Sequence[str]
    starts: Sequence[int]
    mentions: Sequence[tuple[int, int]]
    ends: dict[int, frozenset[str]]  # token at which an `end` cue begins → the categories that it ends
    last_of_ends: dict[int, frozenset[str]]  # the same by the last token of the cue
    marks: frozenset[int]  # tokens before which a mark such as (+) or ? begins a new scope
    cue_starts: frozenset[int]

    def gap(self, i: int) -> str:
        """The text between token i - 1 and token i."""
        if i == 0 or i >= len(self.words):
            return ""
        before = self.words[i - 1]
        return self.text[self.starts[i - 1] + (1 if before == PARAGRAPH else len(before)) : self.starts[i]]

    def comma(self, i: int) -> bool:
        """Whether a comma or a double slash is before token i."""
        gap = self.gap(i)
        return "," in gap or "//" in gap

    def is_clause_end(self, i: int) -> bool:
        """Whether a clause ends before token i."""
        return i >= len(self.words) or self.words[i] in _BREAKS or bool(set(self.gap(i)) & set(",;)"))

    def is_clause_start(self, i: int) -> bool:
        """Whether a clause begins with token i."""
        return i == 0 or self.words[i - 1] in (*_BREAKS, COLON) or bool(set(self.gap(i)) & set(",;)"))

    def lower(self, i: int) -> str:
        return self.words[i].lower()

    def mention_before(self, start: int, end: int) -> int | None:
        """The number of the last mention that ends in tokens start … end, or None."""
        i = bisect_left(self.mentions, (end, 0)) - 1
        return i if i >= 0 and start < self.mentions[i][1] <= end else None

    def is_test(self, mention: int) -> bool:
        return self.lower(self.mentions[mention][1] - 1) in TESTS

    def list_goes_on(self, i: int) -> bool:
        """Whether the list with a comma before token i ends with "or" in this clause."""
        for at in range(i, min(i + 40, len(self.words))):
            if self.words[at] in _BREAKS or "all" in self.ends.get(at, ()) or at in self.cue_starts:
                return False
            if self.lower(at) in _LIST:
                return True
        return False

    def is_stated(self, i: int) -> bool:
        """Whether the clause that begins at token i says that something is there ("rash present on the left")."""
        end = next(at for at in range(i + 1, len(self.words) + 1) if self.is_clause_end(at))
        return self.lower(i) not in ("and", *_LIST) and any(self.lower(at) in _STATED for at in range(i + 1, end))

    def forward(self, cue: Cue, commas_end: bool = False) -> tuple[int, int]:
        """The tokens that a cue reaches after it."""
        _, end, rule = cue
        negated = rule.category == "negated"
        at = end
        while at < min(end + rule.scope, len(self.words)):
            ends = self.ends.get(at, ()) if at > end or rule.category != "family" else ()
            if self.words[at] in _BREAKS or (at in self.marks and at > end) or "all" in ends or rule.category in ends:
                break
            if self.lower(at) in rule.ends and at > end:
                break
            if at > end and (COLON in self.words[at : at + 2] or "//" in self.gap(at)):
                break  # a label such as "Lungs:" begins
            if negated and at > end and self.lower(at) == "and" and self.comma(at) and self.comma(cue.start):
                break  # "rales, no wheezes, and edema"
            is_last = at > end and self.comma(at) and not self.list_goes_on(at)
            if is_last and (commas_end or "," in rule.ends or (negated and self.is_stated(at))):
                break
            if is_last and negated and self.lower(at - 1) in TESTS:
                break  # "no pneumothorax on CXR, rib fractures"
            at += 1
        return end, at

    def forward_from(self, cue: Cue) -> tuple[int, int] | None:
        """The tokens that a cue reaches after the first of the words in `ends`, or None if its clause has none of them."""
        at = cue.end
        while not self.is_clause_end(at):
            if self.lower(at) in cue.rule.ends:
                return self.forward(Cue(cue.start, at + 1, cue.rule))
            at += 1
        return None

    def backward(self, cue: Cue) -> tuple[int, int]:
        """The tokens that a cue reaches before it. Only a list ("A, B and C were ruled out") reaches across a comma."""
        start, _, rule = cue
        is_list, at = False, start
        singular = self.lower(start) in ("is", "was", "has")
        while at > max(start - rule.scope, 0):
            ends = self.last_of_ends.get(at - 1, ())
            if self.words[at - 1] in (*_BREAKS, COLON) or "all" in ends or self.lower(at - 1) in rule.ends:
                break
            if self.lower(at - 1) in ("has", "had", "have") and at < start:
                break
            is_relative_clause = at == start and self.lower(at) == "which"
            if (self.comma(at) and not is_list and not is_relative_clause) or "//" in self.gap(at):
                break
            if self.lower(at - 1) in ("and", "or"):
                if singular and self.lower(at - 1) == "and":
                    break
                is_list = True
            at -= 1
        return at, start

    def answer(self, cue: Cue) -> tuple[int, int] | None:
        """The tokens of the question that a cue answers ("Fever: no", "Cough? none."), if it is an answer."""
        start, end, _ = cue
        if start == 0 or not self.is_clause_end(end):
            return None
        before = self.words[start - 1]
        is_question = before == COLON or (before == SENTENCE and self.text[self.starts[start - 1]] == "?")
        if not is_question and not re.fullmatch(r"\s+[-–]\s+", self.gap(start)):
            return None
        last = start - 1 if is_question else start
        at = last
        while at > 0 and self.words[at - 1] not in (*_BREAKS, COLON) and not (at < last and self.comma(at)):
            at -= 1
        return at, last

    def is_heading(self, cue: Cue) -> bool:
        """Whether a cue is a heading: a colon follows, or it is a line of its own."""
        _, end, _ = cue
        following = self.words[end : end + 1]
        return following == [COLON] or (bool(following) and following[0] in _BREAKS and self.text[self.starts[end]] == "\n")

    def section(self, cue: Cue) -> tuple[int, int]:
        """The tokens of the section that a heading begins: up to a blank line or a heading that is not a relative's."""
        _, end, _ = cue
        at = end + 1
        while at < len(self.words):
            if self.words[at] in _BREAKS:
                following = self.words[at + 1 : at + 6]
                label = following[: following.index(COLON)] if COLON in following else []
                if label and not any(word in _BREAKS for word in label) and not _names_relative(label):
                    break
                has_begun = any(word not in (*_BREAKS, COLON) for word in self.words[end:at])
                if has_begun and _BLANK_LINE.match(self.text, self.starts[at]):
                    break
            at += 1
        return end, at

    def items(self, cue: Cue) -> tuple[int, int]:
        """The tokens of the list items that follow a cue with a colon at the end of a line, up to a blank line or heading."""
        at = cue.end + 2
        while at < len(self.words) and self.words[at] != PARAGRAPH:
            at += 1
        return cue.end, at


def _names_relative(words: Sequence[str]) -> bool:
    """Whether the words of a label name a relative ("Father", "Maternal aunt")."""
    return any(word.lower() in CLASSES["relative"] for word in words)


def unasserted(
    text: str, words: Sequence[str], starts: Sequence[int], hashed: np.ndarray, mentions: Sequence[tuple[int, int]]
) -> list[str | None]:
    r"""For each mention in a text, the cue by which it is not asserted of the patient, or None.

    >>> from thinking_graph_preprocess.term_search import hashes, tokens
    >>> def cues(text, *terms):
    ...     words, starts = tokens(text)
    ...     mentions = [(words.index(term), words.index(term) + 1) for term in terms]
    ...     return unasserted(text, words, starts, hashes(words), mentions)
    >>> cues("No fever or cough, but chest pain.", "fever", "cough", "pain")
    ['No', 'No', None]
    >>> cues("Pneumonia was ruled out. Gram negative sepsis", "Pneumonia", "sepsis")
    ['was ruled out', None]
    >>> cues("Family History:\nFather had gout.\nAnd asthma.\n\nHypertension", "gout", "asthma", "Hypertension")
    ['Family History', 'Family History', None]

    Args:
        words, starts, hashed: the n tokens of the text, breaks included, where each begins, and their hashes.
        mentions: (start, end) in tokens of the concepts in the text, from left to right, without overlap.
    """
    result: list[str | None] = [None] * len(mentions)
    if not mentions:
        return result
    table, rules = cue_table()
    found = [(s, e, number) for s, e, number in table.find_longest(hashed) if not _inside(s, e, mentions)]
    marks = list(_marks(text, starts))
    negations = frozenset(start for start, _, number in found if rules[number].category == "negated")
    note = _Note(text, words, starts, mentions, {}, {}, frozenset(at for at, _, _, _ in marks), negations)
    cues, spans = [], set(mentions)
    for start, end, number in found:
        rule = rules[number]
        if rule.category == "end" and (start, end) in spans:
            continue  # "no HE": an acronym, not the pronoun
        if rule.category == "end":
            if rule.direction != "comma" or (note.comma(start) and not note.list_goes_on(start)):
                note.ends[start] = note.last_of_ends[end - 1] = rule.ends
        elif rule.category != "pseudo":
            cues.append(Cue(start, end, rule))

    def mark(span: tuple[int, int], cue: str, spare_tests: bool = False) -> None:
        i = max(bisect_right(mentions, (span[0], sys.maxsize)) - 1, 0)
        while i < len(mentions) and mentions[i][0] < span[1]:
            if mentions[i][1] > span[0] and not (spare_tests and note.is_test(i)):
                result[i] = result[i] or cue
            i += 1

    for cue in cues:
        start, end, rule = cue
        cue_text = text[starts[start] : starts[end - 1] + len(words[end - 1])]
        if rule.category == "negated" and (span := note.answer(cue)):
            mark(span, cue_text)
        elif rule.direction == "adjacent":
            is_label = note.words[end : end + 1] == [COLON]
            forward = note.forward(Cue(start, end, rule._replace(scope=_LABEL_SCOPE)))
            for span in [*_adjacent(note, cue)] or [forward] * is_label:
                mark(span, cue_text)
        elif (span := _span(note, cue)) is not None:
            mark(span, cue_text, rule.direction == "result" or rule.direction == "either")
    for at, sign, cue_text, is_before in marks:
        if sign in "-−–? ":
            rule = Rule("negated", "", 40, frozenset("," if sign == "?" or len(cue_text) == 1 else ()))
            mark(note.forward(Cue(at, at, rule)) if is_before else _one_before(note, at), cue_text)
    return result


def _span(note: _Note, cue: Cue) -> tuple[int, int] | None:
    """The tokens that a cue reaches, or None."""
    start, end, rule = cue
    match rule.direction:
        case "forward":
            if note.words[end : end + 1] == [COLON] and end + 1 < len(note.words) and note.words[end + 1] in _BREAKS:
                return note.items(cue)
            return note.forward(cue, commas_end=rule.category == "negated" and _is_in_history(note, start))
        case "backward":
            return note.backward(cue)
        case "either":
            back = note.backward(cue)
            last = note.mention_before(*back)
            return note.forward(cue) if last is None or note.is_test(last) else back
        case "result":
            is_alone = end - start == 1
            is_after_mention = note.mention_before(start - 1, start) is not None and not note.comma(start)
            if not is_alone or note.is_clause_end(end) or is_after_mention:
                return note.backward(cue)
            is_first = note.is_clause_start(start) or note.lower(start - 1) in ("and", "with", "had", "has")
            return (end, end + 1) if is_first else None  # "negative Murphy's sign", but not "HER2 negative cancer"
        case "bound":
            return (end, end + 1) if any(mention[0] == end for mention in note.mentions) else None
        case "section":
            return note.section(cue) if note.is_heading(cue) else note.forward(cue)
        case "from":
            return note.forward_from(cue)
        case "closing":
            is_last = note.is_clause_end(end) and note.mention_before(start - 1, start) is not None
            return note.backward(cue) if is_last else note.forward(cue)
        case "opening":
            return note.forward(cue) if note.is_clause_start(start) else None
        case "label":
            is_mention = any(mention[0] == end for mention in note.mentions)
            if start and note.lower(start - 1) in ("from", "by", "per", "with", "to"):
                return None  # "obtained from daughter:"
            is_label = note.words[end : end + 1] == [COLON] or re.match(r"\s*[-–(]", note.gap(end))
            return note.forward(cue) if is_label or (is_mention and not note.gap(end).strip()) else None
    raise AssertionError(rule.direction)


def _is_in_history(note: _Note, at: int) -> bool:
    """Whether the list before a token is one of past diagnoses ("PMH: gout, no diabetes, asthma")."""
    if not note.comma(at):
        return False
    while at > 0 and note.words[at - 1] not in _BREAKS:
        at -= 1
        if note.lower(at) in _HISTORY:
            return True
    return False


def _adjacent(note: _Note, cue: Cue) -> Iterator[tuple[int, int]]:
    """Yield the tokens of the mention before a cue and of those joined with it by "and", "or" or a slash."""
    at, words_between = cue.start, cue.rule.scope
    while at > 0 and (number := note.mention_before(at - 1 - words_between, at)) is not None:
        start, end = note.mentions[number]
        if any(note.comma(i) or note.words[i - 1] in (*_BREAKS, COLON) for i in range(end, at + 1)):
            return
        yield start, end
        is_joined = note.lower(start - 1) in ("and", "or") if start else False
        at, words_between = (start - 1, 0) if is_joined else (start, 0)
        if not is_joined and "/" not in note.gap(start):
            return


def _one_before(note: _Note, at: int) -> tuple[int, int]:
    """The tokens of a mention that ends before token `at`, else none."""
    number = note.mention_before(at - 1, at)
    return (at, at) if number is None else note.mentions[number]


def _marks(text: str, starts: Sequence[int]) -> Iterator[tuple[int, str, str, bool]]:
    """Yield (token after it, sign, text, whether it is before its finding) of marks such as (+), (-), [x] and "?"."""
    previous_line, is_before = -1, True
    for match in _MARK.finditer(text):
        line_start = text.rfind("\n", 0, match.start()) + 1
        line = text[line_start : text.find("\n", match.end()) if "\n" in text[match.end() :] else len(text)]
        kind, sign = match.lastgroup, match[match.lastgroup].strip().lower() or " "
        if kind == "before" and not text[line_start : match.start()].strip():
            continue  # a list item
        if (kind in ("before", "after") and "+" not in line) or (kind == "box" and sign in " x" and "[x]" not in line.lower()):
            continue  # a dash, a task to do
        if kind in ("before", "after"):
            before = kind == "before"
        elif _CLAUSE_BEFORE.search(text, line_start, match.start()):
            before = True
        elif _CLAUSE_AFTER.match(text, match.end()):
            before = False
        else:
            before = is_before if line_start == previous_line else True
        previous_line, is_before = line_start, before
        yield bisect_left(starts, match.end() if before else match.start()), sign, match.group().strip(), before
    for match in _QUERY.finditer(text):
        before = match.start() == 0 or not text[match.start() - 1].isalnum()
        if before or not text[match.end() :].lstrip().lower().startswith("yes"):
            yield bisect_left(starts, match.end() if before else match.start()), "?", "?", before


def _inside(start: int, end: int, mentions: Sequence[tuple[int, int]]) -> bool:
    """Whether a cue is a proper part of a mention."""
    i = bisect_right(mentions, (start, sys.maxsize)) - 1
    return i >= 0 and end <= mentions[i][1] and mentions[i] != (start, end)
