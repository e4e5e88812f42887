"""Read maps from the codes of MIMIC-IV to those of an open knowledge graph: ICD to MONDO, laboratory items to LOINC to HPO.

A map is a table with any usual separator, gzipped or not. Codes may have a prefix (`ICD10CM:I10`, `MONDO:0001134`). Rows of
other vocabularies and normal results are left out; those without a code that can be read are counted in a warning.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mimiciv_dataset.cells import clean_id
from pipeline.errors import UserError
from thinking_graph_preprocess.delimited_files import read_rows

DIGITS = re.compile(r"(\d+)(?:\.0)?$")  # spreadsheets and pandas write whole numbers as 5.0
DOID, MONDO = (re.compile(rf"\b{ontology}[:_](\d+)\b", re.IGNORECASE) for ontology in ("DOID", "MONDO"))
LOINC = re.compile(r"(?:^|:)(\d{1,7}-\d)$")

# Predicates of an SSSOM file by which the ICD code means the disease or a kind of it, depending on the subject.
EXACT, BROADER = "same_as", "isa"
_BOTH_WAYS = dict.fromkeys(("exactmatch", "closematch", "hasdbxref"), EXACT)
OF_SUBJECT_MONDO = _BOTH_WAYS | {"narrowmatch": BROADER}
OF_SUBJECT_ICD = _BOTH_WAYS | {"broadmatch": BROADER}

_SEVERAL = re.compile(r"[|;,\s]+")  # between the codes of a cell
NORMAL_OUTCOMES = ("N", "NEG")  # of loinc2hpo: the abnormality is absent


class Disease(NamedTuple):
    """The MONDO term of an ICD code."""

    mondo: int
    relation: str  # EXACT or BROADER


class IcdCode(NamedTuple):
    """An ICD code as a map writes it, but without its prefix."""

    code: str
    version: str  # "9" or "10"


def read_icd_map(path: Path, known_icd9: Collection[str] = ()) -> dict[tuple[str, str], list[Disease]]:
    """(ICD code without a dot, version "9" or "10") → MONDO terms.

    Reads MONDO's SSSOM files (subject_id, predicate_id, object_id), and tables with columns that have `icd` in their name, a
    column that has `mondo` in its name, and optionally `icd_version`. Cells can have several codes.

    Args:
        known_icd9: ICD-9 codes that `icd9_codes` uses.
    """
    pairs, rows, unread = [], 0, 0
    for row in read_rows(path, "icd and mondo, or subject_id, predicate_id and object_id", _is_icd_map):
        found = list(_icd_pairs(row)) if "subject_id" not in row or _is_about_icd(row) else None
        rows += 1
        unread += found == []
        pairs += found or []
    spelling = icd9_codes({icd.code for icd, _ in pairs if icd.version == "9"}, known_icd9)
    diseases: dict[tuple[str, str], list[Disease]] = defaultdict(list)
    ambiguous = set()
    for icd, disease in pairs:
        code = spelling.get(icd.code, "") if icd.version == "9" else icd.code.replace(".", "")
        if not code:
            ambiguous.add(icd.code)
        elif disease not in diseases[code, icd.version]:
            diseases[code, icd.version].append(disease)
    _warn(path, unread, rows, "with an ICD and a MONDO code")
    if ambiguous:
        got = f"{len(ambiguous):,} that mean several codes with and without them, which are left out"
        print(f"warning: {path}: expected ICD-9 codes with leading zeros, got {got}.", file=sys.stderr)
    return dict(diseases)


def read_doid_map(path: Path) -> dict[int, list[int]]:
    """DOID term → MONDO terms of the same disease, from an SSSOM file of MONDO.

    Raises:
        UserError: the file has other columns, or no such terms.
    """
    terms: dict[int, list[int]] = defaultdict(list)
    for row in read_rows(path, "subject_id, predicate_id and object_id", {"subject_id", "object_id"}.issubset):
        ends = f"{row['subject_id']} {row['object_id']}"
        doid, mondo = DOID.search(ends), MONDO.search(ends)
        if doid and mondo and _predicate(row) == "exactmatch" and not row.get("predicate_modifier"):
            terms[int(doid.group(1))].append(int(mondo.group(1)))
    if not terms:
        raise UserError(
            f"{path}: expected rows that map MONDO to DOID, got none. Set --icd_map to mondo.sssom.tsv, or omit it."
        )
    return dict(terms)


def _warn(path: Path, unread: int, rows: int, expected: str) -> None:
    if unread:
        print(f"warning: {path}: expected rows {expected}, got {unread:,} of {rows:,} without, left out.", file=sys.stderr)


def icd9_codes(codes: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Code of a map → ICD-9 code as MIMIC-IV writes it, without a dot and with leading zeros; without ambiguous ones.

    Spreadsheets remove zeros before numbers. If any code has a dot, it follows the three digits of the category. If none has,
    codes of one or two digits tell that zeros are missing; then the spelling counts that begins some `known` code, if only one
    does.

    >>> icd9_codes(["4.9", "38", "401.9", "V10.1", "E880"], ["0049"])
    {'4.9': '0049', '38': '038', '401.9': '4019', 'V10.1': 'V101', 'E880': 'E880'}
    >>> icd9_codes(["49", "389", "4019"], ["0049", "0389", "3890", "4019"])
    {'49': '0049', '4019': '4019'}
    """
    numbers = {code: code for code in codes if code[0].isdecimal()}
    if any(re.fullmatch(r"\d{4,5}\.0", code) for code in numbers):  # whole numbers with a decimal
        numbers = {code: code.removesuffix(".0") for code in numbers}
    has_dots = any("." in number for number in numbers.values())
    lacks_zeros = not has_dots and any(len(number) < 3 for number in numbers.values())
    spelling = {}
    for code in codes:
        category, _, detail = numbers.get(code, code).partition(".")
        spellings = [category.zfill(3) + detail if code in numbers else category + detail]
        if lacks_zeros and code in numbers:
            padded = [category.zfill(length) for length in range(max(3, len(category)), 6)]
            spellings = [each for each in padded if any(other.startswith(each) for other in known)]
        if len(spellings) == 1:
            spelling[code] = spellings[0]
    return spelling


def _is_icd_map(columns: Sequence[str]) -> bool:
    return {"subject_id", "object_id"} <= set(columns) or all(_column(columns, name) for name in ("icd", "mondo"))


def _column(columns: Sequence[str], part: str) -> str | None:
    """The first column that has a part in its name and holds codes."""
    return next(iter(_columns(columns, part)), None)


def _columns(columns: Sequence[str], part: str) -> list[str]:
    others = ("version", "label", "name", "title")
    return [name for name in columns if part in name.lower() and not any(other in name.lower() for other in others)]


def _split_code(text: str) -> tuple[str, str]:
    """The prefix of a code, which may be an IRI, and the code.

    >>> _split_code("ICD10CM:I10"), _split_code("http://purl.bioontology.org/ontology/ICD10CM/I10"), _split_code("I10")
    (('ICD10CM', 'I10'), ('ontology/ICD10CM', 'I10'), ('', 'I10'))
    """
    *prefix, code = re.split(r"[:/]", text)
    return "/".join(prefix[-2:]), code


def _is_about_icd(row: dict[str, str]) -> bool:
    """Whether a row of an SSSOM file relates a disease to a code of ICD-9 or ICD-10 that means it."""
    relation, icd, _ = _sssom(row)
    is_newer = re.search("icd-?11|icd/entity", icd.lower())
    return relation is not None and not row.get("predicate_modifier") and "icd" in icd.lower() and not is_newer


def _sssom(row: dict[str, str]) -> tuple[str | None, str, str]:
    """The relation, the ICD code and the MONDO code of a row of an SSSOM file."""
    ends = row["subject_id"], row["object_id"]
    subject_is_icd = "MONDO" in ends[1].upper()
    relation = (OF_SUBJECT_ICD if subject_is_icd else OF_SUBJECT_MONDO).get(_predicate(row))
    return (relation, *(ends if subject_is_icd else reversed(ends)))


def _predicate(row: dict[str, str]) -> str:
    """The predicate of a row of an SSSOM file, in lower case without its prefix."""
    return re.split(r"[:/#]", row.get("predicate_id", "exactMatch"))[-1].lower()


def _icd_pairs(row: dict[str, str]) -> Iterator[tuple[IcdCode, Disease]]:
    if "subject_id" in row:
        relation, *cells = _sssom(row)
        cells = [("", *cells)]
    else:
        relation, mondo = EXACT, row[_column(list(row), "mondo")]
        cells = [(row.get("icd_version") or name, row[name], mondo) for name in _columns(list(row), "icd")]
    for source, icds, mondos in cells:
        named = next((version for version in ("9", "10") if version in source), "")
        for prefix, code in map(_split_code, _SEVERAL.split(icds)):
            version = named or ("9" if "9" in prefix else "10" if "10" in prefix or code[:1].isalpha() else "9")
            terms = filter(None, map(DIGITS.search, _SEVERAL.split(mondos)))
            yield from ((IcdCode(code.upper(), version), Disease(int(term.group(1)), relation)) for term in terms if code)


def read_loinc_map(path: Path) -> dict[str, list[int]]:
    """LOINC code → HPO terms of its abnormal results, from the annotations of loinc2hpo or a table with such columns."""
    terms: dict[str, list[int]] = defaultdict(list)
    rows = unread = 0
    for row in read_rows(path, "loinc and hpo", lambda columns: _column(columns, "loinc") and _column(columns, "hpo")):
        is_normal = row.get("outcome", "").upper() in NORMAL_OUTCOMES or row.get("isNegated", "").lower() == "true"
        loinc, term = LOINC.search(row[_column(list(row), "loinc")]), DIGITS.search(row[_column(list(row), "hpo")])
        rows += 1
        unread += loinc is None or term is None
        if loinc and term and not is_normal and int(term.group(1)) not in terms[loinc.group(1)]:
            terms[loinc.group(1)].append(int(term.group(1)))
    _warn(path, unread, rows, "with a LOINC and an HPO code")
    return {loinc: numbers for loinc, numbers in terms.items() if numbers}


def read_labitem_map(path: Path) -> dict[str, str]:
    """Item of d_labitems → LOINC code, from MIMIC's d_labitems_to_loinc.csv or a table with columns itemid and loinc.

    d_labitems_to_loinc.csv has columns of OMOP, or in another version those of SSSOM (`mimic:50931`, `loinc:2345-7`).
    """
    codes, rows, unread = {}, 0, 0
    for row in read_rows(path, "itemid and loinc, or subject_id, predicate_id and object_id", _labitem_columns):
        item, code = (row[column] for column in _labitem_columns(list(row)))
        is_loinc = row.get("omop_vocabulary_id", "LOINC") == "LOINC"
        if is_loinc and (not row.get("predicate_id") or _predicate(row) in _BOTH_WAYS):
            itemid, loinc = clean_id(_split_code(item)[1]), LOINC.search(code)
            rows += 1
            unread += itemid is None or loinc is None
            if itemid and loinc:
                codes[itemid] = loinc.group(1)
    _warn(path, unread, rows, "with an item and a LOINC code")
    return codes


def _labitem_columns(columns: Sequence[str]) -> tuple[str, str] | None:
    """The columns of a map that have laboratory items and LOINC codes."""
    if {"subject_id", "object_id"} <= set(columns):
        return "subject_id", "object_id"
    code = "omop_concept_code" if "omop_concept_code" in columns else _column(columns, "loinc")
    item = _column(columns, "itemid")
    return (item, code) if item and code else None
