"""The candidates of a sample: the answers a prompt offers.

Risk tasks offer yes and no. A vocabulary of at most 100 answers is offered whole; of a larger one, the neighbours of
the sample's own answers. What is drawn and in which order follows from the sample's key alone, so that a resumed,
sharded or shuffled run sees the same prompts. Only the csv module reads the files, so that dataloader workers may fork.

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
    """Candidates from one cache folder. A task's files are read when it is first asked for.

    Args:
        cache_dir: `cache/`, with `item_set/` and `similar_item/` below it.
    """

    def __init__(self, cache_dir: Path | str) -> None:
        self.cache_dir = Path(cache_dir)
        self._vocabularies: dict[str, Vocabulary | None] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"cache_dir": self.cache_dir, "_vocabularies": {}}  # workers read their own: smaller pickles

    def of(self, task: Task, answers: Sequence[str], key: str) -> list[str] | None:
        """The candidates of a sample, shuffled; None for a task without cache files, and for generation.

        Args:
            answers: the sample's own answers; they are always among the candidates.
            key: what names the sample, such as its task, patient and window.

        >>> candidates = Candidates("nowhere")
        >>> sorted(candidates.of(TASKS["ICU_Readmission"], ["no"], "key"))
        ['no', 'yes']
        >>> candidates.of(TASKS["emar"], ["Aspirin"], "key") is None
        True
        """
        if task.kind == "generation":
            return None
        if task.kind == "risk":
            return shuffled([YES, NO], key)
        vocabulary = self.vocabulary(task.name)
        return None if vocabulary is None else choose(vocabulary, answers, key)

    def vocabulary(self, task: str) -> Vocabulary | None:
        """The answers of a task and their neighbours; None if there are no files."""
        if task not in self._vocabularies:
            self._vocabularies[task] = read_vocabulary(
                self.cache_dir / "item_set" / f"{task}.csv", self.cache_dir / "similar_item" / f"{task}.csv"
            )
        return self._vocabularies[task]


class Vocabulary:
    """The distinct answers of a task, and for each its neighbours, nearest first.

    Neighbours are kept as numbers: a hundred names for each of thirty thousand answers would fill a worker's memory.

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

    def neighbours(self, answer: str) -> list[str]:
        """The nearest answers, nearest first; none for an unknown answer."""
        return [self.items[number] for number in self._neighbours.get(self._number.get(answer, -1), ())]


def read_vocabulary(item_set: Path, similar_item: Path) -> Vocabulary | None:
    """The vocabulary in a task's two files, either of which may be missing; None without both.

    The first line of an item set is its header if it says `item`; a similar_item file has none, so that its first line
    is an answer like the others.
    """
    if not item_set.exists() and not similar_item.exists():
        return None
    items = [row[0] for row in read_lines(item_set)] if item_set.exists() else []
    if items[:1] == [HEADER]:
        items = items[1:]
    return Vocabulary(items, read_lines(similar_item) if similar_item.exists() else ())


def read_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a CSV that begin with a name.

    Raises:
        UserError: the file is no CSV in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in csv.reader(file) if row and row[0])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: wanted a CSV in UTF-8, found: {error}; make it with similar_item_gen.py") from None


def choose(vocabulary: Vocabulary, answers: Sequence[str], key: str, most: int = MAX_CANDIDATES) -> list[str]:
    """A sample's candidates: its answers, and up to `most` names in all.

    A small vocabulary is offered whole:

    >>> v = Vocabulary(["a", "b", "c"])
    >>> sorted(choose(v, ["a"], "key")), sorted(choose(v, ["x"], "key"))
    (['a', 'b', 'c'], ['a', 'b', 'c', 'x'])

    Of a larger one, the answers take turns in naming their neighbours, so that all of them are represented:

    >>> v = Vocabulary("abcdefgh", [["a", "c", "d", "e"], ["b", "f", "c", "g"]])
    >>> sorted(choose(v, ["a"], "key", most=3)), sorted(choose(v, ["a", "b"], "key", most=5))
    (['a', 'c', 'd'], ['a', 'b', 'c', 'd', 'f'])

    An answer without neighbours would stand alone, and so give itself away: names drawn by the key fill the list.

    >>> len(choose(v, ["x"], "key", most=4)), "x" in choose(v, ["x"], "key", most=4)
    (4, True)

    The same key gives the same list:

    >>> choose(v, ["x"], "key", most=4) == choose(v, ["x"], "key", most=4) != choose(v, ["x"], "other", most=4)
    True
    """
    names = dict.fromkeys(answers)
    if len(vocabulary.items) <= most:
        names.update(dict.fromkeys(vocabulary.items))
        return shuffled(list(names), key)
    turns = zip_longest(*(vocabulary.neighbours(answer) for answer in names))
    for name in chain.from_iterable(turns):
        if len(names) >= most:
            break
        if name is not None:
            names[name] = None
    draw = generator(key)
    while len(names) < most:
        names[vocabulary.items[draw.randrange(len(vocabulary.items))]] = None
    return shuffled(list(names), key)


def generator(key: str) -> random.Random:
    """A random generator of the key's own."""
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big"))


def shuffled(names: list[str], key: str) -> list[str]:
    """The names in an order that depends on the key and on which names they are, not on how they came.

    >>> shuffled(["a", "b", "c"], "key") == shuffled(["c", "a", "b"], "key")
    True
    """
    names = sorted(names)
    generator(key).shuffle(names)
    return names
