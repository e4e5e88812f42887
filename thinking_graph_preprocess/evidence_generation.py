"""Index rows, co-occurrence and the concept graph → the graph of each sample: paths from its history to its answers.

For each answer: the history's concepts with lift above --threshold and enough support, the --topk of highest lift, at most
--total_pair pairs a sample; then the shortest path between the two concepts. The history is what the task's input shows, as in
coexistence_concept.py. Writes the index's rows with a column `graph`: {"umls_graph": [[term, relation, term, …], …]}, empty
where there is none. A table says, per task, how many samples have a graph and why pairs were lost.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.commands import (
    Summary,
    UserError,
    add_chunks,
    add_path,
    atomic_path,
    chunk,
    parse,
    parser,
    progress,
    require,
    run,
    share_work,
)  # fmt: skip
from mimiciv_dataset.index_files import normalise_row, read_header, window_columns
from mimiciv_dataset.tasks import Task
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, concept_files, normalise
from thinking_graph_preprocess.umls_graph import Graph, Limits, add_search_flags

if TYPE_CHECKING:
    import numpy as np

    from thinking_graph_preprocess.packed_concepts import PackedConcepts

COLUMN = "graph"


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
        UserError: there is no such file.
    """

    def __init__(self, path: Path, number: dict[str, int], threshold: float, min_support: int) -> None:
        import pyarrow.parquet as pq

        path = require(path, "co-occurrence of this task", "make it with thinking_graph_preprocess/coexistence_concept.py")
        strong = [("lift", ">", threshold), ("n_history", ">=", min_support)]
        table = pq.read_table(path, columns=["target", "history", "lift", "n_history"], filters=strong)
        self._of_target: dict[str, dict[int, tuple[float, int]]] = defaultdict(dict)
        for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
            target, history, lift, support = row
            if history in number:
                self._of_target[target][number[history]] = (lift, support)

    def pairs(self, target: str, history: np.ndarray, names: Sequence[str], topk: int) -> list[Pair]:
        """The pairs of one answer with a history (numbers of concepts), strongest first, at most `topk`."""
        known = self._of_target.get(target, {})
        found = [
            Pair(-lift, -support, names[concept], target)
            for concept in history.tolist()
            if concept in known and names[concept] != target
            for lift, support in [known[concept]]
        ]
        return sorted(found)[:topk]


class Evidence:
    """Makes the graphs of samples.

    Args:
        args: the command's.
        concepts: all patients' concepts.
        graph: the concept graph.
    """

    def __init__(self, args: Any, concepts: PackedConcepts, graph: Graph) -> None:
        self.args, self.concepts, self.graph = args, concepts, graph
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
            ends = self.graph.node_of_term(pair.history), self.graph.node_of_term(pair.target)
            if None in ends:
                lost["not in the graph"] += 1
            elif ends[0] == ends[1]:
                lost["one concept"] += 1
            elif (path := self.graph.path_of_nodes(*ends)) is None:
                lost["no path within the limits"] += 1
            else:
                yield path

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
    cli = parser(__doc__)
    cli.add_argument("--data_index_path", type=Path, required=True, help="index CSV")
    cli.add_argument("--output_path", type=Path, help="CSV to write (ROOT_DIR/evidence_datas/evidence/<name of the index>)")
    add_path(cli, "--concept_dir", default="evidence_datas/concepts", help="files of concept_extraction.py")
    add_path(cli, "--coexistence_dir", default="evidence_datas/coexistence", help="files of coexistence_concept.py")
    add_path(cli, "--graph", default="evidence_datas/graph", help="folder of build_umls_graph.py")
    add_path(cli, "--ehr_dir", "--patient_ehr_path", default="patients_ehr", help="trajectories")
    cli.add_argument("--threshold", type=float, default=5.0, help="lift must be above it (5)")
    cli.add_argument("--min_support", type=int, default=5, help="samples that must have the history's concept (5)")
    cli.add_argument("--topk", type=int, default=20, help="pairs of an answer at most (20)")
    cli.add_argument("--total_pair", type=int, default=100, help="pairs of a sample at most (100)")
    add_search_flags(cli)
    add_chunks(cli)
    args = parse(cli, argv)
    summary = Summary("evidence_generation")
    index = require(args.data_index_path, "an index CSV", "make it with mimiciv_dataset/data_index_gen.py")
    columns = read_header(index)
    window_columns(index, columns)
    output = args.output_path or Path(args.root_dir) / "evidence_datas/evidence" / index.name
    if args.chunk_num > 1:
        output = output.with_name(f"{output.stem}-{args.chunk_idx}-of-{args.chunk_num}.csv")
    if output.exists():
        raise UserError(f"{output}: wanted a new file, found one: this step is done; remove it to do it again")

    from mimiciv_dataset.trajectory import Trajectories
    from thinking_graph_preprocess.packed_concepts import PackedConcepts, pack

    graph = Graph(args.graph, Limits(args.max_hops, args.max_nodes))
    files, packed = concept_files(args.concept_dir), args.coexistence_dir / ".packed"
    share_work(["pack"], lambda _: packed.exists(), lambda _: pack(files, Trajectories(args.ehr_dir), packed),
               args.coexistence_dir / ".locks")  # fmt: skip
    evidence = Evidence(args, PackedConcepts(packed), graph)
    with index.open(newline="", encoding="utf-8-sig") as file:
        rows = chunk(list(csv.DictReader(file)), args.chunk_num, args.chunk_idx)
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(name for name in columns if name != COLUMN), COLUMN])
        writer.writeheader()
        for number, row in enumerate(progress(rows, desc="evidence", unit="sample"), 1):
            writer.writerow(row | {COLUMN: evidence.of(normalise_row(row, f"{index}, row {number}"))})
    print(table(evidence))
    summary.print(f"{len(rows):,} rows, {sum(evidence.with_graph.values()):,} with a graph → {output}", len(rows), "rows")


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
