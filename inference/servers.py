"""The servers of a model: which one gets the next request, and which are left out because they do not answer.

Several servers of the same model share the requests: the one with the fewest in flight gets the next. A server that is
unavailable for several requests in a row is left out, and the others answer its requests. It is tried again after a pause,
which doubles each time. One that refuses the key or the model, or whose account is exhausted, gets no more requests. The last
one is never left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

from inference.server_errors import read_error
from inference.server_messages import KEY_VARIABLE, parsed
from inference.settings import ServerSettings
from pipeline.errors import UserError

if TYPE_CHECKING:
    from openai import APIConnectionError, AsyncOpenAI

UNAVAILABLE = {502, 503, 504, *range(520, 525), 529, 530}  # statuses of a server that is stopped, or not started yet
API_VERSION = "api-version"  # in the query of a URL: Azure
REPORTED = ("id", "root", "parent", "max_model_len")  # fields of a listed model that are not the time of the listing
CONNECT_TIMEOUT = 30.0  # seconds to wait for a connection
LIST_TIMEOUT = 10.0  # seconds to wait for the list of models
MAX_LISTED = 10  # models of a server that an error names
MAX_UNANSWERED = 3  # consecutive requests that a server is unavailable for, before it is left out
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a server that was left out is tried again


class UnavailableError(Exception):
    """A server that does not answer now; `connected`: a connection was made."""

    def __init__(self, reason: str, connected: bool = True) -> None:
        super().__init__(reason)
        self.connected = connected


class RefusalError(Exception):
    """A server that refuses the key, and what to do."""


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


@dataclass(eq=False)
class Server:
    """A server, its limits, and its state. Times are those of `time.monotonic`."""

    url: str
    is_local: bool
    requests: Pace
    tokens: Pace
    timeout: float
    in_flight: int = 0
    num_sent: int = 0
    resume_at: float = 0.0  # no request is sent before: the server asked for a pause
    unanswered: int = 0  # consecutive requests that it was unavailable for
    try_at: float | None = None  # when it is tried again if it is left out; None: it is not
    pause: float = FIRST_PAUSE
    has_replied: bool = False  # with choices
    refusals: int = 0  # consecutive errors that every request would get
    refused_at: float = 0.0  # when the last one came
    excluded: bool = False  # gets no more requests because of them
    _openai: AsyncOpenAI | None = field(default=None, repr=False)

    @property
    def openai(self) -> AsyncOpenAI:
        """The connections to the server."""
        if self._openai is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

            key = os.environ.get(KEY_VARIABLE)
            if not key and not self.is_local:
                raise UserError(f"{self.url}: expected a key in ${KEY_VARIABLE}, got none.")
            # Neither a redirect nor a proxy of the environment may carry patient text from a local server elsewhere.
            options = {"follow_redirects": False, "trust_env": not self.is_local, "verify": certificates()}
            http = DefaultAsyncHttpxClient(**options)
            timeout = Timeout(self.timeout, connect=min(self.timeout, CONNECT_TIMEOUT))
            parts = urlsplit(self.url)
            options = {"default_query": self.query, "timeout": timeout, "http_client": http, "max_retries": 0}
            self._openai = AsyncOpenAI(base_url=urlunsplit(parts._replace(query="")), api_key=key or "none", **options)
        return self._openai

    @property
    def query(self) -> dict[str, str]:
        """The query of the URL, which each request has."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def headers(self) -> dict[str, Any]:
        """Further headers of a request: Azure takes the key in a header of its own."""
        from openai import Omit

        key = os.environ.get(KEY_VARIABLE) or "none"
        return {"api-key": key, "Authorization": Omit()} if API_VERSION in self.query else {}

    async def models(self) -> list[str]:
        """The names of the models that the server lists; none if it does not."""
        import openai

        try:
            page = await self.openai.with_options(timeout=LIST_TIMEOUT).models.list(extra_headers=self.headers)
            return [entry.id for entry in page.data if isinstance(entry.id, str)]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):  # another kind of reply
            return []

    async def alternatives(self) -> str:
        """What an error that no request can avoid should say: the models of the server, or where its API seems to be."""
        if models := await self.models():
            further = f" and {len(models) - MAX_LISTED} more" if len(models) > MAX_LISTED else ""
            return f"; the server has {', '.join(models[:MAX_LISTED])}{further}"
        if not urlsplit(self.url).path.rstrip("/").endswith("/v1"):
            below = Server(urlunsplit(_with_v1(self.url)), self.is_local, self.requests, self.tokens, self.timeout)
            try:
                if await below.models():
                    return f"; there is an API at {below.url}"
            finally:
                await below.close()
        return ""

    async def report(self, model: str) -> dict[str, Any]:
        """What the server says of a model; empty if it does not list it.

        Raises:
            RefusalError: the key is refused.
            UnavailableError: the server does not answer.
        """
        import openai

        try:
            page = await self.openai.with_options(timeout=LIST_TIMEOUT).models.list(extra_headers=self.headers)
            listed = [entry.model_dump() for entry in page.data]
        except openai.APIStatusError as error:
            if error.status_code == 401 and "scope" not in error.response.text:  # keys may lack the right to list models
                refusal = read_error(401, parsed(error.response.text))
                raise RefusalError(f"{self.url}: expected a list of models, got {refusal}. {refusal.fix}.") from None
            if error.status_code in UNAVAILABLE:
                raise UnavailableError(f"HTTP {error.status_code}") from None
            return {}  # some servers list nothing, or not to every key
        except openai.APIConnectionError as error:
            raise connection_error(self.url, error, LIST_TIMEOUT) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):  # another kind of reply
            return {}
        entry = next((entry for entry in listed if entry.get("id") == model), {})
        return {name: entry.get(name) for name in REPORTED if name in entry}

    async def close(self) -> None:
        if self._openai is not None:
            await self._openai.close()
            self._openai = None


class Servers:
    """The servers of a model."""

    def __init__(self, settings: ServerSettings, model: str) -> None:
        self.model, self.limit = model, settings.num_worker
        is_local = {url: check_host(url, settings.allow_remote) for url in settings.urls}
        limits = settings.max_rpm, settings.max_tpm
        self.servers = [Server(url, local, *map(Pace, limits), settings.timeout) for url, local in is_local.items()]
        self._report: dict[str, Any] | None = None
        self._queue = asyncio.Lock()  # one request waits for a server at a time, in their order
        self._changed = asyncio.Event()

    @property
    def capacity(self) -> int:
        """Requests in flight at most."""
        return self.limit * len(self.servers)

    async def report(self) -> dict[str, Any]:
        """What the servers say of the model; empty if they do not list it.

        Raises:
            UserError: none of them answers, a key is refused, or they serve different models.
        """
        return (await self._reports())[0]

    async def start(self) -> None:
        """Check that several servers have the same model, and leave out those that do not answer."""
        if self._report is None and len(self.servers) > 1:
            self._report, errors = await self._reports()
            for server, error in errors.items():
                if isinstance(error, RefusalError):
                    self.exclude(server, str(error).removeprefix(f"{server.url}: "))
                else:
                    self._leave_out(server, str(error))

    async def _reports(self) -> tuple[dict[str, Any], dict[Server, Exception]]:
        """What the servers say of the model, and the errors of servers that do not answer or refuse the key."""
        results = await asyncio.gather(*(each.report(self.model) for each in self.servers), return_exceptions=True)
        by_server = dict(zip(self.servers, results, strict=True))
        errors = {server: error for server, error in by_server.items() if isinstance(error, (UnavailableError, RefusalError))}
        refusals = [error for error in errors.values() if isinstance(error, RefusalError)]
        if len(errors) == len(self.servers) and refusals:
            raise UserError(str(refusals[0]))
        if len(errors) == len(self.servers) and (len(errors) > 1 or not next(iter(errors.values())).connected):
            urls = ", ".join(server.url for server in self.servers)
            fix = "Start the server, or check host and port of the URL"
            raise UserError(f"{urls}: expected a server, got {next(iter(errors.values()))}. {fix}.")
        reports = {server: report for server, report in by_server.items() if server not in errors}
        for error in reports.values():
            if isinstance(error, BaseException):
                raise error
        reference = next(filter(None, reports.values()), {})
        for server, report in reports.items():
            self._compare(server, report, reference)
        return reference, errors

    def _compare(self, server: Server, report: dict[str, Any], reference: dict[str, Any]) -> None:
        """Check that a server has the model of the others."""
        if report != reference:
            names = [name for name in REPORTED if report.get(name) != reference.get(name)]
            got = f"another {' and '.join(names)}" if report else "a server that does not list it"
            fix = "Serve the same model with the same options everywhere, or leave this URL out"
            raise UserError(f"{server.url}: expected the model {self.model} of the other servers, got {got}. {fix}.")

    # --- requests

    @contextlib.asynccontextmanager
    async def slot(self, tokens: int, avoid: Server | None = None) -> AsyncIterator[Server]:
        """Wait until limits and pauses allow a request, and yield the server that gets it.

        Args:
            tokens: of prompt and reply, estimated.
            avoid: gets the request only if no other server can.
        """
        while True:
            server = await self._choose(avoid)
            try:
                if await self._is_allowed(server, tokens):
                    server.num_sent += 1
                    yield server
                    return
            finally:
                server.in_flight -= 1
                self._changed.set()

    async def _choose(self, avoid: Server | None) -> Server:
        """Wait for a server that can take a request; one that is to be tried again goes first."""
        async with self._queue:
            while not (ready := self._ready()):
                self._changed.clear()
                now = time.monotonic()
                times = [at for server in self.servers for at in (server.resume_at, server.try_at or 0.0) if at > now]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(times) - now if times else None):
                        await self._changed.wait()
            server = min(ready, key=lambda each: (each is avoid, each.try_at is None, each.in_flight, each.num_sent))
            server.in_flight += 1
            return server

    def _ready(self) -> list[Server]:
        now = time.monotonic()
        used = [server for server in self.servers if not server.excluded and server.in_flight < self.limit]
        return [server for server in used if max(server.resume_at, server.try_at or 0.0) <= now]

    async def _is_allowed(self, server: Server, tokens: int) -> bool:
        """Wait for a server's limits; False if the request must choose a server again."""
        is_trial = server.try_at is not None
        if is_trial:
            self._postpone(server)  # the next trial, if this one fails
            try:
                self._compare(server, await server.report(self.model), self._report)
            except UnavailableError:
                return False
            except RefusalError as error:
                if not self.exclude(server, str(error)):
                    raise UserError(str(error)) from None
                return False
        await server.tokens.take(tokens)
        await server.requests.take()
        if not server.excluded and server.resume_at <= time.monotonic() and (is_trial or server.try_at is None):
            return True
        # A pause began meanwhile: take another turn after it, or all that wait would be sent at once when it ends.
        server.tokens.correct(-tokens)
        server.requests.correct(-1)
        return False

    def answered(self, server: Server, sent_at: float | None = None) -> None:
        """Note that a server answered a request; `sent_at`: when it was sent, if the answer has choices."""
        server.unanswered = 0
        if sent_at is not None:
            server.has_replied = True
            server.refusals *= sent_at <= server.refused_at  # a reply to an earlier request does not end the refusals
        if server.try_at is not None:
            server.try_at, server.pause = None, FIRST_PAUSE
            self._changed.set()
            print(f"warning: {server.url} answers again and gets requests.", file=sys.stderr)

    def unavailable(self, server: Server, reason: str) -> None:
        """Note that a server was unavailable for a request."""
        server.unanswered += 1
        if server.try_at is None and server.unanswered >= MAX_UNANSWERED and self.others(server):
            self._leave_out(server, reason)

    def others(self, server: Server, within: float = float("inf")) -> Sequence[Server]:
        """The other servers that are not left out, and take requests again `within` these seconds."""
        latest = time.monotonic() + within
        used = [other for other in self.servers if other is not server and not other.excluded]
        return [other for other in used if other.try_at is None and other.resume_at <= latest]

    def exclude(self, server: Server, reason: str) -> bool:
        """Send no more requests to a server that refuses them all; returns False if there is no other one."""
        if all(other.excluded for other in self.servers if other is not server):
            return False
        if not server.excluded:
            server.excluded = True
            print(f"warning: {server.url} gets no more requests: {reason.rstrip('. ')}.", file=sys.stderr)
        if not self.others(server):  # those that were left out have the requests now
            for other in self.servers:
                other.try_at = None
        self._changed.set()
        return True

    def _leave_out(self, server: Server, reason: str) -> None:
        self._postpone(server)
        print(f"warning: {server.url} is left out until it answers again: {reason}.", file=sys.stderr)

    def _postpone(self, server: Server) -> None:
        server.try_at = time.monotonic() + server.pause
        server.pause = min(2 * server.pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Close the connections."""
        for server in self.servers:
            await server.close()


def certificates() -> ssl.SSLContext:
    """The authorities whose certificates are accepted: those of $SSL_CERT_FILE or $SSL_CERT_DIR, or the usual ones."""
    file, folder = (os.environ.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file, capath=folder)
    except OSError:
        name, kind = ("SSL_CERT_FILE", "a file") if file else ("SSL_CERT_DIR", "a directory")
        raise UserError(f"${name}: expected {kind} of certificates (PEM), got none at {file or folder}.") from None
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


# What to do about a certificate that cannot be verified, by the code of OpenSSL.
_CERTIFICATE_FIXES = {
    9: "Check the clock of this machine",
    10: "Its owner must renew it",
    62: "Use the host name that the certificate is for",
    64: "Use the host name that the certificate is for, not its address",
}
_CERTIFICATE_FIX = "Set $SSL_CERT_FILE to a file (PEM) with the certificate of its authority"
# Errors of a connection that was made, by class.
_BROKEN = {
    "RemoteProtocolError": "no reply: the connection was closed",
    "ReadError": "no reply: the connection was closed",
    "WriteError": "no reply: the connection was closed",
    "DecodingError": "a reply that cannot be decompressed",
}


def connection_error(url: str, error: APIConnectionError, timeout: float) -> UnavailableError:
    """What a connection error of the `openai` package says, which names no class for the several kinds.

    Raises:
        UserError: the connection cannot be made secure, or a proxy refuses.
    """
    import openai

    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if refused := next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None):
        fix = _CERTIFICATE_FIXES.get(refused.verify_code, _CERTIFICATE_FIX)
        raise UserError(f"{url}: expected a certificate that can be verified, got: {refused.verify_message}. {fix}.")
    if plain := next((cause for cause in causes if isinstance(cause, ssl.SSLError) and "VERSION" in str(cause.reason)), None):
        fix = "If the server has no certificate, its URL begins with http://"
        raise UserError(f"{url}: expected a secure connection, got {plain.reason.replace('_', ' ').lower()}. {fix}.")
    name = type(error.__cause__ or error).__name__
    if name == "ProxyError":
        fix = "Check $HTTPS_PROXY and $HTTP_PROXY, or add the host to $NO_PROXY"
        raise UserError(f"{url}: expected a connection by the proxy, got: {error.__cause__}. {fix}.")
    if name not in ("ConnectError", "ConnectTimeout") and isinstance(error, openai.APITimeoutError):
        return UnavailableError(f"no reply within {timeout:g} s")
    connected = name not in ("ConnectError", "ConnectTimeout")
    return UnavailableError(_BROKEN.get(name) or f"no connection: {name}", connected)


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
        entries = []  # only a proxy may know its address
        if not uses_proxy(parts):
            raise UserError(f"{url}: expected a host with an address, got no address for {parts.hostname}.") from None
    if is_url and (parts.username or parts.password):
        raise UserError(f"{parts.hostname}: expected a URL without a user name and password, got them in it. Remove them.")
    if is_url and (endpoint := re.search(r"/(?:chat/)?completions/?$", parts.path)):
        raise UserError(f"{url}: expected the URL of an API, got that of an endpoint. Remove {endpoint[0]}.")
    if not is_url:
        raise UserError(f"{url}: expected the URL of an API, such as http://127.0.0.1:8000/v1, got something else.")
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    is_near = [address.is_loopback or (address.is_private and not address.is_unspecified) for address in addresses]
    if is_near and all(is_near):
        return True
    if not allow_remote:
        raise UserError(
            f"{url}: this host is outside your machine and its private network. Data of MIMIC-IV patients may not be sent to "
            "third parties unless PhysioNet's data use agreement allows it (no retention, no human review; see "
            "https://physionet.org/news/post/gpt-responsible-use). If it does, add --allow_remote; otherwise serve a model "
            "yourself: python -m vllm.entrypoints.openai.api_server --model MODEL"
        )
    return False


def _with_v1(url: str) -> SplitResult:
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/v1")


def uses_proxy(parts: SplitResult) -> bool:
    """Whether the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) has a proxy for a URL."""
    proxies = getproxies_environment()
    return any(proxies.get(name) for name in (parts.scheme, "all")) and not proxy_bypass_environment(parts.hostname)
