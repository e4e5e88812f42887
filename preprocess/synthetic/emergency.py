"""The ed tables. They have no hadm_id except for edstays; vital signs and drugs alternate through the stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, decimals, pick, same_width, spread
from preprocess.synthetic.hospital import codes, race, visit_diagnoses
from preprocess.synthetic.orders import CHRONIC_DRUGS, DRUG_AT, GSN, common_drugs, condition_drugs
from preprocess.synthetic.vocab import DRUGS, SIGN_ITEMS

if TYPE_CHECKING:
    from preprocess.synthetic.batch import Part
    from preprocess.synthetic.visits import Bools, Ints

VITALS = (("temperature", 98.2, 0.6), ("heartrate", 86, 11), ("resprate", 18, 2), ("o2sat", 97, 1.2), ("sbp", 132, 14),
          ("dbp", 76, 9))  # fmt: skip
"""Column, mean and standard deviation."""
DISPOSITIONS = ("ADMITTED", "HOME", "OTHER", "LEFT AGAINST MEDICAL ADVICE")
ROUND = 50 * 60
"""Seconds between an ED stay's vital signs; a drug is taken out between two of them."""


def emergency_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return {
        "edstays": edstays(batch),
        "triage": triage(batch),
        "medrecon": medrecon(batch),
        "pyxis": pyxis(batch),
        "vitalsign": vitalsign(batch),
        "diagnosis": diagnosis(batch),
    }


def _base(batch: Batch, visit: Ints, time: Ints) -> Part:
    """The columns of a part that say whose records they are, and when; without `visit`, from which hadm_id follows."""
    return {"patient": batch.visits.patient[visit], "stay_id": batch.ed_stay[visit], "time": time, "charttime": time}


def edstays(batch: Batch) -> pl.DataFrame:
    """One row for each ED stay."""
    v, visit = batch.visits, batch.ed
    n = len(visit)
    part = batch.base(visit, v.start[visit]) | {
        "stay_id": batch.ed_stay[visit],
        "intime": v.start[visit],
        "outtime": v.ed_out[visit],
        "race": race(batch, v.patient[visit]),
        "gender": pick(("M", "F"), batch.course.female[v.patient[visit]].astype(np.int64)),
        "arrival_transport": batch.choose("edstays", "arrival_transport", n),
    }
    discharged = np.where(batch.chance(0.85, n), 1, batch.integers(2, 4, n))
    part["disposition"] = pick(DISPOSITIONS, np.where(v.hospital[visit], 0, discharged))
    return batch.frame([part])


def _vitals(batch: Batch, n: int, missing: float) -> Part:
    part = {}
    for name, mean, sd in VITALS:
        value = decimals(np.round(mean + sd * batch.rng.standard_normal(n), 1 if name == "temperature" else 0))
        part[name] = value.set(pl.Series(batch.chance(missing, n)), None)
    return part


def _with_signs(batch: Batch, table: str, visit: Ints, part: Part, shown: Bools | bool = True) -> Part:
    """`part` with the signs of a table written into their columns, in the rows where they are shown."""
    for sign in batch.signs(table, "ed"):
        part[sign.item] = part[sign.item].set(pl.Series(batch.has(sign, visit) & shown), sign.value)
    return part


def triage(batch: Batch) -> pl.DataFrame:
    """Vital signs, acuity and chief complaint at arrival."""
    visit = batch.ed
    n = len(visit)
    part = _vitals(batch, n, 0.06) | {
        "pain": batch.choose("triage", "pain", n),
        "acuity": pick(("3", "4"), batch.integers(0, 5, n) // 4),
        "chiefcomplaint": batch.of_condition("complaint", visit),
    }
    part = _with_signs(batch, "triage", visit, part)
    return batch.frame([_base(batch, visit, batch.visits.start[visit]) | part])


def vitalsign(batch: Batch) -> pl.DataFrame:
    """Vital signs through the stay; a sign shows in the second and third round."""
    v, ed = batch.visits, batch.ed
    owner, j = spread((v.ed_out[ed] - v.start[ed] - 20 * 60) // ROUND)
    visit, n = ed[owner], len(owner)
    time = v.start[visit] + 15 * 60 + j * ROUND + 60 * batch.integers(0, 9, n)
    part = _vitals(batch, n, 0.08)
    rhythm = np.where(batch.chance(0.1, n), batch.integers(0, 2, n), -1)
    part["rhythm"] = pick(("Sinus Rhythm", "Sinus Tachycardia"), rhythm)
    part["pain"] = batch.choose("vitalsign", "pain", n)
    part = _with_signs(batch, "vitalsign", visit, part, (j == 1) | (j == 2))
    return batch.frame([_base(batch, visit, time) | part])


def pyxis(batch: Batch) -> pl.DataFrame:
    """Drugs taken out between the vital signs: the condition's and common ones; signs early in the stay."""
    v, ed = batch.visits, batch.ed
    common = common_drugs("ed")
    own = same_width([(drugs * 4)[:4] for drugs in condition_drugs()])
    owner, j = spread((v.ed_out[ed] - v.start[ed] - 40 * 60) // ROUND)
    taken = batch.chance(0.7, len(owner))
    visit, j = ed[owner[taken]], j[taken]
    n = len(visit)
    time = v.start[visit] + 40 * 60 + j * ROUND + 60 * batch.integers(0, 9, n)
    of_condition = own[v.condition[visit], batch.integers(0, 4, n)]
    drug = np.where(batch.chance(0.5, n), of_condition, common[batch.integers(0, len(common), n)])
    rows = [(visit, time, drug)]
    for sign in batch.signs("pyxis", "ed"):
        visit, time = batch.sign_times(sign)
        rows.append((visit, time // 60 * 60, np.full(len(visit), DRUG_AT[sign.item])))
    names = [d.name if d.name in SIGN_ITEMS else f"{d.name} {d.strength.split()[0]} {d.form}" for d in DRUGS]
    parts = []
    for visit, time, drug in rows:
        n = len(visit)
        parts.append(
            _base(batch, visit, time)
            | {
                "med_rn": batch.integers(1, 12, n),
                "gsn_rn": np.ones(n, np.int64),
                "name": pick(names, drug),
                "gsn": pick(GSN, drug),
            }
        )
    return batch.frame(parts)


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
    visit, time, drug = map(np.concatenate, zip(*rows, strict=True))
    part = _base(batch, visit, time) | {
        "name": pick([drug.name.lower() for drug in DRUGS], drug),
        "etc_rn": "1",
        "gsn": pick(GSN, drug),
        "ndc": pick([drug.ndc for drug in DRUGS], drug),
        "etccode": pick([f"{k * 37 + 158:08d}" if drug.atc else None for k, drug in enumerate(DRUGS)], drug),
        "etcdescription": pick([drug.atc or None for drug in DRUGS], drug),
    }
    return batch.frame([part])


def diagnosis(batch: Batch) -> pl.DataFrame:
    """1 to 3 diagnoses of each ED stay."""
    owner, code, seq_num = visit_diagnoses(batch, batch.ed, 1, 4)
    visit = batch.ed[owner]
    part = _base(batch, visit, batch.visits.ed_out[visit]) | {
        "seq_num": seq_num,
        "icd_title": pick([entry.title.upper() for entry in vocab.DIAGNOSES], code),
    }
    return batch.frame([part | codes(batch, vocab.DIAGNOSES, code, batch.visits.patient[visit])])
