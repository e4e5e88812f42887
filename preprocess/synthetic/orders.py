"""The hosp tables of daily care: orders, pharmacy, prescriptions, given drugs, laboratory, microbiology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab as vocab
from preprocess.synthetic.patients import SIGN_ITEMS, Batch, decimals, pick, spread
from preprocess.synthetic.visits import DAY, HOUR, INDICATORS, midnight
from preprocess.synthetic.vocab import Sign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.patients import Part

    Ints = NDArray[np.int64]

ROUND_STEP, DOSE_STEP, DRAW_STEP = 6 * HOUR, 21_500, 23 * HOUR
"""Mean time between rounds of orders, between drug rounds, and between blood draws of an admission."""
FREQUENCIES = ("ONCE", "ASDIR", "DAILY", "BID", "PRN", "Q8H", "Q6H:PRN", "TID", "Q4H:PRN", "Q6H", "Q12H")
GIVEN = ("Administered",) * 13 + ("Flushed", "Confirmed", "Confirmed", "Not Given", "Not Given", "Not Flushed", "Started",
                                  "Assessed", "Not Given per Sliding Scale", "Hold Dose")  # fmt: skip


def order_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    poe = orders(batch)
    pharmacy_rows = pharmacy(batch, poe)
    return {
        "poe": poe,
        "pharmacy": pharmacy_rows,
        "prescriptions": prescriptions(batch, pharmacy_rows),
        "emar": emar(batch, pharmacy_rows),
        "labevents": labevents(batch),
        "microbiologyevents": microbiologyevents(batch),
    }


def rounds(batch: Batch, step: int, first: int) -> tuple[Ints, Ints]:
    """Visit and time of repeated care from admission to discharge, jittered, at least one."""
    v = batch.v
    length = v["out"][batch.adm] - v["admit"][batch.adm] - first - HOUR
    count = np.maximum(length // step, 0) + 1
    owner, j = spread(count)
    offset = first + ((j + 0.7 * batch.rng.random(len(owner))) * np.minimum(step, length[owner] / count[owner]))
    visit = batch.adm[owner]
    return visit, v["admit"][visit] + offset.astype(np.int64)


def sign_times(batch: Batch, sign: Sign, number: int = 0) -> tuple[Ints, Ints]:
    """The visits with a sign and when it is written, inside the sign's window whatever the times of the visit."""
    v = batch.v
    holders = {"ed": v["ed"], "adm": v["hospital"], "icu": v["icu"], "end": v["hospital"]}[sign.window]
    visit = np.flatnonzero(holders & v["x"][:, INDICATORS.index(sign.indicator)])
    n = len(visit)
    if sign.window == "ed":
        time = v["start"][visit] + (HOUR * batch.uniform(0.7, 3, n)).astype(np.int64)
    elif sign.window == "end":
        time = midnight(v["out"][visit]) - (HOUR * batch.uniform(2, 12, n)).astype(np.int64)
        time = np.maximum(time, v["admit"][visit] + HOUR)
    else:
        base = v["admit"] if sign.window == "adm" else v["icu_in"]
        time = base[visit] + (HOUR * batch.uniform(1 + 7 * number, 7 + 7 * number, n)).astype(np.int64)
        time = np.minimum(time, v["out"][visit] - 600)
    return visit, time


def orders(batch: Batch) -> pl.DataFrame:
    """poe: a large round of orders at admission, small ones later; two of five orders are for drugs."""
    v = batch.v
    signs = {(s.item, s.value) for s in vocab.SIGNS if s.table == "poe"}
    weights = np.array([0.0 if (o[0], o[1]) in signs else float(o[2]) for o in vocab.ORDERS])
    visit, time = rounds(batch, ROUND_STEP, 300)
    first = np.r_[True, visit[1:] != visit[:-1]]
    owner, j = spread(np.where(first, batch.integers(6, 15, len(visit)), batch.integers(1, 5, len(visit))))
    kind = batch.rng.choice(len(weights), len(owner), p=weights / weights.sum())
    parts = [(visit[owner], time[owner], kind)]
    by_name = {(o[0], o[1]): k for k, o in enumerate(vocab.ORDERS)}
    for sign in [*batch.signs("poe", "adm"), *batch.signs("poe", "end")]:
        visit, time = sign_times(batch, sign)
        parts.append((visit, time, np.full(len(visit), by_name[sign.item, sign.value])))
    visit, time, kind = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    patient = v["patient"][visit]
    order = np.lexsort((time, patient))
    visit, time, kind, patient = visit[order], time[order], kind[order], patient[order]
    n = len(visit)
    seq = np.arange(n) - np.searchsorted(patient, patient) + 1
    before = np.maximum(seq - batch.integers(1, 9, n), 1)
    changed = batch.chance(0.24, n) & (seq > 10)
    table = batch.frame("poe", [{
        "patient": patient, "visit": visit, "time": time, "poe_seq": seq, "ordertime": time,
        "order_type": pick([o[0] for o in vocab.ORDERS], kind),
        "order_subtype": pick([o[1] or None for o in vocab.ORDERS], kind),
        "transaction_type": pick(("New", "Change", "D/C"), np.where(changed, batch.integers(1, 3, n), 0)),
        "order_provider_id": batch.provider(n, 0.02), "order_status": "Inactive",
    }])  # fmt: skip
    before, changed = pl.Series(before[: table.height]), pl.Series(changed[: table.height])
    later, stopped = (
        pl.Series(batch.integers(1, 9, n)[: table.height]),
        pl.Series(batch.chance(0.24, n)[: table.height]),
    )
    text = pl.format("{}-{}", "subject_id", "poe_seq")
    return table.with_columns(
        poe_id=text,
        discontinue_of_poe_id=pl.when(changed).then(pl.format("{}-{}", "subject_id", before)),
        discontinued_by_poe_id=pl.when(stopped).then(pl.format("{}-{}", "subject_id", pl.col("poe_seq") + later)),
    )


def choose_drugs(batch: Batch, visit: Ints) -> Ints:
    """Drugs ordered on visits: the condition's, what everyone may get, and the patient's own chronic ones."""
    at = {name: k for k, name in enumerate(batch.drugs)}
    own = [[at[d] for d in c.drugs if d not in SIGN_ITEMS] for c in vocab.CONDITIONS]
    width = max(map(len, own))
    own_table = np.array([(codes * width)[:width] for codes in own])
    base = np.array([at[name] for name in vocab.BASE_DRUGS])
    n = len(visit)
    chronic = batch.routine_drugs[(batch.v["patient"][visit] * 13 + batch.integers(0, 7, n) * 11) % len(batch.routine_drugs)]
    u = batch.rng.random(n)
    mine = own_table[batch.v["condition"][visit], batch.integers(0, width, n)]
    return np.where(u < 0.35, mine, np.where(u < 0.8, base[batch.integers(0, len(base), n)], chronic))


def pharmacy(batch: Batch, poe: pl.DataFrame) -> pl.DataFrame:
    """Most new drug orders; some have no entertime."""
    wanted = poe.filter((pl.col("order_type") == "Medications") & (pl.col("transaction_type") == "New"))
    visit = wanted["visit"].to_numpy()
    n = len(visit)
    drug = choose_drugs(batch, visit)
    time = wanted["ordertime"].to_numpy()
    start = (time // HOUR + 1) * HOUR
    stop = np.minimum(start + HOUR * batch.integers(4, 90, n), np.maximum(batch.v["out"][visit], start + HOUR))
    names = [d.name for d in vocab.DRUGS]
    iv = np.array([d.route.startswith("IV") for d in vocab.DRUGS])[drug]
    part = {
        "patient": wanted["patient"].to_numpy(), "visit": visit, "time": time, "drug": drug,
        "pharmacy_id": batch.numbers(n, 10_000_000, 99_999_999), "poe_id": wanted["poe_id"], "poe_seq": wanted["poe_seq"],
        "starttime": start, "stoptime": stop, "medication": pick(names, np.where(batch.chance(0.07, n), -1, drug)),
        "proc_type": pick(("Unit Dose", "IV Piggyback", "IV Large Volume"), np.where(iv, 1 + batch.chance(0.2, n), 0)),
        "status": batch.one_of(("Discontinued", "Discontinued via patient discharge", "Discontinued", "Expired",
                                "Inactive (Due to a change order)"), n),
        "entertime": np.where(batch.chance(0.002, n), -1, time + 41), "verifiedtime": time + 600,
        "route": pick([d.route for d in vocab.DRUGS], drug), "frequency": batch.one_of(FREQUENCIES, n, 0.01),
        "disp_sched": batch.one_of(("08", "08, 20", "10", "0, 8, 16"), n, 0.43),
        "infusion_type": batch.one_of(("C", "B", "N"), n, 0.93), "sliding_scale": batch.one_of(("Y",), n, 0.87),
        "doses_per_24_hrs": pick(("1", "2", "3", "4"), np.where(batch.chance(0.4, n), -1, batch.integers(0, 4, n))),
        "duration": batch.one_of(("1", "2", "3", "7"), n, 0.73),
        "duration_interval": batch.one_of(("Ongoing", "Doses", "Hours", "Ongoing"), n, 0.01),
        "expiration_value": batch.one_of(("36", "365", "24"), n, 0.17),
        "expiration_unit": batch.one_of(("Hours", "Hours", "Days"), n, 0.01),
        "dispensation": batch.one_of(("Omnicell", "Omnicell", "Omnicell", "Floor Stock Item", "Distribution-Floor Stock",
                                      "LET CALL", "IV MED"), n, 0.01),
    }  # fmt: skip
    return batch.frame("pharmacy", [part])


def prescriptions(batch: Batch, pharmacy_rows: pl.DataFrame) -> pl.DataFrame:
    """A row for the drug of nearly every pharmacy order, and one for what it is dissolved in for every fourth."""
    chosen = pharmacy_rows.select(
        "patient", "visit", "time", "drug", "pharmacy_id", "poe_id", "poe_seq", "starttime", "stoptime"
    )
    solvent = next(k for k, name in enumerate(batch.drugs) if name == "Iso-Osmotic Dextrose")
    mixed = chosen.filter(pl.Series(batch.chance(0.22, chosen.height))).with_columns(drug=pl.lit(solvent, pl.Int64))
    both = pl.concat([chosen.with_columns(base=pl.lit(False)), mixed.with_columns(base=pl.lit(True))])
    both = both.sort("patient", "time", "base", maintain_order=True)
    n, drug = both.height, both["drug"].to_numpy()

    def column(values: list[str], missing: float = 0.0) -> pl.Series:
        return pick(values, np.where(batch.chance(missing, n), -1, drug) if missing else drug)

    drugs = vocab.DRUGS
    part = {name: both[name].to_numpy() for name in ("patient", "visit", "time", "starttime", "stoptime")} | {
        "pharmacy_id": both["pharmacy_id"], "poe_id": both["poe_id"], "poe_seq": both["poe_seq"],
        "order_provider_id": batch.provider(n, 0.01),
        "drug_type": pick(("MAIN", "BASE"), both["base"].cast(pl.Int64).to_numpy()), "drug": column([d.name for d in drugs]),
        "formulary_drug_cd": column([f"{d.name.replace(' ', '')[:4].upper()}{k}" for k, d in enumerate(drugs)]),
        "gsn": column([f"{(k * 7919 + 4380) % 80000:06d}" for k in range(len(drugs))], 0.15),
        "ndc": column([d.ndc for d in drugs]), "prod_strength": column([d.strength for d in drugs]),
        "form_rx": batch.one_of(("",), n, 0.5), "dose_val_rx": column([d.dose for d in drugs]),
        "dose_unit_rx": column([d.unit for d in drugs]), "form_val_disp": batch.one_of(("1", "2", "1", "0.5"), n),
        "form_unit_disp": column([d.form for d in drugs]), "route": column([d.route for d in drugs]),
        "doses_per_24_hrs": pick(("1", "2", "3", "4"), np.where(batch.chance(0.42, n), -1, batch.integers(0, 4, n))),
    }  # fmt: skip
    return batch.frame("prescriptions", [part])


def emar(batch: Batch, pharmacy_rows: pl.DataFrame) -> pl.DataFrame:
    """Drug rounds: each gives a few of the drugs that were ordered by then."""
    visit, time = rounds(batch, DOSE_STEP, HOUR)
    owner, _ = spread(batch.integers(1, 4, len(visit)))
    visit, time = visit[owner], time[owner]
    ordered = pharmacy_rows["visit"].to_numpy()
    begin, end = np.searchsorted(ordered, visit), np.searchsorted(ordered, visit, side="right")
    kept = end > begin
    visit, time, begin, end = visit[kept], time[kept], begin[kept], end[kept]
    known = np.ones(len(visit), np.int64)
    order_time = pharmacy_rows["time"].to_numpy()
    for step in (64, 32, 16, 8, 4, 2, 1):  # how many of a visit's orders are older than the dose
        more = (begin + known + step <= end) & (order_time[np.minimum(begin + known + step, end) - 1] <= time)
        known = np.where(more, known + step, known)
    which = begin + (known * batch.rng.random(len(visit))).astype(np.int64)
    n = len(visit)
    rows: list[Part] = [{
        "patient": batch.v["patient"][visit], "visit": visit, "time": time, "poe_id": pharmacy_rows["poe_id"].gather(which),
        "pharmacy_id": pharmacy_rows["pharmacy_id"].gather(which).set(pl.Series(batch.chance(0.18, n)), None),
        "medication": pick(batch.drugs, np.where(batch.chance(0.05, n), -1, pharmacy_rows["drug"].to_numpy()[which])),
        "event_txt": batch.one_of(GIVEN, n, 0.01),
    }]  # fmt: skip
    for window in ("adm", "icu", "end"):
        for sign in batch.signs("emar", window):
            for number in range(2 if window != "end" else 1):
                visit, time = sign_times(batch, sign, number)
                rows.append({
                    "patient": batch.v["patient"][visit], "visit": visit, "time": time, "medication": sign.item,
                    "event_txt": "Administered", "poe_id": pl.Series([None] * len(visit), dtype=pl.String),
                })  # fmt: skip
    table = batch.frame("emar", rows)
    n = table.height
    time = table["time"].to_numpy()
    seq = np.arange(n) - np.searchsorted(table["patient"].to_numpy(), table["patient"].to_numpy()) + 1
    return table.with_columns(
        charttime=time, storetime=time + batch.integers(0, 300, n), scheduletime=time // HOUR * HOUR, emar_seq=seq,
        enter_provider_id=batch.provider(n, 0.92),
        hadm_id=pl.Series(np.where(batch.chance(0.02, n), -1, table["hadm_id"].to_numpy())),
        poe_id=pl.col("poe_id").fill_null(pl.format("{}-1", "subject_id")),
    ).with_columns(emar_id=pl.format("{}-{}", "subject_id", "emar_seq"))  # fmt: skip


LAB_COMMENTS = ("___", "NEG.", "NORMAL.", "Fasting 70-100 is normal; above 125 suggests diabetes.",
                "eGFR is estimated from this patient's age, sex and creatinine.")  # fmt: skip


def labevents(batch: Batch) -> pl.DataFrame:
    """Blood draws: in the ED, through the admission, and now and then in a clinic; each of one to several panels."""
    v = batch.v
    visit, time = rounds(batch, DRAW_STEP, 2 * HOUR)
    ed_time = v["start"][batch.ed] + (HOUR * batch.uniform(0.6, 1.5, len(batch.ed))).astype(np.int64)
    ed_later = v["start"][batch.ed] + (HOUR * batch.uniform(2.5, 4.5, len(batch.ed))).astype(np.int64)
    first = np.flatnonzero(np.r_[True, v["patient"][1:] != v["patient"][:-1]])
    clinic, _ = spread(batch.rng.poisson(0.8, len(first)))
    clinic = first[clinic]
    clinic_time = v["start"][clinic] - (DAY * batch.uniform(1, 100, len(clinic))).astype(np.int64)
    draws = np.concatenate([visit, batch.ed, batch.ed, clinic])
    times = np.concatenate([time, ed_time, ed_later, clinic_time]) // 60 * 60
    no_hadm = np.r_[np.zeros(len(visit), bool), batch.chance(0.6, 2 * len(batch.ed)), np.ones(len(clinic), bool)]
    order = np.lexsort((times, v["patient"][draws]))
    draws, times, no_hadm = draws[order], times[order], no_hadm[order]

    panels = list(vocab.PANELS)
    taken = batch.rng.random((len(draws), len(panels))) < np.minimum(1.5 * np.array(list(vocab.PANELS.values())), 0.9)
    draw, panel = np.nonzero(taken)
    in_panel = [[k for k, lab in enumerate(vocab.LABS) if lab.panel == name] for name in panels]
    counts = np.array([len(labs) for labs in in_panel])
    flat = np.array([k for labs in in_panel for k in labs])
    specimen, j = spread(counts[panel])
    lab = flat[(np.cumsum(counts) - counts)[panel][specimen] + j]
    owner = draw[specimen]

    low, high = (np.array([getattr(item, key) for item in vocab.LABS]) for key in ("low", "high"))
    shift = np.zeros((len(vocab.CONDITIONS), len(vocab.LABS)))
    at = {item.label: k for k, item in enumerate(vocab.LABS)}
    for c, condition in enumerate(vocab.CONDITIONS):
        shift[c, [at[label] for label in condition.raised]] = 1
        shift[c, [at[label] for label in condition.lowered]] = -1
    n = len(lab)
    move = shift[v["condition"][draws[owner]], lab] * ~no_hadm[owner]
    position = 0.5 + 0.33 * batch.rng.standard_normal(n) + move * batch.uniform(0.4, 1.4, n)
    reserved = np.array([item.label in SIGN_ITEMS for item in vocab.LABS])[lab]
    position = np.where(reserved, np.clip(position, 0.05, 0.95), position)  # never flagged but as a sign
    value = np.maximum(low[lab] + (high - low)[lab] * position, 0)
    part = _lab_rows(batch, draws[owner], times[owner], lab, value)
    part["hadm_id"] = np.where(no_hadm[owner], -1, batch.hadm[draws[owner]])
    part["specimen_id"] = specimen
    rows = [part]
    for window in ("ed", "adm", "icu", "end"):
        for sign in batch.signs("labevents", window):
            visit, time = sign_times(batch, sign)
            k = np.full(len(visit), at[sign.item])
            row = _lab_rows(batch, visit, time // 60 * 60, k, np.full(len(visit), float(sign.value)))
            if window == "ed":
                row["hadm_id"] = np.full(len(visit), -1)
            rows.append(row | {"specimen_id": n + np.arange(len(visit))})
            n += len(visit)
    table = batch.frame("labevents", rows)
    ids = batch.index * 1_000_000 + 1 + np.arange(table.height)
    specimens = 10_000_000 + (batch.index * 1_000_003 + table["specimen_id"].to_numpy() * 37) % 89_999_999
    return table.with_columns(labevent_id=pl.Series(ids), specimen_id=pl.Series(specimens))


def _lab_rows(batch: Batch, visit: Ints, time: Ints, lab: Ints, value: NDArray[np.float64]) -> Part:
    labs = vocab.LABS
    n = len(lab)
    scale = 10.0 ** np.array([item.decimals for item in labs])[lab]
    value = np.rint(value * scale) / scale
    low, high = (np.array([getattr(item, key) for item in labs]) for key in ("low", "high"))
    blank = batch.chance(0.08, n) & (value <= high[lab]) & (value >= low[lab])
    text = decimals(value).set(pl.Series(blank), None)
    ranged = np.array([bool(item.unit) for item in labs])
    return {
        "patient": batch.v["patient"][visit], "visit": visit, "time": time, "charttime": time,
        "storetime": time + 60 * batch.integers(20, 160, n), "itemid": np.array([item.itemid for item in labs])[lab],
        "order_provider_id": batch.provider(n, 0.88), "value": text, "valuenum": text,
        "valueuom": pick([item.unit or None for item in labs], lab),
        "ref_range_lower": pick([f"{item.low:g}" for item in labs], np.where(ranged[lab], lab, -1)),
        "ref_range_upper": pick([f"{item.high:g}" for item in labs], np.where(ranged[lab], lab, -1)),
        "flag": pick(("abnormal",), np.where(((value > high[lab]) | (value < low[lab])) & ~blank & ranged[lab], 0, -1)),
        "priority": batch.one_of(("STAT", "STAT", "ROUTINE"), n, 0.1),
        "comments": pick(LAB_COMMENTS, np.where(blank | batch.chance(0.09, n), batch.integers(0, 5, n), -1)),
    }  # fmt: skip


def microbiologyevents(batch: Batch) -> pl.DataFrame:
    """Cultures, half of them without growth; a grown organism is tested against a few antibiotics."""
    v = batch.v
    usual = np.array([k for k, t in enumerate(vocab.MICRO_TESTS) if t[1] not in SIGN_ITEMS])
    strains = np.array([k for k, o in enumerate(vocab.ORGANISMS) if o[1] not in {s.value for s in vocab.SIGNS}])
    ward, _ = spread(batch.rng.poisson(1.2, len(batch.adm)))
    ward = batch.adm[ward]
    out = batch.ed[batch.chance(0.35, len(batch.ed))]
    length = np.maximum(v["out"] - v["admit"] - 3 * HOUR, HOUR)
    ward_time = v["admit"][ward] + HOUR + (length[ward] * batch.rng.random(len(ward)) ** 2).astype(np.int64)
    out_time = v["start"][out] + HOUR + 7 * 60 * batch.integers(0, 20, len(out))
    visit, time = np.r_[ward, out], np.r_[ward_time, out_time]
    no_hadm = np.r_[np.zeros(len(ward), bool), np.ones(len(out), bool)]
    test = usual[batch.integers(0, len(usual), len(visit))]
    organism = np.where(batch.chance(0.45, len(visit)), strains[batch.integers(0, len(strains), len(visit))], -1)
    for sign in batch.signs("microbiologyevents", "adm"):
        ill, when = sign_times(batch, sign)
        name = [t[1] for t in vocab.MICRO_TESTS].index(sign.item)
        grown = [o[1] for o in vocab.ORGANISMS].index(sign.value)
        visit, time, no_hadm = np.r_[visit, ill], np.r_[time, when], np.r_[no_hadm, np.zeros(len(ill), bool)]
        test, organism = np.r_[test, np.full(len(ill), name)], np.r_[organism, np.full(len(ill), grown)]
    order = np.lexsort((time, v["patient"][visit]))
    visit, time, no_hadm, test, organism = (a[order] for a in (visit, time // 60 * 60, no_hadm, test, organism))
    culture, j = spread(np.where(organism >= 0, batch.integers(2, 7, len(visit)), 1))
    n = len(culture)
    grown = organism[culture] >= 0
    drug = np.where(grown, (batch.integers(0, 8, len(visit))[culture] + j) % len(vocab.ANTIBIOTICS), -1)
    dose = np.where(grown, batch.integers(0, 5, n), -1)
    stamp, tests = time[culture], vocab.MICRO_TESTS
    # a culture with a date only counts from midnight, which would take a sign out of its window
    undated = batch.chance(0.05, len(visit)) & ((organism < 0) | np.isin(organism, strains))

    def of_test(k: int) -> pl.Series:
        return pick([t[k] for t in tests], test[culture])

    part = {
        "patient": v["patient"][visit][culture], "visit": visit[culture], "time": stamp,
        "hadm_id": np.where(no_hadm, -1, batch.hadm[visit])[culture],
        "microevent_id": batch.index * 20_000 + 1 + np.arange(n),
        "micro_specimen_id": 1_000_000 + batch.index * 9_000 + culture,
        "order_provider_id": batch.provider(n, 0.87), "chartdate": midnight(stamp),
        "charttime": np.where(undated[culture], -1, stamp), "spec_itemid": of_test(2),
        "spec_type_desc": of_test(3), "test_seq": np.ones(n, np.int64), "storedate": midnight(stamp) + 2 * DAY,
        "storetime": stamp + 2 * DAY, "test_itemid": of_test(0), "test_name": of_test(1),
        "org_itemid": pick([o[0] for o in vocab.ORGANISMS], organism[culture]),
        "org_name": pick([o[1] for o in vocab.ORGANISMS], organism[culture]),
        "isolate_num": pick(("1",), np.where(grown, 0, -1)), "ab_itemid": pick([a[0] for a in vocab.ANTIBIOTICS], drug),
        "ab_name": pick([a[1] for a in vocab.ANTIBIOTICS], drug),
        "dilution_text": pick(("<=0.5", "1", "2", "8", ">=32"), dose),
        "dilution_comparison": pick(("<=        ", "=         ", "=         ", "=         ", "=>        "), dose),
        "dilution_value": pick(("0.5", "1", "2", "8", "32"), dose), "interpretation": pick(("S", "S", "S", "I", "R"), dose),
        "comments": pick(("NO GROWTH.", "___", "MIXED FLORA, MAY BE CONTAMINATION.", "ISOLATED FROM ONE SET ONLY."),
                         np.where(grown, batch.integers(2, 4, n), batch.integers(0, 2, n))),
    }  # fmt: skip
    return batch.frame("microbiologyevents", [part])
