"""Throughput of our OpenAI-compatible client against a bare AsyncOpenAI loop, and how well a rate limit is used.

Both send the same requests to the same local stub (tests/scripted_server.py, a process of its own), in turn, several times;
the table gives medians and the ratio. Prompts are as long as a record, so that their cost is in it.

    python benchmarks/client.py [--requests 2000] [--latency 0.05] [--workers 64] [--rpm 3000]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the packages of this checkout

import argparse
import asyncio
import subprocess
import time
from statistics import median

REPO = Path(__file__).resolve().parent.parent


def bare(url: str, bodies: list[dict], workers: int) -> None:
    """What anyone writes first: a semaphore around AsyncOpenAI, nothing else."""
    from openai import AsyncOpenAI

    async def run() -> None:
        free = asyncio.Semaphore(workers)
        async with AsyncOpenAI(base_url=url, api_key="none") as client:

            async def one(body: dict) -> None:
                async with free:
                    await client.chat.completions.create(**body)

            await asyncio.gather(*map(one, bodies))

    asyncio.run(run())


def ours(url: str, bodies: list[dict], workers: int, rpm: float | None = None) -> None:
    from inference.client import Client, Request
    from inference.settings import ServerSettings

    client = Client(ServerSettings(url, workers, max_rpm=rpm))
    replies = list(client.send(Request("chat", body) for body in bodies))
    client.close()
    assert len(replies) == len(bodies) and not any(reply.error for _, reply in replies)


def seconds(run, *args) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--requests", type=int, default=2000)
    cli.add_argument("--latency", type=float, default=0.05, help="of the stub, seconds")
    cli.add_argument("--workers", type=int, default=64, help="requests in flight")
    cli.add_argument("--characters", type=int, default=8000, help="of a prompt")
    cli.add_argument("--rpm", type=float, default=3000, help="the rate limit to hold")
    cli.add_argument("--repeats", type=int, default=5)
    args = cli.parse_args()
    command = [sys.executable, str(REPO / "tests/scripted_server.py"), "0", str(args.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            text = "Glucose 109.0 mg/dL " * (args.characters // 20)
            bodies = [{"model": "m", "messages": [{"role": "user", "content": f"{i} {text}"}]} for i in range(args.requests)]
            times: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(args.repeats):
                times["bare"].append(seconds(bare, url, bodies, args.workers))
                times["ours"].append(seconds(ours, url, bodies, args.workers))
            limited = bodies[: int(args.rpm / 4) + 1]  # a quarter of a minute
            took = seconds(ours, url, limited, args.workers, args.rpm)
        finally:
            server.terminate()
    rate = {name: args.requests / median(values) for name, values in times.items()}
    print(f"{args.requests:,} requests of {args.characters:,} characters, {args.workers} in flight, stub answers after "
          f"{args.latency:g} s; medians of {args.repeats}")  # fmt: skip
    print(f"bare AsyncOpenAI loop  {rate['bare']:8,.0f} requests/s")
    print(f"our client             {rate['ours']:8,.0f} requests/s   {rate['ours'] / rate['bare']:.1%} of bare")
    held = 60 * (len(limited) - 1) / took
    print(f"limit of {args.rpm:,.0f} requests a minute: {held:,.0f} a minute, {held / args.rpm:.1%} of it")


if __name__ == "__main__":
    main()
