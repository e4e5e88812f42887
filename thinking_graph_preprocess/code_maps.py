"""Read maps from the codes of MIMIC-IV to those of an open knowledge graph: ICD to MONDO, laboratory items to LOINC to HPO.

A map is a CSV, or a TSV with comment lines that begin with `#`. Codes may have a prefix (`ICD10CM:I10`, `MONDO:0001134`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.files import require

DIGITS = re.compile(r"(\d+)(?:\.0)?$")  # spreadsheets and pandas write whole numbers as 5.0

# Predicates of an SSSOM file by which the ICD code means the disease or a kind of it, depending on the subject.
EXACT, BROADER = "same_as", "isa"
_BOTH_WAYS = dict.fromkeys(("exactmatch", "closematch", "hasdbxref"), EXACT)
OF_SUBJECT_MONDO = _BOTH_WAYS | {"narrowmatch": BROADER}
OF_SUBJECT_ICD = _BOTH_WAYS | {"broadmatch": BROADER}

NORMAL_OUTCOMES = ("N", "NEG")  # of loinc2hpo: the abnormality is absent


class Disease(NamedTuple):
    """The MONDO term of an ICD code."""

    mondo: int
    relation: str  # EXACT or BROADER


def read_icd_map(path: Path) -> dict[tuple[str, str], list[Disease]]:
    """(ICD code without a dot, version "9" or "10") → MONDO terms.

    Reads MONDO's SSSOM files (subject_id, predicate_id, object_id), and tables with a column that has `icd` in its name, a
    column that has `mondo` in its name, and optionally `icd_version`.
    """
    diseases: dict[tuple[str, str], list[Disease]] = defaultdict(list)
    for row in read_rows(path, "icd and mondo, or subject_id, predicate_id and object_id", _is_icd_map):
        for code, version, disease in _icd_pairs(row):
            if disease not in diseases[code, version]:
                diseases[code, version].append(disease)
    return dict(diseases)


def _is_icd_map(columns: Sequence[str]) -> bool:
    return {"subject_id", "object_id"} <= set(columns) or all(_column(columns, name) for name in ("icd", "mondo"))


def _column(columns: Sequence[str], part: str) -> str | None:
    """The first column that has a part in its name and holds codes."""
    others = ("version", "label", "name", "title")
    return next(
        (name for name in columns if part in name.lower() and not any(other in name.lower() for other in others)), None
    )


def _split_code(text: str) -> tuple[str, str]:
    """The prefix of a code, which may be an IRI, and the code.

    >>> _split_code("ICD10CM:I10"), _split_code("http://purl.bioontology.org/ontology/ICD10CM/I10"), _split_code("I10")
    (('ICD10CM', 'I10'), ('ontology/ICD10CM', 'I10'), ('', 'I10'))
    """
    *prefix, code = re.split(r"[:/]", text)
    return "/".join(prefix[-2:]), code


def _icd_pairs(row: dict[str, str]) -> Iterator[tuple[str, str, Disease]]:
    if "subject_id" in row and "object_id" in row:
        subject_is_icd = "MONDO" in row["object_id"].upper()
        icd, mondo = (row["subject_id"], row["object_id"]) if subject_is_icd else (row["object_id"], row["subject_id"])
        predicate = re.split(r"[:/#]", row.get("predicate_id", "exactMatch"))[-1].lower()
        relation = (OF_SUBJECT_ICD if subject_is_icd else OF_SUBJECT_MONDO).get(predicate)
        if relation is None or row.get("predicate_modifier") or "icd" not in icd.lower():
            return
        version = ""
    else:
        column = _column(list(row), "icd")
        icd, mondo, relation = row[column], row[_column(list(row), "mondo")], EXACT
        version = next((each for each in ("9", "10") if each in (row.get("icd_version") or column)), "")
    prefix, code = _split_code(icd)
    code, term = code.replace(".", "").strip().upper(), DIGITS.search(mondo)
    if re.search("icd-?11|entity", prefix.lower()) or not code or term is None:
        return
    version = version or ("9" if "9" in prefix else "10" if "10" in prefix else "10" if code[0].isalpha() else "9")
    yield code, version, Disease(int(term.group(1)), relation)


def read_loinc_map(path: Path) -> dict[str, list[int]]:
    """LOINC code → HPO terms of its abnormal results, from the annotations of loinc2hpo or a table with such columns."""
    terms: dict[str, list[int]] = defaultdict(list)
    for row in read_rows(path, "loinc and hpo", lambda columns: _column(columns, "loinc") and _column(columns, "hpo")):
        is_normal = row.get("outcome", "").upper() in NORMAL_OUTCOMES or row.get("isNegated", "").lower() == "true"
        loinc, term = row[_column(list(row), "loinc")].rpartition(":")[2], DIGITS.search(row[_column(list(row), "hpo")])
        if loinc and term and not is_normal and int(term.group(1)) not in terms[loinc]:
            terms[loinc].append(int(term.group(1)))
    return dict(terms)


def read_labitem_map(path: Path) -> dict[str, str]:
    """Item of d_labitems → LOINC code, from MIMIC's d_labitems_to_loinc.csv or a table with columns itemid and loinc."""
    codes = {}

    def code_column(columns: Sequence[str]) -> str | None:
        return "omop_concept_code" if "omop_concept_code" in columns else _column(columns, "loinc")

    for row in read_rows(path, "itemid and loinc", lambda columns: _column(columns, "itemid") and code_column(columns)):
        if row.get("omop_vocabulary_id", "LOINC") == "LOINC" and (code := row[code_column(list(row))]):
            codes[row[_column(list(row), "itemid")]] = code.rpartition(":")[2]
    return codes


def read_rows(path: Path, expected: str, has_columns: Callable[[Sequence[str]], object]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV as text, after checking its columns; missing cells are empty."""
    import polars as pl

    require(path, "a code map", "docs/thinking_graph.md says where to download it")
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = next((line for line in file if not line.startswith("#")), "")
        separator = "\t" if "\t" in header else ","
        quote = None if separator == "\t" else '"'
        frame = pl.read_csv(path, separator=separator, comment_prefix="#", infer_schema=False, quote_char=quote)
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        raise UserError(f"{path}: expected a CSV or TSV in UTF-8, got a malformed file. Download it again.") from None
    if not has_columns(frame.columns):
        raise UserError(f"{path}: expected columns {expected}, got others. Choose another file, or rename the columns.")
    yield from frame.with_columns(pl.all().fill_null("").str.strip_chars()).iter_rows(named=True)
