"""The simplex."""

import math
import numbers
from dataclasses import dataclass

import numpy as np

from vitalfew._arrays import namespace, precision, put
from vitalfew.contracts import Array

ROUNDING = 1e3  # spacings of floating-point numbers by which a sum may be off


def check_positive(name: str, value: object) -> None:
    """Raise unless a number is positive and finite."""
    if not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")


@dataclass(frozen=True)
class Simplex:
    """The constraint ``x >= 0, sum_i x_i = total``: 0 where it holds, else infinite.

    All entries of a matrix `x` share one total. Portfolios, mixtures and synthetic
    controls live here.

    Parameters
    ----------
    total : float, default=1.0
        What the entries sum to, positive.

    Notes
    -----
    The projection sorts the entries, O(p log p), and is exact.

    References
    ----------
    .. [1] J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, "Efficient projections
       onto the l1-ball for learning in high dimensions", ICML, 2008, Figure 1.

    Examples
    --------
    >>> import numpy as np
    >>> Simplex().prox(np.array([1.0, 0.5, -2.0]), 1.0).tolist()
    [0.75, 0.25, 0.0]
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        check_positive("total", self.total)

    def value(self, x: Array) -> float:
        """Return 0 on the simplex, up to rounding, and infinity elsewhere."""
        xp = namespace(x)
        slack = ROUNDING * precision(x) * self.total
        inside = float(xp.min(x)) >= -slack
        inside = inside and abs(float(xp.sum(x)) - self.total) <= slack
        return 0.0 if inside else math.inf

    def prox(self, x: Array, step_size: float) -> Array:
        """Return the nearest point of the simplex, whatever the step size."""
        del step_size
        xp = namespace(x)
        return xp.reshape(onto_simplex(xp.reshape(x, (-1,)), self.total), x.shape)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest entry by which `-gradient` misses the cone of normals at `x`.

        The gradient must be one level where `x` is positive and not below it elsewhere.
        """
        xp = namespace(x)
        used = xp.where(x > 0, gradient, xp.min(gradient))
        return float(xp.max(used) - xp.min(gradient)) / 2

    def vertex(self, gradient: Array) -> Array:
        """Return the corner that minimises ``<gradient, x>``."""
        xp = namespace(gradient)
        best = int(xp.argmin(xp.reshape(gradient, (-1,))))
        return corner(gradient, best, self.total)


def onto_simplex(v: Array, total: float) -> Array:
    """Project a vector onto the points that are not negative and sum to `total`.

    Parameters
    ----------
    v : array of shape (p,)
        What to project.
    total : float
        Positive.

    Returns
    -------
    array of shape (p,)
        ``max(v - t, 0)`` for the t at which it sums to `total`.
    """
    xp = namespace(v)
    v = v - xp.max(v)  # no digits are lost to a common shift
    falling = xp.sort(v, descending=True)
    counts = xp.cumulative_sum(xp.ones_like(v))
    excess = (xp.cumulative_sum(falling) - total) / counts
    n_used = max(1, int(xp.sum(xp.astype(falling > excess, xp.int64))))
    x = xp.clip(v - excess[n_used - 1], min=0.0)
    return x * (total / xp.sum(x))  # sums to the total to the last digits


def corner(like: Array, position: int, value: float) -> Array:
    """Return zeros with one value at a position of the flattened array."""
    xp = namespace(like)
    entry = xp.full((1,), value, dtype=like.dtype, device=like.device)
    flat = put(math.prod(like.shape), np.array([position]), entry)
    return xp.reshape(flat, like.shape)
