"""The ed and note tables of a batch of synthetic patients.

ED tables carry no hadm_id, and neither do an ED stay's own laboratory and radiology records at times: vital signs and
drugs alternate through the stay, so that its later events have a history without hadm_id to be predicted from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from preprocess.synthetic import vocab as vocab
from preprocess.synthetic.hospital import coded, race, visit_diagnoses
from preprocess.synthetic.orders import sign_times
from preprocess.synthetic.patients import SIGN_ITEMS, Batch, decimals, pick, spread
from preprocess.synthetic.visits import HOUR, midnight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.patients import Part

    Ints = NDArray[np.int64]

VITALS = (("temperature", 98.2, 0.6), ("heartrate", 86, 11), ("resprate", 18, 2), ("o2sat", 97, 1.2), ("sbp", 132, 14),
          ("dbp", 76, 9))  # fmt: skip
ROUND = 50 * 60
"""Seconds between an ED stay's vital signs; a drug is taken out between two of them."""


def ed_note_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """All ed and note tables, radiology_detail and discharge_detail."""
    films, film_details = radiology(batch)
    letters, letter_details = discharge(batch)
    return {
        "edstays": edstays(batch),
        "triage": triage(batch),
        "medrecon": medrecon(batch),
        "pyxis": pyxis(batch),
        "vitalsign": vitalsign(batch),
        "diagnosis": diagnosis(batch),
        "radiology": films,
        "radiology_detail": film_details,
        "discharge": letters,
        "discharge_detail": letter_details,
    }


def _ed_part(batch: Batch, visit: Ints, time: Ints) -> Part:
    """`visit` is left out of the part's own columns: ED tables but edstays have no hadm_id."""
    return {"patient": batch.v["patient"][visit], "stay_id": batch.ed_stay[visit], "time": time, "charttime": time}


def edstays(batch: Batch) -> pl.DataFrame:
    v, visit = batch.v, batch.ed
    n = len(visit)
    patient = v["patient"][visit]
    part = {
        "patient": patient, "visit": visit, "time": v["start"][visit], "stay_id": batch.ed_stay[visit],
        "intime": v["start"][visit], "outtime": v["ed_out"][visit], "race": race(batch, patient),
        "gender": pick(("M", "F"), batch.course.female[patient].astype(np.int64)),
        "arrival_transport": batch.one_of(("AMBULANCE", "AMBULANCE", "WALK IN", "WALK IN", "UNKNOWN"), n),
        "disposition": pick(("ADMITTED", "HOME", "OTHER", "LEFT AGAINST MEDICAL ADVICE"), np.where(
            v["hospital"][visit], 0, np.where(batch.chance(0.85, n), 1, batch.integers(2, 4, n)))),
    }  # fmt: skip
    return batch.frame("edstays", [part])


def _vitals(batch: Batch, n: int, missing: float) -> Part:
    values = {}
    for name, mean, sd in VITALS:
        value = decimals(np.round(mean + sd * batch.rng.standard_normal(n), 1 if name == "temperature" else 0))
        values[name] = value.set(pl.Series(batch.chance(missing, n)), None)
    return values


def _signed(batch: Batch, table: str, visit: Ints, values: Part, shown: NDArray[np.bool_]) -> Part:
    """`values` with the signs of a table written into their columns where shown."""
    for sign in batch.signs(table, "ed"):
        here = pl.Series(batch.has(sign, visit) & shown)
        values[sign.item] = values[sign.item].set(here, sign.value)
    return values


def triage(batch: Batch) -> pl.DataFrame:
    visit = batch.ed
    n = len(visit)
    values = _vitals(batch, n, 0.06) | {
        "pain": batch.one_of(("0", "3", "5", "7", "8"), n, 0.06), "acuity": pick(("3", "4"), batch.integers(0, 5, n) // 4),
        "chiefcomplaint": batch.by_condition([c.complaint for c in vocab.CONDITIONS], visit),
    }  # fmt: skip
    values = _signed(batch, "triage", visit, values, np.ones(n, bool))
    return batch.frame("triage", [_ed_part(batch, visit, batch.v["start"][visit]) | values])


def vitalsign(batch: Batch) -> pl.DataFrame:
    """Vital signs through the stay; a sign shows in the second and third round."""
    v = batch.v
    owner, j = spread((v["ed_out"][batch.ed] - v["start"][batch.ed] - 20 * 60) // ROUND)
    visit = batch.ed[owner]
    time = v["start"][visit] + 15 * 60 + j * ROUND + 60 * batch.integers(0, 9, len(visit))
    n = len(visit)
    values = _vitals(batch, n, 0.08) | {
        "rhythm": pick(("Sinus Rhythm", "Sinus Tachycardia"), np.where(batch.chance(0.1, n), batch.integers(0, 2, n), -1)),
        "pain": batch.one_of(("0", "2", "4", "6", "8"), n, 0.2),
    }  # fmt: skip
    values = _signed(batch, "vitalsign", visit, values, (j == 1) | (j == 2))
    return batch.frame("vitalsign", [_ed_part(batch, visit, time) | values])


def pyxis(batch: Batch) -> pl.DataFrame:
    """Drugs taken out between the vital signs: the condition's and common ones; signs early in the stay."""
    v = batch.v
    at = {d.name: k for k, d in enumerate(vocab.DRUGS)}
    common = np.array([at[name] for name in ("Acetaminophen", "Ondansetron", "0.9% Sodium Chloride", "Morphine Sulfate",
                                             "Ketorolac", "LORazepam", "Famotidine", "Aspirin")])  # fmt: skip
    own = [[at[d] for d in c.drugs if d not in SIGN_ITEMS] for c in vocab.CONDITIONS]
    table = np.array([(codes * 4)[:4] for codes in own])
    owner, j = spread((v["ed_out"][batch.ed] - v["start"][batch.ed] - 40 * 60) // ROUND)
    taken = batch.chance(0.7, len(owner))
    visit, j = batch.ed[owner[taken]], j[taken]
    n = len(visit)
    time = v["start"][visit] + 40 * 60 + j * ROUND + 60 * batch.integers(0, 9, n)
    mine = table[v["condition"][visit], batch.integers(0, 4, n)]
    drug = np.where(batch.chance(0.5, n), mine, common[batch.integers(0, len(common), n)])
    parts = [(visit, time, drug)]
    for sign in batch.signs("pyxis", "ed"):
        visit, time = sign_times(batch, sign)
        parts.append((visit, time // 60 * 60, np.full(len(visit), at[sign.item])))
    rows = []
    for visit, time, drug in parts:
        n = len(visit)
        rows.append(
            _ed_part(batch, visit, time) | {
                "med_rn": batch.integers(1, 12, n), "gsn_rn": np.ones(n, np.int64), "name": pick(
                    [f"{d.name} {d.strength.split()[0]} {d.form}" if d.name not in SIGN_ITEMS else d.name
                     for d in vocab.DRUGS], drug),
                "gsn": pick([f"{(k * 7919 + 4380) % 80000:06d}" for k in range(len(vocab.DRUGS))], drug),
            }
        )  # fmt: skip
    return batch.frame("pyxis", rows)


def medrecon(batch: Batch) -> pl.DataFrame:
    """The list of home drugs, taken down late in the stay, in one or two sittings."""
    v = batch.v
    sittings, k = spread(batch.integers(1, 3, len(batch.ed)))
    visit = batch.ed[sittings]
    length = v["ed_out"][visit] - v["start"][visit]
    time = v["start"][visit] + (length * (0.55 + 0.2 * k + 0.1 * batch.rng.random(len(visit)))).astype(np.int64) // 60 * 60
    owner, j = spread(batch.integers(1, 5, len(visit)))
    routine = batch.routine_drugs
    drug = routine[(v["patient"][visit][owner] * 13 + (j + batch.integers(0, 3, len(owner))) * 11) % len(routine)]
    at = {d.name: k for k, d in enumerate(vocab.DRUGS)}
    parts = [(visit[owner], time[owner], drug)]
    for sign in batch.signs("medrecon", "ed"):
        holder = np.flatnonzero(batch.has(sign, visit) & (k == 0))
        parts.append((visit[holder], time[holder], np.full(len(holder), at[sign.item])))
    rows = []
    for visit, time, drug in parts:
        rows.append(
            _ed_part(batch, visit, time) | {
                "name": pick([d.name.lower() for d in vocab.DRUGS], drug), "etc_rn": "1",
                "gsn": pick([f"{(k * 7919 + 4380) % 80000:06d}" for k in range(len(vocab.DRUGS))], drug),
                "ndc": pick([d.ndc for d in vocab.DRUGS], drug),
                "etccode": pick([f"{k * 37 + 158:08d}" if d.atc else None for k, d in enumerate(vocab.DRUGS)], drug),
                "etcdescription": pick([d.atc or None for d in vocab.DRUGS], drug),
            }
        )  # fmt: skip
    return batch.frame("medrecon", rows)


def diagnosis(batch: Batch) -> pl.DataFrame:
    owner, code, seq = visit_diagnoses(batch, batch.ed, 1, 4)
    visit = batch.ed[owner]
    part = _ed_part(batch, visit, batch.v["ed_out"][visit]) | {
        "seq_num": seq, "icd_title": pick([d.title.upper() for d in vocab.DIAGNOSES], code),
    }  # fmt: skip
    return batch.frame("diagnosis", [part | coded(batch, vocab.DIAGNOSES, code, batch.v["patient"][visit])])


# --- notes


def _note_ids(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    table = table.with_columns(note_seq=pl.int_range(pl.len()).over("patient") + 1)
    return table.with_columns(note_id=pl.format(f"{{}}-{kind}-{{}}", "subject_id", pl.col("note_seq") + 1))


def _details(table: pl.DataFrame, fields: list[pl.Expr], names: tuple[str, ...]) -> pl.DataFrame:
    """One row a field of each note."""
    rows = [
        table.select("patient", "note_id", "subject_id", field_value=value, field_ordinal=pl.lit(1)).with_columns(
            field_name=pl.lit(name), time=pl.int_range(pl.len())
        )
        for name, value in zip(names, fields, strict=True)
    ]
    return pl.concat(rows).sort("time", maintain_order=True)


def radiology(batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exams of the condition, in the ED and on the ward; those of the ED often without hadm_id."""
    v = batch.v
    at = {e[0]: k for k, e in enumerate(vocab.EXAMS)}
    own = [[at[e] for e in c.exams] for c in vocab.CONDITIONS]
    width = max(map(len, own))
    table = np.array([(codes * width)[:width] for codes in own])
    ward, _ = spread(batch.rng.poisson(0.8, len(batch.adm)))
    ward = batch.adm[ward]
    early = batch.ed[batch.chance(0.3, len(batch.ed))]
    length = np.maximum(v["out"] - v["admit"] - 2 * HOUR, HOUR)
    visit = np.r_[ward, early]
    time = np.r_[
        v["admit"][ward] + HOUR + (length[ward] * batch.rng.random(len(ward))).astype(np.int64),
        v["ed_out"][early] - HOUR - 60 * batch.integers(0, 90, len(early)),
    ] // 60 * 60  # fmt: skip
    order = np.lexsort((time, v["patient"][visit]))
    no_hadm = np.r_[np.zeros(len(ward), bool), batch.chance(0.6, len(early))][order]
    visit, time = visit[order], time[order]
    n = len(visit)
    mine = table[v["condition"][visit], batch.integers(0, width, n)]
    exam = np.where(batch.chance(0.8, n), mine, batch.integers(0, len(vocab.EXAMS), n))
    compared = batch.integers(0, 2, n)
    texts = []
    for k, e, prior in zip(v["condition"][visit], exam, compared, strict=True):
        name, _, finding = vocab.EXAMS[e]
        texts.append(
            f"EXAMINATION:  {name}\n\nINDICATION:  ___ with {vocab.CONDITIONS[k].complaint.lower()} // evaluate\n\n"
            f"COMPARISON:  {'___.' if prior else 'None.'}\n\nFINDINGS: \n\n{finding}\n"
            f"{'There is no significant change since the prior study.' if prior else 'No acute abnormality elsewhere.'}\n\n"
            f"IMPRESSION: \n\n{finding}\nFindings in keeping with {vocab.CONDITIONS[k].name}.\n"
        )
    part = {
        "patient": v["patient"][visit], "visit": visit, "time": time, "charttime": time, "note_type": "RR",
        "storetime": time + 60 * batch.integers(20, 300, n), "text": pl.Series(texts, dtype=pl.String),
        "hadm_id": np.where(no_hadm, -1, batch.hadm[visit]), "exam": exam,
    }  # fmt: skip
    films = _note_ids(batch.frame("radiology", [part]), "RR")
    fields = [pl.lit(pick([e[k] for e in vocab.EXAMS], exam)) for k in (0, 1)]
    return films, _details(films, fields, ("exam_name", "exam_code"))


COURSE = (
    "The patient was followed closely by the {service} team, which adjusted treatment each day.",
    "Home medications were reviewed with the pharmacist and continued where possible.",
    "Diet was advanced as tolerated, and electrolytes were replaced as needed.",
    "Physical examination improved steadily, and the patient remained hemodynamically stable at the end.",
    "Prophylaxis against thromboembolism was given throughout the stay.",
    "The plan was discussed with the patient and the family, who agreed with it.",
)


def discharge(batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A letter for nearly every admission, dated midnight of the last day, as MIMIC's are."""
    v = batch.v
    visit = batch.adm[batch.chance(0.96, len(batch.adm))]
    n = len(visit)
    signs = batch.signs("discharge", "end")
    shown = np.array([batch.has(s, visit) for s in signs]).T
    ages, draws = batch.course.age[v["patient"][visit]], batch.rng.random((n, len(COURSE)))
    titles = {d.icd10: d.title for d in vocab.DIAGNOSES}
    texts = [
        _letter(vocab.CONDITIONS[v["condition"][k]], int(ages[i]), bool(batch.course.female[v["patient"][k]]),
                bool(v["died"][k]), bool(v["icu"][k]), [s.item for s, on in zip(signs, shown[i], strict=True) if on],
                draws[i], titles)
        for i, k in enumerate(visit)
    ]  # fmt: skip
    time = midnight(v["out"][visit])
    part = {
        "patient": v["patient"][visit], "visit": visit, "time": time, "charttime": time, "note_type": "DS",
        "storetime": time + 33 * HOUR, "text": pl.Series(texts, dtype=pl.String),
    }  # fmt: skip
    letters = _note_ids(batch.frame("discharge", [part]), "DS")
    return letters, _details(letters, [pl.lit("___")], ("author",))


def _letter(
    c: vocab.Condition, age: int, female: bool, died: bool, icu: bool, signs: list[str], draw: NDArray[np.float64],
    titles: dict[str, str],
) -> str:  # fmt: skip
    who = f"{'woman' if female else 'man'}"
    others = [titles[code] for code in c.others]
    drugs = "\n".join(f"{k}. {name} ___ daily" for k, name in enumerate((*c.drugs, "Acetaminophen", "Senna"), 1))
    steps = " ".join(text.format(service=c.service) for text, u in zip(COURSE, draw, strict=True) if u < 0.7)
    labs = ", ".join(f"{label} high" for label in c.raised) + "; " + ", ".join(f"{label} low" for label in c.lowered)
    end = "The patient expired." if died else "The patient was discharged in stable condition."
    care = f"The patient needed intensive care in the {c.icu_unit}. " if icu else ""
    return (
        f" \nName:  ___                     Unit No:   ___\n \nSex:   {'F' if female else 'M'}\nService: {c.service}\n \n"
        f"Chief Complaint:\n{c.complaint}\n \nHistory of Present Illness:\n"
        f"This is a {age} year old {who} with {others[0].lower()} who presents with {c.complaint.lower()} for ___ days. "
        f"In the emergency department the findings were consistent with {c.name}, and the patient was admitted.\n \n"
        f"Past Medical History:\n- {others[-1]}\n- {others[0]}\n \nSocial History:\n___\n \nPertinent Results:\n{labs}\n"
        f"Imaging: {c.exams[0]} was obtained.\n \nBrief Hospital Course:\n"
        f"The patient was treated for {c.name} with {', '.join(c.drugs[:3])}. {care}{steps} {' '.join(signs)} {end}\n \n"
        f"Discharge Medications:\n{drugs}\n \nDischarge Diagnosis:\n{titles[c.diagnosis]}\n{others[0]}\n \n"
        "Discharge Instructions:\nPlease take your medications as prescribed and keep your appointments. "
        "Call your doctor or return if you have fever, chest pain, trouble breathing or other new symptoms.\n \n"
        "Followup Instructions:\n___\n"
    )
