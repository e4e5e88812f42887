"""Digests of files, directories and lists: what inputs and outputs are identified by."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.files import read_json, sha256, sha256_file, write_json

DIGESTS_CACHE = ".digests.json"  # a file for the cache of `FileDigests`


def stamp_of(file: Path) -> list[int]:
    """What changes whenever a file does: its size, and the times of its last changes in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class FileDigests:
    """SHA-256 digests of files, cached in a JSON file so that an unchanged file is hashed once.

    A cached digest is good while size and times of change of the file are the same. `verify` ignores the cache.
    """

    def __init__(self, cache: Path, verify: bool = False) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = read_json(cache) if cache.exists() and not verify else {}

    def of(self, path: Path) -> str:
        """The digest of a file."""
        stamp = stamp_of(path)
        *known, digest = self._known.get(str(path.resolve())) or [None]
        if digest is None or known != stamp:
            digest = sha256_file(path)
            self._known[str(path.resolve())] = [*stamp, digest]
            with contextlib.suppress(OSError):  # the directory can be read-only
                write_json(self._cache, self._known)
        return digest

    def of_all(self, files: Iterable[Path], folder: Path) -> str:
        """The digest of the contents of files, and of their names relative to `folder`."""
        return sha256(json.dumps([[file.relative_to(folder).as_posix(), self.of(file)] for file in files]))


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a directory, by name, without hidden ones and records."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from visible_files(path)
        elif not path.name.startswith(".") and not path.name.endswith("provenance.json"):
            yield path


def content_digest(path: Path, verify: bool = False) -> str:
    """The digest of the content of a file, or of the names and contents of the files of a directory, which may be missing."""
    if path.is_file():
        return sha256_file(path)
    return FileDigests(path / DIGESTS_CACHE, verify).of_all(visible_files(path) if path.exists() else (), path)


def digest_lines(lines: Iterable[str]) -> str:
    """A digest of a set of texts, whatever their order, such as a list of patients.

    >>> digest_lines(["2", "1"]) == digest_lines(["1", "2"])
    True
    """
    return sha256("\n".join(sorted(lines)))
