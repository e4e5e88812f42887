"""Files that appear whole or not at all: atomic files and directories, JSON, and append-only JSONL logs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Line = dict[str, Any]  # of a JSONL log


def require(path: Path | str, expected: str, fix: str) -> Path:
    """Return `path` as a `Path`, or raise an error that says what was `expected` there and how to `fix` it."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: expected {expected}, got no such file or directory. {fix[:1].upper()}{fix[1:]}.")
    return path


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow about a file that is truncated, damaged or no Parquet file into one that names it.

    Raises:
        UserError: `path` cannot be read. Errors of the disk pass unchanged.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        got = "a truncated or damaged file, or another format"
        raise UserError(f"{path}: expected a Parquet file, got {got}. Copy or make it again.") from None


def remove_paths(folder: Path, paths: Iterable[Path]) -> None:
    """Remove files and directories below `folder`, then the directories above them that are empty, but not `folder`."""
    above = set()
    for path in paths:
        above |= {folder / parent for parent in path.relative_to(folder).parents} - {folder}
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for parent in sorted(above, reverse=True):  # a directory after those inside it
        with contextlib.suppress(OSError):  # not empty
            parent.rmdir()


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary file name to write to: renamed to `path` when the block ends, removed if it fails.

    A reader sees the whole file or none, and a killed process leaves nothing that looks finished.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")  # machines can share the directory
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """A temporary directory to fill: renamed to `path` when the block ends. Leftovers of a killed process are removed first.

    Two processes must not write the same directory at once; `pipeline.work.run_units` holds a lock for each unit.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def scratch_dir(path: Path) -> Iterator[Path]:
    """An empty directory for intermediate files, removed when the block ends. Leftovers of a killed process are removed first.

    Its path is that of one output. A second process that would use the same directory is an error.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        fix = "Wait until it ends, then run the same command again"
        raise UserError(f"{path}: expected no other process that makes the same output, got one. {fix}.") from None
    try:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # before its release: another process then cannot hold the same file
        lock.release()


# --- JSON


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically, keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file in UTF-8."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        reason = f"a syntax error in line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError:
        reason = "bytes that are not UTF-8"
    raise UserError(f"{path}: expected JSON, got {reason}. Fix or remove the file.")


# --- JSONL logs


def read_jsonl(path: Path) -> Iterator[tuple[int, Line]]:
    """Yield (offset in bytes, object) for each line of a log.

    Blank lines are skipped, and so is a truncated last line, as a killed writer leaves it. Other lines must be JSON objects.
    """
    offset = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            line = _json_object(data)
            if line is not None:
                yield offset, line
            elif data.strip() and data.endswith(b"\n"):
                raise UserError(f"{path}, line {number}: expected a JSON object, got something else. Remove the line.")
            offset += len(data)


def read_jsonl_line(path: Path, offset: int) -> Line:
    """The object at an offset that `read_jsonl` gave."""
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.readline())


@contextlib.contextmanager
def append_jsonl(path: Path) -> Iterator[Callable[[Line], None]]:
    """A function that appends one line to a log and flushes it, so that a killed process loses the current line only.

    A truncated last line of an earlier process is removed first. The file is locked by the operating system while the block
    runs, so that the lock disappears with its process; a second writer is an error.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0), path.open("a+b") as file:
            _repair_last_line(file)

            def append(line: Line) -> None:
                file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                file.flush()

            yield append
    except Timeout:
        fix = "Wait for it, or split the work with --chunk_num and --chunk_idx"
        raise UserError(f"{path}: expected no other process that writes to this file, got one. {fix}.") from None


def _repair_last_line(file: Any) -> None:
    """Complete or remove a last line without a line end."""
    file.seek(0)
    size = 0
    for data in file:
        if data.endswith(b"\n"):
            size += len(data)
        elif _json_object(data) is not None:  # whole, but written by a tool that omits the last line end
            file.write(b"\n")
            return
    file.truncate(size)


def _json_object(data: bytes) -> Line | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# --- digests


def sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, as hexadecimal digits.

    >>> sha256("")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of the content of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
