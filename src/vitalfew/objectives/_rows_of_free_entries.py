"""Minimising a quadratic in a matrix whose rows have free entries of their own.

Row r of W minimises ``<w, w H>/2 - <b_r, w>`` over its free entries. Either each
different set of free entries is factorised, or conjugate gradients run on all rows at
once, which share the product with H.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import (
    as_array,
    eye,
    namespace,
    precision,
    principal,
    put,
    rows,
    solve_posdef_many,
    take,
    to_host,
    zeros,
)
from vitalfew.contracts import Array, Ints

Mask = NDArray[np.bool_]

# What things take on one core, in multiplications of a large product.
FACTOR = 2  # a multiplication in a large factorisation
GATHER = 1500  # copying one number of H, and what small factorisations lose on it
ITERATIONS = 80  # conjugate gradients must be cheaper even if they take so many
SMALL = 1e9  # factorisations that take no more are done
BATCH = 1 << 23  # numbers of H that are factorised at once


class _Alike(NamedTuple):
    """Rows of one set of free entries."""

    rows: Ints  # (q,)
    free: Ints  # (k,)


@dataclass(frozen=True, eq=False)
class RowSystems:
    """The minimisations over the free entries of all rows.

    Parameters
    ----------
    H : array of shape (n_in, n_in)
        Symmetric, positive semi-definite.
    B : array of shape (n_out, n_in)
        Linear term.
    extra : array of shape (n_out, n_in) or None
        Added to the diagonal of H, row by row.
    free : boolean array of shape (n_out, n_in)
        The free entries, on the host; all others are zero.
    """

    H: Array
    B: Array
    extra: Array | None
    free: Mask

    def minimiser(self, start: Array | None) -> Array:
        """Return the minimiser, (n_out, n_in), by the cheaper of the two ways.

        Conjugate gradients end when the residual of a row, brought to unit diagonal, is
        below ``eps^(3/4)`` of its right-hand side: 6e-6 in single precision. Rows that
        do not get there in the time of a factorisation are factorised.
        """
        alike = self._alike()
        n_out, n_in = self.B.shape
        sizes = np.array([(len(a.free), len(a.rows)) for a in alike], float)
        k, q = sizes.reshape(-1, 2).T
        exactly = float(np.sum(FACTOR * (k**3 / 3) + 2 * k * k * q + GATHER * k * k))
        iteration = 2.0 * n_out * n_in * n_in
        if exactly <= max(SMALL, ITERATIONS * iteration):
            return self._exact(alike)
        return self._iterated(start, int(exactly / iteration))

    # -- factorisations ----------------------------------------------------------------

    def _alike(self) -> list[_Alike]:
        """Rows that can share a factorisation; with a ridge none can."""
        same: dict[Any, list[int]] = {}
        packed = np.packbits(self.free, axis=1)
        for row in np.flatnonzero(self.free.any(axis=1)):
            key = packed[row].tobytes() if self.extra is None else row
            same.setdefault(key, []).append(int(row))
        return [
            _Alike(np.array(some), np.flatnonzero(self.free[some[0]]))
            for some in same.values()
        ]

    def _exact(self, alike: list[_Alike]) -> Array:
        """Solve by factorisations, many of about one size at once."""
        n_out, n_in = self.B.shape
        flat = zeros(n_out * n_in, self.B)
        places, values = [np.empty(0, np.int64)], [flat[:0]]
        for some in _batches(alike):
            ids, answer = self._solved(some)
            places.append(ids)
            values.append(answer)
        z = namespace(self.B).concat(values)
        flat = put(n_out * n_in, np.concatenate(places), z)
        return namespace(flat).reshape(flat, (n_out, n_in))

    def _solved(self, some: list[_Alike]) -> tuple[Ints, Array]:
        """Coordinates of the flattened W and their values for some sets of rows."""
        xp, n_in = namespace(self.B), self.B.shape[1]
        free, is_free = _padded([a.free for a in some])
        own, is_own = _padded([a.rows for a in some])
        G = principal(self.H, free)
        add = zeros(free.shape, G)
        if self.extra is not None:
            ids = own[:, :1] * n_in + free
            add = xp.reshape(take(self.extra, ids.ravel()), free.shape)
        if not is_free.all():
            within = as_array(is_free, G)
            G = G * within[:, :, None] * within[:, None, :]
            # what is not there gets a row of its own that upsets no scale
            diagonal = xp.linalg.diagonal(G) + add
            most = xp.max(diagonal, axis=1, keepdims=True)
            add = add * within + most * (1 - within)
        if self.extra is not None or not is_free.all():
            G = G + eye(free.shape[1], G) * add[:, None, :]
        ids = own[:, None, :] * n_in + free[:, :, None]
        there = is_free[:, :, None] & is_own[:, None, :]
        b = xp.reshape(take(self.B, ids.ravel()), ids.shape) * as_array(there, G)
        z = solve_posdef_many(G, b)
        return ids[there], take(z, np.flatnonzero(there))

    # -- conjugate gradients -----------------------------------------------------------

    def _iterated(self, start: Array | None, most: int) -> Array:
        """Solve by conjugate gradients, all rows at once, and factorise the others."""
        xp = namespace(self.B)
        diagonal = zeros(self.B.shape, self.B) + xp.linalg.diagonal(self.H)[None, :]
        if self.extra is not None:
            diagonal = diagonal + self.extra
        tiny = precision(diagonal) ** 2 * xp.max(diagonal)
        seen = as_array(self.free, self.B) * as_array(diagonal > tiny, self.B)
        root = xp.where(seen > 0, diagonal, xp.ones_like(diagonal)) ** 0.5
        unit = seen / root
        b = unit * self.B
        size = xp.max(xp.abs(b))
        size = xp.where(size > 0, size, xp.ones_like(size))
        z = zeros(self.B.shape, self.B) if start is None else seen * start * root / size
        z, left = _conjugate_gradients(self.H, self.extra, unit, b / size, z, most)
        W = z * unit * size
        if not len(left):
            return W
        here = RowSystems(
            self.H,
            rows(self.B, left),
            None if self.extra is None else rows(self.extra, left),
            self.free[left],
        )
        stays = np.setdiff1d(np.arange(self.B.shape[0]), left)
        again = here._exact(here._alike())
        n_out = self.B.shape[0]
        return put(n_out, stays, rows(W, stays)) + put(n_out, left, again)


def _conjugate_gradients(
    H: Array, extra: Array | None, unit: Array, b: Array, z: Array, most: int
) -> tuple[Array, Ints]:
    """Solve for all rows in unknowns of unit curvature, and tell those it did not.

    References
    ----------
    .. [1] M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving
       linear systems", J. Res. Nat. Bur. Standards, 1952; with the diagonal as the
       preconditioner.
    """
    xp = namespace(b)
    solved, active = z, np.arange(b.shape[0])
    ridge = None if extra is None else unit * unit * extra

    def curved(v: Array) -> Array:
        product = unit * ((v * unit) @ H)
        return product if ridge is None else product + ridge * v

    goal = precision(b) ** 1.5 * xp.sum(b * b, axis=1)
    residual = b - curved(z)
    towards, square = residual, xp.sum(residual * residual, axis=1)
    for _ in range(most):
        done = to_host(square <= goal)
        if done.any():
            solved = _with_rows(solved, active[done], rows(z, np.flatnonzero(done)))
            stay = np.flatnonzero(~done)
            active = active[stay]
            if not len(active):
                break
            unit, z, residual, towards = (
                rows(a, stay) for a in (unit, z, residual, towards)
            )
            ridge = None if ridge is None else rows(ridge, stay)
            goal, square = rows(goal, stay), rows(square, stay)
        along = curved(towards)
        bend = xp.sum(towards * along, axis=1)
        flat = bend <= 0
        step = xp.where(flat, 0 * bend, square / xp.where(flat, 0 * bend + 1, bend))
        z = z + step[:, None] * towards
        residual = residual - step[:, None] * along
        before, square = square, xp.sum(residual * residual, axis=1)
        towards = residual + (square / before)[:, None] * towards
    return solved, active


def _with_rows(W: Array, ids: Ints, values: Array) -> Array:
    """Return a matrix with other values in some rows."""
    if len(ids) == W.shape[0]:
        return put(W.shape[0], ids, values)
    stays = np.setdiff1d(np.arange(W.shape[0]), ids)
    return put(W.shape[0], stays, rows(W, stays)) + put(W.shape[0], ids, values)


def _batches(alike: list[_Alike]) -> Iterator[list[_Alike]]:
    """Sets of rows of about one size, as many as fit: padding costs little."""
    alike = sorted(alike, key=lambda a: (len(a.free), len(a.rows)), reverse=True)
    first, width, most, least = 0, 0, 0, 0
    for i, one in enumerate(alike):
        k, q = len(one.free), len(one.rows)
        most, least = max(most, q), min(least, q)
        full = (i + 1 - first) * width * max(width, most) > BATCH
        if i and (full or k < 0.9 * width - 4 or most > 2 * least + 8):
            yield alike[first:i]
            first = i
        if first == i:
            width, most, least = k, q, q
    if alike:
        yield alike[first:]


def _padded(some: list[Ints]) -> tuple[Ints, Mask]:
    """Lists of indices as one table, and where it holds them."""
    width = max(map(len, some))
    table = np.zeros((len(some), width), np.int64)
    there = np.arange(width) < np.array([[len(one)] for one in some])
    table[there] = np.concatenate(some)
    return table, there
