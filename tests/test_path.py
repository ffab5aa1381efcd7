import itertools

import numpy as np
import pytest

from vitalfew import path, solve
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import Cox, LeastSquares, Logistic, Quadratic
from vitalfew.penalties import L1
from vitalfew.solvers import HTP, OMP
from vitalfew.structures import Cardinality, Groups


def table(seed=0, n=90, p=14, k=3, noise=0.3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    x = np.zeros(p)
    x[:k] = (1.5, -1.0, 0.8)[:k]
    return X, X @ x + noise * rng.standard_normal(n)


def test_the_objective_never_rises_along_the_path():
    X, y = table()
    for solver in (None, OMP(), HTP()):
        found = path(LeastSquares(X, y), Cardinality(1), range(10), solver, choose=None)
        values = [s.value for s in found.solutions]
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))
        assert [len(s.support) for s in found.solutions] == list(range(10))


def test_each_solution_is_at_least_as_good_as_solving_afresh():
    X, y = table(3, noise=2.0)
    found = path(LeastSquares(X, y), Cardinality(1), (2, 5, 8), choose=None)
    for k, solution in zip((2, 5, 8), found.solutions, strict=True):
        fresh = solve(LeastSquares(X, y), Cardinality(k)).value
        assert solution.value <= fresh * (1 + 1e-12)


def test_a_path_of_any_length_prints_on_a_few_lines():
    X, y = table()
    found = path(LeastSquares(X, y), L1(1.0), choose="bic")
    assert len(found.budgets) > 50
    assert repr(found).startswith(f"Path({len(found.budgets)} alphas from ")
    assert f"choose='bic' took {found.best_budget:.6g}: Solution(" in repr(found)
    assert len(repr(found)) < 300


@pytest.mark.parametrize("choose", ["cv", "cv-1se", "bic", "ebic", "gic"])
def test_criteria_find_strong_columns_and_leave_most_noise(choose):
    noise_columns = []
    for seed in range(10):
        X, y = table(seed)
        f = LeastSquares(X, y, fit_intercept=True)
        support = set(
            path(f, Cardinality(1), range(9), choose=choose, rng=0).best.support
        )
        assert {0, 1, 2} <= support
        noise_columns.append(len(support - {0, 1, 2}))
    # 11 columns of noise; ebic asks for a gain that each reaches with a chance of about
    # one in a hundred, the cheapest, least held-out error, for hardly any
    assert np.mean(noise_columns) < (0.5 if choose == "ebic" else 3)


def test_ebic_takes_no_more_than_bic():
    for seed in range(10):
        X, y = table(seed, noise=2.0)
        f = LeastSquares(X, y, fit_intercept=True)
        few, more = (
            path(f, Cardinality(1), range(7), choose=c).best_budget
            for c in ("ebic", "bic")
        )
        assert few <= more  # its extra price grows with the number of columns here


def test_pure_noise_gets_few_columns_by_ebic():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((100, 60)), rng.standard_normal(100)
    f = LeastSquares(X, y, fit_intercept=True)
    assert path(f, Cardinality(1), range(6), choose="ebic").best_budget == 0


def test_cross_validation_equals_doing_it_by_hand():
    X, y = table(2)
    f = LeastSquares(X, y, fit_intercept=True)
    rows = np.arange(len(y))
    splits = [(rows[rows % 3 != i], rows[rows % 3 == i]) for i in range(3)]
    found = path(f, Cardinality(1), (1, 2, 4), cv=splits)
    for row, (train, test) in zip(found.fold_scores, splits, strict=True):
        for score, k in zip(row, (1, 2, 4), strict=True):
            s = solve(
                LeastSquares(X[train], y[train], fit_intercept=True), Cardinality(k)
            )
            held = y[test] - X[test] @ s.x - s.intercept
            assert score == pytest.approx(0.5 * np.mean(held**2), rel=1e-9)
    np.testing.assert_allclose(found.scores, found.fold_scores.mean(axis=0))


def test_one_standard_error_takes_no_more_than_the_least():
    X, y = table(4, noise=1.5)
    f = LeastSquares(X, y)
    least = path(f, Cardinality(1), range(10), choose="cv", rng=3)
    frugal = path(f, Cardinality(1), range(10), choose="cv-1se", rng=3)
    assert frugal.best_budget <= least.best_budget
    i, j = frugal.best_index, least.best_index
    assert frugal.scores[i] <= least.scores[j] + least.spread[j]
    assert all(frugal.scores[:i] > least.scores[j] + least.spread[j])


def test_a_validation_objective_chooses():
    X, y = table(6)
    held = LeastSquares(X[60:], y[60:])
    found = path(LeastSquares(X[:60], y[:60]), Cardinality(1), range(8), choose=held)
    scores = [held.loss_at(s.x, s.intercept) for s in found.solutions]
    assert found.best_index == int(np.argmin(scores))


def test_folds_are_stratified_for_classes_and_events():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4))
    y = np.zeros(50)
    y[:5] = 1  # with plain folds some training or test part would have no positive
    found = path(Logistic(X, y, l2=0.1), Cardinality(1), (0, 1, 2), cv=5, rng=1)
    assert found.fold_scores.shape == (5, 3)
    f = Cox(X, rng.exponential(size=50), y, l2=0.1)
    assert np.isfinite(path(f, Cardinality(1), (0, 1), cv=5, rng=1).fold_scores).all()


def test_separated_classes_end_the_path_early():
    X = np.column_stack(
        (np.linspace(-1, 1, 40), np.random.default_rng(0).normal(size=40))
    )
    found = path(
        Logistic(X, (X[:, 0] > 0) * 1.0), Cardinality(1), (0, 1, 2), choose=None
    )
    assert found.solutions[1].status.name == "SEPARATED"
    assert found.solutions[2] is found.solutions[1]


def test_groups_and_same_seed_same_path():
    X, y = table(7, p=12)
    groups = Groups(np.repeat(np.arange(4), 3), 1)
    f = LeastSquares(X, y)
    first, second = (path(f, groups, range(5), rng=11) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.best.support.tolist() == second.best.support.tolist() == [0]


def test_a_larger_budget_of_cost_may_help_where_a_smaller_one_did_not():
    X, _ = table(p=3, k=0)
    X[:, 1] = 0  # cheap enough for the first budget, and useless
    y = X[:, 0] + 3 * X[:, 2]
    groups = Groups([0, 1, 2], costs=[1.0, 1.0, 5.0], max_cost=1.0)
    found = path(LeastSquares(X, y), groups, [2, 6], choose=None)
    assert [s.support.tolist() for s in found.solutions] == [[0], [0, 2]]


def test_limits_and_callback():
    X, y = table()
    calls = []
    found = path(
        LeastSquares(X, y),
        Cardinality(1),
        range(4),
        cv=3,
        callback=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(i + 1, 16) for i in range(16)]
    assert not found.interrupted
    hurried = path(LeastSquares(X, y), Cardinality(1), range(4), max_seconds=0.0)
    assert hurried.interrupted
    assert len(hurried.solutions) >= 1


def test_ctrl_c_keeps_what_there_is(monkeypatch):
    X, y = table()
    calls = []

    def step(*args, original=HTP.step):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(HTP, "step", step)
    found = path(LeastSquares(X, y), Cardinality(1), range(1, 30, 2)[:7], HTP(), cv=3)
    assert found.interrupted
    assert len(found.solutions) >= 1
    assert found.best.value <= found.solutions[0].value


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    X, y = table()
    ax = path(LeastSquares(X, y), Cardinality(1), range(4)).plot()
    assert ax.get_xlabel() == "budget"


def test_bad_input_is_refused():
    X, y = table()
    f = LeastSquares(X, y)
    with pytest.raises(ValueError, match="budgets must not be empty"):
        path(f, Cardinality(1), ())
    with pytest.raises(ValueError, match=r"budgets must be numbers.*got 3"):
        path(f, Cardinality(1), 3)
    with pytest.raises(ValueError, match="cv must give rows from 0 to 89, got 0 to 90"):
        path(f, Cardinality(1), (1,), cv=[([0, 1, 90], [2])])
    with pytest.raises(ValueError, match="at least one row to train on"):
        path(f, Cardinality(1), (1,), cv=[([0, 1, 2], [])])
    with pytest.raises(ValueError, match="choose must be one of"):
        path(f, Cardinality(1), (1,), choose="aic")
    with pytest.raises(ValueError, match="cv must lie between 2 and the 90 rows"):
        path(f, Cardinality(1), (1,), cv=1)
    with pytest.raises(ValueError, match="n_nonzero must be an integer from 0 to 14"):
        path(f, Cardinality(1), (1, 15))
    with pytest.raises(IncompatibleError, match="choose=None"):
        path(Quadratic(np.eye(2), np.ones((2, 2))), Cardinality(1), (1, 2))
