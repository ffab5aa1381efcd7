"""What penalties of single coordinates share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace
from vitalfew.contracts import Array, Ints
from vitalfew.penalties._weights import PerRow, per_row, strongest


@dataclass(frozen=True, eq=False)
class Separable(PerRow, ABC):
    """``sum_i r(|x_i|)`` for a nondecreasing r of strength ``alpha * weight_i``.

    A subclass gives r, its slope and its prox on arrays of sizes, which are never
    negative; `strength` has their shape.
    """

    alpha: float
    weights: Any = field(default=None, kw_only=True, repr=False)

    # -- the function of one size ------------------------------------------------------

    @abstractmethod
    def _cost(self, size: Array, strength: Array) -> Array:
        """Return r."""

    @abstractmethod
    def _slope(self, size: Array, strength: Array) -> Array:
        """Return the derivative of r at positive sizes."""

    @abstractmethod
    def _slope_at_zero(self, strength: Array) -> Array:
        """Return the right derivative of r at zero; it may be infinite."""

    @abstractmethod
    def _shrink(self, size: Array, strength: Array, step_size: float) -> Array:
        """Return a global argmin over u >= 0 of ``(u - size)^2 / (2 step) + r(u)``."""

    @property
    @abstractmethod
    def _form(self) -> tuple[str, float]:
        """Name of the compiled prox, and what it needs besides the strength."""

    # -- the contract ------------------------------------------------------------------

    def kernel(self, blocks: Ints) -> tuple[str, NDArray[np.float64]]:
        """Return the name of the compiled prox and its parameters, (k, 3)."""
        kind, bend = self._form
        parameters = np.tile([self.alpha, bend, 0.0], (len(blocks), 1))
        if self.weights is not None:
            parameters[:, 0] *= self.weights[blocks]
        return kind, parameters

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which no penalised row leaves zero."""
        xp = namespace(gradient)
        unit = self._slope_at_zero(xp.ones_like(gradient))
        return strongest(xp.abs(gradient) / unit, self.weights)

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        xp = namespace(x)
        return float(xp.sum(self._cost(xp.abs(x), self._strength(x))))

    def prox(self, x: Array, step_size: float) -> Array:
        """Return a global minimiser, for every step size; ties go to zero."""
        xp = namespace(x)
        size = self._shrink(xp.abs(x), self._strength(x), step_size)
        return xp.sign(x) * size + 0.0  # no negative zeros

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a coordinate of `-gradient` to the subdifferential."""
        xp, strength = namespace(x), self._strength(x)
        zero = x == 0
        size = xp.where(zero, xp.ones_like(x), xp.abs(x))
        outside = xp.abs(gradient + xp.sign(x) * self._slope(size, strength))
        inside = xp.clip(xp.abs(gradient) - self._slope_at_zero(strength), min=0.0)
        return float(xp.max(xp.where(zero, inside, outside)))

    def _strength(self, x: Array) -> Array:
        return namespace(x).ones_like(x) * (self.alpha * per_row(self.weights, x))
