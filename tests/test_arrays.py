"""What the array API standard lacks, on every library."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.backends import BACKENDS, Backend
from vitalfew import _arrays
from vitalfew._arrays import (
    as_array,
    columns,
    eye,
    precision,
    put,
    rows,
    segment_sum,
    solve_posdef,
    take,
    to_host,
    top,
    zeros,
)

numbers = st.floats(-100, 100)
scores = hnp.arrays(np.float64, st.integers(0, 30), elements=st.integers(-3, 3))


@given(scores, st.integers(-1, 40))
def test_top_is_a_stable_sort(values, count):
    expected = np.argsort(-values, kind="stable")[: max(count, 0)]
    np.testing.assert_array_equal(top(values, count), expected)


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(allow_nan=False)))
def test_top_with_infinities(values):
    for count in (1, 2, len(values)):
        expected = np.argsort(-values, kind="stable")[:count]
        np.testing.assert_array_equal(top(values, count), expected)


@pytest.mark.parametrize("name", BACKENDS)
@given(data=st.data())
def test_segment_sum(name, data):
    backend = Backend.load(name)
    n, count = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 5))
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, count - 1)))
    shape = data.draw(st.sampled_from([(n,), (n, 3)]))
    host = data.draw(hnp.arrays(np.float64, shape, elements=numbers))
    values = backend.array(host)
    sums = segment_sum(values, labels, count)
    expected = np.zeros((count, *shape[1:]))
    np.add.at(expected, labels, host)
    assert type(sums) is type(values)
    # sums of at most 20 numbers of at most 100
    np.testing.assert_allclose(to_host(sums), expected, atol=1e-11)


def test_gather_and_scatter(backend, dtype, rng):
    host = rng.standard_normal((5, 4)).astype(dtype)
    x, ids = backend.array(host), np.array([3, 0, 3])
    np.testing.assert_array_equal(to_host(take(x, ids)), host.ravel()[ids])
    np.testing.assert_array_equal(to_host(rows(x, ids)), host[ids])
    np.testing.assert_array_equal(to_host(columns(x, ids)), host[:, ids])
    flat = backend.array(host[:, 0])
    np.testing.assert_array_equal(to_host(rows(flat, ids)), host[ids, 0])
    for values in (x[:2, 0], x[:2, :]):
        out = put(6, np.array([4, 1]), values)
        assert type(out) is type(x)
        assert out.dtype == x.dtype
        expected = np.zeros((6, *values.shape[1:]), dtype)
        expected[[4, 1]] = to_host(values)
        np.testing.assert_array_equal(to_host(out), expected)
    none = np.empty(0, np.int64)
    assert tuple(rows(x, none).shape) == (0, 4)
    assert not to_host(put(3, none, x[:0, 0])).any()


def test_conversions_keep_library_and_dtype(backend, dtype, rng):
    like = backend.array([1.0], dtype)
    sources = [
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2]),
        np.array([1.0, 2.0], np.float32),
        backend.array([1, 2]),
        backend.array([1.0, 2.0], "float64"),
        Backend.load("torch").array([1.0, 2.0], "float32"),
    ]
    for source in sources:
        made = as_array(source, like)
        assert type(made) is type(like)
        assert made.dtype == like.dtype
        np.testing.assert_array_equal(to_host(made), [1.0, 2.0])
    assert zeros((2, 3), like).dtype == like.dtype
    assert to_host(eye(3, like)).tolist() == np.eye(3).tolist()
    assert precision(like) == np.finfo(dtype).eps
    assert _arrays.itemsize(like) == np.dtype(dtype).itemsize


def test_tensors_that_need_gradients_are_read():
    torch = pytest.importorskip("torch")
    x = torch.ones(3, requires_grad=True)
    np.testing.assert_array_equal(to_host(x), np.ones(3))


# -- positive definite solves ----------------------------------------------------------


def gram(rng, n, k, dtype="float64"):
    A = rng.standard_normal((n, k))
    return (A.T @ A / n).astype(dtype)


def test_solve_posdef_solves(backend, dtype, rng):
    G, b = gram(rng, 40, 6), rng.standard_normal((6, 2))
    for right in (b, b[:, 0]):
        z = solve_posdef(backend.array(G, dtype), backend.array(right, dtype))
        assert tuple(z.shape) == right.shape
        assert type(z) is type(backend.array(G))
        rough = 1e-12 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(G @ to_host(z), right, atol=rough)


def test_solve_posdef_of_nothing(backend):
    b = backend.array(np.zeros((0, 2)))
    assert tuple(solve_posdef(backend.array(np.zeros((0, 0))), b).shape) == (0, 2)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_solve_posdef_of_deficient_rank(rank, backend, dtype, rng):
    """A solution where one exists, and of a size that rounding did not make up."""
    A = rng.standard_normal((40, rank)) @ rng.standard_normal((rank, 6))
    G, true = A.T @ A / 40, rng.standard_normal(6)
    b = G @ true
    z = to_host(solve_posdef(backend.array(G, dtype), backend.array(b, dtype)))
    assert np.all(np.isfinite(z))
    # the spectrum is cut at 60 eps of it
    rough = 1e-9 if dtype == "float64" else 1e-2
    np.testing.assert_allclose(G @ z, b, atol=rough * (1 + np.abs(G).max()))
    assert np.linalg.norm(z) < 1e3


def test_solve_posdef_of_equal_columns(backend, dtype, rng):
    A = rng.standard_normal((40, 3))
    A = np.concatenate((A, A[:, :1], 2 * A[:, 1:2], np.zeros((40, 1))), axis=1)
    G, b = A.T @ A / 40, A.T @ rng.standard_normal(40) / 40
    z = to_host(solve_posdef(backend.array(G, dtype), backend.array(b, dtype)))
    rough = 1e-10 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(G @ z, b, atol=rough)
    assert z[0] == pytest.approx(z[3], abs=rough)  # least norm shares equally
    assert z[5] == 0
    assert np.abs(z).max() < 100


def test_solve_posdef_does_not_mind_units(backend, rng):
    G, b = gram(rng, 40, 6), rng.standard_normal(6)
    expected = np.linalg.solve(G, b)
    # a column 1 / eps times smaller than the largest counts as empty
    units = 10.0 ** np.array([-7, 0, 7, -3, 5, 1])
    scaled = solve_posdef(
        backend.array(G * units[:, None] * units), backend.array(b * units)
    )
    np.testing.assert_allclose(to_host(scaled) * units, expected, rtol=1e-9)


def test_solve_posdef_passes_nan_on(backend):
    G = backend.array([[1.0, np.nan], [np.nan, 1.0]])
    assert np.isnan(to_host(solve_posdef(G, backend.array([1.0, 1.0])))).all()


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8))
def test_solve_posdef_minimises_the_quadratic(seed, n, k):
    """Any rank: no other point is lower."""
    rng = np.random.default_rng(seed)
    A, y = rng.standard_normal((n, k)), rng.standard_normal(n)
    z = solve_posdef(A.T @ A, A.T @ y)
    best = np.linalg.lstsq(A, y, rcond=None)[0]
    residual = np.sum((y - A @ z) ** 2)
    # the cut of the spectrum at 1e-14 costs that much of y, squared lengths near n
    assert residual <= np.sum((y - A @ best) ** 2) + 1e-7 * n
