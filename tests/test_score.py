"""Scoring stored outputs: rigged models get the scores they must, and damaged lines are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.predictions import Prediction, read_predictions
from evaluation.score import format_result, main_metric, main_scores, score_dir
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError

RUN = {"resamples": 50}
Line = dict[str, Any]


def line(task: str, number: int, label: Any, response: str = "", p_yes: float | None = None, **fields: Any) -> Line:
    """An output line as test.py writes it; two samples to a patient."""
    info = {"task": task, "label": label, "subject_id": f"p{number // 2}"}
    return {"key": f"{task}-{number}", "task_info": info, "candidates": None,
            "outputs": [{"response": response, "p_yes": p_yes}], **fields}  # fmt: skip


def write(folder: Path, lines: list[Line], name: str = "outputs.jsonl", tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(each) + "\n" for each in lines)
    (folder / name).write_text(text + tail, encoding="utf-8")
    return folder


def rigged(right: bool, n: int = 60) -> list[Line]:
    """Every task answered all right, or all wrong; both labels of risk tasks."""
    lines = []
    for name, task in TASKS.items():
        for number in range(n):
            if task.kind == "risk":
                yes = number % 3 == 0
                says = yes == right
                lines.append(line(name, number, "yes" if yes else "no", "yes" if says else "no", 0.0 + says))
            else:
                label = "The man is old." if task.metric == "rouge1" else [f"A{number}", f"B, {number}"]
                if task.metric == "accuracy":
                    label = "labevents"
                answer = label if isinstance(label, str) else "\n".join(label)
                lines.append(line(name, number, label, f"<think>B</think>{answer if right else 'Wrong'}"))
    return lines


METRICS = {
    "f1": ("precision", "recall", "f1"),
    "accuracy": ("accuracy",),
    "rouge1": ("rouge1",),
    "auroc": ("auroc", "accuracy", "f1"),
}


@pytest.mark.parametrize("right", [True, False])
def test_all_right_is_best_and_all_wrong_is_worst(tmp_path: Path, right: bool) -> None:
    result = score_dir(write(tmp_path, rigged(right)), **RUN)
    assert list(result["tasks"]) == list(TASKS)
    for name, found in result["tasks"].items():
        assert (found["n"], found["patients"], found["invalid"], found["too_few"]) == (60, 30, 0, None)
        for metric in METRICS[TASKS[name].metric]:
            assert found[metric] == float(right), (name, metric)
            assert found[f"{metric}_ci"] == [float(right)] * 2, (name, metric)
        if TASKS[name].kind == "risk":
            assert found["brier"] == found["ece"] == float(not right)
            assert (found["auprc"] == 1) == right
    for suite, decisions in (("paper", 24), ("released", 27)):
        macro = result["macro"][suite]
        assert macro["decision_f1"] == macro["risk_auroc"] == float(right)
        assert macro["decision_f1_ci"] == macro["risk_auroc_ci"] == [float(right)] * 2
        assert (macro["decision_tasks"], macro["risk_tasks"], macro["missing"]) == (decisions, 18, [])
    assert json.loads((tmp_path / "result.json").read_text()) == result


NONSENSE = [
    "", " \n\n", "x" * 100_000, "the patient " * 9000, "Aspirin\n" * 15_000, "<think>" * 2000, "</think>" * 2000,
    "<think><think>a</think>b</think><think>c", '{"items": ["A", "B"], "answer": null}', '[["A"], {"b": 1}]', "[" * 5000,
    "阿司匹林、肝素\n是的，会的。", "我不知道", "\x00\ud800\ufeff", "%s %d {} \\n \\", "yes no yes", "<|channel|>final", "NaN",
]  # fmt: skip


def test_nonsense_is_scored(tmp_path: Path) -> None:
    """Every task, with and without a p_yes beside the text."""
    rows = []
    for name, task in TASKS.items():
        label: Any = "The man is old." if task.metric == "rouge1" else ["A1", "B, 2"]
        for number, text in enumerate(NONSENSE * 2):
            risk, with_p = task.kind == "risk", number < len(NONSENSE)
            given_p = 0.3 if risk and with_p else None
            rows.append(line(name, number, ("yes", "no")[number % 2] if risk else label, text, given_p))
    result = score_dir(write(tmp_path, rows), **RUN)
    for name, found in result["tasks"].items():
        assert found["n"] == 2 * len(NONSENSE)
        metric = main_metric(name)
        assert 0 <= found[metric] <= 0.5 and found["invalid"] > 0 or name == "discharge"
        assert found["too_few"] == "18 patients of at least 30" and found[f"{metric}_ci"] is None
    assert result["macro"]["released"]["decision_f1"] == 0


def test_a_constant_says_nothing(tmp_path: Path) -> None:
    lines = [line("ICU_Stay_7day", k, "yes" if k % 4 == 0 else "no", "no", 0.2) for k in range(80)]
    found = score_dir(write(tmp_path, lines), **RUN)["tasks"]["ICU_Stay_7day"]
    assert found["auroc"] == 0.5 and found["auroc_ci"] == [0.5, 0.5]
    assert found["auprc"] == 0.25 and found["accuracy"] == 0.75 and found["f1"] == 0
    assert found["ece"] == pytest.approx(0.05) and found["positives"] == 20


def test_one_label_has_no_auroc(tmp_path: Path) -> None:
    result = score_dir(write(tmp_path, [line("ICU_Stay_7day", k, "no", "no", 0.1) for k in range(9)]), **RUN)
    found = result["tasks"]["ICU_Stay_7day"]
    assert found["auroc"] is found["auroc_ci"] is None and found["accuracy"] == 1
    assert result["macro"]["paper"]["risk_auroc"] is None and "ICU_Stay_7day" in result["macro"]["paper"]["missing"]
    assert "ICU_Stay_7day" in format_result(result)


def test_text_never_becomes_probabilities(tmp_path: Path) -> None:
    labels = ["yes", "no", "no", "no"]
    text = [line("ICU_Stay_7day", k, label, label) for k, label in enumerate(labels)]
    found = score_dir(write(tmp_path / "text", text), **RUN)["tasks"]["ICU_Stay_7day"]
    assert found["accuracy"] == found["f1"] == 1 and found["auroc"] is None and "note" in found
    some = [line("ICU_Stay_7day", 9, "no", "no", 0.1), *text]
    found = score_dir(write(tmp_path / "some", some), **RUN)["tasks"]["ICU_Stay_7day"]
    assert found["auroc"] == pytest.approx((3 * 0.5 + 1) / 4) and found["note"].startswith("4 of 5 rows")


def test_a_row_without_an_answer_is_wrong(tmp_path: Path) -> None:
    task = "ICU_Stay_7day"
    lines = [
        line(task, 0, "no", "<think>so it is no", 0.0),  # cut off: p_yes was not taken after the chain
        line(task, 1, "yes", "so yes", thinking_open=True),
        line(task, 2, "yes", "not sure"),
        line(task, 3, "no", error="does not fit", outputs=[]),
        line(task, 4, "no", "<think>so</think>no", 0.1),
        line(task, 5, "yes", "", 0.9),  # only p_yes was computed
        line("emar", 0, ["A"], "<think>A"),
        line("emar", 1, ["A"], "<think>hm</think>\n\n"),
        line("emar", 2, ["A"], "A", error="does not fit"),
        line("emar", 3, ["A"], "B</think>A"),
    ]
    tasks = score_dir(write(tmp_path, lines), **RUN)["tasks"]
    assert tasks[task]["accuracy"] == pytest.approx(2 / 6) and tasks[task]["invalid"] == pytest.approx(4 / 6)
    assert tasks[task]["f1"] == pytest.approx(2 / (2 + 2 + 2)) and tasks[task]["brier"] == pytest.approx((4 + 0.02) / 6)
    assert tasks["emar"]["f1"] == 0.25 and tasks["emar"]["invalid"] == 0.75


def test_failing_is_never_right(tmp_path: Path) -> None:
    """A model that rarely says yes, and is cut off, too long or unreadable just where yes is right, ranks all wrong."""
    failures = ({"response": "<think>so"}, {"error": "does not fit"}, {"response": "not sure"})
    lines = [line("ICU_Stay_7day", k, "no", "no", 0.1) for k in range(9)]
    lines += [line("ICU_Stay_7day", 9 + k, "yes", **failures[k % 3]) for k in range(6)]
    found = score_dir(write(tmp_path / "some", lines), **RUN)["tasks"]["ICU_Stay_7day"]
    assert found["auroc"] == 0 and found["auprc"] == pytest.approx(6 / 15) and "note" not in found
    lines = [line("ICU_Stay_7day", k, ("yes", "no")[k % 2], error="does not fit") for k in range(8)]
    found = score_dir(write(tmp_path / "all", lines), **RUN)["tasks"]["ICU_Stay_7day"]
    assert found["auroc"] == found["accuracy"] == 0 and found["invalid"] == 1


def test_answers_outside_the_candidates_are_counted(tmp_path: Path) -> None:
    lines = [
        line("emar", 0, ["A", "B"], "A", candidates=["a", "b", "c"]),
        line("emar", 1, ["A", "B"], "A", candidates=["A", "c"]),
        line("emar", 2, ["A", "B"], "A", candidates=[]),
        line("emar", 3, ["A", "B"], "A"),
    ]
    assert score_dir(write(tmp_path, lines), **RUN)["tasks"]["emar"]["unanswerable"] == 0.25


def test_macro_is_the_mean_over_tasks_not_over_samples(tmp_path: Path) -> None:
    lines = [line("emar", k, ["A"], "A") for k in range(9)] + [line("poe", 0, ["A"], "B")]
    lines += [line("next_event", k, "emar", "emar") for k in range(2)]
    macro = score_dir(write(tmp_path, lines), **RUN)["macro"]
    assert macro["paper"]["decision_f1"] == 0.5 and macro["released"]["decision_f1"] == pytest.approx(2 / 3)
    assert len(macro["paper"]["missing"]) == 22 + 18 and "discharge" not in macro["released"]["missing"]


def test_chunks_duplicates_and_a_truncated_line(tmp_path: Path) -> None:
    first = [line("emar", 0, ["A"], "B"), line("emar", 1, ["A"], "A"), line("emar", 1, ["A"], "A")]
    write(tmp_path, first, "outputs-0-of-2.jsonl", tail='{"key": "emar-5", "task_in')
    write(tmp_path, [line("emar", 0, ["A"], "A"), line("emar", 2, ["A"], "B")], "outputs-1-of-2.jsonl", tail="\n")
    found = score_dir(tmp_path, **RUN)["tasks"]["emar"]
    assert found["n"] == 3 and found["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"key": "x", "task', "line 2.*JSON"),
        ("[]", "line 2: .*JSON object"),
        ("{}", "line 2: .*task_info"),
        (json.dumps(line("unknown", 0, "x", "x")), "line 2: task_info.task: expected the name of a task"),
        (json.dumps(line("emar", 0, None, "x")), "line 2: task_info.label"),
        (json.dumps(line("emar", 0, [], "x")), "line 2: task_info.label"),
        (json.dumps(line("ICU_Stay_7day", 0, "maybe", "x")), "line 2: task_info.label: .*yes or no"),
        (json.dumps(line("ICU_Stay_7day", 0, "no", "x", 1.5)), "line 2: p_yes: expected a number from 0 to 1"),
        (json.dumps(line("ICU_Stay_7day", 0, "no", "x", float("nan"))), "line 2: p_yes: expected a number from 0 to 1"),
        (json.dumps(line("emar", 0, "A", "x") | {"outputs": []}), "line 2: outputs"),
        (json.dumps({name: x for name, x in line("emar", 0, "A", "x").items() if name != "key"}), "line 2: key"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str, message: str) -> None:
    write(tmp_path, [line("emar", 0, "A", "A")], tail=f"{broken}\n{json.dumps(line('emar', 1, 'A', 'A'))}\n")
    with pytest.raises(UserError, match=f"outputs.jsonl, {message}") as error:
        score_dir(tmp_path, **RUN)
    assert "maybe" not in str(error.value), "labels are data of patients"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outputs.*jsonl"):
        score_dir(tmp_path)
    with pytest.raises(UserError, match="no: expected"):
        score_dir(tmp_path / "no")
    assert score_dir(write(tmp_path, []), **RUN)["tasks"] == {}


def test_a_sample_has_one_identity_in_old_and_new_outputs(tmp_path: Path) -> None:
    window = {"task": "emar", "label": "A", "subject_id": 7.0, "period_begin": 3, "period_end": "9"}
    text = {"task": "emar", "label": "A"}
    reply = {"outputs": [{"response": "A"}]}
    lines = [
        {"key": "a", "task_info": window, "input_sha256": "ab" * 32, **reply},
        {"key": "b", "task_info": text, "input_sha256": "ab" * 32, **reply},
        {"key": "c", "task_info": text, **reply},
        {"key": "d", "task_info": text, "sample_id": "emar/8/1-2", **reply},
    ]
    ids = {key: prediction.sample_id for key, prediction in read_predictions(write(tmp_path, lines)).items()}
    assert (ids["a"], ids["b"], ids["d"]) == ("emar/7/3-9", f"emar/{'ab' * 8}", "emar/8/1-2")
    assert ids["c"].startswith("emar/") and len(set(ids.values())) == 4


def test_samples_without_patients_stand_alone(tmp_path: Path) -> None:
    lines = [line("emar", k, "A", "A") for k in range(5)]
    for each in lines:
        del each["task_info"]["subject_id"]
    result = score_dir(write(tmp_path, [*lines, line("poe", 0, "A", "A")]), **RUN)
    assert result["tasks"]["emar"]["patients"] == 5 and not result["tasks"]["emar"]["clustered"]
    assert result["tasks"]["poe"]["clustered"]
    assert "samples without subject_id in 1 of 2 tasks: each counts as a patient" in format_result(result)


def intervals(values: dict[str, Any]) -> list[Any]:
    return [value for name, value in values.items() if name.endswith("_ci")]


@pytest.mark.parametrize(
    ("n", "share", "reason"),
    [
        (60, 3, None),  # 30 patients, 20 with yes
        (58, 2, "29 patients of at least 30"),
        (6, 2, "3 patients of at least 30"),
        (57 * 2, 6, "19 patients with yes of at least 20"),
        (400, 1, "0 patients with no of at least 20"),
        (400, 1000, "1 patient with yes of at least 20"),
    ],
)
def test_few_samples_have_values_but_no_intervals(tmp_path: Path, n: int, share: int, reason: str | None) -> None:
    lines = [line("ICU_Stay_7day", k, "yes" if k % share == 0 else "no", "no", k % 7 / 7) for k in range(n)]
    result = score_dir(write(tmp_path, lines), **RUN)
    found, macro = result["tasks"]["ICU_Stay_7day"], result["macro"]["paper"]
    assert found["too_few"] == reason and (found["n"], found["positives"]) == (n, -(-n // share))
    assert found["accuracy"] is not None and {each is None for each in intervals(found)} == {reason is not None}
    assert (macro["risk_auroc_ci"] is None) == (reason is not None) and macro["risk_auroc"] == found["auroc"]
    text = format_result(result)
    assert ("too few samples for intervals and tests in 1 of 1 tasks" in text) == (reason is not None)
    assert found["auroc"] is None or (" too few " in text.splitlines()[2]) == (reason is not None)


def test_a_task_of_few_samples_leaves_the_macro_average_without_an_interval(tmp_path: Path) -> None:
    many = [line("emar", k, ["A"], "AB"[k % 2]) for k in range(80)]
    result = score_dir(write(tmp_path, [*many, line("poe", 0, ["A"], "A")]), **RUN)
    macro = result["macro"]["paper"]
    assert result["tasks"]["emar"]["f1_ci"] and macro["decision_f1"] == 0.75 and macro["decision_f1_ci"] is None
    assert "decision_f1 0.7500 [too few] over 2 tasks, 81 samples" in format_result(result)
    assert score_dir(write(tmp_path, many), **RUN)["macro"]["paper"]["decision_f1_ci"]


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    lines = [line("emar", k, ["A"], "AB"[k % 2]) for k in range(50)]
    lines += [line("ICU_Stay_7day", k, ("yes", "no")[k % 3 > 0], "", k % 7 / 7) for k in range(50)]
    forwards, backwards = (score_dir(write(tmp_path / str(step), lines[::step]), **RUN) for step in (1, -1))
    for name, found in forwards["tasks"].items():
        for metric in set(found) - {"calibration"}:
            value = found[metric]
            assert value == pytest.approx(backwards["tasks"][name][metric]), (name, metric)


def test_the_metric_that_models_are_compared_by_is_the_one_reported(tmp_path: Path) -> None:
    lines = [line("emar", k, ["A"], "AB"[k % 2]) for k in range(9)]
    lines += [line("ICU_Stay_7day", k, ("yes", "no")[k % 3 > 0], "", k % 7 / 7) for k in range(20)]
    tasks = score_dir(write(tmp_path, lines), **RUN)["tasks"]
    predictions = read_predictions(tmp_path).values()
    for name, metric in (("emar", "f1"), ("ICU_Stay_7day", "auroc")):
        rows = [prediction for prediction in predictions if prediction.task == name]
        assert main_scores(name, rows).metric() == [tasks[name][metric]]
    assert main_scores("ICU_Stay_7day", [Prediction("ICU_Stay_7day", ("no",), "p", response="no")]) is None


def test_the_command_scores_again_and_keeps_the_arguments_of_the_run(tmp_path: Path, run_command: Any) -> None:
    folder = write(tmp_path, rigged(True, n=4))
    first = score_dir(folder, **RUN, expected=46 * 4, extra={"arguments": {"model": "m"}})
    done = run_command("evaluation/score.py", folder, "--resamples", 50)
    again = json.loads((folder / "result.json").read_text())
    assert again | {"git": first["git"]} == first  # the checkout may have changed between the two
    assert (
        "macro, paper: decision_f1 1.0000 [too few] over 24 tasks, 96 samples; risk_auroc 1.0000 [too few] over 18 tasks"
        in done.stdout
    )
    write(folder, rigged(True, n=4)[1:])
    done = run_command("evaluation/score.py", folder, "--resamples", 50, check=False)
    assert done.returncode == 1 and "missing samples: 1 of 184" in done.stdout
    done = run_command("evaluation/score.py", tmp_path / "no", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_tasks_of_other_benchmarks_are_scored_but_are_in_no_macro_of_ours(tmp_path: Path) -> None:
    own = rigged(True)
    other = [line("guo_los", k, ("yes", "no")[k % 2], "", float(k % 2)) for k in range(8)]
    other += [line("cdm_pathology", k, "appendicitis", "Appendicitis") for k in range(3)]
    other += [line("cdm_diagnoses", k, ["A", "B"], "A") for k in range(3)]
    alone, both = (score_dir(write(tmp_path / name, lines), **RUN) for name, lines in (("a", own), ("b", own + other)))
    assert both["tasks"]["guo_los"]["auroc"] == 0 and both["tasks"]["cdm_pathology"]["accuracy"] == 1
    assert both["tasks"]["cdm_diagnoses"]["f1"] == pytest.approx(2 / 3)
    assert {name: both["macro"][name] for name in ("paper", "released")} == alone["macro"]
    assert both["macro"]["ehrshot"]["risk_auroc"] == 0 and len(both["macro"]["ehrshot"]["missing"]) == 13
    only = format_result(score_dir(write(tmp_path / "c", other), **RUN))
    assert "macro, ehrshot: risk_auroc 0.0000" in only and "macro, paper" not in only
