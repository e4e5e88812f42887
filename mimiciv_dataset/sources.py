"""The inputs that several steps share, as `pipeline.provenance` records them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mimiciv_dataset.index_files import index_files
from pipeline.digests import content_digest, digest_lines
from pipeline.errors import UserError
from pipeline.provenance import Source, content_of, output_of
from pipeline.records import CONTENT, folder_record, read_record, record_path


def trajectories_source(folder: Path, verify: bool = False) -> Source:
    """The trajectories of a directory; released ones are of unknown origin."""
    return output_of("trajectories", folder, "preprocess/combination.py", verify=verify)


def index_mapping_source(folder: Path, verify: bool = False) -> Source:
    """The dictionaries and code maps, by the content of their files, because users add maps by hand."""
    return content_of("index_mapping", folder, is_ancestor=True, verify=verify)


def patients_source(path: Path | None, subject_ids: Collection[str], name: str = "patients") -> Source:
    """A list of patients, by its ids, whatever their order; `path` is None if they come from the trajectories."""
    return Source(name, path, digest_lines(subject_ids), is_ancestor=False, by="patients")


def index_sources(path: Path, name: str = "index", verify: bool = False) -> list[Source]:
    """A task index or sampled set (directory or CSV); a directory of sampled sets has one source for each of them.

    Released files have no record: they are identified by their content, and so is a file of an index, which has one record.
    """
    files, index = index_files(path), folder_record(path.parent)
    if path.is_file() and not record_path(path).exists() and path.name in (read_record(index) or {}).get("files", ()):
        source = output_of(name, path.parent, "mimiciv_dataset/task_sample_info_gen.py", is_ancestor=False, verify=verify)
        return [replace(source, path=path, digest=content_digest(path), by=CONTENT)]
    if record_path(path).exists():
        recorded = (read_record(record_path(path)) or {}).get("files")
        if path.is_dir() and recorded and (others := [file.name for file in files if file.name not in recorded]):
            got = f"{len(others):,} others ({others[0]})"
            raise UserError(f"{path}: expected only the index files of its record, got {got}. Move them to another directory.")
        return [output_of(name, path, "mimiciv_dataset/task_sample_info_gen.py", is_ancestor=False, verify=verify)]
    if path.is_dir() and any(record_path(file).exists() for file in files):
        return [source for file in files for source in index_sources(file, f"{name}/{file.name}", verify)]
    print(f"warning: {path}: its origin is unknown (no provenance), so whether it fits the other inputs is not checked.")
    return [content_of(name, path, verify=verify)]
