"""The lexicon, which maps terms to concepts: built once from UMLS or free vocabularies, then memory-mapped.

From UMLS (`--umls_dir`, the directory with MRCONSO.RRF and MRSTY.RRF): English terms that are not suppressed, of the semantic
types in `SEMANTIC_TYPES`. Without a licence: the names in `index_mapping/` (ICD, CCS, ATC, laboratory and ICU items) and the
drug names in `cache/item_set/`; each name is a concept of its own, without a CUI.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mimiciv_dataset.lookups import DICTIONARIES, Lookups
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_dir, require, sha256, write_json
from pipeline.progress import progress
from pipeline.provenance import Provenance, Source, content_of
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.sources import lexicon_source, umls_source
from thinking_graph_preprocess.term_search import PhraseTable, position_of, words_of
from thinking_graph_preprocess.umls_files import rrf_path, scan_english_terms, scan_rrf

FORMAT = 1  # version of the rules: raised when the same sources give another lexicon
MIN_LETTERS = 3  # least number of letters of a term: shorter ones ("as", "ca") mostly mean something else
DRUG_TASKS = ("prescriptions", "emar", "medrecon", "pyxis")  # their answers are drug names, which no dictionary lists

# Everyday words, which are not terms by themselves although a vocabulary may list them.
EVERYDAY = frozenset(
    words_of("""
        all also and any are been both but can cause change date day did does due each find for from had has have her him
        his how its left less like may more most name new non none normal not now off old one other our out over own past
        patient patients per positive present right see self she site status such than that the their them then there they
        this time today too two type unit use used value was well were what when which who will with year years yes you
    """)
)

# UMLS semantic types (TUI) of clinical concepts: disorders and findings; organisms, anatomy and physiology; substances; care,
# tests, procedures and devices. Ideas, places, people, times and the like are left out.
SEMANTIC_TYPES = words_of("""
    T019 T020 T033 T034 T037 T046 T047 T048 T049 T184 T190 T191
    T005 T007 T004 T204 T023 T029 T030 T031 T039 T040 T041 T201
    T109 T116 T121 T122 T125 T127 T129 T130 T131 T195 T196 T197 T200
    T058 T059 T060 T061 T074 T203
""")


class Lexicon:
    """The lexicon in a directory of `find_or_build`, memory-mapped, so that all processes share one copy.

    Concepts are numbers; `table` finds the terms of a text and gives their concepts.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        require(folder / "keys.npy", "a lexicon", "concept_extraction.py makes one in evidence_datas/lexicon/")
        files = (folder / f"{name}.npy" for name in ("keys", "concepts", "names", "name_ends", "cuis"))
        keys, concepts, *arrays = (np.asarray(np.load(file, mmap_mode="r")) for file in files)
        self.table = PhraseTable(keys, concepts)
        self._names, self._ends, self._cuis = arrays

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, concept: int) -> str:
        """The preferred name of a concept, normalised."""
        start = self._ends[concept - 1] if concept else 0
        return self._names[start : self._ends[concept]].tobytes().decode()

    def cui(self, concept: int) -> str | None:
        """The CUI of a concept, if it has one."""
        return self._cuis[concept].decode() or None

    def of_term(self, term: str) -> int | None:
        """The concept with this term; case, accents and punctuation are ignored."""
        concept = self.table.value(words_of(term))
        return None if concept < 0 else concept

    def of_cui(self, cui: str) -> int | None:
        """The concept with this CUI."""
        return position_of(cui.encode(), self._cuis)


def lexicon_sources(
    folder: Path, umls_dir: Path | None, index_mapping: Path, cache_dir: Path, verify: bool = False
) -> list[Source]:
    """The files that a lexicon below `folder` is made from: UMLS, or else dictionaries and drug vocabularies."""
    if umls_dir:
        files = [rrf_path(umls_dir, name) for name in ("MRCONSO", "MRSTY")]
        return [umls_source(umls_dir, files, FileDigests(folder / DIGESTS_CACHE, verify))]
    return [content_of(_source_name(path), path) for path in free_files(index_mapping, cache_dir)]


def _source_name(path: Path) -> str:
    return f"item_set/{path.stem}" if path.parent.name == "item_set" else path.name.partition(".")[0]


def lexicon_record(folder: Path, sources: Sequence[Source], arguments: Sequence[str] = ()) -> tuple[Provenance, str]:
    """The record of the lexicon of some sources, and its digest.

    The name of its directory, below `folder`, contains the digest: another UMLS release or vocabulary gets a lexicon of its
    own, and none is ever outdated.
    """
    sources = [replace(source, by="files") for source in sources]
    settings = {"format": FORMAT, "min_letters": MIN_LETTERS, "everyday": sorted(EVERYDAY)}
    settings["semantic_types"] = sorted(SEMANTIC_TYPES)
    step = "thinking_graph_preprocess/concept_extraction.py"
    record = Provenance(folder, step, sources, settings, arguments=arguments, flag="--lexicon_dir")
    digest = sha256(json.dumps(record.made_from, sort_keys=True))
    kind = "umls" if sources[0].name == "umls" else "free"
    return replace(record, output=folder / f"{kind}-{digest[:12]}"), digest


def find_or_build(folder: Path, umls_dir: Path | None, index_mapping: Path, cache_dir: Path) -> Path:
    """The directory of the lexicon of some sources, below `folder`, which is built if it does not exist."""
    record, digest = lexicon_record(folder, lexicon_sources(folder, umls_dir, index_mapping, cache_dir))
    return build_lexicon(record, digest, index_mapping)


def build_lexicon(record: Provenance, digest: str, index_mapping: Path, verify: bool = False) -> Path:
    """The directory of a lexicon (`lexicon_record`), which is built if it does not exist."""
    folder = record.output
    unit = Unit(folder.name, lambda: record.is_complete, partial(_build, record, digest, index_mapping))
    run_units([unit], folder.parent / ".locks", desc="lexicon", unit="lexicon")
    lexicon_source(folder, verify)  # refuses one whose files were changed
    return folder


def _build(record: Provenance, digest: str, index_mapping: Path, tick: Tick) -> None:
    umls = {source.name: source.path for source in record.sources}.get("umls")
    files = [source.path for source in record.sources]
    concepts = umls_concepts(umls) if umls else free_concepts(Lookups(index_mapping), files)
    shutil.rmtree(record.output, ignore_errors=True)  # of a killed run, or of version 0.1
    write_lexicon(record.output, *concepts, {"sources": [str(path) for path in files]})
    record.complete(digest)


def write_lexicon(folder: Path, names: Sequence[tuple[str, str]], terms: Iterable[tuple[str, int]], about: dict) -> None:
    """Write a lexicon. Its numbers of terms and concepts go to about.json, and with them `about`.

    Args:
        names: (preferred name, CUI or "") of each concept, by CUI.
        terms: (term, number of its concept); of terms with the same words the first counts.
    """
    import numpy as np

    phrases = ((words_of(term), concept) for term, concept in progress(terms, desc="lexicon", unit="term"))
    table = PhraseTable.build((words, concept) for words, concept in phrases if is_usable(words))
    encoded = [normalise(name).encode() for name, _ in names]
    arrays = {
        "keys": table.keys,
        "concepts": table.values,
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
        "cuis": np.array([cui for _, cui in names], "S8"),
    }
    counts = {"terms": int((table.values >= 0).sum()), "concepts": len(encoded)}
    with atomic_dir(folder) as temporary:
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", values)
        write_json(temporary / "about.json", counts | about)
    print(f"lexicon: {counts['terms']:,} terms of {counts['concepts']:,} concepts → {folder}", flush=True)


def is_usable(words: Sequence[str]) -> bool:
    """Whether words make a term: not too short, not only numbers or everyday words.

    >>> [is_usable(words_of(term)) for term in ("Pain", "As", "24", "the", "B12", "type 2", "other time")]
    [True, False, False, False, True, False, False]
    """
    letters = sum(len(word) for word in words if not word.isdecimal())
    return letters >= MIN_LETTERS and not all(word.isdecimal() or word.lower() in EVERYDAY for word in words)


# --- free vocabularies


def free_files(index_mapping: Path, cache_dir: Path) -> list[Path]:
    """The dictionaries and drug vocabularies that exist, which must be at least one."""
    lookups = Lookups(index_mapping)
    files = [path for name in DICTIONARIES if (path := lookups.path(name))]
    files += [path for task in DRUG_TASKS if (path := cache_dir / "item_set" / f"{task}.csv").exists()]
    if not files:
        expected = "expected dictionaries such as hosp/d_icd_diagnoses.csv, got none"
        raise UserError(f"{index_mapping}: {expected}. Run preprocess/build_index_mapping.py, or use UMLS with --umls_dir.")
    return files


def free_concepts(lookups: Lookups, files: Sequence[Path]) -> tuple[list[tuple[str, str]], Iterator[tuple[str, int]]]:
    """Concepts and terms for `write_lexicon`: every name is a concept of its own."""
    from mimiciv_dataset.candidates import Candidates

    normalised = {normalise(name) for dictionary in DICTIONARIES for name in lookups.dictionary(dictionary).values()}
    for path in files:
        if path.parent.name == "item_set":
            normalised.update(map(normalise, Candidates(path.parent.parent).vocabulary(path.stem).items))
    names = sorted(normalised - {""})
    return [(name, "") for name in names], ((name, number) for number, name in enumerate(names))


# --- UMLS


def umls_concepts(folder: Path) -> tuple[list[tuple[str, str]], Iterator[tuple[str, int]]]:
    """Concepts and terms for `write_lexicon`.

    A term of several concepts goes to a concept that it is the preferred name of, else to the one with the lowest CUI.
    """
    import polars as pl

    preferred = (pl.col("TS") == "P") & (pl.col("STT") == "PF") & (pl.col("ISPREF") == "Y")
    terms, semantic_types = scan_english_terms(folder), scan_rrf(folder, "MRSTY")
    clinical = semantic_types.filter(pl.col("TUI").is_in(SEMANTIC_TYPES)).select("CUI").unique()
    terms = terms.join(clinical, on="CUI", how="semi", maintain_order="left")
    rows = terms.select("CUI", pl.col("STR").str.strip_chars(), other=~preferred).collect(engine="streaming")
    rows = rows.sort("CUI", "other", maintain_order=True)
    if rows.is_empty():
        raise UserError(f"{folder}: expected English terms of clinical concepts, got none. Add English sources to the subset.")
    names = rows.group_by("CUI", maintain_order=True).first()
    rows = rows.with_columns(concept=pl.col("CUI").rle_id()).sort("other", "concept", maintain_order=True)
    return names.select("STR", "CUI").rows(), rows.select("STR", "concept").iter_rows()
