"""The cost of requests to a server, and its limit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inference.settings import Settings, flag
from pipeline.cli import between
from pipeline.errors import UserError

PRICE = between(0, float("inf"))
NO_USAGE = (
    "--max_cost: expected a server that reports the tokens it used, got one that does not. What it sent is recorded. "
    "Omit --max_cost, and limit the rows with --limit."
)


@dataclass(frozen=True)
class CostSettings(Settings):
    """Prices, and what may be spent."""

    price_in: float | None = flag(None, help="price of a million prompt tokens, to show the cost", type=PRICE)
    price_out: float | None = flag(None, help="price of a million tokens of replies", type=PRICE)
    max_cost: float | None = flag(None, help="the most that all replies in the directory may cost (no limit)", type=PRICE)

    def __post_init__(self) -> None:
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise UserError("--max_cost: expected --price_in and --price_out with it, got none.")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost.

        >>> CostSettings(price_in=2.0, price_out=8.0).of(1_000_000, 500_000)
        6.0
        """
        return (prompt_tokens * (self.price_in or 0) + completion_tokens * (self.price_out or 0)) / 1e6


@dataclass
class Meter:
    """Counts tokens and their cost: of this run, and of earlier runs in the same directory."""

    costs: CostSettings
    reply_tokens: int = 0  # that the replies to one prompt can have
    cost_before: float = 0.0  # of earlier runs
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    reserved: float = 0.0  # the cost of the requests in flight if their replies are as long as they can be
    stopped: bool = False  # because of the limit
    problem: str | None = None  # why no more requests should be paid for: the error that ends the run
    start: float = field(default_factory=time.monotonic)

    def add_earlier(self, line: Mapping[str, Any]) -> None:
        """Count a line of an earlier run."""
        if line.get("usage"):
            self.cost_before += self.costs.of(line["usage"]["prompt_tokens"], line["usage"]["completion_tokens"])
        elif line.get("choices") and self.costs.max_cost is not None:
            self.problem = NO_USAGE

    @property
    def cost(self) -> float:
        """Cost of all runs so far."""
        return self.cost_before + self.costs.of(self.prompt_tokens, self.completion_tokens)

    def affords(self, prompt_tokens: int) -> bool:
        """Whether a request should be sent: it cannot exceed the limit, and there is no problem."""
        limit = self.costs.max_cost
        most = self.cost + self.reserved + self.costs.of(prompt_tokens, self.reply_tokens)
        return self.problem is None and (limit is None or most <= limit)

    def reserve(self, prompt_tokens: int) -> None:
        """Count a request that is sent."""
        self.reserved += self.costs.of(prompt_tokens, self.reply_tokens)

    def add(self, prompt_tokens: int, usage: Mapping[str, int] | None, failed: bool) -> None:
        """Count a finished request, by the estimate given to `reserve` and the server's own count."""
        self.requests += 1
        self.reserved -= self.costs.of(prompt_tokens, self.reply_tokens)
        if usage:
            self.prompt_tokens += usage["prompt_tokens"]
            self.completion_tokens += usage["completion_tokens"]
        elif self.costs.max_cost is not None and not failed:
            self.problem = NO_USAGE

    def status(self, remaining: int = 0) -> str:
        """Pace, tokens, cost, and the projected cost if `remaining` requests are to come.

        >>> prices = CostSettings(1.0, 1.0)
        >>> meter = Meter(prices, cost_before=1.0, prompt_tokens=900_000, completion_tokens=100_000, requests=10)
        >>> meter.status(remaining=30).partition(", ")[2]
        '1,000,000 tokens, cost 2.00 of about 5.00'
        """
        pace = 60 * self.requests / max(time.monotonic() - self.start, 1e-9)
        text = f"{pace:,.0f} requests/min, {self.prompt_tokens + self.completion_tokens:,} tokens"
        if self.costs.price_in is None and self.costs.price_out is None:
            return text
        projected = self.cost + (self.cost - self.cost_before) / max(self.requests, 1) * remaining
        return f"{text}, cost {self.cost:,.2f}" + (f" of about {projected:,.2f}" if remaining else "")
