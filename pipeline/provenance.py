"""What an output was made from: `provenance.json` in an output directory, or `NAME.provenance.json` beside NAME.csv.

    sources = [output_of("merged", merged_dir, "preprocess/merge_patient.py", verify=args.verify)]
    provenance = Provenance(output, "preprocess/rank.py", sources, settings={"buckets": 8}, rules=1, arguments=cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):  # before the first file of the output
        return                                             # it is up to date
    ...                                                    # the work, which can be killed and resumed
    provenance.complete(records=total)                     # after the last file

The record promises:

- It was written before the first file of the output. It names the inputs by the digest of their content (not by path or
  date), all settings that decide the result, and the version of the step's rules.
- The step refused to mix: an output is only resumed with the same inputs, settings and rules, and never started in a
  directory that holds files without a record. What exists is replaced with --overwrite only.
- `complete` is true only if the output was finished. Then `files` has size and SHA-256 of each of its files, and `digest`
  identifies the output. A file that was changed, truncated or removed later is noticed by whoever reads the output.
- `lineage` has the digests of what the inputs were made from in turn. A step whose inputs were made from different versions
  of something refuses to run, and so does one whose input was made from an older version of what is on disk now.

An output without a record, such as a released file, is of unknown origin: its consumers say so and go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.digests import DIGESTS_CACHE, content_digest, stamp_of
from pipeline.errors import UserError
from pipeline.files import remove_paths, sha256, sha256_file, write_json
from pipeline.records import (
    CONTENT,
    RECORD,
    Ancestor,
    command_of,
    differences,
    fault_of_files,
    file_record,
    files_of_other_outputs,
    folder_record,
    origins,
    outdated,
    output_files,
    read_record,
    record_path,
    recorded_command,
)

# --- inputs


@dataclass(frozen=True)
class Source:
    """An input of a step.

    Attributes:
        name: what records call it; the same artefact has the same name in all records.
        path: file or directory.
        digest: identifies its content; None if that is unknown.
        lineage: what it was made from, by name.
        is_ancestor: whether everything made from this input must agree on it, as on trajectories. Of other inputs, such as
            lists of patients, a project has several.
        by: how the digest was computed: `RECORD`, `CONTENT`, or the name of another way, which this module does not know.
        command: the command that made it, if that is known.
    """

    name: str
    path: Path | None
    digest: str | None
    lineage: Mapping[str, Ancestor] = field(default_factory=dict)
    is_ancestor: bool = True
    by: str = RECORD
    command: str = ""

    @property
    def itself(self) -> Ancestor:
        return Ancestor(self.path, self.digest, self.by)

    @property
    def ancestors(self) -> dict[str, Ancestor]:
        """The lineage of an output made from this input."""
        return {**self.lineage, self.name: self.itself} if self.is_ancestor else dict(self.lineage)


def output_of(
    name: str, path: Path, made_by: str, *, is_ancestor: bool = True, verify: bool = False, unfinished: bool = False
) -> Source:
    """The output of another step as an input.

    Args:
        name, path, is_ancestor: as of `Source`; `path` is a directory or a file.
        made_by: the script that makes it, for error messages.
        verify: hash all its files, instead of those only whose size or time of change differs from the record.
        unfinished: accept an unfinished output, whose digest is None.

    Raises:
        UserError: the output is unfinished, files of it are missing or changed, or it was made from an older version of
            something that was made again since.
    """
    record = read_record(record_path(path))
    if record is None:
        return unknown_origin(name, path, is_ancestor)
    source = _recorded(name, path, record, is_ancestor)
    again = f"Run {source.command or made_by}"
    if not record.get("complete") and not unfinished:
        raise UserError(f"{path}: expected a finished output of {made_by}, got an unfinished one. {again} to its end.")
    if fault := fault_of_files(record_path(path), record, verify):
        writer = record.get("step") or made_by
        raise UserError(f"{path}: expected the files that {writer} wrote, got {fault}. {again} --overwrite.")
    for name_of_input, changed in dict(outdated(record, record_path(path).parent)).items():
        if name_of_input in source.lineage:
            made = f"made from {changed} ({name_of_input}), got an output of an older version"
            raise UserError(f"{path}: expected to be {made}. {again} --overwrite.")
        print(f"warning: {path} was made from an older version of {changed} ({name_of_input}).")
    return source


def _recorded(name: str, path: Path, record: Mapping[str, Any], is_ancestor: bool) -> Source:
    folder = record_path(path).parent
    lineage, command = origins(record, "lineage", folder), command_of(record, folder)
    return Source(name, path, record.get("digest"), lineage, is_ancestor, command=command)


def unknown_origin(name: str, path: Path, is_ancestor: bool = True) -> Source:
    """An input without a record, such as a released file, with a warning."""
    print(f"warning: {path}: its origin is unknown (no provenance), so whether it fits the other inputs is not checked.")
    return Source(name, path, None, is_ancestor=is_ancestor)


def content_of(name: str, path: Path, *, is_ancestor: bool = False, verify: bool = False) -> Source:
    """A file, or all files of a directory, as an input that is identified by its content alone.

    For what users write or change by hand, and for files without a record. Hidden files and records do not count. Digests of
    a directory's files are cached in it, so that unchanged ones are hashed once; `verify` hashes them again.
    """
    return Source(name, path, content_digest(path, verify), is_ancestor=is_ancestor, by=CONTENT)


def check_sources(sources: Iterable[Source]) -> None:
    """Check that inputs were made from the same version of whatever several of them were made from."""
    seen: dict[str, tuple[Source, Ancestor]] = {}
    for source in sorted(sources, key=lambda source: len(source.lineage)):  # an artefact before what is made from it
        for name, ancestor in source.ancestors.items():
            other, expected = seen.setdefault(name, (source, ancestor))
            if None not in (ancestor.digest, expected.digest) and ancestor.digest != expected.digest:
                same = f"from {other.path} ({name})" if name == other.name else f"from the same {name} as {other.path}"
                fix = f"Run {source.command} --overwrite" if source.command else "Use files that belong together"
                raise UserError(f"{source.path}: expected to be made {same}, got one made from another version. {fix}.")


# --- the record of an output


@dataclass(frozen=True)
class Provenance:
    """The record of one output.

    Attributes:
        output: the output directory or file.
        step: script that makes the output, such as `preprocess/rank.py`.
        sources: the inputs.
        settings: what else decides the result, as JSON values.
        rules: version of the step's rules, incremented when a change of the code alters the result of the same inputs.
        arguments: the command line (`pipeline.cli.Parser.arguments`), for messages.
        is_file: whether the output is a file, with others beside it perhaps, instead of a directory.
        flag: the flag that selects another output, for messages.
        written: lists what the step writes into an output directory in which people keep files of their own, such as that of
            a model. --overwrite removes these only; None: all files of the directory are the step's.
    """

    output: Path
    step: str
    sources: Sequence[Source] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: int = 1
    arguments: Sequence[str] = ()
    is_file: bool = False
    flag: str = "--output_path"
    written: Callable[[Path], Iterable[Path]] | None = None

    @property
    def path(self) -> Path:
        """The file of the record."""
        return file_record(self.output) if self.is_file else folder_record(self.output)

    @property
    def lineage(self) -> dict[str, Ancestor]:
        return {name: ancestor for source in self.sources for name, ancestor in source.ancestors.items()}

    @property
    def made_from(self) -> dict[str, Any]:
        """What decides the result, as `differences` compares it."""
        inputs = {source.name: source.digest for source in self.sources}
        lineage = {name: ancestor.digest for name, ancestor in self.lineage.items() if name not in inputs}
        made_from = {
            "step": self.step,
            "rules": self.rules,
            "inputs": inputs,
            "lineage": lineage,
            "settings": dict(self.settings),
        }
        return json.loads(json.dumps(made_from, default=str))  # as it is read back: tuples are lists, paths are text

    @property
    def is_complete(self) -> bool:
        """Whether the record says that the output is finished."""
        return bool((read_record(self.path) or {}).get("complete"))

    def begin(
        self,
        overwrite: bool = False,
        verify: bool = False,
        *,
        used: bool | None = None,
        unread: Collection[str] = (),
        extend: bool = False,
        keep: bool = False,
    ) -> bool:
        """Claim an output that is about to be made, or resumed; False if it is up to date, and says so.

        Of several processes that share one output, only the first may be started with --overwrite.

        Args:
            overwrite: remove what exists, and start afresh (--overwrite).
            verify: hash the files of a finished output again (--verify).
            used: whether files of the output exist; None: whether a directory has any, or the file exists.
            unread: inputs that were not read yet, which may therefore differ from the record of an unfinished output.
            extend: whether more is to be added to the output even if it was finished.
            keep: whether the step calls `claim` before it writes the files, all at its end. What exists stays until then.

        Raises:
            UserError: the inputs do not fit each other, or the output was started from something else, holds files without a
                record, or was changed since it was finished.
        """
        check_sources(self.sources)
        self.check_output()
        record = read_record(self.path)
        if overwrite and keep:
            return True
        if (overwrite and (self.is_file or record is not None)) or (record or {}).get("removing"):
            self.remove()  # or end the removal of a run with --overwrite that was killed
            used = False
        if used is None:
            used = self.output.exists() and (self.is_file or any(output_files(self.output)))
        record = read_record(self.path)  # read after listing the files, as another process may claim the output in between
        again = f"To make it again, add --overwrite, or choose another {self.flag}"
        if used and record is None:
            fix = again if self.is_file else f"Remove them, or choose another {self.flag}"
            raise UserError(f"{self.output}: expected a record of {self.step}, got files without a record. {fix}.")
        finished = record is not None and record.get("complete")
        if record is None or not (used or finished or self._has_parts()):
            if not keep:
                self.claim()
            return True
        different = differences(record, self.made_from)
        if stale := [name for name in different if finished or name not in unread]:
            paths = {source.name: source.path for source in self.sources}
            names = ", ".join(f"{name} ({paths[name]})" if paths.get(name) else name for name in stale)
            begun = "made" if finished else "begun"
            raise UserError(f"{self.output}: expected the same {names} as when it was {begun}, got another version. {again}.")
        if extend or not finished:
            if (different or finished) and not keep:
                self.claim()
            return True
        if fault := fault_of_files(self.path, record, verify):
            raise UserError(f"{self.output}: expected the files that {self.step} wrote, got {fault}. {again}.")
        print(f"{Path(self.step).stem}: {self.output} is up to date")
        return False

    def claim(self) -> None:
        """Record that the output is being written from these inputs and settings."""
        self._write({"complete": False})

    def _has_parts(self) -> bool:
        """Whether a directory holds hidden files of an unfinished output, other than locks and caches."""
        known = {self.path.name, ".locks", DIGESTS_CACHE}
        return not self.is_file and any(path.name not in known for path in self.output.iterdir())

    def check_output(self) -> None:
        """Check that the output, which may be removed, is neither an input nor the output of another step."""
        got, step = None, (read_record(self.path) or {}).get("step") or self.step
        if any(source.path is not None and source.path.resolve() == self.output.resolve() for source in self.sources):
            got = "an input"
        elif Path(step).stem != Path(self.step).stem:
            got = f"one of {step}"
        elif self.is_file and self.output.is_dir():
            got = "a directory"
        elif self.is_file and self.output.exists():
            folder = self.output.parent
            of_folder = (read_record(folder_record(folder)) or {}).get("files") or ()
            if self.output.name in of_folder or self.output in files_of_other_outputs(folder, but=self.path):
                got = "a file of another output"
        if got:
            raise UserError(f"{self.output}: expected an output of {self.step}, got {got}. Choose another {self.flag}.")

    def remove(self) -> None:
        """Remove the output and its record; outputs inside its directory that have records of their own stay.

        Raises:
            UserError: a finished output consisted of all files in its directory, and now there are others; or an input is
                among what would be removed.
        """
        record = read_record(self.path) or {}
        if self.is_file:
            files = record.get("files") or {self.output.name: {}}
            # so that the next run does not take what is left for its own
            self._write({"complete": False, "removing": True, "files": files})
            for name in files:
                (self.path.parent / name).unlink(missing_ok=True)
        elif self.written:
            paths = list(self.written(self.output))
            real_paths = [path.parent.resolve() / path.name for path in paths]
            for source in [source.path for source in self.sources if source.path is not None]:
                real = source.resolve()
                if any(path.is_relative_to(real) or real.is_relative_to(path) for path in real_paths):
                    got = f"an input there ({source})"
                    raise UserError(f"{self.output}: expected to remove an output, got {got}. Choose another {self.flag}.")
            self._write({"complete": False, "removing": True})
            remove_paths(self.output, paths)
        else:
            names = [file.relative_to(self.output).as_posix() for file in output_files(self.output)]
            known = record["files"] if record.get("complete") and record.get("all_files") else names
            if others := [name for name in names if name not in known]:
                got = f"{len(others):,} other files ({others[0]})"
                fix = f"Move them, or choose another {self.flag}"
                raise UserError(f"{self.output}: expected only files that {self.step} wrote, got {got}. {fix}.")
            self._write({"complete": False, "removing": True})
            _remove_output(self.output)
        self.path.unlink(missing_ok=True)

    def complete(self, digest: str | None = None, files: Iterable[Path] | None = None, **results: Any) -> None:
        """Record that the output is finished, its files, and its results, such as counts.

        Args:
            digest: identifies the output; by default that of `made_from` and all files.
            files: the files of the output; by default the file, or all files of the directory but hidden ones.
        """
        all_files = files is None and not self.is_file  # whether the directory holds nothing else
        if files is None:
            files = [self.output] if self.is_file else output_files(self.output)
        entries = {file.relative_to(self.path.parent).as_posix(): _entry(file) for file in files}
        content = [[name, entry["sha256"]] for name, entry in entries.items()]
        digest = digest or sha256(json.dumps([self.made_from, content], sort_keys=True))
        about_files = {"all_files": all_files, "files": entries}
        self._write({"complete": True, "digest": digest, **results, **about_files})

    def _write(self, state: Mapping[str, Any]) -> None:
        folder = self.path.parent.resolve()

        def located(origin: Ancestor) -> dict[str, Any]:
            path = origin.path and os.path.relpath(origin.path.resolve(), folder)
            return {"path": path, "digest": origin.digest, "by": origin.by}

        made_from = self.made_from
        made_from["inputs"] = {source.name: located(source.itself) for source in self.sources}
        made_from["lineage"] = {name: located(ancestor) for name, ancestor in self.lineage.items()}
        about = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "code": git_revision()}
        write_json(self.path, made_from | about | recorded_command(self.step, self.arguments, folder) | dict(state))


def _remove_output(folder: Path) -> None:
    """Remove what is in a directory, but its record and outputs inside that have records of their own."""
    keep = {folder_record(folder), *files_of_other_outputs(folder)}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if not folder_record(path).exists():
                _remove_output(path)
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
        elif path not in keep:
            path.unlink()


def _entry(file: Path) -> dict[str, Any]:
    return {"stamp": stamp_of(file), "sha256": sha256_file(file)}


def git_revision() -> str:
    """The revision of this checkout, with `-dirty` if files differ from it; `unknown` outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
