"""Count the pairs of an answer and a concept of the history in the samples of a task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError
from pipeline.files import atomic_path
from thinking_graph_preprocess.concept_files import normalise
from thinking_graph_preprocess.packed_concepts import PackedConcepts

COUNT_CONCEPTS = 16 << 20  # concepts of histories counted at a time
BANDS = 16  # ranges of targets whose pairs are summed separately, so that a sum never takes twice the memory of all pairs
WRITE_PAIRS = 1 << 20  # pairs written at a time


class PairCounter:
    """Counts the samples of one task, given the concepts of all patients."""

    def __init__(self, task: Task, concepts: PackedConcepts) -> None:
        self.task, self.concepts = task, concepts
        self.samples = 0
        self.of_concept = np.zeros(len(concepts.names), np.int64)
        self._band = -(-len(concepts.names) // BANDS)  # targets of a band
        self._pairs: list[list[csr_matrix]] = [[] for _ in range(0, len(concepts.names), self._band)]

    def add(self, samples: Sequence[tuple]) -> None:
        """Count some samples, each a tuple of `SHOWN_EVENTS` and the answers."""
        spans = self.concepts.spans(self.task, samples)
        part = np.cumsum((spans[:, :, 1] - spans[:, :, 0]).sum(axis=1)) // COUNT_CONCEPTS
        for number in np.unique(part):
            chosen = np.flatnonzero(part == number)
            self._count([samples[i][5] for i in chosen], spans[chosen])

    def _count(self, answers: Sequence[Sequence[str]], spans: np.ndarray) -> None:
        in_window, window_rows = expand(spans[:, 0])
        shown = self.concepts.is_shown(self.task, window_rows)
        in_notes, note_rows = expand(spans[:, 1:].reshape(-1, 2))  # two spans for each sample
        sample = np.concatenate([in_window[shown], in_notes // 2])
        rows = np.concatenate([window_rows[shown], note_rows])
        history = self._matrix(sample, self.concepts.concept[rows], len(spans))
        sample = np.repeat(np.arange(len(answers)), [len(names) for names in answers])
        target = self._matrix(sample, self._numbers(chain.from_iterable(answers)), len(spans))
        self.samples += len(spans)
        self.of_concept += np.bincount((target + history).indices, minlength=len(self.of_concept))
        targets = target.T.tocsr()
        for number, sums in enumerate(self._pairs):
            sums.append(targets[number * self._band : (number + 1) * self._band] @ history)
            while len(sums) > 1 and sums[-2].nnz < 2 * sums[-1].nnz:  # so that each pair is added log(n) times
                sums.append(add(sums.pop(), sums.pop()))

    def _matrix(self, sample: np.ndarray, concept: np.ndarray, samples: int) -> csr_matrix:
        """(samples, concepts): 1 where the sample has the concept at least once."""
        ones = np.ones(len(sample), np.int32)
        matrix = csr_matrix((ones, (sample, concept)), shape=(samples, len(self.of_concept)))
        matrix.data[:] = 1
        return matrix

    def _numbers(self, names: Iterable[str]) -> list[int]:
        try:
            return [self.concepts.number[normalise(name)] for name in names]
        except KeyError:
            expected = f"{self.task.name}: expected every answer of the index among the concepts, got answers that are missing"
            fix = "Run concept_extraction.py with this index, and trajectories and index_mapping of the same build"
            raise UserError(f"{expected}. {fix}.") from None

    def write(self, path: Path) -> None:
        """Write the pairs, ordered by target and history. The counter cannot be used after that."""
        types = dict.fromkeys(("target", "history"), pa.string())
        types |= dict.fromkeys(("n_both", "n_target", "n_history"), pa.int64()) | {"lift": pa.float64()}
        schema = pa.schema(types, metadata={"n_samples": str(self.samples)})
        names = pa.array(self.concepts.names, pa.string())
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for target, history, both in self._counted_pairs():
                n_target, n_history = self.of_concept[target], self.of_concept[history]
                lift = both * self.samples / (n_target * n_history)
                columns = [names.take(pa.array(target)), names.take(pa.array(history)), both, n_target, n_history, lift]
                writer.write_table(pa.table(columns, schema=schema))

    def _counted_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (target, history, samples with both) of some pairs at a time, freeing their memory."""
        for number, sums in enumerate(self._pairs):
            if not sums:
                continue  # a task without samples
            pairs = reduce(add, sums)
            sums.clear()
            pairs.sort_indices()
            for start in range(0, pairs.nnz, WRITE_PAIRS):
                at = np.arange(start, min(start + WRITE_PAIRS, pairs.nnz))
                target = number * self._band + np.searchsorted(pairs.indptr, at, side="right") - 1
                history, both = pairs.indices[at], pairs.data[at].astype(np.int64)
                other = target != history
                yield target[other], history[other], both[other]


def add(a: csr_matrix, b: csr_matrix) -> csr_matrix:
    """The sum of two matrices; scipy takes one pass if their indices are sorted."""
    a.sort_indices()
    b.sort_indices()
    return a + b


def expand(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the integers in (n, 2) half-open spans: (index of the span, integer).

    >>> import numpy as np
    >>> span, rows = expand(np.array([[3, 5], [0, 0], [7, 8]]))
    >>> span.tolist(), rows.tolist()
    ([0, 0, 2], [3, 4, 7])
    """
    length = spans[:, 1] - spans[:, 0]
    span = np.repeat(np.arange(len(spans)), length)
    return span, np.arange(len(span)) + np.repeat(spans[:, 0] - (np.cumsum(length) - length), length)
