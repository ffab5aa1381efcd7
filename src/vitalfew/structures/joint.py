"""One budget for several arrays, or a budget for each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace, top
from vitalfew._validation import check_count, check_density
from vitalfew.contracts import Array, Ints, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.structures.cardinality import Cardinality
from vitalfew.structures.nm import NM
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Joint(IndexStructure):
    """Several arrays laid end to end as one vector, each with a structure of its own.

    The layers of a network under one budget. With a count or a density all parts share
    one budget of atoms: it goes where the atoms are largest, what the parts themselves
    allow does not matter, but a part that is `NM` keeps its runs too. Without one, each
    part obeys its own budget. Atoms are numbered part after part. The projection is
    exact wherever those of the parts are.

    Parameters
    ----------
    parts : sequence of structures
        In the order of the vector; each already knows its shape, by ``.on(shape)``.
        The atoms that they keep are kept.
    n_atoms_allowed : int, optional
        How many atoms may differ from zero in all parts together.
    density : float, optional
        The same as a fraction of all atoms; at most one of the two is given.
    at_least : int, default=0
        Atoms that each part has a right to under a shared budget; all it has where it
        has fewer. Room for them is left in every support, and the projection fills it
        with the largest of the part, zeros among them.
    keep : tuple of int
        Further atoms that are always in the support, by their number among all.
    shape : tuple of int, optional
        Filled in; leave it alone.

    Notes
    -----
    A projection costs a pass over the vector and a sort of the atoms kept, and works
    in some five times the memory of the vector in double precision.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew.structures import Cardinality
    >>> layers = Cardinality(1).on((3,)), Cardinality(1).on((2,))
    >>> Joint(layers, 2).project(np.array([1.0, 5.0, 4.0, 2.0, 3.0]))
    array([0., 5., 4., 0., 0.])
    >>> Joint(layers).project(np.array([1.0, 5.0, 4.0, 2.0, 3.0]))
    array([0., 5., 0., 0., 3.])
    """

    parts: Sequence[IndexStructure]
    n_atoms_allowed: int | None = None
    density: float | None = field(default=None, kw_only=True)
    at_least: int = field(default=0, kw_only=True)

    count_name: ClassVar[str] = "n_atoms_allowed"

    def __post_init__(self) -> None:
        parts = self.parts
        if not isinstance(parts, list | tuple) or not all(
            isinstance(p, IndexStructure) and not isinstance(p, Joint) and p.shape
            for p in parts
        ):
            raise ValueError(
                "parts must be structures over coordinates that know their shapes, as "
                f"in Cardinality(5).on((3, 4)), and not Joint themselves, got {parts!r}"
            )
        if not parts:
            raise ValueError("parts must hold at least one structure, got none")
        if self.n_atoms_allowed is not None and self.density is not None:
            raise ValueError("give at most one of n_atoms_allowed and density")
        check_count("at_least", self.at_least, 0)
        if self.at_least and not self._shared:
            raise ValueError(
                "at_least needs a shared budget: give n_atoms_allowed or density, got "
                "neither"
            )
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "shape", (int(self._first_id[-1]),))
        kept = [
            int(first) + atom
            for part, first in zip(parts, self._first, strict=False)
            for atom in part.keep
        ]
        more = [atom for atom in self.keep if atom not in kept]
        object.__setattr__(self, "keep", (*kept, *more))
        self._check_budget()
        own = [
            part._altered(keep=tuple(int(a) for a in atoms))
            for part, atoms in self._local(np.asarray(self.keep, np.int64))
        ]
        object.__setattr__(self, "parts", tuple(own))

    def on(self, shape: Shape) -> Self:
        """Return this structure, which knows its shape, if it is this one."""
        if tuple(shape) != self._shape():
            raise ValueError(
                f"shape must be {self._shape()}, that of one vector of all parts, got "
                f"{tuple(shape)}"
            )
        return self

    # -- parts -------------------------------------------------------------------------

    @property
    def _shared(self) -> bool:
        return self.n_atoms_allowed is not None or self.density is not None

    @cached_property
    def _first(self) -> Ints:
        """Number of the first atom of each part, and of all atoms at the end."""
        return np.cumsum([0, *(part.n_atoms for part in self.parts)])

    @cached_property
    def _first_id(self) -> Ints:
        """The first coordinate of each part, and their number at the end."""
        return np.cumsum([0, *(math.prod(p.shape or ()) for p in self.parts)])

    @cached_property
    def _floors(self) -> Ints:
        """Atoms that each part has a right to."""
        most = [p.budget if isinstance(p, NM) else p.n_atoms for p in self.parts]
        return np.minimum(most, self.at_least)

    def _part_of(self, atoms: Ints) -> Ints:
        return np.searchsorted(self._first[1:], atoms, side="right")

    def _order(self, atoms: Ints) -> tuple[Ints, Ints]:
        """Positions of some atoms part by part, and where each part begins there."""
        part = self._part_of(atoms)
        few = part.astype(np.min_scalar_type(len(self.parts)))  # sorted in one pass
        ends = np.cumsum(np.bincount(part, minlength=len(self.parts)))
        return np.argsort(few, kind="stable"), np.concatenate(([0], ends))

    def _local(self, atoms: Ints) -> Iterator[tuple[IndexStructure, Ints]]:
        """Yield each part with those of some atoms that are its own, as it counts."""
        order, ends = self._order(atoms)
        for i, part in enumerate(self.parts):
            yield part, atoms[order[ends[i] : ends[i + 1]]] - self._first[i]

    def _slices(self) -> Iterator[tuple[IndexStructure, slice]]:
        """Yield each part with the run of its atoms among all."""
        for i, part in enumerate(self.parts):
            yield part, slice(int(self._first[i]), int(self._first[i + 1]))

    def split(self, support: Coordinates) -> list[Coordinates]:
        """Return what each part has of a support, as its own structure counts.

        Parameters
        ----------
        support : Coordinates
            One of this structure.

        Returns
        -------
        list of Coordinates
            Of the shape of each part, its atoms in the order they had.
        """
        return [part.support(atoms) for part, atoms in self._local(support.atoms)]

    def counts(self, support: Coordinates) -> Ints:
        """Return how many atoms of a support each part has, (number of parts,)."""
        return self._counts(support.atoms)

    def _counts(self, atoms: Ints) -> Ints:
        return np.bincount(self._part_of(atoms), minlength=len(self.parts))

    # -- atoms -------------------------------------------------------------------------

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all parts."""
        return int(self._first[-1])

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some atoms of any parts."""
        atoms = np.asarray(atoms, np.int64)
        if all(isinstance(part, Cardinality | NM) for part in self.parts):
            # every coordinate is an atom
            sizes = np.ones(len(atoms), np.int64)
            return Coordinates(atoms, atoms, sizes, self._shape())
        order, _ = self._order(atoms)
        supports = [part.support(some) for part, some in self._local(atoms)]
        ids = np.concatenate(
            [s.ids + f for s, f in zip(supports, self._first_id, strict=False)]
        )
        sizes = np.empty(len(atoms), np.int64)
        sizes[order] = np.concatenate([s.sizes for s in supports])
        if np.any(order[1:] < order[:-1]):
            starts = np.empty(len(atoms), np.int64)
            starts[order] = np.cumsum(sizes[order]) - sizes[order]
            shift = starts - np.cumsum(sizes) + sizes
            ids = ids[np.repeat(shift, sizes) + np.arange(len(ids))]
        return Coordinates(atoms, ids, sizes, self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared length of `v` on each atom."""
        xp = namespace(v)
        flat, scores = xp.reshape(v, (-1,)), np.empty(self.n_atoms)
        for i, (part, here) in enumerate(self._slices()):
            own = flat[int(self._first_id[i]) : int(self._first_id[i + 1])]
            scores[here] = part.scores(xp.reshape(own, part.shape))
        return scores

    # -- budgets -----------------------------------------------------------------------

    @property
    def budget(self) -> float:  # type: ignore[override]
        """Number of atoms allowed, or the budgets of all parts together."""
        return super().budget if self._shared else sum(p.budget for p in self.parts)

    def with_budget(self, budget: float) -> Self:
        """Return this structure with another shared budget.

        Raises
        ------
        ValueError
            If each part has its own budget, or this one does not fit the atoms.
        """
        if self._shared:
            return super().with_budget(budget)
        if budget == self.budget:
            return self
        raise ValueError(
            f"budget must be {self.budget:g}, the budgets of all parts together, got "
            f"{budget!r}; give the parts other budgets, or share one by n_atoms_allowed"
        )

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` budgets, and runs that hold as many."""
        parts = [
            part.widened(factor) if self._rules(part) else part for part in self.parts
        ]
        if not self._shared:
            return replace(self, parts=tuple(parts))
        count = max(self.budget, min(int(factor * self.budget), self.n_atoms))
        return replace(
            self, parts=tuple(parts), n_atoms_allowed=int(count), density=None
        )

    def _rules(self, part: IndexStructure) -> bool:
        """Whether what a part itself allows matters."""
        return not self._shared or isinstance(part, NM)

    def _check_budget(self) -> None:
        if self._count is not None:
            check_count("n_atoms_allowed", self._count, 0, self.n_atoms)
        if self.density is not None:
            check_density(self.density)
        if self._shared and np.sum(self._floors) > self.budget:
            raise ValueError(
                f"at_least must leave each of the {len(self.parts)} parts its atoms "
                f"within the budget of {self.budget:g}, got {self.at_least}"
            )
        super()._check_budget()

    @property
    def atom_costs(self) -> Scores:
        """How much of the budget each atom takes."""
        if self._shared:
            return super().atom_costs
        return np.concatenate([part.atom_costs for part in self.parts])

    def size_of(self, atoms: Ints) -> float:
        """How much of the budget some atoms take."""
        if self._shared:
            return super().size_of(atoms)
        return sum(part.size_of(own) for part, own in self._local(atoms))

    def _spoken_for(self, counts: Ints) -> int:
        """Atoms that parts have, or have a right to."""
        return int(np.maximum(counts, self._floors).sum())

    def _within(self, atoms: Ints) -> bool:
        if self._shared and self._spoken_for(self._counts(atoms)) > self.budget:
            return False
        return all(
            part._within(own) for part, own in self._local(atoms) if self._rules(part)
        )

    def choose(self, scores: Scores) -> Ints:
        """Return the atoms of largest score that the parts and the budget allow."""
        scores = scores.copy()
        if not self._shared:
            chosen = np.concatenate(
                [s.start + part.choose(scores[s]) for part, s in self._slices()]
            )
            scores[list(self.keep)] = np.inf
            chosen = np.sort(chosen)
            return chosen[top(scores[chosen], len(chosen))]
        scores[list(self.keep)] = np.inf
        for part, here in self._slices():
            if isinstance(part, NM):
                scores[here][~part._largest_of_runs(scores[here])] = -1.0
        sure = self._rightful(scores)
        rest = scores
        if len(sure):
            rest = scores.copy()
            rest[sure] = -1.0
        best = top(rest, int(self.budget) - len(sure))
        best = best[rest[best] > 0]
        chosen = np.concatenate((sure, best))
        # quick, as all but a few are in order
        return chosen[np.argsort(-scores[chosen], kind="stable")] if len(sure) else best

    def _rightful(self, scores: Scores) -> Ints:
        """Return the largest atoms of each part, as many as it has a right to."""
        sure = [np.empty(0, np.int64)]
        for floor, (_, here) in zip(self._floors, self._slices(), strict=True):
            best = here.start + top(scores[here], int(floor))
            sure.append(best[scores[best] >= 0])
        return np.concatenate(sure)

    def _appeal(self, scores: Scores) -> Scores:
        if self._shared:
            return scores
        return np.concatenate([part._appeal(scores[s]) for part, s in self._slices()])

    def _room(self, support: Coordinates) -> NDArray[np.bool_] | None:
        room = self._room_in_parts(support)
        if self._shared:
            counts = self._counts(support.atoms)
            if self._spoken_for(counts) >= self.budget:
                below = counts < self._floors
                room = room & np.repeat(below, np.diff(self._first))
        return None if room.all() else room

    def _room_in_parts(self, support: Coordinates) -> NDArray[np.bool_]:
        """Which atoms may join as far as their own part goes, (n_atoms,)."""
        room = np.ones(self.n_atoms, bool)
        for (part, here), own in zip(self._slices(), self.split(support), strict=True):
            left = part._room(own) if self._rules(part) else None
            if left is not None:
                room[here] = left
        return room

    def exchangeable(self, support: Coordinates) -> NDArray[np.bool_] | None:
        """Which exchanges are allowed, (k, n_atoms), or None when all are."""
        allowed = np.repeat(self._room_in_parts(support)[None], len(support), axis=0)
        leaves = self._part_of(support.atoms)
        if self._shared:
            counts = self._counts(support.atoms)
            joins = np.repeat(counts >= self._floors, np.diff(self._first))
            freed = (counts > self._floors)[leaves]
            left = self.budget - self._spoken_for(counts)
            allowed &= left + freed[:, None] >= joins
        for i, ((part, here), own) in enumerate(
            zip(self._slices(), self.split(support), strict=True)
        ):
            within = part.exchangeable(own) if self._rules(part) else None
            allowed[leaves == i, here] = True if within is None else within
        allowed[self._marked(self.keep)[support.atoms]] = False
        return None if allowed.all() else allowed
