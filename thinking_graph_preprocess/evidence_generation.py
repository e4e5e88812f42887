"""Index rows, co-occurrence and the concept graph → the graph of each sample: paths from its history to its answers.

For each answer: the history's concepts with lift above --threshold and enough support, the --topk of highest lift, at most
--total_pair pairs a sample; then the shortest path between the two concepts. The history is what the task's input shows, as in
coexistence_concept.py. A concept is found in the graph by its name as written, else normalised, else by what a matcher
(--lexicon or --quickumls) finds in it. Writes the index's rows with a column `graph`: {"umls_graph": [[term, relation, term,
…], …]}, empty where there is none. A table says, per task, how many samples have a graph and why pairs were lost.

A finished output is left as it is when the same is asked again, so that an interrupted road or job array goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.index_files import index_files, normalise_row, read_header, window_columns
from mimiciv_dataset.tasks import Task
from pipeline.cli import Chunk, Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json, require, write_json
from pipeline.progress import Summary, progress
from pipeline.work import share_work
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, concept_files, normalise
from thinking_graph_preprocess.umls_graph import HOW_TO_MAKE, Graph, Limits, add_search_flags

if TYPE_CHECKING:
    import numpy as np

    from thinking_graph_preprocess.matchers import Matcher
    from thinking_graph_preprocess.packed_concepts import PackedConcepts

COLUMN = "graph"
CHUNK_NAME = "{name}-{index}-of-{number}.csv"
IS_CHUNK = re.compile(r"(.+)-(\d+)-of-(\d+)\.csv")


class Pair(NamedTuple):
    """A concept of the history that speaks for an answer; pairs sort as they are chosen."""

    minus_lift: float
    minus_support: int
    history: str
    target: str


class Associations:
    """One task's co-occurrence, with what is too weak left out.

    Args:
        path: a parquet file of coexistence_concept.py.
        number: concept → its number.
        threshold: lift must be above it.
        min_support: samples that must have the history's concept.

    Raises:
        UserError: there is no such file, or it is another kind of file.
    """

    def __init__(self, path: Path, number: dict[str, int], threshold: float, min_support: int) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        from thinking_graph_preprocess.packed_concepts import decoded

        path = require(path, "co-occurrence of this task", "make it with thinking_graph_preprocess/coexistence_concept.py")
        strong = [("lift", ">", threshold), ("n_history", ">=", min_support)]
        columns = ["target", "history", "lift", "n_history"]
        try:
            table = pq.read_table(path, columns=columns, filters=strong, read_dictionary=columns[:2])
        except pa.ArrowInvalid:
            raise UserError(f"{path}: wanted a file of coexistence_concept.py, found a broken or another one") from None
        table = table.unify_dictionaries().combine_chunks()
        target, history = (decoded(table[name], lambda name: number.get(name, -1), np.int32) for name in columns[:2])
        order = np.lexsort((history, target))
        order = order[(target[order] >= 0) & (history[order] >= 0) & (target[order] != history[order])]
        self._target, self._history = target[order], history[order]
        self._lift, self._support = table["lift"].to_numpy()[order], table["n_history"].to_numpy()[order]
        self._number = number

    def pairs(self, target: str, history: np.ndarray, names: Sequence[str], topk: int) -> list[Pair]:
        """The pairs of one answer with a history (numbers of concepts, ascending), strongest first, at most `topk`."""
        import numpy as np

        begin, end = np.searchsorted(self._target, [number := self._number.get(target, -1), number + 1])
        rows = begin + np.flatnonzero(np.isin(self._history[begin:end], history, assume_unique=True))
        lift, support, concept = self._lift[rows], self._support[rows], self._history[rows]
        best = np.lexsort((concept, -support, -lift))[:topk]  # a concept's number is the place of its name
        return [Pair(-lift[at].item(), -support[at].item(), names[concept[at]], target) for at in best]


class Terms:
    """Finds terms in the graph.

    Args:
        graph: the concept graph.
        matcher: what to ask about a term that is no name of a concept, if anything.
    """

    def __init__(self, graph: Graph, matcher: Matcher | None) -> None:
        self._graph, self._matcher = graph, matcher
        self.node = lru_cache(maxsize=1 << 20)(self._find)

    def _find(self, term: str) -> int | None:
        """The concept that a term names, or of those that the matcher finds in it the one with the longest name."""
        graph = self._graph
        if (node := graph.node_of_term(term)) is not None or self._matcher is None:
            return node
        best, longest = None, 0
        for concept, cui, negated in self._matcher.mentions(term):
            node = graph.node_of_term(concept) if cui is None else graph.node_of_cui(cui)
            if node is not None and not negated and len(concept) > longest:
                best, longest = node, len(concept)
        return best


class Evidence:
    """Makes the graphs of samples.

    Args:
        args: the command's.
        concepts: all patients' concepts.
        graph: the concept graph.
        matcher: finds terms that are no names of the graph, if given.
    """

    def __init__(self, args: Any, concepts: PackedConcepts, graph: Graph, matcher: Matcher | None = None) -> None:
        self.args, self.concepts, self.graph = args, concepts, graph
        self.terms = Terms(graph, matcher)
        self.samples: Counter[str] = Counter()
        self.with_graph: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        self.hops: Counter[str] = Counter()
        self.lost: dict[str, Counter[str]] = defaultdict(Counter)
        self._associations: dict[str, Associations] = {}

    def of(self, row: dict[str, Any]) -> str:
        """The column `graph` of a row; "" for tasks without concepts as answers."""
        task = GRAPH_TASKS.get(row["task"])
        if task is None:
            return ""
        self.samples[task.name] += 1
        paths = list(self._paths(task, row))
        self.with_graph[task.name] += bool(paths)
        self.paths[task.name] += len(paths)
        self.hops[task.name] += sum(len(path) // 2 for path in paths)
        return json.dumps({"umls_graph": paths}, ensure_ascii=False) if paths else ""

    def _paths(self, task: Task, row: dict[str, Any]) -> Iterator[list[str]]:
        lost = self.lost[task.name]
        for pair in self._pairs(task, row):
            ends = self.terms.node(pair.history), self.terms.node(pair.target)
            if None in ends:
                lost["not in the graph"] += 1
            elif ends[0] == ends[1]:
                lost["one concept"] += 1
            elif path := self.graph.path_of_nodes(*ends):
                yield path
            else:
                lost["no path within the limits" if path is None else "no path"] += 1

    def _pairs(self, task: Task, row: dict[str, Any]) -> list[Pair]:
        if task.name not in self._associations:
            path = self.args.coexistence_dir / f"{task.name}.parquet"
            self._associations[task.name] = Associations(
                path, self.concepts.number, self.args.threshold, self.args.min_support
            )
        history = history_of(self.concepts, task, row)
        targets = row["target"] if isinstance(row["target"], list) else [row["target"]]
        found: list[Pair] = []
        for target in dict.fromkeys(map(normalise, targets)):
            mine = self._associations[task.name].pairs(target, history, self.concepts.names, self.args.topk)
            self.lost[task.name]["answers without a strong history"] += not mine
            found += mine
        return sorted(found)[: self.args.total_pair]


def history_of(concepts: PackedConcepts, task: Task, row: dict[str, Any]) -> np.ndarray:
    """The concepts (numbers, ascending) of what a sample's input shows: window, last discharge note, admission."""
    import numpy as np

    from thinking_graph_preprocess.packed_concepts import TABLES

    begin, end = concepts.rows_of(row["subject_id"])
    events, names, tables = (part[begin:end] for part in (concepts.event, concepts.concept, concepts.table))
    low, high = np.searchsorted(events, [row["period_begin"], row["period_end"]])
    hidden = [TABLES[table] for table in ("admissions", *task.hidden)]
    parts = [names[low:high][~np.isin(tables[low:high], hidden)]]
    admission = row.get("admissions_id") if task.name != "admissions" else None
    for position in (row.get("last_discharge_id"), admission):
        if position is not None:
            low, high = np.searchsorted(events, [position, position + 1])
            parts.append(names[low:high])
    return np.unique(np.concatenate(parts))


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--data_index_path", type=Path, required=True, help="index CSV")
    cli.add_argument("--output_path", type=Path, help="CSV to write (ROOT_DIR/evidence_datas/evidence/<name of the index>)")
    cli.add_path("--concept_dir", default="evidence_datas/concepts", help="files of concept_extraction.py")
    cli.add_path("--coexistence_dir", default="evidence_datas/coexistence", help="files of coexistence_concept.py")
    cli.add_path("--graph", default="evidence_datas/graph", help="folder of build_umls_graph.py")
    cli.add_path("--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--threshold", type=float, default=5.0, help="lift must be above it (5)")
    cli.add_argument("--min_support", type=int, default=5, help="samples that must have the history's concept (5)")
    cli.add_argument("--topk", type=int, default=20, help="pairs of an answer at most (20)")
    cli.add_argument("--total_pair", type=int, default=100, help="pairs of a sample at most (100)")
    cli.add_argument("--lexicon", type=Path, help="lexicon of concept_extraction.py to find names with that the graph lacks")
    cli.add_argument("--quickumls", type=Path, help="QuickUMLS installation to find them with")
    add_search_flags(cli)
    cli.add_chunks()
    args = cli.parse_args(argv)
    summary = Summary("evidence_generation")
    if min(args.topk, args.total_pair) < 1:
        raise UserError(f"--topk {args.topk}, --total_pair {args.total_pair}: wanted numbers ≥ 1")
    index = require(args.data_index_path, "an index CSV", "make it with mimiciv_dataset/data_index_gen.py")
    columns = read_header(index)
    window_columns(index, columns)
    output = args.output_path or Path(args.root_dir) / "evidence_datas/evidence" / index.name
    if args.chunk_num > 1:
        output = output.with_name(CHUNK_NAME.format(name=output.stem, index=args.chunk_idx, number=args.chunk_num))
    options = options_of(args)
    if is_done(output, options):
        print(f"{output}: done before, with the same options; remove it to do it again")
        return

    from mimiciv_dataset.trajectory import Trajectories
    from thinking_graph_preprocess.packed_concepts import PackedConcepts, pack

    total = len(Chunk(args.chunk_num, args.chunk_idx).of(range(sum(1 for _ in read_index(index)))))
    graph, matcher = Graph(args.graph, Limits(args.max_hops, args.max_nodes)), find_matcher(args.lexicon, args.quickumls)
    files, packed = concept_files(args.concept_dir), args.coexistence_dir / ".packed"
    share_work(["pack"], lambda _: packed.exists(), lambda _: pack(files, Trajectories(args.ehr_dir), packed),
               args.coexistence_dir / ".locks")  # fmt: skip
    evidence = Evidence(args, PackedConcepts(packed), graph, matcher)
    write_json(options_path(output), options)
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(name for name in columns if name != COLUMN), COLUMN])
        writer.writeheader()
        rows = islice(read_index(index), args.chunk_idx, None, args.chunk_num)
        for where, row in progress(rows, total=total, desc="evidence", unit="sample"):
            writer.writerow(row | {COLUMN: evidence.of(normalise_row(row, where))})
    print(table(evidence))
    summary.print(f"{total:,} rows, {sum(evidence.with_graph.values()):,} with a graph → {output}", total, "rows")


def read_index(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where it stands, and the row, for every row of an index CSV.

    Raises:
        UserError: a row has more or fewer fields than the header, or is no text.
    """
    csv.field_size_limit(1 << 30)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            for number, row in enumerate(reader, 1):
                where = f"{path}, row {number}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: wanted {len(reader.fieldnames)} fields, found others; is the file whole?")
                yield where, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}, line {reader.line_num + 1}: wanted a CSV in UTF-8, found: {error}") from None


def evidence_files(path: Path) -> list[Path]:
    """The CSVs of this command in a folder, or the one that is named; of an index that was done in chunks, all of them.

    Raises:
        UserError: there is none, a chunk is missing, or an index was done twice with different numbers of chunks.
    """
    files = index_files(path)
    chunks: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for file in files if path.is_dir() else []:
        found = IS_CHUNK.fullmatch(file.name)
        name, index, number = found.groups() if found else (file.stem, 0, 1)
        chunks[name][int(number)].add(int(index))
    for name, splits in chunks.items():
        if len(splits) > 1:
            raise UserError(f"{path}: wanted {name} in one number of chunks, found it in {' and in '.join(map(str, splits))}; "
                            "remove those that are out of date")  # fmt: skip
        ((number, there),) = splits.items()
        if missing := set(range(number)) - there:
            raise UserError(f"{path}: wanted all {number} chunks of {name}, found {len(there)} (missing: "
                            f"{', '.join(map(str, sorted(missing)))}); run them with evidence_generation.py")  # fmt: skip
    return files


def find_matcher(lexicon: Path | None, quickumls: Path | None) -> Matcher | None:
    """The matcher to ask about names that the graph lacks, if one is given."""
    from thinking_graph_preprocess.matchers import DictionaryMatcher, QuickUMLSMatcher

    if lexicon is not None:
        require(lexicon / "keys.npy", "a lexicon", "concept_extraction.py makes one in evidence_datas/lexicon/")
    if quickumls is not None:
        return QuickUMLSMatcher(quickumls, lexicon)
    return None if lexicon is None else DictionaryMatcher(lexicon)


def options_path(output: Path) -> Path:
    """Where it is kept what an output was made with."""
    return output.with_suffix(".options.json")


def options_of(args: Any) -> dict[str, Any]:
    """What an output depends on: the files by their digests, the flags."""
    files = {
        "index": args.data_index_path,
        "graph": require(args.graph / "about.json", "a graph folder", HOW_TO_MAKE),
        "coexistence": args.coexistence_dir / "options.json",
    }
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None for name, path in files.items()}
    flags = ("threshold", "min_support", "topk", "total_pair", "max_hops", "max_nodes", "chunk_num", "chunk_idx")
    matcher = {name: str(path.resolve()) if (path := getattr(args, name)) else None for name in ("lexicon", "quickumls")}
    return digests | {name: getattr(args, name) for name in flags} | matcher


def is_done(output: Path, options: dict[str, Any]) -> bool:
    """Whether an output is there already.

    Raises:
        UserError: it is, but was made with other options.
    """
    if not output.exists():
        return False
    made = read_json(options_path(output)) if options_path(output).exists() else {}
    if made != options:
        differing = ", ".join(name for name in options if made.get(name) != options[name])
        raise UserError(f"{output}: wanted a new file, found one made with another {differing}; remove it, or choose another "
                        "--output_path")  # fmt: skip
    return True


def table(evidence: Evidence) -> str:
    """Per task: samples, share with a graph, paths a sample, relations a path, pairs lost and why."""
    lines = [f"{'task':<24}{'samples':>9}{'with graph':>12}{'paths each':>12}{'hops':>6}  lost"]
    for task, samples in evidence.samples.items():
        paths = evidence.paths[task]
        lost = ", ".join(f"{count:,} {why}" for why, count in evidence.lost[task].most_common() if count)
        lines.append(f"{task:<24}{samples:>9,}{evidence.with_graph[task] / samples:>12.1%}{paths / samples:>12.1f}"
                     f"{evidence.hops[task] / max(paths, 1):>6.1f}  {lost}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
