"""Recognising what X is."""

from typing import Any

import numpy as np
import scipy.sparse

from vitalfew._arrays import is_array_api_obj, is_numpy_array, namespace
from vitalfew.designs._base import Design
from vitalfew.designs.dense import Dense
from vitalfew.designs.sparse import Sparse


def as_design(X: Any) -> Design:
    """Return X as a design, without copying where its numbers are floating-point.

    Parameters
    ----------
    X : Design, array of shape (n, p), SciPy sparse matrix or array, or table
        Integers and booleans become float64, half precision becomes float32.

    Returns
    -------
    Design
        What objectives work with.

    Raises
    ------
    ValueError
        If X has not two dimensions, is empty or does not hold real numbers.
    """
    if isinstance(X, Design):
        return X
    if scipy.sparse.issparse(X):
        given: Any = X
        _check_shape(given.shape)
        if given.format in ("csr", "csc"):
            try:  # indices out of range would crash the process, not raise
                given.check_format(full_check=True)
            except ValueError as error:
                raise ValueError(f"X must be a valid sparse matrix: {error}") from error
        return Sparse(given.astype(_float_type(given.dtype), copy=False))
    if not is_array_api_obj(X):
        X = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(
            f"X must have two dimensions, (n_samples, n_features), got shape "
            f"{tuple(X.shape)}; reshape a single feature with X.reshape(-1, 1)"
        )
    _check_shape(X.shape)
    if np.ma.is_masked(X):
        raise ValueError("X must not hold masked values; impute or drop them first")
    if is_numpy_array(X):
        return Dense(np.asarray(X, dtype=_float_type(X.dtype)))
    xp = namespace(X)
    if xp.isdtype(X.dtype, ("bool", "integral")):
        X = xp.astype(X, xp.float64)
    elif not xp.isdtype(X.dtype, "real floating"):
        raise ValueError(f"X must hold real numbers, got dtype {X.dtype}")
    elif X.dtype not in (xp.float32, xp.float64):
        X = xp.astype(X, xp.float32)
    return Dense(X)


def _check_shape(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise ValueError(
            f"X must have at least one row and one column, got shape {tuple(shape)}"
        )


def _float_type(dtype: Any) -> Any:
    if dtype in (np.float32, np.float64):
        return dtype
    if dtype == np.float16:
        return np.float32
    if dtype.kind in "biuf":
        return np.float64
    if dtype.kind == "O":
        return np.float64  # numbers held as objects; others fail with NumPy's message
    raise ValueError(f"X must hold real numbers, got dtype {dtype}")
