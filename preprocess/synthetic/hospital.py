"""The hosp tables about stays and codes: patients, admissions, transfers, services, omr, diagnoses, procedures, …"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic.batch import Batch, pick, running_number, spread, table, without_signs
from preprocess.synthetic.visits import DAY, HOUR, midnight
from preprocess.synthetic.vocab import COMMON_DIAGNOSES, CONDITIONS, DIAGNOSES, HCPCS, PROCEDURES, position

if TYPE_CHECKING:
    from preprocess.synthetic.visits import Ints

RACES = ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN - CHINESE",
         "WHITE - OTHER EUROPEAN", "UNKNOWN", "OTHER", "BLACK/CAPE VERDEAN")  # fmt: skip
YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019")
# the first three come from the ED, the last is a short stay for observation
ADMISSION_TYPES = ("EW EMER.", "EW EMER.", "OBSERVATION ADMIT", "URGENT", "DIRECT EMER.", "SURGICAL SAME DAY ADMISSION",
                   "ELECTIVE", "URGENT", "EU OBSERVATION")  # fmt: skip
ADMITTED_FROM = ("PHYSICIAN REFERRAL", "TRANSFER FROM HOSPITAL", "CLINIC REFERRAL", "EMERGENCY ROOM")
DISCHARGED_TO = ("HOME", "HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", "CHRONIC/LONG TERM ACUTE CARE",
                 "DIED")  # fmt: skip
MEASURES = ("Weight (Lbs)", "Blood Pressure", "BMI (kg/m2)", "Height (Inches)")
MEASURE_RANGES = np.array([(110, 260), (95, 165), (19, 41), (59, 75)])


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    stays = (patients, admissions, transfers, services, omr)
    return {make.__name__: make(batch) for make in (*stays, diagnoses_icd, procedures_icd, drgcodes, hcpcsevents)}


def year_group(batch: Batch) -> Ints:
    """The position of each patient's anchor_year_group in `YEAR_GROUPS`."""
    return batch.course.number * 31 % 97 % len(YEAR_GROUPS)


def codes(batch: Batch, entries: pl.DataFrame, entry: Ints, visit: Ints) -> dict[str, pl.Series]:
    """icd_code and icd_version of entries by position: ICD-9 for patients of the first two year groups, else ICD-10."""
    ninth = pl.Series(year_group(batch)[batch.visits.patient[visit]] < 2)
    code = pick(entries["icd9"], entry).zip_with(ninth, pick(entries["icd10"], entry))
    return {"icd_code": code, "icd_version": 10 - ninth.cast(pl.Int64)}


def race(batch: Batch, patient: Ints) -> pl.Series:
    """The race of patients, by a rule that draws nothing, so that every table of a patient has the same."""
    return pick(RACES, batch.course.number[patient] * 17 % 101 % len(RACES))


def patients(batch: Batch) -> pl.DataFrame:
    """One row for each patient."""
    course = batch.course
    columns = {
        "patient": np.arange(batch.size),
        "subject_id": batch.subject,
        "gender": pick(("M", "F"), course.female.astype(np.int64)),
        "anchor_age": course.age,
        "anchor_year": 1970 + (course.first_day / (365.2425 * DAY)).astype(np.int64),
        "anchor_year_group": pick(YEAR_GROUPS, year_group(batch)),
        "dod": course.dod,
    }
    return pl.DataFrame(columns)


def admissions(batch: Batch) -> pl.DataFrame:
    """One row for each admission."""
    v, visit = batch.visits, batch.adm
    n = len(visit)
    ed, died = v.ed[visit], v.died[visit]
    kind = np.where(ed, batch.integers(0, 3, n), batch.integers(3, 8, n))
    provider = batch.provider(n)
    origin = np.where(ed & batch.chance(0.9, n), 3, batch.integers(0, 3, n))
    destination = np.where(batch.chance(0.12, n), -1, batch.integers(0, 6, n))
    return batch.rows(
        visit,
        v.admit[visit],
        admittime=v.admit[visit],
        dischtime=v.out[visit],
        deathtime=np.where(died, v.out[visit], -1),
        admission_type=pick(ADMISSION_TYPES, np.where(v.observed[visit], 8, kind)),
        admit_provider_id=provider,
        admission_location=pick(ADMITTED_FROM, origin),
        discharge_location=pick(DISCHARGED_TO, np.where(died, 6, destination)),
        **batch.choose("admissions", n, "insurance", "language", "marital_status"),
        race=race(batch, v.patient[visit]),
        edregtime=np.where(ed, v.start[visit], -1),
        edouttime=np.where(ed, v.ed_out[visit], -1),
        hospital_expire_flag=died.astype(np.int64),
    )


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
        careunit = batch.of_condition(unit, visit) if unit else "Emergency Department" if event == "ED" else None
        transfer_id = 30_000_000 + batch.visit_id[visit] * 8 + number
        columns = {"intime": start, "outtime": end, "eventtype": event, "careunit": careunit, "transfer_id": transfer_id}
        parts.append(batch.rows(visit, start, **columns))
    return table(*parts)


def services(batch: Batch) -> pl.DataFrame:
    """The service of the condition; one admission in five changes to another one."""
    v, visit = batch.visits, batch.adm
    time = v.admit[visit] + 61
    first = batch.rows(visit, time, transfertime=time, curr_service=batch.of_condition("service", visit))
    visit = visit[batch.chance(0.2, len(visit))]
    time = v.admit[visit] + 20 * HOUR + 17
    previous, service = batch.of_condition("service", visit), batch.choose("services", len(visit), "curr_service")
    return table(first, batch.rows(visit, time, transfertime=time, prev_service=previous, **service))


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
    columns = {
        "patient": patient[owner],
        "time": date[owner],
        "subject_id": batch.subject[patient[owner]],
        "chartdate": date[owner],
        "seq_num": np.ones(n, np.int64),
        "result_name": pick(MEASURES, measure),
        "value": value,
        "diastolic": batch.integers(50, 95, n),
    }
    pressure = pl.when(result_name="Blood Pressure").then(pl.format("{}/{}", "value", "diastolic"))
    return table(pl.DataFrame(columns)).with_columns(result_value=pressure.otherwise(pl.col("value").cast(pl.String)))


def visit_diagnoses(batch: Batch, visit: Ints, low: int, high: int) -> tuple[Ints, Ints, Ints]:
    """Diagnoses of visits, none twice: the condition's own first, then its comorbidities, then common ones.

    Args:
        low, high: bounds of the number of diagnoses; `high` is not reached.

    Returns:
        For each diagnosis, the position of its visit in `visit`, its position in `vocab.DIAGNOSES`, and its seq_num.
    """
    at = position(DIAGNOSES["icd10"])
    main = np.array([at[condition.diagnosis] for condition in CONDITIONS])
    common = np.array([at[code] for code in COMMON_DIAGNOSES["icd10"]])
    owner, j = spread(batch.integers(low, high, len(visit)))
    n = len(owner)
    comorbidity = batch.one_of_condition("comorbidities", DIAGNOSES["icd10"], visit[owner])
    # chronic diagnoses stay with the patient
    chronic = common[(batch.visits.patient[visit][owner] * 7 + batch.integers(0, 6, n)) % len(common)]
    code = np.where(j == 0, main[batch.visits.condition[visit][owner]], np.where(j < 4, comorbidity, chronic))
    code = np.where((j >= 4) & batch.chance(0.15, n), batch.integers(0, len(DIAGNOSES), n), code)
    first = np.unique(owner * 1000 + code, return_index=True)[1]
    first.sort()
    return owner[first], code[first], running_number(owner[first]) + 1


def diagnoses_icd(batch: Batch) -> pl.DataFrame:
    """7 to 17 diagnoses of each admission."""
    owner, code, seq_num = visit_diagnoses(batch, batch.adm, 7, 18)
    visit = batch.adm[owner]
    return batch.rows(visit, batch.visits.admit[visit], seq_num=seq_num, **codes(batch, DIAGNOSES, code, visit))


def procedures_icd(batch: Batch) -> pl.DataFrame:
    """Procedures of the condition on the days after admission; signs on the first morning."""
    v = batch.visits
    usual = without_signs(PROCEDURES["icd10"])
    owner, _ = spread(batch.rng.poisson(1.0 + 0.8 * v.icu[batch.adm]))
    visit = batch.adm[owner]
    n = len(visit)
    days = (midnight(v.out[visit]) - midnight(v.admit[visit])) // DAY
    date = midnight(v.admit[visit]) + DAY * (1 + batch.integers(0, 1000, n) % np.maximum(days, 1))
    of_condition = batch.one_of_condition("procedures", PROCEDURES["icd10"], visit)
    rows = [(visit, date, np.where(batch.chance(0.7, n), of_condition, batch.any_of(usual, n)))]
    for sign in batch.signs("procedures_icd", "adm"):
        visit = batch.adm[batch.has(sign, batch.adm)]
        code = position(PROCEDURES["icd10"])[sign.item]
        rows.append((visit, midnight(v.admit[visit]) + DAY, np.full(len(visit), code)))
    visit, date, code = batch.in_order(*rows)
    procedures = batch.rows(visit, date, chartdate=date, **codes(batch, PROCEDURES, code, visit))
    return procedures.with_columns(seq_num=pl.int_range(pl.len()).over("hadm_id") + 1)


def drgcodes(batch: Batch) -> pl.DataFrame:
    """A code of both DRG systems for most admissions, by the condition."""
    v = batch.visits
    parts = []
    for kind, first, level in (("HCFA", 3, " W MCC"), ("APR", 140, "")):
        visit = batch.adm[batch.chance(0.85, len(batch.adm))]
        n = len(visit)
        severity = pick(("1", "2", "3", "4"), batch.integers(0, 4, n)) if kind == "APR" else None
        condition = v.condition[visit]
        code = pick([f"{first + 43 * k:03d}" for k in range(len(CONDITIONS))], condition)
        text = pick([f"{entry.name.upper()} AND RELATED CONDITIONS{level}" for entry in CONDITIONS], condition)
        columns = {"drg_type": kind, "drg_code": code, "description": text}
        parts.append(batch.rows(visit, v.out[visit], **columns, drg_severity=severity, drg_mortality=severity))
    return table(*parts)


def hcpcsevents(batch: Batch) -> pl.DataFrame:
    """An event for every twelfth admission."""
    visit = batch.adm[batch.chance(0.08, len(batch.adm))]
    entry = batch.integers(0, len(HCPCS), len(visit))
    date = midnight(batch.visits.admit[visit]) + DAY
    code, text = pick(HCPCS["code"], entry), pick(HCPCS["short"], entry)
    return batch.rows(visit, date, chartdate=date, hcpcs_cd=code, seq_num="1", short_description=text)
