"""From values to places on the page, and the round numbers to mark on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitalfew.report._numbers import fixed, number

# Beyond this, differences of values overflow; such points are left out of plots.
LARGEST = 1e150
_COUNTS = [m * 10**e for e in range(13) for m in (1, 2, 5)]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A line from an interval of values to an interval of the page.

    Attributes
    ----------
    low, high : float
        The values at the two ends.
    start, end : float
        Where those lie on the page.
    logarithmic : bool
        Whether log(1 + value) is what grows evenly; for counts, which may be 0.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        low, high, here = self.low, self.high, value
        if self.logarithmic:
            low, high, here = math.log1p(low), math.log1p(high), math.log1p(here)
        share = (here - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def around(values: Sequence[float], room: float = 0.06) -> tuple[float, float]:
    """Return an interval that holds all values with some room, never an empty one."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-290):
        half = 0.5 * largest if largest > 1e-280 else 0.5
        return low - half, high + half
    return low - room * (high - low), high + room * (high - low)


def value_ticks(scale: Scale, n: int = 5) -> list[Tick]:
    """Return about n round values on a scale."""
    raw = (scale.high - scale.low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    marks = [step * i for i in range(first, last + 1)]
    plain = step > 1e-5 and max(abs(scale.low), abs(scale.high)) < 1e7
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [Tick(scale(v), fixed(v, decimals) if plain else number(v)) for v in marks]


def count_ticks(scale: Scale, room: float = 44) -> list[Tick]:
    """Return round counts on a scale, no two closer than the room a label needs."""
    if scale.logarithmic:
        wanted = [0, *_COUNTS]
    else:
        span = scale.high - scale.low
        step = next(c for c in _COUNTS if c * (scale.end - scale.start) >= room * span)
        first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
        wanted = [step * i for i in range(first, last + 1)]
    ticks: list[Tick] = []
    for n in wanted:
        if scale.low <= n <= scale.high:
            at = scale(n)
            label = f"{n:,}"
            if not ticks or at - ticks[-1].at >= max(room, 8 * len(label)):
                ticks.append(Tick(at, label))
    return ticks
