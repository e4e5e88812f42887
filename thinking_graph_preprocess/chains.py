"""Whether a reasoning chain can be trained on: checks of its text against the patient's record and the right answer.

Pure functions without files or models. A chain has the sections of `SECTIONS` and cites events as `**Event Name [time]**`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from inference.answers import read_items
from inference.dialects import is_whole
from inference.prompts import SECTIONS
from mimiciv_dataset.text import SampleText

EXTRACTION, REASONING, FINAL = SECTIONS

# Why a chain is rejected, in the order of the table.
REASONS = {
    "unfinished": "cut off, or not ended by the model itself",
    "sections": "the sections are incomplete, out of order, repeated or empty",
    "too_few": "too small a share of the right answers under Final Results",
    "wrong_answer": "an item under Final Results is not a right answer",
    "told": "mentions an answer, knowledge or instructions that were given",
    "unknown_event": "cites an event that the record does not have at any time",
    "wrong_time": "cites an event of the record with another time",
    "wrong_number": "a number under Extraction is not in the event cited for it",
    "uncited": "a line under Extraction does not begin with a citation",
    "not_reached": "the verifier model does not reach the answer by this reasoning",
}

_CITATION = r"\*\*\s*([^*\[\]\n]+?)\s*\[([^\[\]*\n]*)\]\s*:?\s*\*\*"
_CITED = re.compile(_CITATION)
_CITED_LINE = re.compile(rf"\s*(?:(?:\d+[.)]|[-*])\s+)?{_CITATION}")
_LIST_MARKER = re.compile(r"\n\s*(?:\d+[.)]|[-*])\s+")
_HEADING = re.compile(r"## (.+) \[([^\]\n]*)\]")
_SPACE = re.compile(r"[^\S\n\t\r ]")  # NBSP and other spaces; line ends of Unicode are replaced before
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
_BULLET = re.compile(r"^([ \t]*)[•·◦▪‣●○■–][ \t]+", re.MULTILINE)
# A code block, also one that does not end.
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


_RULE = re.compile(r"^[ \t]*(?:-{3,}|\*{3,}|_{3,})[ \t]*\n(?=\s*[#*_]*[ \t]*#)", re.MULTILINE)  # above a heading


def _heading_variants(heading: str) -> re.Pattern[str]:
    """Lines that may stand for a heading: marked in another way (Markdown, HTML, numbers, underlined), or its name alone.

    Group 1: the text after the colon of a marked one.
    """
    name = heading.removeprefix("## ").replace(" ", r"[ \t]+").removesuffix("s") + "s?"
    number = r"[(\[]?(?:(?:step|section|part)[ \t]*)?(?:\d{1,2}|[ivx]{1,4}|[a-c])[ \t]*[.):\]–—-]+[ \t]*"
    marks = rf"(?=[#*_<(\[\d]|step|section|part|[ivxa-c]{{1,4}}[.)])(?:<h[1-6][^>\n]*>)?[#*_ \t]*(?:{number})?[*_ \t]*"
    after_colon = r"[ \t]*[:：][ \t]*[*_]*(?:</h[1-6]>)?[ \t]*([^\n]*)"
    marked = rf"{marks}{name}[ \t]*[*_#]*(?:</h[1-6]>)?(?:{after_colon})?"
    underline = r"(?:\n[ \t]*(?:={2,}|-{2,}))?"
    return re.compile(rf"^[ \t]*(?:{marked}|{name}[ \t]*[:：]?){underline}[ \t]*$", re.MULTILINE | re.IGNORECASE)


_VARIANTS = {heading: _heading_variants(heading) for heading in SECTIONS}
_REMARK = re.compile(r"$|[*_(]*[^\W\d_]")  # a line that begins as a sentence, or is empty
_CONCLUSION = re.compile(rf"^\s*{FINAL}\s*$", re.MULTILINE)
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
_IN_WORD = re.compile(r"[A-Za-z_]\d+(?:\.\d+)?")  # CO2, B12: part of a name

# Each alternative names something that was given to the writer, not something about the patient.
_GIVEN = r"(?:given|provided|supplied|stated|expected|known|correct|right|true|target|reference|gold)"
_MENTIONS_GIVEN = re.compile(
    "|".join([
        r"ground[\s-]*truth",
        rf"\b{_GIVEN}\s+(?:final\s+)?(?:answers?|labels?|results?\s+list)\b",
        r"\banswers?\s+(?:key|(?:is|are|was|were)\s+(?:given|provided|supplied|known))\b",
        r"\banswer\s+(?:given|provided|supplied)\b|\b(?:answers?|target)\s+lists?\b",
        r"\b(?:since|because|as)\s+the\s+(?:final\s+)?answers?\s+(?:is|are|includes?|contains?|lists?|names?)\b",
        r"\b(?:given|provided|supplied|shown)\s+to\s+me\b",
        r"\bthe\s+knowledge\s+(?:says?|states?|shows?|links?|suggests?|indicates?|lists?)\b",
        r"\b(?:given|provided|supplied|retrieved|listed|above|external)\s+(?:medical\s+|background\s+)?"
        r"(?:knowledge|relations?|relationships|paths?)\b",
        r"\bknowledge\s+(?:graphs?|bases?|paths?)\b",
        r"\bumls\b",
        r"\b(?:the|these|your|my)\s+instructions?\s+(?:says?|asks?|requires?|states?|above)\b",
        r"\b(?:in|by|from)\s+(?:the|this)\s+prompt\b",
        r"\bas\s+(?:instructed|prompted)\b",
    ]),
    re.IGNORECASE,
)  # fmt: skip


class Fault(NamedTuple):
    """Why a chain is rejected: a reason of `REASONS`, and the passage."""

    reason: str
    detail: str = ""


class Citation(NamedTuple):
    """A citation of an event in a chain: its place there, what it cites, and what is wrong with it."""

    start: int
    end: int
    name: str
    time: str
    faults: tuple[Fault, ...]


class AnswerLimits(NamedTuple):
    """The least share of right answers, and the most wrong answers."""

    min_right: float = 0.7
    max_wrong: int = 0


class CitedEvents:
    """The events of an input, which a chain can cite by name and time as their headings print them."""

    def __init__(self, text: SampleText) -> None:
        self._texts: dict[tuple[str, str], str] = {}
        self._parts: dict[tuple[str, str], list[int]] = {}
        for number, part in enumerate((text.patient, text.last_discharge, text.admission, *text.window)):
            heading = _HEADING.match(part or "")
            if heading:
                key = _folded(heading[1]), heading[2].strip()
                body = part[heading.end() :]
                self._texts[key] = self._texts.get(key, "") + body  # two events of a table can start at the same second
                self._parts.setdefault(key, []).append(number)
        self.names = {name for name, _ in self._texts}

    def fault(self, name: str, time: str) -> Fault | None:
        """The fault of a citation; None if there is such an event."""
        if (_folded(name), time.strip()) in self._texts:
            return None
        return Fault("wrong_time" if _folded(name) in self.names else "unknown_event", f"{name} [{time}]")

    def parts(self, name: str, time: str) -> list[int]:
        """The parts of the input that a citation names: 0 patient, 1 note, 2 admission, then the events of the window."""
        return self._parts.get((_folded(name), time.strip()), [])

    def unsupported_numbers(self, statement: str, name: str, time: str) -> list[float]:
        """The numbers in a statement about an event that are neither in the event nor in its time.

        >>> events = CitedEvents(SampleText("", "", "", ("## Triage [2150-01-01 08:00:00]\\n- Pain: 5",)))
        >>> events.unsupported_numbers("at 08:00 pain 5.0, later 8", "Triage", "2150-01-01 08:00:00")
        [8.0]
        """
        text = self._texts[_folded(name), time.strip()]
        known = {*numbers(text), *numbers(text.replace(",", " "))}
        date, _, clock = time.strip().partition(" ")
        for own in (time.strip(), date, clock, clock[:5]):
            statement = re.sub(rf"(?<!\d){re.escape(own)}(?!\d)", " ", statement) if own else statement
        return sorted(set(numbers(_IN_WORD.sub(" ", statement))) - known)


def faults(
    chain: str, reason: str | None, events: CitedEvents, target: Sequence[str], limits: AnswerLimits, sections: bool = True
) -> list[Fault]:
    """All faults of a chain; none if it can be trained on.

    Args:
        reason: why the model ended, as the server says.
        target: the right answers.
        sections: whether all sections were asked for, or the last one only.
    """
    if not is_whole(reason) or not chain.strip():
        return [Fault("unfinished", str(reason))]
    result = [*mentions_given(chain), *citation_faults(chain, events)]
    parts = split_sections(chain, SECTIONS if sections else (FINAL,))
    if parts is None:
        return [Fault("sections"), *result]
    result += answer_faults(parts[FINAL], target, limits)
    return result + (extraction_faults(parts[EXTRACTION], events) if sections else [])


def normalised(chain: str, sections: bool = True) -> str:
    r"""A chain as it was asked for: without a code fence around it, its headings as in `SECTIONS`, nothing before the first,
    no remark after the items.

    Headings of another level, in bold, in HTML, underlined, without a mark, in another case, with a number or a colon are
    replaced where the right one is missing. Rules between the sections are left out, odd spaces are spaces, and bullets `-`.

    >>> normalised("Here it is:\n```\n### Extraction\na\n**Reasoning:**\nb\n## Final Results: c\n```\nI hope it helps.")
    '## Extraction\na\n## Reasoning\nb\n## Final Results\nc'
    """
    headings = SECTIONS if sections else (FINAL,)
    chain = "\n".join(chain.splitlines())
    chain = _RULE.sub("", _BULLET.sub(r"\1- ", _SPACE.sub(" ", _INVISIBLE.sub("", chain))))
    for fenced in _FENCED.finditer(chain):
        if all(_VARIANTS[heading].search(fenced[2]) for heading in headings):
            chain = fenced[2] if sections else f"{chain[: fenced.start()]}{fenced[2]}"
            break
    for heading in headings:
        if not re.search(rf"^\s*{heading}\s*$", chain, re.MULTILINE):
            chain = _VARIANTS[heading].sub(lambda line, heading=heading: f"{heading}\n{line[1] or ''}".rstrip("\n"), chain)
    first = re.search(rf"^\s*{EXTRACTION}\s*$", chain, re.MULTILINE) if sections else None
    if first and not any(heading in chain[: first.start()] for heading in SECTIONS):
        chain = chain[first.start() :]
    return _without_remark(chain.strip())


def _without_remark(chain: str) -> str:
    r"""A chain without the sentences that follow the list under its last heading, if they name no item.

    >>> _without_remark("## Final Results\n- Aspirin\n\nI hope that this helps.")
    '## Final Results\n- Aspirin'
    """
    *before, answer = _CONCLUSION.split(chain)
    lines, items = answer.splitlines(), read_items(answer)
    is_list = before and any(_LIST_MARKER.match(f"\n{line}") for line in lines)
    while is_list and _REMARK.match(lines[-1]) and read_items("\n".join(lines[:-1])) == items:
        lines.pop()
    return chain[: len(chain) - len(answer)] + "\n".join(lines) if is_list else chain


def split_sections(chain: str, headings: Sequence[str] = SECTIONS) -> dict[str, str] | None:
    r"""The text under each heading; None unless each appears once, on its own line, in order, with text under it.

    If there are several headings, nothing may precede the first, and there may be no other section.

    >>> split_sections("## Extraction\na\n## Reasoning\nb\n## Final Results\nc")
    {'## Extraction': 'a', '## Reasoning': 'b', '## Final Results': 'c'}
    >>> split_sections("## Reasoning\nb\n## Extraction\na\n## Final Results\nc")
    >>> split_sections("I think so.\n## Final Results\nc", ["## Final Results"])
    {'## Final Results': 'c'}
    """
    lines = chain.strip().splitlines()
    stripped = [line.strip() for line in lines]
    others = [line for line in stripped if re.match(r"##?\s", line) and line not in headings]
    if any(stripped.count(heading) != 1 for heading in headings) or (others and len(headings) > 1):
        return None
    places = [stripped.index(heading) for heading in headings]
    if places != sorted(places) or (places[0] == 0) != (len(headings) > 1):
        return None
    ends = [*places[1:], len(lines)]
    parts = {lines[a].strip(): "\n".join(lines[a + 1 : b]).strip("\n") for a, b in zip(places, ends, strict=True)}
    return parts if all(text.strip() for text in parts.values()) else None


def split_conclusion(chain: str) -> tuple[str, str]:
    r"""A chain up to its conclusion, and the conclusion; "" if it has none.

    >>> split_conclusion("## Reasoning\nPain.\n## Final Results\n- Aspirin")
    ('## Reasoning\nPain.', '- Aspirin')
    """
    before, *after = _CONCLUSION.split(chain, maxsplit=1)
    return before.strip(), "".join(after).strip()


def answer_faults(answer: str, target: Sequence[str], limits: AnswerLimits) -> list[Fault]:
    """The faults of an answer: too few right items, too many wrong ones. Items are compared whole (docs/evaluation.md).

    >>> answer_faults("- K+\\n- aspirin", ["Aspirin", "K"], AnswerLimits())
    [Fault(reason='too_few', detail='1 of 2'), Fault(reason='wrong_answer', detail='K+')]
    """
    true = set(map(_folded, target))
    right = right_answers(answer, target)
    wrong = [item for item in read_items(answer) if _folded(item) not in true]
    result = []
    if right / len(true) < limits.min_right:
        result.append(Fault("too_few", f"{right} of {len(true)}"))
    if len(wrong) > limits.max_wrong:
        result.append(Fault("wrong_answer", "; ".join(wrong)))
    return result


def right_answers(answer: str, target: Sequence[str]) -> int:
    """The number of right answers in an answer."""
    return len(set(map(_folded, read_items(answer))) & set(map(_folded, target)))


def mentions_given(chain: str) -> Iterator[Fault]:
    """The first mention of something that the writer of a chain was given.

    >>> list(mentions_given("This matches the provided answer."))
    [Fault(reason='told', detail='provided answer')]
    >>> list(mentions_given("She answers questions; given her known relation to dust, prompt treatment is right."))
    []
    """
    mention = _MENTIONS_GIVEN.search(chain)
    if mention:
        yield Fault("told", mention[0])


def citation_faults(chain: str, events: CitedEvents) -> list[Fault]:
    """Citations of events that the record does not have, each once."""
    candidates = (events.fault(name, time) for name, time in _CITED.findall(chain))
    return list(dict.fromkeys(fault for fault in candidates if fault))


def cited_events(chain: str) -> int:
    """The number of different events that a chain cites."""
    return len({(_folded(name), time.strip()) for name, time in _CITED.findall(chain)})


def extraction_faults(extraction: str, events: CitedEvents) -> list[Fault]:
    """Lines without a citation (an indented line continues the one before), and numbers not in the event cited before them."""
    result = [
        Fault("uncited", line.strip()[:80])
        for line in extraction.splitlines()
        if line.strip() and not line[0].isspace() and not _CITED_LINE.match(line)
    ]
    wrong = (fault for citation in citations(extraction, events) for fault in citation.faults)
    return result + [fault for fault in wrong if fault.reason == "wrong_number"]


def citations(text: str, events: CitedEvents, with_numbers: bool = True) -> list[Citation]:
    """The citations of a text in their order; with `with_numbers`, those in front of a number that is not in the event are
    faulty too.

    >>> events = CitedEvents(SampleText("", "", "", ("## Triage [2150-01-01 08:00:00]\\n- Pain: 5",)))
    >>> [citation.faults[0].reason for citation in citations("**Triage [2150-01-01 08:00:00]** pain 8", events)]
    ['wrong_number']
    """
    result, cited = [], list(_CITED.finditer(text))
    for number, citation in enumerate(cited, 1):
        name, time = citation.groups()
        of_citation = [fault] if (fault := events.fault(name, time)) else []
        if with_numbers and not of_citation:
            end = cited[number].start() if number < len(cited) else len(text)
            statement = _LIST_MARKER.sub("\n", text[citation.end() : end])
            if unsupported := events.unsupported_numbers(statement, name, time):
                numbers_text = ", ".join(f"{n:g}" for n in unsupported)
                of_citation = [Fault("wrong_number", f"{name} [{time}]: {numbers_text}")]
        result.append(Citation(*citation.span(), name, time, tuple(of_citation)))
    return result


def checked_citations(chain: str, events: CitedEvents) -> list[Citation]:
    """The citations of a chain as `faults` checks them: numbers are compared under Extraction only.

    Their places are those in the chain with `\\n` as line ends.
    """
    chain = "\n".join(chain.splitlines())
    extraction = (split_sections(chain) or {}).get(EXTRACTION, "")
    begin = chain.find(extraction)
    end = begin + len(extraction)
    checked = {begin + each.start: each for each in citations(chain[begin:end], events)}
    return [
        each._replace(faults=checked[each.start].faults) if each.start in checked else each
        for each in citations(chain, events, with_numbers=False)
    ]


def numbers(text: str) -> Iterable[float]:
    """The numbers in a text, without signs.

    >>> list(numbers("1,200 of 3, .5 mg at 109.0; 70-105"))
    [1200.0, 3.0, 0.5, 109.0, 70.0, 105.0]
    """
    return (float(number.replace(",", "")) for number in _NUMBER.findall(text))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
