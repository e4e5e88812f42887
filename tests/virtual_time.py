"""An event loop whose clock jumps over waiting, so that tests of pace are exact on a busy machine, and take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class VirtualSelector(selectors.DefaultSelector):
    """Adds the time that the loop would have waited to `now`, in seconds, and does not wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for coroutines that only wait for each other and for time: with sockets, it would not wait for replies."""

    def __init__(self) -> None:
        self.clock = VirtualSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch) -> T:
    """Run a coroutine; `time.monotonic` tells the time of its loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        with monkeypatch.context() as patch:
            patch.setattr("time.monotonic", loop.time)
            return runner.run(coroutine)
