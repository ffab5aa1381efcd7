"""Clicks with the shape of Criteo's: 39 hashed fields, planted effects, no real data.

Thirteen fields are counts in classes of a logarithmic scale and 26 are categories with
a power law, up to a hundred thousand of them, hashed into fewer places so that the rare
ones collide. Whether there is a click depends on the fields' own effects, on pairs of
fields that act together, and on nothing else; fields differ in how much they matter,
some repeat others, some do not matter at all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_COUNTS, N_CATEGORIES = 13, 26
N_FIELDS = N_COUNTS + N_CATEGORIES
N_CLASSES = 16  # of a count
MOST_LEVELS = 100_000  # of a category
POWER = 1.2  # of the law of its frequencies
N_COPIES = 8  # fields that mostly repeat another
FAITHFUL = 0.7  # how often they do
N_PAIRS, RANK = 12, 3  # pairs of fields that act together, and in how many ways
OWN, TOGETHER = 0.9, 1.0  # standard deviations of the two parts of the log odds
CLICKS = 0.25

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clicks:
    """Rows of hashed fields, and whether each was clicked.

    Attributes
    ----------
    fields : int32 array of shape (n, 39)
        Places, from 0 in every field.
    y : int8 array of shape (n,)
        1 for a click.
    places : tuple of int
        How many each field has.
    least : float
        Mean log loss of the probabilities that clicks were drawn with, in nats: no
        model does better but by chance.
    """

    fields: Ints
    y: NDArray[np.int8]
    places: tuple[int, ...]
    least: float


def clicks(n: int = 1_000_000, places: int = 1_000, seed: int = 0) -> Clicks:
    """Return drawn clicks.

    Parameters
    ----------
    n : int, default=1_000_000
        Rows.
    places : int, default=1_000
        Most places that the levels of a field are hashed into.
    seed : int, default=0
        Of everything.

    Returns
    -------
    Clicks
        About a quarter of them clicked.
    """
    rng = np.random.default_rng(seed)
    n_levels = np.full(N_FIELDS, N_CLASSES)
    drawn = np.exp(rng.uniform(np.log(4), np.log(MOST_LEVELS), N_CATEGORIES))
    n_levels[N_COUNTS:] = drawn.astype(int)
    copies = rng.choice(np.arange(1, N_FIELDS), N_COPIES, replace=False)
    levels = np.empty((N_FIELDS, n), np.int32)
    for field in range(N_FIELDS):
        levels[field] = _drawn(rng, int(n_levels[field]), n, field < N_COUNTS)
        if field in copies:
            source = int(rng.integers(field))
            said = levels[source].astype(np.int64) * 7_919 % n_levels[field]
            levels[field] = np.where(rng.random(n) < FAITHFUL, said, levels[field])
    odds = _odds(rng, levels, n_levels)
    odds += _offset(odds)
    p = 1 / (1 + np.exp(-odds))
    y = rng.random(n) < p
    least = -np.mean(np.where(y, np.log(p), np.log1p(-p)))
    hashed = np.empty((n, N_FIELDS), np.int32)
    for field in range(N_FIELDS):
        mixed = levels[field].astype(np.uint64) * np.uint64(2_654_435_761)
        mixed = (mixed + np.uint64(field)) % np.uint64(2**32) >> np.uint64(7)
        room = min(places, int(n_levels[field]))
        whole = room == n_levels[field]  # then there is a place for each
        hashed[:, field] = levels[field] if whole else mixed % np.uint64(room)
    return Clicks(
        hashed,
        y.astype(np.int8),
        tuple(int(min(places, count)) for count in n_levels),
        float(least),
    )


def _drawn(rng: np.random.Generator, n_levels: int, n: int, count: bool) -> Ints:
    """Draw levels: classes of a count, or categories with a power law."""
    if count:
        centre, width = rng.uniform(2, 10), rng.uniform(1, 4)
        classes = np.rint(centre + width * rng.standard_normal(n))
        return np.clip(classes, 0, n_levels - 1).astype(np.int32)
    weights = np.arange(1, n_levels + 1) ** -POWER
    shares = np.cumsum(weights) / weights.sum()
    found = np.searchsorted(shares, rng.random(n)).astype(np.int32)
    return np.minimum(found, n_levels - 1)


def _odds(
    rng: np.random.Generator, levels: Ints, n_levels: NDArray[np.int64]
) -> Floats:
    """Return the planted log odds, of mean zero."""
    n = levels.shape[1]
    # a third of the fields matters on its own, with weights that fall geometrically
    strength = np.zeros(N_FIELDS)
    strong = rng.permutation(N_FIELDS)[: N_FIELDS // 3]
    strength[strong] = 0.8 ** np.arange(len(strong))
    own = np.zeros(n)
    for field in strong:
        effects = rng.standard_normal(n_levels[field])
        own += strength[field] * effects[levels[field]]
    together = np.zeros(n)
    for _ in range(N_PAIRS):
        first, second = rng.choice(N_FIELDS, 2, replace=False)
        u = rng.standard_normal((n_levels[first], RANK))
        v = rng.standard_normal((n_levels[second], RANK))
        together += np.einsum("ij,ij->i", u[levels[first]], v[levels[second]])
    parts = (OWN, own), (TOGETHER, together)
    return sum(
        (scale * (part - part.mean()) / part.std() for scale, part in parts),
        np.zeros(n),
    )


def _offset(odds: Floats) -> float:
    """Return what brings the mean probability to the share of clicks, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1 / (1 + np.exp(-(odds + middle)))) < CLICKS:
            low = middle
        else:
            high = middle
    return (low + high) / 2
