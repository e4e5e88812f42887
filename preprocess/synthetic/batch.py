"""A batch of synthetic patients, and what the builders of its tables share.

A table is built from a few frames, each with arrays of equal length: `Batch.rows` adds the columns that say whose the rows
are, `table` sorts the frames by patient and time, and `Batch.columns` fills absent columns with nulls and converts times.
Records of the routine of care come from the condition of the visit; records of signs (`vocab.SIGNS`) come from its
indicators and are written for no other reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic.visits import HOUR, midnight, simulate
from preprocess.synthetic.vocab import ALL_TABLES, CHOICES, CONDITIONS, INDICATORS, SIGN_ITEMS, SIGNS, Sign, position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.visits import Bools, Floats, Ints

TIME_COLUMNS = {
    "charttime", "storetime", "starttime", "stoptime", "endtime", "intime", "outtime", "admittime", "dischtime",
    "deathtime", "edregtime", "edouttime", "ordertime", "entertime", "verifiedtime", "transfertime", "scheduletime",
    "chartdate", "storedate", "dod",
}  # fmt: skip
# columns written as a date alone
DATE_COLUMNS = {("patients", "dod"), ("omr", "chartdate"), ("procedures_icd", "chartdate"), ("hcpcsevents", "chartdate")}


def pick(values: Sequence[Any] | pl.Series, codes: Ints) -> pl.Series:
    """Values by position; -1 is missing.

    >>> pick(["a", "b"], np.array([1, -1])).to_list()
    ['b', None]
    """
    return pl.Series([*values, None]).gather(np.where(codes < 0, len(values), codes))


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """Owner and running number of each row, for owners with `counts` rows.

    >>> spread(np.array([2, 0, 1]))
    (array([0, 0, 2]), array([0, 1, 0]))
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, running_number(owner)


def running_number(owner: Ints) -> Ints:
    """The number of each row among those of its owner, from 0; rows are sorted by owner."""
    return np.arange(len(owner)) - np.searchsorted(owner, owner)


def without_signs(names: Sequence[str] | pl.Series) -> Ints:
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


def decimals(values: Floats) -> pl.Series:
    """Numbers as text with at most two decimals, looked up because formatting each would dominate the run.

    >>> decimals(np.array([7.0, 7.35, -1.0])).to_list()
    ['7', '7.35', '0']
    """
    return _hundredths().gather(np.clip(np.rint(values * 100), 0, 300_000).astype(np.int64))


def table(*parts: pl.DataFrame) -> pl.DataFrame:
    """The rows of all parts, sorted by patient and time."""
    return pl.concat(parts, how="diagonal_relaxed").sort("patient", "time", maintain_order=True)


class Batch:
    """The course of a batch of patients, their ids, and a random generator for the records.

    Args:
        seed, index: of the data set, and of the batch in it.
        size, keep: number of its patients, and of those to write.

    Attributes:
        uniform, integers: methods of numpy's Generator: `n` numbers between two bounds, of which the upper is not reached.
        visits: all visits; `ed` and `adm` are the positions of those with an ED stay and with an admission.
        icu, icu_in, icu_out, icu_stay: one entry for each ICU stay: position of its visit, times, stay_id.
    """

    def __init__(self, seed: int, index: int, size: int, keep: int) -> None:
        self.rng = np.random.default_rng([seed, index, 1])
        self.uniform, self.integers = self.rng.uniform, self.rng.integers
        self.index, self.size, self.keep = index, size, keep
        self.course = simulate(seed, index, size)
        self.visits = v = self.course.visits
        self.subject = 10_000_000 + self.course.number * 61 + self.course.number * 7919 % 61
        self.visit_id = self.course.number[v.patient] * 8 + running_number(v.patient)
        self.hadm = np.where(v.hospital, scatter(self.visit_id, 2), -1)
        self.ed_stay = 30_000_000 + self.visit_id * 3 % 10_000_000
        self.ed, self.adm = np.flatnonzero(v.ed), np.flatnonzero(v.hospital)
        visit, is_second = np.nonzero(np.c_[v.icu, v.second_icu])
        self.icu = visit
        self.icu_in = np.where(is_second, v.second_icu_in[visit], v.icu_in[visit])
        self.icu_out = np.where(is_second, v.second_icu_out[visit], v.icu_out[visit])
        self.icu_stay = 30_000_000 + (self.visit_id[visit] * 3 + 1 + is_second) % 10_000_000

    # --- random values

    def chance(self, p: float, n: int) -> Bools:
        """`n` truth values, true with probability `p`."""
        return self.rng.random(n) < p

    def any_of(self, values: Ints, n: int) -> Ints:
        """`n` of the values."""
        return values[self.integers(0, len(values), n)]

    def one_of(self, n: int, texts: Sequence[str], missing: float = 0.0) -> pl.Series:
        """`n` of the texts; a share `missing` is missing."""
        codes = self.integers(0, len(texts), n)
        return pick(texts, np.where(self.chance(missing, n), -1, codes) if missing else codes)

    def choose(self, table: str, n: int, *columns: str) -> dict[str, pl.Series]:
        """`n` values of columns of `vocab.CHOICES`."""
        return {column: self.one_of(n, *CHOICES[table, column]) for column in columns}

    def provider(self, n: int, missing: float = 0.0) -> pl.Series:
        """`n` ids of providers."""
        codes = [f"P{i:02d}{chr(65 + i % 26)}{chr(65 + i * 7 % 26)}{i % 10}" for i in range(100)]
        return self.one_of(n, codes, missing)

    def numbers(self, n: int, low: int, high: int, missing: float = 0.0) -> pl.Series:
        """`n` random ids, which are no keys."""
        series = pl.Series(self.integers(low, high, n))
        return series.set(pl.Series(self.chance(missing, n)), None) if missing else series

    # --- conditions and signs

    def of_condition(self, field: str, visit: Ints) -> pl.Series:
        """A field of the condition of each visit."""
        return pick([getattr(condition, field) for condition in CONDITIONS], self.visits.condition[visit])

    def one_of_condition(self, field: str, names: pl.Series, visit: Ints, width: int = 0) -> Ints:
        """One of the first `width` names (by default all) in a list field of the condition of each visit.

        Returns:
            Their positions in `names`; none is of a sign.
        """
        at = position(names)
        lists = [[at[name] for name in getattr(condition, field) if name not in SIGN_ITEMS] for condition in CONDITIONS]
        width = width or max(map(len, lists))
        positions = np.array([(entries * width)[:width] for entries in lists])  # shorter lists are repeated
        return positions[self.visits.condition[visit], self.integers(0, width, len(visit))]

    def has(self, sign: Sign, visit: Ints) -> Bools:
        """Whether visits have the indicator of a sign."""
        return self.visits.indicators[visit, INDICATORS.index(sign.indicator)]

    def signs(self, table: str, window: str) -> list[Sign]:
        """The signs that a table shows in a window."""
        return [sign for sign in SIGNS if sign.table == table and sign.window == window]

    def timed_signs(self, table: str, *windows: str) -> Iterator[tuple[Sign, Ints, Ints]]:
        """The signs that a table shows in windows, each with its visits and times."""
        for window in windows:
            for sign in self.signs(table, window):
                yield sign, *self.sign_times(sign)

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

    def in_order(self, *parts: tuple[NDArray, ...]) -> Iterator[NDArray]:
        """Concatenate parts, each the arrays (visit, time, ...), array by array, and sort them by patient and time."""
        arrays = [np.concatenate(values) for values in zip(*parts, strict=True)]
        order = np.lexsort((arrays[1], self.visits.patient[arrays[0]]))
        return (values[order] for values in arrays)

    def rows(self, visit: Ints, time: Ints, **columns: Any) -> pl.DataFrame:
        """Rows with `columns` (arrays, or a text or None for all rows), and with what follows from their visit and time.

        These are patient, visit, time and subject_id, and unless `columns` has them, hadm_id and charttime.
        """
        patient = self.visits.patient[visit]
        keys = {"patient": patient, "visit": visit, "time": time, "subject_id": self.subject[patient]}
        columns = keys | {"hadm_id": self.hadm[visit], "charttime": time} | columns
        constants = {name: pl.lit(value) for name, value in columns.items() if value is None or isinstance(value, str)}
        return pl.DataFrame({k: v for k, v in columns.items() if k not in constants}).with_columns(**constants)

    def columns(self, name: str, table: pl.DataFrame) -> pl.DataFrame:
        """The columns of table `name`, of the patients that are kept; times, hadm_id and stay_id below zero are missing."""
        if self.keep < self.size:
            table = table.filter(pl.col("patient") < self.keep)
        columns = []
        for column in ALL_TABLES[name].columns:
            if column not in table.columns:
                columns.append(pl.lit(None, pl.String).alias(column))
            elif column in TIME_COLUMNS and table.schema[column].is_numeric():
                microseconds = pl.col(column).cast(pl.Int64) * 1_000_000
                time = pl.when(pl.col(column) >= 0).then(microseconds).cast(pl.Datetime("us"))
                columns.append((time.cast(pl.Date) if (name, column) in DATE_COLUMNS else time).alias(column))
            elif column in ("hadm_id", "stay_id"):
                columns.append(pl.when(pl.col(column) >= 0).then(pl.col(column)).alias(column))
            else:
                columns.append(pl.col(column))
        return table.select(columns)
