"""Values that were stored after the prediction time: the audit flag, and hiding them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.settings import PromptSettings, as_json
from mimiciv_dataset import data_index_gen
from mimiciv_dataset.events import EVENTS, MISSING
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.known import hide_unknown, last_stored
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.records import Event, Records
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.text import Renderer
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError

DATED = [event for event in EVENTS.values() if event.stored]


def index(root: Path, path: Path, each: int) -> Path:
    """An index of up to `each` rows of every task, spread over its file."""
    header, rows = None, []
    for name in TASKS:
        with (root / f"task_index/all/{name}.csv").open(newline="", encoding="utf-8") as file:
            header, *of_task = csv.reader(file)
        rows += of_task[:: max(1, len(of_task) // each)][:each]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_the_registry_dates_keys_that_are_shown() -> None:
    assert len(DATED) == 11
    for event in DATED:
        assert set(event.stored.keys) <= set(event.shown)


def test_a_row_is_flagged_if_and_only_if_as_known_hides_something(demo: Path, tmp_path: Path) -> None:
    path = index(demo, tmp_path / "index.csv", each=12)
    plain, known = (MIMICIV(demo, path, lazzy_mode=True, shuffle=False, as_known=hide) for hide in (False, True))
    flagged = 0
    for i, row in enumerate(read_rows(path)):
        text, hidden = plain.text(i), known.text(i)
        assert ("not_yet_stored" in (row["audit"] or "")) == (text != hidden)
        flagged += text != hidden
        assert (text.patient, text.admission, text.anchor) == (hidden.patient, hidden.admission, hidden.anchor)
        titles = [[event.partition("\n")[0] for event in parts.window] for parts in (text, hidden)]
        assert titles[0] == titles[1]
        assert plain[i]["instruction"] == known[i]["instruction"] and plain[i]["output"] == known[i]["output"]
    assert 100 < flagged < len(plain)


times = st.sampled_from(["2100-01-01 00:00:00", "2100-01-01 00:00:01", "2100-01-01 00:00:02", MISSING])


@given(st.sampled_from(DATED), st.lists(st.tuples(times, st.sampled_from(["x", MISSING])), min_size=1, max_size=5))
def test_exactly_the_values_stored_later_are_hidden(event, rows: Sequence[tuple[str, str]]) -> None:
    """Rows are store times and values of all shown columns; the prediction time is the middle one of three."""
    columns = (event.stored.time, *(key for key in event.shown if event.lookup(key) is None))
    records = Records(columns, [[time, *[value] * (len(columns) - 1)] for time, value in rows])
    values = [[value] * len(event.shown) for _, value in rows]
    now = 4102444801
    hide_unknown(event, records, values, now)
    for (time, value), row in zip(rows, values, strict=True):
        later = time == "2100-01-01 00:00:02"
        assert row == [MISSING if later and key in event.stored.keys else value for key in event.shown]
    if event.name != "datetimeevents":  # whose value needs a dictionary
        stored = [time for time, value in rows if MISSING not in (time, value)]
        expected = now - 1 + int(max(stored)[-2:]) if stored else None
        assert last_stored(event, records, Lookups("nowhere")) == expected


def test_notes_and_windows(tmp_path: Path) -> None:
    """The last discharge note is dated, too; an unknown store time hides nothing; the window decides the time."""

    def event(table: str, hour: int, **values: str) -> Event:
        time = f"2100-01-01 {hour:02d}:00:00"
        return Event(table, time, time, None, json.dumps([values]))

    note = event("discharge", 1, note_type="DS", text="Home.", storetime="2100-01-01 05:00:00")
    labs = [event("labevents", 2, valuenum="1.0", storetime=time) for time in ("2100-01-01 03:00:00", "nan")]
    patient, task = Event("patients", None, None, None, '[{"gender": "F"}]'), TASKS["emar"]
    for last, shown in ((2, (False, False)), (3, (False, True)), (4, (False, True)), (5, (True, True))):
        window = [*labs, event("omr", last)]
        text = Renderer(Lookups("nowhere"), as_known=True).sample(task, patient, note, None, window)
        assert ("Home." in text.last_discharge, "1.0" in text.window[0]) == shown
        assert "1.0" in text.window[1] and "- Note_Type: DS" in text.last_discharge


def test_flagged_rows_can_be_left_out(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (patients := tmp_path / "patients.csv").write_text(
        "\n".join(["subject_id", *Trajectories(demo / "patients_ehr").subject_ids()]) + "\n"
    )
    (tmp_path / "config.json").write_text('{"labevents": -1, "poe": -1}')
    data_index_gen.main(["--root_dir", str(demo), "--subject_id_path", str(patients), "--data_config",
                         str(tmp_path / "config.json"), "--output_path", str(tmp_path / "set.csv"),
                         "--exclude_audit", "not_yet_stored"])  # fmt: skip
    rows = list(read_rows(tmp_path / "set.csv"))
    assert {row["task"] for row in rows} == {"labevents", "poe"}
    assert not any("not_yet_stored" in (row["audit"] or "") for row in rows)
    assert "not_yet" in capsys.readouterr().out


def test_results_record_the_option_and_rows_with_text_refuse_it(tmp_path: Path) -> None:
    assert as_json(PromptSettings(as_known=True))["as_known"] is True
    rows = [{"input": "x", "output": "no", "task_info": {"task": "ICU_Readmission"}}]
    with pytest.raises(UserError, match="expected rows without text for as_known"):
        MIMICIV(tmp_path, sample_info=rows, as_known=True, lazzy_mode=True)
