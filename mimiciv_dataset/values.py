"""The text of ids, codes and times: MIMIC-IV's form, and the forms in which other tools write the same value.

`events.CHECKED_COLUMNS` says which columns hold what. A value in MIMIC-IV's form is kept verbatim. One that another tool has
rewritten is brought back to it (`91000001.0`, `9.1000001E7`, ` 91000001`, `2150-01-05T12:00:00`). What cannot be read without
guessing (`01/05/2150`, a time zone, `9.1E+07`) is refused, because it would silently order, join or label records differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from mimiciv_dataset.events import COLUMN_KINDS, MISSING_TEXTS

# Further spellings of a missing value, none of which can be an id, a code or a time; in lower case.
_MISSING = {text.lower() for text in MISSING_TEXTS} | {"nat", "(null)", "-", "--", ".", "?"}
_NUMBER = re.compile(r"\+?(\d+)(?:\.0*)?", re.ASCII)
_SCIENTIFIC = re.compile(r"\+?(\d)(?:\.(\d*))?[eE](\+?)(\d{1,2})", re.ASCII)
_DAY, _CLOCK = r"[1-9]\d{3}-\d\d-\d\d", r"( ([01]\d|2[0-3]):[0-5]\d:[0-5]\d)"
_TIME = re.compile(r"([1-9]\d{3}-\d\d-\d\d)(?:[ T]((?:[01]\d|2[0-3]):[0-5]\d)(?::([0-5]\d)(?:\.(\d*))?)?)?")


def clean_number(text: str) -> str:
    """A whole number without sign, leading zeros and decimal part.

    >>> clean_number("91000001.0"), clean_number("+0091000001"), clean_number("9.1000001E7"), clean_number("00")
    ('91000001', '91000001', '91000001', '0')
    """
    match = _NUMBER.fullmatch(text)
    return (match.group(1) if match else _digits(text)).lstrip("0") or "0"


def clean_ndc(text: str) -> str:
    """A National Drug Code without decimal part; leading zeros, and codes with dashes, are kept.

    >>> clean_ndc("2143361.0"), clean_ndc("2.143361e9"), clean_ndc("00002143361"), clean_ndc("0002-1433-61")
    ('2143361', '2143361000', '00002143361', '0002-1433-61')
    """
    if match := _NUMBER.fullmatch(text):
        return match.group(1)
    return _digits(text) if _SCIENTIFIC.fullmatch(text) else text


def _digits(text: str) -> str:
    """The digits of a whole number in scientific notation.

    An exponent without plus sign is that of a printer of all significant digits (Java and Spark: `9.1E7` is exact). With one,
    it can be that of a printer of six or seven digits (C, Excel), so that the number must have no more, or show them all.

    >>> _digits("9.1E7"), _digits("1e+05"), _digits("9.1000001e+07")
    ('91000000', '100000', '91000001')
    """
    match = _SCIENTIFIC.fullmatch(text)
    if match is None:
        raise ValueError
    first, decimals, plus, exponent = match.groups()
    digits, length = first + (decimals or ""), int(exponent) + 1
    rounded = bool(plus or exponent.startswith("0")) and len(digits) < length and length > 6
    if rounded or digits[length:].strip("0"):
        raise ValueError
    return digits[:length].ljust(length, "0")


def clean_icd(text: str) -> str:
    """An ICD code in upper case without its dot, or without the decimal part that a tool has added that took it for a number.

    `250.0` is refused: it can be the code 2500, or 250 with a decimal part.

    >>> clean_icd("401.9"), clean_icd("4019.0"), clean_icd("k50.0"), clean_icd("250.00"), clean_icd("0010")
    ('4019', '4019', 'K500', '25000', '0010')
    """
    code, _, decimals = text.upper().partition(".")
    if decimals and not decimals.isalnum():
        raise ValueError
    if code.isdecimal() and decimals == "0":
        if len(code) in (2, 3):
            raise ValueError
        return code
    return code + decimals


def clean_time(text: str) -> str:
    """A time as `YYYY-MM-DD HH:MM:SS`, with its fraction of a second if that is not zero, or a date as `YYYY-MM-DD`.

    >>> clean_time("2150-01-05T12:00:00.000"), clean_time("2150-01-05 12:00"), clean_time("2150-01-05")
    ('2150-01-05 12:00:00', '2150-01-05 12:00:00', '2150-01-05')
    >>> clean_time("2150-01-05T12:00:00.750")
    '2150-01-05 12:00:00.750'
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError
    date, minutes, seconds, fraction = match.groups()
    time = f"{date} {minutes}:{seconds or '00'}" if minutes else date
    datetime.fromisoformat(time)  # a ValueError if there is no such day
    return f"{time}.{fraction}" if fraction and fraction.strip("0") else time


@dataclass(frozen=True)
class Kind:
    """What a column holds.

    Attributes:
        expected: its values in words, for messages.
        pattern: regular expression (for `re` and polars) of MIMIC-IV's form.
        clean: brings another text, without surrounding blanks, to that form; raises ValueError if that would be a guess.
    """

    expected: str
    pattern: str
    clean: Callable[[str], str]


KINDS = {
    "number": Kind("a whole number", r"^(0|[1-9][0-9]{0,17})$", clean_number),
    "time": Kind("a time such as 2150-01-31 12:00:00 (no time zone), or a date", rf"^{_DAY}{_CLOCK}?$", clean_time),
    # procedureevents has fractions of a second, which are kept even if they are zero
    "storetime": Kind("a time such as 2150-01-31 12:00:00 (no time zone)", rf"^{_DAY}({_CLOCK}(\.\d+)?)?$", clean_time),
    "icd": Kind("an ICD code", r"^[0-9A-Z]+$", clean_icd),
    "ndc": Kind("a National Drug Code", r"^[0-9-]+$", clean_ndc),
    "text": Kind("an id", r"^\S+$", str),
}


def canonical(kind: str, text: str) -> str | None:
    """A value of a column of this kind in MIMIC-IV's form; None if it is a spelling of a missing value.

    Raises:
        ValueError: the value cannot be read without guessing. The message is empty, as it must not quote the value.

    >>> canonical("number", " 50912.0"), canonical("number", "NaT"), canonical("text", "10000032-DS-21 ")
    ('50912', None, '10000032-DS-21')
    >>> canonical("time", "01/05/2150")
    Traceback (most recent call last):
    ValueError
    """
    text = text.strip()
    if text.lower() in _MISSING:
        return None
    value = KINDS[kind].clean(text)
    if kind == "number" and len(value) > 18:
        raise ValueError
    return value


def canonical_or_same(column: str, text: str) -> str:
    """A value of a column as `canonical` returns it, or the text itself if it cannot be read or the column has no kind.

    >>> canonical_or_same("itemid", "50912.0"), canonical_or_same("itemid", "x"), canonical_or_same("comments", " 7.0")
    ('50912', 'x', ' 7.0')
    """
    try:
        return canonical(COLUMN_KINDS[column], text) or text if column in COLUMN_KINDS else text
    except ValueError:
        return text
