"""The values of raw tables: checked, counted, and brought to MIMIC-IV's form (`values.py`); the times of records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.events import COLUMN_KINDS, EVENTS, MODULES, EventType
from mimiciv_dataset.lookups import find_table
from mimiciv_dataset.values import KINDS, canonical, canonical_or_same
from pipeline.errors import UserError
from preprocess.parts import TIES
from preprocess.raw_tables import TIME, TIME_FORMAT, UNNAMED, RawTable, column_names, parse_times, python_float, read_batches
from preprocess.texts import Texts

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

STAY = ("subject_id", "stay_id")  # the key of edstays


@dataclass
class Counts:
    """What `prepare` counts while a table is read, in rows by column."""

    rewritten: Counter[str] = field(default_factory=Counter)  # values that were not in MIMIC-IV's form
    ids: Counter[str] = field(default_factory=Counter)  # ids that refer to another table
    unknown: Counter[str] = field(default_factory=Counter)  # those that the other table does not have
    unnamed: Counter[str] = field(default_factory=Counter)  # values of columns without a name, which are dropped


@dataclass(frozen=True)
class Encoded:
    """A column of a part of a table: its distinct values, and the position among them of each row, -1 where it is missing."""

    values: pl.Series
    positions: np.ndarray

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Encoded:
        import polars as pl

        array = column.dictionary_encode().unify_dictionaries().combine_chunks()
        array = array.chunk(0) if hasattr(array, "chunks") else array
        return cls(pl.from_arrow(array.dictionary).cast(pl.String), pl.from_arrow(array.indices).fill_null(-1).to_numpy())

    def rows(self, selected: Iterable[int]) -> int:
        """How many rows have one of the values at these positions."""
        import numpy as np

        counts = np.bincount(self.positions + 1, minlength=len(self.values) + 1)
        return int(counts[np.fromiter(selected, int) + 1].sum())

    def first_row(self, position: int) -> int:
        """The first row with this value."""
        return int((self.positions == position).argmax())

    def column(self, values: pl.Series) -> pl.Series:
        """The column with other values in place of the distinct ones."""
        import polars as pl

        return values.gather(pl.Series(self.positions).cast(pl.Int64).replace(-1, None))


@dataclass(frozen=True)
class Prepared:
    """Rows of a raw table, ready to be written.

    Attributes:
        texts: the columns of their records.
        whole: the texts, in the order of `texts`, that are written with `.0`.
        numbers, times: the values of the columns of whole numbers (-1 if missing) and of times (milliseconds; NO_TIME).
        time: the time of each record (Datetime, null if it has none).
    """

    texts: Texts
    whole: np.ndarray
    numbers: Mapping[str, np.ndarray]
    times: Mapping[str, np.ndarray]
    time: pl.Series

    def keys(self, event: EventType) -> pl.DataFrame:
        """What the position of a record depends on, as `parts.write_part` takes it."""
        import polars as pl

        names = {"subject_id": "subject_id", "hadm_id": "hadm_id", **dict(zip(TIES, event.tie, strict=False))}
        keys = [as_numbers(key, self.numbers[column]) for key, column in names.items() if column in self.numbers]
        return pl.DataFrame([*keys, self.time]).cast({pl.selectors.by_name(*TIES, require_all=False): pl.Float64})


def prepare(
    table: RawTable,
    batches: Sequence[pa.RecordBatch],
    first_row: int,
    counts: Counts,
    references: Mapping[str, np.ndarray],
    stays: pl.DataFrame | None = None,
) -> Prepared:
    """Check rows of a raw table, and bring their ids, codes and times to MIMIC-IV's form and FLOAT columns to Python's.

    Args:
        batches: a part of the table, from `read_batches`.
        first_row: number of its first row in the file.
        counts: is updated.
        references: by column, the ids that the table it refers to has (`read_references`).
        stays: for tables whose records have the time of their ED stay, those times (`read_stays`).

    Raises:
        UserError: a value cannot be read without guessing, or a subject_id is missing.
    """
    import numpy as np
    import polars as pl
    import pyarrow as pa

    event, rows = table.event, pa.Table.from_batches(batches)
    texts = Texts(rows.select(list(table.columns)))
    whole = np.zeros((len(table.columns), len(rows)), bool)
    changed: dict[str, pl.Series] = {}
    parsed: dict[str, np.ndarray] = {}
    for column in table.header:
        kind = COLUMN_KINDS.get(column)
        if column.startswith(UNNAMED):
            check_unnamed(table, column, Encoded.of(rows[column]), first_row, counts)
        elif kind is not None:
            values = parse(kind, texts, column)
            if values is None:  # some are not in the usual form
                encoded = Encoded.of(rows[column])
                cleaned = clean_values(table, column, encoded, first_row, counts)
                if cleaned is not encoded.values:
                    changed[column] = encoded.column(cleaned)
                values = parse_cleaned(kind, encoded, cleaned)
            if values is not None:
                parsed[column] = values
            if column in references:
                counts.ids[column] += int((values >= 0).sum())
                counts.unknown[column] += count_unknown(values, references[column])
        elif column in event.floats and not mark_whole(texts, column, whole[table.columns.index(column)]):
            encoded = Encoded.of(rows[column])
            formatted = [python_float(text) for text in encoded.values.to_list()]
            changed[column] = encoded.column(pl.Series(formatted, dtype=pl.String))
    if (parsed["subject_id"] < 0).any():
        raise value_error(table, "subject_id", first_row + int((parsed["subject_id"] < 0).argmax()), None)
    numbers = {column: values for column, values in parsed.items() if COLUMN_KINDS[column] == "number"}
    times = {column: values for column, values in parsed.items() if column not in numbers}
    if event.stay_time:
        time = times_of_stays(event, pl.DataFrame([as_numbers(column, numbers[column]) for column in STAY]), stays)
        changed["charttime"] = time.dt.to_string(TIME_FORMAT)
        whole = np.vstack([whole, np.zeros((1, len(rows)), bool)])
    else:
        time = as_datetimes(first_known([times[column] for column in (event.time, event.time_fallback) if column], len(rows)))
    return Prepared(texts.with_columns(changed) if changed else texts, whole, numbers, times, time)


def parse(kind: str, texts: Texts, column: str) -> np.ndarray | None:
    """The numbers or times of a column, as `Prepared` has them; None if a text is not in the usual form, or is neither."""
    import numpy as np

    from preprocess import kernels

    read = {"number": kernels.read_numbers, "time": kernels.read_times, "storetime": kernels.read_times}.get(kind)
    values = np.empty(texts.rows, np.int64)
    return values if read and read(*texts.column(column), values) else None


def parse_cleaned(kind: str, encoded: Encoded, values: pl.Series) -> np.ndarray | None:
    """The same of a column whose distinct values `clean_values` brought to MIMIC-IV's form."""
    import polars as pl

    if kind == "number":
        return encoded.column(values.cast(pl.Int64)).fill_null(-1).to_numpy()
    if kind in ("time", "storetime"):
        return encoded.column(parse_times(values)).to_numpy().astype("datetime64[ms]").view("int64")
    return None


def mark_whole(texts: Texts, column: str, whole: np.ndarray) -> bool:
    """Mark the numbers of a FLOAT column that lack `.0`; False if any text is not as Python writes a float otherwise."""
    from preprocess import kernels

    if kernels.mark_whole(*texts.column(column), whole):
        return True
    whole[:] = False
    return False


def as_numbers(name: str, numbers: np.ndarray) -> pl.Series:
    """Whole numbers, with nulls in place of -1."""
    import polars as pl

    return pl.Series(name, numbers).set(pl.Series(numbers < 0), None)


def as_datetimes(times: np.ndarray) -> pl.Series:
    """Milliseconds as times, with nulls."""
    import polars as pl

    return pl.Series(TIME, times.view("datetime64[ms]"))


def first_known(times: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """The first time of each row that is not missing."""
    import numpy as np

    from preprocess.kernels import NO_TIME

    result = np.full(rows, NO_TIME)
    for column in reversed(times):
        result = np.where(column == NO_TIME, result, column)
    return result


def clean_values(table: RawTable, column: str, encoded: Encoded, first_row: int, counts: Counts) -> pl.Series:
    """The distinct values of a column of a kind in MIMIC-IV's form; `encoded.values` itself if they already are."""
    kind, values = COLUMN_KINDS[column], encoded.values
    valid = values.str.contains(KINDS[kind].pattern)
    if kind in ("time", "storetime"):
        valid &= parse_times(values).is_not_null()
    if valid.all():
        return values
    cleaned: dict[int, str | None] = {}
    for position in (~valid).arg_true():
        try:
            value = canonical(kind, values[position])
        except ValueError:
            raise value_error(table, column, first_row + encoded.first_row(position), values[position]) from None
        if value != values[position]:
            cleaned[position] = value
    if not cleaned:
        return values
    counts.rewritten[column] += encoded.rows(cleaned)
    return values.clone().scatter(list(cleaned), list(cleaned.values()))


def check_unnamed(table: RawTable, column: str, encoded: Encoded, first_row: int, counts: Counts) -> None:
    """Count the values of a column without a name, which must be whole numbers such as the row numbers that pandas writes."""
    invalid = (~encoded.values.str.contains(r"^\d+(\.0)?$")).arg_true()
    if len(invalid):
        where = f"{table.path}, row {first_row + encoded.first_row(invalid[0]) + 1:,},{column}"
        raise UserError(f"{where}: expected a name in the header, got a text below an empty name. Name or remove the column.")
    counts.unnamed[column] += encoded.rows(range(len(encoded.values)))


def value_error(table: RawTable, column: str, row: int, value: str | None) -> UserError:
    """The error of a value that cannot be read, which it does not quote; `row` counts from 0."""
    where, expected = f"{table.path}, row {row + 1:,}, column {column}", KINDS[COLUMN_KINDS[column]].expected
    got, fix = ("a missing value" if value is None else "another text"), "Fix the row"
    if value is not None and value.strip() == column:
        got, fix = "the name of the column", "Remove the second header line"
    return UserError(f"{where}: expected {expected}, got {got}. {fix}.")


# --- the tables that ids refer to

REFERENCES = {  # column → module of its table → module and name of the table that has all its ids
    "hadm_id": dict.fromkeys(MODULES, ("hosp", "admissions")),
    "stay_id": {"ed": ("ed", "edstays"), "icu": ("icu", "icustays")},
    "itemid": {"hosp": ("hosp", "d_labitems"), "icu": ("icu", "d_items")},
}


def read_references(table: RawTable) -> dict[str, np.ndarray]:
    """For each column of a table that refers to another one, the ids of that one; without those whose file does not exist."""
    references = {}
    for column, tables in REFERENCES.items():
        module, name = tables.get(table.event.module, (None, None))
        if column in table.columns and name not in (None, table.name):
            path = find_table(table.path.parent.parent / module, name)
            if path is not None:
                references[column] = read_ids(path, column)
    return references


def read_ids(path: Path, column: str) -> np.ndarray:
    """The distinct ids in a column that are whole numbers, in ascending order."""
    import numpy as np

    ids: set[str] = set()
    for batch in read_batches(path, [column], warn=False):
        ids.update(canonical_or_same(column, value) for value in batch.column(0).unique().to_pylist() if value is not None)
    return np.array(sorted(int(text) for text in ids if re.search(KINDS["number"].pattern, text)), np.int64)


def count_unknown(numbers: np.ndarray, ids: np.ndarray) -> int:
    """How many numbers are not missing (-1) and not among some ids. Equal numbers in consecutive rows are looked up once."""
    import numpy as np

    if not len(numbers):
        return 0
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    runs, lengths = numbers[starts], np.diff(starts, append=len(numbers))
    places = np.searchsorted(ids, runs)
    known = np.append(ids, -1)[places] == runs  # the number after the last id is none
    return int(lengths[(runs >= 0) & ~known].sum())


# --- the times of ED stays


def read_stays(table: RawTable) -> pl.DataFrame | None:
    """The ED stays that give the records of a table their time: `STAY` and `TIME`; None if the table needs none."""
    import polars as pl

    if not table.event.stay_time:
        return None
    path = find_table(table.path.parent, "edstays")
    edstays = RawTable(EVENTS["edstays"], path, column_names(path))
    stays, rows = [], 0
    for batch in read_batches(path, edstays.header, warn=False):
        part = prepare(edstays, [batch], rows, Counts(), {})
        times = as_datetimes(part.times[table.event.stay_time])
        stays.append(pl.DataFrame([*(as_numbers(column, part.numbers[column]) for column in STAY), times]))
        rows += len(times)
    return pl.concat(stays) if stays else None


def times_of_stays(event: EventType, records: pl.DataFrame, stays: pl.DataFrame | None) -> pl.Series:
    """The times of records of an ED table that has none, by their ED stay; null if there is no such stay.

    Args:
        records, stays: both have the columns `STAY`, and stays the time `event.stay_time` as `TIME`.
    """
    import polars as pl

    if stays is None:
        return pl.Series(TIME, [None] * len(records), pl.Datetime("ms"))
    stays = stays.unique(STAY, keep="first", maintain_order=True).select(*STAY, TIME)
    times = records.select(STAY).join(stays, on=STAY, how="left", maintain_order="left")[TIME]
    return times + timedelta(seconds=event.stay_offset_s)
