"""The task registry: all 46 tasks, declared once, and the tasks of other benchmarks that can be scored.

Index generation, datasets, evaluation and docs use this table. A new task is one entry (with
`paper=False, released=False`, or it becomes part of their macro averages) and its instruction in `instructions.json`; a risk
task also needs a label rule in `labels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mimiciv_dataset import labels
from mimiciv_dataset.events import EVENTS
from pipeline.errors import UserError
from pipeline.files import read_json

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Attributes:
        name: name in index files; `ED_ICU_Tranfer_12hour` is spelled as published.
        kind: `decision` (predict the content of the next event), `risk` (yes or no), or `generation` (write the note).
        event: table whose events have samples; None: every rendered event (next_event).
        metric: `f1`, `accuracy`, `rouge1` or `auroc`.
        target: keys of a record that can hold the answer; the first that is not missing is used.
        hidden: tables that the input omits.
        cap: rows in EHR-Ins; None: not in EHR-Ins.
        paper: whether it is one of the 42 tasks of the paper.
        released: whether it is one of the 45 tasks of the released benchmark.
        window: how the window of a risk task ends: `until_out` (at ED outtime), `first_day` (after 24 h of the stay) or `note`
            (with the discharge note; it begins as for decision tasks).
        rule: the label rule of a risk task.
        stay_end: column of the anchor's record with the end of the stay, for the leak audit.
        answer: the label rule or target in words, for tables.
        horizon: how far ahead the answer lies, in words.
        weighted: whether rows are always drawn by target_weight.
        inside: whether only rows whose admission lies inside the window are drawn.
        suite: the other benchmark the task belongs to; "" for this one.
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
    answer: str = ""
    horizon: str = "the next event"
    weighted: bool = False
    inside: bool = False
    suite: str = ""

    @property
    def when(self) -> str:
        """The time of the prediction, in words."""
        stays = {"until_out": "at ED outtime", "first_day": "24 h into the stay", "note": "at the discharge note"}
        return stays.get(self.window, "just before the event")


def _decision(name: str, target: str | tuple[str, ...], cap: int, event: str | None = None, **attributes: object) -> Task:
    keys = (target,) if isinstance(target, str) else target
    return Task(name, "decision", event or name, "f1", keys, cap=cap, answer=" or ".join(keys), **attributes)


_risk = partial(Task, kind="risk", metric="auroc", weighted=True)
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
    Task("next_event", "decision", None, "accuracy", cap=100_000, paper=False, weighted=True,
         answer="the table of the event"),
    Task("discharge", "generation", "discharge", "rouge1", ("text",), paper=False, released=False,
         answer="the note's text (events of one note)"),
    # --- risk prediction
    _risk("ED_Hospitalization", rule=labels.hospitalization, horizon="the same visit",
          answer="a later admission has the ED stay's hadm_id", **_ED),
    _risk("ED_Inpatient_Mortality", rule=labels.ed_mortality, horizon="the admission",
          answer="dod is set and the last timed event of the admission is not before it", **_ED),
    _risk("ED_ICU_Tranfer_12hour", rule=labels.icu_transfer, horizon="12 h",
          answer="the admission's first ICU stay starts < 12 h after ED outtime", **_ED),
    _risk("ED_Critical_Outcomes", rule=labels.critical, horizon="the admission",
          answer="ED_Inpatient_Mortality or ED_ICU_Tranfer_12hour", **_ED),
    _risk("ED_Reattendance_3day", rule=labels.reattendance, horizon="72 h",
          answer="the next ED stay starts < 72 h after ED outtime", **_ED),
    _risk("LengthOfStay_3day", rule=labels.length_of_stay(3), horizon="72 h",
          answer="dischtime − admittime > 72 h (window ends before dischtime)", **_ADMISSION),
    _risk("LengthOfStay_7day", rule=labels.length_of_stay(7), horizon="168 h",
          answer="dischtime − admittime > 168 h (window ends before dischtime)", **_ADMISSION),
    _risk("Inpatient_Mortality", rule=labels.inpatient_mortality, horizon="the admission",
          answer="dod is set and dischtime is not before it", **_ADMISSION),
    *(
        _risk(f"ICU_Mortality_{days}day", rule=labels.icu_mortality(days), horizon=f"{days * 24} h",
              answer=f"dod is set and < {days * 24} h after the window's last event",
              cap=40_000 if days == 7 else 20_000, **_ICU)
        for days in (1, 2, 3, 7, 14)
    ),
    *(
        _risk(f"ICU_Stay_{days}day", rule=labels.icu_stay(days), horizon=f"{days * 24} h",
              answer=f"outtime − intime ≥ {days * 24} h", cap=40_000, **_ICU)
        for days in (7, 14)
    ),
    _risk("ICU_Readmission", rule=labels.icu_readmission, horizon="the admission",
          answer="a later ICU stay has the same hadm_id", cap=40_000, **_ICU),
    *(
        _risk(f"Readmission_{days}day", rule=labels.readmission(days), horizon=f"{days * 24} h",
              answer=f"the next admission starts < {days * 24} h after the note", **_NOTE)
        for days in (30, 60)
    ),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}  # decision tasks, then risk tasks


def _external(suite: str, kind: str, metric: str, *names: str) -> dict[str, Task]:
    return {name: Task(name, kind, None, metric, paper=False, released=False, suite=suite) for name in names}


# Tasks of other benchmarks (docs/external.md). Their rows have their own text and question, so that models are run and scored
# as on `TASKS`. They have no event or window, and are in no index, training set or macro average.
EXTERNAL_TASKS: dict[str, Task] = {
    **_external(
        "ehrshot", "risk", "auroc", "guo_los", "guo_readmission", "guo_icu", "lab_thrombocytopenia", "lab_hyperkalemia",
        "lab_hypoglycemia", "lab_hyponatremia", "lab_anemia", "new_hypertension", "new_hyperlipidemia", "new_pancan",
        "new_celiac", "new_lupus", "new_acutemi",
    ),
    **_external("cdm", "decision", "accuracy", "cdm_pathology"),
    **_external("cdm", "decision", "f1", "cdm_diagnoses"),
}  # fmt: skip

ALL_TASKS = TASKS | EXTERNAL_TASKS  # those that can be run and scored


def needs_modules(task: Task) -> set[str]:
    """The optional modules (`note`, `ed`, `icu`) without which a task has no rows.

    >>> needs_modules(TASKS["radiology"]), needs_modules(TASKS["labevents"])
    ({'note'}, set())
    """
    return {EVENTS[task.event].module} - {"hosp"} if task.event else set()


def load_instructions(path: Path | str | None = None) -> dict[str, str]:
    """The instruction of each task; those in the JSON file `path`, task → instruction, replace the default ones."""
    replaced = {} if path is None else read_json(path)
    if not isinstance(replaced, dict) or not all(isinstance(text, str) for text in replaced.values()):
        raise UserError(f"{path}: expected a JSON object, task → instruction, got other JSON.")
    return read_json(Path(__file__).with_name("instructions.json")) | replaced


def task_table(tasks: Sequence[Task] = _TASKS) -> str:
    """The tasks as a markdown table, for `--list_tasks` and docs/tasks.md."""
    rows = [("task", "kind", "event", "made", "horizon", "answer", "metric", "EHR-Ins cap", "paper's 42")]
    for task in tasks:
        answer = f'"yes" when {task.answer}' if task.kind == "risk" else task.answer
        cap, paper = f"{task.cap:,}" if task.cap else "–", "y" if task.paper else "n"
        event = task.event or "any rendered"
        rows.append((task.name, task.kind, event, task.when, task.horizon, answer, task.metric, cap, paper))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
