"""Rewards that need the policy's p(yes), and prompts chosen by their pass rate."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO
from forked import command
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_training_cli import train
from test_training_samples import CHAIN, index_of

from inference.backends import Query, load_backend, load_tokenizer
from inference.families import reasoning_marks
from inference.settings import InferenceSettings, ModelSettings, PromptSettings
from mimiciv_dataset.index_files import sample_id
from mimiciv_dataset.index_rows import read_rows
from mimiciv_dataset.samples import label_list
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from scripts.filter_prompts import Limits, family_warning, rewards_of
from scripts.filter_prompts import main as filter_prompts
from training.rewards import REWARDS, for_trl, scored_prompt
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
    expected = [reply.p_yes for _, reply in backend.answer(Query(prompt, score=True) for prompt in prompts)]
    assert sorted(line["p_yes"] for line in risk) == pytest.approx(sorted(expected * 4), abs=1e-6)


def test_rewards_read_what_the_evaluation_reads(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of reasoning that are special tokens are kept, and the end-of-turn token ends the completion."""
    import trl

    from training.grpo_trainer import RenderedGRPOTrainer

    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    seen: list[str] = []
    monkeypatch.setattr(trl.GRPOTrainer, "_calculate_rewards", lambda self, inputs, prompts, texts, ids: seen.extend(texts))
    trainer = object.__new__(RenderedGRPOTrainer)
    trainer.processing_class, trainer.eos_token_ids = tokenizer, [tokenizer.eos_token_id]
    trainer.reward_func_names = ["accuracy"]
    ids = tokenizer(f"[THINK]Old.[/THINK]yes{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    trainer._calculate_rewards([{}], ["P"], ["Old.yes"], [ids])
    assert seen == ["[THINK]Old.[/THINK]yes"]


def test_rewards_must_score_all_tasks_of_the_data(run_grpo: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="--rewards: expected one that scores decision tasks.*Add decision."):
        run_grpo(("Inpatient_Mortality", "emar"), "--rewards", "brier")
    with pytest.raises(UserError, match="--rewards: expected one that scores risk tasks.*Add brier."):
        run_grpo(("Inpatient_Mortality", "emar"), "--rewards", "decision")


@pytest.mark.slow
def test_brier_in_several_processes_with_the_optimizer_on_the_cpu(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """ZeRO-3: each forward pass needs both processes, also if only one of them has prompts of risk tasks."""
    data = index_of(small_root, tmp_path, "Inpatient_Mortality", "emar", rows=3)
    flags = grpo(small_root, tiny_model, data, tmp_path / "out", "--rewards", "brier", "decision", "--max_steps", 3,
                 "--per_device_train_batch_size", 4, "--learning_rate", "0.1", "--weight_decay", "0.5")  # fmt: skip
    config = REPO / "scripts/accelerate_configs/deepspeed_zero3_offload.yaml"
    launcher = ("accelerate", "launch", "--config_file", str(config), "--num_processes", "2", "--main_process_port", "29523")
    train("grpo.py", flags, launch=launcher, DS_ACCELERATOR="cpu")
    files = sorted((tmp_path / "out/completions").glob("*.jsonl"))
    lines = [[json.loads(line) for line in file.open(encoding="utf-8")] for file in files]
    assert [len(of_process) for of_process in lines] == [12, 12]
    assert any(a["task"] != b["task"] for a, b in zip(*lines, strict=True))
    for line in itertools.chain(*lines):
        assert (line["p_yes"] is None) == (line["brier"] is None) == (line["task"] == "emar")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "out"))
    assert any((before[name].float() - after[name].float()).abs().max() > 0 for name in before), "the optimizer's steps count"


# --- prompts by pass rate


def write_run(index: Path, folder: Path, replies: dict[str, list[list[dict[str, Any]]]]) -> Path:
    """A run on an index, from the outputs of each row of a task; an output without fields is the right answer."""
    lines, left = [], {task: list(outputs) for task, outputs in replies.items()}
    for row in read_rows(index):
        right = {"response": "\n".join(label_list(row["target"])), "finish_reason": "stop", "p_yes": None}
        info = {"task": row["task"], "label": row["target"], "subject_id": row["subject_id"]}
        line = {"key": sample_id(row), "sample_id": sample_id(row), "task_info": info, "mode": "plain"}
        outputs = [right | output for output in left[row["task"]].pop(0)]
        lines.append(line | ({"outputs": outputs} if outputs else {"error": "does not fit"}))
    folder.mkdir(exist_ok=True)
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


RIGHT, WRONG = {}, {"response": "Nothing of the kind"}


@pytest.fixture
def index(small_root: Path, tmp_path: Path) -> Path:
    """Four rows of a decision task and four of a risk task."""
    return Path(index_of(small_root, tmp_path, "emar", "Inpatient_Mortality", rows=4))


def test_prompts_whose_rewards_are_all_equal_are_dropped(index: Path, tmp_path: Path, capsys) -> None:
    """All right, all wrong, without a reply; p(yes) counts as that share of replies. Kept rows are as they were."""
    scored = [[{"response": "yes", "finish_reason": "scored", "p_yes": p}] for p in (0.999, 0.6, 0.2, 0.001)]
    emar = [[RIGHT, RIGHT], [WRONG, RIGHT], [WRONG, WRONG], []]
    run_dir = write_run(index, tmp_path / "run", {"emar": emar, "Inpatient_Mortality": scored})
    filter_prompts([str(run_dir), "--dataset_name", str(index), "--output_path", str(tmp_path / "kept.csv")])
    table = capsys.readouterr().out
    assert "3 of 8 rows kept" in table
    counts = {
        line.split()[0]: line.split()[1:] for line in table.splitlines() if line.startswith(("emar", "Inpatient", "all"))
    }
    assert counts == {
        "emar": ["4", "1", "2", "0", "0", "1"],
        "Inpatient_Mortality": ["4", "0", "2", "0", "0", "2"],
        "all": ["8", "1", "4", "0", "0", "3"],
    }
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (index, tmp_path / "kept.csv"))
    assert after == [before[0], before[2], before[6], before[7]]
    assert read_json(tmp_path / "kept.provenance.json")["kept"] == 3
    filter_prompts([str(run_dir), "--dataset_name", str(index), "--output_path", str(tmp_path / "kept.csv")])
    assert "is up to date" in capsys.readouterr().out


def test_pass_rates_of_a_run(index: Path, small_root: Path, tiny_model: Path, tmp_path: Path, capsys) -> None:
    """An untrained model never answers a decision task, and its p(yes) is near one half."""
    command("test.py", "--root_dir", small_root, "--model_name_or_path", tiny_model, "--dataset_name", index, "--output_path",
            tmp_path / "run", "--think_prompt", "--num_samples", 2, "--temperature", 1, "--max_new_tokens", 4,
            "--max_seq_len", 600, "--batch", 8)  # fmt: skip
    filter_prompts([str(tmp_path / "run"), "--dataset_name", str(index), "--output_path", str(tmp_path / "kept.csv")])
    table = capsys.readouterr().out
    assert "4 of 8 rows kept" in table
    assert [row["task"] for row in read_rows(tmp_path / "kept.csv")] == ["Inpatient_Mortality"] * 4


def test_limits_of_the_pass_rate(index: Path, tmp_path: Path) -> None:
    emar = [[RIGHT, WRONG, WRONG, WRONG], [RIGHT, RIGHT, WRONG, WRONG], [RIGHT, RIGHT, RIGHT, WRONG], [RIGHT] * 4]
    run_dir = write_run(index, tmp_path / "run", {"emar": emar, "Inpatient_Mortality": [[WRONG] * 4] * 4})
    words = [str(run_dir), "--dataset_name", str(index), "--min_rate", "0.3", "--max_rate", "0.7", "--output_path"]
    filter_prompts([*words, str(tmp_path / "kept.csv")])
    before, after = (path.read_text(encoding="utf-8").splitlines() for path in (index, tmp_path / "kept.csv"))
    assert after == [before[0], before[2]]


def test_pass_rates_that_cannot_be_computed(index: Path, tmp_path: Path) -> None:
    words = ["--dataset_name", str(index), "--output_path", str(tmp_path / "kept.csv")]
    one = write_run(index, tmp_path / "one", {"emar": [[RIGHT]] * 4, "Inpatient_Mortality": [[WRONG] * 2] * 4})
    with pytest.raises(
        UserError, match="emar: expected several replies to each sample, got one. Run test.py with --num_samples"
    ):
        filter_prompts([str(one), *words])
    equal = write_run(index, tmp_path / "equal", {"emar": [[RIGHT] * 2] * 4, "Inpatient_Mortality": [[WRONG] * 2] * 4})
    with pytest.raises(UserError, match="expected rows with different rewards, got none"):
        filter_prompts([str(equal), *words])
    with pytest.raises(UserError, match="--reward: expected one out of accuracy"):
        filter_prompts([str(equal), *words, "--reward", "length_of_reply"])
    assert not (tmp_path / "kept.csv").exists()


def test_replies_earn_what_they_earn_in_grpo(index: Path, tmp_path: Path) -> None:
    """Each reply of a run, with an open think block in the prompt, has the reward that the trainer gives it."""
    replies = ["Old.\n</think>\n\nAspirin", f"{CHAIN}\n</think>\n\nAspirin", "Old."]
    info = {"task": "emar", "label": ["Aspirin"]}
    outputs = [{"response": reply, "p_yes": None, "finish_reason": "stop"} for reply in replies]
    line = {"sample_id": "emar/1/2-3", "task_info": info, "mode": "think", "thinking_open": True, "outputs": outputs}
    for name in ("accuracy", "format", "length"):
        given = {"task": ["emar"] * 3, "label": ['["Aspirin"]'] * 3, "mode": ["think"] * 3}
        assert rewards_of(line, Limits(name, 0, 1, 8)) == for_trl(name)(["P<think>\n"] * 3, replies, **given)


@pytest.mark.parametrize(("opening", "closing"), reasoning_marks())
def test_a_reply_closes_the_mark_that_its_prompt_opened(opening: str, closing: str) -> None:
    """Whatever the family, the reply earns what it earns in grpo.py."""
    replies = [f"Old.\n{closing}\nAspirin", f"Old, see </think> and </reasoning>.\n{closing}\nAspirin", "Old, so"]
    info = {"task": "emar", "label": ["Aspirin"]}
    outputs = [{"response": reply, "p_yes": None, "finish_reason": "stop"} for reply in replies]
    line = {"sample_id": "emar/1/2-3", "task_info": info, "mode": "think", "thinking_open": True, "outputs": outputs}
    for name in ("accuracy", "format", "length"):
        given = {"task": ["emar"] * 3, "label": ['["Aspirin"]'] * 3, "mode": ["think"] * 3}
        expected = for_trl(name)([f"P{opening}\n"] * 3, replies, **given)
        assert rewards_of(line, Limits(name, 0, 1, 8)) == expected
        assert name != "accuracy" or expected == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(("family", "warns"), [("ehr-r1", False), ("mistral", True), (None, False)])
def test_a_run_of_another_family_has_other_prompts(tmp_path: Path, family: str | None, warns: bool) -> None:
    if family:
        write_json(tmp_path / "result.json", {"family": {"family": family}})
    assert ("Run test.py with --family ehr-r1." in (family_warning(tmp_path) or "")) == warns


def test_a_prompt_that_did_not_fit_has_no_rewards() -> None:
    """It has one entry, however many replies the others have."""
    outputs = [{"response": "", "p_yes": None, "finish_reason": "does not fit"}]
    line = {"sample_id": "emar/1/2-3", "task_info": {"task": "emar", "label": ["Aspirin"]}, "mode": "think"}
    assert rewards_of(line | {"outputs": outputs, "error": "does not fit"}, Limits("accuracy", 0, 1, 8)) == []
