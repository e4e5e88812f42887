"""Read the clinical part of PrimeKG (Chandak, Huang & Zitnik, Scientific Data 2023): kg.csv of its release.

Kept are drugs, diseases and phenotypes with the relations in `RELATIONS`; not contraindications, absent phenotypes,
interactions of drugs, and anything about genes, exposures, pathways or anatomy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import UserError
from pipeline.files import require
from thinking_graph_preprocess.delimited_files import check_whole

DRUG, DISEASE, PHENOTYPE = "drug", "disease", "effect/phenotype"  # values of x_type and y_type


class Relation(NamedTuple):
    """The ends of a relation of kg.csv, and its name in a graph in both directions."""

    source: str
    target: str
    name: str
    inverse: str


# kg.csv has every statement in both directions under one name. The direction of a hierarchy is not in the file.
RELATIONS = {
    "indication": Relation(DRUG, DISEASE, "has_indication", "indication_of"),
    "off-label use": Relation(DRUG, DISEASE, "has_off_label_use", "off_label_use_of"),
    "disease_phenotype_positive": Relation(DISEASE, PHENOTYPE, "has_phenotype", "phenotype_of"),
    "drug_effect": Relation(DRUG, PHENOTYPE, "has_side_effect", "side_effect_of"),
    "disease_disease": Relation(DISEASE, DISEASE, "parent_or_child_of", "parent_or_child_of"),
    "phenotype_phenotype": Relation(PHENOTYPE, PHENOTYPE, "parent_or_child_of", "parent_or_child_of"),
}
COLUMNS = ("relation", "x_id", "x_type", "x_name", "y_id", "y_type", "y_name")
HOW_TO_GET = "download kg.csv from https://doi.org/10.7910/DVN/IXA7BM"


class PrimeKG(NamedTuple):
    """The nodes and statements that are kept."""

    nodes: pl.DataFrame  # type, id, name; in the order of their numbers
    source: np.ndarray  # (n,) int32: number of the node
    target: np.ndarray
    label: np.ndarray  # (n,) int32: index into `RELATIONS`

    def groupings(self) -> np.ndarray:
        """The nodes that have only parents and children, through which a path would go from one relative to another."""
        is_hierarchy = np.array([relation.source == relation.target for relation in RELATIONS.values()])[self.label]
        clinical = np.concatenate([ends[~is_hierarchy] for ends in (self.source, self.target)])
        return np.setdiff1d(np.arange(len(self.nodes)), clinical)


def read_primekg(path: Path) -> PrimeKG:
    """Read kg.csv, gzipped or not, streamed: memory is that of the statements that are kept, about 7 % of the file.

    Raises:
        UserError: the file has other columns, none of the statements, or is cut off.
    """
    check_whole(require(path, "PrimeKG", HOW_TO_GET))
    frame = pl.scan_csv(path, infer_schema=False)
    order = pl.DataFrame(
        {"relation": list(RELATIONS), "source_type": [r.source for r in RELATIONS.values()]}
        | {"target_type": [r.target for r in RELATIONS.values()], "label": range(len(RELATIONS))}
    ).with_columns(pl.col("label").cast(pl.Int32))
    try:
        rows = frame.filter(pl.col("relation").is_in(list(RELATIONS))).select(COLUMNS).collect(engine="streaming")
    except pl.exceptions.PolarsError:
        expected = f"expected a CSV with columns {', '.join(COLUMNS)}, got another file"
        raise UserError(f"{path}: {expected}. Set --primekg to kg.csv of PrimeKG: {HOW_TO_GET}.") from None
    if unnamed := len(rows) - len(rows := rows.drop_nulls()):
        expected = "expected a type, code and name of both ends of each statement"
        print(f"warning: {path}: {expected}, got {unnamed:,} without, which are left out.", file=sys.stderr)
    rows = rows.join(order, on="relation", maintain_order="left")
    is_forward = (pl.col("x_type") == pl.col("source_type")) & (pl.col("y_type") == pl.col("target_type"))
    is_backward = (pl.col("y_type") == pl.col("source_type")) & (pl.col("x_type") == pl.col("target_type"))
    ends = {end: [f"{end}_{part}" for part in ("type", "id", "name")] for end in ("x", "y")}
    turned = dict(zip(ends["y"] + ends["x"], ends["x"] + ends["y"], strict=True))
    rows = pl.concat([rows.filter(is_forward), rows.filter(is_backward & ~is_forward).rename(turned)], how="diagonal")
    if rows.is_empty():
        expected = f"expected relations such as {next(iter(RELATIONS))} between drugs and diseases, got none"
        raise UserError(f"{path}: {expected}. Set --primekg to kg.csv of PrimeKG: {HOW_TO_GET}.")
    if missing := set(RELATIONS) - set(rows["relation"]):
        names = ", ".join(name for name in RELATIONS if name in missing)
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
    return PrimeKG(nodes, *numbers, rows["label"].to_numpy())
