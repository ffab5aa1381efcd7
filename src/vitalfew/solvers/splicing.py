"""Splicing: exchanges of several atoms at once."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator

from vitalfew._arrays import namespace, precision
from vitalfew._validation import check_count
from vitalfew.contracts import (
    Array,
    Fit,
    HasCurvature,
    Objective,
    Solver,
    Structure,
    follows,
)

AT_ONCE = 64  # atoms asked for when a support is filled; does not change the answer


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class Splicing(Solver[_State]):
    r"""Splicing: exchange the weakest atoms for the strongest, several at once.

    Solves :math:`\min f(x)` over a structure. Atoms inside are ranked by their backward
    sacrifice, what f would rise by without them, and atoms outside by their forward
    sacrifice, what f would fall by with them: :math:`h_j x_j^2 / 2` and
    :math:`(\nabla_j f)^2 / (2 h_j)` with the curvature h. A step tries to exchange the
    s last for the s first, s = `most`, `most` / 2, ..., 1, and makes the exchange that
    lowers f most. Ranks do not depend on the units of the columns. It leaves traps that
    hold single exchanges of the strongest; `LocalSearch` looks at every single exchange
    instead.

    Parameters
    ----------
    most : int, optional
        Most atoms that are exchanged at once; by default the whole support.
    tol : float, default=1e-9
        Least relative decrease of f for an exchange to be made.

    Notes
    -----
    A step costs one gradient, the curvature of all coordinates and up to
    log2(`most`) + 1 refits. f never rises. The paper tries every s and asks for a
    decrease of the order of k log(p) / n. Within an atom of several coordinates, h is
    taken as diagonal; objectives without second derivatives count as equally curved
    along all coordinates.

    References
    ----------
    .. [1] J. Zhu, C. Wen, J. Zhu, H. Zhang, X. Wang, "A polynomial algorithm for
       best-subset selection problem", PNAS, 2020, Algorithms 1 and 2.
    """

    most: int | None = None
    tol: float = 1e-9

    cost: ClassVar[str] = "1 gradient, 1 curvature, log k refits"
    guarantee: ClassVar[str] = "the true support if signals are strong (least squares)"
    use: ClassVar[str] = "many wrong atoms at once; columns of different units"

    def __post_init__(self) -> None:
        if self.most is not None:
            check_count("most", self.most, 1)

    def init(
        self, objective: Objective, structure: Structure, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start)

    def step(self, objective: Objective, structure: Structure, state: _State) -> _State:
        """Fill the budget, or make the best exchange of several atoms."""
        fit = state.fit
        root = _root_curvature(objective, fit)
        useful = root > 0
        xp = namespace(root)
        inside = fit.x * root
        safe = xp.where(useful, root, xp.ones_like(root))
        outside = xp.where(useful, fit.gradient / safe, xp.zeros_like(root))
        full = _filled(structure, fit.support, outside, AT_ONCE)
        if len(full) > len(fit.support):
            new = structure.refit(objective, full, fit, likely=full)
            if new.value >= fit.value:
                return _State(fit=fit, done=True)
            return _State(fit=new)
        best, count = fit, structure.n_free(fit.support)
        if self.most is not None:
            count = min(count, self.most)
        while count:
            kept = fit.support
            for _ in range(count):
                kept = structure.without(kept, kept.restrict(inside), 0)
            spliced = _filled(structure, kept, outside, count)
            new = structure.refit(objective, spliced, fit, likely=spliced)
            if not new.value >= best.value:
                best = new
            count //= 2
        if best.value >= fit.value - self.tol * abs(fit.value):
            return _State(fit=fit, done=True)
        return _State(fit=best)

    def converged(self, state: _State) -> bool:
        """Whether no exchange that was tried helps."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def _root_curvature(objective: Any, fit: Fit) -> Array:
    """Square root of the curvature; zero where there is none to speak of."""
    xp = namespace(fit.gradient)
    if not follows(objective, HasCurvature):
        return xp.ones_like(fit.gradient)
    h = objective.curvature(fit)
    least = precision(h) ** 2 * xp.max(h)
    return xp.where(h > least, h, xp.zeros_like(h)) ** 0.5


def _filled(structure: Any, support: Any, favour: Array, at_once: int) -> Any:
    """Return a support with the most favoured atoms that still fit."""
    while len(ranked := structure.strongest(favour, support, at_once)):
        for position in range(len(ranked)):
            joined = structure.join(support, structure.pick(ranked, position))
            if structure.allows(joined):
                support = joined
    return support
