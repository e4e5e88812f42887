"""The graph of medical concepts: shortest paths between two terms, each relation named in the direction it is walked.

    python thinking_graph_preprocess/umls_graph.py --graph DIR "Term A" "Term B"    # one path as JSON, null if there is none
    python thinking_graph_preprocess/umls_graph.py --graph DIR --pairs FILE         # tab-separated terms; a JSON line a pair

DIR is made by build_umls_graph.py. Its arrays are memory-mapped, so processes share them and a query reads what it touches.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import json
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import read_json, require
from pipeline.progress import Summary, progress
from thinking_graph_preprocess.term_search import words_of

if TYPE_CHECKING:
    import numpy as np

MAX_HOPS, MAX_NODES = 10, 2000

FORMAT = 1
"""Changes when the arrays of a graph folder mean something else."""

FORBIDDEN = ("subset_includes_concept", "concept_in_subset", "contraindicat")
"""Relations with one of these in their name, or in their inverse's, are never walked: lists that hold everything, and what
must not be given (has_contraindicated_drug, contraindicated_with_disease, and those of MED-RT's drug classes)."""

INVERSE = "inverse_"
"""Before the name of a relation that is walked against its row, where no name of its inverse is known."""

LIMIT = -1
"""What a search gives that a limit has ended."""

HOW_TO_MAKE = "make it with thinking_graph_preprocess/build_umls_graph.py"


class Limits(NamedTuple):
    """How far a search goes: relations of a path, and concepts expanded."""

    max_hops: int = MAX_HOPS
    max_nodes: int = MAX_NODES


def normalised(term: str) -> str:
    """A term without case, punctuation and runs of white space, by which terms are found that are not spelt the same.

    >>> normalised("  Diabetes Mellitus, Type-2 ")
    'diabetes mellitus type 2'
    """
    return " ".join(words_of(term.casefold()))


def term_hash(term: str) -> int:
    """64 bits that stand for a term; among tens of millions of terms two share them with a chance of one in ten thousand."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(term.encode("utf-8"), digest_size=8).digest(), "little")


def arrays_of(nodes: int, edges: int, terms: int) -> dict[str, int]:
    """The arrays of a graph folder and their lengths; that of `name_text` is the last of `name_offsets`.

    `neighbours[offsets[n] : offsets[n + 1]]` are the neighbours of node n, ascending, `labels` the relations to them.
    """
    return {
        "offsets": nodes + 1, "neighbours": edges, "labels": edges, "cuis": nodes, "name_offsets": nodes + 1,
        "term_hashes": terms, "term_nodes": terms,
    }  # fmt: skip


class Graph:
    """A graph folder, memory-mapped.

    Nodes are numbers; `cui(node)` and `name(node)` say which concept one is.

    Args:
        folder: made by build_umls_graph.py.
        limits: of a search.
        forbidden: parts of the names of relations that no path walks, in either direction.

    Raises:
        UserError: the folder is missing, not whole, or of another version; the limits allow no search.
    """

    def __init__(self, folder: Path | str, limits: Limits = Limits(), forbidden: Sequence[str] = FORBIDDEN) -> None:  # noqa: B008
        import numpy as np

        if min(limits) < 1:
            raise UserError(f"--max_hops {limits.max_hops}, --max_nodes {limits.max_nodes}: wanted numbers ≥ 1")
        self.folder = require(folder, "a graph folder", HOW_TO_MAKE)
        self.limits = limits
        self.about = read_json(require(self.folder / "about.json", "a whole graph folder", HOW_TO_MAKE))
        if self.about.get("format") != FORMAT:
            raise UserError(f"{self.folder}: wanted a graph folder of this version, found another; {HOW_TO_MAKE} again")
        self.relations: list[str] = self.about["relations"]["names"]
        inverse: list[int] = self.about["relations"]["inverse"]
        banned = [any(part in name for part in forbidden) for name in self.relations]
        self._allowed = np.array([not (banned[number] or banned[inverse[number]]) for number in range(len(inverse))], bool)
        for name, size in arrays_of(*(self.about[what] for what in ("nodes", "edges", "terms"))).items():
            setattr(self, f"_{name}", self._array(name, size))
        self._name_text = self._array("name_text", int(self._name_offsets[-1]))
        self._seen: np.ndarray | None = None

    def _array(self, name: str, size: int) -> np.ndarray:
        import numpy as np

        path = require(self.folder / f"{name}.npy", "an array of the graph", HOW_TO_MAKE)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            raise UserError(f"{path}: wanted an array of the graph, found a broken file; {HOW_TO_MAKE} again") from None
        if len(array) != size:
            raise UserError(
                f"{path}: wanted an array of {size:,}, as about.json says, found {len(array):,}; {HOW_TO_MAKE} again"
            )
        return array

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def cui(self, node: int) -> str:
        return self._cuis[node].decode()

    def name(self, node: int) -> str:
        begin, end = self._name_offsets[node : node + 2]
        return bytes(self._name_text[begin:end]).decode("utf-8")

    def node_of_cui(self, cui: str) -> int | None:
        import numpy as np

        wanted = cui.encode()
        at = int(np.searchsorted(self._cuis, wanted))
        return at if at < len(self._cuis) and self._cuis[at] == wanted else None

    def node_of_term(self, term: str) -> int | None:
        """The concept that a term names: as written, else by its normalised form."""
        import numpy as np

        for spelling in (term, normalised(term)):
            wanted = np.uint64(term_hash(spelling))
            at = int(np.searchsorted(self._term_hashes, wanted))
            if at < len(self._term_hashes) and self._term_hashes[at] == wanted:
                return int(self._term_nodes[at])
        return None

    @cached_property
    def _search(self) -> Callable[..., int]:
        return _compiled()

    def shortest(self, source: int, target: int) -> list[int] | None:
        """Nodes of a shortest path, both ends included; empty if nothing links them, None if a limit ended the search."""
        import numpy as np

        if self._seen is None:  # who was reached from which side, in which search, and through whom
            self._seen = np.zeros((2, len(self)), np.int32)
            self._parent = np.empty((2, len(self)), np.int32)
            self._queue = np.empty((2, len(self)), np.int32)
            self._searches = 0
        self._searches += 1
        path = np.empty(min(self.limits.max_hops + 1, len(self)), np.int32)
        length = self._search(
            self._offsets, self._neighbours, self._labels, self._allowed, source, target, self.limits.max_hops,
            self.limits.max_nodes, self._seen, self._parent, self._queue, self._searches, path,
        )  # fmt: skip
        return None if length == LIMIT else path[:length].tolist()

    def relation(self, source: int, target: int) -> str:
        """The relation from one node to its neighbour that a path names: of those allowed the one that says most."""
        import numpy as np

        begin, end = self._offsets[source : source + 2]
        at = begin + np.searchsorted(self._neighbours[begin:end], target)
        while at < end and self._neighbours[at] == target:
            if self._allowed[self._labels[at]]:
                return self.relations[self._labels[at]]
            at += 1
        raise KeyError((source, target))

    def path(self, source: str, target: str) -> list[str] | None:
        """[term, relation, term, …]; None if a term is unknown, both name one concept, or no path is found."""
        nodes = self.node_of_term(source), self.node_of_term(target)
        if None in nodes or nodes[0] == nodes[1]:
            return None
        return self.path_of_nodes(*nodes) or None

    @lru_cache(maxsize=1_000_000)  # noqa: B019  a graph lives as long as its process
    def path_of_nodes(self, source: int, target: int) -> list[str] | None:
        """`path` of two different nodes, remembered; empty or None as `shortest` is."""
        nodes = self.shortest(source, target)
        if not nodes:
            return nodes
        found = [self.name(nodes[0])]
        for here, there in zip(nodes, nodes[1:], strict=False):
            found += [self.relation(here, there), self.name(there)]
        return found


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., int]:
    """The search as machine code, kept between runs."""
    import numba

    @numba.njit(cache=True)
    def search(
        offsets, neighbours, labels, allowed, source, target, max_hops, max_nodes, seen, parent, queue, number, path
    ):  # fmt: skip
        """Breadth first from both ends, the smaller frontier a whole level at a time.

        Returns the number of nodes of the path; 0 if there is none, LIMIT if a limit ended the search.
        `seen[side, node] == number` marks who was reached in this search, so that nothing must be cleared after it.
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
            more = (end[0] - begin[0]) - (end[1] - begin[1])
            side = 1 - side if more == 0 else int(more > 0)  # equal: in turn, so that a small part is soon known as one
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
                    if not allowed[labels[edge]]:
                        continue
                    other = neighbours[edge]
                    if seen[side, other] == number:
                        continue
                    seen[side, other] = number
                    parent[side, other] = node
                    if seen[1 - side, other] == number:  # the sides meet: write both halves down
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


def add_search_flags(cli: Any) -> None:
    """How far a search goes."""
    cli.add_argument("--max_hops", type=int, default=MAX_HOPS, help=f"relations of a path at most ({MAX_HOPS})")
    cli.add_argument("--max_nodes", type=int, default=MAX_NODES, help=f"concepts a search expands at most ({MAX_NODES})")


def main(argv: Sequence[str] | None = None) -> int:
    cli = Parser(__doc__)
    cli.add_argument("terms", nargs="*", metavar="TERM", help="two terms")
    cli.add_argument("--graph", type=Path, required=True, help="folder made by build_umls_graph.py")
    cli.add_argument("--pairs", type=Path, help="file with two terms a line, a tab between")
    add_search_flags(cli)
    args = cli.parse_args(argv)
    if bool(args.pairs) == bool(args.terms) or len(args.terms) not in (0, 2):
        raise UserError(f"umls_graph.py: wanted two terms or --pairs FILE, found {len(args.terms)} terms"
                        f"{' and --pairs' if args.pairs else ''}")  # fmt: skip
    graph = Graph(args.graph, Limits(args.max_hops, args.max_nodes))
    if args.terms:
        for term in args.terms:
            if graph.node_of_term(term) is None:
                raise UserError(f"{term!r}: wanted a term of the graph, found no such")
        print(json.dumps(graph.path(*args.terms), ensure_ascii=False))
        return 0
    summary = Summary("umls_graph")
    pairs = read_pairs(args.pairs)
    found = 0
    for pair in progress(pairs, desc="umls_graph", unit="pair"):
        path = graph.path(*pair)
        found += path is not None
        print(json.dumps(path, ensure_ascii=False))
    print(summary.line(f"{len(pairs):,} pairs, {found:,} linked", len(pairs), "pairs"), file=sys.stderr)
    return 0


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of terms of a file.

    Raises:
        UserError: there is no such file, or a line without exactly one tab.
    """
    pairs = []
    try:
        with require(path, "a file of pairs", "write two terms a line, a tab between").open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                terms = line.rstrip("\n").split("\t")
                if len(terms) != 2:
                    raise UserError(f"{path}, line {number}: wanted two terms with a tab between, found {len(terms)}")
                pairs.append((terms[0], terms[1]))
    except UnicodeDecodeError:
        raise UserError(f"{path}: wanted text in UTF-8, found other bytes") from None
    return pairs


if __name__ == "__main__":
    run(main)
