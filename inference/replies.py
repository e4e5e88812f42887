"""A model's replies on disk: one JSON line a finished request, by key, so that nothing is lost and nothing is asked twice.

`reasoning_generation.py`, and `filter_reasoning.py` for its second reader, share what is here: the file of lines and how an
interrupted run goes on in it, tokens and their cost, and the loop that sends requests and writes replies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.client import Client, Reply, Request
from pipeline.errors import UserError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

Line = dict[str, Any]

NO_URL = (
    "--base_url: wanted the URL of an OpenAI-compatible API, found none. There is no default: records of MIMIC-IV patients "
    "may not be sent to a service unless PhysioNet's data use agreement allows it. Serve a model yourself, as with "
    "python -m vllm.entrypoints.openai.api_server --model MODEL, and give --base_url http://127.0.0.1:8000/v1"
)


# --- lines on disk


def chunk_file(folder: Path, name: str, chunk_num: int, chunk_idx: int) -> Path:
    """The file a process writes to; each chunk has its own.

    >>> chunk_file(Path("d"), "reasoning", 1, 0).name, chunk_file(Path("d"), "reasoning", 4, 2).name
    ('reasoning.jsonl', 'reasoning-2-of-4.jsonl')
    """
    return folder / (f"{name}.jsonl" if chunk_num == 1 else f"{name}-{chunk_idx}-of-{chunk_num}.jsonl")


def chunk_files(folder: Path, name: str) -> list[Path]:
    """All files of that name in a folder, whatever the chunks."""
    return sorted([*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}-*-of-*.jsonl")])


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """(offset in bytes, line) of a file's lines. A last line without its end was torn by a kill: it is left out.

    Raises:
        UserError: a whole line is not a JSON object with a key.
    """
    offset = 0
    with path.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.endswith(b"\n"):
                return
            try:
                line = json.loads(data)
                line["key"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number}: wanted a JSON object with a key, found something else; remove that line and run "
                    "the same command again"
                ) from None
            yield offset, line
            offset += len(data)


def read_line(path: Path, offset: int) -> Line:
    """The line at an offset that `read_lines` gave."""
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.readline())


def finished_keys(folder: Path, name: str, meter: Meter) -> set[str]:
    """Keys of the requests that have a reply, in any chunk's file; what they and the failed ones cost goes to the meter."""
    keys = set()
    for path in chunk_files(folder, name):
        for _, line in read_lines(path):
            meter.earlier(line)
            if not line.get("error"):
                keys.add(line["key"])
    return keys


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[Line], None]]:
    """A function that appends a line to a file, flushed, for as long as the block lasts.

    A torn last line, as a kill or a full disk leaves it, is taken off first. The file is locked meanwhile; the lock is the
    operating system's, so it goes when its process dies.

    Raises:
        UserError: another process is writing to this file.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0), path.open("a+b") as file:
            file.seek(0)
            whole = sum(len(data) for data in file if data.endswith(b"\n"))
            file.truncate(whole)

            def append(line: Line) -> None:
                file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                file.flush()

            yield append
    except Timeout:
        raise UserError(
            f"{path}: wanted to be the one process that writes to it, found another; wait for it, or split the work with "
            "--chunk_num and --chunk_idx"
        ) from None


# --- what it costs


def add_cost_flags(cli: argparse._ActionsContainer) -> None:
    """Prices and the most that may be spent."""
    cli.add_argument("--price_in", type=float, metavar="P", help="price of a million prompt tokens, to show what it costs")
    cli.add_argument("--price_out", type=float, metavar="P", help="price of a million reply tokens")
    cli.add_argument("--max_cost", type=float, metavar="C", help="the most that all replies in the folder may cost")


@dataclass
class Meter:
    """Tokens and their cost: of this run, and of earlier ones in the same folder.

    Attributes:
        price_in, price_out: of a million tokens; None: not known.
        max_cost: the most that all runs together may cost; None: no limit.
        before: cost of what earlier runs asked.
        prompt_tokens, completion_tokens, requests: of this run.
        stopped: requests were left because of `max_cost`.
    """

    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    before: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    reserved: float = 0.0
    stopped: bool = False
    start: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Meter:
        """The meter that `add_cost_flags` describes.

        Raises:
            UserError: a number makes no sense, or a price is missing.
        """
        for name in ("price_in", "price_out", "max_cost"):
            value = getattr(args, name)
            if value is not None and value < 0:
                raise UserError(f"--{name} {value:g}: wanted a number ≥ 0")
        if args.max_cost is not None and (args.price_in is None or args.price_out is None):
            raise UserError("--max_cost: wanted --price_in and --price_out with it, found them missing")
        return cls(args.price_in, args.price_out, args.max_cost)

    def earlier(self, line: Line) -> None:
        """Count a line that was there before this run."""
        if line.get("usage"):
            self.before += self.price(line["usage"]["prompt_tokens"], line["usage"]["completion_tokens"])

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost.

        >>> Meter(price_in=2.0, price_out=8.0).price(1_000_000, 500_000)
        6.0
        """
        return (prompt_tokens * (self.price_in or 0) + completion_tokens * (self.price_out or 0)) / 1e6

    @property
    def cost(self) -> float:
        """Of all runs so far."""
        return self.before + self.price(self.prompt_tokens, self.completion_tokens)

    def affords(self, ask: Ask) -> bool:
        """Whether a request can be sent without a risk of going beyond `max_cost`, its replies being as long as they may."""
        if self.max_cost is None:
            return True
        return self.cost + self.reserved + self.price(ask.prompt_tokens, ask.reply_tokens) <= self.max_cost

    def sent(self, ask: Ask) -> None:
        self.reserved += self.price(ask.prompt_tokens, ask.reply_tokens)

    def came(self, ask: Ask, line: Line) -> None:
        """Count a finished request.

        Raises:
            UserError: the server does not say what it used, and a limit is to be kept.
        """
        self.requests += 1
        self.reserved -= self.price(ask.prompt_tokens, ask.reply_tokens)
        if line["usage"]:
            self.prompt_tokens += line["usage"]["prompt_tokens"]
            self.completion_tokens += line["usage"]["completion_tokens"]
        elif self.max_cost is not None and not line["error"]:
            raise UserError("--max_cost: wanted a server that says how many tokens it used, found one that does not")

    def status(self, waiting: int = 0) -> str:
        """Pace, tokens, cost, and what it will have cost when the `waiting` requests are answered too.

        >>> meter = Meter(1.0, 1.0, before=1.0, prompt_tokens=900_000, completion_tokens=100_000, requests=10)
        >>> meter.status(waiting=30).partition(", ")[2]
        '1,000,000 tokens, cost 2.00 of about 5.00'
        """
        pace = 60 * self.requests / max(time.monotonic() - self.start, 1e-9)
        said = f"{pace:,.0f} requests/min, {self.prompt_tokens + self.completion_tokens:,} tokens"
        if self.price_in is None and self.price_out is None:
            return said
        projected = self.cost + (self.cost - self.before) / max(self.requests, 1) * waiting
        return f"{said}, cost {self.cost:,.2f}" + (f" of about {projected:,.2f}" if waiting else "")


# --- asking


@dataclass(frozen=True)
class Ask:
    """One request to the chat endpoint, and what its line says besides the reply.

    Attributes:
        line: `key` and what else names the request.
        body: arguments of the request.
        prompt_tokens: a guess.
        reply_tokens: the most that its replies can have.
    """

    line: Line
    body: dict[str, Any]
    prompt_tokens: int
    reply_tokens: int


def ask_all(client: Client, asks: Iterable[Ask], write: Callable[[Line], None], meter: Meter, bar: Any) -> Counter[str]:
    """Send requests and write a line for each as its reply comes: the reply, or the error that is left after all tries.

    Where the next request might cost more than there is left, those in flight are waited for, as they mostly cost less than
    they might; if there is still not enough, the rest is left.

    Args:
        bar: a tqdm bar; its total counts these requests, if it has one.

    Returns:
        Error → how many requests ended in it.

    Raises:
        UserError: as `Client.send`.
    """
    waiting, next_up = iter(asks), None
    errors: Counter[str] = Counter()
    in_flight: dict[int, Ask] = {}

    def affordable() -> Iterator[Request]:
        nonlocal next_up
        for number in range(1 << 62):
            next_up = next_up or next(waiting, None)
            if next_up is None or not meter.affords(next_up):
                return
            in_flight[number], next_up = next_up, None
            meter.sent(in_flight[number])
            yield Request("chat", in_flight[number].body, in_flight[number].prompt_tokens + in_flight[number].reply_tokens)

    while True:
        came = 0
        for number, reply in client.send(affordable()):
            ask = in_flight.pop(number)
            line = ask.line | reply_fields(reply)
            write(line)
            meter.came(ask, line)
            came += 1
            if line["error"]:
                errors[line["error"]] += 1
            bar.set_postfix_str(meter.status(bar.total - bar.n - 1 if bar.total else 0), refresh=False)
            bar.update()
        if next_up is None or not came:
            meter.stopped = next_up is not None
            return errors


def reply_fields(reply: Reply) -> Line:
    """`choices` (texts), `finish_reasons`, `usage` and `error` of a line. A reply without any text is an error too."""
    if reply.response is None:
        return {"choices": [], "finish_reasons": [], "usage": None, "error": reply.error}
    texts = [text_of(choice) for choice in reply.response.choices]
    reasons = [getattr(choice, "finish_reason", None) for choice in reply.response.choices]
    if any(texts):
        return {"choices": texts, "finish_reasons": reasons, "usage": usage_of(reply.response), "error": None}
    why = ", ".join(sorted({str(reason) for reason in reasons}))
    return {"choices": [], "finish_reasons": reasons, "usage": usage_of(reply.response), "error": f"no text ({why})"}


def text_of(choice: Any) -> str:
    """A choice's text; "" where the server's reply does not have the API's form."""
    text = getattr(getattr(choice, "message", None), "content", None)
    return text.strip() if isinstance(text, str) else ""


def usage_of(response: ChatCompletion) -> dict[str, int] | None:
    """The tokens that the server counted."""
    if response.usage is None:
        return None
    return {name: getattr(response.usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")}
