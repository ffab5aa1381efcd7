"""Regression on ordered classes: proportional odds, and what departs from them."""

import math
from typing import Any, NamedTuple

import numpy as np

from vitalfew._arrays import (
    as_array,
    columns,
    eye,
    namespace,
    precision,
    rows,
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
from vitalfew.objectives._ridge import Ridge
from vitalfew.objectives._sigmoid import sigmoid
from vitalfew.objectives.multinomial import MOST_NEWTON_SIZE
from vitalfew.solution import Status
from vitalfew.supports import Coordinates, Point, Whole

LEAST_GAP = -1e-12  # minus the difference of log-odds from which they are apart
RARE = 1e-4  # about the share of a class that has no rows in a part of the data
LONGEST = 30.0  # change of log-odds that a step may make beyond their size


class Sides(NamedTuple):
    """The two boundaries of each row's class, as weights of the thresholds."""

    up: Array  # (n, C - 1): one at the upper boundary, none for the highest class
    low: Array  # (n, C - 1)
    above: Array  # (n,): infinite for the highest class, zero otherwise
    below: Array  # (n,): minus infinity for the lowest

    def at(self, eta: Array) -> tuple[Array, Array]:
        """Log-odds (n, C - 1) of being below each boundary, at the row's own two."""
        xp = namespace(eta)
        u = xp.sum(self.up * eta, axis=1) + self.above
        return u, xp.sum(self.low * eta, axis=1) + self.below


class Curves(NamedTuple):
    """Second derivatives of the losses: in u, in l, and in their difference."""

    up: Array
    low: Array
    gap: Array


class Ordinal(DataObjective):
    """Weighted mean of ``-log P(y_i)`` over ordered classes, plus a ridge.

    ``P(y <= c) = 1 / (1 + exp(e_c - t_c))``: the thresholds ``t_0 < t_1 < ...`` are the
    intercept, which is minimised out. In the proportional odds model `x` has shape
    (p,) and ``e_c = X x`` at all boundaries, so a positive coefficient speaks for
    higher classes. Otherwise `x` has shape (p, C - 1), ``e_c`` is X times the sum of
    its columns 0 to c, and columns beyond the first are what one boundary differs by
    from that before: penalties such as `L1` shrink towards proportional odds, which
    lends rare classes the strength of the others.

    Parameters
    ----------
    X : array of shape (n, p), sparse matrix or Design
        Finite numbers.
    y : integer array of shape (n,)
        Classes 0 to C - 1 in their order, each present.
    parallel : bool, default=True
        Proportional odds: one coefficient for each column of X.
    sample_weight : array of shape (n,), optional
        Weights, not negative, not all zero.
    l2 : float, default=0.0
        Ridge. Where the chosen columns separate the classes and this is zero, no
        minimiser exists: refits then stop on the way and say so.

    Notes
    -----
    A refit on m coordinates is a damped Newton method over these and the thresholds,
    O(n (m + C)^2) a step; above 1,500 unknowns, L-BFGS. `swap_gains` is the exact gain
    of the quadratic at the fit in the proportional odds model, and else takes the
    columns of `x` as independent after a rotation that makes them so on average.

    Where boundaries are not parallel they cross somewhere; a row whose own class would
    have no probability has an infinite loss, which every step is cut short of.

    References
    ----------
    .. [1] P. McCullagh, "Regression models for ordinal data", JRSS B, 1980.
    .. [2] G. Faletto and J. Bien, "Predicting rare events by shrinking towards
       proportional odds", ICML 2023, section 3.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        parallel: bool = True,
        sample_weight: Any = None,
        l2: float = 0.0,
    ) -> None:
        super().__init__(X, y, sample_weight=sample_weight, l2=l2, fit_intercept=True)
        self.n_classes = count_classes(self.y, self.w)
        self.parallel = bool(parallel)
        p, n_bounds = self.design.shape[1], self.n_classes - 1
        sums = np.ones((1, n_bounds)) if parallel else np.triu(np.ones((n_bounds,) * 2))
        self._sums = as_array(sums, self.like)
        self.shape = (p,) if parallel else (p, n_bounds)
        with np.errstate(invalid="ignore"):  # of infinities, which are looked for next
            self._prepare()
            probe = self.design.rmatvec(self.w * (1 + self.y))
        self._check_design(probe)

    def _prepare(self) -> None:
        super()._prepare()
        labels, w = to_host(self.y).astype(np.int64), to_host(self.w)
        mass = np.bincount(labels, w, self.n_classes).astype(np.float64)
        present = np.flatnonzero(mass)
        # part of the data may lack a class: its two boundaries are then one for fits
        previous = np.append(-1, present)[np.searchsorted(present, labels)]
        self._own = self._sides(labels, labels - 1, self.n_classes - 1)
        self._merged = self._sides(labels, previous, present[-1])
        used = present[:-1] if len(present) > 1 else np.zeros(1, np.int64)
        every = np.arange(self.n_classes - 1)
        self._source = used[np.maximum(np.searchsorted(used, every, "right") - 1, 0)]
        edge = (every >= present[-1]) * 1.0 - (every < present[0])
        offset = RARE * (every - self._source) - np.log(RARE) * edge
        self._offset = as_array(offset, self.like)
        below = np.clip(np.cumsum(mass)[:-1], 1e-9, 1 - 1e-9)
        null = as_array(np.log(below / (1 - below)), self.like)
        self.null_intercept = self._filled(null)

    def _sides(self, above: Ints, below: Ints, highest: int) -> Sides:
        """Mark the boundaries of each row's class."""
        none = np.zeros(self.n_classes - 1)
        hot = np.concatenate((np.eye(self.n_classes - 1), none[None, :]))
        top, bottom = above >= highest, below < 0
        parts = (
            hot[np.where(top, -1, above)],
            hot[np.where(bottom, -1, below)],
            np.where(top, np.inf, 0.0),
            np.where(bottom, -np.inf, 0.0),
        )
        return Sides(*(as_array(part, self.like) for part in parts))

    def _filled(self, t: Array) -> Array:
        """Thresholds, with those that no row is at put where their class is rare."""
        return take(t, self._source) + self._offset

    @property
    def strata(self) -> Ints | None:
        """Classes that folds should hold in equal shares."""
        return to_host(self.y).astype(np.int64)

    # -- the loss ----------------------------------------------------------------------

    @np.errstate(invalid="ignore")  # of rows without weight
    def _mean_loss(self, u: Array, low: Array) -> float:
        xp = namespace(u)
        losses = _losses(u, low)
        return float(xp.sum(xp.where(self.w > 0, self.w * losses, xp.zeros_like(u))))

    def _slopes(self, u: Array, low: Array) -> tuple[Array, Array]:
        """First derivatives of the mean loss in u and l."""
        gap = _gap_slopes(u - low)[0]
        return -self.w * (sigmoid(-u) + gap), self.w * (sigmoid(low) + gap)

    def _curves(self, u: Array, low: Array) -> Curves:
        at_u, at_l = sigmoid(-u), sigmoid(low)
        w = self.w
        gap = _gap_slopes(u - low)[1]
        # as products of tails, which are not lost where one of them is almost one
        return Curves(w * at_u * sigmoid(u), w * at_l * sigmoid(-low), w * gap)

    def _pulled(self, u: Array, low: Array) -> Array:
        """Gradient of the mean loss in the products with X: (n,) or (n, C - 1)."""
        at_u, at_l = self._slopes(u, low)
        sides = self._merged
        s = -(at_u[:, None] * sides.up + at_l[:, None] * sides.low) @ self._sums.T
        return s[:, 0] if self.parallel else s

    def _bounds(self, products: Array) -> Array:
        """Return e at all boundaries, (n, C - 1)."""
        return (products[:, None] if self.parallel else products) @ self._sums

    # -- thresholds --------------------------------------------------------------------

    def _spread(self, e: Array) -> Array:
        """Thresholds at which no row's loss is infinite: as without X, or further."""
        xp, sides = namespace(e), self._merged
        needed = xp.sum((sides.up - sides.low) * e, axis=1)
        inner = (sides.above == 0) & (sides.below == 0) & (self.w > 0)
        needed = to_host(xp.where(inner, needed, xp.zeros_like(needed)))
        labels, null = to_host(self.y).astype(np.int64), to_host(self.null_intercept)
        gaps = np.zeros(self.n_classes)
        np.maximum.at(gaps, labels, needed)
        first = float(xp.sum(self.w * e[:, 0]))
        return as_array(null + first + np.cumsum(gaps[:-1]), self.like)

    def _thresholds(self, e: Array) -> Array:
        """Best thresholds, by damped Newton; e (n, C - 1) stays.

        Where log-odds are huge the loss is all kinks: those of a part of them come
        first, which round the kinks off.
        """
        sides, none, share = self._merged, zeros(0, self.like), 1.0
        reach = _reach(e - namespace(e).mean(e, axis=0)[None, :], e[:0, :])
        while LONGEST < share * reach < math.inf:
            share /= 4
        t = self._spread(share * e)
        while True:
            at = sides.at(-share * e)
            t, _, _, _ = self._newton(sides.up, sides.low, at, t, none)
            if share == 1:
                return t
            t, share = 4 * t, 4 * share

    def _newton(
        self,
        at_u: Array,
        at_l: Array,
        offset: tuple[Array, Array],
        v: Array,
        ridge: Array,
    ) -> tuple[Array, Array, Array, Status | None]:
        """Minimise over v, where ``u = at_u v`` and ``l = at_l v`` but for an offset.

        The last unknowns have a ridge. Returns v, u, l and how it went.
        """
        xp, only = namespace(v), ridge.shape[0] == 0
        no_ridge = only or not bool(xp.any(ridge > 0))
        ridge = xp.concat((zeros(v.shape[0] - ridge.shape[0], v), ridge))
        u, low = offset[0] + at_u @ v, offset[1] + at_l @ v
        value = self._mean_loss(u, low) + 0.5 * float(xp.sum(ridge * v * v))
        # thresholds alone are found so closely that gradients in `x` are exact
        tolerance = max(1e-13 if only else 1e-10, 4 * precision(v))
        between = at_u - at_l
        for _ in range(MOST_NEWTON_STEPS):
            s_u, s_l = self._slopes(u, low)
            g = at_u.T @ s_u + at_l.T @ s_l + ridge * v
            c = self._curves(u, low)
            H = at_u.T @ (at_u * c.up[:, None]) + at_l.T @ (at_l * c.low[:, None])
            H = H + between.T @ (between * c.gap[:, None])
            damping = ridge
            if only:  # or a shift of all thresholds is lost where only gaps are curved
                most = float(xp.max(xp.linalg.diagonal(H)))
                damping = ridge + 200 * precision(v) * most
            step = -solve_posdef(H + damping[:, None] * eye(v.shape[0], H), g)
            slope = float(g @ step)
            # close to the optimum one more Newton step doubles the digits
            rounding = tolerance * max(abs(value), 1e-10)
            last = not -slope > rounding
            move, t = (at_u @ step, at_l @ step), 1.0
            if not last:  # where all is flat, steps are far too long
                t = min(1.0, (LONGEST + _reach(u, low)) / max(_reach(*move), 1e-300))
            while True:
                new_u, new_l, new_v = u + t * move[0], low + t * move[1], v + t * step
                new = self._mean_loss(new_u, new_l)
                new = new + 0.5 * float(xp.sum(ridge * new_v * new_v))
                if last or new <= value + 1e-4 * t * slope or t < 1e-10:
                    break
                t /= 2
            if not new <= value + last * rounding:
                break
            v, u, low, value = new_v, new_u, new_l, new
            if last:
                break
            if not only and no_ridge and self._separated(u, low, value):
                return v, u, low, Status.SEPARATED
        return v, u, low, None

    def _separated(self, u: Array, low: Array, value: float) -> bool:
        """Whether every class given is likelier than not, and sure on average."""
        if value > SEPARATED_BELOW:
            return False
        xp = namespace(u)
        return bool(xp.all((_losses(u, low) < np.log(2)) | (self.w == 0)))

    # -- values ------------------------------------------------------------------------

    def _at(self, products: Array) -> tuple[Array, Array, Array]:
        """Thresholds at products with X, and both log-odds of each row."""
        e = self._bounds(products)
        t = self._thresholds(e)
        u, low = self._merged.at(t[None, :] - e)
        return t, u, low

    def intercept_at(self, x: Array) -> Array | None:
        """Return the best thresholds for `x`, (C - 1,)."""
        return self._filled(self._at(self.design.matvec(x))[0])

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`, at the best thresholds."""
        _, u, low = self._at(self.design.matvec(x))
        gradient = self._backward(self._pulled(u, low)) + self.ridge.times(x)
        return self._mean_loss(u, low) + self.ridge.value(x), gradient

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        ids = self._row_ids(span)
        x = span.embed(z)
        if ids is None:
            products = self.design.matvec(x)
        else:
            products = self.design.columns(ids).matvec(rows(x, ids))
        t, u, low = self._at(products)
        return self._fit(span, z, self.ridge.value(x), t, u, low, None)

    def _fit(
        self,
        span: Any,
        z: Array,
        ridge: float,
        t: Array,
        u: Array,
        low: Array,
        status: Status | None,
    ) -> Fit:
        def gradient(fit: Fit) -> Array:
            return self._backward(self._pulled(u, low)) + self.ridge.times(fit.x)

        value = self._mean_loss(u, low) + ridge
        return Point(span, z, value, gradient, self._filled(t), status)

    # -- refits ------------------------------------------------------------------------

    def _slants(self, A: Array, places: Ints) -> tuple[Array, Array]:
        """Derivatives of u and l in coordinates of some columns, gathered in A."""
        q = self._sums.shape[0]
        A, sums = columns(A, places // q), columns(self._sums.T, places % q)
        return -A * (self._merged.up @ sums), -A * (self._merged.low @ sums)

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span of coordinates by damped Newton, with the thresholds."""
        if not isinstance(span, (Coordinates, Whole)):
            return super().refit(span, start, likely)
        ids, places = self._entries(span)
        n_bounds, q = self._sums.shape[1], self._sums.shape[0]
        if len(places) + n_bounds > MOST_NEWTON_SIZE:
            return super().refit(span, start, likely)
        xp = namespace(self.like)
        A, means = self.design.columns(ids).around_means(self.w)
        slants = self._slants(A, places)
        # what the means add to e at each boundary, for each coordinate
        lever = take(means, places // q)[:, None] * rows(self._sums, places % q)
        at_u = xp.concat((self._merged.up, slants[0]), axis=1)
        at_l = xp.concat((self._merged.low, slants[1]), axis=1)
        offset = self._merged.above, self._merged.below
        extra = zeros((len(ids), *self.shape[1:]), self.like) + self.ridge.at(ids)
        ridge = take(extra, places)
        v = xp.concat((self.null_intercept, zeros(len(places), self.like)))
        if start is not None and start.intercept is not None:
            z = span.restrict(start.x)
            warm = xp.concat((start.intercept - z @ lever, z))
            losses = [
                self._mean_loss(offset[0] + at_u @ w, offset[1] + at_l @ w)
                for w in (v, warm)
            ]
            # thresholds may have crossed, or curvature vanish far away
            v = warm if losses[1] < losses[0] else v
        v, u, low, status = self._newton(at_u, at_l, offset, v, ridge)
        t, z = v[:n_bounds], v[n_bounds:]
        paid = 0.5 * float(xp.sum(ridge * z * z))
        return self._fit(span, z, paid, t + z @ lever, u, low, status)

    # -- second derivatives ------------------------------------------------------------

    def _curved_at(self, fit: Fit) -> Curves:
        e = self._bounds(self.design.matvec(fit.x))
        t: Array = fit.intercept
        return self._curves(*self._merged.at(t[None, :] - e))

    def _among(self, c: Curves, slants: tuple[Array, Array]) -> tuple[Array, Array]:
        """Hessian of the thresholds, and of the thresholds against coordinates."""
        up, low = self._merged.up, self._merged.low

        def against(a: Array, b: Array) -> Array:
            gap = (up - low).T @ ((a - b) * c.gap[:, None])
            return up.T @ (a * c.up[:, None]) + low.T @ (b * c.low[:, None]) + gap

        return against(up, low), against(*slants)

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m)."""
        ids, places = self._entries(span)
        c = self._curved_at(fit)
        A, _ = self.design.columns(ids).around_means(self.w)
        a, b = self._slants(A, places)
        T, side = self._among(c, (a, b))
        H = a.T @ (a * c.up[:, None]) + b.T @ (b * c.low[:, None])
        H = H + (a - b).T @ ((a - b) * c.gap[:, None])
        H = H - side.T @ solve_posdef(T, side)
        r = zeros((len(ids), *self.shape[1:]), self.like) + self.ridge.at(ids)
        return H + take(r, places)[:, None] * eye(len(places), H)

    def _along(self, c: Curves, sums: Array) -> tuple[Array, Array, Array, Array]:
        """Second derivatives along one direction of the columns of `x`.

        Returns the weights of the rows, the columns' means under these, the thresholds
        against every column, (C - 1, p), and what they take away from products.
        """
        xp = namespace(sums)
        a, b = self._merged.up @ sums, self._merged.low @ sums
        weights = c.up * a * a + c.low * b * b + c.gap * (a - b) ** 2
        tiny = float(xp.finfo(sums.dtype).smallest_normal)
        center = self.design.rmatvec(weights) / max(float(xp.sum(weights)), tiny)
        up, low = self._merged.up, self._merged.low
        M = up * (c.up * a)[:, None] + low * (c.low * b)[:, None]
        M = M + (up - low) * (c.gap * (a - b))[:, None]
        side = self.design.rmatvec(M).T - xp.sum(M, axis=0)[:, None] * center[None, :]
        T, _ = self._among(c, (up, low))
        return weights, center, side, solve_posdef(T, side)

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian, of the shape of `x`."""
        c, each, xp = self._curved_at(fit), [], namespace(self.like)
        for d in range(self._sums.shape[0]):
            weights, center, side, less = self._along(c, self._sums[d, :])
            norms = self.design.squared_norms(weights, center)
            each.append(norms - xp.sum(side * less, axis=0))
        return xp.reshape(xp.stack(each, axis=1), self.shape) + self.ridge.at()

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Second-order estimate of every exchange of whole rows of `x`."""
        ids, q = self._row_ids(fit.support), self._sums.shape[0]
        if ids is None or len(ids) == 0 or self.ridge.varies:
            return None
        if q > 1 and structure.n_atoms != self.shape[0]:
            return None
        xp, p = namespace(self.like), self.shape[0]
        c = self._curved_at(fit)
        basis = self._independent(c)
        z = xp.reshape(fit.z, (len(ids), q)) @ xp.linalg.inv(basis).T
        gradient = xp.reshape(fit.gradient, (p, q)) @ basis
        models = []
        for d in range(q):
            ridge = Ridge(self.l2 * float(xp.sum(basis[:, d] ** 2)), self.ridge.extra)
            weights, center, side, less = self._along(c, basis[:, d] @ self._sums)
            C = self.design.cross(ids, weights, center) - columns(side, ids).T @ less
            norms = self.design.squared_norms(weights, center)
            models.append(
                QuadraticModel(
                    C,
                    ridge.added_to(columns(C, ids), ids),
                    z[:, d][:, None],
                    gradient[:, d][:, None],
                    norms - xp.sum(side * less, axis=0) + ridge.at(),
                )
            )

        def blocks(table: Ints) -> Array:
            flat = table.ravel()
            shape = (self.n_classes - 1, *table.shape)
            one, other = (
                xp.permute_dims(xp.reshape(columns(A, flat), shape), (1, 2, 0))
                for A in (side, less)
            )
            B = self.design.block_grams(table, weights, center)
            B = B - one @ xp.permute_dims(other, (0, 2, 1))
            return self.ridge.added_to_blocks(B, table)

        return exchanges_of(structure, fit, models, blocks if q == 1 else None, count)

    def _independent(self, c: Curves) -> Array:
        """Directions in a row of `x` in which the loss curves apart, on average."""
        up, low = (a @ self._sums.T for a in (self._merged.up, self._merged.low))
        if self.parallel:
            return eye(1, self.like)
        H = up.T @ (up * c.up[:, None]) + low.T @ (low * c.low[:, None])
        H = H + (up - low).T @ ((up - low) * c.gap[:, None])
        values, vectors = np.linalg.eigh(to_host(H).astype(np.float64))
        sizes = np.sqrt(np.maximum(values, 1e-6 * values[-1]))
        return as_array(vectors / sizes, self.like)

    # -- scores ------------------------------------------------------------------------

    def log_probabilities(self, e: Array, thresholds: Array) -> Array:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        e : array of shape (n,) or (n, C - 1)
            Products of data with `x`.
        thresholds : array of shape (C - 1,)
            As in `Fit.intercept`.

        Returns
        -------
        array of shape (n, C)
            Minus infinity where boundaries that are not parallel have crossed.
        """
        return log_shares(thresholds[None, :] - self._bounds(e))

    def loss_at(self, x: Array, intercept: Array | None = None) -> float:
        """Weighted mean loss of a given model, without the ridge.

        Without an intercept at the best thresholds for these rows; infinite where
        boundaries that are not parallel cross at the class of a row.
        """
        if intercept is None:
            intercept = self.intercept_at(x)
        e = self._bounds(self.design.matvec(x))
        return self._mean_loss(*self._own.at(as_array(intercept, e)[None, :] - e))

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood."""
        return 2 * self.n_samples * self.loss_at(x, intercept)


def log_shares(eta: Array) -> Array:
    """Return the logarithms of the probabilities of ordered classes.

    Parameters
    ----------
    eta : array of shape (n, C - 1)
        Log-odds of being below each boundary.

    Returns
    -------
    array of shape (n, C)
        Minus infinity where boundaries have crossed.
    """
    xp = namespace(eta)
    end = xp.full_like(eta[:, :1], float("inf"))
    u, low = xp.concat((eta, end), axis=1), xp.concat((-end, eta), axis=1)
    return -_losses(u, low)


def _reach(u: Array, low: Array) -> float:
    """Largest size of a finite number of two arrays."""
    xp, both = namespace(u), namespace(u).concat((u, low))
    return float(xp.max(xp.abs(xp.where(xp.isfinite(both), both, xp.zeros_like(both)))))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _losses(u: Array, low: Array) -> Array:
    """Minus the logarithm of the share of the logistic distribution from low to u."""
    xp = namespace(u)
    none = xp.zeros_like(u)
    tails = xp.logaddexp(none, -u) + xp.logaddexp(none, low)
    inside = xp.log(-xp.expm1(xp.clip(low - u, max=LEAST_GAP)))
    return xp.where(low < u, tails - inside, xp.full_like(u, float("inf")))


def _gap_slopes(gap: Array) -> tuple[Array, Array]:
    """First and second derivatives of ``-log(1 - exp(-gap))``, the first negated."""
    xp = namespace(gap)
    t = xp.clip(-gap, max=LEAST_GAP)
    small, left = xp.exp(t), -xp.expm1(t)
    return small / left, small / left**2
