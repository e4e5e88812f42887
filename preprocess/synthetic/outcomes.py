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

from preprocess.synthetic.batch import pick
from preprocess.synthetic.visits import DAY, EARLY, ICU_LOG_ODDS, sigmoid
from preprocess.synthetic.vocab import CONDITIONS, INDICATORS, OUTCOMES, SIGNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preprocess.synthetic.batch import Batch
    from preprocess.synthetic.visits import Bools, Floats, Ints, Visits

TRUTH_COLUMNS = ("subject_id", "hadm_id", "stay_id", "task", "probability", "outcome")
CAUSE_COLUMNS = ("subject_id", "hadm_id", "stay_id", "task", "condition", "term", "coefficient", "event", "cause", "log_odds",
                 "table", "item", "value")  # fmt: skip
LONG_STAY_IF_DYING = {"LengthOfStay_3day": (1.0, 1.0, 1.0, 0.68, 0.02), "LengthOfStay_7day": (1.0, 0.42, 0.0, 0.0, 0.0)}
"""Probability of a long stay of those who die in days 7-14, 3-7, 3, 2 and 1 of intensive care, measured on 15,000 patients."""
IN_RECORD = "admission in the record"
"""Cause that decides an event: the window of the ED task holds the admission."""
PLACES = {(sign.indicator, sign.window): (sign.table, sign.item, sign.value or None) for sign in SIGNS}
PLACES[IN_RECORD, "ed"] = ("admissions", "admittime", None)
"""Where the record shows a cause in a window: table, item and value."""


class Event(NamedTuple):
    """An event and, for every visit, the log-odds that each cause adds."""

    name: str
    log_odds: dict[str, Floats]

    @property
    def probability(self) -> Floats:
        return sigmoid(sum(self.log_odds.values()))

    def __invert__(self) -> Event:
        """The event that this one does not happen."""
        return Event(f"not {self.name}", {cause: -values for cause, values in self.log_odds.items()})


class Term(NamedTuple):
    """A coefficient for every visit, and the events whose probabilities it is multiplied by."""

    coefficient: Floats
    events: tuple[Event, ...]


@dataclass(frozen=True)
class DrawnOutcome:
    """The outcomes drawn for a task.

    Attributes:
        task: name of the task.
        window: window of the signs (`vocab.Sign`) that the task's input shows.
        visits: positions of the visits that have an outcome.
        outcome: one value for each of `visits`.
        terms: of the probability, over all visits of the batch.
    """

    task: str
    window: str
    visits: Ints
    outcome: Bools
    terms: list[Term]

    @property
    def probability(self) -> Floats:
        """Probability of yes for each of `visits`."""
        products = (np.prod([event.probability for event in term.events], axis=0) for term in self.terms)
        total = sum(term.coefficient * product for term, product in zip(self.terms, products, strict=True))
        return total[self.visits]


def drawn_outcomes(visits: Visits) -> list[DrawnOutcome]:
    """All outcomes of a batch, by task."""
    number = len(visits.start)
    always = np.ones(number)
    icu, ward = visits.icu.astype(float), 1.0 - visits.icu

    def event(name: str, k: int = 0) -> Event:
        outcome = OUTCOMES[name]
        log_odds = {"intercept": np.full(number, -outcome.thresholds[k])}
        for indicator in outcome.indicators:
            log_odds[indicator] = outcome.weight * visits.indicators[:, INDICATORS.index(indicator)]
        return Event(outcome.events[k], log_odds)

    def product(*events: Event) -> list[Term]:
        return [Term(always, events)]

    transfer = event("transfer")
    transfer.log_odds["condition"] = ICU_LOG_ODDS[visits.condition]
    ward_death, second_icu, reattendance = event("ward death"), event("icu return"), event("reattendance")
    deaths = [event("death", k) for k in range(5)]  # thresholds go from 1 day to 14 days
    # the ED window holds an early admission; without one, the indicators say how likely a later one is
    admission = event("hospital")
    log_odds = admission.log_odds | {"no admission in the record": np.full(number, np.log(1 - EARLY))}
    log_odds = {cause: np.where(visits.early, 0, values) for cause, values in log_odds.items()}
    admission = Event(admission.name, log_odds | {IN_RECORD: np.where(visits.early, np.inf, 0)})

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


# --- the two files


def truth_tables(batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of synthetic_truth.csv, by task, and of synthetic_causes.csv, by visit, of patients that are kept."""
    visits = batch.visits
    kept = visits.patient < batch.keep
    first_icu_stay = np.full(len(kept), -1)
    first_icu_stay[batch.icu[::-1]] = batch.icu_stay[::-1]
    ids = pl.DataFrame(
        {
            "subject_id": batch.subject[visits.patient],
            "hadm_id": batch.hadm,
            "ed": batch.ed_stay,
            "icu": first_icu_stay,
            "condition": pick([condition.name for condition in CONDITIONS], visits.condition),
        }
    )
    truth, causes = _Rows(ids), _Rows(ids)
    for drawn in drawn_outcomes(visits):
        shown = kept[drawn.visits]
        at = drawn.visits[shown]
        truth.add(at, drawn, probability=drawn.probability[shown], outcome=drawn.outcome[shown].astype(np.int64))
        for number, term in enumerate(drawn.terms, 1):
            for event in term.events:
                for cause, log_odds in event.log_odds.items():
                    acting = at[(term.coefficient[at] != 0) & (log_odds[at] != 0)]
                    labels = {"term": number, "event": event.name, "cause": cause}
                    place = dict(zip(("table", "item", "value"), PLACES.get((cause, drawn.window), (None,) * 3), strict=True))
                    columns = {"coefficient": term.coefficient[acting], "log_odds": log_odds[acting]}
                    causes.add(acting, drawn, labels | place, **columns)
    return truth.table(TRUTH_COLUMNS), causes.table(CAUSE_COLUMNS, by_visit=True)


class _Rows:
    """Rows of a table of outcomes, collected in groups that share a task.

    Args:
        ids: one row for each visit: subject_id, hadm_id, stay_id by window, condition.
    """

    def __init__(self, ids: pl.DataFrame) -> None:
        self.ids = ids
        self.visits: list[Ints] = []
        self.columns: list[dict[str, NDArray]] = []
        self.labels: list[dict[str, Any]] = []

    def add(self, visits: Ints, drawn: DrawnOutcome, labels: dict[str, Any] | None = None, **columns: NDArray) -> None:
        """Add rows of `visits` with these columns; `labels` have one value for all of them."""
        self.visits.append(visits)
        self.columns.append(columns)
        self.labels.append({"task": drawn.task, "window": drawn.window} | (labels or {}))

    def table(self, names: tuple[str, ...], by_visit: bool = False) -> pl.DataFrame:
        """All rows, in the order in which they were added, or by visit."""
        visits = np.concatenate(self.visits)
        group = np.repeat(np.arange(len(self.visits)), [len(at) for at in self.visits])
        values = {name: np.concatenate([columns[name] for columns in self.columns]) for name in self.columns[0]}
        order = np.argsort(visits, kind="stable") if by_visit else np.arange(len(visits))
        parts = [
            self.ids[visits[order]],
            pl.DataFrame(self.labels, infer_schema_length=None)[group[order]],
            pl.DataFrame(values)[order],
        ]
        window, hadm_id = pl.col("window"), pl.col("hadm_id")
        stay_id = pl.when(window == "ed").then("ed").when(window == "icu").then("icu")
        table = pl.concat(parts, how="horizontal")
        return table.with_columns(stay_id=stay_id, hadm_id=pl.when(hadm_id >= 0).then(hadm_id)).select(names)
