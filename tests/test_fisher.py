"""The quadratic of sampled gradients against dense algebra."""

import itertools

import numpy as np
import pytest

from vitalfew._arrays import to_host
from vitalfew.objectives import Fisher
from vitalfew.structures import Cardinality, Groups
from vitalfew.supports import Whole

SIZES = [(1, 1), (1, 6), (3, 8), (8, 8), (20, 8)]


def problem(seed, n, p, ridge=0.0, slope=1.0, scale=1.0):
    rng = np.random.default_rng(seed)
    A = scale * rng.standard_normal((n, p))
    return A, rng.standard_normal(p), ridge, slope


def dense(A, center, ridge, slope, extra):
    """Hessian, gradient at the centre, as matrices."""
    n, p = A.shape
    H = A.T @ A / n + ridge * np.eye(p) + np.diag(extra)
    return H, slope * A.mean(axis=0) + extra * center


def value_of(A, center, ridge, slope, extra, x):
    t, d = A @ (x - center), x - center
    return (
        np.mean(slope * t + t * t / 2) + ridge / 2 * d @ d + np.sum(extra * x * x) / 2
    )


EXTRAS = {
    "none": lambda p: np.zeros(p),
    "all": lambda p: np.linspace(0.1, 2.0, p),
    "some": lambda p: np.where(np.arange(p) % 2, 0.7, 0.0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize(("n", "p"), SIZES)
def test_refit_is_the_dense_solution(n, p, ridge, extra, seed):
    A, center, ridge, slope = problem(seed, n, p, ridge)
    more = EXTRAS[extra](p)
    f = Fisher(A, center, 2.0, slope=slope, ridge=ridge)
    f = f if extra == "none" else f.with_ridge(more)
    H, g = dense(A, center, ridge, slope, more)
    for k in {1, p // 2, p} - {0}:
        ids = np.random.default_rng(seed).permutation(p)[:k]
        fit = f.refit(Cardinality(k).on((p,)).support(ids))
        zero = np.where(np.isin(np.arange(p), ids), center, 0.0)
        slopes = g + H @ (zero - center)
        expected = zero.copy()
        expected[ids] -= np.linalg.solve(H[np.ix_(ids, ids)], slopes[ids])
        np.testing.assert_allclose(fit.x, expected, atol=1e-8)
        value = 2.0 + value_of(A, center, ridge, slope, more, expected)
        assert fit.value == pytest.approx(value)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "p"), SIZES)
def test_without_damping_it_is_stationary_and_stays_near_the_centre(n, p, seed):
    A, center, _, _ = problem(seed, n, p)
    f = Fisher(A, center)
    fit = f.refit(Whole((p,)))
    np.testing.assert_allclose(fit.gradient, 0.0, atol=1e-9)
    nearest = center - np.linalg.pinv(A) @ np.ones(n)
    np.testing.assert_allclose(f.value_and_gradient(nearest)[0], fit.value, atol=1e-12)
    if n < p:
        np.testing.assert_allclose(fit.x, nearest, atol=1e-8)


def test_value_curvature_and_hessian_on_every_backend(kind):
    backend, dtype = kind
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    A, center, ridge, slope = problem(0, 4, 7, 0.3, 0.5)
    more = EXTRAS["some"](7)
    f = Fisher(
        backend.array(A, dtype),
        backend.array(center, dtype),
        1.0,
        slope=slope,
        ridge=ridge,
    )
    f = f.with_ridge(backend.array(more / 2, dtype)).with_ridge(
        backend.array(more / 2, dtype)
    )
    x = np.random.default_rng(1).standard_normal(7)
    H, _ = dense(A, center, ridge, slope, more)
    value, _ = f.value_and_gradient(backend.array(x, dtype))
    expected = 1.0 + value_of(A, center, ridge, slope, more, x)
    assert value == pytest.approx(expected, abs=10 * tolerance)
    span = Cardinality(3).on((7,)).support([5, 0, 3])
    fit = f.refit(span)
    np.testing.assert_allclose(
        to_host(f.curvature(fit)), np.diag(H), atol=10 * tolerance
    )
    np.testing.assert_allclose(
        to_host(f.hessian(fit, span)),
        H[np.ix_([5, 0, 3], [5, 0, 3])],
        atol=10 * tolerance,
    )
    least = np.linalg.eigvalsh(H[np.ix_([5, 0, 3], [5, 0, 3])])[0]
    assert 0.3 <= f.convexity(span) <= least + 10 * tolerance


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("labels", [None, [0, 1, 2, 1, 0, 2, 3]])
@pytest.mark.parametrize("ridge", [0.05, 1.0])
def test_swap_gains_are_exact(labels, ridge, seed):
    A, center, _, _ = problem(seed, 4, 7)
    f = Fisher(A, center, ridge=ridge)
    structure = Cardinality(2) if labels is None else Groups(np.array(labels), 2)
    structure = structure.on((7,))
    support = structure.support([1, 3])
    fit = f.refit(support)
    gains = f.swap_gains(structure, fit, structure.n_atoms)
    assert len(gains.into) == structure.n_atoms - 2
    for out, into, gain in zip(*gains, strict=True):
        tried = [
            fit.value - f.refit(structure.exchange(support, o, int(into))).value
            for o in range(2)
        ]
        assert gain == pytest.approx(max(tried), abs=1e-9)
        assert gain == pytest.approx(tried[int(out)], abs=1e-9)


def test_damped_shares_products_and_changes_nothing_else(monkeypatch):
    A, center, _, _ = problem(0, 3, 9)
    f = Fisher(A, center, 1.0, slope=0.5)
    seen = []
    inner = Fisher._kernel
    monkeypatch.setattr(Fisher, "_kernel", lambda *a: seen.append(1) or inner(*a))
    for ridge in (0.1, 1.0, 10.0):
        other = f.damped(ridge)
        again = Fisher(A, center, 1.0, slope=0.5, ridge=ridge)
        fit = other.refit(Whole((9,)))
        n_seen = len(seen)
        np.testing.assert_allclose(fit.x, again.refit(Whole((9,))).x)
        assert len(seen) == n_seen + 1  # the new objective's own
    assert len(seen) == 4
    assert f.ridge == 0.0
    for ids in itertools.combinations(range(9), 7):
        ids = np.array(ids)
        np.testing.assert_allclose(f.products(ids), A[:, ids] @ A[:, ids].T)


def test_columns_in_several_chunks(monkeypatch):
    A, center, _, _ = problem(0, 3, 10)
    expected = Fisher(A, center, ridge=0.1).refit(Whole((10,))).x
    monkeypatch.setattr("vitalfew.objectives.fisher.CHUNK", 12)  # four columns
    found = Fisher(A, center, ridge=0.1).refit(Whole((10,))).x
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_single_precision_at_odd_scales(scale):
    A, center, _, _ = problem(0, 5, 30, scale=scale)
    ridge = 1e-3 * scale**2
    f = Fisher(A.astype(np.float32), center.astype(np.float32), ridge=ridge)
    exact = Fisher(A, center, ridge=ridge)
    ids = np.arange(0, 30, 2)
    span = Cardinality(15).on((30,)).support(ids)
    fit, sure = f.refit(span), exact.refit(span)
    np.testing.assert_allclose(fit.x, sure.x, atol=1e-4 * np.abs(sure.x).max())


def test_zero_gradients_and_equal_columns():
    f = Fisher(np.zeros((3, 5)), np.arange(5.0), 2.0, ridge=0.1)
    fit = f.refit(Cardinality(2).on((5,)).support([1, 4]))
    np.testing.assert_allclose(fit.x, [0, 1, 0, 0, 4])
    A = np.repeat(problem(0, 4, 1)[0], 3, axis=1)
    for n in (2, 4):
        f = Fisher(A[:n], np.ones(3))
        np.testing.assert_allclose(f.refit(Whole((3,))).gradient, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"A": np.full((2, 3), np.nan)}, "A must be finite"),
        ({"A": np.zeros(3)}, "two dimensions"),
        ({"center": np.zeros(2)}, "center must have shape"),
        ({"center": np.array([0, np.inf, 0])}, "center must be finite"),
        ({"value": np.nan}, "value and slope"),
        ({"slope": np.inf}, "value and slope"),
        ({"ridge": -1.0}, "ridge"),
    ],
)
def test_what_it_refuses(change, named):
    given = {"A": np.ones((2, 3)), "center": np.zeros(3)} | change
    with pytest.raises(ValueError, match=named):
        Fisher(**given)


def test_a_ridge_of_another_shape_is_refused():
    f = Fisher(np.ones((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="shape of x"):
        f.with_ridge(np.ones(2))
    with pytest.raises(ValueError, match="ridge"):
        f.damped(float("nan"))
