"""The order of training samples: pure functions of sizes, seed and epoch, so that a resumed run keeps its order."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np

from pipeline.errors import UserError

GROUP_BATCHES = 50  # batches that length grouping sorts together: enough to match lengths, few enough to stay random


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """A random permutation of n samples, different in each epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def second_source_count(n1: int, n2: int, step: int) -> int:
    """The number of samples from the second source among the first `step` samples of a curriculum.

    For sizes n1 > n2 the second source is not used in the first 1 − 2·n2/n1 of training. Its share then rises linearly to 1,
    until one source is exhausted and the other provides the rest. The count is the integral of the share, in closed form.

    >>> [second_source_count(100, 10, step) for step in (0, 88, 99, 110)]
    [0, 0, 2, 10]
    """
    total = n1 + n2
    start = max(0.0, total * (1 - 2 * n2 / n1))
    count = floor((step - start) ** 2 / (2 * (total - start))) if step > start else 0
    return max(step - n1, min(n2, count))


def curriculum(n1: int, n2: int, seed: int, epoch: int) -> np.ndarray:
    """The order of two sources of n1 and n2 samples, each shuffled; the second source's samples are numbered from n1.

    >>> order = curriculum(6, 2, seed=0, epoch=0)
    >>> sorted(order.tolist()) == list(range(8)), bool((order[:4] < 6).all())
    (True, True)
    """
    counts = np.array([second_source_count(n1, n2, step) for step in range(n1 + n2 + 1)])
    from_second = np.diff(counts) == 1
    order = np.empty(n1 + n2, dtype=np.int64)
    order[~from_second] = shuffled(n1, seed, 2 * epoch)
    order[from_second] = n1 + shuffled(n2, seed, 2 * epoch + 1)
    return order


def parse_weights(text: str, files: int) -> list[float]:
    """The value of `--dataset_weights`, one positive number for each file.

    >>> parse_weights("1,0.5", files=2)
    [1.0, 0.5]
    """
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != files or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"--dataset_weights: expected {files} positive numbers, one for each file, got {text}.")
    return weights


def weighted(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch in which each sample of source i is drawn `weights[i]` times on average.

    Sources have `sizes` samples, numbered through all of them. A source is read in shuffled passes, one after another, and
    each epoch takes the next part: so no sample is drawn again before all others of its source were.

    >>> [weighted([4, 2], [0.5, 2], seed=0, epoch=epoch).tolist().count(5) for epoch in range(2)]
    [2, 2]
    >>> sorted(np.concatenate([weighted([4, 2], [0.5, 1], seed=0, epoch=epoch) for epoch in range(2)]).tolist())
    [0, 1, 2, 3, 4, 4, 5, 5]
    """
    drawn, first = [], 0
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        count = max(1, round(size * weight))
        earlier_passes, start = divmod(epoch * count, size)
        passes = range(earlier_passes, earlier_passes + (start + count - 1) // size + 1)
        order = np.concatenate([np.random.default_rng([seed, source, number]).permutation(size) for number in passes])
        drawn.append(first + order[start : start + count])
        first += size
    samples = np.concatenate(drawn)
    return samples[shuffled(len(samples), seed, epoch)]


def grouped_by_length(order: np.ndarray, lengths: Sequence[int] | np.ndarray, batch: int, seed: int, epoch: int) -> np.ndarray:
    """Reorder samples so that global batches have similar length: less padding, and ranks wait less for each other.

    Each group of `GROUP_BATCHES` global batches is sorted by length, and its batches are shuffled. The longest batch of all
    comes first, so that a batch too large for memory fails at once.
    `order` and `lengths` (in any unit) have shape (n,); `batch` is the number of samples in a global batch.

    >>> order = grouped_by_length(np.arange(8), [1, 9, 2, 8, 1, 9, 2, 8], batch=4, seed=0, epoch=0)
    >>> sorted(order[:4].tolist()), sorted(order[4:].tolist())
    ([1, 3, 5, 7], [0, 2, 4, 6])
    """
    lengths = np.asarray(lengths)
    rng = np.random.default_rng([seed, epoch, 1])
    batches: list[np.ndarray] = []
    for start in range(0, len(order), GROUP_BATCHES * batch):
        group = order[start : start + GROUP_BATCHES * batch]
        group = group[np.argsort(-lengths[group], kind="stable")]
        full = [group[at : at + batch] for at in range(0, len(group), batch)]
        partial = [full.pop()] if len(full[-1]) < batch else []
        batches += [full[i] for i in rng.permutation(len(full))] + partial
    full_batches = [i for i, samples in enumerate(batches) if len(samples) == batch]
    if full_batches:
        longest = max(full_batches, key=lambda i: lengths[batches[i]].sum())
        batches[0], batches[longest] = batches[longest], batches[0]
    return np.concatenate(batches) if batches else order
