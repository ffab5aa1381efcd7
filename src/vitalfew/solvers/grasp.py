"""Gradient support pursuit."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from vitalfew.contracts import Array, Fit, Objective, Solver, Structure


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    best: float
    stale: int
    seen: tuple[Array, ...]  # atoms of the last supports, which a cycle comes back to


@dataclass(frozen=True, kw_only=True)
class GraSP(Solver[_State]):
    r"""Gradient support pursuit: join what the gradient favours, refit, trim, refit.

    Solves :math:`\min f(x)` over a structure: joins to the support the atoms of the
    largest part of the gradient that `widen` budgets allow, refits, keeps what carries
    most of the result, refits again. Many atoms change at once, so it escapes traps
    that hold one-at-a-time methods; `LocalSearch` after it is the library's default.

    Parameters
    ----------
    widen : float, default=2.0
        How many budgets of atoms join in each step.
    patience : int, default=3
        Steps without a new best after which it stops; it also stops when one of the
        last `patience` supports comes back.

    Notes
    -----
    A step costs one gradient and two refits, one of them on 1 + `widen` budgets. f may
    rise between steps; the best point is returned.

    References
    ----------
    .. [1] S. Bahmani, B. Raj, P. Boufounos, "Greedy sparsity-constrained optimization",
       JMLR, 2013, Algorithm 1; with a refit after the pruning.
    """

    widen: float = 2.0
    patience: int = 3

    cost: ClassVar[str] = "1 gradient, 2 refits (one on 3k atoms)"
    guarantee: ClassVar[str] = "linear convergence to the noise under a stable Hessian"
    use: ClassVar[str] = "the start of LocalSearch; correlated blocks; sparse data"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start, best=math.inf, stale=0, seen=())

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Widen, refit, trim, refit."""
        fit = state.fit
        # the sign matters where coefficients are bounded
        favoured = structure.widened(self.widen).largest(-fit.gradient)
        joined = structure.join(fit.support, favoured)
        wide = structure.refit(objective, joined, fit)
        fit = structure.refit(objective, structure.trim(wide.support, wide.z), wide)
        better = fit.value < state.best - 1e-9 * abs(fit.value)
        atoms = np.sort(fit.support.atoms)
        again = any(np.array_equal(atoms, old) for old in state.seen)
        return _State(
            fit=fit,
            best=min(fit.value, state.best),
            stale=0 if better else self.patience if again else state.stale + 1,
            seen=(*state.seen, atoms)[-self.patience :],
        )

    def converged(self, state: _State) -> bool:
        """Whether the last `patience` steps brought no new best."""
        return state.stale >= self.patience

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
