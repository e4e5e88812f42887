"""The records of a table between the steps: parts of JSON lists and keys, with the patients hashed into buckets.

merge_patient.py and the importers write them, rank.py reads the keys, and combination.py the lists. A part is an Arrow file
with one record batch per bucket. Its columns, of each record:

- `list`: the record as a JSON list of its values, which are texts;
- `content`: a hash of that list, to count records that are equal;
- `subject_id`; ` time` and `hadm_id`, null if there is none; `tie0` and `tie1`, the columns `EventType.tie` as numbers.

Records of a table keep their order: that of the parts by name, and in a part that of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.events import EventType
from pipeline.errors import UserError
from preprocess.raw_tables import ROW, TIME
from preprocess.texts import Texts

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

LIST, CONTENT = "list", "content"
TIES = ("tie0", "tie1")
KEYS = (CONTENT, "subject_id", TIME, "hadm_id", *TIES)
_LONGEST_ESCAPE = 6  # bytes of \u0000


def write_part(
    path: Path,
    texts: Texts,
    keys: pl.DataFrame,
    buckets: int,
    whole: np.ndarray | None = None,
) -> int:
    """Write records as a part; return their number.

    Args:
        texts: their values.
        keys: their subject_id, `TIME`, and hadm_id and `TIES` as far as the table has them.
        whole: the texts of `Texts.block` after which `.0` is written.
    """
    import polars as pl

    order, sizes = bucket_order(keys["subject_id"], buckets)
    lists = json_lists(texts, order, whole)
    missing = [pl.lit(None).alias(name) for name in KEYS[1:] if name not in keys.columns]
    keys = keys[order].with_columns(pl.from_arrow(lists).hash().alias(CONTENT), *missing).select(KEYS)
    write_buckets(path, keys.to_arrow().add_column(0, LIST, lists), sizes)
    return len(order)


def bucket_order(subjects: pl.Series, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of patients by the bucket of their id, and the number of rows in each bucket."""
    import numpy as np
    import polars as pl

    two32 = pl.lit(2**32, pl.UInt64)  # Knuth's multiplicative hash spreads consecutive ids evenly
    bucket = pl.select(pl.lit(subjects).cast(pl.UInt64) * 2654435761 % two32 * buckets // two32).to_series()
    bucket = bucket.cast(pl.UInt16 if buckets <= 1 << 16 else pl.UInt32).to_numpy()
    return np.argsort(bucket, kind="stable"), np.bincount(bucket, minlength=buckets)


def write_buckets(path: Path, table: pa.Table, sizes: np.ndarray) -> None:
    """Write the rows of consecutive buckets as an Arrow file with one record batch per bucket."""
    import pyarrow as pa

    (batch,) = table.combine_chunks().to_batches()
    empty = pa.RecordBatch.from_pylist([], schema=batch.schema)  # a slice without rows is written with texts of others
    start = 0
    with pa.ipc.new_file(path, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for size in sizes.tolist():
            writer.write_batch(batch.slice(start, size) if size else empty)
            start += size


def json_lists(texts: Texts, order: np.ndarray, whole: np.ndarray | None = None) -> pa.StringArray:
    """Rows in some order as JSON lists of texts, "nan" if missing; `whole` as in `write_part`."""
    import numpy as np
    import pyarrow as pa

    from preprocess import kernels

    starts, data, valid = texts.block
    columns, rows = len(texts.columns), texts.rows
    whole = np.zeros(len(valid), bool) if whole is None else whole.ravel()
    bounds = starts[np.arange(columns + 1) * rows]
    escapes = np.array([kernels.count_escaped(data[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)])
    # quotation marks, a comma and `.0`, or "nan" and a comma, beside each text, and the brackets
    size = int(bounds[-1] - bounds[0] + escapes.sum() * (_LONGEST_ESCAPE - 1)) + 6 * len(valid) + 2 * rows
    out, out_starts = np.empty(size + kernels.SPARE, np.uint8), np.empty(rows + 1, np.int32)
    words, out_words = kernels.words_of(data), kernels.words_of(out)
    kernels.write_lists(order, columns, starts, data, words, valid, whole, escapes > 0, out, out_words, out_starts)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(out_starts), pa.py_buffer(out[: out_starts[-1]]))


def write_records(path: Path, event: EventType, records: pl.DataFrame, buckets: int) -> None:
    """Write records of an importer, whose columns are all text but for `ROW`, which orders them, and `TIME`."""
    import polars as pl
    import pyarrow as pa

    records = records.sort(ROW, maintain_order=True)
    ties = [pl.col(column).cast(pl.Float64, strict=False).alias(tie) for tie, column in zip(TIES, event.tie, strict=False)]
    hadm = ["hadm_id"] if "hadm_id" in records.columns else []
    keys = records.select(pl.col("subject_id").cast(pl.Int64), TIME, *hadm, *ties)
    columns = records.drop(ROW, TIME).to_arrow()
    texts = Texts(columns.cast(pa.schema([(name, pa.string()) for name in columns.column_names])))
    write_part(path, texts, keys, buckets)


def read_keys(folder: Path, event: EventType, bucket: int) -> pl.DataFrame | None:
    """The columns `KEYS` of the records of a table in a bucket, or None if it has none."""
    import polars as pl
    import pyarrow as pa

    batches = [_read(part, bucket, KEYS) for part in parts_of(folder, event)]
    table = pa.Table.from_batches(batches) if batches else None
    return pl.from_arrow(table) if table is not None and len(table) else None


def read_lists(part: Path, bucket: int) -> pa.StringArray:
    """The lists of the records of a part in a bucket."""
    return _read(part, bucket, [LIST]).column(0)


def parts_of(folder: Path, event: EventType) -> list[Path]:
    """The parts of a table in their order."""
    return sorted((folder / event.module / event.name).glob("part-*.arrow"))


def _read(part: Path, bucket: int, columns: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=[(LIST, *KEYS).index(name) for name in columns], use_threads=False)
    with pa.memory_map(str(part)) as source:
        reader = pa.ipc.open_file(source, options=options)
        if reader.schema.names != list(columns):
            raise UserError(f"{part}: expected records as this version writes them, got others. Make them with --overwrite.")
        return reader.get_batch(bucket)
