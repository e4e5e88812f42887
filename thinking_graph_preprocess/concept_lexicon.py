"""The lexicon, which maps terms to concepts: built once from UMLS or free vocabularies, then memory-mapped.

From UMLS (`--umls_dir`, the directory with MRCONSO.RRF and MRSTY.RRF): English terms that are not suppressed, of the semantic
types in `SEMANTIC_TYPES`. Without a licence: the names in `index_mapping/` (ICD, CCS, ATC, laboratory and ICU items) and the
drug names in `cache/item_set/`; each name is a concept of its own, without a CUI, and has further terms by the rules and the
table of `title_rules`.

A term of a few capitals is an acronym, which is found only where it is written in capitals: "AIDS" is not in "hearing aids".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.lookups import DICTIONARIES, Lookups
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_dir, require, sha256, write_json
from pipeline.progress import progress
from pipeline.provenance import Provenance, Source, content_of
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.sources import lexicon_source, umls_source, warn_of_missing
from thinking_graph_preprocess.term_search import COLON, PARAGRAPH, PhraseTable, hashes, leftmost, position_of, words_of
from thinking_graph_preprocess.title_rules import JUNK, NAMES_FILE, clinical_names, variants
from thinking_graph_preprocess.umls_files import rrf_path, scan_english_terms, scan_rrf

if TYPE_CHECKING:
    import numpy as np

# Of concept_extraction.py, for its lexicon and its concepts: raised when the same sources give others.
STEP, RULES = "thinking_graph_preprocess/concept_extraction.py", 4
MIN_LETTERS = 3  # least number of letters of a term: shorter ones ("as", "ca") mostly mean something else
ARRAYS = ("keys", "concepts", "names", "name_ends", "cuis")  # files of a lexicon
MAX_ACRONYM = 5  # largest number of letters of an acronym: longer words in capitals are other names
ACRONYM = "="  # before the word of an acronym in the table of terms, which no word of a text has
CODE_SYSTEMS = ("d_icd_diagnoses", "d_icd_procedures", "d_ccs_diagnoses", "d_ccs_procedures")
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


@dataclass(frozen=True)
class Lexicon:
    """Terms and their concepts, which are numbers. `read` maps the lexicon of a directory, so that all processes share it."""

    table: PhraseTable
    names: np.ndarray  # UTF-8 bytes of the preferred names
    name_ends: np.ndarray  # where each name ends
    cuis: np.ndarray  # (n,) ascending CUIs, or empty

    @classmethod
    def read(cls, folder: Path) -> Lexicon:
        """The lexicon in a directory of `find_or_build`, memory-mapped."""
        import numpy as np

        require(folder / "keys.npy", "a lexicon", "concept_extraction.py makes one in evidence_datas/lexicon/")
        keys, concepts, *arrays = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS)
        return cls(PhraseTable(keys, concepts), *arrays)

    @classmethod
    def of_terms(cls, terms: Sequence[str]) -> Lexicon:
        """A lexicon in which each of some terms is a concept of its own."""
        return cls.build([(term, "") for term in terms], ((words_of(term), i) for i, term in enumerate(terms)))

    @classmethod
    def build(cls, names: Sequence[tuple[str, str]], terms: Iterable[tuple[Sequence[str], int]]) -> Lexicon:
        """A lexicon of (preferred name, CUI or "") of each concept, and (words of a term, concept)."""
        import numpy as np

        table = PhraseTable.build((_key(words), concept) for words, concept in terms)
        encoded = [name.encode() for name, _ in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(table, np.frombuffer(b"".join(encoded), np.uint8), ends, np.array([cui for _, cui in names], "S8"))

    def __len__(self) -> int:
        return len(self.name_ends)

    def name(self, concept: int) -> str:
        """The preferred name of a concept."""
        start = self.name_ends[concept - 1] if concept else 0
        return self.names[start : self.name_ends[concept]].tobytes().decode()

    def cui(self, concept: int) -> str | None:
        """The CUI of a concept, if it has one."""
        return self.cuis[concept].decode() or None

    def of_term(self, term: str) -> int | None:
        """The concept with this term; case, accents and punctuation are ignored, but not the case of an acronym."""
        words = words_of(term)
        concepts = (self.table.value(key) for key in dict.fromkeys((tuple(_key(words)), tuple(words))))
        return next((concept for concept in concepts if concept >= 0), None)

    def of_cui(self, cui: str) -> int | None:
        """The concept with this CUI."""
        return position_of(cui.encode(), self.cuis)

    def find(self, words: Sequence[str], hashed: np.ndarray) -> list[tuple[int, int, int]]:
        """The terms in a text, given by its words and their hashes, as (start, end, concept): leftmost, then longest.

        >>> lexicon = Lexicon.of_terms(["AIDS", "hearing", "displaced fracture", "fracture"])
        >>> def found(text):
        ...     return [lexicon.name(concept) for *_, concept in lexicon.find(text.split(), hashes(text.split()))]
        >>> found("hearing aids"), found("AIDS since 1990"), found("non displaced fracture")
        (['hearing'], ['AIDS'], ['fracture'])
        """
        terms = {term[0]: term for term in self.table.matches(hashed)}
        capitals = [i for i, word in enumerate(words) if is_acronym([_singular(word)])]
        concepts = self.table.values_of(hashes(ACRONYM + _singular(words[i]) for i in capitals)) if capitals else ()
        for i, concept in zip(capitals, concepts, strict=True):
            if concept >= 0 and (i not in terms or terms[i][1] == i + 1) and not _is_heading(words, i):
                terms[i] = i, i + 1, int(concept)
        chosen = []
        for start, end, concept in leftmost(terms[i] for i in sorted(terms)):
            if end - start > 1 and start and words[start - 1].lower() == "non":  # "non-displaced fracture"
                rest = [term for i in range(start + 1, end) if (term := terms.get(i)) and term[1] == end]
                chosen += rest[:1] or [(start, end, concept)]
            else:
                chosen.append((start, end, concept))
        return chosen


def is_acronym(words: Sequence[str]) -> bool:
    """Whether a term is one word of a few capitals.

    >>> [is_acronym(words_of(term)) for term in ("PE", "DM2", "T", "Pain", "ASPIRIN", "PE protocol", "24")]
    [True, True, False, False, False, False, False]
    """
    return len(words) == 1 and 2 <= len(words[0]) <= MAX_ACRONYM and words[0].isupper()


def _key(words: Sequence[str]) -> Sequence[str]:
    """The words that a term is filed under."""
    return [ACRONYM + words[0]] if is_acronym(words) else words


def _singular(word: str) -> str:
    """An acronym without the ending of the plural ("DVTs")."""
    return word[:-1] if word[-1] == "s" and len(word) > 2 and word[:-1].isupper() else word


def _is_heading(words: Sequence[str], i: int) -> bool:
    """Whether an acronym is a heading rather than a diagnosis: "PE:" begins the physical examination."""
    return words[i] == "PE" and words[i + 1 : i + 2] == [COLON] and (i == 0 or words[i - 1] == PARAGRAPH)


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
    settings = {"min_letters": MIN_LETTERS, "everyday": sorted(EVERYDAY), "junk": sorted(JUNK)}
    settings["clinical_names"] = sha256(NAMES_FILE.read_text(encoding="utf-8"))
    settings["semantic_types"] = sorted(SEMANTIC_TYPES)
    record = Provenance(folder, STEP, sources, settings, RULES, arguments, flag="--lexicon_dir")
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

    named = [(normalise(name), cui) for name, cui in names]
    phrases = ((words_of(term), concept) for term, concept in progress(terms, desc="lexicon", unit="term"))
    lexicon = Lexicon.build(named, phrases)
    arrays = (lexicon.table.keys, lexicon.table.values, lexicon.names, lexicon.name_ends, lexicon.cuis)
    counts = {"terms": int((lexicon.table.values >= 0).sum()), "concepts": len(lexicon)}
    with atomic_dir(folder) as temporary:
        for name, values in zip(ARRAYS, arrays, strict=True):
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


def usable(terms: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Of terms (term, concept) those that are usable."""
    return ((term, concept) for term, concept in terms if is_usable(words_of(term)))


# --- free vocabularies


def free_files(index_mapping: Path, cache_dir: Path) -> list[Path]:
    """The dictionaries and drug vocabularies that exist, which must be at least one."""
    lookups = Lookups(index_mapping)
    files = [path for name in DICTIONARIES if (path := lookups.path(name))]
    files += [path for task in DRUG_TASKS if (path := cache_dir / "item_set" / f"{task}.csv").exists()]
    if not files:
        expected = "expected dictionaries such as hosp/d_icd_diagnoses.csv, got none"
        fix = "Run preprocess/build_index_mapping.py, or use UMLS with --umls_dir (--text can also use --terms)"
        raise UserError(f"{index_mapping}: {expected}. {fix}.")
    warn_of_missing(lookups)
    return files


def free_concepts(lookups: Lookups, files: Sequence[Path]) -> tuple[list[tuple[str, str]], Iterator[tuple[str, int]]]:
    """Concepts and terms for `write_lexicon`: every name is a concept of its own."""
    from mimiciv_dataset.candidates import Candidates

    names: dict[str, str] = {}  # normalised → as written
    for dictionary in DICTIONARIES:
        names |= {normalise(name): name for name in lookups.dictionary(dictionary).values()}
    for path in files:
        if path.parent.name == "item_set":
            names |= {normalise(name): name for name in Candidates(path.parent.parent).vocabulary(path.stem).items}
    names.pop("", None)
    concepts = sorted(names)
    return [(name, "") for name in concepts], free_terms(concepts, names, _coded_titles(lookups))


def _coded_titles(lookups: Lookups) -> dict[str, str]:
    """The titles of codes, normalised, each with the version of ICD: rules apply to them alone."""
    return {
        normalise(title): version
        for dictionary in CODE_SYSTEMS
        for (_, version), title in sorted(lookups.dictionary(dictionary).items(), key=lambda item: item[0][1], reverse=True)
    }


def free_terms(concepts: Sequence[str], names: dict[str, str], titles: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Yield (term, concept): names, then clinical names of them, then terms by rule.

    Of several titles with a term by rule the least changed counts, then one of ICD-10, then the shortest.
    """
    number = {name: i for i, name in enumerate(concepts)}
    yield from _not_junk((names[name], i) for name, i in number.items())
    yield from ((name, number[title]) for name, title in _clinical_names() if title in number)
    terms = [
        (rank, titles[name] != "10", len(name), name, term)
        for name in concepts
        if name in titles
        for rank, term in variants(names[name])
        if rank
    ]
    yield from _not_junk((term, number[name]) for *_, name, term in sorted(terms))


def _not_junk(terms: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    return ((term, concept) for term, concept in usable(terms) if " ".join(words_of(term)).lower() not in JUNK)


def _clinical_names() -> Iterator[tuple[str, str]]:
    return ((name, normalise(title)) for name, title in clinical_names())


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
    return names.select("STR", "CUI").rows(), usable(rows.select("STR", "concept").iter_rows())
