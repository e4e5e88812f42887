"""The ed tables. They have no hadm_id except for edstays; vital signs and drugs alternate through the stay."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from preprocess.synthetic.batch import Batch, decimals, pick, spread, table
from preprocess.synthetic.hospital import codes, race, visit_diagnoses
from preprocess.synthetic.orders import CHRONIC_DRUGS, DRUG_AT, GSN, common_drugs
from preprocess.synthetic.vocab import CONDITIONS, DIAGNOSES, DRUGS, SIGN_ITEMS, Condition

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Bools, Ints

# column, mean and standard deviation
VITALS = (("temperature", 98.2, 0.6), ("heartrate", 86, 11), ("resprate", 18, 2), ("o2sat", 97, 1.2), ("sbp", 132, 14),
          ("dbp", 76, 9))  # fmt: skip
DISPOSITIONS = ("ADMITTED", "HOME", "OTHER", "LEFT AGAINST MEDICAL ADVICE")
TITLES = DIAGNOSES["title"].str.to_uppercase()
MAX_DIAGNOSES = 3  # of an ED stay
# the drugs of `vocab.DRUGS` as the drug cabinets name them: those of signs by their names alone
PYXIS_NAMES = [
    name if name in SIGN_ITEMS else f"{name} {strength.split()[0]} {form}"
    for name, strength, form in DRUGS.select("name", "strength", "form").iter_rows()
]
ROUND = 50 * 60  # seconds between an ED stay's vital signs; a drug is taken out between two of them


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return {make.__name__: make(batch) for make in (edstays, triage, medrecon, pyxis, vitalsign, diagnosis)}


def _rows(batch: Batch, visit: Ints, time: Ints, **columns: Any) -> pl.DataFrame:
    return batch.rows(visit, time, stay_id=batch.ed_stay[visit], **columns)


def edstays(batch: Batch) -> pl.DataFrame:
    """One row for each ED stay."""
    v, visit = batch.visits, batch.ed
    n = len(visit)
    transport = batch.choose("edstays", n, "arrival_transport")
    discharged = np.where(batch.chance(0.85, n), 1, batch.integers(2, 4, n))
    return _rows(
        batch,
        visit,
        v.start[visit],
        intime=v.start[visit],
        outtime=v.ed_out[visit],
        race=race(batch, v.patient[visit]),
        gender=pick(("M", "F"), batch.course.female[v.patient[visit]].astype(np.int64)),
        disposition=pick(DISPOSITIONS, np.where(v.hospital[visit], 0, discharged)),
        **transport,
    )


def _vitals(batch: Batch, n: int, missing: float) -> dict[str, pl.Series]:
    columns = {}
    for name, mean, sd in VITALS:
        value = decimals(np.round(mean + sd * batch.rng.standard_normal(n), 1 if name == "temperature" else 0))
        columns[name] = value.set(pl.Series(batch.chance(missing, n)), None)
    return columns


def _with_signs(batch: Batch, table: str, visit: Ints, columns: dict, shown: Bools | bool = True) -> dict[str, pl.Series]:
    """`columns` with the signs of a table, in the rows where they are shown."""
    for sign in batch.signs(table, "ed"):
        columns[sign.item] = columns[sign.item].set(pl.Series(batch.has(sign, visit) & shown), sign.value)
    return columns


def triage(batch: Batch) -> pl.DataFrame:
    """Vital signs, acuity and chief complaint at arrival."""
    visit, n = batch.ed, len(batch.ed)
    columns = _vitals(batch, n, 0.06) | batch.choose("triage", n, "pain")
    columns["acuity"] = pick(("3", "4"), batch.integers(0, 5, n) // 4)
    columns["chiefcomplaint"] = batch.of_condition("complaint", visit)
    return _rows(batch, visit, batch.visits.start[visit], **_with_signs(batch, "triage", visit, columns))


def vitalsign(batch: Batch) -> pl.DataFrame:
    """Vital signs through the stay; a sign shows in the second and third round."""
    v, ed = batch.visits, batch.ed
    owner, j = spread((v.ed_out[ed] - v.start[ed] - 20 * 60) // ROUND)
    visit, n = ed[owner], len(owner)
    time = v.start[visit] + 15 * 60 + j * ROUND + 60 * batch.integers(0, 9, n)
    columns = _vitals(batch, n, 0.08)
    rhythm = np.where(batch.chance(0.1, n), batch.integers(0, 2, n), -1)
    columns["rhythm"] = pick(("Sinus Rhythm", "Sinus Tachycardia"), rhythm)
    columns |= batch.choose("vitalsign", n, "pain")
    return _rows(batch, visit, time, **_with_signs(batch, "vitalsign", visit, columns, (j == 1) | (j == 2)))


def pyxis(batch: Batch) -> pl.DataFrame:
    """Drugs taken out between the vital signs: the condition's and common ones; signs early in the stay."""
    v, ed = batch.visits, batch.ed
    owner, j = spread((v.ed_out[ed] - v.start[ed] - 40 * 60) // ROUND)
    taken = batch.chance(0.7, len(owner))
    visit, j = ed[owner[taken]], j[taken]
    n = len(visit)
    time = v.start[visit] + 40 * 60 + j * ROUND + 60 * batch.integers(0, 9, n)
    of_condition = batch.one_of_condition("drugs", DRUGS["name"], visit, 4)
    drug = np.where(batch.chance(0.5, n), of_condition, batch.any_of(common_drugs("ed"), n))
    rows = [(visit, time, drug)]
    for sign, visit, time in batch.timed_signs("pyxis", "ed"):
        rows.append((visit, time // 60 * 60, np.full(len(visit), DRUG_AT[sign.item])))
    parts = []
    for visit, time, drug in rows:
        med_rn = batch.integers(1, 12, len(visit))
        parts.append(_rows(batch, visit, time, med_rn=med_rn, gsn_rn="1", name=pick(PYXIS_NAMES, drug), gsn=pick(GSN, drug)))
    return table(*parts)


def medrecon(batch: Batch) -> pl.DataFrame:
    """The list of home drugs, recorded late in the stay, in one or two sittings."""
    v = batch.visits
    owner, sitting = spread(batch.integers(1, 3, len(batch.ed)))
    visit = batch.ed[owner]
    share = 0.55 + 0.2 * sitting + 0.1 * batch.rng.random(len(visit))
    time = v.start[visit] + ((v.ed_out[visit] - v.start[visit]) * share).astype(np.int64) // 60 * 60
    owner, j = spread(batch.integers(1, 5, len(visit)))
    drug = v.patient[visit][owner] * 13 + (j + batch.integers(0, 3, len(owner))) * 11
    rows = [(visit[owner], time[owner], CHRONIC_DRUGS[drug % len(CHRONIC_DRUGS)])]
    for sign in batch.signs("medrecon", "ed"):
        holders = batch.has(sign, visit) & (sitting == 0)
        rows.append((visit[holders], time[holders], np.full(holders.sum(), DRUG_AT[sign.item])))
    visit, time, drug = batch.in_order(*rows)
    return _rows(
        batch,
        visit,
        time,
        name=pick(DRUGS["name"].str.to_lowercase(), drug),
        etc_rn="1",
        gsn=pick(GSN, drug),
        ndc=pick(DRUGS["ndc"], drug),
        etccode=pick([f"{k * 37 + 158:08d}" if atc else None for k, atc in enumerate(DRUGS["atc"])], drug),
        etcdescription=pick(DRUGS["atc"].replace("", None), drug),
    )


def diagnosis(batch: Batch) -> pl.DataFrame:
    """1 to 3 diagnoses of each ED stay."""
    owner, code, seq_num = visit_diagnoses(batch, batch.ed, 1, MAX_DIAGNOSES + 1)
    visit = batch.ed[owner]
    icd = codes(batch, DIAGNOSES, code, visit)
    return _rows(batch, visit, batch.visits.ed_out[visit], seq_num=seq_num, icd_title=pick(TITLES, code), **icd)


def diagnosis_sets(condition: Condition, task: str) -> dict[frozenset[str], float]:
    """The sets of names that the diagnoses of an ED stay can have, each with its probability given the condition.

    These follow from `diagnosis`: one to three diagnoses with equal probabilities, of which the first is the condition's own
    and the others are drawn from its comorbidities with replacement, as `Batch.one_of_condition` draws them.

    Args:
        condition: of the visit.
        task: `diagnosis` (titles of ICD codes) or `diagnosis_ccs` (CCS categories).
    """
    names = dict(zip(DIAGNOSES["icd10"], TITLES if task == "diagnosis" else DIAGNOSES["ccs"], strict=True))
    width = max(len(entry.comorbidities) for entry in CONDITIONS)
    drawn = [names[code] for code in (condition.comorbidities * width)[:width]]
    sets: dict[frozenset[str], float] = defaultdict(float)
    for number in range(MAX_DIAGNOSES):
        for others in product(drawn, repeat=number):
            sets[frozenset((names[condition.diagnosis], *others))] += 1 / MAX_DIAGNOSES / width**number
    return dict(sets)
