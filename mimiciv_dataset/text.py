"""What of a trajectory a model reads: the `input` of a sample.

The index says which events are in the window (`samples.py`); this module decides which of them are shown, and their text.
`inference/prompts.py` builds the prompt from the input: instruction, candidates, chat template and truncation. Released
checkpoints were trained on exactly this text. docs/data.md describes it, and tests compare it with golden files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mimiciv_dataset.events import EVENTS
from mimiciv_dataset.known import hide_unknown
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.records import Event
from mimiciv_dataset.tasks import TASKS, Task  # noqa: F401  (TASKS: for the doctests)
from mimiciv_dataset.timeline import Timeline


@dataclass(frozen=True)
class SampleText:
    """The `input` of a sample in parts.

    Attributes:
        patient: the patients event.
        last_discharge: the last discharge note of an earlier admission, or ""; None if the text is not a rendered input.
        admission: the admissions event, or ""; None if the text is not a rendered input.
        window: the events of the window, oldest first.
        anchor: position in `window` of the anchor event of a risk task, which truncation must keep; None if it is not there.
    """

    patient: str
    last_discharge: str | None
    admission: str | None
    window: tuple[str, ...]
    anchor: int | None = None

    def __str__(self) -> str:
        """The `input`: all parts, including empty ones, joined by blank lines."""
        parts = (self.patient, self.last_discharge, self.admission, *self.window)
        return "\n\n".join([part for part in parts if part is not None])

    @classmethod
    def parse(cls, text: str, task: Task | None = None) -> SampleText:
        r"""Split a rendered `input`, such as one of a released JSONL, into parts that join to the same bytes.

        The anchor of a risk `task` is the first event of its table in the window, or the last one if the window ends at the
        anchor; tasks of other benchmarks have none. Solved examples that precede the input become part of `patient`, which
        truncation keeps. Any other text becomes a single part, which truncation does not shorten.

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
            parsed = cls.parse(text[start:], task)
            return replace(parsed, patient=text[:start] + parsed.patient)
        pieces = _BETWEEN_EVENTS.split(text)
        # an empty part leaves only its separator, at the end of the preceding piece
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
            anchors = [i for i, event in enumerate(window) if event.startswith(_heading(task.event))]
            anchor = (anchors[-1] if task.window == "note" else anchors[0]) if anchors else None
        return cls(*parts[:3], window, anchor)


def _heading(table: str) -> str:
    return f"## {EVENTS[table].title} ["


_TITLES = "|".join(re.escape(event.title) for event in EVENTS.values() if event.rendered)
_BETWEEN_EVENTS = re.compile(rf"\n\n(?=## (?:{_TITLES}) \[(?:None|\d{{4}}-\d\d-\d\d[^\]\n]*)\](?:\n|\Z))")


def is_shown(task: Task, table: str) -> bool:
    """Whether the window of a task shows the events of a table.

    >>> is_shown(TASKS["diagnoses_icd"], "discharge"), is_shown(TASKS["emar"], "discharge")
    (False, True)
    """
    return table not in ("admissions", *task.hidden)


def event_text(title: str, time: str | None, keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The text of an event: one line per key for a single record, a table for several.

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
    """Renders events and samples as text.

    With `as_known`, values of a sample that were stored after its prediction time (`Timeline.prediction_time`) are rendered
    as missing. Every record keeps its row, so that positions do not change.
    """

    def __init__(self, lookups: Lookups, as_known: bool = False) -> None:
        self.lookups, self.as_known = lookups, as_known

    def event(self, event: Event, known_at: int | None = None) -> str:
        """The text of an event, without values stored after `known_at` (seconds since 1970); "" if its table is not rendered.

        >>> renderer = Renderer(Lookups("nowhere"))
        >>> aspirin, missing = '{"name": "Aspirin", "x": "1"}', '{"name": "nan"}'
        >>> print(renderer.event(Event("pyxis", "2100-01-01 05:30:00", None, None, f"[{aspirin}]")))
        ## Pyxis [2100-01-01 05:30:00]
        - Name: Aspirin
        >>> print(renderer.event(Event("pyxis", None, None, None, f"[{aspirin}, {missing}]")))
        ## Pyxis [None]
        | Name |
        | ------ |
        | Aspirin |
        | nan |
        """
        kind = EVENTS[event.file_name]
        if not kind.rendered:
            return ""
        records = event.records()
        getters = [self.lookups.getter(kind, key, records.columns) for key in kind.shown]
        values = [[get(row) for get in getters] for row in records.rows]
        if known_at is not None:
            hide_unknown(kind, records, values, known_at)
        return event_text(kind.title, event.starttime, [key.title() for key in kind.shown], values)

    def row(self, task: Task, row: Mapping[str, Any], read: Callable[[Sequence[int]], Sequence[Event]]) -> SampleText:
        """The text of an index row; `read` returns the events at the given positions of the patient's trajectory.

        Nothing at or after the end of the window is shown, not even an admission that is the event asked for (next_event).
        """
        begin, end = row["period_begin"], row["period_end"]
        note, admission = (
            position if position is not None and position < end else None
            for position in (row.get("last_discharge_id"), row.get("admissions_id"))
        )
        positions = [0, *range(begin, end), *(position for position in (note, admission) if position is not None)]
        events = dict(zip(positions, read(positions), strict=True))
        window = [events[position] for position in range(begin, end)]
        return self.sample(task, events[0], events.get(note), events.get(admission), window)

    def sample(
        self, task: Task, patient: Event, last_discharge: Event | None, admission: Event | None, window: Sequence[Event]
    ) -> SampleText:
        """The text of a sample: patient, note, admission, and the events of the window that its task does not hide."""
        known_at = Timeline(window).prediction_time(0, len(window)) if self.as_known else None
        shown = [event for event in window if is_shown(task, event.file_name)]
        anchor = None
        if task.kind == "risk" and shown:
            anchor_event = window[-1] if task.window == "note" else window[0]
            anchor = next((i for i, event in enumerate(shown) if event is anchor_event), None)
        discharge = self.event(last_discharge, known_at) if last_discharge else ""
        admitted = self.event(admission) if admission and task.name != "admissions" else ""
        texts = tuple(self.event(event, known_at) for event in shown)
        return SampleText(self.event(patient), discharge, admitted, texts, anchor)
