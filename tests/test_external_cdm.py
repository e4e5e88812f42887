"""MIMIC-IV-Ext-CDM's pickles and CSVs → samples → test.py → scores, on made-up admissions; and pickles with code."""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from forked import command
from hypothesis import given
from hypothesis import strategies as st

from evaluation.external.cdm import _ANSWERS, PATHOLOGIES, blanked, main
from pipeline.errors import UserError
from pipeline.files import read_json

ADMISSIONS = {20000000 + i: PATHOLOGIES[i % 4] for i in range(8)}


def admission(pathology: str) -> dict[str, Any]:
    """An admission by the keys of the pickles."""
    return {
        "Patient History": f"Pain since yesterday, sent for ____. No prior {PATHOLOGIES[0]}.",
        "Physical Examination": "Abd: tender\n\nExt: warm",
        "Laboratory Tests": {50861: "18.0 IU/L", 51301: "17.6 K/uL"},
        "Reference Range Lower": {50861: float("nan"), 51301: 4.5},
        "Reference Range Upper": {50861: float("nan"), 51301: 11.0},
        "Microbiology": {90201: "No growth."},
        "Microbiology Spec": {90201: 70012},
        "Radiology": [
            {"Note ID": "1-RR-1", "Modality": "CT", "Region": "Abdomen", "Exam Name": "CT ABD",
             "Report": f"Findings suggest {pathology.title()}."},
        ],
        "Discharge Diagnosis": f"Primary: acute {pathology}, shock",
        "ICD Diagnosis": [f"Acute {pathology}", "Essential hypertension", f"Acute {pathology}"],
        "Procedures Discharge": ["laparoscopic removal"],
        "Procedures ICD9 Title": ["Laparoscopic removal"],
    }  # fmt: skip


def write_csv(path: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def lab_names(root: Path) -> None:
    write_csv(root / "lab_test_mapping.csv", "label,itemid,fluid,category,count,corresponding_ids", [
        ("Alanine Aminotransferase (ALT)", 50861, "Blood", "Chemistry", 9, "[50861]"),
        ("White Blood Cells", "51301.0", "Blood", "Hematology", 9, "[51301]"),
        ("Blood Culture", 90201, "", "", 9, "[90201]"), ("Old", "", "", "", 1, "[]"),
    ])  # fmt: skip


def write_pickles(root: Path) -> Path:
    """The four pickles, and the names of the tests."""
    root.mkdir()
    for name in PATHOLOGIES:
        cases = {hadm_id: admission(pathology) for hadm_id, pathology in ADMISSIONS.items() if pathology == name}
        (root / f"{name}_hadm_info_first_diag.pkl").write_bytes(pickle.dumps(cases))
    lab_names(root)
    return root


@pytest.fixture
def pickles(tmp_path: Path) -> Path:
    return write_pickles(tmp_path / "pickles")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    root = tmp_path / "tables"
    root.mkdir()
    cases = [(hadm_id, admission(pathology)) for hadm_id, pathology in ADMISSIONS.items()]
    write_csv(root / "history_of_present_illness.csv", "hadm_id,hpi", [(h, c["Patient History"]) for h, c in cases])
    write_csv(root / "physical_examination.csv", "hadm_id,pe", [(h, c["Physical Examination"]) for h, c in cases])
    write_csv(root / "laboratory_tests.csv", "hadm_id,litemid,itemid,valuestr,ref_range_lower,ref_range_upper", [
        (h, 0, item, value, "" if item == 50861 else 4.5, "" if item == 50861 else 11.0)
        for h, c in cases for item, value in [*c["Laboratory Tests"].items(), (51301, "9.9 K/uL")]
    ])  # fmt: skip
    write_csv(root / "microbiology.csv", "hadm_id,test_itemid,valuestr,spec_itemid",
              [(h, 90201, "No growth.", 70012) for h, _ in cases])  # fmt: skip
    write_csv(root / "radiology_reports.csv", "hadm_id,note_id,modality,region,exam_name,text",
              [(h, r["Note ID"], r["Modality"], r["Region"], r["Exam Name"], r["Report"])
               for h, c in cases for r in c["Radiology"]])  # fmt: skip
    write_csv(root / "discharge_diagnosis.csv", "hadm_id,discharge_diagnosis",
              [(h, c["Discharge Diagnosis"]) for h, c in cases])  # fmt: skip
    write_csv(root / "icd_diagnosis.csv", "hadm_id,icd_diagnosis", [(h, d) for h, c in cases for d in c["ICD Diagnosis"]])
    lab_names(root)
    return root


def convert(root: Path, *flags: object) -> list[dict[str, Any]]:
    output = root / "rows.jsonl"
    main(["--cdm_dir", str(root), "--output_path", str(output), *map(str, flags)])
    return [json.loads(line) for line in output.open(encoding="utf-8")]


def test_a_record_is_what_is_known_before_the_diagnosis(pickles: Path) -> None:
    rows = convert(pickles)
    assert len(rows) == 16 and {row["output"] for row in rows if row["candidates"]} == set(PATHOLOGIES)
    assert rows[0]["input"] == (
        "## History of Present Illness [None]\n- Text: Pain since yesterday, sent for ___. No prior ___.\n\n"
        "## Physical Examination [None]\n- Text: Abd: tender\n\nExt: warm\n\n"
        "## Labotary Test Events [None]\n| Item_Name | Value | Ref_Range_Lower | Ref_Range_Upper |\n"
        "| ------ | ------ | ------ | ------ |\n| Alanine Aminotransferase (ALT) | 18.0 IU/L | nan | nan |\n"
        "| White Blood Cells | 17.6 K/uL | 4.5 | 11.0 |\n\n"
        "## Microbiology Test Events [None]\n- Test_Name: Blood Culture\n- Comments: No growth.\n\n"
        "## Radiology Examinations [None]\n- Exam_Name: CT ABD\n- Text: Findings suggest ___."
    )
    pathology, coded = rows[:2]
    assert pathology["task_info"]["label"] == "appendicitis" and pathology["candidates"] == list(PATHOLOGIES)
    assert coded["task_info"]["label"] == ["Acute appendicitis", "Essential hypertension"] and coded["candidates"] is None
    assert all(word not in row["input"].casefold() for row in rows for word in (*PATHOLOGIES, "hypertension", "removal"))


@pytest.mark.parametrize("ids", [True, False])
def test_the_csvs_give_the_same_samples(pickles: Path, tables: Path, ids: bool) -> None:
    if ids:
        of = {name: [h for h, pathology in ADMISSIONS.items() if pathology == name] for name in PATHOLOGIES}
        (tables / "pathology_ids.json").write_text(json.dumps(of))

    def by_admission(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["task_info"]["hadm_id"], row["task_info"]["task"]): {**row, "idx": 0} for row in rows}

    assert by_admission(convert(tables)) == by_admission(convert(pickles))


def test_admissions_without_an_answer_are_left_out(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tables / "discharge_diagnosis.csv", "hadm_id,discharge_diagnosis", [(20000001, "Gastritis")])
    assert {row["task_info"]["task"] for row in convert(tables)} == {"cdm_diagnoses"}
    assert "8 without an answer left out" in capsys.readouterr().out
    assert convert(tables, "--task", "cdm_pathology") == []


@given(st.text(alphabet="_ ab", max_size=9), st.sampled_from([*PATHOLOGIES, "Appendectomy", "CHOLECYSTOSTOMY"]), st.text())
def test_blanks_hide_every_answer(before: str, word: str, after: str) -> None:
    text = blanked(before + word + after)
    assert word.casefold() not in text[: len(before) + len(word)].casefold() and blanked(text) == text
    assert set(_ANSWERS.findall(text)) == {"___"}


def test_from_the_files_to_the_scores(pickles: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    done = command("evaluation/external/cdm.py", "--cdm_dir", pickles, "--output_path", rows)
    assert "16 samples of 8 admissions" in done.stdout and "tender" not in done.stdout + done.stderr
    for prompt in ([], ["--prompt"]):
        output = tmp_path / f"out{len(prompt)}"
        command("test.py", "--dataset_name", rows, "--output_path", output, "--model_name_or_path", tiny_model,
                "--max_seq_len", 2000, "--max_new_tokens", 8, *prompt)  # fmt: skip
        tasks = read_json(output / "result.json")["tasks"]
        assert tasks["cdm_pathology"]["n"] == tasks["cdm_diagnoses"]["n"] == tasks["cdm_diagnoses"]["patients"] == 8
        assert {"accuracy", "accuracy_ci"} <= set(tasks["cdm_pathology"]) and "f1" in tasks["cdm_diagnoses"]


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(pickles: Path, tmp_path: Path, protocol: int) -> None:
    path = pickles / "cholecystitis_hadm_info_first_diag.pkl"
    for refused, value in (("mkdir", Evil(tmp_path / "made")), ("collections.OrderedDict", OrderedDict(a=1))):
        path.write_bytes(pickle.dumps({1: {"Patient History": value}}, protocol))
        with pytest.raises(UserError, match=f"{path.name}: expected a pickle of dicts.*{refused}; no code of it was run"):
            convert(pickles)
    assert not (tmp_path / "made").exists() and not (pickles / "rows.jsonl").exists()
    path.write_bytes(pickle.dumps({1: {"Patient History": "pain", "seen": {1, 2}}}, protocol))
    assert len(convert(pickles)) == 13, "a set of numbers is a plain value"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got a damaged file"),
        (pickle.dumps({1: {"a": "text"}})[:-9], "pickle"),
        (b"not a pickle", "expected a pickle"),
        (b"cos\nsystem\n(S'true'\ntR.", "got the class or function (os|posix).system; no code of it was run"),
        (pickle.dumps([1]), "expected a dict"),
        (pickle.dumps({1: "text"}), "expected a dict"),
    ],
)
def test_a_broken_pickle_is_an_error(pickles: Path, content: bytes, message: str) -> None:
    (pickles / "pancreatitis_hadm_info_first_diag.pkl").write_bytes(content)
    with pytest.raises(UserError, match=f"pancreatitis_hadm_info_first_diag.pkl: .*{message}"):
        convert(pickles)


def test_errors_of_wrong_use(pickles: Path, tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="history_of_present_illness.csv: expected a CSV of MIMIC-IV-Ext-CDM, or the four"):
        convert(tmp_path, "--lab_names", pickles / "lab_test_mapping.csv")
    (tables / "microbiology.csv").write_text("hadm_id,test_itemid\n")
    with pytest.raises(UserError, match="microbiology.csv: expected columns hadm_id, test_itemid, valuestr, got hadm_id"):
        convert(tables)
    (pickles / "pancreatitis_hadm_info_first_diag.pkl").unlink()
    with pytest.raises(UserError, match="pancreatitis.*beside the other pickles"):
        convert(pickles)
    (pickles / "lab_test_mapping.csv").unlink()
    with pytest.raises(UserError, match="expected the names of the laboratory tests.*--lab_names"):
        convert(pickles)
    done = command("evaluation/external/cdm.py", "--cdm_dir", tables, "--task", "x", "--output_path", "a.jsonl", check=False)
    assert done.returncode == 2 and "cdm_pathology" in done.stderr
