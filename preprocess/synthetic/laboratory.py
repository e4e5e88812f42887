"""The hosp tables of measurements on specimens: labevents and microbiologyevents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, decimals, field, pick, spread, without_signs
from preprocess.synthetic.visits import DAY, HOUR, midnight
from preprocess.synthetic.vocab import ANTIBIOTICS, CONDITIONS, CULTURES, LABS, ORGANISMS, PANELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.batch import Part
    from preprocess.synthetic.visits import Bools, Ints

DRAW_STEP = 23 * HOUR
"""Mean seconds between blood draws of an admission."""
LAB_COMMENTS = ("___", "NEG.", "NORMAL.", "Fasting 70-100 is normal; above 125 suggests diabetes.",
                "eGFR is estimated from this patient's age, sex and creatinine.")  # fmt: skip
DILUTIONS = [("<=0.5", "<=        ", "0.5", "S"), ("1", "=         ", "1", "S"), ("2", "=         ", "2", "S"),
             ("8", "=         ", "8", "I"), (">=32", "=>        ", "32", "R")]  # fmt: skip
"""Text, comparison, value and interpretation of an antibiotic's dilution."""
CULTURE_COMMENTS = ("NO GROWTH.", "___", "MIXED FLORA, MAY BE CONTAMINATION.", "ISOLATED FROM ONE SET ONLY.")
"""The first two are of cultures without growth."""
LAB_AT = vocab.position(LABS, "label")
LAB_LOW, LAB_HIGH = np.array([lab.low for lab in LABS]), np.array([lab.high for lab in LABS])


def laboratory_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return {"labevents": labevents(batch), "microbiologyevents": microbiologyevents(batch)}


def labevents(batch: Batch) -> pl.DataFrame:
    """Blood draws, each of one to several panels, and the signs."""
    visit, time, outpatient = _draws(batch)
    chances = np.minimum(1.5 * np.array([panel.chance for panel in PANELS]), 0.9)
    draw, panel = np.nonzero(batch.rng.random((len(visit), len(PANELS))) < chances)
    tests = [[k for k, lab in enumerate(LABS) if lab.panel == panel.name] for panel in PANELS]
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
    position = 0.5 + 0.33 * batch.rng.standard_normal(n) + move * batch.uniform(0.4, 1.4, n)
    of_sign = np.array([item.label in vocab.SIGN_ITEMS for item in LABS])[lab]
    position = np.where(of_sign, np.clip(position, 0.05, 0.95), position)  # abnormal as a sign only
    value = np.maximum(LAB_LOW[lab] + (LAB_HIGH - LAB_LOW)[lab] * position, 0)
    part = _lab_part(batch, visit, time, lab, value)
    parts = [part | {"hadm_id": np.where(outpatient, -1, batch.hadm[visit]), "specimen_id": specimen}]
    for window in ("ed", "adm", "icu", "end"):
        for sign in batch.signs("labevents", window):
            visit, time = batch.sign_times(sign)
            lab, value = np.full(len(visit), LAB_AT[sign.item]), np.full(len(visit), float(sign.value))
            hadm = {"hadm_id": np.full(len(visit), -1)} if window == "ed" else {}
            part = _lab_part(batch, visit, time // 60 * 60, lab, value)
            parts.append(part | hadm | {"specimen_id": n + np.arange(len(visit))})
            n += len(visit)
    table = batch.frame(parts)
    specimen = (batch.index * 1_000_003 + table["specimen_id"].to_numpy() * 37) % 89_999_999
    labevent_id = batch.index * 1_000_000 + 1 + np.arange(table.height)
    return table.with_columns(labevent_id=labevent_id, specimen_id=10_000_000 + specimen)


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
    visit, time = np.r_[visit, ed, ed, clinic], np.r_[time, early, late, before] // 60 * 60
    order = np.lexsort((time, v.patient[visit]))
    return visit[order], time[order], outpatient[order]


def _lab_part(batch: Batch, visit: Ints, time: Ints, lab: Ints, value: NDArray[np.float64]) -> Part:
    n = len(lab)
    scale = 10.0 ** np.array([item.decimals for item in LABS])[lab]
    value = np.rint(value * scale) / scale
    outside = (value > LAB_HIGH[lab]) | (value < LAB_LOW[lab])
    blank = batch.chance(0.08, n) & ~outside
    text = decimals(value).set(pl.Series(blank), None)
    has_range = np.array([bool(item.unit) for item in LABS])[lab]
    return batch.base(visit, time) | {
        "charttime": time,
        "storetime": time + 60 * batch.integers(20, 160, n),
        "itemid": np.array([item.itemid for item in LABS])[lab],
        "order_provider_id": batch.provider(n, 0.88),
        "value": text,
        "valuenum": text,
        "valueuom": pick([item.unit or None for item in LABS], lab),
        "ref_range_lower": pick([f"{low:g}" for low in LAB_LOW], np.where(has_range, lab, -1)),
        "ref_range_upper": pick([f"{high:g}" for high in LAB_HIGH], np.where(has_range, lab, -1)),
        "flag": pick(("abnormal",), np.where(outside & has_range, 0, -1)),
        "priority": batch.choose("labevents", "priority", n),
        "comments": pick(LAB_COMMENTS, np.where(blank | batch.chance(0.09, n), batch.integers(0, 5, n), -1)),
    }


def microbiologyevents(batch: Batch) -> pl.DataFrame:
    """Cultures, half of them without growth; an organism that grew is tested against a few antibiotics."""
    v, adm, ed = batch.visits, batch.adm, batch.ed
    sign_values = {sign.value for sign in vocab.SIGNS}
    usual = without_signs([culture.test_name for culture in CULTURES])
    usual_organisms = np.array([k for k, organism in enumerate(ORGANISMS) if organism.name not in sign_values])
    owner, _ = spread(batch.rng.poisson(1.2, len(adm)))
    inpatient = adm[owner]
    outpatient = ed[batch.chance(0.35, len(ed))]
    length = np.maximum(v.out - v.admit - 3 * HOUR, HOUR)[inpatient]
    times = [v.admit[inpatient] + HOUR + (length * batch.rng.random(len(inpatient)) ** 2).astype(np.int64)]
    times.append(v.start[outpatient] + HOUR + 7 * 60 * batch.integers(0, 20, len(outpatient)))
    visit, time = np.r_[inpatient, outpatient], np.concatenate(times)
    hadm = np.r_[batch.hadm[inpatient], np.full(len(outpatient), -1)]
    n = len(visit)
    test = usual[batch.integers(0, len(usual), n)]
    organism = np.where(batch.chance(0.45, n), usual_organisms[batch.integers(0, len(usual_organisms), n)], -1)
    rows = [(visit, time, hadm, test, organism)]
    for sign in batch.signs("microbiologyevents", "adm"):
        visit, time = batch.sign_times(sign)
        test = np.full(len(visit), vocab.position(CULTURES, "test_name")[sign.item])
        organism = np.full(len(visit), vocab.position(ORGANISMS, "name")[sign.value])
        rows.append((visit, time, batch.hadm[visit], test, organism))
    visit, time, hadm, test, organism = map(np.concatenate, zip(*rows, strict=True))
    order = np.lexsort((time, v.patient[visit]))
    visit, time, hadm, test, organism = (values[order] for values in (visit, time // 60 * 60, hadm, test, organism))
    n = len(visit)
    culture, j = spread(np.where(organism >= 0, batch.integers(2, 7, n), 1))
    rows = len(culture)
    grown = organism[culture] >= 0
    antibiotic = np.where(grown, (batch.integers(0, 8, n)[culture] + j) % len(ANTIBIOTICS), -1)
    dilution = np.where(grown, batch.integers(0, 5, rows), -1)
    # a culture with a date alone counts from midnight, which would take a sign out of its window
    undated = batch.chance(0.05, n) & ((organism < 0) | np.isin(organism, usual_organisms))
    visit, time, test, organism = visit[culture], time[culture], test[culture], organism[culture]
    part = batch.base(visit, time) | {
        "hadm_id": hadm[culture],
        "microevent_id": batch.index * 20_000 + 1 + np.arange(rows),
        "micro_specimen_id": 1_000_000 + batch.index * 9_000 + culture,
        "order_provider_id": batch.provider(rows, 0.87),
        "chartdate": midnight(time),
        "charttime": np.where(undated[culture], -1, time),
        "test_seq": np.ones(rows, np.int64),
        "storedate": midnight(time) + 2 * DAY,
        "storetime": time + 2 * DAY,
        "org_itemid": field(ORGANISMS, "itemid", organism),
        "org_name": field(ORGANISMS, "name", organism),
        "isolate_num": pick(("1",), np.where(grown, 0, -1)),
        "ab_itemid": field(ANTIBIOTICS, "itemid", antibiotic),
        "ab_name": field(ANTIBIOTICS, "name", antibiotic),
        "comments": pick(CULTURE_COMMENTS, np.where(grown, batch.integers(2, 4, rows), batch.integers(0, 2, rows))),
    }
    part |= {column: field(CULTURES, column, test) for column in vocab.Culture._fields}
    columns = ("dilution_text", "dilution_comparison", "dilution_value", "interpretation")
    part |= {column: pick(texts, dilution) for column, texts in zip(columns, zip(*DILUTIONS, strict=True), strict=True)}
    return batch.frame([part])
