"""What a CSV parser accepts silently although values would be lost or shifted: headers and quotation marks."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

from pipeline.errors import UserError

HEADER_BYTES = 1 << 20  # longest header
BLOCK_BYTES = 16 << 20
_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?")  # how pandas names a column without a name
BOM = b"\xef\xbb\xbf"
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_raw_header(path: Path) -> list[str]:
    """The column names of a CSV or CSV.gz without surrounding blanks, in the order of the file; "" for unnamed columns.

    Raises:
        UserError: the file is empty, no CSV in UTF-8, or has two columns of the same name.
    """
    if path.is_dir():
        raise UserError(f"{path}: expected a CSV file, got a directory. Move the file in it here.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = stream.readline(HEADER_BYTES)
            while data.count(b'"') % 2 and (line := stream.readline(HEADER_BYTES)):  # a line end inside a name
                data += line
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{path}: expected a readable CSV file, got corrupt gzip data. Download the file again.") from None
    text = data.removeprefix(BOM).decode("utf-8", "surrogateescape")  # the last character may be cut off
    names = [name.strip() for name in next(csv.reader(io.StringIO(text, newline="")), [])]
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        raise UserError(f"{path}: expected a header line in UTF-8, got other bytes. Download the file again.")
    if not any(names):
        raise UserError(f"{path}: expected a header line, got an empty file. Download the file again.")
    names = ["" if _UNNAMED.fullmatch(name) else name for name in names]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise UserError(f"{path}: expected distinct columns, got {', '.join(repeated)} twice in the header. Fix the file.")
    return names


def other_separator(cell: str) -> str:
    """What separates columns instead of commas, by the first cell of a header; "" if nothing does.

    >>> other_separator("subject_id;sex"), other_separator("subject_id")
    ('semicolons', '')
    """
    return next((name for separator, name in OTHER_SEPARATORS.items() if separator in cell), "")


class QuoteCheck:
    r"""Finds quotation marks that are neither around a field nor doubled inside one, in a file that is fed in blocks.

    Parsers read `"say \"hi\""` as another text or as two fields without an error. A backslash before a quotation mark is
    legitimate, too: only from the first one on, all quotation marks are examined.

    >>> [QuoteCheck().feed(text).finds_stray for text in (rb'1,"a\"b"', rb'1,"a\""b",2', rb'1,"a\",2', rb'"\"",2,"x"')]
    [True, False, False, True]
    """

    def __init__(self) -> None:
        self.count = 0  # quotation marks before `_rest`
        self.finds_stray = False
        self._examined = False
        self._before = b"\n"  # the byte before `_rest`
        self._rest = b""  # a run of quotation marks whose next byte is not known yet

    def feed(self, data: bytes) -> QuoteCheck:
        """Examine the next block, but for a run of quotation marks at its end."""
        data = self._rest + data
        end = len(data.rstrip(b'"'))
        data, self._rest = data[:end], data[end:]
        if data:
            # most files have no backslash, and looking for one byte is much faster than for two
            self._examined = self._examined or (b"\\" in data and b'\\"' in data + self._rest[:1])
            self.finds_stray = self.finds_stray or (self._examined and self._has_stray(data))
            self.count += data.count(b'"')
            self._before = data[-1:]
        return self

    def _has_stray(self, data: bytes) -> bool:
        import numpy as np

        bytes_ = np.frombuffer(self._before + data, np.uint8)
        quotes = np.flatnonzero(bytes_ == ord('"'))
        if not len(quotes):
            return False
        first = np.flatnonzero(np.diff(quotes, prepend=-1) > 1)  # of each run, in `quotes`
        starts, lengths = quotes[first], np.diff(first, append=len(quotes))
        inside = (self.count + first) % 2 == 1  # whether the run is inside a field
        separators = np.frombuffer(b",\r\n", np.uint8)
        opens_wrongly = ~inside & ~np.isin(bytes_[starts - 1], separators)
        ends_outside = (inside + lengths) % 2 == 0
        closes_wrongly = ends_outside & ~np.isin(bytes_[starts + lengths], separators)
        return bool((opens_wrongly | closes_wrongly).any())


def stray_quotes_error(path: Path) -> UserError:
    """The error of a file in which `QuoteCheck` finds a stray quotation mark."""
    expected = "quotation marks inside a field to be doubled, got some after a backslash"
    return UserError(f"{path}: expected {expected}. Write the file again with doubled quotation marks.")


def check_quotes(path: Path) -> None:
    """Raise an error if a CSV or CSV.gz escapes quotation marks with backslashes."""
    check = QuoteCheck()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            check.feed(block.removeprefix(BOM))
    if check.feed(b"\n").finds_stray:
        raise stray_quotes_error(path)
