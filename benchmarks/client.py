"""Throughput of our OpenAI-compatible client relative to a bare AsyncOpenAI loop, and utilization of a rate limit.

Both clients send the same requests to the same local stub (tests/scripted_server.py, a process of its own), alternately, in
several rounds; the table gives medians. Prompts have the length of a sample's input, so that its cost is included.

    python benchmarks/client.py [--requests 2000] [--latency 0.05] [--workers 64] [--rpm 3000]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
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
    args = cli.parse_args(argv)
    command = [sys.executable, str(REPO / "tests/scripted_server.py"), "0", str(args.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            text = "Glucose 109.0 mg/dL " * (args.characters // 20)
            bodies = [{"model": "m", "messages": [{"role": "user", "content": f"{i} {text}"}]} for i in range(args.requests)]
            bare, ours = [], []
            for _ in range(args.repeats):
                bare.append(seconds(send_bare, url, bodies, args.workers))
                ours.append(seconds(send, url, bodies, args.workers))
            limited = bodies[: int(args.rpm / 4) + 1]  # a quarter of a minute
            limited_seconds = seconds(send, url, limited, args.workers, args.rpm)
        finally:
            server.terminate()
    print(
        f"{args.requests:,} requests of {args.characters:,} characters, {args.workers} in flight, {args.repeats} rounds\n\n"
        "| stub answers after | bare loop | our client | of bare |\n| --- | ---: | ---: | ---: |\n"
        f"| {1000 * args.latency:g} ms | {args.requests / median(bare):,.0f}/s | {args.requests / median(ours):,.0f}/s | "
        f"{median(bare) / median(ours):.0%} |"
    )
    rate = 60 * (len(limited) - 1) / limited_seconds
    print(f"\nlimit of {args.rpm:,.0f} requests per minute: {rate:,.0f} per minute sent, {rate / args.rpm:.1%} of it")


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


def send(url: str, bodies: Sequence[dict[str, Any]], workers: int, max_rpm: float | None = None) -> None:
    """Our client."""
    from inference.client import Client, Request
    from inference.settings import ServerSettings

    client = Client(ServerSettings(url, workers, max_rpm=max_rpm))
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
