"""A headless Chromium for tests: opens a page, measures it, clicks in it, and says what went wrong on it.

It is driven by the DevTools protocol over a pair of pipes (--remote-debugging-pipe), so that no driver is needed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Browser:
    """A tab; `errors` are console errors and uncaught exceptions, `requests` the requested addresses."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        self._number, self._session = 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser went away"
            data += byte
        message = json.loads(data)
        method, about = message.get("method"), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.errors.append(str(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        return message

    def open(self, page: Path, width: int, height: int) -> None:
        """Load a page in a window of this size."""
        self.errors.clear()
        self.requests.clear()
        self._events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, element: str) -> None:
        """A real click of the mouse on the middle of an element, given as an expression."""
        x, y = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center'}}); const b = e.getBoundingClientRect();"
            f"return [b.x + b.width / 2, b.y + b.height / 2] }})({element})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A real press of a key, such as `j` or `Enter`."""
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        code = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}.get(key) or ord(key[0].upper())
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def accessibility_faults(self) -> list[str]:
        """What axe-core finds on the page that is serious or critical: rule, and the first element."""
        self.js(axe_core().read_text(encoding="utf-8") + "; 0")
        run = "axe.run({resultTypes: ['violations']}).then(result => result.violations)"
        serious = f"{run}.then(rules => rules.filter(rule => ['serious', 'critical'].includes(rule.impact)))"
        return self.js(f"{serious}.then(rules => rules.map(rule => rule.id + ': ' + rule.nodes[0].html.slice(0, 200)))")

    def screenshot(self, path: Path) -> None:
        """The whole page as an image, to be looked at."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


def axe_core() -> Path:
    """The script of axe-core, in the version of tests/node/package-lock.json; installed if it is not there."""
    folder = Path(__file__).parent / "node"
    script = folder / "node_modules/axe-core/axe.min.js"
    if shutil.which("npm") is None and not script.exists():
        pytest.skip("no npm here, which installs axe-core: apt-get install npm")
    with (folder / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not script.exists():
            options = ["--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(["npm", "ci", "--prefix", folder, *options], check=True, capture_output=True)
    return script


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in `folder`; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium, or put chrome on the PATH")
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    # The browser reads commands from descriptor 3 and writes to 4; a shell puts the pipes there.
    launch = ["bash", "-c", f'exec "$@" 3<&{their_read} 4>&{their_write}', "bash", program]
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}"]  # fmt: skip
    process = subprocess.Popen([*launch, *flags], pass_fds=(their_read, their_write), stderr=subprocess.DEVNULL)
    os.close(their_read)
    os.close(their_write)
    try:
        yield Browser(our_write, our_read)
    finally:
        process.terminate()
        process.wait(timeout=20)
