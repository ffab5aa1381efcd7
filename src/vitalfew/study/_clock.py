"""When a study must end: its time limit, and Ctrl-C."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self


class Clock:
    """The time of a study; Ctrl-C inside it is remembered and raised.

    Solvers and paths answer Ctrl-C with the best point so far, so whoever called them
    asks `interrupted` afterwards. Once there is an answer (`answered`), impatient
    repetitions are not heard; once all is done (`finished`), nor is the first.

    Parameters
    ----------
    seconds : float or None
        The limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.begun = time.perf_counter()
        self.interrupted = self.answered = self.finished = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.finished or (self.interrupted and self.answered):
            return
        self.interrupted = True
        raise KeyboardInterrupt

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun

    def left(self, share: float) -> float | None:
        """Return the seconds left until a share of the limit; None without one."""
        if self.seconds is None:
            return None
        return max(0.0, share * self.seconds - self.passed)

    def over(self, share: float) -> bool:
        """Say whether a share of the limit has passed, or Ctrl-C was pressed."""
        return self.interrupted or self.left(share) == 0.0
