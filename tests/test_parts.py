"""Files of records in buckets of patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocess.parts import write_buckets


def test_empty_buckets_take_no_space(tmp_path: Path) -> None:
    table = pa.table({"list": [f"a record of number {number}" for number in range(5000)]})
    sizes = np.array([0, 2500, 0, 0, 2500, *[0] * 200])
    write_buckets(tmp_path / "some.arrow", table, sizes[sizes > 0])
    write_buckets(tmp_path / "all.arrow", table, sizes)
    with pa.ipc.open_file(tmp_path / "all.arrow") as reader:
        assert [reader.get_batch(bucket).num_rows for bucket in range(len(sizes))] == sizes.tolist()
        assert pa.Table.from_batches([reader.get_batch(1), reader.get_batch(4)]) == table
    assert (tmp_path / "all.arrow").stat().st_size < (tmp_path / "some.arrow").stat().st_size + 500 * len(sizes)
