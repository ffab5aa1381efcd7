"""At most n of every m neighbours."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import namespace, to_host, top
from vitalfew._validation import check_count
from vitalfew.contracts import Array, Ints, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.structures._matrix import matrix_shape
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class NM(IndexStructure):
    """At most `n` nonzero entries in every run of `m` neighbours: n:m sparsity.

    The pattern of sparse tensor cores (2:4). An array of more than two dimensions is
    seen as (first) x (product of the others), and a vector as one row. Runs begin at
    the first entry of each line along the axis; the last run of a line is shorter where
    `m` does not divide, and may hold `n` entries as well. The projection keeps the `n`
    largest magnitudes of each run, the smaller index first among equals.

    Parameters
    ----------
    n : int
        How many entries of a run may differ from zero, from 0 to `m`.
    m : int
        Length of a run.
    axis : {-1, 0, 1, -2}, default=-1
        Dimension of the matrix along which runs lie: -1 and 1 along the inputs of a
        layer, 0 and -2 along its outputs.
    keep : tuple of int
        Entries of the flattened array that are always in the support; they count
        towards their runs.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    References
    ----------
    .. [1] A. Mishra et al., "Accelerating sparse deep neural networks", arXiv, 2021
       (2:4).

    Examples
    --------
    >>> import numpy as np
    >>> NM(1, 2).project(np.array([1.0, -3.0, 5.0, 4.0, 2.0]))
    array([ 0., -3.,  5.,  0.,  2.])
    """

    n: int
    m: int
    axis: int = field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        check_count("m", self.m, 1)
        check_count("n", self.n, 0, self.m, "m, the length of a run")
        check_count("axis", self.axis, -2, 1)

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape."""
        matrix_shape(shape)
        return super().on(shape)

    # -- runs --------------------------------------------------------------------------

    @property
    def _along_columns(self) -> bool:
        return self.axis in (-1, 1)

    @property
    def _lines(self) -> tuple[int, int]:
        """Number of lines along the axis, and their length."""
        rows, cols = matrix_shape(self._shape())
        return (rows, cols) if self._along_columns else (cols, rows)

    def _run(self, atoms: Ints) -> Ints:
        """Run of each of some entries."""
        _, cols = matrix_shape(self._shape())
        i, j = np.divmod(atoms, cols)
        line, place = (i, j) if self._along_columns else (j, i)
        runs: Ints = line * -(-self._lines[1] // self.m) + place // self.m
        return runs

    def _sizes(self, atoms: Ints) -> Ints:
        """How many of some entries lie in each run."""
        lines, length = self._lines
        return np.bincount(self._run(atoms), minlength=lines * -(-length // self.m))

    def _largest_of_runs(self, scores: Scores) -> NDArray[np.bool_]:
        """Mark the `n` entries of largest score in each run, the first among equals."""
        if self.n >= self.m:
            return np.ones(self.n_atoms, bool)
        if not self.n:
            return np.zeros(self.n_atoms, bool)
        lines, length = self._lines
        table = scores.reshape(matrix_shape(self._shape()))
        table = table if self._along_columns else table.T
        missing = -length % self.m
        if missing:
            table = np.pad(table, ((0, 0), (0, missing)), constant_values=-np.inf)
        runs = table.reshape(lines, -1, self.m)
        least = np.partition(runs, self.m - self.n, axis=-1)
        border = least[..., self.m - self.n, None]
        marks: NDArray[np.bool_] = runs > border
        tied = runs == border
        room = self.n - marks.sum(axis=-1, keepdims=True, dtype=np.int64)
        marks |= tied & (np.cumsum(tied, axis=-1) <= room)
        marks = marks.reshape(lines, -1)[:, :length]
        return (marks if self._along_columns else marks.T).ravel()

    # -- atoms -------------------------------------------------------------------------

    @property
    def n_atoms(self) -> int:
        """Number of entries."""
        lines, length = self._lines
        return lines * length

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some entries."""
        atoms = np.asarray(atoms, np.int64)
        return Coordinates(atoms, atoms, np.ones(len(atoms), np.int64), self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared entries of `v`."""
        host = to_host(namespace(v).reshape(v, (-1,))).astype(np.float64)
        return host * host

    # -- a budget for each run ---------------------------------------------------------

    @property
    def _count(self) -> int | None:
        return None  # of all entries there is none but what the runs allow

    @property
    def budget(self) -> int:
        """Number of entries that all runs together allow."""
        return self._budget_of(self.n)

    def _budget_of(self, n: int) -> int:
        lines, length = self._lines
        whole, rest = divmod(length, self.m)
        return lines * (whole * n + min(n, rest))

    def with_budget(self, budget: float) -> Self:
        """Return this structure with the `n` that allows a number of entries.

        Raises
        ------
        ValueError
            If no `n` allows just that many, or fewer than must be kept.
        """
        if budget == self.budget:
            return self
        for n in range(self.m + 1):
            if self._budget_of(n) == budget:
                other = self._altered(n=n)
                other._check_budget()
                return other
        some = ", ".join(str(self._budget_of(n)) for n in range(min(self.m, 3) + 1))
        raise ValueError(
            f"budget must be what n of every {self.m} neighbours come to for some n "
            f"from 0 to {self.m} ({some}, ..., {self.n_atoms}), got {budget!r}; a "
            "Cardinality takes any"
        )

    def widened(self, factor: float) -> Self:
        """Return this structure with `factor` times the entries in each run."""
        return self._altered(n=max(self.n, min(int(factor * self.n), self.m)))

    def _within(self, atoms: Ints) -> bool:
        return bool(np.all(self._sizes(atoms) <= self.n))

    def choose(self, scores: Scores) -> Ints:
        """Return the largest entries of each run."""
        scores = scores.copy()
        scores[list(self.keep)] = np.inf
        chosen = np.flatnonzero(self._largest_of_runs(scores) & (scores > 0))
        return chosen[top(scores[chosen], len(chosen))]

    def _room(self, support: Coordinates) -> NDArray[np.bool_] | None:
        left = self._sizes(support.atoms) < self.n
        if left.all():
            return None
        room: NDArray[np.bool_] = left[self._run(np.arange(self.n_atoms))]
        return room

    def exchangeable(self, support: Coordinates) -> NDArray[np.bool_] | None:
        """Which exchanges are allowed, (k, n_atoms), or None when all are."""
        allowed, room = super().exchangeable(support), self._room(support)
        if room is None:
            return allowed
        runs = self._run(np.arange(self.n_atoms))
        fits: NDArray[np.bool_] = room | (runs[support.atoms, None] == runs)
        return fits if allowed is None else fits & allowed
