"""The hidden truth of a synthetic batch: the probability of every outcome, and what it is made of.

Given the indicators of its visit, the probability of an outcome is a sum of terms, each a coefficient times the
probabilities of independent events. The log-odds of an event are a sum over its causes: an intercept and the indicators,
whose signs the records show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from preprocess.synthetic.batch import table
from preprocess.synthetic.visits import DAY, EARLY, ICU_LOG_ODDS, sigmoid
from preprocess.synthetic.vocab import INDICATORS, OUTCOMES, SIGNS

if TYPE_CHECKING:
    from preprocess.synthetic.batch import Batch
    from preprocess.synthetic.visits import Bools, Floats, Ints, Visits

# probability of a long stay of those who die in days 7-14, 3-7, 3, 2 and 1 of intensive care, measured on 15,000 patients
LONG_STAY_IF_DYING = {"LengthOfStay_3day": (1.0, 1.0, 1.0, 0.68, 0.02), "LengthOfStay_7day": (1.0, 0.42, 0.0, 0.0, 0.0)}
# cause that decides an event: the window of the ED task holds the admission
IN_RECORD = "admission in the record"
# where the record shows a cause in a window
PLACES = {(s.indicator, s.window): {"table": s.table, "item": s.item, "value": s.value or None} for s in SIGNS}
PLACES[IN_RECORD, "ed"] = {"table": "admissions", "item": "admittime"}


class RandomEvent(NamedTuple):
    """An event and, for every visit, the log-odds that each cause adds."""

    name: str
    log_odds: dict[str, Floats]

    @property
    def probability(self) -> Floats:
        return sigmoid(sum(self.log_odds.values()))

    def __invert__(self) -> RandomEvent:
        """The event that this one does not happen."""
        return RandomEvent(f"not {self.name}", {cause: -values for cause, values in self.log_odds.items()})


class Term(NamedTuple):
    """A coefficient for every visit, and the events whose probabilities it is multiplied by."""

    coefficient: Floats
    events: tuple[RandomEvent, ...]


@dataclass(frozen=True)
class DrawnOutcome:
    """The outcomes drawn for a task."""

    task: str
    window: str  # of the signs (`vocab.Sign`) that the task's input shows
    visits: Ints  # positions of the visits that have an outcome
    outcome: Bools  # one value for each of `visits`
    terms: list[Term]  # of the probability, over all visits of the batch

    @property
    def probability(self) -> Floats:
        """Probability of yes for each of `visits`."""
        terms = (term.coefficient * np.prod([event.probability for event in term.events], axis=0) for term in self.terms)
        return sum(terms)[self.visits]


def make_tables(batch: Batch) -> dict[str, pl.DataFrame]:
    """The rows of synthetic_truth.csv, by task, and of synthetic_causes.csv, by visit."""
    visits = batch.visits
    no_stay = np.full(len(visits.start), -1)
    first_icu_stay = no_stay.copy()
    first_icu_stay[batch.icu[::-1]] = batch.icu_stay[::-1]
    stays = {"ed": batch.ed_stay, "icu": first_icu_stay}

    def rows(drawn: DrawnOutcome, at: Ints, **columns: Any) -> pl.DataFrame:
        stay_id = stays.get(drawn.window, no_stay)[at]
        return batch.rows(at, visits.start[at], stay_id=stay_id, task=drawn.task, **columns)

    truth, causes = [], []
    for drawn in drawn_outcomes(visits):
        truth.append(rows(drawn, drawn.visits, probability=drawn.probability, outcome=drawn.outcome.astype(np.int64)))
        for number, term in enumerate(drawn.terms, 1):
            for event in term.events:
                for cause, log_odds in event.log_odds.items():
                    at = drawn.visits[(term.coefficient[drawn.visits] != 0) & (log_odds[drawn.visits] != 0)]
                    names = {"term": str(number), "event": event.name, "cause": cause, **PLACES.get((cause, drawn.window), {})}
                    values = {"coefficient": term.coefficient[at], "log_odds": log_odds[at]}
                    causes.append(rows(drawn, at, condition=batch.of_condition("name", at), **names, **values))
    return {"synthetic_truth": pl.concat(truth), "synthetic_causes": table(*causes)}


def drawn_outcomes(visits: Visits) -> list[DrawnOutcome]:
    """All outcomes of a batch, by task."""
    number = len(visits.start)
    always = np.ones(number)
    icu, ward = visits.icu.astype(float), 1.0 - visits.icu

    def event(name: str, k: int = 0) -> RandomEvent:
        outcome = OUTCOMES[name]
        log_odds = {"intercept": np.full(number, -outcome.thresholds[k])}
        for indicator in outcome.indicators:
            log_odds[indicator] = outcome.weight * visits.indicators[:, INDICATORS.index(indicator)]
        return RandomEvent(outcome.events[k], log_odds)

    def product(*events: RandomEvent) -> list[Term]:
        return [Term(always, events)]

    transfer = event("transfer")
    transfer.log_odds["condition"] = ICU_LOG_ODDS[visits.condition]
    ward_death, second_icu, reattendance = event("ward death"), event("icu return"), event("reattendance")
    deaths = [event("death", k) for k in range(5)]  # thresholds go from 1 day to 14 days
    # the ED window holds an early admission; without one, the indicators say how likely a later one is
    admission = event("hospital")
    log_odds = admission.log_odds | {"no admission in the record": np.full(number, np.log(1 - EARLY))}
    log_odds = {cause: np.where(visits.early, 0, values) for cause, values in log_odds.items()}
    admission = RandomEvent(admission.name, log_odds | {IN_RECORD: np.where(visits.early, np.inf, 0)})

    outcomes: list[DrawnOutcome] = []

    def add(task: str, window: str, holders: Bools, outcome: Bools, terms: list[Term]) -> None:
        at = np.flatnonzero(holders)
        outcomes.append(DrawnOutcome(task, window, at, outcome[at], terms))

    on_ward = (~transfer, ward_death, admission)
    add("ED_Hospitalization", "ed", visits.ed, visits.hospital, product(admission))
    add("ED_ICU_Tranfer_12hour", "ed", visits.ed, visits.transfer, product(transfer, admission))
    terms = [Term(always, (transfer, deaths[4], admission)), Term(always, on_ward)]
    add("ED_Inpatient_Mortality", "ed", visits.ed, visits.died, terms)
    terms = [Term(always, (transfer, admission)), Term(always, on_ward)]
    add("ED_Critical_Outcomes", "ed", visits.ed, visits.transfer | visits.died, terms)
    add("ED_Reattendance_3day", "ed", visits.ed, visits.reattended, product(reattendance, ~admission))
    terms = [Term(icu, (deaths[4],)), Term(ward, (ward_death,))]
    add("Inpatient_Mortality", "adm", visits.hospital, visits.died, terms)
    for k, (task, if_dying) in enumerate(LONG_STAY_IF_DYING.items()):
        stay = event("stay", k)
        # death in days 3-7 is death within 7 days minus death within 3 days, and so on
        shares = np.diff(if_dying, prepend=0.0).round(6)
        cut_short = [Term(share * icu, (death,)) for share, death in zip(shares, deaths[::-1], strict=True) if share]
        terms = [Term(ward, (stay,)), Term(icu, (stay, ~deaths[4])), *cut_short]
        long_stay = visits.out - visits.admit > (3, 7)[k] * DAY
        add(task, "adm", visits.hospital & ~visits.observed, long_stay, terms)
    for k, days in enumerate((1, 2, 3, 7, 14)):
        add(f"ICU_Mortality_{days}day", "icu", visits.icu, visits.death_class >= 5 - k, product(deaths[k]))
    for k, days in ((2, 7), (3, 14)):
        long_stay = visits.icu_out - visits.icu_in >= days * DAY
        add(f"ICU_Stay_{days}day", "icu", visits.icu, long_stay, product(event("stay", k), ~deaths[k + 1]))
    add("ICU_Readmission", "icu", visits.icu, visits.second_icu, product(second_icu, ~deaths[3]))
    alive = visits.hospital & ~visits.died
    add("Readmission_30day", "end", alive, visits.readmission_class == 2, product(event("readmission", 0)))
    add("Readmission_60day", "end", alive, visits.readmission_class >= 1, product(event("readmission", 1)))
    return outcomes
