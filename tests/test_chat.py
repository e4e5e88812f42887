"""Prompts: the same bytes everywhere, and truncation that never loses what must stay."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.prompts import (
    EMPTY_THINK,
    NO_THINK,
    PLAIN,
    SYSTEM,
    THINK,
    PromptBuilder,
    TokenCounter,
    assistant_turn,
    completion,
    messages,
)  # fmt: skip
from mimiciv_dataset.text import SampleText
from pipeline.errors import UserError

MODES = (PLAIN, THINK, NO_THINK)


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> PromptBuilder:
    from transformers import AutoTokenizer

    return PromptBuilder(AutoTokenizer.from_pretrained(tiny_model))


def record(events: int = 5, anchor: int | None = None, note_lines: int = 0, words: int = 8) -> SampleText:
    note = "\n".join(["## Discharge [2100-01-01 00:00:00]", *(f"line {i}" for i in range(note_lines))]) if note_lines else ""
    window = tuple(f"## Pyxis [2100-01-02 00:00:{i % 60:02d}]\n- Name: " + f"drug{i} " * words for i in range(events))
    admission = "## Admissions [2100-01-02 00:00:00]\n- X: 1"
    return SampleText("## Patient Demographics [None]\n- Gender: F", note, admission, window, anchor)


@pytest.mark.parametrize("mode", MODES)
def test_the_prompt_is_written_as_the_contract_says(builder: PromptBuilder, mode: str) -> None:
    text = builder.prompt("RECORD", "What next?", mode)
    suffix = {"plain": "", "think": "\n/think", "no_think": "\n/no_think"}[mode]
    block = "" if mode == THINK else EMPTY_THINK
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nRECORD\nWhat next?{suffix}<|im_end|>\n"
        f"<|im_start|>assistant\n{block}"
    )


@pytest.mark.parametrize("mode", MODES)
def test_prompt_and_completion_are_the_whole_conversation(builder: PromptBuilder, mode: str) -> None:
    reasoning = "It hurts." if mode == THINK else None
    prompt = builder.prompt("RECORD", "What next?", mode)
    chat = [
        *messages("RECORD", "What next?", mode),
        {"role": "assistant", "content": assistant_turn("Aspirin", reasoning)},
    ]
    whole = builder.tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole == prompt + completion(mode, "Aspirin", reasoning) + "<|im_end|>\n"
    ids = builder.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert builder.tokenizer(whole, add_special_tokens=False)["input_ids"][: len(ids)] == ids


def test_a_template_without_the_switch_gets_the_block_from_us(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    builder = PromptBuilder(tokenizer)
    assert builder.prompt("R", "I", PLAIN).endswith("assistant: " + EMPTY_THINK)
    assert builder.prompt("R", "I", THINK).endswith("assistant: ")
    assert PromptBuilder(tokenizer, empty_think="<think>\n\n</think>\n").prompt("R", "I", PLAIN).endswith("</think>\n")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="expected a model with a chat template"):
        PromptBuilder(tokenizer)


def test_a_short_record_is_not_touched(builder: PromptBuilder) -> None:
    text = record()
    prompt, dropped = builder.fit(text, "What next?", PLAIN, 100_000)
    assert dropped is None and prompt == builder.prompt(str(text), "What next?", PLAIN)


@settings(max_examples=60, deadline=None)
@given(events=st.integers(0, 40), anchored=st.booleans(), note_lines=st.integers(0, 30), room=st.integers(60, 1500),
       mode=st.sampled_from(MODES), seed=st.integers(0, 99))  # fmt: skip
def test_truncation_keeps_what_must_stay_and_as_much_as_fits(
    builder: PromptBuilder, events: int, anchored: bool, note_lines: int, room: int, mode: str, seed: int
) -> None:
    anchor = random.Random(seed).randrange(events) if anchored and events else None
    text = record(events, anchor, note_lines)
    prompt, dropped = builder.fit(text, "What next?", mode, room)
    for must in (
        SYSTEM,
        text.patient,
        text.admission,
        "What next?",
        *([text.window[anchor]] if anchor is not None else []),
    ):
        assert must in prompt
    if dropped is None:
        assert builder.tokens(prompt) <= room
        return
    assert dropped.tokens_after == builder.tokens(prompt) and dropped.tokens_before > room
    assert dropped.fits == (dropped.tokens_after <= room)
    kept = [event for event in text.window if event in prompt]
    droppable = [event for i, event in enumerate(text.window) if i != anchor]
    assert kept == [event for event in text.window if event not in droppable[: dropped.events]], "whole events, oldest first"
    if dropped.lines or not dropped.fits:
        assert dropped.events == len(droppable), "the note is cut only when all events are gone"
    lines = text.last_discharge.split("\n") if text.last_discharge else []
    assert "\n".join(lines[: len(lines) - dropped.lines]) in prompt
    assert dropped.fits or dropped.lines == len(lines)


def test_long_records_are_not_tokenised_once_an_event(builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    text = record(events=400, anchor=0, note_lines=200, words=25)
    calls = 0
    real = TokenCounter.__call__

    def counted(counter: TokenCounter, text: str) -> int:
        nonlocal calls
        calls += 1
        return real(counter, text)

    monkeypatch.setattr(TokenCounter, "__call__", counted)
    prompt, dropped = builder.fit(text, "What next?", PLAIN, 8000)
    assert dropped.tokens_before > 32_000 and dropped.fits and text.window[0] in prompt and text.window[1] not in prompt
    assert dropped.tokens_after > 7800 and calls < 12


def qwen_like() -> PromptBuilder:
    """A tokenizer that splits text as Qwen's does: a sign and the line end after it are one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    ids |= {".Ċ": 256, ".ĊĊ": 257, "|Ċ": 258, "|ĊĊ": 259, "ĊĊ": 260}
    raw = Tokenizer(models.BPE(ids, [(".", "Ċ"), ("|", "Ċ"), ("Ċ", "Ċ"), (".", "ĊĊ"), ("|", "ĊĊ")]))
    words = Regex(r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|[^\S\r\n]?[\p{L}\p{N}]+|\s+")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    return PromptBuilder(PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template))


def test_a_long_note_is_tokenised_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = qwen_like()
    note = "\n".join(f"{i} ok." for i in range(6000))
    text = SampleText("## Patient Demographics [None]\n- Gender: F", note, "", ("## Pyxis [None]\n- Name: A",) * 30, 0)
    calls, real = 0, TokenCounter.__call__

    def counted(counter: TokenCounter, text: str) -> int:
        nonlocal calls
        calls += 1
        return real(counter, text)

    monkeypatch.setattr(TokenCounter, "__call__", counted)
    _, dropped = builder.fit(text, "What next?", PLAIN, 8000)
    assert dropped.fits and dropped.tokens_before > 32_000 and dropped.lines > 1000 and dropped.tokens_after > 7980
    assert calls < 15


def test_a_template_that_opens_the_think_block_gets_no_second_one(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}assistant: <think>{{ '\n' }}"
    builder = PromptBuilder(tokenizer)
    assert builder.prompt("R", "I", THINK).endswith("assistant: <think>\n")
    assert builder.prompt("R", "I", PLAIN).endswith("assistant: " + EMPTY_THINK)
    prompt, _ = builder.fit(record(), "I", THINK, 10_000, prefix="<think>\nIt hurts.\n</think>\n\n")
    assert prompt.endswith("assistant: <think>\nIt hurts.\n</think>\n\n")


def test_what_is_always_too_long_is_said(builder: PromptBuilder) -> None:
    _, dropped = builder.fit(record(), "What next?", PLAIN, 20)
    assert dropped is not None and not dropped.fits
