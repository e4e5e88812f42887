"""Throughput of our OpenAI-compatible client relative to a bare AsyncOpenAI loop, and utilization of a rate limit.

Both clients send the same requests to the same local stub (tests/scripted_server.py, a process of its own), alternately, in
several rounds; the table gives medians. Prompts have the length of a sample's input, so that its cost is included.

With --servers, our client sends the requests to one stub and to several, each of which answers --concurrency requests at a
time, and the throughputs are compared.

    python benchmarks/client.py [--requests 2000] [--latency 0.05] [--workers 64] [--rpm 3000]
    python benchmarks/client.py --servers 2 [--concurrency 16] [--latency 0.2] [--workers 32] [--requests 1000]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from pipeline.cli import Parser, at_least, positive, run

REPO = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> None:
    cli = Parser(__doc__)
    cli.add_argument("--requests", type=at_least(1), default=2000, help="requests of a round (2000)")
    cli.add_argument("--latency", type=float, default=0.05, help="seconds after which the stub answers (0.05)")
    cli.add_argument("--workers", type=at_least(1), default=64, help="requests in flight (64)")
    cli.add_argument("--characters", type=at_least(1), default=8000, help="length of a prompt (8000)")
    cli.add_argument("--rpm", type=positive, default=3000, help="rate limit, requests per minute (3000)")
    cli.add_argument("--repeats", type=at_least(1), default=5, help="rounds (5)")
    cli.add_argument("--servers", type=at_least(1), help="compare this number of stubs with one, instead of the bare loop")
    cli.add_argument("--concurrency", type=at_least(1), default=16, help="requests that each of them answers at a time (16)")
    args = cli.parse_args(argv)
    text = "Glucose 109.0 mg/dL " * (args.characters // 20)
    bodies = [{"model": "m", "messages": [{"role": "user", "content": f"{i} {text}"}]} for i in range(args.requests)]
    if args.servers:
        compare_servers(bodies, args.servers, args.latency, args.concurrency, args.workers, args.repeats)
        return
    with stub(args.latency) as url:
        bare, ours = [], []
        for _ in range(args.repeats):
            bare.append(seconds(send_bare, url, bodies, args.workers))
            ours.append(seconds(send, url, bodies, args.workers))
        limited = bodies[: int(args.rpm / 4) + 1]  # a quarter of a minute
        limited_seconds = seconds(send, url, limited, args.workers, args.rpm)
    print(
        f"{args.requests:,} requests of {args.characters:,} characters, {args.workers} in flight, {args.repeats} rounds\n\n"
        "| stub answers after | bare loop | our client | of bare |\n| --- | ---: | ---: | ---: |\n"
        f"| {1000 * args.latency:g} ms | {args.requests / median(bare):,.0f}/s | {args.requests / median(ours):,.0f}/s | "
        f"{median(bare) / median(ours):.0%} |"
    )
    rate = 60 * (len(limited) - 1) / limited_seconds
    print(f"\nlimit of {args.rpm:,.0f} requests per minute: {rate:,.0f} per minute sent, {rate / args.rpm:.1%} of it")


@contextlib.contextmanager
def stub(latency: float, concurrency: int = 1000) -> Iterator[str]:
    """Run a stub server in a process of its own, and yield its URL."""
    command = [sys.executable, str(REPO / "tests/scripted_server.py"), "0", str(latency), str(concurrency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def compare_servers(
    bodies: Sequence[dict[str, Any]], number: int, latency: float, concurrency: int, workers: int, repeats: int
) -> None:
    """Print the throughput of one stub and of several."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(stub(latency, concurrency)) for _ in range(number)]
        send(urls, bodies[:number], workers)  # imports packages
        alone, shared = [], []
        for _ in range(repeats):
            alone.append(seconds(send, urls[0], bodies, workers))
            shared.append(seconds(send, urls, bodies, workers))
    rates = [f"{len(bodies) / median(each):,.0f}/s" for each in (alone, shared)]
    print(
        f"{len(bodies):,} requests, {1000 * latency:g} ms each, {concurrency} at a time on a server, "
        f"{workers} in flight to each, {repeats} rounds\n\n"
        "| servers | requests | of one server |\n| ---: | ---: | ---: |\n"
        f"| 1 | {rates[0]} | |\n| {number} | {rates[1]} | {median(alone) / median(shared):.2f} × |"
    )


def send_bare(url: str, bodies: Sequence[dict[str, Any]], workers: int) -> None:
    """The baseline: a semaphore around AsyncOpenAI, nothing else."""
    from openai import AsyncOpenAI

    async def send_all() -> None:
        semaphore = asyncio.Semaphore(workers)
        async with AsyncOpenAI(base_url=url, api_key="none") as client:

            async def send_body(body: dict[str, Any]) -> None:
                async with semaphore:
                    await client.chat.completions.create(**body)

            await asyncio.gather(*map(send_body, bodies))

    asyncio.run(send_all())


def send(url: str | Sequence[str], bodies: Sequence[dict[str, Any]], workers: int, max_rpm: float | None = None) -> None:
    """Our client."""
    from inference.client import Client, Request
    from inference.settings import ServerSettings

    client = Client(ServerSettings(url, workers, max_rpm=max_rpm), "m")
    replies = list(client.send(Request("chat", body) for body in bodies))
    client.close()
    assert len(replies) == len(bodies) and not any(reply.error for _, reply in replies)


def seconds(function: Callable[..., None], *arguments: Any) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main)
