"""The rows of a task that can be drawn, as a few numbers each, on disk.

An index can have more rows than fit in memory. A draw needs a hash of the key of each row, its weight and its place. These
numbers are kept in files by a hash of patient and end of window, so that repeated rows are in the same file, and rows of
another index with the same patient and end in the file of the same number; one file at a time is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PARTS_LOG2 = 6  # 64 files, which hold ascending ranges of `window_end`

COLUMNS = [
    ("hash", "u8"),  # of the key, pseudorandom by seed
    ("content", "u8"),  # hash of the whole row
    ("window_end", "u8"),  # hash of task, patient and end of the window
    ("weight", "f8"),  # target_weight; NaN if there is none
    ("file", "u4"),  # number of the file
    ("row", "u4"),  # number of the row in it
    ("label", "u4"),  # number of the target, for draws that balance them
    ("passes", "u1"),  # bits: the filters that the row passes
    ("flags", "u1"),  # bits: its audit flags
]


class RowHashes:
    """Hashes of rows, in files of ranges."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._paths = _paths(folder)

    def add(self, hashes: np.ndarray) -> None:
        """Add hashes, which can repeat."""
        _append(self._paths, hashes, hashes)

    def repeated(self) -> int:
        """How many hashes were added that equal an earlier one."""
        import numpy as np

        return sum(len(part) - len(np.unique(part)) for part in map(self.part, range(len(self._paths))))

    def part(self, number: int) -> np.ndarray:
        """The hashes of a range."""
        import numpy as np

        path = self._paths[number]
        return np.fromfile(path, "u8") if path.exists() else np.zeros(0, "u8")


def _paths(folder: Path) -> list[Path]:
    return [folder / f"{part:02d}.bin" for part in range(1 << PARTS_LOG2)]


def _append(paths: Sequence[Path], values: np.ndarray, hashes: np.ndarray) -> None:
    """Append values to the files of the ranges of their hashes."""
    import numpy as np

    parts = hashes >> np.uint64(64 - PARTS_LOG2)
    values = values[np.argsort(parts, kind="stable")]
    ends = np.cumsum(np.bincount(parts.astype(np.int64), minlength=len(paths)))
    for path, start, end in zip(paths, [0, *ends[:-1]], ends, strict=True):
        if end > start:
            with path.open("ab") as file:
                file.write(values[start:end].tobytes())


class RowNumbers:
    """Numbers of rows (`COLUMNS`), in files of ranges of their `window_end`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._paths = _paths(folder)
        self.height = 0

    def add(self, rows: np.ndarray) -> None:
        """Add rows."""
        _append(self._paths, rows, rows["window_end"])
        self.height += len(rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows in parts."""
        import numpy as np

        for path in self._paths:
            if path.exists():
                yield np.fromfile(path, COLUMNS)

    def keep(self, condition: Callable[[np.ndarray], np.ndarray]) -> None:
        """Keep the rows for which the condition is true."""
        self.height = 0
        for path, rows in zip(filter(Path.exists, self._paths), self, strict=True):
            kept = rows[condition(rows)]
            kept.tofile(path)
            self.height += len(kept)

    def keep_distinct(self, task: Task, steps: int, seen: RowHashes | None, unseen: int) -> list[int]:
        """Keep the rows that pass the first `steps` filters, once each, and count those that pass the first 0, 1, … filters.

        Args:
            seen: rows whose patient and end of window are among these do not pass filter number `unseen`.

        Raises:
            UserError: two rows of the same sample differ, as those of different builds do.
        """
        import numpy as np

        counts, contradicting, height = [0] * (steps + 1), 0, 0
        for number, path in enumerate(self._paths):
            if not path.exists():
                continue
            rows = np.fromfile(path, COLUMNS)
            rows = rows[np.lexsort((rows["content"], rows["hash"]))]
            same_key = np.append(False, rows["hash"][1:] == rows["hash"][:-1])
            repeated = same_key & np.append(False, rows["content"][1:] == rows["content"][:-1])
            rows, same_key = rows[~repeated], same_key[~repeated]
            contradicting += int((same_key | np.append(same_key[1:], False)).sum()) if len(rows) else 0
            if seen is not None:
                rows["passes"][np.isin(rows["window_end"], seen.part(number))] &= ~np.uint8(1 << unseen)
            for step in range(steps + 1):
                bits = (1 << step) - 1
                kept = rows[rows["passes"] & bits == bits]
                counts[step] += len(kept)
            kept.tofile(path)
            height += len(kept)
        if contradicting:
            got = f"{contradicting:,} rows that contradict another of the same patient and window"
            raise UserError(f"{task.name}: expected one row per sample, got {got}. Do not mix indexes of two builds.")
        self.height = height
        return counts
