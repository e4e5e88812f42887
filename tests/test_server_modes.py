"""Synthesis against servers that misbehave or speak a dialect: nothing lost or paid for in vain, and messages name causes."""

from __future__ import annotations

import base64
import json
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from conftest import REPO
from scripted_server import ScriptedServer
from synthesis_run import ROWS, TEXT, Body, Run, choices, each, good, patient_of, write_marked
from tiny_evidence import chain, prompt_of, read_chains

from inference import client


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_WAIT", 0.02)


@pytest.fixture(scope="module")
def marked(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marked(small_root, tmp_path_factory.mktemp("marked"))


@pytest.fixture
def run(small_root: Path, marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(small_root, marked, tmp_path / "out", capsys)


def refuses(*fields: str, message: str = "Unsupported parameter: '{}' is not supported with this model.") -> Callable:
    """A script that refuses requests with one of these fields."""

    def script(body: Body) -> dict[str, Any]:
        refused = next((name for name in fields if name in body), None)
        return {"status": 400, "message": message.format(refused)} if refused else good(body)

    return script


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
# Servers that are understood: each row gets its three chains, all of which are kept, and a second run sends nothing.
DIALECTS: dict[str, tuple[Callable[[Body], dict[str, Any]], int]] = {
    # name: script, and requests beyond one for each row
    "parts": (each({"content": [THOUGHT, {"type": "text", "text": chain()}]}), 0),
    "a part that is a text": (each({"content": [chain()]}), 0),
    "reasoning apart": (each(TEXT | {"reasoning_content": "So I think."}), 0),
    "all taken for reasoning": (each({"content": None, "reasoning_content": "Let me see.\n" + chain()}), 0),
    "the end of a think block": (each({"content": f"hm\n</think>\n\n{chain()}"}), 0),
    "eos": (each(TEXT, "eos"), 0),
    "stop_sequence": (each(TEXT, "stop_sequence"), 0),
    "STOP": (each(TEXT, "STOP"), 0),
    "no finish reason": (each(TEXT, None), 0),
    "an empty finish reason": (each(TEXT, ""), 0),
    "no usage": (each(TEXT, usage=None), 0),
    "usage without numbers": (each(TEXT, usage={"prompt_tokens": None, "completion_tokens": "2"}), 0),
    "one choice": (lambda body: choices(TEXT), 2 * ROWS),
    "n is refused": (refuses("n", message="Only n = 1 is supported: n is invalid."), 1 + 2 * ROWS),
    "two choices": (lambda body: choices(*[TEXT] * min(2, body.get("n") or 1)), ROWS),
    "max_completion_tokens only": (
        refuses("max_tokens", message="'{}' is not supported. Use 'max_completion_tokens' instead."),
        1,
    ),
    "max_tokens only": (refuses("max_completion_tokens"), 0),
    "a fixed temperature": (refuses("temperature", message="'temperature' does not support 0.5. Only the default (1) is."), 1),
    "two refusals": (refuses("temperature", "max_tokens"), 2),
    "a byte order mark": (lambda body: {"body": b"\xef\xbb\xbf" + choices(*[TEXT] * 3)["body"]}, 0),
    "another content type": (lambda body: choices(*[TEXT] * 3) | {"headers": {"Content-Type": "text/plain"}}, 0),
    "half a character": (each({"content": chain() + "\ud83d"}), 0),
    "a code fence": (each({"content": f"```markdown\n{chain()}\n```"}), 0),
    "a sentence, and a fence": (each({"content": f"Here it is:\n\n```\n{chain()}\n```\nI hope that it helps."}), 0),
    "headings of another level": (each({"content": chain().replace("## ", "#### ")}), 0),
    "headings with a colon": (each({"content": re.sub(r"^(## .*)$", r"\1:", chain(), flags=re.M)}), 0),
    "headings in bold": (each({"content": re.sub(r"^## (.*)$", r"**\1**", chain(), flags=re.M)}), 0),
    "headings with steps": (each({"content": re.sub(r"^## ", "## Step 1: ", chain(), flags=re.M)}), 0),
    "rules and odd spaces": (each({"content": "\ufeff" + chain().replace("\n## ", "\n---\n\n##\u00a0")}), 0),
    "n is too large": (refuses("n", message="body.{}: Input should be less than or equal to 1"), 1 + 2 * ROWS),
    "a text after the colon": (each({"content": chain().replace("## Reasoning\n", "## Reasoning: ")}), 0),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(name: str, run: Run) -> None:
    script, further = DIALECTS[name]
    with ScriptedServer(lambda body, number: script(body)) as server:
        assert run.generate(server.url) == 0
        assert set(run.chains.values()) == {3} and len(run.chains) == ROWS and not run.errors()
        assert len(server.asked) == ROWS + further
        warnings = [line for line in run.messages.splitlines() if "warning: " in line and server.url in line]
        assert len(warnings) == {0: 0, 1: 1, 2: 2, ROWS: 1, 2 * ROWS: 1, 1 + 2 * ROWS: 1}[further]
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS + further
    assert run.kept() == ROWS


# Rows that a server will not answer: recorded, not sent again, and no obstacle to the others.
REFUSALS = {
    "moderation": {"status": 403, "message": "Your chosen model requires moderation and your input was flagged"},
    "a content filter": {"status": 400, "message": "Filtered by the content management policy"},
    "a code": {"status": 400, "body": b'{"error": {"message": "No.", "code": "content_filter"}}'},
    "an inner code": {
        "status": 400,
        "body": b'{"error": {"message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}',
    },
    "a code in the details": {
        "status": 400,
        "body": b'{"error": {"message": "No.", "code": "BadRequest", "details": [{"code": "content_filter"}]}}',
    },
    "usage policies": {"status": 400, "message": "Your prompt was flagged as potentially violating our usage policy."},
    "legal reasons": {"status": 451, "message": "no"},
    "an error in a reply": {"body": b'{"error": {"message": "input was flagged", "code": 403}, "choices": null}'},
    "a refusal": choices(*[{"content": None, "refusal": "I cannot help with that."}] * 3),
    "filtered before the first word": choices(*[{"content": None}] * 3, reason="content_filter"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_row_is_recorded_and_not_sent_again(name: str, run: Run, marked: Path) -> None:
    patient = marked.read_text(encoding="utf-8").splitlines()[3].split(",")[0]
    answer: dict[str, Any] = REFUSALS[name]
    with ScriptedServer(lambda body, number: answer if patient_of(body) == patient else good(body)) as server:
        assert run.generate(server.url) == 0
        assert "refused 1 rows: " in run.messages and "--retry_refused sends them again" in run.messages
        assert len(server.asked) == ROWS and sum(bool(line.get("refused")) for line in read_chains(run.output)) == 1
        assert len(run.errors()) == 1 and set(run.chains.values()) == {0, 3}
        assert run.generate(server.url) == 0 and run.generate(server.url, "--overwrite") == 0
        assert len(server.asked) == ROWS
        assert run.generate(server.url, "--retry_refused") == 0
        assert [patient_of(body) for _, _, body in server.asked[ROWS:]] == [patient]
        answer = {"text": chain()}
        assert run.generate(server.url, "--retry_refused") == 0 and len(server.asked) == ROWS + 2
    assert set(run.chains.values()) == {3} and run.kept() == ROWS


# Errors that every request would get: the run ends with the message of the server, and resumes when they are gone.
ENDS = {
    "key": (
        {"status": 401, "message": "Incorrect API key provided: sk-abc***xyz"},
        "HTTP 401: Incorrect API key .*OPENAI_API_KEY",
    ),
    "key in a reply": (
        {"body": b'{"error": {"message": "API key not valid", "code": "invalid_argument"}}'},
        "HTTP 200 with the error 400: API key not valid",
    ),
    "credit": ({"status": 402, "message": "This request requires more credits"}, "HTTP 402: .* more credits. Add credit"),
    "balance": ({"status": 400, "message": "Your credit balance is too low"}, "HTTP 400: Your credit balance is too low. Add"),
    "quota": (
        {"status": 429, "body": b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'},
        r"HTTP 429: You exceeded your current quota \(insufficient_quota\). Add credit",
    ),
    "no access": (
        {"status": 403, "message": "The project has no access to it"},
        "HTTP 403: The project has no access .*Check",
    ),
    "no model": (
        {"status": 404, "message": "The model is not found"},
        "HTTP 404: .*; the server has big, small. Check the URL",
    ),
    "a pause of hours": (
        {"status": 429, "message": "Rate limit reached: tokens per day", "headers": {"Retry-After": "86400"}},
        r"Rate limit reached: tokens per day, and a request to wait for 24 hours. Run the same command again after \d{4}-",
    ),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("num_worker", [1, 4])
def test_what_every_request_would_get_ends_the_run(name: str, num_worker: int, run: Run) -> None:
    answer, expected = ENDS[name]
    is_bad, listed = True, [{"id": name, "object": "model"} for name in ("big", "small")]

    def script(body: Body, number: int) -> dict[str, Any]:
        # the second request is answered long after the third one has failed: it is on its way when the run ends
        return answer if is_bad and number >= 2 else good(body) | {"delay": 0.5 * (number == 1)}

    with ScriptedServer(script, models=listed) as server:
        assert re.search(expected, message := str(run.generate(server.url, "--num_worker", num_worker)))
        assert "sk-abc" not in message and "Traceback" not in message
        assert sum(run.chains.values()) == 6 and len(server.asked) <= 2 + max(3, num_worker)
        is_bad, before = False, len(server.asked)
        assert run.generate(server.url) == 0
        assert len(server.asked) == before + ROWS - 2
    assert set(run.chains.values()) == {3} and run.kept() == ROWS


def test_a_server_that_asks_for_a_day_leaves_the_rows_to_the_others(run: Run) -> None:
    pause = {"status": 429, "message": "tokens per day", "headers": {"Retry-After": "86400"}}
    with ScriptedServer(lambda body, number: pause) as a, ScriptedServer(lambda body, number: good(body)) as b:
        assert run.generate(a.url, "--base_url", b.url) == 0
        assert len(a.asked) <= 1 and len(b.asked) == ROWS
    assert set(run.chains.values()) == {3}


# What may pass: retried, and reported if it stays.
PASSING = {
    "overloaded": ({"status": 529, "message": "Overloaded"}, "HTTP 529: Overloaded"),
    "a page of a gateway": (
        {"status": 502, "body": b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"},
        "HTTP 502: 502 Bad Gateway",
    ),
    "a page to log in": ({"body": b"<html><body>Please log in</body></html>", "headers": {"Content-Type": "text/html"}},
                         r"expected JSON, got text \(Please"),
    "an error in a reply": (
        {"body": b'{"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "Too Many Requests"}}}'},
        "HTTP 200 with the error 429: Provider returned error; Too Many Requests",
    ),
    "an error object": ({"body": b'{"object": "error", "message": "engine is dead", "code": 500}'}, "500: engine is dead"),
    "no choices": ({"body": b'{"choices": []}'}, "no choices"),
    "a list": ({"body": b'[{"error": "busy"}]'}, "HTTP 200 with the error 500: busy"),
    "null": ({"body": b"null"}, "no choices"),
    "choices that are no list": ({"body": b'{"choices": {"0": "x"}}'}, "no choices"),
    "half a body": ({"body": b'{"id": "x", "choi'}, "not readable"),
    "a closed connection": ({"drop": True}, "no reply: the connection was closed"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again_and_named(name: str, run: Run) -> None:
    answer, expected = PASSING[name]
    with ScriptedServer(lambda body, number: good(body) if number in (0, *range(8, 99)) else answer) as server:
        assert run.generate(server.url) == 1 and re.search(f"no reply to 1 rows: .*{expected}", run.messages)
        assert len(server.asked) == 7 + ROWS - 1
        assert run.generate(server.url) == 0 and len(server.asked) == 7 + ROWS
    assert set(run.chains.values()) == {3}


# What is wrong with one request, or with all for a reason that only the message tells: not tried again.
OTHERS = {
    "too large": ({"status": 413, "body": b"<h1>Request Entity Too Large</h1>"}, "HTTP 413: Request Entity Too Large"),
    "a redirect": ({"status": 307, "headers": {"Location": "http://127.0.0.1:9/v1"}, "body": b""}, "HTTP 307: a redirect to http://127.0.0.1:9/v1"),
    "a detail of a field": (
        {"status": 422, "body": json.dumps({"message": {"detail": [{"loc": ["body", "max_completion_tokens"], "msg":
                                                        "Extra inputs are not permitted", "input": chain()}]}}).encode()},
        "HTTP 422: body.max_completion_tokens: Extra inputs are not permitted;",
    ),
    "a limit of this request": ({"status": 400, "message": "max_tokens is too large: 4096, it must be at most 100"},
                                "HTTP 400: max_tokens is too large: 4096"),
    "a call of a tool": (choices({"content": None, "tool_calls": []}, reason="tool_calls"), r"no text \(tool_calls\)"),
    "tokens without a choice": ({"body": b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}'},
                                "the reply of the server has no choices"),
    "a choice without a message": ({"body": b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'}, r"no text \(stop\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_named(name: str, run: Run) -> None:
    answer, expected = OTHERS[name]
    with ScriptedServer(lambda body, number: answer if number == 0 else good(body)) as server:
        assert run.generate(server.url) == 1 and re.search(f"no reply to 1 rows: {expected}", run.messages)
        assert len(server.asked) == ROWS and run.generate(server.url) == 0 and len(server.asked) == ROWS + 1
    assert set(run.chains.values()) == {3}


CUT_OFF = ["length", "MAX_TOKENS", "model_context_window_exceeded", "content_filter", "error", "insufficient_system_resource"]


@pytest.mark.parametrize("reason", [*CUT_OFF, {"type": "length", "length": 9}])
def test_chains_that_are_cut_off_are_kept_in_the_log_only(reason: str | dict[str, Any], run: Run) -> None:
    name = reason["type"] if isinstance(reason, dict) else reason
    messages = [{"content": chain()[:80]}, {"content": None, "reasoning_content": "Let me think"}, TEXT]
    with ScriptedServer(lambda body, number: choices(*messages, reason=reason)) as server:
        assert run.generate(server.url) == 1 and f"{3 * ROWS} chains were cut off ({3 * ROWS} by {name})" in run.messages
        assert "none of 6 rows has a whole chain" in run.messages
        assert run.generate(server.url) == 1 and len(server.asked) == ROWS
    assert read_chains(run.output)[0]["choices"] == [chain()[:80], "<think>\nLet me think", chain()]
    assert run.kept() == 0


def test_a_run_whose_replies_are_all_useless_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.generation.MAX_USELESS", 3)
    with ScriptedServer(lambda body, number: choices({"content": None}, reason="length")) as server:
        assert re.search(r"the first 3 replies: expected texts .* got only no text \(length\)", str(run.generate(server.url)))
        assert len(server.asked) == 3 == len(read_chains(run.output))


def test_a_limit_of_cost_needs_the_numbers_of_the_server(run: Run) -> None:
    flags = ("--price_in", 1, "--price_out", 1, "--max_cost", 100)
    with ScriptedServer(lambda body, number: choices(*[TEXT] * 3, usage=None)) as server:
        assert "expected a server that reports the tokens" in str(run.generate(server.url, *flags))
        assert len(server.asked) == 1 and sum(run.chains.values()) == 3, "what was paid for is recorded"
        assert "expected a server that reports" in str(run.generate(server.url, *flags)) and len(server.asked) == 1
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS


def test_extra_body(run: Run) -> None:
    extra = {"max_completion_tokens": 99, "temperature": None, "top_k": 5}
    with ScriptedServer(lambda body, number: good(body)) as server:
        assert run.generate(server.url) == 0
        assert run.generate(server.url, "--extra_body", json.dumps(extra)) == 0
        assert len(server.asked) == 2 * ROWS, "other fields are another request"
        for _, _, body in server.asked[ROWS:]:
            assert (
                body["max_completion_tokens"] == 99 and body["top_k"] == 5 and not {"max_tokens", "temperature"} & body.keys()
            )
        assert run.kept() == ROWS
        assert "expected fields that may change, got stream" in str(
            run.generate(server.url, "--extra_body", '{"stream": true}')
        )
        with pytest.raises(SystemExit):
            run.generate(server.url, "--extra_body", "[1]")
        answer = {"status": 400, "message": "top_k is not supported"}
    with ScriptedServer(lambda body, number: answer) as server:  # a field of the user's is not left out
        assert run.generate(server.url, "--extra_body", '{"top_k": 5, "n": 1}') == 1
        assert len(server.asked) == ROWS and "top_k is not supported" in run.messages


def test_azure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "azure-key")
    with ScriptedServer(lambda body, number: good(body)) as server:
        assert run.generate(f"{server.url}?api-version=2024-10-21") == 0
        assert {path for _, path, _ in server.asked} == {"/v1/chat/completions?api-version=2024-10-21"}
        assert all(head["api-key"] == "azure-key" and "authorization" not in head for head in server.heads)
    assert "azure-key" not in "".join(path.read_text() for path in run.output.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=internal", "-addext",
             "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]  # fmt: skip
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    return cert, key


def test_certificates_of_an_own_authority(run: Run, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with ScriptedServer(lambda body, number: good(body), tls=context) as server:
        assert "expected a certificate that can be verified, got: self-signed certificate" in str(run.generate(server.url))
        assert not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
        assert "$SSL_CERT_FILE: expected a file of certificates (PEM), got none" in str(run.generate(server.url))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert run.generate(server.url) == 0 and len(server.asked) == ROWS


def test_a_host_behind_a_proxy_needs_leave(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is asked for a host whose name has no address here, but only with --allow_remote."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    url = "http://models.invalid/v1"
    assert "got no address for models.invalid" in str(run.generate(url, "--allow_remote"))
    with ScriptedServer(lambda body, number: good(body)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        assert "add --allow_remote" in str(run.generate(url)) and not proxy.asked
        assert run.generate(url, "--allow_remote") == 0
        assert len(proxy.asked) == ROWS and all(head["host"] == "models.invalid" for head in proxy.heads)


ECHOES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "URL": quote_plus,
    "escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "capitals": str.upper,
}


@pytest.mark.parametrize("name", ECHOES)
def test_no_patient_text_in_messages(name: str, run: Run) -> None:
    """Messages of servers can quote the prompt, from any place on, in the code of another layer."""

    def script(body: Body, number: int) -> dict[str, Any]:
        prompt = prompt_of(body)
        return {"status": 400, "message": f"cannot read: {ECHOES[name](prompt[prompt.find('Triage') :])}"}

    with ScriptedServer(script) as server:
        assert run.generate(server.url, "--limit", 1) == 1 and "HTTP 400: cannot read: " in run.messages
    told = f"{run.messages}{run.errors()}"
    for text in ("Triage", "Sodium", "Heparin", "2150"):
        assert not any(echo(text)[:6] in told for echo in ECHOES.values())


def test_killed_while_choices_come_one_by_one(run: Run, small_root: Path, marked: Path) -> None:
    """Each choice is on disk before the next one is asked for; the next run asks for the missing ones only."""
    with ScriptedServer(lambda body, number: choices(TEXT) | {"delay": 0.1}) as server:
        words = [*run.inputs, "--output_path", run.output, "--model", "m", "--base_url", server.url, "--num_worker", 1]
        script = REPO / "thinking_graph_preprocess/reasoning_generation.py"
        process = subprocess.Popen([sys.executable, str(script), *map(str, words)], stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        log = run.output / "reasoning.jsonl"
        while not log.exists() or log.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        recorded, asked = sum(run.chains.values()), len(server.asked)
        assert recorded in (asked, asked - 1), "at most the one in flight is lost"
        assert run.generate(server.url) == 0
        assert len(server.asked) == asked + 3 * ROWS - recorded
    assert set(run.chains.values()) == {3} and run.kept() == ROWS
