"""Baselines: each answers as a slow, literal implementation of its rule, from training patients only."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import command
from tiny_mimic import read_trajectories

from evaluation.baselines import features, main
from evaluation.score import score_dir
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import read_json

Row = dict[str, str]
USED = ("emar", "labevents", "next_event", "discharge", "LengthOfStay_3day", "ED_Hospitalization", "Readmission_30day")


def build(root: Path, patients: int) -> Path:
    """A datas/ folder of synthetic patients with an index of all tasks."""
    command("preprocess/synthetic_mimic.py", "--root_dir", root, "--patients", patients)
    command("preprocess/merge_patient.py", "--root_dir", root, "--mimic_dir", root / "mimiciv")
    command("preprocess/rank.py", "--root_dir", root)
    command("preprocess/combination.py", "--root_dir", root, "--layout", "patient")
    command("preprocess/build_index_mapping.py", "--root_dir", root, "--mimic_dir", root / "mimiciv")
    command("mimiciv_dataset/task_sample_info_gen.py", "--root_dir", root)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("synthetic"), 60)


def index_rows(root: Path, task: str) -> list[Row]:
    with (root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def subjects(root: Path, test: bool) -> list[str]:
    """The test patients, every third one, or the others."""
    found = sorted((path.stem for path in (root / "patients_ehr").glob("*.parquet")), key=int)
    return [subject for number, subject in enumerate(found) if (number % 3 == 0) == test]


@pytest.fixture(scope="module")
def split(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("split"), root, USED, 30)


def write_split(folder: Path, root: Path, tasks: Sequence[str], max_rows: int) -> Path:
    """train.csv, the training patients; test.csv, index rows of the others, at most `max_rows` per task."""
    write_csv(folder / "train.csv", [{"subject_id": subject} for subject in subjects(root, test=False)])
    chosen = set(subjects(root, test=True))
    rows = [[row for row in index_rows(root, task) if row["subject_id"] in chosen][:max_rows] for task in tasks]
    write_csv(folder / "test.csv", [row for some in rows for row in some])
    return folder


def write_run(folder: Path, root: Path, index: Path) -> Path:
    """A finished run on an index with empty replies."""
    folder.mkdir(parents=True)
    dataset = MIMICIV(root, index, lazzy_mode=True, shuffle=False)
    with (folder / "outputs.jsonl").open("w", encoding="utf-8") as file:
        for number in range(len(dataset)):
            sample = dataset[number]
            line = {"key": f"k{number}", "task_info": sample["task_info"], "candidates": None,
                    "input_sha256": sha256(sample["input"]), "outputs": [{"response": "", "p_yes": None}]}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    score_dir(folder, resamples=20, extra={"arguments": {"dataset_name": str(index), "root_dir": str(root)}})
    return folder


def sha256(text: str) -> str:
    from pipeline.files import sha256

    return sha256(text)


def outputs(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "outputs.jsonl").open(encoding="utf-8")]
    assert len({line["key"] for line in lines}) == len(lines)
    return lines


@pytest.fixture(scope="module")
def run(root: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", root, split / "test.csv")
    done = command("evaluation/baselines.py", folder, "--train_subjects", split / "train.csv", "--max_train", 100_000)
    assert "majority, copy_last, logistic_regression on" in done.stdout
    return folder


def test_files_are_those_of_a_run(run: Path) -> None:
    task_infos = {line["key"]: line["task_info"] for line in outputs(run)}
    for name, kinds in (("majority", {"decision", "risk"}), ("copy_last", {"decision", "generation"}),
                        ("logistic_regression", {"risk"})):  # fmt: skip
        folder = run / "baselines" / name
        result = read_json(folder / "result.json")
        assert result["arguments"]["model_name_or_path"] == name and read_json(folder / "provenance.json")["complete"]
        assert result["resamples"] == 20
        for line in outputs(folder):
            assert task_infos[line["key"]] == line["task_info"] and 0 <= line["score"] <= 1
            assert TASKS[line["task_info"]["task"]].kind in kinds
        again = command("evaluation/score.py", folder, "--resamples", 20)
        assert read_json(folder / "result.json") | {"git": ""} == result | {"git": ""} and "macro" in again.stdout
    assert len(outputs(run / "baselines/majority")) == sum(
        TASKS[info["task"]].kind != "generation" for info in task_infos.values()
    )


def test_several_workers_write_the_same_bytes(run: Path, split: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("baselines"))
    flags = ("--train_subjects", split / "train.csv", "--max_train", 100_000, "--num_workers", 2)
    command("evaluation/baselines.py", copy, *flags)
    assert sorted(path.name for path in (copy / "baselines").iterdir()) == ["copy_last", "logistic_regression", "majority"]
    for path in (copy / "baselines").glob("*/outputs.jsonl"):
        assert path.read_bytes() == (run / path.relative_to(copy)).read_bytes()


def test_majority_is_what_training_patients_have_most(run: Path, root: Path) -> None:
    training = set(subjects(root, test=False))
    for line in outputs(run / "baselines/majority"):
        task, output = line["task_info"]["task"], line["outputs"][0]
        targets = [json.loads(row["target"]) for row in index_rows(root, task) if row["subject_id"] in training]
        if TASKS[task].kind == "risk":
            assert output["p_yes"] == targets.count("yes") / len(targets)
        else:
            targets = [[target] if isinstance(target, str) else target for target in targets]
            often = Counter(label for target in targets for label in target)
            answers = output["response"].split("\n")
            assert len(answers) == round(statistics.median(map(len, targets)))
            assert min(often[label] for label in answers) >= max(
                [often[label] for label in often if label not in answers], default=0
            )
    result = read_json(run / "baselines/majority/result.json")["tasks"]
    assert all(found["auroc"] in (0.5, None) for task, found in result.items() if TASKS[task].kind == "risk")


def test_copy_last_is_the_last_earlier_event_of_the_table(run: Path, root: Path) -> None:
    trajectories = read_trajectories(root / "patients_ehr")
    copied = defaultdict(int)
    for line in outputs(run / "baselines/copy_last"):
        info = line["task_info"]
        if info["task"] not in ("emar", "discharge"):
            continue
        column = {"emar": "medication", "discharge": "text"}[info["task"]]
        before = [
            event for event in trajectories[info["subject_id"]][: info["period_end"]] if event["file_name"] == info["task"]
        ]
        answers = [
            list(dict.fromkeys(record[column].strip() for record in event["items"] if record[column] != "nan"))
            for event in before
        ]
        answers = [answer for answer in answers if answer]
        assert line["outputs"][0]["response"].strip() == ("\n".join(answers[-1]) if answers else "")
        copied[info["task"]] += bool(answers)
    assert copied["emar"] > 0 and copied["discharge"] > 0


def test_logistic_regression_knows_the_text_and_nothing_else(run: Path, root: Path, split: Path, tmp_path: Path) -> None:
    dataset = MIMICIV(root, split / "test.csv", lazzy_mode=True, shuffle=False)
    texts = {f"k{number}": str(dataset.text(number)) for number in range(len(dataset))}
    predicted: dict[tuple[str, str], set[float]] = defaultdict(set)
    lines = outputs(run / "baselines/logistic_regression")
    for line in lines:
        predicted[line["task_info"]["task"], texts[line["key"]]].add(round(line["outputs"][0]["p_yes"], 12))
    assert lines and all(len(shares) == 1 for shares in predicted.values())
    # The same samples as JSONL, whose rows hold their text: the same answers.
    with (tmp_path / "test.jsonl").open("w", encoding="utf-8") as file:
        for number in range(len(dataset)):
            sample = dataset[number]
            row = {name: sample[name] for name in ("idx", "instruction", "input", "output", "candidates", "task_info")}
            file.write(json.dumps(row) + "\n")
    other = write_run(tmp_path / "run", root, tmp_path / "test.jsonl")
    flags = ["--train_subjects", str(split / "train.csv"), "--baselines", "logistic_regression"]
    assert main([str(other), *flags]) == 0
    shares = [
        [line["outputs"][0]["p_yes"] for line in found] for found in (lines, outputs(other / "baselines/logistic_regression"))
    ]
    assert shares[0] == pytest.approx(shares[1])


def test_what_is_counted_is_what_the_model_reads(root: Path, tmp_path: Path) -> None:
    rows = [row for task in ("diagnoses_icd", "ED_Hospitalization", "poe") for row in index_rows(root, task)[:20]]
    dataset = MIMICIV(root, write_csv(tmp_path / "index.csv", rows), lazzy_mode=True, shuffle=False)
    for number in range(len(dataset)):
        read, found = dataset[number]["input"], features(dataset.text(number))
        titles = Counter(re.findall(r"^## (.+) \[", read, re.MULTILINE))
        del titles["Patient Demographics"]
        assert {name: round(math.expm1(n)) for name, n in found.items() if ": " not in name and name != "age"} == titles
        assert f"- Anchor_Age: {100 * found['age']:.0f}\n" in read
        assert all(name.partition(": ")[2] in read for name in found)


def test_the_draw_of_training_rows_is_seeded(root: Path, split: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", root, split / "test.csv")
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        flags = [
            "--train_subjects",
            str(split / "train.csv"),
            "--max_train",
            "3",
            "--seed",
            str(seed),
            "--baselines",
            "majority",
            "--overwrite",
        ]
        assert main([str(run), *flags]) == 0
        drawn.append([line["outputs"][0] for line in outputs(run / "baselines/majority")])
    assert drawn[0] == drawn[1] and any(each != drawn[0] for each in drawn[2:])


def test_errors_of_wrong_use(run: Path, root: Path, split: Path, tmp_path: Path) -> None:
    train = ["--train_subjects", str(split / "train.csv")]
    everyone = write_csv(tmp_path / "all.csv", [{"subject_id": s} for t in (True, False) for s in subjects(root, t)])
    with pytest.raises(UserError, match=r"all.csv: .* not in the run, got \d+ .*--train_subjects"):
        main([str(run), "--train_subjects", str(everyone)])
    with pytest.raises(UserError, match="result.json: expected the result of a finished run"):
        main([str(tmp_path), *train])
    fresh = write_run(tmp_path / "fresh", root, split / "test.csv")
    with pytest.raises(UserError, match="rows of training patients .*--train_index and --train_subjects"):
        main([str(fresh), "--train_subjects", str(write_csv(tmp_path / "other.csv", [{"subject_id": "999999"}]))])
    with pytest.raises(UserError, match="nothing.csv: expected a task index"):
        main([str(run), *train, "--train_index", str(tmp_path / "nothing.csv")])
    index = root / "task_index/all/omr.csv"
    with pytest.raises(UserError, match="omr.csv: expected the samples of .*--dataset_name"):
        main([str(fresh), *train, "--dataset_name", str(index), "--baselines", "logistic_regression"])
    assert not list((fresh / "baselines").glob("*/")), "what failed leaves nothing"
    done = command("evaluation/baselines.py", run, *train, "--max_train", 0, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--max_train" in done.stderr and "at least 1" in done.stderr


def test_baselines_know_what_they_were_made_from(
    root: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, report = write_run(tmp_path / "run", root, split / "test.csv"), "evaluation/report.py"
    flags = [str(run), "--train_subjects", str(split / "train.csv"), "--baselines", "majority"]
    assert main(flags) == 0
    path = run / "baselines/majority/outputs.jsonl"
    before = path.stat()
    assert main(flags) == 0 and path.stat() == before, "nothing is computed again"
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected the same max_train as when it was made.*--overwrite"):
        main([*flags, "--max_train", "3"])
    assert path.stat() == before and main([*flags, "--max_train", "3", "--overwrite"]) == 0
    text = (run / "outputs.jsonl").read_text(encoding="utf-8")
    (run / "outputs.jsonl").write_text(text[: text.rindex('{"key"')], encoding="utf-8")
    with pytest.raises(UserError, match="expected the same samples"):
        main([*flags, "--max_train", "3"])
    score_dir(run, resamples=20, expected=text.count("\n") - 1)
    done = command(report, run, check=False)
    assert done.returncode == 2 and "majority: expected a baseline on the samples of the run" in done.stderr


def test_rows_without_a_patient_cannot_be_copied_for(root: Path, split: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", root, split / "test.csv")
    lines = outputs(folder)
    for line in lines:
        del line["task_info"]["subject_id"]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [str(folder), "--train_subjects", str(split / "train.csv"), "--baselines"]
    with pytest.raises(UserError, match="subject_id for copy_last"):
        main([*flags, "copy_last"])
    assert main([*flags, "majority"]) == 0


def test_from_model_to_report(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = [row for task in ("emar", "next_event", "LengthOfStay_3day") for row in index_rows(small_root, task)]
    found = sorted({row["subject_id"] for row in rows})
    index = write_csv(tmp_path / "test.csv", [row for row in rows if row["subject_id"] in found[:3]])
    train = write_csv(tmp_path / "train.csv", [{"subject_id": subject} for subject in found[3:]])
    command("test.py", "--root_dir", small_root, "--dataset_name", index, "--model_name_or_path", tiny_model,
            "--output_path", tmp_path / "out", "--max_new_tokens", 4, "--max_seq_len", 2000, "--batch", 8)  # fmt: skip
    done = command("evaluation/baselines.py", tmp_path / "out", "--train_subjects", train)
    assert "LengthOfStay_3day left out, because all training rows" in done.stdout
    assert "logistic_regression: the run has no sample" in done.stdout
    done = command("evaluation/report.py", tmp_path / "out")
    assert "3 models" in done.stdout and "copy_last" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_logistic_regression_finds_what_the_synthetic_data_hides(tmp_path: Path) -> None:
    root = build(tmp_path / "datas", 500)
    tasks = ("ED_Hospitalization", "LengthOfStay_7day", "ICU_Mortality_7day", "ICU_Readmission", "Readmission_60day")
    split = write_split(tmp_path, root, tasks, 1000)
    run = write_run(tmp_path / "run", root, split / "test.csv")
    assert main([str(run), "--train_subjects", str(split / "train.csv")]) == 0
    found = read_json(run / "baselines/logistic_regression/result.json")
    assert set(found["tasks"]) == set(tasks)
    assert all(task["auroc"] > 0.5 for task in found["tasks"].values()), found["tasks"]
    intervals = [task["auroc_ci"] for task in found["tasks"].values() if task["auroc_ci"]]  # the others have too few positives
    assert intervals and all(low > 0.5 for low, _ in intervals), intervals
