"""In which order samples are trained: pure functions of sizes, seed and epoch, so that a resumed run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor

import numpy as np
from torch.utils.data import Sampler

GROUPED = 50
"""Global batches that length grouping looks at together: enough to find equals, few enough to keep the order random."""


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of n samples, another one each epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def second_so_far(n1: int, n2: int, step: int) -> int:
    """How many of the first `step` samples of a curriculum come from the second source.

    Sizes n1 > n2. Up to the fraction 1 − 2·n2/n1 of training there are none; from there the second source's share rises
    linearly to 1, until one source is used up and the other fills the rest. In closed form: the share's integral.

    >>> [second_so_far(100, 10, step) for step in (0, 88, 99, 110)]
    [0, 0, 2, 10]
    """
    total = n1 + n2
    start = max(0.0, total * (1 - 2 * n2 / n1))
    so_far = floor((step - start) ** 2 / (2 * (total - start))) if step > start else 0
    return max(step - n1, min(n2, so_far))


def curriculum(n1: int, n2: int, seed: int, epoch: int) -> np.ndarray:
    """Order of two sources, the second's samples numbered from n1 on; which of a source's samples comes next is random.

    >>> order = curriculum(6, 2, seed=0, epoch=0)
    >>> sorted(order.tolist()) == list(range(8)), bool((order[:4] < 6).all())
    (True, True)
    """
    counts = np.array([second_so_far(n1, n2, step) for step in range(n1 + n2 + 1)])
    from_second = np.diff(counts) == 1
    order = np.empty(n1 + n2, dtype=np.int64)
    order[~from_second] = shuffled(n1, seed, 2 * epoch)
    order[from_second] = n1 + shuffled(n2, seed, 2 * epoch + 1)
    return order


def grouped_by_length(order: np.ndarray, lengths: Sequence[int] | np.ndarray, batch: int, seed: int, epoch: int) -> np.ndarray:
    """The order with global batches of similar length: less padding, and no rank waits for another's long sample.

    Within each `GROUPED` global batches samples are sorted by length and the batches then shuffled. The longest batch of
    all comes first, so that one too large for memory fails at once.

    >>> order = grouped_by_length(np.arange(8), [1, 9, 2, 8, 1, 9, 2, 8], batch=4, seed=0, epoch=0)
    >>> sorted(order[:4].tolist()), sorted(order[4:].tolist())
    ([1, 3, 5, 7], [0, 2, 4, 6])
    """
    lengths = np.asarray(lengths)
    draw = np.random.default_rng([seed, epoch, 1])
    batches: list[np.ndarray] = []
    for start in range(0, len(order), GROUPED * batch):
        group = order[start : start + GROUPED * batch]
        group = group[np.argsort(-lengths[group], kind="stable")]
        parts = [group[at : at + batch] for at in range(0, len(group), batch)]
        last = [parts.pop()] if len(parts[-1]) < batch else []
        batches += [parts[i] for i in draw.permutation(len(parts))] + last
    whole = [i for i, part in enumerate(batches) if len(part) == batch]
    if whole:
        longest = max(whole, key=lambda i: lengths[batches[i]].sum())
        batches[0], batches[longest] = batches[longest], batches[0]
    return np.concatenate(batches) if batches else order


class EpochSampler(Sampler[int]):
    """Yields an epoch's order; set `epoch` before (`training.trainer` does, from the trainer's state)."""

    def __init__(self, order: Callable[[int], np.ndarray], size: int) -> None:
        self.order, self.size, self.epoch = order, size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())
