"""Which values of a record were known at a time: many are stored hours or days after the time of the record.

The registry in `events.py` says which column holds the time at which the values were stored, and which shown keys it dates. A
record without such a time counts as known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mimiciv_dataset.events import MISSING, EventType
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.records import Records
from mimiciv_dataset.timeline import seconds_of


def store_times(event: EventType, records: Records) -> list[str]:
    """When the values of each record were stored, as its text, whose order is that of time; `nan` if that is not known.

    >>> from mimiciv_dataset.events import EVENTS
    >>> records = Records(("storetime", "storedate"), [["2100-01-01 01:00:00", "2100-01-01"], ["nan", "2100-01-02"]])
    >>> store_times(EVENTS["microbiologyevents"], records), store_times(EVENTS["emar"], records)
    (['2100-01-01 01:00:00', '2100-01-02'], ['2100-01-01 01:00:00', 'nan'])
    >>> store_times(EVENTS["omr"], records)
    ['nan', 'nan']
    """
    columns, rows = records
    times = [MISSING] * len(rows)
    if event.stored and event.stored.time in columns:
        at = columns.index(event.stored.time)
        times = [row[at] or MISSING for row in rows]
    if event.stored and event.stored.time_fallback in columns and MISSING in times:
        at = columns.index(event.stored.time_fallback)
        times = [(row[at] or MISSING) if time == MISSING else time for time, row in zip(times, rows, strict=True)]
    return times


def last_stored(event: EventType, records: Records, lookups: Lookups) -> int | None:
    """When the last of the values that are shown was stored, in seconds since 1970; None if none has a store time.

    >>> from mimiciv_dataset.events import EVENTS
    >>> records = Records(("storetime", "event_txt"), [["1970-01-01", "Administered"], ["1970-01-02", "nan"]])
    >>> last_stored(EVENTS["emar"], records, Lookups("nowhere")), last_stored(EVENTS["omr"], records, Lookups("nowhere"))
    (0, None)
    """
    if event.stored is None:
        return None
    getters = lookups.getters(event, event.stored.keys, records.columns)
    latest = ""
    for row, time in zip(reversed(records.rows), reversed(store_times(event, records)), strict=True):  # mostly ascending
        if time > latest and time != MISSING:
            for get in getters:
                if get(row) not in (MISSING, None):
                    latest = time
                    break
    return seconds_of(latest, event.name, event.stored.time) if latest else None


def hide_unknown(event: EventType, records: Records, values: Sequence[list[Any]], time: int) -> None:
    """Replace, in the shown `values` of each record, those that were stored after `time` by the missing value.

    A value that was stored exactly at `time` (seconds since 1970) is known, and so is one without a store time.

    >>> from mimiciv_dataset.events import EVENTS
    >>> records = Records(("storetime", "event_txt"), [["1970-01-01 00:00:09", "Administered"]])
    >>> for time in (9, 8):
    ...     values = [["Aspirin", "Administered"]]
    ...     hide_unknown(EVENTS["emar"], records, values, time)
    ...     print(values)
    [['Aspirin', 'Administered']]
    [['Aspirin', 'nan']]
    """
    if event.stored is None:
        return
    dated = [event.shown.index(key) for key in event.stored.keys]
    for stored, row in zip(store_times(event, records), values, strict=True):
        if stored != MISSING and seconds_of(stored, event.name, event.stored.time) > time:
            for at in dated:
                row[at] = row[at] if row[at] is None else MISSING
