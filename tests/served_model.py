"""A real vLLM server on loopback, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, words)]
    environment = {**os.environ, **CPU_ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise AssertionError(log.read_text(encoding="utf-8")[-3000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)
