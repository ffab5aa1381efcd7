"""How vitalfew is asked, in the form of `benchmarks._rivals`."""

from typing import Any

import numpy as np

from benchmarks._rivals import Driver, Fit, enough, strengths
from benchmarks._scores import DELTA
from vitalfew import objectives, path, penalties, solve, solvers
from vitalfew.structures import Cardinality, Groups

PATH_TOL = 2e-4  # that of `path`


def objective_of(data: dict[str, Any]) -> Any:
    """Return the objective of a problem."""
    X, y = data["X"], data["y"]
    if data["loss"] == "cox":
        return objectives.Cox(X, y[:, 0], y[:, 1])
    if data["loss"] == "huber":
        return objectives.Huber(X, y, delta=DELTA)
    kinds = {"squares": objectives.LeastSquares, "logistic": objectives.Logistic}
    return kinds[data["loss"]](X, y)


def structure_of(data: dict[str, Any]) -> Any:
    """Return the budget of a problem."""
    if data["group_size"] == 1:
        return Cardinality(data["k"])
    return Groups(_labels(data), data["k"])


def _labels(data: dict[str, Any]) -> Any:
    return np.arange(data["X"].shape[1]) // data["group_size"]


def by_solver(solver: Any) -> Driver:
    """Ask `solve` with a solver, ``"best"``, or None for the default."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        return lambda: solve(objective_of(data), structure_of(data), solver).x

    return make


def own_function(data: dict[str, Any], threads: int) -> Fit:
    """A user's own function in torch, with no more than its value given."""
    import torch

    torch.set_num_threads(threads)

    def fit() -> Any:
        X, y = torch.as_tensor(data["X"]), torch.as_tensor(data["y"])

        def huber(x: Any) -> Any:
            r = torch.abs(y - X @ x)
            outside = DELTA * (r - DELTA / 2)
            return torch.where(r <= DELTA, r * r / 2, outside).mean()

        return solve(objectives.Smooth(huber, X.shape[1]), structure_of(data)).x.numpy()

    return fit


def lasso_walk(data: dict[str, Any], threads: int) -> Fit:
    """Coordinate descent from strength to strength, as exact as `path` has it."""

    def fit() -> Any:
        objective, found = objective_of(data), None
        if data["group_size"] > 1:
            labels = _labels(data)
            penalty: Any = penalties.GroupL2(labels, 1.0, np.ones(labels[-1] + 1))
        else:
            penalty = penalties.L1(1.0)
        logistic = data["loss"] == "logistic"  # the grids of the rivals
        grid = np.geomspace(1, 0.03, 50) if logistic else np.geomspace(1, 0.01, 100)
        _, slope = objective.value_and_gradient(np.zeros(objective.shape))
        most = penalty.critical_alpha(slope)
        solver = solvers.CoordinateDescent(tol=PATH_TOL, scale=most)
        for alpha in most * grid:
            found = solve(objective, penalty.with_alpha(alpha), solver, start=found)
            if enough(found.x, data):
                break
        return found.x

    return fit


def along_alpha(l1_ratio: float, tol: float | None = None) -> Driver:
    """Ask `path` for a lasso or elastic net."""

    def make(data: dict[str, Any], threads: int) -> Fit:
        solver = None if tol is None else solvers.CoordinateDescent(tol=tol)

        def fit() -> Any:
            alphas = strengths(data) / l1_ratio
            if l1_ratio == 1:
                penalty: Any = penalties.L1(1.0)
            else:
                penalty = penalties.ElasticNet(1.0, l1_ratio=l1_ratio)
            found = path(objective_of(data), penalty, alphas, solver, choose=None)
            coefs = np.stack([s.x for s in found.solutions], axis=1)
            return coefs, np.asarray(found.budgets)

        return fit

    return make


_STRUCTURED: dict[str, Driver] = {
    "vitalfew": by_solver(None),
    "vitalfew.best": by_solver("best"),
    "vitalfew.HTP": by_solver(solvers.HTP()),
    "vitalfew.OMP": by_solver(solvers.OMP()),
    "vitalfew.lasso->k": lasso_walk,
}

OURS: dict[str, dict[str, Driver]] = {
    **dict.fromkeys("abcdexhi", _STRUCTURED),
    "f": {"vitalfew": along_alpha(1.0), "vitalfew.tight": along_alpha(1.0, 1e-8)},
    "fe": {"vitalfew": along_alpha(0.5), "vitalfew.tight": along_alpha(0.5, 1e-8)},
    "g": {**_STRUCTURED, "vitalfew.Smooth": own_function},
    "s": {"vitalfew": by_solver(None), "vitalfew.OMP": by_solver(solvers.OMP())},
}
