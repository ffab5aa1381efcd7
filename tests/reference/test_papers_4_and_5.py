"""What two papers claim: the sequential lasso picks as OMP, and steps that grow.

K. Axiotis, T. Yasuda, "Performance of l1 regularization for sparse convex
optimization", 2023; K. Axiotis, M. Sviridenko, "Gradient descent converges linearly for
logistic regression on separable data", ICML, 2023.
"""

import numpy as np
import pytest

from vitalfew import solve
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.solution import Status
from vitalfew.solvers import OMP, SequentialLasso, VariableStepGradient
from vitalfew.solvers.sequential_lasso import lasso_entrants
from vitalfew.structures import Cardinality, Groups, Rows
from vitalfew.supports import Whole

GROUPS_OF_3 = np.arange(36) // 3


def correlated(seed, n=60, p=36):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    X = X / np.sqrt((X * X).mean(axis=0))
    y = X[:, ::7] @ rng.standard_normal(X[:, ::7].shape[1])
    return X, y + 0.3 * rng.standard_normal(n)


def greedy_groups(X, y, labels, steps):
    """Group orthogonal matching pursuit, written out."""
    chosen = []
    for _ in range(steps):
        inside = np.isin(labels, chosen)
        z = np.linalg.lstsq(X[:, inside], y, rcond=None)[0]
        g = X.T @ (X[:, inside] @ z - y)
        norms = np.sqrt(np.bincount(labels, g * g))
        norms[chosen] = -1.0
        chosen.append(int(norms.argmax()))
    return chosen


def picks(f, structure, solver):
    """The order in which atoms joined."""
    found = []
    solve(f, structure, solver, callback=lambda n, fit: found.append(fit.support.atoms))
    return found[-1].tolist()


# -- sequential lasso ------------------------------------------------------------------


@pytest.mark.parametrize("labels", [np.arange(36), GROUPS_OF_3], ids=["single", "3"])
def test_the_sequential_lasso_picks_as_omp(labels):
    for seed in range(20):
        X, y = correlated(seed)
        f, structure = LeastSquares(X, y), Groups(labels, 5).on((36,))
        expected = greedy_groups(X, y, labels, 5)
        assert picks(f, structure, SequentialLasso()) == expected
        for size in range(5):  # and never lets a second one in
            fit = f.refit(structure.support(expected[:size]))
            slopes = np.sqrt(structure.scores(fit.gradient))
            first, second = np.sort(slopes)[::-1][:2]
            alpha = first - 0.02 * (first - second)
            entering = lasso_entrants(f, structure, fit, alpha)
            assert entering.tolist() == [expected[size]]


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("labels", [np.arange(36), GROUPS_OF_3], ids=["single", "3"])
def test_the_same_for_logistic_regression(labels, intercept):
    for seed in range(10):
        X, y = correlated(seed, n=200)
        rng = np.random.default_rng(seed)
        y = (y + 2 * rng.standard_normal(200) > 0.5).astype(float)
        f = Logistic(X, y, fit_intercept=intercept)
        structure = Groups(labels, 4)
        assert picks(f, structure, SequentialLasso()) == picks(f, structure, OMP())


def test_the_same_for_rows_of_several_outputs():
    for seed in range(5):
        X, y = correlated(seed)
        Y = np.stack([y, np.roll(y, 5), y * y], axis=1)
        f = LeastSquares(X, Y)
        assert picks(f, Rows(4), SequentialLasso()) == picks(f, Rows(4), OMP())


def test_far_below_the_largest_gradient_the_lasso_lets_others_in():
    def right(d):
        count = 0
        for seed in range(20):
            X, y = correlated(seed)
            f, structure = LeastSquares(X, y), Groups(GROUPS_OF_3, 5).on((36,))
            fit = f.refit(structure.support([]))
            slopes = np.sqrt(structure.scores(fit.gradient))
            entering = lasso_entrants(f, structure, fit, (1 - d) * slopes.max())
            count += entering.tolist() == [int(slopes.argmax())]
        return count

    counts = [right(d) for d in (1e-4, 1e-2, 0.1, 0.3)]
    assert counts[0] == 20
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= 10


def test_equal_gradients_are_settled_as_by_omp():
    X, y = correlated(0)
    X = np.concatenate((X, X), axis=1)
    f = LeastSquares(X, y)
    ours = solve(f, Cardinality(5), SequentialLasso())
    theirs = solve(f, Cardinality(5), OMP())
    np.testing.assert_array_equal(ours.support % 36, theirs.support % 36)


def test_what_is_too_dear_does_not_enter():
    X, y = correlated(3)
    f = LeastSquares(X, y)
    first = greedy_groups(X, y, np.arange(36), 1)[0]
    costs = np.ones(36)
    costs[first] = 10.0
    structure = Groups(np.arange(36), costs=costs, max_cost=3)
    solution = solve(f, structure, SequentialLasso())
    assert first not in solution.support
    assert len(solution.support) == 3


# -- steps that grow as the loss falls -------------------------------------------------


def separable(seed, n=220, p=20):
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((n, p)), rng.standard_normal(p)
    margin = X @ (w / np.linalg.norm(w))
    kept = np.abs(margin) > 0.1
    return X[kept], (margin[kept] > 0).astype(float)


def history(f, steps, **settings):
    solver = VariableStepGradient(**settings)
    whole = Cardinality(f.shape[0])
    return np.array(solve(f, whole, solver, max_iter=steps).history)


def constant_steps(f, X, steps):
    size = 4 * len(X) / np.linalg.eigvalsh(X.T @ X)[-1]
    x, values = np.zeros(X.shape[1]), []
    for _ in range(steps + 1):
        value, g = f.value_and_gradient(x)
        values.append(value)
        x = x - size * g
    return np.array(values)


def slope(values, begin, end):
    """Mean fall of the logarithm in a step."""
    return (np.log(values[begin]) - np.log(values[end])) / (end - begin)


@pytest.mark.parametrize("seed", range(3))
def test_the_logarithm_falls_linearly_on_separable_data(seed):
    X, y = separable(seed)
    f = Logistic(X, y)
    fixed = constant_steps(f, X, 1200)
    late, early = slope(fixed, 600, 1200), slope(fixed, 200, 400)
    assert late < 0.45 * early  # as 1/t: a third of it
    for form in ("dense", "sparse"):
        values = history(f, 1200, form=form)
        assert slope(values, 600, 1200) > 0.65 * slope(values, 200, 400)
        assert slope(values, 600, 1200) > 5 * late
        assert values[-1] < 1e-1 * fixed[-1]


@pytest.mark.parametrize("seed", range(3))
def test_the_safe_steps_are_slow_at_first_and_faster_in_the_end(seed):
    X, y = separable(seed)
    f = Logistic(X, y)
    fixed = constant_steps(f, X, 3000)
    values = history(f, 3000, form="dense", bound=(X * X).sum(axis=1).max())
    assert values[300] > fixed[300]
    assert slope(values, 1500, 3000) > 2 * slope(fixed, 1500, 3000)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_loss_bounds_its_curvature(intercept):
    for seed in range(5):
        X, y = separable(seed)
        f = Logistic(X, y, fit_intercept=intercept)
        rng, whole = np.random.default_rng(seed), Whole((20,))
        for size in (0.0, 0.1, 1.0, 10.0):
            fit = f.at(whole, size * rng.standard_normal(20))
            H = f.hessian(fit, Cardinality(20).on((20,)).support(np.arange(20)))
            dense = (X * X).sum(axis=1).max() * fit.value
            assert np.linalg.eigvalsh(H)[-1] <= dense
            assert np.diagonal(H).max() <= (X * X).max() * fit.value


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_safe_steps_are_those_of_the_paper(form):
    X, y = separable(1)
    f = Logistic(X, y)
    B = (X * X).sum(axis=1).max() if form == "dense" else (X * X).max()
    found = []
    solve(
        f,
        Cardinality(20),
        VariableStepGradient(form=form, bound=B),
        max_iter=30,
        callback=lambda n, fit: found.append(fit.x),
    )
    x = np.zeros(20)
    for ours in found:
        value, g = f.value_and_gradient(x)
        d = g if form == "dense" else np.where(np.abs(g) == np.abs(g).max(), g, 0.0)
        x = x - d / (B * value)
        np.testing.assert_allclose(ours, x, rtol=1e-10)


@pytest.mark.parametrize("seed", range(2))
def test_few_coordinates_of_many(seed):
    """The sparse form reaches a small loss with few of the coordinates."""
    rng = np.random.default_rng(seed)
    X, signs = rng.uniform(-1, 1, (200, 300)), rng.choice([-1.0, 1.0], 5)
    margin = X[:, :5] @ signs
    X, y = X[np.abs(margin) > 0.1], (margin[np.abs(margin) > 0.1] > 0).astype(float)
    f, used = Logistic(X, y), []

    def note(n, fit):
        used.append(len(fit.support))

    for bound, enough in ((None, 1e-4), (1.0, 1e-2)):  # entries are at most one
        solver = VariableStepGradient(bound=bound)
        used.clear()
        run = solve(f, Cardinality(300), solver, max_iter=600, callback=note)
        assert run.history[600] < enough
        assert used[-1] < 150
        bounded = solve(f, Cardinality(10), solver, max_iter=600, callback=note)
        assert max(used[600:]) <= 10
        # what cannot spread over new coordinates falls more slowly, but falls
        assert run.history[600] < bounded.history[600] < bounded.history[100]


def test_with_noise_it_settles_at_the_optimum():
    for seed in range(3):
        X, y = separable(seed)
        flipped = np.random.default_rng(seed).random(len(y)) < 0.05
        f = Logistic(X, np.where(flipped, 1 - y, y))
        lowest = f.refit(Cardinality(20).on((20,)).support(np.arange(20))).value
        for form in ("dense", "sparse"):
            solution = solve(f, Cardinality(20), VariableStepGradient(form=form))
            assert solution.status is Status.CONVERGED
            assert min(solution.history) <= 1.1 * lowest
            assert solution.value == pytest.approx(lowest, rel=1e-8)


def test_a_loss_of_zero_ends_it():
    X = np.array([[1e3], [-1e3]])
    f = Logistic(X, np.array([1.0, 0.0]))
    for settings in ({}, {"form": "dense"}, {"bound": 1e6}):
        values = history(f, 3000, **settings)
        assert np.all(np.isfinite(values))
        assert values[-1] < 1e-12


BAD = {
    "share": (lambda: SequentialLasso(share=1.5), "share.*1.5"),
    "form": (lambda: VariableStepGradient(form="thin"), "form.*sparse.*thin"),
    "bound": (lambda: VariableStepGradient(bound=0.0), "bound.*0.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()
