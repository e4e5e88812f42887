"""The client against a scripted server on loopback: nothing lost or twice, limits kept, no patient text in messages."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import pairwise

import pytest
from scripted_server import ScriptedServer
from virtual_time import run_in_virtual_time

from inference.client import Client, Request
from inference.servers import Pace, Servers, check_host
from inference.settings import ServerSettings
from pipeline.errors import UserError


def chat(text: str, **more: object) -> Request:
    return Request("chat", {"model": "m", "messages": [{"role": "user", "content": text}]} | more)


def ask(server: ScriptedServer, requests: list[Request], **options: object) -> tuple[dict[int, object], Client]:
    max_tries = options.pop("tries", 4)
    client = Client(ServerSettings(server.url, **{"num_worker": 8} | options), "m", max_tries)
    replies = {}
    for index, reply in client.send(requests):
        assert index not in replies
        replies[index] = reply
    client.close()
    return replies, client


def content(body: dict) -> str:
    return body["messages"][0]["content"]


def test_every_request_gets_its_own_reply() -> None:
    with ScriptedServer(lambda body, number: {"text": content(body), "delay": 0.01 * (number % 3)}) as server:
        replies, client = ask(server, [chat(f"question {i}") for i in range(50)])
    assert {i: reply.response.choices[0].message.content for i, reply in replies.items()} == {
        i: f"question {i}" for i in range(50)
    }
    assert client.usage.requests == 50 and client.usage.prompt_tokens == 500


def test_requests_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[int]:
        servers, in_flight = Servers(ServerSettings("http://127.0.0.1:9/v1", num_worker=5), "m"), []

        async def ask() -> None:
            async with servers.slot(0) as server:
                in_flight.append(server.in_flight)
                await asyncio.sleep(0.02)

        await asyncio.gather(*(ask() for _ in range(40)))
        return in_flight

    assert max(run_in_virtual_time(run(), monkeypatch)) == 5


def test_errors_are_tried_again() -> None:
    trouble = [{"status": 500}, {"status": 429, "headers": {"Retry-After": "0.2"}}, {"drop": True}, {"body": b"{not json"},
               {"body": b'{"choices": []}'}, {"delay": 5}]  # fmt: skip

    def script(body: dict, number: int) -> dict:
        seen[content(body)] += 1
        return trouble[int(content(body))] if seen[content(body)] == 1 else {"text": "good"}

    seen: Counter[str] = Counter()
    with ScriptedServer(script) as server:
        replies, client = ask(server, [chat(str(i)) for i in range(len(trouble))], timeout=1.0)
    assert all(reply.error is None for reply in replies.values())
    assert {reply.response.choices[0].message.content for reply in replies.values()} == {"good"}
    assert set(seen.values()) == {2} and client.usage.retries == len(trouble)


def test_a_server_that_asks_for_a_pause_gets_it_from_all() -> None:
    with ScriptedServer(lambda body, n: {"status": 429, "headers": {"Retry-After": "0.5"}} if n == 0 else {}) as server:
        ask(server, [chat("x")] * 20, num_worker=2)
    first, *rest = [when for when, _, _ in server.asked]
    assert sum(when - first < 0.45 for when in rest) <= 1, "one request was in flight when the pause was asked for"


def test_no_burst_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that waited for their turn when the pause began keep the rate limit after it."""

    async def run() -> list[float]:
        servers, times = Servers(ServerSettings("http://127.0.0.1:9/v1", num_worker=12, max_rpm=600), "m"), []

        async def ask() -> None:
            async with servers.slot(0) as server:
                if not times:  # the first one is told to wait
                    server.resume_at = time.monotonic() + 1.5
                times.append(time.monotonic())

        await asyncio.gather(*(ask() for _ in range(12)))
        return times

    first, *rest = run_in_virtual_time(run(), monkeypatch)
    assert len(rest) == 11 and min(rest) >= first + 1.5
    assert all(after - before > 0.0999 for before, after in pairwise(rest)), "one each 0.1 s"


def test_no_term_of_the_prompt_is_in_a_message() -> None:
    text = "Zebrafish extract 17 mg for Mr Quux"

    def script(body: dict, number: int) -> dict:
        return {"status": 400, "message": f"the prompt is too long: cannot read 'quux' or ZEBRAFISH 17 of {text}"}

    with ScriptedServer(script) as server:
        replies, _ = ask(server, [chat(text)])
    error = replies[0].error
    assert "the prompt is too long: cannot read" in error
    assert not any(term.casefold() in error.casefold().split() for term in (*text.split()[:3], "quux", "mr"))
    assert "quux" not in error.casefold() and "zebra" not in error.casefold() and "17" not in error


def test_what_stays_wrong_is_reported_and_not_lost() -> None:
    def script(body: dict, number: int) -> dict:
        return {"status": 503} if content(body) == "bad" else {"status": 400} if content(body) == "wrong" else {}

    with ScriptedServer(script) as server:
        replies, _ = ask(server, [chat("good"), chat("bad"), chat("wrong"), chat("good")], tries=2)
    assert [replies[i].error is None for i in range(4)] == [True, False, False, True]
    assert replies[1].tries == 2 and "HTTP 503" in replies[1].error
    assert replies[2].tries == 1 and "HTTP 400" in replies[2].error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_can_fix_stops_the_run(status: int) -> None:
    def script(body: dict, number: int) -> dict:
        return {"status": status, "message": "Incorrect API key provided: sk-secret"}

    with ScriptedServer(script) as server, pytest.raises(UserError, match=f"HTTP {status}") as error:
        ask(server, [chat("x")] * 30, num_worker=3)
    assert len(server.asked) <= 3 and "sk-secret" not in str(error.value)


def test_a_rate_limit_is_kept_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[float]:
        servers, times = Servers(ServerSettings("http://127.0.0.1:9/v1", num_worker=8, max_rpm=1200), "m"), []

        async def ask() -> None:
            async with servers.slot(0):
                times.append(time.monotonic())

        await asyncio.gather(*(ask() for _ in range(61)))
        return times

    times = run_in_virtual_time(run(), monkeypatch)
    assert all(0.0499 < after - before < 0.0501 for before, after in pairwise(times)), "20 a second"


def test_a_token_limit_goes_by_the_servers_count() -> None:
    """Guessed 1,200 tokens each, used 12: after the first replies the pace follows the use."""
    requests = [Request("chat", chat("x").body, tokens=1200)] * 300
    with ScriptedServer(lambda body, number: {}) as server:
        start = time.monotonic()
        ask(
            server, requests, max_tpm=60 * 2400, num_worker=2
        )  # 2,400 a second: 150 s if the guess were believed, 1.5 s by use
        assert time.monotonic() - start < 100


def test_pace_has_no_debt_from_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> float:
        pace = Pace(per_minute=600)
        await pace.take()
        await asyncio.sleep(0.5)
        start = time.monotonic()
        for _ in range(4):
            await pace.take()
        return time.monotonic() - start

    assert run_in_virtual_time(run(), monkeypatch) > 0.2999, "idle time saves nothing up for a burst"


def test_closing_early_cancels_what_is_in_flight() -> None:
    with ScriptedServer(lambda body, number: {"delay": 0 if number == 0 else 30}) as server:
        client = Client(ServerSettings(server.url, num_worker=4), "m")
        stream = client.send(chat("x") for _ in range(100))
        next(stream)
        start = time.monotonic()
        stream.close()
        client.close()
    assert time.monotonic() - start < 10 and len(server.asked) <= 6


def test_an_error_in_making_requests_comes_through() -> None:
    def requests():
        yield chat("x")
        raise UserError("the index is broken")

    with ScriptedServer(lambda body, number: {}) as server, pytest.raises(UserError, match="the index is broken"):
        list(Client(ServerSettings(server.url, num_worker=2), "m").send(requests()))


def test_no_remote_host_without_leave() -> None:
    for url in ("https://1.1.1.1/v1", "https://8.8.8.8:8000/v1", "http://[2001:4860:4860::8888]/v1"):
        with pytest.raises(UserError, match="--allow_remote"):
            check_host(url)
        assert check_host(url, allow_remote=True) is False
    for url in ("http://localhost:1/v1", "http://192.168.1.7/v1", "http://172.16.0.1/v1"):
        assert check_host(url) is True
    for url in ("127.0.0.1:8000", "file:///etc/passwd", "http:///v1"):
        with pytest.raises(UserError, match="expected the URL of an API"):
            check_host(url)


def test_a_remote_host_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        list(Client(ServerSettings("https://1.1.1.1/v1", allow_remote=True), "m").send([chat("x")]))


def test_no_redirect_takes_a_record_elsewhere() -> None:
    with ScriptedServer(lambda body, number: {}) as elsewhere:
        redirect = {"status": 307, "headers": {"Location": f"{elsewhere.url}/chat/completions"}}
        with ScriptedServer(lambda body, number: redirect) as server:
            replies, _ = ask(server, [chat("record")], tries=1)
    assert replies[0].error and not elsewhere.asked


def test_a_proxy_of_the_environment_does_not_see_local_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda body, number: {}) as proxy, ScriptedServer(lambda body, number: {"text": "direct"}) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        replies, _ = ask(server, [chat("record")])
    assert replies[0].response.choices[0].message.content == "direct" and not proxy.asked


def test_a_server_that_never_answers_ends_the_run() -> None:
    with ScriptedServer(lambda body, number: {"status": 400, "message": "odd request"}) as server:
        client = Client(ServerSettings(server.url, num_worker=4), "m")
        with pytest.raises(UserError, match="got errors only, such as HTTP 400: odd request"):
            list(client.send(chat("x") for _ in range(500)))
    assert len(server.asked) < 30


def test_a_server_that_goes_away_ends_the_run_and_a_hard_question_does_not() -> None:
    def script(body: dict, number: int) -> dict:
        return {"status": 400} if content(body) == "hard" else {"status": 500} if number > 60 else {}

    with ScriptedServer(script) as server:
        client = Client(ServerSettings(server.url, num_worker=4), "m", max_tries=1)
        asked = [chat("x"), *[chat("hard")] * 40, *[chat("x")] * 200]
        replies = []
        with pytest.raises(UserError, match="got errors only"):
            for _, reply in client.send(asked):
                replies.append(reply)
    assert sum(reply.error is None for reply in replies) == 21
