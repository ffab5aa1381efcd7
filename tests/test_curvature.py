"""Second derivatives and added ridges, against finite differences."""

import numpy as np
import pytest
import scipy.sparse

from tests.contracts.problems import DATA_PROBLEMS, FREE_PROBLEMS, make_table
from vitalfew import solve
from vitalfew.contracts import HasCurvature, HasRidge, follows
from vitalfew.designs import Dense, Grams, Sparse
from vitalfew.objectives import LeastSquares
from vitalfew.structures import Cardinality
from vitalfew.supports import Coordinates, Whole

UPPER_BOUNDS = {"Cox, Efron", "Cox, Breslow", "Multinomial"}  # of the diagonal
CURVED = [name for name, p in DATA_PROBLEMS.items() if follows(p.cls, HasCurvature)]
# their Hessian is a bound, or jumps
NOT_SMOOTH = {"Huber", "Quantile", "Quantile, exact", "SquaredHinge"}


def build(name, rng, **options):
    problem = DATA_PROBLEMS[name]
    table = make_table(problem, rng)
    return problem.build(table.X, table.targets, **options)


def span_of(f, rng, count):
    size = int(np.prod(f.shape))
    ids = rng.permutation(size)[: min(count, size)]
    return Coordinates(ids, ids, np.ones(len(ids), np.int64), tuple(f.shape))


def by_differences(f, x, span, h=1e-4):
    """Hessian over a span from gradients, which eliminate the intercept."""
    columns = []
    for i in range(len(span.ids)):
        e = np.zeros(len(span.ids))
        e[i] = h
        step = span.embed(e)
        up, down = f.value_and_gradient(x + step)[1], f.value_and_gradient(x - step)[1]
        columns.append(span.restrict(up - down) / (2 * h))
    return np.array(columns)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("name", [n for n in CURVED if n not in NOT_SMOOTH])
def test_the_hessian_is_the_derivative_of_the_gradient(name, intercept, rng):
    f = build(name, rng, fit_intercept=intercept, l2=0.1)
    x = 0.3 * rng.standard_normal(f.shape)
    whole = Whole(tuple(f.shape))
    fit, span = f.at(whole, whole.restrict(x)), span_of(f, rng, 5)
    expected = by_differences(f, x, span)
    np.testing.assert_allclose(f.hessian(fit, span), expected, atol=2e-6)
    # the same from a fit on part of the coordinates
    part = f.refit(span_of(f, rng, 4))
    np.testing.assert_allclose(
        f.hessian(part, span), by_differences(f, part.x, span), atol=2e-6
    )


@pytest.mark.parametrize("name", CURVED)
def test_curvature_is_the_diagonal_or_bounds_it(name, rng):
    f = build(name, rng, fit_intercept=True, l2=0.1)
    whole = Whole(tuple(f.shape))
    x = 0.3 * rng.standard_normal(f.shape)
    fit = f.at(whole, whole.restrict(x))
    diagonal = np.diagonal(f.hessian(fit, whole)).reshape(f.shape)
    curvature = f.curvature(fit)
    assert curvature.shape == tuple(f.shape)
    if name in UPPER_BOUNDS:
        assert np.all(curvature >= diagonal - 1e-12)
        assert np.all(curvature <= 20 * diagonal + 1e-12)
    else:
        np.testing.assert_allclose(curvature, diagonal, rtol=1e-9)


@pytest.mark.parametrize(
    "name", [n for n, p in DATA_PROBLEMS.items() if follows(p.cls, HasRidge)]
)
def test_a_ridge_that_is_added(name, rng):
    f = build(name, rng, fit_intercept=True, l2=0.1)
    weights = rng.random(f.shape)
    g = f.with_ridge(weights)
    x = 0.3 * rng.standard_normal(f.shape)
    value, gradient = f.value_and_gradient(x)
    more, slope = g.value_and_gradient(x)
    assert more == pytest.approx(value + 0.5 * np.sum(weights * x * x), rel=1e-12)
    np.testing.assert_allclose(slope, gradient + weights * x, atol=1e-12)
    for _ in range(2):  # the second time from what is remembered
        fit = g.refit(whole_rows(g, rng))
        _, at_fit = g.value_and_gradient(fit.x)
        assert np.abs(fit.support.restrict(at_fit)).max() < 1e-5
        np.testing.assert_allclose(fit.gradient, at_fit, atol=1e-8)
        assert fit.value == pytest.approx(g.value_and_gradient(fit.x)[0], rel=1e-9)
    twice = g.with_ridge(weights)
    assert twice.value_and_gradient(x)[0] == pytest.approx(
        value + np.sum(weights * x * x), rel=1e-12
    )
    assert f.value_and_gradient(x)[0] == value  # the first is untouched
    assert solve(g, Cardinality(2)).status.ok
    with pytest.raises(ValueError, match="weights must have the shape"):
        f.with_ridge(np.ones(99))


def whole_rows(f, rng):
    ids = rng.permutation(f.shape[0])[:3]
    width = int(np.prod(f.shape[1:]))
    flat = (ids[:, None] * width + np.arange(width)).ravel()
    return Coordinates(ids, flat, np.full(3, width), tuple(f.shape))


def test_a_constant_ridge_is_l2(rng):
    for name in ("LeastSquares", "Logistic"):
        f = build(name, np.random.default_rng(3), fit_intercept=True)
        g = build(name, np.random.default_rng(3), fit_intercept=True, l2=0.3)
        added = f.with_ridge(np.full(f.shape, 0.3))
        one, other = solve(added, Cardinality(3)), solve(g, Cardinality(3))
        np.testing.assert_array_equal(one.support, other.support)
        np.testing.assert_allclose(one.x, other.x, atol=1e-8)


def test_quadratic_has_both(backend, rng):
    _, make = FREE_PROBLEMS["Quadratic"]
    f = make(rng, backend, "float64")
    weights = rng.random(f.shape)
    g = f.with_ridge(backend.array(weights, "float64"))
    x = rng.standard_normal(f.shape)
    at = backend.array(x, "float64")
    more = g.value_and_gradient(at)[0] - f.value_and_gradient(at)[0]
    assert more == pytest.approx(0.5 * np.sum(weights * x * x), rel=1e-9)
    span = span_of(f, rng, 6)
    fit = g.refit(span)
    H = np.asarray(g.hessian(fit, span))
    slope = np.asarray(span.restrict(g.value_and_gradient(fit.x)[1]))
    assert np.abs(slope).max() < 1e-9
    e = np.zeros(len(span.ids))
    e[0] = 1.0
    up = g.value_and_gradient(fit.x + span.embed(backend.array(e, "float64")))[1]
    np.testing.assert_allclose(np.asarray(span.restrict(up)), H[:, 0], atol=1e-9)
    flat = np.asarray(g.curvature(fit)).ravel()
    np.testing.assert_allclose(flat[span.ids], np.diagonal(H), rtol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse", "none kept"])
def test_grams_of_a_growing_set(kind, centred, rng):
    X = rng.standard_normal((30, 12)) + 2.0
    X[rng.random(X.shape) < 0.5] = 0
    w = rng.random(30)
    w /= w.sum()
    center = w @ X if centred else None
    design = Sparse(scipy.sparse.csc_array(X)) if kind == "sparse" else Dense(X)
    grams = Grams(design, w, center, 0 if kind == "none kept" else 1 << 20)
    C = X - center if centred else X
    for size in (1, 3, 2, 12, 5):
        ids = rng.permutation(12)[:size]
        expected = C[:, ids].T @ (C[:, ids] * w[:, None])
        np.testing.assert_allclose(grams.get(ids), expected, atol=1e-12)


def test_grams_that_outgrow_their_memory(rng):
    X = rng.standard_normal((20, 40))
    f = LeastSquares(X, X[:, 0], cache_bytes=20_000)
    for start in range(0, 40, 8):
        ids = np.arange(start, start + 8)
        np.testing.assert_allclose(
            f.grams.get(ids), X[:, ids].T @ X[:, ids] / 20, atol=1e-12
        )
