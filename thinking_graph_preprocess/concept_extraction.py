"""Extract the concepts that each event of a trajectory mentions.

Reads the events that the decision samples of an index use: window, answer, last discharge note, admission. Structured fields
give the names that are possible answers of a task. Free text (radiology reports, discharge notes, admission_info) is
searched for UMLS concepts by one of two matchers:

  dictionary   exact, longest terms of a lexicon, which is built from a UMLS install (--umls_dir) or else from index_mapping/
               and the drug names of cache/item_set/. The default without QuickUMLS.
  quickumls    QuickUMLS, installed at $QUICKUMLS (or --quickumls), with NLTK's stop words at $NLTK_DATA. Concepts have their
               preferred names with --umls_dir, the matched terms without.

Negated, family-history and hypothetical mentions are marked. --text prints the mentions in one text, as JSON lines, and writes
no concepts. Writes one Parquet file for each file of trajectories. An
interrupted run resumes; processes (--num_workers, or the same command started several times) share the files.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mimiciv_dataset.events import MISSING
from mimiciv_dataset.index_files import index_files
from mimiciv_dataset.index_frames import scan, task_of_file
from mimiciv_dataset.lookups import DICTIONARIES, Lookups
from mimiciv_dataset.samples import decision_target
from mimiciv_dataset.sources import index_mapping_source, index_sources, trajectories_source
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Chunk, Parser, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_path, require
from pipeline.progress import Summary
from pipeline.provenance import Provenance, Source
from pipeline.work import Tick, Unit, Workers, run_units
from thinking_graph_preprocess.concept_files import FREE_TEXT, GRAPH_TASKS, SHOWN_EVENTS, TEXT, concept_schema, normalise
from thinking_graph_preprocess.concept_lexicon import (
    RULES,
    STEP,
    build_lexicon,
    find_or_build,
    lexicon_record,
    lexicon_sources,
)
from thinking_graph_preprocess.matchers import DictionaryMatcher, Matcher, check_quickumls, make_matcher
from thinking_graph_preprocess.sources import quickumls_source
from thinking_graph_preprocess.text_mentions import mention_lines, read_terms

WRITE_ROWS = 200_000  # least number of rows of concepts to write at a time, whole patients


class Concept(NamedTuple):
    """A row of a concept file without its patient."""

    event_id: int
    key: str
    concept: str
    cui: str | None
    negated: bool


@dataclass(frozen=True)
class ConceptExtraction:
    """Extracts the concepts of groups of patients. Each process opens files when it first needs them."""

    trajectories: Trajectories
    lookups: Lookups
    output: Path
    quickumls: Path | None  # installation, for that matcher
    lexicon: Path | None  # None: QuickUMLS without preferred names
    groups: dict[str, list[str]]  # the patients of each file of trajectories
    index: list[Path]

    @functools.cached_property
    def matcher(self) -> Matcher:
        return make_matcher(self.quickumls, self.lexicon)

    def path(self, group: str) -> Path:
        """The concept file of a group."""
        return self.output / f"{group}.parquet"

    def extract(self, group: str, tick: Tick) -> None:
        """Write the concept file of a group."""
        positions = positions_in_index(self.index, self.groups[group])
        patients = ((subject, self.concepts(subject, sorted(events))) for subject, events in positions.items())
        write_concepts(self.path(group), patients, tick)
        tick(len(self.groups[group]) - len(positions))  # patients without a decision sample

    def concepts(self, subject_id: str, positions: Sequence[int]) -> Iterator[Concept]:
        """Yield the concepts of some events of a patient, each once per event and key, in the order of the trajectory."""
        timeline = Timeline(self.trajectories.events(subject_id, positions))
        for i, (position, table) in enumerate(zip(positions, timeline.file_names, strict=True)):
            concepts: dict[Concept, None] = {}
            for task in GRAPH_TASKS.values():
                names = decision_target(task, timeline, i, self.lookups) if task.event == table else None
                for name in names or ():
                    concepts[Concept(position, task.name, normalise(name), self.matcher.cui_of(name), False)] = None
            for text in free_texts(timeline, i):
                mentions = self.matcher.mentions(text)
                concepts.update((Concept(position, TEXT, m.name, m.cui, m.negated), None) for m in mentions)
            yield from concepts


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_path("--data_index_dir", "--data_index_path", default="task_index/patient", help="index: directory or CSV")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps")
    cli.add_path("--cache_dir", default="cache", help="directory with item_set/, for drug names")
    cli.add_path("--lexicon_dir", default="evidence_datas/lexicon", help="directory for lexicons")
    cli.add_path("--output_path", default="evidence_datas/concepts", help="directory for the concept files")
    cli.add_argument("--matcher", choices=("dictionary", "quickumls"), help="how free text is searched")
    cli.add_argument("--umls_dir", type=Path, help="UMLS install: the directory with MRCONSO.RRF and MRSTY.RRF")
    cli.add_argument("--quickumls", type=Path, help="QuickUMLS installation ($QUICKUMLS or $QUICK_UMLS)")
    cli.add_argument("--text", help="print the mentions in this text, or in standard input (-), as JSON lines, and end")
    cli.add_argument("--terms", type=Path, metavar="FILE", help="with --text: names, one a line, in place of a lexicon")
    cli.add_num_workers("--num_worker")
    cli.add_chunks()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("concept_extraction")
    chunk = Chunk(args.chunk_num, args.chunk_idx)

    installed = os.environ.get("QUICKUMLS") or os.environ.get("QUICK_UMLS")
    quickumls = args.quickumls or (Path(installed) if installed else None)
    matcher = args.matcher or ("quickumls" if quickumls else "dictionary")
    if args.text is not None:
        if args.terms:
            searched: Matcher = DictionaryMatcher(read_terms(args.terms))
        else:
            with contextlib.redirect_stdout(sys.stderr):  # what building a lexicon reports
                built = find_or_build(args.lexicon_dir, args.umls_dir, args.index_mapping, args.cache_dir)
            searched = make_matcher(quickumls if matcher == "quickumls" else None, built)
        text = sys.stdin.buffer.read().decode(errors="replace") if args.text == "-" else args.text
        for line in mention_lines(searched, text):
            print(line)
        return
    if args.terms:
        raise UserError("--terms: expected --text with it, got none. Add --text TEXT, or leave --terms out.")
    fix = f"make it with mimiciv_dataset/task_sample_info_gen.py --group patient --output_path {args.data_index_dir}"
    index = index_files(require(args.data_index_dir, "a task index by patient", fix))
    trajectories = Trajectories(args.ehr_dir)
    if matcher == "dictionary":
        quickumls = None
    elif quickumls is None:
        raise UserError("--matcher quickumls: expected an installation in $QUICKUMLS or --quickumls, got neither. Set one.")
    else:
        check_quickumls(quickumls, workers)
    groups = patients_in_index(trajectories.groups(), index)
    sources = [trajectories_source(args.ehr_dir, args.verify), *index_sources(args.data_index_dir, verify=args.verify)]
    sources.append(index_mapping_source(args.index_mapping, args.verify))
    if quickumls:
        sources.append(quickumls_source(quickumls, FileDigests(args.output_path.parent / DIGESTS_CACHE, args.verify)))
    lexicon = None
    if matcher == "dictionary" or args.umls_dir:
        made_from = lexicon_sources(args.lexicon_dir, args.umls_dir, args.index_mapping, args.cache_dir, args.verify)
        lexicon, lexicon_digest = lexicon_record(args.lexicon_dir, made_from, cli.arguments)
        sources += [source for source in made_from if source.name not in DICTIONARIES]  # those are index_mapping
        sources.append(Source("lexicon", lexicon.output, lexicon_digest, is_ancestor=False))
    provenance = Provenance(args.output_path, STEP, sources, {"matcher": matcher}, RULES, cli.arguments)
    if not provenance.begin(args.overwrite, args.verify):
        return
    if lexicon and args.overwrite:
        lexicon.path.unlink(missing_ok=True)  # so that it is built again
    lexicon_dir = lexicon and build_lexicon(lexicon, lexicon_digest, args.index_mapping, args.verify)

    lookups = Lookups(args.index_mapping)
    job = ConceptExtraction(trajectories, lookups, args.output_path, quickumls, lexicon_dir, groups, index)
    chosen = chunk.of(list(groups))
    patients = sum(len(groups[group]) for group in chosen if not job.path(group).exists())
    units = [Unit(group, job.path(group).exists, functools.partial(job.extract, group)) for group in chosen]
    locks = args.output_path / ".locks"
    run_units(units, locks, workers=workers, total=patients, desc="concept_extraction", unit="patient")
    if all(job.path(group).exists() for group in groups):
        provenance.complete(files=map(job.path, groups))
    counts = count_concepts(map(job.path, chosen))
    text = f"{counts['text']:,} in free text, {counts['negated']:,} of them negated, family history or hypothetical"
    concepts = f"{counts['rows']:,} concepts of {counts['patients']:,} patients ({text})"
    summary.print(f"{concepts} → {args.output_path}", patients, "patients")


def patients_in_index(groups: dict[str, list[str]], index: Sequence[Path]) -> dict[str, list[str]]:
    """The patients of each group that an index by patient has, who must all be in one; all patients for any other index."""
    indexed = {path.stem for path in index}
    if not all(name.isdecimal() for name in indexed):
        return groups
    chosen = {name: [subject for subject in subjects if subject in indexed] for name, subjects in groups.items()}
    if (missing := len(indexed) - sum(map(len, chosen.values()))) > 0:
        expected = f"expected an index of patients who have trajectories, got {missing:,} without"
        raise UserError(f"{index[0].parent}: {expected}. Use index and trajectories from the same build.")
    return {name: subjects for name, subjects in chosen.items() if subjects}


def positions_in_index(index: Sequence[Path], subjects: Sequence[str]) -> dict[str, set[int]]:
    """The positions of the events that decision samples use, for each patient who has some, in the order given.

    An index by patient is read one file per patient; any other is read as a whole, one task at a time.
    """
    import polars as pl

    positions: dict[str, set[int]] = {subject: set() for subject in subjects}
    chosen = pl.col("task").is_in(list(GRAPH_TASKS)) & pl.col("subject_id").is_in(list(subjects))
    for path in index:
        if (path.stem.isdecimal() and path.stem not in positions) or task_of_file(path) not in (None, *GRAPH_TASKS):
            continue
        rows = scan(path).filter(chosen).select(SHOWN_EVENTS).unique().collect(engine="streaming")
        for subject, begin, end, *others in rows.iter_rows():
            positions[subject].update(range(begin, end + 1), (position for position in others if position is not None))
    return {subject: events for subject, events in positions.items() if events}


def free_texts(timeline: Timeline, i: int) -> Iterator[str]:
    """Yield the free text of an event's records; admission_info may be an object whose values are texts."""
    columns, rows = timeline.records(i)
    column = FREE_TEXT.get(timeline.file_names[i])
    if column in columns:
        at = columns.index(column)
        for row in rows:
            for text in row[at].values() if isinstance(row[at], dict) else [row[at]]:
                if isinstance(text, str) and text != MISSING:
                    yield text


def write_concepts(path: Path, patients: Iterable[tuple[str, Iterable[Concept]]], tick: Tick) -> None:
    """Write a concept file, with its counts in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = concept_schema()
    counts: Counter[str] = Counter()
    rows: list[tuple] = []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:

        def flush() -> None:
            columns = dict(zip(schema.names, zip(*rows, strict=True), strict=True))
            writer.write_table(pa.table(columns, schema=schema))
            rows.clear()

        for subject_id, concepts in patients:
            patient = [(subject_id, *concept) for concept in concepts]
            text, negated = sum(row[2] == TEXT for row in patient), sum(row[5] for row in patient)
            counts.update(patients=1, rows=len(patient), text=text, negated=negated)
            rows += patient
            if len(rows) >= WRITE_ROWS:
                flush()
            tick(1)
        if rows:
            flush()
        writer.add_key_value_metadata({"counts": json.dumps(counts)})


def count_concepts(files: Iterable[Path]) -> Counter[str]:
    """How many patients, rows, concepts in free text and negated concepts some concept files have, from their metadata."""
    import pyarrow.parquet as pq

    counts = (json.loads(pq.read_metadata(path).metadata[b"counts"]) for path in files)
    return sum(map(Counter, counts), Counter())


if __name__ == "__main__":
    run(main)
