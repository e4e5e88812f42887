"""Write a graph directory: compressed sparse rows of edges, names and terms, as arrays that `umls_graph.Graph` maps."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.progress import progress
from thinking_graph_preprocess.umls_graph import FORMAT, INVERSE, simplify_term, term_hash

# Relations with one of these in their name, or in that of their inverse, are not part of a graph.
FORBIDDEN = re.compile(
    "|".join((
        "subset|^sib_in_|answer_(to|list)|has_answer|^(has_)?member(_of)?$|^co[-_]occurs",  # lists of unrelated concepts
        # exclusions: disease_excludes_finding, is_not_finding_of_disease
        "(^|_)exclu|(^|_)(no|not|absent|without)_|rule[ds]?_out",
        "contraindicat",  # has_contraindicated_drug, contraindicated_with_disease, those of MED-RT
        "qualif(y|ies|ied)",  # may_be_qualified_by
        "time_aspect|time_modifier|scale_type|aggregation_view",  # attributes of a laboratory test
        "^(has_)?(scale|property|class|method|challenge|divisor|suffix|adjustment)(_of)?$",
    ))
)  # fmt: skip
SORT_ROWS = 1 << 20  # edges unpacked at a time
MAX_DEGREE = 2000  # relations of a concept that a path passes through; what more concepts share says little about each
LABEL_BITS = 16  # bits of the number of a relation in a packed edge


class Edges(NamedTuple):
    """The statements "source relation target" of a graph."""

    at_most: int  # upper bound of their number
    batches: Iterable[tuple[np.ndarray, ...]]  # sources and targets (int32), and labels: indices into `relations`
    relations: list[str]
    inverses: Mapping[str, str]  # relation → its inverse, where it is known
    excluded: int = 0  # statements that the batches leave out because of their kind


def write_graph(
    folder: Path,
    names: pl.DataFrame,
    terms: tuple[np.ndarray, np.ndarray],
    edges: Edges,
    transit: np.ndarray | None = None,
    max_degree: int = MAX_DEGREE,
    **about: object,
) -> None:
    """Write a graph directory.

    Args:
        names: the nodes, ordered by `cui` (all of one length), with their preferred `name`.
        terms: the `term_table` of all names of all nodes.
        transit: (nodes,) bool: whether a path may pass through a node (all).
        max_degree: nodes with more relations are not passed through; a search can set another limit.
        about: more values of about.json.
    """
    relations, inverse, index = with_inverses(edges.relations, edges.inverses)
    to_label, to_inverse = np.array(index, np.uint16), np.array(inverse, np.uint16)
    forbidden = np.array([FORBIDDEN.search(name) is not None for name in relations], bool)
    forbidden |= forbidden[inverse]
    bits = max(1, (len(names) - 1).bit_length())
    if 2 * bits + LABEL_BITS > 64 or len(relations) > 1 << LABEL_BITS:
        most, got = f"{1 << 24:,} concepts and {1 << LABEL_BITS:,} relations", f"{len(names):,} and {len(relations):,}"
        raise UserError(f"{folder}: expected at most {most}, got {got}. Make a smaller UMLS subset.")
    keys, size, excluded = np.empty(2 * edges.at_most, np.uint64), 0, edges.excluded
    with progress(total=edges.at_most, desc="relations", unit="relation") as bar:
        for sources, targets, labels in edges.batches:
            bar.update(len(labels))
            labels = to_label[labels]
            allowed = ~forbidden[labels]
            sources, targets, labels = sources[allowed], targets[allowed], labels[allowed]
            excluded += len(allowed) - len(labels)
            for statements in ((sources, targets, labels), (targets, sources, to_inverse[labels])):
                keys[size : size + len(labels)] = pack_edges(*statements, bits)
                size += len(labels)
    arrays = dict(zip(("offsets", "neighbours", "labels"), sparse_rows(keys[:size], len(names), bits), strict=True))
    del keys
    text = names["name"].to_arrow().cast(pa.large_string())
    _, ends, letters = text.buffers()
    arrays["name_offsets"] = np.frombuffer(ends, np.int64)[text.offset : text.offset + len(text) + 1]
    arrays["name_text"] = np.frombuffer(letters, np.uint8)[: arrays["name_offsets"][-1]]
    arrays["cuis"] = names["cui"].to_numpy().astype("S")
    arrays["term_hashes"], arrays["term_nodes"] = terms
    arrays["transit"] = np.ones(len(names), bool) if transit is None else transit
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    counts = {"nodes": len(names), "edges": len(arrays["neighbours"]), "terms": len(arrays["term_hashes"])}
    others = edges.at_most - size // 2 - excluded
    dropped = {
        "relations that list, qualify, exclude or contraindicate": excluded,
        "relations suppressed, of a concept with itself or without an English name": others,
    }
    degrees = np.diff(arrays["offsets"])
    closed = {"by kind": int((~arrays["transit"]).sum()), "by degree": int((arrays["transit"] & (degrees > max_degree)).sum())}
    about |= {"format": FORMAT, **counts, "max_degree": max_degree, "not passed through": closed, "dropped": dropped}
    write_json(folder / "about.json", about | {"relations": {"names": relations, "inverse": inverse}})


def with_inverses(names: Sequence[str], inverses: Mapping[str, str]) -> tuple[list[str], list[int], list[int]]:
    """(relations and their inverses, the index of the inverse of each, the index of each of `names`).

    Where two concepts have several relations, a path takes the first in this order: a RELA is more specific than a REL,
    which is written in capitals, and a name of the release is better than one with `INVERSE`.

    >>> with_inverses(["RO", "isa", "PAR"], {"PAR": "CHD", "RO": "RO"})
    (['isa', 'inverse_isa', 'CHD', 'PAR', 'RO'], [1, 0, 3, 2, 4], [4, 0, 3])
    """
    default = {name: name.removeprefix(INVERSE) if name.startswith(INVERSE) else INVERSE + name for name in names}
    inverse_of = {name: inverses.get(name) or default[name] for name in names}
    for name, inverse in list(inverse_of.items()):
        inverse_of.setdefault(inverse, name)
    relations = sorted(inverse_of, key=lambda name: (name.removeprefix(INVERSE).isupper(), name.startswith(INVERSE), name))
    index = {name: at for at, name in enumerate(relations)}
    return relations, [index[inverse_of[name]] for name in relations], [index[name] for name in names]


def pack_edges(sources: np.ndarray, targets: np.ndarray, labels: np.ndarray, bits: int) -> np.ndarray:
    """Each edge as one integer (uint64); integers are ordered by source, then target, then label."""
    keys = (sources.astype(np.uint64) << np.uint64(bits)) | targets.astype(np.uint64)
    return (keys << np.uint64(LABEL_BITS)) | labels.astype(np.uint64)


def sparse_rows(keys: np.ndarray, nodes: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, neighbours, labels) of packed edges, which are sorted in place; duplicate edges are dropped.

    >>> import numpy as np
    >>> keys = pack_edges(*np.array([[0, 2, 5], [0, 1, 7], [2, 0, 6], [0, 1, 7]]).T, bits=2)
    >>> offsets, neighbours, labels = sparse_rows(keys, nodes=3, bits=2)
    >>> offsets.tolist(), neighbours.tolist(), labels.tolist()
    ([0, 2, 2, 3], [1, 2, 0], [7, 5, 6])
    """
    keys.sort()  # in place: argsort would need as much memory again
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    counts, size = np.zeros(nodes, np.int64), int(first.sum())
    neighbours, labels = np.empty(size, np.int32), np.empty(size, np.uint16)
    end = 0
    for start in range(0, len(keys), SORT_ROWS):
        part = keys[start : start + SORT_ROWS][first[start : start + SORT_ROWS]]
        counts += np.bincount((part >> np.uint64(bits + LABEL_BITS)).astype(np.int64), minlength=nodes)
        neighbours[end : end + len(part)] = (part >> np.uint64(LABEL_BITS)) & np.uint64((1 << bits) - 1)
        labels[end : end + len(part)] = part & np.uint64((1 << LABEL_BITS) - 1)
        end += len(part)
    return np.concatenate([[0], np.cumsum(counts)]), neighbours, labels


def term_table(terms: Iterable[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted hashes of terms, verbatim and simplified, and their nodes.

    Of the nodes of a term the first in `terms` counts; a verbatim term has priority over one that is equal when simplified.

    >>> hashes, nodes = term_table([("Mg", 0), ("MG", 1), ("mg", 2)])
    >>> [int(nodes[hashes.searchsorted(term_hash(term))]) for term in ("MG", "mg")], len(nodes)
    ([1, 2], 3)
    """
    verbatim, simplified, nodes = array("Q"), array("Q"), array("i")
    for term, node in terms:
        verbatim.append(term_hash(term))
        simplified.append(term_hash(simplify_term(term)))
        nodes.append(node)
    hashes, first = np.unique(np.array(verbatim + simplified, np.uint64), return_index=True)
    return hashes, np.array(nodes, np.int32)[first % max(len(nodes), 1)]
