"""The default solver on planted problems: it reaches the support that was planted."""

import numpy as np
import pytest

from vitalfew import solve
from vitalfew.objectives import LeastSquares
from vitalfew.solvers import OMP
from vitalfew.structures import Cardinality


def blocks(seed, rho=0.95, n=500, p=2000, width=10):
    """Blocks of strongly correlated columns, three active in each, one opposed."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((n, p // width)), width, axis=1)
    X = np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.standard_normal((n, p))
    x = np.zeros(p)
    for block in rng.choice(p // width, 10, replace=False):
        active = block * width + rng.choice(width, 3, replace=False)
        x[active] = np.array([1, -1, 1]) * rng.uniform(0.8, 1.2, 3)
    signal = X @ x
    noise = rng.standard_normal(n) * np.sqrt(np.var(signal) / 30)
    return X, signal + noise, np.flatnonzero(x)


@pytest.mark.parametrize("seed", range(10))
def test_the_greedy_trap_is_solved(seed):
    X, y, planted = blocks(seed)
    f = LeastSquares(X, y)
    structure = Cardinality(len(planted)).on(f.shape)
    truth = f.refit(structure.support(planted)).value
    assert solve(f, structure).value <= truth * (1 + 1e-9)


def test_the_trap_is_one():
    """Greedy alone ends far above the truth, or the test before would prove nothing."""
    X, y, planted = blocks(0)
    f = LeastSquares(X, y)
    structure = Cardinality(len(planted)).on(f.shape)
    truth = f.refit(structure.support(planted)).value
    assert solve(f, structure, OMP()).value > 1.5 * truth


@pytest.mark.parametrize("seed", range(3))
def test_fifty_of_ten_thousand_columns_are_found(seed):
    rng = np.random.default_rng(seed)
    n, p, k, rho = 1000, 10_000, 50, 0.7
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    x = np.zeros(p)
    planted = rng.choice(p, k, replace=False)
    x[planted] = rng.uniform(0.5, 1.5, k) * rng.choice([-1, 1], k)
    signal = X @ x
    y = signal + rng.standard_normal(n) * np.sqrt(np.var(signal) / 6)
    assert solve(LeastSquares(X, y), Cardinality(k)).support.tolist() == sorted(planted)
