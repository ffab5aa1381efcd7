"""Gradient descent whose steps grow as the loss falls."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator

from vitalfew._arrays import namespace
from vitalfew.contracts import Fit, HasAtoms, HasCurvature, Solver
from vitalfew.solvers.greedy_coordinate_descent import move, strongest_atom
from vitalfew.solvers.iht import gradient_step

FORMS = ("sparse", "dense")


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class VariableStepGradient(Solver[_State]):
    r"""Gradient descent with a step size that follows the curvature as the loss falls.

    Solves :math:`\min f(x)` over a structure. Where the classes can be separated, the
    logistic loss flattens as it falls, :math:`\nabla^2 f \preceq B f(x) I`, so that
    steps of a fixed size fall as 1/t and steps of size :math:`1/(B f(x))` linearly. The
    default takes the curvature itself at each point, which is never above that bound
    and mostly far below. f then goes to zero on separable data and never settles: give
    ``max_iter``.

    Parameters
    ----------
    form : {"sparse", "dense"}, default="sparse"
        "sparse" moves the atom of the largest gradient,
        :math:`i = \arg\max_i \|\nabla_i f(x)\|`; once the budget is used, only atoms of
        the support are candidates. "dense" moves along the whole gradient and projects
        on the structure: plain gradient descent where the budget is everything.
    bound : float, optional
        The number B, for steps of size :math:`1/(B f(x))`. For the logistic loss
        without a ridge it is the largest squared entry of X in the sparse form (times
        the size of the largest atom) and the largest squared norm of a row in the dense
        one. By default steps are one over the largest eigenvalue of the Hessian on what
        moves.
    tol : float, default=1e-6
        Stop when f falls by less than this, relatively.

    Notes
    -----
    A step costs one gradient and the Hessian on what moves: one atom, or two budgets of
    atoms in the dense form, O(n k^2). Steps are halved where they overshoot. f never
    rises. The answer is refitted at the end. That candidates stay in the support once
    the budget is used is an addition to the paper, whose support grows with the number
    of steps. The linear rate holds down to a constant factor (1.1) of the loss of any
    fixed point: with noise in the classes it says nothing of the rest.

    References
    ----------
    .. [1] K. Axiotis, M. Sviridenko, "Gradient descent converges linearly for logistic
       regression on separable data", ICML, 2023 (variable step sizes; the greedy
       coordinate form for sparse logistic regression).
    """

    form: str = "sparse"
    bound: float | None = None
    tol: float = 1e-6

    needs: ClassVar[tuple[type, ...]] = (HasCurvature, HasAtoms)
    cost: ClassVar[str] = "1 gradient, the Hessian on what moves"
    guarantee: ClassVar[str] = "a linear rate on separable data (logistic)"
    use: ClassVar[str] = "losses that flatten as they fall; no refits"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {self.form!r}")
        if self.bound is not None and not 0 < self.bound < math.inf:
            raise ValueError(
                f"bound must be a positive finite number or None, got {self.bound!r}"
            )

    def init(
        self, objective: Any, structure: Any, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Any, structure: Any, state: _State) -> _State:
        """Make one step of the size that the curvature here allows."""
        fit, dense = state.fit, self.form == "dense"
        g = fit.gradient
        if dense:
            span = structure.join(fit.support, structure.largest(g))
        else:
            span = strongest_atom(structure, fit.support, g)
        curvature = 0.0 if span is None else self._curvature(objective, fit, span)
        if not curvature > float(namespace(g).finfo(g.dtype).smallest_normal):
            return _State(fit=fit, done=True)
        if dense:
            with np.errstate(over="ignore", invalid="ignore"):  # of trial points
                # its first trial is one and a half times what it is given
                new, _ = gradient_step(objective, structure, fit, 1 / curvature / 1.5)
        else:
            d = -span.restrict(g) / curvature
            new = move(objective, structure, fit, span, d)
        fell = fit.value - new.value
        done = fell <= self.tol * abs(fit.value)
        return _State(fit=fit if fell <= 0 else new, done=done)

    def _curvature(self, objective: Any, fit: Fit, span: Any) -> float:
        """Return a bound of the curvature on a span; zero if nothing can move."""
        if self.bound is not None:
            return self.bound * fit.value
        H = objective.hessian(fit, span)
        if not H.shape[0]:
            return 0.0
        return float(namespace(H).max(namespace(H).linalg.eigvalsh(H)))

    def converged(self, state: _State) -> bool:
        """Whether the last step hardly lowered f."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
