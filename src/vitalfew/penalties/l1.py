"""The lasso penalty."""

from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array


@dataclass(frozen=True)
class L1:
    """``alpha * sum_i |x_i|``.

    Parameters
    ----------
    alpha : float
        Strength, not negative.

    Examples
    --------
    >>> import numpy as np
    >>> L1(1.0).prox(np.array([3.0, -0.5]), 1.0).tolist()
    [2.0, 0.0]
    """

    alpha: float

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        xp = namespace(x)
        return self.alpha * float(xp.sum(xp.abs(x)))

    def prox(self, x: Array, step_size: float) -> Array:
        """Soft thresholding at ``alpha * step_size``."""
        xp = namespace(x)
        size = xp.clip(xp.abs(x) - self.alpha * step_size, min=0.0)
        return xp.sign(x) * size + 0.0  # no negative zeros

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a coordinate of `-gradient` to the subdifferential."""
        xp = namespace(x)
        inside = xp.clip(xp.abs(gradient) - self.alpha, min=0.0)
        outside = xp.abs(gradient + self.alpha * xp.sign(x))
        return float(xp.max(xp.where(x == 0, inside, outside)))
