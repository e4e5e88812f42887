"""The hosp tables of orders and drugs: orders lead to pharmacy, prescription and administration records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, field, pick, same_width, spread, without_signs
from preprocess.synthetic.visits import HOUR
from preprocess.synthetic.vocab import CONDITIONS, DRUGS, ORDERS, SIGNS

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Ints

ORDER_STEP, DOSE_STEP = 6 * HOUR, 21_500
"""Mean seconds between rounds of orders, and between rounds in which drugs are given."""
DRUG_AT = vocab.position(DRUGS, "name")
DRUG_NAMES = list(DRUG_AT)
CHRONIC_DRUGS = without_signs(DRUG_NAMES)
"""Positions of the drugs that routine care may use."""
GSN = [f"{(k * 7919 + 4380) % 80000:06d}" for k in range(len(DRUGS))]
"""A made-up number for each drug."""


def order_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    poe_rows = poe(batch)
    pharmacy_rows = pharmacy(batch, poe_rows)
    return {
        "poe": poe_rows,
        "pharmacy": pharmacy_rows,
        "prescriptions": prescriptions(batch, pharmacy_rows),
        "emar": emar(batch, pharmacy_rows),
    }


def condition_drugs() -> list[list[int]]:
    """The drugs of each condition that no sign uses, as positions in `vocab.DRUGS`."""
    return [[DRUG_AT[drug] for drug in condition.drugs if drug not in vocab.SIGN_ITEMS] for condition in CONDITIONS]


def common_drugs(setting: str) -> Ints:
    """The drugs that anyone may be given in a setting, as positions in `vocab.DRUGS`."""
    return np.array([DRUG_AT[common.drug] for common in vocab.COMMON_DRUGS if common.setting == setting])


def poe(batch: Batch) -> pl.DataFrame:
    """A large round of orders at admission, small ones later; two of five orders are for drugs."""
    v = batch.visits
    of_signs = {(sign.item, sign.value) for sign in SIGNS if sign.table == "poe"}
    kinds = [(order.order_type, order.order_subtype) for order in ORDERS]
    weights = np.array([0.0 if kind in of_signs else order.weight for kind, order in zip(kinds, ORDERS, strict=True)])
    visit, time = batch.rounds(ORDER_STEP, 300)
    first = np.r_[True, visit[1:] != visit[:-1]]
    owner, _ = spread(np.where(first, batch.integers(6, 15, len(visit)), batch.integers(1, 5, len(visit))))
    kind = batch.rng.choice(len(weights), len(owner), p=weights / weights.sum())
    rows = [(visit[owner], time[owner], kind)]
    for sign in [*batch.signs("poe", "adm"), *batch.signs("poe", "end")]:
        visit, time = batch.sign_times(sign)
        rows.append((visit, time, np.full(len(visit), kinds.index((sign.item, sign.value)))))
    visit, time, kind = map(np.concatenate, zip(*rows, strict=True))
    order = np.lexsort((time, v.patient[visit]))
    visit, time, kind = visit[order], time[order], kind[order]
    n, patient = len(visit), v.patient[visit]
    poe_seq = np.arange(n) - np.searchsorted(patient, patient) + 1
    earlier = np.maximum(poe_seq - batch.integers(1, 9, n), 1)
    changed = batch.chance(0.24, n) & (poe_seq > 10)
    part = batch.base(visit, time) | {
        "poe_seq": poe_seq,
        "ordertime": time,
        "order_type": field(ORDERS, "order_type", kind),
        "order_subtype": pick([order.order_subtype or None for order in ORDERS], kind),
        "transaction_type": pick(("New", "Change", "D/C"), np.where(changed, batch.integers(1, 3, n), 0)),
        "order_provider_id": batch.provider(n, 0.02),
        "order_status": "Inactive",
    }
    later, discontinued = poe_seq + batch.integers(1, 9, n), batch.chance(0.24, n)
    poe_id = pl.format("{}-{}", "subject_id", pl.col("poe_seq"))
    return batch.frame([part]).with_columns(
        poe_id=poe_id,
        discontinue_of_poe_id=pl.when(pl.Series(changed)).then(pl.format("{}-{}", "subject_id", pl.Series(earlier))),
        discontinued_by_poe_id=pl.when(pl.Series(discontinued)).then(pl.format("{}-{}", "subject_id", pl.Series(later))),
    )


def choose_drugs(batch: Batch, visit: Ints) -> Ints:
    """Drugs ordered on visits: the condition's, common ones, and the patient's own chronic ones."""
    own, common = same_width(condition_drugs()), common_drugs("ward")
    n = len(visit)
    chronic = batch.visits.patient[visit] * 13 + batch.integers(0, 7, n) * 11
    chronic = CHRONIC_DRUGS[chronic % len(CHRONIC_DRUGS)]
    u = batch.rng.random(n)
    of_condition = own[batch.visits.condition[visit], batch.integers(0, own.shape[1], n)]
    return np.where(u < 0.35, of_condition, np.where(u < 0.8, common[batch.integers(0, len(common), n)], chronic))


def daily_doses(batch: Batch, missing: float, n: int) -> pl.Series:
    """`n` values of doses_per_24_hrs."""
    return pick(("1", "2", "3", "4"), np.where(batch.chance(missing, n), -1, batch.integers(0, 4, n)))


def pharmacy(batch: Batch, poe_rows: pl.DataFrame) -> pl.DataFrame:
    """Most new drug orders; some have no entertime."""
    orders = poe_rows.filter((pl.col("order_type") == "Medications") & (pl.col("transaction_type") == "New"))
    visit, time = orders["visit"].to_numpy(), orders["ordertime"].to_numpy()
    n = len(visit)
    drug = choose_drugs(batch, visit)
    start = (time // HOUR + 1) * HOUR
    stop = np.minimum(start + HOUR * batch.integers(4, 90, n), np.maximum(batch.visits.out[visit], start + HOUR))
    intravenous = np.array([drug.route.startswith("IV") for drug in DRUGS])[drug]
    part = batch.base(visit, time) | {
        "drug": drug,
        "pharmacy_id": batch.numbers(n, 10_000_000, 99_999_999),
        "poe_id": orders["poe_id"],
        "poe_seq": orders["poe_seq"],
        "starttime": start,
        "stoptime": stop,
        "medication": pick(DRUG_NAMES, np.where(batch.chance(0.07, n), -1, drug)),
        "proc_type": pick(
            ("Unit Dose", "IV Piggyback", "IV Large Volume"), np.where(intravenous, 1 + batch.chance(0.2, n), 0)
        ),
        "status": batch.choose("pharmacy", "status", n),
        "entertime": np.where(batch.chance(0.002, n), -1, time + 41),
        "verifiedtime": time + 600,
        "route": field(DRUGS, "route", drug),
    }
    for column in ("frequency", "disp_sched", "infusion_type", "sliding_scale"):
        part[column] = batch.choose("pharmacy", column, n)
    part["doses_per_24_hrs"] = daily_doses(batch, 0.4, n)
    for column in ("duration", "duration_interval", "expiration_value", "expiration_unit", "dispensation"):
        part[column] = batch.choose("pharmacy", column, n)
    return batch.frame([part])


def prescriptions(batch: Batch, pharmacy_rows: pl.DataFrame) -> pl.DataFrame:
    """A row for the drug of every pharmacy order, and one for what it is dissolved in for about every fourth."""
    shared = ("patient", "visit", "time", "pharmacy_id", "poe_id", "poe_seq", "starttime", "stoptime")
    main = pharmacy_rows.select(*shared, "drug")
    dissolved = main.filter(pl.Series(batch.chance(0.22, main.height)))
    solvent = dissolved.with_columns(drug=pl.lit(DRUG_AT["Iso-Osmotic Dextrose"], pl.Int64))
    rows = pl.concat([main.with_columns(is_solvent=False), solvent.with_columns(is_solvent=True)])
    rows = rows.sort("patient", "time", "is_solvent", maintain_order=True)
    n, drug = rows.height, rows["drug"].to_numpy()
    formulary = [f"{name.replace(' ', '')[:4].upper()}{k}" for k, name in enumerate(DRUG_NAMES)]
    part = {name: rows[name] for name in shared} | {
        "order_provider_id": batch.provider(n, 0.01),
        "drug_type": pick(("MAIN", "BASE"), rows["is_solvent"].cast(pl.Int64).to_numpy()),
        "drug": pick(DRUG_NAMES, drug),
        "formulary_drug_cd": pick(formulary, drug),
        "gsn": pick(GSN, np.where(batch.chance(0.15, n), -1, drug)),
        "ndc": field(DRUGS, "ndc", drug),
        "prod_strength": field(DRUGS, "strength", drug),
        "form_rx": batch.one_of(("",), n, 0.5),
        "dose_val_rx": field(DRUGS, "dose", drug),
        "dose_unit_rx": field(DRUGS, "unit", drug),
        "form_val_disp": batch.choose("prescriptions", "form_val_disp", n),
        "form_unit_disp": field(DRUGS, "form", drug),
        "route": field(DRUGS, "route", drug),
        "doses_per_24_hrs": daily_doses(batch, 0.42, n),
    }
    return batch.frame([part])


def emar(batch: Batch, pharmacy_rows: pl.DataFrame) -> pl.DataFrame:
    """Rounds in which drugs are given: a few each, out of those that were ordered by then."""
    visit, time = batch.rounds(DOSE_STEP, HOUR)
    owner, _ = spread(batch.integers(1, 4, len(visit)))
    visit, time = visit[owner], time[owner]
    ordered = pharmacy_rows["visit"].to_numpy()
    begin, end = np.searchsorted(ordered, visit), np.searchsorted(ordered, visit, side="right")
    has_orders = end > begin
    visit, time, begin, end = visit[has_orders], time[has_orders], begin[has_orders], end[has_orders]
    n = len(visit)
    number = np.ones(n, np.int64)  # of a visit's orders that are older than the dose, by binary search
    order_time = pharmacy_rows["time"].to_numpy()
    for step in (64, 32, 16, 8, 4, 2, 1):
        last = begin + number + step
        older = (last <= end) & (order_time[np.minimum(last, end) - 1] <= time)
        number = np.where(older, number + step, number)
    order = begin + (number * batch.rng.random(n)).astype(np.int64)
    medication = pharmacy_rows["drug"].to_numpy()[order]
    part = batch.base(visit, time) | {
        "poe_id": pharmacy_rows["poe_id"].gather(order),
        "pharmacy_id": pharmacy_rows["pharmacy_id"].gather(order).set(pl.Series(batch.chance(0.18, n)), None),
        "medication": pick(DRUG_NAMES, np.where(batch.chance(0.05, n), -1, medication)),
        "event_txt": batch.choose("emar", "event_txt", n),
    }
    parts = [part]
    for window, doses in (("adm", 2), ("icu", 2), ("end", 1)):
        for sign in batch.signs("emar", window):
            for dose in range(doses):
                given = {"medication": sign.item, "event_txt": "Administered"}
                parts.append(batch.base(*batch.sign_times(sign, dose)) | given)
    table = batch.frame(parts)
    n = table.height
    time, patient = table["time"].to_numpy(), table["patient"].to_numpy()
    delay = batch.integers(0, 300, n)
    provider = batch.provider(n, 0.92)
    return table.with_columns(
        charttime=time,
        storetime=time + delay,
        scheduletime=time // HOUR * HOUR,
        emar_seq=np.arange(n) - np.searchsorted(patient, patient) + 1,
        enter_provider_id=provider,
        hadm_id=np.where(batch.chance(0.02, n), -1, table["hadm_id"].to_numpy()),
        poe_id=pl.col("poe_id").fill_null(pl.format("{}-1", "subject_id")),
    ).with_columns(emar_id=pl.format("{}-{}", "subject_id", "emar_seq"))
