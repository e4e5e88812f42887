"""The hosp tables about stays and codes: patients, admissions, transfers, services, omr, diagnoses, procedures, …"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab as vocab
from preprocess.synthetic.patients import Batch, pick, spread
from preprocess.synthetic.visits import DAY, HOUR, midnight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

RACES = ("WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN - CHINESE",
         "WHITE - OTHER EUROPEAN", "UNKNOWN", "OTHER", "BLACK/CAPE VERDEAN")  # fmt: skip
YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019")
VITAL_TEXT = ("Weight (Lbs)", "Blood Pressure", "BMI (kg/m2)", "Height (Inches)")


def stay_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The hosp tables of this module."""
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
    return batch.course.number * 31 % 97 % len(YEAR_GROUPS)


def icd9(batch: Batch, patient: Ints) -> NDArray[np.bool_]:
    """Whether a patient's codes are of the ninth revision: those of the first two year groups."""
    return year_group(batch)[patient] < 2


def coded(batch: Batch, entries: list, code: Ints, patient: Ints) -> dict[str, pl.Series]:
    """icd_code and icd_version of entries by position."""
    nine = icd9(batch, patient)
    texts = [e.icd9 for e in entries] + [e.icd10 for e in entries]
    return {
        "icd_code": pick(texts, np.where(nine, code, code + len(entries))),
        "icd_version": pl.Series(np.where(nine, 9, 10)),
    }


def patients(batch: Batch) -> pl.DataFrame:
    course = batch.course
    part = {
        "patient": np.arange(batch.size), "gender": pick(("M", "F"), course.female.astype(np.int64)),
        "anchor_age": course.age, "anchor_year": 1970 + (course.birth_offset / (365.2425 * DAY)).astype(np.int64),
        "anchor_year_group": pick(YEAR_GROUPS, year_group(batch)), "dod": course.dod,
    }  # fmt: skip
    return batch.frame("patients", [part])


def race(batch: Batch, patient: Ints) -> pl.Series:
    return pick(RACES, batch.course.number[patient] * 17 % 101 % len(RACES))


def admissions(batch: Batch) -> pl.DataFrame:
    v, visit = batch.v, batch.adm
    n = len(visit)
    patient, ed, died = v["patient"][visit], v["ed"][visit], v["died"][visit]
    types = ("EW EMER.", "EW EMER.", "OBSERVATION ADMIT", "URGENT", "DIRECT EMER.", "SURGICAL SAME DAY ADMISSION", "ELECTIVE",
             "URGENT", "EU OBSERVATION")  # fmt: skip
    places = (
        "PHYSICIAN REFERRAL",
        "TRANSFER FROM HOSPITAL",
        "CLINIC REFERRAL",
        "EMERGENCY ROOM",
        "WALK-IN/SELF REFERRAL",
    )
    homes = (
        "HOME",
        "HOME",
        "HOME HEALTH CARE",
        "SKILLED NURSING FACILITY",
        "REHAB",
        "CHRONIC/LONG TERM ACUTE CARE",
        "DIED",
    )
    part = {
        "patient": patient, "visit": visit, "time": v["admit"][visit], "admittime": v["admit"][visit],
        "dischtime": v["out"][visit], "deathtime": np.where(died, v["out"][visit], -1),
        "admission_type": pick(types, np.where(v["observed"][visit], 8, np.where(
            ed, batch.integers(0, 3, n), batch.integers(3, 8, n)))),
        "admit_provider_id": batch.provider(n),
        "admission_location": pick(places, np.where(ed & batch.chance(0.9, n), 3, batch.integers(0, 3, n))),
        "discharge_location": pick(homes, np.where(died, 6, np.where(batch.chance(0.12, n), -1, batch.integers(0, 6, n)))),
        "insurance": batch.one_of(("Medicare", "Other", "Medicaid"), n),
        "language": batch.one_of(("ENGLISH", "ENGLISH", "ENGLISH", "?"), n),
        "marital_status": batch.one_of(("MARRIED", "SINGLE", "WIDOWED", "DIVORCED", "MARRIED", "SINGLE", ""), n, 0.02),
        "race": race(batch, patient), "edregtime": np.where(ed, v["start"][visit], -1),
        "edouttime": np.where(ed, v["ed_out"][visit], -1), "hospital_expire_flag": died.astype(np.int64),
    }  # fmt: skip
    return batch.frame("admissions", [part])


def transfers(batch: Batch) -> pl.DataFrame:
    """ED, ward, intensive care and back, discharge; each stay in a unit ends where the next begins."""
    v = batch.v
    in_icu = batch.adm[v["icu"][batch.adm]]
    again = batch.adm[v["again"][batch.adm]]
    wards = [c.unit for c in vocab.CONDITIONS]
    icus = [c.icu_unit for c in vocab.CONDITIONS]
    after = np.where(v["again"][in_icu], v["again_in"][in_icu], v["out"][in_icu])
    first_end = np.where(v["icu"][batch.adm], v["icu_in"][batch.adm], v["out"][batch.adm])
    stages = [
        ("ED", batch.ed, v["start"][batch.ed], v["ed_out"][batch.ed], ["Emergency Department"] * len(wards), 0),
        ("admit", batch.adm, v["admit"][batch.adm] + 37, first_end, wards, 1),
        ("transfer", in_icu, v["icu_in"][in_icu], v["icu_out"][in_icu], icus, 2),
        ("transfer", in_icu, v["icu_out"][in_icu], after, wards, 3),
        ("transfer", again, v["again_in"][again], v["again_out"][again], icus, 4),
        ("transfer", again, v["again_out"][again], v["out"][again], wards, 5),
        ("discharge", batch.adm, v["out"][batch.adm], np.full(len(batch.adm), -1), [None] * len(wards), 6),
    ]
    parts = []
    for event, visit, start, end, units, number in stages:
        lasting = (end < 0) | (end > start)
        visit, start, end = visit[lasting], start[lasting], end[lasting]
        parts.append({
            "patient": v["patient"][visit], "visit": visit, "time": start, "intime": start, "outtime": end,
            "eventtype": event, "careunit": batch.by_condition(units, visit),
            "transfer_id": 30_000_000 + batch.visit_id[visit] * 8 + number,
        })  # fmt: skip
    return batch.frame("transfers", parts)


def services(batch: Batch) -> pl.DataFrame:
    v, visit = batch.v, batch.adm
    names = [c.service for c in vocab.CONDITIONS]
    first = {
        "patient": v["patient"][visit], "visit": visit, "time": v["admit"][visit] + 61,
        "transfertime": v["admit"][visit] + 61, "curr_service": batch.by_condition(names, visit),
    }  # fmt: skip
    some = visit[batch.chance(0.2, len(visit))]
    time = v["admit"][some] + 20 * HOUR + 17
    changed = {
        "patient": v["patient"][some], "visit": some, "time": time, "transfertime": time,
        "prev_service": batch.by_condition(names, some),
        "curr_service": batch.one_of(("MED", "SURG", "CMED", "TSURG", "VSURG", "GYN", "TRAUM"), len(some)),
    }  # fmt: skip
    return batch.frame("services", [first, changed])


def omr(batch: Batch) -> pl.DataFrame:
    """Clinic visits: some before the first visit, some the day after an ED stay."""
    course, v = batch.course, batch.v
    clinic, _ = spread(batch.rng.poisson(1.1, batch.size))
    early = course.birth_offset[clinic] + DAY * batch.integers(0, 200, len(clinic))
    home = batch.ed[~v["hospital"][batch.ed]]
    home = home[batch.chance(0.6, len(home))]
    patient = np.concatenate([clinic, v["patient"][home]])
    date = np.concatenate([midnight(early), midnight(v["ed_out"][home]) + DAY])
    alive = (course.dod[patient] < 0) | (date < course.dod[patient])
    patient, date = patient[alive], date[alive]
    owner, j = spread(batch.integers(1, 5, len(patient)))
    n = len(owner)
    name = (j + batch.integers(0, 4, len(patient))[owner]) % 4
    low, high = np.array([(110, 260), (95, 165), (19, 41), (59, 75)]).T
    value = (low[name] + (high - low)[name] * batch.rng.random(n)).astype(np.int64)
    text = pl.DataFrame({"v": value, "d": batch.integers(50, 95, n), "bp": name == 1}).select(
        pl.when("bp").then(pl.format("{}/{}", "v", "d")).otherwise(pl.col("v").cast(pl.String))
    )
    part = {
        "patient": patient[owner], "time": date[owner], "chartdate": date[owner], "seq_num": np.ones(n, np.int64),
        "result_name": pick(VITAL_TEXT, name), "result_value": text.to_series(),
    }  # fmt: skip
    return batch.frame("omr", [part])


def condition_codes(field: str, entries: list, names: dict[str, int]) -> Ints:
    """A table of the positions of each condition's entries, repeated to equal length."""
    lists = [[names[name] for name in getattr(c, field)] for c in vocab.CONDITIONS]
    width = max(map(len, lists))
    return np.array([(codes * width)[:width] for codes in lists])


DIAGNOSIS_AT = {d.icd10: k for k, d in enumerate(vocab.DIAGNOSES)}
PROCEDURE_AT = {p.icd10: k for k, p in enumerate(vocab.PROCEDURES)}


def visit_diagnoses(batch: Batch, visit: Ints, low: int, high: int) -> tuple[Ints, Ints, Ints]:
    """Diagnoses of visits: the condition's own first, then those that go with it, then common ones, none twice."""
    main = np.array([DIAGNOSIS_AT[c.diagnosis] for c in vocab.CONDITIONS])
    others = condition_codes("others", vocab.DIAGNOSES, DIAGNOSIS_AT)
    common = np.array([DIAGNOSIS_AT[c] for c in vocab.COMMON_DIAGNOSES])
    owner, j = spread(batch.integers(low, high, len(visit)))
    condition = batch.v["condition"][visit][owner]
    own = others[condition, batch.integers(0, others.shape[1], len(owner))]
    # what is chronic stays with the patient
    chronic = common[(batch.v["patient"][visit][owner] * 7 + batch.integers(0, 6, len(owner))) % len(common)]
    code = np.where(j == 0, main[condition], np.where(j < 4, own, chronic))
    code = np.where((j >= 4) & batch.chance(0.15, len(j)), batch.integers(0, len(vocab.DIAGNOSES), len(j)), code)
    first = np.unique(owner * 1000 + code, return_index=True)[1]
    first.sort()
    owner, code = owner[first], code[first]
    seq = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
    return owner, code, seq


def diagnoses_icd(batch: Batch) -> pl.DataFrame:
    owner, code, seq = visit_diagnoses(batch, batch.adm, 7, 18)
    visit = batch.adm[owner]
    patient = batch.v["patient"][visit]
    part = {"patient": patient, "visit": visit, "seq_num": seq} | coded(batch, vocab.DIAGNOSES, code, patient)
    return batch.frame("diagnoses_icd", [part])


def procedures_icd(batch: Batch) -> pl.DataFrame:
    """Procedures of the condition on the days after admission; a surgery sign on the first morning."""
    v = batch.v
    table = condition_codes("procedures", vocab.PROCEDURES, PROCEDURE_AT)
    owner, _ = spread(batch.rng.poisson(1.0 + 0.8 * v["icu"][batch.adm]))
    visit = batch.adm[owner]
    days = (midnight(v["out"][visit]) - midnight(v["admit"][visit])) // DAY
    date = midnight(v["admit"][visit]) + DAY * (1 + batch.integers(0, 1000, len(visit)) % np.maximum(days, 1))
    own = table[v["condition"][visit], batch.integers(0, table.shape[1], len(visit))]
    usual = np.array([k for k, p in enumerate(vocab.PROCEDURES) if p.icd10 not in {s.item for s in vocab.SIGNS}])
    code = np.where(batch.chance(0.7, len(visit)), own, usual[batch.integers(0, len(usual), len(visit))])
    parts = [(visit, date, code)]
    for sign in batch.signs("procedures_icd", "adm"):
        with_sign = batch.adm[batch.has(sign, batch.adm)]
        at = np.full(len(with_sign), PROCEDURE_AT[sign.item])
        parts.append((with_sign, midnight(v["admit"][with_sign]) + DAY, at))
    rows = []
    for visit, date, code in parts:
        patient = v["patient"][visit]
        rows.append(
            {"patient": patient, "visit": visit, "time": date, "chartdate": date}
            | coded(batch, vocab.PROCEDURES, code, patient)
        )
    table = batch.frame("procedures_icd", rows)
    return table.with_columns((pl.int_range(pl.len()).over("hadm_id") + 1).alias("seq_num"))


def drgcodes(batch: Batch) -> pl.DataFrame:
    v = batch.v
    names = [c.name.upper() for c in vocab.CONDITIONS]
    rows = []
    for kind, base, level in (("HCFA", 3, " W MCC"), ("APR", 140, "")):
        visit = batch.adm[batch.chance(0.85, len(batch.adm))]
        n = len(visit)
        severity = pick(("1", "2", "3", "4"), batch.integers(0, 4, n)) if kind == "APR" else pick((), np.full(n, -1))
        rows.append({
            "patient": v["patient"][visit], "visit": visit, "time": v["out"][visit], "drg_type": kind,
            "drg_code": pick([f"{base + 43 * k:03d}" for k in range(len(names))], v["condition"][visit]),
            "description": batch.by_condition([f"{name} AND RELATED CONDITIONS{level}" for name in names], visit),
            "drg_severity": severity, "drg_mortality": severity,
        })  # fmt: skip
    return batch.frame("drgcodes", rows)


def hcpcsevents(batch: Batch) -> pl.DataFrame:
    v = batch.v
    visit = batch.adm[batch.chance(0.08, len(batch.adm))]
    n = len(visit)
    which = batch.integers(0, len(vocab.HCPCS), n)
    date = midnight(v["admit"][visit]) + DAY
    part = {
        "patient": v["patient"][visit], "visit": visit, "time": date, "chartdate": date,
        "hcpcs_cd": pick([h[0] for h in vocab.HCPCS], which), "seq_num": np.ones(n, np.int64),
        "short_description": pick([h[1] for h in vocab.HCPCS], which),
    }  # fmt: skip
    return batch.frame("hcpcsevents", [part])
