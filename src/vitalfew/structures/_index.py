"""What all structures over coordinates share: atoms that own disjoint coordinates.

A subclass says how many atoms there are, which coordinates each owns and how much of
a vector lies on each; everything a solver asks follows from that.
"""

import copy
import math
import numbers
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import take, to_host, top
from vitalfew._validation import check_count, check_density
from vitalfew.contracts import Array, Fit, Ints, Objective, Shape
from vitalfew.supports import Coordinates

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IndexStructure:
    """At most a number of atoms, each a set of coordinates that no other atom owns.

    A subclass is a frozen dataclass with a field for its budget as a count, named by
    `count_name`, and one called `density`; exactly one of the two is given. It says how
    many atoms there are (`n_atoms`), which coordinates they own (`support`) and how
    much of a vector lies on each (`scores`).

    Parameters
    ----------
    keep : tuple of int
        Atoms that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.
    """

    count_name: ClassVar[str] = "n_atoms_allowed"

    keep: tuple[int, ...] = field(default=(), kw_only=True)
    shape: Shape | None = field(default=None, kw_only=True, repr=False)

    # -- what a subclass gives ---------------------------------------------------------

    @property
    def n_atoms(self) -> int:
        """Number of atoms there are to choose from."""
        raise NotImplementedError

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some atoms, in the order given."""
        raise NotImplementedError

    def scores(self, v: Array) -> Scores:
        """Squared length of `v` on each atom, on the host."""
        raise NotImplementedError

    @property
    def _count(self) -> int | None:
        count: int | None = getattr(self, self.count_name)
        return count

    @property
    def _density(self) -> float | None:
        density: float | None = getattr(self, "density", None)
        return density

    @property
    def is_counted(self) -> bool:
        """Whether the budget is a number of atoms, rather than one of runs or costs."""
        return self._count is not None or self._density is not None

    def _require_one_budget(self) -> None:
        """Raise unless the budget is given once, as a count or as a density."""
        if (self._count is None) == (self._density is None):
            raise ValueError(f"give exactly one of {self.count_name} and density")
        if self._count is not None:
            check_count(self.count_name, self._count, 0)
        else:
            check_density(self._density)

    def _shape(self) -> Shape:
        """Return the shape of `x`, once it is known."""
        if self.shape is None:
            raise ValueError(
                f"{type(self).__name__} does not know the shape of x yet: use "
                ".on(shape) first"
            )
        return self.shape

    # -- budget ------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        """Number of atoms allowed."""
        count, density = self._count, self._density
        if count is not None:
            return count
        assert density is not None
        return max(1, math.floor(density * self.n_atoms + 1e-9))

    def with_budget(self, budget: float) -> Self:
        """Return this structure with another budget.

        Raises
        ------
        ValueError
            If this structure knows its atoms and the budget does not fit them.
        """
        other = self._altered(**{self.count_name: budget, "density": None})
        if self.shape is not None:
            other._check_budget()
        return other

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` budgets, as far as there are atoms."""
        count = max(len(self.keep), min(int(factor * self.budget), self.n_atoms))
        return self.with_budget(count)

    def _altered(self, **fields: Any) -> Self:
        """Copy with other fields, already checked; what is computed stays valid."""
        other = copy.copy(self)
        other.__dict__.update(fields)
        return other

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape.

        Raises
        ------
        ValueError
            If the budget, the labels or the kept atoms do not fit the shape.
        """
        shape = tuple(int(n) for n in shape)
        bound = replace(self, shape=shape, keep=tuple(self.keep))
        bound._check_budget()
        return bound

    def _check_budget(self) -> None:
        if self._count is not None:
            why = "the number of atoms"
            check_count(self.count_name, self._count, 0, self.n_atoms, why)
        elif self._density is not None:
            check_density(self._density)
        kept = np.asarray(self.keep, np.int64)
        if (
            not all(isinstance(i, numbers.Integral) for i in self.keep)
            or np.any((kept < 0) | (kept >= self.n_atoms))
            or len(set(self.keep)) < len(kept)
        ):
            raise ValueError(
                f"keep must hold different numbers from 0 to {self.n_atoms - 1}, "
                f"got {self.keep}"
            )
        if not self._within(kept):
            raise ValueError(
                f"keep must fit into the budget of {self.budget}, but the atoms to "
                f"keep already take {self.size_of(kept):g}"
            )

    @property
    def atom_costs(self) -> Scores:
        """How much of the budget each atom takes, (n_atoms,)."""
        return np.ones(self.n_atoms)

    def size_of(self, atoms: Ints) -> float:
        """How much of the budget some atoms take."""
        return len(atoms)

    def _within(self, atoms: Ints) -> bool:
        """Whether atoms fit into the budget, with room for rounding in their costs."""
        return self.size_of(atoms) <= self.budget * (1 + 1e-12)

    def allows(self, support: Coordinates) -> bool:
        """Say whether a support is within the budget and holds what is kept."""
        return self._within(support.atoms) and bool(
            self._marked(support.atoms)[list(self.keep)].all()
        )

    def _marked(self, atoms: Any) -> NDArray[np.bool_]:
        """Which of all atoms are among some, (n_atoms,)."""
        marks = np.zeros(self.n_atoms, bool)
        marks[list(atoms) if isinstance(atoms, tuple) else atoms] = True
        return marks

    def choose(self, scores: Scores) -> Ints:
        """Return the feasible atoms of largest total score, the largest first.

        Parameters
        ----------
        scores : array of shape (n_atoms,)
            Not negative.

        Returns
        -------
        integer array of shape (k,)
            Kept atoms always, atoms that score zero never.
        """
        scores = scores.copy()
        kept = np.asarray(self.keep, np.int64)
        scores[kept] = np.inf
        best = top(scores, self.budget)
        return best[scores[best] > 0]

    def _room(self, support: Coordinates) -> NDArray[np.bool_] | None:
        """Which atoms may join, or None when all may; those inside do not matter."""
        full = len(support) >= self.budget
        return np.zeros(self.n_atoms, bool) if full else None

    # -- supports ----------------------------------------------------------------------

    def empty(self, like: Array) -> Coordinates:
        """Return the support of the atoms that are always kept."""
        del like
        return self.support(self.keep)

    def largest(self, x: Array) -> Coordinates:
        """Return the support of the projection of `x`, the largest atom first."""
        return self.support(self.choose(self.scores(x)))

    def strongest(
        self, gradient: Array, support: Coordinates, count: int
    ) -> Coordinates:
        """Return the atoms that may join, those the gradient favours first."""
        scores = self._appeal(self.scores(gradient))
        scores[support.atoms] = -1.0
        room = self._room(support)
        if room is not None:
            scores[~room] = -1.0
        best = top(scores, min(count, self.n_atoms - len(support)))
        return self.support(best[scores[best] >= 0])

    def _appeal(self, scores: Scores) -> Scores:
        """Turn scores into an order of preference; costs divide here."""
        return scores

    def join(self, support: Coordinates, new: Coordinates) -> Coordinates:
        """Return the union, old atoms first."""
        fresh = new.atoms[~self._marked(support.atoms)[new.atoms]]
        return self.support(np.concatenate((support.atoms, fresh)))

    def _weight(self, support: Coordinates, z: Array) -> Scores:
        host = to_host(z).astype(np.float64)
        if not len(support):
            return np.empty(0)
        return np.add.reduceat(host * host, support.starts[:-1])

    def trim(self, support: Coordinates, z: Array) -> Coordinates:
        """Return the feasible part of a support that carries most of `z`."""
        weight = np.full(self.n_atoms, -1.0)
        weight[support.atoms] = self._weight(support, z)
        chosen = self.choose(weight)
        inside = self._marked(chosen)[support.atoms]
        return self.support(support.atoms[inside])

    def without(self, support: Coordinates, z: Array, position: int) -> Coordinates:
        """Return the support less its atom number `position`, from the weakest up."""
        weight = self._weight(support, z)
        weight[self._marked(self.keep)[support.atoms]] = np.inf
        return self.drop(support, int(np.argsort(weight, kind="stable")[position]))

    def n_free(self, support: Coordinates) -> int:
        """Number of atoms of a support that may leave it."""
        return len(support) - int(self._marked(self.keep)[support.atoms].sum())

    def drop(self, support: Coordinates, position: int) -> Coordinates:
        """Return the support less the atom at a position."""
        return self.support(np.delete(support.atoms, position))

    def pick(self, support: Coordinates, position: int) -> Coordinates:
        """Return one atom of a support as a support."""
        return self.support(support.atoms[position : position + 1])

    def exchange(self, support: Coordinates, out: int, into: int) -> Coordinates:
        """Return the support with the atom at position `out` replaced by `into`."""
        return self.support(np.append(np.delete(support.atoms, out), into))

    def exchangeable(self, support: Coordinates) -> NDArray[np.bool_] | None:
        """Which exchanges are allowed, (k, n_atoms), or None when all are."""
        if not self.keep:
            return None
        may_leave = ~self._marked(self.keep)[support.atoms]
        return np.repeat(may_leave[:, None], self.n_atoms, axis=1)

    def members(self, atom: int) -> Ints:
        """Return the coordinates of an atom."""
        return self.support([atom]).ids

    # -- points ------------------------------------------------------------------------

    def step(self, fit: Fit, size: float) -> tuple[Coordinates, Array]:
        """Project ``x - size * gradient``: the support and the coordinates in it."""
        moved = fit.x - size * fit.gradient
        support = self.largest(moved)
        return support, take(moved, support.ids)

    def refit(
        self,
        objective: Objective,
        support: Coordinates,
        start: Fit | None,
        likely: Coordinates | None = None,
    ) -> Fit:
        """Minimise on a support."""
        return objective.refit(support, start, likely)

    def project(self, x: Array) -> Array:
        """Return the nearest feasible point, in the Euclidean norm."""
        here = self if self.shape is not None else self.on(x.shape)
        support = here.largest(x)
        return support.embed(support.restrict(x))

    def contains(self, x: Array) -> bool:
        """Say whether a point is feasible."""
        here = self if self.shape is not None else self.on(x.shape)
        used = np.flatnonzero(here.scores(x) > 0)
        atoms = np.union1d(used, np.asarray(here.keep, np.int64)).astype(np.int64)
        return here._within(atoms)

    @cached_property
    def table(self) -> Ints:
        """Coordinates of each atom, one row each, padded with -1 at the end."""
        everything = self.support(np.arange(self.n_atoms))
        sizes = everything.sizes
        table = np.full((self.n_atoms, int(sizes.max(initial=0))), -1)
        table[np.arange(table.shape[1]) < sizes[:, None]] = everything.ids
        return table
