"""The course of synthetic patients: visits, stays, indicators, outcomes and the times that follow from them.

A batch of patients is drawn at once, visit by visit. Outcomes are drawn first, each from a logistic model of the visit's
indicators (`vocab.OUTCOMES`); then times are set so that the label rules of the tasks read the same outcomes from the
records. docs/synthetic.md describes the process. Times are in seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from preprocess.synthetic.vocab import CONDITIONS, INDICATORS, OUTCOMES, PREVALENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

HOUR, DAY = 3600, 86400
MAX_VISITS = 8
EPOCH_2110 = 4_417_977_600
NO_VISIT = 0.02  # share of patients without any visit
FIRST_ED = 0.88  # share of visits that start in the ED unless they are readmissions
EARLY = 0.4  # share of admissions from the ED that are entered before the patient leaves it
OBSERVED = 0.85  # probability of being observed for less than a day, where the hours of the visit allow it
RETURNS = 0.55  # probability of a further visit after one that no outcome follows
ICU_LOG_ODDS = np.array([condition.icu_log_odds for condition in CONDITIONS])


@dataclass
class Visits:
    """Visits of a batch: aligned arrays, sorted by patient and start. Times of stays that do not exist are arbitrary."""

    patient: Ints  # position in the batch
    start: Ints  # arrival
    condition: Ints  # position in `vocab.CONDITIONS`
    indicators: Bools  # visits × `vocab.INDICATORS`
    ed: Bools  # whether the visit starts in the ED
    ed_out: Ints
    hospital: Bools  # whether the patient is admitted
    admit: Ints
    out: Ints
    died: Bools  # in the hospital
    early: Bools  # the admission is entered before the patient leaves the ED
    observed: Bools  # admitted for observation, less than a day
    icu: Bools  # whether there is an ICU stay
    icu_in: Ints
    icu_out: Ints
    second_icu: Bools  # whether there is a second one
    second_icu_in: Ints
    second_icu_out: Ints
    transfer: Bools  # the ICU stay starts within 12 hours of the ED stay
    death_class: Ints  # number of ICU mortality tasks whose answer is yes; 5 is death within a day
    readmission_class: Ints  # 2 if readmitted within 30 days, 1 if within 60 days, else 0
    reattended: Bools  # back in the ED within 3 days

    @classmethod
    def concatenate(cls, rounds: list[Visits]) -> Visits:
        """All visits of several rounds, sorted by patient and start."""
        columns = {field.name: np.concatenate([getattr(r, field.name) for r in rounds]) for field in fields(cls)}
        order = np.lexsort((columns["start"], columns["patient"]))
        return cls(**{name: values[order] for name, values in columns.items()})


@dataclass
class Course:
    """A batch of patients and their visits."""

    number: Ints  # position of the patient in the whole data set
    age: Ints
    female: Bools
    first_day: Ints  # of the record
    dod: Ints  # midnight of the day of death, -1 while alive
    visits: Visits


def midnight(times: Ints) -> Ints:
    """The start of the day of each time."""
    return times // DAY * DAY


def score(name: str, indicators: Bools) -> Floats:
    """The score of an outcome: weight × number of its indicators that a visit has."""
    outcome = OUTCOMES[name]
    return outcome.weight * indicators[:, [INDICATORS.index(i) for i in outcome.indicators]].sum(axis=1)


def sigmoid(log_odds: Floats) -> Floats:
    """Probability from log-odds."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-log_odds))


def simulate(seed: int, index: int, size: int) -> Course:
    """Draw the patients of batch `index`; the same seed, index and size give the same patients."""
    rng = np.random.default_rng([seed, index])
    first_day = EPOCH_2110 + rng.integers(0, 80 * 365, size) * DAY
    age, female = rng.integers(18, 90, size), rng.random(size) < 0.48
    usual_condition = _conditions(rng, size)
    patient = np.flatnonzero(rng.random(size) >= NO_VISIT)
    start = first_day[patient] + rng.integers(5 * DAY, 400 * DAY, len(patient))
    direct = rng.random(len(patient)) >= FIRST_ED
    dod = np.full(size, -1)
    rounds: list[Visits] = []
    for _ in range(MAX_VISITS):
        visits, patient, start, direct = _next_visits(rng, dod, patient, start, direct, usual_condition)
        rounds.append(visits)
    if len(patient):  # no visit follows those of the last round
        rounds[-1].readmission_class[:] = 0
        rounds[-1].reattended[:] = False
    return Course(index * size + np.arange(size), age, female, first_day, dod, Visits.concatenate(rounds))


def _conditions(rng: np.random.Generator, number: int) -> Ints:
    weights = np.array([condition.weight for condition in CONDITIONS])
    return rng.choice(len(CONDITIONS), number, p=weights / weights.sum())


def _next_visits(
    rng: np.random.Generator, dod: Ints, patient: Ints, start: Ints, direct: Bools, usual_condition: Ints
) -> tuple[Visits, Ints, Ints, Bools]:
    """Draw the next visit of each of these patients; dates of death are written into `dod`.

    Args:
        patient, start, direct: who comes, when, and whether straight to a ward.
        usual_condition: of every patient of the batch.

    Returns:
        The visits, then `patient`, `start` and `direct` of the visits after them.
    """
    n = len(patient)

    uniform = partial(rng.uniform, size=n)

    def exceeded(name: str) -> Ints:
        """The number of thresholds of an outcome that score + noise exceed."""
        values = score(name, indicators) + rng.logistic(size=n)
        return (values[:, None] > np.array(OUTCOMES[name].thresholds)).sum(axis=1)

    start = start // 60 * 60
    condition = np.where(rng.random(n) < 0.5, usual_condition[patient], _conditions(rng, n))
    indicators = rng.random((n, len(INDICATORS))) < PREVALENCE

    # the ED, and whether it leads to a ward and to intensive care
    ed = ~direct
    ed_out = (start + HOUR * uniform(6, 11.5)).astype(np.int64)
    hospital = direct | (exceeded("hospital") > 0)
    early = ed & hospital & (rng.random(n) < EARLY)
    minutes = np.where(early, -uniform(15, 80), uniform(1, 12))
    admit = np.where(ed, ed_out + (60 * minutes).astype(np.int64), start)
    transfer_score = score("transfer", indicators) + ICU_LOG_ODDS[condition]
    transfer = hospital & (rng.random(n) < sigmoid(transfer_score - OUTCOMES["transfer"].thresholds[0]))
    stay_class = exceeded("stay")  # 0: less than 3 days ... 4: 14 days or more in intensive care
    late = hospital & ~transfer & (stay_class > 0) & (rng.random(n) < 0.04)
    # an observation stay goes over midnight and ends within a day of the arrival in the ED
    short_out = (start + HOUR * uniform(22.5, 23.7)).astype(np.int64)
    observed = ed & hospital & ~transfer & ~late & (midnight(short_out) >= admit + 4 * HOUR) & (rng.random(n) < OBSERVED)
    icu = transfer | late
    hours = np.where(late, uniform(14, 50), uniform(0.3, 8))
    icu_in = np.where(ed, ed_out, admit) + (HOUR * hours).astype(np.int64)
    # dod is a date: an hour after midnight keeps the window's end and the death on the sides drawn
    icu_in = np.where(icu_in % DAY < 1.2 * HOUR, icu_in + int(1.2 * HOUR), icu_in)

    # lengths of stay by class, in days
    icu_days = [uniform(1.02, 1.3), uniform(1.1, 2), uniform(2, 6), uniform(7.1, 11), uniform(14.1, 16.5)]
    days = [uniform(1.15, 2.9), uniform(3.1, 6.8), uniform(7.1, 11), uniform(7.5, 13), uniform(12, 20)]
    days = np.choose(stay_class, days)
    days = np.where(icu & (stay_class == 0), uniform(1.6, 2.9), days)
    days = np.where(icu & (stay_class == 1), uniform(4.8, 6.8), days)
    icu_out = (icu_in + DAY * np.choose(stay_class, icu_days)).astype(np.int64)
    out = np.where(observed, short_out, (admit + DAY * days).astype(np.int64))
    on_ward = (HOUR * uniform(8, 40)).astype(np.int64) * (stay_class > 1) + 2 * HOUR
    out = np.where(icu, np.maximum(out, icu_out + on_ward), out)

    # death: on the ward, or in a class of days after the first day in intensive care
    death_class = exceeded("death") * icu
    ward_death = hospital & ~icu & (exceeded("ward death") > 0)
    day = np.choose(death_class, [np.zeros(n), uniform(7, 14), uniform(3, 7), np.full(n, 2), np.ones(n), np.zeros(n)])
    death_day = midnight(icu_in + 2 * DAY - 1) + day.astype(np.int64) * DAY
    death_time = np.where(death_class > 0, death_day + (HOUR * uniform(0.7, 22)).astype(np.int64), out)
    died = (death_class > 0) | ward_death
    out = np.where(died, death_time, out)
    icu_out = np.where(died & (icu_out > death_time - 6 * HOUR), death_time, icu_out)
    dod[patient[died]] = midnight(death_time)[died]

    # a second ICU stay, for those who surely live for another week
    second_in = icu_out + (HOUR * uniform(5, 9)).astype(np.int64)
    second_out = second_in + (HOUR * np.where(stay_class == 0, uniform(10, 16), uniform(25, 40))).astype(np.int64)
    fits = second_out + HOUR < np.where(died, out, second_out + 2 * HOUR)
    p_second = sigmoid(score("icu return", indicators) - OUTCOMES["icu return"].thresholds[0])
    second = icu & (death_class < 2) & fits & (rng.random(n) < p_second)
    out = np.where(second & ~died, np.maximum(out, second_out + 2 * HOUR), out)

    # the next visit
    readmission_class = exceeded("readmission") * (hospital & ~died)
    reattended = ed & ~hospital & (exceeded("reattendance") > 0)
    returns = rng.random(n) < RETURNS
    much_later = np.where(hospital, out, ed_out) + DAY * np.where(hospital, uniform(63, 420), uniform(4, 300))
    next_start = np.select(
        [readmission_class == 2, readmission_class == 1, reattended],
        [midnight(out) + DAY * uniform(4, 29), midnight(out) + DAY * uniform(31, 59), ed_out + HOUR * uniform(5, 66)],
        much_later,
    ).astype(np.int64)
    comes = ~died & ((readmission_class > 0) | reattended | returns)
    next_direct = (readmission_class > 0) | (~reattended & (rng.random(n) >= FIRST_ED))
    # some of the others die at home, long after any window
    dies_at_home = ~died & ~comes & (rng.random(n) < 0.07)
    home_death = midnight(np.where(hospital, out, ed_out)) + (DAY * uniform(20, 365)).astype(np.int64)
    dod[patient[dies_at_home]] = midnight(home_death[dies_at_home])

    stays = (ed, ed_out, hospital, admit, out, died & hospital, early, observed, icu, icu_in, icu_out)
    later = (second, second_in, second_out, transfer, death_class, readmission_class, reattended)
    visits = Visits(patient, start, condition, indicators, *stays, *later)
    return visits, patient[comes], next_start[comes], next_direct[comes]
