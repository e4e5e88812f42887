"""What the text of a sample shows, for rows of a released JSONL, which do not say where they lie in a trajectory."""

from __future__ import annotations

from collections.abc import Sequence

from mimiciv_dataset.audit import RELATED
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.tasks import TASKS, Task
from mimiciv_dataset.text import SampleText

_TABLES = {event.title: name for name, event in EVENTS.items() if event.rendered}
_NO_VALUES = ("", MISSING, "None")
Columns = dict[str, list[str]]


def read_event(text: str) -> tuple[str | None, Columns]:
    """The table of a rendered event, and its shown values by key; notes have only their first lines.

    >>> read_event("## Pyxis [None]\\n| Name |\\n| ------ |\\n| Aspirin |\\n| Zinc |")
    ('pyxis', {'Name': ['Aspirin', 'Zinc']})
    >>> read_event("## Transfers [None]\\n- Eventtype: admit\\n- Careunit: MICU")
    ('transfers', {'Eventtype': ['admit'], 'Careunit': ['MICU']})
    """
    heading, *lines = text.split("\n")
    table = _TABLES.get(heading.removeprefix("## ").rpartition(" [")[0])
    if not lines or not lines[0].startswith("| "):
        pairs = (line.removeprefix("- ").partition(": ") for line in lines if line.startswith("- "))
        return table, {key: [value] for key, _, value in pairs}
    keys, *rows = (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines)
    complete = [row for row in rows[1:] if len(row) == len(keys)]
    return table, {key: [row[i] for row in complete] for i, key in enumerate(keys)}


def target_in_text(task: Task, text: str, labels: Sequence[str]) -> bool:
    """`audit.ShownValues.target_in_context`, from the text: a related table in it shows every answer as a whole value.

    >>> text = "## Patient Demographics [None]\\n- Gender: F\\n\\n\\n\\n\\n\\n## Pharmacy [None]\\n- Medication: Aspirin"
    >>> [target_in_text(TASKS["prescriptions"], text, labels) for labels in (["Aspirin"], ["Aspirin", "Zinc"])]
    [True, False]
    """
    related = RELATED.get(task.event or "", ())
    remaining = set(labels)
    for event in SampleText.parse(text).window if related else ():
        table, columns = read_event(event)
        if table in related and table not in task.hidden:
            remaining -= {value.strip() for values in columns.values() for value in values}
    return not remaining


def can_copy(task: Task) -> bool:
    """Whether the answer of an earlier event can be read from a text: not the list of exams of a radiology note."""
    return task.name in TASKS and task.kind == "decision" and task.event != "radiology"


def copy_from_text(task: Task, text: str) -> list[str]:
    """The answer of the latest event of the task's table in the window (next_event: of any table); empty if there is none.

    >>> text = "## Patient Demographics [None]\\n- Gender: F\\n\\n\\n\\n\\n\\n## Pyxis [None]\\n- Name: Aspirin"
    >>> copy_from_text(TASKS["pyxis"], text), copy_from_text(TASKS["next_event"], text), copy_from_text(TASKS["emar"], text)
    (['Aspirin'], ['pyxis'], [])
    """
    for event in reversed(SampleText.parse(text).window):
        table, columns = read_event(event)
        if task.event is None and table is not None:
            return [table]
        if table == task.event:
            shown = [columns[key.title()] for key in task.target if key.title() in columns]
            records = zip(*shown, strict=True)
            values = (next((value.strip() for value in record if value.strip() not in _NO_VALUES), "") for record in records)
            if answers := list(dict.fromkeys(filter(None, values))):
                return answers
    return []
