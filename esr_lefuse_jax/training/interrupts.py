"""Asking a run to stop: SIGTERM, as batch systems and clouds send it before they take a machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class StopRequest:
    """Whether SIGTERM has come; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = True


@contextlib.contextmanager
def on_sigterm(install: bool) -> Iterator[StopRequest]:
    """Notes SIGTERM while the block runs.

    Args:
        install: False leaves the signal alone: with several processes the coordination service listens to it.
    """
    request = StopRequest()
    if not install or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request._handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
