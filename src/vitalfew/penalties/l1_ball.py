"""The ball of the l1 norm."""

import math
from dataclasses import dataclass

from vitalfew._arrays import namespace, precision
from vitalfew.contracts import Array
from vitalfew.penalties.simplex import (
    ROUNDING,
    check_positive,
    corner,
    onto_simplex,
)


@dataclass(frozen=True)
class L1Ball:
    """The constraint ``sum_i |x_i| <= radius``: 0 where it holds, else infinite.

    The lasso in its first form. All entries of a matrix `x` share one radius.

    Parameters
    ----------
    radius : float
        Largest sum of magnitudes, positive.

    Notes
    -----
    The projection sorts the entries, O(p log p), and is exact.

    References
    ----------
    .. [1] R. Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B,
       1996, eq. (1).
    .. [2] J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, "Efficient projections
       onto the l1-ball for learning in high dimensions", ICML, 2008, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> L1Ball(1.0).prox(np.array([1.0, -0.5, 0.1]), 1.0).tolist()
    [0.75, -0.25, 0.0]
    """

    radius: float

    def __post_init__(self) -> None:
        check_positive("radius", self.radius)

    def value(self, x: Array) -> float:
        """Return 0 in the ball, up to rounding, and infinity outside."""
        xp = namespace(x)
        most = self.radius * (1 + ROUNDING * precision(x))
        return 0.0 if float(xp.sum(xp.abs(x))) <= most else math.inf

    def prox(self, x: Array, step_size: float) -> Array:
        """Return the nearest point of the ball, whatever the step size."""
        del step_size
        xp = namespace(x)
        size = xp.abs(x)
        if float(xp.sum(size)) <= self.radius:
            return x
        size = onto_simplex(xp.reshape(size, (-1,)), self.radius)
        return xp.sign(x) * xp.reshape(size, x.shape) + 0.0  # no negative zeros

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest entry by which `-gradient` misses the cone of normals at `x`.

        Inside the ball the gradient must vanish. On its border ``-sign(x) gradient``
        must be one level, not negative, where `x` is not zero, and the gradient no
        larger than that elsewhere.
        """
        xp = namespace(x)
        steepest = xp.max(xp.abs(gradient))
        least = self.radius * (1 - ROUNDING * precision(x))
        if float(xp.sum(xp.abs(x))) < least:
            return float(steepest)
        pull = -xp.sign(x) * gradient
        lowest = float(xp.min(xp.where(x == 0, steepest, pull)))
        highest = float(xp.max(xp.where(x == 0, xp.abs(gradient), pull)))
        level = max(0.0, (lowest + highest) / 2)
        return max(highest - level, level - lowest)

    def vertex(self, gradient: Array) -> Array:
        """Return the corner that minimises ``<gradient, x>``."""
        xp = namespace(gradient)
        flat = xp.reshape(gradient, (-1,))
        best = int(xp.argmax(xp.abs(flat)))
        return corner(
            gradient, best, -self.radius if float(flat[best]) > 0 else self.radius
        )
