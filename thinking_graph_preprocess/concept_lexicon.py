"""The lexicon: terms → concepts, built once from a UMLS install or from the vocabulary at hand, memory-mapped after that.

From UMLS (`--umls_dir`, the folder with MRCONSO.RRF and MRSTY.RRF): its English terms that are not suppressed, of the kinds
of concept in `SEMANTIC_TYPES`. Without a licence: the names of `index_mapping/` (ICD, CCS, ATC, laboratory and ICU items) and
the drug names of `cache/item_set/`; each name is then its own concept, without a CUI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.lookups import DICTIONARIES, Lookups
from pipeline.errors import UserError
from pipeline.files import atomic_dir, require, write_json
from pipeline.progress import progress
from pipeline.work import share_work
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.term_search import PhraseTable, words_of

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

FORMAT = 1
"""Changes when the same sources give another lexicon."""

MIN_LETTERS = 3
"""Shorter terms ("as", "ca") are mostly other words."""

EVERYDAY = frozenset(
    words_of("""
        all also and any are been both but can cause change date day did does due each find for from had has have her him
        his how its left less like may more most name new non none normal not now off old one other our out over own past
        patient patients per positive present right see self she site status such than that the their them then there they
        this time today too two type unit use used value was well were what when which who will with year years yes you
    """)
)
"""Words that are no term by themselves, although a vocabulary may list them."""

SEMANTIC_TYPES = frozenset(
    words_of("""
        T019 T020 T033 T034 T037 T046 T047 T048 T049 T184 T190 T191
        T005 T007 T004 T204 T023 T029 T030 T031 T039 T040 T041 T201
        T109 T116 T121 T122 T125 T127 T129 T130 T131 T195 T196 T197 T200
        T058 T059 T060 T061 T074 T203
    """)
)
"""UMLS semantic types (TUI) of what a record is about: disorders and findings; organisms, body and its functions;
substances; care, tests, procedures and devices. Left out are ideas, places, people, times and the like."""

DRUG_TASKS = ("prescriptions", "emar", "medrecon", "pyxis")
"""Tasks whose answers are drug names, which no dictionary of MIMIC-IV lists."""

UMLS_FILES = ("MRCONSO.RRF", "MRSTY.RRF")
_MRCONSO = ("CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR",
            "SRL", "SUPPRESS", "CVF", "end")  # fmt: skip
_MRSTY = ("CUI", "TUI", "STN", "STY", "ATUI", "CVF", "end")


class Lexicon:
    """An open lexicon: `table` finds terms, `name` and `cui` say which concept a term stands for.

    Args:
        folder: what `find_or_build` returns. Its arrays are memory-mapped: all processes share one copy.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.folder = folder

        def load(name: str) -> np.ndarray:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        self.table = PhraseTable(load("keys"), load("concepts"))
        self._names, self._ends, self._cuis = load("names"), load("name_ends"), load("cuis")

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, concept: int) -> str:
        """The concept's preferred name, normalised."""
        start = self._ends[concept - 1] if concept else 0
        return self._names[start : self._ends[concept]].tobytes().decode()

    def cui(self, concept: int) -> str | None:
        return self._cuis[concept].decode() or None

    def of_term(self, term: str) -> int | None:
        """The concept with exactly this term, but for case, accents and punctuation."""
        concept = self.table.value(words_of(term))
        return None if concept < 0 else concept

    def of_cui(self, cui: str) -> int | None:
        """The concept with this CUI."""
        import numpy as np

        slot = int(np.searchsorted(self._cuis, cui.encode()))
        return slot if slot < len(self._cuis) and self._cuis[slot] == cui.encode() else None


def find_or_build(folder: Path, umls_dir: Path | None, index_mapping: Path, cache_dir: Path) -> Path:
    """The folder of the lexicon made from these sources, below `folder`; built first if need be, by one process.

    It is named by its sources' contents, so that another UMLS release or vocabulary makes another one.

    Raises:
        UserError: there are no sources, or they are not as they should be.
    """
    files = umls_files(umls_dir) if umls_dir else free_files(index_mapping, cache_dir)
    digest = hashlib.sha256(f"{FORMAT} {MIN_LETTERS} {sorted(EVERYDAY)} {sorted(SEMANTIC_TYPES)}".encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    name = f"{'umls' if umls_dir else 'free'}-{digest.hexdigest()[:12]}"

    def build(_: str) -> None:
        concepts = umls_concepts(umls_dir) if umls_dir else free_concepts(Lookups(index_mapping), files)
        number = write(folder / name, *concepts, {"sources": [str(path) for path in files]})
        print(f"lexicon: {number['terms']:,} terms of {number['concepts']:,} concepts → {folder / name}", flush=True)

    share_work([name], lambda name: (folder / name).is_dir(), build, folder / ".locks")
    return folder / name


def write(folder: Path, names: Sequence[tuple[str, str]], terms: Iterable[tuple[str, int]], about: dict) -> dict[str, int]:
    """Write a lexicon; return how many terms and concepts it has.

    Args:
        names: (preferred name, CUI or "") of each concept, by CUI.
        terms: (term, number of its concept); where two have the same words the first one counts.
        about: said in about.json.
    """
    import numpy as np

    table = PhraseTable.build(
        (words, concept) for term, concept in progress(terms, desc="lexicon", unit="term") if usable(words := words_of(term))
    )
    encoded = [normalise(name).encode() for name, _ in names]
    arrays = {
        "keys": table.keys,
        "concepts": table.values,
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
        "cuis": np.array([cui for _, cui in names], "S8"),
    }
    count = {"terms": int((table.values >= 0).sum()), "concepts": len(encoded)}
    with atomic_dir(folder) as temporary:
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", values)
        write_json(temporary / "about.json", {**count, **about})
    return count


def usable(words: Sequence[str]) -> bool:
    """Whether words make a term: not too short, not only numbers, not an everyday word.

    >>> [usable(words_of(term)) for term in ("Pain", "As", "24", "the", "B12", "type 2", "other time")]
    [True, False, False, False, True, False, False]
    """
    letters = sum(len(word) for word in words if not word.isdecimal())
    return letters >= MIN_LETTERS and not all(word.isdecimal() or word.lower() in EVERYDAY for word in words)


# --- the vocabulary at hand


def free_files(index_mapping: Path, cache_dir: Path) -> list[Path]:
    """The files that name things without a licence.

    Raises:
        UserError: there is none.
    """
    lookups = Lookups(index_mapping)
    files = [path for name in DICTIONARIES if (path := lookups.path(name))]
    files += [path for task in DRUG_TASKS if (path := cache_dir / "item_set" / f"{task}.csv").exists()]
    if not files:
        raise UserError(
            f"{index_mapping}: wanted dictionaries such as hosp/d_icd_diagnoses.csv to make a lexicon of, found none; make "
            "them with preprocess/build_index_mapping.py, or give a UMLS install with --umls_dir"
        )
    return files


def free_concepts(lookups: Lookups, files: Sequence[Path]) -> tuple[list[tuple[str, str]], Iterator[tuple[str, int]]]:
    """Concepts and terms for `write`: every name is a concept of its own."""
    from mimiciv_dataset.candidates import Candidates

    found = {normalise(name) for dictionary in DICTIONARIES for name in lookups.dictionary(dictionary).values()}
    for path in files:
        if path.parent.name == "item_set":
            vocabulary = Candidates(path.parent.parent).vocabulary(path.stem)
            found.update(map(normalise, vocabulary.items))
    names = sorted(found - {""})
    return [(name, "") for name in names], ((name, number) for number, name in enumerate(names))


# --- UMLS


def umls_files(folder: Path) -> list[Path]:
    """MRCONSO.RRF and MRSTY.RRF of a UMLS install.

    Raises:
        UserError: one is missing, or has other columns.
    """
    files = []
    for name, columns in zip(UMLS_FILES, (_MRCONSO, _MRSTY), strict=True):
        path = require(folder / name, f"a UMLS release file ({', '.join(UMLS_FILES)})", "give the folder with the RRF files")
        with path.open(encoding="utf-8", errors="replace") as file:
            found = file.readline().count("|")
        if found != len(columns) - 1:
            raise UserError(f"{path}: wanted {len(columns) - 1} fields, each ended by |, found {found}; is it whole and RRF?")
        files.append(path)
    return files


def scan_rrf(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    import polars as pl

    return pl.scan_csv(
        path, separator="|", has_header=False, quote_char=None, infer_schema=False, new_columns=list(columns)
    )  # fmt: skip


def check_rows(frame: pl.LazyFrame, whole: pl.Expr, path: Path) -> None:
    """Raise a `UserError` if rows of an RRF file are not as `whole` says: cut off, or with a field too many."""
    import polars as pl

    try:
        broken = frame.select((~whole).fill_null(True).sum()).collect(engine="streaming").item()
    except pl.exceptions.ComputeError as error:
        raise UserError(f"{path}: wanted an RRF file, found: {str(error).splitlines()[0][:120]}; copy it again") from None
    if broken:
        raise UserError(f"{path}: wanted whole rows, found {broken:,} that are cut off or have other fields; copy it again")


def umls_concepts(folder: Path) -> tuple[list[tuple[str, str]], Iterator[tuple[str, int]]]:
    """Concepts and terms for `write`. A term of several concepts goes to one it is the preferred name of, then by CUI.

    Raises:
        UserError: a file has broken rows, or no English term.
    """
    import polars as pl

    preferred = (pl.col("TS") == "P") & (pl.col("STT") == "PF") & (pl.col("ISPREF") == "Y")
    terms, kinds = scan_rrf(folder / "MRCONSO.RRF", _MRCONSO), scan_rrf(folder / "MRSTY.RRF", _MRSTY)
    check_rows(terms, pl.col("SUPPRESS").is_in(["N", "O", "E", "Y"]), folder / "MRCONSO.RRF")
    check_rows(kinds, pl.col("TUI").str.contains(r"^T\d{3}$"), folder / "MRSTY.RRF")
    clinical = kinds.filter(pl.col("TUI").is_in(list(SEMANTIC_TYPES))).select("CUI").unique()
    rows = (
        terms.filter((pl.col("LAT") == "ENG") & (pl.col("SUPPRESS") == "N") & pl.col("STR").is_not_null())
        .join(clinical, on="CUI", how="semi", maintain_order="left")
        .select("CUI", pl.col("STR").str.strip_chars(), other=~preferred)
        .collect(engine="streaming")
        .sort("CUI", "other", maintain_order=True)
    )
    if rows.is_empty():
        raise UserError(
            f"{folder}: wanted English terms of clinical concepts, found none; was the subset made with English sources?"
        )
    names = rows.group_by("CUI", maintain_order=True).first()
    rows = rows.with_columns(concept=pl.col("CUI").rle_id()).sort("other", "concept", maintain_order=True)
    return names.select("STR", "CUI").rows(), rows.select("STR", "concept").iter_rows()
