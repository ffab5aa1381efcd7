"""The Frank-Wolfe method with away steps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from vitalfew._arrays import as_array, namespace, precision, rows, to_host
from vitalfew.contracts import Array, Fit, HasVertices, Penalty, Solver


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    corners: Array  # (m, *shape): the points that x is a mean of
    weights: tuple[float, ...]  # of that mean
    curvature: float
    gap: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class FrankWolfe(Solver[_State]):
    r"""Frank-Wolfe (conditional gradient) with away steps, over a bounded convex set.

    Solves :math:`\min f(x)` over a set given by its corners (`L1Ball`, `Simplex`, a
    bounded `Box`) without projections: steps towards the corner s that minimises
    :math:`\langle \nabla f(x), s \rangle`, or away from the worst corner among those
    that `x` is a mean of, whichever falls faster. After t steps `x` is a mean of at
    most t + 1 corners. The gap :math:`\langle \nabla f(x), x - s \rangle` bounds how
    far f is from its minimum.

    Parameters
    ----------
    away : bool, default=True
        Take away steps. Without them it is the classical method, which needs less
        memory and many more steps.
    tol : float, default=1e-6
        Stop when the gap falls below this fraction of what it is at the point of the
        set that is nearest to zero.

    Notes
    -----
    A step costs one gradient and two or three values of f; m corners in use take m
    times the memory of `x`. Step sizes minimise a quadratic upper bound of f whose
    curvature is found by doubling, then a parabola through what was found, which is
    exact for quadratics. f never rises.

    References
    ----------
    .. [1] S. Lacoste-Julien, M. Jaggi, "On the global linear convergence of Frank-Wolfe
       optimization variants", NeurIPS, 2015, Algorithm 1.
    .. [2] F. Pedregosa, G. Negiar, A. Askari, M. Jaggi, "Linearly convergent
       Frank-Wolfe with backtracking line-search", AISTATS, 2020, Algorithm 2.
    """

    away: bool = True
    tol: float = 1e-6

    accepts: ClassVar[type] = Penalty
    needs: ClassVar[tuple[type, ...]] = (HasVertices,)
    cost: ClassVar[str] = "1 gradient, 2 or 3 values"
    guarantee: ClassVar[str] = "the optimum, linearly where f is strongly convex"
    use: ClassVar[str] = "few corners of a ball or simplex; a bound on the error"

    def init(
        self, objective: Any, structure: Any, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit, which counts as a corner of its own."""
        xp = namespace(start.x)
        middle = structure.prox(xp.zeros_like(start.x), 1.0)
        _, g = objective.value_and_gradient(middle)
        scale = float(xp.sum(g * (middle - structure.vertex(g))))
        return _State(
            fit=start,
            corners=start.x[None, ...],
            weights=(1.0,),
            curvature=1.0,
            gap=self._gap(structure, start),
            scale=max(scale, precision(g) * abs(start.value)),
        )

    def _gap(self, structure: Any, fit: Fit) -> float:
        xp, g = namespace(fit.x), fit.gradient
        return float(xp.sum(g * (fit.x - structure.vertex(g))))

    @np.errstate(over="ignore", invalid="ignore")  # of trial points, refused
    def step(self, objective: Any, structure: Any, state: _State) -> _State:
        """Move towards the best corner or away from the worst."""
        fit, g = state.fit, state.fit.gradient
        xp, span, weights = namespace(g), fit.support, np.array(state.weights)
        best, flat = structure.vertex(g), xp.reshape(state.corners, (len(weights), -1))
        each = to_host(flat @ xp.reshape(g, (-1,)))
        i = int(np.argmax(each))
        away_gap = float(each[i]) - float(xp.sum(g * fit.x))
        if away_gap > state.gap and weights[i] < 1:
            sign, slope, most = -1.0, away_gap, float(weights[i] / (1 - weights[i]))
        else:
            sign, slope, most = 1.0, state.gap, 1.0
            known = to_host(xp.all(flat == xp.reshape(best, (1, -1)), axis=1))
            if not known.any():
                flat = xp.concat((flat, xp.reshape(best, (1, -1))), axis=0)
                known, weights = np.append(known, True), np.append(weights, 0.0)
            i = int(np.flatnonzero(known)[0])
        gone = xp.reshape(fit.x, (-1,)) - flat[i, :]
        square, slack = float(xp.sum(gone * gone)), max(1e-14, 4 * precision(g))

        def at(t: float) -> tuple[Fit, Any]:
            moved = (1 - sign * t) * weights
            moved[i] = 0.0 if sign < 0 and t == most else moved[i] + sign * t
            moved /= moved.sum()
            x = xp.reshape(as_array(moved, g) @ flat, g.shape)
            return objective.at(span, span.restrict(x)), moved

        curvature = state.curvature / 1.5
        for _ in range(100):
            t = min(most, slope / max(curvature * square, 1e-300))
            new, moved = at(t)
            bound = t * (t * curvature * square / 2 - slope)
            if new.value <= fit.value + bound + slack * abs(fit.value):
                break
            curvature *= 2
        # the lowest point of the parabola through both
        bend = (new.value - fit.value + t * slope) / (t * t)
        exact = min(most, slope / (2 * bend)) if bend > 0 else most
        if abs(exact - t) > 0.1 * t:
            other, moved_there = at(exact)
            if other.value < new.value:
                new, moved = other, moved_there
        if self.away:
            kept = np.flatnonzero(moved)
            corners, moved = rows(flat, kept), moved[kept]
        else:
            corners, moved = new.x[None, ...], np.ones(1)
        return _State(
            fit=new,
            corners=xp.reshape(corners, (-1, *g.shape)),
            weights=tuple(moved.tolist()),
            curvature=curvature,
            gap=self._gap(structure, new),
            scale=state.scale,
        )

    def converged(self, state: _State) -> bool:
        """Whether the gap is a small fraction of that at the start."""
        return state.gap <= self.tol * state.scale

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
