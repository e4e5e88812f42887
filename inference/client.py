"""The client of OpenAI-compatible servers: many requests in flight, limits, retries, and no patient text to remote hosts.

Evaluation (`--url`) and the synthesis of reasoning chains use it. The `openai` package speaks the protocol, and tenacity
repeats requests. What is here is the rest: a bound on the requests in flight, limits per minute that hold for retries too, one
pause for all requests when a server asks for it, and replies in the order in which they finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from inference.settings import ServerSettings
from pipeline.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    from tenacity import RetryCallState

KEY_VARIABLE = "OPENAI_API_KEY"

LIST_TIMEOUT = 10.0  # seconds to wait for the list of models
MAX_TRIES = 7  # of a request, before its error is reported
MAX_WAIT = 60.0  # seconds between two tries, unless the server asks for more
# Statuses that every other request would get too, so that the run ends, and what to do about them.
FATAL = {
    401: f"expected a key that the server accepts, got another one or none. Set ${KEY_VARIABLE}.",
    403: f"expected a key that may use this model, got a refusal. Check the key in ${KEY_VARIABLE}.",
    404: "expected this model and endpoint on the server, got neither. Check the URL (…/v1) and the name of the model.",
}
# Terms of error messages that are logged although the request may have them too.
COMMON_TERMS = frozenset(
    re.findall(
        r"\w+",
        "a an and any are as at be by can cannot could does exceed exceeded exceeds expected failed following for "
        "found from got has have in input invalid is it length limit logprobs long longer longest maximum model "
        "must no not of on only or output please prompt request requested requests s server should support "
        "supported t than that the this to token tokens too unsupported use value was with you your ",
    )
)
RETRIED = {408, 409, 425, 429}  # statuses that another try may not get; and all from 500 on
MAX_FAILURES = 20  # requests that failed in all tries before a run ends: the first ones, or consecutive ones later on


@dataclass(frozen=True)
class Request:
    """A request: the endpoint (`chat` or `completions`) and the arguments of its `create`."""

    endpoint: str
    body: dict[str, Any]
    tokens: int = 0  # of prompt and reply, estimated, for a limit of tokens a minute; the server's count corrects it
    text: str = ""  # of the prompt, if the body has its token ids: no message of the server that quotes it is logged
    refusable: tuple[str, ...] = ()  # a refusal (HTTP 4xx) that names one of these is no failure: the sender deals with it


@dataclass(frozen=True)
class Reply:
    """The response of the server, or why all tries failed, and how many tries there were."""

    response: ChatCompletion | Completion | None
    error: str | None = None
    tries: int = 1


@dataclass
class Usage:
    """Requests (retries included) and tokens so far."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RequestError(Exception):
    """A try that failed, whether another one may succeed, and the seconds that the server asks to wait."""

    def __init__(self, reason: str, retry: bool = True, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry, self.retry_after = retry, retry_after


class Pace:
    """Spreads units evenly over time: at most `per_minute` (None: no limit), and as many as that if there is demand."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def take(self, units: float = 1) -> None:
        """Wait until these units may be used."""
        if not self._seconds:
            return
        start = max(self._free_at, time.monotonic())
        self._free_at = start + units * self._seconds
        await asyncio.sleep(start - time.monotonic())

    def correct(self, units: float) -> None:
        """Count units that were used beyond those taken; negative if fewer were."""
        self._free_at += units * self._seconds


class Client:
    """Sends requests to one server."""

    def __init__(self, settings: ServerSettings, max_tries: int = MAX_TRIES) -> None:
        self.settings, self.max_tries, self.url = settings, max_tries, settings.url
        self.usage = Usage()
        self.is_local = check_host(self.url, settings.allow_remote)
        self._requests, self._tokens = Pace(settings.max_rpm), Pace(settings.max_tpm)
        self._answered, self._failures, self._consecutive_failures = False, 0, 0
        self._resume_at = 0.0  # no request starts before: a server asked for a pause
        self._runner = asyncio.Runner()
        self._openai: AsyncOpenAI | None = None

    def _connect(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        key = os.environ.get(KEY_VARIABLE)
        if not key and not self.is_local:
            raise UserError(f"{self.url}: expected a key in ${KEY_VARIABLE}, got none.")
        # Neither a redirect nor a proxy of the environment may carry patient text from a local server elsewhere.
        http = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not self.is_local)
        timeout = self.settings.timeout
        return AsyncOpenAI(base_url=self.url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http)

    def list_models(self) -> list[dict[str, Any]]:
        """The models that the server lists; none if it does not list them.

        Raises:
            UserError: nothing answers at the URL, or the key is refused.
        """
        import openai

        async def ask() -> list[dict[str, Any]]:
            self._openai = self._openai or self._connect()
            page = await self._openai.with_options(timeout=LIST_TIMEOUT).models.list()
            return [model.model_dump() for model in page.data]

        try:
            return self._runner.run(ask())
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise UserError(f"{self.url}: HTTP {error.status_code}: {FATAL[error.status_code]}") from None
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):  # openai names no class for them
                fix = "Start the server, or check host and port of --url"
                raise UserError(f"{self.url}: expected a server, got no connection. {fix}.") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):  # another kind of reply
            pass
        return []

    def send(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Send requests and yield (position, reply) as replies come.

        Requests are drawn when one may be sent. Closing the iterator cancels those in flight.
        """
        stream = self._stream(requests)

        async def next_reply() -> tuple[int, Reply] | None:
            return await anext(stream, None)

        try:
            while (reply := self._runner.run(next_reply())) is not None:
                yield reply
        finally:
            self._runner.run(stream.aclose())

    async def _stream(self, requests: Iterable[Request]) -> AsyncIterator[tuple[int, Reply]]:
        self._openai = self._openai or self._connect()
        numbered = enumerate(requests)
        replies: asyncio.Queue[tuple[int, Reply] | None] = asyncio.Queue()
        # Bounds the requests that were sent and whose reply was not taken: a killed process loses no more than these.
        free = asyncio.Semaphore(self.settings.num_worker)

        async def work() -> None:
            try:
                while await free.acquire() and (item := next(numbered, None)):
                    position, request = item
                    reply = await self._ask(request)
                    replies.put_nowait((position, reply))
                    self._check(request, reply)
            finally:
                replies.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(self.settings.num_worker)]
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

    async def _ask(self, request: Request) -> Reply:
        """Send one request, repeated if need be."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retry = retry_if_exception(lambda error: isinstance(error, RequestError) and error.retry)
        attempts = AsyncRetrying(stop=stop_after_attempt(self.max_tries), wait=_wait, retry=retry, reraise=True)
        response, reason = None, None
        try:
            async for attempt in attempts:
                with attempt:
                    self.usage.retries += attempt.retry_state.attempt_number > 1
                    response = await self._try(request)
        except RequestError as error:
            reason = str(error)
        return Reply(response, reason, attempts.statistics["attempt_number"])

    async def _try(self, request: Request) -> ChatCompletion | Completion:
        """Send a request once, when limits and pauses allow it; a `RequestError` if there is no usable response."""
        import openai

        await self._take_turn(request.tokens)
        self.usage.requests += 1
        endpoint = self._openai.chat.completions if request.endpoint == "chat" else self._openai.completions
        try:
            response = await endpoint.create(**request.body)
        except openai.APIStatusError as error:
            status = error.status_code
            if status in FATAL:
                raise UserError(f"{self.url}: HTTP {status}: {FATAL[status]}") from None
            wait = retry_after(error.response.headers)
            retry = status in RETRIED or status >= 500
            if retry and wait is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
            raise RequestError(f"HTTP {status}: {error_message(error.body, request)}", retry, wait) from None
        except openai.APITimeoutError:
            raise RequestError(f"no reply within {self.settings.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise RequestError(f"no connection: {type(error.__cause__ or error).__name__}") from None
        except (openai.APIResponseValidationError, ValueError):  # ValueError: not JSON
            raise RequestError("the reply of the server is not readable") from None
        if not getattr(response, "choices", None):
            raise RequestError("the reply of the server has no choices")
        if response.usage is not None:
            self.usage.prompt_tokens += response.usage.prompt_tokens or 0
            self.usage.completion_tokens += response.usage.completion_tokens or 0
            self._tokens.correct((response.usage.total_tokens or 0) - request.tokens)
        return response

    def _check(self, request: Request, reply: Reply) -> None:
        """End a run that makes no progress: no request was ever answered, or the server has gone away."""
        if reply.response is not None:
            self._answered, self._consecutive_failures = True, 0
            return
        status = re.match(r"HTTP (4\d\d)", reply.error)  # may be the fault of the request, unless it was worth retrying
        if status and any(name in reply.error for name in request.refusable):
            return
        self._failures += 1
        self._consecutive_failures += status is None or int(status[1]) in RETRIED
        if self._consecutive_failures >= MAX_FAILURES or (self._failures >= MAX_FAILURES and not self._answered):
            fix = "Fix the cause and run the same command again to resume"
            raise UserError(f"{self.url}: expected replies, got errors only, such as {reply.error}. {fix}.")

    async def _take_turn(self, tokens: int) -> None:
        """Wait until the limits and the pauses that the server asked for allow a request."""
        while True:
            while (pause := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            await self._tokens.take(tokens)
            await self._requests.take()
            if self._resume_at <= time.monotonic():
                return
            # A pause began meanwhile: take another turn after it, or all that wait would be sent at once when it ends.
            self._tokens.correct(-tokens)
            self._requests.correct(-1)

    def close(self) -> None:
        """Close the connections."""
        if self._openai is not None:
            self._runner.run(self._openai.close())
            self._openai = None
        self._runner.close()


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: as the server asks, else 1, 2, 4, … minus up to a half, so that workers spread out."""
    from tenacity import wait_exponential, wait_random_exponential

    retry_after_seconds = state.outcome.exception().retry_after
    if retry_after_seconds is not None:
        return retry_after_seconds
    half = {"multiplier": 0.5, "max": MAX_WAIT / 2}
    return (wait_exponential(**half) + wait_random_exponential(**half))(state)


def check_host(url: str, allow_remote: bool = False) -> bool:
    """Whether the host of a URL, with all addresses of its name, is this machine or in a private network.

    >>> check_host("http://127.0.0.1:8000/v1"), check_host("http://[::1]:8000/v1"), check_host("http://10.1.2.3/v1")
    (True, True, True)
    >>> check_host("https://8.8.8.8/v1", allow_remote=True)
    False
    >>> check_host("https://8.8.8.8/v1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pipeline.errors.UserError: https://8.8.8.8/v1: this host is outside your machine and its private network. ...
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        entries = socket.getaddrinfo(parts.hostname, parts.port or 443) if is_url else []
    except ValueError:  # brackets, port or host name are malformed
        is_url = False
    except OSError:
        raise UserError(f"{url}: expected a host with an address, got no address for {parts.hostname}.") from None
    if not is_url:
        raise UserError(f"{url}: expected the URL of an API, such as http://127.0.0.1:8000/v1, got something else.")
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    if all(address.is_loopback or (address.is_private and not address.is_unspecified) for address in addresses):
        return True
    if not allow_remote:
        raise UserError(
            f"{url}: this host is outside your machine and its private network. Data of MIMIC-IV patients may not be sent to "
            "third parties unless PhysioNet's data use agreement allows it (no retention, no human review; see "
            "https://physionet.org/news/post/gpt-responsible-use). If it does, add --allow_remote; otherwise serve a model "
            "yourself: python -m vllm.entrypoints.openai.api_server --model MODEL"
        )
    return False


def retry_after(headers: Any) -> float | None:
    """Seconds to wait by the Retry-After header of a response, a number or a date (RFC 9110, 10.2.3); None without one.

    >>> retry_after({"retry-after": "1.5"}), retry_after({"retry-after": "soon"}), retry_after({})
    (1.5, None, None)
    """
    from email.utils import parsedate_to_datetime

    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - time.time()):
        with contextlib.suppress(ValueError):
            return max(0.0, read(headers.get("retry-after", "")))
    return None


def error_message(body: Any, request: Request) -> str:
    """The error message of a server, shortened for the log, without the terms that the request has too: it is patient text.

    Terms of `COMMON_TERMS` are kept.

    >>> request = Request("completions", {"prompt": [17, 4, 22]}, text="An old man with chest pain, 9000 units of heparin")
    >>> error_message({"message": "too many tokens: the prompt has 40000"}, request)
    'too many tokens: the prompt has 40000'
    >>> error_message({"message": "cannot parse 'Heparin' at 9000"}, request)
    "cannot parse '…' at …"
    """
    message = str((body.get("message") if isinstance(body, dict) else body) or "no message")
    prompt = f"{request.text} {request.body.get('messages', '')}".casefold()

    def shown(term: re.Match[str]) -> str:
        text = term[0].casefold()
        return term[0] if text in COMMON_TERMS or text not in prompt else "…"

    return " ".join(re.sub(r"\w+", shown, message).split())[:200]
