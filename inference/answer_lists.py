"""Lists of names in the shapes that models write: lines with list marks, and Markdown tables.

`answers.read_items` puts these together. Names themselves contain what looks like such marks (`24. Hour Urine`, `A | B`), so a
list mark is removed only where all lines have one, or where the name without it is known. All functions take time linear in
the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from inference.answer_literals import NAMES, is_name_heading

IsKnown = Callable[[str], bool]

# --- Markdown tables

_SEPARATOR = re.compile(r"\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?")
_CELL_END = re.compile(r"(?<!\\)\|")
_CELL_NUMBER = re.compile(r"[\s\d.)#*]*")


def read_table(lines: Sequence[str]) -> list[str] | None:
    """The names in the Markdown tables among lines: the cells of their column of names; None if there is no table.

    That is the first column whose heading says so, or else the first with cells that are not only numbers. Lines outside the
    tables are dropped.

    >>> read_table(["| # | Drug | Code |", "|---|---|---|", "| 1 | Aspirin | B01 |"]), read_table(["A | B"])
    (['Aspirin'], None)
    """
    lines = [line.strip() for line in lines]
    separators = {i for i, line in enumerate(lines) if "|" in line and _SEPARATOR.fullmatch(line)}
    names: list[str] = []
    header: list[str] | None = None
    rows: list[list[str]] = []
    is_table = False
    for i, line in enumerate([*lines, ""]):
        if i in separators:
            continue
        if i + 1 in separators and "|" in line:
            names += _column(header, rows)
            header, rows = _cells(line), []
        elif line.startswith("|") or (header is not None and "|" in line):
            rows.append(_cells(line))
        else:
            names += _column(header, rows)
            header, rows = None, []
        is_table = is_table or header is not None or bool(rows)
    return names if is_table else None


def _cells(line: str) -> list[str]:
    line = line.removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [cell.replace("\\|", "|") for cell in _CELL_END.split(line)]


def _column(header: list[str] | None, rows: list[list[str]]) -> list[str]:
    """The cells of the column of names; a row with more cells than the header has a name that contains the cell mark."""
    if not rows:
        return []
    width = len(header) if header else min(map(len, rows))
    headings = [(i, unwrap(heading)) for i, heading in enumerate(header or [])]
    named = [i for i, heading in headings if is_name_heading(heading)]
    with_text = [i for i in range(width) if any(i < len(row) and not _CELL_NUMBER.fullmatch(row[i]) for row in rows)]
    column = next(iter([*named, *with_text, 0]))
    return ["|".join(row[column : column + 1 + max(0, len(row) - width)]).strip() for row in rows]


# --- lines

_MAX_LEVELS = 8  # of nested lists
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}
_EMPHASIS = ("**", "__", "*", "_")
_BULLETS = "•▪●◦‣⁃∙·○■□▫◆◇▸▹►▶➤➢❖✓✔✅☑★☆→»›\uf0b7"
_EMOJI = "\u23e9-\u23fa\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_BULLET = re.compile(rf"[{_BULLETS}{_EMOJI}][{_EMOJI}\ufe0e\ufe0f\u200d]*\s*|(?:[-*+>~–—−]|--)(?:\s+|$)|\[[ xX✓✔]?\]\s+")
_BOLD = r"(?:\*\*|__)?"
_NUMBER = re.compile(rf"{_BOLD}[(\[（]?(\d{{1,3}}){_BOLD}\\?([.)\]）．、]){_BOLD}(?:(\s+|$)|(?=[^\W\d_]|[\"'“(*`\[]))")
_UNUSUAL_NUMBER = re.compile(r"#?(\d{1,3})\s*[:–—-]\s+|#(\d{1,3})[.)]?\s+")
_SIGN_NUMBER = re.compile(r"([①-⓿❶-➓])\s*|((?:\d{1,2}\ufe0f?\u20e3){1,3}|🔟)\s*")  # circled digits and keycaps
_NAMED_NUMBER = re.compile(
    rf"{_BOLD}(?:option|choice|{NAMES})\s+#?(\d{{1,3}}){_BOLD}\s*[:.)–—-]{_BOLD}\s+", re.IGNORECASE
)  # "Item 1: Aspirin"
_LETTER = re.compile(r"\(?([A-Za-z])[.)]\s+(?=(\S))")
_ROMAN = re.compile(r"\(?([ivxIVX]{1,5})[.)]\s+")
_ROMAN_NUMBERS = dict(zip(("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"), range(1, 11), strict=True))
_ANY_MARK = re.compile(
    rf"(?:{_SIGN_NUMBER.pattern}|{_BULLET.pattern}|"
    rf"{_BOLD}[(\[]?(?:\d{{1,3}}\s*[.)\]:-]|(?:[A-Za-z]|[ivxIVX]{{1,5}})\s*(?:[.)\]]|[:-](?=\s))){_BOLD})\s*"
)  # at the start; the hyphen of "L-Lactate" is part of the name
_HEADING = re.compile(r"#{1,6}\s+")
_RULE = re.compile(r"[-*=\s]{3,}|[\[\]{}(),\s]*|\[[\d.,\s]*\]")
_LITERAL_PIECE = re.compile(r"\"[^\"]*\"\s*:|[\[{]\s*[\"'{\[]")  # of a list or object that is cut off or not well-formed
_ANSWER_IS = re.compile(
    rf"(\*\*|__)?(?:(?:the|my|so the)\s+)?(?:final\s+answers?|final\s+response|answers?|predictions?){_BOLD}"
    rf"\s*(?:(?:is|are)\b\s*:?|[:：]|$)(?(1){_BOLD})\s*",
    re.IGNORECASE,
)
_BOLD_NAME = re.compile(r"\*\*(.+?)\*\*(?=\s*[:(]|\s+[-–—]\s|$)")  # and a remark about it
# How sentences begin that are no names; no name of MIMIC-IV's dictionaries begins so.
_PROSE = re.compile(
    "|".join(
        (
            r"(?:i|we)(?:['’](?:m|d|ve|ll|re)| (?:am|are|can|cannot|can['’]t|could|couldn['’]t|do|don['’]t|would|will))\b",
            r"(?:i|we) (?:need|must|have|apologi[sz]e|think|believe|predict|recommend|see|expect)\b",
            r"(?:sorry|unfortunately|apologies)\b|as an? (?:ai|large|language model)\b|cannot be (?:determined|predicted)\b",
            r"(?:it is|it['’]s) (?:not|impossible|unclear|difficult|likely|important)\b",
            r"there (?:is|are) (?:not|no|insufficient)\b|(?:not enough|insufficient) (?:information|data|context)\b",
            r"(?:based on|given|considering) (?:the|this|that|these|your|his|her)\b|to (?:answer|determine|predict)\b",
            r"the (?:patient|answers?|provided|following|record|given|next|most likely|information|above|final|input)\b",
            r"this patient\b|these (?:are|were|include|items|medications|tests)\b|please (?:note|provide|let|consult)\b",
            r"(?:here (?:is|are)|here['’]s|let me|let['’]s|hope this)\b|(?:sure|certainly|of course)[,!.]|note:|note that\b",
        )
    ),
    re.IGNORECASE,
)


class Mark(NamedTuple):
    """The list mark of a line."""

    kind: str  # the bullet, or the kind of numbering
    number: int | None
    rest: str  # the line without it
    is_sure: bool = True  # whether it is a mark even on the only line of a list


def read_lines(lines: Sequence[str], is_known: IsKnown) -> list[str]:
    """The names on lines: without headings, lead-ins and sentences, list marks, emphasis, and punctuation of the list."""
    lines = [line for line in lines if not _RULE.fullmatch(line)]
    lines = _without_parents([line.rstrip() for line in lines], is_known)
    lines = _without_headings(lines, is_known)
    lines = _without_remarks(lines, is_known)
    names = _without_marks([_clean(line, is_known) for line in lines], is_known)
    bold = [_BOLD_NAME.match(name) for name in names]
    if all(match and "**" not in match[1] for match in bold) and not all(map(is_known, names)):
        names = [match[1].removesuffix(":") for match in bold]
    return [_clean(name, is_known) for name in _without_punctuation(names, is_known)]


def unwrap(text: str) -> str:
    """A text without enclosing emphasis and quotes, in any order; a mark that occurs inside too encloses nothing.

    >>> unwrap('"**Heparin**"'), unwrap("**A** and **B**"), unwrap("*NF* Bosentan"), unwrap("_No_")
    ('Heparin', '**A** and **B**', '*NF* Bosentan', 'No')
    """
    for _ in range(4):  # deeper nesting is not an answer, and the bound keeps this linear
        text = text.strip()
        for mark in _EMPHASIS:
            inner = text[len(mark) : -len(mark)]
            if inner and inner == inner.strip() and text.startswith(mark) and text.endswith(mark) and mark not in inner:
                text = inner
                break
        else:
            if len(text) < 2 or QUOTES.get(text[0]) != text[-1] or {text[0], text[-1]} & set(text[1:-1]):
                break
            text = text[1:-1]
    return text.strip()


def _clean(line: str, is_known: IsKnown) -> str:
    """A line without enclosing marks, nor the comma after a quoted string; a known name stays as it is."""
    line = line.strip()
    if line[-1:] in (",", ";") and len(line) > 2 and QUOTES.get(line[0]) == line[-2]:
        line = line[:-1]
    enclosed = (line[n:-n] for n in (1, 2) if not any(map(str.isalnum, line[:n] + line[-n:])))  # "CMED." is not MED
    return next(filter(is_known, (line, *enclosed)), None) or unwrap(line)


def _without_parents(lines: list[str], is_known: IsKnown) -> list[str]:
    """Nested lists made flat: items without the headings above them, or without the remarks below them.

    A line with a list mark and indented lines below it is a heading, or an item with remarks. If the shares of known names
    among these lines and among the lines below them differ, those with the larger share are the items. Otherwise those that
    end in a colon are headings.
    """
    marks = [None if is_known(line.strip()) else _mark(unwrap(line)) for line in lines]
    widths = [len(line) - len(line.lstrip()) for line in (line.expandtabs(4) for line in lines)]
    parents = {i for i, (a, b) in enumerate(pairwise(widths)) if marks[i] and marks[i].is_sure and b >= a + 2}
    if not parents:
        return lines
    names = [unwrap(mark.rest if mark else line) for line, mark in zip(lines, marks, strict=True)]
    above: list[int] = []  # the parents of a line, outermost first
    parents_of: list[list[int]] = []
    for i, width in enumerate(widths):
        while above and widths[above[-1]] + 2 > width:
            above.pop()
        parents_of.append(above[:_MAX_LEVELS])
        above += [i] if i in parents else []
    children = [i for i, lines_above in enumerate(parents_of) if lines_above and i not in parents]
    known = [is_known(unwrap(name.rstrip(":： "))) for name in names]
    surplus = sum(known[i] for i in children) * len(parents) - sum(known[i] for i in parents) * len(children)
    headings = {i for i in parents if surplus > 0 or (surplus == 0 and names[i].endswith((":", "：")))}
    beside_headings = {tuple(parents_of[i]) for i in headings}
    kept = []
    for i, line in enumerate(map(str.strip, lines)):
        if marks[i] and marks[i].kind == "number" and tuple(parents_of[i]) in beside_headings:
            line = "- " + marks[i].rest  # the numbers of headings are missing
        if i in parents and names[i].endswith((":", "：")):
            line = "- " + unwrap(names[i].rstrip(":： "))
        items_above = [parent for parent in parents_of[i] if parent not in headings]
        is_remark = items_above and (marks[i].kind if marks[i] else None) != marks[items_above[0]].kind
        if i not in headings and (not is_remark or is_known(line)):
            kept.append(line)
    return kept


def _without_headings(lines: list[str], is_known: IsKnown) -> list[str]:
    """Lines without headings, lead-ins and sentences; "Answer: X" is X."""
    is_heading = [bool(_HEADING.match(line.strip())) for line in lines]
    if all(is_heading):  # used as list marks
        lines = [_HEADING.sub("", line.strip(), count=1) for line in lines]
        is_heading = [False] * len(lines)
    kept = []
    for line, heading in zip(lines, is_heading, strict=True):
        text = line.strip()
        if is_known(text):
            kept.append(line)
            continue
        lead = _ANSWER_IS.match(text)
        if lead:
            line = text = text[lead.end() :]
        bare = unwrap(text)
        if heading or not bare or bare.endswith((":", "：")) or _LITERAL_PIECE.match(text) or _PROSE.match(bare):
            continue
        kept.append(line)
    return kept


def _without_remarks(lines: list[str], is_known: IsKnown) -> list[str]:
    """Where lines have list marks: without what is indented under an item, bold headings of groups, and sentences."""
    marks = [None if is_known(line.strip()) else _mark(unwrap(line)) for line in lines]
    marks = [mark if mark and mark.is_sure else None for mark in marks]
    listed = [mark for mark in marks if mark]
    if not _is_list(listed) or (len(listed) < 2 and listed[0].kind == "number"):
        return lines
    top = listed[0].kind
    kept: list[str] = []
    for line, mark in zip(lines, marks, strict=True):
        text = line.strip()
        is_below = kept and len(line) - len(line.lstrip()) >= 2 and (mark is None or mark.kind != top)
        is_aside = mark is None and (unwrap(text) != text or (text.endswith((".", "!", "?")) and len(text.split()) > 2))
        if is_known(text) or not (is_below or is_aside):
            kept.append(line)
    return kept


def _without_marks(lines: list[str], is_known: IsKnown) -> list[str]:
    """Lines without their list marks, where all have one, or where the name without it is known."""
    for _ in range(3):  # "- [x] 1. Aspirin"
        unknown = [i for i, line in enumerate(lines) if not is_known(line)]
        for read in (_mark, _letter, _roman):
            marks = {i: read(lines[i]) for i in unknown}
            if unknown and all(marks.values()) and _is_list(list(marks.values())):
                lines = [unwrap(marks[i].rest) if i in marks else line for i, line in enumerate(lines)]
                break
        else:
            break
    names = []
    for line in lines:
        rest = unwrap(line[mark.end() :] if (mark := _ANY_MARK.match(line)) else line)
        names.append(rest if is_known(rest) and not is_known(line) else line)
    return names


def _without_punctuation(names: list[str], is_known: IsKnown) -> list[str]:
    """Names without the full stops, commas or semicolons that end all of them, or after which the name is known."""
    unknown = [name for name in names if not is_known(name)]
    for marks in (",;", "."):
        ended = [name for name in unknown if name.endswith(tuple(marks))]
        rest = unknown[:-1] if marks == ",;" else unknown  # the last name of an enumeration may end otherwise
        is_list = len(ended) >= 2 and all(name.endswith(tuple(marks)) for name in rest)
        if is_list:
            drop = marks + "." * (marks == ",;")
            return [name if is_known(name) or not name.endswith(tuple(drop)) else name[:-1].rstrip() for name in names]
    known_without = [name[:-1].rstrip() if name.endswith((".", ",", ";")) else name for name in names]
    return [rest if not is_known(name) and is_known(rest) else name for name, rest in zip(names, known_without, strict=True)]


def _mark(line: str) -> Mark | None:
    """The bullet or number at the start of a line."""
    line = line.strip()
    if match := _SIGN_NUMBER.match(line):
        number = re.sub(r"\D", "", match[2]) or 10 if match[2] else unicodedata.numeric(match[1], 1)
        return Mark("number", int(number), line[match.end() :])
    if match := _NAMED_NUMBER.match(line):
        return Mark("number", int(match[1]), line[match.end() :])
    if match := _BULLET.match(line):
        return Mark(match[0].strip(), None, line[match.end() :])
    if match := _NUMBER.match(line):
        number = int(match[1]) if match[2] in "." else None  # "24. Hour Urine" is a name, "24) Hour Urine" a list of one
        return Mark("number", number, line[match.end() :], match[3] is not None)
    if match := _UNUSUAL_NUMBER.match(line):
        return Mark("number", int(match[1] or match[2]), line[match.end() :], False)
    return None


def _letter(line: str) -> Mark | None:
    match = _LETTER.match(line)
    if match is None or (match[1].isupper() and match[2].islower()):  # "E. coli"
        return None
    return Mark("letter", ord(match[1].lower()) - ord("a") + 1, line[match.end() :], False)


def _roman(line: str) -> Mark | None:
    match = _ROMAN.match(line)
    number = _ROMAN_NUMBERS.get(match[1].lower()) if match else None
    return Mark("roman", number, line[match.end() :], False) if number else None


def _is_list(marks: Sequence[Mark]) -> bool:
    """Whether these are the marks of one list: bullets of any kind, and numbers that count up from 0 or 1, maybe anew."""
    numbers = [mark.number for mark in marks if mark.number is not None]
    counts_up = not numbers or (numbers[0] < 2 and all(b < 2 or b > a for a, b in pairwise(numbers)))
    return bool(marks) and counts_up and (len(marks) > 1 or marks[0].is_sure)
