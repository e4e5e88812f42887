"""Runs that belong together are one row of the report, each run has its baselines, and few samples are called few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import SOME, report
from written_runs import write_run

from evaluation.finished_runs import read_runs
from evaluation.published import main as published
from evaluation.score import score_dir
from pipeline.errors import UserError
from pipeline.files import read_json

DECISION, RISK = SOME[:3], SOME[4:]


def shape(folders: list[Path]) -> dict[str, int]:
    """Name of each run → number of its samples."""
    return {run.name: len(run.outputs) for run in read_runs(folders)}


def change_replies(folder: Path, **fields: Any) -> None:
    """Change all replies of a run, and score it again."""
    path = folder / "outputs.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["outputs"][0] |= fields
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    score_dir(folder, resamples=40)


def test_a_model_run_in_parts_is_one_row(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "decision", tasks=DECISION), write_run(tmp_path / "risk", tasks=RISK)
    whole = write_run(tmp_path / "whole", "tiny", tasks=(*DECISION, *RISK))
    (run,), (expected,) = read_runs([a, b]), read_runs([whole])
    assert run.folders == [a, b] and run.tasks == expected.tasks and run.result["macro"] == expected.result["macro"]
    assert (run.result["expected"], run.result["missing"]) == (5 * 60, 0)
    found = report(a, b)
    assert "1 run and 0 baselines" in found.text and not any("different samples" in notice for notice in found.notices)
    assert found.cells("folder")[1] == f"{a.name}, {b.name}" and f"{a}, {b}" in found.text


def test_chunks_of_one_dataset_in_two_directories_are_one_row(tmp_path: Path) -> None:
    arguments = {"dataset_name": "index.csv"}
    folders = [write_run(tmp_path / task, tasks=[task], arguments=arguments, available=130) for task in SOME[:2]]
    (run,) = read_runs(folders)
    assert (run.result["available"], len(run.outputs)) == (130, 120) and run.arguments["dataset_name"] == "index.csv"
    assert any("a run on 120 of the 130 samples" in notice for notice in report(*folders).notices)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"arguments": {"prompt": True}},
        {"arguments": {"temperature": 1.0}},
        {"instructions_sha256": "f" * 64},
    ],
)
def test_other_models_and_settings_stay_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    folders = [write_run(tmp_path / "a", tasks=DECISION), write_run(tmp_path / "b", **{"model": "tiny"} | other, tasks=RISK)]
    names = {"tiny": 180, "other": 120} if "model" in other else {"tiny (a)": 180, "tiny (b)": 120}
    assert shape(folders) == names
    assert "on the same samples, so nothing to compare" in report(*folders).text


def test_the_same_samples_twice_are_two_runs(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, tasks=SOME[:count]) for name, count in (("a", 2), ("b", 1), ("c", 1))]
    change_replies(folders[1], response="something else")
    assert shape(folders) == {"tiny (a)": 120, "tiny (b)": 60, "tiny (c)": 60}
    found = report(*folders)
    assert "tiny (a) − tiny (b)" in found.text
    same = [notice for notice in found.notices if "are one model with the same settings" in notice]
    assert len(same) == 3 and same[0].startswith("tiny (a) and tiny (b)")
    assert [notice.partition("; ")[2].split()[0] for notice in same] == ["60", "0", "60"], "replies that differ"


def test_records_decide_what_belongs_together(tmp_path: Path) -> None:
    """With records, paths may be spelled differently, and another model of the same name is another model."""
    folders = [write_run(tmp_path / task, "x/tiny", tasks=[task]) for task in SOME[:3]]
    for folder, weights in zip(folders, ("1", "1", "2"), strict=True):
        inputs = {"model": {"digest": weights, "path": None}, "dataset": {"digest": folder.name, "path": None}}
        record = {"step": "test.py", "settings": {"prompt": True, "samples": len(folder.name)}, "inputs": inputs}
        (folder / "provenance.json").write_text(json.dumps(record))
        result = read_json(folder / "result.json")
        arguments = result["arguments"] | {"model_name_or_path": f"{folder.name}/tiny"}
        (folder / "result.json").write_text(json.dumps(result | {"arguments": arguments}))
    assert shape(folders) == {f"tiny ({SOME[0]})": 120, f"tiny ({SOME[2]})": 60}


def test_each_run_keeps_its_baselines(tmp_path: Path) -> None:
    """Baselines on other samples are one row; the model of each run is compared with it on its own samples."""
    a, b = write_run(tmp_path / "a", "first", tasks=DECISION), write_run(tmp_path / "b", "second", tasks=RISK)
    for folder, tasks in ((a, DECISION), (b, RISK)):
        write_run(folder / "baselines/majority", "majority", 0.1, tasks)
    assert shape([a, b]) == {"first": 180, "second": 120, "majority": 300}
    found = report(a, b)
    assert found.cells("first − majority")[5] == "180" and found.cells("second − majority")[5:7] == ["120", "40"]


def test_baselines_that_answer_differently_are_two_rows(tmp_path: Path) -> None:
    a, b = (write_run(tmp_path / name, name, tasks=DECISION) for name in "ab")
    for folder in (a, b):
        write_run(folder / "baselines/majority", "majority", 0.1, DECISION)
    assert shape([a, b]) == {"a": 180, "b": 180, "majority": 180}
    change_replies(b / "baselines/majority", response="something else")
    assert shape([a, b]) == {"a": 180, "b": 180, "majority (a)": 180, "majority (b)": 180}


def test_six_samples_are_too_few(tmp_path: Path) -> None:
    good, bad = (write_run(tmp_path / name, name, skill, SOME, n=6) for name, skill in (("good", 1), ("bad", 0)))
    found = report(good, bad, flags=("--markdown", "--png"))
    for run in ("good", "bad"):
        assert any(notice.startswith(f"{run}: too few samples for intervals and tests in 6 of 6") for notice in found.notices)
    assert not found.bold_values and "[" not in "".join(found.cells("emar")), "no best of six samples, and no interval"
    assert found.cells("ICU_Stay_7day")[1:3] == ["6", "2"]
    assert found.cells("emar")[-2:] == ["1.000 too few", "0.000 too few"]
    pair = found.cells("good − bad")
    assert pair[1:5] == ["1.000 too few", "too few", pair[3], "too few"] and pair[3].endswith("too few")
    assert pair[5:] == ["36", "4", "0", "0", "0", "6"]
    assert "Too few samples for curves: ED_Hospitalization (" in found.text and not {"ICU_Stay_7day"} & set(found.figures)
    text = (good / "report.md").read_text(encoding="utf-8")
    assert "| emar | 6 | f1 | 1.000 too few | 0.000 too few |" in text and "| ICU_Stay_7day | 6, 2 yes | auroc |" in text
    assert "n = 12, 4 yes" in text and "[" not in text


def test_curves_only_of_runs_with_enough_samples(tmp_path: Path) -> None:
    found = report(*(write_run(tmp_path / name, name, tasks=RISK, n=n) for name, n in (("many", 60), ("few", 30))))
    for task in RISK:
        assert '"too few few"' in json.dumps(found.figures[task]) and "Too few samples for curves" not in found.text
    assert found.cells("ICU_Stay_7day")[1:3] == ["30–60", "10–20"]
    assert found.cells("ICU_Stay_7day")[-1].endswith("too few n = 30, 10 yes")


def test_zero_is_never_the_best(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, 0, DECISION) for name in "ab"]
    assert not report(*folders).bold_values


def test_rows_without_patients_are_said_to_be(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=SOME[:2])
    path = folder / "outputs.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["task_info"].pop("subject_id") if line["task_info"]["task"] == SOME[0] else None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "result.json").unlink()  # it has the identities of the samples
    score_dir(folder, resamples=40)
    assert any("samples without subject_id in 1 of 2 tasks" in notice for notice in report(folder).notices)


def test_published_figures_stand_beside_the_number_of_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published([str(write_run(tmp_path / name, "EHR-R1-8B", tasks=SOME, n=n)) for name, n in (("many", 60), ("few", 6))])
    many_f1, many_auroc, few_f1, few_auroc, note = capsys.readouterr().out.splitlines()[2:]
    assert "[" in many_f1 and "too few" not in many_f1 and many_auroc.split()[-6:] == ["–", "2", "of", "18", "120", "40"]
    assert "too few" in few_f1 and "0.6006" in few_f1 and few_f1.split()[-5:] == ["2", "of", "24", "12", "–"]
    assert "too few" in few_auroc and few_auroc.split()[-5:] == ["2", "of", "18", "12", "4"]
    assert note.startswith("no difference: ")
    complete = write_run(tmp_path / "complete", "EHR-R1-8B", n=6)
    published([str(complete)])
    f1, auroc = capsys.readouterr().out.splitlines()[2:]
    for line, metric, value in ((f1, "decision_f1", 0.6006), (auroc, "risk_auroc", 0.9188)):
        assert f" {read_json(complete / 'result.json')['macro']['paper'][metric] - value:+.4f} " in line


def test_runs_of_the_same_directory_name_are_all_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    published([str(write_run(Path(parent) / "run", tasks=SOME, n=6)) for parent in "ab"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["a/run", "a/run", "b/run", "b/run"]


def test_another_result_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"benchmarks": {}}')
    with pytest.raises(UserError, match=r"result\.json: expected a result of evaluation\.score, got other JSON\. Score"):
        published([str(tmp_path)])
