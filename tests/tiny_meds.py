"""A small hand-made MEDS data set of another hospital, and its site file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

SITE = """
name: Small hospital
data_use: Made by hand.
encounter: visit
missing: ["-"]
patients: {gender: SEX/(.), birth: MEDS_BIRTH, death: MEDS_DEATH, death_is_date: true}
events:
  - event: admissions
    code: ADMIT/(?P<admission_type>.+)
    end: {code: LEAVE, key: [visit], columns: {dischtime: time}}
  - event: icustays
    code: ICU_IN
    columns: {stay_id: bed}
    end: {code: ICU_OUT, columns: {outtime: time}}
  - event: labevents
    code: LAB/.+
    columns: {item_name: description, valuenum: numeric_value, valueuom: unit, comments: text_value}
    available: seen
  - event: inputevents
    code: START/(?P<drug>.+)
    columns: {item_name: description, rate: numeric_value}
    end: {code: "STOP/(?P<drug>.+)", key: [drug], columns: {amount: numeric_value}}
  - event: diagnoses_icd
    code: ICD/(?P<icd_version>\\d+)/(?P<icd_code>.+)
    columns: {diagnoses: description}
ignored: [NOISE/.*]
left_out: {ICU_Readmission: transfers between wards look like readmissions}
"""
NAMES = {"LAB/K": "Potassium", "LAB/NA": "Sodium", "START/N": "Norepinephrine", "ICD/10/I10": "Hypertension"}

Row = tuple[int, str | None, str | None, dict[str, Any]]  # patient, hour of January 2150 as "DD HH:MM", code, other columns
ROWS: list[Row] = [
    (7, None, "SEX/F", {}),
    (7, "birth", "MEDS_BIRTH", {}),
    (7, "01 08:00", "ADMIT/urgent", {"visit": "A"}),
    (7, "01 09:00", "LAB/K", {"visit": "A", "numeric_value": 3.5, "unit": "mEq/L", "seen": "01 11:00"}),
    (7, "01 09:00", "LAB/NA", {"visit": "A", "text_value": "-", "seen": "01 11:00"}),
    (7, "01 10:00", "ICU_IN", {"visit": "A", "bed": 5}),
    (7, "01 11:00", "START/N", {"visit": "A", "numeric_value": 0.1}),
    (7, "01 12:00", "START/N", {"visit": "A", "numeric_value": 0.2}),
    (7, "01 13:00", "STOP/N", {"visit": "A", "numeric_value": 10.0}),
    (7, "01 14:00", "STOP/N", {"visit": "A", "numeric_value": 20.0}),
    (7, "02 12:00", "ICU_OUT", {"visit": "A"}),
    (7, "05 12:00", "LEAVE", {"visit": "A"}),
    (7, "05 12:00", "ICD/10/I10", {"visit": "A"}),
    (7, "09 00:00", "MEDS_DEATH", {}),
    (8, None, "SEX/M", {}),
    (8, "03 08:00", "ADMIT/elective", {"visit": "B"}),
    (8, "03 08:30", "NOISE/x", {"visit": "B"}),
    (8, "03 09:00", "LAB/K", {"visit": "B", "numeric_value": 4.0}),
    (8, "03 09:30", "UNKNOWN", {"visit": "B"}),
    (8, "03 09:45", None, {"visit": "B"}),
    (9, "04 08:00", "ADMIT/elective", {"visit": "C"}),
    (9, "04 20:00", "LAB/NA", {"visit": "C", "numeric_value": 140.0}),
    (9, "06 08:00", "LEAVE", {"visit": "C"}),
]


def time_of(text: str | None) -> datetime | None:
    if text in (None, "birth"):
        return datetime(2089, 6, 1) if text else None
    return datetime.fromisoformat(f"2150-01-{text}:00")


def frame_of(rows: Sequence[Row]) -> pl.DataFrame:
    types = {"numeric_value": pl.Float32, "text_value": pl.String, "visit": pl.String, "bed": pl.Int64, "unit": pl.String}
    columns: dict[str, Any] = {
        "subject_id": pl.Series([row[0] for row in rows], dtype=pl.Int64),
        "time": pl.Series([time_of(row[1]) for row in rows], dtype=pl.Datetime("us")),
        "code": pl.Series([row[2] for row in rows], dtype=pl.String),
        "seen": pl.Series([time_of(row[3].get("seen")) for row in rows], dtype=pl.Datetime("us")),
    }
    columns |= {name: pl.Series([row[3].get(name) for row in rows], dtype=dtype) for name, dtype in types.items()}
    return pl.DataFrame(columns)


MIMICIV_ROWS: list[Row] = [
    (subject, time, code, {"hadm_id": subject * 10, **columns})
    for subject in (1, 2, 3)
    for time, code, columns in (
        (None, "GENDER//F", {}),
        ("birth", "MEDS_BIRTH", {}),
        ("01 08:00", "HOSPITAL_ADMISSION//URGENT//EMERGENCY ROOM", {}),
        ("01 09:00", "ICU_ADMISSION//MICU", {"icustay_id": subject}),
        ("01 10:00", "LAB//220045//bpm", {"icustay_id": subject, "numeric_value": 80.0}),
        ("03 10:00", "ICU_DISCHARGE//MICU", {"icustay_id": subject}),
        ("05 10:00", "HOSPITAL_DISCHARGE//HOME", {}),
    )
]


def write_mimiciv_meds(folder: Path) -> Path:
    """Write three patients in the form of MIMIC_IV_MEDS."""
    write_meds(folder, [MIMICIV_ROWS], held_out=(3,))
    frame = frame_of(MIMICIV_ROWS)
    for name, dtype in {"hadm_id": pl.Int64, "icustay_id": pl.Int64, "order_id": pl.Int64, "route": pl.String,
                        "emar_id": pl.String}.items():  # fmt: skip
        frame = frame.with_columns(pl.Series(name, [row[3].get(name) for row in MIMICIV_ROWS], dtype))
    frame.write_parquet(folder / "data/all/0.parquet")
    return folder


def write_meds(folder: Path, shards: Sequence[Sequence[Row]], held_out: Sequence[int] = (9,)) -> Path:
    """Write a MEDS directory of these shards, and the site file beside it as `site.yaml`."""
    for number, rows in enumerate(shards):
        path = folder / "data/all" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame_of(rows).write_parquet(path)
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"code": list(NAMES), "description": list(NAMES.values())}).write_parquet(folder / "metadata/codes.parquet")
    subjects = sorted({row[0] for rows in shards for row in rows})
    splits = ["held_out" if subject in held_out else "train" for subject in subjects]
    pl.DataFrame({"subject_id": subjects, "split": splits}).write_parquet(folder / "metadata/subject_splits.parquet")
    (folder / "site.yaml").write_text(SITE, encoding="utf-8")
    return folder
