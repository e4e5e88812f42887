"""The icu tables. Charting sets the pace: inputs, ingredients, outputs and dates fall on some of the charting times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, decimals, field, pick, spread, without_signs
from preprocess.synthetic.visits import DAY, HOUR
from preprocess.synthetic.vocab import (
    CHART_ITEMS,
    DATETIME_ITEMS,
    INGREDIENT_ITEMS,
    INPUT_ITEMS,
    OUTPUT_ITEMS,
    PROCEDURE_ITEMS,
)

if TYPE_CHECKING:
    from preprocess.synthetic.batch import Part
    from preprocess.synthetic.visits import Bools, Floats, Ints

PACE = ((0, 4500), (1, 5400), (7, 9000))
"""Seconds between charting times, from a day in intensive care on."""
LEADING = 12
"""Vital signs and scores at the head of `CHART_ITEMS`, with which every full run starts."""
STATUSES = ("FinishedRunning", "ChangeDose/Rate", "Stopped", "Paused")


def icu_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    clock = Clock(batch)
    return {
        "icustays": icustays(batch),
        "chartevents": chartevents(batch, clock),
        "datetimeevents": datetimeevents(batch, clock),
        "ingredientevents": ingredientevents(batch, clock),
        "inputevents": inputevents(batch, clock),
        "outputevents": outputevents(batch, clock),
        "procedureevents": procedureevents(batch),
    }


class Clock:
    """The charting times of all ICU stays of a batch, in patient and time order.

    Attributes:
        stay, visit: position of the ICU stay, and of its visit, at each charting time.
        number: running number in the stay.
        first_day: whether it is on the first day of the stay.
    """

    def __init__(self, batch: Batch) -> None:
        ends = [day * DAY for day, _ in PACE[1:]] + [100 * DAY]
        times = [np.arange(day * DAY, end - step + 1, step) for (day, step), end in zip(PACE, ends, strict=True)]
        times = np.concatenate(times) + 35 * 60
        # the last time of a stay leaves half an hour at its end
        self.stay, self.number = spread(np.searchsorted(times, batch.icu_out - batch.icu_in - HOUR // 2))
        self.time = (batch.icu_in[self.stay] + times[self.number]) // 60 * 60
        self.first_day = times[self.number] < DAY
        self.visit = batch.icu[self.stay]

    def __len__(self) -> int:
        return len(self.stay)

    def some(self, batch: Batch, chance: float, low: int, high: int) -> tuple[Ints, Ints]:
        """Rows at some charting times: the position of the charting time, and the running number of the row at it.

        Args:
            chance: probability that a charting time has rows.
            low, high: bounds of their number; `high` is not reached.
        """
        at = np.flatnonzero(batch.chance(chance, len(self)))
        owner, j = spread(batch.integers(low, high, len(at)))
        return at[owner], j

    def signs(self, batch: Batch, table: str, entries: Sequence[Any]) -> list[tuple[Ints, Ints]]:
        """For each sign of an icu table: the two charting times at which it is recorded, and the position of its item."""
        early = (self.number >= 1) & (self.number <= 2)
        rows = []
        for sign in batch.signs(table, "icu"):
            at = np.flatnonzero(early & batch.has(sign, self.visit))
            rows.append((at, np.full(len(at), vocab.position(entries, "label")[sign.item])))
        return rows


def _base(batch: Batch, stay: Ints, time: Ints | None = None) -> Part:
    """The columns of a part that say whose records they are, and when."""
    visit = batch.icu[stay]
    part = {"patient": batch.visits.patient[visit], "visit": visit, "stay_id": batch.icu_stay[stay]}
    return part if time is None else part | {"time": time}


def _itemids(entries: Sequence[Any], item: Ints) -> Ints:
    return np.array([entry.itemid for entry in entries])[item]


def _usual(entries: Sequence[Any]) -> Ints:
    return without_signs([entry.label for entry in entries])


def _caregiver(batch: Batch, n: int, missing: float = 0.0) -> pl.Series:
    return batch.numbers(n, 10_000, 99_999, missing)


def icustays(batch: Batch) -> pl.DataFrame:
    """One row for each ICU stay."""
    unit = batch.of_condition("icu_unit", batch.icu)
    part = _base(batch, np.arange(len(batch.icu)), batch.icu_in) | {
        "first_careunit": unit,
        "last_careunit": unit,
        "intime": batch.icu_in,
        "outtime": batch.icu_out,
        "los": (batch.icu_out - batch.icu_in) / DAY,
    }
    return batch.frame([part])


def chartevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Full runs, of the leading items and then some of the others, and short checks, which are one in five."""
    n = len(clock)
    short = batch.chance(0.2, n)
    run, j = spread(np.where(short, batch.integers(1, 10, n), batch.integers(32, 66, n)))
    begin = batch.integers(0, len(CHART_ITEMS), n)[run]
    others = LEADING + (begin + j) % (len(CHART_ITEMS) - LEADING)
    item = np.where(short[run], (begin + j) % len(CHART_ITEMS), np.where(j < LEADING, j, others))

    # texts are positions in one list of all items' texts; the first text of an item is the usual one
    texts = [text for entry in CHART_ITEMS for text in entry.values]
    scores = [score or None for entry in CHART_ITEMS for score in entry.scores]
    counts = np.array([len(entry.values) for entry in CHART_ITEMS])
    starts = np.cumsum(counts) - counts
    is_text = counts[item] > 0
    u = batch.rng.random(len(run))
    text = starts[item] + (u * u * np.maximum(counts[item], 1)).astype(np.int64)
    mean, sd = (np.array([getattr(entry, name) for entry in CHART_ITEMS])[item] for name in ("mean", "sd"))
    of_stay = 0.6 * batch.rng.standard_normal(len(batch.icu))[clock.stay][run]
    number = mean + sd * (of_stay + 0.8 * batch.rng.standard_normal(len(run), dtype=np.float32))
    number = np.where(sd < 1, np.rint(number * 10) / 10, np.rint(number))
    for sign in batch.signs("chartevents", "icu"):
        k = vocab.position(CHART_ITEMS, "label")[sign.item]
        abnormal = starts[k] + CHART_ITEMS[k].values.index(sign.value)
        shown = batch.has(sign, clock.visit) & clock.first_day
        text = np.where((item == k) & shown[run], abnormal, np.where((item == k) & (text == abnormal), starts[k], text))
        u = np.where(item == k, 1.0, u)  # never missing

    missing = u < 0.2
    text = np.where(is_text & ~missing, text, -1)
    is_number = pl.Series(~(is_text | missing))
    numbers = decimals(np.where(is_text, 0, number))
    part = _base(batch, clock.stay[run]) | {
        "charttime": clock.time[run],
        "itemid": _itemids(CHART_ITEMS, item),
        "value": numbers.zip_with(is_number, pick(texts, text)),
        "valuenum": numbers.zip_with(is_number, pick(scores, text)),
        "valueuom": field(CHART_ITEMS, "unit", np.where(is_text | missing, -1, item)),
    }
    return batch.frame([part])


def datetimeevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Dates of lines and tubes."""
    usual = _usual(DATETIME_ITEMS)
    at, j = clock.some(batch, 0.17, 2, 11)
    item = usual[(batch.integers(0, len(usual), len(clock))[at] + j) % len(usual)]
    rows = [(at, item), *clock.signs(batch, "datetimeevents", DATETIME_ITEMS)]
    parts = []
    for at, item in rows:
        time, n = clock.time[at], len(at)
        value = time // DAY * DAY - DAY * batch.integers(0, 6, n)
        parts.append(
            _base(batch, clock.stay[at], time)
            | {
                "caregiver_id": _caregiver(batch, n),
                "charttime": time,
                "storetime": time + 60 * batch.integers(0, 40, n),
                "value": value,
                "itemid": _itemids(DATETIME_ITEMS, item),
                "valueuom": "Date",
                "warning": "0",
            }
        )
    return batch.frame(parts).with_columns((pl.col("value") * 1_000_000).cast(pl.Datetime("us")))


def _by_time(rows: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Charting times and items of several lists, sorted by charting time."""
    at, item = map(np.concatenate, zip(*rows, strict=True))
    order = np.argsort(at, kind="stable")
    return at[order], item[order]


def _drip(batch: Batch, clock: Clock, at: Ints, usual_amount: Floats, has_rate: Bools) -> Part:
    """What input and ingredient rows share; amounts have the many digits of pump arithmetic."""
    time, n = clock.time[at], len(at)
    hours = batch.uniform(0.3, 6, n)
    amount = usual_amount * batch.uniform(0.2, 1.8, n) + 1e-3
    rate = amount / hours
    order = batch.numbers(n, 1_000_000, 9_999_999)
    return _base(batch, clock.stay[at], time) | {
        "caregiver_id": _caregiver(batch, n),
        "starttime": time,
        "endtime": time + (hours * HOUR).astype(np.int64) // 60 * 60,
        "storetime": time + 60 * batch.integers(1, 50, n),
        "amount": np.where(batch.chance(0.72, n), np.round(amount, 11), np.rint(amount + 1)),
        "rate": pl.Series(np.round(rate, 11)).set(pl.Series(~has_rate), None),
        "orderid": order,
        "linkorderid": order,
        "statusdescription": pick(STATUSES, np.where(batch.chance(0.64, n), 0, batch.integers(1, 4, n))),
        "originalrate": np.round(rate, 6),
    }


def inputevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Fluids and drugs; those that are not pushed have a rate."""
    usual = _usual(INPUT_ITEMS)
    at, j = clock.some(batch, 0.4, 1, 6)
    item = usual[(batch.integers(0, len(usual), len(clock))[at] + j * 5) % len(usual)]
    at, item = _by_time([(at, item), *clock.signs(batch, "inputevents", INPUT_ITEMS)])
    n = len(at)
    has_rate = np.array([entry.description != "Drug Push" for entry in INPUT_ITEMS])[item]
    weight = batch.uniform(45, 120, len(batch.icu)).round(0)
    total = batch.integers(1, 11, n) * 50
    part = _drip(batch, clock, at, np.array([entry.amount for entry in INPUT_ITEMS])[item], has_rate) | {
        "itemid": _itemids(INPUT_ITEMS, item),
        "amountuom": field(INPUT_ITEMS, "unit", item),
        "rateuom": field(INPUT_ITEMS, "rate_unit", np.where(has_rate, item, -1)),
        "ordercategoryname": field(INPUT_ITEMS, "category", item),
        "ordercategorydescription": field(INPUT_ITEMS, "description", item),
        "patientweight": decimals(weight[clock.stay[at]]),
        "isopenbag": "0",
        "continueinnextdept": "0",
        "originalamount": total,
    }
    for column in ("secondaryordercategoryname", "ordercomponenttypedescription"):
        part[column] = batch.choose("inputevents", column, n)
    part["totalamount"] = pl.Series(total).set(pl.Series(batch.chance(0.16, n)), None)
    return batch.frame([part | {"totalamountuom": "ml"}])


def ingredientevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Ingredients of fluids and nutrition."""
    usual = _usual(INGREDIENT_ITEMS)
    at, j = clock.some(batch, 0.4, 2, 7)
    item = usual[(batch.integers(0, len(usual), len(clock))[at] + j) % len(usual)]
    at, item = _by_time([(at, item), *clock.signs(batch, "ingredientevents", INGREDIENT_ITEMS)])
    has_rate = batch.chance(0.66, len(at))
    part = _drip(batch, clock, at, np.full(len(at), 60.0), has_rate) | {
        "itemid": _itemids(INGREDIENT_ITEMS, item),
        "amountuom": field(INGREDIENT_ITEMS, "unit", item),
        "rateuom": field(INGREDIENT_ITEMS, "rate_unit", np.where(has_rate, item, -1)),
        "originalamount": "0",
    }
    return batch.frame([part])


def outputevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Urine, drains and stool."""
    usual = _usual(OUTPUT_ITEMS)
    at, j = clock.some(batch, 0.38, 1, 3)
    first = np.minimum(batch.integers(0, 12, len(clock)) % 9, len(usual) - 1)[at]
    rows = [(at, usual[(first + j) % len(usual)], batch.integers(1, 40, len(at)) * 10.0)]
    signs = batch.signs("outputevents", "icu")
    for sign, (at, item) in zip(signs, clock.signs(batch, "outputevents", OUTPUT_ITEMS), strict=True):
        rows.append((at, item, np.full(len(at), float(sign.value))))
    parts = []
    for at, item, value in rows:
        time, n = clock.time[at], len(at)
        parts.append(
            _base(batch, clock.stay[at], time)
            | {
                "caregiver_id": _caregiver(batch, n),
                "charttime": time,
                "storetime": time + 60 * batch.integers(1, 50, n),
                "value": decimals(value),
                "valueuom": "ml",
                "itemid": _itemids(OUTPUT_ITEMS, item),
            }
        )
    return batch.frame(parts)


def procedureevents(batch: Batch) -> pl.DataFrame:
    """About a procedure every half day, off the charting times; lines have a location."""
    usual = _usual(PROCEDURE_ITEMS)
    length = batch.icu_out - batch.icu_in
    counts = 2 + length // (14 * HOUR)
    stay, j = spread(counts)
    time = batch.icu_in[stay] + HOUR // 2 + (length[stay] - HOUR) * j // counts[stay]
    rows = [(stay, time, usual[batch.integers(0, len(usual), len(stay))])]
    for sign in batch.signs("procedureevents", "icu"):
        stay = np.flatnonzero(batch.has(sign, batch.icu))
        k = vocab.position(PROCEDURE_ITEMS, "label")[sign.item]
        rows.append((stay, batch.icu_in[stay] + HOUR + k * 60, np.full(len(stay), k)))
    parts = []
    for stay, time, item in rows:
        time, n = time // 60 * 60, len(stay)
        minutes = batch.integers(1, 2000, n)
        order = batch.numbers(n, 1_000_000, 9_999_999)
        is_line = np.array(["Lines" in entry.category for entry in PROCEDURE_ITEMS])[item]
        location = np.where(is_line, 0, -1)
        parts.append(
            _base(batch, stay, time)
            | {
                "caregiver_id": _caregiver(batch, n, 0.16),
                "starttime": time,
                "endtime": time + 60 * minutes,
                "storetime": time + 60 * minutes,
                "itemid": _itemids(PROCEDURE_ITEMS, item),
                "value": decimals(minutes.astype(float)),
                "valueuom": "min",
                "location": pick(
                    ("Right Antecubital", "Left Lower Arm", "Right IJ"), np.where(is_line, batch.integers(0, 3, n), -1)
                ),
                "locationcategory": pick(("Peripheral",), location),
                "orderid": order,
                "linkorderid": order,
                "ordercategoryname": field(PROCEDURE_ITEMS, "category", item),
                "ordercategorydescription": field(PROCEDURE_ITEMS, "description", item),
                "patientweight": decimals(batch.integers(45, 120, n).astype(float)),
                "isopenbag": "0",
                "continueinnextdept": "0",
                "statusdescription": "FinishedRunning",
                "ORIGINALAMOUNT": decimals(minutes.astype(float)),
                "ORIGINALRATE": "1",
            }
        )
    return batch.frame(parts)
