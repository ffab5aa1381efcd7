"""Compressive sampling matching pursuit."""

import math
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from vitalfew.contracts import Fit, Objective, Solver, Structure


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    best: float
    stale: int


@dataclass(frozen=True, kw_only=True)
class CoSaMP(Solver[_State]):
    r"""Compressive sampling matching pursuit: join, refit on the union, trim.

    Solves :math:`\min f(x)` over a structure: joins to the support the atoms of the
    largest part of the gradient that `widen` budgets allow, refits on the union and
    keeps what carries most of the result, *as it is*. `GraSP` here is the same with a
    refit after the trimming in every step: its points are better, this one's steps are
    cheaper, and the next gradient still holds what the trimming cut off. `solve` refits
    the best point at the end. On strongly correlated columns, where what is trimmed
    matters to the rest, `GraSP` ends far lower.

    Parameters
    ----------
    widen : float, default=2.0
        How many budgets of atoms join in each step.
    patience : int, default=3
        Steps without a new best after which it stops.

    Notes
    -----
    A step costs one gradient, one refit on 1 + `widen` budgets and one value. f may
    rise between steps; the best point is returned.

    References
    ----------
    .. [1] D. Needell, J. A. Tropp, "CoSaMP: iterative signal recovery from incomplete
       and inaccurate samples", Appl. Comput. Harmon. Anal., 2009 (the algorithm
       CoSaMP; minus the gradient of f is its signal proxy).
    .. [2] S. Bahmani, B. Raj, P. Boufounos, "Greedy sparsity-constrained optimization",
       JMLR, 2013, Algorithm 1 (the form for any f).
    """

    widen: float = 2.0
    patience: int = 3

    cost: ClassVar[str] = "1 gradient, 1 refit (on 3k atoms)"
    guarantee: ClassVar[str] = "recovery up to the noise if δ(4k) ≤ 0.1 (least squares)"
    use: ClassVar[str] = "random designs with few planted atoms"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start, best=math.inf, stale=0)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Widen, refit, trim."""
        fit = state.fit
        # the sign matters where coefficients are bounded
        favoured = structure.widened(self.widen).largest(-fit.gradient)
        joined = structure.join(fit.support, favoured)
        wide = structure.refit(objective, joined, fit)
        kept = structure.trim(wide.support, wide.z)
        fit = objective.at(kept, kept.restrict(structure.project(wide.x)))
        better = fit.value < state.best - 1e-9 * abs(fit.value)
        stale = 0 if better else state.stale + 1
        return _State(fit=fit, best=min(fit.value, state.best), stale=stale)

    def converged(self, state: _State) -> bool:
        """Whether the last `patience` steps brought no new best."""
        return state.stale >= self.patience

    def point(self, state: _State) -> Fit:
        """Return the current point."""
        return state.fit
