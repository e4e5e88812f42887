"""The samples of one patient: windows, targets and labels of every task, from a trajectory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mimiciv_dataset.audit import RELATED, ShownValues, audit_risk
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.tasks import NO, TASKS, YES, Task
from mimiciv_dataset.timeline import Timeline, example  # noqa: F401  (example: for the doctests)

Target = list[str] | str


class Sample(NamedTuple):
    """A sample of a patient, as a row of the index describes it; positions count the events of the trajectory from 0.

    Attributes:
        event: table of the sample's event.
        position: position of that event: the event to predict for decision tasks, the anchor for risk tasks.
        context_begin, context_end: position of the window's first event, and one past that of its last.
        admissions_id: position of the admissions event of the sample's admission, or None.
        last_discharge_id: position of the last discharge note of another admission, or None.
        audit: flags of the leak audit.
    """

    task: str
    event: str
    position: int
    hadm_id: str | None
    context_begin: int
    context_end: int
    admissions_id: int | None
    last_discharge_id: int | None
    target: Target
    audit: tuple[str, ...] = ()


def decision_target(task: Task, t: Timeline, position: int, lookups: Lookups) -> Target | None:
    """The answer of a decision or generation task at an event, or None if there is none.

    >>> t = example(("patients",), ("emar", 1, "a", {"medication": " Aspirin "}), ("omr", 2), ("hcpcsevents", 3))
    >>> none = Lookups("nowhere")
    >>> decision_target(TASKS["emar"], t, 1, none), decision_target(TASKS["next_event"], t, 1, none)
    (['Aspirin'], 'emar')
    >>> decision_target(TASKS["omr"], t, 2, none), decision_target(TASKS["next_event"], t, 3, none)
    (None, None)
    """
    table = t.file_names[position]
    event = EVENTS[table]
    if task.event is None:
        return table if event.rendered else None
    columns, rows = records = t.records(position)
    if task.kind == "generation":
        text = records.first(task.target[0])
        return text if len(rows) == 1 and text not in (None, MISSING) else None
    return lookups.names(event, task.target, columns)(rows) or None


def risk_window(task: Task, t: Timeline, anchor: int) -> tuple[int, int] | None:
    """The window (context_begin, context_end) of a risk task at an anchor, or None if there is no sample."""
    if task.window == "note":
        begin = t.decision_begin(anchor)
        return None if begin is None else (begin, anchor + 1)
    if task.window == "until_out":
        end = t.until_time(anchor, t.time(anchor, "outtime"))
    else:
        end = t.first_day(anchor)
    return None if end is None else (anchor, end)


def find_samples(
    t: Timeline, lookups: Lookups, tasks: Sequence[Task] = tuple(TASKS.values()), audit: bool = True
) -> Iterator[Sample]:
    """Yield the samples of a patient, task by task, each in the order of the trajectory.

    >>> t = example(("patients",), ("transfers", 0, "a", {"careunit": "MICU"}), ("emar", 1, "a", {"medication": "Aspirin"}))
    >>> for s in find_samples(t, Lookups("nowhere")):
    ...     print(s.task, s.position, (s.context_begin, s.context_end), s.target)
    emar 2 (1, 2) ['Aspirin']
    next_event 2 (1, 2) emar
    """
    earlier = list(zip(*t.anchors(), strict=True))
    shown = ShownValues(t, lookups)
    anchors: dict[str, list[int]] = defaultdict(list)  # positions of the events of each table
    predicting = [task for task in tasks if task.kind != "risk"]
    tasks_of = {table: [task for task in predicting if task.event in (None, table)] for table in {*t.file_names}}
    samples: dict[str, list[Sample]] = {task.name: [] for task in predicting}
    for position, table in enumerate(t.file_names):  # one event after the other, as long as its records are in the cache
        begin = t.decision_begin(position) if position else None
        if position:
            anchors[table].append(position)
        if begin is not None:
            hadm_id, (admission, discharge) = t.hadm_ids[position], earlier[position]
            late: dict[tuple[str, ...], bool] = {}  # whether the input shows a value not yet stored, by the tables it omits
            for task in tasks_of[table]:
                if (target := decision_target(task, t, position, lookups)) is None:
                    continue
                flags: tuple[str, ...] = ()
                if audit:
                    if task.hidden not in late:
                        late[task.hidden] = shown.not_yet_stored(task, (begin, position), discharge)
                    if task.event in RELATED and shown.target_in_context(task, begin, position, target):
                        flags = ("target_in_context",)
                    if late[task.hidden]:
                        flags += ("not_yet_stored",)
                samples[task.name].append(
                    Sample(task.name, table, position, hadm_id, begin, position, admission, discharge, target, flags)
                )
        if audit:
            shown.read(position)
        t.forget(position)
    for task in tasks:
        yield from samples.get(task.name, ())
        for position in anchors[task.event] if task.kind == "risk" else ():
            window = risk_window(task, t, position)
            outcome = task.rule(t, position, window[1]) if window else None
            if outcome is not None:
                flags = tuple(audit_risk(task, t, position, window, outcome)) if audit else ()
                if audit and shown.not_yet_stored(task, window, earlier[position][1]):
                    flags += ("not_yet_stored",)
                target, hadm_id = YES if outcome.yes else NO, t.hadm_ids[position]
                yield Sample(task.name, task.event, position, hadm_id, *window, *earlier[position], target, flags)


def target_of_row(task: Task, begin: int, end: int, t: Timeline, lookups: Lookups) -> Target | None:
    """The target of an index row with the window [begin, end) according to the trajectory, or None if there is none.

    The sample's event is at `end` for decision tasks, and at `begin` for risk tasks (the last event of the window for
    Readmission).
    """
    if task.kind != "risk":
        return decision_target(task, t, end, lookups)
    outcome = task.rule(t, end - 1 if task.window == "note" else begin, end)
    return None if outcome is None else YES if outcome.yes else NO


def label_list(target: str | Iterable[str]) -> list[str]:
    """The labels of a target as a list, whether it has one or several."""
    return [target] if isinstance(target, str) else list(target)
