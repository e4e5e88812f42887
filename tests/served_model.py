"""A real vLLM server on loopback, on the CPU."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forked


@contextmanager
def serve(model: Path, name: str, max_model_len: int = 4096) -> Iterator[str]:
    """Serve a model under a name; yields the base URL of the API. The log is beside the model's folder."""
    from inference.vllm_backend import CPU_ENVIRONMENT

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = model.parent / f"{model.name}.log"
    words = ["--model", model, "--served-model-name", name, "--host", "127.0.0.1", "--port", port, "--enforce-eager"]
    words += ["--dtype", "float32", "--max-model-len", max_model_len]
    log.touch()
    server = forked.start("vllm.entrypoints.openai.api_server", words, "/", CPU_ENVIRONMENT, log, log)
    try:
        for _ in range(600):
            if not server.is_alive():
                raise AssertionError(log.read_text(encoding="utf-8")[-3000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.join(30)
