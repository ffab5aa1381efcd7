"""Columns that could have been chosen instead of one that was."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.objectives import Poisson
from vitalfew.study._model import Model

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHOWN = 3  # for each chosen column
LEAST = 0.5  # correlation from which a column is a near tie whatever it costs
DEAREST = 0.05  # relative loss up to which it is one however little it correlates
LOOKED_AT = 8  # groups tried: as many by correlation as by what they would bring


def near_ties(
    X: Floats, labels: Ints, names: list[str], model: Model, atom: int
) -> list[dict[str, Any]]:
    """Find the columns that could have been chosen instead of a chosen one.

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
        ``loss_increase``, relative to the loss now; the cheapest swap first.
    """
    A = _unit(X[:, np.flatnonzero(labels == atom)])
    found: list[tuple[float, float, int]] = []
    for other in _candidates(X, labels, len(names), A, model, atom):
        correlation = _canonical(A, _unit(X[:, np.flatnonzero(labels == other)]))
        cost = _swap(model, atom, other)
        if cost is not None and (abs(correlation) >= LEAST or cost <= DEAREST):
            found.append((cost, correlation, other))
    found.sort(key=lambda entry: (entry[0], entry[2]))
    return [
        {"column": names[other], "correlation": correlation, "loss_increase": cost}
        for cost, correlation, other in found[:SHOWN]
    ]


def _candidates(
    X: Floats, labels: Ints, n_groups: int, A: Floats, model: Model, atom: int
) -> list[int]:
    """Groups most like the chosen one, and those most missed once it is left out."""
    spread = np.sqrt(len(X)) * X.std(axis=0)
    r = (np.abs(A.T @ X) / np.where(spread > 0, spread, np.inf)).max(axis=0)
    alike = np.zeros(n_groups)
    np.maximum.at(alike, labels, r)
    alike[model.solution.support] = 0.0
    ranked = np.argsort(-alike, kind="stable")[:LOOKED_AT]
    atoms = model.solution.support
    without = model.structure.support(atoms[atoms != atom])
    fit = model.structure.refit(model.objective, without, None)
    at = model.structure.with_budget(len(atoms))
    missed = at.strongest(fit.gradient, without, LOOKED_AT + 1).atoms
    both = [int(g) for g in (*ranked[alike[ranked] > 0], *missed) if g != atom]
    return list(dict.fromkeys(both))


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
