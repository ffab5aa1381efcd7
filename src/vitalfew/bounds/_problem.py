"""A convex objective and a budget of atoms, in the terms that bounds need."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, precision
from vitalfew.contracts import Fit, HasConvexity, Ints, follows

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Node:
    """Some of the choices: atoms that are in, and atoms still to be decided.

    Attributes
    ----------
    inside : integer array
        Atoms that are in the support.
    free : integer array
        Atoms that may join it; all others may not.
    """

    inside: Ints
    free: Ints

    def split(self, atom: int) -> tuple["Node", "Node"]:
        """Return the choices with an undecided atom, and those without it."""
        free = self.free[self.free != atom]
        return Node(np.append(self.inside, atom), free), Node(self.inside, free)


@dataclass(frozen=True, eq=False)
class Problem:
    """An objective on a structure.

    Parameters
    ----------
    objective : Objective
        Convex.
    structure : HasCosts
        Knows its shape.
    """

    objective: Any
    structure: Any

    @cached_property
    def costs(self) -> Floats:
        """What each atom takes of the budget, (n_atoms,)."""
        return np.asarray(self.structure.atom_costs)

    @cached_property
    def budget(self) -> float:
        """The budget, with the room that structures leave for rounding in sums."""
        roomy = float(self.structure.budget) * (1 + 1e-12)
        exact = bool(np.all(self.costs == np.round(self.costs)))
        return float(np.floor(roomy)) if exact else roomy

    @cached_property
    def sizes(self) -> Ints:
        """Number of coordinates of each atom, (n_atoms,)."""
        count: Ints = (self.structure.table >= 0).sum(axis=1)
        return count

    def ids(self, atoms: Ints) -> Ints:
        """Coordinates of the flattened `x` that some atoms own, atom after atom."""
        rows = self.structure.table[atoms]
        ids: Ints = rows[rows >= 0]
        return ids

    @cached_property
    def owner(self) -> Ints:
        """Atom of each coordinate of the flattened `x`."""
        table = self.structure.table
        owner = np.empty(int(self.sizes.sum()), np.int64)
        atom, _ = np.nonzero(table >= 0)
        owner[table[table >= 0]] = atom
        return owner

    def squares(self, x: NDArray[Any]) -> Floats:
        """Return the squared length of an array on the host on each atom."""
        flat = np.asarray(x, np.float64).ravel()
        sums = np.bincount(self.owner, flat * flat, self.structure.n_atoms)
        return sums.astype(np.float64, copy=False)

    @cached_property
    def root(self) -> Node:
        """All choices there are."""
        kept = self.structure.empty(self.objective.like).atoms
        return self.fitting(Node(kept, np.arange(self.structure.n_atoms)))

    def left(self, node: Node) -> float:
        """How much of the budget the undecided atoms of a node may take."""
        return max(self.budget - float(self.costs[node.inside].sum()), 0.0)

    def fitting(self, node: Node) -> Node:
        """Return a node less the undecided atoms that do not fit, or are inside."""
        fits = self.costs[node.free] <= self.left(node)
        return Node(node.inside, node.free[fits & ~np.isin(node.free, node.inside)])

    def possible(self, node: Node) -> bool:
        """Whether the atoms inside may be together; costs alone do not tell of all."""
        return bool(self.structure.allows(self.structure.support(node.inside)))

    def whole(self, node: Node) -> bool:
        """Whether all undecided atoms of a node fit together: nothing to decide."""
        fit = float(self.costs[node.free].sum()) <= self.left(node)
        return fit and bool(self.structure.allows(self.within(node)))

    def within(self, node: Node) -> Any:
        """Return the support of all atoms that a node may hold."""
        return self.structure.support(np.concatenate((node.inside, node.free)))

    def convexity(self, node: Node) -> float:
        """Return how strongly convex the objective is known to be on a node."""
        if not follows(self.objective, HasConvexity):
            return 0.0
        return float(self.objective.convexity(self.within(node)))

    @cached_property
    def scale(self) -> float:
        """Size of the objective's value at zero."""
        return abs(self.at(np.empty(0, np.int64), np.empty(0)).value)

    def rounding(self, size: float) -> float:
        """Return what rounding may add to a sum of terms of some size.

        The objective itself is known to no more than the digits of its value at zero.
        """
        eps = precision(self.objective.like)
        return max(1e-10, 1e3 * eps) * size + 64 * eps * self.scale

    def at(self, atoms: Ints, z: Floats) -> Fit:
        """Return a point on some atoms as a fit."""
        fit: Fit = self.objective.at(
            self.structure.support(atoms), as_array(z, self.objective.like)
        )
        return fit
