"""Delimited text files that users download or write: gzipped or not, with any usual separator, and checked to be whole."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mimiciv_dataset.csv_checks import OTHER_SEPARATORS
from pipeline.errors import UserError
from pipeline.files import require

GZIP = b"\x1f\x8b"
SEPARATORS = (",", *OTHER_SEPARATORS)
NOT_ROWS = ("#", "sep=")  # comments, and how a spreadsheet names its separator
# The first bytes of files that are no text in UTF-8.
OTHER_FORMATS = {
    b"PK": "a zip archive or a workbook. Unpack it, or save it as CSV UTF-8",
    b"\xff\xfe": "text in UTF-16. Save it as CSV UTF-8",
    b"\xfe\xff": "text in UTF-16. Save it as CSV UTF-8",
    b"BZh": "bzip2 data. Decompress the file",
    b"\xfd7zXZ": "xz data. Decompress the file",
    b"<": "a web page. Download the file itself",
    b"version https://git-lfs": "a pointer to a file. Download the file itself",
}


def read_bytes(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if it is gzipped, in blocks.

    Raises:
        UserError: the file is of another format (`OTHER_FORMATS`), or truncated gzip data.
    """
    with path.open("rb") as file:
        first = file.read(max(map(len, OTHER_FORMATS)))
        if kind := next((kind for start, kind in OTHER_FORMATS.items() if first.startswith(start)), None):
            raise UserError(f"{path}: expected a text file, gzipped or not, got {kind}.")
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if first.startswith(GZIP) else file
        try:
            while block := stream.read(1 << 24):
                yield block
        except (gzip.BadGzipFile, zlib.error, EOFError):
            raise UserError(f"{path}: expected gzip data, got truncated or damaged ones. Download the file again.") from None


def read_rows(path: Path, expected: str, has_columns: Callable[[Sequence[str]], object]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table by column; missing cells are empty.

    Commas, semicolons, tabs or bars separate columns, whichever gives the most columns. Lines that begin with one of
    `NOT_ROWS` are left out.

    Raises:
        UserError: there are no `expected` columns, or the file is malformed or cut off.
    """
    require(path, "a code map", "download it as docs/thinking_graph.md says")
    try:
        text = b"".join(read_bytes(path)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected text in UTF-8, got other bytes. Save it as CSV UTF-8.") from None
    lines = io.StringIO(text, newline=None)  # any line ends
    skipped, line = 1, lines.readline()
    while line.startswith(NOT_ROWS):
        skipped, line = skipped + 1, lines.readline()
    headers = {separator: cells_of(line, separator) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(headers[each]))
    if not has_columns(headers[separator]):
        got = "others" if line.strip() else "an empty file"
        raise UserError(f"{path}: expected columns {expected}, got {got}. Choose another file, or rename the columns.")
    header, cells = headers[separator], []
    rows = csv.reader(
        lines, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL, strict=True
    )
    try:
        for cells in rows:
            if any(cells[len(header) :]):
                raise malformed_row(path, skipped + rows.line_num, len(header), len(cells))
            if any(cells) and not cells[0].startswith(NOT_ROWS):
                values = [cell.strip().strip('"') for cell in cells[: len(header)]]
                yield dict(zip(header, values + [""] * (len(header) - len(values)), strict=True))
    except csv.Error:
        where = f"{path}, line {skipped + rows.line_num}"
        raise UserError(f"{where}: expected cells in closed quotation marks, got others. Download the file again.") from None
    if len(cells) < len(header) and not text.endswith(("\n", "\r")):  # a spreadsheet leaves out empty cells, but ends the line
        raise malformed_row(path, skipped + rows.line_num, len(header), len(cells))


def cells_of(line: str, separator: str) -> list[str]:
    """The cells of a line, without blanks and quotation marks around them.

    >>> cells_of('"icd_code"; mondo_id ', ";")
    ['icd_code', 'mondo_id']
    """
    return [cell.strip().strip('"') for cell in next(csv.reader([line.strip("\r\n")], delimiter=separator), [])]


def malformed_row(path: Path, line: int, expected: int, got: int) -> UserError:
    """The error of a line with another number of cells than the header."""
    cause = "The file is cut off: download it again" if got < expected else "Fix the line, or download the file again"
    return UserError(f"{path}, line {line:,}: expected {expected} columns, got {got}. {cause}.")


def check_whole(path: Path, separator: str = ",") -> None:
    """Raise an error if a large table is cut off: gzip data are truncated, or the last line has no end and too few cells."""
    lines, tail, header = 0, b"", b""
    for block in read_bytes(path):
        lines += block.count(b"\n")
        header = header or block.partition(b"\n")[0]
        tail = (tail + block)[-(1 << 16) :]
    if tail.endswith(b"\n") or not lines:
        return
    expected, got = (len(cells_of(line.decode("utf-8", "replace"), separator)) for line in (header, tail.rpartition(b"\n")[2]))
    if got < expected:
        raise malformed_row(path, lines + 1, expected, got)
