"""The icu tables. Charting sets the pace: inputs, ingredients, outputs and dates fall on some of the charting times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, decimals, pick, spread, table, without_signs
from preprocess.synthetic.visits import DAY, HOUR, midnight

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Bools, Floats, Ints

PACE = ((0, 4500), (1, 5400), (7, 9000))  # seconds between charting times, from a day in intensive care on
LEADING = 12  # vital signs and scores at the head of the chart items, with which every full run starts
CAREGIVERS = (10_000, 99_999)  # bounds of their ids
STATUSES = ("FinishedRunning", "ChangeDose/Rate", "Stopped", "Paused")


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    clock = Clock(batch)
    charted = (chartevents, datetimeevents, ingredientevents, inputevents, outputevents)
    return {make.__name__: make(clock) for make in (icustays, *charted, procedureevents)}


class Clock:
    """The charting times of all ICU stays of a batch, in patient and time order.

    Attributes:
        stay, visit: position of the ICU stay, and of its visit, at each charting time.
        number: running number in the stay.
        first_day: whether it is on the first day of the stay.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
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

    def records(
        self, table: str, chance: float, low: int, high: int, step: int = 1, first: Ints | None = None
    ) -> list[tuple[Ints, Ints]]:
        """The positions of charting times and items: of usual records of an icu table, then of those of each sign.

        Args:
            chance: probability that a charting time has usual records.
            low, high: bounds of their number; `high` is not reached.
            step: from one item at a charting time to the next.
            first: positions among the usual items, from which the first one at a charting time is drawn; all by default.
        """
        batch, labels = self.batch, vocab.ICU_ITEMS[table]["label"]
        usual = without_signs(labels)
        at = np.flatnonzero(batch.chance(chance, len(self)))
        owner, j = spread(batch.integers(low, high, len(at)))
        at = at[owner]
        first = batch.any_of(np.arange(len(usual)) if first is None else first, len(self))
        rows = [(at, usual[(first[at] + j * step) % len(usual)])]
        early = (self.number >= 1) & (self.number <= 2)
        for sign in batch.signs(table, "icu"):
            at = np.flatnonzero(early & batch.has(sign, self.visit))
            rows.append((at, np.full(len(at), vocab.position(labels)[sign.item])))
        return rows

    def rows(self, at: Ints, **columns: Any) -> pl.DataFrame:
        """Rows of a table at positions of charting times."""
        return _rows(self.batch, self.stay[at], self.time[at], **columns)


def _rows(batch: Batch, stay: Ints, time: Ints, **columns: Any) -> pl.DataFrame:
    return batch.rows(batch.icu[stay], time, stay_id=batch.icu_stay[stay], **columns)


def icustays(clock: Clock) -> pl.DataFrame:
    """One row for each ICU stay."""
    batch = clock.batch
    unit, los = batch.of_condition("icu_unit", batch.icu), (batch.icu_out - batch.icu_in) / DAY
    columns = {"first_careunit": unit, "last_careunit": unit, "intime": batch.icu_in, "outtime": batch.icu_out, "los": los}
    return _rows(batch, np.arange(len(batch.icu)), batch.icu_in, **columns)


def chartevents(clock: Clock) -> pl.DataFrame:
    """Full runs, of the leading items and then some of the others, and short checks, which are one in five."""
    batch, items = clock.batch, vocab.ICU_ITEMS["chartevents"]
    n = len(clock)
    short = batch.chance(0.2, n)
    run, j = spread(np.where(short, batch.integers(1, 10, n), batch.integers(32, 66, n)))
    begin = batch.integers(0, len(items), n)[run]
    others = LEADING + (begin + j) % (len(items) - LEADING)
    item = np.where(short[run], (begin + j) % len(items), np.where(j < LEADING, j, others))

    # texts are positions in one list of all items' texts; the first text of an item is the usual one
    texts, scores = items["values"].explode(), items["scores"].explode().replace("", None)
    counts = items["values"].list.len().to_numpy().astype(np.int64)
    starts = np.cumsum(counts) - counts
    is_text = counts[item] > 0
    u = batch.rng.random(len(run))
    text = starts[item] + (u * u * np.maximum(counts[item], 1)).astype(np.int64)
    mean, sd = (items[name].to_numpy()[item] for name in ("mean", "sd"))
    of_stay = 0.6 * batch.rng.standard_normal(len(batch.icu))[clock.stay][run]
    number = mean + sd * (of_stay + 0.8 * batch.rng.standard_normal(len(run), dtype=np.float32))
    number = np.where(sd < 1, np.rint(number * 10) / 10, np.rint(number))
    for sign in batch.signs("chartevents", "icu"):
        k = vocab.position(items["label"])[sign.item]
        abnormal = starts[k] + items["values"][k].to_list().index(sign.value)
        shown = batch.has(sign, clock.visit) & clock.first_day
        text = np.where((item == k) & shown[run], abnormal, np.where((item == k) & (text == abnormal), starts[k], text))
        u = np.where(item == k, 1.0, u)  # never missing

    missing = u < 0.2
    text = np.where(is_text & ~missing, text, -1)
    is_number = pl.Series(~(is_text | missing))
    numbers = decimals(np.where(is_text, 0, number))
    return clock.rows(
        run,
        itemid=pick(items["itemid"], item),
        value=numbers.zip_with(is_number, pick(texts, text)),
        valuenum=numbers.zip_with(is_number, pick(scores, text)),
        valueuom=pick(items["unit"], np.where(is_text | missing, -1, item)),
    )


def datetimeevents(clock: Clock) -> pl.DataFrame:
    """Dates of lines and tubes."""
    batch, items = clock.batch, vocab.ICU_ITEMS["datetimeevents"]
    parts = []
    for at, item in clock.records("datetimeevents", 0.17, 2, 11):
        time, n = clock.time[at], len(at)
        value = midnight(time) - DAY * batch.integers(0, 6, n)
        columns = {"caregiver_id": batch.numbers(n, *CAREGIVERS), "storetime": time + 60 * batch.integers(0, 40, n)}
        itemid = pick(items["itemid"], item)
        parts.append(clock.rows(at, **columns, value=value, itemid=itemid, valueuom="Date", warning="0"))
    return table(*parts).with_columns((pl.col("value") * 1_000_000).cast(pl.Datetime("us")))


def _by_time(rows: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Charting times and items of several lists, sorted by charting time."""
    at, item = map(np.concatenate, zip(*rows, strict=True))
    order = np.argsort(at, kind="stable")
    return at[order], item[order]


def _drip(clock: Clock, at: Ints, items: pl.DataFrame, item: Ints, usual_amount: Floats, has_rate: Bools) -> pl.DataFrame:
    """What input and ingredient rows share; amounts have the many digits of pump arithmetic."""
    batch, time, n = clock.batch, clock.time[at], len(at)
    hours = batch.uniform(0.3, 6, n)
    amount = usual_amount * batch.uniform(0.2, 1.8, n) + 1e-3
    rate = amount / hours
    order = batch.numbers(n, 1_000_000, 9_999_999)
    return clock.rows(
        at,
        itemid=pick(items["itemid"], item),
        amountuom=pick(items["unit"], item),
        rateuom=pick(items["rate_unit"], np.where(has_rate, item, -1)),
        caregiver_id=batch.numbers(n, *CAREGIVERS),
        starttime=time,
        endtime=time + (hours * HOUR).astype(np.int64) // 60 * 60,
        storetime=time + 60 * batch.integers(1, 50, n),
        amount=np.where(batch.chance(0.72, n), np.round(amount, 11), np.rint(amount + 1)),
        rate=pl.Series(np.round(rate, 11)).set(pl.Series(~has_rate), None),
        orderid=order,
        linkorderid=order,
        statusdescription=pick(STATUSES, np.where(batch.chance(0.64, n), 0, batch.integers(1, 4, n))),
        originalrate=np.round(rate, 6),
    )


def inputevents(clock: Clock) -> pl.DataFrame:
    """Fluids and drugs; those that are not pushed have a rate."""
    batch, items = clock.batch, vocab.ICU_ITEMS["inputevents"]
    at, item = _by_time(clock.records("inputevents", 0.4, 1, 6, step=5))
    n = len(at)
    has_rate = (items["description"] != "Drug Push").to_numpy()[item]
    weight = batch.uniform(45, 120, len(batch.icu)).round(0)
    total = batch.integers(1, 11, n) * 50
    rows = _drip(clock, at, items, item, items["amount"].to_numpy()[item], has_rate)
    orders = batch.choose("inputevents", n, "secondaryordercategoryname", "ordercomponenttypedescription")
    return rows.with_columns(
        **orders,
        ordercategoryname=pick(items["category"], item),
        ordercategorydescription=pick(items["description"], item),
        patientweight=decimals(weight[clock.stay[at]]),
        isopenbag=pl.lit("0"),
        continueinnextdept=pl.lit("0"),
        originalamount=total,
        totalamount=pl.Series(total).set(pl.Series(batch.chance(0.16, n)), None),
        totalamountuom=pl.lit("ml"),
    )


def ingredientevents(clock: Clock) -> pl.DataFrame:
    """Ingredients of fluids and nutrition."""
    at, item = _by_time(clock.records("ingredientevents", 0.4, 2, 7))
    has_rate = clock.batch.chance(0.66, len(at))
    rows = _drip(clock, at, vocab.ICU_ITEMS["ingredientevents"], item, np.full(len(at), 60.0), has_rate)
    return rows.with_columns(originalamount=pl.lit("0"))


def outputevents(clock: Clock) -> pl.DataFrame:
    """Urine, drains and stool."""
    batch, items = clock.batch, vocab.ICU_ITEMS["outputevents"]
    first = np.minimum(np.arange(12) % 9, len(without_signs(items["label"])) - 1)
    records = clock.records("outputevents", 0.38, 1, 3, first=first)
    values = [decimals(batch.integers(1, 40, len(records[0][0])) * 10)]
    values += [sign.value for sign in batch.signs("outputevents", "icu")]
    parts = []
    for (at, item), value in zip(records, values, strict=True):
        n, itemid = len(at), pick(items["itemid"], item)
        columns = {"caregiver_id": batch.numbers(n, *CAREGIVERS), "storetime": clock.time[at] + 60 * batch.integers(1, 50, n)}
        parts.append(clock.rows(at, **columns, value=value, valueuom="ml", itemid=itemid))
    return table(*parts)


def procedureevents(clock: Clock) -> pl.DataFrame:
    """About a procedure every half day, off the charting times; lines have a location."""
    batch, items = clock.batch, vocab.ICU_ITEMS["procedureevents"]
    length = batch.icu_out - batch.icu_in
    counts = 2 + length // (14 * HOUR)
    stay, j = spread(counts)
    time = batch.icu_in[stay] + HOUR // 2 + (length[stay] - HOUR) * j // counts[stay]
    rows = [(stay, time, batch.any_of(without_signs(items["label"]), len(stay)))]
    for sign in batch.signs("procedureevents", "icu"):
        stay = np.flatnonzero(batch.has(sign, batch.icu))
        k = vocab.position(items["label"])[sign.item]
        rows.append((stay, batch.icu_in[stay] + HOUR + k * 60, np.full(len(stay), k)))
    parts = []
    for stay, time, item in rows:
        time, n = time // 60 * 60, len(stay)
        minutes = batch.integers(1, 2000, n)
        order = batch.numbers(n, 1_000_000, 9_999_999)
        is_line = items["category"].str.contains("Lines").to_numpy()[item]
        caregiver = batch.numbers(n, *CAREGIVERS, 0.16)
        place = np.where(is_line, batch.integers(0, 3, n), -1)
        weight = batch.integers(45, 120, n)
        columns = {
            "caregiver_id": caregiver,
            "starttime": time,
            "endtime": time + 60 * minutes,
            "storetime": time + 60 * minutes,
            "itemid": pick(items["itemid"], item),
            "value": minutes,
            "valueuom": "min",
            "location": pick(("Right Antecubital", "Left Lower Arm", "Right IJ"), place),
            "locationcategory": pick(("Peripheral",), np.minimum(place, 0)),
            "orderid": order,
            "linkorderid": order,
            "ordercategoryname": pick(items["category"], item),
            "ordercategorydescription": pick(items["description"], item),
            "patientweight": weight,
            "isopenbag": "0",
            "continueinnextdept": "0",
            "statusdescription": "FinishedRunning",
            "ORIGINALAMOUNT": minutes,
            "ORIGINALRATE": "1",
        }
        parts.append(_rows(batch, stay, time, **columns))
    return table(*parts)
