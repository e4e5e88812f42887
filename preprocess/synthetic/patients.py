"""Records of a batch of synthetic patients: one polars frame a table, all columns, all text but times and numbers.

`batch_tables` turns the course of `synthetic_visits.py` into records. Each table is built from a few parts (arrays of
equal length with the row's patient and time); `Batch.frame` sorts the parts by patient and time, fills absent columns
with nulls and writes times as text. Records of the routine of care come from the condition of the visit; records of
signs (`SIGNS`) come from its indicators and are written nowhere else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic import vocab as vocab
from preprocess.synthetic.visits import INDICATORS, Course, simulate
from preprocess.synthetic.vocab import SIGNS, TABLES, Sign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Part = dict[str, Any]

BATCH = 256
SIGN_ITEMS = {sign.item for sign in SIGNS}
DATES = {("patients", "dod"), ("omr", "chartdate"), ("procedures_icd", "chartdate"), ("hcpcsevents", "chartdate")}
"""Columns written as a date alone; those of `TIME_COLUMNS` have a time."""
TIME_COLUMNS = {
    "charttime", "storetime", "starttime", "stoptime", "endtime", "intime", "outtime", "admittime", "dischtime",
    "deathtime", "edregtime", "edouttime", "ordertime", "entertime", "verifiedtime", "transfertime", "scheduletime",
    "chartdate", "storedate", "dod",
}  # fmt: skip


def pick(texts: list[str] | tuple[str, ...], codes: Ints) -> pl.Series:
    """Texts by position; -1 is missing.

    >>> pick(["a", "b"], np.array([1, -1])).to_list()
    ['b', None]
    """
    return pl.Series([*texts, None], dtype=pl.String).gather(np.where(codes < 0, len(texts), codes))


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """Owner and running number of each row, for owners with so many rows.

    >>> spread(np.array([2, 0, 1]))
    (array([0, 0, 2]), array([0, 1, 0]))
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def scatter(numbers: Ints, base: int) -> Ints:
    """Eight-digit ids that look drawn but are a one-to-one map of the numbers below ten million.

    >>> len(set(scatter(np.arange(1000), 2).tolist()))
    1000
    """
    return base * 10_000_000 + numbers * 7_368_787 % 10_000_000


@cache
def _hundredths() -> pl.Series:
    return pl.Series([f"{k / 100:.10g}" for k in range(300_001)])


def decimals(values: NDArray[np.float64]) -> pl.Series:
    """Numbers as text with at most two decimals, from a table because formatting each would dominate the run.

    >>> decimals(np.array([7.0, 7.35, -1.0])).to_list()
    ['7', '7.35', '0']
    """
    return _hundredths().gather(np.clip(np.rint(values * 100), 0, 300_000).astype(np.int64))


class Batch:
    """The course of a batch, its ids, and what the table builders share."""

    def __init__(self, seed: int, batch: int, size: int, keep: int) -> None:
        self.rng = np.random.default_rng([seed, batch, 1])
        self.index, self.size, self.keep = batch, size, keep
        self.course: Course = simulate(seed, batch, size)
        self.v = self.course.visits
        self.subject = 10_000_000 + self.course.number * 61 + self.course.number * 7919 % 61
        patient = self.v["patient"]
        visit_number = np.arange(len(patient)) - np.searchsorted(patient, patient)
        self.visit_id = self.course.number[patient] * 8 + visit_number
        self.hadm = np.where(self.v["hospital"], scatter(self.visit_id, 2), -1)
        self.ed_stay = 30_000_000 + self.visit_id * 3 % 10_000_000
        self.ed = np.flatnonzero(self.v["ed"])
        self.adm = np.flatnonzero(self.v["hospital"])
        # ICU stays: visit, first or second, times
        first, second = np.flatnonzero(self.v["icu"]), np.flatnonzero(self.v["again"])
        visit = np.concatenate([first, second])
        again = np.concatenate([np.zeros(len(first), np.int64), np.ones(len(second), np.int64)])
        start = np.concatenate([self.v["icu_in"][first], self.v["again_in"][second]])
        end = np.concatenate([self.v["icu_out"][first], self.v["again_out"][second]])
        order = np.lexsort((again, visit))
        self.icu, self.icu_in, self.icu_out, again = visit[order], start[order], end[order], again[order]
        self.icu_stay = 30_000_000 + (self.visit_id[self.icu] * 3 + 1 + again) % 10_000_000
        self.drugs = [d.name for d in vocab.DRUGS]
        self.routine_drugs = np.array([i for i, name in enumerate(self.drugs) if name not in SIGN_ITEMS])

    # --- drawing

    def uniform(self, low: float, high: float, n: int) -> NDArray[np.float64]:
        return self.rng.uniform(low, high, n)

    def integers(self, low: int, high: int, n: int) -> Ints:
        return self.rng.integers(low, high, n)

    def chance(self, p: float, n: int) -> Bools:
        return self.rng.random(n) < p

    def one_of(self, texts: list[str] | tuple[str, ...], n: int, missing: float = 0.0) -> pl.Series:
        codes = self.integers(0, len(texts), n)
        return pick(texts, np.where(self.chance(missing, n), -1, codes) if missing else codes)

    def provider(self, n: int, missing: float = 0.0) -> pl.Series:
        codes = [f"P{i:02d}{chr(65 + i % 26)}{chr(65 + i * 7 % 26)}{i % 10}" for i in range(100)]
        return self.one_of(codes, n, missing)

    def numbers(self, n: int, low: int, high: int, missing: float = 0.0) -> pl.Series:
        """Random ids; not keys."""
        series = pl.Series(self.integers(low, high, n))
        return series.set(pl.Series(self.chance(missing, n)), None) if missing else series

    def by_condition(self, texts: list[str], visit: Ints) -> pl.Series:
        return pick(texts, self.v["condition"][visit])

    def has(self, sign: Sign, visit: Ints) -> Bools:
        return self.v["x"][visit, INDICATORS.index(sign.indicator)]

    def signs(self, table: str, window: str) -> list[Sign]:
        return [s for s in SIGNS if s.table == table and s.window == window]

    # --- finishing

    def frame(self, name: str, parts: list[Part]) -> pl.DataFrame:
        """Parts → one frame, sorted by patient and time if they have times; helper columns stay until `columns`."""
        frames = []
        for part in parts:
            n = len(part["patient"])
            data = {k: pl.repeat(v, n, eager=True) if isinstance(v, str) else v for k, v in part.items()}
            if "visit" in part:
                data.setdefault("hadm_id", self.hadm[part["visit"]])
            frames.append(pl.DataFrame(data).with_columns(subject_id=self.subject[part["patient"]]))
        table = pl.concat(frames, how="diagonal_relaxed")
        return table.sort("patient", "time", maintain_order=True) if "time" in table.columns else table

    def columns(self, name: str, table: pl.DataFrame) -> pl.DataFrame:
        """Exactly the table's columns for the patients kept: times proper, ids below zero missing."""
        if self.keep < self.size:
            table = table.filter(pl.col("patient") < self.keep)
        columns = vocab.DETAILS[name][1] if name in vocab.DETAILS else TABLES[name].columns
        out = []
        for column in columns:
            if column not in table.columns:
                out.append(pl.lit(None, pl.String).alias(column))
            elif column in TIME_COLUMNS and table.schema[column].is_numeric():
                out.append(_time(column, date=(name, column) in DATES))
            elif column == "hadm_id":
                out.append(pl.when(pl.col(column) >= 0).then(pl.col(column)).alias(column))
            else:
                out.append(pl.col(column))
        return table.select(out)


def _time(column: str, date: bool) -> pl.Expr:
    time = pl.when(pl.col(column) >= 0).then(pl.col(column).cast(pl.Int64) * 1_000_000).cast(pl.Datetime("us"))
    return (time.cast(pl.Date) if date else time).alias(column)
