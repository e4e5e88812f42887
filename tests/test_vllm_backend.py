"""vLLM, where it is installed: the same answers and the same p(yes) as Transformers, from the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from forked import command

from inference.backends import Query, load_backend
from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, PromptSettings

pytestmark = [
    pytest.mark.slow,  # vLLM alone takes half a minute to start
    pytest.mark.xdist_group("vllm"),  # one engine and one server of vLLM for all tests that need them
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

Place = tuple[str, ...]


@pytest.fixture(scope="module", autouse=True)
def modules_that_vllm_can_read() -> Iterator[None]:
    """vLLM 0.31 reads the attributes of all modules, and fails on those of llvmlite, which tests before may have imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "llvmlite.binding.ffi", raising=False)
        yield


@pytest.fixture(scope="module")
def lora(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the tiny model's answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("lora")
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def outputs(
    small_root: Path, tiny_model: Path, lora: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[Place, dict]]:
    """Output lines by sample of four runs of test.py."""
    index = small_root / "task_index/all"
    names = ",".join(str(index / f"{task}.csv") for task in ("emar", "labevents", "Inpatient_Mortality"))

    def run(*flags: str) -> dict[Place, dict]:
        folder = tmp_path_factory.mktemp("outputs")
        command("test.py", "--root_dir", small_root, "--model_name_or_path", tiny_model, "--dataset_name", names,
                    "--output_path", folder, "--max_seq_len", 4096, "--max_new_tokens", 12, "--batch", 4, *flags)  # fmt: skip
        lines = map(json.loads, (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines())
        place = ("task", "subject_id", "period_begin", "period_end")
        return {tuple(str(line["task_info"][name]) for name in place): line for line in lines}

    adapter = ("--lora_path", str(lora))
    return {
        "transformers": run(),
        "vllm": run("--use_vllm"),
        "transformers lora": run(*adapter),
        "vllm lora": run("--use_vllm", *adapter),
    }


def replies(lines: dict[Place, dict]) -> dict[Place, str]:
    return {place: line["outputs"][0]["response"] for place, line in lines.items()}


def p_yes(lines: dict[Place, dict]) -> dict[Place, float]:
    return {place: line["outputs"][0]["p_yes"] for place, line in lines.items() if place[0] == "Inpatient_Mortality"}


@pytest.mark.parametrize("adapter", ["", " lora"])
def test_both_backends_answer_alike(outputs: dict[str, dict[Place, dict]], adapter: str) -> None:
    ours, theirs = outputs["transformers" + adapter], outputs["vllm" + adapter]
    assert replies(ours) == replies(theirs)
    assert p_yes(ours) and p_yes(ours) == pytest.approx(p_yes(theirs), abs=1e-3)
    for place, line in ours.items():
        for name in ("mode", "prompt_sha256", "template_sha256", "truncated", "score"):
            assert line[name] == theirs[place][name]
        assert line["outputs"][0]["finish_reason"] == theirs[place]["outputs"][0]["finish_reason"]


def test_the_adapter_is_used(outputs: dict[str, dict[Place, dict]]) -> None:
    assert p_yes(outputs["vllm"]) != pytest.approx(p_yes(outputs["vllm lora"]), abs=1e-4)


def texts(backend: Any, prompts: list[str], sample: int = 0) -> list[str]:
    return [reply.text for _, reply in sorted(backend.answer(Query(prompt, sample=sample) for prompt in prompts))]


@pytest.fixture(scope="module")
def sampling(tiny_model: Path) -> Any:
    settings = ModelSettings(str(tiny_model), use_vllm=True)
    decoding = DecodingSettings(20, temperature=1.0)
    return load_backend(InferenceSettings(settings, prompt=PromptSettings(max_seq_len=2048), decoding=decoding))


def test_prompts_wait_in_the_engine_until_the_last_is_drawn(sampling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step begins with an empty queue while the run has more prompts; replies come before all prompts are drawn."""
    engine, number, drawn, waiting = sampling.engine.llm_engine, 400, [], []
    scheduler, step = engine.engine_core.engine_core.scheduler, engine.step

    def queries() -> Iterator[Query]:
        for i in range(number):
            drawn.append(i)
            yield Query(f"prompt {i} " * (1 + i % 10), score=i % 7 == 0)

    def counted_step() -> list[Any]:
        if len(drawn) < number:
            waiting.append(len(scheduler.waiting))
        return step()

    monkeypatch.setattr(engine, "step", counted_step)
    replies = sampling.answer(queries())
    first = next(replies)
    assert len(drawn) < number
    answered = dict([first, *replies])
    assert sorted(answered) == list(range(number)) and len(waiting) > 5 and min(waiting) > 0
    assert all((reply.p_yes is not None) == (i % 7 == 0) for i, reply in answered.items())
    assert all(reply.prompt_tokens and reply.completion_tokens in range(21) for reply in answered.values())


def test_closing_ends_what_is_in_flight(sampling: Any) -> None:
    replies = sampling.answer(Query(f"prompt {i}") for i in range(100))
    next(replies)
    replies.close()
    assert not sampling.engine.llm_engine.has_unfinished_requests()


def test_sampling_depends_on_prompt_and_number_only(sampling: Any) -> None:
    prompts = [f"prompt {i}" for i in range(9)]
    first = texts(sampling, prompts)
    assert texts(sampling, prompts[::-1]) == first[::-1] and len(set(first)) == 9
    assert all(a != b for a, b in zip(first, texts(sampling, prompts, sample=1), strict=True))


def test_tokenizers_in_python_and_a_models_own_settings(slow_model: Path, small_root: Path, tmp_path: Path) -> None:
    """Both backends agree with a tokenizer in Python and the model's own penalty."""
    penalised = tmp_path / "penalised"
    shutil.copytree(slow_model, penalised)
    own = json.loads((penalised / "generation_config.json").read_text(encoding="utf-8")) | {"repetition_penalty": 1.7}
    (penalised / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")

    def run(name: str, *flags: str) -> dict[str, dict]:
        command("test.py", "--root_dir", small_root, "--model_name_or_path", penalised, "--limit", 8, "--dataset_name",
                    small_root / "task_index/all/emar.csv", "--output_path", tmp_path / name, "--max_seq_len", 900,
                    "--max_new_tokens", 12, "--batch", 3, *flags)  # fmt: skip
        lines = map(json.loads, (tmp_path / name / "outputs.jsonl").read_text(encoding="utf-8").splitlines())
        return {line["sample_id"]: line["outputs"][0]["response"] for line in lines}

    ours = run("ours", "--model_sampling")
    assert ours == run("theirs", "--model_sampling", "--use_vllm", "--trust_remote_code")
    plain = run("plain")
    assert ours.keys() == plain.keys() and ours != plain
