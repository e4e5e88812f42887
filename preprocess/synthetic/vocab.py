"""The vocabulary of the synthetic MIMIC-IV: what its patients can have, be given and be measured by.

Each constant holds the rows of a CSV file in `vocabulary/`, whose columns are the fields of its row type. All of it was
chosen by us from public facts (names of items and codes, usual ranges); nothing is taken from patient data. Item numbers
follow MIMIC-IV's public dictionaries where we know them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from pipeline.errors import UserError

Row = TypeVar("Row", bound=tuple)
FOLDER = Path(__file__).parent / "vocabulary"


def read_vocabulary(name: str, row_type: type[Row]) -> list[Row]:
    """Read `vocabulary/NAME.csv` as rows of a NamedTuple.

    Cells become the type of their field; in a tuple's cell `|` separates the elements.

    Raises:
        UserError: the columns are not the fields of `row_type`, or a cell is not of its type.
    """
    path = FOLDER / f"{name}.csv"
    types = get_type_hints(row_type)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        if next(reader, None) != list(types):
            raise UserError(f"{path}: expected the columns {','.join(types)}, got others. Restore the file from git.")
        rows = []
        for cells in reader:
            try:
                rows.append(row_type(*(_convert(cell, kind) for cell, kind in zip(cells, types.values(), strict=True))))
            except ValueError:
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {row_type.__name__} values, got others. Fix the line."
                ) from None
    return rows


def _convert(cell: str, kind: Any) -> Any:
    if kind in (str, int, float):
        return kind(cell)
    element = kind.__args__[0]  # of tuple[element, ...]
    return tuple(map(element, cell.split("|"))) if cell else ()


# --- laboratory


class Lab(NamedTuple):
    """A laboratory test: the panel it belongs to, its reference range, and the decimals of its values."""

    itemid: int
    label: str
    panel: str
    unit: str
    low: float
    high: float
    decimals: int


class Panel(NamedTuple):
    """Laboratory tests that share a specimen; `chance` is the relative frequency of the panel."""

    name: str
    chance: float
    fluid: str
    category: str


class Culture(NamedTuple):
    """A microbiology test and its specimen, by the columns of microbiologyevents."""

    test_itemid: str
    test_name: str
    spec_itemid: str
    spec_type_desc: str


class Named(NamedTuple):
    """An item that has nothing but a name."""

    itemid: str
    name: str


LABS = read_vocabulary("labs", Lab)
PANELS = read_vocabulary("panels", Panel)
CULTURES = read_vocabulary("cultures", Culture)
ORGANISMS = read_vocabulary("organisms", Named)
ANTIBIOTICS = read_vocabulary("antibiotics", Named)


# --- intensive care


class ChartItem(NamedTuple):
    """An item of chartevents: a number (`mean`, `sd`), or one of several texts.

    Attributes:
        values: the texts; empty for a number. The first is the usual one.
        scores: the number that goes with each text; an empty text where there is none.
    """

    itemid: int
    label: str
    category: str
    unit: str
    mean: float
    sd: float
    values: tuple[str, ...]
    scores: tuple[str, ...]


class DatetimeItem(NamedTuple):
    """An item of datetimeevents."""

    itemid: int
    label: str
    category: str


class InputItem(NamedTuple):
    """An item of inputevents; `description` is how it is given, `amount` the usual amount."""

    itemid: int
    label: str
    category: str
    description: str
    unit: str
    rate_unit: str
    amount: float


class IngredientItem(NamedTuple):
    """An item of ingredientevents."""

    itemid: int
    label: str
    unit: str
    rate_unit: str


class OutputItem(NamedTuple):
    """An item of outputevents."""

    itemid: int
    label: str


class ProcedureItem(NamedTuple):
    """An item of procedureevents."""

    itemid: int
    label: str
    category: str
    description: str


CHART_ITEMS = read_vocabulary("chart_items", ChartItem)
DATETIME_ITEMS = read_vocabulary("datetime_items", DatetimeItem)
INPUT_ITEMS = read_vocabulary("input_items", InputItem)
INGREDIENT_ITEMS = read_vocabulary("ingredient_items", IngredientItem)
OUTPUT_ITEMS = read_vocabulary("output_items", OutputItem)
PROCEDURE_ITEMS = read_vocabulary("procedure_items", ProcedureItem)


# --- drugs, codes, exams and orders


class Drug(NamedTuple):
    """A drug; `ndc` is made up: eleven digits, some with leading zeros, or `0` where the source has no code."""

    name: str
    atc: str
    strength: str
    dose: str
    unit: str
    form: str
    route: str
    ndc: str


class CommonDrug(NamedTuple):
    """A drug that anyone may be given, whatever the condition, in the setting `ward` or `ed`."""

    setting: str
    drug: str


class Code(NamedTuple):
    """A diagnosis or procedure."""

    icd10: str
    icd9: str
    title: str
    ccs: str


class CommonDiagnosis(NamedTuple):
    """A diagnosis that anyone may have, whatever the condition."""

    icd10: str


class Exam(NamedTuple):
    """A radiology exam and a sentence that describes a finding."""

    name: str
    code: str
    finding: str


class Order(NamedTuple):
    """A kind of poe order; orders are drawn in proportion to `weight`."""

    order_type: str
    order_subtype: str
    weight: float


class Hcpcs(NamedTuple):
    """An HCPCS code with its short and long description."""

    code: str
    short: str
    long: str


DRUGS = read_vocabulary("drugs", Drug)
COMMON_DRUGS = read_vocabulary("common_drugs", CommonDrug)
DIAGNOSES = read_vocabulary("diagnoses", Code)
COMMON_DIAGNOSES = read_vocabulary("common_diagnoses", CommonDiagnosis)
PROCEDURES = read_vocabulary("procedures", Code)
EXAMS = read_vocabulary("exams", Exam)
ORDERS = read_vocabulary("orders", Order)
HCPCS = read_vocabulary("hcpcs", Hcpcs)


# --- what drives a visit


class Condition(NamedTuple):
    """The reason for a visit, which drives its records. Its drugs, labs and exams are not those of signs.

    Attributes:
        weight: relative frequency.
        icu_log_odds: added to the log-odds of intensive care.
        complaint: chief complaint in the ED.
        diagnosis, comorbidities: ICD-10 codes.
        raised_labs, lowered_labs: labels of laboratory tests.
    """

    name: str
    weight: float
    icu_log_odds: float
    service: str
    unit: str
    icu_unit: str
    complaint: str
    diagnosis: str
    comorbidities: tuple[str, ...]
    raised_labs: tuple[str, ...]
    lowered_labs: tuple[str, ...]
    drugs: tuple[str, ...]
    procedures: tuple[str, ...]
    exams: tuple[str, ...]


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


class Outcome(NamedTuple):
    """A score (`weight` × number of indicators) and events of growing or falling rarity that are drawn from it.

    An event happens when score + logistic noise exceeds its threshold. `tasks`, `thresholds` and `events` (descriptions) are
    aligned.
    """

    name: str
    indicators: tuple[str, ...]
    weight: float
    tasks: tuple[str, ...]
    thresholds: tuple[float, ...]
    events: tuple[str, ...]


CONDITIONS = read_vocabulary("conditions", Condition)
SIGNS = read_vocabulary("signs", Sign)
OUTCOMES = {outcome.name: outcome for outcome in read_vocabulary("outcomes", Outcome)}
SIGN_ITEMS = {sign.item for sign in SIGNS}
INDICATORS = tuple(dict.fromkeys(sign.indicator for sign in SIGNS))
PREVALENCE = 0.3
"""Probability of each indicator."""


# --- tables


class Table(NamedTuple):
    """A raw table: its module, share of all records (percent), mean bytes a row, and columns in the official order.

    Shares and bytes are those of the open MIMIC-IV demo, rounded; they are what the generator aims at. The detail tables of
    notes, of which no event is made, have the share 0.
    """

    name: str
    module: str
    share: float
    row_bytes: float
    columns: tuple[str, ...]


class Choice(NamedTuple):
    """A column whose values are drawn uniformly, repeated ones more often, after a share `missing` of missing values."""

    table: str
    column: str
    missing: float
    values: tuple[str, ...]


ALL_TABLES = {table.name: table for table in read_vocabulary("tables", Table)}
TABLES = {name: table for name, table in ALL_TABLES.items() if table.share}
CHOICES = {(choice.table, choice.column): choice for choice in read_vocabulary("choices", Choice)}


def position(entries: list[Any], field: str) -> dict[str, int]:
    """The position of each entry by the value of a field.

    >>> position([Named("7", "a"), Named("8", "b")], "name")
    {'a': 0, 'b': 1}
    """
    return {getattr(entry, field): index for index, entry in enumerate(entries)}
