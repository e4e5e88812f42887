"""Trajectories → the concepts that each event mentions: names of its structured fields, and UMLS concepts in its free text.

Reads the events that decision samples of an index use (window, answer, last discharge note, admission). Structured fields
give the names that are a task's answers; radiology and discharge text and admission_info are searched by one of two matchers:

  dictionary   the longest terms of a lexicon, exact: from a UMLS install (--umls_dir), else from index_mapping/ and the drug
               names of cache/item_set/. The default without QuickUMLS.
  quickumls    QuickUMLS, installed at $QUICKUMLS (or --quickumls); NLTK's stop words at $NLTK_DATA. With --umls_dir, concepts
               have their preferred names, without it the matched terms.

Negated, family-history and hypothetical mentions are marked. One parquet file for each file of trajectories; finished files
stay, so an interrupted run goes on. Processes (--num_worker, or the command started several times) share the files.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.events import MISSING
from mimiciv_dataset.index_files import index_files, reading, scan, task_of_file
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.samples import decision_target
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Chunk, Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.progress import Summary
from pipeline.work import Tick, in_processes, share_work
from thinking_graph_preprocess.concept_files import FREE_TEXT, GRAPH_TASKS, TEXT, claim, index_identity, normalise, schema

if TYPE_CHECKING:
    from thinking_graph_preprocess.matchers import Matcher

QUICKUMLS_VARIABLES = ("QUICKUMLS", "QUICK_UMLS")

ROWS = 200_000
"""Rows of concepts written at a time, whole patients."""

TASKS_OF = {
    table: [task for task in GRAPH_TASKS.values() if task.event == table]
    for table in {task.event for task in GRAPH_TASKS.values()}
}
"""The tasks whose answers an event of a table has."""


class Job(NamedTuple):
    """What a process needs to know; paths, so that it opens everything itself."""

    ehr_dir: Path
    index_mapping: Path
    output: Path
    matcher: str
    quickumls: Path | None
    lexicon: Path | None
    groups: dict[str, list[str]]
    index: list[Path]


class Concept(NamedTuple):
    """A row of the output, but for its patient."""

    event_id: int
    key: str
    concept: str
    cui: str | None
    negated: bool


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/patient", help="index: folder or CSV")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_path("--cache_dir", default="cache", help="folder with item_set/, for drug names")
    cli.add_path("--lexicon_dir", default="evidence_datas/lexicon", help="where lexicons are kept")
    cli.add_path("--output_path", default="evidence_datas/concepts", help="folder for the concepts")
    cli.add_argument("--matcher", choices=("dictionary", "quickumls"), help="how free text is searched")
    cli.add_argument("--umls_dir", type=Path, help="UMLS install: the folder with MRCONSO.RRF and MRSTY.RRF")
    cli.add_argument("--quickumls", type=Path, help="QuickUMLS installation ($QUICKUMLS or $QUICK_UMLS)")
    cli.add_argument("--num_worker", type=int, default=1, help="processes (1)")
    cli.add_chunks()
    args = cli.parse_args(argv)
    summary = Summary("concept_extraction")
    job = prepare(args)
    left = {name: subjects for name, subjects in job.groups.items() if not path_of(job, name).exists()}
    total = sum(map(len, left.values()))
    if total:
        in_processes(args.num_worker, work, job, total, "concept_extraction", "patient")
    report([path_of(job, name) for name in job.groups], summary, total, args.output_path)


def prepare(args: Any) -> Job:
    """Check what is there, find or build the lexicon, and claim the output folder.

    Raises:
        UserError: something is missing, or the folder holds the concepts of another run.
    """
    from thinking_graph_preprocess.concept_lexicon import find_or_build

    named = args.quickumls or next((Path(os.environ[v]) for v in QUICKUMLS_VARIABLES if os.environ.get(v)), None)
    matcher = args.matcher or ("quickumls" if named else "dictionary")
    if not args.data_index_dir.exists():
        raise UserError(
            f"{args.data_index_dir}: wanted a task index by patient, found nothing there; make it with "
            f"mimiciv_dataset/task_sample_info_gen.py --group patient --output_path {args.data_index_dir}, or name another "
            "index with --data_index_dir"
        )
    index = index_files(args.data_index_dir)
    trajectories = Trajectories(args.ehr_dir)
    if matcher == "quickumls":
        check_installation(named, args.num_worker)
    lexicon = None
    if matcher == "dictionary" or args.umls_dir:
        lexicon = find_or_build(args.lexicon_dir, args.umls_dir, args.index_mapping, args.cache_dir)
    groups = patients_of_index(trajectories.groups(), index)
    options = {
        "trajectories": trajectories.digest, "index": index_identity(args.data_index_dir), "matcher": matcher,
        "quickumls": str(named.resolve()) if matcher == "quickumls" else None, "lexicon": lexicon and lexicon.name,
        "files": len(groups),
    }  # fmt: skip
    claim(args.output_path, options, "--output_path")
    mine = {name: groups[name] for name in Chunk(args.chunk_num, args.chunk_idx).of(list(groups))}
    return Job(args.ehr_dir, args.index_mapping, args.output_path, matcher, named, lexicon, mine, index)


def check_installation(quickumls: Path | None, processes: int) -> None:
    """Raise a `UserError` if QuickUMLS cannot be used as asked."""
    from thinking_graph_preprocess.matchers import check_quickumls, locks_to_one_process

    if quickumls is None:
        raise UserError("--matcher quickumls: wanted an installation in $QUICKUMLS or --quickumls, found neither")
    check_quickumls(quickumls)
    if processes > 1 and locks_to_one_process(quickumls):
        raise UserError(
            f"{quickumls}: wanted a QuickUMLS installation that several processes can read, found leveldb, which locks to "
            "one; install it again with -d unqlite, or take --num_worker 1"
        )


def patients_of_index(groups: dict[str, list[str]], index: Sequence[Path]) -> dict[str, list[str]]:
    """The patients of each group that the index has; all of them where the index is not by patient."""
    named = {path.stem for path in index}
    if not all(name.isdecimal() for name in named):
        return groups
    found = {name: [subject for subject in subjects if subject in named] for name, subjects in groups.items()}
    found = {name: subjects for name, subjects in found.items() if subjects}
    if sum(map(len, found.values())) < len(named):
        raise UserError(
            f"{index[0].parent}: wanted an index of patients who have a trajectory, found "
            f"{len(named) - sum(map(len, found.values())):,} who have none; index and trajectories belong to different builds"
        )
    return found


def path_of(job: Job, group: str) -> Path:
    return job.output / f"{group}.parquet"


def work(job: Job, tick: Tick) -> None:
    """Write the files of concepts that are not there yet, sharing them with other processes."""
    from thinking_graph_preprocess.matchers import DictionaryMatcher, QuickUMLSMatcher

    if job.matcher == "dictionary":
        matcher = DictionaryMatcher(job.lexicon)
    else:
        matcher = QuickUMLSMatcher(job.quickumls, job.lexicon)
    trajectories, lookups = Trajectories(job.ehr_dir), Lookups(job.index_mapping)

    def extract(group: str) -> None:
        events = events_of_index(job.index, job.groups[group])
        patients = (
            (subject, concepts_of(trajectories, subject, sorted(positions), lookups, matcher))
            for subject, positions in events.items()
        )
        write_concepts(path_of(job, group), patients, tick)
        tick(len(job.groups[group]) - len(events))  # patients of this group without a decision sample

    share_work(list(job.groups), lambda group: path_of(job, group).exists(), extract, job.output / ".locks")


def events_of_index(index: Sequence[Path], subjects: Sequence[str]) -> dict[str, set[int]]:
    """The events that the decision samples of some patients use, by patient in the order given.

    An index by patient is read a file a patient; any other is read through, a task at a time.
    """
    import polars as pl

    events: dict[str, set[int]] = {subject: set() for subject in subjects}
    files = [path for path in index if not path.stem.isdecimal()]
    by_name = {path.stem: path for path in index}
    files += [by_name[subject] for subject in subjects if subject in by_name]
    columns = ("subject_id", "context_begin", "context_end", "admissions_id", "last_discharge_id")
    for path in files:
        if task_of_file(path) not in (None, *GRAPH_TASKS):
            continue
        with reading(path):
            mine = pl.col("task").is_in(list(GRAPH_TASKS)) & pl.col("subject_id").is_in(list(subjects))
            rows = scan(path).filter(mine).select(columns).unique().collect(engine="streaming")
        for subject, begin, end, admission, discharge in rows.iter_rows():
            events[subject].update(range(begin, end + 1))
            events[subject].update(p for p in (admission, discharge) if p is not None)
    return {subject: positions for subject, positions in events.items() if positions}


def concepts_of(
    trajectories: Trajectories, subject_id: str, positions: Sequence[int], lookups: Lookups, matcher: Matcher
) -> Iterator[Concept]:
    """The concepts of some events of a patient, each once an event and key, in the order of the trajectory."""
    events = Timeline(trajectories.events(subject_id, positions))
    for i, (position, table) in enumerate(zip(positions, events.file_names, strict=True)):
        found: dict[Concept, None] = {}
        for task in TASKS_OF.get(table, ()):
            for name in decision_target(task, events, i, lookups) or ():
                found[Concept(position, task.name, normalise(name), matcher.cui_of(name), False)] = None
        for text in free_texts(events, i):
            found.update((Concept(position, TEXT, *mention), None) for mention in matcher.mentions(text))
        yield from found


def free_texts(events: Timeline, i: int) -> Iterator[str]:
    """The free text of an event's records; admission_info may be an object of texts."""
    columns, rows = events.records(i)
    column = FREE_TEXT.get(events.file_names[i])
    if column in columns:
        at = columns.index(column)
        for row in rows:
            for text in row[at].values() if isinstance(row[at], dict) else [row[at]]:
                if isinstance(text, str) and text != MISSING:
                    yield text


def write_concepts(path: Path, patients: Iterable[tuple[str, Iterable[Concept]]], tick: Tick) -> None:
    """Write one file of concepts, and how many there are into its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = schema()
    counts: Counter[str] = Counter()
    rows: list[tuple] = []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, kind, compression="zstd") as writer:

        def flush() -> None:
            columns = zip(*rows, strict=True)
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, kind, strict=True)], schema=kind))
            rows.clear()

        for subject_id, concepts in patients:
            before = len(rows)
            rows += [(subject_id, *concept) for concept in concepts]
            mine = rows[before:]
            counts.update(patients=1, rows=len(mine), text=sum(r[2] == TEXT for r in mine), negated=sum(r[5] for r in mine))
            if len(rows) >= ROWS:
                flush()
            tick(1)
        if rows:
            flush()
        writer.add_key_value_metadata({"counts": json.dumps(counts)})


def report(files: Sequence[Path], summary: Summary, patients: int, output: Path) -> None:
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    for path in files:
        counts.update(json.loads(pq.read_metadata(path).metadata[b"counts"]))
    summary.print(
        f"{counts['rows']:,} concepts of {counts['patients']:,} patients ({counts['text']:,} in free text, of which "
        f"{counts['negated']:,} negated, of the family or hypothetical) → {output}",
        patients,
        "patients",
    )


if __name__ == "__main__":
    run(main)
