"""NumPy twins of the compiled loops, and their oracles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from vitalfew._native._descent_twins import descend as descend
from vitalfew._native._descent_twins import descend_columns as descend_columns
from vitalfew._native._swap_twins import exchange_parts as exchange_parts
from vitalfew.contracts import Ints

Real = NDArray[Any]
CHUNK = 1 << 16  # numbers of a temporary: what stays in the second-level cache
FLOOR = 1e-9  # of a column's own curvature: below it, it lies in the span of the others


def best_single_exchanges(
    C: Real,
    W: Real,
    z: Real,
    d: Real,
    gradient: Real,
    curvature: Real,
    allowed: NDArray[np.bool_] | None,
) -> tuple[Real, Ints]:
    """Best partner to leave for every column that might enter.

    With G the Hessian on the support and P its inverse, `C` holds the Hessian's rows,
    ``W = P C``, ``d = diag(P)``. Dropping atom h moves the gradient of column j by
    ``-W_hj z_h / d_h`` and gives back ``W_hj^2 / d_h`` of curvature.

    Parameters
    ----------
    C, W : arrays of shape (k, p)
        Rows of the Hessian on the support, and the same times the inverse.
    z : array of shape (k, q)
        Coefficients, one column for each output.
    d : array of shape (k,)
        Diagonal of the inverse.
    gradient : array of shape (p, q)
        Gradient at the fit.
    curvature : array of shape (p,)
        Diagonal of the Hessian.
    allowed : boolean array of shape (k, p) or None
        Which exchanges may be made.

    Returns
    -------
    gain : array of shape (p,)
        Decrease of the quadratic model by the best exchange; -inf if none is allowed.
    out : integer array of shape (p,)
        Position in the support of the atom that leaves.
    """
    gain = single_gains(C, W, z, d, gradient, curvature)
    if allowed is not None:
        gain[~allowed] = -np.inf
    out = np.argmax(gain, axis=0)
    return np.take_along_axis(gain, out[None], axis=0)[0], out


def single_gains(
    C: Real, W: Real, z: Real, d: Real, gradient: Real, curvature: Real
) -> Real:
    """Gain of every exchange, (k, p); the matrix behind `best_single_exchanges`."""
    left = curvature - np.einsum("ij,ij->j", C, W)
    spread = W * W / d[:, None] + left[None, :]
    np.maximum(spread, FLOOR * curvature[None, :], out=spread)
    move = z / d[:, None]
    total = np.zeros_like(W)
    for output in range(z.shape[1]):
        total += (W * move[:, output, None] - gradient[None, :, output]) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(spread > 0, total / (2 * spread), -np.inf)
    gain -= (z * move).sum(axis=1)[:, None] / 2
    return gain


def best_group_exchanges(
    C: Real,
    W: Real,
    table: Ints,
    blocks: Real,
    z: Real,
    P: Real,
    starts: Ints,
    gradient: Real,
    allowed: NDArray[np.bool_] | None,
) -> tuple[Real, Ints]:
    """Best group to leave for every group that might enter.

    Parameters
    ----------
    C, W : arrays of shape (K, p)
        Rows of the Hessian on the support, and the same times its inverse.
    table : integer array of shape (N, m)
        Columns of each group, padded with -1 at the end.
    blocks : array of shape (N, m, m)
        Hessian within each group; what stands in padded places does not matter.
    z : array of shape (K, q)
        Coefficients on the support.
    P : array of shape (K, K)
        Inverse of the Hessian on the support.
    starts : integer array of shape (k + 1,)
        Where each group of the support begins.
    gradient : array of shape (p, q)
        Gradient at the fit.
    allowed : boolean array of shape (k, N) or None
        Which exchanges may be made.

    Returns
    -------
    gain : array of shape (N,)
        Decrease of the quadratic model by the best exchange.
    out : integer array of shape (N,)
        Position in the support of the group that leaves.
    """
    real = table >= 0
    both = real[:, :, None] & real[:, None, :]
    Ct = (C[:, table] * real).transpose(1, 2, 0)  # N, m, K
    Wt = (W[:, table] * real).transpose(1, 2, 0)
    own = np.where(both, blocks, 0.0)
    left = own - Ct @ Wt.transpose(0, 2, 1)
    diagonal = np.einsum("nii->ni", own)
    scale = np.where(real & (diagonal > 0), diagonal, 1.0)
    # a padded or empty column gets a large diagonal and so brings nothing
    ridge = np.where(real & (diagonal > 0), FLOOR * scale, 1.0)
    g = -gradient[np.where(real, table, 0)] * real[:, :, None]  # N, m, q
    k = len(starts) - 1
    gain = np.full((k, len(table)), -np.inf)
    for h in range(k):
        D = slice(starts[h], starts[h + 1])
        M = np.linalg.inv(P[D, D])
        WM = Wt[:, :, D] @ M
        c = g + WM @ z[D]
        S = left + WM @ Wt[:, :, D].transpose(0, 2, 1)
        S = S + ridge[:, :, None] * np.eye(S.shape[1])
        gain[h] = 0.5 * np.einsum("nmq,nmq->n", c, np.linalg.solve(S, c))
        gain[h] -= 0.5 * np.sum(z[D] * (M @ z[D]))
    if allowed is not None:
        gain[~allowed] = -np.inf
    out = np.argmax(gain, axis=0)
    return np.take_along_axis(gain, out[None], axis=0)[0], out


def products(
    A: Real, w: Real, X: Real, threads: int = 1, center: Real | None = None
) -> Any:
    """Weighted products of a few columns with many, ``A^T diag(w) X``.

    Parameters
    ----------
    A : array of shape (n, k)
        The few.
    w : array of shape (n,)
        Row weights.
    X : array of shape (n, p)
        The many; each row in one piece.
    threads : int, default=1
        Most threads to use.
    center : array of shape (p,), optional
        If given, what `column_sums` would return is wanted too, from the same pass.

    Returns
    -------
    array of shape (k, p), or that and two arrays of shape (p,)
        The products; with `center` also the sums.
    """
    del threads  # the matrix library has a setting of its own
    C = (A * w[:, None]).T @ X
    return C if center is None else (C, *column_sums(X, w, center))


def gram(A: Real, w: Real, threads: int = 1) -> Real:
    """Weighted products of columns with one another, ``A^T diag(w) A``.

    Parameters
    ----------
    A : array of shape (n, k)
        The columns.
    w : array of shape (n,)
        Row weights.
    threads : int, default=1
        Most threads to use.

    Returns
    -------
    array of shape (k, k)
        The products.
    """
    G: Real = products(A, w, A, threads)
    return G


def column_sums(X: Real, w: Real, center: Real | None = None) -> tuple[Real, Real]:
    """Weighted sums of squares of columns, and of their entries.

    Parameters
    ----------
    X : array of shape (n, p)
        The columns; each row in one piece.
    w : array of shape (n,)
        Row weights.
    center : array of shape (p,) or None
        What to take off each column first.

    Returns
    -------
    squares : array of shape (p,)
        Sums of squares.
    left : array of shape (p,)
        Sums of entries; zero without `center`.
    """
    n, p = X.shape
    squares, left = np.zeros(p, X.dtype), np.zeros(p, X.dtype)
    height = max(1, CHUNK // max(p, 1))
    for start in range(0, n, height):
        strip = slice(start, min(start + height, n))
        part = X[strip, :]
        if center is not None:
            part = part - center[None, :]
            left += w[strip] @ part
        squares += w[strip] @ (part * part)
    return squares, left


def block_grams(X: Real, table: Ints, w: Real, center: Real | None = None) -> Real:
    """Weighted products within groups of columns.

    Parameters
    ----------
    X : array of shape (n, p)
        The columns; each row in one piece.
    table : integer array of shape (N, m)
        Columns of each group, padded with -1 at the end.
    w : array of shape (n,)
        Row weights.
    center : array of shape (p,) or None
        What to take off each column first.

    Returns
    -------
    array of shape (N, m, m)
        Zero where the table is padded.
    """
    out = np.zeros((*table.shape, table.shape[1]), X.dtype)
    for g, row in enumerate(table):
        ids = row[row >= 0]
        A = X[:, ids] if center is None else X[:, ids] - center[ids]
        out[g, : len(ids), : len(ids)] = A.T @ (A * w[:, None])
    return out


def sparse_products(
    starts: Ints,
    indices: Ints,
    data: Real,
    w: Real,
    row_starts: Ints,
    row_indices: Ints,
    row_data: Real,
    p: int,
    first: int,
    stop: int,
) -> Real:
    """Weighted products of a few sparse columns with many, ``A^T diag(w) X``.

    Parameters
    ----------
    starts, indices, data : arrays
        A by columns: (k + 1,), and one entry for each number.
    w : array of shape (n,)
        Row weights.
    row_starts, row_indices, row_data : arrays
        X by rows.
    p : int
        Columns of X.
    first, stop : int
        The run of its columns that is wanted.

    Returns
    -------
    array of shape (k, stop - first)
        The products, dense.
    """
    n = len(w)
    A = csc_array((data, indices, starts), shape=(n, len(starts) - 1))
    X = csr_array((row_data, row_indices, row_starts), shape=(n, p))
    C: Real = (A.T @ (csr_array(X) * w[:, None])).toarray()
    return np.ascontiguousarray(C[:, first:stop])


def sparse_gram(starts: Ints, indices: Ints, data: Real, w: Real, k: int) -> Real:
    """Weighted products of sparse columns with one another, ``A^T diag(w) A``.

    Parameters
    ----------
    starts, indices, data : arrays
        A by rows: (n + 1,), and one entry for each number.
    w : array of shape (n,)
        Row weights.
    k : int
        Columns of A.

    Returns
    -------
    array of shape (k, k)
        The products, dense.
    """
    A = csr_array((data, indices, starts), shape=(len(w), k))
    G: Real = (A.T @ (A * w[:, None])).toarray()
    return G
