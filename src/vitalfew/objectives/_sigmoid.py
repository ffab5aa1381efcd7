"""The logistic function."""

from vitalfew._arrays import namespace
from vitalfew.contracts import Array


def sigmoid(t: Array) -> Array:
    """Return ``1 / (1 + exp(-t))``, exact in both tails."""
    xp = namespace(t)
    small = xp.exp(-xp.abs(t))
    return xp.where(t >= 0, 1 / (1 + small), small / (1 + small))
