"""Replies of every shape: what is reasoning, which items are named, whether it is a yes or a no."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.metrics import sample_score
from inference.answers import close_reasoning, fold_name, read_items, read_yes_no, split_reasoning
from inference.families import reasoning_marks
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
        ("<unused94>thought\na<unused95>yes", ("a", "yes")),
        ("[THINK]a, so no.[/THINK]yes", ("a, so no.", "yes")),
        ("<seed:think>no</seed:think>yes", ("no", "yes")),
        ("<reasoning>no</reasoning><answer>yes</answer>", ("no", "yes")),
        ("<think>a</think>\n<reasoning>b</reasoning>\n<answer>yes</answer>", ("a\nb", "yes")),
        ("<|channel>thought\nso no<channel|>yes", ("so no", "yes")),
        ("<|START_THINKING|>no<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>", ("no", "yes")),
        ("<|begin_of_thought|>no<|end_of_thought|>\n<|begin_of_solution|>yes<|end_of_solution|>", ("no", "yes")),
        ("◁think▷no◁/think▷ yes", ("no", "yes")),
        ("## Thinking\n\nso no\n\n## Final Response\n\nyes", ("so no", "yes")),
        ("so no\n\n## Final Response\n\nyes", ("so no", "yes")),  # the prompt held the heading
        ("## Thinking\n\nso no", ("so no", None)),
        ("[THINK]a <think> b</think>[/THINK]yes", ("a <think> b</think>", "yes")),  # marks of another family are text
        ("<think>[/THINK]a</think>yes", ("[/THINK]a", "yes")),
        ('<think>I close with "</think>" and', ('I close with "</think>" and', None)),  # quoted
        ('<think>"no"</think>"yes"', ('"no"', '"yes"')),
        ('<think>a</think>yes (after "<think>")', ("a", 'yes (after "<think>")')),
        ("Aspirin [THINK] 5 mg\nHeparin", (None, "Aspirin [THINK] 5 mg\nHeparin")),  # in a name
        ("## Final Results\nyes", (None, "## Final Results\nyes")),  # a heading of this project's chains
        ("yes<|im_end|>\n<|im_start|>user\nno", (None, "yes")),
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
        ("analysis of urine\nassistance", (None, "analysis of urine\nassistance")),
        ("", (None, "")),
    ],
)
def test_reasoning_is_parted_from_the_answer(text: str, expected: tuple[str | None, str | None]) -> None:
    assert split_reasoning(text) == expected


def test_an_open_block_is_closed_or_cut_off() -> None:
    assert split_reasoning("a</think>yes", thinking_open=True) == ("a", "yes")
    assert split_reasoning("a, so yes", thinking_open=True) == ("a, so yes", None)
    assert split_reasoning("", thinking_open=True) == (None, None)


@pytest.mark.parametrize("mark", [True, "<think>\n", "[THINK]"])
@pytest.mark.parametrize("text", ["## Final Answer", "## Final Response", "Here is my response:", "assistantfinal"])
def test_a_heading_does_not_close_a_block_that_a_tag_opened(mark: bool | str, text: str) -> None:
    chain = f"He is old.\n\n{text}\n\nAspirin? Wait, let me check"
    assert split_reasoning(chain, mark) == (chain, None)
    assert close_reasoning(chain, mark) is None
    assert split_reasoning(f"{chain}\n[/THINK]\n</think>Zinc", mark)[1] == ("Zinc" if mark != "[THINK]" else "</think>Zinc")


def test_a_prompt_that_opened_a_heading_is_closed_by_its_heading() -> None:
    assert split_reasoning("Old.</think>\n\n## Final Answer\n\nZinc", "## Thinking") == ("Old.</think>", "Zinc")
    assert split_reasoning("Old.</think>Zinc", "## Thinking") == ("Old.</think>Zinc", None)


def test_marks_in_any_case_and_of_other_models() -> None:
    assert split_reasoning("<Think>Old.</THINK>yes") == ("Old.", "yes")
    reply = "Here are my reasoning steps:\nOld.\n[BEGIN FINAL RESPONSE]\nyes\n[END FINAL RESPONSE]"
    assert split_reasoning(reply) == split_reasoning(reply, True) == ("Old.", "yes")


@pytest.mark.parametrize("marks", reasoning_marks(), ids=" ".join)
def test_the_marks_of_every_family_are_read(marks: tuple[str, str]) -> None:
    opening, closing = marks
    chain = f"{opening}\nFever.\nSo no.\n{closing}\n"
    assert split_reasoning(chain + "yes") == ("Fever.\nSo no.", "yes")
    assert split_reasoning(chain) == ("Fever.\nSo no.", "")
    assert split_reasoning(f"{opening}\nFever.") == ("Fever.", None)
    assert close_reasoning(f"{opening}\nFever.") is None
    closed = close_reasoning(chain + "yes")
    assert closed.startswith(chain.rstrip()) and not closed.removeprefix(chain.rstrip()).strip()
    if "<|channel|>" not in opening:  # the prompt held the opening mark
        assert split_reasoning(f"Fever.\n{closing}\nyes", opening) == ("Fever.", "yes")
        assert close_reasoning(f"Fever.\n{closing}\nyes", opening).rstrip() == f"Fever.\n{closing}"


@pytest.mark.parametrize(
    ("reply", "closed"),
    [
        ("<think>\na\n</think>\nThe answer is yes", "<think>\na\n</think>\n\n"),  # as trained
        ("<think>a</think>", "<think>a</think>\n\n"),
        ("[THINK]a[/THINK]  yes", "[THINK]a[/THINK]"),
        ("## Thinking\n\na\n\n## Final Response\nyes", "## Thinking\n\na\n\n## Final Response\n\n"),
        ("<reasoning>a</reasoning>\n<answer>\nyes</answer>", "<reasoning>a</reasoning>\n<answer>\n"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        (
            "analysisAh.assistantfinalyes",
            "<|channel|>analysis<|message|>Ah.<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        ("<|channel|>analysis<|message|>a<|end|>", None),
        ("<think>a", None),
        ("yes", None),
    ],
)
def test_reasoning_is_closed_as_its_family_closes_it(reply: str, closed: str | None) -> None:
    assert close_reasoning(reply) == closed


def test_the_white_space_after_a_closing_mark_can_be_that_of_a_family() -> None:
    assert close_reasoning("<think>a</think>\n\nyes", after="\n") == "<think>a</think>\n"


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
        ('{"answer": "Yes"}', "yes"),
        ('```json\n{"reason": "no pulse, yes", "answer": "no"}\n```', "no"),
        ('{"mortality": true}', "yes"),
        ('{"certainty": 0.7}', None),
        ("\\boxed{yes}", "yes"),
        ("There is no sign, so\n$\\boxed{\\text{No}}$", "no"),
        ("<answer>Yes</answer>", "yes"),
        ("It was a yes before.\n\n**Final answer:** No", "no"),
        ("The final answer is **yes**.", "yes"),
        ("**No**, because it is normal.", "no"),
        ("No<|eot_id|>", "no"),
        ("ＹＥＳ", "yes"),
        ("Answer (yes/no): no", "no"),
        ("Answer [Yes or No]: **Yes**", "yes"),
        ("Yes/No: no", "no"),
        ("(yes/no)", None),
        ("No\n\nExplanation: yes, he was ill, but", "no"),
        ("**Answer:** Yes.\n\nNo sign of it, no.", "yes"),
        ("no\nyes", None),
        ("yes or no\nyes", None),
        ('{"answer": "no", "reason": "yes, he', "no"),  # cut off
        ("", None),
        (None, None),
    ],
)
def test_yes_and_no_are_read(answer: str | None, expected: str | None) -> None:
    assert read_yes_no(answer) == expected


PIECES = [
    *("<think>", "</think>", "<|channel|>", "final", "<|message|>", "analysis", "assistantfinal", "yes", "no", "a"),
    *("[", "]", '"', "'", "\\", "\\n", "\n", "\r", ",", " ", "1. ", "- ", "**", "*", "```", "{", "}", ":", "|", "|---|", "`"),
    *("[THINK]", "[/THINK]", "## Thinking\n", "## Final Response\n", "<answer>", "</answer>", "\\boxed{", "<|end|>", "</s>"),
    *("final answer", "is", "#", ".", "\t", "<item>", "I can", "a) ", "ii. ", "• "),
    *("é", "İ", "\ud800", "\x00"),
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@settings(deadline=None)
@given(TEXTS, st.booleans())
@example("[" * 100_000 + "]" * 100_000, False)
@example("9\ufe0f\u20e3" * 5_000, False)
def test_any_text_is_read(text: str, thinking_open: bool) -> None:
    reasoning, answer = split_reasoning(text, thinking_open)
    assert reasoning is None or reasoning
    items = read_items(answer)
    assert all(item == item.strip() and item for item in items)
    assert len(set(map(fold_name, items))) == len(items)
    assert close_reasoning(text, thinking_open) is None or answer is not None
    read_items(text, known=items)
    assert read_yes_no(text) in {"yes", "no", None}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(TASKS)), TEXTS, st.none() | st.floats(0, 1))
def test_any_reply_has_a_score(task: str, text: str, p_yes: float | None) -> None:
    label = {"auroc": "yes", "rouge1": "The man is old."}.get(TASKS[task].metric, ["Aspirin", "0.9% Sodium Chloride"])
    for answer in (text, split_reasoning(text)[1]):
        assert 0 <= sample_score(task, label, answer, p_yes if TASKS[task].kind == "risk" else None) <= 1


@pytest.mark.parametrize(
    "piece",
    [*PIECES, "<think></think>", '"</think>"', '"a', "'a',", "**a", "no ", "no\t", "1", "<|channel|>final", "\\'"]
    + ['["', "{'a': ", '["a"', "| a ", "|-", "1. a\n", "- a\n", "**a**: b\n", "\\boxed{a}", "\\text{", "<|a", "** ", "a, "],
)
def test_time_is_linear(piece: str) -> None:
    """100 kB of anything takes no noticeable time (a quadratic reader takes minutes)."""
    long = piece * (100_000 // len(piece))
    start = time.process_time()
    for text in (long, f"[{long}]", f"<think>{long}", f"no{long}", f'["{long}', f"**{long}**", long + "</think>yes"):
        split_reasoning(text)
        read_items(text, ["a"])
        read_yes_no(text)
    assert time.process_time() - start < 10
