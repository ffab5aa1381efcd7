"""The squared hinge loss, of linear support vector machines."""

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.objectives._classes import TwoClasses


class SquaredHinge(TwoClasses):
    """Weighted mean of ``max(0, 1 - s_i e_i)^2``, ``e = X x + b``, plus a ridge.

    ``s_i`` is 1 where ``y_i`` is 1, and -1 where it is 0.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        0 or 1, both present.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A refit on k columns is the damped Newton method of [1]_, O(n k^2) a step; rows
    beyond their margin have no slope and no curvature. Where the chosen columns
    separate the classes the least value is zero, and many points attain it. The loss
    is no likelihood: choose a budget by cross-validation rather than by a criterion.

    References
    ----------
    .. [1] S. S. Keerthi and D. DeCoste, "A modified finite Newton method for fast
       solution of large scale linear SVMs", JMLR, 2005, section 3.
    """

    def _short(self, eta: Array) -> tuple[Array, Array]:
        """How far each row falls short of its margin, and its sign."""
        sign = 2 * self.y - 1
        return namespace(eta).clip(1 - sign * eta, min=0.0), sign

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        short, _ = self._short(eta)
        return short * short

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        short, sign = self._short(eta)
        return -2 * sign * short

    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, (n,)."""
        xp = namespace(eta)
        short, _ = self._short(eta)
        return xp.where(short > 0, xp.full_like(eta, 2.0), xp.zeros_like(eta))
