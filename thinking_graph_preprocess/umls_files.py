"""The Rich Release Format (RRF) files of a UMLS install: columns, and checks that a file is complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess.delimited_files import read_bytes

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


def find_rrf(folder: Path, name: str) -> Path:
    """Where an RRF file is, if it exists: `NAME.RRF`, or gzipped."""
    path = folder / f"{name}.RRF"
    return packed if not path.exists() and (packed := folder / f"{name}.RRF.gz").exists() else path


def rrf_path(folder: Path, name: str) -> Path:
    """The path of an RRF file (a key of `COLUMNS`) of a UMLS install, after checking the number of its columns."""
    install = "set --umls_dir to the META directory that MetamorphoSys installs"
    path = require(find_rrf(folder, name), "a file of the UMLS Metathesaurus", install)
    expected, number = len(COLUMNS[name]), next(read_bytes(path), b"").partition(b"\n")[0].count(b"|")
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
        broken = frame.with_row_index("row", 1).filter((~is_complete[name]).fill_null(True)).select(pl.len(), pl.min("row"))
        count, row = broken.collect(engine="streaming").row(0)
    except (pl.exceptions.ComputeError, OSError):  # the latter of truncated gzip data
        raise UserError(f"{path}: expected an RRF file, got a malformed one. Copy the file again.") from None
    if count:
        got = f"{count:,} truncated or with other fields"
        raise UserError(f"{path}, row {row:,}: expected complete rows, got {got}. Copy the file again.")
    return frame


def scan_english_terms(folder: Path) -> pl.LazyFrame:
    """The rows of MRCONSO with an English term that is not suppressed."""
    import polars as pl

    is_english = (pl.col("LAT") == "ENG") & (pl.col("SUPPRESS") == "N") & pl.col("STR").is_not_null()
    return scan_rrf(folder, "MRCONSO").filter(is_english)
