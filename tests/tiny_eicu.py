"""A small hand-made eICU: hospital stays of two or five days, in the columns and spellings of the eICU demo."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

COLUMNS = {
    "patient": (
        "patientunitstayid,patienthealthsystemstayid,gender,age,ethnicity,hospitalid,wardid,apacheadmissiondx,admissionheight,"
        "hospitaladmittime24,hospitaladmitoffset,hospitaladmitsource,hospitaldischargeyear,hospitaldischargetime24,"
        "hospitaldischargeoffset,hospitaldischargelocation,hospitaldischargestatus,unittype,unitadmittime24,unitadmitsource,"
        "unitvisitnumber,unitstaytype,admissionweight,dischargeweight,unitdischargetime24,unitdischargeoffset,"
        "unitdischargelocation,unitdischargestatus,uniquepid"
    ),
    "lab": (
        "labid,patientunitstayid,labresultoffset,labtypeid,labname,labresult,labresulttext,labmeasurenamesystem,"
        "labmeasurenameinterface,labresultrevisedoffset"
    ),
    "medication": (
        "medicationid,patientunitstayid,drugorderoffset,drugstartoffset,drugivadmixture,drugordercancelled,drugname,"
        "drughiclseqno,dosage,routeadmin,frequency,loadingdose,prn,drugstopoffset,gtc"
    ),
    "diagnosis": (
        "diagnosisid,patientunitstayid,activeupondischarge,diagnosisoffset,diagnosisstring,icd9code,diagnosispriority"
    ),
    "treatment": "treatmentid,patientunitstayid,treatmentoffset,treatmentstring,activeupondischarge",
    "physicalExam": (
        "physicalexamid,patientunitstayid,physicalexamoffset,physicalexampath,physicalexamvalue,physicalexamtext"
    ),
}
EXAM = "notes/Progress Notes/Physical Exam/Physical Exam"
Row = dict[str, Any]


def hospital_stay(number: int) -> dict[str, list[Row]]:
    """The rows of a hospital stay: it begins 100 minutes before the ICU stay, which is followed by a step-down stay.

    Every third stay lasts five days, the others two; every fifth of them ends with death. Stays 2n and 2n + 1 are of a person.
    """
    unit, minutes = {"patientunitstayid": 1000 + number}, (5 if number % 3 == 0 else 2) * 1440
    dead = number % 5 == 0
    stay = unit | {
        "patienthealthsystemstayid": 100 + number, "uniquepid": f"002-{number // 2}",
        "gender": "Female" if number % 2 else "Male", "age": "> 89" if number == 1 else str(50 + number),
        "hospitaladmittime24": "23:30:00", "hospitaladmitoffset": -100, "hospitaladmitsource": "Floor",
        "hospitaldischargeoffset": minutes, "hospitaldischargestatus": "Expired" if dead else "Alive",
        "unittype": "MICU", "unitstaytype": "admit", "unitvisitnumber": 1, "unitdischargeoffset": 1300,
    }  # fmt: skip
    later = {"patientunitstayid": 2000 + number, "unitstaytype": "stepdown/other", "unitvisitnumber": 2}
    moved = {"hospitaladmitoffset": -1400, "hospitaldischargeoffset": minutes - 1300, "unitdischargeoffset": 60}
    high = number % 3 == 0  # so that the length of stay can be learned
    lab = {
        "labname": "lactate" if high else "BUN",
        "labresult": f"{7 if high else 4}.0000",
        "labresulttext": "7" if high else "4",
        "labmeasurenamesystem": "mmol/L",
    }
    drug = {"drugname": "ASPIRIN 81 MG", "dosage": "81 mg", "routeadmin": "PO"}
    exam = {"physicalexamoffset": 45}
    tables: dict[str, list[Row]] = {"patient": [stay, stay | later | moved], "lab": [], "medication": [], "treatment": []}
    for minute in range(0, 360, 60):
        tables["lab"].append(lab | {"labresultoffset": minute, "labresultrevisedoffset": minute + 30})
        tables["medication"].append(drug | {"drugorderoffset": minute + 20, "drugstartoffset": minute + 10})
        tables["treatment"].append({"treatmentoffset": minute + 40, "treatmentstring": "pulmonary|oxygen"})
    tables["medication"].append({"drugorderoffset": 5, "drugstartoffset": 5, "drughiclseqno": 7})  # without a name
    tables["diagnosis"] = [
        {"activeupondischarge": active, "diagnosisoffset": 50, "diagnosisstring": f"renal|{text}"}
        for active, text in (("True", "acute renal failure"), ("True", "acute renal failure"), ("False", "stones"))
    ]
    tables["physicalExam"] = [
        exam | {"physicalexampath": f"{EXAM}/Neurologic/GCS/Eyes Score/4", "physicalexamvalue": "4", "physicalexamtext": "4"},
        exam | {"physicalexampath": f"{EXAM}/HR/HR Current", "physicalexamvalue": "HR Current", "physicalexamtext": "88"},
    ]
    return {name: [unit | row for row in rows] for name, rows in tables.items()}


def write_eicu(folder: Path, stays: int = 40) -> Path:
    """Write an eICU of so many hospital stays, and one without an outcome, as the demo has some."""
    folder.mkdir(parents=True)
    tables: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for number in range(stays):
        for name, rows in hospital_stay(number).items():
            tables[name] += rows
    unknown = {"hospitaldischargestatus": None, "patientunitstayid": 9, "patienthealthsystemstayid": 9}
    tables["patient"].append(tables["patient"][0] | unknown)
    for name, rows in tables.items():
        columns = COLUMNS[name].split(",")
        with gzip.open(folder / f"{name}.csv.gz", "wt", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({columns[0]: number, **row} for number, row in enumerate(rows))
    return folder
