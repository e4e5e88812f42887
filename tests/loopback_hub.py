"""A stand-in for the Hugging Face Hub on the loopback interface that records every request and keeps the files it receives."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 50_000  # bytes from which a file is sent to the LFS store, as weights are


@dataclass
class LoopbackHub:
    """What the server has received.

    Attributes:
        url: for HF_ENDPOINT.
        private: repository → whether it is private.
        requests: method and path of each request.
        received: all bytes of all requests, paths and headers included.
        files: name → content of the files that were committed.
    """

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Environment variables that make a command use this server as the Hub, with a token."""
        on = {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_XET": "1"}
        return on | {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Status and JSON of the response to a request."""
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            status = 409 if name in self.private else 200
            self.private.setdefault(name, asked.get("visibility") == "private" or asked.get("private") is True)
            return status, {"url": f"{self.url}/{name}", "name": name, "id": name}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [(file["path"], "lfs" if file["size"] >= LARGE else "regular") for file in files]
            return 200, {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]}
        if path.endswith("/info/lfs/objects/batch"):
            uploads = json.loads(body)["objects"]
            action = [{**upload, "actions": {"upload": {"href": f"{self.url}/store/{upload['oid']}"}}} for upload in uploads]
            return 200, {"transfer": "basic", "objects": action}
        if path.startswith("/store/"):
            self.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.objects[value["oid"]]
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40, "success": True}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        name = path.removeprefix("/api/models/").partition("/revision/")[0]
        if name in self.private:
            return 200, {"id": name, "private": self.private[name], "sha": "a" * 40, "siblings": [], "tags": []}
        return 404, {"error": "Repository not found"}


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """Run the server while the block runs."""
    hub = LoopbackHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            while self.headers.get("transfer-encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                body += self.rfile.read(size)
                self.rfile.readline()
            hub.requests.append(f"{self.command} {self.path}")
            hub.received += self.requestline.encode() + bytes(self.headers) + body
            status, value = hub.answer(self.command, self.path.partition("?")[0], body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
