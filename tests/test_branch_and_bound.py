"""Branch and bound: the optimum by enumeration, and the bound on the way to it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from tests.contracts.brute_force import maximal_sets, optimum
from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic, Smooth
from vitalfew.solution import Status
from vitalfew.solvers import OMP, BranchAndBound, LocalSearch
from vitalfew.structures import Bounded, Cardinality, Groups, Rows

STRUCTURES = {
    "Rows": Rows(3),
    "Rows, kept": Rows(3, keep=(7,)),
    "Groups": Groups([0, 0, 1, 2, 3, 3, 4, 1, 2], 2),
    "Groups, kept": Groups([0, 0, 1, 2, 3, 3, 4, 1, 2], 3, keep=(4, 1)),
    "Groups, costs": Groups(
        [0, 0, 1, 2, 3, 3, 4, 1, 2], costs=[2.0, 3.0, 2.0, 1.5, 0.7], max_cost=5
    ),
}
TOL = 1.01e-6


@pytest.fixture(params=range(3))
def seed(request):
    return request.param


def hard(seed, n=70, p=12, noise=2.0):
    """Correlated columns, much noise: greedy methods fail, and there is much to do."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.5 * rng.standard_normal((p, p)))
    X /= X.std(axis=0)
    y = X @ rng.standard_normal(p)
    return X, y + noise * y.std() * rng.standard_normal(n)


def classes(y):
    return (y > np.median(y)).astype(float)


def states(solver, f, structure, start=None):
    """All states of a run."""
    structure = structure.on(f.shape)
    fit = f.refit(structure.empty(f.like)) if start is None else start
    found = [solver.init(f, structure, fit, np.random.default_rng(0))]
    while not solver.converged(found[-1]):
        found.append(solver.step(f, structure, found[-1]))
    return found


# -- the optimum -----------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
@pytest.mark.parametrize("l2", [0.0, 0.03])
def test_it_finds_and_proves_the_best(name, structure, l2):
    seed = list(DATA_PROBLEMS).index(name)
    rng = np.random.default_rng(seed)
    problem, structure = DATA_PROBLEMS[name], STRUCTURES[structure]
    table = make_table(problem, rng, n=50, p=9)
    options = {"l2": l2, "fit_intercept": bool(seed % 2)}
    if seed % 3:
        options["sample_weight"] = table.weight
    f = problem.build(table.X, table.targets, **options)
    best = optimum(f, structure.on(f.shape))
    # from the start that greedy methods are led astray from
    solution = solve(f, structure, BranchAndBound())
    assert solution.status.ok
    assert structure.on(f.shape).contains(solution.x)
    assert abs(solution.value - best) <= 1e-6 * abs(best)
    assert solution.lower_bound <= best * (1 + 1e-9)
    assert 0 <= solution.gap <= TOL


@pytest.mark.parametrize("k", [1, 3, 6])
def test_hard_least_squares(k, seed):
    X, y = hard(seed)
    for l2 in (0.0, 1e-3, 0.1):
        f = LeastSquares(X, y, l2=l2, fit_intercept=True)
        solution = solve(f, Cardinality(k), BranchAndBound())
        best = optimum(f, Cardinality(k).on(f.shape))
        assert abs(solution.value - best) <= 1e-6 * best
        assert solution.gap <= TOL


def test_no_part_is_dropped_unless_it_may_be(seed):
    """From the worst start, so that the tree has to find the answer by itself."""
    X, y = hard(seed, p=10)
    for f in (LeastSquares(X, y, l2=0.02), Logistic(X, classes(y), l2=0.02)):
        structure = Cardinality(3).on(f.shape)
        best = optimum(f, structure)
        run = states(BranchAndBound(), f, structure)
        for state in run:
            # what is left, or what was found, holds the optimum
            bounds = [part[0] for part in state.parts]
            lowest = min([*bounds, state.fit.value])
            if not state.screening:
                assert lowest <= best * (1 + 1e-6)
            assert state.lower <= best * (1 + 1e-9)
        lower = [state.lower for state in run]
        assert np.all(np.diff(lower) >= 0)
        values = [state.fit.value for state in run]
        assert np.all(np.diff(values) <= 0)
        assert run[-1].fit.value <= best * (1 + 1e-6)


def test_several_outputs_and_storage(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 9))
    X[np.abs(X) < 0.5] = 0
    Y = X @ rng.standard_normal((9, 3)) + 3 * rng.standard_normal((40, 3))
    found = []
    for design in (X, scipy.sparse.csr_array(X)):
        f = LeastSquares(design, Y, l2=0.05, fit_intercept=True)
        for structure in (Rows(3), Cardinality(4)):
            found.append(solve(f, structure, BranchAndBound()))
            if structure.on(f.shape).n_atoms < 20:
                best = optimum(f, structure.on(f.shape))
                assert found[-1].value == pytest.approx(best, rel=1e-6)
            assert found[-1].gap <= TOL
    for one, other in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(one.support, other.support)


def test_a_function_that_is_not_known_to_be_convex(rng):
    """Then the minimum over all that is left bounds a part."""
    X, y = hard(0, p=8)
    f = LeastSquares(X, y)
    smooth = Smooth(
        lambda x: f.value_and_gradient(x)[0],
        f.shape,
        gradient=lambda x: f.value_and_gradient(x)[1],
    )
    solution = solve(smooth, Cardinality(3), BranchAndBound())
    assert solution.value == pytest.approx(
        optimum(f, Cardinality(3).on(f.shape)), rel=1e-6
    )
    assert solution.gap <= TOL


# -- sizes that enumeration does not reach ---------------------------------------------


@pytest.mark.parametrize("loss", [LeastSquares, Logistic])
def test_a_thousand_columns(loss):
    rng = np.random.default_rng(1)
    n, p, k = 400, 1000, 8
    X = rng.standard_normal((n, p)) + 0.4 * rng.standard_normal((n, 1))
    X /= X.std(axis=0)
    chosen = rng.permutation(p)[:k]
    y = X[:, chosen] @ rng.choice([-1.0, 1.0], k) + 1.5 * rng.standard_normal(n)
    y = y if loss is LeastSquares else classes(y)
    f = loss(X, y, l2=0.1, fit_intercept=True)
    solution = solve(f, Cardinality(k), BranchAndBound(), max_seconds=60)
    assert solution.status is Status.CONVERGED
    assert solution.gap <= TOL
    assert solution.value <= solve(f, Cardinality(k)).value * (1 + 1e-6)


def test_it_agrees_with_itself_at_other_widths():
    X, y = hard(5, n=60, p=30)
    f = LeastSquares(X, y, l2=0.1)
    one, other = (
        solve(f, Cardinality(5), BranchAndBound(width=w), max_iter=10_000)
        for w in (1, 50)
    )
    assert one.status is other.status is Status.CONVERGED
    np.testing.assert_array_equal(one.support, other.support)
    assert one.n_iter > other.n_iter


def test_the_tolerance_is_what_ends_it():
    X, y = hard(5, n=60, p=30)
    f = LeastSquares(X, y, l2=0.05)
    rough, fine = (
        solve(f, Cardinality(5), BranchAndBound(tol=tol), max_iter=10_000)
        for tol in (0.05, 1e-6)
    )
    assert rough.n_iter < fine.n_iter
    assert fine.gap <= TOL
    assert TOL < rough.gap <= 0.0501
    assert rough.lower_bound <= fine.value <= rough.value


# -- limits ----------------------------------------------------------------------------


def test_a_run_that_is_cut_short_has_a_bound():
    X, y = hard(6, n=50, p=30)
    f = LeastSquares(X, y, l2=0.1)
    best = solve(f, Cardinality(5), BranchAndBound(), max_iter=20_000)
    assert best.status is Status.CONVERGED
    gaps = []
    for steps in (0, 1, 12, 30):
        cut = solve(f, Cardinality(5), BranchAndBound(), max_iter=steps)
        assert cut.status is Status.MAX_ITER
        if cut.lower_bound is not None:
            assert cut.lower_bound <= best.value <= cut.value
            gaps.append(cut.gap)
    assert len(gaps) == 2
    assert gaps[0] > gaps[1] > 0
    assert solve(f, Cardinality(5), LocalSearch()).lower_bound is None


def test_a_stored_run_goes_on_in_the_middle_of_the_tree(tmp_path):
    X, y = hard(6, n=50, p=20)
    for f in (LeastSquares(X, y, l2=0.05), Logistic(X[:, :9], classes(y))):
        whole = solve(f, Cardinality(4), BranchAndBound(), rng=0)
        place = tmp_path / f"{f.shape[0]}.npz"
        first = solve(
            f, Cardinality(4), BranchAndBound(), checkpoint=place, max_iter=10, rng=0
        )
        assert first.status is Status.MAX_ITER
        again = solve(f, Cardinality(4), BranchAndBound(), checkpoint=place, rng=0)
        assert again.n_iter == whole.n_iter > 11
        # a stored fit is evaluated again, to other last digits
        assert again.lower_bound == pytest.approx(whole.lower_bound, rel=1e-12)
        np.testing.assert_allclose(again.x, whole.x, rtol=1e-9)


def test_it_takes_a_start(rng):
    X, y = hard(7)
    f = LeastSquares(X, y, l2=0.02)
    best = solve(f, Cardinality(4), BranchAndBound())
    for start in (OMP(), best):
        other = solve(f, Cardinality(4), BranchAndBound(), start=start)
        np.testing.assert_array_equal(other.support, best.support)
        assert other.gap <= TOL


# -- awkward data ----------------------------------------------------------------------


def test_awkward_data(rng):
    X, y = hard(8, p=6)
    awkward = np.concatenate((X, X[:, :2], np.zeros((70, 1)), np.ones((70, 1))), axis=1)
    for l2 in (0.0, 0.01):
        f = LeastSquares(awkward, y, l2=l2, fit_intercept=True)
        for k in (0, 1, 3, 10):
            solution = solve(f, Cardinality(k), BranchAndBound())
            best = optimum(f, Cardinality(k).on(f.shape))
            assert solution.value == pytest.approx(best, rel=1e-6)
            assert solution.gap <= TOL
    single = LeastSquares(np.array([[2.0]]), np.array([6.0]))
    assert solve(single, Cardinality(1), BranchAndBound()).x == pytest.approx(3.0)
    wide = LeastSquares(X[:4], y[:4], l2=1e-3)
    solution = solve(wide, Cardinality(3), BranchAndBound())
    best = optimum(wide, Cardinality(3).on(wide.shape))
    assert solution.value == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_units_do_not_matter(factor):
    X, y = hard(9)
    for l2 in (0.0, 0.02):
        f = LeastSquares(X, y, l2=l2)
        support = solve(f, Cardinality(4), BranchAndBound()).support
        for g in (
            LeastSquares(X, factor * y, l2=l2),
            LeastSquares(factor * X, y, l2=l2 * factor**2),
        ):
            solution = solve(g, Cardinality(4), BranchAndBound())
            np.testing.assert_array_equal(solution.support, support)
            assert solution.gap <= TOL


def test_single_precision(backend):
    """Bounds are taken down by what rounding may do, so the gap ends above it."""
    X, y = hard(10, p=10)
    exact = LeastSquares(X, y, l2=0.05)
    f = LeastSquares(backend.array(X, "float32"), backend.array(y, "float32"), l2=0.05)
    solution = solve(f, Cardinality(3), BranchAndBound())
    best = optimum(exact, Cardinality(3).on(exact.shape))
    assert solution.status is Status.CONVERGED
    assert solution.value == pytest.approx(best, rel=1e-5)
    assert solution.lower_bound <= best * (1 + 1e-6)
    assert np.isfinite(to_host(solution.x)).all()


def test_columns_that_separate_the_classes(rng):
    X = rng.standard_normal((30, 6))
    f = Logistic(X, (X[:, 2] > 0).astype(float))
    solution = solve(f, Cardinality(2), BranchAndBound())
    assert solution.status is Status.SEPARATED
    assert 2 in solution.support
    ridged = Logistic(X, (X[:, 2] > 0).astype(float), l2=1e-3)
    solution = solve(ridged, Cardinality(2), BranchAndBound())
    best = optimum(ridged, Cardinality(2).on(ridged.shape))
    assert solution.value == pytest.approx(best, rel=1e-6)


def test_structures_without_costs_are_refused(rng):
    class Anything:
        def __getattr__(self, name):
            return getattr(Cardinality(2), name)

    f = LeastSquares(rng.standard_normal((20, 5)), rng.standard_normal(20))
    with pytest.raises(IncompatibleError):
        solve(f, Anything(), BranchAndBound())


def test_a_gap_of_zero_and_of_no_value():
    f = LeastSquares(np.eye(3), np.zeros(3), l2=0.1)
    solution = solve(f, Cardinality(1), BranchAndBound())
    assert solution.value == 0
    assert solution.gap in (0.0, math.inf)


@pytest.mark.parametrize("total", [None, 1.0])
def test_coefficients_within_bounds(total, seed):
    X, y = hard(seed, p=8, noise=0.5)
    f = LeastSquares(X, y, l2=0.01)
    structure = Bounded(Cardinality(3), lower=0.0, total=total).on(f.shape)
    values = [
        structure.refit(f, structure.support(some), None).value
        for some in maximal_sets(Cardinality(3).on(f.shape))
    ]
    solution = solve(f, structure, BranchAndBound())
    assert solution.value == pytest.approx(min(values), rel=1e-6)
    assert solution.lower_bound <= min(values)
    assert np.all(solution.x >= 0)


@pytest.mark.parametrize("tol", [0.1, 0.2, 0.4])
def test_a_loose_tolerance_does_not_lift_the_bound_above_the_optimum(tol):
    """What screening dropped as not much better may still be a little better."""
    for seed, l2 in ((34, 1.0), (35, 0.3), (37, 0.3)):
        X, y = hard(seed, p=9, noise=1.0)
        f = LeastSquares(X, y, l2=l2)
        structure = Cardinality(3).on(f.shape)
        best, solver = optimum(f, structure), BranchAndBound(tol=tol)
        for atoms in ([0, 1, 2], [6, 7, 8], [2, 4, 6]):
            start = f.refit(structure.support(atoms))
            state = solver.init(f, structure, start, np.random.default_rng(0))
            state = replace(state, climbing=False)  # so that it has no optimum yet
            while not solver.converged(state) and not state.climbing:
                state = solver.step(f, structure, state)
                assert state.lower <= best * (1 + 1e-9)
