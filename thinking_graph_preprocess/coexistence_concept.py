"""Index rows and concepts → what occurs together: for every decision task, which history speaks for which answer.

Over the training patients' samples of a task: N samples; n(c), samples with concept c in answer or history; n(t, h), samples
with answer t and history h; lift(t, h) = n(t, h) · N / (n(t) · n(h)). The history is what the task's input shows: the window
without what the task hides, the last discharge note, the admission. Negated concepts count nowhere, nor does a pair of a
concept with itself. One parquet file a task: target, history, n_both, n_target, n_history, lift; N is in its metadata.

Finished tasks stay, so an interrupted run goes on; processes (--num_worker, or the command started several times) share the
tasks. Memory is that of one task's distinct pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.index_files import index_files, reading, scan, target_labels, task_of_file
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.tasks import Task
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json
from pipeline.progress import Summary
from pipeline.work import Tick, in_processes, share_work
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, claim, concept_files, index_identity, normalise
from thinking_graph_preprocess.packed_concepts import TABLES, PackedConcepts, pack

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

SAMPLES = 20_000
"""Samples read at a time."""

CELLS = 16 << 20
"""Concepts of histories counted at a time."""

BANDS = 16
"""Parts of the pairs, by target, that are added up each for itself, so that a sum never needs twice the memory of all."""

PAIRS = 1 << 20
"""Pairs written at a time."""


class Job(NamedTuple):
    """What a process needs to know."""

    ehr_dir: Path
    concepts: Path
    output: Path
    index: list[Path]
    subjects: frozenset[str]
    tasks: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/all", help="task index: folder or CSV")
    cli.add_path("--subject_id_path", default="patient_data/train.csv", help="CSV of the patients who count")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--output_path", default="evidence_datas", help="folder for coexistence/")
    cli.add_argument("--concept_dir", type=Path, help="files of concept_extraction.py (OUTPUT_PATH/concepts)")
    cli.add_argument("--task", nargs="+", choices=tuple(GRAPH_TASKS), metavar="TASK", help="only these decision tasks (all)")
    cli.add_argument("--num_worker", type=int, default=1, help="processes (1)")
    args = cli.parse_args(argv)
    summary = Summary("coexistence_concept")
    job = prepare(args)
    left = [task for task in job.tasks if not path_of(job, task).exists()]
    if left:
        in_processes(args.num_worker, work, job, count_rows(job, left), "coexistence_concept", "sample")
    report(job, summary)


def prepare(args: Any) -> Job:
    """Check what is there and claim the output folder.

    Raises:
        UserError: something is missing, or the folder holds the counts of another run.
    """
    concepts = args.concept_dir or args.output_path / "concepts"
    files = concept_files(concepts)
    subjects = frozenset(read_subject_ids(args.subject_id_path))
    tasks = [task for task in GRAPH_TASKS if not args.task or task in args.task]
    output = args.output_path / "coexistence"
    options = {
        "concepts": read_json(concepts / "options.json") if (concepts / "options.json").exists() else [f.name for f in files],
        "index": index_identity(args.data_index_dir),
        "patients": hashlib.sha256("\n".join(sorted(subjects)).encode()).hexdigest(),
    }
    claim(output, options, "--output_path")
    return Job(args.ehr_dir, concepts, output, index_files(args.data_index_dir), subjects, tasks)


def path_of(job: Job, task: str) -> Path:
    return job.output / f"{task}.parquet"


def rows_of(job: Job, task: str) -> Iterator[tuple[Path, pl.LazyFrame]]:
    """The index rows of a task and of the patients who count, a lazy frame for each file that may have some."""
    import polars as pl

    for path in job.index:
        if task_of_file(path) in (None, task) and not (path.stem.isdecimal() and path.stem not in job.subjects):
            yield path, scan(path).filter((pl.col("task") == task) & pl.col("subject_id").is_in(list(job.subjects)))


def count_rows(job: Job, tasks: Sequence[str]) -> int:
    """How many samples there are to count.

    Raises:
        UserError: there is none.
    """
    import polars as pl

    number = 0
    for task in tasks:
        for path, frame in rows_of(job, task):
            with reading(path):
                number += frame.select(pl.len()).collect(engine="streaming").item()
    if not number:
        raise UserError(
            f"{job.index[0].parent}: wanted samples of decision tasks of the patients of --subject_id_path, found none; are "
            "the index and the patient list of the same data?"
        )
    return number


def work(job: Job, tick: Tick) -> None:
    """Count the tasks that are not counted yet, sharing them with other processes."""
    locks, packed = job.output / ".locks", job.output / ".packed"
    trajectories = Trajectories(job.ehr_dir)
    share_work(
        ["pack"], lambda _: packed.exists(), lambda _: pack(concept_files(job.concepts), trajectories, packed), locks
    )  # fmt: skip
    concepts = PackedConcepts(packed)

    def count(task: str) -> None:
        counter = PairCounter(GRAPH_TASKS[task], concepts)
        for path, frame in rows_of(job, task):
            with reading(path):
                for batch in batches(frame):
                    counter.add(batch)
                    tick(len(batch))
        counter.write(path_of(job, task))

    share_work(job.tasks, lambda task: path_of(job, task).exists(), count, locks)


def batches(frame: pl.LazyFrame) -> Iterator[list[tuple]]:
    """(subject_id, context_begin, context_end, admissions_id, last_discharge_id, answers) of index rows, some at a time."""
    columns = ("subject_id", "context_begin", "context_end", "admissions_id", "last_discharge_id")
    for batch in frame.select(*columns, target_labels()).collect_batches(chunk_size=SAMPLES):
        yield batch.rows()


class PairCounter:
    """Counts one task's samples.

    Args:
        task: the task; it says what its input hides.
        concepts: the concepts of all patients.
    """

    def __init__(self, task: Task, concepts: PackedConcepts) -> None:
        import numpy as np

        self.task, self.concepts = task, concepts
        self.samples = 0
        self.of_concept = np.zeros(len(concepts.names), np.int64)
        self._hidden = np.zeros(256, bool)  # by table, of what the window holds (mimiciv_dataset/text.py)
        self._hidden[[TABLES[table] for table in ("admissions", *task.hidden)]] = True
        self._band = -(-len(concepts.names) // BANDS)  # targets of a band
        self._pairs: list[list[csr_matrix]] = [[] for _ in range(0, len(concepts.names), self._band)]

    def add(self, samples: Sequence[tuple]) -> None:
        """Count some samples, as `batches` gives them.

        Raises:
            UserError: an answer or a patient is not in the concept files.
        """
        import numpy as np

        spans = self._spans(samples)
        piece = np.cumsum((spans[:, :, 1] - spans[:, :, 0]).sum(axis=1)) // CELLS
        for number in np.unique(piece):
            chosen = np.flatnonzero(piece == number)
            self._count([samples[i][5] for i in chosen], spans[chosen])

    def _spans(self, samples: Sequence[tuple]) -> np.ndarray:
        """(samples, 3, 2): rows (begin, end) of the packed concepts of the window, the last discharge, the admission."""
        import numpy as np

        events = np.zeros((len(samples), 3, 2), np.int64)  # events (begin, end) first, then rows
        of_patient: dict[str, list[int]] = {}
        for i, (subject, begin, end, admission, discharge, _) in enumerate(samples):
            of_patient.setdefault(subject, []).append(i)
            events[i, 0] = begin, end
            if discharge is not None:
                events[i, 1] = discharge, discharge + 1
            if admission is not None and self.task.name != "admissions":
                events[i, 2] = admission, admission + 1
        spans = np.empty_like(events)
        for subject, mine in of_patient.items():
            begin, end = self.concepts.rows_of(subject)
            spans[mine] = begin + np.searchsorted(self.concepts.event[begin:end], events[mine])
        return spans

    def _count(self, answers: Sequence[Sequence[str]], spans: np.ndarray) -> None:
        import numpy as np

        in_window, rows = rows_in(spans[:, 0])
        shown = ~self._hidden[self.concepts.table[rows]]
        after, more = rows_in(spans[:, 1:].reshape(-1, 2))
        history = self._matrix(
            np.concatenate([in_window[shown], after // 2]),
            self.concepts.concept[np.concatenate([rows[shown], more])],
            len(spans),
        )
        sample = np.repeat(np.arange(len(answers)), [len(names) for names in answers])
        target = self._matrix(sample, self._numbers([name for names in answers for name in names]), len(spans))
        self.samples += len(spans)
        self.of_concept += np.bincount((target + history).indices, minlength=len(self.of_concept))
        targets = target.T.tocsr()
        for number, sums in enumerate(self._pairs):
            sums.append(targets[number * self._band : (number + 1) * self._band] @ history)
            while len(sums) > 1 and sums[-2].nnz < 2 * sums[-1].nnz:  # each pair is added log(n) times
                sums.append(add(sums.pop(), sums.pop()))

    def _matrix(self, sample: np.ndarray, concept: np.ndarray, samples: int) -> csr_matrix:
        """(samples, concepts): 1 where the sample has the concept, however often."""
        import numpy as np
        from scipy.sparse import csr_matrix

        ones = np.ones(len(sample), np.int32)
        matrix = csr_matrix((ones, (sample, concept)), shape=(samples, len(self.of_concept)))
        matrix.data[:] = 1
        return matrix

    def _numbers(self, names: Sequence[str]) -> list[int]:
        number = self.concepts.number
        try:
            return [number[normalise(name)] for name in names]
        except KeyError:
            raise UserError(
                f"{self.task.name}: wanted every answer of the index among the concepts, found some that are not; index, "
                "trajectories and index_mapping belong to different builds: run concept_extraction.py with this index"
            ) from None

    def write(self, path: Path) -> None:
        """Write the pairs by target, then by history."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            {"target": pa.string(), "history": pa.string(), "n_both": pa.int64(), "n_target": pa.int64(),
             "n_history": pa.int64(), "lift": pa.float64()},
            metadata={"n_samples": str(self.samples)},
        )  # fmt: skip
        names = pa.array(self.concepts.names, pa.string())
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for target, history, both in self._counted():
                n_target, n_history = self.of_concept[target], self.of_concept[history]
                lift = both * self.samples / (n_target * n_history)
                columns = [names.take(pa.array(target)), names.take(pa.array(history)), both, n_target, n_history, lift]
                writer.write_table(pa.table(columns, schema=schema))

    def _counted(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(target, history, how many samples have both), some pairs at a time; they are forgotten after."""
        import numpy as np

        for number, sums in enumerate(self._pairs):
            if not sums:
                continue  # a task without samples
            pairs = functools.reduce(add, sums)
            sums.clear()
            pairs.sort_indices()
            for start in range(0, pairs.nnz, PAIRS):
                places = np.arange(start, min(start + PAIRS, pairs.nnz))
                target = number * self._band + np.searchsorted(pairs.indptr, places, side="right") - 1
                history, both = pairs.indices[places], pairs.data[places].astype(np.int64)
                other = target != history
                yield target[other], history[other], both[other]


def add(a: csr_matrix, b: csr_matrix) -> csr_matrix:
    """The sum, which scipy makes in one pass where indices are sorted."""
    a.sort_indices()
    b.sort_indices()
    return a + b


def rows_in(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers in some half-open spans (n, 2), one after the other: which span, and the number.

    >>> import numpy as np
    >>> which, rows = rows_in(np.array([[3, 5], [0, 0], [7, 8]]))
    >>> which.tolist(), rows.tolist()
    ([0, 0, 2], [3, 4, 7])
    """
    import numpy as np

    length = spans[:, 1] - spans[:, 0]
    which = np.repeat(np.arange(len(spans)), length)
    return which, np.arange(len(which)) + np.repeat(spans[:, 0] - (np.cumsum(length) - length), length)


def report(job: Job, summary: Summary) -> None:
    import pyarrow.parquet as pq

    print(f"{'task':<24}{'samples':>12}{'pairs':>14}")
    samples = pairs = 0
    for task in job.tasks:
        metadata = pq.read_metadata(path_of(job, task))
        number = int(metadata.metadata[b"n_samples"])
        print(f"{task:<24}{number:>12,}{metadata.num_rows:>14,}")
        samples, pairs = samples + number, pairs + metadata.num_rows
    summary.print(f"{pairs:,} pairs of {len(job.tasks)} tasks → {job.output}", samples, "samples")


if __name__ == "__main__":
    run(main)
