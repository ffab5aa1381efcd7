"""Gamma regression."""

import math

import numpy as np

from vitalfew._arrays import namespace, to_host
from vitalfew.contracts import Array
from vitalfew.objectives._glm import PointwiseGLM


class Gamma(PointwiseGLM):
    """Weighted mean of ``y_i exp(-e_i) + e_i``, ``e = X x + b``, plus a ridge.

    Positive numbers whose spread grows with their mean, with a logarithmic link.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        Positive numbers.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A refit on k columns is a damped Newton method, O(n k^2) a step. The shape of the
    distribution does not change the minimiser and is not part of the loss; `deviance`
    takes the most likely one.

    References
    ----------
    .. [1] P. McCullagh and J. A. Nelder, "Generalized linear models", 2nd edition,
       1989, chapter 8.
    """

    def _check_target(self) -> None:
        host = to_host(self.y)
        if not host.min() > 0:
            raise ValueError(
                f"y must be positive, got {host.min():g} in row {host.argmin()}; "
                "leave such rows out, or use another loss"
            )

    def _ratio(self, eta: Array) -> Array:
        """Targets over their means."""
        with np.errstate(over="ignore"):  # the line search refuses infinity
            return self.y * namespace(eta).exp(-eta)

    def _best_intercept(self, eta: Array, b: float) -> float:
        """Return the intercept at which targets are their means, on average."""
        del b
        if not self.fit_intercept:
            return 0.0
        xp = namespace(eta)
        there = self.w > 0
        logs = xp.where(there, xp.log(self.y) - eta, xp.full_like(eta, -float("inf")))
        top = float(xp.max(logs))
        return top + float(xp.log(xp.sum(self.w * xp.exp(logs - top))))

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        return self._ratio(eta) + eta

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        return 1 - self._ratio(eta)

    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, (n,)."""
        return self._ratio(eta)

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood at the most likely shape."""
        from scipy.special import gammaln  # slow to import

        xp, n = namespace(self.y), self.n_samples
        logs = float(xp.sum(self.w * xp.log(self.y)))
        loss = self.loss_at(x, intercept)
        if not math.isfinite(loss):
            return math.inf
        # half the mean deviance, near the square of the scatter; rounding ends it
        excess = max(loss - 1 - logs, 1e-10)
        a = _shape(excess)
        per_row = gammaln(a) - a * np.log(a) + a * (1 + excess) + logs
        return float(2 * n * per_row)


def _shape(excess: float) -> float:
    """Solve ``log a - digamma(a) = excess``, by Newton's method in ``1 / a``."""
    from scipy.special import digamma, polygamma

    a = (3 - excess + np.sqrt((excess - 3) ** 2 + 24 * excess)) / (12 * excess)
    for _ in range(5):
        left = np.log(a) - digamma(a) - excess
        a = 1 / (1 / a + left / (a - a * a * polygamma(1, a)))
    return float(a)
