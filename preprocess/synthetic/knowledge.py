"""The medicine of the synthetic world: what the vocabulary says about conditions, as statements of a knowledge graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from preprocess.synthetic.emergency import PYXIS_NAMES
from preprocess.synthetic.vocab import CONDITIONS, DIAGNOSES, DRUGS


class Concept(NamedTuple):
    """A concept of the synthetic world; `kind` is disease, drug, test or category."""

    kind: str
    name: str


class Statement(NamedTuple):
    """`subject` `relation` `object`, as in "Aspirin may treat Non-ST elevation (NSTEMI) myocardial infarction"."""

    subject: Concept
    relation: str
    object: Concept


def statements() -> Iterator[Statement]:
    """Everything that is known about the conditions: their drugs, laboratory tests, comorbidities and diagnosis categories."""
    titles = dict(DIAGNOSES.select("icd10", "title").iter_rows())
    for condition in CONDITIONS:
        disease = Concept("disease", titles[condition.diagnosis])
        for drug in condition.drugs:
            yield Statement(Concept("drug", drug), "may_treat", disease)
        for label in (*condition.raised_labs, *condition.lowered_labs):
            yield Statement(Concept("test", label), "may_indicate", disease)
        for code in condition.comorbidities:
            yield Statement(disease, "may_occur_with", Concept("disease", titles[code]))
    for title, category in DIAGNOSES.select("title", "ccs").iter_rows():
        yield Statement(Concept("disease", title), "isa", Concept("category", category))


def synonyms() -> dict[str, str]:
    """How the drug cabinets of the ED name a drug, if otherwise → its name."""
    return {label: name for name, label in zip(DRUGS["name"], PYXIS_NAMES, strict=True) if label != name}
