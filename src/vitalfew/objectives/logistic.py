"""Logistic regression."""

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.objectives._classes import TwoClasses
from vitalfew.objectives._glm import SEPARATED_BELOW
from vitalfew.objectives._sigmoid import sigmoid


class Logistic(TwoClasses):
    """Weighted mean of ``log(1 + exp(e_i)) - y_i e_i``, ``e = X x + b``, plus a ridge.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        0 or 1, both present.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge. Where the chosen columns separate the classes and this is zero, no
        minimiser exists: refits then stop on the way and say so.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A refit on k columns is a damped Newton method, O(n k^2) a step. `swap_gains` is the
    exact gain of the quadratic at the fit, one product of k columns with X.
    """

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        xp = namespace(eta)
        return xp.logaddexp(xp.zeros_like(eta), (1 - 2 * self.y) * eta)

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        # as a tail of the sign, so that it stays exact where the fit is almost perfect
        sign = 1 - 2 * self.y
        return sign * sigmoid(sign * eta)

    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, (n,)."""
        xp = namespace(eta)
        small = xp.exp(-xp.abs(eta))
        return small / (1 + small) ** 2

    def _separated(self, eta: Array, value: float) -> bool:
        if value > SEPARATED_BELOW:
            return False
        xp = namespace(eta)
        margin = (2 * self.y - 1) * eta
        return bool(xp.all((margin > 0) | (self.w == 0)))
