"""Rows that cannot be asked or scored are refused before a model is loaded: one line, which names the row."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from rendered_rows import SECRET, rendered_row, rendered_rows, write_rows
from scripted_server import ScriptedServer

from mimiciv_dataset.mimiciv import MIMICIV
from pipeline.errors import UserError

Row = dict[str, Any]
INFO = "task_info"


def put(name: str, value: Any) -> Callable[[Row], None]:
    """A change of a row: sets a field, or one of its task_info (`task_info.label`)."""

    def change(row: Row) -> None:
        (row[INFO] if name.startswith(INFO + ".") else row)[name.removeprefix(INFO + ".")] = value

    return change


def drop(name: str) -> Callable[[Row], None]:
    return lambda row: (row[INFO] if name.startswith(INFO + ".") else row).pop(name.removeprefix(INFO + "."))


OBJECT = "task_info: expected an object with task and label"
KINDS = "decision, risk, generation, decision_making, risk_prediction"
NAMES, YES_NO = "a list of names", "yes or no for ICU_Mortality_7day"
BAD_DECISION = [
    (put("candidates", f"{SECRET}, Heparin"), f"candidates: expected {NAMES} or null, got a text"),
    (put("candidates", [["Aspirin"]]), f"candidates: expected {NAMES} or null, got a list of something else"),
    (put("candidates", [1, 2]), f"candidates: expected {NAMES} or null, got a list of something else"),
    (put("candidates", ["Aspirin", ""]), f"candidates: expected {NAMES} or null, got a list of something else"),
    (put("candidates", {SECRET: 1}), f"candidates: expected {NAMES} or null, got an object"),
    (put("task_info.label", f"{SECRET}\nHeparin"), f"task_info.label: expected {NAMES} for emar, got a text"),
    (put("task_info.label", []), f"task_info.label: expected {NAMES} for emar, got an empty list"),
    (put("task_info.label", [["Aspirin"]]), f"task_info.label: expected {NAMES} for emar, got a list of something else"),
    (put("task_info.label", ["Aspirin", 3]), f"task_info.label: expected {NAMES} for emar, got a list of something else"),
    (put("task_info.label", None), f"task_info.label: expected {NAMES} for emar, got null"),
    (put("task_info.label", {SECRET: 1}), f"task_info.label: expected {NAMES} for emar, got an object"),
    (drop("task_info.label"), "task_info.label: expected the correct answer, got no such field"),
    (drop("instruction"), "instruction: expected a text, got no such field"),
    (put("instruction", [SECRET]), "instruction: expected a text, got a list"),
    (drop("input"), "input: expected a text, got no such field"),
    (put("input", None), "input: expected a text, got null"),
    (put("input", " \n"), "input: expected a text, got an empty text"),
    (drop("output"), "output: expected a text, got no such field"),
    (put("output", ["Aspirin"]), "output: expected a text, got a list"),
    (put("task_info.label", [f"{SECRET}\nHeparin"]), "label: expected names of one line for emar, got one with a line break"),
    (put("task_info.label", ["Zinc", f"{SECRET}\r\nHeparin"]), "task_info.label: expected names of one line for emar"),
    (put("task_info.label", [""]), f"task_info.label: expected {NAMES} for emar, got a list of something else"),
    (drop(INFO), f"{OBJECT}, got no such field"),
    (put(INFO, [SECRET]), f"{OBJECT}, got a list"),
    (put(INFO, None), f"{OBJECT}, got null"),
    (put(INFO, SECRET), f"{OBJECT}, got a text"),
    (put("task", SECRET), "expected a task of"),
    (put("task", "omr"), "task_info.task: expected the same as the row's own field task, got another value"),
    (put("task", "ICU_Mortality_7day"), "task_info.task: expected the same as the row's own field task"),
    (put("subject_id", 77), "task_info.subject_id: expected the same as the row's own field subject_id, got another value"),
    (put("period_end", "77"), "task_info.period_end: expected the same as the row's own field period_end"),
    (put("task_info.task", SECRET), "expected a task of"),
    (put("task_info.task", ["emar"]), "expected a task of"),
    (drop("task_info.task"), "expected a task of"),
    (put("task_info.task_type", "risk_prediction"), "task_info.task_type: expected decision for emar, got another kind"),
    (put("task_info.task_type", SECRET), f"task_info.task_type: expected one of {KINDS}, or none, got another value"),
    (put("task_info.task_type", "Risk"), f"task_info.task_type: expected one of {KINDS}"),
    (put("task_info.task_type", 1), f"task_info.task_type: expected one of {KINDS}"),
    (put("task_info.task_type", ["risk"]), f"task_info.task_type: expected one of {KINDS}"),
    (put("task_info.subject_id", 7.5), "task_info.subject_id: expected a whole number or a text, got another number"),
    (put("task_info.hadm_id", float("inf")), "task_info.hadm_id: expected a whole number or a text, got another number"),
    (put("subject_id", 7.5), "subject_id: expected a whole number or a text, got another number"),
    (put("task_info.subject_id", [7]), "task_info.subject_id: expected a number or a text, got a list"),
]
BAD_RISK = [
    (put("task_info.label", "maybe"), f"task_info.label: expected {YES_NO}, got another text"),
    (put("task_info.label", ["yes", "no"]), "task_info.label: expected a text for ICU_Mortality_7day, got a list"),
    (put("task_info.label", True), "task_info.label: expected a text for ICU_Mortality_7day, got true or false"),
    (put("task_info.label", 1), "task_info.label: expected a text for ICU_Mortality_7day, got a number"),
    (put("task_info.task_type", "decision"), "task_info.task_type: expected risk for ICU_Mortality_7day, got another kind"),
]


@pytest.mark.parametrize("number, change, message", [(0, *case) for case in BAD_DECISION] + [(1, *case) for case in BAD_RISK])
def test_a_bad_row_is_one_line(tmp_path: Path, number: int, change: Callable[[Row], None], message: str) -> None:
    rows = rendered_rows(3)
    change(rows[2 + number])
    path = write_rows(tmp_path / "rows.jsonl", rows)
    for make in (
        lambda: MIMICIV(tmp_path, path, lazzy_mode=True),
        lambda: MIMICIV(tmp_path, sample_info=rows, lazzy_mode=True),
    ):
        with pytest.raises(UserError) as error:
            make()
        text = str(error.value)
        assert message in text and "\n" not in text and SECRET not in text and "Heparin" not in text
    assert "sample_info[" in text
    with pytest.raises(UserError, match=rf"^{path}, line {3 + number}: "):
        MIMICIV(tmp_path, path, lazzy_mode=True)


def test_the_command_for_an_array_does_not_write_a_file_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[{}]", encoding="utf-8")
    with pytest.raises(UserError, match=r"jq -c '\.\[\]' rows\.jsonl > rows_lines\.jsonl$"):
        MIMICIV(tmp_path, path, lazzy_mode=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", None),
        (b"\n\n", None),
        (b'[{"input": "Zebrawood"}]', r"rows\.json: expected a JSON object in each line, got a JSON array. Convert it: jq -c"),
        (b'\xef\xbb\xbf\n[\n{"input": "Zebrawood"}\n]', r"rows\.json: expected a JSON object in each line, got a JSON array"),
        (b'{\n"input": "Zebrawood"\n}', r"rows\.json, line 1: expected a JSON object, got something else"),
        (b'{"input": "Zebrawood"', r"rows\.json, line 1: expected a JSON object, got something else"),
        (b'"Zebrawood"', r"rows\.json, line 1: expected a JSON object, got something else"),
        ('{"input": "Zebrawood"}'.encode("utf-16-le"), r"rows\.json, line 1: expected a JSON object, got something else"),
        (b'{"input": "\\ud800", "task_info": {}}', r"rows\.json, line 1: expected text in Unicode, got half of a surrogate"),
        ('{"input": "Zebrawood"}'.encode("utf-16"), r"rows\.json: expected JSONL in UTF-8, got other bytes"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes, message: str | None) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    if message is None:
        assert len(MIMICIV(tmp_path, path, lazzy_mode=True)) == 0
        return
    with pytest.raises(UserError, match=message) as error:
        MIMICIV(tmp_path, path, lazzy_mode=True)
    assert SECRET not in str(error.value) and "\n" not in str(error.value)


def test_marks_and_line_ends_of_other_tools_change_nothing(tmp_path: Path) -> None:
    rows = rendered_rows(2)
    plain = write_rows(tmp_path / "plain.jsonl", rows)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"\xef\xbb\xbf\r\n" + plain.read_bytes().replace(b"\n", b"\r\n\r\n"))
    first, second = (MIMICIV(tmp_path, path, lazzy_mode=True, shuffle=False) for path in (plain, other))
    assert [first[i] for i in range(4)] == [second[i] for i in range(4)]
    assert second.where(1) == f"{other}, line 4"


def test_rows_with_and_without_text_do_not_mix(tmp_path: Path) -> None:
    index_row = {"subject_id": 1, "task": "emar", "event": "emar", "period_begin": 1, "period_end": 3, "target": ["Zinc"]}
    path = write_rows(tmp_path / "rows.jsonl", [rendered_row(0), index_row])
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: expected rows that all have input, or rows without, got both"):
        MIMICIV(tmp_path, path, lazzy_mode=True)


def test_spellings_that_mean_the_same(tmp_path: Path) -> None:
    """yes and no in any case, a list of one answer, and every spelling of the kind of a task."""
    rows = []
    for number, label in enumerate(("yes", "Yes", " YES ", ["yes"], "No", ["No"])):
        row = rendered_row(number, "ICU_Mortality_7day", "yes")
        row[INFO]["label"] = label
        rows.append(row)
    rows += [rendered_row(9, "next_event", "emar"), rendered_row(10, "next_event", ["emar"])]
    rows += [rendered_row(20 + i, task_type=kind) for i, kind in enumerate(("decision", "decision_making", "", None))]
    dataset = MIMICIV(tmp_path, write_rows(tmp_path / "rows.jsonl", rows), lazzy_mode=True, shuffle=False)
    labels = [dataset[i][INFO]["label"] for i in range(len(dataset))]
    assert labels == ["yes"] * 4 + ["no"] * 2 + ["emar"] * 2 + [["Aspirin", "Heparin"]] * 4


@pytest.mark.parametrize("missing", ["", " ", "nan", "NaN", "None", "NULL", "<NA>", "NaT", float("nan"), None])
def test_a_missing_patient_is_no_patient(tmp_path: Path, missing: Any) -> None:
    """However another tool writes it: samples without patient are no samples of one patient."""
    rows = [rendered_row(number, subject_id=missing, hadm_id=missing) for number in range(2)]
    dataset = MIMICIV(tmp_path, write_rows(tmp_path / "rows.jsonl", rows), lazzy_mode=True)
    assert all(dataset[i][INFO]["subject_id"] is None is dataset[i][INFO]["hadm_id"] for i in range(2))
    assert dataset.rows.subject_ids() == [None, None]
    rows = [rendered_row(0, subject_id=7) | {"subject_id": missing}]
    dataset = MIMICIV(tmp_path, write_rows(tmp_path / "top.jsonl", rows), lazzy_mode=True)
    assert dataset.rows.subject_ids() == ["7"] and dataset[0][INFO]["subject_id"] == 7


@pytest.mark.parametrize(("given", "clean"), [(7, 7), (7.0, 7), ("7", "7"), ("7.0", "7"), (" 7", "7"), ("x1", "x1"), (0.0, 0)])
def test_a_patient_is_one_however_it_is_written(tmp_path: Path, given: Any, clean: Any) -> None:
    row = rendered_row(0, subject_id=given) | {"task": "emar", "subject_id": given}
    for rows in ({"sample_info": [row]}, {"sample_info_path": write_rows(tmp_path / "rows.jsonl", [row])}):
        (value,) = (sample[INFO]["subject_id"] for sample in MIMICIV(tmp_path, **rows, log=False))
        assert (value, type(value)) == (clean, type(clean))


HEADER = "subject_id,task,event,period_begin,period_end,target\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('1,emar,emar,1,3,"""Aspirin"""', "target: expected a list of names for emar, got a text"),
        ("1,emar,emar,1,3,[]", "target: expected a list of names for emar, got an empty list"),
        ('1,emar,emar,1,3,"[""Aspirin"", "" ""]"', "target: expected a list of names for emar, got a list of something else"),
        ('1,emar,emar,1,3,"[""\\n""]"', "target: expected a list of names for emar, got a list of something else"),
        ('1,ICU_Readmission,icustays,1,3,"""maybe"""', "target: expected yes or no for ICU_Readmission, got another text"),
        ('1,ICU_Readmission,icustays,1,3,"[""yes"", ""no""]"', "target: expected a text for ICU_Readmission, got a list"),
        ('1,next_event,emar,1,3,"[""emar"", ""poe""]"', "target: expected a text for next_event, got a list"),
        (f"1,{SECRET},emar,1,3,[]", "expected a task of"),
        ('1,guo_icu,emar,1,3,"""yes"""', "expected a task of"),
    ],
)
def test_a_csv_is_checked_alike(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "index.csv"
    good = '1,emar,emar,1,3,"[""5\\"" Gauze"", ""Zinc""]"\n1,omr,omr,1,3,\n1,ICU_Readmission,icustays,1,3,"""No"""\n'
    path.write_text(HEADER + good)
    assert len(MIMICIV(tmp_path, path, lazzy_mode=True)) == 3
    path.write_text(HEADER + good + row + "\n")
    with pytest.raises(UserError) as error:
        MIMICIV(tmp_path, path, lazzy_mode=True)
    assert str(error.value).startswith(f"{path}, row 5: {message}") and SECRET not in str(error.value)


def test_a_csv_with_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text(HEADER.replace("target", "input,target") + "1,emar,emar,1,3,x,\n")
    with pytest.raises(UserError, match="expected an index CSV, got one with a column input"):
        MIMICIV(tmp_path, path, lazzy_mode=True)


# --- through test.py


def evaluate(data: Path, output: Path, server: ScriptedServer, model: Path, *flags: object) -> int:
    """test.py in this process, with a server as the model."""
    given = [
        "--dataset_name",
        data,
        "--output_path",
        output,
        "--model_name_or_path",
        "m",
        "--url",
        server.url,
        "--tokenizer",
        model,
    ]
    limits = ["--max_new_tokens", 8, "--max_seq_len", 2000, "--resamples", 20]
    return runpy.run_path(str(REPO / "test.py"))["main"]([str(word) for word in (*given, *limits, *flags)])


def test_no_request_is_sent_for_a_bad_file_and_spellings_score_the_same(tiny_model: Path, tmp_path: Path) -> None:
    good, other = rendered_rows(4), rendered_rows(4)
    for row in other:
        row[INFO]["task_type"] = {"decision_making": "decision", "risk_prediction": "risk"}[row[INFO]["task_type"]]
        if row[INFO]["task_type"] == "risk":
            row[INFO]["label"] = row[INFO]["label"].upper()
    bad = [*good[:-1], {**good[-1], "candidates": "yes, no"}]
    results = []
    with ScriptedServer(lambda body, number: {"text": "Aspirin\nHeparin", "top": {"yes": -0.1, "no": -2.0}}) as server:
        with pytest.raises(UserError, match=r"bad\.jsonl, line 8: candidates"):
            evaluate(write_rows(tmp_path / "bad.jsonl", bad), tmp_path / "bad", server, tiny_model)
        assert not server.asked and not (tmp_path / "bad").exists()
        for name, rows in (("good", good), ("other", other)):
            data = write_rows(tmp_path / f"{name}.jsonl", rows)
            assert evaluate(data, tmp_path / name, server, tiny_model, "--prompt", "--think_prompt") == 0
            text = (tmp_path / name / "result.json").read_text(encoding="utf-8")
            # sums are in the order of the replies, so their last digits vary
            results.append(json.loads(text, parse_float=lambda number: round(float(number), 9))["tasks"])
        modes = {line["task_info"]["task"]: line["mode"] for line in map(json.loads, (tmp_path / "good/outputs.jsonl").open())}
    assert results[0] == results[1] and results[0]["emar"]["f1"] == 1
    assert modes == {"emar": "think", "ICU_Mortality_7day": "no_think"}
