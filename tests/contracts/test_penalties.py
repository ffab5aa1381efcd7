"""Laws that every exported penalty obeys."""

import numpy as np
import pytest
import scipy.optimize

from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import penalties, solve, solvers
from vitalfew._arrays import to_host
from vitalfew.contracts import Penalty, Structure, follows
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares
from vitalfew.penalties import (
    L1,
    MCP,
    SCAD,
    SLOPE,
    Box,
    ElasticNet,
    GroupL2,
    GroupSLOPE,
    L1Ball,
    LogSum,
    Lq,
    Simplex,
    SparseGroup,
)
from vitalfew.solution import Status
from vitalfew.structures import Cardinality

LABELS = [0, 1, 0, 2, 1, 1]
CASES = {
    "L1": L1(0.05),
    "L1, none": L1(0.0),
    "L1, weights": L1(0.05, weights=[1.0, 0.0, 2.0, 0.5, 1.0, 3.0]),
    "ElasticNet": ElasticNet(0.05),
    "ElasticNet, ridge": ElasticNet(0.05, l1_ratio=0.0),
    "ElasticNet, weights": ElasticNet(0.1, 0.7, weights=[1, 0, 2, 0.5, 1, 3]),
    "GroupL2": GroupL2(LABELS, 0.03),
    "GroupL2, weights": GroupL2(LABELS, 0.05, weights=[1.0, 0.2, 3.0]),
    "GroupL2, one free": GroupL2(LABELS, 0.05, weights=[1.0, 0.0, 3.0]),
    "SparseGroup": SparseGroup(LABELS, 0.04),
    "SparseGroup, one free": SparseGroup(LABELS, 0.05, 0.3, weights=[1.0, 0.0, 2.0]),
    "SparseGroup, groups": SparseGroup(LABELS, 0.04, 0.0),
    "SparseGroup, lasso": SparseGroup(LABELS, 0.04, 1.0),
    "L1Ball": L1Ball(0.8),
    "Simplex": Simplex(),
    "Simplex, total": Simplex(0.4),
    "Box": Box(-0.2, 0.3),
    "Box, not negative": Box(lower=0.0),
    "SLOPE": SLOPE(0.03),
    "SLOPE, none": SLOPE(0.0),
    "GroupSLOPE": GroupSLOPE(LABELS, 0.02),
    "GroupSLOPE, equal weights": GroupSLOPE(LABELS, 0.05, [3, 1, 0], weights=[1, 1, 1]),
    "MCP": MCP(0.05),
    "MCP, hard": MCP(0.2, 0.3, weights=[1, 0, 2, 0.5, 1, 3]),
    "SCAD": SCAD(0.05),
    "SCAD, hard": SCAD(0.2, 2.1, weights=[1, 0, 2, 0.5, 1, 3]),
    "Lq, half": Lq(0.02),
    "Lq, two thirds": Lq(0.02, 2 / 3, weights=[1, 0, 2, 0.5, 1, 3]),
    "Lq, another": Lq(0.02, 0.3),
    "LogSum": LogSum(0.02, 0.1, weights=[1, 0, 2, 0.5, 1, 3]),
    "LogSum, nearly the lasso": LogSum(1.0, 20.0),
}
# cost nothing inside a set and too much outside: nothing to search by values
INDICATORS = (L1Ball, Simplex, Box)
NOT_CONVEX = (MCP, SCAD, Lq, LogSum)


def test_every_exported_penalty_is_tested():
    tested = {type(penalty).__name__ for penalty in CASES.values()}
    missing = sorted(set(penalties.__all__) - tested)
    assert not missing, (
        f"add {missing} to the table in tests/contracts/test_penalties.py"
    )


def but_not(kinds):
    """Names of the cases that are of other kinds."""
    return [name for name, case in CASES.items() if not isinstance(case, kinds)]


@pytest.fixture(params=CASES)
def penalty(request):
    return CASES[request.param]


@pytest.fixture(params=[(6,), (6, 2)], ids=str)
def shape(request):
    return request.param


def moreau(penalty, x, u, step):
    return np.sum((u - x) ** 2) / (2 * step) + penalty.value(u)


def test_it_is_a_penalty_and_no_structure(penalty):
    assert follows(penalty, Penalty)
    assert not follows(penalty, Structure)


def test_prox_is_optimal(penalty, shape, rng):
    for step in (1e-3, 0.7, 10.0):
        x = rng.standard_normal(shape)
        u = penalty.prox(x, step)
        least = moreau(penalty, x, u, step)
        for size in 10.0 ** -np.arange(6):
            other = u + size * rng.standard_normal((20, *shape))
            values = [moreau(penalty, x, o, step) for o in other]
            assert least <= min(values) + 1e-12 * (1 + abs(least))
        # leaving any subset at zero, or not, is no better
        for _ in range(20):
            other = u * rng.integers(0, 2, shape)
            assert least <= moreau(penalty, x, other, step) + 1e-12 * (1 + abs(least))


# a line search needs finite values; projections are held to references elsewhere
@pytest.mark.parametrize("penalty", but_not(INDICATORS), indirect=True)
def test_prox_is_what_scipy_finds(penalty, rng):
    x = rng.standard_normal(6)
    u = penalty.prox(x, 0.7)
    found = min(
        (
            scipy.optimize.minimize(
                lambda v: moreau(penalty, x, v, 0.7),
                begin,
                method="Powell",
                options={"xtol": 1e-9, "ftol": 1e-13, "maxiter": 10_000},
            )
            for begin in (x, np.zeros(6))
        ),
        key=lambda answer: answer.fun,
    )
    assert moreau(penalty, x, u, 0.7) <= found.fun + 1e-12
    if not isinstance(penalty, NOT_CONVEX):  # of these Powell finds a local minimum
        # a line search along coordinates; strong convexity turns 1e-12 into 1e-6
        np.testing.assert_allclose(u, found.x, atol=1e-3)


def test_prox_and_value_on_every_backend(penalty, shape, backend, dtype, rng):
    host = rng.standard_normal(shape)
    host[1] = 0
    x = backend.array(host, dtype)
    rough = 1e-12 if dtype == "float64" else 1e-6
    assert penalty.value(x) == pytest.approx(penalty.value(host), rel=rough)
    u = penalty.prox(x, 0.4)
    assert type(u) is type(x)
    assert u.dtype == x.dtype
    np.testing.assert_allclose(to_host(u), penalty.prox(host, 0.4), atol=rough)
    gradient = backend.array(host[::-1].copy(), dtype)
    distance = penalty.subdifferential_distance(x, gradient)
    expected = penalty.subdifferential_distance(host, host[::-1])
    assert distance == pytest.approx(expected, rel=10 * rough)


def test_distance_is_zero_where_prox_stays(penalty, shape, rng):
    """u = prox(x) holds (x - u) / step in the subdifferential at u."""
    for step in (0.1, 2.0):
        x = rng.standard_normal(shape)
        u = penalty.prox(x, step)
        at_rest = penalty.subdifferential_distance(u, -(x - u) / step)
        assert at_rest == pytest.approx(0, abs=1e-12)
        # an indicator may forbid to go there; to Lq all slopes at zero are one
        if not isinstance(penalty, (*INDICATORS, Lq)):
            moved = penalty.subdifferential_distance(u, -(x - u) / step + 5.0)
            assert moved > 1


@pytest.mark.parametrize("penalty", but_not(Simplex), indirect=True)  # zero is outside
def test_zero_is_its_own_prox_and_has_no_value(penalty, shape):
    zero = np.zeros(shape)
    assert penalty.value(zero) == 0
    np.testing.assert_array_equal(penalty.prox(zero, 1.0), zero)


@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
def test_the_optimality_condition_holds(penalty, name, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = DATA_PROBLEMS[name].build(table.X, table.targets, fit_intercept=True, l2=0.01)
    solution = solve(f, penalty)
    value, gradient = f.value_and_gradient(solution.x)
    distance = penalty.subdifferential_distance(solution.x, gradient)
    assert solution.status is Status.CONVERGED
    # tol=1e-8 is relative to the largest slope, which is below five in these tables
    assert distance <= 5e-8
    assert solution.n_iter > 0
    assert 0 < len(solution.support) <= f.value_and_gradient(solution.x)[1].size
    assert solution.value == pytest.approx(value + penalty.value(solution.x), rel=1e-12)
    np.testing.assert_array_equal(solution.support, np.flatnonzero(solution.x))


# of the others a stationary point is all that is promised
@pytest.mark.parametrize("penalty", but_not(NOT_CONVEX), indirect=True)
def test_nothing_is_lower(penalty, rng):
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng)
    f = LeastSquares(table.X, table.targets["y"], fit_intercept=True)
    solution = solve(f, penalty)
    for size in 10.0 ** -np.arange(7):
        for _ in range(20):
            x = solution.x + size * rng.standard_normal(6)
            total = f.value_and_gradient(x)[0] + penalty.value(x)
            assert total >= solution.value - 1e-14


def test_penalised_runs_on_every_backend(penalty, kind, rng):
    backend, dtype = kind
    table = make_table(DATA_PROBLEMS["Logistic"], rng)
    build = DATA_PROBLEMS["Logistic"].build
    solver = solvers.ProximalGradient(tol=1e-8 if dtype == "float64" else 1e-4)
    f = build(backend.array(table.X, dtype), table.targets, fit_intercept=True)
    solution = solve(f, penalty, solver)
    # rounding may lead to another of several stationary points: go on from there
    several = isinstance(penalty, NOT_CONVEX) and dtype == "float32"
    start = solution if several else None
    exact = build(table.X, table.targets, fit_intercept=True)
    exact = solve(exact, penalty, solver, start=start)
    assert type(solution.x) is type(f.like)
    assert solution.status is Status.CONVERGED
    rough = 1e-9 if dtype == "float64" else 1e-3
    assert solution.value == pytest.approx(exact.value, rel=rough)


def test_a_strong_penalty_leaves_nothing(rng):
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng)
    f = LeastSquares(table.X, table.targets["y"], fit_intercept=True)
    for penalty in (L1(1e3), GroupL2(LABELS, 1e3)):
        solution = solve(f, penalty)
        assert not solution.x.any()
        assert len(solution.support) == 0
        assert solution.value == pytest.approx(f.value_and_gradient(np.zeros(6))[0])


def test_groups_of_one_are_the_lasso(rng):
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng)
    f = LeastSquares(table.X, table.targets["y"])
    one, other = solve(f, L1(0.2)), solve(f, GroupL2(np.arange(6), 0.2))
    np.testing.assert_allclose(one.x, other.x, atol=1e-6)


def test_wrong_pairings_name_what_fits(rng):
    table = make_table(DATA_PROBLEMS["LeastSquares"], rng)
    f = LeastSquares(table.X, table.targets["y"])
    with pytest.raises(
        IncompatibleError, match=r"OMP needs a structure.*ProximalGradient"
    ):
        solve(f, L1(0.1), solvers.OMP())
    with pytest.raises(
        IncompatibleError, match=r"ProximalGradient needs a penalty.*OMP"
    ):
        solve(f, Cardinality(2), solvers.ProximalGradient())
    with pytest.raises(IncompatibleError, match="needs a structure"):
        solve(f, L1(0.1), start=solvers.GraSP())
    with pytest.raises(IncompatibleError, match=r"objective must be.*ndarray"):
        solve(table.X, Cardinality(2))
    with pytest.raises(IncompatibleError, match=r"structure must be.*int"):
        solve(f, 2)
    with pytest.raises(IncompatibleError, match="solver must be an instance"):
        solve(f, Cardinality(2), solvers.OMP)
    with pytest.raises(IncompatibleError, match="solver must be an instance"):
        solve(f, Cardinality(2), "omp")


BAD = {
    "negative": (lambda: L1(-1.0), "alpha.*-1"),
    "NaN": (lambda: L1(float("nan")), "alpha.*nan"),
    "text": (lambda: L1("a"), "alpha.*'a'"),
    "group negative": (lambda: GroupL2([0, 1], -1.0), "alpha.*-1"),
    "gap": (lambda: GroupL2([0, 2], 1.0), "group 1 is empty"),
    "weights": (lambda: GroupL2([0, 1], 1.0, weights=[1.0]), "weights.*2 groups"),
    "negative weight": (lambda: GroupL2([0, 1], 1.0, weights=[1.0, -1.0]), "weights"),
    "L1 weights": (lambda: L1(1.0, weights=[1.0, -1.0]), "weights.*-1.*row of x 1"),
    "text weights": (lambda: L1(1.0, weights=["a"]), "weights.*'a'"),
    "weights of wrong length": (
        lambda: solve(LeastSquares(np.eye(3), np.ones(3)), L1(0.1, weights=[1.0])),
        "weights.*3.*1",
    ),
    "ratio": (lambda: ElasticNet(1.0, 1.5), "l1_ratio.*1.5"),
    "ratio of groups": (lambda: SparseGroup([0, 1], 1.0, -0.5), "l1_ratio.*-0.5"),
    "NaN weight": (lambda: GroupL2([0, 1], 1.0, weights=[1.0, np.nan]), "weights"),
    "infinite weight": (lambda: GroupL2([0, 1], 1.0, weights=[1.0, np.inf]), "weights"),
    "matrix of labels": (lambda: GroupL2([[0, 1], [1, 0]], 1.0), "labels"),
    "MCP alpha": (lambda: MCP(-1.0), "alpha.*-1"),
    "gamma": (lambda: MCP(1.0, 0.0), "gamma.*positive.*0"),
    "MCP weights": (lambda: MCP(1.0, weights=[np.nan]), "weights.*nan"),
    "a": (lambda: SCAD(1.0, 2.0), "a must.*above 2.*2.0"),
    "power": (lambda: Lq(1.0, 1.0), "q must lie between 0 and 1, got 1.0"),
    "epsilon": (lambda: LogSum(1.0, 0.0), "epsilon.*positive.*0"),
    "rate": (lambda: SLOPE(1.0, q=1.5), "q must lie between 0 and 1, got 1.5"),
    "rising": (lambda: SLOPE(1.0, [1.0, 2.0]), "lambdas.*nonincreasing"),
    "negative lambdas": (lambda: SLOPE(1.0, [1.0, -2.0]), "lambdas.*not negative"),
    "no lambdas": (lambda: SLOPE(1.0, []), "lambdas must be a sequence"),
    "lambdas of wrong length": (
        lambda: SLOPE(1.0, [1.0]).prox(np.ones(3), 1.0),
        "lambdas.*3 entries.*1",
    ),
    "lambdas of groups": (lambda: GroupSLOPE([0, 1], 1.0, [1.0]), "lambdas.*2 gr.*1"),
    "zero group weight": (
        lambda: GroupSLOPE([0, 1], 1.0, weights=[1.0, 0.0]),
        "weights must be positive",
    ),
    "labels of wrong length": (
        lambda: solve(LeastSquares(np.eye(3), np.ones(3)), GroupL2([0, 1], 0.1)),
        "labels.*3.*2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()
