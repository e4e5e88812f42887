"""The export of predictions: the package `meds-evaluation` scores it as result.json does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from meds_evaluation.evaluate import evaluate_binary_classification
from meds_evaluation.schema import PredictionSchema
from rendered_rows import rendered_rows, write_rows

from evaluation.external import meds_labels
from evaluation.external.meds_predictions import main
from evaluation.score import score_dir
from mimiciv_dataset.index_rows import read_rows
from pipeline.errors import UserError
from pipeline.files import read_json

TASKS = ("Inpatient_Mortality", "LengthOfStay_3day", "Readmission_60day")


def write_run(folder: Path, root: Path, replies: int = 1, with_p_yes: bool = True, **fields: Any) -> Path:
    """A finished run on all rows of `TASKS`; some answers are unreadable, some probabilities extreme."""
    lines = []
    for task in (*TASKS, "emar"):
        for number, row in enumerate(read_rows(root / f"task_index/all/{task}.csv")):
            info = {name: value for name, value in row.items() if name != "target"} | {"label": row["target"], **fields}
            outputs = []
            for reply in range(replies):
                p_yes = (number * 7919 + reply * 104729) % 1000 / 1000 if with_p_yes else None
                response = "?" if number % 7 == 3 and reply == 0 else ("yes" if (p_yes or 0) >= 0.5 else "no")
                outputs.append({"response": response, "p_yes": None if response == "?" else p_yes})
            lines.append({"key": f"{task} {number}", "task_info": info, "candidates": None, "outputs": outputs})
    folder.mkdir(parents=True)
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_dir(folder, resamples=5, expected=len(lines))
    return folder


def export(folder: Path, root: Path) -> dict[str, pl.DataFrame]:
    main([str(folder), "--root_dir", str(root)])
    for path in (folder / "meds_predictions").glob("*.parquet"):
        PredictionSchema.validate(pq.read_table(path))
    return {path.stem: pl.read_parquet(path) for path in (folder / "meds_predictions").glob("*.parquet")}


def test_the_package_gets_the_same_scores(synthetic_root: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", synthetic_root)
    tables, result = export(run, synthetic_root), read_json(run / "result.json")["tasks"]
    assert sorted(tables) == sorted(TASKS)
    two_labels = [task for task in TASKS if 0 < result[task]["positives"] < result[task]["n"]]
    assert len(two_labels) > 1
    for task in two_labels:
        theirs = evaluate_binary_classification(tables[task])["samples_equally_weighted"]
        assert theirs["roc_auc_score"] == pytest.approx(result[task]["auroc"], abs=1e-12)
        assert theirs["average_precision_score"] == pytest.approx(result[task]["auprc"], abs=1e-12)
        assert theirs["binary_accuracy"] == pytest.approx(result[task]["accuracy"])
        assert theirs["brier_score"] == pytest.approx(result[task]["brier"], abs=1e-6)


def test_subjects_and_times_are_those_of_the_labels(synthetic_root: Path, tmp_path: Path) -> None:
    tables = export(write_run(tmp_path / "run", synthetic_root), synthetic_root)
    index = [str(synthetic_root / f"task_index/all/{task}.csv") for task in TASKS]
    meds_labels.main(["--root_dir", str(synthetic_root), "--data_index", *index, "--output_path", str(tmp_path / "labels")])
    names = ["subject_id", "prediction_time", "boolean_value"]
    for task, table in tables.items():
        labels = pl.read_parquet(tmp_path / f"labels/{task}.parquet")
        assert labels.height and labels.join(table, on=names, how="anti").is_empty()
        assert table.height == len(list(read_rows(synthetic_root / f"task_index/all/{task}.csv")))


def test_of_several_replies_the_vote_is_exported(synthetic_root: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", synthetic_root, replies=3)
    tables, result = export(run, synthetic_root), read_json(run / "result.json")["tasks"]
    for task in [task for task in TASKS if 0 < result[task]["positives"] < result[task]["n"]]:
        theirs = evaluate_binary_classification(tables[task])["samples_equally_weighted"]
        assert theirs["roc_auc_score"] == pytest.approx(result[task]["majority_auroc"], abs=1e-6)
        assert theirs["binary_accuracy"] == pytest.approx(result[task]["majority_accuracy"])


def test_samples_of_another_benchmark_have_their_own_time(tmp_path: Path) -> None:
    lines = []
    for number, (label, p_yes) in enumerate((("yes", 0.4), ("no", 0.2), ("yes", 0.1))):
        info = {"task": "guo_icu", "label": label, "subject_id": str(number), "prediction_time": "2019-02-03 04:05:06"}
        lines.append({"key": str(number), "task_info": info, "outputs": [{"response": "", "p_yes": p_yes}]})
    write_rows(tmp_path / "outputs.jsonl", lines)
    result = score_dir(tmp_path, resamples=5)
    table = export(tmp_path, tmp_path / "nowhere")["guo_icu"]
    assert str(table["prediction_time"][0]) == "2019-02-03 04:05:06"
    theirs = evaluate_binary_classification(table)["samples_equally_weighted"]
    assert theirs["roc_auc_score"] == result["tasks"]["guo_icu"]["auroc"] == 0.5
    for time in ("02/03/2019", 1549166706):
        lines[0]["task_info"]["prediction_time"] = time
        write_rows(tmp_path / "outputs.jsonl", lines)
        with pytest.raises(UserError, match="prediction_time: expected an ISO date and time, got another value"):
            main([str(tmp_path)])


def test_runs_that_cannot_be_exported(synthetic_root: Path, tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            main([str(folder), "--root_dir", str(synthetic_root)])
        assert "\n" not in str(error.value)

    words = write_run(tmp_path / "words", synthetic_root, with_p_yes=False)
    refused(words, r"expected p\(yes\) in the outputs, got replies in words only")
    refused(
        write_run(tmp_path / "anonymous", synthetic_root, subject_id=None),
        "expected subject_id, period_begin, period_end of every",
    )
    text = write_run(tmp_path / "text", synthetic_root)
    lines = (text / "outputs.jsonl").read_text().replace('"subject_id": "', '"subject_id": "x')
    (text / "outputs.jsonl").write_text(lines)
    refused(text, "expected subject_id, period_begin, period_end of every")
    refused(
        write_run(tmp_path / "other", synthetic_root, label="yes"),
        "expected a sample of these trajectories, got another event",
    )
    refused(tmp_path, "expected the result of a finished run")
    run = write_run(tmp_path / "run", synthetic_root)
    result = read_json(run / "result.json")
    (run / "result.json").write_text(json.dumps(result | {"missing": 3}))
    refused(run, "expected a finished run, got one with missing samples")
    (run / "result.json").write_text(json.dumps(result | {"trajectories": "f" * 64}))
    refused(run, "expected the trajectories of the run, got others")
    (run / "result.json").write_text(json.dumps(result))
    lines = [line for line in (run / "outputs.jsonl").read_text().splitlines() if '"emar' in line]
    (run / "outputs.jsonl").write_text("\n".join(lines) + "\n")
    refused(run, "expected outputs of risk tasks, got none")


def test_rows_with_text_but_without_trajectories_are_named(synthetic_root: Path, tmp_path: Path) -> None:
    lines = [{"key": str(row["idx"]), "task_info": row["task_info"], "outputs": [{"response": "yes", "p_yes": 0.7}]}
             for row in rendered_rows(2) if row["task_info"]["task"] != "emar"]  # fmt: skip
    write_rows(tmp_path / "outputs.jsonl", lines)
    score_dir(tmp_path, resamples=5)
    with pytest.raises(UserError):
        main([str(tmp_path), "--root_dir", str(synthetic_root)])
