"""Products among the columns of a growing working set."""

import numpy as np

from vitalfew._arrays import columns, itemsize, namespace, put, rows, zeros
from vitalfew._threads import SharedLock
from vitalfew.contracts import Array, Ints
from vitalfew.designs._base import Design
from vitalfew.designs.sparse import Sparse


class Grams:
    """Gram matrices of sets of columns that change little from call to call.

    Where `CrossRows` holds products with *all* columns, this holds those among the
    columns asked for so far: new columns cost one small product with the old ones. The
    old columns are kept side by side, around their means and times the root of the row
    weights, for designs that are not sparse.

    Parameters
    ----------
    design : Design
        Where the columns come from.
    w : array of shape (n,)
        Row weights.
    center : array of shape (p,) or None
        Weighted means of the columns, when products are taken around them.
    cache_bytes : int
        Most memory for the columns and their products; beyond it nothing is kept.
    """

    def __init__(
        self, design: Design, w: Array, center: Array | None, cache_bytes: int = 1 << 30
    ) -> None:
        self.design, self.w, self.center = design, w, center
        self.cache_bytes = cache_bytes
        self._lock = SharedLock()
        self._forget()

    def _forget(self) -> None:
        self._slots = np.full(self.design.shape[1], -1, np.int64)
        self._G, self._multiplied = zeros((0, 0), self.design.like), 0
        self._known = np.empty(0, np.int64)
        self._tall = zeros((0, self.design.shape[0]), self.design.like)

    def get(self, ids: Ints) -> Array:
        """Products among the columns `ids`, (k, k)."""
        with self._lock:
            if not self._holds(ids):
                return self._afresh(ids)
            slots, known = self._slots[ids], len(self._known)
            if len(ids) < known - self._multiplied and self._tall.shape[0]:
                few = rows(self._tall, slots)
                return few @ few.T
            self._multiply()
            return columns(rows(self._G[:known, :known], slots), slots)

    def held(self, ids: Ints) -> tuple[Array, Ints] | None:
        """Columns as rows of a matrix, and which rows; None where they are not held.

        They are around their means and times the root of the row weights.
        """
        with self._lock:
            if isinstance(self.design, Sparse) or not self._holds(ids):
                return None
            return self._tall[: len(self._known), :], self._slots[ids]

    def combine(self, ids: Ints, z: Array) -> Array | None:
        """``sum_i z_i a_i`` over columns, or None if they were not asked for before.

        The columns a are around their means and times the root of the row weights; z
        has shape (k,) or (k, q), the answer (n,) or (n, q).
        """
        with self._lock:
            slots, known, tall = self._slots[ids], len(self._known), self._tall
        if not len(slots) or not tall.shape[0] or slots.min() < 0:
            return None
        if 2 * len(slots) < known:
            return rows(tall, slots).T @ z
        # one product with zeros beats a gather of long rows
        return tall[:known, :].T @ put(known, slots, z)

    def _holds(self, ids: Ints) -> bool:
        """Take up the columns `ids` if there is room; say whether all are held."""
        missing = ids[self._slots[ids] < 0]
        if not len(missing):
            return True
        if not self._fits(len(self._known) + len(missing)):
            self._forget()
            missing = ids
        if not self._fits(len(self._known) + len(missing)):
            return False
        old = len(self._known)
        if not isinstance(self.design, Sparse):
            self._stack(missing, old)
        # in an order in which an interrupt leaves no column that is not there
        self._known = np.concatenate((self._known, missing))
        self._slots[missing] = np.arange(old, len(self._known))
        return True

    def _fits(self, count: int) -> bool:
        height = 0 if isinstance(self.design, Sparse) else self.design.shape[0]
        numbers = 4 * count * (height + count)  # room to grow on both sides
        return numbers * itemsize(self.design.like) <= self.cache_bytes

    def _afresh(self, ids: Ints) -> Array:
        center = None if self.center is None else rows(self.center, ids)
        return self.design.columns(ids).gram(self.w, center)

    def _stack(self, missing: Ints, old: int) -> None:
        """Put further columns below those held."""
        new, need = self.design.columns(missing), old + len(missing)
        xp = namespace(self.w)
        A = new.around_means(self.w)[0] if self.center is not None else new.dense()
        if need > self._tall.shape[0]:
            grown = zeros((2 * need, self.design.shape[0]), self.design.like)
            grown[:old, :] = self._tall[:old, :]
            self._tall = grown
        self._tall[old:need, :] = (A * xp.sqrt(self.w)[:, None]).T

    def _multiply(self) -> None:
        """Bring the products up to the columns held."""
        old, need = self._multiplied, len(self._known)
        if old == need:
            return
        if need > self._G.shape[0]:
            room = 2 * need
            grown = zeros((room, room), self.design.like)
            grown[:old, :old] = self._G[:old, :old]
            self._G = grown
        if isinstance(self.design, Sparse):
            part = self.design.columns(self._known)
            center = None if self.center is None else rows(self.center, self._known)
            block = part.cross(np.arange(old, need), self.w, center)
        else:
            block = self._tall[old:need, :] @ self._tall[:need, :].T
        self._G[old:need, :need] = block
        self._G[:need, old:need] = block.T
        self._multiplied = need
