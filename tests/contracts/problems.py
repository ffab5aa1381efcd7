"""How to make each exported objective; a newly exported one needs one entry here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from vitalfew import objectives

Targets = dict[str, np.ndarray]


@dataclass(frozen=True)
class DataProblem:
    """An objective over the rows of a table, and targets that suit it."""

    cls: type
    targets: Callable[[np.random.Generator, np.ndarray], Targets]
    settings: dict[str, Any] = field(default_factory=dict)
    has_intercept: bool = True
    weights_repeat: bool = True  # an integer weight is that many equal rows

    def build(self, X: Any, targets: Targets, **options: Any) -> Any:
        if not self.has_intercept:
            options.pop("fit_intercept", None)
        return self.cls(X, **targets, **self.settings, **options)


def signal(X: np.ndarray) -> np.ndarray:
    """A predictor that three columns make, of standard deviation near one."""
    few = X[:, : min(3, X.shape[1])]
    return few @ np.array([1.0, -0.8, 0.6])[: few.shape[1]]


def _real(rng, X):
    return {"y": signal(X) + 0.5 * rng.standard_normal(len(X)) + 1.5}


def _several(rng, X):
    y = np.stack([signal(X), -signal(X[:, ::-1])], axis=1)
    return {"y": y + 0.5 * rng.standard_normal(y.shape) + 1.5}


def _heavy(rng, X):
    return {"y": signal(X) + rng.standard_t(2, size=len(X)) + 1.5}


def _binary(rng, X):
    y = (signal(X) + rng.logistic(size=len(X)) > 0).astype(float)
    y[:2] = 0.0, 1.0
    return {"y": y}


def _counts(rng, X):
    y = rng.poisson(np.exp(np.clip(0.5 * signal(X), -2, 2))).astype(float)
    y[0] = 1.0
    return {"y": y}


def _positive(rng, X):
    return {"y": rng.gamma(4.0, np.exp(np.clip(0.5 * signal(X), -2, 2)))}


def _classes(rng, X):
    noise = rng.gumbel(size=(len(X), 3))
    noise[:, 0] += signal(X)
    y = noise.argmax(axis=1)
    y[:3] = 0, 1, 2
    return {"y": y.astype(float)}


def _ordered(rng, X):
    y = np.digitize(signal(X) + rng.logistic(size=len(X)), [-1.0, 0.5, 2.0])
    y[:4] = 0, 1, 2, 3
    return {"y": y.astype(float)}


def _survival(rng, X):
    # rounded up, so that times are tied
    time = np.ceil(4 * rng.exponential(size=len(X)) * np.exp(-signal(X) / 2)) + 1.0
    event = (rng.random(len(X)) < 0.7).astype(float)
    event[:2] = 1.0
    return {"time": time, "event": event}


DATA_PROBLEMS = {
    "LeastSquares": DataProblem(objectives.LeastSquares, _real),
    "LeastSquares, two outputs": DataProblem(objectives.LeastSquares, _several),
    "LeastSquares, no cache": DataProblem(
        objectives.LeastSquares, _real, {"cache_bytes": 0}
    ),
    "Logistic": DataProblem(objectives.Logistic, _binary),
    "Poisson": DataProblem(objectives.Poisson, _counts),
    "Huber": DataProblem(objectives.Huber, _heavy, {"delta": 0.7}),
    "SquaredHinge": DataProblem(objectives.SquaredHinge, _binary),
    "Gamma": DataProblem(objectives.Gamma, _positive),
    "Quantile": DataProblem(
        objectives.Quantile, _heavy, {"quantile": 0.7, "bandwidth": 0.4}
    ),
    "Multinomial": DataProblem(objectives.Multinomial, _classes),
    "Ordinal": DataProblem(objectives.Ordinal, _ordered, has_intercept=False),
    "Ordinal, not parallel": DataProblem(
        objectives.Ordinal, _ordered, {"parallel": False}, has_intercept=False
    ),
    # Efron's ties count events one by one, so a weight of two is not two tied events
    "Cox, Efron": DataProblem(
        objectives.Cox,
        _survival,
        {"ties": "efron"},
        has_intercept=False,
        weights_repeat=False,
    ),
    "Cox, Breslow": DataProblem(
        objectives.Cox, _survival, {"ties": "breslow"}, has_intercept=False
    ),
}


def _quadratic(rng: np.random.Generator, backend: Any, dtype: str) -> Any:
    root = rng.standard_normal((12, 5))
    B = rng.standard_normal((2, 5))
    H = root.T @ root / 12
    return objectives.Quadratic(backend.array(H, dtype), backend.array(B, dtype), 1.0)


def _fisher(rng: np.random.Generator, backend: Any, dtype: str, n: int = 9) -> Any:
    A = backend.array(rng.standard_normal((n, 6)), dtype)
    center = backend.array(rng.standard_normal(6), dtype)
    return objectives.Fisher(A, center, 1.0, ridge=0.1)


def _smooth(rng: np.random.Generator, backend: Any, dtype: str) -> Any:
    middle = backend.array(rng.standard_normal(6), dtype)

    def function(x):
        d = x - middle
        return ((1 + d * d) ** 0.5).sum() if hasattr(d, "sum") else _total(d)

    def _total(d):
        xp = d.__array_namespace__()
        return xp.sum((1 + d * d) ** 0.5)

    def gradient(x):
        d = x - middle
        return d / (1 + d * d) ** 0.5

    return objectives.Smooth(function, 6, gradient=gradient, like=middle)


FREE_PROBLEMS: dict[str, tuple[type, Callable[..., Any]]] = {
    "Quadratic": (objectives.Quadratic, _quadratic),
    "Fisher": (objectives.Fisher, _fisher),
    "Fisher, few samples": (objectives.Fisher, partial(_fisher, n=2)),
    "Smooth": (objectives.Smooth, _smooth),
}


def concrete_objectives() -> list[str]:
    """Names of the exported objectives that can be made."""
    classes = {name: getattr(objectives, name) for name in objectives.__all__}
    return [name for name, cls in classes.items() if not inspect.isabstract(cls)]


@dataclass(frozen=True)
class Table:
    """Data of one problem, on the host."""

    X: np.ndarray
    targets: Targets
    weight: np.ndarray

    def rows(self, ids: Any) -> "Table":
        targets = {name: values[ids] for name, values in self.targets.items()}
        return Table(self.X[ids], targets, self.weight[ids])


def make_table(problem: DataProblem, rng: np.random.Generator, n=40, p=6) -> Table:
    X = rng.standard_normal((n, p)) + 0.3 * rng.standard_normal((n, 1))
    X[rng.random((n, p)) < 0.3] = 0.0  # so that sparse storage is not dense
    weight = rng.integers(1, 4, size=n).astype(float)
    return Table(X, problem.targets(rng, X), weight)
