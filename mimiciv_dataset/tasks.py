"""The task registry: all 46 tasks, declared once, and those of other benchmarks that we can score.

Index generation, datasets, evaluation and the docs read this table. A new decision task is one entry; a new risk task is
one entry and a label rule in `labels.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mimiciv_dataset import labels
from mimiciv_dataset.events import EVENTS

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        name: as in index files, `ED_ICU_Tranfer_12hour` spelt as published.
        kind: `decision` (name what happens next), `risk` (yes or no), or `generation` (write the note).
        event: table whose events make samples; None: any rendered event (next_event).
        metric: `f1`, `accuracy`, `rouge1` or `auroc`.
        target: keys of a record that hold the answer: the first one that is not missing counts.
        hidden: tables never shown in the context.
        cap: rows in EHR-Ins; None: not in EHR-Ins.
        paper: one of the 42 tasks of the paper.
        released: one of the 45 tasks of the released benchmark.
        window: for risk tasks, which rule ends the window: `until_out` (to ED outtime), `first_day` (24 h of the stay),
            `note` (the decision window and the note itself).
        rule: for risk tasks, the label rule.
        stay_end: column of the anchor's record in which its stay ends, for the leak audit.
        says: the label rule or target in words, for tables.
        horizon: how far ahead the answer lies, in words.
        weighted: sampled by target_weight when a set is drawn.
        inside: only rows whose admission lies inside the window are drawn.
        suite: the other benchmark the task belongs to; "" for ours.
    """

    name: str
    kind: str
    event: str | None
    metric: str
    target: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    cap: int | None = None
    paper: bool = True
    released: bool = True
    window: str = ""
    rule: labels.Rule | None = None
    stay_end: str | None = None
    says: str = ""
    horizon: str = "the next event"
    weighted: bool = False
    inside: bool = False
    suite: str = ""

    @property
    def when(self) -> str:
        """The prediction time in words."""
        return {
            "": "just before the event",
            "until_out": "at ED outtime",
            "first_day": "24 h into the stay",
            "note": "at the discharge note",
        }[self.window]


def _decision(name: str, target: str | tuple[str, ...], cap: int, event: str | None = None, **more: object) -> Task:
    keys = (target,) if isinstance(target, str) else target
    return Task(name, "decision", event or name, "f1", keys, cap=cap, says=" or ".join(keys), **more)


def _risk(name: str, event: str, window: str, rule: labels.Rule, says: str, horizon: str, cap: int, **more: object):
    return Task(
        name, "risk", event, "auroc", window=window, rule=rule, says=says, horizon=horizon, cap=cap, weighted=True, **more
    )


_NO_NOTE = {"hidden": ("discharge",)}
_CODED = {"hidden": ("discharge",), "inside": True}
_ED = {"event": "edstays", "window": "until_out", "stay_end": "outtime", "cap": 40_000}
_ADMISSION = {"event": "admissions", "window": "first_day", "stay_end": "dischtime", "cap": 40_000}
_ICU = {"event": "icustays", "window": "first_day", "stay_end": "outtime"}
_NOTE = {"event": "discharge", "window": "note", "cap": 40_000}

_TASKS = (
    # --- decision making
    _decision("admissions", "admission_type", 100_000),
    _decision("transfers", ("careunit", "eventtype"), 100_000),
    _decision("omr", "result_name", 20_000),
    _decision("labevents", "item_name", 100_000),
    _decision("microbiologyevents", "test_name", 100_000),
    _decision("radiology", "exam_name", 100_000),
    _decision("diagnoses_icd", "diagnoses", 200_000, **_CODED),
    _decision("diagnoses_ccs", "CCS Type", 200_000, "diagnoses_icd", **_CODED),
    _decision("diagnosis", "icd_title", 100_000, **_NO_NOTE),
    _decision("diagnosis_ccs", "CCS Type", 200_000, "diagnosis", **_NO_NOTE),
    _decision("procedures_icd", "procedures", 200_000, inside=True),
    _decision("procedures_ccs", "CCS Type", 200_000, "procedures_icd", inside=True),
    _decision("services", "curr_service", 20_000),
    _decision("poe", "order_type", 100_000),
    _decision("emar", "medication", 100_000, weighted=True),
    _decision("prescriptions", "drug", 200_000),
    _decision("prescriptions_atc", "ATC Type", 200_000, "prescriptions"),
    _decision("medrecon", "name", 200_000),
    _decision("medrecon_atc", "ATC Type", 200_000, "medrecon"),
    _decision("ingredientevents", "item_name", 20_000),
    _decision("datetimeevents", "item_name", 20_000),
    _decision("procedureevents", "item_name", 20_000),
    _decision("inputevents", "item_name", 20_000),
    _decision("outputevents", "item_name", 20_000),
    _decision("pyxis", "name", 200_000, paper=False),
    _decision("chartevents", "item_name", 200_000, paper=False, weighted=True),
    Task(
        "next_event", "decision", None, "accuracy", cap=100_000, paper=False, weighted=True,
        says="the table of the event",
    ),
    Task(
        "discharge", "generation", "discharge", "rouge1", ("text",), paper=False, released=False,
        says="the note's text (events of one note)",
    ),
    # --- risk prediction
    _risk("ED_Hospitalization", rule=labels.hospitalization, horizon="the same visit",
          says="a later admission has the ED stay's hadm_id", **_ED),
    _risk("ED_Inpatient_Mortality", rule=labels.ed_mortality, horizon="the admission",
          says="dod is set and the last timed event of the admission is not before it", **_ED),
    _risk("ED_ICU_Tranfer_12hour", rule=labels.icu_transfer, horizon="12 h",
          says="the admission's first ICU stay starts < 12 h after ED outtime", **_ED),
    _risk("ED_Critical_Outcomes", rule=labels.critical, horizon="the admission",
          says="ED_Inpatient_Mortality or ED_ICU_Tranfer_12hour", **_ED),
    _risk("ED_Reattendance_3day", rule=labels.reattendance, horizon="72 h",
          says="the next ED stay starts < 72 h after ED outtime", **_ED),
    _risk("LengthOfStay_3day", rule=labels.length_of_stay(3), horizon="72 h",
          says="dischtime − admittime > 72 h (window ends before dischtime)", **_ADMISSION),
    _risk("LengthOfStay_7day", rule=labels.length_of_stay(7), horizon="168 h",
          says="dischtime − admittime > 168 h (window ends before dischtime)", **_ADMISSION),
    _risk("Inpatient_Mortality", rule=labels.inpatient_mortality, horizon="the admission",
          says="dod is set and dischtime is not before it", **_ADMISSION),
    *(
        _risk(f"ICU_Mortality_{days}day", rule=labels.icu_mortality(days), horizon=f"{days * 24} h",
              says=f"dod is set and < {days * 24} h after the window's last event",
              cap=40_000 if days == 7 else 20_000, **_ICU)
        for days in (1, 2, 3, 7, 14)
    ),
    *(
        _risk(f"ICU_Stay_{days}day", rule=labels.icu_stay(days), horizon=f"{days * 24} h",
              says=f"outtime − intime ≥ {days * 24} h", cap=40_000, **_ICU)
        for days in (7, 14)
    ),
    _risk("ICU_Readmission", rule=labels.icu_readmission, horizon="the admission",
          says="a later ICU stay has the same hadm_id", cap=40_000, **_ICU),
    *(
        _risk(f"Readmission_{days}day", rule=labels.readmission(days), horizon=f"{days * 24} h",
              says=f"the next admission starts < {days * 24} h after the note", **_NOTE)
        for days in (30, 60)
    ),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""Every task by name; decision tasks first, then risk tasks."""


def _external(suite: str, kind: str, metric: str, *names: str) -> dict[str, Task]:
    return {name: Task(name, kind, None, metric, paper=False, released=False, suite=suite) for name in names}


EXTERNAL_TASKS: dict[str, Task] = {
    **_external(
        "ehrshot", "risk", "auroc", "guo_los", "guo_readmission", "guo_icu", "lab_thrombocytopenia", "lab_hyperkalemia",
        "lab_hypoglycemia", "lab_hyponatremia", "lab_anemia", "new_hypertension", "new_hyperlipidemia", "new_pancan",
        "new_celiac", "new_lupus", "new_acutemi",
    ),
    **_external("cdm", "decision", "accuracy", "cdm_pathology"),
    **_external("cdm", "decision", "f1", "cdm_diagnoses"),
}  # fmt: skip
"""Tasks of other benchmarks (docs/external.md): their rows bring their own text and question, so that a model is run on
them and scored as on ours. They have no event and no window: no index, no training set and no macro of ours has them."""

ALL_TASKS = TASKS | EXTERNAL_TASKS
"""What can be run and scored."""


def needs_modules(task: Task) -> set[str]:
    """The optional modules (`note`, `ed`, `icu`) without which a task has no rows.

    >>> needs_modules(TASKS["radiology"]), needs_modules(TASKS["labevents"])
    ({'note'}, set())
    """
    return {EVENTS[task.event].module} - {"hosp"} if task.event else set()


@cache
def _instructions() -> dict[str, str]:
    return json.loads((Path(__file__).parent / "instructions.json").read_text(encoding="utf-8"))


def load_instructions(path: Path | str | None = None) -> dict[str, str]:
    """The instruction sentence of each task; those in `path` (JSON, task → sentence) replace ours.

    Raises:
        UserError: the file is not such a mapping.
    """
    from pipeline.errors import UserError
    from pipeline.files import read_json

    ours = dict(_instructions())
    if path is None:
        return ours
    theirs = read_json(path)
    if not isinstance(theirs, dict) or not all(isinstance(text, str) for text in theirs.values()):
        raise UserError(f"{path}: wanted a JSON object, task → instruction sentence")
    return ours | theirs


def task_table(tasks: Sequence[Task] = _TASKS) -> str:
    """The tasks as a markdown table, for `--list_tasks` and docs/tasks.md."""
    rows = [("task", "kind", "event", "made", "horizon", "answer", "metric", "EHR-Ins cap", "paper's 42")]
    for task in tasks:
        rows.append(
            (
                task.name, task.kind, task.event or "any rendered", task.when, task.horizon,
                f'"yes" when {task.says}' if task.kind == "risk" else task.says,
                task.metric, f"{task.cap:,}" if task.cap else "–", "y" if task.paper else "n",
            )
        )  # fmt: skip
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
