"""What every one-for-one exchange of atoms would bring in a quadratic model.

With G the Hessian on the support, P = G^-1, C its rows against all columns and W = P C:
dropping atom h shifts the gradient of the others by W_h^T P_hh^-1 z_h and gives back
W_h^T P_hh^-1 W_h of curvature; the newcomer then gains half its squared gradient in the
curvature it has left, and h costs z_h^T P_hh^-1 z_h / 2. Exact for least squares, a
second-order estimate for other losses.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitalfew import _native
from vitalfew._arrays import to_host, top
from vitalfew._native._twins import single_gains
from vitalfew.contracts import Array, Exchanges, Ints

STRIP = 1 << 17  # numbers of a temporary: stays in cache
RUN = 1 << 23  # numbers of the Hessian's rows held at once: 64 MB
MOST = 1 << 27  # the same for groups that are no runs of columns: 1 GB


class QuadraticModel(NamedTuple):
    """A quadratic around a fit, as far as exchanges need it.

    `rows` may be a function that takes a run of columns and returns rows and curvature
    there, so that no more than a run of them is ever in memory.
    """

    rows: Array | Callable[[slice], tuple[Array, Array]]
    # (K, p): the Hessian's rows on the support
    gram: Array  # (K, K)
    z: Array  # (K, q)
    gradient: Array  # (p, q)
    curvature: Array | None  # (p,): diagonal of the Hessian; None with a function

    def run(self, part: slice) -> tuple[Array, Array]:
        """Return rows and curvature of a run of columns."""
        if callable(self.rows):
            return self.rows(part)
        assert self.curvature is not None
        return self.rows[:, part], self.curvature[part]


def _inverse(G: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a Hessian on a support, in double precision; its own if singular."""
    G64 = G.astype(np.float64)
    diagonal = np.diagonal(G64)
    G64 = G64 + np.diag(1e-12 * diagonal + np.where(diagonal > 0, 0, 1.0))
    try:
        np.linalg.cholesky(G64)
    except np.linalg.LinAlgError:
        P = np.linalg.pinv(G64, hermitian=True, rcond=1e-13)
    else:
        P = np.linalg.inv(G64)
    return np.ascontiguousarray(P, dtype=G.dtype)


class _OnHost(NamedTuple):
    C: NDArray[np.float64]
    P: NDArray[np.float64]
    z: NDArray[np.float64]
    gradient: NDArray[np.float64]
    curvature: NDArray[np.float64]

    @classmethod
    def of(cls, model: QuadraticModel, P: NDArray[Any], part: slice) -> "_OnHost":
        C, curvature = (np.asarray(to_host(a)) for a in model.run(part))
        z, gradient = (np.asarray(to_host(a)) for a in (model.z, model.gradient))
        return cls(C, P, z, gradient[part], curvature)


class GroupModel(NamedTuple):
    """A quadratic around a fit whose atoms are groups of columns, on the host."""

    C: NDArray[Any]  # (K, p): the Hessian's rows on the support
    G: NDArray[Any]  # (K, K)
    z: NDArray[Any]  # (K, q)
    gradient: NDArray[Any]  # (p, q)
    table: Ints  # (N, m): columns of each group, padded with -1
    starts: Ints  # (k + 1,): where each group of the support begins
    blocks: NDArray[Any]  # (N, m, m): the Hessian within each group

    def gains(
        self, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[Any], Ints, NDArray[Any], NDArray[Any]]:
        """What exchanges, additions alone and drops alone would bring.

        Parameters
        ----------
        allowed : boolean array of shape (k, N) or None
            Which exchanges may be made.

        Returns
        -------
        gain, out : arrays of shape (N,)
            Of the best exchange for each entering group, and which one leaves; empty
            meaning where the support is.
        alone : array of shape (N,)
            Gain of adding each group, nothing leaving.
        loss : array of shape (k,)
            Loss of dropping each group of the support, nothing entering.
        """
        P = _inverse(self.G)
        k, N = len(self.starts) - 1, len(self.table)
        # a group of no columns that leaves is an addition alone
        starts = np.append(self.starts, self.starts[-1])
        nobody = np.zeros((k + 1, N), bool)
        nobody[k] = True
        alone, _ = self._best(P, starts, nobody)
        gain, out = np.full(N, -np.inf), np.zeros(N, np.int64)
        if k:
            gain, out = self._best(P, self.starts, allowed)
        loss = np.empty(k)
        for h in range(k):
            D = slice(self.starts[h], self.starts[h + 1])
            loss[h] = np.sum(self.z[D] * np.linalg.solve(P[D, D], self.z[D])) / 2
        return gain, out, alone, loss

    def _best(
        self, P: NDArray[Any], starts: Ints, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float64], Ints]:
        dtype = self.C.dtype
        gain, out = _native.best_group_exchanges(
            np.ascontiguousarray(self.C),
            np.ascontiguousarray(P @ self.C),
            np.ascontiguousarray(self.table),
            np.ascontiguousarray(self.blocks, dtype=dtype),
            np.ascontiguousarray(self.z, dtype=dtype),
            P,
            np.ascontiguousarray(starts),
            np.ascontiguousarray(self.gradient, dtype=dtype),
            None if allowed is None else np.ascontiguousarray(allowed),
        )
        return gain.astype(np.float64), out


def single_exchanges(
    models: Sequence[QuadraticModel],
    inside: Ints,
    count: int,
    allowed: NDArray[np.bool_] | None,
) -> Exchanges:
    """Best exchanges of single columns; the gains of several models are added.

    Parameters
    ----------
    models : sequence of QuadraticModel
        One, or one for each class when the classes are taken as independent.
    inside : integer array of shape (k,)
        Columns of the support.
    count : int
        How many entering columns to return.
    allowed : boolean array of shape (k, p) or None
        Which exchanges may be made.

    Returns
    -------
    Exchanges
        Distinct entering columns, each with its best partner, best first.
    """
    if len(inside) == 0:
        return _nothing()
    inverses = [_inverse(np.asarray(to_host(model.gram))) for model in models]
    k, p = len(inside), models[0].gradient.shape[0]
    gain, out = np.empty(p), np.empty(p, np.int64)
    run, width = _run(k), max(256, STRIP // max(k, 1))
    for first in range(0, p, run):
        here = slice(first, min(first + run, p))
        hosts = [
            _OnHost.of(model, P, here)
            for model, P in zip(models, inverses, strict=True)
        ]
        for start in range(here.start, here.stop, width):
            part = slice(start, min(start + width, here.stop))
            may = None if allowed is None else np.ascontiguousarray(allowed[:, part])
            local = slice(part.start - first, part.stop - first)
            gain[part], out[part] = _strip(hosts, local, may)
    gain[inside] = -np.inf
    return best_of(gain, out, count)


def _run(k: int) -> int:
    """Columns whose rows of k numbers are held at once."""
    return max(256, RUN // max(k, 1))


def _strip(
    hosts: Sequence[_OnHost], part: slice, may: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], Ints]:
    """Best partners for a strip of columns."""
    if len(hosts) == 1:
        return _one_model(hosts[0], part, may)
    total = sum(
        single_gains(
            h.C[:, part],
            h.P @ h.C[:, part],
            h.z,
            np.diagonal(h.P),
            h.gradient[part],
            h.curvature[part],
        )
        for h in hosts
    )
    assert isinstance(total, np.ndarray)
    if may is not None:
        total[~may] = -np.inf
    out = np.argmax(total, axis=0)
    return np.take_along_axis(total, out[None], axis=0)[0], out


def _one_model(
    h: _OnHost, part: slice, may: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], Ints]:
    C = np.ascontiguousarray(h.C[:, part])
    return _native.best_single_exchanges(
        C,
        np.ascontiguousarray(h.P @ C),
        np.ascontiguousarray(h.z),
        np.ascontiguousarray(np.diagonal(h.P)),
        np.ascontiguousarray(h.gradient[part]),
        np.ascontiguousarray(h.curvature[part]),
        may,
    )


def group_exchanges(
    model: QuadraticModel,
    table: Ints,
    starts: Ints,
    inside: Ints,
    blocks: Callable[[Ints], Array],
    count: int,
    allowed: NDArray[np.bool_] | None,
) -> Exchanges | None:
    """Best exchanges of groups of columns.

    Parameters
    ----------
    model : QuadraticModel
        The quadratic.
    table : integer array of shape (N, m)
        Columns of each group, padded with -1.
    starts : integer array of shape (k + 1,)
        Where each group of the support begins among the model's rows.
    inside : integer array of shape (k,)
        Groups of the support.
    blocks : callable
        Takes the table, returns the Hessian within each group, (N, m, m).
    count : int
        How many entering groups to return.
    allowed : boolean array of shape (k, N) or None
        Which exchanges may be made.

    Returns
    -------
    Exchanges or None
        Distinct entering groups, each with its best partner, best first; None where the
        Hessian's rows would not fit into memory.
    """
    if len(inside) == 0:
        return _nothing()
    G, z, gradient = (
        np.asarray(to_host(a)) for a in (model.gram, model.z, model.gradient)
    )
    P, p = _inverse(G), gradient.shape[0]
    parts = _runs_of_groups(table, p, _run(len(G)))
    if parts is None:
        if len(G) * p > MOST:
            return None
        parts = [(slice(0, len(table)), slice(0, p))]
    gain, out = np.empty(len(table)), np.empty(len(table), np.int64)
    for some, part in parts:
        C, _ = model.run(part)
        local = np.where(table[some] >= 0, table[some] - part.start, -1)
        B = to_host(blocks(table[some]))
        may = None if allowed is None else allowed[:, some]
        groups = GroupModel(
            np.asarray(to_host(C)), G, z, gradient[part], local, starts, B
        )
        gain[some], out[some] = groups._best(P, starts, may)
    gain[inside] = -np.inf
    return best_of(gain, out, count)


def _runs_of_groups(
    table: Ints, p: int, width: int
) -> list[tuple[slice, slice]] | None:
    """Runs of groups that own runs of columns, or None if groups own others."""
    if p <= width:
        return None  # one run is all
    sizes = np.sum(table >= 0, axis=1)
    if not np.array_equal(table[table >= 0], np.arange(p)):
        return None
    ends, parts, first = np.cumsum(sizes), [], 0
    while first < len(table):
        begin = int(ends[first] - sizes[first])
        last = max(int(np.searchsorted(ends, begin + width, "right")), first + 1)
        parts.append((slice(first, last), slice(begin, int(ends[last - 1]))))
        first = last
    return parts


def best_of(gain: NDArray[np.float64], out: Ints, count: int) -> Exchanges:
    """Return the `count` entering atoms of largest gain.

    Parameters
    ----------
    gain : array of shape (N,)
        Gain of the best exchange for each entering atom; -inf where there is none.
    out : integer array of shape (N,)
        Position in the support of the atom that leaves.
    count : int
        How many to return.

    Returns
    -------
    Exchanges
        Best first.
    """
    gain = np.where(np.isnan(gain), -np.inf, gain)
    into = top(gain, count)
    into = into[np.isfinite(gain[into])]
    return Exchanges(out[into], into, gain[into])


def _nothing() -> Exchanges:
    none = np.empty(0, np.int64)
    return Exchanges(none, none, np.empty(0))
