"""Site files: what they mean, and one line for each error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import REPO
from tiny_meds import SITE

from pipeline.errors import UserError
from preprocess.sites import read_site

SITES = sorted((REPO / "scripts/sites").glob("*.yaml"))


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_shipped_sites_are_valid(path: Path) -> None:
    site = read_site(path)
    assert {"patients", "admissions"} <= set(site.tables)


def test_columns_of_an_event_are_those_of_all_its_rules(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    site = read_site(path)
    assert site.columns("patients") == ("subject_id", "gender", "anchor_age", "dod")
    assert site.columns("admissions") == ("subject_id", "hadm_id", "admittime", "admission_type", "dischtime")
    labs = ("subject_id", "hadm_id", "charttime", "item_name", "valuenum", "valueuom", "comments", "storetime")
    assert site.columns("labevents") == labs
    assert site.columns("icustays") == ("subject_id", "hadm_id", "intime", "stay_id", "outtime")
    assert set(site.sources) == {"visit", "bed", "numeric_value", "unit", "text_value", "seen"}


ERRORS = [
    ({"evnets": []}, "the file: expected a key, got evnets. Write events."),
    ({"events": []}, "events: expected a list of rules, got an empty one. Add a rule (docs/own_data.md)."),
    ({"events": {}}, "events: expected a list of rules, got a mapping. Fix it."),
    ({"events": [{"event": "labevent", "code": "x"}]}, "events[0].event: expected an event, got labevent. Write labevents."),
    ({"events": [{"event": ["omr"], "code": "x"}]}, "events[0].event: expected an event, got a list. Fix it."),
    ({"events": [{"event": "omr"}]}, "events[0]: expected code, got event. Add it."),
    ({"events": [{"event": "omr", "code": "("}]}, "events[0] (omr).code: expected a regular expression, got one with"),
    ({"events": [{"event": "omr", "code": "x", "columns": {"result_nam": "text"}}]},
     "events[0] (omr).columns: expected a column of omr, got result_nam. Write result_name."),
    ({"events": [{"event": "omr", "code": "x", "columns": {"result_name": 1}}]},
     "events[0] (omr).columns.result_name: expected a column of the data, got a number."),
    ({"events": [{"event": "omr", "code": "(?P<a>x)", "columns": {"a": "b"}}]},
     "events[0] (omr): expected each column once, got a"),
    ({"events": [{"event": "omr", "code": "x", "available": "time"}]}, "events[0] (omr).available: expected it for events"),
    ({"events": [{"event": "triage", "code": "x"}]}, "events[0] (triage): expected the column stay_id"),
    ({"events": [{"event": "omr", "code": "x", "end": {"code": "y", "keys": []}}]},
     "events[0] (omr).end: expected a key, got keys."),
    ({"events": [{"event": "patients", "code": "x"}]}, "events[0] (patients): expected no rule for patients"),
    ({"left_out": {"ICU_Stay": "no"}}, "left_out.ICU_Stay: expected a task, got ICU_Stay. Write ICU_Stay_7day."),
    ({"patients": {"gender": "x"}}, "patients.gender: expected a pattern with a group, got none."),
    ({"missing": "x"}, "missing: expected a list of texts, got a text."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors_are_one_line_with_the_place(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SITE) | change), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_site(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("name: a\nevents: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"site.yaml, line \d: expected YAML"):
        read_site(path)
    path.write_text("a: &a [*a]", encoding="utf-8")
    with pytest.raises(UserError, match="expected YAML"):
        read_site(path)
    with pytest.raises(UserError, match=r"expected a site file, got a directory\. Choose one of scripts/sites/"):
        read_site(tmp_path)


@pytest.mark.parametrize(("text", "repeated", "line"), [
    ("name: a\nevents: []\nname: b\n", "name", 3),
    ("name: a\nevents:\n- event: omr\n  code: x\n  columns: {result_name: text, result_name: code}\n", "result_name", 5),
])  # fmt: skip
def test_repeated_keys_are_an_error(text: str, repeated: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"site.yaml, line {line}: expected each key once, got {repeated} again\. Remove or"):
        read_site(path)
