"""Real tables, as numbers with columns of unit variance.

They are read through `vitalfew.datasets.load`, so the environment variable
``VITALFEW_DATA`` must name the folder that holds them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._runs import Skipped
from vitalfew.datasets import load
from vitalfew.exceptions import DataError, MissingDependencyError

Floats = NDArray[np.float64]
NAMES = ("riboflavin", "communities_crime", "prostate_ge", "hiva", "adult")
CLASSES = ("prostate_ge", "hiva", "adult")  # two; the others hold numbers
_NOT_PREDICTORS = ("state", "county", "community", "communityname", "fold")
_MOST_MISSING = 0.1  # share of rows, for a column to be used


@dataclass(frozen=True, eq=False)
class Split:
    """A table cut into rows to train on and rows to test on.

    Attributes
    ----------
    X, y : arrays of shape (n, p), (n,)
        Training rows; columns centred, of unit variance, constant ones left out.
    X_test, y_test : arrays
        Test rows, centred and scaled by what the training rows say.
    """

    X: Floats
    y: Floats
    X_test: Floats
    y_test: Floats


@cache
def _table(name: str) -> tuple[Floats, Floats]:
    try:
        data = load(name)
        if data.path.suffix == ".npz":
            arrays = data.arrays
            return arrays["X"].astype(np.float64), arrays["y"].astype(np.float64)
        columns = data.columns
    except (DataError, MissingDependencyError) as error:
        raise Skipped(f"{name}: {error}") from error
    if name == "adult":
        target = columns.pop("income")
        columns.pop("split")
        y = np.array([text.strip().startswith(">") for text in target])
        return _numbers(columns), y.astype(np.float64)
    target = columns.pop("ViolentCrimesPerPop")
    kept = {k: v for k, v in columns.items() if k not in _NOT_PREDICTORS}
    return _numbers(kept), target.astype(np.float64)


def _numbers(columns: dict[str, NDArray[Any]]) -> Floats:
    """Put numbers beside indicators of all but the commonest level of text."""
    parts = []
    for values in columns.values():
        if values.dtype == object:
            text = np.array([str(v).strip() for v in values])
            levels, counts = np.unique(text, return_counts=True)
            rest = np.delete(levels, counts.argmax())
            parts.append((text[:, None] == rest).astype(np.float64))
            continue
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        if missing.mean() <= _MOST_MISSING:
            filled = np.where(missing, np.nanmedian(numbers), numbers)
            parts.append(filled[:, None])
    return np.hstack(parts)


def split(name: str, seed: int) -> Split:
    """Return one random cut of a table, 7 rows in 10 to train on.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    seed : int
        Of the cut; classes keep their shares.

    Returns
    -------
    Split
        The two parts.

    Raises
    ------
    Skipped
        If the table is not there; the message says why.
    """
    X, y = _table(name)
    rng = np.random.default_rng(seed)
    strata = y if name in CLASSES else np.zeros(len(y))
    train = np.zeros(len(y), dtype=bool)
    for value in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == value))
        train[rows[: round(0.7 * len(rows))]] = True
    mean, spread = X[train].mean(axis=0), X[train].std(axis=0)
    used = spread > 1e-10 * (1 + np.abs(mean))
    X = (X[:, used] - mean[used]) / spread[used]
    return Split(X[train], y[train], X[~train], y[~train])
