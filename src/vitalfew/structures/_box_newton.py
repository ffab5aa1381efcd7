"""Minimising an objective over the coordinates of a support within bounds."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from vitalfew._arrays import as_array, precision, to_host
from vitalfew.contracts import Fit, HasCurvature, Objective, follows

Floats = NDArray[np.float64]

MOST_STEPS = 500
MOST_DAMPINGS = 40
TINY = 1e-12
FLAT = 1e-280  # curvature that is none: products of less are no numbers


def shift_onto(x: Floats, low: Floats, high: Floats, total: float) -> Floats:
    """Project onto ``low <= z <= high, sum z = total``.

    Parameters
    ----------
    x : array of shape (m,)
        The point.
    low, high : arrays of shape (m,)
        Bounds; may be infinite.
    total : float
        Sum; where the bounds do not reach it, the nearest end of the box is returned.

    Returns
    -------
    array of shape (m,)
        ``clip(x - t, low, high)`` with the t at which the sum is right.

    Notes
    -----
    The sum falls along t, in pieces that are lines: a bisection over the ends of the
    pieces finds the right one, and the line the rest. O(m log m).

    References
    ----------
    .. [1] P. Brucker, "An O(n) algorithm for quadratic knapsack problems", Oper. Res.
       Lett., 1984.
    """

    def at(t: float) -> Floats:
        return np.clip(x - t, low, high)

    ends = np.unique(np.concatenate((x - low, x - high)))
    ends = ends[np.isfinite(ends)]
    first, last = 0, len(ends)  # the sum passes the total before `ends[last]`
    while first < last:
        middle = (first + last) // 2
        if at(ends[middle]).sum() > total:
            first = middle + 1
        else:
            last = middle
    if first == 0:
        before = ends[0] - 1 if len(ends) else 0.0
    elif first == len(ends):
        before = ends[-1] + 1
    else:
        before = (ends[first - 1] + ends[first]) / 2
    moving = (x - before > low) & (x - before < high)
    if not moving.any():
        edge = ends[min(first, len(ends) - 1)] if len(ends) else 0.0
        return at(edge)
    z = at(before)
    fixed = z[~moving].sum()
    t = (x[moving].sum() + fixed - total) / np.count_nonzero(moving)
    return at(t)


def box_quadratic(
    H: Floats, g: Floats, low: Floats, high: Floats, balanced: bool
) -> Floats:
    """Minimise ``<g, d> + d^T H d / 2`` over ``low <= d <= high``.

    Parameters
    ----------
    H : array of shape (m, m)
        Symmetric, positive definite.
    g : array of shape (m,)
        Slope at zero.
    low, high : arrays of shape (m,)
        Bounds, ``low <= 0 <= high``; may be infinite.
    balanced : bool
        Whether d must sum to zero as well.

    Returns
    -------
    array of shape (m,)
        The minimiser.

    Notes
    -----
    A primal active-set method: each step costs a solve of the free coordinates and
    lowers the quadratic; there are seldom more than a few times m.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, "Numerical optimization", 2nd ed., Springer, 2006,
       Algorithm 16.3.
    """
    m, d, slope = len(g), np.zeros(len(g)), g.copy()
    unit = np.sqrt(np.diagonal(H))
    level = np.median(g) if balanced and m else 0.0
    free = ~((low >= 0) & (g > level) | (high <= 0) & (g < level))
    for _ in range(20 * m + 100):
        ids = np.flatnonzero(free)
        if len(ids):
            factor = cho_factor(H[np.ix_(ids, ids)], lower=True, check_finite=False)
            step = -cho_solve(factor, slope[ids], check_finite=False)
            if balanced:
                ones = cho_solve(factor, np.ones(len(ids)), check_finite=False)
                step -= ones * (step.sum() / ones.sum())
            room = np.where(step > 0, high[ids] - d[ids], low[ids] - d[ids])
            with np.errstate(divide="ignore", invalid="ignore"):
                reach = np.where(step != 0, room / step, np.inf)
            nearest = int(np.argmin(reach))
            t = min(1.0, max(0.0, reach[nearest]))
            d[ids] += t * step
            slope = g + H @ d
            if t < 1:
                stuck = ids[nearest]
                d[stuck] = high[stuck] if step[nearest] > 0 else low[stuck]
                free[stuck] = False
                continue
        # prices are those of moving up or down against the coordinates that are free
        tolerance = TINY * unit * np.max((np.abs(g) + np.abs(slope)) / unit, initial=0)
        up = np.where(~free & (d < high), slope, np.inf)
        down = np.where(~free & (d > low), slope, -np.inf)
        if not balanced or len(ids):
            price = slope[ids].mean() if balanced else 0.0
            gain = np.maximum(price - up, down - price) - tolerance
            worst = int(np.argmax(gain)) if m else 0
            if not m or gain[worst] <= 0:
                return d
            free[worst] = True
        else:
            i, j = int(np.argmin(up)), int(np.argmax(down))
            if not down[j] - up[i] > tolerance[i] + tolerance[j]:
                return d
            free[[i, j]] = True
    return d


def minimise_within(
    objective: Objective, support: Any, z: Floats, low: Floats, high: Floats, sums: bool
) -> Fit:
    """Minimise an objective over a support within bounds.

    Parameters
    ----------
    objective : Objective
        Convex, for the minimum to be global.
    support : Span
        Where.
    z : array of shape (m,)
        A feasible start.
    low, high : arrays of shape (m,)
        Bounds of the coordinates.
    sums : bool
        Whether the sum of the coordinates is to stay what it is.

    Returns
    -------
    Fit
        The minimiser.

    Notes
    -----
    Newton's method whose steps minimise the quadratic within the bounds (sequential
    quadratic programming); an objective without a Hessian gets that of BFGS. A step
    costs a gradient, a Hessian on the support, and `box_quadratic`.
    """
    fit = objective.at(support, as_array(z, objective.like))
    if not len(z):
        return fit
    eps = precision(objective.like)
    exact = follows(objective, HasCurvature)
    tolerance = (0.01 if exact else 4) * eps
    g, H, stalled = _host(support.restrict(fit.gradient)), None, 0
    for _ in range(MOST_STEPS):
        if exact:
            H = _host(objective.hessian(fit, support))  # type: ignore[attr-defined]
        elif H is None:
            H = np.eye(len(z)) * max(1.0, float(np.linalg.norm(g)))
        z = _host(fit.z)
        d = box_quadratic(
            _damped(H, eps), g, np.minimum(low - z, 0), np.maximum(high - z, 0), sums
        )
        slope = float(g @ d)
        # the last steps sharpen the point by more than the value shows
        last = not -slope > tolerance * max(abs(fit.value), 1e-10)
        most = fit.value + 4 * eps * abs(fit.value)
        new, t = _moved(objective, support, z + d, low, high), 1.0
        while not new.value <= most + 1e-4 * t * slope:
            t /= 2
            if last or t < 1e-10:
                return fit
            new = _moved(objective, support, z + t * d, low, high)
        stalled = 0 if new.value < fit.value else stalled + 1
        if last or stalled == 5:
            return new
        before, fit = g, new
        g = _host(support.restrict(fit.gradient))
        if not exact:
            H = _bfgs(H, _host(fit.z) - z, g - before)
    return fit


def _damped(H: Floats, eps: float) -> Floats:
    """Make a Hessian definite: duplicates share, and what no row sees stays."""
    diagonal = np.diagonal(H)
    more = np.where(diagonal > FLAT, max(1e-10, 100 * eps) * diagonal, 1.0)
    largest = float(np.max(diagonal))
    damped: Floats = H + np.diag(more)
    for _ in range(MOST_DAMPINGS):
        unit = np.sqrt(np.diagonal(damped))
        margin = 20 * len(H) * np.finfo(np.float64).eps  # that of every block, too
        try:
            np.linalg.cholesky(damped / np.outer(unit, unit) - margin * np.eye(len(H)))
            break
        except np.linalg.LinAlgError:  # rounding left it with falling directions
            more = np.maximum(10 * more, eps * largest)
            damped = H + np.diag(more)
    return damped


def _moved(objective: Any, support: Any, z: Floats, low: Floats, high: Floats) -> Fit:
    inside = np.clip(z, low, high)
    with np.errstate(over="ignore", invalid="ignore"):  # of trial points, refused
        fit: Fit = objective.at(support, as_array(inside, objective.like))
    return fit


def _bfgs(H: Floats, moved: Floats, change: Floats) -> Floats:
    """Update a Hessian by the secant equation, where the curvature is positive."""
    Hs, sy = H @ moved, float(moved @ change)
    sHs = float(moved @ Hs)
    if not (sy > 1e-12 * sHs and math.isfinite(sy)):
        return H
    return H + np.outer(change, change) / sy - np.outer(Hs, Hs) / sHs


def _host(values: Any) -> Floats:
    return np.asarray(to_host(values), np.float64)
