"""The vocabulary of the synthetic MIMIC-IV: what its patients can have, be given and be measured by.

Each constant is a CSV file of `vocabulary/`. All of it was chosen by us from public facts (names of items and codes, usual
ranges); nothing is taken from patient data. Item numbers follow MIMIC-IV's public dictionaries where we know them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import polars as pl

from pipeline.errors import UserError

Row = TypeVar("Row", bound=tuple)
FOLDER = Path(__file__).parent / "vocabulary"


def read_vocabulary(name: str, /, **types: Any) -> pl.DataFrame:
    """Read `vocabulary/NAME.csv`; in a cell of a list, `|` separates the elements.

    Args:
        types: of all columns, in order: `str`, `int`, `float` or a list of these.

    Raises:
        UserError: the columns are others, or a cell is not of its type.
    """
    path = FOLDER / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if next(reader, None) != list(types):
            raise UserError(f"{path}: expected the columns {','.join(types)}, got others. Restore the file from git.")
        rows = []
        for cells in reader:
            try:
                rows.append([_convert(cell, kind) for cell, kind in zip(cells, types.values(), strict=True)])
            except ValueError:
                where = f"{path}, line {reader.line_num}"
                raise UserError(f"{where}: expected a value of its type in each column, got others. Fix the line.") from None
    return pl.DataFrame(rows, list(types), orient="row", infer_schema_length=None)


def _convert(cell: str, kind: Any) -> Any:
    if kind in (str, int, float):
        return kind(cell)
    return list(map(kind.__args__[0], cell.split("|"))) if cell else []  # of list[element]


def read_entries(name: str, row_type: type[Row]) -> list[Row]:
    """Read `vocabulary/NAME.csv` as rows of a NamedTuple."""
    return [row_type(*row) for row in read_vocabulary(name, **get_type_hints(row_type)).iter_rows()]


def position(names: pl.Series) -> dict[str, int]:
    """The position of each name.

    >>> position(pl.Series(["a", "b"]))
    {'a': 0, 'b': 1}
    """
    return {name: index for index, name in enumerate(names)}


# --- items of measurements, drugs and care

# the panel of a laboratory test, its reference range, and the decimals of its values
LABS = read_vocabulary("labs", itemid=int, label=str, panel=str, unit=str, low=float, high=float, decimals=int)
# laboratory tests that share a specimen; `chance` is the relative frequency of the panel
PANELS = read_vocabulary("panels", name=str, chance=float, fluid=str, category=str)
CULTURES = read_vocabulary("cultures", test_itemid=str, test_name=str, spec_itemid=str, spec_type_desc=str)
ORGANISMS = read_vocabulary("organisms", itemid=str, name=str)
ANTIBIOTICS = read_vocabulary("antibiotics", itemid=str, name=str)

# items of the icu tables; those of chartevents have a number (`mean`, `sd`), or one of several texts (`values`), of which the
# first is the usual one, with `scores`; of an input, `description` is how it is given, and `amount` the usual amount
ITEM = {"itemid": int, "label": str, "category": str}
UNITS = {"unit": str, "rate_unit": str}
ICU_ITEMS = {
    "chartevents": read_vocabulary("chart_items", **ITEM, unit=str, mean=float, sd=float, values=list[str], scores=list[str]),
    "datetimeevents": read_vocabulary("datetime_items", **ITEM),
    "inputevents": read_vocabulary("input_items", **ITEM, description=str, **UNITS, amount=float),
    "ingredientevents": read_vocabulary("ingredient_items", **ITEM, **UNITS),
    "outputevents": read_vocabulary("output_items", **ITEM),
    "procedureevents": read_vocabulary("procedure_items", **ITEM, description=str),
}

# `ndc` is made up: eleven digits, some with leading zeros, or `0` where the source has no code
DRUGS = read_vocabulary("drugs", name=str, atc=str, strength=str, dose=str, unit=str, form=str, route=str, ndc=str)
# what anyone may be given, whatever the condition, in the setting `ward` or `ed`, and the diagnoses that anyone may have
COMMON_DRUGS = read_vocabulary("common_drugs", setting=str, drug=str)
COMMON_DIAGNOSES = read_vocabulary("common_diagnoses", icd10=str)
DIAGNOSES = read_vocabulary("diagnoses", icd10=str, icd9=str, title=str, ccs=str)
PROCEDURES = read_vocabulary("procedures", icd10=str, icd9=str, title=str, ccs=str)
EXAMS = read_vocabulary("exams", name=str, code=str, finding=str)
# kinds of poe orders, drawn in proportion to `weight`
ORDERS = read_vocabulary("orders", order_type=str, order_subtype=str, weight=float)
HCPCS = read_vocabulary("hcpcs", code=str, short=str, long=str)


# --- what drives a visit


class Condition(NamedTuple):
    """The reason for a visit, which drives its records. Its drugs, labs and exams are not those of signs."""

    name: str
    weight: float  # relative frequency
    icu_log_odds: float  # added to the log-odds of intensive care
    service: str
    unit: str
    icu_unit: str
    complaint: str  # in the ED
    diagnosis: str  # ICD-10 code
    comorbidities: list[str]  # ICD-10 codes
    raised_labs: list[str]
    lowered_labs: list[str]
    drugs: list[str]
    procedures: list[str]  # ICD-10 codes
    exams: list[str]


class Sign(NamedTuple):
    """How an indicator shows in a window: a record of `table` with `item` (and `value`), written for no other reason.

    Windows: `ed`, the ED stay; `adm`, the first day of the admission; `icu`, the first day in intensive care; `end`, the day
    before discharge.
    """

    indicator: str
    window: str
    table: str
    item: str
    value: str


class OutcomeModel(NamedTuple):
    """A score (`weight` × number of indicators) and events of growing or falling rarity that are drawn from it.

    An event happens when score + logistic noise exceeds its threshold. `tasks`, `thresholds` and `events` (descriptions) are
    aligned.
    """

    name: str
    indicators: list[str]
    weight: float
    tasks: list[str]
    thresholds: list[float]
    events: list[str]


CONDITIONS = read_entries("conditions", Condition)
SIGNS = read_entries("signs", Sign)
OUTCOMES = {outcome.name: outcome for outcome in read_entries("outcomes", OutcomeModel)}
SIGN_ITEMS = {sign.item for sign in SIGNS}
INDICATORS = tuple(dict.fromkeys(sign.indicator for sign in SIGNS))
PREVALENCE = 0.3  # probability of each indicator


# --- tables


class Table(NamedTuple):
    """A raw table and its columns in the official order.

    Its share of all records (percent) and mean bytes a row are those of the open MIMIC-IV demo, rounded; the generator aims
    at them. The detail tables of notes, of which no event is made, have the share 0.
    """

    name: str
    module: str
    share: float
    row_bytes: float
    columns: list[str]


ALL_TABLES = {table.name: table for table in read_entries("tables", Table)}
TABLES = {name: table for name, table in ALL_TABLES.items() if table.share}
# columns whose values are drawn uniformly, repeated ones more often, after a share `missing` of missing values
CHOICES = {
    (table, column): (values, missing)
    for table, column, missing, values in read_vocabulary(
        "choices", table=str, column=str, missing=float, values=list[str]
    ).rows()
}
