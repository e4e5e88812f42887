"""A trajectory as the model reads it, byte for byte.

Published checkpoints were trained on this text; docs/data.md shows it, tests hold it to golden files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.records import Event
from mimiciv_dataset.tasks import TASKS, Task  # noqa: F401  (TASKS: for the doctest)


@dataclass(frozen=True)
class SampleText:
    """The parts of a sample's `input`.

    Attributes:
        patient: the patients event.
        last_discharge: the discharge note before this admission, or "".
        admission: the admissions event, or "". (Both None in a text that is not a rendered record.)
        window: the events of the window, oldest first.
        anchor: position in `window` of a risk task's anchor event, which truncation must keep; None if it is not there.
    """

    patient: str
    last_discharge: str | None
    admission: str | None
    window: tuple[str, ...]
    anchor: int | None = None

    def __str__(self) -> str:
        """The `input`: all parts joined by a blank line, empty ones too."""
        parts = (self.patient, self.last_discharge, self.admission, *self.window)
        return "\n\n".join([part for part in parts if part is not None])

    @classmethod
    def parse(cls, text: str, task: Task | None = None) -> SampleText:
        r"""The parts of a rendered `input`, as the released JSONL has it; joined again they give the same bytes.

        The anchor of a risk `task` is the first event of its table in the window (the last one, if its window ends in
        it; none for a task of another benchmark). Solved examples of other patients may stand before the record: they
        become part of `patient`, which truncation keeps. A text that is not a rendered record becomes one part, which
        truncation leaves whole.

        >>> first, last = "## Patient Demographics [None]\n- Gender: F", "## EDstays [2100-01-01 00:00:00]"
        >>> text = first + 3 * "\n\n" + last
        >>> parts = SampleText.parse(text, TASKS["ED_Hospitalization"])
        >>> parts.window, parts.anchor, str(parts) == text
        (('## EDstays [2100-01-01 00:00:00]',), 0, True)
        >>> shown = f"# Example\n{text}\nAnswer: yes\n\n# Patient\n"
        >>> SampleText.parse(shown + text).patient == shown + parts.patient
        True
        """
        if not text.startswith(_heading("patients")):
            start = text.rfind("\n" + _heading("patients")) + 1
            if not start:
                return cls(text, None, None, ())
            record = cls.parse(text[start:], task)
            return replace(record, patient=text[:start] + record.patient)
        pieces = _BETWEEN_EVENTS.split(text)
        # An empty part is nothing between two separators: the split leaves its separator on the piece before it.
        patient = pieces[0].rstrip("\n")
        parts = [patient, *[""] * ((len(pieces[0]) - len(patient)) // 2), *pieces[1:]]
        if parts[1:] and parts[1].startswith(_heading("discharge")):
            with_admission = parts[2:] and parts[2].startswith(_heading("admissions"))
            if not with_admission and parts[1].endswith("\n\n"):
                parts[1:2] = [parts[1].removesuffix("\n\n"), ""]
        if parts[2:] and parts[2].startswith(_heading("admissions")):
            admission = parts[2].rstrip("\n")
            parts[2:3] = [admission, *[""] * ((len(parts[2]) - len(admission)) // 2)]
        if len(parts) < 3 or "\n\n".join(parts) != text:
            return cls(text, None, None, ())
        window, anchor = tuple(parts[3:]), None
        if task is not None and task.kind == "risk" and task.event:
            found = [i for i, event in enumerate(window) if event.startswith(_heading(task.event))]
            anchor = (found[-1] if task.window == "note" else found[0]) if found else None
        return cls(*parts[:3], window, anchor)


def _heading(table: str) -> str:
    return f"## {EVENTS[table].title} ["


_TITLES = "|".join(re.escape(event.title) for event in EVENTS.values() if event.rendered)
_BETWEEN_EVENTS = re.compile(rf"\n\n(?=## (?:{_TITLES}) \[(?:None|\d{{4}}-\d\d-\d\d[^\]\n]*)\](?:\n|\Z))")


def event_text(title: str, time: str | None, keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An event with these records: a line a key for one record, a table for several.

    >>> print(event_text("Omr", None, ["Result_Name", "Result_Value"], [["BMI", 21]]))
    ## Omr [None]
    - Result_Name: BMI
    - Result_Value: 21
    """
    heading = f"## {title} [{time}]"
    if len(rows) == 1:
        lines = [f"- {key}: {value}" for key, value in zip(keys, rows[0], strict=True)]
        return "\n".join([heading, *lines]) if lines else heading + "\n"
    lines = [heading, "| " + " | ".join(keys) + " |", "| " + " | ".join(["------"] * len(keys)) + " |"]
    lines += ["| " + " | ".join([str(value) for value in row]) + " |" for row in rows]
    return "\n".join(lines)


class Renderer:
    """Renders events with the dictionaries of one `index_mapping/` folder."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups
        self._columns: dict[tuple[str, tuple[str, ...]], list[tuple[str, Callable[[list[Any]], Any]]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"lookups": self.lookups, "_columns": {}}

    def event(self, event: Event) -> str:
        """The text of one event; "" for tables that are not rendered.

        >>> renderer = Renderer(Lookups("nowhere"))
        >>> one, two = '{"name": "Aspirin", "x": "1"}', '{"name": "nan"}'
        >>> print(renderer.event(Event("pyxis", "2100-01-01 05:30:00", None, None, f"[{one}]")))
        ## Pyxis [2100-01-01 05:30:00]
        - Name: Aspirin
        >>> print(renderer.event(Event("pyxis", None, None, None, f"[{one}, {two}]")))
        ## Pyxis [None]
        | Name |
        | ------ |
        | Aspirin |
        | nan |
        """
        kind = EVENTS[event.file_name]
        if not kind.rendered:
            return ""
        names, rows = event.records()
        columns = self._columns.get((kind.name, names))
        if columns is None:
            columns = [(key.title(), self.lookups.getter(kind, key, names)) for key in kind.shown]
            self._columns[kind.name, names] = columns
        return event_text(
            kind.title, event.starttime, [key for key, _ in columns], [[value(row) for _, value in columns] for row in rows]
        )

    def sample(
        self,
        task: Task,
        patient: Event,
        last_discharge: Event | None,
        admission: Event | None,
        window: Sequence[Event],
    ) -> SampleText:
        """The text of one sample: what its task may see of the window's events, after patient, note and admission."""
        hidden = {"admissions", *task.hidden}
        shown = [event for event in window if event.file_name not in hidden]
        anchor = None
        if task.kind == "risk" and shown:
            wanted = window[-1] if task.window == "note" else window[0]
            anchor = next((i for i, event in enumerate(shown) if event is wanted), None)
        return SampleText(
            patient=self.event(patient),
            last_discharge=self.event(last_discharge) if last_discharge else "",
            admission=self.event(admission) if admission and task.name != "admissions" else "",
            window=tuple(self.event(event) for event in shown),
            anchor=anchor,
        )
