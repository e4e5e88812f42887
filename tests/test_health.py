"""The health of a benchmark: its numbers are those of a literal count, and rigged candidates are noticed."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from written_runs import write_run

from evaluation.baselines import BaselineJob, BaselineSettings, copy_last
from evaluation.health import main
from evaluation.health_checks.cues import Bootstrap, cue_auroc, fold_of, measure_cues, notable_cues, without_each
from evaluation.health_checks.facts import FINDINGS, applies
from evaluation.health_checks.rows import benchmark_row
from evaluation.health_checks.texts import target_in_text
from evaluation.metrics import set_scores
from evaluation.score import score_dir, score_predictions
from mimiciv_dataset.audit import FLAGS
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.sources import index_sources
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import read_json

TASKS_USED = ("emar", "prescriptions", "labevents", "next_event", "radiology", "discharge", "ED_Hospitalization",
              "Inpatient_Mortality", "ICU_Stay_7day", "Readmission_30day")  # fmt: skip
Row = dict[str, str]


@pytest.fixture(scope="module")
def bench(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sampled set of 60 rows of each task, its first row twice."""
    rows: list[Row] = []
    for task in TASKS_USED:
        with (synthetic_root / f"task_index/all/{task}.csv").open(newline="") as file:
            of_task = list(csv.DictReader(file))
        rows += random.Random(task).sample(of_task, min(60, len(of_task)))
    return write_csv(tmp_path_factory.mktemp("bench") / "bench.csv", [*rows, rows[0]])


def write_csv(path: Path, rows: list[Row], without: Iterable[str] = ()) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in without], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def health(root: Path, output: Path, *arguments: object) -> dict[str, Any]:
    words = map(str, (*arguments, "--root_dir", root, "--output_path", output, "--resamples", 50, "--overwrite"))
    main(list(words))
    return read_json(output / "health.json")["benchmarks"]


@pytest.fixture(scope="module")
def report(synthetic_root: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("health") / "out"
    return output, health(synthetic_root, output, bench)["bench"]


def test_findings_are_those_of_the_audit(bench: Path, report: tuple[Path, dict[str, Any]]) -> None:
    output, result = report
    rows = read_csv(bench)
    expected: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        expected[row["task"]].update(flag for flag in row["audit"].split(";") if flag)
    expected[rows[0]["task"]]["repeated"] = 1
    for name, task in result["tasks"].items():
        for finding, entry in task["findings"].items():
            if finding in FLAGS and not applies(finding, TASKS[name]):
                assert entry is None and not expected[name][finding]
            elif entry:
                assert entry == {"checked": task["rows"], "rows": expected[name][finding]}
    kept = [row for row in rows[:-1] if not row["audit"]]
    assert result["kept"] == len(kept) and 0 < len(kept) < len(rows) - 1
    assert read_csv(output / "bench.leak_free.csv") == kept
    assert f"{len(kept)} of {len(rows):,} rows (16%) of 10 tasks are leak-free" in result["verdict"]
    assert any(point.startswith("repeated: ") and " in 1 of " in point for point in result["points"])
    as_known = [row for row in rows[:-1] if set(row["audit"].split(";")) <= {"", "not_yet_stored"}]
    assert any(point.startswith(f"{len(as_known) - len(kept)} rows have no finding but") for point in result["points"])


def test_answers(bench: Path, report: tuple[Path, dict[str, Any]]) -> None:
    _, result = report
    rows = [row for row in read_csv(bench)[:-1] if row["task"] == "labevents"]
    targets = [json.loads(row["target"]) for row in rows]
    counts = Counter(name for target in targets for name in set(target))
    labels = result["tasks"]["labevents"]["labels"]
    total = counts.total()
    entropy = -math.fsum(n / total * math.log(n / total) for n in counts.values())
    assert labels["distinct"] == len(counts) and labels["effective"] == pytest.approx(math.exp(entropy))
    assert labels["most_frequent"] == max(counts.values()) / len(rows)
    stays = [row for row in read_csv(bench) if row["task"] == "ED_Hospitalization"]
    assert result["tasks"]["ED_Hospitalization"]["labels"]["yes"] == sum(row["target"] == '"yes"' for row in stays)
    number = sorted(map(len, targets))[len(targets) // 2 - 1 : len(targets) // 2 + 1]
    number = max(1, round(sum(number) / 2))
    scores = []
    for row, target in zip(rows, targets, strict=True):  # the most frequent answers of the other folds
        others = Counter(
            name
            for other, names in zip(rows, targets, strict=True)
            if fold_of(other["subject_id"]) != fold_of(row["subject_id"])
            for name in set(names)
        )
        guess = [name for name, _ in sorted(others.items(), key=lambda item: (-item[1], item[0]))][:number]
        scores.append(set_scores(guess, target)[2])
    assert result["tasks"]["labevents"]["majority"]["value"] == pytest.approx(np.mean(scores))
    assert "distinct" not in result["tasks"]["discharge"]["labels"]  # notes


def test_copying_is_the_baseline(synthetic_root: Path, bench: Path, report: tuple[Path, dict[str, Any]]) -> None:
    settings = BaselineSettings(str(bench), str(synthetic_root), "", "", 1, 0)
    scores: dict[str, list[float]] = defaultdict(list)
    of_patient: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in list(read_rows(bench))[:-1]:
        of_patient[row["subject_id"]].append({"key": sample_id(row), "task_info": row})
    job = BaselineJob(bench.parent, {"emar": [line for lines in of_patient.values() for line in lines]}, {}, settings)
    for line, reply, _ in copy_last(job, list(job.lines_by_patient)):
        info = line["task_info"]
        scores[info["task"]].append(set_scores(reply.split("\n"), label_list(info["target"]))[2])
    for name in ("prescriptions", "labevents", "radiology", "next_event"):
        copied = report[1]["tasks"][name]["copy_last"]
        assert copied["value"] == pytest.approx(np.mean(scores[name])) and copied["n"] == len(scores[name])
        assert report[1]["tasks"][name]["copied_from"] == "trajectories"
    assert np.mean(scores["labevents"]) > 0


def test_rows_without_audit_are_audited(
    synthetic_root: Path, bench: Path, report: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    plain = write_csv(tmp_path / "plain.csv", read_csv(bench), without=["audit"])
    result = health(synthetic_root, tmp_path / "out", plain, "--num_workers", 2)["plain"]
    of_task = {name: task["findings"] for name, task in report[1]["tasks"].items()}
    assert {name: task["findings"] for name, task in result["tasks"].items()} == of_task
    result = health(tmp_path, tmp_path / "out", plain)["plain"]  # no trajectories there
    assert result["tasks"]["emar"]["findings"]["not_yet_stored"] is None and result["tasks"]["emar"]["copy_last"] is None
    assert result["kept"] == result["rows"] - 1 and "as far as could be checked" in result["verdict"]
    assert any(text.startswith("not_yet_stored, in all or some rows of") for text in result["not_checked"])


@pytest.fixture(scope="module")
def released(synthetic_root: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as a released JSONL has them: with their text, and without patient and window."""
    dataset = MIMICIV(synthetic_root, bench, lazzy_mode=True, shuffle=False)
    kept = ("task", "event", "metric", "task_type", "label", "target")
    with (tmp_path_factory.mktemp("released") / "released.jsonl").open("w") as file:
        for i in range(len(dataset)):
            sample = dataset[i]
            sample["task_info"] = {name: sample["task_info"][name] for name in kept}
            label = sample["task_info"]["label"]
            sample["candidates"] = [*(label if isinstance(label, list) else []), "another name", "a third"][i % 7 == 0 :]
            file.write(json.dumps(sample) + "\n")
    return Path(file.name)


def test_released_rows(released: Path, bench: Path, tmp_path: Path) -> None:
    result = health(tmp_path, tmp_path / "out", released)["released"]
    tasks, flagged = result["tasks"], Counter(row["task"] for row in read_csv(bench) if "target_in_context" in row["audit"])
    for name in ("emar", "prescriptions"):
        assert tasks[name]["findings"]["target_in_context"] == {"checked": tasks[name]["rows"], "rows": flagged[name]}
        assert flagged[name] and tasks[name]["copied_from"] == "text"
    assert tasks["emar"]["findings"]["outcome_in_window"] is tasks["emar"]["findings"]["not_yet_stored"] is None
    assert tasks["radiology"]["copy_last"] is None
    rows = [json.loads(line) for line in released.read_text().splitlines()]
    unanswerable = Counter(
        row["task_info"]["task"]
        for row in rows
        if TASKS[row["task_info"]["task"]].kind == "decision"
        and set([row["task_info"]["label"]] if row["task_info"]["task"] == "next_event" else row["output"].split("\n"))
        - set(row["candidates"])
    )
    for name in ("emar", "labevents", "next_event"):
        assert tasks[name]["findings"]["unanswerable"]["rows"] == unanswerable[name] > 0
    texts = {(row["task_info"]["task"], row["input"]) for row in rows}
    assert sum(task["findings"]["repeated"]["rows"] for task in tasks.values()) == len(rows) - len(texts)
    assert result["without_patient"] == len(rows) and any("outcome_in_window" in text for text in result["not_checked"])
    lines = (tmp_path / "out/released.leak_free.jsonl").read_text().splitlines()
    assert len(lines) == result["kept"] and set(lines) < set(released.read_text().splitlines())
    with_training = health(tmp_path, tmp_path / "out", released, "--train", released)["released"]
    assert all(task["findings"]["train_patient"]["rows"] == task["rows"] for task in with_training["tasks"].values())


def test_a_value_with_a_bar_is_no_answer() -> None:
    text = "## Patient Demographics [None]\n- Gender: F\n\n\n\n\n\n## Pharmacy [None]\n| Medication | Status |\n"
    text += "| ------ | ------ |\n| Zinc | new |\n| Aspirin | old | stopped |"
    assert target_in_text(TASKS["emar"], text, ["Zinc"]) and not target_in_text(TASKS["emar"], text, ["Aspirin"])


def test_training_patients(synthetic_root: Path, bench: Path, tmp_path: Path) -> None:
    rows = read_csv(bench)
    chosen = sorted({row["subject_id"] for row in rows})[::3]
    (tmp_path / "train.csv").write_text("subject_id\n" + "\n".join(chosen))
    out = tmp_path / "out"
    result = health(synthetic_root, out, bench, "--train", tmp_path / "train.csv", "--exclude", "train_patient")["bench"]
    for name, task in result["tasks"].items():
        of_task = [row for row in rows if row["task"] == name]
        assert task["findings"]["train_patient"]["rows"] == sum(row["subject_id"] in chosen for row in of_task)
    assert {row["subject_id"] for row in read_csv(out / "bench.leak_free.csv")} == {r["subject_id"] for r in rows} - set(
        chosen
    )


# --- candidates


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_auroc_of_a_cue_is_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    scores, is_answer = zip(*pairs, strict=True)
    value = cue_auroc(scores, is_answer)
    if len(set(is_answer)) < 2:
        assert value is None
    else:
        assert value == pytest.approx(roc_auc_score(is_answer, scores))


def cues_of(kind: str, patients: int = 60) -> list[str]:
    """The cues that are noticed in 60 rows of 20 candidates, which are rigged in one way."""
    chance, rows, lists = random.Random(kind), [], []
    words = [f"{a}{b}" for a in ("amo", "bel", "cor", "dax", "eri", "fal", "gim", "hov") for b in ("pin", "tol", "xat", "zum")]
    for number in range(patients):
        answer = "common" if kind == "majority" and number % 4 else f"{chance.choice(words)}-{number}"
        others = [f"{chance.choice(words)} {chance.randrange(10**6)}" for _ in range(19)]
        if kind == "similarity":
            others = [f"{answer} {chance.choice(words)} {chance.randrange(10**6)}" for _ in range(19)]
        offered = [answer, *others]
        if kind == "majority":  # half of the rows have another frequent answer, which is offered in its own rows only
            answer = "frequent" if number % 2 else "common"
            offered = [answer, *others]
        if kind != "position":
            chance.shuffle(offered)
        row = {"subject_id": str(number), "task": "emar", "period_begin": 1, "period_end": 9, "target": [answer]}
        rows.append(benchmark_row(number, row))
        lists.append(offered)
    counts = [Counter(name for row in rows if fold_of(row.patient) == fold for name in row.labels) for fold in range(5)]
    return notable_cues(measure_cues(rows, lists, without_each(counts), Bootstrap(200)))


def test_rigged_candidates_are_noticed() -> None:
    for kind in ("position", "similarity", "majority"):
        assert cues_of(kind) == [kind]
    assert cues_of("none") == [] and cues_of("position", patients=10) == []  # too few


# --- scores of runs


def test_scores_on_the_leak_free_rows(synthetic_root: Path, bench: Path, tmp_path: Path) -> None:
    from evaluation.predictions import read_predictions

    samples = list({sample_id(row): row for row in read_rows(bench)}.values())
    lines = []
    for number, row in enumerate(samples):
        label, knows = row["target"], random.Random(number).random() < 0.6
        info = {"task": row["task"], "subject_id": str(number), "label": label}  # as many patients as samples
        p_yes = (number * 37 % 101) / 101 if TASKS[row["task"]].kind == "risk" else None
        response = "\n".join([label] if isinstance(label, str) else label) if knows else "another name"
        output = {"response": "yes" if p_yes else response, "p_yes": p_yes, "finish_reason": "stop"}
        lines.append({"key": str(number), "sample_id": sample_id(row), "task_info": info, "outputs": [output]})
    run = tmp_path / "run"
    run.mkdir()
    (run / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_dir(run, resamples=20, extra={"arguments": {"model_name_or_path": "tiny"}})
    output = tmp_path / "out"
    exclude = "target_in_context,outcome_in_window"
    changes = health(synthetic_root, output, bench, "--exclude", exclude, "--results", run)["bench"]["runs"]["tiny"]
    kept = {sample_id(row) for row in read_rows(output / "bench.leak_free.csv")}
    predictions = list(read_predictions(run).values())
    before = score_predictions(predictions, 10)["tasks"]
    after = score_predictions([each for each in predictions if each.sample_id in kept], 10)["tasks"]
    for name, entry in changes["tasks"].items():
        assert entry["before"] == pytest.approx(before[name][entry["metric"]])
        assert (entry["n"], entry["n_kept"]) == (before[name]["n"], after[name]["n"])
        value = after[name][entry["metric"]]
        assert entry["after"] == (value if value is None else pytest.approx(value))
        assert (entry["ci"] is None) == bool(after[name]["too_few"])
        if entry["ci"]:
            assert entry["ci"][0] <= entry["change"] <= entry["ci"][1]
    assert changes["tasks"]["labevents"]["ci"] == [0.0, 0.0]  # none of its rows is left out
    assert any(entry["ci"] and entry["change"] for entry in changes["tasks"].values())
    with_interval = [entry for name, entry in changes["tasks"].items() if entry["ci"] and TASKS[name].kind == "decision"]
    assert changes["macro"]["decision"]["change"] == pytest.approx(np.mean([entry["change"] for entry in with_interval]))
    assert changes["macro"]["decision"]["tasks"] == len(with_interval)


# --- the command


def test_second_run_and_the_subset_as_an_index(
    synthetic_root: Path, bench: Path, report: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, _ = report
    words = [str(bench), "--root_dir", str(synthetic_root), "--output_path", str(output), "--resamples"]
    main([*words, "50"])
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected the same resamples"):
        main([*words, "51"])
    capsys.readouterr()
    (source,) = index_sources(output / "bench.leak_free.csv")
    assert "trajectories" in source.lineage and "unknown" not in capsys.readouterr().out
    assert len(MIMICIV(synthetic_root, output / "bench.leak_free.csv", lazzy_mode=True)) > 0


def test_several_benchmarks_and_a_directory(synthetic_root: Path, bench: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    rows = read_csv(bench)
    for task in ("emar", "ICU_Stay_7day"):
        write_csv(folder / f"{task}.csv", [row for row in rows if row["task"] == task])
    results = health(synthetic_root, tmp_path / "out", bench, folder)
    assert list(results) == ["bench", "sets"] and list(results["sets"]["tasks"]) == ["emar", "ICU_Stay_7day"]
    alone, with_others = (results[name]["tasks"]["ICU_Stay_7day"] for name in ("sets", "bench"))
    assert alone["findings"] == with_others["findings"] and set(alone["findings"]) == set(FINDINGS)
    page = (tmp_path / "out/health.html").read_text()
    assert "Health of bench, sets" in page and "sets: Findings" in page
    labels = {name for row in rows if row["task"] == "emar" for name in json.loads(row["target"])}
    assert labels and not any(label in page for label in labels)
    assert not any(row["subject_id"] in page for row in rows)


def test_errors(synthetic_root: Path, bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        health(synthetic_root, out, bench, "--exclude", "leak")
    assert "expected findings among outcome_in_window" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        health(synthetic_root, out, bench, "--exclude", "")
    assert "target_in_context" in (error := capsys.readouterr().err) and ", got none" in error
    with pytest.raises(UserError, match=r"no-trajectories: expected trajectories, got no such file"):
        health(synthetic_root, out, bench, "--ehr_dir", tmp_path / "no-trajectories")
    with pytest.raises(UserError, match="expected files of different names"):
        health(synthetic_root, out, bench, bench)
    with pytest.raises(UserError, match=r"none/result\.json: expected the result of a finished run"):
        health(synthetic_root, out, bench, "--results", tmp_path / "none")
    rows = read_csv(bench)
    bad = write_csv(tmp_path / "bad.csv", [rows[0], rows[1] | {"task": "no such task"}])
    with pytest.raises(UserError, match=r"bad\.csv, row 3: expected a task of"):
        health(synthetic_root, out, bad)
    far = write_csv(tmp_path / "far.csv", [rows[0] | {"context_end": "99999"}])
    with pytest.raises(UserError, match="expected rows of these trajectories"):
        health(synthetic_root, out, far)
    other = write_run(tmp_path / "other", tasks=["emar"], n=4)
    assert health(synthetic_root, out, bench, "--results", other)["bench"]["runs"] == {}
    assert "warning: tiny: it has no scores on samples of INDEX, and is left out." in capsys.readouterr().out
    (tmp_path / "bad.jsonl").write_text('{"input": "x", "task_info": {"task": "emar"}}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 1: .*"):
        health(synthetic_root, out, tmp_path / "bad.jsonl")
