"""Several replies to each prompt: what is asked and stored, that a sample is whole or missing, and the scores by hand."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import command
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered_rows import rendered_row, rendered_rows, write_rows
from scripted_server import ScriptedServer
from test_row_checks import evaluate

from evaluation.predictions import parse_output
from evaluation.score import score_dir, score_predictions
from evaluation.several_replies import items_of_most, most_frequent, pass_at
from mimiciv_dataset.tasks import TASKS
from pipeline.errors import UserError
from pipeline.files import read_json

Line = dict[str, Any]


def line(number: int, task: str, label: Any, replies: list[tuple[str, float | None]], **fields: Any) -> Line:
    """An output line of patient `number`."""
    info = {"task": task, "label": label, "subject_id": number, "period_begin": 1, "period_end": 9}
    outputs = [{"response": text, "p_yes": p_yes} for text, p_yes in replies]
    return {"key": f"{task} {number}", "task_info": info, "candidates": None, "outputs": outputs} | fields


def scores(lines: list[Line]) -> dict[str, Any]:
    return score_predictions([parse_output(each)[1] for each in lines], resamples=20)["tasks"]


def words(*texts: str) -> list[tuple[str, None]]:
    return [(text, None) for text in texts]


def test_decision_scores_by_hand() -> None:
    result = scores([
        line(1, "emar", ["A", "B"], words("A\nB", "a\nC", "B\nA", "")),  # F1 1, .5, 1, 0; A and B: more than half is A only
        line(2, "emar", ["A"], words("B", "C", "A", "A")),  # F1 0, 0, 1, 1; no majority
    ])["emar"]  # fmt: skip
    assert (result["n"], result["replies"]) == (2, 4)
    assert result["f1"] == pytest.approx((2.5 / 4 + 2 / 4) / 2)
    assert result["majority_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert result["best_f1"] == 1
    assert [result[f"pass@{k}"] for k in (1, 2, 4)] == pytest.approx([0.5, 1 - 1 / 6, 1])
    assert result["invalid"] == pytest.approx(1 / 8) and {"f1_ci", "pass@2_ci"} <= set(result)


def test_one_right_answer() -> None:
    result = scores([
        line(1, "next_event", "emar", words("emar", "poe", "Emar")),
        line(2, "next_event", "poe", words("omr", "emar\npoe", "")),
    ])["next_event"]  # fmt: skip
    assert result["accuracy"] == pytest.approx(1 / 3)
    assert result["majority_accuracy"] == 0.5 and "best_accuracy" not in result
    assert result["pass@3"] == 0.5


def test_risk_scores_by_hand() -> None:
    result = scores([
        line(1, "ICU_Readmission", "yes", [("yes", 0.9), ("yes", 0.6), ("no", 0.2)]),
        line(2, "ICU_Readmission", "no", [("no", 0.1), ("no", 0.3), ("yes", 0.8)]),
        line(3, "ICU_Readmission", "no", [("no", 0.4), ("no", 0.45), ("no", 0.1)]),
    ])["ICU_Readmission"]  # fmt: skip
    assert result["auroc"] == pytest.approx((1 + 1 + 0.5) / 3), "of the first, second and third replies"
    assert result["majority_auroc"] == 1 and result["majority_accuracy"] == 1
    assert result["accuracy"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    p_yes = [1.7 / 3, 1.2 / 3, 0.95 / 3]
    assert result["majority_brier"] == pytest.approx(((p_yes[0] - 1) ** 2 + p_yes[1] ** 2 + p_yes[2] ** 2) / 3)
    assert result["positives"] == 1 and sum(each["n"] for each in result["calibration"]) == 9
    assert result["pass@1"] == pytest.approx(result["accuracy"]) and result["pass@3"] == 1


def test_votes_without_p_yes() -> None:
    """A tie, and replies that say neither: wrong."""
    result = scores([
        line(1, "ICU_Readmission", "yes", words("yes", "no", "perhaps", "yes")),
        line(2, "ICU_Readmission", "no", words("yes", "no", "?", "?")),
        line(3, "ICU_Readmission", "no", words("?", "?", "?", "?")),
    ])["ICU_Readmission"]  # fmt: skip
    assert result["auroc"] is None and "majority_auroc" not in result
    assert result["majority_accuracy"] == pytest.approx(1 / 3) and result["invalid"] == pytest.approx(7 / 12)


def test_rounds_without_what_others_have() -> None:
    """A round whose reasoning was cut off in all samples has no mass; one without p(yes) makes AUROC undefined."""
    mass = {"yes_no_mass": 0.6}

    def risk(first: Line, second: Line) -> Line:
        return scores([{**line(1, "ICU_Readmission", "yes", words("")), "thinking_open": True, "outputs": [first, second]}])

    closed = {"response": "old</think>yes", "p_yes": 0.9}
    for replies in ([closed | mass, {"response": "old"}], [{"response": "old"}, closed | mass]):
        result = risk(*replies)["ICU_Readmission"]
        assert result["yes_no_mass"] == 0.6 and result["brier"] == pytest.approx((0.1**2 + 1) / 2)
    for replies in ([closed | mass, closed | {"p_yes": None}], [closed | {"p_yes": None}, closed | mass]):
        result = risk(*replies)["ICU_Readmission"]
        assert result["auroc"] is result["ece"] is None and "calibration" not in result and result["accuracy"] == 1


def test_a_note_has_no_vote() -> None:
    result = scores([line(1, "discharge", "the old man", words("the man", "woman"))])["discharge"]
    assert result["best_rouge1"] == pytest.approx(0.8) and result["rouge1"] == pytest.approx(0.4)
    assert not [name for name in result if name.startswith(("majority", "pass"))]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["Aspirin", "aspirin\nZinc", "Zinc", "poe", "emar", ""]), min_size=1, max_size=6), st.data())
def test_equal_replies_score_as_one(texts: list[str], data: st.DataObject) -> None:
    """n times the same reply has the scores of the reply, whatever the vote; one reply has no further scores."""
    number = data.draw(st.integers(2, 4))
    for task, label in (("emar", ["Aspirin"]), ("next_event", "emar"), ("ICU_Readmission", "no")):
        answers = [
            ("yes" if text else "no", 0.5 + len(text) / 40) if task == "ICU_Readmission" else (text, None) for text in texts
        ]
        one = scores([line(i, task, label, [answer]) for i, answer in enumerate(answers)])[task]
        several = scores([line(i, task, label, [answer] * number) for i, answer in enumerate(answers)])[task]
        assert not [name for name in one if name.startswith(("majority", "best", "pass", "replies"))]
        for name, value in one.items():
            if name not in ("calibration", "note"):
                assert several[name] == pytest.approx(value), name
        metric = TASKS[task].metric
        if task != "emar":
            assert several[f"majority_{metric}"] == pytest.approx(one[metric])
            assert several["pass@1"] == pytest.approx(several[f"pass@{number}"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_pass_at_k_is_the_share_of_all_choices_of_k_replies(correct: list[list[bool]]) -> None:
    for k, statistic in ((int(name[5:]), statistic) for name, statistic in pass_at(np.array(correct)).items()):
        expected = np.mean([np.mean([any(some) for some in combinations(row, k)]) for row in correct])
        assert statistic(np.ones((1, len(correct))))[0] == pytest.approx(expected)


def test_votes_of_items() -> None:
    assert items_of_most([["A", "a"], ["A"], ["B"], ["B"]]) == [], "half is not more than half; a repeat is one vote"
    assert items_of_most([["Chest  X-Ray"], ["chest x\u2011ray"], ["B"]]) == ["chest x-ray"], "compared as in scoring"
    assert most_frequent([["X-Ray"], ["B"], ["x\u2011ray"]]) == {"x-ray"}
    assert most_frequent([[], []]) == set() and most_frequent([["a"], ["b"]]) == {"a"}


def test_different_numbers_of_replies_are_an_error(tmp_path: Path) -> None:
    lines = [line(1, "emar", ["A"], words("A", "B")), line(2, "emar", ["A"], words("A"))]
    with pytest.raises(UserError, match="emar: expected 2 replies to every sample, got fewer to some"):
        scores(lines)
    lines[1]["error"] = "does not fit"
    assert scores(lines)["emar"]["f1"] == pytest.approx(0.25), "a prompt that did not fit has no reply in any round"


# --- through test.py


def outputs(folder: Path) -> dict[str, Line]:
    found = [json.loads(each) for path in folder.glob("outputs*.jsonl") for each in path.open(encoding="utf-8")]
    assert len({each["sample_id"] for each in found}) == len(found)
    return {each["sample_id"]: each for each in found}


SEVERAL = ("--num_samples", 3, "--temperature", 0.7)


def test_a_run_with_several_replies(tiny_model: Path, tmp_path: Path) -> None:
    """Decision prompts are asked three times, scored ones once; a sample without all replies is asked again."""
    data = write_rows(tmp_path / "rows.jsonl", rendered_rows(4))
    broken = True

    def script(body: dict[str, Any], number: int) -> dict[str, Any]:
        if body.get("logprobs"):
            return {"top": {"yes": -0.1, "no": -2.0}}
        if broken and number % 5 == 4:
            return {"status": 400}
        return {"text": ("Aspirin\nHeparin", "Zinc")[number % 2]}

    with ScriptedServer(script) as server:
        assert evaluate(data, tmp_path / "out", server, tiny_model, *SEVERAL) == 1
        done = outputs(tmp_path / "out")
        assert 4 < len(done) < 8, "some are missing"
        broken, asked = False, len(server.asked)
        assert evaluate(data, tmp_path / "out", server, tiny_model, *SEVERAL, "--resume") == 0
        assert len(server.asked) - asked == 3 * (8 - len(done)), "a half finished sample is asked for all its replies"
        with pytest.raises(UserError, match="expected the same num_samples"):
            evaluate(data, tmp_path / "out", server, tiny_model, "--temperature", 0.7, "--resume")
        with pytest.raises(UserError, match="--num_samples 3: expected a temperature above 0, got 0"):
            evaluate(data, tmp_path / "other", server, tiny_model, "--num_samples", 3)
    found = outputs(tmp_path / "out")
    assert {(each["task_info"]["task"], len(each["outputs"])) for each in found.values()} == {
        ("emar", 3),
        ("ICU_Mortality_7day", 1),
    }
    assert all(found[sample] == each for sample, each in done.items())
    result = read_json(tmp_path / "out/result.json")
    assert result["arguments"]["num_samples"] == 3 and result["tasks"]["emar"]["replies"] == 3
    scored = {
        each: np.mean([len(reply["items"]) == 2 for reply in line["outputs"]])
        for each, line in found.items()
        if "emar" in each
    }
    assert result["tasks"]["emar"]["f1"] == pytest.approx(np.mean(list(scored.values())))
    assert [found[sample]["score"] for sample in scored] == pytest.approx(list(scored.values()))
    again = score_dir(tmp_path / "out", resamples=20)
    assert again["tasks"] == result["tasks"] and again["usage"] == result["usage"]


def test_a_local_model_samples_differently_and_the_same_again(tiny_model: Path, tmp_path: Path) -> None:
    rows = [*rendered_rows(2), rendered_row(9)]
    rows[-1] |= {"input": "word " * 3000, "idx": 9}
    data = write_rows(tmp_path / "rows.jsonl", rows)
    flags = ["--dataset_name", data, "--model_name_or_path", tiny_model, "--max_new_tokens", 6, "--max_seq_len", 600, *SEVERAL]
    command("test.py", *flags, "--output_path", tmp_path / "one", "--batch", 4, "--think_prompt", "--think_risk")
    command("test.py", *flags, "--output_path", tmp_path / "two", "--batch", 1, "--think_prompt", "--think_risk", "--limit", 2)
    command("test.py", *flags, "--output_path", tmp_path / "two", "--batch", 2, "--think_prompt", "--think_risk", "--resume")
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    texts = {sample: [reply["response"] for reply in each["outputs"]] for sample, each in one.items()}
    assert texts == {sample: [reply["response"] for reply in each["outputs"]] for sample, each in two.items()}
    assert sorted(map(len, texts.values())) == [1, 3, 3, 3, 3], "the prompt that does not fit has one non-reply"
    assert all(len(set(replies)) == 3 for replies in texts.values() if len(replies) == 3)
    assert read_json(tmp_path / "one/result.json")["tasks"] == read_json(tmp_path / "two/result.json")["tasks"]
