"""Synthesis against servers whose replies have another form, whose account ends, and when it is interrupted."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from scripted_server import ScriptedServer
from synthesis_run import ROWS, TEXT, Body, Run, choices, each, good, write_marked
from tiny_evidence import chain, read_chains

from inference import client

REASONING = {"type": "reasoning.text", "text": "Let me see.\n" + chain()}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_WAIT", 0.02)


@pytest.fixture(scope="module")
def marked(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marked(small_root, tmp_path_factory.mktemp("marked"))


@pytest.fixture
def run(small_root: Path, marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(small_root, marked, tmp_path / "out", capsys)


def stream(body: Body) -> dict[str, Any]:
    """The chains as server-sent events, in halves."""
    events: list[dict[str, Any]] = []
    for index in range(body.get("n") or 1):
        text = chain()
        for part, reason in ((text[:100], None), (text[100:], None), ("", "stop")):
            events.append(
                {"choices": [{"index": index, "delta": {"role": "assistant", "content": part}, "finish_reason": reason}]}
            )
    events.append({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return {"body": f": processing\n\n{text}".encode(), "headers": {"Content-Type": "text/event-stream"}}


def wrapped(body: Body, name: str, text: bool = False) -> dict[str, Any]:
    inner = json.loads(choices(*[TEXT] * (body.get("n") or 1))["body"])
    return {"body": json.dumps({"code": 0, name: json.dumps(inner) if text else inner}).encode()}


def around(body: Body, before: bytes = b"", after: bytes = b"") -> dict[str, Any]:
    return {"body": before + choices(*[TEXT] * (body.get("n") or 1))["body"] + after}


FORMS: dict[str, Callable[[Body], dict[str, Any]]] = {
    "a stream": stream,
    "an envelope": lambda body: wrapped(body, "data"),
    "an envelope of text": lambda body: wrapped(body, "body", text=True),
    "line ends before": lambda body: around(body, b"\n\n  \n"),
    "something after": lambda body: around(body, b"", b"\n\x00\x00"),
    "gzip": lambda body: {"body": gzip.compress(around(body)["body"]), "headers": {"Content-Encoding": "gzip"}},
    "reasoning_details": each({"content": None, "reasoning_details": [REASONING]}),
    "thinking_blocks": each({"content": chain(), "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}),
    "more choices": lambda body: choices(*[TEXT] * 4),
    "one index": lambda body: choices(*[TEXT | {"index": 0}] * 3),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_replies(name: str, run: Run) -> None:
    with ScriptedServer(lambda body, number: FORMS[name](body)) as server:
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS
    assert min(run.chains.values()) >= 3 and not run.errors() and run.kept() == ROWS


def test_pages_in_place_of_replies_end_a_run_soon(run: Run) -> None:
    """Every try may be paid for."""
    page = {"body": b"<html><title>Sign in</title></html>", "headers": {"Content-Type": "text/html"}}
    with ScriptedServer(lambda body, number: page) as server:
        assert "expected JSON, got text (Sign in)" in str(run.generate(server.url)) and len(server.asked) == 21


@pytest.mark.parametrize("answer", [{"status": 400, "message": "flagged by moderation"}, choices(TEXT, reason="length")])
def test_a_run_without_a_chain_is_no_success(answer: dict[str, Any], run: Run) -> None:
    with ScriptedServer(lambda body, number: answer) as server:
        assert run.generate(server.url, "--n", 1) == 1 and "none of 6 rows has a whole chain" in run.messages
        assert run.generate(server.url, "--n", 1) == 1 and "none of 6 rows" in run.messages and len(server.asked) == ROWS
        if answer.get("status"):
            assert "6 refused (--retry_refused sends them again)" in run.messages


def test_errors_that_differ_in_numbers_are_listed_once(run: Run) -> None:
    def script(body: Body, number: int) -> dict[str, Any]:
        return good(body) if number == 0 else {"status": 400, "message": f"prompt is too long: {9000 + number} tokens"}

    with ScriptedServer(script) as server:
        assert run.generate(server.url) == 1
    assert run.messages.count("no reply to") == 1 and "no reply to 5 rows: HTTP 400: prompt is too long: 9001" in run.messages
    assert "Lower --max_seq_len, or --max_new_tokens; the same command" in run.messages


def test_an_empty_reply_of_full_length_is_not_asked_for_again(run: Run) -> None:
    with ScriptedServer(lambda body, n: good(body) if n else choices(*[{"content": ""}] * 3, reason="length")) as server:
        assert run.generate(server.url) == 0 and "3 chains were cut off (3 by length)" in run.messages
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_server_whose_account_ends_leaves_the_rows_to_the_others(status: int, run: Run) -> None:
    bad = {"status": status, "message": "no more"}
    with ScriptedServer(lambda body, n: bad) as a, ScriptedServer(lambda body, n: good(body)) as b:
        assert run.generate(a.url, "--base_url", b.url) == 0
        assert run.messages.count(f"warning: {a.url} gets no more requests: HTTP {status}: no more") == 1
        assert len(a.asked) == 1 and len(b.asked) == ROWS and not run.errors()
    assert set(run.chains.values()) == {3}


def test_rows_that_a_revoked_key_met_go_to_the_others(run: Run) -> None:
    """The other server is busy meanwhile: a row may meet the refusing one several times until that gets no more."""
    listed = [{"id": "m", "object": "model"}]
    revoked = {"status": 401, "message": "revoked"}

    def script(body: Body, number: int) -> dict[str, Any]:
        return good(body) if number == 0 else revoked

    slow = ScriptedServer(lambda body, n: good(body) | {"delay": 0.1}, models=listed)
    with ScriptedServer(script, models=listed) as a, slow as b:
        assert run.generate(a.url, "--base_url", b.url) == 0 and len(a.asked) <= 4 and not run.errors()
    assert set(run.chains.values()) == {3}


def test_a_refused_key_at_the_start_leaves_that_server_out(run: Run) -> None:
    with ScriptedServer(lambda body, n: good(body), models_status=401) as a, ScriptedServer(lambda body, n: good(body)) as b:
        assert run.generate(a.url, "--base_url", b.url) == 0 and f"warning: {a.url} gets no more requests" in run.messages
        assert not a.asked and len(b.asked) == ROWS
        b.models_status = 401
        run.output = run.output.with_name("other")
        assert "expected a list of models, got HTTP 401" in str(run.generate(a.url, "--base_url", b.url))


def test_accounts_that_all_end_end_the_run(run: Run) -> None:
    def script(body: Body, number: int) -> dict[str, Any]:
        return {"status": 402, "message": "no more"} if number else good(body)

    with ScriptedServer(script) as a, ScriptedServer(script) as b:
        assert "HTTP 402: no more. Add credit" in str(run.generate(a.url, "--base_url", b.url))
        assert sum(run.chains.values()) == 6 and len(a.asked) + len(b.asked) <= 2 + 6
    with ScriptedServer(lambda body, n: good(body)) as c:
        assert run.generate(c.url) == 0 and len(c.asked) == 4
    assert set(run.chains.values()) == {3}


def test_urls_that_are_not_of_an_api(run: Run) -> None:
    with ScriptedServer(lambda body, n: good(body), models=[{"id": "m", "object": "model"}]) as server:
        assert "Remove /chat/completions" in str(run.generate(f"{server.url}/chat/completions"))
        assert "without a user name" in str(run.generate(server.url.replace("//", "//me:secret@")))
        assert run.generate(f"{server.url}/") == 0
    assert "secret" not in run.messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_replies_on_their_way_are_recorded_after_a_signal(number: int, times: int, run: Run) -> None:
    with ScriptedServer(lambda body, n: good(body) | {"delay": 0.0 if n == 0 else 4.0 if times == 1 else 60.0}) as server:
        words = [*run.inputs, "--output_path", run.output, "--model", "m", "--base_url", server.url, "--num_worker", 2]
        script = REPO / "thinking_graph_preprocess/reasoning_generation.py"
        process = subprocess.Popen([sys.executable, str(script), *map(str, words)], stderr=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, text=True)  # fmt: skip
        while len(server.asked) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        if times == 2:
            time.sleep(1)
            process.send_signal(number)
        _, messages = process.communicate(timeout=50)
        asked = len(server.asked)
    assert process.returncode == 128 + number and "Traceback" not in messages, messages
    assert "Waiting at most 120 s for 2 replies on their way; a second Ctrl-C ends at once" in messages
    assert "ended after" in messages and "interrupted. Run the same command again to resume." in messages
    assert asked == 3 and len(read_chains(run.output)) == (3 if times == 1 else 1)
