"""Iterative hard thresholding."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._arrays import namespace, precision
from vitalfew.contracts import Fit, Objective, Solver, Structure


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    step_size: float
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class IHT(Solver[_State]):
    r"""Iterative hard thresholding: a gradient step, then the nearest feasible point.

    Solves :math:`\min f(x)` over a structure by
    :math:`x \leftarrow P(x - \eta \nabla f(x))`, with the step size
    :math:`\eta` found by backtracking. The cheapest step there is, good where columns
    are weakly correlated; on strongly correlated ones it stops early. `HTP` refits in
    every step and is usually faster.

    Parameters
    ----------
    tol : float, default=1e-6
        Stop when f falls by less than this, relatively.

    Notes
    -----
    A step costs about two gradients. f never rises. The answer is refitted at the end.

    References
    ----------
    .. [1] T. Blumensath, M. E. Davies, "Iterative hard thresholding for compressed
       sensing", Appl. Comput. Harmon. Anal., 2009, eq. (11); step sizes by the descent
       condition instead of a fixed one.
    """

    tol: float = 1e-6

    cost: ClassVar[str] = "about 2 gradients"
    guarantee: ClassVar[str] = "the optimum of k atoms at O(k κ²) atoms"
    use: ClassVar[str] = "steps must be cheap and columns weakly correlated"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit, with the step size its steepest atoms suggest."""
        return _State(fit=start, step_size=first_step_size(objective, structure, start))

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Make one gradient step and project."""
        fit, size = gradient_step(objective, structure, state.fit, state.step_size)
        fell = state.fit.value - fit.value
        done = fell <= self.tol * abs(state.fit.value)
        return _State(fit=state.fit if fell <= 0 else fit, step_size=size, done=done)

    def converged(self, state: _State) -> bool:
        """Whether the last step hardly lowered f."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def first_step_size(objective: Any, structure: Any, fit: Fit) -> float:
    """One over the curvature of f along the strongest feasible part of its gradient."""
    xp = namespace(fit.gradient)
    support = structure.largest(fit.gradient)
    d = support.embed(support.restrict(fit.gradient))
    square = float(xp.sum(d * d))
    if square == 0:
        return 1.0
    # short enough for losses whose curvature explodes, long enough for float32
    t = 1e-2 * (1 + float(xp.max(xp.abs(fit.x)))) / float(xp.max(xp.abs(d)))
    _, moved = objective.value_and_gradient(fit.x - t * d)
    curvature = float(xp.sum((fit.gradient - moved) * d)) / (t * square)
    return 1 / curvature if curvature > 0 else 1.0


def gradient_step(
    objective: Any, structure: Any, fit: Fit, size: float
) -> tuple[Fit, float]:
    """Project a gradient step that f's quadratic upper bound covers; also its size.

    Starts from one and a half times the given size and halves until
    ``f(new) <= f + <g, d> + |d|^2 / (2 size)``.
    """
    xp, slack = namespace(fit.gradient), max(1e-12, 4 * precision(fit.gradient))
    size *= 1.5
    for _ in range(60):
        support, z = structure.step(fit, size)
        new = objective.at(support, z)
        d = new.x - fit.x
        bound = float(xp.sum(fit.gradient * d)) + float(xp.sum(d * d)) / (2 * size)
        if new.value <= fit.value + bound + slack * abs(fit.value):
            break
        size /= 2
    return new, size
