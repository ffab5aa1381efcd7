"""Ctrl-C once there is an answer to be written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unheard() -> Iterator[None]:
    """Let Ctrl-C do nothing, but for what is done inside with a handler of its own.

    Yields
    ------
    None
        While a study is made, written and printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
