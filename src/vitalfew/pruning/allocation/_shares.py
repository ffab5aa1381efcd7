"""Whole numbers of atoms from real shares, exact in total."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitalfew._validation import check_count
from vitalfew.contracts import Ints
from vitalfew.pruning._contracts import Part


def sizes_of(parts: Sequence[Part], total: int) -> Ints:
    """Return the number of atoms of each layer, with the total checked against it."""
    sizes = np.array([part.structure.n_atoms for part in parts], np.int64)
    if not len(sizes):
        raise ValueError("parts must hold at least one layer, got none")
    why = f"one for each of {len(sizes)} layers, and what they have"
    check_count("total", total, len(sizes), int(sizes.sum()), why)
    return sizes


def apportion(weights: NDArray[np.float64], sizes: Ints, total: int) -> list[int]:
    """Share out atoms in proportion to weights, at least one and at most all in each.

    Parameters
    ----------
    weights : array of shape (n,)
        Positive.
    sizes : integer array of shape (n,)
        Most that each may have.
    total : int
        From n to the sum of the sizes.

    Returns
    -------
    list of int
        With the sum `total`; what rounding down leaves goes to the largest remainders.
    """
    low, high = 0.0, float(np.max(sizes / weights))
    for _ in range(200):  # bisection of the factor, to the last digit
        middle = (low + high) / 2
        if np.clip(middle * weights, 1, sizes).sum() <= total:
            low = middle
        else:
            high = middle
    if np.clip(high * weights, 1, sizes).sum() <= total:
        low = high
    shares = np.clip(low * weights, 1, sizes)
    counts = np.floor(shares + 1e-9).astype(np.int64)
    order = np.argsort(counts - shares, kind="stable")
    missing = total - int(counts.sum())
    while missing > 0:
        able = order[counts[order] < sizes[order]][:missing]
        counts[able] += 1
        missing -= len(able)
    return [int(count) for count in counts]


def by_saliency(saliencies: Sequence[NDArray[np.float64]], total: int) -> list[int]:
    """Count the atoms of largest saliency in each layer, one in each layer for sure.

    Parameters
    ----------
    saliencies : sequence of arrays
        Of the atoms of each layer, comparable between layers.
    total : int
        How many atoms are taken.

    Returns
    -------
    list of int
        With the sum `total`; among equals the earlier layers have theirs first.
    """
    everything = np.concatenate(saliencies)
    if np.isnan(everything.max()):
        raise ValueError("saliency must not be NaN; look for NaN in the weights")
    largest = [float(s.max()) for s in saliencies]
    starts = np.cumsum([0, *map(len, saliencies[:-1])])
    everything[starts + [int(np.argmax(s)) for s in saliencies]] = -np.inf
    place = len(everything) - (total - len(saliencies))
    counts = np.ones(len(saliencies), np.int64)
    if place == len(everything):
        return [int(count) for count in counts]
    everything.partition(place)
    border = float(everything[place])
    for i, s in enumerate(saliencies):
        counts[i] += np.count_nonzero(s > border) - (largest[i] > border)
    for i, s in enumerate(saliencies):
        ties = int(np.count_nonzero(s == border)) - (largest[i] == border)
        counts[i] += min(ties, total - int(counts.sum()))
    return [int(count) for count in counts]
