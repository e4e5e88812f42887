"""p(yes): which tokens spell yes and no, how much probability they have, and where it is computed after a chain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, log, nan
from pathlib import Path

import pytest

from evaluation.predictions import read_predictions
from evaluation.score import LOW_MASS, format_result, score_dir
from inference.backends import Generation, Query
from inference.families import family_of
from inference.generation import Prompt, after_reasoning, replies
from inference.p_yes import p_yes_from_logprobs, p_yes_from_top_tokens, yes_no_tokens
from pipeline.errors import UserError


@dataclass
class Vocabulary:
    """A tokenizer of one vocabulary, as `yes_no_tokens` reads it; a text is cut into the longest tokens."""

    tokens: list[str | bytes | None]
    unk_token_id: int | None = None
    name_or_path: str = "model"

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | bytes | None]:
        return [self.tokens[i] for i in ids]

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        ids, rest = [], text
        if "▁" in self.tokens:
            ids.append(self.tokens.index("▁"))  # a prefix, as sentencepiece writes it
        while rest:
            known = [token for token in self.tokens if isinstance(token, str) and token and rest.startswith(token)]
            ids.append(self.tokens.index(max(known, key=len)) if known else self.unk_token_id)
            rest = rest[len(max(known, key=len)) :] if known else ""
        return {"input_ids": ids}


@pytest.mark.parametrize(
    ("tokens", "yes", "no"),
    [
        (["yes", "no", "Yes", "NO", "yesterday", "not"], [0, 2], [1, 3]),
        (["Ġyes", "ĠYes", "Ċno", "Ġno", "x"], [0, 1], [2, 3]),
        (["▁yes", "▁No", "▁know"], [0], [1]),
        (["yes</w>", "no</w>"], [0], [1]),
        ([b" yes", b"No", b"\xff", None, "x"], [0], [1]),  # a Python tokenizer with bytes and holes
        (["y", "e", "s", "n", "o"], [0], [3]),  # no token of the whole word: its first
        (["▁", "y", "e", "s", "n", "o"], [1], [4]),  # and not the space before both
        (["Yes", "n", "o"], [0], [1]),
    ],
)
def test_all_tokens_that_spell_a_word_count(tokens: list, yes: list[int], no: list[int]) -> None:
    assert yes_no_tokens(Vocabulary(tokens)) == (yes, no)


@pytest.mark.parametrize("tokens", [["<unk>"], ["<unk>", "▁"]])
def test_a_vocabulary_without_either_word_is_one_error(tokens: list[str]) -> None:
    with pytest.raises(UserError, match=r"model: expected different tokens for yes and no, .* leave them out"):
        yes_no_tokens(Vocabulary(tokens, unk_token_id=0))


def test_the_probability_of_both_words_is_their_mass() -> None:
    assert p_yes_from_logprobs([log(0.2), log(0.1)], [log(0.1)]) == pytest.approx((0.75, 0.4))
    assert p_yes_from_logprobs([-2000.0], [-2001.0]) == pytest.approx((1 / (1 + 1 / 2.718281828), 0.0))  # not 0 / 0
    assert p_yes_from_top_tokens([("▁Yes", log(0.3)), ("Ġno", log(0.1)), ("The", log(0.05))]) == pytest.approx((0.75, 0.4))
    assert p_yes_from_top_tokens([("yes", log(0.6)), ("The", log(0.2))]) == pytest.approx((0.75, 0.6))  # only what is known


@pytest.mark.parametrize(
    ("entries", "p_yes"),
    [
        ([("yes", 0.0)], 1.0),  # nothing is left for the other word
        ([("no", 0.0)], 0.0),
        ([("No", log(0.75))], 0.25),  # the rest, which is less than the only entry
        ([("yes", log(0.6)), ("The", log(0.3))], 6 / 7),  # the rest
        ([("yes", log(0.6)), ("The", log(0.1))], 6 / 7),  # the least likely entry
        ([("yes", 0.001)], 1.0),  # rounded by a server
        ([("yes", -inf), ("no", -1.0)], 0.0),
        ([("yes", -1.0), ("no", -inf), ("The", -2.0)], 1.0),
        ([("yes", -inf), ("no", -inf)], None),
        ([("yes", -inf), ("The", 0.0)], None),
        ([], None),
    ],
)
def test_a_word_that_is_not_listed_has_at_most_what_is_left(entries: list, p_yes: float | None) -> None:
    scored = p_yes_from_top_tokens(entries)
    assert (scored and scored.p_yes) == (p_yes if p_yes is None else pytest.approx(p_yes))


@pytest.mark.parametrize("value", [nan, None])
def test_nan_stops_a_run(value: float | None) -> None:
    with pytest.raises(UserError, match=r"expected numbers, got NaN\. Use --dtype bfloat16 or float32"):
        Generation.scored(*p_yes_from_top_tokens([("The", value), ("yes", value)]))
    with pytest.raises(UserError, match="got NaN"):
        Generation.scored(*p_yes_from_logprobs([nan, -1.0], [-1.0]))


CHAINS = [  # what a model writes, and its part after which p(yes) is computed
    ("<think>\nOld.\n</think>\nyes", "<think>\nOld.\n</think>\n\n"),
    ("[THINK]Old.[/THINK]yes", "[THINK]Old.[/THINK]"),
    ("## Thinking\n\nOld.\n\n## Final Response\n\nyes", "## Thinking\n\nOld.\n\n## Final Response\n\n"),
    (
        "<|channel|>analysis<|message|>Old.<|end|><|start|>assistant<|channel|>final<|message|>yes",
        "<|channel|>analysis<|message|>Old.<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    ("<reasoning>Old.</reasoning><answer>yes</answer>", "<reasoning>Old.</reasoning><answer>"),
]


class Backend:
    """Writes one chain, and gives every scored prompt p(yes) = 0.7."""

    continues = True

    def __init__(self, chain: str) -> None:
        self.chain, self.scored = chain, []

    def answer(self, queries: Iterable[Query]) -> Iterator[tuple[int, Generation]]:
        for number, query in enumerate(queries):
            if query.score:
                self.scored.append(query.prompt)
            yield number, Generation.scored(0.7, 0.9) if query.score else Generation(self.chain, "stop")


@pytest.mark.parametrize(("chain", "closed"), CHAINS)
def test_p_yes_follows_the_chain_of_every_family(chain: str, closed: str) -> None:
    backend = Backend(chain)
    ((_, reply),) = replies([Prompt("key", "PROMPT", scored_after_reasoning=True)], backend)
    assert backend.scored == ["PROMPT" + closed]
    assert (reply.text, reply.p_yes, reply.yes_no_mass) == (chain, 0.7, 0.9)


@pytest.mark.parametrize(("family", "space"), [("glm", "\n"), ("deepseek-v3.1", ""), ("ehr-r1", "\n\n"), ("qwen2.5", "\n\n")])
def test_the_white_space_after_a_chain_is_that_of_the_family(family: str, space: str) -> None:
    backend = Backend("<think>Old.</think> yes")
    after = family_of(None, declared=family).space_after_reasoning
    prompt = Prompt("key", "PROMPT", scored_after_reasoning=True, space_after_reasoning=after)
    list(replies([prompt], backend))
    assert backend.scored == ["PROMPT<think>Old.</think>" + space]


def test_a_chain_that_is_never_closed_has_no_p_yes() -> None:
    backend = Backend("[THINK]Old, so")
    ((_, reply),) = replies([Prompt("key", "PROMPT", scored_after_reasoning=True)], backend)
    assert not backend.scored and reply.p_yes is None
    assert after_reasoning("P[THINK]", "Old.[/THINK]yes", thinking_open=True) == "P[THINK]Old.[/THINK]"


def write_outputs(folder: Path, mass: float | None, n: int = 6) -> Path:
    folder.mkdir()
    with (folder / "outputs.jsonl").open("w", encoding="utf-8") as file:
        for i in range(n):
            info = {"task": "ICU_Stay_7day", "label": "yes" if i % 2 else "no", "subject_id": str(i)}
            output = {"response": "", "p_yes": i / n, "yes_no_mass": mass}
            file.write(json.dumps({"key": str(i), "task_info": info, "candidates": ["yes", "no"], "outputs": [output]}) + "\n")
    return folder


@pytest.mark.parametrize(("mass", "is_low"), [(1e-12, True), (LOW_MASS / 2, True), (0.9, False), (None, False)])
def test_a_task_says_that_p_yes_rests_on_almost_no_probability(tmp_path: Path, mass: float | None, is_low: bool) -> None:
    result = score_dir(write_outputs(tmp_path / "run", mass), resamples=20)
    task = result["tasks"]["ICU_Stay_7day"]
    assert task.get("yes_no_mass") == mass and task["auroc"] is not None
    assert ("almost no probability" in task.get("note", "")) == is_low
    assert ("almost no probability" in format_result(result)) == is_low
    assert all(prediction.yes_no_mass == mass for prediction in read_predictions(tmp_path / "run").values())
