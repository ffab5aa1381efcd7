"""Threads of the BLAS library, where they cost more than they bring, and locks."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

FEWEST_NUMBERS = 4_000_000  # below it a product is over before threads pay


@cache
def _controller() -> Any:
    return ThreadpoolController()


def n_threads() -> int:
    """Return how many threads the compiled loops may use, as BLAS would."""
    return 1 if _inside else _available()


@cache
def _available() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SharedLock:
    """A re-entrant lock of an object that may be copied: a copy gets its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["SharedLock"], tuple[()]]:
        return SharedLock, ()


_lock = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def one_thread_if_small(objective: Any) -> Iterator[None]:
    """Hold BLAS to one thread while a small problem is worked on.

    Two threads that wait for each other on busy cores make products of small matrices
    some fifty times slower. The limit holds for the process; calls from several threads
    share it, and the last one out restores what was set before.

    Parameters
    ----------
    objective : Objective
        Small if its `size` says so; one that does not tell is left alone.
    """
    global _inside, _limit
    if getattr(objective, "size", FEWEST_NUMBERS) >= FEWEST_NUMBERS:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _limit = _controller().limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _limit.restore_original_limits()
