"""The hosp tables of orders and drugs: orders lead to pharmacy, prescription and administration records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic.batch import Batch, pick, running_number, spread, table, without_signs
from preprocess.synthetic.visits import HOUR
from preprocess.synthetic.vocab import COMMON_DRUGS, DRUGS, ORDERS, SIGNS, position

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Ints

ORDER_STEP, DOSE_STEP = 6 * HOUR, 21_500  # mean seconds between rounds of orders, and between rounds in which drugs are given
DRUG_AT = position(DRUGS["name"])
CHRONIC_DRUGS = without_signs(DRUGS["name"])  # positions of the drugs that routine care may use
GSN = [f"{(k * 7919 + 4380) % 80000:06d}" for k in range(len(DRUGS))]  # a made-up number for each drug


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    orders = poe(batch)
    drugs = pharmacy(batch, orders)
    return {"poe": orders, "pharmacy": drugs, "prescriptions": prescriptions(batch, drugs), "emar": emar(batch, drugs)}


def common_drugs(setting: str) -> Ints:
    """The drugs that anyone may be given in a setting, as positions in `vocab.DRUGS`."""
    return np.array([DRUG_AT[drug] for drug in COMMON_DRUGS.filter(setting=setting)["drug"]])


def poe(batch: Batch) -> pl.DataFrame:
    """A large round of orders at admission, small ones later; two of five orders are for drugs."""
    of_signs = {(sign.item, sign.value) for sign in SIGNS if sign.table == "poe"}
    kinds = ORDERS.select("order_type", "order_subtype").rows()
    weights = np.where([kind in of_signs for kind in kinds], 0, ORDERS["weight"])
    visit, time = batch.rounds(ORDER_STEP, 300)
    first = np.r_[True, visit[1:] != visit[:-1]]
    owner, _ = spread(np.where(first, batch.integers(6, 15, len(visit)), batch.integers(1, 5, len(visit))))
    rows = [(visit[owner], time[owner], batch.rng.choice(len(weights), len(owner), p=weights / weights.sum()))]
    for sign, visit, time in batch.timed_signs("poe", "adm", "end"):
        rows.append((visit, time, np.full(len(visit), kinds.index((sign.item, sign.value)))))
    visit, time, kind = batch.in_order(*rows)
    n = len(visit)
    poe_seq = running_number(batch.visits.patient[visit]) + 1
    earlier = np.maximum(poe_seq - batch.integers(1, 9, n), 1)
    changed = batch.chance(0.24, n) & (poe_seq > 10)
    transaction = np.where(changed, batch.integers(1, 3, n), 0)
    provider = batch.provider(n, 0.02)
    later, discontinued = poe_seq + batch.integers(1, 9, n), batch.chance(0.24, n)
    orders = batch.rows(
        visit,
        time,
        poe_seq=poe_seq,
        ordertime=time,
        order_type=pick(ORDERS["order_type"], kind),
        order_subtype=pick(ORDERS["order_subtype"].replace("", None), kind),
        transaction_type=pick(("New", "Change", "D/C"), transaction),
        order_provider_id=provider,
        order_status="Inactive",
    )
    return orders.with_columns(
        poe_id=pl.format("{}-{}", "subject_id", "poe_seq"),
        discontinue_of_poe_id=pl.when(pl.Series(changed)).then(pl.format("{}-{}", "subject_id", pl.Series(earlier))),
        discontinued_by_poe_id=pl.when(pl.Series(discontinued)).then(pl.format("{}-{}", "subject_id", pl.Series(later))),
    )


def choose_drugs(batch: Batch, visit: Ints) -> Ints:
    """Drugs ordered on visits: the condition's, common ones, and the patient's own chronic ones."""
    n = len(visit)
    chronic = batch.visits.patient[visit] * 13 + batch.integers(0, 7, n) * 11
    chronic = CHRONIC_DRUGS[chronic % len(CHRONIC_DRUGS)]
    u = batch.rng.random(n)
    of_condition = batch.one_of_condition("drugs", DRUGS["name"], visit)
    return np.where(u < 0.35, of_condition, np.where(u < 0.8, batch.any_of(common_drugs("ward"), n), chronic))


def daily_doses(batch: Batch, missing: float, n: int) -> pl.Series:
    """`n` values of doses_per_24_hrs."""
    return pick(("1", "2", "3", "4"), np.where(batch.chance(missing, n), -1, batch.integers(0, 4, n)))


def pharmacy(batch: Batch, orders: pl.DataFrame) -> pl.DataFrame:
    """Most new drug orders; some have no entertime."""
    orders = orders.filter(order_type="Medications", transaction_type="New")
    visit, time = orders["visit"].to_numpy(), orders["ordertime"].to_numpy()
    n = len(visit)
    drug = choose_drugs(batch, visit)
    start = (time // HOUR + 1) * HOUR
    stop = np.minimum(start + HOUR * batch.integers(4, 90, n), np.maximum(batch.visits.out[visit], start + HOUR))
    intravenous = DRUGS["route"].str.starts_with("IV").to_numpy()[drug]
    duration = ("duration", "duration_interval", "expiration_value", "expiration_unit", "dispensation")
    return batch.rows(
        visit,
        time,
        drug=drug,
        pharmacy_id=batch.numbers(n, 10_000_000, 99_999_999),
        poe_id=orders["poe_id"],
        poe_seq=orders["poe_seq"],
        starttime=start,
        stoptime=stop,
        medication=pick(DRUGS["name"], np.where(batch.chance(0.07, n), -1, drug)),
        proc_type=pick(("Unit Dose", "IV Piggyback", "IV Large Volume"), np.where(intravenous, 1 + batch.chance(0.2, n), 0)),
        **batch.choose("pharmacy", n, "status"),
        entertime=np.where(batch.chance(0.002, n), -1, time + 41),
        verifiedtime=time + 600,
        route=pick(DRUGS["route"], drug),
        **batch.choose("pharmacy", n, "frequency", "disp_sched", "infusion_type", "sliding_scale"),
        doses_per_24_hrs=daily_doses(batch, 0.4, n),
        **batch.choose("pharmacy", n, *duration),
    )


def prescriptions(batch: Batch, pharmacy_rows: pl.DataFrame) -> pl.DataFrame:
    """A row for the drug of every pharmacy order, and one for what it is dissolved in for about every fourth."""
    main = pharmacy_rows.with_columns(drug_type=pl.lit("MAIN"))
    dissolved = main.filter(pl.Series(batch.chance(0.22, main.height)))
    solvent = dissolved.with_columns(drug=pl.lit(DRUG_AT["Iso-Osmotic Dextrose"], pl.Int64), drug_type=pl.lit("BASE"))
    rows = table(main, solvent)
    n, drug = rows.height, rows["drug"].to_numpy()
    formulary = [f"{name.replace(' ', '')[:4].upper()}{k}" for k, name in enumerate(DRUGS["name"])]
    return rows.with_columns(
        order_provider_id=batch.provider(n, 0.01),
        drug=pick(DRUGS["name"], drug),
        formulary_drug_cd=pick(formulary, drug),
        gsn=pick(GSN, np.where(batch.chance(0.15, n), -1, drug)),
        ndc=pick(DRUGS["ndc"], drug),
        prod_strength=pick(DRUGS["strength"], drug),
        form_rx=batch.one_of(n, ("",), 0.5),
        dose_val_rx=pick(DRUGS["dose"], drug),
        dose_unit_rx=pick(DRUGS["unit"], drug),
        **batch.choose("prescriptions", n, "form_val_disp"),
        form_unit_disp=pick(DRUGS["form"], drug),
        doses_per_24_hrs=daily_doses(batch, 0.42, n),
        route=pick(DRUGS["route"], drug),
    )


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
    orders = pharmacy_rows[begin + (number * batch.rng.random(n)).astype(np.int64)]
    given = {"poe_id": orders["poe_id"], "pharmacy_id": orders["pharmacy_id"].set(pl.Series(batch.chance(0.18, n)), None)}
    medication = pick(DRUGS["name"], np.where(batch.chance(0.05, n), -1, orders["drug"].to_numpy()))
    parts = [batch.rows(visit, time, **given, medication=medication, **batch.choose("emar", n, "event_txt"))]
    for window, doses in (("adm", 2), ("icu", 2), ("end", 1)):
        for sign in batch.signs("emar", window):
            for dose in range(doses):
                times = batch.sign_times(sign, dose)
                parts.append(batch.rows(*times, medication=sign.item, event_txt="Administered"))
    rows = table(*parts)
    n = rows.height
    time = rows["time"].to_numpy()
    return rows.with_columns(
        storetime=time + batch.integers(0, 300, n),
        scheduletime=time // HOUR * HOUR,
        emar_seq=running_number(rows["patient"].to_numpy()) + 1,
        enter_provider_id=batch.provider(n, 0.92),
        hadm_id=np.where(batch.chance(0.02, n), -1, rows["hadm_id"].to_numpy()),
        poe_id=pl.col("poe_id").fill_null(pl.format("{}-1", "subject_id")),
    ).with_columns(emar_id=pl.format("{}-{}", "subject_id", "emar_seq"))
