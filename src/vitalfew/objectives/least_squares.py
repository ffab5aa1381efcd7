"""Least squares, one output or several."""

import math
from typing import Any

import numpy as np

from vitalfew._arrays import (
    as_array,
    columns,
    eye,
    is_numpy_array,
    least_eigenvalue,
    namespace,
    precision,
    rows,
    solve_posdef,
    take,
    zeros,
)
from vitalfew.contracts import Array, Exchanges, Fit, Ints
from vitalfew.designs import CrossRows, Grams
from vitalfew.linalg import QuadraticModel
from vitalfew.objectives._data import DataObjective
from vitalfew.objectives._exchanges import exchanges_of
from vitalfew.supports import Point

MOST_EIGENVALUES = 1000  # columns whose products are worth their eigenvalues


class LeastSquares(DataObjective):
    """Weighted mean of ``|y_i - X_i x - b|^2 / 2``, plus ``l2/2 |x|^2``.

    Refits are Cholesky solves of a Gram matrix whose rows are remembered, so solvers
    that ask for the same columns again do not read X again.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers. Solvers that choose by gradients depend on the units of the
        columns: bring them to one scale, as the estimators do.
    y : array of shape (n,) or (n, q)
        Targets; with q outputs `x` has shape (p, q).
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over an intercept too; it is not part of `x`.
    cache_bytes : int, default=2**30
        Most memory for remembered products of columns.

    Notes
    -----
    A refit on k columns costs O(k^3) once their products are known; a column's products
    cost one pass over X, 32 of them together 6 to 9. `swap_gains` is exact and costs
    O(k^2 p).

    Examples
    --------
    >>> import numpy as np
    >>> f = LeastSquares(np.eye(3), np.array([3.0, 0.0, 0.0]))
    >>> f.value_and_gradient(np.zeros(3))[0]
    1.5
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        l2: float = 0.0,
        fit_intercept: bool = False,
        cache_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            X, y, sample_weight=sample_weight, l2=l2, fit_intercept=fit_intercept
        )
        if self.y.ndim > 2 or 0 in self.y.shape:
            raise ValueError(
                f"y must have shape (n,) or (n, q), got {tuple(self.y.shape)}"
            )
        self.cache_bytes = cache_bytes
        self.shape = (self.design.shape[1], *self.y.shape[1:])
        with np.errstate(invalid="ignore"):  # of infinities, which are looked for next
            self._prepare()
        self._check_design(self.correlation)

    def _prepare(self) -> None:
        super()._prepare()
        w = self.w
        mean = w @ self.y
        self.mean = mean if self.fit_intercept else namespace(mean).zeros_like(mean)
        self.residual0 = self.y - self.mean
        self.correlation = self._backward(self._weighted(self.residual0))
        self.zero_value = self._half_square(self.residual0)
        self.cross_rows = CrossRows(self.design, w, self.center, self.cache_bytes)
        self.grams = Grams(self.design, w, self.center, self.cache_bytes)
        self._memo: dict[Any, Any] = {}

    def _weighted(self, r: Array) -> Array:
        return r * (self.w if r.ndim == 1 else self.w[:, None])

    def _rooted(self, r: Array) -> Array:
        root = self.w**0.5
        return r * (root if r.ndim == 1 else root[:, None])

    def _half_square(self, r: Array) -> float:
        xp = namespace(r)
        return 0.5 * float(xp.sum(self._weighted(r) * r))

    def _residual(self, prediction: Array, x: Array, center: Array | None) -> Array:
        """Residual of a prediction without intercept, at the best intercept."""
        r = prediction - self.residual0
        return r if center is None else r - center @ x

    def intercept_at(self, x: Array) -> Array | None:
        """Return the best intercept for `x`."""
        return None if self.center is None else self.mean - self.center @ x

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`, at the best intercept."""
        r = self._residual(self.design.matvec(x), x, self.center)
        gradient = self._backward(self._weighted(r)) + self.ridge.times(x)
        return self._half_square(r) + self.ridge.value(x), gradient

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        ids = self._row_ids(span)
        if ids is None:
            return super().at(span, z)
        x = self._as_rows(z)
        known = self.grams.combine(ids, x)
        if known is not None:  # times the root of the weights, as are the columns held
            known = known - self._rooted(self.residual0)
            value = 0.5 * float(namespace(known).sum(known * known))
            weighted = self._rooted(known)
        else:
            center = None if self.center is None else take(self.center, ids)
            r = self._residual(self.design.columns(ids).matvec(x), x, center)
            value, weighted = self._half_square(r), self._weighted(r)

        def gradient(fit: Fit) -> Array:
            return self._backward(weighted) + self.ridge.times(fit.x)

        return self._fit(span, z, value + self.ridge.value(x, ids), gradient)

    def _fit(self, span: Any, z: Array, value: float, gradient: Any) -> Fit:
        intercept = None
        ids = self._row_ids(span)
        if self.center is not None and ids is not None:
            intercept = self.mean - take(self.center, ids) @ self._as_rows(z)
        return Point(span, z, value, gradient, intercept)

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span; in closed form where it holds whole rows of `x`."""
        ids = self._row_ids(span)
        if ids is None:
            return super().refit(span, start, likely)
        slots = None
        if likely is not None or self.cross_rows.has(ids):
            hint = None if likely is None else self._row_ids(likely)
            slots = self.cross_rows.get(ids, hint)
        if slots is None:
            return self._refit_columns(span, ids)
        b = rows(self.correlation, ids)
        G = self.cross_rows.gram(slots, ids)
        z = self._solve(G, b, ids)
        value = self.zero_value - 0.5 * float(namespace(z).sum(z * b))
        flat = namespace(z).reshape(z, (-1,))
        if value <= max(1e-6, 1e4 * precision(self.like)) * self.zero_value:
            return self.at(span, flat)  # the difference has lost its digits

        def gradient(fit: Fit) -> Array:
            g = self.cross_rows.combine(slots, z)
            return g - self.correlation + self.ridge.times(fit.x)

        return self._fit(span, flat, value, gradient)

    def _solve(self, G: Array, b: Array, ids: Ints) -> Array:
        if not self.ridge.varies:
            return solve_posdef(self.ridge.added_to(G, ids), b)
        r, xp = self.ridge.at(ids), namespace(G)
        unit = eye(G.shape[0], G)
        one_by_one = [
            solve_posdef(G + r[:, o][:, None] * unit, b[:, o])
            for o in range(b.shape[1])
        ]
        return xp.stack(one_by_one, axis=1)

    def _refit_columns(self, span: Any, ids: Ints) -> Fit:
        A = self.design.columns(ids)
        center = None if self.center is None else take(self.center, ids)
        z = self._solve(A.gram(self.w, center), rows(self.correlation, ids), ids)
        return self.at(span, namespace(z).reshape(z, (-1,)))

    def _gram(self, ids: Ints) -> Array:
        """Products among some columns, (k, k), from what is remembered."""
        slots = self.cross_rows.get(ids) if self.cross_rows.has(ids) else None
        return (
            self.grams.get(ids) if slots is None else self.cross_rows.gram(slots, ids)
        )

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian, of the shape of `x`; the same everywhere."""
        norms = self.cross_rows.squared_norms()
        if len(self.shape) == 1:
            return norms + self.ridge.at()
        return norms[:, None] + zeros(self.shape, self.like) + self.ridge.at()

    def hessian_root(self, fit: Fit, span: Any) -> tuple[Array, Ints, Array] | None:
        """Columns behind the Hessian of a vector `x`, as rows; where they are held."""
        if len(self.shape) > 1 or not is_numpy_array(self.like):
            return None
        ids = span.restrict(np.arange(self.shape[0]))
        held = self.grams.held(ids)
        if held is None:
            return None
        return *held, zeros(len(ids), self.like) + self.ridge.at(ids)

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m); the same everywhere."""
        ids, places = self._entries(span)
        G = self._gram(ids)
        if len(self.shape) == 1:
            return self._arranged(self.ridge.added_to(G, ids), places)
        q = self.shape[1]
        row, output = places // q, places % q
        same = as_array(output[:, None] == output[None, :], G)
        H = columns(rows(G, row), row) * same
        if not self.ridge:
            return H
        r = zeros((len(ids), q), G) + self.ridge.at(ids)
        return H + take(r, places)[:, None] * eye(len(places), G)

    def convexity(self, span: Any) -> float:
        """Return a mu such that ``f - mu/2 |x|^2`` is convex on a span.

        The ridge, and the least eigenvalue of the products of up to 1,000 columns.
        """
        ids, _ = self._entries(span)
        if not 0 < len(ids) <= min(MOST_EIGENVALUES, self.n_samples):
            return self.l2
        return self.l2 + least_eigenvalue(self._gram(ids))

    def _blocks(self, table: Ints) -> Array:
        key = (table.shape, table.tobytes())
        if key not in self._memo:
            self._memo[key] = self.design.block_grams(table, self.w, self.center)
        return self.ridge.added_to_blocks(self._memo[key], table)

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Exact decrease by every exchange of two atoms; the `count` best entrants."""
        ids = self._row_ids(fit.support)
        if ids is None or len(ids) == 0 or self.ridge.varies:
            return None
        slots, xp = self.cross_rows.get(ids), namespace(self.like)

        def run(part: slice) -> tuple[Array, Array]:
            if slots is None:  # too many to be remembered
                C, norms = self.design.cross_and_norms(ids, self.w, self.center, part)
            else:
                C = rows(self.cross_rows.rows[:, part], slots)
                norms = self.cross_rows.squared_norms()[part]
            return C, norms + self.ridge.of_run(part)

        model = QuadraticModel(
            run,
            self.ridge.added_to(self._gram(ids), ids),
            xp.reshape(fit.z, (len(ids), -1)),
            xp.reshape(fit.gradient, (self.shape[0], -1)),
            None,
        )
        return exchanges_of(structure, fit, [model], self._blocks, count)

    def loss_at(self, x: Array, intercept: Array | None = None) -> float:
        """Weighted mean of half the squared errors of a given model."""
        prediction = self.design.matvec(x)
        if intercept is not None:
            prediction = prediction + intercept
        return self._half_square(self.y - prediction)

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """``n q log(RSS / (n q))``: minus twice the likelihood at the best variance."""
        size = self.n_samples * math.prod(self.shape[1:])
        mean_square = 2 * self.loss_at(x, intercept) / math.prod(self.shape[1:])
        return size * math.log(max(mean_square, np.finfo(float).tiny))
