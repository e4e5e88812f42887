"""The true causes of the diagnoses of a synthetic ED stay: the events of its record that its hidden condition wrote.

The condition of a visit decides its diagnoses and favours a chief complaint, drugs, and laboratory values (docs/synthetic.md).
An event of the stay that shows one of these is a cause of every diagnosis; all other events are the same for all conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from mimiciv_dataset.events import EVENTS
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
    return frozenset(FIRST_EVENT + i for i, event in enumerate(text.window) if i >= begin and is_cause(event, stay))


def is_cause(event: str, condition: Condition) -> bool:
    """Whether a rendered event shows the chief complaint, a drug, or a laboratory value moved by the condition.

    >>> sepsis = condition_named("sepsis")
    >>> is_cause("## Triage [2150-01-01 08:00:00]\\n- Pain: 5\\n- Chiefcomplaint: Fever", sepsis)
    True
    >>> is_cause("## Pyxis [2150-01-01 08:00:00]\\n- Name: Ondansetron 4mg/2mL VIAL", sepsis)
    False
    """
    title, records = read_event(event)
    shows = _SHOWS.get(title)
    return shows is not None and any(shows(record, condition) for record in records)


def read_event(event: str) -> tuple[str, list[dict[str, str]]]:
    """The title and the records of a rendered event.

    >>> read_event("## Pyxis [2150-01-01 08:00:00]\\n| Name |\\n| ------ |\\n| CefTRIAXone |\\n| Aspirin 81mg TAB |")
    ('Pyxis', [{'Name': 'CefTRIAXone'}, {'Name': 'Aspirin 81mg TAB'}])
    """
    heading, *lines = event.splitlines()
    title = heading.removeprefix("## ").partition(" [")[0]
    if lines and lines[0].startswith("| "):
        names, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
        return title, [dict(zip(names, row, strict=False)) for row in rows]
    pairs = (line.removeprefix("- ").partition(": ") for line in lines)
    return title, [{name: value for name, _, value in pairs}] if lines else []


@cache
def condition_named(name: str) -> Condition:
    """The condition of the vocabulary with a name."""
    return next(condition for condition in CONDITIONS if condition.name == name)


def _shows_complaint(record: dict[str, str], condition: Condition) -> bool:
    return record.get("Chiefcomplaint") == condition.complaint


def _shows_drug(record: dict[str, str], condition: Condition) -> bool:
    return _DRUGS.get(record.get("Name", "")) in condition.drugs


def _shows_lab(record: dict[str, str], condition: Condition) -> bool:
    label, value = record.get("Item_Name", ""), record.get("Valuenum", "nan")
    if value == "nan" or label not in _RANGES:
        return False
    low, high = _RANGES[label]
    raised, lowered = label in condition.raised_labs, label in condition.lowered_labs
    return (raised and float(value) > high) or (lowered and float(value) < low)


_DRUGS = dict(zip(PYXIS_NAMES, DRUGS["name"], strict=True))
_RANGES = {label: (low, high) for label, low, high in LABS.select("label", "low", "high").iter_rows()}
_SHOWS: dict[str, Callable[[dict[str, str], Condition], bool]] = {
    EVENTS["triage"].title: _shows_complaint,
    EVENTS["pyxis"].title: _shows_drug,
    EVENTS["labevents"].title: _shows_lab,
}
