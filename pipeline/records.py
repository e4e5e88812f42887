"""Records of outputs, as `pipeline.provenance` writes them: where they are, and what they say.

Paths in a record are relative to its directory, so that a data directory can be moved as a whole.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.cli import ROOT_DIR
from pipeline.digests import content_digest, stamp_of
from pipeline.errors import UserError
from pipeline.files import read_json, sha256_file, write_json

RECORD, CONTENT = "record", "content"  # how an input is identified: by the digest in its record, by `content_digest`


def folder_record(folder: Path) -> Path:
    """Where the record of an output directory is."""
    return folder / "provenance.json"


def file_record(file: Path) -> Path:
    """Where the record of an output file is.

    >>> file_record(Path("sets/risk.csv")).as_posix()
    'sets/risk.provenance.json'
    """
    return file.with_suffix(".provenance.json")


def record_path(output: Path) -> Path:
    """Where the record of an existing output is, be it a directory or a file."""
    return folder_record(output) if output.is_dir() else file_record(output)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at `path` (`folder_record`, `file_record`), or None if there is none."""
    if not path.exists():
        return None
    record = read_json(path)
    kinds = {"step": str, "inputs": dict, "lineage": dict, "settings": dict, "files": dict}
    is_record = isinstance(record, dict) and "step" in record
    if not is_record or any(not isinstance(record[name], kind) for name, kind in kinds.items() if name in record):
        raise UserError(f"{path}: expected a record of a step, got other JSON. Remove the file, and make its output again.")
    for name, entry in record.get("inputs", {}).items():
        if not isinstance(entry, dict):  # written by version 0.1
            record["inputs"][name] = {"path": None, "digest": entry, "by": RECORD}
    return record


def digest_of(path: Path) -> str | None:
    """The digest in the record at `path`; None if there is no record or the output is not finished."""
    return (read_record(path) or {}).get("digest")


def require_complete(path: Path, made_by: str) -> dict[str, Any]:
    """The record at `path` of a finished output; an error if there is none, or the output is not finished."""
    record = read_record(path)
    if record is None or not record.get("complete"):
        got = "nothing there" if record is None else "an unfinished one"
        raise UserError(f"{path.parent}: expected the finished output of {made_by}, got {got}. Run {made_by} to its end.")
    return record


def differences(record: Mapping[str, Any], made_from: Mapping[str, Any]) -> list[str]:
    """The names of the inputs and settings that differ, and `step` or `rules` if these do.

    >>> before = {"rules": 1, "inputs": {"index": {"path": "all", "digest": "ab"}}, "settings": {}}
    >>> differences(before, {"rules": 2, "inputs": {"index": "cd"}})
    ['rules', 'index']
    """
    names = [name for name in ("step", "rules") if record.get(name) != made_from.get(name)]
    inputs = {name: entry["digest"] for name, entry in (record.get("inputs") or {}).items()}
    lineage = {name: entry["digest"] for name, entry in (record.get("lineage") or {}).items() if name not in inputs}
    pairs = (
        (inputs, made_from.get("inputs")),
        (lineage, made_from.get("lineage")),
        (record.get("settings"), made_from.get("settings")),
    )
    for before, now in ((before or {}, now or {}) for before, now in pairs):
        names += [name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name)]
    return names


# --- what an output was made from


@dataclass(frozen=True)
class Ancestor:
    """What an input was made from: its path, its digest then (None: unknown), and how that was computed (`Source.by`)."""

    path: Path | None
    digest: str | None
    by: str = RECORD


def origins(record: Mapping[str, Any], group: str, folder: Path) -> dict[str, Ancestor]:
    """The `inputs` or the `lineage` of a record in `folder`, to which the recorded paths are relative."""
    entries = (record.get(group) or {}).items()
    paths = {name: None if entry["path"] is None else _located(folder, entry["path"]) for name, entry in entries}
    return {name: Ancestor(paths[name], entry["digest"], entry["by"]) for name, entry in entries}


def _located(folder: Path, path: str) -> Path:
    """A path that is recorded relative to `folder`, or to where that is if a directory on the way to it is a link."""
    near, real = (Path(os.path.normpath(start / path)) for start in (folder, folder.resolve()))
    return near if near.resolve() == real.resolve() else real


def digest_now(origin: Ancestor) -> str | None:
    """The digest of what is at the path of an input now; None if nothing finished is there, or it has no record."""
    if origin.path is None or not origin.path.exists():
        return None
    if origin.by == CONTENT:
        return content_digest(origin.path)
    return digest_of(record_path(origin.path)) if origin.by == RECORD else None


def outdated(record: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of what changed since it was read, among the inputs of a record in `folder` and their inputs in turn."""
    for name, origin in (origins(record, "lineage", folder) | origins(record, "inputs", folder)).items():
        current = digest_now(origin)
        if None not in (current, origin.digest) and current != origin.digest:
            yield name, origin.path
        elif current is not None and origin.by == RECORD:
            path = record_path(origin.path)
            yield from outdated(read_record(path) or {}, path.parent)


def recorded_command(step: str, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """The command line of a step for a record in `folder`: `command`, and `root_dir`, relative to `folder`.

    Paths below the data directory begin with `{root}`, so that they follow it when it is moved.
    """
    words = ["--root_dir", ROOT_DIR]
    words += [part for word in arguments for part in (word.split("=", 1) if word.startswith("--root_dir=") else [word])]
    root = os.path.abspath(dict(pairwise(words))["--root_dir"])  # the last one counts

    def below_root(path: str) -> str:
        absolute = os.path.abspath(path)
        if absolute != root and not (os.sep in path and absolute.startswith(root + os.sep)):
            return path
        return "{root}" + absolute.removeprefix(root)

    recorded = []
    for word in arguments:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if flag not in ("--overwrite", "--verify"):
            recorded.append(flag + equals + ",".join(map(below_root, value.split(","))))
    return {"command": ["python", step, *recorded], "root_dir": os.path.relpath(os.path.realpath(root), folder.resolve())}


def command_of(record: Mapping[str, Any], folder: Path) -> str:
    """The command line of a record in `folder`, with paths as seen from the current directory."""
    root = _located(folder, record.get("root_dir") or ".")
    shown = min(os.path.relpath(root), os.path.normpath(root.absolute()), key=lambda text: text.startswith(".."))
    words = [word.replace("{root}", shown) for word in record.get("command") or ["python", record.get("step", "")]]
    default = ["--root_dir", os.path.normpath(ROOT_DIR)]
    at = next((number for number in range(len(words)) if words[number : number + 2] == default), None)
    return shlex.join(words if at is None else words[:at] + words[at + 2 :])


# --- the files of an output


def output_files(folder: Path) -> Iterator[Path]:
    """The files below a directory, by name, without hidden ones, records, and what another record is about."""
    others = files_of_other_outputs(folder)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith("provenance.json") or path in others:
            continue
        if not path.is_dir():
            yield path
        elif not folder_record(path).exists():
            yield from output_files(path)


def files_of_other_outputs(folder: Path, but: Path | None = None) -> set[Path]:
    """The records, except one, of output files in a directory, and the files that they are about."""
    records = {path for path in folder.glob("*.provenance.json") if not path.name.startswith(".")} - {but}
    files = {folder / name for path in records for name in (read_record(path) or {}).get("files") or ()}
    return files | records | {path for path in folder.iterdir() if path.is_file() and file_record(path) in records}


def fault_of_files(path: Path, record: Mapping[str, Any], verify: bool) -> str | None:
    """How the files of a finished output differ from its record at `path`; None if they do not.

    Files whose stamp changed are hashed; if their content is the same, as after copying them, the record gets the new stamps.
    """
    entries = record.get("files") or {}
    files = {name: path.parent / name for name in entries}
    if missing := [name for name, file in files.items() if not file.exists()]:
        return f"{len(missing):,} of {len(files):,} missing ({missing[0]})"
    touched = False
    for name, file in files.items():
        stamp, entry = stamp_of(file), entries[name]
        if stamp[0] != entry["stamp"][0]:
            return f"{name} with {stamp[0]:,} bytes instead of {entry['stamp'][0]:,}"
        if verify or stamp != entry["stamp"]:
            if sha256_file(file) != entry["sha256"]:
                return f"{name} with another content"
            touched = touched or stamp != entry["stamp"]
            entry["stamp"] = stamp
    if touched:
        with contextlib.suppress(OSError):  # others' files can be read-only
            write_json(path, record)
    return None
