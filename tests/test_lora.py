"""A LoRA adapter on a model answers as the two merged into one."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPO
from forked import command
from test_evaluation_cli import lines
from test_evaluation_resume import write_index

TASKS = ("labevents", "prescriptions", "Inpatient_Mortality")


def save_adapter(model: Path, adapter: Path, merged: Path) -> None:
    """Write an adapter with random weights, and the model with it merged in."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero in a new adapter, which then changes nothing
            parameter.data.normal_(std=0.3)
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(model).save_pretrained(merged)


VLLM_MARKS = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]


@pytest.mark.parametrize("backend", [[], pytest.param(["--use_vllm"], marks=VLLM_MARKS)], ids=["transformers", "vllm"])
def test_an_adapter_answers_as_the_merged_model(
    backend: list[str], synthetic_root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    save_adapter(tiny_model, tmp_path / "adapter", tmp_path / "merged")
    index = write_index(tmp_path / "index.csv", synthetic_root, TASKS, 6)

    def answers(name: str, model: Path, *more: str) -> tuple[dict, dict]:
        """Reply, and p(yes), by prompt."""
        words = ["--root_dir", synthetic_root, "--dataset_name", index, "--model_name_or_path", model, "--output_path",
                 tmp_path / name, "--max_seq_len", 1500, "--max_new_tokens", 12, *backend, *more]  # fmt: skip
        if backend:  # an engine of its own each time
            command("test.py", *words)
        else:
            runpy.run_path(str(REPO / "test.py"))["main"](list(map(str, words)))
        found = {line["prompt_sha256"]: line["outputs"][0] for line in lines(tmp_path / name).values()}
        assert len(found) == 18
        p_yes = {prompt: output["p_yes"] for prompt, output in found.items() if output["p_yes"] is not None}
        return {prompt: output["response"] for prompt, output in found.items() if prompt not in p_yes}, p_yes

    base, adapted, merged = (
        answers("out", tiny_model),
        answers("out_adapter", tiny_model, "--lora_path", str(tmp_path / "adapter")),
        answers("out_merged", tmp_path / "merged"),
    )
    assert adapted[0] == merged[0] and adapted[1] == pytest.approx(merged[1], abs=1e-3 if backend else 1e-5)
    assert len(base[0]) == 12 and len(base[1]) == 6
    assert any(reply != adapted[0][prompt] for prompt, reply in base[0].items())
    assert all(abs(p - adapted[1][prompt]) > 1e-4 for prompt, p in base[1].items())
