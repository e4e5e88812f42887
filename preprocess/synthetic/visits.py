"""The course of synthetic patients: visits, stays, indicators, outcomes and the times that follow from them.

A batch of patients is drawn at once, visit by visit. Outcomes are drawn first, each from a logistic model of the visit's
indicators (`OUTCOMES` in synthetic_vocab.py); then times are set so that the label rules of the tasks read the same
outcomes from the records. docs/synthetic.md describes the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from preprocess.synthetic.vocab import CONDITIONS, OUTCOMES, PREVALENCE, SIGNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

HOUR, DAY = 3600, 86400
MAX_VISITS = 8
MAX_PATIENTS = 400_000
INDICATORS = tuple(dict.fromkeys(sign.indicator for sign in SIGNS))
EPOCH_2110 = 4_417_977_600
NO_VISIT, FIRST_ED = 0.02, 0.88
"""Share of patients without any visit, and of visits that start in the ED unless they are readmissions."""
EARLY = 0.4
"""Share of admissions from the ED that are entered before the patient leaves it."""
OBSERVED = 0.85
"""Chance of being observed for less than a day, where the hours of the visit allow it."""
MORE = 0.55
"""Chance of a further visit after one that no outcome follows."""


@dataclass
class Course:
    """A batch: arrays by patient, by visit (v_), and index arrays of the visits with an ED stay, an admission, ICU."""

    number: Ints  # of the patient in the whole data set
    age: Ints
    female: Bools
    birth_offset: Ints  # first day of the record, seconds since 1970
    dod: Ints  # midnight, -1 while alive
    visits: dict[str, NDArray]
    truth: list[tuple[str, str, Ints, Floats, Bools]]  # task, id used (ed, adm, icu), visit, probability, outcome


def score(name: str, x: Bools) -> Floats:
    outcome = OUTCOMES[name]
    return outcome.weight * x[:, [INDICATORS.index(i) for i in outcome.indicators]].sum(axis=1)


def probability(score: Floats, threshold: float) -> Floats:
    return 1 / (1 + np.exp(threshold - score))


def midnight(times: Ints) -> Ints:
    return times // DAY * DAY


def simulate(seed: int, batch: int, size: int) -> Course:
    """Draw the patients of one batch; the same seed, batch and size give the same patients."""
    rng = np.random.default_rng([seed, batch])
    number = batch * size + np.arange(size)
    first = EPOCH_2110 + rng.integers(0, 80 * 365, size) * DAY
    course = Course(
        number, rng.integers(18, 90, size), rng.random(size) < 0.48, first, np.full(size, -1), {}, []
    )  # fmt: skip
    habit = rng.choice(len(CONDITIONS), size, p=_weights())
    patient = np.flatnonzero(rng.random(size) >= NO_VISIT)
    time = first[patient] + rng.integers(5 * DAY, 400 * DAY, len(patient))
    direct = rng.random(len(patient)) >= FIRST_ED
    rounds: list[dict[str, NDArray]] = []
    for _ in range(MAX_VISITS):
        if not len(patient):
            break
        visit, patient, time, direct = _visit(rng, course, patient, time, direct, habit)
        rounds.append(visit)
    if len(patient):  # no visit follows the last round's
        rounds[-1]["back"][:] = 0
        rounds[-1]["reattend"][:] = False
    visits = {key: np.concatenate([r[key] for r in rounds]) for key in rounds[0]}
    order = np.lexsort((visits["start"], visits["patient"]))
    course.visits = {key: values[order] for key, values in visits.items()}
    _truth(course)
    return course


def _weights() -> Floats:
    weights = np.array([c.weight for c in CONDITIONS])
    return weights / weights.sum()


def _visit(
    rng: np.random.Generator, course: Course, patient: Ints, start: Ints, direct: Bools, habit: Ints
) -> tuple[dict[str, NDArray], Ints, Ints, Bools]:
    """One visit of each of these patients, and who comes again when, and whether straight to a ward."""
    n = len(patient)

    def uniform(low: float, high: float) -> Floats:
        return rng.uniform(low, high, n)

    def logistic() -> Floats:
        return rng.logistic(size=n)

    start = start // 60 * 60
    condition = np.where(rng.random(n) < 0.5, habit[patient], rng.choice(len(CONDITIONS), n, p=_weights()))
    lean = np.array([c.icu for c in CONDITIONS])[condition]
    x = rng.random((n, len(INDICATORS))) < PREVALENCE

    # the ED, and whether it leads to a ward and to intensive care
    ed = ~direct
    ed_out = (start + HOUR * uniform(6, 11.5)).astype(np.int64)
    hospital = direct | (score("hospital", x) + logistic() > OUTCOMES["hospital"].thresholds[0])
    early = ed & hospital & (rng.random(n) < EARLY)
    admit = np.where(ed, ed_out + (60 * np.where(early, -uniform(15, 80), uniform(1, 12))).astype(np.int64), start)
    base = np.where(ed, ed_out, admit)
    p_transfer = probability(score("transfer", x) + lean, OUTCOMES["transfer"].thresholds[0])
    transfer = hospital & (rng.random(n) < p_transfer)
    stay = score("stay", x) + logistic()
    kind = (stay[:, None] > np.array(OUTCOMES["stay"].thresholds)).sum(axis=1)  # 0: < 3 days ... 4: >= 14 days in ICU
    late = hospital & ~transfer & (kind > 0) & (rng.random(n) < 0.04)
    # an observation stay goes over midnight and ends within a day of the arrival in the ED
    short_out = (start + HOUR * uniform(22.5, 23.7)).astype(np.int64)
    observed = ed & hospital & ~transfer & ~late & (midnight(short_out) >= admit + 4 * HOUR) & (rng.random(n) < OBSERVED)
    icu = transfer | late
    icu_in = base + (HOUR * np.where(late, uniform(14, 50), uniform(0.3, 8))).astype(np.int64)
    # dod is a date: an hour after midnight keeps the window's end and the death on the sides drawn
    icu_in = np.where(icu_in % DAY < 1.2 * HOUR, icu_in + int(1.2 * HOUR), icu_in)

    # lengths of stay by class, in days
    icu_days = np.choose(kind, [uniform(1.02, 1.3), uniform(1.1, 2), uniform(2, 6), uniform(7.1, 11), uniform(14.1, 16.5)])
    days = np.choose(kind, [uniform(1.15, 2.9), uniform(3.1, 6.8), uniform(7.1, 11), uniform(7.5, 13), uniform(12, 20)])
    days = np.where(icu & (kind == 0), uniform(1.6, 2.9), days)
    days = np.where(icu & (kind == 1), uniform(4.8, 6.8), days)
    icu_out = (icu_in + DAY * icu_days).astype(np.int64)
    out = (admit + DAY * days).astype(np.int64)
    out = np.where(observed, short_out, out)
    out = np.where(icu, np.maximum(out, icu_out + (HOUR * uniform(8, 40)).astype(np.int64) * (kind > 1) + 2 * HOUR), out)

    # death: its class counts the ICU mortality tasks that say yes, from the first day in intensive care
    death = score("death", x) + logistic()
    dying = (death[:, None] > np.array(OUTCOMES["death"].thresholds)).sum(axis=1) * icu
    ward_death = hospital & ~icu & (score("ward death", x) + logistic() > OUTCOMES["ward death"].thresholds[0])
    after = np.choose(dying, [np.zeros(n), uniform(7, 14), uniform(3, 7), np.full(n, 2), np.ones(n), np.zeros(n)])
    dod = midnight(icu_in + 2 * DAY - 1) + after.astype(np.int64) * DAY
    death_time = np.where(dying > 0, dod + (HOUR * uniform(0.7, 22)).astype(np.int64), out)
    died = (dying > 0) | ward_death
    dod = np.where(died, midnight(death_time), -1)
    out = np.where(died, death_time, out)
    icu_out = np.where(died & (icu_out > death_time - 6 * HOUR), death_time, icu_out)

    # back to intensive care, for those whose week is sure
    again_in = icu_out + (HOUR * uniform(5, 9)).astype(np.int64)
    again_out = again_in + (HOUR * np.where(kind == 0, uniform(10, 16), uniform(25, 40))).astype(np.int64)
    p_again = probability(score("icu return", x), OUTCOMES["icu return"].thresholds[0])
    again = icu & (dying < 2) & (again_out + HOUR < np.where(died, out, again_out + 2 * HOUR)) & (rng.random(n) < p_again)
    out = np.where(again & ~died, np.maximum(out, again_out + 2 * HOUR), out)

    # what comes next
    readmission = score("readmission", x) + logistic()
    back = (readmission[:, None] > np.array(OUTCOMES["readmission"].thresholds)).sum(axis=1) * (hospital & ~died)
    reattend = ed & ~hospital & (score("reattendance", x) + logistic() > OUTCOMES["reattendance"].thresholds[0])
    more = rng.random(n) < MORE
    note = midnight(out)
    far = np.where(hospital, out, ed_out) + DAY * np.where(hospital, uniform(63, 420), uniform(4, 300))
    next_time = np.select(
        [back == 2, back == 1, reattend],
        [note + DAY * uniform(4, 29), note + DAY * uniform(31, 59), ed_out + HOUR * uniform(5, 66)],
        far,
    ).astype(np.int64)
    comes = ~died & ((back > 0) | reattend | more)
    next_direct = (back > 0) | (~reattend & (rng.random(n) >= FIRST_ED))
    course.dod[patient[died]] = dod[died]
    # some of the others die at home, long after any window
    gone = ~died & ~comes & (rng.random(n) < 0.07)
    later = midnight(np.where(hospital, out, ed_out)) + (DAY * uniform(20, 365)).astype(np.int64)
    course.dod[patient[gone]] = midnight(later[gone])

    visit = {
        "patient": patient, "start": start, "condition": condition, "x": x, "ed": ed, "ed_out": ed_out,
        "hospital": hospital, "admit": admit, "out": out, "died": died & hospital, "icu": icu, "icu_in": icu_in,
        "icu_out": icu_out, "again": again, "again_in": again_in, "again_out": again_out, "transfer": transfer,
        "late": late, "observed": observed, "early": early, "dying": dying, "back": back, "reattend": reattend,
        "lean": lean,
    }  # fmt: skip
    return visit, patient[comes], next_time[comes], next_direct[comes]


LOS_IF_DYING = {"LengthOfStay_3day": (1.0, 1.0, 1.0, 0.68, 0.02), "LengthOfStay_7day": (1.0, 0.42, 0.0, 0.0, 0.0)}
"""Chance of a long stay for those who die in days 7-14, 3-7, 3, 2 and 1 of intensive care, measured on 15,000 patients."""


def _truth(course: Course) -> None:
    """The probability, given the indicators, with which each outcome was drawn."""
    v = course.visits
    x, lean = v["x"], v["lean"]
    every = np.arange(len(x))

    def p(name: str, k: int = 0) -> Floats:
        return probability(score(name, x) + (lean if name == "transfer" else 0), OUTCOMES[name].thresholds[k])

    def add(task: str, stay: str, keep: Bools, chance: Floats, outcome: Bools) -> None:
        course.truth.append((task, stay, every[keep], chance[keep], outcome[keep]))

    los = v["out"] - v["admit"]
    icu_los = v["icu_out"] - v["icu_in"]
    in_hospital = v["hospital"]
    ed, icu = v["ed"], v["icu"]
    icu_death = [p("death", k) for k in range(5)]  # thresholds go from 1 day to 14 days
    ed_death = p("transfer") * icu_death[4] + (1 - p("transfer")) * p("ward death")
    critical = p("transfer") + (1 - p("transfer")) * p("ward death")
    # an early admission is in the ED window; without one, the indicators say how likely a later one is
    unseen = (1 - EARLY) * p("hospital")
    admitted = np.where(v["early"], 1.0, unseen / (1 - p("hospital") + unseen))
    add("ED_Hospitalization", "ed", ed, admitted, in_hospital)
    add("ED_ICU_Tranfer_12hour", "ed", ed, p("transfer") * admitted, v["transfer"])
    add("ED_Inpatient_Mortality", "ed", ed, ed_death * admitted, v["died"])
    add("ED_Critical_Outcomes", "ed", ed, critical * admitted, v["transfer"] | v["died"])
    add("ED_Reattendance_3day", "ed", ed, p("reattendance") * (1 - admitted), v["reattend"])
    add("Inpatient_Mortality", "adm", in_hospital, np.where(icu, icu_death[4], p("ward death")), v["died"])
    classes = np.diff(np.vstack([np.zeros(len(x)), *icu_death]), axis=0)[::-1]  # dies in days 7-14, 3-7, 3, 2, 1
    for k, (task, if_dying) in enumerate(LOS_IF_DYING.items()):
        cut_short = sum(chance * group for chance, group in zip(if_dying, classes, strict=True))
        chance = np.where(icu, p("stay", k) * (1 - icu_death[4]) + cut_short, p("stay", k))
        add(task, "adm", in_hospital & ~v["observed"], chance, los > (3, 7)[k] * DAY)
    for k, days in enumerate((1, 2, 3, 7, 14)):
        add(f"ICU_Mortality_{days}day", "icu", icu, icu_death[k], v["dying"] >= 5 - k)
    add("ICU_Stay_7day", "icu", icu, p("stay", 2) * (1 - icu_death[3]), icu_los >= 7 * DAY)
    add("ICU_Stay_14day", "icu", icu, p("stay", 3) * (1 - icu_death[4]), icu_los >= 14 * DAY)
    add("ICU_Readmission", "icu", icu, p("icu return") * (1 - icu_death[3]), v["again"])
    alive = in_hospital & ~v["died"]
    add("Readmission_30day", "adm", alive, p("readmission", 0), v["back"] == 2)
    add("Readmission_60day", "adm", alive, p("readmission", 1), v["back"] >= 1)
