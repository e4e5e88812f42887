"""What an output was made from: `provenance.json` in an output directory, or `NAME.provenance.json` beside NAME.csv.

    provenance = Provenance(folder_record(output), "rank", inputs={"patients": digest}, settings={"buckets": 8}, rules=1)
    provenance.claim("--output_path")     # before the first file of the output
    ...                                          # the work, which can be killed and resumed
    provenance.complete(records=total)           # after the last one

The record promises:

- It was written before the first file of the output. It names the inputs by the digest of their content (not by path or
  date), all settings that decide the result, and the version of the step's rules.
- The step refused to mix: an output is only resumed with the same inputs, settings and rules, and never started in a
  directory that holds files without a record.
- `complete` is true only if the output was finished. Then `digest` identifies the output (by its content where the step hashes
  it, otherwise by inputs, settings and rules, which decide the content), and results such as counts are there.
- Each consumer records the digest of what it read, so that equal digests along a chain of steps mean: made from this output.

An output without a record, such as a released file, is of unknown origin: `read_record` and `digest_of` return None.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, sha256, sha256_file, write_json


def folder_record(folder: Path) -> Path:
    """Where the record of an output directory is."""
    return folder / "provenance.json"


def file_record(file: Path) -> Path:
    """Where the record of an output file is.

    >>> file_record(Path("sets/risk.csv")).as_posix()
    'sets/risk.provenance.json'
    """
    return file.with_suffix(".provenance.json")


@dataclass(frozen=True)
class Provenance:
    """The record of one output.

    Attributes:
        path: file of the record: `folder_record` or `file_record`.
        step: name of the step that makes the output.
        inputs: name → digest of the content of an input; None if its origin is unknown.
        settings: what else decides the result, as JSON values.
        rules: version of the step's rules, incremented when a change of the code alters the result of the same inputs.
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
        return bool((read_record(self.path) or {}).get("complete"))

    def claim(self, flag: str, used: bool | None = None, unread: Collection[str] = ()) -> None:
        """Write the record of an output that is about to be made; do nothing if it was started from the same before.

        Args:
            flag: the flag that selects another output, for the error message.
            used: whether files of the output exist; None: whether a directory has any, hidden ones aside.
            unread: inputs that were not read yet, which may therefore differ from the record.

        Raises:
            UserError: the output was started from something else, or holds files without a record.
        """
        if used is None:
            folder = self.path.parent
            used = folder.exists() and any(not file.name.startswith(".") for file in folder.iterdir())
        record = read_record(self.path)  # read after listing the files, as another process may claim the output in between
        if used and record is None:
            fix = f"Remove the files, or choose another {flag}"
            raise UserError(f"{self.path}: expected a record of {self.step}, got files without a record. {fix}.")
        different = [] if record is None else differences(record, self.made_from)
        if stale := [name for name in different if name not in unread]:
            expected = f"the same {', '.join(stale)} as when {self.step} started this output"
            fix = f"Remove the output to start afresh, or choose another {flag}"
            raise UserError(f"{self.path}: expected {expected}, got others. {fix}.")
        if record is None or different:
            write_json(self.path, self.made_from | {"complete": False, "code": git_revision()})

    def complete(self, digest: str | None = None, **results: Any) -> None:
        """Record that the output is finished, and its results, such as counts.

        `digest` identifies the output; by default it is that of inputs, settings and rules.
        """
        digest = digest or sha256(json.dumps(self.made_from, sort_keys=True))
        write_json(self.path, self.made_from | {"complete": True, "digest": digest, "code": git_revision()} | results)


def differences(record: Mapping[str, Any], made_from: Mapping[str, Any]) -> list[str]:
    """The names of the inputs and settings that differ, and `step` or `rules` if these do.

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
    """The record at `path` (`folder_record`, `file_record`), or None if there is none."""
    record = read_json(path) if path.exists() else {}
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected a JSON object, got something else. Remove the file and its output.")
    return record or None


def digest_of(path: Path) -> str | None:
    """The digest in the record at `path`; None if there is no record or the output is not finished."""
    return (read_record(path) or {}).get("digest")


def require_complete(path: Path, made_by: str) -> dict[str, Any]:
    """The record of a finished output; an error if there is none, or the output is not finished."""
    record = read_record(path)
    if record is None or not record.get("complete"):
        got = "nothing there" if record is None else "an unfinished one"
        raise UserError(f"{path.parent}: expected the finished output of {made_by}, got {got}. Run {made_by} to its end.")
    return record


class FileDigests:
    """SHA-256 digests of files, cached so that an unchanged file is hashed once.

    A cached digest is good while size and modification time of the file are the same. The cache is a JSON file.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = read_json(cache) if cache.exists() else {}

    def of(self, path: Path) -> str:
        """The digest of a file."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        name = str(path.resolve())
        if self._known.get(name, [])[:2] != stamp:
            self._known[name] = [*stamp, sha256_file(path)]
            write_json(self._cache, self._known)
        return self._known[name][2]


def digest_lines(lines: list[str]) -> str:
    """A digest of a set of texts, whatever their order, such as a list of patients.

    >>> digest_lines(["2", "1"]) == digest_lines(["1", "2"])
    True
    """
    return sha256("\n".join(sorted(lines)))


def git_revision() -> str:
    """The revision of this checkout, with `-dirty` if files differ from it; `unknown` outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
