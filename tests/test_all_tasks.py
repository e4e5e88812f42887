"""All 46 tasks on one set of rows: the prompt of training, records that are too long, and models whose score is known."""

from __future__ import annotations

import csv
import json
import runpy
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from test_score import NONSENSE

from inference import backends
from inference.backends import Generation, Query, load_tokenizer
from inference.generation import TOO_LONG, Prompter, after_reasoning
from inference.prompts import (
    SYSTEM,
    THINK,
    PromptBuilder,
    assistant_turn,
    completion,
    messages,
    training_mode,
)
from inference.settings import InferenceSettings, parse_model
from mimiciv_dataset.index_rows import Rows
from mimiciv_dataset.mimiciv import MIMICIV
from mimiciv_dataset.tasks import NO, TASKS, YES
from mimiciv_dataset.text import SampleText
from pipeline.files import read_json

TEST_PY = runpy.run_path(str(REPO / "test.py"))
CHAIN = "The patient has a fever.\nSo a culture is taken."

Row = dict[str, Any]


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> PromptBuilder:
    return PromptBuilder(load_tokenizer(str(tiny_model)))


class Index(dict[str, list[Row]]):
    """Index rows of every task, as the CSV has them."""

    def __repr__(self) -> str:
        return "index"  # thousands of rows: not in a failure's report


@pytest.fixture(scope="module")
def index(synthetic_root: Path) -> Index:
    found = Index()
    for task in TASKS:
        with (synthetic_root / f"task_index/all/{task}.csv").open(newline="", encoding="utf-8") as file:
            found[task] = list(csv.DictReader(file))
        assert found[task], task
    return found


def spread(rows: Sequence[Row], number: int) -> list[Row]:
    """Up to `number` of the rows, evenly spaced."""
    return list(rows[:: max(1, len(rows) // number)])[:number]


def arguments(*flags: object) -> InferenceSettings:
    """The settings that test.py reads from its flags."""
    needed = ["--dataset_name", "x", "--output_path", "x", "--model_name_or_path", "x"]
    return InferenceSettings.from_flags(parse_model(TEST_PY["make_parser"](), [*needed, *map(str, flags)]))


# --- the prompt


@pytest.mark.parametrize(
    ("flags", "decision", "risk"),  # which training rows read the same prompt: (stage, whether the row has a chain)
    [
        ([], ("domain", False), ("domain", False)),
        (["--think_prompt"], ("reasoning", True), ("reasoning", False)),
        (["--think_prompt", "--direct_answer"], ("reasoning", False), ("reasoning", False)),
        (["--think_prompt", "--think_risk"], ("reasoning", True), ("reasoning", True)),
    ],
    ids=["plain", "think", "no_think", "think_risk"],
)
def test_training_and_evaluation_read_the_same_bytes(
    flags: list[str],
    decision: tuple[str, bool],
    risk: tuple[str, bool],
    builder: PromptBuilder,
    synthetic_root: Path,
    index: Index,
) -> None:
    """And what training adds to the prompt is the whole conversation, token by token."""
    rows = [min(rows, key=lambda row: int(row["context_end"]) - int(row["context_begin"])) for rows in index.values()]
    dataset = MIMICIV(synthetic_root, sample_info=rows, lazzy_mode=True, shuffle=False)
    prompter = Prompter(dataset, builder, arguments(*flags))
    for number, task in enumerate(TASKS.values()):
        sample, prompt = dataset[number], prompter(number)
        stage, has_chain = risk if task.kind == "risk" else decision
        reasoning = CHAIN if has_chain else None
        mode = training_mode(stage, reasoning)
        assert (prompt.task, prompt.mode, prompt.truncation) == (task, mode, None)
        assert prompt.text == builder.prompt(sample["input"], sample["instruction"], mode)
        chat = [
            *messages(sample["input"], sample["instruction"], mode),
            {"role": "assistant", "content": assistant_turn(sample["output"], reasoning)},
        ]
        trained = prompt.text + completion(mode, sample["output"], reasoning) + "<|im_end|>\n"
        assert trained == builder.tokenizer.apply_chat_template(chat, tokenize=False)
        ids, read = (builder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (trained, prompt.text))
        assert ids[: len(read)] == read
        if mode == THINK:  # where p(yes) is asked for after a chain, training has the answer
            assert after_reasoning(prompt.text, completion(mode, "yes", CHAIN)) + "yes" == prompt.text + completion(
                mode, "yes", CHAIN
            )


def test_a_given_chain_stands_where_training_has_it(builder: PromptBuilder, synthetic_root: Path, index: Index) -> None:
    rows = [rows[0] | {"reasoning": CHAIN} for rows in index.values()]
    dataset = MIMICIV(synthetic_root, sample_info=rows, lazzy_mode=True, shuffle=False)
    prompter = Prompter(dataset, builder, arguments("--oracle_reasoning", "--max_seq_len", 10**6))
    for number in range(len(dataset)):
        sample = dataset[number]
        trained = builder.prompt(sample["input"], sample["instruction"], THINK) + completion(THINK, sample["output"], CHAIN)
        assert prompter(number).text + sample["output"] == trained


# --- records that are too long


def lengthened(row: Row, window: int, end: int) -> Row:
    """The row with `window` events in its window, or as many as there are; a risk task's anchor stays its first or last.

    `end` is where the patient's trajectory ends.
    """
    if TASKS[row["task"]].kind == "risk" and TASKS[row["task"]].window != "note":
        return row | {"context_end": min(int(row["context_begin"]) + window, end)}
    return row | {"context_begin": max(1, int(row["context_end"]) - window)}


def check_what_is_left(builder: PromptBuilder, text: SampleText, instruction: str, prompt: Any, room: int) -> None:
    """The prompt is that of the record without its oldest events (and last lines of the note), and no event too few."""
    dropped, note = prompt.truncation, text.last_discharge.split("\n")
    groups: list[list[str]] = []  # events, each with the blank lines of unrendered ones after it
    anchors = []
    for i, event in enumerate(text.window):
        if event or not groups:
            groups.append([event])
        else:
            groups[-1].append(event)
        anchors += [len(groups) - 1] if i == text.anchor else []
    droppable = [i for i in range(len(groups)) if i not in anchors]

    def without(number: int, lines: int) -> str:
        kept = [event for i, group in enumerate(groups) if i not in droppable[:number] for event in group]
        return "\n\n".join([text.patient, "\n".join(note[: len(note) - lines]), text.admission, *kept])

    assert prompt.text == builder.prompt(without(dropped.events, dropped.lines), instruction, prompt.mode)
    anchor = [] if text.anchor is None else [text.window[text.anchor]]
    for must in (SYSTEM, text.patient, text.admission, instruction, *anchor):
        assert must in prompt.text
    if dropped.lines or not dropped.fits:
        assert dropped.events == len(droppable)
    if dropped.fits:
        assert builder.tokens(prompt.text) <= room
        one_less = (dropped.events, dropped.lines - 1) if dropped.lines else (dropped.events - 1, 0)
        assert builder.tokens(builder.prompt(without(*one_less), instruction, prompt.mode)) > room


LONG_TASKS = ("labevents", "prescriptions", "diagnoses_icd", "next_event", "discharge", "ED_Hospitalization",
              "Inpatient_Mortality", "ICU_Mortality_1day", "Readmission_30day")  # fmt: skip


@pytest.mark.parametrize("name", LONG_TASKS)
def test_a_record_longer_than_the_models_32k(name: str, builder: PromptBuilder, synthetic_root: Path, index: Index) -> None:
    end = {row["subject_id"]: int(row["context_end"]) for row in index["next_event"]}
    rows = [lengthened(row, 400, end[row["subject_id"]]) for row in index[name]]
    row = max(rows, key=lambda row: int(row["context_end"]) - int(row["context_begin"]))
    dataset = MIMICIV(synthetic_root, sample_info=[row], lazzy_mode=True, shuffle=False)
    prompt = Prompter(dataset, builder, arguments())(0)
    assert prompt.truncation.tokens_before > 32_000 and prompt.fits
    room = 32_000 - (1 if TASKS[name].kind == "risk" else 2048)
    assert prompt.truncation.tokens_after > room - 3000, "no more is lost than a large event"
    anchored = TASKS[name].kind == "risk" and TASKS[name].event != "admissions"
    assert (dataset.text(0).anchor is not None) == anchored
    if TASKS[name].event == "admissions":  # the anchor stands before the window
        assert row["admissions_id"] == row["context_begin"]
    check_what_is_left(builder, dataset.text(0), dataset[0]["instruction"], prompt, room)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(TASKS)), which=st.integers(0, 10**6), window=st.integers(1, 60),
       max_seq_len=st.integers(300, 12_000),
       flags=st.sampled_from([(), ("--think_prompt",), ("--think_prompt", "--think_risk")]))  # fmt: skip
def test_truncation_of_any_record_to_any_length(
    builder: PromptBuilder, synthetic_root: Path, index: Index, name: str, which: int, window: int,
    max_seq_len: int, flags: tuple[str, ...],
) -> None:  # fmt: skip
    """The same bytes from the trajectory and from the released rows, which hold their text."""
    end = {row["subject_id"]: int(row["context_end"]) for row in index["next_event"]}
    row = index[name][which % len(index[name])]
    dataset = MIMICIV(synthetic_root, sample_info=[lengthened(row, window, end[row["subject_id"]])], lazzy_mode=True)
    args = arguments(*flags, "--max_seq_len", max_seq_len, "--max_new_tokens", 64)
    prompt, sample = Prompter(dataset, builder, args)(0), dataset[0]
    if prompt.truncation is None:
        assert prompt.text == builder.prompt(sample["input"], sample["instruction"], prompt.mode)
        assert builder.tokens(prompt.text) + (1 if prompt.scored else 64) <= max_seq_len
    else:
        room = max_seq_len - (1 if prompt.scored else 64 + 8 * (prompt.task.kind == "risk"))
        check_what_is_left(builder, dataset.text(0), sample["instruction"], prompt, room)
    rendered = MIMICIV(sample_info=[sample], lazzy_mode=True)
    assert Prompter(rendered, builder, args)(0).text == prompt.text


# --- models whose score is known


class Rigged:
    """A backend that knows the answers: it says them, the opposite of them, or the same thing every time."""

    continues = True
    says: dict[str, tuple[str, float]] = {}
    """Prompt without the assistant's turn → what to say, p(yes)."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.builder = PromptBuilder(load_tokenizer(settings.model.model_name_or_path))

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        for number, query in enumerate(queries):
            text, p_yes = self.says[bare(query.prompt)]
            if query.score:
                yield number, Generation.scored(p_yes, 1.0)
            else:
                thinks = "" if query.prompt.endswith("</think>\n\n") else f"<think>\n{CHAIN} yes\n</think>\n\n"
                yield number, Generation(thinks + text, "stop")


def bare(prompt: str) -> str:
    """A prompt without the assistant's turn."""
    return prompt.partition("<|im_start|>assistant\n")[0]


@pytest.fixture
def rigged(
    builder: PromptBuilder, synthetic_root: Path, tiny_model: Path, index: Index, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Runs test.py with a rigged model over rows of all tasks, of which risk tasks have both labels; its result."""
    rows = [dict(row) for name in TASKS for row in spread(index[name], 6)]
    for number, row in enumerate(rows):
        if TASKS[row["task"]].kind == "risk":
            row["target"] = json.dumps((YES, NO, NO)[number % 3])
    path = tmp_path / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    dataset = MIMICIV(synthetic_root, path, lazzy_mode=True, shuffle=False)
    assert isinstance(dataset.rows, Rows)

    def run(answer: Any, *flags: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        flags = ("--max_seq_len", 32768, *flags)
        prompter = Prompter(dataset, builder, arguments(*flags))
        samples = map(prompter, range(len(dataset)))
        says = {bare(prompt.text): answer(dataset[number]["output"]) for number, prompt in enumerate(samples)}
        assert len(says) == len(dataset), "no two samples read the same"
        monkeypatch.setattr(Rigged, "says", says)
        monkeypatch.setattr(backends, "load_backend", Rigged)
        output = tmp_path / "out"
        done = TEST_PY["main"](list(map(str, (
            "--root_dir", synthetic_root, "--dataset_name", path, "--model_name_or_path", tiny_model, "--output_path", output,
            "--resamples", 50, *flags))))  # fmt: skip
        assert done == 0
        lines = [json.loads(line) for line in (output / "outputs.jsonl").open(encoding="utf-8")]
        return read_json(output / "result.json"), lines

    return run


BEST = {
    "f1": {"precision": 1, "recall": 1, "f1": 1},
    "accuracy": {"accuracy": 1},
    "rouge1": {"rouge1": 1},
    "auroc": {"auroc": 1, "auprc": 1, "accuracy": 1, "f1": 1, "brier": 0, "ece": 0},
}


@pytest.mark.parametrize(
    "flags", [[], ["--think_prompt"], ["--think_prompt", "--think_risk"]], ids=["plain", "think", "think_risk"]
)
def test_a_model_that_knows_the_answers_is_perfect(rigged: Any, flags: list[str]) -> None:
    result, lines = rigged(lambda output: (output, float(output == YES)), *flags)
    assert list(result["tasks"]) == list(TASKS)
    for name, task in TASKS.items():
        found = result["tasks"][name]
        assert {metric: found[metric] for metric in BEST[task.metric]} == pytest.approx(BEST[task.metric]), name
        assert found["invalid"] == 0
    for suite in ("paper", "released"):
        macro = result["macro"][suite]
        assert macro["decision_f1"] == macro["risk_auroc"] == 1 and macro["missing"] == []
    assert all(line["score"] == pytest.approx(1) for line in lines)


def test_a_model_that_says_the_opposite_is_the_worst(rigged: Any) -> None:
    result, lines = rigged(lambda output: ("Nothing of the kind", float(output == NO)))
    for name, task in TASKS.items():
        found, best = result["tasks"][name], BEST[task.metric]
        worst = {metric: 1 - value for metric, value in best.items() if metric not in ("auprc", "rouge1")}
        assert {metric: found[metric] for metric in worst} == worst, name
    for suite in ("paper", "released"):
        assert result["macro"][suite]["decision_f1"] == result["macro"][suite]["risk_auroc"] == 0
    assert not any(line["score"] for line in lines if line["task_info"]["task"] != "discharge")


def test_a_model_that_always_says_the_same_ranks_nothing(rigged: Any) -> None:
    result, _ = rigged(lambda output: ("Nothing of the kind", 0.3))
    for name, task in TASKS.items():
        if task.kind == "risk":
            found = result["tasks"][name]
            assert found["auroc"] == 0.5 and found["too_few"] and found["auroc_ci"] is None
            assert found["auprc"] == pytest.approx(found["positives"] / found["n"])
    for suite in ("paper", "released"):
        assert result["macro"][suite]["risk_auroc"] == 0.5 and result["macro"][suite]["risk_auroc_ci"] is None


def test_nonsense_is_recorded_and_scored(rigged: Any) -> None:
    replies = cycle(NONSENSE)
    result, lines = rigged(lambda output: (next(replies), 0.5), "--think_prompt", "--think_risk")
    assert len(lines) == sum(found["n"] for found in result["tasks"].values())
    macro = result["macro"]["released"]
    assert macro["decision_f1"] == 0 and 0 < macro["risk_auroc"] < 0.5, "some risk replies are cut off"


def test_a_record_that_cannot_fit_is_recorded_and_wrong(rigged: Any) -> None:
    """Even of a model that knows the answers."""
    result, lines = rigged(lambda output: (output, float(output == YES)), "--max_seq_len", 600, "--max_new_tokens", 100)
    lost = [line for line in lines if "error" in line]
    assert lost and len(lost) < len(lines) == sum(found["n"] for found in result["tasks"].values())
    for line in lost:
        assert line["error"] == TOO_LONG and line["score"] == 0 and line["truncated"]["fits"] is False
        assert line["outputs"][0]["p_yes"] is None
    for name, found in result["tasks"].items():
        share = sum(line["task_info"]["task"] == name for line in lost) / found["n"]
        assert found["invalid"] == share
        assert found["accuracy" if TASKS[name].kind == "risk" else TASKS[name].metric] == pytest.approx(1 - share)
