"""The client of OpenAI-compatible servers: many requests in flight, limits, retries, and no patient text to remote hosts.

Evaluation (`--url`) and the synthesis of reasoning chains (`--base_url`) use it. The `openai` package speaks the protocol, and
tenacity repeats requests. What is here is the rest: a bound on the requests in flight, limits per minute that hold for retries
too, a pause for all requests to a server that asks for it, and replies in the order in which they finish. `inference.servers`
chooses the server of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from inference.dialects import unwrapped, usage_of
from inference.server_errors import EVERY_REQUEST, MODEL, OTHER, RETRY, ServerError, error_in_body, read_error
from inference.server_messages import parsed, server_message, without_prompt
from inference.servers import UNAVAILABLE, Server, Servers, connection_error
from inference.settings import ServerSettings
from pipeline.errors import UserError
from pipeline.signals import on_signals

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    from tenacity import RetryCallState

MAX_TRIES = 7  # of a request, before its error is reported
MAX_WAIT = 60.0  # seconds between two tries, unless the server asks for more
LONGEST_PAUSE = 900.0  # seconds that a server may ask to wait; if it asks for more, the run ends
MAX_FAILURES = 20  # requests that failed in all tries before a run ends: the first ones, or consecutive ones later on
MAX_UNREADABLE = 3  # first requests that got replies which cannot be read, and may be paid for, before a run ends
MAX_ACCOUNT_ERRORS = 3  # consecutive ones of a server that had answered before it gets no more requests; otherwise one
LAST_WAIT = 120.0  # seconds that replies on their way are awaited after Ctrl-C or SIGTERM
RESUME = "Run the same command again to resume"


@dataclass(frozen=True)
class Request:
    """A request: the endpoint (`chat` or `completions`) and the arguments of its `create`."""

    endpoint: str
    body: dict[str, Any]
    tokens: int = 0  # of prompt and reply, estimated, for a limit of tokens a minute; the server's count corrects it
    text: str = ""  # of the prompt, if the body has its token ids: no message of the server that quotes it is logged
    refusable: tuple[str, ...] = ()  # fields that a server may refuse by name: no failure, as the sender deals with it

    @property
    def prompt(self) -> str:
        """What is left out of messages of the server."""
        return f"{self.text} {self.body.get('messages', '')}"


@dataclass(frozen=True)
class Reply:
    """The response of the server, or why all tries failed, and how many tries there were.

    `cause` is the error that the server reported, if it was one.
    """

    response: ChatCompletion | Completion | None
    error: str | None = None
    tries: int = 1
    cause: ServerError | None = None


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
        cause: the error that the server reported; None: there was another one, which another try may not get.
        retry_after: seconds that the server asks to wait.
        elsewhere: whether the server is at fault and there is another one, so that the next try need not wait.
    """

    def __init__(
        self,
        reason: str,
        server: Server,
        cause: ServerError | None = None,
        retry_after: float | None = None,
        elsewhere: bool = False,
    ) -> None:
        super().__init__(reason)
        self.server, self.cause = server, cause
        self.retry_after, self.elsewhere = retry_after, elsewhere

    @property
    def retry(self) -> bool:
        return self.cause is None or self.cause.kind == RETRY


class InterruptError(Exception):
    """Ends a run after Ctrl-C or SIGTERM."""


class Client:
    """Sends requests to the servers of a model."""

    def __init__(self, settings: ServerSettings, model: str, max_tries: int = MAX_TRIES) -> None:
        self.settings, self.max_tries, self.url = settings, max_tries, ", ".join(settings.urls)
        self.usage = Usage()
        self.servers = Servers(settings, model)
        self.is_local = all(server.is_local for server in self.servers.servers)
        self._answered, self._failures, self._consecutive_failures, self._unreadable = False, 0, 0, 0
        self._end: BaseException | None = None  # why no more requests are sent
        self._workers: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()  # workers whose request is on its way
        self._runner = asyncio.Runner()

    def served_model(self) -> dict[str, Any]:
        """What the servers say of the model (`Servers.report`)."""
        return self._runner.run(self.servers.report())

    def send(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply]]:
        """Send requests and yield (position, reply) as replies come.

        Requests are drawn when one may be sent. Closing the iterator cancels those in flight.

        Raises:
            UserError: no request can succeed. By then, all replies to requests that were on their way have been yielded.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after replies on their way have been awaited for `LAST_WAIT` seconds. At the
                second signal they are given up.
        """
        stream, signals = self._stream(requests), []

        async def next_reply() -> tuple[int, Reply] | None:
            return await anext(stream, None)

        def call(step: Callable[[], None], number: int) -> None:
            signals.append(number)
            self._runner.get_loop().call_soon_threadsafe(step)

        try:
            with on_signals(partial(call, self._finish), partial(call, self._give_up)):
                while (reply := self._runner.run(next_reply())) is not None:
                    yield reply
        except InterruptError:
            raise KeyboardInterrupt(*signals[:1]) from None
        finally:
            self._runner.run(stream.aclose())

    async def _stream(self, requests: Iterable[Request]) -> AsyncIterator[tuple[int, Reply]]:
        await self.servers.start()
        numbered = enumerate(requests)
        replies: asyncio.Queue[tuple[int, Reply] | None] = asyncio.Queue()
        # Bounds the requests that were sent and whose reply was not taken: a killed process loses no more than these.
        free = asyncio.Semaphore(self.servers.capacity)
        self._end = None

        async def work() -> None:
            try:
                while self._end is None and await free.acquire() and (item := next(numbered, None)):
                    position, request = item
                    reply = await self._ask(request)
                    self._check(reply)
                    if reply.response is not None or self._end is None:  # errors that end a run are not about a request
                        replies.put_nowait((position, reply))
            finally:
                replies.put_nowait(None)

        self._workers = workers = [asyncio.create_task(work()) for _ in range(self.servers.capacity)]
        running = len(workers)
        try:
            while running:
                reply = await replies.get()
                if reply is None:
                    running -= 1
                    for worker in workers:
                        if worker.done() and not worker.cancelled() and (error := worker.exception()):
                            self._stop(error)
                else:
                    yield reply
                    free.release()
            if self._end is not None:
                raise self._end
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _stop(self, error: BaseException) -> None:
        """Send no more requests. Those on their way are paid for, so they are awaited."""
        if self._end is None:
            self._end = error
            for worker in {*self._workers} - self._sending - {asyncio.current_task()}:
                worker.cancel()

    def _finish(self) -> None:
        """Send no more requests after a signal, and await replies on their way, which are paid for, for a while."""
        wait = f"Waiting at most {LAST_WAIT:g} s for {len(self._sending)} replies on their way; a second Ctrl-C ends at once"
        print(f"warning: interrupted: no more requests are sent. {wait}.", file=sys.stderr)
        self._stop(InterruptError())
        asyncio.get_running_loop().call_later(LAST_WAIT, self._give_up)

    def _give_up(self) -> None:
        """Await nothing more."""
        for worker in self._workers:
            worker.cancel()

    async def _ask(self, request: Request) -> Reply:
        """Send one request, repeated if need be."""
        from tenacity import AsyncRetrying, stop_after_attempt

        def is_repeated(state: RetryCallState) -> bool:
            error = state.outcome.exception()
            return isinstance(error, RequestError) and not self._end and (error.retry or error.elsewhere)

        attempts = AsyncRetrying(stop=stop_after_attempt(self.max_tries), wait=_wait, retry=is_repeated, reraise=True)
        failed = None
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
            return Reply(None, str(error), attempts.statistics["attempt_number"], error.cause)
        return Reply(response, tries=attempts.statistics["attempt_number"])

    async def _try(self, request: Request, avoid: Server | None) -> ChatCompletion | Completion:
        """Send a request once, when limits and pauses allow it; a `RequestError` if there is no usable response."""
        async with self.servers.slot(request.tokens, avoid) as server:
            self.usage.requests += 1
            worker, sent_at = asyncio.current_task(), time.monotonic()
            self._sending.add(worker)
            try:
                response = await self._respond(server, request)
            finally:
                self._sending.discard(worker)
            self.servers.answered(server, sent_at)
            if counts := usage_of(response):
                self.usage.prompt_tokens += counts["prompt_tokens"]
                self.usage.completion_tokens += counts["completion_tokens"]
                server.tokens.correct(sum(counts.values()) - request.tokens)
            return response

    async def _respond(self, server: Server, request: Request) -> ChatCompletion | Completion:
        """The response of a server, which has choices; a `RequestError` if it has none."""
        import openai

        is_chat = request.endpoint == "chat"
        endpoint = server.openai.chat.completions if is_chat else server.openai.completions
        try:
            raw = await endpoint.with_raw_response.create(**request.body, extra_headers=server.headers)
        except openai.APIStatusError as error:
            raise await self._refusal(server, request, error) from None
        except openai.APIConnectionError as error:
            reason = str(connection_error(server.url, error, self.settings.timeout))
            self.servers.unavailable(server, reason)
            raise RequestError(reason, server, elsewhere=bool(self.servers.others(server))) from None
        with contextlib.suppress(openai.APIResponseValidationError, ValueError):  # ValueError: not JSON
            if _has_choices(response := raw.parse()):
                return response
        body = unwrapped(raw.text)
        if isinstance(body, dict) and _has_choices(response := _constructed(body, is_chat)):
            return response
        reason = "the reply of the server has no choices"
        if isinstance(body, str):
            page = without_prompt(server_message(body), request.prompt) or "nothing"
            reason = f"the reply of the server is not readable: expected JSON, got text ({page})"
            if body.startswith(("{", "[")):
                reason = "the reply of the server is not readable: expected JSON, got a part of it"
        elif reported := error_in_body(body):
            error = read_error(*reported, request.prompt, request.refusable)
            raise self._after_error(server, error, f"HTTP 200 with the error {error.status}: {error.message}")
        is_paid_for = isinstance(body, dict) and bool(
            usage_of(_constructed(body, is_chat))
        )  # the same prompt would get the same
        raise RequestError(reason, server, ServerError(raw.status_code, OTHER if is_paid_for else RETRY, reason))

    async def _refusal(self, server: Server, request: Request, error: APIStatusError) -> RequestError:
        """What follows from a response with an error."""
        response = error.response
        refusal = read_error(error.status_code, parsed(response.text), request.prompt, request.refusable, response.headers)
        if refusal.status in UNAVAILABLE:
            self.servers.unavailable(server, f"HTTP {refusal.status}")
        elif refusal.status < 500:
            self.servers.answered(server)
        reason = str(refusal)
        if 300 <= refusal.status < 400:
            target = urlsplit(response.headers.get("location", ""))._replace(query="", fragment="").geturl() or "nowhere"
            reason = f"HTTP {refusal.status}: a redirect to {target}, which is not followed. Give the URL of the API itself"
        if refusal.kind == MODEL:
            reason = reason.rstrip(". ") + await server.alternatives()
        return self._after_error(server, refusal, reason)

    def _after_error(self, server: Server, error: ServerError, reason: str) -> RequestError:
        """What follows from an error that a server reported: a pause, another server, or the end of the run."""
        wait = error.pause if error.kind == RETRY else None
        if wait is not None:
            if MAX_WAIT < wait <= LONGEST_PAUSE and server.resume_at < time.monotonic():
                print(f"warning: {server.url} asks to wait for {wait:.0f} s: {error}.", file=sys.stderr)
            server.resume_at = max(server.resume_at, time.monotonic() + wait)
        others = self.servers.others(server, within=LONGEST_PAUSE)
        is_of_server = error.kind in EVERY_REQUEST or (error.kind == RETRY and error.status in {*UNAVAILABLE, 429})
        elsewhere = bool(others) and is_of_server
        if wait is not None and wait > LONGEST_PAUSE and not others:
            until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + min(wait, 1e8)))
            got = f"{error}, and a request to wait for {wait / 3600:,.3g} hours"
            self._stop(UserError(f"{server.url}: expected replies, got {got}. Run the same command again after {until}."))
        if error.kind in EVERY_REQUEST:
            server.refusals, server.refused_at = server.refusals + 1, time.monotonic()
            is_last = server.refusals >= (MAX_ACCOUNT_ERRORS if server.has_replied else 1)
            if is_last and not self.servers.exclude(server, reason):
                self._stop(UserError(f"{server.url}: expected replies, got {reason.rstrip('. ')}. {error.fix}. {RESUME}."))
        elif error.fix and not error.refused:
            reason = f"{reason.rstrip('. ')}. {error.fix}"
        return RequestError(reason, server, error, wait, elsewhere)

    def _check(self, reply: Reply) -> None:
        """End a run that makes no progress: no request was ever answered, or the server has gone away."""
        if reply.response is not None:
            self._answered, self._consecutive_failures = True, 0
            return
        if reply.cause and reply.cause.refused:
            return  # the sender deals with it
        self._failures += 1
        self._consecutive_failures += reply.cause is None or reply.cause.kind == RETRY
        self._unreadable += reply.cause is not None and reply.cause.status == 200
        first = MAX_UNREADABLE if self._unreadable == self._failures else MAX_FAILURES
        if self._consecutive_failures >= MAX_FAILURES or (self._failures >= first and not self._answered):
            got, fix = reply.error.rstrip(". "), f"Fix the cause. {RESUME}"
            self._stop(UserError(f"{self.url}: expected replies, got errors only, such as {got}. {fix}."))

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self.servers.close())
        self._runner.close()


def _has_choices(response: Any) -> bool:
    """Whether a response has choices that are paid for: not only errors in their place."""
    if not isinstance(choices := getattr(response, "choices", None), list) or not choices:
        return False
    return not all((getattr(choice, "model_extra", None) or {}).get("error") for choice in choices)


def _constructed(body: dict[str, Any], is_chat: bool) -> ChatCompletion | Completion:
    """A response from its body, unchecked, as servers leave fields out."""
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    return (ChatCompletion if is_chat else Completion).construct(**body)


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
