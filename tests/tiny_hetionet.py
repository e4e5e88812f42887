"""Writes files in the format of Hetionet, and of MONDO's map to ICD and DOID, with the statements of `tiny_primekg`."""

from __future__ import annotations

import gzip
from pathlib import Path

from tiny_primekg import DISEASES, icd_rows, statements, table

# Relation of `tiny_primekg` → metaedge, and the kinds of its ends; then other metaedges, of which none is kept.
METAEDGES = {
    "indication": ("CtD", "Compound", "Disease"),
    "off-label use": ("CpD", "Compound", "Disease"),
    "disease_phenotype_positive": ("DpS", "Disease", "Symptom"),
    "drug_effect": ("CcSE", "Compound", "Side Effect"),
}
OTHERS = [
    ("CrC", ("Compound", "Amlodipine"), ("Compound", "Felodipine")),
    ("DrD", ("Disease", "gout"), ("Disease", "sarcoidosis")),
    ("CbG", ("Compound", "Metoprolol"), ("Gene", "ADRB1")),
    ("DaG", ("Disease", "asthma"), ("Gene", "ADRB1")),
    ("Gr>G", ("Gene", "ADRB1"), ("Gene", "NR3C1")),
    ("DlA", ("Disease", "asthma"), ("Anatomy", "bronchus")),
    ("PCiC", ("Pharmacologic Class", "Adrenergic beta-Antagonists"), ("Compound", "Metoprolol")),
]
CODE = {
    "Compound": "DB{:05}", "Disease": "DOID:{}", "Symptom": "D{:06}", "Side Effect": "C{:07}", "Gene": "{}",
    "Anatomy": "UBERON:{:07}", "Pharmacologic Class": "N{:010}",
}  # fmt: skip


def write_hetionet(folder: Path) -> list[str]:
    """Write the tables of the release and mondo.sssom.tsv; return the flags that name them."""
    edges = [
        (metaedge, (source_kind, source), (target_kind, target))
        for relation, (_, source), (_, target) in statements()
        for metaedge, source_kind, target_kind in filter(None, [METAEDGES.get(relation)])
    ]
    edges += OTHERS
    nodes = list(dict.fromkeys(end for _, *ends in edges for end in ends))
    ids = {node: f"{node[0]}::{CODE[node[0]].format(number)}" for number, node in enumerate(nodes, 1)}
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["id\tname\tkind", *(f"{ids[kind, name]}\t{name}\t{kind}" for kind, name in nodes)]
    (folder / "hetionet-v1.0-nodes.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["source\tmetaedge\ttarget", *(f"{ids[source]}\t{metaedge}\t{ids[target]}" for metaedge, source, target in edges)]
    data = gzip.compress(("\n".join(lines) + "\n").encode())
    (folder / "hetionet-v1.0-edges.sif.gz").write_bytes(data)
    lines = ["# mapping_set_id: made up", "subject_id\tsubject_label\tpredicate_id\tobject_id\tobject_label"]
    for mondo, (disease, *_) in enumerate(table(DISEASES), 5000):
        lines += icd_rows(disease, mondo)
        doid = ids["Disease", disease].partition("::")[2]
        lines += [
            f"MONDO:{mondo:07}\t{disease}\tskos:exactMatch\t{doid}\t",
            f"MONDO:{mondo + 1:07}\t\tskos:closeMatch\t{doid}\t",
        ]
    (folder / "mondo.sssom.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--hetionet", str(folder), "--icd_map", str(folder / "mondo.sssom.tsv")]
