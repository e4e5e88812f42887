"""The Rich Release Format (RRF) files of a UMLS install: columns, and checks that a file is complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.files import require

if TYPE_CHECKING:
    import polars as pl

COLUMNS = {
    "MRCONSO": ("CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR",
                "SRL", "SUPPRESS", "CVF"),
    "MRREL": ("CUI1", "AUI1", "STYPE1", "REL", "CUI2", "AUI2", "STYPE2", "RELA", "RUI", "SRUI", "SAB", "SL", "RG", "DIR",
              "SUPPRESS", "CVF"),
    "MRSTY": ("CUI", "TUI", "STN", "STY", "ATUI", "CVF"),
    "MRDOC": ("DOCKEY", "VALUE", "TYPE", "EXPL"),
}  # fmt: skip
"""Columns of the files; every field ends with a bar (UMLS Reference Manual, NBK9685)."""

CUI = r"^C\d{7}$"


def rrf_path(folder: Path, name: str) -> Path:
    """The path of an RRF file (a key of `COLUMNS`) of a UMLS install, after checking the number of its columns."""
    install = "set --umls_dir to the META directory that MetamorphoSys installs"
    path, expected = require(folder / f"{name}.RRF", "a file of the UMLS Metathesaurus", install), len(COLUMNS[name])
    with path.open(encoding="utf-8", errors="replace") as file:
        number = file.readline().count("|")
    if number != expected:
        raise UserError(f"{path}: expected {expected} columns, each ended by a bar, got {number}. Install UMLS again.")
    return path


def scan_rrf(folder: Path, name: str) -> pl.LazyFrame:
    """An RRF file as a lazy frame of text columns, after checking that every row is complete."""
    import polars as pl

    path = rrf_path(folder, name)
    has_flag = pl.col("SUPPRESS").is_in(["N", "O", "E", "Y"])
    is_complete = {
        "MRCONSO": pl.col("CUI").str.contains(CUI) & has_flag,
        "MRREL": pl.all_horizontal(pl.col("CUI1", "CUI2").str.contains(CUI)) & pl.col("REL").is_not_null() & has_flag,
        "MRSTY": pl.col("TUI").str.contains(r"^T\d{3}$"),
        "MRDOC": pl.col("TYPE").is_not_null(),
    }
    columns = [*COLUMNS[name], "_"]  # a bar ends the last field, too
    frame = pl.scan_csv(path, separator="|", has_header=False, quote_char=None, infer_schema=False, new_columns=columns)
    try:
        broken = frame.select((~is_complete[name]).fill_null(True).sum()).collect(engine="streaming").item()
    except pl.exceptions.ComputeError:
        raise UserError(f"{path}: expected an RRF file, got a malformed one. Copy the file again.") from None
    if broken:
        raise UserError(f"{path}: expected complete rows, got {broken:,} truncated or with other fields. Copy the file again.")
    return frame


def scan_english_terms(folder: Path) -> pl.LazyFrame:
    """The rows of MRCONSO with an English term that is not suppressed."""
    import polars as pl

    is_english = (pl.col("LAT") == "ENG") & (pl.col("SUPPRESS") == "N") & pl.col("STR").is_not_null()
    return scan_rrf(folder, "MRCONSO").filter(is_english)
