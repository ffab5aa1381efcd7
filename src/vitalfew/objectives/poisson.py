"""Poisson regression."""

from vitalfew._arrays import namespace
from vitalfew.contracts import Array
from vitalfew.objectives._glm import PointwiseGLM


class Poisson(PointwiseGLM):
    """Weighted mean of ``exp(e_i) - y_i e_i``, ``e = X x + b``, plus a ridge.

    Counts with a logarithmic link.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        Counts, not negative, not all zero.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A refit on k columns is a damped Newton method, O(n k^2) a step.
    """

    def _check_target(self) -> None:
        xp = namespace(self.y)
        least = float(xp.min(self.y))
        if least < 0:
            raise ValueError(f"y must hold counts, none below zero, got {least:g}")
        if not float(xp.sum(self.w * self.y)) > 0:
            raise ValueError("y must not be all zero: there is nothing to explain")

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        return self._exp(eta) - self.y * eta

    def _exp(self, eta: Array) -> Array:
        # exp overflows to infinity, which the line search refuses; without a warning
        xp = namespace(eta)
        largest = 80.0 if xp.finfo(eta.dtype).bits == 32 else 700.0
        huge = xp.full_like(eta, float("inf"))
        return xp.where(eta > largest, huge, xp.exp(xp.clip(eta, max=largest)))

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        return self._exp(eta) - self.y

    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, (n,)."""
        return self._exp(eta)

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood, less that of a perfect fit."""
        xp = namespace(self.y)
        safe = xp.where(self.y > 0, self.y, xp.ones_like(self.y))
        perfect = float(xp.sum(self.w * (self.y - self.y * xp.log(safe))))
        return 2 * self.n_samples * (self.loss_at(x, intercept) - perfect)
