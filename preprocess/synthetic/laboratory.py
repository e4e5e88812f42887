"""The hosp tables of measurements on specimens: labevents and microbiologyevents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic.batch import Batch, decimals, pick, spread, table, without_signs
from preprocess.synthetic.visits import DAY, HOUR, midnight
from preprocess.synthetic.vocab import ANTIBIOTICS, CONDITIONS, CULTURES, LABS, ORGANISMS, PANELS, SIGN_ITEMS, SIGNS, position

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Bools, Floats, Ints

DRAW_STEP = 23 * HOUR  # mean seconds between blood draws of an admission
LAB_COMMENTS = ("___", "NEG.", "NORMAL.", "Fasting 70-100 is normal; above 125 suggests diabetes.",
                "eGFR is estimated from this patient's age, sex and creatinine.")  # fmt: skip
# of an antibiotic
DILUTIONS = {
    "dilution_text": ("<=0.5", "1", "2", "8", ">=32"),
    "dilution_comparison": ("<=        ", "=         ", "=         ", "=         ", "=>        "),
    "dilution_value": ("0.5", "1", "2", "8", "32"),
    "interpretation": ("S", "S", "S", "I", "R"),
}
# the first two are of cultures without growth
CULTURE_COMMENTS = ("NO GROWTH.", "___", "MIXED FLORA, MAY BE CONTAMINATION.", "ISOLATED FROM ONE SET ONLY.")
LAB_AT = position(LABS["label"])
LAB_LOW, LAB_HIGH = LABS["low"].to_numpy(), LABS["high"].to_numpy()


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return {"labevents": labevents(batch), "microbiologyevents": microbiologyevents(batch)}


def labevents(batch: Batch) -> pl.DataFrame:
    """Blood draws, each of one to several panels, and the signs."""
    visit, time, outpatient = _draws(batch)
    chances = np.minimum(1.5 * PANELS["chance"].to_numpy(), 0.9)
    draw, panel = np.nonzero(batch.rng.random((len(visit), len(PANELS))) < chances)
    tests = [np.flatnonzero(LABS["panel"] == name) for name in PANELS["name"]]
    counts = np.array([len(labs) for labs in tests])
    specimen, j = spread(counts[panel])
    lab = np.concatenate(tests)[(np.cumsum(counts) - counts)[panel][specimen] + j]
    visit, time, outpatient = (values[draw[specimen]] for values in (visit, time, outpatient))

    # values lie in the reference range, or are moved up or down by the condition of an inpatient
    direction = np.zeros((len(CONDITIONS), len(LABS)))
    for k, condition in enumerate(CONDITIONS):
        direction[k, [LAB_AT[label] for label in condition.raised_labs]] = 1
        direction[k, [LAB_AT[label] for label in condition.lowered_labs]] = -1
    n = len(lab)
    move = direction[batch.visits.condition[visit], lab] * ~outpatient
    place = 0.5 + 0.33 * batch.rng.standard_normal(n) + move * batch.uniform(0.4, 1.4, n)
    of_sign = np.array([label in SIGN_ITEMS for label in LABS["label"]])[lab]
    place = np.where(of_sign, np.clip(place, 0.05, 0.95), place)  # abnormal as a sign only
    value = np.maximum(LAB_LOW[lab] + (LAB_HIGH - LAB_LOW)[lab] * place, 0)
    parts = [_lab_rows(batch, visit, time, lab, value, specimen, outpatient)]
    for sign, visit, time in batch.timed_signs("labevents", "ed", "adm", "icu", "end"):
        k = len(visit)
        lab, value, no_hadm = np.full(k, LAB_AT[sign.item]), np.full(k, float(sign.value)), np.full(k, sign.window == "ed")
        parts.append(_lab_rows(batch, visit, time // 60 * 60, lab, value, n + np.arange(k), no_hadm))
        n += k
    rows = table(*parts)
    specimen = (batch.index * 1_000_003 + rows["specimen_id"].to_numpy() * 37) % 89_999_999
    labevent_id = batch.index * 1_000_000 + 1 + np.arange(rows.height)
    return rows.with_columns(labevent_id=labevent_id, specimen_id=10_000_000 + specimen)


def _draws(batch: Batch) -> tuple[Ints, Ints, Bools]:
    """Visit and time of blood draws in admissions, in the ED and now and then in a clinic, and which have no hadm_id."""
    v, ed = batch.visits, batch.ed
    visit, time = batch.rounds(DRAW_STEP, 2 * HOUR)
    early = v.start[ed] + (HOUR * batch.uniform(0.6, 1.5, len(ed))).astype(np.int64)
    late = v.start[ed] + (HOUR * batch.uniform(2.5, 4.5, len(ed))).astype(np.int64)
    first = np.flatnonzero(np.r_[True, v.patient[1:] != v.patient[:-1]])
    owner, _ = spread(batch.rng.poisson(0.8, len(first)))
    clinic = first[owner]
    before = v.start[clinic] - (DAY * batch.uniform(1, 100, len(clinic))).astype(np.int64)
    outpatient = np.r_[np.zeros(len(visit), bool), batch.chance(0.6, 2 * len(ed)), np.ones(len(clinic), bool)]
    return batch.in_order((np.r_[visit, ed, ed, clinic], np.r_[time, early, late, before] // 60 * 60, outpatient))


def _lab_rows(batch: Batch, visit: Ints, time: Ints, lab: Ints, value: Floats, specimen: Ints, no_hadm: Bools) -> pl.DataFrame:
    n = len(lab)
    scale = 10.0 ** LABS["decimals"].to_numpy()[lab]
    value = np.rint(value * scale) / scale
    outside = (value > LAB_HIGH[lab]) | (value < LAB_LOW[lab])
    blank = batch.chance(0.08, n) & ~outside
    text = decimals(value).set(pl.Series(blank), None)
    range_of = np.where((LABS["unit"] != "").to_numpy()[lab], lab, -1)
    return batch.rows(
        visit,
        time,
        hadm_id=np.where(no_hadm, -1, batch.hadm[visit]),
        specimen_id=specimen,
        storetime=time + 60 * batch.integers(20, 160, n),
        itemid=pick(LABS["itemid"], lab),
        order_provider_id=batch.provider(n, 0.88),
        value=text,
        valuenum=text,
        valueuom=pick(LABS["unit"].replace("", None), lab),
        ref_range_lower=pick([f"{low:g}" for low in LAB_LOW], range_of),
        ref_range_upper=pick([f"{high:g}" for high in LAB_HIGH], range_of),
        flag=pick(("abnormal",), np.where(outside & (range_of >= 0), 0, -1)),
        **batch.choose("labevents", n, "priority"),
        comments=pick(LAB_COMMENTS, np.where(blank | batch.chance(0.09, n), batch.integers(0, 5, n), -1)),
    )


def microbiologyevents(batch: Batch) -> pl.DataFrame:
    """Cultures, half of them without growth; an organism that grew is tested against a few antibiotics."""
    v, adm, ed = batch.visits, batch.adm, batch.ed
    usual_organisms = np.flatnonzero(~ORGANISMS["name"].is_in([sign.value for sign in SIGNS]))
    owner, _ = spread(batch.rng.poisson(1.2, len(adm)))
    inpatient = adm[owner]
    outpatient = ed[batch.chance(0.35, len(ed))]
    length = np.maximum(v.out - v.admit - 3 * HOUR, HOUR)[inpatient]
    times = [v.admit[inpatient] + HOUR + (length * batch.rng.random(len(inpatient)) ** 2).astype(np.int64)]
    times.append(v.start[outpatient] + HOUR + 7 * 60 * batch.integers(0, 20, len(outpatient)))
    hadm = np.r_[batch.hadm[inpatient], np.full(len(outpatient), -1)]
    n = len(hadm)
    test = batch.any_of(without_signs(CULTURES["test_name"]), n)
    organism = np.where(batch.chance(0.45, n), batch.any_of(usual_organisms, n), -1)
    rows = [(np.r_[inpatient, outpatient], np.concatenate(times), hadm, test, organism)]
    for sign, visit, time in batch.timed_signs("microbiologyevents", "adm"):
        test = np.full(len(visit), position(CULTURES["test_name"])[sign.item])
        organism = np.full(len(visit), position(ORGANISMS["name"])[sign.value])
        rows.append((visit, time, batch.hadm[visit], test, organism))
    visit, time, hadm, test, organism = batch.in_order(*rows)
    n = len(visit)
    culture, j = spread(np.where(organism >= 0, batch.integers(2, 7, n), 1))
    n_rows = len(culture)
    grown = organism[culture] >= 0
    antibiotic = np.where(grown, (batch.integers(0, 8, n)[culture] + j) % len(ANTIBIOTICS), -1)
    dilution = np.where(grown, batch.integers(0, 5, n_rows), -1)
    # a culture with a date alone counts from midnight, which would take a sign out of its window
    undated = batch.chance(0.05, n) & ((organism < 0) | np.isin(organism, usual_organisms))
    visit, time, test, organism = visit[culture], time[culture] // 60 * 60, test[culture], organism[culture]
    return batch.rows(
        visit,
        time,
        hadm_id=hadm[culture],
        microevent_id=batch.index * 20_000 + 1 + np.arange(n_rows),
        micro_specimen_id=1_000_000 + batch.index * 9_000 + culture,
        order_provider_id=batch.provider(n_rows, 0.87),
        chartdate=midnight(time),
        charttime=np.where(undated[culture], -1, time),
        test_seq="1",
        storedate=midnight(time) + 2 * DAY,
        storetime=time + 2 * DAY,
        **{column: pick(CULTURES[column], test) for column in CULTURES.columns},
        org_itemid=pick(ORGANISMS["itemid"], organism),
        org_name=pick(ORGANISMS["name"], organism),
        isolate_num=pick(("1",), np.where(grown, 0, -1)),
        ab_itemid=pick(ANTIBIOTICS["itemid"], antibiotic),
        ab_name=pick(ANTIBIOTICS["name"], antibiotic),
        **{column: pick(texts, dilution) for column, texts in DILUTIONS.items()},
        comments=pick(CULTURE_COMMENTS, np.where(grown, batch.integers(2, 4, n_rows), batch.integers(0, 2, n_rows))),
    )
