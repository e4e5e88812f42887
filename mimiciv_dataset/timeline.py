"""A trajectory for index generation: times and stays of its events, and the windows of the tasks.

Every query takes logarithmic time in the number of events. Times are seconds since 1970, as integers; the time difference to
an event without a time is infinite.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from mimiciv_dataset.events import MISSING
from mimiciv_dataset.records import Event, Records
from mimiciv_dataset.values import KINDS, canonical
from pipeline.errors import UserError

HOUR = 3600
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1)
_is_canonical = re.compile(KINDS["time"].pattern).match


def seconds(text: str | None) -> int | None:
    """Seconds since 1970 of a timestamp or a date (at 00:00:00); None if it is missing.

    Raises:
        ValueError: the text is no time, or has a time zone; see `values.py`.

    >>> seconds("1970-01-02"), seconds("1970-01-01T01:00"), seconds("nan"), seconds(None)
    (86400, 3600, None, None)
    """
    time = text if text and _is_canonical(text) else canonical("time", text or MISSING)
    if time is None:
        return None
    since = datetime.fromisoformat(time) - _EPOCH
    return since.days * DAY + since.seconds


def seconds_of(text: str | None, table: str, column: str) -> int | None:
    """`seconds` of a value of a trajectory."""
    try:
        return seconds(text)
    except ValueError:
        raise _value_error(table, column, "time") from None


def _all_seconds(texts: Sequence[str | None], tables: Sequence[str], column: str) -> list[int | None]:
    """`seconds_of` of each text, of a table each."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string()).cast(pa.timestamp("s")).cast(pa.int64()).to_pylist()
    except pa.ArrowInvalid:  # a time in another form
        return [seconds_of(text, table, column) for text, table in zip(texts, tables, strict=True)]


def _value_error(table: str, column: str, kind: str) -> UserError:
    """The error of a value that cannot be read, in trajectories that were not made by preprocess/."""
    expected = f"{KINDS[kind].expected} in column {column} of every {table} event, got another text"
    return UserError(f"trajectories: expected {expected}. Make the trajectories again with preprocess/.")


class Positions:
    """Positions of timed events in the trajectory, ascending, with their times.

    Times need not be ascending (a released trajectory can order ties differently); running extremes make bisection correct.
    """

    def __init__(self, positions: list[int], times: list[int]) -> None:
        self.positions = positions
        self._latest_so_far = list(accumulate(times, max))
        self._earliest_to_come = list(accumulate(reversed(times), min))[::-1]

    def last_until(self, position: int) -> int | None:
        """The last of these positions that is not after `position`."""
        i = bisect_right(self.positions, position)
        return self.positions[i - 1] if i else None

    def first_after(self, time: float) -> int | None:
        """The first position whose event starts after `time`."""
        i = bisect_right(self._latest_so_far, time)
        return self.positions[i] if i < len(self.positions) else None

    def last_before(self, time: float) -> int | None:
        """The last position whose event starts before `time`."""
        i = bisect_left(self._earliest_to_come, time)
        return self.positions[i - 1] if i else None


_NOWHERE = Positions([], [])


def _next(positions: list[int], position: int) -> int | None:
    i = bisect_right(positions, position)
    return positions[i] if i < len(positions) else None


class Timeline:
    """The events of a patient: tables (`file_names`), admissions (`hadm_ids`), start times (`starts`), and records."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.file_names = [event.file_name for event in events]
        self.hadm_ids = [event.hadm_id for event in events]
        self.starts = _all_seconds([event.starttime for event in events], self.file_names, "starttime")
        ends = _all_seconds([event.endtime for event in events], self.file_names, "endtime")
        self._ends = [-math.inf if end is None else end for end in ends]
        self._latest_end = list(accumulate(self._ends, max))
        self._events = events
        self._records: dict[int, Records] = {}
        self._of_table: dict[str, list[int]] = defaultdict(list)
        self._of_table_stay: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        timed: dict[str | None, list[int]] = defaultdict(list)
        for position, (table, hadm_id, start) in enumerate(zip(self.file_names, self.hadm_ids, self.starts, strict=True)):
            self._of_table[table].append(position)
            self._of_table_stay[table, hadm_id].append(position)
            if position and start is not None:
                timed[hadm_id].append(position)
        self._of_stay = {hadm_id: self._positions(positions) for hadm_id, positions in timed.items()}
        self._timed = self._positions([i for i in range(1, len(self)) if self.starts[i] is not None])

    def __len__(self) -> int:
        return len(self.file_names)

    def _positions(self, positions: list[int]) -> Positions:
        return Positions(positions, [self.starts[p] for p in positions])

    def records(self, position: int) -> Records:
        """The records of an event; parsed once, or again after `forget`."""
        records = self._records.get(position)
        if records is None:
            records = self._records[position] = self._events[position].records()
        return records

    def forget(self, position: int) -> None:
        """Free the memory of the parsed records of an event."""
        self._records.pop(position, None)

    def value(self, position: int, column: str) -> str | None:
        """A value of the first record of an event; None if it is missing."""
        value = self.records(position).first(column)
        return None if value is None or str(value) == MISSING else str(value)

    def time(self, position: int, column: str) -> int | None:
        """A time of the first record of an event, in seconds; None if it is missing."""
        return seconds_of(self.value(position, column), self.file_names[position], column)

    def number(self, position: int, column: str) -> int | None:
        """A whole number of the first record of an event; None if it is missing."""
        try:
            number = canonical("number", self.value(position, column) or MISSING)
        except ValueError:
            raise _value_error(self.file_names[position], column, "number") from None
        return None if number is None else int(number)

    def gap(self, start: int | None, end: int | None) -> float:
        """Hours from `start` to `end`, which are in seconds; infinite if one is missing."""
        return math.inf if start is None or end is None else (end - start) / HOUR

    def prediction_time(self, begin: int, end: int) -> int | None:
        """The prediction time of samples with the window [begin, end): the latest time of its records; None if none has one.

        A model that reads the window cannot answer earlier. It can be later than the start of the window's last event, whose
        other records follow.

        >>> t = example(("patients",), ("transfers", 0, "a"), ("labevents", (1, 3), "a"), ("diagnoses_icd", None, "a"))
        >>> [time and (time - t.starts[1]) // HOUR for time in (t.prediction_time(1, 4), t.prediction_time(3, 4))]
        [3, None]
        """
        latest = self._latest_end[end - 1]
        if begin and latest == self._latest_end[begin - 1]:  # it may be that of an earlier event
            latest = max(self._ends[begin:end])
        return None if latest == -math.inf else int(latest)

    def dod(self) -> int | None:
        """The day of death, at 00:00, from the patients event."""
        return self.time(0, "dod") if self.file_names[:1] == ["patients"] else None

    def next_of(self, table: str, position: int) -> int | None:
        """The first later event of `table`."""
        return _next(self._of_table.get(table, []), position)

    def next_of_stay(self, table: str, position: int, hadm_id: str | None) -> int | None:
        """The first later event of `table` with this hadm_id; a missing hadm_id equals a missing one."""
        return _next(self._of_table_stay.get((table, hadm_id), []), position)

    def last_timed(self, hadm_id: str | None) -> int | None:
        """The last timed event of an admission."""
        return self._of_stay.get(hadm_id, _NOWHERE).last_before(math.inf)

    # --- windows

    def decision_begin(self, position: int) -> int | None:
        """The first event of a decision sample's window: the earliest of the last 24 h with the same hadm_id.

        None if there is none, so that there is no sample. Event 0, the patient, is never in a window. diagnoses_icd has no
        time; that of the nearest earlier event with a time is used.

        >>> t = example(("patients",), ("transfers", 0, "a"), ("emar", 1, "a"), ("labevents", 24, "a"), ("omr", 24))
        >>> t.decision_begin(3), t.decision_begin(2), t.decision_begin(1), t.decision_begin(4)
        (2, 1, None, None)
        >>> untimed = ("pharmacy", None, "a"), ("diagnoses_icd", None, "a")
        >>> t = example(("patients",), ("transfers", 0, "a"), ("emar", 1, "a"), *untimed)
        >>> t.decision_begin(3), t.decision_begin(4)
        (None, 1)
        """
        time = self.starts[position]
        if self.file_names[position] == "diagnoses_icd":
            earlier = self._timed.last_until(position - 1)
            time = None if earlier is None else self.starts[earlier]
        if time is None:
            return None
        begin = self._of_stay.get(self.hadm_ids[position], _NOWHERE).first_after(time - DAY)
        return begin if begin is not None and begin < position else None

    def until_time(self, position: int, time: int | None) -> int | None:
        """One past the last later event of the whole trajectory that starts before `time`; None if there is none.

        >>> t = example(("patients",), ("edstays", 0), ("triage", 1), ("pharmacy", None), ("vitalsign", 4), ("omr", 5))
        >>> t.until_time(1, t.starts[1] + 5 * HOUR), t.until_time(1, t.starts[1] + HOUR)
        (5, None)
        """
        last = self._timed.last_before(time) if time is not None else None
        return last + 1 if last is not None and last > position else None

    def first_day(self, position: int) -> int | None:
        """One past the last later event of the same hadm_id that starts less than 24 h after this one.

        >>> t = example(("patients",), ("icustays", 0, "a"), ("emar", 1, "a"), ("emar", 2, "b"), ("emar", 24, "a"))
        >>> t.first_day(1), t.first_day(2), t.first_day(3)
        (3, 5, None)
        """
        start = self.starts[position]
        if start is None:
            return None
        last = self._of_stay.get(self.hadm_ids[position], _NOWHERE).last_before(start + DAY)
        return last + 1 if last is not None and last > position else None

    def anchors(self) -> tuple[list[int | None], list[int | None]]:
        """The admissions_id and the last_discharge_id of a sample about each event; see `samples.Sample`.

        >>> t = example(("patients",), ("admissions", 0, "a"), ("discharge", 9, "a"), ("omr", 10), ("admissions", 99, "b"))
        >>> t.anchors()
        ([None, 1, 1, None, 4], [None, None, None, 2, 2])
        """
        admissions_ids, discharge_ids = [], []
        admission = discharge = None
        for position, (table, hadm_id) in enumerate(zip(self.file_names, self.hadm_ids, strict=True)):
            if table == "admissions":
                admission = position
            elif table == "discharge":
                discharge = position
            same = admission is not None and hadm_id is not None and self.hadm_ids[admission] == hadm_id
            other = discharge is not None and self.hadm_ids[discharge] != hadm_id
            admissions_ids.append(admission if same else None)
            discharge_ids.append(discharge if other else None)
        return admissions_ids, discharge_ids


def example(*events: tuple[Any, ...]) -> Timeline:
    """Make a timeline for doctests from `(table, hours after 2100-01-01, hadm_id, record)`; numbers in records are hours, too.

    The hours can be a pair: those of the first and of the last record.

    >>> t = example(("patients",), ("edstays", 0.5, "a", {"outtime": 4}))
    >>> t.starts[1] - seconds("2100-01-01"), t.value(1, "outtime"), t.hadm_ids
    (1800, '2100-01-01 04:00:00', [None, 'a'])
    """

    def text(hours: float | None) -> str | None:
        return None if hours is None else str(datetime(2100, 1, 1) + timedelta(hours=hours))[:19]

    def make(table: str, hours: Any = None, hadm_id: str | None = None, record: Any = None) -> Event:
        start, end = hours if isinstance(hours, tuple) else (hours, hours)
        values = {key: text(value) if isinstance(value, int | float) else value for key, value in (record or {}).items()}
        return Event(table, text(start), text(end), hadm_id, json.dumps([values]))

    return Timeline([make(*event) for event in events])
