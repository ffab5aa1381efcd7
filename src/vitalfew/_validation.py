"""Checks of what the user gives, each naming the argument, the rule and the value."""

import math
import numbers
from typing import Any

import numpy as np
import scipy.sparse

from vitalfew._arrays import is_array_api_obj, namespace, to_host
from vitalfew.contracts import Array, Ints


def check_count(
    name: str, value: Any, least: int, most: int | None = None, why: str = ""
) -> int:
    """Return an integer between two bounds, or say what is wrong with it."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or int(value) < least or (most is not None and int(value) > most):
        rule = f"of at least {least}" if most is None else f"from {least} to {most}"
        why = f" ({why})" if why else ""
        raise ValueError(f"{name} must be an integer {rule}{why}, got {value!r}")
    return int(value)


def check_density(value: Any) -> float:
    """Return a fraction above zero and at most one."""
    if not isinstance(value, numbers.Real) or not 0 < float(value) <= 1:
        raise ValueError(f"density must lie in (0, 1], got {value!r}")
    return float(value)


def check_nonnegative(name: str, value: Any) -> float:
    """Return a finite number that is not negative."""
    if (
        not isinstance(value, numbers.Real)
        or not math.isfinite(float(value))
        or float(value) < 0
    ):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return float(value)


def check_labels(labels: Any, name: str = "labels") -> Ints:
    """Return group labels as integers that run from 0 without a gap."""
    given = np.asarray(to_host(labels) if is_array_api_obj(labels) else labels)
    if given.size == 0:
        raise ValueError(f"{name} must not be empty")
    if given.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got dtype {given.dtype}")
    if given.min() < 0:
        raise ValueError(f"{name} must not be negative, got {int(given.min())}")
    used = np.unique(given)
    largest = int(used[-1])
    if largest >= len(used):  # not by counting, which a huge label would make huge
        gap = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise ValueError(
            f"{name} must give every group from 0 to {largest} a member, but group "
            f"{gap} is empty ({largest + 1 - len(used)} empty in all); number the "
            "groups without gaps"
        )
    return given.astype(np.int64)


def check_finite(name: str, x: Any) -> None:
    """Raise if an array holds NaN or infinity, saying how many and where."""
    if scipy.sparse.issparse(x):
        sparse: Any = x
        values = sparse.data
    else:
        xp = namespace(x)
        if bool(xp.isfinite(xp.sum(x))):
            return
        values = to_host(x)
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    first = np.argwhere(bad)[0].tolist()
    where = "" if scipy.sparse.issparse(x) else f", the first at {first}"
    kind = "NaN" if np.isnan(values[bad][0]) else "infinity"
    raise ValueError(
        f"{name} must be finite, but {int(bad.sum())} of its values are not{where} "
        f"({kind}); impute or drop them first"
    )


def check_rows(name: str, y: Any, n: int) -> None:
    """Raise unless `y` has one entry for each of the `n` rows of X."""
    if y.ndim == 0 or y.shape[0] != n:
        raise ValueError(
            f"{name} must have one entry for each of the {n} rows of X, "
            f"got shape {tuple(y.shape)}"
        )


def check_weights(weights: Array, n: int) -> None:
    """Raise unless weights are finite, not negative and not all zero."""
    host = to_host(weights)
    if host.shape != (n,):
        raise ValueError(
            f"sample_weight must have shape ({n},), one entry for each row of X, "
            f"got shape {host.shape}"
        )
    check_finite("sample_weight", weights)
    if host.min() < 0:
        raise ValueError(f"sample_weight must not be negative, got {host.min():g}")
    if not host.max() > 0:
        raise ValueError("sample_weight must not be all zero")


def check_rng(rng: Any) -> np.random.Generator:
    """Return a generator from a generator, a seed or None."""
    if rng is None or (isinstance(rng, numbers.Integral) and int(rng) >= 0):
        return np.random.default_rng(None if rng is None else int(rng))
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, np.random.RandomState):
        return np.random.default_rng(rng.randint(2**31 - 1))
    raise ValueError(
        f"rng must be None, an integer >= 0 or a numpy.random.Generator, got {rng!r}"
    )
