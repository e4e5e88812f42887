"""UMLS files (or free vocabularies) → a graph folder that umls_graph.py searches.

    build_umls_graph.py --umls_dir META --output_path DIR    # a folder with MRCONSO.RRF, MRREL.RRF and MRDOC.RRF
    build_umls_graph.py --free --output_path DIR             # no licence: ICD, CCS, ATC, classes of items

Nodes are the concepts with an English name that is not suppressed, edges the relations between them, in both directions: in
MRREL a row (CUI1, RELA, CUI2) says that CUI2 RELA CUI1 (REL where RELA is empty), and the inverse has its name from MRDOC,
else `inverse_` and the name. The arrays are compressed sparse rows, written whole and memory-mapped by their readers. The
relations are streamed; in memory are first the names of the concepts, then 16 bytes a relation.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mimiciv_dataset.events import MISSING
from pipeline.cli import Parser, run
from pipeline.errors import UserError
from pipeline.files import atomic_dir, read_json, require, write_json
from pipeline.progress import Summary, progress
from pipeline.work import share_work
from thinking_graph_preprocess.umls_graph import FORMAT, INVERSE, normalised, term_hash

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

COLUMNS = {
    "MRCONSO": ("CUI", "LAT", "TS", "LUI", "STT", "SUI", "ISPREF", "AUI", "SAUI", "SCUI", "SDUI", "SAB", "TTY", "CODE", "STR",
                "SRL", "SUPPRESS", "CVF"),
    "MRREL": ("CUI1", "AUI1", "STYPE1", "REL", "CUI2", "AUI2", "STYPE2", "RELA", "RUI", "SRUI", "SAB", "SL", "RG", "DIR",
              "SUPPRESS", "CVF"),
    "MRDOC": ("DOCKEY", "VALUE", "TYPE", "EXPL"),
}  # fmt: skip
"""Columns of the Rich Release Format files; each line ends in a bar (UMLS Reference Manual, NBK9685)."""

CUI = r"^C\d{7}$"

ROWS = 1 << 20
"""Rows handled at a time."""

LABEL_BITS = 16
"""Bits of a relation's number where an edge is packed into one."""


class Edges(NamedTuple):
    """What a graph says: statements "source relation target".

    Attributes:
        at_most: how many there may be.
        batches: sources, targets (int32, nodes) and labels (places in `relations`) of some of them at a time.
        relations: names.
        inverses: name → name of its inverse, where that is known.
    """

    at_most: int
    batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
    relations: list[str]
    inverses: dict[str, str]


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    source = cli.add_mutually_exclusive_group(required=True)
    source.add_argument("--umls_dir", type=Path, help="folder with MRCONSO.RRF and MRREL.RRF, and MRDOC.RRF if it is there")
    source.add_argument("--free", action="store_true", help="the free vocabularies of --index_mapping in place of UMLS")
    cli.add_path("--index_mapping", default="index_mapping", help="dictionaries and code maps, for --free")
    cli.add_path(
        "--mimic_dir", default="mimiciv", help="raw MIMIC-IV, whose prescriptions link drugs to ATC classes, for --free"
    )
    cli.add_path("--output_path", default="evidence_datas/graph", help="folder for the graph")
    args = cli.parse_args(argv)
    output: Path = args.output_path
    if output.exists():
        raise UserError(f"{output}: wanted a new folder, found one; remove it or choose another --output_path")
    summary = Summary("build_umls_graph")

    def build(_: str) -> None:
        made = from_umls(args.umls_dir) if args.umls_dir else from_free(args.index_mapping, args.mimic_dir)
        with atomic_dir(output) as folder:
            write(folder, *made, "UMLS" if args.umls_dir else "free vocabularies")

    # under a lock, so that of several processes that are told to make it one does, and the others wait for it
    share_work([output.name], lambda _: output.exists(), build, output.parent / ".locks")
    about = read_json(output / "about.json")
    dropped = "".join(f"; {count:,} {why}" for why, count in about["dropped"].items() if count)
    summary.print(f"{about['nodes']:,} concepts, {about['edges']:,} directed relations{dropped} → {output}")


def write(
    folder: Path, names: pl.DataFrame, terms: tuple[np.ndarray, np.ndarray], edges: Edges, made_from: str = "a test"
) -> None:  # fmt: skip
    """Write a graph folder.

    Args:
        folder: where to.
        names: `cui`, all of one length, and `name`, the preferred one, of each node, by cui.
        terms: the `term_table` of every name of every node.
        edges: between the nodes.
        made_from: said in about.json.
    """
    import numpy as np
    import pyarrow as pa

    relations, inverse, place = with_inverses(edges.relations, edges.inverses)
    place, turn = np.array(place, np.uint16), np.array(inverse, np.uint16)
    bits = max(1, (len(names) - 1).bit_length())
    if 2 * bits + LABEL_BITS > 64 or len(relations) > 1 << LABEL_BITS:
        raise UserError(f"a graph of {len(names):,} concepts and {len(relations):,} relations: wanted at most "
                        f"{1 << 24:,} and {1 << LABEL_BITS:,}")  # fmt: skip
    keys, stated = np.empty(2 * edges.at_most, np.uint64), 0
    with progress(total=edges.at_most, desc="relations", unit="relation") as bar:
        for sources, targets, labels in edges.batches:
            labels = place[labels]
            for one in (pack(sources, targets, labels, bits), pack(targets, sources, turn[labels], bits)):
                keys[stated : stated + len(one)] = one
                stated += len(one)
            bar.update(len(sources))
    save = dict(zip(("offsets", "neighbours", "labels"), sparse_rows(keys[:stated], len(names), bits), strict=True))
    del keys
    text = names["name"].to_arrow().cast(pa.large_string())
    ends, letters = (text.buffers()[1], text.buffers()[2]) if len(text) else (None, None)
    save["name_offsets"] = np.frombuffer(ends, np.int64)[text.offset : text.offset + len(text) + 1]
    save["name_text"] = np.frombuffer(letters, np.uint8)[: save["name_offsets"][-1]]
    save["cuis"] = names["cui"].to_numpy().astype("S")
    save["term_hashes"], save["term_nodes"] = terms
    for name, values in save.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    counts = {"nodes": len(names), "edges": len(save["neighbours"]), "terms": len(save["term_hashes"])}
    dropped = {"relations suppressed, of a concept with itself or without an English name": edges.at_most - stated // 2}
    about = {"format": FORMAT, "made_from": made_from, **counts, "dropped": dropped}
    write_json(folder / "about.json", about | {"relations": {"names": relations, "inverse": inverse}})


def with_inverses(names: Sequence[str], inverses: dict[str, str]) -> tuple[list[str], list[int], list[int]]:
    """(relations with their inverses, the place of each one's inverse, the place of each of `names`).

    The order is that in which a path prefers them where two concepts have several: a RELA says more than a REL, which is
    written in capitals.

    >>> with_inverses(["RO", "isa", "PAR"], {"PAR": "CHD", "RO": "RO"})
    (['isa', 'inverse_isa', 'CHD', 'PAR', 'RO'], [1, 0, 3, 2, 4], [4, 0, 3])
    """
    other = {name: inverses.get(name) or turned(name) for name in names}
    for name, back in list(other.items()):
        other.setdefault(back, name)
    relations = sorted(other, key=lambda name: (name.removeprefix(INVERSE).isupper(), name.startswith(INVERSE), name))
    place = {name: at for at, name in enumerate(relations)}
    return relations, [place[other[name]] for name in relations], [place[name] for name in names]


def turned(name: str) -> str:
    """A made-up name of a relation's inverse."""
    return name.removeprefix(INVERSE) if name.startswith(INVERSE) else INVERSE + name


def pack(sources: np.ndarray, targets: np.ndarray, labels: np.ndarray, bits: int) -> np.ndarray:
    """Each edge as one number (uint64), whose order is that of sources, then targets, then labels."""
    import numpy as np

    keys = (sources.astype(np.uint64) << np.uint64(bits)) | targets.astype(np.uint64)
    return (keys << np.uint64(LABEL_BITS)) | labels.astype(np.uint64)


def sparse_rows(keys: np.ndarray, nodes: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, neighbours, labels) of packed edges, which are sorted in place: neighbours ascending, the same edge once.

    >>> import numpy as np
    >>> keys = pack(*np.array([[0, 2, 5], [0, 1, 7], [2, 0, 6], [0, 1, 7]]).T, bits=2)
    >>> offsets, neighbours, labels = sparse_rows(keys, nodes=3, bits=2)
    >>> offsets.tolist(), neighbours.tolist(), labels.tolist()
    ([0, 2, 2, 3], [1, 2, 0], [7, 5, 6])
    """
    import numpy as np

    keys.sort()  # in place: an index of the order would be as large again
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    counts, size = np.zeros(nodes, np.int64), int(first.sum())
    neighbours, labels = np.empty(size, np.int32), np.empty(size, np.uint16)
    end = 0
    for start in range(0, len(keys), ROWS):
        some = keys[start : start + ROWS][first[start : start + ROWS]]
        counts += np.bincount((some >> np.uint64(bits + LABEL_BITS)).astype(np.int64), minlength=nodes)
        neighbours[end : end + len(some)] = (some >> np.uint64(LABEL_BITS)) & np.uint64((1 << bits) - 1)
        labels[end : end + len(some)] = some & np.uint64((1 << LABEL_BITS) - 1)
        end += len(some)
    return np.concatenate([[0], np.cumsum(counts)]), neighbours, labels


def term_table(terms: Iterable[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted hashes of terms, as written and normalised, and their nodes.

    Of a term that names several nodes the first counts, and one that is written so before one that only looks alike.

    Args:
        terms: (term, node), the best node of a term first.

    >>> hashes, nodes = term_table([("Mg", 0), ("MG", 1), ("mg", 2)])
    >>> [int(nodes[hashes.searchsorted(term_hash(term))]) for term in ("MG", "mg")], len(nodes)
    ([1, 2], 3)

    Returns:
        hashes (uint64), nodes (int32).
    """
    import numpy as np

    exact, loose, nodes = array("Q"), array("Q"), array("i")
    for term, node in terms:
        exact.append(term_hash(term))
        loose.append(term_hash(normalised(term)))
        nodes.append(node)
    hashes = np.concatenate([np.array(exact, np.uint64), np.array(loose, np.uint64)])
    hashes, first = np.unique(hashes, return_index=True)
    return hashes, np.array(nodes, np.int32)[first % max(len(nodes), 1)]


# --- UMLS


def scan(folder: Path, name: str) -> pl.LazyFrame:
    """A Rich Release Format file as a lazy frame of text.

    Raises:
        UserError: it is missing, has other columns, or rows that are cut off or have other fields.
    """
    import polars as pl

    from thinking_graph_preprocess.concept_lexicon import check_rows, scan_rrf

    flagged = pl.col("SUPPRESS").is_in(["N", "O", "E", "Y"])
    whole = {
        "MRCONSO": pl.col("CUI").str.contains(CUI) & flagged,
        "MRREL": pl.all_horizontal(pl.col("CUI1", "CUI2").str.contains(CUI)) & pl.col("REL").is_not_null() & flagged,
        "MRDOC": pl.col("TYPE").is_not_null(),
    }
    path, names = folder / f"{name}.RRF", COLUMNS[name]
    require(path, "a file of the UMLS Metathesaurus", "install UMLS with MetamorphoSys")
    with path.open(encoding="utf-8", errors="replace") as file:
        found = file.readline().count("|")
    if found != len(names):
        raise UserError(
            f"{path}: wanted {len(names)} columns, each ended by a bar, found {found}; is this the file of that name?"
        )
    frame = scan_rrf(path, [*names, "_"])
    check_rows(frame, whole[name], path)
    return frame


def from_umls(folder: Path) -> tuple[pl.DataFrame, tuple[np.ndarray, np.ndarray], Edges]:
    """Names, terms and edges of a folder of RRF files; see `write`.

    Raises:
        UserError: a file is missing or not whole, or has no English name.
    """
    import polars as pl

    concepts, relations = scan(folder, "MRCONSO"), scan(folder, "MRREL")
    # how far an atom is from being its concept's preferred name
    rank = 4 * pl.col("TS").ne_missing("P") + 2 * pl.col("STT").ne_missing("PF") + pl.col("ISPREF").ne_missing("Y")
    english = (pl.col("LAT") == "ENG") & (pl.col("SUPPRESS") == "N") & pl.col("STR").is_not_null()
    rows = concepts.filter(english).select("CUI", "STR", rank=rank.cast(pl.Int8)).collect(engine="streaming")
    if rows.is_empty():
        raise UserError(f"{folder / 'MRCONSO.RRF'}: wanted English names that are not suppressed, found none")
    rows = rows.sort("rank", "CUI", maintain_order=True).unique(["CUI", "STR"], keep="first", maintain_order=True)
    names = rows.unique("CUI", keep="first", maintain_order=True).sort("CUI").select(cui="CUI", name="STR")
    nodes = names.select("cui", node=pl.int_range(pl.len(), dtype=pl.Int32))
    terms = rows.join(nodes, left_on="CUI", right_on="cui", maintain_order="left").select("STR", "node")
    table = term_table(progress(terms.iter_rows(), total=len(terms), desc="terms", unit="term"))
    return names, table, umls_edges(folder, relations, names["cui"])


def umls_edges(folder: Path, relations: pl.LazyFrame, cuis: pl.Series) -> Edges:
    """The relations of MRREL between the nodes, whose CUIs are given, a part of the file at a time."""
    import numpy as np
    import polars as pl

    def digits(cui: pl.Expr) -> pl.Expr:
        return cui.str.slice(1).cast(pl.Int32)

    node = np.full(10_000_000, -1, np.int32)  # by the digits of its CUI
    node[cuis.to_frame("cui").select(digits(pl.col("cui")))["cui"].to_numpy()] = np.arange(len(cuis))
    label = pl.coalesce("RELA", "REL")
    counted = relations.group_by(label=label).len().collect(engine="streaming").sort("label")
    labels = counted["label"].to_list()
    number = label.cast(pl.Enum(labels)).to_physical()  # replace_strict would take gigabytes
    # "CUI2 label CUI1": the statement's subject is the second
    rows = relations.filter((pl.col("SUPPRESS") == "N") & (pl.col("CUI1") != pl.col("CUI2"))).select(
        source=digits(pl.col("CUI2")), target=digits(pl.col("CUI1")), label=number
    )

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for batch in rows.collect_batches(chunk_size=ROWS):
            sources, targets = (node[batch[end].to_numpy()] for end in ("source", "target"))
            known = (sources >= 0) & (targets >= 0)
            yield sources[known], targets[known], batch["label"].to_numpy()[known]

    return Edges(counted["len"].sum(), batches(), labels, inverses(folder))


def inverses(folder: Path) -> dict[str, str]:
    """Relation → its inverse, by MRDOC (TYPE rela_inverse, rel_inverse); empty without the file."""
    import polars as pl

    if not (folder / "MRDOC.RRF").exists():
        print(f"no MRDOC.RRF in {folder}: relations walked against their rows are named {INVERSE}…")
        return {}
    rows = scan(folder, "MRDOC").filter(pl.col("TYPE").is_in(["rela_inverse", "rel_inverse"])).select("VALUE", "EXPL")
    return {value: inverse for value, inverse in rows.collect().iter_rows() if value and inverse}


# --- without a licence

FREE_INVERSES = {
    "isa": "inverse_isa", "has_category": "category_of", "in_ccs_category": "ccs_category_of", "in_atc_class": "atc_class_of",
}  # fmt: skip


def from_free(index_mapping: Path, mimic_dir: Path) -> tuple[pl.DataFrame, tuple[np.ndarray, np.ndarray], Edges]:
    """The same of vocabularies that need no licence: what an item is a kind of, by the dictionaries and code maps.

    ICD codes under the codes they begin with, ICD codes under CCS categories, drugs under ATC classes, laboratory and charted
    items under their categories.

    Raises:
        UserError: none of them is there.
    """
    import numpy as np
    import polars as pl

    from mimiciv_dataset.lookups import Lookups

    node: dict[str, int] = {}
    names: list[str] = []
    statements: dict[tuple[int, int, int], None] = {}
    relations = list(FREE_INVERSES)
    lookups = Lookups(index_mapping)
    for child, relation, parent in chain(free_statements(lookups), drug_classes(lookups, mimic_dir)):
        keys = normalised(child), normalised(parent)
        if keys[0] == keys[1] or not {"", MISSING}.isdisjoint(keys):
            continue
        for key, name in zip(keys, (child, parent), strict=True):
            if key not in node:
                node[key] = len(names)
                names.append(name.strip())
        statements[node[keys[0]], node[keys[1]], relations.index(relation)] = None
    if not statements:
        raise UserError(
            f"{index_mapping}: wanted dictionaries to make a graph of, found none; run preprocess/build_index_mapping.py"
        )
    frame = pl.DataFrame({"cui": [f"F{at:08}" for at in range(len(names))], "name": names})
    edges = Edges(len(statements), [tuple(np.array(list(statements), np.int32).T)], relations, FREE_INVERSES)
    return frame, term_table((name, at) for at, name in enumerate(names)), edges


def free_statements(lookups) -> Iterator[tuple[str, str, str]]:
    """(item, relation, what it belongs to) of every dictionary and code map that is there."""
    from mimiciv_dataset.lookups import read_text_csv

    for source, ccs in (("d_icd_diagnoses", "d_ccs_diagnoses"), ("d_icd_procedures", "d_ccs_procedures")):
        titles, categories = lookups.dictionary(source), lookups.dictionary(ccs)
        for (code, version), title in titles.items():
            if (code, version) in categories:
                yield title, "in_ccs_category", categories[code, version]
            shorter = (titles.get((code[:size], version)) for size in range(len(code) - 1, 2, -1))
            if (parent := next(filter(None, shorter), None)) is not None:
                yield title, "isa", parent
    for source, columns in (("d_labitems", ("fluid", "category")), ("d_items", ("category",))):
        if (path := lookups.path(source)) is not None:
            for label, *classes in zip(*read_text_csv(path, ("label", *columns)).to_pydict().values(), strict=True):
                yield from ((label, "has_category", name) for name in classes if label and name)


def drug_classes(lookups, mimic_dir: Path) -> Iterator[tuple[str, str, str]]:
    """(drug, relation, ATC class) of every drug that MIMIC-IV names with a code of the map."""
    import polars as pl

    from mimiciv_dataset.index_files import reading
    from mimiciv_dataset.lookups import ndc_key

    classes = lookups.dictionary("d_atc_prescriptions")
    tables = (("hosp/prescriptions", "drug"), ("ed/medrecon", "name")) if classes else ()
    for table, column in tables:
        for path in sorted(mimic_dir.glob(f"{table}.csv*"))[:1]:
            with reading(path):
                drugs = pl.scan_csv(path, infer_schema=False).select(column, "ndc").unique()
                rows = drugs.collect(engine="streaming").sort(column, "ndc").rows()
            for drug, ndc in rows:
                if drug and (name := classes.get(ndc_key(ndc or ""))):
                    yield drug, "in_atc_class", name


if __name__ == "__main__":
    run(main)
