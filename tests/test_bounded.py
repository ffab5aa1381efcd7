"""Structures with bounds: projections, refits and answers against other methods."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, brentq, lsq_linear, minimize

from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import path, solve, solvers
from vitalfew._arrays import as_array, to_host
from vitalfew._solve import check_pairing
from vitalfew.contracts import HasAtoms, Penalty, Structure, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic, Quantile, Smooth
from vitalfew.solution import Status
from vitalfew.structures import Bounded, Cardinality, Groups, Rows
from vitalfew.structures._box_newton import _damped, box_quadratic, shift_onto
from vitalfew.supports import Coordinates

INF = math.inf
AT_LEAST = np.where(np.arange(8) == 2, 0.1, 0.0)
PAIRS = [0, 1, 0, 1, 2, 2, 3, 3]

# on eight coefficients
STRUCTURES = {
    "not negative": Bounded(Cardinality(3)),
    "box": Bounded(Cardinality(3), -0.3, 0.4),
    "simplex": Bounded(Cardinality(3), total=1.0),
    "capped simplex": Bounded(Cardinality(4), 0, 0.4, total=1),
    "contrast": Bounded(Cardinality(3), -INF, total=0),
    "long and short": Bounded(Cardinality(4), -0.5, 0.8, total=1),
    "kept": Bounded(Cardinality(3, keep=(2,)), AT_LEAST, total=1),
    "groups": Bounded(Groups(PAIRS, 2)),
    "groups, total": Bounded(Groups(PAIRS, 2), -0.1, total=1),
    "costs": Bounded(
        Groups(PAIRS, costs=[1.0, 2.0, 2.0, 3.0], max_cost=4), 0, 0.9, total=1.5
    ),
}
EXACT = (
    "not negative",
    "box",
    "simplex",
    "capped simplex",
    "contrast",
    "kept",
    "groups",
)


@pytest.fixture(params=STRUCTURES)
def structure(request):
    return STRUCTURES[request.param]


def table_of(seed, n=60, p=8):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    return X, X[:, [1, 4, 6]] @ [0.8, 0.5, -0.7] + 0.5 * rng.standard_normal(n)


def objective_of(seed, loss):
    X, y = table_of(seed)
    if loss == "logistic":
        return Logistic(X, (y > np.median(y)).astype(float), l2=0.01)
    return LeastSquares(X, y, fit_intercept=True)


def largest_supports(bound):
    """Feasible supports that no other contains: one of them is the best."""
    every = {frozenset(s.atoms.tolist()) for s in feasible_supports(bound)}
    for some in every:
        if not any(some < other for other in every):
            yield bound.support(sorted(some))


def limits(bound, ids):
    shape = bound.shape
    low, high = (np.broadcast_to(b, shape).ravel() for b in (bound.lower, bound.upper))
    return low[ids], high[ids]


def feasible_supports(bound):
    for size in range(bound.n_atoms + 1):
        for atoms in itertools.combinations(range(bound.n_atoms), size):
            support = bound.support(atoms)
            low, high = limits(bound, support.ids)
            total = bound.total
            reached = total is None or low.sum() - 1e-12 <= total <= high.sum() + 1e-12
            if bound.allows(support) and reached:
                yield support


@cache
def lowest_of(name, seed, loss):
    """Least value over all supports, each minimised by a general solver."""
    f = objective_of(seed, loss)
    bound = STRUCTURES[name].on(f.shape)
    return min(minimum_by_scipy(f, bound, s) for s in largest_supports(bound))


def minimum_by_scipy(f, bound, support):
    """Least value on a support, by a general solver."""
    low, high = limits(bound, support.ids)

    def function(z):
        value, g = f.value_and_gradient(support.embed(z))
        return value, np.asarray(support.restrict(g))

    start = np.clip(np.zeros(len(low)), low, high)
    options = {"jac": True, "bounds": np.column_stack((low, high))}
    if bound.total is None:
        return minimize(function, start, method="L-BFGS-B", **options).fun
    row = LinearConstraint(np.ones((1, len(low))), bound.total, bound.total)
    options["constraints"] = row
    return minimize(
        function, start, method="SLSQP", options={"ftol": 1e-14}, **options
    ).fun


def kkt_distance(f, bound, fit):
    """How much f would fall for a unit of any move that the bounds allow."""
    _, gradient = f.value_and_gradient(fit.x)
    ids, z = fit.support.ids, to_host(fit.z).astype(float)
    g = to_host(gradient).astype(float).ravel()[ids]
    low, high = limits(bound, ids)
    up, down = np.where(z < high, -g, -INF), np.where(z > low, g, -INF)
    if bound.total is None:
        return max(up.max(initial=0), down.max(initial=0))
    return max(0.0, up.max(initial=-INF) + down.max(initial=-INF))


# -- quadratic programmes and projections ----------------------------------------------


def by_active_sets(H, g, low, high, balanced):
    """Least value of a quadratic within bounds, by trying every set of active ones."""
    best = INF
    for state in itertools.product((0, -1, 1), repeat=len(g)):
        state = np.array(state)
        d = np.where(state < 0, low, np.where(state > 0, high, 0.0))
        if not np.all(np.isfinite(d)):
            continue
        free = np.flatnonzero(state == 0)
        m = len(free)
        K = np.zeros((m + balanced, m + balanced))
        K[:m, :m] = H[np.ix_(free, free)]
        right = np.concatenate((-(g + H @ d)[free], [-d.sum()][:balanced]))
        if balanced:
            K[:m, m] = K[m, :m] = 1
        d[free] = np.linalg.lstsq(K, right, rcond=None)[0][:m]
        inside = np.all((d >= low - 1e-12) & (d <= high + 1e-12))
        if inside and (not balanced or abs(d.sum()) < 1e-10):
            best = min(best, g @ d + d @ H @ d / 2)
    return best


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_quadratic_programmes_against_every_active_set(seed, balanced):
    rng = np.random.default_rng(seed)
    for m in (1, 2, 4, 6):
        root = rng.standard_normal((m + 2, m)) * 10.0 ** rng.integers(-2, 3, m)
        H, g = root.T @ root, rng.standard_normal(m) * np.sqrt(np.sum(root**2, 0))
        low = -np.abs(rng.standard_normal(m)) * (rng.random(m) < 0.7)
        high = np.abs(rng.standard_normal(m)) * (rng.random(m) < 0.7)
        low[rng.random(m) < 0.2], high[rng.random(m) < 0.2] = -INF, INF
        d = box_quadratic(H, g, low, high, balanced)
        assert np.all((d >= low) & (d <= high))
        if balanced:
            assert abs(d.sum()) <= 1e-12 * (1 + np.abs(d).sum())
        value = g @ d + d @ H @ d / 2
        lowest = by_active_sets(H, g, low, high, balanced)
        assert value == pytest.approx(lowest, rel=1e-9, abs=1e-12)


def test_large_quadratic_programmes_against_bounded_least_squares(rng):
    A, b = rng.standard_normal((200, 80)), rng.standard_normal(200)
    H, g = A.T @ A, -A.T @ b
    low, high = -0.02 * np.ones(80), 0.01 * np.ones(80)
    d = box_quadratic(H, g, low, high, balanced=False)
    other = lsq_linear(A, b, (low, high), method="bvls", tol=1e-14).x
    np.testing.assert_allclose(d, other, atol=1e-12)
    assert 0 < np.count_nonzero((d > low) & (d < high)) < 80


@pytest.mark.parametrize("seed", range(20))
def test_shifts_onto_a_total_solve_the_equation(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 9))
    x = rng.standard_normal(m).round(1)  # ties
    low = np.where(rng.random(m) < 0.3, -INF, -rng.random(m).round(1))
    high = np.where(rng.random(m) < 0.3, INF, rng.random(m).round(1))
    least, most = max(low.sum(), -9.0), min(high.sum(), 9.0)
    total = least + rng.random() * (most - least)

    def excess(t):
        return np.clip(x - t, low, high).sum() - total

    z = shift_onto(x, low, high, total)
    assert z.sum() == pytest.approx(total, abs=1e-12)
    t = brentq(excess, -50, 50, xtol=1e-14)
    np.testing.assert_allclose(z, np.clip(x - t, low, high), atol=1e-10)


def test_shifts_reach_the_ends_of_the_box():
    low, high = np.zeros(3), np.array([1.0, 2.0, 3.0])
    for total, end in ((6.0, high), (0.0, low), (7.0, high), (-1.0, low)):
        np.testing.assert_allclose(shift_onto(np.ones(3), low, high, total), end)
    assert shift_onto(np.empty(0), np.empty(0), np.empty(0), 0.0).shape == (0,)


def nearest(bound, supports, x):
    """Least squared distance of a feasible point, by enumeration."""
    best = INF
    for support in supports:
        inside = x[support.ids]
        low, high = limits(bound, support.ids)
        z = np.clip(inside, low, high)
        if bound.total is not None:
            z = shift_onto(inside, low, high, bound.total)
        best = min(best, np.sum((z - inside) ** 2) - np.sum(inside**2))
    return best + np.sum(x**2)


@pytest.mark.parametrize("name", STRUCTURES)
def test_projections_are_feasible_and_nearest_where_promised(name, backend, dtype):
    bound = STRUCTURES[name].on((8,))
    assert follows(bound, Structure)
    supports = list(largest_supports(bound))
    for seed in range(12 if backend.name == "numpy" else 3):
        rng = np.random.default_rng(seed)
        host = rng.standard_normal(8).round(1 if seed % 3 else 9) * 10.0 ** (seed % 2)
        x = backend.array(host, dtype)
        projected = bound.project(x)
        assert projected.dtype == x.dtype
        assert bound.contains(projected)
        assert bound.allows(bound.largest(x))
        gap = np.sum((to_host(projected).astype(float) - to_host(x)) ** 2)
        least = nearest(bound, supports, to_host(x).astype(float))
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        assert gap >= least - tolerance * (1 + least)
        if name in EXACT:
            assert gap <= least + tolerance * (1 + least)
        again = bound.project(projected)
        np.testing.assert_allclose(to_host(again), to_host(projected), atol=tolerance)


def test_steps_and_trims_are_projections(structure, rng):
    bound = structure.on((8,))

    class Here:
        x = rng.standard_normal(8)
        gradient = rng.standard_normal(8)

    support, z = bound.step(Here, 0.3)
    expected = bound.project(Here.x - 0.3 * Here.gradient)
    np.testing.assert_array_equal(support.embed(z), expected)
    everything = bound.support(rng.permutation(bound.n_atoms))
    z = rng.standard_normal(8)
    trimmed = bound.trim(everything, z)
    assert bound.allows(trimmed)
    projected = bound.largest(everything.embed(z))
    assert set(trimmed.atoms) == set(projected.atoms)


# -- which atoms may join --------------------------------------------------------------


def test_atoms_that_could_only_leave_the_box_come_last():
    g = np.array([-1.0, -3.0, 2.0, 5.0, -2.0])
    at_least_zero = Bounded(Cardinality(2)).on((5,))
    nothing = at_least_zero.empty(g)
    assert at_least_zero.strongest(g, nothing, 5).atoms.tolist() == [1, 4, 0, 2, 3]
    at_most_zero = Bounded(Cardinality(2), -INF, 0).on((5,))
    assert at_most_zero.strongest(g, nothing, 2).atoms.tolist() == [3, 2]
    both = Bounded(Cardinality(2), -1, 1).on((5,))
    assert both.strongest(g, nothing, 2).atoms.tolist() == [3, 1]


def test_with_a_total_the_gradient_counts_against_the_support():
    g = np.array([4.0, 3.0, 6.0, 5.0, -1.0])
    bound = Bounded(Cardinality(3), total=1).on((5,))
    ranked = bound.strongest(g, bound.support([0]), 5).atoms.tolist()
    assert ranked[:2] == [4, 1]  # the others would cost more than atom 0 does
    bound = Bounded(Cardinality(3), -INF, total=1).on((5,))
    assert bound.strongest(g, bound.support([0]), 3).atoms.tolist() == [4, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_no_atom_helps_that_scores_nothing(seed, structure):
    X, y = table_of(seed)
    f, bound = LeastSquares(X, y), structure.on((8,))
    wide = bound.with_budget(bound.budget)
    fit = wide.refit(f, wide.empty(f.like), None)
    ranked = bound.strongest(fit.gradient, fit.support, 8)
    values = [
        bound.refit(f, bound.join(fit.support, bound.pick(ranked, i)), fit).value
        for i in range(len(ranked))
    ]
    helps = np.array(values) < fit.value * (1 - 1e-9)
    g = np.asarray(fit.gradient)
    up = down = 0.0
    if bound.total is not None:
        up, down = g[fit.support.ids].max(), g[fit.support.ids].min()
    low, high = limits(bound, np.arange(8))
    useful = ((high > 0) & (g < up)) | ((low < 0) & (g > down))
    for position, helped in enumerate(helps):
        own = bound.pick(ranked, position).ids
        assert useful[own].any() or not helped


# -- refits ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA_PROBLEMS)
def test_refits_are_stationary_on_every_objective(name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = DATA_PROBLEMS[name].build(table.X, table.targets, fit_intercept=True, l2=0.01)
    for bounds in ({}, {"lower": -0.1, "upper": 0.2}, {"total": 0.7}):
        bound = Bounded(Rows(4), **bounds).on(f.shape)
        support = bound.support([5, 0, 2, 1])
        fit = bound.refit(f, support, None)
        assert bound.contains(fit.x)
        assert kkt_distance(f, bound, fit) < 1e-8
        assert fit.value <= minimum_by_scipy(f, bound, support) + 1e-9
        value, _ = f.value_and_gradient(fit.x)
        assert fit.value == pytest.approx(value, rel=1e-12)
        # from there, and from elsewhere, it is the same point
        again = bound.refit(f, support, fit)
        np.testing.assert_allclose(again.z, fit.z, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_refits_without_a_hessian(seed, structure):
    X, y = table_of(seed)
    f = LeastSquares(X, y)
    smooth = Smooth(
        lambda x: f.value_and_gradient(x)[0],
        8,
        gradient=lambda x: f.value_and_gradient(x)[1],
    )
    bound = structure.on((8,))
    support = bound.largest(np.linspace(1, 2, 8))
    exact = bound.refit(f, support, None)
    fit = bound.refit(smooth, support, None)
    assert bound.contains(fit.x)
    assert kkt_distance(smooth, bound, fit) < 1e-7
    assert fit.value == pytest.approx(exact.value, rel=1e-12)


def test_refits_on_every_backend(structure, backend, dtype):
    X, y = table_of(0)
    f = LeastSquares(backend.array(X, dtype), backend.array(y, dtype))
    bound = structure.on((8,))
    fit = bound.refit(f, bound.largest(f.refit(bound.support([0])).x), None)
    assert type(fit.z) is type(f.like)
    assert fit.z.dtype == f.like.dtype
    assert bound.contains(fit.x)
    assert kkt_distance(f, bound, fit) < (1e-8 if dtype == "float64" else 1e-3)


def test_atoms_join_until_the_total_can_be_had():
    X, y = table_of(1)
    f = LeastSquares(X, y)
    bound = Bounded(Cardinality(4), 0, 0.4, total=1).on((8,))
    fit = bound.refit(f, bound.empty(f.like), None)
    assert len(fit.support) == 3  # two hold 0.8 at most
    assert bound.contains(fit.x)
    # the first to join a simplex is the best vertex
    bound = Bounded(Cardinality(4), total=2).on((8,))
    fit = bound.refit(f, bound.empty(f.like), None)
    vertices = [f.value_and_gradient(2 * e)[0] for e in np.eye(8)]
    assert fit.support.atoms.tolist() == [np.argmin(vertices)]
    # only large ones fit: the cheapest for the gradient would leave too little room
    high = np.array([0.1, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.6])
    bound = Bounded(Cardinality(2), 0, high, total=1.1).on((8,))
    fit = bound.refit(f, bound.empty(f.like), None)
    assert sorted(fit.support.atoms) == [4, 7]


def test_bounds_settle_what_separation_leaves_open(rng):
    X = rng.standard_normal((40, 4))
    f = Logistic(X, (X[:, 0] > 0).astype(float))
    open_box = solve(f, Bounded(Cardinality(2)))
    assert open_box.status is Status.SEPARATED
    shut = solve(f, Bounded(Cardinality(2), -3, 3))
    assert shut.status.ok
    assert shut.x[0] == 3


# -- whole answers ---------------------------------------------------------------------


def on_bounds(name):
    solver = getattr(solvers, name)()
    if solver.accepts is Penalty:
        return None
    X, y = table_of(0)
    try:
        check_pairing(solver, LeastSquares(X, y), STRUCTURES["simplex"].on((8,)))
    except IncompatibleError:
        return None
    return solver


@pytest.mark.parametrize("solver", [n for n in solvers.__all__ if on_bounds(n)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_solver_stays_within_the_bounds(solver, name):
    f = objective_of(3, "squared")
    bound = STRUCTURES[name].on(f.shape)
    solution = solve(f, bound, on_bounds(solver), rng=0)
    assert solution.status.ok
    assert bound.contains(solution.x)
    assert bound.allows(solution.fit.support)
    assert kkt_distance(f, bound, solution.fit) < 1e-8
    assert solution.value >= lowest_of(name, 3, "squared") - 1e-9
    assert solution.value < f.zero_value or bound.total is not None


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_answers_against_every_support(name, loss):
    missed = 0
    for seed in range(3):
        solution = solve(objective_of(seed, loss), STRUCTURES[name])
        lowest = lowest_of(name, seed, loss)
        assert solution.value >= lowest - 1e-9
        missed += solution.value > lowest + 1e-7
    assert missed <= 1  # a local search, no proof


def test_bounds_that_nothing_meets_change_nothing(rng):
    X, y = table_of(5)
    f = LeastSquares(X, y, fit_intercept=True)
    free = solve(f, Cardinality(3))
    wide = solve(f, Bounded(Cardinality(3), -100, 100))
    np.testing.assert_allclose(wide.x, free.x, atol=1e-12)
    # and a total that the answer has anyway
    summed = solve(f, Bounded(Cardinality(3), -INF, total=float(free.x.sum())))
    np.testing.assert_allclose(summed.x, free.x, atol=1e-8)


def test_exchanges_are_not_ranked_by_a_formula_without_bounds():
    assert not follows(Bounded(Cardinality(2)).on((4,)), HasAtoms)


def test_weights_of_a_synthetic_control(rng):
    donors = np.cumsum(rng.standard_normal((60, 20)), axis=0)
    planted = np.zeros(20)
    planted[[3, 11, 17]] = 0.5, 0.3, 0.2
    f = LeastSquares(donors, donors @ planted + 0.01 * rng.standard_normal(60))
    solution = solve(f, Bounded(Cardinality(3), total=1))
    assert solution.support.tolist() == [3, 11, 17]
    np.testing.assert_allclose(solution.x, planted, atol=0.02)
    assert solution.x.sum() == pytest.approx(1, abs=1e-12)


def test_several_outputs_and_budgets_along_a_path(rng):
    X, _ = table_of(2)
    Y = X[:, [1, 4]] @ rng.random((2, 3)) + 0.3 * rng.standard_normal((60, 3))
    f = LeastSquares(X, Y, fit_intercept=True)
    found = path(f, Bounded(Rows(0)), range(4), cv=2, rng=0)
    assert {1, 4} <= set(found.best.support.tolist())
    assert all(np.all(s.x >= 0) for s in found.solutions)
    values = [s.value for s in found.solutions]
    assert np.all(np.diff(values) <= 1e-12)
    with pytest.raises(ValueError, match=r"total.*budget of 0"):
        path(f, Bounded(Rows(1), total=1), range(3))


def test_empty_and_duplicate_columns_are_harmless(structure):
    X, y = table_of(4)
    X[:, 3], X[:, 5], X[:, 7] = 0, X[:, 1], 2 * X[:, 6]
    for intercept in (False, True):
        f = LeastSquares(X, y, fit_intercept=intercept)
        bound = structure.on((8,))
        solution = solve(f, structure)
        assert solution.status.ok
        assert bound.contains(solution.x)
        everything = bound.refit(f, bound.support(np.arange(bound.n_atoms)), None)
        assert kkt_distance(f, bound, everything) < 1e-8


@pytest.mark.parametrize("factor", [1e-7, 1e7])
def test_units_do_not_matter(factor):
    X, y = table_of(6)
    plain = solve(LeastSquares(X, y), Bounded(Cardinality(3), -0.2, 0.5)).x
    scaled = Bounded(Cardinality(3), -0.2 * factor, 0.5 * factor)
    x = solve(LeastSquares(X, factor * y), scaled).x
    np.testing.assert_allclose(x, factor * plain, rtol=1e-9)
    x = solve(LeastSquares(X / factor, y), scaled).x
    np.testing.assert_allclose(x, factor * plain, rtol=1e-9)


def test_a_stored_run_belongs_to_one_structure_within(tmp_path):
    X, y = table_of(0)
    f, file = LeastSquares(X, y), tmp_path / "run.npz"
    whole = solve(f, Bounded(Cardinality(3), total=1))
    solve(f, Bounded(Cardinality(3), total=1), max_iter=1, checkpoint=file)
    resumed = solve(f, Bounded(Cardinality(3), total=1), checkpoint=file)
    assert resumed.value == whole.value
    for other in (Bounded(Cardinality(2), total=1), Bounded(Cardinality(3), total=2)):
        with pytest.raises(ValueError, match="another problem"):
            solve(f, other, checkpoint=file)


def test_one_coefficient(rng):
    f = LeastSquares(np.array([[2.0]]), np.array([6.0]))
    assert solve(f, Bounded(Cardinality(1), upper=1)).x.tolist() == [1.0]
    assert solve(f, Bounded(Cardinality(1), total=2)).x.tolist() == [2.0]
    assert solve(f, Bounded(Cardinality(0))).x.tolist() == [0.0]
    worse = solve(f, Bounded(Cardinality(1), -1, 0))
    assert worse.x.tolist() == [0.0]
    assert worse.status is Status.FEWER


def test_bounds_from_other_libraries(backend):
    x = backend.array([1.0, -3.0, 0.5])
    bound = Bounded(Cardinality(3), backend.array([0.0, -1.0, 0.0]), 0.8)
    np.testing.assert_allclose(to_host(bound.project(x)), [0.8, -1.0, 0.5])
    assert bound.contains(as_array([0.8, -1.0, 0.0], x))
    assert not bound.contains(as_array([0.9, -1.0, 0.0], x))
    assert not bound.contains(as_array([0.8, -1.1, 0.0], x))
    assert not Bounded(Cardinality(3), total=1).contains(as_array([0.4, 0.5, 0.0], x))


def test_supports_are_those_of_the_structure_within(structure):
    bound = structure.on((8,))
    assert isinstance(bound.support([1]), Coordinates)
    np.testing.assert_array_equal(bound.table, bound.structure.table)
    np.testing.assert_array_equal(bound.members(1), bound.support([1]).ids)


BAD = {
    "not a structure": (lambda: Bounded(3), "structure must be.*int"),
    "NaN": (lambda: Bounded(Cardinality(1), math.nan), "lower must be a number.*nan"),
    "text": (lambda: Bounded(Cardinality(1), 0, "1"), "upper must be a number"),
    "no upper end": (lambda: Bounded(Cardinality(1), INF), "lower must not be inf"),
    "no lower end": (
        lambda: Bounded(Cardinality(1), 0, -INF),
        "upper must not be -inf",
    ),
    "endless total": (lambda: Bounded(Cardinality(1), total=INF), "total.*finite"),
    "crossed": (lambda: Bounded(Cardinality(1), 2, 1).on((3,)), "exceed.*2 above 1"),
    "zero shut out": (lambda: Bounded(Cardinality(1), 1).on((3,)), "unless.*kept"),
    "shape": (lambda: Bounded(Cardinality(1), np.zeros(4)).on((3,)), r"\(3,\).*\(4,\)"),
    "out of reach": (
        lambda: Bounded(Cardinality(2), 0, 0.3, total=1).on((3,)),
        "total must be within reach.*budget of 2, got 1",
    ),
    "too much kept": (
        lambda: Bounded(Cardinality(2, keep=(0,)), [2, 0, 0], total=1).on((3,)),
        "total must be within reach",
    ),
    "negative": (lambda: Bounded(Cardinality(1), total=-1).on((3,)), "got -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("flat", [1.0, 1e-314])
def test_hessians_that_rounding_has_spoilt_still_give_steps(flat, rng):
    """As of losses that are flat where the classes are apart."""
    for _ in range(10):
        root = rng.standard_normal((5, 2))
        H = root @ root.T
        H -= 1e-9 * np.diag(rng.random(5))  # falls a little in some directions
        g = rng.standard_normal(5)
        damped = _damped(flat * H, 2.2e-16)
        d = box_quadratic(damped, g, np.full(5, -1.0), np.full(5, 1.0), False)
        assert np.all(np.abs(d) <= 1)
        assert g @ d + d @ damped @ d / 2 < 0


@pytest.mark.parametrize("seed", [173, 256])
def test_an_answer_of_many_steps_is_on_the_structure(seed):
    """Draws on which the sum of a refitted answer was off by 36 roundings of one."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(5, 30)), int(rng.integers(2, 8))
    k = int(rng.integers(1, p + 1))
    X = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-3, 4, p)
    X = X * (rng.random() < 0.5) + rng.standard_normal((n, p))
    y = rng.standard_normal(n)
    f = Quantile(X, y, quantile=rng.choice([0.1, 0.5, 0.9]), l2=1e-3)
    structure = Bounded(Cardinality(k), lower=-np.inf, total=1.0).on(f.shape)
    x = solve(f, structure).x
    assert structure.contains(x)
    x[0] += 1e-12
    assert not structure.contains(x)
