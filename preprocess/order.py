"""The order of a patient's records, and the events that they form (docs/data.md has the rules)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EVENTS, MODULES, EventType
from preprocess.parts import CONTENT, TIES, read_keys
from preprocess.raw_tables import TIME, TIME_FORMAT

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

TABLE_NUMBERS = {name: number for number, name in enumerate(sorted(EVENTS))}
TABLE = "table"  # the column of keys with the number of the table


def reading_order(tables: Collection[str]) -> list[EventType]:
    """Tables in the order that breaks ties between records of a module."""
    events = [EVENTS[name] for name in tables]
    return sorted(events, key=lambda event: (MODULES.index(event.module), event.tie_rank, TABLE_NUMBERS[event.name]))


def read_bucket(folder: Path, bucket: int, tables: Collection[str]) -> pl.DataFrame:
    """The keys (`parts.KEYS`) of all records of a bucket and their `TABLE`, table by table in `reading_order`."""
    import polars as pl

    types = {CONTENT: pl.UInt64, "subject_id": pl.Int64, TIME: pl.Datetime("ms"), "hadm_id": pl.Null}
    frames = [pl.DataFrame(schema={**types, **dict.fromkeys(TIES, pl.Float64), TABLE: pl.UInt8})]
    for event in reading_order(tables):
        keys = read_keys(folder, event, bucket)
        if keys is not None:
            frames.append(keys.with_columns(pl.lit(TABLE_NUMBERS[event.name], pl.UInt8).alias(TABLE)))
    return pl.concat(frames, how="vertical_relaxed")


def order_records(keys: pl.DataFrame) -> np.ndarray:
    """The rows of `keys`, as `read_bucket` returns them, patient by patient in the order of trajectories."""
    import numpy as np
    import polars as pl

    events = [EVENTS[name] for name in TABLE_NUMBERS]  # by number
    table, subject = keys[TABLE].to_numpy(), keys["subject_id"].to_numpy()
    module = np.array([MODULES.index(event.module) for event in events])[table]

    timed = keys[TIME].is_not_null().arg_true()
    time = keys[TIME].gather(timed).cast(pl.Int64).to_numpy()
    if not (time % 1000).any():
        time = time // 1000  # smaller numbers are sorted faster
    ties = [tie_numbers(keys[tie].gather(timed)) for tie in TIES]
    timed = timed.to_numpy()
    timed = timed[stable_order([subject[timed], time, module[timed], *ties])]

    rest = keys.with_row_index("row").filter(pl.col(TIME).is_null()).select("row", "subject_id", "hadm_id", TABLE)
    numbers = rest[TABLE].to_numpy()
    subjects = subject[timed]
    last = pl.DataFrame({"subject_id": subjects, "hadm_id": keys["hadm_id"].gather(timed)}).with_row_index("last")
    run_ends = pl.any_horizontal(pl.col(column).ne_missing(pl.col(column).shift(-1)) for column in ("subject_id", "hadm_id"))
    last = last.filter(run_ends | (pl.col("last") == len(timed) - 1))  # far fewer: records of an admission come in runs
    last = last.unique(["subject_id", "hadm_id"], keep="last")
    rest = rest.with_columns(
        pl.Series("untimed", [0 if event.timed else event.untimed_rank for event in events]).gather(numbers),
        pl.Series("module", module[rest["row"].to_numpy()]),
        pl.Series("first", np.searchsorted(subjects, rest["subject_id"].to_numpy(), "left")),
        pl.Series("end", np.searchsorted(subjects, rest["subject_id"].to_numpy(), "right")),
    ).join(last, on=["subject_id", "hadm_id"], how="left")
    # first the patients record, then those with a timed record of their admission, which they follow, then all others
    is_patient, follows = pl.col(TABLE) == TABLE_NUMBERS["patients"], pl.col("last").is_not_null()
    rest = rest.with_columns(
        pl.when(is_patient).then("first").when(follows).then(pl.col("last") + 1).otherwise("end").alias("position"),
        pl.when(is_patient).then(0).when(follows).then(1).otherwise(2).alias("group"),
    ).sort("subject_id", "group", "position", "untimed", "module", TABLE, "row")
    return np.insert(timed, rest["position"].to_numpy(), rest["row"].to_numpy())


def tie_numbers(ties: pl.Series) -> np.ndarray:
    """Whole numbers in the order of the numbers of a tie, missing ones first."""
    import numpy as np
    import polars as pl

    values = ties.cast(pl.Float64).to_numpy()
    missing = np.isnan(values)
    values = np.where(missing, values.min(initial=0, where=~missing) - 1, values)
    if (np.abs(values) < 2**53).all() and (np.floor(values) == values).all():
        return values.astype(np.int64)
    return ties.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def stable_order(keys: Sequence[np.ndarray]) -> np.ndarray:
    """The order of rows by whole numbers, the first of which counts most; equal rows keep their order.

    As many of the numbers as fit are packed into one of 64 bits, which takes a fraction of the time of sorting by each.

    >>> import numpy as np
    >>> stable_order([np.array([7, -5, 7, 7]), np.array([2**62, 0, -(2**62), 2**62])]).tolist()
    [1, 2, 0, 3]
    """
    import numpy as np

    packed, free = [np.zeros(len(keys[0]), np.uint64)], 64
    for key in keys:
        low, high = (int(key.min()), int(key.max())) if len(key) else (0, 0)
        offset, bits = (key - low).view(np.uint64), (high - low).bit_length()
        if bits > free:
            packed.append(offset)
            free = 64 - bits
        elif bits:
            packed[-1] = packed[-1] << np.uint64(bits % 64) | offset
            free -= bits
    return np.lexsort(packed[::-1])  # fast where the records of a table come in order, as in MIMIC-IV


def form_events(keys: pl.DataFrame, order: np.ndarray) -> pa.Table:
    """Group consecutive records of a patient and a table into events.

    Returns:
        subject_id, file_name, starttime, endtime, hadm_id, as in trajectories; and `records`: the rows of their records.
    """
    import numpy as np
    import polars as pl
    import pyarrow as pa

    runs = [keys[column].to_numpy()[order] for column in ("subject_id", TABLE)]
    starts = np.flatnonzero(np.any([np.diff(run, prepend=-1) != 0 for run in runs], axis=0))
    times = keys[TIME].cast(pl.Int64).cast(pl.Float64).to_numpy()[order]  # NaN if missing, which fmin and fmax pass over
    columns = {"starttime": np.fmin.reduceat(times, starts), "endtime": np.fmax.reduceat(times, starts)}
    names = pl.Series(list(TABLE_NUMBERS), dtype=pl.String)
    events = keys[order[starts]].select(
        "subject_id",
        names.gather(runs[1][starts]).alias("file_name"),
        *(
            pl.Series(name, column).fill_nan(None).cast(pl.Int64).cast(pl.Datetime("ms")).dt.to_string(TIME_FORMAT)
            for name, column in columns.items()
        ),
        pl.concat_str("hadm_id", pl.lit("")),  # a cast to text would leave bytes where it is missing
    )
    offsets = pa.array(np.append(starts, len(order)), pa.int64())
    return events.to_arrow().append_column("records", pa.LargeListArray.from_arrays(offsets, pa.array(order, pa.uint32())))
