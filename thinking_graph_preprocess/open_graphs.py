"""Read the clinical part of an open knowledge graph: PrimeKG (kg.csv) or Hetionet (tables of nodes and edges).

Kept are drugs, diseases, phenotypes and side effects with the relations of `OPEN_GRAPHS`; not contraindications, absent
phenotypes, interactions and resemblances of drugs, and anything about genes, exposures, pathways or anatomy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess.delimited_files import check_whole
from thinking_graph_preprocess.sources import hetionet_files

# Kinds of nodes, as values of x_type and y_type in kg.csv.
DRUG, DISEASE, PHENOTYPE, SIDE_EFFECT = "drug", "disease", "effect/phenotype", "side effect"
FINDINGS = (DISEASE, PHENOTYPE, SIDE_EFFECT)  # a name of several kinds means the first
HETIONET_KINDS = {"Compound": DRUG, "Disease": DISEASE, "Symptom": PHENOTYPE, "Side Effect": SIDE_EFFECT}

# The columns of a statement, as in kg.csv.
COLUMNS = ("relation", "x_id", "x_type", "x_name", "y_id", "y_type", "y_name")


class Relation(NamedTuple):
    """The ends of a relation of the files, and its name in a graph in both directions."""

    source: str
    target: str
    name: str
    inverse: str


class Release(NamedTuple):
    """An open knowledge graph as it is published."""

    name: str
    advice: str  # what its flag expects, and where to download it
    read: Callable[[Path, Release], pl.DataFrame]  # its statements with the relations below, in `COLUMNS`
    relations: dict[str, Relation]
    ontologies: dict[str, str]  # kind → ontology that its codes are of, where a map of codes can lead to it


class OpenGraph(NamedTuple):
    """The nodes and statements that are kept."""

    release: Release
    nodes: pl.DataFrame  # type, id, name; in the order of their numbers
    source: np.ndarray  # (n,) int32: number of the node
    target: np.ndarray
    label: np.ndarray  # (n,) int32: index into the relations of the release

    def groupings(self) -> np.ndarray:
        """The nodes that have only parents and children, through which a path would go from one relative to another."""
        relations = self.release.relations.values()
        is_hierarchy = np.array([relation.source == relation.target for relation in relations])[self.label]
        clinical = np.concatenate([ends[~is_hierarchy] for ends in (self.source, self.target)])
        return np.setdiff1d(np.arange(len(self.nodes)), clinical)


def read_primekg(path: Path, release: Release) -> pl.DataFrame:
    """Read kg.csv, of which about 7 % are kept."""
    return read_table(path, ",", COLUMNS, pl.col("relation").is_in(list(release.relations)), release)


def read_hetionet(folder: Path, release: Release) -> pl.DataFrame:
    """Read the tables of nodes (id, name, kind) and edges (source, metaedge, target), of which about 6 % are kept."""
    nodes_path, edges_path = hetionet_files(folder)
    is_kept = pl.col("metaedge").is_in(list(release.relations))
    edges = read_table(edges_path, "\t", ("source", "metaedge", "target"), is_kept, release).rename({"metaedge": "relation"})
    is_clinical = pl.col("kind").is_in(list(HETIONET_KINDS))
    nodes = read_table(nodes_path, "\t", ("id", "name", "kind"), is_clinical, release)
    kinds = pl.col("kind").replace_strict(HETIONET_KINDS, return_dtype=pl.String)
    nodes = nodes.with_columns(kind=kinds).unique("id", keep="first", maintain_order=True)
    for end, column in (("x", "source"), ("y", "target")):
        edges = edges.rename({column: f"{end}_id"})
        ends = nodes.rename({"id": f"{end}_id", "name": f"{end}_name", "kind": f"{end}_type"})
        edges = edges.join(ends, on=f"{end}_id", how="left", maintain_order="left")
    return edges.select(COLUMNS)


def read_table(path: Path, separator: str, columns: tuple[str, ...], is_kept: pl.Expr, release: Release) -> pl.DataFrame:
    """Read some rows of a table, gzipped or not, streamed: memory is that of these rows.

    Raises:
        UserError: the file has other columns, or is cut off.
    """
    check_whole(require(path, release.name, release.advice), separator)
    frame = pl.scan_csv(path, separator=separator, infer_schema=False)
    try:
        return frame.filter(is_kept).select(columns).collect(engine="streaming")
    except pl.exceptions.PolarsError:  # its text can quote values
        expected = f"expected a {'CSV' if separator == ',' else 'TSV'} with columns {', '.join(columns)}, got another file"
        raise UserError(f"{path}: {expected}. {release.advice}.") from None


def read_open_graph(path: Path, release: Release) -> OpenGraph:
    """Read the statements of an open knowledge graph.

    Raises:
        UserError: a file has other columns, none of the statements, or is cut off.
    """
    rows = release.read(path, release)
    if unnamed := len(rows) - len(rows := rows.drop_nulls()):
        expected = "expected a type, code and name of both ends of each statement"
        print(f"warning: {path}: {expected}, got {unnamed:,} without, which are left out.", file=sys.stderr)
    relations = release.relations
    order = pl.DataFrame(
        {"relation": list(relations), "source_type": [relation.source for relation in relations.values()]}
        | {"target_type": [relation.target for relation in relations.values()], "label": range(len(relations))}
    ).with_columns(pl.col("label").cast(pl.Int32))
    rows = rows.join(order, on="relation", maintain_order="left")
    is_forward = (pl.col("x_type") == pl.col("source_type")) & (pl.col("y_type") == pl.col("target_type"))
    is_backward = (pl.col("y_type") == pl.col("source_type")) & (pl.col("x_type") == pl.col("target_type"))
    ends = {end: [f"{end}_{part}" for part in ("type", "id", "name")] for end in ("x", "y")}
    turned = dict(zip(ends["y"] + ends["x"], ends["x"] + ends["y"], strict=True))
    rows = pl.concat([rows.filter(is_forward), rows.filter(is_backward & ~is_forward).rename(turned)], how="diagonal")
    if rows.is_empty():
        expected = f"expected relations such as {next(iter(relations))} between drugs and diseases, got none"
        raise UserError(f"{path}: {expected}. {release.advice}.")
    if missing := set(relations) - set(rows["relation"]):
        names = ", ".join(name for name in relations if name in missing)
        print(
            f"warning: {path}: no rows with the relation {names}. If this is not intended, download it again.", file=sys.stderr
        )
    columns = ["type", "id", "name"]
    both = pl.concat([rows.select(**dict(zip(columns, map(pl.col, names), strict=True))) for names in ends.values()])
    nodes = both.unique(["type", "id"], keep="first", maintain_order=True)
    number = nodes.select("type", "id", number=pl.int_range(pl.len(), dtype=pl.Int32))
    numbers = []
    for end in ("x", "y"):
        joined = rows.join(number, left_on=[f"{end}_type", f"{end}_id"], right_on=["type", "id"], maintain_order="left")
        numbers.append(joined["number"].to_numpy())
    return OpenGraph(release, nodes, *numbers, rows["label"].to_numpy())


# Flag of build_umls_graph.py → the graph. kg.csv has every statement in both directions under one name, and does not tell the
# direction of a hierarchy.
OPEN_GRAPHS = {
    "primekg": Release(
        "PrimeKG",
        "Set --primekg to kg.csv of PrimeKG: download kg.csv from https://doi.org/10.7910/DVN/IXA7BM",
        read_primekg,
        {
            "indication": Relation(DRUG, DISEASE, "has_indication", "indication_of"),
            "off-label use": Relation(DRUG, DISEASE, "has_off_label_use", "off_label_use_of"),
            "disease_phenotype_positive": Relation(DISEASE, PHENOTYPE, "has_phenotype", "phenotype_of"),
            "drug_effect": Relation(DRUG, PHENOTYPE, "has_side_effect", "side_effect_of"),
            "disease_disease": Relation(DISEASE, DISEASE, "parent_or_child_of", "parent_or_child_of"),
            "phenotype_phenotype": Relation(PHENOTYPE, PHENOTYPE, "parent_or_child_of", "parent_or_child_of"),
        },
        {DISEASE: "MONDO", PHENOTYPE: "HPO"},
    ),
    "hetionet": Release(
        "Hetionet",
        "Set --hetionet to the directory hetnet/tsv of https://github.com/hetio/hetionet: download its files with Git LFS",
        read_hetionet,
        {
            "CtD": Relation(DRUG, DISEASE, "has_indication", "indication_of"),
            "CpD": Relation(DRUG, DISEASE, "palliates", "palliated_by"),
            "DpS": Relation(DISEASE, PHENOTYPE, "has_phenotype", "phenotype_of"),
            "CcSE": Relation(DRUG, SIDE_EFFECT, "has_side_effect", "side_effect_of"),
        },
        {DISEASE: "DOID"},
    ),
}
