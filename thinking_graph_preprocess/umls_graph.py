"""Find the shortest path between two medical terms in the concept graph, with the relation of each step.

    python thinking_graph_preprocess/umls_graph.py --graph DIR "Term A" "Term B"    # one path as JSON, null if there is none
    python thinking_graph_preprocess/umls_graph.py --graph DIR --pairs FILE         # tab-separated terms; one JSON line a pair

DIR is the output of build_umls_graph.py. Its arrays are memory-mapped, so processes share them and a query reads only the
pages it needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from pipeline.cli import Parser, at_least, run
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import Summary, progress
from pipeline.records import folder_record, read_record
from thinking_graph_preprocess.term_search import position_of, words_of
from thinking_graph_preprocess.vocabularies import qualified

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2  # version of the arrays of a graph directory
INVERSE = "inverse_"  # prefix that names the inverse of a relation for which UMLS has no name
LIMIT = -1  # result of a search that reached a limit
HOW_TO_MAKE = "make it with thinking_graph_preprocess/build_umls_graph.py"
REMAKE = "Remove it and make it again with thinking_graph_preprocess/build_umls_graph.py"


@dataclass(frozen=True)
class SearchLimits:
    """Limits of a search."""

    max_hops: int = 10  # most relations of a path
    max_nodes: int = 2000  # most concepts to expand
    max_degree: int | None = None  # most relations of a concept inside a path; None: the limit that the graph was built with

    def __post_init__(self) -> None:
        if min(self.max_hops, self.max_nodes, self.max_degree or 1) < 1:
            flags = f"--max_hops {self.max_hops}, --max_nodes {self.max_nodes}, --max_degree {self.max_degree}"
            raise UserError(f"{flags}: expected numbers of at least 1, got a smaller one. Use larger ones.")


def simplify_term(term: str) -> str:
    """A term in lower case with single spaces and without punctuation, to find other spellings.

    >>> simplify_term("  Diabetes Mellitus, Type-2 ")
    'diabetes mellitus type 2'
    """
    return " ".join(words_of(term.casefold()))


def term_hash(term: str) -> int:
    """A 64-bit hash of a term; the probability of a collision among tens of millions of terms is about 10⁻⁴."""
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8"), digest_size=8).digest(), "little")


class Graph:
    """A concept graph (output of build_umls_graph.py), memory-mapped. Nodes are integers.

    A path begins and ends anywhere, but passes only through concepts that say something about both of their neighbours: not
    through those that the build excluded (qualifiers, time aspects, categories of items), nor through those with more than
    `max_degree` relations.
    """

    def __init__(self, folder: Path | str, limits: SearchLimits | None = None) -> None:
        import numpy as np

        self.folder = require(folder, "a graph directory", HOW_TO_MAKE)
        self.limits = limits or SearchLimits()
        record = read_record(folder_record(self.folder))
        if record and not record.get("complete"):
            raise UserError(f"{self.folder}: expected a complete graph directory, got an unfinished one. {REMAKE}.")
        about = read_json(require(self.folder / "about.json", "a complete graph directory", HOW_TO_MAKE))
        if about.get("format") != FORMAT:
            raise UserError(f"{self.folder}: expected a graph directory of this version, got another. {REMAKE}.")
        self.relations: list[str] = about["relations"]["names"]
        # neighbours[offsets[n] : offsets[n + 1]] are the neighbours of node n, ascending, labels the relations to them
        lengths = dict.fromkeys(("offsets", "name_offsets"), about["nodes"] + 1)
        lengths |= dict.fromkeys(("cuis", "transit"), about["nodes"])
        lengths |= dict.fromkeys(("neighbours", "labels"), about["edges"])
        lengths |= dict.fromkeys(("term_hashes", "term_nodes"), about["terms"])
        for name, size in lengths.items():
            setattr(self, f"_{name}", self._array(name, size))
        self._name_text = self._array("name_text", int(self._name_offsets[-1]))
        self.max_degree = self.limits.max_degree or about["max_degree"]
        self.is_transit = self._transit & (np.diff(self._offsets) <= self.max_degree)  # whether a path may pass through a node
        self._seen: np.ndarray | None = None

    def _array(self, name: str, size: int) -> np.ndarray:
        import numpy as np

        path = require(self.folder / f"{name}.npy", "an array of the graph", HOW_TO_MAKE)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            raise UserError(f"{path}: expected an array of the graph, got a malformed file. {REMAKE}.") from None
        if len(array) != size:
            raise UserError(f"{path}: expected an array of length {size:,}, got {len(array):,}. {REMAKE}.")
        return array

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def cui(self, node: int) -> str:
        """The CUI of a node."""
        return self._cuis[node].decode()

    def name(self, node: int) -> str:
        """The preferred name of a node."""
        begin, end = self._name_offsets[node : node + 2]
        return bytes(self._name_text[begin:end]).decode("utf-8")

    def node_of_cui(self, cui: str) -> int | None:
        """The node with a CUI, or None."""
        return position_of(cui.encode(), self._cuis)

    def node_of_term(self, term: str, vocabulary: str | None = None) -> int | None:
        """The node that a term names, verbatim or else simplified; None if there is none.

        In a free graph, a term can name nodes of several vocabularies: that of `vocabulary` is preferred.
        """
        import numpy as np

        terms = [qualified(vocabulary, term), term] if vocabulary else [term]
        for spelling in [spelling for name in terms for spelling in (name, simplify_term(name))]:
            at = position_of(np.uint64(term_hash(spelling)), self._term_hashes)
            if at is not None:
                return int(self._term_nodes[at])
        return None

    def shortest(self, source: int, target: int) -> list[int] | None:
        """The nodes of a shortest path, both ends included; empty if there is none, None if the search reached a limit."""
        import numpy as np

        if self._seen is None:  # by side and node: the last search that reached it, and its predecessor
            self._seen, self._parent, self._queue = (np.zeros((2, len(self)), np.int32) for _ in range(3))
            self._searches = 0
        self._searches += 1
        limits = self.limits.max_hops, self.limits.max_nodes
        path = np.empty(min(limits[0] + 1, len(self)), np.int32)
        graph = self._offsets, self._neighbours, self.is_transit
        state = self._seen, self._parent, self._queue, self._searches
        length = _compile_search()(*graph, source, target, *limits, *state, path)
        return None if length == LIMIT else path[:length].tolist()

    def relation(self, source: int, target: int) -> str:
        """The relation from a node to its neighbour: of several the first, which is the most specific."""
        import numpy as np

        begin, end = self._offsets[source : source + 2]
        return self.relations[self._labels[begin + np.searchsorted(self._neighbours[begin:end], np.int32(target))]]

    def path(self, source: str, target: str) -> list[str] | None:
        """[term, relation, term, …]; None if a term is unknown, both name one concept, or no path is found."""
        nodes = self.node_of_term(source), self.node_of_term(target)
        return None if None in nodes or nodes[0] == nodes[1] else self.path_of_nodes(*nodes) or None

    @lru_cache(maxsize=1_000_000)  # noqa: B019  a graph lives as long as its process
    def path_of_nodes(self, source: int, target: int) -> list[str] | None:
        """`path` between two different nodes, cached; empty or None where `shortest` is."""
        nodes = self.shortest(source, target)
        if not nodes:
            return nodes
        path = [self.name(nodes[0])]
        for node, neighbour in zip(nodes, nodes[1:], strict=False):
            path += [self.relation(node, neighbour), self.name(neighbour)]
        return path


@cache
def _compile_search() -> Callable[..., int]:
    """Compile the search; numba caches the machine code between runs."""
    import numba

    @numba.njit(cache=True)
    def search(offsets, neighbours, is_transit, source, target, max_hops, max_nodes, seen, parent, queue, number, path):
        """Bidirectional breadth-first search, which expands the smaller frontier by one level at a time.

        Returns the number of nodes of the path; 0 if there is none, LIMIT if the search reached a limit.
        `seen[side, node] == number` marks nodes reached in this search, so that nothing has to be cleared after it.
        """
        if source == target:
            path[0] = source
            return 1
        ends = (source, target)
        begin = [0, 0]  # of each side's frontier in its queue
        end = [1, 1]
        for side in range(2):
            seen[side, ends[side]] = number
            parent[side, ends[side]] = -1
            queue[side, 0] = ends[side]
        expanded = 0
        hops = 0
        side = 1
        while True:
            difference = (end[0] - begin[0]) - (end[1] - begin[1])
            side = 1 - side if difference == 0 else int(difference > 0)  # in turn if equal: small components end soon
            if begin[side] == end[side]:
                return 0
            if hops == max_hops:
                return LIMIT
            hops += 1
            level_end = end[side]
            for at in range(begin[side], level_end):
                if expanded == max_nodes:
                    return LIMIT
                expanded += 1
                node = queue[side, at]
                for edge in range(offsets[node], offsets[node + 1]):
                    other = neighbours[edge]
                    if seen[side, other] == number or not (is_transit[other] or other == ends[1 - side]):
                        continue
                    seen[side, other] = number
                    parent[side, other] = node
                    if seen[1 - side, other] == number:  # the sides meet: write both halves of the path
                        length = 0
                        here = other
                        while here != -1:
                            path[length] = here
                            length += 1
                            here = parent[0, here]
                        for low in range(length // 2):
                            path[low], path[length - 1 - low] = path[length - 1 - low], path[low]
                        here = parent[1, other]
                        while here != -1:
                            path[length] = here
                            length += 1
                            here = parent[1, here]
                        return length
                    queue[side, end[side]] = other
                    end[side] += 1
            begin[side] = level_end

    return search


def add_search_flags(cli: Parser) -> None:
    """Add the flags of `SearchLimits`."""
    hops, nodes = SearchLimits.max_hops, SearchLimits.max_nodes
    cli.add_argument("--max_hops", type=at_least(1), default=hops, metavar="N", help=f"most relations of a path ({hops})")
    cli.add_argument("--max_nodes", type=at_least(1), default=nodes, metavar="N", help=f"most concepts to expand ({nodes})")
    degree = "most relations of a concept inside a path (set by build_umls_graph.py)"
    cli.add_argument("--max_degree", type=at_least(1), metavar="N", help=degree)


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("terms", nargs="*", metavar="TERM", help="two terms")
    cli.add_argument("--graph", type=Path, required=True, help="output of build_umls_graph.py")
    cli.add_argument("--pairs", type=Path, help="file with two tab-separated terms in each line")
    add_search_flags(cli)
    args = cli.parse_args(argv)
    if bool(args.pairs) == bool(args.terms) or len(args.terms) not in (0, 2):
        got = f"{len(args.terms)} terms{' and --pairs' if args.pairs else ''}"
        raise UserError(f"umls_graph.py: expected two terms or --pairs FILE, got {got}. Quote terms of several words.")
    graph = Graph(args.graph, SearchLimits(args.max_hops, args.max_nodes, args.max_degree))
    if args.terms:
        for term in args.terms:
            if graph.node_of_term(term) is None:
                raise UserError(f"{term!r}: expected a term of the graph, got an unknown one. Check its spelling.")
        print(json.dumps(graph.path(*args.terms), ensure_ascii=False))
        return
    summary = Summary("umls_graph")
    pairs = read_pairs(args.pairs)
    linked = 0
    for pair in progress(pairs, desc="umls_graph", unit="pair"):
        path = graph.path(*pair)
        linked += path is not None
        print(json.dumps(path, ensure_ascii=False))
    summary.print(f"{len(pairs):,} pairs, {linked:,} linked", len(pairs), "pairs", file=sys.stderr)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of terms in a file, which must have exactly one tab in each line."""
    try:
        lines = require(path, "a file of pairs", "write two tab-separated terms in each line").read_text("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected text in UTF-8, got other bytes. Convert the file.") from None
    pairs = [tuple(line.split("\t")) for line in lines.removesuffix("\n").split("\n")] if lines else []
    for number, terms in enumerate(pairs, 1):
        if len(terms) != 2:
            where = f"{path}, line {number}"
            raise UserError(f"{where}: expected two tab-separated terms, got {len(terms)}. Correct the line.")
    return pairs


if __name__ == "__main__":
    run(main)
