"""Our versions of the trainers of TRL, and the arguments they are given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training_samples import index_of

from inference.backends import load_tokenizer
from pipeline.digests import digest_lines
from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.provenance import Provenance
from training import runs
from training.arguments import SFTArguments
from training.checkpoints import Start, check_base_weights
from training.overrides import apply_overrides, trainer_options, usable_attention, vllm_model_length
from training.samples import TrainingData


def test_only_labelled_tokens_are_projected(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked prompt costs nothing in the head, on a CPU too; the loss is that of the plain model."""
    import trl.trainer.utils as utils
    from transformers import AutoModelForCausalLM

    import training.trainer  # noqa: F401, what is tested

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.randint(0, 500, (2, 40))
    labels = ids.clone()
    labels[0, :37], labels[1, :38] = -100, -100
    plain = model(input_ids=ids, labels=labels).loss
    utils.add_fused_lm_head(model)
    projected = []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction, "apply", lambda hidden, *rest: projected.append(len(hidden)) or apply(hidden, *rest)
    )
    loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    assert projected == [3 + 2]
    torch.testing.assert_close(loss, plain)


def test_missing_vllm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOConfig

    monkeypatch.setattr("training.overrides.find_spec", lambda name: None)
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, use_vllm=True)
    with pytest.raises(UserError, match="the package vllm.*requirements.txt"):
        vllm_model_length(args, 400)


def test_overrides_copy_the_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmful and impossible values are replaced in a copy and noted; the trainer gets prepared samples untouched."""
    from trl import ModelConfig, SFTConfig

    given = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, packing=True, ignore_data_skip=True, use_liger_kernel=True,
        per_device_train_batch_size=8, accelerator_config={"split_batches": True, "dispatch_batches": True},
    )  # fmt: skip
    before = given.to_dict() | {"accelerator_config": given.accelerator_config.to_dict()}
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    args, _, notes = apply_overrides(given, SFTArguments(), ModelConfig(), ["first"])
    assert before == given.to_dict() | {"accelerator_config": given.accelerator_config.to_dict()}
    assert args.per_device_train_batch_size == 4 and args.packing and args.max_length == given.max_length
    assert not (args.ignore_data_skip or args.use_liger_kernel or args.accelerator_config.split_batches)
    assert notes[0] == "first" and len(notes) == 5
    options = trainer_options(args, ModelConfig(model_name_or_path="m", dtype="float32"), tokenizer=None)
    assert options["model"] == "m" and options["args"].model_init_kwargs["dtype"] == "float32"
    assert options["args"].padding_free and not options["args"].packing and options["args"].max_length is None
    assert args.packing, "packing is recorded as given"
    monkeypatch.setattr(SFTConfig, "world_size", 3)
    with pytest.raises(UserError, match="--per_device_train_batch_size.*multiple of the 3 processes"):
        apply_overrides(given, SFTArguments(), ModelConfig(), [])


@pytest.mark.parametrize("attention", ["flex_attention", "sdpa", None])
def test_packing_on_a_gpu_needs_an_attention_that_separates_samples(
    attention: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import ModelConfig, SFTConfig

    given = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, packing=True)
    monkeypatch.setattr(SFTConfig, "device", torch.device("cuda"))
    args, _, notes = apply_overrides(given, SFTArguments(), ModelConfig(attn_implementation=attention), [])
    separates = attention == "flex_attention"
    assert args.packing == separates and len(notes) == (not separates)


@pytest.fixture(scope="module")
def start(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Start | None]:
    """A function that claims an output directory for a run on four rows, with changed arguments, data or model."""
    from trl import ModelConfig, SFTConfig

    data = index_of(small_root, tmp_path_factory.mktemp("data"), "emar", rows=4)

    def claim_run(output: Path, root: Path = small_root, file: str = data, model: Path = tiny_model, overwrite: bool = False,
                  lora_r: int = 16, **changes: object) -> Start | None:  # fmt: skip
        args = SFTConfig(**{"output_dir": str(output), "use_cpu": True, "bf16": False, "max_length": 4096, **changes})
        script_args, model_args = SFTArguments(overwrite=overwrite), ModelConfig(model_name_or_path=str(model), lora_r=lora_r)
        rows = TrainingData(root, [file], load_tokenizer(str(model)), args.max_length)
        return runs.claim("sft.py", script_args, args, model_args, rows, 8)

    return claim_run


@pytest.fixture
def run(start: Callable[..., Start | None]) -> Callable[..., Provenance | None]:
    """As `start`, but returns the record of the run only."""

    def record(*args: object, **changes: object) -> Provenance | None:
        claimed = start(*args, **changes)
        return claimed and claimed.provenance

    return record


def finish(provenance: Provenance) -> None:
    """Write what a finished run leaves."""
    for name in ("model.safetensors", "config.json", "README.md"):
        (provenance.output / name).write_text("{}")
    write_json(provenance.output / "ehr_training.json", {})
    args = SimpleNamespace(load_best_model_at_end=False)
    runs.complete(provenance, SimpleNamespace(state=SimpleNamespace(global_step=3), args=args))


CHANGES = {
    "learning_rate": 1.0, "optim": "sgd", "lr_scheduler_type": "cosine", "max_grad_norm": 0.5, "weight_decay": 0.1, "seed": 1,
    "bf16": None, "packing": True, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "lr_scheduler_kwargs": {"num_cycles": 2},
    "optim_args": "momentum=0.5", "max_steps": 5, "num_train_epochs": 2.0, "warmup_steps": 3, "label_smoothing_factor": 0.1,
    "lora_r": 4, "max_length": 300, "loss_type": "dft",
}  # fmt: skip


def test_a_finished_model_is_not_overwritten(run: Callable, tmp_path: Path) -> None:
    """The same run is up to date; one with any other setting that decides the result is refused unless --overwrite."""
    finish(run(tmp_path))
    before = (tmp_path / "provenance.json").read_bytes()
    (tmp_path / "README.md").write_text("edited by hand")
    assert run(tmp_path) is None and (tmp_path / "provenance.json").read_bytes() == before
    assert run(tmp_path, logging_steps=1, per_device_train_batch_size=1, save_steps=7, report_to="tensorboard") is None
    for name, value in CHANGES.items():
        expected = "max_tokens" if name == "max_length" else name
        with pytest.raises(UserError, match=f"the same {expected}[^:]* as when it was made.*--overwrite"):
            run(tmp_path, **{name: value})
    (tmp_path / "model.safetensors").write_text("[]")
    with pytest.raises(UserError, match="model.safetensors with another content"):
        run(tmp_path)
    assert run(tmp_path, learning_rate=1.0, overwrite=True) is not None and not (tmp_path / "model.safetensors").exists()


def saved_checkpoint(output: Path, step: int) -> Path:
    """Write what a checkpoint holds, by name."""
    checkpoint = output / f"checkpoint-{step}"
    (checkpoint / "global_step2").mkdir(parents=True)
    for name in ("trainer_state.json", "rng_state.pth", "optimizer.pt", "model.safetensors", "global_step2/optim_states.pt"):
        (checkpoint / name).write_text("{}")
    return checkpoint


OWN_FILES = (
    "NOTES.md", "eval/outputs.jsonl", "checkpoint-best/model.safetensors", "checkpoint-2/eval/result.json", "runs/notes.txt",
    "completions/marked.csv", "plots.png", "latest/link.txt",
)  # fmt: skip
TRAINING_FILES = (
    "tokenizer.json", "arguments.json", "training_args.bin", "trainer_state.json", "completions/rank-0.jsonl",
    "completions/.rank-0.jsonl.lock", "completions/completions_00001.parquet",
    "runs/Nov26_host/events.out.tfevents.1", "model-00001-of-00002.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
def test_overwrite_removes_only_what_training_wrote(run: Callable, tmp_path: Path, finished: bool) -> None:
    """Files of others stay, wherever they are; of training nothing stays but a new record."""
    provenance = run(tmp_path)
    saved_checkpoint(tmp_path, 2)
    saved_checkpoint(tmp_path, 10)
    for name in (*TRAINING_FILES, *OWN_FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    if finished:
        finish(provenance)
    assert run(tmp_path, learning_rate=1.0, overwrite=True) is not None
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*OWN_FILES, "provenance.json"} and all((tmp_path / name).read_text() == name for name in OWN_FILES)
    assert not (tmp_path / "checkpoint-10").exists() and not (tmp_path / "runs/Nov26_host").exists()


def test_overwrite_removes_no_model_that_is_trained_on(run: Callable, tiny_model: Path, tmp_path: Path) -> None:
    """A checkpoint of the output directory cannot be the model of a new run there."""
    run(tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoint-2"
    shutil.copytree(tiny_model, checkpoint)
    for name in ("trainer_state.json", "rng_state.pth"):
        (checkpoint / name).write_text("{}")
    with pytest.raises(UserError, match="got an input there .*checkpoint-2.*Choose another --output_dir"):
        run(tmp_path / "run", model=checkpoint, overwrite=True)
    assert (checkpoint / "model.safetensors").exists()


def test_a_killed_overwrite_is_finished_by_the_next_run(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run(tmp_path))
    (tmp_path / "NOTES.md").touch()
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions/rank-0.jsonl").touch()

    def killed(folder: Path, paths: list[Path]) -> None:
        (folder / "model.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.provenance.remove_paths", killed)
        run(tmp_path, learning_rate=1.0, overwrite=True)
    assert run(tmp_path, learning_rate=1.0) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NOTES.md", "provenance.json"]


def test_a_run_knows_its_inputs_by_content(run: Callable, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    """One changed row, code map, trajectory or file of the model is noticed."""
    root, model, output = tmp_path / "root", tmp_path / "model", tmp_path / "out"
    shutil.copytree(small_root, root)
    shutil.copytree(tiny_model, model)
    file = index_of(root, tmp_path, "emar", rows=4)
    given = {"root": root, "file": file, "model": model}
    finish(run(output, **given))
    assert run(output, **given) is None

    def refused(path: Path, name: str, text: str | None = None) -> None:
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((before or b"") + b"\n") if text is None else path.write_text(text)
        with pytest.raises(UserError, match=f"the same .*{name}"):
            run(output, **given)
        path.unlink() if before is None else path.write_bytes(before)
        assert run(output, **given) is None

    rows = Path(file).read_text(encoding="utf-8")
    refused(Path(file), "data/1", rows[: rows.rindex("\n", 0, -1) + 1])
    refused(root / "index_mapping/hosp/ccs_dx.csv", "index_mapping", "code,label\n")
    refused(model / "generation_config.json", "model")
    record = root / "patients_ehr/provenance.json"
    refused(record, "trajectories", json.dumps(read_json(record) | {"digest": "x"}))


def test_an_output_without_weights_or_checkpoints_is_free(run: Callable, tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "arguments.json").write_text("{}")
    assert run(tmp_path, learning_rate=1.0) is not None
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    for name in ("trainer_state.json", "rng_state.pth"):
        (checkpoint / name).write_text("{}")
    assert run(tmp_path, learning_rate=1.0) is not None, "resumed"
    with pytest.raises(UserError, match="the same learning_rate as when it was begun.*--output_dir"):
        run(tmp_path)
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(UserError, match="expected a record of sft.py, got files without a record"):
        run(tmp_path)


def test_which_checkpoint_a_run_continues_from(start: Callable, run: Callable, tmp_path: Path) -> None:
    """The last one, or as --resume_from_checkpoint says; never one that --overwrite removes, or that was saved otherwise."""
    output = tmp_path / "out"
    run(output)
    checkpoints = [saved_checkpoint(output, step) for step in (2, 10)]
    with pytest.raises(UserError, match="checkpoint-10: expected optimizer state without DeepSpeed, got .* of DeepSpeed"):
        run(output)
    for checkpoint in checkpoints:
        shutil.rmtree(checkpoint / "global_step2")
    for flag, step in ((None, 10), ("True", 10), ("true", 10), (str(checkpoints[0]), 2)):
        assert start(output, resume_from_checkpoint=flag).checkpoint == output / f"checkpoint-{step}"
    with pytest.raises(UserError, match="false: expected no checkpoint in .*, got checkpoint-10. Add --overwrite"):
        run(output, resume_from_checkpoint="false")
    with pytest.raises(UserError, match="expected a checkpoint outside of --output_dir, because of --overwrite"):
        run(output, resume_from_checkpoint=str(checkpoints[0]), overwrite=True)
    with pytest.raises(UserError, match="same seed as this run, got a checkpoint of another run"):
        run(tmp_path / "other", resume_from_checkpoint=str(checkpoints[0]), seed=1)
    (checkpoints[0] / "rng_state.pth").unlink()
    with pytest.raises(UserError, match="checkpoint-2: expected optimizer state, got a checkpoint of --save_only_model"):
        run(output, resume_from_checkpoint=str(checkpoints[0]))
    shutil.copytree(checkpoints[1], tmp_path / "lost/checkpoint-10")
    with pytest.raises(UserError, match="expected a checkpoint beside the record of its run"):
        run(output, resume_from_checkpoint=str(tmp_path / "lost/checkpoint-10"))
    run(output, overwrite=True, resume_from_checkpoint="true")
    assert not checkpoints[1].exists()


def test_a_model_folder_is_described(run: Callable, small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = SimpleNamespace(root_dir=tmp_path, patients=lambda: {"1", "2"})
    runs.describe_training(tmp_path, {"model": str(tiny_model), "learning_rate": 2.0}, data)
    info = read_json(tmp_path / "ehr_training.json")
    assert info["learning_rate"] == 2.0 and "data use agreement" in info["data_use"]
    assert info["training_patients"] == [{"digest": digest_lines(["1", "2"]), "count": 2}]


def test_a_directory_that_is_no_model_is_reported(tiny_model: Path, tmp_path: Path) -> None:
    """Before data are read: no directory, a file, an adapter, no weights."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a model folder or Hub id, got a file"):
        runs.check_model(str(tmp_path / "file"))
    for name in (tmp_path / "none", "./models/none", "a/b/c"):
        with pytest.raises(UserError, match="expected a directory with a model, or a Hub id, got neither"):
            runs.check_model(str(name))
    (tmp_path / "config.json").touch()
    with pytest.raises(UserError, match="expected weights"):
        runs.check_model(str(tmp_path))
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UserError, match="expected a whole model, got an adapter"):
        runs.check_model(str(tmp_path))
    runs.check_model(str(tiny_model))
    runs.check_model("Qwen/Qwen3-1.7B")


def small_model(folder: Path, tied: bool) -> Path:
    """A model in several files, without a tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lost", [None, "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_model_without_some_weights_is_not_trained(tmp_path: Path, tied: bool, lost: str | None) -> None:
    """Transformers would initialise them with random numbers. An output layer that shares its weights is not saved."""
    from safetensors.torch import load_file, save_file

    model, args = small_model(tmp_path / "model", tied), SimpleNamespace(deepspeed_plugin=None)
    for file in model.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: value for name, value in weights.items() if name != lost}, file, metadata={"format": "pt"})
    if lost is None or (tied and lost == "lm_head.weight"):
        return check_base_weights(str(model), None, args)
    with pytest.raises(UserError, match=f"expected all weights .* without 1 of them, such as {lost}"):
        check_base_weights(str(model), None, args)


def test_weights_are_checked_before_an_output_is_trained(run: Callable, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "provenance.json").unlink(missing_ok=True)  # else its digests are checked
    with pytest.raises(UserError, match=r"model: expected all weights .* such as model\.layers\.0\.self_attn\.q_proj\.weight"):
        run(tmp_path / "out", model=model)


def test_weights_are_checked_under_zero3_and_not_if_they_are_quantised(tmp_path: Path) -> None:
    """The configuration of DeepSpeed is in effect again after the check."""
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    model = small_model(tmp_path / "model", tied=True)
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    of_launcher = {"deepspeed_plugin": SimpleNamespace(dschf=config)}
    for arguments in (of_launcher, {"deepspeed_plugin": None, "hf_deepspeed_config": config}):
        check_base_weights(str(model), None, SimpleNamespace(**arguments))
        assert is_deepspeed_zero3_enabled()
    settings = read_json(model / "config.json") | {"quantization_config": {"quant_method": "fp8"}}
    write_json(model / "config.json", settings)
    check_base_weights(str(model), None, SimpleNamespace(**arguments))


def test_errors_of_a_trainer_are_told_apart() -> None:
    for error, message in (
        (ImportError("needs `deepspeed`"), "expected the packages that model and flags need, got: needs `deepspeed`"),
        (ValueError("fp16 needs a GPU.\nMore"), "command line: fp16 needs a GPU"),
        (OSError("no file named model.safetensors"), "^m: expected a model"),
    ):
        with pytest.raises(UserError, match=message), runs.constructing_trainer("m"):
            raise error


def test_a_truncated_state_of_a_checkpoint_is_reported(tmp_path: Path) -> None:
    def read_state(resume_from_checkpoint: str) -> None:
        json.loads('{"global_step": 1')

    trainer = SimpleNamespace(train=read_state, args=SimpleNamespace())
    with pytest.raises(UserError, match="checkpoint-1: expected a complete checkpoint.*Remove it"):
        runs.train(trainer, tmp_path / "checkpoint-1")


def test_attention_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, and on one without the packages, PyTorch's attention is used: one that separates packed samples."""
    import transformers.modeling_flash_attention_utils as utils

    assert usable_attention("kernels-community/flash-attn2", on_gpu=False) == ("sdpa", "flash attention needs a GPU")
    for name in (None, "sdpa", "eager", "flex_attention"):
        assert usable_attention(name, on_gpu=True) == (name, None)
    monkeypatch.setattr("transformers.integrations.hub_kernels.is_kernels_available", lambda: False)
    for packing in (False, True):
        attention, reason = usable_attention("kernels-community/flash-attn2", on_gpu=True, packing=packing)
        assert attention == ("flex_attention" if packing else "sdpa") and "kernels" in reason
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda name: None)
    assert usable_attention("kernels-community/flash-attn2", on_gpu=True) == ("kernels-community/flash-attn2", None)
