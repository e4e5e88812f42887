"""What an output was made from: inputs by content, settings, and the version of the rules.

A step claims its output before it writes the first file, and completes the record when everything is there:

    provenance = Provenance(folder_record(output), "rank", inputs={"patients": digest}, settings={}, rules=1)
    provenance.claim(change="--output_path")     # refuses an output that was started from something else
    ...                                          # the work, which can be killed and resumed
    provenance.complete(records=total)

The record is `provenance.json` in an output directory, or `NAME.provenance.json` beside an output file NAME.csv. Consumers
read it with `read_record` and name the output by `digest_of`. An output without a record (a released file) is of unknown
origin: both return None.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, sha256, sha256_file, write_json

RECORD = "provenance.json"


def folder_record(folder: Path) -> Path:
    """Where the record of an output directory is."""
    return folder / RECORD


def file_record(file: Path) -> Path:
    """Where the record of an output file is.

    >>> file_record(Path("sets/risk.csv")).as_posix()
    'sets/risk.provenance.json'
    """
    return file.with_suffix("." + RECORD)


@dataclass(frozen=True)
class Provenance:
    """The record of one output.

    Attributes:
        path: file of the record: `folder_record` or `file_record`.
        step: name of the step that makes the output.
        inputs: name → digest of the content of an input; None if its origin is unknown.
        settings: what else decides the result, as JSON values.
        rules: version of the step's rules, raised when the same inputs and settings give another result.
    """

    path: Path
    step: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: int = 1

    @property
    def made_from(self) -> dict[str, Any]:
        """What decides the result, as the record has it."""
        made_from = {"step": self.step, "rules": self.rules, "inputs": dict(self.inputs), "settings": dict(self.settings)}
        return json.loads(json.dumps(made_from, default=str))  # as it is read back: tuples are lists, paths are text

    @property
    def is_complete(self) -> bool:
        """Whether the record says that the output is finished."""
        record = read_record(self.path)
        return record is not None and bool(record.get("complete"))

    def claim(self, change: str, used: bool | None = None, unread: Collection[str] = ()) -> None:
        """Write the record of an output that is about to be made; do nothing if it was started from the same before.

        Args:
            change: the flag that chooses another output, for the error message.
            used: whether files of the output exist; None: whether a directory's has any, hidden ones aside.
            unread: inputs that nothing was made from yet, so that they may have changed since the output was started.

        Raises:
            UserError: the output was started from something else, or holds files without a record.
        """
        require_unused(self.path, self.step, change, used)
        record = read_record(self.path)
        different = [] if record is None else differences(record, self.made_from)
        if stale := [name for name in different if name not in unread]:
            raise UserError(
                f"{self.path}: expected the same {', '.join(stale)} as when {self.step} started this output, got others. "
                f"Remove the output to start afresh, or choose another {change}."
            )
        if record is None or different:
            write_json(self.path, self.made_from | {"complete": False, "code": git_revision()})

    def complete(self, digest: str | None = None, **results: Any) -> None:
        """Record that the output is finished.

        Args:
            digest: names the content of the output; by default that of inputs, settings and rules, which decide it.
            results: what else consumers and readers want to know, such as counts.
        """
        digest = digest or sha256(json.dumps(self.made_from, sort_keys=True))
        write_json(self.path, self.made_from | {"complete": True, "digest": digest, "code": git_revision()} | results)


def require_unused(path: Path, step: str, change: str, used: bool | None = None) -> None:
    """Refuse to write to a directory that holds files of unknown origin.

    Args:
        path: the record of the output that is about to be made.
        step, change: name of the step, and the flag that chooses another output, for the error message.
        used: as in `Provenance.claim`.

    Raises:
        UserError: there are files but no record.
    """
    if used is None:
        used = path.parent.exists() and any(not file.name.startswith(".") for file in path.parent.iterdir())
    if used and not path.exists():  # in this order: another process may claim the output at the same time
        raise UserError(
            f"{path}: expected the record of an output that {step} started, got files without a record. Remove them, or "
            f"choose another {change}."
        )


def differences(record: Mapping[str, Any], made_from: Mapping[str, Any]) -> list[str]:
    """The names of the inputs and settings that differ, `step` or `rules` if these do.

    >>> differences({"rules": 1, "inputs": {"index": "ab"}, "settings": {}}, {"rules": 2, "inputs": {"index": "cd"}})
    ['rules', 'index']
    """
    names = [name for name in ("step", "rules") if record.get(name) != made_from.get(name)]
    for group in ("inputs", "settings"):
        before, now = record.get(group) or {}, made_from.get(group) or {}
        names += [name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name)]
    return names


# --- consumers


def read_record(path: Path) -> dict[str, Any] | None:
    """The record at `path` (`folder_record`, `file_record`), or None if there is none.

    Raises:
        UserError: the file is not a record.
    """
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected a JSON object, got something else. Remove the file and its output.")
    return record


def digest_of(path: Path) -> str | None:
    """The digest in the record at `path`; None if there is no record or the output is not finished."""
    record = read_record(path)
    return None if record is None else record.get("digest")


def require_complete(path: Path, made_by: str) -> dict[str, Any]:
    """The record of a finished output.

    Raises:
        UserError: there is no record, or the output is not finished.
    """
    record = read_record(path)
    if record is None or not record.get("complete"):
        found = "nothing there" if record is None else "an unfinished one"
        raise UserError(f"{path.parent}: expected the finished output of {made_by}, got {found}. Run {made_by} to its end.")
    return record


class FileDigests:
    """SHA-256 digests of files, cached so that an unchanged file is hashed once.

    Size and modification time only tell whether a cached digest is still good; what counts is the content.

    Args:
        cache: JSON file to keep digests in.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = read_json(cache) if cache.exists() else {}

    def of(self, path: Path) -> str:
        """The digest of a file."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if known is None or known[:2] != stamp:
            known = self._known[str(path.resolve())] = [*stamp, sha256_file(path)]
            write_json(self._cache, self._known)
        return known[2]


def digest_lines(lines: list[str]) -> str:
    """A digest of a set of texts, whatever their order, such as a list of patients.

    >>> digest_lines(["2", "1"]) == digest_lines(["1", "2"])
    True
    """
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def git_revision() -> str:
    """The revision of this checkout, with `-dirty` if files differ from it; `unknown` outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
