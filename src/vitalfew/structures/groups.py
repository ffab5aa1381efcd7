"""At most k groups of coordinates, or groups up to a total cost."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace, segment_sum, to_host
from vitalfew._validation import check_labels
from vitalfew.contracts import Array, Ints, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.structures._knapsack import knapsack
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Groups(IndexStructure):
    """At most `n_groups` groups, or groups whose costs sum to at most `max_cost`.

    Groups may have any sizes and may be interleaved. The projection keeps the groups of
    largest Euclidean norm. Under a cost budget it maximises the squared norm kept: for
    integer costs of at most 10⁶ in total by an exact dynamic programme, otherwise by
    the best ratio of squared norm to cost, which is feasible but need not be nearest.

    Parameters
    ----------
    labels : integer array of shape (p,) or of the shape of `x`
        ``labels[i]`` is the group of coordinate i, or of row i when `x` has more
        dimensions than `labels`. Every number from 0 to the largest must occur.
    n_groups : int, optional
        How many groups may differ from zero.
    costs : array of shape (number of groups,), optional
        Positive cost of each group; needs `max_cost`.
    max_cost : float, optional
        Largest total cost. Give exactly one of `n_groups`, `density`, `max_cost`.
    density : float, optional
        Fraction of the groups that may differ from zero.
    keep : tuple of int
        Groups that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    Examples
    --------
    >>> import numpy as np
    >>> Groups([0, 1, 0, 1], 1).project(np.array([3.0, 2.0, 0.0, 2.0]))
    array([3., 0., 0., 0.])
    """

    labels: Any = field(repr=False)
    n_groups: int | None = None
    costs: Any = field(default=None, kw_only=True, repr=False)
    max_cost: float | None = field(default=None, kw_only=True)
    density: float | None = field(default=None, kw_only=True)

    count_name: ClassVar[str] = "n_groups"

    def __post_init__(self) -> None:
        asked = [self.n_groups, self.density, self.max_cost]
        if sum(a is not None for a in asked) != 1:
            raise ValueError("give exactly one of n_groups, density and max_cost")
        if self.max_cost is None:
            self._require_one_budget()
        object.__setattr__(self, "labels", check_labels(self.labels))
        if (self.costs is None) != (self.max_cost is None):
            raise ValueError("costs and max_cost must be given together")
        if self.costs is not None:
            costs = np.asarray(self.costs, np.float64)
            if costs.shape != (self.n_atoms,):
                raise ValueError(
                    f"costs must have one entry for each of the {self.n_atoms} groups, "
                    f"got shape {costs.shape}"
                )
            if not np.all(np.isfinite(costs) & (costs > 0)):
                raise ValueError("costs must be positive and finite")
            object.__setattr__(self, "costs", costs)
            if not (self.max_cost or 0) >= 0:
                raise ValueError(f"max_cost must not be negative, got {self.max_cost}")

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape.

        Raises
        ------
        ValueError
            If the labels do not fit the shape, or the budget the groups.
        """
        if self.labels.shape not in (tuple(shape), tuple(shape[:1])):
            raise ValueError(
                f"labels must have the shape of x, {tuple(shape)}, or one entry for "
                f"each of its {shape[0]} rows; got shape {self.labels.shape}"
            )
        return super().on(shape)

    @cached_property
    def n_atoms(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    @cached_property
    def _flat(self) -> Ints:
        """Group of each coordinate of the flattened `x`."""
        shape = self.shape if self.shape is not None else self.labels.shape
        width = math.prod(shape[self.labels.ndim :])
        return np.repeat(self.labels.ravel(), width)

    @cached_property
    def _order(self) -> tuple[Ints, Ints]:
        order = np.argsort(self._flat, kind="stable")
        first = np.searchsorted(self._flat[order], np.arange(self.n_atoms + 1))
        return order, first

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some groups."""
        atoms = np.asarray(atoms, np.int64)
        order, first = self._order
        sizes = first[atoms + 1] - first[atoms]
        starts = np.repeat(first[atoms] - np.cumsum(sizes) + sizes, sizes)
        ids = order[starts + np.arange(int(sizes.sum()))]
        return Coordinates(atoms, ids, sizes, self.shape or self.labels.shape)

    def scores(self, v: Array) -> Scores:
        """Squared length of `v` on each group."""
        flat = namespace(v).reshape(v, (-1,))
        sums = segment_sum(flat * flat, self._flat, self.n_atoms)
        return to_host(sums).astype(np.float64)

    # -- a budget of cost --------------------------------------------------------------

    @property
    def budget(self) -> float:  # type: ignore[override]
        """Number of groups allowed, or the total cost allowed."""
        return super().budget if self.max_cost is None else self.max_cost

    def with_budget(self, budget: float) -> Self:
        """Return this structure with another budget."""
        if self.max_cost is None:
            return super().with_budget(budget)
        other = self._altered(max_cost=float(budget))
        if self.shape is not None:
            other._check_budget()
        return other

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` budgets, as far as there are groups."""
        if self.max_cost is None:
            return super().widened(factor)
        return self.with_budget(factor * self.max_cost)

    @property
    def atom_costs(self) -> Scores:
        """How much of the budget each group takes: one, or its cost."""
        return super().atom_costs if self.max_cost is None else self.costs

    def size_of(self, atoms: Ints) -> float:
        """How much of the budget some groups take: their number or their cost."""
        if self.max_cost is None:
            return super().size_of(atoms)
        return float(self.costs[atoms].sum())

    def _left(self, atoms: Ints) -> float:
        """Cost that may still be spent, with room for rounding in the sum."""
        assert self.max_cost is not None
        return self.max_cost * (1 + 1e-12) - self.size_of(atoms)

    def choose(self, scores: Scores) -> Ints:
        """Return the atoms of largest total score within the budget."""
        if self.max_cost is None:
            return super().choose(scores)
        kept = np.asarray(self.keep, np.int64)
        free = np.setdiff1d(np.flatnonzero(scores > 0), kept)
        taken = knapsack(scores[free], self.costs[free], self._left(kept))
        chosen = np.concatenate((kept, free[taken]))
        return chosen[np.argsort(-scores[chosen], kind="stable")]

    def _appeal(self, scores: Scores) -> Scores:
        return scores if self.max_cost is None else scores / self.costs

    def _room(self, support: Coordinates) -> NDArray[np.bool_] | None:
        if self.max_cost is None:
            return super()._room(support)
        fits: NDArray[np.bool_] = self.costs <= self._left(support.atoms)
        return fits

    def exchangeable(self, support: Coordinates) -> NDArray[np.bool_] | None:
        """Which exchanges are allowed, (k, n_atoms), or None when all are."""
        allowed = super().exchangeable(support)
        if self.max_cost is None:
            return allowed
        left = self._left(support.atoms) + self.costs[support.atoms]
        fits: NDArray[np.bool_] = self.costs[None, :] <= left[:, None]
        return fits if allowed is None else fits & allowed
