"""Greedy coordinate descent with a budget."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator, default_rng

from vitalfew._arrays import namespace, precision, solve_posdef
from vitalfew.contracts import Array, Fit, HasAtoms, HasCurvature, Solver

RULES = ("lipschitz", "gradient", "cyclic", "random")


@dataclass(frozen=True, kw_only=True)
class _State:
    fit: Fit
    seed: int
    n_moves: int = 0
    position: int = 0  # of the next atom in the round
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class GreedyCoordinateDescent(Solver[_State]):
    r"""Greedy coordinate descent: a Newton step on the one atom that promises most.

    Solves :math:`\min f(x)` over a structure without refits: each step moves one atom,
    of the support or, while the budget lasts, the strongest outside it. Once the budget
    is used the moves stay inside the support until they stall. Steps are cheap on any
    support; for the choice of atoms `OMP` is better, which forgets less of what it
    knows between two atoms.

    Parameters
    ----------
    rule : {"lipschitz", "gradient", "cyclic", "random"}, default="lipschitz"
        Which atom moves: that of the largest :math:`|\nabla_i f|^2 / h_i`, where h is
        the curvature (Gauss-Southwell-Lipschitz); of the largest :math:`|\nabla_i f|`
        (Gauss-Southwell); the next of the support, or any of it at random, where the
        strongest atom that may join counts as its last.
    tol : float, default=1e-6
        Stop when no move promises to lower f by more than this, relatively.

    Notes
    -----
    A step costs one gradient, the curvature of all coordinates and the Hessian of one
    atom; it is halved until f falls by a quarter of what its slope promises. f never
    rises. The answer is refitted at the end.

    References
    ----------
    .. [1] J. Nutini, M. Schmidt, I. Laradji, M. Friedlander, H. Koepke, "Coordinate
       descent converges faster with the Gauss-Southwell rule than random selection",
       ICML, 2015, sections 2 and 5; the budget is an addition.
    """

    rule: str = "lipschitz"
    tol: float = 1e-6

    needs: ClassVar[tuple[type, ...]] = (HasCurvature, HasAtoms)
    cost: ClassVar[str] = "1 gradient, 1 curvature"
    guarantee: ClassVar[str] = "linear convergence on its support (strong convexity)"
    use: ClassVar[str] = "no refits: long supports, warm starts"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {self.rule!r}")

    def init(
        self, objective: Any, structure: Any, start: Fit, rng: Generator
    ) -> _State:
        """Start from a fit."""
        return _State(fit=start, seed=int(rng.integers(2**32)))

    def step(self, objective: Any, structure: Any, state: _State) -> _State:
        """Move one atom."""
        fit = state.fit
        xp, h = namespace(fit.gradient), objective.curvature(fit)
        curved = h > precision(h) ** 2 * xp.max(h)
        root = xp.where(curved, h, xp.ones_like(h)) ** 0.5
        promise = xp.where(curved, fit.gradient / root, xp.zeros_like(h))
        favour = fit.gradient if self.rule == "gradient" else promise
        best = strongest_atom(structure, fit.support, favour)
        if best is None or square_on(best, promise) / 2 <= self.tol * abs(fit.value):
            return _State(fit=fit, seed=state.seed, done=True)
        atom, position = best, 0
        if self.rule in ("cyclic", "random"):
            atom, position = self._in_turn(structure, state)
        g = atom.restrict(fit.gradient)
        d = -solve_posdef(objective.hessian(fit, atom), g)
        new = move(objective, structure, fit, atom, d)
        stalled = new.value >= fit.value
        return _State(
            fit=fit if stalled else new,
            seed=state.seed,
            n_moves=state.n_moves + 1,
            position=position,
            done=stalled and square_on(atom, promise) >= square_on(best, promise),
        )

    def _in_turn(self, structure: Any, state: _State) -> tuple[Any, int]:
        """Return the atom whose turn it is, and the position after it."""
        support = state.fit.support
        newcomer = structure.strongest(state.fit.gradient, support, 1)
        last = len(support) - 1 + len(newcomer)
        if self.rule == "random":
            position = int(default_rng((state.seed, state.n_moves)).integers(last + 1))
        else:
            position = min(state.position, last)
        if position == len(support):
            return newcomer, 0
        return structure.pick(support, position), (position + 1) % (last + 1)

    def converged(self, state: _State) -> bool:
        """Whether no move promises anything."""
        return state.done

    def point(self, state: _State) -> Fit:
        """Return the current fit."""
        return state.fit


def square_on(atom: Any, v: Array) -> float:
    """Squared length of `v` on a support."""
    part = atom.restrict(v)
    return float(namespace(v).sum(part * part))


def strongest_atom(structure: Any, support: Any, favour: Array) -> Any:
    """Return the atom on which a vector is longest, of those that may move.

    Parameters
    ----------
    structure : HasAtoms
        The structure.
    support : Support
        Its atoms may move, and those that may join it.
    favour : array of the shape of `x`
        Such as the gradient.

    Returns
    -------
    Support or None
        One atom, or None where none may move.
    """
    best = structure.strongest(favour, support, 1)
    if len(support):
        inside = support.embed(support.restrict(favour))
        own = structure.strongest(inside, structure.support(()), 1)
        if square_on(own, inside) > square_on(best, favour):
            best = own
    return best if len(best) else None


@np.errstate(over="ignore", invalid="ignore")  # of trial points, refused
def move(objective: Any, structure: Any, fit: Fit, atom: Any, d: Array) -> Fit:
    """Move one atom by `d`, halved until f falls by a quarter of the slope's promise.

    Parameters
    ----------
    objective, structure : Objective, Structure
        The problem.
    fit : Fit
        From where.
    atom : Support
        What moves; it joins the support.
    d : array
        Coordinates of the move in the atom.

    Returns
    -------
    Fit
        The new point, not refitted.
    """
    xp, slack = namespace(d), max(1e-14, 4 * precision(d)) * abs(fit.value)
    support, slope = structure.join(fit.support, atom), atom.restrict(fit.gradient)
    slope, t = float(xp.sum(slope * d)), 1.0
    for _ in range(60):
        new: Fit = objective.at(support, support.restrict(fit.x + atom.embed(t * d)))
        if new.value <= fit.value + t * slope / 4 + slack:
            break
        t /= 2
    return new
