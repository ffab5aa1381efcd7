"""The only file that knows that array libraries differ.

Data stay in their own library. What the array API standard lacks is here: top-k,
sums over segments, scatter, gathering columns, positive definite solves that notice
rank deficiency. Indices are NumPy integers on the host whatever the library.
"""

from typing import Any

import array_api_compat.numpy
import numpy as np
import scipy.sparse
from array_api_compat import (
    array_namespace,
    is_array_api_obj,
    is_numpy_array,
    is_torch_array,
)
from array_api_extra import at
from scipy.linalg import lapack

from vitalfew.contracts import Array, Ints, Shape

__all__ = [
    "as_array",
    "block_sums",
    "columns",
    "eye",
    "is_array_api_obj",
    "is_numpy_array",
    "itemsize",
    "least_eigenvalue",
    "namespace",
    "precision",
    "principal",
    "put",
    "rows",
    "segment_sum",
    "solve_posdef",
    "solve_posdef_many",
    "take",
    "to_host",
    "top",
    "zeros",
]


def namespace(x: Array) -> Any:
    """Return the array namespace of `x`."""
    if type(x) is np.ndarray:
        return array_api_compat.numpy  # the look-up would cost more than small sums
    return array_namespace(x)


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """Return `x` as a NumPy array."""
    return x.detach().cpu().numpy() if is_torch_array(x) else np.asarray(x)


def as_array(values: Any, like: Array) -> Array:
    """Return `values` with the library, dtype and device of `like`."""
    xp = namespace(like)
    if is_array_api_obj(values) and namespace(values) is xp:
        if is_numpy_array(values):
            return np.asarray(values, dtype=like.dtype)
        return (
            xp.astype(values, like.dtype, copy=False).to(like.device)
            if (is_torch_array(values))
            else xp.astype(values, like.dtype, copy=False)
        )
    if is_array_api_obj(values):
        values = to_host(values)
    return xp.asarray(np.asarray(values), dtype=like.dtype, device=like.device)


def _index(ids: Ints, like: Array) -> Any:
    """Host integers as an index into `like`."""
    if is_numpy_array(like):
        return ids
    return namespace(like).asarray(ids, device=like.device)


def zeros(shape: int | Shape, like: Array) -> Array:
    """Zeros with the library, dtype and device of `like`."""
    return namespace(like).zeros(shape, dtype=like.dtype, device=like.device)


def eye(size: int, like: Array) -> Array:
    """Return the identity with the library, dtype and device of `like`."""
    return namespace(like).eye(size, dtype=like.dtype, device=like.device)


def precision(x: Array) -> float:
    """Spacing of the floating-point numbers near one."""
    return float(namespace(x).finfo(x.dtype).eps)


def itemsize(x: Array) -> int:
    """Bytes of one number."""
    return int(namespace(x).finfo(x.dtype).bits) // 8


def take(x: Array, ids: Ints) -> Array:
    """Entries `ids` of a flattened array."""
    xp = namespace(x)
    flat = xp.reshape(x, (-1,))
    return flat[_index(ids, x)]


def rows(x: Array, ids: Ints) -> Array:
    """Rows `ids` of an array of any dimension."""
    if is_numpy_array(x) or is_torch_array(x):
        return x[_index(ids, x)]
    return namespace(x).take(x, _index(ids, x), axis=0)


def columns(x: Array, ids: Ints) -> Array:
    """Columns `ids` of a matrix."""
    if is_numpy_array(x):
        # for few columns twice as fast as an index, for many half as fast
        return np.take(x, ids, axis=1) if len(ids) <= 300 else x[:, ids]
    if is_torch_array(x):
        return x[:, _index(ids, x)]
    return namespace(x).take(x, _index(ids, x), axis=1)


def principal(H: Array, ids: Ints) -> Array:
    """Principal submatrices, (n, k, k), of a square matrix; `ids` has shape (n, k)."""
    if is_numpy_array(H) or is_torch_array(H):
        index = _index(ids, H)
        return H[index[:, :, None], index[:, None, :]]
    flat = ids[:, :, None] * H.shape[0] + ids[:, None, :]
    return namespace(H).reshape(take(H, flat.ravel()), flat.shape)


def put(size: int, ids: Ints, values: Array) -> Array:
    """Return zeros with `values` at rows `ids`."""
    shape = (size, *values.shape[1:])
    if is_numpy_array(values):
        out = np.zeros(shape, values.dtype)
        out[ids] = values
        return out
    if is_torch_array(values):
        return at(zeros(shape, values))[_index(ids, values)].set(values)
    host = np.zeros(shape, dtype=to_host(values).dtype)
    host[ids] = to_host(values)
    return as_array(host, values)


def top(scores: np.ndarray[Any, Any], count: int) -> Ints:
    """Positions of the `count` largest, largest first; ties go to the smaller one."""
    count = min(count, len(scores))
    if count <= 0:
        return np.empty(0, np.int64)
    if count == 1:
        return np.array([np.argmax(scores)])
    if count < len(scores):
        negative = -scores
        negative.partition(count - 1)
        border = -negative[count - 1]
        # of equal scores at the border the first ones
        sure = np.flatnonzero(scores > border)
        tied = np.flatnonzero(scores == border)[: count - len(sure)]
        part = np.concatenate((sure, tied))
    else:
        part = np.arange(len(scores))
    return part[_falling(scores[part])]


def _falling(values: np.ndarray[Any, Any]) -> Ints:
    """Order of falling values; equal ones stay in the order they are in."""
    order = np.argsort(-values)  # three times as fast as a stable sort
    value = values[order]
    tied = value[1:] == value[:-1]
    if tied.any():
        run = np.cumsum(np.concatenate(([False], ~tied)))
        # sorts the places within each run of equal values: fewer than 2^32 of either
        order = np.sort((run << 32) + order) & 0xFFFFFFFF
    return order


def block_sums(
    v: Array, shape: tuple[int, int], size: tuple[int, int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum of squares of each block of a matrix, row of blocks by row of blocks.

    Parameters
    ----------
    v : array
        Of any shape with as many entries as the matrix.
    shape : tuple of two ints
        Of the matrix.
    size : tuple of two ints
        Of a block; those at the lower and right edge are smaller where it does not
        divide.

    Returns
    -------
    array of shape (number of blocks,)
        In double precision, on the host.
    """
    xp = namespace(v)
    height, width = shape
    rows, cols = min(size[0], height), min(size[1], width)
    v = xp.astype(xp.reshape(v, shape), xp.float64, copy=False)
    v = v * v
    if cols > 1:
        v = xp.concat((v, zeros((height, -width % cols), v)), axis=1)
        v = xp.sum(xp.reshape(v, (height, -1, cols)), axis=2)
    if rows > 1:
        v = xp.concat((v, zeros((-height % rows, v.shape[1]), v)), axis=0)
        v = xp.sum(xp.reshape(v, (-1, rows, v.shape[1])), axis=1)
    return np.asarray(to_host(xp.reshape(v, (-1,))), np.float64)


def segment_sum(values: Array, labels: Ints, count: int) -> Array:
    """Sums of values along the first axis that share a label."""
    if is_torch_array(values):
        out = values.new_zeros((count, *values.shape[1:]))
        return out.index_add_(0, _index(labels, values), values)
    host = to_host(values)
    if host.ndim == 1:
        sums = np.bincount(labels, weights=host, minlength=count)
    else:
        each = np.arange(len(labels))
        add = scipy.sparse.csr_matrix(
            (np.ones(len(labels)), (labels, each)), (count, len(labels))
        )
        sums = add @ host  # np.add.at is 30 times slower
    return as_array(sums, values)


def least_eigenvalue(G: Array) -> float:
    """Least eigenvalue of a positive semi-definite matrix, less what rounding may add.

    Parameters
    ----------
    G : array of shape (k, k)
        Symmetric.

    Returns
    -------
    float
        Not negative; zero where it cannot be told from zero.
    """
    values = np.linalg.eigvalsh(to_host(G).astype(np.float64))
    noise = 10 * len(values) * precision(G) * float(values[-1])
    return max(float(values[0]) - noise, 0.0)


def solve_posdef(G: Array, b: Array) -> Array:
    """Solve ``G z = b`` for a positive semi-definite matrix: Cholesky, or least norm.

    Cholesky of a rank-deficient matrix often *succeeds* on rounding noise and returns
    coefficients of size 1e8, so small pivots count as failure too. Rows are brought to
    unit diagonal first, so that the units of the columns do not matter.

    Parameters
    ----------
    G : array of shape (k, k)
        Symmetric, positive semi-definite.
    b : array of shape (k,) or (k, q)
        Right-hand sides.

    Returns
    -------
    array of the shape of `b`
        The solution of least norm (in the scaled unknowns) where there are several.
    """
    k = G.shape[0]
    if k == 0:
        return b
    xp, eps = namespace(G), precision(G)
    diagonal = xp.linalg.diagonal(G)
    largest = float(xp.max(diagonal))
    tiny = eps * eps * max(largest, float(xp.finfo(G.dtype).smallest_normal))
    safe = xp.where(diagonal > tiny, diagonal, xp.ones_like(diagonal))
    scale = xp.where(diagonal > tiny, 1 / xp.sqrt(safe), xp.zeros_like(diagonal))
    S = G * scale[:, None] * scale[None, :]
    t = b * (scale if b.ndim == 1 else scale[:, None])
    enough = 100 * eps
    if is_numpy_array(G):
        posv = lapack.dposv if G.dtype == np.float64 else lapack.sposv
        L, z, info = posv(S, t, lower=1)
        if info == 0 and np.min(np.diagonal(L)) ** 2 > enough:
            return z * (scale if b.ndim == 1 else scale[:, None])
    else:
        z = _cholesky_solve(xp, S, t, enough)
        if z is not None:
            return z * (scale if b.ndim == 1 else scale[:, None])
    if not bool(xp.all(xp.isfinite(S))):
        return xp.full_like(b, float("nan"))
    values, vectors = xp.linalg.eigh(S)
    kept = values > k * 10 * eps
    inverse = xp.where(
        kept, 1 / xp.where(kept, values, xp.ones_like(values)), 0 * values
    )
    turned = vectors.T @ t
    z = vectors @ (turned * (inverse if b.ndim == 1 else inverse[:, None]))
    return z * (scale if b.ndim == 1 else scale[:, None])


def solve_posdef_many(G: Array, b: Array) -> Array:
    """Solve many systems as `solve_posdef` does one.

    Parameters
    ----------
    G : array of shape (n, k, k)
        Symmetric, positive semi-definite each.
    b : array of shape (n, k, q)
        Right-hand sides.

    Returns
    -------
    array of shape (n, k, q)
        The solutions.
    """
    xp, eps = namespace(G), precision(G)
    if not is_torch_array(G):
        return xp.stack([solve_posdef(G[i, ...], b[i, ...]) for i in range(G.shape[0])])
    diagonal = xp.linalg.diagonal(G)
    largest = xp.max(diagonal, axis=1, keepdims=True)
    tiny = eps * eps * xp.clip(largest, min=xp.finfo(G.dtype).smallest_normal)
    seen = diagonal > tiny
    safe = xp.where(seen, diagonal, xp.ones_like(diagonal))
    scale = xp.where(seen, 1 / xp.sqrt(safe), xp.zeros_like(diagonal))
    L, info = xp.linalg.cholesky_ex(G * scale[:, :, None] * scale[:, None, :])
    least = xp.min(xp.linalg.diagonal(L), axis=1) ** 2
    sure = (info == 0) & (least > 100 * eps)
    z = xp.cholesky_solve(b * scale[:, :, None], L) * scale[:, :, None]
    for i in np.flatnonzero(~to_host(sure)):
        z[i] = solve_posdef(G[i], b[i])
    return z


def _cholesky_solve(xp: Any, S: Array, t: Array, enough: float) -> Array | None:
    if is_torch_array(S):
        L, info = xp.linalg.cholesky_ex(S)
        if int(info) == 0 and float(xp.min(xp.linalg.diagonal(L))) ** 2 > enough:
            right = t[:, None] if t.ndim == 1 else t
            return xp.reshape(xp.cholesky_solve(right, L), t.shape)
        return None
    try:
        L = xp.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        return None
    if float(xp.min(xp.linalg.diagonal(L))) ** 2 > enough:
        return xp.linalg.solve(S, t)
    return None
