"""Products among the columns of a growing working set."""

import numpy as np

from vitalfew._arrays import columns, itemsize, namespace, put, rows, zeros
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
        self._forget()

    def _forget(self) -> None:
        self._slots = np.full(self.design.shape[1], -1, np.int64)
        self._known = np.empty(0, np.int64)
        self._G = zeros((0, 0), self.design.like)
        self._tall = zeros((0, self.design.shape[0]), self.design.like)

    def get(self, ids: Ints) -> Array:
        """Products among the columns `ids`, (k, k)."""
        missing = ids[self._slots[ids] < 0]
        if len(missing):
            known = len(self._known) + len(missing)
            if not self._fits(known):
                self._forget()
                missing, known = ids, len(ids)
            if not self._fits(known):
                return self._afresh(ids)
            self._add(missing)
        slots, known = self._slots[ids], len(self._known)
        return columns(rows(self._G[:known, :known], slots), slots)

    def combine(self, ids: Ints, z: Array) -> Array | None:
        """``sum_i z_i a_i`` over columns asked for before, or None if they are not held.

        The columns a are around their means and times the root of the row weights; z
        has shape (k,) or (k, q), the answer (n,) or (n, q).
        """
        slots = self._slots[ids]
        if not len(slots) or not self._tall.shape[0] or slots.min() < 0:
            return None
        if 2 * len(slots) < len(self._known):
            return rows(self._tall, slots).T @ z
        # one product with zeros beats a gather of long rows
        known = len(self._known)
        return self._tall[:known, :].T @ put(known, slots, z)

    def _fits(self, count: int) -> bool:
        height = 0 if isinstance(self.design, Sparse) else self.design.shape[0]
        numbers = 4 * count * (height + count)  # room to grow on both sides
        return numbers * itemsize(self.design.like) <= self.cache_bytes

    def _afresh(self, ids: Ints) -> Array:
        center = None if self.center is None else rows(self.center, ids)
        return self.design.columns(ids).gram(self.w, center)

    def _add(self, missing: Ints) -> None:
        old = len(self._known)
        known = np.concatenate((self._known, missing))
        need = len(known)
        if need > self._G.shape[0]:
            room = 2 * need
            grown = zeros((room, room), self.design.like)
            grown[:old, :old] = self._G[:old, :old]
            self._G = grown
        block = self._products(known, old)
        self._G[old:need, :need] = block
        self._G[:need, old:need] = block.T
        self._known = known
        self._slots[missing] = np.arange(old, need)

    def _products(self, known: Ints, old: int) -> Array:
        """Products of the columns after the first `old` with all known ones."""
        need = len(known)
        if isinstance(self.design, Sparse):
            part = self.design.columns(known)
            center = None if self.center is None else rows(self.center, known)
            return part.cross(np.arange(old, need), self.w, center)
        new = self.design.columns(known[old:])
        xp = namespace(self.w)
        A = new.around_means(self.w)[0] if self.center is not None else new.dense()
        if need > self._tall.shape[0]:
            grown = zeros((2 * need, self.design.shape[0]), self.design.like)
            grown[:old, :] = self._tall[:old, :]
            self._tall = grown
        self._tall[old:need, :] = (A * xp.sqrt(self.w)[:, None]).T
        return self._tall[old:need, :] @ self._tall[:need, :].T
