"""Huber regression: least squares that outliers cannot bend."""

import math
from typing import Any

import numpy as np

from vitalfew._arrays import namespace
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array
from vitalfew.objectives._glm import PointwiseGLM


class Huber(PointwiseGLM):
    """Weighted mean of ``h(y_i - X_i x - b)``, plus a ridge.

    ``h(r) = r^2/2`` up to `delta` and ``delta |r| - delta^2/2`` beyond.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        Targets.
    delta : float, default=1.345
        Where the loss turns from a square to a line, in units of y; 1.345 standard
        deviations of the noise lose 5 % of efficiency when it is normal.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A refit is a damped Newton method, O(n k^2) a step. Rows beyond `delta` have no
    curvature; they are given 1 % of that of Huber's own reweighting, ``delta/|r|``, so
    that the Hessian stays definite however few rows lie within.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of
       Mathematical Statistics, 1964.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        delta: float = 1.345,
        sample_weight: Any = None,
        l2: float = 0.0,
        fit_intercept: bool = False,
    ) -> None:
        self.delta = check_nonnegative("delta", delta)
        if self.delta == 0:
            raise ValueError("delta must be positive, got 0")
        super().__init__(
            X, y, sample_weight=sample_weight, l2=l2, fit_intercept=fit_intercept
        )

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        xp = namespace(eta)
        r = xp.abs(eta - self.y)
        inner = xp.clip(r, max=self.delta)
        return inner * (r - inner / 2)

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        return namespace(eta).clip(eta - self.y, min=-self.delta, max=self.delta)

    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, kept from vanishing, (n,)."""
        xp = namespace(eta)
        r = xp.abs(eta - self.y)
        outer = 0.01 * self.delta / xp.clip(r, min=self.delta)
        return xp.where(r <= self.delta, xp.ones_like(r), outer)

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """``n log(2 mean loss)``, as for least squares with an unknown scale."""
        mean = max(self.loss_at(x, intercept), np.finfo(float).tiny)
        return self.n_samples * math.log(2 * mean)
