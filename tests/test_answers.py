"""Replies of every shape: what is reasoning, which items are named, whether it is a yes or a no."""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.metrics import sample_score
from inference.answers import read_items, read_yes_no, split_reasoning
from mimiciv_dataset.index_files import read_rows
from mimiciv_dataset.samples import label_list
from mimiciv_dataset.tasks import TASKS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Aspirin\nHeparin", (None, "Aspirin\nHeparin")),
        ("<think>\n\n</think>\n\nAspirin", (None, "Aspirin")),
        ("<think>a</think>b</think>Aspirin", ("a</think>b", "Aspirin")),
        ("so it is</think>yes", ("so it is", "yes")),  # the prompt held the opening mark
        ("<think>a</think>yes<think>b", ("b", None)),
        ("<think>a</think>", ("a", "")),
        ("<unused94>thought\na<unused95>yes", ("thought\na", "yes")),
        ("<|channel|>analysis<|message|>a", ("a", None)),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>",
            ("a", "yes"),
        ),
        ("<|channel|>final <|constrain|>json<|message|>[]", (None, "[]")),
        ("analysisWe see aassistantfinalAspirin", ("We see a", "Aspirin")),
        ("analysis We see a.assistantfinalAspirin", ("We see a.", "Aspirin")),
        ("analysisWe see a", ("We see a", None)),
        ("assistantfinalAspirin", (None, "Aspirin")),
        ("analysis of urine", (None, "analysis of urine")),
        ("", (None, "")),
    ],
)
def test_reasoning_is_parted_from_the_answer(text: str, expected: tuple[str | None, str | None]) -> None:
    assert split_reasoning(text) == expected


def test_an_open_block_is_closed_or_cut_off() -> None:
    assert split_reasoning("a</think>yes", thinking_open=True) == ("a", "yes")
    assert split_reasoning("a, so yes", thinking_open=True) == ("a, so yes", None)
    assert split_reasoning("", thinking_open=True) == (None, None)


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ("0.9% Sodium Chloride", ["0.9% Sodium Chloride"]),
        ("*NF* Bosentan", ["*NF* Bosentan"]),
        ("-Heparin\n1.Aspirin", ["-Heparin", "1.Aspirin"]),  # no space: no marker
        ("1. 0.9% Sodium Chloride\n10) *NF* Bosentan", ["0.9% Sodium Chloride", "*NF* Bosentan"]),
        ("- 2. Aspirin", ["2. Aspirin"]),  # one marker an item
        ("Culture, blood\r\nPT, PTT", ["Culture, blood", "PT, PTT"]),
        ("Aspirin\nASPIRIN\naspirin ", ["Aspirin"]),
        ("\n\n \n-\n1.\n", []),
        ("“Aspirin”\n'Heparin'\n`Insulin`", ["Aspirin", "Heparin", "Insulin"]),
        ('Needle 4"', ['Needle 4"']),
        ('"a" or "b"', ['"a" or "b"']),
        ('["a, b", "c"]', ["a, b", "c"]),
        ("['a', \"patient's\", 'it\\'s']", ["a", "patient's", "it's"]),
        ("['a', 'b',]", ["a", "b"]),
        ("['a\\nb']", ["a", "b"]),
        ('```json\n["a",\n "b"]\n```', ["a", "b"]),
        ("```\na\nb\n```", ["a", "b"]),
        ('Items:\n["a", "b"]', ["Items:", "a", "b"]),
        ("[]", []),
        ("[1, 2]", ["[1, 2]"]),
        ("[Redacted]", ["[Redacted]"]),
        ('["a", ["b"]]', ['["a", ["b"]]']),
        ("", []),
        (None, []),
    ],
)
def test_items_are_read(answer: str | None, items: list[str]) -> None:
    assert read_items(answer) == items


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", "yes"),
        ("No", "no"),
        ("**Yes**", "yes"),
        ("_no_", "no"),
        ('"Yes."', "yes"),
        ("Answer: no.", "no"),
        ("**Answer:** **No**", "no"),
        ("No, the patient is stable.", "no"),
        ("no\nThe patient is stable.", "no"),
        ("no because she is stable", "no"),
        ("Yes, there is no evidence against it.", "yes"),
        ("No. Yes, he will.", None),
        ("yes and no", None),
        ("no or yes", None),
        ("yes/no", None),
        ("not sure", None),
        ("nothing", None),
        ("noël", None),
        ("no-show", None),
        ("eyes", None),
        ("NO2", None),
        ("", None),
        (None, None),
    ],
)
def test_yes_and_no_are_read(answer: str | None, expected: str | None) -> None:
    assert read_yes_no(answer) == expected


PIECES = [
    *("<think>", "</think>", "<|channel|>", "final", "<|message|>", "analysis", "assistantfinal", "yes", "no", "a"),
    *("[", "]", '"', "'", "\\", "\\n", "\n", "\r", ",", " ", "1. ", "- ", "**", "*", "```"),
    *("é", "İ", "\ud800", "\x00"),
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@settings(deadline=None)
@given(TEXTS, st.booleans())
@example("[" * 100_000 + "]" * 100_000, False)
def test_any_text_is_read(text: str, thinking_open: bool) -> None:
    reasoning, answer = split_reasoning(text, thinking_open)
    assert reasoning is None or reasoning
    items = read_items(answer)
    assert all(item == item.strip() and item for item in items)
    assert len({item.casefold() for item in items}) == len(items)
    assert read_yes_no(text) in {"yes", "no", None}


@given(st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9 ,.%()/]{0,20}[a-z)]", fullmatch=True), unique_by=str.casefold))
def test_plain_names_come_back_from_every_layout(names: list[str]) -> None:
    for layout in ("{}", "- {}", "* {}", "1. {}", "2) {}", "**{}**", '"{}"', "1. **{}**"):
        assert read_items("\n".join(layout.format(name) for name in names)) == names
    assert read_items(str(names)) == names
    assert read_items("\\n".join(names)) == names


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(TASKS)), TEXTS, st.none() | st.floats(0, 1))
def test_any_reply_has_a_score(task: str, text: str, p_yes: float | None) -> None:
    label = {"auroc": "yes", "rouge1": "The man is old."}.get(TASKS[task].metric, ["Aspirin", "0.9% Sodium Chloride"])
    for answer in (text, split_reasoning(text)[1]):
        assert 0 <= sample_score(task, label, answer, p_yes if TASKS[task].kind == "risk" else None) <= 1


def test_repeated_lines_count_once() -> None:
    assert read_items("Aspirin\n" * 20_000 + "heparin") == ["Aspirin", "heparin"]
    assert sample_score("emar", ["Aspirin"], "- Aspirin\n" * 20_000) == 1


def test_every_answer_of_the_demo_is_read_as_itself(demo: Path) -> None:
    """Drugs, laboratory tests, diagnoses: names with percent signs, numbers, asterisks, commas and slashes."""
    answers: set[str] = set()
    for task in TASKS.values():
        path = demo / f"task_index/all/{task.name}.csv"
        rows = read_rows(path) if path.exists() and task.kind == "decision" else []
        for row in rows:
            target = label_list(row["target"])
            once: dict[str, str] = {}  # some lists hold a name in two cases
            for name in target:
                once.setdefault(name.casefold(), name)
            assert read_items("\n".join(target)) == list(once.values())
            assert sample_score(task, target, "\n".join(target)) == 1
            answers.update(target)
    assert {"%", "*", ",", "/", "(", "'"} <= set("".join(answers)) and len(answers) > 2000
    comes_back(answers)


def test_every_name_of_the_dictionaries_is_read_as_itself(demo: Path) -> None:
    names: set[str] = set()
    for path in (demo / "index_mapping").rglob("d_*.csv.gz"):
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            names.update(value for row in csv.DictReader(file) for value in row.values())
    assert len(names) > 10_000
    comes_back(names)


def comes_back(names: Iterable[str]) -> None:
    """In the layouts that models write, all names at once."""
    stripped = {name.strip().casefold(): name.strip() for name in names if name.strip()}
    unique = sorted(stripped.values())
    for layout in ("{}", "- {}", "* {}", "1. {}", "2) {}"):
        assert read_items("\n".join(layout.format(name) for name in unique)) == unique
    assert read_items(json.dumps(unique)) == unique


@pytest.mark.parametrize(
    "piece", [*PIECES, "<think></think>", '"a', "'a',", "**a", "no ", "no\t", "1", "<|channel|>final", "\\'"]
)
def test_time_is_linear(piece: str) -> None:
    """100 kB of anything takes no noticeable time (a quadratic reader takes minutes)."""
    long = piece * (100_000 // len(piece))
    start = time.process_time()
    for text in (long, f"[{long}]", f"<think>{long}", f"no{long}", f'["{long}', f"**{long}**", long + "</think>yes"):
        split_reasoning(text)
        read_items(text)
        read_yes_no(text)
    assert time.process_time() - start < 10
