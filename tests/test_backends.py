"""The Transformers backend: answers do not depend on the batch, p(yes) is what the definition says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.backends import Generation, load_backend, load_tokenizer
from inference.p_yes import yes_no_tokens
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings
from pipeline.errors import UserError

WORDS = [
    "Aspirin",
    "yes",
    "no",
    "Patient",
    "Event",
    "##",
    "Gender:",
    "F",
    "2150",
    "Heparin",
    "URGENT",
    "[",
    "]",
    "7.0",
    "Sodium",
    "Chloride",
]


def transformers(model: Path | str, **options: object) -> Any:
    return load_backend(InferenceSettings(ModelSettings(str(model), **{"batch": 4} | options)))


def tokens(number: int, temperature: float = 0.0) -> DecodingSettings:
    return DecodingSettings(max_new_tokens=number, temperature=temperature)


def replies(found: Iterator[tuple[int, Generation]]) -> list[Generation]:
    """Replies in the order of their prompts."""
    return [reply for _, reply in sorted(found, key=lambda pair: pair[0])]


def test_sampling_depends_on_prompt_and_seed_only(tiny_model: Path) -> None:
    given = prompts(9)
    some, one = (transformers(tiny_model, batch=batch) for batch in (4, 1))
    first = [reply.text for reply in replies(some.generate(given, tokens(6, temperature=1.0)))]
    assert [reply.text for reply in replies(one.generate(given[::-1], tokens(6, temperature=1.0)))] == first[::-1]
    other = [reply.text for reply in replies(one.generate(given, DecodingSettings(6, 1.0, seed=1)))]
    assert len(set(first)) > 1 and all(a != b for a, b in zip(first, other, strict=True))


def test_sampling_has_the_distribution_of_the_softmax() -> None:
    import torch

    from inference.transformers_backend import SeededSampling

    logits, n = torch.tensor([1.0, 0.0, -1.0, 2.0]), 20_000
    sampling = SeededSampling([str(i) for i in range(n)], tokens(1, temperature=0.7), torch.device("cpu"))
    drawn = sampling(torch.zeros(n, 1), logits.expand(n, 4)).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / n
    assert torch.allclose(shares, torch.softmax(logits / 0.7, 0), atol=0.015)


def p_yes(found: Iterator[tuple[int, Generation]]) -> list[float]:
    return [reply.p_yes for reply in replies(found)]


def prompts(n: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 60))) for _ in range(n)]


@pytest.fixture(scope="module")
def alone(tiny_model: Path):
    return transformers(tiny_model, batch=1)


@pytest.mark.parametrize("batch", [3, 8])
def test_results_do_not_depend_on_the_batch(tiny_model: Path, alone, batch: int) -> None:
    together = transformers(tiny_model, batch=batch)
    texts = prompts(11)
    assert replies(together.generate(texts, tokens(12))) == replies(alone.generate(texts, tokens(12)))
    assert p_yes(together.score_yes_no(texts)) == pytest.approx(p_yes(alone.score_yes_no(texts)), abs=1e-5)


def test_p_yes_by_its_definition(tiny_model: Path, alone) -> None:
    import torch

    yes, no = yes_no_tokens(alone.tokenizer)
    assert {alone.tokenizer.decode([i]).strip().lower() for i in yes + no} == {"yes", "no"}
    for text in prompts(3):
        ids = torch.tensor([alone.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            p = alone.model(ids).logits[0, -1].double().softmax(-1)
        by_definition = float(p[yes].sum() / (p[yes].sum() + p[no].sum()))
        assert p_yes(alone.score_yes_no([text])) == pytest.approx([by_definition], abs=1e-6)


def test_it_stops_at_the_end_token_or_is_cut_off(alone) -> None:
    found = replies(alone.generate(prompts(6), tokens(5)))
    for reply in found:
        assert reply.finish_reason in ("stop", "length")
        assert "<|im_end|>" not in reply.text
    assert any(reply.finish_reason == "length" for reply in found)


def test_sampling_is_possible(alone) -> None:
    assert len(replies(alone.generate(prompts(2), tokens(4, temperature=1.0)))) == 2


def test_a_models_own_repetition_penalty_is_not_used(tiny_model: Path, alone) -> None:
    penalised = transformers(tiny_model, batch=1)
    penalised.model.generation_config.repetition_penalty = 1.3
    assert replies(penalised.generate(prompts(4), tokens(12))) == replies(alone.generate(prompts(4), tokens(12)))


def test_a_lora_adapter_is_used(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    adapted.save_pretrained(tmp_path)
    base = p_yes(transformers(tiny_model).score_yes_no(prompts(2)))
    lora = p_yes(transformers(tiny_model, lora_path=str(tmp_path)).score_yes_no(prompts(2)))
    assert base != pytest.approx(lora, abs=1e-6)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a model folder or Hub id with a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_the_tiny_model_is_the_same_bytes_every_time(tiny_model: Path, small_root: Path, tmp_path: Path, run_command) -> None:
    index = small_root / "task_index/all"
    run_command("scripts/make_tiny_model.py", "--root_dir", small_root, "--output_path", tmp_path / "again",
    "--vocab_size",
                1024, "--dataset_name", index / "emar.csv", index / "Inpatient_Mortality.csv")  # fmt: skip
    for path in tiny_model.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
