"""Hard thresholding pursuit."""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from vitalfew.contracts import Fit, Objective, Solver, Structure
from vitalfew.solvers.iht import first_step_size, gradient_step


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    step_size: float
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class HTP(Solver[_State]):
    r"""Hard thresholding pursuit: a gradient step, its support, a refit on it.

    Solves :math:`\min f(x)` over a structure by
    :math:`S = \mathrm{supp}\, P(x - \eta \nabla f(x))` and
    :math:`x \leftarrow \arg\min_{S} f`, with the step size :math:`\eta` found by
    backtracking. The fastest here on weakly correlated columns; on strongly correlated
    ones it stops at a point that depends on the step size.

    Parameters
    ----------
    tol : float, default=1e-9
        Least relative decrease of f for a step to count.

    Notes
    -----
    A step costs about two gradients and one refit. f never rises.

    References
    ----------
    .. [1] S. Foucart, "Hard thresholding pursuit: an algorithm for compressive
       sensing", SIAM J. Numer. Anal., 2011; any f, step sizes by the descent condition.
    """

    tol: float = 1e-9

    cost: ClassVar[str] = "about 2 gradients, 1 refit"
    guarantee: ClassVar[str] = "the optimum of k atoms at O(k κ²) atoms"
    use: ClassVar[str] = "speed, on weakly correlated columns"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit, with the step size its steepest atoms suggest."""
        return _State(fit=start, step_size=first_step_size(objective, structure, start))

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Make one gradient step and refit on where it leads."""
        old = state.fit
        moved, size = gradient_step(objective, structure, old, state.step_size)
        new = structure.refit(objective, moved.support, moved)
        if new.value >= old.value - self.tol * abs(old.value):
            return _State(fit=old, step_size=size, done=True)
        return _State(fit=new, step_size=size)

    def converged(self, state: _State) -> bool:
        """Whether the last step did not lower f."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
