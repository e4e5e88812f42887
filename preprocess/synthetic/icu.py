"""The icu tables of a batch of synthetic patients.

Charting sets the pace: runs of chart items every 75 minutes on the first day, more rarely later (`PACE`); inputs,
ingredients, outputs and dates fall on some of the charting times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab as vocab
from preprocess.synthetic.patients import Batch, decimals, pick, spread
from preprocess.synthetic.visits import DAY, HOUR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.patients import Part

PACE = ((0, 4500), (1, 5400), (7, 9000))
"""From which day in intensive care on charting times are so many seconds apart."""
LEADING = 12
"""Vital signs and scores at the head of every full run."""


def icu_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """All icu tables but the dictionaries."""
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
    """The charting times of all ICU stays of a batch, in patient and time order."""

    def __init__(self, batch: Batch) -> None:
        length = batch.icu_out - batch.icu_in
        ends = [day * DAY for day, _ in PACE[1:]] + [100 * DAY]
        times = np.concatenate([
            np.arange(day * DAY, end - step + 1, step) for (day, step), end in zip(PACE, ends, strict=True)
        ]) + 35 * 60  # fmt: skip
        # the last time of a stay leaves half an hour at its end
        self.stay, number = spread(np.searchsorted(times, length - HOUR // 2))
        self.time = (batch.icu_in[self.stay] + times[number]) // 60 * 60
        self.first_day = times[number] < DAY
        self.visit = batch.icu[self.stay]
        self.number = number


def _stay_part(batch: Batch, stay: NDArray[np.int64]) -> Part:
    visit = batch.icu[stay]
    return {"patient": batch.v["patient"][visit], "visit": visit, "stay_id": batch.icu_stay[stay]}


def icustays(batch: Batch) -> pl.DataFrame:
    stay = np.arange(len(batch.icu))
    part = _stay_part(batch, stay)
    unit = batch.by_condition([c.icu_unit for c in vocab.CONDITIONS], part["visit"])
    part |= {
        "first_careunit": unit, "last_careunit": unit, "intime": batch.icu_in, "outtime": batch.icu_out,
        "time": batch.icu_in, "los": (batch.icu_out - batch.icu_in) / DAY,
    }  # fmt: skip
    return batch.frame("icustays", [part])


def chartevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    """Full runs start with the leading items and go on through the others; one in five is a short check."""
    items = vocab.CHART_ITEMS
    n = len(clock.stay)
    short = batch.chance(0.2, n)
    sizes = np.where(short, batch.integers(1, 10, n), batch.integers(32, 66, n))
    run, j = spread(sizes)
    begin = batch.integers(0, len(items), n)[run]
    rest = len(items) - LEADING
    item = np.where(short[run], (begin + j) % len(items), np.where(j < LEADING, j, LEADING + (begin + j) % rest))

    # values: numbers from a table of decimals, texts from one list of all items' texts; text 0 is the usual one
    texts, scores = [text for i in items for text in i.values], [score for i in items for score in i.scores]
    counts = np.array([len(i.values) for i in items])
    starts = np.cumsum(counts) - counts
    is_text = counts[item] > 0
    u = batch.rng.random(len(run))
    code = starts[item] + (u * u * np.maximum(counts[item], 1)).astype(np.int64)
    mean, sd = np.array([i.mean for i in items]), np.array([i.sd for i in items])
    ill = 0.6 * batch.rng.standard_normal(len(batch.icu))[clock.stay][run]
    value = mean[item] + sd[item] * (ill + 0.8 * batch.rng.standard_normal(len(run), dtype=np.float32))
    value = np.where(sd[item] < 1, np.rint(value * 10) / 10, np.rint(value))
    for sign in batch.signs("chartevents", "icu"):
        at = next(k for k, i in enumerate(items) if i.label == sign.item)
        bad = starts[at] + items[at].values.index(sign.value)
        mine = item == at
        shown = batch.has(sign, clock.visit) & clock.first_day
        code = np.where(mine & shown[run], bad, np.where(mine & (code == bad), starts[at], code))
        u = np.where(mine, 1.0, u)  # never missing

    missing = u < 0.2
    number = decimals(np.where(is_text, 0, value))
    said = np.where(is_text & ~missing, code, -1)
    columns = pl.DataFrame(
        {
            "text": pick(texts, said),
            "score": pick([score or None for score in scores], said),
            "number": number,
            "is_number": ~(is_text | missing),
        }
    ).select(
        pl.when("is_number").then("number").otherwise("text").alias("value"),
        pl.when("is_number").then("number").otherwise("score").alias("valuenum"),
    )
    units = [i.unit for i in items]
    part = _stay_part(batch, clock.stay[run]) | {
        "charttime": clock.time[run],
        "itemid": np.array([i.itemid for i in items])[item],
        "value": columns["value"],
        "valuenum": columns["valuenum"],
        "valueuom": pick(units, np.where(is_text | missing, -1, item)),
    }
    return batch.frame("chartevents", [part])


def _at(batch: Batch, clock: Clock, chance: float, low: int, high: int) -> tuple[NDArray, NDArray]:
    """Rows at some of the charting times: their place in the clock and running number in the event."""
    some = np.flatnonzero(batch.chance(chance, len(clock.stay)))
    owner, j = spread(batch.integers(low, high, len(some)))
    return some[owner], j


def _sign_at(batch: Batch, clock: Clock, table: str, times: int = 2) -> list[tuple[vocab.Sign, NDArray]]:
    """For each sign of an icu table: the charting times of the first day at which it is written."""
    found = []
    for sign in batch.signs(table, "icu"):
        early = (clock.number >= 1) & (clock.number <= times)
        found.append((sign, np.flatnonzero(early & batch.has(sign, clock.visit))))
    return found


def datetimeevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    entries = vocab.DATETIME_ITEMS
    usual = np.array([k for k, e in enumerate(entries) if e[1] not in {s.item for s in vocab.SIGNS}])
    at, j = _at(batch, clock, 0.17, 2, 11)
    item = usual[(batch.integers(0, len(usual), len(clock.stay))[at] + j) % len(usual)]
    parts = [(at, item)]
    for sign, when in _sign_at(batch, clock, "datetimeevents"):
        parts.append((when, np.full(len(when), [e[1] for e in entries].index(sign.item))))
    rows = []
    for at, item in parts:
        time = clock.time[at]
        value = time // DAY * DAY - DAY * batch.integers(0, 6, len(at))
        rows.append(
            _stay_part(batch, clock.stay[at]) | {
                "time": time, "caregiver_id": batch.numbers(len(at), 10_000, 99_999), "charttime": time,
                "storetime": time + 60 * batch.integers(0, 40, len(at)), "value": value,
                "itemid": np.array([int(e[0]) for e in entries])[item], "valueuom": "Date", "warning": "0",
            }
        )  # fmt: skip
    table = batch.frame("datetimeevents", rows)
    return table.with_columns((pl.col("value") * 1_000_000).cast(pl.Datetime("us")))


def _drip(batch: Batch, clock: Clock, at: NDArray, usual: NDArray[np.float64], given: NDArray[np.bool_]) -> Part:
    """What input and ingredient rows share; amounts have the many digits of pump arithmetic."""
    n = len(at)
    time = clock.time[at]
    hours = batch.uniform(0.3, 6, n)
    amount = usual * batch.uniform(0.2, 1.8, n) + 1e-3
    rate = amount / hours
    order = batch.numbers(n, 1_000_000, 9_999_999)
    return _stay_part(batch, clock.stay[at]) | {
        "time": time, "caregiver_id": batch.numbers(n, 10_000, 99_999), "starttime": time,
        "endtime": time + (hours * HOUR).astype(np.int64) // 60 * 60, "storetime": time + 60 * batch.integers(1, 50, n),
        "amount": np.where(batch.chance(0.72, n), np.round(amount, 11), np.rint(amount + 1)),
        "rate": pl.Series(np.round(rate, 11)).set(pl.Series(~given), None), "orderid": order, "linkorderid": order,
        "statusdescription": pick(("FinishedRunning", "ChangeDose/Rate", "Stopped", "Paused"), np.where(
            batch.chance(0.64, n), 0, batch.integers(1, 4, n))),
        "originalrate": np.round(rate, 6),
    }  # fmt: skip


def inputevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    entries = vocab.INPUT_ITEMS
    names = [e[1] for e in entries]
    usual = np.array([k for k, name in enumerate(names) if name not in {s.item for s in vocab.SIGNS}])
    at, j = _at(batch, clock, 0.4, 1, 6)
    item = usual[(batch.integers(0, len(usual), len(clock.stay))[at] + j * 5) % len(usual)]
    parts = [(at, item)] + [
        (when, np.full(len(when), names.index(sign.item))) for sign, when in _sign_at(batch, clock, "inputevents")
    ]
    at, item = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    at, item = at[order], item[order]
    given = np.array([e[3].startswith("Continuous") or e[3] == "Bolus" for e in entries])[item]
    column = {key: [e[k] for e in entries] for k, key in enumerate(
        ("itemid", "name", "category", "how", "unit", "rate_unit", "usual"))}  # fmt: skip
    weight = batch.uniform(45, 120, len(batch.icu)).round(0)
    total = batch.integers(1, 11, len(at)) * 50
    part = _drip(batch, clock, at, np.array(column["usual"], float)[item], given) | {
        "itemid": np.array(column["itemid"], int)[item], "amountuom": pick(column["unit"], item),
        "rateuom": pick(column["rate_unit"], np.where(given, item, -1)),
        "ordercategoryname": pick(column["category"], item),
        "secondaryordercategoryname": batch.one_of(("02-Fluids (Crystalloids)", "Additive (Crystalloid)"), len(at), 0.3),
        "ordercomponenttypedescription": batch.one_of(
            ("Main order parameter", "Main order parameter", "Mixed solution", "Additives" + 41 * " " + "Ampoule" + 43 * " "),
            len(at)),
        "ordercategorydescription": pick(column["how"], item), "patientweight": decimals(weight[clock.stay[at]]),
        "totalamount": pl.Series(total).set(pl.Series(batch.chance(0.16, len(at))), None), "totalamountuom": "ml",
        "isopenbag": "0", "continueinnextdept": "0", "originalamount": total,
    }  # fmt: skip
    return batch.frame("inputevents", [part])


def ingredientevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    entries = vocab.INGREDIENT_ITEMS
    names = [e[1] for e in entries]
    usual = np.array([k for k, name in enumerate(names) if name not in {s.item for s in vocab.SIGNS}])
    at, j = _at(batch, clock, 0.4, 2, 7)
    item = usual[(batch.integers(0, len(usual), len(clock.stay))[at] + j) % len(usual)]
    parts = [(at, item)] + [
        (when, np.full(len(when), names.index(sign.item))) for sign, when in _sign_at(batch, clock, "ingredientevents")
    ]
    at, item = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    at, item = at[order], item[order]
    given = batch.chance(0.66, len(at))
    part = _drip(batch, clock, at, np.full(len(at), 60.0), given) | {
        "itemid": np.array([int(e[0]) for e in entries])[item], "amountuom": pick([e[2] for e in entries], item),
        "rateuom": pick([e[3] for e in entries], np.where(given, item, -1)), "originalamount": "0",
    }  # fmt: skip
    return batch.frame("ingredientevents", [part])


def outputevents(batch: Batch, clock: Clock) -> pl.DataFrame:
    names = [e[1] for e in vocab.OUTPUT_ITEMS]
    usual = np.array([k for k, name in enumerate(names) if name not in {s.item for s in vocab.SIGNS}])
    at, j = _at(batch, clock, 0.38, 1, 3)
    first = np.minimum(batch.integers(0, 12, len(clock.stay)) % 9, len(usual) - 1)[at]
    parts = [(at, usual[(first + j) % len(usual)], batch.integers(1, 40, len(at)) * 10.0)]
    for sign, when in _sign_at(batch, clock, "outputevents"):
        parts.append((when, np.full(len(when), names.index(sign.item)), np.full(len(when), float(sign.value))))
    rows = []
    for at, item, value in parts:
        time = clock.time[at]
        rows.append(
            _stay_part(batch, clock.stay[at]) | {
                "time": time, "caregiver_id": batch.numbers(len(at), 10_000, 99_999), "charttime": time,
                "storetime": time + 60 * batch.integers(1, 50, len(at)), "value": decimals(value), "valueuom": "ml",
                "itemid": np.array([int(e[0]) for e in vocab.OUTPUT_ITEMS])[item],
            }
        )  # fmt: skip
    return batch.frame("outputevents", rows)


def procedureevents(batch: Batch) -> pl.DataFrame:
    """About a procedure every half day, off the charting times; lines have a location."""
    entries = vocab.PROCEDURE_ITEMS
    names = [e[1] for e in entries]
    usual = np.array([k for k, name in enumerate(names) if name not in {s.item for s in vocab.SIGNS}])
    length = batch.icu_out - batch.icu_in
    stay, j = spread(2 + length // (14 * HOUR))
    time = batch.icu_in[stay] + HOUR // 2 + (length[stay] - HOUR) * j // (2 + length[stay] // (14 * HOUR))
    item = usual[batch.integers(0, len(usual), len(stay))]
    parts = [(stay, time, item)]
    for sign in batch.signs("procedureevents", "icu"):
        with_sign = np.flatnonzero(batch.has(sign, batch.icu))
        k = names.index(sign.item)
        parts.append((with_sign, batch.icu_in[with_sign] + HOUR + k * 60, np.full(len(with_sign), k)))
    rows = []
    for stay, time, item in parts:
        n = len(stay)
        time = time // 60 * 60
        minutes = batch.integers(1, 2000, n)
        order = batch.numbers(n, 1_000_000, 9_999_999)
        line = np.array(["Lines" in e[2] for e in entries])[item]
        rows.append(
            _stay_part(batch, stay) | {
                "time": time, "caregiver_id": batch.numbers(n, 10_000, 99_999, 0.16), "starttime": time,
                "endtime": time + 60 * minutes, "storetime": time + 60 * minutes,
                "itemid": np.array([int(e[0]) for e in entries])[item], "value": decimals(minutes.astype(float)),
                "valueuom": "min", "location": pick(("Right Antecubital", "Left Lower Arm", "Right IJ"), np.where(
                    line, batch.integers(0, 3, n), -1)),
                "locationcategory": pick(("Peripheral",), np.where(line, 0, -1)), "orderid": order,
                "linkorderid": order, "ordercategoryname": pick([e[2] for e in entries], item),
                "ordercategorydescription": pick([e[3] for e in entries], item),
                "patientweight": decimals(batch.integers(45, 120, n).astype(float)), "isopenbag": "0",
                "continueinnextdept": "0", "statusdescription": "FinishedRunning",
                "ORIGINALAMOUNT": decimals(minutes.astype(float)), "ORIGINALRATE": "1",
            }
        )  # fmt: skip
    return batch.frame("procedureevents", rows)
