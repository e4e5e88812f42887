"""The Transformers backend: answers do not depend on the batch, p(yes) is what the definition says."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.backends import Generation, Query, load_backend, load_tokenizer
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


def transformers(model: Path | str, decoding: DecodingSettings | None = None, **options: object) -> Any:
    settings = ModelSettings(str(model), **{"batch": 4} | options)
    return load_backend(InferenceSettings(settings, decoding=decoding or tokens(12)))


def tokens(number: int, temperature: float = 0.0, seed: int = 0) -> DecodingSettings:
    return DecodingSettings(max_new_tokens=number, temperature=temperature, seed=seed)


def answers(backend: Any, queries: Iterable[Query]) -> list[Generation]:
    """Replies in the order of their queries."""
    return [reply for _, reply in sorted(backend.answer(queries), key=lambda pair: pair[0])]


def replies(backend: Any, texts: Sequence[str]) -> list[str]:
    return [reply.text for reply in answers(backend, map(Query, texts))]


def p_yes(backend: Any, texts: Sequence[str]) -> list[float]:
    return [reply.p_yes for reply in answers(backend, (Query(text, score=True) for text in texts))]


def test_sampling_depends_on_prompt_seed_and_number_only(tiny_model: Path) -> None:
    given = prompts(9)
    first = replies(transformers(tiny_model, tokens(6, 1.0), batch=4), given)
    alone = transformers(tiny_model, tokens(6, 1.0), batch=1)
    assert replies(alone, given[::-1]) == first[::-1]
    other_seed = replies(transformers(tiny_model, tokens(6, 1.0, seed=1)), given)
    other_sample = [reply.text for reply in answers(alone, (Query(text, sample=1) for text in given))]
    for other in (other_seed, other_sample):
        assert len(set(first)) > 1 and all(a != b for a, b in zip(first, other, strict=True))


def test_sampling_has_the_distribution_of_the_softmax() -> None:
    import torch

    from inference.transformers_backend import SeededNoise, TemperatureAndNaN

    logits, n = torch.tensor([1.0, 0.0, -1.0, 2.0]), 20_000
    scores = TemperatureAndNaN(0.7)(torch.zeros(n, 1), logits.expand(n, 4))
    drawn = SeededNoise(range(n), torch.device("cpu"))(torch.zeros(n, 1), scores).argmax(1)
    shares = torch.bincount(drawn, minlength=4) / n
    assert torch.allclose(shares, torch.softmax(logits / 0.7, 0), atol=0.015)


def prompts(n: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 60))) for _ in range(n)]


@pytest.fixture(scope="module")
def alone(tiny_model: Path):
    return transformers(tiny_model, batch=1)


@pytest.mark.parametrize("limits", [{"batch": 3}, {"batch": 8}, {"batch": 8, "max_batch_tokens": 120}])
def test_results_do_not_depend_on_the_batch(tiny_model: Path, alone, limits: dict[str, int], monkeypatch) -> None:
    import inference.transformers_backend

    monkeypatch.setattr(inference.transformers_backend, "PREFILL_TOKENS", 32)  # several pieces for each prompt
    together = transformers(tiny_model, **limits)
    texts = prompts(11)
    queries = [Query(text, score=i % 3 == 0) for i, text in enumerate(texts)]
    ours, theirs = answers(together, queries), answers(alone, queries)
    assert [reply.text for reply in ours] == [reply.text for reply in theirs]
    assert [(reply.prompt_tokens, reply.completion_tokens) for reply in ours] == [
        (reply.prompt_tokens, reply.completion_tokens) for reply in theirs
    ]
    assert p_yes(together, texts) == pytest.approx(p_yes(alone, texts), abs=1e-5)


def test_batches_are_bounded_in_tokens(tiny_model: Path) -> None:
    backend = transformers(tiny_model, tokens(10), batch=8, max_batch_tokens=100)
    rows = [(i, Query(""), [0] * length) for i, length in enumerate((5, 40, 300, 40, 5, 15, 5, 5))]
    batches = [[len(ids) for _, _, ids in batch] for batch in backend._batches(rows, score=False)]
    assert batches == [[300], [40, 40], [15, 5, 5, 5], [5]]
    assert all(len(batch) * (max(batch) + 10) <= 100 for batch in batches[1:])


def test_p_yes_by_its_definition(tiny_model: Path, alone) -> None:
    import torch

    yes, no = yes_no_tokens(alone.tokenizer)
    assert {alone.tokenizer.decode([i]).strip().lower() for i in yes + no} == {"yes", "no"}
    for text in prompts(3):
        ids = torch.tensor([alone.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            p = alone.model(ids).logits[0, -1].double().softmax(-1)
        by_definition = float(p[yes].sum() / (p[yes].sum() + p[no].sum()))
        assert p_yes(alone, [text]) == pytest.approx([by_definition], abs=1e-6)


def test_it_stops_at_the_end_token_or_is_cut_off(tiny_model: Path) -> None:
    found = answers(transformers(tiny_model, tokens(5)), map(Query, prompts(6)))
    for reply in found:
        assert reply.finish_reason in ("stop", "length")
        assert "<|im_end|>" not in reply.text
        assert reply.completion_tokens == 5 or reply.finish_reason == "stop"
    assert any(reply.finish_reason == "length" for reply in found)


OWN_SETTINGS = {
    "num_beams": 4,
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 5.0,
    "min_new_tokens": 12,
    "suppress_tokens": list(range(900)),
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "bad_words_ids": [[i] for i in range(900)],
    "sequence_bias": [[[7], 50.0]],
    "begin_suppress_tokens": list(range(900)),
    "exponential_decay_length_penalty": [1, 2.0],
    "encoder_repetition_penalty": 5.0,
    "stop_strings": ["a"],
    "cache_implementation": "static",
    "num_return_sequences": 2,
    "max_length": 3,
    "max_time": 0.0,
    "prompt_lookup_num_tokens": 3,
}


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_a_models_own_settings_are_not_used(tiny_model: Path, alone, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = copy.deepcopy(alone.model.generation_config)
    setattr(own, name, OWN_SETTINGS[name])
    expected = replies(alone, prompts(4))
    monkeypatch.setattr(alone.model, "generation_config", own)
    assert replies(alone, prompts(4)) == expected
    assert alone.model.generation_config is own, "that of a trainer's model is as before"


def own_sampling(model: Path, folder: Path, **settings: object) -> Path:
    """A copy of a model that asks for other sampling settings."""
    shutil.copytree(model, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return folder


def test_a_models_own_sampling_settings_are_used_on_request(tiny_model: Path, alone, tmp_path: Path) -> None:
    penalised = own_sampling(tiny_model, tmp_path / "penalised", repetition_penalty=5)
    given = prompts(6)
    ours = replies(transformers(penalised, model_sampling=True, batch=1), given)
    assert ours != replies(alone, given)
    assert replies(transformers(penalised, model_sampling=True, batch=6), given) == ours, "padding is not penalised"
    likeliest = own_sampling(tiny_model, tmp_path / "likeliest", do_sample=True, top_k=1, top_p=0.99, min_p=0.0)
    assert replies(transformers(likeliest, tokens(12, 2.0), model_sampling=True), given) == replies(alone, given)
    assert replies(transformers(likeliest, tokens(12, 2.0)), given) != replies(alone, given)


def test_nan_stops_the_run(tiny_model: Path) -> None:
    import torch

    backend = transformers(tiny_model)
    with torch.no_grad():
        backend.model.get_input_embeddings().weight.fill_(float("nan"))
    for score in (False, True):
        with pytest.raises(UserError, match="expected numbers, got NaN"):
            answers(backend, [Query("Aspirin", score)])


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
    base, lora = (
        p_yes(transformers(tiny_model), prompts(2)),
        p_yes(transformers(tiny_model, lora_path=str(tmp_path)), prompts(2)),
    )
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
