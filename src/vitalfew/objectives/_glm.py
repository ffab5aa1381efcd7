"""A loss composed with a design: generalised linear models with one predictor."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from vitalfew._arrays import namespace, precision, solve_posdef, take, zeros
from vitalfew.contracts import Array, Exchanges, Fit, Ints
from vitalfew.designs import Design
from vitalfew.linalg import QuadraticModel
from vitalfew.objectives._data import DataObjective
from vitalfew.objectives._exchanges import exchanges_of
from vitalfew.solution import Status
from vitalfew.supports import Point

MOST_NEWTON_STEPS = 100
SEPARATED_BELOW = 1e-6  # mean loss at which a refit that diverges is stopped


class GLM(DataObjective):
    """A convex loss of the predictors ``X x + b``, plus a ridge.

    A subclass says what the loss is, with two derivatives in the predictors. The value
    is minimised over the intercept, so `x` alone is left to choose.
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
        if self.y.ndim != 1:
            raise ValueError(
                f"{self._target} must have shape (n,), got {tuple(self.y.shape)}"
            )
        self.shape = (self.design.shape[1],)
        self._check_target()
        with np.errstate(invalid="ignore"):  # of infinities, which are looked for next
            self._prepare()
            probe = self.design.rmatvec(self._slopes(self._null))
        self._check_design(probe)

    # -- the loss, in the predictors ---------------------------------------------------

    @abstractmethod
    def _mean_loss(self, eta: Array) -> float:
        """Weighted mean of the losses."""

    @abstractmethod
    def _slopes(self, eta: Array) -> Array:
        """Gradient of the mean loss, (n,)."""

    @abstractmethod
    def _weights(self, eta: Array) -> Array:
        """Diagonal of the Hessian of the mean loss, or an upper bound of it, (n,)."""

    def _check_target(self) -> None:
        """Raise if `y` cannot be a target of this loss."""

    def _separated(self, eta: Array, value: float) -> bool:
        """Whether a fit shows that the loss has no minimiser on these columns."""
        del eta, value
        return False

    # -- the Hessian; Cox adds its own term --------------------------------------------

    def _gram(self, A: Design, eta: Array, c: Array, center: Array | None) -> Array:
        """Hessian on a few columns."""
        del eta
        return A.gram(c, center)

    def _cross_and_norms(
        self, ids: Ints, eta: Array, c: Array, center: Array | None, part: slice
    ) -> tuple[Array, Array]:
        """Hessian of a few columns against a run of all, and its diagonal there."""
        del eta
        return self.design.cross_and_norms(ids, c, center, part)

    def _norms(self, eta: Array, c: Array, center: Array | None) -> Array:
        """Diagonal of the Hessian, (p,)."""
        del eta
        return self.design.squared_norms(c, center)

    def _blocks(self, table: Ints, c: Array, center: Array | None) -> Array:
        """Hessian within groups of columns, (N, m, m)."""
        return self.design.block_grams(table, c, center)

    # -- values ------------------------------------------------------------------------

    def _prepare(self) -> None:
        super()._prepare()
        none = zeros(self.n_samples, self.like)
        self.null_intercept = self._best_intercept(none, 0.0)
        self._null = none + self.null_intercept
        self.null_value = self._mean_loss(self._null)

    @np.errstate(over="ignore", invalid="ignore")  # of trial points, refused
    def _best_intercept(self, eta: Array, b: float) -> float:
        """Minimise over the intercept alone, by damped Newton from `b`."""
        if not self.fit_intercept:
            return 0.0
        xp = namespace(eta)
        value = self._mean_loss(eta + b)
        tolerance = max(1e-12, 4 * precision(eta))
        for _ in range(MOST_NEWTON_STEPS):
            slope = float(xp.sum(self._slopes(eta + b)))
            curve = float(xp.sum(self._weights(eta + b)))
            step = -slope / max(curve, 1e-12)
            if abs(slope * step) <= tolerance * max(abs(value), 1e-12):
                # close to the optimum one more Newton step doubles the digits
                return b + step if math.isfinite(step) else b
            t = 1.0
            while t > 1e-10:
                new = self._mean_loss(eta + (b + t * step))
                if new <= value + 1e-4 * t * slope * step:
                    break
                t /= 2
            else:
                break
            b, value = b + t * step, new
        return b

    def _intercept_for(self, eta: Array) -> float:
        """Best intercept for predictors without one, begun with their mean at null's.

        Where columns are far from zero all losses are flat or huge without it.
        """
        middle = float(namespace(eta).sum(self.w * eta))
        return self._best_intercept(eta, self.null_intercept - middle)

    def _predictor(self, x: Array) -> tuple[Array, float]:
        eta = self.design.matvec(x)
        b = self._intercept_for(eta)
        return eta + b, b

    def intercept_at(self, x: Array) -> Array | None:
        """Return the best intercept for `x`."""
        return self._wrap(self._predictor(x)[1])

    def _wrap(self, b: float) -> Array | None:
        return zeros((), self.like) + b if self.fit_intercept else None

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`, at the best intercept."""
        eta, _ = self._predictor(x)
        gradient = self._backward(self._slopes(eta)) + self.ridge.times(x)
        return self._mean_loss(eta) + self.ridge.value(x), gradient

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        ids = self._row_ids(span)
        if ids is None:
            return super().at(span, z)
        eta = self.design.columns(ids).matvec(z)
        b = self._intercept_for(eta)
        return self._fit(span, ids, z, eta + b, b, None)

    def _fit(
        self,
        span: Any,
        ids: Ints,
        z: Array,
        eta: Array,
        b: float,
        status: Status | None,
    ) -> Fit:
        def gradient(fit: Fit) -> Array:
            return self._backward(self._slopes(eta)) + self.ridge.times(fit.x)

        value = self._mean_loss(eta) + self.ridge.value(z, ids)
        return Point(span, z, value, gradient, self._wrap(b), status)

    # -- refits ------------------------------------------------------------------------

    @np.errstate(over="ignore", invalid="ignore")  # of trial points, refused
    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over a span by damped Newton; the intercept is eliminated."""
        ids = self._row_ids(span)
        if ids is None:
            return super().refit(span, start, likely)
        A, xp = self.design.columns(ids), namespace(self.like)
        z = zeros(len(ids), self.like)
        b = self.null_intercept
        if start is not None:
            z = span.restrict(start.x)
            b = b if start.intercept is None else float(start.intercept)
        eta = A.matvec(z) + b
        value = self._mean_loss(eta) + self.ridge.value(z, ids)
        if not value <= self.null_value:  # from a start that is worse than none
            z, b = zeros(len(ids), self.like), self.null_intercept
            eta = self._null
            value = self._mean_loss(eta)
        tolerance = max(1e-10, 4 * precision(self.like))
        for _ in range(MOST_NEWTON_STEPS):
            s, c = self._slopes(eta), self._weights(eta)
            g, gb = A.rmatvec(s) + self.ridge.times(z, ids), float(xp.sum(s))
            total, center = float(xp.sum(c)), None
            if self.fit_intercept and total > 0:
                center = A.rmatvec(c) / total
                g_free = g - center * gb
            else:
                g_free = g
            G = self.ridge.added_to(self._gram(A, eta, c, center), ids)
            step = -solve_posdef(G, g_free)
            step_b = 0.0 if center is None else -gb / total - float(center @ step)
            slope = float(g @ step) + gb * step_b
            # close to the optimum one more Newton step doubles the digits
            last = not -slope > tolerance * max(abs(value), 1e-10)
            move, t = A.matvec(step) + step_b, 1.0
            while True:
                new_z, new_eta = z + t * step, eta + t * move
                new = self._mean_loss(new_eta) + self.ridge.value(new_z, ids)
                if last or new <= value + 1e-4 * t * slope or t < 1e-10:
                    break
                t /= 2
            if not new <= value:
                break
            z, b, eta, value = new_z, b + t * step_b, new_eta, new
            if last:
                break
            if not self.ridge and self._separated(eta, value):
                return self._fit(span, ids, z, eta, b, Status.SEPARATED)
        return self._fit(span, ids, z, eta, b, None)

    def swap_gains(self, structure: Any, fit: Fit, count: int) -> Exchanges | None:
        """Second-order estimate of every exchange; the `count` best entrants."""
        ids = self._row_ids(fit.support)
        if ids is None or len(ids) == 0:
            return None
        eta, c, center = self._curved_at(fit)
        A = self.design.columns(ids)
        middle = None if center is None else take(center, ids)

        def run(part: slice) -> tuple[Array, Array]:
            C, norms = self._cross_and_norms(ids, eta, c, center, part)
            return C, norms + self.ridge.of_run(part)

        model = QuadraticModel(
            run,
            self.ridge.added_to(self._gram(A, eta, c, middle), ids),
            fit.z[:, None],
            fit.gradient[:, None],
            None,
        )

        def blocks(table: Ints) -> Array:
            return self.ridge.added_to_blocks(self._blocks(table, c, center), table)

        return exchanges_of(structure, fit, [model], blocks, count)

    # -- second derivatives ------------------------------------------------------------

    def _at_fit(self, fit: Fit) -> tuple[Array, Array, float]:
        """Predictors at a fit, the loss's curvature there, and its sum over rows."""
        ids = self._row_ids(fit.support)
        if ids is None:
            eta = self.design.matvec(fit.x)
        else:
            eta = self.design.columns(ids).matvec(fit.z)
        eta = eta if fit.intercept is None else eta + fit.intercept
        c = self._weights(eta)
        return eta, c, float(namespace(c).sum(c))

    def _curved_at(self, fit: Fit) -> tuple[Array, Array, Array | None]:
        """Predictors at a fit, the loss's curvature there, and the columns' means."""
        eta, c, total = self._at_fit(fit)
        center = None
        if self.fit_intercept and total > 0:
            center = self.design.rmatvec(c) / total
        return eta, c, center

    def curvature(self, fit: Fit) -> Array:
        """Diagonal of the Hessian, or an upper bound of it, (p,)."""
        return self._norms(*self._curved_at(fit)) + self.ridge.at()

    def hessian(self, fit: Fit, span: Any) -> Array:
        """Hessian over the coordinates of a span, (m, m)."""
        ids, places = self._entries(span)
        eta, c, total = self._at_fit(fit)
        A, center = self.design.columns(ids), None
        if self.fit_intercept and total > 0:
            center = A.rmatvec(c) / total
        G = self._gram(A, eta, c, center)
        return self._arranged(self.ridge.added_to(G, ids), places)

    # -- scores ------------------------------------------------------------------------

    def loss_at(self, x: Array, intercept: Array | None = None) -> float:
        """Weighted mean loss of a given model, without the ridge."""
        eta = self.design.matvec(x)
        return self._mean_loss(eta if intercept is None else eta + intercept)

    def deviance(self, x: Array, intercept: Array | None = None) -> float:
        """Minus twice the log-likelihood, up to a constant of the data."""
        return 2 * self.n_samples * self.loss_at(x, intercept)


class PointwiseGLM(GLM):
    """A weighted mean of losses, each of one row's predictor alone."""

    @abstractmethod
    def losses(self, eta: Array) -> Array:
        """Loss of each row at predictors `eta`, (n,)."""

    @abstractmethod
    def slopes(self, eta: Array) -> Array:
        """First derivative of each loss, (n,)."""

    @abstractmethod
    def curves(self, eta: Array) -> Array:
        """Second derivative of each loss, or an upper bound of it, (n,)."""

    def _mean_loss(self, eta: Array) -> float:
        return float(namespace(eta).sum(self.w * self.losses(eta)))

    def _slopes(self, eta: Array) -> Array:
        return self.w * self.slopes(eta)

    def _weights(self, eta: Array) -> Array:
        return self.w * self.curves(eta)
