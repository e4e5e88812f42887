"""Add a column `graph` to an index: for each sample, paths in the concept graph from its history to its answers.

For each answer, the concepts of the history with a lift above --threshold and enough support are taken, at most --topk of
highest lift and --total_pair in a sample; then the shortest path between the two concepts. The history is what the input of
the task shows, as in coexistence_concept.py. A concept is looked up in the graph by its name, verbatim or else simplified,
else by what a matcher (--lexicon or --quickumls) finds in it. The value of `graph` is {"umls_graph": [[term, relation, term,
…], …]}, empty if there is no path. A table shows, for each task, the share of samples with a graph and why pairs have none.

An interrupted run resumes; processes (--num_workers) share the rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

from mimiciv_dataset.cells import is_empty
from mimiciv_dataset.index_files import REQUIRED, index_files
from mimiciv_dataset.index_rows import normalise_row
from mimiciv_dataset.index_tables import read_header, read_tables
from mimiciv_dataset.sources import index_sources, trajectories_source
from mimiciv_dataset.trajectory import Trajectories
from pipeline.cli import Chunk, Parser, at_least, run
from pipeline.digests import DIGESTS_CACHE, FileDigests
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, sha256, sha256_file, write_json
from pipeline.progress import Summary, print_table
from pipeline.provenance import Provenance, Source, output_of, unknown_origin
from pipeline.records import read_record, record_path
from pipeline.work import Tick, Unit, Workers, run_units
from thinking_graph_preprocess.concept_files import concept_files
from thinking_graph_preprocess.evidence import COUNTED, Evidence, EvidenceSettings, TaskCounts
from thinking_graph_preprocess.matchers import check_quickumls, make_matcher
from thinking_graph_preprocess.sources import concepts_source, lexicon_source, quickumls_source, step_output
from thinking_graph_preprocess.umls_graph import HOW_TO_MAKE, Graph, SearchLimits, add_search_flags

STEP, RULES = "thinking_graph_preprocess/evidence_generation.py", 2
MADE_BY = {
    "coexistence": "thinking_graph_preprocess/coexistence_concept.py",
    "graph": "thinking_graph_preprocess/build_umls_graph.py",
}
COLUMN = "graph"
IS_CHUNK = re.compile(r"(.+)-(\d+)-of-(\d+)\.csv")
PART_ROWS = 200  # rows of a chunk that one process handles at a time


class IndexPart(NamedTuple):
    """Consecutive rows of an index CSV."""

    first_row: int  # number of the first row, from 0
    offset: int  # of that row in the file, in bytes


WHOLE_INDEX = IndexPart(0, 0)


@dataclass(frozen=True)
class EvidenceGeneration:
    """Adds graphs to the rows of an index, part by part. Each process opens files when it first needs them."""

    index: Path
    chunk: Chunk
    output: Path
    provenance: Provenance
    settings: EvidenceSettings
    coexistence_dir: Path
    packed: Path  # packed concepts
    graph_dir: Path
    lexicon: Path | None
    quickumls: Path | None

    @cached_property
    def evidence(self) -> Evidence:
        from thinking_graph_preprocess.packed_concepts import PackedConcepts

        matcher = make_matcher(self.quickumls, self.lexicon) if self.lexicon or self.quickumls else None
        limits = SearchLimits(self.settings.max_hops, self.settings.max_nodes, self.settings.max_degree)
        graph = Graph(self.graph_dir, limits)
        return Evidence(self.settings, self.coexistence_dir, PackedConcepts(self.packed), graph, matcher)

    @cached_property
    def columns(self) -> list[str]:
        """The columns of the output."""
        return [*(name for name in read_header(self.index) if name not in ("", COLUMN)), COLUMN]

    @property
    def parts_dir(self) -> Path:
        """The directory of finished parts; other inputs or settings have another one."""
        digest = sha256(json.dumps(self.provenance.made_from, sort_keys=True))
        return self.output.with_name(f".{self.output.name}.parts-{digest[:12]}")

    def remove_parts(self) -> None:
        """Remove the parts of this output, those with other inputs or settings too."""
        for folder in self.output.parent.glob(f".{self.output.name}.parts-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def part_path(self, part: IndexPart, suffix: str = ".csv") -> Path:
        return self.parts_dir / f"{part.first_row:09}{suffix}"

    def is_merged(self) -> bool:
        """Whether the output is finished."""
        return self.output.exists() and self.provenance.is_complete

    def is_written(self, part: IndexPart) -> bool:
        """Whether a part is finished, or no longer needed."""
        return self.part_path(part).exists() or self.is_merged()

    def write_part(self, part: IndexPart, tick: Tick) -> None:
        """Write the rows of a part without a header, and their counts."""
        counts: TaskCounts = {}
        rows = islice(read_index(self.index, part), PART_ROWS * self.chunk.number)
        with atomic_path(self.part_path(part)) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            for number, (_, row) in enumerate(rows, part.first_row):
                if number % self.chunk.number == self.chunk.index:
                    sample = normalise_row(row)
                    writer.writerow(row | {COLUMN: self.evidence.graph_of(sample, counts)})
                    tick(1)
            write_json(self.part_path(part, ".json"), counts)

    def merge(self, parts: Sequence[IndexPart], tick: Tick) -> None:
        """Write the output from all parts, complete its record, and remove the parts."""
        counts: TaskCounts = defaultdict(Counter)
        with atomic_path(self.output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self.columns)
            for part in parts:
                with self.part_path(part).open(newline="", encoding="utf-8") as rows:
                    shutil.copyfileobj(rows, file)
                for task, count in read_json(self.part_path(part, ".json")).items():
                    counts[task].update(count)
        self.provenance.complete(tasks=counts)
        self.remove_parts()


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--data_index_path", type=Path, required=True, help="index CSV")
    cli.add_argument("--output_path", type=Path, help="CSV to write (ROOT_DIR/evidence_datas/evidence/<name of the index>)")
    cli.add_path("--concept_dir", default="evidence_datas/concepts", help="output of concept_extraction.py")
    cli.add_path("--coexistence_dir", default="evidence_datas/coexistence", help="output of coexistence_concept.py")
    cli.add_path("--graph", default="evidence_datas/graph", help="output of build_umls_graph.py")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    for flag, kind, text in (
        ("threshold", float, "the lift of a pair must be above it"),
        ("min_support", int, "least number of samples with the history's concept"),
        ("topk", at_least(1), "most pairs of an answer"),
        ("total_pair", at_least(1), "most pairs of a sample"),
    ):
        default = getattr(EvidenceSettings, flag)
        cli.add_argument(f"--{flag}", type=kind, default=default, metavar="N", help=f"{text} ({default:g})")
    cli.add_argument("--lexicon", type=Path, help="lexicon of concept_extraction.py, to find names that the graph lacks")
    cli.add_argument("--quickumls", type=Path, help="QuickUMLS installation, to find names that the graph lacks")
    add_search_flags(cli)
    cli.add_num_workers()
    cli.add_chunks()
    cli.add_rerun_flags()
    args = cli.parse_args(argv)
    workers = Workers(args.num_workers, args.engine)
    summary = Summary("evidence_generation")
    chunk = Chunk(args.chunk_num, args.chunk_idx)
    settings = EvidenceSettings(**{field.name: getattr(args, field.name) for field in fields(EvidenceSettings)})
    index = require(args.data_index_path, "an index CSV", "make it with mimiciv_dataset/data_index_gen.py")
    for _ in read_tables(index, REQUIRED):
        pass  # every row is checked
    output = chunk.path(args.output_path or args.root_dir / "evidence_datas/evidence" / index.name)
    require(args.graph / "about.json", "a graph directory", HOW_TO_MAKE)
    require(args.coexistence_dir, "co-occurrence", "make it with thinking_graph_preprocess/coexistence_concept.py")
    concept_paths = concept_files(args.concept_dir)
    concepts, trajectories = concepts_source(args.concept_dir, args.verify), trajectories_source(args.ehr_dir, args.verify)
    sources = [*index_sources(index, verify=args.verify), trajectories, concepts]
    for name, folder in (("coexistence", args.coexistence_dir), ("graph", args.graph)):
        sources.append(step_output(name, folder, MADE_BY[name], verify=args.verify))
    if args.lexicon:
        require(args.lexicon / "keys.npy", "a lexicon", "concept_extraction.py makes one in evidence_datas/lexicon/")
        sources.append(lexicon_source(args.lexicon, args.verify))
    if args.quickumls:
        check_quickumls(args.quickumls, workers)
        sources.append(quickumls_source(args.quickumls, FileDigests(output.parent / DIGESTS_CACHE, args.verify)))
    recorded = asdict(settings) | {"chunk": asdict(chunk)}
    provenance = Provenance(output, STEP, sources, recorded, RULES, cli.arguments, is_file=True)
    if not provenance.begin(args.overwrite, args.verify):
        return

    from thinking_graph_preprocess.packed_concepts import find_or_pack, packed_dir

    packed = packed_dir(args.coexistence_dir, concepts, trajectories)
    find_or_pack(concept_paths, Trajectories(args.ehr_dir), packed)
    directories = args.coexistence_dir, packed, args.graph
    job = EvidenceGeneration(index, chunk, output, provenance, settings, *directories, args.lexicon, args.quickumls)
    if args.overwrite:
        job.remove_parts()
    parts, rows = split_index(index, chunk)
    name, locks = output.name, output.parent / ".locks"
    units = [Unit(f"{name}-{part.first_row}", partial(job.is_written, part), partial(job.write_part, part)) for part in parts]
    run_units(units, locks, workers=workers, total=rows, desc="evidence_generation", unit="sample")
    run_units([Unit(name, job.is_merged, partial(job.merge, parts))], locks, desc="merging parts", unit="file")
    counts = read_record(provenance.path)["tasks"]
    print_counts(counts)
    with_graph = sum(count["with_graph"] for count in counts.values())
    summary.print(f"{rows:,} rows, {with_graph:,} with a graph → {output}", rows, "rows")


def read_index(path: Path, part: IndexPart = WHOLE_INDEX) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (offset in bytes, row) of an index CSV that passed `read_tables`, from the first row of a part on.

    Cells are as in the file; empty rows and unnamed columns are left out.
    """
    csv.field_size_limit(1 << 30)
    header = read_header(path)
    with path.open("rb") as file:
        offset = file.seek(part.offset)

        def lines() -> Iterator[str]:
            nonlocal offset
            for data in file:
                offset += len(data)
                yield data.decode("utf-8")

        reader = csv.reader(lines())
        if not part.offset:
            next(reader)
        begin = offset
        for cells in reader:
            if not is_empty(cells):
                yield begin, {name: cell for name, cell in zip(header, cells, strict=True) if name}
            begin = offset


def split_index(path: Path, chunk: Chunk) -> tuple[list[IndexPart], int]:
    """The parts of an index, each with `PART_ROWS` rows of a chunk, and the number of rows of the chunk."""
    parts, rows = [], 0
    for number, (offset, _) in enumerate(read_index(path)):
        if number % (PART_ROWS * chunk.number) == 0:
            parts.append(IndexPart(number, offset))
        rows += number % chunk.number == chunk.index
    return parts, rows


def evidence_files(path: Path) -> list[Path]:
    """The outputs of this command in a directory, with all chunks of each index; `path` itself if it is a file."""
    files = index_files(path)
    chunks: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for file in files if path.is_dir() else []:
        match = IS_CHUNK.fullmatch(file.name)
        name, index, number = match.groups() if match else (file.stem, 0, 1)
        chunks[name][int(number)].add(int(index))
    for name, indices_by_number in chunks.items():
        if len(indices_by_number) > 1:
            numbers = " and ".join(map(str, indices_by_number))
            raise UserError(f"{path}: expected one number of chunks of {name}, got {numbers}. Remove the outdated files.")
        ((number, indices),) = indices_by_number.items()
        if missing := ", ".join(str(index) for index in range(number) if index not in indices):
            expected = f"expected all {number} chunks of {name}, got {len(indices)}"
            raise UserError(f"{path}: {expected}. Run evidence_generation.py with --chunk_idx {missing}.")
    return files


def evidence_sources(path: Path, verify: bool = False) -> list[Source]:
    """The outputs of this command in a directory, each a source of its own; those without a record are one together."""
    files = evidence_files(path)
    recorded = [file for file in files if record_path(file).exists()]
    sources = [output_of(f"evidence/{file.name}", file, STEP, verify=verify) for file in recorded]
    if others := [file for file in files if file not in recorded]:
        digest = sha256("\n".join(f"{file.name} {sha256_file(file)}" for file in others))
        sources.append(replace(unknown_origin("evidence", path), digest=digest, by="files"))
    return sources


def print_counts(counts: TaskCounts) -> None:
    """Print the samples of each task, and by reason what is not linked by a path."""
    rows = []
    for task, count in counts.items():
        samples, with_graph, paths, hops = (count[name] for name in COUNTED)
        reasons = Counter(count).most_common()
        lost = ", ".join(f"{number:,} {reason}" for reason, number in reasons if reason not in COUNTED and number)
        mean_paths, mean_hops = round(paths / samples, 1), round(hops / max(paths, 1), 1)
        rows.append([task, samples, f"{with_graph / samples:.1%}", mean_paths, mean_hops, lost])
    print_table(["task", "samples", "with graph", "paths each", "hops", "not linked"], rows)


if __name__ == "__main__":
    run(main)
