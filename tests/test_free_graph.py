"""The free graph: vocabularies that need no licence, their links to PrimeKG, and what a path does not pass through."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import command
from tiny_primekg import statements, write_primekg

from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess.build_umls_graph import main
from thinking_graph_preprocess.code_maps import Disease, read_icd_map, read_labitem_map, read_loinc_map
from thinking_graph_preprocess.umls_graph import Graph, SearchLimits
from thinking_graph_preprocess.vocabularies import CHARTED_ITEM, DIAGNOSIS, DIAGNOSIS_CATEGORY, DRUG, LAB_ITEM

T2D = "Type 2 diabetes mellitus"
SSSOM = "subject_id\tpredicate_id\tobject_id\n"
FILES = {
    "index_mapping/hosp/d_icd_diagnoses.csv": "icd_code,icd_version,long_title\nI10,10,Essential (primary) hypertension\n"
        "401,9,Essential hypertension\n4019,9,\"Hypertension, NOS\"\n4011,9,\nR18,10,Ascites\nR188,10,Other ascites\n"
        "E1165,10,Type 2 diabetes mellitus with hyperglycemia\nE11,10,Type 2 diabetes mellitus\nJ189,10,\"Pneumonia, "
        "unspecified organism\"\nG4089,10,Other seizures\nT500,10,Poisoning\n"
    "K746,10,Other cirrhosis\nK7460,10,Unspecified cirrhosis\n41401,9,Coronary atherosclerosis\n",
    "index_mapping/hosp/d_ccs_diagnoses.csv": "icd_code,icd_version,long_title\nI10,10,Essential hypertension\n"
        "4019,9,Essential hypertension\n4011,9,\nR18,10,Other gastrointestinal disorders\n"
    "T500,10,Other gastrointestinal disorders\n",
    "index_mapping/hosp/d_labitems.csv": "itemid,label,fluid,category\n1,Glucose,Blood,Chemistry\n2,,Blood,Chemistry\n"
        "3,Sodium,Blood,Chemistry\n4,Albumin,Ascites,Chemistry\n5,Vancomycin,Blood,Chemistry\n6,Glucose,Urine,Chemistry\n"
        "7,Lipase,Ascites,Chemistry\n",
    "index_mapping/icu/d_items.csv": "itemid,label,linksto,category\n30,glucose,chartevents,Labs\n"
    "40,Arterial line,chartevents,\n"
        "50,Furosemide (Lasix),inputevents,Medications\n60,Potassium (serum),chartevents,Labs\n",
    "index_mapping/hosp/d_atc_prescriptions.csv": "ndc_code,atc_name\n00002143361,Insulins\n00002143362,Other antiseptics\n"
    "00002143363,Folic acid analogues\n00002143364,Glucagon-like peptide-1 (GLP-1) analogues\n00002143365,ferric gluconate\n",
    "mimiciv/hosp/prescriptions.csv": "subject_id,drug,ndc\n1,Insulin Glargine,2143361\n1,Aspirin,0\n1,Metoprolol Tartrate,\n"
        "1,Sodium Chloride 0.9%  Flush,\n1,Vancomycin,\n1,Iodine,2143362\n1,Betadine,2143362\n1,Sodium Phosphate,\n"
    "1,Otrexup,2143363\n1,Victoza,2143364\n1,Infed,2143365\n",
    "mimiciv/ed/medrecon.csv": "subject_id,name,ndc\n1,Lantus,00002143361\n1,Lantus,\n",
    "mimiciv/ed/diagnosis.csv": "subject_id,icd_code,icd_version,icd_title\n1,I10,10,HYPERTENSION UNSPEC\n1,I99,10,UNKNOWN\n",
}  # fmt: skip


def write_files(root: Path) -> Path:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def build(root: Path, name: str, *flags: object) -> Graph:
    main([*map(str, flags), "--root_dir", str(root), "--output_path", str(root / name)])
    return Graph(root / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("free"))


@pytest.fixture(scope="module")
def free(root: Path) -> Graph:
    return build(root, "graph", "--free")


@pytest.fixture(scope="module")
def linked(root: Path) -> Graph:
    flags = write_primekg(root / "kg", {"Glucose": "1", "Sodium": "3", "Lipase": "7", "Albumin": "4", "Creatinine": "99"})
    return build(root, "linked", "--free", *flags)


def test_a_graph_without_a_licence(synthetic_root: Path, tmp_path: Path) -> None:
    graph = build(synthetic_root, str(tmp_path / "free"), "--free")
    assert {"in_ccs_category", "in_atc_class", "has_category"} <= set(graph.relations)
    assert graph.path("Glucose", "Sodium") is None, "they share a category only"


def test_statements_of_the_free_graph(free: Graph) -> None:
    """Every kind of statement, by hand; a missing name is no concept."""
    assert free.path("hypertension unspec", "essential hypertension") == [
        "Essential (primary) hypertension", "in_ccs_category", "Essential hypertension", "ccs_category_of",
        "Hypertension, NOS", "isa", "Essential hypertension"]  # fmt: skip
    assert free.path("Lantus", "INSULIN GLARGINE") == [
        "Lantus",
        "in_atc_class",
        "Insulins",
        "atc_class_of",
        "Insulin Glargine",
    ]
    assert free.path("Glucose", "Blood (laboratory fluid)")[1] == "has_category"
    assert free.path("Labs (chart category)", "charted item: glucose")[1] == "category_of"
    names = [free.name(node) for node in range(len(free))]
    assert "Aspirin" in names and "" not in names and names.count("Glucose") == 1, "one label is one concept"


def test_a_name_in_several_vocabularies_is_several_concepts(free: Graph) -> None:
    """The fluid is not the diagnosis; without a vocabulary, a term means the diagnosis, the drug, then the item."""
    ascites = free.node_of_term("Ascites")
    assert ascites == free.node_of_term("Ascites", DIAGNOSIS) != free.node_of_term("Ascites (laboratory fluid)")
    assert free.path("Albumin", "Other ascites") is None and free.path("Other ascites", "Ascites")[1] == "isa"
    assert (
        free.node_of_term("Vancomycin") == free.node_of_term("vancomycin", DRUG) != free.node_of_term("Vancomycin", LAB_ITEM)
    )
    assert free.node_of_term("glucose") == free.node_of_term("Glucose", LAB_ITEM) != free.node_of_term("glucose", CHARTED_ITEM)
    assert free.node_of_term("Essential hypertension", DIAGNOSIS) != free.node_of_term(
        "Essential hypertension", DIAGNOSIS_CATEGORY
    )
    assert free.node_of_term("Insulin Glargine", LAB_ITEM) == free.node_of_term("Insulin Glargine"), "else any vocabulary"


def test_no_path_through_lists_and_leftovers(free: Graph) -> None:
    """Fluids and categories of items, and classes of whatever is left over, join nothing."""
    for pair in (
        ("Glucose", "Sodium"),
        ("charted item: glucose", "Potassium (serum)"),
        ("Ascites", "Poisoning"),
        ("Iodine", "Betadine"),
    ):
        assert free.path(*pair) is None
    assert free.path("Iodine", "Other antiseptics") and free.path("Ascites", "Other gastrointestinal disorders")


def test_no_path_through_a_class_that_too_many_share(tmp_path: Path) -> None:
    write_files(tmp_path)
    drugs = "".join(f"1,Insulin {number},2143361\n" for number in range(201))
    (tmp_path / "mimiciv/hosp/prescriptions.csv").write_text(f"subject_id,drug,ndc\n{drugs}", encoding="utf-8")
    graph = build(tmp_path, "graph", "--free")
    assert graph.path("Insulin 0", "Insulin 1") is None and graph.path("Insulin 0", "Insulins")
    assert len(Graph(graph.folder, SearchLimits(max_degree=300)).path("Insulin 0", "Insulin 1")) == 5


def test_relations_of_primekg_that_are_kept(linked: Graph) -> None:
    """Each in both directions; contraindications, absent phenotypes, interactions and genes are not part of the graph."""
    for path in (
        ["Furosemide", "has_indication", "heart failure"], ["Prednisone", "has_off_label_use", "pericarditis"],
        ["gout", "has_phenotype", "Hyperuricemia"], ["Warfarin", "has_side_effect", "Bruising"],
        ["Microcytosis", "parent_or_child_of", "Anemia"],
        ["pneumonia", "parent_or_child_of", "ventilator associated pneumonia"],
    ):  # fmt: skip
        assert linked.path(path[0], path[2]) == path
        inverse = {"has_indication": "indication_of", "has_off_label_use": "off_label_use_of", "has_phenotype": "phenotype_of",
                   "has_side_effect": "side_effect_of"}.get(path[1], path[1])  # fmt: skip
        assert linked.path(path[2], path[0]) == [path[2], inverse, path[0]]
    assert linked.node_of_term("ADRB1") is None
    for pair in (
        ("Metoprolol", "asthma"),
        ("gout", "Fever"),
        ("Warfarin", "Amiodarone"),
        ("Ibuprofen", "chronic kidney disease"),
    ):
        assert len(linked.path(*pair) or ()) != 3
    stated = {frozenset((source, target)) for relation, (_, source), (_, target) in statements() if "protein" not in relation}
    kept = {name for pair in stated for name in pair}
    assert all(linked.node_of_term(name) is not None for name in kept - {"Ibuprofen"})


def test_no_path_through_a_grouping_of_diseases(linked: Graph) -> None:
    assert linked.path("kidney disorder", "acute kidney injury")
    between = linked.path("sarcoidosis", "metabolic disease")
    assert between is None or "immune system disorder" not in between
    assert "Abnormality of blood chemistry" not in linked.path("Hypoglycemia", "Hyperglycemia")


@pytest.mark.parametrize(
    ("term", "path"),
    [
        ("Essential (primary) hypertension", ["same_as", "hypertension"]),
        ("HYPERTENSION UNSPEC", ["same_as", "hypertension"]),  # the emergency department's title of I10
        ("Hypertension, NOS", ["same_as", "hypertension"]),  # ICD-9
        ("Type 2 diabetes mellitus with hyperglycemia", ["isa", T2D, "same_as", T2D.casefold()]),
        ("Other seizures", ["isa", "epilepsy"]),  # G4089 by G40, which has no title here
        ("Unspecified cirrhosis", ["isa", "cirrhosis of liver"]),  # not through K746, "Other cirrhosis"
        ("Coronary atherosclerosis", ["same_as", "coronary artery disorder"]),
        ("Metoprolol Tartrate", ["has_ingredient", "Metoprolol"]),
        ("drug: Vancomycin", ["has_ingredient", "Vancomycin"]),
        ("Aspirin", ["has_ingredient", "Acetylsalicylic acid"]),
        ("Sodium Chloride 0.9% Flush", ["has_ingredient", "Sodium chloride"]),
        ("Furosemide (Lasix)", ["has_ingredient", "Furosemide"]),
        ("Glucose", ["has_abnormal_result", "Hyperglycemia"]),
        ("Lipase", ["has_abnormal_result", "Elevated lipase"]),
        ("Ascites", ["same_as", "Ascites"]),
    ],
)  # fmt: skip
def test_the_names_of_mimic_reach_primekg(linked: Graph, term: str, path: Sequence[str]) -> None:
    """By code, by a shorter code, by ingredient, by LOINC and HPO, by name."""
    (target,) = [node for node in range(len(linked)) if linked.name(node) == path[-1] and node_is_of_primekg(linked, node)]
    assert linked.path_of_nodes(linked.node_of_term(term), target)[1:] == path


def node_is_of_primekg(graph: Graph, node: int) -> bool:
    """Whether a node has a relation of PrimeKG that is not to one of the same name."""
    begin, end = graph._offsets[node : node + 2]
    relations = {graph.relations[label] for label in graph._labels[begin:end]}
    return not relations.isdisjoint({"indication_of", "has_indication", "phenotype_of", "has_phenotype"})


def test_a_drug_is_not_what_its_class_resembles(linked: Graph) -> None:
    """Methotrexate is a folic acid analogue, and no folic acid."""
    assert linked.path("Infed", "iron deficiency anemia")[1] == "has_ingredient"
    for pair in (("Otrexup", "Folic acid"), ("Victoza", "Glucagon")):
        assert None not in map(linked.node_of_term, pair) and linked.path(*pair) is None


def test_no_path_through_a_laboratory_test(linked: Graph) -> None:
    """It would join its low and its high results."""
    assert linked.path("Glucose", "Hypoglycemia") and linked.path("Glucose", "Hyperglycemia")
    path = linked.path("Hypoglycemia", "Hyperglycemia")
    assert path is None or "has_abnormal_result" not in path


def test_what_has_no_link(linked: Graph) -> None:
    """A salt alone is no ingredient, a charted item no drug, a normal result and a test of urine no finding."""
    for pair in (("Sodium Phosphate", "Sodium chloride"), ("Potassium (serum)", "Furosemide"), ("Glucose", "Seizure")):
        path = linked.path(*pair)
        assert path is None or len(path) > 3
    assert linked.path("Poisoning", "hypertension") is None


def test_the_coverage_of_each_vocabulary(linked: Graph, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coverage = read_json(linked.folder / "about.json")["coverage"]
    assert coverage["ICD-9 diagnoses"] == {"names": 3, "by code": 3, "by name": 0}
    assert coverage["ICD-10 diagnoses"] == {"names": 10, "by code": 7, "by name": 2}
    assert coverage["ICU inputs"] == {"names": 1, "by code": 0, "by name": 1}
    assert coverage["laboratory items"] == {"names": 5, "by code": 4, "by name": 0}
    build(root, "again", *write_primekg(root / "kg-again"))
    printed = capsys.readouterr().out
    assert re.search(r"ICD-9 diagnoses +3 +3 +0 +100.0%", printed) and re.search(r"laboratory items +5 +\d", printed)


def test_primekg_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without dictionaries of MIMIC-IV and maps there is PrimeKG itself, and a warning."""
    (tmp_path / "index_mapping").mkdir()
    write_primekg(tmp_path / "kg")
    graph = build(tmp_path, "graph", "--primekg", tmp_path / "kg/kg.csv")
    assert graph.path("Metformin", "Hyperglycemia") == [
        "Metformin", "has_indication", "type 2 diabetes mellitus", "has_phenotype", "Hyperglycemia"]  # fmt: skip
    assert "index_mapping: expected the dictionaries of MIMIC-IV, got no d_icd_diagnoses, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (SSSOM + "MONDO:0000005\tskos:exactMatch\tICD10CM:I10\n", {("I10", "10"): [Disease(5, "same_as")]}),
        ("#x\n" + SSSOM + "ICD9CM:401.9\tskos:broadMatch\tMONDO:0000005\n", {("4019", "9"): [Disease(5, "isa")]}),
        (SSSOM + "MONDO:0000005\tskos:broadMatch\tICD10CM:I10\n", {}),
        (SSSOM + "MONDO:0000005\tskos:exactMatch\tICD11:1A\n", {}),
        ("icd_code,icd_version,mondo_id\nI10,10,MONDO:0000005\n4019,9,MONDO:0000005\n",
         {("I10", "10"): [Disease(5, "same_as")], ("4019", "9"): [Disease(5, "same_as")]}),
        ("ICD10,MONDO\nE11.9,0000007\n", {("E119", "10"): [Disease(7, "same_as")]}),
        ("\ufeff#x\nicd,icd_version,mondo\n4019,9.0,7.0\n", {("4019", "9"): [Disease(7, "same_as")]}),
        ("icd,icd_version,mondo\nE11.9,ICD-10-CM,7\n", {("E119", "10"): [Disease(7, "same_as")]}),
        (SSSOM + "http://purl.obolibrary.org/obo/MONDO_0000005\texactMatch\thttp://hl7.org/fhir/sid/icd-10/I10\n"
         "MONDO:0000005\tskos:exactMatch\thttp://id.who.int/icd/entity/5\n", {("I10", "10"): [Disease(5, "same_as")]}),
    ],
)  # fmt: skip
def test_maps_of_icd_codes(tmp_path: Path, text: str, codes: dict[tuple[str, str], list[Disease]]) -> None:
    (tmp_path / "map").write_text(text, encoding="utf-8")
    assert read_icd_map(tmp_path / "map") == codes


def test_maps_of_laboratory_items(tmp_path: Path) -> None:
    write_primekg(tmp_path, {"Glucose": "50931"})
    terms = read_loinc_map(tmp_path / "loinc2hpo-annotations.tsv")
    assert len(terms["2345-7"]) == 2 and read_labitem_map(tmp_path / "d_labitems_to_loinc.csv")["50931"] == "2345-7"
    header = "subject_id,subject_label,predicate_id,object_id,object_label,mapping_justification,author_id"  # as SSSOM
    rows = ("50931,Glucose,skos:exactMatch,loinc:2345-7,,,", "50934,H,,,,,", "50800,Specimen,skos:relatedMatch,loinc:3-1,,,")
    (tmp_path / "sssom.csv").write_text("\n".join((header, *(f"mimic:{row}" for row in rows))), encoding="utf-8")
    assert read_labitem_map(tmp_path / "sssom.csv") == {"50931": "2345-7"}
    (tmp_path / "map.csv").write_text("loinc,hpo\n2345-7,HP:0003074\nLOINC:718-7,HP:0001903\n", encoding="utf-8")
    assert read_loinc_map(tmp_path / "map.csv") == {"2345-7": [3074], "718-7": [1903]}


def test_codes_and_names_that_other_programs_have_written(root: Path, tmp_path: Path, linked: Graph) -> None:
    """Whole numbers as 5.0, and MONDO's mark of names that phenotypes have too, link the same."""
    flags = write_primekg(tmp_path, {"Glucose": "1", "Sodium": "3", "Lipase": "7", "Albumin": "4", "Creatinine": "99"})
    text = (tmp_path / "kg.csv").read_text(encoding="utf-8")
    text = re.sub(r",disease,([^,]*),", r",disease,\1 (disease),", re.sub(r",(\d+),(disease|effect)", r",\1.0,\2", text))
    (tmp_path / "kg.csv").write_text(text, encoding="utf-8")
    graph = build(root, str(tmp_path / "graph"), *flags)
    assert read_json(graph.folder / "about.json")["coverage"] == read_json(linked.folder / "about.json")["coverage"]
    assert graph.path("Metoprolol", "Hypertension, NOS")[2] == "hypertension (disease)"


def test_a_relation_without_rows_is_reported(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_primekg(tmp_path)
    text = (tmp_path / "kg.csv").read_text(encoding="utf-8")
    (tmp_path / "kg.csv").write_text(text.replace("\nindication,", "\nIndication,"), encoding="utf-8")
    build(root, str(tmp_path / "graph"), "--primekg", tmp_path / "kg.csv")
    assert "kg.csv: no rows with the relation indication. If" in capsys.readouterr().err


def drop_column(text: str) -> str:
    return text.replace("x_type", "kind", 1)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("kg.csv", drop_column, r"kg\.csv: expected a CSV with columns relation, x_id"),
        ("kg.csv", lambda text: text.splitlines()[0], "expected relations such as indication"),
        ("mondo.sssom.tsv", lambda text: text.replace("subject_id", "a"), "expected columns icd and mondo"),
        ("loinc2hpo-annotations.tsv", lambda text: text.replace("hpoTermId", "term"), "expected columns loinc and hpo"),
        ("d_labitems_to_loinc.csv", lambda text: "", "expected columns itemid and loinc, or .*, got an empty file"),
        (
            "mondo.sssom.tsv",
            lambda text: text.replace("ICD", "DOID"),
            r"mondo\.sssom\.tsv: expected a map with codes, got none",
        ),
        ("loinc2hpo-annotations.tsv", lambda text: text.replace("\tH\t", "\tN\t").replace("\tL\t", "\tN\t"), "got none that"),
    ],
)
def test_malformed_files_are_errors(root: Path, tmp_path: Path, file: str, change: Callable[[str], str], message: str) -> None:
    flags = write_primekg(tmp_path)
    path = tmp_path / file
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        build(root, str(tmp_path / "graph"), *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --umls_dir, or --free, --primekg or --hetionet, got none"),
        (["--free", "--umls_dir", "META"], "got both"),
        (["--free", "--icd_map", "map.csv"], "--icd_map: expected --primekg or --hetionet with it"),
        (["--primekg", "."], "expected the file of --primekg, got a directory"),
        (["--primekg", "none.csv"], "none.csv: expected the file of --primekg"),
    ],
)
def test_flags_that_do_not_belong_together(root: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(root, "refused", *flags)


def test_a_malformed_dictionary_is_an_error(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "index_mapping/hosp/d_labitems.csv").write_text("itemid,name\n1,Glucose\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"d_labitems\.csv: .* a CSV with columns itemid, label"):
        build(tmp_path, "graph", "--free")


def test_the_command_prints_a_path(linked: Graph) -> None:
    done = command(
        "thinking_graph_preprocess/umls_graph.py", "--graph", linked.folder, "Metoprolol Tartrate", "HYPERTENSION UNSPEC"
    )
    assert json.loads(done.stdout)[2:5] == ["Metoprolol", "has_indication", "hypertension"]
