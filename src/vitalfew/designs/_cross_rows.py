"""The one cache that makes quadratic solvers fast."""

import numpy as np

from vitalfew._arrays import columns, itemsize, put, rows, zeros
from vitalfew._threads import SharedLock
from vitalfew.contracts import Array, Ints
from vitalfew.designs._base import Design

TILE = 8  # columns that the compiled product takes at a time


class CrossRows:
    """Rows ``x_j^T W X`` for the columns wanted so far, each computed once.

    Gram matrices, gradients and swap gains of a quadratic objective follow from these
    rows without touching X again, and one matrix product for 32 columns costs 6 to 9
    passes over X, not 32. Shared by all solvers and budgets that work on one objective,
    in any number of threads.

    Parameters
    ----------
    design : Design
        Where the columns come from.
    w : array of shape (n,)
        Row weights.
    center : array of shape (p,) or None
        Weighted means of the columns, when products are taken around them.
    cache_bytes : int
        Most memory the rows may take; beyond it `get` answers None.
    """

    def __init__(
        self, design: Design, w: Array, center: Array | None, cache_bytes: int = 1 << 30
    ) -> None:
        self.design, self.w, self.center = design, w, center
        row_bytes = max(1, design.shape[1] * itemsize(design.like))
        self.capacity = min(cache_bytes // row_bytes, design.shape[1])
        self._slots = np.full(design.shape[1], -1, np.int64)
        self._rows = zeros((0, design.shape[1]), design.like)
        self.used = 0
        self._lock = SharedLock()
        self._norms: Array | None = None

    @property
    def rows(self) -> Array:
        """All rows computed so far, (used, p)."""
        return self._rows[: self.used, :]

    def squared_norms(self) -> Array:
        """Product of each column with itself, (p,)."""
        if self._norms is None:
            self._norms = self.design.squared_norms(self.w, self.center)
        return self._norms

    def has(self, ids: Ints) -> bool:
        """Say whether the rows of all these columns are there."""
        return bool(np.all(self._slots[ids] >= 0))

    def get(self, ids: Ints, likely: Ints | None = None) -> Ints | None:
        """Slots in `rows` of the wanted columns, or None if they would not fit.

        Parameters
        ----------
        ids : integer array
            Columns wanted.
        likely : integer array, optional
            Columns to fetch in the same pass if there has to be one.
        """
        with self._lock:
            missing = ids[self._slots[ids] < 0]
            if len(missing):
                if self.used + len(missing) > self.capacity:
                    return None
                if likely is not None:
                    extra = likely[: max(0, self.design.prefetch - len(missing))]
                    extra = extra[(self._slots[extra] < 0) & ~np.isin(extra, missing)]
                    room = self.capacity - self.used - len(missing)
                    room = min(room, _whole_tiles(len(missing), len(extra)))
                    missing = np.concatenate((missing, extra[:room]))
                self._fetch(missing)
            return self._slots[ids]

    def _fetch(self, missing: Ints) -> None:
        if self._norms is None:  # from the pass that is made anyway
            block, self._norms = self.design.cross_and_norms(
                missing, self.w, self.center
            )
        else:
            block = self.design.cross(missing, self.w, self.center)
        need = self.used + len(missing)
        if need > self._rows.shape[0]:
            height = min(max(2 * need, 64), self.capacity)
            grown = zeros((height, self.design.shape[1]), block)
            grown[: self.used, :] = self._rows[: self.used, :]
            self._rows = grown
        self._rows[self.used : need, :] = block
        # in an order in which an interrupt loses rows, and never leaves wrong ones
        first, self.used = self.used, need
        self._slots[missing] = np.arange(first, need)

    def gram(self, slots: Ints, ids: Ints) -> Array:
        """Products among the wanted columns, (k, k)."""
        return columns(rows(self._rows, slots), ids)

    def combine(self, slots: Ints, z: Array) -> Array:
        """``sum_i z_i rows[slots_i]`` for z of shape (k,) or (k, q): (p,) or (p, q)."""
        used = self.used
        if 2 * len(slots) >= used:
            # one product with zeros beats a gather of long rows
            return self._rows[:used, :].T @ put(used, slots, z)
        return rows(self._rows, slots).T @ z


def _whole_tiles(wanted: int, likely: int) -> int:
    """How many likely columns to fetch: one past a multiple of eight costs eight."""
    total = wanted + likely
    whole = total - total % TILE
    return likely if whole <= wanted else whole - wanted
