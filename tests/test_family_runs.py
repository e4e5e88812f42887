"""Runs with models of many families: what chat servers are sent, training, and the same results on all backends."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import forked
import pytest
from model_families import FAMILIES, make_model
from scripted_server import ScriptedServer
from served_model import serve

import test as evaluation
from pipeline.files import read_json, read_jsonl


def write_rows(path: Path, number: int = 3) -> Path:
    """A JSONL as released: rows of a decision and of a risk task, by turns."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(2 * number):
            task, label = ("ICU_Mortality_7day", "yes" if i % 4 == 1 else "no") if i % 2 else ("emar", ["Aspirin", "Heparin"])
            kind = "risk_prediction" if i % 2 else "decision_making"
            input_text = (
                f"## Patient Demographics [None]\n- Age: {40 + i}\n\n\n\n## Admissions [2150-01-01 08:00:00]\n- Type: URGENT"
            )
            row = {
                "idx": i, "instruction": f"Question {i % 2}?", "input": input_text,
                "output": label if isinstance(label, str) else "\n".join(label),
                "candidates": ["yes", "no"] if i % 2 else ["Aspirin", "Heparin", "Zinc"],
                "task_info": {"task": task, "metric": "x", "task_type": kind, "label": label},
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def words_of(rows: Path, output: Path, model: Path | str) -> list[object]:
    """Flags of test.py."""
    words = ["--root_dir", rows.parent, "--dataset_name", rows, "--output_path", output, "--model_name_or_path", model]
    return [*words, "--max_new_tokens", 8, "--max_seq_len", 2000, "--resamples", 10]


def lines_of(output: Path) -> list[dict]:
    """The output lines of a run, by sample."""
    return sorted((line for _, line in read_jsonl(output / "outputs.jsonl")), key=lambda line: line["sample_id"])


def run(rows: Path, output: Path, model: Path | str, *flags: str) -> list[dict]:
    """Run test.py; the output lines, by sample."""
    evaluation.main(list(map(str, [*words_of(rows, output, model), *flags])))
    return lines_of(output)


# --- the chat endpoint


def reply(body: dict, number: int) -> dict:
    return {"text": "no", "top": {"yes": -2.0, "no": -1.0}}


@pytest.mark.parametrize(
    ("model", "flags", "off", "on"),
    [
        ("m", [], {"enable_thinking": False, "thinking": False}, {"enable_thinking": True, "thinking": True}),
        ("Qwen/Qwen3-8B", [], {"enable_thinking": False}, {"enable_thinking": True}),
        ("deepseek-v3.1", [], {"thinking": False}, {"thinking": True}),
        ("m", ["--family", "granite"], {"thinking": False}, {"thinking": True}),
        ("baichuan-m2", [], {"thinking_mode": "off"}, {"thinking_mode": "on"}),
        ("llama-3", [], None, None),
    ],
)
def test_thinking_is_switched_at_the_chat_endpoint(
    model: str, flags: list[str], off: dict | None, on: dict | None, rows: Path, tmp_path: Path
) -> None:
    with ScriptedServer(reply) as server:
        for name, mode in (("plain", []), ("think", ["--think_prompt"]), ("direct", ["--think_prompt", "--direct_answer"])):
            run(rows, tmp_path / name, model, "--url", server.url, "--chat", *mode, *flags)
            for _, _, body in server.asked:
                thinking = body["messages"][-1]["content"].endswith("\n/think")
                assert body.get("chat_template_kwargs") == (on if thinking else off)
            server.asked.clear()
    result = read_json(tmp_path / "plain" / "result.json")
    assert result["family"]["thinking_switch"] == {name: [on[name], off[name]] for name in off or {}}
    assert result["family"]["template_date"] == "the server's own"


def test_gpt_oss_reasons_less_at_the_chat_endpoint(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(reply) as server:
        run(rows, tmp_path / "out", "gpt-oss-120b", "--url", server.url, "--chat")
        assert {body["reasoning_effort"] for _, _, body in server.asked} == {"low"}
    assert "always reasons" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["chat_template_kwargs", "enable_thinking"])
def test_a_server_that_refuses_the_switch(named: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(body: dict, number: int) -> dict:
        if "chat_template_kwargs" in body:
            return {"status": 400, "message": f"Unknown argument: {named}"}
        return reply(body, number)

    with ScriptedServer(refuses) as server:
        lines = run(rows, tmp_path / "out", "m", "--url", server.url, "--chat", "--num_worker", "2")
    assert len(lines) == 6 and all(line["outputs"][0]["response"] == "no" for line in lines)
    assert capsys.readouterr().err.count("thinking is not switched") == 1


def test_public_hosts_get_no_field_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import servers
    from inference.backends import load_builder, prompt_warnings
    from inference.settings import InferenceSettings, ModelSettings, ServerSettings

    monkeypatch.setattr(servers, "check_host", lambda url, allow_remote: False)
    server = ServerSettings("https://example.org/v1", chat=True, allow_remote=True)
    settings = InferenceSettings(ModelSettings("qwen3-8b"), server)
    builder = load_builder(settings)
    assert isinstance(json.loads(builder.prompt("R", "I", "think")), list)
    assert "thinking is not switched" in prompt_warnings(settings, builder)[0]
    settings = InferenceSettings(ModelSettings("qwen3-8b", family="qwen3"), server)
    assert load_builder(settings).switches and not prompt_warnings(settings, load_builder(settings))


# --- runs of one process


def test_a_run_is_resumed_with_the_same_family_only(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.errors import UserError

    model = make_model("qwen2.5", tmp_path)
    lines = run(rows, tmp_path / "out", model)
    assert run(rows, tmp_path / "out", model, "--resume", "--family", "qwen2.5") == lines
    with pytest.raises(UserError, match="direct_answer|family"):
        run(rows, tmp_path / "out", model, "--resume", "--family", "ehr-r1-72b")
    assert "family is unknown" not in capsys.readouterr().err
    other = (tmp_path / FAMILIES["qwen2.5"].model).rename(tmp_path / "my-model")
    run(rows, tmp_path / "other", other)
    assert capsys.readouterr().err.count("its family is unknown") == 1


@pytest.mark.slow  # about a minute: two trainers
def test_training_on_a_family_without_system_turn_and_with_its_own_end_token(rows: Path, tmp_path: Path) -> None:
    """The prompts of evaluation are those of training, and the saved model ends turns with the token of its template."""
    from transformers import AutoTokenizer

    for name, end in (("gemma", "<end_of_turn>"), ("glm", "<|endoftext|>")):
        model = make_model(name, tmp_path)
        common = ["--root_dir", tmp_path, "--dataset_name", rows, "--report_to", "none", "--max_steps", 1]
        common += ["--model_name_or_path", model, "--per_device_train_batch_size", 2]
        forked.command("sft.py", *common, "--output_dir", tmp_path / f"sft-{name}", "--max_length", 2000)
        forked.command("grpo.py", *common, "--output_dir", tmp_path / f"rl-{name}", "--num_generations", 2, "--eos_token", end,
                       "--max_completion_length", 8)  # fmt: skip
        for stage in ("sft", "rl"):
            folder = tmp_path / f"{stage}-{name}"
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert tokenizer.eos_token == end
            assert tokenizer.eos_token_id in read_json(folder / "generation_config.json")["eos_token_id"]
            assert read_json(folder / "ehr_training.json")["family"] == "ehr-r1"
        from training.samples import TrainingData

        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"sft-{name}")
        data = TrainingData(tmp_path, [rows], tokenizer, 2000)
        from pipeline.files import sha256

        trained = {sha256(data.render(i).prompt) for i in range(len(data))}
        assert {line["prompt_sha256"] for line in run(rows, tmp_path / f"out-{name}", tmp_path / f"sft-{name}")} == trained


# --- all backends


@pytest.mark.slow  # three starts of vLLM for each family
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_all_backends_agree(name: str, rows: Path, tmp_path: Path) -> None:
    """The same prompts, replies and p(yes) from Transformers, vLLM and a server, with thinking on and off."""
    model = make_model(name, tmp_path)
    runs: dict[tuple[str, str], list[dict]] = {}
    with serve(model, model.name, 2048) as url:
        backends = {"transformers": [], "vllm": ["--use_vllm"], "server": ["--url", url, "--tokenizer", str(model)]}
        for backend, flags in backends.items():
            for mode, thinking in (("plain", []), ("think", ["--think_prompt", "--think_risk"])):
                output, served = tmp_path / f"{backend}-{mode}", model.name if backend == "server" else model
                if backend == "vllm":  # its engine needs a process of its own
                    forked.command("test.py", *words_of(rows, output, served), *flags, *thinking)
                else:
                    run(rows, output, served, *flags, *thinking)
                runs[backend, mode] = lines_of(output)
        if name == "qwen3":
            lines = run(rows, tmp_path / "chat", model.name, "--url", url, "--chat", "--tokenizer", str(model))
            rendered = [line["prompt_tokens"] for line in runs["transformers", "plain"]]
            assert [line["prompt_tokens"] for line in lines] == rendered  # with the empty block, which the switch adds
    for mode in ("plain", "think"):
        for backend in ("vllm", "server"):
            for expected, line in zip(runs["transformers", mode], runs[backend, mode], strict=True):
                assert line["prompt_sha256"] == expected["prompt_sha256"]
                ours, theirs = expected["outputs"][0], line["outputs"][0]
                texts = [reply["response"].replace("\N{REPLACEMENT CHARACTER}", "") for reply in (theirs, ours)]
                assert texts[0] == texts[1], (mode, backend)  # a server leaves out characters that are not complete
                assert theirs["p_yes"] == pytest.approx(ours["p_yes"], abs=1e-4)
