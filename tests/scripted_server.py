"""A small OpenAI-compatible server on loopback that answers as a script says: for tests of the client, and for its benchmark.

python tests/scripted_server.py PORT [LATENCY_SECONDS [CONCURRENCY]]   # answers "yes" to all, for benchmarks/client.py
"""

from __future__ import annotations

import asyncio
import heapq
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Answer = dict[str, Any]
"""What to send: `text`, or `status` and `message`; `headers`; `body` for raw bytes; `delay` in seconds; `drop`: hang up."""


@dataclass
class ScriptedServer:
    """`with ScriptedServer(script) as server:` listens at `server.url`; `server.asked` has (time, path, body) of each.

    `script` gets the request's body and its number from 0.
    """

    script: Callable[[dict[str, Any], int], Answer]
    port: int = 0
    models: list[dict[str, Any]] | None = None  # what GET /models lists; None: it is refused, with HTTP 404
    models_status: int = 200
    asked: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)  # the headers of each, names in lower case
    tls: ssl.SSLContext | None = None  # speaks HTTPS

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = lines[0].split(" ")
                if method == "GET":  # not counted among what was asked
                    listing = json.dumps({"object": "list", "data": self.models or []}).encode()
                    status = self.models_status if self.models is not None or self.models_status != 200 else 404
                    writer.write(response(path, {}, {"status": status, "body": listing}))
                    await writer.drain()
                    continue
                body = json.loads(data)
                self.heads.append(headers)
                self.asked.append((time.monotonic(), path, body))
                answer = self.script(body, len(self.asked) - 1)
                await asyncio.sleep(answer.get("delay", 0))
                if answer.get("drop"):
                    return
                writer.write(response(path, body, answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()


def response(path: str, body: dict[str, Any], answer: Answer) -> bytes:
    """The HTTP response of an answer."""
    status, payload = answer.get("status", 200), answer.get("body")
    if payload is None and status == 200:
        payload = json.dumps(completion(path.partition("?")[0].endswith("/chat/completions"), body, answer)).encode()
    elif payload is None:
        payload = json.dumps({"error": {"message": answer.get("message", "no"), "type": "scripted"}}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(payload)} | answer.get("headers", {})
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + payload


def completion(chat: bool, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """The API's object for an answer: `text`, `reasoning`, `finish_reason`, `top` (token → log-probability), n times."""
    choices = []
    for index in range(body.get("n") or 1):
        texts = answer.get("text", "yes")
        text = texts if isinstance(texts, str) else texts[index]
        choice: dict[str, Any] = {"index": index, "finish_reason": answer.get("finish_reason", "stop"), "logprobs": None}
        top = answer.get("top") if body.get("logprobs") else None
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            if "reasoning" in answer:
                choice["message"]["reasoning"] = answer["reasoning"]
            if top:
                entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top.items()]
                choice["logprobs"] = {"content": [entries[0] | {"top_logprobs": entries}]}
        else:
            choice["text"] = text
            if top:
                first = next(iter(top))
                choice["logprobs"] = {
                    "tokens": [first],
                    "token_logprobs": [top[first]],
                    "text_offset": [0],
                    "top_logprobs": [top],
                }
        choices.append(choice)
    return {
        "id": "scripted", "object": "chat.completion" if chat else "text_completion", "created": 0, "model": body["model"],
        "choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }  # fmt: skip


async def serve(port: int, latency: float, concurrency: int) -> None:
    """Answer each request after `latency` seconds, `concurrency` of them at a time; the others wait."""
    free_at = [0.0] * concurrency

    def script(body: dict[str, Any], number: int) -> Answer:
        now = time.monotonic()
        done_at = max(now, heapq.heappop(free_at)) + latency
        heapq.heappush(free_at, done_at)
        return {"delay": done_at - now}

    server = ScriptedServer(script, port)
    await server.listen()
    print(server.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    port, latency, concurrency = (*sys.argv[1:], *("0", "0", "1000")[len(sys.argv) - 1 :])
    asyncio.run(serve(int(port), float(latency), int(concurrency)))
