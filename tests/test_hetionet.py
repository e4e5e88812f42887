"""Hetionet as a source of the free graph: its tables, the relations that are kept, and how MIMIC-IV reaches them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_free_graph import build, write_files
from tiny_hetionet import write_hetionet
from tiny_primekg import statements

from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess.code_maps import read_doid_map
from thinking_graph_preprocess.umls_graph import Graph

NODES, EDGES = "hetionet-v1.0-nodes.tsv", "hetionet-v1.0-edges.sif.gz"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("hetionet"))


@pytest.fixture(scope="module")
def linked(root: Path) -> Graph:
    return build(root, "linked", *write_hetionet(root / "tsv"))


def change_table(path: Path, change: Callable[[str], str]) -> None:
    is_packed = path.suffix == ".gz"
    data = path.read_bytes()
    text = change((gzip.decompress(data) if is_packed else data).decode())
    path.write_bytes(gzip.compress(text.encode()) if is_packed else text.encode())


@pytest.mark.parametrize(
    ("path", "inverse"),
    [
        (["Furosemide", "has_indication", "heart failure"], "indication_of"),
        (["Prednisone", "palliates", "pericarditis"], "palliated_by"),
        (["gout", "has_phenotype", "Hyperuricemia"], "phenotype_of"),
        (["Warfarin", "has_side_effect", "Bruising"], "side_effect_of"),
    ],
)
def test_relations_that_are_kept(linked: Graph, path: list[str], inverse: str) -> None:
    assert linked.path(path[0], path[2]) == path
    assert linked.path(path[2], path[0]) == [path[2], inverse, path[0]]


def test_relations_that_are_not_kept(linked: Graph) -> None:
    """Resemblance, genes, anatomy, classes of drugs, and the hierarchies of other graphs."""
    for name in ("ADRB1", "bronchus", "Adrenergic beta-Antagonists", "cardiovascular disorder"):
        assert linked.node_of_term(name) is None
    for pair in (("Amlodipine", "Felodipine"), ("gout", "sarcoidosis")):
        assert len(linked.path(*pair)) > 3
    names = {linked.name(node) for node in range(len(linked))}
    kept = {"indication", "off-label use", "disease_phenotype_positive", "drug_effect"}
    assert names >= {name for relation, *ends in statements() if relation in kept for _, name in ends}


def test_a_side_effect_is_the_symptom_or_disease_of_its_name(linked: Graph) -> None:
    """Symptoms and side effects are nodes of their own."""
    symptom, effect = (node for node in range(len(linked)) if linked.name(node) == "Cough")
    assert linked.node_of_term("Cough") == symptom and ["same_as", "Cough"] in relations_of(linked, effect)
    assert ["side_effect_of", "Lisinopril"] in relations_of(linked, effect)
    assert ["phenotype_of", "asthma"] in relations_of(linked, symptom)


def relations_of(graph: Graph, node: int) -> list[list[str]]:
    """The relations of a node, and the names of their other ends."""
    begin, end = graph._offsets[node : node + 2]
    rows = zip(graph._labels[begin:end], graph._neighbours[begin:end], strict=True)
    return [[graph.relations[label], graph.name(neighbour)] for label, neighbour in rows]


@pytest.mark.parametrize(
    ("term", "path"),
    [
        ("Essential (primary) hypertension", ["same_as", "hypertension"]),
        ("Hypertension, NOS", ["same_as", "hypertension"]),  # ICD-9
        ("Other seizures", ["isa", "epilepsy"]),  # G4089 by G40
        ("Metoprolol Tartrate", ["has_ingredient", "Metoprolol"]),
        ("Aspirin", ["has_ingredient", "Acetylsalicylic acid"]),
        ("Furosemide (Lasix)", ["has_ingredient", "Furosemide"]),
        ("Ascites", ["same_as", "Ascites"]),
    ],
)
def test_the_names_of_mimic_reach_hetionet(linked: Graph, term: str, path: list[str]) -> None:
    """By code through MONDO's terms of DOID, by ingredient, by name."""
    assert path in relations_of(linked, linked.node_of_term(term))


def test_the_coverage_of_each_vocabulary(root: Path, linked: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    coverage = read_json(linked.folder / "about.json")["coverage"]
    assert coverage["ICD-9 diagnoses"] == {"names": 3, "by code": 3, "by name": 0}
    assert coverage["laboratory items"]["by code"] == 0, "symptoms of MeSH have no terms of HPO"
    graph = build(root, "by-name", "--hetionet", root / "tsv")
    assert read_json(graph.folder / "about.json")["coverage"]["ICD-10 diagnoses"]["by code"] == 0
    assert graph.path("Pneumonia, unspecified organism", "pneumonia")[1] == "isa"
    assert re.search(r"ICD-9 diagnoses +3 +0 +\d", capsys.readouterr().out)


def test_only_the_same_disease_of_mondo_and_doid(tmp_path: Path) -> None:
    rows = ("MONDO:5\tskos:exactMatch\tDOID:7", "DOID:8\tskos:exactMatch\tMONDO:0000006",
            "MONDO:9\tskos:broadMatch\tDOID:7", "MONDO:9\tskos:exactMatch\tICD10CM:I10",
            "http://purl.obolibrary.org/obo/MONDO_0000004\texactMatch\thttp://purl.obolibrary.org/obo/DOID_9")  # fmt: skip
    (tmp_path / "map").write_text("\n".join(("subject_id\tpredicate_id\tobject_id", *rows)) + "\n", encoding="utf-8")
    assert read_doid_map(tmp_path / "map") == {7: [5], 8: [6], 9: [4]}


def test_tables_can_be_gzipped_or_not_and_have_short_names(root: Path, tmp_path: Path, linked: Graph) -> None:
    write_hetionet(tmp_path / "tsv")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metanodes.tsv").write_text("metanode\n", encoding="utf-8")
    (tmp_path / "other/nodes.tsv.gz").write_bytes(gzip.compress((tmp_path / "tsv" / NODES).read_bytes()))
    (tmp_path / "other/edges.sif").write_bytes(gzip.decompress((tmp_path / "tsv" / EDGES).read_bytes()))
    graph = build(root, str(tmp_path / "graph"), "--hetionet", tmp_path / "other", "--icd_map", root / "tsv/mondo.sssom.tsv")
    assert read_json(graph.folder / "about.json") == read_json(linked.folder / "about.json")


def test_edges_without_a_node_are_counted(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hetionet(tmp_path)
    change_table(tmp_path / NODES, lambda text: re.sub(r".*\tRiluzole\t.*\n", "", text))
    graph = build(root, str(tmp_path / "graph"), "--hetionet", tmp_path)
    assert "code and name of both ends of each statement, got 1 without, which are left out" in capsys.readouterr().err
    assert graph.node_of_term("Riluzole") is None and graph.path("Metformin", "Hyperglycemia")


def test_a_metaedge_without_rows_is_reported(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hetionet(tmp_path)
    change_table(tmp_path / EDGES, lambda text: text.replace("\tCpD\t", "\tCPD\t"))
    build(root, str(tmp_path / "graph"), "--hetionet", tmp_path)
    assert "no rows with the relation CpD. If" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (NODES, lambda text: text.replace("kind", "type", 1), r"nodes\.tsv: expected a TSV with columns id, name, kind, got"),
        (EDGES, lambda text: text.replace("metaedge", "edge", 1), r"sif\.gz: expected a TSV with columns source, metaedge"),
        (EDGES, lambda text: text.splitlines()[0], "expected relations such as CtD between drugs and diseases, got none"),
        (
            NODES,
            lambda text: text[: text.rindex("\t")],
            r"nodes\.tsv, line \d+: expected 3 columns, got 2. The file is cut off",
        ),
        (EDGES, lambda text: text[: text.rindex("\t")], r"sif\.gz, line \d+: expected 3 columns, got 2. The file is cut off"),
        (
            NODES,
            lambda text: "version https://git-lfs.github.com/spec/v1\n",
            "got a pointer to a file. Download the file itself",
        ),
        ("mondo.sssom.tsv", lambda text: text.replace("DOID:", "OMIM:"), "expected rows that map MONDO to DOID, got none"),
        ("mondo.sssom.tsv", lambda text: "icd,mondo\nI10,5\n", "expected columns subject_id, predicate_id and object_id"),
    ],
)
def test_malformed_files_are_errors(root: Path, tmp_path: Path, file: str, change: Callable[[str], str], message: str) -> None:
    flags = write_hetionet(tmp_path)
    change_table(tmp_path / file, change)
    with pytest.raises(UserError, match=message):
        build(root, str(tmp_path / "graph"), *flags)


def test_truncated_gzip_data_are_an_error(root: Path, tmp_path: Path) -> None:
    write_hetionet(tmp_path)
    (tmp_path / EDGES).write_bytes((tmp_path / EDGES).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"sif\.gz: expected gzip data, got truncated"):
        build(root, str(tmp_path / "graph"), "--hetionet", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--hetionet", "tsv", "--primekg", "kg.csv"],
            "--primekg and --hetionet: expected one open knowledge graph, got both",
        ),
        (["--hetionet", "tsv", "--loinc_map", "a"], "--loinc_map: expected --primekg with it, got none"),
        (["--hetionet", "none"], "none: expected a directory with nodes.tsv and edges.sif.gz"),
        (["--hetionet", "tsv", "--umls_dir", "META"], "--primekg or --hetionet, got both"),
    ],
)
def test_flags_that_do_not_belong_together(root: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(root, "refused", *flags)


def test_a_changed_table_makes_the_graph_stale(root: Path, tmp_path: Path) -> None:
    write_hetionet(tmp_path)
    build(root, str(tmp_path / "graph"), "--hetionet", tmp_path)
    change_table(tmp_path / EDGES, lambda text: text.replace("\tCpD\t", "\tCtD\t", 1))
    with pytest.raises(UserError, match="hetionet"):
        build(root, str(tmp_path / "graph"), "--hetionet", tmp_path)
