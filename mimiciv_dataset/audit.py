"""The leak audit: flags for index rows whose label is questionable or visible in the input.

The label rules are those of the published benchmark; rows are flagged, and the rules left unchanged. The prediction time is
that of `Timeline.prediction_time`.

- `outcome_in_window`: what determines the label "yes" happens in the window, or not after the prediction time.
- `stay_ended_in_window`: the stay does not end after the prediction time.
- `label_vs_hospital_expire_flag`: the dod rule and admissions.hospital_expire_flag disagree on death in hospital.
- `target_in_context`: a related table in the window shows every answer of a decision sample as a whole value.
- `not_yet_stored`: the input shows a value that was stored after the prediction time (`known.py`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from mimiciv_dataset import labels
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.known import last_stored
from mimiciv_dataset.labels import Outcome
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.timeline import Timeline, example  # noqa: F401  (example: for the doctests)

FLAGS = ("outcome_in_window", "stay_ended_in_window", "label_vs_hospital_expire_flag", "target_in_context", "not_yet_stored")
# broken into two lines, as the headers of a printed table
FLAG_HEADERS = ("outcome_\nin_window", "stay_ended_\nin_window", "label_vs_hospital_\nexpire_flag", "target_\nin_context",
                "not_yet_\nstored")  # fmt: skip

# tables that can show the answers of a decision task, by the task's event
RELATED = {
    "prescriptions": ("pharmacy", "emar"),
    "emar": ("prescriptions", "pharmacy"),
    "medrecon": ("pyxis",),
    "pyxis": ("medrecon",),
    "diagnosis": ("diagnoses_icd",),
    "diagnoses_icd": ("diagnosis",),
}
_RELATED_TABLES = frozenset(table for tables in RELATED.values() for table in tables)
# the dod rules of the tasks about death in hospital
DEATH_IN_HOSPITAL = {
    "ED_Inpatient_Mortality": labels.ed_mortality,
    "ED_Critical_Outcomes": labels.ed_mortality,
    "Inpatient_Mortality": labels.inpatient_mortality,
}


def audit_risk(task: Task, t: Timeline, anchor: int, window: tuple[int, int], outcome: Outcome) -> list[str]:
    """The flags of the label of a risk sample, given the outcome of its label rule; `anchor` as in `labels.py`.

    >>> from mimiciv_dataset.tasks import TASKS
    >>> t = example(("patients", None, None, {"dod": 0}), ("icustays", 1, "a", {"outtime": 9}), ("emar", 10, "a"))
    >>> task = TASKS["ICU_Mortality_1day"]
    >>> audit_risk(task, t, 1, (1, 3), task.rule(t, 1, 3))
    ['outcome_in_window', 'stay_ended_in_window']
    >>> audit_risk(task, t, 1, (1, 2), task.rule(t, 1, 2))
    ['outcome_in_window']
    """
    flags = []
    end, now = window[1], t.prediction_time(*window)
    known = outcome.position is not None and outcome.position < end
    known = known or (outcome.time is not None and now is not None and outcome.time <= now)
    if outcome.yes and known:
        flags.append("outcome_in_window")
    stay_end = t.time(anchor, task.stay_end) if task.stay_end else None
    if stay_end is not None and now is not None and stay_end <= now:
        flags.append("stay_ended_in_window")
    if task.name in DEATH_IN_HOSPITAL:
        death, hadm_id = DEATH_IN_HOSPITAL[task.name](t, anchor, end), t.hadm_ids[anchor]
        admission = None if hadm_id is None else t.next_of_stay("admissions", 0, hadm_id)
        flag = None if admission is None else t.number(admission, "hospital_expire_flag")
        if death is not None and flag is not None and death.yes != (flag == 1):
            flags.append("label_vs_hospital_expire_flag")
    return flags


class ShownValues:
    """Which values the text of the events of a patient shows, and when they were stored.

    Events are read in the order of their positions: all by `read_all`, or one by one by a caller who has their records at
    hand. What is asked of a window needs its events and those before it.
    """

    def __init__(self, t: Timeline, lookups: Lookups) -> None:
        self._t, self._lookups = t, lookups
        self._positions: dict[tuple[str, str], list[int]] = defaultdict(list)  # of the events that show a value, by table
        self._stored: list[float] = []  # of each event: when the last of its values was stored
        self._latest_stored: list[float] = []  # the same of it and all events before it

    def read_all(self) -> ShownValues:
        """Read the events of the patient, once; return this object."""
        for position in range(len(self._t)):
            self.read(position)
        return self

    def read(self, position: int) -> None:
        """Read the next event."""
        table = self._t.file_names[position]
        event = EVENTS[table]
        time = last_stored(event, self._t.records(position), self._lookups) if event.stored else None
        self._stored.append(-math.inf if time is None else time)
        self._latest_stored.append(max(self._stored[-1], self._latest_stored[-1]) if position else self._stored[0])
        if table in _RELATED_TABLES:
            columns, rows = self._t.records(position)
            values = {value for get in self._lookups.getters(event, event.shown, columns) for value in map(get, rows)}
            for value in {str(value).strip() for value in values} - {MISSING, "None"}:
                self._positions[table, value].append(position)

    def target_in_context(self, task: Task, begin: int, end: int, answers: Sequence[str]) -> bool:
        """Whether an event of a related table in the window shows each of the answers.

        >>> from mimiciv_dataset.tasks import TASKS
        >>> t = example(("patients",), ("pharmacy", 0, "a", {"medication": "Aspirin"}), ("prescriptions", 1, "a"))
        >>> shown = ShownValues(t, Lookups("nowhere")).read_all()
        >>> task = TASKS["prescriptions"]
        >>> [shown.target_in_context(task, 1, 2, answers) for answers in (["Aspirin"], ["Aspirin", "Heparin"], ["Asp"])]
        [True, False, False]
        """
        if task.event not in RELATED:
            return False
        tables = [table for table in RELATED[task.event] if table not in task.hidden]
        return bool(tables) and all(any(self._shows(table, answer, begin, end) for table in tables) for answer in answers)

    def _shows(self, table: str, value: str, begin: int, end: int) -> bool:
        """Whether an event of the table in the window [begin, end) shows the value."""
        positions = self._positions.get((table, value), ())
        following = bisect_left(positions, begin)
        return following < len(positions) and positions[following] < end

    def not_yet_stored(self, task: Task, window: tuple[int, int], last_discharge: int | None) -> bool:
        """Whether the input shows a value, of the window or the last discharge note, stored after the prediction time.

        >>> from mimiciv_dataset.tasks import TASKS
        >>> lab = {"storetime": 2, "valuenum": "1.0"}
        >>> t = example(("patients",), ("labevents", 1, "a", lab), ("omr", 2, "a"), ("emar", 3, "a"))
        >>> shown = ShownValues(t, Lookups("nowhere")).read_all()
        >>> [shown.not_yet_stored(TASKS["next_event"], window, None) for window in ((1, 2), (1, 3), (2, 3))]
        [True, False, False]
        """
        (begin, end), now = window, self._t.prediction_time(*window)
        if now is None:
            return False
        if self._latest_stored[end - 1] <= now:
            return False
        if last_discharge is not None and self._stored[last_discharge] > now:
            return True
        if not task.hidden:
            return max(self._stored[begin:end]) > now
        return any(self._stored[i] > now for i in range(begin, end) if self._t.file_names[i] not in task.hidden)
