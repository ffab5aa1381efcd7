"""Shares of atoms in a budget: the small problems of a perspective relaxation.

Every atom has a share from 0 to 1, and the costs of all shares fit into a capacity.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shares(sizes: Floats, costs: Floats, capacity: float, shift: float = 0.0) -> Floats:
    """Return the shares s that minimise ``sum sizes^2 / (s + shift)``.

    They are ``clip(t sizes / sqrt(costs) - shift, 0, 1)`` for the t at which the
    capacity is used up, which sorting the 2n places where the sum bends finds exactly.

    Parameters
    ----------
    sizes : array of shape (n,)
        Not negative.
    costs : array of shape (n,)
        Positive.
    capacity : float
        Largest sum of shares times costs.
    shift : float, default=0.0
        Not negative.

    Returns
    -------
    array of shape (n,)
        Zero where the size is.
    """
    live = sizes > 0
    answer = live.astype(np.float64)
    if costs[live].sum() <= capacity:
        return answer
    if capacity <= 0:
        return np.zeros_like(answer)
    u, c = sizes[live] / np.sqrt(costs[live]), costs[live]
    bends = np.concatenate((shift / u, (1 + shift) / u))
    order = np.argsort(bends, kind="stable")
    bends = bends[order]
    slopes = np.cumsum(np.concatenate((c * u, -c * u))[order])
    used = np.concatenate(([0.0], np.cumsum(slopes[:-1] * np.diff(bends))))
    last = max(int(np.searchsorted(used, capacity)) - 1, 0)
    t = bends[last] + (capacity - used[last]) / slopes[last]
    answer[live] = np.clip(t * u - shift, 0.0, 1.0)
    return answer


class Most(NamedTuple):
    """The largest total gain of shares that fit, and where they stop."""

    total: float
    low: float  # gain for cost of the best atom that is not whole
    high: float  # gain for cost of the worst atom that has a share


def most(gains: Floats, costs: Floats, capacity: float) -> Most:
    """Return the largest total gain of shares that fit.

    The linear relaxation of a knapsack: whole atoms by falling gain for cost, and a
    part of the first that does not fit.

    Parameters
    ----------
    gains : array of shape (n,)
        Not negative.
    costs : array of shape (n,)
        Positive.
    capacity : float
        Largest sum of shares times costs.

    Returns
    -------
    Most
        The total, and prices of the budget at which the answer is the same.
    """
    if costs.sum() <= capacity:
        return Most(float(gains.sum()), 0.0, 0.0)
    ratio = gains / costs
    order = np.argsort(-ratio, kind="stable")
    ahead = np.cumsum(costs[order])
    split = int(np.searchsorted(ahead, capacity, side="right"))
    left = max(capacity - (float(ahead[split - 1]) if split else 0.0), 0.0)
    low = float(ratio[order[split]])
    # what rounding leaves of a budget of whole atoms is not worth a price
    partly = left > 1e-9 * capacity or not split
    high = low if partly else float(ratio[order[split - 1]])
    return Most(float(gains[order[:split]].sum()) + left * low, low, high)
