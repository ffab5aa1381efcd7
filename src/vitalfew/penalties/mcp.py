"""The minimax concave penalty."""

import math
from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.penalties._separable import Separable


@dataclass(frozen=True, eq=False)
class MCP(Separable):
    r"""Minimax concave penalty: the lasso near zero, no shrinkage of large entries.

    Its slope falls linearly from alpha at zero to nothing at ``gamma * alpha``:
    :math:`\sum_i \alpha |x_i| - x_i^2 / (2\gamma)` up to there, and
    :math:`\gamma\alpha^2/2` for each larger entry. Not convex.

    Parameters
    ----------
    alpha : float
        Strength, not negative.
    gamma : float, default=3.0
        Above it, in units of alpha, entries cost no more and are not shrunk; positive.
        A large one is nearly the lasso, a small one nearly counts nonzeros.
    weights : array of shape (p,), optional
        Factors of alpha, not negative, one for each row of `x`. Ones by default.

    Notes
    -----
    Once the step size reaches gamma, the prox is hard thresholding at
    ``alpha * sqrt(gamma * step_size)``.

    References
    ----------
    .. [1] C.-H. Zhang, "Nearly unbiased variable selection under minimax concave
       penalty", Annals of Statistics, 2010, eq. (2.2).

    Examples
    --------
    >>> import numpy as np
    >>> MCP(1.0).prox(np.array([4.0, 2.0, -0.5]), 1.0).round(3).tolist()
    [4.0, 1.5, 0.0]
    """

    gamma: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive and finite, got {self.gamma!r}")

    @property
    def _form(self) -> tuple[str, float]:
        return "mcp", self.gamma

    def _cost(self, size: Array, strength: Array) -> Array:
        size = namespace(size).minimum(size, self.gamma * strength)
        return size * (strength - size / (2 * self.gamma))

    def _slope(self, size: Array, strength: Array) -> Array:
        return namespace(size).clip(strength - size / self.gamma, min=0.0)

    def _slope_at_zero(self, strength: Array) -> Array:
        return strength

    def _shrink(self, size: Array, strength: Array, step_size: float) -> Array:
        xp = namespace(size)
        if step_size >= self.gamma:  # concave up to gamma: an end of it is best
            hard = strength * (self.gamma**0.5 * step_size**0.5)
            return xp.where(size <= hard, xp.zeros_like(size), size)
        left = xp.clip(size - strength * step_size, min=0.0)
        inner = xp.minimum(left / (1 - step_size / self.gamma), size)
        return xp.where(size < self.gamma * strength, inner, size)
