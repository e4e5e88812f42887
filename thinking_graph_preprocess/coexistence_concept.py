"""Count which concepts occur together: for every decision task, its answers with the concepts of the history.

Over the samples of a task of the training patients: N samples; n(c), samples with concept c in answer or history; n(t, h),
samples with answer t and history h; lift(t, h) = n(t, h) · N / (n(t) · n(h)). The history is what the input of the task
shows: the window without the events that the task hides, the last discharge note, the admission. Negated concepts and pairs
of a concept with itself are not counted. Writes one Parquet file for each task: target, history, n_both, n_target,
n_history, lift; N is in its metadata.

An interrupted run resumes; processes (--num_workers, or the same command started several times) share the tasks. Memory per
process is that of the distinct pairs of one task.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mimiciv_dataset.index_files import index_files
from mimiciv_dataset.index_frames import scan, target_labels, task_of_file
from mimiciv_dataset.patients import read_subject_ids
from mimiciv_dataset.sources import index_sources, patients_source, trajectories_source
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance
from pipeline.work import Tick, Unit, Workers, run_units
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, SHOWN_EVENTS, concept_files
from thinking_graph_preprocess.sources import concepts_source

if TYPE_CHECKING:
    import polars as pl

    from thinking_graph_preprocess.packed_concepts import PackedConcepts

STEP, RULES = "thinking_graph_preprocess/coexistence_concept.py", 1
READ_SAMPLES = 20_000  # samples read at a time


@dataclass(frozen=True)
class CoexistenceCount:
    """Counts co-occurrence, one task at a time. Each process opens files when it first needs them."""

    packed: Path  # packed concepts
    output: Path
    index: list[Path]
    subjects: frozenset[str]  # patients to count

    @functools.cached_property
    def concepts(self) -> PackedConcepts:
        from thinking_graph_preprocess.packed_concepts import PackedConcepts

        return PackedConcepts(self.packed)

    def path(self, task: str) -> Path:
        """The file of a task."""
        return self.output / f"{task}.parquet"

    def rows(self, task: str) -> Iterator[pl.LazyFrame]:
        """Yield the index rows of a task and the patients to count: a lazy frame for each file that may have some."""
        import polars as pl

        for path in self.index:
            if task_of_file(path) in (None, task) and not (path.stem.isdecimal() and path.stem not in self.subjects):
                yield scan(path).filter((pl.col("task") == task) & pl.col("subject_id").is_in(list(self.subjects)))

    def number_of_rows(self, tasks: Sequence[str]) -> int:
        """The number of samples of some tasks, which must have at least one."""
        import polars as pl

        number = 0
        for frame in chain.from_iterable(map(self.rows, tasks)):
            number += frame.select(pl.len()).collect(engine="streaming").item()
        if not number:
            expected = "expected samples of decision tasks of the patients of --subject_id_path, got none"
            raise UserError(f"{self.index[0].parent}: {expected}. Use an index and a patient list of the same data.")
        return number

    def count(self, task: str, tick: Tick) -> None:
        """Write the file of a task."""
        from thinking_graph_preprocess.pair_counter import PairCounter

        counter = PairCounter(GRAPH_TASKS[task], self.concepts)
        for frame in self.rows(task):
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
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)

    summary = Summary("coexistence_concept")
    concept_dir, output = args.concept_dir or args.output_path / "concepts", args.output_path / "coexistence"
    files = concept_files(concept_dir)
    subjects = frozenset(read_subject_ids(args.subject_id_path))
    tasks = [task for task in GRAPH_TASKS if not args.task or task in args.task]
    concepts, trajectories = concepts_source(concept_dir, args.verify), trajectories_source(args.ehr_dir, args.verify)
    sources = [concepts, trajectories, *index_sources(args.data_index_dir, verify=args.verify)]
    sources.append(patients_source(args.subject_id_path, subjects))
    provenance = Provenance(output, STEP, sources, {"tasks": tasks}, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return

    from thinking_graph_preprocess.packed_concepts import find_or_pack, packed_dir

    packed = packed_dir(output, concepts, trajectories)
    job = CoexistenceCount(packed, output, index_files(args.data_index_dir), subjects)
    missing = [task for task in tasks if not job.path(task).exists()]
    if missing:
        total = job.number_of_rows(missing)
        find_or_pack(files, Trajectories(args.ehr_dir), packed)
        units = [Unit(task, job.path(task).exists, functools.partial(job.count, task)) for task in missing]
        locks = output / ".locks"
        run_units(units, locks, workers=workers, total=total, desc="coexistence_concept", unit="sample")
    counts = {task: count_pairs(job.path(task)) for task in tasks}
    provenance.complete(files=map(job.path, tasks), tasks=counts)

    print_table(["task", "samples", "pairs"], [[task, *counts[task].values()] for task in tasks])
    samples, pairs = (sum(counts[task][name] for task in tasks) for name in ("samples", "pairs"))
    summary.print(f"{pairs:,} pairs of {len(tasks)} tasks → {output}", samples, "samples")


def count_pairs(path: Path) -> dict[str, int]:
    """The numbers of `samples` and `pairs` of a task, from the metadata of its file."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    return {"samples": int(metadata.metadata[b"n_samples"]), "pairs": metadata.num_rows}


if __name__ == "__main__":
    run(main)
