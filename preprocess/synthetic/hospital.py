"""The hosp tables about stays and codes: patients, admissions, transfers, services, omr, diagnoses, procedures, …"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab
from preprocess.synthetic.batch import Batch, field, pick, same_width, spread, without_signs
from preprocess.synthetic.visits import DAY, HOUR, midnight
from preprocess.synthetic.vocab import CONDITIONS, Code

if TYPE_CHECKING:
    from preprocess.synthetic.batch import Part
    from preprocess.synthetic.visits import Ints

RACES = ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN - CHINESE",
         "WHITE - OTHER EUROPEAN", "UNKNOWN", "OTHER", "BLACK/CAPE VERDEAN")  # fmt: skip
YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019")
ADMISSION_TYPES = ("EW EMER.", "EW EMER.", "OBSERVATION ADMIT", "URGENT", "DIRECT EMER.", "SURGICAL SAME DAY ADMISSION",
                   "ELECTIVE", "URGENT", "EU OBSERVATION")  # fmt: skip
"""The first three come from the ED, the last is a short stay for observation."""
ADMITTED_FROM = ("PHYSICIAN REFERRAL", "TRANSFER FROM HOSPITAL", "CLINIC REFERRAL", "EMERGENCY ROOM")
DISCHARGED_TO = ("HOME", "HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", "CHRONIC/LONG TERM ACUTE CARE",
                 "DIED")  # fmt: skip
MEASURES = ("Weight (Lbs)", "Blood Pressure", "BMI (kg/m2)", "Height (Inches)")
MEASURE_RANGES = np.array([(110, 260), (95, 165), (19, 41), (59, 75)])
DIAGNOSIS_AT = vocab.position(vocab.DIAGNOSES, "icd10")
PROCEDURE_AT = vocab.position(vocab.PROCEDURES, "icd10")


def hospital_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return {
        "patients": patients(batch),
        "admissions": admissions(batch),
        "transfers": transfers(batch),
        "services": services(batch),
        "omr": omr(batch),
        "diagnoses_icd": diagnoses_icd(batch),
        "procedures_icd": procedures_icd(batch),
        "drgcodes": drgcodes(batch),
        "hcpcsevents": hcpcsevents(batch),
    }


def year_group(batch: Batch) -> Ints:
    """The position of each patient's anchor_year_group in `YEAR_GROUPS`."""
    return batch.course.number * 31 % 97 % len(YEAR_GROUPS)


def codes(batch: Batch, entries: list[Code], entry: Ints, patient: Ints) -> Part:
    """icd_code and icd_version of entries by position: ICD-9 for patients of the first two year groups, else ICD-10."""
    ninth = year_group(batch)[patient] < 2
    icd9, icd10 = field(entries, "icd9", entry), field(entries, "icd10", entry)
    return {"icd_code": icd9.zip_with(pl.Series(ninth), icd10), "icd_version": np.where(ninth, 9, 10)}


def race(batch: Batch, patient: Ints) -> pl.Series:
    """The race of patients, by a rule that draws nothing, so that every table of a patient has the same."""
    return pick(RACES, batch.course.number[patient] * 17 % 101 % len(RACES))


def patients(batch: Batch) -> pl.DataFrame:
    """One row for each patient."""
    course = batch.course
    part = {
        "patient": np.arange(batch.size),
        "gender": pick(("M", "F"), course.female.astype(np.int64)),
        "anchor_age": course.age,
        "anchor_year": 1970 + (course.first_day / (365.2425 * DAY)).astype(np.int64),
        "anchor_year_group": pick(YEAR_GROUPS, year_group(batch)),
        "dod": course.dod,
    }
    return batch.frame([part])


def admissions(batch: Batch) -> pl.DataFrame:
    """One row for each admission."""
    v, visit = batch.visits, batch.adm
    n = len(visit)
    ed, died = v.ed[visit], v.died[visit]
    kind = np.where(ed, batch.integers(0, 3, n), batch.integers(3, 8, n))
    part = batch.base(visit, v.admit[visit]) | {
        "admittime": v.admit[visit],
        "dischtime": v.out[visit],
        "deathtime": np.where(died, v.out[visit], -1),
        "admission_type": pick(ADMISSION_TYPES, np.where(v.observed[visit], 8, kind)),
        "admit_provider_id": batch.provider(n),
        "admission_location": pick(ADMITTED_FROM, np.where(ed & batch.chance(0.9, n), 3, batch.integers(0, 3, n))),
    }
    destination = np.where(batch.chance(0.12, n), -1, batch.integers(0, 6, n))
    part |= {column: batch.choose("admissions", column, n) for column in ("insurance", "language", "marital_status")} | {
        "discharge_location": pick(DISCHARGED_TO, np.where(died, 6, destination)),
        "race": race(batch, v.patient[visit]),
        "edregtime": np.where(ed, v.start[visit], -1),
        "edouttime": np.where(ed, v.ed_out[visit], -1),
        "hospital_expire_flag": died.astype(np.int64),
    }
    return batch.frame([part])


def transfers(batch: Batch) -> pl.DataFrame:
    """ED, ward, intensive care and back, discharge; each stay in a unit ends where the next begins."""
    v = batch.visits
    ed, adm = batch.ed, batch.adm
    icu, second = adm[v.icu[adm]], adm[v.second_icu[adm]]
    ward_end = np.where(v.icu[adm], v.icu_in[adm], v.out[adm])
    after_icu = np.where(v.second_icu[icu], v.second_icu_in[icu], v.out[icu])
    stages = [
        ("ED", ed, v.start[ed], v.ed_out[ed], ""),
        ("admit", adm, v.admit[adm] + 37, ward_end, "unit"),
        ("transfer", icu, v.icu_in[icu], v.icu_out[icu], "icu_unit"),
        ("transfer", icu, v.icu_out[icu], after_icu, "unit"),
        ("transfer", second, v.second_icu_in[second], v.second_icu_out[second], "icu_unit"),
        ("transfer", second, v.second_icu_out[second], v.out[second], "unit"),
        ("discharge", adm, v.out[adm], np.full(len(adm), -1), ""),
    ]
    parts = []
    for number, (event, visit, start, end, unit) in enumerate(stages):
        lasting = (end < 0) | (end > start)
        visit, start, end = visit[lasting], start[lasting], end[lasting]
        elsewhere = pick(("Emergency Department",), np.full(len(visit), 0 if event == "ED" else -1))
        parts.append(
            batch.base(visit, start)
            | {
                "intime": start,
                "outtime": end,
                "eventtype": event,
                "careunit": batch.of_condition(unit, visit) if unit else elsewhere,
                "transfer_id": 30_000_000 + batch.visit_id[visit] * 8 + number,
            }
        )
    return batch.frame(parts)


def services(batch: Batch) -> pl.DataFrame:
    """The service of the condition; one admission in five changes to another one."""
    v, visit = batch.visits, batch.adm
    time = v.admit[visit] + 61
    first = batch.base(visit, time) | {"transfertime": time, "curr_service": batch.of_condition("service", visit)}
    visit = visit[batch.chance(0.2, len(visit))]
    time = v.admit[visit] + 20 * HOUR + 17
    changed = batch.base(visit, time) | {
        "transfertime": time,
        "prev_service": batch.of_condition("service", visit),
        "curr_service": batch.choose("services", "curr_service", len(visit)),
    }
    return batch.frame([first, changed])


def omr(batch: Batch) -> pl.DataFrame:
    """Clinic visits: some before the first visit, some the day after an ED stay."""
    course, v = batch.course, batch.visits
    clinic, _ = spread(batch.rng.poisson(1.1, batch.size))
    early = course.first_day[clinic] + DAY * batch.integers(0, 200, len(clinic))
    home = batch.ed[~v.hospital[batch.ed]]
    home = home[batch.chance(0.6, len(home))]
    patient = np.r_[clinic, v.patient[home]]
    date = np.r_[midnight(early), midnight(v.ed_out[home]) + DAY]
    alive = (course.dod[patient] < 0) | (date < course.dod[patient])
    patient, date = patient[alive], date[alive]
    owner, j = spread(batch.integers(1, 5, len(patient)))
    n = len(owner)
    measure = (j + batch.integers(0, 4, len(patient))[owner]) % 4
    low, high = MEASURE_RANGES.T
    value = (low[measure] + (high - low)[measure] * batch.rng.random(n)).astype(np.int64)
    values = pl.DataFrame({"value": value, "diastolic": batch.integers(50, 95, n), "is_pressure": measure == 1})
    pressure = pl.when("is_pressure").then(pl.format("{}/{}", "value", "diastolic"))
    part = {
        "patient": patient[owner],
        "time": date[owner],
        "chartdate": date[owner],
        "seq_num": np.ones(n, np.int64),
        "result_name": pick(MEASURES, measure),
        "result_value": values.select(pressure.otherwise(pl.col("value").cast(pl.String))).to_series(),
    }
    return batch.frame([part])


def visit_diagnoses(batch: Batch, visit: Ints, low: int, high: int) -> tuple[Ints, Ints, Ints]:
    """Diagnoses of visits, none twice: the condition's own first, then its comorbidities, then common ones.

    Args:
        low, high: bounds of the number of diagnoses; `high` is not reached.

    Returns:
        For each diagnosis, the position of its visit in `visit`, its position in `vocab.DIAGNOSES`, and its seq_num.
    """
    main = np.array([DIAGNOSIS_AT[condition.diagnosis] for condition in CONDITIONS])
    comorbidities = same_width([[DIAGNOSIS_AT[code] for code in condition.comorbidities] for condition in CONDITIONS])
    common = np.array([DIAGNOSIS_AT[diagnosis.icd10] for diagnosis in vocab.COMMON_DIAGNOSES])
    owner, j = spread(batch.integers(low, high, len(visit)))
    n = len(owner)
    condition = batch.visits.condition[visit][owner]
    comorbidity = comorbidities[condition, batch.integers(0, comorbidities.shape[1], n)]
    # chronic diagnoses stay with the patient
    chronic = common[(batch.visits.patient[visit][owner] * 7 + batch.integers(0, 6, n)) % len(common)]
    code = np.where(j == 0, main[condition], np.where(j < 4, comorbidity, chronic))
    code = np.where((j >= 4) & batch.chance(0.15, n), batch.integers(0, len(vocab.DIAGNOSES), n), code)
    first = np.unique(owner * 1000 + code, return_index=True)[1]
    first.sort()
    owner, code = owner[first], code[first]
    return owner, code, np.arange(len(owner)) - np.searchsorted(owner, owner) + 1


def diagnoses_icd(batch: Batch) -> pl.DataFrame:
    """7 to 17 diagnoses of each admission."""
    owner, code, seq_num = visit_diagnoses(batch, batch.adm, 7, 18)
    visit = batch.adm[owner]
    patient = batch.visits.patient[visit]
    part = {"patient": patient, "visit": visit, "seq_num": seq_num}
    return batch.frame([part | codes(batch, vocab.DIAGNOSES, code, patient)])


def procedures_icd(batch: Batch) -> pl.DataFrame:
    """Procedures of the condition on the days after admission; signs on the first morning."""
    v = batch.visits
    own = same_width([[PROCEDURE_AT[code] for code in condition.procedures] for condition in CONDITIONS])
    usual = without_signs([procedure.icd10 for procedure in vocab.PROCEDURES])
    owner, _ = spread(batch.rng.poisson(1.0 + 0.8 * v.icu[batch.adm]))
    visit = batch.adm[owner]
    n = len(visit)
    days = (midnight(v.out[visit]) - midnight(v.admit[visit])) // DAY
    date = midnight(v.admit[visit]) + DAY * (1 + batch.integers(0, 1000, n) % np.maximum(days, 1))
    of_condition = own[v.condition[visit], batch.integers(0, own.shape[1], n)]
    code = np.where(batch.chance(0.7, n), of_condition, usual[batch.integers(0, len(usual), n)])
    rows = [(visit, date, code)]
    for sign in batch.signs("procedures_icd", "adm"):
        visit = batch.adm[batch.has(sign, batch.adm)]
        rows.append((visit, midnight(v.admit[visit]) + DAY, np.full(len(visit), PROCEDURE_AT[sign.item])))
    visit, date, code = map(np.concatenate, zip(*rows, strict=True))
    part = batch.base(visit, date) | {"chartdate": date} | codes(batch, vocab.PROCEDURES, code, v.patient[visit])
    return batch.frame([part]).with_columns(seq_num=pl.int_range(pl.len()).over("hadm_id") + 1)


def drgcodes(batch: Batch) -> pl.DataFrame:
    """A code of both DRG systems for most admissions, by the condition."""
    v = batch.visits
    names = [condition.name.upper() for condition in CONDITIONS]
    parts = []
    for kind, first, level in (("HCFA", 3, " W MCC"), ("APR", 140, "")):
        visit = batch.adm[batch.chance(0.85, len(batch.adm))]
        n = len(visit)
        condition = v.condition[visit]
        severity = pick(("1", "2", "3", "4"), batch.integers(0, 4, n) if kind == "APR" else np.full(n, -1))
        parts.append(
            batch.base(visit, v.out[visit])
            | {
                "drg_type": kind,
                "drg_code": pick([f"{first + 43 * k:03d}" for k in range(len(names))], condition),
                "description": pick([f"{name} AND RELATED CONDITIONS{level}" for name in names], condition),
                "drg_severity": severity,
                "drg_mortality": severity,
            }
        )
    return batch.frame(parts)


def hcpcsevents(batch: Batch) -> pl.DataFrame:
    """An event for every twelfth admission."""
    visit = batch.adm[batch.chance(0.08, len(batch.adm))]
    entry = batch.integers(0, len(vocab.HCPCS), len(visit))
    date = midnight(batch.visits.admit[visit]) + DAY
    part = batch.base(visit, date) | {
        "chartdate": date,
        "hcpcs_cd": field(vocab.HCPCS, "code", entry),
        "seq_num": np.ones(len(visit), np.int64),
        "short_description": field(vocab.HCPCS, "short", entry),
    }
    return batch.frame([part])
