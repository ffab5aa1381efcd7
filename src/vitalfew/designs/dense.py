"""An array of any library as a design."""

from typing import ClassVar

import numpy as np

from vitalfew import _arrays, _native
from vitalfew._arrays import columns, is_numpy_array, namespace, rows, take
from vitalfew._threads import n_threads
from vitalfew.contracts import Array, Ints
from vitalfew.designs._base import WHOLE, Design, Run

CHUNK = 1 << 16  # numbers of a temporary: what stays in the second-level cache


class Dense(Design):
    """An (n, p) array: NumPy, torch or another that follows the standard.

    Parameters
    ----------
    X : array of shape (n, p)
        Finite floating-point numbers; neither copied nor changed.
    """

    prefetch: ClassVar[int] = 32  # 32 columns cost 6 to 9 passes over X, not 32

    def __init__(self, X: Array) -> None:
        self.X, self.shape, self.like = X, (X.shape[0], X.shape[1]), X[:0, :0]
        self._last = (np.empty(0, np.int64), X[:, :0])
        # each row in one piece, in native memory, on a machine where our loops pay
        self._in_rows = (
            _native.WIDE
            and is_numpy_array(X)
            and X.strides[1] == X.itemsize
            and X.strides[0] >= X.shape[1] * X.itemsize
            and X.flags.aligned
        )

    def matvec(self, w: Array) -> Array:
        """Return ``X w``."""
        return self.X @ w

    def rmatvec(self, r: Array) -> Array:
        """Return ``X^T r``."""
        return self.X.T @ r

    def columns(self, ids: Ints) -> "Dense":
        """Return some of the columns, as a design."""
        return Dense(self._gathered(ids))

    def _gathered(self, ids: Ints) -> Array:
        """Return some of the columns; from those gathered last where they suffice.

        Solvers ask for a support, then for part of it, and a gather from long rows
        costs a cache miss a number.
        """
        known, A = self._last
        if len(ids) <= len(known):
            order = np.argsort(known, kind="stable")
            at = np.searchsorted(known, ids, sorter=order)
            at = order[np.minimum(at, len(known) - 1)]
            if np.array_equal(known[at], ids):
                same = len(ids) == len(known) and np.array_equal(at, np.arange(len(at)))
                return A if same else columns(A, at)
        A = columns(self.X, ids)
        self._last = (np.array(ids), A)
        return A

    def rows(self, ids: Ints) -> "Dense":
        """Return some of the rows, as a design."""
        return Dense(rows(self.X, ids))

    def dense(self) -> Array:
        """Return the array itself."""
        return self.X

    def cross(self, ids: Ints, w: Array, center: Array | None = None) -> Array:
        """Return the products of columns `ids` with all columns, (k, p)."""
        A = self._around(ids, center)
        if self._in_rows:
            C = _native.products(A, w, self.X, n_threads())
        else:
            C = (A * w[:, None]).T @ self.X
        return self._both_centred(C, A, ids, w, center, WHOLE)

    def cross_and_norms(
        self, ids: Ints, w: Array, center: Array | None = None, part: Run = WHOLE
    ) -> tuple[Array, Array]:
        """Return `cross` and `squared_norms` of a run of columns, in one pass."""
        X = self.X[:, part]
        A = self._around(ids, center)
        own = None if center is None else center[part]
        if self._in_rows and len(ids):
            middle = _arrays.zeros(X.shape[1], self.like) if own is None else own
            C, squares, left = _native.products(A, w, X, n_threads(), middle)
            norms = self._cleaned(squares, left, w, own)
        else:
            C = (A * w[:, None]).T @ X
            norms = Dense(X).squared_norms(w, own)
        return self._both_centred(C, A, ids, w, center, part), norms

    def _around(self, ids: Ints, center: Array | None) -> Array:
        """Return a few columns, less their means where there are any."""
        A = self._gathered(ids)
        return A if center is None else A - take(center, ids)[None, :]

    def _both_centred(
        self,
        C: Array,
        A: Array,
        ids: Ints,
        w: Array,
        center: Array | None,
        part: Run,
    ) -> Array:
        """Centre the other side of products too."""
        if center is None:
            return C
        # one side centred is enough, but for rounding, which large means would blow up
        C -= (w @ A)[:, None] * center[part][None, :]
        return self._without_noise(C, w @ (A * A), w, take(center, ids))

    def gram(self, w: Array, center: Array | None = None) -> Array:
        """Return the products of all columns with all, (p, p)."""
        A = self.X if center is None else self.X - center[None, :]
        if self._in_rows:
            G = _native.gram(np.ascontiguousarray(A), w, n_threads())
        else:
            G = (A * w[:, None]).T @ A
        if center is None:
            return G
        return self._without_noise(G, namespace(G).linalg.diagonal(G), w, center)

    def squared_norms(self, w: Array, center: Array | None = None) -> Array:
        """Return the product of each column with itself, (p,)."""
        n, p = self.shape
        if self._in_rows:
            total, left = _native.column_sums(self.X, w, center)
        else:
            total, left = _arrays.zeros(p, self.like), _arrays.zeros(p, self.like)
            height = max(1, CHUNK // max(p, 1))
            for start in range(0, n, height):
                strip = slice(start, min(start + height, n))
                part = self.X[strip, :]
                if center is not None:
                    part = part - center[None, :]
                    left += w[strip] @ part
                total += w[strip] @ (part * part)
        return self._cleaned(total, left, w, center)

    def _cleaned(
        self, total: Array, left: Array, w: Array, center: Array | None
    ) -> Array:
        """Sums of squares without what rounding in `center` added to them."""
        if center is None:
            return total
        # constants come out as zero
        xp = namespace(total)
        weight = max(float(xp.sum(w)), float(xp.finfo(w.dtype).smallest_normal))
        total = total - left * (left / weight)
        return xp.where(self._constant(total, w, center), xp.zeros_like(total), total)

    def block_grams(self, table: Ints, w: Array, center: Array | None = None) -> Array:
        """Return products within groups of columns: (N, m, m) for a (N, m) table."""
        if self._in_rows:
            blocks = _native.block_grams(self.X, table, w, center)
            return blocks if center is None else self._clean(blocks, table, w, center)
        xp, (N, m), n = namespace(self.X), table.shape, self.shape[0]
        parts = []
        for start in range(0, N, max(1, (16 * CHUNK) // max(n * m, 1))):
            some = table[start : start + max(1, (16 * CHUNK) // max(n * m, 1))]
            ids = some.ravel()
            A = columns(self.X, ids)
            if center is not None:
                A = A - take(center, ids)[None, :]
            A = xp.permute_dims(xp.reshape(A, (n, len(some), m)), (1, 2, 0))
            parts.append((A * w) @ xp.permute_dims(A, (0, 2, 1)))
        blocks = xp.concat(parts) if parts else _arrays.zeros((0, m, m), self.like)
        return blocks if center is None else self._clean(blocks, table, w, center)
