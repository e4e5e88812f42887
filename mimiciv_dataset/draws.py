"""Random draws of index rows that depend on a seed and on what the rows are, on nothing else: uniform, weighted, balanced."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

KEY = ("subject_id", "event", "context_begin", "context_end")
"""What tells the rows of a task apart."""


def row_hashes(task: str, rows: pl.DataFrame, seed: int) -> np.ndarray:
    """A 64-bit number for each row, as good as random, that depends on the seed and on what the row is.

    So a draw does not depend on the order of rows, on how they are split over files, or on the process. The number is
    splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), fed with one
    part of the row after the other.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"subject_id": ["7", "8"], "event": "omr", "context_begin": 1, "context_end": 20})
    >>> one, two = row_hashes("omr", rows, 42).tolist()
    >>> one != two, row_hashes("omr", rows[::-1], 42).tolist() == [two, one]
    (True, True)
    >>> [row_hashes(*other)[0].item() == one for other in (("omr", rows, 43), ("emar", rows, 42))]
    [False, False]
    """
    import numpy as np
    import polars as pl

    state = np.full(rows.height, text_hash(f"{seed}:{task}"), dtype=np.uint64)
    for name in KEY:
        column = rows[name]
        if name in ("subject_id", "event"):
            texts = column.unique().to_list()
            column = column.cast(pl.String).replace_strict(
                texts, [text_hash(text or "") for text in texts], return_dtype=pl.UInt64
            )
        state = _mix(state ^ column.to_numpy().astype(np.uint64))
    return state


def text_hash(text: str) -> int:
    """64 bits of the sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mix(z: np.ndarray) -> np.ndarray:
    """One step of splitmix64; numbers wrap around at 64 bits."""
    import numpy as np

    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw_uniform(hashes: np.ndarray, number: int) -> np.ndarray:
    """Positions of the `number` rows with the smallest hashes, ascending: a uniform sample without replacement.

    >>> import numpy as np
    >>> draw_uniform(np.array([50, 10, 40, 20], dtype=np.uint64), 2).tolist()
    [1, 3]
    """
    import numpy as np

    return np.sort(np.argsort(hashes, kind="stable")[:number])


def draw_weighted(hashes: np.ndarray, weights: np.ndarray, number: int) -> np.ndarray:
    """Positions of a weighted sample without replacement, ascending.

    With u uniform in (0, 1), the rows with the smallest -log(u) / weight are a sample as if rows were drawn one after
    the other, each with probability proportional to its weight among those left (Efraimidis and Spirakis, "Weighted
    random sampling with a reservoir", Information Processing Letters 97, 2006).

    Here u is 1/2 in every row, so weight decides:

    >>> import numpy as np
    >>> half = np.full(4, 2**63, dtype=np.uint64)
    >>> draw_weighted(half, np.array([0.1, 1.0, 0.2, 0.5]), 2).tolist()
    [1, 3]

    Here the weights are equal: the largest u come first.

    >>> draw_weighted(np.array([5, 9, 7], dtype=np.uint64) << np.uint64(60), np.ones(3), 2).tolist()
    [1, 2]
    """
    import numpy as np

    u = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    keys = -np.log(u) / weights
    return np.sort(np.lexsort((hashes, keys))[:number])


def draw_balanced(hashes: np.ndarray, targets: np.ndarray, number: int) -> np.ndarray | None:
    """Positions of equally many rows of each label, ascending; None where there is one label only.

    Every label gets number // labels rows, or as many as the rarest one has.

    >>> import numpy as np
    >>> hashes, targets = np.arange(6, dtype=np.uint64), np.array(["no", "no", "yes", "no", "yes", "no"])
    >>> draw_balanced(hashes, targets, 2).tolist(), draw_balanced(hashes, targets, 100).tolist()
    ([0, 2], [0, 1, 2, 4])
    >>> draw_balanced(hashes, np.array(["no"] * 6), 4)
    """
    import numpy as np

    names, counts = np.unique(targets.astype(str), return_counts=True)
    if len(names) < 2:
        return None
    each = min(int(number) // len(names), counts.min())
    of_label = [np.flatnonzero(targets == name) for name in names]
    return np.sort(np.concatenate([rows[draw_uniform(hashes[rows], each)] for rows in of_label]))
