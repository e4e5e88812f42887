"""The command line of every script: flags, default paths, and how a command ends."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UserError

T = TypeVar("T")

ROOT_DIR = "./datas"
ENGINES = ("processes", "ray")
REPOSITORY = Path(__file__).resolve().parent.parent

# What to do about errors of the operating system that a user can fix; others keep their traceback.
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full. Free some space and run the same command again to resume",
    errno.EDQUOT: "the disk quota is exhausted. Free some space and run the same command again to resume",
    errno.EROFS: "the directory is read-only. Choose another output path",
    errno.EACCES: "permission denied. Check the owner and mode of the directory, or choose another path",
    errno.EEXIST: "a file exists where a directory is expected. Choose another path",
    errno.ENOTDIR: "a file exists where a directory is expected. Choose another path",
    errno.EPERM: "operation not permitted. Check the owner and mode of the directory, or choose another path",
}


def run(main: Callable[[], int | None], resume: str = "Run the same command again to resume.") -> None:
    """Run the `main` of a command and exit.

    Exit codes: what `main` returns (0 by default); 1 if the disk refuses or standard output is closed; 2 for a `UserError`
    or a missing package; 130 for Ctrl-C, and 143 for SIGTERM where a step finishes something first, with `resume`, which says
    how to continue. Errors that a user can fix are one line on standard error.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        message, code = f"error: {error}", 2
    except KeyboardInterrupt as error:  # its argument is the signal, if a step has caught it
        message, code = f"interrupted. {resume}", 128 + (error.args or (signal.SIGINT,))[0]
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or (REPOSITORY / package).exists() or (REPOSITORY / f"{package}.py").exists():
            raise
        message, code = f"error: {sys.executable}: the package {package} is not installed. {_how_to_activate()}", 2
    except BrokenPipeError:  # the reader of our output ended, as in `command | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        message, code = f"error: {where}{DISK_ERRORS[error.errno]}.", 1
    print(message, file=sys.stderr)
    sys.exit(code)


def _how_to_activate() -> str:
    environment = REPOSITORY / ".venv"
    activate = f"source {environment}/bin/activate"
    if environment.exists() and Path(sys.prefix).resolve() != environment:
        return f"Activate the environment: {activate}"
    return f"Create or update the environment: bash {REPOSITORY / 'scripts/setup_env.sh'}; then: {activate}"


class Parser(argparse.ArgumentParser):
    """An argument parser with `--root_dir`, default paths below it, and no guessing.

    Flags must be spelled out; for an unknown one the error suggests the closest. The help shows `description`, usually the
    docstring of the module, verbatim.

    >>> cli = Parser("Example.")
    >>> cli.add_path("--ehr_dir", default="patients_ehr", help="trajectories")
    >>> cli.parse_args(["--root_dir", "d"]).ehr_dir.as_posix()
    'd/patients_ehr'
    >>> cli.parse_args(["--ehr_dir", "e"]).ehr_dir.as_posix()
    'e'
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self._path_defaults: dict[str, str] = {}
        self.defaults_used: set[str] = set()  # the path flags that were not given
        self.arguments: list[str] = []  # the command line, for `pipeline.provenance.Provenance`
        self.add_argument("--root_dir", type=Path, default=Path(ROOT_DIR), help=f"where default paths start ({ROOT_DIR})")

    def add_path(self, *flags: str, default: str, help: str) -> None:
        """Add a path flag whose default is `default` below `--root_dir`."""
        action = self.add_argument(*flags, type=Path, help=f"{help} (ROOT_DIR/{default})")
        self._path_defaults[action.dest] = default

    def add_num_workers(self, *aliases: str) -> None:
        """Add `--num_workers` and `--engine`, for `pipeline.work.Workers`; `aliases` are older names of `--num_workers`."""
        text = "processes that share the work (1; with --engine ray, the CPUs of the cluster)"
        text += "".join(f"; {alias} is the same flag" for alias in aliases)
        self.add_argument("--num_workers", *aliases, type=at_least(1), metavar="N", help=text)
        self.add_engine()

    def add_engine(self) -> None:
        """Add `--engine`, which says where processes run."""
        text = "where processes run: on this machine, or (ray) on a Ray cluster, that of $RAY_ADDRESS (processes)"
        self.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=text)

    def add_rerun_flags(self) -> None:
        """Add `--overwrite` and `--verify`, for `pipeline.provenance.Provenance.begin`."""
        self.add_argument("--overwrite", action="store_true", help="make the output again, from the beginning")
        self.add_argument(
            "--verify", action="store_true", help="hash all files again, even if their size and times are the same"
        )

    def add_chunks(self) -> None:
        """Add `--chunk_num` and `--chunk_idx`; see `Chunk`."""
        self.add_argument("--chunk_num", type=at_least(1), default=1, metavar="N", help="split the work into N chunks (1)")
        self.add_argument("--chunk_idx", type=at_least(0), default=0, metavar="I", help="chunk to process, from 0 (0)")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As `argparse`, but an unknown flag is reported before missing ones."""
        arguments = sys.argv[1:] if args is None else [str(word) for word in args]
        check_flags(self, arguments)
        has_root = any(word.partition("=")[0] == "--root_dir" for word in arguments) or not Path(ROOT_DIR).exists()
        self.arguments = [*([] if has_root else ["--root_dir", ROOT_DIR]), *arguments]
        return super().parse_args(arguments, namespace)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As `argparse`, with default paths filled in."""
        parsed, rest = super().parse_known_args(args, namespace)
        self.defaults_used = {name for name in self._path_defaults if getattr(parsed, name) is None}
        for name in self.defaults_used:
            setattr(parsed, name, parsed.root_dir / self._path_defaults[name])
        return parsed, rest

    def error(self, message: str) -> None:
        """Exit with code 2 and one line."""
        self.exit(2, f"error: {message.rstrip('.')}{'' if message.endswith('?') else '.'} See {self.prog} --help.\n")


def check_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Report the first of `arguments` that looks like a flag but is none of the parser's, with the closest one that is."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in itertools.takewhile(lambda word: word != "--", arguments):
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            close = difflib.get_close_matches(flag, known, n=1)
            parser.error(f"unknown flag {flag}" + (f". Did you mean {close[0]}?" if close else ""))


# --- types of flags


def _number(convert: Callable[[str], T], is_valid: Callable[[T], bool], expected: str) -> Callable[[str], T]:
    def parse(text: str) -> T:
        with contextlib.suppress(ValueError):
            if is_valid(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")

    return parse


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `minimum`.

    >>> at_least(1)("0")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: expected a whole number of at least 1, got 0
    """
    return _number(int, lambda value: value >= minimum, f"a whole number of at least {minimum}")


def between(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number from `low` to `high`.

    >>> between(0, 1)("nan")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: expected a number from 0 to 1, got nan
    """
    return _number(float, lambda value: low <= value <= high, f"a number from {low:g} to {high:g}")


positive = _number(float, lambda value: 0 < value < float("inf"), "a number above 0")  # an argparse type


@dataclass(frozen=True)
class Chunk:
    """One of `number` interleaved parts of a command's work, for array jobs that write to a shared directory.

    >>> [Chunk(3, i).of(list("abcdefg")) for i in range(3)]
    [['a', 'd', 'g'], ['b', 'e'], ['c', 'f']]
    >>> Chunk(4, 2).path(Path("reasoning.jsonl")).name, Chunk().path(Path("reasoning.jsonl")).name
    ('reasoning-2-of-4.jsonl', 'reasoning.jsonl')
    """

    number: int = 1
    index: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.number:
            raise UserError(f"--chunk_idx: expected a number from 0 to {self.number - 1} (--chunk_num), got {self.index}.")

    def of(self, items: Sequence[T]) -> list[T]:
        """Every `number`-th item, starting at `index`: the chunks cover all items, none twice."""
        return list(items[self.index :: self.number])

    def path(self, path: Path) -> Path:
        """The output file of this chunk; `path` itself if there is one chunk only."""
        return path if self.number == 1 else path.with_name(f"{path.stem}-{self.index}-of-{self.number}{path.suffix}")


def chunk_paths(path: Path) -> list[Path]:
    """The existing output files of all chunks of `path`, and `path` itself, by name."""
    return sorted([*path.parent.glob(path.name), *path.parent.glob(f"{path.stem}-*-of-*{path.suffix}")])
