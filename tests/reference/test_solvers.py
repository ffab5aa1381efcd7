"""Whole runs against scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from vitalfew import solve, solvers
from vitalfew.contracts import Penalty
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.penalties import L1, GroupL2
from vitalfew.structures import Cardinality

linear_model = pytest.importorskip("sklearn.linear_model")


@pytest.fixture
def data(rng):
    X = rng.standard_normal((80, 30)) @ (
        np.eye(30) + 0.2 * rng.standard_normal((30, 30))
    )
    y = X[:, [3, 11, 20]] @ np.array([1.0, -1.0, 2.0]) + rng.standard_normal(80) + 3.0
    return X, y


@pytest.mark.parametrize("k", [1, 4, 10, 30])
@pytest.mark.parametrize("storage", [np.asarray, scipy.sparse.csr_array])
def test_omp(k, storage, data):
    X, y = data
    X = X / np.linalg.norm(
        X, axis=0
    )  # theirs wants unit columns to choose as ours does
    ours = solve(LeastSquares(storage(X), y), Cardinality(k), solvers.OMP())
    theirs = linear_model.orthogonal_mp(X, y, n_nonzero_coefs=k)
    np.testing.assert_array_equal(ours.support, np.flatnonzero(theirs))
    np.testing.assert_allclose(ours.x, theirs, atol=1e-8)


def test_omp_with_an_intercept(data):
    X, y = data
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    ours = solve(
        LeastSquares(X + 5.0, y, fit_intercept=True), Cardinality(6), solvers.OMP()
    )
    theirs = linear_model.orthogonal_mp(X, y - y.mean(), n_nonzero_coefs=6)
    np.testing.assert_allclose(ours.x, theirs, atol=1e-8)
    assert ours.intercept == pytest.approx(y.mean() - 5.0 * ours.x.sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_lasso(alpha, intercept, weighted, data, rng):
    X, y = data
    weight = rng.random(80) + 0.2 if weighted else None
    f = LeastSquares(X, y, sample_weight=weight, fit_intercept=intercept)
    ours = solve(f, L1(alpha))
    theirs = linear_model.Lasso(
        alpha=alpha, fit_intercept=intercept, tol=1e-12, max_iter=100_000
    ).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.x, theirs.coef_, atol=1e-5)
    lowest = f.value_and_gradient(theirs.coef_)[0] + alpha * np.abs(theirs.coef_).sum()
    assert ours.value <= lowest * (1 + 1e-12)
    if intercept:
        assert ours.intercept == pytest.approx(theirs.intercept_, abs=1e-5)


def test_logistic_lasso(data):
    X, y = data
    labels = (y > np.median(y)).astype(float)
    alpha = 0.02
    ours = solve(Logistic(X, labels, fit_intercept=True), L1(alpha))
    theirs = linear_model.LogisticRegression(
        C=1 / (80 * alpha), l1_ratio=1, solver="saga", tol=1e-10, max_iter=100_000
    ).fit(X, labels)
    np.testing.assert_allclose(ours.x, theirs.coef_[0], atol=1e-4)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_multitask_lasso_is_a_group_penalty(data, rng):
    X, y = data
    Y = np.stack([y, rng.standard_normal(80) + X[:, 3]], axis=1)
    alpha = 0.2
    f = LeastSquares(X, Y, fit_intercept=True)
    ours = solve(f, GroupL2(np.arange(30), alpha, weights=np.ones(30)))
    theirs = linear_model.MultiTaskLasso(alpha=alpha, tol=1e-12, max_iter=100_000).fit(
        X, Y
    )
    np.testing.assert_allclose(ours.x, theirs.coef_.T, atol=1e-5)


def test_best_subset_by_mixed_integer_programming(rng):
    """A linear loss stands in for the square, so that SciPy's MIP can prove the best.

    With orthogonal columns the best k have the largest correlations, which it picks.
    """
    X = np.linalg.qr(rng.standard_normal((60, 12)))[0]
    y = rng.standard_normal(60)
    gains = (X.T @ y) ** 2
    answer = scipy.optimize.milp(
        -gains,
        constraints=scipy.optimize.LinearConstraint(np.ones(12), ub=4),
        integrality=np.ones(12),
        bounds=scipy.optimize.Bounds(0, 1),
    )
    best = np.flatnonzero(answer.x > 0.5)
    for name in solvers.__all__:
        if getattr(solvers, name).accepts is Penalty:
            continue
        found = solve(LeastSquares(X, y), Cardinality(4), getattr(solvers, name)())
        np.testing.assert_array_equal(found.support, best)


def test_knapsack_by_mixed_integer_programming(rng):
    from vitalfew.structures._knapsack import knapsack

    for _ in range(20):
        gains, costs = rng.random(40), rng.integers(1, 60, 40).astype(float)
        answer = scipy.optimize.milp(
            -gains,
            constraints=scipy.optimize.LinearConstraint(costs, ub=300),
            integrality=np.ones(40),
            bounds=scipy.optimize.Bounds(0, 1),
            options={"mip_rel_gap": 0},
        )
        taken = knapsack(gains, costs, 300)
        assert costs[taken].sum() <= 300
        assert gains[taken].sum() == pytest.approx(
            -answer.fun, rel=1e-7
        )  # its tolerance
