"""Adaptive forward-backward greedy selection."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Fit, Objective, Solver, Structure
from vitalfew.solvers.omp import grow


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    gains: tuple[float, ...] = ()
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class FoBa(Solver[_State]):
    r"""Adaptive forward-backward greedy: add an atom, then drop what costs little.

    Solves :math:`\min f(x)` over a structure. Adds the atom the gradient favours, as
    `OMP` does, and remembers by how much f fell; then, as long as some atom can be
    dropped at a price of at most `share` of the gain that the last addition to this
    size brought, drops the cheapest one. Mends early mistakes of `OMP` that later
    atoms have made superfluous; a mistake that each atom alone still needs stays, and
    `LocalSearch` is the remedy.

    Parameters
    ----------
    share : float, default=0.5
        Largest price of a drop as a share of the gain it undoes, from 0 up to below 1.

    Raises
    ------
    ValueError
        If `share` does not lie in [0, 1).

    Notes
    -----
    A step adds or drops one atom: one gradient, one refit and a value for each atom
    inside. Additions end where the budget is used or f stops falling. A drop leaves f
    below what it was when the support last had this size, by at least 1 - `share` of
    the gain undone; there are finitely many supports, so the run ends. f may rise
    between steps. The support never gets smaller than that of the start.

    References
    ----------
    .. [1] T. Zhang, "Adaptive forward-backward greedy algorithm for learning sparse
       representations", IEEE Trans. Inf. Theory, 2011, FoBa; `share` is its ν.
    .. [2] J. Liu, R. Fujimaki, J. Ye, "Forward-backward greedy algorithms for general
       convex smooth functions over a cardinality constraint", ICML, 2014 (forward steps
       by the gradient, the form for any f).
    """

    share: float = 0.5

    cost: ClassVar[str] = "1 gradient, 1 refit, k values"
    guarantee: ClassVar[str] = "planted atoms under restricted isometry (least squares)"
    use: ClassVar[str] = "a moderate improvement of OMP; paths over sizes"

    def __post_init__(self) -> None:
        if check_nonnegative("share", self.share) >= 1:
            raise ValueError(
                f"share must be a number from 0 to below 1, got {self.share!r}; at 1 a "
                "drop may undo all of a gain and the run need not end"
            )

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Drop an atom if that is cheap enough; otherwise add one."""
        if state.gains:
            most = self.share * state.gains[-1]
            smaller = _without_cheapest(objective, structure, state.fit, most)
            if smaller is not None:
                return _State(fit=smaller, gains=state.gains[:-1])
        grown = grow(objective, structure, state.fit)
        if grown is None:
            return _State(fit=state.fit, gains=state.gains, done=True)
        gain = state.fit.value - grown.value
        return _State(fit=grown, gains=(*state.gains, gain))

    def converged(self, state: _State) -> bool:
        """Whether no atom is worth dropping and none fits or helps."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def _without_cheapest(
    objective: Any, structure: Any, fit: Fit, most: float
) -> Fit | None:
    """Drop the atom whose coefficients f misses least, if at a price of `most`."""
    lowest = None
    for position in range(structure.n_free(fit.support)):
        kept = structure.without(fit.support, fit.z, position)
        left = objective.at(kept, kept.restrict(fit.x))
        if lowest is None or not left.value >= lowest.value:
            lowest = left
    if lowest is None or lowest.value - fit.value > most:
        return None
    smaller: Fit = structure.refit(objective, lowest.support, lowest)
    # rounding must not make the price larger, or the run need not end
    return None if smaller.value - fit.value > most else smaller
