"""The client of OpenAI-compatible servers: many requests in flight, limits, retries, and no patient text abroad.

Evaluation (`--url`) and the synthesis of reasoning chains use it. The wire protocol is the `openai` package's; what is ours is
what it leaves to its users: a bound on the requests in flight, limits per minute that hold for retries too, one pause for
all when a server asks for it, and results in the order they finish.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

KEY_VARIABLE = "OPENAI_API_KEY"
WORKERS = 64
MAX_WAIT = 60.0  # seconds between two tries, unless the server asks for more
FATAL = {
    401: f"wanted a key the server takes, found none such; set ${KEY_VARIABLE}",
    403: f"the server refuses; check what the key in ${KEY_VARIABLE} may do",
    404: "wanted this model and endpoint on the server, found no such; check the URL (…/v1) and the model's name",
}
"""Statuses that every other request would get too, so that the run stops, and what to do about them."""

GIVE_UP = 20
"""Requests without a reply, after all their tries, that end a run: the first ones, or as many in a row later on."""

RETRIED = {408, 409, 425, 429}  # and all from 500 on


@dataclass(frozen=True)
class Request:
    """What to ask: `endpoint` ("chat" or "completions") and the arguments of its `create`.

    `tokens` is the caller's guess of prompt and reply together, for a limit of tokens per minute; the server's own count
    corrects it.
    """

    endpoint: str
    body: dict[str, Any]
    tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """What came: the server's response, or the reason why there is none after all tries."""

    response: ChatCompletion | Completion | None
    error: str | None = None
    tries: int = 1


@dataclass
class Usage:
    """Tokens and requests so far."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Pace:
    """Spreads units evenly over time: never more than `per_minute` a minute, and as many as that where there is demand."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def take(self, units: float = 1) -> None:
        """Wait for these units' turn."""
        if not self._seconds:
            return
        turn = max(self._free_at, time.monotonic())
        self._free_at = turn + units * self._seconds
        await asyncio.sleep(turn - time.monotonic())

    def correct(self, units: float) -> None:
        """Units that were used beyond those taken; negative: fewer were."""
        self._free_at += units * self._seconds


@dataclass
class Client:
    """Sends requests to one server.

    Attributes:
        url: the API's base, as http://127.0.0.1:8000/v1.
        workers: requests in flight.
        max_rpm, max_tpm: requests, and tokens of prompts and replies, a minute; None: no limit.
        tries: of a request, before its error is reported.
        timeout: seconds for one try.
        allow_remote: the host may be one outside this machine and its private network.

    Raises:
        UserError: the URL is not one, or its host is remote and not allowed.
    """

    url: str
    workers: int = WORKERS
    max_rpm: float | None = None
    max_tpm: float | None = None
    tries: int = 7
    timeout: float = 1800.0
    allow_remote: bool = False
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._local = check_host(self.url, self.allow_remote)
        self._requests, self._tokens = Pace(self.max_rpm), Pace(self.max_tpm)
        self._answered, self._errors, self._gone = False, 0, 0
        self._open_at = 0.0  # no request starts before: a server asked for a pause
        self._runner = asyncio.Runner()
        self._openai: AsyncOpenAI | None = None

    def _connect(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        key = os.environ.get(KEY_VARIABLE)
        if not key and not self._local:
            raise UserError(f"{self.url}: wanted a key in ${KEY_VARIABLE}, found none")
        # Neither a redirect nor a proxy of the environment may carry a record from a local server elsewhere.
        http = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not self._local)
        return AsyncOpenAI(base_url=self.url, api_key=key or "none", max_retries=0, timeout=self.timeout, http_client=http)

    def send(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Send requests, drawing them as workers are free; yields (position, reply) as replies come.

        Closing the iterator cancels what is in flight.

        Raises:
            UserError: the server refuses all requests of this kind (`FATAL`), or gives no replies (`GIVE_UP`).
        """
        stream = self.stream(requests)

        async def following() -> tuple[int, Reply] | None:
            return await anext(stream, None)

        try:
            while (reply := self._runner.run(following())) is not None:
                yield reply
        finally:
            self._runner.run(stream.aclose())

    async def stream(self, requests: Iterable[Request]) -> AsyncIterator[tuple[int, Reply]]:
        """`send` for a running event loop."""
        self._openai = self._openai or self._connect()
        waiting = enumerate(requests)
        replies: asyncio.Queue[tuple[int, Reply] | None] = asyncio.Queue()
        free = asyncio.Semaphore(self.workers)  # of requests sent whose reply was not taken: what a kill can lose

        async def work() -> None:
            try:
                while await free.acquire() and (numbered := next(waiting, None)):
                    index, request = numbered
                    reply = await self.ask(request)
                    replies.put_nowait((index, reply))
                    self._look_at(reply)
            finally:
                replies.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(self.workers)]
        running = len(workers)
        try:
            while running:
                reply = await replies.get()
                if reply is None:
                    running -= 1
                    for worker in workers:
                        if worker.done() and worker.exception():
                            raise worker.exception()
                else:
                    yield reply
                    free.release()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def ask(self, request: Request) -> Reply:
        """One request with its tries.

        Raises:
            UserError: as `send`.
        """
        import openai

        error = ""
        for attempt in range(1, self.tries + 1):
            await self._pause()
            await self._tokens.take(request.tokens)
            await self._requests.take()
            await self._pause()
            self.usage.requests += 1
            self.usage.retries += attempt > 1
            wait = min(MAX_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1)  # jittered, so that workers don't come at once
            try:
                response = await self._create(request)
            except openai.APIStatusError as failed:
                error = f"HTTP {failed.status_code}: {said(failed.body, request)}"
                if failed.status_code in FATAL:
                    raise UserError(f"{self.url}: HTTP {failed.status_code}: {FATAL[failed.status_code]}") from None
                if failed.status_code not in RETRIED and failed.status_code < 500:
                    return Reply(None, error, attempt)
                asked = retry_after(failed.response.headers)
                if asked is not None:
                    wait = asked
                    self._open_at = max(self._open_at, time.monotonic() + asked)
            except openai.APITimeoutError:
                error = f"no reply within {self.timeout:g} s"
            except openai.APIConnectionError as failed:
                error = f"no connection: {type(failed.__cause__ or failed).__name__}"
            except (openai.APIResponseValidationError, ValueError):  # ValueError: not JSON
                error = "the server's reply could not be read"
            else:
                if getattr(response, "choices", None):
                    self._count(request, response)
                    return Reply(response, tries=attempt)
                error = "the server's reply holds no choices"
            if attempt < self.tries:
                await asyncio.sleep(wait)
        return Reply(None, error, self.tries)

    def _look_at(self, reply: Reply) -> None:
        """Stop where going on is of no use: nothing was ever answered, or the server has gone away (`GIVE_UP`)."""
        if reply.response is not None:
            self._answered, self._gone = True, 0
            return
        self._errors += 1
        self._gone += not reply.error.startswith("HTTP 4")  # these may be the request's own fault
        if self._gone >= GIVE_UP or (self._errors >= GIVE_UP and not self._answered):
            raise UserError(f"{self.url}: wanted replies, found errors only, such as {reply.error}; put that right and go on "
                            "with the same command")  # fmt: skip

    async def _pause(self) -> None:
        while (pause := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(pause)

    async def _create(self, request: Request) -> Any:
        if request.endpoint == "chat":
            return await self._openai.chat.completions.create(**request.body)
        return await self._openai.completions.create(**request.body)

    def _count(self, request: Request, response: ChatCompletion | Completion) -> None:
        if response.usage is None:
            return
        self.usage.prompt_tokens += response.usage.prompt_tokens or 0
        self.usage.completion_tokens += response.usage.completion_tokens or 0
        self._tokens.correct((response.usage.total_tokens or 0) - request.tokens)

    def close(self) -> None:
        """Close the connections."""
        if self._openai is not None:
            self._runner.run(self._openai.close())
            self._openai = None
        self._runner.close()


def add_server_flags(cli: argparse._ActionsContainer, url_flag: str = "--url") -> None:
    """How to reach an OpenAI-compatible server; the key is read from the environment, never from the command line."""
    cli.add_argument(url_flag, help="base URL of the API, as http://127.0.0.1:8000/v1")
    cli.add_argument("--num_worker", type=int, default=WORKERS, help=f"requests in flight ({WORKERS})")
    cli.add_argument("--max_rpm", type=float, help="requests a minute at most (no limit)")
    cli.add_argument("--max_tpm", type=float, help="tokens a minute at most, prompts and replies (no limit)")
    cli.add_argument("--timeout", type=float, default=1800.0, help="seconds to wait for one reply (1800)")
    cli.add_argument(
        "--allow_remote", action="store_true",
        help="send records to a host outside this machine and its private network; only where the data use agreement lets you",
    )  # fmt: skip


def make_client(url: str, args: argparse.Namespace) -> Client:
    """The client that `add_server_flags` describes.

    Raises:
        UserError: a number makes no sense, or the URL is refused (`check_host`).
    """
    for name in ("num_worker", "max_rpm", "max_tpm", "timeout"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value:g}: wanted a number above 0")
    return Client(url, args.num_worker, args.max_rpm, args.max_tpm, timeout=args.timeout, allow_remote=args.allow_remote)


def check_host(url: str, allow_remote: bool = False) -> bool:
    """Whether the URL's host is this machine or in a private network: every address its name stands for.

    Raises:
        UserError: it is no HTTP URL, its host is unknown, or it is remote and `allow_remote` is not given.

    >>> check_host("http://127.0.0.1:8000/v1"), check_host("http://[::1]:8000/v1"), check_host("http://10.1.2.3/v1")
    (True, True, True)
    >>> check_host("https://8.8.8.8/v1", allow_remote=True)
    False
    >>> check_host("https://8.8.8.8/v1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pipeline.errors.UserError: https://8.8.8.8/v1: this host is outside your machine and its private network. ...
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: wanted the URL of an API, as http://127.0.0.1:8000/v1, found something else")
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(parts.hostname, parts.port or 443)}
    except OSError:
        raise UserError(f"{url}: wanted a host that can be found, found no address for {parts.hostname}") from None
    addresses = [ipaddress.ip_address(str(address).partition("%")[0]) for address in found]
    if all(address.is_loopback or (address.is_private and not address.is_unspecified) for address in addresses):
        return True
    if not allow_remote:
        raise UserError(
            f"{url}: this host is outside your machine and its private network. Records of MIMIC-IV patients may not be "
            "sent to third parties unless PhysioNet's data use agreement allows it (no retention, no human review; see "
            "https://physionet.org/news/post/gpt-responsible-use). If it does, say so with --allow_remote; else serve a model "
            "yourself: python -m vllm.entrypoints.openai.api_server --model MODEL"
        )
    return False


def retry_after(headers: Any) -> float | None:
    """Seconds that a response's Retry-After asks for, as a number or a date (RFC 9110, 10.2.3); None without one.

    >>> retry_after({"retry-after": "1.5"}), retry_after({"retry-after": "soon"}), retry_after({})
    (1.5, None, None)
    """
    from email.utils import parsedate_to_datetime

    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def said(body: Any, request: Request) -> str:
    """A server's error message for the log: short, and not if it repeats the request, which is a patient's record.

    >>> said({"message": "too many tokens: 9000"}, Request("completions", {"prompt": "Aspirin"}))
    'too many tokens: 9000'
    >>> said({"message": "bad: old man with chest pain"}, Request("completions", {"prompt": "An old man with chest pain"}))
    '(a message that repeats the prompt)'
    """
    message = body.get("message") if isinstance(body, dict) else body
    words = re.findall(r"\w+", str(message or "no message"))
    asked = " ".join(re.findall(r"\w+", str([request.body.get("prompt"), request.body.get("messages")])))
    if any(" ".join(words[i : i + 4]) in asked for i in range(len(words) - 3)):
        return "(a message that repeats the prompt)"
    return " ".join(str(message or "no message").split())[:200]
