"""Count which concepts occur together: for every decision task, its answers with the concepts of the history.

Over the samples of a task of the training patients: N samples; n(c), samples with concept c in answer or history; n(t, h),
samples with answer t and history h; lift(t, h) = n(t, h) · N / (n(t) · n(h)). The history is what the input of the task
shows: the window without the events that the task hides, the last discharge note, the admission. Negated concepts and pairs
of a concept with itself are not counted. Writes one Parquet file for each task: target, history, n_both, n_target,
n_history, lift; N is in its metadata.

Finished tasks are kept, so an interrupted run resumes; processes (--num_workers, or the same command started several times)
share the tasks. Memory per process is that of the distinct pairs of one task.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mimiciv_dataset.index_files import index_digest, index_files, reading, scan, target_labels, task_of_file
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, digest_lines, digest_of, folder_record
from pipeline.work import Tick, Unit, run_units
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, SHOWN_EVENTS, concept_files, normalise
from thinking_graph_preprocess.packed_concepts import TABLES, PackedConcepts, find_or_pack

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

READ_SAMPLES = 20_000  # samples read at a time
COUNT_CONCEPTS = 16 << 20  # concepts of histories counted at a time
BANDS = 16  # ranges of targets whose pairs are summed separately, so that a sum never takes twice the memory of all pairs
WRITE_PAIRS = 1 << 20  # pairs written at a time


@dataclass(frozen=True)
class CoexistenceCount:
    """Counts co-occurrence, one task at a time. Each process opens files when it first needs them."""

    packed: Path  # packed concepts
    output: Path
    index: list[Path]
    subjects: frozenset[str]  # patients to count

    @functools.cached_property
    def concepts(self) -> PackedConcepts:
        return PackedConcepts(self.packed)

    def path(self, task: str) -> Path:
        """The file of a task."""
        return self.output / f"{task}.parquet"

    def rows(self, task: str) -> Iterator[tuple[Path, pl.LazyFrame]]:
        """Yield the index rows of a task and the patients to count: a lazy frame for each file that may have some."""
        import polars as pl

        for path in self.index:
            if task_of_file(path) in (None, task) and not (path.stem.isdecimal() and path.stem not in self.subjects):
                yield path, scan(path).filter((pl.col("task") == task) & pl.col("subject_id").is_in(list(self.subjects)))

    def number_of_rows(self, tasks: Sequence[str]) -> int:
        """The number of samples of some tasks, which must have at least one."""
        import polars as pl

        number = 0
        for path, frame in chain.from_iterable(map(self.rows, tasks)):
            with reading(path):
                number += frame.select(pl.len()).collect(engine="streaming").item()
        if not number:
            expected = "expected samples of decision tasks of the patients of --subject_id_path, got none"
            raise UserError(f"{self.index[0].parent}: {expected}. Use an index and a patient list of the same data.")
        return number

    def count(self, task: str, tick: Tick) -> None:
        """Write the file of a task."""
        counter = PairCounter(GRAPH_TASKS[task], self.concepts)
        for path, frame in self.rows(task):
            with reading(path):
                for batch in frame.select(*SHOWN_EVENTS, target_labels()).collect_batches(chunk_size=READ_SAMPLES):
                    counter.add(batch.rows())
                    tick(len(batch))
        counter.write(self.path(task))


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: directory or CSV")
    cli.add_path("--subject_id_path", default="patient_data/train.csv", help="CSV of the patients to count")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--output_path", default="evidence_datas", help="directory for coexistence/")
    cli.add_argument("--concept_dir", type=Path, help="output of concept_extraction.py (OUTPUT_PATH/concepts)")
    cli.add_argument("--task", nargs="+", choices=tuple(GRAPH_TASKS), metavar="TASK", help="only these decision tasks (all)")
    cli.add_num_workers("--num_worker")
    args = cli.parse_args(argv)
    summary = Summary("coexistence_concept")
    concept_dir, output = args.concept_dir or args.output_path / "concepts", args.output_path / "coexistence"
    files = concept_files(concept_dir)
    subjects = frozenset(read_subject_ids(args.subject_id_path))
    tasks = [task for task in GRAPH_TASKS if not args.task or task in args.task]
    inputs = {"concepts": digest_of(folder_record(concept_dir)), "index": index_digest(args.data_index_dir)}
    inputs["patients"] = digest_lines(list(subjects))
    provenance = Provenance(folder_record(output), "coexistence_concept", inputs)
    provenance.claim("--output_path")

    job = CoexistenceCount(output / ".packed", output, index_files(args.data_index_dir), subjects)
    missing = [task for task in tasks if not job.path(task).exists()]
    if missing:
        total = job.number_of_rows(missing)
        find_or_pack(files, Trajectories(args.ehr_dir), output)
        units = [Unit(task, job.path(task).exists, functools.partial(job.count, task)) for task in missing]
        locks = output / ".locks"
        run_units(units, locks, num_workers=args.num_workers, total=total, desc="coexistence_concept", unit="sample")
    counts = {task: count_pairs(job.path(task)) for task in GRAPH_TASKS if job.path(task).exists()}
    provenance.complete(tasks=counts)

    print_table(["task", "samples", "pairs"], [[task, *counts[task].values()] for task in tasks])
    samples, pairs = (sum(counts[task][name] for task in tasks) for name in ("samples", "pairs"))
    summary.print(f"{pairs:,} pairs of {len(tasks)} tasks → {output}", samples, "samples")


def count_pairs(path: Path) -> dict[str, int]:
    """The numbers of `samples` and `pairs` of a task, from the metadata of its file."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    return {"samples": int(metadata.metadata[b"n_samples"]), "pairs": metadata.num_rows}


class PairCounter:
    """Counts the samples of one task, given the concepts of all patients."""

    def __init__(self, task: Task, concepts: PackedConcepts) -> None:
        import numpy as np

        self.task, self.concepts = task, concepts
        self.samples = 0
        self.of_concept = np.zeros(len(concepts.names), np.int64)
        self._hidden = np.zeros(256, bool)  # tables that the window does not show (mimiciv_dataset/text.py)
        self._hidden[[TABLES[table] for table in ("admissions", *task.hidden)]] = True
        self._band = -(-len(concepts.names) // BANDS)  # targets of a band
        self._pairs: list[list[csr_matrix]] = [[] for _ in range(0, len(concepts.names), self._band)]

    def add(self, samples: Sequence[tuple]) -> None:
        """Count some samples, each a tuple of `SHOWN_EVENTS` and the answers."""
        import numpy as np

        spans = self._spans(samples)
        part = np.cumsum((spans[:, :, 1] - spans[:, :, 0]).sum(axis=1)) // COUNT_CONCEPTS
        for number in np.unique(part):
            chosen = np.flatnonzero(part == number)
            self._count([samples[i][5] for i in chosen], spans[chosen])

    def _spans(self, samples: Sequence[tuple]) -> np.ndarray:
        """(samples, 3, 2): rows (begin, end) of the packed concepts of the window, the last discharge, the admission."""
        import numpy as np

        events = np.zeros((len(samples), 3, 2), np.int64)  # positions of events (begin, end)
        samples_of_patient: dict[str, list[int]] = {}
        for i, (subject, begin, end, admission, discharge, _) in enumerate(samples):
            samples_of_patient.setdefault(subject, []).append(i)
            events[i, 0] = begin, end
            if discharge is not None:
                events[i, 1] = discharge, discharge + 1
            if admission is not None and self.task.name != "admissions":
                events[i, 2] = admission, admission + 1
        spans = np.empty_like(events)
        for subject, chosen in samples_of_patient.items():
            begin, end = self.concepts.rows_of(subject)
            spans[chosen] = begin + np.searchsorted(self.concepts.event[begin:end], events[chosen])
        return spans

    def _count(self, answers: Sequence[Sequence[str]], spans: np.ndarray) -> None:
        import numpy as np

        in_window, window_rows = expand(spans[:, 0])
        shown = ~self._hidden[self.concepts.table[window_rows]]
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
        import numpy as np
        from scipy.sparse import csr_matrix

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
        import pyarrow as pa
        import pyarrow.parquet as pq

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
        import numpy as np

        for number, sums in enumerate(self._pairs):
            if not sums:
                continue  # a task without samples
            pairs = functools.reduce(add, sums)
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
    import numpy as np

    length = spans[:, 1] - spans[:, 0]
    span = np.repeat(np.arange(len(spans)), length)
    return span, np.arange(len(span)) + np.repeat(spans[:, 0] - (np.cumsum(length) - length), length)


if __name__ == "__main__":
    run(main)
