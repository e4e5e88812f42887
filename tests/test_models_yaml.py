"""Short names of models.yaml: each stands for flags, and flags on the command line override them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPO

from inference.settings import InferenceSettings, add_inference_flags, as_json, parse_model, short_names
from pipeline.cli import Parser
from pipeline.errors import UserError


def parsed(*words: str):
    cli = Parser("x")
    add_inference_flags(cli)
    return parse_model(cli, list(words))


def test_a_short_name_stands_for_its_flags(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("local:\n  model_name_or_path: /data/local\n  max_new_tokens: 77\n  batch: 4\n", encoding="utf-8")
    flags = parsed("--models", str(models), "--model_name_or_path", "local", "--batch", "2")
    assert (flags["model_name_or_path"], flags["max_new_tokens"], flags["batch"]) == ("/data/local", 77, 2)
    assert parsed("--models", str(models), "--model_name_or_path", "other/model")["model_name_or_path"] == "other/model"


def test_urls_of_a_short_name_are_replaced_as_a_whole(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("m: {model_name_or_path: x, url: ['http://127.0.0.1:1/v1', 'http://127.0.0.1:2/v1']}", encoding="utf-8")
    words = ("--models", str(models), "--model_name_or_path", "m")
    assert InferenceSettings.from_flags(parsed(*words)).server.urls == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    assert InferenceSettings.from_flags(parsed(*words, "--url", "http://127.0.0.1:3/v1")).server.url == "http://127.0.0.1:3/v1"


@pytest.mark.parametrize(
    ("text", "message"),
    [("m: {model_name_or_path: x, colour: red}", "colour"), ("m: {batch: 2}", "model_name_or_path among them"),
     ("- m", "expected short names"), ("m: [", "expected YAML"), ("m: path", "expected short names")],
)  # fmt: skip
def test_a_wrong_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        parsed("--models", str(models), "--model_name_or_path", "m")


def test_flags_are_the_fields_of_settings() -> None:
    flags = parsed("--model_name_or_path", "m", "--think_prompt", "--url", "http://127.0.0.1:1/v1", "--num_worker", "3")
    settings = InferenceSettings.from_flags(flags)
    assert settings.decoding.max_new_tokens == 4096 and settings.server.num_worker == 3 and settings.backend == "openai"
    values = {name: value for name, value in as_json(settings).items() if name not in ("n", "num_samples")}
    assert values.items() <= (flags | {"url": "http://127.0.0.1:1/v1", "max_new_tokens": 4096}).items()


def test_every_entry_of_the_repository_is_valid() -> None:
    names = short_names(REPO / "models.yaml")
    assert names
    for name, entry in names.items():
        assert parsed("--model_name_or_path", name)["model_name_or_path"] == entry["model_name_or_path"]
