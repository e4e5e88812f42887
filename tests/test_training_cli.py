"""sft.py and grpo.py through their command lines: equal loss curves, several processes, resuming, bad input, privacy."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPO
from forked import command
from test_training_samples import CHAIN, index_of

from inference.backends import load_tokenizer
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from training.samples import TrainingData

BIN = Path(sys.executable).parent
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline"}
DECISIONS = ("prescriptions", "labevents", "transfers")


@pytest.fixture(scope="module")
def model(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer knows the synthetic records."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    index = synthetic_root / "task_index/all"
    command("scripts/make_tiny_model.py", "--root_dir", synthetic_root, "--output_path", folder, "--vocab_size", 1024,
            "--samples", 100, "--dataset_name", *(index / f"{task}.csv" for task in DECISIONS))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def data(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 48 rows, decisions and risks."""
    folder = tmp_path_factory.mktemp("data")
    return Path(index_of(synthetic_root, folder, *DECISIONS, "LengthOfStay_3day", rows=12))


def words(root: Path, model: Path, data: Path | str, output: Path, *more: object) -> list[str]:
    given = ["--model_name_or_path", model, "--dataset_name", data, "--root_dir", root, "--output_dir", output,
             "--max_length", 400, "--bf16", "False", "--report_to", "none", "--logging_steps", 1, "--learning_rate", "1e-3",
             "--gradient_checkpointing", "False", "--max_steps", 6, "--save_strategy", "no",
             "--lr_scheduler_type", "constant"]  # fmt: skip
    return [str(word) for word in (*given, *more)]


def train(script: str, flags: list[str], launch: tuple[str, ...] = (), check: bool = True, **env: str):
    """Run a trainer, with a launcher before it, from the repository as its users do."""
    if not launch:
        return command(script, *flags, check=check, cwd=REPO, **QUIET, **env)
    start = [str(BIN / launch[0]), *launch[1:], str(REPO / script)]
    done = subprocess.run([*start, *flags], capture_output=True, text=True, cwd=REPO, env={**os.environ, **QUIET, **env})
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def losses(output: Path) -> list[float]:
    history = read_json(output / "trainer_state.json")["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def interrupt(output: Path, step: int) -> None:
    """Leave in an output directory what a run leaves that is killed after a step."""
    for checkpoint in output.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    (output / "model.safetensors").unlink(missing_ok=True)
    write_json(output / "provenance.json", read_json(output / "provenance.json") | {"complete": False})


TORCHRUN = ("torchrun", "--standalone", "--nproc_per_node", "2")  # on a free port: tests run in parallel


@pytest.fixture(scope="module")
def once(synthetic_root: Path, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, a batch of 8, a checkpoint at step 3."""
    output = tmp_path_factory.mktemp("once") / "out"
    flags = words(synthetic_root, model, data, output, "--per_device_train_batch_size", 8)
    done = train("sft.py", [*flags, "--save_strategy", "steps", "--save_steps", "3"])
    assert "6 steps of 8 samples, 0 rows skipped" in done.stdout
    return output


@pytest.mark.slow
def test_equal_batches_give_equal_losses(synthetic_root: Path, model: Path, data: Path, once: Path, tmp_path: Path) -> None:
    """1 × 8 samples, 8 × 1, 2 processes × 4, tokenized before training, packed: one loss curve up to rounding (1e-3)."""
    expected = losses(once)
    assert len(expected) == 6 and expected[-1] < expected[0]

    def run(name: str, *more: object, **launch: object) -> list[float]:
        train("sft.py", words(synthetic_root, model, data, tmp_path / name, *more), **launch)
        return losses(tmp_path / name)

    eight = run("eight", "--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 8)
    assert eight == pytest.approx(expected, rel=1e-3)
    two = run("two", "--per_device_train_batch_size", 4, launch=TORCHRUN, ACCELERATE_USE_CPU="true")
    assert two == pytest.approx(expected, rel=1e-3)
    ahead = run("ahead", "--per_device_train_batch_size", 8, "--load_dataset_mode", "direct")
    assert ahead == pytest.approx(expected, rel=1e-6)
    packed = run("packed", "--per_device_train_batch_size", 8, "--packing", "True", "--length_grouping", "False")
    padded = run("padded", "--per_device_train_batch_size", 8, "--length_grouping", "False")
    assert packed == pytest.approx(padded, rel=1e-3)


@pytest.mark.slow
def test_skipped_rows_are_counted_once(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """Over two processes and two epochs; and of samples tokenized before training, in a new cache as in an existing one."""
    rows = TrainingData(synthetic_root, [str(data)], load_tokenizer(str(model)), limit := 260)
    skipped = sum(not rows.render(index).fits for index in range(len(rows)))
    assert 0 < skipped < len(rows) == 48

    def log(name: str, *more: object, **launch: object) -> str:
        flags = words(synthetic_root, model, data, tmp_path / name, "--max_length", limit, "--max_steps", 12, *more)
        return train("sft.py", flags, **launch).stdout

    summary = f"12 steps of 8 samples, {skipped} rows skipped as too long for --max_length"
    assert summary in log("two", "--per_device_train_batch_size", 4, launch=TORCHRUN, ACCELERATE_USE_CPU="true")
    direct = ("--per_device_train_batch_size", 8, "--load_dataset_mode", "direct")
    assert summary in log("new", *direct)
    assert summary in log("cached", *direct)


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_next_unseen_sample(
    synthetic_root: Path, model: Path, data: Path, once: Path, tmp_path: Path
) -> None:
    """Killed at any moment after step 2: the same losses as without, through two epochs."""
    output = tmp_path / "out"
    flags = words(synthetic_root, model, data, output, "--per_device_train_batch_size", 8)
    flags += ["--save_strategy", "steps", "--save_steps", "2", "--max_steps", "8"]
    process = subprocess.Popen([sys.executable, str(REPO / "sft.py"), *flags], cwd=REPO, env={**os.environ, **QUIET},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not (output / "checkpoint-2/trainer_state.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (output / "checkpoint-99").mkdir()  # a checkpoint that a crash truncated: it has no state
    train("sft.py", flags)
    whole = tmp_path / "whole"
    train("sft.py", [str(whole) if word == str(output) else word for word in flags])
    assert len(losses(whole)) == 8
    assert losses(output) == pytest.approx(losses(whole), rel=1e-5)
    other = train("sft.py", [*flags, "--learning_rate", "5e-5"], check=False)
    assert other.returncode == 2 and "expected the same learning_rate" in other.stderr


ZERO3 = ("accelerate", "launch", "--config_file", "./scripts/accelerate_configs/deepspeed_zero3.yaml", "--num_processes", "2")


@pytest.mark.slow
def test_the_published_command_under_zero3(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """Unchanged but for paths, process count and precision; it resumes, and test.py runs the model."""
    output = tmp_path / "out"
    flags = [
        "--bf16", "True", "--use_liger_kernel", '--accelerator_config={"split_batches": true, "dispatch_batches": true}',
        "--load_dataset_mode", "lazzy", "--model_name_or_path", model, "--dataset_name", data, "--output_dir", output,
        "--max_seq_length", 512, "--num_train_epochs", 1, "--per_device_train_batch_size", 8,
        "--per_device_eval_batch_size", 1, "--gradient_accumulation_steps", 1, "--eval_strategy", "no",
        "--save_strategy", "steps", "--save_steps", 2, "--save_total_limit", 3, "--learning_rate", "2e-5",
        "--weight_decay", "0.", "--warmup_ratio", 0.03, "--lr_scheduler_type", "cosine", "--logging_steps", 1,
        "--gradient_checkpointing", "True", "--dataset_num_proc", 1, "--dataloader_num_workers", 1,
        "--dataloader_pin_memory", "--ignore_data_skip", "--report_to", "wandb", "--root_dir", synthetic_root,
    ]  # fmt: skip
    flags = [str(flag) for flag in flags]
    done = train("sft.py", flags, launch=ZERO3, DS_ACCELERATOR="cpu", WANDB_DIR=str(tmp_path))
    for note in ("--max_seq_length → --max_length", "--warmup_ratio → --warmup_steps", "--ignore_data_skip is set to False",
                 "dispatch_batches is set to False", "2 processes together, 4 each", "--use_liger_kernel is set"):  # fmt: skip
        assert note in done.stdout
    first = losses(output)
    interrupt(output, 4)
    train("sft.py", flags, launch=ZERO3, DS_ACCELERATOR="cpu", WANDB_DIR=str(tmp_path))
    assert losses(output) == pytest.approx(first, rel=1e-6), "resumed from step 4"
    same = ["test.py", "--root_dir", synthetic_root, "--model_name_or_path", output, "--dataset_name", data, "--limit", 8,
            "--max_new_tokens", 4, "--max_seq_len", 600]  # fmt: skip
    warnings = command(*same, "--output_path", tmp_path / "transformers").stderr
    assert "patients of this evaluation are in its training data" in warnings
    if find_spec("vllm"):
        command(*same, "--output_path", tmp_path / "vllm", "--use_vllm")
        replies = answers(tmp_path / "transformers")
        assert len(replies) == 8 and replies == answers(tmp_path / "vllm")


def answers(folder: Path) -> dict[str, str]:
    """The reply to each sample of a run of test.py."""
    lines = map(json.loads, (folder / "outputs.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["input_sha256"]: line["outputs"][0]["response"] for line in lines}


@pytest.mark.slow
def test_several_processes_evaluate_as_one(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """Two processes under DDP and ZeRO-3: the losses, metrics and best checkpoint of one; resumed, they end the same."""
    held_out = index_of(synthetic_root, tmp_path, "transfers", "LengthOfStay_3day", rows=7)
    common = ("--max_length", 1200, "--eval_dataset_name", held_out, "--eval_strategy", "steps", "--eval_steps", 2,
              "--save_strategy", "steps", "--save_steps", 2, "--load_best_model_at_end", "True", "--eval_metric_samples", 6,
              "--eval_max_new_tokens", 4, "--metric_for_best_model", "mean_token_accuracy")  # fmt: skip

    def run(name: str, batch: int, **launch: object) -> list[dict]:
        flags = words(synthetic_root, model, data, tmp_path / name, "--per_device_train_batch_size", batch, *common)
        train("sft.py", flags, **launch)
        history = read_json(tmp_path / name / "trainer_state.json")["log_history"]
        names = ("eval_loss", "eval_f1", "eval_auroc")
        return [{key: entry[key] for key in names if key in entry} for entry in history if "eval_loss" in entry]

    once = run("one", 8)
    assert len(once) == 3 and all("eval_f1" in entry for entry in once)
    launches = {
        "ddp": {"launch": TORCHRUN, "ACCELERATE_USE_CPU": "true"},
        "zero3": {"launch": ZERO3, "DS_ACCELERATOR": "cpu"},
    }
    for name, launch in launches.items():
        for step in (None, 2):
            if step:
                interrupt(tmp_path / name, step)
            for entry, expected in zip(run(name, 4, **launch), once, strict=True):
                assert entry == pytest.approx(expected, rel=2e-3, abs=2e-3), (name, step)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=2e-3)


@pytest.mark.slow
def test_grpo_under_zero3(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flags = words(synthetic_root, model, data, output, "--max_steps", 2, "--per_device_train_batch_size", 4,
                  "--num_generations", 4, "--max_completion_length", 8, "--max_prompt_length", 400, "--save_strategy", "steps",
                  "--save_steps", 1)  # fmt: skip
    at = flags.index("--max_length")
    del flags[at : at + 2]
    train("grpo.py", flags, launch=ZERO3, DS_ACCELERATOR="cpu")
    kept = [json.loads(line) for path in (output / "completions").glob("*.jsonl") for line in path.open(encoding="utf-8")]
    assert len(kept) == 16 and {"task", "mode", "completion", "accuracy"} == set(kept[0])
    assert read_json(output / "ehr_training.json")["rewards"] == ["accuracy", "format"]
    interrupt(output, 1)
    train("grpo.py", flags, launch=ZERO3, DS_ACCELERATOR="cpu")
    again = [json.loads(line) for path in (output / "completions").glob("*.jsonl") for line in path.open(encoding="utf-8")]
    assert len(again) == 16 + 8, "resumed from step 1"
    command("test.py", "--root_dir", synthetic_root, "--model_name_or_path", output, "--dataset_name", data, "--limit", 4,
            "--output_path", tmp_path / "answers", "--max_new_tokens", 4, "--max_seq_len", 600, "--think_prompt")  # fmt: skip
    assert len(answers(tmp_path / "answers")) == 4


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_grpo_samples_with_vllm(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """vLLM in two trainer processes under ZeRO-3: it reads our prompts' token ids and always has the trained weights.

    Weight decay alone halves every weight in each step, and the model's next-token distribution is sharp. vLLM's probability
    of a sampled token then equals the trainer's up to rounding; with the initial weights it does not (ratio 0.6, then 1e-7).
    """
    import torch
    from transformers import AutoModelForCausalLM

    output, sharp = tmp_path / "out", tmp_path / "sharp"
    shutil.copytree(model, sharp)
    network = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        network.get_output_embeddings().weight *= 20
    network.save_pretrained(sharp)
    flags = words(synthetic_root, sharp, data, output, "--max_steps", 3, "--per_device_train_batch_size", 2,
                  "--num_generations", 4, "--max_completion_length", 8, "--max_prompt_length", 400, "--use_vllm", "True",
                  "--learning_rate", "0.5", "--weight_decay", "1.0")  # fmt: skip
    at = flags.index("--max_length")
    del flags[at : at + 2]
    done = train("grpo.py", flags, launch=ZERO3, DS_ACCELERATOR="cpu", VLLM_CPU_KVCACHE_SPACE="1")
    assert "Traceback" not in done.stderr and "3 steps of 1 prompts × 4 completions" in done.stdout
    history = [entry for entry in read_json(output / "trainer_state.json")["log_history"] if "reward" in entry]
    ratios = [entry["sampling/importance_sampling_ratio/mean"] for entry in history]
    assert len(ratios) == 3 and ratios == pytest.approx([1] * 3, abs=0.05)
    assert [len(path.read_bytes().splitlines()) for path in (output / "completions").glob("*.jsonl")] == [6, 6]
    short = train("grpo.py", [*flags, "--per_device_train_batch_size", "4", "--vllm_max_model_length", "300"], check=False)
    assert short.returncode == 2 and "expected at least 408" in short.stderr


@pytest.mark.slow
def test_no_patient_text_reaches_a_tracker_or_the_screen(
    synthetic_root: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    """Neither wandb (offline), tensorboard nor the logs hold a line of a record or an answer.

    With --show_sample the text of a sample is on the screen, which wandb would capture by default.
    """
    more = ("--max_steps", 1, "--per_device_train_batch_size", 4)
    env = {"WANDB_DIR": str(tmp_path), "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tb")}
    sft = train(
        "sft.py", words(synthetic_root, model, data, tmp_path / "sft", *more, "--report_to", "wandb", "--show_sample"), **env
    )
    rl = words(synthetic_root, model, data, tmp_path / "rl", *more, "--report_to", "tensorboard",
               "--num_generations", 4, "--max_completion_length", 8,
               "--log_completions", "True")  # fmt: skip
    at = rl.index("--max_length")
    del rl[at : at + 2]
    grpo = train("grpo.py", rl, **env)
    assert "--log_completions is set to False" in grpo.stdout
    assert "## Patient Demographics" in sft.stdout
    text = grpo.stdout + grpo.stderr
    trackers = [path for path in tmp_path.rglob("*") if path.is_file() and ("wandb" in path.parts or "tfevents" in path.name)]
    assert any("wandb" in path.parts for path in trackers) and any("tfevents" in path.name for path in trackers)
    text += "".join(path.read_bytes().decode("latin-1") for path in trackers)
    assert not re.search(r"## (Patient Demographics|Labotary|Prescriptions|Transfers) ?", text)
    with data.open(newline="", encoding="utf-8") as file:
        answers = {name for row in csv.DictReader(file) for name in re.findall(r'"([^"]{8,})"', row["target"])}
    assert answers and not [name for name in answers if name in text]


@pytest.mark.slow
def test_it_memorizes_32_samples(synthetic_root: Path, model: Path, tmp_path: Path) -> None:
    """test.py on the training samples: F1 at least 0.95, every risk answer right."""
    tasks = ("pyxis", "medrecon", "ED_Hospitalization", "ED_Reattendance_3day")
    data = index_of(synthetic_root, tmp_path, *tasks, rows=8, short=True)
    output, answers = tmp_path / "out", tmp_path / "answers"
    flags = words(synthetic_root, model, data, output, "--max_steps", 120, "--per_device_train_batch_size", 16,
                  "--learning_rate", "5e-3", "--load_dataset_mode", "direct", "--max_length", 1200, "--logging_steps", 50,
                  "--lr_scheduler_type", "cosine", "--warmup_ratio", 0.1)  # fmt: skip
    train("sft.py", flags)
    command("test.py", "--root_dir", synthetic_root, "--model_name_or_path", output, "--dataset_name", data,
            "--output_path", answers, "--max_new_tokens", 100, "--max_seq_len", 1300, "--batch", 8)  # fmt: skip
    result = read_json(answers / "result.json")["tasks"]
    assert min(result[task]["f1"] for task in tasks[:2]) >= 0.95
    assert min(result[task]["accuracy"] for task in tasks[2:]) == 1


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_complete_checkpoint(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """A limit on file sizes makes saving fail as a full disk does."""
    output = tmp_path / "out"
    flags = words(synthetic_root, model, data, output, "--per_device_train_batch_size", 8, "--save_strategy", "steps",
                  "--save_steps", 2, "--max_steps", 4)  # fmt: skip
    train("sft.py", flags)
    interrupt(output, 2)
    line = "trap '' XFSZ; ulimit -f 100; exec " + " ".join(
        f"'{word}'" for word in [sys.executable, str(REPO / "sft.py"), *flags]
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=REPO, env={**os.environ, **QUIET})
    assert done.returncode == 2 and "disk error" in done.stderr and "checkpoint-2" in done.stderr, done.stderr[-2000:]
    train("sft.py", flags)
    assert len(losses(output)) == 4


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_resumed(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flags = words(synthetic_root, model, data, output, "--save_strategy", "steps", "--save_steps", 1, "--max_steps", 3)
    train("sft.py", flags)
    for file in ("optimizer.pt", "trainer_state.json"):
        interrupt(output, 2)
        os.truncate(output / "checkpoint-2" / file, 10)
        damaged = train("sft.py", flags, check=False)
        assert damaged.returncode == 2 and "checkpoint-2: expected a complete checkpoint" in damaged.stderr
        shutil.rmtree(output / "checkpoint-2")
        train("sft.py", flags)
        assert len(losses(output)) == 3, "from the checkpoint before"
    assert "is up to date" in train("sft.py", flags).stdout
    interrupt(output, 3)
    for part in (output / "checkpoint-3").glob("rng_state*"):
        part.unlink()
    weights_only = train("sft.py", flags, check=False)
    assert weights_only.returncode == 2 and "--save_only_model" in weights_only.stderr


def test_bad_input_is_reported(
    synthetic_root: Path,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    sft = runpy.run_path(str(REPO / "sft.py"))

    def refused(*more: object, **changes: object) -> str:
        given = {"root": synthetic_root, "model": model, "data": data, "output": tmp_path / "out"} | changes
        monkeypatch.setattr(sys, "argv", ["sft.py", *words(*given.values(), *more)])
        with pytest.raises((UserError, SystemExit)) as error:
            sft["main"](*sft["parse"](sft["__doc__"], sft["SFTArguments"], "SFTConfig"))
        return f"{error.value} {capsys.readouterr().err}"

    missing = tmp_path / "no-column.csv"
    missing.write_text("subject_id,event\n1,emar\n", encoding="utf-8")
    assert "columns" in refused(data=missing)
    assert "none.csv: expected an index CSV or JSONL" in refused(data=tmp_path / "none.csv")
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink()
    assert "expected a model with a chat template" in refused(model=bare)
    assert "--curriculum: expected two files" in refused("--curriculum", "True")
    assert "got third" in refused("--stage", "third")
    assert f"{data}: expected chains in the column reasoning" in refused("--stage", "reasoning")
    assert "unknown flag --epochs" in refused("--epochs", 3)
    assert "got an input" in refused(output=synthetic_root / "patients_ehr")
    assert (synthetic_root / "patients_ehr/provenance.json").exists()
    assert "Did you mean --max_length?" in refused("--max_lenght", 3)
    unknown = tmp_path / "task.csv"
    unknown.write_text(data.read_text(encoding="utf-8").replace(",labevents,", ",labs,"), encoding="utf-8")
    assert f"{unknown}, row 14: expected a task" in refused(data=unknown)
    truncated = tmp_path / "truncated"
    shutil.copytree(model, truncated)
    os.truncate(truncated / "model.safetensors", 1000)
    assert f"{truncated}: " in refused(model=truncated)
    evaluated = command("test.py", "--root_dir", synthetic_root, "--model_name_or_path", truncated, "--dataset_name", data,
                    "--limit", 1, "--output_path", tmp_path / "answers", "--max_new_tokens", 4, "--max_seq_len", 600,
                    check=False)  # fmt: skip
    assert evaluated.returncode == 2 and f"{truncated}: " in evaluated.stderr
    given = ["--model_name_or_path", model, "--dataset_name", data, "--root_dir", synthetic_root,
             "--output_dir", tmp_path / "rl"]  # fmt: skip
    weights = train("grpo.py", [*map(str, given), "--bf16", "False", "--reward_weights", "1"], check=False)
    assert weights.returncode == 2 and "--reward_weights: expected 2" in weights.stderr


def test_help_is_quick_and_lists_our_flags() -> None:
    for script in ("sft.py", "grpo.py"):
        done = command(script, "--help")
        assert "--load_dataset_mode" in done.stdout and "--help_all" in done.stdout


@pytest.mark.slow
def test_stage_two_and_a_curriculum(synthetic_root: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """Chains train think, rows without one no_think; the second source comes in late."""
    chains = index_of(synthetic_root, tmp_path, "prescriptions", rows=12, reasoning=CHAIN)
    flags = words(synthetic_root, model, f"{data},{chains}", tmp_path / "out", "--curriculum", "True",
                  "--per_device_train_batch_size", 4, "--max_steps", 3)  # fmt: skip
    done = train("sft.py", flags)
    assert "mode no_think" in done.stdout
    about = read_json(tmp_path / "out/ehr_training.json")
    assert about["curriculum"] and about["data"]["stage"] == "reasoning" and about["data"]["files"][1][1] == 12
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "stage `reasoning`" in card and "data use agreement" in card
