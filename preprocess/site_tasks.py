"""Which tasks an imported data set supports, from the values that its records have."""

from __future__ import annotations

from collections.abc import Mapping

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.tasks import TASKS, Task
from preprocess.raw_tables import ROW
from preprocess.sites import Site

Values = Mapping[str, Mapping[str, int]]  # values that are not missing, by event and column; ROW counts the records

_DEATH, _ICU, _ADMISSIONS = ("patients", "dod"), ("icustays", ROW), ("admissions", ROW)
# What the label rule of a risk task reads besides its own event: without it, every label would be "no".
LABELS_NEED = {
    "ED_Hospitalization": (_ADMISSIONS,),
    "ED_Inpatient_Mortality": (_DEATH,),
    "ED_ICU_Tranfer_12hour": (_ICU,),
    "ED_Critical_Outcomes": (_DEATH, _ICU),
    "Inpatient_Mortality": (_DEATH,),
    **{f"ICU_Mortality_{days}day": (_DEATH,) for days in (1, 2, 3, 7, 14)},
    **{f"Readmission_{days}day": (_ADMISSIONS,) for days in (30, 60)},
}


def left_out_tasks(site: Site, values: Values) -> dict[str, str]:
    """The tasks that the data do not support, and why: what the site says, and what has no values.

    Dictionaries that are missing do not count: they can be added later.
    """
    reasons = {name: site.left_out.get(name) or missing_values(task, values) for name, task in TASKS.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def missing_values(task: Task, values: Values) -> str | None:
    """Why a task can have no rows, or no label but "no"; None if it can have both.

    >>> from mimiciv_dataset.tasks import TASKS
    >>> values = {"labevents": {ROW: 2, "itemid": 2}, "admissions": {ROW: 1, "admission_type": 0}}
    >>> for name in ("labevents", "admissions", "LengthOfStay_3day", "emar"):
    ...     print(missing_values(TASKS[name], values))
    None
    admissions have no admission_type
    admissions have no dischtime
    no code becomes emar
    """

    def has(table: str, column: str = ROW) -> bool:
        return values.get(table, {}).get(column, 0) > 0

    if task.event is None:
        return None
    if not has(task.event):
        return f"no code becomes {task.event}"
    if task.kind == "risk":
        stay_end = [(task.event, task.stay_end)] if task.stay_end else []
        for table, column in (*stay_end, *LABELS_NEED.get(task.name, ())):
            if not has(table, column):
                return f"no code becomes {table}" if column == ROW else f"{table} have no {column}"
        return None
    for key in task.target:
        lookup = EVENTS[task.event].lookup(key)
        if has(task.event, key) or (lookup and all(has(task.event, column) for column in lookup.by)):
            return None
    return f"{task.event} have no {task.target[0]}"
