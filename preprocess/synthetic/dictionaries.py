"""The dictionaries (d_* tables) and code maps of the synthetic MIMIC-IV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preprocess.synthetic import vocab


class Dictionary(NamedTuple):
    """A small table: path without extension, columns and rows."""

    path: str
    columns: tuple[str, ...]
    rows: Iterable[Sequence[object]]


def dictionaries() -> list[Dictionary]:
    """The d_* tables, by paths below the folder of the raw tables."""
    panels = {panel.name: panel for panel in vocab.PANELS}
    labs = [(lab.itemid, lab.label, panels[lab.panel].fluid, panels[lab.panel].category) for lab in vocab.LABS]
    items = [
        (item.itemid, item.label, item.label, "chartevents", item.category, item.unit, "Text" if item.values else "Numeric")
        for item in vocab.CHART_ITEMS
    ]
    for table, entries, category in (
        ("datetimeevents", vocab.DATETIME_ITEMS, lambda item: item.category),
        ("inputevents", vocab.INPUT_ITEMS, lambda item: "Medications" if "Drips" in item.category else "Fluids/Intake"),
        ("ingredientevents", vocab.INGREDIENT_ITEMS, lambda item: "Ingredients - general (Not In Use)"),
        ("outputevents", vocab.OUTPUT_ITEMS, lambda item: "Output"),
        ("procedureevents", vocab.PROCEDURE_ITEMS, lambda item: item.category),
    ):
        items += [(item.itemid, item.label, item.label, table, category(item), "", "Solution") for item in entries]
    item_columns = ("itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type")
    hcpcs = [(entry.code, "", entry.long, entry.short) for entry in vocab.HCPCS]
    return [
        Dictionary("hosp/d_labitems", ("itemid", "label", "fluid", "category"), labs),
        _codes("hosp/d_icd_diagnoses", vocab.DIAGNOSES, "title"),
        _codes("hosp/d_icd_procedures", vocab.PROCEDURES, "title"),
        Dictionary("hosp/d_hcpcs", ("code", "category", "long_description", "short_description"), hcpcs),
        Dictionary("icu/d_items", (*item_columns, "lownormalvalue", "highnormalvalue"), [(*item, "", "") for item in items]),
    ]


def code_maps() -> list[Dictionary]:
    """CCS categories and ATC classes, which MIMIC-IV itself does not have, by paths below the folder of code maps."""
    atc = [(drug.ndc, drug.atc) for drug in vocab.DRUGS if drug.atc]
    return [
        _codes("hosp/d_ccs_diagnoses", vocab.DIAGNOSES, "ccs"),
        _codes("hosp/d_ccs_procedures", vocab.PROCEDURES, "ccs"),
        Dictionary("hosp/d_atc_prescriptions", ("ndc_code", "atc_name"), atc),
    ]


def _codes(path: str, entries: list[vocab.Code], field: str) -> Dictionary:
    rows = [
        (code, version, getattr(entry, field)) for entry in entries for code, version in ((entry.icd9, 9), (entry.icd10, 10))
    ]
    return Dictionary(path, ("icd_code", "icd_version", "long_title"), rows)
