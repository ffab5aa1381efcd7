"""The elastic net penalty."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace
from vitalfew.contracts import Array, Ints
from vitalfew.penalties._weights import (
    PerRow,
    check_ratio,
    per_row,
    strongest,
)


@dataclass(frozen=True, eq=False)
class ElasticNet(PerRow):
    """``alpha * sum_i weight_i (l1_ratio |x_i| + (1 - l1_ratio) x_i^2 / 2)``.

    Parameters
    ----------
    alpha : float
        Strength, not negative.
    l1_ratio : float, default=0.5
        From 0, the ridge, to 1, the lasso.
    weights : array of shape (p,), optional
        Not negative, one for each row of `x`; zero leaves a row unpenalised. Ones by
        default.

    References
    ----------
    .. [1] H. Zou, T. Hastie, "Regularization and variable selection via the elastic
       net", JRSS B, 2005, eq. (3); `alpha` and `l1_ratio` as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> ElasticNet(2.0).prox(np.array([3.0, -0.5]), 1.0).tolist()
    [1.0, 0.0]
    """

    alpha: float
    l1_ratio: float = 0.5
    weights: Any = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("l1_ratio", self.l1_ratio)

    def kernel(self, blocks: Ints) -> tuple[str, NDArray[np.float64]]:
        """Return the name of the compiled prox and its parameters, (k, 3)."""
        shares = np.array([self.l1_ratio, 0.0, 1 - self.l1_ratio])
        strength = np.tile(self.alpha * shares, (len(blocks), 1))
        if self.weights is not None:
            strength *= self.weights[blocks, None]
        return "shrink", strength

    def _parts(self, x: Array) -> tuple[Any, Any]:
        """Strengths of the absolute values and of the squares, to multiply `x` with."""
        each = self.alpha * per_row(self.weights, x)
        return self.l1_ratio * each, (1 - self.l1_ratio) * each

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which no penalised row leaves zero."""
        largest = strongest(namespace(gradient).abs(gradient), self.weights)
        if self.l1_ratio == 0:
            return math.inf if largest > 0 else 0.0
        return largest / self.l1_ratio

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        xp = namespace(x)
        cut, ridge = self._parts(x)
        return float(xp.sum(xp.abs(x) * cut + 0.5 * ridge * (x * x)))

    def prox(self, x: Array, step_size: float) -> Array:
        """Soft thresholding, then division by one plus the ridge."""
        xp = namespace(x)
        cut, ridge = self._parts(x)
        size = xp.clip(xp.abs(x) - cut * step_size, min=0.0)
        return xp.sign(x) * size / (1 + ridge * step_size) + 0.0

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a coordinate of `-gradient` to the subdifferential."""
        xp = namespace(x)
        cut, ridge = self._parts(x)
        inside = xp.clip(xp.abs(gradient) - cut, min=0.0)
        outside = xp.abs(gradient + cut * xp.sign(x) + ridge * x)
        return float(xp.max(xp.where(x == 0, inside, outside)))
