"""Synthesis against a server that others wrote: the kinds of its modes are tested in test_server_modes.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthesis_run import ROWS, Run, write_marked

from inference import client

SHARED = Path(os.environ.get("EHR_TEST_DATA", "")) / "cases/graph/rude_server_modes.py"


@pytest.fixture
def run(small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(client, "MAX_WAIT", 0.02)
    return Run(small_root, write_marked(small_root, tmp_path), tmp_path / "out", capsys)


GOOD = """
    good mct_422 mct_ignored temp_400 fr_eos fr_none fr_empty fr_stop_sequence parts rc_stop rc_both n_ignored n_400 fence pre
    h3 hcolon hbold crlf halfthink nousage nulltok azure surrogate
"""
# Rows that are not kept, and what is said of them.
BAD = {
    "rc_length": "chains were cut off (18 by length)", "fr_length": "by length", "fr_max_tokens": "by max_tokens",
    "cf_reason": "by content_filter", "refusal": "I cannot help with that", "refusal_text": "", "cf_400": "content_filter",
    "mod_403": "your input was flagged", "mod_403p": "your input was flagged", "quota_429": "insufficient_quota",
    "credits_402": "requires more credits", "ra_day": "wait for 24 hours", "err200": "Too Many Requests", "503": "overloaded",
    "html": "login", "redir": "redirect", "mct_422b": "max_completion_tokens: Extra inputs", "choices_nomsg": "no text",
    "nonsense": "no such mode",
}  # fmt: skip


@pytest.fixture(scope="module")
def rude_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("rude")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(SHARED), str(port)], cwd=folder) as process:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", folder / "requests.log"
        process.terminate()


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs cases/graph of $EHR_TEST_DATA")
@pytest.mark.parametrize("mode", [*GOOD.split(), *BAD])
def test_rude_server(mode: str, rude_server: tuple[str, Path], run: Run) -> None:
    base, log = rude_server
    url = f"{base}/{mode}/v1" + ("?api-version=2024-10-21" if mode == "azure" else "")

    def asked() -> int:
        return sum(f"/{mode}/" in line for line in (log.read_text().splitlines() if log.exists() else ()))

    first = run.generate(url)
    said, chains, requests = f"{first} {run.messages}", run.chains, asked()
    if mode not in BAD:
        assert first == 0 and set(chains.values()) == {3} and len(chains) == ROWS
        assert run.generate(url) == 0 and asked() == requests and run.kept() == ROWS
    else:
        assert BAD[mode] in said
        run.generate(url)
        assert all(run.chains[patient] == number for patient, number in chains.items() if number), (
            "no reply is asked for twice"
        )
        assert sum(run.chains.values()) < 3 * ROWS or run.kept() == 0
