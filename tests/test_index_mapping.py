"""Dictionaries copied and code maps built from tiny files in the formats of AHRQ's CCS and NLM's RxNorm."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiciv_dataset.lookups import Lookups
from pipeline.errors import UserError
from preprocess.atc import ndc11
from preprocess.build_index_mapping import count_codes, main
from preprocess.ccs import split_ccs_line

DX9 = """NOTE: New codes are marked (effective October 1, 2014)
'ICD-9-CM CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION','ICD-9-CM CODE DESCRIPTION','OPTIONAL CCS CATEGORY','OPTIONAL CCS CATEGORY DESCRIPTION'
'     ','0    ','No DX','INVALID CODES IN USER DATA',' ',' '
'01000','1    ','Tuberculosis','PRIM TB COMPLEX-UNSPEC',' ',' '
'4019 ','98   ','HTN','HYPERTENSION NOS',' ',' '
'7999 ','259  ','Unclassified','UNKN CAUSE MORB, MORT NEC',' ',' '
"""  # noqa: E501
DX10 = """'ICD-10-CM CODE','CCS CATEGORY','ICD-10-CM CODE DESCRIPTION','CCS CATEGORY DESCRIPTION','MULTI CCS LVL 1','MULTI CCS LVL 1 LABEL','MULTI CCS LVL 2','MULTI CCS LVL 2 LABEL'
'A1801','1','Tuberculosis of spine','Tuberculosis','1','Infectious and parasitic diseases','1.1','Bacterial infection'
'I10','98','Essential (primary) hypertension','Essential hypertension','7','Diseases of the circulatory system','7.1','Hypertension [98. and 99.]'
'K5000','144','Crohn's disease of small intestine, without complications','Regional enteritis and ulcerative colitis','9','x','9.1','y'
"""  # noqa: E501
PR9 = """CCS for procedures, 2015 version

'ICD-9-CM CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION','ICD-9-CM CODE DESCRIPTION'
'3893','54','Ot vas cath','VENOUS CATH NEC'
"""
PR10 = """'ICD-10-PCS CODE','CCS CATEGORY','ICD-10-PCS CODE DESCRIPTION','CCS CATEGORY DESCRIPTION','MULTI CCS LVL 1'
'02HV33Z','54','Insertion of Infusion Dev into Sup Vena Cava, Perc','Other vascular catheterization; not heart','7'
"""
CONSO = {  # RXCUI, SAB, TTY, CODE, STR
    ("1191", "RXNORM", "IN", "1191", "aspirin"), ("1191", "ATC", "IN", "N02BA01", "acetylsalicylic acid"),
    ("1191", "ATC", "IN", "A01AD05", "acetylsalicylic acid"),
    ("90001", "ATC", "PT", "N02BA", "Salicylic acid and derivatives"),
    ("90002", "ATC", "PT", "A01AD", "Other agents for local oral treatment"),
    ("90002", "ATC", "RXN_PT", "A01AD", "Aaa name by RxNorm"),
    ("161", "RXNORM", "IN", "161", "acetaminophen"), ("161", "ATC", "IN", "N02BE01", "paracetamol"),
    ("90003", "ATC", "PT", "N02BE", "Anilides"), ("7804", "RXNORM", "IN", "7804", "oxycodone"),
    ("7804", "ATC", "IN", "N02AA05", "oxycodone"), ("90004", "ATC", "PT", "N02AA", "Natural opium alkaloids"),
    ("214183", "RXNORM", "MIN", "214183", "acetaminophen / oxycodone"),
    ("214183", "ATC", "IN", "N02AJ17", "oxycodone and paracetamol"),
    ("90005", "ATC", "PT", "N02AJ", "Opioids in combination with non-opioid analgesics"),
    ("202433", "RXNORM", "BN", "202433", "Tylenol"), ("500", "RXNORM", "SCDC", "500", "aspirin 81 MG"),
    ("501", "RXNORM", "SCD", "501", "aspirin 81 MG Oral Tablet"), ("502", "RXNORM", "SBD", "502", "[Ecotrin]"),
    ("503", "RXNORM", "SCD", "503", "acetaminophen 325 MG / oxycodone 5 MG"), ("504", "RXNORM", "GPCK", "504", "pack"),
    ("505", "RXNORM", "SBD", "505", "water [Tylenol]"),
}  # fmt: skip
REL = [  # second RELA first
    ("500", "501", "consists_of"), ("501", "500", "constitutes"), ("1191", "500", "has_ingredient"),
    ("500", "1191", "ingredient_of"), ("501", "502", "tradename_of"), ("502", "501", "has_tradename"),
    ("214183", "503", "has_ingredients"), ("161", "503", "has_ingredient"), ("7804", "503", "has_ingredient"),
    ("161", "214183", "has_part"), ("501", "504", "contains"), ("202433", "505", "has_ingredient"),
    ("161", "202433", "tradename_of"),
]  # fmt: skip
SAT = [  # RXCUI, ATN, SAB, ATV
    ("501", "NDC", "RXNORM", "00002143361"), ("502", "NDC", "MTHSPL", "0002-1434-61"),
    ("503", "NDC", "RXNORM", "00406051201"), ("504", "NDC", "VANDF", "000555123456"),
    ("505", "NDC", "RXNORM", "00450444901"), ("503", "NDC", "MTHSPL", "0002-1433-61"),
    ("501", "RXN_STRENGTH", "RXNORM", "81"), ("501", "NDC", "GS", "not a code"),
]  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "sources")


def write_sources(folder: Path) -> Path:
    """The four files of CCS and the three of RxNorm."""
    folder.mkdir(parents=True)
    for name, text in (("$dxref 2015.csv", DX9), ("dx10.csv", DX10), ("$prref 2015.csv", PR9), ("pr10.csv", PR10)):
        (folder / name).write_text(text)
    blank = [""] * 18

    def rrf(name: str, width: int, columns: tuple[int, ...], rows: object) -> None:
        lines = []
        for row in rows:
            fields = blank[:width]
            for column, value in zip(columns, row, strict=True):
                fields[column] = value
            lines.append("|".join(fields) + "|\n")
        (folder / name).write_text("".join(lines))

    rrf("RXNCONSO.RRF", 18, (0, 11, 12, 13, 14), sorted(CONSO))
    rrf("RXNREL.RRF", 16, (0, 4, 7, 10), [(*row, "RXNORM") for row in REL])
    rrf("RXNSAT.RRF", 13, (0, 8, 9, 10), SAT)
    return folder


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """A MIMIC-IV directory with dictionaries and coded tables; one of them gzipped, no ED, no notes."""
    root = tmp_path / "mimiciv"
    (root / "hosp").mkdir(parents=True)
    (root / "icu").mkdir()
    (root / "hosp/d_labitems.csv").write_text('itemid,label\n50931,"Glucose, ""serum"""\n')
    with gzip.open(root / "icu/d_items.csv.gz", "wt") as file:
        file.write("itemid,label\n220045,Heart Rate\n")
    (root / "hosp/diagnoses_icd.csv").write_text(
        "subject_id,icd_code,icd_version\n1,4019,9\n1,4019,9\n1,I10,10\n1,Z99,10\n1,,\n"
    )
    with gzip.open(root / "hosp/prescriptions.csv.gz", "wt") as file:
        file.write("subject_id,ndc\n1,00002143361\n1,2143461.0\n1,0\n1,\n1,99999999999\n")
    return root


def build(mimic: Path, output: Path, *flags: object) -> None:
    main(["--mimic_dir", str(mimic), "--output_path", str(output), *map(str, flags)])


def all_sources(folder: Path) -> list[object]:
    return ["--ccs_dx9", folder / "$dxref 2015.csv", "--ccs_dx10", folder / "dx10.csv", "--ccs_pr9",
            folder / "$prref 2015.csv", "--ccs_pr10", folder / "pr10.csv", "--rxnorm_dir", folder]  # fmt: skip


def rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_maps(mimic: Path, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "index_mapping"
    build(mimic, output, *all_sources(sources))
    assert rows(output / "hosp/d_ccs_diagnoses.csv") == [
        ("icd_code", "icd_version", "long_title"),
        ("01000", "9", "Tuberculosis"),
        ("4019", "9", "Essential hypertension"),
        ("7999", "9", "Unclassified"),
        ("A1801", "10", "Tuberculosis"),
        ("I10", "10", "Essential hypertension"),
        ("K5000", "10", "Regional enteritis and ulcerative colitis"),
    ]
    assert rows(output / "hosp/d_ccs_procedures.csv")[1:] == [
        ("3893", "9", "Other vascular catheterization; not heart"),
        ("02HV33Z", "10", "Other vascular catheterization; not heart"),
    ]
    assert rows(output / "hosp/d_atc_prescriptions.csv") == [
        ("ndc_code", "atc_name"),
        ("00002143361", "Other agents for local oral treatment"),  # RxNorm's own NDC goes before another source's
        ("00002143461", "Other agents for local oral treatment"),  # branded drug, dashed NDC of another source
        ("00406051201", "Opioids in combination with non-opioid analgesics"),  # the combination, not its parts
        ("00555123456", "Other agents for local oral treatment"),  # a pack; the VA's 12 digits
    ]  # and none for 00450444901, whose brand covers other products too
    recorded = json.loads((output / "sources.json").read_text())
    digest = hashlib.sha256((sources / "RXNSAT.RRF").read_bytes()).hexdigest()
    assert {"file": "RXNSAT.RRF", "bytes": (sources / "RXNSAT.RRF").stat().st_size, "sha256": digest} in recorded[
        "d_atc_prescriptions"
    ]
    printed = capsys.readouterr().out
    lines = {tuple(line.split()[:2]): line for line in printed.splitlines() if "/" in line}
    assert "2 / 3 (66.7%)" in lines["hosp/diagnoses_icd", "d_ccs_diagnoses"]
    assert "3 / 4 (75.0%)" in lines["hosp/diagnoses_icd", "d_ccs_diagnoses"]
    assert lines["hosp/prescriptions", "d_atc_prescriptions"].count("2 / 3 (66.7%)") == 2
    assert "no table" in lines["ed/diagnosis", "d_ccs_diagnoses"]
    # What the rest of the project reads:
    lookups = Lookups(output)
    assert lookups.dictionary("d_ccs_diagnoses")["4019", "9"] == "Essential hypertension"
    assert lookups.dictionary("d_labitems")["50931"] == 'Glucose, "serum"'


def test_without_sources(mimic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(mimic, tmp_path / "out")
    printed = capsys.readouterr().out
    assert re.search("d_ccs_diagnoses.csv .*: diagnoses_ccs, diagnosis_ccs.*--maps_from", printed)
    assert re.search("d_atc_prescriptions.csv .*: prescriptions_atc", printed)
    assert re.search("radiology_detail.csv .*: radiology.*note/", printed)
    assert (tmp_path / "out/hosp/d_labitems.csv").read_bytes() == (mimic / "hosp/d_labitems.csv").read_bytes()
    assert (tmp_path / "out/icu/d_items.csv.gz").exists()
    assert set(json.loads((tmp_path / "out/sources.json").read_text())) >= {"d_labitems", "d_items"}


def test_maps_are_kept_and_replaced(mimic: Path, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready, output = tmp_path / "ready/hosp", tmp_path / "out"
    ready.mkdir(parents=True)
    with gzip.open(ready / "d_ccs_diagnoses.csv.gz", "wt") as file:
        file.write("icd_code,icd_version,long_title\nI10,10,Mine\n")
    build(mimic, output, "--maps_from", ready.parent)
    before = {path: path.stat() for path in output.rglob("*.*")}
    build(mimic, output)
    assert {path: path.stat() for path in output.rglob("*.*")} == before and "up to date" in capsys.readouterr().out
    assert Lookups(output).dictionary("d_ccs_diagnoses") == {("I10", "10"): "Mine"}
    flags = all_sources(sources)
    with pytest.raises(UserError, match="other versions of d_ccs_diagnoses.csv.gz.*--overwrite"):
        build(mimic, output, *flags[:4])
    assert {path: path.stat() for path in output.rglob("*.*")} == before
    build(mimic, output, *flags[:4], "--overwrite")
    assert not (output / "hosp/d_ccs_diagnoses.csv.gz").exists()
    assert Lookups(output).dictionary("d_ccs_diagnoses")["I10", "10"] == "Essential hypertension"
    build(mimic, output, *flags[-2:])
    assert set(json.loads((output / "sources.json").read_text())) >= {"d_atc_prescriptions", "d_ccs_diagnoses", "d_labitems"}
    with pytest.raises(UserError, match="d_ccs_diagnoses, d_ccs_procedures, d_atc_prescriptions.*--maps_from"):
        build(mimic, output, "--maps_from", sources)


def test_same_input_same_bytes(mimic: Path, sources: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(mimic, tmp_path / name, *all_sources(sources))
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_wrong_sources(mimic: Path, sources: Path, tmp_path: Path) -> None:
    dx9, dx10 = all_sources(sources)[1], all_sources(sources)[3]

    def fails(message: str, *flags: object) -> None:
        with pytest.raises(UserError, match=message):
            build(mimic, tmp_path / "out", *flags)

    fails("--ccs_dx9, --ccs_dx10: expected both", "--ccs_dx9", dx9)
    fails("column ICD-10-... CODE, got ICD-9-CM CODE, .*swapped", "--ccs_dx9", dx10, "--ccs_dx10", dx9)
    fails("nothing.csv: expected AHRQ", "--ccs_dx9", tmp_path / "nothing.csv", "--ccs_dx10", dx10)
    ccsr = sources / "DXCCSR.csv"
    ccsr.write_text("'ICD-10-CM CODE','ICD-10-CM CODE DESCRIPTION','Default CCSR CATEGORY IP'\n")
    fails("got CCSR", "--ccs_dx9", dx9, "--ccs_dx10", ccsr)
    conso = (sources / "RXNCONSO.RRF").read_text()
    (sources / "RXNCONSO.RRF").write_text("\n".join(line for line in conso.splitlines() if "|ATC|" not in line))
    fails("RXNCONSO.RRF: expected ATC", "--rxnorm_dir", sources)
    (sources / "RXNCONSO.RRF").write_text("a|b|\n")
    fails("RXNCONSO.RRF, line 1: .*15 columns", "--rxnorm_dir", sources)
    fails("RXNCONSO.RRF: expected an RxNorm file", "--rxnorm_dir", tmp_path)
    with pytest.raises(UserError, match="expected raw MIMIC-IV"):
        build(tmp_path / "no", tmp_path / "out")
    with pytest.raises(UserError, match="dictionaries of MIMIC-IV"):
        build(sources, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hosp/d_labitems", "", "expected a CSV with columns itemid, label, got Empty CSV file"),
        ("hosp/d_labitems", "itemid,label\n", "expected rows, got a header only"),
        (
            "hosp/d_labitems",
            "itemid,label\nSECRET,Glucose\n",
            "row 1, column itemid: expected a whole number, got another text",
        ),
        ("hosp/d_icd_diagnoses", "icd_code,long_title\n4019,x\n", "got no column icd_version"),
        ("note/radiology_detail", "", "expected a header line, got an empty file"),
    ],
)
def test_a_bad_dictionary_is_refused_where_it_is(mimic: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    path = mimic / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UserError) as error:
        build(mimic, tmp_path / "out")
    assert str(error.value).startswith(str(path)) and message in str(error.value) and "SECRET" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_broken_raw_table(mimic: Path, tmp_path: Path) -> None:
    (mimic / "hosp/diagnoses_icd.csv").write_text("subject_id,code\n1,2\n")
    with pytest.raises(UserError, match=r"diagnoses_icd\.csv.*columns icd_code, icd_version, got a first row of 2 cells"):
        count_codes(mimic / "hosp/diagnoses_icd.csv", ("icd_code", "icd_version"))
    (mimic / "hosp/diagnoses_icd.csv").write_text("icd_code,icd_version\n1,2\nSECRET\n")
    with pytest.raises(UserError, match=r"diagnoses_icd.* 2 fields in every row, got 1") as error:
        count_codes(mimic / "hosp/diagnoses_icd.csv", ("icd_code", "icd_version"))
    assert "SECRET" not in str(error.value)


@given(st.integers(0, 99999), st.integers(0, 9999), st.integers(0, 99))
def test_ndc_forms_agree(labeler: int, product: int, package: int) -> None:
    """However a code is written, it becomes the same 11 digits."""
    full = f"{labeler:05}{product:04}{package:02}"
    forms = [full, f"{labeler:05}-{product:04}-{package:02}", f"0{full}", f"{labeler:06}-{product:04}-{package:02}"]
    forms += [f"{labeler:04}-{product:04}-{package:02}"] if labeler < 10_000 else []
    forms += [f"{labeler:05}-{product:03}-{package:02}"] if product < 1_000 else []
    forms += [f"{labeler:05}-{product:04}-{package}"] if package < 10 else []
    assert {ndc11(form) for form in forms} == {full}


quiet = st.text(st.characters(codec="ascii", exclude_characters="'\"\r\n", categories=("L", "N", "P", "Zs")), max_size=12)


@given(st.lists(quiet.map(str.strip), min_size=1, max_size=6))
def test_ccs_lines(fields: list[str]) -> None:
    for quote in "'\"":
        assert split_ccs_line(",".join(f"{quote}{field}  {quote}" for field in fields)) == fields


def test_on_the_demo(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(test_data / "data/mimic-iv-demo", tmp_path, "--maps_from", test_data / "data/index_mapping")
    assert "3 of 3 code maps" in capsys.readouterr().out
    assert Lookups(tmp_path).missing_files() == []


def test_the_same_maps_from_elsewhere_change_nothing(mimic: Path, sources: Path, tmp_path: Path) -> None:
    """Not even the record of their sources, which is part of what an index was made with."""
    build(mimic, tmp_path / "maps", *all_sources(sources))
    before = {path: path.read_bytes() for path in (tmp_path / "maps").rglob("*") if path.is_file()}
    shutil.copytree(tmp_path / "maps", tmp_path / "copy")
    for flags in (all_sources(sources), ["--maps_from", tmp_path / "copy"], []):
        build(mimic, tmp_path / "maps", *flags)
    assert {path: path.read_bytes() for path in (tmp_path / "maps").rglob("*") if path.is_file()} == before
