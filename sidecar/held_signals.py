"""Signals that would end a command, held back while it does what must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Signals that end the command take effect when this block has ended.

    For starting a child: a signal in the middle of `subprocess.Popen` would leave one that nobody knows of.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets them
        return
    received: list[int] = []
    before = {number: signal.signal(number, lambda one, frame: received.append(one)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for missed in received:
        signal.raise_signal(missed)
