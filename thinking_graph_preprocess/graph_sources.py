"""What a graph is written from, and its reading from UMLS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import UserError
from pipeline.progress import progress
from thinking_graph_preprocess.graph_writer import MAX_DEGREE, Edges, term_table
from thinking_graph_preprocess.term_search import words_of
from thinking_graph_preprocess.umls_files import find_rrf, scan_english_terms, scan_rrf
from thinking_graph_preprocess.umls_graph import INVERSE
from thinking_graph_preprocess.vocabularies import (
    DIAGNOSIS,
    DIAGNOSIS_CATEGORY,
    DRUG,
    DRUG_CLASS,
    LAB_ITEM,
    PROCEDURE,
    PROCEDURE_CATEGORY,
    qualified,
)

# Values of REL that are not part of a graph: not related, siblings of one parent, MeSH qualifiers, deleted (UMLS Reference
# Manual, "Abbreviations used in data elements").
FORBIDDEN_RELS = ("XR", "SIB", "AQ", "QB", "DEL")

# Semantic types (TUI) of concepts that a path does not pass through: attributes; ideas, times, qualities, quantities, places
# and functions; people, organisations, activities and documents. A concept that has another type as well is passed through.
QUALIFYING_TYPES = words_of("""
    T032 T102 T201
    T071 T072 T077 T078 T079 T080 T081 T082 T083 T169 T185
    T016 T090 T091 T092 T093 T094 T095 T096 T097 T098 T099 T100 T101
    T051 T052 T057 T062 T063 T064 T065 T066 T089 T170 T171
""")

# Semantic types of what the names of a vocabulary mean. A term of several concepts means the first that fits, and one that
# is an answer of a vocabulary means a concept that fits it.
DISORDERS = words_of("T019 T020 T033 T037 T046 T047 T048 T049 T050 T184 T190 T191")
DRUGS = words_of("T103 T104 T109 T114 T116 T121 T123 T125 T126 T127 T129 T131 T195 T197 T200")
TYPES = {
    DIAGNOSIS: DISORDERS,
    DIAGNOSIS_CATEGORY: DISORDERS,
    DRUG: DRUGS,
    DRUG_CLASS: DRUGS,
    PROCEDURE: words_of("T058 T060 T061"),
    PROCEDURE_CATEGORY: words_of("T058 T060 T061"),
    LAB_ITEM: words_of("T034 T059"),
}


class GraphContent(NamedTuple):
    """What `write_graph` writes."""

    names: pl.DataFrame
    terms: tuple[np.ndarray, np.ndarray]
    edges: Edges
    transit: np.ndarray | None = None  # (nodes,) bool: whether a path may pass through a node
    max_degree: int = MAX_DEGREE
    about: dict[str, Any] = {}


READ_ROWS = 1 << 20  # rows of MRREL read at a time


def read_umls(folder: Path) -> GraphContent:
    """The graph of a UMLS install."""
    names, relations = scan_english_terms(folder), scan_rrf(folder, "MRREL")
    # 0 for the preferred name of a concept
    rank = 4 * pl.col("TS").ne_missing("P") + 2 * pl.col("STT").ne_missing("PF") + pl.col("ISPREF").ne_missing("Y")
    rows = names.select("CUI", "STR", rank=rank.cast(pl.Int8)).collect(engine="streaming")
    if rows.is_empty():
        expected = "expected English names that are not suppressed, got none"
        raise UserError(f"{folder / 'MRCONSO.RRF'}: {expected}. Make the UMLS subset with English sources.")
    rows = rows.sort("rank", "CUI", maintain_order=True).unique(["CUI", "STR"], keep="first", maintain_order=True)
    names = rows.unique("CUI", keep="first", maintain_order=True).sort("CUI").select(cui="CUI", name="STR")
    nodes = names.select(CUI="cui", node=pl.int_range(pl.len(), dtype=pl.Int32))
    kinds = nodes.join(umls_kinds(folder), on="CUI", how="left", maintain_order="left")
    table = term_table(umls_terms(rows.join(kinds, on="CUI", maintain_order="left").drop("CUI")))
    transit = ~kinds["closed"].fill_null(False).to_numpy()
    return GraphContent(names, table, umls_edges(folder, relations, names["cui"]), transit)


def umls_kinds(folder: Path) -> pl.DataFrame:
    """What the semantic types of each concept (CUI) decide, in columns.

    Returns:
        `closed`, whether no path passes through it, as its types are all in `QUALIFYING_TYPES`, and for each vocabulary of
        `TYPES` whether one of its types fits; no rows without MRSTY.
    """
    columns = {"closed": pl.col("TUI").is_in(QUALIFYING_TYPES).all()}
    columns |= {vocabulary: pl.col("TUI").is_in(types).any() for vocabulary, types in TYPES.items()}
    if not find_rrf(folder, "MRSTY").exists():
        print(f"warning: {folder}: no MRSTY.RRF. Paths can pass through qualifiers and time aspects.", file=sys.stderr)
        return pl.DataFrame(schema={"CUI": pl.String, **dict.fromkeys(columns, pl.Boolean)})
    return scan_rrf(folder, "MRSTY").group_by("CUI").agg(**columns).collect(engine="streaming")


def umls_terms(rows: pl.DataFrame) -> Iterator[tuple[str, int]]:
    """Yield the names of all concepts (`STR`, `node`, `rank`, and the columns of `umls_kinds`) for a `term_table`.

    Of several concepts a term means one that it is the preferred name of, else one that fits the first vocabulary of `TYPES`,
    else the one with the lowest CUI. If it is a term of a vocabulary, it means one that fits this vocabulary, if there is one.
    """
    order = pl.coalesce(*(pl.when(name).then(at) for at, name in enumerate(TYPES)), pl.lit(len(TYPES)))
    rows = rows.sort(pl.col("rank") > 0, order, "node")
    yield from progress(rows.select("STR", "node").iter_rows(), total=len(rows), desc="terms", unit="term")
    rows = rows.with_columns(key=pl.col("STR").str.to_lowercase().hash())
    several = rows.group_by("key").agg(pl.col("node").n_unique()).filter(pl.col("node") > 1)
    ambiguous = rows.join(several, on="key", how="semi", maintain_order="left")
    for vocabulary in TYPES:
        fitting = ambiguous.filter(vocabulary).unique("STR", keep="first", maintain_order=True)
        yield from ((qualified(vocabulary, term), node) for term, node in fitting.select("STR", "node").iter_rows())


def umls_edges(folder: Path, relations: pl.LazyFrame, cuis: pl.Series) -> Edges:
    """The relations of MRREL between the nodes with these CUIs, streamed."""
    node = np.full(10_000_000, -1, np.int32)  # by the digits of the CUI
    node[cuis.str.slice(1).cast(pl.Int32).to_numpy()] = np.arange(len(cuis))
    label = pl.coalesce("RELA", "REL")
    is_forbidden = pl.col("REL").is_in(FORBIDDEN_RELS)
    counted = relations.filter(~is_forbidden).group_by(label=label).len().collect(engine="streaming").sort("label")
    excluded = relations.select(is_forbidden.sum()).collect(engine="streaming").item()
    labels = counted["label"].to_list()
    number = label.cast(pl.Enum(labels)).to_physical()  # replace_strict would take gigabytes
    # "CUI2 label CUI1": the subject of the statement is the second
    source, target = (pl.col(name).str.slice(1).cast(pl.Int32) for name in ("CUI2", "CUI1"))
    rows = relations.filter(~is_forbidden & (pl.col("SUPPRESS") == "N") & (pl.col("CUI1") != pl.col("CUI2")))
    rows = rows.select(source=source, target=target, label=number)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for batch in rows.collect_batches(chunk_size=READ_ROWS):
            sources, targets = (node[batch[end].to_numpy()] for end in ("source", "target"))
            known = (sources >= 0) & (targets >= 0)
            yield sources[known], targets[known], batch["label"].to_numpy()[known]

    return Edges(counted["len"].sum() + excluded, batches(), labels, read_inverses(folder), excluded)


def read_inverses(folder: Path) -> dict[str, str]:
    """Relation → its inverse, from MRDOC (TYPE rela_inverse, rel_inverse); empty without the file."""
    if not find_rrf(folder, "MRDOC").exists():
        print(f"warning: {folder}: no MRDOC.RRF. Inverse relations are named {INVERSE}NAME.", file=sys.stderr)
        return {}
    rows = scan_rrf(folder, "MRDOC").filter(pl.col("TYPE").is_in(["rela_inverse", "rel_inverse"])).select("VALUE", "EXPL")
    return {relation: inverse for relation, inverse in rows.collect().iter_rows() if relation and inverse}
