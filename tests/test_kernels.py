"""Compiled loops against naive implementations, on texts of all kinds."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.values import KINDS
from preprocess import kernels
from preprocess.event_texts import EventTexts, ObjectKeys
from preprocess.order import TABLE_NUMBERS, stable_order, tie_numbers
from preprocess.parts import json_lists
from preprocess.raw_tables import parse_times, python_float
from preprocess.raw_values import count_unknown
from preprocess.texts import Texts, block_of

texts = st.text(max_size=8) | st.text('"\\\b\n\x01\x7f,[]{}é😀', max_size=8)
digits = st.text("0123456789", min_size=1, max_size=20)
numbers = st.from_regex(r"-?[0-9]{0,17}\.?[0-9]{0,6}(e-?[0-9])?", fullmatch=True) | st.floats().map(repr) | texts
moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)).map(lambda time: f"{time:%Y-%m-%d %H:%M:%S}")
times = (
    moments | moments.map(lambda text: text[:10]) | st.from_regex(r"2[0-9]{3}-[01][0-9]-[0-3][0-9]( [0-2][0-9]:[0-6]0:00)?")
)


def read(kernel, values: list[str | None], dtype: type = np.int64) -> list | None:
    """What a kernel reads, or None if it refuses the texts."""
    result = np.empty(len(values), dtype)
    return result.tolist() if kernel(*block_of(pa.array(values, pa.string())), result) else None


@settings(deadline=None)  # the first example compiles the kernel
@given(st.lists(st.none() | digits, max_size=4))
def test_numbers(values: list[str | None]) -> None:
    usual = pl.Series(values, dtype=pl.String).str.contains(KINDS["number"].pattern).all()
    assert read(kernels.read_numbers, values) == ([-1 if text is None else int(text) for text in values] if usual else None)


@settings(deadline=None)
@given(st.lists(st.none() | times, max_size=4))
def test_times(values: list[str | None]) -> None:
    """Those that are read are what polars reads; those in MIMIC-IV's form are read."""
    expected = parse_times(pl.Series(values, dtype=pl.String))
    result = read(kernels.read_times, values)
    if result is None:
        usual = pl.Series(values, dtype=pl.String).str.contains(KINDS["time"].pattern)
        assert not usual.all() or expected.null_count() > values.count(None)
    else:
        assert result == expected.cast(pl.Int64).fill_null(kernels.NO_TIME).to_list()


def test_other_times_are_left_to_other_code() -> None:
    for text in ("2100-02-29", "2150-13-01", "2150-01-01 24:00:00", "2150-01-01T00:00:00", "2150-1-01 00:00:00"):
        assert read(kernels.read_times, [text]) is None
    time = "2150-01-31 12:00:00"
    for position in range(len(time)):  # another character in any place
        assert read(kernels.read_times, [f"{time[:position]}.{time[position + 1 :]}"]) is None


@settings(deadline=None)
@given(st.lists(st.none() | numbers, max_size=4))
def test_floats(values: list[str | None]) -> None:
    whole = read(kernels.mark_whole, values, np.bool_)
    for text, is_whole in zip(values, whole or [], strict=False):
        if text is not None:
            assert python_float(text) == text + ".0" * is_whole


def test_usual_floats_are_marked() -> None:
    assert read(kernels.mark_whole, ["7", "-12", "0", "7.5", "0.001", None], np.bool_) == [True] * 3 + [False] * 3
    for text in ("7.50", "0.0001", "1e5", "1234567890.123456", "___", "-", ".5", "007"):
        assert read(kernels.mark_whole, [text], np.bool_) is None


@settings(deadline=None)
@given(st.lists(st.lists(st.none() | texts, min_size=2, max_size=2), min_size=1, max_size=4), st.randoms())
def test_lists_and_objects(rows: list[list[str | None]], random) -> None:
    """Records are written as JSON lists, joined to events, and written as objects, as polars writes them."""
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=["a", 'b"'])
    order = np.array(random.sample(range(len(rows)), len(rows)))
    whole = np.array([[random.random() < 0.3 for _ in rows] for _ in range(2)])
    values = [
        ["nan" if text is None else text + ".0" * is_whole for text, is_whole in zip(row, flags, strict=True)]
        for row, flags in zip(rows, whole.T.tolist(), strict=True)
    ]
    lists = json_lists(Texts(table), order, whole)
    assert [json.loads(text) for text in lists.to_pylist()] == [values[row] for row in order]

    counts = np.array([1, len(rows) - 1]) if len(rows) > 1 else np.array([1])
    with ThreadPoolExecutor() as threads:
        events = EventTexts.join([lists.slice(0, 1), lists.slice(1)], np.argsort(order), counts, threads)
    assert json.loads(f"[{','.join(events.to_arrow().to_pylist())}]") == [values[:1], *([values[1:]] if len(rows) > 1 else [])]

    name = sorted(EVENTS)[3]
    frame = pl.DataFrame(values, schema=["a", 'b"'], orient="row").with_columns(file_name=pl.lit(name))
    expected = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list()
    objects = ObjectKeys({name: ["a", 'b"']}, np.full(len(counts), TABLE_NUMBERS[name]), counts)
    assert bytes(objects.write(events).text).decode() == "".join(expected)
    as_lists = objects.write(events, as_lists=True).to_arrow().to_pylist()
    assert as_lists == [f"[{','.join(part)}]" for part in (expected[:1], expected[1:]) if part]
    last = slice(len(counts) - 1, len(counts))
    assert bytes(objects.write(events, last).text).decode() == "".join(expected[-counts[-1] :])


whole_numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(whole_numbers, whole_numbers, st.integers(0, 1)), max_size=8))
def test_order_by_several_numbers(rows: list[tuple[int, int, int]]) -> None:
    keys = [np.array([row[column] for row in rows], np.int64) for column in range(3)]
    assert stable_order(keys).tolist() == sorted(range(len(rows)), key=rows.__getitem__)


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(-3, 2**60) | st.floats(allow_nan=False), max_size=8))
def test_ties(values: list[float | None]) -> None:
    values = [None if value is None else float(value) for value in values]
    result = tie_numbers(pl.Series(values, dtype=pl.Float64)).tolist()
    ranks = [(value is not None, value or 0.0) for value in values]
    for a, first in zip(ranks, result, strict=True):
        assert [(a < b, a == b) for b in ranks] == [(first < second, first == second) for second in result]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 5), max_size=8), st.lists(st.integers(0, 5), unique=True))
def test_unknown_ids(values: list[int], ids: list[int]) -> None:
    expected = sum(value >= 0 and value not in ids for value in values)
    assert count_unknown(np.array(values, np.int64), np.array(sorted(ids), np.int64)) == expected
