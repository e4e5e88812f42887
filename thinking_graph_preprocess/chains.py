"""What a reasoning chain must be to train on: checks of its text against the record it speaks of and the right answer.

Pure functions, no files, no model. A chain has the sections of `SECTIONS`; it cites the record as `**Event Name [time]**`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from inference.answers import read_items
from inference.prompts import SECTIONS
from mimiciv_dataset.text import SampleText

EXTRACTION, REASONING, FINAL = SECTIONS

REASONS = {
    "unfinished": "cut off, or not ended by the model itself",
    "sections": "the sections are not all there, in order, each once and with text",
    "too_few": "too small a share of the right answers under Final Results",
    "wrong_answer": "an item under Final Results is no right answer",
    "told": "speaks of an answer, knowledge or instructions that were given",
    "unknown_event": "cites an event that the record does not have at any time",
    "wrong_time": "cites an event of the record with another time",
    "wrong_number": "a number under Extraction does not stand in the event cited for it",
    "uncited": "a line under Extraction does not begin with a citation",
    "not_reached": "a second reader does not reach the answer by this reasoning",
}
"""Why a chain is rejected, in the order of the table."""

_CITATION = r"\*\*\s*([^*\[\]\n]+?)\s*\[([^\[\]*\n]*)\]\s*:?\s*\*\*"
_CITED = re.compile(_CITATION)
_CITED_LINE = re.compile(rf"\s*(?:(?:\d+[.)]|[-*])\s+)?{_CITATION}")
_LIST_MARKER = re.compile(r"\n\s*(?:\d+[.)]|[-*])\s+")
_HEADING = re.compile(r"## (.+) \[([^\]\n]*)\]")
_CONCLUSION = re.compile(rf"^\s*{FINAL}\s*$", re.MULTILINE)
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
_IN_WORD = re.compile(r"[A-Za-z_]\d+(?:\.\d+)?")  # CO2, B12: part of a name

# What gives away that the writer was told: each names something given, not something of the patient's.
_GIVEN = r"(?:given|provided|supplied|stated|expected|known|correct|right|true|target|reference|gold)"
_TOLD = re.compile(
    "|".join([
        r"ground[\s-]*truth",
        rf"\b{_GIVEN}\s+(?:final\s+)?(?:answers?|labels?|results?\s+list)\b",
        r"\banswers?\s+(?:key|(?:is|are|was|were)\s+(?:given|provided|supplied|known))\b",
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
    """Why a chain is no good: a reason of `REASONS`, and what in it."""

    reason: str
    detail: str = ""


class Limits(NamedTuple):
    """The least share of right answers, and the most wrong ones."""

    min_right: float = 0.7
    max_wrong: int = 0


class Record:
    """A record's events by name and time, as their headings print them."""

    def __init__(self, text: SampleText) -> None:
        self._texts: dict[tuple[str, str], str] = {}
        for part in (text.patient, text.last_discharge, text.admission, *text.window):
            heading = _HEADING.match(part or "")
            if heading:
                key = _folded(heading[1]), heading[2].strip()
                body = part[heading.end() :]
                self._texts[key] = self._texts.get(key, "") + body  # two events of a table can start at the same second
        self.names = {name for name, _ in self._texts}

    def fault(self, name: str, time: str) -> Fault | None:
        """What is wrong with a citation; None if there is such an event."""
        if (_folded(name), time.strip()) in self._texts:
            return None
        return Fault("wrong_time" if _folded(name) in self.names else "unknown_event", f"{name} [{time}]")

    def strange_numbers(self, said: str, name: str, time: str) -> list[float]:
        """The numbers in what is said of an event that do not stand in it; its own date and time may be said too.

        >>> record = Record(SampleText("", "", "", ("## Triage [2150-01-01 08:00:00]\\n- Pain: 5",)))
        >>> record.strange_numbers("at 08:00 pain 5.0, later 8", "Triage", "2150-01-01 08:00:00")
        [8.0]
        """
        text = self._texts[_folded(name), time.strip()]
        known = {*numbers(text), *numbers(text.replace(",", " "))}
        date, _, clock = time.strip().partition(" ")
        for own in (time.strip(), date, clock, clock[:5]):
            said = re.sub(rf"(?<!\d){re.escape(own)}(?!\d)", " ", said) if own else said
        return sorted(set(numbers(_IN_WORD.sub(" ", said))) - known)


def faults(
    chain: str, finish_reason: str | None, record: Record, target: Sequence[str], limits: Limits, sections: bool = True
) -> list[Fault]:
    """All that is wrong with a chain; none if it can be trained on.

    Args:
        chain: its text.
        finish_reason: why the model ended: `stop` when it was done.
        record: what it speaks of.
        target: the right answers.
        limits: of right and wrong answers.
        sections: it was asked for all sections, not for the last one only.
    """
    if finish_reason != "stop" or not chain.strip():
        return [Fault("unfinished", str(finish_reason))]
    found = [*told(chain), *citations(chain, record)]
    parts = split_sections(chain, SECTIONS if sections else (FINAL,))
    if parts is None:
        return [Fault("sections"), *found]
    found += answer_faults(parts[FINAL], target, limits)
    return found + (extraction_faults(parts[EXTRACTION], record) if sections else [])


def split_sections(chain: str, headings: Sequence[str] = SECTIONS) -> dict[str, str] | None:
    r"""The text under each heading; None unless each stands once, on a line of its own, in order, with text under it.

    All three headings are the whole chain: nothing stands before the first.

    >>> split_sections("## Extraction\na\n## Reasoning\nb\n## Final Results\nc")
    {'## Extraction': 'a', '## Reasoning': 'b', '## Final Results': 'c'}
    >>> split_sections("## Reasoning\nb\n## Extraction\na\n## Final Results\nc")
    >>> split_sections("I think so.\n## Final Results\nc", ["## Final Results"])
    {'## Final Results': 'c'}
    """
    lines = chain.strip().splitlines()
    stripped = [line.strip() for line in lines]
    if any(stripped.count(heading) != 1 for heading in headings):
        return None
    places = [stripped.index(heading) for heading in headings]
    if places != sorted(places) or (places[0] == 0) != (len(headings) > 1):
        return None
    ends = [*places[1:], len(lines)]
    parts = {lines[a].strip(): "\n".join(lines[a + 1 : b]).strip("\n") for a, b in zip(places, ends, strict=True)}
    return parts if all(text.strip() for text in parts.values()) else None


def before_conclusion(chain: str) -> str:
    r"""A chain up to its conclusion.

    >>> before_conclusion("## Reasoning\nPain.\n## Final Results\n- Aspirin")
    '## Reasoning\nPain.'
    """
    return _CONCLUSION.split(chain, maxsplit=1)[0].strip()


def conclusion(chain: str) -> str:
    r"""What a chain concludes; "" where it does not.

    >>> conclusion("## Reasoning\nPain.\n## Final Results\n- Aspirin")
    '- Aspirin'
    """
    return "".join(_CONCLUSION.split(chain, maxsplit=1)[1:]).strip()


def answer_faults(answer: str, target: Sequence[str], limits: Limits) -> list[Fault]:
    """Whether an answer names enough right items and not too many wrong ones; items are compared whole (docs/evaluation.md).

    >>> answer_faults("- K+\\n- aspirin", ["Aspirin", "K"], Limits())
    [Fault(reason='too_few', detail='1 of 2'), Fault(reason='wrong_answer', detail='K+')]
    """
    true = set(map(_folded, target))
    right = right_answers(answer, target)
    wrong = [item for item in read_items(answer) if _folded(item) not in true]
    found = []
    if right / len(true) < limits.min_right:
        found.append(Fault("too_few", f"{right} of {len(true)}"))
    if len(wrong) > limits.max_wrong:
        found.append(Fault("wrong_answer", "; ".join(wrong)))
    return found


def right_answers(answer: str, target: Sequence[str]) -> int:
    """How many of the right answers an answer names.

    >>> right_answers("1. **Aspirin**\\n2. Zinc", ["aspirin", "K"])
    1
    """
    return len(set(map(_folded, read_items(answer))) & set(map(_folded, target)))


def told(chain: str) -> Iterator[Fault]:
    """Whether a chain speaks of what its writer was given.

    >>> list(told("This matches the provided answer."))
    [Fault(reason='told', detail='provided answer')]
    >>> list(told("She answers questions; given her known relation to dust, prompt treatment is right."))
    []
    """
    found = _TOLD.search(chain)
    if found:
        yield Fault("told", found[0])


def citations(chain: str, record: Record) -> list[Fault]:
    """Citations of events that the record does not have, each once."""
    found = (record.fault(name, time) for name, time in _CITED.findall(chain))
    return list(dict.fromkeys(fault for fault in found if fault))


def cited_events(chain: str) -> int:
    """How many different events a chain cites."""
    return len({(_folded(name), time.strip()) for name, time in _CITED.findall(chain)})


def extraction_faults(extraction: str, record: Record) -> list[Fault]:
    """Lines that cite nothing, and numbers that do not stand in the event cited before them.

    A line that is indented goes on with the one before.
    """
    found = [
        Fault("uncited", line.strip()[:80])
        for line in extraction.splitlines()
        if line.strip() and not line[0].isspace() and not _CITED_LINE.match(line)
    ]
    cited = list(_CITED.finditer(extraction))
    for number, citation in enumerate(cited, 1):
        end = cited[number].start() if number < len(cited) else len(extraction)
        name, time = citation.groups()
        if record.fault(name, time) is None:
            said = _LIST_MARKER.sub("\n", extraction[citation.end() : end])
            strange = record.strange_numbers(said, name, time)
            if strange:
                found.append(Fault("wrong_number", f"{name} [{time}]: {', '.join(f'{n:g}' for n in strange)}"))
    return found


def numbers(text: str) -> Iterable[float]:
    """The numbers in a text, without signs.

    >>> list(numbers("1,200 of 3, .5 mg at 109.0; 70-105"))
    [1200.0, 3.0, 0.5, 109.0, 70.0, 105.0]
    """
    return (float(found.replace(",", "")) for found in _NUMBER.findall(text))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
