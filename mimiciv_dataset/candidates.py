"""The candidates of a sample: the answers that a prompt offers.

The candidates of risk tasks are yes and no. Those of decision tasks are the whole vocabulary of the task if it has at most 100
answers, otherwise the sample's own answers and their nearest neighbours. Choice and order depend on the sample's key alone, so
that a resumed, sharded or shuffled run sees the same prompts. The files are read with the csv module alone, so that dataloader
workers can fork.

    cache/item_set/<task>.csv       one column `item`: the distinct answers of the task in the training split
    cache/similar_item/<task>.csv   no header: an answer, then its nearest answers
"""

from __future__ import annotations

import csv
import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from mimiciv_dataset.tasks import NO, TASKS, YES, Task  # noqa: F401  (TASKS: for the doctest)
from pipeline.errors import UserError

MAX_CANDIDATES = 100
HEADER = "item"


class Candidates:
    """The candidates of samples, from the directory `cache/`; the files of a task are read on first use."""

    def __init__(self, cache_dir: Path | str) -> None:
        self.cache_dir = Path(cache_dir)
        self._vocabularies: dict[str, Vocabulary | None] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"cache_dir": self.cache_dir, "_vocabularies": {}}  # smaller pickles: workers read the files

    def of(self, task: Task, answers: Sequence[str], key: str) -> list[str] | None:
        """The candidates of a sample, shuffled; None for a generation task and for a task without cache files.

        Args:
            answers: the sample's own answers, which are always among the candidates.
            key: names the sample, such as its task, patient and window.

        >>> candidates = Candidates("nowhere")
        >>> sorted(candidates.of(TASKS["ICU_Readmission"], ["no"], "key"))
        ['no', 'yes']
        >>> candidates.of(TASKS["emar"], ["Aspirin"], "key") is None
        True
        """
        if task.kind == "generation":
            return None
        if task.kind == "risk":
            return shuffle_names([YES, NO], key)
        vocabulary = self.vocabulary(task.name)
        return None if vocabulary is None else choose(vocabulary, answers, key)

    def vocabulary(self, task: str) -> Vocabulary | None:
        """The vocabulary of a task; None if there are no files."""
        if task not in self._vocabularies:
            paths = (self.cache_dir / folder / f"{task}.csv" for folder in ("item_set", "similar_item"))
            self._vocabularies[task] = Vocabulary.read(*paths)
        return self._vocabularies[task]


class Vocabulary:
    """The distinct answers of a task, and the neighbours of each, nearest first.

    `similar` has lists of an answer and its neighbours. Neighbours are stored as numbers: a hundred names for each of
    thirty thousand answers would fill a worker's memory.

    >>> v = Vocabulary(["a", "b"], [["a", "b", "c"], ["c", "a"]])
    >>> v.items, v.neighbours("a"), v.neighbours("b"), v.neighbours("c")
    (['a', 'b', 'c'], ['b', 'c'], [], ['a'])
    """

    def __init__(self, items: Sequence[str], similar: Iterable[list[str]] = ()) -> None:
        self._number: dict[str, int] = {}
        self._neighbours: dict[int, array[int]] = {}
        for item in items:
            self._number.setdefault(item, len(self._number))
        for answer, *others in similar:
            numbers = (self._number.setdefault(name, len(self._number)) for name in (answer, *others) if name)
            own = next(numbers)
            self._neighbours[own] = array("i", (number for number in numbers if number != own))
        self.items = list(self._number)

    @classmethod
    def read(cls, item_set: Path, similar_item: Path) -> Vocabulary | None:
        """Read a vocabulary from its two files, either of which can be missing; None if both are."""
        if not item_set.exists() and not similar_item.exists():
            return None
        items = [row[0] for row in _read_csv(item_set)] if item_set.exists() else []
        items = items[1:] if items[:1] == [HEADER] else items  # a file without a header is accepted
        return cls(items, _read_csv(similar_item) if similar_item.exists() else ())

    def neighbours(self, answer: str) -> list[str]:
        """The neighbours of an answer, nearest first; empty for an unknown answer."""
        return [self.items[number] for number in self._neighbours.get(self._number.get(answer, -1), ())]


def _read_csv(path: Path) -> Iterator[list[str]]:
    """Yield the non-empty lines of a CSV."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in csv.reader(file) if row and row[0])
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: expected a CSV in UTF-8, got something else. Make it with similar_item_gen.py.") from None


def choose(vocabulary: Vocabulary, answers: Sequence[str], key: str, max_candidates: int = MAX_CANDIDATES) -> list[str]:
    """Choose the candidates of a sample: its answers, and other names up to `max_candidates` in all.

    A small vocabulary is used whole. From a larger one, neighbours are taken from each answer in turn, so that every answer is
    represented. If there are too few, pseudorandom names fill the list, so that the answer is not the only candidate.

    >>> small, large = Vocabulary(["a", "b", "c"]), Vocabulary("abcdefgh", [["a", "c", "d", "e"], ["b", "f", "c", "g"]])
    >>> sorted(choose(small, ["x"], "key")), sorted(choose(large, ["a", "b"], "key", max_candidates=5))
    (['a', 'b', 'c', 'x'], ['a', 'b', 'c', 'd', 'f'])
    >>> len(choose(large, ["x"], "key", max_candidates=4)), "x" in choose(large, ["x"], "key", max_candidates=4)
    (4, True)
    >>> choose(large, ["x"], "key", max_candidates=4) == choose(large, ["x"], "other", max_candidates=4)
    False
    """
    names = dict.fromkeys(answers)
    if len(vocabulary.items) <= max_candidates:
        return shuffle_names([*names | dict.fromkeys(vocabulary.items)], key)
    turns = zip_longest(*(vocabulary.neighbours(answer) for answer in names))
    for name in filter(None, chain.from_iterable(turns)):
        if len(names) >= max_candidates:
            break
        names[name] = None
    draw = generator(key)
    while len(names) < max_candidates:
        names[vocabulary.items[draw.randrange(len(vocabulary.items))]] = None
    return shuffle_names(list(names), key)


def generator(key: str) -> random.Random:
    """A pseudorandom generator seeded by the key."""
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big"))


def shuffle_names(names: list[str], key: str) -> list[str]:
    """Shuffle names: the order depends on the key and the names, not on their order.

    >>> shuffle_names(["a", "b", "c"], "key") == shuffle_names(["c", "a", "b"], "key")
    True
    """
    names = sorted(names)
    generator(key).shuffle(names)
    return names
