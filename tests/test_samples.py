"""Windows, targets and labels against a naive implementation; the index command; the dataset class."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_mimic import TWO_PATIENTS, write_mimic

from mimiciv_dataset import index_build, task_sample_info_gen
from mimiciv_dataset.lookups import Lookups
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.records import Event
from mimiciv_dataset.samples import find_samples, label_list, target_of_row
from mimiciv_dataset.tasks import TASKS
from mimiciv_dataset.text import SampleText
from mimiciv_dataset.timeline import Timeline
from mimiciv_dataset.trajectory import Trajectories
from pipeline.files import read_json

HOURS = (0, 1, 5, 12, 23.9, 24, 24.1, 48, 72, 168, 336, 800, None)


@st.composite
def trajectories(draw: st.DrawFn) -> list[Event]:
    """Events in any order and with any times, as even a strange release could hold them."""
    kinds = ("edstays", "admissions", "icustays", "discharge", "emar", "labevents", "diagnoses_icd", "hcpcsevents")

    def text(hours: float | None) -> str | None:
        return None if hours is None else f"2150-01-{1 + int(hours // 24) % 28:02d} {int(hours % 24):02d}:00:00"

    hours = st.sampled_from(HOURS)
    patient = {"dod": draw(st.sampled_from(["nan", "2150-01-02", "2150-01-10"]))}
    events = [Event("patients", None, None, None, json.dumps([patient]))]
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(kinds))
        record = {"outtime": text(draw(hours)) or "nan", "dischtime": text(draw(hours)) or "nan", "text": "a note",
                  "medication": "Aspirin", "hospital_expire_flag": draw(st.sampled_from("01"))}  # fmt: skip
        start = None if kind == "diagnoses_icd" else text(draw(hours))
        hadm = draw(st.sampled_from([None, "a", "b"]))
        events.append(Event(kind, start, start, hadm, json.dumps([record])))
    return events


def naive_gap(t: Timeline, a: int | None, b: int | None) -> float:
    return math.inf if a is None or b is None else (b - a) / 3600


@settings(max_examples=300, deadline=None)
@given(trajectories())
def test_windows_equal_a_scan_of_the_whole_trajectory(events: list[Event]) -> None:
    t = Timeline(events)
    n = len(events)
    for i in range(1, n):
        earlier = [t.starts[j] for j in range(1, i) if t.starts[j] is not None]
        time = (earlier or [None])[-1] if events[i].file_name == "diagnoses_icd" else t.starts[i]
        near = [j for j in range(1, i) if events[j].hadm_id == events[i].hadm_id
                and time is not None and naive_gap(t, t.starts[j], time) < 24]  # fmt: skip
        assert t.decision_begin(i) == (min(near) if near else None)
        for out in (t.time(i, "outtime"), t.starts[i]):
            later = [j for j in range(i + 1, n) if out is not None and t.starts[j] is not None and t.starts[j] < out]
            assert t.until_time(i, out) == (max(later) + 1 if later else None)
        day = [j for j in range(i + 1, n) if events[j].hadm_id == events[i].hadm_id
               and naive_gap(t, t.starts[i], t.starts[j]) < 24]  # fmt: skip
        assert t.first_day(i) == (max(day) + 1 if day else None)


@settings(max_examples=200, deadline=None)
@given(trajectories())
def test_any_trajectory_gives_samples_that_its_index_rows_give_again(events: list[Event]) -> None:
    t, lookups = Timeline(events), Lookups("nowhere")
    for sample in find_samples(t, lookups):
        assert 0 < sample.context_begin <= sample.context_end <= len(events)
        window = sample.context_begin, sample.context_end
        assert target_of_row(TASKS[sample.task], *window, t, lookups) == sample.target


def make_index(root: Path, *flags: object) -> dict[str, list[dict[str, str]]]:
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root, *flags)
    folder = root / "task_index" / "all"
    return {path.stem: list(csv.DictReader(path.open(newline=""))) for path in folder.glob("*.csv")}


@pytest.fixture
def two_patients(tmp_path: Path) -> Path:
    write_mimic(tmp_path / "mimiciv", TWO_PATIENTS)
    for step in ("merge_patient", "rank", "combination"):
        command(f"preprocess/{step}.py", "--root_dir", tmp_path)
    return tmp_path


def test_index_of_two_patients(two_patients: Path) -> None:
    index = make_index(two_patients)
    assert set(index) == set(TASKS)
    (emar,) = index["emar"]
    assert (emar["context_begin"], emar["context_end"], json.loads(emar["target"])) == ("1", "6", ["0.9% Sodium Chloride"])
    assert emar["admissions_id"] == "3" and emar["last_discharge_id"] == ""
    (stay,) = index["LengthOfStay_3day"][:1]
    assert json.loads(stay["target"]) == "yes" and stay["hadm_id"] == "20"
    assert [row["target"] for row in index["ED_Hospitalization"]] == ['"yes"']
    assert index["ED_Hospitalization"][0]["audit"] == "outcome_in_window"


def test_index_flags(two_patients: Path) -> None:
    index = make_index(two_patients, "--task", "emar", "Inpatient_Mortality", "--no-audit", "--traj_len_min", 5)
    assert {name: len(rows) for name, rows in index.items()} == {"emar": 1, "Inpatient_Mortality": 1}
    again = command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", two_patients, "--task", "emar", check=False)
    assert again.returncode == 2 and "expected the same" in again.stderr and "tasks, audit, traj_len" in again.stderr
    patients = two_patients / "some.csv"
    patients.write_text("subject_id\n999\n")
    gone = command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", two_patients, "--patient_id", patients,
                   "--output_path", two_patients / "x", check=False)  # fmt: skip
    assert gone.returncode == 2 and "1 without a trajectory" in gone.stderr and "some.csv" in gone.stderr


def test_group_patient_holds_the_same_rows(demo: Path, tmp_path: Path) -> None:
    command(
        "mimiciv_dataset/task_sample_info_gen.py", "--root_dir", demo, "--group", "patient", "--output_path", tmp_path / "p"
    )
    rows = {folder: Counter(
        tuple(row.values()) for path in (demo / "task_index/all", tmp_path / "p")[folder].glob("*.csv")
        for row in csv.DictReader(path.open(newline="", encoding="utf-8"))
    ) for folder in (0, 1)}  # fmt: skip
    assert rows[0] == rows[1]


def test_the_index_does_not_depend_on_the_number_of_processes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 20 patients in pieces of one part, made by two processes and resumed by a third after some were lost."""
    monkeypatch.setattr(index_build, "UNIT_PATIENTS", 20)
    monkeypatch.setattr(index_build, "PIECE_BYTES", 1)
    for group in ("task", "patient"):
        folders = [tmp_path / f"{group}{n}" for n in (1, 2)]
        flags = ["--root_dir", str(demo), "--group", group, "--output_path"]
        task_sample_info_gen.main([*flags, str(folders[0])])
        killed = partial(task_sample_info_gen.main, [*flags, str(folders[1]), "--num_workers", "2"])
        with monkeypatch.context() as patch:
            patch.setattr(index_build.Provenance, "complete", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                killed()
        shutil.rmtree(folders[1] / ".work" / "part-00001")
        for name in ("written-emar", "written-next_event", "written-1"):
            (folders[1] / ".work" / name).unlink(missing_ok=True)
        killed()
        files = [{path.name: path.read_bytes() for path in folder.glob("*.csv")} for folder in folders]
        assert files[0] == files[1] and len(files[0]) > 40
        records = [read_json(folder / "provenance.json") for folder in folders]
        assert all(records[0][key] == records[1][key] for key in ("digest", "tasks", "patients", "inputs", "settings"))
        assert not (folders[1] / ".work").exists()
    assert files[0].keys() == {f"{row['subject_id']}.csv" for row in demo_rows(demo, each=100_000)}


def test_weights_are_of_the_whole_task(demo: Path) -> None:
    rows = list(csv.DictReader((demo / "task_index/all/emar.csv").open(newline="", encoding="utf-8")))
    counts = Counter(label for row in rows for label in json.loads(row["target"]))
    for row in rows:
        frequencies = [counts[label] for label in label_list(json.loads(row["target"]))]
        assert row["target_weight"] == repr(len(frequencies) / sum(frequencies))
    radiology = csv.DictReader((demo / "task_index/all/radiology.csv").open(newline="", encoding="utf-8"))
    assert {row["target_weight"] for row in radiology} == {"1"}


def demo_rows(demo: Path, each: int = 3) -> list[dict[str, str]]:
    rows = []
    for name in TASKS:
        rows += list(csv.DictReader((demo / f"task_index/all/{name}.csv").open(newline="", encoding="utf-8")))[:each]
    return rows


def test_samples_are_the_same_from_both_layouts_lazy_or_not(demo: Path) -> None:
    rows = demo_rows(demo)
    lazy = MIMICIV(demo, sample_info=rows, lazzy_mode=True, shuffle=False)
    files = MIMICIV(demo, sample_info=rows, lazzy_mode=True, shuffle=False, ehr_dir=demo / "patients_ehr_files")
    kept = MIMICIV(demo, sample_info=rows, shuffle=False, log=False)
    for i in range(len(rows)):
        assert lazy[i] == files[i] == kept[i]
        assert str(lazy.text(i)) == lazy[i]["input"]


def test_parts_of_a_rendered_text_join_again(demo: Path) -> None:
    rows = demo_rows(demo, each=20)
    ds = MIMICIV(demo, sample_info=rows, lazzy_mode=True, shuffle=False)
    for i in range(len(rows)):
        made, task = ds.text(i), TASKS[rows[i]["task"]]
        parsed = SampleText.parse(str(made), task)
        assert str(parsed) == str(made)
        assert (parsed.patient, parsed.admission) == (made.patient, made.admission)
        if task.kind == "risk" and made.anchor is not None:
            assert parsed.window[parsed.anchor].startswith(made.window[made.anchor])


def test_a_released_row_passes_through(demo: Path) -> None:
    ds = MIMICIV(demo, sample_info=demo_rows(demo, each=1), lazzy_mode=True, shuffle=False)
    released = [{**ds[i], "instruction": "Their own wording."} for i in range(len(ds))]
    for row in released:
        row["task_info"] = {k: row["task_info"][k] for k in ("task", "metric", "target", "label")}
    again = MIMICIV(demo / "nowhere", sample_info=released, lazzy_mode=True, shuffle=False)
    for i, row in enumerate(released):
        assert {k: again[i][k] for k in ("idx", "instruction", "input", "output")} == {
            k: row[k] for k in ("idx", "instruction", "input", "output")
        }


def test_no_sample_shares_state_with_another(demo: Path) -> None:
    ds = MIMICIV(demo, sample_info=demo_rows(demo, each=1), shuffle=False, log=False)
    before = ds[0]["task_info"]["label"]
    ds[0]["task_info"]["label"] = "changed"
    ds[0]["task_info"]["extra"] = 1
    assert ds[0]["task_info"]["label"] == before and "extra" not in ds[0]["task_info"]


def test_the_order_is_shuffled_the_same_way_every_time(demo: Path) -> None:
    rows = demo_rows(demo)
    first, second = (MIMICIV(demo, sample_info=rows, lazzy_mode=True) for _ in range(2))
    order = [first[i]["idx"] for i in range(len(rows))]
    assert order == [second[i]["idx"] for i in range(len(rows))] and sorted(order) == list(range(len(rows))) != order


def test_dataloader_workers_see_the_same_samples(demo: Path) -> None:
    from torch.utils.data import DataLoader

    ds = MIMICIV(demo, sample_info=demo_rows(demo, each=1), lazzy_mode=True, shuffle=False)
    direct = [ds[i]["input"] for i in range(len(ds))]
    for method in ("fork", "spawn"):
        loader = DataLoader(ds, batch_size=None, num_workers=2, multiprocessing_context=method)
        assert [sample["input"] for sample in loader] == direct


def test_an_index_of_another_build_is_an_error(demo: Path) -> None:
    row = {**demo_rows(demo, each=1)[0], "subject_id": "12345"}
    with pytest.raises(Exception, match=r"sample_info\[0\]: .* a trajectory of the patient, .*same build"):
        MIMICIV(demo, sample_info=[row], lazzy_mode=True)[0]
    row = {**demo_rows(demo, each=1)[0], "context_end": "999999"}
    with pytest.raises(Exception, match="event .*same build"):
        MIMICIV(demo, sample_info=[row], lazzy_mode=True)[0]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_validation_finds_what_does_not_fit(demo: Path, tmp_path: Path, num_workers: int) -> None:
    rows = demo_rows(demo, each=2)
    for row in rows[:1]:
        row["target"] = '["something else"]'
    rows[1]["context_end"] = "100000"
    rows[2]["event"] = "omr"
    path = tmp_path / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    flags = ["--root_dir", demo, "--num_workers", num_workers]
    done = command("mimiciv_dataset/validate_index.py", path, path, *flags, check=False)
    assert done.returncode == 1
    assert f"{2 * len(rows) - 6:,} agree, 6 do not" in done.stdout
    assert f"{path}, row 2: different target\n" in done.stdout
    subjects = {row["subject_id"] for row in rows}
    assert not any(subject in done.stdout + done.stderr for subject in subjects)
    for reason in ("position out of range", "different event"):
        assert reason in done.stdout


def test_labels_on_the_demo_have_both_values(demo: Path) -> None:
    one_sided = {"ICU_Stay_7day", "ICU_Stay_14day"}  # the demo's patients of at most 1,200 events have no such stay
    for name, task in TASKS.items():
        if task.kind == "risk":
            rows = csv.DictReader((demo / f"task_index/all/{name}.csv").open(newline="", encoding="utf-8"))
            assert len({row["target"] for row in rows}) == (1 if name in one_sided else 2)


def test_reader_positions(demo: Path) -> None:
    for folder in ("patients_ehr", "patients_ehr_files"):
        reader = Trajectories(demo / folder)
        subject = reader.subject_ids()[3]
        whole = reader.trajectory(subject)
        assert len(whole) == reader.length(subject)
        assert reader.has(subject) and not reader.has("0") and not reader.has("None")
        positions = [len(whole) - 1, 0, 5, 5, 40]
        assert reader.events(subject, positions) == [whole[p] for p in positions]
        assert label_list("yes") == ["yes"]
