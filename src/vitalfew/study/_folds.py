"""Splits of rows: stratified for classes and events, whole for blocks."""

import warnings

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from vitalfew.study._outcome import Outcome

Ints = NDArray[np.int64]


def folds_of(
    outcome: Outcome, blocks: Ints | None, n_folds: int, rng: Generator
) -> list[tuple[Ints, Ints]]:
    """Split rows into folds, fewer where a class or the blocks are few.

    Parameters
    ----------
    outcome : Outcome
        Of the rows.
    blocks : integer array or None
        Rows with one number stay together.
    n_folds : int
        How many folds at most.
    rng : numpy.random.Generator
        Shuffles.

    Returns
    -------
    list of (train, test)
        Numbers of rows.
    """
    strata, n = outcome.strata, outcome.n_rows
    rows = np.zeros((n, 1))
    seed = int(rng.integers(2**31))
    n_folds = min(n_folds, n)
    if strata is not None:
        n_folds = max(2, min(n_folds, int(np.bincount(strata).min())))
    if blocks is not None:
        n_folds = max(2, min(n_folds, len(np.unique(blocks))))
        many = GroupKFold if strata is None else StratifiedGroupKFold
        splitter = many(n_folds, shuffle=True, random_state=seed)
    elif strata is None:
        splitter = KFold(n_folds, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # blocks may leave a class out of a fold
        pairs = list(splitter.split(rows, strata, blocks))
    return [(a, b) for a, b in pairs if len(a) and len(b) and _usable(outcome, a, b)]


def _usable(outcome: Outcome, train: Ints, test: Ints) -> bool:
    """Whether there is something to learn from, and something to judge by."""
    strata = outcome.strata
    if outcome.task == "count":
        return bool(outcome.y[train].any())
    if strata is None:
        return True
    if outcome.event is not None:
        return bool(strata[train].any() and strata[test].any())
    return len(np.unique(strata[train])) == len(outcome.classes or ())


def half_of(outcome: Outcome, blocks: Ints | None, rng: Generator) -> Ints:
    """Draw half of the rows.

    Parameters
    ----------
    outcome : Outcome
        Of the rows.
    blocks : integer array or None
        Rows with one number stay together.
    rng : numpy.random.Generator
        Draws.

    Returns
    -------
    integer array
        Numbers of rows, ascending; with blocks roughly half of them.
    """
    if blocks is not None:
        names = np.unique(blocks)
        drawn = rng.choice(names, (len(names) + 1) // 2, replace=False)
        return np.flatnonzero(np.isin(blocks, drawn))
    strata = outcome.strata
    if strata is None:
        strata = np.zeros(outcome.n_rows, np.int64)
    parts = []
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        parts.append(rng.choice(rows, (len(rows) + 1) // 2, replace=False))
    return np.sort(np.concatenate(parts))
