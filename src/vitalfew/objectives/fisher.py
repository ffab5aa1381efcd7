"""The loss of a network near trained weights, from gradients of samples."""

import copy
from typing import Any, Self

import numpy as np

from vitalfew._arrays import (
    as_array,
    eye,
    is_array_api_obj,
    least_eigenvalue,
    namespace,
    precision,
    put,
    solve_posdef,
    take,
    zeros,
)
from vitalfew._validation import check_finite, check_nonnegative
from vitalfew.contracts import Array, Exchanges, Fit, Ints
from vitalfew.designs import as_design
from vitalfew.linalg import QuadraticModel
from vitalfew.objectives._base import BaseObjective
from vitalfew.objectives._exchanges import exchanges_of
from vitalfew.supports import Coordinates, Point, Whole

CHUNK = 1 << 24  # numbers of the columns that are gathered at once
KERNELS = 2  # supports whose products of samples are remembered, n^2 numbers each
MOST_EIGENVALUES = 1000  # columns whose products are worth their eigenvalues


class Fisher(BaseObjective):
    r"""A loss near some weights, its Hessian replaced by the empirical Fisher matrix.

    With the gradients A of n samples, one row each, and the move d = w - center, it is

    .. math:: v + \frac{1}{n} \sum_i \Bigl( s\, a_i^T d
        + \tfrac12 (a_i^T d)^2 \Bigr) + \frac{r}{2} |d|^2 .

    The matrix A^T A is never formed.

    Parameters
    ----------
    A : array of shape (n, p)
        Gradient of each sample's loss at the centre.
    center : array of shape (p,)
        Weights at which the gradients were taken.
    value : float, default=0.0
        Loss there, v.
    slope : float, default=1.0
        How much of the mean gradient counts, s: 0 takes the centre for a minimum.
    ridge : float, default=0.0
        Damping, r.

    Notes
    -----
    A value costs one pass over A, a gradient two. A refit on k coordinates solves a
    system of min(n, k) equations, by the identity of Woodbury where that is n, and
    costs O(n k min(n, k)); without a ridge, several points are as good, and the answer
    is one close to the centre.

    References
    ----------
    .. [1] R. Benbaki, W. Chen, X. Meng, H. Hazimeh, N. Ponomareva, Z. Zhao,
       R. Mazumder, "Fast as CHITA: neural network pruning with combinatorial
       optimization", ICML 2023, section 3.
    .. [2] S. P. Singh, D. Alistarh, "WoodFisher: efficient second-order approximation
       for neural network compression", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> f = Fisher(np.eye(2), np.array([1.0, 2.0]), 0.5, slope=0.0)
    >>> f.value_and_gradient(np.array([1.0, 0.0]))[0]
    1.5
    """

    def __init__(
        self,
        A: Any,
        center: Any,
        value: float = 0.0,
        *,
        slope: float = 1.0,
        ridge: float = 0.0,
    ) -> None:
        self.design = as_design(A)
        n, p = self.design.shape
        self.like, self.size = self.design.like, n * p
        given = center if is_array_api_obj(center) else np.asarray(center)
        if tuple(given.shape) != (p,):
            raise ValueError(
                f"center must have shape ({p},), one number for each column of A, got "
                f"{tuple(given.shape)}"
            )
        self.center = as_array(given, self.like)
        check_finite("center", self.center)
        self.value, self.slope = float(value), float(slope)
        if not np.isfinite([self.value, self.slope]).all():
            raise ValueError(
                f"value and slope must be finite, got {self.value} and {self.slope}"
            )
        self.ridge = check_nonnegative("ridge", ridge)
        self.extra: Array | None = None  # a ridge around zero, added by `with_ridge`
        self.shape = (p,)
        self._kernels: list[tuple[Ints, Array]] = []  # shared by what `damped` returns
        self.w = zeros(n, self.like) + 1.0 / n
        self.at_center = self.design.matvec(self.center)
        check_finite("A", self.design.rmatvec(self.w))
        check_finite("A", self.at_center)

    # -- points ------------------------------------------------------------------------

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`."""
        value, t = self._value(x)
        return value, self._gradient(x, t)

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        value, t = self._value(span.embed(z))
        return Point(span, z, value, lambda fit: self._gradient(fit.x, t))

    def _value(self, x: Array) -> tuple[float, Array]:
        """Value, and by how much the loss of each sample changes to first order."""
        xp, d = namespace(x), x - self.center
        t = self.design.matvec(d)
        value = self.slope * (self.w @ t) + 0.5 * (self.w @ (t * t))
        value = value + 0.5 * self.ridge * (d @ d)
        if self.extra is not None:
            value = value + 0.5 * xp.sum(self.extra * x * x)
        return self.value + float(value), t

    def _gradient(self, x: Array, t: Array) -> Array:
        g = self.design.rmatvec(self.w * (t + self.slope))
        g = g + self.ridge * (x - self.center)
        return g if self.extra is None else g + self.extra * x

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span; in closed form over coordinates."""
        if not isinstance(span, Coordinates | Whole):
            return super().refit(span, start, likely)
        ids = self._ids(span)
        if not len(ids):
            return self.at(span, zeros(0, self.like))
        # from the centre where the span is free and zero elsewhere
        u0 = take(self.center, ids)
        t = self.design.matvec(put(self.shape[0], ids, u0) - self.center)
        z = u0 + self._newton(ids, self.w * (t + self.slope), u0)
        return self.at(span, z)

    def _newton(self, ids: Ints, r: Array, u0: Array) -> Array:
        """Minimise from u0, where the samples' slopes are n r; returns the move."""
        n, k, A = self.design.shape[0], len(ids), self.design
        extra = None if self.extra is None else take(self.extra, ids)
        pull = 0 * u0 if extra is None else extra * u0
        D = self._damping(ids)
        inverted = extra is not None and float(namespace(D).min(D)) > 0
        if k <= n or (extra is not None and not inverted):
            A = A.columns(ids)
            G = A.gram(self.w) + D[:, None] * eye(k, D)
            return -solve_posdef(G, A.rmatvec(r) + pull)
        # (A'A/n + D)^-1 (A'r + p), by n equations
        if inverted:
            scale, shift = 1 / D, float(n)
            K = self._kernel(ids, scale)
        else:
            scale, shift = 0 * D + 1.0, n * self.ridge
            K = self.products(ids)
        moved = A.matvec(put(self.shape[0], ids, scale * pull))
        b = n * r - moved
        y = solve_posdef(K + shift * eye(n, D), b) if shift else _least_norm(K, b)
        return -scale * (take(A.rmatvec(y), ids) + pull)

    def _damping(self, ids: Ints) -> Array:
        d = zeros(len(ids), self.like) + self.ridge
        return d if self.extra is None else d + take(self.extra, ids)

    def _kernel(self, ids: Ints, scale: Array) -> Array:
        """``A_S diag(scale) A_S^T``, some columns at a time."""
        n = self.design.shape[0]
        K, step = zeros((n, n), self.like), max(1, CHUNK // n)
        for begin in range(0, len(ids), step):
            some = slice(begin, min(begin + step, len(ids)))
            A = self.design.columns(ids[some]).dense()
            K = K + (A * scale[some]) @ A.T
        return K

    def products(self, ids: Ints) -> Array:
        """Return ``A_S A_S^T`` over some coordinates, (n, n); the last are remembered.

        Parameters
        ----------
        ids : integer array of shape (k,)
            Coordinates.

        Returns
        -------
        array of shape (n, n)
            Products of the samples' gradients, O(n^2 k); not to be changed.
        """
        for known, K in self._kernels:
            if np.array_equal(known, ids):
                return K
        K = self._kernel(ids, zeros(len(ids), self.like) + 1.0)
        self._kernels[:] = [(ids, K), *self._kernels[: KERNELS - 1]]
        return K

    # -- second derivatives ------------------------------------------------------------

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian, (p,); the same everywhere."""
        d = self.design.squared_norms(self.w) + self.ridge
        return d if self.extra is None else d + self.extra

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m); the same everywhere."""
        ids = self._ids(span)
        return self._hessian(ids)

    def _hessian(self, ids: Ints) -> Array:
        G = self.design.columns(ids).gram(self.w)
        return G + self._damping(ids)[:, None] * eye(len(ids), G)

    def convexity(self, span: Any) -> float:
        """Return a mu such that ``f - mu/2 |x|^2`` is convex on a span.

        The ridge, and the least eigenvalue of the products of up to 1,000 columns.
        """
        ids = self._ids(span)
        if not 0 < len(ids) <= min(MOST_EIGENVALUES, self.design.shape[0]):
            return self.ridge
        return self.ridge + least_eigenvalue(self.design.columns(ids).gram(self.w))

    def with_ridge(self, weights: Array) -> Self:
        """Return this objective plus ``sum_i weights_i x_i^2 / 2``.

        Parameters
        ----------
        weights : array of shape (p,)
            Not negative.

        Returns
        -------
        Fisher
            With the same gradients.
        """
        weights = as_array(weights, self.like)
        if tuple(weights.shape) != self.shape:
            raise ValueError(
                f"weights must have the shape of x, {self.shape}, got "
                f"{tuple(weights.shape)}"
            )
        other = copy.copy(self)
        other.extra = weights if self.extra is None else self.extra + weights
        return other

    def damped(self, ridge: float) -> Self:
        """Return this objective with another damping.

        Parameters
        ----------
        ridge : float
            The new one, not negative.

        Returns
        -------
        Fisher
            It shares what is remembered of the gradients.
        """
        other = copy.copy(self)
        other.ridge = check_nonnegative("ridge", ridge)
        return other

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Exact decrease by every exchange of two atoms; the `count` best entrants."""
        support = fit.support
        if not isinstance(support, Coordinates) or not len(support):
            return None
        ids, xp = support.ids, namespace(self.like)
        D = self._damping(np.arange(self.shape[0]))

        def run(part: slice) -> tuple[Array, Array]:
            C, norms = self.design.cross_and_norms(ids, self.w, None, part)
            return C, norms + D[part]

        def blocks(table: Ints) -> Array:
            B = self.design.block_grams(table, self.w)
            d = xp.reshape(take(D, table.ravel()), table.shape)
            return B + d[:, :, None] * eye(B.shape[-1], B)[None, :, :]

        model = QuadraticModel(
            run, self._hessian(ids), fit.z[:, None], fit.gradient[:, None], None
        )
        return exchanges_of(structure, fit, [model], blocks, count)

    def _ids(self, span: Any) -> Ints:
        if isinstance(span, Coordinates):
            return span.ids
        if isinstance(span, Whole):
            return np.arange(self.shape[0])
        raise TypeError(f"span must be one of coordinates, got {type(span).__name__}")


def _least_norm(K: Array, b: Array) -> Array:
    """Least squares solution of least norm; `solve_posdef` weighs the equations."""
    xp = namespace(K)
    values, vectors = xp.linalg.eigh(K)
    largest = float(xp.max(xp.abs(values)))
    kept = values > 10 * K.shape[0] * precision(K) * largest
    inverse = xp.where(kept, 1 / xp.where(kept, values, 1 + 0 * values), 0 * values)
    return vectors @ (inverse * (vectors.T @ b))
