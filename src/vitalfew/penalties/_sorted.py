"""The sorted L1 norm of nonnegative numbers, on the host.

The k-th largest number pays the k-th of a nonincreasing sequence. Over the numbers in
their order this is linear, so everything follows from sums over the k largest.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def check_lambdas(lambdas: Any) -> Floats | None:
    """Return a nonincreasing sequence of nonnegative numbers as an array."""
    if lambdas is None:
        return None
    given = np.asarray(lambdas, np.float64)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"lambdas must be a sequence, got shape {given.shape}")
    if not np.all(np.isfinite(given)) or given[-1] < 0 or np.any(np.diff(given) > 0):
        raise ValueError("lambdas must be finite, nonincreasing and not negative")
    return given


def check_rate(q: Any) -> None:
    """Raise unless a false discovery rate lies between 0 and 1."""
    if not 0 < q < 1:
        raise ValueError(f"q must lie between 0 and 1, got {q!r}")


def descending(sizes: Floats) -> Ids:
    """Positions of the numbers, largest first."""
    return np.argsort(-sizes, kind="stable")


def norm(sizes: Floats, lambdas: Floats) -> float:
    """Return ``sum_k lambdas_k sizes_(k)``, the largest size first."""
    return float(np.sort(sizes)[::-1] @ lambdas)


def dual_norm(sizes: Floats, lambdas: Floats) -> float:
    """Return the largest ratio of the sums of the k largest sizes and lambdas."""
    if not sizes.any():
        return 0.0
    sums = np.cumsum(np.sort(sizes)[::-1])
    if not lambdas[0] > 0:
        return float("inf")
    return float(np.max(sums / np.cumsum(lambdas)))


def shrink(sizes: Floats, lambdas: Floats) -> Floats:
    """Return argmin_m ``|m - sizes|^2 / 2 + norm(m)`` over m >= 0.

    In the order of the sizes it is an isotonic regression, clipped at zero: exact, in
    the time of a sort.
    """
    from scipy.optimize import isotonic_regression  # slow to import

    if not np.all(np.isfinite(sizes)):
        return np.full_like(sizes, np.nan)
    order = descending(sizes)
    fitted = isotonic_regression(sizes[order] - lambdas, increasing=False).x
    m = np.empty_like(sizes)
    m[order] = np.maximum(fitted, 0.0)
    return m


def shrink_weighted(sizes: Floats, curvature: Floats, lambdas: Floats) -> Floats:
    """Return argmin_m ``sum_i c_i (m_i - sizes_i)^2 / 2 + norm(m)`` over m >= 0.

    Unequal curvatures c may change the order. The norm is the Lovász extension of
    ``S -> sum of the first |S| lambdas``, so a set either shares one value, or splits
    into a part above its mean and a part below: the decomposition algorithm. Splitting
    at zero first leaves only what is not zero. Each round costs a sort.
    """
    if np.all(curvature == curvature[0]):
        return shrink(sizes, lambdas / curvature[0])
    if not np.all(np.isfinite(sizes)):
        return np.full_like(sizes, np.nan)

    def above(ids: Ids, begin: int, level: float) -> tuple[Ids, int]:
        """Order members by their pull upwards, and say how many of them go there."""
        pull = curvature[ids] * (sizes[ids] - level)
        order = descending(pull)
        own = lambdas[begin : begin + len(ids)]
        gain = np.cumsum(pull[order] - own)
        best = int(np.argmax(gain))
        rounding = 1e-14 * (np.abs(pull).sum() + own.sum())
        return ids[order], best + 1 if gain[best] > rounding else 0

    m = np.zeros_like(sizes)
    ids, count = above(np.arange(len(sizes)), 0, 0.0)
    parts = [(ids[:count], 0)]  # members, and how many lambdas come before
    while parts:
        ids, begin = parts.pop()
        if not len(ids):
            continue
        c, own = curvature[ids], lambdas[begin : begin + len(ids)]
        level = (c @ sizes[ids] - own.sum()) / c.sum()
        ids, count = above(ids, begin, level)
        if 0 < count < len(ids):
            parts.append((ids[:count], begin))
            parts.append((ids[count:], begin + count))
        else:
            m[ids] = level
    return np.maximum(m, 0.0)


def distance(m: Floats, slopes: Floats, lambdas: Floats, rough: float) -> float:
    """Sup-norm distance of slopes to the subdifferential at m >= 0.

    Numbers within `rough` of the next, relatively, count as equal. Numbers that share a
    value share a run of lambdas, and their slopes must be in the convex hull of its
    permutations. A box of half-width d around the slopes meets the hull exactly if no k
    largest exceed the k largest lambdas by more than k d, and no k smallest fall short
    of the k smallest by more. At zero any signs are allowed: only excess counts.

    Parameters
    ----------
    m : array of shape (p,)
        The point.
    slopes : array of shape (p,)
        Slopes, for entries at zero their sizes.
    lambdas : array of shape (p,)
        The sequence.
    rough : float
        Relative size of a gap that is rounding.

    Returns
    -------
    float
        The distance.
    """
    order = descending(m)
    falling = m[order]
    jump = falling[:-1] - falling[1:] > rough * falling[:-1]
    block = np.concatenate(([0], np.cumsum(jump)))
    # within a block the largest slope first
    order = order[np.lexsort((-slopes[order], block))]
    begin = np.flatnonzero(np.concatenate(([True], jump)))
    size = np.diff(np.concatenate((begin, [len(m)])))
    rank = np.arange(len(m)) - begin[block]
    excess = slopes[order] - lambdas
    sums = np.cumsum(excess)
    before = np.concatenate(([0.0], sums))[begin]
    sums = sums - before[block]
    total = np.concatenate((sums, [0.0]))[begin + size - 1]
    above = sums / (rank + 1)
    # what the others lack when the first `rank` of a block are left out
    below = (sums - excess - total[block]) / (size[block] - rank)
    below = np.where(m[order] > 0, below, 0.0)
    return float(max(0.0, np.max(above), np.max(below)))
