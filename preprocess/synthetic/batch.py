"""A batch of synthetic patients, and what the builders of its tables share.

Each table is built from a few parts: arrays of equal length, with the patient and time of each row. `Batch.frame` sorts the
parts by patient and time; `Batch.columns` fills absent columns with nulls and writes times as text. Records of the routine
of care come from the condition of the visit; records of signs (`vocab.SIGNS`) come from its indicators and are written for
no other reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.visits import HOUR, Course, Visits, midnight, simulate
from preprocess.synthetic.vocab import INDICATORS, SIGN_ITEMS, SIGNS, Sign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Part = dict[str, Any]
    from preprocess.synthetic.visits import Bools, Ints

DATE_COLUMNS = {("patients", "dod"), ("omr", "chartdate"), ("procedures_icd", "chartdate"), ("hcpcsevents", "chartdate")}
"""Columns written as a date alone; the other `TIME_COLUMNS` have a time."""
TIME_COLUMNS = {
    "charttime", "storetime", "starttime", "stoptime", "endtime", "intime", "outtime", "admittime", "dischtime",
    "deathtime", "edregtime", "edouttime", "ordertime", "entertime", "verifiedtime", "transfertime", "scheduletime",
    "chartdate", "storedate", "dod",
}  # fmt: skip


def pick(texts: Sequence[str | None], codes: Ints) -> pl.Series:
    """Texts by position; -1 is missing.

    >>> pick(["a", "b"], np.array([1, -1])).to_list()
    ['b', None]
    """
    return pl.Series([*texts, None], dtype=pl.String).gather(np.where(codes < 0, len(texts), codes))


def field(entries: Sequence[Any], name: str, codes: Ints) -> pl.Series:
    """A field of vocabulary entries by position; -1 is missing."""
    return pick([str(getattr(entry, name)) for entry in entries], codes)


def spread(counts: Ints | int) -> tuple[Ints, Ints]:
    """Owner and running number of each row, for owners with `counts` rows.

    >>> spread(np.array([2, 0, 1]))
    (array([0, 0, 2]), array([0, 1, 0]))
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def same_width(lists: Sequence[Sequence[int]]) -> Ints:
    """Lists as the rows of a matrix, each repeated to the length of the longest.

    >>> same_width([[1], [2, 3]])
    array([[1, 1], [2, 3]])
    """
    width = max(map(len, lists))
    return np.array([(list(values) * width)[:width] for values in lists])


def without_signs(names: Sequence[str]) -> Ints:
    """Positions of the names that no sign uses, which routine care may use.

    >>> without_signs(["Sodium", "Chloride"])
    array([1])
    """
    return np.array([index for index, name in enumerate(names) if name not in SIGN_ITEMS])


def scatter(numbers: Ints, base: int) -> Ints:
    """Eight-digit ids that look random but are a one-to-one map of the numbers below ten million.

    >>> len(set(scatter(np.arange(1000), 2).tolist()))
    1000
    """
    return base * 10_000_000 + numbers * 7_368_787 % 10_000_000


@cache
def _hundredths() -> pl.Series:
    return pl.Series([f"{k / 100:.10g}" for k in range(300_001)])


def decimals(values: NDArray[np.float64]) -> pl.Series:
    """Numbers as text with at most two decimals, looked up because formatting each would dominate the run.

    >>> decimals(np.array([7.0, 7.35, -1.0])).to_list()
    ['7', '7.35', '0']
    """
    return _hundredths().gather(np.clip(np.rint(values * 100), 0, 300_000).astype(np.int64))


class Batch:
    """The course of a batch of patients, their ids, and a random generator for the records.

    Args:
        seed: of the data set.
        index: of the batch.
        size: number of its patients.
        keep: number of its patients to write.

    Attributes:
        visits: all visits; `ed` and `adm` are the positions of those with an ED stay and with an admission.
        icu, icu_in, icu_out, icu_stay: one entry for each ICU stay: position of its visit, times, stay_id.
    """

    def __init__(self, seed: int, index: int, size: int, keep: int) -> None:
        self.rng = np.random.default_rng([seed, index, 1])
        self.index, self.size, self.keep = index, size, keep
        self.course: Course = simulate(seed, index, size)
        self.visits: Visits = self.course.visits
        self.subject = 10_000_000 + self.course.number * 61 + self.course.number * 7919 % 61
        patient = self.visits.patient
        visit_number = np.arange(len(patient)) - np.searchsorted(patient, patient)
        self.visit_id = self.course.number[patient] * 8 + visit_number
        self.hadm = np.where(self.visits.hospital, scatter(self.visit_id, 2), -1)
        self.ed_stay = 30_000_000 + self.visit_id * 3 % 10_000_000
        self.ed = np.flatnonzero(self.visits.ed)
        self.adm = np.flatnonzero(self.visits.hospital)
        first, second = np.flatnonzero(self.visits.icu), np.flatnonzero(self.visits.second_icu)
        visit = np.r_[first, second]
        is_second = np.r_[np.zeros(len(first), np.int64), np.ones(len(second), np.int64)]
        order = np.lexsort((is_second, visit))
        self.icu = visit[order]
        self.icu_in = np.r_[self.visits.icu_in[first], self.visits.second_icu_in[second]][order]
        self.icu_out = np.r_[self.visits.icu_out[first], self.visits.second_icu_out[second]][order]
        self.icu_stay = 30_000_000 + (self.visit_id[self.icu] * 3 + 1 + is_second[order]) % 10_000_000

    # --- random values

    def uniform(self, low: float, high: float, n: int) -> NDArray[np.float64]:
        """`n` numbers between `low` and `high`."""
        return self.rng.uniform(low, high, n)

    def integers(self, low: int, high: int, n: int) -> Ints:
        """`n` whole numbers from `low` up to, but not including, `high`."""
        return self.rng.integers(low, high, n)

    def chance(self, p: float, n: int) -> Bools:
        """`n` truth values, true with probability `p`."""
        return self.rng.random(n) < p

    def one_of(self, texts: Sequence[str], n: int, missing: float = 0.0) -> pl.Series:
        """`n` texts; a share `missing` of them is missing."""
        codes = self.integers(0, len(texts), n)
        return pick(texts, np.where(self.chance(missing, n), -1, codes) if missing else codes)

    def choose(self, table: str, column: str, n: int) -> pl.Series:
        """`n` values of a column of `vocab.CHOICES`."""
        choice = vocab.CHOICES[table, column]
        return self.one_of(choice.values, n, choice.missing)

    def provider(self, n: int, missing: float = 0.0) -> pl.Series:
        """`n` ids of providers."""
        codes = [f"P{i:02d}{chr(65 + i % 26)}{chr(65 + i * 7 % 26)}{i % 10}" for i in range(100)]
        return self.one_of(codes, n, missing)

    def numbers(self, n: int, low: int, high: int, missing: float = 0.0) -> pl.Series:
        """`n` random ids, which are no keys."""
        series = pl.Series(self.integers(low, high, n))
        return series.set(pl.Series(self.chance(missing, n)), None) if missing else series

    # --- conditions and signs

    def of_condition(self, name: str, visit: Ints) -> pl.Series:
        """A field of the condition of each visit."""
        return field(vocab.CONDITIONS, name, self.visits.condition[visit])

    def has(self, sign: Sign, visit: Ints) -> Bools:
        """Whether visits have the indicator of a sign."""
        return self.visits.indicators[visit, INDICATORS.index(sign.indicator)]

    def signs(self, table: str, window: str) -> list[Sign]:
        """The signs that a table shows in a window."""
        return [sign for sign in SIGNS if sign.table == table and sign.window == window]

    def sign_times(self, sign: Sign, dose: int = 0) -> tuple[Ints, Ints]:
        """The visits with a sign and when it is recorded, inside the sign's window whatever the times of the visit.

        Args:
            dose: running number of the record, for signs that are recorded several times.
        """
        v = self.visits
        holders = {"ed": v.ed, "adm": v.hospital, "icu": v.icu, "end": v.hospital}[sign.window]
        visit = np.flatnonzero(holders & v.indicators[:, INDICATORS.index(sign.indicator)])
        n = len(visit)
        if sign.window == "ed":
            return visit, v.start[visit] + (HOUR * self.uniform(0.7, 3, n)).astype(np.int64)
        if sign.window == "end":
            time = midnight(v.out[visit]) - (HOUR * self.uniform(2, 12, n)).astype(np.int64)
            return visit, np.maximum(time, v.admit[visit] + HOUR)
        begin = v.admit if sign.window == "adm" else v.icu_in
        time = begin[visit] + (HOUR * self.uniform(1 + 7 * dose, 7 + 7 * dose, n)).astype(np.int64)
        return visit, np.minimum(time, v.out[visit] - 600)

    def rounds(self, step: int, first: int) -> tuple[Ints, Ints]:
        """Visit and time of repeated care from admission to discharge, jittered, at least once.

        Args:
            step: mean seconds between two rounds.
            first: seconds from admission to the first round.
        """
        v = self.visits
        length = v.out[self.adm] - v.admit[self.adm] - first - HOUR
        count = np.maximum(length // step, 0) + 1
        owner, j = spread(count)
        offset = first + ((j + 0.7 * self.rng.random(len(owner))) * np.minimum(step, length[owner] / count[owner]))
        visit = self.adm[owner]
        return visit, v.admit[visit] + offset.astype(np.int64)

    # --- tables

    def base(self, visit: Ints, time: Ints) -> Part:
        """The columns of a part that say whose records they are, and when."""
        return {"patient": self.visits.patient[visit], "visit": visit, "time": time}

    def frame(self, parts: Sequence[Part]) -> pl.DataFrame:
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
        """The columns of table `name`, of the patients that are kept; times and hadm_id below zero are missing."""
        if self.keep < self.size:
            table = table.filter(pl.col("patient") < self.keep)
        columns = []
        for column in vocab.ALL_TABLES[name].columns:
            if column not in table.columns:
                columns.append(pl.lit(None, pl.String).alias(column))
            elif column in TIME_COLUMNS and table.schema[column].is_numeric():
                microseconds = pl.col(column).cast(pl.Int64) * 1_000_000
                time = pl.when(pl.col(column) >= 0).then(microseconds).cast(pl.Datetime("us"))
                columns.append((time.cast(pl.Date) if (name, column) in DATE_COLUMNS else time).alias(column))
            elif column == "hadm_id":
                columns.append(pl.when(pl.col(column) >= 0).then(pl.col(column)).alias(column))
            else:
                columns.append(pl.col(column))
        return table.select(columns)
