"""The proof that no input depends on the future.

For an index row, all records with a time after its prediction time (`Timeline.prediction_time`) are deleted from the patient's
trajectory; records without a time keep their places. The events are formed anew, the row is mapped to them and rendered: its
text must be the same, byte for byte. The instruction is a constant of the task. Candidates are made from the answers, so that
they are not covered (docs/tasks.md).

A window is a range of records. Where deleting later records makes the records on both sides of its end neighbours of the same
table, the event that they form is divided there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.records import Event
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.text import Renderer
from mimiciv_dataset.timeline import Timeline, seconds_of

Piece = tuple[int, Event]  # what is left of an event, and the position of that event


def record_times(event: Event) -> list[int | None]:
    """The time of each record of an event, in seconds since 1970; None if it has none.

    >>> records = '[{"charttime": "1970-01-01 00:00:09"}, {"charttime": "nan"}]'
    >>> record_times(Event("emar", "1970-01-01 00:00:09", "1970-01-01 00:00:09", None, records))
    [9, None]
    """
    kind, (columns, rows) = EVENTS[event.file_name], event.records()
    names = (kind.time, kind.time_fallback, "charttime" if kind.stay_time else None)  # rank.py writes that of an ED stay
    at = [(columns.index(name), name) for name in names if name in columns]
    times = ((seconds_of(row[i], event.file_name, name) for i, name in at) for row in rows)
    return [next((time for time in of_record if time is not None), None) for of_record in times]


class NoFuture:
    """Compares the texts of a patient's rows with those made from trajectories that end at their prediction times."""

    def __init__(self, events: Sequence[Event], renderer: Renderer) -> None:
        self.events, self.timeline = events, Timeline(events)
        self._renderer = copy(renderer)
        self._renderer.event = cache(renderer.event)  # the text of an event is a function of the event alone
        self._times = [record_times(event) for event in events]
        # the earliest and the latest time of the records of each event; one without a time is before all others
        ranks = [[-math.inf if time is None else time for time in times] for times in self._times]
        self._first, self._last = ([extreme(times, default=-math.inf) for times in ranks] for extreme in (min, max))
        self._pieces: tuple[int | None, list[Piece]] = (None, [])  # those of the last prediction time

    def difference(self, task: Task, row: Mapping[str, Any]) -> str | None:
        """The part of the text (a field of `SampleText`) that depends on the future, or None if there is none."""
        events, past_row = self.past(row)
        text = self._renderer.row(task, row, lambda positions: [self.events[i] for i in positions])
        past = self._renderer.row(task, past_row, lambda positions: [events[i] for i in positions])
        return next((field.name for field in fields(text) if getattr(text, field.name) != getattr(past, field.name)), None)

    def past(self, row: Mapping[str, Any]) -> tuple[list[Event], dict[str, Any]]:
        """The trajectory without the records after the prediction time of a row, and the row with its positions there."""
        window = row["period_begin"], row["period_end"]
        time = self.timeline.prediction_time(*window)
        pieces = list(enumerate(self.events)) if time is None else self.until(time)
        events, position = joined(pieces, window)
        left = [position[i] for i in range(*window)]
        positions = {"period_begin": left[0], "period_end": left[-1] + 1}
        positions |= {name: position.get(row.get(name)) for name in ("admissions_id", "last_discharge_id")}
        return events, {**row, **positions}

    def until(self, time: int) -> list[Piece]:
        """What is left of each event without its records after `time`; events of which nothing is left are omitted."""
        if self._pieces[0] != time:
            pieces = []
            for position, (event, first, last) in enumerate(zip(self.events, self._first, self._last, strict=True)):
                if last <= time:
                    pieces.append((position, event))
                elif first <= time:
                    pieces.append((position, without_records(event, self._times[position], time)))
            self._pieces = (time, pieces)
        return self._pieces[1]


def without_records(event: Event, times: Sequence[int | None], time: int) -> Event:
    """An event without its records after `time`, of which one at least must be left; `times` are those of its records.

    >>> records = '[{"hadm_id": "3"}, {"hadm_id": "4"}, {"hadm_id": "5"}]'
    >>> without_records(Event("emar", "1970-01-01 00:00:05", "1970-01-01 00:00:07", "3", records), [7, 5, None], 6)
    Event(file_name='emar', starttime='1970-01-01 00:00:05', endtime='1970-01-01 00:00:05', hadm_id='4',
          items='[{"hadm_id": "4"}, {"hadm_id": "5"}]', columns=None)
    """
    kept = [i for i, of_record in enumerate(times) if of_record is None or of_record <= time]
    left = [times[i] for i in kept if times[i] is not None]
    start, end = (str(datetime(1970, 1, 1) + timedelta(seconds=f(left))) if left else None for f in (min, max))
    records = json.loads(event.items)
    items = json.dumps([records[i] for i in kept], ensure_ascii=False)
    part = event._replace(starttime=start, endtime=end, items=items)
    hadm_id = part.records().first("hadm_id")
    return part._replace(hadm_id=None if hadm_id == MISSING else hadm_id)


def joined(pieces: Sequence[Piece], window: tuple[int, int]) -> tuple[list[Event], dict[int, int]]:
    """Form events from pieces: consecutive ones of a table become one event, unless a border of the window lies between them.

    Returns the events, and the position of the event that each piece became part of, by the position of the piece.

    >>> a, b = Event("emar", "2100-01-01 01:00:00", None, None, "[1]"), Event("emar", "2100-01-02 00:00:00", None, None, "[2]")
    >>> events, position = joined([(4, a), (6, b), (8, b)], (2, 8))
    >>> [event.items for event in events], position
    (['[1, 2]', '[2]'], {4: 0, 6: 0, 8: 1})
    """
    events: list[Event] = []
    new: dict[int, int] = {}
    previous = -1
    for position, event in pieces:
        if events and events[-1].file_name == event.file_name and not any(previous < border <= position for border in window):
            last = events[-1]
            start = min(filter(None, (last.starttime, event.starttime)), default=None)
            end = max(filter(None, (last.endtime, event.endtime)), default=None)
            items = json.dumps([*json.loads(last.items), *json.loads(event.items)], ensure_ascii=False)
            events[-1] = last._replace(starttime=start, endtime=end, items=items)
        else:
            events.append(event)
        new[position] = len(events) - 1
        previous = position
    return events, new
