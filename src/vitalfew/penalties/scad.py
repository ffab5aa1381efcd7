"""The smoothly clipped absolute deviation."""

import math
from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.penalties._separable import Separable


@dataclass(frozen=True, eq=False)
class SCAD(Separable):
    r"""Smoothly clipped absolute deviation: the lasso up to alpha, then less and less.

    Its slope is alpha up to an entry of alpha, falls linearly to nothing at
    ``a * alpha`` and stays there. Not convex.

    Parameters
    ----------
    alpha : float
        Strength, not negative.
    a : float, default=3.7
        Above it, in units of alpha, entries cost no more and are not shrunk; above two.
    weights : array of shape (p,), optional
        Factors of alpha, not negative, one for each row of `x`. Ones by default.

    Notes
    -----
    From a step size of ``a - 1`` on, the prox jumps from soft thresholding to none at
    ``alpha * (a + 1 + step_size) / 2``; from ``a + 1`` on it is hard thresholding at
    ``alpha * sqrt((a + 1) * step_size)``.

    References
    ----------
    .. [1] J. Fan, R. Li, "Variable selection via nonconcave penalized likelihood and
       its oracle properties", JASA, 2001, eq. (2.7) and (2.8).

    Examples
    --------
    >>> import numpy as np
    >>> SCAD(1.0).prox(np.array([4.0, 2.0, -0.5]), 1.0).tolist()
    [4.0, 1.0, 0.0]
    """

    a: float = 3.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 < self.a < math.inf:
            raise ValueError(f"a must be finite and above 2, got {self.a!r}")

    @property
    def _form(self) -> tuple[str, float]:
        return "scad", self.a

    def _cost(self, size: Array, strength: Array) -> Array:
        xp = namespace(size)
        first = xp.minimum(size, strength)
        top = xp.minimum(size, self.a * strength)
        rest = xp.clip(top - strength, min=0.0)
        return strength * (first + rest) - rest * rest / (2 * (self.a - 1))

    def _slope(self, size: Array, strength: Array) -> Array:
        xp = namespace(size)
        falling = xp.clip(self.a * strength - size, min=0.0) / (self.a - 1)
        return xp.minimum(falling, strength)

    def _slope_at_zero(self, strength: Array) -> Array:
        return strength

    def _shrink(self, size: Array, strength: Array, step_size: float) -> Array:
        xp, a = namespace(size), self.a
        soft = xp.clip(size - strength * step_size, min=0.0)
        if step_size > a + 1:
            hard = strength * ((a + 1) ** 0.5 * step_size**0.5)
            return xp.where(size <= hard, xp.zeros_like(size), size)
        if step_size >= a - 1:  # concave from alpha to a alpha: never best in between
            return xp.where(size <= strength * (a + 1 + step_size) / 2, soft, size)
        left = xp.clip(size - strength * (step_size * a / (a - 1)), min=0.0)
        inner = xp.minimum(left / (1 - step_size / (a - 1)), size)
        outer = xp.where(size < a * strength, inner, size)
        return xp.where(size <= strength * (1 + step_size), soft, outer)
