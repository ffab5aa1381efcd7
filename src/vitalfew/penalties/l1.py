"""The lasso penalty."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace
from vitalfew.contracts import Array, Ints
from vitalfew.penalties._weights import PerRow, per_row, strongest


@dataclass(frozen=True, eq=False)
class L1(PerRow):
    """``alpha * sum_i weight_i |x_i|``, the lasso.

    Parameters
    ----------
    alpha : float
        Strength, not negative.
    weights : array of shape (p,), optional
        Not negative, one for each row of `x`; zero leaves a row unpenalised. Ones by
        default.

    References
    ----------
    .. [1] R. Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B,
       1996, eq. (1).
    .. [2] H. Zou, "The adaptive lasso and its oracle properties", JASA, 2006, eq. (4)
       (weights).

    Examples
    --------
    >>> import numpy as np
    >>> L1(1.0).prox(np.array([3.0, -0.5]), 1.0).tolist()
    [2.0, 0.0]
    """

    alpha: float
    weights: Any = field(default=None, kw_only=True, repr=False)

    def kernel(self, blocks: Ints) -> tuple[str, NDArray[np.float64]]:
        """Return the name of the compiled prox and its parameters, (k, 3)."""
        strength = np.zeros((len(blocks), 3))
        strength[:, 0] = self.alpha
        if self.weights is not None:
            strength[:, 0] *= self.weights[blocks]
        return "shrink", strength

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which no penalised row leaves zero."""
        return strongest(namespace(gradient).abs(gradient), self.weights)

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        xp = namespace(x)
        return self.alpha * float(xp.sum(xp.abs(x) * per_row(self.weights, x)))

    def prox(self, x: Array, step_size: float) -> Array:
        """Soft thresholding at ``alpha * weight * step_size``."""
        xp = namespace(x)
        cut = self.alpha * step_size * per_row(self.weights, x)
        return xp.sign(x) * xp.clip(xp.abs(x) - cut, min=0.0) + 0.0  # no negative zeros

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a coordinate of `-gradient` to the subdifferential."""
        xp = namespace(x)
        cut = self.alpha * per_row(self.weights, x)
        inside = xp.clip(xp.abs(gradient) - cut, min=0.0)
        outside = xp.abs(gradient + cut * xp.sign(x))
        return float(xp.max(xp.where(x == 0, inside, outside)))
