"""AHRQ's Clinical Classifications Software (CCS), single level: ICD-9 and ICD-10 codes → category names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import require

Row = tuple[str, str, str]

# A field of a CCS file: 'single-quoted', where the text may contain apostrophes and commas, "double-quoted", or plain.
_FIELD = re.compile(r"""\s*(?:'(.*?)'\s*(?=,\s*['"\d]|,?\s*$)|"((?:[^"]|"")*)"\s*(?=,|$)|([^,]*))(?:,|$)""")


def split_ccs_line(line: str) -> list[str]:
    '''The fields of a line of a CCS file, without quotation marks and padding.

    >>> split_ccs_line("""'4019 ','98   ','HTN','HYPERTENSION NOS',' ',' '""")
    ['4019', '98', 'HTN', 'HYPERTENSION NOS', '', '']
    >>> split_ccs_line("""'K5000','144','Crohn's disease, small intestine',"Regional enteritis, colitis" """)
    ['K5000', '144', "Crohn's disease, small intestine", 'Regional enteritis, colitis']
    '''
    line = line.strip()
    fields, position = [], 0
    while position < len(line):
        match = _FIELD.match(line, position)
        fields.append(next((group for group in match.groups() if group is not None), "").strip(" '\""))
        position = match.end()
    return fields


def read_ccs(path: Path, version: str) -> Iterator[Row]:
    """Yield (ICD code, category number, category name) for each line of a single-level CCS file for ICD "9" or "10".

    Lines above the header (titles, comments) and lines without a code are skipped.
    """
    require(path, f"AHRQ's single-level CCS file for ICD-{version}", "download it from hcup-us.ahrq.gov")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = path.read_text(encoding="cp1252", errors="replace").splitlines()
    body = iter(lines)
    for line in body:
        header = [name.upper() for name in split_ccs_line(line)]
        if "CCS CATEGORY" in header and "CCS CATEGORY DESCRIPTION" in header:
            break
    else:
        got = "CCSR, whose names differ" if "CCSR" in "".join(lines[:3]).upper() else "no such line"
        expected = "a header line with 'CCS CATEGORY' and 'CCS CATEGORY DESCRIPTION'"
        fix = "Download the single-level CCS file (not CCSR, not multi-level) from hcup-us.ahrq.gov"
        raise UserError(f"{path}: expected {expected}, got {got}. {fix}.")
    code_column = re.compile(rf"ICD-{version}-(CM|PCS) CODE")
    code_at = next((position for position, name in enumerate(header) if code_column.fullmatch(name)), None)
    if code_at is None:
        names = ", ".join(header)
        raise UserError(f"{path}: expected a column ICD-{version}-... CODE, got {names}. Check if two files were swapped.")
    category_at, name_at = header.index("CCS CATEGORY"), header.index("CCS CATEGORY DESCRIPTION")
    for line in body:
        fields = split_ccs_line(line)
        if len(fields) > max(code_at, category_at, name_at) and fields[code_at] and fields[name_at]:
            yield fields[code_at].replace(".", ""), fields[category_at], fields[name_at]


def ccs_rows(icd9: Iterable[Row], icd10: Iterable[Row]) -> list[Row]:
    """Rows of a CCS map: (code, version, category name).

    The ICD-9 file abbreviates names ("HTN"). A category has the same number in both files, so an ICD-9 code takes the full
    name from the ICD-10 file, and both versions share a vocabulary. A category that ICD-10 does not use keeps its short name.

    >>> ccs_rows([("4019", "98", "HTN"), ("7706", "224", "Oth perint")], [("I10", "98", "Essential hypertension")])
    [('4019', '9', 'Essential hypertension'), ('7706', '9', 'Oth perint'), ('I10', '10', 'Essential hypertension')]
    """
    icd10 = list(icd10)
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for _, category, name in icd10:
        names[category][name] += 1
    full = {category: min(counts, key=lambda name: (-counts[name], name)) for category, counts in names.items()}
    rows = {(code, "9"): full.get(category, name) for code, category, name in icd9}
    rows |= {(code, "10"): name for code, _, name in icd10}
    ordered = sorted(rows.items(), key=lambda row: (int(row[0][1]), row[0][0]))
    return [(code, version, name) for (code, version), name in ordered]
