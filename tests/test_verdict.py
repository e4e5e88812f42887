"""The verdict: it says what the figures and tests say, and never calls anything significant that was not tested."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_runs import write_run

from evaluation.comparisons import Comparison, holm
from evaluation.finished_runs import FinishedRun, RunComparison
from evaluation.score import score_dir
from evaluation.verdict import main, verdict
from mimiciv_dataset.tasks import TASKS
from pipeline.files import read_json

DECISION, RISK = ("emar", "labevents"), ("ICU_Stay_7day", "ED_Hospitalization")
NEEDED = "at least 30 patients, and a risk task 20 with yes and 20 with no"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A good model with baselines below it, and a bad one."""
    root = tmp_path_factory.mktemp("runs")
    good, bad = (write_run(root / name, name, skill, DECISION + RISK, n=150) for name, skill in (("good", 0.6), ("bad", 0.1)))
    write_run(good / "baselines/majority", "majority", 0.02, DECISION, n=150)
    write_run(good / "baselines/logistic_regression", "logistic_regression", 0.6, RISK, n=150)
    return good, bad


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    main([*map(str, arguments), "--resamples", "2000"])
    return capsys.readouterr().out.splitlines()


def mean(folder: Path, tasks: tuple[str, ...]) -> str:
    results = read_json(folder / "result.json")["tasks"]
    return f"{sum(results[task][TASKS[task].metric] for task in tasks) / len(tasks):.3f}"


def test_a_better_model_is_called_better(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = runs
    (line,) = printed(capsys, good, bad)
    risk, decision = line.split(" Decision-making: ")
    assert risk.startswith(f"Risk prediction: good has a mean AUROC of {mean(good, RISK)} over 2 tasks. This is ")
    assert f"significantly above bad ({mean(bad, RISK)}, p = 0.00" in risk
    assert "not significantly different from logistic_regression" in risk and "the highest of 3" not in risk
    shares = "above chance (95 % interval above 0.5) in all 2 tasks and significantly above that of bad in all 2 tasks."
    assert risk.endswith(f" Its AUROC is {shares}")
    of_means = (
        f"good has a mean F1 of {mean(good, DECISION)} over 2 tasks, the highest of 3 compared. This is significantly above"
    )
    assert decision.startswith(f"{of_means} bad (")
    shares = "significantly above that of bad in all 2 tasks and significantly above that of majority in all 2 tasks."
    assert decision.endswith(f" Its F1 is {shares}")


def test_a_worse_model_is_called_worse(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    *points, line = printed(capsys, runs[1], runs[0], "--points")
    assert (
        "bad has a mean AUROC of" in line and "significantly below good" in line and "significantly above good (" not in line
    )
    assert any("AUROC by task, against good (better in 0, worse in 2 of 2 tasks)" in point for point in points)


def test_a_run_alone_is_not_compared(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = printed(capsys, runs[1])
    assert line.endswith("There is no other run and no baseline to compare it with.") and "significant" not in line


def test_few_samples_conclude_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_run(tmp_path / name, name, skill, DECISION + RISK, n=6) for name, skill in (("good", 1), ("bad", 0))]
    *points, line = printed(capsys, *folders, "--points")
    assert line.startswith("The samples are too few to conclude anything about good: ") and NEEDED in line
    assert not [text for text in (line, *points) if "significant" in text or "highest" in text or "[" in text]
    assert any(re.search(r"This is not testable against bad \(0\.\d+, too few samples\)\.", point) for point in points)


def test_tasks_with_too_few_samples_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many, few = (write_run(tmp_path / str(n), tasks=(task,), n=n) for task, n in zip(RISK, (90, 6), strict=True))
    (many / "outputs-1-of-2.jsonl").write_bytes((few / "outputs.jsonl").read_bytes())
    (many / "result.json").unlink()  # it has the identities of the samples
    score_dir(many, resamples=40)
    *points, line = printed(capsys, many, "--points")
    assert "over 2 tasks (1 with too few samples for tests)." in line and "(95 % interval above 0.5) in 1 of 1 task." in line
    assert any(
        point.startswith("Too few samples for intervals and tests in 1 of 2 tasks") and NEEDED in point for point in points
    )


def run(name: str, values: dict[str, float], baseline: bool = False) -> FinishedRun:
    """What the verdict reads of a run."""
    tasks = {
        task: {TASKS[task].metric: value, f"{TASKS[task].metric}_ci": [value, value], "too_few": None}
        for task, value in values.items()
    }
    return SimpleNamespace(name=name, baseline=baseline, folder=Path(name), tasks=tasks, replicates={}, result={})


P = st.none() | st.floats(0.0001, 1)


@given(st.lists(st.tuples(P, st.floats(-1, 1).filter(lambda value: abs(value) > 0.01)), min_size=1, max_size=5))
def test_only_what_holm_leaves_is_called_significant(tests: list[tuple[float | None, float]]) -> None:
    judged = run("judged", {"emar": 0.5})
    comparisons = []
    for number, (p, difference) in enumerate(tests):
        result = Comparison(difference, None if p is None else [difference, difference], p, p, "few" if p is None else None)
        other, values = run(f"run{number}.", {}), {"emar": (0.5, 0.5 - difference)}
        comparisons.append(RunComparison(judged, other, {"emar": result}, {"decision": result}, values, {}, 5000))
    (text, *_) = verdict(judged, comparisons).points
    significant = re.split("not significantly different from|not testable against", text)[0]
    for number, p in enumerate(holm([p for p, _ in tests])):
        assert (f"run{number}. (" in significant) == (p is not None and p < 0.05)
        assert f"run{number}. (" in text


def test_an_unanswered_sample_is_part_of_the_verdict() -> None:
    judged = run("judged", {"emar": 0.5, "ICU_Stay_7day": 0.7})
    for number, words in ((1, "1 sample of judged is"), (2, "2 samples of judged are")):
        judged.result["missing"] = number
        assert verdict(judged, []).sentence.endswith(f"{words} not answered yet, so its figures are not final.")


def test_the_means_on_common_samples_are_given_where_they_are_others() -> None:
    judged, other = run("judged", {"emar": 0.5, "labevents": 0.9}), run("other", {"emar": 0.6})
    result = Comparison(-0.1, [-0.2, -0.01], 0.01, 0.01)
    comparison = RunComparison(judged, other, {"emar": result}, {"decision": result}, {"emar": (0.5, 0.6)}, {}, 5000)
    assert (
        "judged has a mean F1 of 0.700 over 2 tasks. This is significantly below other (0.600 against 0.500 on the samples of "
        "both, p = 0.010). Its F1 is significantly above that of other in 0 of 1 task."
    ) in verdict(judged, [comparison]).sentence


def test_tasks_without_p_yes_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = write_run(tmp_path / "words", "words", 0.6, ("emar", "ICU_Stay_7day"), n=60, words_only=True)
    (line,) = printed(capsys, words)
    assert line.startswith("Decision-making: words has") and "Risk prediction" not in line
    assert "1 risk prediction task has no AUROC, as the replies are without p(yes)." in line
