"""Adaptively regularised hard thresholding."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator

from vitalfew._arrays import namespace
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import (
    Array,
    Fit,
    HasAtoms,
    HasCurvature,
    HasRidge,
    Solver,
)
from vitalfew.solvers.omp import grow


@dataclass(frozen=True, kw_only=True)
class _State:
    best: Fit  # refitted, the lowest seen
    fit: Fit  # minimiser of f plus the ridge on its support, as a point of f
    ridge: Array  # of the shape of x; zero where unregularised
    seed: int
    drawn: int = 0
    phase: str = "fill"  # then "search", "finish" without a ridge, "done"


@dataclass(frozen=True, kw_only=True)
class ARHT(Solver[_State]):
    r"""Adaptively regularised hard thresholding: exchanges under a shrinking ridge.

    Solves :math:`\min f(x)` over a structure. Fills the budget as `OMP` does, then
    works on :math:`g(x) = f(x) + \tfrac12 \sum_{i \in R} r_i x_i^2`, at first with all
    atoms in R: exchanges the atom of smallest :math:`\|x_i\|` for the one of largest
    :math:`\|\nabla_i g(x)\|` while g falls enough, and where it does not takes one atom
    out of R, which lets it grow. The ridge keeps wrong atoms that cancel each other
    from looking indispensable. When no atom inside is left in R it goes on without a
    ridge, as `OMPR`, from the lowest refit seen. Better than `OMPR` on strongly
    correlated columns; `GraSP` and `LocalSearch` mostly end lower still, and sooner.

    Parameters
    ----------
    beta : float, default=1.0
        Ridge on an entry as a multiple of f's curvature along it at the start. The
        paper's, for columns of one length, is one plus their largest correlation.
    target : float, optional
        Guess of the least f. If given, g must fall by its gap to the target over the
        number of atoms inside for an exchange to be made, and the run ends when f
        reaches the target. By default every decrease counts.
    unregularise : {"largest", "random"}, default="largest"
        Which atom leaves R: the one of most energy :math:`r_i x_i^2`, or one drawn with
        its energy as the odds.
    tol : float, default=1e-9
        Least relative decrease of g for an exchange to be made.

    Raises
    ------
    ValueError
        If a setting is not one of these.

    Notes
    -----
    A step costs one gradient and up to two refits; f never rises, as the lowest refit
    is told. g falls in every step, so the run ends.

    The paper's algorithm is ``ARHT(target=f_star, unregularise="random")`` with a
    bisection over the target around it, which is left to the caller. Its theorem needs
    a budget of several times κ atoms for each atom of the optimum. At the budget of
    the optimum itself it asks for more than single exchanges bring, unregularises early
    and rarely leaves the support of its start; the defaults, which are not the paper's,
    are for that case.

    References
    ----------
    .. [1] K. Axiotis, M. Sviridenko, "Sparse convex optimization via adaptively
       regularized hard thresholding", ICML, 2020, and JMLR, 2021 (ARHT).
    """

    beta: float = 1.0
    target: float | None = None
    unregularise: Literal["largest", "random"] = "largest"
    tol: float = 1e-9

    needs: ClassVar[tuple[type, ...]] = (HasRidge, HasCurvature, HasAtoms)
    cost: ClassVar[str] = "1 gradient, 2 refits"
    guarantee: ClassVar[str] = "the optimum of k atoms at O(k κ) atoms (with target)"
    use: ClassVar[str] = "better than OMPR on correlated columns; GraSP first"

    def __post_init__(self) -> None:
        check_nonnegative("beta", self.beta)
        if self.unregularise not in ("largest", "random"):
            raise ValueError(
                f"unregularise must be 'largest' or 'random', got {self.unregularise!r}"
            )

    def init(
        self, objective: Any, structure: Any, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit; the ridge follows the curvature there."""
        ridge = self.beta * objective.curvature(start)
        seed = int(rng.integers(2**62))
        return _State(best=start, fit=start, ridge=ridge, seed=seed)

    def step(self, objective: Any, structure: Any, state: _State) -> _State:
        """Add an atom while the budget lasts; then exchange or unregularise one."""
        if state.phase == "fill":
            grown = grow(objective, structure, state.best)
            if grown is not None:
                return replace(state, best=grown)
            fit = _minimised(objective, structure, state.ridge, state.best)
            return replace(state, fit=fit, phase="search")
        if self.target is not None and state.best.value <= self.target:
            return replace(state, phase="done")
        exchanged = self._exchanged(objective, structure, state)
        if exchanged is not None:
            return exchanged
        if state.phase == "search":
            return self._unregularised(objective, structure, state)
        return replace(state, phase="done")

    def _exchanged(
        self, objective: Any, structure: Any, state: _State
    ) -> _State | None:
        """Exchange the weakest inside for the strongest outside, if g falls enough."""
        fit, ridge = state.fit, state.ridge
        if not structure.n_free(fit.support):
            return None
        kept = structure.without(fit.support, fit.z, 0)
        ranked = structure.strongest(fit.gradient + ridge * fit.x, kept, 8)
        if not len(ranked):
            return None
        support = structure.join(kept, structure.pick(ranked, 0))
        new = _minimised(objective, structure, ridge, fit, support, ranked)
        value = _regularised(fit, ridge)
        enough = self.tol * abs(value)
        if self.target is not None and state.phase == "search":
            enough = max(enough, (value - self.target) / len(fit.support))
        if value - _regularised(new, ridge) <= enough:
            return None
        free = structure.refit(objective, support, new)
        best = state.best if free.value >= state.best.value else free
        return replace(state, fit=new, best=best)

    def _unregularised(self, objective: Any, structure: Any, state: _State) -> _State:
        """Take one atom out of R, or go on without a ridge once none inside is left."""
        xp, fit, ridge = namespace(state.ridge), state.fit, state.ridge
        each = ridge * fit.x * fit.x
        atoms = [structure.pick(fit.support, i) for i in range(len(fit.support))]
        energy = np.array([float(xp.sum(atom.restrict(each))) for atom in atoms])
        total = energy.sum()
        if not total > 0:
            none = xp.zeros_like(ridge)
            return replace(state, fit=state.best, ridge=none, phase="finish")
        if self.unregularise == "largest":
            leaving = atoms[int(np.argmax(energy))]
        else:
            rng = np.random.default_rng([state.seed, state.drawn])
            leaving = atoms[int(rng.choice(len(energy), p=energy / total))]
        ridge = ridge - leaving.embed(leaving.restrict(ridge))
        fit = _minimised(objective, structure, ridge, fit)
        return replace(state, fit=fit, ridge=ridge, drawn=state.drawn + 1)

    def converged(self, state: _State) -> bool:
        """Whether no exchange helps without a ridge, or the target is reached."""
        return state.phase == "done"

    def point(self, state: _State) -> Fit:
        """Return the lowest refit so far, of f without a ridge."""
        return state.best


def _minimised(
    objective: Any,
    structure: Any,
    ridge: Array,
    start: Fit,
    support: Any = None,
    likely: Any = None,
) -> Fit:
    """Minimise f plus a ridge on a support, that of the start unless given."""
    support = start.support if support is None else support
    inner = structure.refit(objective.with_ridge(ridge), support, start, likely)
    fit: Fit = objective.at(inner.support, inner.z)
    return fit


def _regularised(fit: Fit, ridge: Array) -> float:
    """Return f plus the ridge at a point of f."""
    return fit.value + 0.5 * float(namespace(ridge).sum(ridge * fit.x * fit.x))
