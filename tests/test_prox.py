"""Prox operators against brute force, and the solver that steps by them."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from tests.contracts.problems import DATA_PROBLEMS, make_table
from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew.contracts import HasAlpha, HasBlocks, follows
from vitalfew.objectives import LeastSquares, Logistic, Quadratic
from vitalfew.penalties import (
    L1,
    MCP,
    SCAD,
    SLOPE,
    ElasticNet,
    GroupL2,
    GroupSLOPE,
    L1Ball,
    LogSum,
    Lq,
)
from vitalfew.solution import Status
from vitalfew.solvers import ProximalGradient

STEPS = 10.0 ** np.arange(-3, 3.1, 0.25)
ALPHAS = [0.0, 0.02, 0.5, 3.0]


# -- penalties of single coordinates, written down a second time -----------------------


def mcp(t, alpha, gamma):
    return np.where(
        t <= gamma * alpha, alpha * t - t * t / (2 * gamma), gamma * alpha**2 / 2
    )


def scad(t, alpha, a):
    middle = (2 * a * alpha * t - t * t - alpha**2) / (2 * (a - 1))
    far = alpha**2 * (a + 1) / 2
    return np.where(t <= alpha, alpha * t, np.where(t <= a * alpha, middle, far))


def log_sum(t, alpha, epsilon):
    return alpha * np.log((epsilon + t) / epsilon)


SCALAR = {
    "MCP": (lambda alpha: MCP(alpha, 1.3), lambda t, a: mcp(t, a, 1.3)),
    "MCP, long": (lambda alpha: MCP(alpha, 50.0), lambda t, a: mcp(t, a, 50.0)),
    "SCAD": (SCAD, lambda t, a: scad(t, a, 3.7)),
    "SCAD, short": (lambda alpha: SCAD(alpha, 2.01), lambda t, a: scad(t, a, 2.01)),
    "Lq, half": (Lq, lambda t, a: a * t**0.5),
    "Lq, two thirds": (lambda alpha: Lq(alpha, 2 / 3), lambda t, a: a * t ** (2 / 3)),
    "Lq, 0.1": (lambda alpha: Lq(alpha, 0.1), lambda t, a: a * t**0.1),
    "Lq, 0.95": (lambda alpha: Lq(alpha, 0.95), lambda t, a: a * t**0.95),
    "LogSum": (
        lambda alpha: LogSum(alpha, 0.1),
        lambda t, a: log_sum(t, a, 0.1),
    ),
    "LogSum, wide": (
        lambda alpha: LogSum(alpha, 30.0),
        lambda t, a: log_sum(t, a, 30.0),
    ),
}
# those whose entries cost no more from some size on
THRESHOLDS = {"MCP": [1.3], "SCAD": [2.7, 4.7], "SCAD, short": [1.01, 3.01]}


@pytest.fixture(params=SCALAR)
def scalar(request):
    return request.param


def grid_minimum(r, t, alpha, step):
    """Least value over a dense grid, refined around its best points."""

    def value(u):
        return (u - t) ** 2 / (2 * step) + r(u, alpha)

    grid = np.linspace(0, max(t, 1e-9), 2001)
    values = value(grid)
    least = values.min()
    for centre in np.argsort(values)[:3]:
        lower, upper = grid[max(centre - 1, 0)], grid[min(centre + 1, 2000)]
        fine = value(np.linspace(lower, upper, 2001))
        least = min(least, fine.min())
    return least


def test_the_cost_is_the_formula(scalar, rng):
    make, r = SCALAR[scalar]
    x = np.concatenate(([0.0], rng.standard_normal(200) * np.logspace(-3, 3, 200)))
    for alpha in ALPHAS:
        one_by_one = [make(alpha).value(np.array([v])) for v in x]
        np.testing.assert_allclose(one_by_one, r(np.abs(x), alpha), rtol=1e-10)
        assert make(alpha).value(x) == pytest.approx(np.sum(r(np.abs(x), alpha)))


def test_prox_is_the_global_minimum(scalar, rng):
    make, r = SCALAR[scalar]
    for step in [*STEPS, *THRESHOLDS.get(scalar, [])]:
        for alpha in ALPHAS:
            t = np.concatenate((rng.uniform(0, 6, 12), rng.uniform(0, 2 * step, 4)))
            u = make(alpha).prox(t, step)
            assert np.all((u >= 0) & (u <= t * (1 + 1e-14)))
            reached = (u - t) ** 2 / (2 * step) + r(u, alpha)
            best = np.array([grid_minimum(r, v, alpha, step) for v in t])
            assert np.all(reached <= best + 1e-10 * (1 + best))


def test_prox_jumps_where_two_minima_are_equal(scalar):
    """Around its jump or kink, found by bisection, both sides are minima."""
    make, r = SCALAR[scalar]
    for step in (1e-2, 0.8, 40.0):
        penalty = make(0.7)
        lower, upper = 0.0, 1e4
        assert penalty.prox(np.array([upper]), step) > 0
        for _ in range(200):
            middle = (lower + upper) / 2
            if penalty.prox(np.array([middle]), step) > 0:
                upper = middle
            else:
                lower = middle
        u = penalty.prox(np.array([upper]), step)[0]
        stays = upper**2 / (2 * step)
        leaves = (u - upper) ** 2 / (2 * step) + r(u, 0.7)
        assert leaves == pytest.approx(stays, rel=1e-10)


def test_zeros_signs_and_no_penalty(scalar, rng):
    make, _ = SCALAR[scalar]
    x = rng.standard_normal(20)
    x[3] = 0.0
    for step in (1e-3, 1.0, 1e3):
        u = make(0.3).prox(x, step)
        np.testing.assert_array_equal(make(0.3).prox(-x, step), -u)
        assert not np.signbit(u[u == 0]).any()
        np.testing.assert_allclose(make(0.0).prox(x, step), x, rtol=1e-14)
    assert np.isnan(make(0.3).prox(np.array([np.nan, 1.0]), 1.0)).tolist() == [
        True,
        False,
    ]


# x -> c x is undone by these factors of alpha and of the settings in units of x
SCALED = {
    "MCP": lambda c: (MCP(0.4, 1.3), MCP(0.4 * c, 1.3)),
    "SCAD": lambda c: (SCAD(0.4), SCAD(0.4 * c)),
    "Lq, half": lambda c: (Lq(0.4), Lq(0.4 * c**1.5)),
    "Lq, two thirds": lambda c: (Lq(0.4, 2 / 3), Lq(0.4 * c ** (4 / 3), 2 / 3)),
    "Lq, 0.3": lambda c: (Lq(0.4, 0.3), Lq(0.4 * c**1.7, 0.3)),
    "LogSum": lambda c: (LogSum(0.4, 0.2), LogSum(0.4 * c * c, 0.2 * c)),
}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("step", [1e-2, 1.0, 2.0, 50.0])
def test_units_do_not_matter(name, step, backend, rng):
    x = 3 * rng.standard_normal(50)
    for dtype, powers, rough in (
        ("float64", (-100, -20, 20, 100), 1e-12),
        ("float32", (-12, -5, 5, 12), 1e-5),
    ):
        for power in powers:
            c = 10.0**power
            plain, scaled = SCALED[name](c)
            u = scaled.prox(backend.array(c * x, dtype), step)
            expected = plain.prox(x, step)
            clear = np.abs(plain.prox(x * (1 + rough), step) - expected) < 0.01
            got = to_host(u).astype(np.float64) / c
            np.testing.assert_allclose(got[clear], expected[clear], rtol=20 * rough)
            assert clear.sum() > 40


@pytest.mark.parametrize("q", [1 / 2, 2 / 3])
def test_the_closed_forms_agree_with_newton(q, rng):
    x = 5 * rng.random(1000)
    for step in (0.1, 1.0, 10.0):
        closed = Lq(0.5, q).prox(x, step)
        newton = Lq(0.5, np.nextafter(q, 1)).prox(x, step)
        np.testing.assert_allclose(closed, newton, rtol=1e-12)
        assert 0 < np.count_nonzero(closed) < 1000


def test_weights_are_factors_of_alpha(scalar, rng):
    make, _ = SCALAR[scalar]
    weights = np.array([0.0, 0.5, 1.0, 3.0])
    weighted = type(make(1.0))(**{**vars(make(0.4)), "weights": weights})
    x, g = 2 * rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    alone = [make(0.4 * w) for w in weights]
    for step in (0.1, 5.0):
        rows = [penalty.prox(v, step) for penalty, v in zip(alone, x, strict=True)]
        np.testing.assert_allclose(weighted.prox(x, step), rows, rtol=1e-14)
    x[0, 0] = x[2, 1] = 0
    pairs = list(zip(alone, x, strict=True))
    assert weighted.value(x) == pytest.approx(sum(p.value(v) for p, v in pairs))
    distances = [
        penalty.subdifferential_distance(v, s)
        for penalty, v, s in zip(alone, x, g, strict=True)
    ]
    assert weighted.subdifferential_distance(x, g) == pytest.approx(max(distances))
    part = weighted.on_blocks(np.array([3, 1]))
    assert part.value(x[[3, 1]]) == pytest.approx(
        alone[3].value(x[3]) + alone[1].value(x[1])
    )
    assert make(0.4).on_blocks(np.array([1])).value(x) == make(0.4).value(x)
    assert follows(weighted, HasBlocks)
    assert weighted.labels is None


# -- sorted penalties ------------------------------------------------------------------


def sorted_norm(m, lambdas):
    return sum(a * b for a, b in zip(sorted(m, reverse=True), lambdas, strict=True))


def brute_sorted_prox(z, c, lambdas):
    """Least of ``sum c (m - z)^2 / 2 + sorted norm`` over every order and its ties."""
    p, best = len(z), (np.inf, None)
    for order in permutations(range(p)):
        for cuts in product([False, True], repeat=p - 1):
            blocks = np.cumsum([0, *cuts])
            m = np.empty(p)
            for b in range(blocks[-1] + 1):
                at = np.flatnonzero(blocks == b)
                ids = np.array(order)[at]
                level = (c[ids] @ z[ids] - lambdas[at].sum()) / c[ids].sum()
                m[ids] = max(level, 0.0)
            value = c @ (m - z) ** 2 / 2 + sorted_norm(m, lambdas)
            if value < best[0] - 1e-13:
                best = value, m
    return best[1]


def sequences(rng, p):
    falling = np.sort(rng.random(p))[::-1]
    with_zeros = falling * (np.arange(p) < p // 2 + 1)
    return [falling, np.full(p, 0.6), with_zeros, np.round(2 * falling), np.zeros(p)]


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_slope_against_every_order(p, rng):
    for lambdas in sequences(rng, p):
        for step in (1e-3, 0.5, 2.0, 1e3):
            x = 2 * rng.standard_normal(p)
            if p > 2:
                x[0] = -x[1]  # a tie
            expected = brute_sorted_prox(np.abs(x), np.ones(p), 0.7 * step * lambdas)
            u = SLOPE(0.7, lambdas).prox(x, step)
            np.testing.assert_allclose(u, np.sign(x) * expected, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5])
def test_group_slope_against_every_order(p, rng):
    labels = np.repeat(np.arange(p), rng.integers(1, 4, p))
    for lambdas in sequences(rng, p)[: 5 if p < 5 else 1]:
        for step in (0.3, 2.0):
            x = rng.standard_normal(len(labels))
            weights = rng.uniform(0.3, 2.0, p)
            norms = np.sqrt(np.bincount(labels, x * x))
            m = brute_sorted_prox(weights * norms, weights**-2, step * lambdas)
            u = GroupSLOPE(labels, 1.0, lambdas, weights=weights).prox(x, step)
            expected = x * (m / weights / norms)[labels]
            np.testing.assert_allclose(u, expected, atol=1e-11)


def brute_distance(x, g, lambdas):
    """Sup-norm distance of -g to the subdifferential: a linear programme.

    The subdifferential is the convex hull of the signed orders of the sequence that
    reach the value at x.
    """
    p, norm = len(x), sorted_norm(np.abs(x), lambdas)
    corners = [
        np.array(signs) * lambdas[list(order)]
        for order in permutations(range(p))
        for signs in product([-1.0, 1.0], repeat=p)
    ]
    corners = np.array([v for v in corners if v @ x >= norm - 1e-12])
    count = len(corners)
    ones = np.ones((p, 1))
    A = np.block([[corners.T, -ones], [-corners.T, -ones]])
    answer = scipy.optimize.linprog(
        np.concatenate((np.zeros(count), [1.0])),
        A_ub=A,
        b_ub=np.concatenate((-g, g)),
        A_eq=np.concatenate((np.ones(count), [0.0]))[None],
        b_eq=[1.0],
    )
    return answer.fun


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_the_distance_of_slope_is_that_of_a_linear_programme(p, rng):
    points = [rng.standard_normal(p), np.zeros(p), np.round(2 * rng.standard_normal(p))]
    points += [rng.choice([-1.0, 0.0, 1.0], p) for _ in range(3)]
    for lambdas in sequences(rng, p):
        for x in points:
            for g in (rng.standard_normal(p), -0.4 * x, np.zeros(p)):
                penalty = SLOPE(1.0, lambdas)
                distance = penalty.subdifferential_distance(x, g)
                expected = brute_distance(x, g, lambdas)
                assert distance == pytest.approx(expected, abs=1e-9)


def test_sorted_penalties_contain_known_ones(rng):
    x, g = 2 * rng.standard_normal(30), rng.standard_normal(30)
    x[[2, 5]] = 0.0
    labels = rng.permutation(np.arange(30) % 7)
    first = np.zeros(30)
    first[0] = 1.0
    for step in (1e-3, 0.4, 3.0, 1e3):
        # all equal: the lasso, the group lasso
        lasso, same = L1(0.6), SLOPE(0.6, np.ones(30))
        np.testing.assert_allclose(same.prox(x, step), lasso.prox(x, step), atol=1e-14)
        groups, same = GroupL2(labels, 0.6), GroupSLOPE(labels, 0.6, np.ones(7))
        np.testing.assert_allclose(same.prox(x, step), groups.prox(x, step), atol=1e-13)
        # the first alone: the sup-norm, whose prox leaves a projection onto a ball
        largest = SLOPE(0.6, first).prox(x, step)
        expected = x - L1Ball(0.6 * step).prox(x, 1.0)
        np.testing.assert_allclose(largest, expected, atol=1e-12)
        # groups of one
        lambdas = np.linspace(2, 0, 30)
        ones = GroupSLOPE(np.arange(30), 0.6, lambdas)
        expected = SLOPE(0.6, lambdas).prox(x, step)
        np.testing.assert_allclose(ones.prox(x, step), expected, atol=1e-13)
    assert SLOPE(0.6, np.ones(30)).value(x) == pytest.approx(L1(0.6).value(x))
    assert GroupSLOPE(labels, 0.6, np.ones(7)).value(x) == pytest.approx(
        groups.value(x)
    )
    for point in (x, 0 * x):
        one = SLOPE(0.6, np.ones(30)).subdifferential_distance(point, g)
        assert one == pytest.approx(L1(0.6).subdifferential_distance(point, g))


@pytest.mark.parametrize("weighted", [False, True])
def test_sorted_prox_of_many_and_of_any_scale(weighted, rng):
    p = 3000
    x = rng.standard_cauchy(p)
    if weighted:
        weights = rng.uniform(0.5, 2, p)
        penalty = GroupSLOPE(np.arange(p), 0.5, np.linspace(3, 0, p), weights=weights)
    else:
        penalty = SLOPE(0.5)
    u = penalty.prox(x, 0.8)
    # the optimality condition, which a second implementation of the distance tells
    assert penalty.subdifferential_distance(u, (u - x) / 0.8) <= 1e-9
    assert len(np.unique(np.abs(u))) < 0.9 * p or weighted
    for c in (1e-100, 1e-20, 1e20, 1e100):
        scaled = penalty.with_alpha(0.5 * c).prox(c * x, 0.8)
        np.testing.assert_allclose(scaled / c, u, atol=1e-12 * np.abs(x).max())
    assert np.isnan(penalty.prox(np.full(p, np.nan), 1.0)).all()
    single = penalty.prox(x.astype(np.float32), 0.8)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, u, rtol=1e-5, atol=1e-5)


def test_the_default_sequences_are_quantiles():
    p, q = 40, 0.2
    k = np.arange(1, p + 1)
    e = np.zeros(p)
    e[0] = 1.0  # the norm of ones in k entries is the sum of k lambdas
    sums = [SLOPE(1.0, q=q).value((k <= j).astype(float)) for j in k]
    expected = scipy.stats.norm.ppf(1 - k * q / (2 * p))
    np.testing.assert_allclose(np.diff([0.0, *sums]), expected, rtol=1e-9)
    labels = np.repeat(np.arange(4), [1, 2, 2, 5])
    penalty = GroupSLOPE(labels, 1.0, q=q)
    sizes = np.bincount(labels)
    expected = np.max(
        [
            scipy.stats.chi.ppf(1 - np.arange(1, 5) * q / 4, size) / np.sqrt(size)
            for size in sizes
        ],
        axis=0,
    )
    x = np.array([1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert penalty.value(x) == pytest.approx(expected[0])
    # a matrix has groups of rows, of more entries
    double = scipy.stats.chi.ppf(1 - q / 4, 2 * sizes) / np.sqrt(sizes)
    assert penalty.value(np.stack((x, 0 * x), axis=1)) == pytest.approx(double.max())


# -- strengths -------------------------------------------------------------------------

LABELS = [0, 1, 0, 2, 1, 1]
STRENGTHS = {
    "MCP": MCP(1.0, weights=[1, 0.5, 2, 1, 1, 1]),
    "SCAD": SCAD(1.0),
    "LogSum": LogSum(1.0, 0.3),
    "SLOPE": SLOPE(1.0),
    "SLOPE, zeros": SLOPE(1.0, [1, 1, 0, 0, 0, 0]),
    "GroupSLOPE": GroupSLOPE(LABELS, 1.0),
}


@pytest.mark.parametrize("name", STRENGTHS)
def test_the_critical_strength_is_the_least_that_keeps_zero(name, backend, rng):
    penalty, zero = STRENGTHS[name], backend.array(np.zeros(6))
    assert follows(penalty, HasAlpha)
    for _ in range(5):
        g = backend.array(rng.standard_normal(6))
        critical = penalty.critical_alpha(g)
        just = penalty.with_alpha(critical * (1 + 1e-12))
        assert just.subdifferential_distance(zero, g) == 0
        below = penalty.with_alpha(critical * 0.99)
        assert below.subdifferential_distance(zero, g) > 1e-3
        assert type(just) is type(penalty)
    assert penalty.critical_alpha(backend.array(np.zeros(6))) == 0


def test_the_critical_strength_without_a_price():
    g = np.array([5.0, 1.0])
    assert MCP(1.0, weights=[0.0, 1.0]).critical_alpha(g) == 1  # the free row apart
    assert Lq(1.0).critical_alpha(g) == 0  # an infinite slope at zero
    assert SLOPE(1.0, [0.0, 0.0]).critical_alpha(g) == np.inf


# -- the solver ------------------------------------------------------------------------

FORMS = ("accelerated", "conjugate")
CONVEX = {
    "L1": L1(0.05),
    "ElasticNet": ElasticNet(0.05),
    "GroupL2": GroupL2(np.arange(20) // 3, 0.05),
    "SLOPE": SLOPE(0.03),
    "GroupSLOPE": GroupSLOPE(np.arange(20) // 3, 0.03),
}
ALL = CONVEX | {
    "MCP": MCP(0.1),
    "MCP, hard": MCP(0.3, 0.2),
    "SCAD": SCAD(0.1),
    "Lq": Lq(0.05),
    "LogSum": LogSum(0.03, 0.1),
}


def correlated(rng, n=60, p=20, rho=0.9):
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + (1 - rho**2) ** 0.5 * X[:, j]
    eta = X[:, [2, 9, 15]] @ np.array([1.0, -1.0, 1.0])
    return X, eta, rng


def problems(rng):
    X, eta, rng = correlated(rng)
    y = eta + 0.5 * rng.standard_normal(60)
    binary = (eta + rng.logistic(size=60) > 0).astype(float)
    return [
        LeastSquares(X, y, fit_intercept=True),
        Logistic(X, binary, fit_intercept=True, l2=0.01),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ALL)
def test_the_sum_never_rises_and_ends_stationary(name, form, seed):
    n_iter = 0
    for offset in range(4):
        for f in problems(np.random.default_rng(seed + offset)):
            solution = solve(f, ALL[name], ProximalGradient(form=form))
            assert solution.status is Status.CONVERGED
            history = np.array(solution.history)
            rises = np.diff(history) / np.abs(history[:-1])
            assert rises.max(initial=0.0) <= 1e-13
            n_iter += solution.n_iter
            g = f.value_and_gradient(solution.x)[1]
            scale = np.abs(f.value_and_gradient(0 * solution.x)[1]).max()
            distance = ALL[name].subdifferential_distance(solution.x, g)
            # the answer is the point that met the criterion, but for rounding
            assert distance <= 1.01e-8 * scale
            # no single coordinate, to zero or elsewhere, improves by a proximal step
            step = 1e-3
            moved = ALL[name].prox(solution.x - step * g, step)
            np.testing.assert_allclose(moved, solution.x, atol=1e-9)
    assert n_iter > 40


@pytest.mark.parametrize("name", CONVEX)
def test_both_forms_find_the_optimum(name, rng):
    for f in problems(rng):
        one, other = (solve(f, CONVEX[name], ProximalGradient(form=k)) for k in FORMS)
        assert one.value == pytest.approx(other.value, rel=1e-12)
        np.testing.assert_allclose(one.x, other.x, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(DATA_PROBLEMS))
@pytest.mark.parametrize("penalty", [L1(0.05), MCP(0.05), SLOPE(0.03)], ids=str)
def test_every_objective(penalty, name, form, rng):
    table = make_table(DATA_PROBLEMS[name], rng)
    f = DATA_PROBLEMS[name].build(table.X, table.targets, fit_intercept=True, l2=0.01)
    solution = solve(f, penalty, ProximalGradient(form=form))
    assert solution.status is Status.CONVERGED
    _, g = f.value_and_gradient(solution.x)
    assert penalty.subdifferential_distance(solution.x, g) <= 5e-8


def test_without_a_penalty_conjugate_is_the_method_of_conjugate_gradients(rng):
    for p in (5, 12):
        root = rng.standard_normal((p, p))
        H, b = root @ root.T / p + 0.05 * np.eye(p), rng.standard_normal((1, p))
        f = Quadratic(H, b, 1.0)
        # the slope of a ridge is measured to some per cent of the curvature
        for penalty, extra in ((L1(0.0), 4), (ElasticNet(0.3, 0.0), p + 4)):
            solution = solve(f, penalty, ProximalGradient(form="conjugate"))
            # p steps span everything; some come before and after
            assert solution.n_iter <= p + extra
            plain = solve(f, penalty, ProximalGradient())
            assert plain.n_iter > 2 * solution.n_iter
            np.testing.assert_allclose(solution.x, plain.x, atol=1e-6)


def test_conjugate_steps_save_gradients(seed):
    counts = dict.fromkeys(FORMS, 0)

    class Counted(LeastSquares):
        def value_and_gradient(self, x):
            counts[form] += 1
            return super().value_and_gradient(x)

        def at(self, span, z):
            counts[form] += 1
            return super().at(span, z)

    for offset in range(5):
        X, eta, rng = correlated(np.random.default_rng(seed + offset), 100, 40, 0.98)
        y = eta + 0.5 * rng.standard_normal(100)
        for form in FORMS:
            solve(Counted(X, y), L1(0.02), ProximalGradient(form=form))
    assert counts["conjugate"] < 0.8 * counts["accelerated"]


def test_what_zero_keeps_stationary_is_left(rng):
    """Every slope is a subgradient of Lq at zero, yet zero is far from a minimum."""
    f = problems(rng)[0]
    for form in FORMS:
        solution = solve(f, Lq(0.02), ProximalGradient(form=form))
        assert len(solution.support) > 0
        assert solution.value < solution.history[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_taken_up_again(form, tmp_path, rng):
    f, solver = problems(rng)[1], ProximalGradient(form=form)
    whole = solve(f, MCP(0.03), solver)
    assert whole.n_iter > 12
    path = tmp_path / "run.npz"
    solve(f, MCP(0.03), solver, checkpoint=path, max_iter=11)
    resumed = solve(f, MCP(0.03), solver, checkpoint=path)
    assert resumed.n_iter == whole.n_iter
    np.testing.assert_array_equal(resumed.x, whole.x)
    with pytest.raises(ValueError, match="another problem"):
        solve(f, MCP(0.03, 2.0), solver, checkpoint=path)


def test_the_sequence_is_part_of_the_checkpoint(tmp_path, rng):
    f, path = problems(rng)[0], tmp_path / "run.npz"
    solve(f, SLOPE(0.1, np.linspace(2, 1, 20)), checkpoint=path)
    with pytest.raises(ValueError, match="another problem"):
        solve(f, SLOPE(0.1, np.linspace(3, 1, 20)), checkpoint=path)


@pytest.mark.parametrize("name", ALL)
def test_awkward_data(name, rng):
    X, eta, rng = correlated(rng)
    y = eta + 0.5 * rng.standard_normal(60)
    X[:, 4] = 0.0
    X[:, 7] = X[:, 8]
    for form in FORMS:
        f = LeastSquares(X, y)
        solution = solve(f, ALL[name], ProximalGradient(form=form))
        assert solution.status is Status.CONVERGED
        assert solution.x[4] == 0
        # one row, one column, no signal
        group = isinstance(ALL[name], (GroupL2, GroupSLOPE))
        penalty = type(ALL[name])([0], 0.1) if group else ALL[name]
        tiny = LeastSquares(np.array([[2.0]]), np.array([6.0]))
        solution = solve(tiny, penalty, ProximalGradient(form=form))
        assert solution.status is Status.CONVERGED
        assert 2 < solution.x[0] < 3 + 1e-6
        none = solve(LeastSquares(X, 0 * y), ALL[name], ProximalGradient(form=form))
        assert not none.x.any()
        assert none.status is Status.CONVERGED


def test_huge_steps_do_not_overflow():
    x = np.array([3.0, -1e-3])
    np.testing.assert_array_equal(LogSum(0.0, 1e-6).prox(x, 1e300), x)
    # hard thresholding at 1e-160 sqrt(1e10 1e300), which is 1e-5
    for penalty in (MCP(1e-160, 1e10), SCAD(1e-160, 1e10)):
        kept = np.array([1.1e-5, 0.9e-5])
        np.testing.assert_array_equal(penalty.prox(kept, 1e300), [1.1e-5, 0.0])


@pytest.mark.parametrize("form", ["accelerated", "conjugate"])
@pytest.mark.parametrize("seed", range(3))
def test_single_precision_comes_to_an_end(seed, form):
    """The default tolerance is below it, and no number of steps would reach that."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 12)).astype(np.float32)
    y = 2 * X[:, 0] - X[:, 3] + 0.3 * rng.standard_normal(30).astype(np.float32)
    for f in (LeastSquares(X, y), Logistic(X, y > 0)):
        _, g0 = f.value_and_gradient(np.zeros(12, np.float32))
        for penalty in (SLOPE(0.1), L1Ball(0.5), GroupL2(np.arange(12) // 2, 0.1)):
            solution = solve(f, penalty, ProximalGradient(form=form), max_iter=1000)
            _, g = f.value_and_gradient(solution.x)
            distance = penalty.subdifferential_distance(solution.x, g)
            assert solution.status is Status.CONVERGED
            assert distance <= 1e-3 * np.abs(g0).max()


def test_a_form_there_is_none_of():
    with pytest.raises(ValueError, match=r"form must be one of.*'newton'"):
        ProximalGradient(form="newton")
