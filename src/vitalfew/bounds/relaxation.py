"""Lower bounds by the perspective relaxation."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from vitalfew._arrays import precision, to_host, top
from vitalfew.bounds._model import Model, Perspective
from vitalfew.bounds._problem import Floats, Node, Problem
from vitalfew.bounds._shares import most
from vitalfew.contracts import Fit, Ints

MOST_STEPS = 30
MOST_STALE = 2  # steps in a row that lower neither the value nor the gap
ENOUGH = 0.9  # share of a gap that a step should leave at most
FEWEST_JOINING = 16  # atoms that may enter the model in a step
HALVINGS = 20


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A lower bound of a node, with the point that gave it.

    Attributes
    ----------
    bound : float
        No point of the node has a smaller value.
    value : float
        Value of the relaxed problem at the point: what the bound could rise to.
    atoms : integer array of shape (m,)
        Atoms on which the point lies.
    z : array
        Its coordinates there.
    shares : array of shape (m,)
        Shares of these atoms in the budget, from 0 to 1.
    gains : array of shape (n_atoms,)
        What an atom's place in the budget is worth in the bound.
    low, high : float
        Prices of the budget at which the bound is the same.
    """

    bound: float
    value: float
    atoms: Ints
    z: Floats
    shares: Floats
    gains: Floats
    low: float
    high: float


def relaxations(
    problem: Problem,
    node: Node,
    mu: float,
    start: tuple[Ints, Floats] | None = None,
    *,
    tol: float = 1e-6,
    cutoff: float = math.inf,
) -> Iterator[Relaxation]:
    r"""Bound the values of a node from below, better and better.

    With F the objective less ``mu/2 |x|^2``, convex, and s the shares of the atoms in
    the budget, minimises the perspective relaxation
    :math:`F(x) + \mu/2 \sum_g |x_g|^2 / s_g` over x and s. Any point y bounds it, as
    F lies above its tangent at y: by
    :math:`F(y) - \langle \nabla F(y), y \rangle` less the largest
    :math:`\sum_g s_g |\nabla F(y)_g|^2 / (2\mu)`. This is the dual at a feasible
    point, whether y is any good or not; the margin that is taken off covers rounding.

    Parameters
    ----------
    problem : Problem
        The objective and the budget.
    node : Node
        Which atoms are decided.
    mu : float
        Strong convexity on the node, positive.
    start : tuple of atoms and coordinates, optional
        Point to begin at; zero by default.
    tol : float, default=1e-6
        Relative gap between bound and relaxed value at which to stop.
    cutoff : float, optional
        Bound at which to stop.

    Yields
    ------
    Relaxation
        The best bound so far with the point reached.

    Notes
    -----
    Proximal Newton on the atoms that have a share or deserve one: a step costs a
    gradient, the Hessian on these m coordinates and some solves in O(m^3). On a
    quadratic three to six steps do.

    References
    ----------
    .. [1] M. Pilanci, M. J. Wainwright, L. El Ghaoui, "Sparse learning via Boolean
       relaxations", Math. Program., 2015, Theorem 1 (the relaxation and its dual).
    .. [2] W. Xie, X. Deng, "Scalable algorithms for the sparse ridge regression", SIAM
       J. Optim., 2020 (the perspective formulation).
    .. [3] J. D. Lee, Y. Sun, M. A. Saunders, "Proximal Newton-type methods for
       minimizing composite functions", SIAM J. Optim., 2014, Algorithm 1.
    """
    point = _Point.of(problem, node, mu, *(start or (node.inside, None)))
    best: Relaxation | None = None
    value, gap, stale = math.inf, math.inf, 0
    for _ in range(MOST_STEPS):
        known = point.relaxation()
        if best is not None and best.bound >= known.bound:
            known = replace(
                known,
                bound=best.bound,
                gains=best.gains,
                low=best.low,
                high=best.high,
            )
        best = known
        yield best
        allowed = tol * abs(best.value)
        if best.bound >= cutoff or best.value - best.bound <= allowed:
            return
        # where rounding is larger than what is left, steps change nothing
        falls = best.value < value - 1e-9 * abs(value)
        falls |= best.value - best.bound < ENOUGH * gap
        stale = 0 if falls else stale + 1
        if stale == MOST_STALE:
            return
        value, gap = best.value, best.value - best.bound
        moved = point.moved(max(0.1 * gap, 0.1 * allowed))
        if moved is None:
            return
        point = moved


def relaxed(
    problem: Problem,
    node: Node,
    mu: float,
    start: tuple[Ints, Floats] | None = None,
    *,
    tol: float = 1e-6,
    cutoff: float = math.inf,
) -> Relaxation:
    """Return the last of `relaxations`.

    Parameters
    ----------
    problem : Problem
        The objective and the budget.
    node : Node
        Which atoms are decided.
    mu : float
        Strong convexity on the node, positive.
    start : tuple of atoms and coordinates, optional
        Point to begin at; zero by default.
    tol : float, default=1e-6
        Relative gap between bound and relaxed value at which to stop.
    cutoff : float, optional
        Bound at which to stop.

    Returns
    -------
    Relaxation
        The best bound with the last point.
    """
    steps = relaxations(problem, node, mu, start, tol=tol, cutoff=cutoff)
    return deque(steps, maxlen=1)[0]


@dataclass(frozen=True, eq=False)
class _Point:
    """A point of a node, with F and its gradient there in double precision."""

    problem: Problem
    node: Node
    mu: float
    atoms: Ints
    fit: Fit

    @classmethod
    def of(
        cls, problem: Problem, node: Node, mu: float, atoms: Ints, z: Floats | None
    ) -> "_Point":
        """Return the part of a point that lies on the atoms of a node."""
        if z is None:
            z = np.zeros(int(problem.sizes[atoms].sum()))
        may = np.isin(atoms, node.inside) | np.isin(atoms, node.free)
        z = z[np.repeat(may, problem.sizes[atoms])]
        return cls(problem, node, mu, atoms[may], problem.at(atoms[may], z))

    @cached_property
    def z(self) -> Floats:
        return to_host(self.fit.z).astype(np.float64)

    @cached_property
    def ids(self) -> Ints:
        """Coordinates of the flattened `x` on which it lies."""
        return self.problem.ids(self.atoms)

    @cached_property
    def loss(self) -> float:
        return self.fit.value - self.mu / 2 * float(self.z @ self.z)

    @cached_property
    def gradient(self) -> Floats:
        gradient = to_host(self.fit.gradient).ravel().astype(np.float64)
        gradient[self.ids] -= self.mu * self.z
        return gradient

    @cached_property
    def gains(self) -> Floats:
        """What a whole share of each atom is worth, (n_atoms,)."""
        return self.problem.squares(self.gradient) / (2 * self.mu)

    @cached_property
    def perspective(self) -> Perspective:
        return self._perspective(self.atoms)

    def _perspective(self, atoms: Ints) -> Perspective:
        return Perspective(
            mu=self.mu,
            owner=np.repeat(np.arange(len(atoms)), self.problem.sizes[atoms]),
            costs=self.problem.costs[atoms],
            inside=np.isin(atoms, self.node.inside),
            capacity=self.problem.left(self.node),
        )

    @cached_property
    def value(self) -> float:
        return self.loss + self.perspective.value(self.z)

    def relaxation(self) -> Relaxation:
        node, gains, costs = self.node, self.gains, self.problem.costs
        free = most(gains[node.free], costs[node.free], self.problem.left(node))
        total = free.total + float(gains[node.inside].sum())
        inner = float(self.gradient[self.ids] @ self.z)
        size = abs(self.fit.value) + abs(self.fit.value - self.loss)
        margin = self.problem.rounding(size + abs(inner) + total)
        return Relaxation(
            bound=self.loss - inner - total - margin,
            value=self.value,
            atoms=self.atoms,
            z=self.z,
            shares=self.perspective.shares(self.z),
            gains=gains,
            low=free.low,
            high=free.high,
        )

    def moved(self, tol: float) -> "_Point | None":
        """Return a point of smaller value by a proximal Newton step, or None."""
        atoms = self._active()
        support, ids = self.problem.structure.support(atoms), self.problem.ids(atoms)
        z = np.zeros(self.gradient.shape)
        z[self.ids] = self.z
        z = z[ids]
        H = to_host(self.problem.objective.hessian(self.fit, support))
        H = H.astype(np.float64) - self.mu * np.eye(len(z))
        model = Model(H, self.gradient[ids] - H @ z, self._perspective(atoms))
        before = model.value(z)
        new = model.minimised(z, tol)
        fall = before - model.value(new)
        step = new - z
        if not fall > 0:
            return None
        # values are flat to rounding where bounds still rise
        highest = self.value + 4 * precision(self.problem.objective.like) * abs(
            self.value
        )
        for _ in range(HALVINGS):
            used = np.bincount(model.over.owner, weights=(z + step) ** 2) > 0
            used |= model.over.inside
            kept = used[model.over.owner]
            fit = self.problem.at(atoms[used], (z + step)[kept])
            point = replace(self, atoms=atoms[used], fit=fit)
            if point.value <= highest - 1e-4 * fall:
                return point
            step, fall = step / 2, fall / 2
        return None

    def _active(self) -> Ints:
        """Atoms with a share, and those that deserve one most."""
        ratio = self.gains / self.problem.costs
        missing = np.setdiff1d(self.node.inside, self.atoms)
        others = np.setdiff1d(self.node.free, self.atoms)
        others = others[ratio[others] > self.perspective.price(self.z)]
        room = max(FEWEST_JOINING, len(self.atoms))
        best = others[top(ratio[others], room)]
        return np.concatenate((self.atoms, missing, best))
