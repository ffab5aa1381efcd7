"""Problems with a planted sparse model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Planted:
    """Data and the sparse model they were drawn from.

    Attributes
    ----------
    X : array of shape (n_samples, n_features)
        Columns of unit variance.
    y : array of shape (n_samples,)
        Targets: numbers, or classes 0 and 1.
    coef : array of shape (n_features,)
        The model.
    support : integer array
        Where `coef` differs from zero, ascending.
    """

    X: Floats
    y: NDArray[Any]
    coef: Floats
    support: Ints


@dataclass(frozen=True, eq=False)
class PlantedGroups(Planted):
    """Data and a model that is sparse by groups.

    Attributes
    ----------
    X, y, coef : arrays
        As in `Planted`.
    support : integer array
        Numbers of the active groups, ascending.
    groups : integer array of shape (n_features,)
        Group of each column.
    """

    groups: Ints


@dataclass(frozen=True, eq=False)
class PlantedSurvival:
    """Survival times and the sparse model of their hazards.

    Attributes
    ----------
    X, coef, support : arrays
        As in `Planted`; `coef` is the logarithm of hazard ratios.
    time : array of shape (n_samples,)
        Positive times of event or censoring.
    event : boolean array of shape (n_samples,)
        True where the event happened.
    """

    X: Floats
    time: Floats
    event: NDArray[np.bool_]
    coef: Floats
    support: Ints


def make_sparse_regression(
    n_samples: int = 500,
    n_features: int = 1000,
    n_nonzero: int = 20,
    *,
    correlation: float = 0.5,
    snr: float = 6.0,
    rng: Generator | int | None = None,
) -> Planted:
    """Draw a sparse linear model whose neighbouring columns are correlated.

    Parameters
    ----------
    n_samples, n_features : int
        Shape of X.
    n_nonzero : int
        Active columns, anywhere, of either sign, between 0.5 and 1.5 in size.
    correlation : float, default=0.5
        Of neighbouring columns; it falls off geometrically. From 0 to below 1.
    snr : float, default=6.0
        Variance of the signal over that of the noise.
    rng : numpy.random.Generator, int or None
        Randomness.

    Returns
    -------
    Planted
        Data and model.

    Examples
    --------
    >>> data = make_sparse_regression(50, 20, 3, rng=0)
    >>> data.X.shape, len(data.support)
    ((50, 20), 3)
    """
    rng = np.random.default_rng(rng)
    X = _chain(rng, n_samples, n_features, correlation)
    coef = _coefficients(rng, n_features, n_nonzero)
    return Planted(X, _noisy(rng, X @ coef, snr), coef, np.flatnonzero(coef))


def make_correlated_blocks(
    n_samples: int = 500,
    n_features: int = 2000,
    n_blocks: int = 10,
    *,
    block_size: int = 10,
    correlation: float = 0.95,
    snr: float = 30.0,
    rng: Generator | int | None = None,
) -> Planted:
    """Draw a linear model that greedy methods and the lasso get wrong.

    Columns come in blocks that share most of their variance. In each active block three
    columns count, with signs +, - and +, so that what they add to the target is mostly
    hidden from every one of them alone.

    Parameters
    ----------
    n_samples, n_features : int
        Shape of X; `n_features` must be a multiple of `block_size`.
    n_blocks : int, default=10
        Active blocks; 3 `n_blocks` columns are active.
    block_size : int, default=10
        Columns of a block, at least 3.
    correlation : float, default=0.95
        Of two columns of one block; columns of different blocks have none.
    snr : float, default=30.0
        Variance of the signal over that of the noise.
    rng : numpy.random.Generator, int or None
        Randomness.

    Returns
    -------
    Planted
        Data and model.

    Raises
    ------
    ValueError
        If the blocks do not fit.
    """
    total, rest = divmod(n_features, block_size)
    if rest or block_size < 3 or not 0 <= n_blocks <= total:
        raise ValueError(
            f"block_size must be at least 3 and divide n_features, and n_blocks be at "
            f"most n_features / block_size; got block_size={block_size}, "
            f"n_features={n_features}, n_blocks={n_blocks}"
        )
    rng = np.random.default_rng(rng)
    shared = np.repeat(rng.standard_normal((n_samples, total)), block_size, axis=1)
    own = rng.standard_normal((n_samples, n_features))
    X = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    coef = np.zeros(n_features)
    for block in rng.choice(total, n_blocks, replace=False):
        sizes = rng.uniform(0.8, 1.2, 3)
        three = block * block_size + rng.choice(block_size, 3, replace=False)
        coef[three] = np.array([1, -1, 1]) * sizes
    return Planted(X, _noisy(rng, X @ coef, snr), coef, np.flatnonzero(coef))


def make_sparse_classification(
    n_samples: int = 500,
    n_features: int = 1000,
    n_nonzero: int = 20,
    *,
    correlation: float = 0.5,
    spread: float = 4.0,
    rng: Generator | int | None = None,
) -> Planted:
    """Draw two classes from a sparse logistic model.

    Parameters
    ----------
    n_samples, n_features, n_nonzero : int
        As in `make_sparse_regression`.
    correlation : float, default=0.5
        Of neighbouring columns.
    spread : float, default=4.0
        Standard deviation of the log-odds: the larger, the clearer the classes.
    rng : numpy.random.Generator, int or None
        Randomness.

    Returns
    -------
    Planted
        Data and model; `y` holds 0 and 1.
    """
    rng = np.random.default_rng(rng)
    X = _chain(rng, n_samples, n_features, correlation)
    coef = _coefficients(rng, n_features, n_nonzero)
    if n_nonzero:
        coef *= spread / np.std(X @ coef)
    share = 1 / (1 + np.exp(-(X @ coef)))
    y = (rng.uniform(size=n_samples) < share).astype(np.int64)
    return Planted(X, y, coef, np.flatnonzero(coef))


def make_sparse_survival(
    n_samples: int = 500,
    n_features: int = 1000,
    n_nonzero: int = 20,
    *,
    correlation: float = 0.5,
    censoring_time: float = 1.65,
    rng: Generator | int | None = None,
) -> PlantedSurvival:
    """Draw exponential survival times whose hazards follow a sparse model.

    Parameters
    ----------
    n_samples, n_features, n_nonzero : int
        As in `make_sparse_regression`.
    correlation : float, default=0.5
        Of neighbouring columns.
    censoring_time : float, default=1.65
        Mean of the exponential censoring times; events have a mean of one where the
        predictor is zero.
    rng : numpy.random.Generator, int or None
        Randomness.

    Returns
    -------
    PlantedSurvival
        Data and model.
    """
    rng = np.random.default_rng(rng)
    X = _chain(rng, n_samples, n_features, correlation)
    coef = _coefficients(rng, n_features, n_nonzero)
    life = rng.exponential(np.exp(-(X @ coef)))
    censored = rng.exponential(censoring_time, n_samples)
    time = np.minimum(life, censored)
    return PlantedSurvival(X, time, life <= censored, coef, np.flatnonzero(coef))


def make_group_regression(
    n_samples: int = 500,
    n_groups: int = 100,
    n_nonzero: int = 5,
    *,
    group_size: int = 5,
    correlation: float = 0.5,
    snr: float = 2.0,
    rng: Generator | int | None = None,
) -> PlantedGroups:
    """Draw a linear model in which a group of columns counts as a whole or not at all.

    Parameters
    ----------
    n_samples : int
        Rows.
    n_groups, group_size : int
        X has ``n_groups * group_size`` columns.
    n_nonzero : int
        Active groups; their coefficients are normal.
    correlation : float, default=0.5
        Of two columns of one group.
    snr : float, default=2.0
        Variance of the signal over that of the noise.
    rng : numpy.random.Generator, int or None
        Randomness.

    Returns
    -------
    PlantedGroups
        Data and model; `support` numbers groups.
    """
    rng = np.random.default_rng(rng)
    shared = np.repeat(rng.standard_normal((n_samples, n_groups)), group_size, axis=1)
    own = rng.standard_normal((n_samples, n_groups * group_size))
    X = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    coef = np.zeros(n_groups * group_size)
    active = rng.choice(n_groups, n_nonzero, replace=False)
    for group in active:
        run = slice(group * group_size, (group + 1) * group_size)
        coef[run] = rng.standard_normal(group_size)
    y = _noisy(rng, X @ coef, snr)
    groups = np.repeat(np.arange(n_groups), group_size)
    return PlantedGroups(X, y, coef, np.sort(active), groups)


def _chain(rng: Generator, n: int, p: int, correlation: float) -> Floats:
    """Unit normal columns, each correlated with the one before."""
    X = rng.standard_normal((n, p))
    fresh = np.sqrt(1 - correlation * correlation)
    for j in range(1, p):
        X[:, j] = fresh * X[:, j] + correlation * X[:, j - 1]
    return X


def _coefficients(rng: Generator, p: int, k: int) -> Floats:
    if not 0 <= k <= p:
        raise ValueError(f"n_nonzero must be from 0 to n_features = {p}, got {k}")
    coef = np.zeros(p)
    where = np.sort(rng.choice(p, k, replace=False))
    coef[where] = rng.uniform(0.5, 1.5, k) * rng.choice([-1, 1], k)
    return coef


def _noisy(rng: Generator, signal: Floats, snr: float) -> Floats:
    noise: Floats = rng.standard_normal(len(signal))
    if not np.any(signal):
        return noise
    return np.asarray(signal + np.sqrt(np.var(signal) / snr) * noise)
