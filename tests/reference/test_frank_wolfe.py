"""Constraints and the Frank-Wolfe method against SciPy and first principles."""

import numpy as np
import pytest
import scipy.optimize

from vitalfew import solve
from vitalfew._arrays import to_host
from vitalfew.exceptions import IncompatibleError
from vitalfew.objectives import LeastSquares, Logistic, Poisson
from vitalfew.penalties import L1, Box, L1Ball, Simplex
from vitalfew.solution import Status
from vitalfew.solvers import OMP, FrankWolfe, ProximalGradient
from vitalfew.structures import Cardinality

SETS = {
    "L1Ball": L1Ball(1.5),
    "Simplex": Simplex(2.0),
    "Box": Box(-0.3, 0.4),
}


def table(seed, n=80, p=12):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.2 * rng.standard_normal((p, p)))
    few = X[:, :3] @ np.array([1.0, -1.0, 0.5])[: min(p, 3)]
    return X, few + 0.5 * rng.standard_normal(n)


def inside(penalty, rng, shape=(12,)):
    """A random point of a set, often on its border."""
    share = rng.dirichlet(np.full(int(np.prod(shape)), 0.3)).reshape(shape)
    if isinstance(penalty, Simplex):
        return penalty.total * share
    if isinstance(penalty, L1Ball):
        radius = penalty.radius * rng.choice([1.0, rng.random()])
        return radius * share * rng.choice([-1.0, 1.0], shape)
    return np.clip(rng.standard_normal(shape), penalty.lower, penalty.upper)


# -- projections -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", [(12,), (4, 3)])
def test_projections_have_no_nearer_point(name, shape):
    penalty = SETS[name]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = 10.0 ** rng.integers(-2, 3) * rng.standard_normal(shape)
        u = penalty.prox(x, rng.random())
        assert penalty.value(u) == 0
        for _ in range(50):  # <x - u, v - u> <= 0 for all v of the set
            v = inside(penalty, rng, shape)
            assert penalty.value(v) == 0
            assert np.sum((x - u) * (v - u)) <= 1e-12 * np.abs(x).max()
        corner = penalty.vertex(u - x)  # the v for which it is largest
        assert np.sum((x - u) * (corner - u)) <= 1e-12 * np.abs(x).max()


def test_the_simplex_by_bisection():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = 10.0 ** rng.integers(-3, 4) * rng.standard_normal(rng.integers(1, 40))
        total = 10.0 ** rng.uniform(-2, 2)
        level = scipy.optimize.brentq(
            lambda t, x=x, total=total: np.maximum(x - t, 0).sum() - total,
            x.min() - total,
            x.max(),
            xtol=1e-14,
        )
        expected = np.maximum(x - level, 0)
        rough = 1e-12 * (np.abs(x).max() + total)
        np.testing.assert_allclose(Simplex(total).prox(x, 1.0), expected, atol=rough)
        signs = np.sign(x)
        if np.abs(x).sum() > total:
            ball = signs * Simplex(total).prox(np.abs(x), 1.0)
            np.testing.assert_allclose(L1Ball(total).prox(x, 1.0), ball, atol=rough)


def test_points_inside_stay_where_they_are(backend, dtype, rng):
    for penalty in SETS.values():
        x = backend.array(inside(penalty, rng), dtype)
        rough = 1e-15 if dtype == "float64" else 1e-6
        np.testing.assert_allclose(
            to_host(penalty.prox(x, 1.0)), to_host(x), atol=rough
        )


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_projections_of_any_size_are_inside(size, backend, dtype, rng):
    for penalty in SETS.values():
        for p in (1, 2, 1000):
            x = backend.array(size * rng.standard_normal(p), dtype)
            u = penalty.prox(x, 1.0)
            assert penalty.value(u) == 0
            assert penalty.value(u + backend.array(np.full(p, 5.0), dtype)) == np.inf


def test_bounds_of_each_entry(backend):
    lower, upper = np.array([0.0, -1.0, 2.0]), np.array([1.0, np.inf, 2.0])
    box = Box(lower, backend.array(upper))
    x = backend.array(np.array([3.0, -4.0, 5.0]))
    np.testing.assert_array_equal(to_host(box.prox(x, 1.0)), [1.0, -1.0, 2.0])
    # at the upper bound, at the lower, fixed
    at = backend.array(np.array([1.0, -1.0, 2.0]))
    for g, expected in (
        ([-1.0, 1.0, 9.0], 0.0),
        ([0.5, 1.0, 0.0], 0.5),
        ([-1.0, -2.0, 0.0], 2.0),
    ):
        assert box.subdifferential_distance(at, backend.array(g)) == expected


# -- distances to the cone of normals --------------------------------------------------


def normal_distance(penalty, x, g):
    """Smallest largest entry of ``-g - v`` over normals v at x, by linear programming.

    Normals are those v with ``<v, w - x> <= 0`` for every corner w.
    """
    p = len(x)
    if isinstance(penalty, Simplex):
        corners = penalty.total * np.eye(p)
    elif isinstance(penalty, L1Ball):
        corners = penalty.radius * np.concatenate((np.eye(p), -np.eye(p)))
    else:
        ends = [(penalty.lower, penalty.upper)] * p
        corners = np.stack([c.ravel() for c in np.meshgrid(*ends)], axis=1)
    one = np.ones((p, 1))
    answer = scipy.optimize.linprog(
        np.append(np.zeros(p), 1.0),
        A_ub=np.block(
            [
                [-np.eye(p), -one],
                [np.eye(p), -one],
                [corners - x, np.zeros((len(corners), 1))],
            ]
        ),
        b_ub=np.concatenate((g, -g, np.zeros(len(corners)))),
        bounds=(None, None),
    )
    assert answer.success
    return answer.fun


@pytest.mark.parametrize("name", SETS)
def test_distances_by_linear_programming(name):
    penalty = SETS[name]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = penalty.prox(rng.standard_normal(5), 1.0)
        if seed % 3 == 0:
            x = penalty.prox(inside(penalty, rng, (5,)), 1.0)
        g = rng.standard_normal(5)
        expected = normal_distance(penalty, x, g)
        found = penalty.subdifferential_distance(x, g)
        assert found == pytest.approx(expected, abs=1e-9)


# -- solutions -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", [LeastSquares, Logistic])
def test_two_methods_and_scipy_agree(name, kind):
    penalty = SETS[name]
    for seed in range(3):
        X, y = table(seed)
        y = y if kind is LeastSquares else (y > 0).astype(float)
        f = kind(X, y, fit_intercept=True)
        one = solve(f, penalty, FrankWolfe(tol=1e-9))
        other = solve(f, penalty, ProximalGradient())
        assert one.status is Status.CONVERGED
        assert other.status is Status.CONVERGED
        assert one.value == pytest.approx(other.value, abs=1e-8)
        # twice as many unknowns make the ball of l1 smooth
        p = X.shape[1]
        split = np.concatenate((np.eye(p), -np.eye(p)), axis=1)
        total, limits = [], [(0.0, None)] * (2 * p)
        if name == "Box":
            limits = [(0.0, 0.4)] * p + [(0.0, 0.3)] * p
        if name == "Simplex":
            limits[p:] = [(0.0, 0.0)] * p
            total = [{"type": "eq", "fun": lambda u: u.sum() - 2.0}]
        if name == "L1Ball":
            total = [{"type": "ineq", "fun": lambda u: 1.5 - u.sum()}]
        found = scipy.optimize.minimize(
            lambda u, f=f, split=split: f.value_and_gradient(split @ u)[0],
            np.full(2 * p, 0.01),
            jac=lambda u, f=f, split=split: (
                split.T @ f.value_and_gradient(split @ u)[1]
            ),
            bounds=limits,
            constraints=total,
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert other.value <= found.fun + 1e-9
        assert other.value == pytest.approx(found.fun, abs=1e-6)


def test_nonnegative_and_bounded_least_squares():
    for seed in range(5):
        X, y = table(seed)
        f = LeastSquares(X, y)
        ours = solve(f, Box(lower=0.0))
        np.testing.assert_allclose(ours.x, scipy.optimize.nnls(X, y)[0], atol=1e-7)
        ours = solve(f, Box(-0.3, 0.4))
        theirs = scipy.optimize.lsq_linear(X, y, (-0.3, 0.4), tol=1e-14)
        np.testing.assert_allclose(ours.x, theirs.x, atol=1e-6)


def test_the_ball_and_the_penalty_are_two_forms_of_the_lasso():
    for seed in range(5):
        X, y = table(seed)
        f = LeastSquares(X, y, fit_intercept=True)
        penalised = solve(f, L1(0.1))
        radius = float(np.abs(penalised.x).sum())
        constrained = solve(f, L1Ball(radius))
        np.testing.assert_allclose(constrained.x, penalised.x, atol=1e-6)


def test_a_wide_ball_changes_nothing():
    X, y = table(0)
    ours = solve(LeastSquares(X, y), L1Ball(1e3))
    np.testing.assert_allclose(ours.x, np.linalg.lstsq(X, y)[0], atol=1e-6)


def test_matrices_share_one_total():
    X, y = table(1)
    f = LeastSquares(X, np.stack([y, -y, y * y], axis=1))
    for penalty in (L1Ball(2.0), Simplex(0.7), Box(-0.1, 0.1)):
        one, other = (solve(f, penalty, s()) for s in (FrankWolfe, ProximalGradient))
        assert one.value == pytest.approx(other.value, abs=1e-5)
        assert penalty.value(one.x) == 0
    assert np.abs(solve(f, L1Ball(2.0)).x).sum() == pytest.approx(2.0)


# -- the method ------------------------------------------------------------------------


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_the_gap_bounds_the_error_and_f_never_rises(name, away):
    penalty = SETS[name]
    for seed in range(3):
        X, y = table(seed)
        f, gaps = LeastSquares(X, y), []
        lowest = solve(f, penalty, ProximalGradient()).value

        def note(n, fit, gaps=gaps):
            g = fit.gradient
            gaps.append((fit.value, float(np.sum(g * (fit.x - penalty.vertex(g))))))

        history = solve(
            f, penalty, FrankWolfe(away=away), callback=note, max_iter=200
        ).history
        assert all(value - lowest <= gap + 1e-12 for value, gap in gaps)
        assert np.diff(history).max() <= 1e-12


def test_a_step_is_a_mean_of_few_corners():
    X, y = table(0)
    f = LeastSquares(X, y)
    sizes = []
    # a start at a corner, as the count of corners wants
    corner = solve(f, L1Ball(1.5), FrankWolfe(), max_iter=0)
    assert not corner.x.any()
    solve(
        f,
        L1Ball(1.5),
        FrankWolfe(),
        callback=lambda n, fit: sizes.append((n, int(np.count_nonzero(fit.x)))),
    )
    assert all(size <= n for n, size in sizes)


def test_away_steps_make_it_linear():
    """Plain steps zigzag where the optimum lies inside a face, but at lucky starts."""
    slow = 0
    for seed in range(8):
        X, y = table(seed)
        f = LeastSquares(X, y)
        lowest = solve(f, Simplex(), ProximalGradient()).value
        errors = [
            solve(f, Simplex(), FrankWolfe(away=away, tol=0.0), max_iter=150).value
            - lowest
            for away in (True, False)
        ]
        assert errors[0] < 1e-11
        slow += errors[1] > 1e-4
    assert slow >= 3


def test_exact_zeros():
    """Dropped corners leave nothing behind."""
    for seed in range(5):
        X, y = table(seed, p=30)
        f = LeastSquares(X, y)
        one = solve(f, L1Ball(1.0), FrankWolfe(tol=1e-9))
        other = solve(f, L1Ball(1.0), ProximalGradient(tol=1e-10))
        np.testing.assert_array_equal(one.support, other.support)
        assert 0 < len(one.support) < 30


def test_warm_starts_go_on():
    X, y = table(2)
    f = LeastSquares(X, y)
    cold = solve(f, Simplex(), FrankWolfe(tol=1e-8))
    warm = solve(f, Simplex(), FrankWolfe(tol=1e-8), start=cold)
    assert warm.n_iter == 0
    assert warm.value == cold.value
    wide = solve(f, Simplex(1.2), FrankWolfe(tol=1e-8), start=cold)
    assert wide.value == pytest.approx(solve(f, Simplex(1.2)).value, abs=1e-7)


@pytest.mark.parametrize("name", SETS)
def test_on_every_backend(name, backend, dtype):
    X, y = table(3)
    penalty = SETS[name]
    f = LeastSquares(backend.array(X, dtype), backend.array(y, dtype))
    rough = 1e-6 if dtype == "float64" else 1e-3
    solution = solve(f, penalty, FrankWolfe(tol=rough))
    assert type(solution.x) is type(f.like)
    assert solution.x.dtype == f.like.dtype
    assert solution.status is Status.CONVERGED
    exact = solve(LeastSquares(X, y), penalty, ProximalGradient()).value
    assert solution.value == pytest.approx(exact, abs=10 * rough)


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("shape", [(1,), (6,), (6, 2), (1, 12)])
def test_interrupted_runs_go_on_to_the_same_answer(shape, away, tmp_path):
    X, y = table(4, p=shape[0])
    Y = y if len(shape) == 1 else np.stack([np.roll(y, i) for i in range(shape[1])], 1)
    f, penalty, solver = LeastSquares(X, Y), L1Ball(0.4), FrankWolfe(away=away)
    whole = solve(f, penalty, solver, max_iter=40)
    for at in (1, 2, 7):
        path = tmp_path / f"{at}.npz"
        solve(f, penalty, solver, checkpoint=path, max_iter=at)
        again = solve(f, penalty, solver, checkpoint=path, max_iter=40)
        assert again.n_iter == whole.n_iter
        assert again.value == pytest.approx(whole.value, rel=1e-12)


def test_another_box_is_another_problem(tmp_path):
    X, y = table(5)
    f, path = LeastSquares(X, y), tmp_path / "run.npz"
    lower = np.full(12, -0.2)
    solve(f, Box(lower, 0.3), checkpoint=path, max_iter=2)
    lower = lower.copy()
    lower[3] = -0.1
    with pytest.raises(ValueError, match="another problem"):
        solve(f, Box(lower, 0.3), checkpoint=path)


def test_corners_where_f_overflows():
    X, y = table(7, p=6)
    f = Poisson(X, np.round(np.exp(np.clip(y, -3, 3))))
    lowest = f.refit(Cardinality(6).on((6,)).support(np.arange(6))).value
    for penalty in (L1Ball(1e6), Box(-1e4, 1e4)):
        assert solve(f, penalty, FrankWolfe()).value == pytest.approx(lowest, abs=1e-6)


def test_awkward_data():
    X, y = table(6)
    X = np.concatenate((X, X[:, :2], np.zeros((80, 1))), axis=1)
    for f in (LeastSquares(X, y), LeastSquares(X[:1], y[:1])):
        for penalty in SETS.values():
            one = solve(f, penalty, FrankWolfe())
            other = solve(f, penalty, ProximalGradient())
            assert one.status.ok
            assert other.status.ok
            assert one.value == pytest.approx(other.value, abs=1e-5)
    flat = LeastSquares(X, np.zeros(80))
    assert solve(flat, L1Ball(1.0), FrankWolfe()).n_iter == 0


BAD = {
    "radius": (lambda: L1Ball(0.0), "radius.*0.0"),
    "radius NaN": (lambda: L1Ball(float("nan")), "radius.*nan"),
    "radius text": (lambda: L1Ball("a"), "radius.*'a'"),
    "total": (lambda: Simplex(-1.0), "total.*-1"),
    "total infinite": (lambda: Simplex(np.inf), "total.*inf"),
    "empty box": (lambda: Box(1.0, 0.0), "lower must be at most upper"),
    "no number in the box": (lambda: Box(np.inf, np.inf), "with a number between"),
    "NaN in the box": (lambda: Box([0.0, np.nan]), "lower must not be NaN"),
    "text in the box": (lambda: Box(upper="high"), "upper.*'high'"),
    "two shapes": (lambda: Box(np.zeros(2), np.ones(3)), r"\(2,\) and \(3,\)"),
    "box of another shape": (
        lambda: solve(LeastSquares(np.eye(3), np.ones(3)), Box(lower=np.zeros(2))),
        r"lower.*\(3,\).*\(2,\)",
    ),
    "no corner": (
        lambda: solve(
            LeastSquares(np.eye(3), np.ones(3)), Box(lower=0.0), FrankWolfe()
        ),
        "upper must be finite.*ProximalGradient",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_name_the_argument(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_pairings_are_refused():
    f = LeastSquares(np.eye(3), np.ones(3))
    with pytest.raises(IncompatibleError, match="needs HasVertices"):
        solve(f, L1(0.1), FrankWolfe())
    with pytest.raises(IncompatibleError, match="needs a penalty"):
        solve(f, Cardinality(1), FrankWolfe())
    with pytest.raises(IncompatibleError, match=r"needs a structure.*FrankWolfe"):
        solve(f, L1Ball(0.1), OMP())
