"""Columns that could have been chosen instead of one that was."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.estimators._study_model import Model
from vitalfew.objectives import Poisson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHOWN = 3  # for each chosen column
LEAST = 0.5  # correlation from which a column is a near tie
LOOKED_AT = 8  # groups whose canonical correlation is computed


def near_ties(
    X: Floats, labels: Ints, names: list[str], model: Model, atom: int
) -> list[dict[str, Any]]:
    """Find the columns most correlated with a chosen one, and what a swap would cost.

    Parameters
    ----------
    X : array of shape (n, n_outputs)
        Encoded columns.
    labels : integer array of shape (n_outputs,)
        Groups of them.
    names : list of str
        Of the groups.
    model : Model
        What was fitted to them.
    atom : int
        Number of the chosen group.

    Returns
    -------
    list of dict
        ``column``, ``correlation`` (canonical for groups of several) and
        ``loss_increase``, relative to the loss now; best correlated first.
    """
    inside = np.flatnonzero(labels == atom)
    A = _unit(X[:, inside])
    size = np.abs(A.T @ X)
    spread = np.sqrt(len(X)) * X.std(axis=0)
    r = (size / np.where(spread > 0, spread, np.inf)).max(axis=0)
    best = np.zeros(len(names))
    np.maximum.at(best, labels, r)
    best[model.solution.support] = 0.0
    ranked = np.argsort(-best, kind="stable")[:LOOKED_AT]
    found: list[tuple[float, int, float]] = []
    for other in ranked:
        B = X[:, np.flatnonzero(labels == other)]
        correlation: float = _canonical(A, _unit(B))
        if best[other] > 0 and abs(correlation) >= LEAST:
            found.append((abs(correlation), int(other), correlation))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return [
        {
            "column": names[other],
            "correlation": correlation,
            "loss_increase": _swap(model, atom, other),
        }
        for _, other, correlation in found[:SHOWN]
    ]


def _unit(A: Floats) -> Floats:
    """Columns centred and of unit length; constant ones are zero."""
    A = A - A.mean(axis=0)
    length = np.sqrt(np.einsum("ij,ij->j", A, A))
    return A / np.where(length > 0, length, np.inf)


def _canonical(A: Floats, B: Floats) -> float:
    """Correlation of two columns, or the largest canonical one of two groups."""
    if A.shape[1] == 1 and B.shape[1] == 1:
        return float(np.clip(A[:, 0] @ B[:, 0], -1.0, 1.0))
    Q, P = (_basis(M) for M in (A, B))
    if not Q.shape[1] or not P.shape[1]:
        return 0.0
    return min(float(np.linalg.norm(Q.T @ P, 2)), 1.0)


def _basis(A: Floats) -> Floats:
    U, s, _ = np.linalg.svd(A, full_matrices=False)
    return U[:, s > 1e-8 * max(s[0], 1e-300)]


def _swap(model: Model, out: int, into: int) -> float | None:
    """Relative increase of the objective when one group takes another's place."""
    atoms = model.solution.support
    atoms = np.where(atoms == out, into, atoms)
    support = model.structure.support(np.sort(atoms))
    fit = model.structure.refit(model.objective, support, None)
    now, then = (_misfit(model.objective, f) for f in (model.solution, fit))
    return float(then / now - 1) if now > 0 and np.isfinite(then) else None


def _misfit(objective: Any, fit: Any) -> float:
    """The objective, or where that may be negative the deviance."""
    if isinstance(objective, Poisson):
        return objective.deviance(fit.x, fit.intercept)
    return float(fit.value)
