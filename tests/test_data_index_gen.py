"""Sampled sets: filters, draws and the command line, on indexes small enough to check by eye."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiciv_dataset import data_index_gen
from mimiciv_dataset.data_index_gen import main, read_config
from mimiciv_dataset.draws import draw_uniform, keep_smallest, row_hashes, weighted_keys
from mimiciv_dataset.index_files import INDEX_COLUMNS, SAMPLE_COLUMNS
from mimiciv_dataset.index_rows import normalise_row, read_rows
from mimiciv_dataset.row_numbers import COLUMNS, RowNumbers
from mimiciv_dataset.tasks import TASKS
from pipeline.digests import content_digest
from pipeline.errors import UserError
from pipeline.files import scratch_dir
from pipeline.provenance import Provenance
from pipeline.records import digest_of

REPO = Path(__file__).parents[1]


def row(task: str, subject: int, end: int, target: Any, **columns: Any) -> dict[str, Any]:
    """An index row with a window of 20 events."""
    event = TASKS[task].event or "poe"
    plain = {"subject_id": subject, "hadm_id": 20_000_000 + subject, "task": task, "event": event}
    plain |= {"context_begin": end - 20, "context_end": end, "target": json.dumps(target), "target_weight": 1.0}
    return plain | {"admissions_id": "", "last_discharge_id": "", "audit": ""} | columns


def write_index(folder: Path, rows: Sequence[dict[str, Any]], by: str = "task") -> Path:
    """An index folder: a CSV for every value of `by`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(str(r[by]) for r in rows):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, INDEX_COLUMNS)
            writer.writeheader()
            writer.writerows(r for r in rows if str(r[by]) == name)
    return folder


class Draw:
    """Runs the command on a temporary index and reads what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out" / "set.csv"

    def __call__(
        self, index: Path, config: dict[str, int], *flags: str, subjects: Sequence[int] = range(1, 100)
    ) -> list[dict[str, str]]:
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / "ids.csv").write_text("subject_id\n" + "".join(f"{s}\n" for s in subjects))
        main([
            "--data_index_dir", str(index), "--subject_id_path", str(self.folder / "ids.csv"),
            "--data_config", str(self.folder / "config.json"), "--output_path", str(self.output), "--overwrite", *flags,
        ])  # fmt: skip
        with self.output.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def report(self) -> dict[str, dict[str, int]]:
        return json.loads(self.output.with_suffix(".provenance.json").read_text())["tasks"]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    return Draw(tmp_path)


# --- configs


OMOP = ("omr", "labevents", "diagnoses_icd", "procedures_icd", "prescriptions", "next_event")
QUICKSTART = ("ED_Hospitalization", "ED_ICU_Tranfer_12hour", "ED_Reattendance_3day", "diagnosis", "diagnosis_ccs")


def configs() -> dict[str, dict[str, int]]:
    return {path.stem: json.loads(path.read_text()) for path in (REPO / "scripts/data_configs").glob("*.json")}


def test_config_files_agree_with_the_registry() -> None:
    """The training set has the tasks' caps, a benchmark 500 rows of each released task, under a long and a short name."""
    released = {kind: {t.name: 500 for t in TASKS.values() if t.kind == kind and t.released} for kind in ("decision", "risk")}
    assert len(released["decision"]) == 27 and len(released["risk"]) == 18
    assert configs() == {
        "ehr_ins": {task.name: task.cap for task in TASKS.values() if task.cap},
        "ehr_bench_decision_making": released["decision"],
        "ehr_bench_risk_prediction": released["risk"],
        "decision_making": released["decision"],
        "risk_prediction": released["risk"],
        "quickstart": dict.fromkeys(QUICKSTART, -1),
        "omop": dict.fromkeys(OMOP, 20) | {"LengthOfStay_3day": -1, "Inpatient_Mortality": -1},
    }


@pytest.mark.parametrize("config", [[], {"omr": "all"}, {"omr": -2}, {"omr": 1.5}, {"omr": True}, {"no_task": 3}])
def test_bad_config(tmp_path: Path, config: Any) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"c\.json: expected"):
        read_config(tmp_path / "c.json", None)


@pytest.mark.parametrize("force", [0, -3, 1.5])
def test_bad_force(tmp_path: Path, force: float) -> None:
    (tmp_path / "c.json").write_text('{"omr": 5}')
    with pytest.raises(UserError, match="--force_task_num"):
        read_config(tmp_path / "c.json", force)


# --- filters


def test_every_filter_counts_its_rows(draw: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("omr", 1, 100 + i, ["BMI"]) for i in range(6)]
    rows += [row("omr", 500, 100, ["BMI"])]  # another patient
    rows += [row("omr", 2, 100, ["BMI"], context_begin=90)]  # 10 events: not more than 10
    rows += [row("omr", 2, 300, ["BMI"], context_begin=200)]  # 100 events: not fewer than 100
    rows += [rows[0]]  # twice
    rows += [row("omr", 3, 100, ["BMI", "Weight"])]  # an unknown label
    rows += [row("omr", 4, 100, ["BMI"], audit="stay_ended_in_window;outcome_in_window")]
    index = write_index(tmp_path / "index", rows)
    out = write_index(tmp_path / "out_index", [row("omr", 1, 100, ["other"]), row("emar", 1, 101, ["x"])])
    known = write_index(tmp_path / "labels", [row("omr", 9, 50, ["BMI"]), row("emar", 9, 50, ["Weight"])])
    drawn = draw(
        index, {"omr": 4}, "--out_data_index_dir", str(out), "--in_label_data_index_dir", str(known),
        "--exclude_audit", "outcome_in_window",
    )  # fmt: skip
    assert draw.report["omr"] == {
        "rows": 12, "subjects": 11, "window": 9, "distinct": 8, "admitted": 8, "answers": 8, "unseen": 7, "labels": 6,
        "audit": 5, "drawn": 4,
    }  # fmt: skip
    assert tuple(drawn[0]) == SAMPLE_COLUMNS
    assert {r["subject_id"] for r in drawn} == {"1"} and "100" not in {r["period_end"] for r in drawn}
    audit = next(csv.DictReader(draw.output.with_suffix(".audit.csv").open(newline="")))
    assert (audit["rows"], audit["outcome_in_window"], audit["drawn_outcome_in_window"]) == ("6", "1", "0")
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("omr ") and "/" not in line]
    assert line[1:] == ["12", "11", "9", "8", "8", "8", "7", "6", "5", "4"]


def test_admission_inside_the_window(draw: Draw, tmp_path: Path) -> None:
    rows = [row(task, 1, 100 + i, ["x"], admissions_id=a) for task in ("diagnoses_ccs", "diagnosis_ccs")
            for i, a in enumerate(("", 80 + 1, 82, 85))]  # fmt: skip
    drawn = draw(write_index(tmp_path / "index", rows), {"diagnoses_ccs": -1, "diagnosis_ccs": -1})
    ends = {task: [r["period_end"] for r in drawn if r["task"] == task] for task in ("diagnoses_ccs", "diagnosis_ccs")}
    # The windows begin at 80, 81, 82, 83: two of the admissions are their first event, which is not inside.
    assert ends == {"diagnoses_ccs": ["100", "103"], "diagnosis_ccs": ["100", "101", "102", "103"]}


def test_chartevents_of_ten_names_are_too_long(draw: Draw, tmp_path: Path) -> None:
    names = [f"name {i}" for i in range(10)]
    rows = [row(task, 1, end, names[:n]) for task in ("chartevents", "labevents") for end, n in ((100, 9), (101, 10))]
    drawn = draw(write_index(tmp_path / "index", rows), {"chartevents": -1, "labevents": -1})
    assert Counter(r["task"] for r in drawn) == {"labevents": 2, "chartevents": 1}


def test_float_ids_and_released_column_names(draw: Draw, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index/omr.csv").write_text(
        "subject_id,hadm_id,task,event,period_begin,period_end,target,admissions_id\n"
        '1.0,28710730.0,omr,omr,1.0,21,"[""BMI""]",nan\n1,nan,omr,omr,2,22,"[""BMI""]",2.0\n'
    )
    drawn = draw(tmp_path / "index", {"omr": -1})
    assert [(r["subject_id"], r["hadm_id"], r["period_begin"], r["admissions_id"]) for r in drawn] == [
        ("1", "28710730", "1", ""), ("1", "", "2", "2"),
    ]  # fmt: skip


# --- draws


def test_counts(draw: Draw, tmp_path: Path) -> None:
    rows = [row("omr", 1, end, ["BMI"]) for end in range(100, 150)]
    rows += [row("services", 1, end, ["MED"]) for end in range(100, 120)]
    index = write_index(tmp_path / "index", rows)

    def counts(config: dict[str, int], *flags: str) -> dict[str, int]:
        return dict(Counter(r["task"] for r in draw(index, config, *flags)))

    config = {"omr": 10, "services": -1}
    assert counts(config) == {"omr": 10, "services": 20}
    assert counts(config, "--force_task_num", "7") == {"omr": 7, "services": 7}
    assert counts(config, "--force_task_num", "0.5") == {"omr": 5, "services": 10}
    assert counts(config, "--force_task_num", "-1") == {"omr": 50, "services": 20}
    assert counts({"omr": 10, "ED_Hospitalization": 5}, "--kind", "decision") == {"omr": 10}


def test_balance_force(draw: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("ICU_Readmission", 1, 100 + i, "yes" if i < 4 else "no", target_weight=0.1) for i in range(30)]
    rows += [row("ICU_Stay_7day", 1, 100 + i, "no") for i in range(30)]
    index = write_index(tmp_path / "index", rows)
    config = {"ICU_Readmission": 500, "ICU_Stay_7day": 500}
    assert Counter(r["target"] for r in draw(index, config, "--balance_force")) == {'"yes"': 4, '"no"': 4}
    assert "AUROC is undefined" in " ".join(capsys.readouterr().out.split())
    drawn = draw(index, config, "--balance_force", "--force_task_num", "5")
    assert Counter(r["target"] for r in drawn) == {'"yes"': 2, '"no"': 2}
    assert len(draw(index, config)) == 60


def make_rows(count: int) -> list[dict[str, Any]]:
    pick = random.Random(7)
    rows = []
    for number in range(count):
        task = pick.choice(("omr", "emar", "ICU_Readmission"))
        target = pick.choice(("yes", "no")) if TASKS[task].kind == "risk" else [pick.choice("abcd")]
        rows.append(row(task, pick.randint(1, 20), 100 + number, target, target_weight=pick.choice((0.1, 0.5, 1.0))))
    return rows


@pytest.mark.parametrize(
    "flags", [(), ("--balance_sample",), ("--balance_force", "--force_task_num", "0.3"), ("--num_workers", "2")]
)
def test_order_files_and_processes_do_not_matter(
    draw: Draw, tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = make_rows(300), {"omr": 20, "emar": 20, "ICU_Readmission": 20}
    draw(write_index(tmp_path / "a", rows), config, *flags)
    first = draw.output.read_bytes()
    random.Random(1).shuffle(rows)
    for name, by in (("b", "task"), ("c", "subject_id")):
        draw(write_index(tmp_path / name, rows, by), config, *flags, "--num_workers", "1")
        assert draw.output.read_bytes() == first
    monkeypatch.setattr(data_index_gen, "PIECE_ROWS", 3)  # sorted in pieces
    for name in ("a", "b", "c"):
        draw(tmp_path / name, config, *flags, "--overwrite")
        assert draw.output.read_bytes() == first
    draw(tmp_path / "a", config, *flags, "--seed", "43")
    assert draw.output.read_bytes() != first


def test_process_does_not_matter(draw: Draw, tmp_path: Path, run_command: Callable[..., Any]) -> None:
    index = write_index(tmp_path / "index", make_rows(200))
    draw(index, {"omr": 20, "emar": 20, "ICU_Readmission": 20})
    first = draw.output.read_bytes()
    run_command(
        "mimiciv_dataset/data_index_gen.py", "--data_index_dir", index, "--subject_id_path", tmp_path / "ids.csv",
        "--data_config", tmp_path / "config.json", "--output_path", draw.output,
        PYTHONHASHSEED="5", POLARS_MAX_THREADS="1",
    )  # fmt: skip
    assert draw.output.read_bytes() == first


def frame(count: int) -> pl.DataFrame:
    ids = [str(i // 7) for i in range(count)]
    return pl.DataFrame({"subject_id": ids, "event": "omr", "context_begin": range(count), "context_end": 5000})


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(40)), st.integers(1, 45), st.sampled_from(["uniform", "weighted", "balanced"]))
def test_a_draw_is_that_of_the_sorted_rows(order: list[int], number: int, how: str) -> None:
    """The rows kept on disk, whatever their order, are the first ones of all rows sorted by key and hash."""
    rows = np.zeros(40, COLUMNS)
    rows["hash"], rows["window_end"] = row_hashes("omr", frame(40), 42), row_hashes("omr", frame(40), 43)
    rows["row"], rows["weight"] = range(40), [1 + i % 3 for i in range(40)]
    rows["label"] = [how == "balanced" and i % 5 == 0 for i in range(40)]
    keys = -np.log(((rows["hash"] >> np.uint64(11)) + 0.5) * 2.0**-53) / rows["weight"] if how == "weighted" else rows["hash"]
    ranked = [[i for i in np.lexsort((rows["hash"], keys)) if rows["label"][i] == label] for label in (0, 1)]
    expected = {i for of_label in ranked for i in of_label[:number]}
    key = (lambda part: weighted_keys(part["hash"], part["weight"])) if how == "weighted" else lambda part: part["hash"]
    with tempfile.TemporaryDirectory() as name:
        kept = RowNumbers(Path(name) / "rows")
        for start in range(0, 40, 10):
            kept.add(rows[order][start : start + 10])
        keep_smallest(kept, key, {0: number, 1: number})
        assert {row for part in kept for row in part["row"]} == expected and kept.height == len(expected)


@given(st.integers(1, 30), st.integers(0, 10))
def test_larger_draws_contain_smaller_ones(number: int, extra: int) -> None:
    hashes = row_hashes("omr", frame(50), 42)
    assert set(draw_uniform(hashes, number)) <= set(draw_uniform(hashes, number + extra))


def test_chances() -> None:
    """Over many seeds, one row of ten is drawn uniformly, or in proportion to its weight."""
    rows, weights, draws = frame(10), np.arange(1, 11, dtype=float), 4000
    uniform, weighted = np.zeros(10), np.zeros(10)
    for seed in range(draws):
        hashes = row_hashes("omr", rows, seed)
        uniform[draw_uniform(hashes, 1)] += 1
        weighted[weighted_keys(hashes, weights).argmin()] += 1
    for drawn, chance in ((uniform, np.full(10, 0.1)), (weighted, weights / weights.sum())):
        deviation = np.sqrt(draws * chance * (1 - chance))
        assert (np.abs(drawn - draws * chance) < 4 * deviation).all()


def test_hashes_differ_and_are_even() -> None:
    hashes = row_hashes("omr", frame(20_000), 42)
    assert len(np.unique(hashes)) == len(hashes)
    counts = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert abs(counts - 1250).max() < 5 * np.sqrt(1250)


# --- errors and outputs


def test_errors_name_file_and_columns(draw: Draw, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    (index / "omr.csv").write_text("subject_id,task,event,context_begin\n1,omr,omr,3\n")
    with pytest.raises(UserError, match=r"omr\.csv: expected columns target, context_end/period_end, got subject_id"):
        draw(index, {"omr": 1})
    (index / "omr.csv").write_text("subject_id;task;event\n")
    with pytest.raises(UserError, match=r"omr\.csv: expected columns .* got columns separated by semicolons"):
        draw(index, {"omr": 1})
    (index / "omr.csv").write_text("")
    with pytest.raises(UserError, match="got an empty file"):
        draw(index, {"omr": 1})
    (index / "omr.csv").write_text('subject_id,task,event,context_begin,context_end,target\n1,omr,omr,a,30,"[]"\n')
    with pytest.raises(UserError, match=r"omr\.csv, row 2, column context_begin: expected a whole number, got another text"):
        draw(index, {"omr": 1})
    (index / "omr.csv").write_text('subject_id,task,event,context_begin,context_end,target\n1,omr,omr,,30,"[]"\n')
    with pytest.raises(UserError, match=r"omr\.csv, row 2, column context_begin: expected a value"):
        draw(index, {"omr": 1})
    with pytest.raises(UserError, match="nothing: expected a task index"):
        draw(tmp_path / "nothing", {"omr": 1})


def test_python_lists_are_no_targets(draw: Draw, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", [row("chartevents", 1, 100, ["x"]) | {"target": "['x']"}])
    with pytest.raises(UserError, match="chartevents.csv, row 2, column target: expected a JSON string or list"):
        draw(index, {"chartevents": -1})


def test_contradicting_rows_are_an_error(draw: Draw, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", [row("omr", 1, 100, ["BMI"]), row("omr", 1, 100, ["Weight"])])
    with pytest.raises(UserError, match="omr: .*2 rows that contradict another"):
        draw(index, {"omr": -1})


def test_weights_are_needed_where_they_count(draw: Draw, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", [row(task, 1, 100, ["x"], target_weight="") for task in ("omr", "emar")])
    assert len(draw(index, {"omr": 1})) == 1
    with pytest.raises(UserError, match="emar: expected target_weight"):
        draw(index, {"emar": 1})


def test_nothing_left_writes_nothing(draw: Draw, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", [row("omr", 1, 100, ["x"])])
    with pytest.raises(UserError, match="none that pass the filters"):
        draw(index, {"omr": 1}, subjects=[2])
    assert list(draw.output.parent.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_overwrite_keeps_the_old_set_until_the_new_one_exists(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_index(tmp_path / "index", [row("omr", 1, 100, ["x"]), row("omr", 2, 100, ["x"])])
    draw(index, {"omr": 1})
    before = contents(draw.output.parent)
    with pytest.raises(UserError, match="none that pass the filters"):
        draw(index, {"omr": 1}, subjects=[3])
    assert contents(draw.output.parent) == before

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mimiciv_dataset.data_index_gen.map_lines", killed)
        draw(index, {"omr": -1})
    assert contents(draw.output.parent) == before
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # between the files and the finished record
        patch.setattr(Provenance, "complete", killed)
        draw(index, {"omr": -1})
    with pytest.raises(UserError, match="got an unfinished one"):
        draw(draw.output, {"omr": -1}, "--output_path", str(tmp_path / "other.csv"))
    assert len(draw(index, {"omr": -1})) == 2 and draw.report["omr"]["drawn"] == 2


def test_a_second_process_is_refused_while_a_set_is_drawn(draw: Draw, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", [row("omr", 1, 100, ["x"])])
    with scratch_dir(tmp_path / "out/.set.csv.tasks") as first:
        (first / "part").touch()
        with pytest.raises(UserError, match=r"set\.csv\.tasks: expected no other process .*, got one\. Wait"):
            draw(index, {"omr": 1})
        assert (first / "part").exists()
    assert len(draw(index, {"omr": 1})) == 1 and len(contents(draw.output.parent)) == 3


def test_the_record_names_what_a_set_was_drawn_from(draw: Draw, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = write_index(tmp_path / "index", [row("omr", 1, 100, ["x"])])
    index_provenance = Provenance(index, "mimiciv_dataset/task_sample_info_gen.py")
    index_provenance.complete()
    draw(index, {"omr": 1}, "--seed", "3")
    record = json.loads(draw.output.with_suffix(".provenance.json").read_text())
    assert record["inputs"]["index"]["digest"] == digest_of(index_provenance.path) and record["settings"]["draw"]["seed"] == 3
    assert record["complete"] and set(record["files"]) == {"set.csv", "set.audit.csv"} and "PhysioNet" in record["data_use"]
    assert sorted(path.name for path in draw.output.parent.iterdir()) == ["set.audit.csv", "set.csv", "set.provenance.json"]
    seen = write_index(tmp_path / "seen", [row("omr", 2, 100, ["x"])])
    other = draw.folder / "out" / "other.csv"
    capsys.readouterr()
    draw(draw.output, {"omr": 1}, "--out_data_index_dir", str(seen), "--output_path", str(other))
    again = json.loads(other.with_suffix(".provenance.json").read_text())  # a set drawn from a set
    assert again["inputs"]["index"]["digest"] == record["digest"]
    assert again["inputs"]["out_data_index"]["digest"] == content_digest(seen)
    assert "seen: its origin is unknown" in capsys.readouterr().out
    assert all(value is None or "/" not in str(value) for value in again["settings"]["filters"].values()), "no paths"


# --- reading rows


def test_rows_of_csv_and_jsonl(draw: Draw, tmp_path: Path) -> None:
    draw(write_index(tmp_path / "index", [row("omr", 1, 100, ['B, "M" I']), row("omr", 2, 50, ["é"])]), {"omr": -1})
    rows = read_rows(draw.output)
    assert [(r["subject_id"], r["period_begin"], r["period_end"], r["target"]) for r in rows] == [
        ("1", 80, 100, ['B, "M" I']), ("2", 30, 50, ["é"]),
    ]  # fmt: skip
    assert normalise_row(row("ED_Hospitalization", 1, 50, "no"))["target"] == "no"
    assert rows[0]["admissions_id"] is None and rows[0] is not rows[0]
    assert rows[-1] == rows[1] and len(rows[0:2]) == 2 and list(pickle.loads(pickle.dumps(rows))) == list(rows)  # noqa: S301
    released = {
        "idx": 3,
        "instruction": "?",
        "input": "## ...",
        "output": "a",
        "candidates": None,
        "task_info": {"task": "omr"},
    }
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(released) + "\n\n" + json.dumps(row("omr", 5, 60, ["y"])) + "\n")
    first, second = read_rows(path)
    assert first == released and (second["subject_id"], second["period_end"], second["target"]) == ("5", 60, ["y"])


def test_rows_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"task": "omr"}\n[1]\n{"a\n')
    rows = read_rows(path)
    for number, message in enumerate(
        ("line 1: expected columns subject_id", "line 2: expected a JSON object", "line 3: expected")
    ):
        with pytest.raises(UserError, match=message):
            rows[number]
    path = tmp_path / "x.csv"
    path.write_text("subject_id,task,period_begin,period_end\n1,omr,2\n")
    with pytest.raises(UserError, match=r"x\.csv, row 2: expected 4 fields"):
        read_rows(path)
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UserError, match=r"x\.csv: expected a CSV in UTF-8"):
        read_rows(path)


def test_datasets_need_no_polars(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('subject_id,task,period_begin,period_end,target\n1,omr,2,30,"[""x""]"\n')
    code = (
        "import sys; from mimiciv_dataset.index_rows import read_rows;"
        "from mimiciv_dataset.candidates import Candidates;"
        "from mimiciv_dataset.tasks import TASKS;"
        f"rows = list(read_rows({str(path)!r})); Candidates('nowhere').of(TASKS['omr'], ['x'], 'k');"
        "assert 'polars' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


# --- real rows


def test_on_the_demo(draw: Draw, tmp_path: Path, test_data: Path) -> None:
    golden = test_data / "golden/task_index.csv.gz"
    csv.field_size_limit(1 << 30)
    with gzip.open(golden, "rt", encoding="utf-8", newline="") as file:
        rows = [r | {"target_weight": 1.0} for r in csv.DictReader(file)]
    index = write_index(tmp_path / "index", rows)
    subjects = sorted({int(r["subject_id"]) for r in rows})
    drawn = draw(index, configs()["ehr_bench_risk_prediction"], "--balance_force", subjects=subjects)
    for task in {r["task"] for r in drawn}:
        counts = Counter(r["target"] for r in drawn if r["task"] == task)
        assert set(counts) == {'"yes"', '"no"'} and counts['"yes"'] == counts['"no"']
    config = configs()["ehr_bench_decision_making"]
    drawn = draw(index, config, subjects=subjects)
    for r in drawn:
        assert 10 < int(r["period_end"]) - int(r["period_begin"]) < 100
        assert r["task"] != "chartevents" or len(json.loads(r["target"])) < 10
    assert Counter(r["task"] for r in drawn)["next_event"] == 500
    draw(index, config, "--force_task_num", "0.2", subjects=subjects)
    seen_path = draw.output.rename(tmp_path / "seen.csv")
    seen = read_rows(seen_path)
    again = draw(index, config, "--out_data_index_dir", str(seen_path), subjects=subjects)
    key = {(r["task"], r["subject_id"], r["period_end"]) for r in seen}
    assert not key & {(r["task"], r["subject_id"], int(r["period_end"])) for r in again}
