"""Several servers of a model: load, a dead one left out and tried again, pauses and limits of each, one model everywhere."""

from __future__ import annotations

import re
import runpy
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import REPO, command
from rendered_rows import rendered_rows, write_rows
from scripted_server import ScriptedServer
from test_launchers import bash
from tiny_evidence import chain, read_chains, write_evidence

from inference.client import Client, Reply, Request
from inference.settings import InferenceSettings, ModelSettings, ServerSettings
from pipeline.errors import UserError
from pipeline.files import read_json
from thinking_graph_preprocess.reasoning_generation import main

Replies = dict[int, Reply]


def request(number: int) -> Request:
    return Request("chat", {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}]})


def echo(body: dict, number: int) -> dict:
    return {"text": body["messages"][0]["content"], "delay": 0.02}


def send(urls: list[str], numbers: Iterable[int], **settings: object) -> Replies:
    """Send numbered requests to servers; every one must get its own reply, once."""
    client = Client(ServerSettings(urls, **{"num_worker": 4} | settings), "m")
    replies: Replies = {}
    for position, reply in client.send(map(request, numbers)):
        assert position not in replies and reply.response.choices[0].message.content == f"question {position}"
        replies[position] = reply
    client.close()
    assert sorted(replies) == list(range(len(replies)))
    return replies


def model(**fields: object) -> list[dict]:
    return [{"id": "m", "object": "model", "created": 1, "owned_by": "x", **fields}]


def test_servers_share_the_load_and_a_slow_one_gets_less() -> None:
    with ScriptedServer(echo) as a, ScriptedServer(echo) as b:
        send([a.url, b.url], range(100))
        assert len(a.asked) + len(b.asked) == 100 and 40 <= len(a.asked) <= 60
    with ScriptedServer(echo) as fast, ScriptedServer(lambda body, number: echo(body, number) | {"delay": 0.2}) as slow:
        send([slow.url, fast.url], range(100))
        assert 4 <= len(slow.asked) <= 30


def test_a_server_that_is_killed_loses_no_request_and_gets_requests_when_it_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kill = threading.Event()

    def until_killed(body: dict, number: int) -> dict:
        if number == 30:
            kill.set()
        return echo(body, number)

    with ExitStack() as stack:
        staying, killed = stack.enter_context(ScriptedServer(echo)), ScriptedServer(until_killed)
        killed.__enter__()
        again = ScriptedServer(echo, port=killed.port)

        def restart() -> None:
            kill.wait()
            killed.__exit__()
            while not any(when > killed.asked[-1][0] + 0.5 for when, _, _ in staying.asked):
                time.sleep(0.01)
            stack.enter_context(again)

        thread = threading.Thread(target=restart, daemon=True)
        thread.start()
        replies = send([staying.url, killed.url], takewhile(lambda _: len(again.asked) < 20, range(20000)))
        thread.join()
        sent = len(staying.asked) + len(killed.asked) + len(again.asked)
        assert len(again.asked) >= 20 and len(killed.asked) > 30
        assert len(replies) <= sent <= len(replies) + 4, "only what was in flight at the killed server was sent twice"
        assert max(reply.tries for reply in replies.values()) <= 3
    left, back = capsys.readouterr().err.splitlines()
    assert left.startswith(f"warning: {killed.url} is left out until it answers again: no ")  # connection, or reply
    assert back == f"warning: {killed.url} answers again and gets requests."


@pytest.mark.parametrize("answer", [{"status": 503}, {"drop": True}, {"delay": 30}])
def test_a_server_that_fails_is_left_out_and_tried_with_one_request_at_a_time(
    answer: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(echo) as good, ScriptedServer(lambda body, number: answer) as bad:
        send([bad.url, good.url], range(120), timeout=1.0)
        assert len(bad.asked) <= 8
    assert capsys.readouterr().err.count("is left out") == 1


def test_a_server_that_is_down_at_the_start_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(echo) as gone:
        pass
    with ScriptedServer(echo) as good:
        send([gone.url, good.url], range(20))
        assert len(good.asked) == 20
    assert capsys.readouterr().err == f"warning: {gone.url} is left out until it answers again: no connection: ConnectError.\n"
    with pytest.raises(UserError, match=f"{gone.url}, http://127.0.0.1:9/v1: expected a server, got no connection"):
        send([gone.url, "http://127.0.0.1:9/v1"], range(20))


def test_servers_that_all_go_away_end_the_run() -> None:
    def script(body: dict, number: int) -> dict:
        return {"status": 503} if number > 20 else {}

    with ScriptedServer(script) as a, ScriptedServer(script) as b:
        client = Client(ServerSettings([a.url, b.url], num_worker=4), "m", max_tries=2)
        with pytest.raises(UserError, match=f"{a.url}, {b.url}: expected replies, got errors only, such as HTTP 503"):
            list(client.send(map(request, range(500))))
        client.close()


def test_a_pause_and_a_limit_are_of_one_server(capsys: pytest.CaptureFixture[str]) -> None:
    pause = {"status": 429, "headers": {"Retry-After": "1"}}
    with ScriptedServer(lambda body, n: pause if n == 0 else echo(body, n)) as a, ScriptedServer(echo) as b:
        send([a.url, b.url], range(200), num_worker=2)
    first, *rest = [when for when, _, _ in a.asked]
    assert sum(when - first < 0.95 for when in rest) <= 1 and sum(0 < when - first < 0.9 for when, _, _ in b.asked) > 20
    with ScriptedServer(echo) as a, ScriptedServer(echo) as b:
        send([a.url, b.url], range(20), max_rpm=600)  # to each one every 0.1 s
    for server in (a, b):
        times = [when for when, _, _ in server.asked]
        assert 9 <= len(times) <= 11 and times[-1] - times[0] > 0.1 * (len(times) - 1) - 0.05
    assert not capsys.readouterr().err


def test_all_servers_have_the_same_model() -> None:
    from inference.checks import served_model

    with ScriptedServer(echo, models=model(root="/a")) as a, ScriptedServer(echo, models=model(root="/a")) as b:
        settings = InferenceSettings(ModelSettings("m"), ServerSettings([a.url, b.url], chat=True))
        assert served_model(settings) == {"id": "m", "root": "/a"}
        b.models = model(root="/b")
        with pytest.raises(UserError, match=f"{b.url}: expected the model m of the other servers, got another root"):
            send([a.url, b.url], range(5))
        a.models = [model()[0] | {"id": "other"}]
        with pytest.raises(UserError, match=f"{a.url}: expected the model m .* got a server that does not list it"):
            served_model(settings)
        assert not a.asked and not b.asked


def test_a_server_that_comes_back_with_another_model_ends_the_run() -> None:
    def fails(body: dict, number: int) -> dict:
        b.models = model(root="/b")
        return {"status": 503}

    with ScriptedServer(echo, models=model(root="/a")) as a, ScriptedServer(fails, models=model(root="/a")) as b:
        with pytest.raises(UserError, match=f"{b.url}: expected the model m"):
            send([a.url, b.url], range(500))
        assert len(b.asked) <= 8


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="expected each server once"):
        ServerSettings(["http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1/"])
    with pytest.raises(UserError, match="https://1.1.1.1/v1: this host is outside"):
        Client(ServerSettings(["http://127.0.0.1:1/v1", "https://1.1.1.1/v1"]), "m")


def test_synthesis_over_two_servers_resumes_with_others(small_root: Path, tmp_path: Path) -> None:
    evidence = write_evidence(small_root, tmp_path / "evidence" / "emar.csv", graphs=12)
    flags = ["--root_dir", small_root, "--data_index_dir", evidence, "--output_path", tmp_path / "out", "--model", "teacher"]

    def run(*servers: ScriptedServer, limit: int = 100) -> int:
        urls = [word for server in servers for word in ("--base_url", server.url)]
        return main([str(word) for word in (*flags, *urls, "--num_worker", 2, "--limit", limit)])

    with ExitStack() as stack:
        a, b, c = (stack.enter_context(ScriptedServer(lambda body, number: {"text": chain(), "delay": 0.02})) for _ in "abc")
        assert run(a, b, limit=12) == 0 and len(a.asked) + len(b.asked) == 12 and min(len(a.asked), len(b.asked)) >= 4
        assert run(b, c) == 0 and len(c.asked) >= 2
        keys = Counter(line["key"] for line in read_chains(tmp_path / "out"))
        assert len(keys) == keys.total() == 20 == len(a.asked) + len(b.asked) + len(c.asked)


def test_an_evaluation_over_two_servers_resumes_with_others(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rendered_rows(6))
    test_py = runpy.run_path(str(REPO / "test.py"))["main"]
    flags = ["--dataset_name", data, "--output_path", tmp_path / "out", "--model_name_or_path", "m", "--chat", "--resume"]

    def run(*servers: ScriptedServer, limit: int) -> int:
        urls = [word for server in servers for word in ("--url", server.url)]
        return test_py([str(word) for word in (*flags, *urls, "--num_worker", 1, "--resamples", 20, "--limit", limit)])

    with ExitStack() as stack:
        a, b, c = (stack.enter_context(ScriptedServer(lambda body, number: {"text": "yes"}, models=model())) for _ in "abc")
        assert run(a, b, limit=6) == 0 and a.asked and b.asked
        assert read_json(tmp_path / "out/result.json")["arguments"]["url"] == [a.url, b.url]
        assert run(c, limit=12) == 0 and c.asked
    result = read_json(tmp_path / "out/result.json")
    assert result["missing"] == 0 and result["arguments"]["url"] == c.url


def test_the_benchmark_compares_several_servers_with_one() -> None:
    flags = ("--servers", 2, "--requests", 60, "--latency", 0.1, "--concurrency", 4, "--workers", 8, "--repeats", 1)
    done = command("benchmarks/client.py", *flags)
    ratio = re.search(r"^\| 2 \| .* \| (\d\.\d\d) × \|$", done.stdout, re.MULTILINE)
    assert float(ratio[1]) > 1.2


def test_the_script_of_all_steps_passes_all_urls_on() -> None:
    urls = ("--base_url", "http://127.0.0.1:1/v1", "--base_url", "http://127.0.0.1:2/v1")
    done = bash("scripts/reasoning_synthesis/synthesis.sh", "--from", "reasoning", "--model", "m", *urls, "--dry_run")
    assert done.returncode == 0 and " ".join(urls) in done.stdout
