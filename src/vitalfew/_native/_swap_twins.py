"""NumPy twin of the exchanges within parts of one quadratic, and its oracle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.contracts import Ints

Real = NDArray[Any]
FLOOR = 1e-9  # of a column's own curvature: below it, it lies in the span of the others


def exchange_parts(
    H: Real,
    P: Real,
    W: Real,
    ids: Ints,
    counts: Ints,
    z: Real,
    gradient: Real,
    least: Real,
    run: int = 0,
    most: int = 1000,
    threads: int = 1,
) -> tuple[Ints, Ints, Real, Ints, Real, Ints]:
    """Make the best exchange in each of many quadratics until none helps.

    Part i minimises ``<u, u H>/2 - <b, u>`` over q rows u that share a support of
    ``counts[i]`` columns. What lies beyond its count in `ids`, `P`, `W` and `z` is not
    read.

    Parameters
    ----------
    H : array of shape (p, p)
        The Hessian that all parts share.
    P : array of shape (n, K, K)
        Inverse of the Hessian on each support.
    W : array of shape (n, K, p)
        The same times the rows of the Hessian there.
    ids : integer array of shape (n, K)
        Columns of each support.
    counts : integer array of shape (n,)
        How many they are.
    z : array of shape (n, K, q)
        Minimiser on each support.
    gradient : array of shape (n, q, p)
        Gradient there.
    least : array of shape (n,)
        What an exchange must gain more than.
    run : int, default=0
        Exchanges stay within runs of so many columns; zero for none.
    most : int, default=1000
        Most exchanges in a part.
    threads : int, default=1
        How many parts are worked on at a time.

    Returns
    -------
    ids : integer array of shape (n, K)
        New supports.
    swaps : integer array of shape (n,)
        How many exchanges were made.
    loss, drop : arrays of shape (n,)
        Least loss of dropping one column then, and which; infinite if there is none.
    gain, add : arrays of shape (n,)
        Largest gain of adding one column then, and which; zero if none gains.
    """
    del threads
    n, p = len(P), len(H)
    chosen, swaps = ids.copy(), np.zeros(n, np.int64)
    loss, gain = np.full(n, np.inf, H.dtype), np.zeros(n, H.dtype)
    drop, add = np.zeros(n, np.int64), np.zeros(n, np.int64)
    floor = FLOOR * np.diagonal(H)
    for i in range(n):
        k = int(counts[i])
        part = _Part(
            H, P[i, :k, :k].copy(), W[i, :k].copy(), z[i, :k].copy(), chosen[i, :k]
        )
        part.gradient = gradient[i].copy()
        while swaps[i] < most and k:
            gains = part.gains(floor)
            if run:
                gains[part.ids[:, None] // run != np.arange(p) // run] = -np.inf
            h, j = np.unravel_index(np.argmax(gains), gains.shape)
            if not gains[h, j] > least[i]:
                break
            part.exchange(int(h), int(j), floor)
            swaps[i] += 1
        if k:
            losses = np.sum(part.z**2, axis=1) / (2 * np.diagonal(part.P))
            loss[i], drop[i] = losses.min(), part.ids[np.argmin(losses)]
        left = np.maximum(part.left(), floor)
        squares = np.sum(part.gradient**2, axis=0)
        alone = np.divide(squares, 2 * left, out=np.zeros_like(left), where=left > 0)
        alone[part.ids] = 0
        gain[i], add[i] = alone.max(), np.argmax(alone)
    return chosen, swaps, loss, drop, gain, add


class _Part:
    gradient: Real

    def __init__(self, H: Real, P: Real, W: Real, z: Real, ids: Ints) -> None:
        self.H, self.P, self.W, self.z, self.ids = H, P, W, z, ids

    def left(self) -> Real:
        """Return the curvature of each column that the support leaves."""
        taken = np.einsum("kp,kp->p", self.H[self.ids], self.W)
        return np.asarray(np.diagonal(self.H) - taken)

    def gains(self, floor: Real) -> Real:
        """Gain of every exchange, (k, p)."""
        d = np.diagonal(self.P)[:, None]
        spread = np.maximum(self.W**2 / d + self.left(), floor)
        total = np.zeros_like(self.W)
        for o in range(self.z.shape[1]):
            total += (self.W * (self.z[:, o, None] / d) - self.gradient[o]) ** 2
        total = np.divide(total, 2 * spread, out=np.zeros_like(total), where=spread > 0)
        total[:, self.ids] = 0
        return np.asarray(total - np.sum(self.z**2, axis=1, keepdims=True) / (2 * d))

    def exchange(self, h: int, j: int, floor: Real) -> None:
        """Let the column at position h leave and column j come."""
        gone, column = self.W[h].copy(), self.P[:, h] / self.P[h, h]
        self.gradient -= np.outer(self.z[h] / self.P[h, h], gone)
        self.z -= np.outer(column, self.z[h])
        self.P -= np.outer(column, self.P[h])
        self.W -= np.outer(column, gone)
        kept = np.arange(len(self.ids)) != h
        row = self.H[j] - self.H[j, self.ids[kept]] @ self.W[kept]
        tiny = np.finfo(row.dtype).tiny
        spread = max(row[j], floor[j], tiny)
        column = np.where(kept, self.W[:, j], -1.0).astype(row.dtype)
        found = -self.gradient[:, j] / spread
        self.gradient += np.outer(found, row)
        self.z = np.where(kept[:, None], self.z, 0) - np.outer(column, found)
        self.W -= np.outer(column / spread, row)
        self.W[h] = row / spread
        self.P[h], self.P[:, h] = 0, 0
        self.P += np.outer(column, column / spread)
        self.ids[h] = j
