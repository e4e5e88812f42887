"""Terms that notes use for the titles of code systems: "pneumonia" for "Pneumonia, unspecified organism".

`variants` derives them by rules; `clinical_names.csv` lists abbreviations and everyday names that no title has. The list is
this project's own, from general medical usage as in the notes of hospitals; each name has the title of an ICD code, a CCS
category, a laboratory item or a drug that it is commonly written for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

NAMES_FILE = Path(__file__).with_name("clinical_names.csv")

_PARENTHESES = re.compile(r"\s*[(\[][^)\]]*[)\]]")
# Parts of a title that say that nothing more is said.
_UNSAID = re.compile(
    r"""^(?:other\ and\ )?unspecified\s+ | ^(?:other\ forms\ of|other)\s+(?=\w+(?:\s+\w+)?$)
    | ,?\s+(?:unspecified|not\ specified|nos)(?:\s+(?:organism|site|type|part|cause|etiology|side|as\ to\ [\w\s]+))?$
    | ,\s+(?:not\ elsewhere\ classified|not\ otherwise\ specified|organism\ unspecified|site\ not\ specified|uncomplicated)$
    | ,\s+(?:initial\ encounter|unspecified\ site|unspecified\ organism|not\ intractable|single\ episode|type\ unspecified)$
    | ,?\s+without\ (?:mention\ of\ )?(?:complications?|status\ migrainosus|angina\ pectoris)$ | \s+alone$""",
    re.IGNORECASE | re.VERBOSE,
)
_COURSE = re.compile(
    r"^(?:acute\ and\ chronic|acute|chronic|essential|primary|idiopathic|simple)\s+", re.IGNORECASE | re.VERBOSE
)
_CANCER = re.compile(r"^malignant (?:\(primary\) )?neoplasm of (?:unspecified (?:site|part) of )?([\w ]+)$", re.IGNORECASE)


# Labels of items and terms by rule that are everyday words or headings of notes rather than findings.
_JUNK = """
    abdomen | activity | allergy | alpha | anderson | argon | assistance | balance | bands | bath | behavior | beta | billed |
    blood | call | camp | cardiovascular | checklist | chest | code status | commands | commode | communication | compliance |
    confirmation | constitutional | consults | delete | disposition | ensure | examination | exercise | family history | fat |
    fax | fibers | fletcher | foley | gait | gamma | gate | gender | grooming | heent | height | history | illness |
    infectious disease | inhibitor | interpreter | interpreter used | isolation | judgement | lambda | lap | lumbar |
    mediastinal | midline | musculoskeletal | nan | neurologic | neurological | not done | operation | or received | or sent |
    orientation | other cells | park | past medical history | physical exam | physical examination | plasma | position |
    prblm | print job | printer | problem | progress | prophylaxis | race | rate | referred | reserved | resistance |
    respiratory | response | reuse | rolling | run | service | services | silver | sitter | skip | social history | solution |
    speech | stat | stress | support | tap | test | tin | time spent | transfer | turn | void | water | weight | xxx | young
"""
JUNK = frozenset(phrase.strip() for phrase in _JUNK.split("|"))


def variants(title: str) -> Iterator[tuple[int, str]]:
    """Yield (rank, term) of the terms of a title: the less a rule changes the meaning, the lower its rank; the title has 0.

    >>> sorted(variants("Essential (primary) hypertension"))
    [(0, 'Essential (primary) hypertension'), (1, 'Essential hypertension'), (3, 'hypertension')]
    >>> [term for _, term in variants("Diabetes mellitus, type 2, unspecified")]
    ['Diabetes mellitus, type 2, unspecified', 'Diabetes mellitus, type 2', 'type 2 Diabetes mellitus']
    >>> [term for _, term in variants("Malignant neoplasm of stomach, unspecified")][-1]
    'stomach cancer'
    """
    yield 0, title
    term, rank = _PARENTHESES.sub("", title).strip(), 1
    if term != title:
        yield rank, term
    while (shorter := _UNSAID.sub("", term).strip(" ,")) != term and shorter:
        term, rank = shorter, 2
        yield rank, term
    if match := _CANCER.match(term):
        yield rank, f"{match[1]} cancer"
    parts = term.split(", ")
    if len(parts) == 2 and not re.search(r"\b(?:and|or|with|without|due|of|in|by|for)\b", term):
        yield rank, f"{parts[1]} {parts[0]}"
    if (shorter := _COURSE.sub("", term)) != term and " " not in shorter.strip():
        yield 3, shorter
    elif shorter != term:
        yield 4, shorter


def clinical_names() -> list[tuple[str, str]]:
    """(name, title) of the table of abbreviations and everyday names. A name in capitals is written so in notes."""
    import csv

    with NAMES_FILE.open(encoding="utf-8", newline="") as file:
        return [(row["name"], row["title"]) for row in csv.DictReader(file)]
