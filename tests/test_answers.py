"""Replies of every shape: what is reasoning, which items are named, whether it is a yes or a no."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.answers import read_items, read_yes_no, split_reasoning


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
    ("answer", "said"),
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
def test_yes_and_no_are_read(answer: str | None, said: str | None) -> None:
    assert read_yes_no(answer) == said


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
