"""Lower bounds: proved against enumeration, linear programmes and second solvers."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linprog, minimize
from sklearn.base import clone

import vitalfew
from tests.contracts.brute_force import feasible_sets, optimum
from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import certify, solve
from vitalfew.bounds import Node, Problem, relaxations, relaxed, screened
from vitalfew.bounds._model import Model, Perspective
from vitalfew.bounds._shares import most, shares
from vitalfew.designs import Scaled, as_design
from vitalfew.estimators import SparseClassifier, SparseRegressor
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import (
    LeastSquares,
    Logistic,
    Multinomial,
    Poisson,
    Quadratic,
    Smooth,
)
from vitalfew.penalties import L1
from vitalfew.solution import Status
from vitalfew.solvers import OMP, BranchAndBound
from vitalfew.structures import Cardinality, Groups, Rows

STRUCTURES = {
    "Cardinality": Cardinality(2),
    "Rows": Rows(2),
    "Rows, kept": Rows(3, keep=(4,)),
    "Groups": Groups([0, 2, 1, 0, 3, 1], 2),
    "Groups, kept": Groups([0, 2, 1, 0, 3, 1], 2, keep=(1,)),
    "Groups, costs": Groups([0, 2, 1, 0, 3, 1], costs=[1.0, 2.5, 0.7, 1], max_cost=3),
}


@pytest.fixture(params=range(4))
def seed(request):
    return request.param


def correlated(rng, n=60, p=8):
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.4 * rng.standard_normal((p, p)))
    return X, X[:, :3] @ np.array([1.0, -1.0, 0.7]) + rng.standard_normal(n)


def root_of(f, structure):
    problem = Problem(f, structure.on(f.shape))
    return problem, problem.root, problem.convexity(problem.root)


# -- the small problems ----------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.3, 20.0])
def test_shares_are_the_best_that_fit(shift, seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        n = int(rng.integers(1, 9))
        sizes, costs = rng.exponential(size=n), rng.uniform(0.5, 2, n)
        sizes[rng.random(n) < 0.2] = 0.0
        capacity = float(rng.uniform(0.05, 1.2) * costs.sum())
        s = shares(sizes, costs, capacity, shift)
        assert np.all((s >= 0) & (s <= 1))
        assert costs @ s <= capacity * (1 + 1e-12)
        live = sizes > 0
        if costs[live].sum() <= capacity:
            np.testing.assert_array_equal(s, live)
            continue
        assert costs @ s == pytest.approx(capacity)
        # a price of the budget, at which no share wants to move
        slope = sizes[live] ** 2 / (s[live] + shift + 1e-300) ** 2 / costs[live]
        part = (s[live] > 0) & (s[live] < 1)
        price = slope[part].mean() if part.any() else slope[s[live] == 1].min()
        np.testing.assert_allclose(slope[part], price, rtol=1e-6)
        assert np.all(slope[s[live] == 1] >= price * (1 - 1e-6))
        assert np.all(slope[s[live] == 0] <= price * (1 + 1e-6))


def test_the_most_a_budget_can_bring_is_a_linear_programme(seed):
    rng = np.random.default_rng(seed)
    for whole in (False, True):
        gains = rng.exponential(size=7)
        costs = np.ones(7) if whole else rng.uniform(0.5, 2, 7)
        for capacity in (0.0, 2.0, 3.7, 100.0):
            best = linprog(-gains, A_ub=[costs], b_ub=[capacity], bounds=(0, 1))
            found = most(gains, costs, capacity)
            assert found.total == pytest.approx(-best.fun, abs=1e-9)
            for price in (found.low, found.high):  # Lagrange: the same for both
                dual = price * capacity + np.maximum(gains - price * costs, 0).sum()
                assert dual == pytest.approx(found.total)


@pytest.mark.parametrize("width", [1, 2])
def test_a_model_is_minimised_to_its_duality_gap(width, seed):
    rng = np.random.default_rng(seed)
    n = 8
    root = rng.standard_normal((5, n * width))  # singular
    over = Perspective(
        mu=0.05,
        owner=np.repeat(np.arange(n), width),
        costs=rng.uniform(0.5, 2, n),
        inside=np.arange(n) == 3,
        capacity=2.5,
    )
    model = Model(root.T @ root, rng.standard_normal(n * width), over)
    x = model.minimised(rng.standard_normal(n * width), 1e-10)
    assert model.value(x) - model.bound(x) <= 1e-10
    for _ in range(20):
        near = x + 10 ** rng.uniform(-6, 0) * rng.standard_normal(len(x))
        assert model.value(near) >= model.value(x) - 1e-10


# -- bounds ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
def test_every_point_gives_a_bound(name, seed):
    """Also one that is far from the best: nothing has to converge."""
    rng = np.random.default_rng(seed)
    table = make_table(DATA_PROBLEMS[name], rng, n=30)
    options = {
        "fit_intercept": bool(seed % 2),
        "l2": 0.02,
        "sample_weight": table.weight,
    }
    f = DATA_PROBLEMS[name].build(table.X, table.targets, **options)
    for structure in STRUCTURES.values():
        if isinstance(structure, Cardinality) and len(f.shape) > 1:
            continue
        problem, root, mu = root_of(f, structure)
        best = optimum(f, problem.structure)
        atoms = rng.permutation(problem.structure.n_atoms)[:3]
        z = rng.standard_normal(int(problem.sizes[atoms].sum()))
        steps = list(relaxations(problem, root, mu, (atoms, z), tol=1e-8))
        bounds = [found.bound for found in steps]
        assert max(bounds) <= best
        assert np.all(np.diff(bounds) >= 0)
        # and the relaxation is solved: bound and relaxed value meet
        assert steps[-1].value - steps[-1].bound <= 1e-7 * abs(best)
        assert steps[-1].shares @ problem.costs[steps[-1].atoms] <= (
            problem.budget + 1e-9
        )


def test_the_relaxation_against_a_general_solver(seed):
    rng = np.random.default_rng(seed)
    X, y = correlated(rng, n=20, p=5)
    f, mu, k = LeastSquares(X, y, l2=0.1), 0.1, 2

    def relaxed_value(v):
        x, s = v[:5], v[5:]
        value, _ = f.value_and_gradient(x)
        return value + mu / 2 * np.sum(x * x / s - x * x)

    start = np.concatenate((np.zeros(5), np.full(5, k / 5)))
    other = minimize(
        relaxed_value,
        start,
        method="SLSQP",
        bounds=[(None, None)] * 5 + [(1e-9, 1)] * 5,
        constraints={"type": "ineq", "fun": lambda v: k - v[5:].sum()},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    problem, root, _ = root_of(f, Cardinality(k))
    found = relaxed(problem, root, mu, tol=1e-9)
    assert found.value == pytest.approx(other.fun, rel=1e-5)
    assert found.bound <= other.fun + 1e-9


def test_bounds_of_parts(seed):
    """Atoms forced in or out: the bound holds for just those choices."""
    rng = np.random.default_rng(seed)
    X, y = correlated(rng)
    f = Logistic(X, (y > 0).astype(float), l2=0.02, fit_intercept=True)
    structure = Cardinality(3).on(f.shape)
    problem = Problem(f, structure)
    node = problem.fitting(Node(np.array([5]), np.array([0, 2, 3, 6, 7])))
    sets = [s for s in feasible_sets(structure) if 5 in s and not {1, 4} & set(s)]
    best = min(f.refit(structure.support(s)).value for s in sets)
    found = relaxed(problem, node, 0.02)
    assert found.bound <= best
    assert set(found.atoms.tolist()) <= {0, 2, 3, 5, 6, 7}
    halves = [relaxed(problem, problem.fitting(n), 0.02).bound for n in node.split(2)]
    assert min(halves) >= found.bound - 1e-6 * abs(best)


def test_the_eigenvalue_of_the_data_serves_as_a_ridge(seed):
    rng = np.random.default_rng(seed)
    X, y = correlated(rng)
    for l2 in (0.0, 0.1):
        f = LeastSquares(X, y, l2=l2, fit_intercept=True)
        C = X - X.mean(axis=0)
        least = np.linalg.eigvalsh(C.T @ C / len(C))[0] + l2
        _, root, mu = root_of(f, Cardinality(2))
        assert mu == pytest.approx(least, rel=1e-8)
        assert mu <= least
        inner = Problem(f, Cardinality(2).on(f.shape))
        assert inner.convexity(Node(root.inside, root.free[:3])) > mu
    H = X.T @ X / len(X)
    q = Quadratic(H, (y @ X / len(X))[None, :], 1.0)
    assert 0 < q.convexity(None) <= np.linalg.eigvalsh(H)[0]
    wide = LeastSquares(rng.standard_normal((5, 8)), rng.standard_normal(5))
    assert root_of(wide, Cardinality(2))[2] == 0


def test_screening_keeps_every_best_choice(seed):
    rng = np.random.default_rng(seed)
    decided = 0
    for _ in range(4):
        X, y = correlated(rng)
        f = LeastSquares(X, y, l2=0.3)
        for structure in (
            Cardinality(3),
            Groups([0, 1, 2, 3, 4, 0, 1, 2], costs=[1, 2, 1.5, 1, 1], max_cost=3),
        ):
            problem, root, mu = root_of(f, structure)
            values = {
                s: f.refit(problem.structure.support(s)).value
                for s in feasible_sets(problem.structure)
            }
            best = min(values.values())
            left = screened(problem, root, relaxed(problem, root, mu), best * 1.01)
            allowed = set(left.inside.tolist()) | set(left.free.tolist())
            decided += problem.structure.n_atoms - len(left.free)
            for chosen, value in values.items():
                if value < best * 1.01:
                    assert set(left.inside.tolist()) <= set(chosen) <= allowed
    assert decided > 0


# -- certify ---------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("loss", [LeastSquares, Logistic, Poisson])
def test_a_certificate_holds(loss, structure, seed):
    rng = np.random.default_rng(seed)
    name = loss.__name__
    table = make_table(DATA_PROBLEMS[name], rng)
    options = {"fit_intercept": True, "l2": 0.05, "sample_weight": table.weight}
    f = DATA_PROBLEMS[name].build(table.X, table.targets, **options)
    structure = STRUCTURES[structure]
    best = optimum(f, structure.on(f.shape))
    plain = solve(f, structure)
    assert plain.lower_bound is None
    assert plain.gap is None
    for seconds in (0.0, 5.0):
        judged = certify(f, structure, plain, tol=1e-4, max_seconds=seconds)
        assert judged.lower_bound <= best * (1 + 1e-9)
        assert judged.gap == (judged.value - judged.lower_bound) / judged.value
        if judged.value == plain.value:
            np.testing.assert_array_equal(judged.x, plain.x)
            assert judged.status is plain.status
    assert judged.gap <= 1.01e-4
    assert judged.value == pytest.approx(best, rel=1e-9)
    assert judged.to_record()["lower_bound"] == judged.lower_bound


def test_orthogonal_columns_leave_no_gap(rng):
    X = np.linalg.qr(rng.standard_normal((80, 12)))[0] * np.sqrt(80)
    y = X @ rng.standard_normal(12) + rng.standard_normal(80)
    f = LeastSquares(X, y, l2=0.01)
    judged = certify(f, Cardinality(4), solve(f, Cardinality(4)), max_seconds=0)
    assert judged.gap < 1e-6


def test_a_bad_solution_gets_a_large_gap(rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.05)
    best = solve(f, Cardinality(3))
    poor_fit = f.refit(Cardinality(3).on(f.shape).support([5, 6, 7]))
    poor = replace(best, x=poor_fit.x, fit=poor_fit, value=poor_fit.value)
    judged = certify(f, Cardinality(3), poor, max_seconds=0)
    assert judged.lower_bound <= best.value < poor.value
    assert judged.gap >= (poor.value - best.value) / poor.value
    np.testing.assert_array_equal(judged.support, [5, 6, 7])
    better = certify(f, Cardinality(3), poor)
    assert better.lower_bound <= better.value <= best.value * (1 + 1e-9)
    assert better.gap <= 1.01e-3


def test_on_every_backend(backend, dtype, rng):
    X, y = correlated(rng)
    exact = LeastSquares(X, y, l2=0.1)
    best = optimum(exact, Cardinality(3).on(exact.shape))
    f = LeastSquares(backend.array(X, dtype), backend.array(y, dtype), l2=0.1)
    judged = certify(f, Cardinality(3), solve(f, Cardinality(3)), max_seconds=1)
    assert type(judged.x) is type(f.like)
    assert judged.lower_bound <= best
    assert judged.gap < (2e-3 if dtype == "float64" else 2e-2)


def test_sparse_and_scaled_data_have_the_same_bound(rng):
    X, y = correlated(rng)
    X[np.abs(X) < 0.5] = 0
    options = {"l2": 0.1, "fit_intercept": True}
    scale = rng.uniform(0.5, 2, X.shape[1])
    found = []
    for design in (
        X,
        scipy.sparse.csr_array(X),
        Scaled(as_design(X * scale), scale),
    ):
        f = LeastSquares(design, y, **options)
        solution = solve(f, Cardinality(2))
        found.append(certify(f, Cardinality(2), solution, max_seconds=0).lower_bound)
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_units_do_not_matter(factor, rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.1)
    g = LeastSquares(X, factor * y, l2=0.1)
    h = LeastSquares(factor * X, y, l2=0.1 * factor**2)
    one, *others = (
        certify(o, Cardinality(3), solve(o, Cardinality(3)), max_seconds=0).gap
        for o in (f, g, h)
    )
    np.testing.assert_allclose(others, one, rtol=1e-3)


def test_awkward_data(rng):
    X, y = correlated(rng)
    awkward = np.concatenate((X, X[:, :3], np.zeros((60, 1)), np.ones((60, 1))), axis=1)
    f = LeastSquares(awkward, y, l2=0.05, fit_intercept=True)
    for k in (0, 1, 5, 13):
        structure = Cardinality(k).on(f.shape)
        judged = certify(f, structure, solve(f, structure), max_seconds=2)
        assert 0 <= judged.gap < 1e-2
        if k < 2:
            assert judged.lower_bound <= optimum(f, structure)
    one = LeastSquares(np.array([[2.0]]), np.array([6.0]), l2=1.0)
    for k in (0, 1):
        judged = certify(one, Cardinality(k), solve(one, Cardinality(k)))
        assert judged.gap < 1e-8
    nothing = LeastSquares(X, np.zeros(60), l2=0.1)
    judged = certify(nothing, Cardinality(2), solve(nothing, Cardinality(2)))
    assert judged.gap == 0


def test_least_squares_without_a_ridge(rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y)
    judged = certify(f, Cardinality(3), solve(f, Cardinality(3)))
    assert judged.lower_bound <= optimum(f, Cardinality(3).on(f.shape))
    assert judged.gap < 1e-2


def test_a_solution_that_is_certified_already_keeps_the_better_bound(rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.001)
    proved = solve(f, Cardinality(3), vitalfew.solvers.BranchAndBound())
    again = certify(f, Cardinality(3), proved, max_seconds=0)
    assert again.lower_bound == proved.lower_bound
    assert again.gap <= 1.01e-6


def test_what_cannot_be_certified_is_refused_with_a_reason(rng):
    X, y = correlated(rng)
    labels = (y > 0).astype(float)
    f = Logistic(X, labels)
    solution = solve(f, Cardinality(2))
    with pytest.raises(IncompatibleError, match=r"Logistic with l2 > 0.*l2=0\.01"):
        certify(f, Cardinality(2), solution)
    with pytest.raises(IncompatibleError, match="L1 is a penalty"):
        certify(f, L1(0.1), solution)
    smooth = Smooth(
        lambda x: float(x @ x), 8, gradient=lambda x: 2 * x, like=np.zeros(8)
    )
    with pytest.raises(IncompatibleError, match="known to be convex"):
        certify(smooth, Cardinality(2), solution)


def test_solutions_of_other_problems_are_refused(rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.1)
    solution = solve(f, Cardinality(3))
    with pytest.raises(ValueError, match="Solution of solve"):
        certify(f, Cardinality(3), solution.fit)
    with pytest.raises(ValueError, match="lie on the structure"):
        certify(f, Cardinality(2), solution)
    with pytest.raises(ValueError, match="this objective"):
        certify(LeastSquares(X, 2 * y, l2=0.1), Cardinality(3), solution)
    with pytest.raises(ValueError, match="shape"):
        certify(LeastSquares(X[:, :4], y, l2=0.1), Cardinality(3), solution)
    for bad in ({"tol": -1.0}, {"max_seconds": np.nan}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            certify(f, Cardinality(3), solution, **bad)


def test_it_takes_solutions_of_limited_runs(rng):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.1)
    stopped = solve(f, Cardinality(3), OMP(), max_iter=1)
    assert stopped.status is Status.MAX_ITER
    judged = certify(f, Cardinality(3), stopped)
    assert judged.lower_bound <= judged.value <= stopped.value
    assert judged.gap <= 1.01e-3


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_gives_the_bound_there_is(after, rng, monkeypatch):
    X, y = correlated(rng)
    f = LeastSquares(X, y, l2=0.05)
    solution = solve(f, Cardinality(2))

    def interrupted(*arguments, **options):
        yield from itertools.islice(relaxations(*arguments, **options), after)
        raise KeyboardInterrupt

    monkeypatch.setattr(vitalfew._certify, "relaxations", interrupted)
    if not after:
        with pytest.raises(KeyboardInterrupt):
            certify(f, Cardinality(2), solution)
        return
    judged = certify(f, Cardinality(2), solution)
    assert judged.lower_bound <= optimum(f, Cardinality(2).on(f.shape))


# -- where it is used ------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Logistic, Poisson, Multinomial])
def test_columns_far_from_zero_have_the_same_bound(loss, rng):
    """The intercept has a long way to go, and bounds rest on its being the best."""
    table = make_table(DATA_PROBLEMS[loss.__name__], rng, n=60)
    bounds = []
    for shift in (0.0, 300.0):
        X = table.X + shift
        f = loss(X, **table.targets, l2=0.05, fit_intercept=True)
        problem, root, mu = root_of(f, Rows(2))
        bounds.append(relaxed(problem, root, mu).bound)
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)


def test_estimators_certify(rng):
    X, y = correlated(rng, n=80)
    for model, target in (
        (SparseRegressor(3, certify=True), y),
        (SparseRegressor(3, certify=True, loss="huber", l2=0.05), y),
        (SparseClassifier(3, certify=True), (y > 0).astype(int)),
        (SparseClassifier(2, certify=True), np.digitize(y, [-1, 1])),
        (SparseRegressor(2, certify=True, groups=[0, 1, 2, 3, 0, 1, 2, 3]), y),
    ):
        model.fit(X, target)
        assert model.solution_.lower_bound == model.lower_bound_
        assert model.gap_ == model.solution_.gap < 0.02
        assert not hasattr(
            clone(model).set_params(certify=False).fit(X, target), "gap_"
        )
    chosen = SparseRegressor(certify=True, random_state=0).fit(X, y)
    assert chosen.path_.best.lower_bound == chosen.lower_bound_
    again = pickle.loads(pickle.dumps(chosen))
    assert again.gap_ == chosen.gap_


def test_estimators_refuse_at_once_what_they_could_not_certify(rng):
    X = rng.standard_normal((20, 30))
    y = X[:, 0] + rng.standard_normal(20)
    with pytest.raises(IncompatibleError, match="l2 > 0"):
        SparseRegressor(3, certify=True).fit(X, y)
    assert SparseRegressor(3, certify=True, l2=0.3).fit(X, y).gap_ < 0.5


def test_a_budget_just_short_of_whole_costs_is_that_of_the_structure(rng):
    """The structure allows for rounding in costs, so the bound has to."""
    budget = 4.35 * 100  # 434.99999999999994
    costs = np.array([435.0, 200.0, 300.0])
    structure = Groups([0, 1, 2], costs=costs, max_cost=budget)
    X = rng.standard_normal((30, 3))
    f = LeastSquares(X, 3 * X[:, 0] + 0.1 * X[:, 1], l2=0.01)
    problem, root, mu = root_of(f, structure)
    alone = f.refit(problem.structure.support([0]))
    assert problem.structure.allows(alone.support)
    assert relaxed(problem, root, mu).bound <= alone.value
    assert solve(f, structure, BranchAndBound()).value <= alone.value * (1 + 1e-6)


@pytest.mark.parametrize("l2", [1e6, 1e9])
def test_bounds_hold_where_the_ridge_swallows_the_digits(l2, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 1))
    f = LeastSquares(X, X[:, 0] + rng.standard_normal(60), l2=l2, fit_intercept=True)
    problem, root, mu = root_of(f, Cardinality(1))
    best = optimum(f, problem.structure)
    for _ in range(20):
        start = np.arange(1), rng.standard_normal(1)
        for found in relaxations(problem, root, mu, start):
            assert found.bound <= best


def test_relaxations_end_where_rounding_is_larger_than_the_gap(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((23, 5))
    f = LeastSquares(X, X @ rng.standard_normal(5), l2=1e-6)  # no noise
    problem, root, mu = root_of(f, Cardinality(4))
    steps = list(relaxations(problem, root, 1e-6, tol=1e-12))
    assert mu >= 1e-6
    assert len(steps) < 20
    assert max(found.bound for found in steps) <= optimum(f, problem.structure)
