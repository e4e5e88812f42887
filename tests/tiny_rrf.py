"""Writes a small UMLS folder (MRCONSO.RRF, MRSTY.RRF) by hand: the columns, orders and flags of a real one."""

from __future__ import annotations

from pathlib import Path

# CUI: semantic type, then terms, the preferred one first
CONCEPTS = {
    "C0004096": ("T047", "Asthma", "Bronchial asthma"),
    "C0008031": ("T184", "Chest pain", "Pain, chest", "Thoracic pain"),
    "C0011860": ("T047", "Diabetes mellitus, type 2", "Type 2 diabetes mellitus", "Type 2 diabetes"),
    "C0011849": ("T047", "Diabetes mellitus", "Diabetes"),
    "C0015967": ("T184", "Fever", "Pyrexia"),
    "C0018801": ("T047", "Heart failure", "Cardiac failure"),
    "C0018802": ("T047", "Congestive heart failure", "Heart failure, congestive"),
    "C0020538": ("T047", "Hypertensive disease", "Hypertension"),
    "C0032285": ("T047", "Pneumonia"),
    "C0004057": ("T121", "Aspirin", "Acetylsalicylic acid"),
    "C0021641": ("T121", "Insulin"),
    "C0042029": ("T047", "Urinary tract infection"),
    "C0030193": ("T184", "Pain"),
    "C0030705": ("T101", "Patient", "Sick person"),  # a semantic type that is left out
}


def write_rrf(folder: Path) -> Path:
    """Write the folder; besides `CONCEPTS` it has a suppressed, a foreign and an ambiguous term."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        mrconso(cui, term, preferred=i == 0, number=i)
        for cui, (_, *terms) in CONCEPTS.items()
        for i, term in reversed(list(enumerate(terms)))
    ]
    rows += [
        mrconso("C0018801", "Pump failure", suppress="O"),
        mrconso("C0018801", "Herzinsuffizienz", language="GER"),
        mrconso("C0020538", "Heart failure"),  # the concept with this preferred name has priority
    ]
    (folder / "MRCONSO.RRF").write_text("".join(rows), encoding="utf-8")
    kinds = [f"{cui}|{tui}|A1.2|Disease or Syndrome|AT1|256|\n" for cui, (tui, *_) in CONCEPTS.items()]
    (folder / "MRSTY.RRF").write_text("".join(kinds), encoding="utf-8")
    return folder


def mrconso(
    cui: str, term: str, preferred: bool = False, number: int = 9, language: str = "ENG", suppress: str = "N"
) -> str:  # fmt: skip
    ts, stt, is_preferred = ("P", "PF", "Y") if preferred else ("S", "VO", "N")
    ids = f"{cui[1:]}{number}"
    return (
        f"{cui}|{language}|{ts}|L{ids}|{stt}|S{ids}|{is_preferred}|A{ids}||M{ids}||MSH|PT|D{ids}|{term}|0|{suppress}|256|\n"
    )  # fmt: skip
