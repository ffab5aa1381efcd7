"""The model of a study: a path over the number of columns, and one point of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vitalfew._path import Path, path
from vitalfew.designs import Scaled, as_design
from vitalfew.estimators._base import AUTO_L2, GRID, distinct_rows
from vitalfew.objectives import Ordinal
from vitalfew.solution import Solution
from vitalfew.structures import Groups, Rows
from vitalfew.study._outcome import Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TINY_L2 = 1e-8
Folds = Sequence[tuple[Ints, Ints]]


@dataclass(frozen=True, eq=False)
class Model:
    """A path over the number of columns with its choice.

    Attributes
    ----------
    objective : Objective
        On the encoded columns in units of their standard deviation.
    structure : Structure
        Columns, or groups of them.
    scale : array of shape (n_outputs,)
        Standard deviations of the encoded columns.
    path : Path
        Solutions and scores.
    index : int
        The chosen solution.
    """

    objective: Any
    structure: Any
    scale: Floats
    path: Path
    index: int

    @property
    def solution(self) -> Solution:
        """The chosen solution, in scaled units."""
        return self.path.solutions[self.index]

    def predict(self, X: Floats) -> Floats:
        """Return linear predictors: (n,), or (n, classes) for more than two classes.

        Those of ordered classes are the logarithms of their probabilities.
        """
        x = np.asarray(self.solution.x)
        ids = np.flatnonzero(np.any(x.reshape(len(x), -1) != 0, axis=1))
        scale = self.scale[ids] if x.ndim == 1 else self.scale[ids, None]
        eta = X[:, ids] @ (x[ids] / scale)
        b = self.solution.intercept
        if isinstance(self.objective, Ordinal):
            return np.asarray(self.objective.log_probabilities(eta, b))
        return np.asarray(eta if b is None else eta + np.asarray(b))


def ridge_of(outcome: Outcome, l2: float | None) -> float:
    """Return the ridge used: what was asked for, or the estimators' own default.

    Tables often repeat a column, if only as the indicator of what is missing; least
    squares gets just enough of a ridge to tell such columns nothing apart.
    """
    if l2 is not None:
        return l2
    return TINY_L2 if outcome.task == "regression" else AUTO_L2


def fit_path(
    X: Floats,
    labels: Ints,
    outcome: Outcome,
    *,
    n_nonzero: int | None,
    criterion: str,
    folds: Folds | None,
    solver: Any = None,
    l2: float | None = None,
    max_seconds: float | None = None,
    callback: Callable[[int, int], Any] | None = None,
    rng: Generator,
) -> Model:
    """Fit a path over the number of columns and choose.

    The same as the estimators do, with a limit of time, progress, and held-out losses
    for a given number of columns too.

    Parameters
    ----------
    X : array of shape (n, n_outputs)
        Encoded columns.
    labels : integer array of shape (n_outputs,)
        Groups of them.
    outcome : Outcome
        What is predicted.
    n_nonzero : int or None
        How many columns (groups) to choose, None to let `criterion` choose.
    criterion : str
        As for `vitalfew.path`.
    folds : sequence of (train, test) or None
        For held-out losses; None to do without where `n_nonzero` is given.
    solver : Solver, optional
        A good one by default.
    l2 : float, optional
        Ridge in scaled units.
    max_seconds : float, optional
        Limit.
    callback : callable, optional
        Called with the number of solves done and their total.
    rng : numpy.random.Generator
        Randomness.

    Returns
    -------
    Model
        The path and its choice.
    """
    design, n = as_design(X), len(X)
    w = np.full(n, 1.0 / n)
    scaled = Scaled.standard(design, w, design.rmatvec(w))
    objective = outcome.objective(scaled, ridge_of(outcome, l2))
    structure = structure_of(labels).on(objective.shape)
    budgets = _budgets(n_nonzero, structure.n_atoms, X, outcome)
    found = path(
        objective,
        structure,
        budgets,
        solver,
        choose=None if folds is None else criterion,
        cv=folds,
        max_seconds=max_seconds,
        callback=callback,
        rng=rng,
    )
    index = found.best_index
    if n_nonzero is not None:
        index = len(found.solutions) - 1
    elif found.scores is None:  # cut short before anything was held out
        index = _by_criterion(objective, found)
    return Model(objective, structure, np.asarray(scaled.scale), found, index)


def structure_of(labels: Ints) -> Any:
    """Return the structure of groups of columns, its budget still to be set."""
    if len(labels) == int(labels.max()) + 1:
        return Rows(0)
    return Groups(labels, 0)


def _budgets(
    n_nonzero: int | None, n_atoms: int, X: Floats, outcome: Outcome
) -> list[int]:
    """Numbers of columns to try: at most half of the rows that tell them apart."""
    if n_nonzero is not None:
        most = min(n_nonzero, n_atoms)
    else:
        rows = min(distinct_rows(X, None), outcome.n_telling)
        most = max(1, min(n_atoms, rows // 2, GRID[-1]))
    return [k for k in GRID if k < most] + [most]


def _by_criterion(objective: Any, found: Path) -> int:
    """Choose by the Bayesian information criterion, for want of held-out losses."""
    n = objective.n_samples
    scores = [
        objective.deviance(s.x, s.intercept) + np.log(n) * np.count_nonzero(s.x)
        for s in found.solutions
    ]
    return int(np.argmin(scores))
