"""The best integer points on a few yes-or-no items, with proof."""

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from vitalfew.contracts import Ints

Floats = NDArray[np.float64]

TOLERANCE = 1e-6  # of a loss, relatively: what is closer counts as equal
ROUNDING = 1e-12  # taken off every bound
LEAST_SCALE = 1e-6
MOST_NEWTON_STEPS = 60


@dataclass(frozen=True, eq=False)
class Card:
    """Points with their calibration: the risk is ``expit(scale * total + shift)``.

    Attributes
    ----------
    points : integer array of shape (k,)
        One for each item.
    scale, shift : float
        Calibration; the scale is not negative.
    value : float
        Mean log loss plus the ridge.
    """

    points: Ints
    scale: float
    shift: float
    value: float


@dataclass(frozen=True, eq=False)
class Patterns:
    """Rows that agree on all items, counted once.

    The loss of coefficients z is the weighted mean of the log loss of ``A z + b`` at
    the best b, plus ``l2 / 2 |z|^2``.

    Attributes
    ----------
    A : array of shape (m, k)
        The distinct rows of zeros and ones.
    ones, zeros : arrays of shape (m,)
        Weight of the rows of either class; together they sum to one.
    l2 : float
        Ridge, positive.
    """

    A: Floats
    ones: Floats
    zeros: Floats
    l2: float

    @classmethod
    def of(cls, items: NDArray[Any], y: Floats, w: Floats, l2: float) -> Self:
        """Count the distinct rows of a table of zeros and ones.

        Parameters
        ----------
        items : array of shape (n, k)
            The table.
        y : array of shape (n,)
            Classes, 0 or 1.
        w : array of shape (n,)
            Weights that sum to one.
        l2 : float
            Ridge.

        Returns
        -------
        Patterns
            The distinct rows with their weights.
        """
        k = items.shape[1]  # at most 50: the number of a pattern is exact
        numbers = items @ 2.0 ** np.arange(k)
        _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        A = items[first]
        ones = np.bincount(which, w * y, len(A)).astype(np.float64)
        zeros = np.bincount(which, w * (1 - y), len(A)).astype(np.float64)
        return cls(A, ones, zeros, l2)

    def _log_loss(self, eta: Floats) -> Any:
        above, below = np.logaddexp(0, -eta), np.logaddexp(0, eta)
        return above @ self.ones + below @ self.zeros

    def shift(self, eta: Floats, b: float) -> float:
        """Return the best b for predictors ``eta + b``, by Newton within a bracket."""
        w, target = self.ones + self.zeros, self.ones.sum()
        reach = float(np.abs(eta).max(initial=0)) + 40.0
        low, high = -reach, reach
        for _ in range(200):
            p = expit(eta + b)
            slope = float(w @ p - target)
            low, high = (low, b) if slope > 0 else (b, high)
            step = slope / max(float(w @ (p * (1 - p))), 1e-300)
            new = b - step if low < b - step < high else (low + high) / 2
            if abs(new - b) <= 1e-14 * (1 + abs(b)):
                break
            b = new
        return b

    def value(self, z: Floats, b: float) -> tuple[float, float]:
        """Return the loss of coefficients and their best shift, sought from `b`."""
        eta = self.A @ z
        b = self.shift(eta, b)
        return float(self._log_loss(eta + b)) + self.l2 / 2 * float(z @ z), b

    def slopes(self, z: Floats, b: float) -> tuple[Floats, Floats]:
        """Return the gradient and the Hessian of the loss, the shift minimised out."""
        w, p = self.ones + self.zeros, expit(self.A @ z + b)
        c = w * p * (1 - p)
        g = self.A.T @ (w * p - self.ones) + self.l2 * z
        crossed = self.A.T @ c
        H = (self.A.T * c) @ self.A
        H -= np.outer(crossed, crossed) / max(float(c.sum()), 1e-300)
        return g, H + self.l2 * np.eye(len(z))

    def calibrate(self, points: Ints) -> tuple[Floats, Floats, Floats]:
        """Fit a scale and a shift to each of several vectors of points.

        Parameters
        ----------
        points : integer array of shape (c, k)
            The vectors.

        Returns
        -------
        value, scale, shift : arrays of shape (c,)
            Their losses and calibrations.
        """
        totals = points @ self.A.T
        w, ridge = self.ones + self.zeros, self.l2 * np.sum(points**2, axis=1)
        null = float(self.shift(np.zeros(len(w)), 0.0))
        scale, shift = np.zeros(len(points)), np.full(len(points), null)

        def loss(s: Floats, b: Floats) -> Floats:
            found: Floats = self._log_loss(s[:, None] * totals + b[:, None])
            found += ridge / 2 * s * s
            return found

        value = loss(scale, shift)
        for _ in range(MOST_NEWTON_STEPS):
            p = expit(scale[:, None] * totals + shift[:, None])
            r, c = w * p - self.ones, w * p * (1 - p)
            gs, gb = np.sum(r * totals, axis=1) + ridge * scale, r.sum(axis=1)
            hss = np.sum(c * totals**2, axis=1) + ridge
            hsb, hbb = np.sum(c * totals, axis=1), c.sum(axis=1)
            det = np.maximum(hss * hbb - hsb**2, 1e-300)
            ds, db = (hsb * gb - hbb * gs) / det, (hsb * gs - hss * gb) / det
            fall, t = -(gs * ds + gb * db), np.ones(len(points))
            for _ in range(30):
                tried = loss(scale + t * ds, shift + t * db)
                bad = ~(tried <= value - 1e-4 * t * fall)
                if not np.any(bad & (fall > 1e-14)):
                    break
                t = np.where(bad, t / 2, t)
            better = tried < value
            if not better.any():
                break
            scale = np.where(better, scale + t * ds, scale)
            shift = np.where(better, shift + t * db, shift)
            value = np.where(better, tried, value)
        useless = scale <= 0
        scale, shift = np.where(useless, 0, scale), np.where(useless, null, shift)
        return loss(scale, shift), scale, shift

    def best_of(self, points: Ints) -> Card:
        """Return the best of several vectors of points, calibrated."""
        value, scale, shift = self.calibrate(points)
        i = int(np.argmin(value))
        return Card(points[i], float(scale[i]), float(shift[i]), float(value[i]))


# -- heuristics ------------------------------------------------------------------------


def rounded(patterns: Patterns, z: Floats, most: int) -> Card:
    """Round coefficients at many scales, then change single points while it helps.

    Parameters
    ----------
    patterns : Patterns
        The data.
    z : array of shape (k,)
        Coefficients.
    most : int
        Largest number of points of an item.

    Returns
    -------
    Card
        The best points found.
    """
    k, largest = len(z), float(np.abs(z).max(initial=0))
    if not largest:
        return patterns.best_of(np.zeros((1, k), np.int64))
    grid = np.linspace(0.6, most + 0.49, 12 * most)
    tried = np.unique(np.rint(np.outer(grid, z / largest)).astype(np.int64), axis=0)
    best = patterns.best_of(np.clip(tried, -most, most))
    values = np.arange(-most, most + 1)
    while True:
        near = np.repeat(best.points[None], k * len(values), axis=0)
        near[np.arange(len(near)), np.repeat(np.arange(k), len(values))] = np.tile(
            values, k
        )
        found = patterns.best_of(near)
        if not found.value < best.value * (1 - 1e-9):
            return best
        best = found


# -- relaxation ------------------------------------------------------------------------


def bound(
    value: float, g: Floats, z: Floats, low: Floats, high: Floats, l2: float
) -> float:
    """Lower bound of the loss over ``low s <= z <= high s, s >= 0``, from any point.

    Parameters
    ----------
    value : float
        The loss at `z`.
    g : array of shape (k,)
        Its gradient there.
    z : array of shape (k,)
        The point; it need not be the minimiser.
    low, high : arrays of shape (k,)
        The box of points.
    l2 : float
        Ridge, which makes the loss strongly convex.

    Returns
    -------
    float
        The bound; it is the minimum if `z` is the minimiser.

    Notes
    -----
    The feasible z are a cone. For u in its dual cone, ``<u, z'> >= 0`` for each of
    them, and with the ridge the loss at z' is at least
    ``value - <u, z> - |g - u|^2 / (2 l2)``. The gradient is in the dual cone at the
    minimiser; elsewhere the u is used that scales down what keeps it out.
    """
    least = np.where(g > 0, g * low, g * high)  # <g, .> over the box, in parts
    gain, loss = least[least > 0].sum(), -least[least < 0].sum()
    factor = min(1.0, gain / loss) * (1 - 1e-14) if loss > 0 else 1.0
    u = np.where(least < 0, factor * g, g)
    off = g - u
    return float(value - u @ z - off @ off / (2 * l2) - ROUNDING)


def cone_quadratic(
    H: Floats, g: Floats, z: Floats, s: float, low: Floats, high: Floats
) -> tuple[Floats, float]:
    """Minimise ``<g, d> + d^T H d / 2`` over ``low s <= z + d <= high s, s >= 0``.

    Parameters
    ----------
    H : array of shape (k, k)
        Symmetric, positive definite.
    g : array of shape (k,)
        Slope at `z`.
    z : array of shape (k,)
        A feasible point.
    s : float
        Its scale, positive.
    low, high : arrays of shape (k,)
        The box of points.

    Returns
    -------
    z : array of shape (k,)
        The minimiser.
    s : float
        Its scale.

    Notes
    -----
    A primal active-set method over z and s, as in Nocedal and Wright, "Numerical
    optimization", 2006, Algorithm 16.3.
    """
    k, fixed = len(z), low == high
    slope = g.copy()
    below = fixed | ((z <= low * s) & (slope > 0))
    above = ~below & (z >= high * s) & (slope < 0)
    floored = s <= LEAST_SCALE
    enough = 1e-13 * (1 + np.abs(g).max(initial=0))
    for _ in range(10 * k + 50):
        free = ~(below | above)
        edge = np.where(below, low, np.where(above, high, 0.0))
        scaled = bool(edge.any()) and not floored
        E = np.eye(k)[:, free]
        if scaled:
            E = np.column_stack((E, edge))
        if E.shape[1]:
            step = -np.linalg.solve(E.T @ H @ E, E.T @ slope)
            d, ds = E @ step, float(step[-1]) if scaled else 0.0
            speed_low, speed_high = d - low * ds, high * ds - d
            with np.errstate(divide="ignore", invalid="ignore"):
                t_low = np.where(speed_low < 0, (low * s - z) / speed_low, np.inf)
                t_high = np.where(speed_high < 0, (z - high * s) / speed_high, np.inf)
            t_low[~free] = t_high[~free] = np.inf
            i, j = int(np.argmin(t_low)), int(np.argmin(t_high))
            t_floor = (LEAST_SCALE - s) / ds if ds < 0 else np.inf
            t = max(0.0, min(1.0, float(t_low[i]), float(t_high[j]), t_floor))
            z, s, slope = z + t * d, s + t * ds, slope + t * (H @ d)
            if t < 1:
                if t == t_floor:
                    floored = True
                elif t_low[i] <= t_high[j]:
                    below[i] = True
                else:
                    above[j] = True
                continue
        pull = np.where(below & ~fixed, -slope, np.where(above, slope, -np.inf))
        worst = int(np.argmax(pull))
        if pull[worst] > enough:
            below[worst] = above[worst] = False
        elif floored and slope @ edge < -enough:
            floored = False
        else:
            break
    return z, s


@dataclass(frozen=True, eq=False)
class _Node:
    """A box of points with the minimiser of its relaxation."""

    low: Ints
    high: Ints
    z: Floats
    s: float
    b: float
    lower: float

    def finest(self) -> Floats:
        """Return points, not whole, at the least scale the relaxation allows."""
        z, low, high = self.z, self.low.astype(float), self.high.astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.where(z > 0, z / high, np.where(z < 0, z / low, 0.0))
        # ends of the box beyond zero, on the other side, ask for a scale of their own
        needed = np.where((z > 0) & (high <= 0) | (z < 0) & (low >= 0), 0.0, needed)
        s = float(needed.max(initial=0.0))
        s = s if s > 0 else self.s
        return np.clip(z / s, low, high)


def relaxed(
    patterns: Patterns,
    low: Ints,
    high: Ints,
    z: Floats,
    s: float,
    b: float,
    cutoff: float,
) -> _Node:
    """Minimise the loss over all scales of a box of points.

    Parameters
    ----------
    patterns : Patterns
        The data.
    low, high : integer arrays of shape (k,)
        The box.
    z : array of shape (k,)
        Where to begin; brought into the cone.
    s : float
        Its scale.
    b : float
        Its shift.
    cutoff : float
        A bound at which it may stop: what is above is of no interest.

    Returns
    -------
    node
        With a bound that holds however far the minimisation got.

    Notes
    -----
    With coefficients ``z = s * points`` the relaxation is convex in z and s together,
    so the multiplier need not be fixed. Newton's method, each step a quadratic
    programme over the cone.
    """
    lo, hi = low.astype(float), high.astype(float)
    z = np.clip(z, lo * s, hi * s)
    value, b = patterns.value(z, b)
    best = -math.inf
    for _ in range(MOST_NEWTON_STEPS):
        g, H = patterns.slopes(z, b)
        best = max(best, bound(value, g, z, lo, hi, patterns.l2))
        if best >= cutoff or value - best <= 0.1 * TOLERANCE * value:
            break
        to, scale = cone_quadratic(H, g, z, s, lo, hi)
        t, fall = 1.0, float(g @ (to - z))
        while True:
            new = z + t * (to - z)
            tried, shift = patterns.value(new, b)
            if tried <= value + 1e-4 * t * fall or t < 1e-8:
                break
            t /= 2
        if not tried < value:
            break
        z, s, b, value = new, s + t * (scale - s), shift, tried
    return _Node(low, high, z, s, b, best)


# -- branch and bound ------------------------------------------------------------------


def best_points(
    patterns: Patterns,
    most: int,
    best: Card | None,
    deadline: float,
    found: Callable[[Card], None],
) -> float:
    """Search all vectors of points on some items; return a lower bound of their losses.

    Parameters
    ----------
    patterns : Patterns
        The data.
    most : int
        Largest number of points of an item.
    best : Card or None
        The best known, on any items: what cannot beat it is not looked at.
    deadline : float
        Of `time.perf_counter`, at which to stop.
    found : callable
        Told of every better card.

    Returns
    -------
    float
        No points on these items have a lower loss; within `TOLERANCE` of the best loss
        once the search is over, which is then the optimum.

    Notes
    -----
    Best-first branch and bound on the point furthest from a whole number, with
    `relaxed` as bound, as in [1]_ but with the multiplier left free. It sees k items
    through at most ``2^k`` patterns, so a node costs about a millisecond.

    References
    ----------
    .. [1] B. Ustun, C. Rudin, "Learning optimized risk scores", JMLR, 2019.
    """
    k = patterns.A.shape[1]
    value = math.inf if best is None else best.value
    ends = np.full(k, most, np.int64)
    cutoff = value * (1 - TOLERANCE)
    root = relaxed(patterns, -ends, ends, np.zeros(k), 1.0, 0.0, cutoff)
    heap, tick = [(root.lower, 0, root)], itertools.count(1)

    def note(card: Card) -> None:
        nonlocal value
        if card.value < value:
            value = card.value
            found(card)

    note(rounded(patterns, root.z, most))
    while heap:
        lower, _, node = heap[0]
        if lower >= value * (1 - TOLERANCE) or time.perf_counter() > deadline:
            return min(lower, value)
        heapq.heappop(heap)
        points = node.finest()
        near = np.rint(points).astype(np.int64)
        note(patterns.best_of(near[None]))
        off = np.where(node.low < node.high, np.abs(points - near), -1.0)
        j = int(np.argmax(off))
        if off[j] < 0:
            continue  # a single vector, which has been looked at
        split = int(np.floor(points[j])) if off[j] > 1e-9 else int(near[j])
        split = min(split, int(node.high[j]) - 1)
        for first, last in ((node.low[j], split), (split + 1, node.high[j])):
            low, high = node.low.copy(), node.high.copy()
            low[j], high[j] = first, last
            cutoff = value * (1 - TOLERANCE)
            child = relaxed(patterns, low, high, node.z, node.s, node.b, cutoff)
            if child.lower < cutoff:
                lower = max(child.lower, node.lower)
                heapq.heappush(heap, (lower, next(tick), child))
    return value
