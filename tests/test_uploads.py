"""Nothing about patients leaves the machine: the Hub, trackers, the model's directory, git."""

from __future__ import annotations

import json
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import REPO, command
from loopback_hub import loopback_hub

from evaluation.training_info import training_warnings, write_patient_list
from pipeline.errors import UserError
from pipeline.files import write_json
from training.arguments import GRPOArguments, SFTArguments
from training.uploads import HubUpload, check_uploads

SECRET, PATIENT = "ZEBRA7731", "98765432"  # in a record and its answer; a subject_id
OF_MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json", "chat_template.jinja"}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows with text, as in a released file, that hold something to recognize."""
    info = {"task": "emar", "event": "emar", "metric": "f1", "target": "x", "label": [SECRET], "subject_id": PATIENT}
    row = {"input": f"## Patient Demographics [None]\n- Gender: {SECRET}", "instruction": f"Which {SECRET}?", "output": SECRET}
    path = tmp_path / f"{SECRET}.jsonl"
    path.write_text("".join(json.dumps({**row, "idx": i, "task_info": info}) + "\n" for i in range(4)), encoding="utf-8")
    return path


def flags(script: str, model: Path, rows: Path, output: Path, *more: object) -> list[object]:
    lengths = {"sft.py": ["--max_length", 300], "grpo.py": ["--max_prompt_length", 300, "--max_completion_length", 4,
                                                            "--num_generations", 2, "--log_completions", True]}  # fmt: skip
    return [script, "--model_name_or_path", model, "--dataset_name", rows, "--root_dir", output.parent, "--output_dir", output,
            "--bf16", False, "--gradient_checkpointing", False, "--max_steps", 1, "--save_steps", 1,
            "--per_device_train_batch_size", 2, *lengths[script], *more]  # fmt: skip


@pytest.mark.parametrize("script", [pytest.param("sft.py", marks=pytest.mark.slow), "grpo.py"])
def test_the_hub_receives_nothing(script: str, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    with loopback_hub() as hub:
        command(*flags(script, tiny_model, rows, tmp_path / "kept"), **hub.environment())
        assert (tmp_path / "kept/model.safetensors").exists() and hub.requests == []
        refused = command(*flags(script, tiny_model, rows, tmp_path / "no", "--push_to_hub"), check=False, **hub.environment())
        assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("error: --push_to_hub: ")
        assert not (tmp_path / "no").exists() and hub.requests == []


@pytest.mark.parametrize("script", ["sft.py", pytest.param("grpo.py", marks=pytest.mark.slow)])
def test_the_hub_receives_the_model_only(script: str, tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    with loopback_hub() as hub:
        upload = ("--push_to_hub", "--allow_upload", "--hub_strategy", "all_checkpoints")
        command(*flags(script, tiny_model, rows, tmp_path / "out", *upload), **hub.environment())
    assert hub.private == {"tester/out": True} and set(hub.files) == OF_MODEL
    assert {path.name for path in (tmp_path / "out").iterdir()} > OF_MODEL | {"arguments.json", "checkpoint-1"}
    assert hub.files["model.safetensors"] == (tmp_path / "out/model.safetensors").read_bytes()
    everything = bytes(hub.received) + b"".join(hub.files.values())
    for text in (SECRET, PATIENT, sha256(PATIENT.encode()).hexdigest()[:16]):
        assert text.encode() not in everything


def test_a_public_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "provenance.json").write_text("x")
    with loopback_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        hub.private["tester/public"] = False
        with pytest.raises(UserError, match="tester/public: expected a private repository"):
            HubUpload("public", token="hf_x").send(tmp_path)
        assert not hub.files
        HubUpload("public", private=False, token="hf_x").send(tmp_path)
        assert hub.files == {"README.md": b"x"}
    with pytest.raises(UserError, match="--push_to_hub: expected to write to a/b/c on the Hub, got: "):
        HubUpload("a/b/c", token="hf_x").open()


def arguments(tmp_path: Path, **more: object):
    from trl import GRPOConfig

    return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **more)


@pytest.mark.parametrize(
    "given",
    [{"push_to_hub": True}, {"hub_model_id": "a/b"}, {"hub_strategy": "end"}, {"hub_always_push": True}, {"hub_token": "hf_x"},
     {"hub_revision": "b"}, {"report_to": "trackio", "trackio_space_id": "a/b"}, {"trackio_static_space_id": "a/b"}],
    ids=lambda given: " ".join(given),
)  # fmt: skip
def test_uploads_must_be_allowed(given: dict[str, object], tmp_path: Path) -> None:
    args = arguments(tmp_path, **given)
    with pytest.raises(UserError, match=f"^--{list(given)[-1]}: .* --allow_upload"):
        check_uploads(args, SFTArguments())
    check_uploads(args, SFTArguments(allow_upload=True))
    upload = HubUpload.from_arguments(args)
    assert upload is None if "push_to_hub" not in given else upload.private


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"report_to": "comet_ml"}, {}, "--report_to: .* got comet_ml"),
        ({"report_to": "clearml"}, {}, "--report_to: .* got clearml"),
        ({"report_to": "wandb"}, {"WANDB_LOG_MODEL": "checkpoint"}, "WANDB_LOG_MODEL: "),
        ({"report_to": "wandb"}, {"WANDB_SAVE_CODE": "true"}, "WANDB_SAVE_CODE: "),
        ({"report_to": "mlflow"}, {"HF_MLFLOW_LOG_ARTIFACTS": "1"}, "HF_MLFLOW_LOG_ARTIFACTS: "),
        ({"log_completions": True, "log_completions_hub_repo": "a/b"}, {}, "--log_completions_hub_repo: "),
        ({"report_to": "trackio"}, {"TRACKIO_SPACE_ID": "a/b"}, "--log_completions_to_tracker: .*TRACKIO_SPACE_ID"),
    ],
)
def test_these_are_never_uploaded(
    given: dict[str, object], environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        check_uploads(arguments(tmp_path, **given), GRPOArguments(allow_upload=True, log_completions_to_tracker=True))


def test_metrics_may_be_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", "false")
    check_uploads(arguments(tmp_path, report_to=["wandb", "tensorboard", "trackio", "mlflow"]), GRPOArguments())
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    check_uploads(arguments(tmp_path, report_to="none"), GRPOArguments())


def test_training_patients_are_listed_beside_the_data(tmp_path: Path) -> None:
    """A model's directory holds a digest of the list; overlap is found through it, for every stage of the training."""
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    lists = [write_patient_list(tmp_path, "stage1", {"1", "2", "3"}), write_patient_list(tmp_path, "stage2", {"9"})]
    assert [recorded["count"] for recorded in lists] == [3, 1]
    for folder, recorded in ((first, lists[:1]), (second, lists)):
        folder.mkdir()
        write_json(folder / "ehr_training.json", {"data": {"instructions_sha256": "i"}, "training_patients": recorded})
    files = sorted(path.name for path in (tmp_path / "patient_data").iterdir())
    assert files == [f"training-stage{i}-{recorded['digest'][:16]}.csv" for i, recorded in enumerate(lists, 1)]

    def warnings(folder: Path, *patients: str, root: Path = tmp_path) -> list[str]:
        return training_warnings(str(folder), "i", False, patients, root)

    assert warnings(first, "4", "5") == [] and warnings(second, "4", "5") == []
    assert "2 of the 3 patients of this evaluation" in warnings(first, "1", "3", "5")[0]
    assert "2 of the 2 patients of this evaluation" in warnings(second, "9", "3")[0]
    (tmp_path / "patient_data" / files[0]).write_text("subject_id\n4\n")  # another list under the same name
    assert len(unchecked := warnings(second, "4", "9")) == 1 and "was not checked" in unchecked[0]
    assert "was not checked" in warnings(first, "1", root=tmp_path / "elsewhere")[0]


def test_git_ignores_every_output() -> None:
    """The default outputs of the commands, and those of the examples in README and docs."""
    texts = [path.read_text(encoding="utf-8") for path in (REPO / "README.md", *(REPO / "docs").glob("*.md"))]
    texts += [path.read_text(encoding="utf-8") for folder in ("scripts", "benchmarks") for path in (REPO / folder).rglob("*.*")
              if path.suffix in (".sh", ".py", ".yaml", ".slurm")]  # fmt: skip
    pattern = r"""(?:--output_path|--output_dir|output_dir:|results=|root=)[ =]?"?((?:\./)?[a-z][\w./-]*)"""
    outputs = {match.removeprefix("./") for text in texts for match in re.findall(pattern, text)}
    assert {"results/risk", "datas", "models/Qwen3-8B-stage2", "meds_labels"} <= outputs
    outputs |= {"trainer_output/checkpoint-1", "wandb/run", "mlruns/1", "emissions.csv", "ehr-train-12.log", "record.md"}
    folders = [output if "." in Path(output).name else f"{output}/x" for output in outputs]
    ignored = subprocess.run(["git", "check-ignore", *folders], cwd=REPO, capture_output=True, text=True).stdout.split()
    assert set(folders) == set(ignored), sorted(set(folders) - set(ignored))
