"""Evaluation during training: held-out loss, the evaluation's metrics, the best checkpoint, early stopping, resuming."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO
from hypothesis import given
from hypothesis import strategies as st
from test_training_cli import interrupt, losses, words
from test_training_samples import index_of

from evaluation.predictions import Prediction
from evaluation.score import score_predictions
from inference.backends import load_tokenizer
from pipeline.errors import UserError
from pipeline.files import read_json, sha256
from training.held_out import SampleMetrics, choose_rows, evaluations_without_improvement, held_out_data, mean_metrics
from training.samples import TokenSamples, TrainingData, evaluation_dataset

TASKS = ("emar", "ED_Hospitalization")


@pytest.fixture(scope="module")
def files(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Index files to train on and to evaluate on: other rows, but for one."""
    paths = []
    for name in ("train", "held_out"):
        folder = tmp_path_factory.mktemp(name)
        path = Path(index_of(small_root, folder, *TASKS, rows=12, short=True))
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        part = [row for number, row in enumerate(rows) if number % 3 != 2] if name == "train" else [*rows[2::3], rows[0]]
        path.write_text(header + "".join(part), encoding="utf-8")
        paths.append(str(path))
    return paths[0], paths[1]


@pytest.fixture
def sft(
    small_root: Path, tiny_model: Path, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """A function that runs sft.py in this process, and returns what it printed."""

    def run(output: Path, *flags: object) -> str:
        given = words(
            small_root, tiny_model, files[0], output, "--max_length", 1500, "--per_device_train_batch_size", 2, *flags
        )
        monkeypatch.setattr(sys, "argv", ["sft.py", *given])
        script = runpy.run_path(str(REPO / "sft.py"))
        capsys.readouterr()
        script["main"](*script["parse"](script["__doc__"], script["SFTArguments"], "SFTConfig"))
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def evaluations(output: Path) -> list[dict]:
    return [entry for entry in read_json(output / "trainer_state.json")["log_history"] if "eval_loss" in entry]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def evaluating(held_out: str, *more: object) -> list[object]:
    return ["--eval_dataset_name", held_out, "--eval_strategy", "steps", "--eval_steps", 1, "--save_strategy", "steps",
            "--save_steps", 1, *more]  # fmt: skip


def test_the_best_checkpoint_is_saved_and_training_stops_early(
    sft: Callable[..., str], files: tuple[str, str], small_root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """With a learning rate so high that the model gets worse; a run that is killed and resumed ends at the same step."""
    output = tmp_path / "out"
    flags = evaluating(files[1], "--load_best_model_at_end", "True", "--early_stopping_patience", 2, "--max_steps", 9,
                       "--learning_rate", 0.3, "--eval_metric_samples", 4, "--eval_max_new_tokens", 4)  # fmt: skip
    printed = sft(output, *flags)
    first = evaluations(output)
    best = min(first, key=lambda entry: entry["eval_loss"])
    last = first[-1]["step"]
    assert last == best["step"] + 2 < 9
    assert f"{last} steps of 2 samples" in printed
    assert f"best at step {best['step']} (eval_loss {best['eval_loss']:.4f})" in printed
    assert "of the evaluation set are in the training data" in printed
    assert weights(output) == weights(output / f"checkpoint-{best['step']}") != weights(output / f"checkpoint-{last}")
    record = read_json(output / "provenance.json")
    assert record["saved_step"] == best["step"] and record["steps"] == last
    assert f"Evaluation set at step {best['step']}" in (output / "README.md").read_text(encoding="utf-8")
    assert all({"eval_f1", "eval_mean_token_accuracy"} <= set(entry) for entry in first)
    assert "is up to date" in sft(output, *flags)

    # The loss is the mean over the answers' tokens, whatever the batches are.
    import torch
    from transformers import AutoModelForCausalLM

    data = TrainingData(small_root, [files[1]], load_tokenizer(str(tiny_model)), 1500)
    samples, model = TokenSamples(data), AutoModelForCausalLM.from_pretrained(output).eval()
    total, tokens = 0.0, 0
    for index in range(len(data)):
        sample = {name: torch.tensor([ids]) for name, ids in samples.sample(index).items()}
        labelled = int((sample["labels"] != -100).sum())
        total, tokens = total + model(**sample).loss.item() * labelled, tokens + labelled
    assert best["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)

    # Killed after the last evaluation, and before the best one.
    for step in (last, best["step"]):
        interrupt(output, step)
        assert f"best at step {best['step']} " in sft(output, *flags)
        assert [entry["eval_loss"] for entry in evaluations(output)] == pytest.approx(
            [e["eval_loss"] for e in first], rel=1e-4
        )
        assert weights(output) == weights(output / f"checkpoint-{best['step']}")
    with pytest.raises(UserError, match="the same eval_metric_samples as when it was made"):
        sft(output, *flags, "--eval_metric_samples", 6)
    interrupt(output, last)
    shutil.rmtree(output / f"checkpoint-{best['step']}")
    with pytest.raises(UserError, match=f"checkpoint-{best['step']}: expected the best checkpoint so far"):
        sft(output, *flags)


def test_a_run_continues_from_a_given_checkpoint_or_is_extended(sft: Callable[..., str], tmp_path: Path) -> None:
    """Losses, mean loss and weights are those of an uninterrupted run."""
    whole, other, longer = tmp_path / "whole", tmp_path / "other", tmp_path / "longer"
    saving = ("--save_strategy", "steps", "--save_steps", 1)
    printed = sft(whole, *saving, "--max_steps", 3)
    expected, mean = losses(whole), printed.rpartition("loss ")[2].split()[0]
    assert float(mean) == pytest.approx(sum(expected) / 3, abs=1e-4)

    def same(output: Path, printed: str) -> None:
        assert losses(output) == pytest.approx(expected, rel=1e-5) and f"loss {mean} " in printed
        assert f"train_loss: {sum(expected) / 3:.4g}" in (output / "README.md").read_text(encoding="utf-8")
        assert weights(output) == weights(whole)

    same(other, sft(other, *saving, "--max_steps", 3, "--resume_from_checkpoint", whole / "checkpoint-1"))
    sft(longer, *saving, "--max_steps", 2)
    same(longer, sft(longer, *saving, "--max_steps", 3))
    assert "is up to date" in sft(longer, *saving, "--max_steps", 3)
    interrupt(longer, 3)
    same(longer, sft(longer, *saving, "--max_steps", 3, "--resume_from_checkpoint", "true")), "no further step"
    for changed in (("--learning_rate", "1e-4"), ("--max_grad_norm", 0.5), ("--lr_scheduler_type", "linear")):
        with pytest.raises(UserError, match=f"the same {changed[0][2:]} as this run, got a checkpoint of another run"):
            sft(tmp_path / "new", *saving, "--max_steps", 3, *changed, "--resume_from_checkpoint", whole / "checkpoint-1")
    with pytest.raises(UserError, match="checkpoint-9: expected a checkpoint with trainer_state.json, got no such directory"):
        sft(other, *saving, "--resume_from_checkpoint", whole / "checkpoint-9")


def test_a_schedule_that_was_stretched_is_recorded(sft: Callable[..., str], tmp_path: Path) -> None:
    linear = ("--save_strategy", "steps", "--save_steps", 1, "--lr_scheduler_type", "linear")
    sft(tmp_path, *linear, "--max_steps", 1)
    printed = sft(tmp_path, *linear, "--max_steps", 2)
    assert "checkpoint-1: the first 1 steps followed the linear schedule of --max_steps 1" in printed
    recorded = read_json(tmp_path / "provenance.json")["settings"]
    assert recorded["earlier_schedules"] == [{"until_step": 1, "max_steps": 1, "num_train_epochs": 3.0}]
    assert "is up to date" in sft(tmp_path, *linear, "--max_steps", 2)
    with pytest.raises(UserError, match="the same max_steps as when it was made"):
        sft(tmp_path, *linear, "--max_steps", 1)


def test_rows_that_are_skipped_lower_no_loss(
    sft: Callable[..., str], files: tuple[str, str], small_root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The template is that of --chat_template_path, in training and in the saved model."""
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}", encoding="utf-8")  # fmt: skip
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    data = TrainingData(small_root, [files[0]], tokenizer, 1500)
    lengths = sorted(len(TokenSamples(data).sample(index)["input_ids"]) for index in range(len(data)))
    for limit in range(lengths[0] - 40, lengths[-1]):
        data.max_tokens = limit
        if 0 < (fitting := sum(data.render(index).fits for index in range(len(data)))) < len(data):
            break
    flags = ("--max_length", limit, "--per_device_train_batch_size", 1, "--max_steps", len(data))
    printed = sft(tmp_path / "out", *flags, "--chat_template_path", template)
    steps = losses(tmp_path / "out")
    assert len(steps) == fitting and f"{len(data) - fitting} rows skipped" in printed
    assert f"loss {sum(steps) / len(steps):.4f} " in printed
    saved = (tmp_path / "out/chat_template.jinja").read_text(encoding="utf-8")
    assert saved == tokenizer.chat_template
    assert read_json(tmp_path / "out/ehr_training.json")["data"]["template_sha256"] == sha256(saved)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval_strategy", "steps"], "--eval_strategy steps: expected an evaluation set, got none"),
        (["--eval_strategy", "epoch"], "--eval_strategy epoch: expected an evaluation set"),
        (["--eval_on_start", "True"], "--eval_on_start: expected an evaluation set"),
        (["--early_stopping_patience", "2"], "--early_stopping_patience: expected an evaluation set"),
        (["--save_strategy", "best"], "expected|must be provided"),
        (["--load_best_model_at_end", "True"], "--load_best_model_at_end: expected an evaluation set"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "expected|requires"),
        (["--eval_dataset_name", "HELD_OUT"], "--eval_dataset_name: expected an --eval_strategy, got no"),
        (["--eval_dataset_name", "none.csv", "--eval_strategy", "steps"], "none.csv: expected an index CSV or JSONL"),
        (["--eval_dataset_name", "HELD_OUT", "--eval_strategy", "steps", "--metric_for_best_model", "bleu"],
         "--metric_for_best_model: expected one of loss, .*, got bleu"),
        (["--eval_dataset_name", "HELD_OUT", "--eval_strategy", "steps", "--metric_for_best_model", "auroc"],
         "--metric_for_best_model: expected one of loss, .*, got auroc"),
        (["--assistant_only_loss", "True"], "--assistant_only_loss: expected the default.*answer only"),
        (["--completion_only_loss", "False"], "--completion_only_loss: expected the default.*--loss_on_prompt"),
        (["--auto_find_batch_size", "True"], "--auto_find_batch_size: expected the default"),
        (["--train_sampling_strategy", "group_by_length"], "--train_sampling_strategy: .*--length_grouping"),
        (["--eos_token", "<nothing>"], "--eos_token: expected a token of the model's vocabulary"),
        (["--chat_template_path", "none.jinja"], "none.jinja: expected a file with a Jinja template"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "command line: One of min_lr or min_lr_rate should be set"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "command line: .*num_decay_steps"),
        (["--optim", "galore_adamw"], "command line: |expected the packages"),
        (["--model_init_kwargs", '{"nothing": 1}'], "command line: .*nothing"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size: expected at least 1, got 0"),
        (["--max_steps", "0"], "--max_steps: expected a positive number"),
        (["--max_length", "3"], "expected a finite loss, got none in 6 steps.*--max_length"),
        (["--early_stopping_patience", "0"], "--early_stopping_patience: expected at least 1, got 0"),
        (["--dataset_weights", "1,2"], "--dataset_weights: expected 1 positive numbers"),
        (["--dataset_weights", "0"], "--dataset_weights: expected 1 positive numbers"),
        (["--dataset_weights", "x"], "--dataset_weights: expected 1 positive numbers"),
        (["--resume_from_checkpoint", "true"], "--resume_from_checkpoint true: expected a checkpoint in"),
        (["--resume_from_checkpoint", "REPO"], "got a directory without it"),
    ],
)  # fmt: skip
def test_flags_that_cannot_work_are_one_line(
    sft: Callable[..., str], files: tuple[str, str], tmp_path: Path, flags: list[str], message: str
) -> None:
    given = [{"HELD_OUT": files[1], "REPO": str(REPO)}.get(flag, flag) for flag in flags]
    with pytest.raises(UserError, match=message) as error:
        sft(tmp_path / "out", *given)
    assert "\n" not in str(error.value)


def test_metrics_of_samples_are_those_of_the_evaluation() -> None:
    """Means over tasks of what evaluation/score.py reports."""
    predictions = [Prediction("emar", ("Aspirin", "Zinc"), str(i), response=reply) for i, reply in enumerate(("Zinc", "no"))]
    predictions += [Prediction("labevents", ("Glucose",), "3", response="Glucose")]
    for i, (label, p_yes) in enumerate((("yes", 0.4), ("no", 0.5), ("no", 0.1), ("yes", 0.9))):
        predictions.append(Prediction("ICU_Stay_7day", (label,), str(i), response="yes", p_yes=p_yes))
    predictions.append(Prediction("ED_Hospitalization", ("yes",), "1", p_yes=0.3, response="no"))  # one label: no AUROC
    tasks = score_predictions(predictions, resamples=10)["tasks"]
    f1 = (tasks["emar"]["f1"] + tasks["labevents"]["f1"]) / 2
    assert mean_metrics(predictions) == pytest.approx({"f1": f1, "auroc": tasks["ICU_Stay_7day"]["auroc"]})


def test_the_answered_samples_are_fixed_and_balanced(small_root: Path, tiny_model: Path, files: tuple[str, str]) -> None:
    data = TrainingData(small_root, [files[0]], load_tokenizer(str(tiny_model)), 1500)
    held_out = held_out_data(files[1], data)
    assert held_out.stage == data.stage and held_out.files != data.files
    rows = choose_rows(held_out, 4)
    assert rows == choose_rows(held_out, 8)[:4] and [held_out.task(row).name for row in rows] == [*TASKS] * 2
    assert len(choose_rows(held_out, 1000)) == len(held_out)
    metrics = SampleMetrics(held_out, 4, 8, 2)
    assert [metrics.prompt(row).scored for row in rows] == [False, True] * 2
    dataset = evaluation_dataset(TokenSamples(held_out), 5)
    labelled = [any(label != -100 for label in sample["labels"]) for sample in dataset]
    assert len(dataset) % 5 == 0 and sum(labelled) == len(held_out), "no sample counts twice"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.booleans())
def test_evaluations_are_counted_since_the_best(values: list[float], greater: bool) -> None:
    best = max(values) if greater else min(values)
    assert evaluations_without_improvement(values, greater) == len(values) - 1 - values.index(best)
