"""The client of OpenAI-compatible servers: many requests in flight, limits, retries, and no patient text to remote hosts.

Evaluation (`--url`) and the synthesis of reasoning chains (`--base_url`) use it. The `openai` package speaks the protocol, and
tenacity repeats requests. What is here is the rest: a bound on the requests in flight, limits per minute that hold for retries
too, a pause for all requests to a server that asks for it, and replies in the order in which they finish. `inference.servers`
chooses the server of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.servers import FATAL, UNAVAILABLE, Server, Servers, connection_error
from inference.settings import ServerSettings
from pipeline.errors import UserError

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    from tenacity import RetryCallState

MAX_TRIES = 7  # of a request, before its error is reported
MAX_WAIT = 60.0  # seconds between two tries, unless the server asks for more
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
    """A try that failed.

    Attributes:
        retry: whether another try may succeed.
        retry_after: seconds that the server asks to wait.
        elsewhere: whether the server is at fault and there is another one, so that the next try need not wait.
    """

    def __init__(
        self, reason: str, server: Server, retry: bool = True, retry_after: float | None = None, elsewhere: bool = False
    ) -> None:
        super().__init__(reason)
        self.server, self.retry, self.retry_after, self.elsewhere = server, retry, retry_after, elsewhere


class Client:
    """Sends requests to the servers of a model."""

    def __init__(self, settings: ServerSettings, model: str, max_tries: int = MAX_TRIES) -> None:
        self.settings, self.max_tries, self.url = settings, max_tries, ", ".join(settings.urls)
        self.usage = Usage()
        self.servers = Servers(settings, model)
        self.is_local = all(server.is_local for server in self.servers.servers)
        self._answered, self._failures, self._consecutive_failures = False, 0, 0
        self._runner = asyncio.Runner()

    def served_model(self) -> dict[str, Any]:
        """What the servers say of the model (`Servers.report`)."""
        return self._runner.run(self.servers.report())

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
        await self.servers.start()
        numbered = enumerate(requests)
        replies: asyncio.Queue[tuple[int, Reply] | None] = asyncio.Queue()
        # Bounds the requests that were sent and whose reply was not taken: a killed process loses no more than these.
        free = asyncio.Semaphore(self.servers.capacity)

        async def work() -> None:
            try:
                while await free.acquire() and (item := next(numbered, None)):
                    position, request = item
                    reply = await self._ask(request)
                    replies.put_nowait((position, reply))
                    self._check(request, reply)
            finally:
                replies.put_nowait(None)

        workers = [asyncio.create_task(work()) for _ in range(self.servers.capacity)]
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
        response, reason, failed = None, None, None
        try:
            async for attempt in attempts:
                with attempt:
                    self.usage.retries += attempt.retry_state.attempt_number > 1
                    try:
                        response = await self._try(request, failed)
                    except RequestError as error:
                        failed = error.server
                        raise
        except RequestError as error:
            reason = str(error)
        return Reply(response, reason, attempts.statistics["attempt_number"])

    async def _try(self, request: Request, avoid: Server | None) -> ChatCompletion | Completion:
        """Send a request once, when limits and pauses allow it; a `RequestError` if there is no usable response."""
        async with self.servers.slot(request.tokens, avoid) as server:
            self.usage.requests += 1
            response = await self._respond(server, request)
            if not getattr(response, "choices", None):
                raise RequestError("the reply of the server has no choices", server)
            self.servers.answered(server)
            if response.usage is not None:
                self.usage.prompt_tokens += response.usage.prompt_tokens or 0
                self.usage.completion_tokens += response.usage.completion_tokens or 0
                server.tokens.correct((response.usage.total_tokens or 0) - request.tokens)
            return response

    async def _respond(self, server: Server, request: Request) -> ChatCompletion | Completion:
        """The response of a server, whatever it is."""
        import openai

        endpoint = server.openai.chat.completions if request.endpoint == "chat" else server.openai.completions
        try:
            return await endpoint.create(**request.body)
        except openai.APIStatusError as error:
            status = error.status_code
            if status in FATAL:
                raise UserError(f"{server.url}: HTTP {status}: {FATAL[status]}") from None
            wait = retry_after(error.response.headers)
            retry = status in RETRIED or status >= 500
            if retry and wait is not None:
                server.resume_at = max(server.resume_at, time.monotonic() + wait)
            if status in UNAVAILABLE:
                self.servers.unavailable(server, f"HTTP {status}")
            elif status < 500:
                self.servers.answered(server)
            elsewhere = (status in UNAVAILABLE or status == 429) and bool(self.servers.others(server))
            reason = f"HTTP {status}: {error_message(error.body, request)}"
            raise RequestError(reason, server, retry, wait, elsewhere) from None
        except openai.APIConnectionError as error:
            reason = str(connection_error(error, self.settings.timeout))
            self.servers.unavailable(server, reason)
            raise RequestError(reason, server, elsewhere=bool(self.servers.others(server))) from None
        except (openai.APIResponseValidationError, ValueError):  # ValueError: not JSON
            raise RequestError("the reply of the server is not readable", server) from None

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

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self.servers.close())
        self._runner.close()


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: as the server asks, else 1, 2, 4, … minus up to a half, so that workers spread out.

    Another server gets the request at once, instead of one that asks for a pause or failed in the first try.
    """
    from tenacity import wait_exponential, wait_random_exponential

    error = state.outcome.exception()
    if error.elsewhere and (error.retry_after is not None or state.attempt_number == 1):
        return 0.0
    if error.retry_after is not None:
        return error.retry_after
    half = {"multiplier": 0.5, "max": MAX_WAIT / 2}
    return (wait_exponential(**half) + wait_random_exponential(**half))(state)


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
