"""Coordinate descent against other libraries, other solvers and its own optimality."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import (
    ElasticNet as SklearnElasticNet,
)
from sklearn.linear_model import (
    Lasso,
    LogisticRegression,
    MultiTaskLasso,
    PoissonRegressor,
)

from tests.contracts.problems import DATA_PROBLEMS, make_table
from tests.contracts.test_penalties import CASES
from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew._native import _twins
from vitalfew._native._descent_twins import FORMS
from vitalfew.contracts import HasAlpha, HasBlocks, HasKernel, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import (
    Gamma,
    LeastSquares,
    Logistic,
    Ordinal,
    Poisson,
    Quadratic,
    Smooth,
)
from vitalfew.penalties import (
    L1,
    MCP,
    SCAD,
    ElasticNet,
    GroupL2,
    LogSum,
    Lq,
    SparseGroup,
)
from vitalfew.solution import Status
from vitalfew.solvers import CoordinateDescent, ProximalGradient, coordinate_descent
from vitalfew.supports import Coordinates

IN_BLOCKS = {name: p for name, p in CASES.items() if follows(p, HasBlocks)}
NOT_CONVEX = (MCP, SCAD, Lq, LogSum)
CONVEX = {n: p for n, p in IN_BLOCKS.items() if not isinstance(p, NOT_CONVEX)}


def table(seed, n=60, p=200, k=6, rho=0.5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho * rho) * X[:, j]
    x = np.zeros(p)
    x[rng.choice(p, k, replace=False)] = rng.choice([-2.0, 1.0, 1.5], k)
    return X, X @ x + 0.5 * rng.standard_normal(n) + 1.0


def scale_of(f):
    _, g = f.value_and_gradient(np.zeros(f.shape))
    return np.abs(g).max()


def distance_of(f, penalty, x):
    return penalty.subdifferential_distance(x, f.value_and_gradient(x)[1])


# -- the optimum -----------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
@pytest.mark.parametrize("kind", list(CONVEX))
def test_the_optimum_of_every_objective(name, kind, rng):
    penalty, problem = CONVEX[kind], DATA_PROBLEMS[name]
    rows = make_table(problem, rng)
    f = problem.build(rows.X, rows.targets, fit_intercept=True, l2=0.01)
    solution = solve(f, penalty, CoordinateDescent())
    assert solution.status is Status.CONVERGED
    assert distance_of(f, penalty, solution.x) <= 1.01e-8 * scale_of(f)
    assert solution.n_iter < 40
    other = solve(f, penalty, ProximalGradient())
    assert solution.value == pytest.approx(other.value, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_many_columns_and_the_strong_rule(seed, share):
    X, y = table(seed)
    f = LeastSquares(X, y, fit_intercept=True)
    for penalty in (L1(1.0), ElasticNet(1.0, 0.7), GroupL2(np.arange(200) // 4, 1.0)):
        most = penalty.critical_alpha(f.value_and_gradient(np.zeros(200))[1])
        penalty = penalty.with_alpha(share * most)
        solution = solve(f, penalty)
        assert solution.solver == "CoordinateDescent"
        assert distance_of(f, penalty, solution.x) <= 1.01e-8 * scale_of(f)
        assert solution.n_iter < 12


def test_what_the_rule_left_out_comes_in():
    """Where column 0 alone is held, the gradient of column 1 is far below the rest.

    At this start its products with the residual nearly vanish, so that the strong rule
    leaves it out; at the optimum it is the only one.
    """
    X = np.array([[1.0, 0.6], [0.0, 0.8]])
    f = LeastSquares(X, np.array([0.6, 0.8]))
    one = np.array([0])
    held = Coordinates(one, one, np.ones(1, np.int64), (2,))
    start = f.at(held, np.array([1 / 0.6]))
    assert abs(start.gradient[1]) < 1e-12 < abs(start.gradient[0])
    solution = solve(f, L1(1e-3), CoordinateDescent(), start=start)
    assert distance_of(f, L1(1e-3), solution.x) <= 1e-8
    assert np.flatnonzero(solution.x).tolist() == [1]


@pytest.mark.parametrize("most", [1, 7, 50])
def test_working_sets_of_limited_size(most, monkeypatch):
    monkeypatch.setattr(coordinate_descent, "MOST_COORDINATES", most)
    X, y = table(1, n=80, p=30)
    for f in (LeastSquares(X, y), Logistic(X, (y > 1).astype(float), l2=0.1)):
        for penalty in (
            L1(0.01),
            GroupL2(np.arange(30) // 3, 0.01),
            ElasticNet(0.1, 0),
        ):
            solution = solve(f, penalty, CoordinateDescent(tol=1e-6))
            assert solution.status is Status.CONVERGED
            assert distance_of(f, penalty, solution.x) <= 1e-6 * scale_of(f)


# -- other libraries -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("intercept", [False, True])
def test_lasso_and_elastic_net_are_those_of_scikit_learn(seed, intercept):
    X, y = table(seed)
    f = LeastSquares(X, y, fit_intercept=intercept)
    settings = {"fit_intercept": intercept, "tol": 1e-12, "max_iter": 100_000}
    theirs = Lasso(alpha=0.1, **settings).fit(X, y)
    ours = solve(f, L1(0.1), CoordinateDescent())
    np.testing.assert_allclose(ours.x, theirs.coef_, atol=1e-6)
    theirs = SklearnElasticNet(alpha=0.1, l1_ratio=0.3, **settings).fit(X, y)
    ours = solve(f, ElasticNet(0.1, 0.3), CoordinateDescent())
    np.testing.assert_allclose(ours.x, theirs.coef_, atol=1e-6)
    if intercept:
        assert float(ours.intercept) == pytest.approx(theirs.intercept_, abs=1e-6)


def test_logistic_is_that_of_liblinear():
    X, y = table(0, n=100, p=40)
    labels = (y > np.median(y)).astype(float)
    alpha = 0.02
    theirs = LogisticRegression(
        l1_ratio=1,
        C=1 / (len(X) * alpha),
        solver="liblinear",
        fit_intercept=False,
        tol=1e-10,
        max_iter=100_000,
    ).fit(X, labels)
    ours = solve(Logistic(X, labels), L1(alpha), CoordinateDescent())
    np.testing.assert_allclose(ours.x, theirs.coef_.ravel(), atol=1e-5)


def test_poisson_ridge_is_that_of_scikit_learn():
    X, _ = table(0, n=100, p=10)
    counts = np.random.default_rng(0).poisson(np.exp(0.3 * X[:, 0])).astype(float)
    theirs = PoissonRegressor(alpha=0.3, tol=1e-12, max_iter=10_000).fit(X, counts)
    f = Poisson(X, counts, fit_intercept=True)
    ours = solve(f, ElasticNet(0.3, l1_ratio=0.0), CoordinateDescent())
    np.testing.assert_allclose(ours.x, theirs.coef_, atol=1e-6)


def test_rows_of_several_outputs_are_those_of_scikit_learn():
    X, y = table(2, n=60, p=50)
    Y = np.stack([y, X[:, 3] - y, X[:, 4]], axis=1)
    theirs = MultiTaskLasso(alpha=0.2, fit_intercept=False, tol=1e-12, max_iter=50_000)
    theirs.fit(X, Y)
    penalty = GroupL2(np.arange(50), 0.2, weights=np.ones(50))
    ours = solve(LeastSquares(X, Y), penalty, CoordinateDescent())
    np.testing.assert_allclose(ours.x, theirs.coef_.T, atol=1e-6)


# -- penalties that are not convex -----------------------------------------------------


@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
@pytest.mark.parametrize("penalty", [MCP(0.1), SCAD(0.1), Lq(0.02), LogSum(0.02, 0.2)])
def test_stationary_from_the_lasso(name, penalty, rng):
    problem = DATA_PROBLEMS[name]
    rows = make_table(problem, rng)
    f = problem.build(rows.X, rows.targets, fit_intercept=True, l2=0.01)
    lasso = solve(f, L1(0.02))
    solution = solve(f, penalty, CoordinateDescent(), start=lasso)
    assert solution.status is Status.CONVERGED
    assert distance_of(f, penalty, solution.x) <= 1.01e-8 * scale_of(f)
    before = lasso.value - L1(0.02).value(lasso.x) + penalty.value(lasso.x)
    assert solution.value <= before


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "penalty",
    [MCP(0.3), MCP(0.3, 0.5), SCAD(0.3), Lq(0.3), Lq(0.2, 0.3), LogSum(0.1, 0.1)],
)
def test_no_coordinate_can_improve(seed, penalty):
    X, y = table(seed, n=60, p=12, k=4)
    f = LeastSquares(X, y, fit_intercept=True)
    solution = solve(f, penalty, CoordinateDescent(), start=solve(f, L1(0.1)))
    for i in range(12):
        for value in np.linspace(-4, 4, 161):
            x = solution.x.copy()
            x[i] = value
            total = f.value_and_gradient(x)[0] + penalty.value(x)
            assert total >= solution.value - 1e-9


# -- the same answer in other ways -----------------------------------------------------


@pytest.mark.parametrize("name", ["LeastSquares", "Logistic", "Cox, Efron"])
def test_sparse_data_give_the_same(name, rng):
    problem = DATA_PROBLEMS[name]
    rows = make_table(problem, rng)
    dense = problem.build(rows.X, rows.targets, fit_intercept=True)
    for convert in (scipy.sparse.csr_array, scipy.sparse.csc_array):
        f = problem.build(convert(rows.X), rows.targets, fit_intercept=True)
        for penalty in (L1(0.03), SparseGroup([0, 1, 0, 2, 1, 1], 0.03)):
            one, other = solve(dense, penalty), solve(f, penalty)
            np.testing.assert_allclose(one.x, other.x, atol=1e-7)


@pytest.mark.parametrize("kind", list(IN_BLOCKS))
def test_the_twin_gives_the_same(kind, rng, monkeypatch):
    penalty = IN_BLOCKS[kind]
    rows = make_table(DATA_PROBLEMS["Logistic"], rng)
    f = DATA_PROBLEMS["Logistic"].build(
        rows.X, rows.targets, fit_intercept=True, l2=0.1
    )
    start = solve(f, L1(0.02), ProximalGradient())
    compiled = solve(f, penalty, CoordinateDescent(), start=start)
    monkeypatch.setattr(coordinate_descent, "descend", _twins.descend)
    twin = solve(f, penalty, CoordinateDescent(), start=start)
    np.testing.assert_allclose(compiled.x, twin.x, atol=1e-6)


@pytest.mark.parametrize("kind", list(IN_BLOCKS))
@pytest.mark.parametrize("name", ["LeastSquares", "LeastSquares, two outputs"])
def test_penalties_without_a_kernel(kind, name, rng, monkeypatch):
    """Those of a user's own, known by their prox alone."""
    penalty, problem = IN_BLOCKS[kind], DATA_PROBLEMS[name]
    rows = make_table(problem, rng)
    f = problem.build(rows.X, rows.targets, fit_intercept=True, l2=0.1)
    known = solve(f, penalty, CoordinateDescent(), start=solve(f, L1(0.02)))
    real = coordinate_descent.follows
    monkeypatch.setattr(
        coordinate_descent,
        "follows",
        lambda thing, protocol: protocol is not HasKernel and real(thing, protocol),
    )
    by_prox = solve(f, penalty, CoordinateDescent(), start=solve(f, L1(0.02)))
    np.testing.assert_allclose(known.x, by_prox.x, atol=1e-6)


@pytest.mark.parametrize("kind", list(IN_BLOCKS))
def test_the_kernel_is_the_penalty(kind, rng):
    penalty = IN_BLOCKS[kind]
    labels = np.arange(6) if penalty.labels is None else penalty.labels
    for block in range(labels.max() + 1):
        form, parameters = penalty.kernel(np.array([block]))
        assert parameters.shape == (1, 3)
        value, prox = FORMS[form]
        part = penalty.on_blocks(np.array([block]))
        for step in (0.1, 1.0, 30.0):
            v = 2 * rng.standard_normal(int((labels == block).sum()))
            u = prox(v, step, *parameters[0])
            np.testing.assert_allclose(u, part.prox(v, step), atol=1e-9)
            assert value(u, *parameters[0]) == pytest.approx(part.value(u), abs=1e-9)


@pytest.mark.parametrize("kind", list(IN_BLOCKS))
@pytest.mark.parametrize("shape", [(6,), (6, 2)], ids=str)
def test_blocks_add_up(kind, shape, rng):
    penalty, x = IN_BLOCKS[kind], rng.standard_normal(shape)
    labels = np.arange(6) if penalty.labels is None else penalty.labels
    blocks = rng.permutation(labels.max() + 1)
    each = [penalty.on_blocks(np.array([b])).value(x[labels == b]) for b in blocks]
    assert sum(each) == pytest.approx(penalty.value(x))
    in_order = np.concatenate([x[labels == b] for b in blocks])
    assert penalty.on_blocks(blocks).value(in_order) == pytest.approx(penalty.value(x))


@pytest.mark.parametrize("kind", [n for n, p in CASES.items() if follows(p, HasAlpha)])
def test_the_critical_strength_is_the_least(kind, rng):
    penalty = CASES[kind]
    g, zero = rng.standard_normal(6), np.zeros(6)
    if getattr(penalty, "weights", None) is not None:
        labels = np.arange(6) if penalty.labels is None else penalty.labels
        g[np.asarray(penalty.weights)[labels] == 0] = 0.0  # free whatever the strength
    critical = penalty.critical_alpha(g)
    if not np.isfinite(critical):
        assert kind == "ElasticNet, ridge"
        return
    above = penalty.with_alpha(critical * (1 + 1e-9) or 1e-9)
    assert above.subdifferential_distance(zero, g) <= 1e-12
    if critical > 0:
        below = penalty.with_alpha(0.999 * critical)
        assert below.subdifferential_distance(zero, g) > 0
    else:
        assert isinstance(penalty, Lq)


def test_every_backend_and_precision(backend, dtype):
    X, y = table(0, n=50, p=20)
    exact = solve(LeastSquares(X, y), L1(0.1))
    f = LeastSquares(backend.array(X, dtype), backend.array(y, dtype))
    solution = solve(f, L1(0.1))
    assert type(solution.x) is type(f.like)
    assert solution.x.dtype == f.like.dtype
    assert solution.status is Status.CONVERGED  # to its precision, whatever was asked
    rough = 1e-7 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(to_host(solution.x), exact.x, atol=rough)


def test_a_matrix_of_weights():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((20, 8))
    f = Quadratic(root.T @ root / 20, rng.standard_normal((3, 8)))
    for penalty in (L1(0.3), GroupL2([0, 1, 0], 0.3), MCP(0.3)):
        solution = solve(f, penalty, CoordinateDescent())
        assert distance_of(f, penalty, solution.x) <= 1e-8 * scale_of(f)
        assert 0 < np.count_nonzero(solution.x) < 24 or penalty.labels is not None


@pytest.mark.parametrize("share", [0.0, np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_columns_and_products_give_the_same(share, dtype, monkeypatch):
    """Descent on the columns, where they are few, and on their products."""
    monkeypatch.setattr(coordinate_descent, "FEWEST_FOR_COLUMNS", share)
    X, y = table(0, n=50, p=80)
    weight = np.random.default_rng(0).random(50)
    exact = 1e-7 if dtype == "float64" else 2e-3
    f = LeastSquares(
        X.astype(dtype),
        y.astype(dtype),
        sample_weight=weight,
        l2=0.01,
        fit_intercept=True,
    )
    other = f.with_ridge(np.linspace(0, 1, 80))
    for g in (f, other):
        penalties = (L1(0.1), SparseGroup(np.arange(80) // 3, 0.1), MCP(0.1, 5.0))
        for penalty in penalties:
            solution = solve(g, penalty, CoordinateDescent())
            lasso = solve(g, penalty, ProximalGradient(tol=exact / 10))
            if not isinstance(penalty, MCP):
                np.testing.assert_allclose(solution.x, lasso.x, atol=10 * exact)
            assert distance_of(g, penalty, solution.x) <= exact


def test_the_root_of_the_hessian(rng):
    X, y = table(0, n=20, p=9)
    for center in (False, True):
        weight = rng.random(20)
        f = LeastSquares(X, y, sample_weight=weight, l2=0.3, fit_intercept=center)
        fit = solve(f, L1(0.1)).fit
        ids = np.array([7, 2, 5])
        span = Coordinates(ids, ids, np.ones(3, np.int64), (9,))
        A, slots, r = f.hessian_root(fit, span)
        product = A[slots] @ A[slots].T + np.diag(r)
        np.testing.assert_allclose(product, f.hessian(fit, span), atol=1e-12)


# -- awkward data ----------------------------------------------------------------------


def test_one_column_and_one_row():
    f = LeastSquares(np.array([[2.0]]), np.array([3.0]))
    solution = solve(f, L1(1.0), CoordinateDescent())
    # 2 (2 x - 3) + 1 = 0
    assert float(solution.x[0]) == pytest.approx(1.25)


def test_no_penalty_is_least_squares():
    X, y = table(0, n=50, p=10)
    expected = np.linalg.lstsq(X, y, rcond=None)[0]
    for penalty in (
        L1(0.0),
        GroupL2(np.arange(10) // 2, 0.0),
        ElasticNet(0.0),
        MCP(0.0),
    ):
        solution = solve(LeastSquares(X, y), penalty, CoordinateDescent())
        np.testing.assert_allclose(solution.x, expected, atol=1e-6)


def test_beyond_the_critical_strength_all_is_zero():
    X, y = table(0)
    f = LeastSquares(X, y, fit_intercept=True)
    _, g = f.value_and_gradient(np.zeros(200))
    for penalty in (L1(1.0), ElasticNet(1.0), SparseGroup(np.arange(200) // 5, 1.0)):
        critical = penalty.critical_alpha(g)
        solution = solve(f, penalty.with_alpha(critical * (1 + 1e-12)))
        assert not solution.x.any()
        assert solution.n_iter == 0
        assert solve(f, penalty.with_alpha(0.99 * critical)).x.any()


def test_constant_zero_and_equal_columns():
    X, y = table(0, n=50, p=12)
    X[:, 1], X[:, 2], X[:, 4] = 0.0, 7.0, X[:, 3]
    f = LeastSquares(X, y, fit_intercept=True)
    for penalty in (
        L1(0.05),
        GroupL2(np.arange(12) // 2, 0.05),
        ElasticNet(0.05),
        L1(0),
    ):
        solution = solve(f, penalty, CoordinateDescent())
        assert solution.status is Status.CONVERGED
        assert distance_of(f, penalty, solution.x) <= 1e-8 * scale_of(f)
        assert not solution.x[1:3].any() or isinstance(penalty, GroupL2)
        assert np.isfinite(solution.x).all()


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_other_units(unit):
    X, y = table(0, n=50, p=20)
    here = solve(LeastSquares(X, y), L1(0.1), CoordinateDescent(tol=1e-10))
    there = solve(
        LeastSquares(unit * X, y), L1(0.1 * unit), CoordinateDescent(tol=1e-10)
    )
    np.testing.assert_allclose(there.x * unit, here.x, atol=1e-7)
    there = solve(
        LeastSquares(X, unit * y), L1(0.1 * unit), CoordinateDescent(tol=1e-10)
    )
    np.testing.assert_allclose(there.x / unit, here.x, atol=1e-7)


def test_columns_in_different_units(rng):
    X, y = table(0, n=80, p=10)
    units = 10.0 ** rng.integers(-4, 5, 10)
    weights = units / units.max()
    f = LeastSquares(X * units, y)
    solution = solve(f, L1(0.1 * units.max(), weights=weights), CoordinateDescent())
    expected = solve(LeastSquares(X, y), L1(0.1), CoordinateDescent())
    np.testing.assert_allclose(solution.x * units, expected.x, atol=1e-3)


def test_steep_losses_are_damped(rng):
    """Full Newton steps of exponentials overshoot from here."""
    X = 5 * rng.standard_normal((40, 6))
    counts = rng.poisson(np.exp(np.clip(X[:, 0], -4, 4))).astype(float)
    f = Poisson(X, counts, fit_intercept=True)
    far = solve(Poisson(X, counts[::-1].copy()), L1(0.01), ProximalGradient())
    solution = solve(f, L1(0.1), CoordinateDescent(), start=far)
    assert distance_of(f, L1(0.1), solution.x) <= 1e-8 * scale_of(f)
    assert np.all(np.diff(solution.history) <= 1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-25])
def test_where_there_is_hardly_any_curvature_steps_are_damped(size, rng):
    """Targets far below the means that coefficients of zero stand for."""
    X = rng.standard_normal((40, 6)) + 1.0
    y = size * np.exp(X[:, 0] + 0.1 * rng.standard_normal(40))
    f = Gamma(X, y)
    solution = solve(f, L1(0.05), CoordinateDescent())
    assert distance_of(f, L1(0.05), solution.x) <= 1e-8 * scale_of(f)


@pytest.mark.parametrize("power", [-150, -100, 100, 150])
@pytest.mark.parametrize("kind", ["L1", "GroupL2", "SparseGroup", "MCP", "LogSum"])
def test_extreme_units(kind, power):
    X, y = table(0, n=30, p=6, k=3)
    penalty, unit = IN_BLOCKS[kind], 10.0**power
    here = solve(LeastSquares(X, y), penalty, CoordinateDescent())
    there = LeastSquares(X, y * unit)
    stronger = penalty.with_alpha(penalty.alpha * unit)
    if kind == "LogSum":
        stronger = LogSum(penalty.alpha * unit**2, penalty.epsilon * unit)
        here = solve(LeastSquares(X, y), LogSum(penalty.alpha, penalty.epsilon))
    solution = solve(there, stronger, CoordinateDescent())
    np.testing.assert_allclose(solution.x / unit, here.x, atol=1e-6)


def test_columns_in_extreme_units():
    X, y = table(0, n=30, p=6, k=3)
    labels = [0, 0, 1, 1, 2, 2]
    for penalty in (L1(0.1), GroupL2(labels, 0.1), SparseGroup(labels, 0.1)):
        here = solve(LeastSquares(X, y), penalty, CoordinateDescent())
        for unit in (1e-150, 1e-90, 1e90, 1e150):
            there = penalty.with_alpha(0.1 * unit)
            solution = solve(LeastSquares(X * unit, y), there, CoordinateDescent())
            np.testing.assert_allclose(solution.x * unit, here.x, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_single_precision_comes_to_an_end(seed):
    """Rounding sends it round in circles, each a little better than the last point."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((60, 8)).astype(np.float32)
    y = 2 * X[:, 0] - X[:, 3] + 0.3 * rng.standard_normal(60).astype(np.float32)
    for f in (
        Ordinal(X, np.digitize(y, [-1, 1]).astype(np.float32)),
        Logistic(X, y > 0),
    ):
        solution = solve(f, L1(0.05), CoordinateDescent(), max_iter=100)
        assert solution.status is Status.CONVERGED
        assert distance_of(f, L1(0.05), solution.x) <= 1e-5 * scale_of(f)


def test_the_scale_is_what_tol_refers_to():
    X, y = table(0)
    f = LeastSquares(X, y)
    loose = solve(f, L1(0.05), CoordinateDescent(tol=0.1, scale=2.0))
    exact = solve(f, L1(0.05), CoordinateDescent(tol=0.1, scale=1e-8))
    assert 1e-9 < distance_of(f, L1(0.05), loose.x) <= 0.2
    assert distance_of(f, L1(0.05), exact.x) <= 1e-9


def test_what_it_needs_is_named():
    smooth = Smooth(lambda x: (x * x).sum(), 3, gradient=lambda x: 2 * x)
    with pytest.raises(IncompatibleError, match=r"HasCurvature.*ProximalGradient"):
        solve(smooth, L1(0.1), CoordinateDescent())
    with pytest.raises(IncompatibleError, match=r"HasBlocks.*ProximalGradient"):
        solve(LeastSquares(np.eye(3), np.ones(3)), CASES["SLOPE"], CoordinateDescent())
