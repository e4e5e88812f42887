"""UMLS files (or free vocabularies) → a graph folder that umls_graph.py searches.

    build_umls_graph.py --umls_dir META --output_path DIR    # a folder with MRCONSO.RRF, MRREL.RRF and MRDOC.RRF
    build_umls_graph.py --free --output_path DIR             # no licence: ICD, CCS, ATC, classes of items

Nodes are the concepts with an English name that is not suppressed, edges the relations between them, in both directions: in
MRREL a row (CUI1, RELA, CUI2) says that CUI2 RELA CUI1 (REL where RELA is empty), and the inverse has its name from MRDOC,
else `inverse_` and the name. The arrays are compressed sparse rows, written whole and memory-mapped by their readers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mimiciv_dataset.commands import Summary, UserError, add_path, atomic_dir, parse, parser, require, run, write_json
from thinking_graph_preprocess.umls_graph import INVERSE, normalised, term_hash

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


def main(argv: Sequence[str] | None = None) -> None:
    cli = parser(__doc__)
    source = cli.add_mutually_exclusive_group(required=True)
    source.add_argument("--umls_dir", type=Path, help="folder with MRCONSO.RRF and MRREL.RRF, and MRDOC.RRF if it is there")
    source.add_argument("--free", action="store_true", help="the free vocabularies of --index_mapping in place of UMLS")
    add_path(cli, "--index_mapping", default="index_mapping", help="dictionaries and code maps, for --free")
    add_path(
        cli, "--mimic_dir", default="mimiciv", help="raw MIMIC-IV, whose prescriptions link drugs to ATC classes, for --free"
    )
    add_path(cli, "--output_path", default="evidence_datas/graph", help="folder for the graph")
    args = parse(cli, argv)
    if args.output_path.exists():
        raise UserError(f"{args.output_path}: wanted a new folder, found one; remove it or choose another --output_path")
    summary = Summary("build_umls_graph")
    if args.umls_dir:
        names, terms, edges, dropped = from_umls(args.umls_dir)
    else:
        names, terms, edges, dropped = from_free(args.index_mapping, args.mimic_dir)
    with atomic_dir(args.output_path) as folder:
        size, links = write(
            folder, names, terms, edges, {"made_from": "UMLS" if args.umls_dir else "free", "dropped": dropped}
        )
    lost = ", ".join(f"{count:,} {why}" for why, count in dropped.items() if count) or "nothing dropped"
    summary.print(f"{size:,} concepts, {links:,} directed relations; {lost} → {args.output_path}")


def write(
    folder: Path,
    names: Sequence[tuple[str, str]],
    terms: Iterable[tuple[str, int]],
    edges: tuple[np.ndarray, np.ndarray, np.ndarray, list[str], dict[str, str]],
    about: dict,
) -> tuple[int, int]:
    """Write a graph folder.

    Args:
        folder: where to.
        names: (identifier, preferred name) of each node, by identifier.
        terms: (term, node): every name of every node, the best node of a term first.
        edges: sources, targets and relation numbers of statements "source relation target"; the relations' names; name →
            name of its inverse.
        about: what to say of the graph.

    Returns:
        nodes, and directed edges.
    """
    import numpy as np

    sources, targets, labels, relations, inverses = edges
    relations = list(relations)
    number = {name: at for at, name in enumerate(relations)}
    inverse = []
    for name in list(relations):
        other = inverses.get(name) or (name.removeprefix(INVERSE) if name.startswith(INVERSE) else INVERSE + name)
        if other not in number:
            number[other] = len(relations)
            relations.append(other)
        inverse.append(number[other])
    for name in relations[len(inverse) :]:
        back = next(at for at, other in enumerate(inverse) if relations[other] == name)
        inverse.append(back)
    turn = np.array(inverse, np.uint16)
    offsets, neighbours, labels = sparse_rows(
        np.concatenate([sources, targets]),
        np.concatenate([targets, sources]),
        np.concatenate([labels, turn[labels]]),
        len(names),
    )
    save = {
        "offsets": offsets, "neighbours": neighbours, "labels": labels,
        "cuis": np.array([identifier.encode() for identifier, _ in names], dtype="S"),
    }  # fmt: skip
    text = [name.encode("utf-8") for _, name in names]
    save["name_offsets"] = np.cumsum([0, *map(len, text)], dtype=np.int64)
    save["name_text"] = np.frombuffer(b"".join(text), np.uint8)
    save["term_hashes"], save["term_nodes"] = term_table(terms)
    for name, array in save.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    counts = {"nodes": len(names), "edges": len(neighbours), "terms": len(save["term_hashes"])}
    write_json(folder / "about.json", about | counts | {"relations": {"names": relations, "inverse": inverse}})
    return len(names), len(neighbours)


def sparse_rows(
    sources: np.ndarray, targets: np.ndarray, labels: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offsets, neighbours, labels) of a graph: a node's neighbours in order, the same edge once, none to itself.

    >>> import numpy as np
    >>> edges = np.array([[0, 2, 5], [0, 1, 7], [2, 0, 6], [0, 1, 7], [1, 1, 1]])
    >>> offsets, neighbours, labels = sparse_rows(*edges.T, nodes=3)
    >>> offsets.tolist(), neighbours.tolist(), labels.tolist()
    ([0, 2, 2, 3], [1, 2, 0], [7, 5, 6])
    """
    import numpy as np

    # One number orders all three; sorting it in place needs no index of its own.
    bits = max(1, int(nodes - 1).bit_length())
    if 2 * bits + 16 > 64:
        raise UserError(f"a graph of {nodes:,} concepts: wanted at most {1 << 24:,}")
    other = sources != targets
    keys = (sources[other].astype(np.uint64) << np.uint64(bits + 16)) | (targets[other].astype(np.uint64) << np.uint64(16))
    keys |= labels[other].astype(np.uint64)
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    counts = np.bincount((keys >> np.uint64(bits + 16)).astype(np.int64), minlength=nodes)
    neighbours = ((keys >> np.uint64(16)) & np.uint64((1 << bits) - 1)).astype(np.int32)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), neighbours, (keys & np.uint64(0xFFFF)).astype(np.uint16)


def term_table(terms: Iterable[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted hashes of terms, as written and normalised, and their nodes; of a term that names several, the first."""
    import numpy as np

    exact: dict[int, int] = {}
    loose: dict[int, int] = {}
    for term, node in terms:
        exact.setdefault(term_hash(term), node)
        loose.setdefault(term_hash(normalised(term)), node)
    table = loose | exact
    hashes = np.fromiter(table, np.uint64, len(table))
    order = np.argsort(hashes)
    return hashes[order], np.fromiter(table.values(), np.int32, len(table))[order]


# --- UMLS


def scan(path: Path) -> pl.LazyFrame:
    """A Rich Release Format file as a lazy frame of text.

    Raises:
        UserError: it is missing or has other columns.
    """
    import polars as pl

    names = COLUMNS[path.stem]
    with require(path, "a file of the UMLS Metathesaurus", "install UMLS with MetamorphoSys").open(encoding="utf-8") as file:
        found = file.readline().rstrip("\n").count("|")
    if found != len(names):
        raise UserError(
            f"{path}: wanted {len(names)} columns, each ended by a bar, found {found}; is this the file of that name?"
        )
    return pl.scan_csv(
        path, separator="|", has_header=False, quote_char=None, new_columns=[*names, "_"], infer_schema=False, encoding="utf8",
    )  # fmt: skip


def from_umls(folder: Path):
    """Names, terms and edges of a folder of RRF files; see `write`."""
    import numpy as np
    import polars as pl

    concepts = scan(folder / "MRCONSO.RRF")
    relations = scan(folder / "MRREL.RRF")
    english = (pl.col("LAT") == "ENG") & (pl.col("SUPPRESS") == "N")
    rank = 4 * (pl.col("TS") != "P") + 2 * (pl.col("STT") != "PF") + (pl.col("ISPREF") != "Y")
    rows = concepts.filter(english).select("CUI", "STR", rank.cast(pl.Int8).alias("rank")).collect(engine="streaming")
    rows = rows.unique(["CUI", "STR"], keep="first", maintain_order=True).sort("rank", "CUI", maintain_order=True)
    best = rows.unique("CUI", keep="first", maintain_order=True).sort("CUI")
    if not len(best):
        raise UserError(f"{folder / 'MRCONSO.RRF'}: wanted English names that are not suppressed, found none")
    nodes = best.select("CUI", pl.int_range(pl.len(), dtype=pl.Int32).alias("node"))
    label = pl.when(pl.col("RELA").fill_null("") != "").then(pl.col("RELA")).otherwise(pl.col("REL"))
    kept = relations.select("CUI1", "CUI2", label.alias("label"), "SUPPRESS")
    counts = kept.select(pl.len(), (pl.col("SUPPRESS") != "N").sum().alias("suppressed")).collect(engine="streaming")
    links = (
        kept.filter((pl.col("SUPPRESS") == "N") & (pl.col("CUI1") != pl.col("CUI2")))
        # "CUI2 label CUI1": the statement's subject is the second
        .join(nodes.lazy().rename({"CUI": "CUI2", "node": "source"}), on="CUI2")
        .join(nodes.lazy().rename({"CUI": "CUI1", "node": "target"}), on="CUI1")
        .select("source", "target", pl.col("label").cast(pl.Categorical))
        .collect(engine="streaming")
    )
    names = links["label"].unique().cast(pl.String).sort().to_list()
    codes = links["label"].cast(pl.String).replace_strict(names, list(range(len(names))), return_dtype=pl.UInt16)
    edges = (
        links["source"].to_numpy(),
        links["target"].to_numpy(),
        codes.to_numpy().astype(np.uint16),
        names,
        inverses(folder),
    )
    terms = rows.join(nodes, on="CUI", maintain_order="left").select("STR", "node").iter_rows()
    every, suppressed = counts.row(0)
    dropped = {"suppressed relations": suppressed, "relations of a concept with itself or without an English name":
               every - suppressed - len(links)}  # fmt: skip
    return best.select("CUI", "STR").rows(), terms, edges, dropped


def inverses(folder: Path) -> dict[str, str]:
    """Relation → its inverse, by MRDOC (TYPE rela_inverse, rel_inverse); empty without the file."""
    import polars as pl

    path = folder / "MRDOC.RRF"
    if not path.exists():
        return {}
    rows = scan(path).filter(pl.col("TYPE").is_in(["rela_inverse", "rel_inverse"])).select("VALUE", "EXPL").collect()
    return {value: inverse for value, inverse in rows.iter_rows() if value and inverse}


# --- without a licence


def from_free(index_mapping: Path, mimic_dir: Path):
    """The same of vocabularies that need no licence: what an item is a kind of, by the dictionaries and code maps.

    ICD codes under the codes they begin with, ICD codes under CCS categories, drugs under ATC classes, laboratory and charted
    items under their categories.
    """
    import numpy as np

    from mimiciv_dataset.lookups import Lookups

    number: dict[str, int] = {}
    names: list[tuple[str, str]] = []
    statements: dict[tuple[int, int, str], None] = {}

    def node(name: str) -> int:
        key = normalised(name)
        if key not in number:
            number[key] = len(names)
            names.append((f"F{len(names):08}", name.strip()))
        return number[key]

    lookups = Lookups(index_mapping)
    for child, relation, parent in chain(free_statements(lookups), drug_classes(lookups, mimic_dir)):
        if normalised(child) and normalised(parent) and normalised(child) != normalised(parent):
            statements[node(child), node(parent), relation] = None
    if not statements:
        raise UserError(
            f"{index_mapping}: wanted dictionaries to make a graph of, found none; run preprocess/build_index_mapping.py"
        )
    relations = sorted({relation for _, _, relation in statements})
    at = {relation: place for place, relation in enumerate(relations)}
    sources, targets, labels = zip(*((child, parent, at[relation]) for child, parent, relation in statements), strict=True)
    edges = (np.array(sources, np.int32), np.array(targets, np.int32), np.array(labels, np.uint16), relations, FREE_INVERSES)
    return names, [(name, place) for place, (_, name) in enumerate(names)], edges, {}


FREE_INVERSES = {
    "isa": "inverse_isa", "has_category": "category_of", "in_ccs_category": "ccs_category_of", "in_atc_class": "atc_class_of",
}  # fmt: skip


def free_statements(lookups) -> Iterator[tuple[str, str, str]]:
    """(item, relation, what it belongs to) of every dictionary and code map that is there."""
    for source, ccs in (("d_icd_diagnoses", "d_ccs_diagnoses"), ("d_icd_procedures", "d_ccs_procedures")):
        titles, categories = lookups.dictionary(source), lookups.dictionary(ccs)
        for (code, version), title in titles.items():
            category = categories.get((code, version))
            if category:
                yield title, "in_ccs_category", category
            parent = next(
                (titles[code[:size], version] for size in range(len(code) - 1, 2, -1) if (code[:size], version) in titles),
                None,
            )
            if parent:
                yield title, "isa", parent
    for source in ("d_labitems", "d_items"):
        path = lookups.path(source)
        if path is not None:
            for row in read_csv(path):
                for column in ("fluid", "category"):
                    if row.get("label") and row.get(column):
                        yield row["label"], "has_category", row[column]


def drug_classes(lookups, mimic_dir: Path) -> Iterator[tuple[str, str, str]]:
    """(drug, relation, ATC class) of every drug that was prescribed with a code of the map."""
    import polars as pl

    from mimiciv_dataset.lookups import ndc_key

    classes = lookups.dictionary("d_atc_prescriptions")
    found = sorted((mimic_dir / "hosp").glob("prescriptions.csv*"))
    if classes and found:
        rows = pl.scan_csv(found[0], infer_schema=False).select("drug", "ndc").unique().sort("drug", "ndc").collect()
        for drug, ndc in rows.iter_rows():
            name = classes.get(ndc_key(ndc or ""))
            if drug and name:
                yield drug, "in_atc_class", name


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV, plain or gzipped."""
    import gzip

    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    run(main)
