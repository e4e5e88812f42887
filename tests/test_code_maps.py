"""Code maps and kg.csv as people have them: gzipped, saved by spreadsheets, with other separators, cut off."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from test_free_graph import FILES, build, write_files
from tiny_primekg import write_primekg
from tiny_umls import write_umls

from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess.code_maps import Disease, read_icd_map, read_labitem_map, read_loinc_map
from thinking_graph_preprocess.umls_graph import Graph

TABLE = 'icd_code,icd_version,mondo_id,label\nI10,10,MONDO:0000005,"Hypertension, essential"\n401.9,9,MONDO:0000005,x\n'
CODES = {("I10", "10"): [Disease(5, "same_as")], ("4019", "9"): [Disease(5, "same_as")]}
ITEMS = {"Glucose": "1", "Sodium": "3", "Lipase": "7", "Albumin": "4", "Creatinine": "99"}
Change = Callable[[str], bytes]


def separated(separator: str) -> Change:
    return lambda text: text.replace("Hypertension, essential", "Hypertension").replace(",", separator).encode()


@pytest.mark.parametrize(
    "change",
    [
        str.encode,
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text[:40].encode()) + gzip.compress(text[40:].encode()),
        lambda text: ("\ufeff" + text).encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: ("# a comment\n# another\n" + text).encode(),
        separated(";"),
        separated("\t"),
        separated("|"),
        lambda text: b"sep=;\n" + separated(";")(text),
        lambda text: '"{}"'.format(separated('"\t"')(text).decode().strip().replace("\n", '"\n"')).encode(),
        lambda text: text.replace(",label", ",label,,").encode(),  # cells left out at the end of rows
        lambda text: text.replace("\n", ",,\n").replace("label,,", "label").encode(),  # more cells, all empty
        lambda text: text.strip().encode(),
        lambda text: (text + "\n,,,\n").encode(),
    ],
)
def test_a_map_in_any_dress_is_read(tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "map").write_bytes(change(TABLE))
    assert read_icd_map(tmp_path / "map") == CODES
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.encode("utf-16"), "expected a text file, gzipped or not, got text in UTF-16. Save it as CSV UTF-8"),
        (lambda text: text.replace("x", "M\xe9").encode("latin-1"), "expected text in UTF-8, got other bytes"),
        (lambda text: b"PK\x03\x04" + text.encode(), "got a zip archive or a workbook"),
        (lambda text: b"<!DOCTYPE html>" + text.encode(), "got a web page"),
        (lambda text: gzip.compress(text.encode())[:-12], "expected gzip data, got truncated or damaged ones"),
        (lambda text: text[:-20].encode(), "line 3: expected 4 columns, got 1. The file is cut off: download it again"),
        (lambda text: text.replace(",x", ",x,y").encode(), "line 3: expected 4 columns, got 5. Fix the line"),
        (lambda text: text.replace('essential"', "essential").encode(), "expected cells in closed quotation marks"),
        (lambda text: text.replace("mondo_id", "disease").encode(), "expected columns icd and mondo"),
        (lambda text: b"", "expected columns icd and mondo.* got an empty file"),
    ],
)
def test_a_map_that_cannot_be_read_says_why(tmp_path: Path, change: Change, message: str) -> None:
    (tmp_path / "map.csv").write_bytes(change(TABLE))
    with pytest.raises(UserError, match=f"map.csv.*{message}"):
        read_icd_map(tmp_path / "map.csv")


@pytest.mark.parametrize(
    ("rows", "codes"),
    [
        ("4.9,9,1\n38,9,2\n", {"0049": 1, "038": 2}),  # dots: three digits before them
        ("49,9,1\n4019,9,2\n389,9,3\n", {"0049": 1, "4019": 2}),  # no dots: 389 is 038.9 or 389
        ("389,9,3\n4019,9,2\n", {"389": 3, "4019": 2}),  # nothing lacks zeros
        ("4019.0,9,2\n250.0,9,3\n", {"4019": 2, "250": 3}),  # whole numbers with a decimal
        ("V10.1,9,1\nE880,9,2\n042,9,3\n", {"V101": 1, "E880": 2, "042": 3}),
    ],
)
def test_icd9_codes_without_zeros_or_dots(tmp_path: Path, rows: str, codes: dict[str, int]) -> None:
    (tmp_path / "map").write_text(f"icd_code,icd_version,mondo\n{rows}", encoding="utf-8")
    known = ["0049", "0389", "3890", "4019", "25000"]
    assert read_icd_map(tmp_path / "map", known) == {(code, "9"): [Disease(at, "same_as")] for code, at in codes.items()}


def test_what_a_map_lacks_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a code, codes of two columns or several in a cell; other vocabularies and normal results are no loss."""
    path = tmp_path / "map"
    path.write_text("mondo,icd10cm_code,icd9cm_code\n5,I10|I11,401.9\n6,,\n,I12,4\n", encoding="utf-8")
    assert set(read_icd_map(path)) == {("I10", "10"), ("I11", "10"), ("4019", "9")}
    assert "map: expected rows with an ICD and a MONDO code, got 2 of 3 without, left out." in capsys.readouterr().err
    rows = ("exactMatch\tDOID:7", "exactMatch\tICD10CM:I10", "relatedMatch\tICD10CM:I11")
    lines = ("subject_id\tpredicate_id\tobject_id", *(f"MONDO:5\tskos:{row}" for row in rows))
    path.write_text("\n".join(lines), encoding="utf-8")
    assert set(read_icd_map(path)) == {("I10", "10")} and not capsys.readouterr().err
    path.write_text("loinc;hpo;outcome\n2345-7;HP:0003074;H\nMay-88;HP:1;H\n718-7;HP:2;N\n", encoding="utf-8")
    assert read_loinc_map(path) == {"2345-7": [3074]}
    assert "a LOINC and an HPO code, got 1 of 3 without" in capsys.readouterr().err
    path.write_text("itemid;loinc\n50931.0;2345-7\n50932;\n", encoding="utf-8")
    assert read_labitem_map(path) == {"50931": "2345-7"}
    assert "an item and a LOINC code, got 1 of 2 without" in capsys.readouterr().err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_files(tmp_path)


def test_gzipped_files_make_the_same_graph(root: Path) -> None:
    flags = write_primekg(root / "kg", ITEMS)
    plain = build(root, "plain", *flags)
    for path in (root / "kg").iterdir():
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = build(root, "packed", *(f"{flag}.gz" if flag.startswith("/") else flag for flag in flags))
    assert read_json(plain.folder / "about.json") == read_json(packed.folder / "about.json")


def test_umls_files_can_be_gzipped(tmp_path: Path) -> None:
    names, relations = [("C0000001", "Gout"), ("C0000002", "Urate")], [("C0000002", "affects", "C0000001")]
    folder = write_umls(tmp_path / "META", names, relations)
    for path in list(folder.iterdir()):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    graph = build(tmp_path, "graph", "--umls_dir", folder)
    assert graph.path("Urate", "Gout") == ["Urate", "affects", "Gout"]
    (folder / "MRREL.RRF.gz").write_bytes((folder / "MRREL.RRF.gz").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"MRREL\.RRF\.gz: expected"):
        build(tmp_path, "cut", "--umls_dir", folder)


def test_statements_without_a_name_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_primekg(root / "kg")
    path = root / "kg/kg.csv"
    text = path.read_text(encoding="utf-8").replace(",drug,Riluzole,", ",drug,,")
    path.write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    graph = build(root, "graph", "--primekg", path)
    assert "code and name of both ends of each statement, got 2 without, which are left out" in capsys.readouterr().err
    assert graph.path("Metformin", "Hyperglycemia") and graph.node_of_term("Riluzole") is None


@pytest.mark.parametrize("packed", [False, True])
def test_kg_csv_that_is_cut_off_is_an_error(root: Path, packed: bool) -> None:
    write_primekg(root / "kg")
    path = root / "kg/kg.csv"
    data = path.read_bytes()
    lines = data.count(b"\n")
    if packed:
        path = root / "kg/kg.csv.gz"
        path.write_bytes(gzip.compress(data)[:-100])
    else:
        path.write_bytes(data[:-20])
    message = "expected gzip data, got truncated" if packed else rf"line {lines:,}: expected 12 columns, got \d+"
    with pytest.raises(UserError, match=rf"kg\.csv.*{message}"):
        build(root, "graph", "--primekg", path)


def test_a_spreadsheet_of_icd9_codes_reaches_the_diagnoses(tmp_path: Path) -> None:
    """A map of all codes whose leading zeros are lost links tuberculosis, and not what is written like it."""
    write_files(tmp_path)
    title = FILES["index_mapping/hosp/d_icd_diagnoses.csv"]
    codes = title + "01190,9,Pulmonary tuberculosis\n0389,9,Septicemia\n3899,9,Hearing loss\n"
    (tmp_path / "index_mapping/hosp/d_icd_diagnoses.csv").write_text(codes, encoding="utf-8")
    write_primekg(tmp_path / "kg")
    number = {row.split(",")[5]: row.split(",")[3] for row in (tmp_path / "kg/kg.csv").read_text().splitlines()}
    rows = "".join(f"{icd};{number[name]}\n" for icd, name in (("11", "pneumonia"), ("389", "sepsis"), ("4019", "gout")))
    (tmp_path / "map.csv").write_text("icd9;mondo\n" + rows, encoding="utf-8")
    graph: Graph = build(tmp_path, "graph", "--primekg", tmp_path / "kg/kg.csv", "--icd_map", tmp_path / "map.csv")
    assert graph.path("Pulmonary tuberculosis", "pneumonia")[1] == "isa"
    assert graph.path("Hearing loss", "sepsis") is None and graph.path("Hypertension, NOS", "gout")[1] == "same_as"
