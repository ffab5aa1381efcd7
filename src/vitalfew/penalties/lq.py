"""Powers below one."""

import math
from dataclasses import dataclass
from typing import Any

from vitalfew._arrays import namespace, precision
from vitalfew.contracts import Array
from vitalfew.penalties._separable import Separable


@dataclass(frozen=True, eq=False)
class Lq(Separable):
    r"""``alpha * sum_i |x_i|^q`` for a power q below one. Not convex.

    The smaller q, the closer to counting nonzeros, and the less large entries shrink.

    Parameters
    ----------
    alpha : float
        Strength, not negative.
    q : float, default=0.5
        Power, between 0 and 1.
    weights : array of shape (p,), optional
        Factors of alpha, not negative, one for each row of `x`. Ones by default.

    Notes
    -----
    The slope at zero is infinite, so that zero is stationary at every strength and
    `critical_alpha` is 0; what leaves zero is told by the prox, which keeps entries
    above a threshold. It has a closed form for q = 1/2 and q = 2/3; otherwise it takes
    some ten steps of Newton's method.

    References
    ----------
    .. [1] Z. Xu, X. Chang, F. Xu, H. Zhang, "L1/2 regularization: a thresholding
       representation theory and a fast solver", IEEE Trans. Neural Netw. Learn. Syst.,
       2012, Theorem 1.
    .. [2] W. Cao, J. Sun, Z. Xu, "Fast image deconvolution using closed-form
       thresholding formulas of Lq (q = 1/2, 2/3) regularization", J. Vis. Commun.
       Image Represent., 2013, section 2.
    .. [3] G. Marjanovic, V. Solo, "On lq optimization and matrix completion", IEEE
       Trans. Signal Process., 2012, Theorem 1 (the threshold for any q).

    Examples
    --------
    >>> import numpy as np
    >>> Lq(1.0).prox(np.array([4.0, 1.5]), 1.0).round(3).tolist()
    [3.742, 0.0]
    """

    q: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q < 1:
            raise ValueError(f"q must lie between 0 and 1, got {self.q!r}")

    @property
    def _form(self) -> tuple[str, float]:
        return "lq", self.q

    def _cost(self, size: Array, strength: Array) -> Array:
        return strength * size**self.q

    def _slope(self, size: Array, strength: Array) -> Array:
        return strength * (self.q * size ** (self.q - 1))

    def _slope_at_zero(self, strength: Array) -> Array:
        xp = namespace(strength)
        return xp.where(
            strength > 0, xp.full_like(strength, math.inf), xp.zeros_like(strength)
        )

    def _shrink(self, size: Array, strength: Array, step_size: float) -> Array:
        xp, q = namespace(size), self.q
        least = (2 * (1 - q) * step_size * strength) ** (1 / (2 - q))
        threshold = least * ((2 - q) / (2 * (1 - q)))
        zero = size <= threshold
        # u = size * v, where v solves v + c q v^(q - 1) = 1; scaled, nothing overflows
        one = xp.ones_like(size)
        ratio = xp.where(zero, one, threshold / xp.where(zero, one, size))
        v_least = 2 * (1 - q) / (2 - q)
        c = (ratio ** (2 - q)) * ((1 - v_least) * v_least ** (1 - q) / q)
        return xp.where(zero, xp.zeros_like(size), size * self._shares(xp, c))

    def _shares(self, xp: Any, c: Array) -> Array:
        """Return the larger root of ``v + c q v^(q - 1) = 1``."""
        q = self.q
        if q == 1 / 2:
            angle = xp.acos(xp.clip(c * (-(27**0.5) / 4), min=-1.0))
            return xp.cos(angle / 3) ** 2 * (4 / 3)
        if q == 2 / 3:
            # v = w^3 with w^4 - w + 2 c / 3 = 0, by Ferrari's resolvent; below the
            # precision of the numbers c changes nothing, and its powers overflow
            c = xp.clip(c, min=precision(c) ** 2)
            steep = xp.acosh(xp.clip((27 / 16) * (2 * c) ** -1.5, min=1.0))
            A = (2 / 3**0.5) * (2 * c) ** 0.25 * xp.cosh(steep / 3) ** 0.5
            return ((A + xp.sqrt(2 / A - A * A)) / 2) ** 3
        v = xp.ones_like(c)
        for _ in range(60):  # convex on the right of the root: it falls towards it
            slope = 1 - c * (q * (1 - q)) * v ** (q - 2)
            new = v - (v + c * q * v ** (q - 1) - 1) / slope
            if not bool(xp.any(new < v - 4 * precision(v) * v)):
                break
            v = new
        return v
