"""The benchmark with a known optimum: the same bytes everywhere, hidden labels, and regrets that are right."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import DictVectorizer
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from evaluation import leaderboard, synthetic_benchmark
from evaluation.predictions import Prediction
from evaluation.regret import TrueSample, Truth, check_samples, digest_of, format_regrets, read_answers, read_truth, regrets
from evaluation.synthetic_benchmark import DECISION, DIGESTS, RISK, BenchmarkSettings, draw_samples
from evaluation.synthetic_truth import read_outcomes, rows_of, with_outcomes
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.trajectory import Trajectories
from pipeline.errors import UserError
from pipeline.files import read_json, sha256_file, write_json

Answer = Callable[[TrueSample], tuple[object, str]]  # p_yes and answer


def make(root: Path, *flags: object) -> Path:
    synthetic_benchmark.main(["make", "--root_dir", str(root), "--patients", "50", *map(str, flags)])
    return root


def score(root: Path, *flags: object) -> None:
    synthetic_benchmark.main(["score", *map(str, flags), "--root_dir", str(root), "--resamples", "20"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("benchmark") / "made")


def write_predictions(path: Path, truth: Truth, answer: Answer) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[sample.task, sample.subject_id, *answer(sample)] for sample in truth.samples]
        csv.writer(file).writerows([["task", "subject_id", "p_yes", "answer"], *rows])
    return path


def write_outputs(folder: Path, truth: Truth, answer: Answer) -> Path:
    """A finished run, as test.py leaves it."""
    folder.mkdir()
    with (folder / "outputs.jsonl").open("w", encoding="utf-8") as file:
        for sample in truth.samples:
            p_yes, response = answer(sample)
            label = sample.labels if sample.task in DECISION else sample.labels[0]
            info = {"task": sample.task, "subject_id": sample.subject_id, "label": label}
            output = {"response": response, "p_yes": None if p_yes == "" else p_yes}
            line = {"key": sample.sample_id, "sample_id": sample.sample_id, "task_info": info, "outputs": [output]}
            file.write(json.dumps(line) + "\n")
    return folder


def best(sample: TrueSample) -> tuple[object, str]:
    """What a perfect model answers, from the truth."""
    return "" if sample.p_yes is None else sample.p_yes, "\n".join(sample.answer or [])


def constant(sample: TrueSample) -> tuple[object, str]:
    return ("", "None of them") if sample.task in DECISION else (0.3, "no")


def result_of(path: Path, truth: Truth) -> dict:
    return regrets(truth, check_samples(path, truth, read_answers(path, truth)), resamples=20)


def made_up(n: int = 60, tasks: tuple[str, ...] = ("ED_Hospitalization", "diagnosis"), seed: int = 0) -> Truth:
    """A benchmark of `n` patients, large enough for intervals."""
    draw, samples = random.Random(seed), []
    for task in tasks:
        for number in range(n):
            name, subject = f"{task}/{number}/1-9", str(number)
            if task in DECISION:
                samples.append(TrueSample(name, task, subject, ["A", draw.choice("BC")], answer=["A"]))
            else:
                p_yes = round(draw.random(), 6)
                samples.append(TrueSample(name, task, subject, ["yes" if draw.random() < p_yes else "no"], p_yes=p_yes))
    return Truth("made up", digest_of(samples), samples)


# --- make


def test_the_same_settings_give_the_same_samples(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on every other machine."""
    truth = read_truth(root / "benchmark/truth.json")
    assert truth.digest.startswith("2e264d8aadbd")
    capsys.readouterr()
    make(root)
    assert "benchmark is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="one with other settings"):
        make(root, "--seed", 15)


@pytest.mark.slow
def test_the_same_settings_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again, other = make(tmp_path / "again", "--num_workers", 2), make(tmp_path / "other", "--seed", 15, "--samples", 5)
    files = [path.relative_to(root) for path in (root / "benchmark").iterdir() if path.name != "provenance.json"]
    assert len(files) == len((*RISK, *DECISION)) + 1
    for name in (*files, "train.csv", "validation.csv"):
        assert sha256_file(root / name) == sha256_file(again / name), name
    smaller = read_truth(other / "benchmark/truth.json")
    assert smaller.digest != read_truth(root / "benchmark/truth.json").digest
    assert {len(samples) for samples in smaller.by_task.values()} == {5}


def test_test_samples_are_unlabelled_and_of_patients_of_their_own(root: Path) -> None:
    truth, patients = read_truth(root / "benchmark/truth.json"), {}
    for name in ("train", "validation"):
        with (root / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["task"] for row in rows} == {*RISK, *DECISION} and all(row["target"] for row in rows)
        patients[name] = {row["subject_id"] for row in rows}
    assert not patients["train"] & patients["validation"]
    assert {sample.subject_id for sample in truth.samples}.isdisjoint(patients["train"] | patients["validation"])
    assert set(truth.by_task) == {*RISK, *DECISION}
    for task, samples in truth.by_task.items():
        path = root / f"benchmark/{task}.csv"
        assert "target" not in path.read_text(encoding="utf-8").partition("\n")[0]
        assert len({sample.subject_id for sample in samples}) == len(samples) > 4, "one sample per patient"
        dataset = MIMICIV(root, path, lazzy_mode=True, shuffle=False)
        labels = [dataset[number]["output"] for number in range(len(dataset))]
        assert labels == ["\n".join(sample.labels) for sample in samples], "the labels that the trajectories have"


@pytest.mark.slow
def test_records_tell_nothing_beyond_the_optimum(tmp_path: Path) -> None:
    """Given the true probabilities, labels do not depend on how many records of each table the window has (score test).

    In tasks of intensive care they do (z = 6): a death shortens the stay, and more of its records are in the first day.
    """
    root = make(tmp_path / "made", "--patients", 1200)
    outcomes, trajectories = read_outcomes(root / "mimiciv"), Trajectories(root / "patients_ehr")
    settings = BenchmarkSettings(seed=14, patients=1200, samples=1200)
    for task in RISK:
        rows = with_outcomes(rows_of(root / f"task_index/all/{task}.csv"), outcomes[task])
        samples = draw_samples(list(rows), settings)
        windows = [range(int(row["context_begin"]), int(row["context_end"])) for row, _ in samples]
        events = [trajectories.events(row["subject_id"], window) for (row, _), window in zip(samples, windows, strict=True)]
        numbers = [Counter(event.file_name for event in of_sample) for of_sample in events]
        x = np.log1p(DictVectorizer(sparse=False).fit_transform(numbers))
        p, yes = np.array([(drawn.probability, drawn.outcome) for _, drawn in samples]).T
        weights = p * (1 - p)
        x -= weights @ x / weights.sum()
        x = x[:, weights @ x**2 > 1]  # columns that differ between samples
        z = (yes - p) @ x / np.sqrt(weights @ x**2)
        assert len(samples) > 700 and len(z) > 5 and abs(z).max() < 4, task


def test_a_directory_with_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="got other data"):
        make(tmp_path)


def test_changed_samples_are_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = read_json(root / "benchmark/truth.json")
    changed = content | {"samples": content["samples"][1:]}
    write_json(tmp_path / "benchmark/truth.json", changed)
    with pytest.raises(UserError, match="got changed ones"):
        score(tmp_path, tmp_path)
    monkeypatch.setitem(DIGESTS, "custom", "0" * 64)  # as of a published benchmark that is other samples here
    with pytest.raises(UserError, match=r"the samples of custom \(000000000000\), got others"):
        score(root, tmp_path)


# --- score


def test_a_rigged_optimum_has_no_regret(root: Path, tmp_path: Path) -> None:
    truth = read_truth(root / "benchmark/truth.json")
    results = [result_of(write_predictions(tmp_path / "best.csv", truth, best), truth)]
    results.append(result_of(write_outputs(tmp_path / "run", truth, best), truth))
    assert results[0] == results[1], "a file of predictions is read as a run"
    for task, values in results[0]["tasks"].items():
        one_label = len({sample.labels[0] for sample in truth.by_task[task]}) == 1
        assert (
            (values["regret"] is None and values["note"] == "one label")
            if one_label and task in RISK
            else values["regret"] == 0
        )
        assert all(values[loss]["regret"] == 0 for loss in ("brier", "log_loss") if task in RISK)


@given(st.integers(0, 10**6), st.integers(2, 40))
@settings(max_examples=25, deadline=None)
def test_regrets_equal_scikit_learn(seed: int, n: int) -> None:
    """Of a perfect model, of a constant one, and of one with other probabilities."""
    truth, noise = made_up(n, ("ED_Hospitalization",), seed), np.random.default_rng(seed)
    labels = np.array([sample.labels == ["yes"] for sample in truth.samples])
    p_best = np.array([sample.p_yes for sample in truth.samples])
    noisy = noise.random(n).round(2)
    for p_yes in (p_best, np.full(n, 0.3), noisy):
        answers = [sample.prediction(float(p), "") for sample, p in zip(truth.samples, p_yes, strict=True)]
        values = regrets(truth, {"ED_Hospitalization": answers}, resamples=3)["tasks"]["ED_Hospitalization"]
        if 0 < labels.sum() < n:
            best_auroc, auroc = roc_auc_score(labels, p_best), roc_auc_score(labels, p_yes)
            assert values["optimum"] == pytest.approx(best_auroc) and values["score"] == pytest.approx(auroc)
            assert values["regret"] == pytest.approx(best_auroc - auroc)
            if p_yes is p_best:
                assert values["regret"] == 0
            elif p_yes is not noisy:
                assert values["regret"] == values["optimum"] - 0.5
        excess = brier_score_loss(labels, p_yes) - brier_score_loss(labels, p_best)
        assert values["brier"]["regret"] == pytest.approx(excess)
        bounded = [np.clip(p, 1e-6, 1 - 1e-6) for p in (p_yes, p_best)]
        losses = [log_loss(labels, p, labels=[False, True]) for p in bounded]
        assert values["log_loss"]["regret"] == pytest.approx(losses[0] - losses[1])


def test_intervals_and_means() -> None:
    truth = made_up()
    answers = {task: [sample.prediction(*_worse(sample)) for sample in samples] for task, samples in truth.by_task.items()}
    result = regrets(truth, answers, resamples=200)
    for task, values in result["tasks"].items():
        low, high = values["regret_ci"]
        assert values["too_few"] is None and 0 < low < values["regret"] < high < 1, task
    for kind, task in (("risk", "ED_Hospitalization"), ("decision", "diagnosis")):
        assert result["mean"][kind]["regret"] == result["tasks"][task]["regret"]
    few = regrets(made_up(25), {task: of_task[:25] for task, of_task in answers.items()}, resamples=20)
    assert all(values["too_few"] and values["regret_ci"] is None for values in few["tasks"].values())
    assert few["mean"]["risk"]["regret_ci"] is None


@pytest.mark.parametrize("known", [True, False])
def test_a_model_that_knows_the_labels_is_noticed(known: bool) -> None:
    truth = made_up()
    answers = {
        task: [_known(sample) if known else sample.optimum for sample in samples] for task, samples in truth.by_task.items()
    }
    text = format_regrets(regrets(truth, answers, resamples=100), truth)
    assert text.count("below 0 by more than chance") == 2 * known


def _known(sample: TrueSample) -> Prediction:
    return sample.prediction(float(sample.labels == ["yes"]) if sample.task in RISK else None, "\n".join(sample.labels))


def _worse(sample: TrueSample) -> tuple[float | None, str]:
    number = int(sample.subject_id)
    return (None, "A" if number % 2 else "D") if sample.task in DECISION else ((sample.p_yes + number % 3) / 3, "")


def test_tasks_that_are_not_answered_have_no_mean(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = read_truth(root / "benchmark/truth.json")
    some = Truth(truth.benchmark, truth.digest, [sample for sample in truth.samples if sample.task == "diagnosis"])
    score(root, write_predictions(tmp_path / "some.csv", some, best))
    printed = capsys.readouterr().out
    assert printed.count("not answered") == len(RISK) + len(DECISION) - 1
    assert "risk tasks: none, as 0 of 6 tasks" in printed and "decision tasks: none, as 1 of 2 tasks" in printed
    words_only = result_of(write_outputs(tmp_path / "words", truth, lambda sample: ("", constant(sample)[1])), truth)
    assert {words_only["tasks"][task]["regret"] for task in RISK} == {None} and words_only["mean"]["risk"]["answered"] == 0


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda lines: lines[:-1], r"all samples of diagnosis_ccs or none, got \d+ of \d+"),
        (lambda lines: [*lines, lines[1]], "got one twice"),
        (lambda lines: lines[:1], "expected predictions, got none"),
        (lambda lines: [*lines, "diagnosis,12345,,A\n"], r"row \d+: expected a sample of the benchmark, got another one"),
        (lambda lines: [lines[0], lines[1].replace("0.3", "1.3"), *lines[2:]], "row 2: p_yes: expected a number from 0 to 1"),
        (lambda lines: [lines[0].replace("subject_id", "patient"), *lines[1:]], "expected the columns task, subject_id"),
    ],
)
def test_other_samples_and_missing_ones_are_refused(root: Path, tmp_path: Path, change: Callable, got: str) -> None:
    path = write_predictions(tmp_path / "p.csv", read_truth(root / "benchmark/truth.json"), constant)
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=got):
        score(root, path)


def test_runs_on_other_samples_are_refused(root: Path, tmp_path: Path) -> None:
    truth = read_truth(root / "benchmark/truth.json")
    with pytest.raises(UserError, match="got other ones"):
        score(root, write_outputs(tmp_path / "other", made_up(), best))
    flipped = [replace(sample, labels=["yes" if sample.labels == ["no"] else "no"]) for sample in truth.samples]
    flipped = [sample for sample in flipped if sample.task in RISK]
    with pytest.raises(UserError, match="got other labels"):
        score(root, write_outputs(tmp_path / "flipped", Truth("", "", flipped), constant))


# --- the leaderboard


def test_entries_become_rows(root: Path, tmp_path: Path) -> None:
    truth, folder = read_truth(root / "benchmark/truth.json"), tmp_path / "entries"
    for name, answer in (("perfect", best), ("constant", constant)):
        run = write_predictions(tmp_path / f"{name}.csv", truth, answer)
        score(root, run, "--entry", folder / f"{name}.json", "--model", name, "--setting", "from the truth")
    entries = leaderboard.read_entries(folder, truth.benchmark, truth.digest)
    rows = leaderboard.task_rows(entries)
    assert {"perfect", "constant"} == set(rows[0][4:]) and [row[0] for row in rows[1:]] == [*RISK, *DECISION]
    assert rows[-1][4 + [entry["model"] for entry in entries].index("perfect")] == "0.000 (too few)"
    assert all(len(row) == len(rows[0]) for row in rows)
    assert "0.000 (too few)" in leaderboard.summary_rows(entries)[1]
    with pytest.raises(UserError, match="one of another"):
        leaderboard.read_entries(folder, truth.benchmark, "0" * 64)
    write_json(folder / "other.json", {"model": "x"})
    with pytest.raises(UserError, match=r"other.json: expected an entry with model, setting"):
        leaderboard.read_entries(folder, truth.benchmark, truth.digest)


def test_an_entry_says_what_it_is_of(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        score(root, tmp_path, "--entry", tmp_path / "entry.json")
    assert not (tmp_path / "entry.json").exists()
