"""The evidence for the answers of a sample: paths in the concept graph from concepts of its history."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mimiciv_dataset.tasks import Task
from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess import vocabularies
from thinking_graph_preprocess.concept_files import GRAPH_TASKS, normalise
from thinking_graph_preprocess.umls_graph import Graph, SearchLimits

if TYPE_CHECKING:
    import numpy as np

    from thinking_graph_preprocess.matchers import Matcher
    from thinking_graph_preprocess.packed_concepts import PackedConcepts

# Task → `samples`, samples `with_graph`, `paths`, `hops` (relations of all paths), and pairs without a path by reason.
TaskCounts = dict[str, Counter[str]]
COUNTED = ("samples", "with_graph", "paths", "hops")


@dataclass(frozen=True)
class EvidenceSettings:
    """Which pairs of a history's concept and an answer are looked up in the graph, and the limits of a search."""

    threshold: float = 5.0  # the lift of a pair must be above it
    min_support: int = 5  # minimum number of training samples that contain the concept of the history
    topk: int = 20  # maximum pairs per answer, those with the highest lift
    total_pair: int = 100  # maximum pairs per sample
    max_hops: int = SearchLimits.max_hops
    max_nodes: int = SearchLimits.max_nodes
    max_degree: int | None = SearchLimits.max_degree


class Pair(NamedTuple):
    """A concept of the history and an answer; pairs are ordered as they are chosen."""

    minus_lift: float
    minus_support: int
    history: str
    target: str


class Associations:
    """The co-occurrence of one task (a file of coexistence_concept.py) without weak pairs, by number of the concept."""

    def __init__(self, path: Path, number: dict[str, int], settings: EvidenceSettings) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        from thinking_graph_preprocess.packed_concepts import decode

        path = require(path, "co-occurrence of this task", "make it with thinking_graph_preprocess/coexistence_concept.py")
        strong = [("lift", ">", settings.threshold), ("n_history", ">=", settings.min_support)]
        columns = ["target", "history", "lift", "n_history"]
        try:
            table = pq.read_table(path, columns=columns, filters=strong, read_dictionary=columns[:2])
        except pa.ArrowInvalid:
            fix = "Remove it and make it again"
            raise UserError(f"{path}: expected a file of coexistence_concept.py, got a malformed one. {fix}.") from None
        table = table.unify_dictionaries().combine_chunks()
        target, history = (decode(table[name], lambda name: number.get(name, -1), np.int32) for name in columns[:2])
        order = np.lexsort((history, target))
        order = order[(target[order] >= 0) & (history[order] >= 0) & (target[order] != history[order])]
        self._target, self._history = target[order], history[order]
        self._lift, self._support = table["lift"].to_numpy()[order], table["n_history"].to_numpy()[order]
        self._number = number

    def pairs(self, target: str, history: np.ndarray, names: Sequence[str], topk: int) -> list[Pair]:
        """The `topk` strongest pairs of an answer with the concepts of a history (numbers, ascending)."""
        import numpy as np

        begin, end = np.searchsorted(self._target, [number := self._number.get(target, -1), number + 1])
        rows = begin + np.flatnonzero(np.isin(self._history[begin:end], history, assume_unique=True))
        lift, support, concept = self._lift[rows], self._support[rows], self._history[rows]
        best = np.lexsort((concept, -support, -lift))[:topk]  # numbers of concepts are in the order of their names
        return [Pair(-lift[at].item(), -support[at].item(), names[concept[at]], target) for at in best]


class Evidence:
    """Finds the graph of each sample; in a term without a node of its own, the matcher finds the concepts it mentions."""

    def __init__(
        self, settings: EvidenceSettings, coexistence: Path, concepts: PackedConcepts, graph: Graph, matcher: Matcher | None
    ) -> None:
        self._settings, self._coexistence_dir = settings, coexistence
        self._concepts, self._graph, self._matcher = concepts, graph, matcher
        self._associations: dict[str, Associations] = {}
        self._node = lru_cache(maxsize=1 << 20)(self._find_node)

    def graph_of(self, row: dict[str, Any], counts: TaskCounts) -> str:
        """The value of the column `graph` for a normalised index row; empty if there is no path. Updates the counts."""
        task = GRAPH_TASKS.get(row["task"])
        if task is None:
            return ""
        count = counts.setdefault(task.name, Counter(dict.fromkeys(COUNTED, 0)))
        paths = list(self._paths(task, row, count))
        count.update(samples=1, with_graph=bool(paths), paths=len(paths), hops=sum(len(path) // 2 for path in paths))
        return json.dumps({"umls_graph": paths}, ensure_ascii=False) if paths else ""

    def _paths(self, task: Task, row: dict[str, Any], count: Counter[str]) -> Iterator[list[str]]:
        for pair in self._pairs(task, row, count):
            source, target = self._node(pair.history), self._node(pair.target, vocabularies.OF_TASK.get(task.name))
            if source is None or target is None:
                count["not in the graph"] += 1
            elif source == target:
                count["one concept"] += 1
            elif path := self._graph.path_of_nodes(source, target):
                yield path
            else:
                count["no path within the limits" if path is None else "no path"] += 1

    def _pairs(self, task: Task, row: dict[str, Any], count: Counter[str]) -> list[Pair]:
        if task.name not in self._associations:
            path = self._coexistence_dir / f"{task.name}.parquet"
            self._associations[task.name] = Associations(path, self._concepts.number, self._settings)
        history = history_of(self._concepts, task, row)
        answers = row["target"] if isinstance(row["target"], list) else [row["target"]]
        pairs: list[Pair] = []
        for answer in dict.fromkeys(map(normalise, answers)):
            strongest = self._associations[task.name].pairs(answer, history, self._concepts.names, self._settings.topk)
            count["answers without a strong history"] += not strongest
            pairs += strongest
        return sorted(pairs)[: self._settings.total_pair]

    def _find_node(self, term: str, vocabulary: str | None = None) -> int | None:
        """The node that a term names, of a vocabulary if there is one, else of the matcher's the one with the longest name."""
        graph = self._graph
        if (node := graph.node_of_term(term, vocabulary)) is not None or self._matcher is None:
            return node
        best, longest = None, 0
        for mention in self._matcher.mentions(term):
            node = graph.node_of_term(mention.name) if mention.cui is None else graph.node_of_cui(mention.cui)
            if node is not None and not mention.negated and len(mention.name) > longest:
                best, longest = node, len(mention.name)
        return best


def history_of(concepts: PackedConcepts, task: Task, row: dict[str, Any]) -> np.ndarray:
    """The concepts (numbers, ascending) of what the input of a sample shows: window, last discharge note, admission."""
    import numpy as np

    positions = (row.get(name) for name in ("period_begin", "period_end", "admissions_id", "last_discharge_id"))
    window, *notes = (slice(*span) for span in concepts.spans(task, [(row["subject_id"], *positions)])[0])
    shown = concepts.concept[window][concepts.is_shown(task, window)]
    return np.unique(np.concatenate([shown, *(concepts.concept[note] for note in notes)]))
