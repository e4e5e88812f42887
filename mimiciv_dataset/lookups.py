"""Values of a record: its columns, and names looked up in the dictionaries of `index_mapping/`.

Text and targets use the same lookups, so that a key has the same value in both. A dictionary is read on first use, with
pyarrow alone, so that dataloader workers can fork.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from mimiciv_dataset.csv_checks import check_quotes
from mimiciv_dataset.events import COLUMN_KINDS, MISSING, MISSING_TEXTS, EventType
from mimiciv_dataset.values import KINDS, canonical, canonical_or_same
from pipeline.errors import UserError

HOW_TO_GET_DICTIONARIES = (
    "Make it with preprocess/build_index_mapping.py (the d_* dictionaries come with MIMIC-IV, the CCS and ATC maps from "
    "public sources: docs/data.md)"
)


@dataclass(frozen=True)
class Dictionary:
    """A file of `index_mapping/`: its module, the columns of the key, and the column of the name."""

    module: str
    key: tuple[str, ...]
    name: str


DICTIONARIES = {
    "d_labitems": Dictionary("hosp", ("itemid",), "label"),
    "d_items": Dictionary("icu", ("itemid",), "label"),
    "d_icd_diagnoses": Dictionary("hosp", ("icd_code", "icd_version"), "long_title"),
    "d_icd_procedures": Dictionary("hosp", ("icd_code", "icd_version"), "long_title"),
    "d_ccs_diagnoses": Dictionary("hosp", ("icd_code", "icd_version"), "long_title"),
    "d_ccs_procedures": Dictionary("hosp", ("icd_code", "icd_version"), "long_title"),
    "d_atc_prescriptions": Dictionary("hosp", ("ndc_code",), "atc_name"),
}

MAX_REMEMBERED = 1 << 16  # codes whose names a function of `Lookups.names` keeps: records repeat few, but for ids of notes

# The largest length of codes of digits, by ICD version, in the dictionaries of ICD codes. Some of these codes begin with 0.
_DIAGNOSES, _PROCEDURES = {"9": 5}, {"9": 4, "10": 7}
ICD_DIGITS = {"d_icd_diagnoses": _DIAGNOSES, "d_ccs_diagnoses": _DIAGNOSES,
              "d_icd_procedures": _PROCEDURES, "d_ccs_procedures": _PROCEDURES}  # fmt: skip


def ndc_key(ndc: str) -> str:
    """An NDC as in the ATC map: without a decimal part, padded to 11 digits; "" for a missing one and the sentinel 0.

    >>> ndc_key("2143361.0"), ndc_key("00002143361"), ndc_key("2.143361E9"), ndc_key("0"), ndc_key("nan")
    ('00002143361', '00002143361', '02143361000', '', '')
    """
    code = ndc if ndc.isdecimal() else canonical_or_same("ndc", ndc).strip()
    return "" if code in ("", "0", MISSING) else code.zfill(11)


def find_table(folder: Path, name: str) -> Path | None:
    """`name`.csv or `name`.csv.gz in `folder`, or None; an error if both exist."""
    paths = [path for suffix in (".csv", ".csv.gz") if (path := folder / f"{name}{suffix}").exists()]
    if len(paths) == 2:
        raise UserError(f"{paths[0]}: expected this file or {paths[1].name}, got both. Remove the one not to be read.")
    return paths[0] if paths else None


def read_text_csv(path: Path, columns: Sequence[str], missing: Sequence[str] = MISSING_TEXTS) -> Any:
    """Read columns of a CSV or CSV.gz as a pyarrow table of text, in which the texts `missing` are null."""
    import pyarrow as pa
    import pyarrow.csv as pc

    options = {"parse_options": pc.ParseOptions(newlines_in_values=True), "convert_options": text_columns(columns, missing)}
    try:
        return pc.read_csv(path, **options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        fault = f"expected a CSV with columns {', '.join(columns)}, got {csv_fault(error)}"
        raise UserError(f"{path}: {fault}. Download or make it again.") from None


def text_columns(columns: Sequence[str], missing: Sequence[str] = MISSING_TEXTS) -> Any:
    """Options of pyarrow.csv that read `columns` only, as text, in which the texts `missing` are null."""
    import pyarrow as pa
    import pyarrow.csv as pc

    types = dict.fromkeys(columns, pa.string())
    return pc.ConvertOptions(include_columns=columns, column_types=types, null_values=missing, strings_can_be_null=True)


def csv_fault(error: Exception) -> str:
    """Describe an error of pyarrow about a CSV without the text of the row that it quotes.

    >>> csv_fault(ValueError("CSV parse error: Expected 3 columns, got 2: 10001,Mr Smith"))
    'a row of 2 fields instead of 3'
    >>> csv_fault(ValueError("Column 'label' in include_columns does not exist in CSV file"))
    'no column label'
    >>> csv_fault(OSError("Truncated compressed stream"))
    'Truncated compressed stream'
    """
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if match := re.search(r"Expected (\d+) columns, got (\d+)", text):
        return f"a row of {match.group(2)} fields instead of {match.group(1)}"
    if match := re.search(r"Column '(.*)' in include_columns", text):
        return f"no column {match.group(1)}"
    harmless = ("compressed", "inflate", "Empty CSV", "UTF8", "No such file", "Not a gzipped")
    return text[:200] if any(word in text for word in harmless) else "a malformed row"


class Lookups:
    """The dictionaries of an `index_mapping/` directory: `.csv` or `.csv.gz` files in `hosp/`, `icu/` and `note/`."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._dictionaries: dict[str, dict[Any, str]] = {}
        self._warnings: dict[str, list[str]] = {}
        self._getters: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Callable[[list[Any]], Any]]] = {}
        self._names: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Callable[[list[list[Any]]], list[str]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # smaller pickles: workers read the files
        return {"folder": self.folder, "_dictionaries": {}, "_warnings": {}, "_getters": {}, "_names": {}}

    def path(self, name: str) -> Path | None:
        """The file of a dictionary, or None if there is none; an error if there are two."""
        return find_table(self.folder / (DICTIONARIES[name].module if name in DICTIONARIES else "note"), name)

    def dictionary(self, name: str) -> dict[Any, str]:
        """The names of a dictionary by key; a key of several columns is a tuple. Empty if there is no file."""
        if name not in self._dictionaries:
            path = self.path(name)
            self._dictionaries[name], self._warnings[name] = read_dictionary(path, name) if path else ({}, [])
        return self._dictionaries[name]

    def warnings(self) -> list[str]:
        """What is wrong with the dictionaries, in a line for each of its kind."""
        for name in DICTIONARIES:
            self.dictionary(name)
        return [warning for name in DICTIONARIES for warning in self._warnings[name]]

    @cached_property
    def _exam_names(self) -> _ExamNames:
        return _ExamNames(self.path("radiology_detail"))

    def getter(self, event: EventType, key: str, columns: tuple[str, ...]) -> Callable[[list[Any]], Any]:
        """A function that takes the values of a record with these `columns` and returns the value of a shown or target key.

        A looked up key can also be a column of the record, as in the records of other sites: it counts where no dictionary has
        the code.

        The value is text, or a list of names for `exam_name`; None if the record lacks the column or the dictionary the code.
        """
        return self.getters(event, (key,), columns)[0]

    def getters(self, event: EventType, keys: tuple[str, ...], columns: tuple[str, ...]) -> list[Callable[[list[Any]], Any]]:
        """`getter` of each key."""
        getters = self._getters.get((event.name, keys, columns))
        if getters is None:
            getters = self._getters[event.name, keys, columns] = [self._make_getter(event, key, columns) for key in keys]
        return getters

    def names(
        self, event: EventType, keys: tuple[str, ...], columns: tuple[str, ...]
    ) -> Callable[[list[list[Any]]], list[str]]:
        """A function that takes records with these `columns` and returns the distinct names in them, in their order.

        The names of a record are the values, without blanks around, of the first of `keys` that is not missing.
        """
        names = self._names.get((event.name, keys, columns))
        if names is None:
            names = self._names[event.name, keys, columns] = self._make_names(event, keys, columns)
        return names

    def _make_names(self, event: EventType, keys: tuple[str, ...], columns: tuple[str, ...]) -> Callable[[Any], list[str]]:
        getters = self.getters(event, keys, columns)
        lookups = filter(None, map(event.lookup, keys))
        needed = {*keys, *(column for lookup in lookups for column in lookup.by)}
        positions = [position for position, column in enumerate(columns) if column in needed]
        if not positions:
            return lambda rows: []
        code, remembered = itemgetter(*positions), {}

        def names_of(row: list[Any]) -> list[str]:
            for get in getters:
                value = get(row)
                values = value if isinstance(value, list) else [value]
                if names := [name for text in values if text and (name := text.strip()) and name != MISSING]:
                    return names
            return []

        def distinct_names(rows: list[list[Any]]) -> list[str]:
            codes = [*map(code, rows)]
            try:
                return [*dict.fromkeys(chain.from_iterable(map(remembered.__getitem__, codes)))]
            except KeyError:  # a new code
                if len(remembered) > MAX_REMEMBERED:
                    remembered.clear()
                remembered.update(zip(codes, map(names_of, rows), strict=True))
                return distinct_names(rows)

        return distinct_names

    def _make_getter(self, event: EventType, key: str, columns: tuple[str, ...]) -> Callable[[list[Any]], Any]:
        get = self._make_own_getter(event, key, columns)
        own = itemgetter(columns.index(key)) if event.lookup(key) and key in columns else None
        return get if own is None else lambda row: get(row) or own(row)

    def _make_own_getter(self, event: EventType, key: str, columns: tuple[str, ...]) -> Callable[[list[Any]], Any]:
        lookup = event.lookup(key)
        needed = lookup.by if lookup else (key,)
        if any(column not in columns for column in needed):
            return lambda row: None
        first, second = (*(columns.index(column) for column in needed), None)[:2]
        if lookup is None:
            return itemgetter(first)
        if lookup.source == "radiology_detail":
            return lambda row: self._exam_names.get(row[first])
        names = self.dictionary(lookup.source)
        if lookup.source == "d_atc_prescriptions":
            return lambda row: names.get(ndc_key(row[first] or ""))

        def get(row: list[Any]) -> str | None:
            name = names.get(row[first] if second is None else (row[first], row[second]))
            if name is None:  # a key in another form, as records of other builds can have it
                values = [canonical_or_same(column, row[i] or "") for column, i in zip(needed, (first, second), strict=False)]
                name = names.get(values[0] if second is None else tuple(values))
            return name

        return get

    def missing_files(self) -> list[str]:
        """The names of the dictionaries that the directory lacks."""
        return [name for name in (*DICTIONARIES, "radiology_detail") if self.path(name) is None]


def read_dictionary(path: Path, name: str) -> tuple[dict[Any, str], list[str]]:
    """Read a dictionary: its names by key, and warnings.

    A key in another form than MIMIC-IV's is brought to it. Where rows contradict each other, the last one counts.
    """
    entry = DICTIONARIES[name]
    check_quotes(path)
    table = read_text_csv(path, (*entry.key, entry.name))
    columns = [clean_keys(path, column, table[column].to_pylist()) for column in entry.key]
    if name == "d_atc_prescriptions":
        columns = [[ndc_key(key or "") for key in columns[0]]]
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    texts = [MISSING if text is None else text for text in table[entry.name].to_pylist()]
    names = dict(zip(keys, texts, strict=True))
    contradicting = {key for key, text in zip(keys, texts, strict=True) if names[key] != text}
    warnings = []
    if contradicting:
        got = f"{len(contradicting):,} with several names, of which the last is used"
        warnings.append(f"{path}: expected one {entry.name} per {' and '.join(entry.key)}, got {got}.")
    for version, width in ICD_DIGITS.get(name, {}).items():
        codes = [code for code, of_version in names if of_version == version and code and code.isdecimal()]
        if codes and not any(code.startswith("0") for code in codes):
            ambiguous = [code for code in codes if (code, version) in contradicting]
            for code in ambiguous:
                del names[code, version]  # codes that differ in their leading zeros only
            for code in set(codes).difference(ambiguous):
                padded = (code.zfill(length) for length in range(len(code) + 1, width + 1))
                names |= {(longer, version): names[code, version] for longer in padded}
            got = f"got {len(codes):,} codes of digits of which none begins with 0"
            matched = f"codes with leading zeros are matched without them, except where that is ambiguous ({len(ambiguous):,})"
            fix = "Make the file again with codes as text"
            warnings.append(f"{path}: expected ICD-{version} codes with leading zeros, {got}; {matched}. {fix}.")
    return names, warnings


def clean_keys(path: Path, column: str, values: Sequence[str | None]) -> list[str | None]:
    """The values of a key column in MIMIC-IV's form."""
    pattern = re.compile(KINDS[COLUMN_KINDS[column]].pattern)
    cleaned = []
    for row, value in enumerate(values, 1):
        if value is not None and not pattern.match(value):
            try:
                value = canonical(COLUMN_KINDS[column], value)
            except ValueError:
                expected = f"expected {KINDS[COLUMN_KINDS[column]].expected}, got another text"
                raise UserError(f"{path}, row {row:,}, column {column}: {expected}. Fix the row.") from None
        cleaned.append(value)
    return cleaned


class _ExamNames:
    """The distinct exam names of each radiology note, in the order of radiology_detail.

    MIMIC-IV-Note has six million detail rows, too many for a dict in every worker; they are kept in Arrow arrays sorted by
    note_id, in which a note is found by bisection.
    """

    def __init__(self, path: Path | None) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._ids, self._names = pa.array([], pa.string()), pa.array([], pa.string())
        if path is None:
            return
        table = read_text_csv(path, ("note_id", "field_name", "field_value"))
        table = table.set_column(0, "note_id", pc.utf8_trim_whitespace(table["note_id"]))
        table = table.filter(pc.equal(table["field_name"], "exam_name"))
        table = table.filter(pc.is_valid(table["field_value"]))
        table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
        table = table.sort_by([("note_id", "ascending"), ("row", "ascending")]).combine_chunks()
        if table.num_rows:
            self._ids, self._names = table["note_id"].chunk(0), table["field_value"].chunk(0)

    def get(self, note_id: str | None) -> list[str] | None:
        if note_id is None:
            return None
        note_id = note_id.strip()
        row, names = bisect_left(self._ids, note_id, key=lambda scalar: scalar.as_py()), {}
        while row < len(self._ids) and self._ids[row].as_py() == note_id:
            names[self._names[row].as_py()] = None
            row += 1
        return list(names) or None
