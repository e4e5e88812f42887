"""Compiled loops over the bytes of texts, for what polars and numpy do too slowly. Imported only by code that runs them.

Texts are given as Arrow has them: `starts` (n + 1 offsets) into the bytes `data`, and which of the n texts are not missing.
Kernels refuse what is not in MIMIC-IV's usual form; other code then reads it. numba caches the machine code between runs.
"""

from __future__ import annotations

import numba
import numpy as np

NO_TIME = np.iinfo(np.int64).min  # a missing time, in milliseconds; the same as numpy's NaT
UNUSUAL, AS_IS, WHOLE = 0, 1, 2  # forms of a number: for other code; as Python writes a float; a float without its `.0`
_DIGIT, _NINE, _QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = (ord(c) for c in '09"\\,[]')
_MISSING = np.frombuffer(b'"nan"', np.uint8)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHORT_ESCAPES = np.zeros(128, np.uint8)
for _text, _letter in zip(b'"\\\b\t\n\f\r', b'"\\btnfr', strict=True):
    _SHORT_ESCAPES[_text] = _letter
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_YEAR_DAYS = np.concatenate([[0], np.cumsum(_MONTH_DAYS)])[:12]  # days of a year before each month

kernel = numba.njit(cache=True, nogil=True)


@kernel
def read_numbers(starts, data, valid, numbers):
    """Read whole numbers without leading zeros and of at most 18 digits; missing ones become -1. False for other texts."""
    for i in range(len(valid)):
        numbers[i] = -1
        if valid[i]:
            begin, end = starts[i], starts[i + 1]
            if not 1 <= end - begin <= 18 or (data[begin] == _DIGIT and end - begin > 1):
                return False
            number = 0
            for j in range(begin, end):
                if not _DIGIT <= data[j] <= _NINE:
                    return False
                number = number * 10 + (data[j] - _DIGIT)
            numbers[i] = number
    return True


@kernel
def _two_digits(data, at):
    """A number of two digits; -100 if they are none."""
    tens, ones = int(data[at]) - _DIGIT, int(data[at + 1]) - _DIGIT
    return tens * 10 + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -100


@kernel
def read_times(starts, data, valid, times):
    """Read times such as 2150-01-31 12:00:00, and dates, as milliseconds since 1970. False for other texts."""
    for i in range(len(valid)):
        times[i] = NO_TIME
        if valid[i]:
            at, size = starts[i], starts[i + 1] - starts[i]
            if (size != 10 and size != 19) or data[at + 4] != ord("-") or data[at + 7] != ord("-"):
                return False
            century, year = _two_digits(data, at), _two_digits(data, at + 2)
            month, day = _two_digits(data, at + 5), _two_digits(data, at + 8)
            if century < 10 or year < 0 or not 1 <= month <= 12:
                return False
            year += century * 100
            leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
            if not 1 <= day <= _MONTH_DAYS[month - 1] + (leap and month == 2):
                return False
            leap_days = (year - 1) // 4 - (year - 1) // 100 + (year - 1) // 400
            days = (year - 1) * 365 + leap_days + _YEAR_DAYS[month - 1] + (leap and month > 2) + day - 1
            seconds = (days - 719_162) * 86_400  # 1970-01-01 is day 719,162
            if size == 19:
                hour, minute, second = _two_digits(data, at + 11), _two_digits(data, at + 14), _two_digits(data, at + 17)
                if data[at + 10] != ord(" ") or data[at + 13] != ord(":") or data[at + 16] != ord(":"):
                    return False
                if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
                    return False
                seconds += hour * 3600 + minute * 60 + second
            times[i] = seconds * 1000
    return True


@kernel
def _form(data, begin, end):
    """The form of one number, of which at most 15 characters are read: a float has as many digits exactly."""
    first = begin + (begin < end and data[begin] == ord("-"))
    point = first
    while point < end and _DIGIT <= data[point] <= _NINE:
        point += 1
    if not 1 <= end - first <= 15 or point == first or (data[first] == _DIGIT and point > first + 1):
        return UNUSUAL
    if point == end:
        return WHOLE
    decimals = end - point - 1
    if data[point] != ord(".") or decimals < 1 or (data[end - 1] == _DIGIT and decimals > 1):
        return UNUSUAL
    for j in range(point + 1, end):
        if not _DIGIT <= data[j] <= _NINE:
            return UNUSUAL
    small = point == first + 1 and data[first] == _DIGIT and decimals > 3  # below 0.0001, Python writes an exponent
    if small and data[point + 1] == _DIGIT and data[point + 2] == _DIGIT and data[point + 3] == _DIGIT:
        return UNUSUAL
    return AS_IS


@kernel
def mark_whole(starts, data, valid, whole):
    """Mark the numbers that lack the `.0` with which Python writes a float. False if other texts are not as it writes them."""
    for i in range(len(valid)):
        whole[i] = False
        if valid[i]:
            form = _form(data, starts[i], starts[i + 1])
            if form == UNUSUAL:
                return False
            whole[i] = form == WHOLE
    return True


@kernel
def count_escaped(data):
    """How many bytes JSON escapes."""
    number = 0
    for byte in data:
        number += (byte < 32) | (byte == _QUOTE) | (byte == _BACKSLASH)
    return number


@kernel
def write_lists(order, columns, starts, data, valid, whole, escaped, out, out_starts):
    """Write rows as JSON lists of texts; a missing one becomes "nan".

    Args:
        order: the rows to write.
        columns: number of columns. The text of a row in a column is that at `column * len(order) + row`.
        whole: the texts after which `.0` is written.
        escaped: the columns with bytes that JSON escapes.
        out, out_starts: are filled with the lists.
    """
    at, rows = 0, len(order)
    for k in range(rows):
        out_starts[k] = at
        out[at] = _OPEN
        at += 1
        for column in range(columns):
            i = column * rows + order[k]
            if not valid[i]:
                for j in range(5):
                    out[at + j] = _MISSING[j]
                at += 5
            else:
                out[at] = _QUOTE
                at += 1
                if escaped[column]:
                    for j in range(starts[i], starts[i + 1]):
                        at = _write_escaped(data[j], out, at)
                else:
                    for j in range(starts[i], starts[i + 1]):
                        out[at] = data[j]
                        at += 1
                if whole[i]:
                    out[at], out[at + 1] = ord("."), _DIGIT
                    at += 2
                out[at] = _QUOTE
                at += 1
            out[at] = _COMMA
            at += 1
        out[at - 1] = _CLOSE
    out_starts[rows] = at


@kernel
def _write_escaped(byte, out, at):
    """Write a byte of a JSON text; return the position after it."""
    if byte >= 128 or (byte >= 32 and _SHORT_ESCAPES[byte] == 0):
        out[at] = byte
        return at + 1
    out[at] = _BACKSLASH
    if _SHORT_ESCAPES[byte] != 0:
        out[at + 1] = _SHORT_ESCAPES[byte]
        return at + 2
    out[at + 1], out[at + 2], out[at + 3] = ord("u"), _DIGIT, _DIGIT
    out[at + 4], out[at + 5] = _HEX[byte >> 4], _HEX[byte & 15]
    return at + 6


@kernel
def place(starts, data, targets, out):
    """Copy texts to the positions `targets`, each after a comma."""
    for i in range(len(targets)):
        at = targets[i]
        out[at - 1] = _COMMA
        for j in range(starts[i], starts[i + 1]):
            out[at] = data[j]
            at += 1


@kernel
def write_objects(data, starts, tables, keys, key_starts, first_keys, as_list, out, out_starts):
    """Write the records of events as JSON objects, given as JSON lists of JSON lists of texts.

    Args:
        data, starts: the text of the events.
        tables: number of the table of each event.
        keys, key_starts: what comes before each value of a record, and at its end; of table t from number `first_keys[t]` on.
        as_list: write the objects of an event as a JSON list, instead of one after the other.
        out, out_starts: are filled with the text of each event.
    """
    at = 0
    for event in range(len(tables)):
        out_starts[event] = at
        i = starts[event]
        while data[i] != _CLOSE:  # of the event
            if as_list:
                out[at] = data[i]  # the bracket of the event, or the comma before a record
                at += 1
            i += 1
            key = first_keys[tables[event]]
            while data[i] != _CLOSE:  # of the record
                for j in range(key_starts[key], key_starts[key + 1]):
                    out[at] = keys[j]
                    at += 1
                key += 1
                i += 1  # the bracket of the record, or the comma before a value
                out[at] = _QUOTE
                at += 1
                i += 1
                while data[i] != _QUOTE:
                    if data[i] == _BACKSLASH:
                        out[at] = _BACKSLASH
                        at += 1
                        i += 1
                    out[at] = data[i]
                    at += 1
                    i += 1
                out[at] = _QUOTE
                at += 1
                i += 1
            for j in range(key_starts[key], key_starts[key + 1]):
                out[at] = keys[j]
                at += 1
            i += 1
        if as_list:
            out[at] = _CLOSE
            at += 1
    out_starts[len(tables)] = at
