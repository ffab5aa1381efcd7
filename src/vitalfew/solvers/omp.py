"""Orthogonal matching pursuit."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew.contracts import Fit, Objective, Solver, Structure


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class OMP(Solver[_State]):
    r"""Orthogonal matching pursuit: add the atom the gradient favours, refit, repeat.

    Solves :math:`\min f(x)` over a structure greedily: from the support S with
    minimiser :math:`x_S` it adds :math:`\arg\max_i \|\nabla f(x_S)_i\|` until the
    budget is used or f stops falling. The fastest where columns are weakly correlated
    or rows are many; where correlated columns cancel each other it needs `LocalSearch`
    after it.

    Parameters
    ----------
    ahead : int, default=32
        Runners-up shown to the objective, which may prepare for them; changes the time,
        never the answer.
    tol : float, default=1e-12
        Least relative decrease of f for an atom to be taken.

    Notes
    -----
    A step costs one gradient and one refit; f never rises. With k' atoms,
    k' >= k (L/mu) log(gap/eps), f comes within eps of the best k atoms, where L and mu
    are the smoothness and strong convexity over sparse directions.

    References
    ----------
    .. [1] Y. C. Pati, R. Rezaiifar, P. S. Krishnaprasad, "Orthogonal matching pursuit",
       Asilomar, 1993.
    .. [2] S. Shalev-Shwartz, N. Srebro, T. Zhang, "Trading accuracy for sparsity in
       optimization problems with sparsity constraints", SIAM J. Optim., 2010 (fully
       corrective forward greedy selection, the form for any f).
    """

    ahead: int = 32
    tol: float = 1e-12

    cost: ClassVar[str] = "1 gradient, 1 refit"
    guarantee: ClassVar[str] = "within eps of the best k at O(k κ log 1/eps) atoms"
    use: ClassVar[str] = "weak correlation, or many more rows than columns"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Add one atom."""
        fit = state.fit
        ranked = structure.strongest(fit.gradient, fit.support, self.ahead)
        if not len(ranked):
            return _State(fit=fit, done=True)
        joined = structure.join(fit.support, structure.pick(ranked, 0))
        new = structure.refit(objective, joined, fit, likely=ranked)
        if new.value >= fit.value - self.tol * abs(fit.value):
            return _State(fit=fit, done=True)
        return _State(fit=new)

    def converged(self, state: _State) -> bool:
        """Whether no further atom fits or helps."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def grow(objective: Any, structure: Any, fit: Fit) -> Fit | None:
    """One step of `OMP`, for solvers that fill up a support first; None if it ends."""
    solver = OMP()
    state = solver.step(objective, structure, _State(fit=fit))
    return None if state.done else state.fit
