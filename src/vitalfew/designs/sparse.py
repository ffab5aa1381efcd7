"""A SciPy sparse matrix as a design; nothing of size (n, p) is ever made."""

from typing import Any

import numpy as np
import scipy.sparse

from vitalfew import _native
from vitalfew._arrays import precision
from vitalfew.contracts import Array, Ints
from vitalfew.designs._base import WHOLE, Design, Run

CHUNK = 1 << 18  # stored numbers of a temporary


class Sparse(Design):
    """A SciPy sparse matrix, kept by rows and by columns.

    Parameters
    ----------
    X : sparse matrix or array of shape (n, p)
        Finite floating-point numbers.
    by_columns : bool, default=True
        Whether to keep it by columns as well as by rows: twice the memory of its
        nonzeros, where taking columns then needs no pass over all of them.

    Notes
    -----
    Products around the columns' means are taken around zero and shifted, which loses
    twice the digits of mean over deviation: a full column of large mean and small
    deviation is better centred, or kept in a dense design.
    """

    def __init__(self, X: Any, *, by_columns: bool = True) -> None:
        self.csr: Any = scipy.sparse.csr_array(X)
        if not self.csr.has_canonical_format:  # entries given twice stand for their sum
            X = self.csr = self.csr.copy()
            X.sum_duplicates()
        self.csc: Any = scipy.sparse.csc_array(X) if by_columns else None
        self.shape, self.like = self.csr.shape, np.zeros(0, self.csr.dtype)

    @property
    def noise(self) -> float:
        """Rounding in a sum of squares around the mean, in squares of the mean."""
        return 100 * precision(self.like)  # as sums around zero are shifted

    @classmethod
    def _of(cls, csr: Any, csc: Any) -> "Sparse":
        new = cls.__new__(cls)
        new.csr, new.csc = csr, csc
        new.shape, new.like = csc.shape, np.zeros(0, csc.dtype)
        return new

    def _few(self, ids: Any) -> Any:
        """Return some of the columns, by columns."""
        return (
            self.csc[:, ids]
            if self.csc is not None
            else scipy.sparse.csc_array(self.csr[:, ids])
        )

    def matvec(self, w: Array) -> Array:
        """Return ``X w``."""
        return (self.csc if self.csr is None else self.csr) @ w

    def rmatvec(self, r: Array) -> Array:
        """Return ``X^T r``."""
        # a column at a time needs no scatter
        return (self.csr if self.csc is None else self.csc).T @ r

    def columns(self, ids: Ints) -> "Sparse":
        """Return some of the columns, as a design."""
        return self._of(None, self._few(ids))

    def rows(self, ids: Ints) -> "Sparse":
        """Return some of the rows, as a design."""
        rows = self.csc[ids, :] if self.csr is None else self.csr[ids, :]
        return Sparse(rows, by_columns=self.csc is not None)

    def dense(self) -> Array:
        """Return all numbers as one (n, p) array."""
        return (self.csr if self.csc is None else self.csc).toarray()

    def _scaled_rows(self, A: Any, w: Array) -> Any:
        """``diag(w) A`` for a matrix by columns."""
        return scipy.sparse.csc_array(
            (A.data * w[A.indices], A.indices, A.indptr), shape=A.shape
        )

    def cross(self, ids: Ints, w: Array, center: Array | None = None) -> Array:
        """Return the products of columns `ids` with all columns, (k, p)."""
        return self._cross(ids, w, center, WHOLE)

    def cross_and_norms(
        self, ids: Ints, w: Array, center: Array | None = None, part: Run = WHOLE
    ) -> tuple[Array, Array]:
        """Return `cross` and `squared_norms` of a run of columns, in one pass."""
        norms = self.squared_norms(w, center)[part]
        return self._cross(ids, w, center, part), norms

    def _cross(self, ids: Ints, w: Array, center: Array | None, part: Run) -> Array:
        A, X = self._few(ids), self._by_rows()
        first, stop, _ = part.indices(self.shape[1])
        C = _native.sparse_products(
            *_parts(A, X), w, X.indptr, X.indices, X.data, self.shape[1], first, stop
        )
        if center is None:
            return C
        means = center[ids]
        C -= (means * w.sum())[:, None] * center[part][None, :]
        squares = self.columns(ids).squared_norms(w, means)
        return self._without_noise(C, squares, w, means)

    def _by_rows(self) -> Any:
        if self.csr is None:
            self.csr = scipy.sparse.csr_array(self.csc)
        return self.csr

    def gram(self, w: Array, center: Array | None = None) -> Array:
        """Return the products of all columns with all, (p, p)."""
        X = self._by_rows()
        G = _native.sparse_gram(*_parts(X, X), w, self.shape[1])
        if center is None:
            return G
        G -= w.sum() * center[:, None] * center[None, :]
        return self._without_noise(G, np.diagonal(G), w, center)

    def squared_norms(self, w: Array, center: Array | None = None) -> Array:
        """Return the product of each column with itself, (p,)."""
        if self.csc is None:
            squares, kept, stored = self._sums_by_rows(w, center)
        else:
            squares, kept, stored = self._sums_by_columns(w, center)
        if center is not None:
            # zeros lie `center` away; a full column has none, whatever rounding says
            gap = np.maximum(w.sum() - kept, 0.0)
            squares += np.where(stored < self.shape[0], gap, 0.0) * center * center
            squares[self._constant(squares, w, center)] = 0.0
        return squares

    def _sums_by_columns(
        self, w: Array, center: Array | None
    ) -> tuple[Array, Array, Array]:
        """Weighted squares of the stored numbers, their weights and their count."""
        X, p = self.csc, self.shape[1]
        stored = np.diff(X.indptr)
        squares, kept = np.empty(p, w.dtype), np.empty(p, w.dtype)
        width = max(1, CHUNK * p // max(X.nnz, 1))
        for first in range(0, p, width):
            some = slice(first, min(first + width, p))
            starts = X.indptr[first : some.stop + 1]
            entries = slice(starts[0], starts[-1])
            data = X.data[entries]
            if center is not None:
                data = data - np.repeat(center[some], stored[some])
            index = (X.indices[entries], starts - starts[0])
            shape = (self.shape[0], some.stop - first)
            part = scipy.sparse.csc_array((data * data, *index), shape=shape)
            squares[some] = part.T @ w
            if center is not None:
                ones = scipy.sparse.csc_array((np.ones_like(data), *index), shape=shape)
                kept[some] = ones.T @ w
        return squares, kept, stored

    def _sums_by_rows(
        self, w: Array, center: Array | None
    ) -> tuple[Array, Array, Array]:
        """Do the same where X is kept by rows alone."""
        n, p = self.shape
        squares, kept = np.zeros(p, w.dtype), np.zeros(p, w.dtype)
        stored = np.zeros(p, np.int64)
        height = max(1, CHUNK * n // max(self.csr.nnz, 1))
        for first in range(0, n, height):
            part = self.csr[first : first + height]
            at, data = part.indices, part.data
            each = np.repeat(w[first : first + height], np.diff(part.indptr))
            if center is not None:
                data = data - center[at]
                kept += np.bincount(at, each, p)
                stored += np.bincount(at, minlength=p)
            squares += np.bincount(at, each * data * data, p)
        return squares, kept, stored

    def block_grams(self, table: Ints, w: Array, center: Array | None = None) -> Array:
        """Return products within groups of columns: (N, m, m) for a (N, m) table."""
        N, m = table.shape
        out = np.empty((N, m, m), self.like.dtype)
        for i in range(m):
            A = self._scaled_rows(self._few(table[:, i]), w)
            for j in range(i, m):
                out[:, i, j] = A.multiply(self._few(table[:, j])).sum(axis=0)
                out[:, j, i] = out[:, i, j]
        if center is None:
            return out
        means = center[table]
        out -= w.sum() * means[:, :, None] * means[:, None, :]
        return self._clean(out, table, w, center)


def _parts(A: Any, like: Any) -> tuple[Any, Any, Any]:
    """Starts, indices and data of a compressed matrix, indexed like another."""
    kind = like.indptr.dtype
    return A.indptr.astype(kind, copy=False), A.indices.astype(kind, copy=False), A.data
