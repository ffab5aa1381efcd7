"""Proximal gradient with acceleration."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._arrays import namespace, precision
from vitalfew.contracts import Array, Fit, Objective, Penalty, Solver


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    ahead: Array  # the extrapolated point
    momentum: float
    step_size: float
    distance: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class ProximalGradient(Solver[_State]):
    r"""Accelerated proximal gradient (FISTA) with restarts, for a penalty.

    Solves :math:`\min f(x) + r(x)` for a smooth f and a penalty r with a prox operator.
    Steps from an extrapolated point, with the step size found by backtracking, and
    forgets its momentum whenever it points uphill. For a convex penalty it converges to
    the optimum; to a stationary point otherwise.

    Parameters
    ----------
    tol : float, default=1e-8
        Stop when the distance of minus the gradient to the penalty's subdifferential
        falls below this fraction of the largest entry of the gradient at zero.

    Notes
    -----
    A step costs about three gradients and one prox.

    References
    ----------
    .. [1] A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for
       linear inverse problems", SIAM J. Imaging Sci., 2009, section 4 (backtracking).
    .. [2] B. O'Donoghue, E. Candès, "Adaptive restart for accelerated gradient
       schemes", Found. Comput. Math., 2015 (the gradient scheme).
    """

    tol: float = 1e-8

    accepts: ClassVar[type] = Penalty
    cost: ClassVar[str] = "about 3 gradients, 1 prox"
    guarantee: ClassVar[str] = "the optimum, for a convex penalty"
    use: ClassVar[str] = "penalties with a prox operator"

    def init(
        self, objective: Objective, structure: Penalty, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit, with a guess of the step size."""
        xp, g = namespace(start.gradient), start.gradient
        largest = float(xp.max(xp.abs(g)))
        _, g0 = objective.value_and_gradient(xp.zeros_like(start.x))
        scale = float(xp.max(xp.abs(g0)))
        step_size = 1.0
        if largest > 0:
            t = 1e-2 * (1 + float(xp.max(xp.abs(start.x)))) / largest
            _, moved = objective.value_and_gradient(start.x - t * g)
            curvature = float(xp.sum((g - moved) * g)) / (t * float(xp.sum(g * g)))
            step_size = 1 / curvature if curvature > 0 else 1.0
        return _State(
            fit=start,
            ahead=start.x,
            momentum=1.0,
            step_size=step_size,
            distance=self._distance(structure, start, scale),
            scale=scale,
        )

    def _distance(self, penalty: Penalty, fit: Fit, scale: float) -> float:
        return penalty.subdifferential_distance(fit.x, fit.gradient) / max(
            scale, 1e-300
        )

    def step(self, objective: Any, structure: Penalty, state: _State) -> _State:
        """Make one accelerated step."""
        xp, span = namespace(state.ahead), state.fit.support
        value, g = objective.value_and_gradient(state.ahead)
        size = state.step_size * 1.1
        slack = max(1e-14, 4 * precision(g)) * abs(value)  # rounding of the values
        for _ in range(60):
            x = structure.prox(state.ahead - size * g, size)
            fit = objective.at(span, span.restrict(x))
            d = x - state.ahead
            bound = float(xp.sum(g * d)) + float(xp.sum(d * d)) / (2 * size)
            if fit.value <= value + bound + slack:
                break
            size /= 2
        uphill = float(xp.sum((state.ahead - x) * (x - state.fit.x))) > 0
        momentum = 1.0 if uphill else state.momentum
        new = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = x + ((momentum - 1) / new) * (x - state.fit.x)
        return _State(
            fit=fit,
            ahead=ahead,
            momentum=new,
            step_size=size,
            distance=self._distance(structure, fit, state.scale),
            scale=state.scale,
        )

    def converged(self, state: _State) -> bool:
        """Whether the optimality condition holds to `tol`."""
        return state.distance <= self.tol

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
