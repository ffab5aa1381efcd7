"""Splicing and greedy coordinate descent against their papers, written out."""

import numpy as np
import pytest

from tests.contracts.brute_force import optimum
from vitalfew import solve
from vitalfew.objectives import LeastSquares, Logistic, Poisson
from vitalfew.solution import Status
from vitalfew.solvers import OMP, GreedyCoordinateDescent, Splicing
from vitalfew.structures import Cardinality, Groups, Rows


def table(seed, n=100, p=20, true=4, spread=0.3):
    rng = np.random.default_rng(seed)
    mix = np.eye(p) + spread * rng.standard_normal((p, p))
    X = rng.standard_normal((n, p)) @ mix
    y = X[:, :true] @ rng.choice([-1.0, 1.0], true) + 0.3 * rng.standard_normal(n)
    return X, y


# -- splicing --------------------------------------------------------------------------


def refitted(X, y, chosen):
    x = np.zeros(X.shape[1])
    x[chosen] = np.linalg.lstsq(X[:, chosen], y, rcond=None)[0]
    return x, 0.5 * np.mean((y - X @ x) ** 2)


def splice(X, y, k, sizes):
    """Least squares splicing: rank by sacrifices, keep the best exchange, repeat."""
    h = (X * X).mean(axis=0)
    chosen = np.argsort(-((X.T @ y) ** 2) / h)[:k]
    x, value = refitted(X, y, chosen)
    while True:
        g = X.T @ (X @ x - y) / len(y)
        inside = chosen[np.argsort(h[chosen] * x[chosen] ** 2)]
        others = np.setdiff1d(np.arange(len(h)), chosen)
        outside = others[np.argsort(-(g[others] ** 2) / h[others])]
        tried = [np.concatenate((inside[s:], outside[:s])) for s in sizes]
        best = min(tried, key=lambda c: refitted(X, y, c)[1])
        new, lower = refitted(X, y, best)
        if lower >= value * (1 - 1e-9):
            return np.sort(chosen), value
        chosen, x, value = best, new, lower


@pytest.mark.parametrize("most", [None, 1, 2])
def test_splicing_written_out(most):
    for seed in range(20):
        X, y = table(seed, p=30)
        X = X * 10.0 ** np.random.default_rng(seed).integers(-2, 3, 30)
        sizes = {None: [6, 3, 1], 1: [1], 2: [2, 1]}[most]
        chosen, value = splice(X, y, 6, sizes)
        ours = solve(LeastSquares(X, y), Cardinality(6), Splicing(most=most))
        np.testing.assert_array_equal(ours.support, chosen)
        assert ours.value == pytest.approx(value, rel=1e-9)


def test_splicing_recovers_strong_signals():
    for seed in range(10):
        X, y = table(seed, n=200, p=100, true=8, spread=0.03)
        ours = solve(LeastSquares(X, y, fit_intercept=True), Cardinality(8), Splicing())
        assert ours.support.tolist() == list(range(8))
        labels = (y > 0).astype(float)
        f = Logistic(X, labels, l2=1e-2)
        assert solve(f, Cardinality(8), Splicing()).support.tolist() == list(range(8))
        assert ours.n_iter <= 8


@pytest.mark.parametrize(
    "structure",
    [
        Cardinality(3, keep=(5,)),
        Groups([1, 0, 2, 1, 3, 0, 2, 1, 4, 4], 2),
        Groups([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], costs=[2, 3, 2, 1, 4], max_cost=6),
    ],
    ids=["kept", "groups", "costs"],
)
def test_splicing_is_often_the_best_there_is(structure):
    hits = 0
    for seed in range(20):
        X, y = table(seed, n=40, p=10)
        f = LeastSquares(X, y)
        bound = structure.on(f.shape)
        ours = solve(f, structure, Splicing())
        assert bound.allows(ours.fit.support)
        lowest = optimum(f, bound)
        assert ours.value >= lowest * (1 - 1e-12)
        hits += ours.value <= lowest * (1 + 1e-9)
    assert hits >= 12


def test_units_do_not_matter_to_splicing():
    for seed in range(10):
        X, y = table(seed)
        scale = 10.0 ** np.random.default_rng(seed).uniform(-3, 3, 20)
        one = solve(LeastSquares(X, y), Cardinality(4), Splicing())
        other = solve(LeastSquares(X * scale, y), Cardinality(4), Splicing())
        np.testing.assert_array_equal(one.support, other.support)


def test_splicing_leaves_a_bad_start():
    for seed in range(10):
        X, y = table(seed, n=200, p=40, spread=0.05)
        f = LeastSquares(X, y)
        wrong = f.refit(Cardinality(4).on((40,)).support([30, 31, 32, 33]))
        ours = solve(f, Cardinality(4), Splicing(), start=wrong)
        assert ours.support.tolist() == [0, 1, 2, 3]
        # all four leave in the first step
        assert ours.history[1] == pytest.approx(ours.value)


# -- greedy coordinate descent ---------------------------------------------------------


def moved(X, y, budget, rule, steps):
    """Coordinate descent on least squares: which coordinate moves, and the points."""
    h, x, support = (X * X).mean(axis=0), np.zeros(X.shape[1]), []
    position, points = 0, []
    for _ in range(steps):
        g = X.T @ (X @ x - y) / len(y)
        score = g * g / h if rule == "lipschitz" else g * g
        joining = len(support) < budget
        may = np.ones(len(h), bool) if joining else np.isin(np.arange(len(h)), support)
        i = int(np.argmax(np.where(may, score, -1)))
        if rule == "cyclic":
            free = np.where(np.isin(np.arange(len(h)), support), -1, score)
            turn = support + ([int(np.argmax(free))] if joining else [])
            position = min(position, len(turn) - 1)
            i = turn[position]
            after = 0 if position == len(support) else (position + 1) % len(turn)
            position = after
        if i not in support:
            support.append(i)
        x = x.copy()
        x[i] -= g[i] / h[i]
        points.append(x)
    return points


@pytest.mark.parametrize("budget", [5, 20])
@pytest.mark.parametrize("rule", ["lipschitz", "gradient", "cyclic"])
def test_coordinate_descent_written_out(rule, budget):
    for seed in range(5):
        X, y = table(seed)
        found = []
        solve(
            LeastSquares(X, y),
            Cardinality(budget),
            GreedyCoordinateDescent(rule=rule),
            callback=lambda n, fit, found=found: found.append(fit.x),
            max_iter=30,
        )
        found = found[:-1]  # the last step may move nothing
        assert len(found) >= 10
        for ours, expected in zip(found, moved(X, y, budget, rule, 30), strict=False):
            np.testing.assert_allclose(ours, expected, atol=1e-9)


@pytest.mark.parametrize("rule", ["lipschitz", "gradient", "cyclic", "random"])
@pytest.mark.parametrize("kind", ["squares", "logistic", "poisson"])
def test_every_rule_ends_at_the_minimiser_of_its_support(kind, rule):
    for seed in range(2):
        X, y = table(seed, p=12, spread=0.1)
        if kind == "squares":
            f = LeastSquares(X, y, fit_intercept=True)
        elif kind == "logistic":
            f = Logistic(X, (y > 0).astype(float), l2=0.05)
        else:
            f = Poisson(X, np.round(np.exp(np.clip(y, -3, 2))), fit_intercept=True)
        solver = GreedyCoordinateDescent(rule=rule, tol=1e-8)
        for k in (4, 12):
            run = solve(f, Cardinality(k), solver, rng=seed)
            assert run.status is Status.CONVERGED
            assert len(run.support) == k
            assert min(run.history) == pytest.approx(run.value, rel=1e-5)
            assert np.diff(run.history).max() <= 1e-14


def test_the_rate_of_the_greedy_rule():
    """f falls by at least 1 - mu_1 in a step, in the norm that the curvatures make."""
    for seed in range(5):
        X, y = table(seed, p=12)
        X = X / np.sqrt((X * X).mean(axis=0))  # curvatures of one
        f = LeastSquares(X, y)
        run = solve(f, Cardinality(12), GreedyCoordinateDescent())
        # strong convexity in the l1 norm is at least that in l2 over p
        rate = np.linalg.eigvalsh(X.T @ X / len(y))[0] / 12
        lowest = f.refit(run.fit.support).value
        gaps = np.array(run.history[:-1]) - lowest  # the last step moves nothing
        assert np.all(gaps[1:] <= (1 - rate) * gaps[:-1] + 1e-14)


def test_blocks_are_minimised_exactly():
    X, y = table(0)
    f, found = LeastSquares(X, y), []
    labels = np.arange(20) // 4
    solve(
        f,
        Groups(labels, 3),
        GreedyCoordinateDescent(),
        callback=lambda n, fit: found.append(fit),
    )
    before = np.zeros(20)
    for fit in found[:6]:
        changed = np.unique(labels[fit.x != before])
        assert len(changed) == 1
        g = f.value_and_gradient(fit.x)[1]
        assert np.abs(g[labels == changed[0]]).max() < 1e-12
        before = fit.x


def test_the_budget_is_filled_and_kept():
    for seed in range(5):
        X, y = table(seed)
        sizes = []
        run = solve(
            LeastSquares(X, np.stack([y, y * y], axis=1)),
            Rows(5),
            GreedyCoordinateDescent(),
            callback=lambda n, fit, sizes=sizes: sizes.append(len(fit.support)),
        )
        assert max(sizes) == 5
        assert np.all(np.diff(sizes) >= 0)
        greedy = solve(LeastSquares(X, np.stack([y, y * y], axis=1)), Rows(5), OMP())
        assert run.value <= 1.5 * greedy.value


def test_random_moves_follow_the_seed():
    X, y = table(1)
    solver = GreedyCoordinateDescent(rule="random")
    runs = [
        solve(
            LeastSquares(X, y), Cardinality(20), solver, rng=seed, max_iter=50
        ).history
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_an_interrupted_random_run_goes_on_to_the_same_answer(tmp_path):
    X, y = table(2)
    f, solver = LeastSquares(X, y), GreedyCoordinateDescent(rule="random")
    whole = solve(f, Cardinality(6), solver, rng=5)
    for at in (1, 7, 20):
        path = tmp_path / f"{at}.npz"
        solve(f, Cardinality(6), solver, rng=5, checkpoint=path, max_iter=at)
        again = solve(f, Cardinality(6), solver, rng=9, checkpoint=path)
        assert again.n_iter == whole.n_iter
        np.testing.assert_allclose(again.history, whole.history, rtol=1e-12)


BAD = {
    "rule": (lambda: GreedyCoordinateDescent(rule="best"), "rule.*lipschitz.*best"),
    "most": (lambda: Splicing(most=0), "most.*0"),
    "most half": (lambda: Splicing(most=1.5), "most.*1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()
