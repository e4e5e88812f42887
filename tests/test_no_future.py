"""No input depends on the future: the proof holds for our rows, agrees with preprocessing, and notices what it should."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inference.prompts import NO_THINK, PLAIN, THINK, PromptBuilder
from mimiciv_dataset import validate_index
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.no_future import NoFuture, joined
from mimiciv_dataset.records import Event
from mimiciv_dataset.tasks import TASKS, Task
from mimiciv_dataset.text import Renderer, SampleText
from mimiciv_dataset.timeline import seconds
from mimiciv_dataset.trajectory import COLUMNS, Trajectories, write_patient
from pipeline.files import read_json

Read = Callable[[Sequence[int]], Sequence[Event]]


class PeekingRenderer(Renderer):
    """A renderer with a leak: the admission also tells what comes first after the window."""

    def row(self, task: Task, row: Mapping[str, Any], read: Read) -> SampleText:
        text = super().row(task, row, read)
        try:
            leak = self.event(read([row["period_end"]])[0])
        except IndexError:
            leak = ""
        return SampleText(text.patient, text.last_discharge, f"{text.admission}{leak}", text.window, text.anchor)


def drawn(root: Path, number: int) -> list[dict[str, Any]]:
    """Up to `number` rows of each task, drawn at random."""
    rows = {name: read_rows(root / f"task_index/all/{name}.csv") for name in TASKS}
    draw = random.Random(0)
    return [of[i] for of in rows.values() for i in sorted(draw.sample(range(len(of)), min(number, len(of))))]


def write_index(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "target": json.dumps(row["target"])} for row in rows)
    return path


# --- the proof on our rows


def test_rows_of_every_task_do_not_depend_on_the_future(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = drawn(demo, 25)
    index = write_index(tmp_path / "index.csv", rows)
    assert validate_index.main(["--prove", str(index), "--root_dir", str(demo)]) == 0
    assert f"{len(rows):,} rows of 1 files, {len(rows):,} agree, 0 do not" in capsys.readouterr().out


@pytest.mark.slow
def test_no_row_of_the_demo_depends_on_the_future(demo: Path, run_command) -> None:
    done = run_command("mimiciv_dataset/validate_index.py", "--prove", demo / "task_index/all", "--root_dir", demo,
                       "--num_workers", 2)  # fmt: skip
    assert "48,632 rows of 46 files, 48,632 agree, 0 do not" in done.stdout


def test_a_leak_is_counted_by_task(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [row for row in drawn(demo, 10) if row["task"] in ("emar", "poe", "ICU_Stay_7day")]
    index = write_index(tmp_path / "index.csv", rows)
    monkeypatch.setattr(validate_index, "Renderer", PeekingRenderer)
    assert validate_index.main([str(index), "--root_dir", str(demo)]) == 0
    assert validate_index.main(["--prove", str(index), "--root_dir", str(demo)]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "depends on the future" in line}
    assert {"emar", "poe", "ICU_Stay_7day"} <= lines.keys()


def test_the_admission_asked_for_is_not_shown(demo: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(demo / "task_index/all/next_event.csv") if row["event"] == "admissions"]
    assert len(rows) == 82 and all(row["admissions_id"] == row["period_end"] for row in rows)
    dataset = MIMICIV(demo, write_index(tmp_path / "index.csv", rows[:20]), lazzy_mode=True, shuffle=False)
    assert {dataset.text(i).admission for i in range(20)} == {""}


# --- the whole prompt, through files


def test_the_prompt_is_the_same_in_every_mode(demo: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Rows are run on trajectories that end at their prediction times, on disk as in a release: one for each row."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    trajectories, rows, past_rows, changed = Trajectories(demo / "patients_ehr"), drawn(demo, 2), [], 0
    (folder := tmp_path / "past").mkdir()
    for i, row in enumerate(rows):
        events, past_row = NoFuture(trajectories.trajectory(row["subject_id"]), Renderer(Lookups("nowhere"))).past(row)
        changed += len(events) < trajectories.length(row["subject_id"])
        items = [json.dumps(event.records().dicts(), ensure_ascii=False) for event in events]
        columns = [*zip(*(event[:4] for event in events), strict=True), items]
        write_patient(pa.table([pa.array(column, pa.string()) for column in columns], COLUMNS), folder / f"{i}.parquet")
        past_rows.append({**past_row, "subject_id": f"{i}"})
    whole = MIMICIV(demo, write_index(tmp_path / "whole.csv", rows), lazzy_mode=True, shuffle=False)
    past = MIMICIV(demo, write_index(tmp_path / "past.csv", past_rows), lazzy_mode=True, shuffle=False, ehr_dir=folder)
    builder = PromptBuilder(AutoTokenizer.from_pretrained(tiny_model))
    for i in range(len(rows)):
        (sample, text), (past_sample, past_text) = whole.with_text(i), past.with_text(i)
        assert (sample["input"], sample["instruction"]) == (past_sample["input"], past_sample["instruction"])
        for mode in (PLAIN, THINK, NO_THINK):
            for limit in (500, 100_000):
                prompts = [builder.fit(t, sample["instruction"], mode, limit) for t in (text, past_text)]
                assert prompts[0] == prompts[1]
    assert changed > 50


# --- deleted records: events as preprocessing forms them


def test_events_are_formed_as_preprocessing_forms_them(demo: Path) -> None:
    import polars as pl

    from preprocess.order import form_events, order_records, read_bucket, reading_order
    from preprocess.parts import parts_of, read_lists
    from preprocess.raw_tables import TIME

    tables = read_json(demo / "patients/provenance.json")["columns"]
    keys = read_bucket(demo / "patients", 0, tables)
    lists = [
        text for event in reading_order(tables) for part in parts_of(demo / "patients", event) for text in read_lists(part, 0)
    ]
    records = keys.with_row_index("row")[order_records(keys)]
    trajectories, draw, divided = Trajectories(demo / "patients_ehr"), random.Random(0), 0
    for subject_id in records["subject_id"].unique(maintain_order=True).to_list()[:4]:
        of_patient = records.filter(pl.col("subject_id") == subject_id)
        future = NoFuture(trajectories.trajectory(str(subject_id)), Renderer(Lookups("nowhere")))
        # times at which an event has begun and not ended, and others
        inside = [event.starttime for event in future.events if event.starttime != event.endtime]
        for time in draw.sample(inside, 4) + draw.sample([e.endtime for e in future.events if e.endtime], 4):
            past = of_patient.filter(pl.col(TIME).is_null() | (pl.col(TIME) <= pl.lit(time).str.to_datetime()))
            expected = form_events(keys, past["row"].to_numpy()).drop_columns("subject_id").to_pylist()
            events, _ = joined(future.until(seconds(time)), (0, 0))
            assert [event[:4] for event in events] == [tuple(event.values())[:4] for event in expected]
            for event, other in zip(events, expected, strict=True):
                values = [json.loads(lists[row].as_py()) for row in other["records"]]
                assert [list(record.values()) for record in event.records().dicts()] == values
            divided += time in inside
    assert divided >= 8


# --- laws, on made-up trajectories

TABLES = ("labevents", "emar", "diagnoses_icd", "admissions", "discharge", "drgcodes")


def hour(number: int) -> str:
    return f"2100-01-{number // 24 + 1:02d} {number % 24:02d}:00:00"


@st.composite
def trajectories(draw: st.DrawFn) -> tuple[list[Event], dict[str, Any]]:
    """A trajectory in order of time, of records with times and without, and the row of a window with a timed event."""
    time, records = 0, []
    for number in range(draw(st.integers(3, 14))):
        table = draw(st.sampled_from(TABLES))
        time += draw(st.integers(0, 2))
        timed = table not in ("diagnoses_icd", "drgcodes") and draw(st.integers(0, 5)) > 0
        column = "admittime" if table == "admissions" else "charttime"
        values = {"text": f"{number}", "medication": f"{number}", "icd_code": f"{number}", "comments": f"{number}"}
        records.append((table, hour(time) if timed else None, values | {column: hour(time) if timed else "nan"}))
    events = [Event("patients", None, None, None, '[{"gender": "F", "anchor_age": "50"}]')]
    for table, at, record in records:
        event = Event(table, at, at, None, json.dumps([record]))
        events = joined(list(enumerate([*events, event])), (-1, -1))[0]
    timed = [i for i, event in enumerate(events) if event.endtime]
    assume(timed)
    inside = draw(st.sampled_from(timed))
    begin, end = draw(st.integers(1, inside)), draw(st.integers(inside + 1, len(events)))
    earlier = {name: draw(st.none() | st.integers(1, len(events) - 1)) for name in ("admissions_id", "last_discharge_id")}
    return events, {"period_begin": begin, "period_end": end, **earlier}


@settings(deadline=None, max_examples=200)
@given(trajectories())
def test_the_proof_holds_for_any_window_and_notices_a_peek(sample: tuple[list[Event], dict[str, Any]]) -> None:
    events, row = sample
    lookups, task = Lookups("nowhere"), TASKS["next_event"]
    proof, peeking = NoFuture(events, Renderer(lookups)), NoFuture(events, PeekingRenderer(lookups))
    assert proof.difference(task, row) is None
    time, end = proof.timeline.prediction_time(row["period_begin"], row["period_end"]), row["period_end"]
    ends = [seconds(event.endtime) for event in events]
    if end < len(events) and ends[end] is not None and ends[end] > time:
        assert peeking.difference(task, row) == "admission"
    if all(of_event is None or of_event <= time for of_event in ends):
        assert peeking.difference(task, row) is None  # there is no future
