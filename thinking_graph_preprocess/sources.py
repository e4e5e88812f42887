"""The inputs that several steps of the thinking graph share, as `pipeline.provenance` records them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from mimiciv_dataset.lookups import Lookups, find_table
from pipeline.digests import FileDigests, content_digest, visible_files
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.provenance import Source, output_of, unknown_origin
from pipeline.records import CONTENT, read_record, record_path

DRUG_TABLES = {"hosp/prescriptions": "drug", "ed/medrecon": "name"}  # raw table with an NDC → its column of names
HETIONET_TABLES = [re.compile(rf"^(hetionet\S*-)?{name}(\.gz)?$") for name in (r"nodes\.tsv", r"edges\.sif")]

CLINICAL_DICTIONARIES = ("d_icd_diagnoses", "d_icd_procedures", "d_labitems", "d_items")  # of every release of MIMIC-IV


def warn_of_missing(lookups: Lookups) -> None:
    """Warn if there are not all of `CLINICAL_DICTIONARIES`, whose names a free lexicon or graph then lacks."""
    if missing := [name for name in CLINICAL_DICTIONARIES if lookups.path(name) is None]:
        got = f"expected the dictionaries of MIMIC-IV, got no {', '.join(missing)}, so their names are missing"
        print(f"warning: {lookups.folder}: {got}. Make them with preprocess/build_index_mapping.py.", file=sys.stderr)


def step_output(name: str, path: Path, made_by: str, *, is_ancestor: bool = True, verify: bool = False) -> Source:
    """The output of another step; one without a record is identified by its content, with a warning."""
    if read_record(record_path(path)) is not None:
        return output_of(name, path, made_by, is_ancestor=is_ancestor, verify=verify)
    return replace(unknown_origin(name, path, is_ancestor), digest=content_digest(path, verify), by=CONTENT)


def concepts_source(folder: Path, verify: bool = False) -> Source:
    """The output of concept_extraction.py."""
    return step_output("concepts", folder, "thinking_graph_preprocess/concept_extraction.py", verify=verify)


def lexicon_source(folder: Path, verify: bool = False) -> Source:
    """A lexicon of concept_extraction.py."""
    made_by = "thinking_graph_preprocess/concept_extraction.py"
    return step_output("lexicon", folder, made_by, is_ancestor=False, verify=verify)


def umls_source(folder: Path, files: Iterable[Path], digests: FileDigests) -> Source:
    """The files of a UMLS install that a step reads. They are large: their digests are cached."""
    return _files_source("umls", folder, files, digests)


def file_source(path: Path, name: str, digests: FileDigests) -> Source:
    """A large file without a record. Its digest is cached."""
    return replace(_files_source(name, path.parent, [path], digests), path=path)


def hetionet_source(folder: Path, digests: FileDigests) -> Source:
    """The tables of Hetionet. Their digests are cached."""
    return _files_source("hetionet", folder, hetionet_files(folder), digests)


def hetionet_files(folder: Path) -> tuple[Path, Path]:
    """The tables of nodes and edges of Hetionet, which can be gzipped, and whose names can begin with a version.

    Raises:
        UserError: the directory does not have both.
    """
    files = sorted(folder.glob("*"))
    paths = [next((path for path in files if pattern.search(path.name)), None) for pattern in HETIONET_TABLES]
    if None in paths:
        expected = "expected a directory with nodes.tsv and edges.sif.gz, which can begin with hetionet-v1.0-, got others"
        raise UserError(f"{folder}: {expected}. Download hetnet/tsv of https://github.com/hetio/hetionet.")
    return tuple(paths)


def drug_tables_source(mimic_dir: Path, digests: FileDigests) -> Source:
    """The raw tables that link names of drugs to their codes (`DRUG_TABLES`)."""
    return _files_source("drug_tables", mimic_dir, drug_tables(mimic_dir).values(), digests)


def drug_tables(mimic_dir: Path) -> dict[str, Path]:
    """The files that exist of `DRUG_TABLES`, with their column of names."""
    tables = {column: mimic_dir / table for table, column in DRUG_TABLES.items()}
    files = {column: find_table(path.parent, path.name) for column, path in tables.items()}
    return {column: path for column, path in files.items() if path}


def emergency_diagnoses(mimic_dir: Path) -> Path | None:
    """The raw table that links titles of the emergency department to ICD codes, if it exists."""
    return find_table(mimic_dir / "ed", "diagnosis")


def quickumls_source(folder: Path, digests: FileDigests) -> Source:
    """A QuickUMLS installation and the version of the package, without the files that LevelDB changes when it is opened."""
    files = (file for file in visible_files(folder) if file.parent.suffix != ".leveldb")
    source = _files_source("quickumls", folder, files, digests)
    return replace(source, digest=sha256(f"{source.digest} {version('quickumls')}"))


def _files_source(name: str, folder: Path, files: Iterable[Path], digests: FileDigests) -> Source:
    return Source(name, folder, digests.of_all(files, folder), is_ancestor=False, by="files")
