"""What all commands share: clear errors, default paths, atomic outputs, shared work, progress and summary lines."""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT_DIR = "./datas"
DATA_USE = "Made from MIMIC-IV data: use and sharing fall under the PhysioNet data use agreement of its source."


class UserError(Exception):
    """Something the user can put right; the message says which file, what was wanted, what was found, what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit: 0 or its return value; 2 on a `UserError`; 1 when the disk refuses."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away, as with `| head`
        sys.exit(1)
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again, it goes on where it was",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EROFS: "the folder is read-only; choose another output path",
            errno.EACCES: "no permission; check the folder's owner and mode, or choose another path",
            errno.EEXIST: "a file stands where a folder should be made; choose another path",
            errno.ENOTDIR: "a file stands where a folder should be; choose another path",
            errno.EPERM: "not permitted; check the folder's owner and mode, or choose another path",
        }
        if error.errno not in reasons:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}: {reasons[error.errno]}", file=sys.stderr)
        sys.exit(1)


# --- arguments


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser whose help shows the description as written, with `--root_dir`.

    A path flag added by `add_path` has its default below the root folder.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root_dir", default=ROOT_DIR, help=f"folder the other defaults follow from ({ROOT_DIR})")
    return parser


def add_path(parser: argparse.ArgumentParser, *flags: str, default: str, help: str) -> None:
    """Add a path flag whose default is `default` below `--root_dir`; read it with `paths`."""
    action = parser.add_argument(*flags, type=Path, default=None, help=f"{help} (ROOT_DIR/{default})")
    parser.set_defaults(**{f"_default_{action.dest}": default})


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and fill in the paths that follow from `--root_dir`.

    >>> p = parser("x")
    >>> add_path(p, "--ehr_dir", default="patients_ehr", help="trajectories")
    >>> parse(p, ["--root_dir", "d"]).ehr_dir.as_posix()
    'd/patients_ehr'
    >>> parse(p, ["--ehr_dir", "e"]).ehr_dir.as_posix()
    'e'
    """
    args = parser.parse_args(argv)
    for name, value in list(vars(args).items()):
        if name.startswith("_default_"):
            delattr(args, name)
            field = name.removeprefix("_default_")
            if getattr(args, field) is None:
                setattr(args, field, Path(args.root_dir) / value)
    return args


def add_chunks(parser: argparse.ArgumentParser) -> None:
    """Add `--chunk_num` and `--chunk_idx`, which split a command's work between processes or array tasks."""
    parser.add_argument("--chunk_num", type=int, default=1, help="split the work into so many interleaved chunks (1)")
    parser.add_argument("--chunk_idx", type=int, default=0, help="which of them to do, from 0 (0)")


def chunk(items: Sequence[T], chunk_num: int, chunk_idx: int) -> list[T]:
    """Every `chunk_num`-th item from `chunk_idx` on: the chunks cover all items, none twice.

    >>> [chunk(list("abcdefg"), 3, i) for i in range(3)]
    [['a', 'd', 'g'], ['b', 'e'], ['c', 'f']]
    """
    if not 0 <= chunk_idx < chunk_num:
        raise UserError(f"--chunk_idx {chunk_idx}: wanted a number from 0 to {chunk_num - 1} (--chunk_num {chunk_num})")
    return list(items[chunk_idx::chunk_num])


# --- files


def require(path: Path | str, what: str, fix: str) -> Path:
    """`path` if it exists; else a `UserError` naming what it should have been and how to get it."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: wanted {what}, found nothing there; {fix}")
    return path


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` when the block ends, removed when it fails.

    So a reader sees the whole output or none, and a killed run leaves nothing that looks finished.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """The same for a folder: the block fills a temporary one. What an interrupted run left is cleared first.

    Two processes must not make the same folder at once: hold a lock (`share_work` does).
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


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as readable JSON, atomically, keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a `UserError` says which file and where it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: wanted JSON, found something else: {error}") from None


def read_subject_ids(path: Path | str) -> list[str]:
    """The subject_id column of a CSV, as text, in file order.

    Raises:
        UserError: there is no such file or column.
    """
    path = require(path, "a CSV with a column subject_id", "make it with preprocess/split_patients.py")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "subject_id" not in (reader.fieldnames or []):
            found = ", ".join(reader.fieldnames or []) or "an empty file"
            raise UserError(f"{path}: wanted a column subject_id, found {found}")
        return [row["subject_id"] for row in reader]


def git_revision() -> str:
    """The revision of this checkout, `-dirty` if files differ, or `unknown` outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- sharing work between processes


def share_work(
    units: Sequence[T], done: Callable[[T], bool], do: Callable[[T], None], locks: Path, name: Callable[[T], str] = str
) -> None:
    """Do every unit that is not done, sharing them with any other process that runs the same command.

    A unit is done under a lock of its own in the folder `locks`; the lock is the operating system's, so it goes when
    its process dies, however it dies. Returns when all units are done, whoever did them; a unit whose process died
    is taken over.
    """
    from filelock import FileLock, Timeout

    locks.mkdir(parents=True, exist_ok=True)
    waiting = [unit for unit in units if not done(unit)]
    patience = 0.0
    while waiting:
        busy = []
        for unit in waiting:
            if done(unit):
                continue
            try:
                with FileLock(locks / f"{name(unit)}.lock", timeout=0 if unit is not waiting[0] else patience):
                    if not done(unit):
                        do(unit)
            except Timeout:
                busy.append(unit)
        waiting, patience = busy, 0.5


# --- progress and summary


def progress(iterable: Iterable[T] | None = None, *, total: int | None = None, desc: str, unit: str, **tqdm: Any) -> Any:
    """A tqdm bar with rate and ETA on stderr; in a log file, a line every half minute instead of many a second."""
    from tqdm import tqdm as bar

    return bar(
        iterable, total=total, desc=desc, unit=unit, unit_scale=True, dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 30, **tqdm,
    )  # fmt: skip


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Summary:
    """Counts what a command read, wrote and dropped, and prints the line that ends it."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.start = time.monotonic()

    def line(self, what: str, rows: int | None = None, unit: str = "records") -> str:
        """`what` with time, rate (if `rows` is given) and peak memory."""
        seconds = time.monotonic() - self.start
        rate = f", {rows / max(seconds, 1e-9):,.0f} {unit}/s" if rows else ""
        return f"{self.command}: {what}; {seconds:.1f} s{rate}, peak memory {peak_memory_mib():,.0f} MiB"

    def print(self, what: str, rows: int | None = None, unit: str = "records") -> None:
        print(self.line(what, rows, unit), flush=True)
