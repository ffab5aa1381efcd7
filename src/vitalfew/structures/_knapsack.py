"""The 0/1 knapsack that a cost budget asks for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.contracts import Ints

MOST_COST = 1_000_000  # total integer cost up to which the answer is exact
MOST_CELLS = 4_000_000_000  # of the dynamic programme, after bounding


def knapsack(gains: NDArray[Any], costs: NDArray[Any], capacity: float) -> Ints:
    """Positions whose gains are largest in total while their costs fit.

    Greedy by ratio gives a feasible answer and the linear relaxation a bound; items
    that the two already decide are fixed (Dantzig's bound), and a dynamic programme
    over the remaining capacity settles the rest.

    Parameters
    ----------
    gains : array of shape (n,)
        Positive gains.
    costs : array of shape (n,)
        Positive costs.
    capacity : float
        Largest total cost.

    Returns
    -------
    integer array
        Positions taken; exact for integer costs of at most 10⁶ in total, otherwise the
        better of greedy by ratio and the single best item.
    """
    n = len(gains)
    if n == 0 or capacity < costs.min():
        return np.empty(0, np.int64)
    if costs.sum() <= capacity:
        return np.arange(n)
    order = np.argsort(-gains / costs, kind="stable")
    g, c = gains[order], costs[order]
    taken = _greedy(c, capacity)
    fitting = np.flatnonzero(c <= capacity)
    single = fitting[np.argmax(g[fitting])]
    if g[single] > g[taken].sum():
        taken = np.zeros(n, bool)
        taken[single] = True
    whole = np.all(costs == np.round(costs)) and costs.sum() <= MOST_COST
    if whole:
        taken = _exact(g, c.astype(np.int64), int(capacity + 1e-9), taken)
    return np.sort(order[taken])


def _greedy(c: NDArray[Any], capacity: float) -> NDArray[np.bool_]:
    taken = np.zeros(len(c), bool)
    left = capacity
    for i in range(len(c)):
        if c[i] <= left:
            taken[i] = True
            left -= c[i]
    return taken


def _exact(
    g: NDArray[Any], c: Ints, capacity: int, greedy: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Items sorted by falling ratio; `greedy` is a feasible answer to start from."""
    divisor = int(np.gcd.reduce(c))
    c, capacity = c // divisor, capacity // divisor
    ahead = np.cumsum(c)
    split = int(np.searchsorted(ahead, capacity, side="right"))  # first that fails
    if split == len(c):
        return np.ones(len(c), bool)
    before = int(ahead[split - 1]) if split else 0
    ratio = g / c
    bound = g[:split].sum() + (capacity - before) * ratio[split]
    # forcing an item against the relaxation costs at least this much
    loss = c * np.abs(ratio - ratio[split])
    fixed = bound - loss < g[greedy].sum() * (1 - 1e-12)
    first = np.arange(len(c)) < split
    core = np.flatnonzero(~fixed)
    spent = int(c[fixed & first].sum())
    room = capacity - spent
    if room < 0 or len(core) * (room + 1) > MOST_CELLS:
        return greedy
    answer = fixed & first
    best = np.zeros(room + 1)
    used = np.zeros((len(core), (room + 8) // 8), np.uint8)
    for row, i in enumerate(core):
        if c[i] > room:
            continue
        with_item = best[: room + 1 - c[i]] + g[i]
        better = with_item > best[c[i] :]
        best[c[i] :] = np.where(better, with_item, best[c[i] :])
        bits = np.zeros(room + 1, bool)
        bits[c[i] :] = better
        used[row] = np.packbits(bits)
    at = room
    for row in range(len(core) - 1, -1, -1):
        if used[row, at // 8] >> (7 - at % 8) & 1:
            answer[core[row]] = True
            at -= int(c[core[row]])
    return answer if g[answer].sum() >= g[greedy].sum() else greedy
