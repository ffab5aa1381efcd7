"""Quantile regression."""

import copy
import math
from typing import Any

import numpy as np

from vitalfew._arrays import namespace, precision, put, rows, to_host, zeros
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array, Fit
from vitalfew.objectives._check_loss import minimise_check_loss
from vitalfew.objectives._glm import PointwiseGLM
from vitalfew.objectives._sigmoid import sigmoid
from vitalfew.supports import Point

FLOOR = 0.01  # of the reweighting's curvature, where the loss has almost none
NARROWEST = 0.05  # automatic bandwidth, in units of the spread of y


class Quantile(PointwiseGLM):
    """Weighted mean of the check loss of ``r = y_i - X_i x - b``, plus a ridge.

    The check loss ``max(q r, (q - 1) r)`` has the conditional quantile `q` as its
    minimiser. It has no second derivative, so by default it is smoothed, with a
    logistic kernel of bandwidth h: ``q r + h log(1 + exp(-r / h))``, at most
    ``h log 2`` above.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : array of shape (n,)
        Targets.
    quantile : float, default=0.5
        Which, in (0, 1); the median by default.
    bandwidth : float, optional
        Of the smoothing, in units of y. By default that of [2]_,
        ``sqrt(q (1 - q)) (log p / n)^(1/4)`` and at least 0.05, times the interquartile
        range of y over 1.35.
    exact : bool, default=False
        Minimise the check loss itself. Refits of whole rows of `x` are then exact, and
        gradients are subgradients: for solvers that choose by refits (`OMP`,
        `LocalSearch`), not for those that walk along gradients.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.

    Notes
    -----
    A smoothed refit on k columns is a damped Newton method, O(n k^2) a step, with a
    hundredth of the curvature of iterative reweighting where the loss is straight. An
    exact one is a primal-dual interior point method [3]_, 15 to 30 steps of O(n k^2);
    its gradient is made of the dual variables, and so vanishes on the span. Exact
    `swap_gains` take the smoothed curvature.

    References
    ----------
    .. [1] X. He, X. Pan, K. M. Tan and W.-X. Zhou, "Smoothed quantile regression with
       large-scale inference", Journal of Econometrics, 2023, section 2.
    .. [2] K. M. Tan, L. Wang and W.-X. Zhou, "High-dimensional quantile regression:
       convolution smoothing and concave regularization", JRSS B, 2022, section 5.
    .. [3] S. Portnoy and R. Koenker, "The Gaussian hare and the Laplacian tortoise",
       Statistical Science, 1997, section 4.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        quantile: float = 0.5,
        bandwidth: float | None = None,
        exact: bool = False,
        sample_weight: Any = None,
        l2: float = 0.0,
        fit_intercept: bool = False,
    ) -> None:
        self.quantile = check_nonnegative("quantile", quantile)
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie in (0, 1), got {quantile!r}")
        self.exact = bool(exact)
        self.bandwidth = 0.0
        if bandwidth is not None:
            self.bandwidth = check_nonnegative("bandwidth", bandwidth)
            if self.bandwidth == 0:
                raise ValueError(
                    "bandwidth must be positive, got 0; use exact=True to do without"
                )
        super().__init__(
            X, y, sample_weight=sample_weight, l2=l2, fit_intercept=fit_intercept
        )

    def _prepare(self) -> None:
        if not self.bandwidth:  # once: on part of the rows the loss is the same
            self.bandwidth = self._rule_of_thumb()
        super()._prepare()

    def _rule_of_thumb(self) -> float:
        y = to_host(self.y)[to_host(self.w) > 0].astype(np.float64)
        low, middle, high = np.quantile(y, (0.25, 0.5, 0.75))
        spread = (high - low) / 1.35 or float(np.mean(np.abs(y - middle))) or 1.0
        n, p = self.design.shape
        q = self.quantile
        rate = math.sqrt(q * (1 - q)) * (math.log(max(p, 2)) / max(n, 1)) ** 0.25
        return float(max(NARROWEST, rate) * spread)

    # -- the loss ----------------------------------------------------------------------

    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""
        xp, h = namespace(eta), self.bandwidth
        r = self.y - eta
        if self.exact:
            return xp.maximum(self.quantile * r, (self.quantile - 1) * r)
        return self.quantile * r + h * xp.logaddexp(xp.zeros_like(r), -r / h)

    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""
        xp = namespace(eta)
        r = self.y - eta
        if self.exact:
            return (1 - xp.sign(r)) / 2 - self.quantile
        return sigmoid(-r / self.bandwidth) - self.quantile

    def curves(self, eta: Array) -> Array:
        """Second derivative of each smoothed loss, kept from vanishing, (n,)."""
        xp, h = namespace(eta), self.bandwidth
        r = xp.abs(self.y - eta)
        small = xp.exp(-r / h)
        return xp.maximum(small / (1 + small) ** 2 / h, FLOOR / 2 / xp.clip(r, min=h))

    def _slopes(self, eta: Array) -> Array:
        """Gradient of the mean loss; rows that are met make its sum zero."""
        s = super()._slopes(eta)
        if not (self.exact and self.fit_intercept):
            return s
        xp = namespace(eta)
        r = xp.abs(self.y - eta)
        met = r <= 100 * precision(eta) * (xp.abs(self.y) + xp.abs(eta))
        share = xp.where(met, self.w, xp.zeros_like(s))
        total = float(xp.sum(share))
        if total == 0:
            return s
        others = float(xp.sum(xp.where(met, xp.zeros_like(s), s)))
        return xp.where(met, -others / total * share, s)

    def _best_intercept(self, eta: Array, b: float) -> float:
        """Minimise over the intercept alone: exactly a quantile of the residuals."""
        if not (self.exact and self.fit_intercept):
            return super()._best_intercept(eta, b)
        r = to_host(self.y - eta)
        order = np.argsort(r, kind="stable")
        below = np.cumsum(to_host(self.w)[order].astype(np.float64))
        reached = below >= self.quantile - 10 * precision(eta)
        return float(r[order[np.argmax(reached)]])

    # -- exact refits ------------------------------------------------------------------

    def _smoothed(self) -> "Quantile":
        other = copy.copy(self)
        other.exact = False
        other._prepare()
        return other

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span: by damped Newton, or exactly by interior points."""
        if not self.exact:
            return super().refit(span, start, likely)
        ids = self._row_ids(span)
        if ids is None:
            return self.at(span, self._smoothed().refit(span, start, likely).z)
        part, xp = self.design.columns(ids), namespace(self.like)
        there = np.flatnonzero(to_host(self.w) > 0)
        ridge = zeros(len(ids), self.like) + self.ridge.at(ids)
        if self.fit_intercept:
            A, _ = part.around_means(self.w)
            A = xp.concat((A, zeros((self.n_samples, 1), self.like) + 1.0), axis=1)
            ridge = xp.concat((ridge, zeros(1, self.like)))
        else:
            A = part.dense()
        A, y, w = (rows(a, there) for a in (A, self.y, self.w))
        z, d = minimise_check_loss(A, y, w, self.quantile, ridge)
        z, s = z[: len(ids)], -put(self.n_samples, there, d)
        eta = part.matvec(z)
        b = self._best_intercept(eta, 0.0)

        def gradient(fit: Fit) -> Array:
            return self._backward(s) + self.ridge.times(fit.x)

        value = self._mean_loss(eta + b) + self.ridge.value(z, ids)
        return Point(span, z, value, gradient, self._wrap(b))

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """``2 n log(mean check loss)``: asymmetric Laplace noise of unknown scale."""
        eta = self.design.matvec(x)
        r = self.y - (eta if intercept is None else eta + intercept)
        xp = namespace(r)
        check = xp.maximum(self.quantile * r, (self.quantile - 1) * r)
        mean = max(float(xp.sum(self.w * check)), np.finfo(float).tiny)
        return 2 * self.n_samples * math.log(mean)
