"""Index files as frames, for samplers: all rows in batches, or lazily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.index_files import EARLIER, INDEX_COLUMNS, REQUIRED
from mimiciv_dataset.index_tables import read_header, read_tables, window_columns
from mimiciv_dataset.tasks import TASKS

if TYPE_CHECKING:
    import polars as pl


def _schema() -> dict[str, pl.DataType]:
    import polars as pl

    numbers = dict.fromkeys(("context_begin", "context_end", *EARLIER), pl.Int32) | {"target_weight": pl.Float64}
    return {name: numbers.get(name, pl.String) for name in INDEX_COLUMNS}


def read_frames(path: Path, columns: Sequence[str] = INDEX_COLUMNS) -> Iterator[pl.DataFrame]:
    """Yield the rows of an index CSV in frames with columns of `INDEX_COLUMNS`: clean ids as text, positions as integers.

    Raises:
        UserError: as `read_tables`.
    """
    import polars as pl

    schema = _schema()
    for table in read_tables(path, REQUIRED):
        frame = pl.from_arrow(table).rename({"period_begin": "context_begin", "period_end": "context_end"})
        frame = frame.with_columns(pl.lit(None).alias(name) for name in INDEX_COLUMNS if name not in frame.columns)
        yield frame.select(columns).cast({name: schema[name] for name in columns})


def scan(path: Path) -> pl.LazyFrame:
    """An index CSV as a lazy frame of what `read_frames` yields."""
    from polars.io.plugins import register_io_source

    window_columns(path, read_header(path))

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for frame in read_frames(path, columns or INDEX_COLUMNS):
            if n_rows is not None:
                frame, n_rows = frame.head(n_rows), max(0, n_rows - frame.height)
            yield frame if predicate is None else frame.filter(predicate)

    return register_io_source(frames, schema=_schema())


def target_labels() -> pl.Expr:
    """The labels in the column `target`, as a list column; a single name becomes a list of one."""
    import polars as pl

    target = pl.col("target").str.strip_chars()
    as_list = pl.when(target.str.starts_with("[")).then(target).otherwise(pl.format("[{}]", target))
    return as_list.str.json_decode(pl.List(pl.String)).list.unique(maintain_order=True)


def task_of_file(path: Path) -> str | None:
    """The task a file is named after, as --group task names them; None for any other file.

    >>> task_of_file(Path("all/labevents.csv")), task_of_file(Path("patient/10001217.csv"))
    ('labevents', None)
    """
    return path.stem if path.stem in TASKS else None
