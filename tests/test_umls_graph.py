"""The concept graph: built from RRF files by the command, searched as networkx searches, each relation in its direction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from tiny_umls import INVERSES, write_umls

from thinking_graph_preprocess.build_umls_graph import write
from thinking_graph_preprocess.umls_graph import FORBIDDEN, Graph, Limits

NAMES = [
    ("C0000001", "Diabetes Mellitus"), ("C0000001", "DM"), ("C0000002", "Insulin"), ("C0000003", "Hyperglycemia"),
    ("C0000004", "Glucose measurement"), ("C0000005", "Metabolic Disease"), ("C0000006", "Everything"), ("C0000007", "Sepsis"),
]  # fmt: skip
RELATIONS = [
    ("C0000001", "has_finding", "C0000003"), ("C0000002", "may_treat", "C0000001"), ("C0000004", "measures", "C0000003"),
    ("C0000001", "isa", "C0000005"), ("C0000005", "PAR", "C0000007"), ("C0000002", "concept_in_subset", "C0000006"),
    ("C0000004", "concept_in_subset", "C0000006"), ("C0000007", "has_contraindicated_drug", "C0000002"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("umls")
    write_umls(place / "META", NAMES, RELATIONS)
    done = command(
        "thinking_graph_preprocess/build_umls_graph.py", "--umls_dir", place / "META", "--output_path", place / "graph"
    )
    assert "7 concepts" in done.stdout and "1 suppressed relations" in done.stdout
    return place / "graph"


def test_a_path_names_each_relation_in_the_direction_it_is_walked(folder: Path) -> None:
    graph = Graph(folder)
    assert graph.path("Insulin", "Hyperglycemia") == [
        "Insulin", "may_treat", "Diabetes Mellitus", "has_finding", "Hyperglycemia"]  # fmt: skip
    assert graph.path("Hyperglycemia", "Insulin") == [
        "Hyperglycemia", "finding_of", "Diabetes Mellitus", "may_be_treated_by", "Insulin"]  # fmt: skip
    assert graph.path("Hyperglycemia", "Glucose measurement") == ["Hyperglycemia", "inverse_measures", "Glucose measurement"]
    assert graph.path("Metabolic Disease", "Sepsis") == ["Metabolic Disease", "PAR", "Sepsis"]
    assert graph.path("Sepsis", "Metabolic Disease") == ["Sepsis", "CHD", "Metabolic Disease"]


def test_no_path_through_what_says_nothing(folder: Path) -> None:
    """Insulin and glucose share a subset, sepsis forbids insulin: neither is walked, in either direction."""
    graph = Graph(folder)
    assert graph.path("Insulin", "Glucose measurement")[1] == "may_treat"
    assert len(graph.path("Insulin", "Sepsis")) == 7 and len(graph.path("Sepsis", "Insulin")) == 7
    assert graph.path("Everything", "Insulin") is None
    free = Graph(folder, forbidden=())
    assert free.path("Sepsis", "Insulin") == ["Sepsis", "has_contraindicated_drug", "Insulin"]


def test_terms_are_found_as_written_and_normalised(folder: Path) -> None:
    graph = Graph(folder)
    for term in ("DM", "dm", "diabetes mellitus", " DIABETES  mellitus."):
        assert graph.cui(graph.node_of_term(term)) == "C0000001"
    for term in ("Diabetes Mellitus es", "Diabetes Mellitus obsolete", "nothing"):
        assert graph.node_of_term(term) is None
    assert graph.node_of_cui("C0000003") is not None and graph.node_of_cui("C9") is None
    assert graph.path("DM", "Diabetes Mellitus") is None, "one concept: no pair"


def test_the_command(folder: Path, tmp_path: Path) -> None:
    ask = "thinking_graph_preprocess/umls_graph.py"
    assert json.loads(command(ask, "--graph", folder, "DM", "Hyperglycemia").stdout)[1] == "has_finding"
    assert command(ask, "--graph", folder, "Everything", "DM").stdout == "null\n"
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("DM\tInsulin\nDM\tEverything\nwho\tDM\n", encoding="utf-8")
    lines = [json.loads(line) for line in command(ask, "--graph", folder, "--pairs", pairs).stdout.splitlines()]
    assert lines == [["Diabetes Mellitus", "may_be_treated_by", "Insulin"], None, None]


def test_bad_input_is_said(folder: Path, tmp_path: Path) -> None:
    def refused(script: str, *words: object) -> str:
        done = command(f"thinking_graph_preprocess/{script}.py", *words, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "wanted a file of the UMLS Metathesaurus" in refused(
        "build_umls_graph", "--umls_dir", tmp_path, "--output_path", tmp_path / "g"
    )
    write_umls(tmp_path / "swapped", NAMES, RELATIONS)
    (tmp_path / "swapped/MRREL.RRF").replace(tmp_path / "swapped/MRCONSO.RRF")
    (tmp_path / "swapped/MRREL.RRF").write_text("", encoding="utf-8")
    assert "wanted 18 columns" in refused(
        "build_umls_graph", "--umls_dir", tmp_path / "swapped", "--output_path", tmp_path / "g"
    )
    assert "wanted a new folder" in refused("build_umls_graph", "--umls_dir", tmp_path, "--output_path", folder)
    assert "found no such" in refused("umls_graph", "--graph", folder, "DM", "nobody")
    assert "wanted two terms" in refused("umls_graph", "--graph", folder, "DM")
    assert "wanted a graph folder" in refused("umls_graph", "--graph", tmp_path / "none", "a", "b")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 40 if path.name == "neighbours.npy" else None])
    assert "found a broken file" in refused("umls_graph", "--graph", broken, "DM", "Insulin")


def random_graph(draw: np.random.Generator, folder: Path, nodes: int, edges: int) -> tuple[Graph, list]:
    """A random graph of three relations and a forbidden one."""
    folder.mkdir()
    names = [(f"C{number:07}", f"concept {number}") for number in range(nodes)]
    relations = ["isa", "has_finding", "made_of", FORBIDDEN[0]]
    sources, targets = draw.integers(0, nodes, edges), draw.integers(0, nodes, edges)
    labels = draw.integers(0, 4, edges).astype(np.uint16)
    write(
        folder, names, [(name, at) for at, (_, name) in enumerate(names)], (sources, targets, labels, relations, INVERSES), {}
    )
    return Graph(folder), list(zip(sources.tolist(), targets.tolist(), [relations[label] for label in labels], strict=True))


def test_paths_are_as_short_as_networkx_finds_them(tmp_path: Path) -> None:
    """Thousands of pairs on 150 random graphs: same length, relations that exist in that direction, limits obeyed."""
    import networkx

    draw = np.random.default_rng(0)
    pairs = 0
    for number in range(150):
        nodes = int(draw.integers(2, 60))
        graph, edges = random_graph(draw, tmp_path / str(number), nodes, int(draw.integers(1, 3 * nodes)))
        stated = {(source, label, target) for source, target, label in edges if label != FORBIDDEN[0] and source != target}
        stated |= {(target, INVERSES.get(label, f"inverse_{label}"), source) for source, label, target in stated}
        theirs = networkx.Graph((source, target) for source, _, target in stated)
        theirs.add_nodes_from(range(nodes))
        lengths = dict(networkx.all_pairs_shortest_path_length(theirs))
        for _ in range(40):
            source, target = draw.integers(0, nodes, 2).tolist()
            if source == target:
                continue
            pairs += 1
            found = graph.shortest(source, target)
            wanted = lengths[source].get(target)
            if wanted is None or wanted > 10:
                assert found is None
                continue
            assert len(found) - 1 == wanted and found[0] == source and found[-1] == target
            for here, there in zip(found, found[1:], strict=False):
                assert (here, graph.relation(here, there), there) in stated
            near = Graph(tmp_path / str(number), Limits(max_hops=2))
            assert (near.shortest(source, target) is not None) == (wanted <= 2)
    assert pairs > 5000


def test_a_search_ends_at_its_limit_of_concepts(tmp_path: Path) -> None:
    """A long chain: 9 concepts apart, which takes at least 8 expansions."""
    folder = tmp_path / "chain"
    folder.mkdir()
    names = [(f"C{number:07}", f"concept {number}") for number in range(30)]
    steps = np.arange(29)
    write(folder, names, [], (steps, steps + 1, np.zeros(29, np.uint16), ["next"], {}), {})
    assert len(Graph(folder).shortest(0, 9)) == 10
    assert Graph(folder, Limits(max_nodes=4)).shortest(0, 9) is None
    assert Graph(folder).shortest(0, 11) is None and len(Graph(folder, Limits(max_hops=11)).shortest(0, 11)) == 12


def test_a_graph_without_a_licence(synthetic_root: Path, tmp_path: Path) -> None:
    done = command("thinking_graph_preprocess/build_umls_graph.py", "--free", "--root_dir", synthetic_root,
                   "--output_path", tmp_path / "free")  # fmt: skip
    assert "concepts" in done.stdout
    graph = Graph(tmp_path / "free")
    assert {"in_ccs_category", "in_atc_class", "has_category"} <= set(graph.relations)
    assert graph.path("Glucose", "Sodium")[1] == "has_category"
