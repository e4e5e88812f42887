"""Ctrl-C and SIGTERM in a step that has something to finish first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def on_signals(first: Callable[[int], None], second: Callable[[int], None]) -> Iterator[None]:
    """Call `first` at the first Ctrl-C or SIGTERM, and `second` at the next one; after that they act as before.

    Signals reach the main thread only, and those that the process ignores stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    steps = iter((first, second))

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        step = next(steps)
        if step is second:
            restore()
        step(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
