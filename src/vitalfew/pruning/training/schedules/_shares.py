"""Fractions of a training as steps."""

from typing import Any

from vitalfew._validation import check_nonnegative

SELECTIONS = 100  # in a phase that removes little by little


def check_share(name: str, value: Any) -> float:
    """Return a fraction of the training, or say what is wrong with it."""
    if check_nonnegative(name, value) >= 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return float(value)


def steps_at(share: float, total_steps: int) -> int:
    """Return how many steps a fraction of the training is, at most all but one."""
    return min(total_steps - 1, round(share * total_steps))


def often(start: int, end: int, selections: int = SELECTIONS) -> int:
    """Return the steps between some selections spread over a phase."""
    return max(1, (end - start) // max(1, selections))
