"""The concept graph: built from RRF files by the command, searched as networkx searches, each relation in its direction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networkx
import numpy as np
import polars as pl
import pytest
from conftest import REPO, TEST_DATA, command
from hypothesis import given
from hypothesis import strategies as st
from tiny_umls import INVERSES, write_umls

from pipeline.errors import UserError
from pipeline.records import digest_of, folder_record
from thinking_graph_preprocess.build_umls_graph import main
from thinking_graph_preprocess.graph_writer import Edges, term_table, write_graph
from thinking_graph_preprocess.matchers import check_quickumls
from thinking_graph_preprocess.umls_graph import Graph, SearchLimits, simplify_term, term_hash
from thinking_graph_preprocess.vocabularies import CHARTED_ITEM, DIAGNOSIS, DRUG, LAB_ITEM

CASES = TEST_DATA / "cases/graph/umls_relations"
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
    assert "7 concepts, 10 directed relations; 3 relations that list, qualify, exclude or contraindicate; 1 rel" in done.stdout
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


def test_no_path_through_forbidden_relations(folder: Path) -> None:
    """Insulin and glucose share a subset, sepsis forbids insulin: neither is walked, in either direction."""
    graph = Graph(folder)
    assert graph.path("Insulin", "Glucose measurement")[1] == "may_treat"
    assert len(graph.path("Insulin", "Sepsis")) == 7 and len(graph.path("Sepsis", "Insulin")) == 7
    assert graph.path("Everything", "Insulin") is None


def test_terms_are_found_as_written_and_simplify_term(folder: Path) -> None:
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


def test_bad_input_is_an_error(folder: Path, tmp_path: Path) -> None:
    def refused(script: str, *words: object) -> str:
        done = command(f"thinking_graph_preprocess/{script}.py", *words, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "expected a file of the UMLS Metathesaurus" in refused(
        "build_umls_graph", "--umls_dir", tmp_path, "--output_path", tmp_path / "g"
    )
    assert "MetamorphoSys" in refused("build_umls_graph", "--umls_dir", folder.parent, "--output_path", tmp_path / "g")
    write_umls(tmp_path / "swapped", NAMES, RELATIONS)
    (tmp_path / "swapped/MRREL.RRF").replace(tmp_path / "swapped/MRCONSO.RRF")
    (tmp_path / "swapped/MRREL.RRF").write_text("", encoding="utf-8")
    assert "expected 18 columns" in refused(
        "build_umls_graph", "--umls_dir", tmp_path / "swapped", "--output_path", tmp_path / "g"
    )
    write_umls(tmp_path / "other", NAMES, RELATIONS[1:])
    assert "expected the same umls" in refused("build_umls_graph", "--umls_dir", tmp_path / "other", "--output_path", folder)
    assert "got an unknown one" in refused("umls_graph", "--graph", folder, "DM", "nobody")
    assert "expected two terms" in refused("umls_graph", "--graph", folder, "DM")
    assert "expected a graph directory" in refused("umls_graph", "--graph", tmp_path / "none", "a", "b")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("DM\tInsulin\nDM\n", encoding="utf-8")
    assert "line 2: expected two tab-separated terms" in refused("umls_graph", "--graph", folder, "--pairs", pairs)
    pairs.write_bytes(b"DM\tM\xe9ni\xe8re\n")
    assert "expected text in UTF-8" in refused("umls_graph", "--graph", folder, "--pairs", pairs)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("MRREL", lambda text: text[:-40], "row 9: expected complete rows, got 1 truncated"),
        ("MRCONSO", lambda text: text[:-30], "row 24: expected complete rows, got 1 truncated"),
        ("MRREL", lambda text: text + b"C0000001|A|" * 20 + b"\n", "row 10: .* got 1 truncated or with other fields"),
        ("MRCONSO", lambda text: text.replace(b"Sepsis", b"S\xe9psis"), "expected an RRF file"),
        ("MRCONSO", lambda text: text.replace(b"|ENG|", b"|GER|"), "expected English names"),
        ("MRDOC", lambda text: b"RELA|isa|inverse_isa|\n", "expected 4 columns"),
    ],
)
def test_broken_rrf_files_make_no_graph(tmp_path: Path, file: str, change: Callable[[bytes], bytes], message: str) -> None:
    path = write_umls(tmp_path, NAMES, RELATIONS) / f"{file}.RRF"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        main(["--umls_dir", str(tmp_path), "--output_path", str(tmp_path / "graph")])
    assert not list(tmp_path.glob("graph/*.npy"))
    if (tmp_path / "graph").exists():
        with pytest.raises(UserError, match="got an unfinished one"):
            Graph(tmp_path / "graph")


@pytest.mark.parametrize("size", [0, 40, -4])
def test_a_truncated_graph_folder_is_refused(folder: Path, tmp_path: Path, size: int) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in sorted(tmp_path.glob("*.npy")):
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=f"{path.name}: expected an array of the graph, got a malformed file"):
            Graph(tmp_path)
        path.write_bytes(whole)
    np.save(tmp_path / "neighbours.npy", np.load(tmp_path / "neighbours.npy")[:-1])  # of another build
    with pytest.raises(UserError, match="neighbours.npy: expected an array of length 10"):
        Graph(tmp_path)
    (tmp_path / "about.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="of this version"):
        Graph(tmp_path)


def test_processes_that_build_the_same_graph(tmp_path: Path) -> None:
    """Only one does; the others wait, and find it whole."""
    write_umls(tmp_path, NAMES, RELATIONS)
    script = [sys.executable, str(REPO / "thinking_graph_preprocess/build_umls_graph.py"), "--umls_dir", str(tmp_path),
              "--output_path", str(tmp_path / "graph")]  # fmt: skip
    running = [subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(*process.communicate(), process.returncode) for process in running]
    for out, err, code in ends:
        assert code == 0 and ("7 concepts" in out or "is up to date" in out), err
    assert Graph(tmp_path / "graph").path("DM", "Insulin")


def test_the_record_names_the_content(folder: Path, tmp_path: Path) -> None:
    """Equal sources give an equal digest; another release gives another."""
    digests = [digest_of(folder_record(folder))]
    for name, relations in (("same", RELATIONS), ("other", RELATIONS[1:])):
        write_umls(tmp_path / name, NAMES, relations)
        main(["--umls_dir", str(tmp_path / name), "--output_path", str(tmp_path / f"{name}-graph")])
        digests.append(digest_of(folder_record(tmp_path / f"{name}-graph")))
    assert digests[0] == digests[1] != digests[2] and None not in digests


def test_the_preferred_name_of_a_string_that_stands_twice(tmp_path: Path) -> None:
    """A release has the same string from several sources; it is the preferred one if one of its rows is."""
    path = write_umls(tmp_path, NAMES, RELATIONS) / "MRCONSO.RRF"
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    odd = [rows[0].replace("|P|", "|S|").replace("|Y|", "|N|"), rows[0].replace("|P|", "|S|").replace("Mellitus", "nos")]
    path.write_text("".join([*odd, *rows]), encoding="utf-8")
    main(["--umls_dir", str(tmp_path), "--output_path", str(tmp_path / "graph")])
    graph = Graph(tmp_path / "graph")
    assert graph.name(graph.node_of_cui("C0000001")) == "Diabetes Mellitus"
    assert graph.node_of_term("Diabetes nos") == graph.node_of_term("dm") == graph.node_of_cui("C0000001")


def make_graph(
    folder: Path,
    nodes: int,
    edges: np.ndarray,
    relations: list[str],
    limits: SearchLimits | None = None,
    transit: np.ndarray | None = None,
) -> Graph:
    """A graph of `concept 0`, … and edges (source, target, place of the relation)."""
    folder.mkdir()
    names = [f"concept {number}" for number in range(nodes)]
    frame = pl.DataFrame({"cui": [f"C{number:07}" for number in range(nodes)], "name": names})
    halves = [tuple(half.T) for half in np.array_split(edges, 2)]
    terms = term_table(zip(names, range(nodes), strict=True))
    write_graph(folder, frame, terms, Edges(len(edges), halves, relations, INVERSES), transit)
    return Graph(folder, limits)


def test_paths_are_as_short_as_networkx_finds_them(tmp_path: Path) -> None:
    """Thousands of pairs on 150 random graphs: same length, relations that exist in that direction, limits obeyed.

    Some concepts are excluded from the inside of paths, by their kind or by their degree.
    """
    draw = np.random.default_rng(0)
    relations = ["isa", "has_finding", "RO", "made_of", "concept_in_subset"]
    counts: Counter[str] = Counter()
    for number in range(150):
        nodes = int(draw.integers(2, 60))
        size = int(draw.integers(1, 3 * nodes))
        edges = np.stack([draw.integers(0, nodes, size), draw.integers(0, nodes, size), draw.integers(0, 5, size)], axis=1)
        edges = edges[edges[:, 0] != edges[:, 1]]
        folder, most = tmp_path / str(number), int(draw.integers(4, 12))
        make_graph(folder, nodes, edges, relations, transit=draw.random(nodes) < draw.choice([0.6, 0.9, 1]))
        is_inner = np.load(folder / "transit.npy")
        stated = {(source, relations[label], target) for source, target, label in edges.tolist() if label != 4}
        stated |= {(target, INVERSES.get(label, f"inverse_{label}"), source) for source, label, target in stated}
        degree = Counter(source for source, _, _ in stated)
        reference = networkx.Graph((source, target) for source, _, target in stated)
        reference.add_nodes_from(range(nodes))
        inner = {node for node in range(nodes) if is_inner[node] and degree[node] <= most}
        graph, near, small = (
            Graph(folder, SearchLimits(**limits, max_degree=most)) for limits in ({}, {"max_hops": 2}, {"max_nodes": 4})
        )
        for source, target in draw.integers(0, nodes, (40, 2)).tolist():
            if source == target:
                continue
            counts["pairs"] += 1
            found, length = graph.shortest(source, target), length_between(reference, inner | {source, target}, source, target)
            counts["longer"] += length != length_between(reference, set(reference), source, target)
            if length is None:
                counts["apart"] += found == []
                assert not found and not near.shortest(source, target)
                continue
            if length > 10:
                assert found is None
                continue
            assert len(found) - 1 == length and found[0] == source and found[-1] == target
            assert inner.issuperset(found[1:-1])
            for here, there in zip(found, found[1:], strict=False):
                assert (here, graph.relation(here, there), there) in stated
            assert (near.shortest(source, target) is not None) == (length <= 2)
            few = small.shortest(source, target)
            counts["limited"] += few is None
            assert few is None or len(few) - 1 == length, "a search that ends early gives no longer path"
    assert counts["pairs"] > 5000 and counts["limited"] > 100 and counts["apart"] > 1000 and counts["longer"] > 500


def length_between(graph: networkx.Graph, nodes: set[int], source: int, target: int) -> int | None:
    """The length of a shortest path that has only some of the nodes, as networkx finds it."""
    try:
        return networkx.shortest_path_length(graph.subgraph(nodes), source, target)
    except networkx.NetworkXNoPath:
        return None


def test_a_search_ends_at_its_limits(tmp_path: Path) -> None:
    """A chain of 30 concepts, and one apart. No path and no path within the limits are distinguished."""
    steps = np.arange(29)
    chain = np.stack([steps, steps + 1, 0 * steps], axis=1)
    graph = make_graph(tmp_path / "chain", 31, chain, ["next"])
    assert len(graph.shortest(0, 9)) == 10 and graph.shortest(0, 11) is None and graph.shortest(0, 30) == []
    assert len(Graph(graph.folder, SearchLimits(max_hops=11)).shortest(0, 11)) == 12
    assert len(Graph(graph.folder, SearchLimits(max_hops=100)).shortest(0, 29)) == 30
    assert len(Graph(graph.folder, SearchLimits(max_nodes=9)).shortest(0, 9)) == 10, "nine relations: nine concepts expanded"
    assert Graph(graph.folder, SearchLimits(max_nodes=8)).shortest(0, 9) is None
    for limits in ({"max_hops": 0}, {"max_nodes": -1}, {"max_degree": -1}):
        with pytest.raises(UserError, match="expected numbers"):
            SearchLimits(**limits)


def test_a_path_says_the_most_of_several_relations(tmp_path: Path) -> None:
    """A RELA rather than a REL, a name of the release rather than one made up, and never one that is forbidden."""
    relations = ["RO", "zz_of", "has_contraindicated_class", "has_finding"]
    edges = np.array([(0, 1, 0), (0, 1, 1), (0, 1, 2), (3, 2, 3), (2, 3, 1)])
    graph = make_graph(tmp_path / "graph", 4, edges, relations)
    assert graph.path("concept 0", "concept 1")[1] == "zz_of" and graph.path("concept 1", "concept 0")[1] == "inverse_zz_of"
    assert graph.path("concept 2", "concept 3")[1] == "finding_of" and graph.path("concept 3", "concept 2")[1] == "has_finding"


def test_umls_relations_by_meaning(tmp_path: Path) -> None:
    """Two concepts are linked by "not related", siblings, a qualifier, exclusions or an attribute, and by a true path."""
    ends = [("C0000001", "Insulin"), ("C0000002", "Gout")]
    others = [(f"C000001{number}", f"Other {number}") for number in range(3)]
    middle = [
        [("C0000001", "XR", "C0000002")],
        [("C0000001", "SIB", "C0000002")],
        [("C0000001", "AQ", "C0000010"), ("C0000010", "QB", "C0000002")],
        [("C0000010", "disease_excludes_finding", "C0000001"), ("C0000010", "has_finding", "C0000002")],
        [("C0000001", "is_not_finding_of_disease", "C0000002")],
        [("C0000001", "has_time_aspect", "C0000010"), ("C0000002", "has_time_aspect", "C0000010")],
        [("C0000001", "sib_in_isa", "C0000002")],
        [("C0000010", "has_member", "C0000001"), ("C0000002", "member_of", "C0000010")],
        [("C0000001", "co-occurs_with", "C0000002")],
        [("C0000001", "may_be_qualified_by", "C0000010"), ("C0000010", "may_qualify", "C0000002")],
        [("C0000001", "disease_has_no_finding", "C0000002")],
        [("C0000001", "ruled_out_by", "C0000002")],
        [("C0000001", "has_divisor", "C0000010"), ("C0000010", "divisor_of", "C0000002")],
    ]
    true = [("C0000001", "affects", "C0000011"), ("C0000011", "RO", "C0000012"), ("C0000012", "isa", "C0000002")]
    for number, relations in enumerate(middle):
        write_umls(tmp_path / str(number), ends + others, relations + true)
        main(["--umls_dir", str(tmp_path / str(number)), "--output_path", str(tmp_path / f"{number}-graph")])
        path = ["Insulin", "affects", "Other 1", "RO", "Other 2", "isa", "Gout"]
        assert Graph(tmp_path / f"{number}-graph").path("Insulin", "Gout") == path, relations


def test_a_rel_counts_although_its_row_has_a_rela(tmp_path: Path) -> None:
    write_umls(tmp_path, NAMES, [("C0000001", "has_finding", "C0000003")])
    path = tmp_path / "MRREL.RRF"
    path.write_text(path.read_text(encoding="utf-8").replace("|RO|", "|XR|"), encoding="utf-8")
    main(["--umls_dir", str(tmp_path), "--output_path", str(tmp_path / "graph")])
    assert Graph(tmp_path / "graph").path("DM", "Hyperglycemia") is None


def test_a_graph_without_relations_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_umls(tmp_path / "META", [("C0000001", "Asthma"), ("C0000002", "Wheeze")], [("C0000001", "XR", "C0000002")])
    main(["--umls_dir", str(tmp_path / "META"), "--output_path", str(tmp_path / "graph")])
    assert "warning: " in (err := capsys.readouterr().err) and "graph: no relations, so there are no paths." in err


@pytest.mark.parametrize(
    ("types", "passes"), [(["T079"], False), (["T201"], False), (["T047"], True), (["T080", "T047"], True), ([], True)]
)
def test_no_path_through_qualifying_semantic_types(tmp_path: Path, types: list[str], passes: bool) -> None:
    relations = [("C0000002", "affects", "C0000001"), ("C0000003", "affects", "C0000001")]
    write_umls(tmp_path, NAMES, relations)
    rows = [f"C0000001|{kind}|A|name|AT1||\n" for kind in types] + ["C0000002|T079|A|name|AT1||\n"]
    (tmp_path / "MRSTY.RRF").write_text("".join(rows), encoding="utf-8")
    main(["--umls_dir", str(tmp_path), "--output_path", str(tmp_path / "graph")])
    graph = Graph(tmp_path / "graph")
    assert (graph.path("Insulin", "Hyperglycemia") is not None) == passes
    assert graph.path("Insulin", "DM") and graph.path("DM", "Insulin"), "any concept can be an end"


def test_no_path_through_a_concept_that_too_many_share(tmp_path: Path) -> None:
    """2,001 tests share a concept; two of them are also linked by a longer path."""
    spokes = np.array([(0, number, 0) for number in range(1, 2002)])
    edges = np.vstack([spokes, [(1, 2002, 0), (2002, 2003, 0), (2003, 2, 0)]])
    graph = make_graph(tmp_path / "graph", 2004, edges, ["isa"])
    assert graph.shortest(1, 2) == [1, 2002, 2003, 2] and graph.shortest(1, 3) == [] and graph.shortest(1, 0) == [1, 0]
    assert Graph(graph.folder, SearchLimits(max_degree=2001)).shortest(1, 2) == [1, 0, 2]


def test_a_term_of_several_concepts_means_what_fits(tmp_path: Path) -> None:
    """A disorder rather than a temperature, whatever the CUIs; a drug where drugs are asked for; as written before all."""
    names = [("C0000001", "Cold Temperature"), ("C0000001", "Cold"), ("C0000002", "Common Cold"), ("C0000002", "Cold"),
             ("C0000003", "Lung Disease"), ("C0000003", "COLD"), ("C0000004", "Cold brand"), ("C0000004", "Cold"),
             ("C0000005", "Iron"), ("C0000006", "Iron measurement"), ("C0000006", "Iron")]  # fmt: skip
    write_umls(tmp_path, names, [("C0000005", "RO", "C0000006")])
    kinds = {"C0000001": "T070", "C0000002": "T047", "C0000003": "T047", "C0000004": "T121", "C0000005": "T121",
             "C0000006": "T059"}  # fmt: skip
    rows = "".join(f"{cui}|{kind}|A|name|AT1||\n" for cui, kind in kinds.items())
    (tmp_path / "MRSTY.RRF").write_text(rows, encoding="utf-8")
    main(["--umls_dir", str(tmp_path), "--output_path", str(tmp_path / "graph")])
    graph = Graph(tmp_path / "graph")

    def meant(term: str, vocabulary: str | None = None) -> str:
        return graph.name(graph.node_of_term(term, vocabulary))

    assert meant("cold") == meant("Cold") == meant("cold", DIAGNOSIS) == meant("cold", CHARTED_ITEM) == "Common Cold"
    assert meant("COLD") == meant("COLD", DIAGNOSIS) == "Lung Disease" and meant("cold", DRUG) == "Cold brand"
    assert meant("iron") == meant("iron", DRUG) == "Iron" and meant("iron", LAB_ITEM) == "Iron measurement"


@pytest.mark.skipif(not CASES.exists(), reason=f"no {CASES}")
def test_the_shared_umls_cases(tmp_path: Path) -> None:
    """No path goes through a qualifier, an exclusion, "not related" or a hub; malformed files are errors."""
    for script in ("make.py", "hub.py"):
        environment = os.environ | {"PYTHONPATH": str(CASES), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, CASES / script], cwd=tmp_path, env=environment, check=True)
    for name in ("latin1", "ncim", "cut", "spare"):
        with pytest.raises(UserError, match="expected"):
            main(["--umls_dir", str(tmp_path / name), "--output_path", str(tmp_path / f"{name}-graph")])
    graphs = {}
    for name in ("hub", "mesh", "rels", "crlf", "bom", "more", "ambig"):
        main(["--umls_dir", str(tmp_path / name), "--output_path", str(tmp_path / f"{name}-graph")])
        graphs[name] = Graph(tmp_path / f"{name}-graph")
    for name in ("rels", "crlf", "bom"):
        graph = graphs[name]
        for pair in ("Insulin Hyponatremia", "Gout Dyspepsia", "Dyspepsia Gout", "Allopurinol Dyspepsia"):
            assert graph.path(*pair.split()) is None
        assert graph.path("Gout", "Gastric carcinoma") is None
        assert graph.path("Gastric carcinoma", "Dyspepsia") == ["Gastric carcinoma", "disease_may_have_finding", "Dyspepsia"]
        assert graph.path("Allopurinol", "Gout") == ["Allopurinol", "may_treat", "Gout"]
    between = ["measures_disease", "Diabetes mellitus", "disease_may_have_finding", "Hyperglycemia"]
    assert graphs["hub"].path("Test 0", "Hyperglycemia") == ["Test 0", *between]
    assert graphs["hub"].path("Test 0", "Test 1") == ["Test 0", *between, "measured_by", "Test 1"]
    assert graphs["mesh"].path("Insulin", "Hyponatremia")[2] == "Osmolarity"
    assert graphs["more"].path("Current name", "Insulin")[1] == "inverse_isa"
    assert graphs["more"].node_of_term("Only suppressed") is None


def test_quickumls_without_lower_case_is_an_error(tmp_path: Path) -> None:
    for part in ("umls-simstring.db", "cui-semtypes.db"):
        (tmp_path / part).mkdir()
    with pytest.raises(UserError, match=r"expected a lower-cased QuickUMLS installation, .* quickumls\.install -L\.$"):
        check_quickumls(tmp_path)


def test_no_edges_and_no_terms(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph", 2, np.empty((0, 3), np.int64), [])
    assert graph.shortest(0, 1) == [] and graph.path("concept 0", "concept 1") is None


@given(st.lists(st.text("aAbB -,é", max_size=6), min_size=1, max_size=12))
def test_terms_by_a_naive_table(terms: list[str]) -> None:
    """As written first, then by what is simplify_term; of several the first."""
    hashes, nodes = term_table([(term, number) for number, term in enumerate(terms)])

    def found(term: str) -> int | None:
        at = np.searchsorted(hashes, np.uint64(term_hash(term)))
        return int(nodes[at]) if at < len(hashes) and hashes[at] == term_hash(term) else None

    for term in [*terms, *map(simplify_term, terms)]:
        alike = [simplify_term(other) for other in terms]
        assert found(term) == (terms.index(term) if term in terms else alike.index(term))
