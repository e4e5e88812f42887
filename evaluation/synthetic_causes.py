"""The true causes of the diagnoses of a synthetic ED stay: the events of its record that its hidden condition wrote.

The condition of a visit decides its diagnoses, and favours a chief complaint, drugs, laboratory values, exams and a ward
(docs/synthetic.md). An event of the stay that shows one of these is a cause of its diagnoses; all other events are drawn alike
for all conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.text import SampleText
from preprocess.synthetic.emergency import PYXIS_NAMES
from preprocess.synthetic.vocab import CONDITIONS, DRUGS, LABS, Condition

FIRST_EVENT = 3  # parts of an input before its window: patient, last discharge note, admission


def true_causes(text: SampleText, condition: str) -> frozenset[int]:
    """The causes among the parts of the input of an ED stay, numbered as `thinking_graph_preprocess.chains` does.

    Args:
        condition: name of the condition of the stay. Events before its triage belong to no stay or to an earlier one.
    """
    stay = condition_named(condition)
    triages = [number for number, event in enumerate(text.window) if event.startswith(f"## {EVENTS['triage'].title} [")]
    begin = triages[-1] if triages else 0
    in_stay = list(enumerate(text.window))[begin:]
    return frozenset(FIRST_EVENT + at for at, event in in_stay if event and is_cause(event, stay))  # some tables have no text


def is_cause(event: str, condition: Condition) -> bool:
    """Whether a rendered event shows something that the condition favours.

    >>> sepsis = condition_named("sepsis")
    >>> is_cause("## Triage [2150-01-01 08:00:00]\\n- Pain: 5\\n- Chiefcomplaint: Fever", sepsis)
    True
    >>> is_cause("## Pyxis [2150-01-01 08:00:00]\\n- Name: Ondansetron 4mg/2mL VIAL", sepsis)
    False
    """
    title, records = read_event(event)
    if title == EVENTS["radiology"].title:
        return f"Findings in keeping with {condition.name}." in event
    if title == EVENTS["labevents"].title:
        return any(is_moved(record["Item_Name"], record["Valuenum"], condition) for record in records)
    if title not in _FAVOURED:
        return False
    column, favoured = _FAVOURED[title]
    return any(record[column] in favoured(condition) for record in records)


def is_moved(label: str, value: str, condition: Condition) -> bool:
    """Whether a laboratory value lies outside the reference range, on the side to which the condition moves it.

    >>> is_moved("Albumin", "2.1", condition_named("sepsis")), is_moved("Albumin", "6.1", condition_named("sepsis"))
    (True, False)
    """
    if value == MISSING:
        return False
    low, high = _RANGES[label]
    is_raised = label in condition.raised_labs and float(value) > high
    return is_raised or (label in condition.lowered_labs and float(value) < low)


def read_event(event: str) -> tuple[str, list[dict[str, str]]]:
    """The title and the records of a rendered event.

    >>> read_event("## Pyxis [2150-01-01 08:00:00]\\n| Name |\\n| ------ |\\n| CefTRIAXone |\\n| Aspirin 81mg TAB |")
    ('Pyxis', [{'Name': 'CefTRIAXone'}, {'Name': 'Aspirin 81mg TAB'}])
    """
    heading, *lines = event.splitlines()
    title = heading.removeprefix("## ").partition(" [")[0]
    if lines and lines[0].startswith("| "):
        names, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
        return title, [dict(zip(names, row, strict=True)) for row in rows]
    pairs = (line.removeprefix("- ").partition(": ") for line in lines)
    return title, [{name: value for name, _, value in pairs}]


@cache
def condition_named(name: str) -> Condition:
    """The condition of the vocabulary with a name."""
    return next(condition for condition in CONDITIONS if condition.name == name)


_CABINET = dict(zip(DRUGS["name"], PYXIS_NAMES, strict=True))
_RANGES = {label: (low, high) for label, low, high in LABS.select("label", "low", "high").iter_rows()}
# Title of an event → the column of its text in which a condition shows, and the values that it favours.
_FAVOURED: dict[str, tuple[str, Callable[[Condition], Collection[str]]]] = {
    EVENTS[table].title: (column, favoured)
    for table, column, favoured in (
        ("triage", "Chiefcomplaint", lambda condition: [condition.complaint]),
        ("pyxis", "Name", lambda condition: [_CABINET[drug] for drug in condition.drugs]),
        ("pharmacy", "Medication", lambda condition: condition.drugs),
        ("prescriptions", "Drug", lambda condition: condition.drugs),
        ("emar", "Medication", lambda condition: condition.drugs),
        ("services", "Curr_Service", lambda condition: [condition.service]),
        ("transfers", "Careunit", lambda condition: [condition.unit]),
    )
}
