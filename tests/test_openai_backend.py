"""Evaluation through an OpenAI-compatible server: what is sent, what is read, and a real vLLM server on loopback."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from math import log
from pathlib import Path

import pytest
from forked import command
from scripted_server import ScriptedServer
from test_evaluation_cli import flags
from test_evaluation_cli import lines as lines_by_key

from pipeline.files import read_json


def words_of(root: Path, model: Path | str, output: Path, *more: object) -> list[object]:
    """test.py's flags: 20 samples of a decision task and 4 of a risk task."""
    index = root / "task_index/all"
    names = f"{index / 'emar.csv'},{index / 'LengthOfStay_3day.csv'}"
    return [*flags(root, model, output), "--dataset_name", names, "--limit", 24, *more]


def lines(folder: Path) -> list[dict]:
    return list(lines_by_key(folder).values())


def text_of(body: dict, tokenizer) -> str:
    return tokenizer.decode(body["prompt"])


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path):
    from inference.backends import load_tokenizer

    return load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def local(small_root: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples by the Transformers backend."""
    output = tmp_path_factory.mktemp("local") / "out"
    command("test.py", *words_of(small_root, tiny_model, output))
    return output


def test_a_server_reads_the_same_prompts(small_root: Path, tiny_model: Path, tokenizer, local: Path, tmp_path: Path) -> None:
    """Token ids of the very prompts that the other backends read; risk rows ask for log-probabilities."""
    from pipeline.files import sha256

    top = {" yes": log(0.3), "Yes": log(0.1), "no": log(0.2), "The": log(0.1)}
    with ScriptedServer(lambda body, number: {"text": "1. Aspirin\n2. Heparin", "top": top}) as server:
        done = command("test.py", *words_of(small_root, tiny_model, tmp_path / "out", "--url", server.url))
    ours, theirs = lines(tmp_path / "out"), lines(local)
    assert {line["prompt_sha256"] for line in ours} == {line["prompt_sha256"] for line in theirs}
    sent = {sha256(text_of(body, tokenizer)): body for _, _, body in server.asked}
    assert len(ours) == len(theirs) == len(server.asked) == 24
    assert set(sent) == {line["prompt_sha256"] for line in ours}
    kinds = {line["task_info"]["task_type"] for line in ours}
    assert kinds == {"decision", "risk"}
    for line in ours:
        body, output = sent[line["prompt_sha256"]], line["outputs"][0]
        assert body["temperature"] == 0 and body["model"] == str(tiny_model)
        if line["task_info"]["task_type"] == "risk":
            assert output["p_yes"] == pytest.approx(0.4 / 0.6) and body["max_tokens"] == 1
        else:
            assert output["items"] == ["Aspirin", "Heparin"] and body["max_tokens"] == 8 and output["p_yes"] is None
    assert "24 samples answered" in done.stdout


def test_an_answer_goes_to_disk_as_it_comes_and_the_rest_is_resumed(
    small_root: Path, tiny_model: Path, tmp_path: Path
) -> None:
    broken = True

    def script(body: dict, number: int) -> dict:
        return (
            {"status": 400, "message": "no room"} if broken and number % 3 == 0 else {"text": "Aspirin", "top": {"yes": -1.0}}
        )

    with ScriptedServer(script) as server:
        words = words_of(small_root, tiny_model, tmp_path / "out", "--url", server.url)
        done = command("test.py", *words, check=False)
        assert done.returncode == 1 and "no reply to 8 samples: HTTP 400: no room; --resume asks" in done.stderr
        assert len(lines(tmp_path / "out")) == 16 and not (tmp_path / "out/result.json").exists()
        broken = False
        command("test.py", *words, "--resume")
    keys = [line["key"] for line in lines(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 24 and read_json(tmp_path / "out/result.json")["missing"] == 0
    assert len(server.asked) == 24 + 8


def test_hosted_models_by_the_chat_endpoint(small_root: Path, tmp_path: Path) -> None:
    """Messages, no tokenizer; a model that gives no log-probabilities is read by its words, reasoning apart."""

    def script(body: dict, number: int) -> dict:
        if body.get("logprobs"):
            return {"status": 400, "message": "logprobs are not supported by this model"}
        return {"text": "**Yes**", "reasoning": "no sign of it"}

    with ScriptedServer(script) as server:
        words = words_of(small_root, "hosted-model", tmp_path / "out", "--chat", "--url", server.url)
        command("test.py", *words)
    for line in lines(tmp_path / "out"):
        output = line["outputs"][0]
        assert output["response"] == "<think>\nno sign of it\n</think>\n\n**Yes**" and output["items"] == ["Yes"]
        if line["task_info"]["task_type"] == "risk":
            assert output["p_yes"] is None and line["score"] == (line["task_info"]["label"] == "yes")
    bodies = [body for _, path, body in server.asked if path.endswith("/chat/completions")]
    assert bodies and all([turn["role"] for turn in body["messages"]] == ["system", "user"] for body in bodies)
    risk = read_json(tmp_path / "out/result.json")["tasks"]["LengthOfStay_3day"]
    assert risk["auroc"] is None and risk["accuracy"] is not None


@pytest.fixture
def chat_backend():
    """A function that answers yes/no queries through the chat endpoint of a server."""
    from inference.backends import Query
    from inference.openai_backend import OpenAIBackend
    from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, ServerSettings

    def answer(server: ScriptedServer, number: int, num_worker: int = 8) -> list:
        settings = ServerSettings(server.url, chat=True, num_worker=num_worker)
        backend = OpenAIBackend(InferenceSettings(ModelSettings("m"), settings, decoding=DecodingSettings(8)))
        prompts = [json.dumps([{"role": "user", "content": f"question {i}"}]) for i in range(number)]
        replies = dict(backend.answer(Query(prompt, score=True) for prompt in prompts))
        backend.close()
        return [replies[i] for i in range(number)]

    return answer


def test_one_refusal_of_log_probabilities_is_of_one_prompt_only(chat_backend) -> None:
    def script(body: dict, number: int) -> dict:
        if body.get("logprobs") and body["messages"][0]["content"] == "question 5":
            return {"status": 400, "message": "logprobs are unavailable for this input"}
        return {"text": "no", "top": {"yes": log(0.7), "no": log(0.3)}}

    with ScriptedServer(script) as server:
        replies = chat_backend(server, 30, num_worker=1)
    assert [i for i, reply in enumerate(replies) if reply.p_yes is None] == [5]


def test_a_server_without_log_probabilities_is_not_asked_for_them_for_ever(chat_backend) -> None:
    def script(body: dict, number: int) -> dict:
        if body.get("logprobs"):
            return {"status": 400, "message": "logprobs are not supported by this model"}
        return {"text": "Yes"}

    with ScriptedServer(script) as server:
        replies = chat_backend(server, 60, num_worker=32)  # more at once than failures end a run
    assert all(reply.error is None and reply.text == "Yes" and reply.p_yes is None for reply in replies)
    assert sum("logprobs" in body for _, _, body in server.asked) <= 40


def test_log_probabilities_of_the_chat_endpoint(small_root: Path, tmp_path: Path) -> None:
    top = {"No": log(0.6), " yes": log(0.2), "Well": log(0.1)}
    with ScriptedServer(lambda body, number: {"text": "No", "top": top}) as server:
        words = words_of(small_root, "hosted-model", tmp_path / "out", "--chat", "--url", server.url)
        command("test.py", *words)
    found = {line["outputs"][0]["p_yes"] for line in lines(tmp_path / "out") if line["task_info"]["task_type"] == "risk"}
    assert [round(p, 6) for p in found] == [0.25]


def test_p_yes_is_computed_after_the_reasoning_and_prompts_are_drawn_as_they_are_sent(tiny_model: Path, tokenizer) -> None:
    from inference.generation import Prompt, replies
    from inference.openai_backend import OpenAIBackend
    from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, ServerSettings

    drawn: list[int] = []

    def prompts():
        for number in range(12):
            drawn.append(number)
            yield Prompt(str(number), f"prompt {number}:", scored_after_reasoning=True)

    def script(body: dict, number: int) -> dict:
        prompt = text_of(body, tokenizer)
        if body["max_tokens"] > 1:
            return {"text": f"Old <{prompt}>.</think>yes"}
        return {"status": 400} if "prompt 7:" in prompt else {"top": {"yes": log(0.7), "no": log(0.3)}}

    with ScriptedServer(script) as server:
        settings = InferenceSettings(
            ModelSettings(str(tiny_model)), ServerSettings(server.url, num_worker=2), decoding=DecodingSettings(8)
        )
        stream = replies(prompts(), OpenAIBackend(settings))
        first = next(stream)
        assert len(drawn) <= 4, "not all at once"
        found = {int(prompt.key): (prompt, reply) for prompt, reply in [first, *stream]}
    assert sorted(found) == list(range(12)) == sorted(drawn)
    scored = [text_of(body, tokenizer) for _, _, body in server.asked if body["max_tokens"] == 1]
    assert len(scored) == 12 and all(text.endswith("</think>\n\n") for text in scored)
    for number, (prompt, reply) in found.items():
        assert f"<{prompt.text}>" in reply.text
        assert (reply.error is None) == (number != 7) and reply.p_yes == (None if number == 7 else pytest.approx(0.7))


def test_records_are_cut_to_length_without_a_tokenizer(small_root: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda body, number: {"text": "yes"}) as server:
        words = words_of(small_root, "m", tmp_path / "out", "--chat", "--url", server.url, "--max_seq_len", 160)
        command("test.py", *words)
    assert any(line["truncated"] for line in lines(tmp_path / "out"))
    assert all(len(json.dumps(body["messages"], ensure_ascii=False)) <= 480 for _, _, body in server.asked)


def test_wrong_use_is_said(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    def refused(*more: object) -> str:
        done = command("test.py", *words_of(small_root, tiny_model, tmp_path / "out", *more), check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    local = "http://127.0.0.1:9/v1"
    assert "--allow_remote" in refused("--url", "https://1.1.1.1/v1")
    assert "expected --url with them" in refused("--chat")
    assert "got both" in refused("--use_vllm", "--url", local)
    assert "nor --url" in refused("--url", local, "--data_parallel_size", 2)
    assert "--num_worker: expected" in refused("--url", local, "--num_worker", 0)
    assert "expected no adapter with --url" in refused("--url", local, "--lora_path", "x")
    assert "got --chat" in refused("--url", local, "--chat", "--oracle_reasoning")


def test_infer_asks_a_server(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "record.md").write_text("## Patient Demographics [None]\n- Gender: F\n", encoding="utf-8")
    with ScriptedServer(lambda body, number: {"text": "Aspirin", "top": {"yes": log(0.9), "no": log(0.1)}}) as server:
        words = (tmp_path / "record.md", "--model_name_or_path", tiny_model, "--url", server.url)
        assert command("scripts/infer.py", *words, "--task", "emar").stdout == "Aspirin\n"
        assert "p(yes) = 0.9000" in command("scripts/infer.py", *words, "--task", "Inpatient_Mortality").stdout


# --- sampling settings of a model on a server

NEUTRAL = {
    "repetition_penalty": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip


@pytest.fixture
def asked(tiny_model: Path):
    """A function that sends 12 queries, every other one to be scored: replies, and the bodies that the server got."""
    from inference.backends import Query, load_backend
    from inference.settings import DecodingSettings, InferenceSettings, ModelSettings, ServerSettings

    def send(script, chat: bool = False, **model: bool) -> tuple[list, list[dict]]:
        with ScriptedServer(script) as server:
            served = ServerSettings(server.url, chat=chat, num_worker=4)
            name = "m" if chat else str(tiny_model)
            backend = load_backend(InferenceSettings(ModelSettings(name, **model), served, decoding=DecodingSettings(8, 1.0)))
            texts = [json.dumps([{"role": "user", "content": f"question {i}"}]) for i in range(6)]
            queries = [Query(text, score, sample=i % 2) for i, text in enumerate(texts) for score in (True, False)]
            replies = dict(backend.answer(queries))
            backend.close()
        return [replies[i] for i in range(12)], [body for _, _, body in server.asked]

    return send


def yes(body: dict, number: int) -> dict:
    return {"text": "yes", "top": {"yes": log(0.7), "no": log(0.3)}}


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_is_asked_for_neutral_sampling(asked, chat: bool) -> None:
    replies, bodies = asked(yes, chat)
    assert len(bodies) == 12 and all(NEUTRAL.items() <= body.items() for body in bodies)
    assert {(reply.prompt_tokens, reply.completion_tokens) for reply in replies} == {(10, 2)}
    assert len({body["seed"] for body in bodies if "seed" in body}) == 6, "one for each prompt and number of a reply"
    _, bodies = asked(yes, chat, model_sampling=True)
    assert not any(NEUTRAL.keys() & body.keys() for body in bodies)


def test_hosted_models_are_not_sent_fields_of_vllm(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import servers

    monkeypatch.setattr(servers, "check_host", lambda *_: False)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert not any(NEUTRAL.keys() & body.keys() for body in asked(yes, chat=True)[1])


def test_fields_that_a_server_refuses_are_left_out_with_one_warning_each(asked, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = ("min_p", "repetition_penalty", "logprob_token_ids", "return_tokens_as_token_ids", "stop_token_ids")

    def strict(body: dict, number: int) -> dict:
        refused = [name for name in unknown if name in body]
        return {"status": 400, "message": f"Extra inputs are not permitted: {refused[0]}"} if refused else yes(body, number)

    replies, bodies = asked(strict)
    assert not any(reply.error for reply in replies)
    assert [reply.p_yes for reply in replies[::2]] == [pytest.approx(0.7)] * 6
    warnings = capsys.readouterr().err.splitlines()
    assert sorted(line.split("the field ")[1].partition(":")[0] for line in warnings) == sorted(unknown)
    assert all(line.startswith("warning: ") for line in warnings)
    last = {name: value for name, value in NEUTRAL.items() if name not in unknown}
    assert last.items() <= bodies[-1].items() and not set(unknown) & set(bodies[-1])


def test_other_refusals_are_errors(asked) -> None:
    replies, bodies = asked(lambda body, number: {"status": 400, "message": "no room"})
    assert len(bodies) == 12 and {reply.error for reply in replies} == {"HTTP 400: no room"}


def test_a_server_with_shorter_sequences_is_refused(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    with ScriptedServer(yes, models=[{"id": "tiny", "object": "model", "max_model_len": 1500}]) as server:
        words = words_of(small_root, "tiny", tmp_path / "out", "--url", server.url, "--tokenizer", tiny_model)
        done = command("test.py", *words, check=False)
        assert done.returncode == 2 and not server.asked and not (tmp_path / "out/outputs.jsonl").exists()
        assert "expected sequences of at most 1500 tokens, got --max_seq_len 2000. Pass --max_seq_len 1500." in done.stderr


# --- a real server


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.xdist_group("vllm")
def test_a_vllm_server_answers_as_transformers_does(
    vllm_server: str, small_root: Path, tiny_model: Path, local: Path, tmp_path: Path
) -> None:
    words = words_of(small_root, "tiny", tmp_path / "out", "--url", vllm_server, "--tokenizer", tiny_model)
    command("test.py", *words)
    place = ("task", "subject_id", "period_begin", "period_end")
    theirs = {tuple(line["task_info"][name] for name in place): line for line in lines(local)}
    ours = lines(tmp_path / "out")
    assert len(ours) == 24
    for line in ours:
        one, other = line["outputs"][0], theirs[tuple(line["task_info"][name] for name in place)]["outputs"][0]
        assert one["response"] == other["response"] and one["finish_reason"] == other["finish_reason"]
        assert (one["p_yes"] is None) == (other["p_yes"] is None)
        if one["p_yes"] is not None:
            assert one["p_yes"] == pytest.approx(other["p_yes"], abs=1e-3)
    own = words_of(small_root, "tiny", tmp_path / "own", "--url", vllm_server, "--tokenizer", tiny_model, "--model_sampling")
    command("test.py", *own)
    penalised = {line["sample_id"]: line["outputs"][0]["response"] for line in lines(tmp_path / "own")}
    assert any(penalised[line["sample_id"]] != line["outputs"][0]["response"] for line in ours)
    assert {line["key"] for line in ours}.isdisjoint(line["key"] for line in lines(tmp_path / "own"))
    # the chat endpoint renders the same template itself: the same prompt, so the same replies to plain prompts
    command("test.py", *words_of(small_root, "tiny", tmp_path / "chat", "--url", vllm_server, "--chat"))
    assert len(lines(tmp_path / "chat")) == 24


def test_the_key_is_nowhere(small_root: Path, tiny_model: Path, tmp_path: Path) -> None:
    with ScriptedServer(lambda body, number: {"text": "yes", "top": {"yes": -0.5}}) as server:
        words = words_of(small_root, tiny_model, tmp_path / "out", "--url", server.url)
        done = command("test.py", *words, OPENAI_API_KEY="sk-very-secret")
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not re.search("sk-very-secret", done.stdout + done.stderr + written)
