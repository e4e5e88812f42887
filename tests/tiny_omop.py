"""A small hand-made OMOP CDM, as CSV or parquet, in version 5.3 or 5.4."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

Rows = list[dict[str, Any]]
CONCEPTS = [
    (9201, "Inpatient Visit", "Visit", "IP", "Visit"),
    (9202, "Outpatient Visit", "Visit", "OP", "Visit"),
    (32037, "Intensive Care", "CMS Place of Service", "OMOP4822460", "Visit"),
    (3023103, "Potassium [Moles/volume] in Serum or Plasma", "LOINC", "2823-3", "Lab Test"),
    (3019550, "Sodium [Moles/volume] in Serum or Plasma", "LOINC", "2951-2", "Lab Test"),
    (3027018, "Heart rate", "LOINC", "8867-4", "Clinical Observation"),
    (8753, "millimole per liter", "UCUM", "mmol/L", "Unit"),
    (4132135, "Absent", "SNOMED", "2667000", "Qualifier Value"),
    (1127433, "acetaminophen 325 MG Oral Tablet", "RxNorm", "313782", "Clinical Drug"),
    (4107731, "Subcutaneous immunotherapy", "SNOMED", "180256009", "Procedure"),
    (320128, "Essential hypertension", "SNOMED", "59621000", "Clinical Finding"),
    (2100000001, "Implantable defibrillator of the hospital", "own", "D", "Device"),
]
OLD_NAMES = {"admitted_from_source_value": "admitting_source_value", "discharged_to_source_value": "discharge_to_source_value"}


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2150, 1, day, hour)


def rows_of(person: int) -> dict[str, Rows]:
    """The rows of a person: four days in hospital, a day of them in intensive care, and an outpatient visit."""
    visit = person * 10
    base = {"person_id": person, "visit_occurrence_id": visit}

    def row(table: str, number: int, prefix: str, concept: int, start: datetime, **values: Any) -> dict[str, Any]:
        own = {f"{table}_id": person * 1000 + number, f"{prefix}_datetime": start, f"{prefix}_date": start.date()}
        return {**base, **own, f"{table.partition('_')[0]}_concept_id": concept, **values}

    def measured(number: int, concept: int, hour: int, **values: Any) -> dict[str, Any]:
        return row("measurement", number, "measurement", concept, at(1, hour), **values)

    def detail(number: int, start: datetime, end: datetime) -> dict[str, Any]:
        own = {"visit_detail_id": person * 100 + number, "visit_detail_concept_id": 32037}
        times = {"visit_detail_start_datetime": start, "visit_detail_start_date": start.date()}
        return {**base, **own, **times, "visit_detail_end_datetime": end}

    death = {"person_id": person, "cause_concept_id": 0, "death_date": at(12).date(), "death_datetime": at(12, 3)}
    dose = {"quantity": 2.5, "dose_unit_source_value": None, "route_concept_id": 0}
    visits = [(visit, 9201, at(1, 8), at(5, 12)), (visit + 1, 9202, at(9), at(9))]
    return {
        "person": [{"person_id": person, "gender_concept_id": 8532 if person % 2 else 0, "year_of_birth": 2089,
                    "month_of_birth": 6 if person == 1 else None, "day_of_birth": 2 if person == 1 else None,
                    "gender_source_value": "X", "person_source_value": f"P-{person}"}],
        "death": [death] if person == 1 else [],
        "visit_occurrence": [
            {"person_id": person, "visit_occurrence_id": number, "visit_concept_id": concept, "visit_start_datetime": start,
             "visit_start_date": start.date(), "visit_end_datetime": end, "visit_end_date": end.date(),
             "admitted_from_source_value": "HOME", "discharged_to_source_value": None}
            for number, concept, start, end in visits
        ],
        "visit_detail": [detail(1, at(2, 8), at(2, 20)), detail(2, at(2, 20), at(3, 8)), detail(3, at(4, 8), at(4, 9))],
        "condition_occurrence": [row("condition_occurrence", 1, "condition_start", 320128, at(1, 8))],
        "drug_exposure": [row("drug_exposure", number, "drug_exposure_start", 1127433, at(1, hour), **dose)
                          for number, hour in ((1, 11), (2, 15))],
        "procedure_occurrence": [row("procedure_occurrence", 1, "procedure", 4107731, at(1, 12))],
        "measurement": [
            measured(1, 3027018, 9, value_as_number=80.0),
            measured(2, 3023103, 10, value_as_number=3.5, unit_concept_id=8753, range_low=3.0, range_high=None),
            measured(3, 3019550, 10, value_as_concept_id=4132135),
            measured(4, 3027018, 14, value_as_number=90.25),
            measured(5, 99, 16, value_as_number=1.0),  # a concept that the vocabulary does not have
            measured(6, 0, 16),
        ],
        "device_exposure": [row("device_exposure", 1, "device_exposure_start", 2100000001, at(1, 13))],
    }  # fmt: skip


def tables(persons: int = 3) -> dict[str, Rows]:
    """The tables of the CDM: those of `persons` persons, and the concepts."""
    names = ("concept_id", "concept_name", "vocabulary_id", "concept_code", "concept_class_id")
    result: dict[str, Rows] = {"concept": [dict(zip(names, values, strict=True)) for values in CONCEPTS]}
    for person in range(1, persons + 1):
        for name, rows in rows_of(person).items():
            result.setdefault(name, []).extend(rows)
    return result


def frame_of(rows: Rows) -> pl.DataFrame:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False)


def write_omop(folder: Path, content: Mapping[str, Rows] | None = None, form: str = "csv", version: str = "5.4") -> Path:
    """Write a CDM.

    Args:
        form: `csv`; `CSV.GZ`: file names and headers in upper case, with a byte-order mark; `athena`: concepts separated by
            tabs, but for the last one, which is in a file of its own; `parquet`; `parts`: directories of parquet files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (content or tables()).items():
        frame = frame_of(rows)
        if version == "5.3":
            frame = frame.rename(OLD_NAMES, strict=False)
        if form == "parquet":
            frame.write_parquet(folder / f"{name}.parquet")
        elif form == "parts":
            (folder / name).mkdir()
            for number in range(2):
                frame[number::2].write_parquet(folder / name / f"part-{number}.parquet")
        elif form == "CSV.GZ":
            text = io.BytesIO()
            frame.rename(str.upper).write_csv(text, datetime_format="%Y-%m-%dT%H:%M:%S")
            (folder / f"{name.upper()}.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.getvalue()))
        else:
            if form == "athena" and name == "concept":
                frame[:-1].write_csv(folder / "CONCEPT.csv", separator="\t", quote_style="never")
                frame, name = frame[-1:], "2b_concept"
            frame.write_csv(folder / f"{name}.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    return folder
