"""A model, device or server that cannot work fails in one line, before any data are read; Ctrl-C says how to continue."""

from __future__ import annotations

import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, command
from scripted_server import ScriptedServer
from test_bad_input import small_disk
from test_evaluation_cli import flags

from inference import checks
from pipeline.errors import UserError

MAIN = runpy.run_path(str(REPO / "test.py"))["main"]


def refused(model: Path | str, *more: object) -> str:
    """The error of test.py; the data do not exist, so that it comes before they are read."""
    arguments = ("--dataset_name", "no.csv", "--output_path", "no", "--model_name_or_path", model, *more)
    with pytest.raises(UserError) as error:
        MAIN(list(map(str, arguments)))
    assert "\n" not in str(error.value) and "no.csv" not in str(error.value) and not Path("no").exists()
    return str(error.value)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_what_is_no_model(tiny_model: Path, tmp_path: Path) -> None:
    def folder(name: str, *names: str, **texts: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        for file in names:
            shutil.copy(tiny_model / file, path)
        for file, text in texts.items():
            (path / file.replace("_json", ".json").replace("_gguf", ".gguf")).write_text(text, encoding="utf-8")
        return path

    for name in ("/no/such/folder", "./no-such", "a/b/c", "~/models/x", "models/"):
        assert "got no such folder" in refused(name), name
    assert "got no such folder, and the Hub cannot be reached" in refused("someone/some-model")
    assert "got a file" in refused(tiny_model / "config.json")
    assert "got a GGUF file" in refused(folder("file", x_gguf="GGUF") / "x.gguf")
    assert "got GGUF files" in refused(folder("ggufs", x_gguf="GGUF"))
    assert "got a folder without it" in refused(folder("empty"))
    assert "got no weights" in refused(folder("bare", "config.json"))
    adapter = folder("adapter", adapter_config_json=json.dumps({"base_model_name_or_path": "the/base"}))
    assert "Pass it as --lora_path, and the/base as --model_name_or_path" in refused(adapter)
    checkpoints = folder("training")
    shutil.copytree(tiny_model, checkpoints / "checkpoint-7")
    assert f"such as {checkpoints / 'checkpoint-7'}" in refused(checkpoints)
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    shards = folder("shards", "config.json", "model.safetensors")
    (shards / "model.safetensors.index.json").write_text(index)
    assert "got 1 missing" in refused(shards)
    assert "got no such folder" in refused(tiny_model, "--lora_path", tmp_path / "nowhere")
    assert "got a model" in refused(tiny_model, "--lora_path", tiny_model)
    assert "got none. Save the adapter again" in refused(tiny_model, "--lora_path", adapter)


def test_what_is_no_device(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device cuda: expected this GPU, got none" in refused(tiny_model, "--device", "cuda")
    assert "--device: expected cpu, cuda or cuda:N" in refused(tiny_model, "--device", "gpu")
    assert "--dtype: expected one of auto, float32" in refused(tiny_model, "--dtype", "half")
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    monkeypatch.setattr(checks, "vllm_runs_on_cpu", lambda: False)
    assert "--use_vllm: expected a GPU, got none" in refused(tiny_model, "--use_vllm")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "--use_vllm: expected the package vllm" in refused(tiny_model, "--use_vllm")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "expected 3 visible GPUs, got 2" in refused(tiny_model, "--data_parallel_size", 3)


def test_what_is_no_server(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    def error(url: str, *more: object) -> str:
        with pytest.raises(UserError) as error:
            MAIN([str(word) for word in flags(small_root, "m", tmp_path / "out", "--url", url, *more)])
        assert "\n" not in str(error.value) and not (tmp_path / "out/outputs.jsonl").exists()
        return str(error.value)

    assert "expected a server, got no connection" in error("http://127.0.0.1:9/v1", "--chat")
    with ScriptedServer(lambda body, number: {}, models_status=401) as server:
        assert "got HTTP 401: no message. Set a key that the server accepts" in error(server.url, "--chat")
        assert not server.asked
    assert "Pass it as --tokenizer, or add --chat" in error(server.url)
    assert "expected a folder with a tokenizer" in error(server.url, "--tokenizer", small_root)
    record = tmp_path / "record.md"
    record.write_text("## Patient Demographics [None]\n- Gender: F\n", encoding="utf-8")
    question = (record, "--task", "emar", "--model_name_or_path")
    done = command("scripts/infer.py", *question, "m", "--chat", "--url", "http://127.0.0.1:9/v1", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = command("scripts/infer.py", *question, tmp_path / "no", check=False)
    assert done.returncode == 2 and "got no such folder" in done.stderr and done.stderr.count("\n") == 1


def test_an_output_directory_that_is_read_only(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = command("test.py", *flags(small_root, tiny_model, disk / "out"), check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "the directory is read-only" in done.stderr, done.stderr


def test_ctrl_c_is_one_line_that_says_how_to_continue(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda body, number: {"text": "yes", "delay": 60 if number else 0}) as server:
        words = flags(small_root, "m", tmp_path / "out", "--url", server.url, "--tokenizer", tiny_model, "--num_worker", 2)
        script = [sys.executable, str(REPO / "test.py"), *map(str, words)]
        run = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        start = time.monotonic()
        while len(server.asked) < 3 and time.monotonic() - start < 120:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        assert any("a second Ctrl-C ends at once" in line for line in run.stderr)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted. Add --resume to the same command to continue."
    assert len((tmp_path / "out/outputs.jsonl").read_text(encoding="utf-8").splitlines()) == 1
