"""vLLM, where it is installed: the same answers and the same p(yes) as Transformers, from the command line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,  # vLLM alone takes half a minute to start
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]

Place = tuple[str, ...]


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
    small_root: Path, tiny_model: Path, lora: Path, tmp_path_factory: pytest.TempPathFactory, run_command
) -> dict[str, dict[Place, dict]]:
    """Output lines by sample of four runs of test.py."""
    index = small_root / "task_index/all"
    names = ",".join(str(index / f"{task}.csv") for task in ("emar", "labevents", "Inpatient_Mortality"))

    def run(*flags: str) -> dict[Place, dict]:
        folder = tmp_path_factory.mktemp("outputs")
        run_command("test.py", "--root_dir", small_root, "--model_name_or_path", tiny_model, "--dataset_name", names,
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
