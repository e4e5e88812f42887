"""Groups of patients by sex, age, race, admission and time, for the figures by subgroup.

They are read from the trajectories once and stored as `attributes.csv` beside the outputs, so that outputs can be scored again
without them. Like outputs.jsonl, the file falls under the data use agreement. Only what the input of a sample could show is
read: the patient, the admission that is shown, and events of the window.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from evaluation.predictions import read_outputs, sample_id_of_output
from mimiciv_dataset.index_files import clean_id, clean_position
from mimiciv_dataset.records import Event, Records
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import progress
from pipeline.records import folder_record, read_record

FILE = "attributes.csv"
UNKNOWN = "not recorded"
NOT_ADMITTED = "not admitted"
AGES = ((45, "18–44"), (65, "45–64"), (80, "65–79"))  # upper ends of age bands, exclusive; beyond, 80+
SEXES = {"F": "female", "M": "male"}
# First words of a value of MIMIC-IV → its group; the first that fits counts. Other values are "other".
RACES = {
    "WHITE": "White", "PORTUGUESE": "White", "BLACK": "Black", "HISPANIC": "Hispanic", "SOUTH AMERICAN": "Hispanic",
    "ASIAN": "Asian", "UNKNOWN": UNKNOWN, "UNABLE": UNKNOWN, "PATIENT DECLINED": UNKNOWN,
}  # fmt: skip
ADMISSION_TYPES = {
    "DIRECT OBSERVATION": "observation", "AMBULATORY OBSERVATION": "observation", "EU OBSERVATION": "observation",
    "OBSERVATION": "observation", "DIRECT EMER": "emergency", "EW EMER": "emergency", "URGENT": "emergency",
    "ELECTIVE": "elective", "SURGICAL SAME DAY": "elective",
}  # fmt: skip

Groups = Mapping[str, str]  # attribute → group of a sample


def group_sample(patient: Records, admission: Records | None, window: Iterable[Event]) -> dict[str, str]:
    """The group of a sample by each attribute.

    Age is the one at the last event of the window: anchor_age counts at anchor_year, and is 91 for all patients above 89. Race
    is that of the admission or, without one, of the first record of the window that has it, such as an ED stay.

    Args:
        patient: the patients record.
        admission: the record of the admission that the input shows; None if there is none.
        window: events of the window, in order, the last one included.

    >>> patient = Records.of([{"gender": "F", "anchor_age": "60", "anchor_year": "2150", "anchor_year_group": "2014 - 2016"}])
    >>> stay = Event("edstays", "2156-01-01 00:00:00", None, None, '[{"race": "ASIAN - CHINESE"}]')
    >>> group_sample(patient, None, [stay])  # doctest: +NORMALIZE_WHITESPACE
    {'sex': 'female', 'age': '65–79', 'race': 'Asian', 'admission_type': 'not admitted', 'insurance': 'not recorded',
    'anchor_year_group': '2014 - 2016'}
    """
    window = list(window)
    records = [*([admission] if admission else []), *(event.records() for event in window)]
    race = next(filter(None, (_text(record, "race") for record in records)), "")
    return {
        "sex": SEXES.get(_text(patient, "gender"), UNKNOWN),
        "age": _age_band(patient, window),
        "race": _coarse(race, RACES),
        "admission_type": _coarse(_text(admission, "admission_type"), ADMISSION_TYPES) if admission else NOT_ADMITTED,
        "insurance": (_text(admission, "insurance") if admission else "") or UNKNOWN,
        "anchor_year_group": _text(patient, "anchor_year_group") or UNKNOWN,
    }


ATTRIBUTES = ("sex", "age", "race", "admission_type", "insurance", "anchor_year_group")


def _text(records: Records, column: str) -> str:
    value = records.first(column)
    return "" if value in (None, "nan", "?") else str(value).strip()


def _coarse(value: str, groups: Mapping[str, str]) -> str:
    return next((group for start, group in groups.items() if value.upper().startswith(start)), "other") if value else UNKNOWN


def _age_band(patient: Records, window: Iterable[Event]) -> str:
    age, anchor_year = (_text(patient, column).partition(".")[0] for column in ("anchor_age", "anchor_year"))
    years = [event.starttime[:4] for event in window if event.starttime]
    if not age.isdecimal():
        return UNKNOWN
    passed = int(years[-1]) - int(anchor_year) if years and anchor_year.isdecimal() else 0
    return next((band for end, band in AGES if int(age) + passed < end), "80+")


def write_attributes(folder: Path, trajectories: Trajectories, samples: Collection[str] | None = None) -> None:
    """Write `attributes.csv` of the samples of a run, or of those whose `sample_id` is in `samples`.

    Raises:
        UserError: samples have no patient or window, or the trajectories are not those of the run.
    """
    source = (read_record(folder_record(folder)) or {}).get("inputs", {}).get("trajectories", {})
    if source.get("digest") not in (None, trajectories.digest):
        fix = "Pass the --root_dir of the run"
        raise UserError(f"{trajectories.folder}: expected the trajectories of {folder}, got others. {fix}.")
    rows = {}
    for _, _, line in progress(read_outputs(folder), desc="attributes", unit="sample"):
        info, sample = line["task_info"], sample_id_of_output(line)
        if samples is not None and sample not in samples:
            continue
        subject_id = clean_id(info.get("subject_id"))
        begin, end, admission = (clean_position(info.get(name)) for name in ("period_begin", "period_end", "admissions_id"))
        if None in (subject_id, begin, end):
            fix = "Evaluate an index CSV, whose rows have them"
            raise UserError(f"{folder}: expected samples with patient and window for subgroups, got some without. {fix}.")
        shown = [admission] if admission is not None and admission < end else []
        patient, *events = trajectories.events(subject_id, [0, *shown, begin, end - 1])
        record = events.pop(0).records() if shown else None
        rows[sample] = group_sample(patient.records(), record, events)
    with atomic_path(folder / FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sample_id", *ATTRIBUTES])
        writer.writerows([sample, *groups.values()] for sample, groups in rows.items())


def read_attributes(folder: Path) -> dict[str, Groups]:
    """The groups of samples, by `sample_id`; empty if there is no `attributes.csv`."""
    path = folder / FILE
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != ["sample_id", *ATTRIBUTES]:
            fix = f"Make it again: python -m evaluation.score {folder} --subgroups"
            raise UserError(f"{path}: expected the columns sample_id, {', '.join(ATTRIBUTES)}, got others. {fix}.")
        return {row.pop("sample_id"): row for row in reader}
