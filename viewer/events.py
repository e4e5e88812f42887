"""The events of a patient as the viewer shows them: tables and times of all, texts and store times of those in windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.known import store_times
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.records import Event
from mimiciv_dataset.text import Renderer, SampleText
from mimiciv_dataset.timeline import seconds_of
from pipeline.files import Line

TABLES = tuple(EVENTS)
NUMBER_OF_TABLE = {table: number for number, table in enumerate(TABLES)}
TABLE_OF_TITLE = {event.title: event.name for event in EVENTS.values() if event.rendered}
NO_RECORD_ID = ("subject_id", "hadm_id")  # ids of more than a record


def patient_line(events: Sequence[Event], described: Iterable[int], lookups: Lookups) -> Line:
    """A patient as a line of the page.

    Args:
        events: the trajectory.
        described: positions of the events whose text and records are needed.

    Returns:
        `tables`: number in `TABLES` of each event; `starts`: its time in seconds since 1970, or None; `lasts`: seconds from it
        to its last record; `stays`: number of its admission in `admissions`, or None; `events`: by position, see
        `described_event`.
    """
    starts = [seconds_of(event.starttime, event.file_name, "starttime") for event in events]
    ends = [
        start if event.endtime in (None, event.starttime) else seconds_of(event.endtime, event.file_name, "endtime")
        for event, start in zip(events, starts, strict=True)
    ]
    admissions = list(dict.fromkeys(event.hadm_id for event in events if event.hadm_id is not None))
    number = {hadm_id: i for i, hadm_id in enumerate(admissions)}
    describe = partial(described_event, renderer=Renderer(lookups))
    return {
        "tables": [NUMBER_OF_TABLE[event.file_name] for event in events],
        "starts": starts,
        "lasts": [None if start is None else end - start for start, end in zip(starts, ends, strict=True)],
        "stays": [number.get(event.hadm_id) for event in events],
        "admissions": admissions,
        "events": {position: describe(events[position]) for position in sorted(set(described))},
    }


def described_event(event: Event, renderer: Renderer) -> Line:
    """The text of an event, and of its records: their number (`n`), ids (`ids`: column and values) and store times (`stored`).

    Store times are seconds since 1970, or None, in the order of the records; one number if all are the same; absent without.
    """
    records, kind = event.records(), EVENTS[event.file_name]
    line: Line = {"text": renderer.event(event), "n": len(records.rows)}
    column = next((i for i, name in enumerate(records.columns) if name.endswith("_id") and name not in NO_RECORD_ID), None)
    if column is not None:
        line["ids"] = [records.columns[column], [row[column] for row in records.rows]]
    if kind.stored:
        times = [None if time == MISSING else seconds_of(time, kind.name, "storetime") for time in store_times(kind, records)]
        if any(time is not None for time in times):
            line["stored"] = times[0] if len(set(times)) == 1 else times
    return line


def patient_line_of_text(text: SampleText) -> Line:
    """The parts of an input whose trajectory is not here, as those of `patient_line`; the positions are those of the parts."""
    tables: list[int | None] = []
    starts: list[int | None] = []
    events: dict[int, Any] = {}
    for number, part in enumerate((text.patient, text.last_discharge, text.admission, *text.window)):
        title, _, time = (part or "").partition("\n")[0].removeprefix("## ").rpartition(" [")
        table = TABLE_OF_TITLE.get(title)
        tables.append(NUMBER_OF_TABLE.get(table or ""))
        known = table is not None and time.removesuffix("]") != "None"
        starts.append(seconds_of(time.removesuffix("]"), table, "starttime") if known else None)
        if part:
            events[number] = {"text": part}
    nothing: list[None] = [None] * len(tables)
    return {"tables": tables, "starts": starts, "lasts": nothing, "stays": nothing, "admissions": [], "events": events}
