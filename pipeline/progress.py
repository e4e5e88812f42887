"""What a command prints: progress bars, tables, and the summary line that ends it."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

TABLE_WIDTH = 120
"""Columns of the terminal that a printed table takes at most."""


def progress(iterable: Iterable[T] | None = None, *, total: int | None = None, desc: str, unit: str, **options: Any) -> Any:
    """A tqdm bar with rate and ETA on standard error; in a log file, one line every half minute.

    Args:
        iterable: what to iterate over; None for a bar that is advanced by `update`.
        total: number of units.
        desc, unit: what the bar is called, and what it counts.
        options: further options of tqdm.
    """
    from tqdm import tqdm

    options |= {"unit_scale": True, "dynamic_ncols": True, "mininterval": 0.2 if sys.stderr.isatty() else 30}
    return tqdm(iterable, total=total, desc=desc, unit=unit, **options)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as aligned text, at most `TABLE_WIDTH` columns wide: the last column is wrapped if need be.

    Integers have thousands separators, None is an en dash; columns of numbers and percentages are aligned right.

    >>> print(format_table(["task", "rows", "used"], [["emar", 1200, "9.5%"], ["omr", None, "10.0%"]]))
    task      rows    used
    ------  ------  ------
    emar     1,200    9.5%
    omr          –   10.0%
    """
    from tabulate import tabulate

    rows = [list(row) for row in rows]
    numeric = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    numeric = numeric or [False] * len(headers)
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    room = max(20, TABLE_WIDTH - sum(width + 2 for width in widths[:-1]))
    cells = [[*row[:-1], textwrap.fill(row[-1], room)] for row in cells]
    alignment = ["right" if is_number else "left" for is_number in numeric]
    return tabulate(cells, headers, disable_numparse=True, colalign=alignment)


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
    """The line that ends a command: what it did, time, rate and peak memory.

    Args:
        command: name of the command; the clock starts now.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.start = time.monotonic()

    def print(self, text: str, count: int | None = None, unit: str = "records", file: TextIO | None = None) -> None:
        """Print `text` with the elapsed time and, if `count` is given, the rate in `unit` per second."""
        seconds = time.monotonic() - self.start
        rate = f", {count / max(seconds, 1e-9):,.0f} {unit}/s" if count else ""
        memory = f"peak memory {peak_memory_mib():,.0f} MiB"
        print(f"{self.command}: {text}; {seconds:.1f} s{rate}, {memory}", file=file, flush=True)
