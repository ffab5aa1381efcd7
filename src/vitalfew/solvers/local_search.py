"""Local search over one-for-one exchanges."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew.contracts import (
    Fit,
    HasAtoms,
    HasSwapGains,
    Objective,
    Solver,
    Structure,
    follows,
)
from vitalfew.solvers.omp import grow


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalSearch(Solver[_State]):
    r"""Exhaustive local search: make the best exchange of two atoms, while f falls.

    Solves :math:`\min f(x)` over a structure. Fills the budget as `OMP` does, then at
    each step makes the exchange of one atom inside for one outside that lowers f most.
    For least squares the gain of *every* exchange is known in closed form, so a step
    costs about as much as one gradient and the answer cannot be improved by any single
    exchange; for other losses the quadratic at the fit ranks the exchanges and refits
    decide. Without a formula the `width` weakest atoms are tried against the `width`
    strongest. The best single method here; give it a start (``start=GraSP()``).

    Parameters
    ----------
    width : int, default=5
        How many exchanges are tried by refitting before giving up.
    tol : float, default=1e-9
        Least relative decrease of f for an exchange to be made.

    Notes
    -----
    A step on k atoms of p costs O(k^2 p) for least squares once the columns' products
    are known, one product of k columns with X for other losses, plus one to `width`
    refits. f never rises.

    References
    ----------
    .. [1] K. Axiotis, M. Sviridenko, "Sparse convex optimization via adaptively
       regularized hard thresholding", ICML, 2020 (Exhaustive Local Search).
    """

    width: int = 5
    tol: float = 1e-9

    cost: ClassVar[str] = "all exchanges in closed form, 1 to 5 refits"
    guarantee: ClassVar[str] = "no single exchange helps (least squares)"
    use: ClassVar[str] = "quality; correlated columns; after a cheaper solver"

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Add one atom while the budget lasts, then make the best exchange."""
        fit = state.fit
        grown = grow(objective, structure, fit)
        if grown is not None:
            return _State(fit=grown)
        if not structure.n_free(fit.support):
            return _State(fit=fit, done=True)
        for support, likely in self._exchanges(objective, structure, fit):
            new = structure.refit(objective, support, fit, likely=likely)
            if not new.value >= fit.value - self.tol * abs(fit.value):
                return _State(fit=new)
        return _State(fit=fit, done=True)

    def _exchanges(
        self, objective: Any, structure: Any, fit: Fit
    ) -> Iterator[tuple[Any, Any]]:
        """Supports to try, most promising first, with the atoms likely to follow."""
        best = None
        if follows(objective, HasSwapGains) and follows(structure, HasAtoms):
            best = objective.swap_gains(structure, fit, 16)
        if best is not None:
            runners = structure.support(best.into)
            for out, into, gain in list(zip(*best, strict=True))[: self.width]:
                if gain > self.tol * abs(fit.value):
                    yield structure.exchange(fit.support, out, into), runners
            return
        for out in range(min(self.width, structure.n_free(fit.support))):
            kept = structure.without(fit.support, fit.z, out)
            ranked = structure.strongest(fit.gradient, kept, self.width)
            for new in range(len(ranked)):
                yield structure.join(kept, structure.pick(ranked, new)), ranked

    def converged(self, state: _State) -> bool:
        """Whether no exchange that was looked at helps."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit
