"""Branch and bound: the best choice there is, with a proof."""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.random import Generator

from vitalfew._arrays import to_host
from vitalfew.bounds import Node, Problem, relaxations, relaxed, screened
from vitalfew.contracts import Fit, HasCosts, Ints, Objective, Solver
from vitalfew.solvers.local_search import LocalSearch

NO_BOUND = -sys.float_info.max  # finite, so that it can be stored
FEW_ATOMS = 64  # whose products are worth their eigenvalues in every part
SHRUNK = 0.9  # share of the atoms that screening must leave for it to end
SLACK = 1e-9  # relative error of a refit
CLOSE = 1e-3  # relative gap that is good enough for a part that is split anyway


class _Part(NamedTuple):
    """Choices that hold some atoms and not some others, with a bound of them.

    A run that is taken up again makes plain tuples of it, so it is made anew on use.
    """

    bound: float
    inside: tuple[int, ...]
    outside: tuple[int, ...]
    atom: int  # to split by
    atoms: tuple[int, ...]  # where the point lies that gave the bound
    z: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    scale: float
    climbing: bool = True
    screening: bool = True
    mu: float = 0.0
    candidates: tuple[int, ...] = ()
    parts: tuple[Any, ...] = ()  # by falling bound: the last is split first
    lower: float = NO_BOUND


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Solver[_State]):
    r"""Branch and bound: the best choice under a budget, proved to be so.

    Solves :math:`\min f(x)` over a structure for a convex f. Starts with
    `LocalSearch`; then splits the choices in two by an atom that is in or out, again
    and again, bounds each part from below and drops those that cannot hold anything
    better. The part of least bound is split next. Bounds are those of the perspective
    relaxation where f is strongly convex, as with a ridge or with independent columns
    in least squares; otherwise the minimum over all atoms that are not out, which does
    for some 40 atoms.

    Parameters
    ----------
    tol : float, default=1e-6
        Relative gap between the value and the proved bound at which to stop.
    width : int, default=8
        Parts that are split in a step.

    Notes
    -----
    How many parts there are is exponential at worst. It grows as correlation, noise and
    the budget do and falls as the ridge rises: a thousand columns and a budget of ten
    take seconds where the ridge is about a tenth of the curvature. A limit of time
    gives the best point so far, and `Solution.lower_bound` then tells how far the
    optimum can be.

    Choices with nothing left to decide, and all bounds where f is not strongly convex,
    are worth what refits are: least squares takes columns that are dependent to some
    seven digits for dependent, and so does the proof.

    References
    ----------
    .. [1] G. M. Furnival, R. W. Wilson, "Regressions by leaps and bounds",
       Technometrics, 1974 (the bound without a ridge).
    .. [2] H. Hazimeh, R. Mazumder, A. Saab, "Sparse regression at scale:
       branch-and-bound rooted in first-order optimization", Math. Program., 2022,
       sections 2 and 3 (relaxations with warm starts in every part).
    .. [3] A. Atamtürk, A. Gómez, "Safe screening rules for l0-regression from
       perspective relaxations", ICML, 2020.
    """

    tol: float = 1e-6
    width: int = 8

    needs: ClassVar[tuple[type, ...]] = (HasCosts,)
    cost: ClassVar[str] = "16 relaxations of a handful of gradients each"
    guarantee: ClassVar[str] = "the optimum, with a proof (convex f)"
    use: ClassVar[str] = "small or well-conditioned problems that must be right"

    def init(
        self, objective: Objective, structure: HasCosts, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start, scale=abs(start.value))

    def step(self, objective: Objective, structure: HasCosts, state: _State) -> _State:
        """Improve the point by an exchange, or screen all atoms, or split parts."""
        if state.climbing:
            return self._climb(objective, structure, state)
        problem = Problem(objective, structure)
        return (self._screen if state.screening else self._split)(problem, state)

    def converged(self, state: _State) -> bool:
        """Whether no part is left that may hold anything better."""
        return not (state.climbing or state.screening or state.parts)

    def point(self, state: _State) -> Fit:
        """Return the best fit so far."""
        return state.fit

    def lower_bound(self, state: _State) -> float | None:
        """Return what the optimum cannot be below, once something is known."""
        return None if state.lower == NO_BOUND else state.lower

    def _goal(self, state: _State) -> float:
        """Value that a better point must be below."""
        value = state.fit.value
        return value - self.tol * abs(value) - 1e-14 * state.scale

    def _climb(self, objective: Any, structure: Any, state: _State) -> _State:
        """Make one step of `LocalSearch`."""
        search, unused = LocalSearch(), np.random.default_rng(0)
        before = search.init(objective, structure, state.fit, unused)
        after = search.step(objective, structure, before)
        climbing = not search.converged(after)
        return replace(state, fit=search.point(after), climbing=climbing)

    def _screen(self, problem: Problem, state: _State) -> _State:
        """Bound all choices at once, and drop the atoms that this decides."""
        node = problem.root
        if state.candidates:
            node = problem.fitting(Node(node.inside, _ids(state.candidates)))
        state = replace(state, mu=problem.convexity(node))
        left = node
        if state.mu > 0 and not problem.whole(node):
            found, goal = (
                relaxed(problem, node, state.mu, tol=self.tol),
                self._goal(state),
            )
            left = screened(problem, node, found, goal)
            # atoms that went before may hold what is above the goal
            lower = min(found.bound, goal) if state.candidates else found.bound
            state = replace(state, lower=max(state.lower, lower))
        atoms = np.concatenate((left.inside, left.free))
        shrunk = len(atoms) < SHRUNK * (len(node.inside) + len(node.free))
        candidates = tuple(atoms.tolist())
        state = replace(state, candidates=candidates, screening=shrunk)
        if shrunk:
            return state
        return self._ordered(self._with_part(problem, left, None, state))

    def _split(self, problem: Problem, state: _State) -> _State:
        """Split the parts of least bound by an atom each."""
        first = [_Part(*part) for part in state.parts[-self.width :]]
        state = replace(state, parts=state.parts[: -self.width])
        for part in reversed(first):
            decided = _ids(part.inside + part.outside)
            free = np.setdiff1d(_ids(state.candidates), decided)
            for child in Node(_ids(part.inside), free).split(part.atom):
                state = self._with_part(problem, problem.fitting(child), part, state)
        return self._ordered(state)

    def _ordered(self, state: _State) -> _State:
        """Drop the parts that hold nothing better, and order the others."""
        goal = self._goal(state)
        parts = [part for part in state.parts if part[0] < goal]
        parts.sort(key=lambda part: -part[0])
        lower = min(parts[-1][0], goal) if parts else goal
        return replace(state, parts=tuple(parts), lower=max(lower, state.lower))

    def _with_part(
        self, problem: Problem, node: Node, parent: _Part | None, state: _State
    ) -> _State:
        """Bound a part and keep it if it may hold something better; try its point."""
        if not problem.possible(node):
            return state
        if problem.whole(node):
            return self._with_fit(problem, problem.within(node), state)
        bounded = self._relax if state.mu > 0 else self._refit
        part, x = bounded(problem, node, parent, state)
        held = np.concatenate((node.inside, node.free))
        outside = np.setdiff1d(_ids(state.candidates), held)
        part = part._replace(
            bound=part.bound if parent is None else max(part.bound, parent.bound),
            outside=tuple(outside.tolist()),
        )
        state = self._with_fit(problem, problem.structure.largest(x), state)
        return replace(state, parts=(*state.parts, part))

    def _with_fit(self, problem: Problem, support: Any, state: _State) -> _State:
        """Refit a support, and go on from it by exchanges if it is better."""
        if set(support.atoms.tolist()) == set(state.fit.support.atoms.tolist()):
            return state
        fit = problem.structure.refit(problem.objective, support, state.fit)
        if fit.value >= state.fit.value:
            return state  # one that is not a number goes on, for `solve` to see
        return replace(state, fit=fit, climbing=True)

    def _relax(
        self, problem: Problem, node: Node, parent: _Part | None, state: _State
    ) -> tuple[_Part, Any]:
        """Bound a part by the perspective relaxation; split by its largest share."""
        mu, start, goal = state.mu, None, self._goal(state)
        if len(node.inside) + len(node.free) <= FEW_ATOMS:
            mu = max(mu, problem.convexity(node))
        if parent is not None:
            start = _ids(parent.atoms), np.array(parent.z)
        for found in relaxations(problem, node, mu, start, tol=self.tol, cutoff=goal):
            gap = found.value - found.bound
            if found.value < goal and gap <= CLOSE * abs(found.value):
                break  # it has to be split anyway
        shares = np.zeros(problem.structure.n_atoms)
        shares[found.atoms] = found.shares
        order = np.lexsort((found.gains[node.free], shares[node.free]))
        part = _Part(
            bound=found.bound if math.isfinite(found.bound) else NO_BOUND,
            inside=tuple(node.inside.tolist()),
            outside=(),
            atom=int(node.free[order[-1]]),
            atoms=tuple(found.atoms.tolist()),
            z=tuple(found.z.tolist()),
        )
        return part, problem.at(found.atoms, found.z).x

    def _refit(
        self, problem: Problem, node: Node, parent: _Part | None, state: _State
    ) -> tuple[_Part, Any]:
        """Bound a part by the minimum over all it may hold; split by the largest."""
        support = problem.within(node)
        fit = problem.objective.refit(support, None, support)
        # one that was stopped on the way bounds nothing
        known = fit.status is None and math.isfinite(fit.value)
        slack = SLACK * abs(fit.value) + problem.rounding(abs(fit.value))
        weight = problem.squares(to_host(fit.x))
        part = _Part(
            bound=fit.value - slack if known else NO_BOUND,
            inside=tuple(node.inside.tolist()),
            outside=(),
            atom=int(node.free[np.argmax(weight[node.free])]),
            atoms=(),
            z=(),
        )
        return part, fit.x


def _ids(atoms: tuple[int, ...]) -> Ints:
    return np.array(atoms, np.int64)
