"""Small hand-made MIMIC-IV directories, and a naive implementation of the order of records."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mimiciv_dataset.events import EVENTS, MISSING, MISSING_TEXTS, MODULES

Row = dict[str, str]
Tables = dict[str, list[Row]]

TWO_PATIENTS: Tables = {
    "patients": [
        {"subject_id": "2", "gender": "F", "anchor_age": "70", "dod": ""},
        {"subject_id": "11", "gender": "M", "anchor_age": "50", "dod": "2150-01-09"},
    ],
    "admissions": [
        {"subject_id": "2", "hadm_id": "20", "admittime": "2150-01-01 10:00:00", "dischtime": "2150-01-05 12:00:00",
         "admission_type": "URGENT", "admission_location": "ED", "hospital_expire_flag": "0"},
        {"subject_id": "11", "hadm_id": "30", "admittime": "2150-01-02 10:00:00", "dischtime": "2150-01-09 12:00:00",
         "admission_type": "ELECTIVE", "admission_location": "HOME", "hospital_expire_flag": "1"},
    ],
    "labevents": [
        {"subject_id": s, "hadm_id": h, "charttime": f"2150-01-0{d} {t}:00:00", "itemid": i, "valuenum": v}
        for s, h, d, t, i, v in (("2", "20", 1, 12, "50912", "7"), ("2", "20", 1, 12, "50971", "3.50"),
                                 ("11", "30", 3, 12, "50912", ""), ("2", "", 2, 12, "50912", "1e-7"))
    ],
    "emar": [
        {"subject_id": "2", "hadm_id": "20", "charttime": "2150-01-01 13:00:00", "medication": "0.9% Sodium Chloride",
         "event_txt": "Administered"},
        {"subject_id": "2", "hadm_id": "20", "charttime": "", "medication": 'a "quoted", one', "event_txt": "NULL"},
    ],
    "diagnoses_icd": [
        {"subject_id": "2", "hadm_id": "20", "icd_code": "0010", "icd_version": "9"},
        {"subject_id": "11", "hadm_id": "99", "icd_code": "I10", "icd_version": "10"},
    ],
    "drgcodes": [{"subject_id": "2", "hadm_id": "20", "drg_code": "003"}],
    "edstays": [
        {"subject_id": "2", "hadm_id": "20", "stay_id": "7", "intime": "2150-01-01 08:00:00",
         "outtime": "2150-01-01 11:00:00", "gender": "F", "race": "WHITE"},
    ],
    "triage": [{"subject_id": "2", "stay_id": "7", "temperature": "98", "pain": "5"}],
    "diagnosis": [{"subject_id": "2", "stay_id": "7", "icd_code": "I10", "icd_version": "10", "icd_title": "HTN"},
                  {"subject_id": "2", "stay_id": "8", "icd_code": "I10", "icd_version": "10", "icd_title": "HTN"}],
    "discharge": [{"subject_id": "2", "hadm_id": "20", "note_type": "DS", "note_seq": "2", "charttime": "2150-01-05 00:00:00",
                   "text": 'Line one\n\nLine "two", three\n'}],
}  # fmt: skip


def write_mimic(folder: Path, tables: Tables, modules: tuple[str, ...] = MODULES, compress: bool = False) -> Path:
    """Write a MIMIC-IV directory: all tables of `modules` with their required columns, empty if not in `tables`."""
    for event in EVENTS.values():
        if event.module in modules:
            rows = tables.get(event.name, [])
            columns = [c for c in event.required_columns if c != "admission_info"]
            columns += sorted({key for row in rows for key in row} - set(columns))
            path = folder / event.module / f"{event.name}.csv{'.gz' * compress}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with (gzip.open if compress else open)(path, "wt", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return folder


def moment(time: str) -> datetime:
    """A time, or a date, which means 00:00:00."""
    return datetime.fromisoformat(time)


def naive_trajectories(tables: Tables) -> dict[str, list[dict[str, Any]]]:
    """Trajectories by a slow, literal implementation of docs/data.md: events with file_name, times, hadm_id and items."""
    stays = {(row["subject_id"], row["stay_id"]): row for row in reversed(tables.get("edstays", []))}
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for name, event in EVENTS.items():
        for number, raw in enumerate(tables.get(name, [])):
            columns = [c for c in event.required_columns if c != "admission_info"]
            columns += sorted({key for row in tables[name] for key in row} - set(columns))
            values = {c: MISSING if raw.get(c, "") in MISSING_TEXTS else raw[c] for c in columns}
            for column in event.floats:
                with contextlib.suppress(ValueError, KeyError):
                    values[column] = str(float(values[column]))
            time = next((values[c] for c in (event.time, event.time_fallback) if c and values[c] != MISSING), None)
            if event.stay_time:
                stay = stays.get((raw["subject_id"], raw["stay_id"]))
                time = stay and stay[event.stay_time]
                time = None if time in (None, *MISSING_TEXTS) else str(moment(time) + timedelta(seconds=event.stay_offset_s))
                values["charttime"] = time or MISSING
            time = time and str(moment(time))
            ties = [float(values[c]) if values[c] != MISSING else float("-inf") for c in event.tie]
            by_subject.setdefault(raw["subject_id"], []).append({
                "table": name, "time": time, "hadm": None if values.get("hadm_id", MISSING) == MISSING else values["hadm_id"],
                "record": {**values, "file_name": name},
                "tie": (MODULES.index(event.module), ties, event.tie_rank, name, number),
                "late": (event.untimed_rank, MODULES.index(event.module), name, number),
            })  # fmt: skip
    result = {}
    for subject, records in by_subject.items():
        ordered = [r for r in records if r["table"] == "patients"]
        timed = sorted((r for r in records if r["time"]), key=lambda r: (r["time"], r["tie"]))
        late = sorted((r for r in records if not r["time"] and r["table"] != "patients"), key=lambda r: r["late"])
        for at, record in enumerate(timed):
            ordered.append(record)
            if record["hadm"] and all(r["hadm"] != record["hadm"] for r in timed[at + 1 :]):
                ordered += [r for r in late if r["hadm"] == record["hadm"]]
        known = {r["hadm"] for r in timed if r["hadm"]}
        ordered += [r for r in late if r["hadm"] not in known]
        events: list[dict[str, Any]] = []
        for record in ordered:
            if not events or events[-1]["file_name"] != record["table"]:
                events.append({"file_name": record["table"], "times": [], "hadm_id": record["hadm"], "items": []})
            events[-1]["items"].append(record["record"])
            events[-1]["times"] += [record["time"]] if record["time"] else []
        for event in events:
            times = event.pop("times")
            event["starttime"], event["endtime"] = (min(times), max(times)) if times else (None, None)
        result[subject] = events
    return result


def read_trajectories(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All trajectories of a `--layout patient` directory in the same form."""
    import pyarrow.parquet as pq

    return {
        path.stem: [{**event, "items": json.loads(event["items"])} for event in pq.read_table(path).to_pylist()]
        for path in folder.glob("*.parquet")
    }


def many_patients(pairs: int) -> Tables:
    """Copies of the two patients under other ids."""
    return {
        name: [{**row, "subject_id": f"{int(row['subject_id']) + 100 * i}"} for i in range(pairs) for row in rows]
        for name, rows in TWO_PATIENTS.items()
    }


def write_mimic_with_ecg(folder: Path) -> Path:
    """Write the two patients with a table of MIMIC-IV-ECG in hosp/, and ICU stays that follow each other.

    Patient 2 returns to intensive care 47 h after leaving it; patient 11 after 48 h, and then again at once.
    """
    stays = [("2", "20", 1, "01 12", "02 00"), ("2", "20", 2, "03 23", "04 12"), ("11", "30", 3, "02 12", "03 00"),
             ("11", "30", 4, "05 00", "06 00"), ("11", "30", 5, "06 01", "")]  # fmt: skip
    tables: Tables = {name: list(rows) for name, rows in TWO_PATIENTS.items()}
    tables["icustays"] = [
        {"subject_id": s, "hadm_id": h, "stay_id": str(i), "intime": f"2150-01-{begin}:00:00",
         "outtime": f"2150-01-{end}:00:00" if end else ""}
        for s, h, i, begin, end in stays
    ]  # fmt: skip
    tables["services"] = [
        {"subject_id": s, "hadm_id": h, "transfertime": f"2150-01-{begin}:30:00", "curr_service": "MED"}
        for s, h, _, begin, _ in stays
    ]
    write_mimic(folder, tables)
    with (folder / "hosp/machine_measurements.csv").open("w", encoding="utf-8") as file:
        file.write("subject_id,study_id,cart_id,ecg_time,report_0,report_1,rr_interval\n")
        file.write("2,40000001,6,2150-01-01T11:30:00,Sinus rhythm,Normal ECG,845\n")
        file.write("11,40000002,6,2150-01-02 10:30:00,Atrial fibrillation,,612\n")
    return folder
