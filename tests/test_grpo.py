"""Rewards that need the policy's p(yes), and prompts chosen by their pass rate."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_samples import index_of

from inference.backends import load_backend
from inference.settings import InferenceSettings, ModelSettings, PromptSettings
from pipeline.errors import UserError
from training.rewards import REWARDS, scored_prompt
from training.samples import TrainingData

logits = st.floats(-6, 6)


@settings(deadline=None)  # the first call compiles
@given(logits, logits, logits, st.sampled_from(["yes", "no"]))
def test_the_mean_brier_reward_is_the_brier_score_and_so_is_its_gradient(
    yes: float, no: float, neither: float, label: str
) -> None:
    """The policy gradient is that of 1 − (p − y)², times the probability of the answers yes and no."""
    policy = torch.tensor([yes, no, neither], dtype=torch.float64, requires_grad=True)
    probabilities = policy.softmax(-1)
    mass = probabilities[:2].sum()
    score = 1 - (probabilities[0] / mass - float(label == "yes")) ** 2
    p_yes = (probabilities[0] / mass).item()
    rewards = torch.tensor(
        [REWARDS["brier"](answer, "ICU_Stay_7day", label, "no_think", p_yes) for answer in ("yes", "no", "?")]
    )
    rewards = rewards.double()
    assert (probabilities @ rewards).item() == pytest.approx(score.item(), abs=1e-6)
    (expected,) = torch.autograd.grad(score, policy, retain_graph=True)
    (gradient,) = torch.autograd.grad(probabilities @ rewards, policy)
    torch.testing.assert_close(gradient, mass.detach() * expected, atol=1e-6, rtol=1e-4)


def test_where_the_policy_is_scored() -> None:
    """As in evaluation: after the prompt, or after the reasoning; with an open think block in the prompt, too."""
    assert scored_prompt("P", "<think>a</think>\n\nyes", "ICU_Stay_7day", "no_think") == "P"
    assert scored_prompt("P<think>\n", "Old.\n</think>\n\nyes", "ICU_Stay_7day", "think") == "P<think>\nOld.\n</think>\n\n"
    assert scored_prompt("P", "Aspirin", "emar", "think") is None


def grpo(root: Path, model: Path, data: Path | str, output: Path, *flags: object) -> list[str]:
    """A command line of grpo.py that trains one step of 2 prompts × 4 completions."""
    words = ["--model_name_or_path", model, "--dataset_name", data, "--root_dir", root, "--output_dir", output,
             "--bf16", "False", "--report_to", "none", "--logging_steps", 1, "--max_steps", 1, "--save_strategy", "no",
             "--per_device_train_batch_size", 8, "--num_generations", 4, "--max_completion_length", 8,
             "--max_prompt_length", 400, "--gradient_checkpointing", "False", *flags]  # fmt: skip
    return list(map(str, words))


@pytest.fixture
def run_grpo(small_root: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that runs grpo.py in this process on an index of some tasks, and returns its output directory."""

    def run(tasks: tuple[str, ...], *flags: object) -> Path:
        data, output = index_of(small_root, tmp_path, *tasks, rows=2), tmp_path / "out"
        script = runpy.run_path(str(REPO / "grpo.py"))
        monkeypatch.setattr(sys, "argv", ["grpo.py", *grpo(small_root, tiny_model, data, output, *flags)])
        script["main"](*script["parse"](script["__doc__"], script["GRPOArguments"], "GRPOConfig"))
        return output

    return run


def test_brier_rewards_of_the_policy(
    run_grpo: Callable[..., Path], small_root: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trainer's p(yes) is that of test.py with the model before the step; a prompt's completions share it."""
    flags = ("--max_steps", 2, "--learning_rate", 0)
    output = run_grpo(("Inpatient_Mortality", "emar"), "--rewards", "brier", "decision", "format", *flags)
    assert "--scale_rewards group → batch" in capsys.readouterr().out
    lines = [json.loads(line) for line in (output / "completions/rank-0.jsonl").open(encoding="utf-8")]
    risk, others = (
        [line for line in lines if (line["task"] == "Inpatient_Mortality") == of_risk] for of_risk in (True, False)
    )
    assert len(risk) == len(others) == 8
    assert all(line["brier"] is None and line["p_yes"] is None for line in others)

    backend = load_backend(InferenceSettings(model=ModelSettings(str(tiny_model)), prompt=PromptSettings()))
    data = TrainingData(small_root, [tmp_path / "index.csv"], backend.builder.tokenizer, 400, for_rl=True)
    prompts = [row.prompt for row in map(data.render, range(len(data))) if row.task == "Inpatient_Mortality"]
    expected = [reply.p_yes for _, reply in sorted(backend.score_yes_no(prompts))]
    assert sorted(line["p_yes"] for line in risk) == pytest.approx(sorted(expected * 4), abs=1e-6)


def test_rewards_must_score_all_tasks_of_the_data(run_grpo: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="--rewards: expected one that scores decision tasks.*Add decision."):
        run_grpo(("Inpatient_Mortality", "emar"), "--rewards", "brier")
    with pytest.raises(UserError, match="--rewards: expected one that scores risk tasks.*Add brier."):
        run_grpo(("Inpatient_Mortality", "emar"), "--rewards", "decision")
