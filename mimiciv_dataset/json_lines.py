"""The lines of a JSONL of rows, whatever tool saved it: with a byte-order mark, blank lines, or the line ends of Windows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mimiciv_dataset.cells import clean_id
from mimiciv_dataset.csv_checks import BOM
from mimiciv_dataset.values import canonical
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_LINES = 1024  # of a JSONL that are in memory besides the table
NO_OBJECT = "expected a JSON object, got something else. Fix the file."


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) for the lines of a JSONL that are not blank; an error for a file that is one JSON array."""
    if path.is_dir():
        raise UserError(f"{path}: expected a JSONL file, got a directory. Choose a file in it.")
    is_first = True
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            line = line.removeprefix(BOM) if number == 1 else line
            if not line or line.isspace():
                continue
            if is_first and line.lstrip().startswith(b"["):
                copy = path.stem + ("_lines" if path.suffix == ".jsonl" else "") + ".jsonl"  # not onto itself
                fix = f"Convert it: jq -c '.[]' {path.name} > {copy}"
                raise UserError(f"{path}: expected a JSON object in each line, got a JSON array. {fix}")
            is_first = False
            yield number, line


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, which end with \\n, \\r\\n or \\r."""
    for line in file:
        if b"\r" in line:
            yield from line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")
        else:
            yield line


def line_table(path: Path) -> pa.Table:
    """The lines of a JSONL that are not blank, as a table with the columns `number` and `line`."""
    import pyarrow as pa

    schema = pa.schema({"number": pa.int32(), "line": pa.large_string()})
    lines, batches = read_lines(path), []
    while batch := list(islice(lines, BATCH_LINES)):
        numbers, texts = zip(*batch, strict=True)
        try:
            batches.append(pa.record_batch([numbers, texts], schema))
        except pa.ArrowInvalid:
            fix = "Decompress or convert it"
            raise UserError(f"{path}: expected JSONL in UTF-8, got other bytes. {fix}.") from None
    return pa.Table.from_batches(batches, schema)


def parse_line(text: str | bytes) -> dict[str, Any]:
    """The object in a line of a JSONL; errors do not name the line.

    >>> parse_line('{"task": "emar"}')
    {'task': 'emar'}
    >>> parse_line('["emar"]')
    Traceback (most recent call last):
    pipeline.errors.UserError: expected a JSON object, got something else. Fix the file.
    """
    import orjson

    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_unusual_line(text)
    if not isinstance(row, dict):
        raise UserError(NO_OBJECT)
    return _parse_unusual_line(text) if _may_be_rounded(row) else row


def _may_be_rounded(row: dict[str, Any]) -> bool:
    """Whether a row has a number that orjson can have rounded: whole numbers of more than 64 bits, which an id can have."""
    values: list[Any] = [row]
    for value in values:  # grows: nesting can be deeper than recursion
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif type(value) is float and abs(value) >= 1 << 63:
            return True
    return False


def _parse_unusual_line(text: str | bytes) -> dict[str, Any]:
    """`parse_line` of what orjson does not read as it is, such as NaN."""
    try:
        row = json.loads(text if isinstance(text, str) else text.decode())  # of bytes, it would guess the encoding
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(NO_OBJECT)
    try:  # half of a character, which cannot be written in UTF-8, can be escaped
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError("expected text in Unicode, got half of a surrogate pair. Fix the file.") from None
    return row


def clean_numbers(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A copy of a JSON object whose fields `names`, ids and positions, are None if missing, and whole numbers if floats.

    Texts that are no numbers are kept, as other benchmarks can have such ids.

    >>> clean_numbers({"subject_id": 7.0, "hadm_id": "NaN", "task": "emar"}, ["subject_id", "hadm_id"])
    {'subject_id': 7, 'hadm_id': None, 'task': 'emar'}
    >>> clean_numbers({"subject_id": 7.5}, ["subject_id"])
    Traceback (most recent call last):
    pipeline.errors.UserError: subject_id: expected a whole number or a text, got another number. Fix or remove the row.
    """
    clean = dict(fields)
    for name in names:
        match clean.get(name):
            case str() as text:
                clean[name] = clean_id(canonical("text", text))
            case float() as number if number.is_integer():
                clean[name] = int(number)
            case float() as number if math.isnan(number):
                clean[name] = None
            case float():
                expected = "expected a whole number or a text, got another number"
                raise UserError(f"{name}: {expected}. Fix or remove the row.")
    return clean
