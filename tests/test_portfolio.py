"""``solver="best"``: the lowest of several chains, under one set of limits."""

import numpy as np
import pytest

from tests.test_quality import blocks
from vitalfew import Status, path, solve, solvers
from vitalfew.estimators import SparseRegressor
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic
from vitalfew.penalties import L1
from vitalfew.structures import Cardinality, Groups


def correlated(seed, n=150, p=200, rho=0.95):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    y = X[:, rng.choice(p, 12, replace=False)] @ rng.choice([-1.0, 1.0], 12)
    return X, y + 0.5 * rng.standard_normal(n)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_as_low_as_each_of_its_chains(seed):
    X, y = correlated(seed)
    f = LeastSquares(X, y)
    for structure in (Cardinality(10), Groups(np.arange(200) // 4, 4)):
        best = solve(f, structure, "best")
        assert best.status.ok
        for start in (None, solvers.GraSP(), solvers.IHT()):
            one = solve(f, structure, solvers.LocalSearch(), start=start)
            assert best.value <= one.value + 1e-12
    assert best.solver.startswith("the best of LocalSearch; GraSP, then LocalSearch;")


def test_the_chains_differ():
    """On some draw each chain is beaten by another, or the portfolio is no use."""
    losers = set()
    for seed in range(16):
        f = LeastSquares(*correlated(seed, n=100, p=300))
        values = {
            name: solve(f, Cardinality(10), solvers.LocalSearch(), start=start).value
            for name, start in (
                ("OMP", None),
                ("GraSP", solvers.GraSP()),
                ("IHT", solvers.IHT()),
            )
        }
        low = min(values.values())
        losers |= {name for name, value in values.items() if value > low * (1 + 1e-9)}
    assert losers == {"OMP", "GraSP", "IHT"}


def test_a_start_is_where_the_first_chain_begins():
    X, y = correlated(1)
    f = Logistic(X, (y > 0) * 1.0, l2=0.01)
    given = solve(f, Cardinality(6), solvers.OMP())
    assert solve(f, Cardinality(6), "best", start=given).value <= given.value
    named = solve(f, Cardinality(6), "best", start=solvers.HTP())
    assert named.solver.startswith("the best of HTP, then LocalSearch; GraSP")


def test_limits_hold_for_all_chains_together():
    X, y = correlated(2)
    f, at = LeastSquares(X, y), Cardinality(10)
    whole = solve(f, at, "best")
    for limit in range(whole.n_iter):
        part = solve(f, at, "best", max_iter=limit)
        assert part.n_iter == limit
        assert part.status is Status.MAX_ITER
        assert at.on(f.shape).contains(part.x)
        assert part.value <= min(part.history) + 1e-12
    assert solve(f, at, "best", max_iter=whole.n_iter).value == whole.value


def test_an_interrupted_run_keeps_the_best_and_goes_on(tmp_path):
    X, y = correlated(3)
    f, at = LeastSquares(X, y), Cardinality(10)
    whole = solve(f, at, "best")

    for stop in range(1, whole.n_iter, 5):

        def interrupt(n, fit, stop=stop):
            if n == stop:
                raise KeyboardInterrupt

        file = tmp_path / f"{stop}.npz"
        part = solve(f, at, "best", callback=interrupt, checkpoint=file)
        assert part.status is Status.INTERRUPTED
        assert part.value <= min(part.history) + 1e-12
        again = solve(f, at, "best", checkpoint=file)
        # fits rebuilt from a file round otherwise, which may cost or save a step
        assert again.value == pytest.approx(whole.value, rel=1e-12)
        np.testing.assert_array_equal(again.support, whole.support)


def test_it_solves_the_trap():
    X, y, planted = blocks(7)
    f = LeastSquares(X, y)
    at = Cardinality(len(planted)).on(f.shape)
    truth = f.refit(at.support(planted)).value
    assert solve(f, at, "best").value <= truth * (1 + 1e-9)


def test_paths_and_estimators_take_it():
    X, y = correlated(4, p=30)
    found = path(LeastSquares(X, y), Cardinality(1), [2, 5], "best", choose=None)
    assert "the best of" in found.best.solver
    model = SparseRegressor(n_nonzero=5, solver="best").fit(X, y)
    assert model.get_support().sum() == 5


def test_where_it_makes_no_sense():
    X, y = correlated(5, p=20)
    with pytest.raises(IncompatibleError, match=r'or "best" for a structure'):
        solve(LeastSquares(X, y), L1(0.1), "best")
    with pytest.raises(IncompatibleError, match="got 'bset'"):
        solve(LeastSquares(X, y), Cardinality(2), "bset")


def test_the_default_tries_again_where_the_first_start_was_bad():
    chains = set()
    for seed in range(6):
        f, at = LeastSquares(*correlated(seed, n=120, p=300)), Cardinality(12)
        found = solve(f, at)
        first = solve(f, at, solvers.LocalSearch(), start=solvers.GraSP())
        second = solve(f, at, solvers.LocalSearch())
        chains.add(found.solver)
        if found.solver == "the best of GraSP, then LocalSearch; LocalSearch":
            assert found.value <= min(first.value, second.value) + 1e-12
            assert first.n_iter > 3
        else:
            assert found.solver == "GraSP, then LocalSearch"
            assert found.value == pytest.approx(first.value, rel=1e-12)
    assert len(chains) == 2


def test_the_second_try_is_taken_up_again(tmp_path):
    for seed in range(6):
        f, at = LeastSquares(*correlated(seed, n=120, p=300)), Cardinality(12)
        whole = solve(f, at)
        if whole.solver.startswith("the best"):
            break
    for limit in range(1, whole.n_iter, 3):
        file = tmp_path / f"{limit}.npz"
        solve(f, at, max_iter=limit, checkpoint=file)
        again = solve(f, at, checkpoint=file)
        assert again.value == pytest.approx(whole.value, rel=1e-12)
        assert again.solver == whole.solver
