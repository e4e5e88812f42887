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
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from mimiciv_dataset.tasks import NO, TASKS, YES, Task  # noqa: F401  (TASKS: for the doctest)
from pipeline.errors import UserError

MAX_CANDIDATES = 100
HEADER = "item"


class Candidates:
    """The candidates of samples, from the files of `cache/`; those of a task are read on first use.

    Args:
        cache_dir: directory with `item_set/` and `similar_item/`.
    """

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

    Neighbours are stored as numbers: a hundred names for each of thirty thousand answers would fill a worker's memory.

    Args:
        items: the answers.
        similar: lists of an answer and its neighbours.

    >>> v = Vocabulary(["a", "b"], [["a", "b", "c"], ["c", "a"]])
    >>> v.items, v.neighbours("a"), v.neighbours("b"), v.neighbours("c")
    (['a', 'b', 'c'], ['b', 'c'], [], ['a'])
    """

    def __init__(self, items: Sequence[str], similar: Iterator[list[str]] | Sequence[list[str]] = ()) -> None:
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
        """Read a vocabulary from its two files, either of which can be missing; None if both are.

        The first line of an item set is its header if it is `item`; a similar_item file has no header.
        """
        if not item_set.exists() and not similar_item.exists():
            return None
        items = [row[0] for row in _read_csv(item_set)] if item_set.exists() else []
        items = items[1:] if items[:1] == [HEADER] else items
        return cls(items, _read_csv(similar_item) if similar_item.exists() else ())

    def neighbours(self, answer: str) -> list[str]:
        """The neighbours of an answer, nearest first; empty for an unknown answer."""
        return [self.items[number] for number in self._neighbours.get(self._number.get(answer, -1), ())]


def _read_csv(path: Path) -> Iterator[list[str]]:
    """The non-empty lines of a CSV.

    Raises:
        UserError: the file is not a CSV in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in csv.reader(file) if row and row[0])
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: expected a CSV in UTF-8, got something else. Make it with similar_item_gen.py.") from None


def choose(vocabulary: Vocabulary, answers: Sequence[str], key: str, max_candidates: int = MAX_CANDIDATES) -> list[str]:
    """Choose the candidates of a sample: its answers, and other names up to `max_candidates` in all.

    A small vocabulary is used whole:

    >>> v = Vocabulary(["a", "b", "c"])
    >>> sorted(choose(v, ["a"], "key")), sorted(choose(v, ["x"], "key"))
    (['a', 'b', 'c'], ['a', 'b', 'c', 'x'])

    From a larger one, neighbours are taken from each answer in turn, so that every answer is represented:

    >>> v = Vocabulary("abcdefgh", [["a", "c", "d", "e"], ["b", "f", "c", "g"]])
    >>> sorted(choose(v, ["a"], "key", max_candidates=3)), sorted(choose(v, ["a", "b"], "key", max_candidates=5))
    (['a', 'c', 'd'], ['a', 'b', 'c', 'd', 'f'])

    If there are too few neighbours, pseudorandom names fill the list, so that the answer is not the only candidate:

    >>> len(choose(v, ["x"], "key", max_candidates=4)), "x" in choose(v, ["x"], "key", max_candidates=4)
    (4, True)

    The result depends on the key:

    >>> choose(v, ["x"], "key", max_candidates=4) == choose(v, ["x"], "other", max_candidates=4)
    False
    """
    names = dict.fromkeys(answers)
    if len(vocabulary.items) <= max_candidates:
        names.update(dict.fromkeys(vocabulary.items))
        return shuffle_names(list(names), key)
    turns = zip_longest(*(vocabulary.neighbours(answer) for answer in names))
    for name in chain.from_iterable(turns):
        if len(names) >= max_candidates:
            break
        if name is not None:
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
