"""What a command prints: progress bars, tables, and the summary line that ends it."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

TABLE_WIDTH = 120  # columns of the terminal that a printed table takes at most


def progress(iterable: Iterable[T] | None = None, *, total: int | None = None, desc: str, unit: str, **options: Any) -> Any:
    """A tqdm bar with rate and ETA on standard error; in a log file, one line every half minute.

    Iterates over `iterable`; without one, the bar is advanced by `update`. `options` are further options of tqdm.
    """
    from tqdm import tqdm

    options |= {"unit_scale": True, "dynamic_ncols": True, "mininterval": 0.2 if sys.stderr.isatty() else 30}
    return tqdm(iterable, total=total, desc=desc, unit=unit, **options)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as aligned text, at most `TABLE_WIDTH` columns wide: the widest columns are wrapped if need be.

    Integers have thousands separators, None is an en dash; columns of numbers and percentages are aligned right.

    >>> print(format_table(["task", "rows", "used"], [["emar", 1200, "9.5%"], ["omr", None, "10.0%"]]))
    task   rows   used
    ----  -----  -----
    emar  1,200   9.5%
    omr       –  10.0%
    """
    import tabulate

    tabulate.MIN_PADDING = 0  # otherwise every header is two columns wider than its text
    columns = list(zip(*rows, strict=True)) or [()] * len(headers)
    alignment = ["right" if column and all(map(_is_number, column)) else "left" for column in columns]
    columns = [[header, *map(_cell, column)] for header, column in zip(headers, columns, strict=True)]
    widths = [max(1, *(len(line) for text in column for line in text.split("\n"))) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > TABLE_WIDTH:
        widths[widths.index(max(widths))] -= 1
    columns = [[_wrap(text, width) for text in column] for column, width in zip(columns, widths, strict=True)]
    headers, *cells = zip(*columns, strict=True)
    return tabulate.tabulate(cells, headers, disable_numparse=True, colalign=alignment)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(1200, "sample")
    ('1 run', '1,200 samples')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print `format_table`."""
    print(format_table(headers, rows), flush=True)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or str(value).removesuffix("%").replace(".", "", 1).isdecimal()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def peak_memory_mib() -> float:
    """Peak resident memory of the largest process of this command so far, in MiB."""
    import resource

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Summary:
    """The line that ends the command of this name: what it did, time, rate and peak memory. The clock starts now."""

    def __init__(self, command: str) -> None:
        self.command, self.start = command, time.monotonic()

    def print(self, text: str, count: int | None = None, unit: str = "records", file: TextIO | None = None) -> None:
        """Print `text` with the elapsed time and, if `count` is given, the rate in `unit` per second."""
        seconds = time.monotonic() - self.start
        rate = f", {count / max(seconds, 1e-9):,.0f} {unit}/s" if count else ""
        spent = f"{seconds:.1f} s{rate}, peak memory {peak_memory_mib():,.0f} MiB"
        print(f"{self.command}: {text}; {spent}", file=file, flush=True)
