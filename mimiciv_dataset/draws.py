"""Random draws of index rows without replacement: uniform, weighted or balanced.

What is drawn depends on the seed and on the content of the rows, not on their order or on how they are split over files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimiciv_dataset.row_numbers import RowNumbers
from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

ALL = -1  # as a number of rows: all of them
KEY = ("subject_id", "event", "context_begin", "context_end")  # the columns that identify a row of a task


@dataclass(frozen=True)
class Draw:
    """Settings of a draw.

    Attributes:
        balance_sample: weight the rows of every task by target_weight, not only those of `Task.weighted` tasks.
        balance_force: draw equally many rows of each label for risk tasks.
        seed: seed of the draw.
    """

    balance_sample: bool = False
    balance_force: bool = False
    seed: int = 42

    def choose(self, task: Task, rows: RowNumbers, targets: Sequence[str], number: float) -> str:
        """Draw `number` of the rows of a task, which are kept: `ALL`, a number, or a fraction of the rows if below 1.

        Args:
            targets: the target of each label number of the rows, for a draw that balances them.

        Returns:
            A note if there are fewer than requested.
        """
        import numpy as np

        def none_of(part: np.ndarray) -> np.ndarray:
            return np.zeros(len(part), bool)

        if number == 0 or not rows.height:
            rows.keep(none_of)
            return "" if number == 0 else "no rows"
        number = rows.height if number == ALL else int(number) if number >= 1 else max(1, round(number * rows.height))
        if self.balances(task):
            counts = sum(np.bincount(part["label"], minlength=len(targets)) for part in rows)
            labels = np.flatnonzero(counts)
            if len(labels) < 2:
                rows.keep(none_of)
                return f"not drawn: every row is {targets[labels[0]]}, AUROC is undefined"
            if each := min(number // len(labels), int(counts[labels].min())):
                keep_smallest(rows, lambda part: part["hash"], dict.fromkeys(labels.tolist(), each))
            else:
                rows.keep(none_of)
        elif self.balance_sample or task.weighted:
            for part in rows:
                if not (np.isfinite(part["weight"]) & (part["weight"] > 0)).all():
                    raise UserError(
                        f"{task.name}: expected target_weight > 0 in every row, as this task is drawn by weight, got rows "
                        "without one. Make the index with task_sample_info_gen.py."
                    )
            keep_smallest(rows, lambda part: weighted_keys(part["hash"], part["weight"]), {0: number})
        else:
            keep_smallest(rows, lambda part: part["hash"], {0: number})
        return "" if rows.height >= number else f"fewer than {number:,}"

    def balances(self, task: Task) -> bool:
        """Whether the draw from a task balances its labels."""
        return self.balance_force and task.kind == "risk"


def keep_smallest(rows: RowNumbers, key: Callable[[np.ndarray], np.ndarray], numbers: Mapping[int, int]) -> None:
    """Keep the rows with the smallest keys, and among equal keys those with the smallest hashes, without holding them.

    Args:
        key: unsigned 64-bit numbers of rows.
        numbers: how many rows of each label number to keep; all if there are fewer.
    """
    import numpy as np

    limits = {}  # of each label: the largest key and hash of a row that is kept
    for label, number in numbers.items():
        largest = number_at(lambda label=label: (values for values, _ in _keys(rows, key, label)), number)
        if largest is not None:
            below = sum(int((values < largest).sum()) for values, _ in _keys(rows, key, label))
            equal = np.sort(np.concatenate([hashes[values == largest] for values, hashes in _keys(rows, key, label)]))
            limits[label] = largest, equal[number - below - 1]

    def is_kept(part: np.ndarray) -> np.ndarray:
        values, kept = key(part), np.ones(len(part), bool)
        for label, (largest, last) in limits.items():
            smallest = (values < largest) | (values == largest) & (part["hash"] <= last)
            kept &= smallest | (part["label"] != label)
        return kept

    rows.keep(is_kept)


def _keys(
    rows: Iterable[np.ndarray], key: Callable[[np.ndarray], np.ndarray], label: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the keys and hashes of the rows of a label."""
    for part in rows:
        of_label = part[part["label"] == label]
        yield key(of_label), of_label["hash"]


def number_at(numbers: Callable[[], Iterable[np.ndarray]], position: int) -> np.uint64 | None:
    """The number at a position, from 1, of the sorted unsigned 64-bit `numbers`; None if there are fewer.

    They are read four times, and none is held: each time 16 further bits of the number are found by counting.

    >>> import numpy as np
    >>> parts = np.array([1 << 60, 7], np.uint64), np.array([7, 5, 1 << 20], np.uint64)
    >>> [number_at(lambda: parts, position) for position in (1, 2, 3, 4, 5, 6)] == [5, 7, 7, 1 << 20, 1 << 60, None]
    True
    """
    import numpy as np

    found, digits = 0, np.uint64(0xFFFF)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for part in numbers():
            if shift < 48:
                part = part[part >> np.uint64(shift + 16) == np.uint64(found)]
            counts += np.bincount((part >> np.uint64(shift) & digits).astype(np.int64), minlength=len(counts))
        ends = np.cumsum(counts)
        if position > ends[-1]:
            return None
        digit = int(np.searchsorted(ends, position))
        position -= int(ends[digit] - counts[digit])
        found = found << 16 | digit
    return np.uint64(found)


def row_hashes(task: str, rows: pl.DataFrame, seed: int, key: Sequence[str] = KEY) -> np.ndarray:
    """A pseudorandom 64-bit number for each row, determined by the seed, the task and the columns `key`.

    The number is the output of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
    2014), applied to one column after the other.

    >>> import polars as pl
    >>> rows = pl.DataFrame({"subject_id": ["7", "8"], "event": "omr", "context_begin": 1, "context_end": 20})
    >>> first, second = row_hashes("omr", rows, 42).tolist()
    >>> first != second, row_hashes("omr", rows[::-1], 42).tolist() == [second, first]
    (True, True)
    >>> [row_hashes(*other)[0].item() == first for other in (("omr", rows, 43), ("emar", rows, 42))]
    [False, False]
    """
    import numpy as np
    import polars as pl

    state = np.full(rows.height, text_hash(f"{seed}:{task}"), dtype=np.uint64)
    for name in key:
        column = rows[name]
        if name in ("subject_id", "event"):
            hashes = {text: text_hash(text or "") for text in column.unique()}
            column = column.cast(pl.String).replace_strict(hashes, return_dtype=pl.UInt64)
        state = _mix(state ^ column.to_numpy().astype(np.uint64))
    return state


def text_hash(text: str) -> int:
    """The first 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mix(z: np.ndarray) -> np.ndarray:
    """One step of splitmix64, modulo 2**64."""
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


def weighted_keys(hashes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Keys of which the smallest ones are those of a weighted sample without replacement, as unsigned 64-bit numbers.

    With u uniform in (0, 1), the rows with the smallest -log(u) / weight are distributed as if rows were drawn one after
    the other, each with probability proportional to its weight among the remaining ones (Efraimidis and Spirakis, "Weighted
    random sampling with a reservoir", Information Processing Letters 97, 2006). The bits of positive floats have their order.

    With the same u in every row, the largest weight has the smallest key; with equal weights, the largest u:

    >>> import numpy as np
    >>> np.argsort(weighted_keys(np.full(4, 2**63, dtype=np.uint64), np.array([0.1, 1.0, 0.2, 0.5]))).tolist()
    [1, 3, 2, 0]
    >>> np.argsort(weighted_keys(np.array([5, 9, 7], dtype=np.uint64) << np.uint64(60), np.ones(3))).tolist()
    [1, 2, 0]
    """
    import numpy as np

    u = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return (-np.log(u) / weights + 0.0).view(np.uint64)  # 0.0: u can be rounded to 1, whose logarithm becomes -0.0
