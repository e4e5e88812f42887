"""The note tables: radiology reports and discharge letters, and their detail tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic.batch import Batch, spread
from preprocess.synthetic.visits import HOUR, midnight
from preprocess.synthetic.vocab import CONDITIONS, DIAGNOSES, EXAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from preprocess.synthetic.visits import Floats, Ints

TITLES = dict(DIAGNOSES.select("icd10", "title").rows())
# sentences of a hospital course, of which each letter has some
COURSE = (
    "The patient was followed closely by the {service} team, which adjusted treatment each day.",
    "Home medications were reviewed with the pharmacist and continued where possible.",
    "Diet was advanced as tolerated, and electrolytes were replaced as needed.",
    "Physical examination improved steadily, and the patient remained hemodynamically stable at the end.",
    "Prophylaxis against thromboembolism was given throughout the stay.",
    "The plan was discussed with the patient and the family, who agreed with it.",
)

REPORT = """\
EXAMINATION:  {name}

INDICATION:  ___ with {complaint} // evaluate

COMPARISON:  {comparison}

FINDINGS: \n
{finding}
{change}

IMPRESSION: \n
{finding}
Findings in keeping with {condition}.
"""

LETTER = """\
 \nName:  ___                     Unit No:   ___
 \nSex:   {sex}
Service: {condition.service}
 \nChief Complaint:
{condition.complaint}
 \nHistory of Present Illness:
This is a {age} year old {person} with {history} who presents with {complaint} for ___ days. In the emergency department \
the findings were consistent with {condition.name}, and the patient was admitted.
 \nPast Medical History:
- {comorbidities[1]}
- {comorbidities[0]}
 \nSocial History:
___
 \nPertinent Results:
{labs}
Imaging: {condition.exams[0]} was obtained.
 \nBrief Hospital Course:
The patient was treated for {condition.name} with {treatment}. {intensive_care}{course} {signs} {end}
 \nDischarge Medications:
{medications}
 \nDischarge Diagnosis:
{diagnosis}
{comorbidities[0]}
 \nDischarge Instructions:
Please take your medications as prescribed and keep your appointments. Call your doctor or return if you have fever, chest \
pain, trouble breathing or other new symptoms.
 \nFollowup Instructions:
___
"""


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The tables of this module."""
    return radiology(batch) | discharge(batch)


def _notes(
    batch: Batch, kind: str, visit: Ints, time: Ints, delay: Ints | int, texts: list[str], **columns: Ints
) -> pl.DataFrame:
    """Notes with their numbers and ids; `delay` is the time in seconds until they are stored."""
    notes = batch.rows(visit, time, note_type=kind, storetime=time + delay, text=pl.Series(texts, dtype=pl.String), **columns)
    notes = notes.with_columns(note_seq=pl.int_range(pl.len()).over("patient") + 1)
    return notes.with_columns(note_id=pl.format(f"{{}}-{kind}-{{}}", "subject_id", pl.col("note_seq") + 1))


def _details(notes: pl.DataFrame, **fields: pl.Series | pl.Expr) -> pl.DataFrame:
    """A detail table: one row for each field of each note."""
    keys = notes.select("patient", "note_id", "subject_id", field_ordinal=pl.lit(1), row=pl.int_range(pl.len()))
    rows = [keys.with_columns(field_name=pl.lit(name), field_value=values) for name, values in fields.items()]
    return pl.concat(rows).sort("row", maintain_order=True)


def radiology(batch: Batch) -> dict[str, pl.DataFrame]:
    """Exams of the condition, in the ED and on the ward; those of the ED often without hadm_id."""
    v = batch.visits
    owner, _ = spread(batch.rng.poisson(0.8, len(batch.adm)))
    ward = batch.adm[owner]
    ed = batch.ed[batch.chance(0.3, len(batch.ed))]
    length = np.maximum(v.out - v.admit - 2 * HOUR, HOUR)[ward]
    ward_time = v.admit[ward] + HOUR + (length * batch.rng.random(len(ward))).astype(np.int64)
    ed_time = v.ed_out[ed] - HOUR - 60 * batch.integers(0, 90, len(ed))
    rows = [(ward, ward_time // 60 * 60, batch.hadm[ward])]
    rows.append((ed, ed_time // 60 * 60, np.where(batch.chance(0.6, len(ed)), -1, batch.hadm[ed])))
    visit, time, hadm_id = batch.in_order(*rows)
    n = len(visit)
    of_condition = batch.one_of_condition("exams", EXAMS["name"], visit)
    exam = np.where(batch.chance(0.8, n), of_condition, batch.integers(0, len(EXAMS), n))
    compared = batch.integers(0, 2, n)
    exams, texts = EXAMS[exam], []
    for condition, fields, is_compared in zip(v.condition[visit], exams.iter_rows(named=True), compared, strict=True):
        unchanged = "There is no significant change since the prior study."
        text = REPORT.format(
            **fields,
            complaint=CONDITIONS[condition].complaint.lower(),
            comparison="___." if is_compared else "None.",
            change=unchanged if is_compared else "No acute abnormality elsewhere.",
            condition=CONDITIONS[condition].name,
        )
        texts.append(text)
    reports = _notes(batch, "RR", visit, time, 60 * batch.integers(20, 300, n), texts, hadm_id=hadm_id)
    return {"radiology": reports, "radiology_detail": _details(reports, exam_name=exams["name"], exam_code=exams["code"])}


def discharge(batch: Batch) -> dict[str, pl.DataFrame]:
    """A letter for nearly every admission, dated midnight of the last day, as MIMIC's are."""
    visit = batch.adm[batch.chance(0.96, len(batch.adm))]
    draws = batch.rng.random((len(visit), len(COURSE)))
    signs = batch.signs("discharge", "end")
    shown = np.array([batch.has(sign, visit) for sign in signs]).T
    sentences = np.array([sign.item for sign in signs])
    texts = [_letter(batch, *row) for row in zip(visit, draws, [sentences[has] for has in shown], strict=True)]
    letters = _notes(batch, "DS", visit, midnight(batch.visits.out[visit]), 33 * HOUR, texts)
    return {"discharge": letters, "discharge_detail": _details(letters, author=pl.lit("___"))}


def _letter(batch: Batch, visit: int, draw: Floats, signs: Sequence[str]) -> str:
    """The discharge letter of a visit; `draw` chooses sentences of `COURSE`, `signs` are further sentences."""
    v = batch.visits
    patient, condition = v.patient[visit], CONDITIONS[v.condition[visit]]
    female = batch.course.female[patient]
    history = [TITLES[code] for code in condition.comorbidities]
    sentences = [text.format(service=condition.service) for text, u in zip(COURSE, draw, strict=True) if u < 0.7]
    raised = ", ".join(f"{label} high" for label in condition.raised_labs)
    lowered = ", ".join(f"{label} low" for label in condition.lowered_labs)
    medications = enumerate((*condition.drugs, "Acetaminophen", "Senna"), 1)
    return LETTER.format(
        sex="F" if female else "M",
        condition=condition,
        age=batch.course.age[patient],
        person="woman" if female else "man",
        history=history[0].lower(),
        complaint=condition.complaint.lower(),
        comorbidities=(history[0], history[-1]),
        labs=f"{raised}; {lowered}",
        treatment=", ".join(condition.drugs[:3]),
        intensive_care=f"The patient needed intensive care in the {condition.icu_unit}. " if v.icu[visit] else "",
        course=" ".join(sentences),
        signs=" ".join(signs),
        end="The patient expired." if v.died[visit] else "The patient was discharged in stable condition.",
        medications="\n".join(f"{number}. {name} ___ daily" for number, name in medications),
        diagnosis=TITLES[condition.diagnosis],
    )
