"""The sum of logarithms."""

import math
from dataclasses import dataclass

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.penalties._separable import Separable


@dataclass(frozen=True, eq=False)
class LogSum(Separable):
    r"""``alpha * sum_i log(1 + |x_i| / epsilon)``. Not convex.

    The penalty that reweighted L1 minimises: entries well above epsilon hardly shrink.

    Parameters
    ----------
    alpha : float
        Strength, not negative; the slope at zero is ``alpha / epsilon``.
    epsilon : float
        Size below which an entry counts as small, in the units of `x`; positive.
    weights : array of shape (p,), optional
        Factors of alpha, not negative, one for each row of `x`. Ones by default.

    References
    ----------
    .. [1] E. J. Candès, M. B. Wakin, S. P. Boyd, "Enhancing sparsity by reweighted l1
       minimization", J. Fourier Anal. Appl., 2008, section 2.3.
    .. [2] P. Gong, C. Zhang, Z. Lu, J. Huang, J. Ye, "A general iterative shrinkage and
       thresholding algorithm for non-convex regularized optimization problems", ICML,
       2013, Table 2 (the prox).

    Examples
    --------
    >>> import numpy as np
    >>> LogSum(1.0, 1.0).prox(np.array([3.0, 0.5]), 1.0).round(3).tolist()
    [2.732, 0.0]
    """

    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < math.inf:
            raise ValueError(
                f"epsilon must be positive and finite, got {self.epsilon!r}"
            )

    @property
    def _form(self) -> tuple[str, float]:
        return "log_sum", self.epsilon

    def _cost(self, size: Array, strength: Array) -> Array:
        return strength * namespace(size).log1p(size / self.epsilon)

    def _slope(self, size: Array, strength: Array) -> Array:
        return strength / (self.epsilon + size)

    def _slope_at_zero(self, strength: Array) -> Array:
        return strength / self.epsilon

    def _shrink(self, size: Array, strength: Array, step_size: float) -> Array:
        # in units of epsilon: the larger root of v^2 + (1 - t) v + k - t = 0, or zero
        xp = namespace(size)
        t = size / self.epsilon
        k = (strength / self.epsilon) * (step_size / self.epsilon)
        near = xp.clip(t + 1 - 2 * k**0.5, min=0.0)
        root = xp.sqrt(near) * xp.sqrt(t + 1 + 2 * k**0.5)
        # where t - 1 and the root nearly cancel, by the product of the two roots
        small = 2 * (t - k) / xp.where(t < 1, root + (1 - t), xp.ones_like(t))
        v = xp.where(t < 1, small, (t - 1 + root) / 2)
        safe = xp.where(v > 0, v, xp.ones_like(v))
        worse = (v / 2 - t) + k * xp.log1p(safe) / safe >= 0
        zero = (near <= 0) | (v <= 0) | worse
        return xp.where(zero, xp.zeros_like(size), self.epsilon * v)
