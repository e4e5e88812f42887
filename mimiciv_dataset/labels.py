"""Label rules of the 18 risk tasks.

A rule takes a timeline, the position of the anchor event and the end of the sample's window (one past its last event). It
returns an `Outcome`, or None if the label is unknown, so that there is no sample. The rules are those of the published
benchmark; `audit.py` flags the rows for which they are clinically weak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mimiciv_dataset.timeline import DAY, Timeline, example  # noqa: F401  (example: for the doctests)


class Outcome(NamedTuple):
    """A label, and what determines a "yes": the position of an event, or a time in seconds."""

    yes: bool
    position: int | None = None
    time: int | None = None


Rule = Callable[[Timeline, int, int], Outcome | None]
NEGATIVE = Outcome(False)


def hospitalization(t: Timeline, anchor: int, end: int) -> Outcome:
    """Yes when a later admissions event has the ED stay's hadm_id.

    >>> t = example(("patients",), ("edstays", 0, "a"), ("edstays", 1), ("edstays", 2, "b"), ("admissions", 3, "a"))
    >>> [hospitalization(t, i, 4).yes for i in (1, 2, 3)]
    [True, False, False]
    """
    hadm_id = t.hadm_ids[anchor]
    admission = t.next_of_stay("admissions", anchor, hadm_id) if hadm_id is not None else None
    return NEGATIVE if admission is None else Outcome(True, position=admission)


def ed_mortality(t: Timeline, anchor: int, end: int) -> Outcome:
    """Yes when dod is set and the last timed later event of the same hadm_id is not before it.

    >>> def died(last_event, dod=48):
    ...     t = example(("patients", None, None, {"dod": dod}), ("edstays", 0, "a"), ("emar", last_event, "a"))
    ...     return ed_mortality(t, 1, 2).yes
    >>> died(48), died(47.9), died(48, dod="nan")
    (True, False, False)
    """
    dod, hadm_id = t.dod(), t.hadm_ids[anchor]
    last = t.last_timed(hadm_id) if hadm_id is not None else None
    if dod is None or last is None or last <= anchor or t.starts[last] < dod:
        return NEGATIVE
    return Outcome(True, time=dod)


def icu_transfer(t: Timeline, anchor: int, end: int) -> Outcome | None:
    """Yes when the first later icustays event of the same hadm_id starts less than 12 h after ED outtime.

    >>> def moved(icu, hadm="a"):
    ...     t = example(("patients",), ("edstays", 0, "a", {"outtime": 4}), ("icustays", icu, hadm))
    ...     return icu_transfer(t, 1, 2).yes
    >>> moved(15.9), moved(16), moved(3), moved(5, hadm="b")
    (True, False, True, False)
    """
    hadm_id = t.hadm_ids[anchor]
    stay = t.next_of_stay("icustays", anchor, hadm_id) if hadm_id is not None else None
    if stay is None:
        return NEGATIVE
    out = t.time(anchor, "outtime")
    if out is None:
        return None
    return Outcome(True, position=stay) if t.gap(out, t.starts[stay]) < 12 else NEGATIVE


def critical(t: Timeline, anchor: int, end: int) -> Outcome | None:
    """Yes when ED_Inpatient_Mortality or ED_ICU_Tranfer_12hour is yes.

    >>> def label(dod, icu):
    ...     t = example(("patients", None, None, {"dod": dod}), ("edstays", 0, "a", {"outtime": 4}),
    ...                 ("icustays", icu, "a"), ("emar", 40, "a"))
    ...     return critical(t, 1, 2).yes
    >>> label(24, 5), label(24, 30), label("nan", 5), label("nan", 30)
    (True, True, True, False)
    """
    transfer = icu_transfer(t, anchor, end)
    return transfer if transfer is None or transfer.yes else ed_mortality(t, anchor, end)


def reattendance(t: Timeline, anchor: int, end: int) -> Outcome | None:
    """Yes when the next edstays event starts less than 72 h after ED outtime.

    >>> def back(hours):
    ...     return reattendance(example(("patients",), ("edstays", 0, "a", {"outtime": 4}), ("edstays", hours)), 1, 2).yes
    >>> back(75.9), back(76)
    (True, False)
    """
    stay, out = t.next_of("edstays", anchor), t.time(anchor, "outtime")
    if stay is None:
        return NEGATIVE
    if out is None:
        return None
    return Outcome(True, position=stay) if t.gap(out, t.starts[stay]) < 72 else NEGATIVE


def length_of_stay(days: int) -> Rule:
    """Yes when dischtime − admittime > `days`. None unless the window's last event starts before dischtime.

    >>> def long(discharge, last=20):
    ...     t = example(("patients",), ("admissions", 0, "a", {"dischtime": discharge}), ("emar", last, "a"))
    ...     outcome = length_of_stay(3)(t, 1, 3)
    ...     return outcome and outcome.yes
    >>> long(72.1), long(72), long(20), long(20.1), long("nan")
    (True, False, None, False, None)
    """

    def rule(t: Timeline, anchor: int, end: int) -> Outcome | None:
        admitted, discharged = t.starts[anchor], t.time(anchor, "dischtime")
        if discharged is None or t.starts[end - 1] >= discharged:
            return None
        return Outcome(True, time=admitted + days * DAY) if t.gap(admitted, discharged) > days * 24 else NEGATIVE

    return rule


def inpatient_mortality(t: Timeline, anchor: int, end: int) -> Outcome | None:
    """Yes when dod is set and dischtime is not before it.

    >>> def died(discharge, dod=48):
    ...     t = example(("patients", None, None, {"dod": dod}), ("admissions", 0, "a", {"dischtime": discharge}))
    ...     outcome = inpatient_mortality(t, 1, 2)
    ...     return outcome and outcome.yes
    >>> died(48), died(47.9), died(48, dod="nan"), died("nan")
    (True, False, False, None)
    """
    dod, discharged = t.dod(), t.time(anchor, "dischtime")
    if dod is None:
        return NEGATIVE
    if discharged is None:
        return None
    return Outcome(True, time=dod) if discharged >= dod else NEGATIVE


def icu_mortality(days: int) -> Rule:
    """Yes when dod is set and less than `days` after the start of the window's last event.

    >>> def died(dod, last=0):
    ...     t = example(("patients", None, None, {"dod": dod}), ("icustays", 0, "a"), ("chartevents", last, "a"))
    ...     return icu_mortality(2)(t, 1, 3).yes
    >>> died(47.9), died(48), died(48, last=0.1), died("nan")
    (True, False, True, False)
    """

    def rule(t: Timeline, anchor: int, end: int) -> Outcome:
        dod = t.dod()
        return Outcome(True, time=dod) if t.gap(t.starts[end - 1], dod) < days * 24 else NEGATIVE

    return rule


def icu_stay(days: int) -> Rule:
    """Yes when outtime − intime ≥ `days`.

    >>> def long(out):
    ...     outcome = icu_stay(7)(example(("patients",), ("icustays", 0, "a", {"outtime": out})), 1, 2)
    ...     return outcome and outcome.yes
    >>> long(168), long(167.9), long("nan")
    (True, False, None)
    """

    def rule(t: Timeline, anchor: int, end: int) -> Outcome | None:
        start, out = t.starts[anchor], t.time(anchor, "outtime")
        if out is None:
            return None
        return Outcome(True, time=start + days * DAY) if t.gap(start, out) >= days * 24 else NEGATIVE

    return rule


def icu_readmission(t: Timeline, anchor: int, end: int) -> Outcome:
    """Yes when a later icustays event has the same hadm_id.

    >>> t = example(("patients",), ("icustays", 0, "a"), ("icustays", 9, "b"), ("icustays", 99, "a"))
    >>> [icu_readmission(t, i, i + 1).yes for i in (1, 2, 3)]
    [True, False, False]
    """
    stay = t.next_of_stay("icustays", anchor, t.hadm_ids[anchor])
    return NEGATIVE if stay is None else Outcome(True, position=stay)


def readmission(days: int) -> Rule:
    """Yes when the next admissions event starts less than `days` after the discharge note.

    >>> def back(hours):
    ...     return readmission(30)(example(("patients",), ("discharge", 0, "a"), ("admissions", hours, "b")), 1, 2).yes
    >>> back(719.9), back(720)
    (True, False)
    """

    def rule(t: Timeline, anchor: int, end: int) -> Outcome:
        admission = t.next_of("admissions", anchor)
        if admission is None or not t.gap(t.starts[anchor], t.starts[admission]) < days * 24:
            return NEGATIVE
        return Outcome(True, position=admission)

    return rule
