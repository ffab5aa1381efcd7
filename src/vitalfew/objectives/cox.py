"""Cox's partial likelihood for survival times."""

import math
from typing import Any, ClassVar, Self

import numpy as np

from vitalfew._arrays import (
    as_array,
    is_array_api_obj,
    namespace,
    rows,
    segment_sum,
    to_host,
)
from vitalfew._validation import check_rows
from vitalfew.contracts import Array, Ints
from vitalfew.designs import Design
from vitalfew.objectives._glm import GLM


class Cox(GLM):
    """Minus the log partial likelihood over the sum of the weights, plus a ridge.

    With ``e = X x``: ``(sum over events i of w_i (log S_i - e_i)) / sum_i w_i``, where
    ``S_i`` adds ``w_j exp(e_j)`` over all rows still at risk at the time of event i.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    time : array of shape (n,)
        Positive times of event or censoring.
    event : array of shape (n,)
        True or 1 where the event happened, False or 0 where it was censored.
    ties : {"breslow", "efron"}, default="breslow"
        How events at one time are counted: all against the full risk set, so that a
        weight of two is the same as a row given twice; or as if one after the other in
        average order, more exact where many events share a time.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.

    Notes
    -----
    Value and gradient cost O(n) after X; a refit on k columns is a damped Newton
    method, O(n k^2) a step. `swap_gains` bounds the curvature of entering
    columns from above by their total instead of their within-risk-set variance.

    References
    ----------
    .. [1] D. R. Cox, "Regression models and life-tables", JRSS B, 1972.
    .. [2] B. Efron, "The efficiency of Cox's likelihood function for censored data",
       JASA, 1977, section 3 (ties).
    """

    _target: ClassVar[str] = "time"

    def __init__(
        self,
        X: Any,
        time: Any,
        event: Any,
        *,
        ties: str = "breslow",
        sample_weight: Any = None,
        l2: float = 0.0,
    ) -> None:
        if ties not in ("efron", "breslow"):
            raise ValueError(f"ties must be 'efron' or 'breslow', got {ties!r}")
        self.ties = ties
        given = event if is_array_api_obj(event) else np.asarray(event)
        self.event = np.asarray(to_host(given)).astype(np.float64)
        super().__init__(X, time, sample_weight=sample_weight, l2=l2)

    def _check_target(self) -> None:
        times = to_host(self.y)
        check_rows("event", self.event, self.n_samples)
        if self.event.ndim != 1:
            raise ValueError(f"event must have shape (n,), got {self.event.shape}")
        if not np.all(np.isin(self.event, (0.0, 1.0))):
            raise ValueError("event must hold True and False, or 1 and 0, only")
        if times.min() <= 0:
            raise ValueError(
                f"time must be positive, got {times.min():g} in row {times.argmin()}"
            )
        if not np.any(self.event[to_host(self.w) > 0]):
            raise ValueError(
                "event must be True somewhere: with no event there is "
                "nothing to explain"
            )

    @property
    def strata(self) -> Ints | None:
        """Events or censored rows, that folds should hold in equal shares."""
        return self.event.astype(np.int64)

    @property
    def _shift_free(self) -> bool:
        return True  # a shift cancels in every ratio of risks

    def rows(self, indices: Ints) -> Self:
        """Return the same objective on some of the rows."""
        event, self.event = self.event, self.event[indices]
        try:
            return super().rows(indices)
        finally:
            self.event = event

    def _prepare(self) -> None:
        times, event = to_host(self.y), self.event
        v = np.ones(self.n_samples) if self.weight is None else to_host(self.weight)
        self._order = np.argsort(-times, kind="stable")
        falling, group = np.unique(-times, return_inverse=True)
        n_groups = len(falling)
        self._group = group
        ends = np.cumsum(np.bincount(group, minlength=n_groups)) - 1
        deaths = np.bincount(group, weights=event * (v > 0), minlength=n_groups)
        mass = np.bincount(group, weights=event * v, minlength=n_groups)
        at: Any = np.flatnonzero(deaths > 0)
        if self.ties == "breslow":
            terms, fraction, weight = at, np.zeros(len(at)), mass[at]
        else:
            many = deaths[at].astype(np.int64)
            terms = np.repeat(at, many)
            first = np.repeat(np.cumsum(many) - many, many)
            fraction = (np.arange(len(terms)) - first) / deaths[terms]
            weight = mass[terms] / deaths[terms]
        self._n_groups, self._terms, self._ends = n_groups, terms, ends[terms]
        self._v = as_array(v, self.like)
        self._died = as_array(event, self.like)
        self._fraction = as_array(fraction, self.like)
        self._omega = as_array(weight / self.total_weight, self.like)
        super()._prepare()

    # -- sums over risk sets -----------------------------------------------------------

    def _at_risk(self, values: Array) -> Array:
        """Sum over the risk set of each term, tied events counted by their fraction."""
        xp = namespace(values)
        sums = xp.cumulative_sum(rows(values, self._order), axis=0)
        died, fraction = self._died, self._fraction
        if values.ndim == 2:
            died, fraction = died[:, None], fraction[:, None]
        tied = segment_sum(values * died, self._group, self._n_groups)
        return rows(sums, self._ends) - fraction * rows(tied, self._terms)

    def _spread(self, values: Array) -> Array:
        """Transpose of `_at_risk`: from the terms back to the rows."""
        xp = namespace(values)
        died, fraction = self._died, self._fraction
        if values.ndim == 2:
            died, fraction = died[:, None], fraction[:, None]
        own = segment_sum(values, self._terms, self._n_groups)
        tied = segment_sum(values * fraction, self._terms, self._n_groups)
        later = xp.flip(xp.cumulative_sum(xp.flip(own, axis=0), axis=0), axis=0)
        return rows(later, self._group) - died * rows(tied, self._group)

    def _risk(self, eta: Array) -> tuple[Array, Array, Array]:
        """Relative risks, their sums over risk sets, and the shift taken out."""
        xp = namespace(eta)
        shift = xp.max(eta)
        risk = self._v * xp.exp(eta - shift)
        tiny = float(xp.finfo(eta.dtype).smallest_normal)
        return risk, xp.clip(self._at_risk(risk), min=tiny), shift

    # -- the loss ----------------------------------------------------------------------

    def _mean_loss(self, eta: Array) -> float:
        xp = namespace(eta)
        _, S, shift = self._risk(eta)
        paid = xp.sum(self._omega * (xp.log(S) + shift))
        return float(paid - xp.sum(self.w * self._died * eta))

    def _slopes(self, eta: Array) -> Array:
        risk, S, _ = self._risk(eta)
        return risk * self._spread(self._omega / S) - self.w * self._died

    def _weights(self, eta: Array) -> Array:
        risk, S, _ = self._risk(eta)
        return risk * self._spread(self._omega / S)

    def _separated(self, eta: Array, value: float) -> bool:
        # risks so far apart that sums over risk sets are about to lose their digits
        xp = namespace(eta)
        smallest = float(xp.finfo(eta.dtype).smallest_normal)
        return float(xp.max(eta) - xp.min(eta)) > -0.4 * math.log(smallest)

    def _curved(self, eta: Array, c: Array, A: Design) -> tuple[Array, Array]:
        """Centred columns, and the Hessian in the predictors times them, (n, k)."""
        D, _ = A.around_means(c)
        risk, S, _ = self._risk(eta)
        root = (self._omega**0.5 / S)[:, None]
        means = self._at_risk(risk[:, None] * D) * root  # over risk sets: (terms, k)
        return D, c[:, None] * D - risk[:, None] * self._spread(root * means)

    def _gram(self, A: Design, eta: Array, c: Array, center: Array | None) -> Array:
        D, curved = self._curved(eta, c, A)
        return D.T @ curved

    def _cross_and_norms(
        self, ids: Ints, eta: Array, c: Array, center: Array | None, part: slice
    ) -> tuple[Array, Array]:
        _, curved = self._curved(eta, c, self.design.columns(ids))
        C, norms = self._backward(curved).T, self._norms(eta, c, center)
        return C[:, part], norms[part]

    def _middle(self, c: Array) -> Array:
        return self.design.rmatvec(c) / float(namespace(c).sum(c))

    def _norms(self, eta: Array, c: Array, center: Array | None) -> Array:
        # variance within risk sets is at most the total variance
        return self.design.squared_norms(c, self._middle(c))

    def _blocks(self, table: Ints, c: Array, center: Array | None) -> Array:
        return self.design.block_grams(table, c, self._middle(c))

    def baseline_hazard(self, x: Array, predictor: float = 0.0) -> tuple[Array, Array]:
        """Breslow's cumulative baseline hazard: event times and values, on the host.

        Parameters
        ----------
        x : array of shape (p,)
            Coefficients.
        predictor : float, default=0.0
            Of the row whose hazard it is; one near those of the data keeps the risks
            within the range of floating-point numbers.

        Returns
        -------
        times : NumPy array of shape (number of different event times,)
            Ascending.
        hazard : NumPy array of the same shape
            Cumulative hazard of a row with that predictor.
        """
        v, times = to_host(self._v), to_host(self.y)
        risk = v * np.exp(to_host(self.design.matvec(x)) - predictor)
        falling, group = np.unique(-times, return_inverse=True)
        at_risk = np.cumsum(np.bincount(group, weights=risk))
        deaths = np.bincount(group, weights=v * self.event)
        some = deaths > 0
        steps = (deaths[some] / at_risk[some])[::-1]
        return -falling[some][::-1], np.cumsum(steps)
