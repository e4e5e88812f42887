"""Characteristics of patients that a split looks at: sex, age, death and calendar period, from the patients table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mimiciv_dataset.cells import read_cells, read_known_header, whole_number
from mimiciv_dataset.events import MISSING_TEXTS
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.progress import progress

# Name → column of the patients table. Age counts in bands; death is known up to a year after the last discharge.
COLUMNS = {"sex": "gender", "age": "anchor_age", "death": "dod", "period": "anchor_year_group"}
BALANCED = ("death", "age", "sex")  # what --stratify balances by default, the most important first
AGE_BANDS = (18, 45, 65, 80)  # first years of the bands
UNKNOWN = "unknown"
FIX = "Use trajectories (--ehr_dir) or hosp/patients.csv (--patients)"
_PERIOD = re.compile(r"\d{4} - \d{4}")


class Characteristics(NamedTuple):
    """Those of a patient, as text for tables."""

    sex: str
    age: str
    death: str
    period: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Characteristics:
        """From a row of the patients table.

        >>> Characteristics.of({"gender": "F", "anchor_age": "64", "anchor_year_group": "2014 - 2016"})
        Characteristics(sex='F', age='45-64', death='unknown', period='2014 - 2016')
        """
        values = (row.get(column) for column in COLUMNS.values())
        sex, age, dod, period = ("" if value in (None, *MISSING_TEXTS) else value.strip() for value in values)
        death = ("yes" if dod else "no") if COLUMNS["death"] in row else UNKNOWN
        return cls(sex or UNKNOWN, age_band(age), death, period or UNKNOWN)


def age_band(age: str) -> str:
    """The band of an age in years.

    >>> [age_band(age) for age in ("17", "18", "64.0", "91", "")]
    ['0-17', '18-44', '45-64', '80+', 'unknown']
    """
    try:
        years = whole_number(age)
    except ValueError:
        years = None
    if years is None:
        return UNKNOWN
    starts = [start for start in (0, *AGE_BANDS) if start <= years]
    later = [start for start in AGE_BANDS if start > years]
    return f"{starts[-1]}-{later[0] - 1}" if later else f"{starts[-1]}+"


def read_characteristics(source: Path, patients: Sequence[str], names: Sequence[str]) -> dict[str, Characteristics]:
    """The characteristics of patients by id, from trajectories or from a CSV with the columns of the patients table.

    Raises:
        UserError: a column of one of `names` is missing, or the period of a patient.
    """
    rows = rows_of_trajectories(source, patients) if source.is_dir() else rows_of_csv(source)
    needed = [COLUMNS[name] for name in names]
    if without := {column for row in rows.values() for column in needed if column not in row}:
        expected = f"expected the columns {', '.join(needed)} of the patients table, got no {', '.join(sorted(without))}"
        raise UserError(f"{source}: {expected}. {FIX}.")
    characteristics = {patient: Characteristics.of(rows[patient]) for patient in patients}
    if "period" in names and (bad := sum(not _PERIOD.fullmatch(each.period) for each in characteristics.values())):
        expected = "expected an anchor_year_group such as 2017 - 2019 for every patient"
        raise UserError(f"{source}: {expected}, got another value, or none, for {bad:,}. {FIX}.")
    return characteristics


def rows_of_trajectories(folder: Path, patients: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The patients record of each patient: the first event of the trajectory."""
    trajectories, rows = Trajectories(folder), {}
    for patient in progress(patients, desc="characteristics", unit="patient"):
        event = trajectories.events(patient, [0])[0]
        rows[patient] = event.records().dicts()[0] if event.file_name == "patients" else {}
    return rows


def rows_of_csv(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a CSV by subject_id; of several rows of a patient, the last one."""
    header = read_known_header(path, ("subject_id", *COLUMNS.values()), FIX)
    cells = read_cells(path)
    next(cells)  # the header
    rows = (dict(zip(header, row, strict=False)) for _, row in cells)
    return {str(whole_number(row["subject_id"])): row for row in rows}
