"""Compiled loops over the bytes of texts, for what polars and numpy do too slowly. Imported only by code that runs them.

Texts are given as Arrow has them: `starts` (n + 1 offsets) into the bytes `data`, and which of the n texts are not missing.
Kernels refuse what is not in MIMIC-IV's usual form; other code then reads it. numba caches the machine code between runs.

Texts are copied eight bytes at a time, from and to the words (`words_of`) of arrays of bytes. Up to seven bytes after a text
are copied, too, for which such arrays have `SPARE` bytes at their ends. The loops that copy are written out: in calls of
functions, numba counts references to arrays, which takes longer than all else.
"""

from __future__ import annotations

import numba
import numpy as np

NO_TIME = np.iinfo(np.int64).min  # a missing time, in milliseconds; the same as numpy's NaT
UNUSUAL, AS_IS, WHOLE = 0, 1, 2  # forms of a number: for other code; as Python writes a float; a float without its `.0`
_DIGIT, _NINE, _QUOTE, _BACKSLASH, _COMMA, _OPEN, _CLOSE = (ord(c) for c in '09"\\,[]')
_NAN = np.frombuffer(b'"nan",  ', np.uint64)[0]
_ONES = np.uint64(0x0101010101010101)  # times a byte: eight of it
_QUOTES, _BACKSLASHES, _HIGHEST_BITS = (_ONES * np.uint64(byte) for byte in (_QUOTE, _BACKSLASH, 128))
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHORT_ESCAPES = np.zeros(128, np.uint8)
for _text, _letter in zip(b'"\\\b\t\n\f\r', b'"\\btnfr', strict=True):
    _SHORT_ESCAPES[_text] = _letter
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_YEAR_DAYS = np.concatenate([[0], np.cumsum(_MONTH_DAYS)])[:12]  # days of a year before each month

SPARE = 8  # bytes after the texts

kernel = numba.njit(cache=True, nogil=True)


def words_of(data: np.ndarray) -> np.ndarray:
    """The eight bytes from each byte on as a number, but for the last seven bytes; it shares the memory of `data`.

    >>> [int(word).to_bytes(8, "little") for word in words_of(np.frombuffer(b"123456789", np.uint8))]
    [b'12345678', b'23456789']
    """
    return np.ndarray(max(len(data) - 7, 0), np.uint64, data, strides=(1,))


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
def write_lists(order, columns, starts, data, words, valid, whole, escaped, out, out_words, out_starts):
    """Write rows as JSON lists of texts; a missing one becomes "nan".

    Args:
        order: the rows to write.
        columns: number of columns. The text of a row in a column is that at `column * len(order) + row`.
        words, out_words: the words of `data` and `out`, which have `SPARE` bytes at their ends.
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
            if valid[i]:
                out[at] = _QUOTE
                at += 1
                if escaped[column]:
                    for j in range(starts[i], starts[i + 1]):
                        at = _write_escaped(data[j], out, at)
                else:
                    size = starts[i + 1] - starts[i]
                    for j in range(0, size, 8):
                        out_words[at + j] = words[starts[i] + j]
                    at += size
                if whole[i]:
                    out[at], out[at + 1] = ord("."), _DIGIT
                    at += 2
                out[at], out[at + 1] = _QUOTE, _COMMA
                at += 2
            else:
                out_words[at] = _NAN
                at += len('"nan",')
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
def place(starts, data, words, targets, out, out_words):
    """Copy texts to the positions `targets` of `out`, each after a comma, and no byte more."""
    for i in range(len(targets)):
        at, begin, size = targets[i], starts[i], starts[i + 1] - starts[i]
        out[at - 1] = _COMMA
        for j in range(0, size - 7, 8):
            out_words[at + j] = words[begin + j]
        for j in range(size & ~7, size):
            out[at + j] = data[begin + j]


@kernel
def _plain_bytes(word):
    """How many of eight bytes come before the first quotation mark or backslash; 8 if there is none.

    The highest bit of a byte becomes set by subtracting 1 from it if it is zero, and in no byte before that.
    """
    quotes, backslashes = word ^ _QUOTES, word ^ _BACKSLASHES  # such bytes become zero
    zeros = (((quotes - _ONES) & ~quotes) | ((backslashes - _ONES) & ~backslashes)) & _HIGHEST_BITS
    lowest = (zeros & (~zeros + np.uint64(1))) >> np.uint64(7)  # a one at the begin of the first such byte
    before = (lowest - np.uint64(1)) & _ONES  # a one at the begin of each byte before
    return int((before * _ONES) >> np.uint64(56))  # the sum of its bytes


@kernel
def write_objects(data, words, starts, tables, keys, key_words, key_starts, first_keys, as_list, out, out_words, out_starts):
    """Write the records of events as JSON objects, given as JSON lists of JSON lists of texts.

    Args:
        data, starts: the text of the events.
        tables: number of the table of each event.
        keys, key_starts: what comes before each value of a record, and at its end, with the quotation marks of the values;
            those of table t are from number `first_keys[t]` on.
        words, key_words, out_words: the words of `data`, `keys` and `out`, which have `SPARE` bytes at their ends.
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
            while True:
                size = key_starts[key + 1] - key_starts[key]
                for j in range(0, size, 8):
                    out_words[at + j] = key_words[key_starts[key] + j]
                at += size
                key += 1
                if data[i] == _CLOSE:  # of the record
                    break
                i += 2  # the bracket of the record, or the comma before a value; and a quotation mark
                while True:
                    out_words[at] = words[i]
                    plain = _plain_bytes(words[i])
                    at += plain
                    i += plain
                    if plain < 8:
                        if data[i] == _QUOTE:
                            break
                        out[at], out[at + 1] = _BACKSLASH, data[i + 1]
                        at += 2
                        i += 2
                i += 1
            i += 1
        if as_list:
            out[at] = _CLOSE
            at += 1
    out_starts[len(tables)] = at
