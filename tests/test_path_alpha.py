"""Paths along the strength of a penalty."""

import numpy as np
import pytest
from sklearn.linear_model import ElasticNetCV, LassoCV, enet_path
from sklearn.model_selection import KFold

from vitalfew import path, solve
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic, Quadratic
from vitalfew.penalties import (
    L1,
    MCP,
    SCAD,
    SLOPE,
    ElasticNet,
    GroupL2,
    L1Ball,
    Lq,
    SparseGroup,
)
from vitalfew.solution import Status
from vitalfew.solvers import OMP, CoordinateDescent, ProximalGradient
from vitalfew.structures import Cardinality

GROUPS = np.arange(40) // 4


def table(seed=0, n=60, p=40):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1))
    y = X[:, 3] - 2 * X[:, 7] + X[:, 8] + rng.standard_normal(n) + 1.0
    return X, y


def slopes_at_zero(f):
    return f.value_and_gradient(np.zeros(f.shape))[1]


@pytest.mark.parametrize(
    "penalty",
    [
        L1(1.0),
        ElasticNet(1.0),
        GroupL2(GROUPS, 1.0),
        SparseGroup(GROUPS, 1.0),
        MCP(1.0, 8.0),  # above the curvature of both, so that zero is the best
    ],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("loss", [LeastSquares, Logistic])
def test_the_default_strengths_begin_where_nothing_is_left(penalty, loss):
    X, y = table()
    f = loss(
        X, y if loss is LeastSquares else (y > 1).astype(float), fit_intercept=True
    )
    found = path(f, penalty, choose=None)
    assert found.varied == "alpha"
    assert len(found.budgets) == len(found.solutions) == 100
    assert found.budgets[0] == pytest.approx(penalty.critical_alpha(slopes_at_zero(f)))
    np.testing.assert_allclose(np.diff(np.log(found.budgets)), np.log(0.01) / 99)
    assert len(found.solutions[0].support) == 0
    assert len(found.solutions[2].support) > 0
    scale = np.abs(slopes_at_zero(f)).max()
    for alpha, solution in zip(found.budgets, found.solutions, strict=True):
        at = penalty.with_alpha(alpha)
        gradient = f.value_and_gradient(solution.x)[1]
        assert at.subdifferential_distance(solution.x, gradient) <= 2.6e-4 * scale
        value = f.value_and_gradient(solution.x)[0] + at.value(solution.x)
        assert solution.value == pytest.approx(value, rel=1e-10)
        expected = f.intercept_at(solution.x)
        assert float(solution.intercept) == pytest.approx(float(expected), abs=1e-8)
        np.testing.assert_allclose(solution.fit.gradient, gradient, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_it_is_the_path_of_scikit_learn(seed, ratio):
    X, y = table(seed)
    penalty = L1(1.0) if ratio == 1 else ElasticNet(1.0, ratio)
    found = path(LeastSquares(X, y), penalty, choose=None)
    alphas, coefs, _ = enet_path(X, y, l1_ratio=ratio, alphas=found.budgets, tol=1e-12)
    np.testing.assert_allclose(alphas, found.budgets)
    ours = np.stack([s.x for s in found.solutions], axis=1)
    np.testing.assert_allclose(ours, coefs, atol=5e-3)
    exact = path(LeastSquares(X, y), penalty, alphas, CoordinateDescent(), choose=None)
    ours = np.stack([s.x for s in exact.solutions], axis=1)
    np.testing.assert_allclose(ours, coefs, atol=1e-6)


def test_strengths_in_any_order_are_each_solved_once():
    X, y = table()
    found = path(LeastSquares(X, y), L1(9.0), [0.1, 0.5, 0.1, 0.02], choose=None)
    assert found.budgets == [0.5, 0.1, 0.02]
    assert found.best_budget == 0.02
    sizes = [len(s.support) for s in found.solutions]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("solver", [None, ProximalGradient()])
def test_cross_validation_is_that_of_scikit_learn(solver):
    X, y = table(n=90)
    folds = list(KFold(5, shuffle=True, random_state=0).split(X))
    f = LeastSquares(X, y, fit_intercept=True)
    alphas = np.geomspace(2.0, 0.02, 100 if solver is None else 12)
    ours = path(f, L1(1.0), alphas, solver, cv=folds)
    theirs = LassoCV(alphas=ours.budgets, cv=folds, tol=1e-10, max_iter=50_000)
    theirs.fit(X, y)
    # half the squared errors; folds of one size weigh the same in both means
    expected = theirs.mse_path_.T / 2
    rough = 2e-3 if solver is None else 1e-6
    np.testing.assert_allclose(ours.fold_scores, expected, rtol=rough)
    np.testing.assert_allclose(ours.scores, expected.mean(axis=0), rtol=rough)
    best = ours.scores[ours.best_index]
    assert best == ours.scores.min()
    assert abs(np.log(ours.best_budget / theirs.alpha_)) < 0.1
    one = path(f, L1(1.0), alphas, solver, cv=folds, choose="cv-1se")
    inside = ours.scores <= best + ours.spread[ours.best_index]
    assert one.best_index == np.flatnonzero(inside)[0] <= ours.best_index


def test_elastic_net_cv():
    X, y = table(1, n=90)
    folds = list(KFold(3).split(X))
    ours = path(LeastSquares(X, y, fit_intercept=True), ElasticNet(1.0), cv=folds)
    theirs = ElasticNetCV(alphas=ours.budgets, cv=folds, tol=1e-9, max_iter=50_000)
    assert abs(np.log(ours.best_budget / theirs.fit(X, y).alpha_)) < 0.1


@pytest.mark.parametrize("choose", ["bic", "ebic", "gic"])
def test_information_criteria_find_the_three(choose):
    X, y = table(n=400)
    f = LeastSquares(X, y, fit_intercept=True)
    found = path(f, MCP(1.0), choose=choose)
    assert found.best.support.tolist() == [3, 7, 8]
    assert found.best_index == np.argmin(found.scores)


def test_validation_rows():
    X, y = table(n=120)
    train, test = LeastSquares(X[:80], y[:80]), LeastSquares(X[80:], y[80:])
    found = path(train, L1(1.0), choose=test)
    expected = [test.loss_at(s.x) for s in found.solutions]
    np.testing.assert_allclose(found.scores, expected)
    assert 0 < found.best_index < 99


def test_free_columns_do_not_count_as_left():
    X, y = table()
    weights = np.ones(40)
    weights[[3, 20]] = 0.0
    f = LeastSquares(X, y)
    found = path(f, L1(1.0, weights=weights), choose=None)
    free = np.linalg.lstsq(X[:, [3, 20]], y, rcond=None)[0]
    np.testing.assert_allclose(found.solutions[0].x[[3, 20]], free, atol=2e-3)
    left = X.T @ (y - X[:, [3, 20]] @ free) / len(X)
    assert found.budgets[0] == pytest.approx(np.abs(left).max(), rel=1e-6)
    assert found.solutions[0].support.tolist() == [3, 20]
    assert len(found.solutions[2].support) > 2


@pytest.mark.parametrize("penalty", [SLOPE(1.0), SCAD(1.0)], ids=["SLOPE", "SCAD"])
def test_other_penalties(penalty):
    X, y = table()
    f = LeastSquares(X, y, fit_intercept=True)
    found = path(f, penalty, choose=None)
    assert len(found.solutions[0].support) == 0
    assert len(found.solutions[-1].support) > 3
    if isinstance(penalty, SLOPE):
        assert found.best.solver.startswith("ProximalGradient")
        exact = solve(f, penalty.with_alpha(found.budgets[50]))
        assert found.solutions[50].value == pytest.approx(exact.value, rel=1e-3)


def test_an_objective_without_rows():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((30, 10))
    f = Quadratic(root.T @ root / 30, rng.standard_normal((1, 10)))
    found = path(f, L1(1.0), choose=None)
    assert len(found.solutions) == 100
    with pytest.raises(IncompatibleError, match="choose=None"):
        path(f, L1(1.0))


def test_limits_and_callbacks():
    X, y = table()
    f = LeastSquares(X, y)
    seen = []
    found = path(f, L1(1.0), choose=None, callback=lambda *at: seen.append(at))
    assert seen == [(i + 1, 100) for i in range(100)]
    assert not found.interrupted
    cut = path(f, L1(1.0), choose=None, max_seconds=0.0)
    assert cut.interrupted
    assert 0 < len(cut.budgets) == len(cut.solutions) < 100
    assert cut.solutions[-1].status in (Status.CONVERGED, Status.MAX_SECONDS)

    def stop(done, total):
        if done == 7:
            raise KeyboardInterrupt

    cut = path(f, L1(1.0), choose=None, callback=stop)
    assert cut.interrupted
    assert len(cut.solutions) == 7


def test_what_cannot_be_varied():
    X, y = table()
    f = LeastSquares(X, y)
    with pytest.raises(IncompatibleError, match=r"structures.*penalties.*L1Ball"):
        path(f, L1Ball(1.0), [1.0])
    with pytest.raises(ValueError, match=r"budgets must be given.*Lq.*is 0"):
        path(f, Lq(1.0))
    with pytest.raises(ValueError, match=r"budgets must be given.*ElasticNet.*inf"):
        path(f, ElasticNet(1.0, l1_ratio=0.0))
    with pytest.raises(ValueError, match=r"budgets must be given.*is 0"):
        path(LeastSquares(X, np.zeros(60)), L1(1.0))
    with pytest.raises(ValueError, match=r"budgets must be given for Cardinality"):
        path(f, Cardinality(2))
    with pytest.raises(ValueError, match=r"alpha must be.*-1"):
        path(f, L1(1.0), [-1.0])
    with pytest.raises(ValueError, match="budgets must not be empty"):
        path(f, L1(1.0), [])
    for seconds in (-1.0, float("nan"), "long"):
        with pytest.raises(ValueError, match="max_seconds must be"):
            path(f, L1(1.0), [0.1], max_seconds=seconds)
    with pytest.raises(IncompatibleError, match="OMP needs a structure"):
        path(f, L1(1.0), solver=OMP())
    with pytest.raises(IncompatibleError, match="objective must be one of"):
        path(X, L1(1.0), choose=None)


def test_the_plot_is_along_the_logarithm():
    pytest.importorskip("matplotlib").use("Agg")
    X, y = table()
    ax = path(LeastSquares(X, y), L1(1.0), [0.5, 0.1], choose=None).plot()
    assert ax.get_xlabel() == "alpha"
    assert ax.get_xscale() == "log"
