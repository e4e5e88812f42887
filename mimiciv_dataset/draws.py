"""Random draws of index rows without replacement: uniform, weighted or balanced.

What is drawn depends on the seed and on the content of the rows, not on their order or on how they are split over files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimiciv_dataset.row_numbers import COLUMNS, RowNumbers
from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

ALL = -1  # as a number of rows: all of them
KEY = ("subject_id", "event", "context_begin", "context_end")  # the columns that identify a row of a task
MAX_HELD = 1 << 20  # rows beyond twice those to be drawn that are held while they are drawn


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

    def choose(self, task: Task, rows: RowNumbers, targets: Sequence[str], number: float) -> tuple[np.ndarray, str]:
        """Draw `number` of the rows of a task: `ALL`, a number, or a fraction of the rows if below 1.

        Args:
            targets: the target of each label number of the rows, for a draw that balances them.

        Returns:
            The numbers of the rows drawn, in any order, and a note if there are fewer than requested.
        """
        import numpy as np

        nothing = np.zeros(0, COLUMNS)
        if number == 0 or not rows.height:
            return nothing, "" if number == 0 else "no rows"
        number = rows.height if number == ALL else int(number) if number >= 1 else max(1, round(number * rows.height))
        if self.balances(task):
            texts = np.array(targets, dtype=object)
            best = _smallest(rows, lambda part: _of_each_label(part, number), number * len(targets))
            chosen = draw_balanced(best["hash"], texts[best["label"]], number)
            if chosen is None:
                return nothing, f"not drawn: every row is {texts[best['label'][0]]}, AUROC is undefined"
            drawn = best[chosen]
        elif self.balance_sample or task.weighted:
            for part in rows:
                if not (np.isfinite(part["weight"]) & (part["weight"] > 0)).all():
                    raise UserError(
                        f"{task.name}: expected target_weight > 0 in every row, as this task is drawn by weight, got rows "
                        "without one. Make the index with task_sample_info_gen.py."
                    )
            drawn = _smallest(rows, lambda part: draw_weighted(part["hash"], part["weight"], number), number)
        else:
            drawn = _smallest(rows, lambda part: draw_uniform(part["hash"], number), number)
        return drawn, "" if len(drawn) >= number else f"fewer than {number:,}"

    def balances(self, task: Task) -> bool:
        """Whether the draw from a task balances its labels."""
        return self.balance_force and task.kind == "risk"


def _smallest(rows: Iterable[np.ndarray], draw: Callable[[np.ndarray], np.ndarray], number: int) -> np.ndarray:
    """The rows that `draw` takes from all, given that it takes none that it would not take from fewer rows.

    Args:
        draw: returns the positions of at most `number` rows.
    """
    import numpy as np

    best: list[np.ndarray] = []
    for part in rows:
        best.append(part)
        if sum(map(len, best)) > 2 * number + MAX_HELD:
            joined = np.concatenate(best)
            best = [joined[draw(joined)]]
    joined = np.concatenate(best)
    return joined[draw(joined)]


def _of_each_label(rows: np.ndarray, number: int) -> np.ndarray:
    """Positions of `number` rows of each label."""
    import numpy as np

    of_label = [np.flatnonzero(rows["label"] == label) for label in np.unique(rows["label"])]
    return np.concatenate([positions[draw_uniform(rows["hash"][positions], number)] for positions in of_label])


def row_hashes(task: str, rows: pl.DataFrame, seed: int) -> np.ndarray:
    """A pseudorandom 64-bit number for each row, determined by the seed, the task and the columns `KEY`.

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
    for name in KEY:
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


def draw_weighted(hashes: np.ndarray, weights: np.ndarray, number: int) -> np.ndarray:
    """Positions of a weighted sample without replacement, ascending.

    With u uniform in (0, 1), the rows with the smallest -log(u) / weight are distributed as if rows were drawn one after
    the other, each with probability proportional to its weight among the remaining ones (Efraimidis and Spirakis, "Weighted
    random sampling with a reservoir", Information Processing Letters 97, 2006).

    With the same u in every row, the largest weights are drawn; with equal weights, the largest u:

    >>> import numpy as np
    >>> draw_weighted(np.full(4, 2**63, dtype=np.uint64), np.array([0.1, 1.0, 0.2, 0.5]), 2).tolist()
    [1, 3]
    >>> draw_weighted(np.array([5, 9, 7], dtype=np.uint64) << np.uint64(60), np.ones(3), 2).tolist()
    [1, 2]
    """
    import numpy as np

    u = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    keys = -np.log(u) / weights
    return np.sort(np.lexsort((hashes, keys))[:number])


def draw_balanced(hashes: np.ndarray, targets: np.ndarray, number: int) -> np.ndarray | None:
    """Positions of a sample with equally many rows of each label, ascending; None if all rows have the same label.

    Each of L labels gets number // L rows, or as many as the rarest label has.

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
