"""Multinomial logistic regression, one coefficient for each column and class."""

import math
from typing import Any

import numpy as np

from vitalfew._arrays import (
    as_array,
    columns,
    eye,
    namespace,
    precision,
    put,
    solve_posdef,
    take,
    to_host,
    zeros,
)
from vitalfew.contracts import Array, Exchanges, Fit, Ints
from vitalfew.linalg import QuadraticModel
from vitalfew.objectives._classes import count_classes
from vitalfew.objectives._data import DataObjective
from vitalfew.objectives._exchanges import exchanges_of
from vitalfew.objectives._glm import MOST_NEWTON_STEPS, SEPARATED_BELOW
from vitalfew.solution import Status
from vitalfew.supports import Point

MOST_NEWTON_SIZE = 1500  # unknowns up to which the full Hessian is formed
LONGEST = 30.0  # change of log-odds that a step may make beyond their size


class Multinomial(DataObjective):
    """Weighted mean of ``logsumexp(e_i) - e_i[y_i]``, ``e = X x + b``, plus a ridge.

    Symmetric: `x` has shape (p, C) and no class is the reference, so coefficients are
    determined up to a constant in each row; refits take the one that sums to zero.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : integer array of shape (n,)
        Classes 0 to C - 1, each present.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge.
    fit_intercept : bool, default=False
        Minimise over one intercept for each class; they are not part of `x`.

    Notes
    -----
    A refit on k rows is a damped Newton method in k (C - 1) unknowns, O(n k^2 C^2 / 2)
    a step; above 1,500 unknowns, L-BFGS. `swap_gains` takes the classes as independent.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        l2: float = 0.0,
        fit_intercept: bool = False,
    ) -> None:
        super().__init__(
            X, y, sample_weight=sample_weight, l2=l2, fit_intercept=fit_intercept
        )
        self.n_classes = count_classes(self.y, self.w)
        self.shape = (self.design.shape[1], self.n_classes)
        with np.errstate(invalid="ignore"):  # of infinities, which are looked for next
            self._prepare()
            probe = self.design.rmatvec(self._slopes(self._null))
        self._check_design(probe)

    def _prepare(self) -> None:
        super()._prepare()
        C = self.n_classes
        labels = to_host(self.y).astype(np.int64)
        self._hot = as_array(np.eye(C)[labels], self.like)
        # an orthonormal basis of the vectors that sum to zero
        basis = np.linalg.qr(np.eye(C) - 1.0 / C)[0][:, : C - 1]
        self._basis = as_array(basis, self.like)
        self.null_intercept = self._best_intercept(
            zeros((self.n_samples, C), self.like), zeros(C, self.like)
        )
        self._null = (
            zeros((self.n_samples, C), self.like) + self.null_intercept[None, :]
        )
        self.null_value = self._mean_loss(self._null)

    @property
    def strata(self) -> Ints | None:
        """Classes that folds should hold in equal shares."""
        return to_host(self.y).astype(np.int64)

    @property
    def free_share(self) -> float:
        """Share of the coefficients that is free: one class is redundant."""
        return 1 - 1 / self.n_classes

    # -- the loss ----------------------------------------------------------------------

    def _mean_loss(self, eta: Array) -> float:
        xp = namespace(eta)
        top = xp.max(eta, axis=1, keepdims=True)
        total = xp.log(xp.sum(xp.exp(eta - top), axis=1)) + top[:, 0]
        return float(xp.sum(self.w * (total - xp.sum(self._hot * eta, axis=1))))

    def _shares(self, eta: Array) -> Array:
        """Probabilities of the classes, (n, C)."""
        xp = namespace(eta)
        e = xp.exp(eta - xp.max(eta, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def _slopes(self, eta: Array) -> Array:
        return self.w[:, None] * (self._shares(eta) - self._hot)

    def _best_intercept(self, eta: Array, b: Array) -> Array:
        """Minimise over the intercepts alone, from `b`.

        Where log-odds are huge the loss is all kinks: those of a part of them come
        first, which round the kinks off.
        """
        if not self.fit_intercept:
            return b
        xp, share = namespace(eta), 1.0
        reach = float(xp.max(xp.abs(eta - xp.mean(eta, axis=0)[None, :])))
        while LONGEST < share * reach < math.inf:
            share /= 4
        while share < 1:
            b = self._best_shift(share * eta, share * b) / share
            share *= 4
        return self._best_shift(eta, b)

    @np.errstate(over="ignore", invalid="ignore")  # of trial points, refused
    def _best_shift(self, eta: Array, b: Array) -> Array:
        """Minimise over the intercepts by damped Newton from `b`."""
        xp, Q = namespace(self.like), self._basis
        eps, unit = precision(self.like), eye(self.n_classes, self.like)
        value = self._mean_loss(eta + b[None, :])
        for _ in range(MOST_NEWTON_STEPS):
            shares = self._shares(eta + b[None, :])
            g = xp.sum(self.w[:, None] * (shares - self._hot), axis=0) @ Q
            # from products of two classes, which keep digits where one is sure
            pairs = (shares.T @ (self.w[:, None] * shares)) * (1 - unit)
            H = Q.T @ (xp.sum(pairs, axis=1)[:, None] * unit - pairs) @ Q
            # or directions are lost in which the loss is all but flat
            most = max(200 * eps * float(xp.max(xp.abs(H))), eps**2)
            u = solve_posdef(H + most * eye(H.shape[0], H), -g)
            slope, step, t = float(xp.sum(g * u)), Q @ u, 1.0
            # close to the optimum one more Newton step doubles the digits
            last = not -slope > max(1e-12, 4 * eps) * max(abs(value), 1e-10)
            if not last:  # where all is flat, steps are far too long
                reach = LONGEST + float(xp.max(xp.abs(eta + b[None, :])))
                t = min(1.0, reach / float(xp.max(xp.abs(step))))
            while True:
                new = self._mean_loss(eta + (b + t * step)[None, :])
                if last or new <= value + 1e-4 * t * slope or t < 1e-10:
                    break
                t /= 2
            if not new <= value:
                break
            b, value = b + t * step, new
            if last:
                break
        return b

    def _predictor(self, x: Array) -> tuple[Array, Array]:
        eta = self.design.matvec(x)
        b = self.null_intercept
        if self.fit_intercept:
            # begun with the means at null's: far from zero all losses are flat
            b = self._best_intercept(eta, b - self.w @ eta)
        return eta + b[None, :], b

    def intercept_at(self, x: Array) -> Array | None:
        """Return the best intercepts for `x`, (C,)."""
        return self._predictor(x)[1] if self.fit_intercept else None

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`, at the best intercepts."""
        eta, _ = self._predictor(x)
        gradient = self._backward(self._slopes(eta)) + self.ridge.times(x)
        return self._mean_loss(eta) + self.ridge.value(x), gradient

    # -- refits ------------------------------------------------------------------------

    def _newton(self, A: Array, z: Array) -> tuple[Array, Array, Status | None]:
        """Minimise over ``z`` in ``A z``, rows of `z` summing to zero.

        The last column of `A` is the intercept's where one is fitted, and goes
        unpenalised.
        """
        xp, Q = namespace(self.like), self._basis
        k, D = A.shape[1], self.n_classes - 1
        penalty = np.zeros(k)
        penalty[: k - 1 if self.fit_intercept else k] = self.l2
        l2 = as_array(penalty, self.like)
        eta = A @ z

        def value_of(z: Array, eta: Array) -> float:
            return self._mean_loss(eta) + 0.5 * float(xp.sum(l2[:, None] * z * z))

        value = value_of(z, eta)
        tolerance = max(1e-10, 4 * precision(self.like))
        for _ in range(MOST_NEWTON_STEPS):
            shares = self._shares(eta)
            g = (A.T @ self._slopes(eta) + l2[:, None] * z) @ Q  # k, D
            H = zeros((k, D, k, D), self.like)
            turned = shares @ Q
            for a in range(D):
                for b in range(a, D):
                    s = shares @ (Q[:, a] * Q[:, b]) - turned[:, a] * turned[:, b]
                    block = A.T @ (A * (self.w * s)[:, None])
                    if a == b:
                        block = block + l2[:, None] * eye(k, block)
                    H[:, a, :, b] = block
                    H[:, b, :, a] = block.T
            flat = solve_posdef(xp.reshape(H, (k * D, k * D)), xp.reshape(-g, (k * D,)))
            u = xp.reshape(flat, (k, D))
            slope = float(xp.sum(g * u))
            # close to the optimum one more Newton step doubles the digits
            last = not -slope > tolerance * max(abs(value), 1e-10)
            step, t = u @ Q.T, 1.0
            move = A @ step
            while True:
                new = value_of(z + t * step, eta + t * move)
                if last or new <= value + 1e-4 * t * slope or t < 1e-10:
                    break
                t /= 2
            if not new <= value:
                break
            z, eta, value = z + t * step, eta + t * move, new
            if last:
                break
            if not self.ridge and value <= SEPARATED_BELOW and (self._separated(eta)):
                return z, eta, Status.SEPARATED
        return z, eta, None

    def _separated(self, eta: Array) -> bool:
        xp = namespace(eta)
        own = xp.sum(self._hot * eta, axis=1)
        other = xp.max(eta - self._hot * float(xp.finfo(eta.dtype).max) / 4, axis=1)
        return bool(xp.all((own > other) | (self.w == 0)))

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span; by Newton's method where it holds whole rows."""
        ids = self._row_ids(span)
        extra = int(self.fit_intercept)
        size = 0 if ids is None else (len(ids) + extra) * (self.n_classes - 1)
        # with unequal ridges within a row the coefficients need not sum to zero
        if ids is None or size > MOST_NEWTON_SIZE or self.ridge.varies:
            return super().refit(span, start, likely)
        xp, C = namespace(self.like), self.n_classes
        part = self.design.columns(ids)
        z = zeros((len(ids), C), self.like)
        b = self.null_intercept
        if start is not None:
            z = xp.reshape(span.restrict(start.x), (-1, C))
            b = b if start.intercept is None else start.intercept
        value = self._mean_loss(part.matvec(z) + b[None, :])
        value += self.ridge.value(z, ids)
        if not value <= self.null_value:  # from a start that is worse than none
            z, b = zeros((len(ids), C), self.like), self.null_intercept
        if self.fit_intercept:
            A, means = part.around_means(self.w)
            A = xp.concat((A, zeros((self.n_samples, 1), self.like) + 1.0), axis=1)
            z = xp.concat((z, (b + means @ z)[None, :]), axis=0)
        else:
            A = part.dense()
        z = (z @ self._basis) @ self._basis.T
        status = None
        if z.shape[0]:
            z, eta, status = self._newton(A, z)
        else:
            eta = self._null
        if self.fit_intercept:
            z, b = z[:-1, :], z[-1, :] - means @ z[:-1, :]
        flat = xp.reshape(z, (-1,))

        def gradient(fit: Fit) -> Array:
            return self._backward(self._slopes(eta)) + self.ridge.times(fit.x)

        value = self._mean_loss(eta) + self.ridge.value(xp.reshape(flat, (-1, C)), ids)
        return Point(
            span, flat, value, gradient, b if self.fit_intercept else None, status
        )

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Estimate of every exchange, the classes taken as independent."""
        ids = self._row_ids(fit.support)
        if ids is None or len(ids) == 0 or structure.n_atoms != self.shape[0]:
            return None
        if self.ridge.varies:
            return None
        xp, C = namespace(self.like), self.n_classes
        z = xp.reshape(fit.z, (len(ids), C))
        eta = self.design.matvec(put(self.shape[0], ids, z))
        if fit.intercept is not None:
            eta = eta + fit.intercept[None, :]
        shares = self._shares(eta)
        models = []
        for cls in range(C):
            c = self.w * shares[:, cls] * (1 - shares[:, cls])
            center = self._middle(c)
            rows = self.design.cross(ids, c, center)
            models.append(
                QuadraticModel(
                    rows,
                    columns(rows, ids) + self.l2 * eye(len(ids), rows),
                    z[:, cls][:, None],
                    fit.gradient[:, cls][:, None],
                    self.design.squared_norms(c, center) + self.l2,
                )
            )
        return exchanges_of(structure, fit, models, None, count)

    # -- second derivatives ------------------------------------------------------------

    def _middle(self, c: Array) -> Array | None:
        """Means of the columns under weights, where there are intercepts."""
        if not self.fit_intercept:
            return None
        return self.design.rmatvec(c) / max(float(namespace(c).sum(c)), 1e-300)

    def _shares_at(self, fit: Fit) -> Array:
        eta = self.design.matvec(fit.x)
        return self._shares(
            eta if fit.intercept is None else eta + fit.intercept[None, :]
        )

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian for fixed intercepts: an upper bound, (p, C)."""
        shares, each = self._shares_at(fit), []
        for cls in range(self.n_classes):
            c = self.w * shares[:, cls] * (1 - shares[:, cls])
            each.append(self.design.squared_norms(c, self._middle(c)))
        return namespace(self.like).stack(each, axis=1) + self.ridge.at()

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m)."""
        xp, C = namespace(self.like), self.n_classes
        ids, places = self._entries(span)
        shares = self._shares_at(fit)
        A = self.design.columns(ids).dense()
        if self.fit_intercept:
            A = xp.concat((A, zeros((self.n_samples, 1), self.like) + 1.0), axis=1)
        k = A.shape[1]
        H = zeros((k, C, k, C), self.like)
        for a in range(C):
            for b in range(a, C):
                s = -shares[:, a] * shares[:, b]
                s = s + shares[:, a] if a == b else s
                block = A.T @ (A * (self.w * s)[:, None])
                H[:, a, :, b] = block
                H[:, b, :, a] = block.T
        H = xp.reshape(H, (k * C, k * C))
        inner = len(ids) * C
        if self.fit_intercept:
            side = H[:inner, inner:]
            H = H[:inner, :inner] - side @ solve_posdef(H[inner:, inner:], side.T)
        if self.ridge:
            r = zeros((len(ids), C), self.like) + self.ridge.at(ids)
            H = H + take(r, np.arange(inner))[:, None] * eye(inner, H)
        return self._arranged(H, places)

    # -- scores ------------------------------------------------------------------------

    def loss_at(self, x: Array, intercept: Array | None = None) -> float:
        """Weighted mean loss of a given model, without the ridge."""
        eta = self.design.matvec(x)
        return self._mean_loss(eta if intercept is None else eta + intercept[None, :])

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood."""
        return 2 * self.n_samples * self.loss_at(x, intercept)
