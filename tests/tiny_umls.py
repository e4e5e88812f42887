"""Writes small, valid UMLS folders in the Rich Release Format: names, hierarchy, other relations, their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thinking_graph_preprocess.umls_files import COLUMNS

Name = tuple[str, str]
Relation = tuple[str, str, str]

INVERSES = {
    "isa": "inverse_isa", "inverse_isa": "isa", "has_finding": "finding_of", "finding_of": "has_finding", "PAR": "CHD",
    "CHD": "PAR", "may_be_treated_by": "may_treat", "may_treat": "may_be_treated_by",
}  # fmt: skip


def row(file: str, **values: str) -> str:
    return "|".join([values.get(name, "") for name in COLUMNS[file]]) + "|\n"


def write_umls(
    folder: Path, names: Sequence[Name], relations: Sequence[Relation], inverses: dict[str, str] | None = None
) -> Path:
    """Write MRCONSO, MRREL, MRSTY and MRDOC.

    Args:
        names: (CUI, English name); the first of a CUI is its preferred one. Each also gets a Spanish and a suppressed name.
        relations: (subject CUI, relation, object CUI); written as rows whose CUI2 is the subject. Names in capitals are REL.
        inverses: relation → inverse, for MRDOC (`INVERSES`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    lines = []
    for number, (cui, name) in enumerate(names):
        first = cui not in seen
        seen.add(cui)
        atom = {"CUI": cui, "TS": "P" if first else "S", "STT": "PF", "ISPREF": "Y" if first else "N", "SAB": "TEST",
                "TTY": "PT", "LUI": f"L{number}", "SUI": f"S{number}", "AUI": f"A{number}", "CODE": cui}  # fmt: skip
        lines.append(row("MRCONSO", **atom, LAT="ENG", STR=name, SUPPRESS="N"))
        lines.append(row("MRCONSO", **atom, LAT="SPA", STR=f"{name} es", SUPPRESS="N"))
        lines.append(row("MRCONSO", **atom, LAT="ENG", STR=f"{name} obsolete", SUPPRESS="O"))
    (folder / "MRCONSO.RRF").write_text("".join(lines), encoding="utf-8")
    lines = []
    for subject, relation, thing in relations:
        named = {"REL": relation} if relation.isupper() else {"REL": "RO", "RELA": relation}
        lines.append(row("MRREL", CUI1=thing, CUI2=subject, SAB="TEST", SUPPRESS="N", **named))
    if relations:
        lines.append(row("MRREL", CUI1=relations[0][0], CUI2=relations[-1][2], REL="RO", RELA="obsolete", SUPPRESS="O"))
    (folder / "MRREL.RRF").write_text("".join(lines), encoding="utf-8")
    types = "".join(f"{cui}|T047|B2.2.1.2.1|Disease or Syndrome|AT1||\n" for cui in sorted(seen))
    (folder / "MRSTY.RRF").write_text(types, encoding="utf-8")
    table = INVERSES if inverses is None else inverses
    lines = [row("MRDOC", DOCKEY="REL" if name.isupper() else "RELA", VALUE=name, EXPL=other,
                 TYPE="rel_inverse" if name.isupper() else "rela_inverse") for name, other in table.items()]  # fmt: skip
    (folder / "MRDOC.RRF").write_text("".join(lines), encoding="utf-8")
    return folder
